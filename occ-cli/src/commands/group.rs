//! Commands over many hosts: which those are, so many of them at a time, and how it went in all.

use std::future::Future;
use std::io;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use occ_proto::error::Code;
use occ_proto::status::{HostList, HostStatus};
use occ_proto::text::{sanitize, sanitize_short};
use occ_proto::{GroupName, HostName};
use tokio::sync::watch;

use super::Context;
use super::exec_run::{Caught, NOT_STARTED, Signals, quiet};
use crate::client::Client;
use crate::error::{CliError, FAILED, NOT_FOUND};
use crate::hint::is_closed;
use crate::output::fold::names;
use crate::output::host::status_hint;
use crate::output::{Ui, json, problem};
use crate::prompter;

/// How many hosts are worked on at once, unless `--parallel` says otherwise: what one terminal and the daemon's
/// sixteen dials at once keep up with.
const PARALLEL: usize = 32;
/// When a person is shown how far it is, and how often that is looked at.
const PATIENCE: Duration = Duration::from_millis(300);
/// The word for what a signal ended.
pub(crate) const INTERRUPTED: &str = "interrupted";
/// The word for hosts.json without hosts.
const NO_HOSTS: &str = "no_hosts";
/// The longest cause in a summary, in characters.
const CAUSE: usize = 100;

/// Which hosts are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Selection {
    /// Those of a group.
    Group(String),
    /// All that hosts.json lists.
    All,
}

impl Selection {
    /// Returns the options that say so.
    pub(crate) fn option(&self) -> String {
        match self {
            Self::Group(name) => format!("--group {}", sanitize(name)),
            Self::All => "--all".to_owned(),
        }
    }

    /// Leaves only those hosts in the list that are meant.
    ///
    /// # Errors
    /// When there is no such group.
    pub(crate) fn narrow(&self, list: &mut HostList) -> Result<(), CliError> {
        let Self::Group(name) = self else { return Ok(()) };
        let is_in =
            |host: &HostStatus| host.config.groups.iter().any(|group| group.as_str() == name);
        if !list.hosts.iter().any(is_in) {
            return Err(no_group(name, list));
        }
        // One that is not in the group is nothing to tell; one that does not exist is.
        list.default_host
            .take_if(|default| list.hosts.iter().any(|host| host.name == *default && !is_in(host)));
        list.hosts.retain(is_in);
        list.via.clear();
        Ok(())
    }
}

fn no_group(name: &str, list: &HostList) -> CliError {
    let mut groups: Vec<&GroupName> =
        list.hosts.iter().flat_map(|host| &host.config.groups).collect();
    groups.sort();
    groups.dedup();
    let hint = match groups.is_empty() {
        true => "occ host edit NAME --add-group GROUP makes one".to_owned(),
        // A group may have blanks in its name.
        false => format!("the groups are {}", sanitize(&names(&groups, ", "))),
    };
    let error = CliError::failed(format!("No host is in a group '{}'.", sanitize(name)));
    CliError { exit: NOT_FOUND, code: "group_not_found".to_owned(), ..error }.hint(hint)
}

/// The hosts of `--group` or `--all`.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) client: Client,
    pub(crate) selection: Selection,
    /// As they were when the command began.
    pub(crate) statuses: Vec<HostStatus>,
    pub(crate) hosts: Vec<HostName>,
    pub(crate) parallel: usize,
}

impl Context<'_> {
    /// Returns the hosts of `--group` or `--all`; nothing where one host is meant.
    pub(crate) async fn group(&self) -> Result<Option<Group>, CliError> {
        let Some(selection) = self.selection.clone() else { return Ok(None) };
        let client = self.client().await?;
        let mut list: HostList = client.get("/v1/hosts").await?.parse()?;
        list.warnings.iter().for_each(|warning| self.ui.warn(warning));
        selection.narrow(&mut list)?;
        if list.hosts.is_empty() {
            let error =
                CliError::failed("No hosts configured.").hint("occ host add NAME USER@ADDRESS");
            return Err(CliError { exit: NOT_FOUND, code: NO_HOSTS.to_owned(), ..error });
        }
        let hosts = list.hosts.iter().map(|host| host.name.clone()).collect();
        let parallel = self.parallel.unwrap_or(PARALLEL);
        Ok(Some(Group { client, selection, statuses: list.hosts, hosts, parallel }))
    }

    /// The same where no hosts at all are no error.
    pub(crate) async fn group_if_any(&self) -> Result<Option<Group>, CliError> {
        match self.group().await {
            Err(error) if error.code == NO_HOSTS => Ok(None),
            group => group,
        }
    }
}

/// How a host's part ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    Ok,
    /// In so few words.
    Failed(String),
    /// It was under way when a signal came.
    Interrupted,
}

/// What a signal means to what is under way.
pub(crate) enum OnSignal {
    /// It is told, and waited for.
    Tell(watch::Sender<Option<Caught>>),
    /// It is left.
    Leave,
}

/// How it went.
#[derive(Debug, Default)]
pub(crate) struct Done {
    /// In the order of the hosts.
    pub(crate) ends: Vec<(HostName, End)>,
    /// What was begun and then left, and the operation there that goes on.
    pub(crate) left: Vec<(HostName, Option<String>)>,
    pub(crate) untouched: Vec<HostName>,
    pub(crate) caught: Option<Caught>,
}

impl Group {
    /// Works on all hosts of the group, so many at once. An error ends it all.
    pub(crate) async fn each<F>(
        &self,
        ui: &Ui,
        on_signal: OnSignal,
        work: impl Fn(HostName) -> F,
    ) -> Result<Done, CliError>
    where
        F: Future<Output = Result<End, CliError>>,
    {
        let mut signals = Signals::catch()?;
        self.each_of(ui, &self.hosts, &mut signals, on_signal, work).await
    }

    /// The same with some of them, for a caller who has more to do until a signal comes.
    pub(crate) async fn each_of<F>(
        &self,
        ui: &Ui,
        hosts: &[HostName],
        signals: &mut Signals,
        on_signal: OnSignal,
        work: impl Fn(HostName) -> F,
    ) -> Result<Done, CliError>
    where
        F: Future<Output = Result<End, CliError>>,
    {
        enum Event {
            Ended(HostName, Result<End, CliError>),
            Caught(Caught),
            Unanswered(CliError),
            Tick,
        }
        let mut answering =
            Some(Box::pin(prompter::listening(&self.client, std::future::pending())));
        let mut tick = tokio::time::interval(PATIENCE);
        // The first one comes at once.
        tick.tick().await;
        let mut waiting = hosts.iter();
        let mut running = FuturesUnordered::new();
        let mut done = Done::default();
        let mut under_way: Vec<HostName> = Vec::new();
        loop {
            while done.caught.is_none() && running.len() < self.parallel {
                let Some(host) = waiting.next() else { break };
                let part = work(host.clone());
                under_way.push(host.clone());
                running.push(async move { (host.clone(), part.await) });
            }
            let event = tokio::select! {
                biased;
                caught = signals.next() => Event::Caught(caught),
                ended = running.next() => match ended {
                    Some((host, end)) => Event::Ended(host, end),
                    None => break,
                },
                error = async {
                    match &mut answering {
                        Some(answering) => answering.await,
                        None => std::future::pending().await,
                    }
                } => Event::Unanswered(error),
                _ = tick.tick() => Event::Tick,
            };
            match event {
                Event::Ended(host, end) => {
                    under_way.retain(|other| *other != host);
                    done.ends.push((host, end?));
                }
                Event::Unanswered(error) => return Err(error),
                Event::Caught(Caught::HangUp) => return Err(quiet(Caught::HangUp.exit())),
                Event::Caught(caught) => {
                    done.caught = Some(caught);
                    // A question that stands there is withdrawn.
                    answering = None;
                    match &on_signal {
                        OnSignal::Tell(tell) => drop(tell.send_replace(Some(caught))),
                        OnSignal::Leave => break,
                    }
                }
                Event::Tick => {
                    if hosts.len() > 1 {
                        ui.show_progress(&format!("{} of {} …", done.ends.len(), hosts.len()));
                    }
                }
            }
        }
        ui.clear_progress();
        done.left = under_way.iter().map(|host| (host.clone(), None)).collect();
        done.ends.extend(under_way.into_iter().map(|host| (host, End::Interrupted)));
        done.ends.sort_by_key(|(host, _)| hosts.iter().position(|other| other == host));
        done.untouched.extend(waiting.cloned());
        Ok(done)
    }

    /// Says why a host's part failed: on standard error, or with `--json` as its document. Returns how it ended.
    pub(crate) fn failed(
        &self,
        ui: &Ui,
        host: &HostName,
        error: &CliError,
    ) -> Result<End, CliError> {
        // The reader of our output is gone, for all of them.
        if error.is_quiet() {
            return Err(quiet(error.exit));
        }
        if ui.json {
            ui.print(&json::line(&failure(host, error)))?;
        } else {
            ui.complain(&self.sentences(host, error));
        }
        Ok(End::Failed(cause(host, error)))
    }

    /// Returns what is said of a host's failure.
    pub(crate) fn sentences(&self, host: &HostName, error: &CliError) -> String {
        let own = format!("{host}: ");
        let message = error.message.strip_prefix(&own).unwrap_or(&error.message);
        let mut text = format!("[{host}] Error: {message}\n");
        let status = self.statuses.iter().find(|status| status.name == *host);
        let of_hop = error.problem.as_ref().is_some_and(|problem| problem.hop.is_some());
        let hint = match (status, error.daemon_code()) {
            (Some(status), Some(code)) if !of_hop => status_hint(status, code, &error.message),
            _ => None,
        };
        if let Some(hint) = hint.as_ref().or(error.hint.as_ref()) {
            text.push_str(&format!("[{host}] hint: {hint}\n"));
        }
        text
    }

    /// Asks, once for all, whether to go on with what cannot be undone.
    pub(crate) async fn confirmed(
        &self,
        ui: &Ui,
        (verb, what): (&str, &str),
        yes: bool,
    ) -> Result<bool, CliError> {
        /// As many names as a question can hold.
        const SOME: usize = 5;
        if yes {
            return Ok(true);
        }
        let count = self.hosts.len();
        let plural = if count == 1 { "" } else { "s" };
        if !ui.can_ask() {
            let error = CliError::usage(format!(
                "occ {verb} on {count} host{plural} needs a confirmation, and nobody can be asked."
            ));
            return Err(error.hint(format!("occ {verb} {} --yes", self.selection.option())));
        }
        let mut some: Vec<&str> = self.hosts.iter().take(SOME).map(HostName::as_str).collect();
        if count > SOME {
            some.push("…");
        }
        let yes = ui.ask(&format!("{what} on {count} host{plural} ({})?", some.join(", "))).await?;
        if !yes {
            ui.say("Cancelled.")?;
        }
        Ok(yes)
    }
}

impl Done {
    /// Returns those that failed, and why.
    pub(crate) fn failures(&self) -> impl Iterator<Item = (&HostName, &str)> {
        self.ends.iter().filter_map(|(host, end)| match end {
            End::Failed(why) => Some((host, why.as_str())),
            End::Ok | End::Interrupted => None,
        })
    }

    /// Adds how it went with more of these hosts.
    pub(crate) fn add(&mut self, other: Self, hosts: &[HostName]) {
        self.ends.extend(other.ends);
        self.ends.sort_by_key(|(host, _)| hosts.iter().position(|other| other == host));
        self.left.extend(other.left);
        self.untouched.extend(other.untouched);
        self.caught = self.caught.or(other.caught);
    }

    /// Returns the exit code.
    pub(crate) fn code(&self) -> u8 {
        match self.caught {
            Some(caught) => caught.exit(),
            None if self.ends.iter().all(|(_, end)| *end == End::Ok) => 0,
            None => FAILED,
        }
    }

    /// Says how it went in all, and returns the exit code.
    pub(crate) fn conclude(&self, ui: &Ui) -> Result<u8, CliError> {
        match ui.json {
            true => self.documents(ui)?,
            false => ui.note(&self.summary()),
        }
        Ok(self.code())
    }

    /// Prints documents about the hosts that have none of their own, so that each has one.
    pub(crate) fn documents(&self, ui: &Ui) -> Result<(), CliError> {
        for (host, operation) in &self.left {
            let mut document = serde_json::json!({ "host": host, "interrupted": true });
            if let (Some(id), Some(keys)) = (operation, document.as_object_mut()) {
                keys.insert("operation".to_owned(), id.as_str().into());
            }
            ui.print(&json::line(&document.to_string()))?;
        }
        for host in &self.untouched {
            let document = serde_json::json!({ "host": host, "untouched": true });
            ui.print(&json::line(&document.to_string()))?;
        }
        Ok(())
    }

    /// Returns `57 ok, 2 failed: eu-03 (every key refused), eu-22 (exit 3)`.
    fn summary(&self) -> String {
        let count = |end: &End| self.ends.iter().filter(|(_, other)| other == end).count();
        let mut parts = vec![format!("{} ok", count(&End::Ok))];
        let interrupted = count(&End::Interrupted);
        if interrupted > 0 {
            parts.push(format!("{interrupted} interrupted"));
        }
        if !self.untouched.is_empty() {
            parts.push(format!("{} not begun", self.untouched.len()));
        }
        let failures: Vec<String> =
            self.failures().map(|(host, why)| format!("{host} ({why})")).collect();
        if !failures.is_empty() {
            parts.push(format!("{} failed: {}", failures.len(), failures.join(", ")));
        }
        parts.join(", ")
    }
}

/// Returns a document with the host's name in it: the daemon's own keys, in their order.
pub(crate) fn of_host(host: &HostName, document: &[u8]) -> String {
    let text = String::from_utf8_lossy(document.trim_ascii());
    let rest = text.strip_prefix('{').unwrap_or("}").trim_start();
    let comma = if rest.starts_with('}') { "" } else { "," };
    json::line(&format!("{{\"host\":{}{comma}{rest}", serde_json::json!(host)))
}

/// Returns the document of a host's failure.
pub(crate) fn failure(host: &HostName, error: &CliError) -> String {
    format!("{{\"host\":{},\"problem\":{}}}", serde_json::json!(host), problem::json(error))
}

/// Returns why something failed in a few words, the same for all hosts to which the same happened.
pub(crate) fn cause(host: &HostName, error: &CliError) -> String {
    let hop = error.problem.as_ref().and_then(|problem| problem.hop.as_ref());
    let text = error.message.strip_prefix(&format!("{host}: ")).unwrap_or(&error.message);
    let text = text.trim_end().trim_end_matches(NOT_STARTED.trim_start()).trim_end();
    let text = text.trim_end_matches('.');
    let innermost = || {
        let last = text.rsplit(": ").next().unwrap_or(text);
        last.split(" (os error ").next().unwrap_or(last)
    };
    let short = match error.daemon_code() {
        _ if error.code == INTERRUPTED => "interrupted",
        _ if error.code == Code::OutcomeUnknown.as_str() => "outcome unknown, it may still run",
        Some(Code::AuthFailed) if error.message.contains(": is the account ") => {
            "account locked or expired"
        }
        Some(Code::AuthFailed) if is_closed(&error.message) => "no way to log in",
        Some(Code::AuthFailed) => "every key refused",
        Some(Code::AgentRefused) => "the ssh-agent did not sign",
        Some(Code::LoginRefused) => "login refused",
        Some(Code::HostKeyChanged) => "host key changed",
        Some(Code::HostKeyUnknown) => "host key not known",
        Some(Code::HostStopped) => "disconnected on request",
        Some(Code::KeyLocked | Code::InputNeeded) => "a login needs an answer",
        Some(Code::NoIdentity) => "no key to log in with",
        Some(Code::HostUnreachable) => innermost(),
        _ => text,
    };
    match hop {
        Some(hop) => sanitize_short(&format!("jump host {hop}: {short}"), CAUSE),
        None => sanitize_short(short, CAUSE),
    }
}

/// Returns an error for our own streams.
pub(crate) fn streams(error: &io::Error) -> CliError {
    match error.kind() {
        io::ErrorKind::BrokenPipe => CliError::closed_pipe(),
        _ => CliError::failed(format!("the output cannot be written: {error}")),
    }
}

//! `occ connect`, `disconnect`, `reconnect`.

use std::cell::RefCell;

use hyper::Method;
use jiff::Timestamp;
use occ_proto::HostName;
use occ_proto::error::Code;
use occ_proto::status::HostStatus;

use super::Context;
use super::exec_run::Signals;
use super::group::{End, Group, OnSignal, of_host};
use crate::client::host_path;
use crate::error::CliError;
use crate::output::{host as show, with_note};

/// What to do with the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Connect {
        /// How long to wait for a host that is down, in place of a few dials.
        wait_ms: Option<u64>,
    },
    Disconnect,
    Reconnect,
}

impl Verb {
    fn word(self) -> &'static str {
        match self {
            Self::Connect { .. } => "connect",
            Self::Disconnect => "disconnect",
            Self::Reconnect => "reconnect",
        }
    }
}

/// Runs the command and returns its exit code.
pub(crate) async fn run(context: &Context<'_>, verb: Verb) -> Result<u8, CliError> {
    let asked = Timestamp::now();
    if let Some(group) = context.group().await? {
        return many(context, verb, &group).await;
    }
    let (client, host, source) = context.client_and_host(verb.word()).await?;
    let query = match verb {
        Verb::Connect { wait_ms: Some(ms) } => format!("?wait_ms={ms}"),
        _ => String::new(),
    };
    let path = host_path(&host, &format!("/{}{query}", verb.word()));
    let note = format!("[{host}] {}ing …", verb.word());
    let reply = match with_note(context.ui, &note, client.post(&path)).await {
        Ok(reply) => reply,
        Err(error) => return Err(super::explain(context, &client, &host, source, error).await),
    };
    match context.ui.json {
        true => context.ui.document(&reply.body)?,
        false => tell(context, &reply.parse()?, asked)?,
    }
    Ok(0)
}

/// Shows what has become of a host.
fn tell(context: &Context<'_>, status: &HostStatus, asked: Timestamp) -> Result<(), CliError> {
    show::tell_host_key_since(context.ui, status, asked);
    if let Some(line) = show::not_kept_since(status, asked) {
        context.ui.note(&line);
    }
    context.ui.say(&show::link(context.ui, status, Timestamp::now(), true))
}

/// Does the same with each host of a group.
async fn many(context: &Context<'_>, verb: Verb, group: &Group) -> Result<u8, CliError> {
    let (ui, asked) = (context.ui, Timestamp::now());
    let query = match verb {
        Verb::Connect { wait_ms: Some(ms) } => format!("?wait_ms={ms}"),
        Verb::Connect { .. } | Verb::Reconnect => "?retries=0".to_owned(),
        Verb::Disconnect => String::new(),
    };
    let query = query.as_str();
    let later = RefCell::new(Vec::new());
    let work = |host: HostName, is_last: bool| {
        let later = &later;
        async move {
            let path = host_path(&host, &format!("/{}{query}", verb.word()));
            let done = async {
                let reply = group.client.request_among(Method::POST, &path, None::<&()>).await?;
                match ui.json {
                    true => ui.print(&of_host(&host, &reply.body)),
                    false => tell(context, &reply.parse()?, asked),
                }
            };
            match done.await {
                Ok(()) => Ok(End::Ok),
                Err(error) if !is_last && waits_for(group, &error) => {
                    later.borrow_mut().push(host);
                    Ok(End::Interrupted)
                }
                Err(error) => group.failed(ui, &host, &error),
            }
        }
    };
    let mut signals = Signals::catch()?;
    let first =
        group.each_of(ui, &group.hosts, &mut signals, OnSignal::Leave, |host| work(host, false));
    let mut done = first.await?;
    let later = later.take();
    done.ends.retain(|(host, _)| !later.contains(host));
    if done.caught.is_some() {
        done.untouched.extend(later);
    } else {
        let second =
            group.each_of(ui, &later, &mut signals, OnSignal::Leave, |host| work(host, true));
        done.add(second.await?, &group.hosts);
    }
    done.conclude(ui)
}

/// Returns whether a host failed only because the turn of its jump host, which is one of the group, had not come.
fn waits_for(group: &Group, error: &CliError) -> bool {
    let hop = error.problem.as_ref().and_then(|problem| problem.hop.as_ref());
    error.daemon_code() == Some(Code::HostStopped)
        && hop.is_some_and(|hop| group.hosts.contains(hop))
}

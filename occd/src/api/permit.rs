//! Decisions about what the body or the path of a request asks for: commands, files, sessions, forwards.

use std::collections::BTreeMap;
use std::time::Duration;

use occ_proto::exec::{Bytes, ExecRequest};
use occ_proto::files::is_unfinished;
use occ_proto::policy::Action;
use occ_proto::session::SessionHost;
use tokio::time::timeout;

use super::App;
use super::error::{self, ApiError, ApiResult};
use super::files;
use crate::config::Feature;
use crate::exec::Executor;
use crate::files::{FileError, FileSystem, checked, join};
use crate::host::Tries;
use crate::policy::{self, Asker, Decision, Denied, Exec, Told, is_below};
use crate::prompts::Client;

/// Whoever asks, and what they can give meanwhile.
pub(super) type By<'a> = (&'a Asker, &'a Client);

/// Nobody is told.
pub(super) const QUIETLY: Told<'static> = &|_, _| {};

/// What is to be run.
pub(super) struct Line<'a> {
    pub(super) argv: &'a [Bytes],
    pub(super) shell: Option<&'a str>,
    pub(super) env: &'a BTreeMap<String, String>,
}

impl Line<'_> {
    /// Has `decide` see it as policies do: a line for a shell is a shell with a line.
    pub(super) fn with<T>(&self, decide: impl FnOnce(&policy::Request<'_>) -> T) -> T {
        let argv: Vec<&[u8]> = match self.shell {
            Some(line) => vec![b"sh", b"-c", line.as_bytes()],
            None => self.argv.iter().map(|arg| arg.0.as_slice()).collect(),
        };
        let env: Vec<&str> = self.env.keys().map(String::as_str).collect();
        decide(&policy::Request::Exec(Exec { argv: &argv, env: &env }))
    }

    /// Returns it for people.
    pub(super) fn text(&self) -> String {
        match (self.shell, self.argv) {
            (Some(line), _) => format!("sh -c {line:?}"),
            (None, []) => "a shell".to_owned(),
            (None, argv) => {
                let words = argv.iter().map(|arg| word(&String::from_utf8_lossy(&arg.0)));
                words.collect::<Vec<_>>().join(" ")
            }
        }
    }
}

/// Returns an argument so that its ends show.
fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text.to_owned() } else { format!("{text:?}") }
}

/// Returns the place that an executor works at.
pub(super) fn place_of(executor: &Executor) -> SessionHost {
    executor.host().map_or(SessionHost::Local, |host| SessionHost::Host(host.clone()))
}

fn outside(root: &str, shown: &str) -> Denied {
    Denied::Policy(format!("root = {root:?}: {shown} is not below it"))
}

impl App {
    /// Returns a command that may be run, in a directory where it may.
    pub(super) async fn permit_exec(
        &self,
        by: By<'_>,
        executor: &Executor,
        mut request: ExecRequest,
        told: Told<'_>,
    ) -> ApiResult<ExecRequest> {
        let place = place_of(executor);
        if !self.guard.restricts(by.0, &place) {
            return Ok(request);
        }
        if request.tty.is_some() || (request.argv.is_empty() && request.shell.is_none()) {
            let allowed = self.guard.check_feature(Feature::Shell);
            allowed.map_err(|why| error::denied(&place, &why))?;
        }
        let tries = Tries::of(request.retries, request.wait_ms);
        let directory = match &place {
            SessionHost::Host(host) => self.directory(host, request.here.as_deref()),
            SessionHost::Local => None,
        };
        let line = Line { argv: &request.argv, shell: request.shell.as_deref(), env: &request.env };
        let cwd = request.cwd.clone().or(directory);
        let within = request.timeout_ms.map(Duration::from_millis);
        let cwd = self.permit_line(by, executor, &line, cwd, (tries, within), told).await?;
        request.cwd = cwd;
        Ok(request)
    }

    /// Permits a command, and returns the directory that it is to run in.
    pub(super) async fn permit_line(
        &self,
        by: By<'_>,
        executor: &Executor,
        line: &Line<'_>,
        cwd: Option<String>,
        (tries, within): (Tries, Option<Duration>),
        told: Told<'_>,
    ) -> ApiResult<Option<String>> {
        let place = place_of(executor);
        let decision = line.with(|request| self.guard.decide(by.0, &place, request));
        if decision.action == Action::Deny {
            return Err(error::denied(&place, &Denied::Policy(decision.why)));
        }
        let cwd = self.directory_below(by, executor, cwd, tries).await?;
        if decision.action == Action::Ask {
            let mut text = line.text();
            if let Some(cwd) = &cwd {
                text.push_str(&format!(" (in {cwd})"));
            }
            let why = decision.why.clone();
            let asked = self.guard.ask(by, &place, decision.why, &text, told);
            // Whoever wants an end of the command by then waits for no answer longer than that.
            let asked = timeout(within.unwrap_or(Duration::MAX), asked).await;
            let asked = asked.unwrap_or(Err(Denied::Unanswered(why)));
            asked.map_err(|denied| error::denied(&place, &denied))?;
        }
        Ok(cwd)
    }

    /// Returns the directory for a command: the one that was asked for as the host resolves it, if it is below the
    /// root; the root unless one was asked for.
    pub(super) async fn directory_below(
        &self,
        by: By<'_>,
        executor: &Executor,
        cwd: Option<String>,
        tries: Tries,
    ) -> ApiResult<Option<String>> {
        let place = place_of(executor);
        let roots = self.guard.roots(by.0, &place);
        let Some(first) = roots.first() else { return Ok(cwd) };
        let wanted = match cwd {
            None => first.clone(),
            // Where a command runs that names none, as an absolute one does.
            Some(cwd) if !cwd.starts_with('/') && cwd != "~" && !cwd.starts_with("~/") => {
                format!("{}/{cwd}", first.trim_end_matches('/'))
            }
            Some(cwd) => cwd,
        };
        let failed = |error| files::problem(executor, &error);
        let path = checked(wanted.as_bytes()).map_err(failed)?;
        let fs = self.files.of(executor, tries, by.1).await.map_err(failed)?;
        let real = self.below(by.0, &fs, executor, &roots, &path, true).await?;
        String::from_utf8(real).map(Some).map_err(|_| {
            ApiError::bad_request("The directory's name, without links, is not UTF-8.")
        })
    }

    /// Returns the path of a file that may be read or written, without links where there is a root.
    pub(super) async fn permit_file(
        &self,
        by: By<'_>,
        executor: &Executor,
        fs: &FileSystem,
        path: &[u8],
        (writes, follow): (bool, bool),
    ) -> ApiResult<Vec<u8>> {
        let place = place_of(executor);
        if !self.guard.restricts(by.0, &place) {
            return Ok(path.to_vec());
        }
        let roots = self.guard.roots(by.0, &place);
        let request = if writes { policy::Request::Write } else { policy::Request::Read };
        let decision = self.guard.decide(by.0, &place, &request);
        if decision.action == Action::Deny {
            return Err(error::denied(&place, &Denied::Policy(decision.why)));
        }
        let path = match roots.is_empty() {
            true => path.to_vec(),
            false => self.below(by.0, fs, executor, &roots, path, follow).await?,
        };
        if decision.action == Action::Ask {
            let verb = if writes { "change" } else { "read" };
            let text = format!("{verb} the file {}", word(&String::from_utf8_lossy(&path)));
            let asked = self.guard.ask(by, &place, decision.why, &text, QUIETLY).await;
            asked.map_err(|denied| error::denied(&place, &denied))?;
        }
        Ok(path)
    }

    /// Refuses to change a root itself, of which only what is below it was given: its name is of the directory above it, and its
    /// permissions decide who else gets in. `path` is as [`App::permit_file`] has it.
    pub(super) async fn keep_roots(
        &self,
        by: By<'_>,
        executor: &Executor,
        fs: &FileSystem,
        path: &[u8],
    ) -> ApiResult<()> {
        let place = place_of(executor);
        for root in self.guard.roots(by.0, &place) {
            let top = policy::resolve(fs, root.as_bytes(), true).await;
            let top = top.map_err(|error| files::problem(executor, &error))?;
            if top.as_deref() == Some(path) {
                let shown = String::from_utf8_lossy(path);
                return Err(error::denied(&place, &outside(&root, &shown)));
            }
        }
        Ok(())
    }

    /// Refuses a path that leads elsewhere now than when [`App::permit_file`] returned it.
    pub(super) async fn leads_there(
        &self,
        by: By<'_>,
        executor: &Executor,
        fs: &FileSystem,
        path: &[u8],
    ) -> ApiResult<()> {
        let place = place_of(executor);
        let Some(root) = self.guard.roots(by.0, &place).into_iter().next() else {
            return Ok(());
        };
        let real = policy::resolve(fs, path, true).await;
        if real.map_err(|error| files::problem(executor, &error))?.as_deref() == Some(path) {
            return Ok(());
        }
        let shown = String::from_utf8_lossy(path);
        Err(error::denied(&place, &outside(&root, &shown)))
    }

    /// Returns a path as the host resolves it, if it is below all the roots.
    async fn below(
        &self,
        asker: &Asker,
        fs: &FileSystem,
        executor: &Executor,
        roots: &[String],
        path: &[u8],
        follow: bool,
    ) -> ApiResult<Vec<u8>> {
        let place = place_of(executor);
        let failed = |error: FileError| files::problem(executor, &error);
        let shown = String::from_utf8_lossy(path).into_owned();
        // That of a grant was resolved when it was made: whoever may write above it may have put a link there since.
        let of_grant = asker.grant.as_ref().and_then(|grant| grant.policy.root.as_deref());
        // Whether it is there or not, what is outside by its name is not looked for.
        if let Some(root) = of_grant {
            let whole = match path.starts_with(b"/") {
                true => path.to_vec(),
                false => join(&fs.real_path(b".").await.map_err(failed)?, path),
            };
            if policy::names_outside(root.as_bytes(), &whole) {
                return Err(error::denied(&place, &outside(root, &shown)));
            }
        }
        let real = match policy::resolve(fs, path, follow).await {
            Err(error) if error.is_about_link() => return Err(failed(error)),
            real => real,
        };
        for root in roots {
            // As the host has it now: the root may be a link, too.
            let top = policy::resolve(fs, root.as_bytes(), true).await.map_err(failed)?;
            let is_inside = match (&top, &real) {
                (Some(top), Ok(Some(real))) => is_below(top, real),
                // It is told why only of what is inside.
                (Some(top), Err(_)) => policy::stops_below(fs, top, path).await.map_err(failed)?,
                _ => false,
            };
            let is_inside = is_inside
                && (of_grant != Some(root.as_str()) || top.as_deref() == Some(root.as_bytes()));
            if !is_inside {
                return Err(error::denied(&place, &outside(root, &shown)));
            }
        }
        let real = real.map(Option::unwrap_or_default).map_err(failed)?;
        // What is being written is whole, and where it was, when it is put into its place.
        if real.split(|byte| *byte == b'/').any(is_unfinished) {
            let why = format!("root = {:?}: {shown} is being written", roots[0]);
            return Err(error::denied(&place, &Denied::Policy(why)));
        }
        Ok(real)
    }

    /// Does what was decided: nothing, a question, or a refusal.
    pub(super) async fn abide(
        &self,
        by: By<'_>,
        place: &SessionHost,
        decision: Decision,
        text: &str,
    ) -> ApiResult<()> {
        let abided = match decision.action {
            Action::Allow => Ok(()),
            Action::Deny => Err(Denied::Policy(decision.why)),
            Action::Ask => self.guard.ask(by, place, decision.why, text, QUIETLY).await,
        };
        abided.map_err(|denied| error::denied(place, &denied))
    }

    /// Permits something that has no more to it than its kind.
    pub(super) async fn permit(
        &self,
        by: By<'_>,
        place: &SessionHost,
        request: &policy::Request<'_>,
        text: &str,
    ) -> ApiResult<()> {
        let permitted = self.guard.permit(by, place, request, text, QUIETLY).await;
        permitted.map_err(|denied| error::denied(place, &denied))
    }
}

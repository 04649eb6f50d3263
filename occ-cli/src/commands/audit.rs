//! `occ audit`: what was done through occd, on whose behalf, and how it ended.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, ErrorKind};
use std::path::Path;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use occ_proto::audit::{AuditEvent, AuditFilter, AuditLine, AuditOutcome, Joined};
use occ_proto::paths::{Env, is_grants, is_read_only};
use occ_proto::text::sanitize;

use super::Context;
use super::events::AGAIN;
use crate::autostart::{self, Start};
use crate::cli::AuditArgs;
use crate::client::{Client, segment};
use crate::endpoint;
use crate::error::{ABSENT, CliError};
use crate::lines::Lines;
use crate::locks;
use crate::output::Ui;
use crate::stranger;
use crate::target::Target;

/// What has begun and not ended, of which a follower remembers as much. Of others the end is told without its beginning.
const OPEN: usize = 10_000;

/// The most that a daemon tells of what has been.
const MOST: usize = 20_000;

/// Runs the command and returns its exit code.
pub(crate) async fn run(context: &Context<'_>, args: &AuditArgs) -> Result<u8, CliError> {
    let ui = context.ui;
    // A default host chooses where to work, and not what is shown.
    let host = match context.named.clone() {
        None | Some(Target::Unset) => None,
        Some(Target::Local) => Some("local".to_owned()),
        Some(target) => Some(target.host("audit")?.0.to_string()),
    };
    let filter = AuditFilter { host, since: args.since };
    let socket = endpoint::socket_path(context)?;
    let is_narrow = is_narrow(&socket);
    // To connect to a socket of systemd's would start a daemon.
    if is_narrow || locks::holder(&socket).is_some() {
        let client = match autostart::connect(context, Start::Never).await {
            Ok(found) => Some(Client::of(found, ui)),
            Err(error) if error.code == ABSENT && !is_narrow => None,
            Err(error) => return Err(error),
        };
        if let Some(client) = client {
            let asked = ask(context, &client, filter, args);
            return tokio::select! {
                biased;
                // It is how following ends.
                ended = crate::terminal::following_ended(), if args.follow => Ok(ended.exit),
                done = asked => done,
            };
        }
    }
    if args.follow {
        let text = "occd is not running: nothing is done through it.";
        let error = CliError::daemon(text).hint("occ daemon start");
        // Nor does systemd's listen for it: somebody else may.
        let is_systemd = autostart::units(context).await.is_some_and(|units| units.listens);
        let unanswered = (!is_systemd).then(|| "it does not hold occd's lock".into());
        return Err(CliError { unanswered, ..error });
    }
    for line in read(ui, filter, args.number)? {
        tell(ui, &line)?;
    }
    Ok(0)
}

/// Returns whether a socket is that of a grant, or the read-only one: whoever names it does not ask for what the files here
/// have, and only the daemon behind it knows what may be seen there.
fn is_narrow(socket: &Path) -> bool {
    is_grants(socket) || is_read_only(socket)
}

/// Tells what the daemon tells, and when it is followed, what the next one does.
async fn ask(
    context: &Context<'_>,
    client: &Client,
    mut filter: AuditFilter,
    args: &AuditArgs,
) -> Result<u8, CliError> {
    let ui = context.ui;
    let mut number = args.number;
    let mut told = Told::default();
    loop {
        let why = match ask_one(ui, client, &filter, (number, args.follow), &mut told).await {
            Ok(()) if !args.follow => return Ok(0),
            Ok(()) => CliError::daemon("occd is away"),
            Err(error) => stranger::explained(context, error).await,
        };
        if !args.follow || !why.is_away() {
            return Err(why);
        }
        if !std::mem::replace(&mut told.said_away, true) {
            ui.note(&format!("{}. It is tried again.", why.message.trim_end_matches('.')));
        }
        // Whatever was done meanwhile.
        if let Some(at) = told.at {
            (filter.since, number) = (Some(at), MOST);
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// What was told last.
#[derive(Default)]
struct Told {
    at: Option<Timestamp>,
    /// All of that moment.
    last: Vec<(String, AuditEvent)>,
    /// That the daemon is away, since it was there last.
    said_away: bool,
}

impl Told {
    /// Notes a line. Returns whether it is new.
    fn take(&mut self, line: &AuditLine) -> bool {
        let name = (line.id.clone(), line.event);
        if self.at == Some(line.at) && self.last.contains(&name) {
            return false;
        }
        if self.at != Some(line.at) {
            self.last.clear();
        }
        self.at = Some(line.at);
        self.last.push(name);
        true
    }
}

/// The same of one daemon.
async fn ask_one(
    ui: &Ui,
    client: &Client,
    filter: &AuditFilter,
    (number, follow): (usize, bool),
    told: &mut Told,
) -> Result<(), CliError> {
    let mut path = format!("/v1/audit?limit={number}");
    if let Some(host) = &filter.host {
        path.push_str(&format!("&host={}", segment(host)));
    }
    if let Some(since) = filter.since {
        path.push_str(&format!("&since={since}"));
    }
    if follow {
        path.push_str("&follow=true");
    }
    let mut lines = Lines::get(client, &path).await?;
    told.said_away = false;
    let mut open: HashMap<String, AuditLine> = HashMap::new();
    while let Some(mut line) = lines.next::<AuditLine>().await? {
        if !told.take(&line) {
            continue;
        }
        if !ui.json && follow {
            match line.event {
                AuditEvent::Begin if open.len() < OPEN => {
                    open.insert(line.id.clone(), line.clone());
                }
                AuditEvent::End => {
                    if let Some(begun) = open.remove(&line.id) {
                        let mut joined = Joined::new(AuditFilter::default(), 1);
                        joined.take(begun);
                        joined.take(line);
                        let Some(whole) = joined.into_lines().pop_back() else { continue };
                        line = whole;
                    }
                }
                _ => {}
            }
        }
        tell(ui, &line)?;
    }
    Ok(())
}

/// Reads the files, where there is no daemon to ask.
fn read(ui: &Ui, filter: AuditFilter, most: usize) -> Result<Vec<AuditLine>, CliError> {
    let failed = |path: &Path, error: std::io::Error| {
        CliError::failed(format!("{}: {error}", sanitize(&path.to_string_lossy())))
    };
    let files = Env::from_process().audit_files();
    let files = files.map_err(|error| CliError::failed(sanitize(&error.to_string())))?;
    let mut joined = Joined::new(filter, most);
    for path in files {
        let file = match std::fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(&path, error)),
        };
        for line in BufReader::new(file).split(b'\n') {
            joined.take_json(&line.map_err(|error| failed(&path, error))?);
        }
    }
    if joined.broken() > 0 {
        ui.note(&format!("{} lines cannot be read and are passed over.", joined.broken()));
    }
    // The daemon that began it is gone.
    joined.end_unless(|_| false);
    Ok(joined.into_lines().into())
}

fn tell(ui: &Ui, line: &AuditLine) -> Result<(), CliError> {
    if !ui.json {
        return ui.print(&format!("{}\n", shown(line)));
    }
    let json = serde_json::to_string(line);
    let json = json.map_err(|error| CliError::failed(format!("a line is none: {error}")))?;
    ui.print(&format!("{json}\n"))
}

/// Returns a line for a person.
fn shown(line: &AuditLine) -> String {
    let at = line.at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S");
    if line.event == AuditEvent::Lost {
        return format!("{at}  at least {} lines are lost", line.lost.unwrap_or_default());
    }
    let mut what = vec![line.action.clone()];
    what.extend(line.path.clone());
    if line.argv.is_empty() {
        what.extend(line.detail.clone());
    } else {
        what.push(line.argv.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "));
        if line.argv_cut {
            what.push("…".to_owned());
        }
    }
    what.extend(line.input_bytes.map(|count| format!("{count} bytes of input")));
    let host = line.host.as_deref().unwrap_or("-");
    let text =
        format!("{at}  {:<14} {host:<12} {}  ({})", outcome(line), what.join("  "), who(line));
    sanitize(&text)
}

/// Returns how it ended, in a word or two.
fn outcome(line: &AuditLine) -> String {
    match line.outcome {
        None => "…".to_owned(),
        Some(AuditOutcome::Ok) => "ok".to_owned(),
        Some(AuditOutcome::Exit) => format!("exit {}", line.exit_code.unwrap_or_default()),
        Some(AuditOutcome::Signal) => line.signal.clone().unwrap_or_default(),
        Some(AuditOutcome::Timeout) => "timeout".to_owned(),
        Some(AuditOutcome::Unknown) => "unknown".to_owned(),
        Some(AuditOutcome::Refused | AuditOutcome::Failed) => {
            line.code.map_or_else(|| "failed".to_owned(), |code| code.to_string())
        }
    }
}

/// Returns who asked: `occ 4711 < bash < tmux, grant agent`.
fn who(line: &AuditLine) -> String {
    let program = line.program.as_deref().map(|path| path.rsplit('/').next().unwrap_or(path));
    let mut names = vec![match (program, line.pid) {
        (Some(program), Some(pid)) => format!("{program} {pid}"),
        (_, Some(pid)) => format!("process {pid}"),
        _ => String::new(),
    }];
    names.extend(line.parents.iter().cloned());
    let names = names.join(" < ");
    let via = line.via.as_deref().filter(|via| *via != "owner").map(str::to_owned);
    let own = rustix::process::geteuid().as_raw();
    let user = line.uid.filter(|uid| *uid != own).map(|uid| format!("uid {uid}"));
    let kind = line.client.clone().filter(|kind| kind != "cli");
    let parts = [Some(names).filter(|names| !names.is_empty()), kind, user, via];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Returns a word so that its ends show.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:=,+@%*…".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text.to_owned() } else { format!("{text:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_for_people_and_for_terminals() {
        let at = "2026-11-26T12:00:00Z".parse().unwrap();
        let line = AuditLine {
            host: Some("prod-1".into()),
            pid: Some(17),
            uid: Some(rustix::process::geteuid().as_raw()),
            program: Some("/usr/bin/curl".into()),
            parents: vec!["ba\u{1b}[31msh".into()],
            client: Some("api".into()),
            via: Some("grant agent".into()),
            argv: vec!["ls".into(), "a b\u{1b}]0;x\u{7}".into()],
            outcome: Some(AuditOutcome::Exit),
            exit_code: Some(3),
            ..AuditLine::new(at, "a".into(), AuditEvent::End, "exec")
        };
        let text = shown(&line);
        assert!(!text.contains('\u{1b}') && !text.contains('\u{7}'), "{text}");
        assert!(text.contains("  exit 3         prod-1       exec  ls \"a b"), "{text}");
        assert!(text.contains("(curl 17 < ba") && text.ends_with(", api, grant agent)"), "{text}");
        let lost = AuditLine { event: AuditEvent::Lost, lost: Some(3), ..line };
        assert!(shown(&lost).ends_with("at least 3 lines are lost"));
    }
}

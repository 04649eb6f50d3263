//! `occ session`: programs on hosts that outlive the link, the daemon and this machine.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Read as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use bytes::Bytes;
use jiff::Timestamp;
use occ_proto::error::Code;
use occ_proto::exec::{Bytes as Arg, ExecRequest};
use occ_proto::session::{
    InputTaken, Session, SessionEdit, SessionHost, SessionList, SessionRequest, SessionStart,
    SessionState,
};
use occ_proto::text::sanitize;
use serde_json::json;

use super::{Context, exec, session_attach};
use crate::cli::{Eol, SendArgs, SessionCommand, SessionEditArgs, SessionStartArgs};
use crate::client::{Client, Reply, segment};
use crate::duration::{one_unit, seconds_between};
use crate::eol::ToLf;
use crate::error::{CONNECTION, CliError};
use crate::output::removal::{self, Deed, Done};
use crate::output::table::Table;
use crate::output::with_note;
use crate::place::Place;
use crate::session::{Begin, Received, Sessions};
use crate::target::Target;

/// The most that goes with one request, in bytes: what the daemon takes.
const PIECE: usize = 1024 * 1024;

/// Runs `occ session`.
pub(crate) async fn run(context: &Context<'_>, command: SessionCommand) -> Result<u8, CliError> {
    match command {
        SessionCommand::Start(args) => start(context, args).await,
        SessionCommand::List => list(context).await,
        SessionCommand::Attach(args) => {
            let sessions = open_for(context, &args.name).await?;
            explained(&args.name, session_attach::attach(context, &sessions, &args).await)
        }
        SessionCommand::Logs(args) => {
            let sessions = open_for(context, &args.name).await?;
            explained(&args.name, session_attach::logs(&sessions, &args).await)
        }
        SessionCommand::Wait { name } => {
            let sessions = open_for(context, &name).await?;
            explained(&name, session_attach::wait(context, &sessions, &name).await)
        }
        SessionCommand::Send(args) => explained(&args.name, send(context, &args).await),
        SessionCommand::Edit(args) => {
            let name = args.session.clone();
            explained(&name, edit(context, args).await)
        }
        SessionCommand::Kill { name, signal } => {
            let sessions = open_for(context, &name).await?;
            let killing = async { explained(&name, kill(context, &sessions, &name, signal).await) };
            removal::one(context.ui, &name, killing).await
        }
        SessionCommand::Rm { name, force, forget } => {
            let query = match (force, forget) {
                (true, _) => "?force=true",
                (_, true) => "?forget=true",
                _ => "",
            };
            let sessions = open_for(context, &name).await?;
            let removing = async {
                let removed = sessions.remove_how(&name, query).await;
                explained(&name, removed).map_err(|error| match error.exit == CONNECTION {
                    true => error.or_type(&format!(
                        "occ session rm --forget {} forgets it without its host",
                        sanitize(&name)
                    )),
                    false => error,
                })?;
                if !context.ui.json {
                    context.ui.say(&format!("Removed: session '{}'.", sanitize(&name)))?;
                }
                Ok((Done::Removed, None))
            };
            removal::one(context.ui, &name, removing).await
        }
    }
}

async fn open(context: &Context<'_>) -> Result<Sessions, CliError> {
    Ok(Sessions::of(context, context.client().await?))
}

/// The same for what is done with a session: it must be on the host that was given, if one was.
async fn open_for(context: &Context<'_>, name: &str) -> Result<Sessions, CliError> {
    let sessions = open(context).await?;
    if context.is_given {
        let session = explained(name, sessions.show(name).await.map_err(CliError::from))?;
        is_meant(context, name, &session.host, |_| "leave out --host".to_owned())?;
    }
    Ok(sessions)
}

/// Refuses what is said of another host than the one that a session is, or will be, on.
fn is_meant(
    context: &Context<'_>,
    name: &str,
    host: &SessionHost,
    way: impl FnOnce(&SessionHost) -> String,
) -> Result<(), CliError> {
    let given = match &context.named {
        Some(Target::Host(given, _)) if context.is_given => SessionHost::Host(given.clone()),
        Some(Target::Local) if context.is_given => SessionHost::Local,
        _ => return Ok(()),
    };
    if *host == given {
        return Ok(());
    }
    let name = sanitize(name);
    Err(CliError::usage(format!("session '{name}' is on {host}, and not on {given}."))
        .hint(way(&given)))
}

/// Returns a failure with what to type next, where that takes knowing that it is about sessions.
pub(super) fn explained<T>(name: &str, result: Result<T, CliError>) -> Result<T, CliError> {
    let name = sanitize(name);
    result.map_err(|error| match error.daemon_code() {
        Some(Code::SessionNotFound) => error.hint("occ session list"),
        Some(Code::BadRequest) if error.message.contains("kept nowhere") => {
            error.hint(format!("occ session start --name {name} --env NAME=VALUE"))
        }
        Some(Code::HostNotFound) => error.hint(format!(
            "occ session edit {name} --host HOST moves its next start; occ session rm --forget {name} forgets it"
        )),
        // What the code stands for has a hint, which says NAME.
        Some(Code::SessionGone | Code::SessionRunning | Code::SessionEnded) => {
            let hint = error.hint.map(|hint| hint.replace("NAME", &name));
            CliError { hint, ..error }
        }
        _ => error,
    })
}

/// Returns arguments as they are.
pub(super) fn exactly(argv: Vec<OsString>) -> Vec<Arg> {
    argv.into_iter().map(|word| Arg(word.into_vec())).collect()
}

async fn start(context: &Context<'_>, args: SessionStartArgs) -> Result<u8, CliError> {
    if args.argv.is_empty() {
        return again(context, args).await;
    }
    let (client, place, directory) = exec::place(context, "session start").await?;
    let args = SessionStartArgs { cwd: args.cwd.or(directory), ..args };
    launch(context, client, place, args).await
}

/// Starts a session there, and attaches to it or says how to.
pub(super) async fn launch(
    context: &Context<'_>,
    client: Client,
    place: Place,
    args: SessionStartArgs,
) -> Result<u8, CliError> {
    let sessions = Sessions::of(context, client);
    let attach = args.attach;
    let reply = begin(context, &sessions, &place, asked(&place, args)?).await?;
    let session: Session = reply.parse()?;
    if attach {
        return session_attach::follow(context, &sessions, &session, Begin::start()).await;
    }
    if context.ui.json {
        context.ui.document(&reply.body)?;
        return Ok(0);
    }
    begun(context, &session)?;
    Ok(0)
}

/// Returns what is asked for: here, where we are and with our environment.
fn asked(place: &Place, args: SessionStartArgs) -> Result<SessionRequest, CliError> {
    let here = ExecRequest { cwd: args.cwd, ..ExecRequest::default() };
    let here = exec::here(place, here)?;
    Ok(SessionRequest {
        host: host_of(place),
        name: args.name,
        argv: exactly(args.argv),
        cwd: here.cwd,
        env: args.env.into_iter().collect(),
        base_env: here.env,
        tty: args.tty,
        forward_urls: args.forward_urls,
        retries: args.retries,
        wait_ms: None,
        ask_ms: None,
    })
}

/// Returns a place as sessions have it.
pub(super) fn host_of(place: &Place) -> SessionHost {
    match place {
        Place::Host(host, _) => SessionHost::Host(host.clone()),
        Place::Local => SessionHost::Local,
    }
}

/// Starts a session.
pub(super) async fn begin(
    context: &Context<'_>,
    sessions: &Sessions,
    place: &Place,
    request: SessionRequest,
) -> Result<Reply, CliError> {
    let note = format!("{}not connected; trying …", place.prefix());
    match (with_note(context.ui, &note, sessions.begin(&request)).await, place) {
        (Err(error), Place::Host(host, source)) => {
            Err(super::explain(context, sessions.client(), host, *source, error).await)
        }
        (begun, _) => begun,
    }
}

async fn again(context: &Context<'_>, args: SessionStartArgs) -> Result<u8, CliError> {
    let Some(name) = args.name else {
        return Err(CliError::usage(
            "a program is missing, or --name with a session to start again.",
        )
        .hint("occ session start --host NAME -- PROGRAM ARGUMENTS"));
    };
    let others = [
        ("--cwd", args.cwd.is_some()),
        ("--retries", args.retries.is_some()),
        ("--forward-urls", args.forward_urls),
        ("--tty", args.tty),
    ];
    if let Some((option, _)) = others.into_iter().find(|(_, is)| *is) {
        let name = sanitize(&name);
        let way = match option {
            "--cwd" | "--retries" => {
                format!("occ session edit {name} {option} … changes its next start")
            }
            _ => format!("occ session rm {name} removes it; then start it anew, with its program"),
        };
        let text = "without a program, a session is started again as it was, which {option} does not change.";
        return Err(CliError::usage(text.replace("{option}", option)).hint(way));
    }
    let sessions = open(context).await?;
    let session = explained(&name, sessions.show(&name).await.map_err(CliError::from))?;
    let host = session.next_host.unwrap_or(session.host);
    is_meant(context, &name, &host, |given| {
        format!("occ session edit {} --host {given} has its next start there", sanitize(&name))
    })?;
    // Here, it gets our environment, as at first.
    let base_env = match host == SessionHost::Local {
        true => exec::here(&Place::Local, ExecRequest::default())?.env,
        false => BTreeMap::new(),
    };
    let request = SessionStart { env: args.env.into_iter().collect(), base_env };
    let started = sessions.start_again(&name, &request).await;
    let session = explained(&name, started.map_err(CliError::from))?;
    if args.attach {
        return session_attach::follow(context, &sessions, &session, Begin::start()).await;
    }
    if context.ui.json {
        context.ui.value(&session)?;
    } else {
        begun(context, &session)?;
    }
    Ok(0)
}

fn begun(context: &Context<'_>, session: &Session) -> Result<(), CliError> {
    let (name, host) = (&session.info.name, &session.host);
    if context.ui.quiet {
        return context.ui.print(&format!("{name}\n"));
    }
    context.ui.say(&format!("[{host}] session {name} started"))?;
    context.ui.note_if_talking(&format!("hint: occ session attach {name}"));
    Ok(())
}

async fn list(context: &Context<'_>) -> Result<u8, CliError> {
    let client = context.client().await?;
    let path = match &context.named {
        Some(Target::Host(host, _)) => format!("/v1/sessions?host={}", segment(host.as_str())),
        Some(Target::Local) => "/v1/sessions?host=local".to_owned(),
        _ => "/v1/sessions".to_owned(),
    };
    let reply = client.get_slow(&path).await;
    if context.ui.json {
        context.ui.document(&reply?.body)?;
        return Ok(0);
    }
    let (sessions, asked) = match reply {
        Ok(reply) => (reply.parse::<SessionList>()?.sessions, Ok(0)),
        // What is known of them is better than nothing.
        Err(error) => (known(context, &client).await, Err(error)),
    };
    if context.ui.quiet {
        for session in &sessions {
            context.ui.print(&format!("{}\n", sanitize(&session.info.name)))?;
        }
    } else if sessions.is_empty() && asked.is_ok() {
        context.ui.say("No sessions.")?;
    } else if !sessions.is_empty() {
        print_table(context, &sessions)?;
    }
    asked
}

/// Returns the sessions of the host that is meant, as they were known last.
async fn known(context: &Context<'_>, client: &Client) -> Vec<Session> {
    let Some(Target::Host(host, _)) = &context.named else { return Vec::new() };
    let reply =
        client.get_slow("/v1/sessions").await.and_then(|reply| reply.parse::<SessionList>());
    let mut sessions = reply.map(|list| list.sessions).unwrap_or_default();
    sessions.retain(|session| session.host.host() == Some(host));
    sessions
}

fn print_table(context: &Context<'_>, sessions: &[Session]) -> Result<(), CliError> {
    let now = Timestamp::now();
    let mut table = Table::new(&["NAME", "ID", "HOST", "STATE", "AGE", "COMMAND"]);
    for session in sessions {
        let info = &session.info;
        table.row(vec![
            sanitize(&info.name),
            sanitize(&info.id),
            place(session),
            state(session),
            one_unit(seconds_between(info.created, now)),
            command(&info.argv),
        ]);
    }
    for line in table.lines() {
        context.ui.print(&format!("{line}\n"))?;
    }
    Ok(())
}

fn place(session: &Session) -> String {
    match &session.next_host {
        Some(next) => format!("{} (next: {next})", session.host),
        None => session.host.to_string(),
    }
}

fn state(session: &Session) -> String {
    let word = match (session.state, session.exit) {
        (SessionState::Ended, Some(code)) => format!("exit {code}"),
        (state, _) => state.as_str().to_owned(),
    };
    // The host was not asked, or did not answer.
    let stale = session.state == SessionState::Running && session.problem.is_some();
    if stale { format!("{word}?") } else { word }
}

fn command(argv: &[Arg]) -> String {
    let words: Vec<_> = argv.iter().map(|arg| String::from_utf8_lossy(&arg.0)).collect();
    let text = sanitize(&words.join(" "));
    if text.chars().count() <= 60 {
        return text;
    }
    let start: String = text.chars().take(59).collect();
    format!("{start}…")
}

/// Sends input over an attached session, which knows after a lost daemon what it has sent.
async fn send(context: &Context<'_>, args: &SendArgs) -> Result<u8, CliError> {
    let sessions = open_for(context, &args.name).await?;
    let mut source = if args.text.is_empty() {
        Source::Stdin(ToLf::default())
    } else {
        let words: Vec<&[u8]> = args.text.iter().map(|word| word.as_bytes()).collect();
        let mut line = words.join(&b' ');
        line.push(b'\n');
        Source::Line(line)
    };
    let none = || Some("none".to_owned());
    let begin = Begin { stdout: none(), stderr: none() };
    let mut attached = sessions.look(&args.name, begin, true).await?;
    // Also where nothing is sent, it is known to be there.
    let mut is_over = is_over(attached.receive().await?);
    let (mut is_left, mut is_sent) = (false, false);
    while let Some(piece) = source.next(args.eol)? {
        if is_over {
            is_left = true;
            break;
        }
        attached.send(&piece).await?;
        is_sent = true;
        while attached.is_full() && !is_over {
            is_over = self::is_over(attached.receive().await?);
        }
    }
    if args.eof && !is_over {
        attached.end_input().await?;
    } else if !is_sent {
        is_left |= args.eof;
    }
    while !attached.is_taken() && !is_over {
        is_over = self::is_over(attached.receive().await?);
    }
    if is_over && (is_left || !attached.is_taken()) {
        let path = format!("/v1/sessions/{}/input", segment(&args.name));
        // The end may be told before what was taken is, by a program that ends with what it was sent. Its host knows; and the
        // daemon has the words for one that takes nothing any more.
        let asked = match attached.untaken().filter(|_| !is_left) {
            // All but the end, of which a program that has ended itself needs no word.
            Some((_, bytes)) if is_sent && bytes.is_empty() => None,
            Some((from, bytes)) => Some((format!("{path}?offset={from}"), bytes)),
            None => Some((path, Bytes::new())),
        };
        if let Some((path, bytes)) = asked {
            sessions.client().post_bytes(&path, bytes).await?;
        }
    }
    if context.ui.json {
        context.ui.value(&InputTaken { end: attached.input_end() })?;
    }
    Ok(0)
}

fn is_over(received: Received) -> bool {
    matches!(received, Received::Exit(_) | Received::Lost | Received::End)
}

enum Source {
    Line(Vec<u8>),
    Stdin(ToLf),
}

impl Source {
    fn next(&mut self, eol: Option<Eol>) -> Result<Option<Bytes>, CliError> {
        match self {
            Self::Line(line) => {
                let line = std::mem::take(line);
                let line = if eol.is_some() { ToLf::whole(&line) } else { line };
                Ok((!line.is_empty()).then(|| line.into()))
            }
            Self::Stdin(to_lf) => {
                let mut piece = vec![0; PIECE];
                let mut filled = 0;
                while filled < PIECE {
                    match io::stdin().lock().read(&mut piece[filled..]) {
                        Ok(0) => break,
                        Ok(read) => filled += read,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => {
                            return Err(CliError::failed(format!("standard input: {error}")));
                        }
                    }
                }
                piece.truncate(filled);
                let piece = match (eol, filled) {
                    (Some(Eol::Lf), 0) => to_lf.rest(),
                    (Some(Eol::Lf), _) => to_lf.take(&piece),
                    (None, _) => piece,
                };
                // A piece that is one half of an end of line comes with the next.
                match (filled, piece.is_empty()) {
                    (0, true) => Ok(None),
                    (_, true) => self.next(eol),
                    (_, false) => Ok(Some(piece.into())),
                }
            }
        }
    }
}

async fn edit(context: &Context<'_>, args: SessionEditArgs) -> Result<u8, CliError> {
    let sessions = open(context).await?;
    let host = match &context.named {
        Some(Target::Host(host, _)) => Some(SessionHost::Host(host.clone())),
        Some(Target::Local) => Some(SessionHost::Local),
        Some(Target::Unset) | None => None,
    };
    let argv = (!args.argv.is_empty()).then(|| exactly(args.argv));
    let edit = SessionEdit { host, name: args.name, argv, cwd: args.cwd, retries: args.retries };
    if edit == SessionEdit::default() {
        return Err(CliError::usage("there is nothing to change.").hint("occ session edit --help"));
    }
    let session = sessions.edit(&args.session, &edit).await?;
    if context.ui.json {
        context.ui.value(&session)?;
    } else {
        context.ui.say(&format!("Changed: session '{}'.", session.info.name))?;
    }
    Ok(0)
}

async fn kill(
    context: &Context<'_>,
    sessions: &Sessions,
    name: &str,
    signal: Option<String>,
) -> Result<Deed, CliError> {
    if let Some(signal) = signal {
        let signal = signal.to_ascii_uppercase();
        sessions.signal(name, signal.strip_prefix("SIG").unwrap_or(&signal)).await?;
        return Ok((Done::Signalled, None));
    }
    // What has ended before may have left something behind, which ends now.
    let was_over = context.ui.json && is_ended(&sessions.show(name).await?);
    let session = sessions.kill(name).await?;
    if !context.ui.json {
        context.ui.say(&format!(
            "[{}] {}: {}",
            session.host,
            session.info.name,
            state(&session)
        ))?;
    }
    let done = if was_over { Done::Absent } else { Done::Ended };
    Ok((done, Some(json!(session))))
}

fn is_ended(session: &Session) -> bool {
    session.state == SessionState::Ended
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_command_is_cut() {
        assert_eq!(command(&["make".into(), "-j8".into()]), "make -j8");
        assert_eq!(command(&[Arg(vec![b'x'; 100])]).chars().count(), 60);
    }
}

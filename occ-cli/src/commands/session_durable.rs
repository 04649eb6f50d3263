//! `occ exec --durable`: a session with exec's face. A broken link is a pause; what the program has written and read is
//! where it was.

use std::io;

use occ_proto::exec::{Bytes as Arg, Exit};
use occ_proto::session::{OutputStream, Session, SessionRequest};
use tokio::time::Instant;

use super::session_attach::{Left, Sink, Streams, Typed, ended, pass};
use super::{Context, Kept, exec, exec_result, session};
use crate::cli::ExecArgs;
use crate::duration::of_ms;
use crate::error::CliError;
use crate::escape::EscapeKey;
use crate::prompter;
use crate::session::{Begin, Received, Sessions};
use crate::stdio::Input;

/// The exit code for a command that --timeout ended, as timeout(1) has it.
const TIMED_OUT: u8 = 124;

/// Where the output goes.
enum Output {
    Streams(Streams),
    Kept { out: Kept, err: Kept },
}

impl Sink for Output {
    async fn write(&mut self, stream: OutputStream, bytes: bytes::Bytes) -> io::Result<()> {
        match self {
            Self::Streams(streams) => return streams.write(stream, bytes).await,
            Self::Kept { out, .. } if stream == OutputStream::Stdout => out.push(&bytes),
            Self::Kept { err, .. } => err.push(&bytes),
        }
        Ok(())
    }
}

/// Runs the command and returns its exit code.
pub(super) async fn run(context: &Context<'_>, args: &ExecArgs) -> Result<u8, CliError> {
    let ui = context.ui;
    if context.selection.is_some() {
        return Err(CliError::usage("--durable goes with one host."));
    }
    if args.tty {
        return Err(CliError::usage("--durable does not go with --tty: its streams are separate.")
            .hint("occ session start --tty --attach has a terminal that outlives the link"));
    }
    let (client, place, directory) = exec::place(context, "exec").await?;
    let mut request = exec::request(args)?;
    request.cwd = request.cwd.or(directory);
    let given = request.env.clone();
    let request = exec::here(&place, request)?;
    let sessions = Sessions::of(context, client);
    let argv = match &request.shell {
        // As the login shell would get it.
        Some(line) => {
            ["sh", "-c", "exec \"${SHELL:-sh}\" -c \"$1\"", "sh", line].map(Arg::from).to_vec()
        }
        None => request.argv.clone(),
    };
    let asked = SessionRequest {
        host: session::host_of(&place),
        name: None,
        argv,
        cwd: request.cwd.clone(),
        base_env: request.env,
        env: given,
        tty: false,
        forward_urls: false,
        retries: None,
        wait_ms: request.wait_ms,
        ask_ms: args.timeout,
    };
    let begun = Instant::now();
    let session: Session = session::begin(context, &sessions, &place, asked).await?.parse()?;
    let name = &session.info.name;
    let mut attached = sessions.attach(&session.info.id, Begin::start()).await?;
    let mut output = match ui.json {
        true => Output::Kept { out: Kept::default(), err: Kept::default() },
        false => Output::Streams(Streams::open()?),
    };
    let input = if args.no_stdin { None } else { Input::stdin().ok() };
    let typed = Typed { input, eof: true, escape: EscapeKey::NONE, interrupts: true };
    let deadline = args.timeout.map(|ms| begun + std::time::Duration::from_millis(ms));
    let passing = Box::pin(pass(ui, name, &mut attached, typed, &mut output, deadline));
    let (left, timed_out) = prompter::answering(sessions.client(), passing).await?;
    let code = match left {
        Left::Exit(code) => code,
        Left::Detached(caught) => {
            ui.note(&format!(
                "{name} goes on on {place}\nhint: occ session attach {name}; occ session kill {name}"
            ));
            return ended(name, Left::Detached(caught));
        }
        // Nobody reads its output any more: it ends as a command of `exec` does.
        Left::Closed => {
            attached.kill().await?;
            while !matches!(attached.receive().await?, Received::Exit(_) | Received::Lost) {}
            sessions.remove(&session.info.id).await?;
            return ended(name, Left::Closed);
        }
        left => return ended(name, left),
    };
    // One that cannot be removed now goes a week after its end.
    if let Err(error) = sessions.remove(&session.info.id).await {
        ui.note_if_talking(&format!("[{name}] not removed: {error}"));
    }
    if let Output::Kept { out, err } = output {
        let exit = Exit {
            code: Some(code.into()),
            signal: None,
            timed_out,
            limit_ms: args.timeout.filter(|_| timed_out),
            cut_off: false,
            cut_off_by: None,
            may_still_run: false,
            duration_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        let status = exit.status();
        ui.value(&exec_result::result(exit, out, err, None))?;
        return Ok(status);
    }
    match args.timeout.filter(|_| timed_out) {
        Some(ms) => {
            let limit = of_ms(ms);
            let text = format!("the command ran longer than {limit} and was ended on {place}");
            Err(CliError { exit: TIMED_OUT, ..CliError::failed(text) })
        }
        None => Ok(code),
    }
}

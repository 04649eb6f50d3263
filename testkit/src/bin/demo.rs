//! `cargo xtask demo`: the main job with real output, in a home of its own, in under a minute.
//!
//! An SSH server in this process stands behind a link that can be cut; `occd` and `occ` are the built
//! programs. Each line that is shown is handed to `sh` as it stands, and its output is checked: exit
//! status 0 means that every step showed what it should. However it ends, what it started ends with it.

#![allow(clippy::print_stderr, reason = "a tool that says on a terminal what went wrong")]

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use serde_json::Value;
use testkit::daemon::client_binary;
use testkit::proc::{self, Process, Signal};
use testkit::require::find_program;
use testkit::wait::blocking;
use testkit::{DaemonRig, EmbeddedHost, FaultyLink, http};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

const HELP: &str = "\
cargo xtask demo: what occd and occ do, on a throw-away SSH server

Usage: cargo xtask demo [--keep]

  --keep   go on running afterwards, to try it by hand; Ctrl-C ends it
";

/// The host's name in the demo.
const HOST: &str = "demo";

/// The whole show takes about 15 s; past this something hangs.
const WHOLE: Duration = Duration::from_secs(55);

/// Any single command is done in a second or two.
const STEP: Duration = Duration::from_secs(20);

/// How long occd may take to end: it drains for 8 s.
const STOP: Duration = Duration::from_secs(15);

/// So that nobody waits for a minute, which is the default.
const CONFIG: &str = "[connection]\nmax_backoff = \"4s\"\n";

/// Lines of occd's log that a failure shows.
const LOG_LINES: usize = 20;

/// Why the demo ended early.
#[derive(Debug)]
enum End {
    /// A step did not show what it should.
    Failed(String),
    /// A signal, by its number.
    Signal(u8),
}

impl From<std::io::Error> for End {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

fn failed<T>(what: impl Into<String>) -> Result<T, End> {
    Err(End::Failed(what.into()))
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let keep = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => false,
        ["--keep"] => true,
        ["-h" | "--help"] => return print(HELP).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS),
        _ => {
            eprint!("{HELP}");
            return ExitCode::from(2);
        }
    };
    let started = Instant::now();
    let end = run(keep);
    match end {
        Ok(()) if keep => ExitCode::SUCCESS,
        Ok(()) => {
            let seconds = started.elapsed().as_secs();
            let text =
                format!("# Every step showed what it should, in {seconds} s. Nothing is left.\n");
            print(&text).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
        }
        Err(End::Failed(why)) => {
            eprintln!("demo: {why}");
            ExitCode::FAILURE
        }
        Err(End::Signal(number)) => ExitCode::from(128 + number),
    }
}

/// Runs everything and clears it away.
fn run(keep: bool) -> Result<(), End> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // Before anything is started: from here on a signal ends the demo in order.
        let mut signals = Signals::new()?;
        let mut stage = Stage::new();
        let end = tokio::select! {
            biased;
            number = signals.next() => Err(End::Signal(number)),
            shown = timeout(WHOLE, stage.show(keep)) => {
                shown.unwrap_or_else(|_| failed(format!("not done within {WHOLE:?}")))
            }
        };
        let end = match end {
            Ok(()) if keep => stage.stay(&mut signals).await,
            end => end,
        };
        let log = stage.rig.log();
        if let Err(End::Failed(_)) = &end
            && !log.is_empty()
        {
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
            eprintln!("--- the end of occd's log ---\n{tail}\n---");
        }
        // A failure to clear away is told even where something else went wrong before.
        stage.clear().and(end)
    })
}

/// The signals that end a program from a terminal.
struct Signals([tokio::signal::unix::Signal; 3]);

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self([
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ]))
    }

    /// Returns the number of the next signal.
    async fn next(&mut self) -> u8 {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => 2,
            _ = terminate.recv() => 15,
            _ = hangup.recv() => 1,
        }
    }
}

/// What the demo plays on. The daemon goes first when it is dropped.
struct Stage {
    rig: DaemonRig,
    link: FaultyLink,
    host: EmbeddedHost,
}

impl Stage {
    fn new() -> Self {
        let host = EmbeddedHost::start();
        Self { rig: DaemonRig::new(), link: FaultyLink::start(host.addr()), host }
    }

    /// Shows every step.
    async fn show(&mut self, keep: bool) -> Result<(), End> {
        let port = self.link.port();
        print(&format!(
            "# A throw-away SSH server on 127.0.0.1:{port}, and a home for occd and occ in {}.\n",
            self.rig.root().display()
        ))?;
        self.rig.write_config_toml(CONFIG);
        self.rig.start_daemon(&[]);
        self.step("occ daemon status", 0, &["is running"]).await?;
        let key = self.host.client_key_path();
        let add = format!("occ host add {HOST} deploy@127.0.0.1:{port} -i {}", key.display());
        self.step(&add, 0, &["Connected", "Added: Host 'demo' added"]).await?;

        print("\n# A command: the first one connects, all others use that connection.\n")?;
        let uname = std::process::Command::new("uname").arg("-a").output()?;
        let uname = String::from_utf8_lossy(&uname.stdout).into_owned();
        self.step("occ exec --host demo -- uname -a", 0, &[&uname]).await?;
        self.step("seq 1000000 | occ exec --host demo -- wc -l", 0, &["1000000"]).await?;
        let line =
            "occ exec --host demo -- sh -c 'echo to stderr >&2; exit 7'; echo \"exit code $?\"";
        self.step(line, 0, &["to stderr\n", "exit code 7"]).await?;
        self.step("occ status --host demo", 0, &["● connected", "deploy@127.0.0.1"]).await?;

        print("\n# The same for every program that speaks HTTP.\n")?;
        self.curl().await?;

        print("\n# The link is cut: its connections are reset, new ones are refused.\n")?;
        self.link.refuse(true);
        self.link.reset_all();
        self.watch(|text| text.contains("◐ backoff") && attempt(text) >= Some(4)).await?;
        let line = "occ exec --host demo --retries 0 -- true; echo \"exit code $?\"";
        self.step(line, 0, &["The command was not started", "exit code 5"]).await?;

        print("\n# The link is back. occd finds that out by itself.\n")?;
        self.link.refuse(false);
        self.watch(|text| text.contains("● connected")).await?;
        self.step("occ exec --host demo -- echo back again", 0, &["back again\n"]).await?;
        let host = self.api_host()?;
        if host.get("connects").and_then(Value::as_u64) < Some(2) {
            return failed(format!("occd did not connect anew: {host}"));
        }
        if !keep {
            print("\n")?;
            self.step("occ daemon stop", 0, &["occd stopped"]).await?;
            let status = self.rig.terminate_daemon();
            if !status.success() {
                return failed(format!("occd ended with {status}"));
            }
        }
        Ok(())
    }

    /// Prints a shell line, runs it, prints what it prints as it comes, and checks that.
    async fn step(&self, line: &str, code: i32, wanted: &[&str]) -> Result<String, End> {
        print(&format!("$ {line}\n"))?;
        let (reader, writer) = std::io::pipe()?;
        let mut receiver = Receiver::from_owned_fd(reader.into())?;
        let mut child = {
            // The same environment as every occ of the rig.
            let occ = self.rig.occ(&[]);
            let variables = occ.get_envs().filter_map(|(name, value)| Some((name, value?)));
            Command::new("/bin/sh")
                .args(["-c", line])
                .env_clear()
                .envs(variables)
                .env("PATH", search_path())
                .current_dir(self.rig.home())
                .stdin(Stdio::null())
                .stdout(writer.try_clone()?)
                .stderr(writer)
                .kill_on_drop(true)
                .spawn()?
        };
        let mut output = Vec::new();
        let status = timeout(STEP, async {
            let mut chunk = [0; 4096];
            loop {
                let count = receiver.read(&mut chunk).await?;
                if count == 0 {
                    break;
                }
                write(&chunk[..count])?;
                output.extend_from_slice(&chunk[..count]);
            }
            child.wait().await.map_err(End::from)
        });
        let Ok(status) = status.await else {
            return failed(format!("`{line}` did not end within {STEP:?}"));
        };
        let status = status?;
        let output = String::from_utf8_lossy(&output).into_owned();
        if !output.is_empty() && !output.ends_with('\n') {
            print("\n")?;
        }
        if status.code() != Some(code) {
            return failed(format!("`{line}` ended with {status}, not with {code}"));
        }
        match wanted.iter().find(|part| !output.contains(**part)) {
            Some(part) => failed(format!("`{line}` does not show {part:?}")),
            None => Ok(output),
        }
    }

    /// Runs `occ status` once a second until it shows what `done` wants.
    async fn watch(&self, done: impl Fn(&str) -> bool) -> Result<(), End> {
        let give_up = Instant::now() + STEP;
        while Instant::now() < give_up {
            let output = self.step("occ status --host demo", 0, &["Link"]).await?;
            if done(&output) {
                return Ok(());
            }
            sleep(Duration::from_secs(1)).await;
        }
        failed(format!("`occ status` did not come to show what it should within {STEP:?}"))
    }

    /// Asks the API, with curl if it is there.
    async fn curl(&self) -> Result<(), End> {
        let answer = if find_program("curl").is_ok() {
            let socket = "$XDG_RUNTIME_DIR/occ/occd.sock";
            let line = format!("curl -sS --unix-socket {socket} http://localhost/v1/hosts/{HOST}");
            self.step(&line, 0, &[]).await?
        } else {
            print("# curl is not installed here. What it would print:\n")?;
            let answer = http::request(&self.rig.socket(), "GET", "/v1/hosts/demo", &[], None)?;
            print(&format!("{}\n", answer.text()))?;
            answer.text()
        };
        let host: Value = serde_json::from_str(&answer).unwrap_or_default();
        if host.get("state").and_then(Value::as_str) != Some("connected") {
            return failed("the API does not say that the host is connected");
        }
        Ok(())
    }

    /// Returns the host as the API shows it.
    fn api_host(&self) -> Result<Value, End> {
        let answer = http::request(&self.rig.socket(), "GET", "/v1/hosts/demo", &[], None)?;
        Ok(serde_json::from_slice(&answer.body).unwrap_or_default())
    }

    /// Leaves everything running until a signal comes. Enter cuts the link and restores it.
    async fn stay(&self, signals: &mut Signals) -> Result<(), End> {
        let paths = self.rig.paths();
        let mut exports = String::from("export");
        let variables = [
            ("HOME", paths.home),
            ("XDG_RUNTIME_DIR", paths.xdg_runtime_dir),
            ("XDG_CONFIG_HOME", paths.xdg_config_home),
            ("XDG_STATE_HOME", paths.xdg_state_home),
        ];
        for (name, value) in variables {
            exports.push_str(&format!(" {name}={}", value.unwrap_or_default().display()));
        }
        let binaries = client_binary();
        let binaries = binaries.parent().unwrap_or(&binaries).display();
        exports.push_str(&format!(" PATH=\"{binaries}:$PATH\""));
        print(&format!(
            "\n# All of it goes on running. In another terminal, whose programs end with this one:\n\
             {exports}\n\
             # Then, for example:\n\
             occ status --host {HOST}\n\
             occ exec --host {HOST} -- ls -la\n\
             # Enter cuts the link, Enter again restores it. Ctrl-C ends everything.\n"
        ))?;
        // One line at a time is all that a keyboard gives.
        let (sender, mut lines) = mpsc::channel(1);
        std::thread::spawn(move || {
            for line in std::io::stdin().lines().map_while(Result::ok) {
                if sender.blocking_send(line).is_err() {
                    return;
                }
            }
        });
        let mut cut = false;
        loop {
            let entered = tokio::select! {
                _ = signals.next() => return Ok(()),
                line = lines.recv() => line.is_some(),
            };
            if !entered {
                // There is no keyboard.
                signals.next().await;
                return Ok(());
            }
            cut = !cut;
            self.link.refuse(cut);
            if cut {
                self.link.reset_all();
            }
            print(if cut { "# The link is cut.\n" } else { "# The link is back.\n" })?;
        }
    }

    /// Ends everything and makes sure that nothing is left.
    fn clear(self) -> Result<(), End> {
        // Also a daemon that somebody started in place of ours: it keeps others from reading its
        // environment, so that the rig may not find it.
        self.end_daemon();
        let places = [self.rig.root().to_owned(), self.host.home().to_owned()];
        drop(self);
        for place in places {
            let left = proc::marked(&place.display().to_string());
            if !left.is_empty() || place.exists() {
                return failed(format!("{} or its processes are left: {left:?}", place.display()));
            }
        }
        Ok(())
    }

    fn end_daemon(&self) {
        let limit = Duration::from_secs(2);
        let version =
            http::request_within(&self.rig.socket(), "GET", "/v1/version", &[], None, limit);
        let pid = version.ok().and_then(|answer| {
            let version: Value = serde_json::from_slice(&answer.body).ok()?;
            version.get("pid")?.as_u64()?.try_into().ok()
        });
        if let Some(process) = pid.and_then(Process::find) {
            process.signal(Signal::TERM);
            let gone = || (!process.is_alive()).then_some(());
            if blocking::try_wait_for(STOP, gone).is_none() {
                process.signal(Signal::KILL);
            }
        }
    }
}

/// Returns the number in `attempt 3 in 2s`; nothing when the next attempt is under way.
fn attempt(status: &str) -> Option<u32> {
    let (_, rest) = status.split_once("; attempt ")?;
    let (number, rest) = rest.split_once(" in ")?;
    rest.starts_with(|c: char| c.is_ascii_digit()).then(|| number.parse().ok())?
}

/// Returns `PATH` with the built programs first.
fn search_path() -> OsString {
    let own = client_binary().parent().map(PathBuf::from);
    let others = std::env::var_os("PATH").unwrap_or_default();
    let all = own.into_iter().chain(std::env::split_paths(&others));
    std::env::join_paths(all).unwrap_or(others)
}

fn print(text: &str) -> Result<(), End> {
    write(text.as_bytes())
}

fn write(bytes: &[u8]) -> Result<(), End> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(bytes).and_then(|()| out.flush());
    written.map_err(|error| End::Failed(format!("standard output: {error}")))
}

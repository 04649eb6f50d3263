//! [`DaemonRig`]: `occd` and `occ` with a home of their own.
//!
//! Both programs get a cleared environment with `HOME` and the `XDG_*` directories below one temporary
//! directory, whose path is short because it holds a Unix socket. Its name is also how the rig finds
//! every process that was started in it, a daemon that `occ` started included.

mod files;
mod version;

pub use files::Target;

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use occ_proto::paths::Env;
use serde_json::Value;
use tempfile::TempDir;

use crate::http::{self, Response};
use crate::proc::{self, Process, Signal};
use crate::wait::blocking;

/// How long the daemon may take to answer after its start.
const START: Duration = Duration::from_secs(20);

/// How long the daemon may take to end after SIGTERM: it drains for 10 s at most.
const STOP: Duration = Duration::from_secs(30);

/// How much of the daemon's log a failed test shows.
const LOG_TAIL_LINES: usize = 80;

/// How a run of `occ` ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// The exit status.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Returns the exit code; -1 when a signal ended the program.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }
}

/// A place for a daemon and its clients. Dropping it kills whatever runs in it and removes it; in a
/// test that panics it shows the end of the daemon's log.
#[derive(Debug)]
pub struct DaemonRig {
    root: TempDir,
    variables: Vec<(OsString, OsString)>,
    daemon_binary: Option<PathBuf>,
    daemon: Option<Child>,
}

impl Default for DaemonRig {
    fn default() -> Self {
        Self::new()
    }
}

impl DaemonRig {
    /// Makes the directories. No daemon runs yet.
    pub fn new() -> Self {
        let root = tempfile::Builder::new().prefix("occ-").tempdir_in("/tmp").unwrap();
        for name in ["home/.ssh", "run", "config", "state"] {
            let dir = root.path().join(name);
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)).unwrap();
        }
        Self { root, variables: Vec::new(), daemon_binary: None, daemon: None }
    }

    /// Starts this program instead of the built `occd`, such as one of another version.
    pub fn set_daemon_binary(&mut self, path: impl Into<PathBuf>) {
        self.daemon_binary = Some(path.into());
    }

    /// Sets a variable for the daemon and for `occ`, such as `RUST_LOG` or `SSH_AUTH_SOCK`.
    pub fn set_env(&mut self, name: impl Into<OsString>, value: impl Into<OsString>) {
        let name = name.into();
        self.variables.retain(|(other, _)| *other != name);
        self.variables.push((name, value.into()));
    }

    /// Returns the temporary directory that holds everything.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// Returns `HOME`.
    pub fn home(&self) -> PathBuf {
        self.root().join("home")
    }

    /// Returns the variables that decide the paths, as both programs see them.
    pub fn paths(&self) -> Env {
        let set = |name: &str| self.variables.iter().find(|(key, _)| key == name);
        let base = self.base_variables();
        Env::from_lookup(|name| {
            let of_base = base.iter().find(|(key, _)| *key == name).map(|(_, dir)| dir.into());
            set(name).map(|(_, value)| value.clone()).or(of_base)
        })
    }

    /// Returns the daemon's socket.
    pub fn socket(&self) -> PathBuf {
        self.paths().socket(None).unwrap()
    }

    fn base_variables(&self) -> [(&'static str, PathBuf); 4] {
        [
            ("HOME", self.home()),
            ("XDG_RUNTIME_DIR", self.root().join("run")),
            ("XDG_CONFIG_HOME", self.root().join("config")),
            ("XDG_STATE_HOME", self.root().join("state")),
        ]
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .envs(self.base_variables())
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .current_dir(self.home())
            .stdin(Stdio::null());
        command
    }

    /// Starts the daemon in the foreground and waits until it answers on its socket.
    ///
    /// # Panics
    /// When one runs already, or when it does not answer, with its log.
    pub fn start_daemon(&mut self, args: &[&str]) {
        assert!(self.daemon.is_none(), "this rig's daemon runs already");
        let child = self.spawn_daemon(args);
        let pid = child.id();
        self.daemon = Some(child);
        let socket = self.socket();
        let answered = blocking::try_wait_for(START, || {
            let ended = self.daemon.as_mut().and_then(|child| child.try_wait().unwrap());
            let probe = || {
                http::request_within(&socket, "GET", "/healthz", &[], None, Duration::from_secs(2))
            };
            match ended {
                Some(status) => Some(Err(format!("ended with {status}"))),
                None => probe().is_ok_and(|answer| answer.status == 200).then_some(Ok(())),
            }
        });
        match answered {
            Some(Ok(())) => {}
            Some(Err(how)) => panic!("occd (pid {pid}) {how}:\n{}", self.log()),
            None => panic!("occd (pid {pid}) does not answer within {START:?}:\n{}", self.log()),
        }
    }

    /// Starts a daemon without waiting for anything: for tests of two at once, or of one that fails.
    /// It is the caller's to wait for; the rig kills it at its own end.
    pub fn spawn_daemon(&self, args: &[&str]) -> Child {
        let log = || File::options().create(true).append(true).open(self.log_path()).unwrap();
        self.occd(args)
            .stdout(log())
            .stderr(log())
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start occd: {e}"))
    }

    /// Returns an `occd` command in this rig's environment.
    pub fn occd(&self, args: &[&str]) -> Command {
        let mut command = self.command(&self.daemon_binary.clone().unwrap_or_else(daemon_binary));
        command.args(args);
        command
    }

    /// Kills the daemon with SIGKILL.
    pub fn kill_daemon(&mut self) {
        if let Some(mut child) = self.daemon.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Ends the daemon with SIGTERM and returns how it ended.
    ///
    /// # Panics
    /// When it was not started by [`Self::start_daemon`], or does not end.
    pub fn terminate_daemon(&mut self) -> ExitStatus {
        let mut child = self.daemon.take().expect("no daemon was started by this rig");
        if let Some(process) = Process::find(child.id()) {
            process.signal(Signal::TERM);
        }
        let status = blocking::try_wait_for(STOP, || child.try_wait().unwrap());
        status.unwrap_or_else(|| {
            let _ = (child.kill(), child.wait());
            panic!("occd did not end within {STOP:?} of SIGTERM:\n{}", self.log())
        })
    }

    /// Returns the daemon's process id: that of [`Self::start_daemon`], else what the daemon on the
    /// socket says of itself.
    ///
    /// # Panics
    /// When no daemon runs.
    pub fn daemon_pid(&self) -> u32 {
        let started = self.daemon.as_ref().map(Child::id);
        started.or_else(|| self.pid_on_socket()).expect("no daemon runs in this rig")
    }

    fn pid_on_socket(&self) -> Option<u32> {
        let limit = Duration::from_secs(2);
        let answer =
            http::request_within(&self.socket(), "GET", "/v1/version", &[], None, limit).ok()?;
        let version: Value = serde_json::from_slice(&answer.body).ok()?;
        version.get("pid")?.as_u64()?.try_into().ok()
    }

    /// Returns the daemon's process.
    ///
    /// # Panics
    /// When no daemon runs.
    pub fn daemon(&self) -> Process {
        Process::find(self.daemon_pid()).expect("the daemon has ended")
    }

    /// Returns the number of the daemon's open file descriptors.
    pub fn daemon_fds(&self) -> usize {
        self.daemon().open_files().len()
    }

    /// Returns the daemon's resident memory in KiB.
    pub fn daemon_rss_kib(&self) -> u64 {
        self.daemon().memory_kib("Rss").expect("smaps_rollup cannot be read")
    }

    /// Returns the daemon's private dirty memory in KiB: what it alone costs.
    pub fn daemon_private_dirty_kib(&self) -> u64 {
        self.daemon().memory_kib("Private_Dirty").expect("smaps_rollup cannot be read")
    }

    /// Returns the daemon's child processes.
    pub fn daemon_children(&self) -> Vec<Process> {
        self.daemon().children()
    }

    /// Returns the number of the daemon's threads.
    pub fn daemon_threads(&self) -> usize {
        self.daemon().threads()
    }

    /// Returns the number of the tasks in the daemon's runtime.
    ///
    /// # Panics
    /// When the daemon does not say.
    pub fn daemon_tasks(&self) -> u64 {
        let health = self.http("GET", "/healthz", &[], None).json();
        health["tasks"].as_u64().expect("healthz has no tasks")
    }

    /// Returns an `occ` command in this rig's environment, without standard input.
    pub fn occ(&self, args: &[&str]) -> Command {
        let mut command = self.command(&client_binary());
        command.args(args);
        command
    }

    /// Runs `occ` to its end.
    pub fn run_occ(&self, args: &[&str]) -> Output {
        let output = self.occ(args).output().unwrap_or_else(|e| panic!("cannot start occ: {e}"));
        Output {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs `occ` to its end and returns its standard output.
    ///
    /// # Panics
    /// When it fails, with its error output.
    pub fn occ_ok(&self, args: &[&str]) -> String {
        let output = self.run_occ(args);
        assert!(
            output.status.success(),
            "occ {args:?} ended with {}\nstdout: {}\nstderr: {}",
            output.status,
            output.stdout,
            output.stderr
        );
        output.stdout
    }

    /// Sends a request to the daemon.
    ///
    /// # Panics
    /// When there is no answer.
    pub fn http(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Value>,
    ) -> Response {
        let body = body.map(|value| value.to_string());
        http::request(&self.socket(), method, path, headers, body.as_deref().map(str::as_bytes))
            .unwrap_or_else(|e| panic!("{method} {path}: {e}\n{}", self.log()))
    }

    /// Returns the daemon's output so far, of every start.
    pub fn log(&self) -> String {
        let own = std::fs::read(self.log_path()).unwrap_or_default();
        // A daemon that occ started logs to its own file.
        let of_occ = self.paths().log_file().ok().and_then(|path| std::fs::read(path).ok());
        String::from_utf8_lossy(&own).into_owned()
            + &String::from_utf8_lossy(&of_occ.unwrap_or_default())
    }

    fn log_path(&self) -> PathBuf {
        self.root().join("occd.log")
    }
}

/// Returns where the built `occd` is: `OCCD_BIN`, else beside the running test or tool.
pub fn daemon_binary() -> PathBuf {
    binary("occd", "OCCD_BIN")
}

/// Returns where the built `occ` is: `OCC_BIN`, else beside the running test or tool.
pub fn client_binary() -> PathBuf {
    binary("occ", "OCC_BIN")
}

fn binary(name: &str, variable: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    // Tests are in target/<profile>/deps or examples, tools in target/<profile>.
    let own = std::env::current_exe().unwrap();
    let found = own.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|p| p.is_file());
    found.unwrap_or_else(|| {
        panic!("{name} is not built beside {}: build them first: cargo build", own.display())
    })
}

impl Drop for DaemonRig {
    #[expect(clippy::print_stderr, reason = "the log explains the test that has just failed")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
            eprintln!("--- the end of the daemon's log ---\n{}\n---", tail.join("\n"));
        }
        self.kill_daemon();
        // Also what occ started, wherever its parent is now: the directory's name is in its environment.
        let root = self.root().display().to_string();
        proc::kill_all("the rig's processes", || proc::marked(&root));
    }
}

//! [`DockerRig`]: a private Docker Engine, with its own data, containerd and socket.
//!
//! It has no network (`--bridge=none`, no iptables), so nothing of the machine's is changed and
//! nothing is pulled: images are imported from busybox. It needs root.

use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::http;
use crate::keys::run;
use crate::proc::{self, Process, Signal};
use crate::require::{find_program, is_root, require};
use crate::wait::blocking;

/// How long dockerd may take to answer: it starts containerd first.
const START: Duration = Duration::from_secs(60);

/// How long dockerd may take to end after SIGTERM, with no container left.
const STOP: Duration = Duration::from_secs(20);

/// A running dockerd. Dropping it ends it with its containers, mounts and files.
#[derive(Debug)]
pub struct DockerRig {
    root: TempDir,
    dockerd: Option<Child>,
    bridge: Option<Bridge>,
}

/// A bridge of this machine that leads nowhere but to an engine's containers.
#[derive(Debug)]
struct Bridge {
    name: String,
}

/// The networks there are for bridges.
const NETWORKS: u32 = 128 * 64;

impl Bridge {
    /// Makes one with a network that no other has: of two that have the same, one is not reached.
    fn new() -> Self {
        // Tests run in processes of their own.
        let mut number = std::process::id() % NETWORKS;
        let name = loop {
            let name = format!("occ-br{number}");
            let mut add = Command::new("ip");
            let added = add.args(["link", "add", &name, "type", "bridge"]).output().unwrap();
            let said = String::from_utf8_lossy(&added.stderr).into_owned();
            match said.contains("File exists") {
                // Its name is its network: another engine's, or what a test that was killed has left.
                true => number = (number + 1) % NETWORKS,
                false => {
                    assert!(added.status.success(), "a bridge cannot be made: {said}");
                    break name;
                }
            }
        };
        // Of 10.0.0.0/8, what nobody's router hands out.
        let (high, low) = (64 + number / 64, number % 64 * 4);
        let ip = |args: &[&str]| run(Command::new("ip").args(args));
        ip(&["addr", "add", &format!("10.{high}.{low}.1/24"), "dev", &name]);
        ip(&["link", "set", &name, "up"]);
        Self { name }
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "del", &self.name]).output();
    }
}

impl DockerRig {
    /// Returns why Docker cannot be used here, if it cannot.
    pub fn availability() -> Result<(), String> {
        for program in ["dockerd", "containerd", "runc", "docker", "busybox", "tar"] {
            find_program(program)?;
        }
        is_root().then_some(()).ok_or_else(|| "only root can run dockerd".to_owned())
    }

    /// Returns whether Docker can be used here.
    pub fn available() -> bool {
        Self::availability().is_ok()
    }

    /// Returns whether a test with Docker may run; says so in its output when not.
    ///
    /// # Panics
    /// When Docker cannot be used and `OCC_REQUIRE_DOCKER=1`.
    pub fn require() -> bool {
        require("a Docker Engine", Self::availability(), "OCC_REQUIRE_DOCKER")
    }

    /// Starts an engine and waits until it answers. With a storage driver that does not work here it
    /// falls back to `vfs`.
    pub fn start() -> Self {
        Self::start_with(None)
    }

    /// The same with a network, whose containers can publish ports.
    pub fn start_with_network() -> Self {
        Self::start_with(Some(Bridge::new()))
    }

    /// The same with a disk of so many MiB.
    pub fn start_with_disk(mib: u32) -> Self {
        let root = Self::root();
        let data = root.path().join("data");
        std::fs::create_dir(&data).unwrap();
        let size = format!("size={mib}m");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(data));
        Self::start_in(root, None)
    }

    fn root() -> TempDir {
        let root = tempfile::Builder::new().prefix("occ-docker-").tempdir_in("/tmp").unwrap();
        // A login user must be able to reach the socket; who may open it is the socket's mode.
        std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
        root
    }

    fn start_with(bridge: Option<Bridge>) -> Self {
        Self::start_in(Self::root(), bridge)
    }

    fn start_in(root: TempDir, bridge: Option<Bridge>) -> Self {
        let mut rig = Self { root, dockerd: None, bridge };
        if rig.try_start(&[]).is_err() {
            let started = rig.try_start(&["--storage-driver", "vfs"]);
            started.unwrap_or_else(|log| panic!("dockerd does not start:\n{log}"));
        }
        rig
    }

    fn try_start(&mut self, args: &[&str]) -> Result<(), String> {
        let dir = self.root.path();
        let log = || File::options().create(true).append(true).open(self.log_path()).unwrap();
        let mut child = Command::new(find_program("dockerd").unwrap())
            .arg("--data-root")
            .arg(dir.join("data"))
            .arg("--exec-root")
            .arg(dir.join("exec"))
            .arg("--pidfile")
            .arg(dir.join("pid"))
            .arg("--host")
            .arg(self.host())
            .args(["--iptables=false", "--ip6tables=false", "--ip-forward=false"])
            .arg(format!("--bridge={}", self.bridge.as_ref().map_or("none", |b| &b.name)))
            .args(args)
            .stdin(Stdio::null())
            .stdout(log())
            .stderr(log())
            .spawn()
            .unwrap();
        let answered = blocking::try_wait_for(START, || {
            if let Some(status) = child.try_wait().unwrap() {
                return Some(Err(status));
            }
            let limit = Duration::from_secs(5);
            let ping = http::request_within(
                &self.socket(),
                "GET",
                "/_ping",
                &[("Host", "docker")],
                None,
                limit,
            );
            ping.is_ok_and(|answer| answer.status == 200).then_some(Ok(()))
        });
        self.dockerd = Some(child);
        if answered == Some(Ok(())) {
            return Ok(());
        }
        self.stop();
        Err(self.log())
    }

    /// Returns the engine's socket. Only root may open it until [`Self::open_to_everyone`].
    pub fn socket(&self) -> PathBuf {
        self.root.path().join("docker.sock")
    }

    /// Returns the socket as `DOCKER_HOST` has it.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Lets every user of the machine open the socket, as membership of the `docker` group does.
    pub fn open_to_everyone(&self) {
        self.set_socket_mode(0o666);
    }

    /// Lets only root open the socket.
    pub fn close_to_others(&self) {
        self.set_socket_mode(0o600);
    }

    fn set_socket_mode(&self, mode: u32) {
        std::fs::set_permissions(self.socket(), std::fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Returns a `docker` command for this engine.
    pub fn docker(&self, args: &[&str]) -> Command {
        let mut command = Command::new(find_program("docker").unwrap());
        command
            .env_remove("DOCKER_CONTEXT")
            .env("DOCKER_HOST", self.host())
            // Nothing of the person's own configuration.
            .env("DOCKER_CONFIG", self.root.path().join("config"))
            .args(args)
            .stdin(Stdio::null());
        command
    }

    /// Runs `docker` and returns its standard output, trimmed.
    ///
    /// # Panics
    /// When it fails, with its error output.
    pub fn docker_ok(&self, args: &[&str]) -> String {
        run(&mut self.docker(args)).trim().to_owned()
    }

    /// Makes an image from the machine's static busybox, under a name such as `busybox:1`.
    pub fn import_busybox(&self, tag: &str) {
        self.import_busybox_with(tag, &[]);
    }

    /// The same with changes of its configuration, such as `LABEL a=b` (`docker import --change`).
    pub fn import_busybox_with(&self, tag: &str, changes: &[&str]) {
        self.import(tag, &[], changes);
    }

    /// Makes an image that stands in for the sandbox: it serves its version over HTTP on port 3000. `files` are more
    /// files of it: a path, a mode and a content.
    pub fn import_sandbox(&self, tag: &str, version: &str, files: &[(&str, u32, &str)]) {
        let label = format!("LABEL org.opencode-cloud.version={version}");
        // The first process of a container hears TERM only if it has said so.
        let serve = "CMD trap 'exit 0' TERM; echo serving; httpd -f -p 3000 -h /www & wait";
        let mut all = vec![("www/index.html", 0o644, version)];
        all.extend_from_slice(files);
        self.import(tag, &all, &[&label, serve, "EXPOSE 3000", "ENV PATH=/bin IMAGE=yes"]);
    }

    /// Makes an image from busybox and more files (a path, a mode and a content), with changes of its configuration.
    pub fn import(&self, tag: &str, files: &[(&str, u32, &str)], changes: &[&str]) {
        let tree = tempfile::tempdir_in(self.root.path()).unwrap();
        let bin = tree.path().join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::create_dir_all(tree.path().join("tmp")).unwrap();
        std::fs::copy(find_program("busybox").unwrap(), bin.join("busybox")).unwrap();
        for applet in run(Command::new("busybox").arg("--list")).lines() {
            // busybox itself is in its list too.
            let _ = std::os::unix::fs::symlink("busybox", bin.join(applet));
        }
        for (path, mode, content) in files {
            let path = tree.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(*mode)).unwrap();
        }
        let archive = tree.path().with_extension("tar");
        run(Command::new("tar").arg("-C").arg(tree.path()).arg("-cf").arg(&archive).arg("."));
        let changes = changes.iter().flat_map(|change| ["--change", change]);
        run(self.docker(&["import"]).args(changes).arg(&archive).arg(tag));
        std::fs::remove_file(archive).unwrap();
    }

    /// Makes an image of one program and the libraries that it loads, beside busybox.
    pub fn import_program(&self, tag: &str, program: &Path, changes: &[&str]) {
        self.import("program-base:1", &[], &[]);
        let build = tempfile::tempdir_in(self.root.path()).unwrap();
        let tree = build.path().join("tree");
        let libraries = run(Command::new("ldd").arg(program));
        let paths = libraries.split_whitespace().filter(|word| word.starts_with('/'));
        for library in paths {
            let to = tree.join(library.trim_start_matches('/'));
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(library, to).unwrap();
        }
        let bin = tree.join("usr/bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::copy(program, bin.join(program.file_name().unwrap())).unwrap();
        let file = format!("FROM program-base:1\nCOPY tree /\n{}\n", changes.join("\n"));
        std::fs::write(build.path().join("Dockerfile"), file).unwrap();
        let mut docker = self.docker(&["build", "--quiet", "--tag", tag]);
        run(docker.arg(build.path()).env("DOCKER_BUILDKIT", "0"));
    }

    /// Starts a container in the background: `args` are options, image and command of `docker run`.
    /// Returns its identifier.
    pub fn run(&self, name: &str, args: &[&str]) -> String {
        self.docker_ok(&[&["run", "--detach", "--network", "none", "--name", name], args].concat())
    }

    /// Runs `docker` to its end, whatever it says.
    pub fn output(&self, args: &[&str]) -> Output {
        self.docker(args).output().unwrap()
    }

    /// Stops and starts the engine, as an upgrade of Docker does. Containers end.
    pub fn restart(&mut self) {
        self.stop();
        self.try_start(&[]).unwrap_or_else(|log| panic!("dockerd does not start again:\n{log}"));
    }

    /// The same with the engine ending its containers itself, which it starts again where they say so.
    pub fn restart_with_containers(&mut self) {
        self.end(false);
        self.try_start(&[]).unwrap_or_else(|log| panic!("dockerd does not start again:\n{log}"));
    }

    /// Stops the engine with its containers.
    pub fn stop(&mut self) {
        self.end(true);
    }

    fn end(&mut self, kill: bool) {
        let Some(mut child) = self.dockerd.take() else { return };
        // A container whose first program ignores SIGTERM would hold dockerd up for ten seconds each.
        if kill && let Ok(list) = self.docker(&["ps", "--quiet"]).output() {
            for id in String::from_utf8_lossy(&list.stdout).split_whitespace() {
                let _ = self.docker(&["kill", id]).output();
            }
        }
        if let Some(process) = Process::find(child.id()) {
            process.signal(Signal::TERM);
        }
        let ended = blocking::try_wait_for(STOP, || child.try_wait().unwrap());
        // Its containerd and shims carry the directory in their arguments. So may others, such as a
        // client of the socket: those are not ours to end.
        let root = self.root.path().display().to_string();
        let is_docker = |process: &Process| {
            let name = process.name();
            name == "dockerd" || name.starts_with("containerd")
        };
        proc::kill_all("dockerd and what it started", || {
            proc::marked(&root).into_iter().filter(is_docker).collect()
        });
        if ended.is_none() {
            let _ = child.wait();
        }
        unmount_below(self.root.path());
    }

    /// Returns dockerd's log.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    fn log_path(&self) -> PathBuf {
        self.root.path().join("dockerd.log")
    }
}

/// Unmounts what is mounted below a directory, the innermost first.
fn unmount_below(dir: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // The fifth field is the mount point (proc(5)).
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    let below: Vec<&str> = points.filter(|point| Path::new(point).starts_with(dir)).collect();
    for point in below.into_iter().rev() {
        let _ = Command::new("umount").args(["--lazy", point]).output();
    }
}

impl Drop for DockerRig {
    fn drop(&mut self) {
        self.stop();
    }
}

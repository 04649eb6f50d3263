//! The programs that the tests run, and their Debian packages.

use std::process::Command;

use crate::{Failed, run};

/// Programs and the package that has them. Tests skip, visibly, what is not there.
const PROGRAMS: [(&str, &str); 38] = [
    ("sshd", "openssh-server"),
    ("ssh", "openssh-client"),
    ("dropbear", "dropbear-bin"),
    ("dropbearkey", "dropbear-bin"),
    ("dockerd", "docker.io"),
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("docker", "docker.io"),
    ("docker-registry", "docker-registry"),
    ("docker-compose", "docker-compose"),
    ("busybox", "busybox-static"),
    ("systemctl", "systemd"),
    ("systemd-analyze", "systemd"),
    ("curl", "curl"),
    ("jq", "jq"),
    ("ip", "iproute2"),
    ("python3", "python3-minimal"),
    ("pip3", "python3-pip"),
    ("dbus-daemon", "dbus-daemon"),
    ("dbus-send", "dbus-bin"),
    ("gnome-keyring-daemon", "gnome-keyring"),
    ("secret-tool", "libsecret-tools"),
    ("age", "age"),
    ("age-keygen", "age"),
    ("rsync", "rsync"),
    ("inotifywait", "inotify-tools"),
    ("rg", "ripgrep"),
    ("tmux", "tmux"),
    ("screen", "screen"),
    ("vi", "vim-tiny"),
    ("nvim", "neovim"),
    ("top", "procps"),
    ("tput", "ncurses-bin"),
    ("zsh", "zsh"),
    ("fish", "fish"),
    ("mandoc", "mandoc"),
    ("shellcheck", "shellcheck"),
    ("faketime", "faketime"),
];

/// The variable that makes a missing server a failure, and the programs that the server needs.
pub(crate) const SERVERS: [(&str, &[&str]); 6] = [
    ("OCC_REQUIRE_SSHD", &["sshd", "ssh", "dropbear", "dropbearkey"]),
    (
        "OCC_REQUIRE_DOCKER",
        &[
            "dockerd",
            "containerd",
            "runc",
            "docker",
            "docker-registry",
            "docker-compose",
            "busybox",
        ],
    ),
    (
        "OCC_REQUIRE_KEYRING",
        &["dbus-daemon", "dbus-send", "gnome-keyring-daemon", "secret-tool", "age", "age-keygen"],
    ),
    ("OCC_REQUIRE_TERMINAL", &["tmux", "screen", "vi", "nvim", "top", "tput"]),
    ("OCC_REQUIRE_SHELLS", &["bash", "zsh", "fish", "mandoc", "shellcheck", "dpkg-deb"]),
    ("OCC_REQUIRE_SYSTEMD", &["systemctl", "unshare", "mount", "ip", "faketime"]),
];

/// Returns whether a program is in the PATH or where servers are, which is not in everybody's PATH.
pub(crate) fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(Into::into);
    std::env::split_paths(&path).chain(system).any(|dir| dir.join(program).is_file())
}

/// Returns whether this is root: only root installs packages, and runs dropbear and dockerd in tests.
pub(crate) fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// Installs what is missing; where that cannot be done, says what is missing and goes on.
pub(crate) fn install() {
    let missing = PROGRAMS.iter().filter(|(program, _)| !is_installed(program));
    let mut packages: Vec<&str> = missing.map(|(_, package)| *package).collect();
    packages.dedup();
    if packages.is_empty() {
        return;
    }
    let list = packages.join(" ");
    if !is_root() || !is_installed("apt-get") {
        eprintln!("xtask: not installed: {list}. The tests that need them are skipped.");
        return;
    }
    eprintln!("xtask: installing {list}");
    // The package lists may be good enough: fetching them takes longer than most of what follows.
    let install = || apt(&[&["install", "-y", "--no-install-recommends"], &packages[..]].concat());
    let update = || apt(&["update"]);
    if let Err(Failed(why)) = install().or_else(|_| update().and_then(|()| install())) {
        eprintln!("xtask: {why}. The tests that need {list} are skipped.");
    }
}

fn apt(args: &[&str]) -> Result<(), Failed> {
    run(Command::new("apt-get").arg("-qq").args(args).env("DEBIAN_FRONTEND", "noninteractive"))
}

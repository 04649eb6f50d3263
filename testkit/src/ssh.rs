//! The real `ssh` client, kept away from the person's own configuration, keys and agent.

use std::io::Read as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Returns an `ssh` command for a server, ready for the remote command as its arguments. It reads no
/// configuration file, offers only `key`, takes any host key and asks nothing.
pub fn ssh(addr: SocketAddr, user: &str, key: &Path) -> Command {
    let mut command = Command::new("ssh");
    command
        .args(["-F", "none", "-T", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes"])
        .args(["-o", "IdentityAgent=none", "-o", "StrictHostKeyChecking=no"])
        .args(["-o", "UserKnownHostsFile=/dev/null", "-o", "GlobalKnownHostsFile=/dev/null"])
        .args(["-o", "LogLevel=ERROR", "-o", "UpdateHostKeys=no"])
        .arg("-i")
        .arg(key)
        .args(["-p", &addr.port().to_string(), "-l", user])
        .arg(addr.ip().to_string())
        .stdin(Stdio::null());
    command
}

/// Runs `script` with an [`ssh`] command and returns when it has started on the server. Its input and
/// output are pipes.
///
/// # Panics
/// When it does not start.
pub fn start(mut command: Command, script: &str) -> Child {
    let mut child = command
        .arg(format!("echo started; {script}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = [0; b"started\n".len()];
    child.stdout.as_mut().unwrap().read_exact(&mut line).expect("the command did not start");
    child
}

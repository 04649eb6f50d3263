//! Another program in occd's place: whether it is one, and what to do about it.

use std::ffi::OsStr;
use std::path::Path;

use occ_proto::paths::{is_grants, is_read_only};
use occ_proto::text::sanitize;

use crate::autostart::{occd_program, units};
use crate::commands::Context;
use crate::endpoint::{connect_checked, shown, socket_path};
use crate::error::CliError;
use crate::locks;

/// What the kernel adds to the name of a program that was replaced or removed since it was started (proc(5)).
const DELETED: &str = " (deleted)";

/// Returns why nothing was answered, where it is no occd of this user's that listens: a daemon of ours has a lock.
pub(crate) async fn explained(context: &Context<'_>, error: CliError) -> CliError {
    let (Some(why), Ok(socket)) = (&error.unanswered, socket_path(context)) else { return error };
    // A daemon has these beside the socket that goes with its lock.
    let is_beside = is_grants(&socket) || is_read_only(&socket);
    if is_beside || locks::holder(&socket).is_some() {
        return error;
    }
    let Ok(stream) = connect_checked(&socket).await else { return error };
    let Ok(peer) = stream.peer_cred() else { return error };
    let (uid, socket) = (peer.uid(), shown(&socket));
    // One outside of this container has no number here.
    let pid = peer.pid().filter(|pid| *pid > 0);
    let process = pid.map_or_else(String::new, |pid| format!(" (process {pid})"));
    if uid != rustix::process::geteuid().as_raw() {
        let message = format!(
            "user {uid}'s program on {socket}{process} closed the connection without an answer: occd serves its own user alone."
        );
        let hint = "have that user type: occ grant --any-uid, with what it is to give; OCC_SOCKET names its socket in a container (occ grant --help)";
        return CliError::not_occd(message).hint(hint);
    }
    // systemd listens for the daemon that it is to start.
    if units(context).await.is_some_and(|units| units.listens) {
        return error;
    }
    let message = format!(
        "what listens on {socket}{process} is no occd, or does not speak its protocol: {why}."
    );
    let hint = match pid {
        Some(pid) => look_at(pid),
        None => format!("ss -xlp shows what it is; rm {socket} if it is to have nothing there"),
    };
    CliError::not_occd(message).hint(hint)
}

/// Returns the name of a process's program; nothing where it is occd's, or cannot be told.
pub(crate) fn name(pid: i32) -> Option<String> {
    // Another user's can be told by its short name alone.
    let exe = std::fs::read_link(format!("/proc/{pid}/exe")).ok();
    let exe = exe.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy());
    let name = match exe {
        Some(name) => name.trim_end_matches(DELETED).to_owned(),
        None => std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim_end().to_owned(),
    };
    let own = occd_program();
    let is_occd = name == "occd" || Path::new(&own).file_name() == Some(OsStr::new(&name));
    (!is_occd).then(|| sanitize(&name))
}

/// Returns the error about a program of that name that has said nothing for so many seconds.
pub(crate) fn silent(socket: &Path, pid: i32, name: &str, seconds: u64) -> CliError {
    let socket = shown(socket);
    CliError::not_occd(format!(
        "what listens on {socket} (process {pid}, {name}) is no occd, and has said nothing for {seconds} seconds."
    ))
    .hint(look_at(pid))
}

fn look_at(pid: i32) -> String {
    format!("ps -fp {pid} shows what it is; kill {pid} ends it, and the next command starts occd")
}

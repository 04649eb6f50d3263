//! What to type next, for the daemon's codes.
//!
//! A hint is a command that works as it stands: what the failure names (a file, a method of logging in, a jump
//! host's address) is in it.

mod files;
mod login;
mod start;

use occ_proto::error::Code;
use occ_proto::host::HostConfig;
use occ_proto::text::sanitize;
use occ_proto::{HostName, UserName};

use files::{check_key, directory_of, file_of, private, too_open, unsafe_file};
pub(crate) use files::{
    damaged_passwords, denied, exposed, is_out_of_reach, kept_passwords, shell_word, unusable,
};
use login::{
    address_if_via, address_of, allow, authorize, certificate, copy_id, key, name_a_key, new_key,
    write, write_local,
};
pub(crate) use login::{agent_cure, is_closed};
pub(crate) use start::{NO_HOME, and_then, cure, cure_of, in_the_way, state_dir, ways_to};

/// There are keys that the server has not seen.
pub(crate) const NOT_OFFERED: &str = "more keys were not offered";
/// A jump host's sshd does not let us through.
pub(crate) const NO_WAY_THROUGH: &str = "its sshd_config forbids it";
/// The server wants to be left alone, see sshd_config(5), MaxStartups and PerSourcePenalties.
const LEFT_ALONE: &str = "the server refuses connections for a while";
/// The program on the way to the server is to blame.
pub(crate) const PROXY_COMMAND: &str = "the ProxyCommand ";
/// What is written to known_hosts is gone.
const KEEPS_NOTHING: &str = "which keeps nothing";

/// There is no image from before an update.
const NO_WAY_BACK: &str = "to go back to";
/// A sandbox was put in another one's place, and failed.
const UNDONE: &str = "the new sandbox failed and was undone";
/// An operation was cut short.
const DAEMON_ENDED: &str = "occd ended in the middle of it";
/// Docker was installed and does not answer.
const IN_VAIN: &str = "every command went well";
/// Docker runs, and does nothing.
const HUNG: &str = "takes connections, and says nothing";
/// There is no room.
const FULL: &str = "the disk is full";
/// Nothing answers as cockpit.
const NO_COCKPIT: &str = "no cockpit answers";
/// Docker does not run.
const NO_SOCKET: &str = "its socket is not there";
/// The socket that is set is not there.
const SET_WRONGLY: &str = "docker_socket in occd.toml names";
/// The server forwards no sockets, and there is no program to stand in.
const NO_SOCKETS: &str = "forbids forwarding of sockets";
/// Somebody wants to allow what they have asked for.
const OWN_APPROVAL: &str = "Whoever wants it done";
/// A question is open, elsewhere.
const ELSEWHERE: &str = "somebody else is asked";
/// Too much is being done, which is no fault of other clients.
const OPERATIONS: &str = " operations at work";
/// It is sudo that asks.
const SUDO: &str = "the sudo password of ";
/// What the daemon says where a directory is missing, not a file.
const NO_DIRECTORY: &str = "the directory ";
/// How that comes to be there.
pub(crate) const MAKE_PATH: &str = "occ cp --mkpath makes it";

/// Returns what to do about a daemon that does nothing. It does not hear TERM either: somebody has stopped it with SIGSTOP,
/// or it is stuck.
pub(crate) fn wake_or_kill(pid: i32) -> String {
    format!("kill -CONT {pid} if it was stopped; else kill -9 {pid}")
}

/// Returns what to type next, for the daemon's code and its sentence. `host` is absent where no host is concerned.
pub(crate) fn hint(code: Code, host: Option<&str>, detail: &str) -> Option<String> {
    let h = host.unwrap_or("HOST");
    Some(match code {
        Code::HostNotFound if h.starts_with(HostName::VIA) => {
            "occ status --all shows the jump hosts in use".to_owned()
        }
        Code::HostNotFound => "occ host list shows the available hosts".to_owned(),
        Code::PolicyDenied if detail.contains(OWN_APPROVAL) => {
            "occ prompts --allow N in another terminal".to_owned()
        }
        Code::PolicyDenied => match host {
            Some(h) => format!("occ policy show --host {h} shows what may be done"),
            None => "occ policy show --local shows what may be done".to_owned(),
        },
        Code::ReadOnly => {
            "unset OCC_SOCKET, or leave out --socket: the usual socket has everything".to_owned()
        }
        Code::TraceRunning => "wait for its end; Ctrl-C ends an occ trace".to_owned(),
        Code::GrantExists | Code::GrantNotFound => "occ grant list shows them".to_owned(),
        Code::HostBusy => format!("occ host remove {h} -f ends its work"),
        Code::EditConflict => format!("occ host show {h}, then edit again"),
        Code::HostsFileInvalid | Code::ConfigInvalid
            if let Some(cure) = exposed(detail).or_else(|| denied(detail)) =>
        {
            cure
        }
        Code::HostsFileInvalid => {
            "mend hosts.json by hand; hosts.json.bak, if there is one, is how it was before occ changed it last".to_owned()
        }
        Code::HostsFileWrite | Code::StateWrite if let Some(cure) = denied(detail) => cure,
        Code::HostsFileWrite => {
            "look at the permissions and the free space of hosts.json's directory".to_owned()
        }
        Code::StateWrite => {
            let dir = state_dir().unwrap_or_else(|| "occd's state directory".to_owned());
            format!("df -h {dir}; ls -ld {dir}")
        }
        Code::ConfigInvalid => "mend that file, then occ daemon restart".to_owned(),
        Code::HostUnreachable if detail.contains(PROXY_COMMAND) => {
            format!("{}; then occ reconnect --host {h}", proxy_command("ADDRESS"))
        }
        Code::HostUnreachable if detail.contains(LEFT_ALONE) => {
            "wait: occd tries again by itself, more seldom".to_owned()
        }
        Code::HostUnreachable if detail.contains(NO_WAY_THROUGH) => {
            // Another may be named before it, which waits for it.
            let hop = detail.split_once(" does not connect to ");
            let hop = hop.and_then(|(before, _)| before.rsplit_once("the jump host "));
            let hop = hop.map_or_else(|| "the jump host".to_owned(), |(_, hop)| address_if_via(hop));
            format!("AllowTcpForwarding and PermitOpen in sshd_config of {hop} decide that; then occ reconnect --host {h}")
        }
        Code::HostUnreachable | Code::NotSsh => format!("occ host test {h} shows where it stops"),
        Code::NoCommonAlgorithm => format!(
            "Ciphers, MACs, KexAlgorithms and HostKeyAlgorithms of ssh_config choose what is offered; occ host show {h}"
        ),
        Code::HostStopped => format!("occ connect --host {h}"),
        Code::AuthFailed => format!("{}; then occ reconnect --host {h}", new_key(h, detail)),
        Code::AgentRefused => format!(
            "confirm or touch the key when the agent asks: occ connect --host {h}; ssh-add -l shows what it holds"
        ),
        Code::AuthMethodNeeded => format!("{}; then occ connect --host {h}", allow(h, detail)),
        Code::LoginRefused => format!("occ connect --host {h} asks again"),
        Code::NoIdentity | Code::IdentityInvalid if let Some(file) = too_open(detail) => {
            format!("chmod 600 {file}{}", then_reconnect(host))
        }
        Code::NoIdentity => format!("{}; then occ reconnect --host {h}", key(h, detail)),
        Code::KeyLocked => format!("occ unlock --host {h} asks for the passphrase"),
        Code::InputNeeded if detail.contains(SUDO) && was_asked(detail) => {
            format!("occ host install-docker {h} asks again")
        }
        Code::InputNeeded if detail.contains(SUDO) => {
            format!("on a terminal: occ host install-docker {h} asks")
        }
        Code::InputNeeded => {
            let connect = format!("occ connect --host {h}");
            let asks = match (was_asked(detail), detail.contains(ELSEWHERE)) {
                (true, _) => format!("{connect} asks again"),
                (false, true) => {
                    format!("on a terminal: {connect} asks; occ prompts shows what is asked")
                }
                (false, false) => format!("on a terminal: {connect} asks"),
            };
            match kept_passwords(detail) {
                Some(cure) => format!("{cure}; {asks}"),
                None => asks,
            }
        }
        Code::PromptNotFound => "occ prompts shows what is asked".to_owned(),
        Code::IdentityTooOpen => format!("{}{}", private(detail), then_reconnect(host)),
        Code::IdentityInvalid => {
            let check = check_key(detail);
            match host {
                Some(h) => format!("{check}; {}", name_a_key(h, "another")),
                None => check,
            }
        }
        Code::HostKeyRevoked => format!(
            "somebody has marked that key: ask the server's owner for another; then occ reconnect --host {h}"
        ),
        Code::HostCertificate if detail.contains("it is not valid before ") => format!(
            "check the clock here, or ask the server's owner; then occ reconnect --host {h}"
        ),
        Code::HostCertificate if detail.contains("it expired on ") => format!(
            "ask the server's owner to renew it (there, ssh-keygen -L -f CERT shows it); then occ reconnect --host {h}"
        ),
        Code::HostCertificate => format!(
            "ask the server's owner for a certificate that is good; then occ reconnect --host {h}"
        ),
        Code::HostKeyChanged | Code::HostKeyUnknown => format!(
            "ask the server's owner which key is right; occ trust --host {h} shows it and asks"
        ),
        Code::KnownHostsInvalid if detail.contains(KEEPS_NOTHING) => format!(
            "name a file in UserKnownHostsFile of ssh_config, or take that line away; then occ trust --host {h}"
        ),
        Code::KnownHostsInvalid => format!(
            "look at that file and its directory (who may read and write them), and at the line that is named; then occ reconnect --host {h}"
        ),
        Code::SshConfigInvalid => match unsafe_file(detail) {
            Some(cure) => format!("{cure}; then occ reconnect --host {h}"),
            None => format!("ssh -G ADDRESS shows what applies; occ host show {h}"),
        },
        Code::ExecRefused if detail.contains("gives no terminal") => {
            format!("occ exec --host {h} -- PROGRAM needs none; the server's owner has PermitTTY no")
        }
        Code::SessionRefused => {
            format!("see MaxSessions in the server's sshd_config; occ status -v --host {h}")
        }
        Code::OutcomeUnknown if detail.contains("run again without harm") => {
            format!("occ host install-docker {h} begins anew")
        }
        Code::OutcomeUnknown if detail.contains(DAEMON_ENDED) => {
            format!("occ status{} shows how it is now", at(host))
        }
        Code::OutcomeUnknown => format!("look on {h} before running it again"),
        Code::CommandTooLong => "give it the rest as input, or in a file on the host".to_owned(),
        Code::SessionNotFound => "occ session list shows the sessions".to_owned(),
        Code::SessionGone => "occ session kill NAME ends what may be left of it; occ session rm NAME does, and forgets it".to_owned(),
        Code::SessionExists => "occ session list shows the names; choose another with --name".to_owned(),
        Code::SessionRunning if detail.contains("by somebody else") => {
            "the same again, in a moment; occ session list shows how it is".to_owned()
        }
        Code::SessionRunning => "occ session kill NAME ends its program".to_owned(),
        Code::SessionEnded => "occ session logs NAME shows its output; occ session start --name NAME starts it again".to_owned(),
        Code::OutputOverflow => "write it to a file on the host, or read it faster".to_owned(),
        // Not after it was installed in vain.
        Code::DockerUnavailable if has_no_docker(detail) && !detail.contains(IN_VAIN) => {
            format!("occ host install-docker {} installs it", host?)
        }
        Code::DockerUnavailable if detail.contains(NO_SOCKETS) => format!(
            "AllowStreamLocalForwarding in sshd_config of {h} decides that; then occ reconnect --host {h}"
        ),
        // An engine that is stopped may have taken its socket with it.
        Code::DockerUnavailable if detail.contains(SET_WRONGLY) => {
            format!("{}; if it runs, {}", start_docker(host), another_socket(host))
        }
        Code::DockerUnavailable if detail.contains(IN_VAIN) => {
            format!("occ host test {h} shows what was tried")
        }
        Code::DockerUnavailable if detail.contains(HUNG) => {
            format!(
                "on {}: sudo systemctl restart docker, where systemd runs; its log says more: journalctl -u docker",
                host.unwrap_or("this machine")
            )
        }
        Code::DockerUnavailable => start_docker(host),
        Code::DockerTooOld => match host {
            Some(h) => format!("update Docker on {h} to 20.10 or newer; then occ reconnect --host {h}"),
            None => "update Docker on this machine to 20.10 or newer".to_owned(),
        },
        Code::DockerPermission => open_socket(host, "USER", detail),
        Code::NoSandbox => format!("occ start{}", at(host)),
        Code::SandboxForeign => {
            let name = detail.split_once("the container ").and_then(|(_, rest)| rest.split_once(' '));
            let name = name.map_or("NAME", |(name, _)| name);
            format!(
                "ask whoever made it; occ docker{} -- rename {name} {name}-theirs gives it another name and keeps it",
                at(host)
            )
        }
        Code::ImageUnavailable if detail.contains(NO_WAY_BACK) => format!(
            "an update keeps the image from before it; occ docker{} -- image ls shows those that are there",
            at(host)
        ),
        Code::ImageUnavailable if detail.contains(FULL) => {
            let docker = format!("occ docker{} -- system df", at(host));
            let disk = match host {
                Some(h) => format!("occ exec --host {h} -- df -h"),
                None => "df -h".to_owned(),
            };
            format!("{docker} shows what of Docker's takes the room; {disk} shows which disk is full")
        }
        Code::ImageUnavailable => {
            let setting = "image = \"NAME\"";
            let another = match host {
                Some(h) => write(h, ".sandbox", setting),
                None => write_local(".sandbox", setting),
            };
            format!("occ docker{} -- pull IMAGE shows more; {another} names another", at(host))
        }
        Code::PortTaken => format!("occ start{} -p PORT takes another", at(host)),
        Code::MountInvalid => format!("occ start{} --mount /path/there:/path/inside", at(host)),
        Code::ConfirmationNeeded => format!("occ start{} and the same options with --yes makes it anew; its volumes stay", at(host)),
        // The logs are the old one's.
        Code::SandboxNotReady if detail.contains(UNDONE) => {
            "occ operations lists it; occ operations attach ID shows what the new one said".to_owned()
        }
        Code::SandboxNotReady if detail.contains(NO_COCKPIT) => format!(
            "its image may have none: \"cockpit_enabled\": false in config.json, then occ start{} --yes publishes no port for it",
            at(host)
        ),
        Code::SandboxNotReady => format!("occ logs{}", at(host)),
        Code::SandboxConfigInvalid => "mend that file; opencode-cloud config validates it".to_owned(),
        Code::InstallImpossible => format!("when Docker is there: occ reconnect --host {h}"),
        Code::InstallFailed => format!("mend what it says there; then occ host install-docker {h} begins anew"),
        Code::PlanChanged => format!("occ host install-docker {h} shows them again"),
        Code::OperationRunning => {
            let id = detail.rsplit_once(": ").map(|(_, id)| id.trim_end_matches('.'));
            let id = id.filter(|id| id.chars().all(|c| c.is_ascii_alphanumeric())).unwrap_or("ID");
            format!("occ operations shows it; occ operations attach {id} follows it")
        }
        Code::OperationNotFound => "occ operations lists them".to_owned(),
        Code::LocalPortTaken => "occ forward list shows occ's own; port 0 takes one that is free".to_owned(),
        Code::ForwardFailed => "take another port or path; port 0 takes one that is free".to_owned(),
        Code::ForwardRefused => {
            format!("sshd_config of {h} decides that, or another program has it; occ forward list")
        }
        Code::ForwardNotFound => "occ forward list shows them".to_owned(),
        Code::FileNotFound if detail.contains(NO_DIRECTORY) => MAKE_PATH.to_owned(),
        Code::FileNotFound => format!("occ ls {} shows what is there", directory_of(h, detail)),
        Code::PermissionDenied => {
            format!("occ ls -la {} shows whose it is", directory_of(h, detail))
        }
        Code::IsDirectory => "occ cp -r copies a directory, occ ls lists one".to_owned(),
        Code::NotDirectory | Code::FileExists => {
            format!("occ ls -la {}", directory_of(h, detail))
        }
        Code::NotEmpty => "occ rm -r removes it with everything in it".to_owned(),
        Code::NameTooLong => "give it a shorter name; most hosts allow 255 bytes".to_owned(),
        Code::NoSpace => match host {
            Some(h) => format!("occ exec --host {h} -- df -h shows what is full"),
            None => "df -h shows what is full".to_owned(),
        },
        Code::FileChanged => format!("occ cat {} shows what it is now", file_of(h, detail)),
        Code::NoSftp => format!(
            "on {h}: Subsystem sftp internal-sftp in sshd_config, or install openssh-sftp-server; a ForceCommand or start-up file must print nothing for it"
        ),
        Code::TooManyRequests if detail.contains(OPERATIONS) => {
            "wait until some of it is done; [limits] of occd.toml says how much may be done at once"
                .to_owned()
        }
        Code::TooManyRequests => {
            "ss -xp shows which programs have connections to occd.sock; end those that hang, then again"
                .to_owned()
        }
        Code::FileInterrupted => format!("occ connect --host {h}, then again"),
        Code::ShuttingDown => "occ daemon start".to_owned(),
        Code::Internal => "occ daemon status names the daemon; its log is occd.log".to_owned(),
        _ => return None,
    })
}

/// Returns the hint for a host whose configuration is known: the placeholders of [`hint`] filled. `user` is the
/// login in use, where there is a connection.
pub(crate) fn hint_for(
    code: Code,
    host: &HostName,
    config: &HostConfig,
    user: Option<&str>,
    detail: &str,
) -> Option<String> {
    let address = config.hostname.as_str();
    let user = user.or(config.user.as_ref().map(UserName::as_str)).map(sanitize);
    match code {
        Code::HostUnreachable if detail.contains(PROXY_COMMAND) => {
            Some(format!("{}; then occ reconnect --host {host}", proxy_command(address)))
        }
        Code::AuthFailed
            if detail.contains(NOT_OFFERED)
                || is_closed(detail)
                || certificate(detail).is_some() =>
        {
            hint(code, Some(host.as_str()), detail)
        }
        // ssh does not know the names of our jump hosts.
        Code::AuthFailed if config.jump_host.is_some() => {
            let user = user.as_deref().unwrap_or("the user");
            Some(format!("{}; then occ reconnect --host {host}", authorize(user)))
        }
        Code::AuthFailed => {
            let key = config.identity_file.as_deref().map(shell_word);
            let key = key.map_or_else(String::new, |key| format!("-i {key} "));
            let copy = copy_id(&key, user.as_deref(), address, config.port);
            Some(format!("{copy}; then occ reconnect --host {host}"))
        }
        Code::SshConfigInvalid if unsafe_file(detail).is_none() => {
            Some(format!("ssh -G {address} shows what applies; occ host show {host}"))
        }
        Code::DockerPermission => {
            Some(open_socket(Some(host.as_str()), user.as_deref().unwrap_or("USER"), detail))
        }
        _ => hint(code, Some(host.as_str()), detail),
    }
}

/// Returns the option that names a host, or this machine, which may not be the default.
fn at(host: Option<&str>) -> String {
    host.map_or_else(|| " --local".to_owned(), |host| format!(" --host {host}"))
}

/// Returns whether there is more to do than to try again.
pub(crate) fn has_own_hint(detail: &str) -> bool {
    [PROXY_COMMAND, LEFT_ALONE, NO_WAY_THROUGH].iter().any(|words| detail.contains(words))
}

/// Returns how a user comes to use a socket: by the group that owns it, where the group may.
fn open_socket(host: Option<&str>, user: &str, detail: &str) -> String {
    let at = host.unwrap_or("this machine");
    let then = match host {
        Some(host) => format!("occ reconnect --host {host}"),
        None => "log in anew".to_owned(),
    };
    let after = |words: &str| Some(detail.split_once(words)?.1);
    let word = |words: &str| after(words)?.split([')', ';', ' ']).next();
    let join = match detail.contains("the login is in docker") {
        true => String::new(),
        false => format!("sudo usermod -aG docker {user}; "),
    };
    let owner = word("(for its owner ");
    let socket = shell_word(word("permission denied on ").unwrap_or("SOCKET"));
    match (owner, word("(of the group ").unwrap_or("docker")) {
        // Podman has no group for it.
        _ if socket.contains("podman") => format!(
            "on {at}, as {user}: systemctl --user enable --now podman.socket gives that user one; then {then}"
        ),
        (Some("root"), _) => format!(
            "on {at}: sudo chgrp docker {socket}; sudo chmod 660 {socket} opens it to the group docker, until Docker starts anew; {join}then {then}"
        ),
        (Some(owner), _) => {
            format!("it is of an engine of {owner}'s own: {}", another_socket(host))
        }
        (None, group) if join.is_empty() || ["root", "wheel"].contains(&group) => format!(
            "on {at}: \"group\": \"docker\" in /etc/docker/daemon.json, and Docker started anew, gives the socket to that group; {join}then {then}"
        ),
        (None, group) => {
            format!("on {at}: sudo usermod -aG {} {user}; then {then}", shell_word(group))
        }
    }
}

/// Returns where another socket is named.
fn another_socket(host: Option<&str>) -> String {
    let setting = "docker_socket = \"PATH\"";
    let place = host.map_or_else(|| write_local("", setting), |h| write(h, "", setting));
    format!("{place} names another")
}

/// Returns how a Docker comes to run that is installed. Who starts it there is not known here.
pub(crate) fn start_docker(host: Option<&str>) -> String {
    let at = host.unwrap_or("this machine");
    format!(
        "on {at}: sudo systemctl start docker, where systemd runs; else whoever runs Docker there has to start it"
    )
}

/// Returns whether Docker is not there, which is no fault of anything.
pub(crate) fn has_no_docker(detail: &str) -> bool {
    detail.contains("no Docker on this host")
}

/// Returns whether `occ host install-docker` helps, which also starts a Docker that is installed.
pub(crate) fn installing_helps(detail: &str) -> bool {
    has_no_docker(detail) || detail.contains(NO_SOCKET)
}

/// Returns whether a person was there to answer, and did not or wrongly.
pub(crate) fn was_asked(detail: &str) -> bool {
    !["there is nobody to ask", ELSEWHERE].iter().any(|why| detail.contains(why))
}

/// Returns how to look at a ProxyCommand.
fn proxy_command(address: &str) -> String {
    format!("ssh -G {address} | grep -i proxycommand shows it, to be tried by hand")
}

/// Returns what to look at when a test of a host did not reach it.
pub(crate) fn after_test(host: &str) -> String {
    let show = match host.strip_prefix(HostName::VIA) {
        // It has nothing of its own to show.
        Some(way) => format!("ssh -G {} shows what applies", address_of(way)),
        None => format!("occ host show {host}"),
    };
    format!("{show}; is the address right, and the server up?")
}

/// Returns what comes after the cure.
fn then_reconnect(host: Option<&str>) -> String {
    host.map_or_else(String::new, |host| format!("; then occ reconnect --host {host}"))
}

#[cfg(test)]
mod tests;

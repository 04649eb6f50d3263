//! What to type next, for the daemon's codes.
//!
//! A hint is a command that works as it stands: what the failure names (a file, a method of logging in, a jump
//! host's address) is in it.

use std::os::unix::fs::MetadataExt as _;

use occ_proto::error::Code;
use occ_proto::host::HostConfig;
use occ_proto::name::Destination;
use occ_proto::paths::Env;
use occ_proto::text::sanitize;
use occ_proto::{HostName, UserName};

/// There are keys that the server has not seen.
pub(crate) const NOT_OFFERED: &str = "more keys were not offered";
/// A jump host's sshd does not let us through.
const NO_WAY_THROUGH: &str = "its sshd_config forbids it";
/// The server wants to be left alone, see sshd_config(5), MaxStartups and PerSourcePenalties.
const LEFT_ALONE: &str = "the server refuses connections for a while";
/// A certificate was offered at the wrong time.
const EXPIRED: &str = ", which expired on ";
const NOT_YET: &str = ", which is not valid before ";
/// The program on the way to the server is to blame.
pub(crate) const PROXY_COMMAND: &str = "the ProxyCommand ";
/// What is written to known_hosts is gone.
const KEEPS_NOTHING: &str = "which keeps nothing";
/// Nothing that is offered would do: the account is closed, or the server has no way to log in.
const CLOSED_TO_ALL: [&str; 2] = [": is the account ", "authentication method"];
/// ssh_config forbids keys.
const NO_KEYS: &str = "ssh_config allows none (PubkeyAuthentication";
/// ssh_config forbids those of the agent.
const NO_AGENT_KEYS: &str = "of which IdentitiesOnly allows none";

/// Docker was installed and does not answer.
const IN_VAIN: &str = "every command went well";
/// It is sudo that asks.
const SUDO: &str = "the sudo password of ";

/// Returns what to type next, for the daemon's code and its sentence. `host` is absent where no host is concerned.
pub(crate) fn hint(code: Code, host: Option<&str>, detail: &str) -> Option<String> {
    let h = host.unwrap_or("HOST");
    Some(match code {
        Code::HostNotFound if h.starts_with(HostName::VIA) => {
            "occ status --all shows the jump hosts in use".to_owned()
        }
        Code::HostNotFound => "occ host list shows the available hosts".to_owned(),
        Code::HostBusy => format!("occ host remove {h} -f ends its work"),
        Code::EditConflict => format!("occ host show {h}, then edit again"),
        Code::HostsFileInvalid => {
            "mend hosts.json by hand; hosts.json.bak, if there is one, is how it was before occ changed it last".to_owned()
        }
        Code::HostsFileWrite => {
            "look at the permissions and the free space of hosts.json's directory".to_owned()
        }
        Code::ConfigInvalid => "mend that file, then occ daemon stop; occ daemon start".to_owned(),
        Code::HostUnreachable if detail.contains(PROXY_COMMAND) => {
            format!("{}; then occ reconnect --host {h}", proxy_command("ADDRESS"))
        }
        Code::HostUnreachable if detail.contains(LEFT_ALONE) => {
            "wait: occd tries again by itself, more seldom".to_owned()
        }
        Code::HostUnreachable if detail.contains(NO_WAY_THROUGH) => {
            let hop = detail.split_once("the jump host ").and_then(|(_, rest)| rest.split_once(' '));
            let hop = hop.map_or("the jump host", |(hop, _)| hop);
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
        Code::InputNeeded if detail.contains(SUDO) => format!(
            "on a terminal: occ host install-docker {h} asks; occ prompts shows what is asked"
        ),
        Code::InputNeeded if was_asked(detail) => format!("occ connect --host {h} asks again"),
        Code::InputNeeded => {
            format!("on a terminal: occ connect --host {h} asks; occ prompts shows what is asked")
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
            "look at that file and its directory (owner, mode, the line); then occ reconnect --host {h}"
        ),
        Code::SshConfigInvalid => match unsafe_file(detail) {
            Some(cure) => format!("{cure}; then occ reconnect --host {h}"),
            None => format!("ssh -G ADDRESS shows what applies; occ host show {h}"),
        },
        Code::SessionRefused => {
            format!("see MaxSessions in the server's sshd_config; occ status -v --host {h}")
        }
        Code::OutcomeUnknown if detail.contains("run again without harm") => {
            format!("occ host install-docker {h} begins anew")
        }
        Code::OutcomeUnknown => format!("look on {h} before running it again"),
        Code::CommandTooLong => "give it the rest as input, or in a file on the host".to_owned(),
        Code::SessionNotFound => "occ session list shows the sessions".to_owned(),
        Code::SessionExists => "occ session list shows the names; choose another with --name".to_owned(),
        Code::SessionRunning => "occ session kill NAME ends its program".to_owned(),
        Code::SessionEnded => "occ session logs NAME shows its output; occ session start --name NAME starts it again".to_owned(),
        Code::OutputOverflow => "write it to a file on the host, or read it faster".to_owned(),
        // Not after it was installed in vain.
        Code::DockerUnavailable if has_no_docker(detail) && !detail.contains(IN_VAIN) => {
            format!("occ host install-docker {} installs it", host?)
        }
        Code::DockerUnavailable => format!("occ host test {h} shows what was tried"),
        Code::DockerTooOld => format!("update Docker on {h} to 20.10 or newer; then occ reconnect --host {h}"),
        Code::DockerPermission => {
            format!("on {h}: sudo usermod -aG docker USER; then occ reconnect --host {h}")
        }
        Code::NoSandbox => format!("occ start{}", at(host)),
        Code::ImageUnavailable => format!(
            "occ docker{} -- pull IMAGE shows more; image under [hosts.NAME.sandbox] of occd.toml names another",
            at(host)
        ),
        Code::PortTaken => format!("occ start{} -p PORT takes another", at(host)),
        Code::MountInvalid => format!("occ start{} --mount /path/there:/path/inside", at(host)),
        Code::ConfirmationNeeded => format!("occ start{} and the same options with --yes makes it anew; its volumes stay", at(host)),
        Code::SandboxNotReady => format!("occ logs{}", at(host)),
        Code::SandboxConfigInvalid => "mend that file; opencode-cloud config validates it".to_owned(),
        Code::InstallImpossible => format!("when Docker is there: occ reconnect --host {h}"),
        Code::InstallFailed => format!("mend what it says there; then occ host install-docker {h} begins anew"),
        Code::PlanChanged => format!("occ host install-docker {h} shows them again"),
        Code::OperationRunning => "occ operations shows it; occ operations attach ID follows it".to_owned(),
        Code::OperationNotFound => "occ operations lists them".to_owned(),
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
        Code::DockerPermission => Some(format!(
            "on {host}: sudo usermod -aG docker {}; then occ reconnect --host {host}",
            user.as_deref().unwrap_or("USER")
        )),
        _ => hint(code, Some(host.as_str()), detail),
    }
}

/// Returns the option that names a host; nothing for this machine.
fn at(host: Option<&str>) -> String {
    host.map_or_else(String::new, |host| format!(" --host {host}"))
}

/// Returns whether there is more to do than to try again.
pub(crate) fn has_own_hint(detail: &str) -> bool {
    [PROXY_COMMAND, LEFT_ALONE, NO_WAY_THROUGH].iter().any(|words| detail.contains(words))
}

/// Returns what to do about a file of kept passwords that cannot be read, if that is what a sentence says.
pub(crate) fn damaged_passwords(detail: &str) -> Option<String> {
    let ends = [": it is no age file, or is damaged", " has other content than expected"];
    let before = ends.iter().find_map(|end| Some(detail.split_once(end)?.0))?;
    let file = shell_word(before.rsplit_once(": ").map_or(before, |(_, file)| file));
    Some(format!("mv {file} {file}.damaged; a new one is made for the next password that is kept"))
}

/// Returns whether Docker is not there, which is no fault of anything.
pub(crate) fn has_no_docker(detail: &str) -> bool {
    detail.contains("no Docker on this host")
}

/// Returns whether a person was there to answer, and did not or wrongly.
pub(crate) fn was_asked(detail: &str) -> bool {
    !["there is nobody to ask", "somebody else is asked"].iter().any(|why| detail.contains(why))
}

/// Returns how to get a key onto the server, or the right one offered.
fn new_key(host: &str, detail: &str) -> String {
    if detail.contains(NOT_OFFERED) {
        return name_a_key(host, "the right one, which is offered first");
    }
    if is_closed(detail) {
        return "ask the server's owner".to_owned();
    }
    if let Some(cure) = certificate(detail) {
        return cure;
    }
    let Some(way) = host.strip_prefix(HostName::VIA) else {
        return format!("ssh-copy-id to {host}'s user and address");
    };
    // Behind a plus sign, the ways there: ssh does not know those.
    let (own, behind) = way.split_once('+').map_or((way, false), |(own, _)| (own, true));
    match own.parse::<Destination>() {
        Ok(to) if behind => authorize(to.user.as_ref().map_or("the user", UserName::as_str)),
        Ok(to) => copy_id("", to.user.as_ref().map(UserName::as_str), to.address.as_str(), to.port),
        Err(_) => authorize("the user"),
    }
}

/// Returns whether no key helps.
fn is_closed(detail: &str) -> bool {
    CLOSED_TO_ALL.iter().any(|words| detail.contains(words))
}

/// Returns the cure for a certificate that was offered in vain, if one was.
fn certificate(detail: &str) -> Option<String> {
    let offers = || {
        let after = detail.split(" with certificate ").skip(1);
        after.filter_map(|text| Some(text.split_once(" SHA256:")?.0))
    };
    let cures = [(EXPIRED, "whoever issued it has to renew it"), (NOT_YET, "check the clock here")];
    let of_time = cures.into_iter().find_map(|(mark, cure)| {
        let offer = offers().find(|offer| offer.contains(mark))?;
        Some((offer, cure))
    });
    let other =
        "whoever issued it has to issue one for that user, by an authority that the server trusts";
    let (offer, cure) = of_time.or_else(|| Some((offers().next()?, other)))?;
    let name = offer.split_once(", which ").map_or(offer, |(name, _)| name);
    // An agent's is from no file. Paths are absolute.
    let of = name.rsplit_once(" of /");
    let look = match of {
        Some((_, path)) => format!("ssh-keygen -L -f {}", shell_word(&format!("/{path}"))),
        None => "ssh-add -L | ssh-keygen -L -f -".to_owned(),
    };
    Some(format!("{look} shows it; {cure}"))
}

/// Returns how to look at a ProxyCommand.
fn proxy_command(address: &str) -> String {
    format!("ssh -G {address} | grep -i proxycommand shows it, to be tried by hand")
}

fn authorize(user: &str) -> String {
    format!("put your public key into ~/.ssh/authorized_keys of {user} there")
}

fn copy_id(key: &str, user: Option<&str>, address: &str, port: Option<u16>) -> String {
    let login = user.map_or_else(|| address.to_owned(), |user| format!("{user}@{address}"));
    let port = port.filter(|port| *port != 22);
    let port = port.map_or_else(String::new, |port| format!("-p {port} "));
    format!("ssh-copy-id {key}{port}{login}")
}

/// Returns how to name a host's key. A jump host that hosts.json does not have has only ssh_config.
fn name_a_key(host: &str, what: &str) -> String {
    let Some(way) = host.strip_prefix(HostName::VIA) else {
        return format!("occ host edit {host} -i KEY names {what}");
    };
    format!("IdentityFile KEY for {} in ~/.ssh/config names {what}", address_of(way))
}

/// Returns the address in the name of a jump host that hosts.json does not have, after its prefix.
fn address_of(way: &str) -> String {
    let own = way.split('+').next().unwrap_or(way);
    own.parse::<Destination>().map_or_else(|_| own.to_owned(), |to| to.address.to_string())
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

/// Returns how to come by a key, or to do without.
fn key(host: &str, detail: &str) -> String {
    if detail.contains(NO_KEYS) {
        return format!(
            "{}, or change PubkeyAuthentication or PreferredAuthentications in ssh_config",
            write(host, "auth = [\"password\"]")
        );
    }
    let name = name_a_key(host, "a file");
    if detail.contains(NO_AGENT_KEYS) {
        return name;
    }
    format!("{}, or {name}", agent_cure(detail))
}

/// Returns how the ssh-agent comes to hold a key.
pub(crate) fn agent_cure(detail: &str) -> String {
    if detail.contains("ssh_config says to use no ssh-agent") {
        return "IdentityAgent none in ssh_config is in the way of one in your agent".to_owned();
    }
    if detail.contains("the ssh-agent is $") {
        return "give IdentityAgent in ssh_config the socket's path".to_owned();
    }
    let socket = |end: &str| {
        let (before, _) = detail.split_once(end)?;
        Some(before.rsplit_once("the ssh-agent ")?.1)
    };
    if let Some(path) = socket(" does not answer") {
        return format!(
            "the agent at {} does not answer: start it, or name another (SSH_AUTH_SOCK; IdentityAgent in ssh_config)",
            sanitize(path)
        );
    }
    // One that IdentityAgent names is not the one of this shell.
    let ours = std::env::var("SSH_AUTH_SOCK").unwrap_or_default();
    let told = [" holds ", " does not hold "].iter().find_map(|end| socket(end));
    match told.filter(|path| *path != ours) {
        Some(path) => {
            format!("SSH_AUTH_SOCK={} ssh-add KEY puts a key into that agent", shell_word(path))
        }
        None => "ssh-add KEY puts a key into your agent".to_owned(),
    }
}

/// Returns how a method of logging in is allowed.
fn allow(host: &str, detail: &str) -> String {
    if let Some((before, _)) = detail.split_once(", which [security] passwords = false forbids") {
        let words = before.rsplit_once("it would take ").map_or("\"password\"", |(_, words)| words);
        let auth = write(host, &format!("auth = [{}]", sanitize(words)));
        return format!("passwords = true under [security], and {auth}");
    }
    let auth = detail.find("auth = [").and_then(|at| detail.get(at..));
    let auth = auth.and_then(|text| text.split_inclusive(']').next());
    write(host, &sanitize(auth.unwrap_or("auth = [\"password\"]")))
}

/// Returns where to write a host's setting.
fn write(host: &str, setting: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    // TOML's bare keys; a name has no quotation mark and no backslash in it.
    let name = if host.chars().all(plain) { host.to_owned() } else { format!("\"{host}\"") };
    format!("{setting} under [hosts.{name}] in {}", settings_file())
}

/// Returns the settings file, by the same rules as the daemon.
fn settings_file() -> String {
    let env = Env::from_process();
    let sealed = env.sealed_config_file().ok().filter(|path| path.exists());
    let path = sealed.or_else(|| env.config_file().ok());
    path.map_or_else(|| "occd.toml".to_owned(), |path| sanitize(&path.to_string_lossy()))
}

/// Returns the key file that a sentence is about.
fn identity_file(detail: &str) -> Option<String> {
    let (_, rest) = detail.split_once("the identity file ")?;
    let ends = [" has mode ", " belongs to ", " cannot be read", " is "];
    let end = ends.iter().filter_map(|end| rest.find(end)).min()?;
    rest.get(..end).map(shell_word)
}

/// Returns the key file that others may read, if one is passed over for that.
fn too_open(detail: &str) -> Option<String> {
    let files = detail.split("the identity file ").skip(1);
    let mut files = files.filter_map(|rest| Some(rest.split_once(" has mode ")?.0));
    files.find(|file| !file.contains(';')).map(shell_word)
}

fn check_key(detail: &str) -> String {
    let file = identity_file(detail).unwrap_or_else(|| "KEY".to_owned());
    format!("ssh-keygen -y -f {file} checks it")
}

fn private(detail: &str) -> String {
    match identity_file(detail) {
        Some(file) if detail.contains(" belongs to ") => {
            format!("sudo chown \"$(id -un)\" {file}; chmod 600 {file}")
        }
        Some(file) => format!("chmod 600 {file}"),
        None => "make that file yours alone (chown, chmod 600)".to_owned(),
    }
}

/// Returns the cure for a file of ssh_config that others may write, if that is what is wrong.
fn unsafe_file(detail: &str) -> Option<String> {
    const SSHS_WORDS: &str = "Bad owner or permissions on ";
    let file = match detail.split_once(" may be written by others") {
        Some((before, _)) => before.rsplit_once(": ").map_or(before, |(_, file)| file),
        None => detail.split_once(SSHS_WORDS)?.1.lines().next()?.trim_end_matches('.'),
    };
    let word = shell_word(file);
    let ours = |owner: u32| [0, rustix::process::geteuid().as_raw()].contains(&owner);
    let is_anothers = std::fs::metadata(file).is_ok_and(|file| !ours(file.uid()));
    let chown =
        if is_anothers { format!("sudo chown \"$(id -un)\" {word}; ") } else { String::new() };
    Some(format!("{chown}chmod go-w {word}"))
}

/// Returns what comes after the cure.
fn then_reconnect(host: Option<&str>) -> String {
    host.map_or_else(String::new, |host| format!("; then occ reconnect --host {host}"))
}

/// Returns a path as it is typed in a shell. A tilde at its start stays for the shell.
pub(crate) fn shell_word(path: &str) -> String {
    let path = sanitize(path);
    let plain = |c: char| c.is_alphanumeric() || "/._-+@%~".contains(c);
    if path.chars().all(plain) {
        return path;
    }
    let (home, rest) = path.strip_prefix("~/").map_or(("", path.as_str()), |rest| ("~/", rest));
    format!("{home}'{}'", rest.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(code: Code, host: &str, detail: &str) -> String {
        hint(code, Some(host), detail).unwrap()
    }

    #[test]
    fn hints_know_the_address() {
        let mut config: HostConfig = serde_json::from_value(serde_json::json!({
            "hostname": "192.0.2.1", "user": "deploy", "port": 2222
        }))
        .unwrap();
        let host = HostName::new("p").unwrap();
        assert_eq!(
            hint_for(Code::AuthFailed, &host, &config, None, "").unwrap(),
            "ssh-copy-id -p 2222 deploy@192.0.2.1; then occ reconnect --host p"
        );
        config.identity_file = Some("~/.ssh/my key".into());
        assert_eq!(
            hint_for(Code::AuthFailed, &host, &config, Some("root"), "").unwrap(),
            "ssh-copy-id -i ~/'.ssh/my key' -p 2222 root@192.0.2.1; then occ reconnect --host p"
        );
        let hint = hint_for(Code::HostKeyChanged, &host, &config, None, "").unwrap();
        assert!(hint.contains("occ trust --host p"), "{hint}");
    }

    #[test]
    fn a_jump_host_that_is_not_configured_is_known_by_its_name() {
        for (host, copy) in [
            ("via:u@127.0.0.1:4203", "ssh-copy-id -p 4203 u@127.0.0.1; then"),
            ("via:gate", "ssh-copy-id gate; then"),
            ("via:u@far:23+gate", "put your public key into ~/.ssh/authorized_keys of u there"),
        ] {
            let hint = of(Code::AuthFailed, host, "");
            assert!(hint.starts_with(copy), "{hint}");
        }
        for code in [Code::NoIdentity, Code::IdentityInvalid] {
            let hint = of(code, "via:u@gate:23", "");
            assert!(!hint.contains("occ host edit"), "{hint}");
            assert!(hint.contains("IdentityFile KEY for gate in ~/.ssh/config"), "{hint}");
        }
    }

    #[test]
    fn a_test_that_reached_nobody_leads_on() {
        assert!(after_test("h").starts_with("occ host show h; "));
        for host in ["via:u@gate:23", "via:u@gate+far"] {
            assert!(after_test(host).starts_with("ssh -G gate shows what applies; "));
        }
    }

    #[test]
    fn where_keys_were_left_out_the_right_one_is_named() {
        for limit in [
            "3 more keys were not offered, five is the most",
            "it allowed no more tries, 1 more keys were not offered",
        ] {
            let hint =
                of(Code::AuthFailed, "h", &format!("h: the server refused every key; {limit}."));
            assert!(hint.starts_with("occ host edit h -i KEY"), "{hint}");
            assert!(!hint.contains("ssh-copy-id"), "{hint}");
        }
    }

    #[test]
    fn a_setting_comes_with_its_place() {
        let detail = "x: refused; it would take \"password\": auth = [\"password\"] for this host in occd.toml allows it.";
        let hint = of(Code::AuthMethodNeeded, "via:u@h", detail);
        assert!(hint.starts_with("auth = [\"password\"] under [hosts.\"via:u@h\"] in /"), "{hint}");
        assert!(hint.ends_with("/occd.toml; then occ connect --host via:u@h"), "{hint}");
        let hint = of(Code::AuthMethodNeeded, "pw-1", detail);
        assert!(hint.contains(" under [hosts.pw-1] in "), "{hint}");
        let forbidden =
            "x: refused; it would take \"password\", which [security] passwords = false forbids.";
        let hint = of(Code::AuthMethodNeeded, "pw", forbidden);
        assert!(
            hint.starts_with(
                "passwords = true under [security], and auth = [\"password\"] under [hosts.pw] in"
            ),
            "{hint}"
        );
        let no_keys = "h: no identity file, and ssh_config allows none (PubkeyAuthentication, PreferredAuthentications).";
        let hint = of(Code::NoIdentity, "h", no_keys);
        assert!(hint.contains("[hosts.h] in /") && !hint.contains("ssh-add"), "{hint}");
    }

    #[test]
    fn files_are_named() {
        let at = |what: &str| format!("h: the identity file /k/my key {what}.");
        let hint =
            of(Code::IdentityTooOpen, "h", &at("has mode 0644; a private key must be yours alone"));
        assert!(hint.starts_with("chmod 600 '/k/my key'; then"), "{hint}");
        let hint = of(Code::IdentityTooOpen, "h", &at("belongs to user id 7, not to you"));
        assert!(hint.starts_with("sudo chown \"$(id -un)\" '/k/my key'; "), "{hint}");
        let hint = of(Code::IdentityInvalid, "h", &at("is damaged or of an unsupported type"));
        assert!(
            hint.starts_with("ssh-keygen -y -f '/k/my key' checks it; occ host edit h"),
            "{hint}"
        );
        let words = "h: the ssh configuration for this host cannot be used: /h/.ssh/config may be written by others, so nothing in it is used.";
        let hint = of(Code::SshConfigInvalid, "h", words);
        assert!(hint.starts_with("chmod go-w /h/.ssh/config; then"), "{hint}");
        let words =
            "h: ssh -G failed (exit status: 255): Bad owner or permissions on /h/.ssh/config.";
        assert_eq!(of(Code::SshConfigInvalid, "h", words), hint);
    }

    #[test]
    fn a_certificate_of_another_time_is_looked_at_and_renewed() {
        let offered = |of: &str, why: &str| {
            format!(
                "h: the server refused every key for u; offered k with certificate a of b{of}, which {why} UTC, SHA256:x (file)."
            )
        };
        let expired = "expired on 2026-01-01 00:00";
        let hint = of(Code::AuthFailed, "h", &offered(" of /k/my c.pub", expired));
        let shows = "ssh-keygen -L -f '/k/my c.pub' shows it; whoever issued it has to renew it; then occ reconnect --host h";
        assert_eq!(hint, shows);
        let hint = of(Code::AuthFailed, "h", &offered("", expired));
        assert!(hint.starts_with("ssh-add -L | ssh-keygen -L -f - shows it; "), "{hint}");
        let early = offered(" of /c", "is not valid before 2030-01-01 00:00");
        assert!(of(Code::AuthFailed, "h", &early).contains("; check the clock here; then"));
        let refused =
            |why: &str| format!("h: the host certificate k SHA256:x is refused: it {why}.");
        let hint = of(Code::HostCertificate, "h", &refused("expired on 2026-01-01 00:00 UTC"));
        assert!(hint.contains("renew it (there, ssh-keygen -L -f CERT shows it)"), "{hint}");
        let hint = of(Code::HostCertificate, "h", &refused("is not valid before 2030-01-01 UTC"));
        assert!(hint.starts_with("check the clock here"), "{hint}");
    }

    #[test]
    fn an_agent_is_mended_according_to_what_is_the_matter_with_it() {
        let of = |agent: &str| {
            let detail =
                format!("h: there is no key to log in with as u: no identity file, and {agent}.");
            of(Code::NoIdentity, "h", &detail)
        };
        for (agent, begins) in [
            (
                "the ssh-agent /a b does not answer: Connection refused (os error 111)",
                "the agent at /a b does not answer: start it, or name another (SSH_AUTH_SOCK; Id",
            ),
            (
                "the ssh-agent /a does not answer in time",
                "the agent at /a does not answer: start it",
            ),
            (
                "the ssh-agent /a b holds no keys (is it locked?)",
                "SSH_AUTH_SOCK='/a b' ssh-add KEY puts a key into that agent, or occ host edit h",
            ),
            ("ssh_config says to use no ssh-agent", "IdentityAgent none in ssh_config is in the"),
            ("the ssh-agent is $A by ssh_config, which is not set", "give IdentityAgent in ssh_co"),
            ("occd knows no ssh-agent (SSH_AUTH_SOCK is not set)", "ssh-add KEY puts a key into"),
        ] {
            let hint = of(agent);
            assert!(hint.starts_with(begins), "{agent}: {hint}");
            assert!(hint.contains(", or occ host edit h -i KEY names a file; then"), "{hint}");
        }
    }

    #[test]
    fn who_asks_for_a_sudo_password_is_told() {
        let asked = "h: the sudo password of alice is needed: the answers were wrong.";
        assert_eq!(of(Code::InputNeeded, "h", asked), "occ host install-docker h asks again");
        let unasked = "h: the sudo password of alice is needed: there is nobody to ask.";
        assert!(of(Code::InputNeeded, "h", unasked).starts_with("on a terminal: occ host install"));
    }

    #[test]
    fn a_terminal_is_spoken_of_only_where_there_was_none() {
        let asked = of(Code::InputNeeded, "h", "h: a password is needed: the answer was declined.");
        assert_eq!(asked, "occ connect --host h asks again");
        let unasked =
            of(Code::InputNeeded, "h", "h: a password is needed: there is nobody to ask.");
        assert!(unasked.starts_with("on a terminal"), "{unasked}");
    }

    #[test]
    fn a_host_without_docker_can_get_it() {
        let missing = "there is no Docker on this host.";
        assert_eq!(
            of(Code::DockerUnavailable, "h", missing),
            "occ host install-docker h installs it"
        );
        assert_eq!(hint(Code::DockerUnavailable, None, missing), None);
        let in_vain = format!("every command went well, but Docker does not answer: {missing}");
        assert_eq!(
            of(Code::DockerUnavailable, "h", &in_vain),
            "occ host test h shows what was tried"
        );
        assert!(hint(Code::DockerUnavailable, Some("h"), "it does not answer").is_some());
    }
}

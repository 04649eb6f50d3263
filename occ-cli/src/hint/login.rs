//! Hints about logging in: keys, agents, certificates and methods, and who a jump host is to a person.

use occ_proto::name::Destination;
use occ_proto::paths::Env;
use occ_proto::text::sanitize;
use occ_proto::{HostName, UserName};

use super::NOT_OFFERED;
use super::files::shell_word;

/// A certificate was offered at the wrong time.
const EXPIRED: &str = ", which expired on ";
const NOT_YET: &str = ", which is not valid before ";
/// Nothing that is offered would do: the account is closed, or the server has no way to log in.
const CLOSED_TO_ALL: [&str; 2] = [": is the account ", "authentication method"];
/// ssh_config forbids keys.
const NO_KEYS: &str = " (PubkeyAuthentication, ";
/// ssh_config forbids those of the agent.
const NO_AGENT_KEYS: &str = "of which IdentitiesOnly allows none";

/// Returns how to get a key onto the server, or the right one offered.
pub(super) fn new_key(host: &str, detail: &str) -> String {
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
pub(crate) fn is_closed(detail: &str) -> bool {
    CLOSED_TO_ALL.iter().any(|words| detail.contains(words))
}

/// Returns the cure for a certificate that was offered in vain, if one was.
pub(super) fn certificate(detail: &str) -> Option<String> {
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

pub(super) fn authorize(user: &str) -> String {
    format!("put your public key into ~/.ssh/authorized_keys of {user} there")
}

pub(super) fn copy_id(key: &str, user: Option<&str>, address: &str, port: Option<u16>) -> String {
    let login = user.map_or_else(|| address.to_owned(), |user| format!("{user}@{address}"));
    let port = port.filter(|port| *port != 22);
    let port = port.map_or_else(String::new, |port| format!("-p {port} "));
    format!("ssh-copy-id {key}{port}{login}")
}

/// Returns how to name a host's key. A jump host that hosts.json does not have has only ssh_config.
pub(super) fn name_a_key(host: &str, what: &str) -> String {
    let Some(way) = host.strip_prefix(HostName::VIA) else {
        return format!("occ host edit {host} -i KEY names {what}");
    };
    format!("IdentityFile KEY for {} in ~/.ssh/config names {what}", address_of(way))
}

/// Returns how a host is known to a person who goes there.
pub(super) fn address_if_via(host: &str) -> String {
    host.strip_prefix(HostName::VIA).map_or_else(|| host.to_owned(), address_of)
}

/// Returns the address in the name of a jump host that hosts.json does not have, after its prefix.
pub(super) fn address_of(way: &str) -> String {
    let own = way.split('+').next().unwrap_or(way);
    own.parse::<Destination>().map_or_else(|_| own.to_owned(), |to| to.address.to_string())
}

/// Returns how to come by a key, or to do without.
pub(super) fn key(host: &str, detail: &str) -> String {
    if detail.contains(NO_KEYS) {
        return format!(
            "{}, or change PubkeyAuthentication or PreferredAuthentications in ssh_config",
            write(host, "", "auth = [\"password\"]")
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
pub(super) fn allow(host: &str, detail: &str) -> String {
    if let Some((before, _)) = detail.split_once(", which [security] passwords = false forbids") {
        let words = before.rsplit_once("it would take ").map_or("\"password\"", |(_, words)| words);
        let auth = write(host, "", &format!("auth = [{}]", sanitize(words)));
        return format!("passwords = true under [security], and {auth}");
    }
    let auth = detail.find("auth = [").and_then(|at| detail.get(at..));
    let auth = auth.and_then(|text| text.split_inclusive(']').next());
    write(host, "", &sanitize(auth.unwrap_or("auth = [\"password\"]")))
}

/// Returns where to write a host's setting; `table` is below the host's, such as `.sandbox`.
pub(super) fn write(host: &str, table: &str, setting: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    // TOML's bare keys; a name has no quotation mark and no backslash in it.
    let name = if host.chars().all(plain) { host.to_owned() } else { format!("\"{host}\"") };
    format!("{setting} under [hosts.{name}{table}] in {}", settings_file())
}

/// Returns where to write a setting of this machine's Docker.
pub(super) fn write_local(table: &str, setting: &str) -> String {
    format!("{setting} under [local{table}] in {}", settings_file())
}

/// Returns the settings file, by the same rules as the daemon.
fn settings_file() -> String {
    let env = Env::from_process();
    let sealed = env.sealed_config_file().ok().filter(|path| path.exists());
    let path = sealed.or_else(|| env.config_file().ok());
    path.map_or_else(|| "occd.toml".to_owned(), |path| sanitize(&path.to_string_lossy()))
}

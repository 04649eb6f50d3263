//! Files: who may read and write them, whether they are valid, and whether there is room for them.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use occ_proto::HostsFile;
use occ_proto::paths::{
    CONFIG_HOME, DEFAULT_KEYS, Env, MAX_SETTINGS, STATE_HOME, SYSTEM_POLICY, dangling_link,
    expand_tilde,
};
use occ_proto::wording::in_words;

use super::Finding;
use crate::hint::{is_out_of_reach, shell_word, unusable};
use crate::locks::NOT_AS_ROOT;

/// Less than this, in bytes, and what is to be kept cannot be.
const LITTLE: u64 = 100 * 1024 * 1024;
/// Less than this, in bytes, and long outputs may not fit.
const SCARCE: u64 = 1024 * 1024 * 1024;
/// What comes of a policy of the machine that cannot be used, whether or not a daemon runs.
const NO_START: &str = "the next start of occd fails";
/// What to do where there is no home directory to look into.
pub(super) const HOME: &str = "export HOME=…";
/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 16 * 1024 * 1024;

/// Who else may do something with a file that is this user's.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Others {
    /// Read it, and no more.
    Read,
    /// Nothing.
    Nothing,
}

/// Looks at occ's own files.
pub(super) fn check() -> Vec<Finding> {
    let env = Env::from_process();
    let (state, config) = match (env.state_dir(), env.config_dir()) {
        (Ok(state), Ok(config)) => (state, config),
        (Err(error), _) | (_, Err(error)) => {
            return vec![Finding::failed("files", error.to_string(), HOME)];
        }
    };
    let mut findings = Vec::new();
    let unused =
        unusable(&state, STATE_HOME).map(|(text, hint)| Finding::failed("state", text, hint));
    let unused = unused.or_else(|| owned("state", &state, Others::Nothing));
    findings.extend(unused.or_else(|| {
        let lost = "history, sessions and forwards are not remembered";
        let (text, look) = unwritable(&state, lost)?;
        let hint = format!("{look}; XDG_STATE_HOME names another place");
        Some(Finding::failed("state", text, hint))
    }));
    let unused =
        unusable(&config, CONFIG_HOME).map(|(text, hint)| match is_out_of_reach(&config) {
            // A daemon does not start without knowing whether it has settings.
            true => Finding::failed("config", text, hint),
            false => Finding::warning("config", text, hint),
        });
    let unused = unused.or_else(|| owned("config", &config, Others::Read));
    findings.extend(unused.or_else(|| {
        let lost = "hosts cannot be added or changed";
        let (text, look) = unwritable(&config, lost)?;
        Some(Finding::warning("config", text, look))
    }));
    let secrets = [env.secrets_file(), env.age_identity()].into_iter().flatten();
    for secret in secrets.filter(|file| !in_closed(file)) {
        findings.extend(owned("secrets", &secret, Others::Nothing));
    }
    let bad = |finding: &Finding| finding.level != super::Level::Ok;
    let all_well = !findings.iter().any(bad);
    findings.retain(bad);
    if all_well {
        let shown = [&config, &state].map(|dir| match dir.exists() {
            true => dir.display().to_string(),
            false => format!("{} (not there yet)", dir.display()),
        });
        findings.push(Finding::ok("files", shown.join(", ")));
    }
    if !is_out_of_reach(&config) {
        findings.push(hosts_json(&env));
    }
    findings.extend(ssh_config(&env));
    findings.extend(keys(&env));
    findings.extend(system_policy());
    findings
}

/// Looks at whether `~/.ssh/config` is obeyed: neither ssh nor occd does what others could have written, and without a word
/// both go on without one that they cannot read.
fn ssh_config(env: &Env) -> Option<Finding> {
    const CHECK: &str = "ssh_config";
    let path = env.home.as_ref()?.join(".ssh/config");
    let is_failed = |finding: &Finding| finding.level == super::Level::Failed;
    owned(CHECK, &path, Others::Read).filter(is_failed).or_else(|| {
        // To open a pipe would wait for somebody who writes.
        let meta = fs::metadata(&path).ok()?;
        let why = match meta.is_dir() {
            true => "it is a directory".to_owned(),
            false if meta.is_file() => File::open(&path).err()?.to_string(),
            false => return None,
        };
        let shown = path.display();
        let text = format!("{shown} cannot be read, and nothing in it counts: {why}");
        Some(Finding::failed(CHECK, text, format!("ls -ld {shown}")))
    })
}

/// Looks at whether the keys that hosts.json names, and those that a login offers by itself, are this user's alone, as occd
/// has it of a key that it uses, and at the directory that they usually are in.
fn keys(env: &Env) -> Vec<Finding> {
    const CHECK: &str = "keys";
    let own = rustix::process::geteuid().as_raw();
    let mode = |path: &Path| {
        fs::metadata(path).ok().filter(|meta| meta.uid() == own).map(|meta| meta.mode() & 0o777)
    };
    let ssh = env.home.as_ref().map(|home| home.join(".ssh"));
    let dir = ssh.iter().filter_map(|dir| {
        let mode = mode(dir).filter(|mode| mode & 0o022 != 0)?;
        let shown = dir.display();
        let text = format!("{shown} may be written by others (mode {mode:04o})");
        Some(Finding::failed(CHECK, text, format!("chmod 700 {shown}")))
    });
    // What is wrong with the file itself has a line of its own.
    let hosts = env.hosts_file_candidates().unwrap_or_default();
    let hosts = hosts.iter().find(|place| place.exists()).and_then(|place| read(place).ok());
    let hosts = hosts.and_then(|text| serde_json::from_slice::<HostsFile>(&text).ok());
    let named = hosts.iter().flat_map(|file| file.hosts.values());
    let named = named.filter_map(|host| host.identity_file.as_deref());
    let named = named.map(|path| expand_tilde(path, env.home.as_deref()));
    let default = ssh.iter().flat_map(|dir| DEFAULT_KEYS.map(|name| dir.join(name)));
    let all: BTreeSet<PathBuf> = named.chain(default).collect();
    // A public one, which chooses among those of an agent, is for everybody.
    let private = all.iter().filter(|path| path.extension().is_none_or(|end| end != "pub"));
    let keys = private.filter_map(|path| {
        let mode = mode(path).filter(|mode| mode & 0o077 != 0)?;
        let shown = path.display();
        let text = format!("{shown} is for you alone, and has mode {mode:04o}: it is not used");
        Some(Finding::failed(CHECK, text, format!("chmod 600 {shown}")))
    });
    dir.chain(keys).collect()
}

/// Looks at what binds all users of this machine: a daemon does not start with one that anybody else could have written.
fn system_policy() -> Option<Finding> {
    const CHECK: &str = "policy";
    let path = Path::new(SYSTEM_POLICY);
    let shown = path.display();
    let meta = match fs::metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let link = dangling_link(path)?.display();
            let text = format!("{link} is a link that leads nowhere: {NO_START}");
            return Some(Finding::failed(CHECK, text, format!("ls -l {link}")));
        }
        Err(error) => return Some(unreadable(CHECK, path, &error)),
    };
    if meta.uid() != 0 || meta.mode() & 0o022 != 0 {
        let text = format!("{shown} can be written by others than root: {NO_START}");
        let hint = format!("sudo chown root {shown}; sudo chmod go-w {shown}");
        return Some(Finding::failed(CHECK, text, hint));
    }
    match File::open(path) {
        Ok(_) => None,
        Err(error) => {
            let text = format!("{shown}: {error}: {NO_START}");
            Some(Finding::failed(CHECK, text, format!("sudo chmod a+r {shown}")))
        }
    }
}

/// Returns that something is there and cannot be looked at.
fn unreadable(check: &'static str, path: &Path, error: &std::io::Error) -> Finding {
    let shown = path.display();
    Finding::failed(check, format!("{shown}: {error}"), format!("ls -ld {shown}"))
}

/// Returns whether the directory of a file is closed, which is told of the directory.
pub(super) fn in_closed(file: &Path) -> bool {
    file.parent().is_some_and(is_out_of_reach)
}

/// Looks at whose something is and what others may do with it. What is not there is as it should be.
fn owned(check: &'static str, path: &Path, others: Others) -> Option<Finding> {
    let shown = path.display();
    let meta = match fs::metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => {
            return Some(unreadable(check, path, &error));
        }
    };
    let own = rustix::process::geteuid().as_raw();
    if meta.uid() != own {
        let text = format!("{shown} belongs to user {}, not to you ({own})", meta.uid());
        if own == 0 {
            // What is a user's is not to become root's.
            return Some(Finding::failed(check, text, NOT_AS_ROOT));
        }
        return Some(Finding::failed(check, text, format!("sudo chown -R {own} {shown}")));
    }
    let mode = meta.mode() & 0o777;
    if mode & 0o022 != 0 {
        let text = format!("{shown} may be written by others (mode {mode:04o})");
        return Some(Finding::failed(check, text, format!("chmod go-w {shown}")));
    }
    if others == Others::Nothing && mode & 0o077 != 0 {
        let text = format!("{shown} may be read by others (mode {mode:04o})");
        let hint = format!("chmod go= {shown}");
        return Some(match check {
            "secrets" => Finding::failed(check, text, hint),
            _ => Finding::warning(check, text, hint),
        });
    }
    if mode & 0o200 == 0 {
        let text = format!("{shown} cannot be written (mode {mode:04o})");
        let bits = if meta.is_dir() { "u+rwx" } else { "u+rw" };
        return Some(Finding::warning(check, text, format!("chmod {bits} {shown}")));
    }
    None
}

/// Returns that a directory, or the place where it is to be, cannot be written, and what of that.
fn unwritable(path: &Path, lost: &str) -> Option<(String, String)> {
    let place = path.ancestors().find(|place| place.exists())?;
    // Also one of root's that is mounted read-only, which its mode does not tell.
    let error = rustix::fs::access(place, rustix::fs::Access::WRITE_OK).err()?;
    let shown = place.display();
    Some((format!("{shown} cannot be written ({error}): {lost}"), format!("ls -ld {shown}")))
}

fn hosts_json(env: &Env) -> Finding {
    const CHECK: &str = "hosts.json";
    let places = env.hosts_file_candidates().unwrap_or_default();
    let Some(place) = places.iter().find(|place| place.exists()) else {
        return Finding::ok(CHECK, "there is none yet").hint("occ setup");
    };
    let shown = place.display();
    let others = owned(CHECK, place, Others::Read);
    let text = match read(place) {
        Ok(text) => text,
        Err(error) => {
            let hint = others.and_then(|finding| finding.hint);
            let hint = hint.unwrap_or_else(|| format!("ls -ld {shown}"));
            return Finding::failed(CHECK, format!("{shown} cannot be read: {error}"), hint);
        }
    };
    if let Some(finding) = others {
        return finding;
    }
    match serde_json::from_slice::<HostsFile>(&text) {
        Ok(file)
            if file.default_host.as_ref().is_some_and(|name| !file.hosts.contains_key(name)) =>
        {
            let text = format!("{shown}: its default_host is none of its hosts");
            Finding::failed(CHECK, text, "occ host default NAME, or occ host default none")
        }
        Ok(file) => {
            let others = places.first().filter(|first| *first != place);
            let others = others.map_or_else(String::new, |first| {
                format!(" (the other tool's, as {} is not there)", first.display())
            });
            Finding::ok(CHECK, format!("{shown}{others}, hosts: {}", file.hosts.len()))
        }
        Err(error) => {
            let kept = backup(place);
            let hint = match kept.exists() {
                true => format!("mend it; {} is what it was before", kept.display()),
                false => format!("mend it: ${{EDITOR:-vi}} {shown}"),
            };
            let why = in_words(&error.to_string());
            Finding::failed(CHECK, format!("{shown}: {why}"), hint)
        }
    }
}

/// Returns where hosts.json is kept before each change.
fn backup(place: &Path) -> PathBuf {
    let mut name = place.as_os_str().to_owned();
    name.push(".bak");
    name.into()
}

/// Looks at occd.toml as far as it can be told without the daemon's program, which knows its keys.
pub(super) fn occd_toml() -> Vec<Finding> {
    const CHECK: &str = "occd.toml";
    let Ok(place) = Env::from_process().config_file() else { return Vec::new() };
    let shown = place.display();
    let text = match read(&place) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Vec::new(),
        Err(error) => return vec![unreadable(CHECK, &place, &error)],
    };
    if let Some(finding) = owned(CHECK, &place, Others::Read) {
        return vec![finding];
    }
    if text.len() as u64 > MAX_SETTINGS {
        let word = shell_word(&place.to_string_lossy());
        let aside = format!("mv {word} {}", shell_word(&format!("{shown}.old")));
        return vec![Finding::failed(CHECK, format!("{shown} is larger than 1 MiB"), aside)];
    }
    let text = String::from_utf8_lossy(&text);
    vec![match text.parse::<toml::Table>() {
        Ok(_) => Finding::ok(CHECK, shown.to_string()),
        Err(error) => {
            let line = error.span().map_or(1, |span| {
                1 + text.get(..span.start).unwrap_or_default().matches('\n').count()
            });
            let text = format!("{shown}:{line}: {}", error.message());
            Finding::failed(CHECK, text, format!("${{EDITOR:-vi}} +{line} {shown}"))
        }
    }]
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    // Not a pipe, which would hold this up until somebody writes into it.
    if !fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("not a file"));
    }
    File::open(path)?.take(MAX_FILE).read_to_end(&mut text)?;
    Ok(text)
}

/// Looks at the files of host keys, the user's and those of all users: without them every server is new, where one cannot
/// be read no host is dialled, and where the user's first cannot be written none is remembered.
pub(super) fn known_hosts(user: &[PathBuf], global: &[PathBuf]) -> Vec<Finding> {
    const CHECK: &str = "known_hosts";
    let refused: Vec<Finding> =
        user.iter().chain(global).filter_map(|path| refused(CHECK, path)).collect();
    let Some(path) = user.first().filter(|_| refused.is_empty()) else { return refused };
    let shown = path.display();
    if fs::metadata(path).is_ok_and(|meta| meta.file_type().is_char_device()) {
        return vec![Finding::ok(CHECK, format!("{shown} keeps no host keys"))];
    }
    // Whoever may write it, it is read all the same, as ssh does.
    let mild = |finding| Finding { level: super::Level::Warning, ..finding };
    let found = match OpenOptions::new().read(true).append(true).open(path) {
        Ok(mut file) => {
            if let Some(finding) = owned(CHECK, path, Others::Read) {
                return vec![mild(finding)];
            }
            let mut text = Vec::new();
            let lines = match (&mut file).take(MAX_FILE).read_to_end(&mut text) {
                Ok(_) if std::str::from_utf8(&text).is_err() => {
                    let text = format!("{shown}: some lines are no text, and are passed over");
                    return vec![Finding::warning(CHECK, text, format!("${{EDITOR:-vi}} {shown}"))];
                }
                Ok(_) => text
                    .split(|byte| *byte == b'\n')
                    .map(<[u8]>::trim_ascii)
                    .filter(|line| !line.is_empty() && !line.starts_with(b"#"))
                    .count(),
                Err(error) => {
                    let hint = format!("${{EDITOR:-vi}} {shown}; without it, every server is new");
                    return vec![Finding::failed(CHECK, format!("{shown}: {error}"), hint)];
                }
            };
            Finding::ok(CHECK, format!("{shown}, lines: {lines}"))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let dir = path.parent().and_then(|dir| owned(CHECK, dir, Others::Read));
            match dir {
                Some(finding) => mild(finding),
                None => Finding::ok(CHECK, format!("{shown} comes with the first host key")),
            }
        }
        Err(error) => {
            let text = format!("{shown}: {error}; new host keys are not recorded");
            Finding::warning(CHECK, text, format!("ls -l {shown}"))
        }
    };
    vec![found]
}

/// Returns why no host is dialled with such a file of host keys, as occd has it: nobody could tell whether a key is the
/// right one. One that is not there, and a device, say nothing.
fn refused(check: &'static str, path: &Path) -> Option<Finding> {
    const SO: &str = "no host is dialled";
    let (shown, word) = (path.display(), shell_word(&path.to_string_lossy()));
    let aside = format!("mv {word} {}", shell_word(&format!("{shown}.old")));
    let (why, hint) = match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => (format!("cannot be read: {error}"), format!("ls -ld {word}")),
        Ok(meta) if meta.file_type().is_char_device() => return None,
        Ok(meta) if !meta.is_file() => ("is not a file".to_owned(), aside),
        Ok(meta) if meta.len() > MAX_FILE => ("is larger than 16 MiB".to_owned(), aside),
        Ok(meta) => {
            let error = File::open(path).err()?;
            let sudo = if meta.uid() == rustix::process::geteuid().as_raw() { "" } else { "sudo " };
            (format!("cannot be read: {error}"), format!("{sudo}chmod u+rw {word}"))
        }
    };
    Some(Finding::failed(check, format!("{shown} {why}: {SO}"), hint))
}

/// Looks at the room for logs, history, and output that nobody has read yet, and for hosts.json.
pub(super) fn disk() -> Vec<Finding> {
    let env = Env::from_process();
    // What is wrong with the places themselves, others tell.
    disks([env.state_dir(), env.config_dir()].into_iter().flatten())
}

/// Looks at the room in each of those directories, once on each disk.
fn disks(wanted: impl Iterator<Item = PathBuf>) -> Vec<Finding> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for wanted in wanted {
        let place = wanted.ancestors().find(|place| place.is_dir()).unwrap_or(Path::new("/"));
        if fs::metadata(place).is_ok_and(|place| !seen.insert(place.dev())) {
            continue;
        }
        found.push(room(place));
    }
    found
}

/// Looks at the room in a directory.
fn room(place: &Path) -> Finding {
    const CHECK: &str = "disk";
    let shown = place.display();
    let room = match rustix::fs::statvfs(place) {
        Ok(room) => room,
        Err(error) => return unreadable(CHECK, place, &error.into()),
    };
    let free = room.f_bavail.saturating_mul(room.f_frsize);
    let text = format!("{} MB free in {shown}", free / (1024 * 1024));
    let hint = format!("df -h {shown}");
    if free < LITTLE || (room.f_files > 0 && room.f_favail == 0) {
        Finding::failed(CHECK, text, hint)
    } else if free < SCARCE {
        Finding::warning(CHECK, text, hint)
    } else {
        Finding::ok(CHECK, text)
    }
}

//! Hints about files: keys, configuration, kept passwords; and how a path is typed.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use occ_proto::paths::{CONFIG_HOME, Env, STATE_HOME};
use occ_proto::text::sanitize;
use rustix::fs::{Access, access};
use rustix::io::Errno;

use super::start::UNSET_RUNTIME_DIR;

/// The file of kept passwords has changed since occd wrote it.
const CHANGED: &str = ", which is not as occd wrote it,";
/// The most links that are followed one after the other, as on Linux (path_resolution(7)).
const MAX_LINKS: usize = 40;
/// The keyring is in the way.
const KEYRING_LOCKED: [&str; 2] = ["the keyring that has one is locked", "the keyring is locked"];

/// Returns what to do about kept passwords that cannot be had, if that is what a sentence says.
pub(crate) fn kept_passwords(detail: &str) -> Option<String> {
    let changed = || {
        let (before, _) = detail.split_once(CHANGED)?;
        let file = shell_word(before.rsplit_once("the passphrase for ")?.1);
        Some(format!("if it is damaged, mv {file} {file}.damaged"))
    };
    let keyring = || {
        KEYRING_LOCKED.iter().any(|words| detail.contains(words)).then(|| {
            "unlock the keyring (the desktop's password manager does, Seahorse or KWalletManager)"
                .to_owned()
        })
    };
    damaged_passwords(detail).or_else(changed).or_else(keyring)
}

/// Returns what to do about a file of kept passwords that cannot be read, if that is what a sentence says.
pub(crate) fn damaged_passwords(detail: &str) -> Option<String> {
    let ends = [": it is no age file, or is damaged", " has other content than expected"];
    let before = ends.iter().find_map(|end| Some(detail.split_once(end)?.0))?;
    let file = shell_word(before.rsplit_once(": ").map_or(before, |(_, file)| file));
    Some(format!("mv {file} {file}.damaged; a new one is made for the next password that is kept"))
}

/// Returns the key file that a sentence is about.
fn identity_file(detail: &str) -> Option<String> {
    let (_, rest) = detail.split_once("the identity file ")?;
    let ends = [" has mode ", " belongs to ", " cannot be read", " is "];
    let end = ends.iter().filter_map(|end| rest.find(end)).min()?;
    rest.get(..end).map(shell_word)
}

/// Returns the key file that others may read, if one is passed over for that.
pub(super) fn too_open(detail: &str) -> Option<String> {
    let files = detail.split("the identity file ").skip(1);
    let mut files = files.filter_map(|rest| Some(rest.split_once(" has mode ")?.0));
    files.find(|file| !file.contains(';')).map(shell_word)
}

pub(super) fn check_key(detail: &str) -> String {
    let file = identity_file(detail).unwrap_or_else(|| "KEY".to_owned());
    format!("ssh-keygen -y -f {file} checks it")
}

pub(super) fn private(detail: &str) -> String {
    match identity_file(detail) {
        Some(file) if detail.contains(" belongs to ") => {
            format!("sudo chown \"$(id -un)\" {file}; chmod 600 {file}")
        }
        Some(file) => format!("chmod 600 {file}"),
        None => "make that file yours alone (chown, chmod 600)".to_owned(),
    }
}

/// Returns the cure for a file of ssh_config that others may write, if that is what is wrong.
pub(super) fn unsafe_file(detail: &str) -> Option<String> {
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

/// Returns whether nothing in a directory can be reached by this user, or could be if it were there.
pub(crate) fn is_out_of_reach(dir: &Path) -> bool {
    access(dir, Access::EXEC_OK) == Err(Errno::ACCESS)
}

/// Returns what opens a file of occ's own that is closed to this user, if that is what a sentence says: one that is root's
/// after `sudo occ`, or that its owner has closed.
pub(crate) fn denied(detail: &str) -> Option<String> {
    const ENDS: [&str; 3] = [" cannot be ", "): ", ": Permission denied"];
    let (before, _) = detail.split_once(": Permission denied")?;
    let path = before.get(before.find('/')?..)?;
    let end = ENDS.iter().filter_map(|end| path.find(end)).min().unwrap_or(path.len());
    let path = Path::new(path.get(..end)?.trim_end_matches(')'));
    let env = Env::from_process();
    let own = [(env.state_dir(), STATE_HOME), (env.config_dir(), CONFIG_HOME)];
    let mut own = own.into_iter().filter_map(|(dir, variable)| Some((dir.ok()?, variable)));
    let (dir, variable) = own.find(|(dir, _)| path.starts_with(dir))?;
    let Ok(meta) = path.symlink_metadata() else {
        return is_out_of_reach(&dir).then(|| unusable(&dir, variable))?.map(|(_, cure)| cure);
    };
    if meta.uid() != rustix::process::geteuid().as_raw() {
        // What else it has left there is no better.
        return Some(format!("sudo chown -R \"$(id -un)\" {}", path_word(&dir)));
    }
    access(path, Access::READ_OK | Access::WRITE_OK).err()?;
    // Where one is closed, others are: a home that was restored may have all of them so.
    Some(match variable == STATE_HOME {
        true => format!("chmod -R u+rwX {}", path_word(&dir)),
        false => format!("chmod u+rw {}", path_word(path)),
    })
}

/// Returns what keeps a directory of occ's own from being used, or made, and what to type, if what is in its place tells.
/// The environment's `variable` says where it is, below another directory.
pub(crate) fn unusable(dir: &Path, variable: &str) -> Option<(String, String)> {
    let place = dir.ancestors().find(|place| place.symlink_metadata().is_ok())?;
    let (shown, word) = (place.display(), path_word(place));
    let meta = match place.metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let target = path_word(&end_of(place));
            // Whatever the umask is: where others may write, occd does not start.
            let cure = format!("mkdir -p {target} && chmod 700 {target}");
            return Some((format!("{shown} is a link that leads nowhere"), cure));
        }
        found => found.ok()?,
    };
    if !meta.is_dir() {
        let cure = format!("mv {word} {}", shell_word(&format!("{shown}.old")));
        return Some((format!("{shown} is no directory"), cure));
    }
    // What is above it is not looked through.
    let (bits, wanted) = match place == dir {
        true => (0o700, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK),
        false => (0o300, Access::WRITE_OK | Access::EXEC_OK),
    };
    let mode = meta.mode() & 0o777;
    let own = rustix::process::geteuid().as_raw();
    if meta.uid() != own && is_out_of_reach(place) {
        let home = Env::from_process().home;
        let cure = match home.is_some_and(|home| place.starts_with(home)) {
            true => format!("sudo chown -R \"$(id -un)\" {word}"),
            false => format!("export {variable}=DIRECTORY, with one of yours"),
        };
        return Some((
            format!("{shown} belongs to user {}, and is closed to you", meta.uid()),
            cure,
        ));
    }
    // The modes do not bind everybody.
    (meta.uid() == own && mode & bits != bits && access(place, wanted).is_err()).then(|| {
        let text = format!("{shown} cannot be used by you, its owner (mode {mode:04o})");
        (text, format!("chmod u+rwx {word}"))
    })
}

/// Returns what a link that leads nowhere leads to in the end.
fn end_of(link: &Path) -> PathBuf {
    let next = |link: &PathBuf| Some(link.parent()?.join(link.read_link().ok()?));
    let ends = std::iter::successors(Some(link.to_owned()), next).take(MAX_LINKS);
    ends.last().unwrap_or_default()
}

/// Returns the cure for something of occ's own that others may write, if that is what is wrong.
pub(crate) fn exposed(detail: &str) -> Option<String> {
    let (before, after) = detail.split_once(" can be written by others, its mode is ")?;
    // hosts.json is named by its name alone, and then by its place.
    let place = after.split_once(" (chmod go-w) (").and_then(|(_, rest)| rest.rsplit_once(')'));
    let file = place.map_or(before, |(place, _)| place);
    let file = file.strip_prefix("the directory ").unwrap_or(file);
    let ours = |meta: std::fs::Metadata| meta.uid() == rustix::process::geteuid().as_raw();
    let sudo = if std::fs::metadata(file).is_ok_and(ours) { "" } else { "sudo " };
    Some(format!("{sudo}chmod go-w {}", shell_word(file)))
}

/// Returns what to do about a directory, or a link, of another user's on the way to occd's own, if that is what is wrong.
pub(crate) fn anothers_way(detail: &str) -> Option<String> {
    let (before, _) = detail.split_once(" belongs to user id ")?;
    let path = before.strip_prefix("the directory ")?;
    let looks = format!("ls -ld {}", shell_word(path));
    let runtime_dir = Env::from_process().xdg_runtime_dir;
    Some(match runtime_dir.is_some_and(|dir| dir.starts_with(path)) {
        true => format!("{looks}; {UNSET_RUNTIME_DIR}"),
        false => format!("{looks}; export {STATE_HOME}=DIR, to which nothing of that user's leads"),
    })
}

/// Returns the path that a sentence of the daemon's about a file begins with.
fn path_of<'a>(host: &str, detail: &'a str) -> &'a str {
    const ENDS: [&str; 9] = [
        " is not there",
        ": permission denied",
        " is a directory",
        " is not a directory",
        " is there already",
        " is not empty",
        ": the name is too long",
        " could not be written",
        " has changed since",
    ];
    let path = detail.strip_prefix(&format!("{host}: ")).unwrap_or(detail);
    let end = ENDS.iter().filter_map(|end| path.rfind(end)).max().unwrap_or(0);
    &path[..end]
}

fn spot(host: &str, path: &str) -> String {
    let word = shell_word(path);
    if host == "HOST" { word } else { format!("{host}:{word}") }
}

/// Returns that file as it is typed.
pub(super) fn file_of(host: &str, detail: &str) -> String {
    spot(host, path_of(host, detail))
}

/// Returns its directory as it is typed.
pub(super) fn directory_of(host: &str, detail: &str) -> String {
    let dir = match path_of(host, detail).rsplit_once('/') {
        Some(("", _)) => "/",
        Some((dir, _)) => dir,
        None => "",
    };
    spot(host, dir)
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

fn path_word(path: &Path) -> String {
    shell_word(&path.to_string_lossy())
}

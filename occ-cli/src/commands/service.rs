//! `occ daemon install` and `uninstall`: systemd, launchd or a graphical session runs occd from the login on.
//!
//! What is written carries a line that says so. Only such files are written over or taken away, and one that somebody has
//! changed since is kept under another name.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use occ_proto::paths::{CONFIG_HOME, Env, STATE_HOME, with_tilde};
use occ_proto::text::sanitize;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::Context;
use crate::autostart;
use crate::endpoint;
use crate::error::CliError;
use crate::locks;
use crate::output::removal;
use crate::unit;

const SERVICE: &str = include_str!("../../../systemd/occd.service");
const SOCKET: &str = include_str!("../../../systemd/occd.socket");
const AGENT: &str = include_str!("../../../launchd/com.occd.agent.plist");
/// The launch agent's label; the existing tool has com.opencode-cloud.service.
const LABEL: &str = "com.occd.agent";
/// The line that says whose a file is.
const MARK: &str = "Written by `occ daemon install`; `occ daemon uninstall` takes it away.";
/// What follows it: the beginning of a checksum of the file as it was written, without that.
const SEAL: [&str; 2] = [" [", "]"];
/// What is added to the name of one that is kept.
const ASIDE: &str = "~";
/// How the units began before there was that line, for whoever has put them in place by hand.
const BY_HAND: &str = "# The user unit of occd.";
/// Where the units have the daemon's program.
const EXEC_START: &str = "ExecStart=%h/.local/bin/occd\n";
/// Where the launch agent has it.
const AGENT_PROGRAM: &str = "\"$HOME/.local/bin/occd\"";
/// The variables that decide where the daemon's files are. systemd may not know what a shell's files set.
const PATHS: [&str; 3] = [CONFIG_HOME, STATE_HOME, "OCCD_AGE_IDENTITY"];

/// What systemd takes in no program's path, however it is quoted.
const NOT_STARTED: [char; 3] = ['"', '\'', '\\'];

/// Where everything is put.
struct Places {
    home: PathBuf,
    units: PathBuf,
    agent: PathBuf,
    entry: PathBuf,
}

impl Places {
    fn new() -> Result<Self, CliError> {
        let env = Env::from_process();
        let home = env
            .home
            .ok_or_else(|| CliError::failed("HOME is not set, so there is no place for units."))?;
        let config = env.xdg_config_home.unwrap_or_else(|| home.join(".config"));
        Ok(Self {
            units: config.join("systemd/user"),
            agent: home.join(format!("Library/LaunchAgents/{LABEL}.plist")),
            entry: config.join("autostart/occd.desktop"),
            home,
        })
    }

    /// Returns every file that an installation may consist of.
    fn all(&self) -> [PathBuf; 4] {
        let unit = |name| self.units.join(name);
        [unit(unit::UNIT), unit(unit::SOCKET), self.agent.clone(), self.entry.clone()]
    }

    fn shown(&self, path: &Path) -> String {
        sanitize(&with_tilde(path, &self.home))
    }

    /// Returns that a former file is kept there.
    fn kept(&self, path: &Path) -> String {
        let shown = self.shown(path);
        let file = shown.strip_suffix(ASIDE).unwrap_or(&shown);
        format!("{file} had been changed, or was an older occ's: the former is kept as {shown}")
    }
}

/// What an installation came to.
#[derive(Default)]
struct Done {
    files: Vec<PathBuf>,
    /// Where the former ones are that somebody had changed.
    kept: Vec<PathBuf>,
    /// Who starts it from now on.
    by: Vec<&'static str>,
    lines: Vec<String>,
    enabled: bool,
}

pub(super) async fn install(context: &Context<'_>, xdg: bool) -> Result<u8, CliError> {
    locks::refuse_as_root()?;
    let places = Places::new()?;
    let program = program()?;
    // Nothing is written where it cannot be written whole.
    let entry = match xdg {
        true => {
            let occ = std::env::current_exe().and_then(|path| path.canonicalize());
            let occ = occ.map_err(|error| CliError::failed(format!("occ's own path: {error}")))?;
            Some(entry(&occ)?)
        }
        false => None,
    };
    let mut done = Done::default();
    if cfg!(target_os = "macos") {
        write(&places, &places.agent, &agent(&program)?, &mut done)?;
        launchd(&places, &mut done).await?;
    } else if in_path("systemctl").is_some() {
        let service = service(&program, |name| std::env::var(name).ok())?;
        write(&places, &places.units.join(unit::UNIT), &service, &mut done)?;
        write(&places, &places.units.join(unit::SOCKET), &marked(SOCKET), &mut done)?;
        systemd(context, &mut done, xdg).await?;
    } else if !xdg {
        done.lines.push("There is no systemd here: occ starts occd when it is needed.".to_owned());
        done.lines.push(
            "hint: occ daemon install --xdg-autostart has it started at a graphical login"
                .to_owned(),
        );
    }
    if let Some(entry) = entry {
        write(&places, &places.entry, &entry, &mut done)?;
        done.by.push("xdg-autostart");
        done.lines.push("occd is started when you log in to a desktop.".to_owned());
    }
    if context.ui.json {
        let shown = |paths: &[PathBuf]| -> Vec<String> {
            paths.iter().map(|path| path.to_string_lossy().into_owned()).collect()
        };
        context.ui.value(&json!({
            "by": done.by,
            "program": program.to_string_lossy(),
            "files": shown(&done.files),
            "kept": shown(&done.kept),
            "enabled": done.enabled,
        }))?;
        return Ok(0);
    }
    for path in &done.files {
        context.ui.say(&format!("Wrote {}", places.shown(path)))?;
    }
    for path in &done.kept {
        context.ui.note(&places.kept(path));
    }
    if !done.files.is_empty() {
        context.ui.say(&format!("It runs {}", places.shown(&program)))?;
    }
    for line in &done.lines {
        context.ui.say(line)?;
    }
    Ok(0)
}

/// Has systemd know the units, and start them from now on.
async fn systemd(context: &Context<'_>, done: &mut Done, xdg: bool) -> Result<(), CliError> {
    done.by.push("systemd");
    let Some(units) = autostart::systemd_units().await else {
        done.lines.push("systemd --user does not answer here. After your next login:".to_owned());
        done.lines.push(format!("  systemctl --user enable --now {} {}", unit::SOCKET, unit::UNIT));
        if !xdg {
            let other = "Where there is no systemd: occ daemon install --xdg-autostart; occ starts occd by itself, too.";
            done.lines.push(other.to_owned());
        }
        return Ok(());
    };
    let failed = |why| {
        CliError::failed(format!("the units are in place, but systemd does not take them: {why}"))
    };
    unit::tell(&["daemon-reload"]).await.map_err(failed)?;
    unit::tell(&["enable", unit::SOCKET, unit::UNIT]).await.map_err(failed)?;
    done.enabled = true;
    done.lines.push("systemd starts it at your login, and for whoever uses its socket.".to_owned());
    // Its own socket would be taken from it, and what is open would end.
    let running = locks::holder(&endpoint::socket_path(context)?);
    match running {
        Some(pid) if units.main_pid != Some(pid) => {
            let line =
                format!("occd (process {pid}) goes on without systemd until: occ daemon restart");
            done.lines.push(line);
        }
        Some(_) => done
            .lines
            .push("occd runs; a new path is in force after: occ daemon restart".to_owned()),
        None => unit::tell(&["start", unit::SOCKET, unit::UNIT]).await.map_err(failed)?,
    }
    done.lines.push("hint: loginctl enable-linger keeps it while you are logged out".to_owned());
    Ok(())
}

/// Has launchd run the agent from now on.
async fn launchd(places: &Places, done: &mut Done) -> Result<(), CliError> {
    done.by.push("launchd");
    let domain = format!("gui/{}", rustix::process::getuid().as_raw());
    // One that was installed before; where there is none it fails, and that is well.
    let _ =
        unit::run("launchctl", &["bootout".as_ref(), format!("{domain}/{LABEL}").as_ref()]).await;
    let words = ["bootstrap".as_ref(), domain.as_ref(), places.agent.as_os_str()];
    unit::run("launchctl", &words).await.map_err(|why| {
        CliError::failed(format!("the agent is in place, but launchd does not take it: {why}"))
    })?;
    done.enabled = true;
    done.lines.push("launchd starts it at your login.".to_owned());
    Ok(())
}

pub(super) async fn uninstall(context: &Context<'_>) -> Result<u8, CliError> {
    let places = Places::new()?;
    let (ours, others): (Vec<PathBuf>, Vec<PathBuf>) =
        places.all().into_iter().filter(|path| path.exists()).partition(|path| is_marked(path));
    let has = |path: &Path| ours.iter().any(|ours| ours == path);
    let (service, agent) = (places.units.join(unit::UNIT), has(&places.agent));
    let by_systemd = has(&service) || has(&places.units.join(unit::SOCKET));
    let units = if by_systemd { autostart::systemd_units().await } else { None };
    if units.is_some() {
        let told = unit::tell(&["disable", "--now", unit::SOCKET, unit::UNIT]).await;
        told.map_err(|why| {
            CliError::failed(format!("systemd does not let go of the units: {why}"))
        })?;
    }
    if agent {
        let name = format!("gui/{}/{LABEL}", rustix::process::getuid().as_raw());
        // It may not be loaded.
        let _ = unit::run("launchctl", &["bootout".as_ref(), name.as_ref()]).await;
    }
    let all = ours.iter().chain(&others);
    let named = all.map(|path| (path.to_string_lossy().into_owned(), path));
    let former = RefCell::new(Vec::new());
    removal::each(context.ui, named, async |path: &PathBuf| {
        if others.contains(path) {
            return Ok((removal::Done::Untouched, None));
        }
        let kept = keep(path).and_then(|kept| match kept {
            None => std::fs::remove_file(path).map(|()| None),
            kept => Ok(kept),
        });
        let kept = kept.map_err(|error| {
            CliError::failed(format!("{} cannot be removed: {error}", places.shown(path)))
        })?;
        let about = kept.as_ref().map(|kept| json!({ "kept": kept.to_string_lossy() }));
        former.borrow_mut().extend(kept);
        Ok((removal::Done::Removed, about))
    })
    .await?;
    if units.is_some() {
        let told = unit::tell(&["daemon-reload"]).await;
        told.map_err(|why| CliError::failed(format!("systemd: {why}")))?;
    }
    if context.ui.json {
        return Ok(0);
    }
    let running = locks::holder(&endpoint::socket_path(context)?);
    for path in &ours {
        context.ui.say(&format!("Removed {}", places.shown(path)))?;
    }
    for path in former.into_inner() {
        context.ui.note(&places.kept(&path));
    }
    for path in &others {
        context.ui.note(&format!("{} is not occ's: it stays.", places.shown(path)));
    }
    if ours.is_empty() {
        context.ui.say("Nothing is installed.")?;
    }
    if let Some(pid) = running {
        context.ui.note(&format!("occd (process {pid}) goes on. hint: occ daemon stop"));
    }
    Ok(0)
}

/// Returns the daemon's program by its full path.
fn program() -> Result<PathBuf, CliError> {
    let program = autostart::occd_program();
    let found = if Path::new(&program).components().count() > 1 {
        Some(PathBuf::from(&program)).filter(|path| path.is_file())
    } else {
        in_path(&program)
    };
    let not_found = || autostart::cannot_run(&program, &io::ErrorKind::NotFound.into());
    let path = found.ok_or_else(not_found)?;
    path.canonicalize().map_err(|error| autostart::cannot_run(&program, &error))
}

fn in_path(name: impl AsRef<OsStr>) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name.as_ref())).find(|path| path.is_file())
}

/// Writes a file of ours, in place of an older one of ours.
fn write(places: &Places, path: &Path, text: &str, done: &mut Done) -> Result<(), CliError> {
    let by_hand = std::fs::read_to_string(path).is_ok_and(|text| text.starts_with(BY_HAND));
    if path.symlink_metadata().is_ok() && !by_hand && !is_marked(path) {
        let shown = places.shown(path);
        return Err(CliError::failed(format!(
            "{shown} is there and not occ's: nothing is written over it."
        ))
        .hint(format!("mv {shown} {shown}.old; occ daemon install")));
    }
    let written = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    let written = written.and_then(|()| {
        done.kept.extend(keep(path)?);
        std::fs::write(path, sealed(text))
    });
    written.map_err(|error| {
        CliError::failed(format!("{} cannot be written: {error}", places.shown(path)))
    })?;
    done.files.push(path.to_owned());
    Ok(())
}

/// Puts a file aside that is not as it was written, if there is one, and returns where it is: `occd.service~`, which nobody
/// reads as a unit, an agent or an entry.
fn keep(path: &Path) -> io::Result<Option<PathBuf>> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text?,
    };
    if unsealed(&text).is_some_and(|as_written| sealed(&as_written) == text) {
        return Ok(None);
    }
    let mut aside = path.as_os_str().to_owned();
    aside.push(ASIDE);
    std::fs::rename(path, &aside)?;
    Ok(Some(aside.into()))
}

/// Returns a text with a checksum behind its mark, by which it is known that nobody has changed it.
fn sealed(text: &str) -> String {
    let sum: String =
        Sha256::digest(text).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let [start, end] = SEAL;
    text.replacen(MARK, &format!("{MARK}{start}{sum}{end}"), 1)
}

/// Returns it without.
fn unsealed(text: &str) -> Option<String> {
    let [start, end] = SEAL;
    let (before, after) = text.split_once(MARK)?;
    let (_, after) = after.strip_prefix(start)?.split_once(end)?;
    Some(format!("{before}{MARK}{after}"))
}

fn is_marked(path: &Path) -> bool {
    std::fs::read_to_string(path).is_ok_and(|text| text.contains(MARK))
}

fn marked(unit: &str) -> String {
    format!("# {MARK}\n{unit}")
}

/// Returns a path as text. Units are text.
fn text(path: &Path) -> Result<&str, CliError> {
    let text = path.to_str().filter(|text| !text.contains(char::is_control));
    text.ok_or_else(|| {
        let shown = sanitize(&path.to_string_lossy());
        CliError::failed(format!("the path {shown} cannot be written into a unit."))
    })
}

/// Returns a word of a unit's setting, where specifiers and quotes mean themselves (systemd.syntax(7)).
fn word(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%");
    format!("\"{text}\"")
}

/// Returns the unit that runs a program, with those of [`PATHS`] that are set.
fn service(program: &Path, variable: impl Fn(&str) -> Option<String>) -> Result<String, CliError> {
    let path = text(program)?;
    if let Some(odd) = path.chars().find(|c| NOT_STARTED.contains(c)) {
        return Err(not_started(path, odd, "systemd starts"));
    }
    // A `$` is itself here: no variable is looked for in the path of the program.
    let mut start = format!("ExecStart={}\n", word(path));
    for name in PATHS {
        if let Some(value) = variable(name).filter(|value| Path::new(value).is_absolute()) {
            let value = text(Path::new(&value))?.to_owned();
            start += &format!("Environment={}\n", word(&format!("{name}={value}")));
        }
    }
    Ok(marked(&SERVICE.replace(EXEC_START, &start)))
}

fn not_started(path: &str, odd: char, who_starts: &str) -> CliError {
    CliError::failed(format!(
        "{path} has {odd} in it, and {who_starts} no such program: nothing is installed."
    ))
    .hint("put occ and occd elsewhere: ./install.sh --prefix DIR")
}

/// Returns the launch agent that runs a program.
fn agent(program: &Path) -> Result<String, CliError> {
    // A word of the shell, in XML.
    let word = format!("'{}'", text(program)?.replace('\'', "'\\''"));
    let word = word.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let agent = AGENT.replace(AGENT_PROGRAM, &word);
    Ok(agent.replacen("<plist", &format!("<!-- {MARK} -->\n<plist"), 1))
}

/// Returns the entry that starts the daemon in a graphical session (Desktop Entry Specification: a quoted argument
/// within a string, each with escapes of its own).
fn entry(occ: &Path) -> Result<String, CliError> {
    let path = text(occ)?;
    let mut word = String::new();
    for c in path.chars() {
        match c {
            '\\' => word += r"\\\\",
            '"' | '`' | '$' => {
                word += r"\\";
                word.push(c);
            }
            // `%%` means it, but GLib looks for a program whose name has both.
            '%' => return Err(not_started(path, c, "a desktop starts")),
            c => word.push(c),
        }
    }
    Ok(format!(
        "# {MARK}\n[Desktop Entry]\nType=Application\nName=occd\nComment=Keeps SSH connections for occ\n\
         Exec=\"{word}\" daemon start\nTerminal=false\nNoDisplay=true\nX-GNOME-Autostart-enabled=true\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path that means something else to everybody who reads it.
    const ODD: &str = r#"/a b/50%/$HOME/it's "<&>"/back\slash/occd"#;

    #[test]
    fn the_unit_runs_that_program_with_those_paths() {
        let set = |name: &str| (name == "XDG_STATE_HOME").then(|| "/s t/50%".to_owned());
        let unit = service(Path::new("/a b/50%/$HOME/<&>/occd"), set).unwrap();
        let of = |name: &str| unit.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        assert_eq!(of("ExecStart="), r#""/a b/50%%/$HOME/<&>/occd""#);
        assert_eq!(of("Environment="), r#""XDG_STATE_HOME=/s t/50%%""#);
        assert_eq!(unit.matches("\nExecStart=").count(), 1, "{unit}");
        for refused in ["/a\nb", "/a\"b", "/it's", "/a\\b"] {
            assert!(service(Path::new(refused), |_| None).is_err(), "{refused}");
        }
    }

    #[test]
    fn the_agent_runs_that_program() {
        let python = testkit::require::find_program("python3").map(drop);
        if !testkit::require::require("python3", python, "OCC_REQUIRE_SYSTEMD") {
            return;
        }
        let agent = agent(Path::new(ODD)).unwrap();
        let script = "import plistlib, sys; \
                      print(plistlib.loads(sys.stdin.buffer.read())['ProgramArguments'][2], end='')";
        let mut python = std::process::Command::new("python3");
        let python = python.args(["-c", script]).stdin(std::process::Stdio::piped());
        let mut python = python.stdout(std::process::Stdio::piped()).spawn().unwrap();
        io::Write::write_all(&mut python.stdin.take().unwrap(), agent.as_bytes()).unwrap();
        let output = python.wait_with_output().unwrap();
        let line = String::from_utf8(output.stdout).unwrap();
        let word = line.strip_prefix("exec ").unwrap().split_once(" --log-file ").unwrap().0;
        let said =
            std::process::Command::new("sh").args(["-c", &format!("printf %s {word}")]).output();
        assert_eq!(String::from_utf8_lossy(&said.unwrap().stdout), ODD);
    }

    #[test]
    fn the_entry_runs_that_program() {
        let text = entry(Path::new("/a b/$x/\\occ")).unwrap();
        let line = r#"Exec="/a b/\\$x/\\\\occ" daemon start"#;
        assert!(text.lines().any(|other| other == line), "{text}");
        assert!(entry(Path::new("/50%/occ")).is_err());
    }
}

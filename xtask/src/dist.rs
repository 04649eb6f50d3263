//! What users get: one directory with everything in its place, and it packed as an archive and for Debian.
//!
//! Packed twice from the same programs it is the same, byte for byte: names in order, no owner, and the time of the last
//! commit for all times.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::packages::is_installed;
use crate::{Failed, root, run, target_dir};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The place of occd in the units of this repository; packages have others.
const OCCD_OF_UNITS: &str = "%h/.local/bin/occd";

/// What `cargo xtask dist` was told.
#[derive(Default)]
pub(crate) struct Wish {
    /// Where the programs are; they are built unless given.
    pub(crate) programs: Option<PathBuf>,
    /// Where the packages go.
    pub(crate) to: Option<PathBuf>,
    /// Only the directory, here.
    pub(crate) tree: Option<PathBuf>,
}

impl Wish {
    pub(crate) fn of(mut args: &[&str]) -> Result<Self, Failed> {
        let mut wish = Self::default();
        while let [option, value, rest @ ..] = args {
            let place = match *option {
                "--programs" => &mut wish.programs,
                "--to" => &mut wish.to,
                "--tree" => &mut wish.tree,
                _ => break,
            };
            *place = Some(std::path::absolute(value)?);
            args = rest;
        }
        match args {
            [] => Ok(wish),
            [odd, ..] => {
                Err(Failed(format!("dist does not take {odd}, or that needs a directory")))
            }
        }
    }
}

/// Packs programs that are built, and returns what was made.
pub(crate) fn pack(wish: &Wish, programs: &Path) -> Result<Vec<PathBuf>, Failed> {
    if let Some(tree) = &wish.tree {
        stage(programs, tree)?;
        return Ok(vec![tree.clone()]);
    }
    let to = wish.to.clone().unwrap_or_else(|| target_dir().join("dist"));
    fs::create_dir_all(&to)?;
    let target = target()?;
    let name = format!("occ-{VERSION}-{target}");
    let work = to.join(".work");
    remove(&work)?;
    let tree = work.join(&name);
    stage(programs, &tree)?;
    let time = time();
    let mut made = vec![archive(&work, &name, &to, &time)?];
    if is_installed("dpkg-deb") {
        made.push(deb(&tree, &work.join("deb"), &to, &target, &time)?);
    } else if cfg!(target_os = "linux") {
        eprintln!("xtask: there is no dpkg-deb, so no .deb was made");
    }
    remove(&work)?;
    Ok(made)
}

/// Makes the directory: what is in it is where it belongs below a prefix such as ~/.local.
fn stage(programs: &Path, tree: &Path) -> Result<(), Failed> {
    remove(tree)?;
    let root = root();
    for program in ["occ", "occd"] {
        put(&programs.join(program), &tree.join("bin").join(program), 0o755)?;
    }
    let occ = tree.join("bin/occ");
    for (shell, file) in [
        ("bash", "bash-completion/completions/occ"),
        ("zsh", "zsh/site-functions/_occ"),
        ("fish", "fish/vendor_completions.d/occ.fish"),
    ] {
        let output = Command::new(&occ).args(["completions", shell]).output()?;
        if !output.status.success() {
            return Err(Failed(format!("occ completions {shell} ended with {}", output.status)));
        }
        write(&tree.join("share").join(file), &output.stdout)?;
    }
    let man = tree.join("share/man/man1");
    fs::create_dir_all(&man)?;
    run_quietly(Command::new(&occ).arg("__man").arg(&man).env("SOURCE_DATE_EPOCH", time()))?;
    let doc = tree.join("share/doc/occ");
    for file in ["README.md", "LICENSE-APACHE", "LICENSE-MIT"] {
        put(&root.join(file), &doc.join(file), 0o644)?;
    }
    put_all(&root.join("docs"), &doc.join("docs"))?;
    put_all(&root.join("systemd"), &tree.join("share/systemd/user"))?;
    put_all(&root.join("launchd"), &tree.join("share/occ/launchd"))?;
    put_all(&root.join("editors"), &tree.join("share/occ/editors"))?;
    put(&root.join("install.sh"), &tree.join("install.sh"), 0o755)?;
    Ok(())
}

fn archive(work: &Path, name: &str, to: &Path, time: &str) -> Result<PathBuf, Failed> {
    // That of macOS and the BSDs knows neither order nor time.
    let tar = if is_installed("gtar") { "gtar" } else { "tar" };
    let file = to.join(format!("{name}.tar"));
    run(Command::new(tar)
        .args(["--sort=name", "--format=ustar", "--owner=0", "--group=0", "--numeric-owner"])
        .args(["--mode=go=u,go-w", &format!("--mtime=@{time}"), "-C"])
        .arg(work)
        .arg("-cf")
        .arg(&file)
        .arg(name))?;
    run(Command::new("gzip").args(["-9", "-n", "-f"]).arg(&file))?;
    Ok(to.join(format!("{name}.tar.gz")))
}

/// Makes the package for Debian. It has no maintainer scripts: nothing of a user's is touched when it comes and goes.
fn deb(tree: &Path, work: &Path, to: &Path, target: &str, time: &str) -> Result<PathBuf, Failed> {
    let usr = work.join("usr");
    put_all(&tree.join("bin"), &usr.join("bin"))?;
    put_all(&tree.join("share"), &usr.join("share"))?;
    let share = usr.join("share");
    // Of macOS alone.
    remove(&share.join("occ/launchd"))?;
    for (from, at) in [
        (share.join("zsh/site-functions"), share.join("zsh/vendor-completions")),
        (share.join("systemd/user"), usr.join("lib/systemd/user")),
    ] {
        fs::create_dir_all(at.parent().unwrap_or(work))?;
        fs::rename(&from, &at)?;
    }
    // What held them is empty; where it is not, that is no harm.
    for left in ["systemd", "occ"] {
        let _ = fs::remove_dir(share.join(left));
    }
    for unit in files(&usr.join("lib/systemd/user"))? {
        let text = fs::read_to_string(&unit)?;
        let text = text.replace(OCCD_OF_UNITS, "/usr/bin/occd");
        let is_service = unit.extension().is_some_and(|kind| kind == "service");
        if is_service && !text.contains("ExecStart=/usr/bin/occd") {
            return Err(Failed(format!("{} does not start {OCCD_OF_UNITS}", unit.display())));
        }
        fs::write(&unit, text)?;
    }
    for page in files(&share.join("man"))? {
        run_quietly(Command::new("gzip").args(["-9", "-n"]).arg(&page))?;
    }
    let doc = share.join("doc/occ");
    let licenses = [fs::read(doc.join("LICENSE-MIT"))?, fs::read(doc.join("LICENSE-APACHE"))?];
    fs::remove_file(doc.join("LICENSE-MIT"))?;
    fs::remove_file(doc.join("LICENSE-APACHE"))?;
    fs::rename(&doc, share.join("doc/occd"))?;
    let either =
        b"occ and occd are licensed under either of the two licenses below, at your choice.\n\n";
    write(
        &share.join("doc/occd/copyright"),
        &[&either[..], &licenses[0], b"\n", &licenses[1]].concat(),
    )?;

    let all = files(&usr)?;
    let size = all.iter().filter_map(|file| Some(file.metadata().ok()?.len())).sum::<u64>() / 1024;
    let sums = Command::new("md5sum")
        .current_dir(work)
        .args(all.iter().filter_map(|file| file.strip_prefix(work).ok()))
        .output()?;
    write(&work.join("DEBIAN/md5sums"), &sums.stdout)?;
    let arch = architecture(target);
    let libc = glibc(&usr.join("bin/occd"))?
        .map_or_else(String::new, |version| format!("Depends: libc6 (>= {version})\n"));
    let control = format!(
        "Package: occd\nVersion: {VERSION}\nArchitecture: {arch}\n\
         Maintainer: The occ developers <occ@invalid>\nInstalled-Size: {size}\n{libc}\
         Recommends: openssh-client\nSection: net\nPriority: optional\n\
         Description: SSH connections that stay, and the commands that use them\n \
         occd is a daemon of each user's that keeps SSH connections to hosts and brings\n \
         them back when they break; occ runs commands, copies files, forwards ports and\n \
         manages opencode sandboxes over them.\n"
    );
    write(&work.join("DEBIAN/control"), control.as_bytes())?;
    let file = to.join(format!("occd_{VERSION}_{arch}.deb"));
    run(Command::new("dpkg-deb")
        .env("SOURCE_DATE_EPOCH", time)
        .args(["--root-owner-group", "--build"])
        .arg(work)
        .arg(&file)
        .stdout(Stdio::null()))?;
    Ok(file)
}

/// Returns Debian's word for a processor.
fn architecture(target: &str) -> &str {
    match target.split('-').next().unwrap_or_default() {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "i686" => "i386",
        "armv7" => "armhf",
        "powerpc64le" => "ppc64el",
        other => other,
    }
}

/// Returns the newest version of glibc that a program asks for, as its symbols say.
fn glibc(program: &Path) -> Result<Option<String>, Failed> {
    let bytes = fs::read(program)?;
    let mark = b"GLIBC_2.";
    let minors = bytes.windows(mark.len() + 2).filter(|window| window.starts_with(mark));
    let minor = minors.filter_map(|window| {
        let digits = window[mark.len()..].iter().take_while(|byte| byte.is_ascii_digit());
        String::from_utf8(digits.copied().collect()).ok()?.parse::<u32>().ok()
    });
    Ok(minor.max().map(|minor| format!("2.{minor}")))
}

/// Returns what this machine's programs are built for.
fn target() -> Result<String, Failed> {
    let output = Command::new("rustc").arg("-vV").current_dir(root()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).ok_or_else(|| Failed("rustc -vV names no host".to_owned()))
}

/// Returns the time that everything in a package has: SOURCE_DATE_EPOCH, else that of the last commit.
fn time() -> String {
    if let Ok(time) = std::env::var("SOURCE_DATE_EPOCH") {
        return time;
    }
    let log = Command::new("git").args(["log", "-1", "--format=%ct"]).current_dir(root()).output();
    let time = log.map(|log| String::from_utf8_lossy(&log.stdout).trim().to_owned());
    time.ok().filter(|time| !time.is_empty()).unwrap_or_else(|| "0".to_owned())
}

fn put(from: &Path, to: &Path, mode: u32) -> Result<(), Failed> {
    let bytes = fs::read(from).map_err(|error| Failed(format!("{}: {error}", from.display())))?;
    write(to, &bytes)?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode))?;
    Ok(())
}

/// Copies a directory, if it is there.
fn put_all(from: &Path, to: &Path) -> Result<(), Failed> {
    if !from.is_dir() {
        return Ok(());
    }
    for file in files(from)? {
        let mode = if file.metadata()?.permissions().mode() & 0o111 == 0 { 0o644 } else { 0o755 };
        put(&file, &to.join(file.strip_prefix(from).unwrap_or(&file)), mode)?;
    }
    Ok(())
}

fn write(to: &Path, bytes: &[u8]) -> Result<(), Failed> {
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::write(to, bytes)?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o644))?;
    Ok(())
}

/// Returns the files below a directory, in order.
fn files(dir: &Path) -> Result<Vec<PathBuf>, Failed> {
    let mut all = Vec::new();
    let mut entries: Vec<PathBuf> = fs::read_dir(dir)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    entries.sort();
    for entry in entries {
        if entry.is_dir() { all.extend(files(&entry)?) } else { all.push(entry) }
    }
    Ok(all)
}

fn remove(dir: &Path) -> Result<(), Failed> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

fn run_quietly(command: &mut Command) -> Result<(), Failed> {
    let status = command.status()?;
    let name = command.get_program().to_string_lossy().into_owned();
    status.success().then_some(()).ok_or_else(|| Failed(format!("{name} ended with {status}")))
}

//! What is packed is the same each time, installs, replaces an older version, and goes without a trace.

#![allow(clippy::unwrap_used, reason = "a failing fixture is a failing test")]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const XTASK: &str = env!("CARGO_BIN_EXE_xtask");

/// A directory that is removed in the end.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("occ-dist-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[expect(clippy::print_stderr, reason = "a skipped test must be seen in its output")]
fn has(program: &str, variable: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let has = std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
    let required = std::env::var_os(variable).is_some_and(|value| value == "1");
    assert!(has || !required, "{program} is not installed");
    if !has {
        eprintln!("SKIPPED: {program} is not installed ({variable}=1 makes this a failure)");
    }
    has
}

fn run(program: impl AsRef<OsStr>, args: &[&OsStr]) -> Output {
    let output = command(program).args(args).output().unwrap();
    assert!(
        output.status.success(),
        "{args:?}: {}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    // Fast instead of small.
    command.env("DPKG_DEB_COMPRESSOR_TYPE", "gzip").env("DPKG_DEB_COMPRESSOR_LEVEL", "1");
    command
}

macro_rules! run {
    ($program:expr $(, $arg:expr)*) => { run($program, &[$(OsStr::new(&$arg)),*]) };
}

/// Returns a directory with the programs to pack: the occ of this build, and something in occd's place, which nobody
/// runs here.
fn programs(place: &Place) -> PathBuf {
    let dir = place.join("programs");
    fs::create_dir_all(&dir).unwrap();
    let built = Path::new(XTASK).with_file_name("occ");
    assert!(built.is_file(), "build occ first: cargo build");
    fs::copy(&built, dir.join("occ")).unwrap();
    if has("strip", "OCC_REQUIRE_SHELLS") {
        run!("strip", dir.join("occ"));
    }
    fs::write(dir.join("occd"), "#!/bin/sh\n# GLIBC_2.17 GLIBC_2.34 GLIBC_2.4\n").unwrap();
    fs::set_permissions(dir.join("occd"), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

fn dist(programs: &Path, to: &Path) -> Vec<PathBuf> {
    let made = run!(XTASK, "dist", "--programs", programs, "--to", to);
    String::from_utf8(made.stdout).unwrap().lines().map(PathBuf::from).collect()
}

/// Returns the files below a directory.
fn files(dir: &Path) -> Vec<String> {
    let mut all = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => dirs.push(path),
                false => all.push(path.strip_prefix(dir).unwrap().display().to_string()),
            }
        }
    }
    all.sort();
    all
}

#[test]
fn an_archive_is_the_same_each_time_and_installs_from_where_it_is() {
    let place = Place::new("archive");
    let programs = programs(&place);
    let made = dist(&programs, &place.join("one"));
    let again = dist(&programs, &place.join("two"));
    for (one, two) in made.iter().zip(&again) {
        assert!(fs::read(one).unwrap() == fs::read(two).unwrap(), "{} differs", one.display());
    }
    let archive = made[0].display().to_string();
    assert!(archive.contains(concat!("occ-", env!("CARGO_PKG_VERSION"), "-")), "{archive}");
    assert!(archive.ends_with(".tar.gz"), "{archive}");

    run!("tar", "-C", &place.0, "-xf", &made[0]);
    let tree = place.join(
        Path::new(&archive).file_name().unwrap().to_str().unwrap().trim_end_matches(".tar.gz"),
    );
    for file in [
        "bin/occ",
        "bin/occd",
        "install.sh",
        "share/man/man1/occ-exec.1",
        "share/occ/launchd/com.occd.agent.plist",
        "share/doc/occ/LICENSE-MIT",
        "share/doc/occ/docs/api.md",
        "share/zsh/site-functions/_occ",
    ] {
        assert!(tree.join(file).is_file(), "{file}");
    }

    let (home, prefix) = (place.join("home"), place.join("prefix"));
    fs::create_dir_all(home.join(".config/opencode-cloud")).unwrap();
    fs::write(home.join(".config/opencode-cloud/hosts.json"), "{}").unwrap();
    let install = |args: &[&str]| {
        let mut command = command(tree.join("install.sh"));
        command.arg("--prefix").arg(&prefix).args(args).env("HOME", &home);
        let output = command.env("XDG_RUNTIME_DIR", &home).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let said = install(&[]);
    assert!(said.starts_with("Installed occ ") && said.ends_with("Next: occ setup\n"), "{said}");
    let first = files(&prefix);
    let unit = fs::read_to_string(prefix.join("share/systemd/user/occd.service")).unwrap();
    assert!(unit.contains(&format!("ExecStart=\"{}/bin/occd\"\n", prefix.display())), "{unit}");
    run!(prefix.join("bin/occ"), "--version");
    // Something that an older version had, and something that is not ours.
    fs::write(prefix.join("share/man/man1/occ-old.1"), "").unwrap();
    fs::write(prefix.join("share/man/man1/other.1"), "").unwrap();
    let list = prefix.join("share/occ/installed");
    let listed = fs::read_to_string(&list).unwrap();
    fs::write(&list, format!("{listed}share/man/man1/occ-old.1\n")).unwrap();
    assert!(install(&[]).starts_with("Replaced "));
    fs::remove_file(prefix.join("share/man/man1/other.1")).unwrap();
    assert_eq!(files(&prefix), first);

    assert!(install(&["--uninstall"]).contains("stay."));
    assert!(!prefix.exists() || files(&prefix).is_empty(), "{:?}", files(&prefix));
    assert!(install(&["--uninstall"]).starts_with("Nothing of occ"));
    assert_eq!(files(&home), [".config/opencode-cloud/hosts.json"]);
}

#[test]
fn a_checkout_installs_programs_that_are_built_into_the_home_and_takes_them_away() {
    let place = Place::new("checkout");
    programs(&place);
    // What cargo would build first is this.
    let bin = place.join("bin");
    fs::create_dir_all(&bin).unwrap();
    let script = format!("#!/bin/sh\n[ \"$1\" = xtask ] || exit 9\nshift\nexec {XTASK} \"$@\"\n");
    fs::write(bin.join("cargo"), script).unwrap();
    fs::set_permissions(bin.join("cargo"), fs::Permissions::from_mode(0o755)).unwrap();
    let (home, work) = (place.join("home"), place.join("work"));
    for dir in [&home, &work] {
        fs::create_dir_all(dir).unwrap();
    }
    let path = std::env::var("PATH").unwrap();
    let install = |args: &[&str]| {
        let mut command = install_sh();
        // The directory of the programs is named from where the user is.
        command.args(args).current_dir(&place.0).env("HOME", &home).env("TMPDIR", &work);
        command.env("PATH", format!("{}:{path}", bin.display()));
        command.env("XDG_RUNTIME_DIR", &home).output().unwrap()
    };
    let output = install(&["--programs", "programs"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.starts_with("Installed occ "), "{output:?}");
    let there = files(&home.join(".local"));
    for file in ["bin/occ", "bin/occd", "share/man/man1/occ.1", "share/occ/installed"] {
        assert!(there.iter().any(|one| one == file), "{file}: {there:?}");
    }
    let built = |name: &str| fs::read(place.join("programs").join(name)).unwrap();
    for name in ["occ", "occd"] {
        assert!(fs::read(home.join(".local/bin").join(name)).unwrap() == built(name), "{name}");
    }
    assert_eq!(files(&work), [""; 0], "what it was packed in is gone");

    // Programs that are not there leave what is installed as it is.
    let failed = install(&["--programs", "elsewhere"]);
    assert!(!failed.status.success(), "{failed:?}");
    assert_eq!((files(&home.join(".local")), files(&work)), (there, vec![]));
    assert!(install(&["--uninstall"]).status.success());
    assert_eq!(files(&home), [""; 0]);
}

#[test]
fn only_a_daemon_that_was_installed_there_is_spoken_of() {
    let place = Place::new("running");
    let (prefix, elsewhere) = (place.join("prefix"), place.join("elsewhere"));
    for (from, is_told) in [(&prefix, true), (&elsewhere, false)] {
        for dir in [prefix.join("bin"), prefix.join("share/occ"), elsewhere.join("bin")] {
            fs::create_dir_all(dir).unwrap();
        }
        fs::write(prefix.join("share/occ/installed"), "bin/occ\nbin/occd\n").unwrap();
        // Something in occd's place that runs, and an occ that finds it.
        let daemon = from.join("bin/occd");
        fs::copy("/bin/sleep", &daemon).unwrap();
        let mut running = command(&daemon).arg("600").spawn().unwrap();
        let pid = running.id();
        let said = format!("echo 'occd 1.0 is running: process {pid}, up 1s, socket /s'");
        fs::write(prefix.join("bin/occ"), format!("#!/bin/sh\n{said}\n")).unwrap();
        fs::set_permissions(prefix.join("bin/occ"), fs::Permissions::from_mode(0o755)).unwrap();
        let output = install_sh().arg("--uninstall").arg("--prefix").arg(&prefix).output();
        running.kill().unwrap();
        running.wait().unwrap();
        let said = String::from_utf8(output.unwrap().stdout).unwrap();
        assert!(said.contains("Removed occ and occd"), "{said}");
        assert_eq!(
            said.contains(&format!("occd still runs: kill {pid} ends it.")),
            is_told,
            "{said}"
        );
        assert_eq!(said.contains("kill"), is_told, "{said}");
    }
}

#[test]
fn an_ordinary_user_is_told_of_the_daemon_that_goes_on() {
    /// Nobody's, on every system.
    const NOBODY: u32 = 65534;
    let place = Place::new("ordinary");
    let (home, prefix) = (place.join("home"), place.join("home/a b"));
    put(&prefix);
    fs::copy(install_sh().get_program(), home.join("install.sh")).unwrap();
    // What ends it when the one that was installed is gone.
    let left = home.join("left");
    fs::hard_link(prefix.join("bin/occ"), &left).unwrap();
    fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).unwrap();
    // What root may look at nobody else may: where the tests are root's, this is another's.
    let is_root = fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0);
    if is_root {
        run!("chown", "-R", NOBODY.to_string(), &home);
    }
    let as_user = |program: &Path, args: &[&str]| {
        let mut command = command(program);
        command.args(args).current_dir("/").env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", &home).env("XDG_RUNTIME_DIR", &home).env("USER", "u");
        if is_root {
            command.uid(NOBODY).gid(NOBODY);
        }
        let output = command.output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let occ = prefix.join("bin/occ");
    let (started, said) = as_user(&occ, &["daemon", "start"]);
    assert!(started, "{said}");
    let (_, status) = as_user(&occ, &["daemon", "status"]);
    let pid = status.split_once("process ").and_then(|(_, rest)| rest.split_once(',')).unwrap().0;
    let install_sh = home.join("install.sh");
    let (done, said) = as_user(&install_sh, &["--uninstall", "--prefix", prefix.to_str().unwrap()]);
    let (stopped, _) = as_user(&left, &["daemon", "stop"]);
    assert!(
        stopped && done && said.contains(&format!("occd still runs: kill {pid} ends it.")),
        "{said}"
    );
}

/// Puts the occ and occd of this build below a prefix, as installed there.
fn put(prefix: &Path) {
    fs::create_dir_all(prefix.join("bin")).unwrap();
    fs::create_dir_all(prefix.join("share/occ")).unwrap();
    fs::write(prefix.join("share/occ/installed"), "bin/occ\nbin/occd\n").unwrap();
    for name in ["occ", "occd"] {
        let built = Path::new(XTASK).with_file_name(name);
        assert!(built.is_file(), "build {name} first: cargo build");
        fs::copy(&built, prefix.join("bin").join(name)).unwrap();
    }
}

#[test]
fn what_starts_the_programs_at_the_login_goes_with_them_and_nothing_else() {
    let place = Place::new("starters");
    // Where there is a systemd, which does as it is told.
    let asked = place.join("asked");
    let bin = place.join("tools");
    fs::create_dir_all(&bin).unwrap();
    let script = format!("#!/bin/sh\necho \"$*\" >>'{}'\n", asked.display());
    fs::write(bin.join("systemctl"), script).unwrap();
    fs::set_permissions(bin.join("systemctl"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir_all(place.join("run/systemd/private")).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let as_user = |home: &Path, program: &Path, args: &[&str]| {
        let mut command = command(program);
        command.args(args).current_dir("/").env_clear().env("PATH", &path).env("HOME", home);
        let output = command.env("XDG_RUNTIME_DIR", place.join("run")).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    let removes = |home: &Path, prefix: &Path| {
        let args = ["--uninstall", "--prefix", prefix.to_str().unwrap()];
        as_user(home, Path::new(install_sh().get_program()), &args)
    };
    let installs = |home: &Path, prefix: &Path| {
        as_user(home, &prefix.join("bin/occ"), &["daemon", "install", "--xdg-autostart"]);
    };
    let all = ["autostart/occd.desktop", "systemd/user/occd.service", "systemd/user/occd.socket"];
    let here = |home: &Path| all.map(|file| home.join(".config").join(file).exists());
    for (name, linked) in [("a b", false), ("50 $x `y` & |", false), ("plain", true)] {
        let home = place.join(name);
        let prefix = home.join(".local");
        put(&prefix);
        installs(&home, &prefix);
        assert_eq!(here(&home), [true; 3]);
        let given = if linked { place.join("link") } else { prefix.clone() };
        if linked {
            symlink(&prefix, &given).unwrap();
        }
        fs::remove_file(&asked).unwrap();
        let said = removes(&home, &given);
        assert_eq!(here(&home), [false; 3], "{said}");
        assert!(said.contains("Removed ~/.config/systemd/user/occd.service\n"), "{said}");
        assert!(!said.contains("still"), "{said}");
        let asked = fs::read_to_string(&asked).unwrap();
        assert!(asked.contains("--user disable --now occd.socket occd.service"), "{asked}");
    }

    // Another's is nobody's to speak of.
    let home = place.join("two");
    let (first, second) = (home.join("first"), home.join("second"));
    put(&first);
    put(&second);
    installs(&home, &second);
    let said = removes(&home, &first);
    assert_eq!((here(&home), said.contains(".config")), ([true; 3], false), "{said}");

    // Where one of both is, it is left to the user, who cannot be told later.
    put(&first);
    let entry = home.join(".config").join(all[0]);
    let unit = home.join(".config").join(all[1]);
    let of_first = fs::read_to_string(&entry).unwrap().replace("/second/", "/first/");
    fs::write(&entry, of_first).unwrap();
    let said = removes(&home, &first);
    let words =
        format!("{0} still starts what was removed: rm '{0}' ends that.\n", entry.display());
    assert!(said.contains(&words) && !said.contains("occd.service"), "{said}");
    assert_eq!(here(&home), [true; 3]);

    // So is one that was put there by hand.
    put(&first);
    fs::remove_file(&entry).unwrap();
    fs::write(&unit, "[Service]\nExecStart=%h/first/bin/occd\n").unwrap();
    let said = removes(&home, &first);
    let words = format!(
        "{0} still starts what was removed: systemctl --user disable --now occd.socket occd.service; rm '{0}' ends that.\n",
        unit.display()
    );
    assert!(said.contains(&words) && unit.exists(), "{said}");
}

/// Returns a directory as the archive has it, with scripts in place of the programs: they are quickly there.
fn unpacked(place: &Place) -> PathBuf {
    let tree = place.join("tree");
    let units = tree.join("share/systemd/user");
    for dir in [&tree.join("bin"), &units] {
        fs::create_dir_all(dir).unwrap();
    }
    for program in ["bin/occ", "bin/occd"] {
        fs::write(tree.join(program), "#!/bin/sh\necho occ 1.0\n").unwrap();
        fs::set_permissions(tree.join(program), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for unit in ["occd.service", "occd.socket"] {
        fs::copy(root.join("systemd").join(unit), units.join(unit)).unwrap();
    }
    fs::copy(root.join("install.sh"), tree.join("install.sh")).unwrap();
    tree
}

#[test]
fn the_unit_starts_the_program_wherever_systemd_can() {
    let place = Place::new("homes");
    let tree = unpacked(&place);
    let verifies = has("systemd-analyze", "OCC_REQUIRE_SYSTEMD");
    for name in ["a b", "50%h", "a&b", "a|b", "$HOME", "`x`;#", "\u{e9}"] {
        let home = place.join(name);
        fs::create_dir_all(&home).unwrap();
        let install = |args: &[&str]| {
            let mut command = command(tree.join("install.sh"));
            let output = command.args(args).env("HOME", &home).output().unwrap();
            assert!(output.status.success(), "{name}: {output:?}");
        };
        install(&[]);
        let unit = home.join(".local/share/systemd/user/occd.service");
        let text = fs::read_to_string(&unit).unwrap();
        let program = home.join(".local/bin/occd").display().to_string().replace('%', "%%");
        let line = format!("ExecStart=\"{program}\"");
        assert!(text.lines().any(|other| other == line), "{text}");
        if verifies {
            let mut verify = command("systemd-analyze");
            verify.args(["--user", "verify"]).arg(&unit).env("XDG_RUNTIME_DIR", &place.0);
            let output = verify.output().unwrap();
            assert!(output.status.success(), "{name}: {output:?}");
        }
        install(&["--uninstall"]);
        assert_eq!(files(&home), [""; 0]);
    }
}

#[test]
fn where_systemd_starts_nothing_nothing_is_put() {
    let place = Place::new("refused");
    let tree = unpacked(&place);
    for (name, character) in [
        ("a\"b", "has \" in it"),
        ("it's", "has ' in it"),
        ("a\\b", "has \\ in it"),
        ("a\tb", "has a control character in it"),
        ("a\nb", "has a control character in it"),
    ] {
        let home = place.join(name);
        fs::create_dir_all(&home).unwrap();
        let install = |args: &[&str]| {
            command(tree.join("install.sh")).args(args).env("HOME", &home).output().unwrap()
        };
        let output = install(&[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && said.contains(character), "{output:?}");
        assert!(said.contains("--prefix DIR"), "{said}");
        assert_eq!(files(&home), [""; 0]);
        // What an older version put there goes all the same.
        assert!(install(&["--uninstall"]).status.success());
    }
}

#[test]
fn what_was_begun_and_failed_can_be_taken_away() {
    let place = Place::new("begun");
    let tree = unpacked(&place);
    let prefix = place.join("prefix");
    let install = |args: &[&str]| {
        let mut command = command(tree.join("install.sh"));
        command.arg("--prefix").arg(&prefix).args(args).output().unwrap()
    };
    // Nothing can be put below that.
    fs::create_dir_all(prefix.join("share")).unwrap();
    fs::write(prefix.join("share/systemd"), "").unwrap();
    assert!(!install(&[]).status.success());
    assert!(prefix.join("bin/occd").exists());
    let output = install(&["--uninstall"]);
    assert!(output.stdout.starts_with(b"Removed occ and occd"), "{output:?}");
    assert_eq!(files(&prefix), ["share/systemd"]);

    // Nor is forgotten what the version before had and this one has no more.
    fs::remove_file(prefix.join("share/systemd")).unwrap();
    assert!(install(&[]).status.success());
    fs::remove_file(tree.join("share/systemd/user/occd.socket")).unwrap();
    let in_the_way = prefix.join("share/systemd/user/occd.service.new");
    fs::create_dir(&in_the_way).unwrap();
    assert!(!install(&[]).status.success());
    fs::remove_dir(in_the_way).unwrap();
    assert!(install(&["--uninstall"]).status.success());
    assert!(!prefix.exists() || files(&prefix).is_empty(), "{:?}", files(&prefix));
}

#[test]
fn what_is_not_ours_is_neither_written_over_nor_taken_away() {
    let place = Place::new("theirs");
    let tree = unpacked(&place);
    let prefix = place.join("prefix");
    let install = |args: &[&str]| {
        let mut command = command(tree.join("install.sh"));
        let output = command.arg("--prefix").arg(&prefix).args(args).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    let refused = |file: &Path| {
        let before = files(&prefix);
        let (code, said) = install(&[]);
        let file = file.display();
        let words = format!("Error: {file} is there and not occ's: nothing is written over it.\n");
        assert!(code == Some(1) && said.contains(&words), "{said}");
        assert!(
            said.ends_with(&format!(
                "hint: mv '{file}' '{file}.old'; or --prefix DIR installs elsewhere\n"
            )),
            "{said}"
        );
        assert_eq!(files(&prefix), before);
    };
    let (occ, unit) = (prefix.join("bin/occ"), prefix.join("share/systemd/user/occd.service"));
    let put = |file: &Path, text: &str| {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    };
    put(&occ, "theirs");
    refused(&occ);
    assert_eq!(fs::read_to_string(&occ).unwrap(), "theirs");
    // The way that was named.
    let old = prefix.join("bin/occ.old");
    fs::rename(&occ, &old).unwrap();
    put(&unit, "theirs");
    refused(&unit);
    fs::remove_file(&unit).unwrap();
    symlink(place.join("nowhere"), &unit).unwrap();
    refused(&unit);
    fs::remove_file(&unit).unwrap();
    assert_eq!(install(&[]).0, Some(0));

    // Another version of ours is replaced, and so is what one that wrote down names alone had put there.
    let version = |text: &str| put(&tree.join("bin/occ"), &format!("#!/bin/sh\necho {text}\n"));
    version("occ 2.0");
    let (code, said) = install(&[]);
    assert!(code == Some(0) && said.contains("Replaced what was installed: occ 2.0"), "{said}");
    let list = prefix.join("share/occ/installed");
    let lines = fs::read_to_string(&list).unwrap();
    let names = lines.lines().map(|line| format!("{}\n", line.rsplit(' ').next().unwrap()));
    fs::write(&list, names.collect::<String>()).unwrap();
    put(&occ, "an older one of ours");
    let (code, said) = install(&[]);
    assert!(code == Some(0) && said.contains("occ 2.0"), "{said}");
    assert_eq!(fs::read_to_string(&list).unwrap(), lines);

    // Somebody else's has taken its place meanwhile, and is not asked for a daemon either.
    put(&occ, &format!("#!/bin/sh\ntouch {}\n", place.join("ran").display()));
    refused(&occ);
    let (code, said) = install(&["--uninstall"]);
    assert!(
        code == Some(0) && said.contains(&format!("{} is not occ's, and stays.", occ.display())),
        "{said}"
    );
    assert_eq!(files(&prefix), ["bin/occ", "bin/occ.old"]);
    assert!(!place.join("ran").exists());
}

#[test]
fn an_option_that_the_installer_does_not_know_is_named() {
    let output = install_sh().arg("--bogus").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && said.starts_with("Error: --bogus "), "{said}");
}

/// Returns the installer of this checkout.
fn install_sh() -> Command {
    command(Path::new(env!("CARGO_MANIFEST_DIR")).join("../install.sh"))
}

#[test]
fn the_debian_package_installs_upgrades_and_leaves_nothing() {
    if !has("dpkg-deb", "OCC_REQUIRE_SHELLS") {
        return;
    }
    let place = Place::new("deb");
    let made = dist(&programs(&place), &place.join("out"));
    let deb = made.iter().find(|file| file.extension().is_some_and(|kind| kind == "deb")).unwrap();

    let root = place.join("root");
    let admin = root.join("var/lib/dpkg");
    for dir in ["updates", "info", "triggers"] {
        fs::create_dir_all(admin.join(dir)).unwrap();
    }
    for file in ["status", "available"] {
        fs::write(admin.join(file), "").unwrap();
    }
    let kept = root.join("home/u/.config/opencode-cloud/hosts.json");
    fs::create_dir_all(kept.parent().unwrap()).unwrap();
    fs::write(&kept, "{}").unwrap();
    let before = files(&root.join("home"));
    let option = format!("--root={}", root.display());
    let dpkg = |args: &[&OsStr]| {
        let mut command = command("dpkg");
        command.args([option.as_str(), "--force-not-root", "--force-depends", "--log=/dev/null"]);
        let output = command.args(args).output().unwrap();
        assert!(output.status.success(), "{args:?} {}", String::from_utf8_lossy(&output.stderr));
    };
    dpkg(&["-i".as_ref(), deb.as_os_str()]);
    for file in [
        "usr/bin/occd",
        "usr/share/bash-completion/completions/occ",
        "usr/share/zsh/vendor-completions/_occ",
        "usr/share/fish/vendor_completions.d/occ.fish",
        "usr/share/man/man1/occ.1.gz",
        "usr/share/doc/occd/copyright",
    ] {
        assert!(root.join(file).is_file(), "{file}: {:?}", files(&root.join("usr")));
    }
    let unit = fs::read_to_string(root.join("usr/lib/systemd/user/occd.service")).unwrap();
    assert!(unit.contains("\nExecStart=/usr/bin/occd\n"), "{unit}");
    let version = run!(root.join("usr/bin/occ"), "--version");
    assert!(version.stdout.starts_with(b"occ "));
    let fields = run!("dpkg-deb", "--field", deb, "Depends");
    assert_eq!(fields.stdout, b"libc6 (>= 2.34)\n");
    let scripts = run!("dpkg-deb", "--ctrl-tarfile", deb);
    let scripts = String::from_utf8_lossy(&scripts.stdout).into_owned();
    assert!(["preinst", "postinst", "prerm", "postrm"].iter().all(|name| !scripts.contains(name)));

    // The next version, which has a file less.
    let next = place.join("next");
    run!("dpkg-deb", "-R", deb, &next);
    let control = fs::read_to_string(next.join("DEBIAN/control")).unwrap();
    let control = control.replace(concat!("Version: ", env!("CARGO_PKG_VERSION")), "Version: 99");
    fs::write(next.join("DEBIAN/control"), control).unwrap();
    fs::remove_file(next.join("usr/share/man/man1/occ.1.gz")).unwrap();
    run!("dpkg-deb", "--root-owner-group", "-b", &next, place.join("next.deb"));
    dpkg(&["-i".as_ref(), place.join("next.deb").as_os_str()]);
    assert!(!root.join("usr/share/man/man1/occ.1.gz").exists());
    run!(root.join("usr/bin/occ"), "--version");

    dpkg(&["-P".as_ref(), "occd".as_ref()]);
    assert!(!root.join("usr").exists(), "{:?}", files(&root.join("usr")));
    assert_eq!(files(&root.join("home")), before);
}

#[test]
fn shellcheck_finds_no_fault_in_the_installer() {
    if has("shellcheck", "OCC_REQUIRE_SHELLS") {
        run!("shellcheck", Path::new(env!("CARGO_MANIFEST_DIR")).join("../install.sh"));
    }
}

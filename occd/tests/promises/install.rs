//! `occ daemon install` and `uninstall`: who starts the daemon, and that nothing else is touched.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use testkit::daemon::{client_binary, daemon_binary};
use testkit::systemd::units_of;
use testkit::wait::blocking::wait_for;
use testkit::{DaemonRig, SystemdRig};

use crate::ask::GUARD;

const UNITS: [&str; 2] = ["occd.service", "occd.socket"];

/// Puts a program in place of systemctl that notes what it is asked, and of whatever else PATH has.
fn with_systemctl(rig: &mut DaemonRig, script: &str) {
    let bin = rig.root().join("bin");
    fs::create_dir_all(&bin).unwrap();
    let line = format!("#!/bin/sh\necho \"$*\" >>{}\n{script}\n", asked_file(rig).display());
    let program = bin.join("systemctl");
    fs::write(&program, line).unwrap();
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    rig.set_env("PATH", format!("{}:/usr/bin:/bin", bin.display()));
}

fn asked_file(rig: &DaemonRig) -> PathBuf {
    rig.root().join("asked")
}

/// Returns what systemctl was asked to do, without questions.
fn asked(rig: &DaemonRig) -> Vec<String> {
    let all = fs::read_to_string(asked_file(rig)).unwrap_or_default();
    all.lines().filter(|line| !line.contains(" show ")).map(str::to_owned).collect()
}

/// Has systemd look as if it ran for this user.
fn answering(rig: &DaemonRig) {
    fs::create_dir_all(rig.root().join("run/systemd/private")).unwrap();
}

/// Returns every file below a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn systemd_runs_the_daemon_after_install_and_no_more_after_uninstall() {
    if !SystemdRig::require() {
        return;
    }
    let rig = DaemonRig::new();
    let systemd = SystemdRig::start(&rig);
    // One that occ has started goes on, with what is open.
    rig.occ_ok(&["daemon", "start"]);
    let before = rig.daemon_pid();
    let said = rig.occ_ok(&["daemon", "install"]);
    let going_on =
        format!("occd (process {before}) goes on without systemd until: occ daemon restart");
    assert!(said.contains(&going_on), "{said}");
    assert_eq!(rig.daemon_pid(), before);
    for unit in UNITS {
        assert_eq!(systemd.show(unit, "UnitFileState"), "enabled", "{said}");
    }
    let main_pid = || systemd.show("occd.service", "MainPID");
    let restarted = rig.occ_ok(&["daemon", "restart"]);
    let pid = rig.daemon_pid();
    assert_eq!(restarted, format!("occd restarted (process {pid}).\n"));
    assert_eq!(main_pid(), pid.to_string());
    assert_eq!(systemd.show("occd.socket", "ActiveState"), "active");
    let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap();
    assert_eq!(program, daemon_binary().canonicalize().unwrap());
    // What is there already is brought up to date.
    rig.occ_ok(&["daemon", "install"]);
    rig.occ_ok(&["daemon", "restart"]);
    assert_ne!(main_pid(), pid.to_string());

    let said = rig.occ_ok(&["daemon", "uninstall"]);
    for unit in UNITS {
        assert!(
            said.contains(&format!("Removed {}", units_of(&rig).join(unit).display())),
            "{said}"
        );
        assert_eq!(systemd.show(unit, "LoadState"), "not-found");
    }
    assert_eq!(files(&units_of(&rig)), Vec::<PathBuf>::new(), "links, too");
    assert!(!rig.socket().exists());
    // occ helps itself, as before.
    rig.occ_ok(&["host", "list"]);
    assert_eq!(main_pid(), "0");
}

/// Puts the daemon's program into a directory of that name.
fn with_program_in(rig: &mut DaemonRig, name: &str) -> PathBuf {
    let program = rig.root().join(name).join("occd");
    fs::create_dir_all(program.parent().unwrap()).unwrap();
    fs::hard_link(daemon_binary(), &program)
        .or_else(|_| fs::copy(daemon_binary(), &program).map(drop))
        .unwrap();
    rig.set_env("OCCD_BIN", &program);
    program.canonicalize().unwrap()
}

#[test]
fn systemd_runs_a_program_with_an_odd_path() {
    if !SystemdRig::require() {
        return;
    }
    let mut rig = DaemonRig::new();
    let program = with_program_in(&mut rig, "a b/50%h/$HOME ${HOME} $$/`x`;&|#=");
    let systemd = SystemdRig::start(&rig);
    rig.occ_ok(&["daemon", "install"]);
    rig.occ_ok(&["daemon", "start"]);
    let pid = rig.daemon_pid();
    assert_eq!(systemd.show("occd.service", "MainPID"), pid.to_string());
    assert_eq!(fs::read_link(format!("/proc/{pid}/exe")).unwrap(), program);
    rig.occ_ok(&["daemon", "uninstall"]);
}

#[test]
fn what_systemd_would_not_start_is_not_installed() {
    let mut rig = DaemonRig::new();
    with_systemctl(&mut rig, "");
    answering(&rig);
    for (name, character) in [("a\"b", "\""), ("it's", "'"), ("a\\b", "\\")] {
        with_program_in(&mut rig, name);
        let refused = rig.run_occ(&["daemon", "install", "--xdg-autostart"]);
        assert_eq!(refused.code(), 1, "{refused:?}");
        let why = format!("has {character} in it, and systemd starts no such program");
        assert!(refused.stderr.contains(&why), "{refused:?}");
        assert!(refused.stderr.contains("hint: put occ and occd elsewhere"), "{refused:?}");
        assert_eq!(files(&rig.root().join("config")), Vec::<PathBuf>::new());
        assert_eq!(asked(&rig), Vec::<String>::new());
    }
}

#[test]
fn a_desktop_starts_a_program_with_an_odd_path() {
    let gio = testkit::require::find_program("gio").map(drop);
    if !testkit::require::require("gio", gio, "OCC_REQUIRE_SYSTEMD") {
        return;
    }
    let mut rig = DaemonRig::new();
    rig.set_env("PATH", rig.root().join("nothing"));
    // Without a %: GLib looks for the program before it reads the two of them as one.
    let dir = rig.root().join("a b/$HOME `x` \"q\" it's/back\\slash;&|#");
    fs::create_dir_all(&dir).unwrap();
    fs::copy(client_binary(), dir.join("occ")).unwrap();
    rig.set_env("OCCD_BIN", daemon_binary());
    let occ = rig.occ(&[]);
    let set = occ.get_envs().filter_map(|(name, value)| Some((name, value?)));
    let mut install = Command::new(dir.join("occ"));
    install.args(["daemon", "install", "--xdg-autostart"]).env_clear().envs(set);
    assert!(install.output().unwrap().status.success());
    // What the entry starts.
    let started = rig.root().join("started");
    let script = format!("#!/bin/sh\necho \"$*\" >'{}'\n", started.display());
    fs::remove_file(dir.join("occ")).unwrap();
    fs::write(dir.join("occ"), script).unwrap();
    fs::set_permissions(dir.join("occ"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    let entry = rig.root().join("config/autostart/occd.desktop");
    let output = Command::new("gio").arg("launch").arg(entry).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = wait_for("the program", GUARD, || {
        fs::read_to_string(&started).ok().filter(|said| !said.is_empty())
    });
    assert_eq!(said, "daemon start\n");
}

#[test]
fn install_asks_systemd_for_that_alone() {
    let mut rig = DaemonRig::new();
    with_systemctl(&mut rig, "");
    answering(&rig);
    let said = rig.occ_ok(&["daemon", "install", "--json"]);
    let document: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(document["by"], serde_json::json!(["systemd"]));
    assert_eq!(document["enabled"], true);
    let units = UNITS.map(|unit| units_of(&rig).join(unit));
    assert_eq!(document["files"], serde_json::json!(units));
    let program = daemon_binary().canonicalize().unwrap();
    assert_eq!(document["program"], program.to_str().unwrap());
    assert_eq!(
        asked(&rig),
        [
            "--user daemon-reload",
            "--user enable occd.socket occd.service",
            "--user start occd.socket occd.service"
        ]
    );
    let service = fs::read_to_string(&units[0]).unwrap();
    assert!(service.contains(&format!("\nExecStart=\"{}\"\n", program.display())), "{service}");
    // As the shell has it, which systemd may not.
    let state = rig.root().join("state");
    let line = format!("\nEnvironment=\"XDG_STATE_HOME={}\"\n", state.display());
    assert!(service.contains(&line), "{service}");

    fs::remove_file(asked_file(&rig)).unwrap();
    let said = rig.occ_ok(&["daemon", "uninstall", "--json"]);
    let document: Value = serde_json::from_str(&said).unwrap();
    let removed = units.map(|unit| serde_json::json!({ "name": unit, "done": "removed" }));
    assert_eq!(document, serde_json::json!({ "items": removed }));
    assert_eq!(
        asked(&rig),
        ["--user disable --now occd.socket occd.service", "--user daemon-reload"]
    );
    assert_eq!(rig.occ_ok(&["daemon", "uninstall"]), "Nothing is installed.\n");
}

#[test]
fn what_is_not_occs_is_neither_written_over_nor_removed() {
    let mut rig = DaemonRig::new();
    with_systemctl(&mut rig, "");
    let own = units_of(&rig).join("occd.service");
    fs::create_dir_all(own.parent().unwrap()).unwrap();
    fs::write(&own, "[Service]\nExecStart=/my/own\n").unwrap();
    let refused = rig.run_occ(&["daemon", "install"]);
    assert_eq!(refused.code(), 1, "{refused:?}");
    assert!(refused.stderr.contains("is there and not occ's"), "{refused:?}");
    let left = rig.run_occ(&["daemon", "uninstall"]);
    assert!(left.stderr.contains("is not occ's: it stays"), "{left:?}");
    let document: Value =
        serde_json::from_str(&rig.occ_ok(&["daemon", "uninstall", "--json"])).unwrap();
    let item = serde_json::json!({ "name": own, "done": "untouched" });
    assert_eq!(document, serde_json::json!({ "items": [item] }));
    assert_eq!(fs::read_to_string(&own).unwrap(), "[Service]\nExecStart=/my/own\n");
    assert_eq!(files(&rig.root().join("config")).len(), 1, "no other unit is put there");
    // The one that the README had people put there is.
    fs::write(&own, "# The user unit of occd. Install it as …\n").unwrap();
    rig.occ_ok(&["daemon", "install"]);
}

#[test]
fn what_somebody_has_changed_is_kept_and_said_to_be() {
    let mut rig = DaemonRig::new();
    with_systemctl(&mut rig, "");
    answering(&rig);
    let unit = units_of(&rig).join("occd.service");
    let aside = unit.with_file_name("occd.service~");
    rig.occ_ok(&["daemon", "install", "--xdg-autostart"]);
    let written = fs::read_to_string(&unit).unwrap();
    assert!(written.contains("drop-in") && written.contains("systemctl --user edit occd\n"));
    // As it was, whichever program it starts.
    with_program_in(&mut rig, "elsewhere");
    for verb in ["install", "uninstall", "install"] {
        let output = rig.run_occ(&["daemon", verb]);
        assert!(output.code() == 0 && !output.stderr.contains("kept"), "{output:?}");
        assert!(!aside.exists());
    }
    let edit = |path: &Path| {
        let edited = fs::read_to_string(path).unwrap() + "# mine\n";
        fs::write(path, &edited).unwrap();
        edited
    };
    for verb in ["install", "uninstall"] {
        let edited = edit(&unit);
        let output = rig.run_occ(&["daemon", verb]);
        assert_eq!(output.code(), 0, "{output:?}");
        assert!(output.stderr.contains(&aside.display().to_string()), "{output:?}");
        assert_eq!(fs::read_to_string(&aside).unwrap(), edited);
        fs::remove_file(&aside).unwrap();
        assert_eq!(unit.exists(), verb == "install");
    }
    // So is whatever else is put somewhere, and programs are told.
    rig.occ_ok(&["daemon", "install", "--xdg-autostart"]);
    let entry = rig.root().join("config/autostart/occd.desktop");
    let kept = entry.with_file_name("occd.desktop~");
    edit(&entry);
    let said = rig.occ_ok(&["daemon", "install", "--xdg-autostart", "--json"]);
    let document: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(document["kept"], serde_json::json!([kept]));
    edit(&entry);
    let said = rig.occ_ok(&["daemon", "uninstall", "--json"]);
    let document: Value = serde_json::from_str(&said).unwrap();
    let item = serde_json::json!({ "name": entry, "done": "removed", "about": { "kept": kept } });
    assert!(document["items"].as_array().unwrap().contains(&item), "{document}");
}

#[test]
fn what_systemd_does_not_do_is_told() {
    let mut rig = DaemonRig::new();
    // It is there, but not for this login, as after `su`.
    with_systemctl(&mut rig, "");
    let said = rig.occ_ok(&["daemon", "install"]);
    let typed = "systemctl --user enable --now occd.socket occd.service";
    assert!(said.contains(typed), "{said}");
    assert_eq!(asked(&rig), Vec::<String>::new());

    answering(&rig);
    with_systemctl(&mut rig, "case $* in *enable*) echo 'Unit is masked.' >&2; exit 1;; esac");
    let failed = rig.run_occ(&["daemon", "install"]);
    assert_eq!(failed.code(), 1, "{failed:?}");
    assert!(failed.stderr.contains("systemd does not take them: Unit is masked."), "{failed:?}");
}

#[test]
fn without_systemd_a_graphical_session_starts_the_daemon_if_asked() {
    let mut rig = DaemonRig::new();
    rig.set_env("PATH", rig.root().join("nothing"));
    let said = rig.occ_ok(&["daemon", "install"]);
    assert!(said.contains("occ starts occd when it is needed"), "{said}");
    assert!(said.contains("occ daemon install --xdg-autostart"), "{said}");
    assert_eq!(files(&rig.root().join("config")), Vec::<PathBuf>::new());

    rig.occ_ok(&["daemon", "install", "--xdg-autostart"]);
    let entry = rig.root().join("config/autostart/occd.desktop");
    let text = fs::read_to_string(&entry).unwrap();
    let occ = client_binary().canonicalize().unwrap();
    let exec = format!("Exec=\"{}\" daemon start", occ.display());
    assert!(text.lines().any(|line| line == exec), "{text}");
    rig.occ_ok(&["daemon", "uninstall"]);
    assert!(!entry.exists());
}

#[test]
fn the_log_is_shown_wherever_it_is() {
    let mut rig = DaemonRig::new();
    let nothing = rig.run_occ(&["daemon", "logs"]);
    assert_eq!(nothing.code(), 1, "{nothing:?}");
    assert!(nothing.stderr.contains("and occd is not running"), "{nothing:?}");
    rig.occ_ok(&["daemon", "start"]);
    let shown = rig.occ_ok(&["daemon", "logs"]);
    assert!(shown.contains("INFO ready "), "{shown}");
    rig.occ_ok(&["daemon", "restart"]);
    let last = rig.occ_ok(&["daemon", "logs", "-n", "1", "--json"]);
    let document: Value = serde_json::from_str(&last).unwrap();
    assert_eq!(document["source"], rig.paths().log_file().unwrap().to_str().unwrap());
    assert_eq!(document["lines"].as_array().unwrap().len(), 1, "{last}");
    rig.occ_ok(&["daemon", "stop"]);

    // Where systemd would start it.
    answering(&rig);
    let loaded = "case $* in *show*) printf 'Id=occd.service\\nLoadState=loaded\\n';; esac";
    with_systemctl(&mut rig, loaded);
    let journalctl = rig.root().join("bin/journalctl");
    fs::write(&journalctl, "#!/bin/sh\necho \"$*\"\n").unwrap();
    fs::set_permissions(&journalctl, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    assert_eq!(
        rig.occ_ok(&["daemon", "logs", "-f", "-n", "7"]),
        "--user --no-pager --output short-iso --unit occd.service -n 7 --follow\n"
    );
}

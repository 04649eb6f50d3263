//! `occ edit`: a file of a host in the editor here, written back whole, and never over what somebody else wrote.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use testkit::require::{find_program, require};
use testkit::{DaemonRig, Terminal};

use crate::files::{Shared, sshd};

/// An editor that is a script; `$1` is the file.
fn script(rig: &DaemonRig, text: &str) -> String {
    let path = rig.root().join("an editor");
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    format!("'{}'", path.display())
}

fn edit(rig: &DaemonRig, editor: &str, args: &[&str], path: &Path) -> (i32, String, String) {
    let there = format!("h:{}", path.display());
    let mut occ = rig.occ(&[&["edit"], args, &[&there]].concat());
    let output = occ.env("VISUAL", editor).env("TMPDIR", desk(rig)).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// Returns the directory in which the file is edited.
fn desk(rig: &DaemonRig) -> PathBuf {
    let dir = rig.root().join("desk");
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).unwrap().next().is_none()
}

fn writable(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o646)).unwrap();
}

#[test]
fn what_was_edited_is_written_back() {
    let Some((_sshd, rig)) = sshd() else { return };
    let shared = Shared::new();
    writable(&shared.at("a b.conf"), "one\r\n");
    // The variable has arguments; the file is private, and has the name that tells what it is.
    let seen = rig.root().join("seen");
    let editor = script(
        &rig,
        &format!(
            "echo \"$1 ${{2##*/}} $(stat -c %a \"$2\") $(stat -c %a \"${{2%/*}}\")\" >{}; printf 'two\\r\\n' >>\"$2\"",
            seen.display()
        ),
    );
    let editor = format!("{editor} --wait");
    let (code, out, err) = edit(&rig, &editor, &[], &shared.at("a b.conf"));
    assert_eq!((code, &err[..]), (0, ""), "{out}");
    assert!(out.ends_with("a b.conf: written, 10 B.\n"), "{out}");
    assert_eq!(std::fs::read_to_string(seen).unwrap(), "--wait a b.conf 600 700\n");
    assert_eq!(std::fs::read(shared.at("a b.conf")).unwrap(), b"one\r\ntwo\r\n");
    let mode = std::fs::metadata(shared.at("a b.conf")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o646);
    let (code, ..) = edit(&rig, &editor, &["--eol", "lf"], &shared.at("a b.conf"));
    assert_eq!(code, 0);
    assert_eq!(std::fs::read(shared.at("a b.conf")).unwrap(), b"one\ntwo\ntwo\n");
    // A new one.
    let (code, ..) = edit(&rig, &editor, &[], &shared.at("new"));
    assert_eq!(code, 0);
    assert_eq!(std::fs::read(shared.at("new")).unwrap(), b"two\r\n");
    let (code, out, _) = edit(&rig, "true", &[], &shared.at("new"));
    assert_eq!(code, 0);
    assert!(out.ends_with("new: unchanged, nothing was written.\n"), "{out}");
    assert_eq!(shared.names(), ["a b.conf", "new"]);
    assert!(is_empty(&desk(&rig)));
}

#[test]
fn what_somebody_else_wrote_stays_and_so_does_what_was_edited() {
    let Some((_sshd, rig)) = sshd() else { return };
    let shared = Shared::new();
    writable(&shared.at("f"), "one");
    // The same length, within the same second.
    let theirs = format!("printf two >{}; printf mine >\"$1\"", shared.at("f").display());
    let (code, _, err) = edit(&rig, &script(&rig, &theirs), &[], &shared.at("f"));
    assert_eq!(code, 1, "{err}");
    assert_eq!(std::fs::read(shared.at("f")).unwrap(), b"two");
    let kept = err.split("What you edited is in ").nth(1).unwrap().split(".\n").next().unwrap();
    assert_eq!(std::fs::read(kept).unwrap(), b"mine");
    assert!(err.contains("has changed since it was read; nothing was written."), "{err}");
    let hint = format!(
        "hint: occ cat h:{0} | diff - {kept}; occ cp {kept} h:{0}\n",
        shared.at("f").display()
    );
    assert!(err.ends_with(&hint), "{err}");
    // Likewise one that was not there.
    let theirs = format!("printf two >{}; printf mine >\"$1\"", shared.at("g").display());
    let (code, _, err) = edit(&rig, &script(&rig, &theirs), &[], &shared.at("g"));
    assert_eq!(code, 1, "{err}");
    assert_eq!(std::fs::read(shared.at("g")).unwrap(), b"two");
}

#[test]
fn an_editor_that_fails_writes_nothing() {
    let Some((_sshd, rig)) = sshd() else { return };
    let shared = Shared::new();
    writable(&shared.at("f"), "one");
    let (code, _, err) = edit(&rig, &script(&rig, "exit 3"), &[], &shared.at("f"));
    assert_eq!(code, 1);
    assert!(err.contains("ended with 3; nothing was written.\nhint: VISUAL or EDITOR"), "{err}");
    assert!(is_empty(&desk(&rig)));
    let (code, _, err) = edit(&rig, "/no/such/editor", &[], &shared.at("f"));
    assert_eq!(code, 1);
    assert!(err.contains("/no/such/editor was not found; nothing was written."), "{err}");
    let (_, _, err) = edit(&rig, &script(&rig, "echo x >\"$1\"; exit 1"), &[], &shared.at("f"));
    assert!(err.contains("What was edited is in "), "{err}");
    assert_eq!(std::fs::read(shared.at("f")).unwrap(), b"one");
    let (code, _, err) = edit(&rig, "true", &[], shared.path());
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("is a directory"), "{err}");
}

#[test]
fn what_an_editor_says_is_in_no_document_and_without_a_terminal_one_must_be_named() {
    let Some((_sshd, rig)) = sshd() else { return };
    let shared = Shared::new();
    writable(&shared.at("f"), "one");
    let editor = script(&rig, "echo noise; echo x >\"$1\"");
    let (code, out, err) = edit(&rig, &editor, &["--json"], &shared.at("f"));
    assert!(code == 0 && err.contains("noise") && !out.contains("noise"), "{out}{err}");
    let (code, out, err) = edit(&rig, "", &[], &shared.at("f"));
    assert_eq!((code, &out[..]), (2, ""), "{err}");
    assert!(err.contains("no terminal for the editor vi") && err.contains("hint: VISUAL"), "{err}");
    assert!(is_empty(&desk(&rig)));
}

#[test]
fn vi_edits_a_file_of_a_host() {
    if !require("vi", find_program("vi").map(drop), "OCC_REQUIRE_TERMINAL") {
        return;
    }
    let Some((_sshd, rig)) = sshd() else { return };
    let shared = Shared::new();
    writable(&shared.at("f.txt"), "one\n");
    let there = format!("h:{}", shared.at("f.txt").display());
    let mut occ = rig.occ(&["edit", &there]);
    occ.env("TERM", "xterm").env("EDITOR", "vi").env("TMPDIR", desk(&rig));
    let mut terminal = Terminal::control(&occ, "");
    terminal.resize(24, 80);
    terminal.wait_for("f.txt\" ");
    // It shows the cursor when it has drawn all.
    terminal.wait_for("?25h");
    terminal.type_text("otwo\u{1b}");
    terminal.wait_for("two");
    terminal.type_text(":wq\n");
    terminal.wait_for("f.txt: written, 8 B.");
    let (screen, code) = terminal.finish();
    assert_eq!(code, 0, "{screen}");
    assert_eq!(std::fs::read(shared.at("f.txt")).unwrap(), b"one\ntwo\n");
    assert!(is_empty(&desk(&rig)));
}

#[test]
fn ctrl_c_is_the_editors() {
    let Some((_sshd, rig)) = sshd() else { return };
    let shared = Shared::new();
    writable(&shared.at("f"), "one");
    let text = "trap 'echo caught >\"$1\"; exit 0' INT; echo ready; while :; do sleep 0.05; done";
    let there = format!("h:{}", shared.at("f").display());
    let mut occ = rig.occ(&["edit", &there]);
    occ.env("EDITOR", script(&rig, text)).env("TMPDIR", desk(&rig));
    let mut terminal = Terminal::control(&occ, "");
    terminal.wait_for("ready");
    terminal.type_text("\u{3}");
    let (screen, code) = terminal.finish();
    assert_eq!(code, 0, "{screen}");
    assert_eq!(std::fs::read(shared.at("f")).unwrap(), b"caught\n");
}

#[test]
fn a_command_typed_in_a_workspace_runs_in_its_place_on_the_host() {
    if !testkit::RealSshd::require() {
        return;
    }
    let sshd = testkit::RealSshd::start();
    let shared = Shared::new();
    std::fs::create_dir_all(shared.at("there/sub dir")).unwrap();
    let config =
        format!("[hosts.h]\nworkspaces = {{ \"~/app\" = \"{}\" }}\n", shared.at("there").display());
    let rig = crate::support::daemon_with(&sshd, &config);
    let here = rig.home().join("app/sub dir");
    std::fs::create_dir_all(&here).unwrap();
    let there = shared.at("there/sub dir");
    let run = |args: &[&str]| {
        let mut occ = rig.occ(&[&["exec", "--host", "h"], args].concat());
        String::from_utf8(occ.current_dir(&here).output().unwrap().stdout).unwrap()
    };
    assert_eq!(run(&["--", "pwd"]), format!("{}\n", there.display()));
    assert_eq!(run(&["--cwd", "/", "--", "pwd"]), "/\n");
    let ask =
        |query: &str| rig.http("GET", &format!("/v1/hosts/h/workspaces{query}"), &[], None).json();
    let here = here.to_str().unwrap();
    let pair = serde_json::json!({"here": here, "there": there});
    let encoded = occ_proto::files::encode_path(here.as_bytes());
    assert_eq!(ask(&format!("?here={encoded}"))["workspaces"], serde_json::json!([pair]));
    let encoded = occ_proto::files::encode_path(there.to_str().unwrap().as_bytes());
    assert_eq!(ask(&format!("?there={encoded}"))["workspaces"], serde_json::json!([pair]));
    assert_eq!(ask("")["workspaces"].as_array().unwrap().len(), 1);
    assert_eq!(ask("?here=/elsewhere")["workspaces"].as_array().unwrap().len(), 0);
}

//! A grant's socket serves one host, with a policy that is fixed, until its end. Mounted into a container, that is a wall.

use std::fs::Permissions;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};
use testkit::http::{self, Response};
use testkit::{DaemonRig, DockerRig};

use testkit::user::bound_by_modes;
use testkit::wait::blocking::wait_until;

use crate::files::{Lines, Shared, bare};
use crate::policy::{denied, sshd_with};
use crate::start::output;
use crate::support::{GUARD, eventually, exit_code};

fn ask(socket: &Path, method: &str, path: &str, body: Option<Value>) -> Response {
    let body = body.map(|body| body.to_string());
    let json = [("Content-Type", "application/json")];
    let headers = if body.is_some() { &json[..] } else { &[] };
    http::request(socket, method, path, headers, body.as_deref().map(str::as_bytes)).unwrap()
}

fn run(socket: &Path, host: &str, argv: &[&str]) -> Response {
    ask(socket, "POST", &format!("/v1/hosts/{host}/exec"), Some(json!({ "argv": argv })))
}

fn make(rig: &DaemonRig, args: &[&str]) -> PathBuf {
    let all = [&["grant", "-q", "--host", "h"], args].concat();
    PathBuf::from(rig.occ_ok(&all).trim())
}

/// A directory of the host with something in it that is to be reached, and something beside it that is not.
fn app(shared: &Shared) -> PathBuf {
    let app = shared.at("app");
    std::fs::create_dir(&app).unwrap();
    std::fs::set_permissions(&app, std::fs::Permissions::from_mode(0o777)).unwrap();
    std::fs::write(app.join("f"), "inside\n").unwrap();
    std::fs::write(shared.at("secret"), "outside\n").unwrap();
    symlink("../secret", app.join("link")).unwrap();
    symlink("..", app.join("up")).unwrap();
    app
}

#[test]
fn a_grant_gives_what_it_says_and_nothing_else() {
    let shared = Shared::new();
    let app = app(&shared);
    let Some((_sshd, rig)) = sshd_with("") else { return };
    let root = app.to_str().unwrap();
    let socket = make(
        &rig,
        &["--allow", "read,exec:ls,exec:cat", "--ttl", "2h", "--root", root, "--name", "g"],
    );
    assert!(socket.starts_with(rig.socket().parent().unwrap()), "{socket:?}");
    assert_eq!(std::fs::symlink_metadata(&socket).unwrap().mode() & 0o777, 0o600);
    let dir = std::fs::symlink_metadata(socket.parent().unwrap()).unwrap();
    assert_eq!(dir.mode() & 0o777, 0o700);

    let ran = run(&socket, "h", &["ls"]);
    assert_eq!(ran.status, 200, "{}", ran.text());
    assert_eq!(ran.json()["stdout"], "f\nlink\nup\n");
    let file = |path: &Path| format!("/v1/hosts/h/files/{}", path.display());
    assert_eq!(ask(&socket, "GET", &file(&app.join("f")), None).text(), "inside\n");
    assert_eq!(ask(&socket, "GET", "/v1/hosts/h", None).status, 200);
    assert_eq!(ask(&socket, "GET", "/healthz", None).status, 200);
    let view = ask(&socket, "GET", "/v1/hosts/h/policy", None).json();
    assert_eq!((&view["default"], &view["root"]), (&json!("deny"), &json!(root)));

    for argv in [&["rm", "f"][..], &["sh", "-c", "ls"], &["./ls"], &["env", "ls"], &["sudo", "ls"]]
    {
        let why = denied(&run(&socket, "h", argv));
        assert!(why.contains("default = \"deny\""), "{argv:?}: {why}");
    }
    let exec = |body: Value| denied(&ask(&socket, "POST", "/v1/hosts/h/exec", Some(body)));
    exec(json!({ "shell": "ls" }));
    exec(json!({ "argv": ["ls"], "env": { "PATH": root } }));
    exec(json!({ "argv": ["ls"], "cwd": "/" }));
    exec(json!({ "argv": ["ls"], "cwd": app.join("up") }));
    for path in [shared.at("secret"), app.join("link"), app.join("up/secret"), "/etc/passwd".into()]
    {
        denied(&ask(&socket, "GET", &file(&path), None));
    }
    denied(&ask(&socket, "PUT", &file(&app.join("new")), Some(json!(1))));
    denied(&ask(&socket, "DELETE", &file(&app.join("f")), None));
    // Nor other hosts, whether there are any, nor anything of the daemon's.
    denied(&run(&socket, "local", &["ls"]));
    denied(&run(&socket, "nowhere", &["ls"]));
    denied(&run(&socket, "%68%68", &["ls"]));
    for (method, path) in [
        ("GET", "/v1/version"),
        ("GET", "/v1/hosts"),
        ("POST", "/v1/hosts"),
        ("DELETE", "/v1/hosts/h"),
        ("PATCH", "/v1/hosts/h"),
        ("GET", "/v1/hosts/local"),
        ("GET", "/v1/hosts/local/files/etc/passwd"),
        ("PUT", "/v1/default-host"),
        ("DELETE", "/v1/default-host"),
        ("POST", "/v1/hosts/h/disconnect"),
        ("POST", "/v1/hosts/h/trust"),
        ("POST", "/v1/hosts/h/test"),
        ("GET", "/v1/hosts/h/container/password"),
        ("POST", "/v1/hosts/h/container/start"),
        ("PUT", "/v1/hosts/h/docker-socket"),
        ("POST", "/v1/hosts/h/docker-setup"),
        ("GET", "/v1/sessions"),
        ("POST", "/v1/sessions"),
        ("GET", "/v1/forwards"),
        ("POST", "/v1/forwards"),
        ("GET", "/v1/operations"),
        ("GET", "/v1/prompts"),
        ("POST", "/v1/prompts/1"),
        ("POST", "/v1/unlock"),
        ("GET", "/v1/grants"),
        ("POST", "/v1/grants"),
        ("DELETE", "/v1/grants/g"),
        ("GET", "/v1/log-level"),
        ("PUT", "/v1/log-level"),
        ("POST", "/v1/hosts/h/trace"),
        ("DELETE", "/v1/hosts/h/trace"),
    ] {
        denied(&ask(&socket, method, path, None));
    }
    // The program works with it as with any socket.
    let occ = |args: &[&str]| {
        let mut command = rig.occ(args);
        command.env("OCC_SOCKET", &socket).output().unwrap()
    };
    let ran = occ(&["exec", "--host", "h", "--", "cat", "f"]);
    assert_eq!(String::from_utf8_lossy(&ran.stdout), "inside\n");
    assert_eq!(occ(&["exec", "--host", "h", "--", "rm", "f"]).status.code(), Some(7));
    assert_eq!(occ(&["shell", "--host", "h"]).status.code().unwrap_or(0), 2, "no terminal here");
    // What the host's policy says narrows it, and widens nothing.
    rig.write_config_toml("[[hosts.h.policy.rules]]\naction = \"deny\"\nprogram = \"cat\"\n[[hosts.h.policy.rules]]\naction = \"allow\"\n");
    denied(&run(&socket, "h", &["cat", "f"]));
    denied(&run(&socket, "h", &["rm", "f"]));
    assert_eq!(run(&socket, "h", &["ls"]).status, 200);
}

#[test]
fn a_grant_outlives_the_daemon_and_ends_with_what_is_open_through_it() {
    let Some((_sshd, mut rig)) = sshd_with("") else { return };
    let socket = make(&rig, &["--allow", "exec:sleep,exec:true", "--ttl", "1h", "--name", "g"]);
    rig.terminate_daemon();
    rig.start_daemon(&[]);
    let ran = run(&socket, "h", &["true"]);
    assert_eq!(ran.status, 200, "{}", ran.text());
    let list: Value = serde_json::from_str(&rig.occ_ok(&["grant", "list", "--json"])).unwrap();
    assert_eq!(list["grants"][0]["name"], "g");
    assert_eq!(list["grants"][0]["allow"], json!(["exec:sleep", "exec:true"]));
    let again =
        rig.run_occ(&["grant", "--host", "h", "--allow", "read", "--ttl", "1h", "--name", "g"]);
    assert_eq!(again.code(), 1, "{}", again.stderr);

    let open = |socket: &Path| {
        let mut command = rig.occ(&["exec", "--host", "h", "--", "sleep", "600"]);
        command.env("OCC_SOCKET", socket).env("OCC_NO_AUTOSTART", "1");
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let denied_at_its_end = |waiting: &mut std::process::Child, name: &str| {
        let (code, mut said) = (exit_code(waiting), String::new());
        waiting.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(code, 7, "{said}");
        assert!(said.contains(&format!("The grant {name} has ended")), "{said}");
        assert!(said.contains("hint: occ policy show --host h"), "{said}");
    };
    let sleeps = || {
        let ps = rig.run_occ(&["exec", "--host", "h", "--", "pgrep", "-f", "^sleep 600"]);
        ps.stdout.lines().count()
    };
    let before = sleeps();
    let mut waiting = open(&socket);
    eventually("a command through the grant", || sleeps() == before + 1);
    rig.occ_ok(&["grant", "revoke", "g"]);
    denied_at_its_end(&mut waiting, "g");
    eventually("the command to be ended", || sleeps() == before);
    assert!(!socket.exists() && !socket.parent().unwrap().exists());
    assert_eq!(rig.run_occ(&["grant", "revoke", "g"]).code(), 1);

    // The same when its time has come.
    let short = make(&rig, &["--allow", "exec:sleep", "--ttl", "4s"]);
    let mut waiting = open(&short);
    eventually("a command through the grant", || sleeps() == before + 1);
    let name = short.parent().unwrap().file_name().unwrap().to_string_lossy().into_owned();
    denied_at_its_end(&mut waiting, &name);
    eventually("the command to be ended", || sleeps() == before);
    eventually("the socket to be gone", || !short.exists());
    assert_eq!(rig.occ_ok(&["grant", "list"]), "There are no grants.\n");
    let _ = GUARD;
}

#[test]
fn where_a_grant_was_no_other_daemon_is_started_and_it_ends_with_its_host() {
    let Some((_sshd, rig)) = sshd_with("") else { return };
    let socket = make(&rig, &["--allow", "exec", "--ttl", "2h", "--name", "g"]);
    rig.occ_ok(&["grant", "revoke", "g"]);
    let mut occ = rig.occ(&["exec", "--host", "h", "--", "true"]);
    let output = occ.env("OCC_SOCKET", &socket).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("has ended, or was revoked"), "{said}");
    assert!(!socket.exists());
    // Nor is the daemon that runs told of as another one, that might be stopped.
    for args in [&["daemon", "status"][..], &["doctor"]] {
        let said = crate::start::output(rig.occ(args).env("OCC_SOCKET", &socket));
        let said = format!("{}{}", said.stdout, said.stderr);
        assert!(said.contains("has ended, or was revoked") && !said.contains("stop"), "{said}");
    }

    let socket = make(&rig, &["--allow", "exec", "--ttl", "2h", "--name", "g"]);
    assert_eq!(run(&socket, "h", &["true"]).status, 200);
    rig.occ_ok(&["host", "remove", "h", "--force"]);
    assert!(!socket.exists());
    assert_eq!(rig.http("GET", "/v1/grants", &[], None).json()["grants"], json!([]));
}

#[test]
fn a_grant_that_nobody_serves_for_now_has_not_ended() {
    let Some((_sshd, mut rig)) = sshd_with("") else { return };
    let socket = make(&rig, &["--allow", "exec", "--ttl", "2h", "--name", "g"]);
    rig.terminate_daemon();
    let asked = |rig: &DaemonRig| {
        let said = output(rig.occ(&["exec", "--", "true"]).env("OCC_SOCKET", &socket));
        (said.code(), said.stderr)
    };
    let (code, said) = asked(&rig);
    assert!(code == 3 && said.contains("Nobody serves the grant"), "{said}");
    assert!(said.contains("after occ daemon start it goes on"), "{said}");
    // Nor has one whose directory is closed to whoever asks.
    let run_dir = rig.socket().parent().unwrap().to_owned();
    let mode = |mode| std::fs::set_permissions(&run_dir, Permissions::from_mode(mode)).unwrap();
    mode(0o600);
    let mut occ = rig.occ(&["exec", "--", "true"]);
    let said = output(&mut bound_by_modes(occ.env("OCC_SOCKET", &socket)));
    assert!(said.code() == 3 && said.stderr.contains("Permission denied"), "{said:?}");
    mode(0o700);
    rig.start_daemon(&[]);
    assert_eq!(asked(&rig).0, 0);

    // The next daemon may have it in another place.
    rig.terminate_daemon();
    let elsewhere = rig.root().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    rig.set_env("XDG_RUNTIME_DIR", &elsewhere);
    rig.start_daemon(&[]);
    let listed = rig.http("GET", "/v1/grants", &[], None).json();
    let listed = PathBuf::from(listed["grants"][0]["socket"].as_str().unwrap());
    assert!(listed.starts_with(&elsewhere), "{listed:?}");
    assert!(
        !socket.parent().unwrap().exists(),
        "what is left of it where it was leads nobody astray"
    );
    assert!(rig.log().contains("a grant has its socket in another place now"), "{}", rig.log());
    assert_eq!(run(&listed, "h", &["true"]).status, 200);
}

#[test]
fn a_grant_to_write_changes_no_root_and_makes_no_program_that_runs_as_its_owner() {
    let shared = Shared::new();
    let app = app(&shared);
    let Some((_sshd, rig)) = sshd_with("") else { return };
    let root = app.to_str().unwrap();
    let socket = make(&rig, &["--allow", "write", "--ttl", "2h", "--root", root]);
    let path = |name: &str| format!("/v1/hosts/h/files/{}{name}", app.display());
    let act = |name: &str, action: Value| ask(&socket, "POST", &path(name), Some(action));
    let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o7777;

    for action in [
        json!({ "action": "chmod", "mode": 0 }),
        json!({ "action": "touch", "mtime": 1 }),
        json!({ "action": "rename", "to": app.join("x") }),
    ] {
        denied(&act("", action));
    }
    assert_eq!(act("", json!({ "action": "mkdir", "parents": true })).status, 200);
    assert_eq!(act("/d", json!({ "action": "mkdir", "mode": 0o750 })).status, 200);
    assert_eq!(act("/d", json!({ "action": "chmod", "mode": 0o1770 })).status, 200);
    assert_eq!(mode(&app.join("d")), 0o1770);
    denied(&act("/e", json!({ "action": "mkdir", "mode": 0o2750 })));
    denied(&act("/d", json!({ "action": "chmod", "mode": 0o4700 })));
    denied(&ask(&socket, "PUT", &path("/p?mode=4755"), Some(json!(1))));
    denied(&ask(&socket, "PUT", &path("/p?new_mode=2755"), Some(json!(1))));
    assert!(!app.join("p").exists());
    // Nor in the place of one that does.
    std::fs::set_permissions(app.join("f"), std::fs::Permissions::from_mode(0o4755)).unwrap();
    assert_eq!(ask(&socket, "PUT", &path("/f"), Some(json!(1))).status, 200);
    assert_eq!(mode(&app.join("f")), 0o755);

    // Nor by going on with one.
    std::fs::write(app.join("s"), "abc").unwrap();
    let to = json!({ "action": "rename", "to": app.join(".g.occ-part") });
    assert_eq!(act("/s", to).status, 200);
    std::fs::set_permissions(app.join(".g.occ-part"), std::fs::Permissions::from_mode(0o4755))
        .unwrap();
    assert_eq!(ask(&socket, "PUT", &path("/g?resume=3"), Some(json!(1))).status, 416);
    // What is made on the way has no more than it would have had.
    let deep = json!({ "action": "mkdir", "mode": 0o1777, "parents": true });
    assert_eq!(act("/x/y", deep).status, 200);
    assert_eq!((mode(&app.join("x")), mode(&app.join("x/y"))), (0o755, 0o1755));

    let source = tempfile::tempdir().unwrap();
    std::fs::set_permissions(source.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let send = |to: &str, file_mode: u32| {
        let file = source.path().join("p");
        std::fs::write(&file, "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(file_mode)).unwrap();
        let mut tar = std::process::Command::new("tar");
        let archive = tar.arg("-cC").arg(source.path()).arg(".").output().unwrap().stdout;
        let path = path(&format!("{to}?tar=true&preserve=true"));
        http::request(&socket, "PUT", &path, &[], Some(&archive)).unwrap()
    };
    for to in ["", "/new"] {
        denied(&send(to, 0o4755));
        assert!(!app.join("p").exists() && !app.join("new").exists());
    }
    std::fs::create_dir(source.path().join("d")).unwrap();
    std::fs::set_permissions(source.path().join("d"), std::fs::Permissions::from_mode(0o2755))
        .unwrap();
    denied(&send("/new", 0o755));
    std::fs::remove_dir(source.path().join("d")).unwrap();
    assert_eq!(send("", 0o755).status, 200);
    assert_eq!((mode(&app.join("p")), mode(&app)), (0o755, 0o777));
    eventually("nothing to be left", || {
        let names = std::fs::read_dir(&app).unwrap().map(|entry| entry.unwrap().file_name());
        !names.into_iter().any(|name| name.to_string_lossy().contains(".occ-"))
    });
}

#[test]
fn an_archive_that_comes_keeps_nobody_below_its_root_waiting_and_leads_nobody_out() {
    let shared = Shared::new();
    let app = app(&shared);
    let Some((_sshd, rig)) = sshd_with("") else { return };
    let root = app.to_str().unwrap();
    let socket = make(&rig, &["--allow", "write", "--ttl", "2h", "--root", root]);
    let source = tempfile::tempdir().unwrap();
    std::fs::create_dir(source.path().join("sub")).unwrap();
    for name in ["1", "2"] {
        std::fs::write(source.path().join("sub").join(name), vec![b'x'; 5_000_000]).unwrap();
    }
    let mut tar = std::process::Command::new("tar");
    tar.arg("-cC").arg(source.path()).args(["sub/1", "sub/2"]);
    let archive = tar.output().unwrap().stdout;
    open_to_all(&shared.at("out"));
    symlink("../out", app.join("lnk")).unwrap();
    let path = |name: &str| format!("/v1/hosts/h/files/{}", app.join(name).display());
    let rename = |from: &str, to: &str| {
        let to = json!({ "action": "rename", "to": app.join(to) });
        ask(&socket, "POST", &path(from), Some(to))
    };
    open_to_all(&app.join("td"));
    open_to_all(&app.join("td/sub"));
    // Into a directory, to where one has become a link meanwhile, and to where nothing is yet.
    for (target, beside, exchange, wanted) in [
        ("td", "td", &[("f", "td/g")][..], "HTTP/1.1 200"),
        ("td", "td", &[("td/sub", "td/old"), ("lnk", "td/sub")], "HTTP/1.1 403"),
        ("new", "", &[("td/sub", "new")], "HTTP/1.1 403"),
    ] {
        let mut put = UnixStream::connect(&socket).unwrap();
        let length = archive.len();
        let head = format!(
            "PUT {}?tar=true HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n",
            path(target)
        );
        put.write_all(head.as_bytes()).unwrap();
        put.write_all(&archive[..4_000_000]).unwrap();
        let unfinished = || {
            let entries = std::fs::read_dir(app.join(beside)).unwrap();
            let mut paths = entries.map(|entry| entry.unwrap().path());
            paths.find(|path| {
                path.to_string_lossy().contains(".occ-") && path.join("sub/1").exists()
            })
        };
        let staging = wait_until("the first file to come", GUARD, unfinished, Option::is_some);
        // Where it comes to nobody else gets.
        let staging = staging.unwrap();
        let staging = staging.strip_prefix(&app).unwrap().to_str().unwrap();
        denied(&rename(staging, "mine"));
        denied(&rename("link", &format!("{staging}/sub")));
        denied(&rename(&format!("{staging}/sub"), "mine"));
        denied(&ask(&socket, "DELETE", &path(&format!("{staging}/sub/1")), None));
        for (from, to) in exchange {
            assert_eq!(rename(from, to).status, 200);
        }
        put.write_all(&archive[4_000_000..]).unwrap();
        let mut answer = String::new();
        put.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with(wanted), "{answer}");
        eventually("nothing to be left", || unfinished().is_none());
    }
    let names = |dir: &str| {
        let entries = std::fs::read_dir(app.join(dir)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names("td/old"), ["1", "2"]);
    assert!(names("../out").is_empty());
}

#[test]
fn a_grant_to_write_is_enough_to_copy_there_and_shows_no_content() {
    let shared = Shared::new();
    let app = app(&shared);
    let Some((_sshd, rig)) = sshd_with("") else { return };
    let root = app.to_str().unwrap();
    let socket = make(&rig, &["--allow", "write", "--ttl", "2h", "--root", root]);
    let here = tempfile::tempdir().unwrap();
    std::fs::create_dir(here.path().join("tree")).unwrap();
    std::fs::write(here.path().join("tree/new"), "new").unwrap();
    let occ = |args: &[&str]| {
        let mut occ = rig.occ(args);
        let output = occ.env("OCC_SOCKET", &socket).current_dir(here.path()).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let to = format!("h:{root}");
    for args in [["cp", "tree/new", &to].as_slice(), &["cp", "-r", "tree", &to]] {
        let (code, said) = occ(args);
        assert_eq!(code, Some(0), "{args:?}: {said}");
    }
    assert_eq!(std::fs::read(app.join("new")).unwrap(), b"new");
    assert_eq!(std::fs::read(app.join("tree/new")).unwrap(), b"new");
    // Nor whether a guess at it is right: this one is.
    let of_new = "11507a0e2f5e69d5dfa40a62a1bd7b6ee57e6bcd85c67c9b8431b36fff21c437";
    let path = format!("/v1/hosts/h/files/{root}/new?if_sha256={of_new}");
    let guess = ask(&socket, "PUT", &path, Some(json!({})));
    assert_eq!(guess.status, 403, "{}", guess.text());
    let f = format!("h:{root}/f");
    for args in [["cat", &f], ["ls", &to], ["cat", &format!("h:{root}/none")]] {
        let (code, said) = occ(&args);
        assert_eq!(code, Some(7), "{args:?}: {said}");
    }
    // Nor what is outside, not even whether it is there.
    let stat = |path: &Path| {
        let path = format!("/v1/hosts/h/files/{}?stat=true", path.display());
        ask(&socket, "GET", &path, None)
    };
    assert_eq!(stat(&app.join("f")).json()["size"], 7);
    denied(&stat(&shared.at("secret")));
    denied(&stat(&app.join("link")));
    // One for any user is for this one, too.
    let any = make(&rig, &["--allow", "read", "--ttl", "2h", "--root", root, "--any-uid"]);
    let mut occ = rig.occ(&["cat", &f]);
    let output = occ.env("OCC_SOCKET", &any).env("OCC_HOST", "h").output().unwrap();
    assert_eq!(output.stdout, b"inside\n", "{output:?}");
    // The root itself is an entry of the directory above it.
    for path in [root.to_owned(), format!("{root}/."), format!("{root}/up/../app")] {
        let at = format!("/v1/hosts/h/files/{path}");
        denied(&ask(&socket, "DELETE", &format!("{at}?recursive=true"), None));
        let to = app.join("moved").display().to_string();
        let rename = json!({ "action": "rename", "to": to });
        denied(&ask(&socket, "POST", &at, Some(rename)));
    }
    assert!(app.join("f").exists());
    assert_eq!(ask(&socket, "DELETE", &format!("/v1/hosts/h/files/{root}/f"), None).status, 204);
}

#[test]
fn a_transfer_that_ends_with_its_grant_says_so() {
    let shared = Shared::new();
    let app = app(&shared);
    let Some((_sshd, rig)) = sshd_with("") else { return };
    let root = app.to_str().unwrap();
    // Never at its end: what is read waits for whoever reads it.
    std::fs::write(app.join("long"), vec![b'x'; 64_000_000]).unwrap();
    let socket = make(&rig, &["--allow", "read", "--ttl", "2h", "--root", root, "--name", "g"]);
    let mut occ = rig.occ(&["cat", &format!("h:{root}/long")]);
    let occ = occ.env("OCC_SOCKET", &socket).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut occ = occ.spawn().unwrap();
    let mut stdout = occ.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 10]).unwrap();
    rig.occ_ok(&["grant", "revoke", "g"]);
    std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
    let (code, mut said) = (exit_code(&mut occ), String::new());
    occ.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(code, 7, "{said}");
    assert!(said.contains("has ended, or was revoked"), "{said}");
}

/// Starts `occ` through a grant.
fn through(rig: &DaemonRig, socket: &Path, args: &[&str]) -> Child {
    let mut occ = rig.occ(args);
    let occ = occ.env("OCC_SOCKET", socket).stdin(Stdio::null());
    occ.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits until `occ` has said that its grant has ended.
fn ends_with_the_grant(mut occ: Child, what: &str) {
    if let Some(mut stdout) = occ.stdout.take() {
        std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
    }
    let (code, mut said) = (exit_code(&mut occ), String::new());
    occ.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(code, 7, "{what}: {said}");
    assert!(said.contains("has ended"), "{what}: {said}");
    assert!(
        !said.contains("closed the connection") && !said.contains("went away"),
        "{what}: {said}"
    );
}

#[test]
fn whatever_is_under_way_when_a_grant_ends_says_so() {
    let shared = Shared::new();
    let app = app(&shared);
    let Some((_sshd, rig)) = sshd_with("") else { return };
    let root = app.to_str().unwrap();
    let here = tempfile::tempdir().unwrap();
    // Without an end, as far as this test goes: nothing of it is on a disk before it is moved.
    for long in [here.path().join("long"), app.join("long")] {
        std::fs::File::create(long).unwrap().set_len(1 << 36).unwrap();
    }
    let is_empty = |dir: &Path| std::fs::read_dir(dir).unwrap().next().is_none();
    let (watched, into) = (format!("h:{root}"), app.join("seen"));
    let watch = ["files", "watch", &watched];
    let exec = ["exec", "--host", "h", "--", "yes"];
    for ttl in ["2h", "5s"] {
        let grant = || {
            let all = ["--allow", "read,write,exec:yes", "--ttl", ttl, "--root", root];
            let socket = make(&rig, &all);
            let name = socket.parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
            (socket, name)
        };
        let end = |name: &str| {
            if ttl == "2h" {
                rig.occ_ok(&["grant", "revoke", name]);
            }
        };
        // A directory for each, since half of a file is kept for `occ cp --resume`.
        let dirs = [app.join(ttl), here.path().join(ttl)];
        for dir in &dirs {
            std::fs::create_dir(dir).unwrap();
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o777)).unwrap();
        }
        let [there, here_too] = dirs.each_ref().map(|dir| dir.join("new").display().to_string());
        let (from, to) = (here.path().join("long").display().to_string(), format!("h:{there}"));
        let upload = ("an upload", ["cp", &from, &to], &dirs[0]);
        let from = format!("h:{root}/long");
        let download = ("a download", ["cp", &from, &here_too], &dirs[1]);
        for (what, args, dir) in [upload, download] {
            let (socket, name) = grant();
            let occ = through(&rig, &socket, &args);
            eventually("something to come", || !is_empty(dir));
            end(&name);
            ends_with_the_grant(occ, what);
            assert!(!dir.join("new").exists(), "{what}: half a file is no file");
        }

        for (what, args) in [("a command", &exec[..]), ("a watch", &watch[..])] {
            let (socket, name) = grant();
            let mut occ = through(&rig, &socket, args);
            let mut stdout = occ.stdout.take().unwrap();
            std::thread::scope(|scope| {
                let seen = scope.spawn(|| stdout.read_exact(&mut [0; 2]).is_ok());
                // Looks are taken now and then: what they see is another size each time.
                let mut size = 0;
                eventually("something to be seen", || {
                    size += 1;
                    std::fs::write(&into, vec![b'x'; size]).unwrap();
                    seen.is_finished()
                });
                assert!(seen.join().unwrap(), "{what}");
            });
            occ.stdout = Some(stdout);
            end(&name);
            ends_with_the_grant(occ, what);
        }
    }
}

#[test]
fn whoever_works_through_a_grant_is_told_what_is_waited_for() {
    let shared = Shared::new();
    let app = app(&shared);
    let rules = "[[hosts.h.policy.rules]]\naction = \"ask\"\nwhat = [\"read\"]\n";
    let Some((_sshd, rig)) = sshd_with(rules) else { return };
    let socket = make(&rig, &["--allow", "read", "--ttl", "2h", "--name", "g"]);
    let mut occ = rig.occ(&["cat", &format!("h:{}/f", app.display())]);
    let occ = occ.env("OCC_SOCKET", &socket).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut occ = occ.spawn().unwrap();
    let mut said = std::io::BufReader::new(occ.stderr.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut said, &mut line).unwrap();
    assert!(line.contains("waiting: Allow the grant g"), "{line}");
    // Those of others are not shown, and none is answered.
    let own = ask(&socket, "GET", "/v1/prompts?own=true", None).json();
    assert_eq!(own["prompts"], json!([]));
    denied(&ask(&socket, "GET", "/v1/prompts", None));
    let open = rig.http("GET", "/v1/prompts", &[], None).json();
    let id = open["prompts"][0]["id"].to_string();
    denied(&ask(&socket, "POST", &format!("/v1/prompts/{id}"), Some(json!({ "answer": "yes" }))));
    occ.kill().unwrap();
    occ.wait().unwrap();
}

#[test]
fn a_grant_is_not_made_for_a_root_that_is_not_there() {
    let shared = Shared::new();
    let app = app(&shared);
    let Some((_sshd, rig)) = sshd_with("") else { return };
    for root in [app.join("none"), app.join("f")] {
        let root = root.to_str().unwrap();
        let args = ["grant", "--host", "h", "--allow", "read", "--ttl", "1h", "--root", root];
        let made = rig.run_occ(&args);
        assert_eq!(made.code(), 1, "{}", made.stderr);
        assert!(made.stderr.contains(root), "{}", made.stderr);
    }
    assert_eq!(rig.occ_ok(&["grant", "list"]), "There are no grants.\n");
}

#[test]
fn through_a_grant_its_host_needs_no_name() {
    let shared = Shared::new();
    let app = app(&shared);
    let Some((_sshd, rig)) = sshd_with("") else { return };
    let root = app.to_str().unwrap();
    let socket =
        make(&rig, &["--allow", "read,write,exec", "--ttl", "2h", "--root", root, "--name", "g"]);
    let occ = |args: &[&str]| {
        let mut occ = rig.occ(args);
        occ.env("OCC_SOCKET", &socket).env("EDITOR", "sh -c 'echo more >>\"$0\"'");
        let output = occ.output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    for at in [format!("h:{root}"), root.to_owned()] {
        let f = format!("{at}/f");
        assert_eq!(occ(&["cat", &f]), "inside\n");
        assert_eq!(occ(&["ls", &at]).lines().next(), Some("f"));
        assert!(occ(&["files", "search", "inside", &at]).contains("inside"));
        occ(&["edit", &f]);
        assert_eq!(std::fs::read_to_string(app.join("f")).unwrap(), "inside\nmore\n");
        occ(&["rm", &f]);
        std::fs::write(app.join("f"), "inside\n").unwrap();
    }
    assert_eq!(occ(&["exec", "--", "cat", "f"]), "inside\n");
    // A path that names its host needs nothing else to be known.
    let rig_cwd = tempfile::tempdir().unwrap();
    std::fs::write(rig_cwd.path().join(".occ.toml"), "host = \"other\"\n").unwrap();
    let mut cat = rig.occ(&["cat", &format!("h:{root}/f")]);
    let output = cat.current_dir(rig_cwd.path()).output().unwrap();
    assert_eq!(output.stdout, b"inside\n", "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_grant_cannot_be_had_for_what_would_lead_out_of_it() {
    let Some((_sshd, rig)) = sshd_with("") else { return };
    for allow in ["docker", "forward", "session", "read:x", ""] {
        let made = rig.run_occ(&["grant", "--host", "h", "--allow", allow, "--ttl", "1h"]);
        assert_eq!(made.code(), 2, "{allow}: {}", made.stderr);
    }
    for name in ["..", "a/b", "a b"] {
        let made = rig
            .run_occ(&["grant", "--host", "h", "--allow", "read", "--ttl", "1h", "--name", name]);
        assert_eq!(made.code(), 2, "{name}: {}", made.stderr);
    }
}

#[test]
fn inside_a_container_the_grant_is_a_wall() {
    if !DockerRig::require() {
        return;
    }
    let shared = Shared::new();
    let app = app(&shared);
    let Some((_sshd, mut rig)) = sshd_with("") else { return };
    let docker = DockerRig::start();
    docker.import_program("agent:1", &testkit::daemon::client_binary(), &[]);
    let root = app.to_str().unwrap();
    let socket = make(
        &rig,
        &["--allow", "read,exec:ls", "--ttl", "1h", "--root", root, "--name", "g", "--any-uid"],
    );
    assert_eq!(std::fs::symlink_metadata(&socket).unwrap().mode() & 0o777, 0o666);
    let dir = socket.parent().unwrap();
    // Other users of this machine do not come that far.
    assert_eq!(std::fs::metadata(dir.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
    let mount = format!("{}:/run/occ", dir.display());
    docker.run(
        "agent",
        &[
            "-v",
            &mount,
            "-e",
            "OCC_SOCKET=/run/occ/occ.sock",
            "-e",
            "OCC_HOST=h",
            "-e",
            "HOME=/tmp",
            "-e",
            "OCC_SOCKET_OWNER=0",
            "agent:1",
            "sleep",
            "1000",
        ],
    );
    let inside = |user: &str, words: &[&str]| {
        let all = [&["exec", "--user", user, "agent"], words].concat();
        let output = docker.output(&all);
        let said = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        (output.status.code().unwrap_or(-1), said)
    };
    for user in ["0", "1234"] {
        let (code, said) = inside(user, &["occ", "exec", "--", "ls"]);
        assert_eq!((code, said.as_str()), (0, "f\nlink\nup\n"), "as {user}");
        let f = format!("h:{root}/f");
        assert_eq!(inside(user, &["occ", "cat", &f]), (0, "inside\n".to_owned()));
        let refused = |words: &[&str]| {
            let (code, said) = inside(user, words);
            assert_eq!(code, 7, "{words:?}: {said}");
            assert!(said.contains("refused by"), "{words:?}: {said}");
        };
        refused(&["occ", "exec", "--", "rm", "f"]);
        refused(&["occ", "exec", "--shell", "--", "ls; id"]);
        refused(&["occ", "exec", "--", "sh", "-c", "id"]);
        refused(&["occ", "exec", "--", "./ls"]);
        refused(&["occ", "exec", "--", "env", "ls"]);
        refused(&["occ", "exec", "--env", "LD_PRELOAD=/tmp/x", "--", "ls"]);
        refused(&["occ", "exec", "--cwd", "/", "--", "ls"]);
        refused(&["occ", "exec", "--cwd", "up", "--", "ls"]);
        refused(&["occ", "exec", "--tty", "--", "bash"]);
        refused(&["occ", "exec", "--local", "--", "ls"]);
        refused(&["occ", "exec", "--host", "other", "--", "ls"]);
        for path in ["../secret", "link", "up/secret", "sub/../../secret"] {
            refused(&["occ", "cat", &format!("h:{root}/{path}")]);
        }
        refused(&["occ", "cat", "h:/etc/passwd"]);
        refused(&["occ", "cp", "/bin/busybox", &format!("h:{root}/ls")]);
        refused(&["occ", "rm", &f]);
        refused(&["occ", "session", "start", "--", "ls"]);
        refused(&["occ", "session", "list"]);
        refused(&["occ", "forward", "add", "-L", "/tmp/s:/run/docker.sock"]);
        refused(&["occ", "docker-socket"]);
        refused(&["occ", "prompts"]);
        refused(&["occ", "prompts", "--allow", "1"]);
        refused(&["occ", "host", "list"]);
        refused(&["occ", "host", "remove", "h", "-f"]);
        refused(&["occ", "grant", "list"]);
        refused(&["occ", "grant", "--host", "h", "--allow", "exec", "--ttl", "1h"]);
        refused(&["occ", "trust"]);
        refused(&["occ", "disconnect"]);
    }
    assert!(app.join("f").exists() && !app.join("ls").exists());
    // The directory is mounted as a whole: the next daemon's socket is seen, too.
    rig.terminate_daemon();
    rig.start_daemon(&[]);
    let (code, said) = inside("0", &["occ", "exec", "--", "ls"]);
    assert_eq!((code, said.as_str()), (0, "f\nlink\nup\n"));
    rig.occ_ok(&["grant", "revoke", "g"]);
    assert_ne!(inside("0", &["occ", "exec", "--", "ls"]).0, 0);
}

#[test]
fn exchanging_a_directory_for_a_link_leads_nobody_out_of_a_root() {
    let shared = Shared::new();
    let app = app(&shared);
    let Some((sshd, mut rig)) = sshd_with("") else { return };
    // The same server by another name.
    rig.add_host("h2", &sshd);
    rig.terminate_daemon();
    rig.start_daemon(&[]);
    let open = |path: &Path| {
        std::fs::create_dir(path).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
    };
    let (real, out) = (app.join("real"), shared.at("out"));
    open(&real);
    open(&out);
    std::fs::write(real.join("s"), "inside").unwrap();
    std::fs::write(out.join("s"), "outside").unwrap();
    symlink("../out", app.join("lnk")).unwrap();
    let root = app.to_str().unwrap();
    let all = ["--allow", "read,write", "--ttl", "2h", "--root"];
    let first = make(&rig, &[&all[..], &[root]].concat());
    let nested = make(&rig, &[&all[..], &[real.to_str().unwrap()]].concat());
    let second = rig.occ_ok(&[&["grant", "-q", "--host", "h2"], &all[..], &[root]].concat());
    let second = PathBuf::from(second.trim());
    let at = |host: &str, path: &str| format!("/v1/hosts/{host}/files/{root}/{path}");
    let json = [("content-type", "application/json")];
    let rename = |from: &str, to: &str| {
        let to = format!("{root}/{to}");
        let body = serde_json::to_vec(&json!({"action": "rename", "to": to})).unwrap();
        let answer = http::request(&first, "POST", &at("h", from), &json, Some(&body));
        assert_eq!(answer.unwrap().status, 200, "{from} to {to}");
    };
    let over = AtomicBool::new(false);
    let went = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for (host, socket, method, path) in [
            ("h", &first, "GET", "real/s"),
            ("h", &first, "GET", "real?tar=true"),
            ("h", &first, "GET", "real?search=side"),
            ("h2", &second, "PUT", "real/planted"),
        ] {
            let (over, went, at) = (&over, &went, &at);
            scope.spawn(move || {
                let body = (method == "PUT").then_some(&b"planted"[..]);
                while !over.load(Ordering::Relaxed) {
                    let answer = http::request(socket, method, &at(host, path), &[], body).unwrap();
                    let is_out = answer.body.windows(7).any(|window| window == b"outside");
                    assert!(!is_out, "{path}: {}", answer.text());
                    went.fetch_add(usize::from(answer.status == 200), Ordering::Relaxed);
                }
            });
        }
        for _ in 0..60 {
            rename("real", "tmp");
            rename("lnk", "real");
            rename("real", "lnk");
            rename("tmp", "real");
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(went.load(Ordering::Relaxed) > 20, "{went:?}");
    assert!(!out.join("planted").exists());
    // Whoever has a grant for a directory above turns the root of another into a link.
    rename("real", "tmp");
    rename("lnk", "real");
    for path in [format!("{}/s", out.display()), format!("{root}/real/s")] {
        let path = format!("/v1/hosts/h/files/{path}");
        denied(&http::request(&nested, "GET", &path, &[], None).unwrap());
    }
}

#[test]
fn whoever_writes_slowly_below_a_root_keeps_nobody_waiting() {
    let shared = Shared::new();
    let app = app(&shared);
    let Some((_sshd, rig)) = sshd_with("") else { return };
    let root = app.to_str().unwrap();
    let socket = make(&rig, &["--allow", "read,write", "--ttl", "2h", "--root", root]);
    let at = |path: &str| format!("/v1/hosts/h/files/{root}/{path}");
    let mut slow = UnixStream::connect(&socket).unwrap();
    let head = format!(
        "PUT {} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\nx",
        at("slow")
    );
    slow.write_all(head.as_bytes()).unwrap();
    let begun = || {
        std::fs::read_dir(&app)
            .unwrap()
            .any(|entry| entry.unwrap().file_name().to_string_lossy().starts_with(".slow."))
    };
    wait_until("the slow one", GUARD, begun, |begun| *begun);
    let put = http::request(&socket, "PUT", &at("quick"), &[], Some(b"quick")).unwrap();
    assert_eq!(put.status, 200, "{}", put.text());
    let body = serde_json::to_vec(&json!({"action": "rename", "to": format!("{root}/moved")}));
    let json = [("content-type", "application/json")];
    let moved = http::request(&socket, "POST", &at("quick"), &json, Some(&body.unwrap())).unwrap();
    assert_eq!(moved.status, 200, "{}", moved.text());
}

/// Makes a directory that whoever is on the host may write to.
fn open_to_all(path: &Path) {
    std::fs::create_dir(path).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
}

#[test]
fn a_watch_below_a_root_tells_no_name_of_what_is_outside() {
    let shared = Shared::new();
    let app = app(&shared);
    let Some((_sshd, rig)) = sshd_with("") else { return };
    let (real, out) = (app.join("sub/real"), shared.at("out"));
    open_to_all(&app.join("sub"));
    open_to_all(&real);
    open_to_all(&out);
    std::fs::write(out.join("hidden"), "outside").unwrap();
    symlink(&out, app.join("sub/lnk")).unwrap();
    let root = app.to_str().unwrap();
    let socket = make(&rig, &["--allow", "read,write", "--ttl", "2h", "--root", root]);
    let at = |path: &str| format!("/v1/hosts/h/files/{root}/{path}");
    let rename = |from: &str, to: &str| {
        let to = json!({"action": "rename", "to": format!("{root}/sub/{to}")});
        assert_eq!(ask(&socket, "POST", &at(&format!("sub/{from}")), Some(to)).status, 200);
    };
    let mut all = Lines::on(&socket, &at("?watch=true&recursive=true"));
    let ready = json!({"event": "ready", "by": "polling"});
    assert_eq!(all.next(), ready);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                rename("real", "tmp");
                rename("lnk", "real");
                rename("real", "lnk");
                rename("tmp", "real");
            }
        });
        // Whoever looks finds each state.
        let (mut told, mut seen) = (0, std::collections::BTreeSet::new());
        while told < 12 || seen.len() < 2 {
            let event = all.next();
            let path = event["path"].as_str().unwrap_or_else(|| panic!("{event}")).to_owned();
            assert!(!path.contains("hidden"), "{event}");
            told += 1;
            seen.insert(path);
        }
        over.store(true, Ordering::Relaxed);
    });
    std::fs::write(app.join("sub/real/new"), "inside").unwrap();
    all.until(&json!({"event": "created", "path": "sub/real/new"}));
    let mut one = Lines::on(&socket, &at("sub/real?watch=true"));
    assert_eq!(one.next(), ready);
    rename("real", "tmp");
    rename("lnk", "real");
    let gone = json!({"event": "failed", "reason": "the directory is gone"});
    let mut last = one.next();
    while last != gone {
        assert!(!last.to_string().contains("hidden"), "{last}");
        last = one.next();
    }
}

#[test]
fn a_grant_does_not_tell_what_is_outside_of_its_root() {
    let shared = Shared::new();
    let app = app(&shared);
    let Some((_sshd, rig)) = sshd_with("") else { return };
    open_to_all(&shared.at("open"));
    // Into which the server's user may not look.
    std::fs::create_dir(shared.at("closed")).unwrap();
    std::fs::set_permissions(shared.at("closed"), std::fs::Permissions::from_mode(0o700)).unwrap();
    for (link, to) in [
        ("to-open", "../open/x"),
        ("to-none", "../none/x"),
        ("to-closed", "../closed/x"),
        ("to-file", "../secret/x"),
    ] {
        symlink(to, app.join(link)).unwrap();
    }
    let root = app.to_str().unwrap();
    let all = "read,write,exec:true";
    let socket = make(&rig, &["--allow", all, "--ttl", "2h", "--root", root]);
    let long = "x".repeat(300);
    let out = |name: &str| shared.at(name).display().to_string();
    let mut paths: Vec<String> =
        ["open", "none", "closed", "closed/x", "secret", "secret/x", &long].map(out).into();
    paths.extend(["open", "none", "closed"].map(|name| format!("{root}/../{name}/../app/f")));
    paths.extend(["open", "none", "closed", "file"].map(|name| format!("{root}/to-{name}")));
    paths.extend(["open", "closed", "file"].map(|name| format!("{root}/to-{name}/below")));
    for path in &paths {
        let at = format!("/v1/hosts/h/files/{path}");
        let words = format!("root = {root:?}: {path} is not below it");
        for query in ["", "?stat=true", "?list=true", "?tar=true", "?watch=true", "?search=x"] {
            let why = denied(&ask(&socket, "GET", &format!("{at}{query}"), None));
            assert!(why.contains(&words), "{path}{query}: {why}");
        }
        let why = denied(&http::request(&socket, "PUT", &at, &[], Some(b"x")).unwrap());
        assert!(why.contains(&words), "{path}: {why}");
        let exec = Some(json!({"argv": ["true"], "cwd": path}));
        let why = denied(&ask(&socket, "POST", "/v1/hosts/h/exec", exec));
        assert!(why.contains(&words), "{path}: {why}");
    }
    // Of what is inside it is told.
    std::fs::create_dir(app.join("closed")).unwrap();
    std::fs::set_permissions(app.join("closed"), std::fs::Permissions::from_mode(0o700)).unwrap();
    if shared.path().metadata().unwrap().uid() == 0 {
        let at = format!("/v1/hosts/h/files/{root}/closed/x");
        let told = ask(&socket, "GET", &at, None).json();
        assert_eq!(told["code"], "permission_denied", "{told}");
    }
}

#[test]
fn where_a_directory_is_read_by_paths_nothing_is_exchanged_meanwhile() {
    let Some((_sshd, rig, _bin)) = bare(true) else { return };
    let shared = Shared::new();
    let app = app(&shared);
    let root = app.to_str().unwrap();
    open_to_all(&app.join("td"));
    open_to_all(&app.join("td/sub"));
    std::fs::write(app.join("td/1"), "needle needle needle\n".repeat(1_000_000)).unwrap();
    std::fs::write(app.join("td/sub/s"), "inside needle\n").unwrap();
    let socket = make(&rig, &["--allow", "read,write", "--ttl", "2h", "--root", root]);
    let at = |path: &str| format!("/v1/hosts/h/files/{root}/{path}");
    for query in ["?tar=true", "?search=needle&limit=200000"] {
        let mut get = UnixStream::connect(&socket).unwrap();
        write!(
            get,
            "GET {} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
            at("td") + query
        )
        .unwrap();
        get.read_exact(&mut [0; 500]).unwrap();
        std::thread::scope(|scope| {
            let (send, renamed) = std::sync::mpsc::channel();
            let (socket, at) = (&socket, &at);
            let to = json!({"action": "rename", "to": format!("{root}/td/old")});
            scope.spawn(move || send.send(ask(socket, "POST", &at("td/sub"), Some(to)).status));
            let early = renamed.recv_timeout(std::time::Duration::from_secs(1));
            assert!(early.is_err(), "{query}: it was not waited for: {early:?}");
            std::io::copy(&mut get, &mut std::io::sink()).unwrap();
            assert_eq!(renamed.recv().unwrap(), 200, "{query}");
        });
        std::fs::rename(app.join("td/old"), app.join("td/sub")).unwrap();
        // Who does not take the answer is not waited for, and does not take it for a whole one.
        let mut slow = UnixStream::connect(&socket).unwrap();
        write!(slow, "GET {} HTTP/1.1\r\nhost: localhost\r\n\r\n", at("td") + query).unwrap();
        slow.read_exact(&mut [0; 500]).unwrap();
        let to = json!({"action": "rename", "to": format!("{root}/td/old")});
        assert_eq!(ask(&socket, "POST", &at("td/sub"), Some(to)).status, 200, "{query}");
        let mut rest = Vec::new();
        slow.read_to_end(&mut rest).unwrap();
        assert!(!rest.ends_with(b"0\r\n\r\n"), "{query}");
        std::fs::rename(app.join("td/old"), app.join("td/sub")).unwrap();
    }
}

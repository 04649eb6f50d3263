//! `occ events` against daemons that are not as they should be.

mod common;

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::thread;

use common::{Answer, Fake, occ, private_dir, run};

#[test]
fn what_is_printed_is_the_daemons_document() {
    let line = r#"{"id":"a-1","event":"snapshot","zeta":1,"hosts":[],"alpha":{"z":1,"a":2.50}}"#;
    let answer = format!("{line}\n");
    let fake = Fake::new(move |_| Answer::text(&answer));
    let done = fake.occ(&["events", "--once", "--json"]);
    assert_eq!((done.code, done.out), (0, format!("{line}\n")));
}

#[test]
fn one_look_at_a_server_of_garbage_ends() {
    let dir = private_dir();
    let socket = dir.path().join("occd.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut request = [0; 1024];
                // The client may have gone.
                let _ = stream.read(&mut request);
                let _ = stream.write_all(b"SSH-2.0-garbage\r\n\r\n");
            });
        }
    });
    let done = run(occ(&["events", "--once"], dir.path()).env("OCC_SOCKET", &socket));
    assert_eq!((done.code, done.out.as_str()), (3, ""), "{done:?}");
    assert!(done.err.contains("is no occd"), "{done:?}");
    // One whose stream ends before there was anything.
    let fake = Fake::new(|_| Answer::text(""));
    let done = fake.occ(&["events", "--once"]);
    assert_eq!(done.code, 3, "{done:?}");
}

#[test]
fn a_newer_daemon_that_opens_no_stream_is_no_reason_to_restart_it() {
    let dir = private_dir();
    let socket = dir.path().join("occd.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 8192];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(
                b"HTTP/1.1 200 OK\r\nocc-version: 99.0.0\r\nocc-api-version: 1\r\n\
                  content-length: 2\r\n\r\n{}",
            );
        }
    });
    let mut exec = occ(&["exec", "--host", "h", "--", "true"], dir.path());
    let done = run(exec.env("OCC_SOCKET", &socket));
    assert!(done.err.contains("occd 99.0.0 opens no such stream."), "{done:?}");
    assert!(!done.err.contains("occ daemon restart"), "{done:?}");
    assert!(done.err.contains("hint: install occ 99.0.0"), "{done:?}");
}

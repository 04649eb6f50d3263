//! `occ exec` passes its standard output and standard error to a daemon that takes them.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a failing fixture is a failing test")]

mod common;

use std::fs::File;
use std::io::{IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use common::{Done, Fake, Ws, event, exit, finish, host_not_found, output, send, started, text};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::json;
use testkit::terminal::Terminal;

const HEADER: &str = "occ-descriptors";
const ARGS: [&str; 5] = ["exec", "--host", "prod-1", "--", "x"];

/// Returns the descriptors at the head of what the client has sent, which stays to be read.
fn attached(ws: &Ws) -> Vec<File> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::PEEK | RecvFlags::CMSG_CLOEXEC;
    recvmsg(ws.get_ref(), &mut [IoSliceMut::new(&mut byte)], &mut control, flags).unwrap();
    let rights = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(rights) => Some(rights),
        _ => None,
    });
    rights.flatten().map(|descriptor: OwnedFd| File::from(descriptor)).collect()
}

/// A daemon that takes up `offer`, and no other.
fn taking(offer: &'static str, script: impl Fn(Ws) + Send + Sync + 'static) -> Fake {
    Fake::with_exec(
        move |seen| match seen.header(HEADER) == Some(offer) {
            true => host_not_found("prod-1").header(HEADER, offer),
            false => host_not_found("prod-1"),
        },
        script,
    )
}

/// Returns what was offered.
fn offers(fake: &Fake) -> Vec<Option<String>> {
    fake.seen.lock().unwrap().iter().map(|seen| seen.header(HEADER).map(str::to_owned)).collect()
}

fn run(command: &mut Command) -> Done {
    finish(command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap())
}

#[test]
fn pipes_are_passed_with_the_request_and_written_to_by_the_daemon() {
    let fake = taking("stdout,stderr", |mut ws| {
        let [mut out, mut err] = <[File; 2]>::try_from(attached(&ws)).unwrap();
        let here = std::env::current_dir().unwrap();
        assert_eq!(text(&mut ws), json!({"argv": ["x"], "here": here}));
        started(&mut ws);
        out.write_all(b"to stdout").unwrap();
        err.write_all(b"to stderr").unwrap();
        drop((out, err));
        exit(&mut ws, 7);
    });
    let done = fake.occ(&ARGS);
    assert_eq!((done.code, &*done.out, &*done.err), (7, "to stdout", "to stderr"));
    assert_eq!(offers(&fake), [Some("stdout,stderr".into())]);
}

#[test]
fn a_daemon_that_takes_none_gets_none() {
    // One that does not know the header, and one that answers something else.
    for answer in [None, Some("stdout"), Some("stderr,stdout"), Some("")] {
        let fake = Fake::with_exec(
            move |_| match answer {
                Some(answer) => host_not_found("prod-1").header(HEADER, answer),
                None => host_not_found("prod-1"),
            },
            |mut ws| {
                assert!(attached(&ws).is_empty());
                text(&mut ws);
                started(&mut ws);
                send(&mut ws, 1, b"out");
                send(&mut ws, 2, b"err");
                exit(&mut ws, 0);
            },
        );
        let done = fake.occ(&ARGS);
        assert_eq!((done.code, &*done.out, &*done.err), (0, "out", "err"), "{answer:?}");
    }
}

#[test]
fn bytes_that_come_all_the_same_are_written() {
    let fake = taking("stdout,stderr", |mut ws| {
        assert_eq!(attached(&ws).len(), 2);
        text(&mut ws);
        started(&mut ws);
        send(&mut ws, 1, b"out");
        exit(&mut ws, 0);
    });
    assert_eq!(fake.occ(&ARGS).out, "out");
}

#[test]
fn only_what_the_daemon_can_write_to_as_well_is_offered() {
    let seen = Arc::new(Mutex::new(0));
    let copy = Arc::clone(&seen);
    let fake = Fake::exec(move |mut ws| {
        assert!(attached(&ws).is_empty());
        text(&mut ws);
        *copy.lock().unwrap() += 1;
        started(&mut ws);
        exit(&mut ws, 0);
    });
    let path = fake.dir.path().join("file");
    let command = || fake.command(&ARGS);
    let file = || File::create(&path).unwrap();
    let null = || File::options().write(true).open("/dev/null").unwrap();
    let (socket, _other) = UnixStream::pair().unwrap();
    let socket = || OwnedFd::from(socket.try_clone().unwrap());
    let fifo = fake.dir.path().join("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RWXU).unwrap();
    let fifo = || File::options().read(true).write(true).open(&fifo).unwrap();
    let full = || File::options().write(true).open("/dev/full").unwrap();
    run(command().stdout(file()));
    run(command().stdout(null()));
    run(command().stdout(socket()));
    run(command().stdout(fifo()));
    run(command().stdout(full()));
    output(command().stdin(Stdio::null()).stdout(full()).stderr(null()).spawn().unwrap());
    output(command().stdin(Stdio::null()).stdout(full()).stderr(full()).spawn().unwrap());
    // On a terminal nothing is.
    let (_, code) = Terminal::start(command()).finish();
    assert_eq!(code, 0);
    // One document is made of it.
    run(fake.command(&[&["--json"], &ARGS[..]].concat()).stdout(Stdio::piped()));
    let both = Some("stdout,stderr".to_owned());
    let err = Some("stderr".to_owned());
    assert_eq!(
        offers(&fake),
        [err.clone(), both, err.clone(), err.clone(), err.clone(), err, None, None, None]
    );
    assert_eq!(*seen.lock().unwrap(), 9);
}

#[test]
fn output_that_the_daemon_cannot_write_ends_as_our_own_would() {
    for (errno, code, said) in [
        (32, 141, ""),
        (
            28,
            1,
            "Error: the command's output cannot be written: No space left on device (os error 28). \
             The command was ended.\n",
        ),
    ] {
        let fake = taking("stdout,stderr", move |mut ws| {
            text(&mut ws);
            started(&mut ws);
            event(&mut ws, &json!({"type": "output_error", "errno": errno}));
            while ws.read().is_ok() {}
        });
        let done = fake.occ(&ARGS);
        assert_eq!((done.code, &*done.out, &*done.err), (code, "", said));
    }
}

#[test]
fn a_pipe_ends_with_the_daemons_copy() {
    let fake = taking("stdout", |mut ws| {
        let [out] = <[File; 1]>::try_from(attached(&ws)).unwrap();
        text(&mut ws);
        started(&mut ws);
        drop(out);
        exit(&mut ws, 0);
    });
    let (socket, _other) = UnixStream::pair().unwrap();
    let mut command = fake.command(&ARGS);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(OwnedFd::from(socket));
    let mut child = command.spawn().unwrap();
    drop(command);
    let mut all = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut all).unwrap();
    assert!(all.is_empty() && child.wait().unwrap().success());
}

//! Output that the daemon writes straight to its client's descriptors is the same as if the client had
//! written it, and the descriptors are nobody's afterwards.

use std::fs::File;
use std::io::{PipeReader, Read as _, Seek as _, Write as _, pipe};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use occ_proto::exec::{ExecEvent, STDERR, STDOUT};
use rustix::fs::{CWD, Mode, mkfifoat};
use serde_json::json;
use testkit::DaemonRig;
use testkit::proc::{Process, Signal};
use testkit::wait::blocking::{wait_for, wait_until};

use crate::support::{
    GUARD, Incoming, Ws, exit_code, no_channels, no_programs, occ_exec, remote_program, settled,
    sshd, status,
};

/// How soon nothing may be left of a command whose client has gone: the check of a client that is not
/// read, and an end by the first signal.
const SOON: Duration = Duration::from_secs(5);

/// Lines enough for several fillings of a pipe and of the daemon's frames.
const LINES: [&str; 3] = ["seq", "1", "2000000"];

fn lines() -> Vec<u8> {
    (1..=2_000_000).flat_map(|n: u32| format!("{n}\n").into_bytes()).collect()
}

/// Returns the name by which the kernel shows both ends of a pipe.
fn name(descriptor: &impl AsFd) -> String {
    let path = format!("/proc/self/fd/{}", descriptor.as_fd().as_raw_fd());
    std::fs::read_link(path).unwrap().to_string_lossy().into_owned()
}

fn holds(rig: &DaemonRig, name: &str) -> bool {
    rig.daemon().open_files().iter().any(|file| file == name)
}

fn wait_for_holding(rig: &DaemonRig, name: &str) {
    wait_until("the daemon to have the pipe", GUARD, || holds(rig, name), |held| *held);
}

/// Reads a pipe to its end, which comes when nobody has it open for writing any more.
fn ends(mut reader: PipeReader) {
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).unwrap();
}

#[test]
fn output_is_whole_in_a_pipe_and_in_files() {
    let Some((_sshd, rig)) = sshd() else { return };
    let expected = lines();
    let output = occ_exec(&rig).args(LINES).output().unwrap();
    assert!(output.status.success() && output.stdout == expected, "{:?}", output.status);

    // The offset is shared with whoever writes before and after, as in `(a; occ …; b) > file`.
    let path = rig.root().join("file");
    let mut file = File::create(&path).unwrap();
    file.write_all(b"before\n").unwrap();
    let mut occ = occ_exec(&rig).args(LINES).stdout(file.try_clone().unwrap()).spawn().unwrap();
    assert_eq!(exit_code(&mut occ), 0);
    file.write_all(b"after\n").unwrap();
    let whole = [b"before\n", &expected[..], b"after\n"].concat();
    assert!(std::fs::read(&path).unwrap() == whole);

    // O_APPEND: whatever the offset is.
    let mut file = File::options().append(true).open(&path).unwrap();
    file.rewind().unwrap();
    let mut occ = occ_exec(&rig).args(["echo", "end"]).stdout(file).spawn().unwrap();
    assert_eq!(exit_code(&mut occ), 0);
    assert!(std::fs::read(&path).unwrap() == [&whole[..], b"end\n"].concat());

    let mut occ = occ_exec(&rig).args(LINES).stdout(Stdio::null()).spawn().unwrap();
    assert_eq!(exit_code(&mut occ), 0);
    let path = path.display().to_string();
    assert!(!holds(&rig, &path) && !holds(&rig, "pipe"), "{:?}", rig.daemon().open_files());
}

#[test]
fn both_streams_in_one_place_keep_their_order() {
    let Some((_sshd, rig)) = sshd() else { return };
    // The server reads two pipes, so only what is apart in time has an order.
    let script = "for i in 1 2; do echo out $i; sleep 0.1; echo err $i >&2; sleep 0.1; done";
    let expected = "out 1\nerr 1\nout 2\nerr 2\n";
    let (mut reader, writer) = pipe().unwrap();
    let mut command = occ_exec(&rig);
    command.args(["sh", "-c", script]).stdout(writer.try_clone().unwrap()).stderr(writer);
    let mut occ = command.spawn().unwrap();
    drop(command);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!((exit_code(&mut occ), text.as_str()), (0, expected));

    let path = rig.root().join("file");
    let file = File::create(&path).unwrap();
    let mut command = occ_exec(&rig);
    command.args(["sh", "-c", script]).stdout(file.try_clone().unwrap()).stderr(file);
    assert_eq!(exit_code(&mut command.spawn().unwrap()), 0);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);

    // Apart they stay apart.
    let output = occ_exec(&rig).args(["sh", "-c", script]).output().unwrap();
    assert_eq!(output.stdout, b"out 1\nout 2\n");
    assert_eq!(output.stderr, b"err 1\nerr 2\n");
}

#[test]
fn output_does_not_pass_through_the_client() {
    let Some((_sshd, rig)) = sshd() else { return };
    let (mut reader, writer) = pipe().unwrap();
    let mut command = occ_exec(&rig);
    // It begins when it has input, and that comes when occ has handed all over.
    let script = "read line; head -c 1000000 /dev/zero";
    let mut occ =
        command.args(["sh", "-c", script]).stdin(Stdio::piped()).stdout(writer).spawn().unwrap();
    drop(command);
    wait_for_holding(&rig, &name(&reader));
    occ.stdin.take().unwrap().write_all(b"\n").unwrap();
    let mut first = [1];
    reader.read_exact(&mut first).unwrap();
    let process = Process::find(occ.id()).unwrap();
    process.signal(Signal::STOP);
    wait_until("occ to stop", GUARD, || process.is_stopped(), |stopped| *stopped);
    let mut rest = vec![1; 999_999];
    reader.read_exact(&mut rest).unwrap();
    assert!(rest.iter().all(|byte| *byte == 0));
    process.signal(Signal::CONT);
    assert_eq!(exit_code(&mut occ), 0);
    assert!(!holds(&rig, &name(&reader)));
    ends(reader);
}

#[test]
fn a_reader_that_leaves_ends_the_command_quietly() {
    let Some((sshd, rig)) = sshd() else { return };
    let (mut reader, writer) = pipe().unwrap();
    let mut command = occ_exec(&rig);
    let mut occ = command.arg("yes").stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    drop(command);
    reader.read_exact(&mut [0; 100]).unwrap();
    drop(reader);
    assert_eq!(exit_code(&mut occ), 141);
    let mut said = String::new();
    occ.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "");
    no_programs(&sshd, SOON);
    no_channels(&rig, SOON);
}

/// Kills an occ whose output nobody reads and whose standard input is `stdin`, when it is `stuck`.
fn kill_with_a_full_pipe(stdin: Stdio, stuck: impl Fn(&DaemonRig)) {
    let Some((sshd, rig)) = sshd() else { return };
    settled(&rig);
    let before = rig.daemon_fds();
    let (reader, writer) = pipe().unwrap();
    let mut command = occ_exec(&rig);
    // More than a pipe holds, and then there is nothing to write: the pipe's end tells nobody anything.
    let script = "head -c 200000 /dev/zero; exec sleep 1000";
    let mut occ = command.args(["sh", "-c", script]).stdin(stdin).stdout(writer).spawn().unwrap();
    drop(command);
    let sleep = remote_program(&sshd, "sleep");
    assert!(holds(&rig, &name(&reader)));
    let full = || rustix::io::ioctl_fionread(&reader).unwrap();
    wait_until("a full pipe", GUARD, full, |bytes| *bytes >= 60_000);
    stuck(&rig);
    occ.kill().unwrap();
    occ.wait().unwrap();
    wait_until("the program to be ended", SOON, || sleep.is_alive(), |alive| !alive);
    wait_until("the pipe to be given back", SOON, || holds(&rig, &name(&reader)), |held| !held);
    ends(reader);
    no_programs(&sshd, GUARD);
    no_channels(&rig, GUARD);
    wait_until("the files of before", GUARD, || rig.daemon_fds(), |now| *now <= before);
}

#[test]
fn a_killed_client_with_a_full_pipe_ends_its_command() {
    kill_with_a_full_pipe(Stdio::null(), |_| {});
}

#[test]
fn a_killed_client_with_a_full_pipe_and_too_much_input_ends_its_command() {
    // Nothing is read there: soon the daemon reads no more of the client either, and cannot see its end.
    kill_with_a_full_pipe(File::open("/dev/zero").unwrap().into(), |rig| {
        let sent = || status(rig).connection.map(|connection| connection.bytes_out);
        wait_for("the input to be stuck", GUARD, || {
            let before = sent();
            thread::sleep(Duration::from_millis(200));
            (before == sent() && before > Some(1024 * 1024)).then_some(())
        });
    });
}

/// Runs `echo` with an offer and returns what came over the WebSocket.
fn echo(rig: &DaemonRig, offer: &str, descriptors: &[BorrowedFd<'_>]) -> (String, bool) {
    let request = json!({ "argv": ["sh", "-c", "echo out; echo err >&2"] });
    let (mut ws, taken) = Ws::passing(rig, offer, descriptors, &request);
    ws.started();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    loop {
        match ws.next() {
            Incoming::Bytes(STDOUT, bytes) => out.extend(bytes),
            Incoming::Bytes(STDERR, bytes) => err.extend(bytes),
            Incoming::Event(ExecEvent::Exit(exit)) => {
                assert_eq!(exit.code, Some(0));
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    (String::from_utf8([out, err].concat()).unwrap(), taken)
}

#[test]
fn what_the_daemon_cannot_use_is_closed_and_the_output_comes_to_the_client() {
    let Some((_sshd, rig)) = sshd() else { return };
    settled(&rig);
    let path = rig.root().join("file");
    std::fs::write(&path, "").unwrap();
    let fifo = rig.root().join("fifo");
    mkfifoat(CWD, &fifo, Mode::RWXU).unwrap();
    let (reader, writer) = pipe().unwrap();
    let (socket, _other) = UnixStream::pair().unwrap();
    let both_ways = |path: &str| File::options().read(true).write(true).open(path).unwrap();
    let refused = [
        both_ways("/dev/ptmx").into(),
        both_ways("/dev/zero").into(),
        both_ways(fifo.to_str().unwrap()).into(),
        File::open(&path).unwrap().into(),
        both_ways(path.to_str().unwrap()).into(),
        File::open("/dev/null").unwrap().into(),
        File::open(rig.root()).unwrap().into(),
        std::os::fd::OwnedFd::from(socket),
        std::os::fd::OwnedFd::from(reader.try_clone().unwrap()),
    ];
    let before = rig.daemon_fds();
    let all = ("out\nerr\n".to_owned(), true);
    for descriptor in &refused {
        let fd = descriptor.as_fd();
        assert_eq!(echo(&rig, "stdout,stderr", &[fd, fd]), all, "{}", name(descriptor));
        // One alone.
        assert_eq!(echo(&rig, "stdout", &[fd]), all, "{}", name(descriptor));
        let with_a_good_one = echo(&rig, "stdout,stderr", &[fd, writer.as_fd()]);
        assert_eq!(with_a_good_one, ("out\n".to_owned(), true), "{}", name(descriptor));
    }
    // Other numbers of them than were offered.
    for count in [0, 1, 3, 10, 32] {
        let many = vec![writer.as_fd(); count];
        assert_eq!(echo(&rig, "stdout,stderr", &many), all, "{count}");
    }
    // Without an offer, or with one that is not known, none is taken.
    for offer in ["", "stderr,stdout", "stdout, stderr", "stdin", "stdout,stdout"] {
        assert_eq!(echo(&rig, offer, &[writer.as_fd(); 2]).0, all.0, "{offer}");
        assert!(offer.is_empty() || !echo(&rig, offer, &[]).1, "{offer}");
    }
    wait_until("the files of before", GUARD, || rig.daemon_fds(), |now| *now <= before);
    drop((writer, refused));
    let mut rest = String::new();
    { reader }.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "err\n".repeat(9));
}

#[test]
fn descriptors_of_a_command_that_does_not_start_are_closed() {
    let Some((_sshd, rig)) = sshd() else { return };
    settled(&rig);
    let (reader, writer) = pipe().unwrap();
    let offered = [writer.as_fd(); 2];
    let (mut ws, taken) = Ws::passing(&rig, "stdout,stderr", &offered, &json!({ "argv": [] }));
    let Incoming::Event(ExecEvent::Error { .. }) = ws.next() else { panic!("no argv is an error") };
    assert!(taken && !holds(&rig, &name(&reader)));
    // A client that leaves at once.
    drop(Ws::passing(&rig, "stdout,stderr", &offered, &json!({ "argv": ["sleep", "1000"] })));
    wait_until("the pipe to be given back", SOON, || holds(&rig, &name(&reader)), |held| !held);
    drop(writer);
    ends(reader);
}

#[test]
fn a_pipeline_of_occ_ends() {
    let Some((_sshd, rig)) = sshd() else { return };
    // Each reads to the end of the one before.
    let script = r#""$0" exec --host h -- seq 1 100000 | "$0" exec --host h -- sort -rn | "$0" exec --host h -- head -n 1"#;
    let occ = occ_exec(&rig);
    let mut shell = Command::new("sh");
    shell.env_clear();
    shell.envs(occ.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let output = shell.args(["-c", script]).arg(occ.get_program()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "100000\n", "{output:?}");
    no_channels(&rig, GUARD);
}

#[test]
fn nobody_waits_for_a_stopped_reader_once_the_command_is_over() {
    let Some((sshd, rig)) = sshd() else { return };
    settled(&rig);
    for (args, signal, code) in
        [(&["--timeout", "500ms"][..], None, 124), (&[], Some(Signal::INT), 130)]
    {
        // Nothing is ever read.
        let (_reader, writer) = pipe().unwrap();
        let args = [&["exec", "--host", "h"], args, &["--", "yes"]].concat();
        let mut command = rig.occ(&args);
        command.stdout(writer).stderr(Stdio::piped());
        let mut occ = command.spawn().unwrap();
        drop(command);
        remote_program(&sshd, "yes");
        if let Some(signal) = signal {
            Process::find(occ.id()).unwrap().signal(signal);
        }
        assert_eq!(exit_code(&mut occ), code);
        let mut said = String::new();
        occ.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(said.contains("was ended on h"), "{said}");
        no_programs(&sshd, SOON);
    }
}

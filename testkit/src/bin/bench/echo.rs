//! What a person feels who types: how long a character takes to the host's terminal and back.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use testkit::Terminal;

use super::{Bench, median};

/// Characters typed for one figure.
const NEAR: usize = 300;
const FAR: usize = 60;

impl Bench {
    /// A terminal on a host, alone and beside a stream of the same host.
    pub(super) fn echo(&mut self) {
        let note = "Typed in a terminal on the host, one character after another, until each is shown. The stream is \
                    `cat /dev/zero` on the same host, by occ beside `occ shell`, by another ssh beside ssh.";
        self.title_with("A key pressed in a terminal", note);
        for (host, beside, goal) in [
            ("near", false, ""),
            ("near", true, "≤ 1.2"),
            ("far", false, ""),
            ("far", true, "≤ 1.2"),
        ] {
            let ours = {
                let _stream = beside.then(|| {
                    Streaming::start(self.occ(&["exec", "--host", host, "--", "cat", "/dev/zero"]))
                });
                typed(host, &self.occ(&["shell", "--host", host, "--", "cat"]))
            };
            let theirs = {
                let _stream =
                    beside.then(|| Streaming::start(self.ssh(&[host, "cat", "/dev/zero"])));
                let mut ssh = self.ssh(&["-tt", host, "cat"]);
                ssh.env("PATH", std::env::var_os("PATH").unwrap_or_default());
                typed(host, &ssh)
            };
            let what = format!(", {host}{}", if beside { ", beside a stream" } else { "" });
            self.rows(
                (&format!("`occ shell`{what}"), ours),
                &[(&format!("`ssh -t`{what}"), theirs, goal)],
            );
        }
    }
}

/// Returns how long a character takes.
fn typed(host: &str, command: &Command) -> Duration {
    let mut terminal = Terminal::control(command, "");
    // The first is also the way there.
    terminal.type_text("begun\n");
    terminal.wait_for("begun\nbegun");
    let count = if host == "near" { NEAR } else { FAR };
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let begun = Instant::now();
        terminal.press('x');
        times.push(begun.elapsed());
    }
    terminal.type_text("\n\u{4}");
    terminal.finish();
    median(&mut times)
}

/// A stream, until this is dropped.
struct Streaming(Child);

impl Streaming {
    fn start(mut command: Command) -> Self {
        Self(command.stdout(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

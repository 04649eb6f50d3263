//! What a person feels who types: how long a character takes to the host's terminal and back.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use testkit::Terminal;

use super::{Bench, median};

/// Characters typed for one figure.
const TYPED: usize = 300;

impl Bench {
    /// A terminal on the near host, alone and beside a stream of the same host.
    pub(super) fn echo(&mut self) {
        let note = "Typed in a terminal on the host, one character after another, until each is shown. The stream is \
                    `cat /dev/zero` on the same host, by occ beside `occ shell`, by another ssh beside ssh.";
        self.title_with("A key pressed in a terminal, near host", note);
        for (beside, goal) in [(false, ""), (true, "≤ 1.2")] {
            let ours = {
                let _stream = beside.then(|| Streaming::start(self.occ(&stream("exec"))));
                self.typed(&self.occ(&["shell", "--host", "near", "--", "cat"]))
            };
            let theirs = {
                let _stream = beside.then(|| Streaming::start(self.ssh(&stream("ssh"))));
                let mut ssh = self.ssh(&["-tt", "near", "cat"]);
                ssh.env("PATH", std::env::var_os("PATH").unwrap_or_default());
                self.typed(&ssh)
            };
            let what = if beside { ", beside a stream" } else { "" };
            self.rows(
                (&format!("`occ shell`{what}"), ours),
                &[(&format!("`ssh -t`{what}"), theirs, goal)],
            );
        }
    }

    fn typed(&self, command: &Command) -> Duration {
        let mut terminal = Terminal::control(command, "");
        // The first is also the way there.
        terminal.type_text("begun\n");
        terminal.wait_for("begun\nbegun");
        let mut times = Vec::with_capacity(TYPED);
        for _ in 0..TYPED {
            let begun = Instant::now();
            terminal.press('x');
            times.push(begun.elapsed());
        }
        terminal.type_text("\n\u{4}");
        terminal.finish();
        median(&mut times)
    }
}

/// Returns the arguments of an endless stream from the near host.
fn stream(by: &str) -> Vec<&'static str> {
    let head: &[&str] = if by == "exec" { &["exec", "--host", "near", "--"] } else { &["near"] };
    [head, &["cat", "/dev/zero"]].concat()
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

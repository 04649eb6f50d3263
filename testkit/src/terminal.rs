//! [`Terminal`]: a program on a pseudo-terminal, and somebody who types.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::process::{Child, Command};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// How long a program may say nothing.
const SILENCE: Duration = Duration::from_secs(60);

/// A program on a terminal of its own.
#[derive(Debug)]
pub struct Terminal {
    /// The program.
    pub child: Child,
    master: File,
    screen: String,
    /// How much of it was there at the last answer.
    answered: usize,
    pieces: mpsc::Receiver<Vec<u8>>,
}

impl Terminal {
    /// Starts a program with a pseudo-terminal on all three streams. It is not the controlling terminal:
    /// /dev/tty is whatever the test has.
    pub fn start(mut command: Command) -> Self {
        let (master, name) = pair();
        let open = || OpenOptions::new().read(true).write(true).open(&name).unwrap();
        let child = command.stdin(open()).stdout(open()).stderr(open()).spawn().unwrap();
        drop(command);
        Self::of(child, master)
    }

    /// The same with the pseudo-terminal as its controlling terminal, in a session of its own, by util-linux's
    /// `setsid`; the program's streams are the terminal unless the command sets them by `redirect`, a piece of
    /// shell such as `>out 2>err`.
    pub fn control(command: &Command, redirect: &str) -> Self {
        let (master, name) = pair();
        let open = || OpenOptions::new().read(true).write(true).open(&name).unwrap();
        let mut wrapped = Command::new("setsid");
        wrapped.args(["--ctty", "--wait", "sh", "-c"]);
        // The last one to close the terminal ends the reading, so the program always has it open.
        wrapped.arg(format!("exec \"$@\" 9<&0 {redirect}")).arg("sh");
        wrapped.arg(command.get_program()).args(command.get_args()).env_clear();
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                wrapped.env(name, value);
            }
        }
        if let Some(dir) = command.get_current_dir() {
            wrapped.current_dir(dir);
        }
        let child = wrapped.stdin(open()).stdout(open()).stderr(open()).spawn().unwrap();
        drop(wrapped);
        Self::of(child, master)
    }

    fn of(child: Child, master: File) -> Self {
        let mut reader = master.try_clone().unwrap();
        let (send, pieces) = mpsc::channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            // The read fails with EIO when the last writer has gone.
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                if send.send(buffer[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { child, master, screen: String::new(), answered: 0, pieces }
    }

    /// Types text; `\n` is the Enter key, `\u{3}` Ctrl-C.
    pub fn type_text(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    /// Returns whether the terminal shows what is typed.
    pub fn echoes(&self) -> bool {
        let modes = rustix::termios::tcgetattr(&self.master).unwrap().local_modes;
        modes.contains(rustix::termios::LocalModes::ECHO)
    }

    /// Sets whether the terminal shows what is typed, as a shell does.
    pub fn set_echo(&self, on: bool) {
        use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
        let mut modes = tcgetattr(&self.master).unwrap();
        modes.local_modes.set(LocalModes::ECHO, on);
        tcsetattr(&self.master, OptionalActions::Now, &modes).unwrap();
    }

    /// Gives the terminal another size; the program in its foreground is told.
    pub fn resize(&self, rows: u16, cols: u16) {
        let size =
            rustix::termios::Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&self.master, size).unwrap();
    }

    /// Reads on and returns whether there was more.
    fn read(&mut self) -> bool {
        match self.pieces.recv_timeout(SILENCE) {
            Ok(piece) => {
                self.screen.push_str(&String::from_utf8_lossy(&piece).replace('\r', ""));
                true
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => false,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let _ = self.child.kill();
                panic!("the program hangs on its terminal: {}", self.screen);
            }
        }
    }

    /// Waits until `text` is on the screen.
    pub fn wait_for(&mut self, text: &str) {
        while !self.screen.contains(text) {
            assert!(self.read(), "{}", self.screen);
        }
    }

    /// Waits until `question` is on the screen after what was there at the last answer, and types a line.
    pub fn answer(&mut self, question: &str, line: &str) {
        while !self.screen[self.answered..].contains(question) {
            assert!(self.read(), "{}", self.screen);
        }
        self.answered = self.screen.len();
        self.type_text(&format!("{line}\n"));
    }

    /// Returns everything on the screen when the program has ended, and its exit code.
    pub fn finish(mut self) -> (String, i32) {
        while self.read() {}
        let code = self.child.wait().unwrap().code().unwrap_or(-1);
        (self.screen, code)
    }
}

/// Returns the master of a new pseudo-terminal and the other end's name.
fn pair() -> (File, String) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    (File::from(master), name)
}

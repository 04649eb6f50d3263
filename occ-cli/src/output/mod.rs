//! Everything that `occ` writes to a terminal or a pipe, `exec`'s streams apart.

pub(crate) mod fold;
pub(crate) mod host;
pub(crate) mod json;
pub(crate) mod operation;
pub(crate) mod problem;
pub(crate) mod removal;
pub(crate) mod rows;
pub(crate) mod table;

use std::cell::{Cell, RefCell};
use std::io::{self, IsTerminal as _, Write as _};
use std::rc::Rc;

use bytes::BytesMut;
use occ_proto::text::sanitize;

use crate::cli::Global;
use crate::error::CliError;
use crate::keys::Keyboard;
use crate::stdio::Input;
use crate::terminal::Standing;

/// The most of an answer that is read at once, in bytes: what a terminal hands over as one line.
const LONGEST_ANSWER: usize = 4096;

/// A colour, which is only ever a second way to say what the text says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Colour {
    Green,
    Yellow,
    Red,
    Grey,
}

impl Colour {
    fn code(self) -> &'static str {
        match self {
            Self::Green => "32",
            Self::Yellow => "33",
            Self::Red => "31",
            Self::Grey => "90",
        }
    }
}

/// How to write: what was asked for on the command line, and what the streams are.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub(crate) struct Ui {
    pub(crate) json: bool,
    pub(crate) quiet: bool,
    pub(crate) verbose: u8,
    colour: bool,
    pub(crate) stdout_terminal: bool,
    pub(crate) stderr_terminal: bool,
    /// A person may be asked.
    pub(crate) input: bool,
    /// A person has been asked, so nobody has to be told what is waited for. One for all copies.
    pub(crate) asked: Rc<Cell<bool>>,
    /// The question that stands on the terminal.
    pub(crate) question: Standing,
    pub(crate) keyboard: Keyboard,
    /// A line about how far it is stands unfinished on standard error. One for all copies.
    progress: Rc<Cell<bool>>,
    /// What is said once only.
    said: Rc<RefCell<Vec<String>>>,
    /// Why the daemon's files on disk are not what is in force, by its last answer.
    pub(crate) warnings: Rc<RefCell<Vec<String>>>,
    /// The daemon's version, where it is not ours.
    pub(crate) other_version: Rc<RefCell<Option<String>>>,
}

impl Ui {
    /// Returns how to write, for the flags and this process's streams.
    pub(crate) fn new(global: &Global) -> Self {
        let stdout_terminal = io::stdout().is_terminal();
        // https://no-color.org: present and not empty.
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let term = std::env::var_os("TERM").unwrap_or_default();
        let knows_colours = !term.is_empty() && term != "dumb";
        Self {
            json: global.json,
            quiet: global.quiet,
            verbose: global.verbose,
            colour: stdout_terminal && knows_colours && !no_color && !global.no_color,
            stdout_terminal,
            stderr_terminal: io::stderr().is_terminal(),
            input: !global.no_input,
            asked: Rc::default(),
            question: Standing::default(),
            keyboard: Keyboard::default(),
            progress: Rc::default(),
            said: Rc::default(),
            warnings: Rc::default(),
            other_version: Rc::default(),
        }
    }

    /// Returns `text` in a colour, where colours are wanted.
    pub(crate) fn paint(&self, colour: Colour, text: &str) -> String {
        if self.colour {
            format!("\u{1b}[{}m{text}\u{1b}[0m", colour.code())
        } else {
            text.to_owned()
        }
    }

    /// Writes text to standard output.
    pub(crate) fn print(&self, text: &str) -> Result<(), CliError> {
        self.clear_progress();
        write_stdout(&self.above_question(self.stdout_terminal, text.into()))
    }

    /// Returns text as it is written to a stream: above a question that stands on the terminal, if the stream is one.
    pub(crate) fn above_question(&self, is_terminal: bool, text: Vec<u8>) -> Vec<u8> {
        if is_terminal { self.question.above(text) } else { text }
    }

    /// Writes text to standard error, also where only the essential is wanted.
    pub(crate) fn complain(&self, text: &str) {
        self.clear_progress();
        write_stderr(&self.above_question(self.stderr_terminal, text.into()));
    }

    /// Writes one line to standard output, unless only the essential is wanted.
    pub(crate) fn say(&self, line: &str) -> Result<(), CliError> {
        if self.quiet { Ok(()) } else { self.print(&format!("{line}\n")) }
    }

    /// Writes a JSON document: as it is into a pipe, indented on a terminal.
    pub(crate) fn document(&self, json: &[u8]) -> Result<(), CliError> {
        if self.stdout_terminal {
            write_stdout(json::pretty(json).as_bytes())
        } else {
            let mut text = json.trim_ascii_end().to_vec();
            text.push(b'\n');
            write_stdout(&text)
        }
    }

    /// Writes a value as a JSON document.
    pub(crate) fn value(&self, value: &impl serde::Serialize) -> Result<(), CliError> {
        let text = serde_json::to_vec(value)
            .map_err(|error| CliError::failed(format!("the answer cannot be written: {error}")))?;
        self.document(&text)
    }

    /// Writes one line to standard error, unless only the essential is wanted.
    pub(crate) fn note(&self, line: &str) {
        if !self.quiet {
            self.complain(&format!("{line}\n"));
        }
    }

    /// Says that standard input has ended before its end, also where only the essential is wanted.
    pub(crate) fn tell_unreadable(&self, error: &io::Error) {
        self.complain(&format!(
            "Warning: standard input cannot be read, so it ends here: {error}.\n"
        ));
    }

    /// Shows how far it is, on a terminal, until something else is said. Not beside a question.
    pub(crate) fn show_progress(&self, text: &str) {
        if self.stderr_terminal && !self.json && !self.quiet && !self.asked.get() {
            self.progress.set(true);
            write_stderr(format!("\r{text}\u{1b}[K").as_bytes());
        }
    }

    /// Takes the line about how far it is away.
    pub(crate) fn clear_progress(&self) {
        if self.progress.take() {
            write_stderr(b"\r\x1b[K");
        }
    }

    /// Returns whether a line has not been said yet; from now on it has.
    pub(crate) fn is_news(&self, line: &str) -> bool {
        let mut said = self.said.borrow_mut();
        let is_news = !said.iter().any(|other| other == line);
        said.push(line.to_owned());
        is_news
    }

    /// Says, once, why a file on disk is not what is in force.
    pub(crate) fn warn(&self, warning: &str) {
        let line = format!("Warning: {}", sanitize(warning));
        if !self.json && self.is_news(&line) {
            self.note(&line);
        }
    }

    /// The same of what the daemon said last: it may be why something failed, or went otherwise than it was set.
    pub(crate) fn warn_of_files(&self) {
        self.warnings.borrow().iter().for_each(|warning| self.warn(warning));
    }

    /// Writes one line to standard error when a person reads it or asked for more.
    pub(crate) fn note_if_talking(&self, line: &str) {
        if self.stderr_terminal || self.verbose > 0 {
            self.note(line);
        }
    }

    /// Returns whether a person is there to be asked.
    pub(crate) fn can_ask(&self) -> bool {
        self.input && self.stderr_terminal && !self.json && !self.quiet && io::stdin().is_terminal()
    }

    /// Asks a question and returns whether the answer is yes; no answer is no.
    pub(crate) async fn ask(&self, question: &str) -> Result<bool, CliError> {
        let answer = self.ask_text(&format!("{question} [y/N]")).await?;
        Ok(matches!(answer.as_deref(), Some("y" | "Y" | "yes" | "Yes" | "YES")))
    }

    /// Asks a question and returns the answer, if there is one. Everything else goes on meanwhile: signals, and the
    /// connection to the daemon, which may not last as long as a person thinks.
    pub(crate) async fn ask_text(&self, question: &str) -> Result<Option<String>, CliError> {
        // First: whoever sees the question may give it up at once.
        let ended = crate::terminal::ended();
        write_stderr(format!("{question} ").as_bytes());
        let answer = async {
            let (mut input, mut answer) = (Input::stdin()?, BytesMut::new());
            while !answer.contains(&b'\n') {
                answer.reserve(LONGEST_ANSWER);
                if input.read(&mut answer).await? == 0 {
                    break;
                }
            }
            io::Result::Ok(String::from_utf8_lossy(&answer).trim().to_owned())
        };
        tokio::select! {
            answer = answer => Ok(answer.ok().filter(|text| !text.is_empty())),
            error = ended => {
                write_stderr(b"\n");
                Err(error)
            }
        }
    }
}

/// Writes to standard output; a reader that went away ends the program quietly.
pub(crate) fn write_stdout(bytes: &[u8]) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(CliError::closed_pipe()),
        Err(error) => Err(CliError::failed(format!("standard output: {error}"))),
    }
}

/// Writes to standard error. Where that fails there is nobody left to tell.
pub(crate) fn write_stderr(bytes: &[u8]) {
    let _ = io::stderr().lock().write_all(bytes);
}

/// Runs `work`; when it takes longer than a second a person is told what is waited for.
pub(crate) async fn with_note<T>(ui: &Ui, note: &str, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    let slow = tokio::time::sleep(std::time::Duration::from_secs(1));
    tokio::select! {
        biased;
        done = &mut work => return done,
        () = slow => {}
    }
    if ui.stderr_terminal && !ui.json && !ui.asked.get() {
        ui.note(note);
    }
    work.await
}

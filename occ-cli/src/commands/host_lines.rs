//! The output of commands on many hosts, on our own two streams: line by line, each with its host before it, or
//! kept until all have ended, so that what is equal can be shown once (`output/fold.rs`).

use std::borrow::Cow;
use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use occ_proto::HostName;
use occ_proto::text::sanitize_log;
use tokio::sync::Mutex;

use crate::output::Ui;
use crate::output::fold::{Ending, Stream, Told, folded};
use crate::stdio::Descriptor;

/// A host that says more than so many lines is not folded, since nobody reads that twice.
const MOST_LINES: usize = 300;
/// The same in bytes.
const MOST_BYTES: usize = 64 * 1024;
/// The longest line that is kept together, in bytes; the memory for a host's output has to end somewhere.
const LONGEST: usize = 1024 * 1024;

/// Our two streams, shared by all hosts. While one of them is not read, nothing that writes to it is read either.
#[derive(Debug)]
pub(crate) struct Screen {
    ui: Ui,
    out: Mutex<Descriptor>,
    err: Mutex<Descriptor>,
    /// What is kept for folding; nothing once lines are shown as they come.
    kept: RefCell<Option<Vec<Told>>>,
}

impl Screen {
    /// Returns the streams; with `fold` what comes is kept as long as it is little.
    pub(crate) fn new(ui: &Ui, fold: bool) -> io::Result<Rc<Self>> {
        Ok(Rc::new(Self {
            ui: ui.clone(),
            out: Mutex::new(Descriptor::of(&io::stdout())?),
            err: Mutex::new(Descriptor::of(&io::stderr())?),
            kept: RefCell::new(fold.then(Vec::new)),
        }))
    }

    /// Returns where a host's output goes.
    pub(crate) fn of(self: &Rc<Self>, host: &HostName) -> HostLines {
        if let Some(kept) = &mut *self.kept.borrow_mut() {
            kept.push(Told { host: host.clone(), lines: Vec::new(), ending: None });
        }
        let (host, screen) = (host.clone(), Rc::clone(self));
        HostLines { host, screen, out: BytesMut::new(), err: BytesMut::new() }
    }

    /// Writes text as it is.
    pub(crate) async fn write(&self, stream: Stream, text: Vec<u8>) -> io::Result<()> {
        let descriptor = match stream {
            Stream::Out => &self.out,
            Stream::Err => &self.err,
        };
        let mut descriptor = descriptor.lock().await;
        self.ui.clear_progress();
        descriptor.write(self.shown(stream, text)).await
    }

    fn is_terminal(&self, stream: Stream) -> bool {
        match stream {
            Stream::Out => self.ui.stdout_terminal,
            Stream::Err => self.ui.stderr_terminal,
        }
    }

    /// Returns text as it is written to a stream.
    fn shown(&self, stream: Stream, text: Vec<u8>) -> Bytes {
        self.ui.above_question(self.is_terminal(stream), text).into()
    }

    /// Takes whole lines.
    async fn lines(&self, host: &HostName, stream: Stream, lines: &[u8]) -> io::Result<()> {
        let lines =
            if self.is_terminal(stream) { Cow::Owned(clean(lines)) } else { Cow::Borrowed(lines) };
        match self.keep(host, stream, &lines) {
            Keeping::Kept => return Ok(()),
            Keeping::Enough => return self.unfold().await,
            Keeping::Over => {}
        }
        self.write(stream, prefixed(host, &lines)).await
    }

    fn keep(&self, host: &HostName, stream: Stream, lines: &[u8]) -> Keeping {
        let mut kept = self.kept.borrow_mut();
        let told = kept.as_mut().and_then(|kept| kept.iter_mut().find(|told| told.host == *host));
        let Some(told) = told else { return Keeping::Over };
        let each = lines.split_inclusive(|byte| *byte == b'\n');
        told.lines.extend(each.map(|line| (stream, line.to_vec())));
        let size: usize = told.lines.iter().map(|(_, line)| line.len()).sum();
        match told.lines.len() > MOST_LINES || size > MOST_BYTES {
            true => Keeping::Enough,
            false => Keeping::Kept,
        }
    }

    /// Shows what was kept, and everything from now on as it comes.
    pub(crate) async fn unfold(&self) -> io::Result<()> {
        // Whoever writes beside the keeping waits for both, so that no line comes before an older one.
        let (mut out, mut err) = (self.out.lock().await, self.err.lock().await);
        let Some(kept) = self.kept.take() else { return Ok(()) };
        self.ui.clear_progress();
        for told in kept {
            for lines in told.lines.chunk_by(|one, next| one.0 == next.0) {
                let stream = lines[0].0;
                let text = lines.iter().flat_map(|(_, line)| prefixed(&told.host, line)).collect();
                let text = self.shown(stream, text);
                match stream {
                    Stream::Out => out.write(text).await?,
                    Stream::Err => err.write(text).await?,
                }
            }
            if let Some(Ending::Failed(why)) = &told.ending {
                let text = format!("[{}] Error: {why}\n", told.host);
                err.write(self.shown(Stream::Err, text.into())).await?;
            }
        }
        Ok(())
    }

    /// Says how a host's part ended. `error` is what is said of it beside the lines.
    pub(crate) async fn ended(
        &self,
        host: &HostName,
        ending: Ending,
        error: Option<String>,
    ) -> io::Result<()> {
        if let Some(kept) = &mut *self.kept.borrow_mut()
            && let Some(told) = kept.iter_mut().find(|told| told.host == *host)
        {
            told.ending = Some(ending);
            return Ok(());
        }
        match error {
            Some(error) => self.write(Stream::Err, error.into_bytes()).await,
            None => Ok(()),
        }
    }

    /// Shows what was kept, folded, if all of it was. Returns whether it was.
    pub(crate) async fn fold(&self) -> io::Result<bool> {
        let Some(kept) = self.kept.take() else { return Ok(false) };
        self.write(Stream::Out, folded(&kept).into_bytes()).await?;
        Ok(true)
    }
}

enum Keeping {
    Kept,
    /// That is more than can be folded.
    Enough,
    /// Nothing is kept any more.
    Over,
}

/// Returns lines without what a terminal would act on, since the lines of other hosts stand beside them. Tabs stay, colours
/// do not; of a line that was written over (`\r`) the last that was written stays.
fn clean(lines: &[u8]) -> Vec<u8> {
    let mut text = String::with_capacity(lines.len());
    for line in String::from_utf8_lossy(lines).lines() {
        let last = line.trim_end_matches('\r').rsplit('\r').next().unwrap_or_default();
        let cells: Vec<String> = last.split('\t').map(|cell| sanitize_log(cell, false)).collect();
        text.push_str(&cells.join("\t"));
        text.push('\n');
    }
    text.into_bytes()
}

/// Returns lines with the host's name before each.
fn prefixed(host: &HostName, lines: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(lines.len() + 64);
    for line in lines.split_inclusive(|byte| *byte == b'\n') {
        text.extend_from_slice(format!("[{host}] ").as_bytes());
        text.extend_from_slice(line);
    }
    text
}

/// One host's output, cut into lines.
#[derive(Debug)]
pub(crate) struct HostLines {
    host: HostName,
    screen: Rc<Screen>,
    out: BytesMut,
    err: BytesMut,
}

impl HostLines {
    /// Takes bytes of a stream. What ends no line waits for its end.
    pub(crate) async fn push(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        let partial = match stream {
            Stream::Out => &mut self.out,
            Stream::Err => &mut self.err,
        };
        // Only what is new can end a line.
        let end = bytes.iter().rposition(|byte| *byte == b'\n').map(|at| partial.len() + at + 1);
        partial.extend_from_slice(bytes);
        let mut lines: Bytes = match end {
            Some(end) => partial.split_to(end).freeze(),
            None => Bytes::new(),
        };
        if partial.len() > LONGEST {
            let mut all = BytesMut::from(&lines[..]);
            all.extend_from_slice(&partial.split());
            all.extend_from_slice(b"\n");
            lines = all.freeze();
        }
        match lines.is_empty() {
            true => Ok(()),
            false => self.screen.lines(&self.host, stream, &lines).await,
        }
    }

    /// Ends the lines that have no end.
    pub(crate) async fn finish(&mut self) -> io::Result<()> {
        for (stream, mut rest) in [(Stream::Out, self.out.split()), (Stream::Err, self.err.split())]
        {
            if !rest.is_empty() {
                rest.extend_from_slice(b"\n");
                self.screen.lines(&self.host, stream, &rest).await?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_acts_on_nothing_of_a_line() {
        for (line, shown) in [
            ("a\tb\n", "a\tb\n"),
            ("\n\n", "\n\n"),
            ("\u{1b}[32mok\u{1b}[0m\n", "ok\n"),
            ("\u{1b}[1A\u{1b}[2Kx\n", "\u{fffd}[1A\u{fffd}[2Kx\n"),
            ("10%\r50%\r100%\r\nb\n", "100%\nb\n"),
            ("[h] \u{202e}x\n", "[h] \u{fffd}x\n"),
        ] {
            assert_eq!(String::from_utf8(clean(line.as_bytes())).unwrap(), shown, "{line:?}");
        }
        assert_eq!(clean(b"\x9b1A\n"), "\u{fffd}1A\n".as_bytes());
    }
}

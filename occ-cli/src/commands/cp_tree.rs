//! `occ cp -r`: directories with everything in them.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{self, LocalBoxStream};
use hyper::Method;
use occ_proto::files::TreeWritten;
use occ_proto::tar::{self, Decoder, Entry, Item, Kind};

use super::cp::{Copied, Copy, umask};
use crate::error::CliError;
use crate::exchange::{Answer, Ask};
use crate::progress::Progress;
use crate::spot::Spot;
use crate::tree::{Missed, Packer, Unpacker};

/// The most bytes of the daemon's answer.
const ANSWER: usize = 64 * 1024;

impl Copy<'_> {
    /// Copies a directory.
    pub(super) async fn tree(&self, from: &Spot, to: &Spot) -> Result<Copied, CliError> {
        let progress = Progress::new(from.to_string(), None, 0);
        let to_lf = self.args.eol.is_some();
        let written = match (&from.host, &to.host) {
            (None, _) => {
                // Its error, which the daemon knows nothing of.
                let why = Rc::new(RefCell::new(None));
                let mask = if self.args.preserve { 0 } else { umask() | 0o7000 };
                let packer = Packer::new(&from.here(), mask, to_lf)?;
                let missed = packer.missed();
                let pieces = packed(packer, &progress, Rc::clone(&why));
                let sent = self.put_tree(to, pieces, &progress).await;
                match (sent, why.take()) {
                    (Err(error), Some(why)) if !error.is_quiet() => {
                        let why = occ_proto::text::sanitize(&why);
                        return Err(CliError::failed(format!("{why}; nothing was copied."))
                            .hint(format!("ls -la {}", from.word())));
                    }
                    (sent, _) => with(sent?, missed.take()),
                }
            }
            (_, None) => {
                let unpacker = Unpacker::new(&to.here(), self.args.preserve, to_lf)?;
                let copy = self.get_tree(from, unpacker, &progress);
                self.during(&progress, Box::pin(copy)).await?
            }
            _ if to_lf => {
                return Err(CliError::usage(
                    "--eol lf with -r goes from here to a host, or from a host to here.",
                )
                .hint(format!("occ cp -r --eol lf {} DIRECTORY, and from there", from.word())));
            }
            _ => {
                let answer =
                    Answer::to(self.client, Ask::new(Method::GET, from.api("?tar=true")?)).await?;
                let missed = Rc::default();
                let pieces = passed(answer, &progress, Rc::clone(&missed));
                let written = self.put_tree(to, pieces, &progress).await?;
                with(written, missed.take())
            }
        };
        let mut copied = self.copied(from, to, &progress, 0);
        copied.files = Some(written.files);
        (copied.left_out, copied.unread) = (written.left_out, written.unread);
        Ok(copied)
    }

    async fn put_tree(
        &self,
        to: &Spot,
        pieces: LocalBoxStream<'static, io::Result<Bytes>>,
        progress: &Progress,
    ) -> Result<TreeWritten, CliError> {
        let query = format!("?tar=true&preserve={}", self.args.preserve);
        let mut ask = Ask::new(Method::PUT, to.api(&query)?);
        ask.body = Some((pieces, None));
        let sent = async {
            let mut answer = Answer::to(self.client, ask).await?;
            answer.whole(ANSWER).await
        };
        let answer = self.during(progress, Box::pin(sent)).await?;
        serde_json::from_slice(&answer)
            .map_err(|error| CliError::failed(format!("occd's answer is not one: {error}")))
    }

    async fn get_tree(
        &self,
        from: &Spot,
        mut unpacker: Unpacker,
        progress: &Progress,
    ) -> Result<TreeWritten, CliError> {
        let ask = Ask::new(Method::GET, from.api("?tar=true")?);
        let mut answer = Answer::to(self.client, ask).await?;
        loop {
            match answer.next().await {
                Ok(Some(data)) => {
                    progress.add(data.len());
                    unpacker.write(&data)?;
                }
                Ok(None) => break,
                Err(_) => {
                    return Err(super::files::cut(self.client, from, &progress.how_far()).await);
                }
            }
        }
        unpacker.finish()
    }
}

/// Returns the same with what was not sent.
fn with(mut written: TreeWritten, missed: Missed) -> TreeWritten {
    written.left_out.join(missed.left_out);
    written.unread.join(missed.unread);
    written
}

/// Returns the pieces of a directory here.
fn packed(
    packer: Packer,
    progress: &Progress,
    why: Rc<RefCell<Option<String>>>,
) -> LocalBoxStream<'static, io::Result<Bytes>> {
    let progress = progress.clone();
    stream::unfold(Some(packer), move |packer| {
        let (progress, why) = (progress.clone(), Rc::clone(&why));
        async move {
            let mut packer = packer?;
            match packer.next() {
                Ok(None) => None,
                Ok(Some(data)) => {
                    progress.add(data.len());
                    Some((Ok(data), Some(packer)))
                }
                Err(error) => {
                    why.replace(Some(error.to_string()));
                    Some((Err(error), None))
                }
            }
        }
    })
    .boxed_local()
}

/// Returns the pieces of an answer, to be sent on without what is not copied.
fn passed(
    answer: Answer,
    progress: &Progress,
    missed: Rc<RefCell<Missed>>,
) -> LocalBoxStream<'static, io::Result<Bytes>> {
    let progress = progress.clone();
    stream::unfold(Some((answer, Sieve::default())), move |left| {
        let (progress, missed) = (progress.clone(), Rc::clone(&missed));
        async move {
            let (mut answer, mut sieve) = left?;
            match answer.next().await {
                Ok(None) => Some((sieve.end(), None)),
                Ok(Some(data)) => {
                    progress.add(data.len());
                    match sieve.take(&data, &mut missed.borrow_mut()) {
                        Ok(data) => Some((Ok(data), Some((answer, sieve)))),
                        Err(error) => Some((Err(error), None)),
                    }
                }
                Err(error) => Some((Err(error), None)),
            }
        }
    })
    .boxed_local()
}

/// An archive on its way from host to host.
#[derive(Default)]
struct Sieve {
    decoder: Decoder,
    /// What is behind the file that is coming, once it has come.
    behind: Option<(u64, u64)>,
}

impl Sieve {
    fn take(&mut self, data: &[u8], missed: &mut Missed) -> io::Result<Bytes> {
        self.decoder.feed(data);
        let mut out = Vec::with_capacity(data.len());
        while let Some(item) = self.decoder.item().map_err(io::Error::other)? {
            match item {
                Item::Trouble(text) => missed.unread.add(&text),
                Item::Entry(Entry { kind: Kind::Other, path, .. }) => {
                    missed.left_out.add_path(&path);
                    self.behind = None;
                }
                Item::Entry(entry) => {
                    tar::head(&mut out, &entry);
                    let is_file = entry.kind == Kind::File && entry.size > 0;
                    self.behind = is_file.then_some((entry.size, entry.size));
                }
                Item::Data(data) => {
                    let Some((size, left)) = &mut self.behind else { continue };
                    out.extend_from_slice(&data);
                    *left -= data.len() as u64;
                    if *left == 0 {
                        out.resize(out.len() + tar::padding(*size), 0);
                        self.behind = None;
                    }
                }
            }
        }
        Ok(out.into())
    }

    fn end(&self) -> io::Result<Bytes> {
        match self.decoder.is_whole() {
            true => Ok(Bytes::from_static(&tar::END)),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

//! `occ cp -r`: directories with everything in them.

use std::io;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{self, LocalBoxStream};
use hyper::Method;
use occ_proto::files::TreeWritten;

use super::cp::{Copied, Copy, umask};
use crate::error::CliError;
use crate::exchange::{Answer, Ask};
use crate::progress::Progress;
use crate::spot::Spot;
use crate::tree::{Packer, Unpacker};

/// The most bytes of the daemon's answer.
const ANSWER: usize = 64 * 1024;

impl Copy<'_> {
    /// Copies a directory.
    pub(super) async fn tree(&self, from: &Spot, to: &Spot) -> Result<Copied, CliError> {
        let progress = Progress::new(from.to_string(), None, 0);
        let files = match (&from.host, &to.host) {
            (None, _) => {
                // Its error, which the daemon knows nothing of.
                let why = std::rc::Rc::new(std::cell::RefCell::new(None));
                let mask = if self.args.preserve { 0 } else { umask() | 0o7000 };
                let packer = Packer::new(&from.here(), mask)?;
                let pieces = packed(packer, &progress, std::rc::Rc::clone(&why));
                let sent = self.put_tree(to, pieces, &progress).await;
                match (sent, why.take()) {
                    (Err(error), Some(why)) if !error.is_quiet() => {
                        let why = occ_proto::text::sanitize(&why);
                        return Err(CliError::failed(format!("{why}; nothing was copied."))
                            .hint(format!("ls -la {}", from.word())));
                    }
                    (sent, _) => sent?,
                }
            }
            (_, None) => {
                let unpacker = Unpacker::new(&to.here(), self.args.preserve)?;
                let copy = self.get_tree(from, unpacker, &progress);
                self.during(&progress, Box::pin(copy)).await?
            }
            _ => {
                let answer =
                    Answer::to(self.client, Ask::new(Method::GET, from.api("?tar=true")?)).await?;
                self.put_tree(to, passed(answer, &progress), &progress).await?
            }
        };
        let mut copied = self.copied(from, to, &progress, 0);
        copied.files = Some(files);
        Ok(copied)
    }

    async fn put_tree(
        &self,
        to: &Spot,
        pieces: LocalBoxStream<'static, io::Result<Bytes>>,
        progress: &Progress,
    ) -> Result<u64, CliError> {
        let query = format!("?tar=true&preserve={}", self.args.preserve);
        let mut ask = Ask::new(Method::PUT, to.api(&query)?);
        ask.body = Some((pieces, None));
        let sent = async {
            let mut answer = Answer::to(self.client, ask).await?;
            answer.whole(ANSWER).await
        };
        let answer = self.during(progress, Box::pin(sent)).await?;
        let written: TreeWritten = serde_json::from_slice(&answer)
            .map_err(|error| CliError::failed(format!("occd's answer is not one: {error}")))?;
        Ok(written.files)
    }

    async fn get_tree(
        &self,
        from: &Spot,
        mut unpacker: Unpacker,
        progress: &Progress,
    ) -> Result<u64, CliError> {
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
        let files = unpacker.files;
        let troubles = unpacker.finish()?;
        match troubles.first() {
            None => Ok(files),
            Some(trouble) => {
                Err(CliError::failed(format!("{from}: not all was copied: {trouble}."))
                    .hint(format!("occ ls -la {}", from.word())))
            }
        }
    }
}

/// Returns the pieces of a directory here.
fn packed(
    packer: Packer,
    progress: &Progress,
    why: std::rc::Rc<std::cell::RefCell<Option<String>>>,
) -> LocalBoxStream<'static, io::Result<Bytes>> {
    let progress = progress.clone();
    stream::unfold(Some(packer), move |packer| {
        let (progress, why) = (progress.clone(), std::rc::Rc::clone(&why));
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

/// Returns the pieces of an answer, to be sent on.
fn passed(answer: Answer, progress: &Progress) -> LocalBoxStream<'static, io::Result<Bytes>> {
    let progress = progress.clone();
    stream::unfold(Some(answer), move |answer| {
        let progress = progress.clone();
        async move {
            let mut answer = answer?;
            match answer.next().await {
                Ok(None) => None,
                Ok(Some(data)) => {
                    progress.add(data.len());
                    Some((Ok(data), Some(answer)))
                }
                Err(error) => Some((Err(error), None)),
            }
        }
    })
    .boxed_local()
}

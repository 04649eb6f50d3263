//! A connection to the daemon, on which an answer is heard whenever it came.
//!
//! A daemon that has no place for a client says so at once and hangs up, and one that refuses a body may do so in the middle
//! of it. hyper takes an answer before its request for nonsense, and a request that cannot be written for the end.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

/// Such a connection.
#[derive(Debug)]
pub(crate) struct Connection {
    inner: UnixStream,
    /// Something was asked, so that there may be an answer.
    asked: bool,
    /// Whoever reads before that.
    reader: Option<Waker>,
    /// Why nothing can be written any more. It is told once there is nothing left to read; until then a write waits, or
    /// hyper would make all of a long body for nobody before it reads.
    deaf: Option<io::Error>,
}

impl Connection {
    /// Returns a connection on which nothing was said yet, for hyper.
    pub(crate) fn new(inner: UnixStream) -> TokioIo<Self> {
        TokioIo::new(Self { inner, asked: false, reader: None, deaf: None })
    }

    /// Returns the socket, for what is no HTTP any more.
    pub(crate) fn into_inner(self) -> UnixStream {
        self.inner
    }

    /// Takes what became of a write of so many bytes.
    fn written(&mut self, written: io::Result<usize>, length: usize) -> usize {
        self.asked = true;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        written.unwrap_or_else(|error| {
            self.deaf = Some(error);
            length
        })
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.asked {
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut self.inner).poll_read(cx, buf));
        let is_end = read.is_err() || buf.filled().len() == before;
        Poll::Ready(match self.deaf.take_if(|_| is_end) {
            Some(error) => Err(error),
            None => read,
        })
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.deaf.is_some() {
            return Poll::Pending;
        }
        let written = ready!(Pin::new(&mut self.inner).poll_write(cx, buf));
        Poll::Ready(Ok(self.written(written, buf.len())))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.deaf.is_some() {
            return Poll::Pending;
        }
        let length = bufs.iter().map(|buf| buf.len()).sum();
        let written = ready!(Pin::new(&mut self.inner).poll_write_vectored(cx, bufs));
        Poll::Ready(Ok(self.written(written, length)))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use bytes::Bytes;
    use futures_util::stream;
    use http_body_util::{BodyExt as _, Empty, StreamBody};
    use hyper::Request;
    use hyper::body::Frame;

    use super::*;

    async fn ask(stream: UnixStream) -> hyper::Result<Bytes> {
        let request = Request::get("/").body(Empty::<Bytes>::new()).unwrap();
        let io = Connection::new(stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
        let answer = async move {
            let answer = sender.send_request(request).await?;
            Ok(answer.into_body().collect().await?.to_bytes())
        };
        tokio::join!(connection, answer).1
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    #[test]
    fn an_answer_that_came_before_the_request_is_heard() {
        let said = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 2\r\n\r\nno";
        runtime().block_on(async {
            let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
            theirs.write_all(said).unwrap();
            drop(theirs);
            ours.set_nonblocking(true).unwrap();
            assert_eq!(ask(UnixStream::from_std(ours).unwrap()).await.unwrap(), "no");
        });
    }

    #[test]
    fn an_answer_in_the_middle_of_a_body_without_an_end_is_heard() {
        let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let answers = std::thread::spawn(move || {
            theirs.read_exact(&mut [0; 64 * 1024]).unwrap();
            theirs.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").unwrap();
        });
        let piece = || Ok::<_, io::Error>(Frame::data(Bytes::from_static(&[0; 4096])));
        let body = StreamBody::new(stream::repeat_with(piece));
        runtime().block_on(async {
            let io = Connection::new(UnixStream::from_std(ours).unwrap());
            let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
            let request = Request::put("/").body(body).unwrap();
            let answer = async move {
                let answer = sender.send_request(request).await.unwrap();
                answer.into_body().collect().await.unwrap().to_bytes()
            };
            let mut connection = std::pin::pin!(connection);
            let mut answer = std::pin::pin!(answer);
            let said = tokio::select! {
                said = &mut answer => said,
                _ = &mut connection => answer.await,
            };
            assert_eq!(said, "no");
        });
        answers.join().unwrap();
    }

    #[test]
    fn who_hangs_up_without_a_word_has_not_read_the_request() {
        runtime().block_on(async {
            let (ours, theirs) = UnixStream::pair().unwrap();
            drop(theirs);
            let error = ask(ours).await.unwrap_err();
            assert!(crate::client::broken(&error).unread, "{error:?}");
        });
    }
}

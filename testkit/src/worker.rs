//! A thread with a runtime of its own, for fixtures that must go on whatever the test's runtime does.

use std::thread::JoinHandle;

use tokio_util::sync::CancellationToken;

/// The thread. Dropping it cancels the token it was started with and waits for its end.
#[derive(Debug)]
pub(crate) struct Worker {
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Runs `main` on a new thread; it has to return when the token that it gets is cancelled.
    pub(crate) fn start<F>(name: &str, main: impl FnOnce(CancellationToken) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let stop = CancellationToken::new();
        let future = Box::pin(main(stop.clone()));
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.unwrap().block_on(future);
            })
            .unwrap();
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.cancel();
        let ended = self.thread.take().map(JoinHandle::join);
        if matches!(ended, Some(Err(_))) && !std::thread::panicking() {
            panic!("a fixture's thread panicked; its message is above");
        }
    }
}

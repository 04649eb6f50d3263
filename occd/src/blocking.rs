//! Work that waits for the disk or for the processor, on a thread that may.

/// Runs work off the async threads: a home directory on a network can hang, and a passphrase is slow to try on
/// purpose.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Cancelled: the runtime is ending and drops this task next.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Does such work where it stands, for whoever cannot await it: other tasks go on, on another thread. Whoever waits for
/// a lock that is held meanwhile waits, too.
pub(crate) fn in_place<T>(work: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        // A runtime with one thread, of a test: there is nobody to go on.
        _ => work(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use tokio_util::task::TaskTracker;

    use super::in_place;

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn others_go_on_while_one_waits_for_the_disk() {
        let (disk, answer) = mpsc::channel();
        let tasks = TaskTracker::new();
        let waits =
            tasks.spawn(async move { in_place(|| answer.recv_timeout(Duration::from_secs(20))) });
        let other = tasks.spawn(async move { disk.send(()) });
        assert_eq!(waits.await.unwrap(), Ok(()));
        other.await.unwrap().unwrap();
    }
}

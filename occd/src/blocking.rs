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

//! Work on whole plans, done where nobody waits for the thread.
//!
//! A plan's text is read and written without awaiting anything, and a large one takes tens of milliseconds. On a thread of the
//! runtime, sockets and other projects would have to wait for that.

use tokio::task::{JoinError, spawn_blocking};

/// Texts of more bytes are read aside. Smaller ones take a few milliseconds at most: going elsewhere would not pay.
const LARGE_BYTES: usize = 256 * 1024;

/// Does it aside.
pub(super) async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match spawn_blocking(work).await.map_err(JoinError::try_into_panic) {
        Ok(done) => done,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        // The runtime ends, and whoever asked with it.
        Err(Err(_)) => std::future::pending().await,
    }
}

/// Does it aside, if it is about a text of so many bytes that it takes long.
pub(super) async fn aside_if_large<T: Send + 'static>(bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> T {
    if bytes > LARGE_BYTES { aside(work).await } else { work() }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[tokio::test]
    async fn only_what_is_large_leaves_the_thread() {
        let (here, place) = (thread::current().id(), || thread::current().id());
        assert_eq!(aside_if_large(LARGE_BYTES, place).await, here);
        assert_ne!(aside_if_large(LARGE_BYTES + 1, place).await, here);
    }
}

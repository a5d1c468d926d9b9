//! How long a test waits, and the one loop that polls.
//!
//! A test names the state it waits for; this file decides how often to look and when to give up. A slow
//! machine raises every wait at once with `MILLE_TESTS_PATIENCE` (a factor, 1 when absent).

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use tokio::time::{Instant, timeout_at};

/// Pause between two looks at a state. Short, since most states are true at the second look.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// The longest pause between two looks.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// Looks again and again until `probe` succeeds, at most for `patience`.
///
/// # Errors
/// The last error of `probe`, or that it never answered at all.
pub async fn eventually<T, P>(patience: Duration, mut probe: P) -> Result<T>
where
    P: AsyncFnMut() -> Result<T>,
{
    let deadline = Instant::now() + patience;
    let mut pause = FIRST_PAUSE;
    let mut last = anyhow!("not one look was finished in time");
    loop {
        match timeout_at(deadline, probe()).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(error)) => last = error,
            Err(_) => return Err(last).with_context(|| format!("not true within {patience:?}")),
        }
        if Instant::now() + pause >= deadline {
            return Err(last).with_context(|| format!("not true within {patience:?}"));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Waits for one thing, at most for `patience`. `what` names it in the error.
///
/// # Errors
/// When the time is over.
pub async fn within<T>(patience: Duration, what: &str, thing: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(patience, thing).await.map_err(|_| anyhow!("{what}: nothing within {patience:?}"))
}

/// The usual wait for something that should happen at once.
#[must_use]
pub fn soon() -> Duration {
    patience(10.0)
}

/// `seconds`, raised by the factor in `MILLE_TESTS_PATIENCE`.
///
/// # Panics
/// When the factor is no number above zero: a wrong setting must not look like a failing test.
#[must_use]
pub fn patience(seconds: f64) -> Duration {
    let factor = match std::env::var("MILLE_TESTS_PATIENCE") {
        Ok(text) => text.parse::<f64>().expect("MILLE_TESTS_PATIENCE is a number"),
        Err(_) => 1.0,
    };
    Duration::from_secs_f64(seconds * factor)
}

/// The seed of this run: `MILLE_TESTS_SEED`, else a new one. Printed, so a failure can be repeated.
///
/// # Panics
/// When `MILLE_TESTS_SEED` is no whole number.
#[must_use]
pub fn seed() -> u64 {
    let seed = match std::env::var("MILLE_TESTS_SEED") {
        Ok(text) => text.parse().expect("MILLE_TESTS_SEED is a whole number"),
        Err(_) => rand::random(),
    };
    eprintln!("seed: {seed} (repeat with MILLE_TESTS_SEED={seed})");
    seed
}

#[cfg(test)]
mod tests {
    use anyhow::ensure;

    use super::*;

    #[tokio::test]
    async fn a_state_that_comes_is_waited_for() -> Result<()> {
        let mut looks = 0;
        let found = eventually(Duration::from_secs(5), async || {
            looks += 1;
            ensure!(looks == 3, "only {looks} looks");
            Ok(looks)
        })
        .await?;
        assert_eq!(found, 3);
        Ok(())
    }

    #[tokio::test]
    async fn a_state_that_never_comes_says_why() {
        let outcome: Result<()> =
            eventually(Duration::from_millis(50), async || Err(anyhow!("the door is shut"))).await;
        let message = format!("{:#}", outcome.expect_err("it never came"));
        assert!(message.contains("the door is shut"), "{message}");
    }
}

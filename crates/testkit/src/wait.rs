//! Waiting for a condition, with a deadline and a reason.
//!
//! A condition returns `Ok` with the value that the test needs, or `Err` with what it saw instead,
//! which the panic shows if the deadline passes. [`when`] makes a condition of a value and a
//! predicate.

use std::fmt::Debug;
use std::thread;
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_millis(20);

/// Enough for a server to start or stop on a busy machine. Nothing waits this long unless something
/// is wrong.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// `Ok(value)` if the condition holds for it, else `Err(value)`, to be shown as the last thing
/// seen.
pub fn when<T>(value: T, condition: impl FnOnce(&T) -> bool) -> Result<T, T> {
    if condition(&value) { Ok(value) } else { Err(value) }
}

/// Polls `condition` until it holds and returns its value; panics with `what` after the deadline.
#[track_caller]
pub fn eventually<T, E: Debug>(
    deadline: Duration,
    what: &str,
    mut condition: impl FnMut() -> Result<T, E>,
) -> T {
    let start = Instant::now();
    loop {
        match condition() {
            Ok(value) => return value,
            Err(seen) if start.elapsed() >= deadline => give_up(deadline, what, &format!("{seen:?}")),
            Err(_) => thread::sleep(INTERVAL),
        }
    }
}

/// [`eventually`] for conditions that await. One that hangs is abandoned at the deadline too.
pub async fn eventually_async<T, E: Debug>(
    deadline: Duration,
    what: &str,
    mut condition: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let end = tokio::time::Instant::now() + deadline;
    let mut last = None;
    loop {
        match tokio::time::timeout_at(end, condition()).await {
            Ok(Ok(value)) => return value,
            Ok(Err(seen)) => last = Some(format!("{seen:?}")),
            Err(_) => {
                give_up(deadline, what, last.as_deref().unwrap_or("nothing: the first look never ended"))
            }
        }
        // A condition that returns at once never times out, so the deadline is checked here too.
        if tokio::time::Instant::now() >= end {
            give_up(deadline, what, last.as_deref().unwrap_or_default());
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

#[track_caller]
fn give_up(deadline: Duration, what: &str, seen: &str) -> ! {
    panic!("waited {deadline:?} for {what}; last seen: {seen}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(60);

    #[test]
    fn returns_what_the_condition_gave() {
        let mut looks = 0;
        let value = eventually(PATIENCE, "three looks", || {
            looks += 1;
            when(looks, |&looks| looks == 3)
        });
        assert_eq!(value, 3);
    }

    #[test]
    #[should_panic(expected = "for the moon; last seen: \"cheese\"")]
    fn says_what_it_waited_for_and_saw() {
        eventually(SOON, "the moon", || Err::<(), _>("cheese"));
    }

    #[tokio::test]
    #[should_panic(expected = "for the moon; last seen: \"cheese\"")]
    async fn says_so_of_an_async_condition_too() {
        eventually_async(SOON, "the moon", async || Err::<(), _>("cheese")).await;
    }

    #[tokio::test]
    #[should_panic(expected = "for an end; last seen: nothing")]
    async fn gives_up_on_a_condition_that_hangs() {
        eventually_async(SOON, "an end", async || std::future::pending::<Result<(), ()>>().await).await;
    }
}

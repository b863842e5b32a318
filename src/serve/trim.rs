//! Gives freed memory back to the operating system, and keeps little of it.
//!
//! After a flood of sessions the C library keeps what they took: 200,000 that had gone left 122 MiB
//! resident, and a trim 17 MiB. In a container that counts as used, and the next flood comes on
//! top. During a flood it keeps free memory too, in an arena for each thread, of no use to the
//! others: 3 MiB of the chart's 64. One arena is enough, since the fold asks for no memory in the
//! steady state.
//!
//! Invariant: memory that is free stays resident for no longer than [`EVERY`].

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

/// How often memory is given back. It takes a millisecond, or a tenth of a second after a flood.
const EVERY: Duration = Duration::from_secs(30);

/// Gives memory back from time to time, and never completes.
pub(super) async fn keep_trimmed() {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let _ = tokio::task::spawn_blocking(trim).await;
    }
}

/// Lets all threads share an arena. To be called before any thread starts.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(crate) fn share_arena() {
    // SAFETY: it takes two numbers, and no thread allocates meanwhile.
    #[expect(unsafe_code, reason = "no crate of ours wraps it")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) const fn share_arena() {}

/// Other C libraries have no such function; they return memory by themselves.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn trim() {
    // SAFETY: it takes a number, touches only free memory, and may be called at any time.
    #[expect(unsafe_code, reason = "no crate of ours wraps it")]
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
const fn trim() {}

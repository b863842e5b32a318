//! The pauses between attempts to consume.
//!
//! Invariant: a fleet that lost the same server does not come back in step.

use std::time::Duration;

use async_nats::Client;
use async_nats::connection::State;
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::time::{sleep, timeout};

/// The longest pause between two attempts to consume: whoever reads the page waits as long after
/// the stream's return.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Pauses double from 200 ms to [`LONGEST_PAUSE`], of which jitter takes up to half. `backon` adds
/// as much as it takes here, so its bounds are halved.
const PAUSES: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(100))
    .with_max_delay(Duration::from_millis(1000))
    .with_jitter()
    .without_max_times();

/// The pause after an attempt that ended soon because somebody else got the deliveries: a pull
/// request whose client is gone. A server with gateways serves such a request for two seconds
/// without a look at who listens, and the request of an attempt that comes sooner would be the next
/// of that kind. Without gateways, the first attempt succeeds.
const UNSERVED: Duration = Duration::from_millis(2200);

/// How often a pause looks for the connection.
const RECONNECT_SEEN_WITHIN: Duration = Duration::from_millis(100);

/// Gives the pause after each attempt.
pub(super) struct Pauses(ExponentialBackoff);

impl Pauses {
    pub(super) fn new() -> Self {
        Self(PAUSES.build())
    }

    /// Pauses after what `worked` for a time, until pull requests that are no longer listened to
    /// are `unserved`, but not beyond the return of a lost connection: that had its own pauses.
    pub(super) async fn wait(&mut self, client: Client, worked: Duration, unserved: bool) {
        let connected = || client.connection_state() == State::Connected;
        let lost = !connected();
        let next = self.next(worked);
        let pause = if unserved && worked < UNSERVED { UNSERVED } else { next };
        let _ = timeout(pause, async {
            while !(lost && connected()) {
                sleep(RECONNECT_SEEN_WITHIN).await;
            }
        })
        .await;
    }

    /// The pause before the next attempt. Only what `worked` for longer than any pause starts again
    /// with a short one: a server that accepts everybody and disconnects them at once is no better
    /// than one that is away.
    fn next(&mut self, worked: Duration) -> Duration {
        if worked > LONGEST_PAUSE {
            *self = Self::new();
        }
        self.0.next().unwrap_or(LONGEST_PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More than `backon` is off, which computes with 24 bits.
    const ROUNDING: Duration = Duration::from_micros(10);

    #[test]
    fn pauses_double_to_the_longest_and_jitter_takes_up_to_half() {
        let mut pauses = Pauses::new();
        for milliseconds in [200, 400, 800, 1600, 2000, 2000] {
            let longest = Duration::from_millis(milliseconds);
            let pause = pauses.next(LONGEST_PAUSE);
            assert!((longest / 2 - ROUNDING..=longest + ROUNDING).contains(&pause), "{pause:?}");
        }
        let drawn = || Pauses::new().next(Duration::ZERO);
        assert!((0..10).any(|_| drawn() != drawn()), "fleets must not come back in step");
    }

    #[test]
    fn only_what_worked_longer_than_any_pause_starts_anew() {
        let mut pauses = Pauses::new();
        for _ in 0..10 {
            pauses.next(LONGEST_PAUSE);
        }
        assert!(pauses.next(LONGEST_PAUSE) >= LONGEST_PAUSE / 2 - ROUNDING);
        assert!(pauses.next(LONGEST_PAUSE * 2) <= Duration::from_millis(200) + ROUNDING);
    }
}

//! Stream time: the clock of the JetStream server that stored a frame.
//!
//! Invariant: arithmetic saturates and never panics.

use std::time::Duration;

/// A moment of stream time, to the nanosecond, since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamTime(i128);

impl StreamTime {
    /// The moment this many nanoseconds after the Unix epoch.
    #[must_use]
    pub const fn from_unix_nanos(nanos: i128) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the Unix epoch.
    #[must_use]
    pub const fn unix_nanos(self) -> i128 {
        self.0
    }

    /// Seconds since the Unix epoch, to about a microsecond.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a microsecond is fine enough for an age")]
    pub fn unix_seconds(self) -> f64 {
        self.0 as f64 / 1e9
    }

    /// The time since an earlier moment; zero since a later one.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        let nanos = u64::try_from((self.0 - earlier.0).max(0)).unwrap_or(u64::MAX);
        Duration::from_nanos(nanos)
    }
}

impl std::ops::Add<Duration> for StreamTime {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX)))
    }
}

impl std::ops::Sub<Duration> for StreamTime {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX)))
    }
}

//! How long the limits of a stream hold its frames.
//!
//! A stream deletes its oldest frames at `max_bytes` or at `max_age`, whichever comes first. An
//! incident of yesterday can't be replayed if the former came first, and nothing says so until
//! somebody tries. So the bytes per second of a stream are compared with both limits.
//!
//! Invariant: a limit that is advised has a third as reserve, and is a whole number of GiB.

use std::time::Duration;

use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::change::Running;
use super::declare::nanoseconds;

/// What the server adds to a message: the record's header, the length of the message's header, and
/// a checksum.
const RECORD_BYTES: usize = 22 + 4 + 8;

/// Returns the size of a message in a stream, as `max_bytes` counts it, from the subject under
/// which it is stored, its `Nats-Msg-Id` and its payload.
#[must_use]
pub fn stored_bytes(subject: &str, message_id: &str, payload: usize) -> usize {
    let header = "NATS/1.0\r\nNats-Msg-Id: \r\n\r\n".len() + message_id.len();
    RECORD_BYTES + subject.len() + header + payload
}

/// What a stream receives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Traffic {
    /// Frames per second.
    pub frames: f64,
    /// Bytes per frame, as `max_bytes` counts them.
    pub frame_bytes: f64,
    /// Time over which it was measured.
    pub over: Duration,
}

impl Traffic {
    /// Time over which the traffic of a running stream is measured.
    pub const WINDOW: Duration = Duration::from_secs(600);

    /// Traffic of less time says nothing.
    const LEAST: Duration = Duration::from_secs(1);

    /// Computes the traffic since a message was stored; `None` if that is too short ago.
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 53 bits")]
    pub(super) fn since(running: &Running, sequence: u64, stored: OffsetDateTime) -> Option<Self> {
        let over = Duration::try_from(running.now - stored).ok().filter(|over| *over >= Self::LEAST)?;
        let frames = (running.last_sequence + 1).saturating_sub(sequence) as f64 / over.as_secs_f64();
        Some(Self { frames, frame_bytes: running.bytes as f64 / running.messages.max(1) as f64, over })
    }

    /// Returns the bytes per second.
    #[must_use]
    pub fn bytes(&self) -> f64 {
        self.frames * self.frame_bytes
    }

    /// Computes what a stream needs to hold its frames of a time.
    #[must_use]
    pub fn capacity(&self, retention: Duration) -> Capacity {
        let seconds = retention.as_secs_f64();
        Capacity { frames: self.frames * seconds, bytes: self.bytes() * seconds }
    }

    /// Compares a stream's configuration with its traffic; `None` if its frames fit until `max_age`
    /// deletes them, or if it has only one of the limits.
    #[must_use]
    pub fn shortage(&self, config: &Map<String, Value>) -> Option<Shortage> {
        let limit = |key: &str| config.get(key).and_then(Value::as_i64).filter(|limit| *limit > 0);
        let (max_bytes, retention) = (limit("max_bytes")?, nanoseconds(limit("max_age")?));
        let capacity = self.capacity(retention);
        #[expect(clippy::cast_precision_loss, reason = "sizes of disks are below 2^53")]
        let share = max_bytes as f64 / capacity.bytes;
        let holds = Duration::try_from_secs_f64(retention.as_secs_f64() * share).ok()?;
        let max_bytes = max_bytes.unsigned_abs();
        (share < 1.0).then_some(Shortage { max_bytes, retention, holds, needed: capacity.max_bytes() })
    }
}

/// What frames of some time need, for each replica.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Capacity {
    pub frames: f64,
    pub bytes: f64,
}

impl Capacity {
    /// Returns the limit to set: a third more, in whole GiB.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "positive, and sizes of disks are below 2^53"
    )]
    pub fn max_bytes(&self) -> u64 {
        let gib = f64::from(1 << 30);
        ((self.bytes * 4.0 / 3.0 / gib).ceil().max(1.0) as u64) << 30
    }
}

/// A stream that deletes its frames before their time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// The limit that is reached first, in bytes.
    pub max_bytes: u64,
    /// Time for which frames should be kept, `max_age`.
    pub retention: Duration,
    /// Time for which they are kept instead.
    pub holds: Duration,
    /// The limit to set, in bytes.
    pub needed: u64,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    /// 200 frames of 547 bytes per second.
    const TRAFFIC: Traffic = Traffic { frames: 200.0, frame_bytes: 547.0, over: Traffic::WINDOW };

    fn shortage(config: &Value) -> Option<Shortage> {
        TRAFFIC.shortage(config.as_object().unwrap())
    }

    #[test]
    fn a_limit_in_bytes_that_comes_first_is_a_shortage() {
        let nanoseconds = 3 * 86_400_000_000_000_u64;
        let short = shortage(&json!({"max_bytes": 4_u64 << 30, "max_age": nanoseconds})).unwrap();
        // 109,400 bytes per second.
        assert_eq!((short.holds.as_secs(), short.retention), (39_259, 3 * DAY));
        // 28.4 GB, and 37.8 GB with the reserve.
        assert_eq!(short.needed, 36 << 30);
        let enough = json!({"max_bytes": short.needed, "max_age": nanoseconds});
        assert_eq!(shortage(&enough), None);
        for unlimited in
            [json!({"max_bytes": 1}), json!({"max_bytes": -1, "max_age": nanoseconds}), json!({})]
        {
            assert_eq!(shortage(&unlimited), None, "{unlimited}");
        }
    }

    #[test]
    fn traffic_is_that_since_a_message() {
        let now = OffsetDateTime::UNIX_EPOCH + 10 * DAY;
        let running = Running {
            config: Map::new(),
            messages: 1_000,
            bytes: 500_000,
            last_sequence: 5_000,
            oldest: None,
            now,
            cluster: None,
        };
        let traffic = Traffic::since(&running, 4_801, now - Duration::from_secs(100)).unwrap();
        assert_eq!((traffic.frames, traffic.frame_bytes, traffic.bytes()), (2.0, 500.0, 1_000.0));
        assert_eq!(traffic.over, Duration::from_secs(100));
        assert_eq!(Traffic::since(&running, 5_000, now - Duration::from_millis(999)), None);
    }
}

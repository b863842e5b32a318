//! The subject grammar: `health.diagnostics.{region}.{service_type}.{server_id}.m{N}`.
//!
//! Shards of the exporter filter by the last token, the partition. A publisher that knows the
//! meeting gives the meeting's, so all frames of a meeting go to one shard, whichever server
//! receives them. Others publish five tokens, and the stream appends the partition of the server.
//!
//! Invariant: a parsed or built subject has only plain tokens, so it can't address another region
//! or stream, and no publisher can name a partition that no shard reads.

use std::fmt;
use std::str::FromStr;

use crate::{Reason, Rejection};

const PREFIX: &str = "health.diagnostics.";

/// Maximum length of a token, in bytes.
const MAX_TOKEN_BYTES: usize = 64;

/// Number of partitions of each kind. Shards divide them, so there are more than anyone has shards.
pub const PARTITIONS: u32 = 64;

/// A region's name, as in subjects and labels: 1 to 32 bytes of `[a-z0-9-]`.
///
/// Names of streams have it in upper case: the stream of region `apac` is `HEALTH_APAC`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Region(String);

/// The error for a text that is not a region's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a region; write 1 to 32 of a-z, 0-9 and -, such as us or eu-west")]
pub struct RegionError(String);

impl Region {
    /// The name as it stands in subjects and labels, in lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Region {
    type Err = RegionError;

    fn from_str(text: &str) -> Result<Self, RegionError> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if (1..=32).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(RegionError(text.chars().take(64).collect()))
        }
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The partition of a meeting, `m0` to `m63`, which a publisher gives as the last token of the
/// subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MeetingPartition(u32);

impl MeetingPartition {
    /// Returns the partition of a meeting: the 32-bit FNV-1a hash of the UTF-8 bytes of its
    /// `meeting_id`, modulo [`PARTITIONS`]. `spec/vectors/partitions.json` has examples.
    ///
    /// ```
    /// use callsight_frame::subject::MeetingPartition;
    ///
    /// assert_eq!(MeetingPartition::of("standup").to_string(), "m22");
    /// ```
    #[must_use]
    pub fn of(meeting_id: &str) -> Self {
        let step = |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
        Self(meeting_id.bytes().fold(0x811c_9dc5, step) % PARTITIONS)
    }

    /// Returns all of them, in the order of their numbers.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..PARTITIONS).map(Self)
    }

    /// The number, below [`PARTITIONS`].
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// Parses `m0` to `m63`, without leading zeros.
    fn parse(token: &str) -> Option<Self> {
        let digits = token.strip_prefix('m')?;
        let plain = matches!(digits.as_bytes(), [b'0'..=b'9'] | [b'1'..=b'9', b'0'..=b'9']);
        digits.parse().ok().filter(|number| plain && *number < PARTITIONS).map(Self)
    }
}

impl fmt::Display for MeetingPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "m{}", self.0)
    }
}

/// The last token of a subject: the part of the stream that a frame belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Partition {
    /// `12`, of the server: the stream appends it where the publisher gives none.
    Server(u32),
    /// `m12`, of the meeting: the publisher gives it.
    Meeting(MeetingPartition),
}

impl Partition {
    /// Its number among those of its kind.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Server(number) => number,
            Self::Meeting(partition) => partition.number(),
        }
    }

    fn parse(token: &str) -> Option<Self> {
        // `parse` alone would accept a sign.
        let server = || token.parse().ok().filter(|_| is_token(token)).map(Self::Server);
        MeetingPartition::parse(token).map(Self::Meeting).or_else(server)
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(number) => number.fmt(f),
            Self::Meeting(partition) => partition.fmt(f),
        }
    }
}

/// The tokens of a subject, which are plain but not known to name anything that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject<'a> {
    /// The region whose relay published.
    pub region: &'a str,
    /// The kind of service, such as `relay` or `sfu`.
    pub service_type: &'a str,
    /// The server that published.
    pub server_id: &'a str,
    /// The last token; `None` before the frame is stored, if the publisher gave none.
    pub partition: Option<Partition>,
}

impl<'a> Subject<'a> {
    /// Parses a subject, with or without the partition.
    ///
    /// # Errors
    /// [`Reason::BadSubject`] for too few, too many or too long tokens, for other characters, and
    /// for a last token that is no partition.
    pub fn parse(subject: &'a str) -> Result<Self, Rejection> {
        let reject = |problem: &str| {
            let detail = format!("`{}` {problem}", excerpt(subject, 128));
            Rejection::new(Reason::BadSubject, detail)
        };
        let bad = || reject(&format!("is not {PREFIX}{{region}}.{{service_type}}.{{server_id}}.m{{N}}"));
        let mut tokens = subject.strip_prefix(PREFIX).ok_or_else(bad)?.split('.');
        let mut token = || tokens.next().filter(|token| is_token(token)).ok_or_else(bad);
        let (region, service_type, server_id) = (token()?, token()?, token()?);
        let last = tokens.next();
        if tokens.next().is_some() {
            return Err(bad());
        }
        let unknown = || {
            reject(
                "has no partition as its last token; end it with m0 to m63, the meeting's, or omit the token",
            )
        };
        let partition = last.map(|token| Partition::parse(token).ok_or_else(unknown)).transpose()?;
        Ok(Self { region, service_type, server_id, partition })
    }
}

/// Builds the subject to publish to: of frames of a partition of meetings, or without one where the
/// meeting is not known.
///
/// # Errors
/// [`Reason::BadSubject`] when a token is empty, longer than 64 bytes or has a character outside
/// `[A-Za-z0-9_-]`.
pub fn publish_subject(
    region: &Region,
    service_type: &str,
    server_id: &str,
    partition: Option<MeetingPartition>,
) -> Result<String, Rejection> {
    for token in [service_type, server_id] {
        if !is_token(token) {
            let excerpt = excerpt(token, 64);
            let detail = format!("`{excerpt}` is not a token; use 1 to {MAX_TOKEN_BYTES} of A-Z a-z 0-9 _ -");
            return Err(Rejection::new(Reason::BadSubject, detail));
        }
    }
    let last = partition.map(|partition| format!(".{partition}")).unwrap_or_default();
    Ok(format!("{PREFIX}{region}.{service_type}.{server_id}{last}"))
}

/// Returns the beginning of a rejected text, escaped for log lines and headers of dead letters:
/// NATS allows anything but white space in subjects, including control sequences for terminals.
fn excerpt(text: &str, characters: usize) -> String {
    text.chars().flat_map(char::escape_debug).take(characters).collect()
}

pub(super) fn is_token(text: &str) -> bool {
    (1..=MAX_TOKEN_BYTES).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_can_be_read() {
        let region: Region = "eu-west".parse().unwrap();
        let subject = |partition| publish_subject(&region, "relay", "r_7", partition).unwrap();
        assert_eq!(subject(None), "health.diagnostics.eu-west.relay.r_7");
        let expected =
            Subject { region: "eu-west", service_type: "relay", server_id: "r_7", partition: None };
        assert_eq!(Subject::parse(&subject(None)), Ok(expected));
        for number in ["0", "12", "007", "4294967295"] {
            let stored = format!("{}.{number}", subject(None));
            let partition = Some(Partition::Server(number.parse().unwrap()));
            assert_eq!(Subject::parse(&stored), Ok(Subject { partition, ..expected }));
        }
        assert_eq!(MeetingPartition::all().count(), 64);
        for (number, meeting) in MeetingPartition::all().enumerate() {
            let published = subject(Some(meeting));
            assert_eq!(published, format!("health.diagnostics.eu-west.relay.r_7.m{number}"));
            let partition = Some(Partition::Meeting(meeting));
            assert_eq!(Subject::parse(&published), Ok(Subject { partition, ..expected }));
        }
    }

    #[test]
    fn a_last_token_that_is_no_partition_is_refused_with_what_to_do() {
        for last in
            ["m", "m64", "m01", "m00", "m-1", "m+1", "mx", "M1", "m1x", "m 1", "m１", "x", "+1", "-1", ""]
        {
            let rejection = Subject::parse(&format!("health.diagnostics.us.relay.r1.{last}")).unwrap_err();
            assert_eq!(rejection.reason, Reason::BadSubject, "{last:?}");
            assert!(rejection.detail.contains("end it with m0 to m63"), "{rejection}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            "",
            "health.diagnostics",
            "health.diagnostics.us.relay",
            "health.diagnostics.us.relay.",
            "health.diagnostics.us.relay.r1.1.2",
            "health.diagnostics.us.relay.r1.m1.2",
            "health.diagnostics.us.re lay.r1",
            "metrics.diagnostics.us.relay.r1",
        ] {
            let rejection = Subject::parse(bad).unwrap_err();
            assert_eq!(rejection.reason, Reason::BadSubject, "{bad:?}");
            assert!(rejection.detail.contains("is not health.diagnostics.{region}."), "{rejection}");
        }
        let steering = Subject::parse("health.diagnostics.us.\u{1b}[2J.r1").unwrap_err();
        assert!(steering.detail.starts_with("`health.diagnostics.us.\\u{1b}[2J.r1` is not"), "{steering}");
        let region: Region = "us".parse().unwrap();
        for bad in ["", "a.b", "*", ">", "a b"] {
            assert!(publish_subject(&region, "relay", bad, None).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_region_is_a_short_lower_case_token() {
        for bad in ["", "US", "us.east", "us east", &"x".repeat(33)] {
            let error = Region::from_str(bad).unwrap_err();
            assert!(error.to_string().contains("is not a region"), "{error}");
        }
    }
}

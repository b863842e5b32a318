//! The subject grammar: `health.diagnostics.{region}.{service_type}.{server_id}`.
//!
//! Relays publish to five tokens. The stream appends a sixth, the partition of the server, so that
//! shards of the exporter can filter by it. Publishers never write it.
//!
//! Invariant: a parsed or built subject has only plain tokens, so it can't address another region
//! or stream.

use std::fmt;
use std::str::FromStr;

use crate::{Reason, Rejection};

const PREFIX: &str = "health.diagnostics.";

/// Maximum length of a token, in bytes.
const MAX_TOKEN_BYTES: usize = 64;

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

/// The tokens of a subject, which are plain but not known to name anything that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject<'a> {
    /// The region whose relay published.
    pub region: &'a str,
    /// The kind of service, such as `relay` or `sfu`.
    pub service_type: &'a str,
    /// The server that published.
    pub server_id: &'a str,
    /// The partition that the stream appended; `None` before the frame is stored.
    pub partition: Option<u32>,
}

impl<'a> Subject<'a> {
    /// Parses a subject, with or without the partition.
    ///
    /// # Errors
    /// [`Reason::BadSubject`] for too few, too many or too long tokens, and for other characters.
    pub fn parse(subject: &'a str) -> Result<Self, Rejection> {
        let bad = || {
            let excerpt = excerpt(subject, 128);
            Rejection::new(
                Reason::BadSubject,
                format!("`{excerpt}` is not {PREFIX}{{region}}.{{service_type}}.{{server_id}}"),
            )
        };
        let mut tokens = subject.strip_prefix(PREFIX).ok_or_else(bad)?.split('.');
        let mut token = || tokens.next().filter(|token| is_token(token)).ok_or_else(bad);
        let (region, service_type, server_id) = (token()?, token()?, token()?);
        let partition = match tokens.next() {
            None => None,
            // `parse` alone would accept a sign.
            Some(number) if is_token(number) => Some(number.parse().map_err(|_| bad())?),
            Some(_) => return Err(bad()),
        };
        if tokens.next().is_some() {
            return Err(bad());
        }
        Ok(Self { region, service_type, server_id, partition })
    }
}

/// Builds the subject that a relay publishes to.
///
/// # Errors
/// [`Reason::BadSubject`] when a token is empty, longer than 64 bytes or has a character outside
/// `[A-Za-z0-9_-]`.
pub fn publish_subject(region: &Region, service_type: &str, server_id: &str) -> Result<String, Rejection> {
    let subject = format!("{PREFIX}{region}.{service_type}.{server_id}");
    for token in [service_type, server_id] {
        if !is_token(token) {
            let excerpt = excerpt(token, 64);
            let detail = format!("`{excerpt}` is not a token; use 1 to {MAX_TOKEN_BYTES} of A-Z a-z 0-9 _ -");
            return Err(Rejection::new(Reason::BadSubject, detail));
        }
    }
    Ok(subject)
}

/// Returns the beginning of a rejected text, escaped for log lines and headers of dead letters:
/// NATS allows anything but white space in subjects, including control sequences for terminals.
fn excerpt(text: &str, characters: usize) -> String {
    text.chars().flat_map(char::escape_debug).take(characters).collect()
}

fn is_token(text: &str) -> bool {
    (1..=MAX_TOKEN_BYTES).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_can_be_read() {
        let region: Region = "eu-west".parse().unwrap();
        let subject = publish_subject(&region, "relay", "r_7").unwrap();
        assert_eq!(subject, "health.diagnostics.eu-west.relay.r_7");
        let expected =
            Subject { region: "eu-west", service_type: "relay", server_id: "r_7", partition: None };
        assert_eq!(Subject::parse(&subject), Ok(expected));
        let partitioned = format!("{subject}.12");
        assert_eq!(Subject::parse(&partitioned), Ok(Subject { partition: Some(12), ..expected }));
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            "",
            "health.diagnostics",
            "health.diagnostics.us.relay",
            "health.diagnostics.us.relay.",
            "health.diagnostics.us.relay.r1.x",
            "health.diagnostics.us.relay.r1.+1",
            "health.diagnostics.us.relay.r1.1.2",
            "health.diagnostics.us.re lay.r1",
            "metrics.diagnostics.us.relay.r1",
        ] {
            assert_eq!(Subject::parse(bad).unwrap_err().reason, Reason::BadSubject, "{bad:?}");
        }
        let steering = Subject::parse("health.diagnostics.us.\u{1b}[2J.r1").unwrap_err();
        assert!(steering.detail.starts_with("`health.diagnostics.us.\\u{1b}[2J.r1` is not"), "{steering}");
        let region: Region = "us".parse().unwrap();
        for bad in ["", "a.b", "*", ">", "a b"] {
            assert!(publish_subject(&region, "relay", bad).is_err(), "{bad:?}");
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

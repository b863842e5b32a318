//! The name of a deployment: exporters of one deployment share a durable consumer.
//!
//! Invariant: no deployment's durable is also the durable of another one's shard, since both would
//! get only a part of the frames.

use std::fmt;
use std::str::FromStr;

/// The name of a deployment of the exporter: 1 to 32 bytes of `[a-z0-9-]`, such as `main`, `blue`
/// or `green`, that do not end like the durable of a shard, `-2of3`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Deployment(String);

/// The error for a text that is not a deployment's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a deployment; write 1 to 32 of a-z, 0-9 and -, such as main or blue, that do not end like a shard, \
     -2of3"
)]
pub struct DeploymentError(String);

impl Deployment {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the name of its durable consumer.
    #[must_use]
    pub fn durable(&self) -> String {
        format!("callsight-{}", self.0)
    }
}

impl FromStr for Deployment {
    type Err = DeploymentError;

    fn from_str(text: &str) -> Result<Self, DeploymentError> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if (1..=32).contains(&text.len()) && text.bytes().all(allowed) && !ends_like_a_shard(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(DeploymentError(text.chars().take(64).collect()))
        }
    }
}

impl fmt::Display for Deployment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Returns whether the durable of this deployment would be that of a shard of another one.
fn ends_like_a_shard(deployment: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let last = deployment.rsplit_once('-').map(|(_, last)| last);
    last.and_then(|last| last.split_once("of")).is_some_and(|(number, of)| digits(number) && digits(of))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_plain() {
        assert_eq!("blue".parse::<Deployment>().unwrap().durable(), "callsight-blue");
        for bad in ["", "Blue", "a.b", "a b", &"x".repeat(33)] {
            assert!(bad.parse::<Deployment>().unwrap_err().to_string().contains("such as main"), "{bad}");
        }
    }
}

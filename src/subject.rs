//! The subject grammar: the tokens that health frames are published under.

use std::fmt;
use std::str::FromStr;

/// The longest name of a region, in bytes.
const MAX_REGION_BYTES: usize = 32;

/// A region that calls are served from, such as `us` or `apac`: one stream, one consumer, one label value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Region(String);

impl Region {
    /// The name as it stands in subjects and labels.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for Region {
    type Error = InvalidRegion;

    fn try_from(name: &str) -> Result<Self, InvalidRegion> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if (1..=MAX_REGION_BYTES).contains(&name.len()) && name.bytes().all(allowed) {
            Ok(Self(name.to_owned()))
        } else {
            Err(InvalidRegion)
        }
    }
}

impl FromStr for Region {
    type Err = InvalidRegion;

    fn from_str(name: &str) -> Result<Self, InvalidRegion> {
        Self::try_from(name)
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The text is no name of a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a region is 1 to {MAX_REGION_BYTES} of the characters a-z, 0-9 and -, such as us or eu-west")]
pub struct InvalidRegion;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_names_that_are_safe_in_a_subject() {
        for name in ["us", "apac", "eu-west-1", "0", &"x".repeat(32)] {
            assert_eq!(Region::try_from(name).unwrap().as_str(), name);
        }
        for name in ["", "US", "eu.west", "*", ">", "eu_west", "naïve", "a b", &"x".repeat(33)] {
            assert_eq!(name.parse::<Region>(), Err(InvalidRegion), "{name:?}");
        }
    }
}

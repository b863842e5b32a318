//! The two colours of an exporter: a new version runs as the one that the old version is not.
//!
//! Invariant: there is no third colour, in no file, label or report.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::topology::Deployment;

/// Which of two exporters side by side. Neither is the new one by nature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Colour {
    /// The colour of a first installation.
    #[default]
    Blue,
    Green,
}

impl Colour {
    pub(crate) const fn other(self) -> Self {
        match self {
            Self::Blue => Self::Green,
            Self::Green => Self::Blue,
        }
    }

    /// The name in labels, values of the chart and durables.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Blue => "blue",
            Self::Green => "green",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        [Self::Blue, Self::Green].into_iter().find(|colour| colour.name() == name)
    }

    /// The deployment whose durables are those of this colour.
    pub(crate) fn deployment(self) -> Deployment {
        #[expect(clippy::expect_used, reason = "both names are valid, as the test shows")]
        self.name().parse().expect("a colour is a valid deployment")
    }
}

impl fmt::Display for Colour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colour_is_a_deployment_and_has_one_name() {
        for colour in [Colour::Blue, Colour::Green] {
            assert_eq!(colour.deployment().to_string(), colour.name());
            assert_eq!(Colour::from_name(colour.name()), Some(colour));
            assert_eq!(serde_json::to_value(colour).unwrap(), colour.name());
            assert_eq!((colour.other().other(), colour.other() == colour), (colour, false));
        }
        assert_eq!(Colour::from_name("red"), None);
    }
}

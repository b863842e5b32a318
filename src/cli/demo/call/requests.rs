//! What the page asks for, as JSON.
//!
//! Invariant: a request that is read is valid; of any other, the error names the field and what to
//! write.

use std::time::Duration;

use serde::Deserialize;

use crate::netem::{End, Impairment, Netem, Share};

/// The longest delay of a direction, in milliseconds. Longer, and browsers give the call up.
const MAX_DELAY_MS: u64 = 2_000;

/// Somebody in the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Participant {
    Ana,
    Ben,
}

impl Participant {
    pub(super) const fn id(self) -> &'static str {
        match self {
            Self::Ana => "ana",
            Self::Ben => "ben",
        }
    }
}

/// The body of `POST /api/join` and `POST /api/token`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Join {
    pub(super) participant: Participant,
}

/// The body of `PUT /api/network`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Impair {
    pub(super) participant: Participant,
    up: Direction,
    down: Direction,
}

/// A direction of a participant's network, as the page states it.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Direction {
    delay_ms: u64,
    /// From 0 to 1.
    loss: f64,
}

/// Both directions of a participant's network.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Network {
    up: Impairment,
    down: Impairment,
}

impl Network {
    pub(super) fn apply(self, netem: &Netem) {
        netem.impair(End::Caller, self.up);
        netem.impair(End::Callee, self.down);
    }
}

impl Impair {
    pub(super) fn network(self) -> Result<Network, String> {
        Ok(Network { up: self.up.impairment("up")?, down: self.down.impairment("down")? })
    }
}

impl Direction {
    fn impairment(self, name: &str) -> Result<Impairment, String> {
        let Self { delay_ms, loss } = self;
        if delay_ms > MAX_DELAY_MS {
            return Err(format!("`{name}.delay_ms` is {delay_ms}; write 0 to {MAX_DELAY_MS}"));
        }
        let share = Share::new(loss).ok_or_else(|| format!("`{name}.loss` is {loss}; write 0 to 1"))?;
        Ok(Impairment { delay: Duration::from_millis(delay_ms), loss: share, ..Impairment::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Result<Network, String> {
        serde_json::from_str::<Impair>(text).map_err(|error| error.to_string())?.network()
    }

    #[test]
    fn both_directions_are_read() {
        let body =
            r#"{"participant":"ana","up":{"delay_ms":120,"loss":0.25},"down":{"delay_ms":0,"loss":0}}"#;
        let up = Impairment {
            delay: Duration::from_millis(120),
            loss: Share::new(0.25).unwrap(),
            ..Impairment::default()
        };
        assert_eq!(network(body), Ok(Network { up, down: Impairment::default() }));
    }

    #[test]
    fn what_is_wrong_is_named_with_what_to_write() {
        let body = |participant: &str, up: &str| {
            format!(r#"{{"participant":"{participant}","up":{up},"down":{{"delay_ms":0,"loss":0}}}}"#)
        };
        for (body, expected) in [
            (body("ana", r#"{"delay_ms":2001,"loss":0}"#), "`up.delay_ms` is 2001; write 0 to 2000"),
            (body("ana", r#"{"delay_ms":0,"loss":1.5}"#), "`up.loss` is 1.5; write 0 to 1"),
            (body("eve", r#"{"delay_ms":0,"loss":0}"#), "unknown variant `eve`, expected `ana` or `ben`"),
            (body("ana", r#"{"delay_ms":0}"#), "missing field `loss`"),
            (body("ana", r#"{"delay_ms":0,"loss":0,"rate":1}"#), "unknown field `rate`"),
        ] {
            let error = network(&body).unwrap_err();
            assert!(error.starts_with(expected), "{body}: {error}");
        }
    }
}

//! The network path between a region's clients and its servers.
//!
//! Invariant: loss stays between 0 and 1.

use callsight_frame::subject::Region;

/// The quality of a network path.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Path {
    pub(super) rtt_ms: f64,
    /// Variation of a packet's transit time, in milliseconds.
    pub(super) jitter_ms: f64,
    /// Share of lost packets, 0 to 1.
    pub(super) loss: f64,
}

impl Path {
    /// Returns a region's healthy path. The first part of the name decides: `us-east` is like `us`.
    pub(super) fn usual(region: &Region) -> Self {
        let (rtt_ms, jitter_ms) = match region.as_str().split('-').next() {
            Some("us") => (35.0, 4.0),
            Some("eu") => (30.0, 3.0),
            Some("apac" | "ap") => (60.0, 6.0),
            Some("sa") => (85.0, 9.0),
            Some("af" | "me") => (95.0, 10.0),
            _ => (45.0, 5.0),
        };
        Self { rtt_ms, jitter_ms, loss: 0.001 }
    }

    /// Returns the whole path from a speaker through the servers to a listener on `self`.
    pub(super) fn after(self, speaker: Path) -> Self {
        Self {
            rtt_ms: self.rtt_ms + speaker.rtt_ms,
            jitter_ms: self.jitter_ms.hypot(speaker.jitter_ms),
            // Servers repair half of the uplink's loss by retransmission.
            loss: (self.loss + speaker.loss / 2.0).min(1.0),
        }
    }
}

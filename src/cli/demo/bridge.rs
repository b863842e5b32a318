//! The bridge between the demo's regions, which can be cut.
//!
//! Invariant: the links stay open as long as the bridge exists, cut or not.

use std::time::Duration;

use async_nats::jetstream::Context;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::timeout;

use super::link::RegionLink;
use crate::topology::{mirror_stream_name, stream_name};
use callsight_frame::subject::Region;

/// Timeout of a request for a stream's last sequence.
const SEQUENCE_TIMEOUT: Duration = Duration::from_millis(500);

/// The links between the regions, and the connections that see what a cut does.
pub(super) struct Bridge {
    pub(super) _links: Vec<RegionLink>,
    pub(super) cut: watch::Sender<bool>,
    /// As the operators of the hub and of the region beyond the bridge.
    pub(super) operators: Vec<Context>,
    /// The region beyond the bridge.
    pub(super) region: Region,
}

impl Bridge {
    /// Cuts or restores the link to the region beyond the hub.
    pub(super) fn set_cut(&self, cut: bool) {
        self.cut.send_replace(cut);
    }

    pub(super) fn is_cut(&self) -> bool {
        *self.cut.borrow()
    }

    /// Returns the number of frames by which the mirror is behind its stream; `None` while one of
    /// them does not answer.
    pub(super) async fn behind(&self) -> Option<u64> {
        let [hub, beyond] = &self.operators[..] else { return None };
        let (origin, mirror) = (stream_name(&self.region), mirror_stream_name(&self.region));
        let (origin, mirror) = tokio::join!(last_sequence(beyond, &origin), last_sequence(hub, &mirror));
        Some(origin?.saturating_sub(mirror?))
    }

    /// Closes the connections. The links stay open.
    pub(super) fn disconnect(&mut self) {
        self.operators.clear();
    }
}

async fn last_sequence(context: &Context, stream: &str) -> Option<u64> {
    let question = json!({});
    let asking = context.request::<_, _, serde_json::Value>(format!("STREAM.INFO.{stream}"), &question);
    timeout(SEQUENCE_TIMEOUT, asking).await.ok()?.ok()?["state"]["last_seq"].as_u64()
}

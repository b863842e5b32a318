//! A frame's way to the stream.
//!
//! A client that gets a 204 drops its frame, so that answer waits for the stream's ack. The wait
//! has a deadline; a frame that misses it may still be stored, and its id makes sending it again
//! safe.
//!
//! Invariant: a 204 means that the stream has the frame.

use std::time::{Duration, Instant};

use bytes::Buf;
use callsight_frame::{MeetingId, SessionId};
use callsight_publish::{PublishError, Publisher, Settlement};
use futures_util::Stream;
use tokio::time::timeout;
use warp::http::HeaderMap;

use super::door::{Admitted, Door};
use super::refusal::{Refusal, Unavailable};
use super::series::Series;
use crate::http_server::PeerAddress;

/// The door and what is behind it, shared by all requests.
pub(super) struct Intake {
    pub(super) door: Door,
    pub(super) publisher: Publisher,
    pub(super) series: Series,
    pub(super) ack_timeout: Duration,
    /// How many frames may wait to be sent.
    pub(super) buffer: usize,
}

impl Intake {
    /// Takes a frame to the stream. Returns whether the stream had it already.
    pub(super) async fn post<B: Buf, E>(
        &self,
        peer: Option<PeerAddress>,
        headers: &HeaderMap,
        body: impl Stream<Item = Result<B, E>>,
    ) -> Result<bool, Refusal> {
        let Admitted { meeting_id, session_id, seq, message } = self.door.admit(peer, headers, body).await?;
        let began = Instant::now();
        let (meeting, session) = (MeetingId::new(&meeting_id)?, SessionId::new(&session_id)?);
        let tracked = self.publisher.publish_tracked(meeting, session, seq, message);
        let tracked = tracked.map_err(|error| {
            Refusal::Unavailable(match error {
                PublishError::Overflow { .. } => Unavailable::BufferFull,
                _ => Unavailable::Stopping,
            })
        })?;
        let settled = timeout(self.ack_timeout, tracked).await;
        match settled.map_err(|_| Refusal::Unavailable(Unavailable::AckLate))? {
            settlement @ (Settlement::Stored | Settlement::Duplicate) => {
                self.series.acknowledged_after(began.elapsed());
                Ok(settlement == Settlement::Duplicate)
            }
            Settlement::Rejected => Err(Refusal::Unavailable(Unavailable::StreamRejected)),
            Settlement::Lost => Err(Refusal::Unavailable(Unavailable::Stopping)),
        }
    }

    /// Brings the gauges up to date.
    pub(super) fn show(&self) {
        self.series.show_in_flight();
        #[expect(clippy::cast_precision_loss, reason = "both are far below 2^53")]
        let waiting = self.publisher.stats().buffered as f64 / self.buffer as f64;
        self.series.buffer.set(waiting.max(self.door.held.ratio()));
    }
}

//! The publisher that a relay embeds: health frames into the region's JetStream stream.
//!
//! A relay forwards media, and health frames must never slow that down. But a stream is not always
//! available: it answers "no responders" for a while after a restart, connections break, acks get
//! lost. Waiting for each ack stalls the relay, publishing without acks loses frames silently, and
//! a task or a timer per frame costs more than the frame.
//!
//! So [`Publisher::publish`] only encodes the frame and puts it into a bounded buffer. When the
//! buffer is full it returns [`PublishError::Overflow`], and the caller, who still has the frame,
//! decides. One background task sends from the buffer with at most
//! [`window`](PublisherConfig::window) unacknowledged frames, and retries what the stream did not
//! store, oldest first, after a bounded wait with jitter.
//!
//! Each frame's subject ends with the partition of its meeting, so one shard of the exporter reads
//! all frames of a meeting, whichever relays publish them.
//!
//! Retries are safe: each frame has the header `Nats-Msg-Id: {session_id}:{seq}`, and the stream
//! drops a duplicate that arrives within its duplicate window of 2 minutes. A later duplicate is
//! stored twice and ignored by the exporter, which tracks the last `seq` of every session.
//!
//! All acks arrive in one inbox, with the frame's number in the reply subject. async-nats's
//! `jetstream::Context` would allocate a future, a timer and a channel for each ack and limit them
//! a second time.
//!
//! A service that answers for each frame, such as one that clients post frames to, tracks it:
//! [`Publisher::publish_tracked`] returns a future of what becomes of the frame.
//!
//! Invariant: every accepted frame is either acknowledged by the stream or counted as failed, and
//! no call but [`Publisher::room`], [`Publisher::flush`] and [`Publisher::shutdown`] waits.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use callsight_publish::frame::{Frame, MeetingId, PeerId, Seq, SessionId};
//! use callsight_publish::{PublishError, Publisher, PublisherConfig};
//!
//! # async fn relay() -> Result<(), Box<dyn std::error::Error>> {
//! let client = async_nats::connect("nats://127.0.0.1:4222").await?;
//! let config = PublisherConfig::new("us".parse()?, "relay", "relay-1");
//! let publisher = Publisher::start(client, config).await?;
//!
//! let (meeting, session) = (MeetingId::new("standup")?, SessionId::new("0b6e5f1c")?);
//! let frame = Frame {
//!     audio_enabled: Some(true),
//!     ..Frame::new(meeting, session, PeerId::new("ana")?, Seq::FIRST, 1_760_000_000_000)
//! };
//! match publisher.publish(&frame) {
//!     Ok(()) => {}
//!     // Counters are cumulative, so the session's next frame includes this one's.
//!     Err(PublishError::Overflow { .. }) => {}
//!     Err(error) => return Err(error.into()),
//! }
//!
//! let stats = publisher.shutdown(Duration::from_secs(10)).await?;
//! assert_eq!(stats.acknowledged, 1);
//! # Ok(())
//! # }
//! ```

#![warn(missing_docs)]

mod answer;
mod deliver;
mod window;

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_nats::Subject;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

pub use callsight_frame as frame;
use callsight_frame::subject::{MeetingPartition, Region, publish_subject};
use callsight_frame::{Form, Frame, MeetingId, Rejection, Seq, SessionId};
use deliver::Delivery;
use window::Outgoing;

/// Maximum window. async-nats keeps 65,536 messages per subscription by default and drops more; all
/// acks of a window, and of the one before it, fit into half of that.
pub const MAX_WINDOW: usize = 16_384;

/// Settings of a publisher: where it publishes to, and how much it holds.
#[derive(Clone, Debug)]
pub struct PublisherConfig {
    /// Region of the relay, and so of the stream.
    pub region: Region,
    /// Kind of service, such as `relay` or `sfu`: 1 to 64 of `A-Z a-z 0-9 _ -`.
    pub service_type: String,
    /// Name of the relay, in the same characters.
    pub server_id: String,
    /// Maximum number of frames that are sent and not yet acknowledged; 1 to [`MAX_WINDOW`].
    pub window: usize,
    /// Maximum number of frames that wait to be sent; at least 1. At 1 KB per frame the default
    /// holds 8 MB.
    pub buffer: usize,
    /// Time that an ack may take before the frame is sent again.
    pub ack_timeout: Duration,
    /// First wait before a retry; it doubles with each consecutive failure.
    pub retry_first: Duration,
    /// Maximum wait before a retry.
    pub retry_longest: Duration,
}

impl PublisherConfig {
    /// Creates the default settings: a window of 1,024, a buffer of 8,192, 5 s for an ack, retries
    /// after 100 ms to 2 s.
    #[must_use]
    pub fn new(region: Region, service_type: impl Into<String>, server_id: impl Into<String>) -> Self {
        Self {
            region,
            service_type: service_type.into(),
            server_id: server_id.into(),
            window: 1024,
            buffer: 8192,
            ack_timeout: Duration::from_secs(5),
            retry_first: Duration::from_millis(100),
            retry_longest: Duration::from_secs(2),
        }
    }

    fn check(&self) -> Result<(), PublishError> {
        let problem = if !(1..=MAX_WINDOW).contains(&self.window) {
            format!("window is {}; write 1 to {MAX_WINDOW}", self.window)
        } else if self.buffer == 0 {
            "buffer is 0; it must hold at least 1 frame".to_owned()
        } else if self.ack_timeout.is_zero() {
            "ack_timeout is 0; an ack takes at least a round trip".to_owned()
        } else if self.retry_first.is_zero() || self.retry_longest < self.retry_first {
            "retry_first must be more than 0, and retry_longest at least as long".to_owned()
        } else {
            return Ok(());
        };
        Err(PublishError::Config(problem))
    }
}

/// Why a publisher does not start, accept a frame or flush.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The service type or the server's name is not a token of a subject.
    #[error("cannot publish under this name: {0}")]
    Subject(#[source] Rejection),
    /// A value of the configuration is out of its range.
    #[error("cannot publish with this configuration: {0}")]
    Config(String),
    /// The subscription for the acks failed.
    #[error(
        "cannot subscribe for acks; check that the connection is open and that the user may subscribe to its inbox"
    )]
    Subscribe(#[source] async_nats::SubscribeError),
    /// The buffer is full and the frame is not accepted: the stream is slower than the publisher,
    /// or unavailable.
    #[error("the buffer of {buffer} frames is full; try again later, or drop this frame")]
    Overflow {
        /// Size of the buffer, in frames.
        buffer: usize,
    },
    /// The frame is too long, or has a value out of its range.
    #[error("exporters would reject the frame: {0}")]
    Invalid(#[source] Rejection),
    /// A flush timed out before everything was acknowledged.
    #[error(
        "{unsettled} frames were not acknowledged in time; check that a stream takes the subject \
         (`callsight streams apply`)"
    )]
    FlushTimeout {
        /// Accepted frames that are neither acknowledged nor failed.
        unsettled: u64,
    },
    /// The client was closed; what was not acknowledged is counted as failed.
    #[error("the NATS client is closed; connect again and start a new publisher")]
    Closed,
}

/// Counts of a publisher. All but the last two only grow.
///
/// `accepted = acknowledged + failed + in_flight + buffered` while nothing is being moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PublishStats {
    /// Frames put into the buffer.
    pub accepted: u64,
    /// Frames that the stream stores.
    pub acknowledged: u64,
    /// Acknowledged frames that the stream had already stored, such as after a lost ack.
    pub duplicates: u64,
    /// Retries: each sending of a frame after its first.
    pub retried: u64,
    /// Frames not accepted because the buffer was full.
    pub overflowed: u64,
    /// Frames that the stream rejected permanently, or that were lost when the client was closed.
    pub failed: u64,
    /// Frames that are sent, or wait for a retry.
    pub in_flight: u64,
    /// Frames that wait to be sent for the first time.
    pub buffered: u64,
}

#[derive(Debug, Default)]
struct Counters {
    accepted: AtomicU64,
    acknowledged: AtomicU64,
    duplicates: AtomicU64,
    retried: AtomicU64,
    overflowed: AtomicU64,
    failed: AtomicU64,
    in_flight: AtomicU64,
    setback: Mutex<Option<&'static str>>,
}

impl Counters {
    fn set_back(&self, why: Option<&'static str>) {
        *self.setback.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// The stream stores it.
    Stored,
    /// The stream had stored it already, such as when its sender retries after a lost answer.
    Duplicate,
    /// The stream rejected it permanently; the log says why.
    Rejected,
    /// The publisher was dropped, or its client was closed, before the stream answered: the stream
    /// may have it or not.
    Lost,
}

/// A future of what becomes of an accepted frame. Dropping it stops nothing.
#[derive(Debug)]
pub struct Tracked(oneshot::Receiver<Settlement>);

impl Future for Tracked {
    type Output = Settlement;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Settlement> {
        Poll::Ready(ready!(Pin::new(&mut self.0).poll(context)).unwrap_or(Settlement::Lost))
    }
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

/// Publishes health frames from one server to its region's stream. Share it in an `Arc`.
///
/// Dropping it loses what is buffered or unacknowledged: call [`Publisher::shutdown`].
#[derive(Debug)]
pub struct Publisher {
    /// Of each partition of meetings, by its number.
    subjects: Vec<Subject>,
    frames: mpsc::Sender<Outgoing>,
    counters: Arc<Counters>,
    /// Frames with numbers below this are acknowledged or failed. Frames are numbered as they are
    /// accepted.
    settled: watch::Receiver<u64>,
    task: JoinHandle<()>,
}

impl Publisher {
    /// Starts a publisher on a connection, which may be shared and need not be established yet.
    ///
    /// The user needs permission to publish to
    /// `health.diagnostics.{region}.{service_type}.{server_id}.*` and to subscribe under its inbox
    /// prefix.
    ///
    /// # Errors
    /// [`PublishError::Subject`] or [`PublishError::Config`] for an invalid name or value,
    /// [`PublishError::Subscribe`] when the client is closed.
    pub async fn start(
        client: async_nats::Client,
        config: PublisherConfig,
    ) -> Result<Publisher, PublishError> {
        config.check()?;
        let subject_of = |partition| {
            publish_subject(&config.region, &config.service_type, &config.server_id, partition)
                .map_err(PublishError::Subject)
        };
        let subject = subject_of(None)?;
        let subjects =
            MeetingPartition::all().map(|partition| subject_of(Some(partition)).map(Subject::from));
        let subjects = subjects.collect::<Result<_, _>>()?;
        let (frames, buffered) = mpsc::channel(config.buffer);
        let (settled_sender, settled) = watch::channel(0);
        let counters = Arc::new(Counters::default());
        let delivery =
            Delivery::new(client, subject, config, buffered, Arc::clone(&counters), settled_sender).await?;
        let task = tokio::spawn(delivery.run());
        Ok(Publisher { subjects, frames, counters, settled, task })
    }

    /// Accepts a frame, to be sent in the compact form, without waiting.
    ///
    /// # Errors
    /// [`PublishError::Overflow`] when the buffer is full: the frame is not accepted and counted as
    /// overflowed. [`PublishError::Invalid`] for a frame that exporters would reject.
    /// [`PublishError::Closed`] when the client is closed.
    pub fn publish(&self, frame: &Frame<'_>) -> Result<(), PublishError> {
        let room = self.reserve()?;
        let payload = frame.encode(Form::Compact);
        Frame::decode(&payload).map_err(PublishError::Invalid)?;
        self.accept(room, frame.meeting_id, frame.session_id, frame.seq, payload.into(), None);
        Ok(())
    }

    /// Accepts an encoded frame as it came from a client, without waiting and without decoding it.
    ///
    /// # Errors
    /// As [`Publisher::publish`], except that the frame is not checked.
    pub fn publish_encoded(
        &self,
        meeting_id: MeetingId<'_>,
        session_id: SessionId<'_>,
        seq: Seq,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        let room = self.reserve()?;
        self.accept(room, meeting_id, session_id, seq, payload, None);
        Ok(())
    }

    /// Accepts an encoded frame as [`Publisher::publish_encoded`] does, and returns a future of
    /// what becomes of it.
    ///
    /// # Errors
    /// As [`Publisher::publish_encoded`].
    pub fn publish_tracked(
        &self,
        meeting_id: MeetingId<'_>,
        session_id: SessionId<'_>,
        seq: Seq,
        payload: Bytes,
    ) -> Result<Tracked, PublishError> {
        let room = self.reserve()?;
        let (tracker, tracked) = oneshot::channel();
        self.accept(room, meeting_id, session_id, seq, payload, Some(tracker));
        Ok(Tracked(tracked))
    }

    fn reserve(&self) -> Result<mpsc::Permit<'_, Outgoing>, PublishError> {
        self.frames.try_reserve().map_err(|error| match error {
            mpsc::error::TrySendError::Full(()) => {
                add(&self.counters.overflowed, 1);
                PublishError::Overflow { buffer: self.frames.max_capacity() }
            }
            mpsc::error::TrySendError::Closed(()) => PublishError::Closed,
        })
    }

    fn accept(
        &self,
        room: mpsc::Permit<'_, Outgoing>,
        meeting_id: MeetingId<'_>,
        session_id: SessionId<'_>,
        seq: Seq,
        payload: Bytes,
        tracker: Option<oneshot::Sender<Settlement>>,
    ) {
        let partition = MeetingPartition::of(meeting_id.as_str());
        let subject = self.subjects[partition.number() as usize].clone();
        let message_id = format!("{session_id}:{}", seq.get());
        // Counted first: a flush waits for as many frames as are counted, so it never waits for too
        // few.
        add(&self.counters.accepted, 1);
        room.send(Outgoing { subject, message_id, payload, tracker });
    }

    /// Waits until the buffer has room for a frame, for callers that prefer waiting to dropping.
    /// With several callers, another one may use the room first.
    ///
    /// # Errors
    /// [`PublishError::Closed`] when the client is closed.
    pub async fn room(&self) -> Result<(), PublishError> {
        self.frames.reserve().await.map(drop).map_err(|_| PublishError::Closed)
    }

    /// Returns why the stream does not store frames, as of the last one that it did not; `None`
    /// once it has stored one again. Whether the client is connected, it knows itself.
    #[must_use]
    pub fn setback(&self) -> Option<&'static str> {
        *self.counters.setback.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the counts so far.
    #[must_use]
    pub fn stats(&self) -> PublishStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &*self.counters;
        PublishStats {
            acknowledged: get(&counters.acknowledged),
            duplicates: get(&counters.duplicates),
            retried: get(&counters.retried),
            overflowed: get(&counters.overflowed),
            failed: get(&counters.failed),
            in_flight: get(&counters.in_flight),
            buffered: (self.frames.max_capacity() - self.frames.capacity()) as u64,
            accepted: get(&counters.accepted),
        }
    }

    /// Waits until every frame accepted so far is acknowledged or failed.
    ///
    /// # Errors
    /// [`PublishError::FlushTimeout`] when that takes longer than `timeout`; the publisher
    /// continues to retry. [`PublishError::Closed`] when the client is closed before.
    pub async fn flush(&self, timeout: Duration) -> Result<PublishStats, PublishError> {
        let target = self.counters.accepted.load(Ordering::Relaxed);
        let mut settled = self.settled.clone();
        let settled = tokio::time::timeout(timeout, settled.wait_for(|settled| *settled >= target)).await;
        match settled {
            Ok(Ok(_)) => Ok(self.stats()),
            Ok(Err(_)) => Err(PublishError::Closed),
            Err(_) => {
                let stats = self.stats();
                let done = stats.acknowledged + stats.failed;
                Err(PublishError::FlushTimeout { unsettled: stats.accepted.saturating_sub(done) })
            }
        }
    }

    /// Flushes and stops. What is not acknowledged in time is lost.
    ///
    /// # Errors
    /// As [`Publisher::flush`].
    pub async fn shutdown(self, timeout: Duration) -> Result<PublishStats, PublishError> {
        self.flush(timeout).await
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_out_of_range_are_refused_by_name() {
        let good = PublisherConfig::new("us".parse().unwrap(), "relay", "r1");
        assert!(good.check().is_ok());
        let bad = [
            ("window", PublisherConfig { window: 0, ..good.clone() }),
            ("window", PublisherConfig { window: MAX_WINDOW + 1, ..good.clone() }),
            ("buffer", PublisherConfig { buffer: 0, ..good.clone() }),
            ("ack_timeout", PublisherConfig { ack_timeout: Duration::ZERO, ..good.clone() }),
            ("retry_longest", PublisherConfig { retry_longest: Duration::from_millis(1), ..good }),
        ];
        for (name, config) in bad {
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}

/// Runs the README's examples with the tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

//! Writes dead letters, before the frames that they are about are acknowledged.
//!
//! The dead-letter stream may be absent, full or slow, and rejected frames may arrive by the
//! thousand. Neither may stop the consumer. So the letters of a whole chunk are sent at once and
//! waited for together, for a bounded time.
//!
//! Mostly, what keeps a letter from being stored passes: the connection broke, or the server has
//! just started and does not have its streams yet. So the letter waits and is sent again while the
//! fold goes on, and nothing is acknowledged until it is stored: if the exporter dies meanwhile,
//! its successor gets the frame. A failure that lasts must not hold acknowledgements for ever. So
//! from then on all letters that wait, and those that come, are lost at once. The last one goes on
//! trying whether the stream is back: without it, a stream that nobody has letters for would seem
//! to fail for ever. It stays counted as lost.
//!
//! Invariant: each rejected frame counts as one letter, stored or lost, before it is acknowledged.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::Context;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::timeout;

use crate::dead_letter;
use crate::log::RateLimit;
use crate::nats::Refusals;
use crate::topology::{dead_letter_stream_name, stream_name};
use callsight_fold::StreamTime;
use callsight_fold::series::aggregates::RegionSeries;
use callsight_frame::Rejection;
use callsight_frame::subject::Region;

/// How long the letters of a chunk may take to be stored.
const WITHIN: Duration = Duration::from_secs(2);

/// How long the dead-letter stream may take no letters before those that wait are lost.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often one letter tries whether the stream is back, and how long that may take: nothing is
/// folded meanwhile.
const AGAIN: Duration = Duration::from_millis(1500);
const TRY_WITHIN: Duration = Duration::from_millis(500);

/// The most letters that wait, and the most bytes of them.
const MOST_WAITING: usize = 8192;
const MOST_BYTES: usize = 8 << 20;

pub(super) struct Rejected {
    pub(super) subject: async_nats::Subject,
    pub(super) payload: Bytes,
    pub(super) sequence: u64,
    pub(super) received: StreamTime,
    pub(super) rejection: Rejection,
}

/// Why letters are not stored.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    #[error("it does not exist; make it with `callsight serve --create --region {0}`")]
    NoStream(Region),
    #[error("{0}")]
    Refused(PublishError),
    #[error("it does not answer")]
    Unanswered,
    #[error("{0}; correct the user's permissions, see docs/security.md")]
    Denied(String),
}

/// A letter that waits to be stored.
struct Waiting {
    letter: Rejected,
    /// Whether it was counted as lost, and only tries whether the stream is back.
    lost: bool,
}

#[derive(Clone, Copy)]
struct Failing {
    /// For how long, as far as it was tried: a process that was stopped meanwhile tried nothing.
    lasted: Duration,
    tried: Instant,
}

/// Writes the dead letters of one region.
pub(super) struct DeadLetterWriter {
    context: Context,
    refusals: Refusals,
    region: Region,
    own: Arc<RegionSeries>,
    /// In the order of their frames.
    waiting: Vec<Waiting>,
    /// Present while the stream takes no letters.
    failing: Option<Failing>,
    error: Option<WriteError>,
    losses: RateLimit,
}

impl DeadLetterWriter {
    pub(super) fn new(context: Context, refusals: Refusals, region: Region, own: Arc<RegionSeries>) -> Self {
        Self {
            context,
            refusals,
            region,
            own,
            waiting: Vec::new(),
            failing: None,
            error: None,
            losses: RateLimit::new(Duration::from_secs(10)),
        }
    }

    /// Why letters are not stored, if they are not, as text for `/readyz`.
    pub(super) fn warning(&self) -> Option<String> {
        let error = self.error.as_ref()?;
        Some(format!(
            "dead-letter stream {} takes no letters: {error}",
            dead_letter_stream_name(&self.region)
        ))
    }

    /// Whether letters wait whose frames must not be acknowledged yet.
    pub(super) fn holds_acknowledgement(&self) -> bool {
        self.first_unsettled().is_some()
    }

    /// The stream sequence of the first such frame.
    pub(super) fn first_unsettled(&self) -> Option<u64> {
        self.waiting.iter().find(|waiting| !waiting.lost).map(|waiting| waiting.letter.sequence)
    }

    /// Sends letters and those that wait, and returns when they are stored or can't be stored now.
    pub(super) async fn write(&mut self, rejected: Vec<Rejected>) {
        self.waiting.extend(rejected.into_iter().map(|letter| Waiting { letter, lost: false }));
        if self.waiting.is_empty() {
            return;
        }
        match self.failing {
            Some(failing) if failing.tried.elapsed() < AGAIN => {}
            // One tells whether it is worth while to send the others.
            Some(_) => {
                self.send_first(1, TRY_WITHIN).await;
                if self.failing.is_none() {
                    self.send_first(self.waiting.len(), WITHIN).await;
                }
            }
            None => self.send_first(self.waiting.len(), WITHIN).await,
        }
        self.give_up();
    }

    /// Sends the first of those that wait, and keeps what may be stored later.
    async fn send_first(&mut self, number: usize, within: Duration) {
        let tried = Instant::now();
        let rest = self.waiting.split_off(number);
        let letters = std::mem::replace(&mut self.waiting, rest);
        let results = join_all(letters.iter().map(|one| timeout(within, self.send(&one.letter)))).await;
        let (mut stored, mut too_long) = (0, 0);
        let (mut kept, mut failed) = (Vec::new(), None);
        for (one, result) in letters.into_iter().zip(results) {
            let counted = u64::from(!one.lost);
            failed = Some(match result {
                Ok(Ok(_)) => {
                    stored += counted;
                    continue;
                }
                Ok(Err(error)) => match error.kind() {
                    // Headers make a letter longer than its frame, which may be too long for the
                    // server.
                    PublishErrorKind::MaxPayloadExceeded => {
                        too_long += counted;
                        continue;
                    }
                    PublishErrorKind::StreamNotFound => WriteError::NoStream(self.region.clone()),
                    PublishErrorKind::TimedOut => self.unanswered(tried),
                    _ => WriteError::Refused(error),
                },
                Err(_) => self.unanswered(tried),
            });
            kept.push(one);
        }
        kept.append(&mut self.waiting);
        self.waiting = kept;
        self.own.dead_letters.increment(stored);
        let now = Instant::now();
        self.failing = failed.is_some().then(|| Failing {
            lasted: (now - tried).min(within)
                + self.failing.map_or(Duration::ZERO, |before| {
                    before.lasted + tried.saturating_duration_since(before.tried).min(2 * AGAIN)
                }),
            tried: now,
        });
        self.error = failed;
        if too_long > 0 {
            self.lose(too_long);
        }
    }

    /// Why there was no answer since a moment.
    fn unanswered(&self, since: Instant) -> WriteError {
        let denied = self.refusals.about(self.region.as_str(), since);
        denied.map_or(WriteError::Unanswered, WriteError::Denied)
    }

    async fn send(&self, letter: &Rejected) -> Result<PublishAck, PublishError> {
        let stream = stream_name(&self.region);
        let subject = dead_letter::subject(&self.region, &letter.rejection);
        let headers = dead_letter::headers(
            &stream,
            &letter.subject,
            letter.sequence,
            letter.received,
            &letter.rejection,
        );
        let message = PublishMessage::build().headers(headers).payload(letter.payload.clone());
        self.context.send_publish(subject, message).await?.await
    }

    /// Gives up all letters that wait if the failure lasts, and the oldest if too many wait.
    fn give_up(&mut self) {
        let lasts = self.failing.is_some_and(|failing| failing.lasted >= PATIENCE);
        let mut bytes = 0;
        let may_wait = |waiting: &&Waiting| {
            bytes += waiting.letter.payload.len();
            !lasts && bytes <= MOST_BYTES
        };
        let kept = self.waiting.iter().rev().take(MOST_WAITING).take_while(may_wait).count();
        self.lose_first(self.waiting.len() - kept);
    }

    /// Loses the first of those that wait. The last one of them is kept, to try again.
    fn lose_first(&mut self, number: usize) {
        let Some(last) = number.checked_sub(1) else { return };
        let lost = self.waiting.iter().take(number).filter(|waiting| !waiting.lost).count();
        self.waiting.drain(..last);
        if let Some(waiting) = self.waiting.first_mut() {
            waiting.lost = true;
        }
        if lost > 0 {
            self.lose(lost as u64);
        }
    }

    fn lose(&mut self, letters: u64) {
        self.own.dead_letters_lost.increment(letters);
        if let Some(suppressed) = self.losses.check(Instant::now()) {
            let error = self.error.as_ref().map(tracing::field::display);
            tracing::error!(region = %self.region, error, lost = letters, suppressed, "dead letters lost");
        }
    }
}

#[cfg(test)]
mod tests {
    use callsight_fold::series::aggregates::{AggregateValue, Aggregates};
    use callsight_fold::series::catalogue::{DEAD_LETTERS, DEAD_LETTERS_LOST};
    use callsight_frame::Reason;
    use callsight_testkit::nats::Nats;
    use callsight_testkit::wait::{PATIENCE, eventually_async, when};

    use super::*;
    use crate::topology::ensure_streams;

    #[tokio::test]
    async fn so_many_letters_wait_for_their_stream_and_the_oldest_are_lost() {
        const LETTERS: u64 = 10_000;
        const LOST: u64 = LETTERS - MOST_WAITING as u64;
        let nats = Nats::start();
        let context = nats.jetstream().await;
        let region: Region = "us".parse().unwrap();
        let aggregates = Aggregates::new();
        let own = Arc::new(RegionSeries::register(&**aggregates.recorder(), region.as_str()));
        let counted = || {
            [DEAD_LETTERS.name, DEAD_LETTERS_LOST.name].map(|name| {
                let series = aggregates.series().into_iter().find(|series| series.metric().name == name);
                match series.unwrap().value() {
                    AggregateValue::Counter(count) => count,
                    _ => panic!("{name} is no counter"),
                }
            })
        };
        let mut writer = DeadLetterWriter::new(context.clone(), Refusals::default(), region.clone(), own);

        let letters = (1..=LETTERS).map(|sequence| Rejected {
            subject: "health.diagnostics.us.relay.relay-1".into(),
            payload: Bytes::from_static(b"\xc1 no frame"),
            sequence,
            received: StreamTime::default(),
            rejection: Rejection::new(Reason::Malformed, "no frame"),
        });
        writer.write(letters.collect()).await;
        assert!(writer.warning().is_some());
        assert!(writer.holds_acknowledgement());
        assert_eq!(writer.waiting.iter().filter(|waiting| !waiting.lost).count(), MOST_WAITING);
        assert_eq!(counted(), [0, LOST]);

        ensure_streams(&context, &region, 1).await.unwrap();
        eventually_async(PATIENCE, "all that waits to be stored", async || {
            writer.write(Vec::new()).await;
            when(writer.waiting.len(), |waiting| *waiting == 0)
        })
        .await;
        assert_eq!(writer.warning(), None);
        assert_eq!(counted(), [MOST_WAITING as u64, LOST]);
        // The last of those that were lost is the one that tried whether the stream is back.
        let stream = context.get_stream(dead_letter_stream_name(&region)).await.unwrap();
        assert_eq!(stream.cached_info().state.messages, 1 + MOST_WAITING as u64);
        let first = stream.get_raw_message(1).await.unwrap();
        assert_eq!(dead_letter::DeadLetter::read(Some(&first.headers)).sequence, LOST.to_string());
    }
}

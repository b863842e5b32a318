//! Finds out whether a stream was set back, and what it kept.
//!
//! A disk that lost its last seconds with the power, or one restored from a backup, leaves a stream
//! that ends before what was folded. It assigns the sequences after its end again, and relays may
//! have used them before the exporter is attached. The durable may be past them: its position may
//! have survived, or another server of the cluster had it. Its deliveries would begin after frames
//! that nobody folded, and sequences alone do not show that.
//!
//! Times do: a frame that was stored after all that were received is new, whatever its sequence. So
//! whenever the exporter attaches again, it asks for the sequence of the first message that was
//! stored later. If that is a sequence that was received before, the stream was set back.
//!
//! A server's clock that was set back at some time looks the same from a distance. So a sequence
//! from before this process began to read counts only if the stream is shorter than what was
//! received.
//!
//! Invariant: what was stored after the set-back is not passed over, and nothing from before it is
//! folded again.

use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::Info;
use time::OffsetDateTime;
use tokio::time::sleep;

use super::attach::AttachError;
use super::server_state::StreamState;
use super::source::Source;
use crate::stream_reader::{ephemeral, start_at};
use callsight_fold::StreamTime;

/// How long the server keeps the consumer that answers the question.
const INACTIVE: Duration = Duration::from_secs(5);

/// How often the question is repeated, and the pause before that.
const TRIES: u32 = 2;
const PAUSE: Duration = Duration::from_millis(500);

/// How far this process folded a stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Position {
    /// Tells apart streams of one name: the sequence of another one begins again.
    pub(super) stream_created: OffsetDateTime,
    /// The highest sequence that needs no folding any more.
    pub(super) taken: u64,
    /// The sequence after which this process began to read.
    pub(super) began: u64,
    /// The latest time at which a message that was taken was stored, by the server's clock.
    pub(super) latest: Option<StreamTime>,
    /// A sequence that was delivered with a later message than before.
    pub(super) reassigned: Option<u64>,
}

/// The last sequence that a stream kept when it was set back; `None` if it was not.
pub(super) async fn kept(
    context: &Context,
    source: &Source,
    state: &StreamState,
    folded: &Position,
) -> Result<Option<u64>, AttachError> {
    let Some(latest) = folded.latest else { return Ok(None) };
    let later = latest + Duration::from_nanos(1);
    let config = ephemeral("Callsight exporter, looking for its place", start_at(later), INACTIVE);
    let mut tries = 0;
    let kept = loop {
        match context.create_consumer_on_stream(config.clone(), &source.stream).await {
            // It was created for its position alone: nothing is delivered.
            Ok(consumer) if is_whole(consumer.cached_info(), state) => {
                let before = consumer.cached_info().delivered.stream_sequence;
                break judge(folded, state.state.last_seq, before, source.is_mirror());
            }
            Err(error) if state.state.last_seq < folded.taken => return Err(AttachError::unreachable(error)),
            answer if tries == TRIES => {
                // Consumers that exist can be read without a majority of all servers; creating one
                // takes it.
                let lags = "a server of the stream lags behind the others".to_owned();
                let (region, error) = (&source.region, answer.err().map_or(lags, |error| error.to_string()));
                tracing::warn!(%region, error, "cannot tell whether the stream was set back");
                return Ok(None);
            }
            _ => {
                tries += 1;
                sleep(PAUSE).await;
            }
        }
    };
    if let Some(kept) = kept {
        let (stream, region) = (&source.stream, &source.region);
        tracing::warn!(%region, stream, kept, received = folded.taken, "the stream was set back");
    }
    Ok(kept)
}

/// Whether the server that created the consumer has the stream up to its end: it may be one that
/// has just been restarted and lags behind, and knows of nothing later.
fn is_whole(consumer: &Info, state: &StreamState) -> bool {
    consumer.delivered.stream_sequence + consumer.num_pending >= state.state.last_seq
}

/// Judges by the end of the stream and the last sequence `before` what was stored later than
/// everything that was received. A mirror that is shorter fetches the same messages again.
fn judge(folded: &Position, last: u64, before: u64, is_mirror: bool) -> Option<u64> {
    let shorter = last < folded.taken;
    let is_received = before < folded.taken;
    let is_ours = before >= folded.began || shorter;
    let is_known = before < last || !is_mirror;
    if is_received && is_ours && is_known {
        return Some(before);
    }
    folded.reassigned.map(|sequence| sequence.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folded(taken: u64, began: u64) -> Position {
        let stream_created = OffsetDateTime::UNIX_EPOCH;
        Position { stream_created, taken, began, latest: Some(StreamTime::default()), reassigned: None }
    }

    #[test]
    fn a_stream_that_grew_was_not_set_back() {
        for is_mirror in [false, true] {
            assert_eq!(judge(&folded(100, 0), 100, 100, is_mirror), None);
            assert_eq!(judge(&folded(100, 0), 150, 100, is_mirror), None);
        }
    }

    #[test]
    fn later_messages_under_earlier_sequences_are_new_however_many_there_are() {
        for (last, before) in [(80, 80), (90, 80), (100, 80), (150, 80)] {
            assert_eq!(judge(&folded(100, 0), last, before, false), Some(80), "{last}");
        }
    }

    #[test]
    fn a_mirror_that_is_behind_fetches_what_it_had() {
        assert_eq!(judge(&folded(100, 0), 80, 80, true), None);
        assert_eq!(judge(&folded(100, 0), 150, 80, true), Some(80), "its origin was set back");
    }

    #[test]
    fn a_clock_that_was_set_back_before_the_start_is_no_reason_to_fold_again() {
        assert_eq!(judge(&folded(100, 90), 150, 40, false), None);
        assert_eq!(judge(&folded(100, 90), 45, 40, false), Some(40), "a backup from before the start");
        let seen = Position { reassigned: Some(95), ..folded(100, 90) };
        assert_eq!(judge(&seen, 150, 40, false), Some(94));
    }
}

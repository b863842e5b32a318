//! Taking over from another number of shards, without losing a frame and without counting one twice.
//!
//! When a deployment gets another number of shards, each new shard takes partitions over from several old ones, and
//! those did not stop at the same place of the stream. So a new durable begins where the one stopped that was
//! furthest behind, and the frames that were counted by those further ahead are passed over: partition by
//! partition it is known how far the stream was counted. They still tell how their sessions are, which is all
//! that a restart would take from them.

use async_nats::jetstream::{Context, ErrorCode};

use super::answer::{ConsumerState, consumer_state};
use super::attach::{AttachError, Wanted};
use crate::topology::{Shard, durable_name};
use callsight_frame::subject::Subject;

/// How far the shards before have counted the stream: each one's share, and a sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Handover {
    /// No shard stands for a deployment that was not sharded.
    floors: Vec<(Option<Shard>, u64)>,
}

impl Handover {
    /// Asks how far the shards before have come that had partitions of `wanted`. `last` is the last sequence of
    /// the stream, asked for before. Unless it is `begun`, all of them must be there and at rest.
    pub(super) async fn read(
        context: &Context,
        wanted: &Wanted,
        stream: &str,
        last: u64,
        begun: bool,
    ) -> Result<Self, AttachError> {
        let mut floors = Vec::new();
        let Some(before) = wanted.reader.shards_before else { return Ok(Self { floors }) };
        let shards: Vec<_> = if before == 1 {
            vec![None]
        } else {
            let shared = |shard: &Shard| wanted.reader.shard.is_none_or(|own| own.shares_with(*shard));
            Shard::all(before).filter(shared).map(Some).collect()
        };
        for shard in shards {
            let durable = durable_name(&wanted.reader.deployment, shard);
            match consumer_state(context, stream, &durable).await {
                Ok((state, _)) if !begun && state.num_waiting > 0 => {
                    return Err(AttachError::StillRead { durable });
                }
                Ok((state, _)) => floors.push((shard, floor(&state, last))),
                Err(error) if error.is(ErrorCode::CONSUMER_NOT_FOUND) && begun => {}
                Err(error) if error.is(ErrorCode::CONSUMER_NOT_FOUND) => {
                    return Err(AttachError::NoneBefore { durable, stream: stream.to_owned() });
                }
                Err(error) => return Err(AttachError::Unreachable(error.to_string())),
            }
        }
        Ok(Self { floors })
    }

    /// The sequence up to which nobody need read again.
    pub(super) fn begin(&self) -> Option<u64> {
        self.floors.iter().map(|(_, floor)| *floor).min()
    }

    /// Whether a message was counted by a shard before.
    pub(super) fn covers(&self, subject: &str, sequence: u64) -> bool {
        self.floors.iter().any(|(_, floor)| sequence <= *floor)
            && Subject::parse(subject).ok().and_then(|subject| subject.partition).is_some_and(|partition| {
                let of = |shard: &Option<Shard>| shard.is_none_or(|shard| shard.has(partition));
                self.floors.iter().any(|(shard, floor)| of(shard) && sequence <= *floor)
            })
    }
}

/// How far a durable was acknowledged. One that nothing is left for is as far as its stream was before it was
/// asked, however long ago its share had its last frame.
fn floor(state: &ConsumerState, last: u64) -> u64 {
    let acknowledged = state.ack_floor.stream_seq;
    if state.num_pending == 0 && state.num_ack_pending == 0 { acknowledged.max(last) } else { acknowledged }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_partition_was_counted_as_far_as_its_shard_had_come() {
        let floors = vec![("1/2".parse().ok(), 10), ("2/2".parse().ok(), 20)];
        let handover = Handover { floors };
        assert_eq!(handover.begin(), Some(10));
        let covers = |partition: u32, sequence| {
            handover.covers(&format!("health.diagnostics.us.relay.r1.{partition}"), sequence)
        };
        assert!(covers(0, 10) && !covers(0, 11));
        assert!(covers(1, 11) && covers(1, 20) && !covers(1, 21));
        assert!(!handover.covers("health.diagnostics.us.relay.r1", 5), "nobody filtered for it");
    }

    #[test]
    fn whoever_was_alone_counted_everything() {
        let handover = Handover { floors: vec![(None, 7)] };
        assert!(handover.covers("health.diagnostics.us.relay.r1.63", 7));
        assert!(!handover.covers("health.diagnostics.us.relay.r1.63", 8));
        let nothing = Handover::default();
        assert_eq!(nothing.begin(), None);
        assert!(!nothing.covers("health.diagnostics.us.relay.r1.63", 1));
    }
}

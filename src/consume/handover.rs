//! Takes over from another number of shards, without losing a frame or counting one twice.
//!
//! When a deployment changes its number of shards, each new shard takes partitions over from
//! several old ones, which did not stop at the same sequence of the stream. So a new durable begins
//! where the old shard stopped that was furthest behind, and frames that another old shard counted
//! are passed over, partition by partition. They still restore sessions, as frames do after a
//! restart.
//!
//! Invariant: each frame is counted by exactly one of the old and the new shards.

use async_nats::jetstream::{Context, ErrorCode};

use super::partitions::Share;
use super::server_state::{ConsumerState, consumer_state};
use super::source::Reader;
use crate::jetstream_api::AskError;
use crate::topology::{Shard, durable_name};
use callsight_frame::subject::{Partition, Subject};

/// How far the old shards counted the stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Handover {
    floors: Vec<Floor>,
}

/// How far an old shard counted its partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Floor {
    /// `None` for a deployment without shards.
    shard: Option<Shard>,
    /// What its durable delivered of them.
    share: Share,
    /// The last stream sequence that it counted.
    sequence: u64,
}

impl Floor {
    fn covers(&self, partition: Partition, sequence: u64) -> bool {
        let delivered = self.share == Share::Whole || matches!(partition, Partition::Server(_));
        sequence <= self.sequence && delivered && self.shard.is_none_or(|shard| shard.has(partition))
    }
}

/// Why the old shards' work cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandoverError {
    #[error("durable consumer {durable} is still being read; stop the exporters of the old layout")]
    StillRead { durable: String },
    #[error(
        "durable consumer {durable} does not exist on {stream}, so how far the old shards counted is unknown; \
         correct --shards-before, or leave it out to begin one idle timeout before now"
    )]
    Missing { durable: String, stream: String },
    #[error("NATS does not answer: {0}; check --nats-url and that JetStream is enabled there")]
    Unanswered(AskError),
}

impl Handover {
    /// Asks how far the old shards counted whose partitions `reader` reads. `last` is a last
    /// sequence of the stream from before that. Unless the new durable exists already (`begun`),
    /// all of the old ones must exist and be at rest.
    pub(super) async fn read(
        context: &Context,
        reader: &Reader,
        stream: &str,
        last: u64,
        begun: bool,
    ) -> Result<Self, HandoverError> {
        let mut floors = Vec::new();
        let Some(before) = reader.shards_before else { return Ok(Self { floors }) };
        let shards: Vec<_> = if before == 1 {
            vec![None]
        } else {
            let shared = |shard: &Shard| reader.shard.is_none_or(|own| own.shares_with(*shard));
            Shard::all(before).filter(shared).map(Some).collect()
        };
        for shard in shards {
            let durable = durable_name(&reader.deployment, shard);
            match consumer_state(context, stream, &durable).await {
                Ok((state, _)) if !begun && state.num_waiting > 0 => {
                    return Err(HandoverError::StillRead { durable });
                }
                Ok((state, _)) => {
                    let (share, sequence) = (Share::of_other(&state.config), floor(&state, last));
                    floors.push(Floor { shard, share, sequence });
                }
                Err(error) if error.is(ErrorCode::CONSUMER_NOT_FOUND) && begun => {}
                Err(error) if error.is(ErrorCode::CONSUMER_NOT_FOUND) => {
                    return Err(HandoverError::Missing { durable, stream: stream.to_owned() });
                }
                Err(error) => return Err(HandoverError::Unanswered(error)),
            }
        }
        Ok(Self { floors })
    }

    /// The stream sequence up to which all old shards counted their partitions.
    pub(super) fn begin(&self) -> Option<u64> {
        self.floors.iter().map(|floor| floor.sequence).min()
    }

    /// Whether an old shard read from before meetings had partitions: nobody counted those.
    pub(super) fn leaves_out_meetings(&self) -> bool {
        self.floors.iter().any(|floor| floor.share == Share::OfServers)
    }

    /// Whether an old shard counted a message.
    pub(super) fn covers(&self, subject: &str, sequence: u64) -> bool {
        self.floors.iter().any(|floor| sequence <= floor.sequence)
            && Subject::parse(subject)
                .ok()
                .and_then(|subject| subject.partition)
                .is_some_and(|partition| self.floors.iter().any(|floor| floor.covers(partition, sequence)))
    }
}

/// The stream sequence up to which a durable is acknowledged. One with nothing left reaches to the
/// end of the stream as it was before, however long ago the last frame of its partitions was.
fn floor(state: &ConsumerState, last: u64) -> u64 {
    let acknowledged = state.ack_floor.stream_seq;
    if state.num_pending == 0 && state.num_ack_pending == 0 { acknowledged.max(last) } else { acknowledged }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_partition_was_counted_as_far_as_its_shard_had_come() {
        let floor = |shard: &str, share, sequence| Floor { shard: shard.parse().ok(), share, sequence };
        let of = |share| Handover { floors: vec![floor("1/2", share, 10), floor("2/2", share, 20)] };
        let (whole, servers) = (of(Share::Whole), of(Share::OfServers));
        let covers = |handover: &Handover, partition: &str, sequence| {
            handover.covers(&format!("health.diagnostics.us.relay.r1{partition}"), sequence)
        };
        for (even, odd) in [(".0", ".1"), (".m0", ".m1")] {
            assert!(covers(&whole, even, 10) && !covers(&whole, even, 11));
            assert!(covers(&whole, odd, 11) && covers(&whole, odd, 20) && !covers(&whole, odd, 21));
        }
        assert!(
            covers(&servers, ".1", 20) && !covers(&servers, ".m1", 20),
            "it did not get those of meetings"
        );
        assert_eq!((servers.leaves_out_meetings(), whole.leaves_out_meetings()), (true, false));
        assert_eq!(whole.begin(), Some(10));
        assert!(!covers(&whole, "", 5), "nobody filtered for it");
    }

    #[test]
    fn whoever_was_alone_counted_everything() {
        let handover = Handover { floors: vec![Floor { shard: None, share: Share::Whole, sequence: 7 }] };
        for partition in ["63", "m63"] {
            assert!(handover.covers(&format!("health.diagnostics.us.relay.r1.{partition}"), 7));
            assert!(!handover.covers(&format!("health.diagnostics.us.relay.r1.{partition}"), 8));
        }
        let nothing = Handover::default();
        assert_eq!(nothing.begin(), None);
        assert!(!nothing.covers("health.diagnostics.us.relay.r1.63", 1));
    }
}

//! Whether a shard gets all frames of its share: the subjects of its stream and of its durable.
//!
//! A shard filters for partitions of servers and of meetings. Streams and durables that were
//! declared before meetings had partitions know only those of servers. Such a stream lacks nothing,
//! and its shards go on. But once it takes frames with the others, the durable has to deliver them,
//! and the server changes a filter only for what comes after the durable's position. So the durable
//! is changed as early as possible, and what it passed over before is counted.
//!
//! Invariant: no frame that a shard's filter leaves out stays unnoticed.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::{self, DeliverPolicy};

use super::attach::{AttachError, ConsumerConfig};
use super::server_state::StreamState;
use crate::stream_reader::ephemeral;
use crate::topology::Shard;
use callsight_frame::subject::{Partition, Subject};

/// How long the server keeps a consumer that counts.
const INACTIVE: Duration = Duration::from_secs(5);

/// What the filter of a durable lets through of its reader's share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Share {
    Whole,
    /// Only the partitions of servers: the durable was created before meetings had any.
    OfServers,
}

/// Parses a subject with wildcards, each of which may stand for any name.
fn parse(subject: &str, parsed: impl FnOnce(Subject<'_>) -> bool) -> bool {
    Subject::parse(&subject.replace('*', "any")).is_ok_and(parsed)
}

/// Whether a subject ends with the partition of a meeting.
fn is_of_meeting(subject: &str) -> bool {
    parse(subject, |subject| matches!(subject.partition, Some(Partition::Meeting(_))))
}

fn filters(durable: &consumer::Config) -> BTreeSet<&str> {
    let single = Some(durable.filter_subject.as_str()).filter(|subject| !subject.is_empty());
    durable.filter_subjects.iter().map(String::as_str).chain(single).collect()
}

impl Share {
    /// What a durable delivers to its reader; `None` if it reads other subjects.
    pub(super) fn of(durable: &consumer::Config, config: &ConsumerConfig) -> Option<Self> {
        let filters = filters(durable);
        let subjects = config.reader.subjects(&config.source.region);
        let whole: BTreeSet<_> = subjects.iter().map(String::as_str).collect();
        if filters == whole {
            return Some(Self::Whole);
        }
        let servers: BTreeSet<_> = whole.into_iter().filter(|subject| !is_of_meeting(subject)).collect();
        (filters == servers).then_some(Self::OfServers)
    }

    /// What a durable of any layout delivers, which reads other subjects than its successor.
    pub(super) fn of_other(durable: &consumer::Config) -> Self {
        let filters = filters(durable);
        let meetings = filters.iter().any(|filter| is_of_meeting(filter));
        if filters.is_empty() || meetings { Self::Whole } else { Self::OfServers }
    }
}

/// Checks that a stream stores nothing that no shard reads, and that a shard's durable delivers its
/// share. Of a mirror, the subjects are those of its origin, and unknown while that does not
/// answer: then it gets no new frames either.
pub(super) fn check(state: &StreamState, config: &ConsumerConfig, share: Share) -> Result<(), AttachError> {
    let ConsumerConfig { source, reader, .. } = config;
    let subjects = state.subjects();
    if reader.shard.is_none() || (source.is_mirror() && subjects.is_empty()) {
        return Ok(());
    }
    let stream = || source.stream.clone();
    if !state.has_partitions() {
        return Err(AttachError::NoPartitions { stream: stream() });
    }
    let is_read = |subject: &&String| parse(subject, |subject| subject.region == source.region.as_str());
    if let Some(subject) = subjects.iter().find(|subject| !is_read(subject)) {
        return Err(AttachError::UnreadSubject { stream: stream(), subject: subject.clone() });
    }
    if share == Share::OfServers && subjects.iter().any(|subject| is_of_meeting(subject)) {
        let (durable, exporters) = (reader.durable(), reader.exporters());
        let (stream, region) = (stream(), source.region.clone());
        return Err(AttachError::WithoutMeetings { durable, stream, region, exporters });
    }
    Ok(())
}

/// Counts the frames of its reader's meetings up to a stream sequence, all of which a durable
/// passed over while its filter left them out. Whoever takes over without shards reads all
/// meetings.
pub(super) async fn passed_over(
    context: &Context,
    config: &ConsumerConfig,
    sequence: u64,
) -> Result<u64, AttachError> {
    let ConsumerConfig { source, reader, .. } = config;
    let shard = reader.shard.or_else(|| Shard::all(1).next());
    let mut subjects = shard.map(|shard| shard.subjects(&source.region)).unwrap_or_default();
    subjects.retain(|subject| is_of_meeting(subject));
    let counted = async |policy| {
        let config = consumer::pull::Config {
            filter_subjects: subjects.clone(),
            ..ephemeral("Callsight exporter, counting what its filter left out", policy, INACTIVE)
        };
        // It was created for its number alone: nothing is delivered.
        let consumer = context.create_consumer_on_stream(config, &source.stream).await;
        consumer.map(|consumer| consumer.cached_info().num_pending).map_err(AttachError::unreachable)
    };
    let all = counted(DeliverPolicy::All).await?;
    let later = counted(DeliverPolicy::ByStartSequence { start_sequence: sequence + 1 }).await?;
    Ok(all.saturating_sub(later))
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;
    use crate::consume::{Reader, Source, SourceKind};

    fn config(shard: &str) -> ConsumerConfig {
        let reader = Reader {
            shard: shard.parse().ok(),
            ..Reader::from("main".parse::<crate::topology::Deployment>().unwrap())
        };
        ConsumerConfig {
            source: Source::new("us".parse().unwrap(), SourceKind::Own),
            reader,
            create: None,
            lookback: Duration::ZERO,
            max_lag: Duration::ZERO,
            max_sessions: 0,
        }
    }

    fn durable(filters: &[&str]) -> consumer::Config {
        let filter_subjects =
            filters.iter().map(|filter| format!("health.diagnostics.us.{filter}")).collect();
        consumer::Config { filter_subjects, ..consumer::Config::default() }
    }

    #[test]
    fn a_durable_delivers_the_whole_share_or_that_of_servers_or_is_refused() {
        let last = config("64/64");
        for (filters, expected) in [
            (&["*.*.63", "*.*.m63"][..], Some(Share::Whole)),
            (&["*.*.63"], Some(Share::OfServers)),
            (&["*.*.m63"], None),
            (&["*.*.62"], None),
            (&["*.*.63", "*.*.m62"], None),
            (&[], None),
        ] {
            assert_eq!(Share::of(&durable(filters), &last), expected, "{filters:?}");
        }
        let single = consumer::Config {
            filter_subject: "health.diagnostics.us.*.*.63".to_owned(),
            ..consumer::Config::default()
        };
        assert_eq!(Share::of(&single, &last), Some(Share::OfServers));
        let alone = config("");
        assert_eq!(Share::of(&durable(&[]), &alone), Some(Share::Whole));
        assert_eq!(Share::of(&durable(&["*.*.63"]), &alone), None);
        for (filters, expected) in
            [(&[][..], Share::Whole), (&["*.*.1", "*.*.m1"], Share::Whole), (&["*.*.1"], Share::OfServers)]
        {
            assert_eq!(Share::of_other(&durable(filters)), expected, "{filters:?}");
        }
    }

    #[test]
    fn a_stream_that_stores_what_no_shard_reads_is_refused() {
        let mut stream = StreamState::of(OffsetDateTime::UNIX_EPOCH, OffsetDateTime::UNIX_EPOCH, 0);
        let mut checked = |subjects: &[&str], share| {
            stream.declare(
                subjects,
                "health.diagnostics.us.{{wildcard(1)}}.{{wildcard(2)}}.{{partition(64,2)}}",
            );
            check(&stream, &config("1/2"), share).map_err(|error| error.to_string())
        };
        let servers = "health.diagnostics.us.*.*";
        for share in [Share::Whole, Share::OfServers] {
            assert_eq!(checked(&[servers], share), Ok(()), "nothing is left out");
            for subject in
                ["health.diagnostics.us.>", "health.diagnostics.us.*.*.*", "health.diagnostics.mars.*.*"]
            {
                let error = checked(&[servers, subject], share).unwrap_err();
                assert!(error.contains(subject) && error.contains("no shard reads"), "{error}");
            }
        }
        let both = [servers, "health.diagnostics.us.*.*.m0"];
        assert_eq!(checked(&both, Share::Whole), Ok(()));
        let error = checked(&both, Share::OfServers).unwrap_err();
        assert!(error.contains("`callsight streams apply --region us --deployment main/2`"), "{error}");
    }
}

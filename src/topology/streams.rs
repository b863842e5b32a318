//! The configurations of streams, mirrors, dead-letter streams and durables.
//!
//! Invariant: two streams or durables never have the same name, and a mirror limits itself as its
//! stream does.

use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::context::CreateStreamError;
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, Placement, RetentionPolicy, Source, StorageType, SubjectTransform,
};
use time::OffsetDateTime;

use super::deployment::Deployment;
use super::shard::{meetings, servers};
use callsight_frame::subject::{PARTITIONS, Region};

/// Time for which frames are kept for replay.
const MAX_AGE: Duration = Duration::from_secs(72 * 60 * 60);

/// Maximum size of a stream, unless its declaration is changed.
const MAX_BYTES: i64 = 4 << 30;

/// Time for which rejected frames are kept, and their maximum size.
const DEAD_LETTER_MAX_AGE: Duration = Duration::from_secs(7 * 24 * 60 * 60);
const DEAD_LETTER_MAX_BYTES: i64 = 256 << 20;

/// Time for which a stream remembers message ids, while a publisher may still retry.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// Maximum number of delivered frames without an acknowledgement: several pull requests' worth.
const MAX_ACK_PENDING: i64 = 32_768;

/// Time after which the server redelivers without an acknowledgement. It affects only a stalled
/// exporter: a restarted one asks at once for what it had not acknowledged.
const ACK_WAIT: Duration = Duration::from_secs(30);

/// Returns the name of a region's stream, `HEALTH_{REGION}`.
#[must_use]
pub fn stream_name(region: &Region) -> String {
    format!("HEALTH_{}", region.as_str().to_ascii_uppercase())
}

/// Returns a region's stream: three days on disk, oldest frames deleted first, and the server's
/// partition appended to each subject without one.
#[must_use]
pub fn stream_config(region: &Region, replicas: usize) -> Config {
    Config {
        name: stream_name(region),
        description: Some(format!("Callsight health frames of region {region}")),
        subjects: std::iter::once(servers(region)).chain(meetings(region)).collect(),
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        discard: DiscardPolicy::Old,
        max_age: MAX_AGE,
        max_bytes: MAX_BYTES,
        duplicate_window: DUPLICATE_WINDOW,
        num_replicas: replicas,
        allow_direct: true,
        subject_transform: Some(SubjectTransform {
            source: servers(region),
            destination: format!(
                "health.diagnostics.{region}.{{{{wildcard(1)}}}}.{{{{wildcard(2)}}}}.{{{{partition({PARTITIONS},2)}}}}"
            ),
        }),
        ..Config::default()
    }
}

/// Returns the name of a region's dead-letter stream, `HEALTH_{REGION}_DLQ`.
#[must_use]
pub fn dead_letter_stream_name(region: &Region) -> String {
    format!("{}_DLQ", stream_name(region))
}

/// Returns a region's dead-letter stream: small, and the oldest letters are deleted first, so that
/// it is never full.
#[must_use]
pub fn dead_letter_stream_config(region: &Region, replicas: usize) -> Config {
    Config {
        name: dead_letter_stream_name(region),
        description: Some(format!("Callsight frames of region {region} that were rejected, with the reason")),
        subjects: vec![format!("health.deadletter.{region}.*")],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        discard: DiscardPolicy::Old,
        max_age: DEAD_LETTER_MAX_AGE,
        max_bytes: DEAD_LETTER_MAX_BYTES,
        duplicate_window: DUPLICATE_WINDOW,
        num_replicas: replicas,
        allow_direct: true,
        ..Config::default()
    }
}

/// Returns the name of a region's mirror in the hub, `HEALTH_{REGION}_MIRROR`.
#[must_use]
pub fn mirror_stream_name(region: &Region) -> String {
    format!("{}_MIRROR", stream_name(region))
}

/// Returns the mirror of a region's stream. A mirror keeps the sequence and time of every message,
/// unlike a source, so replay gives the same from either.
#[must_use]
pub fn mirror_config(region: &Region, replicas: usize) -> Config {
    let stream = stream_config(region, replicas);
    Config {
        name: mirror_stream_name(region),
        description: Some(format!("Copy of the Callsight health frames of region {region}")),
        mirror: Some(Source { name: stream.name, ..Source::default() }),
        // The server's own choice when it knows the stream: the mirror answers direct gets for it.
        mirror_direct: true,
        // Messages keep their subjects, partition included.
        subjects: Vec::new(),
        subject_transform: None,
        // Duplicates are dropped in the stream.
        duplicate_window: Duration::ZERO,
        ..stream
    }
}

/// Places a stream in the cluster of a region, which has the region's name. Without a placement the
/// cluster of the creator gets it.
#[must_use]
pub fn placed(config: Config, region: &Region) -> Config {
    let cluster = Some(region.as_str().to_owned());
    Config { placement: Some(Placement { cluster, ..Placement::default() }), ..config }
}

/// Returns a deployment's durable consumer, which begins at `start` when it is created: folding
/// three days of frames would keep a new exporter from becoming ready.
#[must_use]
pub fn consumer_config(deployment: &Deployment, start: OffsetDateTime) -> pull::Config {
    pull::Config {
        deliver_policy: DeliverPolicy::ByStartTime { start_time: start },
        ..durable_config(deployment)
    }
}

/// Returns a deployment's durable consumer for a file, which can't name a time: when created, it
/// begins with the next frame. An exporter reads the earlier frames that it needs by itself.
#[must_use]
pub fn durable_config(deployment: &Deployment) -> pull::Config {
    pull::Config {
        durable_name: Some(deployment.durable()),
        description: Some(format!("Callsight exporter, deployment {deployment}")),
        deliver_policy: DeliverPolicy::New,
        // One acknowledgement covers a whole batch.
        ack_policy: AckPolicy::All,
        ack_wait: ACK_WAIT,
        max_ack_pending: MAX_ACK_PENDING,
        ..pull::Config::default()
    }
}

/// Creates a region's stream and its dead-letter stream where missing. Existing streams are not
/// changed.
///
/// # Errors
/// The server's, such as insufficient storage, or another stream with the subjects.
pub async fn ensure_streams(
    context: &Context,
    region: &Region,
    replicas: usize,
) -> Result<(), CreateStreamError> {
    context.get_or_create_stream(stream_config(region, replicas)).await?;
    context.get_or_create_stream(dead_letter_stream_config(region, replicas)).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_design() {
        let region: Region = "eu-west".parse().unwrap();
        assert_eq!(stream_name(&region), "HEALTH_EU-WEST");
    }

    #[test]
    fn a_mirror_has_what_its_stream_has_and_no_subjects() {
        let [us, apac]: [Region; 2] = ["us", "apac"].map(|region| region.parse().unwrap());
        let stream = stream_config(&apac, 3);
        let mirror = placed(mirror_config(&apac, 3), &us);
        assert_eq!(mirror.name, "HEALTH_APAC_MIRROR");
        assert_eq!(mirror.mirror.unwrap().name, stream.name);
        assert_eq!(mirror.placement.unwrap().cluster.as_deref(), Some("us"));
        assert!(mirror.subjects.is_empty());
        assert_eq!((mirror.max_age, mirror.max_bytes), (stream.max_age, stream.max_bytes));
    }

    #[test]
    fn the_stream_appends_the_partition_of_the_server_and_takes_those_of_meetings() {
        let config = stream_config(&"us".parse().unwrap(), 1);
        assert_eq!(config.subjects.len(), 65);
        assert_eq!(config.subjects[..2], ["health.diagnostics.us.*.*", "health.diagnostics.us.*.*.m0"]);
        assert_eq!(config.subjects[64], "health.diagnostics.us.*.*.m63");
        let transform = config.subject_transform.unwrap();
        assert_eq!(transform.source, "health.diagnostics.us.*.*");
        assert_eq!(
            transform.destination,
            "health.diagnostics.us.{{wildcard(1)}}.{{wildcard(2)}}.{{partition(64,2)}}"
        );
    }
}

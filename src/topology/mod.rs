//! The streams and consumers that Callsight needs: how they are declared, and how they are made.
//!
//! One stream a region holds the unbounded truth for three days; a durable pull consumer a deployment
//! remembers how far it was folded. Two deployments never share a durable: that would split the frames
//! between them. In the hub region stand mirrors of the other regions' streams, so that an incident can be
//! replayed from one place, and even when its region is gone.
//!
//! Here is what each of them is. [`Declared`] makes a whole of them or reads it from files, [`Step`] tells what it
//! takes to get there from what runs, and [`Reconciler`] does it.

mod declare;
mod files;
mod keys;
mod plan;
mod readers;
mod reconcile;
mod shard;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::context::CreateStreamError;
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, Placement, RetentionPolicy, Source, StorageType, SubjectTransform,
};
use time::OffsetDateTime;

pub use self::declare::{Bond, Declared, Name};
pub use self::files::{FilesError, read as read_files};
pub use self::keys::is_duration;
pub use self::plan::{Action, Change, Running, Step};
pub use self::readers::{Readers, ReadersError};
pub use self::reconcile::{ReconcileError, Reconciler};
pub use self::shard::{Shard, ShardError, durable_name};
use callsight_frame::subject::Region;

/// How long frames are kept for replay.
const MAX_AGE: Duration = Duration::from_secs(72 * 60 * 60);

/// How much disk a stream takes at the most, until somebody says otherwise.
const MAX_BYTES: i64 = 4 << 30;

/// How long rejected frames are kept, and how much disk they take at the most.
const DEAD_LETTER_MAX_AGE: Duration = Duration::from_secs(7 * 24 * 60 * 60);
const DEAD_LETTER_MAX_BYTES: i64 = 256 << 20;

/// How long the stream remembers message ids: as long as a publisher may still be retrying.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// Into how many partitions servers fall. Shards of the exporter share them out, so there are more than
/// anyone has shards.
const PARTITIONS: u32 = 64;

/// How many frames the consumer may have delivered and not acknowledged: several pull requests' worth.
const MAX_ACK_PENDING: i64 = 32_768;

/// How long the server waits for an acknowledgement before it delivers again. Only a stalled exporter meets
/// this: one that restarts asks for what it had not acknowledged at once.
const ACK_WAIT: Duration = Duration::from_secs(30);

/// The name of a deployment of the exporter: 1 to 32 bytes of `[a-z0-9-]`, such as `main`, `blue` or `green`. It
/// doesn't end like the durable of a shard, `-2of3`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Deployment(String);

/// Text that is no deployment's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no deployment; a deployment is 1 to 32 of a-z, 0-9 and -, such as main or blue, and does not end like a \
     shard, -2of3"
)]
pub struct DeploymentError(String);

impl Deployment {
    /// The deployment's name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of its durable consumer.
    #[must_use]
    pub fn durable(&self) -> String {
        format!("callsight-{}", self.0)
    }
}

impl FromStr for Deployment {
    type Err = DeploymentError;

    fn from_str(text: &str) -> Result<Self, DeploymentError> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if (1..=32).contains(&text.len()) && text.bytes().all(allowed) && !shard::looks_like_one(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(DeploymentError(text.chars().take(64).collect()))
        }
    }
}

impl fmt::Display for Deployment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a region's stream, `HEALTH_{REGION}`.
#[must_use]
pub fn stream_name(region: &Region) -> String {
    format!("HEALTH_{}", region.as_str().to_ascii_uppercase())
}

/// A region's stream: three days on disk, the oldest frames go first, and each subject gets the partition of
/// its server appended.
#[must_use]
pub fn stream_config(region: &Region, replicas: usize) -> Config {
    let subject = format!("health.diagnostics.{region}");
    Config {
        name: stream_name(region),
        description: Some(format!("Callsight health frames of region {region}")),
        subjects: vec![format!("{subject}.*.*")],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        discard: DiscardPolicy::Old,
        max_age: MAX_AGE,
        max_bytes: MAX_BYTES,
        duplicate_window: DUPLICATE_WINDOW,
        num_replicas: replicas,
        allow_direct: true,
        subject_transform: Some(SubjectTransform {
            source: format!("{subject}.*.*"),
            destination: format!(
                "{subject}.{{{{wildcard(1)}}}}.{{{{wildcard(2)}}}}.{{{{partition({PARTITIONS},2)}}}}"
            ),
        }),
        ..Config::default()
    }
}

/// The name of the stream that keeps a region's rejected frames, `HEALTH_{REGION}_DLQ`.
#[must_use]
pub fn dead_letter_stream_name(region: &Region) -> String {
    format!("{}_DLQ", stream_name(region))
}

/// The stream of a region's rejected frames: small, and the oldest go first, so that it is never full.
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

/// The name of the hub's copy of a region's stream, `HEALTH_{REGION}_MIRROR`.
#[must_use]
pub fn mirror_stream_name(region: &Region) -> String {
    format!("{}_MIRROR", stream_name(region))
}

/// The hub's copy of a region's stream. A mirror keeps sequence and time of every message, which a source does
/// not, so that replay gives the same from either; and it limits itself as the stream does.
#[must_use]
pub fn mirror_config(region: &Region, replicas: usize) -> Config {
    let stream = stream_config(region, replicas);
    Config {
        name: mirror_stream_name(region),
        description: Some(format!("Copy of the Callsight health frames of region {region}")),
        mirror: Some(Source { name: stream.name, ..Source::default() }),
        // What the server sets by itself when it knows the stream: the copy answers where the stream can't.
        mirror_direct: true,
        // The subjects come with the messages, their partition included.
        subjects: Vec::new(),
        subject_transform: None,
        // Repeats were dropped before the copy.
        duplicate_window: Duration::ZERO,
        ..stream
    }
}

/// The same stream, to be kept in the cluster of a region: clusters are called like their regions. Without a
/// placement it is kept in the cluster of whoever makes it.
#[must_use]
pub fn placed(config: Config, region: &Region) -> Config {
    let cluster = Some(region.as_str().to_owned());
    Config { placement: Some(Placement { cluster, ..Placement::default() }), ..config }
}

/// A deployment's durable consumer. A new one begins at `start`: the counters of a new exporter begin
/// somewhere, and three days of frames would keep it from ever becoming ready.
#[must_use]
pub fn consumer_config(deployment: &Deployment, start: OffsetDateTime) -> pull::Config {
    pull::Config {
        deliver_policy: DeliverPolicy::ByStartTime { start_time: start },
        ..durable_config(deployment)
    }
}

/// The same as a file has it, which can name no moment: a new one begins with the next frame. What an exporter
/// needs from before that to know who is there, it reads by itself.
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

/// Makes a region's stream and its dead-letter stream unless they are there. What is there is left as it is.
///
/// # Errors
/// Those of the server, such as too little storage, or another stream that has the subjects.
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
        assert_eq!("blue".parse::<Deployment>().unwrap().durable(), "callsight-blue");
        for bad in ["", "Blue", "a.b", "a b", &"x".repeat(33)] {
            assert!(bad.parse::<Deployment>().unwrap_err().to_string().contains("such as main"), "{bad}");
        }
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
    fn the_stream_appends_the_partition_of_the_server() {
        let config = stream_config(&"us".parse().unwrap(), 1);
        let transform = config.subject_transform.unwrap();
        assert_eq!(transform.source, "health.diagnostics.us.*.*");
        assert_eq!(
            transform.destination,
            "health.diagnostics.us.{{wildcard(1)}}.{{wildcard(2)}}.{{partition(64,2)}}"
        );
    }
}

//! Where the frames of a region are read, and by whom.
//!
//! An exporter beside the relays reads the stream that they publish into. One that watches all
//! regions from a single place has a choice: the mirrors that its own cluster keeps, which outlive
//! an outage of their regions, or the streams themselves through the gateways, which are fresher by
//! a moment and as far away as the region. Regions that share nothing have a JetStream each,
//! addressed by domain.
//!
//! Invariant: two readers never share a durable.

use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::{self, Context};

use crate::topology::{Deployment, Shard, durable_name, mirror_stream_name, stream_name};
use callsight_frame::subject::Region;

/// Time within which a request is answered, or lost: with a connection that broke, or with a leader
/// that was replaced.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// A region, and the stream that its frames are read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub region: Region,
    /// What the stream is to the region.
    pub kind: SourceKind,
    pub stream: String,
    /// How the JetStream that has it is addressed.
    pub api: JetStreamApi,
}

/// What a stream is to its region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// The stream that relays publish into, in this cluster.
    Own,
    /// The stream that relays publish into, in another cluster.
    Remote,
    /// A copy of the region's stream, in this cluster.
    Mirror,
}

/// How a JetStream is addressed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum JetStreamApi {
    /// The one of the server that is connected to.
    #[default]
    Local,
    /// The one of a domain, beyond a leaf node.
    Domain(String),
    /// One that another account exports under a prefix.
    Prefix(String),
}

impl Source {
    /// The usual stream of a region.
    #[must_use]
    pub fn new(region: Region, kind: SourceKind) -> Self {
        let stream = match kind {
            SourceKind::Own | SourceKind::Remote => stream_name(&region),
            SourceKind::Mirror => mirror_stream_name(&region),
        };
        Self { region, kind, stream, api: JetStreamApi::Local }
    }

    /// The JetStream that has the stream, over a connection. Requests fail soon: whoever asks
    /// repeats them.
    #[must_use]
    pub fn jetstream(&self, client: Client) -> Context {
        let mut context = match &self.api {
            JetStreamApi::Local => jetstream::new(client),
            JetStreamApi::Domain(domain) => jetstream::with_domain(client, domain),
            JetStreamApi::Prefix(prefix) => jetstream::with_prefix(client, prefix),
        };
        context.set_timeout(ANSWER_WITHIN);
        context
    }

    /// Whether the stream is a copy of another one.
    #[must_use]
    pub fn is_mirror(&self) -> bool {
        self.kind == SourceKind::Mirror
    }
}

/// Who reads: a deployment, or one of its shards.
#[derive(Clone, Debug, PartialEq)]
pub struct Reader {
    pub deployment: Deployment,
    /// The shard, unless one exporter reads everything.
    pub shard: Option<Shard>,
    /// The deployment's former number of shards, while it changes: a new durable begins where
    /// theirs stopped.
    pub shards_before: Option<u32>,
}

impl From<Deployment> for Reader {
    fn from(deployment: Deployment) -> Self {
        Self { deployment, shard: None, shards_before: None }
    }
}

impl Reader {
    /// The name of its durable consumer.
    #[must_use]
    pub fn durable(&self) -> String {
        durable_name(&self.deployment, self.shard)
    }

    /// The subjects that it reads of a region's stream; none if it reads all of them.
    pub(super) fn subjects(&self, region: &Region) -> Vec<String> {
        self.shard.map(|shard| shard.subjects(region)).unwrap_or_default()
    }

    /// What `--deployment` of `callsight streams` calls its exporters.
    pub(super) fn exporters(&self) -> String {
        let Self { deployment, shard, .. } = self;
        shard.map_or_else(|| deployment.to_string(), |shard| format!("{deployment}/{}", shard.of()))
    }

    /// The flags that name it.
    pub(super) fn flags(&self) -> String {
        let Self { deployment, shard, .. } = self;
        let shard = shard.map(|shard| format!(" --shard {shard}")).unwrap_or_default();
        format!("--deployment {deployment}{shard}")
    }
}

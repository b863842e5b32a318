//! Where the frames of a region are read, and by whom.
//!
//! An exporter that stands beside the relays reads the stream that they publish into. One that watches all regions
//! from a single place has a choice: the mirrors that its own cluster keeps, which are there also when their
//! regions are not, or the streams themselves, through the gateways, which are fresher by a moment and as far away as
//! the region is. And where regions share nothing, each has its own JetStream, told apart by domain.

use async_nats::Client;
use async_nats::jetstream::{self, Context};

use crate::topology::{Deployment, Shard, durable_name, mirror_stream_name, stream_name};
use callsight_frame::subject::Region;

/// A region, and which stream its frames are read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The region.
    pub region: Region,
    /// What the stream is to the region.
    pub kind: SourceKind,
    /// The stream's name.
    pub stream: String,
    /// How the JetStream is addressed that has it.
    pub api: JetStreamApi,
}

/// What a stream is to its region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// The stream that relays publish into, in the cluster that is connected to.
    Own,
    /// The same, in another cluster.
    Remote,
    /// A copy of it, in the cluster that is connected to.
    Mirror,
}

/// How a JetStream is addressed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum JetStreamApi {
    /// As the one that is there.
    #[default]
    Local,
    /// As the one of a domain, beyond a leaf node.
    Domain(String),
    /// Under a prefix, as another account exports it.
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

    /// The JetStream that has the stream, over a connection.
    #[must_use]
    pub fn jetstream(&self, client: Client) -> Context {
        match &self.api {
            JetStreamApi::Local => jetstream::new(client),
            JetStreamApi::Domain(domain) => jetstream::with_domain(client, domain),
            JetStreamApi::Prefix(prefix) => jetstream::with_prefix(client, prefix),
        }
    }

    /// Whether frames get there by way of another stream.
    #[must_use]
    pub fn is_mirror(&self) -> bool {
        self.kind == SourceKind::Mirror
    }
}

/// Who reads: a deployment, or one of the shards that it is shared out to.
#[derive(Clone, Debug, PartialEq)]
pub struct Reader {
    /// The deployment.
    pub deployment: Deployment,
    /// The shard, unless one exporter reads everything.
    pub shard: Option<Shard>,
    /// How many shards the deployment had, while that changes: a new durable begins where theirs were left.
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

    /// The subjects that it reads of a region's stream; none in particular if it reads everything.
    pub(super) fn subjects(&self, region: &Region) -> Vec<String> {
        self.shard.map(|shard| shard.subjects(region)).unwrap_or_default()
    }

    /// The flags that name it.
    pub(super) fn flags(&self) -> String {
        let Self { deployment, shard, .. } = self;
        let shard = shard.map(|shard| format!(" --shard {shard}")).unwrap_or_default();
        format!("--deployment {deployment}{shard}")
    }
}

//! The streams and consumers that Callsight needs: how they are declared, and how they are created.
//!
//! One stream per region holds all frames of three days. One durable pull consumer per deployment
//! remembers the position up to which frames are folded. The hub region has mirrors of the other
//! regions' streams, so that an incident can be replayed from one place, even when its region is
//! gone.
//!
//! The functions of `streams` configure each of them. [`Declared`] generates a whole topology or
//! reads it from files, [`Step`] compares it with what runs, and [`Reconciler`] applies the
//! difference.
//!
//! Invariant: nothing is ever deleted, and nothing that loses frames is done unasked.

mod capacity;
mod change;
mod declare;
mod deployment;
mod files;
mod keys;
mod plan;
mod readers;
mod reconcile;
mod risk;
mod shard;
mod streams;

pub use self::capacity::{Capacity, Shortage, Traffic, stored_bytes};
pub use self::change::{Change, Running};
pub use self::declare::{Bond, Declared, Name};
pub use self::deployment::{Deployment, DeploymentError};
pub use self::files::{FilesError, read as read_files};
pub use self::keys::is_duration;
pub use self::plan::{Action, Step};
pub use self::readers::{Readers, ReadersError};
pub use self::reconcile::{ReconcileError, Reconciler};
pub(crate) use self::shard::servers;
pub use self::shard::{Shard, ShardError, durable_name};
pub use self::streams::{
    consumer_config, dead_letter_stream_config, dead_letter_stream_name, durable_config, ensure_streams,
    mirror_config, mirror_stream_name, placed, stream_config, stream_name,
};

//! More than one exporter, and more than one region.

mod bridge;
mod shards;
mod view;

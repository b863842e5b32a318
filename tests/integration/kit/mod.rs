//! Helpers of the integration tests: the binary under test, frames, browsers, certificates.
//!
//! Real servers come from `callsight-testkit`, which the benchmarks use too.

pub(crate) mod browser;
pub(crate) mod callsight;
pub(crate) mod certificates;
pub(crate) mod firefox;
pub(crate) mod frames;
pub(crate) mod media;
pub(crate) mod proxy;
pub(crate) mod relay;
pub(crate) mod scrape;
pub(crate) mod stream;
pub(crate) mod web;

pub(crate) use callsight_testkit::{
    http, jwt, nats, port, process, prometheus, python, region, supercluster, tool, wait,
};

//! Real servers for tests and benchmarks: nats-server, Prometheus, and the tools around them.
//!
//! A test against a real server is only as good as its cleanup and its patience: a server left
//! running spoils the next run, and a fixed sleep is too short on a busy machine and too long on
//! any other. So each server is a value that is killed when it is dropped ([`process`]), it listens
//! on a free port ([`port`]) and writes to a temporary folder, and tests wait for conditions
//! ([`wait`]). A program that is missing is fetched when it is first asked for ([`tool`]).
//!
//! Invariant: no server and no folder outlives the value that stands for it.

#![expect(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

mod disk;
pub mod http;
pub mod jwt;
pub mod nats;
pub mod port;
pub mod process;
pub mod prometheus;
pub mod python;
pub mod region;
pub mod supercluster;
pub mod tool;
pub mod wait;

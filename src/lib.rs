//! Callsight shows operators of video calls how these calls feel, live and afterwards.
//!
//! Data flows one way, from frames through sessions to series and pages, and modules import only
//! downwards:
//!
//! - [`cli`] has one file per command, [`config`] turns flags, environment and file into validated
//!   settings;
//! - [`serve`] answers over HTTP, [`consume`] reads the stream, [`topology`] declares and creates
//!   it;
//! - `triage` is the page that tells in thirty seconds whether calls are bad, and where;
//! - [`replay`] reads a part of the stream again, for metrics, alerts and reports about the past;
//! - `rewind` shows the page of any moment of the past;
//! - `ingest` is the way in for clients that no relay serves;
//! - `rollout` replaces an exporter with a new version, region by region;
//! - [`simulate`] generates calls and publishes them with [`callsight_publish`], which relays
//!   embed;
//! - [`callsight_fold`] is the pure core: frames in, changes of the series out;
//! - [`callsight_frame`] is the wire format.
//!
//! Invariant: the library is the program. It promises no stable API beyond the crates that it
//! depends on.

pub mod cli;
pub mod config;
pub mod consume;
pub mod dead_letter;
#[doc(hidden)]
pub mod fuzzing;
mod http_client;
mod http_server;
mod ingest;
mod insight;
mod jetstream_api;
mod log;
pub mod nats;
#[doc(hidden)]
pub mod netem;
mod reload;
mod rewind;
mod rollout;

pub mod replay;
pub mod serve;
pub mod simulate;
pub mod stream_reader;
mod tls;
pub mod topology;
mod triage;

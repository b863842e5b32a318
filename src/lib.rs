//! Callsight tells the people who run video calls how those calls feel, while it happens and afterwards.
//!
//! Data flows one way, frame → session → series → page, and modules import only downwards:
//!
//! - [`cli`] has one file a command, [`config`] turns flags, environment and file into checked settings;
//! - [`serve`] answers over HTTP, [`consume`] reads the stream, [`topology`] declares and makes it;
//! - [`replay`] reads a part of the stream again and makes of it what people can use afterwards;
//! - `rollout` puts a new exporter in the place of an old one, region by region;
//! - [`publish`] is what a relay embeds, [`simulate`] makes calls up and publishes them;
//! - [`fold`] is the pure core: frames in, changes to the series out;
//! - [`series`] declares the metrics and keeps them;
//! - [`frame`] and [`subject`] are the wire.

pub mod cli;
pub mod config;
pub mod consume;
pub mod dead_letter;
#[doc(hidden)]
pub mod fuzzing;
mod http_client;
mod insight;
mod jetstream_api;
mod log;
pub mod nats;
mod rollout;

pub mod replay;
pub mod serve;
pub mod simulate;
pub mod stream_reader;
mod tls;
pub mod topology;

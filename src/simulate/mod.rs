//! Realistic clients without clients: the frames of a region full of calls, from a seed.
//!
//! An exporter, a dashboard or an alert can only be judged against calls that behave like calls:
//! people join, mute, hide the tab, leave and crash; a network degrades in one region and not in
//! another; and the counters of jitter buffer, concealment and freezes move together, as in
//! libwebrtc. Clients are unequal: some report what `getStats()` has, others what their own jitter
//! buffer has. Constant or random values hide the mistakes that matter.
//!
//! [`World`] is the pure half: meetings of clients that evolve in simulated time and send one frame
//! per interval. [`run`] is the other half: it publishes the frames of a world when they are due,
//! through one [`Publisher`](callsight_publish::Publisher) per relay, and counts what became of
//! them. Relays of videocall.rs publish packets instead, and nobody tells what became of those. A
//! part of the clients may have no relay, and sends its frames to `callsight ingest`.
//!
//! A seed determines the session ids too. A second run with the same seed within the stream's
//! duplicate window is dropped as a duplicate of the first: use another seed for other sessions.
//!
//! Invariant: the same configuration gives the same frames at the same times, whatever the machine
//! does.

mod audio;
mod client;
mod config;
mod device;
mod drive;
mod http;
mod media;
mod meeting;
mod packet;
mod scenario;
mod sending;
mod video;
mod world;

pub use config::SimulateConfig;
pub use device::Clients;
pub use drive::{SimulateError, SimulationSummary, run};
pub use http::IngestTarget;
pub use scenario::{Rhythm, Scenario};
pub use world::{Event, Relay, World};

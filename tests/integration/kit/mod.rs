//! What the tests stand on.
//!
//! A test against real servers is only as good as its cleaning up and its patience: a server left running spoils the
//! next run, and a fixed sleep is too short on a busy machine and too long on every other. So each server is a value
//! that dies with the test that made it ([`process`]), tests wait for conditions and never for time ([`wait`]), and
//! whatever fails says what was seen: the last value, the end of the server's log.

pub(crate) mod browser;
pub(crate) mod callsight;
pub(crate) mod certificates;
pub(crate) mod frames;
pub(crate) mod http;
pub(crate) mod nats;
pub(crate) mod port;
pub(crate) mod process;
pub(crate) mod prometheus;
pub(crate) mod proxy;
pub(crate) mod python;
pub(crate) mod relay;
pub(crate) mod scrape;
pub(crate) mod stream;
pub(crate) mod supercluster;
pub(crate) mod tool;
pub(crate) mod wait;

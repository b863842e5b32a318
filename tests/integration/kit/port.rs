//! Ports for servers that have to come back on the same one.
//!
//! A port given out by the kernel would be in the range that outgoing connections draw from, and so might be taken by a
//! client's reconnecting while its server is down. These come from under that range.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Mutex;

/// Below the ephemeral range, which starts at 32768 on Linux and at 49152 elsewhere.
const RANGE: std::ops::Range<u16> = 15_000..32_000;

static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A port on 127.0.0.1 that nobody listens on, and that this run of the tests has not given out before.
///
/// Another process may still take it before the caller does, so callers try again with a new one.
pub(crate) fn free() -> u16 {
    // A test that panicked while it held the lock leaves the set no less true.
    let mut given = GIVEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    loop {
        let port = rand::random_range(RANGE);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() && given.insert(port) {
            return port;
        }
    }
}

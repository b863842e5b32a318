//! Ports for servers that must come back on the same one.
//!
//! A port that the kernel chooses is in the range of outgoing connections, so a client that
//! reconnects could take it while its server is down. These ports are below that range.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Mutex;

/// Below the ephemeral range, which starts at 32768 on Linux and at 49152 elsewhere.
const RANGE: std::ops::Range<u16> = 15_000..32_000;

/// How often `retry` tries other ports.
const ATTEMPTS: usize = 5;

static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A port on 127.0.0.1 that nobody listens on and that this process has not returned before.
///
/// Another process may still take it before the caller does, see `retry`.
pub fn free() -> u16 {
    // A test that panicked while it held the lock leaves the set no less true.
    let mut given = GIVEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    loop {
        let port = rand::random_range(RANGE);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() && given.insert(port) {
            return port;
        }
    }
}

/// Starts a server on free ports, again if it ends instead because another process took one.
///
/// # Panics
///
/// If it never starts, with the last reason.
pub(crate) fn retry<T>(what: &str, mut start: impl FnMut() -> Result<T, String>) -> T {
    let mut last = String::new();
    for _ in 0..ATTEMPTS {
        match start() {
            Ok(started) => return started,
            Err(reason) => last = reason,
        }
    }
    panic!("{what} does not start: {last}")
}

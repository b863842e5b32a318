//! How fast participants and addresses may send.
//!
//! One client that sends in a loop must not slow the others down, and a flood of new names must not
//! fill the memory. So each key, by a hash that nobody outside can predict, has one of a fixed
//! number of places, each with a rate of its own. The memory is taken at the start and never grows.
//! Two keys share a place, and a rate, with a probability of one in [`PLACES`].
//!
//! Invariant: no key ever makes a table grow.

use std::hash::{BuildHasher, Hash, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, MonotonicClock};
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed, StateStore};
use governor::{Quota, RateLimiter};
use ipnet::IpNet;
use warp::http::HeaderMap;

/// How many places a table has, of 8 bytes each.
const PLACES: usize = 1 << 17;

/// How many seconds' worth may come at once, ten: a page that was asleep, an office that comes
/// back.
const BURST_SECONDS: NonZeroU32 = NonZeroU32::MIN.saturating_add(9);

/// The rate of each key of a kind.
pub(super) struct Rate {
    limiter: RateLimiter<u64, Table, MonotonicClock>,
    hasher: RandomState,
}

impl Rate {
    /// So many requests a second for each key.
    pub(super) fn per_second(rate: NonZeroU32) -> Self {
        let quota = Quota::per_second(rate).allow_burst(rate.saturating_mul(BURST_SECONDS));
        let clock = MonotonicClock;
        Self { limiter: RateLimiter::new(quota, Table::default(), clock), hasher: RandomState::new() }
    }

    /// Counts a request; the error is how long to wait.
    pub(super) fn check(&self, key: impl Hash) -> Result<(), Duration> {
        let place = self.hasher.hash_one(key);
        self.limiter.check_key(&place).map_err(|until| until.wait_time_from(self.limiter.clock().now()))
    }
}

/// The places, each the state of one rate.
struct Table(Box<[InMemoryState]>);

impl Default for Table {
    fn default() -> Self {
        Self((0..PLACES).map(|_| InMemoryState::default()).collect())
    }
}

impl StateStore for Table {
    type Key = u64;

    fn measure_and_replace<T, F, E>(&self, key: &u64, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        #[expect(clippy::cast_possible_truncation, reason = "the remainder is a place")]
        let place = (key % PLACES as u64) as usize;
        self.0[place].measure_and_replace(&NotKeyed::NonKey, decide)
    }
}

/// The address that counts against a rate: a host of IPv4, a network of IPv6, since a host there
/// has as many addresses as it likes.
pub(super) fn of_address(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & (u128::MAX << 64)).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// The address of a client: that of the connection, or if a trusted proxy made it, the last one in
/// `X-Forwarded-For` that is no trusted proxy itself. Whatever precedes it, the client may have
/// invented.
pub(crate) fn client_address(peer: SocketAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(&address));
    let mut client = peer.ip().to_canonical();
    let lists = headers.get_all("x-forwarded-for");
    let lists: Vec<_> = lists.iter().map(|value| value.to_str().unwrap_or("?")).collect();
    for hop in lists.iter().rev().flat_map(|list| list.rsplit(',')) {
        if !is_trusted(client) {
            break;
        }
        // What a proxy can't have written ends the chain.
        let Some(address) = hop_address(hop.trim()) else { break };
        client = address.to_canonical();
    }
    client
}

/// An address of the header, to which some proxies add the port.
fn hop_address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()))
}

/// Parses an address, or a network in CIDR notation.
pub(crate) fn network(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
    text.parse::<IpNet>()
        .ok()
        .or_else(address)
        .ok_or_else(|| "write an address or a network, such as 10.0.0.7 or 10.0.0.0/8".to_owned())
}

#[cfg(test)]
mod tests {
    use warp::http::HeaderValue;

    use super::*;

    #[test]
    fn a_key_has_its_rate_and_others_are_not_slowed_down() {
        let rate = Rate::per_second(NonZeroU32::new(2).unwrap());
        for sent in 0..20 {
            assert_eq!(rate.check("ana"), Ok(()), "{sent}");
        }
        let wait = rate.check("ana").unwrap_err();
        assert!(wait <= Duration::from_millis(500), "{wait:?}");
        let slowed = (0..1000).filter(|other| rate.check(other).is_err()).count();
        assert!(slowed < 5, "{slowed} others have the same place");
    }

    /// Ten million names, in the memory that was there before.
    #[test]
    fn a_flood_of_names_takes_no_memory() {
        let rate = Rate::per_second(NonZeroU32::new(1).unwrap());
        let places = rate.limiter.check_key(&0).map(|()| PLACES).unwrap();
        let mut refused = 0_u32;
        for name in 0..10_000_000_u64 {
            refused += u32::from(rate.check(name).is_err());
        }
        assert!(refused > 0, "places are shared once there are more names than places");
        assert_eq!(rate.limiter.into_state_store().0.len(), places);
    }

    #[test]
    fn only_trusted_proxies_name_a_client() {
        let client = |peer: &str, trusted: &[&str], forwarded: &[&str]| {
            let mut headers = HeaderMap::new();
            for list in forwarded {
                headers.append("x-forwarded-for", HeaderValue::from_str(list).unwrap());
            }
            let trusted: Vec<_> = trusted.iter().map(|text| network(text).unwrap()).collect();
            client_address(peer.parse().unwrap(), &headers, &trusted).to_string()
        };
        assert_eq!(client("192.0.2.1:5", &[], &["198.51.100.9"]), "192.0.2.1");
        let proxies = ["10.0.0.0/8", "2001:db8::/32"];
        assert_eq!(client("10.1.1.1:5", &proxies, &["198.51.100.9"]), "198.51.100.9");
        assert_eq!(client("192.0.2.1:5", &proxies, &["198.51.100.9"]), "192.0.2.1");
        // What the client wrote itself stands before what proxies added.
        assert_eq!(client("10.1.1.1:5", &proxies, &["1.2.3.4, 198.51.100.9, 10.2.2.2"]), "198.51.100.9");
        assert_eq!(client("10.1.1.1:5", &proxies, &["1.2.3.4", "198.51.100.9"]), "198.51.100.9");
        assert_eq!(client("[::ffff:10.1.1.1]:5", &proxies, &["[2001:db9::7]:443"]), "2001:db9::7");
        assert_eq!(client("10.1.1.1:5", &proxies, &["198.51.100.9:4433"]), "198.51.100.9");
        // All of them proxies, or nothing that one would write: the nearest that is known.
        assert_eq!(client("10.1.1.1:5", &proxies, &["10.3.3.3"]), "10.3.3.3");
        assert_eq!(client("10.1.1.1:5", &proxies, &["1.2.3.4, unknown"]), "10.1.1.1");
        assert_eq!(client("10.1.1.1:5", &proxies, &[]), "10.1.1.1");
    }

    #[test]
    fn a_host_of_ipv6_is_its_network() {
        let of = |text: &str| of_address(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), of("2001:db8:1:2::9"));
        assert_ne!(of("2001:db8:1:2::"), of("2001:db8:1:3::"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        for bad in ["", "10.0.0.0/33", "example.com", "10.0.0"] {
            assert!(network(bad).is_err(), "{bad}");
        }
    }
}

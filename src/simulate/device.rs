//! What a person joins with: the kind of client, its release, its platform, and its way to the
//! server.
//!
//! An exporter must cope with clients of unequal knowledge: one that fills frames from `getStats()`
//! knows its candidate pair and what it sends, but no operation of NetEQ; one with a jitter buffer
//! of its own knows those and nothing of the rest. What each can report is in docs/frame.md.
//!
//! Invariant: a client reports the same set of fields for all of its life.

use std::fmt;

use clap::ValueEnum;
use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;

use callsight_frame::{CandidateType, Platform, Protocol, ServerType};

/// The clients of a simulation, by how they come to know what they report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Clients {
    /// Clients of `RTCPeerConnection`.
    #[value(
        help = "Clients that report what `getStats()` has: loss, freezes, what they send and their path."
    )]
    Browser,
    /// Clients that decode audio themselves.
    #[value(
        name = "neteq",
        help = "Clients with a jitter buffer of their own, as of videocall.rs: NetEQ's operations."
    )]
    NetEq,
    /// Half of the clients are of either kind. A region's first server has browsers alone, the
    /// second the others alone.
    #[default]
    #[value(help = "About half of either.")]
    Mix,
    /// Clients of videocall.rs as it is, whose relays publish packets.
    #[value(
        help = "Clients of videocall.rs, no line of it changed: its relays publish packets, which NATS never acknowledges."
    )]
    Videocall,
}

impl Clients {
    /// Whether some clients report what they send.
    pub(super) fn report_sending(self) -> bool {
        matches!(self, Self::Browser | Self::Mix)
    }

    /// Whether some clients report how they join. A packet of videocall.rs comes over the very
    /// connection that could not be made.
    pub(super) fn report_joins(self) -> bool {
        self != Self::Videocall
    }
}

impl fmt::Display for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_possible_value().map_or(Ok(()), |value| f.write_str(value.get_name()))
    }
}

/// The release that scenario `release` breaks: the newest of the web application, which a part of
/// the browsers has.
pub(super) const BROKEN_RELEASE: &str = "web-2.14.0";

/// How a client comes to know what it reports, and what it sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Frames with what `getStats()` has.
    Browser,
    /// Frames with what its own jitter buffer has.
    NetEq,
    /// Packets with what its own jitter buffer has of the last second.
    Videocall,
}

/// A client and its way to the server.
#[derive(Clone, Debug)]
pub(super) struct Device {
    pub(super) kind: Kind,
    pub(super) app: &'static str,
    pub(super) platform: Platform,
    /// Firefox before 142, which has fewer statistics.
    dated: bool,
    pub(super) candidate_type: CandidateType,
    pub(super) protocol: Protocol,
    /// Bandwidth for sending while nothing is congested.
    pub(super) bandwidth_kbps: f64,
    pub(super) server_type: ServerType,
}

impl Device {
    /// Draws a client on the server with this number in its region.
    pub(super) fn draw(clients: Clients, server: usize, rng: &mut Xoshiro256PlusPlus) -> Self {
        // A server mostly speaks one protocol, and its clients are of one kind.
        let kind = match (clients, server) {
            (Clients::Browser, _) | (Clients::Mix, 0) => Kind::Browser,
            (Clients::NetEq, _) | (Clients::Mix, 1) => Kind::NetEq,
            (Clients::Mix, _) if rng.random_bool(0.5) => Kind::Browser,
            (Clients::Mix, _) => Kind::NetEq,
            (Clients::Videocall, _) => Kind::Videocall,
        };
        let platform = match rng.random_range(0..100) {
            0..52 => Platform::Chrome,
            52..66 => Platform::Safari,
            66..76 => Platform::Firefox,
            76..85 => Platform::Android,
            85..94 => Platform::Ios,
            _ => Platform::Desktop,
        };
        // The newest release comes first. The application of the web has just been updated.
        let (releases, updated) = match platform {
            Platform::Android => (["android-5.1.0", "android-5.0.3"], 0.7),
            Platform::Ios => (["ios-5.1.0", "ios-5.0.3"], 0.8),
            Platform::Desktop => (["desktop-1.8.0", "desktop-1.7.4"], 0.6),
            _ => ([BROKEN_RELEASE, "web-2.13.2"], 0.3),
        };
        let candidate_type = match rng.random_range(0..100) {
            0..46 => CandidateType::Host,
            46..86 => CandidateType::ServerReflexive,
            86..89 => CandidateType::PeerReflexive,
            _ => CandidateType::Relay,
        };
        // Who can't send UDP mostly needs a relay.
        let blocked = if candidate_type == CandidateType::Relay { 0.4 } else { 0.02 };
        let protocol = match rng.random_bool(blocked) {
            false => Protocol::Udp,
            true if candidate_type == CandidateType::Relay && rng.random_bool(0.6) => Protocol::Tls,
            true => Protocol::Tcp,
        };
        let server_type = match kind {
            Kind::Browser => ServerType::WebRtc,
            Kind::NetEq if rng.random_bool(0.95) => ServerType::WebTransport,
            Kind::NetEq => ServerType::WebSocket,
            Kind::Videocall => videocall_server(server),
        };
        Self {
            kind,
            app: releases[usize::from(!rng.random_bool(updated))],
            platform,
            dated: platform == Platform::Firefox && rng.random_bool(0.3),
            candidate_type,
            protocol,
            bandwidth_kbps: rng.random_range(3_000.0..9_000.0),
            server_type,
        }
    }

    /// Reports from `getStats()`, else from its own jitter buffer.
    pub(super) fn is_browser(&self) -> bool {
        self.kind == Kind::Browser
    }

    /// Has `candidate-pair.currentRoundTripTime`; without it, only what is sent tells round trips.
    pub(super) fn has_pair_round_trips(&self) -> bool {
        !self.dated
    }

    /// Has `freezeCount`, `totalFreezesDuration` and `jitterBufferTargetDelay`.
    pub(super) fn has_freezes(&self) -> bool {
        self.is_browser() && !self.dated
    }

    /// Has `candidate-pair.availableOutgoingBitrate`.
    pub(super) fn has_bandwidth(&self) -> bool {
        self.is_browser() && self.platform != Platform::Firefox
    }

    /// Has `qualityLimitationDurations`.
    pub(super) fn has_limits(&self) -> bool {
        self.is_browser() && self.platform != Platform::Firefox
    }

    /// The protocol of the first hop, if the client knows it: Safari does not of a relay.
    pub(super) fn known_protocol(&self) -> Option<Protocol> {
        let unknown = self.platform == Platform::Safari && self.candidate_type == CandidateType::Relay;
        (!unknown).then_some(self.protocol)
    }
}

/// Returns what a relay of videocall.rs speaks: each process has one protocol.
pub(super) fn videocall_server(number: usize) -> ServerType {
    if number == 2 { ServerType::WebSocket } else { ServerType::WebTransport }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn draw(clients: Clients) -> Vec<Device> {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
        (0..2_100).map(|number| Device::draw(clients, number % 3, &mut rng)).collect()
    }

    #[test]
    fn a_mix_is_half_of_either_kind() {
        let browsers = |clients| draw(clients).iter().filter(|device| device.is_browser()).count();
        assert_eq!((browsers(Clients::Browser), browsers(Clients::NetEq)), (2_100, 0));
        assert!((950..1_150).contains(&browsers(Clients::Mix)), "{}", browsers(Clients::Mix));
        let mixed = draw(Clients::Mix);
        let has = |browser: bool| mixed.iter().skip(usize::from(!browser)).step_by(3).map(Device::is_browser);
        assert!(
            has(true).all(|browser| browser) && has(false).all(|browser| !browser),
            "one kind per server"
        );
    }

    #[test]
    fn platforms_releases_and_paths_are_spread() {
        let devices = draw(Clients::Browser);
        let share = |is: fn(&Device) -> bool| devices.iter().filter(|device| is(device)).count();
        for platform in Platform::ALL.iter().filter(|platform| **platform != Platform::Other) {
            assert!(devices.iter().any(|device| device.platform == *platform), "{platform:?}");
        }
        assert!((300..600).contains(&share(|device| device.app == BROKEN_RELEASE)));
        assert!((100..350).contains(&share(|device| device.candidate_type == CandidateType::Relay)));
        assert!((1_780..2_060).contains(&share(|device| device.protocol == Protocol::Udp)));
        assert!((20..120).contains(&share(|device| device.dated)));
        assert!(devices.iter().all(|device| device.app.starts_with("web-")
            == matches!(device.platform, Platform::Chrome | Platform::Safari | Platform::Firefox)));
    }
}

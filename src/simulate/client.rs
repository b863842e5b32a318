//! One session: what the person does, what the client measures, and the frames that it sends.
//!
//! Invariant: counters of one session never decrease, and every frame is valid.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;

use super::media::{Reception, Speaker, tenths};
use super::scenario::Path;
use callsight_frame::{
    Frame, MAX_PEERS, MeetingId, Peer, PeerId, Rejection, Seq, Server, ServerType, ServerUrl, SessionId,
};

const NAMES: [&str; 12] =
    ["ana", "ben", "chloe", "dao", "emeka", "fatima", "goran", "hana", "ines", "jun", "kofi", "lena"];

// Average times for which people stay as they are.
const STAYS: Duration = Duration::from_secs(8 * 60);
const KEEPS_MICROPHONE: Duration = Duration::from_secs(40);
const KEEPS_CAMERA: Duration = Duration::from_secs(150);
const LOOKS_AT_TAB: Duration = Duration::from_secs(240);
const LOOKS_AWAY: Duration = Duration::from_secs(25);

/// Share of sessions that crash instead of leaving: browsers die, batteries run out, trains enter
/// tunnels.
const CRASHES: f64 = 0.12;

/// A client's position in the world.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) region: usize,
    pub(super) relay: usize,
    pub(super) meeting: usize,
}

/// A remote peer as a client receives it.
#[derive(Debug)]
struct RemotePeer {
    client: usize,
    serial: u64,
    alive: bool,
    reception: Reception,
}

#[derive(Debug)]
pub(super) struct Client {
    /// Unique, unlike the index in the world's list.
    pub(super) serial: u64,
    pub(super) place: Place,
    pub(super) leaves_at: Duration,
    /// Will crash instead of leaving.
    pub(super) crashes: bool,
    /// Has crashed, and the others have not noticed yet.
    pub(super) crashed: bool,
    /// Is asked to leave, and no longer counts as a session.
    pub(super) departing: bool,
    /// Has sent its last frame.
    pub(super) ended: bool,
    pub(super) peer_id: String,
    session_id: String,
    server_type: ServerType,
    frames: u64,
    joined: Duration,
    acted: Duration,
    audio_enabled: bool,
    video_enabled: bool,
    tab_visible: bool,
    rtt_factor: f64,
    rtt_ms: f64,
    clock_skew_ms: i64,
    peers: Vec<RemotePeer>,
}

impl Client {
    /// Creates a client that joins; `returning` is the name of a person who is back after a crash.
    pub(super) fn join(
        serial: u64,
        place: Place,
        now: Duration,
        returning: Option<String>,
        rng: &mut Xoshiro256PlusPlus,
    ) -> Self {
        let name = NAMES[rng.random_range(0..NAMES.len())];
        let stay = STAYS.mul_f64(-rng.random_range(f64::EPSILON..1.0).ln());
        Self {
            serial,
            place,
            leaves_at: now + stay.max(Duration::from_secs(10)),
            crashes: rng.random_bool(CRASHES),
            crashed: false,
            departing: false,
            ended: false,
            peer_id: returning.unwrap_or_else(|| format!("{name}-{serial}")),
            session_id: format!("{:016x}", rng.random::<u64>()),
            server_type: match rng.random_range(0..10) {
                0..7 => ServerType::WebTransport,
                7..9 => ServerType::WebSocket,
                _ => ServerType::WebRtc,
            },
            frames: 0,
            joined: now,
            acted: now,
            audio_enabled: rng.random_bool(0.6),
            video_enabled: rng.random_bool(0.7),
            tab_visible: true,
            rtt_factor: rng.random_range(0.8..1.3),
            rtt_ms: 0.0,
            // Most clocks are accurate to a fraction of a second, some are minutes off.
            clock_skew_ms: if rng.random_bool(0.02) {
                rng.random_range(-300_000..300_000)
            } else {
                rng.random_range(-80..80)
            },
            peers: Vec::new(),
        }
    }

    /// Lets the person mute, stop the camera, or look at another tab.
    pub(super) fn act(&mut self, now: Duration, rng: &mut Xoshiro256PlusPlus) {
        let passed = now.saturating_sub(self.acted).as_secs_f64();
        self.acted = now;
        let mut change = |state: &mut bool, after: Duration| {
            *state ^= rng.random_bool((passed / after.as_secs_f64()).min(1.0));
        };
        change(&mut self.audio_enabled, KEEPS_MICROPHONE);
        change(&mut self.video_enabled, KEEPS_CAMERA);
        let looks = if self.tab_visible { LOOKS_AT_TAB } else { LOOKS_AWAY };
        change(&mut self.tab_visible, looks);
    }

    /// Measures what is received from the others. A hidden tab measures nothing and catches up
    /// later.
    pub(super) fn measure(
        &mut self,
        now: Duration,
        members: &[usize],
        clients: &[Option<Box<Client>>],
        paths: &[Path],
        rng: &mut Xoshiro256PlusPlus,
    ) {
        let path = paths[self.place.region];
        if self.tab_visible {
            let noise = rng.random_range(-0.5..1.0) * path.jitter_ms;
            self.rtt_ms = tenths((path.rtt_ms * self.rtt_factor + noise).max(1.0));
        }
        // Members keep their order, so peers are in the order of the members that are still there.
        let mut position = 0;
        for member in members {
            let Some(Some(other)) = clients.get(*member) else { continue };
            if other.serial == self.serial {
                continue;
            }
            while self.peers.get(position).is_some_and(|peer| peer.serial != other.serial) {
                self.peers.remove(position);
            }
            if position == self.peers.len() {
                let since = self.joined.max(other.joined);
                let reception = Reception::new(since);
                self.peers.push(RemotePeer { client: *member, serial: other.serial, alive: true, reception });
            }
            let peer = &mut self.peers[position];
            peer.alive = !other.crashed;
            if self.tab_visible {
                let speaker = Speaker {
                    audio_enabled: other.audio_enabled,
                    video_enabled: other.video_enabled,
                    alive: !other.crashed,
                };
                peer.reception.advance(now, path.after(paths[other.place.region]), speaker, rng);
            }
            position += 1;
        }
        self.peers.truncate(position);
        self.frames += 1;
    }

    /// Returns the client's frame.
    pub(super) fn frame<'a>(
        &'a self,
        meeting_id: &'a str,
        server_url: &'a str,
        true_time_ms: u64,
        clients: &'a [Option<Box<Client>>],
    ) -> Frame<'a> {
        let peer = |peer: &RemotePeer| {
            let other = clients.get(peer.client)?.as_ref()?;
            Some(Peer {
                can_listen: peer.alive,
                can_see: peer.alive && other.video_enabled,
                audio_enabled: other.audio_enabled,
                video_enabled: other.video_enabled,
                audio: Some(peer.reception.audio()),
                video: peer.reception.video(),
                ..Peer::new(plain(PeerId::new(&other.peer_id)))
            })
        };
        let server = Server::new(plain(ServerUrl::new(server_url)), self.server_type);
        Frame {
            ended: self.ended.then_some(true),
            server: Some(Server { rtt_ms: Some(self.rtt_ms), ..server }),
            audio_enabled: Some(self.audio_enabled),
            video_enabled: Some(self.video_enabled),
            tab_visible: Some(self.tab_visible),
            peers: self.peers.iter().filter_map(peer).take(MAX_PEERS).collect(),
            ..Frame::new(
                plain(MeetingId::new(meeting_id)),
                plain(SessionId::new(&self.session_id)),
                plain(PeerId::new(&self.peer_id)),
                Seq::new(self.frames).unwrap_or(Seq::FIRST),
                true_time_ms.saturating_add_signed(self.clock_skew_ms),
            )
        }
    }
}

/// Unwraps an identifier or a URL that is made here, of plain characters: see NAMES, OCCASIONS and
/// Relay.
#[expect(clippy::expect_used, reason = "the simulator's names are short and plain")]
fn plain<T>(made: Result<T, Rejection>) -> T {
    made.expect("a plain name")
}

//! One session: what the person does, what the client measures, and the frames that it sends.
//!
//! Invariant: counters of one session never decrease, and every frame is valid.

use std::time::Duration;

use prost::Message;
use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;

use super::device::{Device, Kind};
use super::media::{Reception, Speaker, Wish, tenths};
use super::packet::HealthPacket;
use super::scenario::Conditions;
use super::sending::Outgoing;
use callsight_frame::{
    App, Client as ClientInfo, Frame, Join, JoinFailure, JoinState, MAX_PEERS, MeetingId, Path, Peer, PeerId,
    Rejection, Seq, Server, ServerUrl, SessionId,
};

const NAMES: [&str; 12] =
    ["ana", "ben", "chloe", "dao", "emeka", "fatima", "goran", "hana", "ines", "jun", "kofi", "lena"];

// Average times for which people stay as they are.
const STAYS: Duration = Duration::from_secs(8 * 60);
const KEEPS_MICROPHONE: Duration = Duration::from_secs(40);
const KEEPS_CAMERA: Duration = Duration::from_secs(150);
const LOOKS_AT_TAB: Duration = Duration::from_secs(240);
const LOOKS_AWAY: Duration = Duration::from_secs(25);
const LOOKS_AT_ALL: Duration = Duration::from_secs(300);
const LOOKS_AT_ONE: Duration = Duration::from_secs(60);
const LISTENS: Duration = Duration::from_secs(30 * 60);
const LISTENS_NOT: Duration = Duration::from_secs(30);
const SHARES_NOTHING: Duration = Duration::from_secs(20 * 60);
const SHARES_SCREEN: Duration = Duration::from_secs(90);

/// Average time between two ICE restarts, as when a person walks out of the range of a network.
const KEEPS_NETWORK: Duration = Duration::from_secs(60 * 60);

/// Share of sessions that crash instead of leaving: browsers die, batteries run out, trains enter
/// tunnels.
const CRASHES: f64 = 0.12;

/// Videos that fit on a page; those of further peers are not asked for.
const TILES: usize = 9;

/// Time for which a person stays after a failed attempt to join.
const TRIES_AGAIN_AFTER: Duration = Duration::from_secs(12);

/// Round trips that joining a call takes.
const JOIN_ROUND_TRIPS: f64 = 6.0;

/// A client's position in the world.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) region: usize,
    pub(super) relay: usize,
    pub(super) meeting: usize,
}

/// Who a person was before: in a session that crashed, or in one that could not join.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Former {
    pub(super) peer_id: String,
    pub(super) serial: u64,
}

/// A remote peer as a client receives it.
#[derive(Debug)]
struct RemotePeer {
    client: usize,
    serial: u64,
    wish: Wish,
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
    pub(super) device: Device,
    /// Decides whether a scenario that affects a share of the clients affects this one.
    pub(super) luck: f64,
    pub(super) conditions: Conditions,
    pub(super) attempt: Attempt,
    /// The session whose counters go on with this one, as others see it.
    succeeds: Option<u64>,
    session_id: String,
    frames: u64,
    acted: Duration,
    audio_enabled: bool,
    video_enabled: bool,
    tab_visible: bool,
    /// The tab was hidden at any time since the previous frame.
    hidden: bool,
    looks_at_all: bool,
    listens: bool,
    shares_screen: bool,
    rtt_factor: f64,
    rtt_ms: f64,
    clock_skew_ms: i64,
    ice_restarts: u64,
    outgoing: Outgoing,
    /// What of that the frozen statistics of a hidden tab show.
    reported: Outgoing,
    peers: Vec<RemotePeer>,
}

/// An attempt to join a call.
///
/// A client's first frame says how it went; only one that takes longer than an interval sends a
/// frame before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    /// Time that it takes until it succeeds or fails.
    setup: Duration,
    /// Time of the first frame, and how long the attempt has taken by then.
    first_frame: Duration,
    before: Duration,
    fails: bool,
    state: JoinState,
}

impl Attempt {
    pub(super) fn is_joined(&self) -> bool {
        self.state == JoinState::Joined
    }

    pub(super) fn is_going_on(&self) -> bool {
        self.state == JoinState::Joining
    }

    pub(super) fn has_failed(&self) -> bool {
        self.state == JoinState::Failed
    }

    fn taken(&self, now: Duration) -> Duration {
        self.before + now.saturating_sub(self.first_frame)
    }
}

/// What a client is made of.
pub(super) struct NewClient {
    pub(super) serial: u64,
    pub(super) place: Place,
    /// Who it was before, of a person who is back.
    pub(super) former: Option<Former>,
    pub(super) device: Device,
    pub(super) luck: f64,
    pub(super) conditions: Conditions,
    /// Whether the attempt to join will fail.
    pub(super) fails: bool,
}

impl Client {
    /// Creates a client that is about to send its first frame.
    pub(super) fn join(
        new: NewClient,
        now: Duration,
        interval: Duration,
        rng: &mut Xoshiro256PlusPlus,
    ) -> Self {
        let NewClient { serial, place, former, device, luck, conditions, fails } = new;
        let name = NAMES[rng.random_range(0..NAMES.len())];
        let stay = STAYS.mul_f64(-rng.random_range(f64::EPSILON..1.0).ln());
        let setup_ms = if fails {
            // ICE tries for so long.
            rng.random_range(6_000.0..10_000.0)
        } else {
            rng.random_range(150.0..700.0) + JOIN_ROUND_TRIPS * conditions.rtt_ms
        };
        let setup = Duration::from_secs_f64(setup_ms / 1_000.0);
        // Who uses videocall.rs is known by an e-mail address, and its sessions have numbers.
        let videocall = device.kind == Kind::Videocall;
        let (succeeds, peer_id) = match former {
            Some(former) => (Some(former.serial), former.peer_id),
            None if videocall => (None, format!("{name}-{serial}@example.com")),
            None => (None, format!("{name}-{serial}")),
        };
        let session_id = |id: u64| if videocall { id.to_string() } else { format!("{id:016x}") };
        Self {
            serial,
            place,
            leaves_at: now + setup + stay.max(Duration::from_secs(10)),
            crashes: rng.random_bool(CRASHES),
            crashed: false,
            departing: false,
            ended: false,
            peer_id,
            device,
            luck,
            conditions,
            attempt: Attempt {
                setup,
                first_frame: now,
                before: setup.min(interval),
                fails,
                state: JoinState::Joining,
            },
            succeeds,
            session_id: session_id(rng.random()),
            frames: 0,
            acted: now,
            audio_enabled: rng.random_bool(0.6),
            video_enabled: rng.random_bool(0.7),
            tab_visible: true,
            hidden: false,
            looks_at_all: rng.random_bool(0.85),
            listens: true,
            shares_screen: false,
            rtt_factor: rng.random_range(0.8..1.3),
            rtt_ms: 0.0,
            // Most clocks are accurate to a fraction of a second, some are minutes off.
            clock_skew_ms: if rng.random_bool(0.02) {
                rng.random_range(-300_000..300_000)
            } else {
                rng.random_range(-80..80)
            },
            ice_restarts: 0,
            outgoing: Outgoing::default(),
            reported: Outgoing::default(),
            peers: Vec::new(),
        }
    }

    /// Returns who the person is in a later session.
    pub(super) fn former(&self) -> Former {
        Former { peer_id: self.peer_id.clone(), serial: self.serial }
    }

    /// Lets an attempt to join end when its time has come; true if the client has just joined.
    pub(super) fn try_to_join(&mut self, now: Duration) -> bool {
        let attempt = &mut self.attempt;
        if attempt.state != JoinState::Joining || attempt.taken(now) < attempt.setup {
            return false;
        }
        if attempt.fails {
            attempt.state = JoinState::Failed;
            (self.leaves_at, self.crashes) = (now + TRIES_AGAIN_AFTER, false);
        } else {
            attempt.state = JoinState::Joined;
            self.acted = now;
        }
        attempt.is_joined()
    }

    /// Lets the person mute, stop the camera, look at another tab, share the screen, and so on.
    fn act(&mut self, now: Duration, rng: &mut Xoshiro256PlusPlus) -> Duration {
        let passed = now.saturating_sub(self.acted);
        self.acted = now;
        let mut change = |state: &mut bool, while_on: Duration, while_off: Duration| {
            let after = if *state { while_on } else { while_off };
            *state ^= rng.random_bool((passed.as_secs_f64() / after.as_secs_f64()).min(1.0));
        };
        change(&mut self.audio_enabled, KEEPS_MICROPHONE, KEEPS_MICROPHONE);
        change(&mut self.video_enabled, KEEPS_CAMERA, KEEPS_CAMERA);
        let was_visible = self.tab_visible;
        change(&mut self.tab_visible, LOOKS_AT_TAB, LOOKS_AWAY);
        self.hidden = !(was_visible && self.tab_visible);
        change(&mut self.looks_at_all, LOOKS_AT_ALL, LOOKS_AT_ONE);
        change(&mut self.listens, LISTENS, LISTENS_NOT);
        change(&mut self.shares_screen, SHARES_SCREEN, SHARES_NOTHING);
        let mut restarts = false;
        change(&mut restarts, KEEPS_NETWORK, KEEPS_NETWORK);
        self.ice_restarts += u64::from(restarts);
        passed
    }

    /// Sends media, and measures what is received from the others. A hidden tab measures nothing
    /// and catches up later.
    pub(super) fn measure(
        &mut self,
        now: Duration,
        members: &[usize],
        clients: &[Option<Box<Client>>],
        rng: &mut Xoshiro256PlusPlus,
    ) {
        self.frames += 1;
        if !self.attempt.is_joined() {
            return;
        }
        let passed = self.act(now, rng);
        let conditions = self.conditions;
        let noise = rng.random_range(-0.5..1.0) * conditions.jitter_ms;
        let rtt_ms = (conditions.rtt_ms * self.rtt_factor + noise).max(1.0);
        let on = [self.audio_enabled, self.video_enabled, self.shares_screen];
        self.outgoing.advance(passed, on, &conditions, rtt_ms, self.device.bandwidth_kbps, rng);
        if self.tab_visible {
            self.rtt_ms = tenths(rtt_ms);
            self.reported = self.outgoing.clone();
        }
        let others = || members.iter().filter_map(|member| Some((*member, clients.get(*member)?.as_ref()?)));
        let is_other = |other: &Client| other.serial != self.serial && other.attempt.is_joined();
        let count = others().filter(|(_, other)| is_other(other)).count();
        let shown = if self.looks_at_all { TILES } else { 1 };
        let tile = match count.min(shown) {
            0 | 1 => 720,
            2..=4 => 360,
            _ => 180,
        };
        // Members keep their order, so peers are in the order of the members that are still there.
        // Who is back after a crash is at the end.
        let mut gone = Vec::new();
        let mut position = 0;
        for (member, other) in others() {
            if !is_other(other) {
                continue;
            }
            while self.peers.get(position).is_some_and(|peer| peer.serial != other.serial) {
                gone.push(self.peers.remove(position));
            }
            let wish = Wish { audio: self.listens, video: position < shown, tile };
            if position == self.peers.len() {
                let before = gone.iter().position(|peer: &RemotePeer| Some(peer.serial) == other.succeeds);
                let reception = match before {
                    Some(before) => gone.swap_remove(before).reception,
                    None => Reception::new(self.joined_at().max(other.joined_at())),
                };
                self.peers.push(RemotePeer { client: member, serial: other.serial, wish, reception });
            }
            let peer = &mut self.peers[position];
            peer.wish = wish;
            if self.tab_visible {
                let speaker = Speaker {
                    audio_enabled: other.audio_enabled,
                    camera: other.outgoing.camera,
                    screen: other.outgoing.screen,
                    alive: !other.crashed,
                };
                let link = conditions.from(&other.conditions);
                if self.device.kind == Kind::Videocall {
                    peer.reception.advance_by_seconds(now, link, speaker, wish, self.hidden, rng);
                } else {
                    peer.reception.advance(now, link, speaker, wish, self.hidden, rng);
                }
            }
            position += 1;
        }
        self.peers.truncate(position);
    }

    fn joined_at(&self) -> Duration {
        self.attempt.first_frame + self.attempt.setup.saturating_sub(self.attempt.before)
    }

    /// Returns the client's frame.
    pub(super) fn frame<'a>(
        &'a self,
        meeting_id: &'a str,
        server_url: &'a str,
        now: Duration,
        true_time_ms: u64,
        clients: &'a [Option<Box<Client>>],
    ) -> Frame<'a> {
        let device = &self.device;
        let joined = self.attempt.is_joined();
        let unwanted = |wanted: bool| (!wanted).then_some(false);
        let peer = |peer: &RemotePeer| {
            let other = clients.get(peer.client)?.as_ref()?;
            Some(Peer {
                can_listen: self.hidden || peer.reception.can_listen(),
                can_see: self.hidden || peer.reception.can_see(),
                audio_enabled: other.audio_enabled,
                video_enabled: other.video_enabled,
                audio: Some(peer.reception.audio(device)),
                video: peer.reception.video(device),
                audio_wanted: unwanted(peer.wish.audio),
                video_wanted: unwanted(peer.wish.video),
                screen: peer.reception.screen(device),
                ..Peer::new(plain(PeerId::new(&other.peer_id)))
            })
        };
        let server = Server::new(plain(ServerUrl::new(server_url)), device.server_type);
        let rtt_ms = if device.has_pair_round_trips() { self.rtt_ms } else { self.reported.rtt_ms() };
        Frame {
            ended: self.ended.then_some(true),
            server: Some(Server { rtt_ms: joined.then_some(rtt_ms), ..server }),
            audio_enabled: Some(joined && self.audio_enabled),
            video_enabled: Some(joined && self.video_enabled),
            tab_visible: Some(!self.hidden),
            peers: self.peers.iter().filter_map(peer).take(MAX_PEERS).collect(),
            client: Some(ClientInfo {
                app: Some(plain(App::new(device.app))),
                platform: Some(device.platform),
            }),
            path: (joined && device.is_browser()).then(|| self.path()),
            send: (joined && device.is_browser()).then(|| self.reported.report(device)),
            join: Some(self.join_report(now)),
            ..Frame::new(
                plain(MeetingId::new(meeting_id)),
                plain(SessionId::new(&self.session_id)),
                plain(PeerId::new(&self.peer_id)),
                Seq::new(self.frames).unwrap_or(Seq::FIRST),
                true_time_ms.saturating_add_signed(self.clock_skew_ms),
            )
        }
    }

    /// Returns what the relay publishes in place of this frame, of a client of videocall.rs; empty
    /// if that is nothing, as of who is not connected, has left, or is alone.
    pub(super) fn packet(&self, frame: &Frame<'_>, clients: &[Option<Box<Client>>]) -> Vec<u8> {
        if frame.peers.is_empty() || self.ended || !self.attempt.is_joined() {
            return Vec::new();
        }
        let there = |peer: &&RemotePeer| matches!(clients.get(peer.client), Some(Some(_)));
        let rates = self.peers.iter().filter(there).map(|peer| peer.reception.rates());
        HealthPacket::of(frame, rates).encode_to_vec()
    }

    fn path(&self) -> Path {
        let device = &self.device;
        Path {
            candidate_type: Some(device.candidate_type),
            protocol: device.known_protocol(),
            available_outgoing_kbps: device.has_bandwidth().then(|| self.reported.available_kbps()),
            ice_restarts: Some(self.ice_restarts),
        }
    }

    fn join_report(&self, now: Duration) -> Join {
        let attempt = &self.attempt;
        let (state, reason) = match attempt.state {
            JoinState::Failed => (JoinState::Failed, Some(JoinFailure::Ice)),
            // The user leaves first.
            JoinState::Joining if self.ended => (JoinState::Failed, Some(JoinFailure::Aborted)),
            state => (state, None),
        };
        let taken = attempt.taken(now).min(attempt.setup);
        Join { state, setup_ms: Some(tenths(taken.as_secs_f64() * 1_000.0)), reason }
    }
}

/// Unwraps an identifier or a URL that is made here, of plain characters: see NAMES, OCCASIONS and
/// Relay.
#[expect(clippy::expect_used, reason = "the simulator's names are short and plain")]
fn plain<T>(made: Result<T, Rejection>) -> T {
    made.expect("a plain name")
}

//! The pure half of the simulator: an agenda of events in simulated time.
//!
//! Invariant: a world does no I/O, reads no clock and draws all chance from its seed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use super::client::{Client, Former, NewClient, Place};
use super::config::SimulateConfig;
use super::device::{Clients, Device, Kind, videocall_server};
use super::meeting::Meetings;
use super::scenario::{Rhythm, Scenario, ServerState};
use callsight_frame::Frame;
use callsight_frame::subject::Region;

/// Number of relays per region.
const RELAYS: usize = 3;

/// Interval at which the number of sessions is corrected.
const CENSUS: Duration = Duration::from_millis(200);

/// Time until the others notice a crash.
const MISSED_AFTER: Duration = Duration::from_secs(10);

/// Share of people who try again after they could not join.
const TRIES_AGAIN: f64 = 0.8;

/// Share of joins to a meeting with people of all regions.
const INTERNATIONAL: f64 = 0.15;

/// A media server, which publishes its clients' frames.
#[derive(Clone, Debug)]
pub struct Relay {
    /// Region of the relay.
    pub region: Region,
    /// Kind of service, as in the subject.
    pub service_type: &'static str,
    /// Name of the relay, as in the subject.
    pub server_id: String,
    /// Address that clients report as the elected server.
    pub url: String,
}

/// A frame that is due.
#[derive(Debug)]
pub struct Event<'a> {
    /// Time since the world began.
    pub due: Duration,
    pub relay: usize,
    /// What the client has to report.
    pub frame: Frame<'a>,
    /// What its relay publishes instead of the frame, of a client of videocall.rs.
    pub packet: Option<Vec<u8>>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    /// A new person joins in a region.
    Join { region: usize },
    /// A person is back after a crash.
    Return { region: usize, meeting: usize, crashed: usize, former: Former },
    /// A person who could not join tries again on the same relay.
    Retry { relay: usize, meeting: usize, former: Former },
    /// A session sends a frame.
    Speak { client: usize, serial: u64 },
    /// The others notice a crash.
    Miss { client: usize, serial: u64 },
    /// The number of sessions is corrected.
    Census,
}

/// The numbers of a region's sessions.
#[derive(Clone, Copy, Debug, Default)]
struct RegionSessions {
    usual: usize,
    /// In calls, and not asked to leave.
    present: usize,
    expected: usize,
}

/// Meetings, clients and networks, from a seed. See the [module](super).
#[derive(Debug)]
pub struct World {
    kinds: Clients,
    scenario: Scenario,
    rhythm: Rhythm,
    interval: Duration,
    started_at_ms: u64,
    regions: Vec<Region>,
    relays: Vec<Relay>,
    rng: Xoshiro256PlusPlus,
    now: Duration,
    /// Events by time, and in the order of planning at the same time.
    agenda: BinaryHeap<Reverse<(Duration, u64, Due)>>,
    planned: u64,
    meetings: Meetings,
    clients: Vec<Option<Box<Client>>>,
    free: Vec<usize>,
    joined: u64,
    population: Vec<RegionSessions>,
    /// Each relay's state, as of the last census.
    servers: Vec<ServerState>,
    /// Client whose last frame may still be borrowed.
    gone: Option<usize>,
    /// Next index of [`World::leave_next`].
    left: usize,
}

impl World {
    /// Creates an empty world. Sessions join, and send their first frames, evenly over the first
    /// interval.
    ///
    /// `started_at_ms` is the true time at its beginning, in Unix milliseconds; clients' clocks
    /// deviate from it.
    #[must_use]
    pub fn new(config: &SimulateConfig, started_at_ms: u64) -> Self {
        let regions = config.regions.clone();
        let relay = |region: &Region, number: usize| Relay {
            region: region.clone(),
            service_type: match config.clients {
                Clients::Videocall => videocall_server((number - 1) % RELAYS).label(),
                _ => "relay",
            },
            server_id: format!("relay-{region}-{number}"),
            url: format!("https://relay-{region}-{number}.example.com:4433"),
        };
        let relays =
            regions.iter().flat_map(|region| (1..=RELAYS).map(move |number| relay(region, number))).collect();
        let share = |region: usize| {
            config.sessions / regions.len() + usize::from(region < config.sessions % regions.len())
        };
        let population: Vec<RegionSessions> = (0..regions.len())
            .map(|region| RegionSessions { usual: share(region), expected: share(region), present: 0 })
            .collect();
        let mut world = Self {
            kinds: config.clients,
            scenario: config.scenario,
            rhythm: config.rhythm,
            interval: config.effective_interval(),
            started_at_ms,
            relays,
            rng: Xoshiro256PlusPlus::seed_from_u64(config.seed),
            now: Duration::ZERO,
            agenda: BinaryHeap::new(),
            planned: 0,
            meetings: Meetings::new(regions.len() + 1, config.meeting_size, config.seed),
            clients: Vec::new(),
            free: Vec::new(),
            joined: 0,
            population,
            servers: Vec::new(),
            gone: None,
            left: 0,
            regions,
        };
        world.update_servers();
        for region in 0..world.regions.len() {
            let count = world.population[region].usual;
            world.plan_joins(region, count, world.interval);
        }
        world.plan(CENSUS, Due::Census);
        world
    }

    /// Returns the media servers.
    #[must_use]
    pub fn relays(&self) -> &[Relay] {
        &self.relays
    }

    /// Returns the number of sessions in calls.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.population.iter().map(|region| region.present).sum()
    }

    /// Returns the time of the next event, since the world began.
    #[must_use]
    pub fn next_due(&self) -> Duration {
        self.agenda.peek().map_or(Duration::MAX, |Reverse((due, ..))| *due)
    }

    /// Processes the next event; `None` if nothing is to be published.
    pub fn advance(&mut self) -> Option<Event<'_>> {
        self.remove_gone();
        let Reverse((now, _, due)) = self.agenda.pop()?;
        self.now = now;
        let speaker = match due {
            Due::Join { region } => self.join(region, None, None),
            Due::Return { region, meeting, crashed, former } => {
                self.miss(crashed, former.serial);
                self.join(region, None, Some((meeting, former)))
            }
            Due::Retry { relay, meeting, former } => {
                self.join(relay / RELAYS, Some(relay), Some((meeting, former)))
            }
            Due::Speak { client, serial } => self.speak(client, serial)?,
            Due::Miss { client, serial } => {
                self.miss(client, serial);
                return None;
            }
            Due::Census => {
                self.census();
                return None;
            }
        };
        self.event(speaker)
    }

    /// Lets the next session leave with its last frame; `None` once all have. Nothing else may
    /// follow.
    pub fn leave_next(&mut self) -> Option<Event<'_>> {
        self.remove_gone();
        while self.left < self.clients.len() {
            let index = self.left;
            self.left += 1;
            // A packet of videocall.rs says no goodbye.
            let speaks = |client: &Client| !client.crashed && client.device.kind != Kind::Videocall;
            if self.clients[index].as_deref().is_some_and(speaks) {
                self.utter(index, true)?;
                return self.event(index);
            }
        }
        None
    }

    fn event(&self, index: usize) -> Option<Event<'_>> {
        let client = self.clients[index].as_ref()?;
        let relay = client.place.relay;
        let meeting = self.meetings.get(client.place.meeting)?;
        let time_ms = self.started_at_ms + self.now.as_millis() as u64;
        let frame = client.frame(&meeting.id, &self.relays[relay].url, self.now, time_ms, &self.clients);
        let packet = (client.device.kind == Kind::Videocall).then(|| client.packet(&frame, &self.clients));
        if packet.as_ref().is_some_and(Vec::is_empty) {
            return None;
        }
        Some(Event { due: self.now, relay, frame, packet })
    }

    fn plan(&mut self, after: Duration, due: Due) {
        self.planned += 1;
        self.agenda.push(Reverse((self.now + after, self.planned, due)));
    }

    fn plan_joins(&mut self, region: usize, count: usize, over: Duration) {
        for place in 0..count {
            let share = (place as f64 + self.rng.random_range(0.0..1.0)) / count as f64;
            self.plan(over.mul_f64(share), Due::Join { region });
        }
    }

    /// Adds a client that joins, on some relay or on a certain one, or is back in a meeting under
    /// the old name, and sends its first frame.
    fn join(&mut self, region: usize, relay: Option<usize>, back: Option<(usize, Former)>) -> usize {
        let index = self.free.pop().unwrap_or_else(|| {
            self.clients.push(None);
            self.clients.len() - 1
        });
        let (meeting, former) = match back {
            Some((meeting, former)) if self.meetings.rejoin(meeting, index) => (meeting, Some(former)),
            _ => {
                let abroad = self.regions.len() > 1 && self.rng.random_bool(INTERNATIONAL);
                let pool = if abroad { self.regions.len() } else { region };
                (self.meetings.join(pool, index, &mut self.rng), None)
            }
        };
        let relay = relay.unwrap_or_else(|| region * RELAYS + self.rng.random_range(0..RELAYS));
        self.joined += 1;
        let device = Device::draw(self.kinds, relay % RELAYS, &mut self.rng);
        let luck = self.rng.random_range(0.0..1.0);
        let server = self.servers[relay];
        let new = NewClient {
            serial: self.joined,
            place: Place { region, relay, meeting },
            former,
            conditions: self.scenario.conditions(server, &device, luck),
            fails: self.scenario.fails_join(server, luck),
            device,
            luck,
        };
        let client = Client::join(new, self.now, self.interval, &mut self.rng);
        self.clients[index] = Some(Box::new(client));
        let population = &mut self.population[region];
        population.present += 1;
        population.expected = population.expected.saturating_sub(1);
        self.utter(index, false);
        index
    }

    /// Processes a session's turn: it sends a frame, perhaps its last, or crashes.
    fn speak(&mut self, index: usize, serial: u64) -> Option<usize> {
        let client = self.clients[index].as_mut().filter(|client| client.serial == serial)?;
        let leaves = client.leaves_at <= self.now && !client.attempt.is_going_on();
        if leaves && client.crashes {
            client.crashed = true;
            let Place { region, meeting, .. } = client.place;
            let (departing, former) = (client.departing, client.former());
            self.plan(MISSED_AFTER, Due::Miss { client: index, serial });
            if !departing {
                self.population[region].present -= 1;
                if self.rng.random_bool(0.6) {
                    self.population[region].expected += 1;
                    let after = MISSED_AFTER.mul_f64(self.rng.random_range(0.2..0.9));
                    self.plan(after, Due::Return { region, meeting, crashed: index, former });
                }
            }
            return None;
        }
        self.utter(index, leaves)
    }

    /// Prepares a client's frame and plans the next one.
    fn utter(&mut self, index: usize, ended: bool) -> Option<usize> {
        let mut client = self.clients[index].take()?;
        let Place { region, relay, meeting } = client.place;
        if client.try_to_join(self.now) {
            self.meetings.connect(meeting, index);
        }
        client.conditions = self.scenario.conditions(self.servers[relay], &client.device, client.luck);
        let members = self.meetings.get(meeting).map_or(&[][..], |meeting| &meeting.members);
        client.measure(self.now, members, &self.clients, &mut self.rng);
        client.ended = ended;
        if ended {
            self.gone = Some(index);
            self.population[region].present -= usize::from(!client.departing);
            if client.attempt.has_failed() && self.rng.random_bool(TRIES_AGAIN) {
                self.population[region].expected += 1;
                let former = client.former();
                self.plan(CENSUS, Due::Retry { relay, meeting, former });
            }
        } else {
            self.plan(self.interval, Due::Speak { client: index, serial: client.serial });
        }
        self.clients[index] = Some(client);
        Some(index)
    }

    /// Removes the client that has sent its last frame.
    fn remove_gone(&mut self) {
        if let Some(index) = self.gone.take() {
            self.forget(index);
        }
    }

    /// Removes a crashed client, unless that was done when the person returned.
    fn miss(&mut self, index: usize, serial: u64) {
        if self.clients[index].as_ref().is_some_and(|client| client.serial == serial && client.crashed) {
            self.forget(index);
        }
    }

    fn forget(&mut self, index: usize) {
        if let Some(client) = self.clients[index].take() {
            self.meetings.leave(client.place.meeting, index);
            self.free.push(index);
        }
    }

    fn update_servers(&mut self) {
        let Self { scenario, rhythm, now, .. } = *self;
        let state = |region, number| scenario.server(region, number == 0, rhythm, now);
        let of_region = |region| (0..RELAYS).map(move |number| state(region, number));
        self.servers = self.regions.iter().flat_map(of_region).collect();
    }

    /// Corrects the number of sessions.
    fn census(&mut self) {
        self.update_servers();
        for region in 0..self.regions.len() {
            let RegionSessions { usual, present, expected } = self.population[region];
            let wanted = (usual as f64 * self.scenario.crowd(self.rhythm, self.now)).round() as usize;
            let coming = present + expected;
            if wanted > coming {
                self.population[region].expected += wanted - coming;
                self.plan_joins(region, wanted - coming, CENSUS);
            }
            for _ in wanted..coming.max(wanted) {
                self.ask_to_leave(region);
            }
        }
        self.plan(CENSUS, Due::Census);
    }

    /// Makes a client of the region leave with its next frame. If none is found soon, the next
    /// census tries again.
    fn ask_to_leave(&mut self, region: usize) {
        for _ in 0..16 {
            if self.clients.is_empty() {
                return;
            }
            let index = self.rng.random_range(0..self.clients.len());
            if let Some(client) = &mut self.clients[index]
                && client.place.region == region
                && client.attempt.is_joined()
                && !(client.crashed || client.departing || client.ended)
            {
                client.departing = true;
                client.crashes = false;
                client.leaves_at = self.now;
                self.population[region].present -= 1;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;

//! The pure half: time in a world of its own, and everything that falls due in it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use super::SimulateConfig;
use super::client::{Client, Place};
use super::meeting::Meetings;
use super::network::Path;
use super::scenario::{Rhythm, Scenario};
use callsight_frame::Frame;
use callsight_frame::subject::Region;

/// Relays of each region.
const RELAYS: usize = 3;

/// How often the number of sessions is compared with what it should be.
const CENSUS: Duration = Duration::from_millis(200);

/// How long it takes until the others notice that someone crashed.
const MISSED_AFTER: Duration = Duration::from_secs(10);

/// The share of joins that are to a meeting with people from every region.
const INTERNATIONAL: f64 = 0.15;

/// A media server, which publishes what its clients say.
#[derive(Clone, Debug)]
pub struct Relay {
    /// The region it is in.
    pub region: Region,
    /// Its name, as it stands in the subject.
    pub server_id: String,
    /// What its clients report as the elected server.
    pub url: String,
}

/// A frame that was said.
#[derive(Debug)]
pub struct Event<'a> {
    /// When, since the world began.
    pub due: Duration,
    /// To whom: a position in [`World::relays`].
    pub relay: usize,
    /// What.
    pub frame: Frame<'a>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    /// Someone new joins in a region.
    Join { region: usize },
    /// Someone who crashed is back.
    Return { region: usize, meeting: usize, peer_id: String, crashed: usize, serial: u64 },
    /// A session speaks.
    Speak { client: usize, serial: u64 },
    /// The others notice that someone crashed.
    Miss { client: usize, serial: u64 },
    /// Sessions are counted.
    Census,
}

/// How many sessions a region has.
#[derive(Clone, Copy, Debug, Default)]
struct Population {
    /// Usual number.
    usual: usize,
    /// In calls now, and not asked to leave.
    present: usize,
    /// About to join.
    expected: usize,
}

/// Meetings, clients and networks, from a seed. See the [module](super).
#[derive(Debug)]
pub struct World {
    scenario: Scenario,
    rhythm: Rhythm,
    interval: Duration,
    started_at_ms: u64,
    regions: Vec<Region>,
    relays: Vec<Relay>,
    rng: Xoshiro256PlusPlus,
    now: Duration,
    /// What falls due, soonest first, and in the order it was planned at the same time.
    agenda: BinaryHeap<Reverse<(Duration, u64, Due)>>,
    planned: u64,
    meetings: Meetings,
    clients: Vec<Option<Box<Client>>>,
    free: Vec<usize>,
    joined: u64,
    population: Vec<Population>,
    /// Each region's network, as of the last census.
    paths: Vec<Path>,
    /// Has said its last word, which may still be borrowed.
    gone: Option<usize>,
    /// How far [`World::leave_next`] got.
    left: usize,
}

impl World {
    /// A world before anyone has joined. Sessions join, and first speak, evenly over the first interval.
    ///
    /// `started_at_ms` is what the clients' clocks show at its beginning, give or take, in Unix milliseconds.
    #[must_use]
    pub fn new(config: &SimulateConfig, started_at_ms: u64) -> Self {
        let regions = config.regions.clone();
        let relay = |region: &Region, number: usize| Relay {
            region: region.clone(),
            server_id: format!("relay-{region}-{number}"),
            url: format!("https://relay-{region}-{number}.example.com:4433"),
        };
        let relays =
            regions.iter().flat_map(|region| (1..=RELAYS).map(move |number| relay(region, number))).collect();
        let share = |region: usize| {
            config.sessions / regions.len() + usize::from(region < config.sessions % regions.len())
        };
        let population: Vec<Population> = (0..regions.len())
            .map(|region| Population { usual: share(region), expected: share(region), present: 0 })
            .collect();
        let mut world = Self {
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
            paths: Vec::new(),
            gone: None,
            left: 0,
            regions,
        };
        world.look_at_networks();
        for region in 0..world.regions.len() {
            let count = world.population[region].usual;
            world.plan_joins(region, count, world.interval);
        }
        world.plan(CENSUS, Due::Census);
        world
    }

    /// The media servers; [`Event::relay`] is a position among them.
    #[must_use]
    pub fn relays(&self) -> &[Relay] {
        &self.relays
    }

    /// Sessions in calls now.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.population.iter().map(|region| region.present).sum()
    }

    /// When the next thing happens, since the world began.
    #[must_use]
    pub fn next_due(&self) -> Duration {
        self.agenda.peek().map_or(Duration::MAX, |Reverse((due, ..))| *due)
    }

    /// Lets the next thing happen. `None` if it is not a frame.
    pub fn advance(&mut self) -> Option<Event<'_>> {
        self.bury();
        let Reverse((now, _, due)) = self.agenda.pop()?;
        self.now = now;
        let speaker = match due {
            Due::Join { region } => self.join(region, None),
            Due::Return { region, meeting, peer_id, crashed, serial } => {
                self.miss(crashed, serial);
                self.join(region, Some((meeting, peer_id)))
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

    /// Lets the next session leave, with its last frame. `None` once all have. Nothing else must follow.
    pub fn leave_next(&mut self) -> Option<Event<'_>> {
        self.bury();
        while self.left < self.clients.len() {
            let index = self.left;
            self.left += 1;
            if self.clients[index].as_ref().is_some_and(|client| !client.crashed) {
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
        let frame = client.frame(&meeting.id, &self.relays[relay].url, time_ms, &self.clients);
        Some(Event { due: self.now, relay, frame })
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

    /// Someone joins, or comes back to a meeting under the old name, and says so at once.
    fn join(&mut self, region: usize, back: Option<(usize, String)>) -> usize {
        let index = self.free.pop().unwrap_or_else(|| {
            self.clients.push(None);
            self.clients.len() - 1
        });
        let (meeting, name) = match back {
            Some((meeting, name)) if self.meetings.rejoin(meeting, index) => (meeting, Some(name)),
            _ => {
                let abroad = self.regions.len() > 1 && self.rng.random_bool(INTERNATIONAL);
                let pool = if abroad { self.regions.len() } else { region };
                (self.meetings.join(pool, index, &mut self.rng), None)
            }
        };
        let relay = region * RELAYS + self.rng.random_range(0..RELAYS);
        self.joined += 1;
        let place = Place { region, relay, meeting };
        let client = Client::join(self.joined, place, self.now, name, &mut self.rng);
        self.clients[index] = Some(Box::new(client));
        let population = &mut self.population[region];
        population.present += 1;
        population.expected = population.expected.saturating_sub(1);
        self.utter(index, false);
        index
    }

    /// A session's time has come: it speaks, for the last time perhaps, or turns out to have crashed.
    fn speak(&mut self, index: usize, serial: u64) -> Option<usize> {
        let client = self.clients[index].as_mut().filter(|client| client.serial == serial)?;
        let leaves = client.leaves_at <= self.now;
        if leaves && client.crashes {
            client.crashed = true;
            let Place { region, meeting, .. } = client.place;
            let (departing, peer_id) = (client.departing, client.peer_id.clone());
            self.plan(MISSED_AFTER, Due::Miss { client: index, serial });
            if !departing {
                self.population[region].present -= 1;
                if self.rng.random_bool(0.6) {
                    self.population[region].expected += 1;
                    let after = MISSED_AFTER.mul_f64(self.rng.random_range(0.2..0.9));
                    self.plan(after, Due::Return { region, meeting, peer_id, crashed: index, serial });
                }
            }
            return None;
        }
        self.utter(index, leaves)
    }

    /// Measures, counts the frame, and plans the next one.
    fn utter(&mut self, index: usize, ended: bool) -> Option<usize> {
        let mut client = self.clients[index].take()?;
        let meeting = self.meetings.get(client.place.meeting);
        let members = meeting.map_or(&[][..], |meeting| &meeting.members);
        client.act(self.now, &mut self.rng);
        client.measure(self.now, members, &self.clients, &self.paths, &mut self.rng);
        client.ended = ended;
        if ended {
            self.gone = Some(index);
            self.population[client.place.region].present -= usize::from(!client.departing);
        } else {
            self.plan(self.interval, Due::Speak { client: index, serial: client.serial });
        }
        self.clients[index] = Some(client);
        Some(index)
    }

    /// Forgets who has said the last word.
    fn bury(&mut self) {
        if let Some(index) = self.gone.take() {
            self.forget(index);
        }
    }

    /// Forgets who crashed, unless that was done when they came back.
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

    fn look_at_networks(&mut self) {
        let Self { scenario, rhythm, now, .. } = *self;
        self.paths = self.regions.iter().map(|region| Path::to(region, scenario, rhythm, now)).collect();
    }

    /// Brings the number of sessions to what it should be.
    fn census(&mut self) {
        self.look_at_networks();
        for region in 0..self.regions.len() {
            let Population { usual, present, expected } = self.population[region];
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

    /// Makes someone of the region leave with the next frame. If nobody is found soon, the next census tries again.
    fn ask_to_leave(&mut self, region: usize) {
        for _ in 0..16 {
            if self.clients.is_empty() {
                return;
            }
            let index = self.rng.random_range(0..self.clients.len());
            if let Some(client) = &mut self.clients[index]
                && client.place.region == region
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

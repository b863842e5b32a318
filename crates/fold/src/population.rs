//! The population: live sessions, participants and meetings, by server.
//!
//! A float adds and subtracts whole numbers exactly, so the gauges themselves count.
//!
//! Invariant: [`Meetings::leave`] undoes one [`Meetings::join`], and what
//! [`Servers::replace_health`] adds it later subtracts.

use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use hashbrown::hash_map::EntryRef;
use metrics::Gauge;
use slab::Slab;

use super::time::StreamTime;
use crate::series::aggregates::{AggregateRecorder, ServerSeries};
use crate::series::judgement::Judgement;

/// The name and type under which sessions without an elected server count.
pub(super) const NO_SERVER: (&str, &str) = ("none", "none");

/// The name under which servers beyond the budget count, each under its own type.
const OTHER_SERVERS: &str = "other";

/// How often servers are looked at that nobody uses.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The index of a server in [`Servers`], which is another's once the server was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ServerIndex(usize);

/// A server, and the population on it.
pub(super) struct Server {
    pub(super) url: Box<str>,
    pub(super) server_type: &'static str,
    pub(super) series: ServerSeries,
    /// How many live sessions are on it.
    sessions: usize,
    /// When it was last used, unless a live session is on it.
    used: StreamTime,
}

impl Server {
    pub(super) fn is(&self, (url, server_type): (&str, &str)) -> bool {
        *self.url == *url && self.server_type == server_type
    }
}

/// The servers of a region, up to the budget. One that nobody uses any more gives its place back.
pub(super) struct Servers {
    region: Box<str>,
    recorder: Arc<AggregateRecorder>,
    limit: usize,
    distinct: usize,
    servers: Slab<Server>,
    by_name: HashMap<&'static str, HashMap<Box<str>, ServerIndex>>,
    looked: StreamTime,
}

impl Servers {
    pub(super) fn new(region: &str, recorder: Arc<AggregateRecorder>, limit: usize) -> Self {
        Self {
            region: region.into(),
            recorder,
            limit,
            distinct: 0,
            servers: Slab::new(),
            by_name: HashMap::new(),
            looked: StreamTime::default(),
        }
    }

    /// The index of a server that is used now; it is registered when it is new. Beyond the budget,
    /// the index that all further servers of its type share.
    pub(super) fn find(&mut self, (url, server_type): (&str, &'static str), now: StreamTime) -> ServerIndex {
        if let Some(index) = self.by_name.get(server_type).and_then(|by_url| by_url.get(url)) {
            let server = &mut self.servers[index.0];
            server.used = server.used.max(now);
            return *index;
        }
        if !is_common(url) {
            if self.distinct == self.limit {
                return self.find((OTHER_SERVERS, server_type), now);
            }
            self.distinct += 1;
        }
        let index = ServerIndex(self.servers.insert(Server {
            url: url.into(),
            server_type,
            series: ServerSeries::register(&*self.recorder, &self.region, url, server_type),
            sessions: 0,
            used: now,
        }));
        self.by_name.entry(server_type).or_default().insert(url.into(), index);
        index
    }

    /// Removes the servers that nobody has used for so long, with all of their series.
    pub(super) fn remove_idle(&mut self, idle: Duration, now: StreamTime) {
        // The clock may have been set back.
        if now >= self.looked && now.since(self.looked) < LOOK_EVERY {
            return;
        }
        self.looked = now;
        let Self { region, recorder, distinct, servers, by_name, .. } = self;
        servers.retain(|_, Server { url, server_type, sessions, used, .. }| {
            if *sessions > 0 || now < *used + idle || is_common(url) {
                return true;
            }
            recorder.remove_server(region, url, server_type);
            if let Some(by_url) = by_name.get_mut(server_type) {
                by_url.remove(url);
            }
            *distinct -= 1;
            false
        });
    }

    /// Whether servers beyond the budget share this index.
    pub(super) fn is_overflow(&self, index: ServerIndex) -> bool {
        *self.get(index).url == *OTHER_SERVERS
    }

    pub(super) fn get(&self, index: ServerIndex) -> &Server {
        &self.servers[index.0]
    }

    /// Replaces a session's part of the gauges.
    pub(super) fn replace_health(&self, index: ServerIndex, before: Health, now: Health) {
        if before == now {
            return;
        }
        let series = &self.get(index).series;
        let flag = |gauge, was, is| shift(gauge, usize::from(was), usize::from(is));
        shift(&series.peer_connections, before.peers, now.peers);
        let (before, now) = (before.judgement, now.judgement);
        flag(&series.one_way_audio, before.one_way_audio, now.one_way_audio);
        flag(&series.degraded_any, before.is_degraded(), now.is_degraded());
        flag(&series.hidden, before.hidden, now.hidden);
        for ((gauge, was), is) in series.degraded.iter().zip(before.signals()).zip(now.signals()) {
            flag(gauge, was, is);
        }
    }
}

fn is_common(url: &str) -> bool {
    url == OTHER_SERVERS || url == NO_SERVER.0
}

#[expect(clippy::cast_precision_loss, reason = "no population comes near 2^53")]
fn shift(gauge: &Gauge, minus: usize, plus: usize) {
    if minus != plus {
        gauge.increment(plus as f64 - minus as f64);
    }
}

/// A live session's part of the gauges of its server.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Health {
    peers: usize,
    /// Without the concealment, which differs from frame to frame.
    judgement: Judgement,
}

impl Health {
    /// The part of a session that has just become live or no longer is.
    pub(super) const NONE: Self = Self { peers: 0, judgement: Judgement::NONE };

    pub(super) const fn new(peers: usize, judgement: Judgement) -> Self {
        Self { peers, judgement: Judgement { concealment: None, ..judgement } }
    }
}

/// A meeting with a live session.
#[derive(Default)]
pub(super) struct Meeting {
    pub(super) sessions: usize,
    /// The live sessions that have a row.
    pub(super) detailed: usize,
    on_server: HashMap<ServerIndex, usize>,
    participants: HashMap<(Box<str>, ServerIndex), usize>,
}

/// The meetings of a region that have a live session.
#[derive(Default)]
pub(super) struct Meetings(HashMap<Box<str>, Meeting>);

impl Meetings {
    pub(super) fn get_mut(&mut self, meeting_id: &str) -> Option<&mut Meeting> {
        self.0.get_mut(meeting_id)
    }

    #[cfg(test)]
    pub(super) fn largest(&self) -> usize {
        self.0.values().map(|meeting| meeting.participants.capacity()).max().unwrap_or_default()
    }

    /// Counts a session of a participant on a server.
    pub(super) fn join(&mut self, servers: &mut Servers, meeting_id: &str, peer_id: &str, on: ServerIndex) {
        let meeting = match self.0.entry_ref(meeting_id) {
            EntryRef::Occupied(entry) => entry.into_mut(),
            EntryRef::Vacant(entry) => entry.insert_with_key(meeting_id.into(), Meeting::default()),
        };
        let Server { series, sessions, .. } = &mut servers.servers[on.0];
        *sessions += 1;
        meeting.sessions += 1;
        series.sessions.increment(1);
        if increment(meeting.on_server.entry(on).or_default()) {
            series.meetings.increment(1);
        }
        if increment(meeting.participants.entry((peer_id.into(), on)).or_default()) {
            series.participants.increment(1);
        }
    }

    /// Uncounts a session that [`Self::join`] counted and that was on the server until a moment.
    pub(super) fn leave(
        &mut self,
        servers: &mut Servers,
        (meeting_id, peer_id): (&str, &str),
        on: ServerIndex,
        until: StreamTime,
    ) {
        let Some(meeting) = self.0.get_mut(meeting_id) else { return };
        let Server { series, sessions, used, .. } = &mut servers.servers[on.0];
        *sessions -= 1;
        *used = (*used).max(until);
        meeting.sessions -= 1;
        series.sessions.decrement(1);
        if decrement(&mut meeting.on_server, &on) {
            series.meetings.decrement(1);
        }
        if decrement(&mut meeting.participants, &(peer_id.into(), on)) {
            series.participants.decrement(1);
        }
        if meeting.sessions == 0 {
            self.0.remove(meeting_id);
            shrink(&mut self.0);
        }
    }
}

/// Counts one more. Returns whether it is the first.
fn increment(count: &mut usize) -> bool {
    *count += 1;
    *count == 1
}

/// Counts one less. Returns whether it was the last, whose entry is removed.
fn decrement<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) -> bool {
    let Some(count) = counts.get_mut(key) else { return false };
    *count -= 1;
    let last = *count == 0 && counts.remove(key).is_some();
    if last {
        shrink(counts);
    }
    last
}

/// Gives back the memory of a map that was much larger: who left must not cost for ever.
pub(super) fn shrink<K: std::hash::Hash + Eq, V>(map: &mut HashMap<K, V>) {
    const WORTH_WHILE: usize = 64;
    if map.capacity() > WORTH_WHILE && map.len() < map.capacity() / 8 {
        map.shrink_to(map.len() * 2);
    }
}

//! The population: live sessions by server, release and path, and participants and meetings by
//! server.
//!
//! A float adds and subtracts whole numbers exactly, so the gauges themselves count.
//!
//! Invariant: [`Meetings::leave`] undoes one [`Meetings::join`], and what [`replace_health`] adds
//! it later subtracts.

use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use hashbrown::hash_map::EntryRef;
use metrics::Gauge;
use slab::Slab;

use super::time::StreamTime;
use crate::series::aggregates::{AggregateRecorder, Evidence, GroupSeries, Limitation, ServerSeries};
use crate::series::catalogue as c;
use crate::series::judgement::Judgement;

/// Stands for a name that sessions do not give: those without an elected server, of no release or
/// of no known path.
pub(super) const NONE: &str = "none";

/// The name under which further groups count, each under its own kind.
const OTHER: &str = "other";

/// How often groups are looked at that nobody uses.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The index of a group in [`Groups`], which is another's once the group was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct GroupIndex(usize);

/// A name that strangers may have chosen, and one of a closed vocabulary: a server and its type, a
/// release and its platform, a candidate and its protocol.
pub(super) type GroupName<'a> = (&'a str, &'static str);

/// Live sessions that have something in common, with their series.
pub(super) struct Group<S> {
    pub(super) name: Box<str>,
    pub(super) kind: &'static str,
    pub(super) series: S,
    /// How many live sessions are in it.
    sessions: usize,
    /// When it was last used, unless a live session is in it.
    used: StreamTime,
}

impl<S> Group<S> {
    pub(super) fn is(&self, (name, kind): GroupName<'_>) -> bool {
        *self.name == *name && self.kind == kind
    }

    pub(super) const fn enter(&mut self) {
        self.sessions += 1;
    }

    pub(super) fn leave(&mut self, at: StreamTime) {
        self.sessions -= 1;
        self.used = self.used.max(at);
    }
}

/// What sessions have in common, and the series that count them by it.
pub(super) trait Grouping {
    type Series;
    /// The labels of the series: the region, the name and the kind.
    const LABELS: &[&str];

    fn register(recorder: &AggregateRecorder, labels: [&str; 3], kind: &'static str) -> Self::Series;
}

/// By elected server.
pub(super) struct ByServer;

/// By release and platform.
pub(super) struct ByClient;

/// By local candidate and protocol.
pub(super) struct ByPath;

impl Grouping for ByServer {
    type Series = ServerSeries;
    const LABELS: &[&str] = c::SESSIONS.labels;

    fn register(
        recorder: &AggregateRecorder,
        [region, url, _]: [&str; 3],
        kind: &'static str,
    ) -> ServerSeries {
        ServerSeries::register(recorder, region, url, kind)
    }
}

impl Grouping for ByClient {
    type Series = GroupSeries;
    const LABELS: &[&str] = c::CLIENT_SESSIONS.labels;

    fn register(recorder: &AggregateRecorder, labels: [&str; 3], _: &'static str) -> GroupSeries {
        GroupSeries::register(recorder, [&c::CLIENT_SESSIONS, &c::CLIENT_SESSIONS_DEGRADED], labels)
    }
}

impl Grouping for ByPath {
    type Series = GroupSeries;
    const LABELS: &[&str] = c::PATH_SESSIONS.labels;

    fn register(recorder: &AggregateRecorder, labels: [&str; 3], _: &'static str) -> GroupSeries {
        GroupSeries::register(recorder, [&c::PATH_SESSIONS, &c::PATH_SESSIONS_DEGRADED], labels)
    }
}

/// The groups of a region, up to the budget. One that nobody uses any more gives its place back.
pub(super) struct Groups<G: Grouping> {
    region: Box<str>,
    recorder: Arc<AggregateRecorder>,
    limit: usize,
    distinct: usize,
    groups: Slab<Group<G::Series>>,
    by_name: HashMap<&'static str, HashMap<Box<str>, GroupIndex>>,
    looked: StreamTime,
}

impl<G: Grouping> Groups<G> {
    pub(super) fn new(region: &str, recorder: Arc<AggregateRecorder>, limit: usize) -> Self {
        Self {
            region: region.into(),
            recorder,
            limit,
            distinct: 0,
            groups: Slab::new(),
            by_name: HashMap::new(),
            looked: StreamTime::default(),
        }
    }

    /// The index of a group that is used now; it is registered when it is new. Beyond the budget,
    /// the index that all further groups of its kind share.
    pub(super) fn find(&mut self, (name, kind): GroupName<'_>, now: StreamTime) -> GroupIndex {
        if let Some(index) = self.by_name.get(kind).and_then(|by_name| by_name.get(name)) {
            let group = &mut self.groups[index.0];
            group.used = group.used.max(now);
            return *index;
        }
        if !is_common(name) {
            if self.distinct == self.limit {
                return self.find((OTHER, kind), now);
            }
            self.distinct += 1;
        }
        let index = GroupIndex(self.groups.insert(Group {
            name: name.into(),
            kind,
            series: G::register(&self.recorder, [&self.region, name, kind], kind),
            sessions: 0,
            used: now,
        }));
        self.by_name.entry(kind).or_default().insert(name.into(), index);
        index
    }

    /// Removes the groups that nobody has used for so long, with all of their series.
    pub(super) fn remove_idle(&mut self, idle: Duration, now: StreamTime) {
        // The clock may have been set back.
        if now >= self.looked && now.since(self.looked) < LOOK_EVERY {
            return;
        }
        self.looked = now;
        let Self { region, recorder, distinct, groups, by_name, .. } = self;
        groups.retain(|_, Group { name, kind, sessions, used, .. }| {
            if *sessions > 0 || now < *used + idle || is_common(name) {
                return true;
            }
            recorder.remove(G::LABELS, [region, name, kind]);
            if let Some(by_name) = by_name.get_mut(kind) {
                by_name.remove(name);
            }
            *distinct -= 1;
            false
        });
    }

    /// Whether groups beyond the budget share this index.
    pub(super) fn is_overflow(&self, index: GroupIndex) -> bool {
        *self.get(index).name == *OTHER
    }

    pub(super) fn get(&self, index: GroupIndex) -> &Group<G::Series> {
        &self.groups[index.0]
    }

    pub(super) fn get_mut(&mut self, index: GroupIndex) -> &mut Group<G::Series> {
        &mut self.groups[index.0]
    }
}

/// The servers of a region.
pub(super) type Servers = Groups<ByServer>;

/// Replaces a session's part of the gauges of its server.
pub(super) fn replace_health(series: &ServerSeries, before: Health, now: Health) {
    if before == now {
        return;
    }
    let flag = |gauge, was, is| shift(gauge, usize::from(was), usize::from(is));
    shift(&series.peer_connections, before.peers, now.peers);
    let (before, now) = (before.judgement, now.judgement);
    flag(&series.one_way_audio, before.one_way_audio, now.one_way_audio);
    flag(&series.degraded_any, before.is_degraded(), now.is_degraded());
    flag(&series.hidden, before.hidden, now.hidden);
    for ((gauge, was), is) in series.degraded.iter().zip(before.signals()).zip(now.signals()) {
        flag(gauge, was, is);
    }
    for (gauge, evidence) in series.evidence.iter().zip(Evidence::ALL) {
        flag(gauge, before.evidence == Some(evidence), now.evidence == Some(evidence));
    }
    for (gauge, by) in series.limited.iter().zip(Limitation::ALL) {
        flag(gauge, before.limited == Some(by), now.limited == Some(by));
    }
}

/// Replaces a session's part of the gauges of one of its groups.
pub(super) fn replace_degraded(series: &GroupSeries, before: Health, now: Health) {
    let degraded = |health: Health| usize::from(health.judgement.is_degraded());
    shift(&series.degraded, degraded(before), degraded(now));
}

fn is_common(name: &str) -> bool {
    name == OTHER || name == NONE
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
    /// Without the measures, which differ from frame to frame.
    pub(super) judgement: Judgement,
}

impl Health {
    /// The part of a session that has just become live or no longer is.
    pub(super) const NONE: Self = Self { peers: 0, judgement: Judgement::NONE };

    pub(super) const fn new(peers: usize, judgement: Judgement) -> Self {
        Self { peers, judgement: Judgement { concealment: None, loss_percent: None, ..judgement } }
    }
}

/// A meeting with a live session.
#[derive(Default)]
pub(super) struct Meeting {
    pub(super) sessions: usize,
    /// The live sessions that have a row.
    pub(super) detailed: usize,
    on_server: HashMap<GroupIndex, usize>,
    participants: HashMap<(Box<str>, GroupIndex), usize>,
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
    pub(super) fn join(&mut self, servers: &mut Servers, meeting_id: &str, peer_id: &str, on: GroupIndex) {
        let meeting = match self.0.entry_ref(meeting_id) {
            EntryRef::Occupied(entry) => entry.into_mut(),
            EntryRef::Vacant(entry) => entry.insert_with_key(meeting_id.into(), Meeting::default()),
        };
        let server = servers.get_mut(on);
        server.enter();
        let series = &server.series;
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
        on: GroupIndex,
        until: StreamTime,
    ) {
        let Some(meeting) = self.0.get_mut(meeting_id) else { return };
        let server = servers.get_mut(on);
        server.leave(until);
        let series = &server.series;
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

//! The promise under any delivery: whatever is lost, repeated or reordered on the way, the state at
//! the end is that of each session's newest frame, and the counters are what the folded frames grew
//! by.

use std::collections::{BTreeSet, HashMap};

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::REMEMBERED;

const PEERS: [&str; 4] = ["p0", "p1", "p2", "p3"];
const MEETINGS: [&str; 2] = ["m0", "m1"];
const RELAYS: [&str; 2] = [RELAY, OTHER_RELAY];

/// How one peer's counters stand in a frame: samples, concealed samples and freezes; none when it
/// is away.
type Counts = Option<[u64; 3]>;

/// A moment as it is drawn, with what the counters grew by in place of where they stand.
type Drawn = (usize, Option<f64>, [Counts; 4]);

/// A session's whole life as its client writes it down.
#[derive(Clone, Debug)]
struct Life {
    id: String,
    meeting: usize,
    peer: usize,
    frames: Vec<Moment>,
    ends: bool,
}

#[derive(Clone, Debug)]
struct Moment {
    relay: usize,
    rtt_ms: Option<f64>,
    peers: [Counts; 4],
}

impl Life {
    fn is_last(&self, index: usize) -> bool {
        self.ends && index + 1 == self.frames.len()
    }

    fn frame(&self, index: usize) -> Frame<'_> {
        let moment = &self.frames[index];
        let mut frame = frame(&self.id, index as u64 + 1)
            .meeting(MEETINGS[self.meeting])
            .of(PEERS[self.peer])
            .on(RELAYS[moment.relay]);
        frame.server.as_mut().unwrap().rtt_ms = moment.rtt_ms;
        frame.ended = self.is_last(index).then_some(true);
        for (id, counts) in PEERS.iter().zip(moment.peers) {
            if let Some([total, concealed, freezes]) = counts {
                frame.peers.push(peer(id).samples(total, concealed).freezes(freezes));
            }
        }
        frame
    }
}

fn lives() -> impl Strategy<Value = Vec<Life>> {
    let growth = proptest::option::weighted(0.8, [0..10_000_u64, 0..500_u64, 0..2_u64]);
    let rtt = proptest::option::weighted(0.8, 0.0..600.0);
    let moment = (0..RELAYS.len(), rtt, proptest::array::uniform4(growth));
    let life = (0..MEETINGS.len(), 0..PEERS.len(), proptest::collection::vec(moment, 1..8), any::<bool>());
    proptest::collection::vec(life, 1..6).prop_map(|lives| {
        let life = |(index, (meeting, peer, moments, ends)): (usize, (usize, usize, Vec<Drawn>, bool))| {
            let mut sums = [[0; 3]; 4];
            let frames = moments.into_iter().map(|(relay, rtt_ms, growth)| {
                let mut peers = growth;
                for (counts, sum) in peers.iter_mut().zip(&mut sums) {
                    let Some(counts) = counts else { continue };
                    for (count, sum) in counts.iter_mut().zip(sum) {
                        *sum += *count;
                        *count = *sum;
                    }
                }
                Moment { relay, rtt_ms, peers }
            });
            Life { id: format!("s{index}"), meeting, peer, frames: frames.collect(), ends }
        };
        lives.into_iter().enumerate().map(life).collect()
    })
}

/// Any delivery of these frames: a pick from all of them, so often that some come twice and some
/// never.
fn delivery() -> impl Strategy<Value = Vec<Index>> {
    proptest::collection::vec(any::<Index>(), 0..60)
}

fn pick<'a>(lives: &'a [Life], index: &Index) -> (&'a Life, usize) {
    let all: Vec<_> =
        lives.iter().flat_map(|life| (0..life.frames.len()).map(move |frame| (life, frame))).collect();
    all[index.index(all.len())]
}

/// What a session's folded frames add up to: a counter's last value, less what it stood at in the
/// first frame, unless that was the session's very first.
fn expected_growth(life: &Life, folded: &[usize]) -> [u64; 3] {
    let mut sums = [0; 3];
    for peer in 0..PEERS.len() {
        let Some(last) = folded.iter().rev().find_map(|index| life.frames[*index].peers[peer]) else {
            continue;
        };
        let met = life.frames[folded[0]].peers[peer].filter(|_| folded[0] > 0).unwrap_or_default();
        for (sum, (last, met)) in sums.iter_mut().zip(last.into_iter().zip(met)) {
            *sum += last - met;
        }
    }
    sums
}

fn assert_population(world: &World, live: &[(&Life, usize)]) {
    let page = world.page();
    let relay_of = |(life, index): &(&Life, usize)| life.frames[*index].relay;
    for (number, relay) in RELAYS.iter().enumerate() {
        let here: Vec<_> = live.iter().filter(|session| relay_of(session) == number).collect();
        let meetings: BTreeSet<_> = here.iter().map(|(life, _)| life.meeting).collect();
        let participants: BTreeSet<_> = here.iter().map(|(life, _)| (life.meeting, life.peer)).collect();
        let connections: usize =
            here.iter().map(|(life, index)| life.frames[*index].peers.iter().flatten().count()).sum();
        let slow =
            here.iter().filter(|(life, index)| life.frames[*index].rtt_ms.is_some_and(|rtt| rtt > 300.0));
        for (metric, labels, count) in [
            ("videocall_sessions", vec![*relay], here.len()),
            ("videocall_meetings", vec![*relay], meetings.len()),
            ("videocall_participants", vec![*relay], participants.len()),
            ("videocall_peer_connections", vec![*relay], connections),
            ("videocall_sessions_degraded", vec![*relay, "rtt"], slow.count()),
        ] {
            assert_eq!(page.sum(metric, &labels), count as f64, "{metric} {labels:?}");
        }
    }
    assert_eq!(world.fold.live_sessions(), live.len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn any_delivery_ends_in_the_state_of_the_newest_frames(lives in lives(), delivery in delivery()) {
        let mut world = World::new();
        // By session, the frames above its watermark, and when the last of them was received.
        let mut folded: HashMap<&str, (&Life, Vec<usize>, StreamTime)> = HashMap::new();
        for index in &delivery {
            let (life, index) = pick(&lives, index);
            let (_, chain, at) = folded.entry(&life.id).or_insert_with(|| (life, Vec::new(), world.now));
            let new = chain.last().is_none_or(|last| index > *last);
            if new {
                chain.push(index);
                *at = world.now;
            }
            let outcome = world.fold(&life.frame(index));
            prop_assert_eq!(outcome, if new { Outcome::Folded } else { Outcome::Repeated });
            world.pass(Duration::from_millis(10));
        }

        let mut newest = World::new();
        newest.now = world.now;
        for (life, chain, at) in folded.values() {
            newest.fold_aged(&life.frame(chain[chain.len() - 1]), world.now.since(*at));
        }
        prop_assert_eq!(world.details(), newest.details());

        let mut sums = [0; 3];
        for (life, chain, _) in folded.values() {
            for (sum, grown) in sums.iter_mut().zip(expected_growth(life, chain)) {
                *sum += grown;
            }
        }
        let counters = ["audio_samples_total", "audio_concealed_samples_total", "video_freezes_total"];
        for (counter, sum) in counters.iter().zip(sums) {
            prop_assert_eq!(world.sum(&format!("videocall_{counter}"), &[]), sum as f64);
        }
        let folds: usize = folded.values().map(|(_, chain, _)| chain.len()).sum();
        prop_assert_eq!(world.sum("callsight_frames_folded_total", &[]), folds as f64);
        let repeats = delivery.len() - folds;
        prop_assert_eq!(world.sum("callsight_frames_repeated_total", &[]), repeats as f64);

        let newest_of = |(life, chain, _): &(_, Vec<usize>, _)| (*life, chain[chain.len() - 1]);
        let live: Vec<(&Life, usize)> =
            folded.values().map(newest_of).filter(|(life, index)| !life.is_last(*index)).collect();
        assert_population(&world, &live);

        world.pass(IDLE);
        world.tick();
        prop_assert!(world.details().is_empty());
        assert_population(&world, &[]);
        world.pass(REMEMBERED);
        world.tick();
        prop_assert!(world.fold.sessions.is_empty());
    }

    #[test]
    fn whatever_is_late_or_idle_the_population_is_that_of_the_live_sessions(
        lives in lives(),
        // Short enough in all that no session is forgotten, so that the model needs to forget none.
        delivery in proptest::collection::vec((any::<Index>(), 0..3000_u64, 0..45_u64), 0..39),
    ) {
        let mut world = World::new();
        let mut newest: HashMap<&str, (&Life, usize, StreamTime)> = HashMap::new();
        for (index, gap_ms, age) in &delivery {
            let (life, index) = pick(&lives, index);
            world.pass(Duration::from_millis(*gap_ms));
            let age = *age as u32 * SECOND;
            world.fold_aged(&life.frame(index), age);
            let at = world.now - age;
            match newest.get_mut(life.id.as_str()) {
                Some((_, known, _)) if index <= *known => {}
                Some((_, known, last_seen)) => (*known, *last_seen) = (index, at.max(*last_seen)),
                None => drop(newest.insert(&life.id, (life, index, at))),
            }
            world.tick();
            let is_live = |(life, index, last_seen): &&(&Life, usize, StreamTime)| {
                !life.is_last(*index) && *last_seen + IDLE > world.now
            };
            let live: Vec<_> =
                newest.values().filter(is_live).map(|(life, index, _)| (*life, *index)).collect();
            assert_population(&world, &live);
            let rows = world.values("videocall_session_last_seen_age_seconds", &[]).len();
            prop_assert_eq!(rows, live.len());
        }
    }
}

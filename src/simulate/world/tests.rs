//! Properties of every world.

use std::collections::{HashMap, HashSet};

use super::super::config::tests::small;
use super::*;
use callsight_frame::{Form, JoinState};

mod fields;
mod packets;
mod trouble;

/// A frame, kept: when, to which relay, and its bytes.
type Said = (Duration, usize, Vec<u8>);

/// Lets a world go on until the end, and then all leave.
fn listen(config: &SimulateConfig, end: Duration, mut also: impl FnMut(&World)) -> Vec<Said> {
    let mut world = World::new(config, 1_760_000_000_000);
    let mut said = Vec::new();
    while world.next_due() < end {
        if let Some(event) = world.advance() {
            said.push((event.due, event.relay, event.frame.encode(Form::Compact)));
        } else {
            also(&world);
        }
    }
    while let Some(event) = world.leave_next() {
        said.push((event.due, event.relay, event.frame.encode(Form::Compact)));
    }
    said
}

fn long() -> Duration {
    Duration::from_secs(20 * 60)
}

#[test]
fn a_seed_decides_everything() {
    let minute = Duration::from_secs(60);
    let first = listen(&small(7, Scenario::FlashCrowd), minute, |_| {});
    assert!(first == listen(&small(7, Scenario::FlashCrowd), minute, |_| {}), "the same, byte for byte");
    let other = listen(&small(8, Scenario::FlashCrowd), minute, |_| {});
    assert!(first.iter().map(|said| &said.2).ne(other.iter().map(|said| &said.2)));
}

#[test]
fn sessions_count_from_one_and_end_for_good() {
    let said = listen(&small(1, Scenario::Steady), long(), |_| {});
    assert!(said.is_sorted_by_key(|said| said.0));
    let mut last: HashMap<String, (u64, bool, usize)> = HashMap::new();
    for (_, relay, bytes) in &said {
        let frame = Frame::decode(bytes).expect("every frame is a valid one");
        let entry = last.entry(frame.session_id.to_string()).or_insert((0, false, *relay));
        assert_eq!(frame.seq.get(), entry.0 + 1, "{}", frame.session_id);
        assert!(!entry.1, "{} spoke after its end", frame.session_id);
        assert_eq!(entry.2, *relay, "a session stays with its relay");
        *entry = (frame.seq.get(), frame.ended == Some(true), *relay);
        let peers: HashSet<_> = frame.peers.iter().map(|peer| peer.peer_id).collect();
        assert_eq!(peers.len(), frame.peers.len(), "nobody is there twice");
        assert!(!peers.contains(&frame.peer_id), "nobody observes oneself");
        assert_eq!(frame.join.unwrap().state, JoinState::Joined, "nobody takes longer than an interval");
    }
    let ended = last.values().filter(|session| session.1).count();
    let crashed = last.len() - ended;
    assert!(last.len() > 500, "people come and go: {} sessions", last.len());
    assert!((10..last.len() / 5).contains(&crashed), "some crash: {crashed} of {}", last.len());
}

#[test]
fn there_are_as_many_sessions_as_wanted() {
    let config = small(1, Scenario::FlashCrowd);
    let mut counts = Vec::new();
    listen(&config, Duration::from_secs(150), |world| counts.push((world.now, world.sessions())));
    let at = |seconds| {
        let time = Duration::from_secs(seconds);
        counts.iter().rfind(|(now, _)| *now <= time).unwrap().1
    };
    for (seconds, wanted) in [(6, 200), (25, 200), (40, 600), (85, 600), (100, 200), (149, 200)] {
        let sessions = at(seconds);
        assert!(sessions.abs_diff(wanted) <= wanted / 20, "{sessions} after {seconds} s, not {wanted}");
    }
}

#[test]
fn frames_are_spread_evenly() {
    let said = listen(&small(1, Scenario::Steady), Duration::from_secs(60), |_| {});
    // In the last second all leave.
    let mut seconds = [0_u32; 59];
    for (due, ..) in said.iter().filter(|said| said.0 < Duration::from_secs(59)) {
        seconds[due.as_secs() as usize] += 1;
    }
    assert!(seconds.iter().all(|frames| (25..=55).contains(frames)), "40 each second: {seconds:?}");
}

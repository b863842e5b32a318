//! Properties of every world.

use std::collections::{HashMap, HashSet};

use super::super::config::tests::small;
use super::*;
use callsight_frame::Form;

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
    }
    let ended = last.values().filter(|session| session.1).count();
    let crashed = last.len() - ended;
    assert!(last.len() > 500, "people come and go: {} sessions", last.len());
    assert!((10..last.len() / 5).contains(&crashed), "some crash: {crashed} of {}", last.len());
}

#[test]
fn cumulative_counters_never_fall() {
    let said = listen(&small(3, Scenario::PacketLoss), long() / 4, |_| {});
    let mut last: HashMap<(String, String), Vec<u64>> = HashMap::new();
    let (mut concealed, mut frozen, mut returns) = (0, 0, 0);
    for (_, _, bytes) in &said {
        let frame = Frame::decode(bytes).unwrap();
        let mut now = HashMap::new();
        for peer in &frame.peers {
            let audio = peer.audio.as_ref().unwrap();
            let mut counters: Vec<u64> = [
                audio.packets_received,
                audio.packets_lost,
                audio.total_samples,
                audio.concealed_samples,
                audio.silent_concealed_samples,
            ]
            .into_iter()
            .chain(audio.neteq.as_ref().unwrap().counts())
            .map(Option::unwrap_or_default)
            .collect();
            concealed = concealed.max(counters[3]);
            if let Some(video) = &peer.video {
                counters.extend(
                    [video.frames_decoded, video.frames_dropped, video.freeze_count].into_iter().flatten(),
                );
                frozen = frozen.max(video.freeze_count.unwrap());
            }
            let key = (frame.session_id.to_string(), peer.peer_id.to_string());
            now.insert(key, counters);
        }
        for (key, counters) in now {
            // One who came back after a crash is a new session, of which everything counts from
            // zero.
            let before = last.insert(key, counters.clone()).unwrap_or_default();
            let came_back = counters[2] < before.get(2).copied().unwrap_or(0);
            returns += usize::from(came_back);
            assert!(came_back || before.iter().zip(&counters).all(|(before, now)| before <= now));
            assert!(counters[4] <= counters[3] && counters[3] <= counters[2]);
        }
    }
    assert!(concealed > 48_000, "a second of concealment: {concealed} samples");
    assert!(frozen > 0);
    assert!(returns * 20 < last.len(), "few come back: {returns} of {}", last.len());
}

#[test]
fn the_spike_is_seen_in_apac_and_nowhere_else() {
    let config = small(1, Scenario::ApacRttSpike);
    let said = listen(&config, Duration::from_secs(150), |_| {});
    let median = |region: usize, from: u64, to: u64| {
        let time = Duration::from_secs(from)..Duration::from_secs(to);
        let mut values: Vec<f64> = said
            .iter()
            .filter(|(due, relay, _)| time.contains(due) && relay / RELAYS == region)
            .map(|(_, _, bytes)| Frame::decode(bytes).unwrap())
            .filter(|frame| frame.tab_visible == Some(true))
            .map(|frame| frame.server.unwrap().rtt_ms.unwrap())
            .collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    for (from, to, apac) in [(5, 30, 50.0..80.0), (40, 85, 400.0..550.0), (95, 150, 50.0..80.0)] {
        assert!(apac.contains(&median(1, from, to)), "{from}–{to} s: {}", median(1, from, to));
        assert!((25.0..50.0).contains(&median(0, from, to)), "{}", median(0, from, to));
    }
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

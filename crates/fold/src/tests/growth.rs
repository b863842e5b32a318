//! Counters: what is counted once, and what is not counted at all.

use super::*;
use crate::REMEMBERED;

const SAMPLES: &str = "videocall_audio_samples_total";
const REPEATED: &str = "callsight_frames_repeated_total";

fn bob(total: u64) -> Peer<'static> {
    peer("bob").samples(total, 0)
}

#[test]
fn repeats_and_what_comes_out_of_order_change_nothing() {
    let mut world = World::new();
    let first = frame("s1", 1).rtt(10.0).sees(bob(100));
    let second = frame("s1", 2).rtt(400.0).on(OTHER_RELAY).sees(bob(200));
    let fourth = frame("s1", 4).rtt(30.0).sees(bob(400).freezes(1));
    let third = frame("s1", 3).rtt(20.0).sees(bob(300)).sees(peer("carol")).ended();
    for frame in [&first, &second, &fourth] {
        assert_eq!(world.fold(frame), Outcome::Folded);
    }
    let mut before = world.page();
    for (count, frame) in (1..).zip([&first, &third, &fourth, &second]) {
        assert_eq!(world.fold(frame), Outcome::Repeated);
        let mut after = world.page();
        let repeated = format!("{REPEATED}{{region=\"us\"}}");
        assert_eq!(after.0.remove(&repeated), Some(f64::from(count)));
        before.0.remove(&repeated);
        assert_eq!(before, after);
    }
}

#[test]
fn a_repeat_keeps_no_session_alive() {
    let mut world = World::new();
    world.fold(&frame("s1", 1));
    world.pass(29 * SECOND);
    world.fold(&frame("s1", 1));
    world.pass(SECOND);
    world.tick();
    assert_eq!(world.fold.live_sessions(), 0);
}

#[test]
fn the_first_frame_counts_whole_and_gaps_are_harmless() {
    let mut world = World::new();
    world.fold(&frame("s1", 1).sees(bob(100)));
    assert_eq!(world.sum(SAMPLES, &[]), 100.0);
    world.fold(&frame("s1", 17).sees(bob(1700)));
    assert_eq!(world.sum(SAMPLES, &[]), 1700.0);
}

#[test]
fn a_session_met_in_its_middle_counts_from_there() {
    let mut world = World::new();
    world.fold(&frame("s1", 50).sees(bob(5000).freezes(3)));
    assert_eq!(world.sum(SAMPLES, &[]), 0.0);
    assert_eq!(world.sum("videocall_sessions_degraded", &["video"]), 0.0);
    world.fold(&frame("s1", 51).sees(bob(5100).freezes(3)));
    assert_eq!(world.sum(SAMPLES, &[]), 100.0);
    assert_eq!(world.sum("videocall_video_freezes_total", &[]), 0.0);
}

#[test]
fn a_counter_that_began_anew_grew_by_all_that_it_shows() {
    let mut world = World::new();
    world.fold(&frame("s1", 1).sees(bob(1000)));
    world.fold(&frame("s1", 2).sees(bob(30)));
    world.fold(&frame("s1", 3).sees(bob(50)));
    assert_eq!(world.sum(SAMPLES, &[]), 1050.0);
    assert_eq!(world.value("videocall_pair_audio_samples_total", &["bob"]), Some(50.0));
}

#[test]
fn a_peer_that_left_and_returns_is_not_counted_twice() {
    let mut world = World::new();
    world.fold(&frame("s1", 1).sees(bob(1000)));
    world.fold(&frame("s1", 2));
    world.fold(&frame("s1", 3).sees(bob(1200)));
    assert_eq!(world.sum(SAMPLES, &[]), 1200.0);
}

#[test]
fn a_value_that_is_absent_for_a_while_is_not_counted_twice() {
    let mut world = World::new();
    world.fold(&frame("s1", 1).sees(bob(1000)));
    world.fold(&frame("s1", 2).sees(peer("bob")));
    world.fold(&frame("s1", 3).sees(bob(1200)));
    assert_eq!(world.sum(SAMPLES, &[]), 1200.0);
}

#[test]
fn peers_in_another_order_keep_their_own_counts() {
    let mut world = World::new();
    let (bob, carol) = (|total| peer("bob").samples(total, 0), |total| peer("carol").samples(total, 0));
    world.fold(&frame("s1", 1).sees(bob(10)).sees(carol(1000)).sees(peer("dave").samples(5, 0)));
    world.fold(&frame("s1", 2).sees(carol(1001)).sees(bob(12)));
    world.fold(&frame("s1", 3).sees(bob(13)).sees(peer("dave").samples(6, 0)).sees(carol(1003)));
    assert_eq!(world.sum(SAMPLES, &[]), 13.0 + 1003.0 + 6.0);
}

#[test]
fn every_counter_has_its_own_sum() {
    let mut world = World::new();
    let audio = Audio {
        packets_received: Some(7),
        packets_lost: Some(2),
        silent_concealed_samples: Some(40),
        neteq: Some(NetEq { expand: Some(11), dtmf: Some(0), ..NetEq::default() }),
        ..Audio::default()
    };
    let peer = Peer { audio: Some(audio), ..peer("bob") };
    world.fold(&frame("s1", 1).sees(peer.samples(1000, 240).freezes(3)));
    for (metric, value) in [
        (SAMPLES, 1000.0),
        ("videocall_audio_concealed_samples_total", 240.0),
        ("videocall_audio_silent_concealed_samples_total", 40.0),
        ("videocall_audio_packets_received_total", 7.0),
        ("videocall_audio_packets_lost_total", 2.0),
        ("videocall_video_freezes_total", 3.0),
        ("videocall_neteq_operations_total", 11.0),
    ] {
        assert_eq!(world.sum(metric, &[RELAY, "webtransport", "us"]), value, "{metric}");
    }
    assert_eq!(world.value("videocall_neteq_operations_total", &["expand"]), Some(11.0));
    assert_eq!(world.sum("videocall_audio_concealment_ratio_sum", &[]), 0.2);
}

#[test]
fn concealment_that_is_not_told_is_not_observed_as_none() {
    let mut world = World::new();
    let audio = Audio { total_samples: Some(1000), ..Audio::default() };
    world.fold(&frame("s1", 1).sees(Peer { audio: Some(audio), ..peer("bob") }));
    assert_eq!(world.sum("videocall_audio_concealment_ratio_count", &[]), 0.0);
    world.fold(&frame("s1", 2).sees(bob(2000)));
    assert_eq!(world.sum("videocall_audio_concealment_ratio_count", &[]), 1.0);
    assert_eq!(world.sum("videocall_audio_concealment_ratio_sum", &[]), 0.0);
}

#[test]
fn a_warm_start_restores_what_is_live_and_counts_nothing() {
    let mut world = World::new();
    world.warm(&frame("s1", 8).rtt(350.0).sees(bob(800)), 12 * SECOND);
    world.warm(&frame("s1", 9).rtt(40.0).sees(bob(900)), 7 * SECOND);
    world.warm(&frame("s2", 1).of("bob").sees(peer("alice").samples(50, 0)), 6 * SECOND);
    world.warm(&frame("s3", 4), 20 * SECOND);
    world.warm(&frame("s3", 5).ended(), 15 * SECOND);
    world.warm(&frame("s4", 3), 31 * SECOND);
    assert_eq!(world.value("videocall_session_rtt_seconds", &["s1"]), Some(0.04));
    assert_eq!(world.value("videocall_session_last_seen_age_seconds", &["s1"]), Some(7.0));
    assert_eq!(world.value("videocall_pair_audio_samples_total", &["s1", "bob"]), Some(900.0));
    assert_eq!(world.sum("videocall_sessions", &[]), 2.0);
    assert_eq!(world.sum("videocall_participants", &[]), 2.0);
    for (series, value) in world.page().0 {
        let counts = series.contains("_total{") || series.contains("_count{") || series.contains("_bucket{");
        let detail = series.starts_with("videocall_pair_");
        assert!(!counts || detail || value == 0.0, "{series} is {value}");
    }
    world.pass(24 * SECOND);
    world.tick();
    assert_eq!(world.sum("videocall_sessions", &[]), 0.0);
}

#[test]
fn growth_goes_on_where_the_warm_start_left_it() {
    let mut world = World::new();
    world.warm(&frame("s1", 9).sees(bob(900)), 2 * SECOND);
    assert_eq!(world.fold(&frame("s1", 9).sees(bob(900))), Outcome::Repeated);
    assert_eq!(world.fold(&frame("s1", 10).sees(bob(1000))), Outcome::Folded);
    assert_eq!(world.sum(SAMPLES, &[]), 100.0);
    assert_eq!(world.sum("callsight_frames_folded_total", &[]), 1.0);
}

#[test]
fn a_watermark_outlives_its_session_for_as_long_as_repeats_may_come() {
    let mut world = World::new();
    world.fold(&frame("s1", 1).sees(bob(100)));
    world.fold(&frame("s1", 2).sees(bob(200)).ended());
    world.pass(REMEMBERED - SECOND);
    world.tick();
    assert_eq!(world.fold(&frame("s1", 1).sees(bob(100))), Outcome::Repeated);
}

#[test]
fn sessions_that_are_over_leave_no_trace() {
    let mut world = World::new();
    let ids: Vec<String> = (0..1000).map(|id| format!("s{id}")).collect();
    for (index, id) in ids.iter().enumerate() {
        world.fold(&frame(id, 1).sees(peer("bob")));
        if index % 2 == 0 {
            world.fold(&frame(id, 2).ended());
        }
        if index % 4 == 0 {
            world.fold(&frame(id, 3));
        }
    }
    world.pass(IDLE);
    world.tick();
    assert_eq!(world.fold.live_sessions(), 0);
    world.pass(REMEMBERED);
    world.tick();
    assert!(world.fold.sessions.is_empty());
    world.pass(REMEMBERED);
    world.tick();
    assert!(world.fold.expiry.is_empty());
}

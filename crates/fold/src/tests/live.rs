//! What is shown of a live session, and when it goes.

use super::*;

const RTT: &str = "videocall_session_rtt_seconds";
const AGE: &str = "videocall_session_last_seen_age_seconds";
const CAN_SEE: &str = "videocall_pair_can_see";

#[test]
fn a_session_shows_its_round_trip_its_state_and_its_age() {
    let mut world = World::new();
    let frame = Frame { audio_enabled: Some(true), video_enabled: Some(false), ..frame("s1", 1).rtt(42.5) };
    assert_eq!(world.fold(&frame), Outcome::Folded);
    let labels = ["us", "m", "s1", "alice", RELAY, "webtransport"];
    assert_eq!(world.value(RTT, &labels), Some(0.0425));
    assert_eq!(world.value("videocall_session_audio_enabled", &labels), Some(1.0));
    assert_eq!(world.value("videocall_session_video_enabled", &labels), Some(0.0));
    assert_eq!(world.value(AGE, &labels), Some(0.0));
    world.pass(7 * SECOND);
    assert_eq!(world.value(AGE, &labels), Some(7.0));
}

#[test]
fn the_age_is_of_the_streams_receipt_and_not_of_the_fold() {
    let mut world = World::new();
    world.fold_aged(&frame("s1", 1), 10 * SECOND);
    assert_eq!(world.value(AGE, &["s1"]), Some(10.0));
}

#[test]
fn absent_values_have_no_series_and_zeros_have() {
    let mut world = World::new();
    world.fold(&frame("s1", 1).sees(peer("bob")));
    let shown = |world: &World| -> Vec<String> {
        world.details().into_keys().map(|series| series.split('{').next().unwrap().to_owned()).collect()
    };
    assert_eq!(shown(&world), ["videocall_pair_can_listen", CAN_SEE, AGE]);

    let silent = Peer {
        can_listen: false,
        can_see: false,
        audio: Some(Audio {
            buffer_ms: Some(0.0),
            target_ms: Some(0.0),
            packets_awaiting_decode: Some(0.0),
            silent_concealed_samples: Some(0),
            neteq: Some(NetEq {
                normal: Some(0),
                merge: Some(0),
                expand: Some(0),
                accelerate: Some(0),
                fast_accelerate: Some(0),
                preemptive_expand: Some(0),
                comfort_noise: Some(0),
                dtmf: Some(0),
                undefined: Some(0),
            }),
            ..Audio::default()
        }),
        video: Some(Video {
            fps: Some(0.0),
            frames_buffered: Some(0.0),
            bitrate_kbps: Some(0.0),
            ..Video::default()
        }),
        ..peer("bob")
    };
    let zeros = frame("s1", 2).rtt(0.0).sees(silent.samples(0, 0).freezes(0));
    world.fold(&Frame { audio_enabled: Some(false), video_enabled: Some(false), ..zeros });
    assert_eq!(world.details().len(), 4 + 21);
    assert!(world.details().values().all(|value| *value == 0.0));

    world.fold(&frame("s1", 3).sees(peer("bob")));
    assert_eq!(shown(&world), ["videocall_pair_can_listen", CAN_SEE, AGE]);
}

#[test]
fn each_value_shows_in_base_units_under_its_own_name() {
    let mut world = World::new();
    let bob = Peer {
        can_see: false,
        audio: Some(Audio {
            buffer_ms: Some(80.0),
            target_ms: Some(60.0),
            packets_awaiting_decode: Some(3.0),
            silent_concealed_samples: Some(50),
            neteq: Some(NetEq {
                normal: Some(1),
                merge: Some(2),
                expand: Some(3),
                accelerate: Some(4),
                fast_accelerate: Some(5),
                preemptive_expand: Some(6),
                comfort_noise: Some(7),
                dtmf: Some(8),
                undefined: Some(9),
            }),
            ..Audio::default()
        }),
        video: Some(Video {
            fps: Some(29.5),
            frames_buffered: Some(2.0),
            bitrate_kbps: Some(1500.0),
            ..Video::default()
        }),
        ..peer("bob")
    };
    world.fold(&frame("s1", 1).sees(bob.samples(4800, 480).freezes(4)));
    let pair = |name: &str| world.value(&format!("videocall_pair_{name}"), &["us", "m", "s1", "bob"]);
    for (name, value) in [
        ("can_listen", 1.0),
        ("can_see", 0.0),
        ("audio_buffer_seconds", 0.08),
        ("audio_target_seconds", 0.06),
        ("audio_packets_awaiting_decode", 3.0),
        ("audio_samples_total", 4800.0),
        ("audio_concealed_samples_total", 480.0),
        ("audio_silent_concealed_samples_total", 50.0),
        ("video_frames_per_second", 29.5),
        ("video_frames_buffered", 2.0),
        ("video_bytes_per_second", 187_500.0),
        ("video_freezes_total", 4.0),
    ] {
        assert_eq!(pair(name), Some(value), "{name}");
    }
    for (operation, count) in
        [("normal", 1.0), ("expand", 3.0), ("preemptive_expand", 6.0), ("undefined", 9.0)]
    {
        assert_eq!(world.value("videocall_pair_neteq_operations_total", &["s1", operation]), Some(count));
    }
}

#[test]
fn a_departed_peers_series_go_with_that_frame() {
    let mut world = World::new();
    world.fold(&frame("s1", 1).sees(peer("bob")).sees(peer("carol")));
    world.fold(&frame("s1", 2).sees(peer("carol")));
    assert_eq!(world.value(CAN_SEE, &["bob"]), None);
    assert_eq!(world.value(CAN_SEE, &["carol"]), Some(1.0));
    assert_eq!(world.sum("videocall_peer_connections", &[]), 1.0);
}

#[test]
fn a_peer_that_a_frame_has_twice_is_taken_once() {
    let mut world = World::new();
    for seq in 1..=3 {
        let bob = |total| peer("bob").samples(total, 0);
        world.fold(&frame("s1", seq).sees(bob(seq * 1000)).sees(bob(seq * 10)));
    }
    assert_eq!(world.value("videocall_pair_audio_samples_total", &["bob"]), Some(3000.0));
    assert_eq!(world.sum("videocall_audio_samples_total", &[]), 3000.0);
    assert_eq!(world.sum("videocall_peer_connections", &[]), 1.0);
}

#[test]
fn an_ended_session_is_gone_at_once() {
    let mut world = World::new();
    world.fold(&frame("s1", 1).sees(peer("bob")));
    world.fold(&frame("s1", 2).sees(peer("bob")).ended());
    assert!(world.details().is_empty());
    assert_eq!(world.fold.live_sessions(), 0);
    assert_eq!(world.sum("callsight_sessions_removed_total", &["ended"]), 1.0);
}

#[test]
fn a_last_frame_may_leave_out_the_server() {
    let mut world = World::new();
    world.fold(&frame("s1", 1).sees(peer("bob").samples(100, 0)));
    world.fold(&Frame { server: None, ..frame("s1", 2).sees(peer("bob").samples(300, 0)).ended() });
    assert_eq!(world.sum("callsight_sessions_removed_total", &["ended"]), 1.0);
    assert_eq!(world.sum("callsight_sessions_removed_total", &[]), 1.0);
    assert_eq!(world.sum("videocall_audio_samples_total", &[RELAY]), 300.0);
}

#[test]
fn a_frame_after_the_end_revives_the_session() {
    let mut world = World::new();
    world.fold(&frame("s1", 1).ended());
    world.fold(&frame("s1", 2).rtt(10.0));
    assert_eq!(world.value(RTT, &["s1"]), Some(0.01));
    world.pass(IDLE);
    world.tick();
    assert!(world.details().is_empty());
}

#[test]
fn an_idle_session_is_gone_on_the_stroke_of_the_timeout() {
    let mut world = World::new();
    world.fold(&frame("s1", 1).sees(peer("bob")));
    world.pass(9 * SECOND);
    world.tick();
    world.fold(&frame("s1", 2).sees(peer("bob")));
    world.pass(IDLE - Duration::from_nanos(1));
    world.tick();
    assert_eq!(world.fold.live_sessions(), 1);
    world.pass(Duration::from_nanos(1));
    world.tick();
    assert!(world.details().is_empty());
    assert_eq!(world.fold.live_sessions(), 0);
    assert_eq!(world.sum("callsight_sessions_removed_total", &["idle"]), 1.0);
}

#[test]
fn the_timeout_runs_from_the_streams_receipt() {
    let mut world = World::new();
    world.fold_aged(&frame("s1", 1), 10 * SECOND);
    world.pass(20 * SECOND);
    world.tick();
    assert_eq!(world.fold.live_sessions(), 0);
}

#[test]
fn a_stream_whose_clock_is_ahead_keeps_no_session_longer() {
    let mut world = World::new();
    world.fold.frame(&frame("s1", 1), world.now + 3600 * SECOND, world.now);
    assert_eq!(world.value(AGE, &["s1"]), Some(0.0));
    world.pass(IDLE);
    world.tick();
    assert_eq!(world.fold.live_sessions(), 0);
}

#[test]
fn a_late_frame_feeds_counters_and_no_gauges() {
    let mut world = World::new();
    let late = frame("s1", 1).rtt(900.0).sees(peer("bob").samples(1000, 100));
    assert_eq!(world.fold_aged(&late, IDLE), Outcome::Late);
    assert!(world.details().is_empty());
    assert_eq!(world.sum("videocall_sessions", &[]), 0.0);
    assert_eq!(world.sum("videocall_sessions_degraded", &[]), 0.0);
    assert_eq!(world.sum("videocall_audio_samples_total", &[]), 1000.0);
    assert_eq!(world.sum("videocall_rtt_seconds_count", &[]), 1.0);
    assert_eq!(world.sum("callsight_frames_late_total", &[]), 1.0);
    assert_eq!(world.sum("callsight_frames_folded_total", &[]), 1.0);
}

#[test]
fn a_live_session_that_is_behind_goes_with_its_late_frame() {
    let mut world = World::new();
    world.fold(&frame("s1", 1).sees(peer("bob").samples(1000, 0)));
    world.pass(60 * SECOND);
    assert_eq!(
        world.fold_aged(&frame("s1", 2).on(OTHER_RELAY).sees(peer("bob").samples(1500, 0)), 55 * SECOND),
        Outcome::Late
    );
    assert!(world.details().is_empty());
    assert_eq!(world.sum("callsight_sessions_removed_total", &["idle"]), 1.0);
    assert_eq!(world.fold(&frame("s1", 3).sees(peer("bob").samples(1800, 0))), Outcome::Folded);
    assert_eq!(world.fold.live_sessions(), 1);
    assert_eq!(world.sum("videocall_audio_samples_total", &[]), 1800.0);
}

#[test]
fn a_session_that_was_idle_comes_back_and_is_removed_again() {
    let mut world = World::new();
    for seq in 1..=3 {
        world.fold(&frame("s1", seq).rtt(10.0).sees(peer("bob").samples(seq * 100, 0)));
        assert_eq!(world.value(RTT, &["s1"]), Some(0.01));
        world.pass(40 * SECOND);
        world.tick();
        assert!(world.details().is_empty());
    }
    assert_eq!(world.sum("videocall_audio_samples_total", &[]), 300.0);
    assert_eq!(world.sum("callsight_sessions_removed_total", &["idle"]), 3.0);
}

#[test]
fn another_server_takes_the_session_over() {
    let mut world = World::new();
    world.fold(&frame("s1", 1).rtt(500.0).sees(peer("bob").samples(100, 0)));
    world.fold(&frame("s2", 1));
    world.fold(&frame("s1", 2).rtt(20.0).on(OTHER_RELAY).sees(peer("bob").samples(250, 0)));
    assert_eq!(world.value(RTT, &["s1"]), Some(0.02));
    assert_eq!(world.value(RTT, &["s1", OTHER_RELAY]), Some(0.02));
    assert_eq!(world.value(CAN_SEE, &["s1", "bob"]), Some(1.0));
    for (relay, peers) in [(RELAY, 0.0), (OTHER_RELAY, 1.0)] {
        assert_eq!(world.value("videocall_sessions", &[relay]), Some(1.0));
        assert_eq!(world.value("videocall_meetings", &[relay]), Some(1.0));
        assert_eq!(world.value("videocall_peer_connections", &[relay]), Some(peers));
        assert_eq!(world.value("videocall_sessions_degraded", &[relay, "rtt"]), Some(0.0));
    }
    assert_eq!(world.value("videocall_audio_samples_total", &[RELAY]), Some(100.0));
    assert_eq!(world.value("videocall_audio_samples_total", &[OTHER_RELAY]), Some(150.0));
    assert_eq!(world.sum("callsight_sessions_removed_total", &["moved"]), 1.0);
    assert_eq!(world.fold.live_sessions(), 2);
}

#[test]
fn a_session_without_a_server_counts_under_none() {
    let mut world = World::new();
    world.fold(&Frame { server: None, ..frame("s1", 1) });
    assert_eq!(world.value("videocall_sessions", &["none"]), Some(1.0));
    assert!(world.value(AGE, &["s1", "none"]).is_some());
}

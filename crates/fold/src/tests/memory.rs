//! What clients can make the fold remember is bounded, however they name and renew themselves.

use super::*;
use crate::REMEMBERED;

const SAMPLES: &str = "videocall_audio_samples_total";

fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}{number}")).collect()
}

#[test]
fn a_flood_of_short_sessions_is_not_remembered_whole() {
    let mut world = World::with(FoldSettings::default(), 100);
    world.fold(&frame("honest", 1).sees(peer("bob").samples(100, 0)));
    for id in names("flood", 1000) {
        world.fold(&frame(&id, 1));
        world.fold(&frame(&id, 2).ended());
    }
    assert!(world.fold.sessions.len() <= 1 + 100);
    assert_eq!(world.sum("callsight_sessions_removed_total", &["ended"]), 1000.0);
    assert_eq!(world.fold(&frame("honest", 2).sees(peer("bob").samples(300, 0))), Outcome::Folded);
    assert_eq!(world.sum(SAMPLES, &[]), 300.0);
    assert_eq!(world.sum("videocall_sessions", &[]), 1.0);

    // And what was remembered makes room again.
    world.pass(IDLE);
    world.tick();
    world.pass(REMEMBERED);
    world.tick();
    assert!(world.fold.sessions.is_empty());
    assert_eq!(world.fold.remembered, 0);
    world.fold(&frame("later", 1).ended());
    assert_eq!(world.fold(&frame("later", 1)), Outcome::Repeated);
}

#[test]
fn a_crowd_that_falls_silent_is_not_remembered_whole() {
    let mut world = World::with(FoldSettings::default(), 100);
    for id in names("silent", 1000) {
        world.fold(&["b", "c", "d"].into_iter().fold(frame(&id, 1), |frame, id| frame.sees(peer(id))));
    }
    assert_eq!(world.fold.live_sessions(), 1000);
    world.pass(IDLE);
    world.tick();
    assert_eq!(world.fold.live_sessions(), 0);
    // Three peers each.
    assert_eq!(world.fold.sessions.len(), 100 / 4);
    world.pass(REMEMBERED);
    world.tick();
    assert!(world.fold.sessions.is_empty());
    assert_eq!(world.fold.remembered, 0);
}

#[test]
fn a_session_that_ends_and_comes_back_all_the_time_has_one_entry() {
    let mut world = World::new();
    for seq in 0..1000 {
        world.fold(&frame("s1", 2 * seq + 1));
        world.fold(&frame("s1", 2 * seq + 2).ended());
        world.pass(SECOND / 100);
    }
    assert_eq!(world.fold.expiry.len(), 1);
    world.fold(&frame("s1", 2001));
    world.pass(IDLE);
    world.tick();
    assert_eq!(world.fold.live_sessions(), 0);
}

#[test]
fn departed_peers_are_forgotten_once_they_are_many() {
    let mut world = World::new();
    for seq in 1..=20 {
        let ids = names(&format!("p{seq}-"), 256);
        world.fold(&ids.iter().fold(frame("s1", seq), |frame, id| frame.sees(peer(id).samples(10, 0))));
        assert!(world.fold.sessions["s1"].peers.len() <= 2 * 256);
    }
    world.fold(&frame("s1", 21).sees(peer("bob").samples(10, 0)));
    assert!(world.fold.sessions["s1"].peers.len() <= 1 + 32);
    assert_eq!(world.sum(SAMPLES, &[]), 20.0 * 256.0 * 10.0 + 10.0);
    assert_eq!(world.values("videocall_pair_can_see", &[]).len(), 1);
}

#[test]
fn of_an_ended_session_the_watermark_is_left() {
    let mut world = World::new();
    world.fold(&frame("s1", 1).sees(peer("bob").samples(100, 0)));
    world.fold(&frame("s1", 2).sees(peer("bob").samples(200, 0)).ended());
    assert_eq!(world.fold.remembered, 1);
    assert_eq!(world.fold(&frame("s1", 1).sees(peer("bob").samples(100, 0))), Outcome::Repeated);
    // Should it come back all the same, nothing is counted twice.
    world.fold(&frame("s1", 3).sees(peer("bob").samples(300, 0)));
    world.fold(&frame("s1", 4).sees(peer("bob").samples(400, 0)));
    assert_eq!(world.sum(SAMPLES, &[]), 300.0);
    assert_eq!(world.fold.remembered, 0);
}

#[test]
fn a_session_that_changes_its_server_with_every_frame_leaves_nothing_behind() {
    let mut world = World::new();
    for seq in 1..=1000 {
        let relay = if seq % 2 == 0 { RELAY } else { OTHER_RELAY };
        world.fold(&frame("s1", seq).on(relay).sees(peer("bob").samples(seq, 0)));
    }
    assert_eq!(world.fold.expiry.len(), 1);
    assert_eq!(world.sum("videocall_sessions", &[]), 1.0);
    assert_eq!(world.sum("videocall_meetings", &[]), 1.0);
    assert_eq!(world.sum("videocall_peer_connections", &[]), 1.0);
    assert_eq!(world.sum(SAMPLES, &[]), 1000.0);
    assert_eq!(world.details().keys().filter(|series| series.contains("last_seen")).count(), 1);
}

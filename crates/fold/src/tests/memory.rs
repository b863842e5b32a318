//! What clients can make the fold remember is bounded, however they name and renew themselves.

use super::*;
use crate::REMEMBERED;

const SAMPLES: &str = "videocall_audio_samples_total";

fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}{number}")).collect()
}

#[test]
fn a_flood_of_short_sessions_is_not_remembered_whole() {
    let mut world = World::for_sessions(50);
    world.fold(&frame("honest", 1).sees(peer("bob").samples(100, 0)));
    for id in names("flood", 1000) {
        world.fold(&frame(&id, 1));
        world.fold(&frame(&id, 2).ended());
    }
    assert!(world.fold.sessions.len() <= 1 + 100);
    assert_eq!(world.budget.remembered(), 100);
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
    assert_eq!(world.budget.remembered(), 0);
    world.fold(&frame("later", 1).ended());
    assert_eq!(world.fold(&frame("later", 1)), Outcome::Repeated);
}

#[test]
fn a_crowd_that_falls_silent_is_not_remembered_whole() {
    let mut world = World::for_sessions(1000);
    for id in names("silent", 1000) {
        world.fold(&["b", "c", "d"].into_iter().fold(frame(&id, 1), |frame, id| frame.sees(peer(id))));
    }
    assert_eq!(world.fold.live_sessions(), 1000);
    world.pass(IDLE);
    world.tick();
    assert_eq!(world.fold.live_sessions(), 0);
    // Three peers each.
    assert_eq!(world.fold.sessions.len(), 2 * 1000 / 4);
    assert_eq!(world.budget.peers(), 0);
    world.pass(REMEMBERED);
    world.tick();
    assert!(world.fold.sessions.is_empty());
    assert_eq!(world.budget.remembered(), 0);
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
    assert_eq!(world.budget.remembered(), 1);
    assert_eq!(world.fold(&frame("s1", 1).sees(peer("bob").samples(100, 0))), Outcome::Repeated);
    // Should it come back all the same, nothing is counted twice.
    world.fold(&frame("s1", 3).sees(peer("bob").samples(300, 0)));
    world.fold(&frame("s1", 4).sees(peer("bob").samples(400, 0)));
    assert_eq!(world.sum(SAMPLES, &[]), 300.0);
    assert_eq!(world.budget.remembered(), 0);
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

#[test]
fn sessions_that_begin_and_end_at_once_leave_no_queue() {
    let mut world = World::for_sessions(100);
    for id in names("flood", 100_000) {
        world.fold(&frame(&id, 1));
        world.fold(&frame(&id, 2).ended());
    }
    assert!(world.fold.expiry.len() <= 2 * world.fold.sessions.len() + 1025);
    assert!(world.fold.sessions.capacity() < 2000);
    // What is remembered is forgotten in its time all the same.
    world.pass(IDLE);
    world.tick();
    world.pass(REMEMBERED);
    world.tick();
    assert!(world.fold.sessions.is_empty() && world.fold.expiry.is_empty());
}

#[test]
fn a_meeting_that_was_large_does_not_stay_so() {
    let mut world = World::new();
    let ids = names("s", 10_000);
    for id in &ids {
        world.fold(&frame(id, 1).of(id));
    }
    for id in &ids[1..] {
        world.fold(&frame(id, 2).of(id).ended());
    }
    assert_eq!(world.sum("videocall_participants", &[]), 1.0);
    assert!(world.fold.view.largest_meeting() < 100);
    world.pass(IDLE + REMEMBERED);
    world.tick();
    world.pass(REMEMBERED);
    world.tick();
    assert!(world.fold.sessions.is_empty());
    assert!(world.fold.sessions.capacity() < 100);
}

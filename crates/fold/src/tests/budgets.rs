//! The limits: what exceeds one is refused and counted, and everything else stays right.

use super::*;
use crate::{DetailLevel, Limits, Outcome};

const AGE: &str = "videocall_session_last_seen_age_seconds";
const CAN_SEE: &str = "videocall_pair_can_see";

/// Series of a row: the detail planes take them whole.
const SESSION: usize = 10;
const PAIR: usize = 26;

fn limited(limits: Limits) -> World {
    World::with(FoldSettings { limits, ..FoldSettings::default() }, 1_000_000)
}

fn roomy() -> Limits {
    FoldSettings::default().limits
}

const MAX_SESSIONS: Outcome = Outcome::Refused(Refusal::MaxSessions);

fn refused(world: &World, limit: &str) -> f64 {
    world.value("callsight_refused_total", &[limit]).unwrap()
}

fn frames_refused(world: &World) -> f64 {
    world.value("callsight_frames_refused_total", &["max_sessions"]).unwrap()
}

#[test]
fn series_beyond_the_budget_are_refused_once_and_given_back() {
    let mut world = World::with(FoldSettings::default(), 2 * SESSION + PAIR);
    for seq in 1..=3 {
        world.fold(
            &frame("s1", seq).sees(peer("bob").samples(seq * 10, 0)).sees(peer("carol").samples(seq, 0)),
        );
        world.fold(&frame("s2", seq));
        world.fold(&frame("s3", seq));
    }
    assert_eq!(world.values(AGE, &[]).len(), 1 + 1);
    assert_eq!(world.values(CAN_SEE, &[]).len(), 1);
    assert_eq!(refused(&world, "series"), 2.0);
    assert_eq!(world.sum("videocall_sessions", &[]), 3.0);
    assert_eq!(world.sum("videocall_peer_connections", &[]), 2.0);
    assert_eq!(world.sum("videocall_audio_samples_total", &[]), 33.0);

    world.fold(&frame("s1", 4).ended());
    world.fold(&frame("s3", 4).sees(peer("alice")));
    assert!(world.value(AGE, &["s3"]).is_some());
    assert!(world.value(CAN_SEE, &["s3", "alice"]).is_some());
    assert_eq!(refused(&world, "series"), 2.0);
}

#[test]
fn a_meeting_has_detail_of_so_many_sessions() {
    let mut world = limited(Limits { sessions_per_meeting: 2, ..roomy() });
    for seq in 1..=3 {
        for id in ["s1", "s2", "s3"] {
            world.fold(&frame(id, seq).rtt(400.0).sees(peer("bob")));
        }
        world.fold(&frame("s4", seq).meeting("n"));
    }
    assert_eq!(world.values(AGE, &["m"]).len(), 2);
    assert_eq!(world.values(CAN_SEE, &["m"]).len(), 2);
    assert_eq!(world.values(AGE, &["n"]).len(), 1);
    assert_eq!(refused(&world, "sessions_per_meeting"), 1.0);
    assert_eq!(world.sum("videocall_sessions_degraded", &["rtt"]), 3.0);
    world.fold(&frame("s2", 4).ended());
    world.fold(&frame("s3", 4).sees(peer("bob")));
    assert!(world.value(AGE, &["s3"]).is_some());
    assert!(world.value(CAN_SEE, &["s3"]).is_some());
}

#[test]
fn a_session_has_detail_of_so_many_peers() {
    let mut world = limited(Limits { peers_per_session: 2, ..roomy() });
    for seq in 1..=3 {
        let sees = |frame: Frame<'static>, id| frame.sees(peer(id).samples(seq * 10, 0));
        world.fold(&["bob", "carol", "dave"].into_iter().fold(frame("s1", seq), sees));
    }
    assert_eq!(world.values(CAN_SEE, &[]).len(), 2);
    assert_eq!(refused(&world, "peers_per_session"), 1.0);
    assert_eq!(world.sum("videocall_peer_connections", &[]), 3.0);
    assert_eq!(world.sum("videocall_audio_samples_total", &[]), 90.0);
}

#[test]
fn peers_that_leave_make_room_for_those_that_come_with_the_same_frame() {
    let mut world = limited(Limits { peers_per_session: 2, ..roomy() });
    world.fold(&frame("s1", 1).sees(peer("bob")).sees(peer("carol")));
    world.fold(&frame("s1", 2).sees(peer("dave")).sees(peer("erin")));
    assert_eq!(world.values(CAN_SEE, &[]).len(), 2);
    assert!(world.value(CAN_SEE, &["erin"]).is_some());
    assert_eq!(refused(&world, "peers_per_session"), 0.0);
}

#[test]
fn servers_beyond_the_budget_are_counted_as_other() {
    let mut world = limited(Limits { server_urls: 1, ..roomy() });
    for seq in 1..=2 {
        world.fold(&frame("s1", seq).sees(peer("bob").samples(seq * 10, 0)));
        world.fold(&frame("s2", seq).on(OTHER_RELAY).sees(peer("bob").samples(seq * 20, 0)));
        world.fold(&frame("s3", seq).on("https://relay-3.example:4433"));
        world.fold(&Frame { server: None, ..frame("s4", seq) });
    }
    assert_eq!(world.value("videocall_sessions", &[RELAY]), Some(1.0));
    assert_eq!(world.value("videocall_sessions", &["other"]), Some(2.0));
    assert_eq!(world.value("videocall_sessions", &["none"]), Some(1.0));
    assert_eq!(world.values("videocall_sessions", &[]).len(), 3);
    assert_eq!(world.value("videocall_audio_samples_total", &["other"]), Some(40.0));
    assert!(world.value(AGE, &["s2", "other"]).is_some());
    assert_eq!(refused(&world, "server_urls"), 2.0);
    assert_eq!(world.sum("callsight_sessions_removed_total", &["moved"]), 0.0);
}

#[test]
fn the_detail_level_decides_which_rows_there_are() {
    for (detail, sessions, pairs) in
        [(DetailLevel::Off, 0, 0), (DetailLevel::Session, 1, 0), (DetailLevel::Pair, 1, 1)]
    {
        let mut world = World::with(FoldSettings { detail, ..FoldSettings::default() }, 1_000_000);
        world.fold(&frame("s1", 1).rtt(400.0).sees(peer("bob").samples(10, 0)));
        assert_eq!(world.values(AGE, &[]).len(), sessions, "{detail:?}");
        assert_eq!(world.values(CAN_SEE, &[]).len(), pairs, "{detail:?}");
        assert_eq!(world.sum("videocall_sessions", &[]), 1.0);
        assert_eq!(world.sum("videocall_sessions_degraded", &["rtt"]), 1.0);
        assert_eq!(world.sum("videocall_audio_samples_total", &[]), 10.0);
        assert_eq!(world.sum("callsight_refused_total", &[]), 0.0);
    }
}

#[test]
fn pairs_have_detail_while_the_meeting_is_small() {
    let settings = FoldSettings { pair_max_sessions: 2, ..FoldSettings::default() };
    let mut world = World::with(settings, 1_000_000);
    let see = |id, seq| frame(id, seq).sees(peer("bob").samples(seq * 10, 0));
    world.fold(&see("s1", 1));
    world.fold(&see("s2", 1));
    assert_eq!(world.values(CAN_SEE, &[]).len(), 2);
    world.fold(&see("s3", 1));
    world.fold(&see("s1", 2));
    world.fold(&see("s2", 2));
    assert_eq!(world.values(CAN_SEE, &[]).len(), 0);
    assert_eq!(world.values(AGE, &[]).len(), 3);
    world.fold(&see("s3", 2).ended());
    world.fold(&see("s1", 3));
    world.fold(&see("s2", 3));
    assert_eq!(world.values(CAN_SEE, &[]).len(), 2);
    assert_eq!(world.sum("videocall_audio_samples_total", &[]), 80.0);
    assert_eq!(world.sum("callsight_refused_total", &[]), 0.0);
}

#[test]
fn sessions_beyond_the_budget_are_refused_and_all_others_stay_right() {
    let mut world = World::for_sessions(2);
    for seq in 1..=3 {
        for id in ["s1", "s2", "s3", "s4"] {
            let outcome =
                world.fold(&frame(id, seq).of(id).rtt(400.0).sees(peer("bob").samples(seq * 10, 0)));
            let expected = if ["s1", "s2"].contains(&id) { Outcome::Folded } else { MAX_SESSIONS };
            assert_eq!(outcome, expected, "{id} {seq}");
        }
    }
    assert_eq!(frames_refused(&world), 6.0);
    assert_eq!(world.sum("callsight_refused_total", &[]), 0.0);
    assert_eq!(world.sum("callsight_frames_folded_total", &[]), 6.0);
    assert_eq!(world.sum("videocall_sessions", &[]), 2.0);
    assert_eq!(world.sum("videocall_participants", &[]), 2.0);
    assert_eq!(world.sum("videocall_sessions_degraded", &["rtt"]), 2.0);
    assert_eq!(world.sum("videocall_audio_samples_total", &[]), 60.0);
    assert_eq!(world.sum("videocall_rtt_seconds_count", &[]), 6.0);
    assert_eq!(world.values(AGE, &[]).len(), 2);
    assert_eq!((world.fold.sessions.len(), world.budget.live()), (2, 2));

    // The place of one that ends is another's, whose frames from before are not counted then.
    world.fold(&frame("s1", 4).of("s1").sees(peer("bob").samples(40, 0)).ended());
    assert_eq!(world.fold(&frame("s3", 4).of("s3").sees(peer("bob").samples(40, 0))), Outcome::Folded);
    assert_eq!(world.fold(&frame("s3", 5).of("s3").sees(peer("bob").samples(55, 0))), Outcome::Folded);
    assert_eq!(world.sum("videocall_audio_samples_total", &[]), 60.0 + 10.0 + 15.0);
    assert_eq!(world.fold(&frame("s1", 5).of("s1")), MAX_SESSIONS, "it is over");
    assert_eq!(world.fold(&frame("s3", 5).of("s3")), Outcome::Repeated);

    // One that moves keeps its place.
    assert_eq!(world.fold(&frame("s2", 4).of("s2").on(OTHER_RELAY)), Outcome::Folded);
    assert_eq!(world.value("videocall_sessions", &[OTHER_RELAY]), Some(1.0));

    world.pass(IDLE);
    world.tick();
    assert_eq!(world.budget.live(), 0);
    for id in ["s5", "s6"] {
        assert_eq!(world.fold(&frame(id, 1)), Outcome::Folded);
    }
    assert_eq!(world.fold(&frame("s7", 1)), MAX_SESSIONS);
}

#[test]
fn late_and_last_frames_need_no_place() {
    let mut world = World::for_sessions(1);
    world.fold(&frame("s1", 1));
    assert_eq!(world.fold_aged(&frame("s2", 1).sees(peer("bob").samples(10, 0)), IDLE), Outcome::Late);
    let last = frame("s3", 1).sees(peer("bob").samples(10, 0)).ended();
    assert_eq!(world.fold(&last), Outcome::Folded);
    assert_eq!(world.sum("videocall_audio_samples_total", &[]), 20.0);
    assert_eq!(world.budget.live(), 1);
}

#[test]
fn a_warm_start_keeps_the_budget() {
    let mut world = World::for_sessions(2);
    for id in ["s1", "s2", "s3", "s4"] {
        world.warm(&frame(id, 1).of(id), SECOND);
    }
    assert_eq!((world.fold.live_sessions(), world.fold.sessions.len()), (2, 2));
    assert_eq!(world.sum("videocall_sessions", &[]), 2.0);
    assert_eq!(frames_refused(&world), 0.0, "it counts nothing");
    assert_eq!(world.fold(&frame("s3", 2).of("s3")), MAX_SESSIONS);
}

#[test]
fn folds_share_the_budget_for_sessions() {
    let budget = SessionBudget::new(3);
    let world = || World::of(FoldSettings::default(), 1_000_000, budget.clone());
    let (mut us, mut apac) = (world(), world());
    for id in ["s1", "s2"] {
        us.fold(&frame(id, 1));
        apac.fold(&frame(id, 1));
    }
    assert_eq!((us.fold.live_sessions(), apac.fold.live_sessions()), (2, 1));
    us.fold(&frame("s1", 2).ended());
    assert_eq!(apac.fold(&frame("s2", 1)), Outcome::Folded);
}

#[test]
fn peers_beyond_eight_a_session_are_refused_and_all_others_stay_right() {
    let mut world = World::for_sessions(2);
    let ids: Vec<_> = (0..20).map(|number| format!("p{number}")).collect();
    for seq in 1..=2 {
        let sees = |frame: Frame<'static>, id: &'static str| frame.sees(peer(id).samples(seq * 10, 0));
        world.fold(&sees(frame("s1", seq), "bob"));
        let crowd = ids.iter().fold(frame("s2", seq), |frame, id| frame.sees(peer(id).samples(seq * 10, 0)));
        world.fold(&crowd);
    }
    assert_eq!(world.budget.peers(), 16);
    assert_eq!(refused(&world, "peers"), 2.0 * 5.0);
    assert_eq!(world.sum("videocall_peer_connections", &[]), 16.0);
    assert_eq!(world.sum("videocall_audio_samples_total", &[]), 16.0 * 20.0);
    assert_eq!(world.values(CAN_SEE, &[]).len(), 16);
    // Whoever leaves makes room, once the session does not remember them any more.
    world.fold(&frame("s2", 3).ended());
    let outcome = world.fold(&ids[..15].iter().fold(frame("s1", 3), |frame, id| frame.sees(peer(id))));
    assert_eq!(outcome, Outcome::Folded);
    assert_eq!((refused(&world, "peers"), world.budget.peers()), (10.0, 16));
}

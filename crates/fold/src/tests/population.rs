//! Who is there, and how many of them are in trouble.

use super::*;

fn degraded(world: &World) -> [f64; 3] {
    ["rtt", "audio", "video"].map(|signal| world.value("videocall_sessions_degraded", &[signal]).unwrap())
}

#[test]
fn sessions_participants_meetings_and_connections_are_counted_by_server() {
    let mut world = World::new();
    world.fold(&frame("s1", 1).sees(peer("bob")).sees(peer("carol")));
    world.fold(&frame("s2", 1).sees(peer("bob")));
    world.fold(&frame("s3", 1).of("bob").sees(peer("alice")));
    world.fold(&frame("s4", 1).of("carol").on(OTHER_RELAY).sees(peer("alice")));
    world.fold(&frame("s5", 1).meeting("n"));
    let counts = |relay| {
        ["meetings", "sessions", "participants", "peer_connections"]
            .map(|name| world.value(&format!("videocall_{name}"), &["us", relay, "webtransport"]).unwrap())
    };
    assert_eq!(counts(RELAY), [2.0, 4.0, 3.0, 4.0]);
    assert_eq!(counts(OTHER_RELAY), [1.0, 1.0, 1.0, 1.0]);
}

#[test]
fn a_participant_stays_until_the_last_of_its_sessions_goes() {
    let mut world = World::new();
    world.fold(&frame("s1", 1));
    world.fold(&frame("s2", 1));
    world.fold(&frame("s1", 2).ended());
    assert_eq!(world.sum("videocall_participants", &[]), 1.0);
    world.fold(&frame("s2", 2).ended());
    assert_eq!(world.sum("videocall_participants", &[]), 0.0);
}

#[test]
fn when_everybody_has_left_the_counts_are_zero_and_still_there() {
    let mut world = World::new();
    world.fold(&frame("s1", 1).rtt(900.0).sees(peer("bob").freezes(1)));
    world.fold(&frame("s2", 1).meeting("n").of("bob").on(OTHER_RELAY).sees(peer("alice")));
    world.fold(&frame("s2", 2).meeting("n").of("bob").on(OTHER_RELAY).ended());
    world.pass(IDLE);
    world.tick();
    for name in ["meetings", "sessions", "participants", "peer_connections"] {
        assert_eq!(world.values(&format!("videocall_{name}"), &[]), [0.0, 0.0], "{name}");
    }
    assert_eq!(world.values("videocall_sessions_degraded", &[]), [0.0; 10]);
    assert!(world.details().is_empty());
    assert_eq!(world.detail.live_series(crate::series::detail::DetailPlane::Pair), 0);
}

#[test]
fn a_long_round_trip_degrades_until_it_is_short_again() {
    let mut world = World::new();
    for (seq, (rtt, expected)) in (1..).zip([(300.0, 0.0), (300.5, 1.0), (900.0, 1.0), (80.0, 0.0)]) {
        world.fold(&frame("s1", seq).rtt(rtt));
        assert_eq!(degraded(&world), [expected, 0.0, 0.0], "at {rtt} ms");
    }
}

#[test]
fn a_round_trip_that_is_not_told_is_not_bad() {
    let mut world = World::new();
    world.fold(&frame("s1", 1).rtt(900.0));
    world.fold(&frame("s1", 2));
    assert_eq!(degraded(&world), [0.0; 3]);
}

#[test]
fn a_microphone_or_camera_that_is_on_and_does_not_arrive_degrades() {
    let mut world = World::new();
    let deaf = Peer { can_listen: false, ..peer("bob") };
    let blind = Peer { can_see: false, ..peer("carol") };
    world.fold(&frame("s1", 1).sees(deaf.clone()));
    assert_eq!(degraded(&world), [0.0, 1.0, 0.0]);
    world.fold(&frame("s1", 2).sees(blind.clone()));
    assert_eq!(degraded(&world), [0.0, 0.0, 1.0]);
    world.fold(&frame("s1", 3).sees(deaf.clone()).sees(blind.clone()).rtt(900.0));
    assert_eq!(degraded(&world), [1.0, 1.0, 1.0]);
    let muted = Peer { audio_enabled: false, ..deaf };
    let covered = Peer { video_enabled: false, ..blind };
    world.fold(&frame("s1", 4).sees(muted).sees(covered));
    assert_eq!(degraded(&world), [0.0; 3]);
}

#[test]
fn media_that_a_session_does_not_ask_for_are_not_missed() {
    let mut world = World::new();
    let one_way = |world: &World| world.sum("videocall_sessions_one_way_audio", &[]);
    let nothing = Peer { can_listen: false, can_see: false, ..peer("bob") };
    let out_of_sight = Peer { video_wanted: Some(false), ..nothing.clone() };
    world.fold(&frame("s1", 1).sees(out_of_sight.clone()));
    assert_eq!((degraded(&world), one_way(&world)), ([0.0, 1.0, 0.0], 1.0));
    let unsubscribed = Peer { audio_wanted: Some(false), ..out_of_sight };
    world.fold(&frame("s1", 2).sees(unsubscribed.samples(1000, 900).freezes(1)));
    assert_eq!((degraded(&world), one_way(&world)), ([0.0; 3], 0.0));
    let wanted = Peer { audio_wanted: Some(true), video_wanted: Some(true), ..nothing };
    world.fold(&frame("s1", 3).sees(wanted.samples(2000, 1800).freezes(1)));
    assert_eq!((degraded(&world), one_way(&world)), ([0.0, 1.0, 1.0], 1.0));
}

#[test]
fn one_way_audio_is_told_apart_from_bad_audio() {
    let mut world = World::new();
    let one_way = |world: &World| world.sum("videocall_sessions_one_way_audio", &[]);
    let deaf = Peer { can_listen: false, ..peer("bob") };
    world.fold(&frame("s1", 1).sees(deaf.clone()).sees(peer("carol")));
    world.fold(&frame("s2", 1).sees(peer("bob").samples(1000, 900)));
    assert_eq!((degraded(&world), one_way(&world)), ([0.0, 2.0, 0.0], 1.0));
    let muted = Peer { audio_enabled: false, ..deaf.clone() };
    world.fold(&frame("s1", 2).sees(muted));
    assert_eq!(one_way(&world), 0.0);
    world.fold(&frame("s1", 3).sees(deaf.clone()).hidden());
    assert_eq!(one_way(&world), 0.0);
    world.fold(&frame("s1", 4).sees(deaf));
    assert_eq!(one_way(&world), 1.0);
    world.fold(&frame("s1", 5).ended());
    assert_eq!(one_way(&world), 0.0);
}

#[test]
fn made_up_audio_and_freezes_degrade_by_what_came_since_the_frame_before() {
    let mut world = World::new();
    let steps = [
        ((1000, 50, 0), [0.0, 0.0]),
        ((2000, 151, 0), [1.0, 0.0]),
        ((3000, 151, 1), [0.0, 1.0]),
        ((4000, 151, 1), [0.0, 0.0]),
        ((4000, 151, 3), [0.0, 1.0]),
    ];
    for (seq, ((total, concealed, freezes), [audio, video])) in (1..).zip(steps) {
        world.fold(&frame("s1", seq).sees(peer("bob").samples(total, concealed).freezes(freezes)));
        assert_eq!(degraded(&world), [0.0, audio, video], "frame {seq}");
    }
}

#[test]
fn silent_concealment_is_not_held_against_a_session() {
    let mut world = World::new();
    let mut bob = peer("bob").samples(1000, 900);
    bob.audio.as_mut().unwrap().silent_concealed_samples = Some(880);
    world.fold(&frame("s1", 1).sees(bob));
    assert_eq!(degraded(&world), [0.0; 3]);
}

#[test]
fn a_hidden_tab_is_not_degraded() {
    let mut world = World::new();
    let bad = |seq| {
        let bob = Peer { can_listen: false, can_see: false, ..peer("bob") };
        frame("s1", seq).rtt(900.0).sees(bob.samples(seq * 1000, seq * 900).freezes(seq))
    };
    world.fold(&bad(1).hidden());
    assert_eq!(degraded(&world), [0.0; 3]);
    world.fold(&bad(2));
    assert_eq!(degraded(&world), [1.0; 3]);
    world.fold(&bad(3).hidden());
    assert_eq!(degraded(&world), [0.0; 3]);
}

#[test]
fn hidden_tabs_are_counted_while_they_are_hidden() {
    let mut world = World::new();
    let hidden = |world: &World| world.sum("videocall_sessions_hidden", &[]);
    world.fold(&frame("s1", 1).hidden());
    world.fold(&frame("s2", 1).on(OTHER_RELAY).hidden());
    assert_eq!(hidden(&world), 2.0);
    world.fold(&frame("s1", 2));
    assert_eq!(world.values("videocall_sessions_hidden", &[]), [0.0, 1.0]);
    world.fold(&frame("s2", 2).on(OTHER_RELAY).ended());
    assert_eq!(hidden(&world), 0.0);
}

#[test]
fn a_session_that_is_degraded_by_several_signals_is_counted_once() {
    let mut world = World::new();
    let any = |world: &World| world.sum("videocall_sessions_degraded_any", &[]);
    let blind = Peer { can_see: false, can_listen: false, ..peer("bob") };
    world.fold(&frame("s1", 1).rtt(900.0).sees(blind.clone()));
    world.fold(&frame("s2", 1).sees(blind));
    world.fold(&frame("s3", 1).sees(peer("bob")));
    assert_eq!((degraded(&world), any(&world)), ([1.0, 2.0, 2.0], 2.0));
    world.fold(&frame("s1", 2).rtt(900.0).sees(peer("bob")));
    assert_eq!(any(&world), 2.0);
    world.fold(&frame("s1", 3));
    world.fold(&frame("s2", 2).ended());
    assert_eq!(any(&world), 0.0);
}

#[test]
fn rows_tell_by_what_their_session_and_peer_are_degraded() {
    use crate::series::aggregates::Evidence;
    use crate::series::detail::DetailPlane;
    use crate::series::judgement::Judgement;
    let mut world = World::new();
    let deaf = Peer { can_listen: false, video_enabled: false, ..peer("carol") };
    let frame = Frame { audio_enabled: Some(true), ..frame("s1", 1) };
    world.fold(&frame.rtt(900.0).sees(peer("bob").samples(1000, 250)).sees(deaf));
    let judged = |plane| {
        world.detail.snapshot(plane).iter().map(crate::series::detail::RowView::judgement).collect::<Vec<_>>()
    };
    let bad_audio = Judgement { audio: true, microphone: true, ..Judgement::NONE };
    let session = Judgement {
        rtt: true,
        one_way_audio: true,
        concealment: Some(0.25),
        evidence: Some(Evidence::Path),
        ..bad_audio
    };
    assert_eq!(judged(DetailPlane::Session), [session]);
    let bob = Judgement { camera: true, concealment: Some(0.25), ..bad_audio };
    let carol = Judgement { one_way_audio: true, ..bad_audio };
    assert_eq!(judged(DetailPlane::Pair), [bob, carol]);
}

#[test]
fn a_session_that_goes_takes_its_degradation_along() {
    let mut world = World::new();
    let blind = Peer { can_see: false, ..peer("bob") };
    world.fold(&frame("s1", 1).rtt(900.0).sees(blind.clone()));
    world.fold(&frame("s2", 1).rtt(900.0).sees(blind));
    assert_eq!(degraded(&world), [2.0, 0.0, 2.0]);
    world.fold(&frame("s1", 2).rtt(900.0).ended());
    assert_eq!(degraded(&world), [1.0, 0.0, 1.0]);
    world.pass(IDLE);
    world.tick();
    assert_eq!(degraded(&world), [0.0; 3]);
}

const SERVER_IDLE: Duration = Duration::from_secs(15 * 60);

/// How many aggregates a server has.
fn of_server(world: &World, url: &str) -> usize {
    let label = format!("{{region=\"us\",server_url=\"{url}\"");
    world.page().0.keys().filter(|series| series.contains(&label)).count()
}

#[test]
fn the_series_of_a_server_go_when_nobody_has_been_on_it_for_long() {
    let mut world = World::new();
    world.fold(&frame("s1", 1).sees(peer("bob").samples(100, 0)));
    world.fold(&frame("s2", 1).on(OTHER_RELAY));
    let all = of_server(&world, RELAY);
    world.pass(IDLE - SECOND);
    world.fold(&frame("s2", 2).on(OTHER_RELAY));
    world.pass(SECOND);
    world.tick();
    assert_eq!(of_server(&world, RELAY), all, "the gauges say that nobody is there");
    // Since it fell idle, by its own frames and not by the tick that noticed it.
    for (more, left) in [(SERVER_IDLE - SECOND, all), (SECOND, 0)] {
        world.pass(more);
        world.tick();
        assert_eq!(of_server(&world, RELAY), left);
    }
    assert_eq!(of_server(&world, OTHER_RELAY), all, "it was left a moment later");

    // A server that returns begins anew.
    world.fold(&frame("s3", 1).sees(peer("bob").samples(7, 0)));
    assert_eq!(of_server(&world, RELAY), all);
    assert_eq!(world.value("videocall_audio_samples_total", &[RELAY]), Some(7.0));
    assert_eq!(world.value("videocall_sessions", &[RELAY]), Some(1.0));
}

#[test]
fn a_server_with_a_live_session_stays() {
    let mut world = World::new();
    world.fold(&frame("s0", 1).on(OTHER_RELAY).ended());
    for seq in 1..=100 {
        world.fold(&frame("s1", seq));
        world.pass(IDLE - SECOND);
        world.tick();
    }
    assert_eq!(world.value("videocall_sessions", &[RELAY]), Some(1.0));
    assert_eq!(of_server(&world, OTHER_RELAY), 0);
}

#[test]
fn late_frames_use_a_server() {
    let mut world = World::new();
    for seq in 1..=40 {
        world.fold_aged(&frame("s1", seq), 2 * IDLE);
        world.pass(SERVER_IDLE / 2);
        world.tick();
        assert!(of_server(&world, RELAY) > 0);
    }
    world.pass(SERVER_IDLE / 2);
    world.tick();
    assert_eq!(of_server(&world, RELAY), 0);
}

#[test]
fn none_and_other_stay() {
    let limits = crate::Limits { server_urls: 1, ..FoldSettings::default().limits };
    let mut world = World::with(FoldSettings { limits, ..FoldSettings::default() }, 1_000_000);
    world.fold(&frame("s1", 1));
    world.fold(&frame("s2", 1).on(OTHER_RELAY));
    world.fold(&Frame { server: None, ..frame("s3", 1) });
    world.pass(IDLE);
    world.tick();
    world.pass(SERVER_IDLE);
    world.tick();
    assert_eq!(of_server(&world, RELAY), 0);
    assert!(of_server(&world, "other") > 0 && of_server(&world, "none") > 0);
}

#[test]
fn five_thousand_servers_come_and_go_through_a_budget_of_a_hundred() {
    let limits = crate::Limits { server_urls: 100, ..FoldSettings::default().limits };
    let mut world = World::with(FoldSettings { limits, ..FoldSettings::default() }, 1_000_000);
    let urls: Vec<_> = (0..5_000).map(|number| format!("https://edge-{number}.example:4433")).collect();
    world.fold(&frame("stays", 1).meeting("n"));
    for batch in urls.chunks(250) {
        for url in batch {
            world.fold(&frame(url.trim_start_matches("https://"), 1).on(url));
        }
        assert_eq!(world.values("videocall_meetings", &["webtransport"]).len(), 100 + 1);
        assert_eq!(world.value("videocall_sessions", &["other"]), Some(250.0 - 99.0));
        for _ in 0..=(SERVER_IDLE + IDLE).as_secs() / 20 {
            world.pass(20 * SECOND);
            world.fold(&frame("stays", world.now.unix_seconds() as u64).meeting("n"));
            world.tick();
        }
    }
    let page = world.page();
    let servers = |series: &&String| series.contains("server_url=");
    let left: Vec<_> = page
        .0
        .keys()
        .filter(servers)
        .filter(|series| !series.contains(RELAY) && !series.contains("\"other\""))
        .collect();
    assert_eq!(left, Vec::<&String>::new());
    world.fold(&frame("new", 1).on(OTHER_RELAY).sees(peer("bob").samples(9, 0)));
    assert_eq!(world.value("videocall_sessions", &[OTHER_RELAY]), Some(1.0));
    assert_eq!(world.value("videocall_audio_samples_total", &[OTHER_RELAY]), Some(9.0));
    assert_eq!(world.value("videocall_sessions", &[RELAY]), Some(1.0), "whoever stayed is still there");
}

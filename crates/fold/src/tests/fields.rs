//! What browsers report, what a session sends, and how it joined; and by what a degraded session's
//! statistics explain it.

use super::*;
use crate::series::aggregates::Evidence;
use callsight_frame::{
    App, CandidateType, Client, Join, JoinFailure, JoinState, Path, Platform, Protocol, QualityLimitation,
    Sending,
};

/// A peer whose audio came so far, with so many packets lost.
fn heard(peer_id: &str, received: u64, lost: u64) -> Peer<'_> {
    let mut peer = peer(peer_id);
    let audio = peer.audio.get_or_insert_default();
    (audio.packets_received, audio.packets_lost) = (Some(received), Some(lost));
    peer
}

/// The same, of which half of what was played was concealed.
fn torn(peer_id: &str, received: u64, lost: u64) -> Peer<'_> {
    heard(peer_id, received, lost).samples(received * 960, received * 480)
}

fn sending(sent: u64, lost: u64) -> Option<Sending> {
    Some(Sending { audio_packets_sent: Some(sent), audio_packets_lost: Some(lost), ..Sending::default() })
}

fn client(app: &'static str, platform: Platform) -> Option<Client<'static>> {
    Some(Client { app: Some(App::new(app).unwrap()), platform: Some(platform) })
}

fn path(candidate_type: CandidateType, protocol: Protocol) -> Option<Path> {
    Some(Path { candidate_type: Some(candidate_type), protocol: Some(protocol), ..Path::default() })
}

fn join(state: JoinState, setup_ms: f64, reason: Option<JoinFailure>) -> Option<Join> {
    Some(Join { state, setup_ms: Some(setup_ms), reason })
}

/// What the only degraded session's statistics say of the reason.
fn evidence(world: &World) -> Option<Evidence> {
    let series = |evidence: Evidence| world.sum("videocall_sessions_degraded_evidence", &[evidence.label()]);
    let all: f64 = Evidence::ALL.map(series).iter().sum();
    assert_eq!(all, world.sum("videocall_sessions_degraded_any", &[]), "each has one reason");
    Evidence::ALL.into_iter().find(|evidence| series(*evidence) > 0.0)
}

#[test]
fn what_browsers_count_grows_like_all_counters() {
    let video = |scale: u64| Video {
        packets_received: Some(1000 * scale),
        packets_lost: Some(10 * scale),
        freezes_ms: Some(1500 * scale),
        frames_decoded: Some(300 * scale),
        frames_dropped: Some(3 * scale),
        nack_count: Some(8 * scale),
        pli_count: Some(scale),
        freeze_count: Some(2 * scale),
        frame_height: Some(360),
        ..Video::default()
    };
    let audio = |scale: u64| Audio {
        jitter_ms: Some(12.0),
        concealment_events: Some(4 * scale),
        inserted_samples: Some(480 * scale),
        removed_samples: Some(240 * scale),
        packets_discarded: Some(5 * scale),
        ..Audio::default()
    };
    let bob = |scale| Peer { audio: Some(audio(scale)), video: Some(video(scale)), ..peer("bob") };
    let mut world = World::new();
    world.fold(&frame("s1", 1).sees(bob(1)));
    world.fold(&frame("s1", 2).sees(bob(3)));
    let grown = |world: &World| {
        [
            "videocall_audio_concealment_events_total",
            "videocall_audio_inserted_samples_total",
            "videocall_audio_removed_samples_total",
            "videocall_audio_packets_discarded_total",
            "videocall_video_packets_received_total",
            "videocall_video_packets_lost_total",
            "videocall_video_freeze_seconds_total",
            "videocall_video_frames_decoded_total",
            "videocall_video_frames_dropped_total",
            "videocall_video_nacks_total",
            "videocall_video_plis_total",
            "videocall_video_freezes_total",
        ]
        .map(|metric| world.value(metric, &[]).unwrap())
    };
    let expected = [12.0, 1440.0, 720.0, 15.0, 3000.0, 30.0, 4.5, 900.0, 9.0, 24.0, 3.0, 6.0];
    assert_eq!(grown(&world), expected);
    assert_eq!(world.sum("videocall_video_frame_height_pixels_count", &[]), 2.0);
    assert_eq!(world.value("videocall_pair_video_frame_height_pixels", &["bob"]), Some(360.0));
    assert_eq!(world.value("videocall_pair_audio_jitter_seconds", &["bob"]), Some(0.012));

    // A shared screen is one more video, with counters of its own.
    let sharing = Peer { screen: Some(Video { fps: Some(5.0), ..video(1) }), ..bob(3) };
    world.fold(&frame("s1", 3).sees(sharing.clone()));
    assert_eq!(grown(&world)[4..], [4000.0, 40.0, 6.0, 1200.0, 12.0, 32.0, 4.0, 8.0]);
    assert_eq!(grown(&world)[..4], expected[..4]);
    assert_eq!(world.value("videocall_pair_screen_frames_per_second", &["bob"]), Some(5.0));
    world.fold(&frame("s1", 4).sees(sharing));
    assert_eq!(grown(&world)[4], 4000.0);
    assert_eq!(world.sum("callsight_implausible_growth_total", &[]), 0.0);
}

#[test]
fn what_grows_by_more_than_a_call_can_bring_counts_nowhere() {
    let mut world = World::new();
    let mut bob = heard("bob", 1, 0);
    bob.video = Some(Video { packets_received: Some(1 << 40), ..Video::default() });
    bob.screen = Some(Video { freezes_ms: Some(1 << 40), ..Video::default() });
    world.fold(&Frame { send: sending(1 << 40, 0), ..frame("s1", 1).sees(bob) });
    assert_eq!(world.sum("callsight_implausible_growth_total", &[]), 3.0);
    for metric in [
        "videocall_video_packets_received_total",
        "videocall_video_freeze_seconds_total",
        "videocall_send_audio_packets_total",
    ] {
        assert_eq!(world.value(metric, &[]), Some(0.0), "{metric}");
    }
}

#[test]
fn what_a_session_sends_is_counted_on_its_server() {
    let mut world = World::new();
    let limited = |cpu| QualityLimitation { cpu_ms: Some(cpu), bandwidth_ms: Some(0), other_ms: None };
    let sent = |scale: u64| Sending {
        rtt_ms: Some(80.0),
        audio_packets_sent: Some(250 * scale),
        audio_packets_lost: Some(5 * scale),
        video_packets_sent: Some(1000 * scale),
        video_packets_lost: Some(20 * scale),
        fps: Some(15.0),
        frame_height: Some(720),
        bitrate_kbps: Some(1600.0),
        limited: Some(limited(4000 * scale)),
        nack_count: Some(7 * scale),
        pli_count: Some(2 * scale),
    };
    let path = Path { available_outgoing_kbps: Some(2400.0), ice_restarts: Some(1), ..Path::default() };
    world.fold(&Frame { send: Some(sent(1)), path: Some(path.clone()), ..frame("s1", 1) });
    world.pass(5 * SECOND);
    world.fold(&Frame { send: Some(sent(2)), path: Some(path), ..frame("s1", 2) });
    for (metric, expected) in [
        ("videocall_send_audio_packets_total", 500.0),
        ("videocall_send_audio_packets_lost_total", 10.0),
        ("videocall_send_video_packets_total", 2000.0),
        ("videocall_send_video_packets_lost_total", 40.0),
        ("videocall_send_nacks_total", 14.0),
        ("videocall_send_plis_total", 4.0),
        ("videocall_ice_restarts_total", 1.0),
        ("videocall_send_rtt_seconds_count", 2.0),
        ("videocall_send_frame_height_pixels_count", 2.0),
        ("videocall_session_send_rtt_seconds", 0.08),
        ("videocall_session_send_loss_ratio", 0.02),
        ("videocall_session_send_frames_per_second", 15.0),
        ("videocall_session_send_frame_height_pixels", 720.0),
        ("videocall_session_send_bytes_per_second", 200_000.0),
        ("videocall_session_available_outgoing_bytes_per_second", 300_000.0),
    ] {
        assert_eq!(world.value(metric, &[]), Some(expected), "{metric}");
    }
    assert_eq!(world.value("videocall_send_limited_seconds_total", &["cpu"]), Some(8.0));
    assert_eq!(world.value("videocall_sessions_limited", &["cpu"]), Some(1.0));
    assert_eq!(world.sum("videocall_sessions_limited", &[]), 1.0);
    assert_eq!(world.sum("videocall_sessions_degraded_any", &[]), 0.0, "being limited degrades nobody");

    // A frame without them says nothing new, and one after it has no more than its growth.
    world.fold(&frame("s1", 3));
    assert_eq!(world.value("videocall_session_send_loss_ratio", &[]), None);
    assert_eq!(world.sum("videocall_sessions_limited", &[]), 0.0);
    world.fold(&frame("s1", 4).ended());
    assert_eq!(world.value("videocall_send_audio_packets_total", &[]), Some(500.0));
}

#[test]
fn loss_of_what_is_sent_degrades_the_sender() {
    let mut world = World::new();
    let uplink = |world: &World| world.sum("videocall_sessions_degraded", &["uplink"]);
    world.fold(&Frame { send: sending(1000, 50), ..frame("s1", 1) });
    assert_eq!(uplink(&world), 0.0, "no more than the threshold");
    world.fold(&Frame { send: sending(1010, 59), ..frame("s1", 2) });
    assert_eq!(uplink(&world), 0.0, "too few packets");
    world.fold(&Frame { send: sending(1110, 69), ..frame("s1", 3) });
    assert_eq!((uplink(&world), evidence(&world)), (1.0, Some(Evidence::Sending)));
    world.fold(&Frame { send: sending(1210, 79), ..frame("s1", 4).hidden() });
    assert_eq!(uplink(&world), 0.0, "a hidden tab is not judged");
    world.fold(&Frame { send: sending(1310, 79), ..frame("s1", 5) });
    assert_eq!(uplink(&world), 0.0);
}

#[test]
fn a_join_counts_once_when_it_ends() {
    let mut world = World::new();
    let joins = |world: &World, labels: &[&str]| world.sum("videocall_joins_total", labels);
    let joining = |seq, setup| Frame { join: join(JoinState::Joining, setup, None), ..frame("s1", seq) };
    let degraded = |world: &World| world.sum("videocall_sessions_degraded", &["join"]);
    world.fold(&joining(1, 5000.0));
    assert_eq!((joins(&world, &[]), degraded(&world)), (0.0, 0.0));
    world.fold(&joining(2, 10_001.0));
    assert_eq!((joins(&world, &[]), degraded(&world)), (0.0, 1.0), "too long");
    assert_eq!(evidence(&world), Some(Evidence::Unknown));
    for seq in 3..6 {
        world.fold(&Frame {
            join: join(JoinState::Failed, 15_000.0, Some(JoinFailure::Ice)),
            ..frame("s1", seq)
        });
        assert_eq!((joins(&world, &["failed", "ice"]), degraded(&world)), (1.0, 1.0));
        assert_eq!(evidence(&world), Some(Evidence::Path));
    }
    world.fold(&joining(6, 10.0));
    for seq in 7..9 {
        world.fold(&Frame { join: join(JoinState::Joined, 1200.0, None), ..frame("s1", seq) });
        assert_eq!((joins(&world, &["joined", "none"]), degraded(&world)), (1.0, 0.0));
    }
    assert_eq!(joins(&world, &[]), 2.0);
    assert_eq!(world.value("videocall_join_seconds_sum", &[]), Some(1.2));

    // Nobody knows whether one that is first seen in its middle was counted before.
    world.fold(&Frame { join: join(JoinState::Joined, 900.0, None), ..frame("s2", 7) });
    assert_eq!(joins(&world, &[]), 2.0);
    // A restart counts nothing that was counted before it.
    let again = Frame { join: join(JoinState::Joined, 900.0, None), ..frame("s3", 1) };
    world.warm(&again, SECOND);
    world.fold(&Frame { seq: Seq::new(2).unwrap(), ..again });
    assert_eq!(joins(&world, &[]), 2.0);
    let refused = join(JoinState::Failed, 80.0, None);
    world.fold(&Frame { join: refused, ..frame("s4", 1) });
    assert_eq!(joins(&world, &["failed", "other"]), 1.0);
}

#[test]
fn sessions_are_counted_by_release_and_path() {
    let mut world = World::new();
    let (old, new) = (client("web-2.13", Platform::Chrome), client("web-2.14", Platform::Safari));
    let (direct, relayed) =
        (path(CandidateType::Host, Protocol::Udp), path(CandidateType::Relay, Protocol::Tls));
    let count = |world: &World, labels: &[&str]| {
        ["client_sessions", "client_sessions_degraded", "path_sessions", "path_sessions_degraded"]
            .map(|name| world.sum(&format!("videocall_{name}"), labels))
    };
    world.fold(&Frame { client: old.clone(), path: direct.clone(), ..frame("s1", 1).rtt(900.0) });
    world.fold(&Frame { client: new, path: relayed.clone(), ..frame("s2", 1) });
    world.fold(&frame("s3", 1));
    assert_eq!(count(&world, &["web-2.13", "chrome"]), [1.0, 1.0, 0.0, 0.0]);
    assert_eq!(count(&world, &["web-2.14", "safari"]), [1.0, 0.0, 0.0, 0.0]);
    assert_eq!(count(&world, &["host", "udp"]), [0.0, 0.0, 1.0, 1.0]);
    assert_eq!(count(&world, &["none"]), [1.0, 0.0, 1.0, 0.0]);
    assert!(world.value("videocall_session_rtt_seconds", &["s1", "web-2.13", "chrome"]).is_some());

    // A frame that does not name them changes neither; another path changes the path alone.
    world.fold(&frame("s1", 2).rtt(900.0));
    assert_eq!(count(&world, &[]), [3.0, 1.0, 3.0, 1.0]);
    let sessions_moved = |world: &World| world.sum("callsight_sessions_removed_total", &["moved"]);
    world.fold(&Frame { path: relayed, ..frame("s1", 3).rtt(900.0) });
    assert_eq!(count(&world, &["relay", "tls"]), [0.0, 0.0, 2.0, 1.0]);
    assert_eq!((count(&world, &["host", "udp"]), sessions_moved(&world)), ([0.0; 4], 0.0));
    // Another release is another row.
    world.fold(&Frame { client: client("web-2.15", Platform::Chrome), ..frame("s1", 4).rtt(900.0) });
    assert_eq!((count(&world, &["web-2.15"]), sessions_moved(&world)), ([1.0, 1.0, 0.0, 0.0], 1.0));
    assert_eq!(world.value(AGE, &["s1", "web-2.13"]), None);
    for (id, seq) in [("s1", 5), ("s2", 2), ("s3", 2)] {
        world.fold(&frame(id, seq).ended());
    }
    assert_eq!(count(&world, &[]), [0.0; 4]);

    world.pass(FoldSettings::default().server_idle);
    world.tick();
    assert_eq!(world.values("videocall_client_sessions", &[]).len(), 1, "that of no release");
    assert_eq!(world.values("videocall_path_sessions", &[]).len(), 1, "that of no path");
    world.fold(&Frame { client: old, ..frame("s9", 1) });
    assert_eq!(count(&world, &["web-2.13"])[0], 1.0);
}

const AGE: &str = "videocall_session_last_seen_age_seconds";

#[test]
fn releases_beyond_the_budget_share_their_series() {
    let limits = crate::Limits { apps: 2, ..FoldSettings::default().limits };
    let mut world = World::with(FoldSettings { limits, ..FoldSettings::default() }, 1_000_000);
    for (id, app) in [("s1", "a"), ("s2", "b"), ("s3", "c"), ("s4", "d")] {
        world.fold(&Frame { client: client(app, Platform::Chrome), ..frame(id, 1).rtt(900.0) });
        world.fold(&Frame { client: client(app, Platform::Chrome), ..frame(id, 2).rtt(900.0) });
    }
    assert_eq!(world.values("videocall_client_sessions", &[]), [1.0, 1.0, 2.0]);
    assert_eq!(world.value("videocall_client_sessions_degraded", &["other", "chrome"]), Some(2.0));
    assert_eq!(world.sum("callsight_refused_total", &["apps"]), 2.0);
    assert_eq!(world.sum("callsight_sessions_removed_total", &["moved"]), 0.0);
    assert!(world.value(AGE, &["s4", "other"]).is_some(), "labels are bounded in rows too");
    // Their place comes back.
    world.fold(&frame("s1", 3).ended());
    for (minutes, seq) in [(14, 3), (2, 4)] {
        world.pass(minutes * 60 * SECOND);
        for id in ["s2", "s3", "s4"] {
            world.fold(&frame(id, seq));
        }
        world.tick();
    }
    world.fold(&Frame { client: client("e", Platform::Chrome), ..frame("s5", 1) });
    assert_eq!(world.value("videocall_client_sessions", &["e"]), Some(1.0));
}

/// Folds a frame of a session after one that is its baseline, and says what explains it.
fn explained(peers: [Vec<Peer<'static>>; 2], sent: [Option<Sending>; 2], rtt: f64) -> Option<Evidence> {
    let mut world = World::new();
    for ((seq, peers), send) in (1..).zip(peers).zip(sent) {
        world.fold(&Frame { peers, send, ..frame("s1", seq).rtt(rtt) });
        world.pass(SECOND);
    }
    evidence(&world)
}

#[test]
fn a_degraded_session_tells_by_its_own_numbers_what_hurt_it() {
    let before = || vec![heard("bob", 0, 0), heard("carol", 0, 0), heard("dan", 0, 0)];
    let both = |peers: Vec<Peer<'static>>| explained([before(), peers], [None, None], 50.0);
    // From most of its peers packets were lost: it is on its own way.
    assert_eq!(
        both(vec![torn("bob", 80, 20), torn("carol", 80, 20), heard("dan", 100, 0)]),
        Some(Evidence::Path)
    );
    // From one of three: that one's way.
    assert_eq!(
        both(vec![torn("bob", 80, 20), heard("carol", 100, 1), heard("dan", 100, 0)]),
        Some(Evidence::Peers)
    );
    // Nothing was lost, and yet it sounds bad.
    assert_eq!(
        both(vec![torn("bob", 100, 0), heard("carol", 100, 0), heard("dan", 99, 1)]),
        Some(Evidence::Client)
    );
    // Nothing arrives at all, so nobody knows whether it was sent.
    let deaf = Peer { can_listen: false, ..heard("bob", 0, 0) };
    assert_eq!(both(vec![deaf, heard("carol", 100, 0), heard("dan", 100, 0)]), Some(Evidence::Unknown));
    // Loss that degrades nothing needs no explanation.
    assert_eq!(both(vec![heard("bob", 80, 20), heard("carol", 80, 20), heard("dan", 100, 0)]), None);
    // Long round trips are the path's, whatever else there is.
    let slow = explained([before(), vec![torn("bob", 100, 0)]], [None, None], 900.0);
    assert_eq!(slow, Some(Evidence::Path));
}

#[test]
fn in_a_call_of_two_only_loss_both_ways_is_the_path() {
    let peers = || [vec![heard("bob", 0, 0)], vec![torn("bob", 80, 20)]];
    let sent = |lost| [sending(0, 0), sending(100, lost)];
    assert_eq!(explained(peers(), sent(0), 50.0), Some(Evidence::Either));
    assert_eq!(explained(peers(), sent(20), 50.0), Some(Evidence::Path));
    let fine = [vec![heard("bob", 0, 0)], vec![heard("bob", 100, 0)]];
    assert_eq!(explained(fine, sent(20), 50.0), Some(Evidence::Sending));
}

#[test]
fn the_state_of_a_path_is_kept_beside_its_row() {
    use crate::series::detail::DetailPlane;
    let mut world = World::new();
    let direct = path(CandidateType::ServerReflexive, Protocol::Tcp);
    world.fold(&Frame { path: direct, ..frame("s1", 1).sees(heard("bob", 90, 10)) });
    let detail = world.detail.clone();
    let judgement = |plane| detail.snapshot(plane)[0].judgement();
    let session = judgement(DetailPlane::Session);
    assert_eq!(session.candidate_type, Some(CandidateType::ServerReflexive));
    assert_eq!((session.protocol, session.loss_percent), (Some(Protocol::Tcp), Some(10)));
    assert_eq!(judgement(DetailPlane::Pair).loss_percent, Some(10));
    world.fold(&frame("s1", 2));
    let session = judgement(DetailPlane::Session);
    assert_eq!(session.candidate_type, Some(CandidateType::ServerReflexive), "the frame does not name it");
    world.fold(&Frame { path: path(CandidateType::Relay, Protocol::Udp), ..frame("s1", 3) });
    assert_eq!(judgement(DetailPlane::Session).candidate_type, Some(CandidateType::Relay));
    world.fold(&frame("s1", 4).sees(heard("bob", 90, 10)));
    for (metric, count) in [("received", 90.0), ("lost", 10.0)] {
        let metric = format!("videocall_pair_audio_packets_{metric}_total");
        assert_eq!(world.value(&metric, &["s1", "bob"]), Some(count));
    }
}

//! What a client gains by lying: nothing under another's session, and no sum that it spoils.

use super::*;
use crate::{MAX_SEQ_JUMP, REMEMBERED};

const REFUSED: &str = "callsight_frames_refused_total";
const JUMPS: &str = "callsight_implausible_growth_total";
const SAMPLES: &str = "videocall_audio_samples_total";
const MAX_SEQ: u64 = 1 << 53;

const NOT_OWNER: Outcome = Outcome::Refused(Refusal::NotOwner);
const SEQ_JUMP: Outcome = Outcome::Refused(Refusal::SeqJump);

fn victim(seq: u64) -> Frame<'static> {
    frame("victim", seq).rtt(40.0).sees(peer("bob").samples(seq * 48_000, 0))
}

/// Frames under the victim's session that end it, take its row over, or hide it behind its
/// watermark.
fn attacks(seq: u64) -> Vec<Frame<'static>> {
    let frames = [
        victim(seq).of("mallory"),
        victim(seq).meeting("n"),
        victim(seq).of("mallory").meeting("n"),
        victim(seq).of("mallory").on(OTHER_RELAY).rtt(5000.0),
    ];
    let last = |frame: &Frame<'static>| Frame { seq: Seq::new(MAX_SEQ).unwrap(), ..frame.clone() };
    frames.iter().flat_map(|frame| [frame.clone(), last(frame), last(frame).ended()]).collect()
}

/// The page without the counts of refused frames, and how many these are.
fn page_and_refused(world: &World) -> (Page, f64) {
    let mut page = world.page();
    let refused = page.sum(REFUSED, &[]);
    page.0.retain(|series, _| !series.starts_with(REFUSED));
    (page, refused)
}

#[test]
fn a_frame_of_another_participant_or_meeting_changes_nothing() {
    let mut world = World::new();
    world.fold(&victim(1));
    let (before, _) = page_and_refused(&world);
    let attacks = attacks(2);
    for attack in &attacks {
        assert_eq!(world.fold(attack), NOT_OWNER);
    }
    assert_eq!(page_and_refused(&world), (before, attacks.len() as f64));
    assert_eq!(world.sum(REFUSED, &["not_owner"]), attacks.len() as f64);
    assert_eq!(world.fold.expiry.len(), 1);

    assert_eq!(world.fold(&victim(2)), Outcome::Folded);
    assert_eq!(world.value("videocall_session_rtt_seconds", &["victim", "alice", "m"]), Some(0.04));
    assert_eq!(world.sum(SAMPLES, &[]), 96_000.0);
    assert_eq!(world.sum("videocall_sessions", &[]), 1.0);
}

#[test]
fn a_session_is_idle_for_all_that_others_send() {
    let mut world = World::new();
    world.fold(&victim(1));
    for _ in 0..29 {
        world.pass(SECOND);
        for attack in attacks(2) {
            assert_eq!(world.fold(&attack), NOT_OWNER);
        }
        world.tick();
    }
    assert_eq!(world.fold.live_sessions(), 1);
    world.pass(SECOND);
    world.tick();
    assert_eq!(world.fold.live_sessions(), 0);
    assert_eq!(world.sum("callsight_sessions_removed_total", &["idle"]), 1.0);
}

#[test]
fn a_session_keeps_its_owner_while_it_is_remembered() {
    for ended in [true, false] {
        let mut world = World::new();
        world.fold(&victim(1));
        if ended {
            world.fold(&victim(2).ended());
        }
        world.pass(IDLE);
        world.tick();
        for attack in attacks(3) {
            assert_eq!(world.fold(&attack), NOT_OWNER, "ended: {ended}");
        }
        assert_eq!(world.fold.live_sessions(), 0);
        // Its owner may come back.
        assert_eq!(world.fold(&victim(3)), Outcome::Folded);
        assert_eq!(world.fold.live_sessions(), 1);

        // What others send does not prolong the memory, after which the name is anybody's.
        world.pass(REMEMBERED - SECOND);
        world.tick();
        assert_eq!(world.fold(&attacks(4)[0]), NOT_OWNER, "ended: {ended}");
        world.pass(SECOND);
        world.tick();
        assert_eq!(world.fold(&attacks(4)[0]), Outcome::Folded, "ended: {ended}");
    }
}

#[test]
fn a_warm_start_keeps_to_the_owner_too() {
    let mut world = World::new();
    world.warm(&victim(5), 20 * SECOND);
    for attack in attacks(6) {
        assert_eq!(world.warm(&attack, 10 * SECOND), NOT_OWNER);
    }
    assert_eq!(world.sum(REFUSED, &[]), 0.0);
    assert_eq!(world.value("videocall_session_last_seen_age_seconds", &["victim", "alice"]), Some(20.0));
    assert_eq!(world.fold(&victim(6)), Outcome::Folded);
    assert_eq!(world.sum(SAMPLES, &[]), 48_000.0);
}

#[test]
fn a_seq_that_jumps_does_not_hide_the_session() {
    let mut world = World::new();
    // A session that is met midway may be at any number.
    world.fold(&victim(1_000_000_000));
    let watermark = 1_000_000_000;
    let (before, _) = page_and_refused(&world);
    for seq in [watermark + MAX_SEQ_JUMP + 1, MAX_SEQ] {
        let jump = Frame { seq: Seq::new(seq).unwrap(), ..victim(1).ended() };
        assert_eq!(world.fold(&jump), SEQ_JUMP);
    }
    assert_eq!(page_and_refused(&world), (before, 2.0));
    assert_eq!(world.sum(REFUSED, &["seq_jump"]), 2.0);
    let next = Frame { seq: Seq::new(watermark + 1).unwrap(), ..victim(1) };
    assert_eq!(world.fold(&next), Outcome::Folded);
    let furthest = Frame { seq: Seq::new(watermark + 1 + MAX_SEQ_JUMP).unwrap(), ..victim(1) };
    assert_eq!(world.fold(&furthest), Outcome::Folded);
}

#[test]
fn a_client_that_goes_on_after_a_jump_is_a_new_session_once_the_old_one_is_forgotten() {
    let mut world = World::new();
    world.fold(&victim(1));
    let mut seq = MAX_SEQ / 2;
    let mut next = || {
        seq += 1;
        Frame { seq: Seq::new(seq).unwrap(), ..victim(2) }
    };
    for _ in 1..REMEMBERED.as_secs() {
        world.pass(SECOND);
        world.tick();
        assert_eq!(world.fold(&next()), SEQ_JUMP);
    }
    world.pass(SECOND);
    world.tick();
    assert_eq!(world.fold(&next()), Outcome::Folded);
    assert_eq!(world.fold.live_sessions(), 1);
}

#[test]
fn a_counter_that_jumps_adds_nothing_and_grows_on() {
    let mut world = World::new();
    // 48,000 samples, then nonsense, then what would have been 48,000 more.
    let bob = |total| peer("bob").samples(total, 0).freezes(1);
    world.fold(&frame("s1", 1).sees(bob(48_000)));
    world.fold(&frame("s1", 2).sees(bob(10_000_000_000_000)));
    assert_eq!((world.sum(SAMPLES, &[]), world.sum(JUMPS, &[])), (48_000.0, 1.0));
    world.fold(&frame("s1", 3).sees(bob(10_000_000_000_000 - 1)));
    assert_eq!((world.sum(SAMPLES, &[]), world.sum(JUMPS, &[])), (48_000.0, 2.0));
    world.fold(&frame("s1", 4).sees(bob(10_000_000_000_000)));
    world.fold(&frame("s1", 5).sees(bob(240_000)));
    assert_eq!((world.sum(SAMPLES, &[]), world.sum(JUMPS, &[])), (288_001.0, 2.0));
    assert_eq!(world.sum("videocall_video_freezes_total", &[]), 1.0);
    assert_eq!(world.sum("callsight_frames_folded_total", &[]), 5.0);
}

#[test]
fn growth_is_bounded_by_the_time_between_frames() {
    let seconds = 45 + REMEMBERED.as_secs();
    for (more, counted) in [(0, true), (1, false)] {
        let mut world =
            World::with(FoldSettings { idle_timeout: 60 * SECOND, ..FoldSettings::default() }, 100);
        world.fold(&frame("s1", 1).sees(peer("bob").samples(0, 0).freezes(0)));
        world.pass(45 * SECOND);
        let (samples, freezes) = (192_000 * seconds + more, 1000 * seconds + more);
        world.fold(&frame("s1", 2).sees(peer("bob").samples(samples, samples).freezes(freezes)));
        for (metric, grown) in [
            (SAMPLES, samples),
            ("videocall_audio_concealed_samples_total", samples),
            ("videocall_video_freezes_total", freezes),
        ] {
            assert_eq!(world.sum(metric, &[]), if counted { grown as f64 } else { 0.0 }, "{metric}");
        }
        assert_eq!(world.sum(JUMPS, &[]), if counted { 0.0 } else { 3.0 });
        // What is not believed degrades nobody either.
        let degraded = world.sum("videocall_sessions_degraded", &[]);
        assert_eq!(degraded, if counted { 2.0 } else { 0.0 });
    }
}

#[test]
fn the_extremes_of_every_value_spoil_no_sum() {
    let mut world = World::new();
    let audio = Audio { buffer_ms: Some(600_000.0), ..Audio::default() };
    let worst = Peer { audio: Some(audio), ..peer("bob") };
    for seq in 1..=2000 {
        let extreme = frame("s1", seq).rtt(600_000.0).sees(worst.clone());
        world.fold(&Frame { sent_at_ms: 253_402_300_799_999, ..extreme });
    }
    world.fold(&frame("s2", 1).rtt(40.0));
    for (metric, sum) in [
        ("videocall_rtt_seconds_sum", 2000.0 * 600.0 + 0.04),
        ("videocall_audio_buffer_seconds_sum", 2000.0 * 600.0),
        ("callsight_client_clock_skew_seconds_sum", 2000.0 * 86_400.0),
    ] {
        assert_eq!(world.sum(metric, &[]), sum, "{metric}");
    }
}

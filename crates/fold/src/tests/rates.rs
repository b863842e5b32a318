//! Packets have rates, which become counts: none twice, none for a gap, none for what came before.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use callsight_frame::{AudioRates, Operation};

const START: u64 = 1_767_225_600_000;
const PACKETS: &str = "videocall_audio_packets_received_total";
const DECISIONS: &str = "videocall_neteq_operations_total";
const PAIR_PACKETS: &str = "videocall_pair_audio_packets_received_total";
const PAIR_DECISIONS: &str = "videocall_pair_neteq_operations_total";

/// A packet of a session, so many milliseconds after its beginning.
fn packet(session_id: &str, after_ms: u64) -> Frame<'_> {
    frame(session_id, START + after_ms)
}

trait PacketExt<'a> {
    fn hears(self, peer: Peer<'a>, rates: AudioRates) -> Self;
}

impl<'a> PacketExt<'a> for Frame<'a> {
    fn hears(mut self, peer: Peer<'a>, rates: AudioRates) -> Self {
        self.peers.push(Peer { audio: Some(Audio::default()), ..peer });
        self.rates.push(Some(rates));
        self
    }
}

/// Rates of so many packets, and of decisions of which some concealed.
fn rates(packets: f64, normal: f64, expand: f64) -> AudioRates {
    let mut rates = AudioRates { packets, ..AudioRates::default() };
    rates.operations[Operation::Normal as usize] = normal;
    rates.operations[Operation::Expand as usize] = expand;
    rates
}

#[test]
fn a_rate_counts_for_the_time_since_the_packet_before() {
    let mut world = World::new();
    let at = |after_ms| packet("s1", after_ms).hears(peer("bob"), rates(50.0, 98.0, 2.0));
    world.fold(&at(0));
    assert_eq!((world.sum(PACKETS, &[]), world.sum(DECISIONS, &[])), (0.0, 0.0));
    assert_eq!(world.value(PAIR_DECISIONS, &["bob", "expand"]), Some(0.0));
    world.fold(&at(5000));
    world.fold(&at(6000));
    assert_eq!(world.sum(PACKETS, &[]), 300.0);
    assert_eq!(world.sum(DECISIONS, &["normal"]), 588.0);
    assert_eq!(world.sum(DECISIONS, &["expand"]), 12.0);
    assert_eq!(world.value(PAIR_PACKETS, &["bob"]), Some(300.0));
    assert_eq!(world.value(PAIR_DECISIONS, &["bob", "normal"]), Some(588.0));
    assert_eq!(world.value(PAIR_DECISIONS, &["bob", "dtmf"]), Some(0.0));
    // Nobody counted samples.
    assert_eq!(world.values("videocall_pair_audio_samples_total", &["bob"]), []);
}

#[test]
fn a_gap_is_not_filled_with_the_last_rate() {
    let mut world = World::new();
    let at = |after_ms| packet("s1", after_ms).hears(peer("bob"), rates(50.0, 100.0, 0.0));
    world.fold(&at(0));
    world.fold(&at(90_000));
    assert_eq!(world.sum(PACKETS, &[]), 15.0 * 50.0);
    // Nor does a session that comes back after it fell idle count more.
    world.pass(IDLE);
    world.tick();
    world.fold(&at(190_000));
    assert_eq!(world.sum(PACKETS, &[]), 30.0 * 50.0);
}

#[test]
fn slow_rates_add_up() {
    let mut world = World::new();
    for second in 0..=1000 {
        world.fold(&packet("s1", second * 1000).hears(peer("bob"), rates(0.01, 0.3, 0.003)));
    }
    assert!((world.sum(PACKETS, &[]) - 10.0).abs() <= 1.0, "{}", world.sum(PACKETS, &[]));
    assert!((world.sum(DECISIONS, &["normal"]) - 300.0).abs() <= 1.0);
    assert!((world.sum(DECISIONS, &["expand"]) - 3.0).abs() <= 1.0);
}

#[test]
fn a_new_peer_has_grown_as_the_others_and_one_that_left_goes_on() {
    let mut world = World::new();
    world.fold(&packet("s1", 0));
    world.fold(&packet("s1", 2000).hears(peer("bob"), rates(50.0, 100.0, 0.0)));
    assert_eq!(world.sum(PACKETS, &[]), 100.0);
    world.fold(&packet("s1", 4000));
    world.fold(&packet("s1", 5000).hears(peer("bob"), rates(50.0, 100.0, 0.0)));
    assert_eq!(world.sum(PACKETS, &[]), 150.0);
    assert_eq!(world.value(PAIR_PACKETS, &["bob"]), Some(150.0));
}

#[test]
fn a_peer_without_audio_leaves_the_rates_of_the_others_in_their_place() {
    let mut world = World::new();
    for after_ms in [0, 1000] {
        let mut both = packet("s1", after_ms).sees(peer("al"));
        both.rates.push(None);
        world.fold(&both.hears(peer("bob"), rates(50.0, 100.0, 0.0)));
    }
    assert_eq!(world.values(PAIR_PACKETS, &["al"]), []);
    assert_eq!(world.value(PAIR_PACKETS, &["bob"]), Some(50.0));
}

#[test]
fn after_a_restart_of_the_exporter_nothing_counts_twice() {
    let mut world = World::new();
    let at = |after_ms| packet("s1", after_ms).hears(peer("bob"), rates(50.0, 100.0, 0.0));
    world.warm(&at(0), SECOND * 10);
    world.warm(&at(5000), SECOND * 5);
    assert_eq!(world.sum(PACKETS, &[]), 0.0);
    world.fold(&at(10_000));
    assert_eq!(world.sum(PACKETS, &[]), 250.0);
    assert_eq!(world.fold(&at(10_000)), Outcome::Repeated);
    assert_eq!(world.fold(&at(7000)), Outcome::Repeated);
    assert_eq!(world.sum(PACKETS, &[]), 250.0);
}

#[test]
fn a_client_that_changes_its_form_has_restarted() {
    let mut world = World::new();
    let mut seq = 0;
    let mut fold = |world: &mut World, packets: bool| {
        seq += 1000;
        let bob = peer("bob");
        if packets {
            world.fold(&frame("s1", seq).hears(bob, rates(50.0, 100.0, 0.0)));
        } else {
            let audio = Audio { packets_received: Some(50 * seq / 1000), ..Audio::default() };
            world.fold(&frame("s1", seq).sees(Peer { audio: Some(audio), ..bob }));
        }
    };
    for packets in [false, true, true, false, false, true, false] {
        fold(&mut world, packets);
    }
    let all = 7.0 * 50.0;
    assert!(world.sum(PACKETS, &[]) <= 3.0 * all, "{}", world.sum(PACKETS, &[]));
    assert_eq!(world.sum("callsight_implausible_growth_total", &[]), 0.0);
}

#[test]
fn impossible_rates_are_counted_as_such() {
    let mut world = World::new();
    for after_ms in [0, 15_000] {
        world.fold(&packet("s1", after_ms).hears(peer("bob"), rates(10_000.0, 100.0, 0.0)));
    }
    assert_eq!((world.sum(PACKETS, &[]), world.sum(DECISIONS, &[])), (0.0, 1500.0));
    assert_eq!(world.sum("callsight_implausible_growth_total", &[]), 1.0);
}

#[test]
fn concealed_audio_degrades_and_silence_does_not() {
    let muted = Peer { audio_enabled: false, ..peer("bob") };
    for (peer, rates, degraded) in [
        // 8 % of the audio was concealed, from the first packet on.
        (peer("bob"), rates(46.0, 92.0, 8.0), true),
        (peer("bob"), rates(10.0, 20.0, 80.0), true),
        (peer("bob"), rates(50.0, 98.0, 2.0), false),
        // A sender that is silent, a peer that is muted, and a buffer that has only just begun.
        (peer("bob"), rates(2.5, 5.0, 95.0), false),
        (muted, rates(50.0, 50.0, 50.0), false),
        (peer("bob"), rates(10.0, 9.0, 10.0), false),
    ] {
        let mut world = World::new();
        world.fold(&packet("s1", 0).hears(peer, rates));
        let expected = f64::from(u8::from(degraded));
        assert_eq!(world.sum("videocall_sessions_degraded", &["audio"]), expected, "{rates:?}");
    }
}

const PEERS: [&str; 3] = ["p0", "p1", "p2"];

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn any_delivery_counts_each_moment_once_at_the_rate_of_its_packet(
        packets in proptest::collection::vec(
            (1..30_000_u64, proptest::array::uniform3(proptest::option::of((0.0..60.0, 0.0..110.0)))),
            1..12,
        ),
        delivery in proptest::collection::vec(any::<Index>(), 0..40),
        warm in 0..3_usize,
    ) {
        let mut after_ms = 0;
        let packets: Vec<_> = packets.into_iter().map(|(gap_ms, peers)| {
            after_ms += gap_ms;
            (after_ms, peers)
        }).collect();
        let mut world = World::new();
        let (mut before, mut expected) = (None, [0.0; 2]);
        for (round, index) in delivery.iter().enumerate() {
            let (after_ms, peers) = &packets[index.index(packets.len())];
            let mut packet = packet("s1", *after_ms);
            for (id, rated) in PEERS.iter().zip(peers) {
                if let Some((packets, normal)) = rated {
                    packet = packet.hears(peer(id), rates(*packets, *normal, 0.0));
                }
            }
            let counting = round >= warm;
            if counting { world.fold(&packet) } else { world.warm(&packet, Duration::ZERO) };
            if before.is_some_and(|before| *after_ms <= before) {
                continue;
            }
            if let (true, Some(before)) = (counting, before) {
                let seconds = f64::min((*after_ms - before) as f64 / 1e3, 15.0);
                for (packets, normal) in peers.iter().flatten() {
                    expected[0] += packets * seconds;
                    expected[1] += normal * seconds;
                }
            }
            before = Some(*after_ms);
        }
        for (counter, expected) in [PACKETS, DECISIONS].iter().zip(expected) {
            // Each peer's last part of a count is not there yet; while warm, one part more may have
            // begun.
            let off = world.sum(counter, &[]) - expected;
            prop_assert!(off.abs() < 1.01 * PEERS.len() as f64, "{} {} {}", counter, off, expected);
        }
    }
}

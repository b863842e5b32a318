//! What relays of videocall.rs publish, read by its own crate.

use std::collections::HashMap;

use callsight_frame::{Decoder, NetEq};
use clap::ValueEnum;
use protobuf::Message;
use videocall_types::protos::health_packet::{HealthPacket, NetEqOperationCounters, PeerStats};

use super::*;

/// A packet, and what its client had to report.
struct Sent {
    due: Duration,
    relay: usize,
    bytes: Vec<u8>,
    packet: HealthPacket,
    frame: Vec<u8>,
}

const BAD: std::ops::Range<Duration> = Duration::from_secs(40)..Duration::from_secs(85);

/// Two minutes of calls, at the end of which all leave.
fn sent(scenario: Scenario, seed: u64) -> (Vec<Relay>, Vec<Sent>) {
    let config = SimulateConfig { clients: Clients::Videocall, ..small(seed, scenario) };
    let mut world = World::new(&config, 1_760_000_000_000);
    let relays = world.relays().to_vec();
    let mut sent = Vec::new();
    while world.next_due() < Duration::from_secs(120) {
        let Some(Event { due, relay, frame, packet }) = world.advance() else { continue };
        let bytes = packet.expect("every client sends packets");
        let packet = HealthPacket::parse_from_bytes(&bytes).unwrap();
        sent.push(Sent { due, relay, bytes, packet, frame: frame.encode(Form::Compact) });
    }
    assert!(world.leave_next().is_none(), "no packet says goodbye");
    assert!(sent.len() > 3_000, "{} packets", sent.len());
    (relays, sent)
}

fn operations(peer: &PeerStats) -> &NetEqOperationCounters {
    &peer.neteq_stats.network.operation_counters
}

fn sum(counters: &NetEqOperationCounters) -> f64 {
    let NetEqOperationCounters { normal_per_sec, expand_per_sec, accelerate_per_sec, .. } = counters;
    let NetEqOperationCounters { fast_accelerate_per_sec, preemptive_expand_per_sec, merge_per_sec, .. } =
        counters;
    let NetEqOperationCounters { comfort_noise_per_sec, dtmf_per_sec, undefined_per_sec, .. } = counters;
    normal_per_sec
        + expand_per_sec
        + accelerate_per_sec
        + fast_accelerate_per_sec
        + preemptive_expand_per_sec
        + merge_per_sec
        + comfort_noise_per_sec
        + dtmf_per_sec
        + undefined_per_sec
}

#[test]
fn a_packet_says_what_its_client_has_to_report_and_is_a_valid_frame() {
    let mut decoder = Decoder::default();
    for scenario in Scenario::value_variants().iter().filter(|scenario| scenario.shows_in(Clients::Videocall))
    {
        let (relays, sent) = sent(*scenario, 3);
        let mut last: HashMap<u64, (Duration, u64)> = HashMap::new();
        let mut told = 0;
        for Sent { due, relay, bytes, packet, frame } in &sent {
            let relay = &relays[*relay];
            let frame = Frame::decode(frame).unwrap();
            assert_eq!(packet.meeting_id, frame.meeting_id.as_str());
            assert_eq!(packet.session_id, frame.session_id.as_str());
            assert_eq!(packet.reporting_user_id, frame.peer_id.as_str().as_bytes());
            assert!(packet.reporting_user_id.ends_with(b"@example.com"), "{packet:?}");
            assert_eq!(packet.timestamp_ms, frame.sent_at_ms);
            assert_eq!(Some(packet.reporting_audio_enabled), frame.audio_enabled);
            assert_eq!(Some(packet.reporting_video_enabled), frame.video_enabled);
            let server = frame.server.as_ref().unwrap();
            assert_eq!(
                (packet.active_server_url.as_str(), packet.active_server_type.as_str()),
                ("", relay.service_type)
            );
            assert_eq!(Some(packet.active_server_rtt_ms), server.rtt_ms);
            assert_eq!(packet.peer_stats.len(), frame.peers.len());
            assert!(!frame.peers.is_empty() && frame.ended.is_none(), "who is alone or leaves says nothing");
            for peer in &frame.peers {
                let stats = &packet.peer_stats[peer.peer_id.as_str()];
                assert_eq!((stats.can_listen, stats.can_see), (peer.can_listen, peer.can_see));
                assert_eq!(
                    (stats.audio_enabled, stats.video_enabled),
                    (peer.audio_enabled, peer.video_enabled)
                );
                let audio = peer.audio.as_ref().unwrap();
                assert_eq!(Some(stats.neteq_stats.current_buffer_size_ms), audio.buffer_ms);
                assert_eq!(Some(stats.neteq_stats.packets_awaiting_decode), audio.packets_awaiting_decode);
                assert_eq!(
                    stats.video_stats.as_ref().map(|video| video.fps_received),
                    peer.video.as_ref().map(|video| video.fps.unwrap_or_default())
                );
                // One each 10 ms, but for a rest and for who does not listen.
                let operations = sum(operations(stats));
                assert!(operations <= 102.5, "{operations} a second: {stats:?}");
                told += usize::from(operations > 97.0);
            }

            let read = decoder.with(bytes, Some(&relay.server_id), |read| (read.seq.get(), read.peers.len()));
            let (seq, peers) = read.unwrap();
            assert_eq!(peers, frame.peers.len());
            let session = packet.session_id.parse().expect("a number");
            let last = last.insert(session, (*due, seq));
            if let Some((before, watermark)) = last {
                assert!(seq > watermark, "the client's clock goes on");
                let passed = *due - before;
                assert_eq!(passed.as_millis() % 5_000, 0, "{passed:?}");
            }
        }
        assert!(told > 5_000, "{scenario}: {told}");
    }
}

#[test]
fn a_seed_decides_every_packet() {
    let bytes = |seed| sent(Scenario::Steady, seed).1.into_iter().map(|sent| sent.bytes).collect::<Vec<_>>();
    assert!(bytes(7) == bytes(7), "the same, byte for byte");
    assert!(bytes(7) != bytes(8));
}

/// The rates of the last second, taken for the whole time since the packet before, come close to
/// what was counted. A hidden tab repeats its last ones.
#[test]
fn rates_add_up_to_the_counts() {
    let (_, sent) = sent(Scenario::PacketLoss, 5);
    let mut last: HashMap<(String, String), (Duration, NetEq)> = HashMap::new();
    let [mut rated, mut counted] = [[0.0; 2]; 2];
    for Sent { due, packet, frame, .. } in &sent {
        let frame = Frame::decode(frame).unwrap();
        for peer in &frame.peers {
            let now = peer.audio.as_ref().unwrap().neteq.clone().unwrap();
            let pair = (packet.session_id.clone(), peer.peer_id.to_string());
            let earlier = last.insert(pair, (*due, now.clone()));
            if let Some((before_at, before)) = earlier.filter(|_| frame.tab_visible == Some(true)) {
                let rates = operations(&packet.peer_stats[peer.peer_id.as_str()]);
                let seconds = (*due - before_at).as_secs_f64();
                let growth = |[before, now]: [Option<u64>; 2]| (now.unwrap() - before.unwrap()) as f64;
                rated[0] += rates.normal_per_sec * seconds;
                rated[1] += rates.expand_per_sec * seconds;
                counted[0] += growth([before.normal, now.normal]);
                counted[1] += growth([before.expand, now.expand]);
            }
        }
    }
    for (rated, counted) in rated.into_iter().zip(counted) {
        assert!(counted > 10_000.0 && (rated / counted - 1.0).abs() < 0.1, "{rated} instead of {counted}");
    }
}

#[test]
fn trouble_shows_where_it_is() {
    let shares = |scenario: Scenario, is: fn(&HealthPacket) -> bool| {
        let (_, sent) = sent(scenario, 5);
        [true, false].map(|first| {
            let there = |sent: &&Sent| BAD.contains(&sent.due) && sent.relay.is_multiple_of(RELAYS) == first;
            let there: Vec<_> = sent.iter().filter(there).collect();
            there.iter().filter(|sent| is(&sent.packet)).count() as f64 / there.len() as f64
        })
    };
    let slow = |packet: &HealthPacket| packet.active_server_rtt_ms > 300.0;
    let gaps =
        |packet: &HealthPacket| packet.peer_stats.values().any(|peer| operations(peer).expand_per_sec > 4.0);
    let [first, others] = shares(Scenario::Network, slow);
    assert!(first > 0.7 && others == 0.0, "{first} and {others}");
    let [first, others] = shares(Scenario::PacketLoss, gaps);
    assert!(first > 0.5 && others > 0.5, "{first} and {others}");
    let [first, others] = shares(Scenario::Steady, gaps);
    assert!(first < 0.1 && others < 0.1, "{first} and {others}");
}

//! Each scenario hurts what it names, and nothing else.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use callsight_frame::{Audio, Join, JoinFailure, Peer, Sending, Video};
use clap::ValueEnum;

use super::super::super::device::BROKEN_RELEASE;
use super::*;

/// What counts as trouble: a mean or a ratio above a limit.
const LIMITS: [(&str, f64); 10] = [
    ("round trips", 200.0),
    ("loss", 0.02),
    ("concealment", 0.03),
    ("video loss", 0.02),
    ("freezes", 0.05),
    ("slow video", 0.3),
    ("send loss", 0.02),
    ("limited by bandwidth", 0.5),
    ("limited by the processor", 0.5),
    ("failed joins", 0.1),
];

/// Everything that frames of a loss on the way to the listener show.
const LOSSY: [&str; 5] = ["concealment", "freezes", "loss", "slow video", "video loss"];

/// Sums of parts and wholes by name.
#[derive(Debug, Default)]
struct Figures(BTreeMap<&'static str, [f64; 2]>);

impl Figures {
    fn add(&mut self, name: &'static str, part: f64, whole: f64) {
        let sums = self.0.entry(name).or_default();
        *sums = [sums[0] + part, sums[1] + whole];
    }

    /// Adds growth, of which some may be absent.
    fn add_growth(&mut self, name: &'static str, part: [Option<u64>; 2], whole: [Option<u64>; 2]) {
        let growth = |[before, now]: [Option<u64>; 2]| Some(now?.checked_sub(before?)? as f64);
        if let (Some(part), Some(whole)) = (growth(part), growth(whole)) {
            self.add(name, part, whole);
        }
    }

    fn add_pair(&mut self, [before, now]: [&Peer<'_>; 2], seconds: f64) {
        let audio = |value: fn(&Audio) -> Option<u64>| [before, now].map(|peer| value(peer.audio.as_ref()?));
        let lost = audio(|audio| audio.packets_lost);
        self.add_growth("loss", lost, audio(|audio| Some(audio.packets_lost? + audio.packets_received?)));
        self.add_growth(
            "concealment",
            audio(|audio| audio.concealed_samples),
            audio(|audio| audio.total_samples),
        );
        let video = |value: fn(&Video) -> Option<u64>| [before, now].map(|peer| value(peer.video.as_ref()?));
        let lost = video(|video| video.packets_lost);
        self.add_growth(
            "video loss",
            lost,
            video(|video| Some(video.packets_lost? + video.packets_received?)),
        );
        let fps = now.video.as_ref().and_then(|video| video.fps).filter(|fps| *fps > 0.0);
        if let Some(fps) = fps {
            self.add("slow video", f64::from(fps < 25.0), 1.0);
            let freezes = video(|video| video.freeze_count);
            self.add_growth("freezes", freezes, [Some(0), Some(seconds as u64)]);
        }
    }

    fn add_session(&mut self, [before, now]: [&Frame<'_>; 2], passed_ms: u64) {
        if let Some(rtt_ms) = now.server.as_ref().and_then(|server| server.rtt_ms) {
            self.add("round trips", rtt_ms, 1.0);
        }
        let send =
            |value: fn(&Sending) -> Option<u64>| [before, now].map(|frame| value(frame.send.as_ref()?));
        let all = |audio: Option<u64>, video: Option<u64>| Some(audio? + video.unwrap_or(0));
        let lost = [before, now].map(|frame| {
            let send = frame.send.as_ref()?;
            all(send.audio_packets_lost, send.video_packets_lost)
        });
        let sent = [before, now].map(|frame| {
            let send = frame.send.as_ref()?;
            all(send.audio_packets_sent, send.video_packets_sent)
        });
        self.add_growth("send loss", lost, sent);
        if now.video_enabled == Some(true) {
            let passed = [Some(0), Some(passed_ms)];
            let cpu = send(|send| send.limited.as_ref()?.cpu_ms);
            self.add_growth("limited by the processor", cpu, passed);
            let bandwidth = send(|send| send.limited.as_ref()?.bandwidth_ms);
            self.add_growth("limited by bandwidth", bandwidth, passed);
        }
    }

    /// Names of what is beyond its limit.
    fn troubles(&self) -> Vec<&'static str> {
        let ratio = |name: &str| self.0.get(name).map_or(0.0, |[part, whole]| part / whole.max(1.0));
        let beyond = LIMITS.iter().filter(|(name, limit)| ratio(name) > *limit);
        beyond.map(|(name, _)| *name).collect::<BTreeSet<_>>().into_iter().collect()
    }
}

/// What a frame says, and on which relay: of itself, or of one of its peers.
struct Report<'a> {
    frame: &'a Frame<'a>,
    relay: usize,
    peer: Option<&'a Peer<'a>>,
}

/// A run of a scenario, of visible sessions in the bad time.
struct Run {
    said: Vec<Said>,
    /// Participants who lose what they send, or whose processors are too slow.
    uplinks: BTreeSet<String>,
    processors: BTreeSet<String>,
}

const QUIET: [u64; 2] = [5, 30];
const BAD: [u64; 2] = [40, 85];

fn run(scenario: Scenario, clients: Clients) -> Run {
    let config = SimulateConfig { sessions: 400, clients, ..small(5, scenario) };
    let said = listen(&config, Duration::from_secs(110), |_| {});
    let mut run = Run { said, uplinks: BTreeSet::new(), processors: BTreeSet::new() };
    let mut by_peer: HashMap<String, Figures> = HashMap::new();
    run.each(BAD, |before, now, _, passed| {
        by_peer
            .entry(now.peer_id.to_string())
            .or_default()
            .add_session([before, now], passed.as_millis() as u64);
    });
    for (peer, figures) in by_peer {
        let troubles = figures.troubles();
        if troubles.contains(&"send loss") {
            run.uplinks.insert(peer.clone());
        }
        if troubles.contains(&"limited by the processor") {
            run.processors.insert(peer);
        }
    }
    run
}

impl Run {
    /// Passes each visible frame of a time with the one before it, and the time between them.
    fn each(&self, [from, to]: [u64; 2], mut then: impl FnMut(&Frame<'_>, &Frame<'_>, usize, Duration)) {
        let mut last: HashMap<String, (Duration, Frame<'_>)> = HashMap::new();
        let time = Duration::from_secs(from)..Duration::from_secs(to);
        for (due, relay, bytes) in self.said.iter().filter(|said| time.contains(&said.0)) {
            let frame = Frame::decode(bytes).unwrap();
            if let Some((before_at, before)) = last.get(frame.session_id.as_str())
                && [before, &frame].iter().all(|frame| frame.tab_visible == Some(true))
            {
                then(before, &frame, *relay, *due - *before_at);
            }
            last.insert(frame.session_id.to_string(), (*due, frame));
        }
    }

    /// Returns the troubles of the reports that are chosen.
    fn troubles(&self, time: [u64; 2], chosen: impl Fn(&Report<'_>) -> bool) -> Vec<&'static str> {
        let mut figures = Figures::default();
        self.each(time, |before, frame, relay, passed| {
            if chosen(&Report { frame, relay, peer: None }) {
                figures.add_session([before, frame], passed.as_millis() as u64);
            }
            for peer in &frame.peers {
                let earlier = before.peers.iter().find(|earlier| earlier.peer_id == peer.peer_id);
                if let Some(earlier) = earlier.filter(|_| chosen(&Report { frame, relay, peer: Some(peer) }))
                {
                    figures.add_pair([earlier, peer], passed.as_secs_f64());
                }
            }
        });
        let time = Duration::from_secs(time[0])..Duration::from_secs(time[1]);
        for (_, relay, bytes) in self.said.iter().filter(|said| time.contains(&said.0)) {
            let frame = Frame::decode(bytes).unwrap();
            if chosen(&Report { frame: &frame, relay: *relay, peer: None }) {
                let failed = frame.join.as_ref().is_some_and(|join| join.state == JoinState::Failed);
                figures.add("failed joins", f64::from(failed), 1.0);
            }
        }
        figures.troubles()
    }
}

fn all(_: &Report<'_>) -> bool {
    true
}

/// Both kinds of clients, without freezes and losses that one of them does not report.
fn visible(troubles: &[&'static str], clients: Clients) -> Vec<&'static str> {
    let unknown = ["freezes", "loss", "video loss"];
    let known = |name: &&&str| clients != Clients::NetEq || !unknown.contains(*name);
    troubles.iter().filter(known).copied().collect()
}

#[test]
fn quiet_times_are_calm_in_every_scenario() {
    for scenario in Scenario::value_variants() {
        let run = run(*scenario, Clients::Mix);
        assert_eq!(run.troubles(QUIET, all), [""; 0], "{scenario}");
    }
    assert_eq!(run(Scenario::Steady, Clients::Mix).troubles(BAD, all), [""; 0]);
}

#[test]
fn a_bad_network_is_seen_by_the_sessions_of_one_server() {
    for clients in [Clients::Browser, Clients::NetEq, Clients::Mix] {
        let run = run(Scenario::Network, clients);
        let first = |report: &Report<'_>| report.relay.is_multiple_of(RELAYS);
        let expected = [&LOSSY[..3], &["round trips"], &LOSSY[3..]].concat();
        assert_eq!(run.troubles(BAD, first), visible(&expected, clients));
        assert_eq!(run.troubles(BAD, |report| !first(report)), [""; 0]);
    }
}

#[test]
fn packet_loss_is_on_the_way_down() {
    let run = run(Scenario::PacketLoss, Clients::Mix);
    assert_eq!(run.troubles(BAD, all), LOSSY, "and not of what is sent");
}

#[test]
fn a_bad_uplink_is_seen_by_itself_and_by_whoever_receives_it() {
    let run = run(Scenario::Uplink, Clients::Mix);
    assert!((15..80).contains(&run.uplinks.len()), "{:?}", run.uplinks);
    let of_them = |report: &Report<'_>| run.uplinks.contains(report.frame.peer_id.as_str());
    let from_them = |peer: &Peer<'_>| run.uplinks.contains(peer.peer_id.as_str());
    let own = run.troubles(BAD, |report| report.peer.is_none() && of_them(report));
    assert_eq!(own, ["limited by bandwidth", "send loss"]);
    let received = run.troubles(BAD, |report| report.peer.is_some_and(from_them));
    assert_eq!(received, LOSSY);
    let others = run.troubles(BAD, |report| match report.peer {
        Some(peer) => !from_them(peer),
        None => !of_them(report),
    });
    assert_eq!(others, [""; 0]);
}

#[test]
fn a_slow_processor_slows_its_video_and_loses_nothing() {
    let run = run(Scenario::Processor, Clients::Mix);
    assert!((15..120).contains(&run.processors.len()), "{:?}", run.processors);
    let of_them = |report: &Report<'_>| run.processors.contains(report.frame.peer_id.as_str());
    let from_them = |peer: &Peer<'_>| run.processors.contains(peer.peer_id.as_str());
    let own = run.troubles(BAD, |report| report.peer.is_none() && of_them(report));
    assert_eq!(own, ["limited by the processor"]);
    let received = run.troubles(BAD, |report| report.peer.is_some_and(from_them));
    assert_eq!(received, ["freezes", "slow video"]);
    let others = run.troubles(BAD, |report| match report.peer {
        Some(peer) => !from_them(peer),
        None => !of_them(report),
    });
    assert_eq!(others, [""; 0]);
}

#[test]
fn a_broken_release_is_bad_on_all_servers_and_loses_nothing() {
    let run = run(Scenario::Release, Clients::Mix);
    let broken =
        |report: &Report<'_>| report.frame.client.as_ref().unwrap().app.unwrap().as_str() == BROKEN_RELEASE;
    for relay in 0..2 * RELAYS {
        let troubles = run.troubles(BAD, |report| report.relay == relay && broken(report));
        // No client of a region's second server counts freezes.
        let clients = if relay % RELAYS == 1 { Clients::NetEq } else { Clients::Mix };
        assert_eq!(troubles, visible(&["concealment", "freezes", "slow video"], clients), "relay {relay}");
    }
    assert_eq!(run.troubles(BAD, |report| !broken(report)), [""; 0]);
}

#[test]
fn joins_fail_on_one_server_and_calls_are_well() {
    let run = run(Scenario::Join, Clients::Mix);
    let first = |report: &Report<'_>| report.relay.is_multiple_of(RELAYS);
    assert_eq!(run.troubles(BAD, first), ["failed joins"]);
    assert_eq!(run.troubles(BAD, |report| !first(report)), [""; 0]);

    // A session that fails says so until its last frame.
    let mut sessions: BTreeMap<String, Vec<(Join, Option<bool>, usize)>> = BTreeMap::new();
    for (_, _, bytes) in &run.said {
        let frame = Frame::decode(bytes).unwrap();
        let reports = sessions.entry(frame.session_id.to_string()).or_default();
        reports.push((frame.join.unwrap(), frame.ended, frame.peers.len()));
    }
    let failing = |reports: &&Vec<(Join, Option<bool>, usize)>| {
        reports.last().unwrap().0.reason == Some(JoinFailure::Ice)
    };
    let mut complete = 0;
    for reports in sessions.values().filter(failing) {
        let states: Vec<_> = reports.iter().map(|(join, ..)| join.state).collect();
        let joining = states.iter().take_while(|state| **state == JoinState::Joining).count();
        assert!(
            joining > 0 && states[joining..].iter().all(|state| *state == JoinState::Failed),
            "{states:?}"
        );
        assert!(reports.is_sorted_by(|one, next| one.0.setup_ms <= next.0.setup_ms), "{reports:?}");
        assert!(reports.iter().all(|(_, _, peers)| *peers == 0), "nobody is heard yet");
        let last_only = reports.iter().map(|(_, ended, _)| *ended == Some(true)).position(|ended| ended);
        complete += usize::from(states.len() - joining >= 3 && last_only == Some(states.len() - 1));
    }
    assert!(complete > 20, "{complete}");
}

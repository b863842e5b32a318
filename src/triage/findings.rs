//! What the numbers of a session mean, in words.
//!
//! A table of pairs shows where audio and video stop, and leaves it to the reader to find out on
//! whose side. The reports of both sides tell: what a participant sends is lost, the packets of
//! most peers are lost on the way to one, or nothing is lost and a client is to blame.
//!
//! Invariant: a finding says nothing that the fields beside it do not.

use std::collections::BTreeSet;
use std::iter;

use super::drill::Pair;
use super::sessions::{Limits, SessionSummary};
use crate::insight::words::{list, percent};
use callsight_fold::series::aggregates::{Evidence, Limitation};

/// The most participants that a sentence names.
const NAMES: usize = 3;

/// Says what is wrong with a session: of itself, of what it receives, and of what others receive of
/// its participant. `peers` are the other sessions of its meeting.
pub(super) fn findings(
    session: &SessionSummary,
    peers: &[SessionSummary],
    receives: &[Pair],
    received_by: &[Pair],
    limits: Limits,
) -> Vec<String> {
    let mut findings = of_itself(session, limits);
    if !session.judgement.join {
        findings.extend(of_what_it_receives(session, peers, receives, limits));
    }
    findings.extend(of_what_it_sends(&session.participant_id, received_by, limits));
    if findings.is_empty() {
        let bad = session.judgement.is_degraded();
        findings.push(if bad { "No number tells why it is bad." } else { "Nothing is bad." }.to_owned());
    }
    findings
}

fn of_itself(session: &SessionSummary, limits: Limits) -> Vec<String> {
    let (name, judgement) = (&session.participant_id, session.judgement);
    if judgement.hidden {
        return vec!["The tab is hidden, so the session is not judged.".to_owned()];
    }
    let mut findings = Vec::new();
    if judgement.join {
        let why = match judgement.evidence {
            Some(Evidence::Path) => ": no packets arrive",
            Some(Evidence::Client) => ": the client can't use microphone or camera",
            _ => "",
        };
        findings.push(format!("{name} can't join the call, or not in time{why}."));
    }
    if let (true, Some(rtt_ms)) = (judgement.rtt, session.rtt_ms) {
        findings.push(format!("Round trips of {name} are long: {rtt_ms:.0} ms, limit {:.0}.", limits.rtt_ms));
    }
    if let (true, Some(lost)) = (judgement.uplink, session.sent_packets_lost_ratio) {
        findings.push(format!("What {name} sends is lost: {}.", percent(lost)));
    }
    findings.extend(limitation(session));
    findings
}

fn limitation(session: &SessionSummary) -> Option<String> {
    let by = match session.judgement.limited? {
        Limitation::Cpu => "The processor",
        Limitation::Bandwidth => "The bandwidth",
        Limitation::Other => return None,
    };
    Some(format!("{by} limits the video that {} sends.", session.participant_id))
}

fn of_what_it_receives(
    session: &SessionSummary,
    peers: &[SessionSummary],
    receives: &[Pair],
    limits: Limits,
) -> Vec<String> {
    let name = &session.participant_id;
    let known = receives.iter().filter(|pair| pair.packets_lost_ratio.is_some()).count();
    let lossy: Vec<_> = receives.iter().filter(|pair| is_lossy(pair, limits)).collect();
    match session.judgement.evidence {
        Some(Evidence::Path) if lossy.len() * 2 > known && (lossy.len() > 1 || session.judgement.uplink) => {
            let lost = lossy.iter().map(|pair| format!("{} {}", pair.peer_id, lost(pair)));
            vec![format!("Packets of most peers are lost on the way to {name}: {}.", some(lost.collect()))]
        }
        Some(Evidence::Path | Evidence::Peers | Evidence::Either) => {
            let explain = |pair: &&Pair| from_one(name, pair, peers, known > 1, limits);
            lossy.iter().take(NAMES).map(explain).collect()
        }
        Some(Evidence::Client) => {
            let bad = receives.iter().filter(|pair| pair.judgement.is_degraded());
            let bad: Vec<_> = bad.map(|pair| pair.peer_id.clone()).collect();
            let slow = peers.iter().filter(|peer| bad.contains(&peer.participant_id));
            let slow: BTreeSet<_> = slow.filter_map(limitation).collect();
            let text = format!(
                "Hardly anything is lost on the way to {name}: the client of {name} is to blame, or that of {}.",
                some(bad)
            );
            iter::once(text).chain(slow.into_iter().take(NAMES)).collect()
        }
        Some(Evidence::Unknown) => vec![format!("{name} reports too little to tell why.")],
        Some(Evidence::Sending) | None => Vec::new(),
    }
}

/// Says on which side the packets of one peer are lost.
fn from_one(name: &str, pair: &Pair, peers: &[SessionSummary], others: bool, limits: Limits) -> String {
    let (peer_id, lost) = (&pair.peer_id, lost(pair));
    let mut sent = peers.iter().filter(|peer| peer.participant_id == *peer_id);
    match sent.find_map(|peer| peer.sent_packets_lost_ratio) {
        Some(sent) if sent > limits.loss => {
            format!("What {peer_id} sends is lost: {}; {name} lacks {lost} of it.", percent(sent))
        }
        Some(_) => {
            format!("Packets of {peer_id} are lost on the way to {name}: {lost}, not on {peer_id}'s uplink.")
        }
        None if others => {
            format!("Packets of {peer_id} are lost on the way to {name}: {lost}; those of others are not.")
        }
        None => format!("Packets of {peer_id} are lost on the way to {name}: {lost}, nothing tells where."),
    }
}

fn of_what_it_sends(name: &str, received_by: &[Pair], limits: Limits) -> Option<String> {
    let hurt: Vec<_> = received_by.iter().filter(|pair| pair.judgement.is_degraded()).collect();
    let (audio, video) =
        (hurt.iter().any(|pair| pair.judgement.audio), hurt.iter().any(|pair| pair.judgement.video));
    let one = hurt.len() == 1;
    let verb = match (audio, video, one) {
        (true, true, true) => "hears or sees",
        (true, true, false) => "hear or see",
        (true, false, true) => "hears",
        (true, false, false) => "hear",
        (false, _, true) => "sees",
        (false, _, false) => "see",
    };
    let worst = hurt.iter().filter_map(|pair| pair.packets_lost_ratio).reduce(f64::max);
    let why = match worst {
        Some(worst) if hurt.iter().any(|pair| is_lossy(pair, limits)) => {
            format!(": up to {} of the packets are lost on the way", percent(worst))
        }
        Some(_) => ", though hardly anything is lost on the way".to_owned(),
        None => String::new(),
    };
    let who = hurt.iter().map(|pair| pair.participant_id.clone().unwrap_or_else(|| "a session".to_owned()));
    let who = some(who.collect());
    (!hurt.is_empty()).then(|| format!("{who} {verb} {name} badly{why}."))
}

/// Whether more is lost than the limit, as far as whole per cent tell.
fn is_lossy(pair: &Pair, limits: Limits) -> bool {
    let limit = (limits.loss * 100.0).round() / 100.0;
    pair.packets_lost_ratio.is_some_and(|lost| lost > 0.0 && lost >= limit)
}

fn lost(pair: &Pair) -> String {
    pair.packets_lost_ratio.map(percent).unwrap_or_default()
}

/// The first of them, and how many others there are.
fn some(mut names: Vec<String>) -> String {
    if names.len() > NAMES {
        let others = names.len() - (NAMES - 1);
        names.truncate(NAMES - 1);
        names.push(format!("{others} others"));
    }
    list(&names)
}

#[cfg(test)]
mod tests {
    use metrics::{gauge, with_local_recorder};
    use serde_json::Value;

    use super::super::drill::{Drill, into};
    use super::*;
    use callsight_fold::series::catalogue as c;
    use callsight_fold::series::detail::{DetailPlane, DetailStore, Row};
    use callsight_fold::series::judgement::Judgement;

    const LIMITS: Limits = Limits { rtt_ms: 300.0, concealment: 0.05, loss: 0.05 };
    const FINE: Judgement = Judgement { loss_percent: Some(0), ..Judgement::NONE };
    const LOSSY: Judgement = Judgement { audio: true, loss_percent: Some(12), ..Judgement::NONE };

    /// A meeting whose rows the test writes.
    struct Meeting(DetailStore, Vec<Row>);

    impl Meeting {
        fn new() -> Self {
            Self(DetailStore::new(10_000), Vec::new())
        }

        fn session(mut self, name: &str, judgement: Judgement, values: &[(&'static str, f64)]) -> Self {
            let labels = ["us", "m", name, name, "none", "none", "none", "none"];
            let row = self.0.open(DetailPlane::Session, &labels).unwrap();
            row.judge(judgement);
            with_local_recorder(&row, || values.iter().for_each(|(name, value)| gauge!(*name).set(*value)));
            self.1.push(row);
            self
        }

        /// What a session says of a peer.
        fn pair(mut self, name: &str, peer: &str, judgement: Judgement) -> Self {
            let row = self.0.open(DetailPlane::Pair, &["us", "m", name, peer]).unwrap();
            row.judge(judgement);
            self.1.push(row);
            self
        }

        /// What is said of ann.
        fn of_ann(&self) -> Vec<String> {
            let drill = Drill::session("ann").unwrap();
            let answer = into(&self.0, &["us".to_owned()], &drill, LIMITS, 0.0).unwrap();
            let answer: Value = serde_json::from_slice(&answer).unwrap();
            let findings = answer["findings"].as_array().unwrap();
            findings.iter().map(|finding| finding.as_str().unwrap().to_owned()).collect()
        }
    }

    fn told(evidence: Evidence, judgement: Judgement) -> Judgement {
        Judgement { evidence: Some(evidence), ..judgement }
    }

    #[test]
    fn a_lossy_uplink_is_named_on_both_sides() {
        let sending = [(c::SESSION_SEND_LOSS.name, 0.18)];
        let limited = Some(Limitation::Bandwidth);
        let uplink = Judgement { uplink: true, limited, ..told(Evidence::Sending, Judgement::NONE) };
        let meeting = Meeting::new()
            .session("ann", uplink, &sending)
            .session("bob", Judgement::NONE, &[])
            .pair("ann", "bob", FINE)
            .pair("bob", "ann", LOSSY);
        let expected = [
            "What ann sends is lost: 18 %.",
            "The bandwidth limits the video that ann sends.",
            "bob hears ann badly: up to 12 % of the packets are lost on the way.",
        ];
        assert_eq!(meeting.of_ann(), expected);

        let meeting = Meeting::new()
            .session("ann", told(Evidence::Peers, LOSSY), &[])
            .session("bob", uplink, &sending)
            .pair("ann", "bob", LOSSY)
            .pair("ann", "cat", FINE);
        assert_eq!(meeting.of_ann(), ["What bob sends is lost: 18 %; ann lacks 12 % of it."]);
    }

    #[test]
    fn only_reports_of_senders_tell_on_which_side_of_a_call_of_two_packets_are_lost() {
        let call = |values: &[_]| {
            let either = told(Evidence::Either, LOSSY);
            Meeting::new()
                .session("ann", either, &[])
                .session("bob", Judgement::NONE, values)
                .pair("ann", "bob", LOSSY)
                .of_ann()
        };
        assert_eq!(call(&[]), ["Packets of bob are lost on the way to ann: 12 %, nothing tells where."]);
        let sends = [(c::SESSION_SEND_LOSS.name, 0.01)];
        assert_eq!(call(&sends), ["Packets of bob are lost on the way to ann: 12 %, not on bob's uplink."]);
    }

    #[test]
    fn losses_of_most_peers_and_long_round_trips_are_the_path() {
        let path = Judgement { rtt: true, ..told(Evidence::Path, LOSSY) };
        let mut meeting = Meeting::new().session("ann", path, &[(c::SESSION_RTT.name, 0.9)]);
        for peer in ["bob", "cat", "dan", "eve"] {
            meeting = meeting.pair("ann", peer, LOSSY);
        }
        let expected = [
            "Round trips of ann are long: 900 ms, limit 300.",
            "Packets of most peers are lost on the way to ann: bob 12 %, cat 12 % and 2 others.",
        ];
        assert_eq!(meeting.pair("ann", "fay", FINE).of_ann(), expected);
    }

    #[test]
    fn without_losses_clients_are_left() {
        let bad = Judgement { audio: true, video: true, ..FINE };
        let slow = Judgement { limited: Some(Limitation::Cpu), ..Judgement::NONE };
        let meeting = Meeting::new()
            .session("ann", told(Evidence::Client, bad), &[])
            .session("bob", slow, &[])
            .session("cat", bad, &[])
            .pair("ann", "bob", bad)
            .pair("ann", "cat", FINE)
            .pair("bob", "ann", bad)
            .pair("cat", "ann", Judgement { video: true, ..Judgement::NONE });
        let expected = [
            "Hardly anything is lost on the way to ann: the client of ann is to blame, or that of bob.",
            "The processor limits the video that bob sends.",
            "bob and cat hear or see ann badly, though hardly anything is lost on the way.",
        ];
        assert_eq!(meeting.of_ann(), expected);
    }

    #[test]
    fn what_is_not_known_is_said() {
        let alone = |judgement| Meeting::new().session("ann", judgement, &[]).of_ann();
        assert_eq!(alone(Judgement::NONE), ["Nothing is bad."]);
        let hidden = Judgement { hidden: true, ..Judgement::NONE };
        assert_eq!(alone(hidden), ["The tab is hidden, so the session is not judged."]);
        let unknown = told(Evidence::Unknown, Judgement { audio: true, ..Judgement::NONE });
        assert_eq!(alone(unknown), ["ann reports too little to tell why."]);
        let join = Judgement { join: true, ..Judgement::NONE };
        assert_eq!(alone(told(Evidence::Unknown, join)), ["ann can't join the call, or not in time."]);
        assert_eq!(
            alone(told(Evidence::Path, join)),
            ["ann can't join the call, or not in time: no packets arrive."]
        );
    }
}

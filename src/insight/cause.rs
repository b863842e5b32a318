//! The cause of trouble, and the numbers that speak for it.
//!
//! Whoever is called first asks whether the network or the clients are to blame. Each degraded
//! session tells by its own statistics what hurt it ([`Evidence`]); this module adds them up, and
//! names the cause that explains most of them.
//!
//! A call of two is special: what one of them loses is as well what the other sends. Only reports
//! of the senders tell the ways apart, so such a loss counts as the uplink of a session whose own
//! report says so, and otherwise, if senders report at all, as the network's.
//!
//! Invariant: a cause is named only when the numbers shown beside it support it.

use std::time::Duration;

use serde::Serialize;

use super::client::{Clients, outlier};
use super::population::Population;
use super::words::{list, percent, plural};
use callsight_fold::series::aggregates::{Evidence, Limitation, Signal};

/// The share of lost audio packets from which on the network is the cause, where sessions
/// themselves tell nothing.
const LOSSY: f64 = 0.02;

/// How long trouble must last before the rates of the last minute reflect it.
pub(crate) const SETTLED: Duration = Duration::from_secs(30);

/// How many degraded sessions one participant explains at most whose processor is too slow: about
/// those of a small meeting.
const HURT_BY_ONE: u64 = 10;

/// The probable cause of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Cause {
    /// Round trips are long, or packets are lost on the way to many.
    Network,
    /// What certain participants send is lost: their receivers suffer, others do not.
    Uplink,
    /// The processor limits what certain participants send, and nothing is lost.
    Processor,
    /// Nothing is lost and round trips are short: the clients themselves, one release or platform
    /// if the others are fine.
    Client,
    /// No cause explains most of it, or too little is reported.
    Unclear,
}

/// How many of the degraded sessions each cause explains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Explained {
    network: u64,
    uplink: u64,
    client: u64,
}

impl Explained {
    fn of(people: &Population) -> Self {
        let of = |evidence: Evidence| people.sessions_degraded_evidence[evidence as usize];
        let either = of(Evidence::Either);
        let by_uplink = either.min(people.sessions_degraded_by[Signal::Uplink as usize]);
        let by_network = if people.sent_packets_lost_ratio.is_some() { either - by_uplink } else { 0 };
        Self {
            network: of(Evidence::Path) + by_network,
            uplink: of(Evidence::Peers) + of(Evidence::Sending) + by_uplink,
            client: of(Evidence::Client),
        }
    }
}

/// Returns the cause and the evidence for it in words. Rates are those of the last minute, so they
/// prove nothing while the trouble is `young`; what sessions tell is as new as they are.
pub(crate) fn cause(
    people: &Population,
    clients: &Clients,
    rtt_limit_ms: f64,
    young: bool,
) -> (Cause, String) {
    let (cause, reason) = reason(people, clients, young);
    let numbers = numbers(people, rtt_limit_ms);
    (cause, if numbers.is_empty() { reason } else { format!("{reason} {numbers}") })
}

/// The same without the numbers.
pub(crate) fn reason(people: &Population, clients: &Clients, young: bool) -> (Cause, String) {
    let degraded = people.sessions_degraded;
    let most = |explained: u64| explained > 0 && explained * 2 >= degraded;
    let explained = Explained::of(people);
    let Explained { network, uplink, client } = explained;
    if most(network) {
        return (Cause::Network, by_network(people, network));
    }
    if most(uplink) {
        return (Cause::Uplink, by_uplink(people, uplink));
    }
    let unknown = degraded.saturating_sub(network + uplink + client);
    if most(client + unknown)
        && let Some(outlier) = outlier(clients)
    {
        let text = format!(
            "Client: {} of {} of {} are degraded, and {} of {} others.",
            outlier.own.degraded,
            plural(outlier.own.sessions, "session"),
            outlier.name,
            outlier.others.degraded,
            outlier.others.sessions
        );
        return (Cause::Client, text);
    }
    let slow = people.sessions_limited[Limitation::Cpu as usize];
    if most(client) && slow * HURT_BY_ONE >= degraded {
        let text = format!(
            "Processor: it limits what {} {}, and hardly anything is lost on the way to {}.",
            plural(slow, "session"),
            verb(slow, "send"),
            of_all(client, degraded)
        );
        return (Cause::Processor, text);
    }
    if most(client) {
        let text = format!(
            "Client: neither round trips nor losses explain {}, and no release stands out.",
            of_all(client, degraded)
        );
        return (Cause::Client, text);
    }
    if most(unknown) {
        return by_rates(people, young);
    }
    let parts = [("the network", network), ("certain uplinks", uplink), ("clients", client)];
    let parts: Vec<_> = parts
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    let rest = if unknown > 0 { format!("; {unknown} report too little") } else { String::new() };
    (Cause::Unclear, format!("Unclear: of the {degraded}, {} explain{rest}.", list(&parts)))
}

fn by_network(people: &Population, network: u64) -> String {
    let degraded = people.sessions_degraded;
    let by = |signal: Signal| people.sessions_degraded_by[signal as usize];
    let slow = by(Signal::Rtt).min(network);
    let barred = by(Signal::Join).min(network - slow);
    let lossy = network - slow - barred;
    let mut parts = Vec::new();
    if slow > 0 {
        parts.push(format!("round trips are long in {}", of_all(slow, degraded)));
    }
    if lossy > 0 {
        parts.push(format!("packets are lost on the way to {}", of_all(lossy, degraded)));
    }
    if barred > 0 {
        parts.push(format!("no packets arrive when {} {}", of_all(barred, degraded), verb(barred, "join")));
    }
    format!("Network: {}.", list(&parts))
}

fn by_uplink(people: &Population, uplink: u64) -> String {
    let degraded = people.sessions_degraded;
    let senders = people.sessions_degraded_by[Signal::Uplink as usize].min(uplink);
    let receivers = uplink - senders;
    match (senders, receivers) {
        (0, _) => format!(
            "Uplink: packets from certain peers are lost for {}, and those from others are not.",
            of_all(receivers, degraded)
        ),
        (_, 0) => {
            format!("Uplink: what {} {} is lost.", of_all(senders, degraded), verb(senders, "send"))
        }
        _ => format!(
            "Uplink: what {senders} of the {degraded} {} is lost, and {receivers} {} by it alone.",
            verb(senders, "send"),
            verb(receivers, "suffer")
        ),
    }
}

/// The share of audio packets that were lost, if it was reported. Counters of clients that do not
/// report losses look like those of a place that has none, so zero counts only if a degraded
/// session says where its packets are lost.
fn audio_lost(people: &Population) -> Option<f64> {
    let told = people.sessions_degraded_evidence[Evidence::Unknown as usize] < people.sessions_degraded;
    people.audio_packets_lost_ratio.filter(|lost| *lost > 0.0 || told)
}

/// The cause by what the counters of the whole place tell.
fn by_rates(people: &Population, young: bool) -> (Cause, String) {
    match audio_lost(people) {
        Some(lost) if lost >= LOSSY => {
            (Cause::Network, "Network: packets are lost, round trips are not long.".to_owned())
        }
        _ if young => (Cause::Unclear, "Too early to tell network from clients.".to_owned()),
        Some(_) => {
            let text = "Client: neither round trips nor losses explain it.";
            (Cause::Client, text.to_owned())
        }
        None => {
            let text = "Unclear: the degraded sessions do not report what they lose.";
            (Cause::Unclear, text.to_owned())
        }
    }
}

fn of_all(some: u64, all: u64) -> String {
    match (some, all) {
        (1, 1) => "the degraded session".to_owned(),
        (2, 2) => "both degraded sessions".to_owned(),
        _ if some == all => format!("all of the {all}"),
        _ => format!("{some} of the {all}"),
    }
}

/// What so many sessions do.
fn verb(sessions: u64, verb: &str) -> String {
    if sessions == 1 { format!("{verb}s") } else { verb.to_owned() }
}

/// The numbers behind the verdict, in words.
pub(crate) fn numbers(people: &Population, rtt_limit_ms: f64) -> String {
    let mut parts = Vec::new();
    if let Some(p95) = people.rtt_p95_ms {
        parts.push(format!("RTT p95 {p95:.0} ms (limit {rtt_limit_ms:.0})"));
    }
    for (ratio, what) in [
        (audio_lost(people), "audio packets lost"),
        (people.video_packets_lost_ratio, "video packets lost"),
        (people.sent_packets_lost_ratio, "sent packets lost"),
        (people.audio_concealed_ratio, "audio concealed"),
    ] {
        if let Some(ratio) = ratio {
            parts.push(format!("{} of {what}", percent(ratio)));
        }
    }
    let limited = |by: Limitation| people.sessions_limited[by as usize];
    for (by, what) in [(Limitation::Cpu, "processor"), (Limitation::Bandwidth, "bandwidth")] {
        if limited(by) > 0 {
            parts.push(format!("{} limited by {what}", plural(limited(by), "session")));
        }
    }
    if people.sessions_hidden > 0 {
        parts.push(format!("{} not judged", plural(people.sessions_hidden, "hidden tab")));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::client::{ClientCounts, ClientKey};
    use super::*;

    /// Degraded sessions by evidence: path, peers, either, sending, client and unknown.
    fn people(evidence: [u64; 6]) -> Population {
        Population {
            sessions: 200,
            sessions_degraded: evidence.iter().sum(),
            sessions_degraded_evidence: evidence,
            ..Population::default()
        }
    }

    /// The same, of which so many send what is lost.
    fn sending(evidence: [u64; 6], uplinks: u64) -> Population {
        Population {
            sessions_degraded_by: [0, 0, 0, 0, uplinks],
            sent_packets_lost_ratio: Some(0.01),
            ..people(evidence)
        }
    }

    fn told(people: &Population) -> (Cause, String) {
        reason(people, &Clients::new(), false)
    }

    #[test]
    fn long_round_trips_and_losses_from_most_peers_are_the_network() {
        let slow = Population { sessions_degraded_by: [30, 12, 0, 0, 0], ..people([38, 0, 0, 0, 0, 0]) };
        let text =
            "Network: round trips are long in 30 of the 38 and packets are lost on the way to 8 of the 38.";
        assert_eq!(told(&slow), (Cause::Network, text.to_owned()));
        // Loss both ways is on every uplink too.
        let both_ways = sending([36, 2, 0, 0, 0, 0], 36);
        let text = "Network: packets are lost on the way to 36 of the 38.";
        assert_eq!(told(&both_ways), (Cause::Network, text.to_owned()));
        let barred = Population { sessions_degraded_by: [0, 0, 0, 9, 0], ..people([9, 0, 0, 0, 0, 0]) };
        let text = "Network: no packets arrive when all of the 9 join.";
        assert_eq!(told(&barred), (Cause::Network, text.to_owned()));
    }

    #[test]
    fn losses_from_certain_peers_are_their_uplinks() {
        let text = "Uplink: what 4 of the 30 send is lost, and 26 suffer by it alone.";
        assert_eq!(told(&sending([0, 26, 0, 4, 0, 0], 4)), (Cause::Uplink, text.to_owned()));
        // Their own clients need not report what they send.
        let text =
            "Uplink: packets from certain peers are lost for all of the 26, and those from others are not.";
        assert_eq!(told(&people([0, 26, 0, 0, 0, 0])), (Cause::Uplink, text.to_owned()));
        let text = "Uplink: what all of the 6 send is lost.";
        assert_eq!(told(&sending([0, 0, 0, 6, 0, 0], 6)), (Cause::Uplink, text.to_owned()));
    }

    #[test]
    fn one_or_two_sessions_are_told_in_their_own_words() {
        for (place, text) in [
            (sending([0, 0, 0, 1, 0, 0], 1), "Uplink: what the degraded session sends is lost."),
            (
                sending([0, 1, 0, 1, 0, 0], 1),
                "Uplink: what 1 of the 2 sends is lost, and 1 suffers by it alone.",
            ),
            (
                sending([0, 0, 2, 0, 0, 0], 0),
                "Network: packets are lost on the way to both degraded sessions.",
            ),
            (
                Population { sessions_degraded_by: [0, 0, 0, 1, 0], ..people([1, 0, 0, 0, 0, 0]) },
                "Network: no packets arrive when the degraded session joins.",
            ),
        ] {
            assert_eq!(told(&place).1, text);
        }
    }

    #[test]
    fn in_calls_of_two_the_senders_reports_tell_the_ways_apart() {
        assert_eq!(told(&sending([0, 0, 10, 10, 0, 0], 10)).0, Cause::Uplink);
        assert_eq!(told(&sending([0, 0, 20, 0, 0, 0], 0)).0, Cause::Network);
        assert_eq!(told(&people([0, 0, 20, 0, 0, 0])).0, Cause::Unclear);
    }

    #[test]
    fn sessions_that_lose_nothing_are_hurt_by_clients() {
        let clean = people([0, 0, 0, 0, 30, 2]);
        let text = "Client: neither round trips nor losses explain 30 of the 32, and no release stands out.";
        assert_eq!(told(&clean), (Cause::Client, text.to_owned()));
        let slow = Population { sessions_limited: [4, 9, 0], ..clean.clone() };
        let text = "Processor: it limits what 4 sessions send, and hardly anything is lost on the way to 30 of the 32.";
        assert_eq!(told(&slow), (Cause::Processor, text.to_owned()));
        let few = Population { sessions_limited: [3, 9, 0], ..clean.clone() };
        assert_eq!(told(&few).0, Cause::Client, "three do not hurt thirty");
        let clients = [("web-2", 40, 28), ("web-1", 160, 4)].map(|(app, sessions, degraded)| {
            let key = ClientKey { app: app.to_owned(), platform: "chrome".to_owned() };
            (key, ClientCounts { sessions, degraded })
        });
        let clients = Clients::from(clients);
        let text = "Client: 28 of 40 sessions of web-2 are degraded, and 4 of 160 others.";
        assert_eq!(reason(&slow, &clients, false), (Cause::Client, text.to_owned()));
        // A release that all of a bad server's people have is not to blame for its losses.
        assert_eq!(reason(&people([30, 0, 0, 0, 2, 0]), &clients, false).0, Cause::Network);
    }

    #[test]
    fn without_a_majority_all_are_named() {
        let mixed = sending([12, 6, 0, 3, 10, 7], 3);
        let text = "Unclear: of the 38, the network 12, certain uplinks 9 and clients 10 explain; 7 report too little.";
        assert_eq!(told(&mixed), (Cause::Unclear, text.to_owned()));
    }

    #[test]
    fn where_sessions_tell_nothing_the_rates_of_the_place_do() {
        let silent = |lost| Population { audio_packets_lost_ratio: lost, ..people([0, 0, 0, 0, 0, 20]) };
        let cause = |lost, young| reason(&silent(lost), &Clients::new(), young).0;
        assert_eq!(cause(Some(0.04), true), Cause::Network);
        assert_eq!(cause(Some(0.001), true), Cause::Unclear);
        assert_eq!(cause(Some(0.001), false), Cause::Client);
        assert_eq!(cause(None, false), Cause::Unclear);
        // Clients that report no losses have lost none by their counters, which tells nothing.
        assert_eq!(cause(Some(0.0), false), Cause::Unclear);
        assert_eq!(numbers(&silent(Some(0.0)), 300.0), "");
    }

    #[test]
    fn the_numbers_stand_beside_the_cause() {
        let place = Population {
            rtt_p95_ms: Some(452.4),
            audio_packets_lost_ratio: Some(0.041),
            video_packets_lost_ratio: Some(0.03),
            audio_concealed_ratio: Some(0.0),
            sessions_limited: [2, 1, 0],
            sessions_hidden: 7,
            ..sending([38, 0, 0, 0, 0, 0], 0)
        };
        let (_, text) = cause(&place, &Clients::new(), 300.0, false);
        let expected = "Network: packets are lost on the way to all of the 38. RTT p95 452 ms (limit 300), \
            4.1 % of audio packets lost, 3.0 % of video packets lost, 1.0 % of sent packets lost, \
            0 % of audio concealed, 2 sessions limited by processor, 1 session limited by bandwidth, \
            7 hidden tabs not judged";
        assert_eq!(text, expected);
    }
}

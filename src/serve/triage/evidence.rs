//! The evidence: network or client, and the numbers that speak for it.

use std::time::Duration;

use serde::Serialize;

use super::population::Population;
use crate::insight::words::percent;

/// From which share of lost audio packets on it is the network that loses them.
const LOSSY: f64 = 0.02;

/// How long trouble must have lasted until the rates of the last minute tell of it.
pub(super) const SETTLED: Duration = Duration::from_secs(30);

/// What the trouble looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Cause {
    /// The way to the servers is long.
    Rtt,
    /// Packets are lost, while round trips are short.
    Loss,
    /// Neither: it is about clients, their devices or their senders.
    Clients,
}

/// Network or client, and what speaks for it. Rates are those of a minute: while the trouble is `young`, that they are
/// low says nothing yet.
pub(super) fn cause(people: &Population, rtt_limit_ms: f64, young: bool) -> (Option<Cause>, String) {
    let Population { sessions_degraded: degraded, sessions_degraded_by: by, .. } = people;
    let numbers = numbers(people, rtt_limit_ms);
    if by.rtt * 2 >= *degraded {
        let how_many = if by.rtt == *degraded { "all".to_owned() } else { by.rtt.to_string() };
        let text = format!("Network: round trips are long in {how_many} of the {degraded}. {numbers}");
        return (Some(Cause::Rtt), text);
    }
    if people.audio_packets_lost_ratio.is_some_and(|ratio| ratio >= LOSSY) {
        return (
            Some(Cause::Loss),
            format!("Network: packets are lost, round trips are not long. {numbers}"),
        );
    }
    if young {
        return (None, format!("Too early to tell network from clients. {numbers}"));
    }
    let text = "Clients rather than the network: neither round trips nor losses explain it.";
    (Some(Cause::Clients), format!("{text} {numbers}"))
}

/// The evidence in numbers.
pub(super) fn numbers(people: &Population, rtt_limit_ms: f64) -> String {
    let mut parts = Vec::new();
    if let Some(p95) = people.rtt_p95_ms {
        parts.push(format!("RTT p95 {p95:.0} ms (limit {rtt_limit_ms:.0})"));
    }
    if let Some(ratio) = people.audio_packets_lost_ratio {
        parts.push(format!("{} of packets lost", percent(ratio)));
    }
    if let Some(ratio) = people.audio_concealed_ratio {
        parts.push(format!("{} of audio concealed", percent(ratio)));
    }
    if people.sessions_hidden > 0 {
        parts.push(format!("{} hidden tabs not judged", people.sessions_hidden));
    }
    parts.join(", ")
}

//! The cause of trouble, and the evidence for it.
//!
//! Whoever is called first asks whether the network or the clients are to blame. Round trips and
//! losses answer that, unless the trouble is younger than the window over which losses are
//! measured.
//!
//! Invariant: a cause is named only when the numbers shown beside it support it.

use std::time::Duration;

use serde::Serialize;

use super::population::Population;
use super::words::percent;
use callsight_fold::series::aggregates::Signal;

/// The share of lost audio packets from which on the network is the cause.
const LOSSY: f64 = 0.02;

/// How long trouble must last before the rates of the last minute reflect it.
pub(crate) const SETTLED: Duration = Duration::from_secs(30);

/// The probable cause of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Cause {
    /// Round trips to the servers are long.
    Rtt,
    /// Packets are lost, while round trips are short.
    Loss,
    /// Neither, which leaves clients, their devices and their senders.
    Clients,
}

/// Returns the cause and the evidence for it in words. Rates are those of the last minute, so a low
/// rate proves nothing while the trouble is `young`.
pub(crate) fn cause(people: &Population, rtt_limit_ms: f64, young: bool) -> (Option<Cause>, String) {
    let Population { sessions_degraded: degraded, sessions_degraded_by: by, .. } = people;
    let numbers = numbers(people, rtt_limit_ms);
    let by_rtt = by[Signal::Rtt as usize];
    if by_rtt * 2 >= *degraded {
        let how_many = if by_rtt == *degraded { "all".to_owned() } else { by_rtt.to_string() };
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

/// The numbers behind the verdict, in words.
pub(crate) fn numbers(people: &Population, rtt_limit_ms: f64) -> String {
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

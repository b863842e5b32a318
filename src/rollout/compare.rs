//! Waits until green may take over from blue.
//!
//! An exporter that runs is not an exporter that is right: it may still be warming up, lag behind,
//! read half of the frames or those of another region. So both are asked for their readiness and
//! their metrics over one window, at the same moments. A window that does not convince is followed
//! by another until one does or the time is up; the reasons of the last one are then why green must
//! wait. What waiting can't change, such as an older version, ends the comparison at once.
//!
//! Invariant: the result is `go` only after a whole window in which both were ready and agreed.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::exporters::{ExporterError, Exporters};
use super::judge::{self, Tolerances, WatchedWindow, WindowJudgement};
use crate::config::{chain, within_a_day, within_an_hour};
use crate::insight::words;

/// How often exporters that are not ready are asked again.
const PAUSE: Duration = Duration::from_millis(500);

/// The number of parts into which readings divide a window.
const PARTS: u32 = 4;

/// How long to compare, and how exactly.
#[derive(Clone, Copy, Debug, PartialEq, clap::Args)]
#[command(next_help_heading = "Terms")]
pub(crate) struct ComparisonTerms {
    /// Give up after this long, from 1s to 24h
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = within_a_day)]
    pub(crate) timeout: Duration,

    /// Watch both for this long before judging, from 1s to 1h.
    ///
    /// Choose a multiple of the interval at which clients send frames.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = within_an_hour)]
    pub(crate) window: Duration,

    /// Wait while green is further behind the stream than this, from 1s to 1h
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = within_an_hour)]
    pub(crate) max_lag: Duration,

    #[command(flatten)]
    pub(crate) tolerances: Tolerances,
}

/// The result, as `--json` prints it.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Comparison {
    /// Whether green may take over.
    pub(crate) go: bool,
    /// Why green must not take over; empty if it may.
    pub(crate) reasons: Vec<String>,
    pub(crate) waited_seconds: f64,
    /// How many windows were watched to their end.
    pub(crate) windows: u32,
    /// The last window; `None` if none was watched to its end.
    pub(crate) judgement: Option<WindowJudgement>,
}

/// Why a window was abandoned.
enum Obstacle {
    Passing(Vec<String>),
    Final(Vec<String>),
}

impl From<ExporterError> for Obstacle {
    fn from(error: ExporterError) -> Self {
        Self::Passing(vec![chain(&error)])
    }
}

/// Compares until green agrees with blue, for at most the timeout.
pub(crate) async fn compare(blue: &Exporters, green: &Exporters, terms: &ComparisonTerms) -> Comparison {
    let start = Instant::now();
    let end = tokio::time::Instant::now() + terms.timeout;
    let reasons = vec!["no window was watched to its end".to_owned()];
    let mut comparison = Comparison { reasons, ..Comparison::default() };
    let mut logged = Vec::new();
    while let Ok(watched) = tokio::time::timeout_at(end, watch(blue, green, terms)).await {
        let (reasons, is_final) = match watched {
            Ok(judgement) => {
                comparison.windows += 1;
                comparison.go = judgement.reasons.is_empty();
                let outcome = (judgement.reasons.clone(), comparison.go || judgement.is_final);
                comparison.judgement = Some(judgement);
                outcome
            }
            Err(Obstacle::Passing(reasons)) => (reasons, false),
            Err(Obstacle::Final(reasons)) => (reasons, true),
        };
        comparison.reasons = reasons;
        if is_final {
            break;
        }
        if logged != comparison.reasons {
            logged.clone_from(&comparison.reasons);
            tracing::info!(reasons = %logged.join("; "), "{} has to wait", green.name);
        }
        if tokio::time::timeout_at(end, tokio::time::sleep(PAUSE)).await.is_err() {
            break;
        }
    }
    comparison.waited_seconds = start.elapsed().as_secs_f64();
    comparison
}

/// Watches both for one window.
async fn watch(
    blue: &Exporters,
    green: &Exporters,
    terms: &ComparisonTerms,
) -> Result<WindowJudgement, Obstacle> {
    let regions = shared_regions(blue, green, terms).await?;
    let names = [&blue.name, &green.name].map(Clone::clone);
    let mut watched = WatchedWindow { names, regions, blue: Vec::new(), green: Vec::new() };
    let start = tokio::time::Instant::now();
    for part in 0..=PARTS {
        tokio::time::sleep_until(start + terms.window * part / PARTS).await;
        let (ours, theirs) = tokio::try_join!(blue.reading(), green.reading())?;
        watched.blue.push(ours);
        watched.green.push(theirs);
        if part > 0 {
            shared_regions(blue, green, terms).await?;
        }
    }
    Ok(judge::judge(&watched, &terms.tolerances))
}

/// The regions that both serve, if both are ready.
async fn shared_regions(
    blue: &Exporters,
    green: &Exporters,
    terms: &ComparisonTerms,
) -> Result<BTreeSet<String>, Obstacle> {
    let (ours, theirs) = tokio::try_join!(blue.readiness(), green.readiness())?;
    let (old, new) = (&blue.name, &green.name);
    if !ours.deployments.is_disjoint(&theirs.deployments) {
        return Err(Obstacle::Final(vec![format!(
            "{old} and {new} are the same exporter, deployment {}: check the addresses",
            words::list(&Vec::from_iter(&theirs.deployments))
        )]));
    }
    if ours.regions != theirs.regions {
        let [ours, theirs] =
            [&ours.regions, &theirs.regions].map(|regions| words::list(&Vec::from_iter(regions)));
        return Err(Obstacle::Final(vec![format!(
            "they watch different regions: {old} {ours}, {new} {theirs}"
        )]));
    }
    let mut reasons = Vec::new();
    for (name, readiness) in [(old, &ours), (new, &theirs)] {
        reasons.extend(readiness.why_not.iter().map(|why| format!("{name} is not ready: {why}")));
    }
    if reasons.is_empty() && theirs.lag > terms.max_lag {
        let [lag, allowed] = [theirs.lag, terms.max_lag].map(words::duration);
        let frames = words::plural(theirs.pending, "frame");
        reasons.push(format!("{new} is {lag} and {frames} behind the stream, {allowed} allowed"));
    }
    if reasons.is_empty() { Ok(ours.regions) } else { Err(Obstacle::Passing(reasons)) }
}

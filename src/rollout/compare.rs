//! Waiting until green may take over from blue.
//!
//! A pod that runs is not an exporter that is right: it may still be warming up, lag behind, read half of the frames or
//! another region's. So before anything leads to green, both are asked how they are doing and what they count, over one
//! window, at the same moments. A window that does not convince is followed by another until one does, or time is up:
//! the reasons of the last one are then why green must wait. What no waiting can mend, such as an older version, ends
//! it at once.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::colour::{Colour, ColourError, Readiness};
use super::judge::{self, Judgement, Tolerances, Watched};

/// How often somebody who is not ready is asked again.
const PAUSE: Duration = Duration::from_millis(500);

/// Into how many parts readings divide a window.
const PARTS: u32 = 4;

/// How long to wait, and for what.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Terms {
    /// When to give up.
    pub(crate) timeout: Duration,
    /// Over how long both are watched.
    pub(crate) window: Duration,
    /// How far green may be behind the stream.
    pub(crate) max_lag: Duration,
    /// How far the two may be apart.
    pub(crate) tolerances: Tolerances,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Comparison {
    /// Whether green may take over.
    pub(crate) go: bool,
    /// Why not.
    pub(crate) reasons: Vec<String>,
    /// How long it took, in seconds.
    pub(crate) waited_seconds: f64,
    /// How many windows were watched.
    pub(crate) windows: u32,
    /// The last window; none if it never came to one.
    pub(crate) judgement: Option<Judgement>,
}

/// Why the window under way is of no use.
enum Obstacle {
    /// It may pass.
    Now(Vec<String>),
    /// It will not.
    Final(Vec<String>),
}

impl From<ColourError> for Obstacle {
    fn from(error: ColourError) -> Self {
        let chain = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
        Self::Now(vec![chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")])
    }
}

/// Compares until green agrees with blue, or no longer than the terms say.
pub(crate) async fn compare(blue: &Colour, green: &Colour, terms: &Terms) -> Comparison {
    let start = Instant::now();
    let end = tokio::time::Instant::now() + terms.timeout;
    let mut comparison = Comparison {
        go: false,
        reasons: vec!["no window was watched to its end".to_owned()],
        waited_seconds: 0.0,
        windows: 0,
        judgement: None,
    };
    let mut told = Vec::new();
    loop {
        let Ok(outcome) = tokio::time::timeout_at(end, window(blue, green, terms)).await else { break };
        let is_final = match outcome {
            Ok(judgement) => {
                comparison.windows += 1;
                comparison.go = judgement.reasons.is_empty();
                comparison.reasons.clone_from(&judgement.reasons);
                let is_final = comparison.go || judgement.is_final;
                comparison.judgement = Some(judgement);
                is_final
            }
            Err(Obstacle::Now(reasons)) => {
                comparison.reasons = reasons;
                false
            }
            Err(Obstacle::Final(reasons)) => {
                comparison.reasons = reasons;
                true
            }
        };
        if is_final {
            break;
        }
        if told != comparison.reasons {
            told.clone_from(&comparison.reasons);
            tracing::info!(reasons = %told.join("; "), "{} has to wait", green.name);
        }
        if tokio::time::timeout_at(end, tokio::time::sleep(PAUSE)).await.is_err() {
            break;
        }
    }
    comparison.waited_seconds = start.elapsed().as_secs_f64();
    comparison
}

/// Watches both for one window.
async fn window(blue: &Colour, green: &Colour, terms: &Terms) -> Result<Judgement, Obstacle> {
    let regions = ready(blue, green, terms).await?;
    let names = [&blue.name, &green.name].map(Clone::clone);
    let mut watched = Watched { names, regions, blue: Vec::new(), green: Vec::new() };
    let start = tokio::time::Instant::now();
    for part in 0..=PARTS {
        tokio::time::sleep_until(start + terms.window * part / PARTS).await;
        let (ours, theirs) = tokio::try_join!(blue.reading(), green.reading())?;
        watched.blue.push(ours);
        watched.green.push(theirs);
        if part > 0 {
            ready(blue, green, terms).await?;
        }
    }
    Ok(judge::judge(&watched, &terms.tolerances))
}

/// That both are ready and what they say they are; the regions that they serve.
async fn ready(blue: &Colour, green: &Colour, terms: &Terms) -> Result<BTreeSet<String>, Obstacle> {
    let (ours, theirs) = tokio::try_join!(blue.readiness(), green.readiness())?;
    if !ours.deployments.is_disjoint(&theirs.deployments) {
        return Err(Obstacle::Final(vec![format!(
            "{} and {} are the same exporter, deployment {}: check the addresses",
            blue.name,
            green.name,
            listed(&theirs.deployments)
        )]));
    }
    if ours.regions != theirs.regions {
        return Err(Obstacle::Final(vec![format!(
            "they watch different regions: {} {}, {} {}",
            blue.name,
            listed(&ours.regions),
            green.name,
            listed(&theirs.regions)
        )]));
    }
    let mut reasons = Vec::new();
    for (colour, readiness) in [(blue, &ours), (green, &theirs)] {
        reasons.extend(readiness.why_not.iter().map(|why| format!("{} is not ready: {why}", colour.name)));
    }
    if reasons.is_empty() && theirs.lag > terms.max_lag {
        reasons.push(behind(&green.name, &theirs, terms.max_lag));
    }
    if reasons.is_empty() { Ok(ours.regions) } else { Err(Obstacle::Now(reasons)) }
}

fn behind(name: &str, green: &Readiness, max_lag: Duration) -> String {
    format!(
        "{name} is {:.1} s and {} frames behind the stream, {:.1} s allowed",
        green.lag.as_secs_f64(),
        green.pending,
        max_lag.as_secs_f64()
    )
}

fn listed(names: &BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(" and ")
}

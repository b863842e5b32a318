//! Filling the holes of a Prometheus.

use std::sync::Arc;

use async_nats::jetstream::Context;

use super::config::HealConfig;
use crate::replay::engine::EngineConfig;
use crate::replay::heal::{Hole, Neighbour, holes};
use crate::replay::progress::Control;
use crate::replay::prometheus::{PrometheusApi, label_text};
use crate::replay::sink::Sink;
use crate::replay::sink::remote_write::{RemoteWrite, RemoteWriteConfig};
use crate::replay::window::rfc3339;
use crate::replay::{self, ReplayError, Replayed};

/// Fills the holes of each region. Returns the summary.
pub(super) async fn heal(
    context: &Context,
    engine: &EngineConfig,
    mirror: bool,
    config: HealConfig,
    control: &Control,
) -> Result<String, ReplayError> {
    let prometheus = Arc::new(PrometheusApi::new(config.prometheus.clone(), config.headers.clone()));
    let mut summary = String::new();
    for region in &engine.regions {
        control.phase("looking for holes");
        let (api, of, window) = (Arc::clone(&prometheus), region.clone(), engine.window);
        let looking = tokio::task::spawn_blocking(move || holes(&api, &of, window));
        let holes = control.unless_stopped(looking).await?.map_err(|_| ReplayError::Panicked)??;
        if holes.is_empty() {
            summary += &format!("{region}: no hole from {window}\n");
        }
        for hole in holes {
            let [first, last] = [hole.window.from, hole.window.to].map(rfc3339);
            let step = humantime::format_duration(hole.window.step);
            let engine =
                EngineConfig { regions: vec![region.clone()], window: hole.window, ..engine.clone() };
            let filled = fill(context, engine, mirror, &config, hole, control).await?;
            summary += &format!("{region}: {first} to {last}, every {step}: {filled}\n");
        }
    }
    Ok(summary)
}

/// Fills a hole. Returns what it was filled with.
async fn fill(
    context: &Context,
    engine: EngineConfig,
    mirror: bool,
    config: &HealConfig,
    hole: Hole,
    control: &Control,
) -> Result<String, ReplayError> {
    control.phase("filling");
    let targets: Vec<_> =
        hole.neighbours.iter().map(|neighbour| format!("{{{}}}", label_text(&neighbour.labels))).collect();
    let sink = |Neighbour { labels, continuation }| {
        let receiver = config.receiver.clone();
        let config = RemoteWriteConfig { receiver, labels, ends: false, continuation };
        Box::new(RemoteWrite::new(config, hole.window.step, None, control.clone())) as Box<dyn Sink>
    };
    let sinks = hole.neighbours.into_iter().map(sink).collect();
    let extents = control.unless_stopped(replay::extents(context, &engine.regions, mirror)).await??;
    match replay::run(context, engine, extents, sinks, control.clone()).await {
        Ok(Replayed { account, .. }) => {
            let (steps, folded, targets) = (account.steps, account.folded, targets.join(" and "));
            Ok(format!("filled {steps} steps from {folded} frames, as {targets}"))
        }
        Err(ReplayError::Outside { .. } | ReplayError::Empty { .. }) => {
            Ok("not filled, the stream has no frame of that time".to_owned())
        }
        Err(error) => Err(error),
    }
}

//! Filling the gaps of a Prometheus: each gap is a replay of its own, with the gap as its window.

use std::sync::Arc;

use async_nats::jetstream::Context;

use super::config::HealConfig;
use crate::replay::engine::EngineConfig;
use crate::replay::heal::{Gap, Neighbour, gaps};
use crate::replay::progress::Control;
use crate::replay::prometheus::{PrometheusApi, label_text};
use crate::replay::sink::Sink;
use crate::replay::sink::remote_write::{RemoteWrite, RemoteWriteConfig};
use crate::replay::window::rfc3339;
use crate::replay::{self, ReplayError, Replayed};

/// Fills the gaps of each region. Returns the summary.
pub(super) async fn heal(
    context: &Context,
    engine: &EngineConfig,
    config: HealConfig,
    control: &Control,
) -> Result<String, ReplayError> {
    let prometheus = Arc::new(PrometheusApi::new(config.prometheus.clone(), config.headers.clone()));
    let mut summary = String::new();
    for region in &engine.regions {
        control.phase("looking for gaps");
        let of_region = EngineConfig { regions: vec![region.clone()], ..engine.clone() };
        let extents = control.unless_stopped(replay::extents(context, &of_region)).await??;
        let window = replay::part_with_frames(engine.window, &extents);
        let (api, of) = (Arc::clone(&prometheus), region.clone());
        let looking = tokio::task::spawn_blocking(move || gaps(&api, &of, window));
        let gaps = control.unless_stopped(looking).await?.map_err(|_| ReplayError::Panicked)??;
        if gaps.is_empty() {
            summary += &format!("{region}: no gap from {window}\n");
        }
        for gap in gaps {
            let [first, last] = [gap.window.from, gap.window.to].map(rfc3339);
            let step = humantime::format_duration(gap.window.step);
            let engine = EngineConfig { window: gap.window, ..of_region.clone() };
            let filled = fill(context, engine, &config, gap, control).await?;
            summary += &format!("{region}: {first} to {last}, every {step}: {filled}\n");
        }
    }
    Ok(summary)
}

/// Fills a gap. Returns what it was filled with.
async fn fill(
    context: &Context,
    engine: EngineConfig,
    config: &HealConfig,
    gap: Gap,
    control: &Control,
) -> Result<String, ReplayError> {
    control.phase("filling");
    let targets: Vec<_> =
        gap.neighbours.iter().map(|neighbour| format!("{{{}}}", label_text(&neighbour.labels))).collect();
    let sink = |Neighbour { labels, continuation }| {
        let receiver = config.receiver.clone();
        let config = RemoteWriteConfig { receiver, labels, ends: false, continuation };
        Box::new(RemoteWrite::new(config, gap.window.step, None, control.clone())) as Box<dyn Sink>
    };
    let sinks = gap.neighbours.into_iter().map(sink).collect();
    let extents = control.unless_stopped(replay::extents(context, &engine)).await??;
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

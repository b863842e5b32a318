//! Whether an instance may get requests, and what an operator should know.
//!
//! Invariant: `/readyz` and the metrics say the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use async_nats::Client;
use callsight_publish::Publisher;
use tokio::sync::watch;

use super::series::Series;
use super::stream;
use super::tokens::Tokens;
use crate::http_server::Gate;
use crate::nats::Refusals;

pub(super) struct Readiness {
    pub(super) client: Client,
    pub(super) refusals: Refusals,
    /// Why the stream takes no frames, as of the last look.
    pub(super) problem: watch::Receiver<Option<String>>,
    pub(super) tokens: Option<Arc<Tokens>>,
    pub(super) gate: Arc<Gate>,
    /// Whether requests are only answered until whoever sends them has gone elsewhere.
    pub(super) drains: AtomicBool,
}

impl Readiness {
    /// Returns what keeps frames from being stored, or requests from being welcome.
    pub(super) fn why(&self, publisher: &Publisher) -> Vec<String> {
        if self.drains.load(Relaxed) {
            return vec!["this instance stops; send requests to another".to_owned()];
        }
        let disconnected = stream::disconnected(&self.client, &self.refusals);
        // Without a connection, everything else follows from that.
        let why =
            disconnected.or_else(|| self.problem.borrow().clone()).or_else(|| stream::setback(publisher));
        why.into_iter().collect()
    }

    /// Returns what is wrong although frames are stored.
    pub(super) fn warnings(&self) -> Vec<&'static str> {
        let tokens = match &self.tokens {
            Some(tokens) => tokens.warning(),
            None => Some("--without-tokens: anybody who reaches this port can write frames of anybody"),
        };
        self.gate.warning().into_iter().chain(tokens).collect()
    }

    /// Brings the gauges up to date.
    pub(super) fn show(&self, publisher: &Publisher, series: &Series) {
        let flag = |is: bool| f64::from(u8::from(is));
        series.ready.set(flag(self.why(publisher).is_empty()));
        let tokens = self.tokens.as_ref();
        #[expect(clippy::cast_precision_loss, reason = "there are at most 16 keys")]
        series.keys.set(tokens.map_or(0, |tokens| tokens.count()) as f64);
        series.keys_refused.set(flag(tokens.is_some_and(|tokens| tokens.warning().is_some())));
    }
}

//! The keeper of the triage page: looks at the present for its viewers.
//!
//! The numbers are spread: gauges by server, rows by session, the health of each consumer. No
//! viewer may lock any of them, and a hundred viewers must cost what one does. So one keeper takes
//! a look every second while somebody views, else as often as the charts have steps, and leaves the
//! answer as bytes. A look that took long is followed by a longer pause, so that looking takes
//! about a fiftieth of a processor at most.
//!
//! Invariant: a viewer reads what the keeper left, and never touches the series.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use time::OffsetDateTime;
use tokio::sync::{Semaphore, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::consume::RegionHealth;
use crate::insight::spell::Clocks;
use crate::triage::{Drill, DrillError, Memory, STEP, View};

/// The time between looks while somebody views.
const OFTEN: Duration = Duration::from_secs(1);

/// How long a request counts as somebody viewing.
const VIEWING: Duration = Duration::from_secs(10);

/// Looks take at most one part in this many of a processor's time.
const SHARE: u32 = 50;

/// The number of meetings and sessions read at a time, and how long others wait.
const AT_A_TIME: usize = 2;
const TURN: Duration = Duration::from_secs(5);

/// The source of all answers. Clones share it.
#[derive(Clone)]
pub(super) struct Triage(Arc<Shared>);

struct Shared {
    view: View,
    regions: Vec<Arc<RegionHealth>>,
    ready_max_lag: Duration,
    /// Where the steady clock of the looks begins.
    origin: Instant,
    /// Used by the keeper alone, whose looks run on changing threads.
    memory: Mutex<Memory>,
    latest: watch::Sender<Bytes>,
    viewed: watch::Sender<Option<Instant>>,
    turns: Semaphore,
}

impl Triage {
    pub(super) fn new(view: View, regions: Vec<Arc<RegionHealth>>, ready_max_lag: Duration) -> Self {
        Self(Arc::new(Shared {
            view,
            regions,
            ready_max_lag,
            origin: Instant::now(),
            memory: Mutex::default(),
            latest: watch::Sender::default(),
            viewed: watch::Sender::default(),
            turns: Semaphore::new(AT_A_TIME),
        }))
    }

    /// The latest summary as JSON; `None` before the first look.
    pub(super) fn latest(&self) -> Option<Bytes> {
        self.0.viewed.send_replace(Some(Instant::now()));
        let latest = self.0.latest.borrow().clone();
        (!latest.is_empty()).then_some(latest)
    }

    pub(super) async fn keep(self) {
        let mut every = interval(OFTEN);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last: Option<(Instant, Duration)> = None;
        loop {
            every.tick().await;
            let now = Instant::now();
            let viewed = self.0.viewed.borrow().is_some_and(|at| now - at < VIEWING);
            if last.is_some_and(|(began, took)| now - began < pause(took, viewed)) {
                continue;
            }
            let shared = Arc::clone(&self.0);
            match tokio::task::spawn_blocking(move || shared.look()).await {
                Ok(()) => last = Some((now, now.elapsed())),
                Err(error) => tracing::error!(%error, "the look for the triage page failed"),
            }
        }
    }

    /// Reads one meeting or session.
    pub(super) async fn drill(&self, into: Drill) -> Result<Bytes, DrillError> {
        let Ok(Ok(_turn)) = timeout(TURN, self.0.turns.acquire()).await else { return Err(DrillError::Busy) };
        let shared = Arc::clone(&self.0);
        let drilled = tokio::task::spawn_blocking(move || shared.view.drill(&into, shared.now()));
        drilled.await.unwrap_or(Err(DrillError::Busy))
    }
}

/// The least time from the beginning of a look, which took `took`, to that of the next one.
fn pause(took: Duration, viewed: bool) -> Duration {
    // The clock that ticks once a second is not that exact.
    let usual = if viewed { OFTEN / 2 } else { STEP - OFTEN / 2 };
    usual.max((took * SHARE).min(STEP - OFTEN / 2))
}

impl Shared {
    /// Stream time now, in Unix seconds.
    fn now(&self) -> f64 {
        self.regions.iter().filter_map(|region| region.stream_now()).max().unwrap_or_default().unix_seconds()
    }

    fn look(&self) {
        let steady = Instant::now().saturating_duration_since(self.origin);
        let at = Clocks { wall: OffsetDateTime::now_utc(), steady };
        let reports = self.regions.iter().map(|region| region.report(self.ready_max_lag)).collect();
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let summary = self.view.look(&mut memory, at, self.now(), reports);
        match serde_json::to_vec(&summary) {
            Ok(json) => drop(self.latest.send_replace(json.into())),
            Err(error) => tracing::error!(%error, "the triage summary can't be written"),
        }
    }
}

#[cfg(test)]
mod tests {
    use callsight_testkit::http::get;
    use tokio::join;
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    use callsight_fold::DetailLevel;
    use callsight_fold::series::aggregates::Aggregates;
    use callsight_fold::series::detail::{DetailPlane, DetailStore};

    use super::super::MAX_CONNECTIONS;
    use super::super::routes::{State, routes};
    use super::super::scrape::Scraper;
    use super::*;
    use crate::http_server::{self, Gate};
    use crate::insight::state::Threshold;
    use crate::triage::{Document, Fixed, PageConfig};

    #[test]
    fn looks_are_frequent_while_somebody_views_unless_they_take_long() {
        let quick = Duration::from_millis(2);
        assert!(pause(quick, true) < OFTEN);
        assert!(pause(quick, false) > OFTEN * 4 && pause(quick, false) < STEP);
        assert_eq!(pause(Duration::from_millis(40), true), Duration::from_secs(2));
        // However long it takes, the charts have their steps.
        assert_eq!(pause(Duration::from_secs(1), true), pause(quick, false));
    }

    #[tokio::test]
    async fn detail_that_too_many_ask_for_is_refused_and_all_else_is_answered() {
        let (aggregates, detail) = (Aggregates::new(), DetailStore::new(100));
        let _row = detail
            .open(DetailPlane::Session, &["us", "m", "s", "p", "none", "none", "none", "none"])
            .unwrap();
        let fixed = Fixed {
            deployment: "main".to_owned(),
            regions: vec!["us".to_owned()],
            detail: DetailLevel::Session,
            max_series: 100,
            rtt_limit_ms: 300.0,
            concealment_limit: 0.05,
            loss_limit: 0.05,
            bad: Threshold::BAD,
            started: OffsetDateTime::now_utc(),
        };
        let lag = Duration::from_secs(10);
        let view = View { aggregates: aggregates.clone(), detail: detail.clone(), fixed };
        let triage = Triage::new(view, Vec::new(), lag);
        let scraper = Scraper::new(aggregates, detail, Vec::new(), lag);
        let gate = Gate::new(None, &[], &mut JoinSet::new()).unwrap();
        let state = State::new(
            scraper,
            Vec::new(),
            lag,
            "main".into(),
            triage.clone(),
            Document::live(&PageConfig::default()),
            Arc::clone(&gate),
        );
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (_stop, stopping) = watch::channel(false);
        let mut server = JoinSet::new();
        server.spawn(http_server::serve(listener, MAX_CONNECTIONS, gate, routes(state), stopping));
        let get = async |path: &str| get(&format!("{url}{path}"), &[]).await.unwrap();

        let turns = triage.0.turns.acquire_many(2).await.unwrap();
        assert_eq!(triage.0.turns.available_permits(), 0);
        let [meeting, session] = ["/api/triage/meeting/m", "/api/triage/session/s"].map(&get);
        for refused in <[_; 2]>::from(join!(meeting, session)) {
            assert_eq!(refused.status, 503);
            assert_eq!(refused.text(), r#"{"error":"too much is being looked into; try again later"}"#);
        }
        for path in ["/", "/metrics", "/livez"] {
            assert_eq!(get(path).await.status, 200, "{path}");
        }
        drop(turns);
        assert_eq!(get("/api/triage/meeting/m").await.status, 200);
    }
}

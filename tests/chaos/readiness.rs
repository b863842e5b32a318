//! Whether an exporter that says it is ready shows the calls as they are.
//!
//! A frame that a relay's publisher knows to be stored has to be folded within ten seconds, or the
//! exporter must not be ready: that is the default of `--ready-max-lag`, and the time within which
//! a view that is cut off must say so. So each exporter is asked several times a second, and its
//! answer is compared with what had been acknowledged ten seconds before. What it has folded is
//! read afterwards: a frame that is missing then was missing when it said that it was ready.
//!
//! Invariant: an exporter that is ready is never suspected wrongly, however busy the machine is.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use callsight_publish::Publisher;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::account::Account;
use crate::kit::http;
use crate::kit::scrape::Scrape;

/// `--ready-max-lag` of the exporters, its default.
const MAX_LAG: Duration = Duration::from_secs(10);

const EVERY: Duration = Duration::from_millis(200);

/// The longest that an answer may take; an exporter that is stopped gives none.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// One region as an exporter sees it.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) region: &'static str,
    pub(super) publisher: Arc<Publisher>,
}

/// Asks one exporter until it is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    url: String,
    regions: Vec<Watched>,
    now: Arc<Mutex<Now>>,
    life: Mutex<Life>,
    seen: Mutex<Seen>,
}

/// What happens at the moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Now {
    /// Whether something is broken, anywhere.
    pub(super) broken: bool,
    /// The last fault.
    pub(super) fault: &'static str,
}

/// The process that is asked.
#[derive(Clone, Debug, Default, PartialEq)]
struct Life {
    number: u64,
    /// The sequence after which it began, for each region; empty until that is known.
    began: Vec<u64>,
}

/// What was seen, in time.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) ready: Duration,
    /// By the last fault before.
    pub(super) falsely_ready: BTreeMap<&'static str, Duration>,
    pub(super) unready_while_broken: Duration,
    /// Nothing is broken any more, and it is not ready again yet.
    pub(super) unready_while_sound: Duration,
    pub(super) silent: Duration,
    /// What it said meanwhile, and for how long.
    pub(super) reasons: BTreeMap<String, Duration>,
    /// The first time that it was falsely ready.
    pub(super) example: Option<String>,
}

impl Watch {
    pub(super) fn start(url: String, regions: Vec<Watched>, now: Arc<Mutex<Now>>) -> Self {
        let (life, seen) = Default::default();
        let state = Arc::new(State { url, regions, now, life, seen });
        Self { task: tokio::spawn(watch(Arc::clone(&state))), state }
    }

    /// The process is gone, or about to be.
    pub(super) fn ended(&self) {
        let mut life = self.state.life.lock().unwrap_or_else(PoisonError::into_inner);
        *life = Life { number: life.number + 1, began: Vec::new() };
    }

    /// A process runs that began after these sequences of the regions.
    pub(super) fn began(&self, began: Vec<u64>) {
        self.state.life.lock().unwrap_or_else(PoisonError::into_inner).began = began;
    }

    pub(super) fn seen(&self) -> Seen {
        self.state.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn watch(state: Arc<State>) {
    let mut every = interval(EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // How many frames of each region were acknowledged, and when.
    let mut acknowledged: VecDeque<(Instant, Vec<u64>)> = VecDeque::new();
    let mut last = Instant::now();
    loop {
        every.tick().await;
        let counts = state.regions.iter().map(|region| region.publisher.stats().acknowledged).collect();
        let life = state.life();
        let now = *state.now.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = Instant::now();
        acknowledged.push_back((asked, counts));
        while acknowledged.get(1).is_some_and(|(at, _)| asked.duration_since(*at) >= MAX_LAG) {
            acknowledged.pop_front();
        }
        let old = acknowledged.front().filter(|(at, _)| asked.duration_since(*at) >= MAX_LAG);

        let answer = timeout(ANSWER_WITHIN, http::get(&format!("{}/readyz", state.url), &[])).await;
        let mut late = None;
        if let (Ok(Ok(answer)), Some((_, old))) = (&answer, old)
            && answer.status == 200
        {
            late = state.late(&life, old).await;
        }
        let since = last.elapsed();
        last = Instant::now();
        let mut seen = state.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Ok(Ok(answer)) if answer.status == 200 => {
                seen.ready += since;
                if let Some(late) = late {
                    *seen.falsely_ready.entry(now.fault).or_default() += since;
                    seen.example.get_or_insert_with(|| format!("{}: {late}; {}", now.fault, answer.text()));
                }
            }
            Ok(Ok(answer)) => {
                if now.broken {
                    seen.unready_while_broken += since;
                } else {
                    seen.unready_while_sound += since;
                }
                *seen.reasons.entry(reasons(answer.text())).or_default() += since;
            }
            _ => seen.silent += since,
        }
    }
}

impl State {
    fn life(&self) -> Life {
        self.life.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The first region of which frames are missing that had been acknowledged long before, unless
    /// the process is another one by now.
    async fn late(&self, life: &Life, acknowledged: &[u64]) -> Option<String> {
        let page =
            timeout(ANSWER_WITHIN, http::get(&format!("{}/metrics", self.url), &[])).await.ok()?.ok()?;
        let scrape = Scrape::parse(page.text());
        if life.began.is_empty() || *life != self.life() {
            return None;
        }
        let regions = self.regions.iter().zip(&life.began).zip(acknowledged);
        let late = regions.map(|((region, began), acknowledged)| {
            let taken = began + Account::of(&scrape, region.region).settled();
            (taken < *acknowledged).then(|| {
                format!(
                    "{}: {taken} of {acknowledged} frames that were acknowledged {MAX_LAG:?} ago",
                    region.region
                )
            })
        });
        late.flatten().next()
    }
}

/// Why an exporter is not ready, by region, in words that stay the same while numbers change.
fn reasons(answer: &str) -> String {
    let answer: Value = serde_json::from_str(answer).unwrap_or_default();
    let regions = answer["regions"].as_array().into_iter().flatten();
    let unready = regions.filter_map(|region| {
        let why = region["why"].as_str()?.replace(|c: char| c.is_ascii_digit(), "");
        Some(format!("{}: {why}", region["region"].as_str()?))
    });
    unready.collect::<Vec<_>>().join("; ")
}

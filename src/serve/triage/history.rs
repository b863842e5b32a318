//! The last few minutes, in steps: what the small charts show.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::Serialize;
use time::OffsetDateTime;

use super::summary::RegionSummary;

/// How far apart the steps are, and how many there are: five minutes.
pub(super) const STEP: Duration = Duration::from_secs(5);
const STEPS: usize = 61;

/// A step.
#[derive(Debug)]
struct Point {
    at: Instant,
    wall: OffsetDateTime,
    regions: Vec<RegionPoint>,
}

#[derive(Clone, Debug, Default)]
struct RegionPoint {
    sessions: u64,
    degraded: u64,
    rtt_p50_ms: Option<f64>,
    rtt_p95_ms: Option<f64>,
}

/// A ring of steps, all with the same regions.
#[derive(Debug, Default)]
pub(super) struct History(VecDeque<Point>);

/// The steps as the page shows them, oldest first; every list is as long as the one of the moments.
#[derive(Debug, Serialize)]
pub(super) struct HistorySummary {
    step_seconds: u64,
    at_unix_seconds: Vec<i64>,
    regions: Vec<RegionHistory>,
}

/// A region's part of the steps.
#[derive(Debug, Serialize)]
struct RegionHistory {
    region: String,
    sessions: Vec<u64>,
    sessions_degraded: Vec<u64>,
    rtt_p50_ms: Vec<Option<f64>>,
    rtt_p95_ms: Vec<Option<f64>>,
}

impl History {
    /// Adds a step, if it is time for one.
    pub(super) fn follow(&mut self, (wall, now): (OffsetDateTime, Instant), regions: &[RegionSummary]) {
        // A step may come a little early: the looks come once a second and are not that exact.
        let due = self.0.back().is_none_or(|last| now - last.at + STEP / 10 >= STEP);
        if !due {
            return;
        }
        if self.0.len() == STEPS {
            self.0.pop_front();
        }
        let regions = regions.iter().map(|region| RegionPoint {
            sessions: region.people.sessions,
            degraded: region.people.sessions_degraded,
            rtt_p50_ms: region.people.rtt_p50_ms,
            rtt_p95_ms: region.people.rtt_p95_ms,
        });
        self.0.push_back(Point { at: now, wall, regions: regions.collect() });
    }

    /// The most sessions that a region had at any step.
    pub(super) fn most_sessions(&self, region: usize) -> u64 {
        let regions = self.0.iter().filter_map(|point| point.regions.get(region));
        regions.map(|region| region.sessions).max().unwrap_or_default()
    }

    /// All steps, for regions with these names.
    pub(super) fn summary(&self, regions: &[RegionSummary]) -> HistorySummary {
        let region = |(index, region): (usize, &RegionSummary)| {
            let points = || self.0.iter().filter_map(move |point| point.regions.get(index));
            RegionHistory {
                region: region.region.clone(),
                sessions: points().map(|point| point.sessions).collect(),
                sessions_degraded: points().map(|point| point.degraded).collect(),
                rtt_p50_ms: points().map(|point| point.rtt_p50_ms).collect(),
                rtt_p95_ms: points().map(|point| point.rtt_p95_ms).collect(),
            }
        };
        HistorySummary {
            step_seconds: STEP.as_secs(),
            at_unix_seconds: self.0.iter().map(|point| point.wall.unix_timestamp()).collect(),
            regions: regions.iter().enumerate().map(region).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::triage::population::Population;

    #[test]
    fn there_is_a_step_every_five_seconds_and_the_oldest_go() {
        let (start, began) = (OffsetDateTime::UNIX_EPOCH, Instant::now());
        let mut history = History::default();
        for second in 0..1000_u64 {
            let people = Population { sessions: second, rtt_p95_ms: Some(50.0), ..Population::default() };
            let passed = Duration::from_secs(second);
            history.follow((start + passed, began + passed), &[RegionSummary::with("us", people)]);
        }
        let summary = history.summary(&[RegionSummary::with("us", Population::default())]);
        let at = &summary.at_unix_seconds;
        assert_eq!((at.len(), at[0], at[STEPS - 1]), (STEPS, 695, 995));
        assert!(at.windows(2).all(|pair| pair[1] - pair[0] == 5));
        let us = &summary.regions[0];
        assert_eq!((us.sessions[0], us.sessions[STEPS - 1]), (695, 995));
        assert_eq!((history.most_sessions(0), history.most_sessions(1)), (995, 0));
        for length in [us.sessions_degraded.len(), us.rtt_p50_ms.len(), us.rtt_p95_ms.len()] {
            assert_eq!(length, STEPS);
        }
        assert_eq!((us.rtt_p50_ms[3], us.rtt_p95_ms[3]), (None, Some(50.0)));
    }

    #[test]
    fn a_look_that_comes_a_little_early_is_still_a_step() {
        let (wall, began) = (OffsetDateTime::UNIX_EPOCH, Instant::now());
        let mut history = History::default();
        for milliseconds in [0, 4_990, 9_000, 9_985] {
            history.follow((wall, began + Duration::from_millis(milliseconds)), &[]);
        }
        assert_eq!(history.summary(&[]).at_unix_seconds.len(), 3);
    }
}

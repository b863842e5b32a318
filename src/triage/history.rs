//! The last five minutes in steps, for the small charts.
//!
//! A number is bad or good only compared with what it was before. Prometheus has that, but the page
//! must not depend on it.
//!
//! Invariant: all steps have the same regions, in the same order, and a step has nothing of a
//! region whose view was not current.

use std::collections::VecDeque;
use std::time::Duration;

use crate::insight::place::JudgedRegion;
use crate::insight::population::Population;
use crate::insight::spell::Clocks;
use crate::insight::state::State;
use serde::Serialize;

/// The time between steps, and their number: five minutes.
pub(crate) const STEP: Duration = Duration::from_secs(5);
const STEPS: usize = 61;

#[derive(Debug)]
struct Point {
    at: Clocks,
    regions: Vec<Option<Population>>,
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
    sessions: Vec<Option<u64>>,
    sessions_degraded: Vec<Option<u64>>,
    rtt_p50_ms: Vec<Option<f64>>,
    rtt_p95_ms: Vec<Option<f64>>,
}

impl History {
    /// Adds a step, if it is time for one.
    pub(super) fn follow(&mut self, at: Clocks, regions: &[JudgedRegion]) {
        if self.0.back().is_some_and(|last| !is_due(last.at, at)) {
            return;
        }
        if self.0.len() == STEPS {
            self.0.pop_front();
        }
        let known = |region: &JudgedRegion| (region.state != State::Unknown).then(|| region.people.clone());
        let regions = regions.iter().map(known).collect();
        self.0.push_back(Point { at, regions });
    }

    /// The most sessions that a region had at any step.
    pub(super) fn most_sessions(&self, region: usize) -> u64 {
        let regions = self.0.iter().filter_map(|point| point.regions.get(region)?.as_ref());
        regions.map(|region| region.sessions).max().unwrap_or_default()
    }

    /// All steps, for regions with these names.
    pub(super) fn summary(&self, regions: &[JudgedRegion]) -> HistorySummary {
        let region = |(index, region): (usize, &JudgedRegion)| {
            let points = || self.0.iter().map(move |point| point.regions.get(index)?.as_ref());
            RegionHistory {
                region: region.region.clone(),
                sessions: points().map(|point| Some(point?.sessions)).collect(),
                sessions_degraded: points().map(|point| Some(point?.sessions_degraded)).collect(),
                rtt_p50_ms: points().map(|point| point?.rtt_p50_ms).collect(),
                rtt_p95_ms: points().map(|point| point?.rtt_p95_ms).collect(),
            }
        };
        HistorySummary {
            step_seconds: STEP.as_secs(),
            at_unix_seconds: self.0.iter().map(|point| point.at.wall.unix_timestamp()).collect(),
            regions: regions.iter().enumerate().map(region).collect(),
        }
    }
}

/// Whether the next step follows a `last` one. It may come a little early, since looks are not that
/// exact.
pub(super) fn is_due(last: Clocks, at: Clocks) -> bool {
    at.steady.saturating_sub(last.steady) + STEP / 10 >= STEP
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;
    use crate::insight::place::RegionView;
    use crate::insight::state::Threshold;

    fn at(milliseconds: u64) -> Clocks {
        let steady = Duration::from_millis(milliseconds);
        Clocks { wall: OffsetDateTime::UNIX_EPOCH + steady, steady }
    }

    fn region(people: Population) -> JudgedRegion {
        JudgedRegion::new("us".to_owned(), people, RegionView::Current, Threshold::BAD)
    }

    #[test]
    fn there_is_a_step_every_five_seconds_and_the_oldest_go() {
        let mut history = History::default();
        for second in 0..1000_u64 {
            let people = Population { sessions: second, rtt_p95_ms: Some(50.0), ..Population::default() };
            history.follow(at(second * 1_000), &[region(people)]);
        }
        let summary = history.summary(&[region(Population::default())]);
        let seconds = &summary.at_unix_seconds;
        assert_eq!((seconds.len(), seconds[0], seconds[STEPS - 1]), (STEPS, 695, 995));
        assert!(seconds.windows(2).all(|pair| pair[1] - pair[0] == 5));
        let us = &summary.regions[0];
        assert_eq!((us.sessions[0], us.sessions[STEPS - 1]), (Some(695), Some(995)));
        assert_eq!((history.most_sessions(0), history.most_sessions(1)), (995, 0));
        for length in [us.sessions_degraded.len(), us.rtt_p50_ms.len(), us.rtt_p95_ms.len()] {
            assert_eq!(length, STEPS);
        }
        assert_eq!((us.rtt_p50_ms[3], us.rtt_p95_ms[3]), (None, Some(50.0)));
    }

    #[test]
    fn a_step_without_a_current_view_is_a_gap() {
        let mut history = History::default();
        let people = Population { sessions: 40, ..Population::default() };
        history.follow(at(0), &[region(people.clone())]);
        let lost = RegionView::Lost { why: "no contact".to_owned(), since: None };
        history.follow(at(5_000), &[JudgedRegion::new("us".to_owned(), people, lost, Threshold::BAD)]);
        assert_eq!(history.summary(&[region(Population::default())]).regions[0].sessions, [Some(40), None]);
        assert_eq!(history.most_sessions(0), 40);
    }

    #[test]
    fn a_look_that_comes_a_little_early_is_still_a_step() {
        let mut history = History::default();
        for milliseconds in [0, 4_990, 9_000, 9_985] {
            history.follow(at(milliseconds), &[]);
        }
        assert_eq!(history.summary(&[]).at_unix_seconds.len(), 3);
    }
}

//! Triage: whether calls are bad, where, and for how many, for people who have thirty seconds.
//!
//! [`counts`] reads the aggregates and [`sessions`] the session rows; [`summary`] has them judged
//! by [`crate::insight`] and puts the answer together with [`history`]; [`drill`] shows one meeting
//! or session, and [`findings`] says what its numbers mean; [`page`] is the document. `serve` looks
//! at the present, `rewind` at moments of the past.
//!
//! Invariant: what is shown depends on the series and on the looks before, and on no clock: a
//! moment of the past is shown as it was.

mod counts;
mod drill;
mod findings;
mod history;
mod page;
mod sessions;
mod summary;

use std::time::Instant;

use bytes::Bytes;

use counts::Counts;
pub(crate) use drill::{Drill, DrillError};
pub(crate) use history::STEP;
pub use page::PageConfig;
pub(crate) use page::{Document, api, page, problem};
use sessions::{Limits, Walk};
use summary::Look;
pub(crate) use summary::{Fixed, Memory, Summary};

use crate::consume::HealthReport;
use crate::insight::spell::Clocks;
use callsight_fold::DetailLevel;
use callsight_fold::series::aggregates::Aggregates;
use callsight_fold::series::detail::{DetailPlane, DetailStore};

/// The series of some regions, and how they are judged.
pub(crate) struct View {
    pub(crate) aggregates: Aggregates,
    pub(crate) detail: DetailStore,
    pub(crate) fixed: Fixed,
}

impl View {
    /// Reads the series at a moment, which is `now` in Unix seconds on the clock of the streams.
    pub(crate) fn look(
        &self,
        memory: &mut Memory,
        at: Clocks,
        now: f64,
        reports: Vec<HealthReport>,
    ) -> Summary {
        let began = Instant::now();
        let detail = self.fixed.detail != DetailLevel::Off;
        let look = Look {
            began,
            at,
            counts: Counts::read(&self.aggregates, !detail),
            walk: detail.then(|| Walk::through(&self.detail, self.limits(), now)),
            reports,
            live_series: DetailPlane::ALL.map(|plane| self.detail.live_series(plane)).into_iter().sum(),
        };
        memory.take(look, &self.fixed)
    }

    /// Reads one meeting or session, as JSON.
    ///
    /// # Errors
    /// If it is not there, or has no detail.
    pub(crate) fn drill(&self, into: &Drill, now: f64) -> Result<Bytes, DrillError> {
        if self.fixed.detail == DetailLevel::Off {
            return Err(DrillError::NoDetail);
        }
        drill::into(&self.detail, &self.fixed.regions, into, self.limits(), now)
    }

    const fn limits(&self) -> Limits {
        let Fixed { rtt_limit_ms, concealment_limit, loss_limit, .. } = self.fixed;
        Limits { rtt_ms: rtt_limit_ms, concealment: concealment_limit, loss: loss_limit }
    }
}

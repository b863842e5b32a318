//! The state of all calls at a glance: the numbers of the demo's live line.
//!
//! Invariant: taking a glance locks no more than a scrape does.

use std::time::Duration;

use super::Exporter;
use crate::consume::MirrorLag;
use crate::insight::quantile::percentile;
use callsight_fold::series::catalogue::SESSION_RTT;
use callsight_fold::series::detail::DetailPlane;

/// The state of all live sessions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Glance {
    /// Whether every region is complete and current.
    pub ready: bool,
    pub sessions: usize,
    /// Round-trip times at the median, the 95th and the 99th percentile of the live sessions that
    /// have one, each session counted once.
    pub rtt: Option<[Duration; 3]>,
    /// The lag of the region that is furthest behind its stream.
    pub lag: Duration,
}

impl Exporter {
    /// The lag of each consumed mirror behind its region, by region, where it is known.
    #[must_use]
    pub fn mirrors(&self) -> Vec<(String, MirrorLag)> {
        self.regions.iter().filter_map(|region| region.mirror_lag()).collect()
    }

    /// Looks at the live sessions. Round-trip times are those of the sessions that have detail.
    #[must_use]
    pub fn glance(&self) -> Glance {
        let reports: Vec<_> = self.regions.iter().map(|region| region.report(self.ready_max_lag)).collect();
        let rows = self.detail.snapshot(DetailPlane::Session);
        let mut rtts: Vec<f64> = rows.iter().filter_map(|row| row.number(&SESSION_RTT, 0.0)).collect();
        let lag = reports.iter().filter_map(|report| report.lag_seconds).fold(0.0, f64::max);
        Glance {
            ready: reports.iter().all(|report| report.ready),
            sessions: reports.iter().map(|report| report.live_sessions).sum(),
            rtt: (!rtts.is_empty()).then(|| {
                [50, 95, 99].map(|percent| {
                    Duration::from_secs_f64(percentile(&mut rtts, percent).unwrap_or_default())
                })
            }),
            lag: Duration::from_secs_f64(lag),
        }
    }
}

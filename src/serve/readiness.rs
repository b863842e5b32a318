//! The answer of `/readyz`, for the server that writes it and for a rollout that reads it.
//!
//! Invariant: writer and reader share one type, so a field that is renamed is renamed for both.

use crate::consume::HealthReport;

/// The JSON of `/readyz`.
#[derive(serde::Serialize, serde::Deserialize)]
pub(crate) struct ReadinessReport {
    /// Whether all regions are ready; the status says the same.
    pub(crate) ready: bool,
    /// Which of several exporters side by side answers. `None` if what answers does not say.
    pub(crate) deployment: Option<String>,
    /// What is wrong although the exporter may be ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) warnings: Vec<String>,
    /// The regions that are served.
    pub(crate) regions: Vec<HealthReport>,
}

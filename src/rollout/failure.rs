//! Why a step of a deployment fails.

use super::certificate::CertificateError;
use super::cluster::{CutShort, ToolError};
use super::exporters::ExporterError;
use super::retire::RetireError;
use crate::http_client::HttpError;
use crate::nats::NatsError;

#[derive(Debug, thiserror::Error)]
pub(super) enum StepError {
    #[error(transparent)]
    Cut(#[from] CutShort),
    #[error(transparent)]
    Tool(#[from] ToolError),
    #[error(transparent)]
    Exporter(#[from] ExporterError),
    #[error(transparent)]
    Retire(#[from] RetireError),
    #[error(transparent)]
    Nats(#[from] NatsError),
    #[error("no answer from the NATS server at {at}")]
    Monitor { at: String, source: HttpError },
    #[error("certificate {which}")]
    Certificate { which: String, source: CertificateError },
    #[error("{0}")]
    Gate(String),
}

/// Fails a step for this reason.
pub(super) fn refuse<T>(why: impl Into<String>) -> Result<T, StepError> {
    Err(StepError::Gate(why.into()))
}

//! Requests to the API of JetStream.
//!
//! The client's own calls drop what their types have no field for, such as the server's time. Here
//! the caller says which type an answer has.

use async_nats::jetstream::context::RequestError;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::{Context, Error, ErrorCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why a request has no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error("{0}")]
    Refused(Error),
    #[error("{0}")]
    Unanswered(RequestError),
}

impl AskError {
    pub(crate) fn is(&self, code: ErrorCode) -> bool {
        matches!(self, Self::Refused(error) if error.error_code() == code)
    }
}

/// Sends a request and waits for its answer. `subject` lacks the API's prefix.
pub(crate) async fn ask<T: DeserializeOwned>(
    context: &Context,
    subject: String,
    request: &impl Serialize,
) -> Result<T, AskError> {
    match context.request(subject, request).await {
        Ok(Response::Ok(answer)) => Ok(answer),
        Ok(Response::Err { error }) => Err(AskError::Refused(error)),
        Err(error) => Err(AskError::Unanswered(error)),
    }
}

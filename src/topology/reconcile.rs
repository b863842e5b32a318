//! Asking the server what is there, and making it what is declared.
//!
//! JetStream's own API is asked, not the client's types: they would drop the keys that they don't know, and an update
//! replaces a whole configuration. Any server of a super-cluster will do, for the request finds its way to the leader
//! of the meta group. While there is none, and just after a start, nobody answers: that is waited for.

use std::time::Duration;

use async_nats::jetstream::{Context, ErrorCode};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::{Instant, sleep, timeout_at};

use super::declare::{Declared, Name};
use super::plan::{Action, Running, Step};
use crate::jetstream_api::{AskError, ask};

/// How long to wait before asking again.
const AGAIN: Duration = Duration::from_millis(500);

/// The status of an API that is not available at the moment.
const UNAVAILABLE: usize = 503;

/// Why the server has not done what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// Nobody answers.
    #[error(
        "JetStream does not answer about {name}: {reason}; check --nats-url, that JetStream is enabled, that most of \
         its servers are up, and that the user may publish to $JS.API.>"
    )]
    Unanswered {
        /// What was asked about.
        name: Name,
        /// What came instead of an answer.
        reason: String,
    },
    /// It says no.
    #[error("the server refuses {name}: {reason}")]
    Refused {
        /// What it was asked for.
        name: Name,
        /// In its own words.
        reason: String,
    },
}

/// A JetStream to be compared with what is declared.
#[derive(Clone, Debug)]
pub struct Reconciler {
    context: Context,
    patience: Duration,
}

impl Reconciler {
    /// For a connection that may still have to be made; `patience` is how long an answer is waited for.
    #[must_use]
    pub fn new(context: Context, patience: Duration) -> Self {
        Self { context, patience }
    }

    /// What it takes to make all of it what is declared, in the order in which it is to be done.
    ///
    /// # Errors
    /// [`ReconcileError`] when the server does not say what is there.
    pub async fn plan(
        &self,
        declared: &[Declared],
        allow_destructive: bool,
    ) -> Result<Vec<Step>, ReconcileError> {
        let mut steps = Vec::with_capacity(declared.len());
        for one in declared {
            let running = self.running(&one.name).await?;
            steps.push(Step::new(one, running.as_ref(), allow_destructive));
        }
        // A mirror takes over some of its stream's settings if that is there.
        steps.sort_by_key(|step| match step.name {
            Name::Stream(_) => step.config.contains_key("mirror").into(),
            Name::Consumer { .. } => 2_u8,
        });
        Ok(steps)
    }

    /// Does a step, unless it is refused or there is nothing to do.
    ///
    /// # Errors
    /// [`ReconcileError`] when the server does not do it.
    pub async fn apply(&self, step: &Step) -> Result<(), ReconcileError> {
        let create = match step.action {
            Action::Create => true,
            Action::Change => false,
            Action::Same | Action::Refused => return Ok(()),
        };
        let (subject, body) = match &step.name {
            Name::Stream(stream) => {
                let verb = if create { "CREATE" } else { "UPDATE" };
                (format!("STREAM.{verb}.{stream}"), json!(step.config))
            }
            Name::Consumer { stream, durable } => {
                let action = if create { "create" } else { "update" };
                (
                    format!("CONSUMER.CREATE.{stream}.{durable}"),
                    json!({"stream_name": stream, "config": step.config, "action": action}),
                )
            }
        };
        match self.ask(&step.name, subject, &body).await? {
            Ok(_) => Ok(()),
            Err((_, reason)) => Err(ReconcileError::Refused { name: step.name.clone(), reason }),
        }
    }

    async fn running(&self, name: &Name) -> Result<Option<Running>, ReconcileError> {
        let subject = match name {
            Name::Stream(stream) => format!("STREAM.INFO.{stream}"),
            Name::Consumer { stream, durable } => format!("CONSUMER.INFO.{stream}.{durable}"),
        };
        match self.ask(name, subject, &json!({})).await? {
            Ok(mut answer) => {
                let config = match answer.get_mut("config").map(Value::take) {
                    Some(Value::Object(config)) => config,
                    _ => Map::new(),
                };
                let state = &answer["state"];
                let number = |key: &str| state[key].as_u64().unwrap_or_default();
                Ok(Some(Running {
                    config,
                    messages: number("messages"),
                    bytes: number("bytes"),
                    oldest: moment(&state["first_ts"]),
                    cluster: answer["cluster"]["name"].as_str().map(str::to_owned),
                    now: moment(&answer["ts"]).unwrap_or_else(OffsetDateTime::now_utc),
                }))
            }
            Err((ErrorCode::STREAM_NOT_FOUND | ErrorCode::CONSUMER_NOT_FOUND, _)) => Ok(None),
            Err((_, reason)) => Err(ReconcileError::Refused { name: name.clone(), reason }),
        }
    }

    /// The server's answer, whatever it says, unless it says that it can't answer now for as long as there is patience.
    async fn ask(
        &self,
        name: &Name,
        subject: String,
        question: &Value,
    ) -> Result<Result<Value, (ErrorCode, String)>, ReconcileError> {
        let end = Instant::now() + self.patience;
        let mut reason = "no connection".to_owned();
        loop {
            // The client waits for a server that is away, and a request that was cut off is never answered.
            match timeout_at(end, ask(&self.context, subject.clone(), question)).await {
                Ok(Ok(answer)) => return Ok(Ok(answer)),
                Ok(Err(AskError::Refused(error))) if error.code() != UNAVAILABLE => {
                    return Ok(Err((error.error_code(), error.to_string())));
                }
                Ok(Err(error)) => reason = error.to_string(),
                Err(_) => {}
            }
            if Instant::now() + AGAIN >= end {
                return Err(ReconcileError::Unanswered { name: name.clone(), reason });
            }
            sleep(AGAIN).await;
        }
    }
}

fn moment(value: &Value) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(value.as_str()?, &Rfc3339).ok()
}

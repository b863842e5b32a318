//! The reconciler: asks the server what exists, and applies steps.
//!
//! It uses JetStream's API directly, since an update replaces a whole configuration and the
//! client's types drop unknown keys. Any server of a super-cluster can be asked: requests are
//! routed to the leader of the meta group. Without a leader, as just after a start, nobody answers,
//! so requests are repeated for a while.
//!
//! Invariant: keys that a declaration does not have keep their values on the server.

use std::time::Duration;

use async_nats::Client;
use async_nats::connection::State;
use async_nats::jetstream::{self, Context, ErrorCode};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::error::Format;
use time::format_description::well_known::Rfc3339;
use tokio::time::{Instant, sleep, timeout_at};

use super::capacity::Traffic;
use super::change::Running;
use super::declare::{Declared, Name};
use super::plan::{Action, Step};
use crate::jetstream_api::{AskError, ask};

/// Pause before a request is repeated.
const AGAIN: Duration = Duration::from_millis(500);

/// Status of an API that is temporarily unavailable.
const UNAVAILABLE: usize = 503;

/// The error of a request to JetStream.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    #[error("no connection to NATS within {}; check --nats-url, and that the server accepts the user",
        humantime::format_duration(*.0))]
    Unreachable(Duration),
    #[error(
        "connected to NATS, but JetStream does not answer about {name} within {}; check that a majority of its servers \
         is up, since they need a leader, and that the user may publish to $JS.API.> and subscribe to its inbox",
        humantime::format_duration(*.waited)
    )]
    Silent {
        /// The stream or durable in question.
        name: Name,
        waited: Duration,
    },
    #[error(
        "JetStream cannot answer about {name}: {reason}; check that JetStream is enabled, and that a majority of its \
         servers is up"
    )]
    Unable {
        /// The stream or durable in question.
        name: Name,
        reason: String,
    },
    #[error("the server rejects {name}: {reason}")]
    Refused {
        /// The stream or durable in question.
        name: Name,
        reason: String,
    },
    #[error(
        "{durable} can't be made: stream {stream} does not exist; run `callsight streams apply` with its declaration"
    )]
    NoStream { durable: Name, stream: String },
    #[error(
        "{durable} can't be made: the server's time {now} can't be written: {reason}; set its clock right"
    )]
    Clock { durable: Name, now: OffsetDateTime, reason: Format },
}

/// Compares a JetStream with declarations, and changes it.
#[derive(Clone, Debug)]
pub struct Reconciler {
    client: Client,
    context: Context,
    patience: Duration,
}

impl Reconciler {
    /// Creates a reconciler. The connection need not be established yet; `patience` is the time to
    /// wait for an answer.
    #[must_use]
    pub fn new(client: Client, patience: Duration) -> Self {
        Self { context: jetstream::new(client.clone()), client, patience }
    }

    /// Returns the steps that make everything as declared, in the order in which to apply them.
    ///
    /// # Errors
    /// [`ReconcileError`] when the server does not answer or rejects a request.
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
        steps.sort_by_key(|step| match step.name {
            // A filter lets new subjects through before the stream takes the first frame of them.
            Name::Consumer { .. } if step.action == Action::Change => 0_u8,
            // A mirror inherits settings from its stream if that exists.
            Name::Stream(_) => 1 + u8::from(step.config.contains_key("mirror")),
            Name::Consumer { .. } => 3,
        });
        Ok(steps)
    }

    /// Applies a step, unless it is refused or there is nothing to do.
    ///
    /// # Errors
    /// [`ReconcileError`] when the server does not answer or rejects the request.
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
                let mut config = step.config.clone();
                if create {
                    self.begin_now(&step.name, stream, &mut config).await?;
                }
                (
                    format!("CONSUMER.CREATE.{stream}.{durable}"),
                    json!({"stream_name": stream, "config": config, "action": action}),
                )
            }
        };
        self.ask(&step.name, subject, &body, &[]).await.map(drop)
    }

    /// Lets a durable that is to begin with the next frame begin at this moment instead. The server
    /// can reset only such a durable to a sequence, which an exporter needs after its stream was
    /// set back.
    async fn begin_now(
        &self,
        durable: &Name,
        stream: &str,
        config: &mut Map<String, Value>,
    ) -> Result<(), ReconcileError> {
        if config.get("deliver_policy").and_then(Value::as_str) != Some("new") {
            return Ok(());
        }
        let durable = || durable.clone();
        let Some(Running { now, .. }) = self.running(&Name::Stream(stream.to_owned())).await? else {
            return Err(ReconcileError::NoStream { durable: durable(), stream: stream.to_owned() });
        };
        begin_at(now, config).map_err(|reason| ReconcileError::Clock { durable: durable(), now, reason })
    }

    async fn running(&self, name: &Name) -> Result<Option<Running>, ReconcileError> {
        let subject = match name {
            Name::Stream(stream) => format!("STREAM.INFO.{stream}"),
            Name::Consumer { stream, durable } => format!("CONSUMER.INFO.{stream}.{durable}"),
        };
        let absent = [ErrorCode::STREAM_NOT_FOUND, ErrorCode::CONSUMER_NOT_FOUND];
        let Some(answer) = self.ask(name, subject, &json!({}), &absent).await? else { return Ok(None) };
        let state = &answer["state"];
        let number = |key: &str| state[key].as_u64().unwrap_or_default();
        Ok(Some(Running {
            config: answer["config"].as_object().cloned().unwrap_or_default(),
            messages: number("messages"),
            bytes: number("bytes"),
            last_sequence: number("last_seq"),
            oldest: moment(&state["first_ts"]),
            cluster: answer["cluster"]["name"].as_str().map(str::to_owned),
            now: moment(&answer["ts"]).unwrap_or_else(OffsetDateTime::now_utc),
        }))
    }

    /// Measures what a stream has received lately; `None` if that is too little to say.
    ///
    /// # Errors
    /// [`ReconcileError`] when the server does not answer or rejects a request.
    pub async fn traffic(&self, name: &Name) -> Result<Option<Traffic>, ReconcileError> {
        let (Name::Stream(stream), Some(running)) = (name, self.running(name).await?) else {
            return Ok(None);
        };
        let Ok(since) = (running.now - Traffic::WINDOW).format(&Rfc3339) else { return Ok(None) };
        let (subject, first) = (format!("STREAM.MSG.GET.{stream}"), json!({"start_time": since}));
        let nothing_since = [ErrorCode::NO_MESSAGE_FOUND];
        let Some(answer) = self.ask(name, subject, &first, &nothing_since).await? else { return Ok(None) };
        let first = &answer["message"];
        let began = first["seq"].as_u64().zip(moment(&first["time"]));
        Ok(began.and_then(|(sequence, time)| Traffic::since(&running, sequence, time)))
    }

    /// Sends a request until the server answers it, or the patience is exhausted. Returns `None` if
    /// the answer is an error with one of the codes in `absent`.
    async fn ask(
        &self,
        name: &Name,
        subject: String,
        question: &Value,
        absent: &[ErrorCode],
    ) -> Result<Option<Value>, ReconcileError> {
        let end = Instant::now() + self.patience;
        let mut reason = None;
        loop {
            // The client waits for an absent server, and an interrupted request is never answered.
            match timeout_at(end, ask(&self.context, subject.clone(), question)).await {
                Ok(Ok(answer)) => return Ok(Some(answer)),
                Ok(Err(error)) if absent.iter().any(|code| error.is(*code)) => return Ok(None),
                Ok(Err(AskError::Refused(error))) if error.code() != UNAVAILABLE => {
                    return Err(ReconcileError::Refused { name: name.clone(), reason: error.to_string() });
                }
                Ok(Err(error)) => reason = Some(error.to_string()),
                Err(_) => {}
            }
            if Instant::now() + AGAIN >= end {
                let (name, waited) = (name.clone(), self.patience);
                let connected = self.client.connection_state() == State::Connected;
                return Err(match reason {
                    _ if !connected => ReconcileError::Unreachable(waited),
                    None => ReconcileError::Silent { name, waited },
                    Some(reason) => ReconcileError::Unable { name, reason },
                });
            }
            sleep(AGAIN).await;
        }
    }
}

fn moment(value: &Value) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(value.as_str()?, &Rfc3339).ok()
}

fn begin_at(time: OffsetDateTime, config: &mut Map<String, Value>) -> Result<(), Format> {
    let time = time.format(&Rfc3339)?;
    config.insert("deliver_policy".to_owned(), "by_start_time".into());
    config.insert("opt_start_time".to_owned(), time.into());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_can_not_be_written_is_an_error() {
        let mut config = Map::new();
        let before_christ = OffsetDateTime::UNIX_EPOCH.replace_year(-1).unwrap();
        assert!(begin_at(before_christ, &mut config).is_err());
        assert!(config.is_empty());
        begin_at(OffsetDateTime::UNIX_EPOCH, &mut config).unwrap();
        assert_eq!(config["opt_start_time"], "1970-01-01T00:00:00Z");
        assert_eq!(config["deliver_policy"], "by_start_time");
    }
}

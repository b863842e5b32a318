//! Deleting the durable of a colour that is gone.
//!
//! A durable that nobody reads any more keeps its place for ever: started again, the colour would be hours behind, and
//! until then the stream's monitoring shows a consumer that hangs. Deleted too early, frames that the colour had not
//! folded are counted by nobody. So it goes only when the other colour is what the service leads to and ready, and its
//! own reader is gone, which the server knows best: no pull request waits, and nothing is delivered any more.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{ConsumerInfoErrorKind, GetStreamErrorKind};
use async_nats::jetstream::stream::Stream;
use async_nats::jetstream::{Context, consumer};
use futures_util::TryStreamExt;

use super::colour::{Colour, ColourError};
use crate::topology::{Deployment, stream_name};
use callsight_frame::subject::Region;

/// How often a durable that is still read is looked at again.
const PAUSE: Duration = Duration::from_millis(500);

/// How long the server may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// What to retire.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Retirement {
    /// The old colour.
    pub(crate) deployment: Deployment,
    /// The regions whose streams have its durables.
    pub(crate) regions: Vec<Region>,
    /// How long to wait for its last pull requests to run out.
    pub(crate) timeout: Duration,
}

/// Why a durable stays.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RetireError {
    /// What the service leads to does not answer.
    #[error("nothing is deleted while what is active can't be asked")]
    Active(#[from] ColourError),
    /// The service still leads to the old colour.
    #[error("{0} is still active: promote the other colour first")]
    StillActive(Deployment),
    /// What is active does not say which colour it is.
    #[error(
        "what answers at the active address does not say which deployment it is: is it a callsight exporter?"
    )]
    Nameless,
    /// The new colour is not ready.
    #[error("{active} is active and not ready, so {retiring} may be needed again: {why}")]
    NotReady {
        /// Who is active.
        active: String,
        /// Who would go.
        retiring: Deployment,
        /// What it says.
        why: String,
    },
    /// The old colour still reads.
    #[error("{durable} of stream {stream} is still read ({what}): stop its exporter first")]
    StillRead {
        /// The durable.
        durable: String,
        /// Its stream.
        stream: String,
        /// How it shows.
        what: String,
    },
    /// NATS refuses, or does not answer.
    #[error("cannot {doing} of stream {stream}")]
    Nats {
        /// What was tried.
        doing: String,
        /// The stream.
        stream: String,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A durable that is gone now.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Deleted {
    /// Its stream.
    pub(crate) stream: String,
    /// Its name.
    pub(crate) durable: String,
}

/// That the service leads to another colour than the one to be retired, and that this one is ready.
///
/// # Errors
/// [`RetireError`] when it does not.
pub(crate) async fn check_active(active: &Colour, retiring: &Deployment) -> Result<(), RetireError> {
    let readiness = active.readiness().await?;
    let names: Vec<_> = readiness.deployments.iter().map(String::as_str).collect();
    if names.is_empty() {
        return Err(RetireError::Nameless);
    }
    if names.contains(&retiring.as_str()) {
        return Err(RetireError::StillActive(retiring.clone()));
    }
    if !readiness.why_not.is_empty() {
        let why = readiness.why_not.join("; ");
        return Err(RetireError::NotReady { active: names.join(", "), retiring: retiring.clone(), why });
    }
    Ok(())
}

/// Deletes the durables of a colour that nothing reads; gives those that were there. A second time it finds none.
///
/// # Errors
/// [`RetireError`] at the first that is still read; others may be gone by then.
pub(crate) async fn delete_durables(
    context: &Context,
    retirement: &Retirement,
) -> Result<Vec<Deleted>, RetireError> {
    let end = tokio::time::Instant::now() + retirement.timeout;
    let mut idle = Vec::new();
    // All of them are looked at before the first one goes: either the colour is gone, or it isn't.
    for region in &retirement.regions {
        let name = stream_name(region);
        let Some(stream) = stream(context, &name).await? else { continue };
        for durable in durables(&stream, &name, &retirement.deployment).await? {
            wait_until_idle(&stream, &name, &durable, end).await?;
            idle.push((stream.clone(), Deleted { stream: name.clone(), durable }));
        }
    }
    let mut deleted = Vec::new();
    for (stream, durable) in idle {
        let gone = answered(stream.delete_consumer(&durable.durable)).await;
        gone.map_err(|source| refused(format!("delete {}", durable.durable), &durable.stream, source))?;
        tracing::info!(stream = durable.stream, durable = durable.durable, "durable deleted");
        deleted.push(durable);
    }
    Ok(deleted)
}

/// A stream, unless there is none.
async fn stream(context: &Context, name: &str) -> Result<Option<Stream>, RetireError> {
    match tokio::time::timeout(ANSWER_WITHIN, context.get_stream(name)).await {
        Ok(Ok(stream)) => Ok(Some(stream)),
        Ok(Err(error)) => match error.kind() {
            GetStreamErrorKind::JetStream(ref refusal)
                if refusal.error_code() == ErrorCode::STREAM_NOT_FOUND =>
            {
                Ok(None)
            }
            _ => Err(refused("look".to_owned(), name, error)),
        },
        Err(slow) => Err(refused("look".to_owned(), name, slow)),
    }
}

/// The durables of a deployment: one, and with shards one for each.
async fn durables(
    stream: &Stream,
    name: &str,
    deployment: &Deployment,
) -> Result<BTreeSet<String>, RetireError> {
    let durable = deployment.durable();
    let names: Vec<String> = answered(stream.consumer_names().try_collect())
        .await
        .map_err(|source| refused("list the consumers".to_owned(), name, source))?;
    let is_its = |name: &String| {
        name.strip_prefix(&durable).is_some_and(|rest| {
            let shard = rest.strip_prefix('-').unwrap_or_default();
            rest.is_empty() || !shard.is_empty() && shard.bytes().all(|byte| byte.is_ascii_digit())
        })
    };
    Ok(names.into_iter().filter(is_its).collect())
}

/// Waits for the last pull requests of a dead exporter to run out, which takes seconds.
async fn wait_until_idle(
    stream: &Stream,
    name: &str,
    durable: &str,
    end: tokio::time::Instant,
) -> Result<(), RetireError> {
    let look = async || -> Result<Option<consumer::Info>, RetireError> {
        match tokio::time::timeout(ANSWER_WITHIN, stream.consumer_info(durable)).await {
            Ok(Ok(info)) => Ok(Some(info)),
            Ok(Err(error)) if error.kind() == ConsumerInfoErrorKind::NotFound => Ok(None),
            Ok(Err(error)) => Err(refused(format!("look at {durable}"), name, error)),
            Err(slow) => Err(refused(format!("look at {durable}"), name, slow)),
        }
    };
    let mut before: Option<consumer::Info> = None;
    loop {
        let Some(info) = look().await? else { return Ok(()) };
        let delivered = info.delivered.consumer_sequence;
        let moved = before.as_ref().is_none_or(|before| before.delivered.consumer_sequence != delivered);
        if info.num_waiting == 0 && !moved {
            return Ok(());
        }
        if tokio::time::Instant::now() + PAUSE > end && before.is_some() {
            let what = match info.num_waiting {
                0 => "frames are being delivered".to_owned(),
                1 => "1 pull request waits".to_owned(),
                waiting => format!("{waiting} pull requests wait"),
            };
            return Err(RetireError::StillRead {
                durable: durable.to_owned(),
                stream: name.to_owned(),
                what,
            });
        }
        before = Some(info);
        tokio::time::sleep(PAUSE).await;
    }
}

async fn answered<T, E: std::error::Error + Send + Sync + 'static>(
    asked: impl Future<Output = Result<T, E>>,
) -> Result<T, Box<dyn std::error::Error + Send + Sync>> {
    match tokio::time::timeout(ANSWER_WITHIN, asked).await {
        Ok(answer) => answer.map_err(Into::into),
        Err(slow) => Err(slow.into()),
    }
}

fn refused(
    doing: String,
    stream: &str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> RetireError {
    RetireError::Nats { doing, stream: stream.to_owned(), source: source.into() }
}

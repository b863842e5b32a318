//! Deletes the durables of a colour that has stopped.
//!
//! A durable that nothing reads keeps its position for ever: a colour that starts again would be
//! hours behind, and until then monitoring shows a consumer that hangs. A durable that is deleted
//! too early loses the frames that only its colour would have folded.
//!
//! Invariant: a durable is deleted only while the service leads to another colour that is ready,
//! and when the NATS server shows no reader of it: no pull request waits and nothing is delivered.

use std::collections::BTreeSet;
use std::error::Error;
use std::time::Duration;

use async_nats::jetstream::context::{ConsumerInfoErrorKind, GetStreamError, GetStreamErrorKind};
use async_nats::jetstream::stream::Stream;
use async_nats::jetstream::{Context, ErrorCode};
use futures_util::TryStreamExt;
use tokio::time::{Instant, timeout_at};

use super::exporters::{ExporterError, Exporters};
use crate::config::{NatsConfig, within_an_hour};
use crate::insight::words;
use crate::nats::{self, NatsError};
use crate::topology::{Deployment, stream_name};
use callsight_frame::subject::Region;

/// What messages call the exporters behind the service.
pub(crate) const ACTIVE: &str = "the active exporter";

/// How often a durable that is still read is checked again.
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Clone, Debug, PartialEq, clap::Args)]
#[command(next_help_heading = "What")]
pub(crate) struct Retirement {
    /// Deployment whose durables to delete, such as `blue`
    #[arg(long, value_name = "NAME", required = true)]
    pub(crate) deployment: Deployment,

    /// Region whose stream has the durables.
    ///
    /// Separate several with commas or repeat the flag.
    #[arg(long = "region", value_name = "REGION", value_delimiter = ',', required = true)]
    pub(crate) regions: Vec<Region>,

    /// Give up after this long, from 1s to 1h; the old exporter's last pull requests take up to 10s
    /// to expire
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = within_an_hour)]
    pub(crate) timeout: Duration,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum RetireError {
    #[error("nothing is deleted while the active exporter can't be asked")]
    Active(#[from] ExporterError),
    #[error("{0}")]
    Needed(String),
    #[error("{who} did not answer within the {} of --timeout", humantime::format_duration(*.within))]
    Slow { who: &'static str, within: Duration },
    #[error(transparent)]
    Connect(#[from] NatsError),
    #[error("cannot {doing} of stream {stream}")]
    Nats { doing: String, stream: String, source: Box<dyn Error + Send + Sync> },
}

/// A durable that was deleted.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct DeletedDurable {
    pub(crate) stream: String,
    pub(crate) durable: String,
}

/// Deletes the durables of a deployment and returns them, once `active` shows that another one
/// serves; none if they were deleted before.
///
/// # Errors
/// [`RetireError`]; none is deleted if one is still read.
pub(crate) async fn retire(
    active: &Exporters,
    nats: &NatsConfig,
    retirement: &Retirement,
) -> Result<Vec<DeletedDurable>, RetireError> {
    let end = Instant::now() + retirement.timeout;
    let slow = |who| move |_| RetireError::Slow { who, within: retirement.timeout };
    timeout_at(end, check_active(active, &retirement.deployment)).await.map_err(slow(ACTIVE))??;
    let context = async_nats::jetstream::new(nats::connect(nats, "callsight rollout").await?);
    timeout_at(end, delete_durables(&context, retirement, end)).await.map_err(slow("NATS"))?
}

/// Verifies that the service leads to another deployment than the one that retires, and that this
/// one is ready.
async fn check_active(active: &Exporters, retiring: &Deployment) -> Result<(), RetireError> {
    let readiness = active.readiness().await?;
    let names: Vec<_> = readiness.deployments.iter().map(String::as_str).collect();
    let why = if names.is_empty() {
        "what answers at the active address does not say which deployment it is: is it a callsight exporter?"
            .to_owned()
    } else if names.contains(&retiring.as_str()) {
        format!("{retiring} is still active: promote the other colour first")
    } else if !readiness.why_not.is_empty() {
        let (active, why) = (names.join(", "), readiness.why_not.join("; "));
        format!("{active} is active but not ready, so {retiring} may be needed again: {why}")
    } else {
        return Ok(());
    };
    Err(RetireError::Needed(why))
}

async fn delete_durables(
    context: &Context,
    retirement: &Retirement,
    end: Instant,
) -> Result<Vec<DeletedDurable>, RetireError> {
    let mut idle = Vec::new();
    // All are checked before the first one is deleted: a colour has stopped as a whole or not at
    // all.
    for region in &retirement.regions {
        let name = stream_name(region);
        let Some(stream) = stream(context, &name).await? else { continue };
        for durable in durables(&stream, &name, &retirement.deployment).await? {
            wait_until_idle(&stream, &name, &durable, end).await?;
            idle.push((stream.clone(), DeletedDurable { stream: name.clone(), durable }));
        }
    }
    let mut deleted = Vec::new();
    for (stream, durable) in idle {
        let done = stream.delete_consumer(&durable.durable).await;
        done.map_err(failed(&format!("delete {}", durable.durable), &durable.stream))?;
        tracing::info!(stream = durable.stream, durable = durable.durable, "durable deleted");
        deleted.push(durable);
    }
    Ok(deleted)
}

/// A stream; `None` if it does not exist.
async fn stream(context: &Context, name: &str) -> Result<Option<Stream>, RetireError> {
    let is_missing = |error: &GetStreamError| match error.kind() {
        GetStreamErrorKind::JetStream(refusal) => refusal.error_code() == ErrorCode::STREAM_NOT_FOUND,
        _ => false,
    };
    match context.get_stream(name).await {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(failed("get the configuration", name)(error)),
    }
}

/// The durables of a deployment: its own, and those of its shards, which end in `-2of3`.
async fn durables(
    stream: &Stream,
    name: &str,
    deployment: &Deployment,
) -> Result<BTreeSet<String>, RetireError> {
    let durable = deployment.durable();
    let names: Vec<String> =
        stream.consumer_names().try_collect().await.map_err(failed("list the consumers", name))?;
    let is_shard = |rest: &str| {
        let shard = rest.strip_prefix('-').and_then(|shard| shard.split_once("of"));
        shard.is_some_and(|(number, of)| [number, of].iter().all(|digits| digits.parse::<u32>().is_ok()))
    };
    let is_its =
        |name: &String| name.strip_prefix(&durable).is_some_and(|rest| rest.is_empty() || is_shard(rest));
    Ok(names.into_iter().filter(is_its).collect())
}

/// Waits for the last pull requests of a stopped exporter to expire, which takes seconds.
async fn wait_until_idle(
    stream: &Stream,
    name: &str,
    durable: &str,
    end: Instant,
) -> Result<(), RetireError> {
    let mut delivered_before = None;
    loop {
        let info = match stream.consumer_info(durable).await {
            Ok(info) => info,
            Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(&format!("get the state of {durable}"), name)(error)),
        };
        let delivered = Some(info.delivered.consumer_sequence);
        if info.num_waiting == 0 && delivered == delivered_before {
            return Ok(());
        }
        if Instant::now() + PAUSE > end && delivered_before.is_some() {
            let what = match info.num_waiting {
                0 => "frames are being delivered".to_owned(),
                waiting => format!("{} waiting", words::plural(waiting as u64, "pull request")),
            };
            return Err(RetireError::Needed(format!(
                "{durable} of stream {name} is still read ({what}): stop its exporter first"
            )));
        }
        delivered_before = delivered;
        tokio::time::sleep(PAUSE).await;
    }
}

/// Wraps the error of a request to JetStream, which the client ends in time.
fn failed<E: Error + Send + Sync + 'static>(doing: &str, stream: &str) -> impl FnOnce(E) -> RetireError {
    move |error| RetireError::Nats {
        doing: doing.to_owned(),
        stream: stream.to_owned(),
        source: error.into(),
    }
}

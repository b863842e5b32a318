//! Restoring live sessions after a restart.
//!
//! A restart forgets every session, and each would be missing until its client's next frame: a hole in every
//! graph, just when a rollout wants to be judged. But the stream has the frames. Those of the last idle
//! timeout, up to what was acknowledged before, are read again for their gauges and watermarks alone: they
//! have been counted. From there the durable consumer goes on, with what has not.

use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::{Ordered, OrderedConfig};
use time::OffsetDateTime;

use callsight_fold::StreamTime;

/// How long the server may take to send the next of the frames that it has.
pub(super) const NEXT_WITHIN: Duration = Duration::from_secs(5);

/// The frames of a stream from a moment on, in order, and how many there are: those under some subjects, or all.
pub(super) async fn frames_since(
    context: &Context,
    stream: &str,
    filter_subjects: Vec<String>,
    since: StreamTime,
) -> Result<(Ordered, u64), String> {
    let start_time = OffsetDateTime::from_unix_timestamp_nanos(since.unix_nanos())
        .map_err(|error| format!("the server's clock can't be right: {error}"))?;
    let config = OrderedConfig {
        description: Some("Callsight exporter, restoring live sessions".to_owned()),
        filter_subjects,
        deliver_policy: DeliverPolicy::ByStartTime { start_time },
        ..OrderedConfig::default()
    };
    let consumer = context
        .create_consumer_on_stream(config, stream)
        .await
        .map_err(|error| format!("live sessions can't be restored: {error}"))?;
    let frames = consumer.cached_info().num_pending;
    let messages =
        consumer.messages().await.map_err(|error| format!("live sessions can't be restored: {error}"))?;
    Ok((messages, frames))
}

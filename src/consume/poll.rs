//! Polls the server for what deliveries do not say.
//!
//! Invariant: the requests of a poll are sent after the poll before was handled.

use std::time::Duration;

use async_nats::jetstream::Context;
use futures_util::{Stream, stream};
use tokio::time::{MissedTickBehavior, interval};

use super::clock::Reading;
use super::server_state::{ConsumerState, StreamState, consumer_state, stream_state};
use crate::jetstream_api::AskError;

/// How often the consumer's state and the server's time are polled, unless less lag is allowed.
pub(super) const POLL: Duration = Duration::from_secs(2);

/// The server's state at a poll. The stream's is missing when it can't be had.
pub(super) struct Poll {
    pub(super) state: ConsumerState,
    pub(super) reading: Reading,
    pub(super) stream: Option<StreamState>,
}

/// Polls at once and then at this interval.
pub(super) fn polls(
    context: Context,
    stream: String,
    durable: String,
    every: Duration,
) -> impl Stream<Item = Result<Poll, AskError>> {
    let mut every = interval(every);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    stream::unfold((context, stream, durable, every), |(context, stream, durable, mut every)| async move {
        every.tick().await;
        let (consumer, found) =
            tokio::join!(consumer_state(&context, &stream, &durable), stream_state(&context, &stream));
        let mut found = found.ok();
        if let Some(found) = &mut found {
            found.ask_origin(&context).await;
        }
        let poll = consumer.map(|(state, reading)| Poll { state, reading, stream: found });
        Some((poll, (context, stream, durable, every)))
    })
}

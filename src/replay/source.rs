//! Feeds what a stream held during a window to the fold, in portions.

use std::time::Duration;

use async_nats::jetstream::Context;
use tokio::sync::mpsc;

use super::window::rfc3339;
use crate::stream_reader::{Extent, Part, ReadError, Record, StreamReader, start_at};
use callsight_fold::StreamTime;

/// How many portions may wait for the fold.
pub(super) const CHUNKS: usize = 8;

/// How long the server may be away before the replay fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// Describes what a stream holds, for people.
pub(super) fn describe(extent: &Extent) -> String {
    let stream = &extent.stream;
    match extent.held {
        None => format!("{stream} is empty"),
        Some((first, last)) => {
            format!("{stream} holds frames from {} to {}", rfc3339(first), rfc3339(last))
        }
    }
}

/// Sends all messages that the stream stored from `since` to `until` and had in `extent`, in
/// portions, and the error that ended the reading, if one did. Ends early when the receiver is
/// dropped.
pub async fn read(
    context: Context,
    extent: Extent,
    since: StreamTime,
    until: StreamTime,
    sender: mpsc::Sender<Result<Vec<Record>, ReadError>>,
) {
    if extent.held.is_none_or(|(_, last)| last < since) {
        return;
    }
    let part = Part {
        stream: extent.stream,
        subjects: Vec::new(),
        start: start_at(since),
        last_sequence: extent.last_sequence,
        until: Some(until),
        gapless: true,
        description: "Callsight replay",
        patience: PATIENCE,
    };
    let mut reader = StreamReader::new(context, part);
    while let Some(portion) = reader.next().await.transpose() {
        let failed = portion.is_err();
        if sender.send(portion).await.is_err() || failed {
            return;
        }
    }
}

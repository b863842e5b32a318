//! Feeds what a stream held during a window to the fold, in portions.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::jetstream::Context;
use futures_util::TryStreamExt;
use tokio::sync::mpsc;

use super::window::rfc3339;
use crate::stream_reader::{Extent, Part, ReadError, Record, StreamReader, start_at};
use crate::topology::servers;
use callsight_fold::StreamTime;
use callsight_frame::subject::{MeetingPartition, Partition, Region, Subject};

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

/// The subjects in a region's stream under which frames of some meetings may be, so that one
/// meeting does not cost all others; `None` if that is all of them.
///
/// A publisher that knows meetings gives the meeting's partition, and then one of 64 holds its
/// frames. Of those that do not, any may hold them.
pub async fn subjects(
    context: &Context,
    stream: &str,
    region: &Region,
    meetings: &[String],
) -> Option<Vec<String>> {
    if meetings.is_empty() {
        return None;
    }
    let wanted: BTreeSet<_> = meetings.iter().map(|meeting| MeetingPartition::of(meeting)).collect();
    let held = partitions(context, stream).await?;
    let may_have = |partition: &Option<Partition>| match partition {
        Some(Partition::Meeting(meetings)) => wanted.contains(meetings),
        Some(Partition::Server(_)) | None => true,
    };
    if held.iter().all(may_have) {
        return None;
    }
    let subject = |partition: &Option<Partition>| {
        let servers = servers(region);
        partition.map_or_else(|| servers.clone(), |partition| format!("{servers}.{partition}"))
    };
    Some(held.iter().filter(|partition| may_have(partition)).map(subject).collect())
}

/// The last tokens of all subjects that a stream holds; `None` if it does not say, and then
/// everything is read.
async fn partitions(context: &Context, stream: &str) -> Option<BTreeSet<Option<Partition>>> {
    let stream = context.get_stream_no_info(stream).await.ok()?;
    let mut subjects = stream.info_with_subjects(">").await.ok()?;
    let mut held = BTreeSet::new();
    while let Some((subject, _)) = subjects.try_next().await.ok()? {
        // Under another subject there is no frame.
        held.extend(Subject::parse(&subject).map(|subject| subject.partition));
    }
    Some(held)
}

/// Sends all messages that the stream stored from `since` to `until` and had in `extent`, of these
/// subjects or of all, in portions, and the error that ended the reading, if one did. Ends early
/// when the receiver is dropped.
pub async fn read(
    context: Context,
    extent: Extent,
    subjects: Option<Vec<String>>,
    since: StreamTime,
    until: StreamTime,
    sender: mpsc::Sender<Result<Vec<Record>, ReadError>>,
) {
    if extent.held.is_none_or(|(_, last)| last < since) {
        return;
    }
    if subjects.as_ref().is_some_and(Vec::is_empty) {
        return;
    }
    let first_sequence = extent.first_sequence;
    let part = Part {
        gapless: subjects.is_none(),
        stream: extent.stream,
        subjects: subjects.unwrap_or_default(),
        start: start_at(since),
        last_sequence: extent.last_sequence,
        until: Some(until),
        description: "Callsight replay",
        patience: PATIENCE,
    };
    let (stream, gapless) = (part.stream.clone(), part.gapless);
    let mut reader = StreamReader::new(context.clone(), part);
    while let Some(portion) = reader.next().await.transpose() {
        let failed = portion.is_err();
        if sender.send(portion).await.is_err() || failed {
            return;
        }
    }
    // Among the gaps that others' frames leave, one of a frame that was removed is not seen.
    let now = if gapless { None } else { Extent::look(&context, &stream).await.ok() };
    let removed = now.filter(|now| now.first_sequence > first_sequence);
    if let Some((first, _)) = removed.and_then(|now| now.held).filter(|(first, _)| *first > since) {
        let first = rfc3339(first);
        tracing::warn!(
            stream,
            first,
            "the stream lost frames of the window while it was read: some of the meeting may be missing"
        );
    }
}

//! `callsight frame check --dlq`: the frames that an exporter has refused.

use std::io::{self, Write};
use std::time::Duration;

use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use async_nats::jetstream::{self, Context};
use futures_util::StreamExt;
use time::format_description::well_known::Rfc3339;
use tokio::time::timeout;

use super::args::{NatsArgs, distinct};
use crate::config::{ConfigError, whole};
use crate::dead_letter::DeadLetter;
use crate::nats::{self, NatsError};
use crate::topology::dead_letter_stream_name;
use callsight_frame::Frame;
use callsight_frame::subject::Region;

/// How long the server may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct DeadLetterArgs {
    /// Show what the dead-letter streams hold, instead of reading frames
    #[arg(long, help_heading = "Dead letters")]
    pub(crate) dlq: bool,

    /// A region whose dead letters to show.
    ///
    /// Separate several with commas or repeat the flag.
    #[arg(
        long,
        value_name = "REGION",
        value_delimiter = ',',
        default_value = "us",
        help_heading = "Dead letters"
    )]
    region: Vec<Region>,

    /// Show at most this many of each region, the newest
    #[arg(
        long,
        value_name = "N",
        default_value = "100",
        value_parser = whole(1..=1_000_000_u64),
        help_heading = "Dead letters"
    )]
    limit: u64,

    #[command(flatten)]
    nats: NatsArgs,
}

/// Why dead letters can't be shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeadLettersError {
    /// The connection's settings contradict each other.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The connection's settings can't be used.
    #[error(transparent)]
    Nats(#[from] NatsError),
    /// The stream can't be read.
    #[error("cannot read dead-letter stream {stream}: {reason}")]
    Stream {
        /// The stream.
        stream: String,
        /// Why not.
        reason: String,
    },
    /// The runtime or the standard output fails.
    #[error("cannot show the dead letters")]
    Io(#[from] io::Error),
}

/// Writes a line for each letter: when, why, where, and what today's decoder says.
pub(crate) fn show(args: DeadLetterArgs, mut output: impl Write) -> Result<(), DeadLettersError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let config = args.nats.validate("replay")?;
        let context = jetstream::new(nats::connect(&config, "callsight frame").await?);
        for region in distinct(args.region) {
            let stream = dead_letter_stream_name(&region);
            let refused = |reason: String| DeadLettersError::Stream { stream: stream.clone(), reason };
            let shown = show_stream(&context, &stream, args.limit, &mut output);
            // The client waits for a server that is away; a person doesn't.
            match timeout(ANSWER_WITHIN + ANSWER_WITHIN, shown).await {
                Ok(Ok(())) => {}
                Ok(Err(reason)) => return Err(refused(reason)),
                Err(_) => return Err(refused(format!("no answer from {config}"))),
            }
        }
        Ok(output.flush()?)
    })
}

async fn show_stream(
    context: &Context,
    stream: &str,
    limit: u64,
    output: &mut impl Write,
) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let info = context.get_stream(stream).await.map_err(|error| text(&error))?;
    let state = &info.cached_info().state;
    let mut left = state.messages.min(limit);
    let total = state.messages;
    writeln!(output, "{stream}: {total} dead letters, {left} shown").map_err(|error| text(&error))?;
    if left == 0 {
        return Ok(());
    }
    let start_sequence = state.last_sequence.saturating_sub(left - 1).max(1);
    let config = OrderedConfig {
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence },
        ..OrderedConfig::default()
    };
    let consumer = info.create_consumer(config).await.map_err(|error| text(&error))?;
    let mut letters = consumer.messages().await.map_err(|error| text(&error))?;
    while left > 0 {
        let letter = match timeout(ANSWER_WITHIN, letters.next()).await {
            Ok(Some(Ok(letter))) => letter,
            Ok(Some(Err(error))) => return Err(text(&error)),
            Ok(None) | Err(_) => return Err("the server stopped sending".to_owned()),
        };
        let info = letter.info().map_err(|error| text(&error))?;
        left = if info.pending == 0 { 0 } else { left - 1 };
        let DeadLetter { reason, detail, subject, sequence } = DeadLetter::read(letter.headers.as_ref());
        let now = match Frame::decode(&letter.payload) {
            Ok(_) => "ok".to_owned(),
            Err(rejection) => rejection.reason.to_string(),
        };
        let at = info.published.format(&Rfc3339).map_err(|error| text(&error))?;
        let bytes = letter.payload.len();
        writeln!(
            output,
            "{at}  {reason}: {detail}  [{subject}, sequence {sequence}, {bytes} bytes; decoded now: {now}]"
        )
        .map_err(|error| text(&error))?;
    }
    Ok(())
}

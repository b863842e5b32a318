//! `callsight frame check --dlq`: shows the frames that exporters rejected.

use std::io::{self, Write};
use std::time::Duration;

use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::{self, Context};

use super::CliError;
use super::args::{NatsArgs, distinct};
use crate::config::whole;
use crate::dead_letter::DeadLetter;
use crate::nats;
use crate::replay::window::exact;
use crate::stream_reader::{Extent, Part, ReadError, Record, StreamReader};
use crate::topology::dead_letter_stream_name;
use callsight_frame::Decoder;
use callsight_frame::subject::{Region, Subject};

/// How long the server may be away before the command fails.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Dead letters")]
pub(crate) struct DeadLetterArgs {
    /// Show what the dead-letter streams hold, instead of reading frames
    #[arg(long)]
    pub(crate) dlq: bool,

    /// A region whose dead letters to show.
    ///
    /// Separate several with commas or repeat the flag.
    #[arg(long, value_name = "REGION", value_delimiter = ',', default_value = "us")]
    region: Vec<Region>,

    /// Show at most this many of each region, the newest
    #[arg(long, value_name = "N", default_value = "100", value_parser = whole(1..=1_000_000_u64))]
    limit: u64,

    #[command(flatten)]
    nats: NatsArgs,
}

/// Writes a line for each letter: when, why and where the frame was rejected, and what today's
/// decoder says.
pub(crate) fn show(args: DeadLetterArgs, mut output: impl Write) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(cannot_show)?;
    runtime.block_on(async {
        let config = args.nats.validate("replay")?;
        let context =
            jetstream::new(nats::connect(&config, "callsight frame").await.map_err(CliError::other)?);
        for region in distinct(args.region) {
            show_stream(&context, dead_letter_stream_name(&region), args.limit, &mut output).await?;
        }
        output.flush().map_err(cannot_show)
    })
}

fn cannot_show(error: io::Error) -> CliError {
    CliError::caused("cannot show the dead letters", error)
}

fn cannot_read(error: ReadError) -> CliError {
    CliError::caused("cannot read dead letters", error)
}

async fn show_stream(
    context: &Context,
    stream: String,
    limit: u64,
    output: &mut impl Write,
) -> Result<(), CliError> {
    let Extent { messages, last_sequence, .. } = Extent::look(context, &stream).await.map_err(cannot_read)?;
    let shown = messages.min(limit);
    writeln!(output, "{stream}: {messages} dead letters, {shown} shown").map_err(cannot_show)?;
    if shown == 0 {
        return Ok(());
    }
    let start_sequence = (last_sequence + 1).saturating_sub(shown).max(1);
    let part = Part {
        stream,
        subjects: Vec::new(),
        start: DeliverPolicy::ByStartSequence { start_sequence },
        last_sequence,
        until: None,
        gapless: false,
        description: "Callsight dead letters",
        patience: ANSWER_WITHIN,
    };
    let mut letters = StreamReader::new(context.clone(), part);
    let mut decoder = Decoder::default();
    while let Some(records) = letters.next().await.map_err(cannot_read)? {
        for Record { at, headers, payload, .. } in records {
            let DeadLetter { reason, detail, subject, sequence } = DeadLetter::read(headers.as_ref());
            let server_id = Subject::parse(subject).ok().map(|subject| subject.server_id);
            let now = match decoder.with(&payload, server_id, |_| ()) {
                Ok(()) => "ok".to_owned(),
                Err(rejection) => rejection.reason.to_string(),
            };
            let (at, bytes) = (exact(at), payload.len());
            writeln!(
                output,
                "{at}  {reason}: {detail}  [{subject}, sequence {sequence}, {bytes} bytes; decoded now: {now}]"
            )
            .map_err(cannot_show)?;
        }
    }
    Ok(())
}

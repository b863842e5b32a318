//! `callsight streams size`: what a region's stream needs, from the number of its sessions.
//!
//! The size of a frame depends on how many others a client sees, and on the encoding. So it is not
//! a figure of a table: frames are simulated, encoded, and counted as the server counts them.
//!
//! Invariant: no figure but those of the flags is assumed.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use super::report::bytes;
use crate::cli::CliError;
use crate::cli::args::ProcessArgs;
use crate::cli::process::print;
use crate::config::{HOUR, duration, duration_between, whole};
use crate::insight::words::plural;
use crate::simulate::{SimulateConfig, World};
use crate::topology::{Capacity, Traffic, stored_bytes};
use callsight_frame::subject::{MeetingPartition, publish_subject};
use callsight_frame::{Form, MAX_PEERS};

const INTERVAL_MIN: Duration = Duration::from_millis(10);

/// Simulated sessions, and their frames, whose sizes are averaged. Counters take more bytes as a
/// call goes on, so few sessions send many frames.
const SAMPLE_SESSIONS: usize = 100;
const SAMPLE_FRAMES: u32 = 20_000;

/// A time like those of today, since it is a part of a frame: the beginning of 2026.
const SAMPLE_STARTS_MS: u64 = 1_767_225_600_000;

#[derive(Debug, clap::Args)]
pub(super) struct SizeArgs {
    #[command(flatten)]
    pub(super) config: SizeConfig,

    #[command(flatten)]
    pub(super) process: ProcessArgs,
}

/// What to compute.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Size")]
pub(crate) struct SizeConfig {
    /// Concurrent sessions of the region.
    ///
    /// Separate several with commas or repeat the flag.
    #[arg(
        long,
        value_name = "N",
        value_delimiter = ',',
        default_value = "10000",
        value_parser = whole(1..=1_000_000_000_u32)
    )]
    sessions: Vec<u32>,

    /// Participants of a meeting, from 1 to 128.
    ///
    /// A frame grows with each. Separate several with commas or repeat the flag.
    #[arg(
        long,
        value_name = "N",
        value_delimiter = ',',
        default_value = "4",
        value_parser = whole(1..=MAX_PEERS / 2)
    )]
    parties: Vec<usize>,

    /// Interval between two frames of a session, from 10ms to 1h
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "5s",
        value_parser = duration_between(INTERVAL_MIN..=HOUR)
    )]
    interval: Duration,

    /// Time for which frames are kept, `max_age`
    #[arg(long, value_name = "DURATION", default_value = "72h", value_parser = duration)]
    retention: Duration,

    /// Replicas of the stream, 1 to 5
    #[arg(long, value_name = "N", default_value = "3", value_parser = whole(1..=5_u32))]
    replicas: u32,

    /// Bytes per frame in the stream, instead of those of simulated frames, for clients that send
    /// other fields or the named form.
    ///
    /// `bytes` divided by `messages` of a running stream.
    #[arg(long, value_name = "N", value_parser = whole(1..=1_000_000_u32))]
    frame_bytes: Option<u32>,

    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

impl fmt::Display for SizeConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sessions, parties, interval, retention, replicas, .. } = self;
        let [interval, retention] = [*interval, *retention].map(humantime::format_duration);
        write!(
            f,
            "{sessions:?} sessions in meetings of {parties:?}; a frame per {interval}, kept for {retention}; {replicas} \
             replicas"
        )
    }
}

impl SizeConfig {
    pub(super) fn run(&self) -> Result<(), CliError> {
        let mut rows = Vec::new();
        for &parties in &self.parties {
            let frame_bytes = match self.frame_bytes {
                Some(bytes) => f64::from(bytes),
                None => frame_bytes(parties, self.interval)
                    .map_err(|error| CliError::caused("cannot measure a frame", error))?,
            };
            rows.extend(self.sessions.iter().map(|&sessions| self.row(sessions, parties, frame_bytes)));
        }
        rows.sort_by_key(|row| (row.sessions, row.parties));
        print(&if self.json { format!("{:#}\n", self.json(&rows)) } else { self.text(&rows) })
    }

    fn row(&self, sessions: u32, parties: usize, frame_bytes: f64) -> SizeRow {
        let frames = f64::from(sessions) / self.interval.as_secs_f64();
        let traffic = Traffic { frames, frame_bytes, over: self.retention };
        SizeRow { sessions, parties, traffic, capacity: traffic.capacity(self.retention) }
    }

    fn text(&self, rows: &[SizeRow]) -> String {
        let mut text = format!(
            "| sessions | parties | frames/s | bytes per frame | bytes/s | frames kept | disk of each server | \
             {} | `max_bytes` |\n|{}\n",
            plural(self.replicas.into(), "replica"),
            "---|".repeat(9)
        );
        for SizeRow { sessions, parties, traffic, capacity } in rows {
            let limit = capacity.max_bytes();
            text += &format!(
                "| {sessions} | {parties} | {:.0} | {:.0} | {} | {:.0} million | {} | {} | {limit} ({}) |\n",
                traffic.frames,
                traffic.frame_bytes,
                rounded(traffic.bytes()),
                capacity.frames / 1e6,
                rounded(capacity.bytes),
                rounded(capacity.bytes * f64::from(self.replicas)),
                bytes(limit),
            );
        }
        text + &format!(
            "\nDeclare \"max_age\": {} and \"max_bytes\", which has a third as reserve, in the files of the stream and of\n\
             its mirror. CALLSIGHT_STORE_LIMIT must exceed the max_bytes of all streams of a server together.\n",
            self.retention.as_nanos()
        )
    }

    fn json(&self, rows: &[SizeRow]) -> Value {
        let row = |SizeRow { sessions, parties, traffic, capacity }: &SizeRow| {
            json!({
                "sessions": sessions,
                "parties": parties,
                "frames_per_second": traffic.frames,
                "bytes_per_frame": traffic.frame_bytes,
                "bytes_per_second": traffic.bytes(),
                "frames": capacity.frames,
                "server_bytes": capacity.bytes,
                "total_bytes": capacity.bytes * f64::from(self.replicas),
                "max_bytes": capacity.max_bytes(),
            })
        };
        json!({
            "retention_seconds": self.retention.as_secs(),
            "replicas": self.replicas,
            "sizes": rows.iter().map(row).collect::<Vec<_>>(),
        })
    }
}

/// The needs of one combination.
struct SizeRow {
    sessions: u32,
    parties: usize,
    traffic: Traffic,
    capacity: Capacity,
}

/// Measures the average size of a frame in a stream.
fn frame_bytes(parties: usize, interval: Duration) -> Result<f64, Box<dyn Error + Send + Sync>> {
    let config = SimulateConfig {
        regions: vec!["us".parse()?],
        sessions: SAMPLE_SESSIONS,
        meeting_size: parties,
        interval,
        seed: 1,
        ..SimulateConfig::default()
    };
    let mut world = World::new(&config, SAMPLE_STARTS_MS);
    let relays = world.relays().iter();
    let servers = relays.map(|relay| publish_subject(&relay.region, "relay", &relay.server_id, None));
    let servers = servers.collect::<Result<Vec<_>, _>>()?;
    let (mut total, mut frames) = (0, 0_u32);
    while frames < SAMPLE_FRAMES {
        // Nothing may be due at a moment.
        let Some(event) = world.advance() else { continue };
        let frame = &event.frame;
        let partition = MeetingPartition::of(frame.meeting_id.as_str());
        let subject = format!("{}.{partition}", servers[event.relay]);
        let message_id = format!("{}:{}", frame.session_id, frame.seq.get());
        total += stored_bytes(&subject, &message_id, frame.encode(Form::Compact).len());
        frames += 1;
    }
    Ok(total as f64 / f64::from(frames))
}

/// Renders a number of bytes with three digits.
pub(super) fn rounded(bytes: f64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB", "PB"];
    let (mut scaled, mut unit) = (bytes, 0);
    while scaled >= 999.5 && unit + 1 < units.len() {
        scaled /= 1000.0;
        unit += 1;
    }
    let digits = match scaled {
        whole if whole.fract() == 0.0 => 0,
        99.95.. => 0,
        9.995.. => 1,
        _ => 2,
    };
    format!("{scaled:.digits$} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        for (bytes, text) in [
            (0.5, "0.50 B"),
            (200.0, "200 B"),
            (109_400.0, "109 kB"),
            (28_356_480_000.0, "28.4 GB"),
            (6.8e12, "6.80 TB"),
            (999_600.0, "1.00 MB"),
        ] {
            assert_eq!(rounded(bytes), text);
        }
    }

    #[test]
    fn a_frame_grows_with_its_meeting() {
        let [two, four, ten] =
            [2, 4, 10].map(|parties| frame_bytes(parties, Duration::from_secs(5)).unwrap());
        assert!(2.0 * two > four && four > two && ten > 1.5 * four, "{two} {four} {ten}");
    }
}

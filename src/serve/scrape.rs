//! A scrape: from the series to the bytes of a response.
//!
//! A page can be a hundred megabytes, and writing it takes a while. It is written by a thread that may take
//! its time, into a [`Page`] that connections empty: no worker of the runtime renders anything, and a page is never
//! held whole. A scraper that doesn't read is given up.
//!
//! Compressing takes ten times as long as writing. Scrapers that come while a compressed page is being made get the same
//! one, unless it is older than what one would call now. An uncompressed page is each scraper's own: it is cheap to
//! write, and too large to keep the beginning for somebody who might come.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::{BufMut, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use metrics::{gauge, histogram, with_local_recorder};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::page::{Page, Reader, Writer};
use crate::consume::RegionHealth;
use callsight_fold::series::aggregates::Aggregates;
use callsight_fold::series::catalogue as c;
use callsight_fold::series::detail::{DetailPlane, DetailStore};
use callsight_fold::series::exposition::{Format, write_page};

/// How many pages are written at a time; more have to wait their turn.
const AT_A_TIME: usize = 4;

/// How long a scrape waits for its turn.
const TURN: Duration = Duration::from_secs(5);

/// How long a scraper may let its page wait.
const STALL: Duration = Duration::from_secs(10);

/// How old the values in a page may be for somebody who asks now.
const NOW: Duration = Duration::from_secs(1);

/// The size of the pieces of a page, and how much of it may wait for its readers: compressed, half a million series
/// fit in whole.
const PIECE: usize = 64 * 1024;
const WAITING: usize = 8 * PIECE;
const WAITING_COMPRESSED: usize = 128 * PIECE;

/// Everything that a scrape shows.
#[derive(Clone)]
pub(super) struct Scraper(Arc<Sources>);

struct Sources {
    aggregates: Aggregates,
    detail: DetailStore,
    regions: Vec<Arc<RegionHealth>>,
    ready_max_lag: Duration,
    process: metrics_process::Collector,
    turns: Arc<Semaphore>,
    /// The compressed pages that were begun last, in each format.
    compressed: Mutex<[Weak<Page>; 2]>,
}

impl Scraper {
    pub(super) fn new(
        aggregates: Aggregates,
        detail: DetailStore,
        regions: Vec<Arc<RegionHealth>>,
        ready_max_lag: Duration,
    ) -> Self {
        let process = metrics_process::Collector::default();
        with_local_recorder(aggregates.recorder(), || {
            process.describe();
            gauge!(c::BUILD_INFO.name, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        });
        let turns = Arc::new(Semaphore::new(AT_A_TIME));
        let compressed = Mutex::default();
        Self(Arc::new(Sources { aggregates, detail, regions, ready_max_lag, process, turns, compressed }))
    }

    /// Begins to write a page, or joins one; nothing comes of it when too many are being written already.
    pub(super) async fn page(&self, format: Format, gzip: bool) -> Option<Reader> {
        if let Some(reader) = self.0.join(format, gzip) {
            return Some(reader);
        }
        let turn = timeout(TURN, Arc::clone(&self.0.turns).acquire_owned()).await.ok()?.ok()?;
        let (writer, reader) = self.0.begin(format, gzip);
        let Some(writer) = writer else { return Some(reader) };
        let sources = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || {
            match sources.write(format, gzip, &writer) {
                Ok(()) => writer.finish(),
                Err(error) => tracing::warn!(%error, "scrape given up"),
            }
            drop(turn);
        });
        Some(reader)
    }
}

impl Sources {
    /// Joins a page that is being written.
    fn join(&self, format: Format, gzip: bool) -> Option<Reader> {
        gzip.then(|| self.compressed()[format as usize].upgrade()?.join())?
    }

    /// A new page with its first reader, or a reader of one that somebody else has begun meanwhile.
    fn begin(&self, format: Format, gzip: bool) -> (Option<Writer>, Reader) {
        if !gzip {
            let (writer, reader) = Page::begin(WAITING, STALL, Duration::ZERO);
            return (Some(writer), reader);
        }
        let latest = &mut self.compressed()[format as usize];
        if let Some(reader) = latest.upgrade().and_then(|page| page.join()) {
            return (None, reader);
        }
        let (writer, reader) = Page::begin(WAITING_COMPRESSED, STALL, NOW);
        *latest = Arc::downgrade(writer.page());
        (Some(writer), reader)
    }

    fn compressed(&self) -> MutexGuard<'_, [Weak<Page>; 2]> {
        self.compressed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, format: Format, gzip: bool, writer: &Writer) -> io::Result<()> {
        let began = Instant::now();
        let mut pieces = Pieces { writer, buffer: BytesMut::with_capacity(PIECE) };
        let size = if gzip {
            // The fastest level: the text is repetitive, and the scraper is near.
            let mut encoder = GzEncoder::new(pieces, Compression::fast());
            let size = self.write_plain(format, &mut encoder)?;
            encoder.finish()?.flush()?;
            size
        } else {
            let size = self.write_plain(format, &mut pieces)?;
            pieces.flush()?;
            size
        };
        with_local_recorder(self.aggregates.recorder(), || {
            histogram!(c::SCRAPE_SECONDS_SPENT.name).record(began.elapsed());
            #[expect(clippy::cast_precision_loss, reason = "no page has 2^53 bytes")]
            gauge!(c::SCRAPE_BYTES.name).set(size as f64);
        });
        Ok(())
    }

    fn write_plain(&self, format: Format, sink: &mut impl Write) -> io::Result<u64> {
        with_local_recorder(self.aggregates.recorder(), || {
            self.process.collect();
            for plane in DetailPlane::ALL {
                #[expect(clippy::cast_precision_loss, reason = "the budget is far below 2^53")]
                gauge!(c::LIVE_SERIES.name, "plane" => plane.plane().label())
                    .set(self.detail.live_series(plane) as f64);
            }
            for region in &self.regions {
                let report = region.report(self.ready_max_lag);
                gauge!(c::READY.name, "region" => report.region).set(f64::from(u8::from(report.ready)));
            }
        });
        let now = self.regions.iter().filter_map(|region| region.stream_now()).max().unwrap_or_default();
        let mut sink = Counted { sink, size: 0 };
        write_page(&self.aggregates.render(), &self.detail, now.unix_seconds(), format, &mut sink)?;
        Ok(sink.size)
    }
}

/// Counts the bytes on their way.
struct Counted<'a, W> {
    sink: &'a mut W,
    size: u64,
}

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.sink.write(bytes)?;
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

/// Writes into a page, piece by piece.
struct Pieces<'a> {
    writer: &'a Writer,
    buffer: BytesMut,
}

impl Write for Pieces<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A piece never outgrows the memory that was asked for it.
        if self.buffer.len() + bytes.len() > PIECE {
            self.flush()?;
            self.buffer.reserve(PIECE.max(bytes.len()));
        }
        self.buffer.put_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() { Ok(()) } else { self.writer.push(self.buffer.split().freeze()) }
    }
}

//! A scrape: from the series to the bytes of a response.
//!
//! A page can be a hundred megabytes, and writing it takes a while. It is written by a thread that may take
//! its time, into a short queue that the connection empties: no worker of the runtime renders anything, and a
//! page is never held whole. A scraper that doesn't read is given up.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::{Stream, stream};
use metrics::{gauge, histogram, with_local_recorder};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use crate::consume::RegionHealth;
use crate::series::aggregates::Aggregates;
use crate::series::catalogue as c;
use crate::series::detail::{DetailPlane, DetailStore};
use crate::series::exposition::{Format, write_page};

/// How many pages are written at a time; more have to wait their turn.
const AT_A_TIME: usize = 4;

/// How long a scrape waits for its turn.
const TURN: Duration = Duration::from_secs(5);

/// How long a scraper may leave the queue full.
const STALL: Duration = Duration::from_secs(10);

/// The size of the pieces in the queue, and how many of them it holds.
const PIECE: usize = 64 * 1024;
const QUEUE: usize = 8;

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
        Self(Arc::new(Sources { aggregates, detail, regions, ready_max_lag, process, turns }))
    }

    /// Begins to write a page; nothing comes of it when too many are being written already.
    pub(super) async fn page(
        &self,
        format: Format,
        gzip: bool,
    ) -> Option<impl Stream<Item = io::Result<Bytes>> + Send + Sync + use<>> {
        let turn = timeout(TURN, Arc::clone(&self.0.turns).acquire_owned()).await.ok()?.ok()?;
        let (queue, receiver) = mpsc::channel(QUEUE);
        let sources = Arc::clone(&self.0);
        let runtime = Handle::current();
        tokio::task::spawn_blocking(move || {
            let pieces = Pieces { queue, runtime, buffer: BytesMut::with_capacity(PIECE) };
            if let Err(error) = sources.write(format, gzip, pieces) {
                tracing::warn!(%error, "scrape given up");
            }
            drop(turn);
        });
        Some(stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|piece| (Ok(piece), receiver))
        }))
    }
}

impl Sources {
    fn write(&self, format: Format, gzip: bool, pieces: Pieces) -> io::Result<()> {
        let began = Instant::now();
        let size = if gzip {
            // The fastest level: the text is repetitive, and the scraper is near.
            let mut encoder = GzEncoder::new(pieces, Compression::fast());
            let size = self.write_plain(format, &mut encoder)?;
            encoder.finish()?.flush()?;
            size
        } else {
            let mut pieces = pieces;
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

/// Writes into the queue of a response, piece by piece.
struct Pieces {
    queue: mpsc::Sender<Bytes>,
    runtime: Handle,
    buffer: BytesMut,
}

impl Pieces {
    fn send(&mut self) -> io::Result<()> {
        let piece = self.buffer.split().freeze();
        self.buffer.reserve(PIECE);
        match self.queue.try_send(piece) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(gone()),
            Err(mpsc::error::TrySendError::Full(piece)) => {
                match self.runtime.block_on(timeout(STALL, self.queue.send(piece))) {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(_)) => Err(gone()),
                    Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the scraper stopped reading")),
                }
            }
        }
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the scraper hung up")
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PIECE {
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() { Ok(()) } else { self.send() }
    }
}

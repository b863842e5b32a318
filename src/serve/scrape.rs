//! A scrape: from the series to the bytes of a response.
//!
//! A page can be a hundred megabytes, and writing it takes a while. A thread that may block writes
//! it into a short channel that the connection empties, so no worker of the runtime renders
//! anything, and a page is never held whole.
//!
//! Invariant: a response ends well only if the whole page was written.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::{Stream, stream};
use metrics::{gauge, histogram, with_local_recorder};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::consume::{RegionHealth, ViewLoss};
use callsight_fold::series::aggregates::Aggregates;
use callsight_fold::series::catalogue as c;
use callsight_fold::series::detail::{DetailPlane, DetailStore};
use callsight_fold::series::exposition::{Format, write_page};

/// How many pages are written at a time; further scrapes wait for their turn.
const AT_A_TIME: usize = 4;

/// How long a scrape waits for its turn: less than the 10 s that Prometheus allows it by default.
const TURN: Duration = Duration::from_secs(8);

/// How long a scraper may read nothing while its page waits.
const STALL: Duration = Duration::from_secs(10);

/// How long a page may wait for its scraper in all while other scrapes wait for their turn: readers
/// that don't read must not keep the others out.
const STALL_IN_CROWD: Duration = Duration::from_secs(1);

/// How often a page that waits for its scraper looks whether others wait.
const LOOK: Duration = Duration::from_millis(100);

/// The size of the pieces of a page, and how many of them may wait for the scraper.
const PIECE: usize = 64 * 1024;
const WAITING: usize = 8;

/// Everything that a scrape shows.
#[derive(Clone)]
pub(super) struct Scraper(Arc<Sources>);

struct Sources {
    aggregates: Aggregates,
    detail: DetailStore,
    regions: Vec<Arc<RegionHealth>>,
    ready_max_lag: Duration,
    process: metrics_process::Collector,
    turns: Turns,
}

/// The turns of writing a page.
#[derive(Clone)]
struct Turns {
    free: Arc<Semaphore>,
    /// How many scrapes wait for one, and may give up.
    waiting: Arc<AtomicUsize>,
}

impl Turns {
    fn new() -> Self {
        Self { free: Arc::new(Semaphore::new(AT_A_TIME)), waiting: Arc::default() }
    }

    /// Waits for a turn; `None` if that takes too long.
    async fn take(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(turn) = Arc::clone(&self.free).try_acquire_owned() {
            return Some(turn);
        }
        let _waiting = Waiting::new(&self.waiting);
        timeout(TURN, Arc::clone(&self.free).acquire_owned()).await.ok()?.ok()
    }

    fn are_waited_for(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }
}

/// A scrape that waits for its turn; its scraper may hang up meanwhile.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
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
        let turns = Turns::new();
        Self(Arc::new(Sources { aggregates, detail, regions, ready_max_lag, process, turns }))
    }

    /// Begins to write a page, and returns its pieces for the body of a response. `None` while too
    /// many pages are being written.
    pub(super) async fn page(
        &self,
        format: Format,
        gzip: bool,
    ) -> Option<impl Stream<Item = io::Result<Bytes>> + Send + Sync + use<>> {
        let turn = self.0.turns.take().await?;
        let (sender, receiver) = channel(WAITING);
        let sources = Arc::clone(&self.0);
        let pieces = Pieces::new(sender, self.0.turns.clone());
        tokio::task::spawn_blocking(move || {
            if let Err(error) = sources.write(format, gzip, pieces) {
                tracing::warn!(%error, "scrape given up");
            }
            drop(turn);
        });
        Some(body(receiver))
    }
}

/// The pieces of a page up to its end. A page that breaks off before its end yields an error, so
/// that the connection is cut and nobody takes what came for the whole.
fn body(pieces: Receiver<Piece>) -> impl Stream<Item = io::Result<Bytes>> + Send + Sync {
    stream::unfold(Some(pieces), |pieces| async {
        let mut pieces = pieces?;
        match pieces.recv().await {
            Some(Some(bytes)) => Some((Ok(bytes), Some(pieces))),
            Some(None) => None,
            None => Some((Err(io::Error::other("the page could not be written")), None)),
        }
    })
}

impl Sources {
    fn write(&self, format: Format, gzip: bool, mut pieces: Pieces) -> io::Result<()> {
        let began = Instant::now();
        let size = if gzip {
            // The fastest level: the text is repetitive, and the scraper is near.
            let mut encoder = GzEncoder::new(&mut pieces, Compression::fast());
            let size = self.write_plain(format, &mut encoder)?;
            encoder.finish()?;
            size
        } else {
            self.write_plain(format, &mut pieces)?
        };
        pieces.end()?;
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
                for reason in ViewLoss::LABELS {
                    let is_it = report.reason.as_deref() == Some(reason);
                    gauge!(c::VIEW_LOST.name, "region" => report.region.clone(), "reason" => reason)
                        .set(f64::from(u8::from(is_it)));
                }
                gauge!(c::VIEW_AGE.name, "region" => report.region.clone())
                    .set(report.view_age_seconds.unwrap_or(f64::NAN));
                gauge!(c::READY.name, "region" => report.region).set(f64::from(u8::from(report.ready)));
            }
        });
        let now = self.regions.iter().filter_map(|region| region.stream_now()).max().unwrap_or_default();
        let mut sink = Counted { sink, size: 0 };
        write_page(&self.aggregates, &self.detail, now.unix_seconds(), format, &mut sink)?;
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

/// A piece of a page; `None` for its end.
type Piece = Option<Bytes>;

/// Cuts a page into pieces for the connection. To be used by a thread that may block.
struct Pieces {
    sender: Option<Sender<Piece>>,
    runtime: Handle,
    buffer: BytesMut,
    turns: Turns,
    /// How long the scraper has kept others waiting.
    stalled_in_crowd: Duration,
}

impl Pieces {
    fn new(sender: Sender<Piece>, turns: Turns) -> Self {
        let buffer = BytesMut::with_capacity(PIECE);
        let (sender, runtime) = (Some(sender), Handle::current());
        Self { sender, runtime, buffer, turns, stalled_in_crowd: Duration::ZERO }
    }

    /// Hands a piece to the connection. After the first error it does nothing but fail, since a
    /// compressor tries to end its stream even then.
    fn send(&mut self, piece: Piece) -> io::Result<()> {
        let Some(sender) = &self.sender else { return Err(io::ErrorKind::BrokenPipe.into()) };
        let (turns, stalled_in_crowd) = (&self.turns, &mut self.stalled_in_crowd);
        let sent = self.runtime.block_on(async {
            let mut stalled = Duration::ZERO;
            loop {
                let since = Instant::now();
                let room = timeout(LOOK, sender.reserve()).await;
                let waited = since.elapsed();
                stalled += waited;
                if turns.are_waited_for() {
                    *stalled_in_crowd += waited;
                }
                if *stalled_in_crowd >= STALL_IN_CROWD {
                    return Err((io::ErrorKind::TimedOut, "the scraper reads slowly while others wait"));
                }
                match room {
                    Ok(Ok(room)) => {
                        room.send(piece);
                        return Ok(());
                    }
                    Ok(Err(_)) => return Err((io::ErrorKind::BrokenPipe, "the scraper hung up")),
                    Err(_) if stalled >= STALL => {
                        return Err((io::ErrorKind::TimedOut, "the scraper stopped reading"));
                    }
                    Err(_) => {}
                }
            }
        });
        sent.map_err(|(kind, why)| {
            self.sender = None;
            io::Error::new(kind, why)
        })
    }

    fn end(mut self) -> io::Result<()> {
        self.flush()?;
        self.send(None)
    }
}

impl Write for Pieces {
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
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = Some(self.buffer.split().freeze());
        self.send(piece)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;

    fn pieces() -> (Pieces, Receiver<Piece>) {
        let (sender, receiver) = channel(WAITING);
        (Pieces::new(sender, Turns::new()), receiver)
    }

    #[tokio::test]
    async fn only_a_whole_page_ends_well() {
        for whole in [true, false] {
            let (mut pieces, receiver) = pieces();
            let writing = tokio::task::spawn_blocking(move || {
                for number in 0..200 {
                    pieces.write_all(&[number; PIECE]).unwrap();
                }
                if whole { pieces.end() } else { Ok(()) }
            });
            let mut body = Box::pin(body(receiver));
            for number in 0..if whole { 200 } else { 199 } {
                assert_eq!(body.next().await.unwrap().unwrap(), vec![number; PIECE]);
            }
            assert_eq!(body.next().await.is_none_or(|piece| piece.is_ok()), whole);
            writing.await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn a_scraper_that_reads_nothing_gives_its_turn_to_one_that_waits() {
        let turns = Turns::new();
        let held = Arc::clone(&turns.free).acquire_many_owned(AT_A_TIME as u32).await.unwrap();
        let (sender, _reads_nothing) = channel(1);
        let mut pieces = Pieces::new(sender, turns.clone());
        let writing = tokio::task::spawn_blocking(move || {
            let _held = held;
            (0..).try_for_each(|number| pieces.write_all(&[number; PIECE]))
        });
        assert!(turns.take().await.is_some(), "the turn was not given up in time");
        assert_eq!(
            writing.await.unwrap().unwrap_err().to_string(),
            "the scraper reads slowly while others wait"
        );
        assert!(!turns.are_waited_for());
    }

    #[tokio::test]
    async fn a_scraper_that_hangs_up_is_given_up() {
        let (mut pieces, receiver) = pieces();
        drop(receiver);
        let writing = tokio::task::spawn_blocking(move || {
            let mut encoder = GzEncoder::new(&mut pieces, Compression::none());
            (0..20).try_for_each(|_| encoder.write_all(&[0; PIECE]))
        });
        assert_eq!(writing.await.unwrap().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}

//! A page on its way from the thread that writes it to whoever reads it.
//!
//! A page of half a million series takes a second to compress, and Prometheus comes in pairs: each of the two would
//! have it compressed for itself. So a page may have several readers. One that comes while the page is young reads it
//! from its beginning, at its own pace; the writer waits only when the pieces that somebody still needs have become too
//! many. A reader that lets it wait for too long is given up, and with the last reader the page.

use std::collections::VecDeque;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::sync::Notify;

/// A page that is being written.
pub(super) struct Page {
    state: Mutex<State>,
    /// There is another piece, or an end.
    written: Notify,
    /// A piece was read that nobody needs any more, or a reader has gone.
    read: Condvar,
    /// How many bytes may wait for readers.
    most: usize,
    /// How long a reader may let the writer wait.
    patience: Duration,
    /// Until when others may join.
    open_until: Instant,
}

#[derive(Default)]
struct State {
    /// The pieces that may still be needed, and how many there were before them.
    pieces: VecDeque<Bytes>,
    before: usize,
    /// The bytes in them.
    held: usize,
    /// The next piece that each reader takes; nothing for one that has gone or was given up.
    readers: Vec<Option<usize>>,
    end: Option<End>,
}

/// How a page ended.
#[derive(Clone, Copy)]
enum End {
    Whole,
    Broken,
}

impl State {
    /// Lets go of the pieces that every reader has, unless one may still come who needs them.
    fn release(&mut self, open: bool) {
        let needed = self.readers.iter().flatten().min().copied().unwrap_or(usize::MAX);
        while !open && self.before < needed {
            let Some(piece) = self.pieces.pop_front() else { return };
            self.held -= piece.len();
            self.before += 1;
        }
    }

    fn gone(&self) -> bool {
        self.readers.iter().all(Option::is_none)
    }
}

impl Page {
    /// A page that holds at most so many bytes for its readers, and that others may join for a while.
    pub(super) fn begin(most: usize, patience: Duration, open: Duration) -> (Writer, Reader) {
        let page = Arc::new(Self {
            state: Mutex::new(State { readers: vec![Some(0)], ..State::default() }),
            written: Notify::new(),
            read: Condvar::new(),
            most,
            patience,
            open_until: Instant::now() + open,
        });
        (Writer(Arc::clone(&page)), Reader { page, index: 0 })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic between two changes leaves the state whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_open(&self) -> bool {
        Instant::now() < self.open_until
    }

    /// Reads the page from its beginning; nothing when that has gone already, or the page is complete: it shows what
    /// was true when it was written.
    pub(super) fn join(self: &Arc<Self>) -> Option<Reader> {
        let mut state = self.lock();
        // One whose readers have all gone is being given up.
        let given_up = !state.readers.is_empty() && state.gone();
        if state.before > 0
            || state.end.is_some()
            || given_up
            || (!state.readers.is_empty() && !self.is_open())
        {
            return None;
        }
        state.readers.push(Some(0));
        Some(Reader { page: Arc::clone(self), index: state.readers.len() - 1 })
    }

    fn push(&self, piece: Bytes) -> io::Result<()> {
        let mut state = self.lock();
        let give_up_at = Instant::now() + self.patience;
        let mut stopped = false;
        loop {
            let open = self.is_open() && state.held < self.most;
            state.release(open);
            if state.gone() {
                return Err(match stopped {
                    true => io::Error::new(io::ErrorKind::TimedOut, "the scraper stopped reading"),
                    false => io::Error::new(io::ErrorKind::BrokenPipe, "the scraper hung up"),
                });
            }
            if state.held < self.most {
                break;
            }
            let left = give_up_at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // Who has not read the oldest piece is who holds up the others.
                let oldest = state.before;
                state.readers.iter_mut().filter(|at| **at == Some(oldest)).for_each(|at| *at = None);
                stopped = true;
                self.written.notify_waiters();
                continue;
            }
            state = self.read.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.held += piece.len();
        state.pieces.push_back(piece);
        drop(state);
        self.written.notify_waiters();
        Ok(())
    }

    fn end(&self, end: End) {
        self.lock().end.get_or_insert(end);
        self.written.notify_waiters();
    }
}

/// The one who writes a page. Dropping it before the page is complete is giving the page up.
pub(super) struct Writer(Arc<Page>);

impl Writer {
    /// For others to join.
    pub(super) const fn page(&self) -> &Arc<Page> {
        &self.0
    }

    /// Hands a piece to the readers, after waiting for them if need be.
    ///
    /// # Errors
    /// When no reader is left.
    pub(super) fn push(&self, piece: Bytes) -> io::Result<()> {
        self.0.push(piece)
    }

    /// The page is complete.
    pub(super) fn finish(self) {
        self.0.end(End::Whole);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.end(End::Broken);
    }
}

/// One reader of a page. Dropping it is hanging up.
pub(super) struct Reader {
    page: Arc<Page>,
    index: usize,
}

impl Reader {
    /// The pieces, one after the other, for the body of a response.
    pub(super) fn pieces(self) -> impl Stream<Item = io::Result<Bytes>> + Send + Sync + use<> {
        stream::unfold(Some(self), |reader| async {
            let reader = reader?;
            match reader.next().await {
                Some(Ok(piece)) => Some((Ok(piece), Some(reader))),
                Some(Err(error)) => Some((Err(error), None)),
                None => None,
            }
        })
    }

    async fn next(&self) -> Option<io::Result<Bytes>> {
        loop {
            let mut written = pin!(self.page.written.notified());
            // What is written from here on wakes it, also before it is waited for.
            written.as_mut().enable();
            if let Some(next) = self.take() {
                return next;
            }
            written.await;
        }
    }

    /// The next piece or the end, once it is there.
    fn take(&self) -> Option<Option<io::Result<Bytes>>> {
        let mut state = self.page.lock();
        let broken = |why| Some(Some(Err(io::Error::other(why))));
        let Some(at) = state.readers[self.index] else { return broken("given up for reading too slowly") };
        let Some(piece) = state.pieces.get(at - state.before).cloned() else {
            return match state.end {
                None => None,
                Some(End::Whole) => Some(None),
                Some(End::Broken) => broken("the page could not be written"),
            };
        };
        state.readers[self.index] = Some(at + 1);
        let open = self.page.is_open() && state.end.is_none();
        state.release(open);
        drop(state);
        self.page.read.notify_one();
        Some(Some(Ok(piece)))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.page.lock().readers[self.index] = None;
        self.page.read.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, StreamExt};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn piece(number: u8) -> Bytes {
        Bytes::from(vec![number; 10])
    }

    /// The numbers of the pieces that are there to be read.
    fn read(stream: &mut (impl Stream<Item = io::Result<Bytes>> + Unpin)) -> Vec<u8> {
        std::iter::from_fn(|| stream.next().now_or_never()??.ok()).map(|piece| piece[0]).collect()
    }

    #[test]
    fn all_that_come_in_time_read_the_whole_page() {
        let (writer, first) = Page::begin(1000, LONG, LONG);
        let page = Arc::clone(writer.page());
        let mut first = Box::pin(first.pieces());
        writer.push(piece(1)).unwrap();
        assert_eq!(read(&mut first), [1]);
        writer.push(piece(2)).unwrap();
        let mut second = Box::pin(page.join().unwrap().pieces());
        assert_eq!(read(&mut second), [1, 2]);
        writer.finish();
        assert!(page.join().is_none(), "a complete page is not shown again");
        assert_eq!(first.next().now_or_never().unwrap().unwrap().unwrap(), piece(2));
        for stream in [&mut first, &mut second] {
            assert!(stream.next().now_or_never().unwrap().is_none());
        }
    }

    #[test]
    fn nobody_joins_a_page_whose_time_is_over() {
        let (writer, first) = Page::begin(1000, LONG, Duration::ZERO);
        let mut first = Box::pin(first.pieces());
        assert!(writer.page().join().is_none());
        writer.push(piece(1)).unwrap();
        assert_eq!(read(&mut first), [1]);
        assert_eq!(writer.page().lock().held, 0, "nothing is kept for nobody");
    }

    #[test]
    fn the_writer_waits_for_readers_and_only_so_long() {
        let (writer, quick) = Page::begin(20, Duration::from_millis(50), LONG);
        let slow = writer.page().join().unwrap();
        let mut quick = Box::pin(quick.pieces());
        writer.push(piece(1)).unwrap();
        writer.push(piece(2)).unwrap();
        assert_eq!(read(&mut quick), [1, 2]);
        writer.push(piece(3)).expect("one of them reads");
        assert!(writer.page().join().is_none(), "its beginning has gone");
        assert_eq!(read(&mut quick), [3]);
        assert!(slow.take().unwrap().unwrap().is_err(), "the other one was given up");
        writer.push(piece(4)).unwrap();
        writer.push(piece(5)).unwrap();
        assert_eq!(writer.push(piece(6)).unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn without_readers_there_is_nothing_to_write() {
        let (writer, first) = Page::begin(1000, LONG, LONG);
        drop(first);
        assert!(writer.page().join().is_none());
        assert_eq!(writer.push(piece(1)).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn a_reader_that_waits_is_woken() {
        let (writer, reader) = Page::begin(1000, LONG, LONG);
        let mut stream = Box::pin(reader.pieces());
        let writing = tokio::task::spawn_blocking(move || {
            (0..200).try_for_each(|number| writer.push(piece(number))).unwrap();
            // And it is dropped before the page is complete.
        });
        for number in 0..200 {
            assert_eq!(stream.next().await.unwrap().unwrap(), piece(number));
        }
        assert!(stream.next().await.unwrap().is_err(), "it was not the whole page");
        assert!(stream.next().await.is_none());
        writing.await.unwrap();
    }
}

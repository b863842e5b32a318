//! A UDP relay between the two ends of one WebRTC call, which emulates a network.
//!
//! What a network does to a call can only be shown by a network that does it, and browsers offer
//! none: their throttling does not reach WebRTC, and the kernel's needs privileges. So both ends
//! send to this relay instead, to one socket each. The application replaces every ICE candidate
//! that it signals with the relay's [`address`](Netem::address). The relay learns the end's own
//! address from what it sends, whichever interface the browser chose, and follows it if it changes.
//! BUNDLE and rtcp-mux must be on, as they are in all browsers: the ends then need no second path.
//!
//! The relay is at this machine's own address, not at 127.0.0.1: Firefox never pairs the addresses
//! that it finds with a loopback address of the other end. It hears nobody but this machine.
//!
//! Each direction has an [`Impairment`] of its own, which may change at any time, and [`Counts`] of
//! what became of each datagram.
//!
//! Invariant: a datagram is delayed, reordered or dropped, but never changed or repeated, and each
//! dropped one is counted.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tracing::warn;

/// Longest time that a datagram waits for its turn on a link with a [`rate`](Impairment::rate).
/// Datagrams that would wait longer are dropped, as a router does whose queue is full.
pub const LONGEST_QUEUE: Duration = Duration::from_millis(300);

/// How much longer a [reordered](Impairment::reordering) datagram is held back than others.
pub const HELD_BACK: Duration = Duration::from_millis(20);

/// Most datagrams that wait in one direction. The bound protects the memory only: it is seconds of
/// the fastest call.
const MOST_WAITING: usize = 16_384;

/// Largest UDP datagram.
const LARGEST: usize = 65_536;

/// An end of the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Caller,
    Callee,
}

/// A share between none and all.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Share(f64);

impl Share {
    pub const NONE: Self = Self(0.0);
    pub const ALL: Self = Self(1.0);

    /// Returns nothing unless the value is between 0 and 1.
    #[must_use]
    pub fn new(value: f64) -> Option<Self> {
        (0.0..=1.0).contains(&value).then_some(Self(value))
    }
}

/// What the network does to the datagrams of one direction. The default leaves them alone.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Impairment {
    /// Added to the time that each datagram takes.
    pub delay: Duration,
    /// Largest further delay, which is random for each datagram, and keeps their order.
    pub jitter: Duration,
    /// Share of the datagrams that are dropped.
    pub loss: Share,
    /// Share of the datagrams that are held back for [`HELD_BACK`], so that later ones overtake
    /// them.
    pub reordering: Share,
    /// Rate of the link in bit/s, counting the payloads of UDP. What arrives faster waits, for
    /// [`LONGEST_QUEUE`] at most, and is dropped beyond. Absent, the link has no limit.
    pub rate: Option<NonZeroU64>,
}

/// What became of the datagrams of one direction since the start. Those in no field still wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Arrived at the relay.
    pub received: u64,
    pub forwarded: u64,
    /// Dropped by [`Impairment::loss`].
    pub lost: u64,
    /// Dropped because the queue of the link was full.
    pub overflowed: u64,
    /// Dropped because the other end has not sent anything yet, so that its address is unknown, or
    /// can't be reached there.
    pub unreachable: u64,
}

/// A running relay. It ends when dropped, together with what still waits in it.
#[derive(Debug)]
pub struct Netem {
    caller: SocketAddr,
    callee: SocketAddr,
    from_caller: Arc<Direction>,
    from_callee: Arc<Direction>,
    _tasks: JoinSet<()>,
}

impl Netem {
    /// Listens on two free ports of this machine's address, or of 127.0.0.1 if it has no other.
    /// Relays with the same seed draw the same random numbers.
    ///
    /// # Errors
    /// If no socket can be opened.
    pub async fn start(seed: u64) -> io::Result<Self> {
        let address = own_address().await;
        let caller = Arc::new(UdpSocket::bind((address, 0)).await?);
        let callee = Arc::new(UdpSocket::bind((address, 0)).await?);
        let from_caller = Arc::<Direction>::default();
        let from_callee = Arc::<Direction>::default();
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut tasks = JoinSet::new();
        let addresses = (caller.local_addr()?, callee.local_addr()?);
        for (from, to, there, back) in
            [(&caller, &callee, &from_caller, &from_callee), (&callee, &caller, &from_callee, &from_caller)]
        {
            let (from, to) = (Arc::clone(from), Arc::clone(to));
            let (there, back) = (Arc::clone(there), Arc::clone(back));
            tasks.spawn(relay(from, to, there, back, Xoshiro256PlusPlus::seed_from_u64(rng.random())));
        }
        Ok(Self { caller: addresses.0, callee: addresses.1, from_caller, from_callee, _tasks: tasks })
    }

    /// The address that an end sends to, as if the other end were there.
    #[must_use]
    pub fn address(&self, end: End) -> SocketAddr {
        match end {
            End::Caller => self.caller,
            End::Callee => self.callee,
        }
    }

    /// Impairs what an end sends from now on. What the relay has received already keeps its time.
    pub fn impair(&self, from: End, impairment: Impairment) {
        self.direction(from).state().impairment = impairment;
    }

    /// Counts what an end has sent.
    #[must_use]
    pub fn counts(&self, from: End) -> Counts {
        self.direction(from).state().counts
    }

    fn direction(&self, from: End) -> &Direction {
        match from {
            End::Caller => &self.from_caller,
            End::Callee => &self.from_callee,
        }
    }
}

/// The address of this machine from which the way to anywhere else begins. Nothing is sent.
async fn own_address() -> IpAddr {
    let find = async {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
        // A network for documentation, which routes like any other.
        socket.connect((Ipv4Addr::new(203, 0, 113, 1), 9)).await?;
        socket.local_addr()
    };
    find.await.map_or(Ipv4Addr::LOCALHOST.into(), |found| found.ip())
}

/// What one end sends: the settings, the counts, and where it comes from.
#[derive(Debug, Default)]
struct Direction(Mutex<DirectionState>);

#[derive(Debug, Default)]
struct DirectionState {
    impairment: Impairment,
    counts: Counts,
    sender: Option<SocketAddr>,
}

impl Direction {
    fn state(&self) -> MutexGuard<'_, DirectionState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A datagram that waits for its time. Of two with the same time, the one that came first is less.
#[derive(Debug, PartialEq, Eq)]
struct Waiting {
    due: Instant,
    number: u64,
    payload: Vec<u8>,
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Forwards what one end sends to the other. The address of the latter is the sender of what comes
/// `back`.
async fn relay(
    from: Arc<UdpSocket>,
    to: Arc<UdpSocket>,
    there: Arc<Direction>,
    back: Arc<Direction>,
    rng: Xoshiro256PlusPlus,
) {
    let mut link = Link::new(rng, Instant::now());
    let own = from.local_addr().map(|address| address.ip());
    let mut waiting = BinaryHeap::<Reverse<Waiting>>::new();
    let mut buffer = vec![0; LARGEST];
    loop {
        let due = waiting.peek().map(|Reverse(next)| next.due);
        tokio::select! {
            // Otherwise an end that sends without a pause would delay what is due.
            biased;
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                let Some(Reverse(next)) = waiting.pop() else { continue };
                let receiver = back.state().sender;
                let sent = match receiver {
                    Some(receiver) => to.send_to(&next.payload, receiver).await.is_ok(),
                    None => false,
                };
                let counts = &mut there.state().counts;
                *(if sent { &mut counts.forwarded } else { &mut counts.unreachable }) += 1;
            }
            received = from.recv_from(&mut buffer) => {
                let (length, sender) = match received {
                    Ok(received) => received,
                    Err(error) => {
                        warn!(%error, "the emulated network stops in one direction");
                        return;
                    }
                };
                if !sender.ip().is_loopback() && own.as_ref().ok() != Some(&sender.ip()) {
                    continue;
                }
                let mut state = there.state();
                state.sender = Some(sender);
                state.counts.received += 1;
                let fate = if waiting.len() < MOST_WAITING {
                    link.pass(&state.impairment, length, Instant::now())
                } else {
                    Fate::Overflowed
                };
                match fate {
                    Fate::Due(due) => {
                        let (number, payload) = (state.counts.received, buffer[..length].to_vec());
                        waiting.push(Reverse(Waiting { due, number, payload }));
                    }
                    Fate::Lost => state.counts.lost += 1,
                    Fate::Overflowed => state.counts.overflowed += 1,
                }
            }
        }
    }
}

/// What becomes of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It reaches the other end at this moment.
    Due(Instant),
    Lost,
    Overflowed,
}

/// One direction of the emulated link.
#[derive(Debug)]
struct Link {
    rng: Xoshiro256PlusPlus,
    /// When everything before has left a link with a rate.
    free: Instant,
    /// When the last datagram that kept its order is due.
    last: Instant,
}

impl Link {
    fn new(rng: Xoshiro256PlusPlus, now: Instant) -> Self {
        Self { rng, free: now, last: now }
    }

    /// Decides on a datagram of so many bytes that arrives now.
    fn pass(&mut self, impairment: &Impairment, bytes: usize, now: Instant) -> Fate {
        let Impairment { delay, jitter, loss, reordering, rate } = *impairment;
        if self.rng.random_bool(loss.0) {
            return Fate::Lost;
        }
        self.free = match rate {
            None => now,
            Some(rate) => {
                let turn = self.free.max(now);
                if turn - now > LONGEST_QUEUE {
                    return Fate::Overflowed;
                }
                turn + Duration::from_secs_f64(bytes as f64 * 8.0 / rate.get() as f64)
            }
        };
        let due = self.free + delay + jitter.mul_f64(self.rng.random_range(0.0..=1.0));
        if self.rng.random_bool(reordering.0) {
            return Fate::Due(due.max(self.last) + HELD_BACK);
        }
        // A delay that is shortened does not reorder what already waits.
        self.last = due.max(self.last);
        Fate::Due(self.last)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// A relay, and both ends, each of which knows where the other is.
    struct Call {
        netem: Netem,
        caller: UdpSocket,
        callee: UdpSocket,
    }

    async fn call() -> Call {
        let netem = Netem::start(7).await.unwrap();
        let caller = end(&netem, End::Caller).await;
        let callee = end(&netem, End::Callee).await;
        callee.send(b"hello").await.unwrap();
        until(&netem, End::Callee, |counts| counts.unreachable == 1).await;
        caller.send(b"hello").await.unwrap();
        assert_eq!(heard(&callee).await, b"hello");
        Call { netem, caller, callee }
    }

    async fn end(netem: &Netem, end: End) -> UdpSocket {
        let socket = UdpSocket::bind("0.0.0.0:0").await.unwrap();
        socket.connect(netem.address(end)).await.unwrap();
        socket
    }

    async fn heard(end: &UdpSocket) -> Vec<u8> {
        let mut buffer = [0; 2000];
        let length = timeout(PATIENCE, end.recv(&mut buffer)).await.unwrap().unwrap();
        buffer[..length].to_vec()
    }

    async fn until(netem: &Netem, from: End, expected: impl Fn(&Counts) -> bool) {
        let reached = async {
            while !expected(&netem.counts(from)) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let late = timeout(PATIENCE, reached).await.is_err();
        assert!(!late, "{:?}", netem.counts(from));
    }

    /// Sends numbered datagrams, so slowly that no buffer of the kernel overflows.
    async fn count(end: &UdpSocket, up_to: u32) {
        for number in 0..up_to {
            end.send(&number.to_be_bytes()).await.unwrap();
            tokio::task::yield_now().await;
        }
    }

    fn numbers(received: &[Vec<u8>]) -> Vec<u32> {
        received.iter().map(|bytes| u32::from_be_bytes(bytes[..].try_into().unwrap())).collect()
    }

    #[tokio::test]
    async fn without_impairment_all_pass_in_order_both_ways_and_to_where_an_end_has_moved() {
        let Call { netem, caller, callee } = call().await;
        count(&caller, 50).await;
        callee.send(b"back").await.unwrap();
        let mut received = Vec::new();
        for _ in 0..50 {
            received.push(heard(&callee).await);
        }
        assert_eq!(numbers(&received), (0..50).collect::<Vec<_>>());
        assert_eq!(heard(&caller).await, b"back");
        let moved = end(&netem, End::Caller).await;
        moved.send(b"moved").await.unwrap();
        assert_eq!(heard(&callee).await, b"moved");
        callee.send(b"found").await.unwrap();
        assert_eq!(heard(&moved).await, b"found");
        let expected = Counts { received: 52, forwarded: 52, ..Counts::default() };
        assert_eq!(netem.counts(End::Caller), expected);
        let expected = Counts { received: 3, forwarded: 2, unreachable: 1, ..Counts::default() };
        assert_eq!(netem.counts(End::Callee), expected);
    }

    #[tokio::test]
    async fn it_loses_the_share_that_it_is_told_to_of_one_direction() {
        let Call { netem, caller, callee } = call().await;
        let loss = Share::new(0.25).unwrap();
        netem.impair(End::Caller, Impairment { loss, ..Impairment::default() });
        for _ in 0..8 {
            let before = netem.counts(End::Caller).received;
            count(&caller, 100).await;
            until(&netem, End::Caller, |counts| counts.received == before + 100).await;
        }
        until(&netem, End::Caller, |counts| counts.lost + counts.forwarded == 801).await;
        let counts = netem.counts(End::Caller);
        assert!((160..=240).contains(&counts.lost), "{counts:?}");
        count(&callee, 50).await;
        until(&netem, End::Callee, |counts| counts.forwarded == 50).await;

        netem.impair(End::Caller, Impairment { loss: Share::ALL, ..Impairment::default() });
        count(&caller, 10).await;
        until(&netem, End::Caller, |after| after.lost == counts.lost + 10).await;
        assert_eq!(netem.counts(End::Callee).lost, 0);
    }

    #[tokio::test]
    async fn each_takes_at_least_the_delay_and_jitter_keeps_the_order() {
        let Call { netem, caller, callee } = call().await;
        let delay = Duration::from_millis(40);
        netem.impair(End::Caller, Impairment { delay, jitter: delay, ..Impairment::default() });
        let sent = Instant::now();
        count(&caller, 100).await;
        let mut received = vec![heard(&callee).await];
        assert!(sent.elapsed() >= delay, "{:?}", sent.elapsed());
        for _ in 1..100 {
            received.push(heard(&callee).await);
        }
        assert_eq!(numbers(&received), (0..100).collect::<Vec<_>>());
        // What is sent without a delay now does not overtake them.
        count(&caller, 2).await;
        netem.impair(End::Caller, Impairment::default());
        caller.send(&9_u32.to_be_bytes()).await.unwrap();
        let last = [heard(&callee).await, heard(&callee).await, heard(&callee).await];
        assert_eq!(numbers(&last), [0, 1, 9]);
    }

    #[tokio::test]
    async fn reordered_ones_come_later_and_none_is_missing() {
        let Call { netem, caller, callee } = call().await;
        let reordering = Share::new(0.2).unwrap();
        netem.impair(End::Caller, Impairment { reordering, ..Impairment::default() });
        count(&caller, 100).await;
        let mut received = Vec::new();
        for _ in 0..100 {
            received.push(heard(&callee).await);
        }
        let mut numbers = numbers(&received);
        assert!(!numbers.is_sorted(), "{numbers:?}");
        numbers.sort_unstable();
        assert_eq!(numbers, (0..100).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_throttled_link_queues_and_then_drops() {
        let Call { netem, caller, callee } = call().await;
        // 10 ms for each datagram, so the queue is full after some thirty.
        let rate = NonZeroU64::new(800_000);
        netem.impair(End::Caller, Impairment { rate, ..Impairment::default() });
        let sent = Instant::now();
        for _ in 0..60 {
            caller.send(&[7; 1000]).await.unwrap();
        }
        for _ in 0..20 {
            heard(&callee).await;
        }
        assert!(sent.elapsed() >= Duration::from_millis(200), "{:?}", sent.elapsed());
        until(&netem, End::Caller, |counts| counts.forwarded + counts.overflowed == 61).await;
        let counts = netem.counts(End::Caller);
        assert!(counts.overflowed > 0 && counts.forwarded > 20, "{counts:?}");
        assert_eq!(counts.lost, 0);
    }

    #[test]
    fn a_link_with_the_same_seed_decides_the_same() {
        let now = Instant::now();
        let impairment = Impairment {
            jitter: Duration::from_millis(50),
            loss: Share::new(0.3).unwrap(),
            reordering: Share::new(0.1).unwrap(),
            ..Impairment::default()
        };
        let fates = |seed| {
            let mut link = Link::new(Xoshiro256PlusPlus::seed_from_u64(seed), now);
            (0..200).map(|_| link.pass(&impairment, 100, now)).collect::<Vec<_>>()
        };
        assert_eq!(fates(1), fates(1));
        assert_ne!(fates(1), fates(2));
    }

    #[test]
    fn a_share_is_between_none_and_all() {
        assert_eq!(Share::new(0.0), Some(Share::NONE));
        assert_eq!(Share::new(1.0), Some(Share::ALL));
        for wrong in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert_eq!(Share::new(wrong), None);
        }
    }

    #[tokio::test]
    async fn it_ends_when_dropped() {
        let Call { netem, caller, .. } = call().await;
        let address = netem.address(End::Callee);
        drop(netem);
        let free = async {
            while UdpSocket::bind(address).await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        assert!(timeout(PATIENCE, free).await.is_ok());
        drop(caller);
    }
}

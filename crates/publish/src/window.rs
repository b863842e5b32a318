//! The frames that are sent and not yet settled: which to retry, and when.
//!
//! Acks arrive in any order, a frame may be sent several times, and a late answer to an early
//! sending must not disturb a later one. So frames are numbered as they are admitted, and answers
//! name the number. A frame is either out (sent, until its deadline) or due (to be sent).
//!
//! Invariant: due frames are sent oldest first and before new ones, so a session's frames stay in
//! order except for those whose acks were lost; a settled frame is never sent again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use async_nats::Subject;
use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::Settlement;

/// An encoded frame, where it goes, and its message id.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) subject: Subject,
    /// `{session_id}:{seq}`
    pub(super) message_id: String,
    pub(super) payload: Bytes,
    /// Told what became of the frame, if somebody waits for it.
    pub(super) tracker: Option<oneshot::Sender<Settlement>>,
}

impl Outgoing {
    /// Tells whoever waits what became of the frame; they may be gone.
    pub(super) fn tell(self, settlement: Settlement) {
        if let Some(tracker) = self.tracker {
            let _ = tracker.send(settlement);
        }
    }
}

#[derive(Debug)]
struct Unsettled {
    outgoing: Outgoing,
    /// Distinguishes the deadline of the last sending from earlier ones.
    sendings: u32,
}

#[derive(Debug)]
pub(super) struct Window {
    ack_timeout: Duration,
    next: u64,
    unsettled: BTreeMap<u64, Unsettled>,
    due: BTreeSet<u64>,
    /// Deadline, number and count of sendings, in the order of sending and so of the deadlines.
    deadlines: VecDeque<(Instant, u64, u32)>,
}

impl Window {
    pub(super) fn new(ack_timeout: Duration) -> Self {
        Self {
            ack_timeout,
            next: 0,
            unsettled: BTreeMap::new(),
            due: BTreeSet::new(),
            deadlines: VecDeque::new(),
        }
    }

    /// Returns the number of frames that are out or due.
    pub(super) fn len(&self) -> usize {
        self.unsettled.len()
    }

    /// Returns the number below which every frame is settled.
    pub(super) fn settled(&self) -> u64 {
        self.unsettled.first_key_value().map_or(self.next, |(number, _)| *number)
    }

    /// Admits a new frame, due at once.
    pub(super) fn admit(&mut self, outgoing: Outgoing) {
        self.unsettled.insert(self.next, Unsettled { outgoing, sendings: 0 });
        self.due.insert(self.next);
        self.next += 1;
    }

    /// Takes the oldest due frame as sent, with whether it was sent before.
    pub(super) fn send_next(&mut self, now: Instant) -> Option<(u64, &Outgoing, bool)> {
        let number = self.due.pop_first()?;
        let frame = self.unsettled.get_mut(&number)?;
        frame.sendings = frame.sendings.saturating_add(1);
        self.deadlines.push_back((now + self.ack_timeout, number, frame.sendings));
        Some((number, &frame.outgoing, frame.sendings > 1))
    }

    /// Removes a frame that is acknowledged or failed; `None` if it was settled before.
    pub(super) fn settle(&mut self, number: u64) -> Option<Outgoing> {
        self.due.remove(&number);
        self.unsettled.remove(&number).map(|frame| frame.outgoing)
    }

    /// Makes a frame due again that the stream did not store; false if it was settled before.
    pub(super) fn send_again(&mut self, number: u64) -> bool {
        let known = self.unsettled.contains_key(&number);
        if known {
            self.due.insert(number);
        }
        known
    }

    /// Makes all frames due again, after a lost connection.
    pub(super) fn send_all_again(&mut self) {
        self.due.extend(self.unsettled.keys());
        self.deadlines.clear();
    }

    /// Makes frames due again that got no answer in time, and returns their number.
    pub(super) fn expire(&mut self, now: Instant) -> usize {
        let mut expired = 0;
        while let Some((deadline, number, sendings)) = self.deadlines.front().copied() {
            let waiting = !self.due.contains(&number)
                && self.unsettled.get(&number).is_some_and(|frame| frame.sendings == sendings);
            if waiting && deadline > now {
                break;
            }
            self.deadlines.pop_front();
            if waiting {
                self.due.insert(number);
                expired += 1;
            }
        }
        expired
    }

    /// Returns when [`Window::expire`] may next have an effect.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.front().map(|(deadline, ..)| *deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(5);

    fn outgoing(number: usize) -> Outgoing {
        let (subject, payload) = (Subject::from("s"), Bytes::new());
        Outgoing { subject, message_id: format!("s:{number}"), payload, tracker: None }
    }

    fn window_of(count: usize, now: Instant) -> Window {
        let mut window = Window::new(TIMEOUT);
        for number in 0..count {
            window.admit(outgoing(number));
        }
        while window.send_next(now).is_some() {}
        window
    }

    #[test]
    fn what_is_settled_is_never_sent_again() {
        let now = Instant::now();
        let mut window = window_of(3, now);
        assert!(window.settle(1).is_some());
        assert!(window.settle(1).is_none());
        assert!(!window.send_again(1));
        window.send_all_again();
        let again: Vec<_> = std::iter::from_fn(|| window.send_next(now).map(|(n, _, r)| (n, r))).collect();
        assert_eq!(again, [(0, true), (2, true)]);
    }

    #[test]
    fn everything_below_the_mark_is_settled() {
        let mut window = window_of(3, Instant::now());
        assert_eq!(window.settled(), 0);
        window.settle(1);
        assert_eq!(window.settled(), 0);
        window.settle(0);
        assert_eq!(window.settled(), 2);
        window.settle(2);
        assert_eq!(window.settled(), 3);
        assert_eq!(window.len(), 0);
    }

    #[test]
    fn what_is_due_goes_oldest_first_and_before_new_frames() {
        let now = Instant::now();
        let mut window = window_of(3, now);
        window.send_again(2);
        window.send_again(0);
        window.admit(outgoing(3));
        let order: Vec<_> = std::iter::from_fn(|| window.send_next(now).map(|(n, ..)| n)).collect();
        assert_eq!(order, [0, 2, 3]);
    }

    #[test]
    fn a_frame_without_an_answer_is_due_once_its_last_deadline_is_over() {
        let start = Instant::now();
        let mut window = window_of(2, start);
        assert_eq!(window.expire(start + TIMEOUT / 2), 0);
        // The stream refused frame 0 at half time and it was sent again: the first deadline is
        // void.
        window.send_again(0);
        assert_eq!(window.send_next(start + TIMEOUT / 2).map(|(n, ..)| n), Some(0));
        assert_eq!(window.expire(start + TIMEOUT), 1, "frame 1");
        assert_eq!(window.next_deadline(), Some(start + TIMEOUT / 2 + TIMEOUT));
        assert_eq!(window.expire(start + TIMEOUT * 2), 1, "frame 0");
        assert_eq!(window.next_deadline(), None);
    }
}

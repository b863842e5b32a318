//! The background task of a publisher, between the buffer and the stream.
//!
//! It sends frames while the window has room, settles them as answers arrive, and pauses when the
//! stream does not store them: frames of a whole window may fail at once, so the pause is shared by
//! all.
//!
//! Invariant: a frame leaves the window only when it is acknowledged or failed, and is counted
//! then.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::client::PublishErrorKind;
use async_nats::connection::State;
use async_nats::{Client, HeaderMap, Message, Subject, Subscriber, header};
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures_util::StreamExt;
use futures_util::stream::ReadyChunks;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::answer::Answer;
use crate::window::{Outgoing, Window};
use crate::{Counters, PublishError, PublisherConfig, Settlement, add};

/// Maximum number of frames or answers handled at once.
const BATCH: usize = 256;

/// Interval of checks for a lost or restored connection: async-nats reports events only to the
/// caller that made the connection.
const CONNECTION_POLL: Duration = Duration::from_millis(100);

/// Minimum time between two log lines about rejected frames.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Consecutive setbacks before the first log line: an election or a restart causes fewer. Each
/// later line comes after twice as many, so a long outage logs little.
const SETBACKS_TO_LOG: u32 = 4;

pub(super) struct Delivery {
    client: Client,
    /// The subject without the meeting's partition, for logs.
    subject: String,
    inbox: String,
    answers: ReadyChunks<Subscriber>,
    frames: mpsc::Receiver<Outgoing>,
    config: PublisherConfig,
    counters: Arc<Counters>,
    settled: watch::Sender<u64>,
    window: Window,
    /// The client's count of connects when the last frame was sent.
    connects: u64,
    /// Consecutive pauses since the stream last stored a frame.
    setbacks: u32,
    waits: ExponentialBackoff,
    /// End of the current pause.
    paused_until: Option<Instant>,
    /// Earliest time of the next log line about a rejected frame.
    log_refusals_from: Instant,
}

/// Ends the task: the client is closed.
struct Closed;

impl Delivery {
    pub(super) async fn new(
        client: Client,
        subject: String,
        config: PublisherConfig,
        frames: mpsc::Receiver<Outgoing>,
        counters: Arc<Counters>,
        settled: watch::Sender<u64>,
    ) -> Result<Self, PublishError> {
        let inbox = client.new_inbox();
        let answers = client.subscribe(format!("{inbox}.*")).await.map_err(PublishError::Subscribe)?;
        let window = Window::new(config.ack_timeout);
        let connects = client.statistics().connects.load(Ordering::Relaxed);
        let waits = waits(&config);
        Ok(Self {
            client,
            subject,
            inbox,
            answers: answers.ready_chunks(BATCH),
            frames,
            config,
            counters,
            settled,
            window,
            connects,
            setbacks: 0,
            waits,
            paused_until: None,
            log_refusals_from: Instant::now(),
        })
    }

    /// Runs until the client is closed, or until the publisher is dropped.
    pub(super) async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        while let Ok(more) = self.turn(&mut batch).await {
            self.report();
            if !more {
                return;
            }
        }
        self.give_up();
    }

    /// Sends what is due, then waits for the next event. Returns false when the publisher was
    /// dropped.
    async fn turn(&mut self, batch: &mut Vec<Outgoing>) -> Result<bool, Closed> {
        let now = Instant::now();
        let connected = self.check_connection();
        if connected && self.window.expire(now) > 0 {
            self.back_off(now, "no ack in time");
        }
        self.paused_until = self.paused_until.filter(|until| *until > now);
        let open = connected && self.paused_until.is_none();
        if open {
            self.send_due(now).await?;
        }
        let room = if open { self.config.window.saturating_sub(self.window.len()).min(BATCH) } else { 0 };
        let mut wake = now + CONNECTION_POLL;
        if connected {
            for moment in [self.paused_until, self.window.next_deadline()].into_iter().flatten() {
                wake = wake.min(moment);
            }
        }
        tokio::select! {
            biased;
            answers = self.answers.next() => {
                answers.ok_or(Closed)?.iter().for_each(|answer| self.take_answer(answer));
            }
            count = self.frames.recv_many(batch, room), if room > 0 => {
                if count == 0 {
                    return Ok(false);
                }
                for outgoing in batch.drain(..) {
                    self.window.admit(outgoing);
                }
                self.counters.in_flight.store(self.window.len() as u64, Ordering::Relaxed);
                self.send_due(Instant::now()).await?;
            }
            () = tokio::time::sleep_until(wake) => {}
        }
        Ok(true)
    }

    /// Returns whether the connection is up. A lost connection makes every frame due again, since
    /// its answer may be lost too.
    fn check_connection(&mut self) -> bool {
        let connects = self.client.statistics().connects.load(Ordering::Relaxed);
        if connects != self.connects {
            self.connects = connects;
            self.window.send_all_again();
        }
        self.client.connection_state() == State::Connected
    }

    async fn send_due(&mut self, now: Instant) -> Result<(), Closed> {
        while let Some((number, outgoing, again)) = self.window.send_next(now) {
            if again {
                add(&self.counters.retried, 1);
            }
            let mut headers = HeaderMap::new();
            headers.insert(header::NATS_MESSAGE_ID, outgoing.message_id.as_str());
            let reply = Subject::from(format!("{}.{number}", self.inbox));
            let sent = self
                .client
                .publish_with_reply_and_headers(
                    outgoing.subject.clone(),
                    reply,
                    headers,
                    outgoing.payload.clone(),
                )
                .await;
            match sent {
                Ok(()) => {}
                Err(error) if error.kind() == PublishErrorKind::Send => return Err(Closed),
                Err(error) => self.fail(number, &error.to_string()),
            }
        }
        Ok(())
    }

    fn take_answer(&mut self, message: &Message) {
        let number = message.subject.rsplit('.').next().and_then(|number| number.parse().ok());
        let Some(number) = number else { return };
        match Answer::read(message.status, &message.payload) {
            Answer::Stored { duplicate } => {
                if let Some(outgoing) = self.window.settle(number) {
                    if std::mem::take(&mut self.setbacks) > 0 {
                        self.waits = waits(&self.config);
                        self.counters.set_back(None);
                    }
                    add(&self.counters.acknowledged, 1);
                    add(&self.counters.duplicates, duplicate.into());
                    outgoing.tell(if duplicate { Settlement::Duplicate } else { Settlement::Stored });
                }
            }
            Answer::Later(why) => {
                if self.window.send_again(number) {
                    self.back_off(Instant::now(), why);
                }
            }
            Answer::Never(why) => self.fail(number, &why),
            Answer::Foreign => {}
        }
    }

    /// Starts a pause, unless one is running: a whole window of failures causes one pause.
    fn back_off(&mut self, now: Instant, why: &'static str) {
        if self.paused_until.is_none_or(|until| until <= now) {
            self.setbacks = self.setbacks.saturating_add(1);
            self.counters.set_back(Some(why));
            self.paused_until = self.waits.next().map(|wait| now + wait);
            if self.setbacks >= SETBACKS_TO_LOG && self.setbacks.is_power_of_two() {
                tracing::warn!(
                    subject = self.subject,
                    waiting = self.window.len() + self.frames.len(),
                    setbacks = self.setbacks,
                    reason = why,
                    "stream does not store frames; retrying"
                );
            }
        }
    }

    fn fail(&mut self, number: u64, why: &str) {
        let Some(outgoing) = self.window.settle(number) else { return };
        add(&self.counters.failed, 1);
        let now = Instant::now();
        if now >= self.log_refusals_from {
            self.log_refusals_from = now + LOG_EVERY;
            tracing::warn!(
                subject = %outgoing.subject,
                message_id = outgoing.message_id,
                bytes = outgoing.payload.len(),
                failed = self.counters.failed.load(Ordering::Relaxed),
                error = why,
                "stream rejected a frame permanently"
            );
        }
        outgoing.tell(Settlement::Rejected);
    }

    fn report(&self) {
        self.counters.in_flight.store(self.window.len() as u64, Ordering::Relaxed);
        let settled = self.window.settled();
        self.settled.send_if_modified(|known| std::mem::replace(known, settled) != settled);
    }

    /// Counts everything as failed, since the client is closed.
    fn give_up(mut self) {
        self.frames.close();
        let mut lost = self.window.len() as u64;
        while self.frames.try_recv().is_ok() {
            lost += 1;
        }
        add(&self.counters.failed, lost);
        self.counters.in_flight.store(0, Ordering::Relaxed);
        if lost > 0 {
            tracing::warn!(
                subject = self.subject,
                lost,
                "NATS client was closed before all frames were acknowledged"
            );
        }
    }
}

/// The pauses after consecutive setbacks. They double from the first to the longest, and jitter
/// removes up to half of each; `backon` adds instead, so its bounds are halved.
fn waits(config: &PublisherConfig) -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(config.retry_first.min(config.retry_longest) / 2)
        .with_max_delay(config.retry_longest / 2)
        .with_jitter()
        .without_max_times()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_bound() {
        let config = PublisherConfig::new("us".parse().unwrap(), "relay", "r1");
        let mut waits = waits(&config);
        for milliseconds in [100, 200, 400, 800, 1600, 2000, 2000] {
            let longest = Duration::from_millis(milliseconds);
            let wait = waits.next().unwrap();
            // `backon` computes with 24 bits.
            let rounding = Duration::from_micros(10);
            assert!((longest / 2 - rounding..=longest + rounding).contains(&wait), "{wait:?}");
        }
    }
}

//! Delivering requests: a receiver that is away or overloaded is tried again, a refusal ends the
//! replay.
//!
//! Invariant: a request is accepted, or the replay ends with an error; none is dropped.

use std::thread;
use std::time::{Duration, Instant};

use super::super::SinkError;
use crate::replay::http::{ANSWER_WITHIN, Address, Answer, Client, Header};
use crate::replay::progress::Control;

/// What makes a body a request of remote write 1.0.
const HEADERS: [(&str, &str); 3] = [
    ("Content-Type", "application/x-protobuf"),
    ("Content-Encoding", "snappy"),
    ("X-Prometheus-Remote-Write-Version", "0.1.0"),
];

/// The first pause before a request is tried again, and the longest.
const PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How often a pause checks whether the replay is stopped.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// How to reach a receiver.
#[derive(Clone, Debug)]
pub struct ReceiverConfig {
    /// The URL that takes remote write.
    pub address: Address,
    /// Headers of each request.
    pub headers: Vec<Header>,
    /// How long to try again while the receiver accepts nothing.
    pub patience: Duration,
}

pub(super) struct Receiver {
    config: ReceiverConfig,
    client: Client,
    control: Control,
}

const fn may_pass(status: u16) -> bool {
    matches!(status, 429 | 500..=599)
}

impl Receiver {
    pub(super) fn new(config: ReceiverConfig, control: Control) -> Self {
        let client = Client::new(config.headers.clone(), ANSWER_WITHIN.min(config.patience));
        Self { config, client, control }
    }

    /// Delivers a request, again and again while the receiver is away or overloaded.
    pub(super) fn deliver(&self, body: &[u8]) -> Result<(), SinkError> {
        let ReceiverConfig { address, patience, .. } = &self.config;
        let began = Instant::now();
        let mut pause = PAUSE;
        loop {
            self.control.check()?;
            let (problem, wait) = match self.client.post(address, &HEADERS, body) {
                Ok(Answer { status: 200..=299, .. }) => return Ok(()),
                Ok(answer) if may_pass(answer.status) => {
                    (answer.excerpt(), answer.retry_after.unwrap_or(pause))
                }
                Ok(answer) => {
                    let (excerpt, advice) = (answer.excerpt(), advice(&answer));
                    let refused = format!("{address} refused the samples: {excerpt}{advice}");
                    return Err(SinkError::Receiver(refused));
                }
                Err(problem) => (problem, pause),
            };
            if began.elapsed() + wait > *patience {
                let patience = humantime::format_duration(*patience);
                let gave_up = format!("{address} accepted nothing for {patience}: {problem}");
                return Err(SinkError::Receiver(gave_up));
            }
            tracing::warn!(receiver = %address, problem, "the receiver did not accept a request; trying again");
            self.sleep(wait)?;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn sleep(&self, wait: Duration) -> Result<(), SinkError> {
        let until = Instant::now() + wait;
        while Instant::now() < until {
            self.control.check()?;
            thread::sleep(CHECK_INTERVAL.min(until.saturating_duration_since(Instant::now())));
        }
        Ok(())
    }
}

/// What to do about a refusal.
fn advice(answer: &Answer) -> &'static str {
    let body = answer.body.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| body.contains(word));
    match answer.status {
        404 | 405 => {
            "; Prometheus accepts remote write at /api/v1/write, with --web.enable-remote-write-receiver"
        }
        401 | 403 => "; give a user and password in the URL, or a header with --remote-write-header",
        400 if says(&["out of order", "out-of-order", "out of bounds", "too old", "too far in the past"]) => {
            "; to accept samples of the past, Prometheus needs `storage.tsdb.out_of_order_time_window` in its \
             configuration: set it to more than the age of the window"
        }
        400 if says(&["duplicate"]) => {
            "; these series already have other values at these times: use another --replay-id"
        }
        413 => "; the receiver accepts smaller requests only",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_is_tried_again() {
        for status in [429, 500, 503] {
            assert!(may_pass(status), "{status}");
        }
        for status in [400, 404, 422, 301] {
            assert!(!may_pass(status), "{status}");
        }
    }

    #[test]
    fn a_refusal_comes_with_advice() {
        let advice =
            |status, body: &str| advice(&Answer { status, retry_after: None, body: body.to_owned() });
        assert!(advice(400, "out of order sample\n").contains("out_of_order_time_window"));
        assert!(advice(400, "out of bounds").contains("out_of_order_time_window"));
        assert!(advice(404, "404 page not found").contains("--web.enable-remote-write-receiver"));
        assert_eq!(advice(400, "label name is not unique"), "");
    }
}

//! Delivering requests: what is worth trying again, and what is not.

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

/// How often a wish to stop is looked for meanwhile.
const LOOK: Duration = Duration::from_millis(50);

/// A receiver of remote write.
pub(super) struct Receiver {
    address: Address,
    client: Client,
    give_up_after: Duration,
    control: Control,
}

/// What became of a request.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Taken,
    /// Later, perhaps.
    Again,
    /// Never.
    Refused,
}

const fn judge(status: u16) -> Verdict {
    match status {
        200..=299 => Verdict::Taken,
        429 | 500..=599 => Verdict::Again,
        _ => Verdict::Refused,
    }
}

impl Receiver {
    pub(super) fn new(
        address: Address,
        headers: Vec<Header>,
        give_up_after: Duration,
        control: Control,
    ) -> Self {
        Self {
            address,
            client: Client::new(headers, ANSWER_WITHIN.min(give_up_after)),
            give_up_after,
            control,
        }
    }

    /// Delivers a request. While the receiver is away or overloaded it is tried again, for a while.
    pub(super) fn deliver(&self, body: &[u8]) -> Result<(), SinkError> {
        let began = Instant::now();
        let mut pause = PAUSE;
        loop {
            self.control.check()?;
            let answer = self.client.post(&self.address, &HEADERS, body);
            let (problem, wait) = match answer {
                Ok(answer) => match judge(answer.status) {
                    Verdict::Taken => return Ok(()),
                    Verdict::Refused => return Err(self.refused(&answer)),
                    Verdict::Again => (answer.excerpt(), answer.retry_after.unwrap_or(pause)),
                },
                Err(problem) => (problem, pause),
            };
            if began.elapsed() + wait > self.give_up_after {
                let (address, after) = (&self.address, humantime::format_duration(self.give_up_after));
                return Err(SinkError::Receiver(format!("{address} takes nothing for {after}: {problem}")));
            }
            tracing::warn!(receiver = %self.address, problem, "trying again");
            self.sleep(wait)?;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn sleep(&self, wait: Duration) -> Result<(), SinkError> {
        let until = Instant::now() + wait;
        while Instant::now() < until {
            self.control.check()?;
            thread::sleep(LOOK.min(until.saturating_duration_since(Instant::now())));
        }
        Ok(())
    }

    fn refused(&self, answer: &Answer) -> SinkError {
        let said = answer.excerpt();
        let advice = advice(answer);
        SinkError::Receiver(format!("{} refuses the samples, {said}{advice}", self.address))
    }
}

/// What helps with a refusal.
fn advice(answer: &Answer) -> &'static str {
    let body = answer.body.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| body.contains(word));
    match answer.status {
        404 | 405 => {
            "; Prometheus takes remote write at /api/v1/write, and only with --web.enable-remote-write-receiver"
        }
        401 | 403 => "; give a user and password in the URL, or a header with --remote-write-header",
        400 if says(&["out of order", "out-of-order", "out of bounds", "too old", "too far in the past"]) => {
            "; the past is only taken with an out-of-order window, for Prometheus `storage.tsdb.out_of_order_time_window` \
             in its configuration: make it longer than the window is old"
        }
        400 if says(&["duplicate"]) => {
            "; other values are there for the same series and times: use another --replay-id"
        }
        413 => "; it takes smaller requests only",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_is_tried_again() {
        for (status, verdict) in [
            (200, Verdict::Taken),
            (204, Verdict::Taken),
            (400, Verdict::Refused),
            (404, Verdict::Refused),
            (422, Verdict::Refused),
            (429, Verdict::Again),
            (500, Verdict::Again),
            (503, Verdict::Again),
            (301, Verdict::Refused),
        ] {
            assert_eq!(judge(status), verdict, "{status}");
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

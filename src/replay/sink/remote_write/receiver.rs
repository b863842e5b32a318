//! Delivering requests: a receiver that is away or overloaded is tried again, a refusal ends the
//! replay.
//!
//! Invariant: a request is accepted, or the replay ends with an error; none is dropped.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::super::SinkError;
use crate::http_client::{ANSWER_WITHIN, Address, Answer, Header, HttpClient, HttpError};
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
    client: HttpClient,
    control: Control,
}

const fn may_pass(status: u16) -> bool {
    matches!(status, 429 | 500..=599)
}

impl Receiver {
    pub(super) fn new(config: ReceiverConfig, control: Control) -> Self {
        let client = HttpClient::new(config.headers.clone(), ANSWER_WITHIN.min(config.patience));
        Self { config, client, control }
    }

    /// Delivers a request, again and again while the receiver is away or overloaded. The last
    /// attempt is at the end of the patience, whatever pause the receiver asks for.
    pub(super) fn deliver(&self, body: &Arc<[u8]>) -> Result<(), SinkError> {
        let ReceiverConfig { address, patience, .. } = &self.config;
        let began = Instant::now();
        let mut pause = PAUSE;
        loop {
            let (problem, asked) = match self.post(body)? {
                Ok(Answer { status: 200..=299, .. }) => return Ok(()),
                Ok(answer) if may_pass(answer.status) => (answer.excerpt(), answer.retry_after),
                Ok(answer) => {
                    let (excerpt, advice) = (answer.excerpt(), advice(&answer));
                    let refused = format!("{address} refused the samples: {excerpt}{advice}");
                    return Err(SinkError::Receiver(refused));
                }
                Err(error) => (error.to_string(), None),
            };
            let left = patience.saturating_sub(began.elapsed());
            if left.is_zero() {
                let patience = humantime::format_duration(*patience);
                let asks = |pause| format!("; it asks for a pause of {}", humantime::format_duration(pause));
                return Err(SinkError::Receiver(format!(
                    "{address} accepted nothing for {patience}, which is the --remote-write-patience: {problem}{}",
                    asked.map(asks).unwrap_or_default()
                )));
            }
            tracing::warn!(receiver = %address, problem, "the receiver did not accept a request; trying again");
            self.sleep(asked.map_or(pause, |asked| asked.max(PAUSE)).min(left))?;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn post(&self, body: &Arc<[u8]>) -> Result<Result<Answer, HttpError>, SinkError> {
        let (client, to, body) = (self.client.clone(), self.config.address.clone(), Arc::clone(body));
        let answer = self.control.unless_stopped_blocking(move || client.post(&to, &HEADERS, &body))?;
        Ok(answer.unwrap_or_else(|error| Err(HttpError::Thread(error))))
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
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::sync::Mutex;

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

    /// Answers every request with this head, and notes when each came.
    fn answering(head: &'static str) -> (Address, Arc<Mutex<Vec<Instant>>>) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&requests);
        thread::spawn(move || {
            for connection in listener.incoming() {
                let mut connection = connection.unwrap();
                let _ = connection.read(&mut [0; 4096]);
                noted.lock().unwrap().push(Instant::now());
                let _ =
                    write!(connection, "HTTP/1.1 {head}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            }
        });
        (address, requests)
    }

    fn receiver(address: Address, control: Control) -> Receiver {
        let config = ReceiverConfig { address, headers: Vec::new(), patience: Duration::from_secs(1) };
        Receiver::new(config, control)
    }

    #[test]
    fn patience_is_used_to_its_end_and_the_error_says_what_was_asked_for() {
        for (head, said) in [
            ("500 x", "status 500"),
            ("429 x\r\nretry-after: 99999", "status 429; it asks for a pause of 1day 3h 46m 39s"),
        ] {
            let (address, requests) = answering(head);
            let shown = address.to_string();
            let error = receiver(address, Control::default()).deliver(&[1, 2, 3].into()).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("{shown} accepted nothing for 1s, which is the --remote-write-patience: {said}")
            );
            let requests = requests.lock().unwrap();
            let tried_for = *requests.last().unwrap() - requests[0];
            assert!(requests.len() >= 2 && tried_for >= Duration::from_millis(900), "{tried_for:?}");
        }
    }

    #[test]
    fn a_receiver_that_asks_for_no_pause_gets_one() {
        let (address, requests) = answering("503 x\r\nretry-after: 0");
        receiver(address, Control::default()).deliver(&[].into()).unwrap_err();
        assert!(requests.lock().unwrap().len() <= 6);
    }

    #[test]
    fn a_receiver_that_never_answers_does_not_delay_a_stop() {
        let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = format!("http://{}", silent.local_addr().unwrap()).parse().unwrap();
        let control = Control::default();
        let mut receiver = receiver(address, control.clone());
        receiver.config.patience = Duration::from_secs(3600);
        let (sender, stopped) = std::sync::mpsc::channel();
        thread::spawn(move || sender.send(receiver.deliver(&[].into())));
        let _asked = silent.accept().unwrap();
        control.stop();
        let done = stopped.recv_timeout(Duration::from_secs(20)).expect("it waits for the receiver");
        assert!(matches!(done, Err(SinkError::Stopped)));
    }
}

//! What the server refused, for those that wait for its answer in vain.
//!
//! A server answers nobody whose message it refuses: it sends an error over the connection, and the
//! request times out. A time-out suggests a wrong URL, while a permission is missing. So the errors
//! of a connection are kept for a while, and whoever waited can look up the reason. Regions share a
//! connection, and an error about one of them says nothing about the others: an error that names a
//! subject concerns those that use it.
//!
//! Invariant: an error is kept once, however often it is repeated.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use async_nats::{ClientError, Event, ServerError};

use super::IO_ERROR;

/// The most errors that are kept.
const MOST: usize = 32;

/// Begins the server's error about permissions, and that about the subject of a message.
const VIOLATION: &str = "Permissions Violation";
const DENIED: &str = "Permissions Violation for Publish to ";

/// The last errors of a connection. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Refusals(Arc<Mutex<VecDeque<Refusal>>>);

#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    kind: RefusalKind,
    text: String,
    last: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RefusalKind {
    /// No connection could be made, or the server ended it.
    Connection,
    /// A message, because of its subject.
    Publish,
    /// A subscription, without which nobody gets an answer.
    Subscription,
}

impl Refusals {
    pub(super) fn note(&self, event: &Event, now: Instant) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (kind, text) = match event {
            Event::Connected => return kept.retain(|refusal| refusal.kind != RefusalKind::Connection),
            // An absent server refuses nothing.
            Event::ClientError(ClientError::Other(error)) if error.contains(IO_ERROR) => return,
            Event::ClientError(ClientError::Other(error)) => (RefusalKind::Connection, error.clone()),
            Event::ServerError(ServerError::Other(error)) if error.starts_with(DENIED) => {
                (RefusalKind::Publish, without_position(error))
            }
            Event::ServerError(ServerError::Other(error)) if error.starts_with(VIOLATION) => {
                (RefusalKind::Subscription, error.clone())
            }
            Event::ServerError(ServerError::Other(error)) => (RefusalKind::Connection, error.clone()),
            Event::ServerError(ServerError::AuthorizationViolation) => {
                (RefusalKind::Connection, "authorization violation".to_owned())
            }
            _ => return,
        };
        kept.retain(|refusal| refusal.text != text);
        kept.truncate(MOST - 1);
        kept.push_front(Refusal { kind, text, last: now });
    }

    /// Why there is no connection, if that is known.
    pub(crate) fn of_connection(&self) -> Option<String> {
        self.latest(|refusal| refusal.kind == RefusalKind::Connection)
    }

    /// The last error since a moment that concerns those who use subjects with this token.
    pub(crate) fn about(&self, token: &str, since: Instant) -> Option<String> {
        self.latest(|refusal| {
            refusal.last >= since
                && match refusal.kind {
                    RefusalKind::Connection => false,
                    RefusalKind::Publish => refusal.text.split(['.', '"']).any(|part| part == token),
                    RefusalKind::Subscription => true,
                }
        })
    }

    fn latest(&self, matches: impl Fn(&Refusal) -> bool) -> Option<String> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().find(|refusal| matches(refusal)).map(|refusal| refusal.text.clone())
    }
}

/// The subject of an acknowledgement ends with the place of its message: one error of many. It
/// begins with stream and consumer, or with domain and account before them.
fn without_position(error: &str) -> String {
    let Some((before, subject)) = error.split_once("\"$JS.ACK.") else { return error.to_owned() };
    let named = if subject.split('.').count() < 9 { 2 } else { 4 };
    let subject = subject.split('.').take(named).collect::<Vec<_>>().join(".");
    format!("{before}\"$JS.ACK.{subject}.>\"")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn denied(subject: &str) -> Event {
        Event::ServerError(ServerError::Other(format!("{DENIED}\"{subject}\"")))
    }

    #[test]
    fn an_error_about_a_subject_concerns_those_who_use_it() {
        let (refusals, start) = (Refusals::default(), Instant::now());
        refusals.note(&denied("$JS.API.STREAM.INFO.HEALTH_US_DLQ"), start);
        assert_eq!(refusals.about("HEALTH_US", start), None);
        refusals.note(&denied("$JS.API.CONSUMER.RESET.HEALTH_US.callsight-main"), start);
        let said = refusals.about("HEALTH_US", start).unwrap();
        assert!(said.ends_with("\"$JS.API.CONSUMER.RESET.HEALTH_US.callsight-main\""), "{said}");
        assert_eq!(refusals.about("HEALTH_US", start + Duration::from_secs(1)), None, "it is old");
    }

    #[test]
    fn errors_about_acknowledgements_are_one() {
        let (refusals, start) = (Refusals::default(), Instant::now());
        for place in 0..100 {
            let subject = format!("$JS.ACK.HEALTH_US.callsight-main.1.{place}.{place}.1764000000000000000.0");
            refusals.note(&denied(&subject), start);
        }
        assert_eq!(refusals.0.lock().unwrap().len(), 1);
        let said = refusals.about("HEALTH_US", start).unwrap();
        assert_eq!(said, format!("{DENIED}\"$JS.ACK.HEALTH_US.callsight-main.>\""));
        let subject = "$JS.ACK.us.a1b2c3.HEALTH_US.callsight-main.1.7.7.1764000000000000000.0.x";
        refusals.note(&denied(subject), start);
        assert!(refusals.about("HEALTH_US", start).unwrap().contains("us.a1b2c3.HEALTH_US.callsight-main.>"));
    }

    #[test]
    fn an_error_of_the_connection_holds_until_there_is_one() {
        let refusals = Refusals::default();
        refusals.note(&Event::ServerError(ServerError::AuthorizationViolation), Instant::now());
        assert_eq!(refusals.of_connection().as_deref(), Some("authorization violation"));
        refusals.note(&Event::Connected, Instant::now());
        assert_eq!(refusals.of_connection(), None);
    }

    #[test]
    fn the_oldest_are_forgotten_once_they_are_many() {
        let (refusals, start) = (Refusals::default(), Instant::now());
        for stream in 0..1000 {
            refusals.note(&denied(&format!("$JS.API.STREAM.INFO.S{stream}")), start);
        }
        assert_eq!(refusals.0.lock().unwrap().len(), 32);
        let kept: Vec<_> =
            (0..1000).filter(|stream| refusals.about(&format!("S{stream}"), start).is_some()).collect();
        assert_eq!(kept, (968..1000).collect::<Vec<_>>());
    }
}

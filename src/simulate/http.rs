//! Clients that send their frames themselves, over HTTP, as those do that no relay serves.
//!
//! A part of the clients is enough to show that way at work. So their number is bounded, and one
//! thread sends for those of a relay, one request after the other.
//!
//! Invariant: a frame is sent until it is stored or refused for good, and those of a session in
//! their order.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::drive::SimulateError;
use crate::http_client::{Address, HttpAccess, HttpClient};
use crate::ingest::tokens::{SigningKey, new_claims};
use callsight_frame::subject::Region;
use callsight_frame::{Form, Frame};
use callsight_publish::PublishStats;

/// One in so many clients sends over HTTP, as long as those are not more than [`MOST`].
const ONE_IN: usize = 4;
const MOST: usize = 64;

/// Frames that may wait for their answer.
const WINDOW: u32 = 256;

/// How long to wait before a frame that could not be stored is sent again.
const AGAIN_AFTER: Duration = Duration::from_millis(200);

/// How long a token is good.
const TOKEN_FOR: Duration = Duration::from_secs(600);

/// A `callsight ingest`, to which a part of its region's clients sends.
#[derive(Clone, Debug)]
pub struct IngestTarget {
    /// The region of its stream.
    pub region: Region,
    /// Where it listens.
    pub address: SocketAddr,
    /// The secret that signs tokens for it.
    pub secret: String,
}

/// The clients that send over HTTP, of those of a relay.
pub(super) struct Requests {
    one_in: u64,
    key: SigningKey,
    sender: mpsc::Sender<Request>,
    shared: Arc<Shared>,
}

struct Request {
    token: String,
    frame: Vec<u8>,
}

struct Shared {
    /// Room for frames; closed once nobody waits for them any more.
    room: Semaphore,
    accepted: AtomicU64,
    acknowledged: AtomicU64,
    failed: AtomicU64,
}

impl Requests {
    /// Opens the way, in a simulation with so many sessions.
    pub(super) fn open(target: &IngestTarget, sessions: usize) -> Result<Self, SimulateError> {
        let url: Address = format!("http://{}/v1/frames", target.address).parse()?;
        let shared = Arc::new(Shared {
            room: Semaphore::new(WINDOW as usize),
            accepted: AtomicU64::default(),
            acknowledged: AtomicU64::default(),
            failed: AtomicU64::default(),
        });
        let (sender, requests) = mpsc::channel();
        let of_thread = Arc::clone(&shared);
        let sending = move || send(&url, &requests, &of_thread);
        thread::Builder::new().name("clients".to_owned()).spawn(sending).map_err(SimulateError::Thread)?;
        Ok(Self {
            one_in: sessions.div_ceil(MOST).max(ONE_IN) as u64,
            key: SigningKey::Hs256(target.secret.clone().into_bytes()),
            sender,
            shared,
        })
    }

    /// Whether the client of this frame is one of them.
    pub(super) fn take(&self, frame: &Frame<'_>) -> bool {
        let mut hasher = DefaultHasher::new();
        frame.session_id.as_str().hash(&mut hasher);
        hasher.finish().is_multiple_of(self.one_in)
    }

    /// Sends a frame, once there is room.
    pub(super) async fn publish(&self, frame: &Frame<'_>) -> Result<(), SimulateError> {
        let Frame { meeting_id, peer_id, session_id, .. } = frame;
        let session = Some(session_id.as_str());
        let claims = new_claims(meeting_id.as_str(), peer_id.as_str(), session, TOKEN_FOR);
        let token = self.key.sign(&claims, None).ok_or(SimulateError::Token)?;
        let request = Request { token, frame: frame.encode(Form::Named) };
        if let Ok(room) = self.shared.room.acquire().await {
            room.forget();
        }
        self.shared.accepted.fetch_add(1, Relaxed);
        self.sender.send(request).map_err(|_| SimulateError::Sender)
    }

    /// Waits until all frames have their answer. Returns the number of those that have none by
    /// then.
    pub(super) async fn flush(&self, end: Instant) -> u64 {
        let room = &self.shared.room;
        match timeout_at(end, room.acquire_many(WINDOW)).await {
            Ok(_) => 0,
            Err(_) => u64::from(WINDOW) - room.available_permits() as u64,
        }
    }

    pub(super) fn stats(&self) -> PublishStats {
        let Shared { accepted, acknowledged, failed, .. } = &*self.shared;
        PublishStats {
            accepted: accepted.load(Relaxed),
            acknowledged: acknowledged.load(Relaxed),
            failed: failed.load(Relaxed),
            ..PublishStats::default()
        }
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        self.shared.room.close();
    }
}

/// Sends frames, each until it has an answer that is final.
fn send(url: &Address, requests: &mpsc::Receiver<Request>, shared: &Shared) {
    let client = match HttpClient::probing(&HttpAccess::default()) {
        Ok(client) => client,
        Err(error) => return tracing::error!(%error, "no frame can be sent over HTTP"),
    };
    for Request { token, frame } in requests {
        let authorization = format!("Bearer {token}");
        let headers = [("content-type", "application/msgpack"), ("authorization", authorization.as_str())];
        loop {
            match client.post(url, &headers, &frame) {
                Ok(answer) if answer.status == 204 => {
                    shared.acknowledged.fetch_add(1, Relaxed);
                    break;
                }
                Ok(answer) if answer.status / 100 == 4 && answer.status != 429 => {
                    tracing::warn!(answer = answer.excerpt(), "a frame was refused");
                    shared.failed.fetch_add(1, Relaxed);
                    break;
                }
                Ok(_) | Err(_) if shared.room.is_closed() => return,
                Ok(_) | Err(_) => thread::sleep(AGAIN_AFTER),
            }
        }
        shared.room.add_permits(1);
    }
}

//! Who gets in: everything that is decided about a request before its frame goes to the stream.
//!
//! Strangers choose every byte of a request. So it is judged in the order of what that costs: the
//! address, the headers, the token, and only then is a body read.
//!
//! Invariant: what gets in is a valid frame of the speaker's own, and held bytes never exceed their
//! bound.

use std::num::NonZeroU32;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use callsight_frame::{Frame, MAX_FRAME_BYTES, Seq};
use futures_util::Stream;
use ipnet::IpNet;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use warp::http::{HeaderMap, header};

use super::body::{self, Reading};
use super::limits::{Rate, client_address, of_address};
use super::refusal::{RateLimited, Refusal, Unavailable};
use super::servers::{ServerPattern, Servers};
use super::tokens::{Speaker, TokenRefusal, Tokens};
use crate::http_server::PeerAddress;

/// The most bytes that are held at a time of bodies being read and of frames that wait for the
/// stream.
const MAX_HELD_BYTES: usize = 64 << 20;

/// What decides about requests, shared by all.
pub(crate) struct Door {
    /// `None` with `--without-tokens`.
    tokens: Option<Arc<Tokens>>,
    participants: Rate,
    addresses: Rate,
    trusted_proxies: Vec<IpNet>,
    servers: Servers,
    pub(super) held: Held,
}

/// A frame that may go to the stream.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(super) meeting_id: String,
    pub(super) session_id: String,
    pub(super) seq: Seq,
    pub(crate) message: Bytes,
}

/// The bytes that are held. Clones share the bound.
#[derive(Clone)]
pub(super) struct Held(Arc<Semaphore>);

impl Held {
    fn new() -> Self {
        Self(Arc::new(Semaphore::new(MAX_HELD_BYTES)))
    }

    fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Refusal> {
        let full = || Refusal::Unavailable(Unavailable::BufferFull);
        let bytes = u32::try_from(bytes).map_err(|_| full())?;
        Arc::clone(&self.0).try_acquire_many_owned(bytes).map_err(|_| full())
    }

    /// Takes the place of a message for as long as anybody holds it, the NATS client included.
    fn keep(&self, message: Vec<u8>) -> Result<Bytes, Refusal> {
        /// A message in its place.
        struct Kept(Vec<u8>, #[expect(dead_code, reason = "given back on drop")] OwnedSemaphorePermit);

        impl AsRef<[u8]> for Kept {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }

        let place = self.take(message.len())?;
        Ok(Bytes::from_owner(Kept(message, place)))
    }

    /// The share that is taken, from 0 to 1.
    pub(super) fn ratio(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "both are far below 2^53")]
        let ratio = 1.0 - self.0.available_permits() as f64 / MAX_HELD_BYTES as f64;
        ratio
    }
}

impl Door {
    /// Makes a door, with so many frames a second of a participant and of an address.
    pub(crate) fn new(
        tokens: Option<Arc<Tokens>>,
        [participant_rate, address_rate]: [NonZeroU32; 2],
        trusted_proxies: Vec<IpNet>,
        servers: Vec<ServerPattern>,
    ) -> Self {
        Self {
            tokens,
            participants: Rate::per_second(participant_rate),
            addresses: Rate::per_second(address_rate),
            trusted_proxies,
            servers: Servers::new(servers),
            held: Held::new(),
        }
    }

    /// Reads a request and judges it.
    pub(crate) async fn admit<B: Buf, E>(
        &self,
        peer: Option<PeerAddress>,
        headers: &HeaderMap,
        body: impl Stream<Item = Result<B, E>>,
    ) -> Result<Admitted, Refusal> {
        if let Some(PeerAddress(peer)) = peer {
            let client = of_address(client_address(peer, headers, &self.trusted_proxies));
            self.addresses.check(client).map_err(|wait| Refusal::Rate(RateLimited::Address, wait))?;
        }
        let reading = Reading::of(headers)?;
        let speaker = self.tokens.as_deref().map(|tokens| tokens.verify(bearer(headers)?)).transpose()?;
        if let Some(Speaker { meeting_id, peer_id, .. }) = &speaker {
            self.check_participant(meeting_id, peer_id)?;
        }
        let place = self.held.take(length(headers))?;
        let body = body::read(body).await?;
        let judge = |frame: &Frame<'_>| {
            match &speaker {
                Some(speaker) => speaker.may_send(frame)?,
                None => self.check_participant(frame.meeting_id.as_str(), frame.peer_id.as_str())?,
            }
            Ok((frame.meeting_id.to_string(), frame.session_id.to_string(), frame.seq))
        };
        let ((meeting_id, session_id, seq), message) = reading.message(&body, &self.servers, judge)?;
        drop((body, place));
        Ok(Admitted { meeting_id, session_id, seq, message: self.held.keep(message)? })
    }

    fn check_participant(&self, meeting_id: &str, peer_id: &str) -> Result<(), Refusal> {
        let checked = self.participants.check((meeting_id, peer_id));
        checked.map_err(|wait| Refusal::Rate(RateLimited::Participant, wait))
    }
}

/// The bytes to hold for a body: as many as it says, or as many as there may be.
fn length(headers: &HeaderMap) -> usize {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    length.unwrap_or(MAX_FRAME_BYTES).min(MAX_FRAME_BYTES)
}

/// The token of `Authorization: Bearer`, exactly one.
fn bearer(headers: &HeaderMap) -> Result<&str, TokenRefusal> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next().ok_or(TokenRefusal::Missing)?;
    if values.next().is_some() {
        return Err(TokenRefusal::Malformed);
    }
    let (scheme, token) =
        value.to_str().map_err(|_| TokenRefusal::Malformed)?.split_once(' ').ok_or(TokenRefusal::Missing)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(token.trim()) } else { Err(TokenRefusal::Missing) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_bounded_and_given_back() {
        let held = Held::new();
        let frames = MAX_HELD_BYTES / MAX_FRAME_BYTES;
        let mut kept: Vec<_> = (0..frames).map(|_| held.keep(vec![7; MAX_FRAME_BYTES]).unwrap()).collect();
        assert!((held.ratio() - 1.0).abs() < f64::EPSILON);
        assert_eq!(held.keep(vec![7]), Err(Refusal::Unavailable(Unavailable::BufferFull)));
        // A copy is the same bytes, so the place is free once the last of them is gone.
        let copy = kept.pop().map(|bytes| bytes.slice(1..2)).unwrap();
        assert!(held.take(1).is_err());
        drop(copy);
        assert!(held.take(MAX_FRAME_BYTES).is_ok());
        kept.clear();
        assert!(held.ratio() < f64::EPSILON);
    }

    #[test]
    fn a_token_stands_alone_behind_its_scheme() {
        let of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, value.parse().unwrap());
            }
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(of(&["Bearer a.b.c"]), Ok("a.b.c".to_owned()));
        assert_eq!(of(&["bearer  a.b.c "]), Ok("a.b.c".to_owned()));
        assert_eq!(of(&["Bearer a.b.c", "Bearer d.e.f"]), Err(TokenRefusal::Malformed));
        for missing in [&[][..], &["Basic YTpi"], &["a.b.c"], &["Bearer"]] {
            assert_eq!(of(missing), Err(TokenRefusal::Missing), "{missing:?}");
        }
    }
}

//! The short way through a frame of the usual kind.
//!
//! The careful decoder goes through serde, where every value may have any type and any of them may be refused with
//! its path and reason; that takes some 14 ns a value, and a frame of ten parties has 270. But nearly every frame is
//! one that a client of today wrote, with nothing to refuse. [`Quick`] reads just these, by looking at each byte
//! once, and declines whatever else it meets: a type that it doesn't expect, a key that it doesn't know, a value that
//! breaks a limit. What was declined goes the careful way from the start, so that one place alone decides what is
//! refused and why. All that has to hold is that the two agree on what the quick one takes, and tests and the
//! fuzzer compare them.

use super::identifier::{MeetingId, PeerId, SessionId};
use super::server_url::ServerUrl;
use super::{MAX_PEERS, Peer, Seq, ServerType, Version};

/// A value that can be read the quick way; nothing when it is for the careful decoder.
pub(super) trait Quick<'a>: Sized {
    fn quick(bytes: &mut Bytes<'a>) -> Option<Self>;
}

/// The rest of a message, and memory for the peers in it.
pub(super) struct Bytes<'a> {
    rest: &'a [u8],
    pub(super) peers: Vec<Peer<'a>>,
}

impl<'a> Bytes<'a> {
    pub(super) const fn new(message: &'a [u8], peers: Vec<Peer<'a>>) -> Self {
        Self { rest: message, peers }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    #[inline]
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*first)
    }

    #[inline]
    pub(super) fn text(&mut self) -> Option<&'a str> {
        let length = match self.byte()? {
            short @ 0xa0..=0xbf => usize::from(short & 0x1f),
            0xd9 => usize::from(self.byte()?),
            _ => return None,
        };
        let (text, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        std::str::from_utf8(text).ok()
    }

    /// A whole number with its marker, which has been read.
    #[inline]
    fn whole(&mut self, marker: u8) -> Option<u64> {
        Some(match marker {
            0x00..=0x7f => u64::from(marker),
            0xcc => u64::from(self.byte()?),
            0xcd => u64::from(u16::from_be_bytes(self.array()?)),
            0xce => u64::from(u32::from_be_bytes(self.array()?)),
            0xcf => u64::from_be_bytes(self.array()?),
            _ => return None,
        })
    }

    /// The fields of a map, in either form.
    #[inline]
    pub(super) fn fields(&mut self) -> Option<Fields> {
        Some(match self.byte()? {
            few @ 0x90..=0x9f => Fields::InOrder(usize::from(few & 0x0f)),
            few @ 0x80..=0x8f => Fields::Named(usize::from(few & 0x0f)),
            0xdc => Fields::InOrder(usize::from(u16::from_be_bytes(self.array()?))),
            0xde => Fields::Named(usize::from(u16::from_be_bytes(self.array()?))),
            _ => return None,
        })
    }

    /// A value or nil, which means absent.
    #[inline]
    pub(super) fn slot<T: Quick<'a>>(&mut self) -> Option<Option<T>> {
        if let [0xc0, rest @ ..] = self.rest {
            self.rest = rest;
            return Some(None);
        }
        T::quick(self).map(Some)
    }

    /// The same, unless there are no fields left, which means absent too.
    #[inline]
    pub(super) fn next<T: Quick<'a>>(&mut self, left: &mut usize) -> Option<Option<T>> {
        match left.checked_sub(1) {
            None => Some(None),
            Some(fewer) => {
                *left = fewer;
                self.slot()
            }
        }
    }
}

/// How a map's fields come, and how many.
pub(super) enum Fields {
    /// The compact form.
    InOrder(usize),
    /// The named form: each after its key.
    Named(usize),
}

impl<'a> Quick<'a> for bool {
    #[inline]
    fn quick(bytes: &mut Bytes<'a>) -> Option<Self> {
        match bytes.byte()? {
            0xc2 => Some(false),
            0xc3 => Some(true),
            _ => None,
        }
    }
}

impl<'a> Quick<'a> for u64 {
    #[inline]
    fn quick(bytes: &mut Bytes<'a>) -> Option<Self> {
        let marker = bytes.byte()?;
        bytes.whole(marker)
    }
}

impl<'a> Quick<'a> for f64 {
    #[inline]
    fn quick(bytes: &mut Bytes<'a>) -> Option<Self> {
        let value = match bytes.byte()? {
            0xcb => Self::from_be_bytes(bytes.array()?),
            0xca => Self::from(f32::from_be_bytes(bytes.array()?)),
            marker => {
                #[expect(clippy::cast_precision_loss, reason = "what the careful decoder does")]
                let whole = bytes.whole(marker)? as Self;
                whole
            }
        };
        // As there, adding makes -0.0 the plain zero.
        (value.is_finite() && value >= 0.0).then_some(value + 0.0)
    }
}

macro_rules! texts {
    ($($name:ident)+) => {$(
        impl<'a> Quick<'a> for $name<'a> {
            #[inline]
            fn quick(bytes: &mut Bytes<'a>) -> Option<Self> {
                Self::new(bytes.text()?).ok()
            }
        }
    )+};
}
texts!(MeetingId SessionId PeerId ServerUrl);

impl<'a> Quick<'a> for Version {
    fn quick(bytes: &mut Bytes<'a>) -> Option<Self> {
        (u64::quick(bytes)? == Self::NUMBER).then_some(Self)
    }
}

impl<'a> Quick<'a> for Seq {
    fn quick(bytes: &mut Bytes<'a>) -> Option<Self> {
        Self::new(u64::quick(bytes)?)
    }
}

impl<'a> Quick<'a> for ServerType {
    fn quick(bytes: &mut Bytes<'a>) -> Option<Self> {
        bytes.text().map(Self::named)
    }
}

impl<'a> Quick<'a> for Vec<Peer<'a>> {
    fn quick(bytes: &mut Bytes<'a>) -> Option<Self> {
        let Fields::InOrder(count) = bytes.fields()? else { return None };
        if count > MAX_PEERS {
            return None;
        }
        let mut peers = std::mem::take(&mut bytes.peers);
        peers.clear();
        peers.reserve(count);
        for _ in 0..count {
            peers.push(Peer::quick(bytes)?);
        }
        Some(peers)
    }
}

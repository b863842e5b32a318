//! The fast path of the decoder, for frames with nothing to reject.
//!
//! The careful decoder goes through serde, where any value may have any type and a rejection names
//! its path and reason. That takes about 14 ns per value, and a frame of ten participants has 270.
//! [`Quick`] looks at each byte once and declines whatever it does not expect: another type, an
//! unknown key, a value beyond a limit. A declined frame is decoded from the start by the careful
//! decoder, which alone decides what is rejected.
//!
//! Every step is inlined into one function: as calls, as the compiler chooses by itself, the named
//! form took an eighth longer. And every map is read where it will stay. A peer has 750 bytes, most
//! of them for values that few clients send, and moving it cost a quarter of reading it.
//!
//! Invariant: what the fast path accepts, the careful decoder decodes to the same frame. Tests and
//! the fuzzer compare the two.

use super::identifier::{App, MeetingId, PeerId, SessionId};
use super::server_url::ServerUrl;
use super::{MAX_PEERS, Peer, Seq, Version};

/// A value that the fast path can read.
pub(super) trait Quick<'a>: Sized {
    /// Reads the value, a number if it is at most `max`; `None` leaves the frame to the careful
    /// decoder.
    fn quick(bytes: &mut Bytes<'a>, max: u64) -> Option<Self>;

    /// Reads the value into its place.
    #[inline(always)]
    fn quick_in(bytes: &mut Bytes<'a>, max: u64, place: &mut Option<Self>) -> Option<()> {
        *place = Some(Self::quick(bytes, max)?);
        Some(())
    }
}

/// A map that the fast path can read.
pub(super) trait QuickMap<'a>: Blank {
    /// Reads the map into a blank one.
    fn fill(&mut self, bytes: &mut Bytes<'a>) -> Option<()>;
}

impl<'a, T: QuickMap<'a>> Quick<'a> for T {
    #[inline(always)]
    fn quick(bytes: &mut Bytes<'a>, _max: u64) -> Option<Self> {
        let mut map = Self::blank();
        map.fill(bytes)?;
        Some(map)
    }

    #[inline(always)]
    fn quick_in(bytes: &mut Bytes<'a>, _max: u64, place: &mut Option<Self>) -> Option<()> {
        place.insert(Self::blank()).fill(bytes)
    }
}

/// What a field holds until it is read. Nobody sees it in a required one: without a value the fast
/// path declines the frame.
pub(super) trait Blank {
    fn blank() -> Self;
}

macro_rules! blanks {
    ($($type:ty = $blank:expr;)+) => {$(
        impl Blank for $type {
            #[inline(always)]
            fn blank() -> Self {
                $blank
            }
        }
    )+};
}
blanks! {
    bool = false;
    u64 = 0;
    Version = Self;
    Seq = Self::FIRST;
    Vec<Peer<'_>> = Self::new();
}

impl<T> Blank for Option<T> {
    #[inline(always)]
    fn blank() -> Self {
        None
    }
}

/// The rest of a message, and reusable memory for its peers.
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

    #[inline(always)]
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    #[inline(always)]
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*first)
    }

    #[inline(always)]
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

    /// Reads a whole number whose marker has been read. A marker's numbers are compared only if
    /// some of them exceed `max`: the compiler drops the other comparisons.
    #[inline(always)]
    fn whole(&mut self, marker: u8, max: u64) -> Option<u64> {
        let up_to_max = |number| (number <= max).then_some(number);
        match marker {
            0x00..=0x7f => up_to_max(u64::from(marker)),
            0xcc => up_to_max(u64::from(self.byte()?)),
            0xcd => up_to_max(u64::from(u16::from_be_bytes(self.array()?))),
            0xce => up_to_max(u64::from(u32::from_be_bytes(self.array()?))),
            0xcf => up_to_max(u64::from_be_bytes(self.array()?)),
            _ => None,
        }
    }

    /// Reads the head of a map in either form.
    #[inline(always)]
    pub(super) fn fields(&mut self) -> Option<Fields> {
        Some(match self.byte()? {
            few @ 0x90..=0x9f => Fields::InOrder(usize::from(few & 0x0f)),
            few @ 0x80..=0x8f => Fields::Named(usize::from(few & 0x0f)),
            0xdc => Fields::InOrder(usize::from(u16::from_be_bytes(self.array()?))),
            0xde => Fields::Named(usize::from(u16::from_be_bytes(self.array()?))),
            _ => return None,
        })
    }

    /// Reads a value into its place, or nil for an absent one.
    #[inline(always)]
    pub(super) fn slot<T: Quick<'a>>(&mut self, max: u64, place: &mut Option<T>) -> Option<()> {
        if let [0xc0, rest @ ..] = self.rest {
            self.rest = rest;
            *place = None;
            return Some(());
        }
        T::quick_in(self, max, place)
    }
}

/// The form of a map, and the number of its fields.
pub(super) enum Fields {
    InOrder(usize),
    Named(usize),
}

impl<'a> Quick<'a> for bool {
    #[inline(always)]
    fn quick(bytes: &mut Bytes<'a>, _max: u64) -> Option<Self> {
        match bytes.byte()? {
            0xc2 => Some(false),
            0xc3 => Some(true),
            _ => None,
        }
    }
}

impl<'a> Quick<'a> for u64 {
    #[inline(always)]
    fn quick(bytes: &mut Bytes<'a>, max: u64) -> Option<Self> {
        let marker = bytes.byte()?;
        bytes.whole(marker, max)
    }
}

impl<'a> Quick<'a> for f64 {
    #[inline(always)]
    fn quick(bytes: &mut Bytes<'a>, max: u64) -> Option<Self> {
        let value = match bytes.byte()? {
            0xcb => Self::from_be_bytes(bytes.array()?),
            0xca => Self::from(f32::from_be_bytes(bytes.array()?)),
            marker => {
                #[expect(clippy::cast_precision_loss, reason = "what the careful decoder does")]
                let whole = bytes.whole(marker, max)? as Self;
                whole
            }
        };
        #[expect(clippy::cast_precision_loss, reason = "what the careful decoder does")]
        let within = value >= 0.0 && value <= max as Self;
        // NaN and infinity are not within. Adding turns -0.0 into 0.0, as the careful decoder does.
        within.then_some(value + 0.0)
    }
}

macro_rules! texts {
    ($($name:ident)+) => {$(
        impl<'a> Quick<'a> for $name<'a> {
            #[inline]
            fn quick(bytes: &mut Bytes<'a>, _max: u64) -> Option<Self> {
                Self::new(bytes.text()?).ok()
            }
        }
    )+};
}
texts!(App MeetingId SessionId PeerId ServerUrl);

impl<'a> Quick<'a> for Version {
    fn quick(bytes: &mut Bytes<'a>, _max: u64) -> Option<Self> {
        (u64::quick(bytes, u64::MAX)? == Self::NUMBER).then_some(Self)
    }
}

impl<'a> Quick<'a> for Seq {
    fn quick(bytes: &mut Bytes<'a>, _max: u64) -> Option<Self> {
        Self::new(u64::quick(bytes, u64::MAX)?)
    }
}

impl<'a> Quick<'a> for Vec<Peer<'a>> {
    fn quick(bytes: &mut Bytes<'a>, _max: u64) -> Option<Self> {
        let Fields::InOrder(count) = bytes.fields()? else { return None };
        if count > MAX_PEERS {
            return None;
        }
        let mut peers = std::mem::take(&mut bytes.peers);
        peers.clear();
        peers.reserve(count);
        for _ in 0..count {
            peers.push(Peer::blank());
            peers.last_mut()?.fill(bytes)?;
        }
        Some(peers)
    }
}

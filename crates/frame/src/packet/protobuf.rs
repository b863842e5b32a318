//! The wire of protobuf.
//!
//! It is read by a few lines of our own. `prost` has what is needed, but hides it from its
//! documentation (`prost::encoding`), and promises nothing about it; its derive would copy every
//! text and build the map first.
//!
//! Invariant: whatever the bytes, a value is within the message, and an error has the path to it.

use std::fmt;

use super::super::MAX_NESTING;
use super::super::reject::{Reason, Rejection};

/// Why a packet is rejected. Boxed, since it seldom is.
pub(super) struct Fault(Box<Located>);

struct Located {
    path: String,
    rejection: Rejection,
}

impl From<Rejection> for Fault {
    fn from(rejection: Rejection) -> Self {
        Self(Box::new(Located { path: String::new(), rejection }))
    }
}

impl From<Fault> for Rejection {
    fn from(Fault(fault): Fault) -> Self {
        let Located { path, rejection } = *fault;
        if path.is_empty() {
            return rejection;
        }
        Self::new(rejection.reason, format!("{path}: {}", rejection.detail))
    }
}

impl Fault {
    #[cold]
    pub(super) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Rejection::new(reason, detail).into()
    }

    /// Prepends a step to the path: a field, or a position in a map as `[3]`.
    #[cold]
    pub(super) fn at(mut self, step: impl fmt::Display) -> Self {
        let path = &mut self.0.path;
        let dot = if path.is_empty() || path.starts_with('[') { "" } else { "." };
        *path = format!("{step}{dot}{path}");
        self
    }
}

/// Prepends a field to the path of what is wrong with its value.
pub(super) trait Locate {
    fn at(self, field: &'static str) -> Self;
}

impl<T> Locate for Result<T, Fault> {
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a call for each value takes as long as reading it")]
    fn at(self, field: &'static str) -> Self {
        self.map_err(|fault| fault.at(field))
    }
}

/// The fields of a protobuf message that are not read yet.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

/// A value as it is on the wire, by its wire type.
#[derive(Clone, Copy)]
pub(super) enum WireValue<'a> {
    Varint(u64),
    Fixed64([u8; 8]),
    Bytes(&'a [u8]),
    Fixed32,
}

impl<'a> Fields<'a> {
    /// The next field: its number and its value. Groups, which no field of ours is, are skipped.
    #[inline]
    pub(super) fn next(&mut self) -> Result<Option<(u32, WireValue<'a>)>, Fault> {
        while !self.0.is_empty() {
            let key = self.varint()?;
            let Some(number) = u32::try_from(key >> 3).ok().filter(|number| (1..1 << 29).contains(number))
            else {
                return Err(malformed("a field has no valid number"));
            };
            let value = match key & 7 {
                0 => WireValue::Varint(self.varint()?),
                1 => WireValue::Fixed64(self.array()?),
                2 => {
                    let length = self.varint()?;
                    let length = usize::try_from(length).unwrap_or(usize::MAX);
                    let (bytes, rest) = self.0.split_at_checked(length).ok_or_else(cut_short)?;
                    self.0 = rest;
                    WireValue::Bytes(bytes)
                }
                3 => {
                    self.skip_group(number, MAX_NESTING)?;
                    continue;
                }
                4 => return Err(malformed("a group ends that has not begun")),
                5 => {
                    let _: [u8; 4] = self.array()?;
                    WireValue::Fixed32
                }
                _ => return Err(malformed("a field has no valid wire type")),
            };
            return Ok(Some((number, value)));
        }
        Ok(None)
    }

    /// Skips the rest of a group, which may hold others.
    #[cold]
    fn skip_group(&mut self, number: u32, depth: usize) -> Result<(), Fault> {
        let depth = depth.checked_sub(1).ok_or_else(|| malformed("groups are nested too deep"))?;
        loop {
            let key = Fields(self.0).varint()?;
            match (u32::try_from(key >> 3), key & 7) {
                (Ok(inner), 3) => {
                    self.varint()?;
                    self.skip_group(inner, depth)?;
                }
                (Ok(inner), 4) if inner == number => return self.varint().map(drop),
                _ => {
                    self.next()?.ok_or_else(cut_short)?;
                }
            }
        }
    }

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "nearly every varint is one byte")]
    fn varint(&mut self) -> Result<u64, Fault> {
        match self.0 {
            [byte @ 0..=0x7f, rest @ ..] => {
                self.0 = rest;
                Ok(u64::from(*byte))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, Fault> {
        let mut value = 0;
        for (index, byte) in self.0.iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * index);
            if *byte < 0x80 {
                if index == 9 && *byte > 1 {
                    break;
                }
                self.0 = &self.0[index + 1..];
                return Ok(value);
            }
        }
        Err(if self.0.len() < 10 { cut_short() } else { malformed("a number has more than 64 bits") })
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let (first, rest) = self.0.split_first_chunk().ok_or_else(cut_short)?;
        self.0 = rest;
        Ok(*first)
    }
}

impl<'a> WireValue<'a> {
    #[inline]
    pub(super) fn bytes(self) -> Result<&'a [u8], Fault> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            other => Err(other.instead_of("bytes")),
        }
    }

    #[inline]
    pub(super) fn text(self) -> Result<&'a str, Fault> {
        std::str::from_utf8(self.bytes()?).map_err(|_| malformed("the text is not UTF-8"))
    }

    #[inline]
    pub(super) fn flag(self) -> Result<bool, Fault> {
        match self {
            Self::Varint(value) => Ok(value != 0),
            other => Err(other.instead_of("a varint")),
        }
    }

    #[inline]
    pub(super) fn whole(self, max: u64) -> Result<u64, Fault> {
        match self {
            Self::Varint(value) if value <= max => Ok(value),
            Self::Varint(value) => Err(above(value, max)),
            other => Err(other.instead_of("a varint")),
        }
    }

    /// A number from 0 to a maximum.
    #[inline]
    pub(super) fn measure(self, max: u64) -> Result<f64, Fault> {
        let Self::Fixed64(bytes) = self else { return Err(self.instead_of("a double")) };
        let value = f64::from_le_bytes(bytes);
        #[expect(clippy::cast_precision_loss, reason = "the ranges are exact")]
        let within = value >= 0.0 && value <= max as f64;
        // Adding turns -0.0 into 0.0, since the sign would be exported.
        if within { Ok(value + 0.0) } else { Err(no_measure(value, max)) }
    }

    #[cold]
    fn instead_of(self, expected: &str) -> Fault {
        let found = match self {
            Self::Varint(_) => "a varint",
            Self::Fixed64(_) => "a double",
            Self::Bytes(_) => "bytes",
            Self::Fixed32 => "a float",
        };
        Fault::new(Reason::Malformed, format!("found {found}, expected {expected}"))
    }
}

#[cold]
fn malformed(detail: &str) -> Fault {
    Fault::new(Reason::Malformed, detail)
}

fn cut_short() -> Fault {
    malformed("the packet is cut short")
}

#[cold]
fn above(value: impl fmt::Display, max: u64) -> Fault {
    Fault::new(Reason::OutOfRange, format!("{value} is more than {max}"))
}

#[cold]
fn no_measure(value: f64, max: u64) -> Fault {
    if !value.is_finite() {
        Fault::new(Reason::NotFinite, value.to_string())
    } else if value < 0.0 {
        Fault::new(Reason::OutOfRange, format!("{value} is negative"))
    } else {
        above(value, max)
    }
}

//! The codec of the wire's maps, generated from one declaration per map.
//!
//! serde's derive is close: rmp-serde reads a derived struct from a map or from an array. But it
//! rejects an array with more elements than the struct has fields, which is how a compact frame
//! grows, and it writes an absent value as a key with nil. [`wire_map!`] generates what differs,
//! and the field tables that tests compare with `docs/frame.md`.
//!
//! Invariant: values are checked where they are read ([`Value`]), so a decoded frame is valid.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

use super::identifier::{App, MeetingId, PeerId, SessionId};
use super::reject::{Reason, Rejection};
use super::server_url::ServerUrl;

/// A row of a field table: one key of a map on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Key in the named form; the row's position is the position in the compact form.
    pub key: &'static str,
    /// Type on the wire, in the words of the specification.
    pub kind: &'static str,
    /// Whether a frame without it is rejected.
    pub required: bool,
    /// The highest plausible value of a number; a frame with a higher one is rejected.
    pub max: Option<u64>,
    /// Meaning and unit, as one sentence for the documentation.
    pub meaning: &'static str,
}

/// A value on the wire: how it is read, and when it is rejected.
pub(super) trait Value<'de>: Sized + fmt::Debug {
    /// Type in the words of the specification.
    const KIND: &'static str;

    fn read<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error>;

    /// Whether it is a number above its range.
    fn exceeds(&self, _max: u64) -> bool {
        false
    }
}

/// A value that may be absent: nil and nothing mean the same.
pub(super) type Slot<T, const MAX: u64 = { u64::MAX }> = Option<Read<T, MAX>>;

/// A [`Value`] up to a maximum, for serde's own containers.
pub(super) struct Read<T, const MAX: u64>(pub(super) T);

impl<'de, T: Value<'de>, const MAX: u64> Deserialize<'de> for Read<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = T::read(deserializer)?;
        if value.exceeds(MAX) {
            let detail = format!("{value:?} is more than {MAX}");
            return Err(Rejection::new(Reason::OutOfRange, detail).into_serde());
        }
        Ok(Self(value))
    }
}

pub(super) fn missing<E: Error>() -> E {
    Rejection::new(Reason::MissingField, "absent or nil").into_serde()
}

macro_rules! text_values {
    ($($name:ident)+) => {$(
        impl<'de: 'a, 'a> Value<'de> for $name<'a> {
            const KIND: &'static str = "str";

            fn read<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <&'a str>::deserialize(deserializer)?;
                Self::new(text).map_err(Rejection::into_serde)
            }
        }
    )+};
}

text_values!(App MeetingId SessionId PeerId ServerUrl);

impl<'de> Value<'de> for bool {
    const KIND: &'static str = "bool";

    fn read<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        bool::deserialize(deserializer)
    }
}

/// A measure: finite and not negative. Whole numbers are accepted, since many encoders shorten 3.0
/// to 3.
impl<'de> Value<'de> for f64 {
    const KIND: &'static str = "float";

    fn read<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = f64::deserialize(deserializer)?;
        if !value.is_finite() {
            return Err(Rejection::new(Reason::NotFinite, value.to_string()).into_serde());
        }
        if value < 0.0 {
            return Err(Rejection::new(Reason::OutOfRange, format!("{value} is negative")).into_serde());
        }
        // Adding turns -0.0 into 0.0, since the sign would be exported.
        Ok(value + 0.0)
    }

    #[expect(clippy::cast_precision_loss, reason = "the ranges are exact")]
    fn exceeds(&self, max: u64) -> bool {
        *self > max as Self
    }
}

/// A count. Whole floats are accepted: some JavaScript encoders write every number above 2³² as a
/// float.
impl<'de> Value<'de> for u64 {
    const KIND: &'static str = "uint";

    fn read<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct CountVisitor;
        impl Visitor<'_> for CountVisitor {
            type Value = u64;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number")
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<u64, E> {
                Ok(value)
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<u64, E> {
                let negative = || Rejection::new(Reason::OutOfRange, format!("{value} is negative"));
                u64::try_from(value).map_err(|_| negative().into_serde())
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<u64, E> {
                /// Above 2⁵³ a float can't distinguish adjacent whole numbers.
                const LARGEST_EXACT: f64 = 9_007_199_254_740_992.0;
                if !value.is_finite() {
                    return Err(Rejection::new(Reason::NotFinite, value.to_string()).into_serde());
                }
                if value < 0.0 || value.fract() != 0.0 || value > LARGEST_EXACT {
                    let detail = format!("{value} is not a whole number from 0 to 2^53");
                    return Err(Rejection::new(Reason::OutOfRange, detail).into_serde());
                }
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
                Ok(value as u64)
            }
        }
        deserializer.deserialize_any(CountVisitor)
    }

    fn exceeds(&self, max: u64) -> bool {
        *self > max
    }
}

/// Declares a map of the wire: the struct, both forms of its codec, and its field table.
///
/// A field is `name("key"): required Type, "meaning";` or `… optional …`, and a number has its
/// maximum as `Type [maximum]`. They are in the order of the compact form, which only grows at the
/// end. An error gains the key on its way out of each map, so
/// that it names the value's path. Attributes such as `#[derive(Default)]` go to the struct. What
/// stands `beside` the fields is not on the wire of either form.
macro_rules! wire_map {
    ($(
        $(#[$attribute:meta])*
        $map:literal struct $name:ident $(<$lt:lifetime>)? {
            $($field:ident($key:literal): $need:ident $type:ty $([$max:expr])?, $meaning:literal;)+
        } $(beside $beside:ident: $beside_type:ty, $beside_meaning:literal;)?
    )+) => {$(
        $(#[$attribute])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name $(<$lt>)? {
            $(#[doc = $meaning] pub $field: $crate::wire::wire_map!(@type $need $type),)+
            $(#[doc = $beside_meaning] pub $beside: $beside_type,)?
        }

        impl $(<$lt>)? $name $(<$lt>)? {
            /// The fields in the order of the compact form, for tests that compare them with the
            /// specification.
            #[doc(hidden)]
            pub const FIELDS: &'static [$crate::wire::Field] = &[$($crate::wire::Field {
                key: $key,
                kind: <$type as $crate::wire::Value<'_>>::KIND,
                required: $crate::wire::wire_map!(@required $need),
                max: $crate::wire::wire_map!(@range $($max)?),
                meaning: $meaning,
            },)+];
        }

        impl<'de $(: $lt, $lt)?> $crate::wire::Value<'de> for $name $(<$lt>)? {
            const KIND: &'static str = "map";

            fn read<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                use $crate::reject::locate;
                use $crate::wire::{Slot, Value, wire_map};

                struct MapVisitor;
                impl<'de $(: $lt, $lt)?> serde::de::Visitor<'de> for $crate::wire::Reader<MapVisitor, $name $(<$lt>)?> {
                    type Value = $name $(<$lt>)?;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        write!(f, "{} as a map or an array", $map)
                    }

                    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                        $(let $field: Option<$type> = seq
                            .next_element::<Slot<$type, { wire_map!(@max $($max)?) }>>()
                            .map_err(|error| locate(error, $key, <$type as Value<'_>>::KIND))?
                            .flatten()
                            .map(|read| read.0);)+
                        while seq.next_element::<serde::de::IgnoredAny>()?.is_some() {}
                        Ok($name {
                            $($field: wire_map!(@take $need $key $field),)+
                            $($beside: Default::default(),)?
                        })
                    }

                    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                        $(let mut $field: Option<$type> = None;)+
                        while let Some(key) = map.next_key::<&str>()? {
                            match key {
                                $($key => {
                                    $field = map
                                        .next_value::<Slot<$type, { wire_map!(@max $($max)?) }>>()
                                        .map_err(|error| locate(error, $key, <$type as Value<'_>>::KIND))?
                                        .map(|read| read.0);
                                })+
                                _ => { map.next_value::<serde::de::IgnoredAny>()?; }
                            }
                        }
                        Ok($name {
                            $($field: wire_map!(@take $need $key $field),)+
                            $($beside: Default::default(),)?
                        })
                    }
                }
                deserializer.deserialize_any($crate::wire::Reader::<MapVisitor, Self>::new())
            }
        }

        impl $(<$lt>)? $crate::quick::Blank for $name $(<$lt>)? {
            #[inline(always)]
            fn blank() -> Self {
                $name {
                    $($field: $crate::quick::Blank::blank(),)+
                    $($beside: Default::default(),)?
                }
            }
        }

        impl<'de $(: $lt, $lt: 'de)?> $crate::quick::QuickMap<'de> for $name $(<$lt>)? {
            #[inline]
            fn fill(&mut self, bytes: &mut $crate::quick::Bytes<'de>) -> Option<()> {
                use $crate::quick::Fields;
                use $crate::wire::wire_map;

                match bytes.fields()? {
                    Fields::InOrder(mut left) => {
                        // Older clients end the array before the newest fields, which then cost
                        // one comparison together.
                        $(wire_map!(@in_order $need self $field left bytes [$($max)?]);)+
                        // The careful decoder skips fields of newer clients.
                        (left == 0).then_some(())
                    }
                    Fields::Named(count) => {
                        $(wire_map!(@absent $need $field $type);)+
                        for _ in 0..count {
                            match bytes.text()? {
                                $($key => wire_map!(@named $need self $field bytes [$($max)?]),)+
                                _ => return None,
                            }
                        }
                        $(wire_map!(@found $need self $field);)+
                        Some(())
                    }
                }
            }
        }

        impl $(<$lt>)? serde::Serialize for $name $(<$lt>)? {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                use serde::ser::SerializeStruct;
                use $crate::wire::wire_map;

                // The named form leaves absent keys out; the compact one ends after the last
                // present value.
                let named = serializer.is_human_readable();
                let (mut present, mut compact, mut position) = (0, 0, 0);
                $(
                    position += 1;
                    if wire_map!(@present $need self.$field) {
                        present += 1;
                        compact = position;
                    }
                )+
                let mut map = serializer.serialize_struct($map, if named { present } else { compact })?;
                let mut position = 0;
                $(
                    position += 1;
                    if if named { wire_map!(@present $need self.$field) } else { position <= compact } {
                        map.serialize_field($key, &self.$field)?;
                    }
                )+
                map.end()
            }
        }
    )+};
    (@type required $type:ty) => { $type };
    (@type optional $type:ty) => { Option<$type> };
    (@range) => { None };
    (@range $max:expr) => { Some($max) };
    (@max) => { u64::MAX };
    (@max $max:expr) => { $max };
    (@required required) => { true };
    (@required optional) => { false };
    (@take required $key:literal $field:ident) => {
        $field.ok_or_else(|| locate($crate::wire::missing(), $key, ""))?
    };
    (@take optional $key:literal $field:ident) => { $field };
    (@in_order required $map:ident $field:ident $left:ident $bytes:ident [$($max:expr)?]) => {
        $left = usize::checked_sub($left, 1)?;
        $map.$field = $crate::quick::Quick::quick($bytes, wire_map!(@max $($max)?))?;
    };
    (@in_order optional $map:ident $field:ident $left:ident $bytes:ident [$($max:expr)?]) => {
        if $left == 0 {
            return Some(());
        }
        $left -= 1;
        $bytes.slot(wire_map!(@max $($max)?), &mut $map.$field)?;
    };
    (@absent required $field:ident $type:ty) => { let mut $field: Option<$type> = None; };
    (@absent optional $field:ident $type:ty) => {};
    (@named required $map:ident $field:ident $bytes:ident [$($max:expr)?]) => {
        $bytes.slot(wire_map!(@max $($max)?), &mut $field)?
    };
    (@named optional $map:ident $field:ident $bytes:ident [$($max:expr)?]) => {
        $bytes.slot(wire_map!(@max $($max)?), &mut $map.$field)?
    };
    (@found required $map:ident $field:ident) => { $map.$field = $field?; };
    (@found optional $map:ident $field:ident) => {};
    (@present required $value:expr) => { true };
    (@present optional $value:expr) => { $value.is_some() };
}
pub(super) use wire_map;

/// Binds a map's visitor to the lifetime of the struct that it reads.
pub(super) struct Reader<V, T>(PhantomData<(V, T)>);

impl<V, T> Reader<V, T> {
    pub(super) const fn new() -> Self {
        Self(PhantomData)
    }
}

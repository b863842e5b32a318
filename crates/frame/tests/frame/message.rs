//! MessagePack as a tree, so that tests can write what no encoder of ours would.

use callsight_frame::{Field, Frame, MAPS};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Message {
    Nil,
    Bool(bool),
    Uint(u64),
    Int(i64),
    Float32(f32),
    Float(f64),
    Str(String),
    Bin(Vec<u8>),
    Ext(i8, Vec<u8>),
    Array(Vec<Message>),
    Map(Vec<(Message, Message)>),
    /// An array that claims to have this many elements, and has none.
    Claim(u32),
}

impl Message {
    pub(crate) fn text(text: &str) -> Self {
        Self::Str(text.to_owned())
    }

    /// What the bytes say, for frames as our encoder writes them.
    pub(crate) fn read(bytes: &[u8]) -> Self {
        rmp_serde::from_slice(bytes).expect("MessagePack of our own")
    }

    /// A frame as JSON to a tree in the named form.
    pub(crate) fn from_json(json: &serde_json::Value) -> Self {
        Self::read(&rmp_serde::to_vec(json).expect("JSON is MessagePack"))
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.write(&mut bytes);
        bytes
    }

    fn write(&self, to: &mut Vec<u8>) {
        let length = |marker: u8, length: usize, to: &mut Vec<u8>| {
            to.push(marker);
            to.extend(u32::try_from(length).expect("a short value").to_be_bytes());
        };
        // As short as encoders write it: the quick decoder reads nothing else.
        let shortest = |few: u8, up_to: usize, more: u8, count: usize, to: &mut Vec<u8>| {
            let count = u16::try_from(count).expect("a short value");
            let [high, low] = count.to_be_bytes();
            match usize::from(count) <= up_to {
                true => to.push(few | low),
                false => to.extend([more, high, low]),
            }
        };
        match self {
            Self::Nil => to.push(0xc0),
            Self::Bool(value) => to.push(0xc2 + u8::from(*value)),
            Self::Uint(value) if *value < 128 => to.push(u8::try_from(*value).expect("less than 128")),
            Self::Uint(value) => {
                to.push(0xcf);
                to.extend(value.to_be_bytes());
            }
            Self::Int(value) => {
                to.push(0xd3);
                to.extend(value.to_be_bytes());
            }
            Self::Float32(value) => {
                to.push(0xca);
                to.extend(value.to_be_bytes());
            }
            Self::Float(value) => {
                to.push(0xcb);
                to.extend(value.to_be_bytes());
            }
            Self::Str(text) => {
                match u8::try_from(text.len()) {
                    Ok(bytes @ 32..) => to.extend([0xd9, bytes]),
                    _ => shortest(0xa0, 31, 0xda, text.len(), to),
                }
                to.extend(text.as_bytes());
            }
            Self::Bin(bytes) => {
                length(0xc6, bytes.len(), to);
                to.extend(bytes);
            }
            Self::Ext(kind, bytes) => {
                length(0xc9, bytes.len(), to);
                to.extend(kind.to_be_bytes());
                to.extend(bytes);
            }
            Self::Array(elements) => {
                shortest(0x90, 15, 0xdc, elements.len(), to);
                elements.iter().for_each(|element| element.write(to));
            }
            Self::Map(entries) => {
                shortest(0x80, 15, 0xde, entries.len(), to);
                for (key, value) in entries {
                    key.write(to);
                    value.write(to);
                }
            }
            Self::Claim(elements) => {
                to.push(0xdd);
                to.extend(elements.to_be_bytes());
            }
        }
    }

    fn entries(&mut self) -> &mut Vec<(Self, Self)> {
        match self {
            Self::Map(entries) => entries,
            other => panic!("no map: {other:?}"),
        }
    }

    /// The value under the path, in the named form: keys, and numbers for the places of peers.
    pub(crate) fn at(&mut self, path: &str) -> &mut Self {
        path.split('.').fold(self, |value, step| match value {
            Self::Array(elements) => &mut elements[step.parse::<usize>().expect("a place")],
            Self::Map(entries) => {
                let entry = entries.iter_mut().find(|(key, _)| *key == Self::text(step));
                &mut entry.unwrap_or_else(|| panic!("no {step} in {path}")).1
            }
            other => panic!("{step} of {path} in {other:?}"),
        })
    }

    /// Takes the value under the path out of its map.
    pub(crate) fn remove(&mut self, path: &str) {
        let (map, key) = match path.rsplit_once('.') {
            Some((map, key)) => (self.at(map), key),
            None => (self, path),
        };
        map.entries().retain(|(name, _)| *name != Self::text(key));
    }

    /// The compact form of a map of the named form, of itself alone.
    pub(crate) fn compact(&mut self, fields: &[Field]) {
        let mut entries = std::mem::take(self.entries());
        let mut take = |key: &str| {
            let place = entries.iter().position(|(name, _)| *name == Self::text(key))?;
            Some(entries.swap_remove(place).1)
        };
        let values = fields.iter().map(|field| take(field.key).unwrap_or(Self::Nil));
        *self = Self::Array(values.collect());
    }

    /// Visits the frame's maps from the inside out, each with its table.
    pub(crate) fn each_map(&mut self, visit: &mut impl FnMut(&mut Self, &'static [Field])) {
        self.each_map_under(Frame::FIELDS, visit);
    }

    fn each_map_under(
        &mut self,
        fields: &'static [Field],
        visit: &mut impl FnMut(&mut Self, &'static [Field]),
    ) {
        for (key, value) in self.entries() {
            let Self::Str(key) = key else { continue };
            let Some((_, fields)) = MAPS.iter().find(|(map, _)| map == key) else { continue };
            match value {
                Self::Array(peers) => {
                    peers.iter_mut().for_each(|peer| peer.each_map_under(fields, visit));
                }
                Self::Map(_) => value.each_map_under(fields, visit),
                _ => {}
            }
        }
        visit(self, fields);
    }
}

impl<'de> Deserialize<'de> for Message {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MessageVisitor;
        impl<'de> Visitor<'de> for MessageVisitor {
            type Value = Message;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a value of a frame")
            }

            fn visit_unit<E>(self) -> Result<Message, E> {
                Ok(Message::Nil)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Message, E> {
                Ok(Message::Bool(value))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Message, E> {
                Ok(Message::Uint(value))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Message, E> {
                Ok(Message::Int(value))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Message, E> {
                Ok(Message::Float(value))
            }

            fn visit_str<E>(self, value: &str) -> Result<Message, E> {
                Ok(Message::text(value))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Message, A::Error> {
                let mut elements = Vec::new();
                while let Some(element) = seq.next_element()? {
                    elements.push(element);
                }
                Ok(Message::Array(elements))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Message, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Message::Map(entries))
            }
        }
        deserializer.deserialize_any(MessageVisitor)
    }
}

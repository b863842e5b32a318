//! NetEQ's operations: what libwebrtc's jitter buffer decides for every 10 ms of audio.
//!
//! Invariant: the counts, the operations and their labels come from one list, in the order of the
//! compact form.

use super::range;
use super::wire::wire_map;
use serde::ser::{Serialize, SerializeMap, Serializer};

macro_rules! operations {
    ($($field:ident $name:ident $label:literal $meaning:literal;)+) => {
        wire_map! {
            /// Cumulative count of NetEQ's decisions by operation. The default has no value.
            #[derive(Default)]
            "neteq" struct NetEq {
                $($field($label): optional u64 [range::COUNT], $meaning;)+
            }
        }

        /// A NetEQ operation, under libwebrtc's name. A closed vocabulary, because it becomes a
        /// label.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Operation { $(#[doc = $meaning] $name,)+ }

        impl Operation {
            /// Every operation, in the order of the compact form.
            pub const ALL: &'static [Operation] = &[$(Operation::$name,)+];

            /// The operation as a label value.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Operation::$name => $label,)+ }
            }
        }

        impl NetEq {
            /// The counts in the order of [`Operation::ALL`].
            #[must_use]
            pub const fn counts(&self) -> [Option<u64>; Operation::ALL.len()] {
                [$(self.$field,)+]
            }

            /// The counts that a function tells of each operation.
            #[must_use]
            pub fn of_counts(count: impl Fn(Operation) -> Option<u64>) -> Self {
                Self { $($field: count(Operation::$name),)+ }
            }
        }
    };
}

operations! {
    normal Normal "normal" "Played as received.";
    merge Merge "merge" "Joined concealed audio to the audio received after it.";
    expand Expand "expand" "Concealed missing audio: what a listener hears as a gap.";
    accelerate Accelerate "accelerate" "Played faster, to drain a deep buffer.";
    fast_accelerate FastAccelerate "fast_accelerate" "Played much faster.";
    preemptive_expand PreemptiveExpand "preemptive_expand" "Played slower, to fill a shallow buffer.";
    comfort_noise ComfortNoise "comfort_noise" "Played noise while the sender was silent.";
    dtmf Dtmf "dtmf" "Played a telephone tone.";
    undefined Undefined "undefined" "Any other operation.";
}

/// What a packet of videocall.rs says of the audio from a peer, in place of cumulative counts: how
/// much of it there was in the last second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AudioRates {
    /// Packets received, per second.
    pub packets: f64,
    /// NetEQ's decisions per second, in the order of [`Operation::ALL`].
    pub operations: [f64; Operation::ALL.len()],
}

/// For people: as `{"packets_per_sec": …, "neteq_per_sec": {"normal": …}}`. Neither form of a frame
/// has a place for rates.
impl Serialize for AudioRates {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Operations<'a>(&'a AudioRates);
        impl Serialize for Operations<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let labels = Operation::ALL.iter().map(|operation| operation.label());
                serializer.collect_map(labels.zip(&self.0.operations))
            }
        }
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("packets_per_sec", &self.packets)?;
        map.serialize_entry("neteq_per_sec", &Operations(self))?;
        map.end()
    }
}

//! Closed vocabularies of the wire: words that become labels.
//!
//! Clients of later versions write words that this decoder does not know, and strangers write what
//! they like. Neither may make a label of its own, so each vocabulary ends with `other`.
//!
//! Invariant: a word has one text, the same on the wire and as a label.

use serde::de::{Deserialize, Deserializer};

use super::quick::{Blank, Bytes, Quick};
use super::wire::Value;

macro_rules! words {
    ($($(#[$doc:meta])+ $name:ident { $($word:ident = $text:literal,)+ })+) => {$(
        $(#[$doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $(#[doc = concat!("`", $text, "`")] $word,)+
            /// Any other word.
            Other,
        }

        impl $name {
            /// Every word, `other` last.
            pub const ALL: &'static [Self] = &[$(Self::$word,)+ Self::Other];

            /// Returns the word as a label value.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$word => $text,)+ Self::Other => "other" }
            }

            pub(super) fn named(text: &str) -> Self {
                match text { $($text => Self::$word,)+ _ => Self::Other }
            }
        }

        impl<'de> Value<'de> for $name {
            const KIND: &'static str = "str";

            fn read<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                <&str>::deserialize(deserializer).map(Self::named)
            }
        }

        impl<'a> Quick<'a> for $name {
            fn quick(bytes: &mut Bytes<'a>, _max: u64) -> Option<Self> {
                bytes.text().map(Self::named)
            }
        }

        impl Blank for $name {
            fn blank() -> Self {
                Self::Other
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.label())
            }
        }
    )+};
}

words! {
    /// How the client reaches its server.
    ServerType { WebTransport = "webtransport", WebSocket = "websocket", WebRtc = "webrtc", }
    /// What the application runs on.
    Platform {
        Chrome = "chrome",
        Firefox = "firefox",
        Safari = "safari",
        Android = "android",
        Ios = "ios",
        Desktop = "desktop",
    }
    /// Type of a local ICE candidate, W3C `RTCIceCandidateType`.
    CandidateType { Host = "host", ServerReflexive = "srflx", PeerReflexive = "prflx", Relay = "relay", }
    /// Protocol of the first hop.
    Protocol { Udp = "udp", Tcp = "tcp", Tls = "tls", }
    /// How an attempt to join a call goes.
    JoinState { Joining = "joining", Joined = "joined", Failed = "failed", }
    /// Why an attempt to join a call failed.
    JoinFailure {
        Ice = "ice",
        Dtls = "dtls",
        Signaling = "signaling",
        Unauthorized = "unauthorized",
        Media = "media",
        Timeout = "timeout",
        Aborted = "aborted",
    }
}

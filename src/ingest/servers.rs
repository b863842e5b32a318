//! Which servers' names strangers may bring.
//!
//! The exporter keeps series for each server that frames name, up to a budget, and a client can
//! name any. A service knows its own servers, so its patterns decide which names pass. All others
//! become one name, which takes one place of the budget and resolves nowhere (RFC 2606).
//!
//! Invariant: with patterns, the names that pass match one of them or are [`OTHER`].

use std::fmt;
use std::str::FromStr;

use callsight_frame::{Frame, ServerType, ServerUrl};

/// The server of frames whose own is not known.
pub(crate) const OTHER: &str = "https://other.invalid";

/// A host, or with `*.` in front all hosts below one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerPattern(String);

impl FromStr for ServerPattern {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let host = text.strip_prefix("*.").unwrap_or(text);
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
        if host.is_empty() || !host.bytes().all(plain) {
            return Err(
                "write a host such as relay.example.com, or *.example.com for all hosts below example.com",
            );
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

impl fmt::Display for ServerPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl ServerPattern {
    fn matches(&self, host: &str) -> bool {
        match self.0.strip_prefix('*') {
            Some(below) => host.len() > below.len() && host.ends_with(below),
            None => host == self.0,
        }
    }
}

/// The servers that are known: any, if there are no patterns.
pub(crate) struct Servers(Vec<ServerPattern>);

impl Servers {
    pub(crate) const fn new(patterns: Vec<ServerPattern>) -> Self {
        Self(patterns)
    }

    /// Replaces a server that is not known.
    pub(super) fn reduce(&self, frame: &mut Frame<'_>) {
        let Some(server) = frame.server.as_mut().filter(|_| !self.0.is_empty()) else { return };
        let host = host(server.url.as_str());
        if !self.0.iter().any(|pattern| pattern.matches(host))
            && let Ok(other) = ServerUrl::new(OTHER)
        {
            server.url = other;
            // Each type of a server takes a place of its own.
            server.server_type = ServerType::Other;
        }
    }
}

/// The host of an origin, which has a scheme.
fn host(origin: &str) -> &str {
    let authority = origin.split_once("://").map_or(origin, |(_, authority)| authority);
    match authority.rsplit_once(':') {
        // The colons of an IPv6 address are within brackets.
        Some((host, port)) if !port.contains(']') => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use callsight_frame::{MeetingId, PeerId, Seq, Server, SessionId};

    use super::*;

    #[test]
    fn only_known_servers_keep_their_names() {
        let patterns = ["relay.example", "*.Calls.example", "[2001:db8::1]", "192.0.2.7"];
        let servers = Servers::new(patterns.iter().map(|text| text.parse().unwrap()).collect());
        let reduced = |servers: &Servers, url: &'static str| {
            let (meeting, session) = (MeetingId::new("m").unwrap(), SessionId::new("s").unwrap());
            let server = Server::new(ServerUrl::new(url).unwrap(), ServerType::WebRtc);
            let mut frame = Frame {
                server: Some(server),
                ..Frame::new(meeting, session, PeerId::new("p").unwrap(), Seq::FIRST, 0)
            };
            servers.reduce(&mut frame);
            frame.server.unwrap().url.to_string()
        };
        for known in [
            "https://relay.example",
            "wss://relay.example:4433",
            "https://a.calls.example",
            "https://a.b.calls.example:8443",
            "https://[2001:db8::1]:8443",
            "https://[2001:db8::1]",
            "https://192.0.2.7:1234",
        ] {
            assert_eq!(reduced(&servers, known), known);
        }
        for unknown in [
            "https://other.example",
            "https://calls.example",
            "https://evilcalls.example",
            "https://relay.example.evil",
            "https://a.relay.example",
            "https://[2001:db8::2]",
        ] {
            assert_eq!(reduced(&servers, unknown), OTHER);
            assert_eq!(reduced(&Servers::new(Vec::new()), unknown), unknown);
        }
        for bad in ["", "*", "*.", "a*.example", "https://a.example", "a b"] {
            assert!(bad.parse::<ServerPattern>().is_err(), "{bad}");
        }
    }
}

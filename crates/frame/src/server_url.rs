//! The elected server's address, reduced to what may stand in a label.
//!
//! Clients report the address that they dialled, which may hold access tokens, room names and user
//! info. Only the origin, `scheme://host[:port]`, is kept. Nearly every frame begins its address
//! with a plain origin, which is recognised without the URL parser and without an allocation.
//!
//! Invariant: neither a [`ServerUrl`] nor the error for a bad address holds anything beyond the
//! origin.

use std::borrow::Cow;
use std::fmt;

use url::Url;

use super::quick::Blank;
use super::reject::{Reason, Rejection};

/// Maximum length of an origin, in bytes: a host name has at most 253.
const MAX_ORIGIN_BYTES: usize = 256;

/// `scheme://host[:port]` of the elected server.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize)]
pub struct ServerUrl<'a>(Cow<'a, str>);

impl<'a> ServerUrl<'a> {
    /// Reduces an address to its origin: drops user info, path, query, fragment and the default
    /// port.
    ///
    /// # Errors
    /// [`Reason::BadUrl`] when the scheme or the host is missing, there is a control character, or
    /// the origin is longer than 256 bytes. The detail never quotes the address, since the broken
    /// part may be a token.
    pub fn new(address: &'a str) -> Result<Self, Rejection> {
        if let Some(origin) = plain_origin(address) {
            return Ok(Self(Cow::Borrowed(origin)));
        }
        let bad = |detail: String| Rejection::new(Reason::BadUrl, detail);
        // The parser would drop some of them, and read `http://a\nb` as `http://ab`.
        if address.contains(|c: char| c.is_ascii_control()) {
            return Err(bad("a control character, write scheme://host[:port]".into()));
        }
        let url = Url::parse(address).map_err(|error| bad(format!("{error}, write scheme://host[:port]")))?;
        let host = url
            .host_str()
            .filter(|host| !host.is_empty())
            .ok_or_else(|| bad("no host, write scheme://host[:port]".into()))?;
        let origin = match url.port() {
            Some(port) => format!("{}://{host}:{port}", url.scheme()),
            None => format!("{}://{host}", url.scheme()),
        };
        // The parser does not check hosts of schemes that it does not know, such as `x://A"b`.
        let origin = origin.to_ascii_lowercase();
        if !origin.bytes().all(is_allowed) {
            return Err(bad("a forbidden character in the host, write scheme://host[:port]".into()));
        }
        if origin.len() > MAX_ORIGIN_BYTES {
            return Err(bad(format!("{} bytes, an origin has at most {MAX_ORIGIN_BYTES}", origin.len())));
        }
        Ok(Self(Cow::Owned(origin)))
    }

    /// Wraps an origin that needs no check.
    pub(super) const fn of_origin(origin: &'a str) -> Self {
        Self(Cow::Borrowed(origin))
    }

    /// `scheme://host[:port]`, in lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Blank for ServerUrl<'_> {
    fn blank() -> Self {
        Self(Cow::Borrowed(""))
    }
}

impl fmt::Display for ServerUrl<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a byte belongs to a scheme, a host (IPv6 addresses have brackets) or a port. None needs
/// escaping in a label.
const fn is_allowed(byte: u8) -> bool {
    byte.is_ascii_lowercase()
        || byte.is_ascii_digit()
        || matches!(byte, b'.' | b'_' | b'-' | b'+' | b':' | b'/' | b'[' | b']')
}

/// The origin of an address that has a plain one, without its path and query.
fn plain_origin(address: &str) -> Option<&str> {
    if is_plain_origin(address) {
        return Some(address);
    }
    let authority = address.find("://")? + 3;
    let end = address[authority..].find(['/', '?', '#']).map_or(address.len(), |length| authority + length);
    let (origin, rest) = address.split_at(end);
    (is_plain_origin(origin) && !rest.bytes().any(|byte| byte.is_ascii_control())).then_some(origin)
}

/// Whether the URL parser would return the text unchanged: a known scheme, a lower-case host name
/// whose last label begins with a letter (so it is no IPv4 address), and no port or one that is
/// never a default.
fn is_plain_origin(address: &str) -> bool {
    let Some((scheme, authority)) = address.split_once("://") else { return false };
    if !matches!(scheme, "https" | "http" | "wss" | "ws") || address.len() > MAX_ORIGIN_BYTES {
        return false;
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    let plain_port = port.is_none_or(|port| {
        // Four or five digits leave out the default ports 80 and 443, which the parser drops.
        matches!(port.len(), 4 | 5)
            && port.starts_with(|first: char| matches!(first, '1'..='9'))
            && port.parse::<u16>().is_ok()
    });
    let plain_label = |label: &str| {
        let bytes = label.as_bytes();
        !bytes.is_empty()
            && bytes.len() <= 63
            && !label.starts_with('-')
            && !label.starts_with("xn--")
            && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
    };
    plain_port
        && host.split('.').all(plain_label)
        && host.rsplit('.').next().is_some_and(|last| last.starts_with(|c: char| c.is_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn origin(address: &str) -> String {
        ServerUrl::new(address).expect("a usable address").as_str().to_owned()
    }

    #[test]
    fn only_the_origin_is_kept() {
        assert_eq!(origin("https://relay-1.example.com:4433"), "https://relay-1.example.com:4433");
        assert_eq!(
            origin("https://user:secret@Relay.example:4433/room/7?token=abc#x"),
            "https://relay.example:4433"
        );
        assert_eq!(origin("https://relay.example:443/"), "https://relay.example");
        assert_eq!(origin("wss://[2001:db8::1]:8443/ws"), "wss://[2001:db8::1]:8443");
        assert_eq!(origin("webtransport://Relay.example:4433/x"), "webtransport://relay.example:4433");
        assert_eq!(origin("https://bücher.example"), "https://xn--bcher-kva.example");
    }

    #[test]
    fn what_has_no_origin_is_refused_without_repeating_it() {
        let long = format!("https://{}.example:4433", "x.".repeat(150));
        for bad in [
            "",
            "relay.example",
            "/token=secret",
            "https://",
            "data:secret",
            "https://a b/secret",
            &long,
            "https://relay:+9999",
            "x://a\"secret\"",
            "x://{secret}",
            "http://a\nsecret",
            "https://relay.example/room\tsecret",
            "https://relay.example\r\n",
            "\u{1}https://relay.example",
            "https://relay.example/\u{7f}",
        ] {
            let rejection = ServerUrl::new(bad).unwrap_err();
            assert_eq!(rejection.reason, Reason::BadUrl, "{bad:?}");
            assert!(!rejection.detail.contains("secret"), "{rejection}");
        }
    }

    #[test]
    fn the_usual_form_is_borrowed() {
        for path in ["", "/", "/lobby/ana@example.com/7?token=a/b#c", "?token=x://y", "#"] {
            let address = format!("https://relay-1.example:4433{path}");
            let ServerUrl(origin) = ServerUrl::new(&address).unwrap();
            assert!(matches!(origin, Cow::Borrowed("https://relay-1.example:4433")), "{address}");
        }
        assert!(matches!(ServerUrl::new("https://relay-1.example:443").unwrap().0, Cow::Owned(_)));
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_gives_an_origin_that_stays_as_it_is(
            address in prop_oneof!["\\PC{0,40}", "[a-z]{1,6}://\\PC{0,30}", "[a-z]{1,6}://[!-~]{0,20}(:[0-9]{1,5})?"]
        ) {
            if let Ok(first) = ServerUrl::new(&address) {
                prop_assert!(first.as_str().bytes().all(is_allowed));
                let again = ServerUrl::new(first.as_str());
                prop_assert_eq!(again.as_ref(), Ok(&first));
            }
        }

        #[test]
        fn the_short_cut_agrees_with_the_parser(
            address in "(https|http|wss|ws)://([a-z0-9-]{1,9}\\.){0,3}[a-z0-9x-]{1,6}(:[0-9+-]{1,5})?"
        ) {
            if is_plain_origin(&address) {
                let parsed = Url::parse(&address).map(String::from);
                prop_assert_eq!(parsed, Ok(format!("{address}/")));
            }
        }

        #[test]
        fn the_short_cut_takes_the_parsers_origin(
            address in "(https|wss)://[a-z@\\\\.]{1,9}(:[0-9]{1,5})?[/?#@\\\\]?\\PC{0,20}"
        ) {
            if let Some(origin) = plain_origin(&address) {
                let parsed = Url::parse(&address).expect("an address with a plain origin");
                prop_assert_eq!(parsed.origin().ascii_serialization(), origin);
                prop_assert_eq!((parsed.username(), parsed.password()), ("", None));
            }
        }
    }
}

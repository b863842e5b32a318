//! The page: one self-contained document, and the headers that protect it.
//!
//! The page shows names that clients chose, which may be written to run as script. So its policy
//! names its own script and style by digest: nothing else runs, nothing is fetched from elsewhere,
//! and no script can turn text into markup.
//!
//! Invariant: the policy allows nothing beyond the document itself and its own API.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ring::digest::{SHA256, digest};
use warp::http::header::{self, HeaderMap, HeaderName, HeaderValue};

const MARKUP: &str = include_str!("page/triage.html");
const STYLE: &str = include_str!("page/triage.css");
const SCRIPT: &str = include_str!("page/triage.js");

/// The places of style and script in the markup.
const STYLE_HERE: &str = "/* style */";
const SCRIPT_HERE: &str = "/* script */";

/// The document with its headers.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    pub(crate) body: Bytes,
    pub(crate) headers: HeaderMap,
}

impl Document {
    pub(crate) fn new() -> Self {
        let policy = format!(
            "default-src 'none'; script-src '{}'; style-src '{}'; img-src data:; connect-src 'self'; base-uri 'none'; \
             form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
            source(SCRIPT),
            source(STYLE)
        );
        let body = MARKUP.replace(STYLE_HERE, STYLE).replace(SCRIPT_HERE, SCRIPT);
        let mut headers = careful("text/html; charset=utf-8");
        if let Ok(policy) = policy.parse() {
            headers.insert(header::CONTENT_SECURITY_POLICY, policy);
        }
        headers.insert(
            HeaderName::from_static("cross-origin-opener-policy"),
            HeaderValue::from_static("same-origin"),
        );
        Self { body: body.into(), headers }
    }
}

/// The headers of the API's answers, which no other site may read and no browser shows as a page.
pub(crate) fn api_headers() -> HeaderMap {
    let mut headers = careful("application/json");
    let policy = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    headers
}

fn careful(content_type: &'static str) -> HeaderMap {
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    headers.map(|(name, value)| (name, HeaderValue::from_static(value))).into_iter().collect()
}

/// The digest of a text, in the form that a policy has.
fn source(text: &str) -> String {
    format!("sha256-{}", STANDARD.encode(digest(&SHA256, text.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_whole_and_names_nothing_outside_of_itself() {
        let document = Document::new();
        let text = std::str::from_utf8(&document.body).unwrap();
        for (begin, content, end) in [("<style>", STYLE, "</style>"), ("<script>", SCRIPT, "</script>")] {
            // The digest is of all between the tags.
            assert!(text.contains(&format!("{begin}{content}{end}")), "{begin}");
            assert_eq!(text.matches(begin).count(), 1, "{begin}");
        }
        for outside in ["http://", "https://", "src=", "@import", "url("] {
            let text = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!text.contains(outside), "{outside}");
        }
        for unsafe_word in
            ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", " style=", "onclick="]
        {
            assert!(!text.contains(unsafe_word), "{unsafe_word}");
        }
    }

    #[test]
    fn the_policy_lets_nothing_in_but_the_documents_own() {
        let headers = Document::new().headers;
        let policy = headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"), "{policy}");
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
        for part in ["connect-src 'self'", "base-uri 'none'", "frame-ancestors 'none'", "form-action 'none'"]
        {
            assert!(policy.contains(part), "{part}");
        }
        assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert_eq!(api_headers()[header::CONTENT_TYPE], "application/json");
    }
}

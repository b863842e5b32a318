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
use warp::http::{self, StatusCode};
use warp::reply::{Reply, Response};

use crate::insight::state::Threshold;

const MARKUP: &str = include_str!("page/triage.html");
const STYLE: &str = include_str!("page/triage.css");

/// What both pages show, and what each does by itself.
const SCRIPT: &str = include_str!("page/triage.js");
const LIVE: &str = include_str!("page/live.js");
const REWIND: &str = include_str!("page/rewind.js");

/// The timeline of a window, between the headline and the numbers.
const TIMELINE: &str = include_str!("page/timeline.html");

/// The links in the page's head.
const LIVE_LINKS: &str =
    r#"<a href="api/triage">JSON</a> <a href="metrics">Metrics</a> <a href="readyz">Ready</a>"#;
const REWIND_LINKS: &str =
    r#"<a id="live" hidden>Live</a> <a id="json" href="api/windows">JSON</a> <a href="readyz">Ready</a>"#;

/// The places of style, script and timeline in the markup.
const STYLE_HERE: &str = "/* style */";
const SCRIPT_HERE: &str = "/* script */";
const TIMELINE_HERE: &str = "<!-- timeline -->";
const LINKS_HERE: &str = "<!-- links -->";

/// The page of the present, where it is not as by default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageConfig {
    /// The address of `callsight rewind`, for a link.
    pub rewind_url: Option<String>,
    /// The least number of degraded sessions for a place to be bad.
    pub bad_sessions: u32,
    /// The origin of the only page that may show it in a frame, such as `http://127.0.0.1:9480`.
    pub framed_by: Option<String>,
}

impl Default for PageConfig {
    fn default() -> Self {
        Self { rewind_url: None, bad_sessions: Threshold::BAD.sessions, framed_by: None }
    }
}

/// The document with its headers.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    body: Bytes,
    headers: HeaderMap,
}

impl Document {
    /// The page of the present.
    pub(crate) fn live(config: &PageConfig) -> Self {
        let rewind = config.rewind_url.as_ref();
        let rewind = rewind.map(|url| format!("<a href=\"{url}?from=30m+ago&amp;to=now\">Rewind</a> "));
        let links = rewind.unwrap_or_default() + LIVE_LINKS;
        Self::new(LIVE, "", &links, config.framed_by.as_deref())
    }

    /// The page of any moment of the past.
    pub(crate) fn rewind() -> Self {
        Self::new(REWIND, TIMELINE, REWIND_LINKS, None)
    }

    /// Only a page of the origin `framed_by` may show it in a frame, if any.
    fn new(own_script: &str, timeline: &str, links: &str, framed_by: Option<&str>) -> Self {
        let script = SCRIPT.to_owned() + own_script;
        let policy = format!(
            "default-src 'none'; script-src '{}'; style-src '{}'; img-src data:; connect-src 'self'; base-uri 'none'; \
             form-action 'none'; frame-ancestors {}; require-trusted-types-for 'script'; trusted-types 'none'",
            source(&script),
            source(STYLE),
            framed_by.unwrap_or("'none'")
        );
        let body = MARKUP
            .replace(TIMELINE_HERE, timeline)
            .replace(LINKS_HERE, links)
            .replace(STYLE_HERE, STYLE)
            .replace(SCRIPT_HERE, &script);
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

/// The document as an answer.
pub(crate) fn page(document: &Document) -> Response {
    let mut response = http::Response::new(document.body.clone());
    *response.headers_mut() = document.headers.clone();
    response.into_response()
}

/// An answer of the API, as JSON.
pub(crate) fn api(status: StatusCode, json: Bytes) -> Response {
    let mut response = http::Response::new(json);
    *response.status_mut() = status;
    *response.headers_mut() = api_headers();
    response.into_response()
}

/// An answer of the API that says what is wrong.
pub(crate) fn problem(status: StatusCode, error: &str) -> Response {
    api(status, serde_json::json!({ "error": error }).to_string().into())
}

/// The headers of the API's answers, which no other site may read and no browser shows as a page.
fn api_headers() -> HeaderMap {
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
        for (document, own) in [(Document::live(&PageConfig::default()), LIVE), (Document::rewind(), REWIND)]
        {
            is_whole(std::str::from_utf8(&document.body).unwrap(), own);
        }
    }

    fn is_whole(text: &str, own: &str) {
        let script = SCRIPT.to_owned() + own;
        for (begin, content, end) in [("<style>", STYLE, "</style>"), ("<script>", &script, "</script>")] {
            // The digest is of all between the tags.
            assert!(text.contains(&format!("{begin}{content}{end}")), "{begin}");
            assert_eq!(text.matches(begin).count(), 1, "{begin}");
        }
        assert!(!text.contains(TIMELINE_HERE));
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
        let headers = Document::live(&PageConfig::default()).headers;
        let policy = headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"), "{policy}");
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
        for part in ["connect-src 'self'", "base-uri 'none'", "frame-ancestors 'none'", "form-action 'none'"]
        {
            assert!(policy.contains(part), "{part}");
        }
        let framed_by = Some("http://127.0.0.1:9480".to_owned());
        let framed = Document::live(&PageConfig { framed_by, ..PageConfig::default() }).headers;
        let framed = framed[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert_eq!(framed, policy.replace("frame-ancestors 'none'", "frame-ancestors http://127.0.0.1:9480"));
        assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert_eq!(api_headers()[header::CONTENT_TYPE], "application/json");
    }
}

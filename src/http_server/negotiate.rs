//! Content negotiation: the format and the encoding that a scraper accepts.
//!
//! Invariant: any header has an answer; one that is not understood gets plain text, unless it
//! excludes that.

use callsight_fold::series::exposition::Format;

/// Returns the format that an `Accept` header prefers: OpenMetrics 1.0 if its weight is at least
/// that of the text format, which every scraper reads.
pub(crate) fn format(accept: Option<&str>) -> Format {
    let (mut open_metrics, mut text) = (0.0_f32, 0.0_f32);
    for Element { name, weight, version } in elements(accept) {
        let is = |media: &str| name.eq_ignore_ascii_case(media);
        if is("application/openmetrics-text") && matches!(version, "" | "1.0.0") {
            open_metrics = open_metrics.max(weight);
        } else if is("text/plain") && matches!(version, "" | "0.0.4") {
            text = text.max(weight);
        } else if is("text/*") || is("*/*") {
            text = text.max(weight.min(0.001));
        }
    }
    if open_metrics > 0.0 && open_metrics >= text { Format::OpenMetrics } else { Format::Text }
}

/// How a page is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Gzip,
    Identity,
}

/// Returns the encoding for an `Accept-Encoding` header: gzip if it is accepted, else plain text
/// unless that is excluded. `None` if neither is accepted.
pub(crate) fn encoding(accept_encoding: Option<&str>) -> Option<Encoding> {
    let (mut gzip, mut identity, mut any) = (None, None, None);
    for Element { name, weight, .. } in elements(accept_encoding) {
        let named = match name {
            "*" => &mut any,
            name if name.eq_ignore_ascii_case("gzip") => &mut gzip,
            name if name.eq_ignore_ascii_case("identity") => &mut identity,
            _ => continue,
        };
        *named = Some(weight.max(named.unwrap_or(0.0)));
    }
    if gzip.or(any).unwrap_or(0.0) > 0.0 {
        Some(Encoding::Gzip)
    } else {
        (identity.or(any).unwrap_or(1.0) > 0.0).then_some(Encoding::Identity)
    }
}

/// An element of a comma-separated header.
struct Element<'a> {
    name: &'a str,
    /// From 0, not accepted, to 1.
    weight: f32,
    version: &'a str,
}

/// Splits a header into its elements. Parameter names are case-insensitive, and spaces are ignored.
fn elements(list: Option<&str>) -> impl Iterator<Item = Element<'_>> {
    list.unwrap_or("").split(',').map(|element| {
        let mut parts = element.split(';').map(str::trim);
        let mut element = Element { name: parts.next().unwrap_or(""), weight: 1.0, version: "" };
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            let (name, value) = (name.trim(), value.trim());
            if name.eq_ignore_ascii_case("q") {
                element.weight = weight(value);
            } else if name.eq_ignore_ascii_case("version") {
                element.version = value.trim_matches('"');
            }
        }
        element
    })
}

/// Reads a weight. An invalid one counts as 0: it asks for less than 1, but not for how much.
fn weight(text: &str) -> f32 {
    text.parse().ok().filter(|weight| (0.0..=1.0).contains(weight)).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prometheus_gets_what_it_prefers() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,\
                          application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        assert_eq!(format(Some(prometheus)), Format::OpenMetrics);
        assert_eq!(
            format(Some("text/plain;version=0.0.4;q=0.5,application/openmetrics-text;q=0.1")),
            Format::Text
        );
        assert_eq!(format(Some("application/openmetrics-text; version=\"1.0.0\"")), Format::OpenMetrics);
        assert_eq!(format(Some("application/openmetrics-text;version=2.0.0")), Format::Text);
        assert_eq!(format(Some("application/openmetrics-text;q=0, */*")), Format::Text);
        assert_eq!(format(Some("Application/OpenMetrics-Text ; Version = 1.0.0")), Format::OpenMetrics);
        assert_eq!(format(Some("application/openmetrics-text;q=inf,text/plain;q=0.1")), Format::Text);
    }

    #[test]
    fn anything_else_gets_text() {
        for accept in
            [None, Some(""), Some("*/*"), Some("text/html,*/*;q=0.8"), Some(";;q=,=;"), Some("\u{fffd}")]
        {
            assert_eq!(format(accept), Format::Text, "{accept:?}");
        }
    }

    #[test]
    fn gzip_is_used_where_it_is_taken_and_plain_text_where_it_is_not_excluded() {
        for (encodings, accepted) in [
            (
                &["gzip", "deflate, GZIP;q=0.5", "*", "br, *;q=0.1", "gzip, gzip;q=0", "gzip, identity;q=0"]
                    [..],
                Some(Encoding::Gzip),
            ),
            (
                &[
                    "",
                    "identity",
                    "br",
                    "gzip;q=0",
                    "gzip;q=x",
                    "gzip;Q=0",
                    "gzip; q = 0",
                    "gzip;q=9",
                    "gzip;q=0, *",
                    "identity;q=0.5, *;q=0",
                ],
                Some(Encoding::Identity),
            ),
            (
                &[
                    "identity;q=0",
                    "*;q=0",
                    "br, Identity; q=0",
                    "gzip;q=0, identity;q=0, *",
                    "gzip;q=0, *;q=0",
                ],
                None,
            ),
        ] {
            for text in encodings {
                assert_eq!(encoding(Some(text)), accepted, "{text}");
            }
        }
        assert_eq!(encoding(None), Some(Encoding::Identity));
    }
}

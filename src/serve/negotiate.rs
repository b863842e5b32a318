//! What a scraper can read, from its headers.

use crate::series::exposition::Format;

/// The format that an `Accept` header prefers: OpenMetrics 1.0 where it is wanted at least as much as the
/// text format, which everyone reads.
pub(super) fn format(accept: Option<&str>) -> Format {
    let (mut open_metrics, mut text) = (0.0_f32, 0.0_f32);
    for range in accept.unwrap_or("").split(',') {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or("");
        let (mut quality, mut version) = (1.0, "");
        for parameter in parts {
            match parameter.split_once('=').map(|(name, value)| (name.trim(), value.trim())) {
                Some(("q", value)) => quality = value.parse().unwrap_or(0.0),
                Some(("version", value)) => version = value.trim_matches('"'),
                _ => {}
            }
        }
        match media {
            "application/openmetrics-text" if matches!(version, "" | "1.0.0") => {
                open_metrics = open_metrics.max(quality);
            }
            "text/plain" if matches!(version, "" | "0.0.4") => text = text.max(quality),
            "text/*" | "*/*" => text = text.max(quality.min(0.001)),
            _ => {}
        }
    }
    if open_metrics > 0.0 && open_metrics >= text { Format::OpenMetrics } else { Format::Text }
}

/// Whether an `Accept-Encoding` header takes gzip.
pub(super) fn gzip(accept_encoding: Option<&str>) -> bool {
    let (mut named, mut any) = (None, false);
    for coding in accept_encoding.unwrap_or("").split(',') {
        let (name, parameter) = match coding.split_once(';') {
            Some((name, parameter)) => (name.trim(), parameter.trim()),
            None => (coding.trim(), ""),
        };
        let quality = parameter.strip_prefix("q=").map_or(Ok(1.0), str::parse::<f32>);
        let wanted = quality.is_ok_and(|quality| quality > 0.0);
        if name.eq_ignore_ascii_case("gzip") {
            named = Some(wanted);
        } else if name == "*" {
            any = wanted;
        }
    }
    named.unwrap_or(any)
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
    fn gzip_is_used_where_it_is_taken() {
        for yes in ["gzip", "deflate, GZIP;q=0.5", "*", "br, *;q=0.1"] {
            assert!(gzip(Some(yes)), "{yes}");
        }
        for no in ["", "identity", "gzip;q=0", "gzip;q=0, *", "gzip;q=x", "*;q=0"] {
            assert!(!gzip(Some(no)), "{no}");
        }
        assert!(!gzip(None));
    }
}

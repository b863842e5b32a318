//! The reference of the metrics, `docs/metrics.md`, generated from the catalogue.
//!
//! Invariant: the committed page is what [`reference`] writes; a test compares them.

use std::fmt::Write;

use crate::series::catalogue::{CATALOGUE, Kind, Plane};

/// Writes the tables of `docs/metrics.md`, one section per plane.
fn reference() -> String {
    let mut page = String::new();
    for plane in Plane::ALL {
        let (title, about) = match plane {
            Plane::Aggregate => (
                "Aggregates",
                "By region and server, release or path. Always on and bounded; dashboards and alerts use these. \
                 Sessions without an elected server or a known release count under `none`, servers and releases \
                 beyond the budget under `other`. All series of a server, release or path are removed when no \
                 session has been on it for `--server-idle`; `none` and `other` stay.",
            ),
            Plane::Session => (
                "Session detail",
                "A row for each live session, with `--detail session` or `pair`. All series of a session are \
                 removed together when it ends or falls idle.",
            ),
            Plane::Pair => (
                "Pair detail",
                "A row for each remote peer (`peer_id`) that a live session observes, with `--detail pair`. It \
                 is removed with the first frame that lacks the peer.",
            ),
            Plane::Own => (
                "Callsight's own",
                "About the exporter itself. The standard `process_*` metrics are served too.",
            ),
            Plane::Ingest => (
                "The way in",
                "About [`callsight ingest`](ingest.md), which serves these and the standard `process_*` \
                 metrics, and none of the above.",
            ),
        };
        // Writing into a String can't fail.
        let _ = write!(
            page,
            "\n## {title}\n\n{about}\n\n| metric | type | labels | meaning |\n|---|---|---|---|\n"
        );
        for metric in CATALOGUE.iter().filter(|metric| metric.plane == plane) {
            let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            let kind = metric.kind.name();
            let _ = writeln!(page, "| `{}` | {kind} | {} | {} |", metric.name, labels.join(" "), metric.help);
        }
        let histograms = CATALOGUE.iter().filter(|metric| metric.plane == plane);
        for metric in histograms {
            if let Kind::Histogram(bounds) = metric.kind {
                let bounds: Vec<_> = bounds.iter().map(ToString::to_string).collect();
                let _ = write!(page, "\nBuckets of `{}`: {}.\n", metric.name, bounds.join(", "));
            }
        }
    }
    page
}

/// `UPDATE_DOCS=1` rewrites what follows the mark.
#[test]
fn the_documentation_is_that_of_the_catalogue() {
    const MARK: &str = "<!-- generated from crates/fold/src/series/catalogue.rs -->\n";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
    let page = std::fs::read_to_string(path).unwrap();
    let (intro, _) = page.split_once(MARK).expect("docs/metrics.md has its mark");
    let expected = format!("{intro}{MARK}{}", reference());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, expected).unwrap();
    } else {
        assert!(page == expected, "docs/metrics.md is out of date; run UPDATE_DOCS=1 cargo test reference");
    }
}

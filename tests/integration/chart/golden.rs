//! All that is installed in each region, kept as text, so that a change to a template shows what it
//! changes.

use std::{env, fs};

use super::{REGIONS, render, root, values_of};

/// The files of `tests/golden` hold what helm renders for a region with an ingest, with the rules
/// and dashboards cut down to a line each: they are files of their own. `UPDATE_GOLDEN=1` writes
/// them anew.
#[test]
fn the_manifests_of_the_regions_are_the_golden_ones() {
    for region in REGIONS {
        let path = root().join(format!("tests/golden/callsight-{region}.yaml"));
        let rendered = shortened(&render(&["--values", &values_of(region), "--set", "ingest.enabled=true"]));
        if env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&path, rendered).unwrap();
            continue;
        }
        let golden = fs::read_to_string(&path).unwrap_or_default();
        let line = golden.lines().zip(rendered.lines()).position(|(kept, now)| kept != now);
        assert!(
            golden == rendered,
            "{} differs from what helm renders, first in line {}; if that is meant: UPDATE_GOLDEN=1 cargo test golden",
            path.display(),
            line.unwrap_or_else(|| golden.lines().count().min(rendered.lines().count())) + 1,
        );
    }
}

/// Cuts what comes from shared files, and the version, which changes with each release.
fn shortened(rendered: &str) -> String {
    let mut out = String::new();
    for document in rendered.split_inclusive("\n---\n") {
        let cut = if document.contains("kind: PrometheusRule") {
            document.find("\nspec:\n")
        } else if document.contains("-dashboard-") {
            document.find("\ndata:\n")
        } else {
            None
        };
        match cut {
            Some(at) => {
                out.push_str(&document[..at]);
                out.push_str("\n# … a shared file …\n---\n");
            }
            None => out.push_str(document),
        }
    }
    out.replace(env!("CARGO_PKG_VERSION"), "VERSION")
}

//! The text of a comparison: both colours side by side, and the verdict.
//!
//! Invariant: the last line begins with `verdict:`.

use std::fmt::Write;

use super::compare::Comparison;
use super::judge::{ComparisonRow, RowVerdict, VersionVerdict, WindowJudgement};
use crate::insight::words;

/// The table, the reasons and the verdict.
pub(crate) fn comparison(comparison: &Comparison, old: &str, new: &str) -> String {
    let mut text =
        comparison.judgement.as_ref().map(|judged| judgement(judged, old, new)).unwrap_or_default();
    for reason in &comparison.reasons {
        let _ = writeln!(text, "  - {reason}");
    }
    let verdict = if comparison.go {
        format!("go, {new} agrees with {old}")
    } else {
        format!("stop, {new} must not take over")
    };
    let waited = words::seconds(comparison.waited_seconds);
    let windows = words::plural(comparison.windows.into(), "window");
    let _ = writeln!(text, "verdict: {verdict} (after {waited}, {windows})");
    text
}

fn judgement(judgement: &WindowJudgement, old: &str, new: &str) -> String {
    let mut rows = vec![[String::new(), old.to_owned(), new.to_owned(), "allowed".to_owned(), String::new()]];
    let version = match judgement.version {
        VersionVerdict::Same => "same",
        VersionVerdict::Newer => "newer",
        VersionVerdict::Older => "OLDER",
        VersionVerdict::Unclear => "MIXED",
    };
    let (blue, green) = (judgement.blue_version.clone(), judgement.green_version.clone());
    rows.push(["version".to_owned(), blue, green, String::new(), version.to_owned()]);
    rows.extend(judgement.rows.iter().map(cells));
    let widths: Vec<usize> =
        (0..5).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for [what, blue, green, allowed, verdict] in &rows {
        let line = format!(
            "{what:<0$}  {blue:>1$}  {green:>2$}  {allowed:>3$}  {verdict}",
            widths[0], widths[1], widths[2], widths[3]
        );
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

fn cells(row: &ComparisonRow) -> [String; 5] {
    let verdict = match row.verdict {
        RowVerdict::Agree => "ok",
        RowVerdict::Less => "LESS",
        RowVerdict::More => "MORE",
        RowVerdict::TooFew => "too few",
        RowVerdict::Restarted => "RESTARTED",
        RowVerdict::Unusable => "UNUSABLE",
    };
    let what = format!("{} {}", row.region, row.what).trim_start().to_owned();
    let [blue, green, allowed] = [row.blue, row.green, Some(row.allowed)].map(|value| row.shown(value));
    [what, blue, green, format!("±{allowed}"), verdict.to_owned()]
}

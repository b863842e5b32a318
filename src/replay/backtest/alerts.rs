//! When an alert would have fired.
//!
//! Live, Prometheus evaluates a rule again and again, and remembers for how long its expression has
//! held. Over the past, that memory becomes part of the query: an alert fires where its expression
//! held at every evaluation in the duration of its `for`, which a subquery counts.
//!
//! Invariant: a firing's times are moments at which the rule's group is evaluated.

use std::fmt;
use std::time::Duration;

use super::rules::AlertRule;
use super::server::{EvaluationGrid, PrometheusServer};
use crate::replay::prometheus::{Labels, label_text};
use crate::replay::sink::SinkError;
use crate::replay::window::{Window, from_unix_millis, rfc3339};
use callsight_fold::StreamTime;

/// A time during which an alert would have fired.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Firing {
    alert: String,
    labels: Labels,
    from: StreamTime,
    /// When it would have been resolved; `None` if that is after the window.
    to: Option<StreamTime>,
    /// The largest value of the expression, from when it began to hold.
    peak: Option<f64>,
}

impl fmt::Display for Firing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{{{}}} fired {}", self.alert, label_text(&self.labels), rfc3339(self.from))?;
        match self.to {
            Some(to) => {
                let lasted = humantime::format_duration(to.since(self.from));
                write!(f, ", resolved {} after {lasted}", rfc3339(to))?;
            }
            None => f.write_str(", still firing at the end of the window")?,
        }
        self.peak.map_or(Ok(()), |peak| write!(f, "; at most {peak:.3}"))
    }
}

/// Finds when an alert would have fired in a window.
pub(super) fn firings(
    server: &PrometheusServer,
    alert: &AlertRule,
    window: Window,
) -> Result<Vec<Firing>, SinkError> {
    let interval = alert.interval.unwrap_or(window.step);
    let grid = EvaluationGrid::new(window, interval);
    let fires = server.evaluate(&alert.name, &firing_query(alert, interval), grid)?;
    if fires.is_empty() {
        return Ok(Vec::new());
    }
    let holds = server.evaluate(&alert.name, &alert.expression, grid)?;
    let mut firings = Vec::new();
    for (labels, values) in fires {
        let held = holds.get(&labels).map(Vec::as_slice).unwrap_or_default();
        for run in values.chunk_by(|(before, _), (after, _)| after - before <= grid.interval) {
            let (Some((first, _)), Some((last, _))) = (run.first(), run.last()) else { continue };
            let within = first - grid.span(alert.hold)..=*last;
            let values = held.iter().filter(|(at, _)| within.contains(at)).map(|(_, value)| *value);
            firings.push(Firing {
                alert: alert.name.clone(),
                labels: labels.clone().into_iter().chain(alert.labels.clone()).collect(),
                from: from_unix_millis(*first),
                to: (*last < grid.last).then(|| from_unix_millis(*last + grid.interval)),
                peak: values.max_by(f64::total_cmp),
            });
        }
    }
    Ok(firings)
}

/// The query that has a value where an alert fires, if it is evaluated at every interval.
fn firing_query(alert: &AlertRule, interval: Duration) -> String {
    let (expression, interval) = (&alert.expression, interval.as_millis().max(1));
    let times = alert.hold.as_millis().div_ceil(interval);
    let mut query = if times == 0 {
        format!("({expression})")
    } else {
        // Half an interval more includes the first evaluation, whether or not a range includes its
        // beginning.
        let range = times * interval + interval / 2;
        format!("(count_over_time(({expression})[{range}ms:{interval}ms]) >= {})", times + 1)
    };
    if !alert.keep_firing.is_zero() {
        let range = alert.keep_firing.as_millis() + interval / 2;
        query = format!("last_over_time({query}[{range}ms:{interval}ms])");
    }
    query
}

/// The result of evaluating all alerts.
pub(super) struct BacktestResult {
    pub(super) window: Window,
    pub(super) firings: Vec<Firing>,
    /// The names of alerts that did not fire.
    pub(super) silent: Vec<String>,
    /// The names of alerts that were not evaluated, and the metrics that the stream does not have.
    pub(super) skipped: Vec<(String, Vec<String>)>,
}

impl fmt::Display for BacktestResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let step = humantime::format_duration(self.window.step);
        writeln!(f, "alerts, {}, with samples every {step}:", self.window)?;
        let mut firings: Vec<_> = self.firings.iter().collect();
        firings.sort_by_key(|firing| firing.from);
        for firing in &firings {
            writeln!(f, "  {firing}")?;
        }
        if firings.is_empty() {
            writeln!(f, "  none fired")?;
        }
        if !self.silent.is_empty() {
            writeln!(f, "  did not fire: {}", self.silent.join(", "))?;
        }
        for (name, missing) in &self.skipped {
            let missing = missing.join(", ");
            writeln!(f, "  not evaluated: {name} needs {missing}, which the stream does not have")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn alert(hold: Duration, keep_firing: Duration) -> AlertRule {
        let (name, expression) = ("A".to_owned(), "x > 1".to_owned());
        AlertRule { name, expression, labels: Labels::new(), hold, keep_firing, interval: None }
    }

    #[test]
    fn the_query_counts_the_evaluations_in_a_row() {
        let asked = |after: u32, keep: u32, every: u32| {
            firing_query(&alert(after * SECOND, keep * SECOND), every * SECOND)
        };
        assert_eq!(asked(0, 0, 5), "(x > 1)");
        assert_eq!(asked(10, 0, 5), "(count_over_time((x > 1)[12500ms:5000ms]) >= 3)");
        assert_eq!(asked(12, 0, 5), "(count_over_time((x > 1)[17500ms:5000ms]) >= 4)");
        assert_eq!(asked(0, 20, 5), "last_over_time((x > 1)[22500ms:5000ms])");
    }

    #[test]
    fn a_result_is_in_words() {
        let labels = |name: &str, value: &str| Labels::from([(name.to_owned(), value.to_owned())]);
        let firing = |from, to: Option<i64>| Firing {
            alert: "Bad".to_owned(),
            labels: labels("region", "us"),
            from: from_unix_millis(from),
            to: to.map(from_unix_millis),
            peak: Some(0.5),
        };
        let result = BacktestResult {
            window: Window::aligned(from_unix_millis(0), from_unix_millis(600_000), 15 * SECOND),
            firings: vec![firing(60_000, None), firing(30_000, Some(45_000))],
            silent: vec!["Calm".to_owned()],
            skipped: vec![("Gone".to_owned(), vec!["up".to_owned()])],
        };
        assert_eq!(
            result.to_string(),
            "alerts, 1970-01-01T00:00:00Z to 1970-01-01T00:10:00Z, with samples every 15s:\n  \
             Bad{region=\"us\"} fired 1970-01-01T00:00:30Z, resolved 1970-01-01T00:00:45Z after 15s; at most 0.500\n  \
             Bad{region=\"us\"} fired 1970-01-01T00:01:00Z, still firing at the end of the window; at most 0.500\n  \
             did not fire: Calm\n  \
             not evaluated: Gone needs up, which the stream does not have\n"
        );
    }
}

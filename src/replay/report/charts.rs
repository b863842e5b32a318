//! Draws charts as SVG.
//!
//! A page that must open in ten years can't depend on a chart library. Each chart is text too: its
//! largest value stands beside a dot, and each moment shows its values as a tooltip.
//!
//! Invariant: charts are styled by classes alone, since the page's policy forbids style attributes.

use super::text::{escape, push, tick};

/// The place of the axes.
const LEFT: f64 = 46.0;
const RIGHT: f64 = 10.0;
const TOP: f64 = 16.0;
const BOTTOM: f64 = 20.0;

/// The most moments that have a tooltip.
const ANSWERS: usize = 120;

/// A line of a chart.
pub(super) struct Line<'a> {
    pub(super) name: &'a str,
    /// Its class in the style sheet.
    pub(super) class: &'static str,
    /// Its value at each point, NaN where there is none.
    pub(super) values: Vec<f64>,
    /// Whether the area under it is filled.
    pub(super) filled: bool,
}

/// The times of a chart's points.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    /// The points, in Unix seconds.
    pub(super) at: Vec<f64>,
    /// The beginning and the end, in Unix seconds.
    pub(super) ends: (f64, f64),
    /// The bad time, in Unix seconds.
    pub(super) bad: Option<(f64, f64)>,
}

impl Axis {
    /// The place of a time along a width; 0 of an axis of no length.
    fn along(&self, at: f64, width: f64) -> f64 {
        let (from, to) = self.ends;
        if to > from { (at - from) / (to - from) * width } else { 0.0 }
    }
}

/// A chart over time.
pub(super) struct Chart<'a> {
    pub(super) title: String,
    pub(super) size: (f64, f64),
    pub(super) lines: Vec<Line<'a>>,
    /// The value above which a session is degraded.
    pub(super) limit: Option<f64>,
    /// The least top of the value axis.
    pub(super) at_least: f64,
    pub(super) show: fn(f64) -> String,
    /// Whether moments have tooltips.
    pub(super) answers: bool,
}

/// The scales of both axes.
struct Scales<'a> {
    axis: &'a Axis,
    size: (f64, f64),
    top: f64,
}

impl Scales<'_> {
    fn x(&self, at: f64) -> f64 {
        let (from, to) = self.axis.ends;
        let share = if to > from { ((at - from) / (to - from)).clamp(0.0, 1.0) } else { 0.5 };
        LEFT + share * (self.size.0 - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        let height = self.size.1 - TOP - BOTTOM;
        TOP + height - (value / self.top).clamp(0.0, 1.0) * height
    }

    fn ground(&self) -> f64 {
        self.size.1 - BOTTOM
    }
}

impl Chart<'_> {
    pub(super) fn draw(&self, axis: &Axis) -> String {
        let values = self.lines.iter().flat_map(|line| &line.values).copied();
        let most = values.fold(self.at_least, f64::max);
        let (top, unit) = ladder(most);
        let scales = Scales { axis, size: self.size, top };
        let (width, height) = self.size;
        let mut svg = String::with_capacity(4096);
        push!(
            svg,
            r#"<svg class="chart" role="img" viewBox="0 0 {width} {height}"><title>{}</title>"#,
            escape(&self.title)
        );
        self.ground(&scales, unit, &mut svg);
        for line in &self.lines {
            let (path, area) = scales.path(&line.values);
            if line.filled {
                push!(svg, r#"<path class="fill {}" d="{area}"/>"#, line.class);
            }
            push!(svg, r#"<path class="line {}" d="{path}"/>"#, line.class);
        }
        if let Some(limit) = self.limit.filter(|limit| *limit <= top) {
            let (y, to) = (scales.y(limit), width - RIGHT);
            push!(svg, r#"<path class="limit" d="M{LEFT} {y:.1}H{to}"/>"#);
        }
        self.peak(&scales, &mut svg);
        if self.answers {
            self.answer(&scales, &mut svg);
        }
        svg.push_str("</svg>");
        svg
    }

    /// The time when it was bad, the grid and both axes.
    fn ground(&self, scales: &Scales<'_>, unit: f64, svg: &mut String) {
        let (width, right, ground) = (self.size.0, self.size.0 - RIGHT, scales.ground());
        if let Some((from, to)) = scales.axis.bad {
            let (x, to) = (scales.x(from), scales.x(to));
            let (wide, high) = ((to - x).max(2.0), ground - TOP);
            push!(svg, r#"<rect class="when" x="{x:.1}" y="{TOP}" width="{wide:.1}" height="{high}"/>"#);
        }
        let mut value = 0.0;
        while value <= scales.top * 1.001 {
            let y = scales.y(value);
            push!(
                svg,
                r#"<path class="grid" d="M{LEFT} {y:.1}H{right}"/><text class="scale" x="{}" y="{:.1}">{}</text>"#,
                LEFT - 6.0,
                y + 3.5,
                (self.show)(value)
            );
            value += unit;
        }
        let (from, to) = scales.axis.ends;
        let every = time_unit((to - from) / ((width - LEFT - RIGHT) / 90.0));
        let mut at = (from / every).ceil() * every;
        while at <= to {
            let x = scales.x(at);
            let label = tick(at, every < 60.0);
            push!(
                svg,
                r#"<path class="grid" d="M{x:.1} {ground}v4"/><text class="time" x="{x:.1}" y="{:.1}">{label}</text>"#,
                ground + 15.0
            );
            at += every;
        }
    }

    /// A dot at the largest value of the last line that has any, with the value beside it.
    fn peak(&self, scales: &Scales<'_>, svg: &mut String) {
        let Some(line) = self.lines.iter().rev().find(|line| line.values.iter().any(|value| *value > 0.0))
        else {
            return;
        };
        let points = scales.axis.at.iter().zip(&line.values).filter(|(_, value)| !value.is_nan());
        let Some((at, value)) = points.reduce(|a, b| if b.1 > a.1 { b } else { a }) else { return };
        let (x, y) = (scales.x(*at), scales.y(*value));
        let (anchor, beside) = if x > self.size.0 / 2.0 { ("end", -6.0) } else { ("start", 6.0) };
        push!(
            svg,
            "<circle class=\"dot {class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\"/>\
             <text class=\"peak\" text-anchor=\"{anchor}\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            x + beside,
            (y - 4.0).max(10.0),
            (self.show)(*value),
            class = line.class
        );
    }

    /// The tooltip of each moment.
    fn answer(&self, scales: &Scales<'_>, svg: &mut String) {
        let every = scales.axis.at.len().div_ceil(ANSWERS).max(1);
        let places: Vec<_> = scales.axis.at.iter().enumerate().step_by(every).collect();
        let high = scales.ground() - TOP;
        for (place, (index, at)) in places.iter().enumerate() {
            let x = scales.x(**at);
            let next = places.get(place + 1).map_or(self.size.0 - RIGHT, |(_, next)| scales.x(**next));
            let mut said = tick(**at, true);
            for line in &self.lines {
                let values = line.values.iter().skip(*index).take(every).copied();
                let value = values.fold(f64::NAN, f64::max);
                push!(said, "\n{}: {}", escape(line.name), (self.show)(value));
            }
            let wide = (next - x).max(1.0);
            push!(
                svg,
                r#"<rect class="ask" x="{x:.1}" y="{TOP}" width="{wide:.1}" height="{high}"><title>{said}</title></rect>"#
            );
        }
    }
}

impl Scales<'_> {
    /// The line, and the area under it; both have gaps where there is no value.
    fn path(&self, values: &[f64]) -> (String, String) {
        let (mut line, mut area) = (String::new(), String::new());
        let ground = self.ground();
        let points: Vec<_> =
            self.axis.at.iter().zip(values).map(|(at, value)| (self.x(*at), self.y(*value))).collect();
        for run in points.split(|(_, y)| y.is_nan()) {
            let [(x, y), rest @ ..] = run else { continue };
            let (last, _) = run[run.len() - 1];
            let rest: String = rest.iter().map(|(x, y)| format!("L{x:.1} {y:.1}")).collect();
            // The h0 has no length, so that a value alone is a dot.
            push!(line, "M{x:.1} {y:.1}h0{rest}");
            push!(area, "M{x:.1} {ground}L{x:.1} {y:.1}{rest}L{last:.1} {ground}Z");
        }
        (line, area)
    }
}

/// Draws the times at which something was true, as a band over the window.
pub(super) fn strip(axis: &Axis, is: &[bool], class: &str, title: &str) -> String {
    const WIDTH: f64 = 240.0;
    let x = |at: f64| axis.along(at, WIDTH);
    let mut svg = format!(
        "<svg class=\"strip\" role=\"img\" viewBox=\"0 0 {WIDTH} 12\" preserveAspectRatio=\"none\"><title>{}</title>\
         <rect class=\"track\" x=\"0\" y=\"0\" width=\"{WIDTH}\" height=\"12\"/>",
        escape(title)
    );
    let mut index = 0;
    for run in is.chunk_by(|one, next| one == next) {
        let begin = x(axis.at[index]);
        index += run.len();
        if run[0] {
            let wide = (axis.at.get(index).map_or(WIDTH, |at| x(*at)) - begin).max(1.5);
            push!(svg, r#"<rect class="{class}" x="{begin:.1}" y="0" width="{wide:.1}" height="12"/>"#);
        }
    }
    svg.push_str("</svg>");
    svg
}

/// A chart without axes, for a row.
pub(super) fn spark(lines: &[Line<'_>], limit: f64, axis: &Axis, title: &str) -> String {
    const SIZE: (f64, f64) = (260.0, 26.0);
    let most = lines.iter().flat_map(|line| &line.values).copied().fold(0.05, f64::max);
    let x = |at: f64| axis.along(at, SIZE.0);
    let y = |value: f64| SIZE.1 - 2.0 - value / most * (SIZE.1 - 4.0);
    let mut svg = format!(
        "<svg role=\"img\" viewBox=\"0 0 {} {}\" preserveAspectRatio=\"none\"><title>{}</title>",
        SIZE.0,
        SIZE.1,
        escape(title)
    );
    if let Some((from, to)) = axis.bad {
        let (from, to) = (x(from), x(to));
        let (wide, high) = ((to - from).max(1.0), SIZE.1);
        push!(svg, r#"<rect class="when" x="{from:.1}" y="0" width="{wide:.1}" height="{high}"/>"#);
    }
    if limit <= most {
        push!(svg, r#"<path class="limit" d="M0 {:.1}H{}"/>"#, y(limit), SIZE.0);
    }
    for line in lines {
        let points: Vec<_> = axis.at.iter().zip(&line.values).collect();
        let runs = points.split(|(_, value)| value.is_nan()).filter(|run| !run.is_empty()).map(|run| {
            let run: Vec<_> =
                run.iter().map(|(at, value)| format!("{:.1} {:.1}", x(**at), y(**value))).collect();
            format!("M{}", run.join("L"))
        });
        push!(svg, r#"<path class="line {}" d="{}"/>"#, line.class, runs.collect::<String>());
    }
    svg.push_str("</svg>");
    svg
}

/// The top of an axis, and the distance of its grid lines: 1, 2 or 5 of a power of ten.
fn ladder(most: f64) -> (f64, f64) {
    let rough = most.max(1e-9) / 3.0;
    let power = 10_f64.powf(rough.log10().floor());
    let unit = [1.0, 2.0, 5.0, 10.0].map(|step| step * power).into_iter().find(|unit| *unit >= rough * 0.999);
    let unit = unit.unwrap_or(10.0 * power);
    ((most / unit - 0.001).ceil().max(1.0) * unit, unit)
}

/// The distance of labels on the time axis: at least `rough` seconds.
fn time_unit(rough: f64) -> f64 {
    const UNITS: [f64; 16] = [
        1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0, 21_600.0,
        43_200.0,
    ];
    UNITS.into_iter().find(|unit| *unit >= rough).unwrap_or(86_400.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::insight::words::seconds;

    fn axis() -> Axis {
        Axis { at: vec![0.0, 10.0, 20.0, 30.0], ends: (0.0, 30.0), bad: Some((10.0, 20.0)) }
    }

    #[test]
    fn axes_end_at_round_numbers() {
        for (most, expected) in
            [(0.45, (0.6, 0.2)), (9.0, (10.0, 5.0)), (3.0, (3.0, 1.0)), (61.0, (100.0, 50.0))]
        {
            let (top, unit) = ladder(most);
            assert!(
                (top - expected.0).abs() < 1e-9 && (unit - expected.1).abs() < 1e-9,
                "{most}: {top} {unit}"
            );
        }
        assert_eq!([time_unit(0.3), time_unit(61.0), time_unit(1e9)], [1.0, 120.0, 86_400.0]);
    }

    #[test]
    fn a_line_breaks_where_there_is_nothing() {
        let axis = axis();
        let scales = Scales { axis: &axis, size: (LEFT + RIGHT + 300.0, TOP + BOTTOM + 100.0), top: 1.0 };
        let (line, area) = scales.path(&[1.0, 0.5, f64::NAN, 0.0]);
        assert_eq!(line, "M46.0 16.0h0L146.0 66.0M346.0 116.0h0");
        assert_eq!(area, "M46.0 116L46.0 16.0L146.0 66.0L146.0 116ZM346.0 116L346.0 116.0L346.0 116Z");
    }

    #[test]
    fn a_chart_says_its_largest_value_and_no_markup() {
        let line = Line { name: "<p95>", class: "p95", values: vec![0.1, 0.45, 0.2, f64::NAN], filled: true };
        let chart = Chart {
            title: "<us>".to_owned(),
            size: (600.0, 200.0),
            lines: vec![line],
            limit: Some(0.3),
            at_least: 0.1,
            show: seconds,
            answers: true,
        };
        let svg = chart.draw(&axis());
        assert!(svg.contains(">450 ms</text>") && svg.contains("&lt;us&gt;"), "{svg}");
        assert!(svg.contains("<title>00:00:10\n&lt;p95&gt;: 450 ms</title>"), "{svg}");
        assert!(!svg.contains("style=") && svg.matches("class=\"ask\"").count() == 4, "{svg}");
    }

    #[test]
    fn a_strip_has_a_band_for_each_time() {
        let svg = strip(&axis(), &[true, false, true, true], "rtt", "when");
        assert_eq!(svg.matches("class=\"rtt\"").count(), 2, "{svg}");
        assert!(svg.contains("x=\"160.0\" y=\"0\" width=\"80.0\""), "{svg}");
    }
}

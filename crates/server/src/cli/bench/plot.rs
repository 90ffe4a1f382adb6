//! Speed against recall as an SVG: recall to the right, queries a second upwards, each power of ten as high as the last.

use std::fmt::Write;

const SIZE: (f64, f64) = (760.0, 480.0);
const LEFT: f64 = 70.0;
const RIGHT: f64 = 200.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
const COLOURS: [&str; 8] = [
    "#1b6ca8", "#d1495b", "#2e933c", "#edae49", "#6a4c93", "#00798c", "#8d6a4a", "#555555",
];
const GRID: &str = "#dddddd";
const RECALL_STEPS: usize = 5;

/// A line of points (recall, queries a second).
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// What the axes span.
struct Axes {
    recall: (f64, f64),
    /// Powers of ten.
    decades: (i32, i32),
}

impl Axes {
    fn over(curves: &[Curve]) -> Self {
        let points = || curves.iter().flat_map(|curve| &curve.points);
        let lowest = points().map(|(recall, _)| *recall).fold(1.0, f64::min);
        let rates = || points().map(|(_, qps)| qps.max(1.0).log10());
        let (low, high) = (rates().fold(f64::MAX, f64::min), rates().fold(0.0, f64::max));
        let floor = low.min(high).floor() as i32;
        Self {
            recall: (((lowest * 20.0 - 0.5).floor() / 20.0).max(0.0), 1.0),
            decades: (floor, (high.ceil() as i32).max(floor + 1)),
        }
    }

    fn x(&self, recall: f64) -> f64 {
        let (from, to) = self.recall;
        LEFT + (recall - from) / (to - from) * (SIZE.0 - LEFT - RIGHT)
    }

    fn y(&self, decade: f64) -> f64 {
        let (from, to) = (f64::from(self.decades.0), f64::from(self.decades.1));
        SIZE.1 - BOTTOM - (decade - from) / (to - from) * (SIZE.1 - TOP - BOTTOM)
    }
}

/// The picture.
pub fn draw(title: &str, curves: &[Curve]) -> String {
    let axes = Axes::over(curves);
    let (width, height) = SIZE;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    text(
        &mut svg,
        (LEFT, TOP / 2.0),
        "start",
        &format!("{title}: queries a second against recall"),
    );
    grid(&mut svg, &axes);
    for (at, curve) in curves.iter().enumerate() {
        let colour = COLOURS[at % COLOURS.len()];
        let place = |(recall, qps): &(f64, f64)| (axes.x(*recall), axes.y(qps.max(1.0).log10()));
        let places: Vec<(f64, f64)> = curve.points.iter().map(place).collect();
        let line: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            line.join(" ")
        );
        for (x, y) in places {
            let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>");
        }
        let (x, y) = (width - RIGHT + 20.0, TOP + 20.0 * at as f64);
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"{}\" width=\"12\" height=\"4\" fill=\"{colour}\"/>",
            y - 6.0
        );
        text(&mut svg, (x + 20.0, y), "start", &curve.name);
    }
    svg.push_str("</svg>\n");
    svg
}

fn grid(svg: &mut String, axes: &Axes) {
    let (left, right) = (axes.x(axes.recall.0), axes.x(axes.recall.1));
    let (bottom, top) = (axes.y(f64::from(axes.decades.0)), axes.y(f64::from(axes.decades.1)));
    for step in 0..=RECALL_STEPS {
        let recall = axes.recall.0 + (axes.recall.1 - axes.recall.0) * step as f64 / RECALL_STEPS as f64;
        line(svg, (axes.x(recall), bottom), (axes.x(recall), top));
        text(svg, (axes.x(recall), bottom + 18.0), "middle", &format!("{recall:.2}"));
    }
    for decade in axes.decades.0..=axes.decades.1 {
        let y = axes.y(f64::from(decade));
        line(svg, (left, y), (right, y));
        text(
            svg,
            (left - 8.0, y + 4.0),
            "end",
            &10_u64.pow(decade.unsigned_abs()).to_string(),
        );
    }
    text(svg, ((left + right) / 2.0, bottom + 38.0), "middle", "recall@10");
}

fn line(svg: &mut String, from: (f64, f64), to: (f64, f64)) {
    let ((x1, y1), (x2, y2)) = (from, to);
    let _ = writeln!(
        svg,
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{GRID}\"/>"
    );
}

fn text(svg: &mut String, at: (f64, f64), anchor: &str, text: &str) {
    let (x, y) = at;
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_recall_is_further_right_and_more_speed_further_up() {
        let points = vec![(0.8, 20_000.0), (0.95, 9_000.0), (1.0, 700.0)];
        let axes = Axes::over(&[Curve {
            name: String::new(),
            points,
        }]);
        assert_eq!((axes.recall.1, axes.decades), (1.0, (2, 5)));
        assert!(axes.x(0.8) >= LEFT && axes.x(0.8) < axes.x(0.95) && axes.x(1.0) == SIZE.0 - RIGHT);
        assert!(axes.y(2.8) > axes.y(4.3) && axes.y(5.0) == TOP && axes.y(2.0) == SIZE.1 - BOTTOM);
    }

    #[test]
    fn a_picture_has_a_line_and_a_name_for_each_curve() {
        let curve = |name: &str| Curve {
            name: name.to_owned(),
            points: vec![(1.0, 1.0), (1.0, 1.0)],
        };
        let svg = draw("a < b & c", &[curve("one"), curve("two")]);
        assert_eq!(
            (svg.matches("<polyline").count(), svg.matches("<circle").count()),
            (2, 4)
        );
        assert!(svg.contains(">one</text>") && svg.contains("a &lt; b &amp; c"), "{svg}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        assert!(draw("nothing", &[]).ends_with("</svg>\n"));
    }
}

//! The plots of the page, drawn as inline SVG: no script, no outside request; colours come from the page's CSS by class.
//! Every plot has a title and a description for those who do not see it; the page has the figures beside it as a table.

use std::fmt::Write;

/// Width of every plot in its own units; text is 13 of them, so that it can be read on a phone.
const WIDTH: f64 = 480.0;
const TEXT: f64 = 13.0;
/// Ticks on an axis at most.
const TICKS: i32 = 7;

/// `text` as it may stand in HTML and SVG, attributes included.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

/// What is told about a plot to those who do not see it.
#[derive(Debug, Clone, Copy)]
pub struct Told<'a> {
    /// Unique on the page.
    pub id: &'a str,
    pub title: &'a str,
    pub description: &'a str,
}

/// A curve over 1, 2, 3, …
#[derive(Debug, Clone, Copy)]
pub struct Curve<'a> {
    pub name: &'a str,
    pub class: &'a str,
    pub values: &'a [f64],
}

/// A row of points.
#[derive(Debug, Clone)]
pub struct Dots<'a> {
    pub name: String,
    pub class: &'a str,
    pub values: Vec<f64>,
}

/// A bar from the middle to its value, with an interval.
#[derive(Debug, Clone, Copy)]
pub struct Bar<'a> {
    pub name: &'a str,
    pub class: &'a str,
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

/// A straight axis: data from `from` to `to` onto pixels from `start` to `end`.
#[derive(Debug, Clone, Copy)]
struct Axis {
    from: f64,
    to: f64,
    start: f64,
    end: f64,
}

impl Axis {
    fn at(&self, value: f64) -> f64 {
        let span = if self.to > self.from { self.to - self.from } else { 1.0 };
        self.start + (value.clamp(self.from, self.to) - self.from) / span * (self.end - self.start)
    }
}

/// Whole powers of ten around all positive values; 1e-16 to 1 when there are none.
fn decades(values: impl Iterator<Item = f64>) -> (i32, i32) {
    let logs = values.filter(|value| value.is_finite() && *value > 0.0).map(f64::log10);
    let (low, high) = logs.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), log| (low.min(log), high.max(log)));
    if low > high {
        return (-16, 0);
    }
    let (low, high) = (low.floor() as i32, high.ceil() as i32);
    (low, high.max(low + 1))
}

/// Where a log axis is marked: every decade, or every second, third … when there are many.
fn marks((low, high): (i32, i32)) -> impl Iterator<Item = i32> {
    let step = (high - low + TICKS - 1).div_euclid(TICKS).max(1);
    (low..=high).filter(move |decade| (decade - low) % step == 0)
}

/// 10⁻⁶.
fn power(decade: i32) -> String {
    const DIGITS: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    if decade == 0 {
        return "1".to_owned();
    }
    let digits = decade.unsigned_abs().to_string();
    let raised: String = digits.bytes().map(|digit| DIGITS[usize::from(digit - b'0')]).collect();
    format!("10{}{raised}", if decade < 0 { "⁻" } else { "" })
}

/// A step of 1, 2 or 5 times a power of ten that gives about `TICKS` marks up to `most`.
fn step(most: f64) -> f64 {
    let raw = (most / f64::from(TICKS)).max(1.0);
    let power = 10f64.powf(raw.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|n| n * power).find(|step| *step >= raw).unwrap_or(raw)
}

struct Plot {
    body: String,
    height: f64,
}

impl Plot {
    fn new(height: f64) -> Plot {
        Plot { body: String::new(), height }
    }

    fn line(&mut self, class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
        // Writing to a string cannot fail.
        let _ = write!(self.body, r#"<line class="{class}" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#);
    }

    fn text(&mut self, class: &str, anchor: &str, (x, y): (f64, f64), text: &str) {
        let text = escape(text);
        let _ = write!(self.body, r#"<text class="{class}" text-anchor="{anchor}" x="{x:.1}" y="{y:.1}">{text}</text>"#);
    }

    fn finish(self, told: Told<'_>) -> String {
        let Told { id, title, description } = told;
        let (title, description, height) = (escape(title), escape(description), self.height);
        format!(
            "<svg viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" aria-labelledby=\"{id}-t {id}-d\">\
             <title id=\"{id}-t\">{title}</title><desc id=\"{id}-d\">{description}</desc>{}</svg>",
            self.body
        )
    }
}

/// Curves over the number of the sweep with a logarithmic vertical axis, and a level that they are to reach, if any.
pub fn curves(told: Told<'_>, across: &str, lines: &[Curve<'_>], level: Option<(f64, &str)>) -> String {
    let mut plot = Plot::new(290.0);
    let all = lines.iter().flat_map(|line| line.values.iter().copied()).chain(level.map(|(level, _)| level));
    let span = decades(all);
    let most = lines.iter().map(|line| line.values.len()).max().unwrap_or(1).max(2) as f64;
    let x = Axis { from: 1.0, to: most, start: 52.0, end: WIDTH - 12.0 };
    let y = Axis { from: f64::from(span.0), to: f64::from(span.1), start: 244.0, end: 34.0 };
    for decade in marks(span) {
        let at = y.at(f64::from(decade));
        plot.line("grid", (x.start, at), (x.end, at));
        plot.text("tick", "end", (x.start - 8.0, at + TEXT / 3.0), &power(decade));
    }
    let step = step(most);
    let mut sweep = 1.0;
    while sweep <= most {
        plot.text("tick", "middle", (x.at(sweep), y.start + 18.0), &format!("{sweep:.0}"));
        sweep = if sweep < step { step } else { sweep + step };
    }
    plot.text("tick", "end", (x.end, y.start + 38.0), across);
    if let Some((level, name)) = level {
        let at = y.at(level.log10());
        plot.line("level", (x.start, at), (x.end, at));
        // On the left, where the curves are still high up.
        plot.text("tick", "start", (x.start + 4.0, at - 5.0), name);
    }
    let mut legend = x.start;
    for line in lines.iter().filter(|line| !line.values.is_empty()) {
        let class = line.class;
        let points = line.values.iter().enumerate().filter(|(_, value)| value.is_finite());
        let points: Vec<(f64, f64)> =
            points.map(|(at, value)| (x.at(at as f64 + 1.0), y.at(value.max(f64::MIN_POSITIVE).log10()))).collect();
        let path: String = points.iter().map(|(x, y)| format!("{x:.1},{y:.1} ")).collect();
        let _ = write!(plot.body, r#"<polyline class="curve {class}" points="{}"/>"#, path.trim_end());
        if let Some((x, y)) = points.last() {
            let _ = write!(plot.body, r#"<circle class="dot {class}" cx="{x:.1}" cy="{y:.1}" r="4"/>"#);
        }
        plot.line(&format!("curve {class}"), (legend, 14.0), (legend + 22.0, 14.0));
        plot.text("label", "start", (legend + 28.0, 14.0 + TEXT / 3.0), line.name);
        legend += 48.0 + 7.2 * line.name.chars().count() as f64;
    }
    plot.finish(told)
}

/// Rows of points on one logarithmic axis, and a level that they are not to pass.
pub fn dots(told: Told<'_>, across: &str, rows: &[Dots<'_>], level: (f64, &str)) -> String {
    const ROW: f64 = 56.0;
    let bottom = 26.0 + ROW * rows.len() as f64;
    let mut plot = Plot::new(bottom + 44.0);
    let span = decades(rows.iter().flat_map(|row| row.values.iter().copied()).chain([level.0]));
    let x = Axis { from: f64::from(span.0), to: f64::from(span.1), start: 14.0, end: WIDTH - 18.0 };
    for decade in marks(span) {
        let at = x.at(f64::from(decade));
        plot.line("grid", (at, 20.0), (at, bottom));
        plot.text("tick", "middle", (at, bottom + 18.0), &power(decade));
    }
    plot.text("tick", "end", (x.end, bottom + 38.0), across);
    let at = x.at(level.0.log10());
    plot.line("level", (at, 20.0), (at, bottom));
    let anchor = if at > WIDTH / 2.0 { "end" } else { "start" };
    plot.text("tick", anchor, (at, 13.0), level.1);
    for (index, row) in rows.iter().enumerate() {
        let middle = 26.0 + ROW * (index as f64 + 0.68);
        plot.text("label", "start", (x.start, middle - 18.0), &row.name);
        plot.line("axis", (x.start, middle), (x.end, middle));
        for value in &row.values {
            let (at, class) = (x.at(value.max(f64::MIN_POSITIVE).log10()), row.class);
            let _ = write!(plot.body, r#"<circle class="dot {class}" cx="{at:.1}" cy="{middle:.1}" r="6"/>"#);
        }
    }
    plot.finish(told)
}

/// Bars from one half to their value, with intervals, on an axis that ends at 1.
pub fn bars(told: Told<'_>, across: &str, rows: &[Bar<'_>]) -> String {
    const ROW: f64 = 46.0;
    let bottom = 10.0 + ROW * rows.len() as f64;
    let mut plot = Plot::new(bottom + 44.0);
    let lowest = rows.iter().map(|row| row.low.min(row.value)).filter(|low| low.is_finite()).fold(0.4, f64::min);
    let x = Axis { from: (lowest * 10.0).floor() / 10.0, to: 1.0, start: 14.0, end: WIDTH - 18.0 };
    let mut tenth = (x.from * 10.0).round() as i32;
    while tenth <= 10 {
        let at = x.at(f64::from(tenth) / 10.0);
        plot.line(if tenth == 5 { "level" } else { "grid" }, (at, 4.0), (at, bottom));
        plot.text("tick", "middle", (at, bottom + 18.0), &format!("{:.1}", f64::from(tenth) / 10.0));
        tenth += 1;
    }
    plot.text("tick", "end", (x.end, bottom + 38.0), across);
    for (index, row) in rows.iter().enumerate() {
        let (top, class) = (10.0 + ROW * index as f64, row.class);
        plot.text("label", "start", (x.start, top + 12.0), row.name);
        let middle = top + 27.0;
        let (half, value) = (x.at(0.5), x.at(row.value));
        let (left, width) = (half.min(value), (half - value).abs().max(1.0));
        let _ = write!(plot.body, r#"<rect class="bar {class}" x="{left:.1}" y="{:.1}" width="{width:.1}" height="14"/>"#, middle - 7.0);
        plot.line("whisker", (x.at(row.low), middle), (x.at(row.high), middle));
        for end in [row.low, row.high] {
            plot.line("whisker", (x.at(end), middle - 5.0), (x.at(end), middle + 5.0));
        }
    }
    plot.finish(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLD: Told<'_> = Told { id: "p", title: "a < b", description: "\"c\" & d" };

    /// Every element that is opened is closed, and every number is one.
    fn well_formed(svg: &str) {
        let mut open = Vec::new();
        for tag in svg.split('<').skip(1) {
            let (tag, _) = tag.split_once('>').expect("a tag ends");
            match tag.strip_prefix('/') {
                Some(name) => assert_eq!(open.pop(), Some(name)),
                None if tag.ends_with('/') => (),
                None => open.push(tag.split(' ').next().unwrap()),
            }
        }
        assert!(open.is_empty() && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn what_is_told_is_escaped_and_names_the_plot() {
        let svg = dots(TOLD, "", &[], (1e-3, "level"));
        well_formed(&svg);
        assert!(svg.contains(r#"<title id="p-t">a &lt; b</title>"#) && svg.contains(r#"<desc id="p-d">&quot;c&quot; &amp; d</desc>"#));
        assert!(svg.contains(r#"aria-labelledby="p-t p-d""#));
    }

    #[test]
    fn curves_stand_where_their_values_are() {
        let svg = curves(TOLD, "sweeps", &[Curve { name: "warm", class: "one", values: &[1e-2, 1e-4, 1e-6] }], Some((1e-6, "tolerance")));
        well_formed(&svg);
        // Equal steps of the logarithm are equal steps on the paper, from the upper left to the lower right.
        let points = svg.split(r#"class="curve one" points=""#).nth(1).and_then(|rest| rest.split('"').next()).unwrap();
        assert_eq!(points, "52.0,34.0 260.0,139.0 468.0,244.0");
    }

    #[test]
    fn nothing_breaks_a_plot() {
        for values in [vec![], vec![0.0], vec![f64::NAN, f64::INFINITY, 1e-300], vec![1.0; 5000], vec![0.5]] {
            well_formed(&curves(TOLD, "x", &[Curve { name: "a", class: "a", values: &values }], Some((1e-7, "t"))));
            well_formed(&curves(TOLD, "x", &[Curve { name: "a", class: "a", values: &values }], None));
            well_formed(&dots(TOLD, "x", &[Dots { name: "a".into(), class: "a", values }], (1e-7, "t")));
        }
        for value in [0.0, 0.5, 1.0] {
            well_formed(&bars(TOLD, "x", &[Bar { name: "a", class: "a", value, low: value, high: value }]));
        }
    }

    #[test]
    fn axes_are_marked_with_few_round_numbers() {
        assert_eq!((power(-12), power(3), power(0)), ("10⁻¹²".to_owned(), "10³".to_owned(), "1".to_owned()));
        assert_eq!(decades([3e-5, 0.2].into_iter()), (-5, 0));
        assert_eq!(marks((-5, 0)).collect::<Vec<_>>(), [-5, -4, -3, -2, -1, 0]);
        assert!(marks((-300, 0)).count() <= TICKS as usize + 1);
        assert_eq!((step(5.0), step(30.0), step(400.0)), (1.0, 5.0, 100.0));
    }
}

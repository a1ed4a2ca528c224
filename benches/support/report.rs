//! What was measured: told at once, and as a table at the end.

use std::fmt::Write as _;
use std::time::Instant;

/// One figure.
struct Line {
    what: String,
    figure: String,
    must: Option<(String, bool)>,
}

/// All figures of a run, part by part.
#[derive(Default)]
pub struct Report {
    parts: Vec<(String, Vec<Line>)>,
}

impl Report {
    /// Begins a part of the table.
    pub fn part(&mut self, title: impl Into<String>) {
        let title = title.into();
        println!("\n{title}");
        self.parts.push((title, Vec::new()));
    }

    /// A figure that nothing is asked of.
    pub fn say(&mut self, what: impl Into<String>, figure: impl Into<String>) {
        self.line(Line { what: what.into(), figure: figure.into(), must: None });
    }

    /// A figure with what it must be.
    pub fn hold(&mut self, what: impl Into<String>, figure: impl Into<String>, must: impl Into<String>, holds: bool) {
        self.line(Line { what: what.into(), figure: figure.into(), must: Some((must.into(), holds)) });
    }

    /// [`Report::hold`] where the run is of the size that the demand is made for, else [`Report::say`].
    pub fn hold_if(&mut self, asked: bool, what: impl Into<String>, figure: impl Into<String>, must: impl Into<String>, holds: bool) {
        if asked { self.hold(what, figure, must, holds) } else { self.say(what, figure) }
    }

    fn line(&mut self, line: Line) {
        println!("  {:<58} {:>22}   {}", line.what, line.figure, verdict(&line));
        if self.parts.is_empty() {
            self.parts.push((String::new(), Vec::new()));
        }
        if let Some((_, lines)) = self.parts.last_mut() {
            lines.push(line);
        }
    }

    /// Figures that are not what they must be.
    pub fn missed(&self) -> usize {
        self.parts.iter().flat_map(|(_, lines)| lines).filter(|line| line.must.as_ref().is_some_and(|(_, holds)| !holds)).count()
    }

    /// Markdown tables, one a part: those of this run in the place of what `old` holds of the same parts.
    pub fn markdown(&self, old: &str) -> String {
        let mut tables: Vec<String> = old.split("\n\n").map(str::trim).filter(|block| block.starts_with('|')).map(str::to_owned).collect();
        for (title, lines) in &self.parts {
            let mut table = format!("| {title} | measured | must be |\n|---|---|---|");
            for line in lines {
                // Writing to a string cannot fail.
                let _ = write!(table, "\n| {} | {} | {} |", line.what, line.figure, verdict(line));
            }
            match tables.iter_mut().find(|old| part_of(old) == part_of(&table)) {
                Some(old) => *old = table,
                None => tables.push(table),
            }
        }
        tables.iter().map(|table| format!("\n{table}\n")).collect()
    }
}

/// What a table is of: its title without the details.
fn part_of(table: &str) -> &str {
    let title = table.lines().next().unwrap_or_default();
    title.split([':', ';']).next().unwrap_or_default().trim_end_matches(" | measured | must be |")
}

fn verdict(line: &Line) -> String {
    match &line.must {
        None => String::new(),
        Some((must, true)) => format!("{must}: ok"),
        Some((must, false)) => format!("{must}: **missed**"),
    }
}

/// What `work` answers, and its seconds.
pub fn timed<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let begin = Instant::now();
    let answer = work();
    (answer, begin.elapsed().as_secs_f64())
}

/// Middle of some seconds, or the mean of the two in the middle; NaN of none.
pub fn median(times: &[f64]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 0 => (sorted[middle - 1] + sorted[middle]) / 2.0,
        _ => sorted[middle],
    }
}

//! What the audience sees: 80 columns, colour and moving bars on a terminal, plain lines when piped.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::DemoError;
use super::patience::now;
use super::service::Progress;
use crate::cli::output::{self, Stream, Tone, count, paint};

/// Columns of the screen.
const WIDTH: usize = 80;
/// Columns of one of two lists that stand side by side.
const HALF: usize = 36;
/// Columns of a bar.
const BAR: usize = 40;
/// Everything but the acts' headings stands in by this.
const INDENT: &str = "   ";

/// A line of a list of titles.
pub struct Row {
    pub title: String,
    pub tag: &'static str,
    /// Belongs to what the story is about.
    pub marked: bool,
}

pub struct Stage {
    colour: bool,
    /// Somebody looks on: bars may move.
    live: bool,
    acts: usize,
    claims: usize,
    failed: usize,
    started: Instant,
}

impl Stage {
    pub fn new() -> Stage {
        let live = io::stdout().is_terminal();
        Stage { colour: output::colour(Stream::Out), live, acts: 0, claims: 0, failed: 0, started: now() }
    }

    /// The first lines.
    pub fn open(&self, title: &str, subtitle: &str) -> Result<(), DemoError> {
        let rule = paint(&"─".repeat(WIDTH), Tone::Faint, self.colour);
        self.line(&format!("{}  {}\n{rule}", paint(title, Tone::Strong, self.colour), paint(subtitle, Tone::Faint, self.colour)))
    }

    /// The next act begins.
    pub fn act(&mut self, title: &str) -> Result<(), DemoError> {
        self.acts += 1;
        self.line(&format!(
            "\n{} {}",
            paint(&format!("{:>2}", self.acts), Tone::Faint, self.colour),
            paint(title, Tone::Strong, self.colour)
        ))
    }

    /// Prose, wrapped.
    pub fn say(&self, text: &str) -> Result<(), DemoError> {
        for line in wrap(text, WIDTH - INDENT.len()) {
            self.line(&format!("{INDENT}{line}"))?;
        }
        Ok(())
    }

    /// Something shown as it is, line by line: a message, a receipt.
    pub fn exhibit(&self, text: &str) -> Result<(), DemoError> {
        text.lines().try_for_each(|line| self.line(&format!("{INDENT}{}", paint(line, Tone::Faint, self.colour))))
    }

    /// A line of a small table of figures.
    pub fn figures(&self, line: &str) -> Result<(), DemoError> {
        self.line(&format!("{INDENT}  {line}"))
    }

    /// A statement that was checked.
    pub fn claim(&mut self, held: bool, text: &str) -> Result<(), DemoError> {
        self.claims += 1;
        self.failed += usize::from(!held);
        let (mark, tone) = if held { ("ok", Tone::Good) } else { ("FAILED", Tone::Bad) };
        let margin = INDENT.len() + mark.len() + 2;
        let text = wrap(text, WIDTH - margin).join(&format!("\n{}", " ".repeat(margin)));
        self.line(&format!("{INDENT}{}  {text}", paint(mark, tone, self.colour)))
    }

    /// A stage that a request has reached, `seconds` after it was sent.
    pub fn reached(&self, stage: &str, seconds: f64, meaning: &str) -> Result<(), DemoError> {
        let stage = paint(&format!("{stage:<10}"), Tone::Strong, self.colour);
        self.line(&format!("{INDENT}{stage}{seconds:>7.2} s  {}", paint(meaning, Tone::Faint, self.colour)))
    }

    /// Two lists of titles side by side.
    pub fn lists(&self, left: (&str, &[Row]), right: (&str, &[Row])) -> Result<(), DemoError> {
        let heading = |text: &str| paint(&format!("{text:<HALF$}"), Tone::Faint, self.colour);
        self.line(format!("\n{INDENT}{}   {}", heading(left.0), heading(right.0)).trim_end())?;
        for at in 0..left.1.len().max(right.1.len()) {
            let [left, right] = [left.1, right.1].map(|list| self.row(at, list.get(at)));
            self.line(format!("{INDENT}{left}   {right}").trim_end())?;
        }
        self.line("")
    }

    fn row(&self, at: usize, row: Option<&Row>) -> String {
        let Some(row) = row else { return " ".repeat(HALF) };
        let text = format!("{:<25} {:<7}", row.title, row.tag);
        let text = match (row.marked, self.colour) {
            // Bright magenta, for what is to be forgotten.
            (true, true) => format!("\u{1b}[95m{text}\u{1b}[0m"),
            _ => text,
        };
        format!("{} {text}", paint(&format!("{:>2}", at + 1), Tone::Faint, self.colour))
    }

    /// The last lines; whether every claim held.
    pub fn close(&self) -> Result<bool, DemoError> {
        let seconds = self.started.elapsed().as_secs_f64();
        let rule = paint(&"─".repeat(WIDTH), Tone::Faint, self.colour);
        let (words, tone) = match self.failed {
            0 => (format!("all {} claims held", self.claims), Tone::Good),
            failed => (format!("{failed} of {} claims FAILED", self.claims), Tone::Bad),
        };
        self.line(&format!(
            "\n{rule}\n{}  {}",
            paint(&words, tone, self.colour),
            paint(&format!("in {seconds:.1} s"), Tone::Faint, self.colour)
        ))?;
        Ok(self.failed == 0)
    }

    /// What lies between two parts of something that is sent: nothing, unless somebody looks on.
    pub fn pause(&self) -> Duration {
        if self.live { Duration::from_millis(20) } else { Duration::ZERO }
    }

    /// Bars for `total` events and for the residual on its way to `tolerance`.
    pub fn learning(&self, total: u64, tolerance: f64) -> Learning<'_> {
        let events = self.bar(total, "{bar:40}  {msg}");
        // Tenths of a decade.
        let residual = self.bar((-tolerance.log10() * 10.0) as u64, "{bar:40}  {msg}");
        Learning { stage: self, total, told: 0, events, residual }
    }

    /// Something that takes a while and shows nothing else.
    pub fn waiting(&self, what: &str) -> ProgressBar {
        let bar = self.bar(0, "{spinner}  {msg}");
        bar.set_message(what.to_owned());
        bar
    }

    /// Bars and curves have a colour of their own.
    fn drawn(&self, text: &str) -> String {
        if self.colour { format!("\u{1b}[36m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    fn bar(&self, length: u64, template: &str) -> ProgressBar {
        let target = if self.live { ProgressDrawTarget::stdout() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(length), target);
        match ProgressStyle::with_template(&format!("{INDENT}{template}")) {
            Ok(style) => bar.with_style(style.progress_chars("━╸─")),
            // A template that does not parse costs the look only.
            Err(_) => bar,
        }
    }

    fn line(&self, text: &str) -> Result<(), DemoError> {
        Ok(output::out(&format!("{text}\n"))?)
    }
}

/// The show of events coming in and of the residual falling.
pub struct Learning<'a> {
    stage: &'a Stage,
    total: u64,
    /// Quarters of `total` that the plain lines have told.
    told: u64,
    events: ProgressBar,
    residual: ProgressBar,
}

impl Learning<'_> {
    /// Takes notice of where the service is.
    pub fn look(&mut self, progress: &Progress) -> Result<(), DemoError> {
        if progress.accepted < self.total {
            self.events.set_position(progress.accepted);
            self.events.set_message(format!("{} plays taken in", count(progress.accepted)));
        } else if !self.events.is_finished() {
            self.events.finish_and_clear();
        }
        let quarters = (progress.accepted.min(self.total) * 4).checked_div(self.total).unwrap_or(4);
        if quarters > self.told {
            self.told = quarters;
            let at = progress.accepted.min(self.total);
            if !self.stage.live {
                self.stage.line(&format!("{INDENT}{} of {} plays taken in", count(at), count(self.total)))?;
            } else if quarters == 4 {
                self.stage.line(&format!("{INDENT}{}  {} plays taken in", self.stage.drawn(&"━".repeat(BAR)), count(at)))?;
            }
        }
        // Two bars at a time would draw over each other.
        if let (4, true, Some(residual)) = (quarters, progress.solving, progress.residual) {
            self.residual.set_position((-residual.log10() * 10.0).max(0.0) as u64);
            self.residual.set_message(format!("sweep {}, residual {residual:.1e}", progress.sweep));
        }
        Ok(())
    }

    /// Leaves on the screen how the residual fell, given its value after each sweep.
    pub fn end(self, residuals: &[f64]) -> Result<(), DemoError> {
        self.events.finish_and_clear();
        self.residual.finish_and_clear();
        let stage = self.stage;
        let (Some(first), Some(last)) = (residuals.first(), residuals.last()) else { return Ok(()) };
        if stage.live {
            let curve = stage.drawn(&sparkline(residuals, BAR));
            return stage.line(&format!("{INDENT}{curve}  residual {first:.0e} to {last:.0e}"));
        }
        let mut decade = f64::INFINITY;
        for (sweep, residual) in residuals.iter().enumerate().filter(|(_, residual)| **residual > 0.0) {
            if residual.log10().floor() < decade {
                decade = residual.log10().floor();
                stage.line(&format!("{INDENT}sweep {:>4}  residual {residual:.1e}", sweep + 1))?;
            }
        }
        Ok(())
    }
}

/// Heights on a logarithmic scale, stretched or thinned to `columns`.
fn sparkline(values: &[f64], columns: usize) -> String {
    let blocks = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let logs: Vec<f64> = values.iter().map(|value| value.max(f64::MIN_POSITIVE).log10()).collect();
    let low = logs.iter().copied().fold(f64::INFINITY, f64::min);
    let high = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let height = |log: f64| if high > low { ((log - low) / (high - low) * 7.0).round() as usize } else { 0 };
    let shown = if logs.is_empty() { 0 } else { columns };
    (0..shown).map(|at| blocks[height(logs[at * logs.len() / columns]).min(7)]).collect()
}

/// Holds words together in prose: a number and its unit.
pub fn tight(text: &str) -> String {
    text.replace(' ', "\u{a0}")
}

/// Lines of at most `width` characters, broken between words that are not [`tight`].
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.iter().map(|line| line.replace('\u{a0}', " ")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prose_is_broken_between_words() {
        assert_eq!(wrap("one two  three four", 9), ["one two", "three", "four"]);
        assert_eq!(wrap(&format!("in all {}", tight("1.5 s")), 10), ["in all", "1.5 s"]);
        assert_eq!(wrap("", 9), Vec::<String>::new());
        assert_eq!(wrap("incomprehensible is long", 5), ["incomprehensible", "is", "long"]);
    }

    #[test]
    fn a_curve_falls() {
        assert_eq!(sparkline(&[1.0, 1e-1, 1e-7], 6), "██▇▇▁▁");
        assert_eq!(sparkline(&[1.0; 100], 40).chars().count(), 40);
        assert_eq!(sparkline(&[], 40), "");
    }

    #[test]
    fn two_lists_fit_the_screen() {
        let stage = Stage { colour: false, live: false, acts: 0, claims: 0, failed: 0, started: now() };
        let row = Row { title: "x".repeat(25), tag: "musical", marked: true };
        assert_eq!(stage.row(9, Some(&row)).chars().count(), HALF);
        assert!(INDENT.len() + HALF + 3 + HALF <= WIDTH);
    }
}

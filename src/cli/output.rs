//! What the commands put on the screen: data to stdout, everything else to stderr; colour and bars only for eyes.

use std::ffi::OsStr;
use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::CliError;

/// Where something is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Out,
    Err,
}

/// Whether colour is wanted there: a terminal, and nobody has set `NO_COLOR`.
#[expect(clippy::disallowed_methods, reason = "NO_COLOR describes the terminal; it is no part of the configuration")]
pub fn colour(stream: Stream) -> bool {
    let terminal = match stream {
        Stream::Out => io::stdout().is_terminal(),
        Stream::Err => io::stderr().is_terminal(),
    };
    wanted(terminal, std::env::var_os("NO_COLOR").as_deref())
}

/// As no-color.org has it: set to anything but nothing.
fn wanted(terminal: bool, no_color: Option<&OsStr>) -> bool {
    terminal && no_color.is_none_or(OsStr::is_empty)
}

/// What a piece of text is, for its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    Plain,
    Strong,
    Faint,
    Good,
    Bad,
}

/// `text` in the colour of its tone, unchanged without `colour`.
pub fn paint(text: &str, tone: Tone, colour: bool) -> String {
    let code = match tone {
        _ if text.is_empty() => return String::new(),
        Tone::Plain => return text.to_owned(),
        Tone::Strong => "1",
        Tone::Faint => "2",
        Tone::Good => "32",
        Tone::Bad => "31",
    };
    if colour { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
}

/// Writes data to stdout.
///
/// # Errors
/// When stdout cannot take it, as on a full disk.
pub fn out(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    written(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()))
}

/// What became of something written to stdout: a reader that closed the pipe has what it wanted.
///
/// # Errors
/// Everything else that went wrong.
pub fn written(result: io::Result<()>) -> Result<(), CliError> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(CliError::failed(format!("cannot write the result to stdout: {error}; free some space or send it elsewhere")))
        }
        _ => Ok(()),
    }
}

/// Writes one JSON document and a newline to stdout.
///
/// # Errors
/// As [`out`].
pub fn out_json(value: &serde_json::Value) -> Result<(), CliError> {
    out(&format!("{value:#}\n"))
}

/// Tells the user something that is not the result.
pub fn note(text: &str) {
    // There is nowhere left to say that stderr is gone.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Prints why a command failed.
pub fn error(message: &str) {
    note(&format!("{} {message}", paint("error:", Tone::Bad, colour(Stream::Err))));
}

/// Prints what the user should know although the command goes on.
pub fn warning(message: &str) {
    note(&format!("{} {message}", paint("warning:", Tone::Strong, colour(Stream::Err))));
}

/// Rows under headings, columns as wide as their widest cell, two spaces between.
#[derive(Debug, Default)]
pub struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<(String, Tone)>>,
}

impl Table {
    pub fn new(headings: &[&'static str]) -> Table {
        Table { headings: headings.to_vec(), rows: Vec::new() }
    }

    pub fn row<const N: usize>(&mut self, cells: [(String, Tone); N]) {
        self.rows.push(cells.into());
    }

    /// As [`Table::row`], for a number of columns that is known at run time only.
    pub fn cells(&mut self, cells: Vec<(String, Tone)>) {
        self.rows.push(cells);
    }

    /// The whole table, every line ended.
    pub fn render(&self, colour: bool) -> String {
        // A row may have more cells than there are headings.
        let columns = self.rows.iter().map(Vec::len).chain([self.headings.len()]).max().unwrap_or_default();
        let mut widths: Vec<usize> = self.headings.iter().map(|heading| heading.chars().count()).collect();
        widths.resize(columns, 0);
        for row in &self.rows {
            for (width, (cell, _)) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let headings: Vec<(String, Tone)> = self.headings.iter().map(|heading| ((*heading).to_owned(), Tone::Faint)).collect();
        let mut text = String::new();
        let headed = self.headings.iter().any(|heading| !heading.is_empty());
        for row in headed.then_some(&headings).into_iter().chain(&self.rows) {
            let mut line = String::new();
            for (at, (cell, tone)) in row.iter().enumerate() {
                line.push_str(&paint(cell, *tone, colour));
                // Nothing follows the last cell, so that lines end where their text ends.
                if at + 1 < row.len() {
                    let width = widths.get(at).copied().unwrap_or_default();
                    line.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count()) + 2));
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

const BYTES: &str = "{bar:24} {percent:>3} %  {bytes}/{total_bytes}  {msg}  {eta} left";
const OFFSETS: &str = "{bar:24} {percent:>3} %  {human_pos}/{human_len} records  {eta} left";
const STEPS: &str = "{bar:24} {pos}/{len}  {msg}  {elapsed}";
const ENDLESS: &str = "{spinner} {msg}  {elapsed}";

/// A bar over `total` bytes on stderr; hidden when stderr is not a terminal.
pub fn bytes_bar(total: u64) -> ProgressBar {
    styled(ProgressBar::new(total), BYTES)
}

/// A bar over `total` offsets of a topic on stderr; hidden when stderr is not a terminal.
pub fn offsets_bar(total: u64) -> ProgressBar {
    styled(ProgressBar::new(total), OFFSETS)
}

/// A bar over `total` steps that say themselves what they do, on stderr; hidden when stderr is not a terminal.
pub fn steps_bar(total: u64) -> ProgressBar {
    styled(ProgressBar::new(total), STEPS)
}

/// Something that goes on for an unknown time, on stderr; hidden when stderr is not a terminal.
pub fn spinner() -> ProgressBar {
    let bar = styled(ProgressBar::new_spinner(), ENDLESS);
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

/// Nobody wonders before.
const SOON: Duration = Duration::from_secs(1);

/// Does `work`; when it takes longer than a second, `message` says so on stderr until it is done.
pub fn patiently<T>(message: &'static str, work: impl FnOnce() -> T) -> T {
    if !io::stderr().is_terminal() {
        return work();
    }
    let (done, waiting) = channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if waiting.recv_timeout(SOON) == Err(RecvTimeoutError::Timeout) {
                let bar = spinner();
                bar.set_message(message);
                // Nothing is ever sent: it ends when the other end is gone.
                let _ = waiting.recv();
                bar.finish_and_clear();
            }
        });
        // Also when the work panics: the thread would wait for ever.
        let _done = done;
        work()
    })
}

fn styled(bar: ProgressBar, template: &str) -> ProgressBar {
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style.progress_chars("━╸─")),
        // A template that does not parse costs the look only.
        Err(_) => bar,
    }
}

/// A count with its thousands apart: 1 234 567.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// A count with its noun: `1 event`, `2 events`.
pub fn plural(n: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(n), if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_lines_up_with_and_without_colour() {
        let mut table = Table::new(&["topic", "is"]);
        table.row([("a".to_owned(), Tone::Plain), ("fine".to_owned(), Tone::Good)]);
        table.row([("größer".to_owned(), Tone::Plain), ("bad".to_owned(), Tone::Bad)]);
        assert_eq!(table.render(false), "topic   is\na       fine\ngrößer  bad\n");
        assert!(table.render(true).contains("a       \u{1b}[32mfine\u{1b}[0m\n"));
        let mut bare = Table::new(&["", ""]);
        bare.row([("lag".to_owned(), Tone::Faint), (String::new(), Tone::Bad)]);
        assert_eq!(bare.render(true), "\u{1b}[2mlag\u{1b}[0m\n", "no line for headings that say nothing, no colour for nothing");
    }

    #[test]
    fn colour_is_for_terminals_of_people_who_did_not_refuse_it() {
        assert!(wanted(true, None) && wanted(true, Some(OsStr::new(""))));
        for refused in ["1", "0", "no"] {
            assert!(!wanted(true, Some(OsStr::new(refused))), "{refused}");
        }
        assert!(!wanted(false, None));
    }

    #[test]
    fn counts_read_well() {
        assert_eq!(count(7), "7");
        assert_eq!(count(1_234_567), "1 234 567");
        assert_eq!(plural(1, "event"), "1 event");
        assert_eq!(plural(100_000, "event"), "100 000 events");
    }

    #[test]
    fn every_bar_template_parses() {
        for template in [BYTES, OFFSETS, STEPS, ENDLESS] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
        bytes_bar(10).finish_and_clear();
        offsets_bar(10).finish_and_clear();
        steps_bar(10).finish_and_clear();
        spinner().finish_and_clear();
    }
}

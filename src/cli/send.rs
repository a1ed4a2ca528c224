//! `nepenthe send`: interactions from a file or from stdin into the topic.

mod columns;
mod lines;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::ProgressBar;
use serde_json::json;

use self::columns::{Column, Header, Mapping, TimeUnit};
use self::lines::{Format, Lines, LinesError, Outgoing};
use super::output::{self, plural};
use super::{CliError, client_settings};
use crate::config::Config;
use crate::kafka::OutRecord;
use crate::kafka::admin::{Outlet, end_offsets};

/// Bad lines that are shown; further ones are only counted.
const SHOWN: u64 = 10;
/// Lines between two looks at the clock and the bar.
const STRIDE: u64 = 4096;

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  nepenthe send ratings.csv --time-unit s                 user,item,value,time; a header is noticed
  nepenthe send ml-100k.inter --time-unit s --no-value    RecBole's headers are understood
  nepenthe send plays.tsv --user listener --item track --time played_at --no-value
  zcat events.jsonl.gz | nepenthe send - --format jsonl   JSON lines go as they are

Sending a file again changes nothing where its lines have times or event ids.")]
pub struct SendArgs {
    /// CSV, TSV or JSON lines; - is stdin
    file: String,
    /// How the file is written
    #[arg(long, value_enum, default_value_t = FormatName::Auto)]
    format: FormatName,
    /// The first line names the columns
    #[arg(long, conflicts_with = "no_header")]
    header: bool,
    /// The first line is data
    #[arg(long)]
    no_header: bool,
    /// One character, or `tab`, between columns
    #[arg(long, value_name = "CHAR", value_parser = delimiter)]
    delimiter: Option<u8>,
    /// Column of the user: its name or its number from 1
    #[arg(long, value_name = "COL", value_parser = Column::parse, help_heading = "Columns")]
    user: Option<Column>,
    /// Column of the item
    #[arg(long, value_name = "COL", value_parser = Column::parse, help_heading = "Columns")]
    item: Option<Column>,
    /// Column of the strength or rating
    #[arg(long, value_name = "COL", value_parser = Column::parse, help_heading = "Columns")]
    value: Option<Column>,
    /// Column of the time: RFC 3339, or a number in --time-unit
    #[arg(long, value_name = "COL", value_parser = Column::parse, help_heading = "Columns")]
    time: Option<Column>,
    /// Column of the event id
    #[arg(long, value_name = "COL", value_parser = Column::parse, help_heading = "Columns")]
    event_id: Option<Column>,
    /// Unit of times that are numbers; without it milliseconds, and numbers that look like seconds are refused
    #[arg(long, value_enum, value_name = "UNIT", help_heading = "Columns")]
    time_unit: Option<TimeUnit>,
    /// Every event has strength 1
    #[arg(long, conflicts_with = "value", help_heading = "Columns")]
    no_value: bool,
    /// Stop after so many events
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Leave out up to N bad lines (or `all`) instead of stopping at the first
    #[arg(long, value_name = "N|all", default_value = "0", value_parser = tolerance, hide_default_value = true)]
    skip_bad: u64,
    /// Summary as JSON on stdout
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum FormatName {
    /// by the file's extension
    Auto,
    Csv,
    Tsv,
    Jsonl,
}

fn delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        [byte] if byte.is_ascii() && !matches!(byte, b'\n' | b'\r' | b'"') => Ok(*byte),
        _ if matches!(text, "tab" | "\\t") => Ok(b'\t'),
        _ => Err("give one ASCII character, or `tab`".to_owned()),
    }
}

fn tolerance(text: &str) -> Result<u64, String> {
    if text == "all" { Ok(u64::MAX) } else { text.parse().map_err(|_| "give a number, or `all`".to_owned()) }
}

impl SendArgs {
    /// # Errors
    /// When the format can neither be read off the name nor off the options, or options contradict it.
    fn format(&self) -> Result<Format, CliError> {
        let name = match self.format {
            FormatName::Auto => self.guess()?,
            named => named,
        };
        if name == FormatName::Jsonl {
            let columns = [&self.user, &self.item, &self.value, &self.time, &self.event_id];
            if columns.iter().any(|column| column.is_some()) || self.no_value || self.time_unit.is_some() || self.delimiter.is_some() {
                return Err(CliError::usage("JSON lines are sent as they are: leave out the options for columns, or say --format csv"));
            }
            return Ok(Format::JsonLines);
        }
        let header = match (self.header, self.no_header) {
            (true, _) => Header::Yes,
            (_, true) => Header::No,
            _ => Header::Auto,
        };
        let columns = [self.user.clone(), self.item.clone(), self.value.clone(), self.time.clone(), self.event_id.clone()];
        let tabs = name == FormatName::Tsv;
        let delimiter = self.delimiter.unwrap_or(if tabs { b'\t' } else { b',' });
        let mapping = Mapping { columns, header, no_value: self.no_value, time_unit: self.time_unit };
        // A quote in a tab-separated file is a character like any other.
        Ok(Format::Table { delimiter, quoting: !tabs, mapping })
    }

    fn guess(&self) -> Result<FormatName, CliError> {
        let extension = Path::new(&self.file).extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        match extension.to_ascii_lowercase().as_str() {
            "csv" => Ok(FormatName::Csv),
            "tsv" | "tab" | "inter" => Ok(FormatName::Tsv),
            "jsonl" | "ndjson" | "json" => Ok(FormatName::Jsonl),
            _ if self.delimiter == Some(b'\t') => Ok(FormatName::Tsv),
            _ if self.delimiter.is_some() => Ok(FormatName::Csv),
            _ => Err(CliError::usage(format!("cannot tell the format of {} by its name; say --format csv, tsv or jsonl", self.shown()))),
        }
    }

    fn shown(&self) -> &str {
        if self.file == "-" { "stdin" } else { &self.file }
    }
}

/// What became of a file.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Tally {
    sent: u64,
    skipped: u64,
    /// Bytes read.
    bytes: u64,
}

/// Sends the file's interactions, keyed by user.
///
/// # Errors
/// Exit 2 when the file, its format or its columns are not what the options say; 1 at a bad line beyond `--skip-bad`
/// or when the broker does not take the events. What went out before stays sent.
#[expect(clippy::disallowed_methods, reason = "a command is the rim: the rate shown is that of the clock on the wall")]
pub fn run(config: &Config, args: &SendArgs) -> Result<(), CliError> {
    let format = args.format()?;
    let (input, size) = open(&args.file)?;
    let topic = &config.topics.interactions;
    let settings = client_settings(config)?;
    // A broker may make the topic by itself when something is sent, with one partition and a retention nobody chose.
    end_offsets(&settings, topic).map_err(CliError::failed)?;
    let mut outlet = Outlet::new(&settings).map_err(CliError::failed)?;
    let began = Instant::now();
    let bar = size.map_or_else(output::spinner, output::bytes_bar);
    let mut lines = Lines::new(input, format, config.model.objective);
    let mut progress = |tally: &Tally| show(&bar, tally, size.is_some(), began.elapsed());
    let sent = pump(&mut lines, args, &mut progress, |event| {
        let record = OutRecord { topic: topic.clone(), key: Some(event.key), value: Some(event.payload), headers: Vec::new() };
        outlet.send(&record).map_err(CliError::failed)
    });
    // Also after a bad line: what was handed over before it must have arrived or be known not to have.
    let delivered = outlet.flush().map_err(CliError::failed);
    bar.finish_and_clear();
    let tally = sent.map_err(|stop| with_count(stop, delivered.as_ref().ok().copied()))?;
    delivered?;
    summary(args, topic, tally, began.elapsed(), without_time(&lines))
}

/// The bytes to read, and how many there are if that is known.
fn open(file: &str) -> Result<(Box<dyn Read>, Option<u64>), CliError> {
    if file == "-" {
        return Ok((Box::new(io::stdin().lock()), None));
    }
    let refused = |error: io::Error| CliError::usage(format!("cannot read {file}: {error}; check the path and your rights"));
    let input = File::open(file).map_err(refused)?;
    let meta = input.metadata().map_err(refused)?;
    if meta.is_dir() {
        return Err(CliError::usage(format!("{file} is a directory; name one file, or pipe several into `nepenthe send -`")));
    }
    // A pipe has no length to measure progress by.
    Ok((Box::new(input), meta.is_file().then_some(meta.len())))
}

/// Hands every good line to `send`, until the file or the limit ends.
///
/// # Errors
/// At the first bad line that is not tolerated, at an unreadable file, and when `send` fails.
fn pump<R: Read>(
    lines: &mut Lines<R>,
    args: &SendArgs,
    progress: &mut dyn FnMut(&Tally),
    mut send: impl FnMut(Outgoing) -> Result<(), CliError>,
) -> Result<Tally, CliError> {
    let mut tally = Tally::default();
    while args.limit.is_none_or(|limit| tally.sent < limit) {
        let Some(line) = lines.next() else { break };
        let line = line.map_err(|error| unreadable(args.shown(), error))?;
        match line.event {
            Ok(event) => {
                send(event)?;
                tally.sent += 1;
            }
            Err(bad) if tally.skipped >= args.skip_bad => {
                let remedy = "correct the line, or leave bad lines out with --skip-bad N or --skip-bad all";
                return Err(CliError::failed(format!("{}:{}: {bad}\n  {remedy}", args.shown(), line.number)));
            }
            Err(bad) => {
                tally.skipped += 1;
                match tally.skipped {
                    ..=SHOWN => output::warning(&format!("{}:{}: {bad}; left out", args.shown(), line.number)),
                    n if n == SHOWN + 1 => output::warning("more bad lines; they are only counted from here on"),
                    _ => (),
                }
            }
        }
        tally.bytes = lines.bytes();
        if (tally.sent + tally.skipped).is_multiple_of(STRIDE) {
            progress(&tally);
        }
    }
    tally.bytes = lines.bytes();
    Ok(tally)
}

fn unreadable(file: &str, error: LinesError) -> CliError {
    match error {
        LinesError::Columns(error) => CliError::usage(format!("{file}: {error}")),
        other => CliError::failed(format!("{file}: {other}")),
    }
}

fn show(bar: &ProgressBar, tally: &Tally, sized: bool, elapsed: Duration) {
    let rate = rate(tally.sent, elapsed);
    if sized {
        bar.set_position(tally.bytes);
        bar.set_message(format!("{rate} events/s"));
    } else {
        bar.set_message(format!("{}  {rate}/s", plural(tally.sent, "event")));
    }
}

/// Events a second, for reading.
fn rate(sent: u64, elapsed: Duration) -> String {
    output::count((sent as f64 / elapsed.as_secs_f64().max(1e-3)) as u64)
}

fn with_count(stop: CliError, delivered: Option<u64>) -> CliError {
    match delivered {
        Some(n) if n > 0 => {
            let again = "sending the file again is safe where lines have times or event ids";
            CliError::new(stop.exit, format!("{}\n  {} had been sent before; {again}", stop.message, plural(n, "event")))
        }
        _ => stop,
    }
}

/// A table whose events get the time of their sending: sent twice they count twice.
fn without_time<R: Read>(lines: &Lines<R>) -> bool {
    lines.columns().is_some_and(|columns| columns.time.is_none() && columns.event_id.is_none())
}

fn summary(args: &SendArgs, topic: &str, tally: Tally, elapsed: Duration, timeless: bool) -> Result<(), CliError> {
    let left_out = if tally.skipped > 0 { format!(", {} left out", plural(tally.skipped, "bad line")) } else { String::new() };
    let seconds = elapsed.as_secs_f64();
    let events = plural(tally.sent, "event");
    output::note(&format!("sent {events} to {topic} in {seconds:.1} s ({} events/s){left_out}", rate(tally.sent, elapsed)));
    if timeless && tally.sent > 0 {
        output::warning("no column held times: the events count as happening now, and sending them again adds to them");
    }
    if args.json {
        let file = args.shown();
        let Tally { sent, skipped, bytes } = tally;
        output::out_json(&json!({"file": file, "topic": topic, "sent": sent, "skipped": skipped, "bytes": bytes, "seconds": seconds}))?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "send_tests.rs"]
mod tests;

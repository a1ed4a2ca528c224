//! A file of interactions as the options describe it: what `send` sends and `evaluate` evaluates.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use clap::Args;

use super::columns::{Column, Header, Mapping, TimeUnit};
use super::lines::{Format, Lines, LinesError, Outgoing};
use crate::cli::{CliError, output};

/// Bad lines that are shown; further ones are only counted.
const SHOWN: u64 = 10;
/// Lines between two looks at the clock and the bar.
const STRIDE: u64 = 4096;

/// How the file is written and which column holds what.
#[derive(Debug, Clone, Args)]
// Options about a file ask for the file: the command's own argument of that name.
#[group(requires = "file", multiple = true)]
pub struct InputArgs {
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
    /// Leave out up to N bad lines (or `all`) instead of stopping at the first
    #[arg(long, value_name = "N|all", default_value = "0", value_parser = tolerance, hide_default_value = true)]
    skip_bad: u64,
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

impl InputArgs {
    /// # Errors
    /// When the format can neither be read off the name of `file` nor off the options, or options contradict it.
    pub fn format(&self, file: &str) -> Result<Format, CliError> {
        let name = match self.format {
            FormatName::Auto => self.guess(file)?,
            named => named,
        };
        if name == FormatName::Jsonl {
            let columns = [&self.user, &self.item, &self.value, &self.time, &self.event_id];
            if columns.iter().any(|column| column.is_some()) || self.no_value || self.time_unit.is_some() || self.delimiter.is_some() {
                return Err(CliError::usage("JSON lines are taken as they are: leave out the options for columns, or say --format csv"));
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

    fn guess(&self, file: &str) -> Result<FormatName, CliError> {
        let extension = Path::new(file).extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        match extension.to_ascii_lowercase().as_str() {
            "csv" => Ok(FormatName::Csv),
            "tsv" | "tab" | "inter" => Ok(FormatName::Tsv),
            "jsonl" | "ndjson" | "json" => Ok(FormatName::Jsonl),
            _ if self.delimiter == Some(b'\t') => Ok(FormatName::Tsv),
            _ if self.delimiter.is_some() => Ok(FormatName::Csv),
            _ => Err(CliError::usage(format!("cannot tell the format of {} by its name; say --format csv, tsv or jsonl", shown(file)))),
        }
    }

    /// Hands every good line to `take`, until the file or the limit ends.
    ///
    /// # Errors
    /// At the first bad line that is not tolerated, at an unreadable file, and when `take` fails.
    pub fn pump<R: Read>(
        &self,
        file: &str,
        limit: Option<u64>,
        lines: &mut Lines<R>,
        progress: &mut dyn FnMut(&Tally),
        mut take: impl FnMut(Outgoing) -> Result<(), CliError>,
    ) -> Result<Tally, CliError> {
        let mut tally = Tally::default();
        while limit.is_none_or(|limit| tally.taken < limit) {
            let Some(line) = lines.next() else { break };
            let line = line.map_err(|error| unreadable(shown(file), error))?;
            match line.event {
                Ok(event) => {
                    take(event)?;
                    tally.taken += 1;
                }
                Err(bad) if tally.skipped >= self.skip_bad => {
                    let remedy = "correct the line, or leave bad lines out with --skip-bad N or --skip-bad all";
                    return Err(CliError::failed(format!("{}:{}: {bad}\n  {remedy}", shown(file), line.number)));
                }
                Err(bad) => {
                    tally.skipped += 1;
                    match tally.skipped {
                        ..=SHOWN => output::warning(&format!("{}:{}: {bad}; left out", shown(file), line.number)),
                        n if n == SHOWN + 1 => output::warning("more bad lines; they are only counted from here on"),
                        _ => (),
                    }
                }
            }
            tally.bytes = lines.bytes();
            if (tally.taken + tally.skipped).is_multiple_of(STRIDE) {
                progress(&tally);
            }
        }
        tally.bytes = lines.bytes();
        Ok(tally)
    }
}

/// What became of a file.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    pub taken: u64,
    pub skipped: u64,
    /// Bytes read.
    pub bytes: u64,
}

/// A file as it is called in messages.
pub fn shown(file: &str) -> &str {
    if file == "-" { "stdin" } else { file }
}

/// The bytes to read, and how many there are if that is known.
///
/// # Errors
/// Exit 2 for what cannot be read.
pub fn open(file: &str) -> Result<(Box<dyn Read>, Option<u64>), CliError> {
    if file == "-" {
        return Ok((Box::new(io::stdin().lock()), None));
    }
    let refused = |error: io::Error| CliError::usage(format!("cannot read {file}: {error}; check the path and your rights"));
    let input = File::open(file).map_err(refused)?;
    let meta = input.metadata().map_err(refused)?;
    if meta.is_dir() {
        return Err(CliError::usage(format!("{file} is a directory; name one file, or pipe several into `-`")));
    }
    // A pipe has no length to measure progress by.
    Ok((Box::new(input), meta.is_file().then_some(meta.len())))
}

fn unreadable(file: &str, error: LinesError) -> CliError {
    match error {
        LinesError::Columns(error) => CliError::usage(format!("{file}: {error}")),
        other => CliError::failed(format!("{file}: {other}")),
    }
}

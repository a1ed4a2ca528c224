//! A file of interactions, one at a time: tables and JSON lines become what goes into the topic, checked by the
//! product's own decoder, in memory that does not grow with the file.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read};
use std::rc::Rc;

use csv::{ByteRecord, ErrorKind, ReaderBuilder};

use super::columns::{Columns, ColumnsError, Mapping, RowError};
use crate::model::Objective;
use crate::model::event::{self, Event, Kind, MAX_RECORD, Origin};

/// Bytes read at once.
const BUFFER: usize = 1 << 16;

/// How a file is written.
#[derive(Debug, Clone)]
pub enum Format {
    Table { delimiter: u8, quoting: bool, mapping: Mapping },
    JsonLines,
}

/// What goes into the topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// The user, so that a user's events stay in one partition and in their order.
    pub key: Vec<u8>,
    pub payload: Vec<u8>,
}

/// One line of the file, counted from 1, and the event on it or why it is none.
#[derive(Debug)]
pub struct Line {
    pub number: u64,
    pub event: Result<Outgoing, BadLine>,
}

/// Why a line is not sent. What follows it can be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadLine {
    #[error(transparent)]
    Row(#[from] RowError),
    /// As the service would refuse it.
    #[error("{0}")]
    Refused(String),
    #[error("this is a forget; ask for it with `nepenthe forget`, so that it is not lost among the interactions")]
    Forget,
    #[error("longer than {MAX_RECORD} bytes, which is the most that is read; shorten it")]
    TooLong,
}

/// Why nothing more can be read.
#[derive(Debug, thiserror::Error)]
pub enum LinesError {
    #[error("cannot read on after line {line}: {source}")]
    Read { line: u64, source: io::Error },
    #[error(
        "after line {line}: more than {MAX_RECORD} bytes without an end of row; is a quote left open, or the format another (--format)?"
    )]
    Endless { line: u64 },
    #[error(transparent)]
    Columns(#[from] ColumnsError),
}

/// Where the reading stands, in bytes from the start of the file.
#[derive(Debug, Default)]
struct Meter {
    read: Cell<u64>,
    /// `read` when the row that is being read was begun.
    row: Cell<u64>,
    endless: Cell<bool>,
    /// Places of the line ends that no row has passed yet.
    line_ends: RefCell<VecDeque<u64>>,
    /// Line ends before those.
    passed: Cell<u64>,
}

impl Meter {
    /// The line, from 1, on which a row lies that ends before the byte `end`, its own line end included or not.
    ///
    /// The csv crate counts rows, not lines: blank lines and line ends within quotes would shift every number after them.
    fn last_line(&self, end: u64) -> u64 {
        let mut line_ends = self.line_ends.borrow_mut();
        while line_ends.front().is_some_and(|place| place + 1 < end) {
            line_ends.pop_front();
            self.passed.set(self.passed.get() + 1);
        }
        self.passed.get() + 1
    }
}

/// Counts what is read, and stops a row that never ends before it fills the memory.
struct Metered<R> {
    inner: R,
    meter: Rc<Meter>,
    /// Note the places of line ends.
    lines: bool,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let meter = &self.meter;
        if meter.read.get() - meter.row.get() > (MAX_RECORD + BUFFER) as u64 {
            meter.endless.set(true);
            return Err(io::Error::other("a row without end"));
        }
        let count = self.inner.read(bytes)?;
        if self.lines {
            let places = (meter.read.get()..).zip(&bytes[..count]).filter(|(_, byte)| **byte == b'\n').map(|(place, _)| place);
            meter.line_ends.borrow_mut().extend(places);
        }
        meter.read.set(meter.read.get() + count as u64);
        Ok(count)
    }
}

/// The lines of a file that are not empty and no header.
pub struct Lines<R: Read> {
    body: Body<R>,
    meter: Rc<Meter>,
    objective: Objective,
    /// The last line that was looked at.
    line: u64,
    over: bool,
}

enum Body<R: Read> {
    Table { reader: Box<csv::Reader<Metered<R>>>, row: ByteRecord, mapping: Mapping, columns: Option<Columns> },
    Json { reader: BufReader<Metered<R>>, text: Vec<u8> },
}

impl<R: Read> Lines<R> {
    pub fn new(input: R, format: Format, objective: Objective) -> Lines<R> {
        let meter = Rc::new(Meter::default());
        let lines = matches!(format, Format::Table { .. });
        let input = Metered { inner: input, meter: Rc::clone(&meter), lines };
        let body = match format {
            Format::Table { delimiter, quoting, mapping } => {
                let mut builder = ReaderBuilder::new();
                builder.has_headers(false).flexible(true).delimiter(delimiter).quoting(quoting).buffer_capacity(BUFFER);
                Body::Table { reader: Box::new(builder.from_reader(input)), row: ByteRecord::new(), mapping, columns: None }
            }
            Format::JsonLines => Body::Json { reader: BufReader::with_capacity(BUFFER, input), text: Vec::new() },
        };
        Lines { body, meter, objective, line: 0, over: false }
    }

    /// Bytes read so far, for a progress bar.
    pub fn bytes(&self) -> u64 {
        self.meter.read.get()
    }

    /// The columns in use, once the first row has been read.
    pub fn columns(&self) -> Option<Columns> {
        match &self.body {
            Body::Table { columns, .. } => *columns,
            Body::Json { .. } => None,
        }
    }

    fn advance(&mut self) -> Result<Option<Line>, LinesError> {
        let payload = match &mut self.body {
            Body::Table { reader, row, mapping, columns } => {
                let payload = next_row(reader, row, mapping, columns, &self.meter, self.line)?;
                let within = row.as_slice().iter().filter(|byte| **byte == b'\n').count() as u64;
                payload
                    .map(|payload| (self.meter.last_line(reader.position().byte()).saturating_sub(within), payload.map_err(BadLine::from)))
            }
            Body::Json { reader, text } => next_text(reader, text, &self.meter, self.line)?,
        };
        let Some((number, payload)) = payload else { return Ok(None) };
        // A quote that is left open takes the end of the last line for its own: still, no two rows begin on one line.
        let number = number.max(self.line + 1);
        self.line = number;
        Ok(Some(Line { number, event: payload.and_then(|payload| checked(payload, self.objective)) }))
    }
}

impl<R: Read> Iterator for Lines<R> {
    type Item = Result<Line, LinesError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let next = self.advance();
        self.over = !matches!(next, Ok(Some(_)));
        next.transpose()
    }
}

/// The next row of a table as JSON; `None` at the end.
fn next_row<R: Read>(
    reader: &mut csv::Reader<Metered<R>>,
    row: &mut ByteRecord,
    mapping: &Mapping,
    columns: &mut Option<Columns>,
    meter: &Meter,
    line: u64,
) -> Result<Option<Result<Vec<u8>, RowError>>, LinesError> {
    loop {
        meter.row.set(meter.read.get());
        match reader.read_byte_record(row) {
            Ok(false) => return Ok(None),
            Ok(true) => (),
            Err(_) if meter.endless.get() => return Err(LinesError::Endless { line }),
            Err(error) => return Err(LinesError::Read { line, source: io_error(error) }),
        }
        match *columns {
            Some(columns) => return Ok(Some(columns.to_json(row, mapping.time_unit))),
            None => {
                let (found, header) = mapping.resolve(row)?;
                *columns = Some(found);
                if !header {
                    return Ok(Some(found.to_json(row, mapping.time_unit)));
                }
            }
        }
    }
}

fn io_error(error: csv::Error) -> io::Error {
    match error.into_kind() {
        ErrorKind::Io(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidData, format!("{other:?}")),
    }
}

type Numbered = (u64, Result<Vec<u8>, BadLine>);

/// The next line that is not blank, as it is; `None` at the end.
fn next_text<R: Read>(
    reader: &mut BufReader<Metered<R>>,
    text: &mut Vec<u8>,
    meter: &Meter,
    mut line: u64,
) -> Result<Option<Numbered>, LinesError> {
    loop {
        text.clear();
        meter.row.set(meter.read.get());
        // One byte more than allowed tells a line that is too long from one that just fits, its end included.
        let most = MAX_RECORD as u64 + 2;
        let read = reader.by_ref().take(most).read_until(b'\n', text).map_err(|source| LinesError::Read { line, source })?;
        if read == 0 {
            return Ok(None);
        }
        line += 1;
        if text.last() != Some(&b'\n') && read as u64 == most {
            skip_line(reader, meter).map_err(|source| LinesError::Read { line, source })?;
            return Ok(Some((line, Err(BadLine::TooLong))));
        }
        let whole = text.as_slice();
        let unmarked = if line == 1 { whole.strip_prefix(b"\xef\xbb\xbf").unwrap_or(whole) } else { whole };
        let json = unmarked.trim_ascii();
        if !json.is_empty() {
            return Ok(Some((line, Ok(json.to_vec()))));
        }
    }
}

/// Passes over the rest of a line without keeping it.
fn skip_line<R: Read>(reader: &mut BufReader<Metered<R>>, meter: &Meter) -> io::Result<()> {
    loop {
        meter.row.set(meter.read.get());
        let buffer = reader.fill_buf()?;
        let (used, done) = match buffer.iter().position(|byte| *byte == b'\n') {
            Some(at) => (at + 1, true),
            None => (buffer.len(), buffer.is_empty()),
        };
        reader.consume(used);
        if done {
            return Ok(());
        }
    }
}

/// Lets through what the service will accept.
fn checked(payload: Vec<u8>, objective: Objective) -> Result<Outgoing, BadLine> {
    // The record gets its place and its timestamp only when it is sent; whether it is valid does not hang on them.
    let origin = Origin { topic: "", partition: 0, offset: 0, timestamp: Some(0), kind: Kind::Interaction, objective };
    let key = match event::decode(&origin, &payload).map_err(|refusal| BadLine::Refused(refusal.to_string()))? {
        Event::Interaction(interaction) => interaction.user.as_bytes().to_vec(),
        Event::Forget(_) => return Err(BadLine::Forget),
    };
    Ok(Outgoing { key, payload })
}

#[cfg(test)]
#[path = "lines_tests.rs"]
mod tests;

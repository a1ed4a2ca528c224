//! Which row of a file belongs to whom: lists of ids, matched with what the state knows.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::path::Path;

use crate::cli::npy::{Array, MAGIC, NpyError};
use crate::model::dictionary::Dictionary;
use crate::model::factors::Side;
use crate::model::ratings::Rows;

/// Longest line of a list that is read: no id is longer than 256 bytes.
const LONGEST_LINE: u64 = 1 << 16;

/// What the state knows of one side.
#[derive(Clone, Copy)]
pub struct Known<'s> {
    pub side: Side,
    pub dictionary: &'s Dictionary,
    pub rows: &'s Rows,
}

impl Known<'_> {
    /// The number of an id that has interactions.
    fn number(&self, id: &str) -> Option<u32> {
        self.dictionary.get(self.side, id).filter(|&number| self.rows.degree(number as usize) > 0)
    }

    /// Numbers that have interactions, ascending.
    pub fn numbers(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.rows.len()).filter(|&number| self.rows.degree(number) > 0)
    }

    /// One of them, as messages call it.
    pub fn noun(&self) -> &'static str {
        match self.side {
            Side::User => "user",
            Side::Item => "item",
        }
    }

    /// Headings of a column of ids, in lower case.
    fn headings(&self) -> &'static [&'static str] {
        match self.side {
            Side::User => &["id", "user", "user_id", "userid"],
            Side::Item => &["id", "item", "item_id", "itemid"],
        }
    }
}

/// Where in a file something stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Line(u64),
    Element(u64),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Line(line) => write!(f, "line {line}"),
            Place::Element(element) => write!(f, "element {element} (counted from 0)"),
        }
    }
}

/// Why a list of ids cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum IdsError {
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Npy(#[from] NpyError),
    #[error("it cannot be read as a table: {0}")]
    Table(#[from] csv::Error),
    #[error("it holds no ids")]
    None,
    #[error("{0}: the id is empty; every row needs one")]
    Empty(Place),
    #[error("{place}: the id {id:?} stands on {first} already; every id may have one row only")]
    Repeated { place: Place, id: String, first: Place },
    #[error("{0} is no UTF-8 text; write one id to a line, or a CSV with a header, or an .npy list")]
    NotText(Place),
    #[error("{0} is longer than {LONGEST_LINE} bytes; write one id to a line, or a CSV with a header, or an .npy list")]
    LongLine(Place),
    #[error("it has the columns {there}, and none is called {wanted}; name the column of the ids with --{noun}-id-column")]
    NoColumn { wanted: String, there: String, noun: &'static str },
    #[error("{place} has {there} columns, the ids are in column {wanted}")]
    ShortRow { place: Place, wanted: usize, there: usize },
}

/// Ids one after the other, none twice.
pub struct Taker<'s> {
    known: Known<'s>,
    seen: HashMap<Box<str>, Place>,
}

impl<'s> Taker<'s> {
    pub fn new(known: Known<'s>) -> Taker<'s> {
        Taker { known, seen: HashMap::new() }
    }

    /// The state's number of the next id; `None` for one that it does not know.
    ///
    /// # Errors
    /// [`IdsError`] for an id that is empty or was there before.
    pub fn take(&mut self, id: &str, place: Place) -> Result<Option<u32>, IdsError> {
        if id.is_empty() {
            return Err(IdsError::Empty(place));
        }
        match self.seen.insert(id.into(), place) {
            Some(first) => Err(IdsError::Repeated { place, id: id.to_owned(), first }),
            None => Ok(self.known.number(id)),
        }
    }
}

/// Reads a list of ids: for every row of the factors its number in the state, if it has one. A line of text each, an
/// `.npy` list of strings or whole numbers, or a column of a CSV or TSV with a header.
///
/// # Errors
/// [`IdsError`] names the place and what is wrong there.
pub fn read(path: &Path, column: Option<&str>, known: Known<'_>) -> Result<Vec<Option<u32>>, IdsError> {
    let mut file = File::open(path)?;
    let mut start = Vec::new();
    (&mut file).take(MAGIC.len() as u64).read_to_end(&mut start)?;
    file.rewind()?;
    let mut input = BufReader::new(file);
    let (mut taker, mut numbers) = (Taker::new(known), Vec::new());
    let mut take = |id: &str, place| -> Result<(), IdsError> {
        numbers.push(taker.take(id, place)?);
        Ok(())
    };
    if start == MAGIC {
        let (array, _) = Array::read(&mut input)?;
        array.texts(&mut input, |at, id| take(id, Place::Element(at)))?;
    } else if let Some(delimiter) = delimiter(path) {
        from_table(table(input, delimiter), column, known, take)?;
    } else {
        from_lines(input, take)?;
    }
    if numbers.is_empty() { Err(IdsError::None) } else { Ok(numbers) }
}

/// What is between the columns of a table, by the file's name; `None` when it is called no table.
pub fn delimiter(path: &Path) -> Option<u8> {
    match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
        "csv" => Some(b','),
        "tsv" | "tab" => Some(b'\t'),
        _ => None,
    }
}

/// A table whose lines may be of any length; quotes are quotes in CSV only.
pub fn table<R: Read>(input: R, delimiter: u8) -> csv::Reader<R> {
    csv::ReaderBuilder::new().delimiter(delimiter).quoting(delimiter == b',').has_headers(false).flexible(true).from_reader(input)
}

fn from_lines(mut input: impl BufRead, mut take: impl FnMut(&str, Place) -> Result<(), IdsError>) -> Result<(), IdsError> {
    let mut line = Vec::new();
    for number in 1.. {
        let place = Place::Line(number);
        line.clear();
        if (&mut input).take(LONGEST_LINE).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        if line.len() as u64 == LONGEST_LINE {
            return Err(IdsError::LongLine(place));
        }
        let text = std::str::from_utf8(&line).map_err(|_| IdsError::NotText(place))?;
        let text = text.strip_suffix('\n').unwrap_or(text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        // A mark that some editors put in front of a text.
        let text = if number == 1 { text.strip_prefix('\u{feff}').unwrap_or(text) } else { text };
        take(text, place)?;
    }
    Ok(())
}

fn from_table<R: Read>(
    mut table: csv::Reader<R>,
    column: Option<&str>,
    known: Known<'_>,
    mut take: impl FnMut(&str, Place) -> Result<(), IdsError>,
) -> Result<(), IdsError> {
    let mut row = csv::ByteRecord::new();
    if !table.read_byte_record(&mut row)? {
        return Ok(());
    }
    let at = column_of(&row, column, known)?;
    while table.read_byte_record(&mut row)? {
        let place = line_of(&row);
        let id = row.get(at).ok_or(IdsError::ShortRow { place, wanted: at + 1, there: row.len() })?;
        take(std::str::from_utf8(id).map_err(|_| IdsError::NotText(place))?, place)?;
    }
    Ok(())
}

/// Where a row of a table stands.
pub fn line_of(row: &csv::ByteRecord) -> Place {
    Place::Line(row.position().map_or(0, csv::Position::line))
}

fn column_of(header: &csv::ByteRecord, column: Option<&str>, known: Known<'_>) -> Result<usize, IdsError> {
    let names: Vec<String> = header.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    let bare = |name: &str| name.trim_start_matches('\u{feff}').split(':').next().unwrap_or_default().to_ascii_lowercase();
    let found = match column {
        Some(column) => names.iter().position(|name| name == column),
        None => known.headings().iter().find_map(|&heading| names.iter().position(|name| bare(name) == heading)),
    };
    found.ok_or_else(|| IdsError::NoColumn {
        wanted: column.map_or_else(|| known.headings().join(", "), str::to_owned),
        there: names.join(", "),
        noun: known.noun(),
    })
}

#[cfg(test)]
#[path = "ids_tests.rs"]
mod tests;

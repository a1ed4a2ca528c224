//! Which column of a table holds what: from the options, the header, or the usual order.

use std::fmt;

use csv::ByteRecord;
use jiff::Timestamp;
use serde::Serialize;

use crate::model::Millis;

/// Numbers below are hardly milliseconds: they would lie before March 1973, as times in seconds do.
const SURELY_MILLIS: f64 = 1e11;

/// One thing that an interaction is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    User,
    Item,
    Value,
    Time,
    EventId,
}

impl Part {
    const ALL: [Part; 5] = [Part::User, Part::Item, Part::Value, Part::Time, Part::EventId];

    /// Names that a header may use for it, in lower case, the first being ours.
    fn names(self) -> &'static [&'static str] {
        match self {
            Part::User => &["user", "user_id", "userid"],
            Part::Item => &["item", "item_id", "itemid", "movieid", "movie_id"],
            Part::Value => &["value", "rating", "strength", "weight"],
            Part::Time => &["time", "timestamp"],
            Part::EventId => &["event_id", "eventid"],
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Part::User => "user",
            Part::Item => "item",
            Part::Value => "value",
            Part::Time => "time",
            Part::EventId => "event-id",
        })
    }
}

/// A column as an option names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Column {
    Name(String),
    /// From 0.
    Index(usize),
}

impl Column {
    /// A whole number counts columns from 1; anything else is a name.
    pub fn parse(text: &str) -> Result<Column, String> {
        match text.parse::<usize>() {
            Ok(0) => Err("columns are counted from 1".to_owned()),
            Ok(at) => Ok(Column::Index(at - 1)),
            Err(_) if text.is_empty() => Err("give a column's name or its number".to_owned()),
            Err(_) => Ok(Column::Name(text.to_owned())),
        }
    }
}

/// Whether the first line names the columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    Auto,
    Yes,
    No,
}

/// Unit of times that are written as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum TimeUnit {
    /// seconds since 1970
    S,
    /// milliseconds since 1970
    Ms,
}

/// What the options say about the columns.
#[derive(Debug, Clone)]
pub struct Mapping {
    /// In the order of [`Part::ALL`].
    pub columns: [Option<Column>; 5],
    pub header: Header,
    /// Every event has strength 1, whatever the table holds.
    pub no_value: bool,
    pub time_unit: Option<TimeUnit>,
}

/// Why the columns of a table are not clear.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ColumnsError {
    #[error("--{part} names the column `{name}`, but --no-header says that there are no names; give its number, counted from 1")]
    NameWithoutHeader { part: Part, name: String },
    #[error("no column is called `{name}` (--{part}); the first line has: {there}")]
    NoSuchName { part: Part, name: String, there: String },
    #[error("--{part} {number}: the first line has {there} columns; is the delimiter right (--delimiter)?")]
    NoSuchIndex { part: Part, number: usize, there: usize },
    #[error("cannot tell which column holds the {part}; the first line has: {there}. Name it with --{part} COLUMN")]
    NotFound { part: Part, there: String },
    #[error("the first line has {there} columns and at least user and item are needed; is the delimiter right (--delimiter)?")]
    TooFew { there: usize },
    #[error("--{one} and --{other} are the same column")]
    Twice { one: Part, other: Part },
}

/// Why a row is no interaction.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    #[error("{there} columns, but the {part} is expected in column {number}; is it quoted and delimited like the other lines?")]
    Missing { part: Part, number: usize, there: usize },
    #[error("the {part} in column {number} is not UTF-8; convert the file to UTF-8")]
    NotUtf8 { part: Part, number: usize },
    #[error("value {text:?} in column {number} is not a number; choose another column (--value COLUMN) or send strength 1 (--no-value)")]
    Value { text: String, number: usize },
    #[error("time {text:?} in column {number} is neither a number nor RFC 3339; choose another column with --time COLUMN")]
    Time { text: String, number: usize },
    #[error("time {text:?} would lie before 1973 if it is in milliseconds; say --time-unit s if it is in seconds, --time-unit ms if not")]
    Unit { text: String },
}

/// Where each part is, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Columns {
    pub user: usize,
    pub item: usize,
    pub value: Option<usize>,
    pub time: Option<usize>,
    pub event_id: Option<usize>,
}

impl Mapping {
    /// Finds the columns by the first line of the table; true when that line is a header and no data.
    ///
    /// # Errors
    /// [`ColumnsError`] when an option points nowhere, or user or item cannot be found.
    pub fn resolve(&self, first: &ByteRecord) -> Result<(Columns, bool), ColumnsError> {
        if first.len() < 2 {
            return Err(ColumnsError::TooFew { there: first.len() });
        }
        let names: Vec<String> = first.iter().map(|cell| String::from_utf8_lossy(cell).trim().to_owned()).collect();
        let header = self.has_header(&names);
        let mut at = [None; 5];
        for (part, column) in Part::ALL.into_iter().zip(&self.columns) {
            at[part as usize] = match column {
                Some(column) => Some(locate(part, column, &names, header)?),
                None => None,
            };
        }
        if header {
            self.fill_by_name(&mut at, &names);
        } else {
            self.fill_by_order(&mut at, names.len());
        }
        if self.no_value {
            at[Part::Value as usize] = None;
        }
        apart(&at)?;
        let needed = |part: Part| at[part as usize].ok_or_else(|| ColumnsError::NotFound { part, there: names.join(", ") });
        let columns = Columns { user: needed(Part::User)?, item: needed(Part::Item)?, value: at[2], time: at[3], event_id: at[4] };
        Ok((columns, header))
    }

    fn has_header(&self, first: &[String]) -> bool {
        match self.header {
            Header::Yes => return true,
            Header::No => return false,
            Header::Auto => (),
        }
        if self.columns.iter().any(|column| matches!(column, Some(Column::Name(_)))) {
            return true;
        }
        let known = |part: Part| first.iter().any(|name| is_one_of(name, part));
        if known(Part::User) && known(Part::Item) {
            return true;
        }
        // Data has a number or a time where its value and its time are; words there are headings.
        let mut at = [None; 5];
        for (place, column) in at.iter_mut().zip(&self.columns) {
            *place = column.as_ref().and_then(|column| if let Column::Index(index) = column { Some(*index) } else { None });
        }
        self.fill_by_order(&mut at, first.len());
        let cell = |part: Part| at[part as usize].and_then(|index| first.get(index));
        cell(Part::Value).is_some_and(|text| !self.no_value && text.parse::<f64>().is_err())
            || cell(Part::Time).is_some_and(|text| text.parse::<f64>().is_err() && text.parse::<Timestamp>().is_err())
    }

    fn fill_by_name(&self, at: &mut [Option<usize>; 5], names: &[String]) {
        for part in Part::ALL {
            if at[part as usize].is_none() {
                let taken = *at;
                at[part as usize] =
                    names.iter().enumerate().position(|(index, name)| is_one_of(name, part) && !taken.contains(&Some(index)));
            }
        }
    }

    /// user, item, value, time, as far as there are columns; without values the time comes third where there are three.
    fn fill_by_order(&self, at: &mut [Option<usize>; 5], columns: usize) {
        let usual: &[Part] = match (self.no_value, columns) {
            (true, 3) => &[Part::User, Part::Item, Part::Time],
            _ => &[Part::User, Part::Item, Part::Value, Part::Time],
        };
        for (index, part) in usual.iter().enumerate().take(columns) {
            if at[*part as usize].is_none() && !at.contains(&Some(index)) {
                at[*part as usize] = Some(index);
            }
        }
    }
}

/// Whether a heading is one of the part's names, with or without a type behind a colon as in `user_id:token`.
fn is_one_of(heading: &str, part: Part) -> bool {
    let bare = heading.split_once(':').map_or(heading, |(bare, _)| bare);
    part.names().iter().any(|name| name.eq_ignore_ascii_case(bare))
}

fn locate(part: Part, column: &Column, names: &[String], header: bool) -> Result<usize, ColumnsError> {
    match column {
        Column::Index(index) if *index < names.len() => Ok(*index),
        Column::Index(index) => Err(ColumnsError::NoSuchIndex { part, number: index + 1, there: names.len() }),
        Column::Name(name) if !header => Err(ColumnsError::NameWithoutHeader { part, name: name.clone() }),
        Column::Name(name) => names
            .iter()
            .position(|heading| heading == name)
            .or_else(|| names.iter().position(|heading| heading.split_once(':').is_some_and(|(bare, _)| bare == name)))
            .ok_or_else(|| ColumnsError::NoSuchName { part, name: name.clone(), there: names.join(", ") }),
    }
}

fn apart(at: &[Option<usize>; 5]) -> Result<(), ColumnsError> {
    for (earlier, one) in Part::ALL.into_iter().enumerate() {
        for other in Part::ALL.into_iter().skip(earlier + 1) {
            if at[one as usize].is_some() && at[one as usize] == at[other as usize] {
                return Err(ColumnsError::Twice { one, other });
            }
        }
    }
    Ok(())
}

/// An interaction as it is written into the topic.
#[derive(Serialize)]
struct Written<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<&'a str>,
    user: &'a str,
    item: &'a str,
    value: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<Millis>,
}

impl Columns {
    /// One row as the JSON of an interaction.
    ///
    /// # Errors
    /// [`RowError`] when a column is missing or cannot be read. Ranges and lengths are the decoder's business.
    pub fn to_json(self, row: &ByteRecord, unit: Option<TimeUnit>) -> Result<Vec<u8>, RowError> {
        let event_id = self.event_id.map(|index| text(row, Part::EventId, index)).transpose()?;
        let value = match self.value {
            None => 1.0,
            Some(index) => number(text(row, Part::Value, index)?, index)?,
        };
        let time = self.time.map(|index| millis(text(row, Part::Time, index)?, index, unit)).transpose()?;
        let written = Written { event_id, user: text(row, Part::User, self.user)?, item: text(row, Part::Item, self.item)?, value, time };
        // Strings and a finite number always have a JSON form; an empty payload would be refused by the decoder.
        Ok(serde_json::to_vec(&written).unwrap_or_default())
    }
}

fn text(row: &ByteRecord, part: Part, index: usize) -> Result<&str, RowError> {
    let cell = row.get(index).ok_or(RowError::Missing { part, number: index + 1, there: row.len() })?;
    std::str::from_utf8(cell).map_err(|_| RowError::NotUtf8 { part, number: index + 1 })
}

fn number(text: &str, index: usize) -> Result<f64, RowError> {
    match text.trim().parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err(RowError::Value { text: text.to_owned(), number: index + 1 }),
    }
}

/// Milliseconds since 1970 of a number in `unit` or of RFC 3339 text; fractions of a millisecond are cut off.
fn millis(text: &str, index: usize, unit: Option<TimeUnit>) -> Result<Millis, RowError> {
    let text = text.trim();
    let bad = || RowError::Time { text: text.to_owned(), number: index + 1 };
    let Ok(number) = text.parse::<f64>() else {
        return text.parse::<Timestamp>().map(Timestamp::as_millisecond).map_err(|_| bad());
    };
    if !number.is_finite() {
        return Err(bad());
    }
    match unit {
        // Whole milliseconds are rounded, since 0.001 s has no exact binary form.
        Some(TimeUnit::S) => Ok((number * 1000.0).round() as Millis),
        None if number.abs() < SURELY_MILLIS => Err(RowError::Unit { text: text.to_owned() }),
        None | Some(TimeUnit::Ms) => Ok(number.floor() as Millis),
    }
}

#[cfg(test)]
#[path = "columns_tests.rs"]
mod tests;

//! The factor rows of one side on their way from a file into the numbering of the state.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use zip::ZipArchive;
use zip::result::ZipError;

use super::ids::{self, IdsError, Known, Place, Taker};
use crate::cli::npy::{Array, NpyError};
use crate::cli::output;
use crate::model::factors::Table;

/// Values beyond are no factors: readers of the factors topic get 32-bit floats.
const LARGEST: f64 = f32::MAX as f64;

/// A file with the rows of one side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Npy {
        rows: PathBuf,
        ids: PathBuf,
        column: Option<String>,
    },
    /// One array of an archive, as `numpy.savez` and the library `implicit` write it.
    Npz {
        archive: PathBuf,
        member: &'static str,
        ids: PathBuf,
        column: Option<String>,
    },
    /// `id,f1,f2,…`, with a header or without.
    Table {
        rows: PathBuf,
        delimiter: u8,
    },
}

/// What was taken from a file.
#[derive(Debug)]
pub struct Taken {
    /// Rows that the state knows, under its numbers.
    pub table: Table,
    /// Rows in the file.
    pub given: u64,
}

/// Why the rows of a file cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum RowsError {
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Npy(#[from] NpyError),
    #[error("it cannot be read as an archive: {0}; write it again with numpy.savez, or save arrays of their own")]
    Zip(#[from] ZipError),
    #[error("it has no array {wanted}, only {there}; `implicit` saves user_factors and item_factors")]
    NoMember { wanted: &'static str, there: String },
    #[error("it cannot be read as a table: {0}")]
    Table(#[from] csv::Error),
    #[error(transparent)]
    Id(IdsError),
    #[error("it holds no rows")]
    None,
    #[error("its rows have {found} values and model.rank is {rank}; say --set model.rank={found}, here and where the service is run")]
    Rank { found: u64, rank: usize },
    #[error("its shape is ({rank}, {ids}), one column for each id; save the rows: numpy.save(file, a.T)")]
    Transposed { rank: usize, ids: usize },
    #[error("it has {rows} rows and {file} has {ids} ids; row n belongs to id n")]
    Count { rows: u64, ids: usize, file: String },
    #[error("{place} has {found} values, the lines before have {rank}")]
    Length { place: Place, found: usize, rank: usize },
    #[error("{place}, column {column}: {text:?} is no finite number that fits 32 bits; look at how the model was trained")]
    Cell { place: Place, column: usize, text: String },
    #[error(
        "row {row}, column {column} (counted from 0) is {value}, no finite number that fits 32 bits; look at how the model was trained"
    )]
    Value { row: u64, column: u64, value: f64 },
}

/// A file and why it was refused.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", file.display())]
pub struct FileError {
    pub file: PathBuf,
    pub source: RowsError,
}

impl Source {
    /// The file that holds the rows.
    pub fn file(&self) -> &Path {
        match self {
            Source::Npy { rows, .. } | Source::Table { rows, .. } => rows,
            Source::Npz { archive, .. } => archive,
        }
    }

    /// Reads all rows and keeps those of ids that have interactions. Memory goes with what is kept, not with the file.
    ///
    /// # Errors
    /// [`FileError`] for the first thing that is wrong, whether or not the state knows the row.
    pub fn read(&self, rank: usize, known: Known<'_>) -> Result<Taken, FileError> {
        let blame = |file: &Path| {
            let file = file.to_owned();
            move |source: RowsError| FileError { file, source }
        };
        let (ids, column) = match self {
            Source::Npy { ids, column, .. } | Source::Npz { ids, column, .. } => (ids, column),
            Source::Table { rows, delimiter } => return from_table(rows, *delimiter, rank, known).map_err(blame(rows)),
        };
        let numbers = ids::read(ids, column.as_deref(), known).map_err(|error| blame(ids)(RowsError::Id(error)))?;
        let into = Into { numbers: &numbers, ids, rank, known };
        let taken = match self {
            Source::Npz { archive, member, .. } => from_archive(archive, member, into),
            _ => from_file(self.file(), into),
        };
        taken.map_err(blame(self.file()))
    }
}

/// Where the rows of an array go.
#[derive(Clone, Copy)]
struct Into<'a> {
    numbers: &'a [Option<u32>],
    /// The file that the numbers are from.
    ids: &'a Path,
    rank: usize,
    known: Known<'a>,
}

fn empty(rank: usize, known: Known<'_>) -> Table {
    let mut table = Table::new(rank);
    table.grow(known.rows.len());
    table
}

fn from_file(path: &Path, into: Into<'_>) -> Result<Taken, RowsError> {
    let file = File::open(path)?;
    let bar = output::bytes_bar(file.metadata()?.len());
    let taken = from_array(&mut bar.wrap_read(BufReader::new(file)), into);
    bar.finish_and_clear();
    taken
}

fn from_archive(path: &Path, member: &'static str, into: Into<'_>) -> Result<Taken, RowsError> {
    let file = File::open(path)?;
    let mut archive = ZipArchive::new(BufReader::new(file))?;
    let name = format!("{member}.npy");
    if archive.index_for_name(&name).is_none() {
        let mut there: Vec<&str> = archive.file_names().collect();
        there.sort_unstable();
        let there = there.into_iter().take(20).collect::<Vec<_>>().join(", ");
        return Err(RowsError::NoMember { wanted: member, there });
    }
    let mut found = archive.by_name(&name)?;
    let bar = output::bytes_bar(found.size());
    let taken = from_array(&mut bar.wrap_read(&mut found), into);
    bar.finish_and_clear();
    taken
}

fn from_array(input: &mut dyn Read, into: Into<'_>) -> Result<Taken, RowsError> {
    let (array, _) = Array::read(input)?;
    let (rows, columns) = array.matrix()?;
    let Into { numbers, rank, known, .. } = into;
    let ids = numbers.len();
    if rows == 0 {
        return Err(RowsError::None);
    }
    if columns != rank as u64 {
        return Err(if (rows, columns) == (rank as u64, ids as u64) {
            RowsError::Transposed { rank, ids }
        } else {
            RowsError::Rank { found: columns, rank }
        });
    }
    if rows != ids as u64 {
        return Err(RowsError::Count { rows, ids, file: into.ids.display().to_string() });
    }
    let mut table = empty(rank, known);
    let zeros = vec![0.0; rank];
    numbers.iter().flatten().for_each(|&number| table.set(number as usize, &zeros));
    array.floats(input, |row, column, value| {
        if !fits(value) {
            return Err(RowsError::Value { row, column, value });
        }
        if let Some(number) = numbers[row as usize] {
            table.values_mut()[number as usize * rank + column as usize] = value;
        }
        Ok(())
    })?;
    Ok(Taken { table, given: rows })
}

fn from_table(path: &Path, delimiter: u8, rank: usize, known: Known<'_>) -> Result<Taken, RowsError> {
    let file = File::open(path)?;
    let bar = output::bytes_bar(file.metadata()?.len());
    let taken = from_lines(ids::table(bar.wrap_read(file), delimiter), rank, known);
    bar.finish_and_clear();
    taken
}

fn from_lines<R: Read>(mut lines: csv::Reader<R>, rank: usize, known: Known<'_>) -> Result<Taken, RowsError> {
    let (mut table, mut given, mut taker) = (empty(rank, known), 0, Taker::new(known));
    let (mut line, mut values, mut first) = (csv::ByteRecord::new(), vec![0.0; rank], true);
    while lines.read_byte_record(&mut line)? {
        // Names of columns are no numbers, not one of them; a line that is half of both is a damaged one.
        let heading = std::mem::take(&mut first) && line.len() > 1 && line.iter().skip(1).all(is_name);
        if heading {
            continue;
        }
        let (place, found) = (ids::line_of(&line), line.len().saturating_sub(1));
        if found != rank {
            return Err(match given {
                0 => RowsError::Rank { found: found as u64, rank },
                _ => RowsError::Length { place, found, rank },
            });
        }
        for (at, (value, cell)) in values.iter_mut().zip(line.iter().skip(1)).enumerate() {
            *value = number(cell).filter(|&value| fits(value)).ok_or_else(|| RowsError::Cell {
                place,
                column: at + 2,
                text: String::from_utf8_lossy(cell).chars().take(40).collect(),
            })?;
        }
        let id = std::str::from_utf8(line.get(0).unwrap_or_default()).map_err(|_| RowsError::Id(IdsError::NotText(place)))?;
        let id = if given == 0 { id.strip_prefix('\u{feff}').unwrap_or(id) } else { id };
        if let Some(number) = taker.take(id, place).map_err(RowsError::Id)? {
            table.set(number as usize, &values);
        }
        given += 1;
    }
    if given == 0 { Err(RowsError::None) } else { Ok(Taken { table, given }) }
}

/// A number as tables hold it; NaN and infinities are numbers here, and refused by what follows.
fn number(cell: &[u8]) -> Option<f64> {
    std::str::from_utf8(cell).ok()?.trim().parse().ok()
}

/// Whether something can be the name of a column: neither a number nor nothing.
fn is_name(cell: &[u8]) -> bool {
    !cell.trim_ascii().is_empty() && number(cell).is_none()
}

fn fits(value: f64) -> bool {
    value.is_finite() && value.abs() <= LARGEST
}

#[cfg(test)]
#[path = "rows_tests.rs"]
mod tests;

//! NumPy's `.npy` arrays: a strict reader that hands on value by value, and a writer.
//!
//! Source: the format's own description, NEP 1, versions 1.0 to 3.0. Nothing is unpickled and nothing is allocated by
//! what a header claims.

use std::io::{self, Read, Write};

/// First bytes of every `.npy` file.
pub const MAGIC: &[u8] = b"\x93NUMPY";
/// Longest header that is read; NumPy's own limit is 10 000.
const LONGEST_HEADER: usize = 1 << 16;
/// Longest text element that is read, in bytes.
const LONGEST_TEXT: usize = 1 << 16;
/// Bytes read at a time.
const CHUNK: usize = 1 << 16;

/// What an element is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Float,
    Signed,
    Unsigned,
    /// Code points of four bytes, padded with zeros.
    Text,
    /// Bytes, padded with zeros.
    Bytes,
}

/// What a header says of the values behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Array {
    pub kind: Kind,
    /// Bytes of one element.
    pub size: usize,
    pub big_endian: bool,
    /// Columns one after the other instead of rows.
    pub fortran: bool,
    pub shape: Vec<u64>,
}

/// Why an array cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum NpyError {
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("it is empty; write it again with numpy.save")]
    Empty,
    #[error("it is no .npy array: it does not begin with \\x93NUMPY; write it with numpy.save")]
    Foreign,
    #[error("its header has version {0}.{1}, known are 1.0, 2.0 and 3.0; write it again with numpy.save")]
    Version(u8, u8),
    #[error("its header claims {0} bytes, at most {LONGEST_HEADER} are read; write it as one plain array with numpy.save")]
    HugeHeader(usize),
    #[error("its header cannot be read ({0}); write it again with numpy.save")]
    Header(&'static str),
    #[error("it holds pickled Python objects, which are never run; save plain numbers or strings: numpy.save(file, a.astype(…))")]
    Pickled,
    #[error("its elements are {0:?}; {1}")]
    Elements(String, &'static str),
    #[error("its shape is {0}, wanted is {1}")]
    Shape(String, &'static str),
    #[error("it ends early: {wanted} bytes of values are announced, {found} are there; the file is cut off, copy or save it again")]
    Truncated { wanted: u64, found: u64 },
    #[error("something follows the array; save one array to a file")]
    Trailing,
    #[error("element {0} (counted from 0) is no valid text")]
    Text(u64),
}

impl Array {
    /// Reads everything up to the first value; answers the array and the bytes read.
    ///
    /// # Errors
    /// [`NpyError`] for what is no plain array.
    pub fn read(input: &mut dyn Read) -> Result<(Array, u64), NpyError> {
        let mut start = [0; 8];
        let got = fill(input, &mut start)?;
        match got {
            0 => return Err(NpyError::Empty),
            8 if start.starts_with(MAGIC) => (),
            _ => return Err(NpyError::Foreign),
        }
        let (wide, length) = match (start[6], start[7]) {
            (1, 0) => (2, exact::<2>(input).map(|bytes| usize::from(u16::from_le_bytes(bytes)))?),
            (2 | 3, 0) => (4, exact::<4>(input).map(|bytes| u32::from_le_bytes(bytes) as usize)?),
            (major, minor) => return Err(NpyError::Version(major, minor)),
        };
        if length > LONGEST_HEADER {
            return Err(NpyError::HugeHeader(length));
        }
        let mut header = vec![0; length];
        if fill(input, &mut header)? < length {
            return Err(NpyError::Header("it is cut off"));
        }
        let text = std::str::from_utf8(&header).map_err(|_| NpyError::Header("it is no text"))?;
        Ok((Parser { rest: text }.array()?, (start.len() + wide + length) as u64))
    }

    /// Number of elements, and the bytes that they take.
    ///
    /// # Errors
    /// [`NpyError::Shape`] when no file could be so large.
    pub fn extent(&self) -> Result<(u64, u64), NpyError> {
        let elements = self.shape.iter().try_fold(1u64, |all, &axis| all.checked_mul(axis));
        let both = elements.and_then(|elements| Some((elements, elements.checked_mul(self.size as u64)?)));
        both.ok_or_else(|| NpyError::Shape(self.shown(), "one that fits a file"))
    }

    /// Shape as Python writes it.
    pub fn shown(&self) -> String {
        let axes: Vec<String> = self.shape.iter().map(u64::to_string).collect();
        if axes.len() == 1 { format!("({},)", axes[0]) } else { format!("({})", axes.join(", ")) }
    }

    /// Rows and columns of a matrix of floats.
    ///
    /// # Errors
    /// [`NpyError`] when it is something else.
    pub fn matrix(&self) -> Result<(u64, u64), NpyError> {
        if self.kind != Kind::Float {
            return Err(NpyError::Elements(self.dtype(), "factors are float32 or float64: numpy.save(file, a.astype('float32'))"));
        }
        self.extent()?;
        match self.shape[..] {
            [rows, columns] => Ok((rows, columns)),
            _ => Err(NpyError::Shape(self.shown(), "(rows, rank), one row of factors for each id")),
        }
    }

    /// Length of a list of identifiers.
    ///
    /// # Errors
    /// [`NpyError`] when it is something else.
    pub fn list(&self) -> Result<u64, NpyError> {
        if self.kind == Kind::Float {
            return Err(NpyError::Elements(self.dtype(), "ids are whole numbers or strings: numpy.save(file, a.astype(str))"));
        }
        self.extent()?;
        match self.shape[..] {
            [length] => Ok(length),
            _ => Err(NpyError::Shape(self.shown(), "(rows,), a plain list of ids")),
        }
    }

    fn dtype(&self) -> String {
        let letter = match self.kind {
            Kind::Float => 'f',
            Kind::Signed => 'i',
            Kind::Unsigned => 'u',
            Kind::Text => 'U',
            Kind::Bytes => 'S',
        };
        let size = if self.kind == Kind::Text { self.size / 4 } else { self.size };
        format!("{}{letter}{size}", if self.big_endian { '>' } else { '<' })
    }

    /// Hands on every element's bytes, the lowest first (of texts: as they are), with its number in the file's order.
    /// Reads to the very end, so that checksums of an archive are looked at.
    fn each<E: From<NpyError>>(&self, input: &mut dyn Read, mut visit: impl FnMut(u64, &[u8]) -> Result<(), E>) -> Result<(), E> {
        let (_, wanted) = self.extent()?;
        let whole = self.size.max(1);
        let mut buffer = vec![0; (CHUNK / whole).max(1) * whole];
        let (mut found, mut at) = (0u64, 0u64);
        while found < wanted {
            let take = (wanted - found).min(buffer.len() as u64) as usize;
            let got = fill(input, &mut buffer[..take]).map_err(NpyError::from)?;
            found += got as u64;
            if got < take {
                return Err(NpyError::Truncated { wanted, found }.into());
            }
            for element in buffer[..take].chunks_exact_mut(whole) {
                if self.big_endian && !matches!(self.kind, Kind::Text | Kind::Bytes) {
                    element.reverse();
                }
                visit(at, element)?;
                at += 1;
            }
        }
        match fill(input, &mut [0]).map_err(NpyError::from)? {
            0 => Ok(()),
            _ => Err(NpyError::Trailing.into()),
        }
    }

    /// Hands on every value of a matrix with its row and column, in the file's order.
    ///
    /// # Errors
    /// [`NpyError`] when the values cannot be read, and what `visit` answers.
    pub fn floats<E: From<NpyError>>(&self, input: &mut dyn Read, mut visit: impl FnMut(u64, u64, f64) -> Result<(), E>) -> Result<(), E> {
        let (rows, columns) = self.matrix()?;
        self.each(input, |at, bytes| {
            let value = match *bytes {
                [a, b, c, d] => f64::from(f32::from_le_bytes([a, b, c, d])),
                [a, b, c, d, e, f, g, h] => f64::from_le_bytes([a, b, c, d, e, f, g, h]),
                _ => f64::NAN,
            };
            let (row, column) = if self.fortran { (at % rows, at / rows) } else { (at / columns, at % columns) };
            visit(row, column, value)
        })
    }

    /// Hands on every element of a list as text: whole numbers in decimal.
    ///
    /// # Errors
    /// [`NpyError`] when the elements cannot be read, and what `visit` answers.
    pub fn texts<E: From<NpyError>>(&self, input: &mut dyn Read, mut visit: impl FnMut(u64, &str) -> Result<(), E>) -> Result<(), E> {
        self.list()?;
        let mut text = String::new();
        self.each(input, |at, bytes| {
            text.clear();
            match self.kind {
                Kind::Text => {
                    let points =
                        bytes.as_chunks::<4>().0.iter().map(|&point| {
                            char::from_u32(if self.big_endian { u32::from_be_bytes(point) } else { u32::from_le_bytes(point) })
                        });
                    for point in points {
                        text.push(point.ok_or(NpyError::Text(at))?);
                    }
                    text.truncate(text.trim_end_matches('\0').len());
                }
                Kind::Bytes => {
                    let bytes = std::str::from_utf8(bytes).map_err(|_| NpyError::Text(at))?;
                    text.push_str(bytes.trim_end_matches('\0'));
                }
                Kind::Signed | Kind::Unsigned | Kind::Float => {
                    let negative = self.kind == Kind::Signed && bytes.last().is_some_and(|&byte| byte >= 0x80);
                    let mut wide = [if negative { 0xff } else { 0 }; 16];
                    wide[..bytes.len()].copy_from_slice(bytes);
                    text.push_str(&i128::from_le_bytes(wide).to_string());
                }
            }
            visit(at, &text)
        })
    }
}

/// Reads until the buffer is full or the input ends.
fn fill(input: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match input.read(&mut buffer[got..]) {
            Ok(0) => break,
            Ok(more) => got += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}

fn exact<const N: usize>(input: &mut dyn Read) -> Result<[u8; N], NpyError> {
    let mut bytes = [0; N];
    if fill(input, &mut bytes)? < N { Err(NpyError::Header("it is cut off")) } else { Ok(bytes) }
}

/// The header: a Python dictionary of three known keys.
struct Parser<'t> {
    rest: &'t str,
}

impl<'t> Parser<'t> {
    fn array(mut self) -> Result<Array, NpyError> {
        let (mut kind, mut order, mut shape) = (None, None, None);
        self.wants('{')?;
        while !self.takes('}') {
            let key = self.string()?;
            self.wants(':')?;
            match key {
                "descr" if kind.is_none() => kind = Some(self.elements()?),
                "fortran_order" if order.is_none() => order = Some(self.boolean()?),
                "shape" if shape.is_none() => shape = Some(self.shape()?),
                _ => return Err(NpyError::Header("it has an unknown or repeated key")),
            }
            if !self.takes(',') {
                self.wants('}')?;
                break;
            }
        }
        if !self.rest.trim().is_empty() {
            return Err(NpyError::Header("something follows its dictionary"));
        }
        let (Some((kind, size, big_endian)), Some(fortran), Some(shape)) = (kind, order, shape) else {
            return Err(NpyError::Header("it does not tell descr, fortran_order and shape"));
        };
        Ok(Array { kind, size, big_endian, fortran, shape })
    }

    fn takes(&mut self, wanted: char) -> bool {
        let rest = self.rest.trim_start().strip_prefix(wanted);
        rest.inspect(|rest| self.rest = rest).is_some()
    }

    fn wants(&mut self, wanted: char) -> Result<(), NpyError> {
        if self.takes(wanted) { Ok(()) } else { Err(NpyError::Header("it is no dictionary as numpy.save writes it")) }
    }

    fn string(&mut self) -> Result<&'t str, NpyError> {
        let bad = NpyError::Header("a string is not as numpy.save writes it");
        let rest = self.rest.trim_start();
        let Some(quote) = rest.chars().next().filter(|quote| matches!(quote, '\'' | '"')) else { return Err(bad) };
        let Some((text, rest)) = rest[1..].split_once(quote) else { return Err(bad) };
        self.rest = rest;
        Ok(text)
    }

    fn boolean(&mut self) -> Result<bool, NpyError> {
        let rest = self.rest.trim_start();
        for (word, value) in [("True", true), ("False", false)] {
            if let Some(rest) = rest.strip_prefix(word) {
                self.rest = rest;
                return Ok(value);
            }
        }
        Err(NpyError::Header("fortran_order is neither True nor False"))
    }

    fn shape(&mut self) -> Result<Vec<u64>, NpyError> {
        self.wants('(')?;
        let mut shape = Vec::new();
        while !self.takes(')') {
            let rest = self.rest.trim_start();
            let end = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
            shape.push(rest[..end].parse().map_err(|_| NpyError::Header("its shape is no tuple of whole numbers"))?);
            // Python 2 wrote 3L.
            self.rest = rest[end..].strip_prefix('L').unwrap_or(&rest[end..]);
            if !self.takes(',') {
                self.wants(')')?;
                break;
            }
        }
        Ok(shape)
    }

    /// Kind, size in bytes, and whether the highest byte comes first.
    fn elements(&mut self) -> Result<(Kind, usize, bool), NpyError> {
        if self.rest.trim_start().starts_with('[') {
            return Err(NpyError::Elements("a record".to_owned(), "save one plain column: numpy.save(file, a['name'])"));
        }
        let descr = self.string()?;
        let refused = |why| NpyError::Elements(descr.to_owned(), why);
        let plain = "save float32 or float64 factors, ids as whole numbers or strings: numpy.save(file, a.astype(…))";
        let (big_endian, code) = match descr.split_at_checked(1) {
            Some(("<" | "|" | "=", code)) => (false, code),
            Some((">", code)) => (true, code),
            _ => return Err(refused(plain)),
        };
        let (letter, digits) = code.split_at_checked(1).ok_or_else(|| refused(plain))?;
        if letter == "O" {
            return Err(NpyError::Pickled);
        }
        let size: usize = digits.parse().map_err(|_| refused(plain))?;
        let kind = match (letter, size) {
            ("f", 4 | 8) => Kind::Float,
            ("i", 1 | 2 | 4 | 8) => Kind::Signed,
            ("u", 1 | 2 | 4 | 8) => Kind::Unsigned,
            ("U", 1..) if size <= LONGEST_TEXT / 4 => return Ok((Kind::Text, size * 4, big_endian)),
            ("S", 1..) if size <= LONGEST_TEXT => Kind::Bytes,
            _ => return Err(refused(plain)),
        };
        Ok((kind, size, big_endian))
    }
}

/// Writes the header of an array of rows one after the other; its values follow, little endian.
///
/// # Errors
/// Whatever the output answers.
pub fn write_header(output: &mut dyn Write, descr: &str, shape: &[usize]) -> io::Result<()> {
    let axes: String = shape.iter().map(|axis| format!("{axis}, ")).collect();
    let axes = if shape.len() > 1 { axes.trim_end_matches(", ") } else { axes.trim_end() };
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({axes}), }}");
    // Values begin at a multiple of 64 bytes, so that the file can be mapped.
    let unpadded = MAGIC.len() + 4 + text.len() + 1;
    text.extend(std::iter::repeat_n(' ', unpadded.next_multiple_of(64) - unpadded));
    text.push('\n');
    output.write_all(MAGIC)?;
    output.write_all(&[1, 0])?;
    output.write_all(&(text.len() as u16).to_le_bytes())?;
    output.write_all(text.as_bytes())
}

#[cfg(test)]
#[path = "npy_tests.rs"]
mod tests;

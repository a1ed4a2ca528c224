//! Values of pairs, to the bit, in as few bytes as their variety allows.

use hashbrown::HashMap;

/// The values of one side: a byte each while there are at most 256 different ones, as of stars and small counts, two bytes
/// up to 65,536, else four.
#[derive(Debug, Clone)]
pub(super) enum Values {
    Bytes(Book, Vec<u8>),
    Words(Book, Vec<u16>),
    Plain(Vec<f32>),
}

impl Default for Values {
    fn default() -> Values {
        Values::Bytes(Book::default(), Vec::new())
    }
}

impl Values {
    pub fn extend(&mut self, values: impl Iterator<Item = f32>) {
        for value in values {
            self.push(value);
        }
    }

    fn push(&mut self, value: f32) {
        match self {
            Values::Plain(values) => return values.push(value),
            Values::Bytes(book, codes) => {
                if let Some(code) = book.code(value, 1 << 8) {
                    return codes.push(code as u8);
                }
                let codes = std::mem::take(codes).into_iter().map(u16::from).collect();
                *self = Values::Words(std::mem::take(book), codes);
            }
            Values::Words(book, codes) => {
                if let Some(code) = book.code(value, 1 << 16) {
                    return codes.push(code);
                }
                *self = Values::Plain(codes.iter().map(|&code| book.values[usize::from(code)]).collect());
            }
        }
        self.push(value);
    }

    /// Values in these places.
    #[inline(always)]
    pub fn part(&self, start: usize, end: usize) -> RowValues<'_> {
        RowValues(match self {
            Values::Bytes(book, codes) => Part::Bytes(&book.values, &codes[start..end]),
            Values::Words(book, codes) => Part::Words(&book.values, &codes[start..end]),
            Values::Plain(values) => Part::Plain(&values[start..end]),
        })
    }

    /// The same values in another order; `arrange` gets them and as many places to put them into.
    pub fn arranged(&self, arrange: impl Arrange) -> Values {
        fn moved<T: Copy + Default>(from: &[T], arrange: impl Arrange) -> Vec<T> {
            let mut to = vec![T::default(); from.len()];
            arrange.arrange(from, &mut to);
            to
        }
        match self {
            Values::Bytes(book, codes) => Values::Bytes(book.clone(), moved(codes, arrange)),
            Values::Words(book, codes) => Values::Words(book.clone(), moved(codes, arrange)),
            Values::Plain(values) => Values::Plain(moved(values, arrange)),
        }
    }

    pub fn shrink_to_fit(&mut self) {
        match self {
            Values::Bytes(_, codes) => codes.shrink_to_fit(),
            Values::Words(_, codes) => codes.shrink_to_fit(),
            Values::Plain(values) => values.shrink_to_fit(),
        }
    }
}

/// A new order, for numbers of any kind.
pub(super) trait Arrange {
    fn arrange<T: Copy>(self, from: &[T], to: &mut [T]);
}

/// Different values in the order in which they came.
#[derive(Debug, Clone, Default)]
pub(super) struct Book {
    values: Vec<f32>,
    codes: HashMap<u32, u16>,
}

impl Book {
    /// The number of a value, a new one if need be and if there are fewer than `most`.
    fn code(&mut self, value: f32, most: usize) -> Option<u16> {
        if let Some(&code) = self.codes.get(&value.to_bits()) {
            return Some(code);
        }
        if self.values.len() == most {
            return None;
        }
        let code = self.values.len() as u16;
        self.values.push(value);
        self.codes.insert(value.to_bits(), code);
        Some(code)
    }
}

/// Values of a row, in the order of its columns.
#[derive(Debug, Clone, Copy)]
pub struct RowValues<'a>(Part<'a>);

#[derive(Debug, Clone, Copy)]
enum Part<'a> {
    /// Different values, and which of them.
    Bytes(&'a [f32], &'a [u8]),
    Words(&'a [f32], &'a [u16]),
    Plain(&'a [f32]),
}

impl Default for RowValues<'_> {
    fn default() -> Self {
        RowValues::plain(&[])
    }
}

impl<'a> RowValues<'a> {
    pub(super) fn plain(values: &'a [f32]) -> RowValues<'a> {
        RowValues(Part::Plain(values))
    }

    pub fn len(self) -> usize {
        match self.0 {
            Part::Bytes(_, codes) => codes.len(),
            Part::Words(_, codes) => codes.len(),
            Part::Plain(values) => values.len(),
        }
    }

    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Those in a range of places.
    #[inline(always)]
    pub fn slice(self, range: std::ops::Range<usize>) -> RowValues<'a> {
        RowValues(match self.0 {
            Part::Bytes(book, codes) => Part::Bytes(book, &codes[range]),
            Part::Words(book, codes) => Part::Words(book, &codes[range]),
            Part::Plain(values) => Part::Plain(&values[range]),
        })
    }

    /// One of them; `at` is below the length.
    pub fn at(self, at: usize) -> f32 {
        match self.0 {
            Part::Bytes(book, codes) => book[usize::from(codes[at])],
            Part::Words(book, codes) => book[usize::from(codes[at])],
            Part::Plain(values) => values[at],
        }
    }

    /// All of them as numbers, for loops that go over them more than once or by vectors: those of `scratch`, unless they are
    /// kept as numbers anyway.
    #[inline(always)]
    pub fn read<'s>(self, scratch: &'s mut Vec<f32>) -> &'s [f32]
    where
        'a: 's,
    {
        scratch.clear();
        match self.0 {
            Part::Bytes(book, codes) => scratch.extend(codes.iter().map(|&code| book[usize::from(code)])),
            Part::Words(book, codes) => scratch.extend(codes.iter().map(|&code| book[usize::from(code)])),
            Part::Plain(values) => return values,
        }
        scratch
    }
}

impl<'a> IntoIterator for RowValues<'a> {
    type Item = f32;
    type IntoIter = Each<'a>;

    fn into_iter(self) -> Each<'a> {
        Each { values: self, next: 0 }
    }
}

/// See [`RowValues`].
#[derive(Debug, Clone)]
pub struct Each<'a> {
    values: RowValues<'a>,
    next: usize,
}

impl Iterator for Each<'_> {
    type Item = f32;

    #[inline]
    fn next(&mut self) -> Option<f32> {
        let value = (self.next < self.values.len()).then(|| self.values.at(self.next));
        self.next += 1;
        value
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.values.len().saturating_sub(self.next);
        (left, Some(left))
    }
}

impl ExactSizeIterator for Each<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(values: &[f32]) -> (Values, usize) {
        let mut all = Values::default();
        all.extend(values.iter().copied());
        let bytes = match &all {
            Values::Bytes(..) => 1,
            Values::Words(..) => 2,
            Values::Plain(_) => 4,
        };
        (all, bytes)
    }

    struct Reversed;

    impl Arrange for Reversed {
        fn arrange<T: Copy>(self, from: &[T], to: &mut [T]) {
            to.iter_mut().zip(from.iter().rev()).for_each(|(to, from)| *to = *from);
        }
    }

    /// Whatever the variety, and at each border of it: every bit comes back by every way of reading.
    #[test]
    fn values_come_back_to_the_bit() {
        let odd = [0.0, -0.0, f32::MIN_POSITIVE / 2.0, 1e12, -7.25];
        for (distinct, bytes) in [(0, 1), (1, 1), (256, 1), (257, 2), (65_536, 2), (65_537, 4)] {
            let different: Vec<f32> = odd.into_iter().chain((0..).map(|n| 1.5 + n as f32)).take(distinct).collect();
            let values: Vec<f32> = different.iter().chain(different.iter().rev()).copied().collect();
            let (all, takes) = kept(&values);
            assert_eq!(takes, bytes, "{distinct}");
            let bits = |values: &mut dyn Iterator<Item = f32>| values.map(f32::to_bits).collect::<Vec<u32>>();
            let expected = bits(&mut values.iter().copied());
            let part = all.part(0, values.len());
            assert_eq!(bits(&mut part.into_iter()), expected);
            assert_eq!(bits(&mut part.read(&mut vec![9.0]).iter().copied()), expected);
            assert_eq!(bits(&mut all.arranged(Reversed).part(0, values.len()).into_iter()), bits(&mut values.iter().rev().copied()));
            assert_eq!((part.len(), part.into_iter().len(), part.is_empty()), (values.len(), values.len(), values.is_empty()));
            if distinct > 4 {
                assert_eq!([all.part(1, 4).at(0), part.slice(1..3).at(0)].map(f32::to_bits), [(-0.0f32).to_bits(); 2]);
            }
        }
    }
}

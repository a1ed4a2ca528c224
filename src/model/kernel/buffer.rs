//! Memory that the loops read by vectors and at random places.

use super::{Element, unchecked};

/// Numbers on a boundary of 64 bytes: a vector that lies across two cache lines costs two loads. Large ones ask for
/// huge pages: rows picked at random from some ten megabytes miss the address translation otherwise, which costs more
/// than the arithmetic does.
#[derive(Debug)]
pub struct Buffer<E> {
    /// Zeros beyond `start + len`.
    values: Vec<E>,
    start: usize,
    len: usize,
}

const LINE: usize = 64;

/// Rows of one length, one after the other: what hot loops look rows up in, with one check a row.
#[derive(Debug, Clone, Copy)]
pub struct Lines<'a, E> {
    values: &'a [E],
    stride: usize,
}

impl<'a, E> Lines<'a, E> {
    pub fn new(values: &'a [E], stride: usize) -> Lines<'a, E> {
        Lines { values, stride }
    }

    /// A row that is there.
    #[inline(always)]
    pub fn at(&self, row: u32) -> &'a [E] {
        // Cannot overflow for a row that is there; any other is refused by the check of the slice.
        let start = (row as usize).wrapping_mul(self.stride);
        &self.values[start..][..self.stride]
    }
}

impl<E: Element> Buffer<E> {
    /// `len` zeros.
    pub fn new(len: usize) -> Buffer<E> {
        let slack = LINE / size_of::<E>();
        let mut values = vec![E::default(); len + slack];
        unchecked::advise_huge_pages(&mut values);
        let start = values.as_ptr().align_offset(LINE).min(slack);
        Buffer { values, start, len }
    }

    #[inline(always)]
    pub fn get(&self) -> &[E] {
        &self.values[self.start..self.start + self.len]
    }

    #[inline(always)]
    pub fn get_mut(&mut self) -> &mut [E] {
        &mut self.values[self.start..self.start + self.len]
    }

    /// Makes it at least `len` long, with zeros; by half at a time, so that growing step by step copies little.
    pub fn grow(&mut self, len: usize) {
        if self.start + len > self.values.len() {
            let mut larger = Buffer::new(len.max(self.len + self.len / 2));
            larger.get_mut()[..self.len].copy_from_slice(self.get());
            larger.len = self.len;
            *self = larger;
        }
        self.len = self.len.max(len);
    }
}

impl<E: Element> Clone for Buffer<E> {
    fn clone(&self) -> Buffer<E> {
        let mut copy = Buffer::new(self.len);
        copy.get_mut().copy_from_slice(self.get());
        copy
    }
}

impl<E: Element> PartialEq for Buffer<E> {
    fn eq(&self, other: &Buffer<E>) -> bool {
        self.get() == other.get()
    }
}

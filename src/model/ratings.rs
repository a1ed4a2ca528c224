//! The sparse ratings in memory: rows of both sides, with changed rows laid over them. A pair takes 10 bytes where there are at
//! most 256 different values, 12 up to 65,536, else 16.

mod change;
mod refresh;
mod values;

use std::collections::HashMap;

pub use change::{Change, Changes};
pub use refresh::Refresh;
pub use values::RowValues;
use values::{Arrange, Values};

use super::play::Row;

/// Compressed rows of one side with an overlay of changed ones.
#[derive(Debug, Clone, Default)]
pub struct Rows {
    /// Start of each row in `columns`; one more than there are rows.
    starts: Vec<u64>,
    columns: Vec<u32>,
    values: Values,
    /// Rows that differ from the compressed form.
    overlay: HashMap<u32, Row>,
}

impl Rows {
    /// One past the largest row number.
    pub fn len(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Counterparts (ascending) and values of a row; empty for a row that has none.
    #[inline]
    pub fn row(&self, row: usize) -> (&[u32], RowValues<'_>) {
        if let Some(changed) = self.overlay.get(&(row as u32)) {
            return (&changed.columns, RowValues::plain(&changed.values));
        }
        match self.starts.get(row..row + 2) {
            Some(&[start, end]) => (&self.columns[start as usize..end as usize], self.values.part(start as usize, end as usize)),
            _ => (&[], RowValues::default()),
        }
    }

    /// Number of pairs. Costs a look at each laid-over row.
    pub fn pairs(&self) -> u64 {
        let compressed = |row: u32| match self.starts.get(row as usize..row as usize + 2) {
            Some(&[start, end]) => end - start,
            _ => 0,
        };
        let (more, less) =
            self.overlay.iter().fold((0, 0), |(more, less), (&row, laid)| (more + laid.columns.len() as u64, less + compressed(row)));
        self.columns.len() as u64 + more - less
    }

    /// Numbers of observed counterparts, row by row.
    pub fn degree(&self, row: usize) -> usize {
        self.row(row).0.len()
    }

    fn lay(&mut self, row: u32, new: Row) {
        let row_end = row as usize + 1;
        if self.starts.is_empty() {
            self.starts.push(0);
        }
        if self.starts.len() <= row_end {
            let end = self.columns.len() as u64;
            self.starts.resize(row_end + 1, end);
        }
        self.overlay.insert(row, new);
    }

    /// Appends a row; rows come in ascending order, gaps are empty.
    fn push(&mut self, row: u32, columns: &[u32], values: RowValues<'_>) {
        if self.starts.is_empty() {
            self.starts.push(0);
        }
        self.starts.resize(row as usize + 1, self.columns.len() as u64);
        self.columns.extend_from_slice(columns);
        self.values.extend(values.into_iter());
        self.starts.push(self.columns.len() as u64);
    }

    /// The same pairs seen from the other side, by counting: three passes over the pairs. Needs a settled side.
    fn transposed(&self) -> Rows {
        let width = self.columns.iter().max().map_or(0, |&c| c as usize + 1);
        let mut starts = vec![0u64; width + 1];
        for &column in &self.columns {
            starts[column as usize + 1] += 1;
        }
        for at in 1..starts.len() {
            starts[at] += starts[at - 1];
        }
        let mut next = starts.clone();
        let mut columns = vec![0u32; self.columns.len()];
        for row in 0..self.len() {
            for &column in &self.columns[self.starts[row] as usize..self.starts[row + 1] as usize] {
                let place = &mut next[column as usize];
                columns[*place as usize] = row as u32;
                *place += 1;
            }
        }
        let values = self.values.arranged(ByColumn { columns: &self.columns, next: starts.clone() });
        Rows { starts, columns, values, overlay: HashMap::new() }
    }
}

/// From the order of rows to that of columns.
struct ByColumn<'a> {
    columns: &'a [u32],
    /// Next place of each column.
    next: Vec<u64>,
}

impl Arrange for ByColumn<'_> {
    fn arrange<T: Copy>(mut self, from: &[T], to: &mut [T]) {
        for (&column, &value) in self.columns.iter().zip(from) {
            let place = &mut self.next[column as usize];
            to[*place as usize] = value;
            *place += 1;
        }
    }
}

/// Builds [`Ratings`] from rows in ascending order of users, as a scan of the store yields them.
#[derive(Default)]
pub struct Builder {
    users: Rows,
    interactions: Vec<u32>,
}

impl Builder {
    pub fn push(&mut self, user: u32, row: &Row) {
        self.append(user, (&row.columns, RowValues::plain(&row.values)), row.interactions);
    }

    fn append(&mut self, user: u32, (columns, values): (&[u32], RowValues<'_>), interactions: u32) {
        self.users.push(user, columns, values);
        self.interactions.resize(user as usize + 1, 0);
        self.interactions[user as usize] = interactions;
    }

    pub fn finish(mut self) -> Ratings {
        self.users.columns.shrink_to_fit();
        self.users.values.shrink_to_fit();
        let items = self.users.transposed();
        Ratings { users: self.users, items, interactions: self.interactions }
    }
}

/// All pairs, from both sides.
#[derive(Debug, Clone, Default)]
pub struct Ratings {
    pub users: Rows,
    pub items: Rows,
    /// Interactions behind each user's row.
    interactions: Vec<u32>,
}

impl Ratings {
    /// Number of (user, item) pairs.
    pub fn pairs(&self) -> u64 {
        self.users.pairs()
    }

    /// Number of interactions behind them.
    pub fn interactions(&self) -> u64 {
        self.interactions.iter().map(|&n| u64::from(n)).sum()
    }

    /// Interactions behind a user's row.
    pub fn interactions_of(&self, user: u32) -> u32 {
        self.interactions.get(user as usize).copied().unwrap_or(0)
    }

    /// Mean of all pair values, summed in f64 in row order; 0 when there are none.
    pub fn mean(&self) -> f64 {
        let (mut sum, mut n) = (0.0, 0u64);
        for row in 0..self.users.len() {
            let (_, values) = self.users.row(row);
            sum += values.into_iter().map(f64::from).sum::<f64>();
            n += values.len() as u64;
        }
        if n == 0 { 0.0 } else { sum / n as f64 }
    }
}

#[cfg(test)]
#[path = "ratings_tests.rs"]
mod tests;

//! Factor rows of both sides.

use serde::{Deserialize, Serialize};

use super::kernel::{Buffer, Lines};

/// Which side of the ratings matrix a row is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Side {
    User,
    Item,
}

impl Side {
    pub const BOTH: [Side; 2] = [Side::User, Side::Item];

    /// The row that a key of the factors topic belongs to.
    pub fn of_key(key: &str) -> Option<(Side, &str)> {
        let user = key.strip_prefix("u/").map(|name| (Side::User, name));
        user.or_else(|| key.strip_prefix("i/").map(|name| (Side::Item, name)))
    }

    /// Key of a row on the factors topic: `u/<user>` or `i/<item>`.
    pub fn key(self, name: &str) -> String {
        match self {
            Side::User => format!("u/{name}"),
            Side::Item => format!("i/{name}"),
        }
    }
}

/// Rows of length `rank`, numbered by the surrogates of the dictionary; numbers without a row cost their space only.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    rank: usize,
    values: Buffer<f64>,
    live: Vec<bool>,
}

impl Table {
    pub fn new(rank: usize) -> Table {
        Table { rank, values: Buffer::new(0), live: Vec::new() }
    }

    pub fn rank(&self) -> usize {
        self.rank
    }

    /// One past the largest row number.
    pub fn len(&self) -> usize {
        self.live.len()
    }

    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// Number of rows that exist.
    pub fn count(&self) -> usize {
        self.live.iter().filter(|&&live| live).count()
    }

    pub fn is_live(&self, row: usize) -> bool {
        self.live.get(row).copied().unwrap_or(false)
    }

    /// A row that exists.
    pub fn row(&self, row: usize) -> Option<&[f64]> {
        self.is_live(row).then(|| self.raw(row))
    }

    /// Numbers of the rows that exist, ascending.
    pub fn rows(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.len()).filter(|&row| self.live[row])
    }

    /// A row within the table; zeros where none exists.
    #[inline(always)]
    pub fn raw(&self, row: usize) -> &[f64] {
        &self.values.get()[row * self.rank..(row + 1) * self.rank]
    }

    /// All rows within the table, for loops that read many.
    pub fn lines(&self) -> Lines<'_, f64> {
        Lines::new(self.values.get(), self.rank)
    }

    pub fn values(&self) -> &[f64] {
        self.values.get()
    }

    pub fn values_mut(&mut self) -> &mut [f64] {
        self.values.get_mut()
    }

    /// The same rows, of another length and all zero.
    pub fn zeros(&self, rank: usize) -> Table {
        Table { rank, values: Buffer::new(self.len() * rank), live: self.live.clone() }
    }

    /// Makes the table at least `len` rows long.
    pub fn grow(&mut self, len: usize) {
        if len > self.len() {
            self.live.resize(len, false);
            self.values.grow(len * self.rank);
        }
    }

    /// Puts a row; `row.len()` must be the rank.
    pub fn set(&mut self, at: usize, row: &[f64]) {
        self.grow(at + 1);
        self.live[at] = true;
        self.values.get_mut()[at * self.rank..(at + 1) * self.rank].copy_from_slice(row);
    }

    /// Removes a row; nothing of its values stays.
    pub fn remove(&mut self, at: usize) {
        if at < self.len() {
            self.live[at] = false;
            self.values.get_mut()[at * self.rank..(at + 1) * self.rank].fill(0.0);
        }
    }

    /// A row as readers get it: f32, little endian.
    pub fn published(&self, row: usize) -> Option<Vec<u8>> {
        self.row(row).map(|row| row.iter().flat_map(|&value| (value as f32).to_le_bytes()).collect())
    }
}

/// The factors of one generation.
#[derive(Debug, Clone, PartialEq)]
pub struct Factors {
    pub users: Table,
    pub items: Table,
}

impl Factors {
    pub fn new(rank: usize) -> Factors {
        Factors { users: Table::new(rank), items: Table::new(rank) }
    }

    pub fn side(&self, side: Side) -> &Table {
        match side {
            Side::User => &self.users,
            Side::Item => &self.items,
        }
    }

    pub fn side_mut(&mut self, side: Side) -> &mut Table {
        match side {
            Side::User => &mut self.users,
            Side::Item => &mut self.items,
        }
    }
}

/// The row from which a new user or item starts: `rank` normal numbers of deviation `1/√rank`, a function of the seed
/// and the row's name alone, never of when it arrived.
pub fn initial_row(seed: u64, side: Side, name: &str, rank: usize) -> Vec<f64> {
    let mut hasher = blake3::Hasher::new_derive_key("nepenthe 2026 initial factors");
    hasher.update(&seed.to_le_bytes()).update(side.key(name).as_bytes());
    let mut bytes = vec![0u8; rank.div_ceil(2) * 16];
    hasher.finalize_xof().fill(&mut bytes);
    let uniform = |chunk: &[u8]| {
        let word = chunk.iter().fold(0u64, |word, &byte| word << 8 | u64::from(byte));
        // 53 bits, never 0.
        ((word >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    };
    let scale = 1.0 / (rank as f64).sqrt();
    let mut row = Vec::with_capacity(rank + 1);
    for pair in bytes.chunks_exact(16) {
        let (radius, angle) = ((-2.0 * uniform(&pair[..8]).ln()).sqrt(), std::f64::consts::TAU * uniform(&pair[8..]));
        row.push(radius * angle.cos() * scale);
        row.push(radius * angle.sin() * scale);
    }
    row.truncate(rank);
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_starts_from_its_name_and_the_seed_alone() {
        let row = initial_row(1, Side::Item, "film", 33);
        assert_eq!(row, initial_row(1, Side::Item, "film", 33));
        assert_ne!(row, initial_row(2, Side::Item, "film", 33));
        assert_ne!(row, initial_row(1, Side::User, "film", 33));
        let norm: f64 = row.iter().map(|v| v * v).sum();
        assert!(row.len() == 33 && (0.3..3.0).contains(&norm), "{norm}");
    }

    #[test]
    fn a_removed_row_leaves_nothing() {
        let mut table = Table::new(2);
        table.set(3, &[1.0, 2.0]);
        assert_eq!((table.len(), table.count(), table.row(3)), (4, 1, Some(&[1.0, 2.0][..])));
        table.remove(3);
        assert_eq!((table.row(3), table.raw(3)), (None, &[0.0, 0.0][..]));
        assert_eq!(table.published(3), None);
    }
}

//! Top-N lists from factors.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::factors::Table;

/// How a row is compared with the query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Dot product: the model's prediction (without the mean of the explicit objective).
    Dot,
    /// Cosine of the angle: alike whatever the popularity.
    Cosine,
}

struct Ranked {
    score: f64,
    row: u32,
}

impl Ord for Ranked {
    /// Worse is greater, so that the heap's top is the one to drop; of equal scores the smaller number is better.
    fn cmp(&self, other: &Self) -> Ordering {
        other.score.total_cmp(&self.score).then(self.row.cmp(&other.row))
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Ranked {}

/// The `n` best rows of `table` for `query`, best first, without those that `skip` names. Costs a pass over the table.
pub fn top(table: &Table, query: &[f64], measure: Measure, n: usize, skip: impl Fn(u32) -> bool) -> Vec<(u32, f64)> {
    let norm = |row: &[f64]| row.iter().map(|x| x * x).sum::<f64>().sqrt();
    let query_norm = norm(query);
    let mut best = BinaryHeap::with_capacity(n + 1);
    for row in table.rows() {
        if skip(row as u32) {
            continue;
        }
        let values = table.raw(row);
        let mut score: f64 = values.iter().zip(query).map(|(x, y)| x * y).sum();
        if measure == Measure::Cosine {
            score /= (norm(values) * query_norm).max(f64::MIN_POSITIVE);
        }
        best.push(Ranked { score, row: row as u32 });
        if best.len() > n {
            best.pop();
        }
    }
    best.into_sorted_vec().into_iter().map(|ranked| (ranked.row, ranked.score)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_come_first_and_the_known_are_left_out() {
        let mut table = Table::new(2);
        for (row, values) in [[1.0, 0.0], [3.0, 0.0], [0.0, 9.0], [2.0, 0.0], [2.0, 0.0]].iter().enumerate() {
            table.set(row, values);
        }
        assert_eq!(top(&table, &[1.0, 0.0], Measure::Dot, 3, |row| row == 0), [(1, 3.0), (3, 2.0), (4, 2.0)]);
        assert_eq!(top(&table, &[1.0, 0.0], Measure::Cosine, 1, |_| false), [(0, 1.0)]);
        assert!(top(&table, &[1.0, 0.0], Measure::Dot, 0, |_| false).is_empty());
    }
}

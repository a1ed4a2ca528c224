//! The sparse ratings in memory: rows of both sides, 16 bytes a pair, with changed rows laid over them.

use std::collections::HashMap;

use super::play::Row;

/// Changes and later changes as one; both ascending by item, then user, and so is the result. What ends as it began is
/// no change.
pub fn merge(first: Vec<Change>, then: Vec<Change>) -> Vec<Change> {
    if first.is_empty() {
        return then;
    }
    let mut all = first;
    all.extend(then);
    // Stable: of two changes of one pair the earlier stays in front.
    all.sort_by_key(|change| (change.item, change.user));
    let as_one = |group: &[Change]| Change { after: group[group.len() - 1].after, ..group[0] };
    let bits = |value: Option<f32>| value.map(f32::to_bits);
    all.chunk_by(|a, b| (a.item, a.user) == (b.item, b.user)).map(as_one).filter(|c| bits(c.before) != bits(c.after)).collect()
}

/// Compressed rows of one side with an overlay of changed ones.
#[derive(Debug, Clone, Default)]
pub struct Rows {
    /// Start of each row in `columns`; one more than there are rows.
    starts: Vec<u64>,
    columns: Vec<u32>,
    values: Vec<f32>,
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
    pub fn row(&self, row: usize) -> (&[u32], &[f32]) {
        if let Some(changed) = self.overlay.get(&(row as u32)) {
            return (&changed.columns, &changed.values);
        }
        match self.starts.get(row..row + 2) {
            Some(&[start, end]) => (&self.columns[start as usize..end as usize], &self.values[start as usize..end as usize]),
            _ => (&[], &[]),
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

    /// Takes the overlay into the compressed form.
    fn settle(&mut self) {
        if self.overlay.is_empty() {
            return;
        }
        let mut settled = Rows::default();
        for row in 0..self.len() {
            let (columns, values) = self.row(row);
            settled.push(row as u32, columns, values);
        }
        *self = settled;
    }

    /// Appends a row; rows come in ascending order, gaps are empty.
    fn push(&mut self, row: u32, columns: &[u32], values: &[f32]) {
        if self.starts.is_empty() {
            self.starts.push(0);
        }
        self.starts.resize(row as usize + 1, self.columns.len() as u64);
        self.columns.extend_from_slice(columns);
        self.values.extend_from_slice(values);
        self.starts.push(self.columns.len() as u64);
    }

    /// The same pairs seen from the other side, by counting: two passes over the pairs. Needs a settled side.
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
        let mut values = vec![0f32; self.columns.len()];
        for row in 0..self.len() {
            for at in self.starts[row] as usize..self.starts[row + 1] as usize {
                let place = &mut next[self.columns[at] as usize];
                columns[*place as usize] = row as u32;
                values[*place as usize] = self.values[at];
                *place += 1;
            }
        }
        Rows { starts, columns, values, overlay: HashMap::new() }
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
        self.users.push(user, &row.columns, &row.values);
        self.interactions.resize(user as usize + 1, 0);
        self.interactions[user as usize] = row.interactions;
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

/// A pair that came (`before` is `None`), went (`after` is `None`) or changed its value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Change {
    pub user: u32,
    pub item: u32,
    pub before: Option<f32>,
    pub after: Option<f32>,
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

    /// Mean of all pair values, summed in f64 in row order; 0 when there are none.
    pub fn mean(&self) -> f64 {
        let (mut sum, mut n) = (0.0, 0u64);
        for row in 0..self.users.len() {
            let (_, values) = self.users.row(row);
            sum += values.iter().map(|&v| f64::from(v)).sum::<f64>();
            n += values.len() as u64;
        }
        if n == 0 { 0.0 } else { sum / n as f64 }
    }

    /// Puts new rows of users in the place of their old ones and mends the items' side; answers the pairs that differ,
    /// ascending by item, then user. A few changes are laid over the compressed form; many make it anew.
    pub fn update(&mut self, rows: Vec<(u32, Row)>) -> Vec<Change> {
        let mut changes: Vec<Change> = Vec::new();
        for &(user, ref new) in &rows {
            let old = self.users.row(user as usize);
            difference(old, (&new.columns, &new.values), |item, before, after| changes.push(Change { user, item, before, after }));
        }
        for (user, new) in rows {
            let at = user as usize;
            self.interactions.resize(self.interactions.len().max(at + 1), 0);
            self.interactions[at] = new.interactions;
            self.users.lay(user, new);
        }
        changes.sort_unstable_by_key(|change| (change.item, change.user));
        // Laid-over rows cost a hash look-up and a copy each time they change: past an eighth a new form is cheaper.
        let laid: usize = self.users.overlay.values().map(|row| row.columns.len()).sum();
        let by_item = || changes.chunk_by(|a, b| a.item == b.item);
        let copied: usize = by_item().map(|group| self.items.degree(group[0].item as usize)).sum();
        if (laid + copied + changes.len()) * 8 > self.users.columns.len() {
            // The items' side goes first, so that at the peak the pairs are held twice on one side only.
            self.items = Rows::default();
            self.users.settle();
            self.items = self.users.transposed();
        } else {
            for group in by_item() {
                let row = merged(self.items.row(group[0].item as usize), group);
                self.items.lay(group[0].item, row);
            }
        }
        changes
    }
}

/// Calls `change(column, old value, new value)` for each column in which two rows differ, ascending.
fn difference(old: (&[u32], &[f32]), new: (&[u32], &[f32]), mut change: impl FnMut(u32, Option<f32>, Option<f32>)) {
    let (mut i, mut j) = (0, 0);
    loop {
        match (old.0.get(i), new.0.get(j)) {
            (None, None) => return,
            (Some(&a), b) if b.is_none_or(|&b| a < b) => {
                change(a, Some(old.1[i]), None);
                i += 1;
            }
            (a, Some(&b)) if a.is_none_or(|&a| b < a) => {
                change(b, None, Some(new.1[j]));
                j += 1;
            }
            (Some(&a), Some(_)) => {
                if old.1[i].to_bits() != new.1[j].to_bits() {
                    change(a, Some(old.1[i]), Some(new.1[j]));
                }
                i += 1;
                j += 1;
            }
            _ => return,
        }
    }
}

/// An item's row after changes to it, ascending by user.
fn merged(old: (&[u32], &[f32]), changes: &[Change]) -> Row {
    let mut columns = Vec::with_capacity(old.0.len() + changes.len());
    let mut values = Vec::with_capacity(old.0.len() + changes.len());
    let mut put = |user: u32, value: f32| {
        columns.push(user);
        values.push(value);
    };
    let mut at = 0;
    for &Change { user, after, .. } in changes {
        while at < old.0.len() && old.0[at] < user {
            put(old.0[at], old.1[at]);
            at += 1;
        }
        if at < old.0.len() && old.0[at] == user {
            at += 1;
        }
        if let Some(value) = after {
            put(user, value);
        }
    }
    for at in at..old.0.len() {
        put(old.0[at], old.1[at]);
    }
    Row { columns: columns.into(), values: values.into(), interactions: 0 }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    type Pairs = BTreeMap<u32, BTreeMap<u32, f32>>;

    fn row(pairs: &BTreeMap<u32, f32>) -> Row {
        Row { columns: pairs.keys().copied().collect(), values: pairs.values().copied().collect(), interactions: pairs.len() as u32 }
    }

    fn built(pairs: &Pairs) -> Ratings {
        let mut builder = Builder::default();
        pairs.iter().for_each(|(user, pairs)| builder.push(*user, &row(pairs)));
        builder.finish()
    }

    fn same(a: &Ratings, b: &Ratings) {
        for (a, b) in [(&a.users, &b.users), (&a.items, &b.items)] {
            for at in 0..a.len().max(b.len()) {
                assert_eq!(a.row(at), b.row(at), "row {at}");
            }
        }
        assert_eq!((a.pairs(), a.items.pairs(), a.interactions()), (b.pairs(), b.items.pairs(), b.interactions()));
        assert_eq!(a.mean().to_bits(), b.mean().to_bits());
    }

    proptest! {
        /// Incremental equals from scratch, whether changes are laid over or taken in.
        #[test]
        fn updated_ratings_are_those_built_anew(
            start in prop::collection::btree_map(0u32..40, prop::collection::btree_map(0u32..30, 0f32..5.0, 0..20), 0..40),
            steps in prop::collection::vec(
                prop::collection::btree_map(0u32..45, prop::collection::btree_map(0u32..33, 0f32..5.0, 0..6), 1..4), 0..6),
        ) {
            let mut pairs: Pairs = start;
            let mut ratings = built(&pairs);
            let (begin, mut since) = (pairs.clone(), Vec::new());
            for step in steps {
                let rows = step.iter().map(|(user, pairs)| (*user, row(pairs))).collect();
                let mut expected: BTreeMap<(u32, u32), (Option<f32>, Option<f32>)> = Default::default();
                for (user, new) in step {
                    let old = pairs.insert(user, new.clone()).unwrap_or_default();
                    for item in old.keys().chain(new.keys()) {
                        if old.get(item) != new.get(item) {
                            expected.insert((*item, user), (old.get(item).copied(), new.get(item).copied()));
                        }
                    }
                }
                let changes = ratings.update(rows);
                let told: Vec<_> = changes.iter().map(|c| ((c.item, c.user), (c.before, c.after))).collect();
                prop_assert_eq!(told, expected.into_iter().collect::<Vec<_>>());
                same(&ratings, &built(&pairs));
                since = merge(since, changes);
            }
            let at_once = built(&begin).update(pairs.iter().map(|(user, pairs)| (*user, row(pairs))).collect());
            prop_assert_eq!(since, at_once);
        }
    }
}

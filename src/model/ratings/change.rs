//! In which pairs two states of the data differ.

use super::{Row, RowValues};

/// A pair that came (`before` is `None`), went (`after` is `None`) or changed its value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Change {
    pub user: u32,
    pub item: u32,
    pub before: Option<f32>,
    pub after: Option<f32>,
}

/// Pairs that differ, 24 bytes each while they are few. Of many only the number is known: no step is quick that has so
/// many to look at, and a first learn would take more memory for its list than for its pairs.
#[derive(Debug, Clone, PartialEq)]
pub enum Changes {
    /// Ascending by item, then user.
    Few(Vec<Change>),
    Many(u64),
}

impl Changes {
    /// None.
    pub const NONE: Changes = Changes::Few(Vec::new());

    /// How many may be listed where there are so many pairs: a sixteenth, or what takes 1.5 MB.
    pub fn listed_of(pairs: u64) -> u64 {
        (pairs / 16).max(1 << 16)
    }

    /// How many pairs differ; of [`Changes::Many`] those that changed to and fro count twice.
    pub fn count(&self) -> u64 {
        match self {
            Changes::Few(list) => list.len() as u64,
            Changes::Many(count) => *count,
        }
    }

    /// Each of them, where they are listed.
    pub fn listed(&self) -> Option<&[Change]> {
        match self {
            Changes::Few(list) => Some(list),
            Changes::Many(_) => None,
        }
    }

    /// One more, in any order until [`Changes::sorted`]; a list of `most` is given up for its number.
    pub(super) fn push(&mut self, change: Change, most: u64) {
        match self {
            Changes::Few(list) if (list.len() as u64) < most => list.push(change),
            Changes::Few(list) => *self = Changes::Many(list.len() as u64 + 1),
            Changes::Many(count) => *count += 1,
        }
    }

    pub(super) fn sorted(mut self) -> Changes {
        if let Changes::Few(list) = &mut self {
            list.sort_unstable_by_key(|change| (change.item, change.user));
        }
        self
    }

    /// These and later ones as one, listed up to `most`. What is listed and ends as it began is no change.
    pub fn then(self, later: Changes, most: u64) -> Changes {
        let merged = match (self, later) {
            (Changes::Few(first), Changes::Few(then)) => merge(first, then),
            (first, then) => return Changes::Many(first.count() + then.count()),
        };
        if merged.len() as u64 > most { Changes::Many(merged.len() as u64) } else { Changes::Few(merged) }
    }
}

/// Both ascending by item, then user, and so is the result.
fn merge(first: Vec<Change>, then: Vec<Change>) -> Vec<Change> {
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

/// Calls `change(column, old value, new value)` for each column in which two rows differ, ascending.
pub(super) fn difference(old: (&[u32], RowValues<'_>), new: &Row, mut change: impl FnMut(u32, Option<f32>, Option<f32>)) {
    let (mut i, mut j) = (0, 0);
    loop {
        match (old.0.get(i), new.columns.get(j)) {
            (None, None) => return,
            (Some(&a), b) if b.is_none_or(|&b| a < b) => {
                change(a, Some(old.1.at(i)), None);
                i += 1;
            }
            (a, Some(&b)) if a.is_none_or(|&a| b < a) => {
                change(b, None, Some(new.values[j]));
                j += 1;
            }
            (Some(&a), Some(_)) => {
                if old.1.at(i).to_bits() != new.values[j].to_bits() {
                    change(a, Some(old.1.at(i)), Some(new.values[j]));
                }
                i += 1;
                j += 1;
            }
            _ => return,
        }
    }
}

/// An item's row after changes to it, ascending by user.
pub(super) fn merged(old: (&[u32], RowValues<'_>), changes: &[Change]) -> Row {
    let mut columns = Vec::with_capacity(old.0.len() + changes.len());
    let mut values = Vec::with_capacity(old.0.len() + changes.len());
    let mut put = |user: u32, value: f32| {
        columns.push(user);
        values.push(value);
    };
    let mut at = 0;
    for &Change { user, after, .. } in changes {
        while at < old.0.len() && old.0[at] < user {
            put(old.0[at], old.1.at(at));
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
        put(old.0[at], old.1.at(at));
    }
    Row { columns: columns.into(), values: values.into(), interactions: 0 }
}

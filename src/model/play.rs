//! One stored interaction, and what a user's interactions mean together.

use super::event::MAX_VALUE;
use super::{Millis, Objective};

/// A stored interaction. The order of the fields is the order of the store's keys, so a batch sorted by [`Play`] is
/// sorted for RocksDB, and all that makes two events different is in it: writing it twice changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Play {
    /// Surrogate numbers of the dictionary.
    pub user: u32,
    pub item: u32,
    /// Keyed hash of the event id; `None` where (user, item, time) is the identity.
    pub ident: Option<u64>,
    pub time: Millis,
    /// [`ordered`] bits of the value.
    pub value: u64,
}

/// Bits of a finite number such that their order as unsigned integers is the order of the numbers.
pub fn ordered(value: f64) -> u64 {
    let bits = value.to_bits();
    if bits >> 63 == 1 { !bits } else { bits | 1 << 63 }
}

/// The number that [`ordered`] was given.
pub fn unordered(bits: u64) -> f64 {
    f64::from_bits(if bits >> 63 == 1 { bits & !(1 << 63) } else { !bits })
}

/// A row of the ratings matrix: counterparts ascending, with their strength or rating.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Row {
    pub columns: Box<[u32]>,
    pub values: Box<[f32]>,
    /// Interactions behind it; several may be of one pair.
    pub interactions: u32,
}

/// What a user's stored plays mean: one value per item.
///
/// `plays` are of one user, ascending; `names` holds the event id of each (empty where it has none) and is only read
/// with the explicit objective.
///
/// Of several plays with the same identity the earliest counts (then the smallest value): a producer that sends an
/// event again under a later time has not seen it twice. Implicit values are summed in the order of time, so that the
/// last bit does not depend on the hash key of this installation.
pub fn fold_user(plays: &[Play], names: &[Box<str>], objective: Objective) -> Row {
    let mut columns = Vec::new();
    let mut values = Vec::new();
    let mut interactions = 0u32;
    let mut distinct: Vec<(Millis, &str, u64)> = Vec::new();
    let mut start = 0;
    for group in plays.chunk_by(|a, b| a.item == b.item) {
        distinct.clear();
        for (at, play) in group.iter().enumerate() {
            let repeated = at > 0 && {
                let before = &group[at - 1];
                before.ident == play.ident && (play.ident.is_some() || before.time == play.time)
            };
            if !repeated {
                distinct.push((play.time, names.get(start + at).map_or("", |name| name), play.value));
            }
        }
        start += group.len();
        distinct.sort_unstable();
        let value = match objective {
            Objective::Implicit => distinct.iter().map(|play| unordered(play.2)).sum::<f64>(),
            Objective::Explicit => distinct.last().map_or(0.0, |play| unordered(play.2)),
        };
        columns.push(group[0].item);
        // A sum of many is held to what one event may say: see the bound there.
        values.push(value.clamp(-MAX_VALUE, MAX_VALUE) as f32);
        interactions = interactions.saturating_add(distinct.len() as u32);
    }
    Row { columns: columns.into(), values: values.into(), interactions }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn play(item: u32, ident: Option<u64>, time: i64, value: f64) -> Play {
        Play { user: 1, item, ident, time, value: ordered(value) }
    }

    #[test]
    fn value_bits_keep_the_order() {
        let values = [-1e30, -1.0, -1e-300, 0.0, 1e-300, 0.5, 1.0, 1e30];
        for pair in values.windows(2) {
            assert!(ordered(pair[0]) < ordered(pair[1]));
        }
        for value in values {
            assert_eq!(unordered(ordered(value)), value);
        }
    }

    #[test]
    fn strengths_are_summed_and_the_latest_rating_wins() {
        let plays = [play(1, None, 5, 2.0), play(1, None, 9, 1.0), play(1, Some(7), 4, 3.0), play(4, None, 1, 0.5)];
        let row = fold_user(&plays, &[], Objective::Implicit);
        assert_eq!((&row.columns[..], &row.values[..], row.interactions), (&[1, 4][..], &[6.0, 0.5][..], 4));
        assert_eq!(fold_user(&plays, &[], Objective::Explicit).values[..], [1.0, 0.5]);
    }

    #[test]
    fn one_identity_counts_once() {
        // The same event id under two record timestamps, and one (user, item, time) with two values.
        let plays = [play(1, None, 5, 1.0), play(1, None, 5, 2.0), play(1, Some(7), 4, 3.0), play(1, Some(7), 8, 3.0)];
        let row = fold_user(&plays, &[], Objective::Implicit);
        assert_eq!((row.values[0], row.interactions), (4.0, 2));
    }

    #[test]
    fn equal_times_are_decided_by_the_event_id() {
        let plays = [play(1, Some(3), 5, 1.0), play(1, Some(9), 5, 2.0)];
        let names = ["b".into(), "a".into()];
        assert_eq!(fold_user(&plays, &names, Objective::Explicit).values[0], 1.0);
    }
}

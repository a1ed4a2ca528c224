//! Plays that came since the last freeze. What they make of a user's row is known without reading the store where they are of
//! items that the user had nothing of, and that is nearly always. An event that the store had already is of an item that
//! the user has, so a duplicate is never taken for news.

use super::Objective;
use super::play::{Play, Row, fold_user};
use super::ratings::Ratings;
use super::step::Marks;

/// Plays that are kept, about 6 MB of them. Where more come between two freezes, the store is read.
const MOST: usize = 1 << 17;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Young {
    /// Each with its event id where the objective needs it.
    plays: Vec<(Play, Box<str>)>,
    /// There were more than are kept.
    overflown: bool,
    /// Users of whom something was erased.
    erased: Marks,
}

impl Young {
    /// These are stored now.
    pub fn add(&mut self, plays: &[(Play, Box<str>)]) {
        if self.overflown {
            return;
        }
        if self.plays.len() + plays.len() > MOST {
            (self.plays, self.overflown) = (Vec::new(), true);
        } else {
            self.plays.extend_from_slice(plays);
        }
    }

    /// Something of this user is stored no more.
    pub fn erased(&mut self, user: u32) {
        self.erased.set(user);
    }

    /// Rows of those of the `users` (ascending) of whom the new row is known, and the users of whom it must be read, both
    /// ascending. `ratings` are the pairs at the last freeze.
    pub fn rows(mut self, ratings: &Ratings, users: &[u32], objective: Objective) -> (Vec<(u32, Row)>, Vec<u32>) {
        self.plays.sort_unstable();
        self.plays.dedup();
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        let mut left = &self.plays[..];
        for &user in users {
            left = &left[left.partition_point(|(play, _)| play.user < user)..];
            let (own, rest) = left.split_at(left.partition_point(|(play, _)| play.user == user));
            left = rest;
            let whole = !self.overflown && !self.erased.contains(user);
            match whole.then(|| grown(ratings, user, own, objective)).flatten() {
                Some(row) => known.push((user, row)),
                None => unknown.push(user),
            }
        }
        (known, unknown)
    }
}

/// A user's row with new plays; `None` when some are of items that it has already, or when there are none.
fn grown(ratings: &Ratings, user: u32, plays: &[(Play, Box<str>)], objective: Objective) -> Option<Row> {
    if plays.is_empty() {
        return None;
    }
    let (plays, names): (Vec<Play>, Vec<Box<str>>) = plays.iter().cloned().unzip();
    let new = fold_user(&plays, &names, objective);
    let (columns, values) = ratings.users.row(user as usize);
    let mut pairs: Vec<(u32, f32)> = columns.iter().copied().zip(values).collect();
    pairs.extend(new.columns.iter().copied().zip(new.values.iter().copied()));
    // Two rows in order.
    pairs.sort_by_key(|(item, _)| *item);
    if pairs.windows(2).any(|two| two[0].0 == two[1].0) {
        return None;
    }
    let interactions = ratings.interactions_of(user).saturating_add(new.interactions);
    let (columns, values): (Vec<u32>, Vec<f32>) = pairs.into_iter().unzip();
    Some(Row { columns: columns.into(), values: values.into(), interactions })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::play::ordered;
    use crate::model::ratings::Builder;

    fn play(user: u32, item: u32, time: i64) -> (Play, Box<str>) {
        (Play { user, item, ident: None, time, value: ordered(2.0) }, "".into())
    }

    fn ratings() -> Ratings {
        let mut builder = Builder::default();
        builder.push(1, &Row { columns: [2, 5].into(), values: [1.0, 3.0].into(), interactions: 4 });
        builder.finish()
    }

    #[test]
    fn new_items_are_known_and_known_ones_are_read() {
        let mut young = Young::default();
        young.add(&[play(1, 9, 1), play(1, 3, 2), play(1, 3, 7), play(7, 2, 1)]);
        // The same event again.
        young.add(&[play(1, 3, 7), play(2, 4, 1), play(3, 1, 1)]);
        young.erased(3);
        let (known, unknown) = young.rows(&ratings(), &[1, 2, 3, 4, 7], Objective::Implicit);
        assert_eq!(unknown, [3, 4], "something was erased, or nothing came");
        let told: Vec<_> = known.iter().map(|(user, row)| (*user, &row.columns[..], &row.values[..], row.interactions)).collect();
        assert_eq!(
            told,
            [(1, &[2, 3, 5, 9][..], &[1.0, 4.0, 3.0, 2.0][..], 7), (2, &[4][..], &[2.0][..], 1), (7, &[2][..], &[2.0][..], 1)]
        );
        let mut young = Young::default();
        young.add(&[play(1, 5, 1), play(7, 2, 1)]);
        let (known, unknown) = young.rows(&ratings(), &[1, 7], Objective::Implicit);
        assert_eq!((known.len(), unknown), (1, vec![1]), "perhaps it was there already");
    }

    #[test]
    fn too_many_are_not_kept() {
        let mut young = Young::default();
        young.add(&[play(7, 2, 1)]);
        young.add(&vec![play(1, 9, 1); MOST]);
        assert_eq!(young.plays.capacity(), 0);
        young.add(&[play(7, 3, 1)]);
        assert_eq!(young.rows(&ratings(), &[1, 7], Objective::Implicit), (vec![], vec![1, 7]));
    }
}

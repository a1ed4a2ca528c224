//! Users' rows as the store has them: read block by block, on all threads.

use rayon::prelude::*;

use super::Objective;
use super::play::{Play, Row, fold_user};
use super::ratings::{Builder, Ratings};
use super::step::{History, Range, TOGETHER};

/// Users of consecutive numbers that are read together; stores keep them together, too.
const BLOCK: u32 = 256;
/// Blocks that are read before their rows are handed on: what is in memory besides.
const WAVE: usize = 32;
/// Where fewer than this share of a block's users are asked for, those that are read together are looked up.
const SPARSE: u32 = 8;

/// Visits the rows of these users, who come ascending and once; users of whom nothing is left have an empty row.
///
/// # Errors
/// Whatever the store answers.
pub(super) fn read<H: History>(history: &H, objective: Objective, users: &[u32], mut visit: impl FnMut(u32, Row)) -> Result<(), H::Error> {
    let blocks: Vec<&[u32]> = users.chunk_by(|a, b| a / BLOCK == b / BLOCK).collect();
    for wave in blocks.chunks(WAVE) {
        let rows: Result<Vec<_>, H::Error> = wave.par_iter().map(|users| block(history, objective, users)).collect();
        rows?.into_iter().flatten().for_each(|(user, row)| visit(user, row));
    }
    Ok(())
}

/// Reads all pairs into memory; `users` is one past the largest number that was given to one.
///
/// # Errors
/// Whatever the store answers.
pub(super) fn read_all<H: History>(history: &H, objective: Objective, users: u32) -> Result<Ratings, H::Error> {
    let mut builder = Builder::default();
    let last = users.saturating_sub(1) / BLOCK;
    let blocks: Vec<u32> = (0..=last).collect();
    for wave in blocks.chunks(WAVE) {
        let rows: Result<Vec<_>, H::Error> = wave
            .par_iter()
            .map(|&block| {
                // The last one has no end: what lies beyond all numbers is damage, which the store must come upon.
                let range = Range::Users(block * BLOCK, (block < last).then(|| (block + 1) * BLOCK));
                let mut rows = Vec::new();
                scan(history, range, objective, &|_| true, &mut |user, row| rows.push((user, row)))?;
                Ok(rows)
            })
            .collect();
        rows?.iter().flatten().for_each(|(user, row)| builder.push(*user, row));
    }
    Ok(builder.finish())
}

/// Rows of some users of one block.
fn block<H: History>(history: &H, objective: Objective, users: &[u32]) -> Result<Vec<(u32, Row)>, H::Error> {
    let mut rows: Vec<(u32, Row)> = users.iter().map(|&user| (user, Row::default())).collect();
    let span = if users.len() as u32 * SPARSE < BLOCK { TOGETHER } else { BLOCK };
    for part in rows.chunk_by_mut(|(a, _), (b, _)| a / span == b / span) {
        let (first, last) = (part[0].0, part[part.len() - 1].0);
        let range = Range::Users(first, last.checked_add(1));
        let mut left = part;
        scan(history, range, objective, &|user| users.binary_search(&user).is_ok(), &mut |user, row| {
            // Users of whom nothing is left do not come.
            while let Some(((next, found), rest)) = std::mem::take(&mut left).split_first_mut() {
                left = rest;
                if *next == user {
                    *found = row;
                    break;
                }
            }
        })?;
    }
    Ok(rows)
}

/// Visits the rows of users that have plays in the range and are `wanted`, ascending.
fn scan<H: History>(
    history: &H,
    range: Range,
    objective: Objective,
    wanted: &dyn Fn(u32) -> bool,
    visit: &mut dyn FnMut(u32, Row),
) -> Result<(), H::Error> {
    let (mut plays, mut names): (Vec<Play>, Vec<Box<str>>) = Default::default();
    let mut at: Option<(u32, bool)> = None;
    history.plays(range, &mut |play, name| {
        if at.is_none_or(|(user, _)| user != play.user) {
            if let Some((user, true)) = at {
                visit(user, fold_user(&plays, &names, objective));
            }
            plays.clear();
            names.clear();
            at = Some((play.user, wanted(play.user)));
        }
        if let Some((_, true)) = at {
            plays.push(play);
            if objective == Objective::Explicit {
                names.push(name.into());
            }
        }
    })?;
    if let Some((user, true)) = at {
        visit(user, fold_user(&plays, &names, objective));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::model::play::ordered;
    use crate::model::receipt::{Request, RequestKey};

    /// Plays, and how often some were asked for.
    struct Past(BTreeSet<Play>, AtomicUsize);

    impl History for Past {
        type Error = Infallible;

        fn plays(&self, range: Range, visit: &mut dyn FnMut(Play, &str)) -> Result<(), Infallible> {
            self.1.fetch_add(1, Ordering::Relaxed);
            let within = |play: &&Play| match range {
                Range::Users(from, to) => play.user >= from && to.is_none_or(|to| play.user < to),
                other => unreachable!("{other:?} is not asked for"),
            };
            self.0.iter().filter(within).for_each(|play| visit(*play, ""));
            Ok(())
        }

        fn request(&self, _: &RequestKey) -> Result<Option<Request>, Infallible> {
            Ok(None)
        }
    }

    const USERS: u32 = 40 * BLOCK + 7;

    /// More than a wave of blocks; of some users nothing, of one whole block nothing.
    fn past() -> Past {
        let has = |user: &u32| !user.is_multiple_of(5) && user / BLOCK != 3;
        let play = |user: u32, item: u32| Play { user, item, ident: None, time: 1, value: ordered(f64::from(user + item)) };
        let plays = (0..USERS).filter(has).flat_map(|user| [play(user, user % 9), play(user, 10 + user % 2)]);
        Past(plays.collect(), AtomicUsize::new(0))
    }

    fn by_hand(past: &Past, user: u32) -> Row {
        let plays: Vec<Play> = past.0.iter().filter(|play| play.user == user).copied().collect();
        fold_user(&plays, &[], Objective::Implicit)
    }

    #[test]
    fn rows_are_those_of_each_user_however_many_are_asked_for() {
        let past = past();
        let first_and_last = [0, 1, BLOCK - 1, BLOCK, 3 * BLOCK + 1, 39 * BLOCK, USERS - 1];
        let dense: Vec<u32> = (2 * BLOCK..5 * BLOCK).filter(|user| !user.is_multiple_of(3)).chain(34 * BLOCK..35 * BLOCK).collect();
        // The first two are read together.
        for (users, asked) in [(&first_and_last[..], first_and_last.len() - 1), (&dense, 4), (&[], 0)] {
            let mut found = Vec::new();
            past.1.store(0, Ordering::Relaxed);
            read(&past, Objective::Implicit, users, |user, row| found.push((user, row))).unwrap();
            let expected: Vec<(u32, Row)> = users.iter().map(|&user| (user, by_hand(&past, user))).collect();
            assert_eq!(found, expected);
            assert_eq!(past.1.load(Ordering::Relaxed), asked, "few are looked up, many are read together");
        }
    }

    #[test]
    fn all_are_read_whatever_the_last_number_is() {
        let past = past();
        for users in [USERS, 40 * BLOCK, BLOCK, 1, 0] {
            let ratings = read_all(&past, Objective::Implicit, users).unwrap();
            assert_eq!(ratings.interactions(), past.0.len() as u64, "{users}: beyond it is for the store to refuse");
        }
        let ratings = read_all(&past, Objective::Implicit, USERS).unwrap();
        for user in [1, BLOCK + 1, 3 * BLOCK + 1, USERS - 1] {
            let (columns, values) = ratings.users.row(user as usize);
            let row = by_hand(&past, user);
            assert_eq!((columns, values.into_iter().collect::<Vec<f32>>()), (&row.columns[..], row.values.to_vec()));
        }
    }
}

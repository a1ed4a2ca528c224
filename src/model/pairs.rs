//! Users' rows as the store has them: read block by block, on all threads.

use rayon::prelude::*;

use super::Objective;
use super::play::{Play, Row, fold_user};
use super::ratings::{Builder, Ratings};
use super::step::{History, Range};

/// Users of consecutive numbers that are read together; stores keep them together, too.
const BLOCK: u32 = 256;
/// Blocks that are read before their rows are handed on: what is in memory besides.
const WAVE: usize = 32;
/// Where fewer than this share of a block's users are asked for, each is looked up.
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
    if users.len() as u32 * SPARSE < BLOCK {
        for (user, found) in &mut rows {
            scan(history, Range::User(*user), objective, &|_| true, &mut |_, row| *found = row)?;
        }
    } else {
        let range = Range::Users(users[0], users.last().and_then(|last| last.checked_add(1)));
        let mut left = &mut rows[..];
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

//! Temporal leave-last-out: what a model may see, and the one pair of each user that it must predict.

use std::sync::Arc;

use super::data::{Data, PairRow, hash};
use crate::model::play::Row;
use crate::model::ratings::{Builder, Ratings};

/// The pair of a user that is held out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Held {
    pub item: u32,
    pub value: f32,
}

/// Training data and what was taken out of them.
#[derive(Debug)]
pub struct Part {
    /// Without any held-out pair. All that a model or a baseline learns is learnt from this.
    pub ratings: Arc<Ratings>,
    /// By user; `None` for users who only train.
    pub held: Vec<Option<Held>>,
    /// Rows that score vectors and tables must have: users and items of all data.
    pub users: usize,
    pub items: usize,
}

impl Part {
    pub fn count(&self) -> usize {
        self.held.iter().flatten().count()
    }

    /// Held-out pairs whose item nobody in training has: no model can find them, and they count as not found.
    pub fn unseen(&self) -> usize {
        self.held.iter().flatten().filter(|held| self.ratings.items.degree(held.item as usize) == 0).count()
    }
}

/// Which of a user's pairs are held out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Trains without the last two, predicts the second last: for choosing. Users with two pairs train with their first.
    Validation,
    /// Trains without the last, predicts it: for the report, once the choice is made. Users with one pair only train.
    Test,
}

/// Takes the last pair of each user out of the data, or the last two.
///
/// The last pair is the one with the latest interaction, and it leaves with all its interactions, so that nothing of it
/// is known and no interaction of the user that the model sees is later. Between equal times a hash of the names decides:
/// a function of the identity that prefers nobody, where alphabetical order would prefer items added late.
///
/// Costs a pass over the pairs and a transposition.
pub fn split(data: &Data, stage: Stage) -> Part {
    let mut builder = Builder::default();
    let mut held = Vec::with_capacity(data.users.len());
    for user in 0..data.users.len() {
        let row = data.row(user);
        let last = latest(data, user, row, None);
        let before = last.and_then(|last| latest(data, user, row, Some(last)));
        let (out, target) = match (stage, row.items.len()) {
            (_, ..=1) => ([None, None], None),
            (Stage::Test, _) => ([last, None], last),
            (Stage::Validation, 2) => ([last, None], None),
            (Stage::Validation, _) => ([last, before], before),
        };
        held.push(target.map(|at| Held { item: row.items[at], value: row.values[at] }));
        builder.push(user as u32, &without(row, &out));
    }
    Part { ratings: Arc::new(builder.finish()), held, users: data.users.len(), items: data.items.len() }
}

/// Place of the latest pair of a row beside `except`.
fn latest(data: &Data, user: usize, row: PairRow<'_>, except: Option<usize>) -> Option<usize> {
    let tie = |at: usize| (hash(&[&data.users[user], &data.items[row.items[at] as usize]]), at);
    let places = (0..row.items.len()).filter(|&at| Some(at) != except);
    places.max_by(|&a, &b| row.times[a].cmp(&row.times[b]).then_with(|| tie(a).cmp(&tie(b))))
}

fn without(row: PairRow<'_>, out: &[Option<usize>; 2]) -> Row {
    let kept = || (0..row.items.len()).filter(|&at| !out.contains(&Some(at)));
    let columns: Box<[u32]> = kept().map(|at| row.items[at]).collect();
    let interactions = columns.len() as u32;
    Row { columns, values: kept().map(|at| row.values[at]).collect(), interactions }
}

#[cfg(test)]
#[path = "split_tests.rs"]
mod tests;

//! What changed data touch, solved at once: factors to publish while the sweeps run.
//!
//! When little changed, the optimum moves most where a pair came or went. A row of a certified generation is
//! stationary, so the residual of a touched one is what its changed pairs and changed counterparts bring, known at
//! O(k) a pair, and one Newton step with the row's normal matrix ends at its new optimum. Where that matrix, n k²
//! operations, is beyond the budget, the second moment of all rows of the other side stands for the row's own
//! counterparts; one eigendecomposition inverts it for every row.
//!
//! Counterparts of what was touched stay as they are: the rest of the way leads through everything and is that of the
//! sweeps. Gram matrices are brought up to date from those of the certified generation in f64, once; nothing is taken
//! out of a matrix that had something taken out before.

mod phase;

use faer::Mat;
use pulp::Arch;

use super::als::{self, RowFailed, Weights};
use super::factors::{Factors, Side, Table};
use super::ratings::{Change, Ratings, Rows};
use super::step::Marks;
use super::{Objective, Params, kernel, unlearn};
use phase::{Event, Held, Phase};

/// Share of a sweep's floating-point operations that the normal matrices of touched rows may take; with the rest of the
/// step of one user it stays within a thousandth.
const OWN_SHARE: f64 = 8e-4;
/// What they may take in any case: a few milliseconds of one core.
const OWN_LEAST: f64 = 5e7;
/// Share of a sweep beyond which all the rest makes a step that is no longer a quick one.
const SHARE: f64 = 1e-2;

/// What a certified generation keeps for the step after it: `Σ x xᵀ` of both sides, k × k, and the mean of its ratings
/// (0 with the implicit objective).
#[derive(Debug, Clone, PartialEq)]
pub struct Base {
    grams: [Mat<f64>; 2],
    mean: f64,
}

impl Base {
    /// Costs `rows · k²` floating-point operations.
    pub fn of(arch: Arch, factors: &Factors, mean: f64) -> Base {
        let dense = |table: &Table| {
            let (k, gram) = (table.rank(), als::gram(arch, table));
            let stride = kernel::padded(k);
            Mat::from_fn(k, k, |i, j| gram[i.min(j) * stride + i.max(j)])
        };
        Base { grams: [dense(&factors.users), dense(&factors.items)], mean }
    }
}

/// A change of data and what there was before it.
#[derive(Clone, Copy)]
pub struct Step<'a> {
    pub params: &'a Params,
    /// The data after the change.
    pub ratings: &'a Ratings,
    /// Factors of a certified generation on the data before, and what it keeps.
    pub before: &'a Factors,
    pub base: &'a Base,
    /// Pairs in which the data differ, as [`super::ratings::Refresh`] answers them.
    pub changes: &'a [Change],
    /// First values of items that `before` does not have, by surrogate; see [`super::factors::initial_row`].
    pub initial: &'a [(u32, Vec<f64>)],
}

/// New values of the rows that were touched.
#[derive(Debug, Clone, PartialEq)]
pub struct Local {
    patches: [Patch; 2],
    /// Mean of the ratings that are left, with the explicit objective; else 0.
    pub mean: f64,
    /// Rows solved with their own normal matrix.
    pub solved: usize,
    /// Rows corrected with the second moment of the other side.
    pub corrected: usize,
    /// Floating-point operations that it took, about.
    pub flops: f64,
}

impl Local {
    /// Rows that were touched, ascending.
    pub fn rows(&self, side: Side) -> Vec<u32> {
        let mut rows: Vec<u32> = self.patches[side as usize].rows.iter().map(|(row, _)| *row).collect();
        rows.sort_unstable();
        rows
    }

    /// Puts the rows into the factors that the step began with; those without data leave.
    pub fn apply(&self, factors: &mut Factors) {
        for side in Side::BOTH {
            for (row, values) in &self.patches[side as usize].rows {
                match values {
                    Some(values) => factors.side_mut(side).set(*row as usize, values),
                    None => factors.side_mut(side).remove(*row as usize),
                }
            }
        }
    }
}

/// Floating-point operations of one sweep: normal equations of both sides and one factorisation a row.
pub fn sweep_flops(ratings: &Ratings, rank: usize) -> f64 {
    let (k, rows) = (rank as f64, (ratings.users.len() + ratings.items.len()) as f64);
    2.0 * ratings.pairs() as f64 * k * k + rows * k.powi(3) / 3.0
}

/// Whether a step for these changes is a matter of moments: without the normal matrices, which have a budget of their
/// own, at most a hundredth of a sweep or `5e7` floating-point operations.
pub fn is_quick(ratings: &Ratings, changes: &[Change], rank: usize) -> bool {
    let touched = Touched::of(changes);
    // A pair of a touched user with a touched item, both still there, says something to the item.
    let pairs = |rows: &Rows, touched: &[u32]| touched.iter().map(|&row| rows.degree(row as usize)).sum::<usize>();
    let between = pairs(&ratings.users, &touched.users).min(pairs(&ratings.items, &touched.items));
    let flops = phase::correction_flops(touched.users.len() + touched.items.len(), 2 * changes.len() + between, rank);
    flops <= (SHARE * sweep_flops(ratings, rank)).max(OWN_LEAST)
}

/// Solves what changed data touch: users for the items at hand, then items for the users as they are then. Rows
/// without data leave.
///
/// Costs at most a thousandth of a sweep or `5e7` floating-point operations, whichever is more, for normal matrices,
/// `4 k²` for every other touched row and `12 k` for a pair of two touched rows; with the explicit objective a pass
/// over the values for their mean, too. A row that did not exist is always solved. Equal input gives equal bits for
/// any number of threads.
///
/// # Errors
/// [`RowFailed`] names a row whose normal matrix cannot be factorised.
pub fn step(step: Step<'_>) -> Result<Local, RowFailed> {
    let Step { params, ratings, before, base, changes, .. } = step;
    let mean = if params.objective == Objective::Explicit { ratings.mean() } else { 0.0 };
    let weights = [Weights::new(params, base.mean), Weights::new(params, mean)];
    let touched = Touched::of(changes);
    let (mut users, mut items) = (Patch::default(), Patch::default());
    let counts =
        [users.removed(&touched.users, &before.users, &ratings.users), items.removed(&touched.items, &before.items, &ratings.items)];
    start(step, &weights[1], &mut items);
    let budget = (OWN_SHARE * sweep_flops(ratings, params.rank)).max(OWN_LEAST);

    let held = Held::new(&before.items, &items, &base.grams[1]);
    let phase = Phase { side: Side::User, rows: &ratings.users, own: &before.users, held, weights, others: counts[1] };
    let solved_users = phase.run(&touched.user_events(), budget)?;
    solved_users.rows.into_iter().for_each(|(row, values)| users.put(row, Some(values)));

    let held = Held::new(&before.users, &users, &base.grams[0]);
    let phase = Phase { side: Side::Item, rows: &ratings.items, own: &before.items, held, weights, others: counts[0] };
    let solved_items = phase.run(&touched.item_events(&users, ratings), budget - solved_users.own_flops)?;
    solved_items.rows.into_iter().for_each(|(row, values)| items.put(row, Some(values)));

    Ok(Local {
        patches: [users, items],
        mean,
        solved: solved_users.solved + solved_items.solved,
        corrected: solved_users.corrected + solved_items.corrected,
        flops: solved_users.flops + solved_items.flops,
    })
}

/// New items start as they would in a cold solve: users who know nothing else must find something to be solved for.
fn start(step: Step<'_>, weights: &Weights, items: &mut Patch) {
    let new = |item: u32| !step.before.items.is_live(item as usize) && step.ratings.items.degree(item as usize) > 0;
    let mut initial = step.initial.iter().filter(|(item, _)| new(*item)).peekable();
    if initial.peek().is_none() {
        return;
    }
    let (squares, pairs) = unlearn::targets(step.ratings, weights);
    let unit = unlearn::unit(squares, pairs);
    for (item, row) in initial {
        items.put(*item, Some(row.iter().map(|value| value * unit).collect()));
    }
}

/// Rows of which a pair changed.
struct Touched {
    /// Ascending by user, then item.
    by_user: Vec<Change>,
    users: Vec<u32>,
    items: Vec<u32>,
}

impl Touched {
    fn of(changes: &[Change]) -> Touched {
        let mut by_user = changes.to_vec();
        by_user.sort_unstable_by_key(|change| (change.user, change.item));
        let mut users: Vec<u32> = by_user.iter().map(|change| change.user).collect();
        users.dedup();
        let mut items: Vec<u32> = by_user.iter().map(|change| change.item).collect();
        items.sort_unstable();
        items.dedup();
        Touched { by_user, users, items }
    }

    /// What the changed pairs say to users. No item has moved yet but those that left, with all their pairs.
    fn user_events(&self) -> Vec<Event> {
        self.by_user.iter().map(|c| Event { row: c.user, counterpart: c.item, before: c.before, after: c.after }).collect()
    }

    /// What the pairs of touched items with changed users say to the items; pairs of equal value, too, because the
    /// user's row is another now. Ascending by item, then user.
    fn item_events(&self, users: &Patch, ratings: &Ratings) -> Vec<Event> {
        let mut touched = Marks::default();
        self.items.iter().for_each(|&item| touched.set(item));
        let mut events: Vec<Event> =
            self.by_user.iter().map(|c| Event { row: c.item, counterpart: c.user, before: c.before, after: c.after }).collect();
        for changes in self.by_user.chunk_by(|a, b| a.user == b.user) {
            let user = changes[0].user;
            if users.get(user as usize).is_none_or(Option::is_none) {
                continue;
            }
            let (items, values) = ratings.users.row(user as usize);
            for (&item, value) in items.iter().zip(values) {
                if touched.contains(item) && changes.binary_search_by_key(&item, |change| change.item).is_err() {
                    events.push(Event { row: item, counterpart: user, before: Some(value), after: Some(value) });
                }
            }
        }
        events.sort_unstable_by_key(|event| (event.row, event.counterpart));
        events
    }
}

const NOWHERE: u32 = u32::MAX;

/// Rows that differ from those of a table; `None` stands for one that is gone.
#[derive(Debug, Clone, Default, PartialEq)]
struct Patch {
    /// Place of each row in `rows`, [`NOWHERE`] or beyond the end for those that are as they were.
    places: Vec<u32>,
    rows: Vec<(u32, Option<Vec<f64>>)>,
}

impl Patch {
    fn put(&mut self, row: u32, values: Option<Vec<f64>>) {
        let at = row as usize;
        if self.places.len() <= at {
            self.places.resize(at + 1, NOWHERE);
        }
        match self.places[at] {
            NOWHERE => {
                self.places[at] = self.rows.len() as u32;
                self.rows.push((row, values));
            }
            place => self.rows[place as usize].1 = values,
        }
    }

    fn get(&self, row: usize) -> Option<&Option<Vec<f64>>> {
        self.rows.get(*self.places.get(row)? as usize).map(|(_, values)| values)
    }

    /// Takes out the touched rows that lost their data; answers how many rows there were and are.
    fn removed(&mut self, touched: &[u32], before: &Table, rows: &Rows) -> [usize; 2] {
        let was = before.count();
        let mut is = was;
        for &row in touched {
            match (before.is_live(row as usize), rows.degree(row as usize) > 0) {
                (true, false) => {
                    is -= 1;
                    self.put(row, None);
                }
                (false, true) => is += 1,
                _ => (),
            }
        }
        [was, is]
    }
}

#[cfg(test)]
#[path = "local_tests.rs"]
mod tests;

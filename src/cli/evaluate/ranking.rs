//! Everybody's list of best items, and what it says about the held-out pairs.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::ops::Range;

use rayon::prelude::*;

use super::split::Part;

/// Users whose scores one task holds: enough for a matrix product to pay, few enough that 30,000 items fit the cache's
/// neighbourhood (8 bytes · 64 · 30,000 = 15 MB).
const BLOCK: usize = 64;

/// Something that can be asked what a user likes.
pub trait Scores: Sync {
    /// Scores of all items for a range of users, user by user; higher is better. `out` is users × items.
    fn fill(&self, users: Range<usize>, out: &mut [f64]);

    /// The rating that it expects, on the scale of the data; `None` from what only ranks.
    fn rating(&self, user: usize, item: usize) -> Option<f64>;
}

/// What became of one held-out pair.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// Its place in the user's list, from 1; `None` when it is not on the list.
    pub place: Option<usize>,
    /// Expected minus actual rating.
    pub error: Option<f64>,
}

/// What the lists of all users add up to.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranking {
    /// In the order of the users who have a held-out pair: the same for all that are ranked on one part.
    pub outcomes: Vec<Outcome>,
    /// Share of the items in training that are on anybody's list.
    pub coverage: f64,
}

/// Ranks, for every user, the items of the training data that the user does not have, and keeps the best `n`.
///
/// Costs what the scores cost (`2 · users · items · rank` floating-point operations for factors) and a pass over them.
/// Equal input gives equal results for any number of threads. Of equal scores the smaller item number is better.
pub fn rank(scores: &dyn Scores, part: &Part, n: usize) -> Ranking {
    let dead: Vec<u32> = (0..part.items as u32).filter(|&item| part.ratings.items.degree(item as usize) == 0).collect();
    let blocks: Vec<(Vec<Outcome>, Vec<bool>)> = (0..part.users.div_ceil(BLOCK))
        .into_par_iter()
        .fold(
            || (Vec::new(), vec![false; part.items], vec![0.0; BLOCK * part.items]),
            |(mut outcomes, mut listed, mut room): (Vec<Outcome>, _, _), block| {
                let users = block * BLOCK..part.users.min((block + 1) * BLOCK);
                let room_of_block = &mut room[..users.len() * part.items];
                scores.fill(users.clone(), room_of_block);
                for (user, row) in users.zip(room_of_block.chunks_exact_mut(part.items)) {
                    // What is known already and what nobody has is no recommendation.
                    for &item in part.ratings.users.row(user).0.iter().chain(&dead) {
                        row[item as usize] = f64::NEG_INFINITY;
                    }
                    let best = best(row, n);
                    best.iter().for_each(|&item| listed[item as usize] = true);
                    outcomes.extend(part.held[user].map(|held| Outcome {
                        place: best.iter().position(|&item| item == held.item).map(|at| at + 1),
                        error: scores.rating(user, held.item as usize).map(|rating| rating - f64::from(held.value)),
                    }));
                }
                (outcomes, listed, room)
            },
        )
        .map(|(outcomes, listed, _)| (outcomes, listed))
        .collect();
    let mut covered = vec![false; part.items];
    for (_, listed) in &blocks {
        covered.iter_mut().zip(listed).for_each(|(covered, listed)| *covered |= listed);
    }
    let covered = covered.into_iter().filter(|&covered| covered).count();
    let outcomes = blocks.into_iter().flat_map(|block| block.0).collect();
    Ranking { outcomes, coverage: covered as f64 / (part.items - dead.len()).max(1) as f64 }
}

#[derive(PartialEq)]
struct Entry {
    score: f64,
    item: u32,
}

impl Eq for Entry {}

impl Ord for Entry {
    /// Worse is greater, so that the heap's top is the one to drop.
    fn cmp(&self, other: &Entry) -> Ordering {
        other.score.total_cmp(&self.score).then(self.item.cmp(&other.item))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The `n` items with the highest scores, best first, of equal ones the smaller number; −∞ is no score.
pub fn best(scores: &[f64], n: usize) -> Vec<u32> {
    let mut heap: BinaryHeap<Entry> = BinaryHeap::with_capacity(n + 1);
    let mut worst = f64::NEG_INFINITY;
    for (item, &score) in (0..).zip(scores) {
        // Items come in ascending order: one that only equals the worst kept is behind it.
        if score > worst {
            heap.push(Entry { score, item });
            if heap.len() > n {
                heap.pop();
            }
            if heap.len() == n {
                worst = heap.peek().map_or(worst, |entry| entry.score);
            }
        }
    }
    heap.into_sorted_vec().into_iter().map(|entry| entry.item).collect()
}

#[cfg(test)]
#[path = "ranking_tests.rs"]
mod tests;

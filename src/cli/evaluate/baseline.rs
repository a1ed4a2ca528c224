//! What does without a model: so that the table shows what the model brings.

use std::ops::Range;

use rayon::prelude::*;

use super::ranking::{Scores, best};
use super::split::Part;
use crate::model::ratings::{Ratings, RowValues};

/// Neighbours kept of each item; more change little and cost memory.
const NEIGHBOURS: usize = 100;
/// Ratings of the mean that an item's or a user's own ratings are mixed with, so that a few say little. Koren's values.
const DAMPING_ITEM: f64 = 25.0;
const DAMPING_USER: f64 = 10.0;

/// The same for everybody: items by the number of users who have them.
pub struct Popularity {
    counts: Vec<f64>,
}

impl Popularity {
    pub fn new(part: &Part) -> Popularity {
        Popularity { counts: (0..part.items).map(|item| part.ratings.items.degree(item) as f64).collect() }
    }
}

impl Scores for Popularity {
    fn fill(&self, _: Range<usize>, out: &mut [f64]) {
        out.chunks_exact_mut(self.counts.len()).for_each(|row| row.copy_from_slice(&self.counts));
    }

    fn rating(&self, _: usize, _: usize) -> Option<f64> {
        None
    }
}

/// Items whose users are those of the items that a user has, by the cosine of the two sets of users.
///
/// Source: Deshpande, Karypis, *Item-Based Top-N Recommendation Algorithms*, ACM TOIS 22 (1), 2004.
pub struct ItemKnn<'a> {
    ratings: &'a Ratings,
    items: usize,
    /// The most similar other items of each, with their cosine.
    neighbours: Vec<Vec<(u32, f32)>>,
}

impl<'a> ItemKnn<'a> {
    /// Costs `Σ degree²` over the users, in parallel over items, and 8 bytes a neighbour.
    pub fn new(part: &'a Part) -> ItemKnn<'a> {
        let (ratings, items) = (&*part.ratings, part.items);
        let neighbours =
            (0..items).into_par_iter().map_init(|| vec![0.0; items], |common, item| neighbours_of(ratings, item, common)).collect();
        ItemKnn { ratings, items, neighbours }
    }
}

/// `common` is zero before and after.
fn neighbours_of(ratings: &Ratings, item: usize, common: &mut [f64]) -> Vec<(u32, f32)> {
    let (users, _) = ratings.items.row(item);
    for &user in users {
        for &other in ratings.users.row(user as usize).0 {
            common[other as usize] += 1.0;
        }
    }
    common[item] = 0.0;
    for (other, common) in common.iter_mut().enumerate().filter(|(_, common)| **common > 0.0) {
        *common /= (users.len() as f64 * ratings.items.degree(other) as f64).sqrt();
    }
    let kept = best(common, NEIGHBOURS).into_iter().map(|other| (other, common[other as usize] as f32));
    let kept = kept.filter(|(_, cosine)| *cosine > 0.0).collect();
    common.fill(0.0);
    kept
}

impl Scores for ItemKnn<'_> {
    fn fill(&self, users: Range<usize>, out: &mut [f64]) {
        out.fill(0.0);
        for (user, row) in users.zip(out.chunks_exact_mut(self.items)) {
            for &item in self.ratings.users.row(user).0 {
                for &(other, cosine) in &self.neighbours[item as usize] {
                    row[other as usize] += f64::from(cosine);
                }
            }
        }
    }

    fn rating(&self, _: usize, _: usize) -> Option<f64> {
        None
    }
}

/// The mean, what an item is rated above it, and what a user rates above that. Ranks the same for everybody.
///
/// Source: Koren, *Factor in the Neighbors: Scalable and Accurate Collaborative Filtering*, ACM TKDD 4 (1), 2010, sect. 2.1.
pub struct Biases {
    mean: f64,
    users: Vec<f64>,
    items: Vec<f64>,
}

impl Biases {
    pub fn new(part: &Part) -> Biases {
        let (ratings, mean) = (&part.ratings, part.ratings.mean());
        let above = |values: RowValues<'_>| values.into_iter().map(|value| f64::from(value) - mean).sum::<f64>();
        let of_item = |item| {
            let (users, values) = ratings.items.row(item);
            above(values) / (DAMPING_ITEM + users.len() as f64)
        };
        let items: Vec<f64> = (0..part.items).map(of_item).collect();
        let of_user = |user| {
            let (columns, values) = ratings.users.row(user);
            let expected: f64 = columns.iter().map(|&item| items[item as usize]).sum();
            (above(values) - expected) / (DAMPING_USER + columns.len() as f64)
        };
        Biases { mean, users: (0..part.users).map(of_user).collect(), items }
    }
}

impl Scores for Biases {
    fn fill(&self, _: Range<usize>, out: &mut [f64]) {
        out.chunks_exact_mut(self.items.len()).for_each(|row| row.copy_from_slice(&self.items));
    }

    fn rating(&self, user: usize, item: usize) -> Option<f64> {
        Some(self.mean + self.users[user] + self.items[item])
    }
}

#[cfg(test)]
#[path = "baseline_tests.rs"]
mod tests;

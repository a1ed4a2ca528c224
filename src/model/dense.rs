//! Small worlds and the definitions, dense: what the tests of the core hold sparse and incremental computations against.

use std::sync::Arc;

use faer::Mat;
use pulp::Arch;

use super::als::Weights;
use super::factors::{Factors, Side, initial_row};
use super::play::Row;
use super::ratings::{Builder, Ratings, Rows};
use super::unlearn::{Problem, Solution, Unwatched, solve};
use super::{Certify, Objective, Params};

pub const OBJECTIVES: [Objective; 2] = [Objective::Implicit, Objective::Explicit];

pub fn params(objective: Objective, regularization_exp: f64) -> Params {
    // About the same λ of a middling row for every exponent.
    let regularization = if objective == Objective::Implicit { 3.0 } else { 4.0 } * 10f64.powf(-regularization_exp);
    Params {
        objective,
        rank: 12,
        regularization,
        regularization_exp,
        alpha: 1.0,
        unobserved_weight: 0.1,
        tolerance: 1e-10,
        certify: Certify::Residual,
        max_sweeps: 2_000,
        seed: 1,
        threads: 0,
    }
}

/// Three tastes and some noise; user 3 and item 5 have nothing.
pub fn world(users: u32, items: u32) -> Arc<Ratings> {
    let mut builder = Builder::default();
    for user in 0..users {
        let of = |item: u32| (u64::from(user) * 7_919 + u64::from(item) * 104_729 + 13).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
        let has = |item: &u32| user != 3 && *item != 5 && of(*item) % 100 < if user % 3 == item % 3 { 45 } else { 8 };
        let columns: Box<[u32]> = (0..items).filter(has).collect();
        let values = columns.iter().map(|&item| 1.0 + (of(item) / 128 % 5) as f32).collect();
        let interactions = columns.len() as u32;
        builder.push(user, &Row { columns, values, interactions });
    }
    Arc::new(builder.finish())
}

/// A cold start whose items are named by their numbers.
pub fn cold(params: &Params, ratings: &Arc<Ratings>) -> Problem {
    let initial = (0..ratings.items.len())
        .filter(|&item| ratings.items.degree(item) > 0)
        .map(|item| (item as u32, initial_row(params.seed, Side::Item, &item.to_string(), params.rank)))
        .collect();
    Problem { params: params.clone(), ratings: ratings.clone(), previous: None, initial }
}

/// From a cold start.
pub fn solved(params: &Params, ratings: &Arc<Ratings>) -> Solution {
    solve(Arch::new(), &cold(params, ratings), &Unwatched).unwrap()
}

/// `Σ λ ‖row‖²`, the loss and M̃ of users × items that exist, by the definitions.
pub struct Dense {
    pub penalty: f64,
    pub loss: f64,
    pub gradient: Mat<f64>,
    /// Weight, target and prediction of every pair.
    pub pairs: Vec<[f64; 3]>,
    /// λ of the users and of the items that exist.
    pub lambdas: [Vec<f64>; 2],
}

impl Dense {
    /// `−f*(θ ∇f)`: the value of the dual where the gradient is scaled by θ.
    pub fn dual(&self, theta: f64) -> f64 {
        let of =
            |[weight, target, x]: &[f64; 3]| 2.0 * theta * weight * target * (x - target) + theta * theta * weight * (x - target).powi(2);
        -self.pairs.iter().map(of).sum::<f64>()
    }
}

pub fn dense(params: &Params, ratings: &Ratings, factors: &Factors, weights: &Weights) -> Dense {
    let (users, items): (Vec<usize>, Vec<usize>) = (factors.users.rows().collect(), factors.items.rows().collect());
    let a0 = if params.objective == Objective::Implicit { params.unobserved_weight } else { 0.0 };
    let lambda = |rows: &Rows, row: usize, others: usize| {
        params.regularization * (rows.degree(row) as f64 + a0 * others as f64).powf(params.regularization_exp)
    };
    let by_user: Vec<f64> = users.iter().map(|&row| lambda(&ratings.users, row, items.len())).collect();
    let by_item: Vec<f64> = items.iter().map(|&row| lambda(&ratings.items, row, users.len())).collect();
    let square = |row: &[f64]| row.iter().map(|x| x * x).sum::<f64>();
    let mut penalty: f64 = users.iter().zip(&by_user).map(|(&row, lambda)| lambda * square(factors.users.raw(row))).sum();
    penalty += items.iter().zip(&by_item).map(|(&row, lambda)| lambda * square(factors.items.raw(row))).sum::<f64>();
    let mut pairs = Vec::new();
    let gradient = Mat::from_fn(users.len(), items.len(), |i, j| {
        let x: f64 = factors.users.raw(users[i]).iter().zip(factors.items.raw(items[j])).map(|(u, v)| u * v).sum();
        let (columns, values) = ratings.users.row(users[i]);
        let value = columns.iter().position(|&column| column as usize == items[j]).map(|at| f64::from(values.at(at)));
        let (weight, target) = match (params.objective, value) {
            (Objective::Implicit, Some(r)) => (a0 + params.alpha * r, 1.0),
            (Objective::Implicit, None) => (a0, 0.0),
            (Objective::Explicit, Some(r)) => (1.0, r - weights.mean),
            (Objective::Explicit, None) => (0.0, 0.0),
        };
        pairs.push([weight, target, x]);
        weight * (target - x) / (by_user[i] * by_item[j]).sqrt()
    });
    let loss = pairs.iter().map(|[weight, target, x]| weight * (target - x) * (target - x)).sum();
    Dense { penalty, loss, gradient, pairs, lambdas: [by_user, by_item] }
}

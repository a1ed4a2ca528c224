use std::sync::Arc;

use super::*;
use crate::model::certificate::measure;
use crate::model::factors::{Side, initial_row};
use crate::model::play::Row;
use crate::model::ratings::Builder;
use crate::model::unlearn::{Problem, Unwatched, solve};
use crate::model::{Objective, Params};

const OBJECTIVES: [Objective; 2] = [Objective::Implicit, Objective::Explicit];

fn params(objective: Objective, regularization_exp: f64) -> Params {
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
        max_sweeps: 2_000,
        seed: 1,
        threads: 0,
    }
}

/// Three tastes and some noise; user 3 and item 5 have nothing.
fn world(users: u32, items: u32) -> Arc<Ratings> {
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

fn trained(params: &Params, ratings: &Arc<Ratings>) -> (Factors, Weights) {
    let initial = (0..ratings.items.len())
        .filter(|&item| ratings.items.degree(item) > 0)
        .map(|item| (item as u32, initial_row(params.seed, Side::Item, &item.to_string(), params.rank)))
        .collect();
    let problem = Problem { params: params.clone(), ratings: ratings.clone(), previous: None, initial };
    let solution = solve(Arch::new(), &problem, &Unwatched).unwrap();
    assert!(solution.measured.residual <= params.tolerance && solution.effective_rank < Some(params.rank), "{:?}", solution.effective_rank);
    (solution.factors, Weights::new(params, solution.mean))
}

/// The factors without the strongest `n` directions of their k-space, those of the scaled Gram matrices.
fn without(ratings: &Ratings, mut factors: Factors, weights: &Weights, n: usize) -> Factors {
    let k = factors.users.rank();
    let gram = dense_gram(Arch::new(), &factors.items, &scales(ratings, &factors, weights)[1]);
    let eigen = gram.self_adjoint_eigen(Triangle::Lower).unwrap();
    for at in k - n..k {
        let along: Vec<f64> = (0..k).map(|i| eigen.U()[(i, at)]).collect();
        for side in Side::BOTH {
            let zeros = vec![0.0; factors.side(side).len()];
            replace(factors.side_mut(side), &along, &zeros, 0.0);
        }
    }
    factors
}

/// σ_max of M̃ beside the span of the factors, by the definitions, dense.
fn sigma_by_hand(params: &Params, ratings: &Ratings, factors: &Factors, weights: &Weights) -> f64 {
    let (users, items): (Vec<usize>, Vec<usize>) = (factors.users.rows().collect(), factors.items.rows().collect());
    let lambda = |rows: &Rows, row: usize, others: usize| {
        let a0 = if params.objective == Objective::Implicit { params.unobserved_weight } else { 0.0 };
        params.regularization * (rows.degree(row) as f64 + a0 * others as f64).powf(params.regularization_exp)
    };
    let by_user: Vec<f64> = users.iter().map(|&row| lambda(&ratings.users, row, items.len())).collect();
    let by_item: Vec<f64> = items.iter().map(|&row| lambda(&ratings.items, row, users.len())).collect();
    let gradient = Mat::from_fn(users.len(), items.len(), |i, j| {
        let x: f64 = factors.users.raw(users[i]).iter().zip(factors.items.raw(items[j])).map(|(u, v)| u * v).sum();
        let (columns, values) = ratings.users.row(users[i]);
        let value = columns.iter().position(|&column| column as usize == items[j]).map(|at| f64::from(values[at]));
        let pull = match (params.objective, value) {
            (Objective::Implicit, Some(r)) => (params.unobserved_weight + params.alpha * r) * (1.0 - x),
            (Objective::Implicit, None) => -params.unobserved_weight * x,
            (Objective::Explicit, Some(r)) => r - weights.mean - x,
            (Objective::Explicit, None) => 0.0,
        };
        pull / (by_user[i] * by_item[j]).sqrt()
    });
    let outside = |table: &Table, rows: &[usize], lambdas: &[f64]| {
        let scaled = Mat::from_fn(rows.len(), table.rank(), |i, j| table.raw(rows[i])[j] * lambdas[i].sqrt());
        let svd = scaled.thin_svd().unwrap();
        let used = (0..table.rank()).filter(|&at| svd.S()[at] > 1e-3 * svd.S()[0]).count();
        let basis = svd.U().subcols(0, used);
        Mat::<f64>::identity(rows.len(), rows.len()) - basis * basis.transpose()
    };
    let beside = outside(&factors.users, &users, &by_user) * gradient * outside(&factors.items, &items, &by_item);
    beside.singular_values().unwrap()[0]
}

#[test]
fn sigma_is_that_of_the_dense_gradient() {
    let ratings = world(48, 40);
    for objective in OBJECTIVES {
        for exponent in [0.0, 0.5, 1.0] {
            let params = params(objective, exponent);
            let (optimum, weights) = trained(&params, &ratings);
            for removed in [0, 1, 2] {
                let factors = without(&ratings, optimum.clone(), &weights, removed);
                let found = search(Arch::new(), &ratings, &factors, &weights, params.tolerance).unwrap();
                let dense = sigma_by_hand(&params, &ratings, &factors, &weights);
                // The pairs' part of the gradient is kept in f32.
                let apart = (found.sigma / dense - 1.0).abs();
                assert!(apart < 1e-8, "{objective:?}, {exponent}, {removed}: {} {dense}, {apart}", found.sigma);
                assert_eq!(found.leads_on(), removed > 0, "{objective:?}, {exponent}, {removed}: {}", found.sigma);
            }
        }
    }
}

/// The objective after the ways of a search, each with `stretch` times the weight that [`follow`] gives it.
fn after(ratings: &Ratings, factors: &Factors, weights: &Weights, found: &Search, stretch: f64) -> f64 {
    let (mut factors, mut found) = (factors.clone(), found.clone());
    // The weight goes with σ − 1.
    found.ways.iter_mut().for_each(|way| way.triplet.value = 1.0 + (way.triplet.value - 1.0) * stretch);
    follow(ratings, &mut factors, weights, &found);
    measure(Arch::new(), ratings, &factors, weights).objective
}

#[test]
fn every_way_out_leads_down() {
    let ratings = world(48, 40);
    for objective in OBJECTIVES {
        let (optimum, weights) = trained(&params(objective, 1.0), &ratings);
        for removed in [1, 2, 3] {
            let factors = without(&ratings, optimum.clone(), &weights, removed);
            let before = measure(Arch::new(), &ratings, &factors, &weights).objective;
            let found = search(Arch::new(), &ratings, &factors, &weights, 1e-10).unwrap();
            assert!(found.ways.len() >= removed, "{} of {removed}", found.ways.len());
            // A share of the best weight that together they cannot overdo.
            let down = after(&ratings, &factors, &weights, &found, 1.0 / (OVERSHOOT * found.ways.len() as f64));
            assert!(down < before * 0.999, "{removed}: {before} {down}");
        }
    }
}

#[test]
fn the_weight_of_a_way_is_measured_by_the_best_one() {
    let ratings = world(48, 40);
    for objective in OBJECTIVES {
        let (optimum, weights) = trained(&params(objective, 1.0), &ratings);
        let factors = without(&ratings, optimum, &weights, 1);
        let mut found = search(Arch::new(), &ratings, &factors, &weights, 1e-10).unwrap();
        found.ways.truncate(1);
        let at = |weight: f64| after(&ratings, &factors, &weights, &found, weight / OVERSHOOT);
        let (less, best, more) = (at(0.99), at(1.0), at(1.01));
        assert!(best < less && best < more, "{less} {best} {more}");
        assert!(((less - best) / (more - best) - 1.0).abs() < 1e-3, "a parabola: {less} {best} {more}");
    }
}

#[test]
fn threads_do_not_show_in_a_search() {
    let ratings = world(300, 90);
    let (optimum, weights) = trained(&params(Objective::Implicit, 1.0), &ratings);
    let factors = without(&ratings, optimum, &weights, 1);
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| search(Arch::new(), &ratings, &factors, &weights, 1e-10).unwrap())
    };
    assert_eq!(with(1), with(3));
}

#[test]
fn a_rank_that_binds_is_not_certified() {
    let ratings = world(48, 40);
    let params = Params { rank: 3, ..params(Objective::Implicit, 1.0) };
    let wide = Params { rank: 12, ..params.clone() };
    let (_, weights) = trained(&wide, &ratings);
    let mut factors = Factors::new(params.rank);
    for side in Side::BOTH {
        for row in (0..48).filter(|&row| if side == Side::User { ratings.users.degree(row) } else { ratings.items.degree(row) } > 0) {
            factors.side_mut(side).set(row, &initial_row(1, side, &row.to_string(), params.rank));
        }
    }
    assert_eq!(search(Arch::new(), &ratings, &factors, &weights, 1e-6), None);
}

#[test]
fn nothing_has_no_way_out() {
    let ratings = Ratings::default();
    let weights = Weights::new(&params(Objective::Implicit, 1.0), 0.0);
    assert_eq!(search(Arch::new(), &ratings, &Factors::new(4), &weights, 1e-6), None);
}

#[test]
fn a_model_of_zeros_sees_what_the_data_want() {
    let ratings = world(48, 40);
    for (regularization, leads_on) in [(0.3, true), (500.0, false)] {
        let params = Params { regularization, ..params(Objective::Implicit, 1.0) };
        let weights = Weights::new(&params, 0.0);
        let mut factors = Factors::new(params.rank);
        (0..48).filter(|&row| ratings.users.degree(row) > 0).for_each(|row| factors.users.set(row, &[1e-14; 12]));
        (0..40).filter(|&row| ratings.items.degree(row) > 0).for_each(|row| factors.items.set(row, &[1e-14; 12]));
        let found = search(Arch::new(), &ratings, &factors, &weights, 1e-6).unwrap();
        assert_eq!((found.leads_on(), found.sigma > 1.0), (leads_on, leads_on), "{regularization}: {}", found.sigma);
    }
}

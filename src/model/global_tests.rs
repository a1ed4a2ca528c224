use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::model::dense::{Dense, OBJECTIVES, cold, dense, params, solved, world};
use crate::model::factors::{Side, initial_row};
use crate::model::play::Row;
use crate::model::ratings::Builder;
use crate::model::unlearn::{Unwatched, solve};
use crate::model::{Objective, Params};

fn bound_of(params: &Params, ratings: &Ratings, factors: &Factors, mean: f64) -> (Bound, Dense) {
    let weights = Weights::new(params, mean);
    (bound(Arch::new(), ratings, factors, &weights).unwrap(), dense(params, ratings, factors, &weights))
}

/// After so many sweeps from a cold start.
fn after(params: &Params, ratings: &Arc<Ratings>, sweeps: u32) -> (Factors, f64) {
    let solution = solve(Arch::new(), &cold(&Params { max_sweeps: sweeps, ..params.clone() }, ratings), &Unwatched).unwrap();
    (solution.factors, solution.mean)
}

#[test]
fn sigma_and_gap_are_those_of_the_dense_gradient() {
    // Users on the larger side and items, and more rows on the smaller side than fit one tile.
    for (users, items) in [(48, 40), (40, 48), (230, 260)] {
        let ratings = world(users, items);
        for objective in OBJECTIVES {
            for exponent in [0.0, 0.5, 1.0] {
                let params = params(objective, exponent);
                for sweeps in [1, 4, 2_000] {
                    let (factors, mean) = after(&params, &ratings, sweeps);
                    let (bound, dense) = bound_of(&params, &ratings, &factors, mean);
                    let sigma = dense.gradient.singular_values().unwrap()[0].max(1.0);
                    let case = format!("{users} × {items}, {objective:?}, {exponent}, {sweeps}");
                    assert!(bound.sigma >= sigma && bound.sigma < sigma * (1.0 + GAP), "{case}: {} {sigma}", bound.sigma);
                    let primal = dense.loss + dense.penalty;
                    let gap = primal - dense.dual(1.0 / bound.sigma);
                    assert!((bound.gap - gap).abs() < 1e-10 * primal, "{case}: {} {gap}", bound.gap);
                }
            }
        }
    }
}

#[test]
fn no_factors_are_further_above_the_optimum_than_the_gap_says() {
    let ratings = world(48, 40);
    for objective in OBJECTIVES {
        for exponent in [0.0, 0.5, 1.0] {
            let params = Params { tolerance: 1e-12, ..params(objective, exponent) };
            let best = solved(&params, &ratings);
            let (_, optimum) = bound_of(&params, &ratings, &best.factors, best.mean);
            for (rank, sweeps) in [(12, 1), (12, 2), (12, 6), (12, 30), (2, 2_000), (20, 2)] {
                let (factors, mean) = after(&Params { rank, ..params.clone() }, &ratings, sweeps);
                let (bound, here) = bound_of(&params, &ratings, &factors, mean);
                let above = here.loss + here.penalty - optimum.loss - optimum.penalty;
                let apart = here.pairs.iter().zip(&optimum.pairs).map(|(here, best)| here[0] * (here[2] - best[2]).powi(2)).sum::<f64>();
                let case = format!("{objective:?}, {exponent}, rank {rank}, {sweeps} sweeps");
                assert!(above <= bound.gap && apart <= bound.gap, "{case}: {above}, {apart}, {}", bound.gap);
            }
        }
    }
}

#[test]
fn the_optimum_is_proven_and_a_saddle_is_not() {
    let ratings = world(48, 40);
    for objective in OBJECTIVES {
        let params = params(objective, 1.0);
        let best = solved(&params, &ratings);
        let (proven, _) = bound_of(&params, &ratings, &best.factors, best.mean);
        assert!(proven.gap < 1e-7 * best.measured.objective && proven.sigma < 1.0 + 1e-6, "{objective:?}: {proven:?}");
        // All of the strongest direction of both sides is gone: with it alternation cannot come back.
        let mut saddle = best.factors.clone();
        let k = params.rank;
        let gram = crate::model::subspace::dense_gram(Arch::new(), &saddle.items, &vec![1.0; saddle.items.len()])
            .self_adjoint_eigen(Triangle::Lower)
            .unwrap();
        for side in Side::BOTH {
            for row in saddle.side_mut(side).values_mut().chunks_exact_mut(k) {
                let share: f64 = (0..k).map(|i| row[i] * gram.U()[(i, k - 1)]).sum();
                (0..k).for_each(|i| row[i] -= share * gram.U()[(i, k - 1)]);
            }
        }
        let (bound, _) = bound_of(&params, &ratings, &saddle, best.mean);
        assert!(bound.sigma > 1.1 && bound.gap > 0.01 * best.measured.objective, "{objective:?}: {bound:?}");
    }
}

#[test]
fn what_is_above_has_no_factorisation() {
    let ratings = world(230, 260);
    let params = params(Objective::Implicit, 1.0);
    let (factors, mean) = after(&params, &ratings, 2);
    let weights = Weights::new(&params, mean);
    let sigma = dense(&params, &ratings, &factors, &weights).gradient.singular_values().unwrap()[0];
    let product = Scaled::new(&ratings, &factors, &weights).product(Arch::new());
    let squared = |t: f64| t * t;
    assert!(!positive_definite(&product, squared(sigma * (1.0 - 1e-11))) && positive_definite(&product, squared(sigma * (1.0 + 1e-11))));
}

#[test]
fn threads_do_not_show_in_a_bound() {
    let ratings = world(230, 260);
    for objective in OBJECTIVES {
        let params = params(objective, 1.0);
        let (factors, mean) = after(&params, &ratings, 3);
        let weights = Weights::new(&params, mean);
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| bound(Arch::new(), &ratings, &factors, &weights).unwrap())
        };
        assert_eq!(with(1), with(3), "{objective:?}");
    }
}

#[test]
fn too_large_a_side_is_refused_by_name() {
    let rows = LIMIT as u32 + 1;
    let mut builder = Builder::default();
    let mut factors = Factors::new(1);
    for row in 0..rows {
        builder.push(row, &Row { columns: [row].into(), values: [1.0].into(), interactions: 1 });
        Side::BOTH.into_iter().for_each(|side| factors.side_mut(side).set(row as usize, &[0.1]));
    }
    let weights = Weights::new(&params(Objective::Implicit, 1.0), 0.0);
    let refused = bound(Arch::new(), &builder.finish(), &factors, &weights).unwrap_err();
    assert_eq!(refused.to_string(), "20001 rows on the smaller side; the limit is 20000");
}

#[test]
fn nothing_has_no_gap() {
    let params = params(Objective::Implicit, 1.0);
    let (bound, _) = bound_of(&params, &Ratings::default(), &Factors::new(4), 0.0);
    assert!(bound.gap == 0.0 && bound.sigma < 1.0 + GAP, "{bound:?}");
}

#[test]
fn a_model_of_zeros_is_proven_when_the_data_want_no_more() {
    let ratings = world(48, 40);
    for objective in OBJECTIVES {
        let params = Params { regularization: 500.0, ..params(objective, 1.0) };
        let dead = solved(&params, &ratings);
        let (bound, _) = bound_of(&params, &ratings, &dead.factors, dead.mean);
        assert!(bound.gap <= GAP * dead.measured.objective, "{objective:?}: {bound:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    /// Wherever the factors are and however far the weights are apart: what is answered is above the truth.
    #[test]
    fn bounds_hold_for_any_scaling(
        explicit: bool,
        exponent in 0.0f64..2.0,
        regularization in -6.0f64..6.0,
        unobserved in -9.0f64..3.0,
        alpha in -6.0f64..6.0,
        length in -6.0f64..6.0,
        cells in prop::collection::vec((0u32..12, 0u32..15, -6.0f32..6.0), 1..60),
    ) {
        let cells: std::collections::BTreeMap<(u32, u32), f32> = cells.into_iter().map(|(u, i, r)| ((u, i), 10f32.powf(r))).collect();
        let mut builder = Builder::default();
        for user in 0..12 {
            let row: Vec<_> = cells.range((user, 0)..(user + 1, 0)).collect();
            let (columns, values) = (row.iter().map(|((_, item), _)| *item).collect(), row.iter().map(|(_, value)| **value).collect());
            builder.push(user, &Row { columns, values, interactions: 1 });
        }
        let ratings = builder.finish();
        let params = Params {
            regularization: 10f64.powf(regularization),
            regularization_exp: exponent,
            alpha: 10f64.powf(alpha),
            unobserved_weight: 10f64.powf(unobserved),
            ..params(OBJECTIVES[usize::from(explicit)], 1.0)
        };
        let mut factors = Factors::new(params.rank);
        for side in Side::BOTH {
            let rows = if side == Side::User { &ratings.users } else { &ratings.items };
            factors.side_mut(side).grow(rows.len());
            for row in (0..rows.len()).filter(|&row| rows.degree(row) > 0) {
                let values: Vec<f64> = initial_row(1, side, &row.to_string(), params.rank).iter().map(|x| x * 10f64.powf(length)).collect();
                factors.side_mut(side).set(row, &values);
            }
        }
        let weights = Weights::new(&params, if explicit { ratings.mean() } else { 0.0 });
        if let Ok(bound) = bound(Arch::new(), &ratings, &factors, &weights) {
            let dense = dense(&params, &ratings, &factors, &weights);
            let sigma = dense.gradient.singular_values().unwrap()[0];
            prop_assert!(bound.sigma >= sigma * (1.0 - 1e-14), "{} {sigma}", bound.sigma);
            let (primal, theta) = (dense.loss + dense.penalty, (1.0 / bound.sigma).min(1.0));
            let gap = primal - dense.dual(theta);
            prop_assert!(bound.gap >= gap - 1e-13 * primal, "{} {gap} {primal}", bound.gap);
        }
    }
}

use std::sync::Arc;

use super::*;
use crate::model::certificate::measure;
use crate::model::dense::{Dense, OBJECTIVES, dense, params, solved, world};
use crate::model::factors::Side;
use crate::model::subspace::dense_gram;
use crate::model::{Objective, Params};

fn trained(params: &Params, ratings: &Arc<Ratings>) -> (Factors, Weights) {
    let solution = solved(params, ratings);
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

/// σ_max of M̃ beside the span of the factors, dense.
fn sigma_by_hand(params: &Params, ratings: &Ratings, factors: &Factors, weights: &Weights) -> f64 {
    let Dense { gradient, lambdas, .. } = dense(params, ratings, factors, weights);
    let outside = |table: &Table, lambdas: &[f64]| {
        let rows: Vec<usize> = table.rows().collect();
        let scaled = Mat::from_fn(rows.len(), table.rank(), |i, j| table.raw(rows[i])[j] * lambdas[i].sqrt());
        let svd = scaled.thin_svd().unwrap();
        let used = (0..table.rank()).filter(|&at| svd.S()[at] > 1e-3 * svd.S()[0]).count();
        let basis = svd.U().subcols(0, used);
        Mat::<f64>::identity(rows.len(), rows.len()) - basis * basis.transpose()
    };
    let beside = outside(&factors.users, &lambdas[0]) * gradient * outside(&factors.items, &lambdas[1]);
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

/// One pass over the pairs does what two do, also where the factors are not stationary: there it shows whether directions are
/// taken out on the way.
#[test]
fn a_product_in_one_pass_is_that_of_two() {
    let ratings = world(48, 40);
    for objective in OBJECTIVES {
        let (mut factors, weights) = trained(&params(objective, 1.0), &ratings);
        for side in Side::BOTH {
            let values = factors.side_mut(side).values_mut().iter_mut().enumerate();
            values.for_each(|(at, value)| *value *= 1.0 + 0.1 * ((at + side as usize) as f64).sin());
        }
        let gradient = Gradient::new(Arch::new(), &ratings, &factors, &weights);
        let directions = Directions::new(Arch::new(), &factors, &gradient).unwrap();
        let across = [Some(Across::new(&gradient, &directions.half[0])), Some(Across::default()), None];
        let [one, none, two] = across.map(|across| {
            let complement = Complement { gradient: &gradient, directions: &directions, across };
            let mut x = gradient.start();
            complement.project(1, &mut x);
            complement.normal(&x)
        });
        let apart = |a: &[f64]| (a.iter().zip(&two).map(|(a, b)| (a - b).powi(2)).sum::<f64>() / lanczos::inner(&two, &two)).sqrt();
        assert!(apart(&one) < 1e-12 && apart(&none) > 1e-3, "{objective:?}: {} {}", apart(&one), apart(&none));
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
    let params = params(Objective::Implicit, 1.0);
    // Few directions in use, and many.
    for params in [params.clone(), Params { rank: 48, regularization: params.regularization / 4.0, ..params }] {
        let (optimum, weights) = trained(&params, &ratings);
        let factors = without(&ratings, optimum, &weights, 1);
        let gradient = Gradient::new(Arch::new(), &ratings, &factors, &weights);
        let used = Directions::new(Arch::new(), &factors, &gradient).unwrap().half[0].ncols();
        assert_eq!(used > FEW, params.rank == 48, "{used}");
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| search(Arch::new(), &ratings, &factors, &weights, 1e-10).unwrap())
        };
        let (found, by_hand) = (with(1), sigma_by_hand(&params, &ratings, &factors, &weights));
        assert_eq!(found, with(3), "{used}");
        assert!(found.leads_on() && (found.sigma / by_hand - 1.0).abs() < 1e-7, "{used}: {} {by_hand}", found.sigma);
    }
}

#[test]
fn a_rank_that_binds_has_a_sigma_and_no_way() {
    let ratings = world(48, 40);
    for objective in OBJECTIVES {
        let params = Params { rank: 2, ..params(objective, 1.0) };
        let solution = solved(&params, &ratings);
        let weights = Weights::new(&params, solution.mean);
        let found = search(Arch::new(), &ratings, &solution.factors, &weights, params.tolerance).unwrap();
        let by_hand = sigma_by_hand(&params, &ratings, &solution.factors, &weights);
        assert!(found.binds && found.missing > 0 && !found.leads_on(), "{objective:?}: {found:?}");
        assert!((found.sigma / by_hand - 1.0).abs() < 1e-8 && found.sigma > 1.1, "{objective:?}: {} {by_hand}", found.sigma);
    }
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

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::model::factors::initial_row;
use crate::model::play::Row;
use crate::model::ratings::Builder;

type Pairs = BTreeMap<u32, BTreeMap<u32, f32>>;

fn params(objective: Objective) -> Params {
    Params {
        objective,
        rank: 16,
        regularization: if objective == Objective::Implicit { 0.3 } else { 0.4 },
        regularization_exp: 1.0,
        alpha: 1.0,
        unobserved_weight: 0.1,
        tolerance: 1e-9,
        certify: Certify::Residual,
        max_sweeps: 5_000,
        seed: 1,
        threads: 0,
    }
}

fn ratings(pairs: &Pairs) -> Arc<Ratings> {
    let mut builder = Builder::default();
    for (user, row) in pairs {
        let (columns, values) = (row.keys().copied().collect(), row.values().copied().collect());
        builder.push(*user, &Row { columns, values, interactions: row.len() as u32 });
    }
    Arc::new(builder.finish())
}

fn cold(params: &Params, ratings: &Arc<Ratings>) -> Problem {
    let initial = (0..ratings.items.len())
        .filter(|&item| ratings.items.degree(item) > 0)
        .map(|item| (item as u32, initial_row(params.seed, Side::Item, &item.to_string(), params.rank)))
        .collect();
    Problem { params: params.clone(), ratings: ratings.clone(), previous: None, initial }
}

/// `(Σ (a − b)² / Σ b²)^½` over all predictions.
fn distance(a: &Factors, b: &Factors) -> f64 {
    let predict = |f: &Factors, u: usize, i: usize| -> f64 { f.users.raw(u).iter().zip(f.items.raw(i)).map(|(x, y)| x * y).sum() };
    let (mut gap, mut size) = (0.0, 1e-30);
    for u in b.users.rows() {
        for i in b.items.rows() {
            let (x, y) = (predict(a, u, i), predict(b, u, i));
            gap += (x - y) * (x - y);
            size += y * y;
        }
    }
    f64::sqrt(gap / size)
}

/// The objective by its definition, pair by pair.
fn objective_by_hand(params: &Params, pairs: &Pairs, solution: &Solution) -> f64 {
    let f = &solution.factors;
    let mut sum = 0.0;
    for u in f.users.rows() {
        for i in f.items.rows() {
            let x: f64 = f.users.raw(u).iter().zip(f.items.raw(i)).map(|(x, y)| x * y).sum();
            let r = pairs.get(&(u as u32)).and_then(|row| row.get(&(i as u32))).map(|&r| f64::from(r));
            sum += match (params.objective, r) {
                (Objective::Implicit, Some(r)) => (params.unobserved_weight + params.alpha * r) * (1.0 - x) * (1.0 - x),
                (Objective::Implicit, None) => params.unobserved_weight * x * x,
                (Objective::Explicit, Some(r)) => (r - solution.mean - x) * (r - solution.mean - x),
                (Objective::Explicit, None) => 0.0,
            };
        }
    }
    let a0 = if params.objective == Objective::Implicit { params.unobserved_weight } else { 0.0 };
    for (table, other, degree) in [
        (&f.users, &f.items, &(|row: usize| pairs[&(row as u32)].len()) as &dyn Fn(usize) -> usize),
        (&f.items, &f.users, &|row: usize| pairs.values().filter(|items| items.contains_key(&(row as u32))).count()),
    ] {
        for row in table.rows() {
            let weight = (degree(row) as f64 + a0 * other.count() as f64).powf(params.regularization_exp);
            sum += params.regularization * weight * table.raw(row).iter().map(|x| x * x).sum::<f64>();
        }
    }
    sum
}

fn world(users: u32, items: u32) -> Pairs {
    let mut pairs = Pairs::new();
    for u in 0..users {
        for i in 0..items {
            let draw = blake3::hash(&[u.to_le_bytes(), i.to_le_bytes()].concat());
            let draw = u32::from_le_bytes([draw.as_bytes()[0], draw.as_bytes()[1], 0, 0]);
            if draw % 100 < if u % 3 == i % 3 { 45 } else { 8 } {
                pairs.entry(u).or_default().insert(i, 1.0 + (draw % 5) as f32);
            }
        }
    }
    pairs
}

fn warm(params: &Params, ratings: &Arc<Ratings>, from: Factors) -> Problem {
    Problem { params: params.clone(), ratings: ratings.clone(), previous: Some(Arc::new(from)), initial: Vec::new() }
}

const OBJECTIVES: [Objective; 2] = [Objective::Implicit, Objective::Explicit];

#[test]
fn the_certificate_is_the_definition() {
    for objective in OBJECTIVES {
        let (params, pairs) = (params(objective), world(40, 30));
        let solution = solve(Arch::new(), &cold(&params, &ratings(&pairs)), &Unwatched).unwrap();
        assert!(solution.measured.residual <= params.tolerance, "{objective:?}: {:?}", solution.measured);
        let by_hand = objective_by_hand(&params, &pairs, &solution);
        assert!((solution.measured.objective / by_hand - 1.0).abs() < 1e-12, "{} {by_hand}", solution.measured.objective);
    }
}

#[test]
fn seeds_meet_when_the_rank_does_not_bind() {
    for objective in OBJECTIVES {
        let (params, pairs) = (params(objective), world(60, 40));
        let one = solve(Arch::new(), &cold(&params, &ratings(&pairs)), &Unwatched).unwrap();
        let two = solve(Arch::new(), &cold(&Params { seed: 2, ..params.clone() }, &ratings(&pairs)), &Unwatched).unwrap();
        let apart = distance(&one.factors, &two.factors);
        assert!(one.effective_rank < Some(params.rank) && apart < 1e-7, "{objective:?}: rank {:?}, {apart}", one.effective_rank);
        for sigma in [one.sigma, two.sigma] {
            assert!(sigma.is_some_and(|sigma| sigma < 1.0 + 1e-6), "{objective:?}: {sigma:?}");
        }
    }
}

#[test]
fn threads_do_not_show() {
    let params = params(Objective::Implicit);
    let problem = cold(&params, &ratings(&world(300, 90)));
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| solve(Arch::new(), &problem, &Unwatched).unwrap())
    };
    let (one, three) = (with(1), with(3));
    assert_eq!(one.factors, three.factors);
    assert_eq!(one.measured, three.measured);
}

#[test]
fn every_instruction_set_reaches_the_tolerance() {
    let problem = cold(&params(Objective::Implicit), &ratings(&world(40, 30)));
    let here = solve(Arch::new(), &problem, &Unwatched).unwrap();
    let portable = solve(Arch::Scalar, &problem, &Unwatched).unwrap();
    assert!(portable.measured.residual <= problem.params.tolerance);
    assert!(distance(&here.factors, &portable.factors) < 1e-7);
}

#[test]
fn an_unchanged_model_needs_no_sweep() {
    let params = params(Objective::Implicit);
    let ratings = ratings(&world(40, 30));
    let trained = solve(Arch::new(), &cold(&params, &ratings), &Unwatched).unwrap();
    let again = solve(Arch::new(), &warm(&params, &ratings, trained.factors.clone()), &Unwatched).unwrap();
    assert_eq!((again.sweeps, again.factors), (0, trained.factors));
}

/// Notes what of the objective's fall was on trust.
#[derive(Default)]
struct OnTrust(std::sync::Mutex<Vec<f64>>);

impl Watch for OnTrust {
    fn swept(&self, _: u32, _: f64) {}

    fn eliminated(&self, _: f64, on_trust: f64) {
        self.0.lock().unwrap().push(on_trust);
    }
}

/// A later sweep goes on with what an earlier one factorised; the first has nothing to go on with.
#[test]
fn sweeps_go_on_with_kept_factorisations() {
    for objective in OBJECTIVES {
        let (params, pairs) = (params(objective), world(40, 30));
        let trained = solve(Arch::new(), &cold(&params, &ratings(&pairs)), &Unwatched).unwrap();
        let mut left = pairs.clone();
        left.remove(&3);
        left.get_mut(&4).unwrap().pop_first();
        let watch = OnTrust::default();
        let solution = solve(Arch::new(), &warm(&params, &ratings(&left), trained.factors), &watch).unwrap();
        assert!(solution.measured.residual <= params.tolerance && solution.sweeps > 3, "{objective:?}: {}", solution.sweeps);
        let on_trust = watch.0.into_inner().unwrap();
        assert_eq!(on_trust[0], 0.0, "{objective:?}: {on_trust:?}");
        let went_on = on_trust.iter().filter(|fell| **fell > 0.0).count();
        assert!(2 * went_on > on_trust.len(), "{objective:?}: {on_trust:?}");
    }
}

#[test]
fn odd_data_converges() {
    let lone: Pairs = [(0, [(0, 1.0)].into())].into();
    let equal: Pairs = (0..9).map(|u| (u, (0..4).map(|i| (i, 3.0)).collect())).collect();
    let far: Pairs = [(0, [(0, 1e12), (1, 1e-12)].into()), (1, [(1, 1e-12), (2, 1.0)].into())].into();
    let silent: Pairs = [(0, [(0, 0.0)].into()), (1, [(0, 0.0), (1, 2.0)].into())].into();
    for objective in OBJECTIVES {
        for (name, pairs) in [("none", &Pairs::new()), ("one", &lone), ("equal", &equal), ("far", &far), ("0", &silent)] {
            let params = Params { rank: 20, tolerance: 1e-8, ..params(objective) };
            let solution = solve(Arch::new(), &cold(&params, &ratings(pairs)), &Unwatched).unwrap();
            assert!(solution.measured.residual <= 1e-8, "{objective:?}, {name}: {:?}", solution.measured);
            assert!(solution.factors.users.values().iter().all(|x| x.is_finite()));
        }
    }
}

#[test]
fn a_collapsing_model_ends_at_zero() {
    let params = Params { regularization: 500.0, ..params(Objective::Implicit) };
    let solution = solve(Arch::new(), &cold(&params, &ratings(&world(20, 10))), &Unwatched).unwrap();
    assert!(solution.measured.residual <= params.tolerance && solution.sweeps < 500, "{:?}", solution.measured);
}

#[test]
fn a_lost_regularization_names_the_row() {
    let params = Params { regularization: 1e-300, unobserved_weight: 1e-300, ..params(Objective::Implicit) };
    let failed = solve(Arch::new(), &cold(&params, &ratings(&world(6, 5))), &Unwatched).unwrap_err();
    assert!(failed.to_string().contains("row"), "{failed}");
}

/// The trained optimum has rank 5 and the remaining data ask for 6: from the trained factors plain alternation
/// converges to the best of rank 5, 3.5e-3 away, with a residual as small as one likes.
#[test]
fn a_saddle_is_not_taken_for_the_optimum_after_a_forget() {
    for user in [17, 21] {
        let params = params(Objective::Implicit);
        let mut pairs = world(40, 30);
        let trained = solve(Arch::new(), &cold(&params, &ratings(&pairs)), &Unwatched).unwrap();
        pairs.remove(&user);
        let remaining = ratings(&pairs);
        let problem = warm(&params, &remaining, trained.factors);
        let mut plain = Run::new(Arch::new(), &problem, 0.0, DEPTH);
        let saddle = plain.settle(params.tolerance, &Unwatched, &mut Vec::new()).unwrap();
        let unlearned = solve(Arch::new(), &problem, &Unwatched).unwrap();
        let retrained = solve(Arch::new(), &cold(&Params { seed: 7, ..params.clone() }, &remaining), &Unwatched).unwrap();
        assert!(
            saddle.residual <= params.tolerance && saddle.objective > unlearned.measured.objective * (1.0 + 1e-6),
            "{user}: {saddle:?}"
        );
        assert!((unlearned.measured.objective / retrained.measured.objective - 1.0).abs() < 1e-12, "{user}: {:?}", unlearned.measured);
        assert_eq!((trained.effective_rank, unlearned.effective_rank, retrained.effective_rank), (Some(5), Some(6), Some(6)));
        let apart = distance(&unlearned.factors, &retrained.factors);
        assert!(apart < 1e-7 && unlearned.sigma.is_some_and(|sigma| sigma < 1.0), "{user}: {apart}, {:?}", unlearned.sigma);
    }
}

/// What an unlearned model of few directions is solved in, also when items come that it does not know, and when users and
/// items come that need a direction of their own.
#[test]
fn new_rows_need_no_more_directions_than_they_bring() {
    let params = Params { rank: 40, ..params(Objective::Implicit) };
    let mut pairs = world(40, 30);
    let trained = solve(Arch::new(), &cold(&params, &ratings(&pairs)), &Unwatched).unwrap();
    for user in 40..52 {
        pairs.insert(user, (30..38).filter(|item| (user + item) % 3 > 0).map(|item| (item, 2.0)).collect());
    }
    let grown = ratings(&pairs);
    let first = |item: u32| (item, initial_row(params.seed, Side::Item, &item.to_string(), params.rank));
    let problem = Problem { initial: (30..38).map(first).collect(), ..warm(&params, &grown, trained.factors) };
    let run = Run::new(Arch::new(), &problem, 0.0, DEPTH);
    assert_eq!(run.subspace().map(|subspace| subspace.width()), Some(16));
    let learned = solve(Arch::new(), &problem, &Unwatched).unwrap();
    let retrained = solve(Arch::new(), &cold(&params, &grown), &Unwatched).unwrap();
    let taste: f64 = learned.factors.users.raw(41).iter().zip(learned.factors.items.raw(30)).map(|(x, y)| x * y).sum();
    assert!(taste > 0.3, "{taste}");
    assert!(learned.measured.residual <= params.tolerance && distance(&learned.factors, &retrained.factors) < 1e-6);
    // What was measured along the directions in use holds for all of them.
    let whole = measure(Arch::new(), &grown, &learned.factors, &Weights::new(&params, 0.0));
    assert!((whole.residual - learned.measured.residual).abs() < 1e-12, "{whole:?} {:?}", learned.measured);
    assert!((whole.objective / learned.measured.objective - 1.0).abs() < 1e-12);
    // Where the rounding of the turn may tell, the whole is what is measured, to the bit.
    let tight = Problem { params: Params { tolerance: 1e-11, ..params.clone() }, ..problem };
    let learned = solve(Arch::new(), &tight, &Unwatched).unwrap();
    assert!(learned.sweeps > 0 && learned.measured.residual <= 1e-11);
    assert_eq!(learned.measured, measure(Arch::new(), &grown, &learned.factors, &Weights::new(&params, 0.0)));
}

/// σ = 1.00002: put at its best weight alone, half of the final one, the direction died again and again, for thousands
/// of sweeps.
#[test]
fn a_nearly_flat_way_out_of_a_saddle_is_taken_once() {
    let params = Params { regularization: 3.0, regularization_exp: 0.0, seed: 0, ..params(Objective::Implicit) };
    let mut pairs = world(40, 30);
    let trained = solve(Arch::new(), &cold(&params, &ratings(&pairs)), &Unwatched).unwrap();
    pairs.remove(&32);
    let remaining = ratings(&pairs);
    let unlearned = solve(Arch::new(), &warm(&params, &remaining, trained.factors), &Unwatched).unwrap();
    let retrained = solve(Arch::new(), &cold(&params, &remaining), &Unwatched).unwrap();
    assert!(
        unlearned.sweeps < 150 && unlearned.sigma.is_some_and(|sigma| sigma < 1.0 + 2e-6),
        "{} {:?}",
        unlearned.sweeps,
        unlearned.sigma
    );
    assert!((unlearned.measured.objective / retrained.measured.objective - 1.0).abs() < 1e-12, "{:?}", unlearned.measured);
}

#[test]
fn a_model_that_died_lives_again() {
    for objective in OBJECTIVES {
        let (params, ratings) = (params(objective), ratings(&world(40, 30)));
        let dead = solve(Arch::new(), &cold(&Params { regularization: 500.0, ..params.clone() }, &ratings), &Unwatched).unwrap();
        assert!(dead.sigma.is_some_and(|sigma| sigma < 1.0) && dead.effective_rank == Some(0), "{:?}", dead.sigma);
        let risen = solve(Arch::new(), &warm(&params, &ratings, dead.factors), &Unwatched).unwrap();
        let trained = solve(Arch::new(), &cold(&params, &ratings), &Unwatched).unwrap();
        assert!(distance(&risen.factors, &trained.factors) < 1e-7, "{objective:?}: {:?} {:?}", risen.measured, trained.measured);
    }
}

#[test]
fn an_unfinished_solve_certifies_nothing() {
    let params = Params { max_sweeps: 4, ..params(Objective::Implicit) };
    let solution = solve(Arch::new(), &cold(&params, &ratings(&world(40, 30))), &Unwatched).unwrap();
    assert!(solution.measured.residual > params.tolerance);
    assert_eq!((solution.sweeps, solution.trace.len(), solution.sigma), (4, 4, None));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Forgetting from trained factors arrives where training without the forgotten arrives.
    #[test]
    fn unlearned_is_retrained(
        seed in 0u64..1000,
        explicit: bool,
        exponent in prop::sample::select(vec![0.0, 0.5, 1.0]),
        // With 40, sweeps are among the directions in use alone, 16 at the most of them.
        rank in prop::sample::select(vec![16, 40]),
        forgotten in prop::collection::vec((0u32..40, prop::option::of(0u32..30)), 1..6),
    ) {
        let objective = OBJECTIVES[usize::from(explicit)];
        let base = params(objective);
        // About the same λ of a middling row for every exponent.
        let regularization = base.regularization * 10f64.powf(1.0 - exponent);
        let params = Params { rank, seed, regularization, regularization_exp: exponent, ..base };
        let mut pairs = world(40, 30);
        let trained = solve(Arch::new(), &cold(&params, &ratings(&pairs)), &Unwatched).unwrap();
        for (user, item) in forgotten {
            match item {
                None => drop(pairs.remove(&user)),
                Some(item) => pairs.get_mut(&user).map(|row| row.remove(&item)).map_or((), drop),
            }
        }
        let remaining = ratings(&pairs);
        let unlearned = solve(Arch::new(), &warm(&params, &remaining, trained.factors), &Unwatched).unwrap();
        let retrained = solve(Arch::new(), &cold(&Params { seed: seed + 1, ..params.clone() }, &remaining), &Unwatched).unwrap();
        prop_assert!(unlearned.measured.residual <= params.tolerance);
        prop_assert!(unlearned.sigma.is_some_and(|sigma| sigma < 1.0 + 2e-6), "{:?}", unlearned.sigma);
        let apart = distance(&unlearned.factors, &retrained.factors);
        prop_assert!(apart < 1e-5, "relative RMS {}, rank {:?}", apart, retrained.effective_rank);
    }
}

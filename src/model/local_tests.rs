use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::model::als::{Half, half_sweep};
use crate::model::certificate::measure;
use crate::model::factors::initial_row;
use crate::model::play::Row;
use crate::model::ratings::{Builder, Refresh};
use crate::model::unlearn::{Problem, Unwatched, solve};

type Pairs = BTreeMap<u32, BTreeMap<u32, f32>>;

fn params(objective: Objective) -> Params {
    Params {
        objective,
        rank: 8,
        regularization: if objective == Objective::Implicit { 0.3 } else { 0.4 },
        regularization_exp: 1.0,
        alpha: 1.0,
        unobserved_weight: 0.1,
        tolerance: 1e-11,
        certify: crate::model::Certify::Residual,
        max_sweeps: 5_000,
        seed: 1,
        threads: 0,
    }
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

fn row(pairs: &BTreeMap<u32, f32>) -> Row {
    Row { columns: pairs.keys().copied().collect(), values: pairs.values().copied().collect(), interactions: pairs.len() as u32 }
}

fn ratings(pairs: &Pairs) -> Ratings {
    let mut builder = Builder::default();
    pairs.iter().for_each(|(user, pairs)| builder.push(*user, &row(pairs)));
    builder.finish()
}

fn initial(params: &Params, ratings: &Ratings) -> Vec<(u32, Vec<f64>)> {
    (0..ratings.items.len())
        .filter(|&item| ratings.items.degree(item) > 0)
        .map(|item| (item as u32, initial_row(params.seed, Side::Item, &item.to_string(), params.rank)))
        .collect()
}

/// Certified factors of some data, and what comes after a change to them.
struct Scene {
    params: Params,
    before: Factors,
    base: Base,
    ratings: Ratings,
    changes: Vec<Change>,
    initial: Vec<(u32, Vec<f64>)>,
}

impl Scene {
    fn new(params: Params, pairs: &Pairs, after: &Pairs) -> Scene {
        let ratings = ratings(pairs);
        let problem =
            Problem { params: params.clone(), ratings: Arc::new(ratings.clone()), previous: None, initial: initial(&params, &ratings) };
        let solution = solve(Arch::new(), &problem, &Unwatched).unwrap();
        let empty = BTreeMap::new();
        let users: std::collections::BTreeSet<u32> = pairs.keys().chain(after.keys()).copied().collect();
        let mut refresh = Refresh::new(Arc::new(ratings));
        for user in users.into_iter().filter(|user| pairs.get(user) != after.get(user)) {
            refresh.put(user, row(after.get(&user).unwrap_or(&empty)));
        }
        let (ratings, changes) = refresh.finish();
        let (ratings, changes) = (Arc::unwrap_or_clone(ratings), changes.listed().unwrap().to_vec());
        let base = Base::of(Arch::new(), &solution.factors, solution.mean);
        let initial = initial(&params, &ratings);
        Scene { params, before: solution.factors, base, ratings, changes, initial }
    }

    fn step(&self) -> Step<'_> {
        let Scene { params, before, base, ratings, changes, initial } = self;
        Step { params, ratings, before, base, changes, initial }
    }

    fn weights(&self) -> Weights {
        Weights::new(&self.params, if self.params.objective == Objective::Explicit { self.ratings.mean() } else { 0.0 })
    }

    fn optimum(&self) -> Factors {
        let previous = Some(Arc::new(self.before.clone()));
        let problem = Problem {
            params: self.params.clone(),
            ratings: Arc::new(self.ratings.clone()),
            previous,
            initial: self.initial.iter().filter(|(item, _)| !self.before.items.is_live(*item as usize)).cloned().collect(),
        };
        solve(Arch::new(), &problem, &Unwatched).unwrap().factors
    }

    /// The factors of before without the rows that have no data left.
    fn deleted(&self) -> Factors {
        let mut factors = self.before.clone();
        for (table, rows) in [(&mut factors.users, &self.ratings.users), (&mut factors.items, &self.ratings.items)] {
            (0..table.len()).filter(|&row| rows.degree(row) == 0).for_each(|row| table.remove(row));
        }
        factors
    }
}

/// Items solved exactly for the users at hand.
fn items_solved(scene: &Scene, factors: &Factors) -> Table {
    let weights = scene.weights();
    let half = Half { side: Side::Item, rows: &scene.ratings.items, fixed: &factors.users, weights: &weights };
    let mut items = factors.items.clone();
    half_sweep(Arch::new(), half, super::super::als::Precision::Double, &mut items, factors.users.count()).unwrap();
    items
}

fn distance(a: &Factors, b: &Factors) -> f64 {
    let predict = |f: &Factors, u: usize, i: usize| -> f64 {
        f.users.row(u).zip(f.items.row(i)).map_or(0.0, |(x, y)| x.iter().zip(y).map(|(x, y)| x * y).sum())
    };
    let (mut gap, mut size) = (0.0, 0.0);
    for u in b.users.rows() {
        for i in b.items.rows() {
            gap += (predict(a, u, i) - predict(b, u, i)).powi(2);
            size += predict(b, u, i).powi(2);
        }
    }
    f64::sqrt(gap / size)
}

/// Somebody leaves, somebody drops an item, somebody changes a value, a stranger comes with something new.
fn changed(pairs: &Pairs, salt: u32) -> Pairs {
    let mut after = pairs.clone();
    after.remove(&(salt % 40));
    if let Some(row) = after.get_mut(&((salt + 1) % 40)) {
        row.pop_first();
    }
    if let Some(value) = after.get_mut(&((salt + 2) % 40)).and_then(|row| row.values_mut().next()) {
        *value += 1.0;
    }
    after.insert(45, [(salt % 30, 2.0), (33, 4.0)].into());
    after
}

const OBJECTIVES: [Objective; 2] = [Objective::Implicit, Objective::Explicit];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    /// What the residual of a touched item is known to be is what it is: with its own normal matrix the item ends where
    /// a solve from scratch ends, whatever happened to its users meanwhile.
    #[test]
    fn a_touched_item_is_solved_as_from_scratch(salt in 0u32..1000, exponent in prop::sample::select(vec![0.0, 0.5, 1.0])) {
        let pairs = world(40, 30);
        let params = Params { regularization_exp: exponent, ..params(Objective::Implicit) };
        let scene = Scene::new(params, &pairs, &changed(&pairs, salt));
        let local = step(scene.step()).unwrap();
        prop_assert_eq!(local.corrected, 0);
        let mut factors = scene.before.clone();
        local.apply(&mut factors);
        prop_assert_eq!(local.rows(Side::Item), Touched::of(&scene.changes).items);
        let exact = items_solved(&scene, &factors);
        for row in local.rows(Side::Item) {
            let (x, y) = (factors.items.raw(row as usize), exact.raw(row as usize));
            let apart: f64 = x.iter().zip(y).map(|(x, y)| (x - y).powi(2)).sum::<f64>().sqrt();
            prop_assert!(apart < 1e-8, "item {}: {}", row, apart);
        }
    }
}

#[test]
fn rows_follow_their_data() {
    for objective in OBJECTIVES {
        let mut pairs = world(40, 30);
        // Nobody but the one who leaves has item 31.
        pairs.entry(7).or_default().insert(31, 2.0);
        let scene = Scene::new(params(objective), &pairs, &changed(&pairs, 7));
        let local = step(scene.step()).unwrap();
        let mut factors = scene.before.clone();
        local.apply(&mut factors);
        assert!(!factors.users.is_live(7) && factors.users.is_live(45) && !factors.items.is_live(31) && factors.items.is_live(33));
        assert!(factors.users.raw(7).iter().chain(factors.items.raw(31)).all(|&x| x == 0.0), "nothing of what left stays");
        assert!(factors.items.raw(33).iter().any(|&x| x != 0.0), "what only a stranger has is solved for, too");
        assert_eq!(local.mean, scene.weights().mean);
        let untouched = |side, row: usize| !local.rows(side).contains(&(row as u32));
        for side in Side::BOTH {
            for row in (0..scene.before.side(side).len()).filter(|&row| untouched(side, row)) {
                assert_eq!(factors.side(side).row(row), scene.before.side(side).row(row));
            }
        }
    }
}

/// The last numbers of both sides leave, and so much else that the ratings are made anew without them.
#[test]
fn the_last_rows_may_leave() {
    for objective in OBJECTIVES {
        let pairs = world(6, 5);
        let after: Pairs = pairs.iter().take(3).map(|(user, row)| (*user, row.iter().take(2).map(|(i, v)| (*i, *v)).collect())).collect();
        let scene = Scene::new(params(objective), &pairs, &after);
        assert!(scene.ratings.items.len() < scene.before.items.len());
        let mut factors = scene.before.clone();
        step(scene.step()).unwrap().apply(&mut factors);
        for (table, rows) in [(&factors.users, &scene.ratings.users), (&factors.items, &scene.ratings.items)] {
            (0..table.len()).for_each(|row| assert_eq!(table.is_live(row), rows.degree(row) > 0));
        }
    }
}

#[test]
fn it_is_nearer_to_the_optimum_than_leaving_rows_out() {
    for objective in OBJECTIVES {
        let pairs = world(120, 60);
        let mut after = pairs.clone();
        after.remove(&17);
        let scene = Scene::new(params(objective), &pairs, &after);
        let optimum = scene.optimum();
        let local = step(scene.step()).unwrap();
        let mut factors = scene.before.clone();
        local.apply(&mut factors);
        let (left_out, stepped) = (distance(&scene.deleted(), &optimum), distance(&factors, &optimum));
        // The explicit loss asks nothing of most pairs.
        let share = if objective == Objective::Implicit { 0.7 } else { 1.0 };
        assert!(stepped < share * left_out, "{objective:?}: {stepped} {left_out}");
        let weights = scene.weights();
        let objective_of = |factors: &Factors| measure(Arch::new(), &scene.ratings, factors, &weights).objective;
        assert!(objective_of(&factors) < objective_of(&scene.deleted()), "{objective:?}");
    }
}

/// Rows beyond the budget go by the second moment of the other side: not as far, but the right way.
#[test]
fn a_corrected_row_gains_most_of_what_a_solved_one_does() {
    for objective in OBJECTIVES {
        let pairs = world(120, 60);
        let mut after = pairs.clone();
        after.remove(&17);
        let scene = Scene::new(params(objective), &pairs, &after);
        let weights = [Weights::new(&scene.params, scene.base.mean), scene.weights()];
        let touched = Touched::of(&scene.changes);
        let mut users = Patch::default();
        let others = users.removed(&touched.users, &scene.before.users, &scene.ratings.users);
        let events = touched.item_events(&users, &scene.ratings);
        let with = |budget: f64| {
            let held = Held::new(&scene.before.users, &users, &scene.base.grams[0]);
            let phase = Phase { side: Side::Item, rows: &scene.ratings.items, own: &scene.before.items, held, weights, others };
            let solved = phase.run(&events, budget).unwrap();
            let mut factors = scene.deleted();
            solved.rows.iter().for_each(|(row, values)| factors.items.set(*row as usize, values));
            (solved.corrected, measure(Arch::new(), &scene.ratings, &factors, &weights[1]).objective)
        };
        let nothing = measure(Arch::new(), &scene.ratings, &scene.deleted(), &weights[1]).objective;
        let ((all, corrected), (none, solved)) = (with(0.0), with(1e12));
        assert_eq!((all, none), (touched.items.len(), 0));
        assert!(nothing - corrected > 0.8 * (nothing - solved) && corrected >= solved, "{objective:?}: {nothing} {corrected} {solved}");
    }
}

#[test]
fn the_budget_goes_to_the_shortest_rows() {
    let cost = phase::row_flops(10, 4) + phase::row_flops(20, 4) + 1.0;
    assert_eq!(phase::plan(&[30, 10, 20], &[false; 3], 4, cost), [false, true, true]);
    assert_eq!(phase::plan(&[30, 10, 20], &[true, false, false], 4, 0.0), [true, false, false]);
}

#[test]
fn threads_do_not_show() {
    let pairs = world(120, 60);
    let scene = Scene::new(params(Objective::Implicit), &pairs, &changed(&pairs, 3));
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| step(scene.step()).unwrap())
    };
    assert_eq!(with(1), with(3));
}

#[test]
fn far_weights_stay_finite() {
    let far: Pairs = [(0, [(0, 1e12), (1, 1e-12)].into()), (1, [(1, 1e-12), (2, 1.0)].into()), (2, [(0, 1e12)].into())].into();
    for objective in OBJECTIVES {
        let mut after = far.clone();
        after.remove(&0);
        let scene = Scene::new(Params { tolerance: 1e-7, ..params(objective) }, &far, &after);
        let mut factors = scene.before.clone();
        step(scene.step()).unwrap().apply(&mut factors);
        assert!(factors.users.values().iter().chain(factors.items.values()).all(|x| x.is_finite()));
    }
}

#[test]
fn much_is_not_quick() {
    let ratings = ratings(&world(40, 30));
    let change = |n: u32| Change { user: n % 40, item: n % 30, before: None, after: Some(1.0) };
    let changes: Vec<Change> = (0..60_000).map(change).collect();
    assert!(is_quick(&ratings, &changes[..100], 64) && !is_quick(&ratings, &changes, 64));
}

use std::collections::BTreeMap;

use super::*;
use crate::model::certificate::measure;
use crate::model::factors::{Factors, initial_row};
use crate::model::kernel::tests::every_path;
use crate::model::play::Row;
use crate::model::ratings::{Builder, Ratings};

const ALL: [Precision; 3] = [Precision::Single, Precision::Mixed, Precision::Double];
const OBJECTIVES: [Objective; 2] = [Objective::Implicit, Objective::Explicit];

fn params(objective: Objective, rank: usize) -> Params {
    Params {
        objective,
        rank,
        regularization: 0.3,
        regularization_exp: 0.5,
        alpha: 1.0,
        unobserved_weight: 0.1,
        tolerance: 1e-9,
        max_sweeps: 100,
        seed: 1,
        threads: 0,
        certify: Default::default(),
    }
}

fn built(pairs: &BTreeMap<u32, BTreeMap<u32, f32>>) -> Ratings {
    let mut builder = Builder::default();
    for (user, row) in pairs {
        let (columns, values) = (row.keys().copied().collect(), row.values().copied().collect());
        builder.push(*user, &Row { columns, values, interactions: row.len() as u32 });
    }
    builder.finish()
}

/// Users with 0, 1, 2, … and a few with many pairs, more than a panel holds.
fn world() -> Ratings {
    let lengths = [1, 2, 5, 16, 33, 700, 0, 7, 64, 129, 300];
    let row = |user: usize, n: usize| -> BTreeMap<u32, f32> {
        (0..n).map(|at| ((at * (1 + user % 3) % 701) as u32, 1.0 + ((at + user) % 5) as f32 / 2.0)).collect()
    };
    built(&lengths.iter().enumerate().filter(|(_, n)| **n > 0).map(|(user, &n)| (user as u32, row(user, n))).collect())
}

fn table(side: Side, rows: usize, rank: usize, live: impl Fn(usize) -> bool) -> Table {
    let mut table = Table::new(rank);
    table.grow(rows);
    (0..rows).filter(|&row| live(row)).for_each(|row| table.set(row, &initial_row(1, side, &row.to_string(), rank)));
    table
}

/// Residual and objective of one row by their definition, with plain loops.
fn by_hand(half: &Half<'_>, row: usize, x: &[f64], others: usize) -> (f64, f64) {
    let (columns, values) = half.rows.row(row);
    let lambda = half.weights.row(columns.len(), others);
    let mut pull: Vec<f64> = x.iter().map(|x| -lambda * x).collect();
    let (mut right, mut mass) = (vec![0.0; x.len()], 0.0);
    let mut objective = lambda * x.iter().map(|x| x * x).sum::<f64>();
    let mut push = |weight: f64, factor: f64, y: &[f64]| {
        let prediction: f64 = x.iter().zip(y).map(|(x, y)| x * y).sum();
        for i in 0..x.len() {
            pull[i] += (factor - weight * prediction) * y[i];
            right[i] += factor * y[i];
        }
        mass += factor.abs();
        objective += weight * prediction * prediction - 2.0 * factor * prediction;
    };
    for (&column, value) in columns.iter().zip(values) {
        let (weight, factor) = half.weights.pair(value);
        push(weight, factor, half.fixed.raw(column as usize));
    }
    for other in half.fixed.rows() {
        push(half.weights.unobserved, 0.0, half.fixed.raw(other));
    }
    let norm = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>().sqrt();
    (relative(norm(&pull), norm(&right), mass), objective)
}

/// Residual and objective over all rows.
fn total_by_hand(half: &Half<'_>, solved: &Table, others: usize) -> Swept {
    let mut swept = Swept::default();
    for row in (0..solved.len()).filter(|&row| half.rows.degree(row) > 0) {
        let (residual, eliminated) = by_hand(half, row, solved.raw(row), others);
        swept.take(Swept { residual, eliminated, on_trust: 0.0 });
    }
    swept
}

/// Two collapsed directions, whose products f32 cannot hold: they are left at zero, and the others are as they would be
/// without them.
#[test]
fn a_collapsed_direction_costs_the_others_nothing() {
    let (rank, ratings) = (18, world());
    for objective in OBJECTIVES {
        let weights = Weights::new(&params(objective, rank), ratings.mean());
        let live = |row: usize| ratings.items.degree(row) > 0;
        let narrow = table(Side::Item, ratings.items.len(), rank - 2, live);
        let mut wide = Table::new(rank);
        for row in narrow.rows() {
            let tiny = [1e-21 * (row as f64).sin(), 1e-24];
            wide.set(row, &[narrow.raw(row), &tiny[..]].concat());
        }
        let solved = |fixed: &Table, precision| {
            let half = Half { side: Side::User, rows: &ratings.users, fixed, weights: &weights };
            let mut solved = table(Side::User, ratings.users.len(), fixed.rank(), |_| false);
            for _ in 0..2 {
                half_sweep(Arch::new(), half, precision, &mut solved, fixed.count()).unwrap();
            }
            solved
        };
        for precision in [Precision::Single, Precision::Mixed] {
            let (solved, plain) = (solved(&wide, precision), solved(&narrow, precision));
            for user in 0..solved.len() {
                let (used, collapsed) = solved.raw(user).split_at(rank - 2);
                assert_eq!(collapsed, [0.0; 2], "{objective:?}, {precision:?}, user {user}");
                let apart = used.iter().zip(plain.raw(user)).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
                assert!(apart < if precision == Precision::Single { 1e-4 } else { 1e-8 }, "{objective:?}, {precision:?}: {apart}");
            }
        }
    }
}

/// Every path, precision, objective and rank: what a half-sweep says is the definition, what it leaves is solved as
/// exactly as its precision promises, and a second time f64 residuals take it to the rounding of f64.
#[test]
fn every_path_solves_every_row() {
    let ratings = world();
    for objective in OBJECTIVES {
        for rank in [1, 5, 16, 17, 24, 33, 64, 70] {
            let weights = Weights::new(&params(objective, rank), ratings.mean());
            let items = table(Side::Item, ratings.items.len(), rank, |row| ratings.items.degree(row) > 0);
            let half = Half { side: Side::User, rows: &ratings.users, fixed: &items, weights: &weights };
            let start = table(Side::User, ratings.users.len(), rank, |row| row % 2 == 0);
            let before = total_by_hand(&half, &start, items.count());
            for (path, arch) in every_path().into_iter().enumerate() {
                for precision in ALL {
                    let name = format!("{objective:?}, rank {rank}, path {path}, {precision:?}");
                    let (exact, left) = if precision == Precision::Double { (1e-12, 1e-11) } else { (1e-4, 1e-3) };
                    let mut solved = start.clone();
                    let swept = half_sweep(arch, half, precision, &mut solved, items.count()).unwrap();
                    let after = total_by_hand(&half, &solved, items.count());
                    assert!((swept.residual / before.residual - 1.0).abs() < exact, "{name}: {swept:?} {before:?}");
                    assert!((swept.eliminated / after.eliminated - 1.0).abs() < exact, "{name}: {swept:?} {after:?}");
                    assert!(after.residual < left, "{name}: {after:?}");
                    for _ in 0..3 {
                        half_sweep(arch, half, Precision::Mixed, &mut solved, items.count()).unwrap();
                    }
                    let swept = half_sweep(arch, half, Precision::Mixed, &mut solved, items.count()).unwrap();
                    let after = total_by_hand(&half, &solved, items.count());
                    assert!(after.residual < 1e-12 && swept.residual < 1e-12, "{name}: {after:?} {swept:?}");
                    assert!((swept.eliminated / after.eliminated - 1.0).abs() < 1e-13, "{name}: {swept:?} {after:?}");
                    assert!(solved.raw(6).iter().all(|&x| x == 0.0), "{name}: the row without data");
                }
            }
        }
    }
}

/// A row of which the heaviest weight is 1e24 times the lightest, beside equal ones, and one out of the range of f32.
#[test]
fn ill_conditioned_rows_are_solved_in_any_precision() {
    let pairs = [
        (0, (0..40).map(|item| (item, if item == 3 { 1e12 } else { 1e-12 })).collect()),
        (1, (0..40).map(|item| (item, 1e6)).collect()),
        (2, (0..40).map(|item| (item, 1e38)).collect()),
        (3, (0..40).map(|item| (item, if item == 5 { 3e4 } else { 1.0 })).collect()),
    ];
    let ratings = built(&pairs.into());
    for (regularization, scale) in [(1e-3, 1.0), (1e-9, 1e-3), (1e3, 1e18), (1e-12, 1e-22)] {
        let weights = Weights::new(&Params { regularization, ..params(Objective::Implicit, 20) }, 0.0);
        let mut items = table(Side::Item, 40, 20, |_| true);
        items.values_mut().iter_mut().for_each(|value| *value *= scale);
        let half = Half { side: Side::User, rows: &ratings.users, fixed: &items, weights: &weights };
        for arch in every_path() {
            for precision in [Precision::Mixed, Precision::Double] {
                let mut solved = table(Side::User, 4, 20, |_| true);
                for _ in 0..6 {
                    half_sweep(arch, half, precision, &mut solved, 40).unwrap();
                }
                for row in 0..4 {
                    let (residual, _) = by_hand(&half, row, solved.raw(row), 40);
                    assert!(residual < 1e-9, "λ {regularization}, scale {scale}, {precision:?}, row {row}: {residual}");
                }
            }
        }
    }
}

/// What goes on with a kept factorisation says of the rows that came in what is true of them, and moves them nearly as far as
/// a new one would: the less the other side has moved since, the nearer.
#[test]
fn what_is_kept_is_gone_on_with() {
    let ratings = world();
    for objective in OBJECTIVES {
        for rank in [1, 16, 24, 70] {
            let weights = Weights::new(&params(objective, rank), ratings.mean());
            let items = table(Side::Item, ratings.items.len(), rank, |row| ratings.items.degree(row) > 0);
            let mut moved = items.clone();
            moved.values_mut().iter_mut().enumerate().for_each(|(at, value)| *value *= 1.0 + 0.01 * (at as f64).sin());
            for (path, arch) in every_path().into_iter().enumerate() {
                for precision in [Precision::Single, Precision::Mixed] {
                    let name = format!("{objective:?}, rank {rank}, path {path}, {precision:?}");
                    let mut solved = table(Side::User, ratings.users.len(), rank, |row| row % 2 == 0);
                    let mut kept = Kept::new(&ratings.users, &solved);
                    let mut sweep = |fixed: &Table, precision, solved: &mut Table| {
                        let half = Half { side: Side::User, rows: &ratings.users, fixed, weights: &weights };
                        let before = total_by_hand(&half, solved, items.count());
                        let swept = half_sweep_on(arch, half, precision, &mut kept, solved, items.count()).unwrap();
                        (before, swept, total_by_hand(&half, solved, items.count()))
                    };
                    sweep(&items, precision, &mut solved);
                    let (before, swept, after) = sweep(&items, Precision::Mixed, &mut solved);
                    assert!(after.residual < 1e-8 && after.residual < 1e-3 * before.residual, "{name}: {before:?} {after:?}");
                    assert!((swept.eliminated / after.eliminated - 1.0).abs() < 1e-12, "{name}: {swept:?} {after:?}");
                    let (before, swept, after) = sweep(&moved, Precision::Mixed, &mut solved);
                    assert!((swept.residual / before.residual - 1.0).abs() < 1e-9, "{name}: {swept:?} {before:?}");
                    // The residual has grown: a new one is made.
                    assert!(after.residual < 1e-3 * before.residual, "{name}: {before:?} {after:?}");
                    let mut near = moved.clone();
                    near.values_mut().iter_mut().enumerate().for_each(|(at, value)| *value *= 1.0 + 1e-3 * (at as f64).cos());
                    solved.values_mut().iter_mut().enumerate().for_each(|(at, value)| *value *= 1.0 + 1e-4 * (at as f64).sin());
                    let (before, swept, after) = sweep(&near, Precision::Mixed, &mut solved);
                    assert!((swept.residual / before.residual - 1.0).abs() < 1e-9, "{name}: {swept:?} {before:?}");
                    assert!(after.residual < 0.05 * before.residual, "{name}: {before:?} {after:?}");
                    assert!((swept.eliminated / after.eliminated - 1.0).abs() < 1e-6, "{name}: {swept:?} {after:?}");
                }
            }
        }
    }
}

/// Where not all have room, those of the longest rows are kept; all are solved.
#[test]
fn long_rows_are_kept_first() {
    let ratings = world();
    let weights = Weights::new(&params(Objective::Implicit, 16), 0.0);
    let items = table(Side::Item, ratings.items.len(), 16, |row| ratings.items.degree(row) > 0);
    let half = Half { side: Side::User, rows: &ratings.users, fixed: &items, weights: &weights };
    // A factorisation of rank 16 takes 8 · (16 + 8) numbers.
    for (bytes, longest) in [(0, vec![]), (3 * 768, vec![5, 9, 10]), (1 << 20, vec![0, 1, 2, 3, 4, 5, 7, 8, 9, 10])] {
        // A table may be longer than what is known of its side.
        let mut solved = table(Side::User, ratings.users.len() + 2, 16, |_| true);
        let mut kept = Kept::within(bytes, &ratings.users, &solved);
        for _ in 0..12 {
            half_sweep_on(Arch::new(), half, Precision::Mixed, &mut kept, &mut solved, items.count()).unwrap();
        }
        assert_eq!(kept.rows(), longest);
        assert!(total_by_hand(&half, &solved, items.count()).residual < 1e-12);
    }
}

#[test]
fn of_rows_as_long_as_each_other_the_first_are_kept() {
    let ratings = built(&(0..6u32).map(|user| (user, (0..if user == 4 { 5 } else { 3 }).map(|item| (item, 1.0)).collect())).collect());
    let solved = table(Side::User, 6, 16, |_| true);
    for (room, rows) in [(1, vec![4]), (3, vec![0, 1, 4]), (6, vec![0, 1, 2, 3, 4, 5])] {
        assert_eq!(Kept::within(room * 768, &ratings.users, &solved).rows(), rows);
    }
}

#[test]
fn a_long_row_is_shared_out_and_threads_do_not_show() {
    // One item that everybody has, and a few others.
    let pairs = (0..150_000u32).map(|user| (user, [(0, 1.0), (1 + user % 7, 2.0)].into())).collect();
    let ratings = built(&pairs);
    let weights = Weights::new(&params(Objective::Implicit, 24), 0.0);
    let users = table(Side::User, ratings.users.len(), 24, |_| true);
    let half = Half { side: Side::Item, rows: &ratings.items, fixed: &users, weights: &weights };
    assert!(mixed::is_heavy(ratings.items.degree(0), 300_000) && !mixed::is_heavy(ratings.items.degree(1), 300_000));
    for precision in ALL {
        let solved = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut items = table(Side::Item, ratings.items.len(), 24, |_| true);
            let swept = pool.install(|| half_sweep(Arch::new(), half, precision, &mut items, users.count()).unwrap());
            (items, swept)
        };
        let (one, two) = (solved(1), solved(2));
        assert_eq!(one, two, "{precision:?}");
        let (residual, _) = by_hand(&half, 0, one.0.raw(0), users.count());
        assert!(residual < if precision == Precision::Double { 1e-11 } else { 1e-4 }, "{precision:?}: {residual}");
    }
}

#[test]
fn a_row_that_cannot_be_solved_is_named_in_any_precision() {
    let ratings = world();
    let weights = Weights::new(&Params { regularization: 1e-300, ..params(Objective::Explicit, 16) }, 0.0);
    let items = table(Side::Item, ratings.items.len(), 16, |_| true);
    let half = Half { side: Side::User, rows: &ratings.users, fixed: &items, weights: &weights };
    for precision in ALL {
        let mut users = table(Side::User, ratings.users.len(), 16, |_| true);
        let failed = half_sweep(Arch::new(), half, precision, &mut users, items.count()).unwrap_err();
        assert_eq!((failed.side, failed.row), (Side::User, 0), "{precision:?}");
    }
}

/// Every rating is the mean: nothing pulls at a row, and whatever is there has to go.
#[test]
fn a_residual_is_a_number_also_where_nothing_is_asked_for() {
    let ratings = built(&BTreeMap::from([(0, BTreeMap::from([(0, 3.0)]))]));
    let weights = Weights::new(&params(Objective::Explicit, 4), 3.0);
    let factors = Factors { users: table(Side::User, 1, 4, |_| true), items: table(Side::Item, 1, 4, |_| true) };
    assert_eq!(measure(Arch::new(), &ratings, &factors, &weights).residual, 1.0);
}

//! How far models are from each other, by what they predict: a rotation of both sides changes nothing that matters.

use std::cmp::Ordering;

use rayon::prelude::*;
use serde::Serialize;

use crate::model::factors::Factors;
use crate::model::ratings::Ratings;

/// Two models of the same data beside each other.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Agreement {
    /// `(Σ (a − b)² / Σ b²)^½` over the predictions of the users compared for all items.
    pub distance: f64,
    /// Mean share of a user's best items, known ones left out, that both name.
    pub overlap: f64,
    /// Share of users whose lists are the same in the same order.
    pub identical: f64,
}

/// What one user adds.
#[derive(Debug, Clone, Copy, Default)]
struct Part {
    gap: f64,
    size: f64,
    overlap: f64,
    identical: f64,
}

/// Compares every two of `models` (the earlier first) on `users`, with lists of the `n` best. Costs
/// `models · users · items · rank` multiply-adds; equal input gives equal bits for any number of threads.
pub fn compare(models: &[&Factors], ratings: &Ratings, users: &[u32], n: usize) -> Vec<((usize, usize), Agreement)> {
    let items: Vec<u32> = (0..ratings.items.len()).filter(|&item| ratings.items.degree(item) > 0).map(|item| item as u32).collect();
    let couples: Vec<(usize, usize)> = (0..models.len()).flat_map(|a| (a + 1..models.len()).map(move |b| (a, b))).collect();
    let of_users: Vec<Vec<Part>> = users.par_iter().map(|&user| of_user(models, ratings, &items, &couples, user, n)).collect();
    let mean = |at: usize, of: fn(&Part) -> f64| of_users.iter().map(|parts| of(&parts[at])).sum::<f64>() / users.len().max(1) as f64;
    let agreement = |(at, &couple): (usize, &(usize, usize))| {
        let (gap, size) = (mean(at, |part| part.gap), mean(at, |part| part.size));
        let distance = if gap == 0.0 { 0.0 } else { (gap / size).sqrt() };
        (couple, Agreement { distance, overlap: mean(at, |part| part.overlap), identical: mean(at, |part| part.identical) })
    };
    couples.iter().enumerate().map(agreement).collect()
}

fn of_user(models: &[&Factors], ratings: &Ratings, items: &[u32], couples: &[(usize, usize)], user: u32, n: usize) -> Vec<Part> {
    let scores: Vec<Vec<f64>> = models.iter().map(|model| items.iter().map(|&item| predict(model, user, item)).collect()).collect();
    let known = ratings.users.row(user as usize).0;
    let unknown: Vec<usize> = (0..items.len()).filter(|&at| known.binary_search(&items[at]).is_err()).collect();
    let lists: Vec<Vec<usize>> = scores.iter().map(|scores| best(scores, unknown.clone(), n)).collect();
    let part = |&(a, b): &(usize, usize)| {
        let (ours, theirs) = (&lists[a], &lists[b]);
        let common = ours.iter().filter(|item| theirs.contains(item)).count();
        Part {
            gap: scores[a].iter().zip(&scores[b]).map(|(x, y)| (x - y) * (x - y)).sum(),
            size: scores[b].iter().map(|y| y * y).sum(),
            // Somebody who knows everything is recommended nothing, by any model.
            overlap: if ours.is_empty() { 1.0 } else { common as f64 / ours.len() as f64 },
            identical: f64::from(u8::from(ours == theirs)),
        }
    };
    couples.iter().map(part).collect()
}

/// The best `n` of `from` by score, best first; of equal scores the smaller number.
fn best(scores: &[f64], mut from: Vec<usize>, n: usize) -> Vec<usize> {
    let order = |a: &usize, b: &usize| -> Ordering { scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)) };
    if n < from.len() {
        from.select_nth_unstable_by(n, order);
        from.truncate(n);
    }
    from.sort_unstable_by(order);
    from
}

/// `u · v`; 0 where a row does not exist.
pub fn predict(model: &Factors, user: u32, item: u32) -> f64 {
    match (model.users.row(user as usize), model.items.row(item as usize)) {
        (Some(u), Some(v)) => u.iter().zip(v).map(|(x, y)| x * y).sum(),
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::play::Row;
    use crate::model::ratings::Builder;

    fn factors(users: &[[f64; 2]], items: &[[f64; 2]]) -> Factors {
        let mut factors = Factors::new(2);
        users.iter().enumerate().for_each(|(at, row)| factors.users.set(at, row));
        items.iter().enumerate().for_each(|(at, row)| factors.items.set(at, row));
        factors
    }

    fn ratings(rows: &[&[u32]]) -> Ratings {
        let mut builder = Builder::default();
        for (user, row) in rows.iter().enumerate() {
            builder.push(user as u32, &Row { columns: (*row).into(), values: vec![1.0; row.len()].into(), interactions: 1 });
        }
        builder.finish()
    }

    #[test]
    fn a_rotation_is_no_distance_and_a_change_is() {
        let one = factors(&[[1.0, 0.0], [0.0, 2.0]], &[[1.0, 3.0], [2.0, 1.0]]);
        let turned = factors(&[[0.0, 1.0], [-2.0, 0.0]], &[[-3.0, 1.0], [-1.0, 2.0]]);
        let other = factors(&[[1.0, 0.0], [2.0, 0.0]], &[[1.0, 3.0], [2.0, 1.0]]);
        let ratings = ratings(&[&[0], &[1]]);
        let found = compare(&[&one, &turned, &other], &ratings, &[0, 1], 1);
        assert_eq!(found[0], ((0, 1), Agreement { distance: 0.0, overlap: 1.0, identical: 1.0 }));
        // User 1: (6, 2) against (2, 4); user 0 the same: (1, 2).
        assert_eq!((found[1].0, found[1].1.distance), ((0, 2), (20.0f64 / 25.0).sqrt()));
        assert_eq!(compare(&[&one, &other], &ratings, &[1], 1)[0].1.distance, 1.0);
    }

    #[test]
    fn lists_leave_out_what_is_known_and_count_what_is_common() {
        let items = [[3.0, 1.0], [2.0, 2.0], [1.0, 3.0], [9.0, 9.0]];
        let (one, other) = (factors(&[[1.0, 0.0]], &items), factors(&[[0.0, 1.0]], &items));
        let ratings = ratings(&[&[3], &[0, 1, 2]]);
        let of_top = |n: usize| compare(&[&one, &other], &ratings, &[0], n)[0].1;
        // Best first: 0, 1, 2 and 2, 1, 0; item 3 is known.
        assert_eq!((of_top(1).overlap, of_top(2).overlap, of_top(3).overlap), (0.0, 0.5, 1.0));
        assert_eq!((of_top(3).identical, of_top(0).overlap), (0.0, 1.0));
    }
}

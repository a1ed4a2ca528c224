//! How far two models are apart.

use nepenthe::model::factors::Factors;
use rayon::prelude::*;

/// Users that are compared; all where there are no more, else evenly taken.
const USERS: usize = 2_000;

/// Distance of the predictions of two models.
pub struct Distance {
    /// Root of the mean square of the differences, by that of the second model's predictions.
    pub rms: f64,
    /// Share of users whose ten best items are the same in the same order.
    pub top: f64,
}

/// Compares the predictions of up to [`USERS`] users for all items.
pub fn relative(a: &Factors, b: &Factors) -> Distance {
    let users: Vec<usize> = b.users.rows().collect();
    let items: Vec<usize> = b.items.rows().collect();
    let step = users.len().div_ceil(USERS).max(1);
    let scores = |factors: &Factors, user: usize| -> Vec<f64> {
        let row = factors.users.raw(user);
        items.iter().map(|&item| factors.items.raw(item).iter().zip(row).map(|(x, y)| x * y).sum()).collect()
    };
    let compared: Vec<(f64, f64, bool)> = users
        .par_iter()
        .step_by(step)
        .map(|&user| {
            let (a, b) = (scores(a, user), scores(b, user));
            let gap = a.iter().zip(&b).map(|(a, b)| (a - b) * (a - b)).sum();
            (gap, b.iter().map(|b| b * b).sum(), top(&a) == top(&b))
        })
        .collect();
    let (gap, size, same) =
        compared.iter().fold((0.0, 0.0, 0), |(gap, size, same), one| (gap + one.0, size + one.1, same + usize::from(one.2)));
    Distance { rms: (gap / size).sqrt(), top: same as f64 / compared.len() as f64 }
}

fn top(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    let by_score = |&a: &usize, &b: &usize| scores[b].total_cmp(&scores[a]).then(a.cmp(&b));
    if order.len() > 10 {
        order.select_nth_unstable_by(9, by_score);
        order.truncate(10);
    }
    order.sort_unstable_by(by_score);
    order
}

//! Data for the tests of this command.

use std::sync::Arc;

use super::data::Data;
use crate::cli::demo::rng::Rng;
use crate::model::Millis;

/// Data of `(user, item, value, time)`; users and items are named by their numbers, which sort as they count.
pub fn data(pairs: &[(u32, u32, f32, Millis)]) -> Data {
    let rows = pairs.iter().map(|pair| pair.0 + 1).max().unwrap_or_default();
    let items = pairs.iter().map(|pair| pair.1 + 1).max().unwrap_or_default();
    let names = |count: u32| (0..count).map(|at| Arc::from(format!("{at:05}"))).collect();
    let mut data = Data::empty();
    (data.users, data.items, data.interactions) = (names(rows), names(items), pairs.len() as u64);
    for user in 0..rows {
        let mut row: Vec<_> = pairs.iter().filter(|pair| pair.0 == user).map(|&(_, item, value, time)| (item, value, time)).collect();
        row.sort_by_key(|pair| pair.0);
        data.push(&row);
    }
    data
}

/// People of three tastes over `items` items, with ties in time; every user has at least two pairs.
pub fn tastes(seed: u64, users: u32, items: u32) -> Data {
    let mut rng = Rng::new(seed);
    let mut pairs = Vec::new();
    for user in 0..users {
        for item in 0..items {
            let likes = if item % 3 == user % 3 { 0.5 } else { 0.05 };
            if item < 2 || rng.unit() < likes {
                pairs.push((user, item, 1.0 + rng.below(5) as f32, rng.below(20) as Millis));
            }
        }
    }
    data(&pairs)
}

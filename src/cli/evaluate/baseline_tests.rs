use std::collections::BTreeSet;

use super::super::split::{Stage, split};
use super::super::world::{data, tastes};
use super::*;

fn filled(scores: &dyn Scores, part: &Part) -> Vec<Vec<f64>> {
    let mut out = vec![f64::NAN; part.users * part.items];
    scores.fill(0..part.users, &mut out);
    out.chunks(part.items).map(<[f64]>::to_vec).collect()
}

#[test]
fn popularity_counts_users_in_training() {
    let part = split(&data(&[(0, 0, 9.0, 1), (0, 1, 1.0, 2), (1, 0, 1.0, 1), (1, 2, 1.0, 2), (2, 2, 1.0, 1)]), Stage::Test);
    // Users 0 and 1 keep item 0, user 2 its only one; items 1 and 2 of the others are held out.
    assert_eq!(filled(&Popularity::new(&part), &part), vec![vec![2.0, 0.0, 1.0]; 3]);
}

/// Cosines of all pairs of items from sets of users, then sums over what a user has.
#[test]
fn neighbours_are_those_of_a_naive_computation() {
    let part = split(&tastes(5, 60, 24), Stage::Test);
    let users_of = |item: usize| part.ratings.items.row(item).0.iter().copied().collect::<BTreeSet<u32>>();
    let cosine = |a: usize, b: usize| {
        let (a, b) = (users_of(a), users_of(b));
        if a.is_empty() || b.is_empty() { 0.0 } else { a.intersection(&b).count() as f64 / ((a.len() * b.len()) as f64).sqrt() }
    };
    // Fewer items than neighbours: none is cut off.
    for (user, row) in filled(&ItemKnn::new(&part), &part).iter().enumerate() {
        for (item, &score) in row.iter().enumerate() {
            let has = part.ratings.users.row(user).0.iter().map(|&had| had as usize);
            let expected: f64 = has.filter(|&had| had != item).map(|had| cosine(had, item)).sum();
            assert!((score - expected).abs() < 1e-5, "user {user} item {item}: {score}, expected {expected}");
        }
    }
}

#[test]
fn only_the_nearest_neighbours_count() {
    // User 0 has item 0 and more others than are kept; with item 200 it shares two users, with the rest one.
    let mut pairs: Vec<_> = (0..=150).map(|item| (0, item, 1.0, 0)).collect();
    pairs.extend([(1, 0, 1.0, 0), (1, 200, 1.0, 0), (2, 0, 1.0, 0), (2, 200, 1.0, 0)]);
    // What is held out must be something else.
    pairs.extend((0..3).map(|user| (user, 300 + user, 1.0, 9)));
    let part = split(&data(&pairs), Stage::Test);
    let knn = ItemKnn::new(&part);
    assert_eq!(knn.neighbours[0].len(), NEIGHBOURS);
    // 2 common users of 3 and 2.
    assert_eq!(knn.neighbours[0][0], (200, (2.0 / 6.0f64.sqrt()) as f32));
    assert!(knn.neighbours[300].is_empty(), "held out: nobody in training has it");
}

#[test]
fn biases_are_those_computed_by_hand() {
    // In training user 0 rates item 0 with 5 and item 1 with 3, user 1 item 0 with 4: mean 4.
    let part = split(&data(&[(0, 0, 5.0, 1), (0, 1, 3.0, 2), (0, 2, 1.0, 9), (1, 0, 4.0, 1), (1, 1, 2.0, 9)]), Stage::Test);
    let biases = Biases::new(&part);
    let (first, second) = (1.0 / 27.0, -1.0 / 26.0);
    let user = (0.0 - first - second) / 12.0;
    let close = |a: Option<f64>, b: f64| assert!((a.unwrap() - b).abs() < 1e-12, "{a:?} {b}");
    close(biases.rating(0, 0), 4.0 + first + user);
    close(biases.rating(1, 1), 4.0 + second + (0.0 - first) / 11.0);
    close(biases.rating(0, 2), 4.0 + user);
    assert_eq!(filled(&biases, &part)[1], [first, second, 0.0]);
}

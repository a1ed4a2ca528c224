use proptest::prelude::*;

use super::super::world::data;
use super::*;
use crate::model::Millis;

fn held(part: &Part) -> Vec<Option<u32>> {
    part.held.iter().map(|held| held.map(|held| held.item)).collect()
}

fn trained(part: &Part, user: usize) -> &[u32] {
    part.ratings.users.row(user).0
}

#[test]
fn the_last_is_the_test_and_the_second_last_the_validation() {
    let data = data(&[
        // Four pairs, the latest in the middle of the row.
        (0, 0, 1.0, 5),
        (0, 1, 2.0, 9),
        (0, 2, 3.0, 7),
        (0, 3, 4.0, 1),
        // Two pairs.
        (1, 0, 1.0, 3),
        (1, 4, 1.0, 2),
        // One pair.
        (2, 5, 1.0, 1),
    ]);
    let test = split(&data, Stage::Test);
    assert_eq!(held(&test), [Some(1), Some(0), None]);
    assert_eq!(test.held[0].unwrap().value, 2.0);
    assert_eq!([0, 1, 2].map(|user| trained(&test, user)), [&[0, 2, 3][..], &[4], &[5]]);
    assert_eq!((test.count(), test.unseen()), (2, 1), "nobody else has item 1");
    let validation = split(&data, Stage::Validation);
    assert_eq!(held(&validation), [Some(2), None, None]);
    assert_eq!([0, 1, 2].map(|user| trained(&validation, user)), [&[0, 3][..], &[4], &[5]]);
}

#[test]
fn equal_times_prefer_no_place_in_the_alphabet() {
    let pairs: Vec<_> = (0..2000).flat_map(|user| (0..4).map(move |item| (user, item, 1.0, 0))).collect();
    let test = split(&data(&pairs), Stage::Test);
    let mut counts = [0; 4];
    held(&test).into_iter().flatten().for_each(|item| counts[item as usize] += 1);
    // 500 each; six standard deviations are 116.
    assert!(counts.iter().all(|count| (384..616).contains(count)), "{counts:?}");
}

#[test]
fn nobody_without_a_second_pair_is_asked_for_one() {
    let empty = split(&data(&[]), Stage::Test);
    assert_eq!((empty.count(), empty.unseen(), empty.ratings.pairs()), (0, 0, 0));
    let single = split(&data(&[(0, 0, 1.0, 0), (1, 0, 1.0, 0)]), Stage::Validation);
    assert_eq!((single.count(), single.ratings.pairs()), (0, 2));
}

proptest! {
    /// What is held out is nowhere in training, neither row by row nor in anything derived, and nothing else is missing.
    #[test]
    fn nothing_leaks(
        rows in prop::collection::vec(prop::collection::btree_map(0u32..12, (1u8..6, 0i64..4), 1..8), 1..12),
    ) {
        let pairs: Vec<(u32, u32, f32, Millis)> = (0..)
            .zip(&rows)
            .flat_map(|(user, row)| row.iter().map(move |(&item, &(value, time))| (user, item, f32::from(value), time)))
            .collect();
        let data = data(&pairs);
        for (stage, out) in [(Stage::Test, 1), (Stage::Validation, 2)] {
            let part = split(&data, stage);
            let mut kept = Vec::new();
            for (user, row) in rows.iter().enumerate() {
                let training = part.ratings.users.row(user).0;
                prop_assert_eq!(training.len(), row.len() - out.min(row.len() - 1));
                let latest = training.iter().map(|item| row[item].1).max().unwrap();
                if let Some(held) = part.held[user] {
                    prop_assert!(!training.contains(&held.item));
                    prop_assert!(!part.ratings.items.row(held.item as usize).0.contains(&(user as u32)));
                    prop_assert!(row[&held.item].1 >= latest, "training knows nothing later than what it is to predict");
                    prop_assert_eq!(held.value, f32::from(row[&held.item].0));
                }
                kept.extend(training.iter().map(|&item| (user as u32, item, f32::from(row[&item].0), row[&item].1)));
            }
            // Statistics are those of the training pairs alone.
            let mean = kept.iter().map(|pair| f64::from(pair.2)).sum::<f64>() / kept.len() as f64;
            prop_assert!((part.ratings.mean() - mean).abs() < 1e-12);
            prop_assert_eq!(part.ratings.pairs(), kept.len() as u64);
            prop_assert_eq!(part.ratings.interactions(), kept.len() as u64);
            for item in 0..part.items {
                let users: Vec<u32> = kept.iter().filter(|pair| pair.1 == item as u32).map(|pair| pair.0).collect();
                prop_assert_eq!(part.ratings.items.row(item).0, &users[..]);
            }
        }
    }
}

use super::super::split::{Held, Stage, split};
use super::super::world::{data, tastes};
use super::*;

/// Scores from a function of user and item.
struct By(fn(usize, usize) -> f64, usize);

impl Scores for By {
    fn fill(&self, users: Range<usize>, out: &mut [f64]) {
        for (user, row) in users.zip(out.chunks_exact_mut(self.1)) {
            (0..).zip(row).for_each(|(item, score)| *score = self.0(user, item));
        }
    }

    fn rating(&self, user: usize, item: usize) -> Option<f64> {
        Some(self.0(user, item))
    }
}

#[test]
fn known_items_and_items_without_data_are_left_out() {
    // Training: user 0 has {0, 1}, user 1 has {0, 3}; held out: item 2 of user 0, which nobody has, item 1 of user 1.
    let data = data(&[(0, 0, 1.0, 1), (0, 1, 1.0, 2), (0, 2, 4.0, 3), (1, 0, 1.0, 1), (1, 3, 1.0, 2), (1, 1, 2.0, 3)]);
    let part = split(&data, Stage::Test);
    let ranking = rank(&By(|_, item| item as f64, part.items), &part, 20);
    let outcome = |place, error| Outcome { place, error: Some(error) };
    assert_eq!(ranking.outcomes, [outcome(None, -2.0), outcome(Some(1), -1.0)]);
    // Item 3 is recommended to user 0 and item 1 to user 1; item 0 is known to both, item 2 to nobody.
    assert_eq!(ranking.coverage, 2.0 / 3.0);
}

#[test]
fn lists_are_the_highest_scores_in_order() {
    assert_eq!(best(&[1.0, 3.0, 2.0, 3.0, f64::NEG_INFINITY], 3), [1, 3, 2]);
    assert_eq!(best(&[1.0, 3.0, 2.0, 3.0, f64::NEG_INFINITY], 9), [1, 3, 2, 0]);
    assert_eq!(best(&[0.5, 0.5, 0.5], 2), [0, 1]);
    assert_eq!(best(&[f64::NEG_INFINITY; 3], 2), [] as [u32; 0]);
}

/// By sorting all items of each user, one after the other.
fn naive(scores: &dyn Fn(usize, usize) -> f64, part: &Part, n: usize) -> Ranking {
    let mut outcomes = Vec::new();
    let mut covered = std::collections::BTreeSet::new();
    let known = |item: usize| part.ratings.items.degree(item) > 0;
    for user in 0..part.users {
        let has = part.ratings.users.row(user).0;
        let mut items: Vec<usize> = (0..part.items).filter(|&item| known(item) && !has.contains(&(item as u32))).collect();
        items.sort_by(|&a, &b| scores(user, b).total_cmp(&scores(user, a)));
        items.truncate(n);
        covered.extend(items.iter().copied());
        if let Some(Held { item, value }) = part.held[user] {
            let place = items.iter().position(|&listed| listed == item as usize).map(|at| at + 1);
            outcomes.push(Outcome { place, error: Some(scores(user, item as usize) - f64::from(value)) });
        }
    }
    Ranking { outcomes, coverage: covered.len() as f64 / (0..part.items).filter(|&item| known(item)).count() as f64 }
}

#[test]
fn blocks_and_heaps_rank_as_sorting_does() {
    // More than two blocks, scores with many ties.
    let part = split(&tastes(3, 150, 60), Stage::Test);
    let scores = |user: usize, item: usize| ((user * 31 + item * 17) % 23) as f64;
    for n in [1, 5, 20, 100] {
        let ranking = rank(&By(scores, part.items), &part, n);
        assert_eq!(ranking, naive(&scores, &part, n), "{n}");
        assert!(ranking.outcomes.len() > 140 && ranking.coverage > 0.0);
    }
}

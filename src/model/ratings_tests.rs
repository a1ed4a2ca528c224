use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;

type Pairs = BTreeMap<u32, BTreeMap<u32, f32>>;

fn row(pairs: &BTreeMap<u32, f32>) -> Row {
    Row { columns: pairs.keys().copied().collect(), values: pairs.values().copied().collect(), interactions: pairs.len() as u32 }
}

fn built(pairs: &Pairs) -> Ratings {
    let mut builder = Builder::default();
    pairs.iter().for_each(|(user, pairs)| builder.push(*user, &row(pairs)));
    builder.finish()
}

fn bits(rows: &Rows, row: usize) -> Vec<(u32, u32)> {
    let (columns, values) = rows.row(row);
    columns.iter().zip(values).map(|(&column, value)| (column, value.to_bits())).collect()
}

fn same(a: &Ratings, b: &Ratings) {
    for (a, b) in [(&a.users, &b.users), (&a.items, &b.items)] {
        for at in 0..a.len().max(b.len()) {
            assert_eq!(bits(a, at), bits(b, at), "row {at}");
        }
    }
    assert_eq!((a.pairs(), a.items.pairs(), a.interactions()), (b.pairs(), b.items.pairs(), b.interactions()));
    assert_eq!(a.mean().to_bits(), b.mean().to_bits());
}

/// What a scan of the store yields for users that changed: their whole new rows, ascending.
fn refreshed(ratings: Arc<Ratings>, rows: &Pairs) -> (Arc<Ratings>, Changes) {
    let mut refresh = Refresh::new(ratings);
    rows.iter().for_each(|(user, pairs)| refresh.put(*user, row(pairs)));
    refresh.finish()
}

fn some_pairs(users: u32, most: usize) -> impl Strategy<Value = Pairs> {
    prop::collection::btree_map(0..users, prop::collection::btree_map(0u32..33, 0f32..5.0, 0..6), 1..most)
}

proptest! {
    /// Incremental equals from scratch, whether changes are laid over or taken in, and whether or not somebody still holds
    /// the old form.
    #[test]
    fn refreshed_ratings_are_those_built_anew(
        start in prop::collection::btree_map(0u32..40, prop::collection::btree_map(0u32..30, 0f32..5.0, 0..20), 0..40),
        steps in prop::collection::vec((prop_oneof![4 => some_pairs(45, 4), 1 => some_pairs(45, 45)], any::<bool>()), 0..6),
    ) {
        let mut pairs: Pairs = start;
        let mut ratings = Arc::new(built(&pairs));
        let (begin, mut since) = (pairs.clone(), Changes::NONE);
        for (step, held) in steps {
            let mut expected: BTreeMap<(u32, u32), (Option<f32>, Option<f32>)> = Default::default();
            let before = pairs.clone();
            for (user, new) in &step {
                let old = pairs.insert(*user, new.clone()).unwrap_or_default();
                for item in old.keys().chain(new.keys()) {
                    if old.get(item) != new.get(item) {
                        expected.insert((*item, *user), (old.get(item).copied(), new.get(item).copied()));
                    }
                }
            }
            let holder = held.then(|| ratings.clone());
            let (now, changes) = refreshed(ratings, &step);
            let told: Vec<_> = changes.listed().unwrap().iter().map(|c| ((c.item, c.user), (c.before, c.after))).collect();
            prop_assert_eq!(told, expected.into_iter().collect::<Vec<_>>());
            same(&now, &built(&pairs));
            holder.iter().for_each(|old| same(old, &built(&before)));
            since = since.then(changes, u64::MAX);
            ratings = now;
        }
        let (_, at_once) = refreshed(Arc::new(built(&begin)), &pairs);
        prop_assert_eq!(since, at_once);
    }
}

#[test]
fn few_rows_are_laid_over_and_many_make_a_new_form() {
    let pairs: Pairs = (0..40).map(|user| (user, (0..20).map(|item| (item, 1.0)).collect())).collect();
    let new = |users: u32| -> Pairs { (0..users).map(|user| (user, (3..9).map(|item| (item, 2.0)).collect())).collect() };
    let laid = |users: u32| refreshed(Arc::new(built(&pairs)), &new(users)).0.users.overlay.len();
    // What is copied on the items' side counts as well: six items of 40 users each.
    assert_eq!([laid(0), laid(1), laid(20)], [0, 0, 0]);
    let apart: Pairs = [(40, [(20, 1.0)].into())].into();
    assert_eq!(refreshed(Arc::new(built(&pairs)), &apart).0.users.overlay.len(), 1);
}

#[test]
fn of_many_changes_the_number_is_known() {
    let many = Changes::listed_of(0) as u32 + 1;
    let pairs: Pairs = [(3, (0..many).map(|item| (item, 1.0)).collect())].into();
    let (ratings, changes) = refreshed(Arc::default(), &pairs);
    same(&ratings, &built(&pairs));
    assert_eq!((changes.listed(), changes.count()), (None, u64::from(many)));
    let (_, few) = refreshed(ratings, &[(3, (0..many - 2).map(|item| (item, 1.0)).collect())].into());
    assert_eq!((few.listed().map(<[Change]>::len), few.count()), (Some(2), 2));
    assert_eq!(changes.clone().then(few.clone(), u64::MAX), Changes::Many(u64::from(many) + 2));
    assert_eq!(few.clone().then(Changes::NONE, 1), Changes::Many(2));
    assert_eq!(few.clone().then(Changes::NONE, 2), few);
}

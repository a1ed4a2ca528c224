//! Who is compared with whom in the membership attack: forgotten pairs, and pairs that no model ever saw but that are
//! as plausible. Pairs that nobody ever observed would be the wrong control: every model tells them from members,
//! also one that never saw the members.

use std::collections::{BTreeMap, BTreeSet};

use super::sample::{Selection, pairs, priority, smallest};
use crate::model::ratings::{Ratings, Rows};

/// Controls are sought until there are about this many pairs of them.
const ENOUGH: usize = 2000;
/// Most controls for one member.
const PER_MEMBER: usize = 10;
/// At most this share of the pairs is held out.
const HELD_OUT: f64 = 0.10;
/// A pair is held out only where both rows keep at least this many pairs less one.
const FEWEST: usize = 5;
/// Most members that are scored.
pub const MOST: usize = 20_000;

/// Members and controls, matched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trials {
    pub members: Vec<(u32, u32)>,
    pub controls: Vec<(u32, u32)>,
    /// Members for which there was no control of their kind.
    pub unmatched: usize,
}

/// Popularity and activity in steps: half octaves of the number of pairs of a row.
fn class(degree: usize) -> u32 {
    (2.0 * (degree.max(1) as f64).log2()).floor() as u32
}

fn classes(ratings: &Ratings, (user, item): (u32, u32)) -> (u32, u32) {
    (class(ratings.users.degree(user as usize)), class(ratings.items.degree(item as usize)))
}

/// What is held out of all models, so that they can be compared on what none of them saw: for each forgotten pair, user
/// or item others like it, more of them where few are forgotten. Costs a pass over the data.
pub fn hold_out(ratings: &Ratings, forgotten: &Selection, seed: u64) -> Selection {
    let most = (ratings.pairs() as f64 * HELD_OUT) as usize;
    match forgotten {
        Selection::Pairs(gone) => {
            let per_member = ENOUGH.div_ceil(gone.len().max(1)).clamp(1, PER_MEMBER);
            let room = |pair: &(u32, u32)| {
                let degree = [ratings.users.degree(pair.0 as usize), ratings.items.degree(pair.1 as usize)];
                degree.iter().all(|&degree| degree >= FEWEST)
            };
            let candidates = pairs(ratings).filter(|pair| !gone.contains(pair) && room(pair));
            let alike = alike(gone.iter().copied(), candidates, |pair| classes(ratings, pair), per_member, seed);
            let controls = alike.into_iter().flat_map(|group| group.controls);
            Selection::Pairs(smallest(controls, most).into_iter().map(|(_, pair)| pair).collect())
        }
        Selection::Users(gone) => Selection::Users(nearest(&ratings.users, gone, most, seed)),
        Selection::Items(gone) => Selection::Items(nearest(&ratings.items, gone, most, seed)),
    }
}

/// Rows of about the same number of pairs, none of them in `gone`.
fn nearest(rows: &Rows, gone: &BTreeSet<u32>, most: usize, seed: u64) -> BTreeSet<u32> {
    let live = (0..rows.len() as u32).filter(|row| rows.degree(*row as usize) > 0 && !gone.contains(row));
    let mut free: BTreeSet<(usize, u64, u32)> = live.map(|row| (rows.degree(row as usize), priority(seed, row, 1), row)).collect();
    // Never so many that the models have nothing left to learn from.
    let limit = free.len() / 2;
    let forgotten: usize = gone.iter().map(|&row| rows.degree(row as usize)).sum();
    let per_member = ENOUGH.div_ceil(forgotten.max(1)).clamp(1, PER_MEMBER);
    let (mut held, mut pairs) = (BTreeSet::new(), 0);
    for _ in 0..per_member {
        for &row in gone {
            let degree = rows.degree(row as usize);
            let above = free.range((degree, 0, 0)..).next();
            let below = free.range(..(degree, 0, 0)).next_back();
            let found = match (below, above) {
                (Some(below), Some(above)) => Some(if degree - below.0 < above.0 - degree { below } else { above }),
                (below, above) => above.or(below),
            };
            let Some(&found) = found.filter(|found| held.len() < limit && pairs + found.0 <= most) else { continue };
            free.remove(&found);
            pairs += found.0;
            held.insert(found.2);
        }
    }
    held
}

/// Pairs to score: forgotten ones and held-out ones in the same proportions by popularity of the item and activity of
/// the user. Where users are forgotten whole, the held-out users were already chosen by activity, and only the items
/// are matched; where items are, the other way round. `usable` says whether a pair can be scored in all models.
pub fn trials(ratings: &Ratings, forgotten: &Selection, held: &Selection, seed: u64, usable: impl Fn((u32, u32)) -> bool) -> Trials {
    let of = |selection: &Selection| {
        let selected = |pair: &(u32, u32)| selection.contains(pair.0, pair.1) && usable(*pair);
        pairs(ratings).filter(selected).collect::<Vec<_>>()
    };
    // A pair of a forgotten user with a held-out one's is not: selections of one kind never overlap.
    let (members, controls) = (of(forgotten), of(held));
    let by = |pair| {
        let (user, item) = classes(ratings, pair);
        match forgotten {
            Selection::Pairs(_) => (user, item),
            Selection::Users(_) => (0, item),
            Selection::Items(_) => (user, 0),
        }
    };
    let found = members.len();
    let chosen = smallest(members.into_iter().map(|pair| (priority(seed, pair.0, pair.1), pair)), MOST);
    let groups = alike(chosen.into_iter().map(|(_, pair)| pair), controls.into_iter(), by, PER_MEMBER, seed);
    // The number of controls for each member that tells most: the variance of an area goes with 1/members + 1/controls.
    let information = |per_member: usize| {
        let members: usize = groups.iter().map(|group| group.matched(per_member)).sum();
        (members * per_member) as f64 / (1 + per_member) as f64
    };
    let per_member = (1..=PER_MEMBER).rev().max_by(|&a, &b| information(a).total_cmp(&information(b))).unwrap_or(1);
    let mut trials = Trials::default();
    for group in groups {
        let matched = group.matched(per_member);
        trials.members.extend(&group.members[..matched]);
        trials.controls.extend(group.controls[..matched * per_member].iter().map(|(_, pair)| pair));
    }
    trials.unmatched = found.min(MOST) - trials.members.len();
    trials
}

/// Members of one class, and candidates that are like them, in the order of chance.
struct Group {
    members: Vec<(u32, u32)>,
    controls: Vec<(u64, (u32, u32))>,
}

impl Group {
    /// How many members there are with so many controls each. All get the same number, so that no class weighs more among
    /// the controls than among the members.
    fn matched(&self, per_member: usize) -> usize {
        self.members.len().min(self.controls.len() / per_member)
    }
}

/// Members by class, each with candidates of its class, `per_member` times as many at most.
fn alike(
    members: impl Iterator<Item = (u32, u32)>,
    candidates: impl Iterator<Item = (u32, u32)>,
    class: impl Fn((u32, u32)) -> (u32, u32),
    per_member: usize,
    seed: u64,
) -> Vec<Group> {
    let mut groups: BTreeMap<(u32, u32), Group> = BTreeMap::new();
    for member in members {
        groups.entry(class(member)).or_insert(Group { members: Vec::new(), controls: Vec::new() }).members.push(member);
    }
    for candidate in candidates {
        let Some(Group { members, controls }) = groups.get_mut(&class(candidate)) else { continue };
        controls.push((priority(seed, candidate.0, candidate.1), candidate));
        // Cut back now and then, so that the many of a class that is in little demand are not all kept.
        let wanted = per_member * members.len();
        if controls.len() >= 4 * wanted + 64 {
            controls.sort_unstable();
            controls.truncate(wanted);
        }
    }
    let mut groups: Vec<Group> = groups.into_values().collect();
    for group in &mut groups {
        group.controls.sort_unstable();
        group.controls.truncate(per_member * group.members.len());
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::audit::sample::{Kind, Share};
    use crate::model::play::Row;
    use crate::model::ratings::Builder;

    /// The first items are the most popular, the first users the most active.
    fn skewed(users: u32, items: u32) -> Ratings {
        let mut builder = Builder::default();
        for user in 0..users {
            let chance = |item: &u32| {
                let share = 0.9 / (1.0 + f64::from(user) / 40.0) / (1.0 + f64::from(*item) / 10.0);
                (priority(3, user, *item) >> 11) as f64 / ((1u64 << 53) as f64) < share
            };
            let columns: Vec<u32> = (0..items).filter(chance).collect();
            builder.push(user, &Row { values: vec![1.0; columns.len()].into(), columns: columns.into(), interactions: 1 });
        }
        builder.finish()
    }

    fn mean(pairs: &[(u32, u32)], of: impl Fn(&(u32, u32)) -> usize) -> f64 {
        pairs.iter().map(|pair| (of(pair) as f64).ln()).sum::<f64>() / pairs.len() as f64
    }

    #[test]
    fn controls_are_as_popular_as_members_and_are_no_members() {
        let ratings = skewed(300, 120);
        let popularity = |pair: &(u32, u32)| ratings.items.degree(pair.1 as usize);
        let activity = |pair: &(u32, u32)| ratings.users.degree(pair.0 as usize);
        for kind in [Kind::Pairs, Kind::Random, Kind::Popular] {
            let forgotten = Selection::choose(kind, Share::Percent(4.0), &ratings, 5).unwrap();
            let held = hold_out(&ratings, &forgotten, 5);
            assert!(held.pairs_of(&ratings) as u64 * 9 <= ratings.pairs(), "{kind:?}: {}", held.pairs_of(&ratings));
            let found = trials(&ratings, &forgotten, &held, 5, |_| true);
            assert!(found.members.len() > 40 && found.controls.len() % found.members.len() == 0, "{kind:?}: {found:?}");
            assert!(found.members.iter().all(|&(user, item)| forgotten.contains(user, item) && !held.contains(user, item)));
            assert!(found.controls.iter().all(|&(user, item)| held.contains(user, item) && !forgotten.contains(user, item)));
            let apart = |of: &dyn Fn(&(u32, u32)) -> usize| (mean(&found.members, of) - mean(&found.controls, of)).abs();
            if kind != Kind::Popular {
                assert!(apart(&popularity) < 0.1, "{kind:?}: {}", apart(&popularity));
            }
            if kind != Kind::Random {
                assert!(apart(&activity) < 0.1, "{kind:?}: {}", apart(&activity));
            }
        }
    }

    #[test]
    fn who_has_no_like_is_left_out() {
        let ratings = skewed(60, 30);
        let forgotten = Selection::Pairs(BTreeSet::from([(0, ratings.users.row(0).0[0])]));
        assert_eq!(trials(&ratings, &forgotten, &Selection::Pairs(BTreeSet::new()), 1, |_| true).unmatched, 1);
        assert!(trials(&ratings, &forgotten, &Selection::Pairs(BTreeSet::new()), 1, |_| false).members.is_empty());
    }
}

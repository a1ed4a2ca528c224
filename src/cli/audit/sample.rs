//! What the audit forgets on its own copy: who or what is taken, and the requests that ask for it.

use std::collections::{BTreeSet, BinaryHeap};
use std::fmt;

use serde_json::json;

use crate::model::Millis;
use crate::model::dictionary::Dictionary;
use crate::model::factors::Side;
use crate::model::ratings::{Ratings, Rows};
use crate::model::splitmix::{SplitMix64, mixed};

/// Items in one request, so that it fits into a record.
const ITEMS_PER_REQUEST: usize = 1000;

/// Who or what a sample takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// (user, item) pairs by chance
    Pairs,
    /// Whole users by chance
    Random,
    /// The users with the most items
    Heaviest,
    /// The items with the fewest users
    Rarest,
    /// The items with the most users
    Popular,
}

impl Kind {
    /// What one of it is.
    pub fn noun(self) -> &'static str {
        match self {
            Kind::Pairs => "pair",
            Kind::Random | Kind::Heaviest => "user",
            Kind::Rarest | Kind::Popular => "item",
        }
    }

    /// For a sentence: "1 user, chosen at random".
    pub fn how(self) -> &'static str {
        match self {
            Kind::Pairs | Kind::Random => "chosen at random",
            Kind::Heaviest => "those with the most items",
            Kind::Rarest => "those with the fewest users",
            Kind::Popular => "those with the most users",
        }
    }
}

/// How many it takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Share {
    Count(usize),
    /// Of all there are, rounded up.
    Percent(f64),
}

impl Share {
    /// How many of `all`.
    pub fn of(self, all: usize) -> usize {
        match self {
            Share::Count(n) => n,
            Share::Percent(percent) => (all as f64 * percent / 100.0).ceil() as usize,
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Share::Count(n) => write!(f, "{n}"),
            Share::Percent(percent) => write!(f, "{percent} %"),
        }
    }
}

/// Reads `1` or `10%`.
///
/// # Errors
/// In words for whoever typed it.
pub fn share(text: &str) -> Result<Share, String> {
    let share = match text.trim().strip_suffix('%') {
        Some(percent) => percent.trim().parse().ok().filter(|percent| (0.0..=50.0).contains(percent) && *percent > 0.0).map(Share::Percent),
        None => text.trim().parse().ok().filter(|&n| n > 0).map(Share::Count),
    };
    share.ok_or_else(|| "give a number such as 1, or a percentage above 0 and up to 50 such as 1%".to_owned())
}

/// What a sample cannot be taken from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a sample of {wanted} {noun}s cannot be taken: the state has {there}, and one at least must stay; choose a smaller --share")]
pub struct TooFew {
    noun: &'static str,
    wanted: usize,
    there: usize,
}

/// A row with data but without a name: the state is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nameless(pub Side, pub u32);

/// The surrogates of what is forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    Pairs(BTreeSet<(u32, u32)>),
    Users(BTreeSet<u32>),
    Items(BTreeSet<u32>),
}

impl Selection {
    /// Takes a sample of all pairs, users or items. Equal arguments give equal samples. Costs a pass over the data.
    ///
    /// # Errors
    /// [`TooFew`] when nothing would stay.
    pub fn choose(kind: Kind, share: Share, ratings: &Ratings, seed: u64) -> Result<Selection, TooFew> {
        let live = |rows: &Rows| (0..rows.len()).filter(|&row| rows.degree(row) > 0).map(|row| row as u32).collect::<Vec<u32>>();
        let (users, items) = (live(&ratings.users), live(&ratings.items));
        let there = match kind {
            Kind::Pairs => ratings.pairs() as usize,
            Kind::Random | Kind::Heaviest => users.len(),
            Kind::Rarest | Kind::Popular => items.len(),
        };
        let wanted = share.of(there);
        if wanted >= there {
            return Err(TooFew { noun: kind.noun(), wanted, there });
        }
        let least = |rows: Vec<u32>, rank: &dyn Fn(u32) -> usize| {
            let ranked = rows.into_iter().map(|row| (rank(row), priority(seed, row, 0), row));
            smallest(ranked, wanted).into_iter().map(|(_, _, row)| row).collect()
        };
        let activity = |user: u32| ratings.users.degree(user as usize);
        let popularity = |item: u32| ratings.items.degree(item as usize);
        Ok(match kind {
            Kind::Pairs => {
                let ranked = pairs(ratings).map(|(user, item)| (priority(seed, user, item), user, item));
                Selection::Pairs(smallest(ranked, wanted).into_iter().map(|(_, user, item)| (user, item)).collect())
            }
            Kind::Random => Selection::Users(least(users, &|_| 0)),
            Kind::Heaviest => Selection::Users(least(users, &|user| usize::MAX - activity(user))),
            Kind::Rarest => Selection::Items(least(items, &popularity)),
            Kind::Popular => Selection::Items(least(items, &|item| usize::MAX - popularity(item))),
        })
    }

    pub fn contains(&self, user: u32, item: u32) -> bool {
        match self {
            Selection::Pairs(pairs) => pairs.contains(&(user, item)),
            Selection::Users(users) => users.contains(&user),
            Selection::Items(items) => items.contains(&item),
        }
    }

    /// How many of the pairs are in it.
    pub fn pairs_of(&self, ratings: &Ratings) -> usize {
        match self {
            Selection::Pairs(pairs) => pairs.len(),
            Selection::Users(users) => users.iter().map(|&user| ratings.users.degree(user as usize)).sum(),
            Selection::Items(items) => items.iter().map(|&item| ratings.items.degree(item as usize)).sum(),
        }
    }

    /// The requests that ask for it, as a producer would send them. `time` is not before that of any interaction; `tag` keeps
    /// their ids apart from those in the ledger.
    ///
    /// # Errors
    /// [`Nameless`] when something in it has no name.
    pub fn requests(&self, names: &Dictionary, time: Millis, tag: &str) -> Result<Vec<String>, Nameless> {
        let name = |side, number| names.name(side, number).map(|name| name.to_string()).ok_or(Nameless(side, number));
        let items = |items: &mut dyn Iterator<Item = u32>| items.map(|item| name(Side::Item, item)).collect::<Result<Vec<_>, _>>();
        let mut selectors = Vec::new();
        match self {
            Selection::Users(users) => {
                for &user in users {
                    selectors.push(json!({ "user": name(Side::User, user)? }));
                }
            }
            Selection::Items(all) => {
                let all = items(&mut all.iter().copied())?;
                selectors.extend(all.chunks(ITEMS_PER_REQUEST).map(|part| json!({ "items": part })));
            }
            Selection::Pairs(pairs) => {
                let pairs: Vec<(u32, u32)> = pairs.iter().copied().collect();
                for part in pairs.chunk_by(|a, b| a.0 == b.0).flat_map(|of_user| of_user.chunks(ITEMS_PER_REQUEST)) {
                    let of_user = items(&mut part.iter().map(|&(_, item)| item))?;
                    selectors.push(json!({ "user": name(Side::User, part[0].0)?, "items": of_user }));
                }
            }
        }
        let request = |(at, mut event): (usize, serde_json::Value)| {
            event["type"] = json!("forget");
            event["request_id"] = json!(format!("audit/{tag}/{at}"));
            event["time"] = json!(time);
            event.to_string()
        };
        Ok(selectors.into_iter().enumerate().map(request).collect())
    }
}

/// All pairs, by user and item.
pub fn pairs(ratings: &Ratings) -> impl Iterator<Item = (u32, u32)> + '_ {
    (0..ratings.users.len()).flat_map(|user| ratings.users.row(user).0.iter().map(move |&item| (user as u32, item)))
}

/// The `n` smallest, ascending; holds no more than these.
pub fn smallest<T: Ord>(all: impl Iterator<Item = T>, n: usize) -> Vec<T> {
    let mut kept: BinaryHeap<T> = BinaryHeap::with_capacity(n.saturating_add(1).min(1 << 20));
    for one in all {
        if kept.len() < n {
            kept.push(one);
        } else if kept.peek().is_some_and(|largest| one < *largest) {
            kept.pop();
            kept.push(one);
        }
    }
    kept.into_sorted_vec()
}

/// A place in the order of chance of two numbers: equal for equal arguments, spread evenly else.
pub fn priority(seed: u64, a: u32, b: u32) -> u64 {
    let first = |seed| SplitMix64::new(seed).bits();
    mixed(first(seed) ^ first(u64::from(a) << 32 | u64::from(b)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::play::Row;
    use crate::model::ratings::Builder;

    /// User n has the items 0 … n.
    fn stairs(users: u32) -> Ratings {
        let mut builder = Builder::default();
        for user in 0..users {
            let columns: Vec<u32> = (0..=user).collect();
            builder.push(user, &Row { values: vec![1.0; columns.len()].into(), columns: columns.into(), interactions: 1 });
        }
        builder.finish()
    }

    #[test]
    fn a_sample_takes_what_its_kind_says() {
        let ratings = stairs(20);
        let choose = |kind, share| Selection::choose(kind, share, &ratings, 1).unwrap();
        assert_eq!(choose(Kind::Heaviest, Share::Count(2)), Selection::Users([18, 19].into()));
        assert_eq!(choose(Kind::Popular, Share::Percent(10.0)), Selection::Items([0, 1].into()));
        assert_eq!(choose(Kind::Rarest, Share::Count(1)), Selection::Items([19].into()));
        let (one, again) = (choose(Kind::Pairs, Share::Percent(10.0)), choose(Kind::Pairs, Share::Percent(10.0)));
        assert!(one == again && one.pairs_of(&ratings) == 21 && pairs(&ratings).filter(|&(u, i)| one.contains(u, i)).count() == 21);
        assert_ne!(one, Selection::choose(Kind::Pairs, Share::Percent(10.0), &ratings, 2).unwrap());
        assert_eq!(
            choose(Kind::Random, Share::Percent(0.1)).requests(&Dictionary::default(), 0, "").map_err(|Nameless(side, _)| side),
            Err(Side::User)
        );
        let refused = Selection::choose(Kind::Random, Share::Count(20), &ratings, 1).unwrap_err();
        assert!(refused.to_string().contains("the state has 20"), "{refused}");
    }

    #[test]
    fn the_smallest_are_kept() {
        assert_eq!(smallest([5, 1, 4, 1, 3].into_iter(), 3), [1, 1, 3]);
        assert!(smallest([1].into_iter(), 0).is_empty());
    }

    #[test]
    fn requests_ask_for_the_selection_and_nothing_else() {
        let mut names = Dictionary::default();
        for (side, name) in [(Side::User, "u"), (Side::User, "v"), (Side::Item, "i"), (Side::Item, "j")] {
            names.assign(side, name).unwrap();
        }
        let asked = |selection: Selection| {
            let requests = selection.requests(&names, 7, "t").unwrap();
            requests.iter().map(|request| serde_json::from_str(request).unwrap()).collect::<Vec<serde_json::Value>>()
        };
        let forget = |at: u32, rest: serde_json::Value| {
            let mut event = json!({"type": "forget", "request_id": format!("audit/t/{at}"), "time": 7});
            event.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
            event
        };
        assert_eq!(asked(Selection::Users([1].into())), [forget(0, json!({"user": "v"}))]);
        assert_eq!(asked(Selection::Items([0, 1].into())), [forget(0, json!({"items": ["i", "j"]}))]);
        let pairs = Selection::Pairs([(0, 1), (1, 0), (1, 1)].into());
        assert_eq!(asked(pairs), [forget(0, json!({"user": "u", "items": ["j"]})), forget(1, json!({"user": "v", "items": ["i", "j"]}))]);
    }
}

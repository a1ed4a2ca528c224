//! What the forgets of one batch reach: each interaction belongs to the first forget that selects it. Found in one pass over
//! what is stored, however many forgets name the same person or thing: asking the store once for each of them would
//! read a person with a million interactions a million times.

use std::collections::{BTreeSet, HashMap};

use super::Millis;
use super::play::Play;
use super::ratings::Ratings;
use super::step::{History, Range};

/// Beyond this many look-ups for items that everybody forgets, one pass over everything is cheaper.
const RANGES: usize = 50_000;

/// A selector in numbers. At least a user or items; what the state does not know has no number and is not in it.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    pub user: Option<u32>,
    pub items: Option<Vec<u32>>,
    /// Keyed hashes of event ids.
    pub events: Option<Vec<u64>>,
    pub from: Millis,
    pub to: Millis,
}

/// All wishes of a batch, in its order.
pub(super) struct Reach {
    of_users: HashMap<u32, Claims>,
    of_everybody: Claims,
    wishes: usize,
}

impl Reach {
    pub fn new(wishes: &[Wish]) -> Reach {
        let mut reach = Reach { of_users: HashMap::new(), of_everybody: Claims::default(), wishes: wishes.len() };
        for (at, wish) in (0..).zip(wishes) {
            match wish.user {
                Some(user) => reach.of_users.entry(user).or_default().add(wish, at),
                None => reach.of_everybody.add(wish, at),
            }
        }
        reach.of_users.values_mut().chain([&mut reach.of_everybody]).for_each(Claims::close);
        reach
    }

    /// Which wish an interaction belongs to, by its place in the batch.
    pub fn first(&self, play: &Play) -> Option<u32> {
        let own = self.of_users.get(&play.user).and_then(|claims| claims.first(play));
        let common = self.of_everybody.first(play);
        own.into_iter().chain(common).min()
    }

    /// What each wish finds in the store, ascending. `changed` are the users of whom the store may hold more than the
    /// pairs in memory.
    ///
    /// Costs one pass over the plays of each named user and of whoever is read together with one, and for items that everybody
    /// forgets one over those of their owners, or over everything where these are many.
    ///
    /// # Errors
    /// Whatever the store answers.
    pub fn stored<H: History>(&self, ratings: &Ratings, changed: &[u32], history: &H) -> Result<Vec<Vec<Play>>, H::Error> {
        let mut found = vec![Vec::new(); self.wishes];
        for range in self.ranges(ratings, changed) {
            history.plays(range, &mut |play, _| {
                if let Some(wish) = self.first(&play) {
                    found[wish as usize].push(play);
                }
            })?;
        }
        for plays in &mut found {
            plays.sort_unstable();
        }
        Ok(found)
    }

    /// Where in the store the wishes' interactions can be. The store has no rows by item: who has an item is known from the
    /// pairs in memory, and from everybody whose data changed since these were read.
    fn ranges(&self, ratings: &Ratings, changed: &[u32]) -> Vec<Range> {
        let mut users: Vec<u32> = self.of_users.keys().copied().collect();
        if let Some(items) = self.of_everybody.items()
            && !items.is_empty()
        {
            let owners: usize = items.iter().map(|&item| ratings.items.degree(item as usize)).sum();
            if owners + changed.len() > RANGES {
                return vec![Range::All];
            }
            users.extend(items.iter().flat_map(|&item| ratings.items.row(item as usize).0));
            users.extend(changed);
        }
        users.sort_unstable();
        users.dedup();
        Range::over(&users).collect()
    }
}

/// Wishes that name the same user, or no user.
#[derive(Debug, Default)]
struct Claims {
    parts: HashMap<Part, Earliest>,
    /// A wish without items is among them.
    any_item: bool,
    /// One without event ids is; one with.
    whole: bool,
    by_event: bool,
}

/// What of an interaction a claim asks for besides its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Part {
    item: Option<u32>,
    event: Option<u64>,
}

impl Claims {
    fn add(&mut self, wish: &Wish, at: u32) {
        let items: Vec<Option<u32>> = wish.items.as_ref().map_or_else(|| vec![None], |items| items.iter().copied().map(Some).collect());
        let events: Vec<Option<u64>> = wish.events.as_ref().map_or_else(|| vec![None], |events| events.iter().copied().map(Some).collect());
        self.any_item |= wish.items.is_none();
        self.whole |= wish.events.is_none();
        self.by_event |= wish.events.is_some();
        for &item in &items {
            for &event in &events {
                self.parts.entry(Part { item, event }).or_default().spans.push((wish.from, wish.to, at));
            }
        }
    }

    fn close(&mut self) {
        self.parts.values_mut().for_each(Earliest::close);
    }

    fn first(&self, play: &Play) -> Option<u32> {
        let (item, event) = (Some(play.item), play.ident.filter(|_| self.by_event));
        let whole = [Part { item, event: None }, Part { item: None, event: None }].into_iter().filter(|_| self.whole);
        let by_event = [Part { item, event }, Part { item: None, event }].into_iter().filter(|_| event.is_some());
        whole.chain(by_event).filter_map(|part| self.parts.get(&part)?.at(play.time)).min()
    }

    /// The items that are named; `None` when a wish is for all of them.
    fn items(&self) -> Option<Vec<u32>> {
        let named: BTreeSet<u32> = self.parts.keys().filter_map(|part| part.item).collect();
        (!self.any_item).then(|| named.into_iter().collect())
    }
}

/// The least number of all closed spans of time that hold an instant: one look-up, however many spans there are.
#[derive(Debug, Default)]
struct Earliest {
    /// `(from, to, number)`; empty once it is closed.
    spans: Vec<(Millis, Millis, u32)>,
    /// From when on which number is the least, ascending.
    steps: Vec<(Millis, Option<u32>)>,
}

impl Earliest {
    /// Makes the steps: n log n for n spans.
    fn close(&mut self) {
        let mut edges: Vec<(Millis, bool, u32)> =
            self.spans.drain(..).flat_map(|(from, to, at)| [(from, true, at), (to.saturating_add(1), false, at)]).collect();
        edges.sort_unstable();
        self.spans.shrink_to_fit();
        let mut open = BTreeSet::new();
        for same in edges.chunk_by(|a, b| a.0 == b.0) {
            for &(_, begins, at) in same {
                if begins {
                    open.insert(at)
                } else {
                    open.remove(&at)
                };
            }
            let least = open.first().copied();
            if self.steps.last().is_none_or(|step| step.1 != least) {
                self.steps.push((same[0].0, least));
            }
        }
    }

    fn at(&self, time: Millis) -> Option<u32> {
        let after = self.steps.partition_point(|step| step.0 <= time);
        self.steps[..after].last().and_then(|step| step.1)
    }
}

#[cfg(test)]
#[path = "reach_tests.rs"]
mod tests;

//! The state of the service and what an event does to it: facts in, a [`Step`] out. The shell commits the step; if
//! that fails the process ends, so memory never runs ahead of the store for long.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::dictionary::{Dictionary, NumbersExhausted};
use super::event::{self, Forget, Refusal, Selector};
use super::factors::{Factors, Side};
use super::fence::{self, Fences};
use super::generation::{Current, read_all};
use super::intake::{Known, Reading};
use super::local::Base;
use super::play::{Play, ordered};
use super::ratings::{Changes, Ratings};
use super::receipt::{Receipt, Removed, Request, RequestKey, Stages, Status, instant};
use super::step::{DeadLetter, History, Input, Marks, Outgoing, Positions, Range, Step};
use super::{Millis, Objective, Params};

/// Largest part of an undecodable record that goes to the dead letters: brokers refuse records above 1 MiB.
const DEAD_LETTER_BYTES: usize = 1_000_000;
/// Up to this many items of one user are looked up pair by pair; beyond, the user's whole row is read.
const PAIR_LOOKUPS: usize = 64;
/// Beyond this many look-ups for an item that everybody forgets, one pass over everything is cheaper.
const RANGES: usize = 50_000;

/// Why a batch could not be taken in.
#[derive(Debug, thiserror::Error)]
pub enum FoldError<E: std::error::Error> {
    #[error(transparent)]
    History(E),
    #[error(transparent)]
    Exhausted(#[from] NumbersExhausted),
}

/// Names of the topics that are read.
#[derive(Debug, Clone)]
pub struct InputTopics {
    pub interactions: String,
    pub forgets: String,
}

/// The state: what the store holds, as far as it is needed to decide.
#[derive(Debug)]
pub struct State {
    pub(super) params: Params,
    pub(super) topics: InputTopics,
    pub(super) dictionary: Dictionary,
    pub(super) fences: Fences,
    pub(super) positions: Positions,
    /// Pairs at the last freeze.
    pub(super) ratings: Arc<Ratings>,
    pub(super) current: Option<Current>,
    /// Requests that are not published yet.
    pub(super) waiting: HashMap<RequestKey, Request>,
    /// Users and items of which data changed since the last freeze.
    pub(super) dirty: [Marks; 2],
    /// Every name must be checked for data at the next freeze, not only those marked.
    pub(super) recheck: bool,
    /// Events since the last freeze.
    pub(super) changed: u64,
    /// Pairs in which `ratings` differ from the data of the current generation; `None` when that is not known.
    pub(super) since: Option<Changes>,
    /// What the current generation keeps for a quick step, if it was solved here.
    pub(super) base: Option<Arc<Base>>,
    /// Where a solve that was ended early stood.
    pub(super) resume: Option<Arc<Factors>>,
    /// What a solve of everything is expected to take.
    pub(super) solve_seconds: f64,
}

/// What a restart finds in the store.
#[derive(Debug)]
pub struct Restored {
    pub dictionary: Dictionary,
    pub fences: Fences,
    pub positions: Positions,
    pub current: Option<Current>,
    pub waiting: HashMap<RequestKey, Request>,
}

impl State {
    /// Goes on from what the store holds. Costs a scan of all plays.
    ///
    /// # Errors
    /// Whatever the store answers.
    pub fn open<H: History>(params: Params, topics: InputTopics, restored: Restored, history: &H) -> Result<State, H::Error> {
        let Restored { dictionary, fences, positions, current, waiting } = restored;
        // What came after the last cut, or another configuration, asks for a generation.
        let cut: Positions = current.as_ref().map(Current::cut).unwrap_or_default();
        let moved: i64 = positions.iter().map(|(at, next)| (next - cut.get(at).unwrap_or(&0)).abs()).sum();
        let same = current.as_ref().is_none_or(|current| current.manifest.model.params == params && current.manifest.certificate.holds());
        let changed = (moved as u64).max(u64::from(!same));
        let ratings = Arc::new(read_all(history, params.objective)?);
        let solve_seconds = current.as_ref().map_or(0.0, |current| current.manifest.certificate.seconds);
        Ok(State {
            params,
            topics,
            dictionary,
            fences,
            positions,
            ratings,
            current,
            waiting,
            dirty: Default::default(),
            recheck: true,
            changed,
            since: (moved == 0).then_some(Changes::NONE),
            base: None,
            resume: None,
            solve_seconds,
        })
    }

    pub fn positions(&self) -> &Positions {
        &self.positions
    }

    pub fn dictionary(&self) -> &Dictionary {
        &self.dictionary
    }

    pub fn fences(&self) -> &Fences {
        &self.fences
    }

    pub fn current(&self) -> Option<&Current> {
        self.current.as_ref()
    }

    pub fn ratings(&self) -> &Arc<Ratings> {
        &self.ratings
    }

    pub fn waiting(&self) -> &HashMap<RequestKey, Request> {
        &self.waiting
    }

    /// Events that the current generation does not know.
    pub fn changed(&self) -> u64 {
        self.changed
    }

    /// Takes in a batch of records.
    ///
    /// The state is a function of the set of events: a forget also holds for what its fence covers later, so within
    /// a batch only the counts of a receipt depend on the order.
    ///
    /// # Errors
    /// [`FoldError`] when the store cannot be read or a side has run out of numbers; the state is then of no use.
    pub fn fold<'a, H: History>(
        &mut self,
        topics: &[String],
        inputs: impl Iterator<Item = Input<'a>>,
        now: Millis,
        history: &H,
    ) -> Result<Step, FoldError<H::Error>> {
        let inputs: Vec<Input<'a>> = inputs.collect();
        let readings = self.read(topics, &inputs);
        let mut fold = Fold { step: Step::default(), sorted: true, erased: HashSet::new(), now, history };
        let mut places: Vec<Place> = Vec::new();
        let mut last = 0;
        for (input, reading) in inputs.iter().zip(readings) {
            last = self.place(topics, &mut places, last, input);
            let place = &mut places[last];
            if input.offset < place.next && !input.reset {
                fold.step.tally.seen += 1;
                continue;
            }
            place.next = input.offset + 1;
            match reading {
                Reading::Empty => fold.step.tally.empty += 1,
                Reading::Interaction(known) => self.interaction(&mut fold, &known)?,
                Reading::Forget(forget) => self.forget(&mut fold, forget).map_err(FoldError::History)?,
                Reading::Refused(refusal) => fold.step.outbox.push(dead_letter(&topics[input.topic as usize], input, refusal)),
            }
        }
        for place in places {
            let at = (topics[place.topic as usize].clone(), place.partition);
            fold.step.positions.insert(at.clone(), place.next);
            self.positions.insert(at, place.next);
        }
        fold.sort();
        let mut step = fold.step;
        step.erased.sort_unstable();
        Ok(step)
    }

    /// Finds or makes the running entry of a record's partition; most records follow one of the same.
    fn place(&self, topics: &[String], places: &mut Vec<Place>, last: usize, input: &Input<'_>) -> usize {
        let same = |place: &Place| place.topic == input.topic && place.partition == input.partition;
        if places.get(last).is_some_and(same) {
            return last;
        }
        places.iter().position(same).unwrap_or_else(|| {
            let name = &topics[input.topic as usize];
            let next = self.positions.get(&(name.clone(), input.partition)).copied().unwrap_or(0);
            places.push(Place { topic: input.topic, partition: input.partition, next });
            places.len() - 1
        })
    }

    fn interaction<H: History>(&mut self, fold: &mut Fold<'_, H>, known: &Known<'_>) -> Result<(), NumbersExhausted> {
        let event = &known.event;
        // Fences of this batch were not up when it was read.
        if known.fenced || (!fold.step.rules.is_empty() && self.fences.cover(event)) {
            fold.step.tally.fenced += 1;
            return Ok(());
        }
        let user = self.number(fold, Side::User, &event.user, known.user)?;
        let item = self.number(fold, Side::Item, &event.item, known.item)?;
        // Only ratings of equal time are decided by the id itself.
        let name = match (self.params.objective, &event.event_id) {
            (Objective::Explicit, Some(id)) => Box::from(&**id),
            _ => Box::default(),
        };
        let play = Play { user, item, ident: known.ident, time: event.time, value: ordered(event.value) };
        fold.sorted = fold.sorted && fold.step.plays.last().is_none_or(|(last, _)| *last < play);
        fold.step.plays.push((play, name));
        self.dirty[Side::User as usize].set(user);
        self.dirty[Side::Item as usize].set(item);
        self.changed += 1;
        fold.step.tally.interactions += 1;
        Ok(())
    }

    /// The number of a name: what was found when the batch was read, else what the batch has brought, else a new one.
    fn number<H>(&mut self, fold: &mut Fold<'_, H>, side: Side, name: &str, found: Option<u32>) -> Result<u32, NumbersExhausted> {
        if let Some(number) = found {
            return Ok(number);
        }
        let (number, new) = self.dictionary.assign(side, name)?;
        if new {
            fold.step.identities.push((side, number));
        }
        Ok(number)
    }

    fn forget<H: History>(&mut self, fold: &mut Fold<'_, H>, forget: Forget) -> Result<(), H::Error> {
        let key = self.fences.key().request(&forget.request_id);
        let before = match self.waiting.get(&key) {
            Some(request) => Some(request.clone()),
            None => fold.history.request(&key)?,
        };
        if let Some(before) = before {
            if before.content == self.fences.key().content(&forget.content) {
                fold.step.tally.repeated += 1;
                fold.step.outbox.push(Outgoing::Receipt(before.receipt));
            } else {
                fold.step.tally.rejected += 1;
                fold.step.outbox.push(Outgoing::Receipt(rejected(&forget)));
            }
            return Ok(());
        }
        for rule in fence::rules(self.fences.key(), &forget.selector) {
            self.fences.insert(&rule);
            fold.step.rules.push(rule);
        }
        let erased = self.select(fold, &forget.selector)?;
        let mut request = accepted(&forget, &erased, fold.now);
        request.content = self.fences.key().content(&forget.content);
        for play in &erased {
            self.dirty[Side::User as usize].set(play.user);
            self.dirty[Side::Item as usize].set(play.item);
        }
        self.changed += erased.len() as u64;
        fold.erase(erased);
        fold.step.tally.forgets += 1;
        fold.step.outbox.push(Outgoing::Receipt(request.receipt.clone()));
        fold.step.requests.push((key, request.clone()));
        self.waiting.insert(key, request);
        Ok(())
    }

    /// All plays, stored or of this batch, that a selector names.
    fn select<H: History>(&self, fold: &mut Fold<'_, H>, selector: &Selector) -> Result<Vec<Play>, H::Error> {
        let number = |side, name: &String| self.dictionary.get(side, name);
        let items: Option<Vec<u32>> = selector.items.as_ref().map(|items| {
            let mut items: Vec<u32> = items.iter().filter_map(|item| number(Side::Item, item)).collect();
            items.sort_unstable();
            items
        });
        let user = match &selector.user {
            None => None,
            Some(user) => match number(Side::User, user) {
                None => return Ok(Vec::new()),
                user => user,
            },
        };
        let events: Option<HashSet<u64>> =
            selector.event_ids.as_ref().map(|ids| ids.iter().map(|id| self.fences.key().event(id)).collect());
        let matches = |play: &Play| {
            user.is_none_or(|user| play.user == user)
                && items.as_ref().is_none_or(|items| items.binary_search(&play.item).is_ok())
                && events.as_ref().is_none_or(|events| play.ident.is_some_and(|ident| events.contains(&ident)))
                && (selector.from..=selector.to).contains(&play.time)
        };
        let mut found = Vec::new();
        for range in self.ranges(user, items.as_deref()) {
            fold.history.plays(range, &mut |play, _| {
                if matches(&play) && !fold.erased.contains(&play) {
                    found.push(play);
                }
            })?;
        }
        fold.sort();
        let pending = &fold.step.plays;
        let part = match user {
            Some(user) => &pending[pending.partition_point(|p| p.0.user < user)..pending.partition_point(|p| p.0.user <= user)],
            None => &pending[..],
        };
        found.extend(part.iter().map(|(play, _)| *play).filter(|play| matches(play)));
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// Where in the store a selector's plays can be. The store has no rows by item: who has an item is known from the
    /// pairs in memory, and from everybody whose data changed since these were read.
    fn ranges(&self, user: Option<u32>, items: Option<&[u32]>) -> Vec<Range> {
        match (user, items) {
            (Some(user), Some(items)) if items.len() <= PAIR_LOOKUPS => items.iter().map(|&item| Range::Pair(user, item)).collect(),
            (Some(user), _) => vec![Range::User(user)],
            (None, Some(items)) => {
                let changed = &self.dirty[Side::User as usize];
                let owners: usize = items.iter().map(|&item| self.ratings.items.degree(item as usize)).sum();
                if owners + changed.rows().len() > RANGES {
                    return vec![Range::All];
                }
                let of_item = |&item: &u32| {
                    let owners = self.ratings.items.row(item as usize).0.iter();
                    owners.filter(|&&user| !changed.contains(user)).map(move |&user| Range::Pair(user, item)).collect::<Vec<_>>()
                };
                items.iter().flat_map(of_item).chain(changed.rows().iter().map(|&user| Range::User(user))).collect()
            }
            (None, None) => vec![Range::All],
        }
    }
}

/// A partition while a batch is taken in.
struct Place {
    topic: u16,
    partition: i32,
    next: i64,
}

/// A batch while it is taken in.
struct Fold<'h, H> {
    step: Step,
    /// `step.plays` is sorted and without repetition.
    sorted: bool,
    /// Stored plays that this batch erases already.
    erased: HashSet<Play>,
    now: Millis,
    history: &'h H,
}

impl<H> Fold<'_, H> {
    fn sort(&mut self) {
        if !self.sorted {
            self.step.plays.sort_unstable();
            self.step.plays.dedup();
            self.sorted = true;
        }
    }

    /// Takes plays out of the batch and marks them for deletion in the store; `plays` are sorted.
    fn erase(&mut self, plays: Vec<Play>) {
        if plays.is_empty() {
            return;
        }
        self.step.plays.retain(|(play, _)| plays.binary_search(play).is_err());
        self.step.erased.extend(&plays);
        self.erased.extend(plays);
    }
}

fn accepted(forget: &Forget, erased: &[Play], now: Millis) -> Request {
    let rows = |of: fn(&Play) -> u32| {
        let mut rows: Vec<u32> = erased.iter().map(of).collect();
        rows.sort_unstable();
        rows.dedup();
        rows
    };
    // Two records of one identity are one interaction.
    let mut identities: Vec<_> = erased.iter().map(|p| (p.user, p.item, p.ident, p.ident.map_or(p.time, |_| 0))).collect();
    identities.sort_unstable();
    identities.dedup();
    let receipt = Receipt {
        request_id: forget.request_id.clone(),
        status: Status::Erased,
        stages: Stages { accepted: Some(instant(now)), erased: Some(instant(now)), ..Stages::default() },
        selector: forget.selector.shape(),
        removed: Removed { interactions: identities.len() as u64, users: 0, items: 0 },
        generation: None,
        certificate: None,
        exactness: vec!["E0".to_owned()],
        purged_from: Vec::new(),
        error: None,
    };
    Request { content: forget.content, receipt, users: rows(|play| play.user), items: rows(|play| play.item) }
}

fn rejected(forget: &Forget) -> Receipt {
    Receipt {
        request_id: forget.request_id.clone(),
        status: Status::Rejected,
        stages: Stages::default(),
        selector: forget.selector.shape(),
        removed: Removed::default(),
        generation: None,
        certificate: None,
        exactness: Vec::new(),
        purged_from: Vec::new(),
        error: Some("this request_id was used for another request; send it again under a new one".to_owned()),
    }
}

fn dead_letter(topic: &str, input: &Input<'_>, refusal: Refusal) -> Outgoing {
    let payload = input.payload.unwrap_or_default();
    Outgoing::DeadLetter(DeadLetter {
        topic: topic.to_owned(),
        partition: input.partition,
        offset: input.offset,
        // A key is as long as a record may be; the letter must fit into one.
        key: input.key.map(|key| key[..key.len().min(event::MAX_ID + 2)].to_vec()),
        value: payload[..payload.len().min(DEAD_LETTER_BYTES)].to_vec(),
        length: payload.len() as u64,
        error: refusal.code.to_owned(),
        detail: refusal.detail.chars().take(512).collect(),
    })
}

//! The state of the service and what an event does to it: facts in, a [`Step`] out. The shell commits the step; if
//! that fails the process ends, so memory never runs ahead of the store for long.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::afresh::Afresh;
use super::dictionary::{Dictionary, NumbersExhausted};
use super::event::{Event, Forget, Interaction, Selector};
use super::factors::{Factors, Side};
use super::fence::{self, Fences};
use super::generation::Current;
use super::intake::{Reading, dead_letter};
use super::local::Base;
use super::pairs;
use super::play::Play;
use super::ratings::{Changes, Ratings, Rows};
use super::reach::{Reach, Wish};
use super::receipt::{Receipt, Removed, Request, RequestKey, Stages, Status, instant};
use super::step::{History, Input, Marks, Outgoing, Positions, Step};
use super::young::Young;
use super::{Millis, Params};

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
    /// What changed it, as far as it is kept.
    pub(super) young: Young,
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
    /// What readers have, when that is not what `current` says.
    pub(super) afresh: Option<Afresh>,
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
        let distance = |(at, next): (&(String, i32), &i64)| next.abs_diff(*cut.get(at).unwrap_or(&0));
        let moved = positions.iter().map(distance).fold(0, u64::saturating_add);
        let same = current.as_ref().is_none_or(|current| current.manifest.model.params == params && current.manifest.certificate.holds());
        let changed = moved.max(u64::from(!same));
        let ratings = Arc::new(pairs::read_all(history, params.objective, dictionary.next(Side::User))?);
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
            young: Young::default(),
            recheck: true,
            changed,
            since: (moved == 0).then_some(Changes::NONE),
            base: None,
            resume: None,
            solve_seconds,
            afresh: None,
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

    /// Puts the fences that are left in the place of those that were.
    pub fn keep_fences(&mut self, fences: Fences) {
        self.fences = fences;
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

    /// A user or an item that interactions are stored of and that has no name: the store is damaged, and a model of it would
    /// say something of nobody. Known after [`State::open`].
    pub fn nameless(&self) -> Option<(Side, u32)> {
        let sides = [(Side::User, &self.ratings.users), (Side::Item, &self.ratings.items)];
        let nameless = |(side, rows): (Side, &Rows)| {
            let name = |row: u32| self.dictionary.name(side, row).is_none() && rows.degree(row as usize) > 0;
            (0..rows.len() as u32).find(|&row| name(row)).map(|row| (side, row))
        };
        sides.into_iter().find_map(nameless)
    }

    /// What a solve of everything is expected to take.
    pub fn solve_time(&self) -> Duration {
        Duration::try_from_secs_f64(self.solve_seconds).unwrap_or_default()
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
        let mut fold = Fold::default();
        fold.step.plays.reserve(inputs.len());
        let changed = self.dirty[Side::User as usize].rows().len();
        let mut places: Vec<Place> = Vec::new();
        let mut last = 0;
        for (input, reading) in inputs.iter().zip(readings.into_iter().flatten()) {
            last = self.place(topics, &mut places, last, input);
            let place = &mut places[last];
            if input.offset < place.next && !input.reset {
                fold.step.tally.seen += 1;
                continue;
            }
            place.next = input.offset + 1;
            match reading {
                Reading::Empty => fold.step.tally.empty += 1,
                Reading::Fenced => fold.step.tally.fenced += 1,
                // Fences of this batch were not up when it was read.
                Reading::Play(..) if self.is_fenced(&fold, &topics[input.topic as usize], input) => fold.step.tally.fenced += 1,
                Reading::Play(play, name) => self.interaction(&mut fold, play, name),
                Reading::New(event) => self.newcomer(&mut fold, &event)?,
                Reading::Forget(forget) => self.forget(&mut fold, &forget, now, history).map_err(FoldError::History)?,
                Reading::Refused(refusal) => fold.step.outbox.push(dead_letter(&topics[input.topic as usize], input, *refusal)),
            }
        }
        for place in places {
            let at = (topics[place.topic as usize].clone(), place.partition);
            fold.step.positions.insert(at.clone(), place.next);
            self.positions.insert(at, place.next);
        }
        if fold.unsorted {
            sort(&mut fold.step.plays);
            fold.step.plays.dedup();
        }
        if !fold.asked.is_empty() {
            self.erase(&mut fold, changed, history).map_err(FoldError::History)?;
        }
        self.young.add(&fold.step.plays);
        Ok(fold.step)
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

    /// Is the interaction of this record covered by a fence that the batch itself brought?
    fn is_fenced(&self, fold: &Fold, topic: &String, input: &Input<'_>) -> bool {
        // Its names are not kept: few batches bring a request, and those are read twice from there on.
        let covers = |event| matches!(event, Some(Ok(Event::Interaction(event))) if self.fences.cover(&event));
        !fold.step.rules.is_empty() && covers(self.decode(topic, input))
    }

    fn interaction(&mut self, fold: &mut Fold, play: Play, name: Box<str>) {
        fold.unsorted |= fold.step.plays.last().is_some_and(|(last, _)| *last >= play);
        self.dirty[Side::User as usize].set(play.user);
        self.dirty[Side::Item as usize].set(play.item);
        fold.step.plays.push((play, name));
        self.changed += 1;
        fold.step.tally.interactions += 1;
    }

    /// An interaction of a user or an item of whom nothing was known before the batch.
    fn newcomer(&mut self, fold: &mut Fold, event: &Interaction<'_>) -> Result<(), NumbersExhausted> {
        if !fold.step.rules.is_empty() && self.fences.cover(event) {
            fold.step.tally.fenced += 1;
            return Ok(());
        }
        let [user, item] = [(Side::User, &event.user), (Side::Item, &event.item)].map(|(side, name)| self.number(fold, side, name));
        let (play, name) = self.play(event, user?, item?);
        self.interaction(fold, play, name);
        Ok(())
    }

    /// The number of a name: one that it has, else a new one.
    fn number(&mut self, fold: &mut Fold, side: Side, name: &str) -> Result<u32, NumbersExhausted> {
        let (number, new) = self.dictionary.assign(side, name)?;
        if new {
            fold.step.identities.push((side, number));
        }
        Ok(number)
    }

    /// Raises the fences of a request that is new; what it reaches is looked for when the whole batch is read.
    fn forget<H: History>(&mut self, fold: &mut Fold, forget: &Forget, now: Millis, history: &H) -> Result<(), H::Error> {
        let key = self.fences.key().request(&forget.request_id);
        let content = self.fences.key().content(&forget.content);
        let (place, earlier) = (fold.step.outbox.len(), fold.by_key.get(&key).copied());
        let before = match (earlier, self.waiting.get(&key)) {
            (Some(at), _) => Some(fold.asked[at].request.clone()),
            (None, Some(request)) => Some(request.clone()),
            (None, None) => history.request(&key)?,
        };
        if let Some(before) = before {
            if before.content != content {
                fold.step.tally.rejected += 1;
                fold.step.outbox.push(Outgoing::Receipt(rejected(forget)));
                return Ok(());
            }
            fold.step.tally.repeated += 1;
            fold.step.outbox.push(Outgoing::Receipt(before.receipt));
            earlier.into_iter().for_each(|at| fold.asked[at].places.push(place));
            return Ok(());
        }
        for rule in fence::rules(self.fences.key(), &forget.selector, now) {
            self.fences.insert(&rule);
            fold.step.rules.push(rule);
        }
        let request = accepted(forget, content, now);
        fold.step.tally.forgets += 1;
        fold.step.outbox.push(Outgoing::Receipt(request.receipt.clone()));
        fold.by_key.insert(key, fold.asked.len());
        fold.asked.push(Asked { key, request, wish: self.wish(&forget.selector), places: vec![place] });
        Ok(())
    }

    /// A selector in the numbers of the dictionary.
    fn wish(&self, selector: &Selector) -> Wish {
        let number = |side, name: &String| self.dictionary.get(side, name);
        let user = selector.user.as_ref().map(|user| number(Side::User, user));
        let items = selector.items.as_ref().map(|items| items.iter().filter_map(|item| number(Side::Item, item)).collect());
        let events = selector.event_ids.as_ref().map(|ids| ids.iter().map(|id| self.fences.key().event(id)).collect());
        let (from, to) = (selector.from, selector.to);
        match user {
            // Nobody of that name is known, so nothing is reached.
            Some(None) => Wish { user: None, items: Some(Vec::new()), events, from, to },
            user => Wish { user: user.flatten(), items, events, from, to },
        }
    }

    /// Erases what the batch's requests reach, in the store and in the batch itself, and completes their receipts. `changed`
    /// is how many users were marked before the batch: what it brings is not in the store yet.
    fn erase<H: History>(&mut self, fold: &mut Fold, changed: usize, history: &H) -> Result<(), H::Error> {
        let wishes: Vec<Wish> = fold.asked.iter().map(|asked| asked.wish.clone()).collect();
        let reach = Reach::new(&wishes);
        let mut found = reach.stored(&self.ratings, &self.dirty[Side::User as usize].rows()[..changed], history)?;
        let step = &mut fold.step;
        step.plays.retain(|(play, _)| match reach.first(play) {
            Some(wish) => {
                found[wish as usize].push(*play);
                false
            }
            None => true,
        });
        for (asked, mut plays) in fold.asked.drain(..).zip(found) {
            plays.sort_unstable();
            plays.dedup();
            let Asked { key, mut request, places, .. } = asked;
            reached(&mut request, &plays);
            for play in &plays {
                self.dirty[Side::User as usize].set(play.user);
                self.dirty[Side::Item as usize].set(play.item);
                self.young.erased(play.user);
            }
            self.changed += plays.len() as u64;
            places.into_iter().for_each(|place| step.outbox[place] = Outgoing::Receipt(request.receipt.clone()));
            step.erased.extend(plays);
            step.requests.push((key, request.clone()));
            self.waiting.insert(key, request);
        }
        step.erased.sort_unstable();
        Ok(())
    }
}

/// As `sort_unstable`, but what is compared and moved is a number for each: a play takes four times its room.
fn sort(plays: &mut [(Play, Box<str>)]) {
    let pair = |play: &Play| u64::from(play.user) << 32 | u64::from(play.item);
    plays.sort_by_cached_key(|(play, _)| pair(play));
    plays.chunk_by_mut(|(a, _), (b, _)| pair(a) == pair(b)).filter(|same| same.len() > 1).for_each(<[_]>::sort_unstable);
}

/// A partition while a batch is taken in.
struct Place {
    topic: u16,
    partition: i32,
    next: i64,
}

/// A batch while it is taken in.
#[derive(Default)]
struct Fold {
    step: Step,
    /// `step.plays` is not sorted or has repetitions.
    unsorted: bool,
    /// Requests that this batch brought, and their places in it.
    asked: Vec<Asked>,
    by_key: HashMap<RequestKey, usize>,
}

/// A new request, before it is known what it reaches.
struct Asked {
    key: RequestKey,
    request: Request,
    wish: Wish,
    /// Where the outbox holds its receipt.
    places: Vec<usize>,
}

/// A request of which it is not known yet what it reaches.
fn accepted(forget: &Forget, content: [u8; 32], now: Millis) -> Request {
    let receipt = Receipt {
        request_id: forget.request_id.clone(),
        status: Status::Erased,
        stages: Stages { accepted: Some(instant(now)), erased: Some(instant(now)), ..Stages::default() },
        selector: forget.selector.shape(),
        removed: Removed::default(),
        generation: None,
        certificate: None,
        exactness: vec!["E0".to_owned()],
        purged_from: Vec::new(),
        backups: None,
        error: None,
    };
    Request { content, receipt, users: Vec::new(), items: Vec::new() }
}

/// Notes what a request erased; `plays` are sorted.
fn reached(request: &mut Request, plays: &[Play]) {
    let rows = |of: fn(&Play) -> u32| {
        let mut rows: Vec<u32> = plays.iter().map(of).collect();
        rows.sort_unstable();
        rows.dedup();
        rows
    };
    // Two records of one identity are one interaction.
    let mut identities: Vec<_> = plays.iter().map(|p| (p.user, p.item, p.ident, p.ident.map_or(p.time, |_| 0))).collect();
    identities.sort_unstable();
    identities.dedup();
    request.receipt.removed.interactions = identities.len() as u64;
    (request.users, request.items) = (rows(|play| play.user), rows(|play| play.item));
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
        backups: None,
        error: Some("this request_id was used for another request; send it again under a new one".to_owned()),
    }
}

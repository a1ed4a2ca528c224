//! The audit's own copy of a state: opened with the code of the service, changed in memory only.

use std::sync::Arc;

use super::overlay::Overlay;
use super::progress::Step;
use super::sample::Selection;
use crate::cli::CliError;
use crate::model::dictionary::Dictionary;
use crate::model::factors::{Factors, Side, initial_row};
use crate::model::fence::{Fences, HashKey};
use crate::model::generation::COLD_SHARE;
use crate::model::play::Row;
use crate::model::play::{Play, unordered};
use crate::model::processor::{FoldError, InputTopics, Restored, State};
use crate::model::ratings::{Builder, Ratings};
use crate::model::snapshot::DataDigest;
use crate::model::step::{History, Input, Range, Step as Change};
use crate::model::unlearn::Problem;
use crate::model::{Certify, Millis, Params};
use crate::store::memory::MemoryStore;
use crate::store::tables::Tables;
use crate::store::{Store, StoreError};

/// No topic of a broker has such a name: `/` is not allowed in it.
const TOPICS: [&str; 2] = ["audit/interactions", "audit/forgets"];
/// Plays that are rebuilt in one go; bounds the memory of a rebuild.
const SLICE: usize = 200_000;

/// A copy that events can be folded into.
pub struct Copy {
    pub tables: Tables,
    pub state: State,
}

impl Copy {
    /// Of the state in a store, which stays as it is. Costs a scan of all plays.
    ///
    /// # Errors
    /// Exit 2 when the state is of another objective, 4 when it is damaged.
    pub fn of(store: Arc<dyn Store>, params: &Params, key: &HashKey) -> Result<Copy, CliError> {
        let tables = Tables::new(Arc::new(Overlay::new(store)), params.objective, key)?;
        let restored = tables.restore(key.clone())?;
        let state = State::open(params.clone(), topics(), restored, &tables)?;
        Ok(Copy { tables, state })
    }

    /// An empty one behind the same fences.
    fn empty(params: &Params, fences: &Fences) -> Result<Copy, CliError> {
        let tables = Tables::new(Arc::new(MemoryStore::default()), params.objective, fences.key())?;
        let restored = Restored {
            dictionary: Dictionary::default(),
            fences: fences.clone(),
            positions: Default::default(),
            current: None,
            waiting: Default::default(),
        };
        let state = State::open(params.clone(), topics(), restored, &tables)?;
        Ok(Copy { tables, state })
    }

    /// Takes in events the way the service does, and commits what they change.
    ///
    /// # Errors
    /// Exit 1 for an event that is refused: the audit made it, so it is a defect.
    pub fn fold(&mut self, forgets: bool, events: &[String], now: Millis) -> Result<Change, CliError> {
        let topics = TOPICS.map(str::to_owned);
        let inputs = events.iter().enumerate().map(|(offset, event)| Input {
            topic: u16::from(forgets),
            partition: 0,
            offset: offset as i64,
            timestamp: None,
            reset: offset == 0,
            key: None,
            payload: Some(event.as_bytes()),
        });
        let step = self.state.fold(&topics, inputs, now, &self.tables).map_err(|error| match error {
            FoldError::History(error) => CliError::from(error),
            FoldError::Exhausted(error) => CliError::failed(error),
        })?;
        self.tables.commit(&step, self.state.dictionary())?;
        let tally = &step.tally;
        let taken = tally.interactions + tally.fenced + tally.forgets;
        if taken != events.len() as u64 {
            let refused = events.len() as u64 - taken;
            return Err(CliError::failed(format!("{refused} events that the audit made itself were refused; please report it")));
        }
        Ok(step)
    }

    /// Digest of all interactions.
    ///
    /// # Errors
    /// Exit 4 when the state is damaged.
    pub fn digest(&self) -> Result<String, CliError> {
        let mut digest = DataDigest::default();
        digest.add(self.state.dictionary(), &self.tables)?;
        Ok(digest.finish())
    }
}

fn topics() -> InputTopics {
    let [interactions, forgets] = TOPICS.map(str::to_owned);
    InputTopics { interactions, forgets }
}

/// What a rebuild found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebuilt {
    pub digest: String,
    /// Plays that went in.
    pub plays: u64,
    /// Plays that a fence kept out: somebody asked to forget them, and they were still there.
    pub fenced: u64,
}

/// Builds stores from nothing but the plays of `tables` that are not `forgotten`, event by event through the code that
/// takes in events from the topics, behind the fences of the state; answers the digest of what they hold.
///
/// Users go in by name, some at a time, so that the memory needed does not grow with the state.
///
/// # Errors
/// Exit 4 when the state is damaged.
pub fn rebuild(tables: &Tables, from: &Restored, params: &Params, forgotten: Option<&Selection>, told: &Step) -> Result<Rebuilt, CliError> {
    every_play_is_named(tables, &from.dictionary)?;
    let names = from.dictionary.names(Side::User);
    let mut users: Vec<(&str, u32)> =
        names.iter().enumerate().filter_map(|(number, name)| Some((name.as_deref()?, number as u32))).collect();
    users.sort_unstable();
    let (mut digest, mut rebuilt) = (DataDigest::default(), Rebuilt { digest: String::new(), plays: 0, fenced: 0 });
    let mut events: Vec<String> = Vec::new();
    for (at, (user, number)) in users.iter().enumerate() {
        tables.plays(Range::User(*number), &mut |play, event_id| {
            let stays = !forgotten.is_some_and(|forgotten| forgotten.contains(play.user, play.item));
            if let Some(item) = from.dictionary.name(Side::Item, play.item).filter(|_| stays) {
                events.push(event(user, item, &play, event_id));
            }
        })?;
        if events.len() >= SLICE || at + 1 == users.len() {
            let mut slice = Copy::empty(params, &from.fences)?;
            let step = slice.fold(false, &events, 0)?;
            digest.add(slice.state.dictionary(), &slice.tables)?;
            rebuilt.plays += step.tally.interactions;
            rebuilt.fenced += step.tally.fenced;
            told.at(&format!("{:.0} %", 100.0 * (at + 1) as f64 / users.len() as f64));
            events.clear();
        }
    }
    rebuilt.digest = digest.finish();
    Ok(rebuilt)
}

/// Plays of a user or an item without a name would pass unseen through everything that goes by name: the digest too.
fn every_play_is_named(tables: &Tables, names: &Dictionary) -> Result<(), CliError> {
    let mut nameless_row = None;
    tables.plays(Range::All, &mut |play, _| {
        for (side, number) in [(Side::User, play.user), (Side::Item, play.item)] {
            if names.name(side, number).is_none() {
                nameless_row = Some((side, number));
            }
        }
    })?;
    nameless_row.map_or(Ok(()), |(side, number)| Err(nameless(side, number)))
}

/// The error for a row that has data and no name.
pub fn nameless(side: Side, number: u32) -> CliError {
    StoreError::nameless(side, number).into()
}

/// A stored play as the event that it came from. Where only the hash of an event id is kept, the hash takes its place:
/// plays that were one event stay one.
fn event(user: &str, item: &str, play: &Play, event_id: &str) -> String {
    let mut event =
        serde_json::json!({"type": "interaction", "user": user, "item": item, "value": unordered(play.value), "time": play.time});
    if let Some(ident) = play.ident {
        event["event_id"] = if event_id.is_empty() { format!("{ident:016x}").into() } else { event_id.into() };
    }
    event.to_string()
}

/// The problem of training on `ratings`: from `previous` where less than a quarter of the pairs changed, as the service
/// does it; else, and without it, from the random rows of the seed.
pub fn problem(params: &Params, names: &Dictionary, ratings: &Arc<Ratings>, previous: Option<(&Factors, u64)>) -> Problem {
    let previous = previous.and_then(|(factors, changed)| {
        let warm = changed as f64 <= COLD_SHARE * ratings.pairs().max(1) as f64 && factors.users.rank() == params.rank;
        warm.then(|| Arc::new(factors.clone()))
    });
    let known = |item: usize| previous.as_ref().is_some_and(|factors| factors.items.is_live(item));
    let initial = (0..ratings.items.len())
        .filter(|&item| ratings.items.degree(item) > 0 && !known(item))
        .filter_map(|item| Some((item as u32, initial_row(params.seed, Side::Item, names.name(Side::Item, item as u32)?, params.rank))))
        .collect();
    Problem { params: params.clone(), ratings: ratings.clone(), initial, previous }
}

/// The settings of a retrain: random rows of its own, and no global certificate, which nobody would read.
pub fn retrained(params: &Params, at: u64) -> Params {
    Params { seed: params.seed.wrapping_add(at), certify: Certify::Residual, ..params.clone() }
}

/// The pairs without those that are `gone`.
pub fn without(ratings: &Ratings, gone: impl Fn(u32, u32) -> bool) -> Ratings {
    let mut builder = Builder::default();
    for user in 0..ratings.users.len() {
        let (columns, values) = ratings.users.row(user);
        let kept = columns.iter().zip(values).filter(|(item, _)| !gone(user as u32, **item));
        let (columns, values): (Vec<u32>, Vec<f32>) = kept.unzip();
        if !columns.is_empty() {
            let interactions = columns.len() as u32;
            builder.push(user as u32, &Row { columns: columns.into(), values: values.into(), interactions });
        }
    }
    builder.finish()
}

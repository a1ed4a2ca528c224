//! The interactions as pairs with their times, from a state directory or from a file, numbered by name.

use std::collections::HashMap;
use std::sync::Arc;

use indicatif::ProgressBar;

use crate::cli::reading::State;
use crate::cli::send::input::{InputArgs, Tally, open, shown};
use crate::cli::send::lines::Lines;
use crate::cli::{CliError, output};
use crate::model::dictionary::Dictionary;
use crate::model::event::{self, Event, Interaction, Kind, Origin};
use crate::model::factors::Side;
use crate::model::play::{Play, fold_user, ordered};
use crate::model::step::{History, Range};
use crate::model::{Millis, Objective};
use crate::store::StoreError;

const WHY_TIMES: &str = "the last interaction of each user is the one to predict";

/// A user's pairs, ascending by item.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairRow<'a> {
    pub items: &'a [u32],
    pub values: &'a [f32],
    /// Of the latest interaction behind each pair.
    pub times: &'a [Millis],
}

/// All pairs. Users and items are numbered in the order of their names, so that results do not depend on the order in
/// which events arrived; nobody is without a pair. 16 bytes a pair.
#[derive(Debug, PartialEq)]
pub struct Data {
    pub users: Vec<Arc<str>>,
    pub items: Vec<Arc<str>>,
    starts: Vec<usize>,
    columns: Vec<u32>,
    values: Vec<f32>,
    times: Vec<Millis>,
    /// Distinct interactions behind the pairs.
    pub interactions: u64,
}

impl Data {
    pub(super) fn empty() -> Data {
        Data {
            users: Vec::new(),
            items: Vec::new(),
            starts: vec![0],
            columns: Vec::new(),
            values: Vec::new(),
            times: Vec::new(),
            interactions: 0,
        }
    }

    /// Appends the row of the next user: item, value and time, ascending by item.
    pub(super) fn push(&mut self, row: &[(u32, f32, Millis)]) {
        self.columns.extend(row.iter().map(|pair| pair.0));
        self.values.extend(row.iter().map(|pair| pair.1));
        self.times.extend(row.iter().map(|pair| pair.2));
        self.starts.push(self.columns.len());
    }

    pub fn pairs(&self) -> usize {
        self.columns.len()
    }

    pub fn row(&self, user: usize) -> PairRow<'_> {
        let range = self.starts[user]..self.starts[user + 1];
        PairRow { items: &self.columns[range.clone()], values: &self.values[range.clone()], times: &self.times[range] }
    }

    /// Everything that a state directory holds.
    ///
    /// # Errors
    /// Exit 2 when it was made for the other objective, 4 when it is damaged.
    pub fn of_state(state: &State, objective: Objective) -> Result<Data, CliError> {
        if let Some(made) = state.restored.current.as_ref().map(|current| current.manifest.model.params.objective)
            && made != objective
        {
            let (made, wanted) = (format!("{made:?}").to_lowercase(), format!("{objective:?}").to_lowercase());
            let remedy = format!("say --set model.objective={made}, or evaluate a file with --data");
            return Err(CliError::usage(format!("the state is of an {made} model and the configuration says {wanted}; {remedy}")));
        }
        let mut gather = Gather::new(objective);
        state.tables.plays(Range::All, &mut |play, event_id| gather.push(play, event_id))?;
        Ok(gather.finish(&state.restored.dictionary)?)
    }

    /// Everything in a file, read as `nepenthe send` reads it.
    ///
    /// # Errors
    /// Exit 2 when the file or its columns are not what the options say, or hold no times; 1 at a bad line.
    pub fn of_file(file: &str, input: &InputArgs, objective: Objective) -> Result<Data, CliError> {
        let format = input.format(file)?;
        let (bytes, size) = open(file)?;
        let bar = size.map_or_else(output::spinner, output::bytes_bar);
        let mut lines = Lines::new(bytes, format, objective);
        let mut reading = Reading::new(objective);
        let mut shown_progress = |tally: &Tally| progress(&bar, tally.bytes, size);
        let read = input.pump(file, None, &mut lines, &mut shown_progress, |line| reading.take(file, &line.payload));
        bar.finish_and_clear();
        if lines.columns().is_some_and(|columns| columns.time.is_none()) {
            return Err(CliError::usage(format!("{} has no column of times; name it with --time COLUMN: {WHY_TIMES}", shown(file))));
        }
        read?;
        Ok(reading.finish()?)
    }
}

fn progress(bar: &ProgressBar, bytes: u64, size: Option<u64>) {
    if size.is_some() {
        bar.set_position(bytes);
    }
    bar.set_message("reading");
}

/// Plays of a file, in no order yet.
struct Reading {
    objective: Objective,
    dictionary: Dictionary,
    plays: Vec<Play>,
    /// Event ids by their hash; only kept where the objective decides by them.
    event_ids: HashMap<u64, Box<str>>,
}

impl Reading {
    fn new(objective: Objective) -> Reading {
        Reading { objective, dictionary: Dictionary::default(), plays: Vec::new(), event_ids: HashMap::new() }
    }

    /// # Errors
    /// Exit 1 for an event without a time, which only JSON lines can have, and when a side has too many names.
    fn take(&mut self, file: &str, payload: &[u8]) -> Result<(), CliError> {
        let origin = Origin { topic: "", partition: 0, offset: 0, timestamp: None, kind: Kind::Interaction, objective: self.objective };
        let event = event::decode(&origin, payload).map_err(|refusal| {
            let number = self.plays.len() + 1;
            CliError::failed(format!("{}, event {number}: {refusal}; give every event a `time`: {WHY_TIMES}", shown(file)))
        })?;
        // Lines have been through the decoder once and forgets were refused there.
        let Event::Interaction(Interaction { event_id, user, item, value, time }) = event else { return Ok(()) };
        let user = self.dictionary.assign(Side::User, &user).map_err(CliError::failed)?.0;
        let item = self.dictionary.assign(Side::Item, &item).map_err(CliError::failed)?.0;
        let ident = event_id.as_deref().map(|id| hash(&[id]));
        if let (Some(ident), Some(id), Objective::Explicit) = (ident, event_id, self.objective) {
            self.event_ids.entry(ident).or_insert_with(|| id.into());
        }
        self.plays.push(Play { user, item, ident, time, value: ordered(value) });
        Ok(())
    }

    fn finish(mut self) -> Result<Data, StoreError> {
        self.plays.sort_unstable();
        let mut gather = Gather::new(self.objective);
        for play in self.plays {
            let event_id = play.ident.and_then(|ident| self.event_ids.get(&ident)).map_or("", |id| id);
            gather.push(play, event_id);
        }
        gather.finish(&self.dictionary)
    }
}

/// 64 bits of BLAKE3 over the parts, each behind its length.
pub fn hash(parts: &[&str]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u32).to_le_bytes()).update(part.as_bytes());
    }
    let mut bytes = [0; 8];
    hasher.finalize_xof().fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

/// Takes plays in ascending order and makes each user's a row, by the rules of the service.
struct Gather {
    objective: Objective,
    plays: Vec<Play>,
    event_ids: Vec<Box<str>>,
    /// Surrogate of the user, and where the row ends.
    rows: Vec<(u32, usize)>,
    pairs: Vec<(u32, f32, Millis)>,
    interactions: u64,
}

impl Gather {
    fn new(objective: Objective) -> Gather {
        Gather { objective, plays: Vec::new(), event_ids: Vec::new(), rows: Vec::new(), pairs: Vec::new(), interactions: 0 }
    }

    fn push(&mut self, play: Play, event_id: &str) {
        if self.plays.first().is_some_and(|first| first.user != play.user) {
            self.fold();
        }
        self.plays.push(play);
        if self.objective == Objective::Explicit {
            self.event_ids.push(event_id.into());
        }
    }

    fn fold(&mut self) {
        let Some(user) = self.plays.first().map(|play| play.user) else { return };
        let row = fold_user(&self.plays, &self.event_ids, self.objective);
        // Of several plays with one identity the first counts, here as there.
        let one = |a: &Play, b: &Play| a.ident == b.ident && (a.ident.is_some() || a.time == b.time);
        let latest = |group: &[Play]| group.chunk_by(one).map(|same| same[0].time).max().unwrap_or_default();
        let times = self.plays.chunk_by(|a, b| a.item == b.item).map(latest);
        self.pairs.extend(row.columns.iter().zip(&row.values).zip(times).map(|((&item, &value), time)| (item, value, time)));
        self.interactions += u64::from(row.interactions);
        self.rows.push((user, self.pairs.len()));
        self.plays.clear();
        self.event_ids.clear();
    }

    /// Numbers users and items by name.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] for interactions of somebody or something without a name: numbers without one may be anything.
    fn finish(mut self, dictionary: &Dictionary) -> Result<Data, StoreError> {
        self.fold();
        let mut seen = vec![false; dictionary.next(Side::Item) as usize];
        for pair in &self.pairs {
            *seen.get_mut(pair.0 as usize).ok_or_else(|| StoreError::nameless(Side::Item, pair.0))? = true;
        }
        let named = |side, number| dictionary.name(side, number).cloned().ok_or_else(|| StoreError::nameless(side, number));
        let items = (0..).zip(seen).filter(|(_, seen)| *seen).map(|(item, _)| Ok((named(Side::Item, item)?, item)));
        let mut items = items.collect::<Result<Vec<(Arc<str>, u32)>, StoreError>>()?;
        items.sort_unstable();
        let mut number = vec![0; dictionary.next(Side::Item) as usize];
        (0..).zip(&items).for_each(|(new, (_, old))| number[*old as usize] = new);
        let begins = [0].into_iter().chain(self.rows.iter().map(|row| row.1));
        let users = begins.zip(&self.rows).map(|(begin, &(user, end))| Ok((named(Side::User, user)?, begin, end)));
        let mut users = users.collect::<Result<Vec<(Arc<str>, usize, usize)>, StoreError>>()?;
        users.sort_unstable();
        let mut data = Data { interactions: self.interactions, ..Data::empty() };
        let mut row: Vec<(u32, f32, Millis)> = Vec::new();
        for (_, begin, end) in &users {
            row.clear();
            row.extend(self.pairs[*begin..*end].iter().map(|&(item, value, time)| (number[item as usize], value, time)));
            row.sort_unstable_by_key(|pair| pair.0);
            data.push(&row);
        }
        data.users = users.into_iter().map(|user| user.0).collect();
        data.items = items.into_iter().map(|item| item.0).collect();
        Ok(data)
    }
}

#[cfg(test)]
#[path = "data_tests.rs"]
mod tests;

//! The model that never saw the forgotten events: their data in a store of its own, trained from another seed.

#![allow(dead_code, reason = "tests and measurements use their own part of it")]

use std::collections::BTreeMap;
use std::sync::Arc;

use nepenthe::model::Params;
use nepenthe::model::factors::{Factors, Side};
use nepenthe::model::fence::HashKey;
use nepenthe::model::generation::Outcome;
use nepenthe::model::play::{Play, unordered};
use nepenthe::model::processor::{InputTopics, Restored, State};
use nepenthe::model::snapshot::data_digest;
use nepenthe::model::step::{History, Input, Range};
use nepenthe::model::unlearn::Unwatched;
use nepenthe::run::HASH_KEY_FILE;
use nepenthe::store::memory::MemoryStore;
use nepenthe::store::rocks::{RocksStore, secret};
use nepenthe::store::tables::Tables;

type Result<T> = std::result::Result<T, String>;

fn open(path: &std::path::Path) -> Result<(Tables, Restored)> {
    let words = |e: &dyn std::fmt::Display| e.to_string();
    let store = Arc::new(RocksStore::read(path).map_err(|e| words(&e))?);
    let missing = || Err(std::io::Error::other("the key is missing"));
    let key = HashKey::new(secret(&path.join(HASH_KEY_FILE), missing).map_err(|e| words(&e))?);
    let tables = Tables::reading(store);
    let restored = tables.restore(key).map_err(|e| words(&e))?;
    Ok((tables, restored))
}

/// Every stored play of a state directory under natural names: user, item, time, value.
pub fn plays_of_state(path: &std::path::Path) -> Result<Vec<(String, String, i64, f64)>> {
    let (tables, restored) = open(path)?;
    let mut plays = Vec::new();
    let name = |side, number| restored.dictionary.name(side, number).map_or("a name that is gone".to_owned(), |name| name.to_string());
    let mut each = |play: Play, _: &str| {
        plays.push((name(Side::User, play.user), name(Side::Item, play.item), play.time, unordered(play.value)));
    };
    tables.plays(Range::All, &mut each).map_err(|e| e.to_string())?;
    Ok(plays)
}

/// A trained model under natural names, and a digest of the data that it was trained on.
pub struct Model {
    pub data: String,
    pub sweeps: u32,
    pub residual: f64,
    pub effective_rank: Option<usize>,
    factors: Arc<Factors>,
    users: Vec<(String, usize)>,
    items: Vec<(String, usize)>,
}

impl Model {
    /// Of a state directory, as the service left it.
    pub fn of_state(path: &std::path::Path) -> Result<Model> {
        let (tables, restored) = open(path)?;
        let data = data_digest(&restored.dictionary, &tables).map_err(|e| e.to_string())?;
        let current = restored.current.ok_or("no generation")?;
        let named = |side| names(&restored.dictionary, side, &current.factors);
        let certificate = &current.manifest.certificate;
        Ok(Model {
            data,
            sweeps: certificate.sweeps,
            residual: certificate.residual,
            effective_rank: certificate.effective_rank,
            users: named(Side::User),
            items: named(Side::Item),
            factors: current.factors.clone(),
        })
    }

    /// From nothing but `events` (JSON lines) of the interactions topic.
    pub fn from_scratch<'e>(params: &Params, events: impl Iterator<Item = &'e str>) -> Result<Model> {
        Model::from_topics(params, [events.map(str::as_bytes).collect(), Vec::new()])
    }

    /// From nothing but the values of the interactions topic and those of the forgets topic.
    pub fn from_topics(params: &Params, values: [Vec<&[u8]>; 2]) -> Result<Model> {
        let (key, topics) = (HashKey::new([0; 32]), InputTopics { interactions: "i".to_owned(), forgets: "f".to_owned() });
        let mut tables = Tables::new(Arc::new(MemoryStore::default()), params.objective, &key).map_err(|e| e.to_string())?;
        let restored = tables.restore(key).map_err(|e| e.to_string())?;
        let mut state = State::open(params.clone(), topics, restored, &tables).map_err(|e| e.to_string())?;
        let of_topic = |(topic, values): (u16, Vec<_>)| values.into_iter().enumerate().map(move |(at, value)| (topic, at, value));
        let inputs = (0..).zip(values).flat_map(of_topic).map(|(topic, offset, value)| Input {
            topic,
            partition: 0,
            offset: offset as i64,
            timestamp: None,
            reset: false,
            key: None,
            payload: Some(value),
        });
        let step = state.fold(&["i".to_owned(), "f".to_owned()], inputs, 0, &tables).map_err(|e| e.to_string())?;
        tables.commit(&step, state.dictionary()).map_err(|e| e.to_string())?;
        let job = state.freeze(&tables).map_err(|e| e.to_string())?;
        let outcome: Outcome = job.run(&Unwatched).map_err(|e| e.to_string())?;
        let solution = &outcome.solution;
        let factors = Arc::new(solution.factors.clone());
        Ok(Model {
            data: data_digest(state.dictionary(), &tables).map_err(|e| e.to_string())?,
            sweeps: solution.sweeps,
            residual: solution.measured.residual,
            effective_rank: solution.effective_rank,
            users: names(state.dictionary(), Side::User, &factors),
            items: names(state.dictionary(), Side::Item, &factors),
            factors,
        })
    }

    fn scores(&self, user: usize) -> Vec<f64> {
        let row = self.factors.users.raw(user);
        let dot = |item: usize| self.factors.items.raw(item).iter().zip(row).map(|(x, y)| x * y).sum();
        self.items.iter().map(|(_, item)| dot(*item)).collect()
    }

    /// Relative RMS distance of all predictions, and the share of users whose top 10 are the same in the same order.
    pub fn distance(&self, other: &Model) -> Result<(f64, f64)> {
        if self.users.iter().map(|user| &user.0).ne(other.users.iter().map(|user| &user.0)) {
            return Err("the models know different users".to_owned());
        }
        if self.items.iter().map(|item| &item.0).ne(other.items.iter().map(|item| &item.0)) {
            return Err("the models know different items".to_owned());
        }
        let (mut gap, mut size, mut same) = (0.0, 0.0, 0);
        for (mine, theirs) in self.users.iter().zip(&other.users) {
            let (a, b) = (self.scores(mine.1), other.scores(theirs.1));
            gap += a.iter().zip(&b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
            size += b.iter().map(|b| b * b).sum::<f64>();
            same += usize::from(top(&a) == top(&b));
        }
        Ok(((gap / size).sqrt(), same as f64 / self.users.len() as f64))
    }
}

fn names(dictionary: &nepenthe::model::dictionary::Dictionary, side: Side, factors: &Factors) -> Vec<(String, usize)> {
    let table = factors.side(side);
    let named: BTreeMap<String, usize> =
        table.rows().filter_map(|row| Some((dictionary.name(side, row as u32)?.to_string(), row))).collect();
    named.into_iter().collect()
}

fn top(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    order.truncate(10);
    order
}

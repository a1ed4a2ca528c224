//! A copy of the model for commands that only read: from a state directory, or from the factors topic as any reader has it.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::{CliError, Exit, client_settings, output};
use crate::config::Config;
use crate::kafka::admin;
use crate::model::dictionary::Dictionary;
use crate::model::factors::{Factors, Side, Table};
use crate::model::fence::HashKey;
use crate::model::generation::Current;
use crate::model::processor::Restored;
use crate::run::keys;
use crate::store::rocks::RocksStore;
use crate::store::tables::Tables;
use crate::store::{Store, StoreError};

impl From<StoreError> for CliError {
    fn from(error: StoreError) -> CliError {
        let exit = match error {
            StoreError::InUse { .. } => Exit::StateInUse,
            StoreError::Damaged { .. } | StoreError::UnknownVersion { .. } | StoreError::OldVersion { .. } | StoreError::HashKey { .. } => {
                Exit::StateDamaged
            }
            StoreError::OtherModel { .. } => Exit::Usage,
            StoreError::Io { .. } => Exit::Failed,
        };
        CliError::new(exit, error)
    }
}

/// A state directory, open for reading, whether or not a service runs on it.
pub struct State {
    pub store: Arc<dyn Store>,
    pub tables: Tables,
    pub restored: Restored,
}

/// Opens the state directory of the configuration, and reads nothing of it yet.
///
/// # Errors
/// Exit 1 when there is none, 4 when it or its hash key is damaged.
pub fn tables(config: &Config) -> Result<(Tables, HashKey), CliError> {
    let store: Arc<dyn Store> = Arc::new(RocksStore::read(&config.store.path)?);
    let key = hash_key(&*store, config)?;
    Ok((Tables::reading(store), key))
}

/// Opens the state directory of the configuration for reading.
///
/// # Errors
/// Exit 1 when there is none, 4 when it is damaged.
pub fn state(config: &Config) -> Result<State, CliError> {
    let (tables, key) = tables(config)?;
    let restored = output::patiently("reading the state", || tables.restore(key))?;
    Ok(State { store: tables.store().clone(), tables, restored })
}

/// Opens the state directory for its model.
///
/// # Errors
/// As [`state`], and exit 1 for a state that came from a backup and has not caught up: it may know what is forgotten.
pub fn serving(config: &Config) -> Result<State, CliError> {
    let state = state(config)?;
    match state.tables.comeback()? {
        None => Ok(state),
        Some(_) => Err(CliError::failed(format!(
            "the state in {} came from a backup and has not caught up with what was forgotten since; let `nepenthe run` do that first",
            config.store.path.display()
        ))),
    }
}

/// The hash key of an existing state. Reading makes nothing.
///
/// # Errors
/// Exit 4 when it is missing, no key, or another one.
pub fn hash_key(store: &dyn Store, config: &Config) -> Result<HashKey, CliError> {
    Ok(keys::hash_key(store, &config.store.path, keys::Missing::Refused)?)
}

/// Factors under natural names.
pub struct Copy {
    pub factors: Arc<Factors>,
    pub names: Dictionary,
    /// μ of the explicit objective where it is known.
    pub mean: f64,
}

impl Copy {
    /// The model of a state directory.
    ///
    /// # Errors
    /// Exit 1 before the first generation.
    pub fn of_state(restored: Restored) -> Result<Copy, CliError> {
        let Some(Current { manifest, factors, .. }) = restored.current else {
            return Err(CliError::failed("the state has no generation yet; wait for the service to make the first one"));
        };
        Ok(Copy { factors, names: restored.dictionary, mean: manifest.model.mean.unwrap_or(0.0) })
    }

    /// The model on the factors topic.
    ///
    /// # Errors
    /// Exit 1 when the topic cannot be read or holds no rows.
    pub fn of_topic(config: &Config) -> Result<Copy, CliError> {
        let mut rows: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
        let topic = &config.topics.factors;
        let settings = client_settings(config)?;
        let mut take = |record: admin::TopicRecord<'_>| {
            let key = record.key.unwrap_or_default();
            match record.payload {
                Some(value) => drop(rows.insert(key.to_vec(), value.to_vec())),
                None => drop(rows.remove(key)),
            }
            ControlFlow::Continue(())
        };
        output::patiently("reading the factors topic", || admin::read_topic(&settings, topic, None, &mut take))
            .map_err(CliError::failed)?;
        let Some(rank) = rows.values().next().map(|value| value.len() / 4) else {
            return Err(CliError::failed(format!("topic {topic} holds no factors; is the service publishing to it?")));
        };
        let (mut factors, mut names) = (Factors::new(rank), Dictionary::default());
        for (key, value) in &rows {
            take_row(&mut factors, &mut names, key, value)
                .ok_or_else(|| CliError::failed(format!("topic {topic} holds a record that is no factor row of rank {rank}")))?;
        }
        Ok(Copy { factors: Arc::new(factors), names, mean: 0.0 })
    }

    /// The number and row of a name.
    ///
    /// # Errors
    /// Exit 1 for a name that has no row.
    pub fn row(&self, side: Side, name: &str) -> Result<(u32, &[f64]), CliError> {
        let found = self.names.get(side, name).and_then(|number| Some((number, self.factors.side(side).row(number as usize)?)));
        found.ok_or_else(|| {
            let what = if side == Side::User { "user" } else { "item" };
            CliError::failed(format!("the model has no {what} {name:?}: no interaction is known, or the next generation will bring it"))
        })
    }

    pub fn items(&self) -> &Table {
        &self.factors.items
    }

    /// Scored numbers as names.
    pub fn named(&self, side: Side, best: Vec<(u32, f64)>) -> Vec<(String, f64)> {
        best.into_iter().filter_map(|(number, score)| Some((self.names.name(side, number)?.to_string(), score))).collect()
    }
}

fn take_row(factors: &mut Factors, names: &mut Dictionary, key: &[u8], value: &[u8]) -> Option<()> {
    let (side, name) = match key.split_at_checked(2)? {
        (b"u/", name) => (Side::User, name),
        (b"i/", name) => (Side::Item, name),
        _ => return None,
    };
    let (chunks, rest) = value.as_chunks::<4>();
    let row: Vec<f64> = chunks.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes))).collect();
    let table = factors.side_mut(side);
    if !rest.is_empty() || row.len() != table.rank() {
        return None;
    }
    let (number, _) = names.assign(side, std::str::from_utf8(name).ok()?).ok()?;
    table.set(number as usize, &row);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuzz_factor_records() {
        let row = [1.0f32, -2.0].iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        // The key ends at the first zero byte.
        let seeds = [&b"u/ada\0"[..], b"i/film\0"].map(|key| [key, &row].concat());
        crate::fuzz::fuzz("factor records", &seeds, |bytes| {
            let (mut factors, mut names) = (Factors::new(2), Dictionary::default());
            let (key, value) = bytes.split_at(bytes.iter().position(|byte| *byte == 0).map_or(0, |at| at + 1));
            let key = key.strip_suffix(b"\0").unwrap_or_default();
            if take_row(&mut factors, &mut names, key, value).is_some() {
                let side = if key[0] == b'u' { Side::User } else { Side::Item };
                assert_eq!((factors.side(side).count(), value.len()), (1, 8));
                assert_eq!(names.name(side, 0).map(|name| side.key(name).into_bytes()).as_deref(), Some(key));
            }
        });
    }
}

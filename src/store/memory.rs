//! The in-memory twin of RocksDB: the same trait, for simulations and tests of the loop.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Batch, Change, EraseStep, Erased, Family, KeyRange, Store, StoreError, Visit};

type Rows = BTreeMap<(Family, Vec<u8>), Vec<u8>>;

/// Rows in a tree; lives as long as the process.
#[derive(Debug, Default)]
pub struct MemoryStore {
    rows: Mutex<Rows>,
}

impl MemoryStore {
    /// All rows as they are now, as a backup takes them.
    #[cfg(test)]
    pub(crate) fn copy(&self) -> MemoryStore {
        MemoryStore { rows: Mutex::new(self.rows().clone()) }
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn write(&self, batch: &Batch) -> Result<(), StoreError> {
        let mut rows = self.rows();
        batch.each(&mut |change| match change {
            Change::Put(family, key, value) => drop(rows.insert((family, key.to_vec()), value.to_vec())),
            Change::Delete(family, key) => drop(rows.remove(&(family, key.to_vec()))),
        });
        Ok(())
    }

    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.rows().get(&(family, key.to_vec())).cloned())
    }

    fn scan(&self, family: Family, from: &[u8], to: Option<&[u8]>, visit: Visit<'_>) -> Result<(), StoreError> {
        if to.is_some_and(|to| to <= from) {
            return Ok(());
        }
        // A copy, so that the visitor may use the store.
        let end = to.map_or(Bound::Unbounded, |to| Bound::Excluded((family, to.to_vec())));
        let found: Vec<_> = {
            let rows = self.rows();
            let range = rows.range((Bound::Included((family, from.to_vec())), end));
            range.take_while(|((of, _), _)| *of == family).map(|((_, key), value)| (key.clone(), value.clone())).collect()
        };
        for (key, value) in found {
            if visit(&key, &value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn sizes(&self) -> Vec<(Family, u64)> {
        let rows = self.rows();
        let size =
            |family| rows.iter().filter(|((of, _), _)| *of == family).map(|((_, key), value)| (key.len() + value.len()) as u64).sum();
        Family::ALL.map(|family| (family, size(family))).into()
    }

    /// A tree keeps nothing of what was removed from it.
    fn erase(&self, _: &[KeyRange], go_on: &dyn Fn(EraseStep) -> bool) -> Result<Erased, StoreError> {
        Ok(if EraseStep::ALL.into_iter().all(go_on) { Erased::default() } else { Erased::interrupted() })
    }
}

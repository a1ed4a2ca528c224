//! A writable copy of a store that costs only what is changed in it: reads fall through, writes stay in memory.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::store::{Batch, Change, Family, Store, StoreError, Visit};

/// Changes by key; `None` is a deletion.
type Changes = BTreeMap<(Family, Vec<u8>), Option<Vec<u8>>>;

/// The audit forgets in here with the code of the service, on a state that may be in use and is never written to.
pub struct Overlay {
    below: Arc<dyn Store>,
    changes: Mutex<Changes>,
}

impl Overlay {
    pub fn new(below: Arc<dyn Store>) -> Overlay {
        Overlay { below, changes: Mutex::default() }
    }

    fn changes(&self) -> MutexGuard<'_, Changes> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for Overlay {
    fn write(&self, batch: &Batch) -> Result<(), StoreError> {
        let mut changes = self.changes();
        batch.each(&mut |change| {
            match change {
                Change::Put(family, key, value) => changes.insert((family, key.to_vec()), Some(value.to_vec())),
                Change::Delete(family, key) => changes.insert((family, key.to_vec()), None),
            };
        });
        Ok(())
    }

    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let changed = self.changes().get(&(family, key.to_vec())).cloned();
        changed.map_or_else(|| self.below.get(family, key), Ok)
    }

    fn scan(&self, family: Family, from: &[u8], to: Option<&[u8]>, visit: Visit<'_>) -> Result<(), StoreError> {
        if to.is_some_and(|to| to <= from) {
            return Ok(());
        }
        // A copy of the changes, so that the visitor may use the store.
        let end = to.map_or(Bound::Unbounded, |to| Bound::Excluded((family, to.to_vec())));
        let changed: Vec<(Vec<u8>, Option<Vec<u8>>)> = {
            let changes = self.changes();
            let range = changes.range((Bound::Included((family, from.to_vec())), end));
            range.take_while(|((of, _), _)| *of == family).map(|((_, key), value)| (key.clone(), value.clone())).collect()
        };
        let mut next = changed.iter().peekable();
        let mut ended = false;
        self.below.scan(family, from, to, &mut |key, value| {
            while let Some((changed, put)) = next.next_if(|(changed, _)| changed.as_slice() < key) {
                if let Some(put) = put
                    && visit(changed, put).is_break()
                {
                    ended = true;
                    return ControlFlow::Break(());
                }
            }
            let flow = match next.next_if(|(changed, _)| changed.as_slice() == key) {
                None => visit(key, value),
                Some((_, Some(put))) => visit(key, put),
                Some((_, None)) => ControlFlow::Continue(()),
            };
            ended = flow.is_break();
            flow
        })?;
        if !ended {
            for (key, put) in next {
                if let Some(put) = put
                    && visit(key, put).is_break()
                {
                    break;
                }
            }
        }
        Ok(())
    }

    fn sizes(&self) -> Vec<(Family, u64)> {
        self.below.sizes()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::memory::MemoryStore;

    /// Key, and what is put there; `None` deletes.
    type Write = (u8, Option<u8>);

    fn batch(writes: &[Write]) -> Batch {
        let mut batch = Batch::default();
        for &(key, value) in writes {
            match value {
                Some(value) => batch.put(Family::Meta, &[key], &[value]),
                None => batch.delete(Family::Meta, &[key]),
            }
        }
        batch
    }

    fn rows(store: &dyn Store, from: u8, to: Option<u8>, most: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut rows = Vec::new();
        let to = to.map(|to| vec![to]);
        store
            .scan(Family::Meta, &[from], to.as_deref(), &mut |key, value| {
                rows.push((key.to_vec(), value.to_vec()));
                if rows.len() >= most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .unwrap();
        rows
    }

    proptest! {
        #[test]
        fn it_reads_as_one_store_and_leaves_the_one_below_alone(
            below: Vec<Write>, above: Vec<Write>, from: u8, to: Option<u8>, most in 1usize..40
        ) {
            let (one, base) = (MemoryStore::default(), Arc::new(MemoryStore::default()));
            for store in [&one, &*base] {
                store.write(&batch(&below)).unwrap();
            }
            let before = rows(&*base, 0, None, usize::MAX);
            let overlay = Overlay::new(base.clone());
            for store in [&one as &dyn Store, &overlay] {
                store.write(&batch(&above)).unwrap();
            }
            prop_assert_eq!(rows(&overlay, from, to, most), rows(&one, from, to, most));
            for key in 0..=255 {
                prop_assert_eq!(overlay.get(Family::Meta, &[key]).unwrap(), one.get(Family::Meta, &[key]).unwrap());
            }
            prop_assert_eq!(rows(&*base, 0, None, usize::MAX), before);
        }
    }
}

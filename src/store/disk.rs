//! A disk for simulations: the in-memory twin, on which the power fails at any operation, space runs out, and what was
//! deleted or replaced stays until it is erased.
//!
//! What can be torn: RocksDB writes a batch as one checksummed record of its log, over all families, and the write
//! returns after the log is synced. So after a crash a batch that was under way is there as a whole, or not at all, and
//! every batch before it is there. An erasure stops between two of its steps.
//!
//! A batch that is written behind is written at once or not before somebody must wait for it ([`Disk::hurry`]); what went
//! wrong with it is told to whoever comes next. When the process dies first, the batch is there or not.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::memory::MemoryStore;
use super::{Batch, Change, EraseStep, Erased, Family, KeyRange, Store, StoreError, Visit};

/// What becomes of the operation at which the power fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// It is as if it had never been asked for.
    Before,
    /// It is done, and nobody is told.
    After,
}

/// Bytes of a row that was deleted or replaced.
#[derive(Debug)]
struct Left {
    family: Family,
    key: Vec<u8>,
    value: Vec<u8>,
    /// The write that left it.
    by: u64,
    in_log: bool,
    in_files: bool,
}

#[derive(Debug, Default)]
struct State {
    left: Vec<Left>,
    writes: u64,
    /// What is deleted after this write is no part of the erasure that was ordered.
    erase_upto: u64,
    fuse: Option<(u32, Cut)>,
    /// The power is off, until [`Disk::reboot`].
    dead: bool,
    full: Option<Cut>,
    /// Operations that failed since the last [`Disk::reboot`].
    failed: bool,
    cuts: u64,
    refused: u64,
    /// Handed over to be written behind, and not written yet.
    behind: Option<Batch>,
    /// What came of one that was written at once.
    behind_failed: Option<StoreError>,
    hurries: bool,
    /// Batches that were written behind and are there.
    steps: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    rows: Arc<MemoryStore>,
    state: Mutex<State>,
}

fn failed(action: &'static str, cause: &str) -> StoreError {
    StoreError::Io { action, cause: cause.to_owned() }
}

impl Disk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is on the disk, for somebody who looks from outside: no operation of this fails.
    pub fn rows(&self) -> Arc<dyn Store> {
        self.rows.clone()
    }

    /// The power fails at the `n`-th operation from now, counted from 0.
    pub fn cut_at(&self, n: u32, cut: Cut) {
        self.state().fuse = Some((n, cut));
    }

    /// No space is left; a write that is refused may be there all the same.
    pub fn fill(&self, cut: Cut) {
        self.state().full = Some(cut);
    }

    pub fn make_room(&self) {
        self.state().full = None;
    }

    /// Nothing fails any more.
    pub fn recover(&self) {
        let mut state = self.state();
        (state.fuse, state.full) = (None, None);
    }

    /// From now on, what is handed over to be written behind is written at once, or as late as may be.
    pub fn hurry(&self, hurries: bool) {
        self.state().hurries = hurries;
    }

    /// The process that used it is gone. With `kept` its last batch was on its way and arrived all the same.
    pub fn reboot(&self, kept: bool) {
        let mut state = self.state();
        let behind = state.behind.take().filter(|_| kept && !state.dead && !state.failed && state.full.is_none());
        (state.fuse, state.dead, state.failed, state.behind_failed) = (None, false, false, None);
        drop(state);
        if let Some(batch) = behind {
            self.apply(&batch).expect("memory does not fail");
            self.state().steps += 1;
        }
    }

    /// A batch could not be written behind, and nobody knows yet.
    pub fn is_in_doubt(&self) -> bool {
        self.state().behind_failed.is_some()
    }

    /// Batches that were written behind and are there.
    pub fn steps(&self) -> u64 {
        self.state().steps
    }

    /// What a process sees that is alive: the rows with the batch that is still to be written. `None` when there is none.
    pub fn ahead(&self) -> Option<Arc<dyn Store>> {
        let state = self.state();
        let batch = state.behind.as_ref()?;
        let rows = self.rows.copy();
        rows.write(batch).expect("memory does not fail");
        Some(Arc::new(rows))
    }

    /// Did an operation fail since the last reboot?
    pub fn has_failed(&self) -> bool {
        self.state().failed
    }

    /// Batches that are there.
    pub fn writes(&self) -> u64 {
        self.state().writes
    }

    /// Times that the power failed, and writes that found no space.
    pub fn faults(&self) -> (u64, u64) {
        let state = self.state();
        (state.cuts, state.refused)
    }

    /// An erasure begins now: what is deleted from here on is not its business.
    pub fn order_erasure(&self) {
        let mut state = self.state();
        state.erase_upto = state.writes;
    }

    /// Where one of the texts can still be read: in a row, in a table file or in the log.
    pub fn holds(&self, texts: &[String]) -> Option<String> {
        let holds = |bytes: &[u8]| texts.iter().find(|text| bytes.windows(text.len()).any(|part| part == text.as_bytes()));
        let mut found = None;
        for family in Family::ALL {
            let looked = self.rows.scan(family, b"", None, &mut |key, value| {
                if let Some(text) = holds(key).or_else(|| holds(value)) {
                    found = Some(format!("{text} in a row of {}", family.name()));
                }
                std::ops::ControlFlow::Continue(())
            });
            looked.expect("memory does not fail");
        }
        let left = |left: &Left| {
            Some(format!("{} in what a deleted row of {} left", holds(&left.key).or_else(|| holds(&left.value))?, left.family.name()))
        };
        found.or_else(|| self.state().left.iter().find_map(left))
    }

    /// Counts an operation; an error is the power going off before it, `Some` after it.
    fn operate(&self) -> Result<Option<StoreError>, StoreError> {
        let mut state = self.state();
        let off = || failed("reach", "the power failed");
        if state.dead {
            state.failed = true;
            return Err(off());
        }
        match &mut state.fuse {
            Some((0, cut)) => {
                let cut = *cut;
                (state.dead, state.failed, state.fuse) = (true, true, None);
                state.cuts += 1;
                if cut == Cut::Before { Err(off()) } else { Ok(Some(off())) }
            }
            Some((n, _)) => {
                *n -= 1;
                Ok(None)
            }
            None => Ok(None),
        }
    }

    fn apply(&self, batch: &Batch) -> Result<(), StoreError> {
        let mut state = self.state();
        state.writes += 1;
        let by = state.writes;
        let mut looked = Ok(());
        batch.each(&mut |change| {
            let (family, key, new) = match change {
                Change::Put(family, key, value) => (family, key, Some(value)),
                Change::Delete(family, key) => (family, key, None),
            };
            match self.rows.get(family, key) {
                Ok(Some(value)) if new != Some(&value) => {
                    state.left.push(Left { family, key: key.to_vec(), value, by, in_log: true, in_files: true });
                }
                Ok(_) => {}
                Err(error) => looked = Err(error),
            }
        });
        looked?;
        self.rows.write(batch)
    }
}

impl Disk {
    fn put(&self, batch: &Batch, behind: bool) -> Result<(), StoreError> {
        let after = self.operate()?;
        let full = self.state().full;
        if full != Some(Cut::Before) {
            self.apply(batch)?;
            self.state().steps += u64::from(behind);
        }
        if full.is_some() {
            let mut state = self.state();
            (state.failed, state.refused) = (true, state.refused + 1);
            return Err(failed("write", "no space left on device"));
        }
        after.map_or(Ok(()), Err)
    }
}

impl Store for Disk {
    fn write(&self, batch: &Batch) -> Result<(), StoreError> {
        self.settle()?;
        self.put(batch, false)
    }

    fn write_behind(&self, batch: Batch) -> Result<(), StoreError> {
        self.settle()?;
        if self.state().hurries {
            let result = self.put(&batch, true);
            let mut state = self.state();
            // Nobody knows yet.
            (state.behind_failed, state.failed) = (result.err(), false);
        } else {
            self.state().behind = Some(batch);
        }
        Ok(())
    }

    fn settle(&self) -> Result<(), StoreError> {
        let (batch, failed) = {
            let mut state = self.state();
            state.failed |= state.behind_failed.is_some();
            (state.behind.take(), state.behind_failed.clone())
        };
        failed.map_or(Ok(()), Err)?;
        batch.map_or(Ok(()), |batch| {
            let result = self.put(&batch, true);
            // It sticks: nothing is written after a write that failed.
            self.state().behind_failed = result.clone().err();
            result
        })
    }

    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.settle()?;
        self.operate()?.map_or(Ok(()), Err)?;
        self.rows.get(family, key)
    }

    fn scan(&self, family: Family, from: &[u8], to: Option<&[u8]>, visit: Visit<'_>) -> Result<(), StoreError> {
        self.settle()?;
        self.operate()?.map_or(Ok(()), Err)?;
        self.rows.scan(family, from, to, visit)
    }

    fn sizes(&self) -> Vec<(Family, u64)> {
        self.rows.sizes()
    }

    fn erase(&self, ranges: &[KeyRange], go_on: &dyn Fn(EraseStep) -> bool) -> Result<Erased, StoreError> {
        self.settle()?;
        let upto = self.state().erase_upto;
        let within = |left: &Left| {
            let inside = |range: &&KeyRange| {
                range.family == left.family && range.from <= left.key && range.to.as_ref().is_none_or(|to| left.key < *to)
            };
            ranges.iter().find(inside).is_some()
        };
        for step in EraseStep::ALL {
            if !go_on(step) {
                return Ok(Erased::interrupted());
            }
            let after = self.operate()?;
            let mut state = self.state();
            match step {
                EraseStep::Flush if state.full.is_some() => {
                    (state.failed, state.refused) = (true, state.refused + 1);
                    return Err(failed("flush", "no space left on device"));
                }
                EraseStep::Flush => state.left.iter_mut().filter(|left| left.by <= upto).for_each(|left| left.in_log = false),
                EraseStep::Rewrite => {
                    state.left.iter_mut().filter(|left| left.by <= upto && within(left)).for_each(|left| left.in_files = false);
                }
                EraseStep::Roll | EraseStep::Verify => (),
            }
            state.left.retain(|left| left.in_log || left.in_files);
            drop(state);
            after.map_or(Ok(()), Err)?;
        }
        Ok(Erased::default())
    }
}

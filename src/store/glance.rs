//! What a look at a state tells without its model: nothing that it keeps in memory grows with people, items or interactions.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use serde::Deserialize;

use super::tables::{Tables, each};
use super::{Family, StoreError, rows};
use crate::model::receipt::{Manifest, Status};
use crate::model::step::Positions;

/// Where a state stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Glance {
    /// Of the generation that stands.
    pub manifest: Option<Manifest>,
    /// Stored offsets.
    pub positions: Positions,
    /// How many requests of the ledger stand at each status.
    pub requests: BTreeMap<Status, u64>,
    pub fences: u64,
    /// Rows that wait to be published.
    pub outbox: u64,
}

impl Glance {
    /// Requests that no published generation has unlearned yet.
    pub fn waiting(&self) -> u64 {
        self.requests.range(..Status::Published).map(|(_, count)| count).sum()
    }

    /// Requests that are published and not purged.
    pub fn unpurged(&self) -> u64 {
        self.requests.get(&Status::Published).copied().unwrap_or(0)
    }
}

/// Of a request, all that is counted.
#[derive(Deserialize)]
struct Standing {
    receipt: Stands,
}

#[derive(Deserialize)]
struct Stands {
    status: Status,
}

impl Tables {
    /// Where the state stands. Costs a scan of ledger, fences and outbox, and reads no row of the model.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] names the first row that cannot be read.
    pub fn glance(&self) -> Result<Glance, StoreError> {
        let mut requests = BTreeMap::new();
        each(&**self.store(), Family::Ledger, |key, value| {
            let request: Standing = rows::from_json(Family::Ledger, key, value)?;
            *requests.entry(request.receipt.status).or_default() += 1;
            Ok(())
        })?;
        let (fences, outbox) = (self.count(Family::Fences)?, self.count(Family::Outbox)?);
        Ok(Glance { manifest: self.manifest()?, positions: self.positions()?, requests, fences, outbox })
    }

    /// How many users and items have a name. Costs a scan of all names.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] names the first row that cannot be read.
    pub fn named(&self) -> Result<[u64; 2], StoreError> {
        let mut named = [0; 2];
        each(&**self.store(), Family::Identities, |key, _| {
            let (side, _) = rows::identity(key).ok_or_else(|| StoreError::damaged(Family::Identities, key, "not an identity"))?;
            named[side as usize] += 1;
            Ok(())
        })?;
        Ok(named)
    }

    fn count(&self, family: Family) -> Result<u64, StoreError> {
        let mut count = 0;
        self.store().scan(family, b"", None, &mut |_, _| {
            count += 1;
            ControlFlow::Continue(())
        })?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::super::damage_tests::{key, state};
    use super::super::{Batch, Store};
    use super::*;
    use crate::model::factors::Side;

    #[test]
    fn a_glance_tells_what_a_whole_read_does_and_reads_no_row_of_the_model() {
        let store = state();
        let tables = Tables::reading(store.clone());
        let (whole, glance) = (tables.restore(key()).unwrap(), tables.glance().unwrap());
        assert_eq!(glance.manifest, whole.current.map(|current| current.manifest));
        assert_eq!((&glance.positions, glance.waiting()), (&whole.positions, whole.waiting.len() as u64));
        assert_eq!(glance.unpurged(), tables.unpurged().unwrap().len() as u64);
        assert_eq!((glance.fences, glance.outbox), (whole.fences.len(), tables.backlog().unwrap().rows));
        assert!(glance.waiting() > 0 && glance.fences > 0 && glance.outbox > 0);
        let names = Side::BOTH.map(|side| whole.dictionary.names(side).iter().flatten().count() as u64);
        assert_eq!(tables.named().unwrap(), names);

        let mut batch = Batch::default();
        for family in [Family::Identities, Family::Interactions, Family::UserFactors, Family::ItemFactors] {
            batch.put(family, b"?", b"no row");
        }
        store.write(&batch).unwrap();
        assert!(tables.restore(key()).is_err() && tables.named().is_err());
        assert_eq!(tables.glance().unwrap(), glance);
    }
}

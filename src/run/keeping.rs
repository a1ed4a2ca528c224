//! What is kept beyond a forget, and for how long: fences, and what is known of backups.

use std::path::Path;

use super::backup::back_up;
use super::service::{Service, TurnError};
use crate::config::Keep;
use crate::metrics::Happening;
use crate::model::Millis;
use crate::store::StoreError;

/// How much longer than told a fence is kept at most, in milliseconds: an hour, so that many end together.
const LONGEST_SLACK: Millis = 3_600_000;

impl Service {
    /// Says how long to keep what outlives a forget; for ever unless told.
    pub fn keep(&mut self, keep: Keep) {
        self.keep = keep;
    }

    /// Ends fences that are older than they are kept. Not each by itself: what is left is read anew.
    pub(super) fn expire_fences(&mut self, now: Millis) -> Result<(), TurnError> {
        let Some(kept) = self.keep.fences.map(|kept| kept.as_millis() as Millis) else { return Ok(()) };
        let slack = (kept / 10).min(LONGEST_SLACK);
        if self.state.fences().oldest().is_none_or(|oldest| oldest >= now - kept - slack) {
            return Ok(());
        }
        if let Some((left, gone)) = self.tables.expire_fences(now - kept, self.state.fences().key())? {
            self.state.keep_fences(left);
            self.metrics.observe(&Happening::FencesExpired { rules: gone });
        }
        Ok(())
    }

    /// Copies the state as it is between two turns, for a backup; `to` must not be there yet.
    ///
    /// # Errors
    /// [`StoreError`], also when the state itself is not whole: it came from a backup and has not caught up.
    pub fn back_up(&self, to: &Path, now: Millis) -> Result<(), StoreError> {
        back_up(&self.tables, to, now)
    }
}

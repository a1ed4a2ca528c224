//! New rows of users in the place of their old ones: a few are laid over the compressed pairs, many make these anew
//! while they come.

use std::sync::Arc;

use super::change::{difference, merged};
use super::{Builder, Change, Changes, Ratings, Row, Rows};

/// Laid-over rows cost a hash look-up and a copy each time they change: past this share of the pairs (an eighth) a new
/// form is cheaper.
const LAID: usize = 8;

/// Takes new rows of users. At the peak the users' side is held twice and the items' side not at all, which is what the
/// pairs take in the end.
pub struct Refresh(Way);

enum Way {
    /// Few so far.
    Lay {
        ratings: Arc<Ratings>,
        rows: Vec<(u32, Row)>,
        /// Pairs that would be laid over.
        laid: usize,
    },
    Renew(Box<Renewal>),
}

impl Refresh {
    /// Nobody else should hold `ratings`: who does keeps the old ones, and they take their memory.
    pub fn new(ratings: Arc<Ratings>) -> Refresh {
        let laid = ratings.users.overlay.values().map(|row| row.columns.len()).sum();
        Refresh(Way::Lay { ratings, rows: Vec::new(), laid })
    }

    /// The new row of a user; users come ascending, each once.
    pub fn put(&mut self, user: u32, row: Row) {
        match &mut self.0 {
            Way::Renew(renewal) => renewal.put(user, &row),
            Way::Lay { ratings, rows, laid } => {
                let replaced = ratings.users.overlay.get(&user).map_or(0, |row| row.columns.len());
                *laid = *laid + row.columns.len() - replaced;
                rows.push((user, row));
                if *laid * LAID > ratings.users.columns.len() {
                    let renewal = Renewal::with(std::mem::take(ratings), std::mem::take(rows));
                    self.0 = Way::Renew(Box::new(renewal));
                }
            }
        }
    }

    /// The ratings with the new rows, and the pairs that differ: listed as far as [`Changes::listed_of`] the old pairs.
    pub fn finish(self) -> (Arc<Ratings>, Changes) {
        match self.0 {
            Way::Renew(renewal) => renewal.finish(),
            Way::Lay { ratings, rows, laid } => lay(ratings, rows, laid),
        }
    }
}

/// Lays new rows over the compressed form and mends the items' side; where that is too much, makes it anew.
fn lay(mut ratings: Arc<Ratings>, rows: Vec<(u32, Row)>, laid: usize) -> (Arc<Ratings>, Changes) {
    let mut changes: Vec<Change> = Vec::new();
    for &(user, ref new) in &rows {
        let old = ratings.users.row(user as usize);
        difference(old, new, |item, before, after| changes.push(Change { user, item, before, after }));
    }
    changes.sort_unstable_by_key(|change| (change.item, change.user));
    let by_item = || changes.chunk_by(|a, b| a.item == b.item);
    let copied: usize = by_item().map(|group| ratings.items.degree(group[0].item as usize)).sum();
    if (laid + copied + changes.len()) * LAID > ratings.users.columns.len() {
        return Renewal::with(ratings, rows).finish();
    }
    let inside = Arc::make_mut(&mut ratings);
    for (user, new) in rows {
        let at = user as usize;
        inside.interactions.resize(inside.interactions.len().max(at + 1), 0);
        inside.interactions[at] = new.interactions;
        inside.users.lay(user, new);
    }
    for group in by_item() {
        let row = merged(inside.items.row(group[0].item as usize), group);
        inside.items.lay(group[0].item, row);
    }
    (ratings, Changes::Few(changes))
}

/// A new compressed form, made from the old one and the new rows in one pass over the users.
struct Renewal {
    /// Without the items' side, unless somebody else holds them.
    old: Arc<Ratings>,
    /// First user that is not taken over yet.
    next: u32,
    new: Builder,
    changes: Changes,
    /// Changes that are listed at the most.
    listed: u64,
}

impl Renewal {
    fn with(mut old: Arc<Ratings>, rows: Vec<(u32, Row)>) -> Renewal {
        let listed = Changes::listed_of(old.pairs());
        if let Some(ratings) = Arc::get_mut(&mut old) {
            ratings.items = Rows::default();
        }
        let mut renewal = Renewal { old, next: 0, new: Builder::default(), changes: Changes::NONE, listed };
        for (user, row) in rows {
            renewal.put(user, &row);
        }
        renewal
    }

    fn put(&mut self, user: u32, row: &Row) {
        self.keep_up_to(user);
        self.next = user + 1;
        let old = self.old.users.row(user as usize);
        difference(old, row, |item, before, after| {
            self.changes.push(Change { user, item, before, after }, self.listed);
        });
        self.new.push(user, row);
    }

    /// Takes over the rows below `end` that did not change.
    fn keep_up_to(&mut self, end: u32) {
        for user in self.next..end.min(self.old.users.len() as u32) {
            let interactions = self.old.interactions.get(user as usize).copied().unwrap_or(0);
            self.new.append(user, self.old.users.row(user as usize), interactions);
        }
    }

    fn finish(mut self) -> (Arc<Ratings>, Changes) {
        self.keep_up_to(u32::MAX);
        // Before the items' side is made.
        drop(self.old);
        (Arc::new(self.new.finish()), self.changes.sorted())
    }
}

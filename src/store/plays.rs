//! How plays lie in the store. What one batch brings of some users who came one after the other is one row: a row for each
//! play would cost more than all that is done with it.
//!
//! A play may come again, and is then in several rows; whoever reads takes a group's rows together and tells each play once.
//! So nothing is read before something is written. What is erased is taken out of every row that has it. Rows that are seen to
//! repeat each other, or to be many and short, are put together when there is time: a topic may come again any number of times,
//! and what came event by event is read as fast as what came by the thousand.

use std::borrow::Borrow;
use std::sync::PoisonError;

use super::tables::{Tables, between};
use super::{Batch, Family, KeyRange, Store, StoreError, rows};
use crate::model::play::Play;
use crate::model::step::TOGETHER;

/// The first user of the group, then the number of the batch; both big endian.
pub const KEY: usize = 12;
/// Plays that are put in one row when rows are put together: whoever takes one out writes the row anew.
pub(super) const OF_A_ROW: usize = 4_096;
/// Rows of a group that are left as they are, and so are as many as this share of its plays: each play is then written anew some
/// sixteen times, however many come.
const SCATTERED: usize = 64;
const SHARE: usize = 16;
/// Bytes of rows that are put together at once: events wait for no more than that.
const TIDIED: usize = 1 << 20;
/// A play in a row, without its event id: what it has, item, hash of the event id, time, value.
const LONGEST: usize = 29;

/// Bits of a play's first byte; the others are the user's place in the group.
const IDENT: u8 = 1;
const NAME: u8 = 2;
const PLACE: u32 = 2;

fn group_of(user: u32) -> u32 {
    user - user % TOGETHER
}

/// The key of a row: any user of the group, and the number of the batch.
pub fn key(user: u32, batch: u64) -> [u8; KEY] {
    let mut key = [0; KEY];
    key[..4].copy_from_slice(&group_of(user).to_be_bytes());
    key[4..].copy_from_slice(&batch.to_be_bytes());
    key
}

/// Where all that is known of a user's plays lies, whichever version wrote it: the rows of the group, and of each of its users.
pub fn range_of(user: u32) -> KeyRange {
    let from = group_of(user);
    KeyRange { family: Family::Interactions, from: from.to_be_bytes().to_vec(), to: end(from.checked_add(TOGETHER)) }
}

/// The end of the keys of all groups before this user's. Without zeros at its end, so that it is not beyond the block of users
/// that lie in one place.
fn end(user: Option<u32>) -> Option<Vec<u8>> {
    let mut end = user?.to_be_bytes().to_vec();
    while end.last() == Some(&0) {
        end.pop();
    }
    Some(end)
}

/// Puts plays, ascending and each once, with the event id where there is one to be kept, as rows of the batch with this number.
/// No other batch may have the number.
pub fn put<N: Borrow<str>>(batch: &mut Batch, plays: &[(Play, N)], number: u64) {
    batch.reserve(0, plays.len() * LONGEST);
    for group in plays.chunk_by(|(a, _), (b, _)| group_of(a.user) == group_of(b.user)) {
        put_row(batch, &key(group[0].0.user, number), group.iter().map(|(play, name)| (play, name.borrow())));
    }
}

fn put_row<'p>(batch: &mut Batch, key: &[u8], plays: impl Iterator<Item = (&'p Play, &'p str)>) {
    let value = |bytes: &mut Vec<u8>| {
        rows::put_versioned(bytes, &[]);
        plays.for_each(|(play, name)| put_play(bytes, play, name));
    };
    batch.put_with(Family::Interactions, |bytes| bytes.extend_from_slice(key), value);
}

fn put_play(bytes: &mut Vec<u8>, play: &Play, name: &str) {
    let place = ((play.user % TOGETHER) as u8) << PLACE;
    let ident = if play.ident.is_some() { IDENT } else { 0 };
    let has = if name.is_empty() { ident } else { ident | NAME };
    // Put together first: one copy, whose length hardly varies.
    let mut written = [0; LONGEST];
    written[0] = place | has;
    written[1..5].copy_from_slice(&play.item.to_le_bytes());
    written[5..13].copy_from_slice(&play.time.to_le_bytes());
    written[13..21].copy_from_slice(&play.value.to_le_bytes());
    written[21..].copy_from_slice(&play.ident.unwrap_or_default().to_le_bytes());
    bytes.extend_from_slice(if play.ident.is_some() { &written } else { &written[..21] });
    if !name.is_empty() {
        // An identifier has some hundred bytes at most.
        bytes.extend((name.len() as u16).to_le_bytes());
        bytes.extend_from_slice(name.as_bytes());
    }
}

/// Visits the plays of a row, ascending.
///
/// # Errors
/// [`StoreError::Damaged`] for what [`put`] would not have written.
fn read(key: &[u8], value: &[u8], mut visit: impl FnMut(Play, &str)) -> Result<u32, StoreError> {
    let damaged = || StoreError::damaged(Family::Interactions, key, "not plays");
    let group = key.first_chunk::<4>().filter(|_| key.len() == KEY).map(|group| u32::from_be_bytes(*group));
    let group = group.filter(|group| group % TOGETHER == 0).ok_or_else(damaged)?;
    let mut rest = rows::unversioned(Family::Interactions, key, value)?;
    let mut last = None;
    while last.is_none() || !rest.is_empty() {
        let (play, name, after) = read_play(group, rest).ok_or_else(damaged)?;
        if last.is_some_and(|last| last >= play) {
            return Err(damaged());
        }
        visit(play, name);
        (last, rest) = (Some(play), after);
    }
    Ok(group)
}

fn read_play(group: u32, bytes: &[u8]) -> Option<(Play, &str, &[u8])> {
    let (fixed, mut rest) = bytes.split_first_chunk::<21>()?;
    let [has, a, b, c, d, numbers @ ..] = *fixed;
    let (time, value) = (numbers.first_chunk::<8>()?, numbers.last_chunk::<8>()?);
    let place = u32::from(has >> PLACE);
    let mut play = Play {
        user: group.checked_add(place).filter(|_| place < TOGETHER)?,
        item: u32::from_le_bytes([a, b, c, d]),
        ident: None,
        // Times are never negative.
        time: Some(i64::from_le_bytes(*time)).filter(|time| *time >= 0)?,
        value: u64::from_le_bytes(*value),
    };
    if has & IDENT != 0 {
        let (ident, after) = rest.split_first_chunk::<8>()?;
        (play.ident, rest) = (Some(u64::from_le_bytes(*ident)), after);
    }
    let mut name = "";
    if has & NAME != 0 {
        let (length, after) = rest.split_first_chunk::<2>()?;
        let (text, after) = after.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
        (name, rest) = (std::str::from_utf8(text).ok().filter(|name| !name.is_empty())?, after);
    }
    Some((play, name, rest))
}

/// The rows of one group.
#[derive(Default)]
struct Gathered {
    group: Option<u32>,
    /// Each with the place of its event id among `names`.
    plays: Vec<(Play, u32, u32)>,
    names: String,
    rows: usize,
}

impl Gathered {
    fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let Gathered { plays, names, .. } = self;
        let group = read(key, value, |play, name| {
            let from = names.len() as u32;
            names.push_str(name);
            plays.push((play, from, names.len() as u32));
        })?;
        self.group = Some(group);
        self.rows += 1;
        Ok(())
    }

    /// Visits each play once, ascending, and is empty then. The group, if its rows are worth putting together.
    fn tell(&mut self, visit: &mut dyn FnMut(Play, &str) -> Result<(), StoreError>) -> Result<Option<u32>, StoreError> {
        if self.rows > 1 {
            // Rows are runs already, which is what this sort makes use of.
            self.plays.sort_by_key(|(play, ..)| *play);
        }
        let mut distinct = 0;
        let mut plays = self.plays.iter().peekable();
        while let Some(&(play, from, to)) = plays.next() {
            // Of several the one that came last.
            if plays.peek().is_none_or(|(next, ..)| *next != play) {
                visit(play, &self.names[from as usize..to as usize])?;
                distinct += 1;
            }
        }
        let repeats = self.rows > 1 && self.plays.len() >= 2 * distinct;
        let untidy = self.group.filter(|_| repeats || self.rows > SCATTERED.max(distinct / SHARE));
        (self.group, self.rows) = (None, 0);
        self.plays.clear();
        self.names.clear();
        Ok(untidy)
    }
}

/// Visits the plays of users from this number on, up to but without the other if there is one: ascending, each once. Reads whole
/// groups, and holds one in memory.
///
/// # Errors
/// [`StoreError::Damaged`] names the first row that cannot be read; else the error of `visit`.
pub fn each(
    store: &dyn Store,
    (from, to): (u32, Option<u32>),
    visit: &mut dyn FnMut(Play, &str) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    look(store, (from, to), visit).map(drop)
}

/// As [`each`]; the groups whose rows are worth putting together.
fn look(
    store: &dyn Store,
    (from, to): (u32, Option<u32>),
    visit: &mut dyn FnMut(Play, &str) -> Result<(), StoreError>,
) -> Result<Vec<u32>, StoreError> {
    let mut untidy = Vec::new();
    let mut wanted = |play: Play, name: &str| {
        if play.user >= from && to.is_none_or(|to| play.user < to) { visit(play, name) } else { Ok(()) }
    };
    let after = to.and_then(|to| to.checked_next_multiple_of(TOGETHER));
    let mut gathered = Gathered::default();
    between(store, Family::Interactions, &group_of(from).to_be_bytes(), end(after).as_deref(), |key, value| {
        if gathered.group.is_some_and(|group| !key.starts_with(&group.to_be_bytes())) {
            untidy.extend(gathered.tell(&mut wanted)?);
        }
        gathered.add(key, value)
    })?;
    untidy.extend(gathered.tell(&mut wanted)?);
    Ok(untidy)
}

/// Takes these plays out of the rows that are stored. Costs a read of the groups of their users; in the batch are the rows that
/// had one, as they are without them.
///
/// # Errors
/// [`StoreError`] when a row cannot be read.
pub fn take_out(batch: &mut Batch, store: &dyn Store, erased: &[Play]) -> Result<(), StoreError> {
    let mut erased = erased.to_vec();
    erased.sort_unstable();
    for erased in erased.chunk_by(|a, b| group_of(a.user) == group_of(b.user)) {
        let KeyRange { family, from, to } = range_of(erased[0].user);
        let (mut kept, mut names) = (Vec::new(), String::new());
        between(store, family, &from, to.as_deref(), |key, value| {
            kept.clear();
            names.clear();
            let mut all = 0;
            read(key, value, |play, name| {
                all += 1;
                if erased.binary_search(&play).is_err() {
                    let from = names.len();
                    names.push_str(name);
                    kept.push((play, from..names.len()));
                }
            })?;
            if kept.is_empty() {
                batch.delete(family, key);
            } else if kept.len() < all {
                put_row(batch, key, kept.iter().map(|(play, name)| (play, &names[name.clone()])));
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Puts the rows of a group together in the place of the first of them.
fn put_together(batch: &mut Batch, store: &dyn Store, group: u32) -> Result<(), StoreError> {
    let KeyRange { family, from, to } = range_of(group);
    let (mut gathered, mut keys, mut plays) = (Gathered::default(), Vec::new(), Vec::new());
    between(store, family, &from, to.as_deref(), |key, value| {
        keys.push(key.to_vec());
        gathered.add(key, value)
    })?;
    gathered.tell(&mut |play, name| {
        plays.push((play, Box::<str>::from(name)));
        Ok(())
    })?;
    let mut rows = plays.chunks(plays.len().div_ceil(keys.len().max(1)).max(OF_A_ROW));
    for key in &keys {
        match rows.next() {
            Some(plays) => put_row(batch, key, plays.iter().map(|(play, name)| (play, &**name))),
            None => batch.delete(family, key),
        }
    }
    Ok(())
}

impl Tables {
    /// Visits plays as [`each`] does, and notes what [`Tables::tidy`] may do.
    ///
    /// # Errors
    /// As [`each`].
    pub(super) fn each_play(
        &self,
        users: (u32, Option<u32>),
        visit: &mut dyn FnMut(Play, &str) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let untidy = look(&**self.store(), users, visit)?;
        self.untidy.lock().unwrap_or_else(PoisonError::into_inner).extend(untidy);
        Ok(())
    }

    /// Puts rows together that were seen to repeat each other or to be many, some at a time; true when there were any.
    ///
    /// # Errors
    /// [`StoreError`]; the process must end.
    pub fn tidy(&mut self) -> Result<bool, StoreError> {
        let mut batch = Batch::default();
        while batch.size() < TIDIED
            && let Some(group) = self.untidy.get_mut().unwrap_or_else(PoisonError::into_inner).pop_first()
        {
            put_together(&mut batch, &**self.store(), group)?;
        }
        if batch.is_empty() {
            return Ok(false);
        }
        self.store().write(&batch)?;
        Ok(true)
    }
}

#[cfg(test)]
#[path = "plays_tests.rs"]
mod tests;

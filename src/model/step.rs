//! What goes into the processor and what comes out: records, questions to the store, and the changes of one step.

use std::collections::BTreeMap;

use super::Millis;
use super::factors::Side;
use super::fence::Rule;
use super::play::Play;
use super::receipt::{Receipt, Request, RequestKey};

/// One record as it came in.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// Index into the topics that go with it.
    pub topic: u16,
    pub partition: i32,
    pub offset: i64,
    pub timestamp: Option<Millis>,
    /// The partition starts over: the one case in which an offset may go back.
    pub reset: bool,
    pub key: Option<&'a [u8]>,
    pub payload: Option<&'a [u8]>,
}

/// Users of consecutive numbers of whom a store reads all when it is asked for one: from a multiple of this on.
pub const TOGETHER: u32 = 16;

/// Which stored plays are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    All,
    /// Of users from this number on, up to but without the other if there is one.
    Users(u32, Option<u32>),
    User(u32),
}

impl Range {
    /// What to ask for when the plays of these users are wanted, who come ascending: a range for all that are read together,
    /// who may not be the only ones in it.
    pub fn over(users: &[u32]) -> impl Iterator<Item = Range> {
        let groups = users.chunk_by(|a, b| a / TOGETHER == b / TOGETHER);
        groups.filter_map(|group| Some(Range::Users(*group.first()?, group.last()?.checked_add(1))))
    }
}

/// What the processor may ask of the past: the committed store.
pub trait History: Sync {
    type Error: std::error::Error + Send;

    /// Stored plays in ascending order, each with its event id where the objective needs it.
    fn plays(&self, range: Range, visit: &mut dyn FnMut(Play, &str)) -> Result<(), Self::Error>;

    /// A request that was taken earlier.
    fn request(&self, key: &RequestKey) -> Result<Option<Request>, Self::Error>;
}

/// What a row of a generation is to its readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowChange {
    /// New values.
    Put,
    /// Removed: readers get a tombstone.
    Tombstone,
    /// Never published; only its name goes.
    Drop,
}

/// An undecodable record on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    /// The record's bytes, at most the first million.
    pub value: Vec<u8>,
    /// Length before it was cut.
    pub length: u64,
    pub error: String,
    pub detail: String,
}

/// A row of the outbox.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "most rows of an outbox are receipts")]
pub enum Outgoing {
    Receipt(Receipt),
    DeadLetter(DeadLetter),
    /// Rows of a generation; their values are the current factors.
    Rows {
        generation: u64,
        rows: Vec<(Side, u32, RowChange)>,
    },
    /// Ends a generation.
    Manifest {
        generation: u64,
    },
}

impl Outgoing {
    /// Bytes of a dead letter that its producer wrote.
    pub fn letter_bytes(&self) -> u64 {
        match self {
            Outgoing::DeadLetter(letter) => (letter.value.len() + letter.key.as_ref().map_or(0, Vec::len)) as u64,
            _ => 0,
        }
    }
}

/// What happened to events of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub interactions: u64,
    /// Interactions that a fence kept out.
    pub fenced: u64,
    pub forgets: u64,
    /// Requests that were here before.
    pub repeated: u64,
    /// Requests under an id that was used for another.
    pub rejected: u64,
    /// Records without a value.
    pub empty: u64,
    /// Records below the stored offset: seen again after a rebalance.
    pub seen: u64,
}

/// Next offset to read, per topic and partition.
pub type Positions = BTreeMap<(String, i32), i64>;

/// Everything that one batch changes; committed as a whole.
#[derive(Debug, Default)]
pub struct Step {
    /// Sorted, without repetition; with the event id where the objective needs it, else empty.
    pub plays: Vec<(Play, Box<str>)>,
    pub erased: Vec<Play>,
    pub identities: Vec<(Side, u32)>,
    pub rules: Vec<Rule>,
    pub requests: Vec<(RequestKey, Request)>,
    pub outbox: Vec<Outgoing>,
    pub positions: Positions,
    pub tally: Tally,
}

/// Rows marked once each.
#[derive(Debug, Clone, Default)]
pub(super) struct Marks {
    marked: Vec<bool>,
    rows: Vec<u32>,
}

impl Marks {
    pub fn set(&mut self, row: u32) {
        let at = row as usize;
        if self.marked.len() <= at {
            self.marked.resize(at + 1, false);
        }
        if !std::mem::replace(&mut self.marked[at], true) {
            self.rows.push(row);
        }
    }

    pub fn contains(&self, row: u32) -> bool {
        self.marked.get(row as usize).copied().unwrap_or(false)
    }

    pub fn rows(&self) -> &[u32] {
        &self.rows
    }

    /// All marked rows, ascending; none is marked after.
    pub fn take(&mut self) -> Vec<u32> {
        let mut rows = std::mem::take(&mut self.rows);
        rows.iter().for_each(|&row| self.marked[row as usize] = false);
        rows.sort_unstable();
        rows
    }
}

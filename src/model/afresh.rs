//! A generation for readers of whom the state does not know what they have: every row goes out anew, and what they have
//! besides is removed.

use std::collections::BTreeMap;

use super::dictionary::NumbersExhausted;
use super::factors::Side;
use super::processor::State;
use super::step::{Marks, Step};

/// What is on the topics that readers follow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OnTopics {
    /// The highest number that a generation there has; 0 without one.
    pub generation: u64,
    /// End of each partition of the factors topic.
    pub upto: BTreeMap<i32, i64>,
    /// Rows that the factors topic has.
    pub rows: Vec<(Side, String)>,
}

/// [`OnTopics`] under the numbers of the state.
#[derive(Debug, Clone)]
pub(super) struct Afresh {
    pub generation: u64,
    pub upto: BTreeMap<i32, i64>,
    pub rows: [Marks; 2],
}

impl State {
    /// Makes the next generation go on above that of the topics, and hold for whoever has what they hold: it sends all rows,
    /// and removes those that the model does not have. Their names are in the dictionary until that is done, like those of
    /// all rows that go.
    ///
    /// # Errors
    /// [`NumbersExhausted`] when a side has run out of numbers.
    pub fn publish_afresh(&mut self, topics: OnTopics) -> Result<Step, NumbersExhausted> {
        let (mut step, mut rows) = (Step::default(), <[Marks; 2]>::default());
        for (side, name) in &topics.rows {
            let (number, new) = self.dictionary.assign(*side, name)?;
            if new {
                step.identities.push((*side, number));
            }
            rows[*side as usize].set(number);
        }
        self.afresh = Some(Afresh { generation: topics.generation, upto: topics.upto, rows });
        self.recheck = true;
        self.changed += 1;
        // An interim generation tells of changes only.
        self.since = None;
        Ok(step)
    }
}

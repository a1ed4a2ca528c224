//! Natural identifiers and the surrogate numbers that stand for them everywhere else.

use std::sync::Arc;

use hashbrown::HashMap;

use super::factors::Side;

/// Names of one side.
#[derive(Debug, Clone, Default)]
struct Names {
    numbers: HashMap<Arc<str>, u32>,
    /// Shared with whoever reads them beside the loop; the next change copies them then.
    names: Arc<Vec<Option<Arc<str>>>>,
    next: u32,
}

/// Both sides' names. A number is given once and never again, so that nothing written under it can come to mean
/// somebody else.
#[derive(Debug, Clone, Default)]
pub struct Dictionary {
    sides: [Names; 2],
}

/// All four billion numbers of a side are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "all 4294967295 surrogate numbers of the {0:?} side are used; start a new state directory and a new factors topic from the event topics"
)]
pub struct NumbersExhausted(pub Side);

impl Dictionary {
    /// The number of a name that is known.
    pub fn get(&self, side: Side, name: &str) -> Option<u32> {
        self.sides[side as usize].numbers.get(name).copied()
    }

    /// The number of a name, a new one if need be; the flag says whether it is new.
    ///
    /// # Errors
    /// [`NumbersExhausted`] after four billion names of one side.
    pub fn assign(&mut self, side: Side, name: &str) -> Result<(u32, bool), NumbersExhausted> {
        if let Some(number) = self.get(side, name) {
            return Ok((number, false));
        }
        let number = self.sides[side as usize].next;
        if number == u32::MAX {
            return Err(NumbersExhausted(side));
        }
        self.restore(side, number, name);
        Ok((number, true))
    }

    /// Puts a name under the number that it had.
    pub fn restore(&mut self, side: Side, number: u32, name: &str) {
        let names = &mut self.sides[side as usize];
        let name: Arc<str> = name.into();
        let at = number as usize;
        let by_number = Arc::make_mut(&mut names.names);
        if by_number.len() <= at {
            by_number.resize(at + 1, None);
        }
        by_number[at] = Some(name.clone());
        names.numbers.insert(name, number);
        names.next = names.next.max(number + 1);
    }

    /// Forgets a name; its number stays used.
    pub fn remove(&mut self, side: Side, number: u32) {
        let names = &mut self.sides[side as usize];
        if let Some(name) = Arc::make_mut(&mut names.names).get_mut(number as usize).and_then(Option::take) {
            names.numbers.remove(&name);
        }
    }

    /// The name behind a number.
    pub fn name(&self, side: Side, number: u32) -> Option<&Arc<str>> {
        self.sides[side as usize].names.get(number as usize).and_then(Option::as_ref)
    }

    /// All names, by number.
    pub fn names(&self, side: Side) -> &Arc<Vec<Option<Arc<str>>>> {
        &self.sides[side as usize].names
    }

    /// The number that the next new name gets.
    pub fn next(&self, side: Side) -> u32 {
        self.sides[side as usize].next
    }

    /// Numbers below `next` are used, whether or not their names are still known.
    pub fn used_up_to(&mut self, side: Side, next: u32) {
        let names = &mut self.sides[side as usize];
        names.next = names.next.max(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_never_given_twice() {
        let mut names = Dictionary::default();
        assert_eq!(names.assign(Side::User, "a"), Ok((0, true)));
        assert_eq!(names.assign(Side::Item, "a"), Ok((0, true)));
        assert_eq!(names.assign(Side::User, "a"), Ok((0, false)));
        names.remove(Side::User, 0);
        assert_eq!((names.get(Side::User, "a"), names.name(Side::User, 0)), (None, None));
        assert_eq!(names.assign(Side::User, "a"), Ok((1, true)));
        let mut restarted = Dictionary::default();
        restarted.used_up_to(Side::User, names.next(Side::User));
        assert_eq!(restarted.assign(Side::User, "b"), Ok((2, true)));
    }
}

//! Natural identifiers and the surrogate numbers that stand for them everywhere else.

use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::factors::Side;

/// Names up to this many bytes lie in the table itself. Looking names up is the dearest part of taking an event in, and what
/// it costs is the memory that it touches.
const SHORT: usize = 19;
/// Stands for the length of all longer ones.
const LONG: u8 = u8::MAX;

/// A name's number, and as much of the name as fits.
#[derive(Debug, Clone, Copy)]
struct Entry {
    number: u32,
    length: u8,
    head: [u8; SHORT],
}

impl Entry {
    fn new(number: u32, name: &str) -> Entry {
        let mut head = [0; SHORT];
        let kept = name.len().min(SHORT);
        head[..kept].copy_from_slice(&name.as_bytes()[..kept]);
        let length = if name.len() > SHORT { LONG } else { kept as u8 };
        Entry { number, length, head }
    }

    /// Is this the entry of `name`? `names` are those behind the numbers.
    fn is_of(&self, name: &str, names: &[Option<Arc<str>>]) -> bool {
        if name.len() <= SHORT {
            return usize::from(self.length) == name.len() && self.head[..name.len()] == *name.as_bytes();
        }
        self.length == LONG && self.head == name.as_bytes()[..SHORT] && names[self.number as usize].as_deref() == Some(name)
    }
}

/// Names of one side.
#[derive(Debug, Clone, Default)]
struct Names {
    numbers: HashTable<Entry>,
    hasher: DefaultHashBuilder,
    /// Shared with whoever reads them beside the loop; the next change copies them then.
    names: Arc<Vec<Option<Arc<str>>>>,
    next: u32,
}

impl Names {
    fn get(&self, name: &str) -> Option<u32> {
        self.numbers.find(self.hasher.hash_one(name), |entry| entry.is_of(name, &self.names)).map(|entry| entry.number)
    }

    /// Puts a name that is not there under a number, in place of the one that was.
    fn put(&mut self, number: u32, name: &str) {
        let at = number as usize;
        self.take(number);
        let names = Arc::make_mut(&mut self.names);
        if names.len() <= at {
            names.resize(at + 1, None);
        }
        names[at] = Some(name.into());
        let rehash = |entry: &Entry| self.hasher.hash_one(names[entry.number as usize].as_deref().unwrap_or_default());
        self.numbers.insert_unique(self.hasher.hash_one(name), Entry::new(number, name), rehash);
        self.next = self.next.max(number + 1);
    }

    /// Takes the name of a number out.
    fn take(&mut self, number: u32) {
        let Some(name) = self.names.get(number as usize).cloned().flatten() else { return };
        if let Ok(entry) = self.numbers.find_entry(self.hasher.hash_one(&*name), |entry| entry.is_of(&name, &self.names)) {
            entry.remove();
        }
        Arc::make_mut(&mut self.names)[number as usize] = None;
    }
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
        self.sides[side as usize].get(name)
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
        if let Some(before) = names.get(name) {
            names.take(before);
        }
        names.put(number, name);
    }

    /// Forgets a name; its number stays used.
    pub fn remove(&mut self, side: Side, number: u32) {
        self.sides[side as usize].take(number);
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
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Of which a name is made.
    fn parts() -> impl Strategy<Value = Vec<&'static str>> {
        prop::collection::vec(prop::sample::select(&["a", "ä", "0123456789", "\0"][..]), 1..5)
    }

    proptest! {
        /// Short and long names, many of which begin alike.
        #[test]
        fn names_and_numbers_belong_together(
            steps in prop::collection::vec((parts(), any::<bool>()), 1..200)
        ) {
            let (mut names, mut known, mut next) = (Dictionary::default(), BTreeMap::new(), 0);
            for (parts, remove) in steps {
                let name = parts.concat();
                if remove {
                    if let Some(number) = known.remove(&name) {
                        names.remove(Side::User, number);
                    }
                } else {
                    let expected = match known.get(&name) {
                        Some(&number) => (number, false),
                        None => (next, true),
                    };
                    prop_assert_eq!(names.assign(Side::User, &name), Ok(expected));
                    next = next.max(expected.0 + 1);
                    known.insert(name.clone(), expected.0);
                }
                prop_assert_eq!(names.get(Side::User, &name), known.get(&name).copied());
            }
            for (name, &number) in &known {
                prop_assert_eq!(names.get(Side::User, name), Some(number));
                prop_assert_eq!(names.name(Side::User, number).map(|name| &**name), Some(&**name));
            }
            prop_assert_eq!(names.names(Side::User).iter().flatten().count(), known.len());
        }
    }

    #[test]
    fn a_name_has_one_number_and_a_number_one_name() {
        let long = "n".repeat(SHORT + 1);
        for name in ["a", &long] {
            let mut names = Dictionary::default();
            names.restore(Side::User, 3, name);
            names.restore(Side::User, 7, name);
            assert_eq!((names.get(Side::User, name), names.name(Side::User, 3)), (Some(7), None), "it moved");
            names.restore(Side::User, 7, "b");
            assert_eq!((names.get(Side::User, name), names.get(Side::User, "b")), (None, Some(7)), "it was replaced");
            assert_eq!(names.assign(Side::User, name), Ok((8, true)));
        }
    }

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

//! A digest of the data itself, under natural names: equal for two stores exactly when they hold the same interactions,
//! whatever numbers, hash keys and order of arrival they have.

use std::collections::HashMap;

use super::dictionary::Dictionary;
use super::factors::Side;
use super::play::Play;
use super::step::{History, Range};

/// Plays that are held in memory at once, unless one user has more; 24 bytes each.
const AT_ONCE: u64 = 4_000_000;

/// BLAKE3 over interactions sorted by user, item, time and value; grows with the data.
#[derive(Debug, Clone, Default)]
pub struct DataDigest(blake3::Hasher);

impl DataDigest {
    /// Takes in all interactions of a store, users ascending by name. Stores of which one ends before the next begins
    /// may follow each other: together they give the digest of one that holds them all.
    ///
    /// # Errors
    /// Whatever the store answers.
    pub fn add<H: History>(&mut self, dictionary: &Dictionary, history: &H) -> Result<(), H::Error> {
        self.add_some(dictionary, history, AT_ONCE)
    }

    /// Names come in another order than numbers, and the store is read by number: so some users' plays are gathered at a time.
    fn add_some<H: History>(&mut self, dictionary: &Dictionary, history: &H, at_once: u64) -> Result<(), H::Error> {
        let mut counts: HashMap<u32, u64> = HashMap::new();
        history.plays(Range::All, &mut |play, _| *counts.entry(play.user).or_default() += 1)?;
        let names = dictionary.names(Side::User).iter().enumerate();
        let mut users: Vec<(&str, u32)> = names.filter_map(|(number, name)| Some((name.as_deref()?, number as u32))).collect();
        users.retain(|(_, number)| counts.contains_key(number));
        users.sort_unstable();
        let mut left = &users[..];
        while !left.is_empty() {
            let mut plays = 0;
            let fits = |(_, number): &&(&str, u32)| {
                plays += counts[number];
                plays <= at_once
            };
            let (some, rest) = left.split_at(left.iter().take_while(fits).count().max(1));
            self.add_users(some, dictionary, history)?;
            left = rest;
        }
        Ok(())
    }

    fn add_users<H: History>(&mut self, users: &[(&str, u32)], dictionary: &Dictionary, history: &H) -> Result<(), H::Error> {
        let mut numbers: Vec<u32> = users.iter().map(|(_, number)| *number).collect();
        numbers.sort_unstable();
        let mut plays: HashMap<u32, Vec<(u32, i64, u64)>> = numbers.iter().map(|&number| (number, Vec::new())).collect();
        for range in Range::over(&numbers) {
            history.plays(range, &mut |play: Play, _| {
                if let Some(plays) = plays.get_mut(&play.user) {
                    plays.push((play.item, play.time, play.value));
                }
            })?;
        }
        for (user, number) in users {
            let plays = plays.remove(number).unwrap_or_default().into_iter();
            // A play without a name would be a damaged store; it must not pass as absent.
            let named = |(item, time, value)| (dictionary.name(Side::Item, item).map_or("\u{0}", |name| &**name), time, value);
            let mut plays: Vec<(&str, i64, u64)> = plays.map(named).collect();
            plays.sort_unstable();
            for (item, time, value) in &plays {
                for text in [user, item] {
                    self.0.update(&(text.len() as u32).to_le_bytes()).update(text.as_bytes());
                }
                self.0.update(&time.to_le_bytes()).update(&value.to_le_bytes());
            }
        }
        Ok(())
    }

    /// In hex.
    pub fn finish(&self) -> String {
        self.0.finalize().to_hex().to_string()
    }
}

/// The digest of all interactions of one store. Reads everything once, and once more for every four million plays.
///
/// # Errors
/// Whatever the store answers.
pub fn data_digest<H: History>(dictionary: &Dictionary, history: &H) -> Result<String, H::Error> {
    let mut digest = DataDigest::default();
    digest.add(dictionary, history)?;
    Ok(digest.finish())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::convert::Infallible;

    use super::*;
    use crate::model::receipt::{Request, RequestKey};

    struct Past(BTreeSet<Play>);

    impl History for Past {
        type Error = Infallible;

        fn plays(&self, range: Range, visit: &mut dyn FnMut(Play, &str)) -> Result<(), Infallible> {
            let within = |play: &&Play| match range {
                Range::All => true,
                Range::Users(from, to) => play.user >= from && to.is_none_or(|to| play.user < to),
                Range::User(user) => play.user == user,
            };
            self.0.iter().filter(within).for_each(|play| visit(*play, ""));
            Ok(())
        }

        fn request(&self, _: &RequestKey) -> Result<Option<Request>, Infallible> {
            Ok(None)
        }
    }

    /// People and things with these names; numbers are given in the order in which they come.
    fn world(users: &[usize], items: &[usize]) -> (Dictionary, Past) {
        let mut dictionary = Dictionary::default();
        let number = |dictionary: &mut Dictionary, side, n: usize| dictionary.assign(side, &format!("{n}")).unwrap().0;
        let mut plays = BTreeSet::new();
        for &user in users {
            for &item in items.iter().filter(|item| (user + **item) % 3 > 0) {
                let (user, time) = (number(&mut dictionary, Side::User, user), (user * item % 7) as i64);
                let item = number(&mut dictionary, Side::Item, item);
                plays.insert(Play { user, item, ident: None, time, value: 1 });
            }
        }
        (dictionary, Past(plays))
    }

    #[test]
    fn it_is_of_names_and_however_many_are_read_at_once() {
        let (users, items): (Vec<usize>, Vec<usize>) = ((0..60).collect(), (0..9).collect());
        let mut digests = BTreeSet::new();
        for (users, items) in [(users.clone(), items.clone()), (users.into_iter().rev().collect(), items.into_iter().rev().collect())] {
            let (dictionary, past) = world(&users, &items);
            for at_once in [1, 40, 200, AT_ONCE] {
                let mut digest = DataDigest::default();
                digest.add_some(&dictionary, &past, at_once).unwrap();
                digests.insert(digest.finish());
            }
            assert_eq!(data_digest(&dictionary, &past).as_ref(), Ok(digests.first().unwrap()));
        }
        assert_eq!(digests.len(), 1);
        let (dictionary, mut past) = world(&(0..60).collect::<Vec<_>>(), &(0..9).collect::<Vec<_>>());
        past.0.pop_last();
        assert!(!digests.contains(&data_digest(&dictionary, &past).unwrap()));
    }
}

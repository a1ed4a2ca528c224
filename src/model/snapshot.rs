//! A digest of the data itself, under natural names: equal for two stores exactly when they hold the same interactions,
//! whatever numbers, hash keys and order of arrival they have.

use super::dictionary::Dictionary;
use super::factors::Side;
use super::play::Play;
use super::step::{History, Range};

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
        let names = dictionary.names(Side::User).iter().enumerate();
        let mut users: Vec<(&str, u32)> = names.filter_map(|(number, name)| Some((name.as_deref()?, number as u32))).collect();
        users.sort_unstable();
        let mut plays: Vec<(&str, i64, u64)> = Vec::new();
        for (user, number) in users {
            plays.clear();
            history.plays(Range::User(number), &mut |play: Play, _| {
                // A play without a name would be a damaged store; it must not pass as absent.
                let item = dictionary.name(Side::Item, play.item).map_or("\u{0}", |name| name);
                plays.push((item, play.time, play.value));
            })?;
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

/// The digest of all interactions of one store. Reads everything; costs a sort a user.
///
/// # Errors
/// Whatever the store answers.
pub fn data_digest<H: History>(dictionary: &Dictionary, history: &H) -> Result<String, H::Error> {
    let mut digest = DataDigest::default();
    digest.add(dictionary, history)?;
    Ok(digest.finish())
}

//! A digest of the data itself, under natural names: equal for two stores exactly when they hold the same interactions,
//! whatever numbers, hash keys and order of arrival they have.

use super::dictionary::Dictionary;
use super::factors::Side;
use super::play::Play;
use super::step::{History, Range};

/// Hex of BLAKE3 over all interactions, sorted by user, item, time and value. Reads everything; costs a sort a user.
///
/// # Errors
/// Whatever the store answers.
pub fn data_digest<H: History>(dictionary: &Dictionary, history: &H) -> Result<String, H::Error> {
    let mut users: Vec<(&str, u32)> =
        dictionary.names(Side::User).iter().enumerate().filter_map(|(number, name)| Some((name.as_deref()?, number as u32))).collect();
    users.sort_unstable();
    let mut hasher = blake3::Hasher::new();
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
                hasher.update(&(text.len() as u32).to_le_bytes()).update(text.as_bytes());
            }
            hasher.update(&time.to_le_bytes()).update(&value.to_le_bytes());
        }
    }
    Ok(hasher.finalize().to_hex().to_string())
}

//! How rows look as bytes. Every value starts with its version; keys hold surrogates and keyed hashes only.

use std::borrow::Cow;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Batch, Family, StoreError};
use crate::model::factors::Side;
use crate::model::step::{DeadLetter, Outgoing, Positions, RowChange};

/// Version of the whole format, in the row [`FORMAT_KEY`] of `meta`.
pub const FORMAT: u8 = 3;
pub const FORMAT_KEY: &[u8] = b"format";
/// Version of every value.
const VERSION: u8 = 1;

/// A value under its version.
pub fn versioned(value: &[u8]) -> Vec<u8> {
    [&[VERSION], value].concat()
}

/// The value without its version.
///
/// # Errors
/// [`StoreError::Damaged`] for another version.
pub fn unversioned<'v>(family: Family, key: &[u8], value: &'v [u8]) -> Result<&'v [u8], StoreError> {
    match value {
        [VERSION, rest @ ..] => Ok(rest),
        _ => Err(StoreError::damaged(family, key, format!("unknown value version {:?}", value.first()))),
    }
}

/// A versioned JSON value.
pub fn json<T: Serialize>(value: &T) -> Result<Vec<u8>, StoreError> {
    let mut bytes = vec![VERSION];
    serde_json::to_writer(&mut bytes, value).map_err(|e| StoreError::Io { action: "encode", cause: e.to_string() })?;
    Ok(bytes)
}

/// Reads [`json`].
pub fn from_json<T: DeserializeOwned>(family: Family, key: &[u8], value: &[u8]) -> Result<T, StoreError> {
    let value = unversioned(family, key, value)?;
    // The message could quote the value; the place is enough.
    serde_json::from_slice(value).map_err(|e| StoreError::damaged(family, key, format!("not readable at column {}", e.column())))
}

/// Appends [`versioned`].
pub fn put_versioned(bytes: &mut Vec<u8>, value: &[u8]) {
    bytes.push(VERSION);
    bytes.extend_from_slice(value);
}

/// Key of an identity: side and surrogate.
pub fn identity_key(side: Side, number: u32) -> [u8; 5] {
    let [a, b, c, d] = number.to_be_bytes();
    [side as u8, a, b, c, d]
}

/// Reads [`identity_key`].
pub fn identity(key: &[u8]) -> Option<(Side, u32)> {
    let [side, number @ ..] = key else { return None };
    let side = *Side::BOTH.get(*side as usize)?;
    Some((side, u32::from_be_bytes(number.try_into().ok()?)))
}

/// The family of a side's factors.
pub fn factor_family(side: Side) -> Family {
    match side {
        Side::User => Family::UserFactors,
        Side::Item => Family::ItemFactors,
    }
}

/// Appends a factor row as f64, little endian, under its version.
pub fn put_factors(value: &mut Vec<u8>, row: &[f64]) {
    value.push(VERSION);
    row.iter().for_each(|x| value.extend(x.to_le_bytes()));
}

/// Reads [`put_factors`].
pub fn read_factors(family: Family, key: &[u8], value: &[u8]) -> Result<Vec<f64>, StoreError> {
    let value = unversioned(family, key, value)?;
    let (numbers, rest) = value.as_chunks::<8>();
    if !rest.is_empty() || numbers.is_empty() {
        return Err(StoreError::damaged(family, key, format!("a factor row of {} bytes", value.len())));
    }
    Ok(numbers.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect())
}

/// An outbox row: version, kind, content.
pub fn outgoing(message: &Outgoing) -> Result<Vec<u8>, StoreError> {
    let mut value = vec![VERSION];
    match message {
        Outgoing::Receipt(receipt) => {
            value.push(b'R');
            value.extend(&json(receipt)?[1..]);
        }
        Outgoing::DeadLetter(letter) => {
            value.push(b'D');
            put_bytes(&mut value, letter.topic.as_bytes());
            value.extend(letter.partition.to_le_bytes());
            value.extend(letter.offset.to_le_bytes());
            value.push(u8::from(letter.key.is_some()));
            put_bytes(&mut value, letter.key.as_deref().unwrap_or_default());
            put_bytes(&mut value, &letter.value);
            value.extend(letter.length.to_le_bytes());
            put_bytes(&mut value, letter.error.as_bytes());
            put_bytes(&mut value, letter.detail.as_bytes());
        }
        Outgoing::Rows { generation, rows } => {
            value.push(b'F');
            value.extend(generation.to_le_bytes());
            for &(side, row, change) in rows {
                value.push(side as u8 | (change as u8) << 1);
                value.extend(row.to_le_bytes());
            }
        }
        Outgoing::Manifest { generation } => {
            value.push(b'M');
            value.extend(generation.to_le_bytes());
        }
    }
    Ok(value)
}

/// Reads [`outgoing`].
pub fn read_outgoing(key: &[u8], value: &[u8]) -> Result<Outgoing, StoreError> {
    let family = Family::Outbox;
    let damaged = || StoreError::damaged(family, key, "not an outbox row");
    let Some((kind, mut rest)) = unversioned(family, key, value)?.split_first() else { return Err(damaged()) };
    match kind {
        b'R' => Ok(Outgoing::Receipt(from_json(family, key, &versioned(rest))?)),
        b'D' => read_dead_letter(&mut rest).map(Outgoing::DeadLetter).ok_or_else(damaged),
        b'F' => read_rows(&mut rest).ok_or_else(damaged),
        b'M' => Ok(Outgoing::Manifest { generation: u64::from_le_bytes(take(&mut rest).ok_or_else(damaged)?) }),
        _ => Err(damaged()),
    }
}

fn read_dead_letter(rest: &mut &[u8]) -> Option<DeadLetter> {
    let text = |bytes: Cow<'_, [u8]>| String::from_utf8(bytes.into_owned()).ok();
    let topic = text(take_bytes(rest)?)?;
    let partition = i32::from_le_bytes(take(rest)?);
    let offset = i64::from_le_bytes(take(rest)?);
    let has_key = take::<1>(rest)? == [1];
    let key = take_bytes(rest)?.into_owned();
    Some(DeadLetter {
        topic,
        partition,
        offset,
        key: has_key.then_some(key),
        value: take_bytes(rest)?.into_owned(),
        length: u64::from_le_bytes(take(rest)?),
        error: text(take_bytes(rest)?)?,
        detail: text(take_bytes(rest)?)?,
    })
}

fn read_rows(rest: &mut &[u8]) -> Option<Outgoing> {
    let generation = u64::from_le_bytes(take(rest)?);
    let mut rows = Vec::with_capacity(rest.len() / 5);
    while !rest.is_empty() {
        let [flags] = take::<1>(rest)?;
        let side = Side::BOTH[(flags & 1) as usize];
        let change = *[RowChange::Put, RowChange::Tombstone, RowChange::Drop].get((flags >> 1) as usize)?;
        rows.push((side, u32::from_le_bytes(take(rest)?), change));
    }
    Some(Outgoing::Rows { generation, rows })
}

fn put_bytes(value: &mut Vec<u8>, bytes: &[u8]) {
    // Outbox parts are a few MiB at most.
    value.extend((bytes.len() as u32).to_le_bytes());
    value.extend(bytes);
}

fn take_bytes<'v>(rest: &mut &'v [u8]) -> Option<Cow<'v, [u8]>> {
    let length = u32::from_le_bytes(take(rest)?) as usize;
    let (bytes, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(Cow::Borrowed(bytes))
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

/// Begins the keys of [`put_positions`].
pub const OFFSET: u8 = b'o';

/// Key `o/<partition, 4 bytes>/<topic>`, value the next offset.
pub fn put_positions(batch: &mut Batch, positions: &Positions) {
    for ((topic, partition), next) in positions {
        let key = [&[OFFSET, b'/'], &partition.to_be_bytes()[..], topic.as_bytes()].concat();
        batch.put(Family::Meta, &key, &versioned(&next.to_le_bytes()));
    }
}

/// Reads a row of [`put_positions`].
pub fn read_position(key: &[u8], value: &[u8]) -> Result<((String, i32), i64), StoreError> {
    let damaged = || StoreError::damaged(Family::Meta, key, "not an offset");
    let next = unversioned(Family::Meta, key, value)?.try_into().map(i64::from_le_bytes).map_err(|_| damaged())?;
    let (partition, topic) = key.get(2..).and_then(|key| key.split_first_chunk::<4>()).ok_or_else(damaged)?;
    let topic = std::str::from_utf8(topic).map_err(|_| damaged())?;
    Ok(((topic.to_owned(), i32::from_be_bytes(*partition)), next))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn dead_letters_come_back(
            key: Option<Vec<u8>>, value: Vec<u8>, topic: String, detail: String, partition: i32, offset: i64, length: u64
        ) {
            let letter = DeadLetter { topic, partition, offset, key, value, length, error: "invalid_json".into(), detail };
            let message = Outgoing::DeadLetter(letter);
            prop_assert_eq!(read_outgoing(b"", &outgoing(&message).unwrap()).unwrap(), message);
        }

        #[test]
        fn damaged_rows_are_refused_not_guessed(bytes: Vec<u8>) {
            let _ = read_outgoing(b"", &bytes);
            let _ = read_factors(Family::UserFactors, b"", &bytes);
        }
    }

    #[test]
    fn fuzz_rows() {
        let letter = DeadLetter {
            topic: "t".into(),
            partition: 1,
            offset: 2,
            key: Some(b"k".to_vec()),
            value: b"{".to_vec(),
            length: 1,
            error: "invalid_json".into(),
            detail: "d".into(),
        };
        let outbox = [
            Outgoing::DeadLetter(letter),
            Outgoing::Rows { generation: 3, rows: vec![(Side::User, 7, RowChange::Put), (Side::Item, 8, RowChange::Drop)] },
            Outgoing::Manifest { generation: 9 },
        ];
        let factors = |row: &[f64]| {
            let mut value = Vec::new();
            put_factors(&mut value, row);
            value
        };
        let seeds: Vec<Vec<u8>> = [identity_key(Side::Item, 9).to_vec(), factors(&[0.5, -1.0])]
            .into_iter()
            .chain(outbox.iter().map(|message| outgoing(message).unwrap()))
            .collect();
        crate::fuzz::fuzz("rows", &seeds, |bytes| {
            // What is read is what would be written: no two keys or values mean the same.
            if let Some((side, number)) = identity(bytes) {
                assert_eq!(identity_key(side, number), bytes);
            }
            if let Ok(row) = read_factors(Family::UserFactors, b"", bytes) {
                assert_eq!(factors(&row), bytes);
            }
            if let Ok(message) = read_outgoing(b"", bytes) {
                let again = read_outgoing(b"", &outgoing(&message).unwrap()).unwrap();
                assert!(again == message || format!("{message:?}").contains("NaN"));
            }
        });
    }

    #[test]
    fn generation_rows_come_back() {
        let rows =
            vec![(Side::User, 7, RowChange::Put), (Side::Item, u32::MAX - 1, RowChange::Tombstone), (Side::User, 0, RowChange::Drop)];
        for message in [Outgoing::Rows { generation: 3, rows }, Outgoing::Manifest { generation: u64::MAX }] {
            assert_eq!(read_outgoing(b"", &outgoing(&message).unwrap()).unwrap(), message);
        }
    }

    #[test]
    fn another_version_is_refused() {
        assert!(unversioned(Family::Meta, b"k", &[2, 1]).is_err());
        assert!(unversioned(Family::Meta, b"k", &[]).is_err());
        assert_eq!(unversioned(Family::Meta, b"k", &versioned(b"x")).unwrap(), b"x");
        assert_eq!(identity(&identity_key(Side::Item, 9)), Some((Side::Item, 9)));
    }
}

//! Outbox rows as records: what readers get to see.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::Deserialize;

use crate::config::Topics;
use crate::kafka::{Claim, OutRecord, Parcel, Positions, Records, Then};
use crate::model::dictionary::Dictionary;
use crate::model::factors::{Factors, Side};
use crate::model::generation::Current;
use crate::model::receipt::{Manifest, Receipt, Status};
use crate::model::step::{DeadLetter, Outgoing, RowChange};
use crate::run::keys::Signer;

/// Builds records from the outbox.
pub struct Packer<'a> {
    pub topics: &'a Topics,
    pub signer: &'a Signer,
    pub dictionary: &'a Dictionary,
    pub current: Option<&'a Current>,
    /// Generations up to this one on the topics are of our own past, whatever the state knows of them: it came from a backup.
    pub known: Option<u64>,
}

impl Packer<'_> {
    /// All records of a group; the manifest, if one ends it, follows once the offsets of the rows are known.
    pub fn parcel(&self, group: &[(u64, Outgoing)]) -> Parcel {
        let mut parts: Vec<Records> = Vec::new();
        let mut manifest = None;
        let newest = newest(group);
        for (sequence, message) in group {
            match message {
                Outgoing::Receipt(receipt) => {
                    if receipt.status == Status::Rejected || newest.get(&*receipt.request_id) == Some(sequence) {
                        parts.push(Box::new(self.receipt(receipt).into_iter()));
                    }
                }
                Outgoing::DeadLetter(letter) => parts.push(Box::new(std::iter::once(self.dead_letter(letter)))),
                Outgoing::Rows { generation, rows } => parts.push(self.rows(*generation, rows)),
                Outgoing::Manifest { .. } => manifest = self.current.map(|current| current.manifest.clone()),
            }
        }
        let then = manifest.map(|manifest| {
            let (factors, generations) = (self.topics.factors.clone(), self.topics.generations.clone());
            let then = move |ends: &Positions| vec![manifest_record(manifest, &factors, &generations, ends)];
            Box::new(then) as Then
        });
        Parcel { records: Box::new(parts.into_iter().flatten()), then, claim: Some(self.claim()), doubt: false }
    }

    /// What others published is later than all that we know, or differs from it.
    fn claim(&self) -> Claim {
        let topic = self.topics.generations.clone();
        let ours = self.current.map(|current| (current.manifest.generation, current.manifest.digest.clone()));
        let known = self.known;
        let holds = move |value: &[u8]| match serde_json::from_slice::<Newest>(value) {
            Ok(found) if known.is_some_and(|known| found.generation <= known) => Ok(()),
            Ok(found) => found.is_known_to(ours.as_ref()),
            // Not for us to judge; `nepenthe verify` does.
            Err(_) => Ok(()),
        };
        Claim { topic, holds: Box::new(holds) }
    }

    /// The records hold the factors and names of now: both may change while they are sent.
    fn rows(&self, generation: u64, rows: &[(Side, u32, RowChange)]) -> Records {
        let maker = Maker {
            topic: self.topics.factors.clone(),
            generation: generation.to_string().into_bytes(),
            names: Side::BOTH.map(|side| self.dictionary.names(side).clone()),
            factors: self.current.map(|current| current.factors.clone()),
        };
        let rows = rows.to_vec();
        Box::new(rows.into_iter().filter_map(move |row| maker.record(row)))
    }

    /// A receipt is plain data; that it could not be written as JSON cannot happen, and then it is not sent.
    fn receipt(&self, receipt: &Receipt) -> Option<OutRecord> {
        let value = serde_json::to_vec(receipt).ok()?;
        let signature = self.signer.sign(&value).into_bytes();
        Some(OutRecord {
            topic: self.topics.receipts.clone(),
            key: Some(receipt.request_id.clone().into_bytes()),
            value: Some(value),
            headers: vec![("signature", signature), ("key_id", self.signer.key_id().as_bytes().to_vec())],
        })
    }

    fn dead_letter(&self, letter: &DeadLetter) -> OutRecord {
        let mut headers = vec![
            ("error", letter.error.clone().into_bytes()),
            ("detail", letter.detail.clone().into_bytes()),
            ("topic", letter.topic.clone().into_bytes()),
            ("partition", letter.partition.to_string().into_bytes()),
            ("offset", letter.offset.to_string().into_bytes()),
        ];
        if letter.length > letter.value.len() as u64 {
            headers.push(("truncated_from", letter.length.to_string().into_bytes()));
        }
        OutRecord { topic: self.topics.dead_letters.clone(), key: letter.key.clone(), value: Some(letter.value.clone()), headers }
    }
}

/// Makes the records of rows.
struct Maker {
    topic: String,
    generation: Vec<u8>,
    names: [Arc<Vec<Option<Arc<str>>>>; 2],
    factors: Option<Arc<Factors>>,
}

impl Maker {
    fn record(&self, (side, number, change): (Side, u32, RowChange)) -> Option<OutRecord> {
        let name = self.names[side as usize].get(number as usize)?.as_deref()?;
        let value = match change {
            RowChange::Put => Some(self.factors.as_ref()?.side(side).published(number as usize)?),
            RowChange::Tombstone => None,
            RowChange::Drop => return None,
        };
        Some(OutRecord {
            topic: self.topic.clone(),
            key: Some(side.key(name).into_bytes()),
            value,
            headers: vec![("generation", self.generation.clone())],
        })
    }
}

/// What tells one manifest from another.
#[derive(Deserialize)]
struct Newest {
    generation: u64,
    digest: String,
}

impl Newest {
    /// Generations of before are ours: nobody publishes one without having looked at all that were.
    fn is_known_to(&self, ours: Option<&(u64, String)>) -> Result<(), String> {
        let Newest { generation, digest } = self;
        let known = match ours {
            Some((number, same)) if number == generation => same == digest,
            Some((number, _)) => number > generation,
            None => false,
        };
        let have = ours.map_or("none".to_owned(), |(number, _)| format!("generation {number}"));
        known.then_some(()).ok_or_else(|| {
            format!(
                "another process has published generation {generation}, of which this state ({have}) does not know: it is an old copy, \
                 or another service writes to the same topics. Keep the state that published last and start no other; for a new state \
                 make the factors and generations topics anew"
            )
        })
    }
}

/// The last receipt of each request in a group. Those before it are history by the time anybody can read them; sent all the
/// same they would take a reader back when the group comes twice because its commit had no answer. A rejection is of
/// another request under the same id, and stands beside.
fn newest(group: &[(u64, Outgoing)]) -> HashMap<&str, u64> {
    let told = group.iter().filter_map(|(sequence, message)| match message {
        Outgoing::Receipt(receipt) if receipt.status != Status::Rejected => Some((&*receipt.request_id, *sequence)),
        _ => None,
    });
    told.collect()
}

/// The end offsets that a group reached on the factors topic, by partition.
pub fn factor_ends(factors: &str, ends: &Positions) -> BTreeMap<i32, i64> {
    ends.iter().filter(|((topic, _), _)| topic == factors).map(|((_, partition), end)| (*partition, *end)).collect()
}

fn manifest_record(mut manifest: Manifest, factors: &str, generations: &str, ends: &Positions) -> OutRecord {
    manifest.upto.extend(factor_ends(factors, ends));
    OutRecord {
        topic: generations.to_owned(),
        key: Some(b"generation".to_vec()),
        // Numbers, strings and maps with string keys: always JSON.
        value: serde_json::to_vec(&manifest).ok(),
        headers: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_generation_or_another_of_the_same_number_is_not_ours() {
        let found = |generation: u64, digest: &str| Newest { generation, digest: digest.to_owned() };
        let ours = (7, "ab".to_owned());
        assert_eq!(found(6, "cd").is_known_to(Some(&ours)), Ok(()));
        assert_eq!(found(7, "ab").is_known_to(Some(&ours)), Ok(()), "sent, and its sender did not live to learn it");
        for (found, ours) in [(found(7, "cd"), Some(&ours)), (found(8, "ab"), Some(&ours)), (found(1, "ab"), None)] {
            let reason = found.is_known_to(ours).unwrap_err();
            assert!(reason.contains("another process"), "{reason}");
        }
    }
}

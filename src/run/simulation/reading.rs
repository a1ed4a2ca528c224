//! What readers of the topics hold, and whether that is the optimum of the data, by the textbook: a dense gradient over
//! names, with nothing of the engine in it.

use std::collections::BTreeMap;

use crate::config::Topics;
use crate::model::digest::LtHash;
use crate::model::factors::Side;
use crate::model::receipt::{Manifest, Receipt};
use crate::model::{Objective, Params};

use super::broker::Broker;
use super::events;

/// Rows by the key of their records.
pub(in crate::run) type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// What somebody holds who reads with `read_committed`, from the first record to the last.
#[derive(Debug, Default)]
pub(in crate::run) struct Reader {
    pub manifests: Vec<Manifest>,
    pub rows: Rows,
    /// The rows up to where the last manifest says that its generation ends.
    pub upto: Rows,
    /// By request, in the order in which they came.
    pub receipts: BTreeMap<String, Vec<Receipt>>,
    pub dead_letters: Vec<Vec<u8>>,
}

impl Reader {
    pub fn read(broker: &Broker, topics: &Topics) -> Reader {
        let mut reader = Reader::default();
        let values = |topic: &str| {
            let of_log = |log| broker.committed(log).filter_map(|entry| entry.record.value.clone()).collect::<Vec<_>>();
            broker.logs(topic).iter().flat_map(of_log).collect::<Vec<_>>()
        };
        let json = "what was published can be read";
        reader.manifests = values(&topics.generations).iter().map(|value| serde_json::from_slice(value).expect(json)).collect();
        for value in values(&topics.receipts) {
            let receipt: Receipt = serde_json::from_slice(&value).expect(json);
            reader.receipts.entry(receipt.request_id.clone()).or_default().push(receipt);
        }
        reader.dead_letters = values(&topics.dead_letters);
        let ends = reader.manifests.last().map(|manifest| manifest.upto.clone()).unwrap_or_default();
        for (log, partition) in broker.logs(&topics.factors).iter().zip(0i32..) {
            for entry in broker.committed(log) {
                let (Some(key), value) = (&entry.record.key, &entry.record.value) else { continue };
                let within = ends.get(&partition).is_some_and(|end| entry.offset < *end);
                for rows in [Some(&mut reader.rows), within.then_some(&mut reader.upto)].into_iter().flatten() {
                    match value {
                        Some(value) => rows.insert(key.clone(), value.clone()),
                        None => rows.remove(key),
                    };
                }
            }
        }
        reader
    }

    /// The newest generation.
    pub fn generation(&self) -> u64 {
        self.manifests.last().map_or(0, |manifest| manifest.generation)
    }
}

pub(in crate::run) fn digest(rows: &Rows) -> String {
    let mut digest = LtHash::default();
    rows.iter().for_each(|(key, value)| digest.add(key, value));
    digest.finish()
}

/// Largest gradient of the objective over all rows, relative to what its terms add up to without cancelling. `pairs` are
/// the data, `mean` that of the ratings with the explicit objective.
///
/// # Errors
/// A row of the data that the reader does not hold.
pub(in crate::run) fn steepest(rows: &Rows, pairs: &BTreeMap<(u8, u8), f64>, params: &Params, mean: f64) -> Result<f64, String> {
    let row = |side: Side, name: String| {
        let value = rows.get(side.key(&name).as_bytes()).ok_or_else(|| format!("no row of {name}"))?;
        let (numbers, _) = value.as_chunks::<4>();
        Ok::<Vec<f64>, String>(numbers.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes))).collect())
    };
    let mut sides: [BTreeMap<u8, Vec<f64>>; 2] = Default::default();
    for &(user, item) in pairs.keys() {
        sides[0].insert(user, row(Side::User, events::user(user))?);
        sides[1].insert(item, row(Side::Item, events::item(item))?);
    }
    let observed = |user: u8, item: u8| pairs.get(&(user, item)).copied();
    // Weight and target of every pair, by the definition of the objective.
    let wanted = |value: Option<f64>| match (params.objective, value) {
        (Objective::Implicit, value) => {
            (params.unobserved_weight + params.alpha * value.unwrap_or(0.0), f64::from(u8::from(value.is_some())))
        }
        (Objective::Explicit, Some(value)) => (1.0, value - mean),
        (Objective::Explicit, None) => (0.0, 0.0),
    };
    let unobserved = if params.objective == Objective::Implicit { params.unobserved_weight } else { 0.0 };
    let mut steepest = 0.0f64;
    for side in Side::BOTH {
        let (own, others) = (&sides[side as usize], &sides[1 - side as usize]);
        for (&n, x) in own {
            let value = |other: u8| if side == Side::User { observed(n, other) } else { observed(other, n) };
            let count = others.keys().filter(|&&other| value(other).is_some()).count() as f64;
            let lambda = params.regularization * (count + unobserved * others.len() as f64).powf(params.regularization_exp);
            let mut gradient: Vec<f64> = x.iter().map(|x| lambda * x).collect();
            let mut size = 0.0;
            for (&other, y) in others {
                let (weight, target) = wanted(value(other));
                let prediction: f64 = x.iter().zip(y).map(|(x, y)| x * y).sum();
                gradient.iter_mut().zip(y).for_each(|(gradient, y)| *gradient += weight * (prediction - target) * y);
                size += weight * target.abs() * y.iter().map(|y| y * y).sum::<f64>().sqrt();
            }
            let length = gradient.iter().map(|x| x * x).sum::<f64>().sqrt();
            steepest = steepest.max(length / size.max(1e-6));
        }
    }
    Ok(steepest)
}

//! A reader of its own: sees nothing but the factors and generations topics, as any other consumer does.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::BorrowedMessage;
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};

use super::DemoError;
use super::patience::Patience;
use crate::config::Topics;
use crate::model::digest::LtHash;
use crate::model::receipt::Manifest;

/// Rows of a generation as read from the topic: key (`u/…` or `i/…`) → vector of little-endian f32.
pub type Rows = BTreeMap<String, Vec<u8>>;

/// A copy of the factors topic, kept row by row together with its digest.
pub struct Reader {
    factors: BaseConsumer,
    generations: BaseConsumer,
    patience: Patience,
    rows: Rows,
    digest: LtHash,
    /// Next offset of each partition of the factors topic.
    next: BTreeMap<i32, i64>,
}

impl Reader {
    /// Reads both topics from their beginnings.
    ///
    /// # Errors
    /// [`DemoError::Broker`] when the topics cannot be read.
    pub fn open(brokers: &str, topics: &Topics, patience: Patience) -> Result<Reader, DemoError> {
        Ok(Reader {
            factors: consumer(brokers, &topics.factors)?,
            generations: consumer(brokers, &topics.generations)?,
            patience,
            rows: Rows::new(),
            digest: LtHash::default(),
            next: BTreeMap::new(),
        })
    }

    /// Reads until its copy is exactly `generation`, and answers with that generation's manifest as read from the topic.
    /// The newest generation only: rows of a later one would be taken in too.
    ///
    /// # Errors
    /// [`DemoError::Late`] when the topics do not have it, [`DemoError::Reading`] for what is not a manifest or a row.
    pub fn follow(&mut self, generation: u64) -> Result<Manifest, DemoError> {
        let what = format!("generation {generation} on the generations topic");
        let patience = self.patience.clone();
        let manifest = patience.until(&what, || {
            while let Some(message) = next(&self.generations)? {
                let read: Manifest = serde_json::from_slice(message.payload().unwrap_or_default())
                    .map_err(|error| DemoError::Reading { what: "a manifest", why: error.to_string() })?;
                if read.generation == generation {
                    return Ok(Some(read));
                }
            }
            Ok(None)
        })?;
        patience.until("the rows that its manifest speaks of", || {
            while !self.holds(&manifest) {
                let Some(message) = next(&self.factors)? else { return Ok(None) };
                let key = String::from_utf8(message.key().unwrap_or_default().to_vec())
                    .map_err(|error| DemoError::Reading { what: "the key of a row", why: error.to_string() })?;
                let old = match message.payload() {
                    Some(value) => {
                        self.digest.add(key.as_bytes(), value);
                        self.rows.insert(key.clone(), value.to_vec())
                    }
                    None => self.rows.remove(&key),
                };
                if let Some(old) = old {
                    self.digest.remove(key.as_bytes(), &old);
                }
                self.next.insert(message.partition(), message.offset() + 1);
            }
            Ok(Some(()))
        })?;
        Ok(manifest)
    }

    /// The digest of the rows read so far.
    pub fn digest(&self) -> String {
        self.digest.finish()
    }

    pub fn rows(&self) -> &Rows {
        &self.rows
    }

    fn holds(&self, manifest: &Manifest) -> bool {
        manifest.upto.iter().all(|(partition, end)| self.next.get(partition).copied().unwrap_or(0) >= *end)
    }
}

/// A consumer of all partitions of a topic from the beginning, in no group.
fn consumer(brokers: &str, topic: &str) -> Result<BaseConsumer, DemoError> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        // librdkafka wants a name even where nothing is ever committed under it.
        .set("group.id", "nepenthe-demo-reader")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("fetch.wait.max.ms", "20")
        .create()
        .map_err(DemoError::broker("create a consumer for the embedded broker"))?;
    let metadata = consumer
        .fetch_metadata(Some(topic), Duration::from_secs(10))
        .map_err(DemoError::broker("ask the embedded broker for its topics"))?;
    let mut all = TopicPartitionList::new();
    for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
        all.add_partition_offset(topic, partition.id(), Offset::Beginning).map_err(DemoError::broker("name a partition"))?;
    }
    consumer.assign(&all).map_err(DemoError::broker("read a topic of the embedded broker"))?;
    Ok(consumer)
}

/// The next record, if it is here within a moment.
fn next(consumer: &BaseConsumer) -> Result<Option<BorrowedMessage<'_>>, DemoError> {
    consumer.poll(Duration::from_millis(50)).transpose().map_err(DemoError::broker("read from the embedded broker"))
}

//! Holds a verified copy of the factors: follows the topics, and checks the digest of each generation.
//!
//! ```sh
//! cargo run --example reader -- localhost:9092          # follows until it is interrupted
//! cargo run --example reader -- localhost:9092 --once   # exit code 0: the newest generation is verified
//! ```
//!
//! On purpose without nepenthe's own library: what a reader needs is Kafka, BLAKE3 and JSON.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::error::Error;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::{ClientConfig, Message};
use serde::Deserialize;

const FACTORS: &str = "nepenthe.factors";
const GENERATIONS: &str = "nepenthe.generations";
const LANES: usize = 1024;
/// How often the copy may differ in a row before that counts.
const PATIENCE: u32 = 3;

/// What a reader needs of a manifest.
#[derive(Deserialize)]
struct Manifest {
    generation: u64,
    /// End offsets on the factors topic, by partition.
    upto: BTreeMap<i32, i64>,
    digest: String,
}

/// The rows of one generation as bytes, each rank × f32 in little endian under `u/<user>` or `i/<item>`, and the sum that follows
/// their changes.
struct Copy {
    rows: HashMap<Vec<u8>, Vec<u8>>,
    sum: Vec<u16>,
}

impl Default for Copy {
    fn default() -> Copy {
        Copy { rows: HashMap::new(), sum: vec![0; LANES] }
    }
}

impl Copy {
    fn apply(&mut self, key: &[u8], value: Option<&[u8]>) {
        if let Some(old) = self.rows.remove(key) {
            self.count(key, &old, u16::wrapping_sub);
        }
        if let Some(value) = value {
            self.count(key, value, u16::wrapping_add);
            self.rows.insert(key.to_vec(), value.to_vec());
        }
    }

    fn count(&mut self, key: &[u8], value: &[u8], with: fn(u16, u16) -> u16) {
        let mut stream = [0; 2 * LANES];
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(key.len() as u32).to_le_bytes()).update(key).update(value);
        hasher.finalize_xof().fill(&mut stream);
        for (lane, bytes) in self.sum.iter_mut().zip(stream.chunks_exact(2)) {
            *lane = with(*lane, u16::from_le_bytes([bytes[0], bytes[1]]));
        }
    }

    fn digest(&self) -> String {
        let bytes: Vec<u8> = self.sum.iter().flat_map(|lane| lane.to_le_bytes()).collect();
        blake3::hash(&bytes).to_hex().to_string()
    }
}

/// The rows are read in pieces: up to the end of one generation, then on to the next.
struct Reader {
    manifests: BaseConsumer,
    rows: BaseConsumer,
    copy: Copy,
    /// Next offset to apply.
    next: BTreeMap<i32, i64>,
    /// Partitions of the manifests that were not read to their end.
    open: BTreeSet<i32>,
}

impl Reader {
    fn new(brokers: &str) -> Result<Reader, Box<dyn Error>> {
        let consumer = || -> Result<BaseConsumer, KafkaError> {
            let mut config = ClientConfig::new();
            // No group takes part: each reader wants every partition, from its beginning. Whole generations only.
            config.set("bootstrap.servers", brokers).set("group.id", "unused").set("enable.auto.commit", "false");
            config.set("isolation.level", "read_committed").set("enable.partition.eof", "true").create()
        };
        let (manifests, rows) = (consumer()?, consumer()?);
        let known = manifests.fetch_metadata(Some(GENERATIONS), Duration::from_secs(30))?;
        let open: BTreeSet<i32> = known.topics().iter().flat_map(|topic| topic.partitions()).map(|partition| partition.id()).collect();
        assign(&manifests, GENERATIONS, open.iter().map(|&partition| (partition, 0)))?;
        Ok(Reader { manifests, rows, copy: Copy::default(), next: BTreeMap::new(), open })
    }

    fn begin(&mut self) {
        (self.copy, self.next) = (Copy::default(), BTreeMap::new());
    }

    /// The manifest of the newest generation; waits until there is one that was not returned before.
    fn newest(&mut self) -> Result<Manifest, Box<dyn Error>> {
        let mut newest = None;
        loop {
            match self.manifests.poll(Duration::from_secs(1)) {
                None => (),
                Some(Err(KafkaError::PartitionEOF(partition))) => drop(self.open.remove(&partition)),
                Some(Err(error)) => return Err(error.into()),
                Some(Ok(message)) => {
                    self.open.insert(message.partition());
                    newest = message.payload().map(serde_json::from_slice).transpose()?.or(newest);
                }
            }
            if self.open.is_empty()
                && let Some(manifest) = newest.take()
            {
                return Ok(manifest);
            }
        }
    }

    /// Brings the copy to this generation; does it match the manifest's digest?
    fn apply(&mut self, manifest: &Manifest) -> Result<bool, Box<dyn Error>> {
        let start = |partition| self.next.get(&partition).copied().unwrap_or(0);
        let mut behind: BTreeMap<i32, i64> = manifest.upto.clone();
        behind.retain(|&partition, end| start(partition) < *end);
        assign(&self.rows, FACTORS, behind.keys().map(|&partition| (partition, start(partition))))?;
        while !behind.is_empty() {
            match self.rows.poll(Duration::from_secs(1)) {
                None => (),
                // Compaction leaves holes: the end of the partition, or a record behind the end, is as good as the last one.
                Some(Err(KafkaError::PartitionEOF(partition))) => drop(behind.remove(&partition)),
                Some(Err(error)) => return Err(error.into()),
                Some(Ok(message)) => {
                    let Some(&end) = behind.get(&message.partition()) else { continue };
                    if message.offset() < end {
                        self.copy.apply(message.key().unwrap_or_default(), message.payload());
                    }
                    if message.offset() + 1 >= end {
                        behind.remove(&message.partition());
                    }
                }
            }
        }
        self.next.extend(&manifest.upto);
        Ok(self.copy.digest() == manifest.digest)
    }
}

fn assign(consumer: &BaseConsumer, topic: &str, places: impl Iterator<Item = (i32, i64)>) -> Result<(), KafkaError> {
    let mut list = TopicPartitionList::new();
    for (partition, next) in places {
        // The first offset may be past 0: the beginning is wherever the broker still has it.
        list.add_partition_offset(topic, partition, if next == 0 { Offset::Beginning } else { Offset::Offset(next) })?;
    }
    consumer.assign(&list)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(brokers) = arguments.first() else { return Err("which brokers? host:port".into()) };
    let (mut reader, mut failures) = (Reader::new(brokers)?, 0);
    let mut manifest = reader.newest()?;
    loop {
        if !reader.apply(&manifest)? {
            // Compaction may have taken rows of this generation, because newer ones replaced them while we read.
            failures += 1;
            if failures == PATIENCE {
                return Err("the rows are not what the manifest says: ask `nepenthe verify`, and who else writes to the topic".into());
            }
            reader.begin();
            continue;
        }
        failures = 0;
        let Copy { rows, .. } = &reader.copy;
        let count = |side: &[u8]| rows.keys().filter(|key| key.starts_with(side)).count();
        println!("generation {}: {} users, {} items, digest as published", manifest.generation, count(b"u/"), count(b"i/"));
        if arguments.iter().any(|argument| argument == "--once") {
            return Ok(());
        }
        manifest = reader.newest()?;
    }
}

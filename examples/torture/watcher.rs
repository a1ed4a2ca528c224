//! A reader with `read_committed` that keeps a copy of the factors by the contract, manifest by manifest, and holds each
//! against its digest: whatever it may see between two whole generations is told.

#![allow(dead_code, reason = "tests and the program use their own part of it")]

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nepenthe::model::digest::LtHash;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde::Deserialize;

use super::kafka;

const POLL: Duration = Duration::from_millis(100);
const ANSWER: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Deserialize)]
struct Manifest {
    generation: u64,
    parent: Option<u64>,
    upto: BTreeMap<i32, i64>,
    digest: String,
}

/// What the reader has found so far.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    /// Different generations, each of them whole.
    pub generations: u64,
    /// Manifests that said again what was known: their writer did not live to learn that they had arrived.
    pub repeated: u64,
    pub newest: Option<(u64, String)>,
    /// What a reader must never see, in words.
    pub torn: Vec<String>,
}

/// The reader on its thread.
pub struct Watcher {
    findings: Arc<Mutex<Findings>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Reads both topics from their beginning; they must be there.
    pub fn start(brokers: &str, factors: String, generations: String) -> Watcher {
        let (findings, stop) = (Arc::new(Mutex::new(Findings::default())), Arc::new(AtomicBool::new(false)));
        let (told, stopped) = (findings.clone(), stop.clone());
        let consumer: BaseConsumer = kafka::client(brokers)
            .set("group.id", kafka::unique("watcher"))
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .create()
            .expect("a consumer");
        let mut list = TopicPartitionList::new();
        for topic in [&factors, &generations] {
            for partition in partitions(&consumer, topic) {
                list.add_partition_offset(topic, partition, Offset::Beginning).expect("an offset");
            }
        }
        consumer.assign(&list).expect("an assignment");
        let read = move || {
            let mut copy = Reader::default();
            while !stopped.load(Ordering::Relaxed) {
                // Brokers that are away are waited for.
                let Some(Ok(message)) = consumer.poll(POLL) else { continue };
                if message.topic() == factors {
                    copy.row(&message);
                } else if let Some(value) = message.payload() {
                    match serde_json::from_slice(value) {
                        Ok(manifest) => copy.manifests.push_back(manifest),
                        Err(error) => copy.findings.torn.push(format!("a manifest that cannot be read: {error}")),
                    }
                }
                copy.follow();
                lock(&told).clone_from(&copy.findings);
            }
        };
        Watcher { findings, stop, thread: Some(std::thread::spawn(read)) }
    }

    pub fn findings(&self) -> Findings {
        lock(&self.findings).clone()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has told what it had found.
            let _ = thread.join();
        }
    }
}

/// Of a new topic not every node knows at once.
fn partitions(consumer: &BaseConsumer, topic: &str) -> Vec<i32> {
    for _ in 0..600 {
        let metadata = consumer.fetch_metadata(Some(topic), ANSWER).expect("metadata");
        let found: Vec<i32> = metadata.topics().iter().flat_map(|topic| topic.partitions()).map(|partition| partition.id()).collect();
        if !found.is_empty() {
            return found;
        }
        std::thread::sleep(POLL);
    }
    panic!("{topic} has no partitions")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A record of the factors topic that no manifest covers yet.
struct Row {
    offset: i64,
    key: Vec<u8>,
    value: Option<Vec<u8>>,
    generation: Option<u64>,
}

#[derive(Default)]
struct Reader {
    /// By partition.
    waiting: BTreeMap<i32, VecDeque<Row>>,
    /// Next offset by partition.
    next: BTreeMap<i32, i64>,
    manifests: VecDeque<Manifest>,
    live: HashMap<Vec<u8>, Vec<u8>>,
    digest: LtHash,
    findings: Findings,
}

impl Reader {
    fn row(&mut self, message: &BorrowedMessage<'_>) {
        let header = message.headers().and_then(|headers| headers.iter().find(|header| header.key == "generation"));
        let number = header.and_then(|header| std::str::from_utf8(header.value?).ok()?.parse().ok());
        let key = message.key().unwrap_or_default().to_vec();
        self.next.insert(message.partition(), message.offset() + 1);
        let value = message.payload().map(<[u8]>::to_vec);
        self.waiting.entry(message.partition()).or_default().push_back(Row { offset: message.offset(), key, value, generation: number });
    }

    /// Applies every manifest whose rows are all here.
    fn follow(&mut self) {
        let here = |next: &BTreeMap<i32, i64>, manifest: &Manifest| {
            manifest.upto.iter().all(|(partition, end)| *end == 0 || next.get(partition).is_some_and(|next| next >= end))
        };
        while let Some(manifest) = self.manifests.front().filter(|manifest| here(&self.next, manifest)).cloned() {
            self.manifests.pop_front();
            self.apply(&manifest);
        }
    }

    fn apply(&mut self, manifest: &Manifest) {
        let (generation, newest) = (manifest.generation, self.findings.newest.take());
        let mut tell = |text: String| self.findings.torn.push(format!("generation {generation}: {text}"));
        for (partition, end) in &manifest.upto {
            let waiting = self.waiting.entry(*partition).or_default();
            while let Some(row) = waiting.pop_front_if(|row| row.offset < *end) {
                if row.key == b"heartbeat" {
                    continue;
                }
                if row.generation != Some(generation) {
                    tell(format!("{partition}/{} is of generation {:?}", row.offset, row.generation));
                }
                let before = match row.value {
                    Some(value) => {
                        self.digest.add(&row.key, &value);
                        self.live.insert(row.key.clone(), value)
                    }
                    None => self.live.remove(&row.key),
                };
                if let Some(before) = before {
                    self.digest.remove(&row.key, &before);
                }
            }
        }
        if self.digest.finish() != manifest.digest {
            tell(format!("the rows up to {:?} are not those of the digest", manifest.upto));
        }
        match newest {
            Some((number, digest)) if number == generation && digest == manifest.digest => self.findings.repeated += 1,
            Some((number, _)) if manifest.parent != Some(number) || generation <= number => {
                tell(format!("its parent is {:?}, but it follows {number}", manifest.parent));
            }
            _ => self.findings.generations += 1,
        }
        self.findings.newest = Some((generation, manifest.digest.clone()));
    }
}

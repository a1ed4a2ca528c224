//! Three nodes of a real Kafka: everything is kept three times, and a write counts when two have it. Include it beside
//! `kafka`.

#![allow(dead_code, reason = "each test binary includes this file and uses its own part of it")]

use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};

use super::kafka::{Kafka, client};

const NODES: usize = 3;
const PATIENCE: Duration = Duration::from_secs(180);
const ANSWER: Duration = Duration::from_secs(5);

/// The nodes; dropping them ends all.
pub struct Cluster {
    nodes: Vec<Kafka>,
    brokers: String,
}

impl Cluster {
    /// Starts all nodes, each with a small heap; takes some ten seconds.
    ///
    /// # Panics
    /// As [`Kafka::start`].
    pub fn start() -> Cluster {
        let ports = free_ports(2 * NODES);
        let pairs: Vec<String> = ports.chunks(2).map(|pair| format!("{}:{}", pair[0], pair[1])).collect();
        let mut nodes: Vec<Kafka> = (1..=NODES).map(|id| Kafka::node(id, &pairs.join(","))).collect();
        nodes.iter_mut().for_each(Kafka::begin);
        nodes.iter_mut().for_each(Kafka::await_start);
        let brokers = nodes.iter().map(Kafka::brokers).collect::<Vec<_>>().join(",");
        Cluster { nodes, brokers }
    }

    /// All nodes, for a client.
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// One of the nodes, to kill or to restart.
    pub fn node(&mut self, index: usize) -> &mut Kafka {
        &mut self.nodes[index]
    }

    /// Which node leads a partition, as an index of [`Cluster::node`].
    pub fn leader(&self, topic: &str, partition: i32) -> usize {
        let consumer: BaseConsumer = client(&self.brokers).create().expect("a client");
        within("a leader", || {
            let metadata = consumer.fetch_metadata(Some(topic), ANSWER).ok()?;
            let found = metadata.topics().iter().flat_map(|topic| topic.partitions()).find(|found| found.id() == partition)?;
            usize::try_from(found.leader() - 1).ok().filter(|leader| *leader < NODES)
        })
    }

    /// Waits until every partition has all its replicas again: only then another node may die without a standstill.
    pub fn await_whole(&self) {
        let consumer: BaseConsumer = client(&self.brokers).create().expect("a client");
        within("replicas in step", || {
            let metadata = consumer.fetch_metadata(None, ANSWER).ok()?;
            let mut partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
            (metadata.brokers().len() == NODES && partitions.all(|one| one.isr().len() == one.replicas().len())).then_some(())
        });
    }
}

fn within<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let tries = PATIENCE.as_millis() / 200;
    for _ in 0..tries {
        if let Some(found) = look() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    panic!("no {what} within {PATIENCE:?}")
}

/// Below the range that the kernel takes outgoing connections from: a node that is down must find its port free.
fn free_ports(count: usize) -> Vec<u16> {
    let mut ports = Vec::new();
    let mut next = 10_240 + (std::process::id() % 200) as u16 * 100;
    while ports.len() < count {
        if TcpListener::bind((Ipv4Addr::LOCALHOST, next)).is_ok() {
            ports.push(next);
        }
        next += 1;
    }
    ports
}

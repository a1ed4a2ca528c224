//! librdkafka's mock cluster, as the tests of this room use it.
//!
//! Good for groups, rebalances, faults and the order of things. Not evidence for transactions: it does not keep aborted
//! records from readers. Keeps 5 MiB per partition.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use super::OutRecord;
use super::admin::Outlet;
use super::client::{ClientSettings, now};

pub(super) struct Cluster {
    pub mock: MockCluster<'static, DefaultProducerContext>,
}

impl Cluster {
    /// One broker with these topics and numbers of partitions.
    pub fn new(topics: &[(&str, i32)]) -> Cluster {
        let mock = MockCluster::new(1).unwrap();
        for (topic, partitions) in topics {
            mock.create_topic(topic, *partitions, 1).unwrap();
        }
        Cluster { mock }
    }

    pub fn settings(&self, properties: &[(&str, &str)]) -> ClientSettings {
        let properties: BTreeMap<_, _> = properties.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        ClientSettings { brokers: self.mock.bootstrap_servers(), group: "group".into(), properties }
    }

    /// Sends records `range`, key and value their number, and waits for the acknowledgements.
    pub fn fill(&self, topic: &str, range: std::ops::Range<u32>) {
        let mut outlet = Outlet::new(&self.settings(&[])).unwrap();
        for number in range.clone() {
            outlet.send(&text(topic, &number.to_string(), Some(&number.to_string()))).unwrap();
        }
        assert_eq!(outlet.flush().unwrap(), u64::from(range.end - range.start));
    }
}

pub(super) fn text(topic: &str, key: &str, value: Option<&str>) -> OutRecord {
    OutRecord { topic: topic.into(), key: Some(key.into()), value: value.map(Into::into), headers: Vec::new() }
}

/// Waits until `look` gives something; 30 s are more than any of these tests should need.
pub(super) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < Duration::from_secs(30), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

//! The embedded broker and the producer of the show.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};

use super::DemoError;
use crate::config::Topics;

/// The embedded broker keeps at most 5 MiB a partition and drops the oldest without a word: the show's largest topic is
/// about 6 MB.
const PARTITIONS: i32 = 8;
/// Nobody waits longer for a broker in the same process.
const PATIENCE: Duration = Duration::from_secs(20);

/// librdkafka's mock cluster, and a producer that writes to it.
pub struct Broker {
    // Before the cluster, because fields drop in this order and the producer talks to it.
    producer: BaseProducer,
    cluster: MockCluster<'static, DefaultProducerContext>,
}

impl Broker {
    /// A broker on a free port of the loopback interface.
    ///
    /// # Errors
    /// [`DemoError::Broker`] when librdkafka cannot open it.
    pub fn start() -> Result<Broker, DemoError> {
        let cluster = MockCluster::new(1).map_err(DemoError::broker("start the embedded broker"))?;
        let producer = ClientConfig::new()
            .set("bootstrap.servers", cluster.bootstrap_servers())
            .set("linger.ms", "5")
            .set("queue.buffering.max.messages", "1000000")
            .create()
            .map_err(DemoError::broker("create a producer for the embedded broker"))?;
        Ok(Broker { producer, cluster })
    }

    /// `host:port` of it.
    pub fn address(&self) -> String {
        self.cluster.bootstrap_servers()
    }

    /// Creates the six topics.
    ///
    /// # Errors
    /// [`DemoError::Broker`] when one cannot be created.
    pub fn create(&self, topics: &Topics) -> Result<(), DemoError> {
        let events = [&topics.interactions, &topics.forgets, &topics.factors];
        let single = [&topics.generations, &topics.receipts, &topics.dead_letters];
        for (topic, partitions) in events.map(|topic| (topic, PARTITIONS)).into_iter().chain(single.map(|topic| (topic, 1))) {
            self.cluster.create_topic(topic, partitions, 1).map_err(DemoError::broker("create a topic on the embedded broker"))?;
        }
        Ok(())
    }

    /// Hands (key, value) records to the producer, which sends them soon.
    ///
    /// # Errors
    /// [`DemoError::Broker`] when the producer refuses one.
    pub fn begin(&self, topic: &str, records: impl IntoIterator<Item = (String, Vec<u8>)>) -> Result<(), DemoError> {
        for (key, value) in records {
            let mut record = BaseRecord::to(topic).key(&key).payload(&value);
            while let Err((error, back)) = self.producer.send(record) {
                if error != KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) {
                    return Err(DemoError::broker("send an event to the embedded broker")(error));
                }
                self.producer.poll(Duration::from_millis(10));
                record = back;
            }
        }
        self.producer.poll(Duration::ZERO);
        Ok(())
    }

    /// Waits until the broker has everything.
    ///
    /// # Errors
    /// [`DemoError::Broker`] when the broker does not take it in time.
    pub fn finish(&self) -> Result<(), DemoError> {
        self.producer.flush(PATIENCE).map_err(DemoError::broker("deliver the events to the embedded broker"))
    }

    /// [`Broker::begin`] and [`Broker::finish`].
    ///
    /// # Errors
    /// As these.
    pub fn send(&self, topic: &str, records: impl IntoIterator<Item = (String, Vec<u8>)>) -> Result<(), DemoError> {
        self.begin(topic, records)?;
        self.finish()
    }
}

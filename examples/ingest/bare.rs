//! The reference: consumers that do nothing but read and look at the length of each value. All unsafe code of this program.
//!
//! A consumer that is faster than its fetcher's queue is deep rests for `fetch.queue.backoff.ms` whenever the queue is
//! full. The default of one second costs it a factor of 4 to 10 (8 partitions, 5 M events), and shows only on
//! topics larger than the queue: a baseline with it would flatter the service, which does not wait so long.

use std::time::{Duration, Instant};

use rdkafka::bindings::{
    rd_kafka_consume_batch_queue, rd_kafka_message_destroy, rd_kafka_message_t, rd_kafka_queue_destroy, rd_kafka_queue_get_consumer,
};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;

use crate::{IngestError, PATIENCE, Rate};

/// Records of one call.
const BATCH: usize = 1_000;

/// How records are handed over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// One by one through `BaseConsumer::poll`, as most programs do.
    Polled,
    /// By the thousand through `rd_kafka_consume_batch_queue`: the fastest that librdkafka has.
    Batched,
}

/// Reads `events` events of all partitions from their beginning.
pub fn read(client: ClientConfig, topic: &str, partitions: i32, events: u64, how: How) -> Result<Rate, IngestError> {
    let mut client = client;
    let consumer: BaseConsumer = client
        .set("group.id", "ingest-bare")
        .set("enable.auto.commit", "false")
        .set("fetch.max.bytes", "67108864")
        .set("queued.max.messages.kbytes", "65536")
        .set("fetch.queue.backoff.ms", "1")
        .create()
        .map_err(IngestError::kafka("consumer"))?;
    let mut all = TopicPartitionList::new();
    for partition in 0..partitions {
        all.add_partition_offset(topic, partition, Offset::Beginning).map_err(IngestError::kafka("assignment"))?;
    }
    consumer.assign(&all).map_err(IngestError::kafka("assignment"))?;
    let mut progress = Progress::default();
    while progress.read < events {
        let before = progress.read;
        match how {
            How::Polled => progress.poll(&consumer),
            How::Batched => progress.batch(&consumer),
        }
        .map_err(IngestError::kafka(format!("read {topic}")))?;
        if progress.read == before {
            return Err(IngestError::Dried { topic: topic.to_owned(), read: before, wanted: events });
        }
    }
    std::hint::black_box(progress.bytes);
    Ok(Rate { events: progress.read, time: progress.begin.map_or(Duration::ZERO, |begin| begin.elapsed()) })
}

#[derive(Default)]
struct Progress {
    read: u64,
    bytes: usize,
    /// When the first record came.
    begin: Option<Instant>,
}

impl Progress {
    fn poll(&mut self, consumer: &BaseConsumer) -> Result<(), KafkaError> {
        let Some(message) = consumer.poll(PATIENCE).transpose()? else { return Ok(()) };
        self.begin.get_or_insert_with(Instant::now);
        self.read += 1;
        self.bytes += message.payload_len();
        Ok(())
    }

    fn batch(&mut self, consumer: &BaseConsumer) -> Result<(), KafkaError> {
        let mut messages: [*mut rd_kafka_message_t; BATCH] = [std::ptr::null_mut(); BATCH];
        // The first record alone, so that the clock does not begin a batch late.
        let most = if self.read == 0 { 1 } else { BATCH };
        // Full batches while there are records, what is left of them at the end.
        let wait = if self.read == 0 { PATIENCE } else { Duration::from_millis(100) };
        let mut failed = None;
        // SAFETY: the client lives as long as `consumer`; its queue is given back. The array has room for `most` pointers, of which
        // as many are set as is returned; each message is valid and ours until it is destroyed, here and once.
        unsafe {
            let queue = rd_kafka_queue_get_consumer(consumer.client().native_ptr());
            let came = rd_kafka_consume_batch_queue(queue, wait.as_millis() as i32, messages.as_mut_ptr(), most);
            rd_kafka_queue_destroy(queue);
            for &message in &messages[..usize::try_from(came).unwrap_or(0)] {
                match (*message).err {
                    RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => {
                        self.read += 1;
                        self.bytes += (*message).len;
                    }
                    code => failed = Some(KafkaError::MessageConsumption(code.into())),
                }
                rd_kafka_message_destroy(message);
            }
        }
        self.begin.get_or_insert_with(Instant::now);
        failed.map_or(Ok(()), Err)
    }
}

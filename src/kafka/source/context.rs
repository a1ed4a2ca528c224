//! The consumer's call-backs. All run on the reader's thread, inside `poll`; they answer librdkafka and leave word for the
//! reader, which applies it before it looks at the next record.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;
use serde::Deserialize;

use super::super::client;
use super::lane::Lead;
use super::{Shared, lock};

/// What happened inside a poll.
#[derive(Debug)]
pub(super) enum News {
    /// Partitions that are ours from now on, and the position where each starts (`None`: its beginning). `whole` when these
    /// are all that we have.
    Assigned { starts: Vec<(String, i32, Option<i64>)>, whole: bool },
    /// Partitions that are no longer ours; `None` for all.
    Revoked(Option<Vec<(String, i32)>>),
    /// Where partitions end.
    Ends(Vec<End>),
    /// The consumer is of no more use.
    Broken(String),
}

/// Where a partition ends as the broker last told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct End {
    pub topic: String,
    pub partition: i32,
    /// First offset that cannot be read yet.
    pub offset: i64,
    /// All below is fetched and handed over. Markers of transactions take offsets that never come as records, so this, not
    /// the last record's offset, says that nothing is left.
    pub drained: bool,
}

pub(super) struct SourceContext {
    pub(super) shared: Arc<Shared>,
    pub(super) lead: Lead,
    any: AtomicBool,
    news: Mutex<Vec<News>>,
}

impl SourceContext {
    pub(super) fn new(shared: Arc<Shared>) -> SourceContext {
        SourceContext { shared, lead: Lead::default(), any: AtomicBool::new(false), news: Mutex::default() }
    }

    /// What has happened since the last call. Cheap when nothing did: it is asked after every record.
    pub(super) fn news(&self) -> Option<Vec<News>> {
        if self.any.load(Ordering::Relaxed) {
            self.any.store(false, Ordering::Relaxed);
            return Some(std::mem::take(&mut *lock(&self.news)));
        }
        None
    }

    fn tell(&self, news: News) {
        lock(&self.news).push(news);
        self.any.store(true, Ordering::Relaxed);
    }

    fn assign(&self, consumer: &BaseConsumer<Self>, list: &mut TopicPartitionList, cooperative: bool) -> KafkaResult<News> {
        let mut starts = Vec::new();
        for (topic, partition) in partitions(list) {
            let position = lock(&self.shared.stored).get(&(topic.clone(), partition)).copied();
            list.set_partition_offset(&topic, partition, position.map_or(Offset::Beginning, Offset::Offset))?;
            if !self.lead.lead(consumer, &topic, partition) {
                tracing::debug!("{topic}/{partition} is read by single records");
            }
            starts.push((topic, partition, position));
        }
        if cooperative {
            consumer.incremental_assign(list)?;
        } else {
            consumer.assign(list)?;
        }
        Ok(News::Assigned { starts, whole: !cooperative })
    }

    fn revoke(&self, consumer: &BaseConsumer<Self>, list: &TopicPartitionList, cooperative: bool) -> KafkaResult<News> {
        if cooperative {
            consumer.incremental_unassign(list)?;
            return Ok(News::Revoked(Some(partitions(list))));
        }
        consumer.unassign()?;
        Ok(News::Revoked(None))
    }
}

fn partitions(list: &TopicPartitionList) -> Vec<(String, i32)> {
    list.elements().iter().map(|element| (element.topic().to_owned(), element.partition())).collect()
}

impl ConsumerContext for SourceContext {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, event: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let cooperative = matches!(consumer.rebalance_protocol(), RebalanceProtocol::Cooperative);
        let outcome = match event {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.assign(consumer, list, cooperative),
            _ => self.revoke(consumer, list, cooperative),
        };
        match outcome {
            Ok(news) => self.tell(news),
            Err(error) => {
                // A rebalance without an answer blocks the group, and closing would wait for one for ever.
                let answered = consumer.unassign();
                self.tell(News::Broken(format!("rebalance: {error} (giving up all partitions: {answered:?})")));
            }
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        // Commits serve lag tools only; the next one is seconds away.
        if let Err(error) = result {
            tracing::debug!("positions were not committed to the group: {error}");
        }
    }
}

impl rdkafka::ClientContext for SourceContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        client::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if let Some(code) = error.rdkafka_error_code() {
            self.shared.update(|view| view.health.error(&self.shared.brokers, &self.shared.topics, code, reason));
        }
    }

    fn stats_raw(&self, statistics: &[u8]) {
        match serde_json::from_slice::<Statistics>(statistics) {
            Ok(statistics) => {
                let any = statistics.brokers.values().any(|broker| broker.state == "UP");
                self.shared.update(|view| view.health.connected(&self.shared.brokers, any));
                self.tell(News::Ends(statistics.ends()));
            }
            Err(error) => tracing::warn!("librdkafka's statistics cannot be read, so lag is not known: {error}"),
        }
    }
}

/// The few of librdkafka's statistics that we use.
#[derive(Deserialize)]
struct Statistics {
    #[serde(default)]
    brokers: BTreeMap<String, BrokerStatistics>,
    #[serde(default)]
    topics: BTreeMap<String, TopicStatistics>,
}

#[derive(Deserialize)]
struct BrokerStatistics {
    state: String,
}

#[derive(Deserialize)]
struct TopicStatistics {
    partitions: BTreeMap<i32, PartitionStatistics>,
}

#[derive(Deserialize)]
struct PartitionStatistics {
    fetchq_cnt: i64,
    next_offset: i64,
    hi_offset: i64,
    ls_offset: i64,
}

impl Statistics {
    fn ends(&self) -> Vec<End> {
        let mut ends = Vec::new();
        for (topic, of_topic) in &self.topics {
            for (&partition, known) in &of_topic.partitions {
                // What an open transaction holds back cannot be read, so it is not lag of ours.
                let offset = if known.ls_offset >= 0 { known.ls_offset.min(known.hi_offset) } else { known.hi_offset };
                if partition >= 0 && offset >= 0 {
                    let drained = known.fetchq_cnt == 0 && known.next_offset >= offset;
                    ends.push(End { topic: topic.clone(), partition, offset, drained });
                }
            }
        }
        ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_stop_at_open_transactions_and_skip_what_is_unknown() {
        let json = r#"{"brokers":{"a":{"state":"UP","nodeid":1}},"topics":{"t":{"partitions":{
            "0":{"fetchq_cnt":0,"next_offset":7,"hi_offset":9,"ls_offset":7},
            "1":{"fetchq_cnt":3,"next_offset":9,"hi_offset":9,"ls_offset":-1},
            "2":{"fetchq_cnt":0,"next_offset":0,"hi_offset":-1001,"ls_offset":-1001},
            "-1":{"fetchq_cnt":0,"next_offset":0,"hi_offset":5,"ls_offset":5}}}}}"#;
        let statistics: Statistics = serde_json::from_str(json).unwrap();
        let end = |partition, offset, drained| End { topic: "t".into(), partition, offset, drained };
        assert_eq!(statistics.ends(), [end(0, 7, true), end(1, 9, false)]);
    }
}

//! What keeps us from reading, in words for an operator: facts in, one sentence out.

use std::collections::BTreeMap;

use rdkafka::error::RDKafkaErrorCode as Code;

use super::super::client::{is_absence, is_refusal};

/// The troubles that are open, each until the fact that ends it is seen.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// Ends with a broker that is connected.
    broker: Option<String>,
    /// Why the last connection failed; told only when no broker is left.
    last_failure: Option<String>,
    /// Ends with a broker that is connected, which it cannot be without credentials.
    credentials: Option<String>,
    /// By topic; ends with a partition of it being assigned.
    topics: BTreeMap<String, String>,
    /// Ends with an assignment.
    group: Option<String>,
    /// Seconds for which a batch that cannot be read still counts; it is tried again every half second.
    unreadable: u8,
}

/// Told while a batch cannot be read. librdkafka tells which one in its log only.
const UNREADABLE: &str = "a batch of records is damaged or cannot be decompressed, and its partition stands still: see librdkafka's log \
    with kafka.properties.debug=msg; raise kafka.properties.receive.message.max.bytes, or delete the records up to behind the batch";
/// See [`Health::unreadable`].
const UNREADABLE_SECONDS: u8 = 10;

impl Health {
    /// An error that the client reported, with librdkafka's reason.
    pub(super) fn error(&mut self, brokers: &str, topics: &[String], code: Code, reason: &str) {
        match code {
            Code::AllBrokersDown => self.broker = Some(absent(brokers, self.last_failure.as_deref().unwrap_or(reason))),
            Code::Authentication | Code::SSL | Code::SaslAuthenticationFailed => {
                self.credentials = Some(format!(
                    "the brokers at {brokers} refused the connection ({reason}); check security.* and sasl.* in kafka.properties"
                ));
            }
            code if is_absence(code) => self.last_failure = Some(reason.to_owned()),
            Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::InvalidTopic => {
                self.topic(topics, reason, |topic| format!("topic {topic} does not exist; create it with `nepenthe topics`"));
            }
            Code::TopicAuthorizationFailed => {
                self.topic(topics, reason, |topic| format!("no right to read topic {topic}; grant READ and DESCRIBE on it"));
            }
            code if is_refusal(code) => self.group = Some(format!("no right to use the group ({reason}); grant READ on kafka.group")),
            _ => tracing::warn!("Kafka consumer: {reason}"),
        }
    }

    /// librdkafka names the topic in its sentence only, as `…: NAME: …`.
    fn topic(&mut self, topics: &[String], reason: &str, text: impl Fn(&str) -> String) {
        let named = |topic: &&String| reason.contains(&format!(": {topic}:"));
        for topic in topics.iter().filter(named) {
            self.topics.insert(topic.clone(), text(topic));
        }
        if !topics.iter().any(|topic| named(&topic)) {
            self.topics.insert(String::new(), format!("a topic cannot be read ({reason}); check [topics] and `nepenthe topics --check`"));
        }
    }

    /// A batch came that cannot be read. librdkafka asks for it for ever.
    pub(super) fn unreadable(&mut self) {
        self.unreadable = UNREADABLE_SECONDS;
    }

    /// Heard every second: is any broker connected?
    pub(super) fn connected(&mut self, brokers: &str, any: bool) {
        self.unreadable = self.unreadable.saturating_sub(1);
        if any {
            (self.broker, self.last_failure, self.credentials) = (None, None, None);
        } else if self.broker.is_none() && self.credentials.is_none() {
            self.broker = Some(absent(brokers, self.last_failure.as_deref().unwrap_or("not connected yet")));
        }
    }

    /// Partitions of these topics were assigned to us.
    pub(super) fn assigned<'a>(&mut self, topics: impl Iterator<Item = &'a str>) {
        self.group = None;
        for topic in topics {
            self.topics.remove(topic);
            self.topics.remove("");
        }
    }

    /// The consumer is beyond repair and is built anew.
    pub(super) fn broken(&mut self, reason: &str) {
        self.group = Some(format!("the consumer failed and is being built anew: {reason}"));
    }

    /// The worst of what is open.
    pub(super) fn trouble(&self) -> Option<String> {
        let told = self.credentials.as_ref().or(self.broker.as_ref()).or(self.group.as_ref()).or_else(|| self.topics.values().next());
        told.cloned().or_else(|| (self.unreadable > 0).then(|| UNREADABLE.to_owned()))
    }
}

fn absent(brokers: &str, reason: &str) -> String {
    format!("no broker at {brokers} can be reached ({reason}); are they up and is kafka.brokers right?")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics() -> Vec<String> {
        vec!["in".into(), "in-2".into()]
    }

    #[test]
    fn a_missing_topic_is_named_until_it_is_assigned() {
        let mut health = Health::default();
        health.error("b", &topics(), Code::UnknownTopicOrPartition, "Subscribed topic not available: in-2: Broker: Unknown");
        assert!(health.trouble().unwrap().contains("topic in-2 does not exist; create it with `nepenthe topics`"));
        health.assigned(["in"].into_iter());
        assert!(health.trouble().is_some(), "another topic does not cure it");
        health.assigned(["in-2"].into_iter());
        assert_eq!(health.trouble(), None);
    }

    #[test]
    fn one_lost_connection_is_no_trouble_but_the_last_one_is() {
        let mut health = Health::default();
        health.error("b:1", &topics(), Code::BrokerTransportFailure, "b:1/1: Connection refused");
        health.connected("b:1", true);
        assert_eq!(health.trouble(), None);
        health.error("b:1", &topics(), Code::BrokerTransportFailure, "b:1/1: Connection refused");
        health.connected("b:1", false);
        assert!(health.trouble().unwrap().contains("Connection refused"));
        health.connected("b:1", true);
        assert_eq!(health.trouble(), None);
    }

    #[test]
    fn credentials_come_before_absence() {
        let mut health = Health::default();
        health.error("b:1", &topics(), Code::AllBrokersDown, "1/1 brokers are down");
        health.error("b:1", &topics(), Code::Authentication, "SASL PLAIN failed");
        assert!(health.trouble().unwrap().contains("kafka.properties"));
        health.connected("b:1", true);
        assert_eq!(health.trouble(), None);
    }

    #[test]
    fn a_batch_that_cannot_be_read_is_told_until_it_is_not_met_any_more() {
        let mut health = Health::default();
        for _ in 0..3 {
            health.unreadable();
            health.connected("b:1", true);
            assert!(health.trouble().unwrap().contains("receive.message.max.bytes"));
        }
        (0..UNREADABLE_SECONDS).for_each(|_| health.connected("b:1", true));
        assert_eq!(health.trouble(), None);
    }

    #[test]
    fn a_failed_consumer_is_told_until_the_next_assignment() {
        let mut health = Health::default();
        health.broken("fenced");
        assert!(health.trouble().unwrap().contains("fenced"));
        health.assigned(["in"].into_iter());
        assert_eq!(health.trouble(), None);
    }
}

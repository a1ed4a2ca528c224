use std::collections::BTreeSet;
use std::time::Duration;

use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::super::mock::{Cluster, text, until};
use super::super::{Batch, Bell, Positions, Source};
use super::*;
use crate::kafka::admin::Outlet;
use crate::kafka::client::now;

fn start(cluster: &Cluster, topics: &[&str], positions: Positions, limits: SourceLimits) -> KafkaSource {
    let topics = topics.iter().map(|topic| topic.to_string()).collect();
    // When a member leaves, the mock cluster holds the group for a session timeout less a second; real brokers do not.
    let settings = cluster.settings(&[("session.timeout.ms", "3000"), ("heartbeat.interval.ms", "300")]);
    KafkaSource::start(settings, topics, positions, limits, Bell::default()).unwrap()
}

/// What a loop keeps of the records: position by partition, and how many went forward.
#[derive(Default)]
struct Seen {
    positions: Positions,
    values: Vec<String>,
    again: usize,
}

impl Seen {
    /// As the loop does: what lies below the position has been here before.
    fn take(&mut self, batch: &Batch) {
        for record in &batch.records {
            let place = (batch.topics[usize::from(record.topic)].clone(), record.partition);
            let position = self.positions.entry(place).or_insert(0);
            if record.offset < *position && !record.reset {
                self.again += 1;
                continue;
            }
            *position = record.offset + 1;
            let value = batch.payload(record).unwrap_or(b"none");
            self.values.push(String::from_utf8(value.to_vec()).unwrap());
        }
    }

    fn read(&mut self, source: &mut KafkaSource, records: usize) {
        until(&format!("{records} records, {} came", self.values.len()), || {
            while let Some(batch) = source.poll() {
                self.take(&batch);
            }
            (self.values.len() >= records).then_some(())
        });
    }

    fn numbers(&self) -> BTreeSet<u32> {
        self.values.iter().map(|value| value.parse().unwrap()).collect()
    }
}

#[test]
fn everything_is_read_and_a_restart_goes_on_where_the_state_is() {
    let cluster = Cluster::new(&[("in", 4)]);
    cluster.fill("in", 0..1000);
    let mut seen = Seen::default();
    let mut source = start(&cluster, &["in"], Positions::new(), SourceLimits::default());
    seen.read(&mut source, 1000);
    assert_eq!(seen.numbers(), (0..1000).collect());
    let state = until("ends", || Some(source.state()).filter(|state| state.ends.len() == 4));
    assert_eq!((state.assigned.len(), &state.trouble, &state.ends), (4, &None, &seen.positions));
    source.stored(&seen.positions);
    drop(source);

    cluster.fill("in", 1000..1100);
    let mut source = start(&cluster, &["in"], seen.positions.clone(), SourceLimits::default());
    seen.read(&mut source, 1100);
    assert_eq!((seen.again, seen.numbers().len()), (0, 1100));
    drop(source);

    // A state that is older than what the group committed is right all the same.
    let older: Positions = seen.positions.keys().map(|place| (place.clone(), 7)).collect();
    let mut old = Seen { positions: older.clone(), ..Seen::default() };
    old.read(&mut start(&cluster, &["in"], older, SourceLimits::default()), 1100 - 4 * 7);
    assert_eq!(old.again, 0);
    let mut fresh = Seen::default();
    fresh.read(&mut start(&cluster, &["in"], Positions::new(), SourceLimits::default()), 1100);
}

#[test]
fn a_slow_loop_loses_nothing_and_sees_nothing_twice() {
    let cluster = Cluster::new(&[("in", 3)]);
    cluster.fill("in", 0..30_000);
    let limits = SourceLimits { records: 500, ..SourceLimits::default() };
    let mut source = start(&cluster, &["in"], Positions::new(), limits);
    let mut seen = Seen::default();
    seen.read(&mut source, 500);
    for _ in 0..3 {
        // Long enough for a pause, and for records to come meanwhile.
        std::thread::sleep(Duration::from_millis(1500));
        let batch = until("a batch after a pause", || source.poll());
        seen.take(&batch);
    }
    cluster.fill("in", 30_000..31_000);
    seen.read(&mut source, 31_000);
    assert_eq!((seen.again, seen.values.len(), seen.numbers()), (0, 31_000, (0..31_000).collect()));
}

#[test]
fn keys_tombstones_and_timestamps_arrive() {
    let cluster = Cluster::new(&[("a", 1), ("b", 1)]);
    let mut outlet = Outlet::new(&cluster.settings(&[])).unwrap();
    outlet.send(&text("a", "k", None)).unwrap();
    outlet.send(&text("b", "", Some(""))).unwrap();
    outlet.flush().unwrap();
    let mut source = start(&cluster, &["a", "b", "a"], Positions::new(), SourceLimits::default());
    let mut rows = BTreeSet::new();
    until("two records", || {
        while let Some(batch) = source.poll() {
            for record in &batch.records {
                assert!(record.timestamp.is_some_and(|at| at > 1_600_000_000_000));
                let topic = batch.topics[usize::from(record.topic)].clone();
                rows.insert((topic, batch.key(record).map(<[u8]>::to_vec), batch.payload(record).map(<[u8]>::to_vec)));
            }
        }
        (rows.len() == 2).then_some(())
    });
    assert!(rows.contains(&("a".into(), Some(b"k".to_vec()), None)));
    assert!(rows.contains(&("b".into(), Some(vec![]), Some(vec![]))));
}

#[test]
fn a_position_past_the_end_starts_over_with_a_mark() {
    let cluster = Cluster::new(&[("in", 1)]);
    cluster.fill("in", 0..10);
    let positions = Positions::from([(("in".to_owned(), 0), 50)]);
    let mut source = start(&cluster, &["in"], positions.clone(), SourceLimits::default());
    let mut seen = Seen { positions, ..Seen::default() };
    seen.read(&mut source, 10);
    assert_eq!(seen.positions[&("in".to_owned(), 0)], 10);
}

#[test]
fn a_topic_that_comes_later_is_awaited_and_named() {
    let cluster = Cluster::new(&[("other", 1)]);
    let mut source = start(&cluster, &["late"], Positions::new(), SourceLimits::default());
    let trouble = until("the trouble", || source.state().trouble);
    assert!(trouble.contains("late") && trouble.contains("nepenthe topics"), "{trouble}");
    cluster.mock.create_topic("late", 2, 1).unwrap();
    cluster.fill("late", 0..5);
    let mut seen = Seen::default();
    seen.read(&mut source, 5);
    assert_eq!(source.state().trouble, None);
}

#[test]
fn brokers_that_go_away_are_told_and_come_back() {
    let cluster = Cluster::new(&[("in", 2)]);
    cluster.fill("in", 0..10);
    let mut source = start(&cluster, &["in"], Positions::new(), SourceLimits::default());
    let mut seen = Seen::default();
    seen.read(&mut source, 10);
    cluster.mock.broker_down(-1).unwrap();
    let trouble = until("the trouble", || source.state().trouble);
    assert!(trouble.contains("no broker") && trouble.contains("kafka.brokers"), "{trouble}");
    cluster.mock.broker_up(-1).unwrap();
    cluster.fill("in", 10..20);
    seen.read(&mut source, 20);
    until("health", || source.state().trouble.is_none().then_some(()));
    assert_eq!(seen.numbers(), (0..20).collect());
}

#[test]
fn drop_does_not_hang_with_or_without_brokers() {
    let cluster = Cluster::new(&[("in", 2)]);
    cluster.fill("in", 0..10);
    let mut source = start(&cluster, &["in"], Positions::new(), SourceLimits::default());
    Seen::default().read(&mut source, 10);
    let began = now();
    drop(source);
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());

    let mut source = start(&cluster, &["in"], Positions::new(), SourceLimits::default());
    let mut seen = Seen::default();
    seen.read(&mut source, 10);
    source.stored(&seen.positions);
    cluster.mock.broker_down(-1).unwrap();
    until("the trouble", || source.state().trouble);
    let began = now();
    drop(source);
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());

    let nobody = ClientSettings { brokers: "127.0.0.1:1".into(), ..cluster.settings(&[]) };
    let limits = SourceLimits::default();
    let source = KafkaSource::start(nobody, vec!["in".into()], Positions::new(), limits, Bell::default()).unwrap();
    let trouble = until("the trouble", || source.state().trouble);
    assert!(trouble.contains("127.0.0.1:1"), "{trouble}");
}

#[test]
fn two_members_share_and_the_one_that_stays_takes_over_from_what_is_stored() {
    let cluster = Cluster::new(&[("in", 4)]);
    cluster.fill("in", 0..100);
    let mut first = start(&cluster, &["in"], Positions::new(), SourceLimits::default());
    let mut seen = Seen::default();
    seen.read(&mut first, 100);
    first.stored(&seen.positions);
    let second = start(&cluster, &["in"], seen.positions.clone(), SourceLimits::default());
    until("both to have a share", || {
        let (one, two) = (first.state().assigned, second.state().assigned);
        (one.len() == 2 && two.len() == 2 && one.iter().all(|partition| !two.contains(partition))).then_some(())
    });
    drop(second);
    until("the first to have all", || (first.state().assigned.len() == 4).then_some(()));
    cluster.fill("in", 100..200);
    seen.read(&mut first, 200);
    assert_eq!((seen.again, seen.numbers()), (0, (0..200).collect()));
    assert!(first.state().rebalances >= 3);
}

#[test]
fn names_and_properties_that_cannot_work_are_refused_at_once() {
    let cluster = Cluster::new(&[]);
    let started = |topic: &str, properties: &[(&str, &str)]| {
        let settings = cluster.settings(properties);
        KafkaSource::start(settings, vec![topic.into()], Positions::new(), SourceLimits::default(), Bell::default()).err().unwrap()
    };
    assert!(matches!(started("^.*", &[]), SourceError::Topic(_)));
    assert!(matches!(started("in", &[("group.id", "x")]), SourceError::Client(ClientError::Refused(_))));
    assert!(matches!(started("in", &[("no.such", "x")]), SourceError::Client(ClientError::Property { .. })));
}

#[test]
fn a_place_in_the_group_that_is_taken_is_told_once_and_reading_goes_on() {
    let cluster = Cluster::new(&[("in", 1)]);
    cluster.fill("in", 0..10);
    let mut source = start(&cluster, &["in"], Positions::new(), SourceLimits::default());
    let mut seen = Seen::default();
    seen.read(&mut source, 10);
    assert!(!source.contested());
    source.stored(&seen.positions);
    cluster.mock.request_errors(RDKafkaApiKey::Heartbeat, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID]);
    until("the news", || source.contested().then_some(()));
    assert!(!source.contested());
    cluster.fill("in", 10..20);
    seen.read(&mut source, 20);
    assert_eq!((seen.again, seen.numbers()), (0, (0..20).collect()));
}

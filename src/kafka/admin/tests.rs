use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Duration;

use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::super::Positions;
use super::super::mock::{Cluster, text};
use super::*;

fn place(topic: &str, partition: i32) -> (String, i32) {
    (topic.to_owned(), partition)
}

#[test]
fn a_topic_is_read_to_its_end_to_a_mark_and_to_a_break() {
    let cluster = Cluster::new(&[("t", 3), ("empty", 2)]);
    let settings = cluster.settings(&[]);
    cluster.fill("t", 0..300);
    let mut count = BTreeMap::<i32, i64>::new();
    let stopped = read_topic(&settings, "t", None, |record| {
        assert_eq!(record.offset, count.get(&record.partition).copied().unwrap_or(0), "in order, without holes");
        *count.entry(record.partition).or_default() += 1;
        ControlFlow::Continue(())
    });
    let ends = end_offsets(&settings, "t").unwrap();
    assert_eq!(stopped.unwrap(), ends);
    assert_eq!((count.values().sum::<i64>(), ends.len()), (300, 3));

    let upto = Positions::from([(place("t", 0), 5), (place("t", 1), 0)]);
    let mut read = Vec::new();
    read_topic(&settings, "t", Some(&upto), |record| {
        read.push((record.partition, record.offset));
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(read, (0..5).map(|offset| (0, offset)).collect::<Vec<_>>());

    let mut records = 0;
    read_topic(&settings, "t", None, |_| {
        records += 1;
        if records == 7 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .unwrap();
    assert_eq!(records, 7);
    let none = read_topic(&settings, "empty", None, |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(none, [(place("empty", 0), 0), (place("empty", 1), 0)].into());
}

#[test]
fn a_follower_goes_on_where_the_reader_stopped() {
    let cluster = Cluster::new(&[("t", 1)]);
    let settings = cluster.settings(&[]);
    cluster.fill("t", 0..10);
    let from = read_topic(&settings, "t", None, |_| ControlFlow::Continue(())).unwrap();
    cluster.fill("t", 10..12);
    let mut keys = Vec::new();
    let (_, broken) = follow_topic(&settings, "t", &from, Duration::from_secs(20), |record| {
        keys.push(String::from_utf8(record.key.unwrap().to_vec()).unwrap());
        if keys.len() == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .unwrap();
    assert!(broken);
    assert_eq!(keys, ["10", "11"]);
    let end = end_offsets(&settings, "t").unwrap();
    let (positions, broken) = follow_topic(&settings, "t", &end, Duration::from_millis(300), |_| ControlFlow::Break(())).unwrap();
    assert_eq!((positions, broken), (end, false));
}

#[test]
fn one_connection_tells_of_several_topics_again_and_again() {
    let cluster = Cluster::new(&[("t", 1), ("other", 2)]);
    let ends = Ends::open(cluster.settings(&[])).unwrap();
    assert_eq!(ends.of("t").unwrap(), [(place("t", 0), 0)].into());
    cluster.fill("t", 0..10);
    assert_eq!(ends.of("t").unwrap(), [(place("t", 0), 10)].into());
    assert_eq!(ends.of("other").unwrap(), [(place("other", 0), 0), (place("other", 1), 0)].into());
    assert!(matches!(ends.of("absent"), Err(ReadError::Missing { .. })));
}

#[test]
fn a_missing_topic_is_named_with_the_remedy() {
    let cluster = Cluster::new(&[("t", 1)]);
    let error = end_offsets(&cluster.settings(&[]), "absent").unwrap_err().to_string();
    assert!(error.contains("absent") && error.contains("nepenthe topics"), "{error}");
}

#[test]
fn an_outlet_delivers_with_bounded_memory_and_tells_what_it_lost() {
    let cluster = Cluster::new(&[("t", 2)]);
    let mut outlet = Outlet::new(&cluster.settings(&[("queue.buffering.max.messages", "100")])).unwrap();
    for number in 0..5_000 {
        outlet.send(&text("t", &number.to_string(), Some("v"))).unwrap();
    }
    assert_eq!(outlet.flush().unwrap(), 5_000);
    assert_eq!(outlet.acknowledged(), 5_000);

    let mut outlet = Outlet::new(&cluster.settings(&[("message.timeout.ms", "500")])).unwrap();
    cluster.mock.broker_down(-1).unwrap();
    outlet.send(&text("t", "k", Some("v"))).unwrap();
    let error = outlet.flush().unwrap_err().to_string();
    assert!(error.contains("1 of 1 records") && error.contains("kafka.brokers"), "{error}");
}

#[test]
fn topics_are_compared_before_anything_is_made() {
    let cluster = Cluster::new(&[("there", 1)]);
    let plan = [TopicPlan::new("there", Role::Events, 1, 1), TopicPlan::new("absent", Role::Factors, 8, 1)];
    let reports = ensure_topics(&cluster.settings(&[]), &plan, true).unwrap();
    let outcomes: Vec<_> = reports.into_iter().map(|report| (report.topic, report.outcome)).collect();
    assert_eq!(outcomes, [("there".to_owned(), Outcome::Fine), ("absent".to_owned(), Outcome::Missing)]);
    // The mock cluster cannot create: what comes back must name topic and brokers.
    let error = ensure_topics(&cluster.settings(&[]), &plan, false).unwrap_err().to_string();
    assert!(error.contains("absent") && error.contains(&cluster.mock.bootstrap_servers()), "{error}");
}

#[test]
fn brokers_that_are_away_are_named() {
    let nobody = ClientSettings { brokers: "127.0.0.1:1".into(), group: "g".into(), properties: BTreeMap::new() };
    let error = ensure_topics(&nobody, &[], true).unwrap_err().to_string();
    assert!(error.contains("127.0.0.1:1") && error.contains("are they up"), "{error}");
}

/// Metadata knows of a new topic before the leaders of its partitions do.
#[test]
fn a_leader_that_has_not_heard_of_its_partition_is_asked_again() {
    let cluster = Cluster::new(&[("new", 1)]);
    cluster.fill("new", 0..3);
    let unheard = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART; 6];
    cluster.mock.request_errors(RDKafkaApiKey::ListOffsets, &unheard);
    assert_eq!(end_offsets(&cluster.settings(&[]), "new").unwrap(), [(place("new", 0), 3)].into());
}

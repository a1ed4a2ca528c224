use std::ops::ControlFlow;
use std::time::Duration;

use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::super::admin::read_topic;
use super::super::mock::{Cluster, text, until};
use super::super::{Claim, OutRecord, Parcel, Parceled, Sink};
use super::*;
use crate::kafka::client::{MAX_RECORD_BYTES, now};

fn deliver(sink: &mut KafkaSink, records: Vec<OutRecord>) -> Parceled {
    deliver_then(sink, Parcel { records: Box::new(records.into_iter()), then: None, claim: None, doubt: false })
}

fn deliver_then(sink: &mut KafkaSink, parcel: Parcel) -> Parceled {
    sink.send(parcel);
    let result = until("the parcel", || sink.poll());
    assert_eq!(sink.poll(), None, "told once");
    result
}

fn failure(result: Parceled) -> String {
    match result {
        Parceled::Failed(reason) => reason,
        other => panic!("{other:?}"),
    }
}

fn numbers(topic: &str, count: u32) -> Vec<OutRecord> {
    (0..count).map(|number| text(topic, &number.to_string(), Some("v"))).collect()
}

/// Key, value, header `generation`.
type Row = (Vec<u8>, Option<Vec<u8>>, Option<Vec<u8>>);

/// All records of a topic.
fn read(cluster: &Cluster, topic: &str) -> Vec<Row> {
    let mut rows = Vec::new();
    read_topic(&cluster.settings(&[]), topic, None, |record| {
        rows.push((record.key.unwrap_or_default().to_vec(), record.payload.map(Into::into), record.header("generation").map(Into::into)));
        ControlFlow::Continue(())
    })
    .unwrap();
    rows
}

#[test]
fn a_parcel_arrives_with_its_ends_and_what_was_made_of_them() {
    let cluster = Cluster::new(&[("factors", 3), ("generations", 1)]);
    for id in [None, Some("state-1".to_owned())] {
        let mut sink = KafkaSink::start(cluster.settings(&[]), id, Bell::default());
        let mut before = 0;
        for round in 1..=2 {
            let then =
                |ends: &super::super::Positions| vec![text("generations", "generation", Some(&ends.values().sum::<i64>().to_string()))];
            let parcel =
                Parcel { records: Box::new(numbers("factors", 1000).into_iter()), then: Some(Box::new(then)), claim: None, doubt: false };
            let Parceled::Delivered { ends, sent } = deliver_then(&mut sink, parcel) else { panic!("failed") };
            assert_eq!(sent, [("factors".to_owned(), 1000), ("generations".to_owned(), 1)].into());
            assert_eq!(ends.len(), 3, "only `records` count: {ends:?}");
            let reached: i64 = ends.values().sum();
            assert!(reached >= before + 1000, "round {round}: {reached}");
            let manifest = read(&cluster, "generations").pop().unwrap().1.unwrap();
            assert_eq!(manifest, reached.to_string().into_bytes());
            before = reached;
        }
    }
}

#[test]
fn tombstones_and_headers_survive() {
    let cluster = Cluster::new(&[("factors", 1)]);
    let mut sink = KafkaSink::start(cluster.settings(&[]), None, Bell::default());
    let mut row = text("factors", "u/7", None);
    row.headers = vec![("generation", b"42".to_vec())];
    let vector = OutRecord { value: Some(vec![0, 255, 128]), ..row.clone() };
    assert!(matches!(deliver(&mut sink, vec![vector, row]), Parceled::Delivered { .. }));
    let header = Some(b"42".to_vec());
    assert_eq!(read(&cluster, "factors"), [(b"u/7".to_vec(), Some(vec![0, 255, 128]), header.clone()), (b"u/7".to_vec(), None, header)]);
}

#[test]
fn an_empty_parcel_and_a_full_queue_are_no_trouble() {
    let cluster = Cluster::new(&[("factors", 2)]);
    let mut sink = KafkaSink::start(cluster.settings(&[("queue.buffering.max.messages", "500")]), None, Bell::default());
    let Parceled::Delivered { ends, sent } = deliver(&mut sink, Vec::new()) else { panic!("failed") };
    assert!(ends.is_empty() && sent.is_empty());
    let Parceled::Delivered { ends, .. } = deliver(&mut sink, numbers("factors", 20_000)) else { panic!("failed") };
    assert_eq!(ends.values().sum::<i64>(), 20_000);
}

#[test]
fn a_refused_record_fails_its_parcel_and_the_next_try_arrives() {
    let cluster = Cluster::new(&[("factors", 1)]);
    for id in [None, Some("state-1".to_owned())] {
        let mut sink = KafkaSink::start(cluster.settings(&[]), id, Bell::default());
        cluster.mock.request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE]);
        let reason = failure(deliver(&mut sink, numbers("factors", 10)));
        assert!(reason.contains("10 records") && reason.contains("factors") && reason.contains("max.message.bytes"), "{reason}");
        assert!(matches!(deliver(&mut sink, numbers("factors", 10)), Parceled::Delivered { .. }));
    }
}

#[test]
fn passing_errors_of_a_broker_are_retried() {
    let cluster = Cluster::new(&[("factors", 1)]);
    let mut sink = KafkaSink::start(cluster.settings(&[]), None, Bell::default());
    let passing = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS, RDKafkaRespErr::RD_KAFKA_RESP_ERR__TRANSPORT];
    cluster.mock.request_errors(RDKafkaApiKey::Produce, &passing);
    assert!(matches!(deliver(&mut sink, numbers("factors", 10)), Parceled::Delivered { .. }));
    assert_eq!(read(&cluster, "factors").len(), 10);
}

#[test]
fn an_absent_broker_gives_the_parcel_back_and_a_returned_one_takes_it() {
    let cluster = Cluster::new(&[("factors", 1)]);
    let mut sink = KafkaSink::start(cluster.settings(&[("message.timeout.ms", "1500")]), None, Bell::default());
    assert!(matches!(deliver(&mut sink, numbers("factors", 1)), Parceled::Delivered { .. }));
    cluster.mock.broker_down(-1).unwrap();
    let reason = failure(deliver(&mut sink, numbers("factors", 3)));
    assert!(reason.contains("3 records") && reason.contains("are they up"), "{reason}");
    cluster.mock.broker_up(-1).unwrap();
    assert!(matches!(deliver(&mut sink, numbers("factors", 3)), Parceled::Delivered { .. }));
}

#[test]
fn a_record_that_no_broker_would_take_is_named() {
    let cluster = Cluster::new(&[("letters", 1)]);
    let mut sink = KafkaSink::start(cluster.settings(&[]), None, Bell::default());
    let large = OutRecord { value: Some(vec![1; MAX_RECORD_BYTES + 1]), ..text("letters", "k", None) };
    let reason = failure(deliver(&mut sink, vec![large]));
    assert!(reason.contains("letters") && reason.contains("too large"), "{reason}");
    assert!(matches!(deliver(&mut sink, numbers("letters", 1)), Parceled::Delivered { .. }));
}

#[test]
fn brokers_without_transactions_get_parcels_without() {
    let cluster = Cluster::new(&[("factors", 1)]);
    cluster.mock.request_errors(RDKafkaApiKey::InitProducerId, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNSUPPORTED_VERSION]);
    let mut sink = KafkaSink::start(cluster.settings(&[]), Some("state-1".into()), Bell::default());
    assert!(matches!(deliver(&mut sink, numbers("factors", 3)), Parceled::Delivered { .. }));
    assert_eq!(read(&cluster, "factors").len(), 3);
}

#[test]
fn drop_does_not_hang_while_a_parcel_waits_for_brokers() {
    let nobody = ClientSettings { brokers: "127.0.0.1:1".into(), group: "g".into(), properties: Default::default() };
    for id in [None, Some("state-1".to_owned())] {
        let mut sink = KafkaSink::start(nobody.clone(), id, Bell::default());
        sink.send(Parcel { records: Box::new(numbers("factors", 3).into_iter()), then: None, claim: None, doubt: false });
        std::thread::sleep(Duration::from_millis(300));
        let began = now();
        drop(sink);
        assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    }
}

#[test]
fn a_record_without_a_key_arrives_without_one_and_an_empty_key_as_a_key() {
    let cluster = Cluster::new(&[("letters", 1)]);
    let mut sink = KafkaSink::start(cluster.settings(&[]), None, Bell::default());
    let keyless = OutRecord { key: None, ..text("letters", "", Some("keyless")) };
    deliver(&mut sink, vec![keyless, text("letters", "", Some("empty"))]);
    let mut keys = Vec::new();
    read_topic(&cluster.settings(&[]), "letters", None, |record| {
        keys.push(record.key.map(<[u8]>::to_vec));
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(keys, [None, Some(Vec::new())]);
}

#[test]
fn who_finds_a_later_writer_sends_nothing() {
    let cluster = Cluster::new(&[("factors", 1), ("generations", 1)]);
    cluster.fill("generations", 0..3);
    let claim = |foreign: &'static [u8]| {
        let holds = move |value: &[u8]| if value == foreign { Err("another".to_owned()) } else { Ok(()) };
        Some(Claim { topic: "generations".into(), holds: Box::new(holds) })
    };
    for id in [None, Some("state-1".to_owned())] {
        let mut sink = KafkaSink::start(cluster.settings(&[]), id, Bell::default());
        let parcel = Parcel { records: Box::new(numbers("factors", 3).into_iter()), then: None, claim: claim(b"1"), doubt: false };
        assert_eq!(deliver_then(&mut sink, parcel), Parceled::Superseded("another".to_owned()));
        assert_eq!(read(&cluster, "factors").len(), 0);
    }
    let mut sink = KafkaSink::start(cluster.settings(&[]), None, Bell::default());
    // The second parcel has the same producer, which nobody can have overtaken unnoticed; unless there is doubt.
    for (foreign, doubt, sent) in [(&b"7"[..], false, true), (b"1", false, true), (b"7", true, true), (b"1", true, false)] {
        let parcel = Parcel { records: Box::new(std::iter::empty()), then: None, claim: claim(foreign), doubt };
        assert_eq!(matches!(deliver_then(&mut sink, parcel), Parceled::Delivered { .. }), sent);
    }
}

use super::super::super::OutRecord;
use super::super::super::mock::{Cluster, text};
use super::super::{Outlet, end_offsets};
use super::*;

/// Partition, offset, key, generation of a row or `None` for a tombstone.
type Written<'w> = (i32, i64, &'w str, Option<u64>);

fn scan(records: &[Written<'_>], gone: MustBeGone<'_>) -> Finding {
    let upto: Offsets = records.iter().map(|record| (record.0, record.1 + 1)).collect();
    let mut pass = Pass { finding: Finding { upto, ..Finding::default() }, newest: HashMap::new(), gone };
    for &(partition, offset, key, generation) in records {
        let text = generation.map(|generation| generation.to_string());
        let headers = text.as_ref().map(|text| ("generation", text.as_bytes())).into_iter().collect();
        let payload = generation.map(|_| &b"row"[..]);
        pass.take(&TopicRecord { partition, offset, timestamp: None, key: Some(key.as_bytes()), payload, headers });
    }
    pass.finding
}

fn nobody(_: &[u8], _: Option<u64>) -> Option<u64> {
    None
}

fn covers(finding: &Finding, target: &[(i32, i64)], names: bool) -> Result<(), String> {
    finding.covers(&target.iter().copied().collect(), 9, names)
}

#[test]
fn clean_is_what_compaction_leaves() {
    // Compaction keeps the newest of each key, with holes; heartbeats repeat their key everywhere.
    let clean = scan(
        &[(0, 3, "u/a", Some(1)), (0, 4, "heartbeat", None), (0, 7, "i/x", Some(2)), (0, 9, "heartbeat", None), (1, 4, "heartbeat", None)],
        &nobody,
    );
    assert_eq!(covers(&clean, &[(0, 10), (1, 5)], true), Ok(()));
    assert!(covers(&clean, &[(0, 11)], false).unwrap_err().contains("not read up to offset 11"));
    assert!(covers(&clean, &[(2, 1)], false).is_err(), "a partition that nobody looked at");
}

#[test]
fn a_replaced_row_stands_until_it_is_gone() {
    let records = [(0, 0, "u/a", Some(1)), (0, 1, "u/b", Some(1)), (0, 5, "u/b", Some(2)), (0, 6, "u/a", None), (0, 9, "u/c", Some(3))];
    let found = scan(&records, &nobody);
    assert_eq!(covers(&found, &[(0, 5)], false), Ok(()), "what replaced it came later");
    let left = covers(&found, &[(0, 6)], false).unwrap_err();
    assert!(left.contains("offset 1") && left.contains("at 5"), "{left}");
    assert_eq!(found.obstacles(&[(0, 6)].into(), false), [(0, 1)].into());
    assert!(found.obstacles(&[(0, 5)].into(), false).is_empty());
    let compacted = scan(&records[2..], &nobody);
    assert_eq!(covers(&compacted, &[(0, 10)], false), Ok(()));
    let left = covers(&compacted, &[(0, 10)], true).unwrap_err();
    assert!(left.contains("tombstone at offset 6"), "{left}");
    assert_eq!(compacted.obstacles(&[(0, 10)].into(), true), [(0, 6)].into());
}

#[test]
fn a_gone_row_is_found_without_its_tombstone() {
    let gone = |key: &[u8], generation: Option<u64>| (key == b"u/a" && generation.is_none_or(|generation| generation <= 4)).then_some(4);
    let found = scan(&[(0, 0, "u/a", Some(3)), (0, 1, "u/b", Some(3))], &gone);
    assert!(covers(&found, &[(0, 2)], false).unwrap_err().contains("gone since generation 4"));
    assert_eq!(found.covers(&[(0, 2)].into(), 3, false), Ok(()), "not a matter of an earlier generation");
    let back = scan(&[(0, 0, "u/a", Some(5))], &gone);
    assert_eq!(covers(&back, &[(0, 1)], false), Ok(()), "somebody who came back");
}

#[test]
fn one_key_in_two_partitions_is_no_proof() {
    let found = scan(&[(0, 0, "u/a", Some(3)), (1, 0, "u/a", Some(4))], &nobody);
    assert!(covers(&found, &[(0, 1), (1, 1)], false).unwrap_err().contains("number of partitions"));
}

fn row(key: &str, value: Option<&str>) -> OutRecord {
    let mut record = text("factors", key, value);
    record.headers.push(("generation", b"1".to_vec()));
    record
}

fn send(cluster: &Cluster, records: &[OutRecord]) -> Offsets {
    let mut outlet = Outlet::new(&cluster.settings(&[])).unwrap();
    records.iter().for_each(|record| outlet.send(record).unwrap());
    outlet.flush().unwrap();
    end_offsets(&cluster.settings(&[]), "factors").unwrap().into_iter().map(|((_, partition), end)| (partition, end)).collect()
}

#[test]
fn without_compaction_nothing_is_ever_proven() {
    let cluster = Cluster::new(&[("factors", 2)]);
    let settings = cluster.settings(&[]);
    let mut prover = Prover::new(settings.clone(), "factors".to_owned());
    let look = |prover: &mut Prover, upto: &Offsets| {
        prover.look(&Question { need: upto, upto, names: false, gone: &nobody, go_on: &|| true }).unwrap()
    };
    let first = send(&cluster, &[row("u/a", Some("1")), row("u/b", Some("1")), row("i/x", Some("1"))]);
    assert_eq!(look(&mut prover, &first).covers(&first, 1, false), Ok(()));
    prover.beat().unwrap();
    prover.beat().unwrap();
    let ends = send(&cluster, &[row("u/a", None)]);
    assert_eq!(ends.values().sum::<i64>(), first.values().sum::<i64>() + 1 + 4, "each partition got two heartbeats");
    let found = look(&mut prover, &ends);
    assert!(found.covers(&ends, 1, false).unwrap_err().contains("still has the record"));
    // Nothing has changed: one record is looked at, and the finding stays what it was.
    let later = send(&cluster, &[row("i/x", Some("2")), row("u/b", Some("2"))]);
    let again = prover.look(&Question { need: &ends, upto: &later, names: false, gone: &nobody, go_on: &|| true }).unwrap();
    assert_eq!(again, found);
    let stopped = Prover::new(settings, "factors".to_owned()).look(&Question {
        need: &later,
        upto: &later,
        names: false,
        gone: &nobody,
        go_on: &|| false,
    });
    assert!(matches!(stopped, Err(ProofError::Interrupted { .. })));
}

#[test]
fn readers_see_nothing_of_a_heartbeat() {
    let cluster = Cluster::new(&[("factors", 1)]);
    send(&cluster, &[row("u/a", Some("1"))]);
    Prover::new(cluster.settings(&[]), "factors".to_owned()).beat().unwrap();
    let mut live: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    super::super::read_topic(&cluster.settings(&[]), "factors", None, |record| {
        let key = record.key.unwrap().to_vec();
        match record.payload {
            Some(value) => drop(live.insert(key, value.to_vec())),
            None => assert_eq!(live.remove(&key), None, "a heartbeat removes no row"),
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(live.into_keys().collect::<Vec<_>>(), [b"u/a".to_vec()]);
}

#[test]
fn a_topic_that_is_not_there_is_named() {
    let cluster = Cluster::new(&[("other", 1)]);
    let mut prover = Prover::new(cluster.settings(&[]), "factors".to_owned());
    assert!(prover.beat().unwrap_err().to_string().contains("factors"));
    let upto = Offsets::new();
    let nothing = prover.look(&Question { need: &upto, upto: &upto, names: false, gone: &nobody, go_on: &|| true }).unwrap();
    assert_eq!(nothing.covers(&upto, 1, false), Ok(()), "where nothing was ever written there is nothing to prove");
}

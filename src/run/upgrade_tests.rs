//! States that earlier versions laid down go on. `tests/fixtures/format-1` was written by the last version of format 1: plays of
//! 600 people, three forgets, two generations; the first 1,800 plays in table files, the rest in the log, nothing purged yet.
//! `format-2` is what the last version of that format made of it.

use std::path::Path;
use std::time::Duration;

use super::*;
use crate::config::TopicProof;
use crate::model::step::History;
use crate::model::{Objective, Params};
use crate::run::simulation::*;
use crate::store::rocks::RocksStore;
use crate::store::{EraseStep, Store};

fn play(n: u32) -> String {
    let (user, item) = (n % 600, n * 7 % 40);
    let event_id = if n.is_multiple_of(3) { format!(r#""event_id":"e{n}","#) } else { String::new() };
    format!(r#"{{{event_id}"user":"u{user}","item":"i{item}","value":{},"time":{n}}}"#, 1 + n % 4)
}

/// What the fixture was made of, in the order of its topics.
fn inputs() -> [Vec<String>; 2] {
    let forgets = [
        r#"{"request_id":"r0","user":"u7","time":1800}"#,
        r#"{"request_id":"r1","user":"u300","items":["i20"],"time":1800}"#,
        r#"{"request_id":"r2","user":"u590","time":2000}"#,
    ];
    [(0..2_000).map(play).collect(), forgets.map(str::to_owned).into()]
}

fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
    }
    to
}

#[test]
fn a_state_of_format_1_goes_on() {
    goes_on("format-1");
}

#[test]
fn a_state_of_format_2_goes_on() {
    goes_on("format-2");
}

fn goes_on(format: &str) {
    let dir = copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(format));
    let written = RocksStore::read(dir.path()).err().map(|error| error.to_string());
    assert!(written.is_some_and(|error| error.contains(&format.replace('-', " "))), "the fixture is what its name says");
    let store = Arc::new(RocksStore::open(dir.path()).unwrap());
    let params = Params { rank: 4, tolerance: 1e-4, ..params(Objective::Implicit, 1) };
    let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
    let timing = Generation { max_delay: second, max_events: 100_000, forget_delay: second, interim_after: hour };
    let purge = Purge { interval: hour, proof: TopicProof::None, heartbeat: hour };
    let signing_key = dir.path().join("receipts.pem");
    let mut service = serve(store.clone(), &params, Manner { timing, purge }, &signing_key, 0).unwrap();

    // Somebody who takes in the same events now.
    let mut fresh = World { inputs: inputs(), ..World::default() };
    let (mut anew, mut shell) = open(&fresh, &params, hour);
    for topic in [0, 1] {
        shell.take = (topic, 5_000);
        turn(&mut fresh, &mut anew, &mut shell, 0, false);
    }
    let expected = plays(&anew);
    assert_eq!((plays(&service) == expected, expected.len()), (true, 1_991));
    assert_eq!(service.state().positions(), anew.state().positions());
    let current = service.state().current().unwrap();
    assert_eq!((current.manifest.generation, current.digest.finish()), (2, current.manifest.digest.clone()));

    // All of it comes again, and something new.
    let [mut played, forgets] = inputs();
    played.extend([played.clone(), vec![play(2_000)]].concat());
    let mut world = World { inputs: [played, [forgets.clone(), forgets].concat()], ..World::default() };
    let mut shell = Shell { next: [2_000, 3], ..Shell::default() };
    settle(&mut world, &mut service, &mut shell, &mut 3_000_000);
    let (after, new) = (plays(&service), ("u200".to_owned(), "i0".to_owned()));
    assert!(after.is_superset(&expected) && after.len() == expected.len() + 1, "{} plays", after.len());
    assert!(after.iter().any(|play| (play.0.clone(), play.1.clone()) == new && play.3 == 2_000));
    assert!(service.state().current().unwrap().manifest.generation > 2);
    for id in ["r0", "r1", "r2"] {
        let request = service.tables().request(&key().request(id)).unwrap().unwrap();
        assert_eq!(request.receipt.status, Status::Published);
    }
    let ranges = service.tables.residue().unwrap().ranges;
    assert_eq!(store.erase(&ranges, &|_: EraseStep| true).unwrap().leftover, None);
}

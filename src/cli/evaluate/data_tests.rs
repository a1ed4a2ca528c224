use std::io::Write;

use clap::Parser;

use super::*;
use crate::cli::Exit;
use crate::cli::reading::state;
use crate::cli::state_tests::{config, published};
use crate::store::rocks::RocksStore;
use crate::store::{Batch, Family, Store, plays, rows};

#[derive(Parser)]
struct Command {
    file: String,
    #[command(flatten)]
    input: InputArgs,
}

fn read(name: &str, text: &str, options: &[&str], objective: Objective) -> Result<Data, CliError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
    let Command { file, input } = Command::try_parse_from(["x", path.to_str().unwrap()].iter().chain(options)).unwrap();
    Data::of_file(&file, &input, objective)
}

/// Rows under their names.
pub fn named(data: &Data) -> Vec<(String, String, f32, Millis)> {
    let row = |user: usize| {
        let PairRow { items, values, times } = data.row(user);
        let pairs = items.iter().zip(values).zip(times);
        pairs.map(move |((&item, &value), &time)| (data.users[user].to_string(), data.items[item as usize].to_string(), value, time))
    };
    (0..data.users.len()).flat_map(row).collect()
}

const PLAYS: &str = "user,item,value,time
zoe,film,2,1700000003000
ada,tale,1,1700000001000
zoe,film,3,1700000001000
zoe,alba,1,1700000002000
zoe,film,3,1700000001000
";

#[test]
fn interactions_become_pairs_numbered_by_name() {
    let pair = |user: &str, item: &str, value, time| (user.to_owned(), item.to_owned(), value, time);
    let expected = |film| vec![pair("ada", "tale", 1.0, 1_700_000_001_000), pair("zoe", "alba", 1.0, 1_700_000_002_000), film];
    let strengths = read("p.csv", PLAYS, &[], Objective::Implicit).unwrap();
    assert_eq!(named(&strengths), expected(pair("zoe", "film", 5.0, 1_700_000_003_000)));
    assert_eq!(strengths.items.iter().map(|name| &**name).collect::<Vec<_>>(), ["alba", "film", "tale"]);
    assert_eq!((strengths.pairs(), strengths.interactions), (3, 4));
    let ratings = read("p.csv", PLAYS, &[], Objective::Explicit).unwrap();
    assert_eq!(named(&ratings), expected(pair("zoe", "film", 2.0, 1_700_000_003_000)));
}

#[test]
fn the_order_of_lines_changes_nothing() {
    let (header, lines) = PLAYS.split_once('\n').unwrap();
    let mut lines: Vec<&str> = lines.lines().collect();
    let first = read("p.csv", PLAYS, &[], Objective::Implicit).unwrap();
    for _ in 0..lines.len() {
        lines.rotate_left(1);
        let text = format!("{header}\n{}\n", lines.join("\n"));
        assert_eq!(read("p.csv", &text, &[], Objective::Implicit).unwrap(), first);
    }
}

#[test]
fn an_event_sent_again_later_keeps_its_first_time() {
    let text = r#"{"event_id":"e1","user":"u","item":"a","time":1700000001000}
{"event_id":"e1","user":"u","item":"a","time":1700000009000}
{"event_id":"e2","user":"u","item":"a","time":1700000002000}
"#;
    let data = read("p.jsonl", text, &[], Objective::Implicit).unwrap();
    assert_eq!(named(&data), [("u".to_owned(), "a".to_owned(), 2.0, 1_700_000_002_000)]);
}

#[test]
fn equal_times_of_ratings_are_decided_by_the_event_id() {
    let text = r#"{"event_id":"b","user":"u","item":"a","value":4,"time":1700000001000}
{"event_id":"a","user":"u","item":"a","value":2,"time":1700000001000}
"#;
    let data = read("p.jsonl", text, &[], Objective::Explicit).unwrap();
    assert_eq!(named(&data), [("u".to_owned(), "a".to_owned(), 4.0, 1_700_000_001_000)]);
}

#[test]
fn what_has_no_times_is_refused() {
    let error = read("p.csv", "user,item,value\nu,a,1\n", &[], Objective::Implicit).unwrap_err();
    assert_eq!(error.exit, Exit::Usage);
    assert!(error.message.contains("no column of times") && error.message.contains("--time"), "{}", error.message);
    let lines = "{\"user\":\"u\",\"item\":\"a\",\"time\":1700000001000}\n{\"user\":\"u\",\"item\":\"b\"}\n";
    let error = read("p.jsonl", lines, &[], Objective::Implicit).unwrap_err();
    assert_eq!(error.exit, Exit::Failed);
    assert!(error.message.contains("event 2") && error.message.contains("time"), "{}", error.message);
}

#[test]
fn bad_lines_stop_or_are_left_out() {
    let text = "user,item,value,time\nu,a,NaN,1700000001000\nu,b,1,1700000001000\n";
    let error = read("p.csv", text, &[], Objective::Implicit).unwrap_err();
    assert!(error.message.contains("p.csv:2") && error.message.contains("NaN"), "{}", error.message);
    assert_eq!(read("p.csv", text, &["--skip-bad", "1"], Objective::Implicit).unwrap().pairs(), 1);
    let error = read("p.csv", "u,a,-1,1700000001000\n", &[], Objective::Implicit).unwrap_err();
    assert!(error.message.contains("negative"), "{}", error.message);
}

#[test]
fn an_empty_file_has_no_pairs() {
    let data = read("p.csv", "user,item,value,time\n", &[], Objective::Implicit).unwrap();
    assert_eq!((data.users.len(), data.items.len(), data.pairs()), (0, 0, 0));
}

#[test]
fn a_number_without_a_name_is_a_damaged_state() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), &[]);
    published(&config, 4);
    assert!(Data::of_state(&state(&config).unwrap(), Objective::Implicit).unwrap().pairs() > 0);
    // One beyond all that were given, one whose name is gone.
    for (number, (item, gone)) in (1_000..).zip([(40_000, false), (0, true)]) {
        let store = RocksStore::open(dir.path()).unwrap();
        let mut batch = Batch::default();
        let play = Play { user: 0, item, ident: None, time: 1, value: ordered(1.0) };
        plays::put(&mut batch, &[(play, "")], number);
        if gone {
            plays::take_out(&mut batch, &store, &[Play { item: 40_000, ..play }]).unwrap();
            batch.delete(Family::Identities, &rows::identity_key(Side::Item, item));
        }
        store.write(&batch).unwrap();
        drop(store);
        let error = Data::of_state(&state(&config).unwrap(), Objective::Implicit).unwrap_err();
        assert_eq!(error.exit, Exit::StateDamaged, "{}", error.message);
        let said = if gone { "no name has it" } else { "never given" };
        assert!(error.message.contains(said), "{}", error.message);
    }
}

use std::path::Path;

use clap::Parser;
use pulp::Arch;
use serde_json::Value;

use super::*;
use crate::cli::export_model::{self, ExportModelArgs};
use crate::cli::npy::write_header;
use crate::cli::state_tests::{Written, bytes_of, config, events, published};
use crate::model::digest::LtHash;
use crate::model::receipt::Status;
use crate::model::unlearn::{self, Problem, Unwatched};

#[derive(Parser)]
struct Import {
    #[command(flatten)]
    args: ImportModelArgs,
}

#[derive(Parser)]
struct Export {
    #[command(flatten)]
    args: ExportModelArgs,
}

fn import_with(config: &Config, options: &[&str]) -> Result<Report, CliError> {
    let args = Import::try_parse_from(std::iter::once("import").chain(options.iter().copied())).map_err(CliError::usage)?.args;
    import(config, &args)
}

fn path(folder: &Path, name: &str) -> String {
    folder.join(name).display().to_string()
}

/// Writes rows as `numpy.save` does and their ids beside them.
fn put(folder: &Path, name: &str, rows: &[(String, Vec<f64>)]) -> [String; 2] {
    let (file, ids) = (path(folder, &format!("{name}.npy")), path(folder, &format!("{name}.txt")));
    let mut bytes = Vec::new();
    write_header(&mut bytes, "<f8", &[rows.len(), rows.first().map_or(0, |row| row.1.len())]).unwrap();
    bytes.extend(rows.iter().flat_map(|(_, row)| row).flat_map(|value| value.to_le_bytes()));
    std::fs::write(&file, bytes).unwrap();
    std::fs::write(&ids, rows.iter().map(|(id, _)| format!("{id}\n")).collect::<String>()).unwrap();
    [file, ids]
}

/// Rows of both sides of a model of the same data that minimises something else: other λ, ν, a0, another seed, and other
/// units of the two sides.
fn trained_elsewhere(config: &Config) -> [Vec<(String, Vec<f64>)>; 2] {
    let written = Written::open(config);
    let names = written.state.dictionary();
    let params = crate::model::Params {
        regularization: config.model.regularization * 2.0,
        regularization_exp: 0.5,
        unobserved_weight: 0.3,
        seed: 99,
        tolerance: 1e-4,
        ..config.model.clone()
    };
    let named = |side, row: usize| names.name(side, row as u32).unwrap().to_string();
    let items = 0..written.state.ratings().items.len();
    let first = |item: usize| {
        let name = named(Side::Item, item);
        (item as u32, crate::model::factors::initial_row(params.seed, Side::Item, &name, params.rank))
    };
    let problem =
        Problem { initial: items.map(first).collect(), ratings: written.state.ratings().clone(), previous: None, params: params.clone() };
    let factors = unlearn::solve(Arch::new(), &problem, &Unwatched).unwrap().factors;
    [(Side::User, 3.0), (Side::Item, 1.0 / 3.0)].map(|(side, unit)| {
        let table = factors.side(side);
        // Backwards, so that no order can be right by accident.
        let mut rows: Vec<_> = table.rows().map(|row| (named(side, row), table.raw(row).iter().map(|x| x * unit).collect())).collect();
        rows.reverse();
        rows
    })
}

#[test]
fn what_is_exported_is_at_the_tolerance_when_it_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    for objective in ["implicit", "explicit"] {
        let state = dir.path().join(objective);
        let settings = [("model.objective", objective), ("model.regularization", "0.2"), ("model.tolerance", "1e-6")];
        let config = config(&state, &settings);
        published(&config, 60);
        let mut generation = 1;
        for format in ["npy", "npz", "csv"] {
            for wide in [&[][..], &["--float64"]] {
                let out = dir.path().join(format!("{objective}-{format}-{}", wide.len()));
                let line = [&["export", out.to_str().unwrap(), "--format", format], wide].concat();
                export_model::run(&config, &Export::try_parse_from(line).unwrap().args).unwrap();
                let [users, items] = ["user_ids.txt", "item_ids.txt"].map(|name| path(&out, name));
                let files = match format {
                    "npz" => vec!["--model".to_owned(), path(&out, "model.npz")],
                    _ => vec![
                        "--users".to_owned(),
                        path(&out, &format!("users.{format}")),
                        "--items".to_owned(),
                        path(&out, &format!("items.{format}")),
                    ],
                };
                let mut line: Vec<&str> = files.iter().map(String::as_str).collect();
                if format != "csv" {
                    line.extend(["--user-ids", &users, "--item-ids", &items]);
                }
                line.push("--no-compare");
                let report = import_with(&config, &line).unwrap();
                generation += 1;
                let solved = report.solved.unwrap();
                assert_eq!(solved.generation, generation);
                assert!(solved.certificate.holds() && solved.certificate.sweeps <= 1, "{format}: {:?}", solved.certificate);
                // 32-bit floats have seven digits.
                assert!(report.start.residual <= if wide.is_empty() { 1e-5 } else { 1e-6 }, "{format}: {:?}", report.start);
                assert_eq!((report.users.matched, report.users.missing(), report.items.missing()), (60, 0, 0));
                assert_eq!(Written::open(&config).publish(), 1);
            }
        }
    }
}

#[test]
fn a_model_with_another_objective_arrives_where_a_cold_start_arrives() {
    let dir = tempfile::tempdir().unwrap();
    for objective in ["implicit", "explicit"] {
        let state = dir.path().join(objective);
        let config = config(&state, &[("model.objective", objective), ("model.regularization", "0.2")]);
        published(&config, 60);
        let [mut users, mut items] = trained_elsewhere(&config);
        // Some are not in the files, others not in the state.
        let gone = users.drain(..7).count() as u64;
        items.remove(3);
        items.push(("never seen".to_owned(), vec![1.0; 16]));
        let [user_rows, user_ids] = put(dir.path(), "u", &users);
        let [item_rows, item_ids] = put(dir.path(), "i", &items);
        let both = ["--users", &user_rows, "--user-ids", &user_ids, "--items", &item_rows, "--item-ids", &item_ids];
        let report = import_with(&config, &both).unwrap();
        let (matched, given) = ((report.users.matched, report.users.missing()), (report.items.unknown(), report.items.missing()));
        assert_eq!((matched, given), ((60 - gone, gone), (1, 1)));
        let (cold, solved) = (report.cold.unwrap(), report.solved.clone().unwrap());
        assert!(report.start.residual > 0.1 && solved.certificate.holds() && cold.certified);
        assert!(cold.distance < 1e-6, "{objective}: {cold:?}");
        // The items alone say enough.
        assert_eq!(Written::open(&config).publish(), 1);
        let report = import_with(&config, &["--items", &item_rows, "--item-ids", &item_ids]).unwrap();
        assert!(report.cold.unwrap().distance < 1e-6 && report.users.given == 0 && report.users.missing() == 60);
    }
}

#[test]
fn the_service_finds_the_import_as_a_generation_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir.path().join("state"), &[]);
    published(&config, 60);
    // Not in any generation yet, and asked to be forgotten since.
    {
        let mut written = Written::open(&config);
        written.take(&config.topics.interactions, &[r#"{"user":"late","item":"i1"}"#.to_owned()]);
        written.take(&config.topics.forgets, &[r#"{"request_id":"r","user":"u3"}"#.to_owned()]);
    }
    let [users, items] = trained_elsewhere(&config);
    let [item_rows, item_ids] = put(dir.path(), "i", &items);
    let [user_rows, user_ids] = put(dir.path(), "u", &users);
    let both = ["--users", &user_rows, "--user-ids", &user_ids, "--items", &item_rows, "--item-ids", &item_ids, "--no-compare"];
    import_with(&config, &both).unwrap();

    let mut written = Written::open(&config);
    let current = written.state.current().unwrap().clone();
    assert_eq!((current.manifest.generation, current.manifest.parent), (2, Some(1)));
    assert_eq!((current.manifest.counts.users, current.manifest.requests.as_slice()), (60, &["r".to_owned()][..]));
    assert!(!written.state.is_behind(), "nothing is left to solve");
    assert!(written.state.waiting().values().all(|request| request.receipt.status == Status::Unlearned));
    let mut digest = LtHash::default();
    for side in Side::BOTH {
        let table = current.factors.side(side);
        for row in table.rows() {
            let name = written.state.dictionary().name(side, row as u32).unwrap();
            assert_ne!(&**name, "u3");
            digest.add(side.key(name).as_bytes(), &table.published(row).unwrap());
        }
    }
    assert_eq!(digest.finish(), current.manifest.digest);

    // The rows of a generation that waits are those of the current one: there may be one only.
    drop(written);
    let before = bytes_of(&config.store.path);
    let error = import_with(&config, &both).err().unwrap();
    assert!(error.exit == Exit::Failed && error.message.contains("waits to be published"), "{error}");
    assert!(bytes_of(&config.store.path) == before);
    written = Written::open(&config);
    assert_eq!(written.publish(), 1);
    assert!(written.state.waiting().is_empty());
    drop(written);
    import_with(&config, &both).unwrap();
}

#[test]
fn whatever_is_wrong_leaves_every_byte_of_the_state() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir.path().join("state"), &[]);
    published(&config, 60);
    let [_, items] = trained_elsewhere(&config);
    let [good, ids] = put(dir.path(), "good", &items);
    let before = bytes_of(&config.store.path);
    let nobody: Vec<_> = items.iter().enumerate().map(|(at, (_, row))| (at.to_string(), row.clone())).collect();
    let mut broken = items.clone();
    broken[5].1[2] = f64::NAN;
    let narrow: Vec<_> = items.iter().map(|(id, row)| (id.clone(), row[..8].to_vec())).collect();
    let text = |name: &str, content: &str| {
        std::fs::write(dir.path().join(name), content).unwrap();
        path(dir.path(), name)
    };
    let (short, empty, notes) = (text("short.txt", "i1\ni2\n"), text("empty.npy", ""), text("notes.md", "id,1"));
    let table = text("items.csv", "i1,0.5\n");
    let [nobody_rows, nobody_ids] = put(dir.path(), "nobody", &nobody);
    let [broken_rows, broken_ids] = put(dir.path(), "broken", &broken);
    let [narrow_rows, narrow_ids] = put(dir.path(), "narrow", &narrow);
    let missing = path(dir.path(), "missing.npy");
    let cases: [(&[&str], Exit, &str); 12] = [
        (&["--items", &good], Exit::Usage, "give them with --item-ids"),
        (&["--items", &good, "--item-ids", &short], Exit::Failed, "it has 40 rows and"),
        (&["--items", &missing, "--item-ids", &ids], Exit::Usage, "cannot read"),
        (&["--items", &good, "--item-ids", &missing], Exit::Failed, "missing.npy: it cannot be read"),
        (&["--items", &empty, "--item-ids", &ids], Exit::Failed, "is empty"),
        (&["--items", &notes, "--item-ids", &ids], Exit::Usage, "neither .npy nor .npz"),
        (&["--items", &table, "--item-ids", &ids], Exit::Usage, "leave out --item-ids"),
        (&["--items", &table], Exit::Usage, "--set model.rank=1,"),
        (&["--model", &good, "--item-ids", &ids], Exit::Usage, "is no .npz archive"),
        (&["--items", &nobody_rows, "--item-ids", &nobody_ids], Exit::Failed, "interactions of none of its 40 items"),
        (&["--items", &broken_rows, "--item-ids", &broken_ids], Exit::Failed, "row 5, column 2 (counted from 0) is NaN"),
        (&["--items", &narrow_rows, "--item-ids", &narrow_ids], Exit::Usage, "--set model.rank=8"),
    ];
    for (options, exit, part) in cases {
        let error = import_with(&config, options).err().unwrap();
        assert!(error.message.contains(part), "{part:?} is not in {:?}", error.message);
        assert_eq!(error.exit, exit, "{part}");
    }
    // A dry run asks for no lock and changes nothing either.
    let held = hold(&config.store.path).unwrap();
    let report = import_with(&config, &["--items", &good, "--item-ids", &ids, "--dry-run"]).unwrap();
    assert!(report.solved.is_none() && report.start.residual > 1e-3);
    let error = import_with(&config, &["--items", &good, "--item-ids", &ids]).err().unwrap();
    assert_eq!(error.exit, Exit::StateInUse);
    drop(held);
    assert!(bytes_of(&config.store.path) == before, "a byte of the state changed");
    import_with(&config, &["--items", &good, "--item-ids", &ids, "--no-compare"]).unwrap();
}

#[test]
fn a_state_without_data_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir.path().join("state"), &[]);
    let [rows, ids] = put(dir.path(), "i", &[("i1".to_owned(), vec![0.0; 16])]);
    let line = ["--items", &rows, "--item-ids", &ids];
    let error = import_with(&config, &line).err().unwrap();
    assert!(error.message.contains("holds no state") && !config.store.path.exists(), "{error}");
    drop(Written::open(&config));
    assert!(import_with(&config, &line).err().unwrap().message.contains("no interactions yet"));
    let mut written = Written::open(&config);
    written.take(&config.topics.interactions, &events(4));
    drop(written);
    let other = crate::cli::state_tests::config(&config.store.path, &[("model.objective", "explicit")]);
    assert_eq!(import_with(&other, &line).err().unwrap().exit, Exit::Usage);
    // Zeros are a start too, and the first generation may be an import.
    let report = import_with(&config, &line).unwrap();
    assert_eq!(report.solved.unwrap().generation, 1);
    assert!(report.cold.unwrap().distance < 1e-5);
}

#[test]
fn the_report_says_the_same_to_people_and_machines() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir.path().join("state"), &[]);
    published(&config, 60);
    let [_, items] = trained_elsewhere(&config);
    let [rows, ids] = put(dir.path(), "i", &items);
    let dry = import_with(&config, &["--items", &rows, "--item-ids", &ids, "--dry-run"]).unwrap();
    assert_eq!((&dry.json()["dry_run"], &dry.json()["generation"]), (&Value::Bool(true), &Value::Null));
    assert!(dry.text(false).contains("nothing is changed") && !dry.text(false).contains("sweeps"), "{}", dry.text(false));
    let report = import_with(&config, &["--items", &rows, "--item-ids", &ids]).unwrap();
    let (json, text) = (report.json(), report.text(false));
    assert_eq!((&json["generation"], &json["certified"], &json["items"]["matched"]), (&2.into(), &true.into(), &40.into()));
    assert_eq!(json["cold"]["sweeps"], report.cold.unwrap().sweeps);
    for part in ["missing           60     0", "users are solved from the items", "generation 2 is committed", "cold start", "relative RMS"]
    {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

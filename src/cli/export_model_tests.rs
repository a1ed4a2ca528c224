use std::path::Path;

use clap::Parser;

use super::*;
use crate::cli::npy::Array;
use crate::cli::state_tests::{Written, bytes_of, config, published};

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    args: ExportModelArgs,
}

fn export_to(config: &Config, folder: &Path, options: &[&str]) -> Result<(), CliError> {
    let line = ["export", folder.to_str().unwrap()].into_iter().chain(options.iter().copied());
    run(config, &Command::try_parse_from(line).unwrap().args)
}

fn matrix(mut bytes: &[u8]) -> Vec<Vec<f64>> {
    let (array, _) = Array::read(&mut bytes).unwrap();
    let mut rows = vec![Vec::new(); array.shape[0] as usize];
    array
        .floats(&mut bytes, |row, _, value| {
            rows[row as usize].push(value);
            Ok::<_, crate::cli::npy::NpyError>(())
        })
        .unwrap();
    rows
}

#[test]
fn rows_stand_under_their_ids_in_every_format() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir.path().join("state"), &[]);
    published(&config, 60);
    let out = dir.path().join("model");
    for (format, wide) in [("npy", true), ("npz", true), ("csv", true), ("npy", false), ("npz", false), ("csv", false)] {
        let options = if wide { vec!["--float64"] } else { vec![] };
        export_to(&config, &out, &[&["--format", format, "--force"], &options[..]].concat()).unwrap();
        let written = Written::open(&config);
        for (side, name, ids) in [(Side::User, "user", "user_ids.txt"), (Side::Item, "item", "item_ids.txt")] {
            let (rows, names): (Vec<Vec<f64>>, Vec<String>) = match format {
                "csv" => {
                    let mut table = csv::Reader::from_path(out.join(format!("{name}s.csv"))).unwrap();
                    let records = table.records().map(|record| record.unwrap());
                    records.map(|r| (r.iter().skip(1).map(|x| x.parse().unwrap()).collect(), r[0].to_owned())).unzip()
                }
                _ => {
                    let names = std::fs::read_to_string(out.join(ids)).unwrap().lines().map(str::to_owned).collect();
                    let bytes = match format {
                        "npy" => std::fs::read(out.join(format!("{name}s.npy"))).unwrap(),
                        _ => {
                            let mut archive = zip::ZipArchive::new(File::open(out.join("model.npz")).unwrap()).unwrap();
                            let mut bytes = Vec::new();
                            std::io::copy(&mut archive.by_name(&format!("{name}_factors.npy")).unwrap(), &mut bytes).unwrap();
                            bytes
                        }
                    };
                    (matrix(&bytes), names)
                }
            };
            assert_eq!(names.len(), if side == Side::User { 60 } else { 40 });
            assert!(names.is_sorted());
            for (row, id) in rows.iter().zip(&names) {
                let stored = written.row(side, id);
                // A table of 32-bit numbers has just enough digits to name them.
                let cut = |row: &[f64]| row.iter().map(|&x| if wide { x } else { f64::from(x as f32) }).collect::<Vec<f64>>();
                assert_eq!(cut(row), cut(&stored), "{format} {id}");
                assert!(wide || format == "csv" || cut(row) == *row);
            }
        }
    }
}

#[test]
fn files_that_are_there_stay_and_nothing_is_left_behind() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir.path().join("state"), &[]);
    published(&config, 10);
    let out = dir.path().join("model");
    std::fs::create_dir(&out).unwrap();
    std::fs::write(out.join("items.npy"), "mine").unwrap();
    let error = export_to(&config, &out, &[]).unwrap_err();
    assert!(error.message.contains("items.npy is there already; say --force"), "{error}");
    assert_eq!(bytes_of(&out).len(), 1);
    assert_eq!(std::fs::read(out.join("items.npy")).unwrap(), b"mine");
    export_to(&config, &out, &["--force"]).unwrap();
    let files = bytes_of(&out);
    let names: Vec<&str> = files.iter().filter_map(|(name, _)| Some(name.rsplit_once('/')?.1)).collect();
    assert_eq!(names, ["item_ids.txt", "items.npy", "user_ids.txt", "users.npy"]);
    for (name, _) in &files {
        assert_eq!(std::fs::metadata(name).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
    }
}

#[test]
fn an_id_with_a_line_break_goes_into_a_table_only() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir.path().join("state"), &[]);
    {
        let mut written = Written::open(&config);
        let line = r#"{"user":"two\nlines","item":"with \"quotes\", and more"}"#;
        written.take(&config.topics.interactions, &[line.to_owned()]);
        written.solve();
    }
    let out = dir.path().join("model");
    let error = export_to(&config, &out, &[]).unwrap_err();
    assert!(error.message.contains("\"two\\nlines\"") && error.message.contains("--format csv"), "{error}");
    assert_eq!(bytes_of(&out).len(), 0);
    export_to(&config, &out, &["--format", "csv"]).unwrap();
    let read = |name: &str| csv::Reader::from_path(out.join(name)).unwrap().records().next().unwrap().unwrap()[0].to_owned();
    assert_eq!((read("users.csv").as_str(), read("items.csv").as_str()), ("two\nlines", "with \"quotes\", and more"));
}

#[test]
fn a_state_without_a_model_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir.path().join("state"), &[]);
    drop(Written::open(&config));
    let error = export_to(&config, &dir.path().join("model"), &[]).unwrap_err();
    assert!(error.message.contains("no generation yet"), "{error}");
}

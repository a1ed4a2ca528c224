use clap::Parser;

use super::lines::Format;
use super::*;
use crate::cli::Exit;
use crate::model::Objective;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    args: SendArgs,
}

fn args(options: &[&str]) -> SendArgs {
    Command::try_parse_from(std::iter::once("send").chain(options.iter().copied())).unwrap().args
}

/// Users in the order of their sending, and how it ended.
fn pumped(options: &[&str], text: &str) -> (Vec<String>, Result<Tally, CliError>) {
    let args = args(options);
    let mut lines = Lines::new(text.as_bytes(), args.input.format(&args.file).unwrap(), Objective::Implicit);
    let mut sent = Vec::new();
    let ended = args.input.pump(&args.file, args.limit, &mut lines, &mut |_| (), |event| {
        sent.push(String::from_utf8(event.key).unwrap());
        Ok(())
    });
    (sent, ended)
}

const THREE: &str = "a,i,1,1700000000000\nb,i,x,1700000000000\nc,i,1,1700000000000\n";

#[test]
fn the_first_bad_line_stops_and_is_named() {
    let (sent, ended) = pumped(&["f.csv"], THREE);
    assert_eq!(sent, ["a"]);
    let error = ended.unwrap_err();
    assert_eq!(error.exit, Exit::Failed);
    assert!(error.message.starts_with("f.csv:2: value \"x\"") && error.message.contains("--skip-bad"), "{}", error.message);
}

#[test]
fn tolerated_bad_lines_are_counted() {
    for tolerance in ["1", "all"] {
        let (sent, ended) = pumped(&["f.csv", "--skip-bad", tolerance], THREE);
        assert_eq!(sent, ["a", "c"]);
        assert_eq!(ended.unwrap(), Tally { taken: 2, skipped: 1, bytes: THREE.len() as u64 });
    }
}

#[test]
fn the_limit_counts_what_is_sent() {
    let (sent, ended) = pumped(&["f.csv", "--skip-bad", "all", "--limit", "2"], &THREE.repeat(3));
    assert_eq!(sent, ["a", "c"]);
    assert_eq!(ended.unwrap().skipped, 1);
    assert_eq!(pumped(&["f.csv", "--limit", "0"], THREE).0, Vec::<String>::new());
}

#[test]
fn a_failing_broker_ends_it() {
    let args = args(&["f.csv"]);
    let mut lines = Lines::new(THREE.as_bytes(), args.input.format(&args.file).unwrap(), Objective::Implicit);
    let ended = args.input.pump(&args.file, None, &mut lines, &mut |_| (), |_| Err(CliError::failed("broker away")));
    assert_eq!(ended, Err(CliError::failed("broker away")));
}

#[test]
fn unclear_columns_are_a_usage_error() {
    let (_, ended) = pumped(&["f.csv"], "wer,was,wie\na,b,1\n");
    let error = ended.unwrap_err();
    assert_eq!(error.exit, Exit::Usage);
    assert!(error.message.contains("--user"), "{}", error.message);
}

#[test]
fn formats_by_name_and_by_option() {
    let format = |options: &[&str]| {
        let args = args(options);
        args.input.format(&args.file)
    };
    let delimiter = |options: &[&str]| match format(options).unwrap() {
        Format::Table { delimiter, quoting, .. } => (delimiter, quoting),
        Format::JsonLines => (0, false),
    };
    assert_eq!(delimiter(&["a.CSV"]), (b',', true));
    assert_eq!(delimiter(&["a.inter"]), (b'\t', false));
    assert_eq!(delimiter(&["a.ndjson"]), (0, false));
    assert_eq!(delimiter(&["-", "--format", "tsv"]), (b'\t', false));
    assert_eq!(delimiter(&["a.dat", "--delimiter", ";"]), (b';', true));
    assert_eq!(delimiter(&["a.dat", "--delimiter", "tab"]), (b'\t', false));
    assert_eq!(format(&["-"]).unwrap_err().exit, Exit::Usage);
    assert!(format(&["a.jsonl", "--user", "1"]).unwrap_err().message.contains("as they are"));
}

#[test]
fn contradictions_are_refused() {
    let refused = |options: &[&str]| Command::try_parse_from(std::iter::once("send").chain(options.iter().copied())).is_err();
    assert!(refused(&["f.csv", "--header", "--no-header"]));
    assert!(refused(&["f.csv", "--no-value", "--value", "3"]));
    assert!(refused(&["f.csv", "--user", "0"]));
    assert!(refused(&["f.csv", "--delimiter", "::"]));
    assert!(refused(&["f.csv", "--skip-bad", "some"]));
    assert!(refused(&[]));
}

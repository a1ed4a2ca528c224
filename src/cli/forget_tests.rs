use clap::Parser;
use serde_json::Value;

use super::*;
use crate::cli::Exit;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    args: ForgetArgs,
}

const NOW: Millis = 1_700_000_000_000;

fn parse(options: &[&str]) -> Result<ForgetArgs, clap::Error> {
    Command::try_parse_from(std::iter::once("forget").chain(options.iter().copied())).map(|command| command.args)
}

fn ordered(options: &[&str]) -> Result<Order, CliError> {
    order(&parse(options).unwrap(), NOW, b"unique")
}

fn payload(options: &[&str]) -> Value {
    serde_json::from_slice(&ordered(options).unwrap().payload).unwrap()
}

#[test]
fn every_selector() {
    let person = payload(&["--user", "u\"7"]);
    assert_eq!(person, json!({"type": "forget", "request_id": person["request_id"], "user": "u\"7", "time": NOW}));
    let pair = payload(&["--user", "u7", "--item", "i3", "--item", "i4"]);
    assert_eq!(pair["items"], json!(["i3", "i4"]));
    let window = payload(&["--user", "u7", "--from", "2023-01-01T00:00:00Z", "--to", "1690000000000"]);
    assert_eq!((&window["from"], &window["to"]), (&json!(1_672_531_200_000_i64), &json!(1_690_000_000_000_i64)));
    assert_eq!(payload(&["--user", "u7", "--event-id", "e9"])["event_ids"], json!(["e9"]));
    let everybody = ordered(&["--item", "i3", "--item", "i4", "--everybody"]).unwrap();
    assert_eq!(everybody.key, b"i3");
    assert_eq!(ordered(&["--user", "u7", "--item", "i3"]).unwrap().key, b"u7");
}

#[test]
fn an_own_request_id_makes_the_command_repeatable() {
    let first = order(&parse(&["--user", "u", "--request-id", "case-1"]).unwrap(), NOW, b"a").unwrap();
    let again = order(&parse(&["--user", "u", "--request-id", "case-1"]).unwrap(), NOW + 5000, b"b").unwrap();
    assert_eq!(first, again);
    assert_eq!(first.request_id, "case-1");
    let one = ordered(&["--user", "u"]).unwrap();
    let other = order(&parse(&["--user", "u"]).unwrap(), NOW, b"other").unwrap();
    assert_ne!(one.request_id, other.request_id);
    assert_eq!((&one.request_id[..2], one.request_id.len()), ("f-", 18));
}

#[test]
fn what_the_service_would_refuse_is_not_sent() {
    let refused = |options: &[&str], part: &str| {
        let error = ordered(options).unwrap_err();
        assert_eq!(error.exit, Exit::Usage);
        assert!(error.message.contains(part), "{}", error.message);
    };
    refused(&[], "--user");
    refused(&["--item", "i3"], "--everybody");
    refused(&["--everybody"], "nothing is selected");
    refused(&["--item", "i", "--event-id", "e", "--everybody"], "`event_ids` need the `user`");
    refused(&["--user", ""], "invalid_id");
    refused(&["--user", "u", "--to", "1800000000000"], "future_forget");
    refused(&["--user", "u", "--from", "1600000000000", "--to", "1500000000000"], "window is empty");
    refused(&["--user", "u", "--request-id", ""], "invalid_id");
}

#[test]
fn the_command_line_guards() {
    assert!(parse(&["--item", "i", "--event-id", "e"]).is_err());
    assert!(parse(&["--user", "u", "--everybody"]).is_err());
    assert!(parse(&["--user", "u", "--from", "yesterday"]).is_err());
    assert!(parse(&["--user", "u", "--wait", "done"]).is_err());
    assert!(parse(&["--user", "u", "--timeout", "0s"]).is_err());
    let args = parse(&["--user", "u", "--wait", "published", "--timeout", "1m30s"]).unwrap();
    assert_eq!((args.wait, args.timeout), (Some(Stage::Published), Duration::from_secs(90)));
}

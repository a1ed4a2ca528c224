use clap::CommandFactory;

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("nepenthe").chain(line.split_whitespace()))
}

#[test]
fn every_argument_is_well_defined() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_of_the_contract_is_there() {
    let command = Cli::command();
    let contract = ["run", "demo", "topics", "send", "forget", "recommend", "similar", "status", "verify", "audit", "config"];
    for name in contract.into_iter().chain(["evaluate", "keys", "receipt"]) {
        assert!(command.find_subcommand(name).is_some(), "{name}");
    }
}

#[test]
fn global_options_go_before_and_after_the_command() {
    let expected = [("log.level", "debug"), ("model.rank", "8"), ("model.seed", "a=b"), ("kafka.brokers", "h:1"), ("store.path", "dir")];
    let expected: Vec<(String, String)> = expected.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
    for line in [
        "-v --set model.rank=8 --set model.seed=a=b --brokers h:1 --state dir config",
        "config --brokers h:1 --state dir --set model.rank=8 --set model.seed=a=b -v",
    ] {
        assert_eq!(parse(line).unwrap().global.overrides().unwrap(), expected, "{line}");
    }
    assert_eq!(parse("run").unwrap().global.overrides().unwrap(), []);
    let refused = parse("run --set hunter2").unwrap().global.overrides().unwrap_err().to_string();
    assert!(refused.contains("name=value") && !refused.contains("hunter2"), "it may be a secret: {refused}");
}

#[test]
fn a_wrong_command_line_has_the_exit_code_of_usage() {
    for line in
        ["", "fly", "run --fast", "recommend", "recommend u -n 0", "similar i -n 1001", "topics --partitions 0", "forget --wait nothing"]
    {
        assert_eq!(parse(line).unwrap_err().exit_code(), Exit::Usage as i32, "{line}");
    }
    for line in ["--help", "--version", "send --help"] {
        assert_eq!(parse(line).unwrap_err().exit_code(), 0, "{line}");
    }
}

#[test]
fn top_n_is_ten_unless_said() {
    let n = |line: &str| match parse(line).unwrap().command {
        Command::Recommend(args) => args.n,
        Command::Similar(args) => args.n,
        other => unreachable!("{other:?}"),
    };
    assert_eq!((n("recommend u"), n("recommend u -n 3"), n("similar i --number 1000")), (10, 3, 1000));
}

#[test]
fn exit_codes_are_those_of_the_contract() {
    let codes = [Exit::Done, Exit::Failed, Exit::Usage, Exit::StateInUse, Exit::StateDamaged].map(|exit| exit as u8);
    assert_eq!(codes, [0, 1, 2, 3, 4]);
}

#[test]
fn what_the_kafka_room_refuses_is_refused_where_it_was_given() {
    for (property, _, _) in crate::kafka::client::REFUSED {
        let overrides = vec![(format!("kafka.properties.{property}"), "x".to_owned())];
        let refused = Config::load(&Sources { overrides, ..Sources::default() }).unwrap_err().to_string();
        assert!(refused.starts_with(&format!("command line: kafka.properties.{property} is refused")), "{refused}");
    }
}

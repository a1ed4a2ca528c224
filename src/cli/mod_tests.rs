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
    for name in contract.into_iter().chain(["evaluate", "keys", "receipt", "completions", "man"]) {
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

/// Every command that does something, under the words by which it is called.
fn commands() -> Vec<(String, clap::Command)> {
    let mut waiting = vec![("nepenthe".to_owned(), Cli::command())];
    let mut found = Vec::new();
    while let Some((words, command)) = waiting.pop() {
        waiting.extend(command.get_subcommands().map(|below| (format!("{words} {}", below.get_name()), below.clone())));
        found.push((words, command));
    }
    found
}

/// The commands of ours in a line of a help text, without what follows them: redirections, pipes and words of explanation.
fn examples(help: &str) -> Vec<String> {
    let lines = help.lines().filter(|line| line.starts_with("  ")).map(str::trim);
    let commands = lines.flat_map(|line| line.split(" | ").flat_map(|part| part.split(" && ")).collect::<Vec<_>>());
    let ours = commands.filter(|command| command.trim_start().starts_with("nepenthe "));
    let bare = |command: &str| {
        let ends = ["  ", " > ", " >> "].iter().filter_map(|end| command.find(end)).min();
        command[..ends.unwrap_or(command.len())].trim().to_owned()
    };
    ours.map(|command| bare(command.trim_start())).collect()
}

#[test]
fn every_command_has_examples_that_can_be_typed() {
    for (words, command) in commands() {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let examples = examples(&help);
        assert!(help.contains("Example") && !examples.is_empty(), "{words} has no example");
        for example in &examples {
            let parsed = Cli::try_parse_from(example.split_whitespace());
            assert!(parsed.is_ok(), "{words}: `{example}`: {}", parsed.unwrap_err());
        }
        assert!(examples.iter().any(|example| example.starts_with(&words)), "{words} is in none of its examples");
    }
}

#[test]
fn every_result_can_be_had_as_json() {
    let without = [
        ("nepenthe run", "has no result"),
        ("nepenthe demo", "is a show; its exit code says whether every claim held"),
        ("nepenthe forget", "answers in JSON in any case"),
        ("nepenthe completions", "is for a shell"),
        ("nepenthe man", "is for man"),
    ];
    for (words, command) in commands() {
        let json = command.get_arguments().any(|argument| argument.get_id() == "json");
        let excused = without.iter().any(|(name, _)| *name == words) || command.get_subcommands().next().is_some();
        assert!(json || excused, "{words} has no --json");
        assert!(!json || !without.iter().any(|(name, _)| *name == words), "{words} has --json, and a reason why not");
    }
}

#[test]
fn a_watch_has_a_pace_and_no_digest() {
    let status = |line: &str| match parse(line).unwrap().command {
        Command::Status(args) => (args.watch, args.every),
        other => unreachable!("{other:?}"),
    };
    assert_eq!(status("status"), (false, Duration::from_secs(2)));
    assert_eq!(status("status --watch --every 500ms"), (true, Duration::from_millis(500)));
    for line in ["status --every 5s", "status --watch --data-digest", "status --watch --every 0s"] {
        assert_eq!(parse(line).unwrap_err().exit_code(), Exit::Usage as i32, "{line}");
    }
}

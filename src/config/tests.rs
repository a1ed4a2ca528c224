use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::*;

/// The defaults under `file`, environment and options.
fn load(file: &str, env: &[(&str, &str)], options: &[(&str, &str)]) -> Result<Config, String> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("nepenthe.toml");
    fs::write(&path, file).unwrap();
    let owned = |pairs: &[(&str, &str)]| pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    let sources = Sources { file: Some(path), env: owned(env), overrides: owned(options) };
    let shorter = format!("{}/", folder.path().display());
    Config::load(&sources).map_err(|error| error.to_string().replace(&shorter, ""))
}

fn set(key: &str, value: &str) -> Result<Config, String> {
    load("", &[], &[(key, value)])
}

fn defaults() -> Config {
    Config::load(&Sources::default()).unwrap()
}

#[test]
fn the_defaults_are_those_of_the_contract() {
    let config = defaults();
    assert_eq!(config.kafka.brokers, "127.0.0.1:9092");
    assert_eq!(config.kafka.group, "nepenthe");
    assert!(config.kafka.transactions && config.kafka.properties.is_empty());
    assert_eq!(config.topics.interactions, "nepenthe.interactions");
    assert_eq!(config.topics.dead_letters, "nepenthe.dead-letters");
    let model = Params {
        objective: Objective::Implicit,
        rank: 64,
        regularization: 0.02,
        regularization_exp: 1.0,
        alpha: 1.0,
        unobserved_weight: 1.0,
        tolerance: 1e-7,
        certify: Certify::Residual,
        max_sweeps: 1000,
        seed: 42,
        threads: 0,
    };
    assert_eq!(config.model, model);
    assert_eq!(config.generation.max_delay, Duration::from_secs(60));
    assert_eq!(config.generation.max_events, 100_000);
    assert_eq!(config.generation.forget_delay, Duration::from_millis(100));
    assert_eq!(config.generation.interim_after, Duration::from_secs(1));
    assert_eq!(config.store.path, Path::new("state"));
    assert_eq!(config.receipts.signing_key, None);
    assert_eq!(config.receipts.published_within, Duration::from_secs(300));
    assert_eq!(config.receipts.purged_within, Duration::from_secs(3600));
    assert_eq!((config.purge.interval, config.purge.heartbeat), (Duration::from_secs(10), Duration::from_secs(60)));
    assert_eq!(config.keep, Keep::default());
    assert_eq!(config.purge.proof, TopicProof::Rows);
    assert_eq!(config.http.listen.to_string(), "127.0.0.1:9464");
    assert_eq!((config.log.level.as_str(), config.log.format), ("info", LogFormat::Text));
}

#[test]
fn the_usual_regularization_depends_on_the_objective() {
    assert_eq!(set("model.objective", "explicit").unwrap().model.regularization, 0.12);
    let both = load("[model]\nobjective = \"explicit\"\nregularization = 2\n", &[], &[]).unwrap();
    assert_eq!(both.model.regularization, 2.0);
}

#[test]
fn options_are_stronger_than_environment_than_file_than_defaults() {
    let file = "[model]\nrank = 8\nseed = 1\nthreads = 2\n";
    let env = [("NEPENTHE__MODEL__RANK", "16"), ("NEPENTHE__MODEL__SEED", "2")];
    let model = load(file, &env, &[("model.rank", "24"), ("model.rank", "32")]).unwrap().model;
    assert_eq!((model.rank, model.seed, model.threads, model.max_sweeps), (32, 2, 2, 1000));
}

#[test]
fn the_environment_takes_bare_and_quoted_words() {
    let env = [
        ("NEPENTHE__KAFKA__GROUP", "123"),
        ("NEPENTHE__STORE__PATH", "\"a dir\""),
        ("NEPENTHE__KAFKA__TRANSACTIONS", "false"),
        ("NEPENTHE__GENERATION__MAX_DELAY", "1h"),
        ("NEPENTHE__LOG__FORMAT", "json"),
        ("NEPENTHE__MODEL__TOLERANCE", "1e-9"),
        ("NEPENTHE__MODEL__ALPHA", "40"),
        ("NEPENTHE__RECEIPTS__SIGNING_KEY", ""),
        ("NEPENTHE_PORT", "tcp://10.0.0.1:80"),
        ("PATH", "elsewhere"),
    ];
    let config = load("", &env, &[]).unwrap();
    assert_eq!(config.kafka.group, "123");
    assert_eq!(config.store.path, Path::new("a dir"));
    assert!(!config.kafka.transactions);
    assert_eq!(config.generation.max_delay, Duration::from_secs(3600));
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!((config.model.tolerance, config.model.alpha), (1e-9, 40.0));
    assert_eq!(config.receipts.signing_key, None);
}

#[test]
fn librdkafka_properties_come_from_every_source() {
    let file = "[kafka.properties]\nsasl.mechanism = \"PLAIN\"\n\"client.id\" = \"a\"\nsocket.keepalive.enable = true\nlinger.ms = 2.5\n";
    let env = [("NEPENTHE__KAFKA__PROPERTIES__SSL_CA_LOCATION", "/ca.pem"), ("NEPENTHE__KAFKA__PROPERTIES__client.id", "b")];
    let properties = load(file, &env, &[("kafka.properties.fetch.wait.max.ms", "20")]).unwrap().kafka.properties;
    let expected = [
        ("client.id", "b"),
        ("fetch.wait.max.ms", "20"),
        ("linger.ms", "2.5"),
        ("sasl.mechanism", "PLAIN"),
        ("socket.keepalive.enable", "true"),
        ("ssl.ca.location", "/ca.pem"),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(properties, BTreeMap::from(expected));
}

#[test]
fn brokers_are_a_clean_list() {
    assert_eq!(set("kafka.brokers", "a:1, b-2.example:9092 ,[::1]:9093").unwrap().kafka.brokers, "a:1,b-2.example:9092,[::1]:9093");
}

#[test]
fn interactions_and_forgets_may_share_a_topic() {
    let topics = load("", &[], &[("topics.interactions", "events"), ("topics.forgets", "events")]).unwrap().topics;
    assert_eq!(topics.interactions, topics.forgets);
}

#[test]
fn a_value_out_of_range_is_refused_with_what_is_allowed() {
    let cases = [
        ("kafka.brokers", "", "one or more host:port"),
        ("kafka.brokers", "a:9092,,b:9092", "one or more host:port"),
        ("kafka.brokers", "broker", "one or more host:port"),
        ("kafka.brokers", "broker:0", "one or more host:port"),
        ("kafka.brokers", "SSL://broker:9092", "one or more host:port"),
        ("kafka.group", "", "a string of 1 to 255 bytes"),
        ("kafka.transactions", "yes", "true or false"),
        ("topics.factors", "a b", "a topic name"),
        ("topics.factors", "..", "a topic name"),
        ("topics.factors", "", "a topic name"),
        ("model.objective", "Implicit", "\"implicit\" or \"explicit\""),
        ("model.rank", "0", "an integer from 1 to 1024"),
        ("model.rank", "1025", "an integer from 1 to 1024"),
        ("model.rank", "8.5", "an integer from 1 to 1024"),
        ("model.rank", "many", "an integer from 1 to 1024"),
        ("model.regularization", "0", "a number above 0"),
        ("model.regularization", "nan", "a number above 0"),
        ("model.regularization", "inf", "a number above 0"),
        ("model.regularization_exp", "2.1", "a number from 0 to 2"),
        ("model.alpha", "-1", "a number of at least 0"),
        ("model.unobserved_weight", "0.0", "a number above 0"),
        ("model.tolerance", "0.2", "a number from 1e-12 to 1e-1"),
        ("model.tolerance", "1e-13", "a number from 1e-12 to 1e-1"),
        ("model.max_sweeps", "0", "an integer from 1 to 100000"),
        ("model.seed", "-1", "an integer from 0 to 9223372036854775807"),
        ("model.threads", "1025", "an integer from 0 to 1024"),
        ("generation.max_delay", "60", "a duration from 1ms to 168h"),
        ("generation.max_delay", "0s", "a duration from 1ms to 168h"),
        ("generation.max_delay", "-5s", "a duration from 1ms to 168h"),
        ("generation.max_delay", "1000h", "a duration from 1ms to 168h"),
        ("generation.max_events", "0", "an integer from 1 to"),
        ("generation.forget_delay", "soon", "a duration from 0ms to 168h"),
        ("generation.interim_after", "200h", "a duration from 0ms to 168h"),
        ("receipts.published_within", "0s", "a duration from 1ms to 720h"),
        ("receipts.purged_within", "721h", "a duration from 1ms to 720h"),
        ("store.path", "", "a string of 1 to 4096 bytes"),
        ("store.fence_retention", "never", "\"forever\", or a duration from 1h to 876600h"),
        ("store.backup_retention", "59m", "\"forever\", or a duration from 1h to 876600h"),
        ("http.listen", "localhost:9464", "an IP address and a port"),
        ("http.listen", "0.0.0.0:9464", "a loopback address, or http.token_file"),
        ("log.level", "inof", "off, error, warn"),
        ("log.level", "nepenthe=loud", "off, error, warn"),
        ("log.format", "xml", "\"text\" or \"json\""),
    ];
    for (key, value, expected) in cases {
        let message = set(key, value).expect_err(key);
        let start = format!("command line: {key} = {value:?} is refused: it must be ");
        assert!(message.starts_with(&start) && message.contains(expected), "{message}");
    }
}

#[test]
fn every_setting_has_limits_at_which_it_still_works() {
    let limits = [
        ("model.rank", "1024"),
        ("model.tolerance", "1e-12"),
        ("model.tolerance", "0.1"),
        ("model.max_sweeps", "100000"),
        ("model.seed", "9223372036854775807"),
        ("generation.max_delay", "1ms"),
        ("generation.max_delay", "168h"),
        ("generation.forget_delay", "0s"),
        ("store.fence_retention", "876600h"),
        ("store.backup_retention", "1h"),
        ("log.level", "info,nepenthe::kafka=debug"),
        ("log.level", "OFF"),
        ("http.listen", "[::1]:0"),
    ];
    limits.iter().for_each(|(key, value)| drop(set(key, value).expect(key)));
}

#[test]
fn pages_beyond_loopback_need_a_token() {
    let open = load("[http]\nlisten = \"[::]:9464\"\n", &[], &[]).unwrap_err();
    assert!(open.starts_with("nepenthe.toml:2: http.listen") && open.contains("http.token_file"), "{open}");
    let guarded = load("[http]\nlisten = \"[::]:9464\"\ntoken_file = \"/run/secrets/token\"\n", &[], &[]).unwrap();
    assert_eq!(guarded.http.token_file, Some("/run/secrets/token".into()));
    assert!(guarded.to_toml().contains("token_file = \"/run/secrets/token\""));
}

#[test]
fn a_refusal_names_the_place() {
    let file = load("# first\n[model]\nseed = 1\n\nrank = \"many\"\n", &[], &[]).unwrap_err();
    assert_eq!(file, "nepenthe.toml:5: model.rank = \"many\" is refused: it must be an integer from 1 to 1024");
    let variable = load("", &[("NEPENTHE__MODEL__RANK", "0")], &[]).unwrap_err();
    assert!(variable.starts_with("environment variable NEPENTHE__MODEL__RANK: model.rank = \"0\" is refused"), "{variable}");
    let kind = load("[kafka]\ngroup = 5\n", &[], &[]).unwrap_err();
    assert!(kind.starts_with("nepenthe.toml:2: kafka.group = 5 is refused: it must be a string"), "{kind}");
}

#[test]
fn an_unknown_name_is_refused_with_the_one_meant() {
    let cases = [
        ("[model]\nrnak = 3\n", "nepenthe.toml:2: unknown setting model.rnak; did you mean model.rank?"),
        ("rank = 3\n", "nepenthe.toml:1: unknown setting rank; did you mean model.rank?"),
        ("[models]\n", "nepenthe.toml:1: unknown setting models; did you mean model?"),
        ("[model.rank]\nvalue = 3\n", "nepenthe.toml:1: unknown setting model.rank; model.rank is a value and no table"),
        ("[weather]\nrain = 3\n", "nepenthe.toml:1: unknown setting weather; `nepenthe config` prints all of them"),
        ("kafka = 3\n", "nepenthe.toml:1: unknown setting kafka; kafka is a table: name a setting in it"),
        (
            "[kafka]\nproperties = 3\n",
            "nepenthe.toml:2: unknown setting kafka.properties; kafka.properties is a table: name a setting in it",
        ),
    ];
    for (file, message) in cases {
        assert_eq!(load(file, &[], &[]).unwrap_err(), message);
    }
    let variable = load("", &[("NEPENTHE__MODEL__RNAK", "3")], &[]).unwrap_err();
    let meant = "unknown setting model.rnak; did you mean NEPENTHE__MODEL__RANK?";
    assert_eq!(variable, format!("environment variable NEPENTHE__MODEL__RNAK: {meant}"));
    assert_eq!(set("seed", "3").unwrap_err(), "command line: unknown setting seed; did you mean model.seed?");
}

#[test]
fn an_output_topic_must_be_its_own() {
    let inputs = load("[topics]\nfactors = \"nepenthe.forgets\"\n", &[], &[]).unwrap_err();
    let both = "topics.factors and topics.forgets are both \"nepenthe.forgets\"; an output topic must have a name of its own";
    assert_eq!(inputs, format!("nepenthe.toml:2: {both}"));
    let outputs = set("topics.generations", "nepenthe.receipts").unwrap_err();
    assert!(outputs.starts_with("command line: topics.receipts and topics.generations are both"), "{outputs}");
}

#[test]
fn what_runs_foreign_code_or_is_not_the_operators_is_refused() {
    let cases = [
        ("plugin.library.paths", "foreign code"),
        ("sasl.kerberos.kinit.cmd", "foreign code"),
        ("ssl.engine.location", "foreign code"),
        ("bootstrap.servers", "kafka.brokers"),
        ("group.id", "kafka.group"),
        ("enable.auto.commit", "offsets"),
        ("transactional.id", "kafka.transactions"),
        ("acks", "guarantees"),
    ];
    for (name, why) in cases {
        let message = set(&format!("kafka.properties.{name}"), "x").unwrap_err();
        assert!(message.starts_with(&format!("command line: kafka.properties.{name} is refused: ")) && message.contains(why), "{message}");
    }
    let list = load("[kafka.properties]\n\"client.id\" = [1]\n", &[], &[]).unwrap_err();
    assert!(list.contains("it must be a string, a number or a boolean"), "{list}");
}

#[test]
fn a_file_that_cannot_be_used_says_so() {
    let missing = Sources { file: Some("nowhere/nepenthe.toml".into()), ..Sources::default() };
    let message = Config::load(&missing).unwrap_err().to_string();
    assert!(message.starts_with("cannot read the configuration file nowhere/nepenthe.toml: "), "{message}");
    let broken = load("[kafka]\ngroup = \"a\"\n\"sasl.password\" = \"hunter2\n", &[], &[]).unwrap_err();
    assert!(broken.starts_with("nepenthe.toml:3: not valid TOML: ") && !broken.contains("hunter2"), "{broken}");
    let twice = load("[model]\nrank = 1\nrank = 2\n", &[], &[]).unwrap_err();
    assert!(twice.starts_with("nepenthe.toml:3: not valid TOML: duplicate key"), "{twice}");
}

#[test]
fn secrets_are_shown_nowhere() {
    let names = ["sasl.password", "ssl.key.pem", "ssl.key.password", "sasl.oauthbearer.client.secret", "ssl.keystore.password"];
    let options: Vec<_> = names.iter().map(|name| (format!("kafka.properties.{name}"), "hunter2")).collect();
    let options: Vec<_> = options.iter().map(|(key, value)| (key.as_str(), *value)).collect();
    let config = load("[kafka.properties]\n\"sasl.username\" = \"me\"\n", &[], &options).unwrap();
    assert!(config.kafka.properties.values().filter(|value| *value == "hunter2").count() == names.len());
    for shown in [format!("{config:?}"), config.to_toml(), config.to_json().to_string()] {
        assert!(!shown.contains("hunter2") && shown.contains("(hidden)") && shown.contains("me"), "{shown}");
    }
    let list = load("[kafka.properties]\n\"sasl.password\" = [\"hunter2\"]\n", &[], &[]).unwrap_err();
    assert!(list.contains("kafka.properties.sasl.password = (hidden)") && !list.contains("hunter2"), "{list}");
    let url = set("kafka.brokers", "me:hunter2@broker:9092").unwrap_err();
    assert!(!url.contains("hunter2"), "{url}");
    assert!(!assignment("hunter2").unwrap_err().to_string().contains("hunter2"));
}

#[test]
fn a_secret_may_be_in_a_file() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("password");
    fs::write(&path, "hunter2\n").unwrap();
    let given = format!("file:{}", path.display());
    let config = load("", &[("NEPENTHE__KAFKA__PROPERTIES__SASL_PASSWORD", &given)], &[("kafka.properties.client.id", "file:x")]).unwrap();
    assert_eq!(config.kafka.properties["sasl.password"], "hunter2");
    assert_eq!(config.kafka.properties["client.id"], "file:x");
    let message = set("kafka.properties.sasl.password", "file:nowhere/password").unwrap_err();
    assert!(message.contains("kafka.properties.sasl.password: cannot read the secret from nowhere/password"), "{message}");
}

#[test]
fn what_is_printed_can_be_read_again() {
    let options = [
        ("kafka.properties.ssl.ca.location", "/ca.pem"),
        ("generation.max_delay", "90s"),
        ("receipts.signing_key", "keys/a.pem"),
        ("model.tolerance", "1e-9"),
    ];
    let config = load("", &[], &options).unwrap();
    let again = load(&config.to_toml(), &[], &[]).unwrap();
    assert_eq!(format!("{config:?}"), format!("{again:?}"));
    assert_eq!(config.to_json()["kafka"]["properties"]["ssl.ca.location"], "/ca.pem");
}

#[test]
fn the_embedded_file_describes_every_setting() {
    let text = include_str!("../default.toml");
    for key in layers::OPTIONAL {
        let name = key.rsplit('.').next().unwrap();
        assert!(text.contains(&format!("\n# {name} = ")), "{key} is not described");
    }
    let is_setting = |line: &str| line.split_once(" = ").is_some_and(|(name, _)| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
    let lines: Vec<_> = text.lines().collect();
    for pair in lines.windows(2).filter(|pair| is_setting(pair[1])) {
        assert!(pair[0].starts_with("# "), "{} has no comment", pair[1]);
    }
}

#[test]
fn an_assignment_is_split_at_the_first_equals_sign() {
    assert_eq!(assignment("log.level=info,a=debug").unwrap(), ("log.level".into(), "info,a=debug".into()));
    assert!(assignment("=3").is_err() && assignment("model.rank").is_err());
}

#[test]
fn fuzz_configurations() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("nepenthe.toml");
    let seeds = [
        include_str!("../default.toml"),
        "[kafka]\nbrokers = \"a:1,[::1]:9093\"\n[kafka.properties]\n\"sasl.password\" = \"hunter2\"\nlinger.ms = 2.5\n",
        "model = { rank = 8, regularization = 1e-3, objective = 'explicit' }\nhttp.listen = \"[::1]:0\"\n",
        "[generation]\nmax_delay = \"1h30m\"\nmax_events = 9_000\n[log]\nlevel = \"info,nepenthe::kafka=debug\"\n",
    ];
    crate::fuzz::fuzz_costly("configurations", &seeds, |bytes| {
        fs::write(&path, bytes).unwrap();
        let file = Sources { file: Some(path.clone()), ..Sources::default() };
        let text = String::from_utf8_lossy(bytes);
        // The same text as values of settings.
        let pairs = text.lines().filter_map(|line| assignment(line).ok());
        let options = Sources { overrides: pairs.clone().collect(), ..Sources::default() };
        let env =
            Sources { env: pairs.map(|(key, value)| (format!("NEPENTHE__{}", key.to_uppercase()), value)).collect(), ..Sources::default() };
        for sources in [file, options, env] {
            if let Ok(config) = Config::load(&sources) {
                let again = load(&config.to_toml(), &[], &[]);
                assert!(again.is_ok(), "what is printed can be read again: {again:?}");
                let mut open = config.clone();
                let secret = open.kafka.properties.remove("sasl.password").is_some_and(|value| value.contains("hunter2"));
                if secret && !format!("{open:?}").contains("hunter2") {
                    assert!(!format!("{config:?}{}", config.to_toml()).contains("hunter2"));
                }
            }
        }
    });
}

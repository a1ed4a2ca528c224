//! What must not be seen: passwords and tokens, in whatever is printed, and names of people and things, in whatever the service
//! says about itself. On a real Kafka, once with TLS and SASL.

#[path = "../examples/real/child.rs"]
mod child;
#[path = "support/kafka.rs"]
mod kafka;
#[path = "../examples/support/process.rs"]
mod process;

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use child::Installation;
use kafka::{Kafka, consume_all, create_topic, produce_lines, unique};
use serde_json::{Value, json};
use tempfile::TempDir;

/// 24 random bytes as text.
fn canary() -> String {
    let mut bytes = [0; 24];
    File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).expect("random bytes");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn openssl(dir: &Path, arguments: &str) {
    let output = Command::new("openssl").current_dir(dir).args(arguments.split(' ')).output().expect("openssl: scripts/setup installs it");
    assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A broker with a second way in, for those who trust its certificate and know the password.
struct Secured {
    broker: Kafka,
    address: String,
    /// Certificates, the password and a token, a file each.
    files: TempDir,
    password: String,
}

const USER: &str = "nepenthe";

impl Secured {
    fn start() -> Secured {
        let (files, password) = (TempDir::new().expect("a directory"), canary());
        for name in ["ca", "other"] {
            openssl(
                files.path(),
                &format!("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={name} -keyout {name}.key -out {name}.pem"),
            );
        }
        let names = "subjectAltName=DNS:localhost,IP:127.0.0.1";
        openssl(
            files.path(),
            &format!("req -newkey rsa:2048 -nodes -subj /CN=localhost -addext {names} -keyout server.key -out server.csr"),
        );
        openssl(
            files.path(),
            "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -copy_extensions copy -out server.crt",
        );
        let part = |name: &str| fs::read_to_string(files.path().join(name)).expect("a part of the key store");
        let store = files.path().join("server.pem");
        fs::write(&store, part("server.key") + &part("server.crt")).expect("a key store");
        let port = process::free_address().expect("a port").port();
        let module = "org.apache.kafka.common.security";
        let more = format!(
            "listeners=PLAINTEXT://127.0.0.1:@PORT@,SASL_SSL://127.0.0.1:{port},CONTROLLER://127.0.0.1:@CONTROLLER@\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:@PORT@,SASL_SSL://localhost:{port}\n\
             listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL\n\
             sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512\n\
             listener.name.sasl_ssl.plain.sasl.jaas.config={module}.plain.PlainLoginModule required user_{USER}=\"{password}\";\n\
             listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config={module}.scram.ScramLoginModule required;\n\
             listener.name.sasl_ssl.ssl.keystore.type=PEM\n\
             listener.name.sasl_ssl.ssl.keystore.location={}\n",
            store.display()
        );
        let broker = Kafka::start_with(more);
        let scram = format!("SCRAM-SHA-512=[password={password}]");
        let arguments = ["--bootstrap-server", broker.brokers(), "--alter", "--add-config", &scram, "--entity-type", "users"];
        Kafka::tool("kafka.admin.ConfigCommand", &[&arguments[..], &["--entity-name", USER]].concat());
        fs::write(files.path().join("password"), format!("{password}\n")).expect("a password");
        Secured { broker, address: format!("localhost:{port}"), files, password }
    }

    fn file(&self, name: &str) -> String {
        self.files.path().join(name).display().to_string()
    }

    /// Everything but the password.
    fn settings(&self, mechanism: &str) -> Vec<String> {
        let ca = self.file("ca.pem");
        let properties = [
            "security.protocol=SASL_SSL".to_owned(),
            format!("sasl.mechanism={mechanism}"),
            format!("sasl.username={USER}"),
            format!("ssl.ca.location={ca}"),
            "broker.address.family=v4".to_owned(),
            // All that librdkafka can be made to say.
            "debug=all".to_owned(),
        ];
        properties.into_iter().map(|property| format!("kafka.properties.{property}")).collect()
    }
}

/// Everything that commands and the service have printed.
#[derive(Default)]
struct Transcript {
    text: String,
    logs: Vec<PathBuf>,
}

impl Transcript {
    fn note(&mut self, output: Output) -> Option<i32> {
        self.text.push_str(&String::from_utf8_lossy(&output.stdout));
        self.text.push_str(&String::from_utf8_lossy(&output.stderr));
        output.status.code()
    }

    fn run(&mut self, command: &mut Command) -> Option<i32> {
        let output = command.stdin(Stdio::null()).output().expect("the binary runs");
        self.note(output)
    }

    /// Starts the service with its words in a file.
    fn serve(&mut self, command: &mut Command, log: PathBuf) -> Serving {
        let file = File::create(&log).expect("a log");
        self.logs.push(log);
        let command = command.stdin(Stdio::null()).stdout(file.try_clone().expect("a second handle")).stderr(file);
        Serving(command.spawn().expect("the service starts"))
    }

    fn all(&self) -> String {
        self.logs.iter().fold(self.text.clone(), |text, log| text + &fs::read_to_string(log).expect("a log"))
    }
}

/// A running service, which does not outlive the test.
struct Serving(Child);

impl Serving {
    /// Asks it to end; true when it did so cleanly.
    fn ends(&mut self) -> bool {
        Command::new("kill").arg(self.0.id().to_string()).status().expect("kill");
        self.0.wait().expect("it ends").success()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

/// Where one of the texts stands, with what is around it.
fn found(text: &str, wanted: &[&str]) -> Vec<String> {
    let lines = text.lines().filter(|line| wanted.iter().any(|wanted| line.contains(wanted)));
    lines.map(|line| line.chars().take(400).collect()).collect()
}

/// Files under a directory that hold one of the texts.
fn holders(dir: &Path, texts: &[&str]) -> Vec<String> {
    let files = fs::read_dir(dir).expect("the state directory").map(|entry| entry.expect("a file").path());
    let holds = |path: &PathBuf| {
        // RocksDB may remove a file in between.
        let Ok(bytes) = fs::read(path) else { return false };
        texts.iter().any(|text| bytes.windows(text.len()).any(|part| part == text.as_bytes()))
    };
    files.filter(|path| path.is_file()).filter(holds).map(|path| path.display().to_string()).collect()
}

fn plays(user: &str, item: &str, more: &str) -> Vec<String> {
    let mut plays: Vec<String> = (0..400)
        .map(|n| {
            json!({"user": format!("u{}", n % 40), "item": format!("i{}", n * 7 % 20), "event_id": format!("e{n}"), "time": n}).to_string()
        })
        .collect();
    plays.extend(
        ["i1", "i2", item]
            .map(|item| format!(r#"{{"user":"{user}","item":"{item}","event_id":"{more}{item}","time":5,"{more}":"{more}"}}"#)),
    );
    plays
}

fn settled(status: &Value, interactions: usize) -> bool {
    status["counts"]["interactions"] == interactions && status["phase"] == "idle" && status["outbox"] == 0
}

/// The password goes in by a file and by the environment, and comes out nowhere.
#[test]
fn with_tls_and_sasl_everything_works_and_no_secret_is_printed() {
    let (secured, dir) = (Secured::start(), TempDir::new().expect("a directory"));
    let by_file = format!("kafka.properties.sasl.password=file:{}", secured.file("password"));
    let token = canary();
    fs::write(secured.file("token"), &token).expect("a token");
    let model = ["model.rank=4", "model.regularization=0.3", "generation.max_delay=300ms", "generation.forget_delay=0ms"];
    let mut settings: Vec<String> = model.map(str::to_owned).into();
    settings.extend(secured.settings("PLAIN"));
    settings.push(by_file.clone());
    let mut service = Installation::make(&secured.address, "secure", dir.path(), &settings).expect("topics over TLS");
    let mut said = Transcript::default();
    let plain = |arguments: &[&str]| service.command(arguments);
    produce_lines(secured.broker.brokers(), &service.topic("interactions"), plays("somebody", "something", "note"));
    let events = dir.path().join("events.jsonl");
    fs::write(&events, plays("ann", "film", "x").join("\n")).expect("events");
    assert_eq!(said.run(&mut plain(&["send", &events.display().to_string(), "-vv"])), Some(0));
    let token_file = format!("http.token_file={}", secured.file("token"));
    let log = dir.path().join("run.log");
    let mut child = said.serve(plain(&["run", "-vv"]).args(["--set", &token_file]), log);
    let forget = ["forget", "--user", "somebody", "--request-id", "r", "--wait", "published", "-vv"];
    assert_eq!(said.run(&mut plain(&forget)), Some(0), "{}", said.text);
    // SCRAM, with the password from the environment.
    let scram = |arguments: &[&str], password: &str| {
        let mut command = plain(arguments);
        command.args(secured.settings("SCRAM-SHA-512").iter().flat_map(|setting| ["--set", setting]));
        command.args(["--set", &format!("kafka.properties.sasl.password={password}")]);
        command
    };
    for arguments in [&["verify", "-vv"][..], &["topics", "--check"], &["receipt", "verify", "r"], &["config"], &["config", "--json"]] {
        assert_eq!(said.run(&mut plain(arguments)), Some(0), "{arguments:?}");
        assert_eq!(said.run(&mut scram(arguments, &secured.password)), Some(0), "{arguments:?} with SCRAM");
    }
    let mut of_environment = Command::new(env!("CARGO_BIN_EXE_nepenthe"));
    of_environment.args(["verify", "--brokers", &secured.address, "--set", &format!("topics.factors={}", service.topic("factors"))]);
    of_environment.args(["--set", &format!("topics.generations={}", service.topic("generations"))]);
    of_environment.args(secured.settings("SCRAM-SHA-512").iter().flat_map(|setting| ["--set", setting]));
    of_environment.env("NEPENTHE__KAFKA__PROPERTIES__SASL_PASSWORD", &secured.password);
    assert_eq!(said.run(&mut of_environment), Some(0), "{}", said.text);

    let wrong = canary();
    let before = said.text.len();
    for arguments in [&["verify", "-vv"][..], &["topics"], &["send", &events.display().to_string()]] {
        assert_eq!(said.run(&mut scram(arguments, &wrong)), Some(1), "{arguments:?}");
    }
    assert!(said.text[before..].contains("check the credentials"), "{}", &said.text[before..]);
    refusals(&mut said, &secured, dir.path(), &plain);
    for path in ["/", "/metrics", "/v1/status", "/v1/generations/latest", "/v1/keys", "/readyz"] {
        said.text.push_str(&process::get(service.address(), path).expect("an answer"));
    }
    assert!(process::get(service.address(), "/metrics").expect("an answer").contains("show the token"), "no pages without the token");
    assert!(child.ends());
    let mut refused = said.serve(
        scram(&["run", "-vv"], &wrong).args(["--state", &dir.path().join("b").display().to_string()]),
        dir.path().join("refused.log"),
    );
    service.until("the reason", |status| status["reason"].as_str().is_some_and(|reason| reason.contains("sasl."))).expect("not ready");
    said.text.push_str(&service.status().to_string());
    assert!(refused.ends(), "and a clean exit");

    let all = said.all();
    assert!(all.contains("librdkafka") && all.len() > 100_000, "debugging was on: {} bytes", all.len());
    assert_eq!(found(&all, &[&secured.password, &wrong, &token]), [""; 0]);
    assert_eq!(holders(&service.state, &[&secured.password, &wrong, &token]), [""; 0]);
    let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(&service.state), 0o700);
    for key in ["hash.key", "receipts.pem"] {
        assert_eq!(mode(&service.state.join(key)), 0o600, "{key}");
    }
}

/// A certificate of somebody else, and secrets where they do not belong or are not taken.
fn refusals(said: &mut Transcript, secured: &Secured, dir: &Path, command: &dyn Fn(&[&str]) -> Command) {
    let other = format!("kafka.properties.ssl.ca.location={}", secured.file("other.pem"));
    assert_eq!(said.run(command(&["verify"]).args(["--set", &other])), Some(1), "a certificate that nobody vouches for");
    let password = &secured.password;
    for (setting, exits) in [
        ("kafka.properties.sasl.mechanism=NONSENSE".to_owned(), &[1][..]),
        // Whether librdkafka minds a secret that it has no use for is its own affair.
        (format!("kafka.properties.sasl.oauthbearer.config={password}"), &[0, 1]),
        (format!("kafka.properties.ssl.key.password={password}"), &[0, 1]),
        (format!("kafka.properties.ssl.key.pem={password}"), &[0, 1]),
        (format!("kafka.properties.sasl.pasword={password}"), &[1]),
        (format!("kafka.brokers=me:{password}@127.0.0.1:9092"), &[2]),
        (password.clone(), &[2]),
    ] {
        let code = said.run(command(&["verify", "-vv"]).args(["--set", &setting]));
        assert!(code.is_some_and(|code| exits.contains(&code)), "{}: {code:?}", setting.replace(password, "…"));
    }
    let file = dir.join("n.toml");
    for text in ["[kafka.properties]\n\"sasl.password\" = [\"SECRET\"]\n", "[kafka.properties]\n\"sasl.password\" = \"SECRET\n"] {
        fs::write(&file, text.replace("SECRET", password)).expect("a file");
        assert_eq!(
            said.run(Command::new(env!("CARGO_BIN_EXE_nepenthe")).args(["config", "--config", &file.display().to_string()])),
            Some(2)
        );
    }
}

/// Segments that close and are cleaned at once; production has minutes, hours and days.
const QUICK: [(&str, &str); 5] = [
    ("cleanup.policy", "compact"),
    ("segment.ms", "300"),
    ("min.cleanable.dirty.ratio", "0.01"),
    ("max.compaction.lag.ms", "300"),
    ("delete.retention.ms", "300"),
];

/// A canary as user, item, event id, further field, and as reason of the request: in nothing that the service says, and when the
/// receipt says `purged` in nothing that it keeps or has sent.
#[test]
fn no_name_is_in_what_the_service_says_and_none_is_left_of_what_was_purged() {
    let (brokers, dir, name) = (Kafka::shared().brokers(), TempDir::new().expect("a directory"), unique("names"));
    let names = [canary(), canary(), canary(), canary()];
    let [user, item, note, reason] = &names;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    create_topic(brokers, &format!("{name}.factors"), 2, &QUICK);
    let settings = ["model.rank=8", "model.regularization=0.3", "generation.max_delay=300ms", "generation.forget_delay=0ms"];
    let purge = ["store.purge_interval=200ms", "topics.heartbeat=500ms", "topics.purge_proof=names"];
    let settings: Vec<String> = settings.into_iter().chain(purge).map(str::to_owned).collect();
    let mut service = Installation::make(brokers, &name, dir.path(), &settings).expect("topics");
    let (mut said, mut pages) = (Transcript::default(), String::new());
    let mut child = said.serve(service.command(&["run"]).args(["--set", "log.level=trace"]), dir.path().join("run.log"));
    produce_lines(brokers, &service.topic("interactions"), plays(user, item, note));
    // Records that are refused for what they hold, which the reason quotes.
    let bad = ["value", "time", "items"].map(|field| format!(r#"{{"user":"{user}","item":"{item}","{field}":"{note}"}}"#));
    let bad: Vec<String> =
        bad.into_iter().chain([format!(r#"{{"user":"{user}","item":"{item}","type":"{note}"}}"#), user.clone()]).collect();
    produce_lines(brokers, &service.topic("interactions"), &bad);
    service.until("a generation", |status| settled(status, 403)).expect("a generation");
    assert!(!holders(&service.state, &[user]).is_empty(), "the search finds what is there");
    let address = service.address();
    let page = |path: &str| process::get(address, path).unwrap_or_default();
    assert!(page(&format!("/v1/users/{user}/recommendations?n=3")).contains("score"), "who asks for a name gets it");
    page(&format!("/v1/users/{note}/recommendations?n=x"));
    page(&format!("/v1/receipts/{reason}"));
    let looked = ["/", "/page.js", "/metrics", "/v1/status", "/v1/generations/latest", "/v1/keys", "/readyz", "/livez"];
    looked.iter().for_each(|path| pages.push_str(&page(path)));
    let request = json!({"request_id": "r", "user": user, "reason": reason, "time": 1_000_000}).to_string();
    produce_lines(brokers, &service.topic("forgets"), [request]);
    // The thing had one owner: it goes with them.
    let receipt = |status: &str| page("/v1/receipts/r").contains(&format!(r#""status":"{status}""#));
    service.until("purged", |_| receipt("purged")).expect("purged");
    looked.iter().chain(&["/v1/receipts/r"]).for_each(|path| pages.push_str(&page(path)));
    for command in [&["status", "--json"][..], &["status"], &["verify", "-vv"], &["receipt", "verify", "r", "--json"]] {
        assert_eq!(said.run(&mut service.command(command)), Some(0), "{command:?}");
    }
    assert!(child.ends());

    let all = said.all();
    assert!(all.contains("DEBUG") && all.len() > 10_000, "everything was told: {} bytes", all.len());
    assert_eq!(found(&all, &names), [""; 0], "in the log");
    assert_eq!(found(&pages, &names), [""; 0], "on a page");
    assert_eq!(holders(&service.state, &names), [""; 0], "on the disk");
    for topic in ["factors", "generations", "receipts"] {
        let text = format!("{:?}", consume_all(brokers, &service.topic(topic)).into_iter().map(as_text).collect::<Vec<_>>());
        assert!(text.len() > 100 && found(&text.replace(',', "\n"), &names).is_empty(), "{topic}");
    }
    // A record that could not be read stays as it came, for as long as the topic keeps it.
    assert_eq!(consume_all(brokers, &service.topic("dead_letters")).len(), bad.len());
}

fn as_text(message: kafka::Message) -> String {
    let headers: Vec<String> = message.headers.iter().map(|(key, value)| format!("{key}={}", String::from_utf8_lossy(value))).collect();
    format!("{}: {} {headers:?}", message.key_text(), String::from_utf8_lossy(message.value.as_deref().unwrap_or_default()))
}

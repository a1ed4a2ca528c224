//! What a service manager sees of the process: it says that it is ready, takes a new level of the log, and ends in order.

#[path = "../examples/real/child.rs"]
mod child;
#[path = "support/kafka.rs"]
mod kafka;
#[path = "../examples/support/process.rs"]
mod process;

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use child::Installation;
use kafka::{Kafka, produce_lines, unique};

/// Of a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);

struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Service {
    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.0.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }
}

fn told(manager: &UnixDatagram) -> String {
    let mut bytes = [0; 256];
    let length = manager.recv(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

#[test]
fn a_manager_is_told_and_the_level_of_the_log_is_read_anew() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let manager = UnixDatagram::bind(at("notify")).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let configure = |line: &str| std::fs::write(at("nepenthe.toml"), format!("[log]\n{line}\n")).unwrap();
    configure("level = \"error\"");

    // No broker is needed to be up: nobody listens on port 1.
    let child = Command::new(env!("CARGO_BIN_EXE_nepenthe"))
        .args(["run", "--brokers", "127.0.0.1:1", "--set", "http.listen=127.0.0.1:0", "--config"])
        .arg(at("nepenthe.toml"))
        .arg("--state")
        .arg(at("state"))
        .env("NOTIFY_SOCKET", at("notify"))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut service = Service(child);
    let mut lines = BufReader::new(service.0.stderr.take().unwrap()).lines();
    let mut line_with = |words: &str| lines.by_ref().map(Result::unwrap).find(|line| line.contains(words)).expect(words);
    assert_eq!(told(&manager), "READY=1");

    configure("level = \"info\"");
    service.signal("HUP");
    assert!(line_with("read anew").contains("info"));
    configure("levle = \"debug\"");
    service.signal("HUP");
    line_with("stays as it was");

    service.signal("TERM");
    assert_eq!(told(&manager), "STOPPING=1");
    assert!(service.0.wait().unwrap().success());
}

/// Told to stop while plays and forgets come in faster than they are taken and a model is solved: it ends in order, and what it
/// had not taken yet is taken by the next one.
#[test]
#[allow(clippy::disallowed_methods, reason = "how long a stop takes is what is measured")]
fn a_service_that_is_told_to_stop_under_load_loses_nothing() {
    const USERS: usize = 3_000;
    const PLAYS: usize = 200_000;
    let (brokers, dir, name) = (Kafka::shared().brokers(), tempfile::tempdir().unwrap(), unique("stop"));
    // One that is always at work.
    let settings = ["model.rank=16", "model.regularization=0.5", "generation.max_delay=100ms", "generation.forget_delay=0ms"];
    let mut service = Installation::make(brokers, &name, dir.path(), &settings.map(str::to_owned)).unwrap();
    let (plays, forgets) = (service.topic("interactions"), service.topic("forgets"));
    let play = |n: usize| format!(r#"{{"user":"u{}","item":"i{}","event_id":"e{n}","time":{n}}}"#, n % USERS, n * 7 % 500);
    let forget = |n: usize| format!(r#"{{"request_id":"r{n}","user":"u{n}","time":{}}}"#, 2 * PLAYS);
    service.start().unwrap();
    let mut stops = Vec::new();
    std::thread::scope(|scope| {
        let feeding = scope.spawn(|| {
            for part in 0..20 {
                let first = part * (PLAYS / 20);
                produce_lines(brokers, &plays, (first..first + PLAYS / 20).map(play));
                produce_lines(brokers, &forgets, [forget(part)]);
            }
        });
        for _ in 0..3 {
            // Of this process.
            let accepted = |status: &serde_json::Value| status["events_accepted"].as_u64() >= Some(PLAYS as u64 / 5);
            service.until("enough to be in the middle", accepted).unwrap();
            let began = Instant::now();
            service.stop().expect("exit code 0");
            stops.push(began.elapsed().as_secs_f64());
            service.start().unwrap();
        }
        feeding.join().unwrap();
    });
    println!("seconds from SIGTERM to the exit, under load: {stops:.2?}");
    let left = (0..PLAYS).filter(|n| n % USERS >= 20).count();
    let settled = |status: &serde_json::Value| {
        let pending = ["accepted", "erased", "unlearned"].iter().map(|stage| status["forgets"]["pending"][stage].as_u64().unwrap_or(0));
        status["counts"]["interactions"] == left && status["phase"] == "idle" && status["outbox"] == 0 && pending.sum::<u64>() == 0
    };
    service.until("every play that is left and no other", settled).unwrap();
    service.done(&["verify"]).expect("the topic holds what the manifest says");
    service.stop().expect("exit code 0");
}

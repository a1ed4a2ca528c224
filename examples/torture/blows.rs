//! The disturbances. Each leaves the service running, and returns when readers have seen that it goes on, but for kills:
//! these come one after the other.

#![allow(dead_code, reason = "tests and the program use their own part of it")]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};

use super::arena::{Arena, Brokers, PARTITIONS, Result};
use super::child::Installation;
use super::kafka;

/// Longer than the session and the transaction may last.
const BEYOND: (u64, u64) = (6_000, 8_000);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Blow {
    /// `kill -9` at any moment, also while it starts.
    Kill,
    /// The only broker stops or dies, and comes back.
    Broker,
    /// Of three nodes the one that leads dies.
    Leader,
    /// A member comes and goes that keeps nothing.
    Join,
    /// A service with another state joins the group and leaves it.
    Other,
    /// The process is stopped, a second one goes on from a copy of its state, and then the first awakes.
    Zombie,
    /// Stopped for longer than sessions and transactions last.
    Stop,
    /// No file may grow any more, or the disk is full.
    Full,
}

impl Blow {
    pub const ALL: [Blow; 8] = [Blow::Kill, Blow::Broker, Blow::Leader, Blow::Join, Blow::Other, Blow::Zombie, Blow::Stop, Blow::Full];

    pub fn name(self) -> &'static str {
        match self {
            Blow::Kill => "kill -9",
            Blow::Broker => "broker lost",
            Blow::Leader => "leader lost",
            Blow::Join => "member came and left",
            Blow::Other => "other state came and left",
            Blow::Zombie => "zombie",
            Blow::Stop => "stopped beyond the session",
            Blow::Full => "disk full",
        }
    }

    /// # Errors
    /// What did not happen that had to, in words.
    pub fn strike(self, arena: &mut Arena) -> Result<()> {
        match self {
            Blow::Kill => kill(arena),
            Blow::Broker => broker(arena),
            Blow::Leader => leader(arena),
            Blow::Join => join(arena),
            Blow::Other => other(arena),
            Blow::Zombie => zombie(arena),
            Blow::Stop => stop(arena),
            Blow::Full => full(arena),
        }
        .map_err(|error| format!("{}: {error}", self.name()))
    }
}

fn pause(arena: &mut Arena, least: u64, most: u64) {
    std::thread::sleep(arena.dice.millis(least, most));
}

/// Half of the kills come at any moment, the others while a generation is solved, is published, or has just been.
fn kill(arena: &mut Arena) -> Result<()> {
    match arena.dice.below(8) {
        0 | 1 => arena.service.until("solve", |status| status["phase"] == "solving").map(drop)?,
        2 => arena.service.until("publication", |status| status["phase"] == "publishing").map(drop)?,
        3 => arena.recovered()?,
        _ => pause(arena, 10, 2_500),
    }
    arena.service.kill();
    arena.service.start_heard()
}

fn broker(arena: &mut Arena) -> Result<()> {
    pause(arena, 0, 500);
    let (dies, away) = (arena.dice.below(2) == 0, arena.dice.millis(0, 3_000));
    let Brokers::One(kafka) = &mut arena.brokers else { return Err("needs a single broker".to_owned()) };
    if dies {
        kafka.kill()
    } else {
        kafka.stop()
    }
    std::thread::sleep(away);
    kafka.restart();
    arena.recovered()
}

fn leader(arena: &mut Arena) -> Result<()> {
    let topics = [arena.service.topic("factors"), arena.service.topic("interactions"), arena.service.topic("generations")];
    let [factors, interactions, generations] = topics.each_ref().map(String::as_str);
    // The coordinators of transaction and group lead partitions too.
    let choices = [(factors, 0), (interactions, 0), (generations, 0), ("__transaction_state", 0), ("__consumer_offsets", 0)];
    let (topic, partition) = choices[arena.dice.below(choices.len())];
    let away = arena.dice.millis(1_000, 4_000);
    let Brokers::Three(cluster) = &mut arena.brokers else { return Err("needs three nodes".to_owned()) };
    cluster.await_whole();
    let leader = cluster.leader(topic, partition);
    cluster.node(leader).kill();
    std::thread::sleep(away);
    // Goes on with two of three.
    arena.recovered()?;
    let Brokers::Three(cluster) = &mut arena.brokers else { return Ok(()) };
    cluster.node(leader).restart();
    cluster.await_whole();
    arena.recovered()
}

fn has_all(service: &mut Installation) -> Result<()> {
    let all = 2 * PARTITIONS;
    service.until("all partitions", |status| status["lag"].as_array().is_some_and(|lag| lag.len() == all)).map(drop)
}

fn join(arena: &mut Arena) -> Result<()> {
    has_all(&mut arena.service)?;
    let group = arena.service.status()["rebalances"].as_u64();
    let consumer: BaseConsumer = kafka::client(arena.brokers.address())
        .set("group.id", arena.service.name())
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("enable.auto.commit", "false")
        .create()
        .map_err(|e| e.to_string())?;
    let topics = ["interactions", "forgets"].map(|role| arena.service.topic(role));
    consumer.subscribe(&topics.each_ref().map(String::as_str)).map_err(|e| e.to_string())?;
    // It takes what it gets and keeps nothing of it.
    arena.service.until("rebalance", |status| {
        let _ = consumer.poll(Duration::from_millis(100));
        status["rebalances"].as_u64() > group
    })?;
    for _ in 0..arena.dice.below(20) {
        let _ = consumer.poll(Duration::from_millis(50));
    }
    drop(consumer);
    has_all(&mut arena.service)?;
    arena.recovered()
}

fn other(arena: &mut Arena) -> Result<()> {
    has_all(&mut arena.service)?;
    let state = arena.another_state();
    let outputs = ["factors", "generations", "receipts", "dead_letters"];
    // Topics of its own as well: a new state does not publish on used ones.
    let own = state.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let topics: Vec<String> = outputs.iter().map(|role| format!("topics.{role}={}.{own}", arena.service.topic(role))).collect();
    let mut second = arena.service.twin(state.clone(), &topics)?;
    second.done(&["topics"])?;
    second.start_heard()?;
    second.until("share of the partitions", |status| status["lag"].as_array().is_some_and(|lag| !lag.is_empty()))?;
    second.until("generation of its own", |status| status["generation"].is_u64())?;
    pause(arena, 0, 1_000);
    if arena.dice.below(2) == 0 {
        second.kill();
    } else {
        second.stop()?;
    }
    has_all(&mut arena.service)?;
    fs::remove_dir_all(&state).map_err(|e| e.to_string())?;
    arena.recovered()
}

fn zombie(arena: &mut Arena) -> Result<()> {
    pause(arena, 0, 1_000);
    arena.service.signal("STOP")?;
    let state = arena.another_state();
    copy(&arena.service.state, &state)?;
    let mut second = arena.service.twin(state, &[])?;
    second.start_heard()?;
    let mut first = std::mem::replace(&mut arena.service, second);
    arena.recovered()?;
    first.signal("CONT")?;
    let (code, words) = (first.ended()?, first.words());
    if code != 1 || !words.contains("another process") {
        return Err(format!("the one that awoke ended with exit code {code} and said: {words}"));
    }
    fs::remove_dir_all(&first.state).map_err(|e| e.to_string())?;
    arena.recovered()
}

/// The files of a state as they are: of a process that stands still, they are what a crash would leave.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    let words = |e: std::io::Error| format!("copy of {}: {e}", from.display());
    fs::create_dir(to).map_err(words)?;
    for file in fs::read_dir(from).map_err(words)? {
        let file = file.map_err(words)?;
        fs::copy(file.path(), to.join(file.file_name())).map_err(words)?;
    }
    Ok(())
}

fn stop(arena: &mut Arena) -> Result<()> {
    pause(arena, 0, 500);
    arena.service.signal("STOP")?;
    pause(arena, BEYOND.0, BEYOND.1);
    arena.service.signal("CONT")?;
    arena.recovered()
}

fn full(arena: &mut Arena) -> Result<()> {
    pause(arena, 0, 500);
    let ballast = arena.service.state.with_file_name("ballast");
    let stop = AtomicBool::new(false);
    let (code, cause) = if arena.has_small_disk() {
        let code = std::thread::scope(|scope| {
            scope.spawn(|| fill(&ballast, &stop));
            let code = arena.service.ended();
            stop.store(true, Ordering::Relaxed);
            code
        })?;
        (code, "No space left on device")
    } else {
        let pid = arena.service.pid().ok_or("no service runs")?.to_string();
        let limit = format!("--fsize={}:", 1 + arena.dice.below(100_000));
        let status = Command::new("prlimit").args(["--pid", &pid, &limit]).status().map_err(|e| format!("prlimit: {e}"))?;
        if !status.success() {
            return Err(format!("prlimit {limit}: {status}"));
        }
        (arena.service.ended()?, "File too large")
    };
    let words = arena.service.words();
    if code != 1 || !words.contains(cause) {
        return Err(format!("{cause}: it ended with exit code {code} and said: {words}"));
    }
    if ballast.exists() {
        fs::remove_file(&ballast).map_err(|e| e.to_string())?;
    }
    arena.service.start_heard()?;
    arena.recovered()
}

/// Takes every byte, also those that are given back meanwhile: logs are made long before they are written.
fn fill(ballast: &Path, stop: &AtomicBool) {
    let bytes = vec![7; 1 << 20];
    while !stop.load(Ordering::Relaxed) {
        if let Ok(mut file) = fs::File::options().create(true).append(true).open(ballast) {
            while file.write(&bytes).is_ok_and(|written| written > 0) && !stop.load(Ordering::Relaxed) {}
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

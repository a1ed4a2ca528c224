//! Brokers, a service, a storm of events and a reader, all real: what is broken here, and what must hold after.

#![allow(dead_code, reason = "tests and the program use their own part of it")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nepenthe::model::{Certify, Objective, Params};
use rdkafka::consumer::{BaseConsumer, Consumer};
use serde_json::Value;
use tempfile::TempDir;

use super::child::{Installation, model_settings};
use super::cluster::Cluster;
use super::kafka::{self, Kafka};
use super::oracle::{Model, plays_of_state};
use super::watcher::{Findings, Watcher};
use super::world::{Dice, Play, Storm, World};

pub type Result<T> = std::result::Result<T, String>;

/// Partitions of each input topic.
pub const PARTITIONS: usize = 3;
/// Bytes of the file system that is filled.
const SMALL_DISK: &str = "96m";
const ANSWER: Duration = Duration::from_secs(30);

pub enum Brokers {
    One(Kafka),
    Three(Cluster),
}

impl Brokers {
    pub fn address(&self) -> &str {
        match self {
            Brokers::One(kafka) => kafka.brokers(),
            Brokers::Three(cluster) => cluster.brokers(),
        }
    }
}

/// A small file system in memory, gone when dropped. Only root can make one.
struct Disk(PathBuf);

impl Drop for Disk {
    fn drop(&mut self) {
        // Of a test that failed processes may still be at home there: lazily.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// Fields are dropped in this order: first who uses, then what is used.
pub struct Arena {
    pub service: Installation,
    pub dice: Dice,
    watcher: Watcher,
    storm: Option<Storm>,
    pub brokers: Brokers,
    params: Params,
    /// Where the state lives, when it lives on a small disk.
    disk: Option<Disk>,
    dir: TempDir,
    states: u32,
}

/// What was found in the end; all but the counts of what was sent must be nothing.
#[derive(Debug, Default)]
pub struct Account {
    pub plays: usize,
    pub forgets: usize,
    pub repeated: u64,
    pub junk: u64,
    pub generations: u64,
    pub republished: u64,
    pub lost: usize,
    pub doubled: usize,
    pub resurrected: usize,
    pub torn: usize,
    /// Everything else that does not hold, in words.
    pub faults: Vec<String>,
}

impl Account {
    pub fn holds(&self) -> bool {
        self.lost + self.doubled + self.resurrected + self.torn == 0 && self.faults.is_empty()
    }
}

/// Settings under which retrains of this small world agree.
fn params() -> Params {
    Params {
        objective: Objective::Implicit,
        rank: 16,
        regularization: 0.1,
        regularization_exp: 1.0,
        alpha: 1.0,
        unobserved_weight: 0.1,
        tolerance: 1e-7,
        certify: Certify::Residual,
        max_sweeps: 5_000,
        seed: 42,
        threads: 1,
    }
}

/// Short delays and time-outs, so that every disturbance meets something under way. Which rows the brokers have cleaned
/// is not asked: they take their time.
fn settings(params: &Params) -> Vec<String> {
    let mut settings = model_settings(params);
    settings.extend(
        [
            "generation.max_delay=300ms",
            "generation.forget_delay=0ms",
            "store.purge_interval=700ms",
            "topics.purge_proof=none",
            "kafka.properties.session.timeout.ms=3000",
            "kafka.properties.heartbeat.interval.ms=500",
            "kafka.properties.transaction.timeout.ms=5000",
            "kafka.properties.message.timeout.ms=5000",
        ]
        .map(str::to_owned),
    );
    settings
}

impl Arena {
    /// Starts everything. With `small` the state lives on a small file system, where one can be had.
    pub fn start(brokers: Brokers, seed: u64, small: bool) -> Result<Arena> {
        let dir = TempDir::with_prefix("nepenthe-torture-").map_err(|e| e.to_string())?;
        let disk = if small { small_disk(dir.path())? } else { None };
        let home = disk.as_ref().map_or(dir.path(), |disk| &disk.0).to_owned();
        let params = params();
        let mut service = Installation::plan(brokers.address(), &kafka::unique("torture"), &home, &settings(&params))?;
        let copies = if matches!(brokers, Brokers::Three(_)) { "3" } else { "1" };
        service.done(&["topics", "--partitions", &PARTITIONS.to_string(), "--replication", copies])?;
        let watcher = Watcher::start(brokers.address(), service.topic("factors"), service.topic("generations"));
        let storm = Storm::start(brokers.address(), ["interactions", "forgets"].map(|role| service.topic(role)), seed);
        service.start_heard()?;
        let dice = Dice::new(seed ^ 0x70_72_75_65);
        let mut arena = Arena { service, dice, watcher, storm: Some(storm), brokers, params, disk, dir, states: 0 };
        arena.recovered()?;
        Ok(arena)
    }

    pub fn has_small_disk(&self) -> bool {
        self.disk.is_some()
    }

    /// A directory that is not there yet, for another state, beside the first.
    pub fn another_state(&mut self) -> PathBuf {
        self.states += 1;
        self.service.state.with_file_name(format!("state-{}", self.states))
    }

    pub fn findings(&self) -> Findings {
        self.watcher.findings()
    }

    /// Waits until the service has published two more generations, as readers see it: the first may have been under way.
    pub fn recovered(&mut self) -> Result<()> {
        for _ in 0..2 {
            let before = self.watcher.findings().generations;
            let watcher = &self.watcher;
            self.service.until("generation that readers see", |_| watcher.findings().generations > before)?;
        }
        Ok(())
    }

    /// Stops the storm, waits until all of it is published and purged, stops the service, and holds what there is
    /// against what must be.
    pub fn settle(&mut self) -> Result<Account> {
        let world = self.storm.take().ok_or("the storm is over")?.calm();
        let ends = self.ends(&["interactions", "forgets"])?;
        self.service.until("reading of all that was sent", |status| taken_in(status, &ends))?;
        let expected = world.verdict();
        let (mut account, mut faults) = (Account::default(), Vec::new());
        let count = expected.kept.len();
        // If it never comes to that, the account below says why.
        faults.extend(self.service.until("generation of all that was sent", |status| settled(status, count)).err());
        let status = self.service.status();
        let newest = (status["generation"].as_u64().unwrap_or(0), status["digest"].as_str().unwrap_or_default().to_owned());
        let watcher = &self.watcher;
        faults.extend(self.service.until("reader at the end", |_| watcher.findings().newest.as_ref() == Some(&newest)).err());
        faults.extend(self.service.done(&["verify"]).err());
        self.service.stop()?;
        let findings = self.watcher.findings();
        account.faults = faults;
        account.faults.extend(findings.torn.iter().cloned());
        (account.torn, account.generations, account.republished) = (findings.torn.len(), findings.generations, findings.repeated);
        (account.plays, account.forgets) = (world.plays(), world.requests().len());
        (account.repeated, account.junk) = (world.repeated, world.junk);
        self.count_plays(&mut account, &expected.kept, &expected.forgotten)?;
        self.rebuild(&mut account)?;
        self.receipts(&mut account, &world);
        Ok(account)
    }

    fn count_plays(&self, account: &mut Account, kept: &BTreeSet<Play>, forgotten: &BTreeSet<Play>) -> Result<()> {
        let mut found = BTreeSet::new();
        for (user, item, time, value) in plays_of_state(&self.service.state)? {
            let play = Play { user, item, time, value: value as u64 };
            account.resurrected += usize::from(forgotten.contains(&play));
            if !forgotten.contains(&play) && !kept.contains(&play) {
                account.faults.push(format!("nobody sent {play:?}"));
            }
            account.doubled += usize::from(!found.insert(play));
        }
        account.lost = kept.difference(&found).count();
        Ok(())
    }

    /// What is stored and predicted must be what a service that nobody disturbed makes of the same topics.
    fn rebuild(&self, account: &mut Account) -> Result<()> {
        let values = ["interactions", "forgets"].map(|role| kafka::consume_all(self.brokers.address(), &self.service.topic(role)));
        let values = values.each_ref().map(|records| records.iter().filter_map(|record| record.value.as_deref()).collect());
        let reference = Params { seed: 7, tolerance: 1e-9, ..self.params.clone() };
        let (rebuilt, model) = (Model::from_topics(&reference, values)?, Model::of_state(&self.service.state)?);
        if rebuilt.data != model.data {
            account.faults.push("the digest of the data is not that of a state made anew from the topics".to_owned());
            return Ok(());
        }
        let (distance, _) = model.distance(&rebuilt)?;
        if distance > 1e-5 {
            account.faults.push(format!("the predictions are {distance:.1e} from those of a model made anew"));
        }
        Ok(())
    }

    /// Every request has come to its end.
    fn receipts(&self, account: &mut Account, world: &World) {
        let mut last: BTreeMap<String, String> = BTreeMap::new();
        for record in kafka::consume_all(self.brokers.address(), &self.service.topic("receipts")) {
            last.insert(record.key_text(), record.json()["status"].as_str().unwrap_or_default().to_owned());
        }
        for request in world.requests() {
            let status = last.get(request).map_or("none", String::as_str);
            if status != "purged" {
                account.faults.push(format!("the last receipt of {request} says {status}"));
            }
        }
    }

    /// Where topics end, by topic and partition.
    fn ends(&self, roles: &[&str]) -> Result<BTreeMap<(String, i64), i64>> {
        let consumer: BaseConsumer = kafka::client(self.brokers.address()).create().map_err(|e| e.to_string())?;
        let mut ends = BTreeMap::new();
        for topic in roles.iter().map(|role| self.service.topic(role)) {
            for partition in 0..PARTITIONS as i32 {
                let (_, end) = consumer.fetch_watermarks(&topic, partition, ANSWER).map_err(|e| format!("{topic}: {e}"))?;
                ends.insert((topic.clone(), i64::from(partition)), end);
            }
        }
        Ok(ends)
    }
}

fn taken_in(status: &Value, ends: &BTreeMap<(String, i64), i64>) -> bool {
    let at = |place: &Value| Some(((place["topic"].as_str()?.to_owned(), place["partition"].as_i64()?), place["next"].as_i64()?));
    let next: BTreeMap<_, _> = status["lag"].as_array().into_iter().flatten().filter_map(at).collect();
    ends.iter().all(|(place, end)| *end == 0 || next.get(place).is_some_and(|next| next >= end))
}

fn settled(status: &Value, interactions: usize) -> bool {
    let certificate = |name: &str| status["certificate"][name].as_f64().unwrap_or(f64::NAN);
    status["counts"]["interactions"] == interactions
        && certificate("residual") <= certificate("tolerance")
        && (&status["phase"], &status["outbox"]) == (&Value::from("idle"), &Value::from(0))
        && status["forgets"]["pending"].as_object().is_some_and(|pending| pending.values().all(|count| *count == 0))
}

/// A file system of its own for the state. `None`, with a word on stderr, for who may not mount.
fn small_disk(dir: &Path) -> Result<Option<Disk>> {
    let path = dir.join("disk");
    std::fs::create_dir(&path).map_err(|e| e.to_string())?;
    let options = format!("size={SMALL_DISK},mode=0700");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(&path).output().map_err(|e| e.to_string())?;
    if mounted.status.success() {
        return Ok(Some(Disk(path)));
    }
    eprintln!("no small disk here, file sizes are limited instead: {}", String::from_utf8_lossy(&mounted.stderr).trim());
    Ok(None)
}

//! How long a forget takes while events keep coming: `make latency`.
//!
//! Fills a service with interactions, then sends events at a steady rate whether or not the service keeps up, and between
//! them forgets of single pairs and of whole users. For each stage of a receipt it prints how long after the forget was
//! sent a reader with `read_committed` had that receipt. A forget that has not come through at the end fails the run.

#![allow(clippy::disallowed_methods, reason = "a measuring program reads the clock")]

#[path = "real/child.rs"]
mod child;
#[path = "ingest/events.rs"]
mod events;
#[path = "support/process.rs"]
mod process;

use std::collections::{BTreeMap, HashMap};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use child::Installation;
use clap::Parser;
use events::Events;
use rdkafka::Message;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use serde_json::Value;

type Result<T> = std::result::Result<T, String>;

/// Events of one tick of the generator.
const TICK: Duration = Duration::from_millis(10);
/// Longest wait for what is still under way at the end.
const PATIENCE: Duration = Duration::from_secs(120);
const STAGES: [&str; 4] = ["erased", "unlearned", "published", "purged"];

/// Measures the way of a forget under load.
#[derive(Debug, Parser)]
struct Args {
    /// host:port of a broker that may be filled
    #[arg(long)]
    brokers: String,
    /// Interactions that are stored, and in a generation, before the load begins
    #[arg(long, default_value_t = 1_000_000)]
    interactions: u64,
    /// Events a second
    #[arg(long, default_value_t = 10_000)]
    rate: u64,
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Milliseconds between two forgets; every second one is of a whole user
    #[arg(long, default_value_t = 1_000)]
    every: u64,
    #[arg(long, default_value_t = 20_000)]
    users: u64,
    #[arg(long, default_value_t = 5_000)]
    items: u64,
    #[arg(long, default_value_t = 64)]
    rank: u32,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Further settings, `key=value`. How long the factors topic takes is the broker's affair and is not measured here.
    #[arg(long = "set", default_values_t = ["topics.purge_proof=none".to_owned(), "store.purge_interval=1s".to_owned()])]
    settings: Vec<String>,
}

/// When forgets were sent, and when which receipt of them had come.
#[derive(Default)]
struct Ledger {
    sent: HashMap<String, Instant>,
    came: BTreeMap<(String, &'static str), Duration>,
    rejected: u64,
}

fn main() -> ExitCode {
    match measure(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("latency: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(args: &Args) -> Result<()> {
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let mut settings = vec![format!("model.rank={}", args.rank)];
    settings.extend_from_slice(&args.settings);
    let mut service = Installation::make(&args.brokers, "latency", dir.path(), &settings)?;
    let producer = producer(&args.brokers)?;
    let mut events = Events::new(args.seed, args.users, args.items);
    for _ in 0..args.interactions {
        send(&producer, &service.topic("interactions"), events.next().1)?;
    }
    producer.flush(PATIENCE).map_err(|e| e.to_string())?;
    service.start()?;
    let whole =
        |status: &Value| status["counts"]["interactions"] == args.interactions && status["phase"] == "idle" && status["outbox"] == 0;
    let first = service.until("generation of all that was sent", whole)?;
    let status = service.status();
    println!(
        "{} interactions of {} users and {} items, rank {}: first generation after {:.1} s ({} sweeps, {:.1} s)",
        args.interactions,
        status["counts"]["users"],
        status["counts"]["items"],
        args.rank,
        first.as_secs_f64(),
        status["certificate"]["sweeps"],
        status["certificate"]["seconds"].as_f64().unwrap_or(f64::NAN),
    );
    let ledger = Mutex::new(Ledger::default());
    let stop = AtomicBool::new(false);
    let receipts = consumer(&args.brokers, &service.topic("receipts"))?;
    let late = std::thread::scope(|scope| {
        let reader = scope.spawn(|| follow(&receipts, &ledger, &stop));
        let loaded = load(args, &service, &producer, &mut events, &ledger);
        let waited = loaded.and_then(|late| drained(&ledger).map(|()| late));
        stop.store(true, Ordering::Relaxed);
        reader.join().map_err(|_| "the reader panicked".to_owned())??;
        waited
    })?;
    let status = service.status();
    println!(
        "{} events a second for {} s (the generator was late by {:.0} ms at most), a forget every {} ms; generation {} at the end",
        args.rate,
        args.seconds,
        late.as_secs_f64() * 1e3,
        args.every,
        status["generation"]
    );
    show(&ledger.into_inner().map_err(|e| e.to_string())?)?;
    service.stop()
}

/// Events and forgets, each at its time; returns by how much the latest was late.
fn load(args: &Args, service: &Installation, producer: &Out, events: &mut Events, ledger: &Mutex<Ledger>) -> Result<Duration> {
    let (plays, forgets) = (service.topic("interactions"), service.topic("forgets"));
    // The same pairs that were sent at first, so that each forget has something to forget.
    let mut known = Events::new(args.seed, args.users, args.items);
    let (began, mut sent, mut asked, mut late) = (Instant::now(), 0, 0, Duration::ZERO);
    let ticks = args.seconds * 1_000 / TICK.as_millis() as u64;
    for tick in 0..ticks {
        let due = began + TICK * tick as u32;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        late = late.max(due.elapsed());
        let target = args.rate * (tick + 1) * TICK.as_millis() as u64 / 1_000;
        while sent < target {
            send(producer, &plays, events.next().1)?;
            sent += 1;
        }
        if tick * TICK.as_millis() as u64 >= asked * args.every {
            // Far apart, and of the many as well as of the few.
            for _ in 0..997 {
                known.next();
            }
            let play: Value = serde_json::from_slice(known.next().1).map_err(|e| e.to_string())?;
            let id = format!("forget-{asked}");
            let forget = match asked % 2 {
                0 => serde_json::json!({"request_id": id, "user": play["user"], "items": [play["item"]]}),
                _ => serde_json::json!({"request_id": id, "user": play["user"]}),
            };
            lock(ledger).sent.insert(id, Instant::now());
            send(producer, &forgets, forget.to_string().as_bytes())?;
            asked += 1;
        }
    }
    Ok(late)
}

/// Waits until each forget has reached the last stage.
fn drained(ledger: &Mutex<Ledger>) -> Result<()> {
    let began = Instant::now();
    loop {
        let (done, all) = {
            let ledger = lock(ledger);
            (ledger.came.keys().filter(|(_, stage)| *stage == STAGES[3]).count(), ledger.sent.len())
        };
        if done == all {
            return Ok(());
        }
        if began.elapsed() > PATIENCE {
            return Err(format!("{done} of {all} forgets are purged {PATIENCE:?} after the last was sent"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Notes when receipts come.
fn follow(consumer: &BaseConsumer, ledger: &Mutex<Ledger>, stop: &AtomicBool) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        let Some(message) = consumer.poll(Duration::from_millis(50)) else { continue };
        let message = message.map_err(|e| format!("receipts: {e}"))?;
        let now = Instant::now();
        let receipt: Value = serde_json::from_slice(message.payload().unwrap_or_default()).map_err(|e| format!("a receipt: {e}"))?;
        let (Some(id), Some(status)) = (receipt["request_id"].as_str(), receipt["status"].as_str()) else { continue };
        let mut ledger = lock(ledger);
        if status == "rejected" {
            ledger.rejected += 1;
        }
        let (Some(&sent), Some(stage)) = (ledger.sent.get(id), STAGES.iter().find(|stage| **stage == status)) else { continue };
        ledger.came.entry((id.to_owned(), stage)).or_insert(now - sent);
    }
    Ok(())
}

fn show(ledger: &Ledger) -> Result<()> {
    println!("{:<12}{:>9}{:>10}{:>10}{:>10}", "seconds to", "forgets", "p50", "p99", "longest");
    for stage in STAGES {
        let mut times: Vec<f64> = ledger.came.iter().filter(|((_, at), _)| *at == stage).map(|(_, time)| time.as_secs_f64()).collect();
        times.sort_unstable_by(f64::total_cmp);
        // The smallest value that at least this share is not above.
        let quantile =
            |share: f64| times.get(((times.len() as f64 * share).ceil() as usize).saturating_sub(1)).copied().unwrap_or(f64::NAN);
        println!("{stage:<12}{:>9}{:>10.3}{:>10.3}{:>10.3}", times.len(), quantile(0.5), quantile(0.99), quantile(1.0));
    }
    if ledger.rejected > 0 { Err(format!("{} forgets were rejected", ledger.rejected)) } else { Ok(()) }
}

fn lock(ledger: &Mutex<Ledger>) -> std::sync::MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

type Out = ThreadedProducer<DefaultProducerContext>;

fn producer(brokers: &str) -> Result<Out> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("compression.codec", "lz4").set("acks", "1").set("linger.ms", "5");
    config.set("queue.buffering.max.messages", "1000000").create().map_err(|e| format!("producer: {e}"))
}

fn send(producer: &Out, topic: &str, event: &[u8]) -> Result<()> {
    let mut record = BaseRecord::<(), [u8]>::to(topic).payload(event);
    while let Err((error, back)) = producer.send(record) {
        if error != KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) {
            return Err(format!("send to {topic}: {error}"));
        }
        record = back;
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn consumer(brokers: &str, topic: &str) -> Result<BaseConsumer> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("group.id", "latency-reader").set("enable.auto.commit", "false");
    config.set("auto.offset.reset", "earliest").set("isolation.level", "read_committed").set("fetch.wait.max.ms", "10");
    let consumer: BaseConsumer = config.create().map_err(|e| format!("consumer: {e}"))?;
    consumer.subscribe(&[topic]).map_err(|e| format!("subscribe to {topic}: {e}"))?;
    Ok(consumer)
}

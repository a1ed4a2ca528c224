//! How many events per second become durable state, against a bare librdkafka consumer of the same topic: `make ingest`.
//!
//! Sends generated events to a fresh topic, reads them with nothing but a consumer (one by one, and in batches), then starts
//! `nepenthe run` on an empty state directory that is told not to compute, and waits until it has stored every one. Rates are
//! counted from the first event on, starts are told apart, and the ratio is what can be compared between machines.

#![allow(clippy::disallowed_methods, reason = "a measuring program reads the clock")]

#[path = "ingest/bare.rs"]
mod bare;
#[path = "ingest/events.rs"]
mod events;
#[path = "support/process.rs"]
mod process;
#[path = "ingest/service.rs"]
mod service;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use clap::Parser;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};

use bare::How;
use events::Events;
use service::{Model, Service, ServiceError};

const PATIENCE: Duration = Duration::from_secs(60);

/// Measures ingest against a bare consumer.
#[derive(Debug, Parser)]
struct Args {
    /// host:port of a broker that may be filled
    #[arg(long)]
    brokers: String,
    /// Events to send, all of different ids
    #[arg(long, default_value_t = 5_000_000)]
    events: u64,
    #[arg(long, default_value_t = 138_493)]
    users: u64,
    #[arg(long, default_value_t = 26_744)]
    items: u64,
    #[arg(long, default_value_t = 8)]
    partitions: i32,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Reads of each bare consumer; the fastest one in batches is what the service is held against
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    bare_reads: u32,
    /// Runs of the service, each on an empty state directory; the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// Then as many runs while the model is solved again and again
    #[arg(long)]
    solving: bool,
    /// Damaged records among all that are sent, in percent: the rate is that of the good ones
    #[arg(long, default_value_t = 0.0)]
    hostile: f64,
    /// Give up when the service has stored nothing more for so many seconds
    #[arg(long, default_value_t = 60)]
    patience: u64,
}

/// Why there is no figure.
#[derive(Debug, thiserror::Error)]
enum IngestError {
    #[error("{tried}: {error}")]
    Kafka { tried: String, error: KafkaError },
    #[error("topic {topic}: {code}; measure on a fresh broker")]
    Topic { topic: String, code: RDKafkaErrorCode },
    #[error("no runtime for the admin client: {0}")]
    Runtime(std::io::Error),
    #[error("nothing came for {PATIENCE:?} after {read} of {wanted} records of {topic}")]
    Dried { topic: String, read: u64, wanted: u64 },
    #[error(
        "the service ({service:.0} events/s) came out faster than the bare consumer ({bare:.0}), which does only a part of its work: \
         the comparison is void; look for what slows the consumer down, or for other load, and measure again"
    )]
    Void { service: f64, bare: f64 },
    #[error(transparent)]
    Service(#[from] ServiceError),
}

impl IngestError {
    fn kafka(tried: impl Into<String>) -> impl FnOnce(KafkaError) -> IngestError {
        let tried = tried.into();
        move |error| IngestError::Kafka { tried, error }
    }
}

/// A count and the time it took, from the first event to the last.
struct Rate {
    events: u64,
    time: Duration,
}

impl Rate {
    fn per_second(&self) -> f64 {
        self.events as f64 / self.time.as_secs_f64()
    }

    fn print(&self, what: &str) {
        println!("{what:<28} {:>12.0} events/s   {} in {:.2} s", self.per_second(), self.events, self.time.as_secs_f64());
    }
}

fn main() -> std::process::ExitCode {
    match measure(&Args::parse()) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ingest: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn measure(args: &Args) -> Result<(), IngestError> {
    let topic = "ingest.interactions";
    let load = load_average();
    create_topic(args, topic)?;
    let (sent, bytes) = send(args, topic)?;
    if sent.events > args.events {
        println!("{} damaged records among them", sent.events - args.events);
    }
    println!("{} events, {:.1} bytes each, {} partitions, lz4", args.events, bytes as f64 / args.events as f64, args.partitions);
    println!("load average {load} at the start: figures count only from an otherwise idle machine");
    sent.print("producer");
    let mut bare = 0.0_f64;
    for (how, name) in [(How::Polled, "bare consumer, one by one"), (How::Batched, "bare consumer, batches")] {
        for _ in 0..args.bare_reads {
            let rate = bare::read(client(args), topic, args.partitions, sent.events, how)?;
            rate.print(name);
            if how == How::Batched {
                bare = bare.max(rate.per_second());
            }
        }
    }
    let idle = runs(args, topic, Model::Idle)?;
    let fastest = idle[idle.len() - 1];
    if fastest > bare {
        return Err(IngestError::Void { service: fastest, bare });
    }
    println!("ratio to the fastest bare read in batches: {}", Shares(&idle, bare));
    if args.solving {
        let solving = runs(args, topic, Model::Solved)?;
        println!("while the model is solved, of the median when it is idle: {}", Shares(&solving, median(&idle)));
    }
    Ok(())
}

/// Runs of the service, in events a second, the slowest first.
fn runs(args: &Args, topic: &str, model: Model) -> Result<Vec<f64>, IngestError> {
    let mut rates = (0..args.runs).map(|_| run(args, topic, model)).collect::<Result<Vec<f64>, _>>()?;
    rates.sort_by(f64::total_cmp);
    Ok(rates)
}

/// Of sorted rates; of an even number the mean of the two in the middle.
fn median(rates: &[f64]) -> f64 {
    let middle = rates.len() / 2;
    if rates.len() % 2 == 1 { rates[middle] } else { (rates[middle - 1] + rates[middle]) / 2.0 }
}

/// Sorted rates, and what they are a share of.
struct Shares<'a>(&'a [f64], f64);

impl std::fmt::Display for Shares<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Shares(rates, whole) = *self;
        let percent = |rate: f64| 100.0 * rate / whole;
        let [slowest, median, fastest] = [rates[0], median(rates), rates[rates.len() - 1]].map(percent);
        write!(out, "median {median:.1} % of {} runs, from {slowest:.1} to {fastest:.1} %", rates.len())
    }
}

/// One run of the service over the whole topic; events per second.
fn run(args: &Args, topic: &str, model: Model) -> Result<f64, IngestError> {
    let patience = Duration::from_secs(args.patience);
    let mut service = Service::start(&args.brokers, topic, model)?;
    let ingest = service.ingest(args.events, patience)?;
    let rate = Rate { events: args.events, time: ingest.time };
    rate.print(if model == Model::Idle { "nepenthe run, durable" } else { "the same, solving" });
    println!(
        "    {:.2} s from start to first stored event; {:.2} cores used; {:.1} bytes of state an event; {} MB of memory at most",
        ingest.start.as_secs_f64(),
        ingest.cores,
        ingest.state_bytes as f64 / args.events as f64,
        ingest.peak_bytes / 1_000_000
    );
    if model == Model::Solved {
        return Ok(rate.per_second());
    }
    let restart = service.restart(patience)?;
    println!("    {:.2} s from a start on this state to ready; {} MB at most", restart.ready.as_secs_f64(), restart.peak_bytes / 1_000_000);
    Ok(rate.per_second())
}

/// Processes that wanted to run in the last minute, of all on this machine; "unknown" where the kernel does not tell.
fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().filter(|load| !load.is_empty()).unwrap_or("unknown").to_owned()
}

fn client(args: &Args) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &args.brokers);
    config
}

fn create_topic(args: &Args, topic: &str) -> Result<(), IngestError> {
    let admin: AdminClient<DefaultClientContext> = client(args).create().map_err(IngestError::kafka("admin client"))?;
    let wanted = NewTopic::new(topic, args.partitions, TopicReplication::Fixed(1));
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(IngestError::Runtime)?;
    let made = runtime.block_on(admin.create_topics([&wanted], &options)).map_err(IngestError::kafka(format!("create {topic}")))?;
    made.into_iter().try_for_each(|made| made.map(|_| ()).map_err(|(topic, code)| IngestError::Topic { topic, code }))
}

/// Counts what the broker has acknowledged and keeps the first failure.
#[derive(Default, Clone)]
struct Deliveries {
    failed: Arc<OnceLock<KafkaError>>,
    done: Arc<AtomicU64>,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(_) => drop(self.done.fetch_add(1, Ordering::Relaxed)),
            // Only the first is told.
            Err((error, _)) => drop(self.failed.set(error.clone())),
        }
    }
}

/// Sends every event; returns the rate and the bytes of all values.
fn send(args: &Args, topic: &str) -> Result<(Rate, u64), IngestError> {
    let deliveries = Deliveries::default();
    let producer: ThreadedProducer<Deliveries> = client(args)
        .set("compression.codec", "lz4")
        .set("acks", "1")
        .set("linger.ms", "50")
        .set("batch.size", "1000000")
        .set("batch.num.messages", "20000")
        .set("queue.buffering.max.messages", "1000000")
        .create_with_context(deliveries.clone())
        .map_err(IngestError::kafka("producer"))?;
    let begin = Instant::now();
    let mut bytes = 0;
    let mut events = Events::new(args.seed, args.users, args.items);
    let mut good = 0;
    while good < args.events {
        let (user, event) = if events.chance(args.hostile) {
            (events.number(), events.damaged())
        } else {
            good += 1;
            events.next()
        };
        bytes += event.len() as u64;
        // By user, as producers do; the partition is given because hashing is not what is measured.
        let partition = (user % args.partitions.unsigned_abs() as u64) as i32;
        let mut record = BaseRecord::<(), [u8]>::to(topic).partition(partition).payload(event);
        while let Err((error, back)) = producer.send(record) {
            if error != KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) {
                return Err(IngestError::kafka(format!("send to {topic}"))(error));
            }
            record = back;
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    producer.flush(PATIENCE).map_err(IngestError::kafka(format!("flush to {topic}")))?;
    match deliveries.failed.get() {
        Some(error) => Err(IngestError::kafka(format!("delivery to {topic}"))(error.clone())),
        None => Ok((Rate { events: deliveries.done.load(Ordering::Relaxed), time: begin.elapsed() }, bytes)),
    }
}

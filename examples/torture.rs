//! Torture on the real thing: a real Kafka, a real RocksDB, and everything that can be broken: `make torture`.
//!
//! Events and forgets are sent all the time, a reader with `read_committed` holds every generation against its digest,
//! and in the end the data are counted against what was sent. Exits 1 when anything was lost, doubled, resurrected or torn.

#![allow(clippy::disallowed_methods, reason = "a measuring program reads the clock")]

#[path = "torture/arena.rs"]
mod arena;
#[path = "torture/blows.rs"]
mod blows;
#[path = "real/child.rs"]
mod child;
#[path = "../tests/support/cluster.rs"]
mod cluster;
#[path = "torture/damage.rs"]
mod damage;
#[path = "../tests/support/kafka.rs"]
mod kafka;
#[path = "real/oracle.rs"]
mod oracle;
#[path = "support/process.rs"]
mod process;
#[path = "torture/watcher.rs"]
mod watcher;
#[path = "torture/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arena::{Account, Arena, Brokers, Result};
use blows::Blow;
use clap::{Parser, ValueEnum};
use cluster::Cluster;
use kafka::Kafka;

#[derive(Debug, Parser)]
struct Args {
    /// Decides what is sent, and when each disturbance comes; printed. Default: taken from the clock
    #[arg(long)]
    seed: Option<u64>,
    /// Only these parts
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// This many times as many disturbances
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
}

/// Each on brokers of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Kills,
    Brokers,
    Leaders,
    Members,
    Zombies,
    Stops,
    Disks,
    Mixed,
    Flips,
}

impl Part {
    /// The disturbances of a part, in order, before they are scaled.
    fn blows(self) -> &'static [(Blow, u32)] {
        match self {
            Part::Kills => &[(Blow::Kill, 120)],
            Part::Brokers => &[(Blow::Broker, 12)],
            Part::Leaders => &[(Blow::Leader, 10)],
            Part::Members => &[(Blow::Join, 10), (Blow::Other, 5)],
            Part::Zombies => &[(Blow::Zombie, 10)],
            Part::Stops => &[(Blow::Stop, 8)],
            Part::Disks => &[(Blow::Full, 12)],
            Part::Mixed => &[(Blow::Leader, 3), (Blow::Kill, 20), (Blow::Join, 2), (Blow::Zombie, 2), (Blow::Stop, 2), (Blow::Full, 2)],
            Part::Flips => &[(Blow::Kill, 3)],
        }
    }

    /// Bytes that are flipped after.
    fn flips(self) -> u32 {
        if self == Part::Flips { 60 } else { 0 }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let seed = args.seed.unwrap_or(clock);
    println!("seed {seed}");
    let parts: Vec<Part> = Part::value_variants().iter().copied().filter(|part| args.only.is_empty() || args.only.contains(part)).collect();
    let (mut holds, mut struck, mut sum) = (true, BTreeMap::new(), Account::default());
    for part in parts {
        match run(part, seed, args.scale, &mut struck) {
            Ok(account) => {
                holds &= account.holds();
                add(&mut sum, account);
            }
            Err(error) => {
                println!("{part:?}: FAILED: {error}");
                holds = false;
            }
        }
    }
    table(&struck, &sum);
    println!("seed {seed}: {}", if holds { "everything holds" } else { "FAILED" });
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(part: Part, seed: u64, scale: f64, struck: &mut BTreeMap<String, u32>) -> Result<Account> {
    let began = Instant::now();
    let three = part.blows().iter().any(|(blow, _)| *blow == Blow::Leader);
    let brokers = if three { Brokers::Three(Cluster::start()) } else { Brokers::One(Kafka::start()) };
    let mut arena = Arena::start(brokers, seed ^ part as u64, part == Part::Disks)?;
    let scaled = |count: u32| (f64::from(count) * scale).ceil() as u32;
    let mut blows: Vec<Blow> = part.blows().iter().flat_map(|(blow, count)| (0..scaled(*count)).map(|_| *blow)).collect();
    for last in (1..blows.len()).rev() {
        blows.swap(last, arena.dice.below(last + 1));
    }
    let count = blows.len();
    for (at, blow) in blows.into_iter().enumerate() {
        eprint!("\r{part:?}: {} of {count}, {:.0} s: {}          ", at + 1, began.elapsed().as_secs_f64(), blow.name());
        blow.strike(&mut arena).map_err(|error| format!("{error}; readers saw {:?}", arena.findings()))?;
        *struck.entry(blow.name().to_owned()).or_default() += 1;
    }
    eprintln!();
    let mut account = arena.settle()?;
    if part.flips() > 0 {
        let flips = damage::flip(&mut arena, scaled(part.flips()) as usize)?;
        struck.insert("byte flipped: named".to_owned(), flips.named as u32);
        struck.insert("byte flipped: harmless".to_owned(), flips.harmless as u32);
        account.faults.extend(flips.faults);
    }
    println!("{part:?}: {} in {} s", line(&account), Duration::as_secs(&began.elapsed()));
    account.faults.iter().for_each(|fault| println!("    {fault}"));
    Ok(account)
}

fn add(sum: &mut Account, account: Account) {
    sum.plays += account.plays;
    sum.forgets += account.forgets;
    sum.repeated += account.repeated;
    sum.junk += account.junk;
    sum.generations += account.generations;
    sum.republished += account.republished;
    sum.lost += account.lost;
    sum.doubled += account.doubled;
    sum.resurrected += account.resurrected;
    sum.torn += account.torn;
    sum.faults.extend(account.faults);
}

fn line(account: &Account) -> String {
    let Account { plays, forgets, repeated, junk, generations, republished, lost, doubled, resurrected, torn, faults } = account;
    format!(
        "{plays} plays, {repeated} sent again, {forgets} forgets, {junk} unreadable, {generations} generations ({republished} published \
         again): lost {lost}, doubled {doubled}, resurrected {resurrected}, torn {torn}, other faults {}",
        faults.len().saturating_sub(*torn)
    )
}

fn table(struck: &BTreeMap<String, u32>, sum: &Account) {
    println!("\n{:<30} {:>6}", "disturbance", "times");
    struck.iter().for_each(|(name, times)| println!("{name:<30} {times:>6}"));
    let rows = [
        ("plays sent", sum.plays as u64),
        ("sent again", sum.repeated),
        ("forgets", sum.forgets as u64),
        ("generations", sum.generations),
        ("lost", sum.lost as u64),
        ("doubled", sum.doubled as u64),
        ("resurrected", sum.resurrected as u64),
        ("torn generations", sum.torn as u64),
        ("other faults", sum.faults.len().saturating_sub(sum.torn) as u64),
    ];
    println!();
    rows.iter().for_each(|(name, count)| println!("{name:<30} {count:>6}"));
}

//! How long physical erasure takes and what it rewrites: one user among millions of interactions, first on an idle store,
//! then while events are written as fast as they can be. Prints figures; needs neither Kafka nor a service.
//!
//! ```text
//! cargo run --locked --example purge -- --events 5000000
//! ```

#![allow(clippy::disallowed_methods, reason = "a measurement reads the clock")]

use std::cell::Cell;
use std::error::Error;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use nepenthe::model::factors::Side;
use nepenthe::model::play::{Play, ordered};
use nepenthe::store::rocks::RocksStore;
use nepenthe::store::{Batch, EraseStep, Erased, Family, KeyRange, Store, plays, rows};

#[derive(Parser)]
struct Args {
    /// Interactions in the store
    #[arg(long, default_value_t = 5_000_000)]
    events: u64,
    #[arg(long, default_value_t = 138_493)]
    users: u32,
    #[arg(long, default_value_t = 26_744)]
    items: u32,
    /// Length of a factor row
    #[arg(long, default_value_t = 64)]
    rank: usize,
    /// Erasures of each kind
    #[arg(long, default_value_t = 5)]
    repeats: u32,
    /// Where the store is made; removed at the end
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// Events of one synced batch.
const BATCH: u64 = 20_000;

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let scratch = args.dir.clone().map_or_else(tempfile::tempdir, tempfile::tempdir_in)?;
    let store = RocksStore::open(scratch.path())?;
    fill(&store, &args)?;
    let bytes: u64 = store.sizes().iter().map(|(_, bytes)| bytes).sum();
    println!("{} interactions of {} users, {} items, rank {}: {} MB", args.events, args.users, args.items, args.rank, bytes / 1_000_000);
    let head = ("one user", "seconds", "files", "MB", "M events/s", "flush + rewrite + roll + verify");
    println!("{:<28}{:>10}{:>10}{:>12}{:>16}   {}", head.0, head.1, head.2, head.3, head.4, head.5);
    for n in 0..args.repeats {
        forget(&store, &args, n)?.show("idle", None);
    }
    let written = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| -> Result<(), Box<dyn Error>> {
        let (store, args, written, stop) = (&store, &args, &written, &stop);
        let ingest = scope.spawn(move || {
            for at in (args.events..).step_by(BATCH as usize) {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                play(store, args, at..at + BATCH)?;
                written.fetch_add(BATCH, Ordering::Relaxed);
            }
            Ok::<(), nepenthe::store::StoreError>(())
        });
        std::thread::sleep(Duration::from_secs(2));
        let rate = |since: Instant, from: u64| (written.load(Ordering::Relaxed) - from) as f64 / since.elapsed().as_secs_f64() / 1e6;
        let (began, from) = (Instant::now(), written.load(Ordering::Relaxed));
        std::thread::sleep(Duration::from_secs(3));
        println!("{:<66}{:>10.2}", "ingest alone", rate(began, from));
        for n in 0..args.repeats {
            let (began, from) = (Instant::now(), written.load(Ordering::Relaxed));
            let erased = forget(store, args, 1_000 + n)?;
            erased.show("during ingest", Some(rate(began, from)));
            std::thread::sleep(Duration::from_secs(1));
        }
        stop.store(true, Ordering::Relaxed);
        ingest.join().map_err(|_| "the writing thread panicked")??;
        Ok(())
    })?;
    Ok(())
}

/// Deletes a user as the service does, and erases what the service would.
fn forget(store: &RocksStore, args: &Args, user: u32) -> Result<Forgotten, Box<dyn Error>> {
    let prefix = user.to_be_bytes();
    let mut batch = Batch::default();
    let mut of_user = Vec::new();
    plays::each(store, (user, user.checked_add(1)), &mut |play, _| {
        of_user.push(play);
        Ok(())
    })?;
    plays::take_out(&mut batch, store, &of_user)?;
    batch.delete(Family::Identities, &rows::identity_key(Side::User, user));
    batch.delete(Family::UserFactors, &prefix);
    store.write(&batch)?;
    factors(store, args)?;
    let whole = [Family::UserFactors, Family::ItemFactors, Family::Ledger, Family::Outbox, Family::Meta];
    let mut ranges: Vec<KeyRange> = whole.map(KeyRange::all).into();
    ranges.push(plays::range_of(user));
    ranges.push(KeyRange::under(Family::Identities, &rows::identity_key(Side::User, user)));
    let began = Instant::now();
    let steps = [const { Cell::new(None) }; EraseStep::ALL.len()];
    let erased = store.erase(&ranges, &|step| {
        let at = &steps[step as usize];
        // A step may come several times.
        at.set(at.get().or_else(|| Some(began.elapsed().as_secs_f64())));
        true
    })?;
    if let Some(leftover) = &erased.leftover {
        return Err(leftover.as_str().into());
    }
    let seconds = began.elapsed().as_secs_f64();
    // One that had nothing to do is over as it begins.
    let mut next = seconds;
    let mut began = steps.map(|step| step.get());
    began.iter_mut().rev().for_each(|at| next = *at.get_or_insert(next));
    Ok(Forgotten { seconds, steps: began.map(|at| at.unwrap_or(seconds)), erased })
}

/// One erasure, and when its steps began.
struct Forgotten {
    seconds: f64,
    steps: [f64; EraseStep::ALL.len()],
    erased: Erased,
}

impl Forgotten {
    fn show(&self, what: &str, rate: Option<f64>) {
        let rate = rate.map_or(String::new(), |rate| format!("{rate:.2}"));
        let ends = self.steps[1..].iter().chain([&self.seconds]);
        let steps: Vec<String> = self.steps.iter().zip(ends).map(|(from, to)| format!("{:.2}", to - from)).collect();
        let Forgotten { seconds, erased, .. } = self;
        println!("{what:<28}{seconds:>10.3}{:>10}{:>12.1}{rate:>16}   {}", erased.files, erased.bytes as f64 / 1e6, steps.join(" + "));
    }
}

fn fill(store: &RocksStore, args: &Args) -> Result<(), nepenthe::store::StoreError> {
    for (side, count) in [(Side::User, args.users), (Side::Item, args.items)] {
        let mut batch = Batch::default();
        (0..count)
            .for_each(|n| batch.put(Family::Identities, &rows::identity_key(side, n), &rows::versioned(format!("name-{n}").as_bytes())));
        store.write(&batch)?;
    }
    for at in (0..args.events).step_by(BATCH as usize) {
        play(store, args, at..(at + BATCH).min(args.events))?;
    }
    factors(store, args)
}

fn play(store: &RocksStore, args: &Args, range: std::ops::Range<u64>) -> Result<(), nepenthe::store::StoreError> {
    let number = range.start / BATCH;
    let made = |n: u64| {
        let (a, b) = (mixed(n), mixed(n ^ 0x5555_5555));
        // Few items have most of the plays.
        let item = ((b % 1_000_003) as f64 / 1_000_003.0).powi(3) * f64::from(args.items);
        let user = (a % u64::from(args.users)) as u32;
        (Play { user, item: item as u32, ident: Some(mixed(a ^ b)), time: n as i64, value: ordered(1.0) }, "")
    };
    let mut all: Vec<(Play, &str)> = range.map(made).collect();
    all.sort_unstable();
    let mut batch = Batch::default();
    plays::put(&mut batch, &all, number);
    store.write(&batch)
}

/// A generation writes every row.
fn factors(store: &RocksStore, args: &Args) -> Result<(), nepenthe::store::StoreError> {
    let mut batch = Batch::default();
    for (family, count) in [(Family::UserFactors, args.users), (Family::ItemFactors, args.items)] {
        for n in 0..count {
            let row: Vec<f64> = (0..args.rank).map(|k| mixed(u64::from(n) << 10 | k as u64) as f64 / 1e19).collect();
            batch.put_with(family, |key| key.extend(n.to_be_bytes()), |value| rows::put_factors(value, &row));
        }
    }
    store.write(&batch)
}

/// SplitMix64.
fn mixed(n: u64) -> u64 {
    let mut z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

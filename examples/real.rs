//! The whole way on MovieLens-100K through a real Kafka: `make real`.
//!
//! Learns, then forgets a person, a pair, an item for everybody and a window, and holds each result against a model that
//! never saw the events; then does the same with `kill -9` at random moments. Exits 1 when a claim does not hold.

#![allow(clippy::disallowed_methods, reason = "a measuring program reads the clock")]

#[path = "real/child.rs"]
mod child;
#[path = "real/oracle.rs"]
mod oracle;
#[path = "support/process.rs"]
mod process;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use child::Installation;
use clap::Parser;
use nepenthe::model::{Certify, Objective, Params};
use oracle::Model;
use serde_json::{Value, json};

type Result<T> = std::result::Result<T, String>;

#[derive(Debug, Parser)]
struct Args {
    #[arg(long)]
    brokers: String,
    /// `ml-100k.inter` of RecBole: user, item, rating, seconds, tab separated with a header
    #[arg(long)]
    data: PathBuf,
    #[arg(long, default_value_t = 32)]
    rank: usize,
    /// With regularization_exp 1; the default lets λ and not the rank decide, so that retrains agree
    #[arg(long)]
    regularization: Option<f64>,
    #[arg(long, default_value_t = 1e-6)]
    tolerance: f64,
    /// Ratings instead of plays
    #[arg(long)]
    explicit: bool,
    /// Kills in the second part
    #[arg(long, default_value_t = 10)]
    kills: u32,
    /// Decides when they come
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// One line of the data.
struct Play {
    user: String,
    item: String,
    millis: i64,
    event: String,
}

struct Wish {
    name: &'static str,
    arguments: Vec<String>,
    covers: Box<dyn Fn(&Play) -> bool>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("real: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<bool> {
    let params = params(args);
    let plays = read(args)?;
    let wishes = wishes(&plays);
    let dir = tempfile::TempDir::with_prefix("nepenthe-real-").map_err(|e| e.to_string())?;
    let run = std::process::id();
    println!(
        "{} plays; {:?}, rank {}, λ {}, ν {}, tolerance {:.0e}",
        plays.len(),
        params.objective,
        params.rank,
        params.regularization,
        params.regularization_exp,
        params.tolerance
    );
    let mut calm = Installation::make(&args.brokers, &format!("calm-{run}"), dir.path(), &settings(&params))?;
    let mut holds = learn_and_forget(&mut calm, &params, &plays, &wishes)?;
    let quiet = account(&mut calm, &wishes)?;
    let mut torn = Installation::make(&args.brokers, &format!("torn-{run}"), dir.path(), &settings(&params))?;
    let kills = learn_and_forget_under_fire(&mut torn, args, &plays, &wishes)?;
    let storm = account(&mut torn, &wishes)?;
    let model = Model::of_state(&torn.state)?;
    let (distance, same) = model.distance(&Model::of_state(&calm.state)?)?;
    let equal = storm == quiet && distance <= 1e-5;
    println!(
        "{kills} × kill -9: data, verify and receipts {}, predictions {distance:.1e} apart, top 10 same {:.2} %  {}",
        if storm == quiet { "as without" } else { "DIFFER" },
        same * 100.0,
        verdict(equal)
    );
    if storm != quiet {
        println!("without: {quiet}\nwith:    {storm}");
    }
    holds &= equal;
    Ok(holds)
}

fn params(args: &Args) -> Params {
    let objective = if args.explicit { Objective::Explicit } else { Objective::Implicit };
    Params {
        objective,
        rank: args.rank,
        regularization: args.regularization.unwrap_or(if args.explicit { 0.12 } else { 0.05 }),
        regularization_exp: 1.0,
        alpha: 1.0,
        unobserved_weight: 0.1,
        tolerance: args.tolerance,
        certify: Certify::Residual,
        max_sweeps: 5_000,
        seed: 42,
        threads: 0,
    }
}

fn settings(params: &Params) -> Vec<String> {
    let mut settings = child::model_settings(params);
    settings.extend(["generation.max_delay=1s", "generation.max_events=100000", "generation.forget_delay=0ms"].map(str::to_owned));
    settings
}

fn read(args: &Args) -> Result<Vec<Play>> {
    let text = std::fs::read_to_string(&args.data).map_err(|e| format!("{}: {e}", args.data.display()))?;
    let line = |(at, line): (usize, &str)| {
        let fields: Vec<&str> = line.split('\t').collect();
        let [user, item, rating, seconds] = fields[..] else { return Err(format!("line {}: not four fields", at + 2)) };
        let rating: f64 = rating.parse().map_err(|e| format!("line {}: {e}", at + 2))?;
        let millis = (seconds.parse::<f64>().map_err(|e| format!("line {}: {e}", at + 2))? * 1000.0) as i64;
        let value = if args.explicit { rating } else { 1.0 };
        let event = json!({"user": user, "item": item, "value": value, "time": millis}).to_string();
        Ok(Play { user: user.to_owned(), item: item.to_owned(), millis, event })
    };
    text.lines().skip(1).enumerate().map(line).collect()
}

/// A person of average activity, a pair, an item that many have, and half of a busy person's time.
fn wishes(plays: &[Play]) -> Vec<Wish> {
    let count = |of: fn(&Play) -> &String| {
        let mut counts = std::collections::BTreeMap::<&str, usize>::new();
        plays.iter().for_each(|play| *counts.entry(of(play)).or_default() += 1);
        let mut counts: Vec<(usize, String)> = counts.into_iter().map(|(name, n)| (n, name.to_owned())).collect();
        counts.sort();
        counts
    };
    let (users, items) = (count(|play| &play.user), count(|play| &play.item));
    let average = plays.len() / users.len();
    let person = users[users.partition_point(|user| user.0 < average)].1.clone();
    let busy = users[users.len() - 5].1.clone();
    let item = items[items.len() - 20].1.clone();
    let other = users[users.len() / 3].1.clone();
    let pair = plays.iter().find(|play| play.user == other).map(|play| play.item.clone()).unwrap_or_default();
    let mut times: Vec<i64> = plays.iter().filter(|play| play.user == busy).map(|play| play.millis).collect();
    times.sort_unstable();
    let (from, to) = (times[times.len() / 2], times[times.len() - 1]);
    let text = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    vec![
        Wish { name: "person", arguments: text(&["--user", &person]), covers: Box::new(move |play| play.user == person) },
        Wish {
            name: "pair",
            arguments: text(&["--user", &other, "--item", &pair]),
            covers: Box::new(move |play| play.user == other && play.item == pair),
        },
        Wish { name: "item", arguments: text(&["--item", &item, "--everybody"]), covers: Box::new(move |play| play.item == item) },
        Wish {
            name: "window",
            arguments: text(&["--user", &busy, "--from", &from.to_string(), "--to", &to.to_string()]),
            covers: Box::new(move |play| play.user == busy && (from..=to).contains(&play.millis)),
        },
    ]
}

fn lines(plays: &[Play]) -> String {
    plays.iter().fold(String::new(), |text, play| text + &play.event + "\n")
}

/// Everything sent is in a certified, published generation.
fn settled(status: &Value, interactions: u64) -> bool {
    status["counts"]["interactions"] == interactions && certified(status) && status["phase"] == "idle" && status["outbox"] == 0
}

fn certified(status: &Value) -> bool {
    let number = |name: &str| status["certificate"][name].as_f64();
    number("residual").zip(number("tolerance")).is_some_and(|(residual, tolerance)| residual <= tolerance)
}

fn learn_and_forget(service: &mut Installation, params: &Params, plays: &[Play], wishes: &[Wish]) -> Result<bool> {
    // Sent before the start, so that one generation learns everything from nothing.
    service.feed(&["send", "-", "--format", "jsonl"], &lines(plays))?;
    let began = Instant::now();
    service.start()?;
    let distinct = plays.len() as u64;
    service.until("first generation", |status| settled(status, distinct))?;
    let certificate = service.status()["certificate"].clone();
    println!("learned in {:.1} s from the start: {certificate}", began.elapsed().as_secs_f64());
    let mut holds = check("learned", service, params, plays, &[], &json!({}))?;
    for at in 0..wishes.len() {
        let mut arguments = vec!["forget", "--wait", "published", "--request-id", wishes[at].name];
        arguments.extend(wishes[at].arguments.iter().map(String::as_str));
        let receipt = service.json(&arguments)?;
        holds &= check(wishes[at].name, service, params, plays, &wishes[..=at], &receipt)?;
    }
    Ok(holds)
}

/// Holds the state against a model of the remaining data from another seed, trained further than the service trains.
fn check(name: &str, service: &Installation, params: &Params, plays: &[Play], forgotten: &[Wish], receipt: &Value) -> Result<bool> {
    let left = plays.iter().filter(|play| !forgotten.iter().any(|wish| (wish.covers)(play)));
    let reference = Params { seed: params.seed + 1, tolerance: params.tolerance * 1e-3, ..params.clone() };
    let scratch = Model::from_scratch(&reference, left.map(|play| play.event.as_str()))?;
    let model = Model::of_state(&service.state)?;
    let (distance, same) = model.distance(&scratch)?;
    let holds = model.data == scratch.data && model.residual <= params.tolerance && distance <= 1e-5 && same >= 0.999;
    println!(
        "{name:8} sweeps {:3} (from scratch {:3} to {:.0e})  forgotten {:5}  arrival to published {}  E0 {}  residual {:.1e}  \
         RMS {distance:.1e}  top 10 same {:.2} %  rank {}  {}",
        model.sweeps,
        scratch.sweeps,
        reference.tolerance,
        receipt["removed"]["interactions"].as_u64().unwrap_or(0),
        seconds(receipt).map_or("-".to_owned(), |seconds| format!("{seconds:.2} s")),
        if model.data == scratch.data { "equal" } else { "DIFFERS" },
        model.residual,
        same * 100.0,
        model.effective_rank.map_or("?".to_owned(), |rank| rank.to_string()),
        verdict(holds),
    );
    Ok(holds)
}

fn verdict(holds: bool) -> &'static str {
    if holds { "ok" } else { "FAILED" }
}

/// From the acceptance of a request to its publication.
fn seconds(receipt: &Value) -> Option<f64> {
    let at = |stage: &str| receipt["stages"][stage].as_str()?.parse::<jiff::Timestamp>().ok();
    Some((at("published")?.as_millisecond() - at("accepted")?.as_millisecond()) as f64 / 1e3)
}

/// The same events and requests while the service is killed again and again.
fn learn_and_forget_under_fire(service: &mut Installation, args: &Args, plays: &[Play], wishes: &[Wish]) -> Result<u32> {
    let mut random = args.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut pause = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        Duration::from_millis(300 + random % 1500)
    };
    service.feed(&["send", "-", "--format", "jsonl"], &lines(plays))?;
    let early = args.kills / 2;
    for _ in 0..early {
        service.start()?;
        std::thread::sleep(pause());
        service.kill();
    }
    // Requests follow once everything is taken in: what a receipt counts is what was there before.
    service.start()?;
    let distinct = plays.len() as u64;
    service.until("first generation", |status| settled(status, distinct))?;
    for wish in wishes {
        let mut arguments = vec!["forget", "--request-id", wish.name];
        arguments.extend(wish.arguments.iter().map(String::as_str));
        service.done(&arguments)?;
        service.kill();
        service.start()?;
        std::thread::sleep(pause());
    }
    let so_far = early + wishes.len() as u32;
    for _ in so_far..args.kills {
        service.kill();
        service.start()?;
        std::thread::sleep(pause());
    }
    Ok(args.kills.max(so_far))
}

/// What must be equal with and without kills: the data, the check of the topic by a reader, the receipts.
fn account(service: &mut Installation, wishes: &[Wish]) -> Result<Value> {
    let mut receipts = Vec::new();
    for wish in wishes {
        // Asking again answers with the same receipt.
        let mut arguments = vec!["forget", "--wait", "published", "--request-id", wish.name];
        arguments.extend(wish.arguments.iter().map(String::as_str));
        let receipt = service.json(&arguments)?;
        let part = |name: &str| receipt[name].clone();
        receipts.push(json!([part("request_id"), part("status"), part("removed"), part("exactness")]));
    }
    service.until("settled service", |status| certified(status) && status["phase"] == "idle" && status["outbox"] == 0)?;
    service.done(&["verify"])?;
    service.stop()?;
    let status = service.json(&["status", "--json", "--data-digest"])?;
    Ok(json!({"data": status["data_digest"], "counts": {
        "users": status["manifest"]["counts"]["users"],
        "items": status["manifest"]["counts"]["items"],
        "interactions": status["manifest"]["counts"]["interactions"],
    }, "receipts": receipts}))
}

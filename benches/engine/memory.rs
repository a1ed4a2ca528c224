//! The memory of a running service that has learnt a large model from a real Kafka, forgotten somebody, and started again.

use std::fmt::Write as _;

use nepenthe::model::ratings::Ratings;
use serde_json::Value;

use super::Plan;
use crate::child::Installation;
use crate::support::report::Report;

const RANK: usize = 64;
/// Interactions sent by one command.
const BATCH: usize = 1_000_000;
/// 2024-01-01T00:00:00Z in milliseconds.
const FIRST_TIME: usize = 1_704_067_200_000;
/// Bytes that an interaction may take beyond three times the factors.
const ALLOWED: f64 = 20.0;

/// Sends every pair as one interaction, has the service learn and forget, and reads the largest resident set.
pub fn run(report: &mut Report, plan: &Plan, brokers: &str, ratings: Ratings) -> Result<(), String> {
    let dir = tempfile::TempDir::with_prefix("nepenthe-memory-").map_err(|e| e.to_string())?;
    // Loose enough to be certified in few sweeps: how long it takes is measured elsewhere.
    let settings = ["model.tolerance=1e-2", "generation.max_delay=24h", "generation.max_events=1000000000", "generation.forget_delay=0s"];
    let mut settings = settings.map(str::to_owned).to_vec();
    settings.push(format!("model.rank={RANK}"));
    let mut service = Installation::make(brokers, &format!("memory-{}", std::process::id()), dir.path(), &settings)?;
    let (sent, rows) = (ratings.pairs(), ratings.users.len() + ratings.items.len());
    let mean = sent as usize / ratings.users.len();
    let average = (0..ratings.users.len()).min_by_key(|&user| ratings.users.degree(user).abs_diff(mean)).unwrap_or(0);
    let heavy = (0..ratings.users.len()).max_by_key(|&user| ratings.users.degree(user)).unwrap_or(0);
    send(&service, &ratings)?;
    drop(ratings);
    let mut watched = Watched { report, asked: !plan.quick, interactions: sent as f64, factors: (rows * RANK * size_of::<f64>()) as f64 };
    watched.report.say("three times the factors (f64, rows × rank × 8 bytes)", format!("{:.0} MB", 3.0 * watched.factors / 1e6));
    service.start()?;
    service.until("first answer", |status| !status.is_null())?;
    watched.say("started, empty", &service)?;
    service.until("every interaction", |status| status["events_accepted"] == sent)?;
    watched.say("all interactions stored", &service)?;
    // A generation starts because somebody waits for it.
    for (at, user) in [average, heavy].into_iter().enumerate() {
        let (name, before) = (format!("user-{user:06}"), service.status()["generation"].as_u64());
        service.done(&["forget", "--user", &name, "--request-id", &name])?;
        service.until("a certified generation", |status| certified(status) && status["generation"].as_u64() > before)?;
        service.until("an empty outbox", |status| status["outbox"] == 0)?;
        watched.hold(["first generation published", "second generation published"][at], &service)?;
    }
    service.stop()?;
    service.start()?;
    service.until("a restored state", |status| status["ready"] == true)?;
    watched.hold("started again on its state", &service)?;
    service.stop()
}

fn certified(status: &Value) -> bool {
    let number = |name: &str| status["certificate"][name].as_f64();
    status["phase"] == "idle" && number("residual").zip(number("tolerance")).is_some_and(|(residual, tolerance)| residual <= tolerance)
}

/// JSON lines into `nepenthe send`.
fn send(service: &Installation, ratings: &Ratings) -> Result<(), String> {
    let (mut text, mut held, mut number) = (String::new(), 0, 0);
    for user in 0..ratings.users.len() {
        let (items, values) = ratings.users.row(user);
        for (item, value) in items.iter().zip(values) {
            let time = FIRST_TIME + number * 7;
            // Writing to a string cannot fail.
            let _ = writeln!(text, r#"{{"user":"user-{user:06}","item":"item-{item:05}","value":{value},"time":{time}}}"#);
            number += 1;
        }
        held += items.len();
        if held >= BATCH || user + 1 == ratings.users.len() {
            service.feed(&["send", "-", "--format", "jsonl"], &text)?;
            (held, text) = (0, String::new());
        }
    }
    Ok(())
}

struct Watched<'a> {
    report: &'a mut Report,
    asked: bool,
    interactions: f64,
    /// Bytes of the factors once.
    factors: f64,
}

impl Watched<'_> {
    fn say(&mut self, when: &str, service: &Installation) -> Result<(), String> {
        let peak = peak(service)?;
        self.report.say(format!("{when}: largest resident set so far"), format!("{:.0} MB", peak / 1e6));
        Ok(())
    }

    fn hold(&mut self, when: &str, service: &Installation) -> Result<(), String> {
        let peak = peak(service)?;
        let bytes = (peak - 3.0 * self.factors) / self.interactions;
        let figure = format!("{:.0} MB, {bytes:.1} bytes", peak / 1e6);
        let what = format!("{when}: largest resident set so far; an interaction beyond 3 × factors");
        self.report.hold_if(self.asked, what, figure, format!("≤ {ALLOWED} bytes"), bytes <= ALLOWED);
        Ok(())
    }
}

/// The largest resident set of the service so far, bytes; from the kernel, which keeps it for every process.
fn peak(service: &Installation) -> Result<f64, String> {
    let file = format!("/proc/{}/status", service.pid().ok_or("the service does not run")?);
    let text = std::fs::read_to_string(&file).map_err(|e| format!("{file}: {e}; memory is measured on Linux only"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix("kB")?.trim().parse::<f64>().ok());
    line.map(|kib| kib * 1024.0).ok_or(format!("{file} has no VmHWM"))
}

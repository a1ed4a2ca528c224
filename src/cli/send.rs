//! `nepenthe send`: interactions from a file or from stdin into the topic.

pub mod columns;
pub mod input;
pub mod lines;

use std::io::Read;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::ProgressBar;
use serde_json::json;

use self::input::{InputArgs, Tally, open, shown};
use self::lines::Lines;
use super::output::{self, plural};
use super::{CliError, client_settings};
use crate::config::Config;
use crate::kafka::OutRecord;
use crate::kafka::admin::{Outlet, end_offsets};

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  nepenthe send ratings.csv --time-unit s                 user,item,value,time; a header is noticed
  nepenthe send ml-100k.inter --time-unit s --no-value    RecBole's headers are understood
  nepenthe send plays.tsv --user listener --item track --time played_at --no-value
  zcat events.jsonl.gz | nepenthe send - --format jsonl   JSON lines go as they are

Sending a file again changes nothing where its lines have times or event ids.")]
pub struct SendArgs {
    /// CSV, TSV or JSON lines; - is stdin
    file: String,
    #[command(flatten)]
    input: InputArgs,
    /// Stop after so many events
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Summary as JSON on stdout
    #[arg(long)]
    json: bool,
}

/// Sends the file's interactions, keyed by user.
///
/// # Errors
/// Exit 2 when the file, its format or its columns are not what the options say; 1 at a bad line beyond `--skip-bad`
/// or when the broker does not take the events. What went out before stays sent.
#[expect(clippy::disallowed_methods, reason = "a command is the rim: the rate shown is that of the clock on the wall")]
pub fn run(config: &Config, args: &SendArgs) -> Result<(), CliError> {
    let format = args.input.format(&args.file)?;
    let (input, size) = open(&args.file)?;
    let topic = &config.topics.interactions;
    let settings = client_settings(config)?;
    // A broker may make the topic by itself when something is sent, with one partition and a retention nobody chose.
    end_offsets(&settings, topic).map_err(CliError::failed)?;
    let mut outlet = Outlet::new(&settings).map_err(CliError::failed)?;
    let began = Instant::now();
    let bar = size.map_or_else(output::spinner, output::bytes_bar);
    let mut lines = Lines::new(input, format, config.model.objective);
    let mut progress = |tally: &Tally| show(&bar, tally, size.is_some(), began.elapsed());
    let sent = args.input.pump(&args.file, args.limit, &mut lines, &mut progress, |event| {
        let record = OutRecord { topic: topic.clone(), key: Some(event.key), value: Some(event.payload), headers: Vec::new() };
        outlet.send(&record).map_err(CliError::failed)
    });
    // Also after a bad line: what was handed over before it must have arrived or be known not to have.
    let delivered = outlet.flush().map_err(CliError::failed);
    bar.finish_and_clear();
    let tally = sent.map_err(|stop| with_count(stop, delivered.as_ref().ok().copied()))?;
    delivered?;
    summary(args, topic, tally, began.elapsed(), without_time(&lines))
}

fn show(bar: &ProgressBar, tally: &Tally, sized: bool, elapsed: Duration) {
    let rate = rate(tally.taken, elapsed);
    if sized {
        bar.set_position(tally.bytes);
        bar.set_message(format!("{rate} events/s"));
    } else {
        bar.set_message(format!("{}  {rate}/s", plural(tally.taken, "event")));
    }
}

/// Events a second, for reading.
fn rate(sent: u64, elapsed: Duration) -> String {
    output::count((sent as f64 / elapsed.as_secs_f64().max(1e-3)) as u64)
}

fn with_count(stop: CliError, delivered: Option<u64>) -> CliError {
    match delivered {
        Some(n) if n > 0 => {
            let again = "sending the file again is safe where lines have times or event ids";
            CliError::new(stop.exit, format!("{}\n  {} had been sent before; {again}", stop.message, plural(n, "event")))
        }
        _ => stop,
    }
}

/// A table whose events get the time of their sending: sent twice they count twice.
fn without_time<R: Read>(lines: &Lines<R>) -> bool {
    lines.columns().is_some_and(|columns| columns.time.is_none() && columns.event_id.is_none())
}

fn summary(args: &SendArgs, topic: &str, tally: Tally, elapsed: Duration, timeless: bool) -> Result<(), CliError> {
    let left_out = if tally.skipped > 0 { format!(", {} left out", plural(tally.skipped, "bad line")) } else { String::new() };
    let seconds = elapsed.as_secs_f64();
    let events = plural(tally.taken, "event");
    output::note(&format!("sent {events} to {topic} in {seconds:.1} s ({} events/s){left_out}", rate(tally.taken, elapsed)));
    if timeless && tally.taken > 0 {
        output::warning("no column held times: the events count as happening now, and sending them again adds to them");
    }
    if args.json {
        let file = shown(&args.file);
        let Tally { taken: sent, skipped, bytes } = tally;
        output::out_json(&json!({"file": file, "topic": topic, "sent": sent, "skipped": skipped, "bytes": bytes, "seconds": seconds}))?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "send_tests.rs"]
mod tests;

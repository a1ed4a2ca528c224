//! `nepenthe audit`: proof that something was forgotten, for one request that was served or for samples that are
//! forgotten on a copy in memory. The state is only read, and a service may be running on it.

mod case;
mod compare;
mod copy;
mod inference;
mod overlay;
mod page;
mod plots;
mod progress;
mod report;
mod roc;
mod sample;
mod svg;
mod trials;

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use jiff::Timestamp;

use self::case::{Bench, steps_of_request, steps_of_sample};
use self::progress::Steps;
use self::report::{Method, Report, StateFacts, Verdict};
use self::sample::{Kind, Share, share};
use super::output::{self, Stream, Table, Tone, colour, plural};
use super::reading::{self, State};
use super::{CliError, top_n};
use crate::config::Config;
use crate::model::{Objective, Params};

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  nepenthe audit --html proof.html                           1 % of all pairs, forgotten on a copy
  nepenthe audit erase-4711 --html proof.html --json -       a request that was served
  nepenthe audit --sample random,heaviest,popular --share 1,1%

Exit code 0 when every rung that is claimed holds, 1 when one does not.")]
pub struct AuditArgs {
    /// Request id of a forget that was served; without it, a sample is forgotten on a copy
    pub request: Option<String>,
    /// What samples take; several by commas [default: pairs, unless a request is given]
    #[arg(long, value_enum, value_name = "KIND", value_delimiter = ',')]
    pub sample: Vec<Kind>,
    /// How many: a number such as 1, or a percentage such as 1%; several by commas [default: 1%]
    #[arg(long, value_name = "SHARE", value_delimiter = ',', value_parser = share)]
    pub share: Vec<Share>,
    /// Models trained from scratch to compare with, 2 to 20
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=20))]
    pub seeds: u8,
    /// Length of the lists that are compared, 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = top_n())]
    pub top: usize,
    /// Most users whose predictions are compared
    #[arg(long, value_name = "N", default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..))]
    pub users: u32,
    /// Another seed, another sample
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    pub sample_seed: u64,
    /// All figures as JSON; - is stdout
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// A page to read, print and keep
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// What is audited.
#[derive(Debug, Clone, PartialEq)]
enum Task {
    Request(String),
    Sample(Kind, Share),
}

/// Audits, writes what is asked for, and tells whether everything that is claimed holds.
///
/// # Errors
/// Exit 1 when a rung that is claimed does not hold, or something cannot be read, solved or written; 2 for samples that
/// cannot be taken, files that cannot be written and settings that are not those of the state; 4 for a damaged state.
pub fn run(config: &Config, args: &AuditArgs) -> Result<(), CliError> {
    for file in [&args.json, &args.html].into_iter().flatten().filter(|file| !is_stdout(file)) {
        writable(file)?;
    }
    if args.html.as_deref().is_some_and(is_stdout) {
        return Err(CliError::usage("--html - is not possible: name a file for the page"));
    }
    let state = reading::state(config)?;
    let report = in_pool(config.model.threads, || audit(&config.model, args, &state))??;
    write(args, &report)?;
    if report.holds { Ok(()) } else { Err(CliError::failed(failures(&report))) }
}

/// Before hours of work: the directory is there, and the name is not one.
fn writable(file: &Path) -> Result<(), CliError> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        return Err(CliError::usage(format!("cannot write {}: there is no directory {}", file.display(), folder.display())));
    }
    if file.is_dir() {
        return Err(CliError::usage(format!("cannot write {}: it is a directory; name a file in it", file.display())));
    }
    Ok(())
}

fn is_stdout(file: &Path) -> bool {
    file == Path::new("-")
}

fn in_pool<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> Result<T, CliError> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|at| format!("solver-{at}")).build();
    let pool = pool.map_err(|error| CliError::failed(format!("cannot start the solver's threads: {error}; lower model.threads")))?;
    Ok(pool.install(work))
}

fn tasks(args: &AuditArgs) -> Vec<Task> {
    let request = args.request.clone().map(Task::Request);
    let asked = !args.sample.is_empty() || !args.share.is_empty() || request.is_none();
    let kinds = if args.sample.is_empty() { &[Kind::Pairs][..] } else { &args.sample };
    let shares = if args.share.is_empty() { &[Share::Percent(1.0)][..] } else { &args.share };
    let samples = kinds.iter().flat_map(|&kind| shares.iter().map(move |&share| Task::Sample(kind, share)));
    request.into_iter().chain(samples.filter(|_| asked)).collect()
}

#[expect(clippy::disallowed_methods, reason = "commands read the clock")]
fn audit(params: &Params, args: &AuditArgs, state: &State) -> Result<Report, CliError> {
    let (began, created) = (Instant::now(), Timestamp::now());
    let tasks = tasks(args);
    let other_settings = other_settings(params, state);
    if !other_settings.is_empty() {
        let differ = other_settings.join(", ");
        if args.request.is_some() {
            return Err(CliError::usage(format!(
                "the model in the state was made with other settings ({differ}): give the service's --config, or --set what differs"
            )));
        }
        output::warning(&format!("the model in the state was made with other settings ({differ}); the audit trains its own"));
    }
    let seeds = usize::from(args.seeds);
    let method = Method { seeds, top: args.top, users: args.users as usize, seed: args.sample_seed };
    let steps = Steps::new(
        tasks.iter().map(|task| if matches!(task, Task::Request(_)) { steps_of_request(seeds) } else { steps_of_sample(seeds) }).sum(),
    );
    let bench = Bench { state, params, method: &method, steps: &steps, now: created.as_millisecond() };
    let cases = tasks
        .iter()
        .map(|task| match task {
            Task::Request(id) => bench.request(id),
            Task::Sample(kind, share) => bench.sample(*kind, *share),
        })
        .collect::<Result<Vec<_>, CliError>>()?;
    let holds = cases.iter().flat_map(|case| &case.rungs).all(|rung| rung.verdict != Verdict::Fails);
    Ok(Report {
        version: env!("CARGO_PKG_VERSION"),
        created,
        seconds: began.elapsed().as_secs_f64(),
        holds,
        state: facts(&bench)?,
        model: params.clone(),
        other_settings,
        method,
        cases,
    })
}

/// What decides where training ends, and differs from what the state's generation was made with.
fn other_settings(params: &Params, state: &State) -> Vec<String> {
    let Some(current) = &state.restored.current else { return Vec::new() };
    let made = &current.manifest.model.params;
    let implicit = params.objective == Objective::Implicit;
    let numbers = [
        ("rank", made.rank as f64, params.rank as f64, true),
        ("regularization", made.regularization, params.regularization, true),
        ("regularization_exp", made.regularization_exp, params.regularization_exp, true),
        ("alpha", made.alpha, params.alpha, implicit),
        ("unobserved_weight", made.unobserved_weight, params.unobserved_weight, implicit),
    ];
    let differ = numbers.into_iter().filter(|(_, theirs, ours, counts)| *counts && theirs != ours);
    differ.map(|(name, theirs, ours, _)| format!("model.{name}={theirs}, here {ours}")).collect()
}

/// What the state is, counted from its data.
fn facts(bench: &Bench<'_>) -> Result<StateFacts, CliError> {
    let copy = bench.copy()?;
    let ratings = copy.state.ratings();
    let manifest = bench.state.restored.current.as_ref().map(|current| &current.manifest);
    Ok(StateFacts {
        generation: manifest.map(|manifest| manifest.generation),
        created: manifest.map(|manifest| manifest.created),
        digest: manifest.map(|manifest| manifest.digest.clone()),
        behind: copy.state.changed(),
        users: case::live(&ratings.users) as u64,
        items: case::live(&ratings.items) as u64,
        pairs: ratings.pairs(),
        interactions: ratings.interactions(),
    })
}

fn write(args: &AuditArgs, report: &Report) -> Result<(), CliError> {
    let save = |file: &Path, text: &str| {
        std::fs::write(file, text).map_err(|error| CliError::failed(format!("cannot write {}: {error}", file.display())))
    };
    if let Some(file) = &args.html {
        save(file, &page::page(report))?;
    }
    let json = |report| serde_json::to_value(report).map_err(|error| CliError::failed(format!("cannot write the report as JSON: {error}")));
    match &args.json {
        Some(file) if is_stdout(file) => return output::out_json(&json(report)?),
        Some(file) => save(file, &format!("{:#}\n", json(report)?))?,
        None => (),
    }
    output::out(&screen(report, colour(Stream::Out)))
}

/// The report for a terminal.
fn screen(report: &Report, colour: bool) -> String {
    let mut text = String::new();
    for case in &report.cases {
        text.push_str(&output::paint(&page::asked(case), Tone::Strong, colour));
        let gone = plural(case.forgotten.interactions, "interaction");
        let ways = match (case.warm.sweeps(), case.cold.sweeps()) {
            (0, cold) => format!("{cold} sweeps from scratch"),
            (warm, cold) => format!("{} after forgetting, {cold} from scratch", plural(warm as u64, "sweep")),
        };
        text.push_str(&format!("\n{gone} forgotten; {ways}\n{}\n\n", page::remark(case)));
        let mut table = Table::new(&["", "", "", "measured", "needed"]);
        for rung in &case.rungs {
            let (word, tone) = match rung.verdict {
                Verdict::Holds => ("holds", Tone::Good),
                Verdict::Fails => ("FAILS", Tone::Bad),
                Verdict::NotClaimed => ("not claimed", Tone::Faint),
            };
            let plain = |text: &str| (text.to_owned(), Tone::Plain);
            table.row([
                (rung.rung.to_owned(), Tone::Strong),
                plain(rung.claim),
                (word.to_owned(), tone),
                plain(&rung.measured),
                plain(&rung.threshold),
            ]);
        }
        text.push_str(&table.render(colour));
        text.push('\n');
        case.rungs.iter().for_each(|rung| text.push_str(&format!("{}  {}\n", rung.rung, rung.words)));
        if let inference::Outcome::Measured(found) = &case.inference {
            let two = found.two_snapshots;
            let areas = format!("AUC {:.3}; with a retrain as the later one {:.3}", two.unlearned.value, two.retrained.value);
            text.push_str(&format!("    Who holds the model of before as well: {areas}.\n"));
        }
        text.push('\n');
    }
    text.push_str(&format!("{}\n", report::TWO_SNAPSHOTS));
    text
}

/// Which rungs do not hold, and where.
fn failures(report: &Report) -> String {
    let of_case = |case: &report::Case| {
        let failed: Vec<&str> = case.rungs.iter().filter(|rung| rung.verdict == Verdict::Fails).map(|rung| rung.rung).collect();
        (!failed.is_empty()).then(|| format!("{}: {}", page::asked(case), failed.join(", ")))
    };
    let failed: Vec<String> = report.cases.iter().filter_map(of_case).collect();
    format!("what was claimed does not hold ({}); keep the report, and look at the service's log of that generation", failed.join("; "))
}

#[cfg(test)]
mod tests;

//! What the engine costs, as ratios within one run: `make bench`.
//!
//! Sweeps against a large matrix product and against other libraries on the same matrix, forgets against retrains, the
//! certificate against a sweep, and the memory of a running service. Prints a table; `--readme` puts it into a file.

#![allow(clippy::disallowed_methods, reason = "a measuring program reads the clock")]

#[path = "../examples/real/child.rs"]
mod child;
#[path = "engine/forget.rs"]
mod forget;
#[path = "engine/memory.rs"]
mod memory;
#[path = "../examples/support/process.rs"]
mod process;
#[path = "engine/retrain.rs"]
mod retrain;
mod support;
#[path = "engine/sweep.rs"]
mod sweep;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, ValueEnum};
use forget::World;
use nepenthe::config::{Config, Sources};
use nepenthe::model::ratings::Ratings;
use nepenthe::model::{Objective, Params};
use support::movielens;
use support::report::{Report, timed};
use support::world;

/// Where the tables of `--readme` begin.
const MARK: &str = "<!-- the last tables -->";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Sweep,
    Peers,
    Forget,
    Retrain,
    Memory,
}

#[derive(Debug, Parser)]
struct Args {
    /// Small worlds and few repetitions: to see that it works, not how fast
    #[arg(long)]
    quick: bool,
    /// Only these parts
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// Python with `implicit` and `lenskit`; without it the peers are left out
    #[arg(long)]
    python: Option<PathBuf>,
    /// Kafka that may be filled; without it the memory of a running service is left out
    #[arg(long)]
    brokers: Option<String>,
    /// `ml-100k.inter` of RecBole; without it what is measured on MovieLens-100K is left out
    #[arg(long)]
    data: Option<PathBuf>,
    /// File that the tables of the measured parts are put into
    #[arg(long)]
    readme: Option<PathBuf>,
    /// Cargo says this to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

/// What is to be measured, and how long.
pub struct Plan {
    pub quick: bool,
    pub python: Option<PathBuf>,
    data: Option<PathBuf>,
    brokers: Option<String>,
    only: Vec<Part>,
}

impl Plan {
    /// Repetitions of what is short.
    pub fn rounds(&self) -> usize {
        if self.quick { 2 } else { 3 }
    }

    fn has(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), String> {
    let plan = Plan {
        quick: args.quick,
        python: args.python.clone(),
        data: args.data.clone(),
        brokers: args.brokers.clone(),
        only: args.only.clone(),
    };
    let mut report = Report::default();
    let (done, seconds) = timed(|| measure(&plan, &mut report));
    done?;
    println!("\n{} figures are not what they must be; {:.0} s in all", report.missed(), seconds);
    args.readme.as_deref().map_or(Ok(()), |file| write(file, &report))
}

fn measure(plan: &Plan, report: &mut Report) -> Result<(), String> {
    if plan.has(Part::Sweep) || plan.has(Part::Peers) {
        let shape = if plan.quick { world::MEDIUM } else { world::LARGE };
        let large = Arc::new(world::generate(&shape));
        let name = described(&large);
        if plan.has(Part::Sweep) {
            report.part(format!("Sweeps: {name}"));
            sweep::run(report, plan, &large)?;
        }
        if plan.has(Part::Peers) && plan.python.is_some() {
            report.part(format!("Other libraries, k = 64, λ = 10, float32: {name}"));
            sweep::peers(report, plan, &large)?;
        }
    }
    if plan.has(Part::Retrain) {
        retrains(plan, report)?;
    }
    if plan.has(Part::Forget) {
        forgets(plan, report)?;
    }
    if plan.has(Part::Memory)
        && let Some(brokers) = &plan.brokers
    {
        let ratings = world::generate(&if plan.quick { world::MEDIUM } else { world::LARGE });
        report.part(format!("Memory of `nepenthe run`, k = 64: {}", described(&ratings)));
        memory::run(report, plan, brokers, ratings)?;
    }
    Ok(())
}

/// The defaults of `[model]`.
fn defaults(objective: Objective) -> Result<Params, String> {
    let name = if objective == Objective::Explicit { "explicit" } else { "implicit" };
    let overrides = vec![("model.objective".to_owned(), name.to_owned())];
    let config = Config::load(&Sources { overrides, ..Sources::default() });
    config.map(|config| config.model).map_err(|e| e.to_string())
}

fn retrains(plan: &Plan, report: &mut Report) -> Result<(), String> {
    let Some(data) = &plan.data else { return Ok(()) };
    report.part("Two converged trainings from other seeds, MovieLens-100K");
    let (plays, ratings) = (Arc::new(movielens::read(data, true)?), Arc::new(movielens::read(data, false)?));
    let (implicit, explicit) = (defaults(Objective::Implicit)?, defaults(Objective::Explicit)?);
    retrain::run(report, &implicit, &plays, false)?;
    retrain::run(report, &explicit, &ratings, false)?;
    retrain::run(report, &Params { rank: 16, regularization: 0.08, ..explicit }, &ratings, true)
}

/// Weights at which the models take up a good part of their rank, and plain alternation takes long: with the defaults of
/// `[model]` the generated worlds, whose tastes are simple, are learnt in a few sweeps.
fn slow(rank: usize, regularization: f64) -> Result<Params, String> {
    Ok(Params { rank, regularization, regularization_exp: 0.0, unobserved_weight: 0.1, ..defaults(Objective::Implicit)? })
}

fn forgets(plan: &Plan, report: &mut Report) -> Result<(), String> {
    let two = sweep::pool(2)?;
    let mut part = |name: String, world: World| {
        let Params { rank, regularization, regularization_exp, unobserved_weight, .. } = world.params;
        report.part(format!("Forgetting, {name}; rank {rank}, λ {regularization}, ν {regularization_exp}, a0 {unobserved_weight}"));
        two.install(|| forget::run(report, &world))
    };
    if let Some(data) = &plan.data {
        let ratings = Arc::new(movielens::read(data, true)?);
        let world = World { params: slow(64, 7.0)?, ratings, reference: 1e-10, plain: 1_000, all: true, asked: true };
        part("MovieLens-100K".to_owned(), world)?;
    }
    let world = if plan.quick {
        World {
            params: slow(64, 20.0)?,
            ratings: Arc::new(world::generate(&world::SMALL)),
            reference: 1e-9,
            plain: 100,
            all: true,
            asked: false,
        }
    } else {
        let ratings = Arc::new(world::generate(&world::LARGE));
        // At weights like those above, the rank binds in this world, or a reference takes an hour.
        World { params: defaults(Objective::Implicit)?, ratings, reference: 1e-7, plain: 60, all: false, asked: true }
    };
    part(described(&world.ratings), world)
}

/// Size and tails of some ratings, in words.
fn described(ratings: &Ratings) -> String {
    let longest = |rows: &nepenthe::model::ratings::Rows| (0..rows.len()).map(|row| rows.degree(row)).max().unwrap_or(0);
    format!(
        "{} × {}, {} pairs, at most {} of a user and {} of an item",
        ratings.users.len(),
        ratings.items.len(),
        ratings.pairs(),
        longest(&ratings.users),
        longest(&ratings.items)
    )
}

/// Replaces the tables of the measured parts after the mark.
fn write(file: &Path, report: &Report) -> Result<(), String> {
    let words = |e: std::io::Error| format!("{}: {e}", file.display());
    let text = std::fs::read_to_string(file).map_err(words)?;
    let (head, tables) = text.split_once(MARK).ok_or_else(|| format!("{}: has no line {MARK:?}", file.display()))?;
    std::fs::write(file, format!("{head}{MARK}\n{}", report.markdown(tables))).map_err(words)
}

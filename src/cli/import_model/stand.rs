//! The state that a model is imported into: read as it stands, solved from other factors, written once.

use std::sync::Arc;
use std::time::Instant;

use indicatif::ProgressBar;
use pulp::Arch;
use rayon::prelude::*;

use super::ids::Known;
use super::report::{Cold, Start};
use crate::cli::reading::hash_key;
use crate::cli::{CliError, output};
use crate::config::Config;
use crate::model::als::Weights;
use crate::model::certificate::measure;
use crate::model::factors::{Factors, Side, initial_row};
use crate::model::fence::HashKey;
use crate::model::generation::Current;
use crate::model::processor::{InputTopics, State};
use crate::model::ratings::Rows;
use crate::model::unlearn::{self, Problem, Solution, Unwatched, Watch};
use crate::model::{Objective, Params};
use crate::run::now;
use crate::store::rocks::{Held, RocksStore};
use crate::store::tables::Tables;
use crate::store::{Family, Store};

/// Users whose predictions are compared; more would cost longer than they tell.
const COMPARED: usize = 256;

/// A state as it was read.
pub struct Stand<'c> {
    config: &'c Config,
    state: State,
    tables: Tables,
    key: HashKey,
    pool: rayon::ThreadPool,
}

/// A state after its commit; the directory is free again.
pub struct Made {
    state: State,
    pool: rayon::ThreadPool,
    params: Params,
}

impl<'c> Stand<'c> {
    /// Reads the state directory of the configuration, and nothing else: no byte of it changes.
    ///
    /// # Errors
    /// Exit 1 when there is none or it has no interactions, 2 when it was made under another objective, 4 when it is damaged.
    pub fn open(config: &'c Config) -> Result<Stand<'c>, CliError> {
        let store: Arc<dyn Store> = Arc::new(RocksStore::read(&config.store.path)?);
        let key = hash_key(&*store, config)?;
        let mut empty = true;
        store.scan(Family::Interactions, b"", None, &mut |_, _| {
            empty = false;
            std::ops::ControlFlow::Break(())
        })?;
        if empty {
            let path = config.store.path.display();
            return Err(CliError::failed(format!(
                "the state in {path} holds no interactions yet; let `nepenthe run` read the events first"
            )));
        }
        // A state with interactions has all that this would write into a new one.
        let tables = Tables::new(store, config.model.objective, &key)?;
        let inputs = InputTopics { interactions: config.topics.interactions.clone(), forgets: config.topics.forgets.clone() };
        let bar = output::spinner();
        bar.set_message("reading the state");
        let state = State::open(config.model.clone(), inputs, tables.restore(key.clone())?, &tables)?;
        bar.finish_and_clear();
        if state.ratings().pairs() == 0 {
            return Err(CliError::failed("every interaction of the state is forgotten; there is nothing to solve"));
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(config.model.threads).build();
        let pool = pool.map_err(|error| CliError::failed(format!("cannot start the solver's threads: {error}; lower model.threads")))?;
        Ok(Stand { config, state, tables, key, pool })
    }

    /// May a generation be made now? The rows of one that waits to be published are the current one's.
    ///
    /// # Errors
    /// Exit 1 while a generation waits.
    pub fn check_free(&self) -> Result<(), CliError> {
        if self.tables.comeback()?.is_some() {
            return Err(CliError::failed(
                "the state came from a backup and has not caught up; let `nepenthe run` do that, and import then",
            ));
        }
        if self.tables.backlog()?.generation {
            let message = "the last generation waits to be published; let `nepenthe run` publish it, stop it, and import then";
            return Err(CliError::failed(message));
        }
        Ok(())
    }

    /// What the state knows of a side.
    pub fn known(&self, side: Side) -> Known<'_> {
        let ratings = self.state.ratings();
        let rows = match side {
            Side::User => &ratings.users,
            Side::Item => &ratings.items,
        };
        Known { side, dictionary: self.state.dictionary(), rows }
    }

    /// How far factors are from the certificate on the state's data: as they are with users, after the users are
    /// solved from the items without. Costs a sweep at most.
    ///
    /// # Errors
    /// Exit 1 when a row cannot be solved.
    pub fn look(&self, factors: &Factors, with_users: bool) -> Result<Start, CliError> {
        let mut problem = start_from(problem(&self.state, &self.config.model), factors);
        let Some(previous) = problem.previous.clone().filter(|_| with_users) else {
            problem.params.max_sweeps = 1;
            let solution = self.pool.install(|| unlearn::solve(Arch::new(), &problem, &Unwatched)).map_err(unsolved)?;
            return Ok(Start { residual: solution.trace.first().copied().unwrap_or(solution.measured.residual), objective: None });
        };
        let weights = Weights::new(&problem.params, mean(&problem));
        let measured = self.pool.install(|| measure(Arch::new(), &problem.ratings, &previous, &weights));
        Ok(Start { residual: measured.residual, objective: Some(measured.objective) })
    }

    /// Solves from these factors and commits the result as the next generation, as the service does.
    ///
    /// # Errors
    /// Exit 1 when a row cannot be solved or the store cannot be written; nothing is committed then.
    #[expect(clippy::disallowed_methods, reason = "a command is the rim: how long a solve takes is told, and decides nothing")]
    pub fn go_on_from(mut self, factors: &Factors, held: Held) -> Result<Made, CliError> {
        let mut job = self.state.freeze(&self.tables)?;
        job.problem = start_from(problem(&self.state, &self.config.model), factors);
        let began = Instant::now();
        let outcome = Shown::watch("from the import", |shown| self.pool.install(|| job.run(shown))).map_err(unsolved)?;
        let new = self.state.adopt(outcome, began.elapsed().as_secs_f64(), now());
        let Some(current) = self.state.current() else { return Err(CliError::failed("the solve came to nothing")) };
        let store = Arc::new(RocksStore::open_held(&self.config.store.path, held)?);
        Tables::new(store, self.config.model.objective, &self.key)?.commit_generation(&new, current)?;
        Ok(Made { params: self.config.model.clone(), state: self.state, pool: self.pool })
    }
}

impl Made {
    /// The generation that stands now.
    pub fn current(&self) -> Option<&Current> {
        self.state.current()
    }

    /// What a start from nothing needs on the same data, and how far from it the predictions are.
    ///
    /// # Errors
    /// Exit 1 when a row cannot be solved.
    #[expect(clippy::disallowed_methods, reason = "a command is the rim: how long a solve takes is told, and decides nothing")]
    pub fn cold(&self) -> Result<Cold, CliError> {
        let problem = problem(&self.state, &self.params);
        let began = Instant::now();
        let solution = Shown::watch("from nothing", |shown| self.pool.install(|| unlearn::solve(Arch::new(), &problem, shown)));
        let seconds = began.elapsed().as_secs_f64();
        let Solution { factors, measured, sweeps, .. } = solution.map_err(unsolved)?;
        let warm = self.current().map(|current| current.factors.clone());
        let distance = warm.map_or(f64::NAN, |warm| self.pool.install(|| distance(&warm, &factors)));
        let certified = measured.residual <= self.params.tolerance;
        Ok(Cold { sweeps, seconds, residual: measured.residual, objective: measured.objective, certified, distance })
    }
}

fn unsolved(error: impl std::fmt::Display) -> CliError {
    CliError::failed(format!("{error}; the state is what it was"))
}

fn mean(problem: &Problem) -> f64 {
    if problem.params.objective == Objective::Explicit { problem.ratings.mean() } else { 0.0 }
}

/// A cold start on all that the state holds.
fn problem(state: &State, params: &Params) -> Problem {
    let ratings = state.ratings().clone();
    let first = |item: usize| {
        let name = state.dictionary().name(Side::Item, item as u32)?;
        Some((item as u32, initial_row(params.seed, Side::Item, name, params.rank)))
    };
    let initial = live(&ratings.items).filter_map(first).collect();
    Problem { params: params.clone(), ratings, previous: None, initial }
}

fn live(rows: &Rows) -> impl Iterator<Item = usize> {
    (0..rows.len()).filter(|&row| rows.degree(row) > 0)
}

/// The same problem from these factors. Rows that they lack are there and zero until the solver starts, so that they
/// count as rows.
fn start_from(mut problem: Problem, factors: &Factors) -> Problem {
    problem.initial.retain(|(item, _)| !factors.items.is_live(*item as usize));
    let mut factors = factors.clone();
    for (side, rows) in [(Side::User, &problem.ratings.users), (Side::Item, &problem.ratings.items)] {
        let (table, zeros) = (factors.side_mut(side), vec![0.0; problem.params.rank]);
        let missing: Vec<usize> = live(rows).filter(|&row| !table.is_live(row)).collect();
        missing.into_iter().for_each(|row| table.set(row, &zeros));
    }
    Problem { previous: Some(Arc::new(factors)), ..problem }
}

/// Root of `Σ (a − b)² / Σ b²` over the predictions for all items of some users, evenly spread. Factors are compared through
/// predictions because a rotation of both sides changes nothing that matters.
fn distance(a: &Factors, b: &Factors) -> f64 {
    let users: Vec<usize> = b.users.rows().filter(|&user| a.users.is_live(user)).collect();
    let chosen: Vec<usize> = users.iter().copied().step_by(users.len().div_ceil(COMPARED).max(1)).collect();
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    let of_user = |&user: &usize| {
        b.items.rows().filter(|&item| a.items.is_live(item)).fold((0.0, 0.0), |(apart, size), item| {
            let mine = dot(a.users.raw(user), a.items.raw(item));
            let theirs = dot(b.users.raw(user), b.items.raw(item));
            (apart + (mine - theirs).powi(2), size + theirs.powi(2))
        })
    };
    let parts: Vec<(f64, f64)> = chosen.par_iter().map(of_user).collect();
    let (apart, size) = parts.into_iter().fold((0.0, 0.0), |all, part| (all.0 + part.0, all.1 + part.1));
    // Two models that predict nothing at all agree.
    if apart == 0.0 { 0.0 } else { (apart / size).sqrt() }
}

/// Shows on stderr how far a solve is.
struct Shown {
    bar: ProgressBar,
    from: &'static str,
}

impl Shown {
    fn watch<T>(from: &'static str, solve: impl FnOnce(&Shown) -> T) -> T {
        let shown = Shown { bar: output::spinner(), from };
        shown.bar.set_message(format!("solving {from}"));
        let solved = solve(&shown);
        shown.bar.finish_and_clear();
        solved
    }
}

impl Watch for Shown {
    fn swept(&self, sweep: u32, residual: f64) {
        self.bar.set_message(format!("solving {}: sweep {sweep}, residual {residual:.1e}", self.from));
    }
}

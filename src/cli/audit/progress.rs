//! How far an audit is, on stderr.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use indicatif::ProgressBar;
use pulp::Arch;

use crate::cli::{CliError, output};
use crate::model::unlearn::{Problem, Solution, Watch, solve};

/// Counts the steps of the whole audit.
pub struct Steps {
    done: AtomicUsize,
    all: usize,
}

impl Steps {
    pub fn new(all: usize) -> Steps {
        Steps { done: AtomicUsize::new(0), all }
    }

    /// Begins the next step.
    pub fn begin(&self, what: &str) -> Step {
        let at = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        let what = format!("step {at} of {}: {what}", self.all);
        Step::of(what)
    }

    /// Something short between the steps.
    pub fn aside(&self, what: &str) -> Step {
        Step::of(what.to_owned())
    }

    /// Solves a problem as a step of its own.
    ///
    /// # Errors
    /// Exit 1 with the row that cannot be solved.
    pub fn solve(&self, what: &str, problem: &Problem) -> Result<(Solution, Way), CliError> {
        let step = self.begin(what);
        let solved = solve(Arch::new(), problem, &step).map_err(|error| CliError::failed(format!("cannot {what}: {error}")))?;
        Ok((solved, step.way()))
    }
}

/// One step; what it showed goes with it.
pub struct Step {
    bar: ProgressBar,
    what: String,
    seen: Mutex<(Way, f64)>,
}

/// How a solve went, sweep by sweep.
#[derive(Debug, Clone, Default)]
pub struct Way {
    /// Largest residual that each sweep found.
    pub residuals: Vec<f64>,
    /// The objective in the middle of each sweep, when the users fit the items, up to a constant of the data.
    pub objectives: Vec<f64>,
}

impl Step {
    fn of(what: String) -> Step {
        let bar = output::spinner();
        bar.set_message(what.clone());
        Step { bar, what, seen: Mutex::new((Way::default(), f64::NAN)) }
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, (Way, f64)> {
        self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// What was seen of a solve.
    pub fn way(&self) -> Way {
        self.seen().0.clone()
    }

    /// Says how far the step itself is.
    pub fn at(&self, how_far: &str) {
        self.bar.set_message(format!("{}, {how_far}", self.what));
    }
}

impl Watch for Step {
    fn swept(&self, sweep: u32, residual: f64) {
        let (way, objective) = &mut *self.seen();
        way.residuals.push(residual);
        way.objectives.push(*objective);
        self.at(&format!("sweep {sweep}, residual {residual:.1e}"));
    }

    fn eliminated(&self, objective: f64, _: f64) {
        // Of a point that is thrown away the next call tells the better one.
        self.seen().1 = objective;
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

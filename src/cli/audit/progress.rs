//! How far an audit is, on stderr.

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
        let bar = output::spinner();
        bar.set_message(what.clone());
        Step { bar, what }
    }

    /// Something short between the steps.
    pub fn aside(&self, what: &str) -> Step {
        let bar = output::spinner();
        bar.set_message(what.to_owned());
        Step { bar, what: what.to_owned() }
    }

    /// Solves a problem as a step of its own.
    ///
    /// # Errors
    /// Exit 1 with the row that cannot be solved.
    pub fn solve(&self, what: &str, problem: &Problem) -> Result<Solution, CliError> {
        let step = self.begin(what);
        solve(Arch::new(), problem, &step).map_err(|error| CliError::failed(format!("cannot {what}: {error}")))
    }
}

/// One step; what it showed goes with it.
pub struct Step {
    bar: ProgressBar,
    what: String,
}

impl Step {
    /// Says how far the step itself is.
    pub fn at(&self, how_far: &str) {
        self.bar.set_message(format!("{}, {how_far}", self.what));
    }
}

impl Watch for Step {
    fn swept(&self, sweep: u32, residual: f64) {
        self.at(&format!("sweep {sweep}, residual {residual:.1e}"));
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

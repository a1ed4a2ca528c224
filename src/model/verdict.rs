//! What is said of a converged model when the global optimum was asked for: proven, or why not and what would help.

use std::fmt;
use std::sync::Arc;

use pulp::Arch;

use super::escape::Search;
use super::factors::{Factors, Table};
use super::global::{Bound, GAP, NoBound};
use super::unlearn::{Problem, Solution, Watch, solve};
use super::{Certify, Params};

/// Residual to which the trials of [`remedy`] converge: enough to see whether a direction outside the model is wanted.
const TRIAL: f64 = 1e-4;
/// Floating-point operations that the trials of one remedy may take: below a minute on two cores. A first generation
/// must not wait longer for advice.
const TRIAL_COST: f64 = 2e12;
/// Trials of a λ or of a rank.
const TRIALS: usize = 8;
/// A λ is found when the largest that is known to be too small is within this factor.
const CLOSE: f64 = 1.1;

/// The outcome of a global certificate.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    pub bound: Option<Bound>,
    /// `None` when the model is proven to be the global optimum, up to [`GAP`] of the objective.
    pub refused: Option<NotCertifiable>,
}

/// Why a model is not certified as the global optimum.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum NotCertifiable {
    #[error("not certifiable: {0}")]
    NoBound(#[from] NoBound),
    #[error("not certifiable: the rank binds (σ = {sigma:.6} with all {rank} directions in use, {missing} more wanted at least); {remedy}")]
    RankBinds { rank: usize, sigma: f64, missing: usize, remedy: Remedy },
    #[error("not certifiable: the gap is {share:.1e} of the objective, above {GAP:e}; lower model.tolerance or raise model.max_sweeps")]
    Gap { share: f64 },
}

/// The smallest changes that were found to make a model certifiable.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Remedy {
    /// Directions that the optimum uses when the rank lets it, and one.
    pub rank: Option<usize>,
    /// λ at which the rank at hand is enough.
    pub regularization: Option<f64>,
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.rank, self.regularization) {
            (None, None) => f.write_str("raise model.rank or model.regularization"),
            (Some(rank), None) => write!(f, "model.rank = {rank} would do, found by trials"),
            (None, Some(lambda)) => write!(f, "model.regularization = {lambda} would do, found by trials"),
            (Some(rank), Some(lambda)) => write!(f, "model.rank = {rank} or model.regularization = {lambda} would do, found by trials"),
        }
    }
}

impl Verdict {
    /// Weighs what was found at a converged point.
    pub fn of(bound: Result<Bound, NoBound>, rank: usize, objective: f64, search: Option<&Search>) -> Verdict {
        let refused = match (bound, search) {
            (Ok(bound), _) if bound.gap <= GAP * objective.abs() => None,
            (Ok(_), Some(search)) if search.binds => {
                Some(NotCertifiable::RankBinds { rank, sigma: search.sigma, missing: search.missing, remedy: Remedy::default() })
            }
            (Ok(bound), _) => Some(NotCertifiable::Gap { share: bound.gap / objective.abs() }),
            (Err(none), _) => Some(none.into()),
        };
        Verdict { bound: bound.ok(), refused }
    }

    /// Whether factors closer to their fixed point may have a smaller gap.
    pub fn may_improve(&self) -> bool {
        matches!(self.refused, Some(NotCertifiable::Gap { .. }))
    }
}

/// Looks for the smallest rank and the smallest λ with which a model whose rank binds could be certified, by going on
/// from its factors with other parameters, to a residual of 1e-4. Costs 2e12 floating-point operations each at most;
/// what was not found by then is `None`.
pub fn remedy(arch: Arch, problem: &Problem, factors: &Factors, search: &Search, watch: &dyn Watch) -> Remedy {
    let trials = || Trials { arch, problem, watch: Silent(watch), left: TRIAL_COST };
    Remedy { rank: trials().rank(factors, search.missing), regularization: trials().regularization(factors, search.sigma) }
}

/// Forwards only the wish to stop.
struct Silent<'a>(&'a dyn Watch);

impl Watch for Silent<'_> {
    fn swept(&self, _: u32, _: f64) {}

    fn cancelled(&self) -> bool {
        self.0.cancelled()
    }
}

struct Trials<'a> {
    arch: Arch,
    problem: &'a Problem,
    watch: Silent<'a>,
    /// Floating-point operations.
    left: f64,
}

impl Trials<'_> {
    /// A model with other parameters; `None` when it does not converge within what is left.
    fn solve(&mut self, from: &Factors, rank: usize, regularization: f64) -> Option<Solution> {
        let params = &self.problem.params;
        let ratings = &self.problem.ratings;
        let (k, rows) = (rank as f64, (ratings.users.len() + ratings.items.len()) as f64);
        let sweep = 4.0 * ratings.pairs() as f64 * k * k + rows * k.powi(3) / 3.0;
        let max_sweeps = ((self.left / sweep) as u32).min(params.max_sweeps);
        let params = Params { rank, regularization, max_sweeps, tolerance: TRIAL, certify: Certify::Residual, ..params.clone() };
        let previous = Some(Arc::new(widened(from, rank)));
        let problem = Problem { params, ratings: ratings.clone(), previous, initial: Vec::new() };
        let solution = solve(self.arch, &problem, &self.watch).ok()?;
        self.left -= f64::from(solution.sweeps) * sweep;
        (solution.measured.residual <= TRIAL).then_some(solution)
    }

    /// Widens the model until a direction stays unused.
    fn rank(&mut self, factors: &Factors, missing: usize) -> Option<usize> {
        // Generous steps: a rank that is too small by a little converges slowest of all.
        let (mut factors, mut missing) = (factors.clone(), missing);
        for _ in 0..TRIALS {
            let rank = factors.users.rank() + (4 * missing).max(8);
            let wider = self.solve(&factors, rank, self.problem.params.regularization)?;
            if !wider.rank_binds {
                return wider.effective_rank.map(|used| used + 1);
            }
            (factors, missing) = (wider.factors, missing.max(rank / 8));
        }
        None
    }

    /// Raises λ until the rank is enough, then halves the way back to the last one that was too small.
    fn regularization(&mut self, factors: &Factors, sigma: f64) -> Option<f64> {
        let rank = self.problem.params.rank;
        let (mut low, mut high, mut sigma) = (self.problem.params.regularization, None, sigma);
        let mut from = factors.clone();
        for _ in 0..TRIALS {
            // σ was seen to fall with the root of λ or slower.
            let tried = high.map_or(low * (sigma * sigma).max(CLOSE), |high: f64| (low * high).sqrt());
            let Some(solution) = self.solve(&from, rank, tried) else { break };
            if solution.rank_binds {
                (low, sigma) = (tried, solution.sigma.unwrap_or(1.0));
            } else {
                high = Some(tried);
            }
            from = solution.factors;
            if high.is_some_and(|high| high <= low * CLOSE) {
                break;
            }
        }
        high.map(rounded_up)
    }
}

/// The same factors in a model of a higher rank: the other directions are collapsed.
fn widened(factors: &Factors, rank: usize) -> Factors {
    let table = |table: &Table| {
        let mut wide = Table::new(rank);
        wide.grow(table.len());
        for row in table.rows() {
            let mut values = table.raw(row).to_vec();
            values.resize(rank, 0.0);
            wide.set(row, &values);
        }
        wide
    };
    Factors { users: table(&factors.users), items: table(&factors.items) }
}

/// Three significant digits, not below the value.
fn rounded_up(value: f64) -> f64 {
    let unit = 10f64.powf(value.log10().floor() - 2.0);
    let digits = (value / unit).ceil();
    // Parsed from its decimal form, so that it is printed as short as it is meant.
    format!("{:.*e}", 2, digits * unit).parse().unwrap_or(value)
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;

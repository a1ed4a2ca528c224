//! From trained factors and changed data to the optimum of the data that is left.

use std::sync::Arc;

use pulp::Arch;

use super::als::{Half, Kept, Precision, RowFailed, Swept, Weights, half_sweep, half_sweep_on};
use super::anderson::Anderson;
use super::certificate::{Measured, effective_rank, measure};
use super::escape::{self, Search};
use super::factors::{Factors, Side, Table};
use super::global;
use super::guard::Guard;
use super::ratings::Ratings;
use super::subspace::Subspace;
use super::verdict::{NotCertifiable, Verdict, remedy};
use super::{Certify, Objective, Params};

/// Differences kept by the accelerator.
pub const DEPTH: usize = 8;
/// Rise of the objective that is rounding and not the accelerator's fault, relative to its size.
const ROUNDING: f64 = 1e-13;
/// The same of a sweep in f32.
const SINGLE_ROUNDING: f64 = 1e-5;
/// Down to this residual sweeps are in f32, which keeps four digits of it and is a third faster.
const SINGLE_ABOVE: f64 = 1e-2;
/// Sweeps in f32 at the most: where a right-hand side cancels its residual has a floor in f32 that may lie higher.
const SINGLE_SWEEPS: usize = 16;
/// Down from this residual factorisations are kept for later sweeps: rows that are farther away move too much.
const KEPT_BELOW: f64 = 1.0;
/// Below this residual the rounding of the way back into the k-space may tell, and the whole is measured.
const TURNED: f64 = 1e-10;
/// Times that a saddle is left in one solve; each lowers the objective, and the first brings nearly all of it.
const ESCAPES: u32 = 8;
/// Sweeps after which it is looked again whether fewer directions would do.
const LOOK: usize = 8;
/// Where the global proof is not had at the tolerance, factors converge further by this factor, and again, ...
const DEEPER: f64 = 10.0;
/// ... down to this residual, which rounding lets every row reach that is not ill-conditioned.
const DEEPEST: f64 = 1e-11;

/// Everything a solve depends on.
#[derive(Debug, Clone)]
pub struct Problem {
    pub params: Params,
    pub ratings: Arc<Ratings>,
    /// Where to go on from; `None` starts cold.
    pub previous: Option<Arc<Factors>>,
    /// First values of the items that `previous` does not have (all of them when cold), by surrogate.
    pub initial: Vec<(u32, Vec<f64>)>,
}

/// Watches a solve and may end it.
pub trait Watch: Sync {
    /// After each sweep: its number from 1 and the largest relative residual that it found.
    fn swept(&self, sweep: u32, residual: f64);
    /// After each solve of the users, also of one that is thrown away: the objective, up to a constant of the data, and what of
    /// its fall is on trust ([`Swept::on_trust`]).
    fn eliminated(&self, _objective: f64, _on_trust: f64) {}
    /// True makes the solve stop at the next sweep, with what it has.
    fn cancelled(&self) -> bool {
        false
    }
}

/// A [`Watch`] that looks away.
pub struct Unwatched;

impl Watch for Unwatched {
    fn swept(&self, _: u32, _: f64) {}
}

/// Factors and what is known of them.
#[derive(Debug, Clone)]
pub struct Solution {
    pub factors: Factors,
    /// Mean of the ratings with the explicit objective, else 0.
    pub mean: f64,
    pub measured: Measured,
    pub sweeps: u32,
    pub effective_rank: Option<usize>,
    /// Largest singular value of the scaled gradient beside the directions in use, a lower bound: up to 1 (and rounding)
    /// no other model does better. `None` when the tolerance was not reached, or when rounding hides it.
    pub sigma: Option<f64>,
    /// All directions are in use and σ > 1: from another start the factors would have ended elsewhere.
    pub rank_binds: bool,
    /// With [`Certify::Global`] and a tolerance that was reached.
    pub verdict: Option<Verdict>,
    /// Largest residual found by each sweep.
    pub trace: Vec<f64>,
}

/// Goes on with alternating least squares on the remaining data until the certificate is below the tolerance, the
/// sweeps are used up or the watch cancels.
///
/// One sweep solves all users for the items' factors at hand, then all items for those users. The map from items to
/// items is accelerated; a mixed point that would raise the objective is thrown away for the plain one, so no sweep
/// ends above plain alternation. Each sweep costs up to `2 · pairs · k² + rows · k³/3` floating-point operations, with k no
/// more than the directions that the factors use and what fills them up to a multiple of 16 ([`Subspace`]).
///
/// A converged point may still be a saddle, above all after a warm start: [`escape`] looks for a direction that the
/// factors have given up and need again, and the sweeps go on from there.
///
/// # Errors
/// [`RowFailed`] names a row whose normal equations cannot be factorised.
///
/// # Source
/// Xu et al., *Netflix and Forget: Efficient and Exact Machine Unlearning from Bi-linear Recommendations*, 2023.
pub fn solve(arch: Arch, problem: &Problem, watch: &dyn Watch) -> Result<Solution, RowFailed> {
    solve_with(arch, problem, DEPTH, watch)
}

/// [`solve`] with another depth of the accelerator than [`DEPTH`]; 0 is plain alternation.
///
/// # Errors
/// As [`solve`].
pub fn solve_with(arch: Arch, problem: &Problem, depth: usize, watch: &dyn Watch) -> Result<Solution, RowFailed> {
    let mean = if problem.params.objective == Objective::Explicit { problem.ratings.mean() } else { 0.0 };
    let mut run = Run::new(arch, problem, mean, depth);
    let mut trace = Vec::new();
    let Found { measured, search, verdict } = run.descend(watch, &mut trace)?;
    let effective_rank = effective_rank(arch, &run.factors, run.reach);
    let (sigma, rank_binds) = (search.as_ref().map(|search| search.sigma), search.is_some_and(|search| search.binds));
    Ok(Solution { mean, measured, sweeps: trace.len() as u32, effective_rank, sigma, rank_binds, verdict, trace, factors: run.factors })
}

/// Where a descent ended.
struct Found {
    measured: Measured,
    /// What holds for exactly these factors; `None` when the target was not reached.
    search: Option<Search>,
    verdict: Option<Verdict>,
}

struct Run<'a> {
    arch: Arch,
    problem: &'a Problem,
    params: &'a Params,
    depth: usize,
    ratings: &'a Ratings,
    weights: Weights,
    factors: Factors,
    /// The directions along which `factors` are seen; `None` where those are all of the k-space.
    along: Option<Subspace>,
    counts: [usize; 2],
    /// Items that have first values, until these have been swept.
    fresh: Vec<usize>,
    /// `(Σ_observed target²)^½`: the size of predictions that meet every target.
    reach: f64,
}

impl<'a> Run<'a> {
    fn new(arch: Arch, problem: &'a Problem, mean: f64, depth: usize) -> Run<'a> {
        let (params, ratings) = (&problem.params, &*problem.ratings);
        let mut factors = problem.previous.as_deref().cloned().unwrap_or_else(|| Factors::new(params.rank));
        let weights = Weights::new(params, mean);
        let (squares, pairs) = targets(ratings, &weights);
        let unit = unit(squares, pairs);
        for (item, row) in &problem.initial {
            factors.items.set(*item as usize, &row.iter().map(|value| value * unit).collect::<Vec<f64>>());
        }
        keep_live(&mut factors.users, |row| ratings.users.degree(row), ratings.users.len());
        keep_live(&mut factors.items, |row| ratings.items.degree(row), ratings.items.len());
        let counts = [factors.users.count(), factors.items.count()];
        let fresh = problem.initial.iter().map(|(item, _)| *item as usize).collect();
        Run { arch, problem, params, depth, ratings, weights, factors, along: None, counts, fresh, reach: squares.sqrt() }
    }

    fn measure(&self, factors: &Factors) -> Measured {
        measure(self.arch, self.ratings, factors, &self.weights)
    }

    /// Converges and leaves saddles; then proves what there is to prove, and goes on converging while that may help.
    fn descend(&mut self, watch: &dyn Watch, trace: &mut Vec<f64>) -> Result<Found, RowFailed> {
        let mut target = self.params.tolerance;
        let mut found = self.descend_to(target, watch, trace)?;
        if self.params.certify == Certify::Residual || found.measured.residual > target {
            return Ok(found);
        }
        let mut verdict = self.judge(&found);
        while verdict.may_improve() && target > DEEPEST && self.has_sweeps(trace) && !watch.cancelled() {
            target = (target / DEEPER).max(DEEPEST);
            let kept = self.factors.clone();
            let deeper = self.descend_to(target, watch, trace)?;
            if deeper.measured.residual > self.params.tolerance {
                // Sweeps ran out on the way: what was certified stays.
                self.factors = kept;
                break;
            }
            found = deeper;
            verdict = self.judge(&found);
        }
        // A model that goes on from another was told when it started.
        if let (Some(NotCertifiable::RankBinds { remedy: found_by_trials, .. }), Some(search), None) =
            (&mut verdict.refused, &found.search, &self.problem.previous)
        {
            *found_by_trials = remedy(self.arch, self.problem, &self.factors, search, watch);
        }
        found.verdict = Some(verdict);
        Ok(found)
    }

    fn judge(&self, found: &Found) -> Verdict {
        let bound = global::bound(self.arch, self.ratings, &self.factors, &self.weights);
        Verdict::of(bound, self.params.rank, found.measured.objective, found.search.as_ref())
    }

    /// Converges to a residual of `target`, and again from every saddle that is found.
    fn descend_to(&mut self, target: f64, watch: &dyn Watch, trace: &mut Vec<f64>) -> Result<Found, RowFailed> {
        let mut found = self.descend_along(target, watch, trace)?;
        self.widen();
        if target < TURNED {
            found.measured = self.measure(&self.factors);
            while self.goes_on(&found.measured, target, watch, trace) {
                self.sweep(found.measured.residual, target, watch, trace)?;
                found.measured = self.measure(&self.factors);
            }
        }
        Ok(found)
    }

    /// As [`Run::descend_to`]; the factors are left as they are seen along the directions in use.
    fn descend_along(&mut self, target: f64, watch: &dyn Watch, trace: &mut Vec<f64>) -> Result<Found, RowFailed> {
        let mut measured = self.settle(target, watch, trace)?;
        for escapes in 0..=ESCAPES {
            if measured.residual > target {
                break;
            }
            let search = self.search(target);
            let goes_on = escapes < ESCAPES && self.has_sweeps(trace) && !watch.cancelled();
            let Some(ways) = search.as_ref().filter(|search| search.leads_on() && goes_on) else {
                return Ok(Found { measured, search, verdict: None });
            };
            let before = measured.objective;
            self.widen();
            escape::follow(self.ratings, &mut self.factors, &self.weights, ways);
            measured = self.settle(target, watch, trace)?;
            if measured.residual <= target && measured.objective >= before - ROUNDING * before.abs() {
                // The way led back to where it came from: σ stands, and says what is not certified.
                return Ok(Found { measured, search, verdict: None });
            }
        }
        Ok(Found { measured, search: None, verdict: None })
    }

    /// Looks for what would lower the objective. What is in use is all that is looked beside, so the directions in use tell as
    /// well as all of them that nothing is missing.
    fn search(&mut self, target: f64) -> Option<Search> {
        let of = |factors: &Factors| escape::search(self.arch, self.ratings, factors, &self.weights, target);
        let found = match &self.along {
            Some(_) => of(&self.factors),
            None => self.subspace().and_then(|subspace| of(&subspace.narrowed(&self.factors))),
        };
        if found.as_ref().is_some_and(|found| found.missing == 0) {
            return found;
        }
        self.widen();
        escape::search(self.arch, self.ratings, &self.factors, &self.weights, target)
    }

    fn has_sweeps(&self, trace: &[f64]) -> bool {
        (trace.len() as u32) < self.params.max_sweeps
    }

    fn goes_on(&self, measured: &Measured, target: f64, watch: &dyn Watch, trace: &[f64]) -> bool {
        measured.residual > target && self.has_sweeps(trace) && !watch.cancelled()
    }

    /// Converges until that holds when measured afresh: what the sweeps saw on their way may differ by rounding. The factors
    /// are left as they are seen along the directions in use, and what is measured there holds for the whole: rows that have
    /// no share in another direction have none of their residual there either.
    fn settle(&mut self, target: f64, watch: &dyn Watch, trace: &mut Vec<f64>) -> Result<Measured, RowFailed> {
        let mut measured = self.narrow(target);
        while self.goes_on(&measured, target, watch, trace) {
            self.sweep(measured.residual, target, watch, trace)?;
            measured = self.measure(&self.factors);
            if self.goes_on(&measured, target, watch, trace) {
                // Perhaps among fewer directions.
                self.widen();
                measured = self.narrow(target);
            }
        }
        Ok(measured)
    }

    /// Leaves out the directions that are not in use, and measures what is left. Factors that have reached the target with all
    /// of them stay as they are, to the bit.
    fn narrow(&mut self, target: f64) -> Measured {
        let subspace = self.subspace();
        self.fresh.clear();
        let Some(subspace) = subspace else { return self.measure(&self.factors) };
        let narrow = subspace.narrowed(&self.factors);
        let measured = self.measure(&narrow);
        if measured.residual <= target {
            let whole = self.measure(&self.factors);
            if whole.residual <= target {
                return whole;
            }
        }
        (self.factors, self.along) = (narrow, Some(subspace));
        measured
    }

    /// Back into the k-space.
    fn widen(&mut self) {
        if let Some(subspace) = self.along.take() {
            self.factors = subspace.widened(&self.factors);
        }
    }

    /// The directions in which to sweep, if those are fewer than all.
    fn subspace(&self) -> Option<Subspace> {
        let scales = escape::scales(self.ratings, &self.factors, &self.weights);
        if self.fresh.is_empty() {
            return Subspace::of(self.arch, &self.factors, &scales);
        }
        // First values point everywhere, and say nothing of what is needed.
        let mut known = self.factors.clone();
        self.fresh.iter().for_each(|&item| known.items.remove(item));
        Subspace::of(self.arch, &known, &scales)
    }

    /// Sweeps until a residual of at most `target` is seen, or until it is seen that half the directions would do;
    /// `residual` is that of the factors at hand.
    fn sweep(&mut self, mut residual: f64, target: f64, watch: &dyn Watch, trace: &mut Vec<f64>) -> Result<(), RowFailed> {
        let began = trace.len();
        let mut anderson = Anderson::new(self.depth);
        let (mut guard, mut single) = (Guard::new(), SINGLE_SWEEPS);
        let mut precision = Precision::Mixed;
        let mut kept: Option<[Kept; 2]> = None;
        while self.has_sweeps(trace) && !watch.cancelled() {
            if residual > SINGLE_ABOVE && single > 0 {
                (precision, single) = (Precision::Single, single - 1);
            } else if precision == Precision::Single {
                // What f32 took for the objective is no measure for f64.
                (precision, single, guard) = (Precision::Mixed, 0, Guard::new());
            }
            if residual <= KEPT_BELOW {
                let (ratings, factors) = (self.ratings, &self.factors);
                kept.get_or_insert_with(|| [Kept::new(&ratings.users, &factors.users), Kept::new(&ratings.items, &factors.items)]);
            }
            let rounding = if precision == Precision::Single { SINGLE_ROUNDING } else { ROUNDING };
            let (eliminated, on_trust) = self.solve_users(precision, of_side(&mut kept, Side::User), watch)?;
            if guard.rose(eliminated, on_trust, rounding)
                && let Some(plain) = anderson.last_image()
            {
                self.factors.items.values_mut().copy_from_slice(plain);
                anderson.restart();
                // With nothing on trust, so that it is known again where this stands.
                guard.set(self.solve_users(precision, None, watch)?.0);
            } else {
                guard.take(eliminated, on_trust);
            }
            let mut image = self.factors.items.clone();
            let items = Half { side: Side::Item, rows: &self.ratings.items, fixed: &self.factors.users, weights: &self.weights };
            let swept = solved(self.arch, items, precision, of_side(&mut kept, Side::Item), &mut image, self.counts[0])?;
            residual = swept.residual;
            trace.push(residual);
            watch.swept(trace.len() as u32, residual);
            if residual <= target {
                // The items are within the target. Users are nearly: where nothing can follow on that, they are made exact.
                if kept.is_some() && !self.has_sweeps(trace) {
                    self.solve_users(Precision::Mixed, None, watch)?;
                }
                return Ok(());
            }
            anderson.next(self.factors.items.values_mut(), image.values());
            if precision == Precision::Mixed && (trace.len() - began).is_multiple_of(LOOK) {
                let subspace = self.subspace();
                if subspace.is_some_and(|subspace| 2 * subspace.width() <= self.factors.items.rank()) {
                    break;
                }
            }
        }
        self.solve_users(Precision::Mixed, None, watch).map(|_| ())
    }

    /// Solves all users for the items at hand; answers the objective as a function of the items alone, up to a constant, and
    /// [`Swept::on_trust`].
    fn solve_users(&mut self, precision: Precision, kept: Option<&mut Kept>, watch: &dyn Watch) -> Result<(f64, f64), RowFailed> {
        let users = Half { side: Side::User, rows: &self.ratings.users, fixed: &self.factors.items, weights: &self.weights };
        let swept = solved(self.arch, users, precision, kept, &mut self.factors.users, self.counts[1])?;
        let penalty: f64 = self
            .factors
            .items
            .rows()
            .map(|row| {
                let lambda = self.weights.row(self.ratings.items.degree(row), self.counts[0]);
                lambda * self.factors.items.raw(row).iter().map(|x| x * x).sum::<f64>()
            })
            .sum();
        let eliminated = swept.eliminated + penalty;
        watch.eliminated(eliminated, swept.on_trust);
        Ok((eliminated, swept.on_trust))
    }
}

/// A half-sweep, with what is kept of earlier ones where there is that.
fn solved(
    arch: Arch,
    half: Half<'_>,
    precision: Precision,
    kept: Option<&mut Kept>,
    target: &mut Table,
    others: usize,
) -> Result<Swept, RowFailed> {
    match kept {
        Some(kept) => half_sweep_on(arch, half, precision, kept, target, others),
        None => half_sweep(arch, half, precision, target, others),
    }
}

fn of_side(kept: &mut Option<[Kept; 2]>, side: Side) -> Option<&mut Kept> {
    kept.as_mut().map(|kept| &mut kept[side as usize])
}

/// What first values are multiplied by: the root of what predictions ask for, so that neither side has to make up for
/// the unit of the ratings. Takes what [`targets`] answers.
pub(super) fn unit(squares: f64, pairs: u64) -> f64 {
    if pairs == 0 { 1.0 } else { (squares / pairs as f64).sqrt().sqrt() }
}

/// Sum of the squares of what predictions ask for, and the number of pairs.
pub(super) fn targets(ratings: &Ratings, weights: &Weights) -> (f64, u64) {
    let (mut squares, mut pairs) = (0.0, 0u64);
    for row in 0..ratings.users.len() {
        let (_, values) = ratings.users.row(row);
        squares += values.into_iter().map(|value| weights.target(value).powi(2)).sum::<f64>();
        pairs += values.len() as u64;
    }
    (squares, pairs)
}

/// Rows with data exist, rows without do not.
fn keep_live(table: &mut Table, degree: impl Fn(usize) -> usize, len: usize) {
    table.grow(len);
    let zeros = vec![0.0; table.rank()];
    for row in 0..table.len() {
        match (degree(row) > 0, table.is_live(row)) {
            (true, false) => table.set(row, &zeros),
            (false, true) => table.remove(row),
            _ => (),
        }
    }
}

#[cfg(test)]
#[path = "unlearn_tests.rs"]
mod tests;

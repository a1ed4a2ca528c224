//! Half-sweeps of alternating least squares: every row of one side solved exactly while the other side is held.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::factors::{Side, Table};
use super::kernel::{self, Buffer, NotPositiveDefinite};
use super::ratings::Rows;
use super::schedule::{self, Task};
use super::{Objective, Params};

mod double;
mod kept;
mod mixed;
pub mod residual;

pub use kept::Kept;

/// Bytes of counterparts gathered at a time: half of a first-level cache, so that those asked for next fit beside them.
const PANEL: usize = 16 << 10;
/// A right-hand side shorter than this share of what its terms add up to without cancelling counts as this long.
/// It is what lets a model whose optimum is zero converge.
const FLOOR: f64 = 1e-6;

/// How pairs and rows enter the objective.
#[derive(Debug, Clone, Copy)]
pub struct Weights {
    objective: Objective,
    alpha: f64,
    /// a0; 0 with the explicit objective.
    pub unobserved: f64,
    regularization: f64,
    regularization_exp: f64,
    /// μ of the explicit objective.
    pub mean: f64,
}

impl Weights {
    /// `mean` is the mean of all ratings; only read with the explicit objective.
    pub fn new(params: &Params, mean: f64) -> Weights {
        let explicit = params.objective == Objective::Explicit;
        Weights {
            objective: params.objective,
            alpha: params.alpha,
            unobserved: if explicit { 0.0 } else { params.unobserved_weight },
            regularization: params.regularization,
            regularization_exp: params.regularization_exp,
            mean: if explicit { mean } else { 0.0 },
        }
    }

    /// Weight of `y yᵀ` in the normal matrix beyond a0, and factor of `y` on the right-hand side.
    #[inline(always)]
    pub fn pair(&self, value: f32) -> (f64, f64) {
        let value = f64::from(value);
        match self.objective {
            Objective::Implicit => (self.alpha * value, self.unobserved + self.alpha * value),
            Objective::Explicit => (1.0, value - self.mean),
        }
    }

    /// [`Weights::pair`] of some pairs in f32, the root of the first and the second; answers `Σ |factor|`.
    #[inline(always)]
    pub fn pairs(&self, values: &[f32], roots: &mut [f32], factors: &mut [f32]) -> f64 {
        // Sums of their own for every eighth value: one after the other they would take longer than all the rest here.
        let mut mass = [0.0; 8];
        for ((values, roots), factors) in values.chunks(8).zip(roots.chunks_mut(8)).zip(factors.chunks_mut(8)) {
            for (((&value, root), to), mass) in values.iter().zip(roots).zip(factors).zip(&mut mass) {
                let (weight, factor) = self.pair(value);
                (*root, *to) = (weight.sqrt() as f32, factor as f32);
                *mass += factor.abs();
            }
        }
        mass.iter().sum()
    }

    /// What an observed pair with prediction `x` adds to the objective, beyond the a0 x² that every pair adds.
    #[inline(always)]
    pub fn loss(&self, value: f32, x: f64) -> f64 {
        let (weight, factor) = self.pair(value);
        match self.objective {
            Objective::Implicit => factor * (1.0 - x) * (1.0 - x) - self.unobserved * x * x,
            Objective::Explicit => weight * (factor - x) * (factor - x),
        }
    }

    /// What an observed pair with prediction `x` adds to `−½ ∂objective/∂x`, beyond the −a0 x that every pair adds.
    #[inline(always)]
    pub fn pull(&self, value: f32, x: f64) -> f64 {
        let (weight, factor) = self.pair(value);
        match self.objective {
            Objective::Implicit => factor * (1.0 - x) + self.unobserved * x,
            Objective::Explicit => factor - weight * x,
        }
    }

    /// The prediction that an observed pair asks for.
    #[inline(always)]
    pub fn target(&self, value: f32) -> f64 {
        match self.objective {
            Objective::Implicit => 1.0,
            Objective::Explicit => f64::from(value) - self.mean,
        }
    }

    /// λ of one row with `n` observed counterparts of `others`.
    pub fn row(&self, n: usize, others: usize) -> f64 {
        self.regularization * (n as f64 + self.unobserved * others as f64).powf(self.regularization_exp)
    }
}

/// In what a half-sweep computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// Everything in f32: new rows to about 1e-5, of residuals four digits. For rows that are far from where they go.
    Single,
    /// The residual of the row as it comes in in f64, pair by pair; the change of the row from that residual in f32. What
    /// is lost is 1e-5 of the change, which goes to zero as the factors converge: there is no floor but that of f64.
    Mixed,
    /// Everything in f64.
    Double,
}

/// One side's problem: its observed rows, and the other side.
#[derive(Clone, Copy)]
pub struct Half<'a> {
    pub side: Side,
    pub rows: &'a Rows,
    pub fixed: &'a Table,
    pub weights: &'a Weights,
}

/// What a half-sweep found on its way.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Swept {
    /// Largest relative normal-equation residual of the rows as they came in.
    pub residual: f64,
    /// `−Σ b·x` after the solve: the objective with this side eliminated, up to terms that do not depend on it.
    pub eliminated: f64,
    /// What the objective fell by in rows that went on with kept factorisations: `eliminated` is wrong by a share of it.
    pub on_trust: f64,
}

impl Swept {
    fn take(&mut self, part: Swept) {
        self.residual = self.residual.max(part.residual);
        self.eliminated += part.eliminated;
        self.on_trust += part.on_trust;
    }
}

/// A row whose normal equations cannot be factorised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{side:?} row {row} cannot be solved: {source}; raise model.regularization")]
pub struct RowFailed {
    pub side: Side,
    /// Surrogate number.
    pub row: usize,
    pub source: NotPositiveDefinite,
}

/// Rows of a panel.
fn panel_rows<E>(stride: usize) -> usize {
    (PANEL / size_of::<E>() / stride).clamp(16, 256)
}

/// `G = Σ y yᵀ` over all rows that exist, upper triangle, padded. Summed in fixed blocks, so that the number of
/// threads does not show in its bits.
pub fn gram(arch: Arch, table: &Table) -> Vec<f64> {
    const BLOCK: usize = 2048;
    let (k, stride) = (table.rank(), kernel::padded(table.rank()));
    let blocks: Vec<Vec<f64>> = table
        .values()
        .par_chunks(BLOCK * k)
        .map(|values| {
            let mut sum = vec![0.0; stride * stride];
            arch.dispatch(GramBlock { sum: &mut sum, values, k, stride });
            sum
        })
        .collect();
    let mut total = vec![0.0; stride * stride];
    for block in blocks {
        total.iter_mut().zip(block).for_each(|(total, part)| *total += part);
    }
    total
}

struct GramBlock<'a> {
    sum: &'a mut [f64],
    values: &'a [f64],
    k: usize,
    stride: usize,
}

impl WithSimd for GramBlock<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let GramBlock { sum, values, k, stride } = self;
        let rows = panel_rows::<f64>(stride);
        let mut panel = Buffer::new(rows * stride);
        for values in values.chunks(rows * k) {
            for (target, row) in panel.get_mut().chunks_exact_mut(stride).zip(values.chunks_exact(k)) {
                target[..k].copy_from_slice(row);
            }
            kernel::rank_update(simd, sum, &panel.get()[..values.len() / k * stride], stride);
        }
    }
}

/// `a0 G`, which every normal matrix begins with; `None` where pairs that nobody observed do not count.
pub fn unobserved_gram(arch: Arch, fixed: &Table, weights: &Weights) -> Option<Vec<f64>> {
    (weights.unobserved > 0.0).then(|| {
        let mut gram = gram(arch, fixed);
        gram.iter_mut().for_each(|value| *value *= weights.unobserved);
        gram
    })
}

/// Floating-point operations that a row of `n` pairs costs.
pub fn row_cost(n: usize, k: usize) -> f64 {
    let (n, k) = (n as f64, k as f64);
    if n == 0.0 { 0.0 } else { n * k * (k + 1.0) + k * k * k / 3.0 + 6.0 * k * k }
}

/// Solves every row of `target` that has data, in parallel over rows; rows without data become zero.
///
/// `others` is the number of rows that exist on the other side. Costs `pairs · k²` floating-point operations for the
/// normal equations and `k³/3` a row; with [`Precision::Mixed`] further `8 · pairs · k` for the residuals. Takes 4 bytes
/// a number of the fixed side meanwhile ([`Precision::Single`]). Equal input gives equal bits for any number of threads.
///
/// # Errors
/// [`RowFailed`] names the first row that cannot be solved; `target` is then of no use.
pub fn half_sweep(arch: Arch, half: Half<'_>, precision: Precision, target: &mut Table, others: usize) -> Result<Swept, RowFailed> {
    sweep(arch, half, precision, target, others, None)
}

/// [`half_sweep`] that keeps the factorisations that it makes, and with [`Precision::Mixed`] goes on with earlier ones where they
/// do. A row that goes on costs `6 · pairs · k` and `2 k²` operations; of its change a share is wrong, as large as that by which
/// its normal matrix has changed since, and so is that share of [`Swept::on_trust`] in [`Swept::eliminated`].
///
/// # Errors
/// As [`half_sweep`].
pub fn half_sweep_on(
    arch: Arch,
    half: Half<'_>,
    precision: Precision,
    kept: &mut Kept,
    target: &mut Table,
    others: usize,
) -> Result<Swept, RowFailed> {
    sweep(arch, half, precision, target, others, Some(kept))
}

fn sweep(
    arch: Arch,
    half: Half<'_>,
    precision: Precision,
    target: &mut Table,
    others: usize,
    kept: Option<&mut Kept>,
) -> Result<Swept, RowFailed> {
    let sweep = Sweep::new(arch, half, precision, others);
    let (rows, k) = (target.len(), target.rank());
    let pairs: usize = (0..rows).map(|row| half.rows.degree(row)).sum();
    let mut swept = Swept::default();
    let mut work = Work::default();
    let mut heavy = Vec::new();
    if precision != Precision::Double {
        heavy.extend((0..rows).filter(|&row| mixed::is_heavy(half.rows.degree(row), pairs)));
    }
    for &row in &heavy {
        let x = &mut target.values_mut()[row * k..(row + 1) * k];
        swept.take(sweep.heavy_row(arch, row, x, &mut work)?);
    }
    let tasks = schedule::by_cost(rows, |row| if heavy.binary_search(&row).is_ok() { 0.0 } else { row_cost(half.rows.degree(row), k) });
    let mut kept = kept.map_or_else(Vec::new, |kept| kept.shares(&tasks)).into_iter();
    let shares = schedule::with_rows(tasks, target.values_mut(), k);
    let shares = shares.into_iter().map(|(task, values)| (task, (values, kept.next()))).collect();
    let parts = schedule::run(shares, Work::default, |work, task, (values, kept)| {
        arch.dispatch(SolveRows { sweep: &sweep, heavy: &heavy, task, values, kept, work })
    });
    for part in parts {
        swept.take(part?);
    }
    Ok(swept)
}

/// What all rows of a half-sweep share.
struct Sweep<'a> {
    half: Half<'a>,
    precision: Precision,
    others: usize,
    /// [`unobserved_gram`].
    gram: Option<Vec<f64>>,
    single: mixed::Shadow,
}

impl<'a> Sweep<'a> {
    fn new(arch: Arch, half: Half<'a>, precision: Precision, others: usize) -> Sweep<'a> {
        let gram = unobserved_gram(arch, half.fixed, half.weights);
        let single = mixed::Shadow::new(&half, precision, gram.as_deref());
        Sweep { half, precision, others, gram, single }
    }

    fn lambda(&self, row: usize) -> f64 {
        self.half.weights.row(self.half.rows.degree(row), self.others)
    }

    #[inline(always)]
    fn row<S: Simd>(
        &self,
        simd: S,
        row: usize,
        x: &mut [f64],
        next: &[u32],
        slot: Option<kept::Slot<'_>>,
        work: &mut Work,
    ) -> Result<Swept, RowFailed> {
        if self.precision != Precision::Double
            && let Some(swept) = mixed::solve(simd, self, row, x, next, slot, work.mixed(x.len()))
        {
            return Ok(swept);
        }
        double::solve(simd, self, row, x, work.double(x.len())).map_err(|source| RowFailed { side: self.half.side, row, source })
    }

    fn heavy_row(&self, arch: Arch, row: usize, x: &mut [f64], work: &mut Work) -> Result<Swept, RowFailed> {
        let sums = mixed::heavy_sums(arch, self, row, x);
        arch.dispatch(SolveHeavy { sweep: self, row, x, sums, work })
    }
}

/// Scratch memory of one thread.
#[derive(Default)]
struct Work {
    mixed: Option<mixed::Workspace>,
    double: Option<double::Workspace>,
}

impl Work {
    fn mixed(&mut self, k: usize) -> &mut mixed::Workspace {
        self.mixed.get_or_insert_with(|| mixed::Workspace::new(k))
    }

    fn double(&mut self, k: usize) -> &mut double::Workspace {
        self.double.get_or_insert_with(|| double::Workspace::new(k))
    }
}

struct SolveRows<'a> {
    sweep: &'a Sweep<'a>,
    /// Rows that are solved already, ascending.
    heavy: &'a [usize],
    task: &'a Task,
    values: &'a mut [f64],
    kept: Option<kept::Share<'a>>,
    work: &'a mut Work,
}

impl WithSimd for SolveRows<'_> {
    type Output = Result<Swept, RowFailed>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
        let SolveRows { sweep, heavy, task, values, mut kept, work } = self;
        let mut swept = Swept::default();
        for (row, x) in task.rows.clone().zip(values.chunks_exact_mut(sweep.half.fixed.rank())) {
            if sweep.half.rows.degree(row) == 0 {
                x.fill(0.0);
            } else if heavy.binary_search(&row).is_err() {
                let next = if row + 1 < task.rows.end { sweep.half.rows.row(row + 1).0 } else { &[] };
                let slot = kept.as_mut().and_then(|kept| kept.slot(row - task.rows.start));
                swept.take(sweep.row(simd, row, x, next, slot, work)?);
            }
        }
        Ok(swept)
    }
}

struct SolveHeavy<'a> {
    sweep: &'a Sweep<'a>,
    row: usize,
    x: &'a mut [f64],
    sums: mixed::Sums,
    work: &'a mut Work,
}

impl WithSimd for SolveHeavy<'_> {
    type Output = Result<Swept, RowFailed>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
        let SolveHeavy { sweep, row, x, sums, work } = self;
        let k = x.len();
        if let Some(swept) = mixed::solve_summed(simd, sweep, row, x, &sums, work.mixed(k)) {
            return Ok(swept);
        }
        double::solve(simd, sweep, row, x, work.double(k)).map_err(|source| RowFailed { side: sweep.half.side, row, source })
    }
}

/// A residual in relation to the right-hand side `b = Σ c_j y_j`, where `mass` is `Σ |c_j|`.
pub fn relative(residual: f64, right: f64, mass: f64) -> f64 {
    let scale = right.max(FLOOR * mass);
    if residual == 0.0 {
        0.0
    } else if scale == 0.0 {
        // Nothing is asked for (every rating is the mean), so whatever is there is wrong as a whole. Infinity would be no
        // number of a certificate.
        1.0
    } else {
        (residual / scale).min(f64::MAX)
    }
}

#[cfg(test)]
#[path = "als_tests.rs"]
mod tests;

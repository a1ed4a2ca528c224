//! Half-sweeps of alternating least squares: every row of one side solved exactly while the other side is held.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::factors::{Side, Table};
use super::kernel::{self, NotPositiveDefinite};
use super::ratings::Rows;
use super::{Objective, Params};

/// Rows that one task solves; small, because the work of a row goes with its length.
const CHUNK: usize = 16;
/// Counterparts gathered at a time: with rank 64 a panel of this many rows fits the second-level cache.
const PANEL: usize = 128;
/// A right-hand side shorter than this share of what its terms add up to without cancelling counts as this long.
/// It is what lets a model whose optimum is zero converge.
const FLOOR: f64 = 1e-6;
/// Pivots further apart than this lose too many digits of a row: it is refined until it has them.
const ILL_CONDITIONED: f64 = 1e6;
/// Refinements of one row; each gains the digits that the factorisation kept, at least four while the rank is not lost.
const REFINEMENTS: usize = 4;

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

/// One side's problem: its observed rows, and the other side.
#[derive(Clone, Copy)]
pub struct Half<'a> {
    pub side: Side,
    pub rows: &'a Rows,
    pub fixed: &'a Table,
    pub weights: &'a Weights,
}

/// What a half-sweep found on its way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Swept {
    /// Largest relative normal-equation residual of the rows as they came in.
    pub residual: f64,
    /// `−Σ b·x` after the solve: the objective with this side eliminated, up to terms that do not depend on it.
    pub eliminated: f64,
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

/// `G = Σ y yᵀ` over all rows that exist, upper triangle, padded. Summed in fixed blocks, so that the number of
/// threads does not show in its bits.
pub fn gram(arch: Arch, table: &Table) -> Vec<f64> {
    const BLOCK: usize = 1024;
    let (k, stride) = (table.rank(), kernel::padded(table.rank()));
    let blocks: Vec<Vec<f64>> = table
        .values()
        .par_chunks(BLOCK * k)
        .map(|values| {
            let mut sum = vec![0.0; stride * stride];
            let mut panel = vec![0.0; values.len() / k * stride];
            for (target, row) in panel.chunks_exact_mut(stride).zip(values.chunks_exact(k)) {
                target[..k].copy_from_slice(row);
            }
            arch.dispatch(GramBlock { sum: &mut sum, panel: &panel, stride });
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
    panel: &'a [f64],
    stride: usize,
}

impl WithSimd for GramBlock<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        kernel::rank_update(simd, self.sum, self.panel, self.stride);
    }
}

/// Solves every row of `target` that has data, in parallel over rows; rows without data become zero.
///
/// `others` is the number of rows that exist on the other side. Costs `pairs · k²` floating-point operations for the
/// normal equations and `k³/3` a row. Equal input gives equal bits for any number of threads.
///
/// # Errors
/// [`RowFailed`] names a row that cannot be solved; `target` is then of no use.
pub fn half_sweep(arch: Arch, half: Half<'_>, target: &mut Table, others: usize) -> Result<Swept, RowFailed> {
    let gram = (half.weights.unobserved > 0.0).then(|| {
        let mut gram = gram(arch, half.fixed);
        gram.iter_mut().for_each(|value| *value *= half.weights.unobserved);
        gram
    });
    let k = target.rank();
    let chunks: Vec<Result<Swept, RowFailed>> = target
        .values_mut()
        .par_chunks_mut(CHUNK * k)
        .enumerate()
        .map_init(
            || Workspace::new(k),
            |work, (chunk, values)| arch.dispatch(Chunk { half, gram: gram.as_deref(), work, first: chunk * CHUNK, values, others }),
        )
        .collect();
    chunks.into_iter().try_fold(Swept { residual: 0.0, eliminated: 0.0 }, |all, chunk| {
        chunk.map(|chunk| Swept { residual: all.residual.max(chunk.residual), eliminated: all.eliminated + chunk.eliminated })
    })
}

/// Scratch memory of one thread.
struct Workspace {
    stride: usize,
    normal: Vec<f64>,
    panel: Vec<f64>,
    right: Vec<f64>,
    x: Vec<f64>,
    product: Vec<f64>,
}

impl Workspace {
    fn new(k: usize) -> Workspace {
        let stride = kernel::padded(k);
        let zeros = |n: usize| vec![0.0; n];
        Workspace {
            stride,
            normal: zeros(stride * stride),
            panel: zeros(PANEL * stride),
            right: zeros(stride),
            x: zeros(stride),
            product: zeros(stride),
        }
    }
}

struct Chunk<'a> {
    half: Half<'a>,
    gram: Option<&'a [f64]>,
    work: &'a mut Workspace,
    first: usize,
    values: &'a mut [f64],
    others: usize,
}

impl WithSimd for Chunk<'_> {
    type Output = Result<Swept, RowFailed>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
        let Chunk { half, gram, work, first, values, others } = self;
        let mut swept = Swept { residual: 0.0, eliminated: 0.0 };
        for (at, x) in values.chunks_exact_mut(half.fixed.rank()).enumerate() {
            let row = first + at;
            let n = half.rows.degree(row);
            if n == 0 {
                x.fill(0.0);
                continue;
            }
            let lambda = half.weights.row(n, others);
            let mass = normal_equations(simd, &half, row, lambda, gram, work);
            let residual = incoming_residual(simd, x, work, mass);
            solve_row(simd, x, work).map_err(|source| RowFailed { side: half.side, row, source })?;
            if kernel::pivot_spread(&work.normal, x.len(), work.stride) > ILL_CONDITIONED {
                refine(simd, &half, row, lambda, gram, x, work);
            }
            swept.residual = swept.residual.max(residual);
            swept.eliminated -= kernel::dot(simd, x, &work.right[..x.len()]);
        }
        Ok(swept)
    }
}

/// Gathers a row's counterparts panel by panel into `work.normal` and `work.right`; answers the sum of the absolute
/// factors on the right-hand side.
#[inline(always)]
fn normal_equations<S: Simd>(simd: S, half: &Half<'_>, row: usize, lambda: f64, gram: Option<&[f64]>, work: &mut Workspace) -> f64 {
    let (k, stride) = (half.fixed.rank(), work.stride);
    match gram {
        Some(gram) => work.normal.copy_from_slice(gram),
        None => work.normal.fill(0.0),
    }
    work.right.fill(0.0);
    let mut mass = 0.0;
    let (columns, values) = half.rows.row(row);
    for (columns, values) in columns.chunks(PANEL).zip(values.chunks(PANEL)) {
        for ((&column, &value), target) in columns.iter().zip(values).zip(work.panel.chunks_exact_mut(stride)) {
            let y = half.fixed.raw(column as usize);
            let (weight, factor) = half.weights.pair(value);
            let root = weight.sqrt();
            for (target, &y) in target.iter_mut().zip(y) {
                *target = root * y;
            }
            kernel::axpy(simd, factor, y, &mut work.right[..k]);
            mass += factor.abs();
        }
        kernel::rank_update(simd, &mut work.normal, &work.panel[..columns.len() * stride], stride);
    }
    for i in 0..k {
        work.normal[i * stride + i] += lambda;
    }
    mass
}

/// `‖A x − b‖ / ‖b‖` of the row as it came in, while its normal equations are at hand.
#[inline(always)]
fn incoming_residual<S: Simd>(simd: S, x: &[f64], work: &mut Workspace, mass: f64) -> f64 {
    work.x[..x.len()].copy_from_slice(x);
    kernel::symmetric(simd, &work.normal, &work.x, &mut work.product, work.stride);
    for (product, &right) in work.product[..x.len()].iter_mut().zip(&work.right) {
        *product -= right;
    }
    let product = &work.product[..x.len()];
    relative(kernel::dot(simd, product, product).sqrt(), kernel::dot(simd, &work.right, &work.right).sqrt(), mass)
}

#[inline(always)]
fn solve_row<S: Simd>(simd: S, x: &mut [f64], work: &mut Workspace) -> Result<(), NotPositiveDefinite> {
    kernel::cholesky(simd, &mut work.normal, x.len(), work.stride)?;
    work.x.copy_from_slice(&work.right);
    kernel::solve(simd, &work.normal, &mut work.x, work.stride);
    x.copy_from_slice(&work.x[..x.len()]);
    Ok(())
}

/// Iterative refinement of a solved row, with the factorisation at hand and the residual taken pair by pair.
///
/// A weight of 1e12 beside one of 1 leaves four digits of what the small one says in `A x − b`. Taken pair by pair as
/// `Σ (a0 + w (1 − y·x)) y`, the rounding of the large pair stays along its own `y`, where the factorisation damps it.
///
/// # Source
/// Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd ed., ch. 12.
#[inline(never)]
fn refine<S: Simd>(simd: S, half: &Half<'_>, row: usize, lambda: f64, gram: Option<&[f64]>, x: &mut [f64], work: &mut Workspace) {
    let (k, stride) = (x.len(), work.stride);
    let (columns, values) = half.rows.row(row);
    let mut last = f64::INFINITY;
    for _ in 0..REFINEMENTS {
        work.product.fill(0.0);
        if let Some(gram) = gram {
            work.x[..k].copy_from_slice(x);
            kernel::symmetric(simd, gram, &work.x, &mut work.product, stride);
            work.product.iter_mut().for_each(|value| *value = -*value);
        }
        kernel::axpy(simd, -lambda, x, &mut work.product[..k]);
        for (&column, &value) in columns.iter().zip(values) {
            let y = half.fixed.raw(column as usize);
            let pull = half.weights.pull(value, kernel::dot(simd, x, y));
            kernel::axpy(simd, pull, y, &mut work.product[..k]);
        }
        kernel::solve(simd, &work.normal, &mut work.product, stride);
        let step = kernel::dot(simd, &work.product, &work.product).sqrt();
        // No progress, or a step that is not a number: what is there stays.
        if step.is_nan() || step >= last / 2.0 {
            break;
        }
        kernel::axpy(simd, 1.0, &work.product[..k], x);
        last = step;
    }
}

/// A residual in relation to the right-hand side `b = Σ c_j y_j`, where `mass` is `Σ |c_j|`.
pub fn relative(residual: f64, right: f64, mass: f64) -> f64 {
    if residual == 0.0 { 0.0 } else { residual / right.max(FLOOR * mass) }
}

//! What proves a generation: the objective and the largest relative normal-equation residual, computed afresh from
//! the data, in f64, without a k × k matrix per row.

use faer::{Mat, Side as Triangle};
use pulp::{Arch, Simd, WithSimd};

use super::als::residual::Pull;
use super::als::{self, Half, Weights};
use super::factors::{Factors, Side, Table};
use super::kernel::unchecked::prefetch;
use super::kernel::{self, Buffer};
use super::ratings::Ratings;
use super::schedule::{self, Task};

/// Pairs whose counterparts are asked for ahead of their use.
const AHEAD: usize = 8;
/// Singular values below this share of the largest do not count towards the effective rank: plain rounding and the
/// slow decay of superfluous ones stay below it, a direction that serves anybody stays above.
pub(super) const RANK_CUTOFF: f64 = 1e-4;

/// Predictions below this share of what they should be are zero, however they compare to each other.
pub(super) const ZERO: f64 = 1e-8;

/// What a pass over all rows of both sides found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// Largest `‖A x − b‖ / ‖b‖` over all rows of both sides.
    pub residual: f64,
    /// The objective of [`super::Objective`].
    pub objective: f64,
}

/// Measures factors against the data. Costs about `8 · pairs · k` floating-point operations a side, a k-th of a sweep.
pub fn measure(arch: Arch, ratings: &Ratings, factors: &Factors, weights: &Weights) -> Measured {
    let counts = [factors.users.count(), factors.items.count()];
    let users = Half { side: Side::User, rows: &ratings.users, fixed: &factors.items, weights };
    let items = Half { side: Side::Item, rows: &ratings.items, fixed: &factors.users, weights };
    let by_user = side(arch, users, &factors.users, counts[1]);
    let by_item = side(arch, items, &factors.items, counts[0]);
    Measured {
        residual: by_user.residual.max(by_item.residual),
        // Every pair is counted once, from the users; the regularization from both.
        objective: by_user.loss + by_user.regularization + by_item.regularization,
    }
}

struct Part {
    residual: f64,
    loss: f64,
    regularization: f64,
}

fn side(arch: Arch, half: Half<'_>, solved: &Table, others: usize) -> Part {
    let k = solved.rank();
    let gram = als::unobserved_gram(arch, half.fixed, half.weights);
    let tasks = schedule::by_cost(solved.len(), |row| (8 * k * half.rows.degree(row) + 2 * k * k) as f64);
    let parts = schedule::run(
        tasks.into_iter().map(|task| (task, ())).collect(),
        || Work::new(k),
        |work, task, ()| arch.dispatch(MeasureRows { half, gram: gram.as_deref(), solved, task, others, work }),
    );
    parts.into_iter().fold(Part { residual: 0.0, loss: 0.0, regularization: 0.0 }, |all, part| Part {
        residual: all.residual.max(part.residual),
        loss: all.loss + part.loss,
        regularization: all.regularization + part.regularization,
    })
}

/// Scratch memory of one thread.
struct Work {
    pull: Pull,
    x: Buffer<f64>,
    product: Buffer<f64>,
}

impl Work {
    fn new(k: usize) -> Work {
        let stride = kernel::padded(k);
        Work { pull: Pull::new(stride), x: Buffer::new(stride), product: Buffer::new(stride) }
    }
}

struct MeasureRows<'a> {
    half: Half<'a>,
    gram: Option<&'a [f64]>,
    solved: &'a Table,
    task: &'a Task,
    others: usize,
    work: &'a mut Work,
}

impl WithSimd for MeasureRows<'_> {
    type Output = Part;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Part {
        let MeasureRows { half, gram, solved, task, others, work } = self;
        let (k, stride) = (solved.rank(), kernel::padded(solved.rank()));
        let mut part = Part { residual: 0.0, loss: 0.0, regularization: 0.0 };
        for row in task.rows.clone() {
            let n = half.rows.degree(row);
            if n == 0 {
                continue;
            }
            let x = solved.raw(row);
            work.pull.clear();
            take_pairs(simd, &half, x, row, task.rows.end, &mut work.pull);
            work.x.get_mut()[..k].copy_from_slice(x);
            let product = work.product.get_mut();
            match gram {
                Some(gram) => kernel::symmetric(simd, gram, work.x.get(), product, stride),
                None => product.fill(0.0),
            }
            let lambda = half.weights.row(n, others);
            part.loss += work.pull.loss + kernel::dot(simd, work.x.get(), product);
            part.regularization += lambda * kernel::dot(simd, x, x);
            kernel::axpy(simd, lambda, work.x.get(), product);
            kernel::axpy(simd, -1.0, work.pull.pull.get(), product);
            let right = work.pull.right.get();
            let (residual, right) = (kernel::dot(simd, product, product).sqrt(), kernel::dot(simd, right, right).sqrt());
            part.residual = part.residual.max(als::relative(residual, right, work.pull.mass));
        }
        part
    }
}

/// All pairs of a row, while those further on, in this row or the next up to `end`, are asked for.
#[inline(always)]
fn take_pairs<S: Simd>(simd: S, half: &Half<'_>, x: &[f64], row: usize, end: usize, pull: &mut Pull) {
    let (columns, values) = half.rows.row(row);
    let next = if row + 1 < end { half.rows.row(row + 1).0 } else { &[] };
    for at in (0..columns.len()).step_by(AHEAD) {
        let stop = columns.len().min(at + AHEAD);
        let after = if stop < columns.len() { &columns[stop..columns.len().min(stop + AHEAD)] } else { &next[..next.len().min(AHEAD)] };
        for &column in after {
            prefetch(half.fixed.raw(column as usize));
        }
        pull.take(simd, half, x, (&columns[at..stop], &values[at..stop]));
    }
}

/// Number of singular values of `U Vᵀ` above 1e-4 of the largest, from the two Gram matrices: `σ² = eig(S VᵀV S)`
/// with `S = (UᵀU)^½`. `None` when the decomposition does not converge.
///
/// `reach` is `(Σ_observed target²)^½`; what is next to nothing beside it is no direction, however it compares to others.
pub fn effective_rank(arch: Arch, factors: &Factors, reach: f64) -> Option<usize> {
    let k = factors.users.rank();
    let dense = |table: &Table| {
        let gram = als::gram(arch, table);
        let stride = kernel::padded(k);
        Mat::from_fn(k, k, |i, j| gram[i.min(j) * stride + i.max(j)])
    };
    let users = dense(&factors.users).self_adjoint_eigen(Triangle::Lower).ok()?;
    let root = Mat::from_fn(k, k, |i, j| users.U()[(i, j)] * users.S()[j].max(0.0).sqrt());
    let product = root.transpose() * dense(&factors.items) * &root;
    let squares = product.self_adjoint_eigenvalues(Triangle::Lower).ok()?;
    let largest = squares.iter().fold((ZERO * reach).powi(2), |largest, &square| largest.max(square));
    Some(squares.iter().filter(|&&square| square > largest * RANK_CUTOFF * RANK_CUTOFF).count())
}

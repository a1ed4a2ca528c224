//! What proves a generation: the objective and the largest relative normal-equation residual, computed afresh from
//! the data, in f64, without a k × k matrix per row.

use faer::{Mat, Side as Triangle};
use pulp::{Arch, Simd, WithSimd};

use super::als::residual::Pull;
use super::als::{self, Half, Weights};
use super::factors::{Factors, Side, Table};
use super::kernel::{self, Buffer};
use super::ratings::{Ratings, RowValues};
use super::schedule::{self, Task};

/// Bytes of counterparts that are read again and again before the next ones: a good part of a last-level cache. All of
/// them together are often several times as large, and then every pair would wait for the memory.
const REACH: usize = 8 << 20;
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

/// The objective of factors that are all zero: what the objective that [`super::unlearn::Watch::eliminated`] tells lacks.
pub fn at_zero(ratings: &Ratings, weights: &Weights) -> f64 {
    let of_row = |row: usize| ratings.users.row(row).1.into_iter().map(|value| weights.loss(value, 0.0)).sum::<f64>();
    (0..ratings.users.len()).map(of_row).sum()
}

/// Measures factors against the data. Costs about `8 · pairs · k` floating-point operations a side, a k-th of a sweep.
pub fn measure(arch: Arch, ratings: &Ratings, factors: &Factors, weights: &Weights) -> Measured {
    measure_within(arch, ratings, factors, weights, REACH)
}

fn measure_within(arch: Arch, ratings: &Ratings, factors: &Factors, weights: &Weights, reach: usize) -> Measured {
    let counts = [factors.users.count(), factors.items.count()];
    let users = Half { side: Side::User, rows: &ratings.users, fixed: &factors.items, weights };
    let items = Half { side: Side::Item, rows: &ratings.items, fixed: &factors.users, weights };
    let by_user = side(arch, users, &factors.users, counts[1], reach);
    let by_item = side(arch, items, &factors.items, counts[0], reach);
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

fn side(arch: Arch, half: Half<'_>, solved: &Table, others: usize, reach: usize) -> Part {
    let k = solved.rank();
    let gram = als::unobserved_gram(arch, half.fixed, half.weights);
    let reach = (reach / size_of::<f64>() / k).max(1);
    // Sums of all rows at a time are worth their memory where they take less than what they save the reading of.
    let pulls = (half.fixed.len() > 2 * reach && half.fixed.len() > 2 * solved.len()).then(|| pulls(arch, half, solved, reach));
    let parts = schedule::run(
        by_pairs(half, solved).into_iter().map(|task| (task, ())).collect(),
        || Work::new(k),
        |work, task, ()| arch.dispatch(MeasureRows { half, gram: gram.as_deref(), solved, task, others, pulls: pulls.as_deref(), work }),
    );
    parts.into_iter().fold(Part { residual: 0.0, loss: 0.0, regularization: 0.0 }, |all, part| Part {
        residual: all.residual.max(part.residual),
        loss: all.loss + part.loss,
        regularization: all.regularization + part.regularization,
    })
}

fn by_pairs(half: Half<'_>, solved: &Table) -> Vec<Task> {
    let k = solved.rank();
    schedule::by_cost(solved.len(), |row| (8 * k * half.rows.degree(row) + 2 * k * k) as f64)
}

/// What all pairs add to every row, `reach` counterparts after the other. Takes `16 · rows · k` bytes.
fn pulls(arch: Arch, half: Half<'_>, solved: &Table, reach: usize) -> Vec<Open> {
    let stride = kernel::padded(solved.rank());
    let mut open: Vec<Open> = (0..solved.len()).map(|_| Open { pull: Pull::new(stride), taken: 0 }).collect();
    for end in (0..half.fixed.len()).step_by(reach).map(|start| start + reach) {
        let shares = schedule::with_rows(by_pairs(half, solved), &mut open, 1);
        schedule::run(shares, || (), |(), task, open| arch.dispatch(TakeRows { half, solved, task, open, end }));
    }
    open
}

/// A row of which not all pairs are taken yet.
struct Open {
    pull: Pull,
    taken: usize,
}

impl Open {
    /// Its pairs with counterparts below `end` that are not taken yet.
    fn due<'a>(&self, half: &Half<'a>, row: usize, end: usize) -> (&'a [u32], RowValues<'a>) {
        let (columns, values) = half.rows.row(row);
        let due = columns[self.taken..].iter().take_while(|&&column| (column as usize) < end).count();
        let places = self.taken..self.taken + due;
        (&columns[places.clone()], values.slice(places))
    }
}

struct TakeRows<'a> {
    half: Half<'a>,
    solved: &'a Table,
    task: &'a Task,
    open: &'a mut [Open],
    end: usize,
}

impl WithSimd for TakeRows<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let TakeRows { half, solved, task, open, end } = self;
        let none = (&[][..], RowValues::default());
        let mut numbers = Vec::new();
        let mut due = open.first().map_or(none, |open| open.due(&half, task.rows.start, end));
        for (at, row) in task.rows.clone().enumerate() {
            let next = open.get(at + 1).map_or(none, |open| open.due(&half, row + 1, end));
            open[at].pull.take::<S, true>(simd, &half, solved.raw(row), (due.0, due.1.read(&mut numbers)), next.0);
            open[at].taken += due.0.len();
            due = next;
        }
    }
}

/// Scratch memory of one thread.
struct Work {
    pull: Pull,
    x: Buffer<f64>,
    product: Buffer<f64>,
    /// Values of the row, where they are kept in another form.
    values: Vec<f32>,
}

impl Work {
    fn new(k: usize) -> Work {
        let stride = kernel::padded(k);
        Work { pull: Pull::new(stride), x: Buffer::new(stride), product: Buffer::new(stride), values: Vec::new() }
    }
}

struct MeasureRows<'a> {
    half: Half<'a>,
    gram: Option<&'a [f64]>,
    solved: &'a Table,
    task: &'a Task,
    others: usize,
    /// Of each row, where they are known already.
    pulls: Option<&'a [Open]>,
    work: &'a mut Work,
}

impl WithSimd for MeasureRows<'_> {
    type Output = Part;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Part {
        let MeasureRows { half, gram, solved, task, others, pulls, work } = self;
        let (k, stride) = (solved.rank(), kernel::padded(solved.rank()));
        let mut part = Part { residual: 0.0, loss: 0.0, regularization: 0.0 };
        for row in task.rows.clone() {
            let n = half.rows.degree(row);
            if n == 0 {
                continue;
            }
            let x = solved.raw(row);
            let pull = match pulls {
                Some(pulls) => &pulls[row].pull,
                None => {
                    let next = if row + 1 < task.rows.end { half.rows.row(row + 1).0 } else { &[] };
                    work.pull.clear();
                    let (columns, values) = half.rows.row(row);
                    work.pull.take::<S, true>(simd, &half, x, (columns, values.read(&mut work.values)), next);
                    &work.pull
                }
            };
            work.x.get_mut()[..k].copy_from_slice(x);
            let product = work.product.get_mut();
            match gram {
                Some(gram) => kernel::symmetric(simd, gram, work.x.get(), product, stride),
                None => product.fill(0.0),
            }
            let lambda = half.weights.row(n, others);
            part.loss += pull.loss + kernel::dot(simd, work.x.get(), product);
            part.regularization += lambda * kernel::dot(simd, x, x);
            kernel::axpy(simd, lambda, work.x.get(), product);
            kernel::axpy(simd, -1.0, pull.pull.get(), product);
            let right = pull.right.get();
            let (residual, right) = (kernel::dot(simd, product, product).sqrt(), kernel::dot(simd, right, right).sqrt());
            part.residual = part.residual.max(als::relative(residual, right, pull.mass));
        }
        part
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::dense::{OBJECTIVES, params, solved, world};

    #[test]
    fn what_is_measured_does_not_hang_on_how_much_is_read_at_a_time() {
        for objective in OBJECTIVES {
            let params = params(objective, 1.0);
            // More than twice as many users as items: the items' side is read by blocks of users.
            let ratings = world(130, 40);
            let mut factors = solved(&params, &ratings).factors;
            factors.users.values_mut().iter_mut().enumerate().for_each(|(at, value)| *value += 0.01 * (at % 7) as f64);
            let weights = Weights::new(&params, ratings.mean());
            for arch in kernel::tests::every_path() {
                let whole = measure(arch, &ratings, &factors, &weights);
                assert!(whole.residual > 1e-3);
                for rows in [1, 3, 17, 60] {
                    let parts = measure_within(arch, &ratings, &factors, &weights, rows * params.rank * size_of::<f64>());
                    let apart = |a: f64, b: f64| (a / b - 1.0).abs();
                    assert!(apart(parts.residual, whole.residual) < 1e-9, "{rows}: {parts:?} {whole:?}");
                    assert!(apart(parts.objective, whole.objective) < 1e-12, "{rows}: {parts:?} {whole:?}");
                }
            }
        }
    }
}

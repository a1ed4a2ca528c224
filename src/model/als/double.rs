//! A row in f64.

use pulp::{Simd, WithSimd};

use super::{Half, Sweep, Swept, panel_rows, relative};
use crate::model::kernel::{self, Buffer, NotPositiveDefinite};

/// Pivots further apart than this lose too many digits of a row: it is refined until it has them.
const ILL_CONDITIONED: f64 = 1e6;
/// Refinements of one row; each gains the digits that the factorisation kept, at least four while the rank is not lost.
const REFINEMENTS: usize = 4;

/// Scratch memory of one thread.
pub(super) struct Workspace {
    stride: usize,
    normal: Buffer<f64>,
    panel: Buffer<f64>,
    right: Buffer<f64>,
    x: Buffer<f64>,
    product: Buffer<f64>,
    /// Values of the row, where they are kept in another form.
    values: Vec<f32>,
}

impl Workspace {
    pub(super) fn new(k: usize) -> Workspace {
        let stride = kernel::padded(k);
        Workspace {
            stride,
            normal: Buffer::new(stride * stride),
            panel: Buffer::new(panel_rows::<f64>(stride) * stride),
            right: Buffer::new(stride),
            x: Buffer::new(stride),
            product: Buffer::new(stride),
            values: Vec::new(),
        }
    }
}

/// Solves one row. A function of its own on every path: it is rare, and the loops that call it are hot.
pub(super) fn solve<S: Simd>(
    simd: S,
    sweep: &Sweep<'_>,
    row: usize,
    x: &mut [f64],
    work: &mut Workspace,
) -> Result<Swept, NotPositiveDefinite> {
    simd.vectorize(Solve { half: &sweep.half, lambda: sweep.lambda(row), gram: sweep.gram.as_deref(), row, x, work })
}

struct Solve<'a> {
    half: &'a Half<'a>,
    lambda: f64,
    gram: Option<&'a [f64]>,
    row: usize,
    x: &'a mut [f64],
    work: &'a mut Workspace,
}

impl WithSimd for Solve<'_> {
    type Output = Result<Swept, NotPositiveDefinite>;

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) -> Self::Output {
        let (k, stride) = (self.x.len(), self.work.stride);
        let mass = self.normal_equations(simd);
        let residual = self.incoming_residual(simd, mass);
        let work = &mut *self.work;
        kernel::cholesky(simd, work.normal.get_mut(), k, stride)?;
        work.x.get_mut().copy_from_slice(work.right.get());
        kernel::solve(simd, work.normal.get(), work.x.get_mut(), stride);
        self.x.copy_from_slice(&work.x.get()[..k]);
        if kernel::pivot_spread(work.normal.get(), k, stride) > ILL_CONDITIONED {
            self.refine(simd);
        }
        Ok(Swept { residual, eliminated: -kernel::dot(simd, self.x, &self.work.right.get()[..k]), on_trust: 0.0 })
    }
}

impl Solve<'_> {
    /// Gathers the row's counterparts panel by panel into `work.normal` and `work.right`; answers the sum of the
    /// absolute factors on the right-hand side.
    #[inline(always)]
    fn normal_equations<S: Simd>(&mut self, simd: S) -> f64 {
        let (k, stride) = (self.x.len(), self.work.stride);
        let (normal, right, panel) = (self.work.normal.get_mut(), self.work.right.get_mut(), self.work.panel.get_mut());
        match self.gram {
            Some(gram) => normal.copy_from_slice(gram),
            None => normal.fill(0.0),
        }
        right.fill(0.0);
        let mut mass = 0.0;
        let (columns, values) = self.half.rows.row(self.row);
        let values = values.read(&mut self.work.values);
        let rows = panel_rows::<f64>(stride);
        for (columns, values) in columns.chunks(rows).zip(values.chunks(rows)) {
            for ((&column, &value), target) in columns.iter().zip(values).zip(panel.chunks_exact_mut(stride)) {
                let y = self.half.fixed.raw(column as usize);
                let (weight, factor) = self.half.weights.pair(value);
                let root = weight.sqrt();
                for (target, &y) in target.iter_mut().zip(y) {
                    *target = root * y;
                }
                kernel::axpy(simd, factor, y, &mut right[..k]);
                mass += factor.abs();
            }
            kernel::rank_update(simd, normal, &panel[..columns.len() * stride], stride);
        }
        for i in 0..k {
            normal[i * stride + i] += self.lambda;
        }
        mass
    }

    /// `‖A x − b‖ / ‖b‖` of the row as it came in, while its normal equations are at hand.
    #[inline(always)]
    fn incoming_residual<S: Simd>(&mut self, simd: S, mass: f64) -> f64 {
        let (k, work) = (self.x.len(), &mut *self.work);
        work.x.get_mut()[..k].copy_from_slice(self.x);
        kernel::symmetric(simd, work.normal.get(), work.x.get(), work.product.get_mut(), work.stride);
        let right = &work.right.get()[..k];
        let product = &mut work.product.get_mut()[..k];
        kernel::axpy(simd, -1.0, right, product);
        relative(kernel::dot(simd, product, product).sqrt(), kernel::dot(simd, right, right).sqrt(), mass)
    }

    /// Iterative refinement of a solved row, with the factorisation at hand and the residual taken pair by pair.
    ///
    /// A weight of 1e12 beside one of 1 leaves four digits of what the small one says in `A x − b`. Taken pair by pair as
    /// `Σ (a0 + w (1 − y·x)) y`, the rounding of the large pair stays along its own `y`, where the factorisation damps it.
    ///
    /// # Source
    /// Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd ed., ch. 12.
    #[inline(always)]
    fn refine<S: Simd>(&mut self, simd: S) {
        let (x, work) = (&mut *self.x, &mut *self.work);
        let (k, stride) = (x.len(), work.stride);
        let (columns, values) = self.half.rows.row(self.row);
        let mut last = f64::INFINITY;
        for _ in 0..REFINEMENTS {
            let product = work.product.get_mut();
            product.fill(0.0);
            if let Some(gram) = self.gram {
                work.x.get_mut()[..k].copy_from_slice(x);
                kernel::symmetric(simd, gram, work.x.get(), product, stride);
                product.iter_mut().for_each(|value| *value = -*value);
            }
            kernel::axpy(simd, -self.lambda, x, &mut product[..k]);
            for (&column, value) in columns.iter().zip(values) {
                let y = self.half.fixed.raw(column as usize);
                let pull = self.half.weights.pull(value, kernel::dot(simd, x, y));
                kernel::axpy(simd, pull, y, &mut product[..k]);
            }
            kernel::solve(simd, work.normal.get(), product, stride);
            let step = kernel::dot(simd, product, product).sqrt();
            // No progress, or a step that is not a number: what is there stays.
            if step.is_nan() || step >= last / 2.0 {
                break;
            }
            kernel::axpy(simd, 1.0, &product[..k], x);
            last = step;
        }
    }
}

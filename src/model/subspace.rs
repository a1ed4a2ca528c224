//! The directions of the factors' k-space that are in use. Where the optimum needs fewer than the rank, the others
//! collapse to next to nothing, and all that sweeps do for them is to multiply zeros: they are as well done among the
//! directions in use alone, at `(used / k)²` of the cost. A penalty on lengths does not know which way the axes point, so
//! rows turned into these directions have the same optimum, and turned back they are the factors again.
//!
//! A direction that is left out is exactly zero afterwards. Whether it is wanted again is what [`super::escape`] finds out,
//! of all directions, as it does for one that merely collapsed.

use faer::linalg::matmul::matmul;
use faer::linalg::solvers::SelfAdjointEigen;
use faer::{Accum, Mat, MatMut, MatRef, Par, Side as Triangle};
use pulp::Arch;
use rayon::prelude::*;

use super::als;
use super::factors::{Factors, Table};
use super::kernel;

/// A direction whose share of the predictions is below this, of the largest one's, is left out. What converged to a
/// residual of ε has shrunk the superfluous ones to about ε² and this is ε = 1e-5.
const CUTOFF: f64 = 1e-10;
/// Further directions that are kept: first values of new items and ways out of a saddle need some.
const SPARE: usize = 2;
/// Rows turned at a time.
const ROWS: usize = 1024;

/// How much of the factors is along which direction of the k-space.
pub(super) struct Spectrum {
    /// `Σ λ x xᵀ` of users and of items, k × k.
    pub grams: [Mat<f64>; 2],
    /// Of their sum. Both are equal where the factors are stationary.
    sum: SelfAdjointEigen<f64>,
}

impl Spectrum {
    /// `scales` are `λ^-½` of the rows of both sides. `None` when the decomposition does not converge.
    pub fn of(arch: Arch, factors: &Factors, scales: &[Vec<f64>; 2]) -> Option<Spectrum> {
        let grams = [dense_gram(arch, &factors.users, &scales[0]), dense_gram(arch, &factors.items, &scales[1])];
        let sum = (&grams[0] + &grams[1]).self_adjoint_eigen(Triangle::Lower).ok()?;
        Some(Spectrum { grams, sum })
    }

    fn rank(&self) -> usize {
        self.grams[0].nrows()
    }

    /// Singular value of the scaled predictions along the direction `at`, ascending.
    pub fn size(&self, at: usize) -> f64 {
        self.sum.S()[at] / 2.0
    }

    /// The largest of them.
    pub fn largest(&self) -> f64 {
        (0..self.rank()).map(|at| self.size(at)).fold(0.0, f64::max)
    }

    /// Unit vectors of these directions, as columns.
    pub fn vectors(&self, which: &[usize]) -> Mat<f64> {
        Mat::from_fn(self.rank(), which.len(), |i, j| self.sum.U()[(i, which[j])])
    }
}

/// Some directions of a k-space, at right angles to each other.
#[derive(Debug, Clone)]
pub struct Subspace {
    /// k × width, columns of length one.
    basis: Mat<f64>,
}

impl Subspace {
    /// The directions that these factors use, if leaving the others out saves anything: whole vectors of the kernel.
    /// `scales` are `λ^-½` of the rows. Costs `rows · k²` floating-point operations.
    pub fn of(arch: Arch, factors: &Factors, scales: &[Vec<f64>; 2]) -> Option<Subspace> {
        let k = factors.users.rank();
        if k <= kernel::padded(1) {
            return None;
        }
        let spectrum = Spectrum::of(arch, factors, scales)?;
        let largest = spectrum.largest();
        let used = (0..k).filter(|&at| spectrum.size(at) > CUTOFF * largest).count();
        let width = kernel::padded(used + SPARE);
        if used == 0 || width >= k {
            return None;
        }
        // The largest come last.
        let which: Vec<usize> = (k - width..k).collect();
        Some(Subspace { basis: spectrum.vectors(&which) })
    }

    /// Numbers that a row has in these directions.
    pub fn width(&self) -> usize {
        self.basis.ncols()
    }

    /// The rows as seen along these directions; what they have along others is lost.
    pub fn narrowed(&self, factors: &Factors) -> Factors {
        let turned = |table: &Table| turned(table, self.basis.as_ref());
        Factors { users: turned(&factors.users), items: turned(&factors.items) }
    }

    /// The way back into the k-space.
    pub fn widened(&self, factors: &Factors) -> Factors {
        let turned = |table: &Table| turned(table, self.basis.transpose());
        Factors { users: turned(&factors.users), items: turned(&factors.items) }
    }
}

/// Every row times a matrix. Blocks are fixed, so that the number of threads does not show in the bits.
fn turned(table: &Table, by: MatRef<'_, f64>) -> Table {
    let mut out = table.zeros(by.ncols());
    let (from, to) = (by.nrows(), by.ncols());
    out.values_mut().par_chunks_mut(ROWS * to).zip(table.values().par_chunks(ROWS * from)).for_each(|(out, rows)| {
        let count = rows.len() / from;
        let rows = MatRef::from_row_major_slice(rows, count, from);
        matmul(MatMut::from_row_major_slice_mut(out, count, to), Accum::Replace, rows, by, 1.0, Par::Seq);
    });
    out
}

/// `Σ λ x xᵀ` over the rows of a table, summed in fixed blocks: a scaled copy of the whole would be another model.
pub(super) fn dense_gram(arch: Arch, table: &Table, scales: &[f64]) -> Mat<f64> {
    const ROWS: usize = 2048;
    let (k, stride) = (table.rank(), kernel::padded(table.rank()));
    let parts: Vec<Vec<f64>> = table
        .values()
        .par_chunks(ROWS * k)
        .zip(scales.par_chunks(ROWS))
        .map(|(rows, scales)| {
            let mut scaled = Table::new(k);
            scaled.grow(scales.len());
            for ((out, row), &scale) in scaled.values_mut().chunks_exact_mut(k).zip(rows.chunks_exact(k)).zip(scales) {
                let scale = if scale > 0.0 { scale } else { 1.0 };
                out.iter_mut().zip(row).for_each(|(out, x)| *out = x / scale);
            }
            als::gram(arch, &scaled)
        })
        .collect();
    let mut gram = vec![0.0; stride * stride];
    for part in parts {
        gram.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
    }
    Mat::from_fn(k, k, |i, j| gram[i.min(j) * stride + i.max(j)])
}

#[cfg(test)]
#[path = "subspace_tests.rs"]
mod tests;

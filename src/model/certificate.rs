//! What proves a generation: the objective and the largest relative normal-equation residual, computed afresh from
//! the data, in f64, without a k × k matrix per row.

use faer::{Mat, Side as Triangle};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::als::{self, Half, Weights};
use super::factors::{Factors, Side, Table};
use super::kernel;
use super::ratings::Ratings;

const CHUNK: usize = 64;
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
    let gram = (half.weights.unobserved > 0.0).then(|| {
        let mut gram = als::gram(arch, half.fixed);
        gram.iter_mut().for_each(|value| *value *= half.weights.unobserved);
        gram
    });
    let parts: Vec<Part> = solved
        .values()
        .par_chunks(CHUNK * k)
        .enumerate()
        .map(|(chunk, values)| arch.dispatch(Chunk { half, gram: gram.as_deref(), values, first: chunk * CHUNK, others }))
        .collect();
    parts.into_iter().fold(Part { residual: 0.0, loss: 0.0, regularization: 0.0 }, |all, part| Part {
        residual: all.residual.max(part.residual),
        loss: all.loss + part.loss,
        regularization: all.regularization + part.regularization,
    })
}

struct Chunk<'a> {
    half: Half<'a>,
    gram: Option<&'a [f64]>,
    values: &'a [f64],
    first: usize,
    others: usize,
}

impl WithSimd for Chunk<'_> {
    type Output = Part;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Part {
        let Chunk { half, gram, values, first, others } = self;
        let k = half.fixed.rank();
        let stride = kernel::padded(k);
        let (mut padded, mut product, mut right) = (vec![0.0; stride], vec![0.0; stride], vec![0.0; k]);
        let mut part = Part { residual: 0.0, loss: 0.0, regularization: 0.0 };
        for (at, x) in values.chunks_exact(k).enumerate() {
            let (columns, ratings) = half.rows.row(first + at);
            if columns.is_empty() {
                continue;
            }
            let lambda = half.weights.row(columns.len(), others);
            product.fill(0.0);
            if let Some(gram) = gram {
                padded[..k].copy_from_slice(x);
                kernel::symmetric(simd, gram, &padded, &mut product, stride);
                part.loss += kernel::dot(simd, x, &product[..k]);
            }
            right.fill(0.0);
            let mut mass = 0.0;
            for (&column, &rating) in columns.iter().zip(ratings) {
                let y = half.fixed.raw(column as usize);
                let (weight, factor) = half.weights.pair(rating);
                let prediction = kernel::dot(simd, x, y);
                part.loss += half.weights.loss(rating, prediction);
                kernel::axpy(simd, weight * prediction, y, &mut product[..k]);
                kernel::axpy(simd, factor, y, &mut right);
                mass += factor.abs();
            }
            kernel::axpy(simd, lambda, x, &mut product[..k]);
            part.regularization += lambda * kernel::dot(simd, x, x);
            let right_norm = kernel::dot(simd, &right, &right).sqrt();
            kernel::axpy(simd, -1.0, &right, &mut product[..k]);
            let residual = kernel::dot(simd, &product[..k], &product[..k]).sqrt();
            part.residual = part.residual.max(als::relative(residual, right_norm, mass));
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

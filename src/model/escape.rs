//! The way out of a saddle: a direction that the factors have given up and that would lower the objective.
//!
//! Where the optimum needs fewer directions than the rank, the others collapse to zero, and alternating least squares
//! cannot bring one back that changed data need again: it would have to grow from nothing, below every residual. What
//! is looked at here is the gradient by predictions, `M = −½ ∂loss/∂X`, with rows scaled by their λ:
//! `M̃ = Λ_u^-½ M Λ_i^-½`. The penalty of the factors is the nuclear norm of `Λ_u^½ X Λ_i^½` in disguise, so
//! stationary factors are the global optimum if the rank does not bind and `σ_max(M̃) ≤ 1`: the directions in use have
//! σ = 1, and a collapsed one with σ > 1 is a way down.
//!
//! Source of the condition: Srebro, Rennie, Jaakkola, *Maximum-Margin Matrix Factorization*, NIPS 2004; of the missed
//! directions: Haeffele, Vidal, *Structured Low-Rank Matrix Factorization: Global Optimality, Algorithms, and
//! Applications*, IEEE TPAMI 42 (2020).

use faer::{Mat, Side as Triangle};
use pulp::Arch;
use rayon::prelude::*;

use super::als::Weights;
use super::anderson::dot;
use super::certificate::{RANK_CUTOFF, ZERO};
use super::factors::{Factors, Table};
use super::lanczos::{self, Operator, SHARED, Triplet};
use super::ratings::{Ratings, Rows};
use super::splitmix::mixed;
use super::subspace::Spectrum;
use gradient::{Across, Gradient, gathered, unscale};

mod gradient;

/// Products with M̃ᵀ M̃ in one search.
const STEPS: usize = 48;
/// So many directions of users are taken out within the pass over the pairs: each costs a pass of its own beforehand.
const FEW: usize = 12;
/// A σ above 1 by less is left alone: an f32 gradient and factors stationary to 1e-6 know it no better.
const MARGIN: f64 = 1e-6;
/// Blocks of user rows; fixed, so that the number of threads does not show in the bits.
const BLOCKS: usize = 32;
/// A start vector that loses all but this share to the directions in use says that these are all there are.
const NOTHING_LEFT: f64 = 1e-10;
/// A way that is about to be used settles down from above its final weight without trouble. Put below it, where its
/// gradient is small and bends away, an accelerated iteration takes the saddle for the near zero of the gradient and
/// returns to it.
const OVERSHOOT: f64 = 4.0;

/// What a search found beside the directions in use.
#[derive(Debug, Clone, PartialEq)]
pub struct Search {
    /// Largest singular value of M̃ there, from below (Lanczos); 0 when nothing is left there.
    pub sigma: f64,
    /// How many singular values there were seen above 1; a lower bound.
    pub missing: usize,
    /// All directions are in use and more are wanted: no way down can be taken, and where the factors stand depends on
    /// where they started.
    pub binds: bool,
    /// Ways down, steepest first; no more than there are collapsed directions.
    ways: Vec<Way>,
}

impl Search {
    /// Whether following would lower the objective.
    pub fn leads_on(&self) -> bool {
        !self.ways.is_empty()
    }
}

#[derive(Debug, Clone, PartialEq)]
struct Way {
    triplet: Triplet,
    /// Collapsed direction of the factors that takes it up, of length k.
    along: Vec<f64>,
}

/// Looks for collapsed directions that would lower the objective. `None` when there are no pairs, or when their weights
/// are so far apart that M̃ is lost in rounding.
///
/// `tolerance` is the residual down to which the factors are stationary. Costs up to 48 passes over the pairs, each of
/// 4 floating-point operations a pair, and one of 2 for each direction in use; where those are more than 12, 96 passes of 2; and
/// one for each way. Takes 4 bytes a pair, 48 vectors of items and up to 12 of either side meanwhile. Equal input gives equal
/// bits for any number of threads.
pub fn search(arch: Arch, ratings: &Ratings, factors: &Factors, weights: &Weights, tolerance: f64) -> Option<Search> {
    let gradient = Gradient::new(arch, ratings, factors, weights);
    if gradient.reach == 0.0 {
        return None;
    }
    let directions = Directions::new(arch, factors, &gradient)?;
    let full = directions.collapsed.is_empty();
    let complement = Complement::new(&gradient, &directions);
    let mut start = gradient.start();
    let length = lanczos::inner(&start, &start);
    // The start is what may be all but gone, and what is left of it is measured.
    complement.project(1, &mut start);
    complement.project(1, &mut start);
    if lanczos::inner(&start, &start) <= NOTHING_LEFT * length {
        return Some(Search { sigma: 0.0, missing: 0, binds: false, ways: Vec::new() });
    }
    let threshold = 1.0 + MARGIN.max(tolerance) + gradient.rounding;
    let top = lanczos::top(&complement, start, STEPS, threshold, directions.collapsed.len())?;
    let ways = top.above.into_iter().zip(directions.collapsed).map(|(triplet, along)| Way { triplet, along }).collect();
    (gradient.rounding < 1.0).then_some(Search { sigma: top.value, missing: top.beyond, binds: full && top.beyond > 0, ways })
}

/// The largest singular value of all of M̃, from below; what is in use has 1 where the factors are stationary. Costs what
/// [`search`] costs.
pub fn largest(arch: Arch, ratings: &Ratings, factors: &Factors, weights: &Weights) -> Option<f64> {
    let gradient = Gradient::new(arch, ratings, factors, weights);
    lanczos::top(&gradient, gradient.start(), STEPS, f64::INFINITY, 0).map(|top| top.value)
}

/// Takes the ways that a search found: each gets a collapsed direction of its own and [`OVERSHOOT`] times the weight
/// that lowers the objective most along this way alone. The objective may rise for a moment.
pub fn follow(ratings: &Ratings, factors: &mut Factors, weights: &Weights, search: &Search) {
    let scales = scales(ratings, factors, weights);
    for Way { triplet, along } in &search.ways {
        let left = scaled(&triplet.left, &scales[0]);
        let right = scaled(&triplet.right, &scales[1]);
        let curvature = curvature(ratings, weights, &left, &right);
        let length = (OVERSHOOT * (triplet.value - 1.0) / curvature).sqrt();
        if length.is_finite() {
            replace(&mut factors.users, along, &left, length);
            replace(&mut factors.items, along, &right, length);
        }
    }
}

/// `½ d²loss/dt²` along `X + t · left rightᵀ`.
fn curvature(ratings: &Ratings, weights: &Weights, left: &[f64], right: &[f64]) -> f64 {
    let observed: Vec<f64> = blocks(&ratings.users)
        .into_par_iter()
        .map(|rows| {
            rows.map(|row| {
                let (columns, values) = ratings.users.row(row);
                let squares = columns.iter().zip(values).map(|(&column, value)| weights.pair(value).0 * right[column as usize].powi(2));
                left[row].powi(2) * squares.sum::<f64>()
            })
            .sum()
        })
        .collect();
    observed.iter().sum::<f64>() + weights.unobserved * lanczos::inner(left, left) * lanczos::inner(right, right)
}

/// Puts `length · values` in the place of what the rows have along a direction.
fn replace(table: &mut Table, along: &[f64], values: &[f64], length: f64) {
    let k = along.len();
    table.values_mut().par_chunks_mut(k).zip(values).for_each(|(row, &value)| {
        let had: f64 = row.iter().zip(along).map(|(x, z)| x * z).sum();
        row.iter_mut().zip(along).for_each(|(x, z)| *x += (length * value - had) * z);
    });
}

fn scaled(values: &[f64], scales: &[f64]) -> Vec<f64> {
    values.iter().zip(scales).map(|(value, scale)| value * scale).collect()
}

/// `λ^-½` of the rows of users and of items; 0 for rows that do not exist.
pub(super) fn scales(ratings: &Ratings, factors: &Factors, weights: &Weights) -> [Vec<f64>; 2] {
    let counts = [factors.users.count(), factors.items.count()];
    let of = |rows: &Rows, table: &Table, others: usize| {
        (0..table.len()).map(|row| if table.is_live(row) { weights.row(rows.degree(row), others).sqrt().recip() } else { 0.0 }).collect()
    };
    [of(&ratings.users, &factors.users, counts[1]), of(&ratings.items, &factors.items, counts[0])]
}

/// Ranges of rows.
pub(super) fn blocks(rows: &Rows) -> Vec<std::ops::Range<usize>> {
    let size = rows.len().div_ceil(BLOCKS).max(1);
    (0..rows.len()).step_by(size).map(|first| first..(first + size).min(rows.len())).collect()
}

/// A number in ±1 that depends on the row alone.
fn noise(row: usize) -> f64 {
    (mixed((row as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)) >> 11) as f64 / (1u64 << 52) as f64 - 1.0
}

/// The directions of the factors' k-space that are in use and those that have collapsed.
struct Directions {
    /// Unit vectors, most collapsed first.
    collapsed: Vec<Vec<f64>>,
    /// k × used per side: the columns of `Λ^½ F H` are an orthonormal basis of what the side's directions in use span.
    half: [Mat<f64>; 2],
}

impl Directions {
    /// `None` when a decomposition does not converge.
    fn new(arch: Arch, factors: &Factors, gradient: &Gradient<'_>) -> Option<Directions> {
        let k = factors.users.rank();
        let spectrum = Spectrum::of(arch, factors, &gradient.scales)?;
        let largest = spectrum.largest().max(ZERO * gradient.reach);
        // Ascending, as the decomposition gives them.
        let (used, collapsed): (Vec<usize>, Vec<usize>) = (0..k).partition(|&at| spectrum.size(at) > RANK_CUTOFF * largest);
        let vector = |at: usize| -> Vec<f64> { spectrum.vectors(&[at]).col_as_slice(0).to_vec() };
        let basis = spectrum.vectors(&used);
        let half = |gram: &Mat<f64>| {
            if used.is_empty() {
                return Some(Mat::zeros(k, 0));
            }
            let small = (basis.transpose() * gram * &basis).self_adjoint_eigen(Triangle::Lower).ok()?;
            let root = Mat::from_fn(used.len(), used.len(), |i, j| small.U()[(i, j)] / small.S()[j].sqrt());
            Some(&basis * root)
        };
        Some(Directions {
            collapsed: collapsed.into_iter().map(vector).collect(),
            half: [half(&spectrum.grams[0])?, half(&spectrum.grams[1])?],
        })
    }
}

/// M̃ without the directions in use.
struct Complement<'a> {
    gradient: &'a Gradient<'a>,
    directions: &'a Directions,
    /// Those of the users, when they are few: then one pass over the pairs does for a product with M̃ and its transpose.
    across: Option<Across>,
}

impl<'a> Complement<'a> {
    fn new(gradient: &'a Gradient<'a>, directions: &'a Directions) -> Complement<'a> {
        let few = directions.half[0].ncols() <= FEW;
        Complement { gradient, directions, across: few.then(|| Across::new(gradient, &directions.half[0])) }
    }

    /// Takes the directions in use out of a vector of users (0) or items (1). What rounding leaves of them is as large the
    /// next time, and not larger: they have σ = 1.
    fn project(&self, side: usize, x: &mut [f64]) {
        let table = if side == 0 { &self.gradient.factors.users } else { &self.gradient.factors.items };
        let scales = &self.gradient.scales[side];
        let shares = gathered(table, &x.iter().zip(scales).map(|(x, &scale)| x * unscale(scale)).collect::<Vec<f64>>());
        let half = &self.directions.half[side];
        let shares = half * (half.transpose() * Mat::from_fn(shares.len(), 1, |i, _| shares[i]));
        let shares = shares.col_as_slice(0);
        let rows = x.par_iter_mut().with_min_len(SHARED).enumerate();
        rows.for_each(|(row, x)| *x -= unscale(scales[row]) * dot(table.raw(row), shares));
    }
}

impl Operator for Complement<'_> {
    fn forward(&self, x: &[f64]) -> Vec<f64> {
        let mut out = self.gradient.forward(x);
        self.project(0, &mut out);
        out
    }

    fn normal(&self, x: &[f64]) -> Vec<f64> {
        let mut out = match &self.across {
            Some(across) => self.gradient.normal_without(x, across),
            None => self.gradient.backward(&self.forward(x)),
        };
        self.project(1, &mut out);
        out
    }
}

#[cfg(test)]
#[path = "escape_tests.rs"]
mod tests;

//! The largest singular values, with their vectors, of a matrix that is only known by its products.

use faer::linalg::solvers::SelfAdjointEigen;
use faer::{Mat, Side as Triangle};
use rayon::prelude::*;

use super::anderson::{self, dot};

/// The largest value is found when the residual of its vectors is below this share of it; its own error is about the
/// square of that, over the distance to its neighbour.
const CONVERGED: f64 = 1e-6;
/// What is left of a vector below this share of the matrix is rounding: everything within reach has been seen.
const EXHAUSTED: f64 = 1e-13;
/// Chance that a largest value above the threshold is missed when the iteration ends early because it looks far below.
const MISSED: f64 = 1e-9;
/// Steps between two looks at the projected problem.
const LOOK: usize = 4;
/// Numbers of a vector that stay in a first-level cache while those of a basis pass by; fixed, so that the number of threads
/// does not show in the bits.
const CHUNK: usize = 1 << 12;

/// Numbers of a vector that one thread does alone: sooner than another is there to help.
pub(super) const SHARED: usize = 1 << 14;

/// A matrix by its products with a vector.
pub trait Operator: Sync {
    /// `A x`.
    fn forward(&self, x: &[f64]) -> Vec<f64>;
    /// `Aᵀ A x`.
    fn normal(&self, x: &[f64]) -> Vec<f64>;
}

/// `leftᵀ A right = value`, both vectors of length one.
#[derive(Debug, Clone, PartialEq)]
pub struct Triplet {
    pub value: f64,
    pub left: Vec<f64>,
    pub right: Vec<f64>,
}

/// What the iteration knows of the largest singular values.
#[derive(Debug, Clone, PartialEq)]
pub struct Top {
    /// The largest, from below. Where more steps would not have changed it, it is exact to about 1e-12.
    pub value: f64,
    /// How many were seen above the asked threshold; there may be more.
    pub beyond: usize,
    /// Triplets above the asked threshold, largest first. Their values are from below, too.
    pub above: Vec<Triplet>,
}

/// Lanczos iteration for `AᵀA` from `start` (not zero) with full reorthogonalisation: at most `steps` products, then the
/// triplets of A that the projected matrix has above `threshold`, at most `most`. It finds what a bidiagonalisation of A
/// finds, without that one's left vectors. It ends early when the largest is found, or when none is above a finite
/// `threshold`, to all appearances.
///
/// Answers `None` when a product was not finite. Keeps `steps` vectors of the right side and costs `4 · steps² · columns`
/// floating-point operations besides the products; each triplet takes one more with A.
///
/// # Source
/// Parlett, *The Symmetric Eigenvalue Problem*, 1980, chapter 13.
pub fn top(operator: &dyn Operator, start: Vec<f64>, steps: usize, threshold: f64, most: usize) -> Option<Top> {
    let mut basis = Basis { beyond: 1.0, ..Basis::default() };
    let mut next = start;
    orthonormalise(&mut next, &[]);
    while basis.diagonal.len() < steps && basis.beyond > EXHAUSTED * basis.largest {
        next = basis.step(operator, next);
        if basis.diagonal.len().is_multiple_of(LOOK) && basis.is_enough(threshold) {
            break;
        }
    }
    if basis.beyond.is_finite() { basis.triplets(operator, threshold, most) } else { None }
}

/// `AᵀA V = V T + beyond · next e_lastᵀ`: orthonormal columns in V, tridiagonal T.
#[derive(Default)]
struct Basis {
    vectors: Vec<Vec<f64>>,
    diagonal: Vec<f64>,
    beside: Vec<f64>,
    /// Coupling to what has not been seen; not a number once a product was none.
    beyond: f64,
    /// Largest entry of T.
    largest: f64,
}

impl Basis {
    /// Takes a direction into the basis and answers the next one.
    fn step(&mut self, operator: &dyn Operator, direction: Vec<f64>) -> Vec<f64> {
        let mut next = operator.normal(&direction);
        let alpha = inner(&direction, &next);
        if !self.diagonal.is_empty() {
            self.beside.push(self.beyond);
        }
        self.vectors.push(direction);
        self.diagonal.push(alpha);
        self.beyond = orthonormalise(&mut next, &self.vectors);
        self.largest = self.largest.max(alpha).max(self.beyond);
        next
    }

    /// Of the projected matrix; the largest comes last.
    fn eigen(&self) -> Option<SelfAdjointEigen<f64>> {
        let size = self.diagonal.len();
        let projected = Mat::from_fn(size, size, |i, j| match i.abs_diff(j) {
            0 => self.diagonal[i],
            1 => self.beside[i.min(j)],
            _ => 0.0,
        });
        projected.self_adjoint_eigen(Triangle::Lower).ok()
    }

    /// Whether the vectors of the largest value are as good as wanted, or whether no value is above the threshold, as far as a
    /// start without preference for any direction tells: after j steps the largest value of AᵀA, of n, has come out below 1 − ε of
    /// itself with a chance of at most 1.648 √n e^(−√ε (2j−1)).
    ///
    /// Source: Kuczyński, Woźniakowski, *Estimating the Largest Eigenvalue by the Power and Lanczos Algorithms with a Random
    /// Start*, SIAM J. Matrix Anal. Appl. 13 (1992).
    fn is_enough(&self, threshold: f64) -> bool {
        let last = self.diagonal.len() - 1;
        let (steps, size) = (self.diagonal.len() as f64, self.vectors[0].len() as f64);
        self.eigen().is_some_and(|eigen| {
            let square = eigen.S()[last];
            let epsilon = 1.0 - square / (threshold * threshold);
            let missed = 1.648 * size.sqrt() * (-epsilon.max(0.0).sqrt() * (2.0 * steps - 1.0)).exp();
            let is_below = threshold.is_finite() && epsilon > 0.0 && missed < MISSED;
            is_below || self.beyond * eigen.U()[(last, last)].abs() <= CONVERGED * square
        })
    }

    fn triplets(&self, operator: &dyn Operator, threshold: f64, most: usize) -> Option<Top> {
        if self.diagonal.is_empty() {
            return Some(Top { value: 0.0, beyond: 0, above: Vec::new() });
        }
        let eigen = self.eigen()?;
        let size = self.diagonal.len();
        // Rounding takes what is zero below it.
        let value = |at: usize| eigen.S()[size - 1 - at].max(0.0).sqrt();
        let beyond = (0..size).take_while(|&at| value(at) > threshold).count();
        let above = (0..beyond.min(most))
            .map(|at| {
                let right = combined(&self.vectors, |row| eigen.U()[(row, size - 1 - at)]);
                let mut left = operator.forward(&right);
                orthonormalise(&mut left, &[]);
                Triplet { value: value(at), left, right }
            })
            .collect();
        Some(Top { value: value(0), beyond, above })
    }
}

/// Makes a vector orthogonal to an orthonormal basis and of length one, twice over so that rounding does not show;
/// answers its length in between. What is left of a zero is zero.
///
/// Classical Gram–Schmidt: all shares are taken from the same vector, so that a block of it is read once and not once for
/// each of the basis. Done twice that is as exact as rounding lets it be.
///
/// Source: Giraud, Langou, Rozložník, van den Eshof, *Rounding Error Analysis of the Classical Gram-Schmidt Orthogonalization
/// Process*, Numerische Mathematik 101 (2005).
fn orthonormalise(vector: &mut [f64], basis: &[Vec<f64>]) -> f64 {
    let mut length = 1.0;
    for _ in 0..2 {
        let shares = shares(vector, basis);
        vector.par_chunks_mut(CHUNK).with_min_len(SHARED / CHUNK).enumerate().for_each(|(at, vector)| {
            for (known, share) in basis.iter().zip(&shares) {
                vector.iter_mut().zip(&known[at * CHUNK..]).for_each(|(value, known)| *value -= share * known);
            }
        });
        let now = inner(vector, vector).sqrt();
        if now > 0.0 {
            vector.iter_mut().for_each(|value| *value /= now);
        }
        length *= now;
    }
    length
}

/// Inner products with all of a basis, summed in fixed blocks.
fn shares(vector: &[f64], basis: &[Vec<f64>]) -> Vec<f64> {
    let parts: Vec<Vec<f64>> = vector
        .par_chunks(CHUNK)
        .with_min_len(SHARED / CHUNK)
        .enumerate()
        .map(|(at, vector)| basis.iter().map(|known| dot(&known[at * CHUNK..][..vector.len()], vector)).collect())
        .collect();
    let mut shares = vec![0.0; basis.len()];
    for part in parts {
        shares.iter_mut().zip(part).for_each(|(share, part)| *share += part);
    }
    shares
}

/// `x · y`, summed in fixed blocks.
pub fn inner(x: &[f64], y: &[f64]) -> f64 {
    anderson::sum_of_products(x, y, |value| value, |value| value)
}

fn combined(basis: &[Vec<f64>], share: impl Fn(usize) -> f64) -> Vec<f64> {
    let mut sum = vec![0.0; basis[0].len()];
    for (at, vector) in basis.iter().enumerate() {
        let share = share(at);
        sum.iter_mut().zip(vector).for_each(|(sum, value)| *sum += share * value);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dense(Mat<f64>);

    impl Operator for Dense {
        fn forward(&self, x: &[f64]) -> Vec<f64> {
            (0..self.0.nrows()).map(|i| (0..x.len()).map(|j| self.0[(i, j)] * x[j]).sum()).collect()
        }

        fn normal(&self, x: &[f64]) -> Vec<f64> {
            let y = self.forward(x);
            (0..self.0.ncols()).map(|j| (0..y.len()).map(|i| self.0[(i, j)] * y[i]).sum()).collect()
        }
    }

    fn wavy(rows: usize, columns: usize) -> Dense {
        Dense(Mat::from_fn(rows, columns, |i, j| {
            ((i * 7 + j * 13) as f64).sin() / (1.0 + (i % 5) as f64) + ((i * i + j) as f64 * 0.37).cos()
        }))
    }

    fn start(columns: usize) -> Vec<f64> {
        (0..columns).map(|j| 1.0 + (j as f64 * 1.7).sin()).collect()
    }

    #[test]
    fn the_largest_are_those_of_the_dense_decomposition() {
        for (rows, columns) in [(60, 40), (40, 60), (3, 50), (50, 3), (1, 1)] {
            let matrix = wavy(rows, columns);
            let svd = matrix.0.svd().unwrap();
            let found = top(&matrix, start(columns), 60, 0.0, 2).unwrap();
            assert!((found.value / svd.S()[0] - 1.0).abs() < 1e-11, "{rows} × {columns}: {} {}", found.value, svd.S()[0]);
            let first = &found.above[0];
            assert!((inner(&matrix.forward(&first.right), &first.left) / first.value - 1.0).abs() < 1e-12);
            assert!((inner(&first.left, &first.left) - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn what_is_far_below_the_threshold_is_not_looked_at_any_longer() {
        let matrix = wavy(200, 150);
        let largest = matrix.0.svd().unwrap().S()[0];
        let found = |threshold: f64| top(&matrix, start(150), 60, threshold, 1).unwrap();
        let (exact, near, far) = (found(0.0), found(1.001 * largest), found(2.0 * largest));
        assert_eq!(near.value, exact.value, "where it is close, nothing is saved");
        assert!(far.value <= exact.value && far.value > 0.9 * largest && far.beyond == 0);
        let infinite = found(f64::INFINITY);
        assert_eq!(infinite.value, exact.value, "who asks for the value itself gets it");
    }

    #[test]
    fn few_values_and_none_are_fine() {
        let rank_one = Dense(Mat::from_fn(9, 7, |i, j| (i + 1) as f64 * (j + 2) as f64));
        let found = top(&rank_one, start(7), 20, 1.0, 5).unwrap();
        assert!(found.above.len() == 1 && (found.value / rank_one.0.svd().unwrap().S()[0] - 1.0).abs() < 1e-13);
        assert_eq!(top(&Dense(Mat::zeros(4, 5)), start(5), 20, 1.0, 5), Some(Top { value: 0.0, beyond: 0, above: Vec::new() }));
    }

    #[test]
    fn what_is_not_finite_is_not_answered() {
        assert_eq!(top(&Dense(Mat::from_fn(4, 4, |_, _| f64::NAN)), start(4), 20, 1.0, 5), None);
    }
}

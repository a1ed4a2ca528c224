//! The proof that factors are the one global optimum, or how far above it they can be at most: a duality gap.
//!
//! With `X = U Vᵀ`, the least penalty of factors is a nuclear norm: `min Σ λ_u‖u‖² + Σ λ_i‖v‖² = 2‖Λ_u^½ X Λ_i^½‖_*`. So no
//! factors, of whatever rank, do better than `min_X Σ w (t − x)² + 2‖Λ_u^½ X Λ_i^½‖_*`, which is convex. With
//! `M = −½ ∂loss/∂X` at the factors at hand, `M̃ = Λ_u^-½ M Λ_i^-½` and `s ≥ σ_max(M̃)`, the point `−2θM` is feasible in
//! its dual for `θ = min(1, 1/s)`, and the dual's value there is `−Σ (2θ w t (x − t) + θ² w (x − t)²)`. With
//! `Σ w x (x − t) = −⟨M, X⟩` the difference is, without a cancellation of losses,
//!
//! `gap = (1 − θ)² loss + penalty − 2θ ⟨M, X⟩`
//!
//! where stationary factors have `penalty = 2⟨M, X⟩`. As the loss is quadratic, `Σ w (x − x*)² ≤ gap` for the optimum x*.
//!
//! `s` is rigorous up to the rounding named in [`Scaled::allowance`]: a number whose square, times the identity, minus
//! `M̃ᵀM̃` has a Cholesky factorisation. `M̃` is sparse plus low rank; the product is dense, on the smaller side.
//!
//! # Sources
//! Srebro, Rennie, Jaakkola, *Maximum-Margin Matrix Factorization*, NIPS 2004 (penalty and dual);
//! Rump, *Verification of Positive Definiteness*, BIT 46 (2006), and Higham, *Accuracy and Stability of Numerical
//! Algorithms*, 2nd ed., th. 10.3 (what a Cholesky factorisation that runs to its end proves).

use faer::linalg::matmul::matmul;
use faer::linalg::triangular_solve::solve_lower_triangular_in_place;
use faer::{Accum, Mat, MatRef, Par, Side as Triangle};
use pulp::Arch;
use rayon::prelude::*;

use super::als::{self, Weights};
use super::escape;
use super::factors::{Factors, Table};
use super::kernel;
use super::ratings::{Ratings, Rows};
use super::subspace;

/// Most rows on the smaller side: `M̃ᵀM̃` and its factorisation take 8 · 20,000² bytes = 3.2 GB, and each try of a bound
/// 20,000³/3 multiply-adds.
pub const LIMIT: usize = 20_000;
/// A gap up to this share of the objective certifies.
pub const GAP: f64 = 1e-6;
/// Distance of the first bound tried from what is known of σ, relative. It adds as much of the penalty to the gap.
const EXCESS: f64 = GAP / 16.0;
/// Factor from one try to the next.
const WIDER: f64 = 4.0;
/// Tries; the last is a quarter above what is known of σ.
const TRIES: u32 = 12;
/// Columns of a tile: two of these and their product fit the second-level cache.
const TILE: usize = 192;
/// Rounding of one operation, relative.
const UNIT: f64 = f64::EPSILON / 2.0;

/// Upper bounds, both including what rounding may have hidden.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bound {
    /// Of the largest singular value of all of M̃.
    pub sigma: f64,
    /// Of the distance of the objective from the least that factors of any rank reach.
    pub gap: f64,
}

/// Why there is no bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoBound {
    #[error("{rows} rows on the smaller side; the limit is {LIMIT}")]
    TooLarge { rows: usize },
    #[error("no bound on σ was found: the weights of the pairs are too far apart for the digits of f64")]
    Rounding,
}

/// Bounds the distance of factors from the global optimum.
///
/// Costs, with n rows on the smaller side, `n³/3` multiply-adds a try (one to three as a rule), `n² k`, `Σ degree²` of the
/// larger side and `4 · pairs · k` for M̃; 8 n² bytes and 8 bytes a pair meanwhile. Equal input gives equal bits for any
/// number of threads.
///
/// # Errors
/// [`NoBound`] when the smaller side is too large, or when rounding hides σ.
pub fn bound(arch: Arch, ratings: &Ratings, factors: &Factors, weights: &Weights) -> Result<Bound, NoBound> {
    let rows = factors.users.count().min(factors.items.count());
    if rows > LIMIT {
        return Err(NoBound::TooLarge { rows });
    }
    let scaled = Scaled::new(ratings, factors, weights);
    let known = escape::largest(arch, ratings, factors, weights).filter(|sigma| sigma.is_finite()).ok_or(NoBound::Rounding)?.max(1.0);
    if !scaled.size().is_finite() {
        return Err(NoBound::Rounding);
    }
    let product = scaled.product(arch);
    let tries = (0..TRIES).map(|n| known * (1.0 + EXCESS * WIDER.powi(n as i32)));
    let tried = tries.into_iter().find(|t| positive_definite(&product, t * t)).ok_or(NoBound::Rounding)?;
    let sigma = scaled.allowance(tried);
    let gap = scaled.gap(arch, sigma);
    if sigma.is_finite() && gap.is_finite() { Ok(Bound { sigma, gap }) } else { Err(NoBound::Rounding) }
}

/// `m` roundings in a row, relative to what is rounded (Higham's γ).
fn gamma(m: usize) -> f64 {
    m as f64 * UNIT / (1.0 - m as f64 * UNIT)
}

/// One side of the problem: observed rows, factors and `λ^-½` by row.
struct Half<'a> {
    rows: &'a Rows,
    table: &'a Table,
    scales: Vec<f64>,
}

impl Half<'_> {
    /// `Σ λ^-1 ‖row‖²`.
    fn squares(&self) -> f64 {
        self.table.values().chunks_exact(self.table.rank()).zip(&self.scales).map(|(row, scale)| scale * scale * dot(row, row)).sum()
    }
}

/// M̃: what observed pairs add, and `−a0 L̃ S̃ᵀ` in the scaled factors of both sides.
struct Scaled<'a> {
    long: Half<'a>,
    short: Half<'a>,
    /// Place of each row of the shorter side among those that exist.
    places: Vec<usize>,
    weights: &'a Weights,
    /// Observed entries, by block of rows of the longer side, row by row.
    observed: Vec<(std::ops::Range<usize>, Vec<f64>)>,
    sums: Sums,
    penalty: f64,
}

/// Sums over the observed pairs.
#[derive(Default, Clone, Copy)]
struct Sums {
    /// Of the squared entries of M̃.
    squares: f64,
    /// Of the squares of what rounding may have done to an entry.
    errors: f64,
    /// What observed pairs add to the loss.
    loss: f64,
    /// Of `pull · x`, their part of ⟨M, X⟩, ...
    pulled: f64,
    /// ... of the absolute values of its terms and of those of the loss, and of what rounding may have done to them.
    absolute: f64,
    blurred: f64,
}

impl Sums {
    fn add(&mut self, other: &Sums) {
        self.squares += other.squares;
        self.errors += other.errors;
        self.loss += other.loss;
        self.pulled += other.pulled;
        self.absolute += other.absolute;
        self.blurred += other.blurred;
    }
}

impl<'a> Scaled<'a> {
    fn new(ratings: &'a Ratings, factors: &'a Factors, weights: &'a Weights) -> Scaled<'a> {
        let [by_user, by_item] = escape::scales(ratings, factors, weights);
        let users = Half { rows: &ratings.users, table: &factors.users, scales: by_user };
        let items = Half { rows: &ratings.items, table: &factors.items, scales: by_item };
        let (long, short) = if users.table.count() >= items.table.count() { (users, items) } else { (items, users) };
        let places = (0..short.table.len())
            .scan(0, |next, row| {
                let place = *next;
                *next += usize::from(short.table.is_live(row));
                Some(place)
            })
            .collect();
        let mut scaled = Scaled { long, short, places, weights, observed: Vec::new(), sums: Sums::default(), penalty: 0.0 };
        scaled.penalty = scaled.penalty();
        let blocks: Vec<_> = escape::blocks(scaled.long.rows).into_par_iter().map(|rows| scaled.block(rows)).collect();
        for (observed, sums) in blocks {
            scaled.observed.push(observed);
            scaled.sums.add(&sums);
        }
        scaled
    }

    /// `Σ λ ‖row‖²` of both sides.
    fn penalty(&self) -> f64 {
        [&self.long, &self.short].iter().fold(0.0, |sum, half| {
            let of = |(row, scale): (&[f64], &f64)| if *scale > 0.0 { dot(row, row) / (scale * scale) } else { 0.0 };
            sum + half.table.values().chunks_exact(half.table.rank()).zip(&half.scales).map(of).sum::<f64>()
        })
    }

    /// Observed entries of some rows of the longer side.
    fn block(&self, rows: std::ops::Range<usize>) -> ((std::ops::Range<usize>, Vec<f64>), Sums) {
        let (mut observed, mut sums) = (Vec::new(), Sums::default());
        let dotted = gamma(self.long.table.rank() + 8);
        for row in rows.clone() {
            let x = self.long.table.raw(row);
            let length = dot(x, x).sqrt();
            let (columns, values) = self.long.rows.row(row);
            let mut of_row = Sums::default();
            for (&column, value) in columns.iter().zip(values) {
                let y = self.short.table.raw(column as usize);
                let scale = self.long.scales[row] * self.short.scales[column as usize];
                let prediction = dot(x, y);
                let pull = self.weights.pull(value, prediction);
                // The weight times what the prediction may be off, and the rounding of the sum that the pull is.
                let (weight, factor) = self.weights.pair(value);
                let reach = length * dot(y, y).sqrt();
                let error = dotted * ((weight + 2.0 * self.weights.unobserved) * reach + factor.abs());
                let entry = scale * pull;
                let loss = self.weights.loss(value, prediction);
                observed.push(entry);
                of_row.squares += entry * entry;
                of_row.errors += (scale * error).powi(2);
                of_row.loss += loss;
                of_row.pulled += pull * prediction;
                of_row.absolute += (pull * prediction).abs() + loss.abs() + 2.0 * self.weights.unobserved * prediction * prediction;
                of_row.blurred += error * (1.0 + dotted) * reach + dotted * pull.abs() * reach;
            }
            sums.add(&of_row);
        }
        ((rows, observed), sums)
    }

    /// A number that no entry, row or column of M̃ or of its two parts is above, squared: `(‖S‖_F + a0 ‖L̃‖_F ‖S̃‖_F)²`.
    fn size(&self) -> f64 {
        (self.sums.squares.sqrt() + self.low_rank_size()).powi(2)
    }

    fn low_rank_size(&self) -> f64 {
        if self.weights.unobserved == 0.0 { 0.0 } else { self.weights.unobserved * (self.long.squares() * self.short.squares()).sqrt() }
    }

    /// The lower triangle of `M̃ᵀM̃` over the rows of the shorter side that exist, by block of columns: the block from
    /// column c has the rows from c on.
    fn product(&self, arch: Arch) -> Vec<Mat<f64>> {
        let rows = self.short.table.count();
        let low_rank = (self.weights.unobserved > 0.0).then(|| self.low_rank(arch));
        (0..rows.div_ceil(TILE))
            .into_par_iter()
            .map(|block| {
                let (first, last) = (block * TILE, (block * TILE + TILE).min(rows));
                let mut sum = self.sparse_product(first, last, rows);
                if let Some((crossed, scaled)) = &low_rank {
                    let k = self.short.table.rank();
                    let (crossed, scaled) = (MatRef::from_row_major_slice(crossed, rows, k), MatRef::from_row_major_slice(scaled, rows, k));
                    for (left, right) in [(crossed, scaled), (scaled, crossed)] {
                        let (left, right) = (left.subrows(first, rows - first), right.subrows(first, last - first).transpose());
                        matmul(sum.as_mut(), Accum::Add, left, right, 1.0, Par::Seq);
                    }
                }
                sum
            })
            .collect()
    }

    /// `SᵀS` of the observed entries in the columns from `first` to before `last`, from row `first` on.
    fn sparse_product(&self, first: usize, last: usize, rows: usize) -> Mat<f64> {
        let mut sum = Mat::zeros(rows - first, last - first);
        for (long_rows, entries) in &self.observed {
            let mut at = 0;
            for row in long_rows.clone() {
                let columns = self.long.rows.row(row).0;
                let entries = &entries[at..at + columns.len()];
                at += columns.len();
                let place = |column: &u32| self.places[*column as usize];
                let from = columns.partition_point(|column| place(column) < first);
                let to = columns.partition_point(|column| place(column) < last);
                for p in from..to {
                    let column = sum.col_as_slice_mut(place(&columns[p]) - first);
                    for q in p..columns.len() {
                        column[place(&columns[q]) - first] += entries[q] * entries[p];
                    }
                }
            }
        }
        sum
    }

    /// `W` and `S̃`, by rows that exist, such that `M̃ᵀM̃ = SᵀS + W S̃ᵀ + S̃ Wᵀ`: `W = −a0 Sᵀ L̃ + ½ a0² S̃ L̃ᵀL̃`.
    fn low_rank(&self, arch: Arch) -> (Vec<f64>, Vec<f64>) {
        let (k, a0) = (self.short.table.rank(), self.weights.unobserved);
        let inverse: Vec<f64> = self.long.scales.iter().map(|&scale| if scale > 0.0 { scale.recip() } else { 0.0 }).collect();
        let gram = subspace::dense_gram(arch, self.long.table, &inverse);
        let rows: Vec<(Vec<f64>, Vec<f64>)> = self
            .short
            .table
            .rows()
            .collect::<Vec<_>>()
            .into_par_iter()
            .map(|row| {
                let (scale, y) = (self.short.scales[row], self.short.table.raw(row));
                let scaled: Vec<f64> = y.iter().map(|y| scale * y).collect();
                let mut crossed: Vec<f64> =
                    (0..k).map(|i| 0.5 * a0 * a0 * scaled.iter().enumerate().map(|(j, y)| gram[(i, j)] * y).sum::<f64>()).collect();
                let (columns, values) = self.short.rows.row(row);
                for (&column, value) in columns.iter().zip(values) {
                    let x = self.long.table.raw(column as usize);
                    let scale_of_x = self.long.scales[column as usize];
                    let share = a0 * scale_of_x * (scale_of_x * scale * self.weights.pull(value, dot(x, y)));
                    crossed.iter_mut().zip(x).for_each(|(crossed, x)| *crossed -= share * x);
                }
                (crossed, scaled)
            })
            .collect();
        let (crossed, scaled): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
        (crossed.concat(), scaled.concat())
    }

    /// σ_max of M̃ when that of the computed product is at most `t²`, with everything that rounding may have done:
    ///
    /// - the factorisation stands for a matrix that is off by at most `γ_4(n+1) · trace ≤ γ_4(n+1) n t²` (Higham's bound is
    ///   `γ_n+1`; four times it covers that faer divides by multiplying with reciprocals);
    /// - the sums of the product, of at most `N + 2k` terms each, are off by `γ_N+2k+16 (‖S‖_F + a0 ‖L̃‖_F ‖S̃‖_F)²`;
    /// - the entries of M̃ are off by what [`Sums::errors`] says, those of the scaled factors by `γ_4`;
    /// - the scales, each a power, a product and a root, are off by eight units.
    fn allowance(&self, t: f64) -> f64 {
        let (n, long, k) = (self.short.table.count(), self.long.table.count(), self.short.table.rank());
        let factorised = gamma(4 * (n + 1)) * n as f64 * t * t;
        let summed = gamma(long + 2 * k + 16) * self.size();
        let entries = self.sums.errors.sqrt() + gamma(4) * self.low_rank_size();
        ((t * t + factorised + summed).sqrt() + entries) * (1.0 + 32.0 * UNIT)
    }

    /// The gap for σ_max(M̃) ≤ `sigma`, with what rounding may have hidden of it.
    fn gap(&self, arch: Arch, sigma: f64) -> f64 {
        let theta = (1.0 / sigma).min(1.0);
        let (squares, squares_absolute) = self.all_squares(arch);
        let a0 = self.weights.unobserved;
        let loss = self.sums.loss + a0 * squares;
        let together = self.sums.pulled - a0 * squares;
        let gap = (1.0 - theta).powi(2) * loss + (self.penalty - 2.0 * theta * together);
        let absolute = self.penalty + 2.0 * (self.sums.absolute + 2.0 * a0 * squares_absolute);
        let rounding = gamma(self.longest_sum()) * absolute + 4.0 * self.sums.blurred;
        gap.max(0.0) + rounding
    }

    /// `Σ x²` over all pairs, observed or not, and the sum of its terms' absolute values.
    fn all_squares(&self, arch: Arch) -> (f64, f64) {
        if self.weights.unobserved == 0.0 {
            return (0.0, 0.0);
        }
        let (k, stride) = (self.long.table.rank(), kernel::padded(self.long.table.rank()));
        let (long, short) = (als::gram(arch, self.long.table), als::gram(arch, self.short.table));
        let at = |gram: &[f64], i: usize, j: usize| gram[i.min(j) * stride + i.max(j)];
        let (mut sum, mut root) = (0.0, 0.0);
        for i in 0..k {
            root += (at(&long, i, i) * at(&short, i, i)).sqrt();
            sum += (0..k).map(|j| at(&long, i, j) * at(&short, i, j)).sum::<f64>();
        }
        (sum, root * root)
    }

    /// Terms of the longest sum behind the gap.
    fn longest_sum(&self) -> usize {
        let rows = self.long.table.len() + self.short.table.len();
        rows + self.long.table.rank() * 2 + 64
    }
}

/// `x · y` in eight fixed lanes.
fn dot(x: &[f64], y: &[f64]) -> f64 {
    let (xs, ys) = (x.chunks_exact(8), y.chunks_exact(8));
    let rest: f64 = xs.remainder().iter().zip(ys.remainder()).map(|(x, y)| x * y).sum();
    let mut lanes = [0.0; 8];
    for (x, y) in xs.zip(ys) {
        for (lane, (x, y)) in lanes.iter_mut().zip(x.iter().zip(y)) {
            *lane += x * y;
        }
    }
    lanes.iter().sum::<f64>() + rest
}

/// Whether `shift · 1 − product` has a Cholesky factorisation; `product` as [`Scaled::product`] gives it. Tiles are
/// computed each by one thread in a fixed order.
fn positive_definite(product: &[Mat<f64>], shift: f64) -> bool {
    let mut done: Vec<Mat<f64>> = Vec::with_capacity(product.len());
    for (at, block) in product.iter().enumerate() {
        let (rows, width) = (block.nrows(), block.ncols());
        let mut tiles: Vec<Mat<f64>> = (0..rows.div_ceil(TILE))
            .into_par_iter()
            .map(|tile| {
                let first = tile * TILE;
                let height = TILE.min(rows - first);
                let mut tile =
                    Mat::from_fn(height, width, |i, j| if first + i == j { shift - block[(j, j)] } else { -block[(first + i, j)] });
                for (before, left) in done.iter().enumerate() {
                    let start = (at - before) * TILE;
                    let (lower, upper) = (left.subrows(start + first, height), left.subrows(start, width).transpose());
                    matmul(tile.as_mut(), Accum::Add, lower, upper, -1.0, Par::Seq);
                }
                tile
            })
            .collect();
        let Ok(diagonal) = tiles[0].llt(Triangle::Lower) else { return false };
        tiles[1..].par_iter_mut().for_each(|tile| solve_lower_triangular_in_place(diagonal.L(), tile.as_mut().transpose_mut(), Par::Seq));
        let mut whole = Mat::zeros(rows, width);
        for (tile, part) in tiles.iter().enumerate() {
            whole.subrows_mut(tile * TILE, part.nrows()).copy_from(part);
        }
        done.push(whole);
    }
    true
}

#[cfg(test)]
#[path = "global_tests.rs"]
mod tests;

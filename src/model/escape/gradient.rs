//! The gradient by predictions, scaled, and what a search asks of it.

use std::ops::Range;

use faer::Mat;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::{blocks, noise, scaled, scales};
use crate::model::als::Weights;
use crate::model::anderson::dot;
use crate::model::factors::{Factors, Table};
use crate::model::kernel;
use crate::model::lanczos::{Operator, SHARED};
use crate::model::ratings::{Ratings, Rows};

/// M̃, of users × items: what observed pairs add, in the order of the users' rows, and `−a0 Ũ Ṽᵀ` in factors.
pub(super) struct Gradient<'a> {
    rows: &'a Rows,
    pub factors: &'a Factors,
    unobserved: f64,
    pub scales: [Vec<f64>; 2],
    /// By block of users.
    observed: Vec<(Range<usize>, Vec<f32>)>,
    /// `(Σ_observed λ_u λ_i target²)^½`: the size of scaled predictions that meet every target.
    pub reach: f64,
    /// What rounding may have added to one entry.
    pub rounding: f64,
}

/// What the observed pairs of some users add to M̃.
struct Observed {
    rows: Range<usize>,
    /// Pair by pair.
    entries: Vec<f32>,
    /// `Σ λ_u λ_i target²`.
    reach: f64,
    rounding: f64,
}

struct Observe<'a> {
    ratings: &'a Ratings,
    factors: &'a Factors,
    weights: &'a Weights,
    scales: &'a [Vec<f64>; 2],
    rows: Range<usize>,
}

impl WithSimd for Observe<'_> {
    type Output = Observed;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Observed {
        const BATCH: usize = 8;
        let Observe { ratings, factors, weights, scales, rows } = self;
        let lines = factors.items.lines();
        let pairs = rows.clone().map(|row| ratings.users.degree(row)).sum();
        let (mut entries, mut reach, mut rounding) = (Vec::with_capacity(pairs), 0.0, 0.0f64);
        let mut numbers = Vec::new();
        for row in rows.clone() {
            let (columns, values) = ratings.users.row(row);
            let (x, values) = (factors.users.raw(row), values.read(&mut numbers));
            for (columns, values) in columns.chunks(BATCH).zip(values.chunks(BATCH)) {
                let mut ys: [&[f64]; BATCH] = [x; BATCH];
                for (y, &column) in ys.iter_mut().zip(columns) {
                    *y = lines.at(column);
                }
                let predictions = kernel::dots(simd, x, &ys);
                for (at, &value) in values.iter().enumerate() {
                    let scale = scales[0][row] * scales[1][columns[at] as usize];
                    let wanted = weights.target(value) / scale;
                    entries.push((scale * weights.pull(value, predictions[at])) as f32);
                    reach += wanted * wanted;
                    rounding = rounding.max(f64::EPSILON * scale * weights.pair(value).1.abs());
                }
            }
        }
        Observed { rows, entries, reach, rounding }
    }
}

impl<'a> Gradient<'a> {
    /// Costs `2 · pairs · k` floating-point operations.
    pub fn new(arch: Arch, ratings: &'a Ratings, factors: &'a Factors, weights: &Weights) -> Gradient<'a> {
        let scales = scales(ratings, factors, weights);
        let observe = |rows: Range<usize>| arch.dispatch(Observe { ratings, factors, weights, scales: &scales, rows });
        let parts: Vec<Observed> = blocks(&ratings.users).into_par_iter().map(observe).collect();
        let mut gradient = Gradient {
            rows: &ratings.users,
            factors,
            unobserved: weights.unobserved,
            scales,
            observed: Vec::new(),
            reach: 0.0,
            rounding: 0.0,
        };
        for part in parts {
            gradient.observed.push((part.rows, part.entries));
            gradient.reach += part.reach;
            gradient.rounding = gradient.rounding.max(part.rounding);
        }
        gradient.reach = gradient.reach.sqrt();
        gradient
    }

    /// A vector of items that is a function of their numbers alone.
    pub fn start(&self) -> Vec<f64> {
        self.scales[1].iter().enumerate().map(|(row, &scale)| if scale > 0.0 { noise(row) } else { 0.0 }).collect()
    }

    /// `out −= a0 Λ^-½ T (Λ_other^-½ Otherᵀ x)`, the part of the pairs that nobody observed.
    fn unobserved(&self, (table, scales): (&Table, &[f64]), (other, other_scales): (&Table, &[f64]), x: &[f64], out: &mut [f64]) {
        if self.unobserved == 0.0 {
            return;
        }
        let shares = gathered(other, &scaled(x, other_scales));
        out.par_iter_mut().with_min_len(SHARED).enumerate().for_each(|(row, out)| {
            *out -= self.unobserved * scales[row] * dot(table.raw(row), &shares);
        });
    }

    /// `M̃ᵀ y`.
    pub fn backward(&self, y: &[f64]) -> Vec<f64> {
        let Factors { users, items } = self.factors;
        let parts: Vec<Vec<f64>> = self
            .observed
            .par_iter()
            .map(|(rows, values)| {
                let (mut values, mut sum) = (values.iter(), vec![0.0; items.len()]);
                for row in rows.clone() {
                    for (&column, &value) in self.rows.row(row).0.iter().zip(&mut values) {
                        sum[column as usize] += f64::from(value) * y[row];
                    }
                }
                sum
            })
            .collect();
        let mut out = vec![0.0; items.len()];
        parts.iter().for_each(|part| add(&mut out, 1.0, part));
        self.unobserved((items, &self.scales[1]), (users, &self.scales[0]), y, &mut out);
        out
    }

    /// `M̃ᵀ (1 − L Lᵀ) M̃ x` for the directions L of `across`, in one pass over the pairs.
    pub fn normal_without(&self, x: &[f64], across: &Across) -> Vec<f64> {
        let Factors { users, items } = self.factors;
        let k = users.rank();
        let shares = if self.unobserved > 0.0 { gathered(items, &scaled(x, &self.scales[1])) } else { Vec::new() };
        let parts: Vec<(Vec<f64>, Vec<f64>)> = self
            .observed
            .par_iter()
            .map(|(rows, values)| {
                let (mut values, mut sum, mut taken) = (&values[..], vec![0.0; items.len()], vec![0.0; k + across.width]);
                let (taken_unobserved, taken_across) = taken.split_at_mut(k);
                for row in rows.clone() {
                    let (columns, _) = self.rows.row(row);
                    let entries = &values[..columns.len()];
                    let mut y = product(columns, &mut values, x);
                    if self.unobserved > 0.0 {
                        let scale = self.unobserved * self.scales[0][row];
                        y -= scale * dot(users.raw(row), &shares);
                        add(taken_unobserved, scale * y, users.raw(row));
                    }
                    add(taken_across, y, across.left(row));
                    for (&column, &value) in columns.iter().zip(entries) {
                        sum[column as usize] += f64::from(value) * y;
                    }
                }
                (sum, taken)
            })
            .collect();
        let (mut out, mut taken) = (vec![0.0; items.len()], vec![0.0; k + across.width]);
        for (sum, part) in parts {
            add(&mut out, 1.0, &sum);
            add(&mut taken, 1.0, &part);
        }
        let (unobserved, across_shares) = taken.split_at(k);
        out.par_iter_mut().with_min_len(SHARED).enumerate().for_each(|(row, out)| {
            if self.unobserved > 0.0 {
                *out -= self.scales[1][row] * dot(items.raw(row), unobserved);
            }
            *out -= dot(across.image(row), across_shares);
        });
        out
    }
}

impl Operator for Gradient<'_> {
    fn forward(&self, x: &[f64]) -> Vec<f64> {
        let Factors { users, items } = self.factors;
        let parts: Vec<Vec<f64>> = self
            .observed
            .par_iter()
            .map(|(rows, values)| {
                let mut values = &values[..];
                rows.clone().map(|row| product(self.rows.row(row).0, &mut values, x)).collect()
            })
            .collect();
        let mut out = parts.concat();
        out.resize(users.len(), 0.0);
        self.unobserved((users, &self.scales[0]), (items, &self.scales[1]), x, &mut out);
        out
    }

    fn normal(&self, x: &[f64]) -> Vec<f64> {
        self.normal_without(x, &Across::default())
    }
}

/// A row of pairs times `x`; what it takes is gone from `values`.
fn product(columns: &[u32], values: &mut &[f32], x: &[f64]) -> f64 {
    let (entries, rest) = values.split_at(columns.len());
    *values = rest;
    // Sums that do not wait for each other.
    let mut sums = [0.0; 4];
    for (columns, entries) in columns.chunks(sums.len()).zip(entries.chunks(sums.len())) {
        for ((sum, &column), &value) in sums.iter_mut().zip(columns).zip(entries) {
            *sum += f64::from(value) * x[column as usize];
        }
    }
    (sums[0] + sums[1]) + (sums[2] + sums[3])
}

fn add(to: &mut [f64], times: f64, from: &[f64]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += times * from);
}

/// `λ^½` from `λ^-½`; 0 for rows that do not exist.
pub(super) fn unscale(scale: f64) -> f64 {
    if scale > 0.0 { scale.recip() } else { 0.0 }
}

/// Orthonormal directions L of users, and `M̃ᵀ L`; row by row.
#[derive(Default)]
pub(super) struct Across {
    width: usize,
    left: Vec<f64>,
    image: Vec<f64>,
}

impl Across {
    /// The columns of `Λ^½ U half`. Costs as many passes over the pairs as there are.
    pub fn new(gradient: &Gradient<'_>, half: &Mat<f64>) -> Across {
        let (users, width) = (&gradient.factors.users, half.ncols());
        let mut left = vec![0.0; users.len() * width];
        let mut image = vec![0.0; gradient.factors.items.len() * width];
        for at in 0..width {
            let along = half.col_as_slice(at);
            let column: Vec<f64> = (0..users.len()).map(|row| unscale(gradient.scales[0][row]) * dot(users.raw(row), along)).collect();
            left.iter_mut().skip(at).step_by(width).zip(&column).for_each(|(to, from)| *to = *from);
            let column = gradient.backward(&column);
            image.iter_mut().skip(at).step_by(width).zip(&column).for_each(|(to, from)| *to = *from);
        }
        Across { width, left, image }
    }

    fn left(&self, row: usize) -> &[f64] {
        &self.left[row * self.width..(row + 1) * self.width]
    }

    fn image(&self, row: usize) -> &[f64] {
        &self.image[row * self.width..(row + 1) * self.width]
    }
}

/// `Tᵀ x`, of length k, summed in fixed blocks.
pub(super) fn gathered(table: &Table, x: &[f64]) -> Vec<f64> {
    const ROWS: usize = 1024;
    let k = table.rank();
    let parts: Vec<Vec<f64>> = table
        .values()
        .par_chunks(ROWS * k)
        .with_min_len(SHARED / ROWS)
        .zip(x.par_chunks(ROWS))
        .map(|(rows, x)| {
            let mut sum = vec![0.0; k];
            for (row, &x) in rows.chunks_exact(k).zip(x) {
                add(&mut sum, x, row);
            }
            sum
        })
        .collect();
    let mut sum = vec![0.0; k];
    parts.iter().for_each(|part| add(&mut sum, 1.0, part));
    sum
}

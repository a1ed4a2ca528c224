//! The dense inner loops of a half-sweep, for f32 and f64: a symmetric rank-n update in register tiles, Cholesky in
//! place, and the triangular solves. Nothing here allocates but a [`Buffer`].
//!
//! Matrices are k × k, row-major with a stride of [`padded`]`(k)`, and only their upper triangle counts (tiles on the
//! diagonal write a little below it: the blocks of eight there are whole). The functions are inlined into one `pulp`
//! dispatch; `pulp` picks AVX-512, AVX2 + FMA, NEON or plain code when the process starts; each of these gives its own
//! last bits, and any one of them gives equal bits for equal input.

use pulp::Simd;

mod buffer;
mod cholesky;
mod element;
pub mod unchecked;

pub use buffer::{Buffer, Lines};
pub use cholesky::{NotPositiveDefinite, cholesky, pivot_spread, pivots_within, solve};
pub use element::Element;

/// Rows of a strip of tiles.
pub const STRIP: usize = 8;
/// What every row length is padded to: a whole number of vectors on every path.
const PAD: usize = 16;

/// Length of a padded row.
pub fn padded(k: usize) -> usize {
    k.next_multiple_of(PAD)
}

/// `A += PᵀP` on the upper triangle, where the panel `P` is n × stride, row-major, zero in its padding.
///
/// Costs `n k²` floating-point operations.
#[inline(always)]
pub fn rank_update<S: Simd, E: Element>(simd: S, a: &mut [E], panel: &[E], stride: usize) {
    rank_update_and(simd, a, panel, stride, || ());
}

/// [`rank_update`] with something to do between its `stride / 8` strips, such as asking for the next panel's rows.
#[inline(always)]
pub fn rank_update_and<S: Simd, E: Element>(simd: S, a: &mut [E], panel: &[E], stride: usize, mut between: impl FnMut()) {
    for (strip, rows) in a.chunks_exact_mut(STRIP * stride).enumerate() {
        between();
        strip_update::<S, E, false>(simd, rows, panel, stride, strip * STRIP);
    }
}

/// Adds to (or takes from) eight rows of `A`, of which `top` is the first, their part of `PᵀP`.
#[inline(always)]
fn strip_update<S: Simd, E: Element, const MINUS: bool>(simd: S, rows: &mut [E], panel: &[E], stride: usize, top: usize) {
    let lanes = E::lanes::<S>();
    #[cfg(target_arch = "x86_64")]
    if !top.is_multiple_of(lanes)
        && let Some(half) = half_of::<S, E>()
    {
        // The block on the diagonal is half a vector of AVX-512 wide; a whole one would be wasted on what lies below.
        tile::<pulp::x86::V3, E, MINUS, 8, 1>(half, rows, panel, stride, (top, top));
        return columns_update::<S, E, MINUS>(simd, rows, panel, stride, (top, top + STRIP));
    }
    columns_update::<S, E, MINUS>(simd, rows, panel, stride, (top, top / lanes * lanes));
}

#[inline(always)]
fn columns_update<S: Simd, E: Element, const MINUS: bool>(simd: S, rows: &mut [E], panel: &[E], stride: usize, at: (usize, usize)) {
    let (top, mut left) = at;
    let lanes = E::lanes::<S>();
    while left + 2 * lanes <= stride {
        if S::REGISTER_COUNT >= 32 {
            tile::<S, E, MINUS, 8, 2>(simd, rows, panel, stride, (top, left));
        } else {
            let (upper, lower) = rows.split_at_mut(4 * stride);
            tile::<S, E, MINUS, 4, 2>(simd, upper, panel, stride, (top, left));
            tile::<S, E, MINUS, 4, 2>(simd, lower, panel, stride, (top + 4, left));
        }
        left += 2 * lanes;
    }
    if left < stride {
        tile::<S, E, MINUS, 8, 1>(simd, rows, panel, stride, (top, left));
    }
}

/// `ROWS` rows by `WIDTH` vectors of columns, accumulated in registers over the whole panel.
#[inline(always)]
fn tile<S: Simd, E: Element, const MINUS: bool, const ROWS: usize, const WIDTH: usize>(
    simd: S,
    rows: &mut [E],
    panel: &[E],
    stride: usize,
    at: (usize, usize),
) {
    let (top, left) = at;
    let width = WIDTH * E::lanes::<S>();
    let mut sums = [[E::splat(simd, E::default()); WIDTH]; ROWS];
    for row in panel.chunks_exact(stride) {
        let (columns, _) = E::vectors::<S>(&row[left..left + width]);
        let factors = &row[top..top + ROWS];
        for (sums, &factor) in sums.iter_mut().zip(factors) {
            let factor = E::splat(simd, factor);
            for (sum, &column) in sums.iter_mut().zip(columns) {
                *sum = E::mul_add(simd, factor, column, *sum);
            }
        }
    }
    let sign = E::splat(simd, E::from_f64(if MINUS { -1.0 } else { 1.0 }));
    for (row, sums) in rows.chunks_exact_mut(stride).zip(&sums) {
        let (target, _) = E::vectors_mut::<S>(&mut row[left..left + width]);
        for (target, &sum) in target.iter_mut().zip(sums) {
            *target = E::mul_add(simd, sign, sum, *target);
        }
    }
}

/// `y = A x` for the symmetric `A` of which the upper triangle and the blocks of eight on the diagonal are given.
///
/// Costs `2 k²` floating-point operations.
#[inline(always)]
pub fn symmetric<S: Simd, E: Element>(simd: S, a: &[E], x: &[E], y: &mut [E], stride: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(half) = half_of::<S, E>() {
        return symmetric_by_strips(half, a, x, y, stride);
    }
    symmetric_by_strips(simd, a, x, y, stride);
}

#[inline(always)]
fn symmetric_by_strips<S: Simd, E: Element>(simd: S, a: &[E], x: &[E], y: &mut [E], stride: usize) {
    y[..stride].fill(E::default());
    let lanes = E::lanes::<S>();
    for top in (0..stride).step_by(STRIP) {
        let rows = &a[top * stride..(top + STRIP) * stride];
        let mut factors = [E::splat(simd, E::default()); STRIP];
        for i in 0..STRIP {
            factors[i] = E::splat(simd, x[top + i]);
        }
        // The block on the diagonal is whole: its rows are its columns.
        for left in (top..top + STRIP).step_by(lanes) {
            let y = &mut E::vectors_mut::<S>(&mut y[left..left + lanes]).0[0];
            for i in 0..STRIP {
                let row = E::vectors::<S>(&rows[i * stride + left..i * stride + left + lanes]).0[0];
                *y = E::mul_add(simd, factors[i], row, *y);
            }
        }
        let mut sums = [E::splat(simd, E::default()); STRIP];
        for left in (top + STRIP..stride).step_by(lanes) {
            let x = E::vectors::<S>(&x[left..left + lanes]).0[0];
            let y = &mut E::vectors_mut::<S>(&mut y[left..left + lanes]).0[0];
            for i in 0..STRIP {
                let row = E::vectors::<S>(&rows[i * stride + left..i * stride + left + lanes]).0[0];
                sums[i] = E::mul_add(simd, row, x, sums[i]);
                *y = E::mul_add(simd, factors[i], row, *y);
            }
        }
        for (y, sum) in y[top..top + STRIP].iter_mut().zip(E::sums(simd, sums)) {
            *y = E::fused::<S>(E::ONE, *y, sum);
        }
    }
}

/// AVX2, where the vectors of `S` are longer than a strip is high: what goes along the diagonal by strips is done in half
/// vectors there, since whole ones would leave half of every second strip to be done one by one.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn half_of<S: Simd, E: Element>() -> Option<pulp::x86::V3> {
    if E::lanes::<S>() > STRIP { pulp::x86::V3::try_new() } else { None }
}

/// `y += c · x`.
#[inline(always)]
pub fn axpy<S: Simd, E: Element>(simd: S, c: E, x: &[E], y: &mut [E]) {
    let (x_vectors, x_rest) = E::vectors::<S>(x);
    let (y_vectors, y_rest) = E::vectors_mut::<S>(y);
    let factor = E::splat(simd, c);
    for (y, &x) in y_vectors.iter_mut().zip(x_vectors) {
        *y = E::mul_add(simd, factor, x, *y);
    }
    for (y, &x) in y_rest.iter_mut().zip(x_rest) {
        *y = E::fused::<S>(c, x, *y);
    }
}

/// `x · y`, summed in an order that depends on nothing but the length and the path.
#[inline(always)]
pub fn dot<S: Simd, E: Element>(simd: S, x: &[E], y: &[E]) -> E {
    let (x_vectors, x_rest) = E::vectors::<S>(x);
    let (y_vectors, y_rest) = E::vectors::<S>(y);
    let mut sum = E::splat(simd, E::default());
    for (&x, &y) in x_vectors.iter().zip(y_vectors) {
        sum = E::mul_add(simd, x, y, sum);
    }
    let mut total = E::sum(simd, sum);
    for (&x, &y) in x_rest.iter().zip(y_rest) {
        total = E::fused::<S>(x, y, total);
    }
    total
}

/// `panel_j = root_j · y_j` for each of the named rows and `right += Σ factor_j y_j`; all of the length of a padded row. Some columns at a
/// time, so that their sums stay in registers.
#[inline(always)]
pub fn gather<S: Simd, E: Element>(simd: S, y: (Lines<'_, E>, &[u32]), (roots, factors): (&[E], &[E]), panel: &mut [E], right: &mut [E]) {
    let (lanes, stride) = (E::lanes::<S>(), right.len());
    let mut left = 0;
    while left + 4 * lanes <= stride {
        gather_columns::<S, E, 4>(simd, y, (roots, factors), panel, right, left);
        left += 4 * lanes;
    }
    while left < stride {
        gather_columns::<S, E, 1>(simd, y, (roots, factors), panel, right, left);
        left += lanes;
    }
}

#[inline(always)]
fn gather_columns<S: Simd, E: Element, const WIDTH: usize>(
    simd: S,
    (lines, rows): (Lines<'_, E>, &[u32]),
    (roots, factors): (&[E], &[E]),
    panel: &mut [E],
    right: &mut [E],
    left: usize,
) {
    let (columns, stride) = (left..left + WIDTH * E::lanes::<S>(), right.len());
    let (right, _) = E::vectors_mut::<S>(&mut right[columns.clone()]);
    let mut sums = [E::splat(simd, E::default()); WIDTH];
    sums.copy_from_slice(right);
    for ((target, &row), (&root, &factor)) in panel.chunks_exact_mut(stride).zip(rows).zip(roots.iter().zip(factors)) {
        let (target, _) = E::vectors_mut::<S>(&mut target[columns.clone()]);
        let (y, _) = E::vectors::<S>(&lines.at(row)[columns.clone()]);
        let (root, factor) = (E::splat(simd, root), E::splat(simd, factor));
        for i in 0..WIDTH {
            target[i] = E::scale(simd, root, y[i]);
            sums[i] = E::mul_add(simd, factor, y[i], sums[i]);
        }
    }
    right.copy_from_slice(&sums);
}

/// `x · y` of the first eight `y` at once.
#[inline(always)]
pub fn dots<S: Simd, E: Element>(simd: S, x: &[E], ys: &[&[E]]) -> [E; 8] {
    let (x_vectors, x_rest) = E::vectors::<S>(x);
    let whole = x_vectors.len() * E::lanes::<S>();
    // Plain loops: what an adaptor of the standard library calls does not know the instruction set and stays a call.
    let mut sums = [E::splat(simd, E::default()); 8];
    let mut vectors = [x_vectors; 8];
    for i in 0..8 {
        vectors[i] = &E::vectors::<S>(&ys[i][..whole]).0[..x_vectors.len()];
    }
    for (at, &x) in x_vectors.iter().enumerate() {
        for i in 0..8 {
            sums[i] = E::mul_add(simd, x, vectors[i][at], sums[i]);
        }
    }
    let mut totals = E::sums(simd, sums);
    if !x_rest.is_empty() {
        for i in 0..8 {
            for (&x, &y) in x_rest.iter().zip(&ys[i][whole..]) {
                totals[i] = E::fused::<S>(x, y, totals[i]);
            }
        }
    }
    totals
}

/// `a += Σ c_i y_i` and `b += Σ d_i y_i`, where the `y_i` have the length of `a` and `b`. Some columns at a time, so that
/// their sums stay in registers.
#[inline(always)]
pub fn axpys<S: Simd, E: Element>(simd: S, ys: &[&[E]], factors: (&[E], &[E]), a: &mut [E], b: &mut [E]) {
    let (lanes, k) = (E::lanes::<S>(), a.len());
    let mut left = 0;
    while S::REGISTER_COUNT >= 32 && left + 8 * lanes <= k {
        axpys_columns::<S, E, 8>(simd, ys, factors, a, b, left);
        left += 8 * lanes;
    }
    while left + 4 * lanes <= k {
        axpys_columns::<S, E, 4>(simd, ys, factors, a, b, left);
        left += 4 * lanes;
    }
    while left + lanes <= k {
        axpys_columns::<S, E, 1>(simd, ys, factors, a, b, left);
        left += lanes;
    }
    if left < k {
        for (y, (&c, &d)) in ys.iter().zip(factors.0.iter().zip(factors.1)) {
            for ((&y, a), b) in y[left..k].iter().zip(&mut a[left..]).zip(&mut b[left..]) {
                *a = E::fused::<S>(c, y, *a);
                *b = E::fused::<S>(d, y, *b);
            }
        }
    }
}

#[inline(always)]
fn axpys_columns<S: Simd, E: Element, const WIDTH: usize>(
    simd: S,
    ys: &[&[E]],
    (c, d): (&[E], &[E]),
    a: &mut [E],
    b: &mut [E],
    left: usize,
) {
    let columns = left..left + WIDTH * E::lanes::<S>();
    let (a, _) = E::vectors_mut::<S>(&mut a[columns.clone()]);
    let (b, _) = E::vectors_mut::<S>(&mut b[columns.clone()]);
    let mut sums = [[E::splat(simd, E::default()); WIDTH]; 2];
    sums[0].copy_from_slice(a);
    sums[1].copy_from_slice(b);
    for (y, (&c, &d)) in ys.iter().zip(c.iter().zip(d)) {
        let (y, _) = E::vectors::<S>(&y[columns.clone()]);
        let (c, d) = (E::splat(simd, c), E::splat(simd, d));
        for at in 0..WIDTH {
            sums[0][at] = E::mul_add(simd, c, y[at], sums[0][at]);
            sums[1][at] = E::mul_add(simd, d, y[at], sums[1][at]);
        }
    }
    a.copy_from_slice(&sums[0]);
    b.copy_from_slice(&sums[1]);
}

#[cfg(test)]
#[path = "kernel_tests.rs"]
pub(crate) mod tests;

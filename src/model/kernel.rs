//! The dense inner loops of a half-sweep, for f32 and f64: a symmetric rank-n update in register tiles, Cholesky in
//! place, and the triangular solves. Nothing here allocates but a [`Buffer`].
//!
//! Matrices are k × k, row-major with a stride of [`padded`]`(k)`, and only their upper triangle counts (tiles on the
//! diagonal write a little below it). The functions are inlined into one `pulp` dispatch; `pulp` picks AVX-512,
//! AVX2 + FMA, NEON or plain code when the process starts; each of these gives its own last bits, and any one of them
//! gives equal bits for equal input.

use pulp::Simd;

mod buffer;
mod cholesky;
mod element;
pub mod unchecked;

pub use buffer::Buffer;
pub use cholesky::{NotPositiveDefinite, cholesky, pivot_spread, pivots_within, solve};
pub use element::Element;

/// Rows of a strip of tiles.
const STRIP: usize = 8;
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
    if lanes > STRIP
        && !top.is_multiple_of(lanes)
        && let Some(half) = pulp::x86::V3::try_new()
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

/// `y = A x` for the symmetric `A` of which the upper triangle is given.
#[inline(always)]
pub fn symmetric<S: Simd, E: Element>(simd: S, a: &[E], x: &[E], y: &mut [E], stride: usize) {
    y[..stride].fill(E::default());
    let lanes = E::lanes::<S>();
    for top in (0..stride).step_by(STRIP) {
        let rows = &a[top * stride..(top + STRIP) * stride];
        // The triangle on the diagonal one by one, what is right of it by vectors.
        let right = (top + STRIP).next_multiple_of(lanes).min(stride);
        for i in 0..STRIP {
            let row = &rows[i * stride..(i + 1) * stride];
            y[top + i] = E::fused::<S>(row[top + i], x[top + i], y[top + i]);
            for j in top + i + 1..right {
                y[top + i] = E::fused::<S>(row[j], x[j], y[top + i]);
                y[j] = E::fused::<S>(row[j], x[top + i], y[j]);
            }
        }
        let mut sums = [E::splat(simd, E::default()); STRIP];
        let mut left = right;
        while left < stride {
            let (x_right, _) = E::vectors::<S>(&x[left..left + lanes]);
            let (y_right, _) = E::vectors_mut::<S>(&mut y[left..left + lanes]);
            for (i, sum) in sums.iter_mut().enumerate() {
                let (block, _) = E::vectors::<S>(&rows[i * stride + left..i * stride + left + lanes]);
                *sum = E::mul_add(simd, block[0], x_right[0], *sum);
                y_right[0] = E::mul_add(simd, E::splat(simd, x[top + i]), block[0], y_right[0]);
            }
            left += lanes;
        }
        for (y, sum) in y[top..top + STRIP].iter_mut().zip(sums) {
            *y = E::fused::<S>(E::ONE, *y, E::sum(simd, sum));
        }
    }
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

/// `panel = root · y` and `right += factor · y`, in one pass over `y`; all of the length of a padded row.
#[inline(always)]
pub fn gather<S: Simd, E: Element>(simd: S, y: &[E], (root, factor): (E, E), panel: &mut [E], right: &mut [E]) {
    let (y, _) = E::vectors::<S>(y);
    let (panel, _) = E::vectors_mut::<S>(panel);
    let (right, _) = E::vectors_mut::<S>(right);
    let (root, factor) = (E::splat(simd, root), E::splat(simd, factor));
    for ((&y, panel), right) in y.iter().zip(panel).zip(right) {
        *panel = E::scale(simd, root, y);
        *right = E::mul_add(simd, factor, y, *right);
    }
}

/// `x · y` of several `y` at once, each summed as by [`dot`].
#[inline(always)]
pub fn dots<S: Simd, E: Element, const N: usize>(simd: S, x: &[E], ys: [&[E]; N]) -> [E; N] {
    let (x_vectors, x_rest) = E::vectors::<S>(x);
    let whole = x_vectors.len() * E::lanes::<S>();
    // Plain loops: what an adaptor of the standard library calls does not know the instruction set and stays a call.
    let (mut sums, mut totals) = ([E::splat(simd, E::default()); N], [E::default(); N]);
    let mut vectors = [x_vectors; N];
    for i in 0..N {
        vectors[i] = E::vectors::<S>(&ys[i][..whole]).0;
    }
    for (at, &x) in x_vectors.iter().enumerate() {
        for i in 0..N {
            sums[i] = E::mul_add(simd, x, vectors[i][at], sums[i]);
        }
    }
    for i in 0..N {
        totals[i] = E::sum(simd, sums[i]);
        for (&x, &y) in x_rest.iter().zip(&ys[i][whole..]) {
            totals[i] = E::fused::<S>(x, y, totals[i]);
        }
    }
    totals
}

/// `a += Σ c_i y_i` and `b += Σ d_i y_i` in one pass over the `y_i`, which have the length of `a` and `b`.
#[inline(always)]
pub fn axpys<S: Simd, E: Element, const N: usize>(simd: S, ys: [&[E]; N], (c, a): ([E; N], &mut [E]), (d, b): ([E; N], &mut [E])) {
    let (a_vectors, a_rest) = E::vectors_mut::<S>(a);
    let (b_vectors, b_rest) = E::vectors_mut::<S>(b);
    let whole = a_vectors.len() * E::lanes::<S>();
    let mut vectors = [E::vectors::<S>(ys[0]).0; N];
    let mut factors = [[E::splat(simd, E::default()); 2]; N];
    for i in 0..N {
        vectors[i] = E::vectors::<S>(&ys[i][..whole]).0;
        factors[i] = [E::splat(simd, c[i]), E::splat(simd, d[i])];
    }
    for (at, (a, b)) in a_vectors.iter_mut().zip(b_vectors).enumerate() {
        for i in 0..N {
            let y = vectors[i][at];
            *a = E::mul_add(simd, factors[i][0], y, *a);
            *b = E::mul_add(simd, factors[i][1], y, *b);
        }
    }
    for (at, (a, b)) in a_rest.iter_mut().zip(b_rest).enumerate() {
        for i in 0..N {
            let y = ys[i][whole + at];
            *a = E::fused::<S>(c[i], y, *a);
            *b = E::fused::<S>(d[i], y, *b);
        }
    }
}

#[cfg(test)]
#[path = "kernel_tests.rs"]
pub(crate) mod tests;

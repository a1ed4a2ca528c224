//! Cholesky in place and the solves that follow, in blocks of eight pivots.

use pulp::Simd;

#[cfg(target_arch = "x86_64")]
use super::half_of;
use super::{Element, STRIP, strip_update};

/// A pivot of the Cholesky factorisation was zero, negative or not finite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("pivot {pivot} of the normal equations is not positive: the regularization is lost in the rounding")]
pub struct NotPositiveDefinite {
    pub pivot: usize,
}

/// Cholesky in place, `A = UᵀU` on the upper triangle, left-looking: eight rows at a time get what all rows above them
/// take away, in one pass with the sums in registers, and are then finished. Rows and columns from `k` to the stride
/// become those of the identity, so that the tiles may run over them. The diagonal keeps `1 / U_ii`: solves multiply.
///
/// Costs `k³ / 3` floating-point operations.
///
/// # Errors
/// [`NotPositiveDefinite`] with the first pivot that is not a positive finite number.
#[inline(always)]
pub fn cholesky<S: Simd, E: Element>(simd: S, a: &mut [E], k: usize, stride: usize) -> Result<(), NotPositiveDefinite> {
    for row in 0..stride {
        for column in row.max(k)..stride {
            a[row * stride + column] = if row == column { E::ONE } else { E::default() };
        }
    }
    for top in (0..stride).step_by(STRIP) {
        let (done, rest) = a.split_at_mut(top * stride);
        let rows = &mut rest[..STRIP * stride];
        strip_update::<S, E, true>(simd, rows, done, stride, top);
        let block = Block::factorise::<S>(rows, stride, top)?;
        block.finish(simd, rows, stride, top);
    }
    Ok(())
}

/// The factor of a block on the diagonal.
struct Block<E> {
    /// `shares[p][q]`, q < p: how much of the unscaled row q goes out of row p.
    shares: [[E; STRIP]; STRIP],
    /// 1 / U_pp.
    inverse: [E; STRIP],
}

impl<E: Element> Block<E> {
    /// Eliminates with unscaled rows: only one division lies between a pivot and the next, and the roots come after.
    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "with known bounds the triangle is unrolled into registers; iterators stay loops")]
    fn factorise<S: Simd>(rows: &[E], stride: usize, top: usize) -> Result<Block<E>, NotPositiveDefinite> {
        let mut d = [[E::default(); STRIP]; STRIP];
        for (d, row) in d.iter_mut().zip(rows.chunks_exact(stride)) {
            d.copy_from_slice(&row[top..top + STRIP]);
        }
        let mut block = Block { shares: [[E::default(); STRIP]; STRIP], inverse: [E::default(); STRIP] };
        for p in 0..STRIP {
            let pivot = d[p][p];
            if !(pivot > E::default() && pivot.is_finite()) {
                return Err(NotPositiveDefinite { pivot: top + p });
            }
            block.inverse[p] = pivot.sqrt().recip();
            let minus = -pivot.recip();
            for i in p + 1..STRIP {
                let share = d[p][i] * minus;
                block.shares[i][p] = share;
                for j in i..STRIP {
                    d[i][j] = E::fused::<S>(share, d[p][j], d[i][j]);
                }
            }
        }
        Ok(block)
    }

    /// The rows of the block from the diagonal on, eight vectors at a time.
    #[inline(always)]
    fn finish<S: Simd>(&self, simd: S, rows: &mut [E], stride: usize, top: usize) {
        let lanes = E::lanes::<S>();
        let mut left = top / lanes * lanes;
        while left < stride {
            let mut values = [E::splat(simd, E::default()); STRIP];
            for (value, row) in values.iter_mut().zip(rows.chunks_exact(stride)) {
                *value = E::vectors::<S>(&row[left..left + lanes]).0[0];
            }
            for p in 1..STRIP {
                let (above, from) = values.split_at_mut(p);
                for (&value, &share) in above.iter().zip(&self.shares[p]) {
                    from[0] = E::mul_add(simd, E::splat(simd, share), value, from[0]);
                }
            }
            for ((row, &value), &inverse) in rows.chunks_exact_mut(stride).zip(&values).zip(&self.inverse) {
                E::vectors_mut::<S>(&mut row[left..left + lanes]).0[0] = E::scale(simd, E::splat(simd, inverse), value);
            }
            left += lanes;
        }
        for (p, (row, &inverse)) in rows.chunks_exact_mut(stride).zip(&self.inverse).enumerate() {
            row[top + p] = inverse;
        }
    }
}

/// Largest over smallest pivot of a factorisation by [`cholesky`]: a lower estimate of the condition number.
pub fn pivot_spread<E: Element>(u: &[E], k: usize, stride: usize) -> f64 {
    let (least, largest) = inverse_range(u, k, stride);
    (largest / least).powi(2)
}

/// Whether all pivots of a factorisation by [`cholesky`] lie between `least` and `largest`.
pub fn pivots_within<E: Element>(u: &[E], k: usize, stride: usize, least: f64, largest: f64) -> bool {
    let (small, large) = inverse_range(u, k, stride);
    large.powi(-2) >= least && small.powi(-2) <= largest
}

fn inverse_range<E: Element>(u: &[E], k: usize, stride: usize) -> (f64, f64) {
    let inverses = (0..k).map(|i| u[i * stride + i].to_f64());
    inverses.fold((f64::INFINITY, 0.0f64), |(least, largest), inverse| (least.min(inverse), largest.max(inverse)))
}

/// Solves `UᵀU x = b` in place, with `U` from [`cholesky`]; `x` has the length of the stride.
///
/// Costs `2 k²` floating-point operations.
#[inline(always)]
pub fn solve<S: Simd, E: Element>(simd: S, u: &[E], x: &mut [E], stride: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(half) = half_of::<S, E>() {
        return solve_by_strips(half, u, x, stride);
    }
    solve_by_strips(simd, u, x, stride);
}

#[inline(always)]
fn solve_by_strips<S: Simd, E: Element>(simd: S, u: &[E], x: &mut [E], stride: usize) {
    let lanes = E::lanes::<S>();
    for top in (0..stride).step_by(STRIP) {
        let rows = &u[top * stride..(top + STRIP) * stride];
        let mut done = [E::default(); STRIP];
        done.copy_from_slice(&x[top..top + STRIP]);
        for p in 0..STRIP {
            let row = &rows[p * stride + top..p * stride + top + STRIP];
            done[p] = done[p] * row[p];
            let minus = -done[p];
            for i in p + 1..STRIP {
                done[i] = E::fused::<S>(minus, row[i], done[i]);
            }
        }
        for left in (top + STRIP..stride).step_by(lanes) {
            let (target, _) = E::vectors_mut::<S>(&mut x[left..left + lanes]);
            let mut sum = target[0];
            for (p, &done) in done.iter().enumerate() {
                let (row, _) = E::vectors::<S>(&rows[p * stride + left..p * stride + left + lanes]);
                sum = E::mul_add(simd, E::splat(simd, -done), row[0], sum);
            }
            target[0] = sum;
        }
        x[top..top + STRIP].copy_from_slice(&done);
    }
    for top in (0..stride).step_by(STRIP).rev() {
        backward(simd, &u[top * stride..(top + STRIP) * stride], x, stride, top);
    }
}

/// Eight unknowns of `U x = z`, when those after them are known.
#[inline(always)]
fn backward<S: Simd, E: Element>(simd: S, rows: &[E], x: &mut [E], stride: usize, top: usize) {
    let lanes = E::lanes::<S>();
    let mut sums = [E::splat(simd, E::default()); STRIP];
    for left in (top + STRIP..stride).step_by(lanes) {
        let (known, _) = E::vectors::<S>(&x[left..left + lanes]);
        for (p, sum) in sums.iter_mut().enumerate() {
            let (row, _) = E::vectors::<S>(&rows[p * stride + left..p * stride + left + lanes]);
            *sum = E::mul_add(simd, row[0], known[0], *sum);
        }
    }
    let mut taken = E::sums(simd, sums);
    for p in (0..STRIP).rev() {
        let row = &rows[p * stride + top..p * stride + top + STRIP];
        let value = (x[top + p] - taken[p]) * row[p];
        x[top + p] = value;
        for q in 0..p {
            taken[q] = E::fused::<S>(rows[q * stride + top + p], value, taken[q]);
        }
    }
}

//! The dense inner loops of a half-sweep: a symmetric rank-n update in register tiles, Cholesky in place, and the
//! triangular solves. Nothing here allocates.
//!
//! Matrices are k × k, row-major with a stride of [`padded`]`(k)`, and only their upper triangle counts (tiles on the
//! diagonal write a little below it). The functions are inlined into one `pulp` dispatch; `pulp` picks AVX-512,
//! AVX2 + FMA, NEON or plain code when the process starts; each of these gives its own last bits, and any one of them
//! gives equal bits for equal input.

use pulp::Simd;

/// Rows of a tile and columns that every row length is padded to.
const TILE: usize = 8;
const PAD: usize = 16;

/// Length of a padded row: a whole number of tiles on every path.
pub fn padded(k: usize) -> usize {
    k.next_multiple_of(PAD)
}

/// `A += PᵀP` on the upper triangle, where the panel `P` is n × stride, row-major, zero in its padding.
///
/// Costs `n k²` floating-point operations.
#[inline(always)]
pub fn rank_update<S: Simd>(simd: S, a: &mut [f64], panel: &[f64], stride: usize) {
    for top in (0..stride).step_by(TILE) {
        // Columns start at the block that holds the diagonal.
        for left in (top / PAD * PAD..stride).step_by(PAD) {
            if 2 * S::F64_LANES == PAD {
                // AVX-512: 8 × 2 vectors of accumulators in 32 registers.
                tile::<S, 8>(simd, a, panel, stride, (top, left));
            } else {
                for part in (left..left + PAD).step_by(2 * S::F64_LANES) {
                    tile::<S, 4>(simd, a, panel, stride, (top, part));
                    tile::<S, 4>(simd, a, panel, stride, (top + 4, part));
                }
            }
        }
    }
}

/// A pivot of the Cholesky factorisation was zero, negative or not finite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("pivot {pivot} of the normal equations is not positive: the regularization is lost in the rounding")]
pub struct NotPositiveDefinite {
    pub pivot: usize,
}

/// Largest over smallest pivot of a factorisation by [`cholesky`]: a lower estimate of the condition number.
pub fn pivot_spread(u: &[f64], k: usize, stride: usize) -> f64 {
    let pivots = (0..k).map(|i| u[i * stride + i]);
    let (least, largest) = pivots.fold((f64::INFINITY, 0.0f64), |(least, largest), pivot| (least.min(pivot), largest.max(pivot)));
    (largest / least).powi(2)
}

/// Solves `UᵀU x = b` in place, with `U` from [`cholesky`]; `x` has the length of the stride.
///
/// Costs `2 k²` floating-point operations.
#[inline(always)]
pub fn solve<S: Simd>(simd: S, u: &[f64], x: &mut [f64], stride: usize) {
    for i in 0..stride {
        let row = &u[i * stride..(i + 1) * stride];
        x[i] /= row[i];
        let done = x[i];
        axpy(simd, -done, &row[i + 1..], &mut x[i + 1..stride]);
    }
    for i in (0..stride).rev() {
        let row = &u[i * stride..(i + 1) * stride];
        x[i] = (x[i] - dot(simd, &row[i + 1..], &x[i + 1..stride])) / row[i];
    }
}

/// `y = A x` for the symmetric `A` of which the upper triangle is given.
#[inline(always)]
pub fn symmetric<S: Simd>(simd: S, a: &[f64], x: &[f64], y: &mut [f64], stride: usize) {
    y.fill(0.0);
    for i in 0..stride {
        let row = &a[i * stride..(i + 1) * stride];
        y[i] += dot(simd, &row[i..], &x[i..stride]);
        axpy(simd, x[i], &row[i + 1..], &mut y[i + 1..stride]);
    }
}

/// `ROWS` rows by two vectors of columns, accumulated in registers over the whole panel.
#[inline(always)]
fn tile<S: Simd, const ROWS: usize>(simd: S, a: &mut [f64], panel: &[f64], stride: usize, at: (usize, usize)) {
    let (top, left) = at;
    let lanes = S::F64_LANES;
    let zero = simd.splat_f64s(0.0);
    let mut sums = [[zero; 2]; ROWS];
    for row in panel.chunks_exact(stride) {
        let (columns, _) = S::as_simd_f64s(&row[left..left + 2 * lanes]);
        let (first, second) = (columns[0], columns[1]);
        let factors = &row[top..top + ROWS];
        for (sum, &factor) in sums.iter_mut().zip(factors) {
            let factor = simd.splat_f64s(factor);
            sum[0] = simd.mul_add_e_f64s(factor, first, sum[0]);
            sum[1] = simd.mul_add_e_f64s(factor, second, sum[1]);
        }
    }
    for (row, sum) in sums.iter().enumerate() {
        let start = (top + row) * stride + left;
        let (target, _) = S::as_mut_simd_f64s(&mut a[start..start + 2 * lanes]);
        for (target, &sum) in target.iter_mut().zip(sum) {
            *target = simd.add_f64s(*target, sum);
        }
    }
}

/// Cholesky in place, `A = UᵀU` on the upper triangle, in blocks of [`TILE`] pivots: their rows are finished one by
/// one, then the triangle below gets one rank-8 update. Rows and columns from `k` to the stride become those of the
/// identity, so that the tiles may run over them.
///
/// Costs `k³ / 3` floating-point operations.
///
/// # Errors
/// [`NotPositiveDefinite`] with the first pivot that is not a positive finite number.
#[inline(always)]
pub fn cholesky<S: Simd>(simd: S, a: &mut [f64], k: usize, stride: usize) -> Result<(), NotPositiveDefinite> {
    for row in 0..stride {
        for column in row.max(k)..stride {
            a[row * stride + column] = if row == column { 1.0 } else { 0.0 };
        }
    }
    for block in (0..stride).step_by(TILE) {
        let (head, rest) = a.split_at_mut((block + TILE) * stride);
        let rows = &mut head[block * stride..];
        for pivot in block..block + TILE {
            let (done, from) = rows.split_at_mut((pivot - block) * stride);
            let row = &mut from[..stride];
            for above in done.chunks_exact(stride) {
                // What lies left of the pivot is not used again.
                let start = pivot / PAD * PAD;
                axpy(simd, -above[pivot], &above[start..], &mut row[start..]);
            }
            let diagonal = row[pivot];
            if !(diagonal > 0.0 && diagonal.is_finite()) {
                return Err(NotPositiveDefinite { pivot });
            }
            let scale = 1.0 / diagonal.sqrt();
            row[pivot..].iter_mut().for_each(|value| *value *= scale);
        }
        trailing(simd, rows, rest, stride, block + TILE);
    }
    Ok(())
}

/// `A22 −= U12ᵀ U12`, where `rest` starts at row `first`.
#[inline(always)]
fn trailing<S: Simd>(simd: S, panel: &[f64], rest: &mut [f64], stride: usize, first: usize) {
    let lanes = S::F64_LANES;
    for top in (first..stride).step_by(4) {
        for left in (top / (2 * lanes) * (2 * lanes)..stride).step_by(2 * lanes) {
            let zero = simd.splat_f64s(0.0);
            let mut sums = [[zero; 2]; 4];
            for row in panel.chunks_exact(stride) {
                let (columns, _) = S::as_simd_f64s(&row[left..left + 2 * lanes]);
                let (one, two) = (columns[0], columns[1]);
                for (sum, &factor) in sums.iter_mut().zip(&row[top..top + 4]) {
                    let factor = simd.splat_f64s(factor);
                    sum[0] = simd.mul_add_e_f64s(factor, one, sum[0]);
                    sum[1] = simd.mul_add_e_f64s(factor, two, sum[1]);
                }
            }
            for (row, sum) in sums.iter().enumerate() {
                let start = (top - first + row) * stride + left;
                let (target, _) = S::as_mut_simd_f64s(&mut rest[start..start + 2 * lanes]);
                target[0] = simd.sub_f64s(target[0], sum[0]);
                target[1] = simd.sub_f64s(target[1], sum[1]);
            }
        }
    }
}

/// `y += c · x`.
#[inline(always)]
pub fn axpy<S: Simd>(simd: S, c: f64, x: &[f64], y: &mut [f64]) {
    let (x_vectors, x_rest) = S::as_simd_f64s(x);
    let (y_vectors, y_rest) = S::as_mut_simd_f64s(y);
    let factor = simd.splat_f64s(c);
    for (y, &x) in y_vectors.iter_mut().zip(x_vectors) {
        *y = simd.mul_add_e_f64s(factor, x, *y);
    }
    for (y, &x) in y_rest.iter_mut().zip(x_rest) {
        *y += c * x;
    }
}

/// `x · y`, summed in an order that depends on nothing but the length and the path.
#[inline(always)]
pub fn dot<S: Simd>(simd: S, x: &[f64], y: &[f64]) -> f64 {
    let (x_vectors, x_rest) = S::as_simd_f64s(x);
    let (y_vectors, y_rest) = S::as_simd_f64s(y);
    let mut sum = simd.splat_f64s(0.0);
    for (&x, &y) in x_vectors.iter().zip(y_vectors) {
        sum = simd.mul_add_e_f64s(x, y, sum);
    }
    let mut total = simd.reduce_sum_f64s(sum);
    for (&x, &y) in x_rest.iter().zip(y_rest) {
        total += x * y;
    }
    total
}

#[cfg(test)]
mod tests {
    use pulp::{Arch, WithSimd};

    use super::*;

    fn sample(n: usize, k: usize, stride: usize) -> Vec<f64> {
        let mut panel = vec![0.0; n * stride];
        for p in 0..n {
            for i in 0..k {
                panel[p * stride + i] = ((p * 37 + i * 101 + 7) % 97) as f64 / 97.0 - 0.45;
            }
        }
        panel
    }

    /// Normal equations of a sample panel against plain loops, for every rank around the tile sizes.
    struct EveryRank;

    impl WithSimd for EveryRank {
        type Output = ();

        fn with_simd<S: Simd>(self, simd: S) {
            for k in [1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 64, 100] {
                let stride = padded(k);
                let panel = sample(3 * k + 5, k, stride);
                let mut a = vec![0.0; stride * stride];
                rank_update(simd, &mut a, &panel, stride);
                (0..k).for_each(|i| a[i * stride + i] += 0.5);
                let full = |i: usize, j: usize| {
                    let sum: f64 = panel.chunks_exact(stride).map(|row| row[i] * row[j]).sum();
                    sum + if i == j { 0.5 } else { 0.0 }
                };
                for i in 0..k {
                    for j in i..k {
                        assert!((a[i * stride + j] - full(i, j)).abs() < 1e-11, "k {k}: A[{i}][{j}]");
                    }
                }
                let mut x = vec![0.0; stride];
                (0..k).for_each(|i| x[i] = (i as f64).sin() + 0.1);
                let b = x.clone();
                let kept = a.clone();
                cholesky(simd, &mut a, k, stride).unwrap();
                solve(simd, &a, &mut x, stride);
                assert!(x[k..].iter().all(|&v| v == 0.0), "padding stays zero");
                let mut back = vec![0.0; stride];
                symmetric(simd, &kept, &x, &mut back, stride);
                for i in 0..k {
                    let plain: f64 = (0..k).map(|j| full(i, j) * x[j]).sum();
                    assert!((plain - b[i]).abs() < 1e-8, "k {k}: row {i} gives {plain}, not {}", b[i]);
                    assert!((plain - back[i]).abs() < 1e-8, "k {k}: product of row {i}");
                }
            }
        }
    }

    struct Indefinite;

    impl WithSimd for Indefinite {
        type Output = ();

        fn with_simd<S: Simd>(self, simd: S) {
            let stride = padded(3);
            let diagonal = |values: [f64; 3]| {
                let mut a = vec![0.0; stride * stride];
                values.iter().enumerate().for_each(|(i, &value)| a[i * stride + i] = value);
                a
            };
            assert_eq!(cholesky(simd, &mut diagonal([1.0, -1.0, 1.0]), 3, stride), Err(NotPositiveDefinite { pivot: 1 }));
            assert_eq!(cholesky(simd, &mut diagonal([f64::NAN, 1.0, 1.0]), 3, stride), Err(NotPositiveDefinite { pivot: 0 }));
        }
    }

    #[test]
    fn normal_equations_are_solved_on_this_machines_path() {
        Arch::new().dispatch(EveryRank);
    }

    #[test]
    fn normal_equations_are_solved_on_the_portable_path() {
        Arch::Scalar.dispatch(EveryRank);
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn normal_equations_are_solved_with_avx2() {
        if let Some(simd) = pulp::x86::V3::try_new() {
            Simd::vectorize(simd, EveryRank);
        }
    }

    #[test]
    fn an_indefinite_matrix_is_named_by_its_pivot() {
        Arch::new().dispatch(Indefinite);
    }
}

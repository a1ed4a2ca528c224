//! The two number types of the kernel, as `pulp` vectors of either.

use std::ops::{Mul, Neg, Sub};

use pulp::Simd;

/// `f32` or `f64`, and its vectors on an instruction set `S`.
pub trait Element:
    Copy + Default + PartialOrd + Neg<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Send + Sync + std::fmt::Debug + 'static
{
    type Vector<S: Simd>: Copy;
    const ONE: Self;

    fn from_f64(value: f64) -> Self;
    fn to_f64(self) -> f64;

    /// Numbers in a vector.
    fn lanes<S: Simd>() -> usize;
    fn splat<S: Simd>(simd: S, value: Self) -> Self::Vector<S>;
    fn plus<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S>;
    fn scale<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S>;
    /// `a b + c`, rounded once where the instruction set can.
    fn mul_add<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>, c: Self::Vector<S>) -> Self::Vector<S>;
    /// Sum of the lanes in an order of the instruction set's own.
    fn sum<S: Simd>(simd: S, a: Self::Vector<S>) -> Self;
    /// [`Element::sum`] of eight vectors.
    #[inline(always)]
    fn sums<S: Simd>(simd: S, vectors: [Self::Vector<S>; 8]) -> [Self; 8] {
        let mut sums = [Self::default(); 8];
        for i in 0..8 {
            sums[i] = Self::sum(simd, vectors[i]);
        }
        sums
    }
    /// Whole vectors and what is left.
    fn vectors<S: Simd>(values: &[Self]) -> (&[Self::Vector<S>], &[Self]);
    fn vectors_mut<S: Simd>(values: &mut [Self]) -> (&mut [Self::Vector<S>], &mut [Self]);

    /// `a b + c` of single numbers, with the rounding of [`Element::mul_add`].
    fn fused<S: Simd>(a: Self, b: Self, c: Self) -> Self;
    fn recip(self) -> Self;
    fn sqrt(self) -> Self;
    fn is_finite(self) -> bool;
}

macro_rules! element {
    (
        $number:ident: $vector:ident, $lanes:ident, $splat:ident, $add:ident, $mul:ident, $fused:ident, $sum:ident, $as:ident, $mut:ident;
        $($more:item)*
    ) => {
        impl Element for $number {
            $($more)*
            type Vector<S: Simd> = S::$vector;
            const ONE: $number = 1.0;

            #[inline(always)]
            fn from_f64(value: f64) -> $number {
                value as $number
            }

            #[inline(always)]
            fn to_f64(self) -> f64 {
                f64::from(self)
            }

            #[inline(always)]
            fn lanes<S: Simd>() -> usize {
                S::$lanes
            }

            #[inline(always)]
            fn splat<S: Simd>(simd: S, value: $number) -> S::$vector {
                simd.$splat(value)
            }

            #[inline(always)]
            fn plus<S: Simd>(simd: S, a: S::$vector, b: S::$vector) -> S::$vector {
                simd.$add(a, b)
            }

            #[inline(always)]
            fn scale<S: Simd>(simd: S, a: S::$vector, b: S::$vector) -> S::$vector {
                simd.$mul(a, b)
            }

            #[inline(always)]
            fn mul_add<S: Simd>(simd: S, a: S::$vector, b: S::$vector, c: S::$vector) -> S::$vector {
                simd.$fused(a, b, c)
            }

            #[inline(always)]
            fn sum<S: Simd>(simd: S, a: S::$vector) -> $number {
                simd.$sum(a)
            }

            #[inline(always)]
            fn vectors<S: Simd>(values: &[$number]) -> (&[S::$vector], &[$number]) {
                S::$as(values)
            }

            #[inline(always)]
            fn vectors_mut<S: Simd>(values: &mut [$number]) -> (&mut [S::$vector], &mut [$number]) {
                S::$mut(values)
            }

            #[inline(always)]
            fn fused<S: Simd>(a: $number, b: $number, c: $number) -> $number {
                // Without the instruction `mul_add` is a call into the mathematical library.
                if S::IS_SCALAR { a * b + c } else { a.mul_add(b, c) }
            }

            #[inline(always)]
            fn recip(self) -> $number {
                1.0 / self
            }

            #[inline(always)]
            fn sqrt(self) -> $number {
                self.sqrt()
            }

            #[inline(always)]
            fn is_finite(self) -> bool {
                self.is_finite()
            }
        }
    };
}

element! {
    f32: f32s, F32_LANES, splat_f32s, add_f32s, mul_f32s, mul_add_e_f32s, reduce_sum_f32s, as_simd_f32s, as_mut_simd_f32s;

    #[inline(always)]
    fn sums<S: Simd>(simd: S, vectors: [S::f32s; 8]) -> [f32; 8] {
        #[cfg(target_arch = "x86_64")]
        if S::F32_LANES == 8
            && let Some(v3) = pulp::x86::V3::try_new()
        {
            return sums_of_halves(v3, vectors.map(pulp::bytemuck::cast::<S::f32s, pulp::f32x8>));
        }
        let mut sums = [0.0; 8];
        for i in 0..8 {
            sums[i] = simd.reduce_sum_f32s(vectors[i]);
        }
        sums
    }
}
element! {
    f64: f64s, F64_LANES, splat_f64s, add_f64s, mul_f64s, mul_add_e_f64s, reduce_sum_f64s, as_simd_f64s, as_mut_simd_f64s;

    #[inline(always)]
    fn sums<S: Simd>(simd: S, vectors: [S::f64s; 8]) -> [f64; 8] {
        #[cfg(target_arch = "x86_64")]
        if S::F64_LANES == 8
            && let Some(v3) = pulp::x86::V3::try_new()
        {
            return sums_of_quarters(v3, vectors.map(pulp::bytemuck::cast::<S::f64s, [pulp::f64x4; 2]>));
        }
        let mut sums = [0.0; 8];
        for i in 0..8 {
            sums[i] = simd.reduce_sum_f64s(vectors[i]);
        }
        sums
    }
}

/// Sums of eight vectors of AVX2, by adding neighbours: of sixteen numbers each step adds eight pairs.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn sums_of_halves(v3: pulp::x86::V3, vectors: [pulp::f32x8; 8]) -> [f32; 8] {
    use pulp::bytemuck::cast;
    let add = |a, b| v3.avx._mm256_hadd_ps(a, b);
    let [a, b, c, d, e, f, g, h] = vectors.map(cast);
    let front = add(add(a, b), add(c, d));
    let back = add(add(e, f), add(g, h));
    // Each holds four sums of lower halves, then four of upper ones.
    let lower = v3.avx._mm256_permute2f128_ps::<0x20>(front, back);
    let upper = v3.avx._mm256_permute2f128_ps::<0x31>(front, back);
    cast(v3.avx._mm256_add_ps(lower, upper))
}

/// The same of vectors of AVX-512, first folded in half.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn sums_of_quarters(v3: pulp::x86::V3, vectors: [[pulp::f64x4; 2]; 8]) -> [f64; 8] {
    use pulp::bytemuck::cast;
    let [a, b, c, d, e, f, g, h] = vectors.map(|[lower, upper]| v3.avx._mm256_add_pd(cast(lower), cast(upper)));
    let four = |a, b, c, d| {
        let (front, back) = (v3.avx._mm256_hadd_pd(a, b), v3.avx._mm256_hadd_pd(c, d));
        let lower = v3.avx._mm256_permute2f128_pd::<0x20>(front, back);
        v3.avx._mm256_add_pd(lower, v3.avx._mm256_permute2f128_pd::<0x31>(front, back))
    };
    cast([four(a, b, c, d), four(e, f, g, h)])
}

use pulp::{Arch, WithSimd};

use super::*;

/// Does `op` on every instruction set that this machine has.
pub(crate) fn on_every_path<Op: WithSimd + Clone>(op: Op) {
    for arch in every_path() {
        arch.dispatch(op.clone());
    }
}

/// Every instruction set that this machine has, the portable one first.
pub(crate) fn every_path() -> Vec<Arch> {
    let mut paths = vec![Arch::Scalar];
    #[cfg(target_arch = "x86_64")]
    {
        paths.extend(pulp::x86::V3::try_new().map(Arch::V3));
        paths.extend(pulp::x86::V4::try_new().map(Arch::V4));
    }
    #[cfg(not(target_arch = "x86_64"))]
    paths.push(Arch::new());
    paths
}

fn sample<E: Element>(n: usize, k: usize, stride: usize) -> Vec<E> {
    let mut panel = vec![E::default(); n * stride];
    for p in 0..n {
        for i in 0..k {
            panel[p * stride + i] = E::from_f64(((p * 37 + i * 101 + 7) % 97) as f64 / 97.0 - 0.45);
        }
    }
    panel
}

/// Normal equations of a sample panel of `n` rows, plus `λ I`, in f64 and by plain loops.
fn by_hand<E: Element>(panel: &[E], k: usize, stride: usize, lambda: f64) -> Vec<Vec<f64>> {
    let entry = |i: usize, j: usize| {
        let sum: f64 = panel.chunks_exact(stride).map(|row| row[i].to_f64() * row[j].to_f64()).sum();
        sum + if i == j { lambda } else { 0.0 }
    };
    (0..k).map(|i| (0..k).map(|j| entry(i, j)).collect()).collect()
}

const RANKS: [usize; 16] = [1, 2, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 48, 64, 100, 128];

#[derive(Clone)]
struct EveryRank<E>(std::marker::PhantomData<E>);

impl<E: Element> EveryRank<E> {
    /// Relative rounding of the type.
    fn epsilon() -> f64 {
        if size_of::<E>() == 4 { f64::from(f32::EPSILON) } else { f64::EPSILON }
    }
}

impl<E: Element> WithSimd for EveryRank<E> {
    type Output = ();

    fn with_simd<S: Simd>(self, simd: S) {
        for k in RANKS {
            for n in [0, 1, 3, k / 2, 3 * k + 5] {
                check::<S, E>(simd, k, n);
            }
        }
    }
}

fn check<S: Simd, E: Element>(simd: S, k: usize, n: usize) {
    let (stride, lambda, rounding) = (padded(k), 0.5, EveryRank::<E>::epsilon());
    let panel: Vec<E> = sample(n, k, stride);
    let expected = by_hand(&panel, k, stride, lambda);
    let size = lambda + n as f64 * 0.3 * k as f64;
    let mut a = Buffer::new(stride * stride);
    let mut strips = 0;
    rank_update_and(simd, a.get_mut(), &panel, stride, || strips += 1);
    assert_eq!(strips, stride / STRIP);
    (0..k).for_each(|i| a.get_mut()[i * stride + i] = E::from_f64(a.get()[i * stride + i].to_f64() + lambda));
    for (i, expected) in expected.iter().enumerate() {
        for (j, &expected) in expected.iter().enumerate().skip(i) {
            let apart = (a.get()[i * stride + j].to_f64() - expected).abs();
            assert!(apart <= 8.0 * rounding * size, "k {k}, n {n}: A[{i}][{j}] is {apart} off");
        }
    }
    let mut x: Buffer<E> = Buffer::new(stride);
    (0..k).for_each(|i| x.get_mut()[i] = E::from_f64((i as f64).sin() + 0.1));
    let b = x.clone();
    let mut u = a.clone();
    cholesky(simd, u.get_mut(), k, stride).unwrap();
    solve(simd, u.get(), x.get_mut(), stride);
    assert!(x.get()[k..].iter().all(|&v| v == E::default()), "padding stays zero");
    let mut product: Buffer<E> = Buffer::new(stride);
    symmetric(simd, a.get(), x.get(), product.get_mut(), stride);
    let length: f64 = x.get().iter().map(|x| x.to_f64().powi(2)).sum::<f64>().sqrt();
    for (i, expected) in expected.iter().enumerate() {
        let plain: f64 = expected.iter().zip(x.get()).map(|(a, x)| a * x.to_f64()).sum();
        // Backward stable: what is left goes with the size of the matrix and of the solution.
        let allowed = 20.0 * rounding * (k as f64).sqrt() * size * length.max(1.0);
        assert!((plain - b.get()[i].to_f64()).abs() <= allowed, "k {k}, n {n}: row {i} gives {plain}, not {:?}", b.get()[i]);
        assert!((plain - product.get()[i].to_f64()).abs() <= allowed, "k {k}, n {n}: product of row {i}");
    }
}

#[test]
fn normal_equations_are_solved_on_every_path() {
    on_every_path(EveryRank::<f64>(Default::default()));
    on_every_path(EveryRank::<f32>(Default::default()));
}

/// Sums over rows against plain loops, for lengths with and without a rest.
#[derive(Clone)]
struct Rows<E>(std::marker::PhantomData<E>);

impl<E: Element> WithSimd for Rows<E> {
    type Output = ();

    fn with_simd<S: Simd>(self, simd: S) {
        let rounding = 100.0 * EveryRank::<E>::epsilon();
        let near = |a: E, b: f64, what: &str| assert!((a.to_f64() - b).abs() <= rounding * b.abs().max(1.0), "{what}: {a:?} {b}");
        let factor = |i: usize| ((i * 29 + 3) % 17) as f64 / 17.0 - 0.4;
        let numbers = |n: usize, shift: usize| (0..n).map(|i| E::from_f64(factor(i + shift))).collect::<Vec<E>>();
        for k in RANKS {
            let table: Vec<E> = sample(20, k, k);
            let ys: Vec<&[E]> = [3, 19, 0, 7, 7, 1, 12, 4].iter().map(|&row| Lines::new(&table, k).at(row)).collect();
            let x = numbers(k, 5);
            for (y, dot) in ys.iter().zip(dots(simd, &x, &ys)) {
                near(dot, y.iter().zip(&x).map(|(y, x)| y.to_f64() * x.to_f64()).sum(), "dot");
            }
            for n in [0, 1, 5, 8] {
                let (c, d) = (numbers(n, 1), numbers(n, 2));
                let (mut a, mut b) = (numbers(k, 3), numbers(k, 4));
                axpys(simd, &ys[..n], (&c, &d), &mut a, &mut b);
                for (factors, sums, shift) in [(&c, &a, 3), (&d, &b, 4)] {
                    for (at, &sum) in sums.iter().enumerate() {
                        let added: f64 = ys.iter().zip(factors).map(|(y, c)| y[at].to_f64() * c.to_f64()).sum();
                        near(sum, factor(at + shift) + added, "axpys");
                    }
                }
            }
            gathered::<S, E>(simd, padded(k), near);
        }
    }
}

fn gathered<S: Simd, E: Element>(simd: S, stride: usize, near: impl Fn(E, f64, &str)) {
    let table: Vec<E> = sample(9, stride, stride);
    let (rows, roots, factors) = ([8, 2, 2, 5], [0.5, 2.0, 0.0, -1.0].map(E::from_f64), [3.0, 0.25, 1.0, 7.0].map(E::from_f64));
    let (mut panel, mut right) = (Buffer::new(4 * stride), Buffer::new(stride));
    right.get_mut().fill(E::ONE);
    gather(simd, (Lines::new(&table, stride), &rows), (&roots, &factors), panel.get_mut(), right.get_mut());
    for at in 0..stride {
        let y = |j: usize| table[rows[j] as usize * stride + at].to_f64();
        (0..4).for_each(|j| near(panel.get()[j * stride + at], roots[j].to_f64() * y(j), "panel"));
        near(right.get()[at], 1.0 + (0..4).map(|j| factors[j].to_f64() * y(j)).sum::<f64>(), "right");
    }
}

#[test]
fn sums_over_rows_are_right_on_every_path() {
    on_every_path(Rows::<f64>(Default::default()));
    on_every_path(Rows::<f32>(Default::default()));
}

#[derive(Clone)]
struct Indefinite<E>(std::marker::PhantomData<E>);

impl<E: Element> WithSimd for Indefinite<E> {
    type Output = ();

    fn with_simd<S: Simd>(self, simd: S) {
        let stride = padded(11);
        let factorise = |at: usize, value: f64| {
            let mut a = vec![E::default(); stride * stride];
            (0..11).for_each(|i| a[i * stride + i] = E::ONE);
            a[at * stride + at] = E::from_f64(value);
            cholesky(simd, &mut a, 11, stride)
        };
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            for pivot in [0, 1, 7, 8, 10] {
                assert_eq!(factorise(pivot, bad), Err(NotPositiveDefinite { pivot }), "{bad}");
            }
        }
        assert_eq!(factorise(3, 2.0), Ok(()));
    }
}

#[test]
fn an_indefinite_matrix_is_named_by_its_pivot() {
    on_every_path(Indefinite::<f64>(Default::default()));
    on_every_path(Indefinite::<f32>(Default::default()));
}

#[test]
fn pivots_are_told_by_their_squares() {
    let (k, stride) = (3, padded(3));
    let mut a = vec![0.0f64; stride * stride];
    [4.0, 1.0, 1e-4].iter().enumerate().for_each(|(i, &value)| a[i * stride + i] = value);
    Arch::new().dispatch(Factorise(&mut a, k, stride));
    assert!((pivot_spread(&a, k, stride) / 4e4 - 1.0).abs() < 1e-12);
    assert!(pivots_within(&a, k, stride, 0.9e-4, 4.1));
    assert!(!pivots_within(&a, k, stride, 1.1e-4, 4.1) && !pivots_within(&a, k, stride, 0.9e-4, 3.9));
}

struct Factorise<'a>(&'a mut [f64], usize, usize);

impl WithSimd for Factorise<'_> {
    type Output = ();

    fn with_simd<S: Simd>(self, simd: S) {
        cholesky(simd, self.0, self.1, self.2).unwrap();
    }
}

#[test]
fn a_buffer_begins_on_a_cache_line() {
    for len in [0, 1, 17, 4096] {
        let buffer = Buffer::<f32>::new(len);
        assert_eq!((buffer.get().len(), buffer.get().as_ptr() as usize % 64), (len, 0));
    }
}

#[test]
fn a_buffer_grows_with_zeros_and_keeps_what_it_has() {
    let mut buffer = Buffer::<f64>::new(0);
    for len in 1..300 {
        buffer.grow(len);
        assert_eq!((buffer.get().len(), buffer.get()[len - 1], buffer.get().as_ptr() as usize % 64), (len, 0.0, 0));
        buffer.get_mut()[len - 1] = len as f64;
    }
    buffer.grow(7);
    assert!(buffer.get().iter().copied().eq((1..300).map(f64::from)));
    assert_eq!(buffer.clone(), buffer);
    // Large enough for huge pages.
    let mut large = Buffer::<f32>::new(3 << 20);
    large.get_mut()[(3 << 20) - 1] = 1.0;
    assert_eq!(large.get().iter().sum::<f32>(), 1.0);
}

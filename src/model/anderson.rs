//! Anderson acceleration of a fixed-point map.

use std::collections::VecDeque;

use faer::prelude::*;
use faer::{Mat, Side};
use rayon::prelude::*;

/// Numbers summed by one task; fixed, so that the number of threads does not show in the bits.
const BLOCK: usize = 1 << 14;
/// Weight of the identity in the scaled least-squares problem: keeps nearly parallel differences harmless.
const RIDGE: f64 = 1e-12;

/// Differences of successive residuals and of successive images.
type Difference = (Vec<f32>, Vec<f32>);

/// Mixes the last few images of a fixed-point map so that their residuals cancel as far as they can.
///
/// Differences are kept in f32: they shrink with the residual, and so does their rounding.
/// Costs `4 · depth` multiply-adds per number and step and `8 · depth` bytes per number.
///
/// Source: Walker, Ni, *Anderson Acceleration for Fixed-Point Iterations*, SIAM J. Numer. Anal. 49 (2011), type II.
#[derive(Debug)]
pub struct Anderson {
    depth: usize,
    /// Newest last.
    history: VecDeque<Difference>,
    /// Residual and image.
    last: Option<(Vec<f64>, Vec<f64>)>,
}

impl Anderson {
    /// `depth` differences are kept; 0 makes every step a plain one.
    pub fn new(depth: usize) -> Anderson {
        Anderson { depth, history: VecDeque::new(), last: None }
    }

    /// Forgets the past: the next step is a plain one.
    pub fn restart(&mut self) {
        self.history.clear();
        self.last = None;
    }

    /// The image of the point last mixed from; where a rejected step falls back to.
    pub fn last_image(&self) -> Option<&[f64]> {
        self.last.as_ref().map(|(_, image)| &image[..])
    }

    /// Goes on to the next point after `point`, whose image under the map is `image`; equal lengths in every call. Once the
    /// history is full, nothing is allocated.
    pub fn next(&mut self, point: &mut [f64], image: &[f64]) {
        match &mut self.last {
            None => self.last = Some((image.iter().zip(&*point).map(|(image, point)| image - point).collect(), image.to_vec())),
            Some(last) => {
                // The oldest difference gives its place to the newest.
                let full = self.history.len() == self.depth;
                let oldest = if full { self.history.pop_front() } else { Some((vec![0.0; image.len()], vec![0.0; image.len()])) };
                let differences = differences(last, point, image, oldest);
                self.history.extend(differences);
            }
        }
        let Some((residual, _)) = &self.last else { return };
        let gamma = self.weights(residual).unwrap_or_default();
        point.copy_from_slice(image);
        point.par_chunks_mut(BLOCK).enumerate().for_each(|(block, next)| {
            for ((_, images), &gamma) in self.history.iter().zip(&gamma) {
                for (next, &image) in next.iter_mut().zip(&images[block * BLOCK..]) {
                    *next -= gamma * f64::from(image);
                }
            }
        });
    }

    /// `argmin ‖f − ΔF γ‖`, with the columns of ΔF scaled to length one.
    fn weights(&self, residual: &[f64]) -> Option<Vec<f64>> {
        let m = self.history.len();
        if m == 0 {
            return None;
        }
        let lengths: Vec<f64> = self.history.iter().map(|(f, _)| sum_of_products(f, f, f64::from, f64::from).sqrt()).collect();
        if lengths.iter().any(|&length| !(length > 0.0 && length.is_finite())) {
            return None;
        }
        let mut normal = Mat::<f64>::zeros(m, m);
        let mut right = Mat::<f64>::zeros(m, 1);
        for i in 0..m {
            let column = &self.history[i].0;
            for j in 0..=i {
                let value = sum_of_products(column, &self.history[j].0, f64::from, f64::from) / (lengths[i] * lengths[j]);
                normal[(i, j)] = value;
                normal[(j, i)] = value;
            }
            normal[(i, i)] += RIDGE;
            right[(i, 0)] = sum_of_products(column, residual, f64::from, |value| value) / lengths[i];
        }
        let gamma = normal.llt(Side::Lower).ok()?.solve(&right);
        Some((0..m).map(|i| gamma[(i, 0)] / lengths[i]).collect())
    }
}

/// Brings the last residual and image up to date and writes what that changed into `into`, if anything is kept.
fn differences(last: &mut (Vec<f64>, Vec<f64>), point: &[f64], image: &[f64], into: Option<Difference>) -> Option<Difference> {
    let (residuals, images) = last;
    let (mut of_residual, mut of_image) = into.unwrap_or_default();
    for (at, (&point, &image)) in point.iter().zip(image).enumerate() {
        let residual = image - point;
        if let (Some(of_residual), Some(of_image)) = (of_residual.get_mut(at), of_image.get_mut(at)) {
            (*of_residual, *of_image) = ((residual - residuals[at]) as f32, (image - images[at]) as f32);
        }
        (residuals[at], images[at]) = (residual, image);
    }
    (!of_image.is_empty()).then_some((of_residual, of_image))
}

/// `a · b`, summed in fixed blocks.
pub(super) fn sum_of_products<A: Copy + Sync, B: Copy + Sync>(
    a: &[A],
    b: &[B],
    of_a: impl Fn(A) -> f64 + Sync,
    of_b: impl Fn(B) -> f64 + Sync,
) -> f64 {
    let blocks: Vec<f64> = a.par_chunks(BLOCK).zip(b.par_chunks(BLOCK)).map(|(a, b)| lanes(a, b, &of_a, &of_b)).collect();
    blocks.iter().sum()
}

/// `x · y`, by one thread.
pub(super) fn dot(x: &[f64], y: &[f64]) -> f64 {
    lanes(x, y, |value| value, |value| value)
}

/// `a · b` in eight sums that do not wait for each other.
fn lanes<A: Copy, B: Copy>(a: &[A], b: &[B], of_a: impl Fn(A) -> f64, of_b: impl Fn(B) -> f64) -> f64 {
    let mut sums = [0.0; 8];
    for (a, b) in a.chunks(sums.len()).zip(b.chunks(sums.len())) {
        for ((sum, &a), &b) in sums.iter_mut().zip(a).zip(b) {
            *sum += of_a(a) * of_b(b);
        }
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A slow linear contraction with the fixed point 1, 1, 1, …
    fn image(point: &[f64]) -> Vec<f64> {
        point.iter().enumerate().map(|(i, &x)| 1.0 + (x - 1.0) * (0.999 - 0.1 * i as f64)).collect()
    }

    fn steps_until_small(depth: usize) -> usize {
        let mut anderson = Anderson::new(depth);
        let mut point = vec![5.0; 6];
        for step in 0..20_000 {
            let mapped = image(&point);
            if point.iter().zip(&mapped).all(|(a, b)| (a - b).abs() < 1e-9) {
                return step;
            }
            anderson.next(&mut point, &mapped);
        }
        usize::MAX
    }

    #[test]
    fn a_slow_map_is_reached_in_few_steps() {
        let (plain, mixed) = (steps_until_small(0), steps_until_small(6));
        assert!(plain > 5_000 && mixed < 40, "plain {plain}, mixed {mixed}");
    }

    #[test]
    fn a_restart_leaves_nothing_of_the_past() {
        let after = |anderson: &mut Anderson, mut point: [f64; 2], image: [f64; 2]| {
            anderson.next(&mut point, &image);
            point
        };
        let mut used = Anderson::new(3);
        after(&mut used, [1.0, 2.0], [3.0, 1.0]);
        after(&mut used, [3.0, 1.0], [2.0, 2.0]);
        used.restart();
        assert_eq!(after(&mut used, [0.5, 0.5], [1.0, 0.0]), after(&mut Anderson::new(3), [0.5, 0.5], [1.0, 0.0]));
    }
}

//! The residual of a row, pair by pair and in f64, without its normal matrix.

use pulp::Simd;

use super::{Half, Weights};
use crate::model::kernel::unchecked::prefetch;
use crate::model::kernel::{self, Buffer, Lines};

/// Pairs that are added at a time: their counterparts stay in the first-level cache from the first use to the second.
const BATCH: usize = 16;

/// What observed pairs add to one row's gradient.
#[derive(Debug, Clone)]
pub struct Pull {
    /// To `b − A x`.
    pub pull: Buffer<f64>,
    /// To `b = Σ c y`.
    pub right: Buffer<f64>,
    /// `Σ |c|`.
    pub mass: f64,
    /// `b · x`.
    pub along: f64,
    /// To the objective: [`Weights::loss`].
    pub loss: f64,
}

impl Pull {
    pub fn new(stride: usize) -> Pull {
        Pull { pull: Buffer::new(stride), right: Buffer::new(stride), mass: 0.0, along: 0.0, loss: 0.0 }
    }

    pub fn clear(&mut self) {
        self.pull.get_mut().fill(0.0);
        self.right.get_mut().fill(0.0);
        (self.mass, self.along, self.loss) = (0.0, 0.0, 0.0);
    }

    pub fn add(&mut self, other: &Pull) {
        let add = |to: &mut [f64], from: &[f64]| to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
        add(self.pull.get_mut(), other.pull.get());
        add(self.right.get_mut(), other.right.get());
        self.mass += other.mass;
        self.along += other.along;
        self.loss += other.loss;
    }

    /// Adds pairs of the row `x`, some at a time: each `y` is read from memory once, and the sums now and then. With
    /// `ASK` the counterparts of those that come after, and of `next`, are asked for meanwhile.
    ///
    /// Costs `6 · pairs · k` floating-point operations.
    #[inline(always)]
    pub fn take<S: Simd, const ASK: bool>(
        &mut self,
        simd: S,
        half: &Half<'_>,
        x: &[f64],
        (columns, values): (&[u32], &[f32]),
        next: &[u32],
    ) {
        let lines = half.fixed.lines();
        for start in (0..columns.len()).step_by(BATCH) {
            let stop = columns.len().min(start + BATCH);
            let mut ahead = if stop < columns.len() { &columns[stop..] } else { next };
            ahead = if ASK { &ahead[..ahead.len().min(BATCH)] } else { &[] };
            self.batch(simd, (lines, half.weights), x, (&columns[start..stop], &values[start..stop]), ahead);
        }
    }

    #[inline(always)]
    fn batch<S: Simd>(
        &mut self,
        simd: S,
        (lines, weights): (Lines<'_, f64>, &Weights),
        x: &[f64],
        (columns, values): (&[u32], &[f32]),
        mut ahead: &[u32],
    ) {
        let (n, k) = (columns.len(), x.len());
        let mut ys: [&[f64]; BATCH] = [&[]; BATCH];
        for (y, &column) in ys.iter_mut().zip(columns) {
            *y = lines.at(column);
        }
        let ys = &ys[..n];
        let mut predictions = [0.0; BATCH];
        let mut at = 0;
        while at < n {
            let (now, later) = ahead.split_at(ahead.len().min(8));
            ahead = later;
            for &column in now {
                prefetch(lines.at(column));
            }
            if at + 8 <= n {
                let eight = kernel::dots(simd, x, &ys[at..at + 8]);
                predictions[at..at + 8].copy_from_slice(&eight);
                at += 8;
            } else {
                predictions[at] = kernel::dot(simd, x, ys[at]);
                at += 1;
            }
        }
        let (pulls, factors) = self.weigh(weights, values, &predictions);
        kernel::axpys(simd, ys, (&pulls[..n], &factors[..n]), &mut self.pull.get_mut()[..k], &mut self.right.get_mut()[..k]);
    }

    /// Factors of the pairs of a batch in `pull` and in `right`; adds up what else they say.
    #[inline(always)]
    fn weigh(&mut self, weights: &Weights, values: &[f32], predictions: &[f64; BATCH]) -> ([f64; BATCH], [f64; BATCH]) {
        let (mut pulls, mut factors) = ([0.0; BATCH], [0.0; BATCH]);
        let mut sums = [[0.0; BATCH]; 3];
        for (i, &value) in values.iter().enumerate() {
            let x = predictions[i];
            pulls[i] = weights.pull(value, x);
            factors[i] = weights.pair(value).1;
            sums[0][i] = factors[i].abs();
            sums[1][i] = factors[i] * x;
            sums[2][i] = weights.loss(value, x);
        }
        self.mass += added(&sums[0]);
        self.along += added(&sums[1]);
        self.loss += added(&sums[2]);
        (pulls, factors)
    }
}

/// In an order that has few additions one after the other.
#[inline(always)]
fn added(values: &[f64; BATCH]) -> f64 {
    let mut sums = [0.0; 4];
    for part in values.chunks_exact(4) {
        for (sum, value) in sums.iter_mut().zip(part) {
            *sum += value;
        }
    }
    (sums[0] + sums[2]) + (sums[1] + sums[3])
}

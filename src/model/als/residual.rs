//! The residual of a row, pair by pair and in f64, without its normal matrix.

use pulp::Simd;

use super::{Half, Weights};
use crate::model::kernel::{self, Buffer};

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

    /// Adds pairs of the row `x`, four at a time: each `y` is read from memory once, and the sums a quarter as often.
    ///
    /// Costs `6 · pairs · k` floating-point operations.
    #[inline(always)]
    pub fn take<S: Simd>(&mut self, simd: S, half: &Half<'_>, x: &[f64], (columns, values): (&[u32], &[f32])) {
        let (columns, columns_rest) = columns.as_chunks::<4>();
        let (values, values_rest) = values.as_chunks::<4>();
        for (&columns, &values) in columns.iter().zip(values) {
            self.group(simd, half, x, columns, values);
        }
        for (&column, &value) in columns_rest.iter().zip(values_rest) {
            self.group(simd, half, x, [column], [value]);
        }
    }

    #[inline(always)]
    fn group<S: Simd, const N: usize>(&mut self, simd: S, half: &Half<'_>, x: &[f64], columns: [u32; N], values: [f32; N]) {
        let weights: &Weights = half.weights;
        let mut ys: [&[f64]; N] = [&[]; N];
        for i in 0..N {
            ys[i] = half.fixed.raw(columns[i] as usize);
        }
        let predictions = kernel::dots(simd, x, ys);
        let (mut pulls, mut factors) = ([0.0; N], [0.0; N]);
        for i in 0..N {
            pulls[i] = weights.pull(values[i], predictions[i]);
            factors[i] = weights.pair(values[i]).1;
            self.mass += factors[i].abs();
            self.along += factors[i] * predictions[i];
            self.loss += weights.loss(values[i], predictions[i]);
        }
        let k = x.len();
        kernel::axpys(simd, ys, (pulls, &mut self.pull.get_mut()[..k]), (factors, &mut self.right.get_mut()[..k]));
    }
}

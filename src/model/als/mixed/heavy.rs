//! A row so long that its pairs are shared out over the threads.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::{Sums, Sweep, Workspace, accumulate};

/// Pairs that one task adds up of a row that is shared out over the threads.
const BLOCK: usize = 1 << 14;
/// A row with more than this share of all pairs is shared out.
const HEAVY: f64 = 1.0 / 32.0;

/// Whether a row of `n` of all `pairs` is so long that one thread would still be busy with it when the others are done.
pub fn is_heavy(n: usize, pairs: usize) -> bool {
    n >= 4 * BLOCK && n as f64 > HEAVY * pairs as f64
}

/// Sums of one long row, in blocks over all threads, added in the order of the blocks.
pub fn heavy_sums(arch: Arch, sweep: &Sweep<'_>, row: usize, x: &[f64]) -> Sums {
    let (columns, values) = sweep.half.rows.row(row);
    let mut numbers = Vec::new();
    let values = values.read(&mut numbers);
    let blocks: Vec<Sums> = columns
        .par_chunks(BLOCK)
        .zip(values.par_chunks(BLOCK))
        .map(|pairs| {
            let mut work = Workspace::new(x.len());
            work.x.get_mut()[..x.len()].copy_from_slice(x);
            arch.dispatch(Accumulate { sweep, pairs, work: &mut work });
            work.sums
        })
        .collect();
    let mut sums = Sums::new(sweep.single.stride);
    blocks.iter().for_each(|block| sums.add(block));
    sums
}

struct Accumulate<'a> {
    sweep: &'a Sweep<'a>,
    pairs: (&'a [u32], &'a [f32]),
    work: &'a mut Workspace,
}

impl WithSimd for Accumulate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        accumulate(simd, self.sweep, self.pairs, &[], self.work);
    }
}

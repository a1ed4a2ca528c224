//! A row in f32, and a row in f32 around a residual in f64.

use pulp::Simd;
use rayon::prelude::*;

use super::kept::Slot;
use super::residual::Pull;
use super::{Half, Precision, Sweep, Swept, panel_rows, relative};
use crate::model::kernel::unchecked::prefetch;
use crate::model::kernel::{self, Buffer, Lines};

mod heavy;

pub(super) use heavy::{heavy_sums, is_heavy};

/// Pivots further apart than this leave f32 too few digits: the row is done in f64.
const ILL_CONDITIONED: f64 = 1e5;
/// Share of a row's largest number, or of a diagonal's, below which a number is zero: less than any residual tells.
const NOTHING: f64 = 1e-14;
/// Range of pivots in which nothing that matters has left the range of f32.
const PIVOTS: (f64, f64) = (1e-30, 1e30);
/// The fixed side and its Gram matrix in f32.
pub(super) struct Shadow {
    stride: usize,
    /// Padded rows; none with [`Precision::Mixed`], which needs the f64 rows anyway.
    rows: Option<Buffer<f32>>,
    /// Zeros when pairs that nobody observed do not count.
    gram: Vec<f32>,
}

impl Shadow {
    pub(super) fn new(half: &Half<'_>, precision: Precision, gram: Option<&[f64]>) -> Shadow {
        let k = half.fixed.rank();
        let stride = kernel::padded(k);
        let rows = (precision == Precision::Single).then(|| {
            let mut rows = Buffer::new(half.fixed.len() * stride);
            let targets = rows.get_mut().par_chunks_mut(stride);
            targets.zip(half.fixed.values().par_chunks(k)).with_min_len(1024).for_each(|(target, row)| narrow(row, target));
            rows
        });
        let gram = gram.map_or_else(|| vec![0.0; stride * stride], |gram| gram.iter().map(|&value| value as f32).collect());
        Shadow { stride, rows, gram }
    }

    #[inline(always)]
    fn lines(&self) -> Lines<'_, f32> {
        Lines::new(self.rows.as_ref().map_or(&[], Buffer::get), self.stride)
    }
}

#[inline(always)]
fn narrow(row: &[f64], target: &mut [f32]) {
    for (target, &value) in target.iter_mut().zip(row) {
        *target = value as f32;
    }
}

/// Scratch memory of one thread.
pub(super) struct Workspace {
    sums: Sums,
    panel: Buffer<f32>,
    /// Of each row of the panel.
    roots: Vec<f32>,
    factors: Vec<f32>,
    /// The row as it came in, in f64 and in f32.
    x: Buffer<f64>,
    line: Buffer<f32>,
    /// `b − A x` of that, in [`Precision::Mixed`].
    product: Buffer<f64>,
    /// What is widened for a sum in f64.
    wide: Buffer<f64>,
    solved: Buffer<f32>,
    /// Values of the row, where they are kept in another form.
    values: Vec<f32>,
}

impl Workspace {
    pub(super) fn new(k: usize) -> Workspace {
        let stride = kernel::padded(k);
        Workspace {
            sums: Sums::new(stride),
            panel: Buffer::new(panel_rows::<f32>(stride) * stride),
            roots: vec![0.0; panel_rows::<f32>(stride)],
            factors: vec![0.0; panel_rows::<f32>(stride)],
            line: Buffer::new(stride),
            x: Buffer::new(stride),
            product: Buffer::new(stride),
            wide: Buffer::new(stride),
            solved: Buffer::new(stride),
            values: Vec::new(),
        }
    }
}

/// What the pairs of a row add up to.
pub(super) struct Sums {
    normal: Buffer<f32>,
    /// `b = Σ c y` and `Σ |c|`; with [`Precision::Single`].
    right: Buffer<f32>,
    mass: f64,
    /// The same and the residual in f64; with [`Precision::Mixed`].
    pull: Pull,
}

impl Sums {
    fn new(stride: usize) -> Sums {
        Sums { normal: Buffer::new(stride * stride), right: Buffer::new(stride), mass: 0.0, pull: Pull::new(stride) }
    }

    fn clear(&mut self, gram: &[f32]) {
        self.normal.get_mut().copy_from_slice(gram);
        self.right.get_mut().fill(0.0);
        self.mass = 0.0;
        self.pull.clear();
    }

    fn add(&mut self, other: &Sums) {
        let add = |to: &mut [f32], from: &[f32]| to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
        add(self.normal.get_mut(), other.normal.get());
        add(self.right.get_mut(), other.right.get());
        self.mass += other.mass;
        self.pull.add(&other.pull);
    }
}

/// Solves one row; `next` are the counterparts of the row that comes after it. `None` asks for f64: the row is left as
/// it was.
#[inline(always)]
pub(super) fn solve<S: Simd>(
    simd: S,
    sweep: &Sweep<'_>,
    row: usize,
    x: &mut [f64],
    next: &[u32],
    mut slot: Option<Slot<'_>>,
    work: &mut Workspace,
) -> Option<Swept> {
    work.x.get_mut()[..x.len()].copy_from_slice(x);
    let (columns, values) = sweep.half.rows.row(row);
    let mut numbers = std::mem::take(&mut work.values);
    let values = values.read(&mut numbers);
    // No adaptor: what it calls does not know the instruction set.
    let mut gone_on = None;
    if let Some(slot) = &mut slot
        && sweep.precision == Precision::Mixed
        && slot.is_there()
    {
        gone_on = go_on(simd, sweep, row, (columns, values), next, slot, work);
    }
    if gone_on.is_none() {
        if let Some(slot) = &mut slot {
            slot.clear();
        }
        work.x.get_mut()[..x.len()].copy_from_slice(x);
        work.sums.clear(&sweep.single.gram);
        accumulate(simd, sweep, (columns, values), next, work);
    }
    work.values = numbers;
    match gone_on {
        Some(swept) => Some(put(x, swept, work)),
        None => finish(simd, sweep, row, x, slot, work),
    }
}

/// Solves one row with the factorisation that was kept; `None` where that does not do: then nothing but scratch has changed.
#[inline(always)]
fn go_on<S: Simd>(
    simd: S,
    sweep: &Sweep<'_>,
    row: usize,
    pairs: (&[u32], &[f32]),
    next: &[u32],
    slot: &mut Slot<'_>,
    work: &mut Workspace,
) -> Option<Swept> {
    let Workspace { sums, x, .. } = work;
    sums.pull.clear();
    sums.pull.take::<S, true>(simd, &sweep.half, &x.get()[..sweep.half.fixed.rank()], pairs, next);
    let length = pull(simd, sweep, sweep.lambda(row), work)?;
    let before = asked(simd, length, work);
    if !slot.give(before.residual, work.sums.normal.get_mut()) {
        return None;
    }
    let swept = changed(simd, sweep.single.stride, before, largest(work), work)?;
    Some(Swept { on_trust: before.eliminated - swept.eliminated, ..swept })
}

/// [`solve`] of a row whose pairs are summed already.
#[inline(always)]
pub(super) fn solve_summed<S: Simd>(
    simd: S,
    sweep: &Sweep<'_>,
    row: usize,
    x: &mut [f64],
    sums: &Sums,
    work: &mut Workspace,
) -> Option<Swept> {
    work.sums.clear(&sweep.single.gram);
    work.x.get_mut()[..x.len()].copy_from_slice(x);
    work.sums.add(sums);
    finish(simd, sweep, row, x, None, work)
}

/// Adds pairs to `work.sums`, a panel at a time; while one is multiplied, the rows of the next are asked for.
#[inline(always)]
fn accumulate<S: Simd>(simd: S, sweep: &Sweep<'_>, (mut columns, mut values): (&[u32], &[f32]), next: &[u32], work: &mut Workspace) {
    let (stride, single, double) = (sweep.single.stride, sweep.single.lines(), sweep.half.fixed.lines());
    // Panels of equal length: while a short one is multiplied there is no time to fetch a long one.
    let most = panel_rows::<f32>(stride);
    let rows = columns.len().div_ceil(columns.len().div_ceil(most).max(1));
    while !columns.is_empty() {
        let n = rows.min(columns.len());
        gather_panel(simd, sweep, (&columns[..n], &values[..n]), work);
        (columns, values) = (&columns[n..], &values[n..]);
        let mut ahead = if columns.is_empty() { next } else { columns };
        ahead = &ahead[..most.min(ahead.len())];
        let share = ahead.len().div_ceil(stride / 8);
        kernel::rank_update_and(simd, work.sums.normal.get_mut(), &work.panel.get()[..n * stride], stride, || {
            let (now, later) = ahead.split_at(share.min(ahead.len()));
            for &column in now {
                match sweep.precision {
                    Precision::Single => prefetch(single.at(column)),
                    _ => prefetch(double.at(column)),
                }
            }
            ahead = later;
        });
    }
}

/// Copies the counterparts of some pairs into the panel, each by the root of its weight, and adds up the rest.
#[inline(always)]
fn gather_panel<S: Simd>(simd: S, sweep: &Sweep<'_>, (columns, values): (&[u32], &[f32]), work: &mut Workspace) {
    let (half, stride, k) = (&sweep.half, sweep.single.stride, sweep.half.fixed.rank());
    let Workspace { sums, panel, x, roots, factors, .. } = work;
    let n = columns.len();
    let (roots, factors) = (&mut roots[..n], &mut factors[..n]);
    let mass = half.weights.pairs(values, roots, factors);
    if sweep.precision == Precision::Single {
        sums.mass += mass;
        kernel::gather(simd, (sweep.single.lines(), columns), (roots, factors), &mut panel.get_mut()[..n * stride], sums.right.get_mut());
    } else {
        let lines = half.fixed.lines();
        for ((&column, &root), target) in columns.iter().zip(&*roots).zip(panel.get_mut().chunks_exact_mut(stride)) {
            weigh(f64::from(root), lines.at(column), target);
        }
        sums.pull.take::<S, false>(simd, half, &x.get()[..k], (columns, values), &[]);
    }
}

/// `target = root · y`, eight numbers at a time.
#[inline(always)]
fn weigh(root: f64, y: &[f64], target: &mut [f32]) {
    let (targets, rest) = target[..y.len()].as_chunks_mut::<8>();
    let (ys, last) = y.as_chunks::<8>();
    for (target, y) in targets.iter_mut().zip(ys) {
        for i in 0..8 {
            target[i] = (root * y[i]) as f32;
        }
    }
    for (target, y) in rest.iter_mut().zip(last) {
        *target = (root * y) as f32;
    }
}

/// From the sums of a row to its new value.
#[inline(always)]
fn finish<S: Simd>(simd: S, sweep: &Sweep<'_>, row: usize, x: &mut [f64], slot: Option<Slot<'_>>, work: &mut Workspace) -> Option<Swept> {
    let (k, stride, lambda) = (x.len(), sweep.single.stride, sweep.lambda(row));
    for i in 0..k {
        work.sums.normal.get_mut()[i * stride + i] += lambda as f32;
    }
    let swept = match sweep.precision {
        Precision::Single => single(simd, k, stride, slot, work),
        _ => {
            let length = pull(simd, sweep, lambda, work)?;
            corrected(simd, k, stride, length, slot, work)
        }
    }?;
    Some(put(x, swept, work))
}

/// Hands the solved row out.
#[inline(always)]
fn put(x: &mut [f64], swept: Swept, work: &Workspace) -> Swept {
    x.copy_from_slice(&work.x.get()[..x.len()]);
    flush(x);
    swept
}

/// Zeros what is nothing beside the rest of the row, as numbers along directions that collapse from sweep to sweep are.
/// Products of what is left of those would end below the normal range of f32, where each costs a hundred times as much.
#[inline(always)]
fn flush(x: &mut [f64]) {
    let least = NOTHING * x.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
    for value in x {
        *value = if value.abs() < least { 0.0 } else { *value };
    }
}

/// The same of a row of the normal matrix beside its diagonal.
#[inline(always)]
fn zero_below(least: f32, row: &mut [f32]) {
    for value in row {
        *value = if value.abs() < least { 0.0 } else { *value };
    }
}

/// Factorises the normal matrix in place; `None` when f32 does not do.
#[inline(always)]
fn factorise<S: Simd>(simd: S, k: usize, stride: usize, work: &mut Workspace) -> Option<()> {
    let normal = work.sums.normal.get_mut();
    for i in 0..k {
        let row = &mut normal[i * stride..(i + 1) * stride];
        zero_below(NOTHING as f32 * row[i].abs(), &mut row[i + 1..]);
    }
    kernel::cholesky(simd, normal, k, stride).ok()?;
    let fits = kernel::pivots_within(normal, k, stride, PIVOTS.0, PIVOTS.1) && kernel::pivot_spread(normal, k, stride) < ILL_CONDITIONED;
    fits.then_some(())
}

/// `A x = b` in f32, and the residual of the row as it came in.
#[inline(always)]
fn single<S: Simd>(simd: S, k: usize, stride: usize, slot: Option<Slot<'_>>, work: &mut Workspace) -> Option<Swept> {
    narrow(work.x.get(), work.line.get_mut());
    let solved = work.solved.get_mut();
    kernel::symmetric(simd, work.sums.normal.get(), work.line.get(), solved, stride);
    kernel::axpy(simd, -1.0, work.sums.right.get(), solved);
    let residual = length(simd, solved, work.wide.get_mut());
    let right = length(simd, work.sums.right.get(), work.wide.get_mut());
    factorise(simd, k, stride, work)?;
    let solved = work.solved.get_mut();
    solved.copy_from_slice(work.sums.right.get());
    kernel::solve(simd, work.sums.normal.get(), solved, stride);
    widen(solved, work.x.get_mut());
    // The right-hand side is still there.
    let eliminated = -kernel::dot(simd, work.x.get(), work.wide.get());
    let swept = Swept { residual: relative(residual, right, work.sums.mass), eliminated, on_trust: 0.0 };
    if !(right.is_finite() && residual.is_finite() && eliminated.is_finite()) {
        return None;
    }
    if let Some(mut slot) = slot {
        slot.keep(swept.residual, work.sums.normal.get());
    }
    Some(swept)
}

/// `r = b − A x` of the row as it came in into `work.product`; answers its length.
#[inline(always)]
fn pull<S: Simd>(simd: S, sweep: &Sweep<'_>, lambda: f64, work: &mut Workspace) -> Option<f64> {
    let product = work.product.get_mut();
    match sweep.gram.as_deref() {
        Some(gram) => kernel::symmetric(simd, gram, work.x.get(), product, sweep.single.stride),
        None => product.fill(0.0),
    }
    kernel::axpy(simd, lambda, work.x.get(), product);
    for (product, pull) in product.iter_mut().zip(work.sums.pull.pull.get()) {
        *product = pull - *product;
    }
    let length = kernel::dot(simd, product, product).sqrt();
    length.is_finite().then_some(length)
}

/// The row as it came in, where the length of `r = b − A x` is `length`.
#[inline(always)]
fn asked<S: Simd>(simd: S, length: f64, work: &Workspace) -> Swept {
    let pull = &work.sums.pull;
    let right = kernel::dot(simd, pull.right.get(), pull.right.get()).sqrt();
    let eliminated = -kernel::dot(simd, work.x.get(), work.product.get()) - pull.along;
    // What is not finite must not be lost in the ratio.
    let eliminated = if right.is_finite() { eliminated } else { f64::NAN };
    Swept { residual: relative(length, right, pull.mass), eliminated, on_trust: 0.0 }
}

/// `x += d`, where `A d = r` is solved in f32.
#[inline(always)]
fn corrected<S: Simd>(simd: S, k: usize, stride: usize, length: f64, slot: Option<Slot<'_>>, work: &mut Workspace) -> Option<Swept> {
    let before = asked(simd, length, work);
    let largest = largest(work);
    if largest > 0.0 {
        factorise(simd, k, stride, work)?;
        if let Some(mut slot) = slot {
            slot.keep(before.residual, work.sums.normal.get());
        }
    }
    changed(simd, stride, before, largest, work)
}

/// The largest number of `r`.
#[inline(always)]
fn largest(work: &Workspace) -> f64 {
    work.product.get().iter().fold(0.0f64, |largest, value| largest.max(value.abs()))
}

/// `x += d`, where `A d = r` is solved with the factorisation at hand and scaled so that nothing leaves the range of f32. The
/// objective of the row follows from what it was: with `r` in f64 it is known to the rounding of f64 and, where the
/// factorisation is that of `A`, 1e-5 of what it falls by.
#[inline(always)]
fn changed<S: Simd>(simd: S, stride: usize, before: Swept, largest: f64, work: &mut Workspace) -> Option<Swept> {
    if largest == 0.0 {
        return Some(before);
    }
    let solved = work.solved.get_mut();
    for (solved, &value) in solved.iter_mut().zip(work.product.get()) {
        *solved = (value / largest) as f32;
    }
    kernel::solve(simd, work.sums.normal.get(), solved, stride);
    widen(solved, work.wide.get_mut());
    let fall = largest * kernel::dot(simd, work.product.get(), work.wide.get());
    kernel::axpy(simd, largest, work.wide.get(), work.x.get_mut());
    let swept = Swept { eliminated: before.eliminated - fall, ..before };
    swept.eliminated.is_finite().then_some(swept)
}

/// The Euclidean length, with the values in f64 left in `wide`.
#[inline(always)]
fn length<S: Simd>(simd: S, values: &[f32], wide: &mut [f64]) -> f64 {
    widen(values, wide);
    kernel::dot(simd, wide, wide).sqrt()
}

#[inline(always)]
fn widen(values: &[f32], wide: &mut [f64]) {
    for (wide, &value) in wide.iter_mut().zip(values) {
        *wide = f64::from(value);
    }
}

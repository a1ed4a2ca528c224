//! Factorisations of normal matrices that later half-sweeps go on with. A normal matrix changes as little as the factors of
//! the other side do, and a row's change is all that is solved with it: what an older one gets wrong is a share of that
//! change, which shrinks with it. The residual that it is solved for is always that of the factors at hand.

use super::schedule::Task;
use crate::model::factors::Table;
use crate::model::kernel::{self, STRIP};
use crate::model::ratings::Rows;

/// What the factorisations of one side may take, in bytes. Rows with many pairs come first: making theirs costs most.
const ROOM: usize = 128 << 20;
/// Half-sweeps that go on with a factorisation before it is made anew.
const USES: u8 = 8;
/// A row's residual of less than this is nothing to go by: it moves with the rows beside it, and with rounding.
const SMALL: f64 = 1e-9;

/// Factorisations of the rows of one side.
pub struct Kept {
    stride: usize,
    /// How many of the rows before each row have one, and how many have in all.
    slots: Vec<u32>,
    /// [`packed`] numbers each.
    factors: Vec<f32>,
    states: Vec<State>,
}

/// Where a factorisation stands.
#[derive(Debug, Clone, Copy, Default)]
struct State {
    /// Half-sweeps that may still go on with it; none while there is none.
    left: u8,
    /// Relative residual of the row as it last came in.
    residual: f64,
}

/// Numbers of an upper triangle, the blocks of eight on the diagonal whole.
fn packed(stride: usize) -> usize {
    (0..stride).map(|row| stride - row / STRIP * STRIP).sum()
}

impl Kept {
    /// For the rows of a table; nothing is kept yet. Memory is taken when it is written to.
    pub fn new(rows: &Rows, table: &Table) -> Kept {
        Kept::within(ROOM, rows, table)
    }

    pub(super) fn within(bytes: usize, rows: &Rows, table: &Table) -> Kept {
        let (len, k) = (table.len(), table.rank());
        let stride = kernel::padded(k);
        let room = bytes / (packed(stride) * size_of::<f32>()).max(1);
        let mut degrees: Vec<u32> = (0..len).map(|row| rows.degree(row) as u32).filter(|&degree| degree > 0).collect();
        let (mut least, mut equals) = (1, 0);
        if degrees.len() > room {
            // Of those that are as long as the first that does not fit, the first ones fit.
            let (longer, first, _) = degrees.select_nth_unstable_by(room, |a, b| b.cmp(a));
            equals = longer.iter().filter(|degree| *degree == first).count();
            least = *first + 1;
        }
        let mut slots = Vec::with_capacity(len + 1);
        slots.push(0);
        for row in 0..len {
            let degree = rows.degree(row) as u32;
            let equal = equals > 0 && degree + 1 == least;
            equals -= usize::from(equal);
            slots.push(slots[row] + u32::from(equal || degree >= least));
        }
        let count = slots[len] as usize;
        Kept { stride, slots, factors: vec![0.0; count * packed(stride)], states: vec![State::default(); count] }
    }

    /// The part of each task. The tasks cover all rows in order.
    pub(super) fn shares(&mut self, tasks: &[Task]) -> Vec<Share<'_>> {
        let (mut factors, mut states) = (&mut self.factors[..], &mut self.states[..]);
        let mut shares = Vec::with_capacity(tasks.len());
        for task in tasks {
            let slots = &self.slots[task.rows.start..=task.rows.end];
            let count = (slots[task.rows.len()] - slots[0]) as usize;
            let (own_factors, other_factors) = factors.split_at_mut(count * packed(self.stride));
            let (own_states, other_states) = states.split_at_mut(count);
            shares.push(Share { stride: self.stride, slots, factors: own_factors, states: own_states });
            (factors, states) = (other_factors, other_states);
        }
        shares
    }
}

/// Factorisations of the rows of one task.
pub(super) struct Share<'k> {
    stride: usize,
    slots: &'k [u32],
    factors: &'k mut [f32],
    states: &'k mut [State],
}

impl Share<'_> {
    /// That of the task's row at `at`, if it may have one.
    #[inline(always)]
    pub fn slot(&mut self, at: usize) -> Option<Slot<'_>> {
        let slot = (self.slots[at] - self.slots[0]) as usize;
        let length = packed(self.stride);
        let has = self.slots[at + 1] > self.slots[at];
        has.then(|| Slot {
            stride: self.stride,
            factor: &mut self.factors[slot * length..(slot + 1) * length],
            state: &mut self.states[slot],
        })
    }
}

/// The factorisation of one row.
pub(super) struct Slot<'k> {
    stride: usize,
    factor: &'k mut [f32],
    state: &'k mut State,
}

impl Slot<'_> {
    /// What was kept serves no more.
    #[inline(always)]
    pub fn clear(&mut self) {
        self.state.left = 0;
    }

    /// Whether there is one that may be gone on with.
    #[inline(always)]
    pub fn is_there(&self) -> bool {
        self.state.left > 0
    }

    /// Takes it out into a matrix, unless the row's residual says that it does not do: then, and after its last use, it must
    /// be made anew.
    #[inline(always)]
    pub fn give(&mut self, residual: f64, into: &mut [f32]) -> bool {
        let serves = self.state.left > 0 && residual <= self.state.residual.max(SMALL);
        if !serves {
            return false;
        }
        *self.state = State { left: self.state.left - 1, residual };
        let mut rest = &*self.factor;
        for (row, into) in into.chunks_exact_mut(self.stride).enumerate() {
            let into = &mut into[row / STRIP * STRIP..];
            let (part, others) = rest.split_at(into.len());
            into.copy_from_slice(part);
            rest = others;
        }
        true
    }

    /// Keeps that of a row which came in with this residual.
    #[inline(always)]
    pub fn keep(&mut self, residual: f64, factor: &[f32]) {
        *self.state = State { left: USES, residual };
        let mut rest = &mut *self.factor;
        for (row, factor) in factor.chunks_exact(self.stride).enumerate() {
            let factor = &factor[row / STRIP * STRIP..];
            let (part, others) = rest.split_at_mut(factor.len());
            part.copy_from_slice(factor);
            rest = others;
        }
    }
}

#[cfg(test)]
impl Kept {
    /// Rows that have room.
    pub fn rows(&self) -> Vec<usize> {
        (0..self.slots.len() - 1).filter(|&row| self.slots[row + 1] > self.slots[row]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_factorisation_serves_so_often_and_while_the_residual_does_not_grow() {
        let stride = 16;
        let (mut factor, mut state) = (vec![0.0; packed(stride)], State::default());
        let mut slot = Slot { stride, factor: &mut factor, state: &mut state };
        let matrix: Vec<f32> = (0..stride * stride).map(|at| at as f32).collect();
        let mut out = vec![-1.0; stride * stride];
        assert!(!slot.is_there() && !slot.give(0.0, &mut out));
        slot.keep(1.0, &matrix);
        for use_of in 0..USES {
            assert!(slot.is_there() && slot.give(1.0 / f64::from(use_of + 1), &mut out));
        }
        assert!(!slot.is_there());
        // The upper triangle with whole blocks on the diagonal, and nothing else.
        for row in 0..stride {
            for column in 0..stride {
                let kept = column >= row / STRIP * STRIP;
                assert_eq!(out[row * stride + column], if kept { (row * stride + column) as f32 } else { -1.0 });
            }
        }
        slot.keep(0.5, &matrix);
        assert!(slot.give(0.5, &mut out) && !slot.give(0.6, &mut out) && !slot.give(f64::NAN, &mut out));
        slot.keep(SMALL / 4.0, &matrix);
        assert!(slot.give(SMALL / 2.0, &mut out));
        slot.clear();
        assert!(!slot.is_there() && !slot.give(0.0, &mut out));
    }
}

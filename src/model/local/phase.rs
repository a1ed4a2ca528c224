//! One side's touched rows, the other side held.

use faer::linalg::cholesky::llt::factor::LltError;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::linalg::solvers::{Llt, SelfAdjointEigen, Solve};
use faer::{Accum, Mat, MatMut, MatRef, Par, Side as Triangle};
use rayon::prelude::*;

use super::{Patch, Rows};
use crate::model::als::{RowFailed, Weights};
use crate::model::factors::{Side, Table};
use crate::model::kernel::NotPositiveDefinite;

/// A correction longer than this share of its row is cut: the row's counterparts are not like the rest of their side.
const LONGEST_STEP: f64 = 0.5;

/// The side that is held: a table, the rows in which it differs from it now, and its Gram matrix.
pub(super) struct Held<'a> {
    table: &'a Table,
    patch: &'a Patch,
    /// As it is now, and what of that is new.
    gram: Mat<f64>,
    moved: Mat<f64>,
}

impl<'a> Held<'a> {
    /// `gram` is that of the table.
    pub(super) fn new(table: &'a Table, patch: &'a Patch, gram: &Mat<f64>) -> Held<'a> {
        let k = gram.nrows();
        let (mut old, mut new) = (Vec::new(), Vec::new());
        let mut rows: Vec<_> = patch.rows.iter().collect();
        rows.sort_unstable_by_key(|(row, _)| *row);
        for (row, values) in rows {
            old.extend_from_slice(table.row(*row as usize).unwrap_or_default());
            new.extend_from_slice(values.as_deref().unwrap_or_default());
        }
        let mut moved = Mat::zeros(k, k);
        add_products(&mut moved, &old, -1.0);
        add_products(&mut moved, &new, 1.0);
        let moved = Mat::from_fn(k, k, |i, j| moved[(i.max(j), i.min(j))]);
        Held { table, patch, gram: gram + &moved, moved }
    }

    /// A row before the step, if it existed.
    fn old(&self, row: u32) -> Option<&[f64]> {
        self.table.row(row as usize)
    }

    /// A row as it is now, if it exists.
    fn new_row(&self, row: u32) -> Option<&[f64]> {
        match self.patch.get(row as usize) {
            Some(values) => values.as_deref(),
            None => self.table.row(row as usize),
        }
    }
}

/// What a pair says to one of its rows: its value before and after, where it existed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Event {
    pub row: u32,
    pub counterpart: u32,
    pub before: Option<f32>,
    pub after: Option<f32>,
}

/// See the fields' types in [`super::Step`]; of `weights` and `others`, the number of rows of the side that is held,
/// the first is before the step, the second now.
pub(super) struct Phase<'a> {
    pub side: Side,
    pub rows: &'a Rows,
    pub own: &'a Table,
    pub held: Held<'a>,
    pub weights: [Weights; 2],
    pub others: [usize; 2],
}

pub(super) struct Solved {
    pub rows: Vec<(u32, Vec<f64>)>,
    pub solved: usize,
    pub corrected: usize,
    /// Operations, and those of them for rows' own normal matrices.
    pub flops: f64,
    pub own_flops: f64,
}

impl Phase<'_> {
    /// New values of all rows that have events and data. Events are grouped by row; a row that is new has all its
    /// pairs among them.
    ///
    /// # Errors
    /// [`RowFailed`] names a row whose normal matrix cannot be factorised.
    pub fn run(&self, events: &[Event], budget: f64) -> Result<Solved, RowFailed> {
        let k = self.own.rank();
        let has_data = |events: &&[Event]| self.rows.degree(events[0].row as usize) > 0;
        let rows: Vec<&[Event]> = events.chunk_by(|a, b| a.row == b.row).filter(has_data).collect();
        let sizes: Vec<usize> = rows.iter().map(|events| self.rows.degree(events[0].row as usize)).collect();
        let new: Vec<bool> = rows.iter().map(|events| !self.own.is_live(events[0].row as usize)).collect();
        let own = plan(&sizes, &new, k, budget);
        let solved = own.iter().filter(|&&own| own).count();
        // No decomposition of finite numbers fails; if one does, these rows stay as they are.
        let shared = if solved < rows.len() { self.held.gram.self_adjoint_eigen(Triangle::Lower).ok() } else { None };
        let values: Vec<Result<(u32, Vec<f64>), RowFailed>> = rows
            .par_iter()
            .zip(&own)
            .map(|(events, &own)| Ok((events[0].row, self.solve(events, if own { None } else { shared.as_ref() }, own)?)))
            .collect();
        let own_flops = sizes.iter().zip(&own).filter(|(_, own)| **own).map(|(&size, _)| row_flops(size, k)).sum::<f64>();
        Ok(Solved {
            rows: values.into_iter().collect::<Result<_, _>>()?,
            solved,
            corrected: rows.len() - solved,
            flops: own_flops + correction_flops(rows.len() - solved, events.len(), k),
            own_flops,
        })
    }

    /// `x + P⁻¹ r` of one row.
    fn solve(&self, events: &[Event], shared: Option<&SelfAdjointEigen<f64>>, own: bool) -> Result<Vec<f64>, RowFailed> {
        let row = events[0].row as usize;
        let mut x = self.own.row(row).map_or_else(|| vec![0.0; self.own.rank()], <[f64]>::to_vec);
        let residual = self.residual(row, events, &x);
        let step = match shared {
            _ if own => self.newton(row, residual)?,
            Some(shared) => cut(self.damped(row, shared, &residual), &x),
            None => return Ok(x),
        };
        if step.iter().all(|value| value.is_finite()) {
            x.iter_mut().zip(step).for_each(|(x, step)| *x += step);
        }
        Ok(x)
    }

    /// λ of a row before and now.
    fn lambdas(&self, row: usize, events: &[Event]) -> [f64; 2] {
        let n = self.rows.degree(row);
        let came = events.iter().filter(|event| event.before.is_none()).count();
        let went = events.iter().filter(|event| event.after.is_none()).count();
        [self.weights[0].row(n + went - came, self.others[0]), self.weights[1].row(n, self.others[1])]
    }

    /// `b − A x` of a row that was stationary before, or did not exist and is zero. That every target moves with the
    /// mean of the explicit objective is left to the sweeps.
    fn residual(&self, row: usize, events: &[Event], x: &[f64]) -> Vec<f64> {
        let [before, now] = self.lambdas(row, events);
        let unobserved = self.weights[1].unobserved;
        let mut residual: Vec<f64> = x.iter().map(|x| (before - now) * x).collect();
        if unobserved > 0.0 {
            residual.iter_mut().enumerate().for_each(|(i, residual)| *residual -= unobserved * dot(column(self.held.moved.as_ref(), i), x));
        }
        let mut add = |weights: &Weights, value: f32, y: &[f64], sign: f64| {
            let (weight, factor) = weights.pair(value);
            let pull = sign * (factor - weight * dot(x, y));
            residual.iter_mut().zip(y).for_each(|(residual, y)| *residual += pull * y);
        };
        for event in events {
            if let (Some(value), Some(y)) = (event.before, self.held.old(event.counterpart)) {
                add(&self.weights[0], value, y, -1.0);
            }
            if let (Some(value), Some(y)) = (event.after, self.held.new_row(event.counterpart)) {
                add(&self.weights[1], value, y, 1.0);
            }
        }
        residual
    }

    fn lambda(&self, row: usize) -> f64 {
        self.weights[1].row(self.rows.degree(row), self.others[1])
    }

    /// `A⁻¹ r` with the row's normal matrix.
    fn newton(&self, row: usize, mut residual: Vec<f64>) -> Result<Vec<f64>, RowFailed> {
        let (k, lambda, unobserved) = (residual.len(), self.lambda(row), self.weights[1].unobserved);
        let mut matrix = Mat::from_fn(k, k, |i, j| unobserved * self.held.gram[(i, j)] + if i == j { lambda } else { 0.0 });
        let (columns, values) = self.rows.row(row);
        let mut panel = Vec::with_capacity(columns.len() * k);
        for (&column, value) in columns.iter().zip(values) {
            let root = self.weights[1].pair(value).0.sqrt();
            panel.extend(self.held.new_row(column).unwrap_or_default().iter().map(|y| root * y));
        }
        add_products(&mut matrix, &panel, 1.0);
        let failed = |pivot| RowFailed { side: self.side, row, source: NotPositiveDefinite { pivot } };
        let factor = Llt::new(matrix.as_ref(), Triangle::Lower).map_err(|LltError::NonPositivePivot { index }| failed(index))?;
        factor.solve_in_place(MatMut::from_column_major_slice_mut(&mut residual, k, 1));
        Ok(residual)
    }

    /// `P⁻¹ r` where `P = λ I + (a0 + Σ w / N) G` takes the row's counterparts for a sample of their side, and `G` is
    /// given as `Q S Qᵀ`.
    fn damped(&self, row: usize, gram: &SelfAdjointEigen<f64>, residual: &[f64]) -> Vec<f64> {
        let mass: f64 = self.rows.row(row).1.into_iter().map(|value| self.weights[1].pair(value).0).sum();
        let (lambda, scale) = (self.lambda(row), self.weights[1].unobserved + mass / self.others[1].max(1) as f64);
        let mut step = vec![0.0; residual.len()];
        for (j, &value) in gram.S().column_vector().iter().enumerate() {
            let along = column(gram.U(), j);
            let length = dot(along, residual) / (lambda + scale * value.max(0.0));
            step.iter_mut().zip(along).for_each(|(step, along)| *step += length * along);
        }
        step
    }
}

/// `matrix += scale · PᵀP` on the lower triangle, where `P` is a row-major panel.
fn add_products(matrix: &mut Mat<f64>, panel: &[f64], scale: f64) {
    let (k, whole) = (matrix.nrows(), BlockStructure::Rectangular);
    let panel = MatRef::from_row_major_slice(panel, panel.len() / k, k);
    triangular::matmul(
        matrix.as_mut(),
        BlockStructure::TriangularLower,
        Accum::Add,
        panel.transpose(),
        whole,
        panel,
        whole,
        scale,
        Par::Seq,
    );
}

fn cut(mut step: Vec<f64>, x: &[f64]) -> Vec<f64> {
    let (longest, length) = (LONGEST_STEP * dot(x, x).sqrt(), dot(&step, &step).sqrt());
    if length > longest {
        step.iter_mut().for_each(|value| *value *= longest / length);
    }
    step
}

/// Which rows are solved with their own normal matrix: the new ones, and of the others the shortest, as far as the
/// budget goes.
pub(super) fn plan(sizes: &[usize], new: &[bool], k: usize, budget: f64) -> Vec<bool> {
    let mut own = new.to_vec();
    let mut order: Vec<usize> = (0..sizes.len()).filter(|&at| !new[at]).collect();
    order.sort_by_key(|&at| sizes[at]);
    let mut left = budget;
    for at in order {
        left -= row_flops(sizes[at], k);
        if left < 0.0 {
            break;
        }
        own[at] = true;
    }
    own
}

/// Operations of one row's normal matrix and its factorisation.
pub(super) fn row_flops(n: usize, k: usize) -> f64 {
    (n * k * k) as f64 + (k as f64).powi(3) / 3.0
}

/// Operations of all that is not a row's own normal matrix; about 20 k³ are those of the eigendecomposition.
pub(super) fn correction_flops(rows: usize, events: usize, k: usize) -> f64 {
    let k = k as f64;
    rows as f64 * 4.0 * k * k + events as f64 * 12.0 * k + if rows > 0 { 20.0 * k.powi(3) } else { 0.0 }
}

fn column(matrix: MatRef<'_, f64>, j: usize) -> &[f64] {
    matrix.col(j).try_as_col_major().map_or(&[], |column| column.as_slice())
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

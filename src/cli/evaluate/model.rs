//! One point of the search, trained by the product's own solver.

use std::ops::Range;
use std::time::Instant;

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use pulp::Arch;

use super::data::Data;
use super::ranking::Scores;
use super::split::Part;
use crate::cli::CliError;

use crate::model::factors::{Side, Table, initial_row};
use crate::model::unlearn::{Problem, Watch, solve};
use crate::model::{Objective, Params};

/// A trained model that scores.
pub struct Model {
    users: Table,
    items: Table,
    /// Of the ratings; `None` with the implicit objective, whose predictions are no ratings.
    mean: Option<f64>,
    pub facts: Facts,
}

/// What is told of a solve.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Facts {
    pub effective_rank: Option<usize>,
    /// The rank and not the regularization limits the model. A direction that nobody needs fades over the sweeps: a loose
    /// tolerance may take it for one in use, hardly the other way round.
    pub binds: bool,
    pub sweeps: u32,
    pub residual: f64,
    /// What the residual was to reach.
    pub tolerance: f64,
    /// Wall clock.
    pub seconds: f64,
}

impl Facts {
    /// Whether two trainings from other seeds would agree: converged, and no direction missing for want of rank.
    pub fn sound(&self) -> bool {
        self.converged() && !self.binds
    }

    pub fn converged(&self) -> bool {
        self.residual <= self.tolerance
    }
}

/// Trains from a cold start on the part's training data, as the service does: the result is a function of the data and
/// the parameters, whatever else is searched.
///
/// # Errors
/// Exit 1 when a row cannot be solved, with the name of the setting to change.
#[expect(clippy::disallowed_methods, reason = "a command is the rim: the seconds shown are those of the clock on the wall")]
pub fn train(data: &Data, part: &Part, params: &Params, watch: &dyn Watch) -> Result<Model, CliError> {
    let live = (0..part.items).filter(|&item| part.ratings.items.degree(item) > 0);
    let initial = live.map(|item| (item as u32, initial_row(params.seed, Side::Item, &data.items[item], params.rank))).collect();
    let problem = Problem { params: params.clone(), ratings: part.ratings.clone(), previous: None, initial };
    let began = Instant::now();
    let solution = solve(Arch::new(), &problem, watch).map_err(CliError::failed)?;
    let facts = Facts {
        tolerance: params.tolerance,
        effective_rank: solution.effective_rank,
        binds: solution.rank_binds,
        sweeps: solution.sweeps,
        residual: solution.measured.residual,
        seconds: began.elapsed().as_secs_f64(),
    };
    let (mut users, mut items) = (solution.factors.users, solution.factors.items);
    users.grow(part.users);
    items.grow(part.items);
    let mean = (params.objective == Objective::Explicit).then_some(solution.mean);
    Ok(Model { users, items, mean, facts })
}

impl Scores for Model {
    fn fill(&self, users: Range<usize>, out: &mut [f64]) {
        let (k, items) = (self.items.rank(), self.items.len());
        let mine = MatRef::from_column_major_slice(&self.users.values()[users.start * k..users.end * k], k, users.len());
        let theirs = MatRef::from_column_major_slice(self.items.values(), k, items);
        // User by user is column by column of items × users.
        let scores = MatMut::from_column_major_slice_mut(out, items, users.len());
        matmul(scores, Accum::Replace, theirs.transpose(), mine, 1.0, Par::Seq);
    }

    fn rating(&self, user: usize, item: usize) -> Option<f64> {
        let product = || self.users.raw(user).iter().zip(self.items.raw(item)).map(|(u, v)| u * v).sum::<f64>();
        self.mean.map(|mean| mean + product())
    }
}

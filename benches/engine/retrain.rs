//! Two trainings from other seeds, both converged: how far are they apart?

use std::sync::Arc;

use nepenthe::model::factors::{Side, initial_row};
use nepenthe::model::ratings::Ratings;
use nepenthe::model::unlearn::{Problem, Solution, Unwatched, solve};
use nepenthe::model::{Objective, Params};
use pulp::Arch;

use crate::support::distance;
use crate::support::report::Report;

/// Converges far below the default tolerance, so that what is left is not the tolerance's.
const TOLERANCE: f64 = 1e-9;

fn trained(params: &Params, ratings: &Arc<Ratings>, seed: u64) -> Result<Solution, String> {
    let params = Params { seed, tolerance: TOLERANCE, max_sweeps: 3_000, ..params.clone() };
    let first = |item: usize| (item as u32, initial_row(seed, Side::Item, &item.to_string(), params.rank));
    let initial = (0..ratings.items.len()).filter(|&item| ratings.items.degree(item) > 0).map(first).collect();
    solve(Arch::new(), &Problem { params, ratings: ratings.clone(), previous: None, initial }, &Unwatched).map_err(|e| e.to_string())
}

/// Trains from two seeds. Where the rank does not bind they must agree; where it binds, the model must say so.
pub fn run(report: &mut Report, params: &Params, ratings: &Arc<Ratings>, binds: bool) -> Result<(), String> {
    let name = format!(
        "{}, rank {}, λ {}, ν {}",
        if params.objective == Objective::Explicit { "explicit" } else { "implicit" },
        params.rank,
        params.regularization,
        params.regularization_exp
    );
    let (one, two) = (trained(params, ratings, 1)?, trained(params, ratings, 2)?);
    let apart = distance::relative(&one.factors, &two.factors);
    let figure = format!("{:.1e}, {:.2} %", apart.rms, 100.0 * apart.top);
    let what = format!("{name}: relative RMS, equal top 10");
    let effective = one.effective_rank.map_or("?".to_owned(), |rank| rank.to_string());
    if binds {
        report.say(what, figure);
        let says = one.effective_rank == Some(params.rank);
        report.hold(format!("{name}: effective rank, which warns"), format!("{effective} of {}", params.rank), "binds", says);
    } else {
        report.hold(what, figure, "≤ 1e-6, 100 %", apart.rms <= 1e-6 && apart.top == 1.0);
        let sweeps = format!("{effective} of {}; {} and {} sweeps", params.rank, one.sweeps, two.sweeps);
        report.say(format!("{name}: effective rank; sweeps to {TOLERANCE:.0e}"), sweeps);
    }
    Ok(())
}

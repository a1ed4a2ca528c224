//! Two trainings from other seeds, both converged: how far are they apart?

use std::sync::Arc;

use nepenthe::model::als::Weights;
use nepenthe::model::factors::{Side, initial_row};
use nepenthe::model::global;
use nepenthe::model::ratings::Ratings;
use nepenthe::model::unlearn::{Problem, Solution, Unwatched, solve};
use nepenthe::model::{Objective, Params};
use pulp::Arch;

use crate::support::distance;
use crate::support::report::{Report, timed};

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
    let (one, seconds) = timed(|| trained(params, ratings, 1));
    let (one, two) = (one?, trained(params, ratings, 2)?);
    let apart = distance::relative(&one.factors, &two.factors);
    let figure = format!("{:.1e}, {:.2} %", apart.rms, 100.0 * apart.top);
    let what = format!("{name}: relative RMS, equal top 10");
    let effective = one.effective_rank.map_or("?".to_owned(), |rank| rank.to_string());
    if binds {
        report.say(what, figure);
        let says = if one.rank_binds { "warned" } else { "not warned" };
        let figure = format!("{effective} of {}, {says}", params.rank);
        report.hold(format!("{name}: effective rank"), figure, "warned", one.rank_binds);
        return Ok(());
    }
    report.hold(what, figure, "≤ 1e-6, 100 %", apart.rms <= 1e-6 && apart.top == 1.0);
    let sweeps = format!("{effective} of {}; {} and {} sweeps", params.rank, one.sweeps, two.sweeps);
    report.say(format!("{name}: effective rank; sweeps to {TOLERANCE:.0e}"), sweeps);
    let weights = Weights::new(params, one.mean);
    let (bound, pass) = timed(|| global::bound(Arch::new(), ratings, &one.factors, &weights));
    let gap = bound.map(|bound| bound.gap / one.measured.objective);
    let figure = gap.map_or_else(|none| none.to_string(), |gap| format!("{gap:.1e}"));
    report.hold(format!("{name}: certified gap, of the objective"), figure, "≤ 1e-6", gap.is_ok_and(|gap| gap <= 1e-6));
    let sweep = seconds / f64::from(one.sweeps.max(1));
    report.say(format!("{name}: the pass for it"), format!("{:.1} sweeps of this training", pass / sweep));
    Ok(())
}

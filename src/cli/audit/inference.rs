//! Membership inference: can somebody who holds a model tell the forgotten pairs from others that no model ever saw?
//!
//! Three models are trained without the held-out pairs: one *before* that has seen the forgotten ones, one that has
//! unlearned them, and one *retrained* that never saw them. The attacker scores a pair in a model; what separates the
//! forgotten from the held-out gives the forgotten away.

use std::sync::Arc;

use pulp::Arch;
use serde::Serialize;

use super::compare::predict;
use super::copy::{problem, retrained, without};
use super::progress::Steps;
use super::roc::{Estimate, Scores, auc, difference};
use super::sample::Selection;
use super::trials::{Trials, hold_out, trials};
use crate::cli::CliError;
use crate::model::als::{Half, Precision, Weights, half_sweep};
use crate::model::dictionary::Dictionary;
use crate::model::factors::{Factors, Side, Table};
use crate::model::play::Row;
use crate::model::ratings::{Builder, Ratings};
use crate::model::unlearn::Solution;
use crate::model::{Certify, Objective, Params};

/// Below this many members or controls an area says nothing.
const FEWEST: usize = 20;
/// How far the area may be from a retrain's.
pub const AREA_THRESHOLD: f64 = 0.01;

/// What the attack finds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inference {
    /// Forgotten pairs that were scored, and those held out that they were compared with.
    pub members: usize,
    pub controls: usize,
    /// Forgotten pairs without a held-out one of like popularity.
    pub unmatched: usize,
    /// Share of all pairs that was held out of the three models.
    pub held_out: f64,
    /// How a pair was scored.
    pub score: &'static str,
    pub before: Estimate,
    pub unlearned: Estimate,
    pub retrained: Estimate,
    /// Unlearned less retrained.
    pub apart: Estimate,
    pub threshold: f64,
    /// Somebody who holds the model of before and the later one, and scores by the drop.
    pub two_snapshots: TwoSnapshots,
}

/// The attack that forgetting cannot prevent: with exact retraining it is as strong.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct TwoSnapshots {
    pub unlearned: Estimate,
    pub retrained: Estimate,
}

/// Attacked, or why not.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Measured(Box<Inference>),
    NotMeasured(String),
}

/// What the attack needs to know.
pub struct Target<'a> {
    pub params: &'a Params,
    pub names: &'a Dictionary,
    /// Before anything was forgotten.
    pub ratings: &'a Ratings,
    pub before: &'a Factors,
    pub forgotten: &'a Selection,
    pub seed: u64,
}

/// What is attacked.
#[derive(Debug)]
pub struct Models {
    /// Pairs that none of them saw.
    pub held: Selection,
    pub remaining: Arc<Ratings>,
    pub before: Solution,
    pub unlearned: Solution,
    pub retrained: Solution,
    /// Share of the pairs that was held out.
    pub held_out: f64,
}

/// Trains the three models and attacks them.
///
/// # Errors
/// Exit 1 when a model cannot be solved.
pub fn attack(target: &Target<'_>, steps: &Steps) -> Result<Outcome, CliError> {
    if target.forgotten.pairs_of(target.ratings) < FEWEST {
        return Ok(too_few());
    }
    outcome(target, &train(target, steps)?)
}

/// The three models.
///
/// # Errors
/// Exit 1 when one cannot be solved.
pub fn train(target: &Target<'_>, steps: &Steps) -> Result<Models, CliError> {
    let Target { params, names, ratings, forgotten, seed, .. } = *target;
    // Nobody would read their global certificates.
    let params = &Params { certify: Certify::Residual, ..params.clone() };
    let held = hold_out(ratings, forgotten, seed);
    let with_members = Arc::new(without(ratings, |user, item| held.contains(user, item)));
    let remaining = Arc::new(without(&with_members, |user, item| forgotten.contains(user, item)));
    let changed = ratings.pairs() - with_members.pairs();
    let (before, _) =
        steps.solve("train without the held-out pairs", &problem(params, names, &with_members, Some((target.before, changed))))?;
    let gone = with_members.pairs() - remaining.pairs();
    let (unlearned, _) = steps.solve("unlearn from that", &problem(params, names, &remaining, Some((&before.factors, gone))))?;
    let fresh = retrained(params, 1);
    let (never_saw, _) = steps.solve("retrain without both", &problem(&fresh, names, &remaining, None))?;
    let held_out = changed as f64 / ratings.pairs().max(1) as f64;
    Ok(Models { held, remaining, before, unlearned, retrained: never_saw, held_out })
}

/// Scores the forgotten and the held-out pairs in each model.
///
/// # Errors
/// Exit 1 when a row cannot be solved.
pub fn outcome(target: &Target<'_>, models: &Models) -> Result<Outcome, CliError> {
    let Target { params, ratings, forgotten, seed, .. } = *target;
    let of = [&models.before, &models.unlearned, &models.retrained];
    let live =
        |pair| usable(forgotten, ratings, &models.remaining, pair) && of.iter().all(|model| scorable(forgotten, &model.factors, pair));
    let trials = trials(ratings, forgotten, &models.held, seed, live);
    if trials.members.len() < FEWEST || trials.controls.len() < FEWEST {
        return Ok(too_few());
    }
    let score = |model: &Solution| score(params, ratings, forgotten, model, &trials);
    let scores = [score(of[0])?, score(of[1])?, score(of[2])?];
    Ok(Outcome::Measured(Box::new(measured(&scores, &trials, models.held_out, how(params.objective, forgotten)))))
}

fn too_few() -> Outcome {
    Outcome::NotMeasured(format!(
        "Fewer than {FEWEST} forgotten pairs can be compared with held-out ones: take a larger --share, or --sample pairs --share 1%."
    ))
}

fn measured(scores: &[Scores; 3], trials: &Trials, held_out: f64, score: &'static str) -> Inference {
    let [before, unlearned, retrained] = scores;
    let drop = |later: &Scores| {
        let fall = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a - b).collect();
        auc(&Scores { members: fall(&before.members, &later.members), controls: fall(&before.controls, &later.controls) })
    };
    Inference {
        members: trials.members.len(),
        controls: trials.controls.len(),
        unmatched: trials.unmatched,
        held_out,
        score,
        before: auc(before),
        unlearned: auc(unlearned),
        retrained: auc(retrained),
        apart: difference(unlearned, retrained),
        threshold: AREA_THRESHOLD,
        two_snapshots: TwoSnapshots { unlearned: drop(unlearned), retrained: drop(retrained) },
    }
}

fn how(objective: Objective, forgotten: &Selection) -> &'static str {
    match (objective, forgotten) {
        (Objective::Implicit, Selection::Pairs(_)) => "the prediction",
        (Objective::Implicit, Selection::Users(_)) => "the prediction for a row of the user made from the user's other items",
        (Objective::Implicit, Selection::Items(_)) => "the prediction for a row of the item made from the item's other users",
        (Objective::Explicit, Selection::Pairs(_)) => "how close the prediction is to the rating",
        (Objective::Explicit, Selection::Users(_)) => {
            "how close the prediction for a row of the user made from the user's other ratings is to the rating"
        }
        (Objective::Explicit, Selection::Items(_)) => {
            "how close the prediction for a row of the item made from the item's other ratings is to the rating"
        }
    }
}

/// Whether a pair still means something when everything is taken out: the rows it is scored with must have data.
fn usable(forgotten: &Selection, all: &Ratings, remaining: &Ratings, (user, item): (u32, u32)) -> bool {
    let (user, item) = (user as usize, item as usize);
    match forgotten {
        Selection::Pairs(_) => remaining.users.degree(user) > 0 && remaining.items.degree(item) > 0,
        Selection::Users(_) => remaining.items.degree(item) > 0 && all.users.degree(user) > 1,
        Selection::Items(_) => remaining.users.degree(user) > 0 && all.items.degree(item) > 1,
    }
}

fn scorable(forgotten: &Selection, model: &Factors, (user, item): (u32, u32)) -> bool {
    let (user, item) = (model.users.is_live(user as usize), model.items.is_live(item as usize));
    match forgotten {
        Selection::Pairs(_) => user && item,
        Selection::Users(_) => item,
        Selection::Items(_) => user,
    }
}

/// Scores all trials in one model. Who was forgotten whole has no row in the later models: the attacker, who knows the
/// rest of what they did, makes one from it, as the service would, and leaves out the pair in question.
fn score(params: &Params, all: &Ratings, forgotten: &Selection, model: &Solution, trials: &Trials) -> Result<Scores, CliError> {
    let weights = Weights::new(params, model.mean);
    let of = |pairs: &[(u32, u32)]| -> Result<Vec<f64>, CliError> {
        let predicted = match forgotten {
            Selection::Pairs(_) => pairs.iter().map(|&(user, item)| predict(&model.factors, user, item)).collect(),
            Selection::Users(_) => {
                let trials: Vec<(u32, u32)> = pairs.to_vec();
                folded(Side::User, &all.users, &model.factors.items, &weights, &trials)?
            }
            Selection::Items(_) => {
                let trials: Vec<(u32, u32)> = pairs.iter().map(|&(user, item)| (item, user)).collect();
                folded(Side::Item, &all.items, &model.factors.users, &weights, &trials)?
            }
        };
        if params.objective == Objective::Implicit {
            return Ok(predicted);
        }
        let fit = |(&(user, item), prediction): (&(u32, u32), f64)| -(rating(all, user, item) - model.mean - prediction).abs();
        Ok(pairs.iter().zip(predicted).map(fit).collect())
    };
    Ok(Scores { members: of(&trials.members)?, controls: of(&trials.controls)? })
}

fn rating(ratings: &Ratings, user: u32, item: u32) -> f64 {
    let (items, values) = ratings.users.row(user as usize);
    items.binary_search(&item).map_or(0.0, |at| f64::from(values.at(at)))
}

/// Predictions for (row, counterpart) from a row solved from the row's other counterparts, the factors of the other
/// side held. Costs a row's solve each.
fn folded(
    side: Side,
    rows: &crate::model::ratings::Rows,
    fixed: &Table,
    weights: &Weights,
    trials: &[(u32, u32)],
) -> Result<Vec<f64>, CliError> {
    let mut builder = Builder::default();
    for (at, &(row, left_out)) in trials.iter().enumerate() {
        let (columns, values) = rows.row(row as usize);
        let others = columns.iter().zip(values).filter(|(column, _)| **column != left_out && fixed.is_live(**column as usize));
        let (columns, values): (Vec<u32>, Vec<f32>) = others.unzip();
        builder.push(at as u32, &Row { columns: columns.into(), values: values.into(), interactions: 1 });
    }
    let problem = builder.finish();
    let mut solved = Table::new(fixed.rank());
    solved.grow(trials.len());
    let half = Half { side, rows: &problem.users, fixed, weights };
    half_sweep(Arch::new(), half, Precision::Double, &mut solved, fixed.count()).map_err(CliError::failed)?;
    let dot = |(at, &(_, other)): (usize, &(u32, u32))| solved.raw(at).iter().zip(fixed.raw(other as usize)).map(|(x, y)| x * y).sum();
    Ok(trials.iter().enumerate().map(dot).collect())
}

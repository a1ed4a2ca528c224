use clap::Parser;

use super::super::ranking::Outcome;
use super::super::split::{Stage, split};
use super::super::world::tastes;
use super::*;
use crate::cli::Exit;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    space: SpaceArgs,
}

fn configured(objective: Objective) -> Params {
    Params {
        objective,
        rank: 8,
        regularization: 0.05,
        regularization_exp: 1.0,
        alpha: 1.0,
        unobserved_weight: 0.1,
        tolerance: 1e-5,
        max_sweeps: 100,
        seed: 1,
        threads: 0,
        certify: crate::model::Certify::Residual,
    }
}

fn parsed(options: &str) -> Result<SpaceArgs, clap::Error> {
    Command::try_parse_from(std::iter::once("x").chain(options.split_whitespace())).map(|command| command.space)
}

fn points(options: &str, objective: Objective) -> Result<Vec<Params>, CliError> {
    parsed(options).unwrap().points(&configured(objective), &split(&tastes(1, 30, 20), Stage::Test))
}

#[test]
fn lists_make_a_grid_and_what_has_no_list_stays() {
    assert_eq!(points("", Objective::Implicit).unwrap(), [configured(Objective::Implicit)]);
    let grid = points("--rank 4,8 --regularization 0.05,0.1 --alpha 2", Objective::Implicit).unwrap();
    let found: Vec<_> = grid.iter().map(|point| (point.rank, point.regularization, point.alpha)).collect();
    // The configured point comes first where the lists do not name it.
    assert_eq!(found, [(8, 0.05, 1.0), (4, 0.05, 2.0), (4, 0.1, 2.0), (8, 0.05, 2.0), (8, 0.1, 2.0)]);
    assert!(grid.iter().all(|point| point.unobserved_weight == 0.1 && point.regularization_exp == 1.0));
    // One named point is no search, and a point named twice is one.
    assert_eq!(points("--rank 4", Objective::Implicit).unwrap().len(), 1);
    assert_eq!(points("--rank 4,4", Objective::Implicit).unwrap().len(), 1);
}

#[test]
fn a_search_draws_the_same_points_from_the_same_seed() {
    let drawn =
        |seed: u32, trials: usize| points(&format!("--search --trials {trials} --search-seed {seed}"), Objective::Implicit).unwrap();
    assert_eq!(drawn(1, 10), drawn(1, 10));
    assert_ne!(drawn(1, 10), drawn(2, 10));
    assert!((10..=11).contains(&drawn(1, 10).len()));
    let all = drawn(1, 100_000);
    assert!(drawn(1, 10).iter().all(|point| all.contains(point)));
    assert!(points("--search", Objective::Implicit).unwrap().len() <= TRIALS + 1);
    // A list narrows a search.
    assert!(points("--search --rank 8", Objective::Implicit).unwrap().iter().all(|point| point.rank == 8));
    let explicit = points("--search --trials 100000", Objective::Explicit).unwrap();
    assert!(explicit.iter().all(|point| point.unobserved_weight == 0.1 && point.alpha == 1.0));
}

#[test]
fn built_in_strengths_weigh_all_rows_together_alike() {
    for objective in [Objective::Implicit, Objective::Explicit] {
        let part = split(&tastes(1, 30, 20), Stage::Test);
        let configured = configured(objective);
        let a0 = if objective == Objective::Implicit { 0.1 } else { 0.0 };
        // Row by row: users beside 20 items, items beside 30 users, without those that nobody has in training.
        let live = |rows: &crate::model::ratings::Rows| (0..rows.len()).map(|row| rows.degree(row)).filter(|&n| n > 0).collect::<Vec<_>>();
        let (users, items) = (live(&part.ratings.users), live(&part.ratings.items));
        let total: f64 = users.iter().map(|&n| n as f64 + a0 * items.len() as f64).sum::<f64>()
            + items.iter().map(|&n| n as f64 + a0 * users.len() as f64).sum::<f64>();
        let flat = Params { regularization_exp: 0.0, ..configured.clone() };
        let expected = 0.05 * total / (users.len() + items.len()) as f64;
        let found = strengths(&configured, &flat, &part);
        assert!(found.iter().any(|&strength| (strength / expected - 1.0).abs() < 0.06), "{found:?} {expected}");
        assert!(strengths(&configured, &configured, &part).contains(&0.05));
    }
}

#[test]
fn lists_out_of_range_are_refused() {
    for options in [
        "--rank 0",
        "--rank 1025",
        "--rank 8,",
        "--rank many",
        "--regularization 0",
        "--regularization nan",
        "--regularization inf",
        "--regularization-exp 2.5",
        "--regularization-exp -1",
        "--alpha -1",
        "--unobserved-weight 0",
        "--trials 0",
    ] {
        assert!(parsed(options).is_err(), "{options}");
    }
    assert!(Command::try_parse_from(["x", "--rank", ""]).is_err());
    for options in ["--alpha 2", "--unobserved-weight 0.5"] {
        let error = points(options, Objective::Explicit).unwrap_err();
        assert!(error.exit == Exit::Usage && error.message.contains("explicit"), "{}", error.message);
    }
    let many = (1..=200).map(|rank| rank.to_string()).collect::<Vec<_>>().join(",");
    let error = points(&format!("--rank {many} --regularization {many}"), Objective::Implicit).unwrap_err();
    assert!(error.exit == Exit::Usage && error.message.contains("40 000 points"), "{}", error.message);
}

/// Finds the first `found` of ten users, each in first place.
fn trial(found: usize, effective_rank: Option<usize>, residual: f64) -> Trial {
    let outcome = |at| Outcome { place: (at < found).then_some(1), error: Some(10.0 - found as f64) };
    let facts = Facts { effective_rank, binds: effective_rank == Some(8), sweeps: 1, residual, tolerance: 1e-5, seconds: 0.0 };
    Trial { params: configured(Objective::Implicit), facts, ranking: Ranking { outcomes: (0..10).map(outcome).collect(), coverage: 1.0 } }
}

#[test]
fn the_best_is_the_best_of_those_that_may_be_chosen() {
    let trials =
        [trial(3, Some(7), 1e-6), trial(5, Some(7), 1e-6), trial(5, Some(2), 1e-6), trial(9, Some(8), 1e-6), trial(8, Some(7), 1e-4)];
    let sound = |trial: &Trial| trial.facts.sound();
    assert_eq!(best(Metric::Recall, &trials, sound), Some(1), "of equal ones the first; 9 binds, 8 has not converged");
    assert_eq!(best(Metric::Rmse, &trials, sound), Some(1), "less is better");
    assert_eq!(best(Metric::Ndcg, &trials, |_| true), Some(3));
    assert_eq!(best(Metric::Ndcg, &trials[3..], sound), None);
}

#[test]
fn noise_is_what_the_users_differ_by() {
    let ranking = |found| trial(found, Some(1), 0.0).ranking;
    assert!(within_noise(Metric::Recall, &ranking(5), &ranking(5)));
    assert!(within_noise(Metric::Recall, &ranking(5), &ranking(4)));
    assert!(!within_noise(Metric::Recall, &ranking(9), &ranking(1)));
    assert!(within_noise(Metric::Recall, &ranking(1), &ranking(9)), "better than the best that may be chosen");
}

use super::super::ranking::Outcome;
use super::*;

fn params(objective: Objective) -> Params {
    Params {
        objective,
        rank: 8,
        regularization: 0.05,
        regularization_exp: 1.0,
        alpha: 2.0,
        unobserved_weight: 0.1,
        tolerance: 1e-5,
        max_sweeps: 100,
        seed: 1,
        threads: 0,
        certify: crate::model::Certify::Residual,
    }
}

fn ranking(found: usize, error: Option<f64>) -> Ranking {
    let outcome = |at| Outcome { place: (at < found).then_some(1), error };
    Ranking { outcomes: (0..100).map(outcome).collect(), coverage: 0.25 }
}

fn facts(effective_rank: usize, residual: f64) -> Facts {
    Facts { effective_rank: Some(effective_rank), binds: effective_rank == 8, sweeps: 12, residual, tolerance: 1e-5, seconds: 1.25 }
}

#[test]
fn lines_are_sorted_marked_and_complete() {
    let params = params(Objective::Implicit);
    let rankings = [ranking(20, None), ranking(50, None), ranking(49, None), ranking(60, None), ranking(10, None)];
    let facts = [facts(5, 1e-6), facts(6, 1e-6), facts(4, 1e-6), facts(8, 1e-6), facts(3, 1e-3)];
    let mut lines: Vec<_> =
        rankings.iter().zip(&facts).map(|(ranking, facts)| Line { name: "als", model: Some((&params, facts)), ranking }).collect();
    let popular = ranking(30, None);
    lines.push(Line { name: "popularity", model: None, ranking: &popular });
    let board = Board::new(Metric::Recall, Objective::Implicit, &rankings[1], lines);
    let text = board.table().render(false);
    let starts: Vec<&str> = text.lines().map(|line| line.trim_end()).collect();
    assert!(starts[0].starts_with("      model       rank  in use  λ     ν  α  a0"), "{text}");
    assert!(starts[1].starts_with("      als         8     binds"), "{text}");
    assert!(starts[2].starts_with("best  als         8     6       0.05  1  2  0.1  0.5000 ± 0.0985"), "{text}");
    assert!(starts[3].starts_with("≈     als") && starts[3].ends_with("0.0100 ± 0.0196"), "{text}");
    assert!(starts[4].starts_with("      popularity") && starts[4].ends_with("0.2000 ± 0.0788"), "{text}");
    assert!(starts[5].starts_with("      als") && starts[6].contains("12 open"), "{text}");
    let json = board.json();
    assert_eq!(json[1]["best"], true);
    assert_eq!(
        json[1]["model"],
        json!({"rank": 8, "regularization": 0.05, "regularization_exp": 1.0, "alpha": 2.0, "unobserved_weight": 0.1})
    );
    assert_eq!((&json[0]["rank_binds"], &json[5]["converged"], &json[1]["rmse"]), (&json!(true), &json!(false), &Value::Null));
    assert_eq!((&json[3]["name"], &json[3]["recall"]["value"], &json[3]["model"]), (&json!("popularity"), &json!(0.3), &Value::Null));
}

#[test]
fn ratings_are_sorted_by_error_and_what_only_ranks_comes_last() {
    let params = params(Objective::Explicit);
    let (good, bad, popular) = (ranking(1, Some(1.0)), ranking(9, Some(-2.0)), ranking(50, None));
    let facts = facts(5, 1e-6);
    let line = |ranking| Line { name: "als", model: Some((&params, &facts)), ranking };
    let lines = vec![Line { name: "popularity", model: None, ranking: &popular }, line(&bad), line(&good)];
    let board = Board::new(Metric::Rmse, Objective::Explicit, &good, lines);
    let text = board.table().render(false);
    let starts: Vec<&str> = text.lines().collect();
    assert!(starts[0].starts_with("      model       rank  in use  λ     ν  rmse"), "{text}");
    assert!(starts[1].starts_with("best  als         8     5       0.05  1  1.0000 ± 0.0000"), "{text}");
    assert!(starts[2].ends_with("1.0000 ± 0.0000") && starts[3].starts_with("      popularity                         –"), "{text}");
    assert_eq!(board.json()[0]["model"], json!({"rank": 8, "regularization": 0.05, "regularization_exp": 1.0}));
}

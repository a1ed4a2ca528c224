use super::*;

fn outcomes(places: &[Option<usize>]) -> Vec<Outcome> {
    places.iter().map(|&place| Outcome { place, error: None }).collect()
}

fn errors(errors: &[f64]) -> Vec<Outcome> {
    errors.iter().map(|&error| Outcome { place: None, error: Some(error) }).collect()
}

fn close(a: Option<Estimate>, value: f64, margin: f64) {
    let a = a.unwrap();
    assert!((a.value - value).abs() < 1e-12 && (a.margin - margin).abs() < 1e-9, "{a:?}, expected {value} ± {margin}");
}

#[test]
fn values_are_those_computed_by_hand() {
    // Places 1, 3, none and 7.
    let four = outcomes(&[Some(1), Some(3), None, Some(7)]);
    // Deviations of 1, 1, 0, 1 from 3/4: variance (3/16 + 9/16) / 3 = 1/4, standard error 1/4.
    close(estimate(Metric::Recall, &four), 0.75, Z95 / 4.0);
    // log2(2) = 1, log2(4) = 2, log2(8) = 3: gains 1, 1/2, 0, 1/3, mean 11/24.
    let spread = |gains: [f64; 4], mean: f64| (gains.iter().map(|gain| (gain - mean).powi(2)).sum::<f64>() / 3.0 / 4.0).sqrt();
    close(estimate(Metric::Ndcg, &four), 11.0 / 24.0, Z95 * spread([1.0, 0.5, 0.0, 1.0 / 3.0], 11.0 / 24.0));
    let mean = (1.0 + 1.0 / 3.0 + 1.0 / 7.0) / 4.0;
    close(estimate(Metric::Mrr, &four), mean, Z95 * spread([1.0, 1.0 / 3.0, 0.0, 1.0 / 7.0], mean));
    assert_eq!(estimate(Metric::Rmse, &four), None, "nothing was said of ratings");
    // Squares 1, 9, 25 and 1: mean 9, root 3; the interval of 9 over 2 · 3.
    let squares = spread([1.0, 9.0, 25.0, 1.0], 9.0);
    close(estimate(Metric::Rmse, &errors(&[1.0, -3.0, 5.0, -1.0])), 3.0, Z95 * squares / 6.0);
}

#[test]
fn little_data_is_not_sure_of_anything() {
    assert_eq!(estimate(Metric::Recall, &[]), None);
    let one = estimate(Metric::Recall, &outcomes(&[Some(2)])).unwrap();
    assert_eq!((one.value, one.margin), (1.0, f64::INFINITY));
    close(estimate(Metric::Rmse, &errors(&[0.0, 0.0])), 0.0, 0.0);
}

#[test]
fn differences_are_taken_user_by_user() {
    let best = outcomes(&[Some(1), Some(2), None, None]);
    // What is equal for every user is certain, however much users differ.
    close(behind(Metric::Recall, &best, &best), 0.0, 0.0);
    // One user less: differences 0, 1, 0, 0; variance (9/16 + 3/16) / 3 = 1/4.
    close(behind(Metric::Recall, &best, &outcomes(&[Some(1), None, None, None])), 0.25, Z95 / 4.0);
    close(behind(Metric::Recall, &best, &outcomes(&[Some(1), Some(9), Some(1), None])), -0.25, Z95 / 4.0);
    // Roots 1 and 3: behind by 2, whichever side is asked.
    let (good, bad) = (errors(&[1.0, 1.0]), errors(&[3.0, -3.0]));
    close(behind(Metric::Rmse, &good, &bad), 2.0, 0.0);
    close(behind(Metric::Rmse, &bad, &good), -2.0, 0.0);
    close(behind(Metric::Rmse, &errors(&[0.0, 0.0]), &errors(&[0.0, 0.0])), 0.0, 0.0);
    assert_eq!(behind(Metric::Rmse, &good, &outcomes(&[None, None])), None);
}

/// The normal interval holds the true value about as often as it says, on draws whose truth is known.
#[test]
fn intervals_hold_what_they_promise() {
    let mut rng = crate::cli::demo::rng::Rng::new(7);
    let trials = 2000;
    let held = (0..trials)
        .filter(|_| {
            let places: Vec<_> = (0..400).map(|_| (rng.unit() < 0.3).then_some(1)).collect();
            let found = estimate(Metric::Recall, &outcomes(&places)).unwrap();
            (found.value - 0.3).abs() <= found.margin
        })
        .count();
    // 95 % of 2,000 is 1,900, five standard deviations are 49.
    assert!((1851..1949).contains(&held), "{held}");
}

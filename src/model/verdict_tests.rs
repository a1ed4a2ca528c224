use super::*;
use crate::model::Objective;
use crate::model::dense::{OBJECTIVES, cold, params, solved, world};
use crate::model::receipt::Certificate;
use crate::model::unlearn::Unwatched;

fn global(objective: Objective, exponent: f64) -> Params {
    Params { certify: Certify::Global, ..params(objective, exponent) }
}

#[test]
fn a_rank_that_binds_is_refused_and_each_remedy_works() {
    let ratings = world(48, 40);
    for objective in OBJECTIVES {
        for (exponent, rank) in [(0.0, 2), (1.0, 2), (1.0, 4)] {
            let params = Params { rank, ..global(objective, exponent) };
            let solution = solved(&params, &ratings);
            let refused = solution.verdict.as_ref().and_then(|verdict| verdict.refused);
            let Some(NotCertifiable::RankBinds { sigma, remedy, .. }) = refused else { panic!("{objective:?}, {exponent}: {refused:?}") };
            assert!(solution.rank_binds && sigma > 1.001, "{sigma}");
            let (Some(wider), Some(lambda)) = (remedy.rank, remedy.regularization) else { panic!("{remedy:?}") };
            assert!(wider > rank && lambda > params.regularization, "{remedy:?}");
            for params in [Params { rank: wider, ..params.clone() }, Params { regularization: lambda, ..params.clone() }] {
                let mended = solved(&params, &ratings);
                assert!(mended.verdict.as_ref().is_some_and(|verdict| verdict.refused.is_none()), "{objective:?}, {exponent}: {mended:?}");
            }
            // Not much less would do.
            let less = solved(&Params { regularization: lambda / CLOSE / 1.02, ..params }, &ratings);
            assert!(less.rank_binds, "{objective:?}, {exponent}, {lambda}: {:?}", less.sigma);
        }
    }
}

#[test]
fn what_a_refusal_says() {
    let ratings = world(48, 40);
    let params = Params { rank: 2, ..global(Objective::Implicit, 1.0) };
    let solution = solved(&params, &ratings);
    let certificate = Certificate::of(&solution, params.tolerance, 0.1);
    let refused = certificate.refused.unwrap();
    for part in ["not certifiable: the rank binds (σ = 1.", "with all 2 directions in use", "model.rank = ", "model.regularization = "] {
        assert!(refused.contains(part), "{refused}");
    }
    assert!(certificate.warning.is_some_and(|warning| warning.contains("two retrains may differ")));
    assert_eq!((certificate.certified, certificate.rank_binds), (Some(Certify::Residual), true));
    assert!(certificate.gap > Some(0.0) && certificate.sigma_bound > Some(1.0));
}

/// The gap of factors at the tolerance alone is above a millionth of the objective.
#[test]
fn factors_converge_until_the_proof_is_had() {
    let ratings = world(48, 40);
    for objective in OBJECTIVES {
        for exponent in [0.0, 0.5, 1.0] {
            let params = Params { tolerance: 1e-2, ..global(objective, exponent) };
            let plain = solved(&Params { certify: Certify::Residual, ..params.clone() }, &ratings);
            let proven = solved(&params, &ratings);
            let certificate = Certificate::of(&proven, params.tolerance, 0.1);
            assert!(proven.sweeps > plain.sweeps, "{} {}", proven.sweeps, plain.sweeps);
            assert!(certificate.gap <= Some(GAP * certificate.objective), "{objective:?}, {exponent}: {certificate:?}");
            assert_eq!((certificate.certified, certificate.refused, certificate.warning), (Some(Certify::Global), None, None));
        }
    }
}

#[test]
fn a_model_that_goes_on_needs_no_trials() {
    let ratings = world(48, 40);
    let params = Params { rank: 2, ..global(Objective::Implicit, 1.0) };
    let factors = solved(&params, &ratings).factors;
    let problem = Problem { previous: Some(Arc::new(factors)), initial: Vec::new(), ..cold(&params, &ratings) };
    let refused = solve(Arch::new(), &problem, &Unwatched).unwrap().verdict.unwrap().refused;
    assert!(matches!(refused, Some(NotCertifiable::RankBinds { remedy, .. }) if remedy == Remedy::default()), "{refused:?}");
    assert!(refused.unwrap().to_string().ends_with("raise model.rank or model.regularization"));
}

#[test]
fn an_unfinished_solve_has_no_verdict() {
    let params = Params { max_sweeps: 3, ..global(Objective::Implicit, 1.0) };
    let solution = solved(&params, &world(48, 40));
    let certificate = Certificate::of(&solution, params.tolerance, 0.1);
    assert_eq!((solution.verdict, certificate.certified, certificate.gap), (None, None, None));
}

#[test]
fn a_remedy_is_rounded_up() {
    assert_eq!([0.123_41, 0.05, 7.0, 1234.5, 0.099_96].map(rounded_up), [0.124, 0.05, 7.0, 1240.0, 0.1]);
}

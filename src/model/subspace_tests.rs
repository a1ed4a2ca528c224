use super::*;
use crate::model::als::Weights;
use crate::model::dense::{OBJECTIVES, cold, params, solved, world};
use crate::model::escape::scales;
use crate::model::factors::Side;
use crate::model::unlearn::{Problem, Unwatched, solve};
use crate::model::{Objective, Params};

fn wide(objective: Objective) -> Params {
    Params { rank: 40, ..params(objective, 1.0) }
}

/// What differs at most, relative to the largest number.
fn apart(a: &Factors, b: &Factors) -> f64 {
    let of = |side| a.side(side).values().iter().zip(b.side(side).values()).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
    let size = b.users.values().iter().chain(b.items.values()).fold(0.0, |size: f64, x| size.max(x.abs()));
    Side::BOTH.map(of).into_iter().fold(0.0, f64::max) / size
}

#[test]
fn collapsed_directions_are_left_out_and_nothing_else() {
    for objective in OBJECTIVES {
        let (params, ratings) = (wide(objective), world(60, 40));
        let solution = solved(&params, &ratings);
        let used = solution.effective_rank.unwrap();
        assert!((1..=12).contains(&used), "{objective:?}: {used}");
        let scales = scales(&ratings, &solution.factors, &Weights::new(&params, solution.mean));
        let subspace = Subspace::of(Arch::new(), &solution.factors, &scales).unwrap();
        assert_eq!(subspace.width(), 16);
        let narrow = subspace.narrowed(&solution.factors);
        assert_eq!((narrow.users.rank(), narrow.users.count()), (16, solution.factors.users.count()));
        assert_eq!(narrow.items.row(5), None, "a row that is not there stays away");
        let wide = subspace.widened(&narrow);
        assert!(apart(&wide, &solution.factors) < 1e-5, "{}", apart(&wide, &solution.factors));
        // Once more loses nothing: they are in there.
        assert!(apart(&subspace.widened(&subspace.narrowed(&wide)), &wide) < 1e-14);
    }
}

#[test]
fn what_is_in_use_is_not_left_out() {
    let (params, ratings) = (wide(Objective::Implicit), world(60, 40));
    let mut factors = solved(&params, &ratings).factors;
    // Every direction, as a first value has it.
    for side in Side::BOTH {
        factors.side_mut(side).values_mut().iter_mut().enumerate().for_each(|(at, x)| *x += 0.1 * ((at * at + 3 * at) as f64).sin());
    }
    let scales = scales(&ratings, &factors, &Weights::new(&params, 0.0));
    assert!(Subspace::of(Arch::new(), &factors, &scales).is_none());
    let nothing = Factors::new(40);
    assert!(Subspace::of(Arch::new(), &nothing, &[Vec::new(), Vec::new()]).is_none());
    let small = solved(&Params { rank: 16, ..params.clone() }, &ratings).factors;
    assert!(Subspace::of(Arch::new(), &small, &scales).is_none(), "nothing would be saved");
}

#[test]
fn threads_do_not_show() {
    let (params, ratings) = (wide(Objective::Implicit), world(300, 90));
    let trained = solved(&params, &ratings);
    let remaining = world(290, 90);
    let problem = Problem { previous: Some(std::sync::Arc::new(trained.factors)), initial: Vec::new(), ..cold(&params, &remaining) };
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| solve(Arch::new(), &problem, &Unwatched).unwrap())
    };
    let (one, three) = (with(1), with(3));
    assert!(one.sweeps > 0);
    assert_eq!(one.factors, three.factors);
}

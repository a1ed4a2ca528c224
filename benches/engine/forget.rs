//! Forgetting against training anew: sweeps to the optimum of the data that is left, warm and cold, accelerated and plain.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use nepenthe::model::als::Weights;
use nepenthe::model::certificate::at_zero;
use nepenthe::model::factors::{Factors, Side, initial_row};
use nepenthe::model::local::{self, Base, Step};
use nepenthe::model::play::Row;
use nepenthe::model::ratings::{Change, Ratings, Refresh};
use nepenthe::model::unlearn::{DEPTH, Problem, Solution, Watch, solve_with};
use nepenthe::model::{Objective, Params};
use pulp::Arch;

use crate::support::distance;
use crate::support::report::{Report, timed};
use crate::support::world::Random;

/// Relative gaps of the objective that sweeps are counted to.
const GAPS: [f64; 3] = [1e-4, 1e-6, 1e-8];

/// Data, and how exactly it is to be looked at.
pub struct World {
    pub params: Params,
    pub ratings: Arc<Ratings>,
    /// Residual of the solves whose objective counts as the optimum.
    pub reference: f64,
    /// Sweeps after which plain alternation is given up.
    pub plain: u32,
    /// All cases, each against a retrain; else an average user and 1 % only.
    pub all: bool,
    /// Whether what the engine must reach is asked here.
    pub asked: bool,
}

/// What was seen after a half-sweep.
#[derive(Clone, Copy)]
struct Point {
    /// Half-sweeps done, by two.
    sweeps: f64,
    seconds: f64,
    value: f64,
}

/// Writes down the objective and the residual on the way, and ends the solve once it is near enough.
struct Recorder {
    began: Instant,
    /// What the solver's objective lacks.
    constant: f64,
    stop: f64,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    halves: u32,
    objectives: Vec<Point>,
    residuals: Vec<Point>,
}

impl Recorder {
    fn note(&self, value: f64, list: fn(&mut Seen) -> &mut Vec<Point>) {
        let mut seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        seen.halves += 1;
        let point = Point { sweeps: f64::from(seen.halves) / 2.0, seconds: self.began.elapsed().as_secs_f64(), value };
        list(&mut seen).push(point);
    }
}

impl Watch for Recorder {
    fn swept(&self, _: u32, residual: f64) {
        self.note(residual, |seen| &mut seen.residuals);
    }

    fn eliminated(&self, objective: f64, _: f64) {
        self.note(objective + self.constant, |seen| &mut seen.objectives);
    }

    fn cancelled(&self) -> bool {
        let seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        seen.objectives.last().is_some_and(|last| last.value <= self.stop)
    }
}

/// A solve and its way.
struct Path {
    solution: Solution,
    objectives: Vec<Point>,
    residuals: Vec<Point>,
}

impl Path {
    /// Sweeps to each of the gaps, "–" where one was not reached.
    fn gaps(&self, optimum: f64) -> [Option<f64>; 3] {
        let reached = |gap: f64| self.objectives.iter().find(|point| point.value - optimum <= gap * optimum);
        GAPS.map(|gap| reached(gap).map(|point| point.sweeps))
    }

    fn objective(&self) -> f64 {
        self.solution.measured.objective
    }

    fn sweep_seconds(&self) -> f64 {
        self.residuals.last().map_or(f64::NAN, |last| last.seconds / last.sweeps)
    }

    /// The first sweep that found every residual below the tolerance.
    fn certified(&self, tolerance: f64) -> Option<Point> {
        self.residuals.iter().find(|point| point.value <= tolerance).copied()
    }
}

fn in_words(gaps: [Option<f64>; 3], limit: u32) -> String {
    gaps.map(|sweeps| sweeps.map_or(format!("> {limit}"), |sweeps| sweeps.to_string())).join(" / ")
}

/// How a solve is made.
struct How<'a> {
    previous: Option<&'a Arc<Factors>>,
    depth: usize,
    tolerance: f64,
    max_sweeps: u32,
    /// Ends at this objective.
    stop: f64,
}

fn solve(params: &Params, ratings: &Arc<Ratings>, how: How<'_>) -> Result<Path, String> {
    let params = Params { tolerance: how.tolerance, max_sweeps: how.max_sweeps, ..params.clone() };
    let lacks = |item: &usize| ratings.items.degree(*item) > 0 && !how.previous.is_some_and(|factors| factors.items.is_live(*item));
    let first = |item: usize| (item as u32, initial_row(params.seed, Side::Item, &item.to_string(), params.rank));
    let initial = (0..ratings.items.len()).filter(lacks).map(first).collect();
    let weights = Weights::new(&params, ratings.mean());
    let problem = Problem { params, ratings: ratings.clone(), previous: how.previous.cloned(), initial };
    let recorder = Recorder { began: Instant::now(), constant: at_zero(ratings, &weights), stop: how.stop, seen: Mutex::default() };
    let solution = solve_with(Arch::new(), &problem, how.depth, &recorder).map_err(|e| e.to_string())?;
    let Seen { objectives, residuals, .. } = recorder.seen.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    Ok(Path { solution, objectives, residuals })
}

/// Something to forget: the users' rows that are left of it.
struct Case {
    name: String,
    rows: Vec<(u32, Row)>,
    few: bool,
}

fn without(ratings: &Ratings, user: usize, mut gone: impl FnMut(u32) -> bool) -> (u32, Row) {
    let (columns, values) = ratings.users.row(user);
    let (columns, values): (Vec<u32>, Vec<f32>) = columns.iter().zip(values).filter(|(item, _)| !gone(**item)).unzip();
    (user as u32, Row { interactions: columns.len() as u32, columns: columns.into(), values: values.into() })
}

/// A user of average size, the heaviest, the most popular item for everybody, and 1 % of all pairs.
fn cases(ratings: &Ratings) -> Vec<Case> {
    let users = ratings.users.len();
    let mean = ratings.pairs() as usize / users;
    let average = (0..users).min_by_key(|&user| ratings.users.degree(user).abs_diff(mean)).unwrap_or(0);
    let heavy = (0..users).max_by_key(|&user| ratings.users.degree(user)).unwrap_or(0);
    let popular = (0..ratings.items.len()).max_by_key(|&item| ratings.items.degree(item)).unwrap_or(0);
    let whole = |user: usize| vec![without(ratings, user, |_| true)];
    let of_item = ratings.items.row(popular).0.iter().map(|&user| without(ratings, user as usize, |item| item as usize == popular));
    let mut random = Random::new(7);
    let mut share = BTreeMap::new();
    for user in 0..users {
        let left = without(ratings, user, |_| random.below(100) == 0);
        if left.1.columns.len() < ratings.users.degree(user) {
            share.insert(user, left.1);
        }
    }
    let case = |name: String, rows, few| Case { name, rows, few };
    vec![
        case(format!("an average user ({} pairs)", ratings.users.degree(average)), whole(average), true),
        case(format!("the heaviest user ({})", ratings.users.degree(heavy)), whole(heavy), false),
        case(format!("the most popular item ({})", ratings.items.degree(popular)), of_item.collect(), false),
        case("1 % of all pairs".to_owned(), share.into_iter().map(|(user, row)| (user as u32, row)).collect(), true),
    ]
}

/// Learns the world, then forgets each case and trains anew without it.
pub fn run(report: &mut Report, world: &World) -> Result<(), String> {
    let World { params, ratings, .. } = world;
    let cold = |tolerance| How { previous: None, depth: DEPTH, tolerance, max_sweeps: 20_000, stop: f64::NEG_INFINITY };
    let base = solve(params, ratings, cold(world.reference))?;
    let optimum = base.solution.measured.objective;
    let rank = base.solution.effective_rank.map_or("?".to_owned(), |rank| rank.to_string());
    report.say("effective rank of the optimum", format!("{rank} of {}", params.rank));
    let reached = base.gaps(optimum);
    let plain =
        solve(params, ratings, How { depth: 0, max_sweeps: world.plain, stop: optimum * (1.0 + GAPS[2]), ..cold(1e-12) })?.gaps(optimum);
    let holds = reached[2].is_some_and(|sweeps| sweeps <= 80.0);
    let gaps = "sweeps to a gap of 1e-4 / 1e-6 / 1e-8";
    report.hold_if(world.asked, format!("from scratch: {gaps}"), in_words(reached, 20_000), "the last ≤ 80", holds);
    report.say("from scratch, plain alternation", in_words(plain, world.plain));
    let factors = Arc::new(base.solution.factors);
    for case in cases(ratings).into_iter().filter(|case| world.all || case.few) {
        forget(report, world, &factors, case)?;
    }
    Ok(())
}

fn forget(report: &mut Report, world: &World, before: &Arc<Factors>, case: Case) -> Result<(), String> {
    let World { params, reference, .. } = world;
    let mut refresh = Refresh::new(world.ratings.clone());
    case.rows.into_iter().for_each(|(user, row)| refresh.put(user, row));
    let (left, changes) = refresh.finish();
    let changes = changes.listed().ok_or("more changed than a step looks at")?;
    let name = &case.name;
    let (average, one_percent) = (name.starts_with("an average"), name.starts_with("1 %"));
    let step = interim(world, before, &left, changes)?;
    let how = |previous, depth| How { previous, depth, tolerance: *reference, max_sweeps: 20_000, stop: f64::NEG_INFINITY };
    let warm = solve(params, &left, how(Some(&step.factors), DEPTH))?;
    let cold = if world.all || one_percent { Some(solve(params, &left, how(None, DEPTH))?) } else { None };
    let best = cold.as_ref().filter(|cold| cold.objective() < warm.objective()).unwrap_or(&warm);
    let optimum = best.objective();

    let time = step.seconds / best.sweep_seconds();
    let figure = format!("{:.3} % of flops, {:.3} % of time", 100.0 * step.share, 100.0 * time);
    report.hold_if(world.asked && average, format!("{name}: local step, of a sweep"), figure, "≤ 0.1 %", step.share <= 1e-3);
    let apart = distance::relative(&step.factors, &best.solution.factors).rms;
    let what = format!("{name}: after it, relative RMS from the optimum");
    report.hold_if(world.asked && average, what, format!("{apart:.1e}"), "≤ 1e-4", apart <= 1e-4);

    let reached = warm.gaps(optimum);
    let (what, figure) = (format!("{name}: sweeps to the gaps"), in_words(reached, 20_000));
    match (average, one_percent) {
        (true, _) => report.hold_if(world.asked, what, figure, "the second ≤ 3", reached[1].is_some_and(|sweeps| sweeps <= 3.0)),
        (_, true) => report.hold_if(world.asked, what, figure, "the last ≤ 35", reached[2].is_some_and(|sweeps| sweeps <= 35.0)),
        _ => report.say(what, figure),
    }
    if world.all || one_percent {
        let stop = optimum * (1.0 + GAPS[2]);
        let how = How { tolerance: 1e-12, max_sweeps: world.plain, stop, ..how(Some(&step.factors), 0) };
        report.say(format!("{name}: plain alternation"), in_words(solve(params, &left, how)?.gaps(optimum), world.plain));
    }
    let Some(cold) = cold else { return Ok(()) };
    report.say(format!("{name}: trained anew"), in_words(cold.gaps(optimum), 20_000));
    if let (Some(forgot), Some(anew)) = (warm.certified(params.tolerance), cold.certified(params.tolerance)) {
        let figure = format!("{} : {}, time 1 : {:.1}", forgot.sweeps, anew.sweeps, anew.seconds / forgot.seconds);
        report.say(format!("{name}: to the certificate {:.0e}, forget : anew", params.tolerance), figure);
    }
    let apart = distance::relative(&warm.solution.factors, &cold.solution.factors);
    report.say(format!("{name}: predictions of the two, relative RMS apart"), format!("{:.1e}", apart.rms));
    Ok(())
}

/// Factors after the local step.
struct Interim {
    factors: Arc<Factors>,
    seconds: f64,
    /// Floating-point operations as a share of a sweep.
    share: f64,
}

fn interim(world: &World, before: &Factors, left: &Ratings, changes: &[Change]) -> Result<Interim, String> {
    let params = &world.params;
    let mean = if params.objective == Objective::Explicit { world.ratings.mean() } else { 0.0 };
    // A certified generation keeps it: it is not part of the step.
    let base = Base::of(Arch::new(), before, mean);
    let step = Step { params, ratings: left, before, base: &base, changes, initial: &[] };
    let (stepped, seconds) = timed(|| local::step(step));
    let stepped = stepped.map_err(|e| e.to_string())?;
    let mut factors = before.clone();
    stepped.apply(&mut factors);
    Ok(Interim { factors: Arc::new(factors), seconds, share: stepped.flops / local::sweep_flops(left, params.rank) })
}

//! The points of a search: which values the options name, which are tried, and which of them is best.

use clap::Args;

use super::data::hash;
use super::metrics::{Metric, behind, estimate};
use super::model::Facts;
use super::ranking::Ranking;
use super::split::Part;
use crate::cli::{CliError, output};
use crate::model::{Objective, Params};

/// Points that a search with built-in lists tries unless told otherwise.
pub const TRIALS: usize = 40;

/// Points that lists may make together.
const MOST: usize = 10_000;
/// Built-in λ beside the strength of the configured one.
const FACTORS: [f64; 8] = [0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8];

/// Values to try, comma separated; the configured one where no list is given.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Search")]
pub struct SpaceArgs {
    /// Try built-in lists for what no list is given, scaled to the configured values
    #[arg(long)]
    pub search: bool,
    /// Ranks, such as 32,64
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = rank)]
    rank: Vec<usize>,
    /// λ
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = above_zero)]
    regularization: Vec<f64>,
    /// ν, 0 to 2
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = exponent)]
    regularization_exp: Vec<f64>,
    /// α, implicit only
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = at_least_zero)]
    alpha: Vec<f64>,
    /// a0, implicit only
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = above_zero)]
    unobserved_weight: Vec<f64>,
    /// Try so many of the points, drawn by --search-seed [default: 40 with --search, else all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    trials: Option<u32>,
    /// Decides which points are drawn
    #[arg(long, value_name = "S", default_value_t = 1)]
    search_seed: u64,
}

fn number(text: &str, bound: fn(f64) -> bool, expected: &str) -> Result<f64, String> {
    text.trim().parse().ok().filter(|&x: &f64| x.is_finite() && bound(x)).ok_or_else(|| format!("it must be {expected}"))
}

fn above_zero(text: &str) -> Result<f64, String> {
    number(text, |x| x > 0.0, "a number above 0")
}

fn at_least_zero(text: &str) -> Result<f64, String> {
    number(text, |x| x >= 0.0, "a number of at least 0")
}

fn exponent(text: &str) -> Result<f64, String> {
    number(text, |x| (0.0..=2.0).contains(&x), "a number from 0 to 2")
}

fn rank(text: &str) -> Result<usize, String> {
    let within = text.trim().parse().ok().filter(|rank| (1..=1024).contains(rank));
    within.ok_or_else(|| "it must be an integer from 1 to 1024".to_owned())
}

impl SpaceArgs {
    /// The points to try, the configured one first among them if there is a choice at all.
    ///
    /// # Errors
    /// Exit 2 for lists that the objective does not know.
    pub fn points(&self, configured: &Params, part: &Part) -> Result<Vec<Params>, CliError> {
        let explicit = configured.objective == Objective::Explicit;
        for (name, list) in [("--alpha", &self.alpha), ("--unobserved-weight", &self.unobserved_weight)] {
            if explicit && !list.is_empty() {
                return Err(CliError::usage(format!("{name} has no meaning for the explicit objective; leave it out")));
            }
        }
        let ranks = list(&self.rank, self.search.then_some(&[32, 64, 128][..]), configured.rank);
        let exponents = list(&self.regularization_exp, self.search.then_some(&[1.0, 0.5, 0.0][..]), configured.regularization_exp);
        let alphas = list(&self.alpha, None, configured.alpha);
        // α, a0 and λ times one number are the same model: α stays, the others move.
        let built_in = [0.01, 0.03, 0.1, 0.3, 1.0].map(|share| share * configured.alpha.max(f64::MIN_POSITIVE));
        let unobserved = list(&self.unobserved_weight, (self.search && !explicit).then_some(&built_in[..]), configured.unobserved_weight);
        let strengths_each = if self.regularization.is_empty() && self.search { FACTORS.len() } else { self.regularization.len().max(1) };
        let count =
            [ranks.len(), exponents.len(), alphas.len(), unobserved.len(), strengths_each].iter().fold(1usize, |a, &b| a.saturating_mul(b));
        if count > MOST {
            let (count, most) = (output::plural(count as u64, "point"), output::count(MOST as u64));
            return Err(CliError::usage(format!("the lists make {count}, more than {most}; shorten them")));
        }
        let mut points = Vec::new();
        for &rank in &ranks {
            for &regularization_exp in &exponents {
                for &alpha in &alphas {
                    for &unobserved_weight in &unobserved {
                        let point = Params { rank, regularization_exp, alpha, unobserved_weight, ..configured.clone() };
                        let built_in = self.search.then(|| strengths(configured, &point, part));
                        let strengths = list(&self.regularization, built_in.as_deref(), configured.regularization);
                        points.extend(strengths.into_iter().map(|regularization| Params { regularization, ..point.clone() }));
                    }
                }
            }
        }
        let trials = self.trials.map(|trials| trials as usize).or(self.search.then_some(TRIALS));
        let mut points = drawn(points, trials.unwrap_or(usize::MAX), self.search_seed);
        // What is in use is always among the candidates, so that the table says what a change would bring.
        if points.len() > 1 && !points.contains(configured) {
            points.insert(0, configured.clone());
        }
        Ok(points)
    }
}

fn list<T: Copy>(given: &[T], built_in: Option<&[T]>, configured: T) -> Vec<T> {
    match (given, built_in) {
        ([], Some(built_in)) => built_in.to_vec(),
        ([], None) => vec![configured],
        (given, _) => given.to_vec(),
    }
}

/// Built-in λ of a point: a geometric row around the configured strength, in which the weights of all rows together stay
/// what they are there when ν or a0 change.
///
/// Source: the rescaling of Rendle et al., *Revisiting the Performance of iALS on Item Recommendation Benchmarks*,
/// RecSys 2022, sect. 3.2.
fn strengths(configured: &Params, point: &Params, part: &Part) -> Vec<f64> {
    let weight = |params: &Params| {
        let a0 = if params.objective == Objective::Explicit { 0.0 } else { params.unobserved_weight };
        let side = |rows: &crate::model::ratings::Rows| {
            let degrees: Vec<usize> = (0..rows.len()).map(|row| rows.degree(row)).filter(|&n| n > 0).collect();
            (degrees.len(), degrees)
        };
        let ((users, by_user), (items, by_item)) = (side(&part.ratings.users), side(&part.ratings.items));
        let sum = |degrees: &[usize], others: usize| -> f64 {
            degrees.iter().map(|&n| (n as f64 + a0 * others as f64).powf(params.regularization_exp)).sum()
        };
        sum(&by_user, items) + sum(&by_item, users)
    };
    let same = configured.regularization * weight(configured) / weight(point);
    FACTORS.iter().map(|factor| rounded(same * factor)).filter(|&x| x > 0.0 && x.is_finite()).collect()
}

/// To two digits: values to be typed again.
fn rounded(x: f64) -> f64 {
    format!("{x:.1e}").parse().unwrap_or(x)
}

/// `trials` of the points, in their order; which ones is a function of the seed.
fn drawn(mut points: Vec<Params>, trials: usize, seed: u64) -> Vec<Params> {
    let mut seen: Vec<Params> = Vec::with_capacity(points.len());
    points.retain(|point| {
        let new = !seen.contains(point);
        if new {
            seen.push(point.clone());
        }
        new
    });
    if points.len() <= trials {
        return points;
    }
    let mut lots: Vec<usize> = (0..points.len()).collect();
    lots.sort_by_cached_key(|at| hash(&[&seed.to_string(), &at.to_string()]));
    lots.truncate(trials);
    lots.sort_unstable();
    lots.into_iter().map(|at| points[at].clone()).collect()
}

/// A point with what came of it.
#[derive(Debug, Clone)]
pub struct Trial {
    pub params: Params,
    pub facts: Facts,
    pub ranking: Ranking,
}

/// The trial with the best value of the metric among those that `able` lets pass, of equal ones the first. `None` when
/// the metric is not known of any.
pub fn best(metric: Metric, trials: &[Trial], able: impl Fn(&Trial) -> bool) -> Option<usize> {
    let value = |trial: &Trial| {
        let value = estimate(metric, &trial.ranking.outcomes)?.value;
        Some(if metric == Metric::Rmse { -value } else { value })
    };
    let able = trials.iter().enumerate().filter(|(_, trial)| able(trial));
    able.filter_map(|(at, trial)| Some((at, value(trial)?))).reduce(|a, b| if b.1 > a.1 { b } else { a }).map(|(at, _)| at)
}

/// Whether a trial is as good as the best as far as the data can tell.
pub fn within_noise(metric: Metric, best: &Ranking, other: &Ranking) -> bool {
    behind(metric, &best.outcomes, &other.outcomes).is_some_and(|behind| behind.value <= behind.margin)
}

#[cfg(test)]
#[path = "space_tests.rs"]
mod tests;

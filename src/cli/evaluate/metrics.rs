//! What lists are worth, with how sure one can be of it.

use clap::ValueEnum;

use super::ranking::Outcome;

/// Standard deviations of a normal distribution within which 95 % lie.
const Z95: f64 = 1.959_963_984_540_054;

/// What is measured. With one held-out pair a user, recall is also the hit rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Metric {
    /// share of users whose held-out item is on their list
    Recall,
    /// the same, weighted by place: 1/log2(place + 1)
    Ndcg,
    /// the same, weighted by 1/place
    Mrr,
    /// root of the mean squared error of the held-out ratings; less is better
    Rmse,
}

impl Metric {
    pub const ALL: [Metric; 4] = [Metric::Recall, Metric::Ndcg, Metric::Mrr, Metric::Rmse];

    pub fn name(self) -> &'static str {
        match self {
            Metric::Recall => "recall",
            Metric::Ndcg => "ndcg",
            Metric::Mrr => "mrr",
            Metric::Rmse => "rmse",
        }
    }

    /// What one held-out pair adds to the mean; the squared error for RMSE. `None` without an expected rating.
    fn term(self, outcome: &Outcome) -> Option<f64> {
        let of_place = |gain: fn(f64) -> f64| Some(outcome.place.map_or(0.0, |place| gain(place as f64)));
        match self {
            Metric::Recall => of_place(|_| 1.0),
            // One relevant item: the ideal list has it first, which is worth 1.
            Metric::Ndcg => of_place(|place| 1.0 / (place + 1.0).log2()),
            Metric::Mrr => of_place(f64::recip),
            Metric::Rmse => outcome.error.map(|error| error * error),
        }
    }
}

/// A value and the half width of its 95 % confidence interval, from the normal distribution over users.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    pub value: f64,
    pub margin: f64,
}

/// The metric over all held-out pairs; `None` where nothing is known of one, or there are none.
pub fn estimate(metric: Metric, outcomes: &[Outcome]) -> Option<Estimate> {
    let terms: Vec<f64> = outcomes.iter().map(|outcome| metric.term(outcome)).collect::<Option<_>>()?;
    let Estimate { value, margin } = mean(&terms)?;
    Some(if metric == Metric::Rmse {
        let root = value.sqrt();
        // The root's slope carries the interval of the mean over to it; errors that are all zero have none.
        Estimate { value: root, margin: if root > 0.0 { margin / (2.0 * root) } else { 0.0 } }
    } else {
        Estimate { value, margin }
    })
}

/// By how much `other` is worse than `best`, user by user: what both find hard does not blur the difference.
/// Both are outcomes on the same part.
pub fn behind(metric: Metric, best: &[Outcome], other: &[Outcome]) -> Option<Estimate> {
    let pairs = best.iter().zip(other);
    let terms: Vec<f64> = pairs.map(|(best, other)| Some(metric.term(best)? - metric.term(other)?)).collect::<Option<_>>()?;
    let Estimate { value, margin } = mean(&terms)?;
    if metric != Metric::Rmse {
        return Some(Estimate { value, margin });
    }
    // a − b = (a² − b²) / (a + b)
    let sum = estimate(metric, best)?.value + estimate(metric, other)?.value;
    Some(if sum > 0.0 { Estimate { value: -value / sum, margin: margin / sum } } else { Estimate { value: 0.0, margin: 0.0 } })
}

/// Mean of the terms, summed in their order; the interval of a single one is unknown and taken as infinite.
fn mean(terms: &[f64]) -> Option<Estimate> {
    if terms.is_empty() {
        return None;
    }
    let n = terms.len() as f64;
    let value = terms.iter().sum::<f64>() / n;
    let squares: f64 = terms.iter().map(|term| (term - value).powi(2)).sum();
    Some(Estimate { value, margin: if n > 1.0 { Z95 * (squares / (n - 1.0) / n).sqrt() } else { f64::INFINITY } })
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;

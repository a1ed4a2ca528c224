//! How well a score tells members from others: the area under the ROC curve, and how sure that is.

use serde::Serialize;

/// Standard normal quantile of a two-sided 95 % interval.
const NORMAL_95: f64 = 1.959_964;

/// An estimate with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

/// Scores of members and of controls, each in the order of their trials.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    pub members: Vec<f64>,
    pub controls: Vec<f64>,
}

/// For every member the share of controls below it, for every control the share of members above it; ties count half.
struct Placements {
    members: Vec<f64>,
    controls: Vec<f64>,
}

fn placements(scores: &Scores) -> Placements {
    let sorted = |values: &[f64]| {
        let mut values = values.to_vec();
        values.sort_unstable_by(f64::total_cmp);
        values
    };
    let (members, controls) = (sorted(&scores.members), sorted(&scores.controls));
    let below = |value: &f64, others: &[f64]| {
        let (less, up_to) = (others.partition_point(|other| other < value), others.partition_point(|other| other <= value));
        (less + up_to) as f64 / 2.0 / others.len() as f64
    };
    Placements {
        members: scores.members.iter().map(|member| below(member, &controls)).collect(),
        controls: scores.controls.iter().map(|control| 1.0 - below(control, &members)).collect(),
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn variance(values: &[f64]) -> f64 {
    let mean = mean(values);
    values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (values.len() as f64 - 1.0)
}

fn estimate(members: &[f64], controls: &[f64], range: (f64, f64)) -> Estimate {
    let value = mean(members);
    let error = (variance(members) / members.len() as f64 + variance(controls) / controls.len() as f64).sqrt();
    Estimate { value, low: (value - NORMAL_95 * error).max(range.0), high: (value + NORMAL_95 * error).min(range.1) }
}

/// The chance that a member scores higher than a control, with its interval. Both need two scores at least.
///
/// # Source
/// DeLong, DeLong, Clarke-Pearson, *Comparing the areas under two or more correlated receiver operating characteristic
/// curves*, Biometrics 44 (1988), 837–845.
pub fn auc(scores: &Scores) -> Estimate {
    let found = placements(scores);
    estimate(&found.members, &found.controls, (0.0, 1.0))
}

/// How much larger the area is under the first scores than under the second of the same trials, with its interval.
///
/// # Source
/// As [`auc`]; the same trials make the two areas depend on each other, which narrows the interval.
pub fn difference(first: &Scores, second: &Scores) -> Estimate {
    let (first, second) = (placements(first), placements(second));
    let apart = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<f64>>();
    estimate(&apart(&first.members, &second.members), &apart(&first.controls, &second.controls), (-1.0, 1.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scores(members: &[f64], controls: &[f64]) -> Scores {
        Scores { members: members.to_vec(), controls: controls.to_vec() }
    }

    proptest! {
        #[test]
        fn the_area_is_the_share_of_pairs_in_order(
            members in prop::collection::vec(0u8..9, 2..30), controls in prop::collection::vec(0u8..9, 2..30)
        ) {
            let (members, controls): (Vec<f64>, Vec<f64>) =
                (members.into_iter().map(f64::from).collect(), controls.into_iter().map(f64::from).collect());
            let score = |m: f64, c: f64| if m > c { 1.0 } else if m == c { 0.5 } else { 0.0 };
            let sum: f64 = members.iter().flat_map(|&m| controls.iter().map(move |&c| score(m, c))).sum();
            let by_hand = sum / (members.len() * controls.len()) as f64;
            let found = auc(&scores(&members, &controls));
            prop_assert!((found.value - by_hand).abs() < 1e-12);
            prop_assert!(found.low <= found.value && found.value <= found.high);
            let turned = auc(&scores(&controls, &members));
            prop_assert!((turned.value + found.value - 1.0).abs() < 1e-12);
        }
    }

    /// Worked out by hand from the definition: V10 = (1, 1/2, 1), V01 = (2/3, 1).
    #[test]
    fn the_interval_is_delongs() {
        let found = auc(&scores(&[3.0, 1.0, 4.0], &[2.0, 0.0]));
        let error = ((1.0 / 12.0) / 3.0 + (1.0 / 18.0) / 2.0f64).sqrt();
        assert!((found.value - 5.0 / 6.0).abs() < 1e-12, "{found:?}");
        assert!((found.low - (5.0 / 6.0 - NORMAL_95 * error)).abs() < 1e-12 && found.high == 1.0, "{found:?}");
    }

    #[test]
    fn equal_scores_do_not_differ_and_opposite_ones_do() {
        let (up, down) = (scores(&[3.0, 4.0, 5.0], &[1.0, 2.0, 3.5]), scores(&[1.0, 2.0, 3.5], &[3.0, 4.0, 5.0]));
        assert_eq!(difference(&up, &up), Estimate { value: 0.0, low: 0.0, high: 0.0 });
        let found = difference(&up, &down);
        assert!((found.value - (auc(&up).value - auc(&down).value)).abs() < 1e-12 && found.low > 0.0, "{found:?}");
    }
}

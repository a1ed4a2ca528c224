//! The residual over the sweeps of a solve, as the status page draws it.

use serde_json::{Value, json};

/// Points of one course at most: more than a chart on any screen can tell apart.
const MOST: usize = 256;

/// One solve: what it found, sweep by sweep, thinned evenly when it takes long.
#[derive(Debug, Clone, PartialEq)]
pub struct Course {
    /// The number that the generation gets.
    generation: u64,
    /// Where a residual counts as zero.
    tolerance: f64,
    /// Sweep, and the largest relative residual that it found.
    points: Vec<(u32, f64)>,
    /// Of how many sweeps one is kept.
    every: u32,
    last: Option<(u32, f64)>,
}

impl Course {
    pub fn new(generation: u64, tolerance: f64) -> Course {
        Course { generation, tolerance, points: Vec::new(), every: 1, last: None }
    }

    /// Takes a sweep in, counted from 1. What is not a number is no point.
    pub fn take(&mut self, sweep: u32, residual: f64) {
        if !residual.is_finite() || sweep == 0 {
            return;
        }
        self.last = Some((sweep, residual));
        if !kept(sweep, self.every) {
            return;
        }
        self.points.push((sweep, residual));
        while self.points.len() > MOST {
            self.every = self.every.saturating_mul(2);
            let every = self.every;
            self.points.retain(|(sweep, _)| kept(*sweep, every));
        }
    }

    pub fn is_empty(&self) -> bool {
        self.last.is_none()
    }

    /// As `/v1/sweeps` has it; the newest sweep is always there.
    pub fn to_json(&self) -> Value {
        let newest = self.last.filter(|last| self.points.last() != Some(last));
        let points: Vec<_> = self.points.iter().copied().chain(newest).collect();
        json!({ "generation": self.generation, "tolerance": self.tolerance, "points": points })
    }
}

fn kept(sweep: u32, every: u32) -> bool {
    (sweep - 1).is_multiple_of(every)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_course_stays_short_and_keeps_both_ends() {
        let mut course = Course::new(7, 1e-7);
        for sweep in 1..=100_000 {
            course.take(sweep, 1.0 / f64::from(sweep));
        }
        let told = course.to_json();
        let points = told["points"].as_array().unwrap();
        assert!((MOST / 2..=MOST + 1).contains(&points.len()), "{}", points.len());
        assert_eq!((&points[0], &points[points.len() - 1]), (&json!([1, 1.0]), &json!([100_000, 1e-5])));
        let sweeps: Vec<u64> = points.iter().map(|point| point[0].as_u64().unwrap()).collect();
        let step = sweeps[1] - sweeps[0];
        assert!(sweeps[..sweeps.len() - 1].windows(2).all(|pair| pair[1] - pair[0] == step), "evenly apart");
        assert_eq!((&told["generation"], &told["tolerance"]), (&json!(7), &json!(1e-7)));
    }

    #[test]
    fn a_short_course_has_every_sweep_once() {
        let mut course = Course::new(1, 1e-5);
        course.take(0, f64::NAN);
        assert!(course.is_empty());
        course.take(1, 0.5);
        course.take(2, f64::INFINITY);
        course.take(3, 0.25);
        assert_eq!(course.to_json()["points"], json!([[1, 0.5], [3, 0.25]]));
    }
}

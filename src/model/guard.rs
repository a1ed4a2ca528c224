//! Whether the objective rose where it may only fall: then the accelerator has gone too far.

/// Share of what fell on trust that may be wrong: see [`super::als::Swept::on_trust`].
const DOUBT: f64 = 0.1;

/// The lowest objective so far, and what is not sure of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Guard {
    best: f64,
    doubt: f64,
}

impl Guard {
    /// One that knows of no objective.
    pub fn new() -> Guard {
        Guard { best: f64::INFINITY, doubt: 0.0 }
    }

    /// Is this objective above the lowest by more than `rounding`, relative to its size, and than what either has on trust
    /// explain?
    pub fn rose(&self, objective: f64, on_trust: f64, rounding: f64) -> bool {
        objective > self.best + rounding * self.best.abs() + self.doubt + DOUBT * on_trust
    }

    /// Takes note of an objective that did not rise.
    pub fn take(&mut self, objective: f64, on_trust: f64) {
        if objective < self.best {
            *self = Guard { best: objective, doubt: DOUBT * on_trust };
        }
    }

    /// Begins anew from an objective that has nothing on trust.
    pub fn set(&mut self, objective: f64) {
        *self = Guard { best: objective, doubt: 0.0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rise_is_one_beyond_rounding_and_what_is_on_trust() {
        let mut guard = Guard::new();
        assert!(!guard.rose(1e300, 0.0, 1e-13), "nothing to compare with");
        guard.take(-100.0, 0.0);
        assert!(guard.rose(-99.0, 0.0, 1e-13) && !guard.rose(-99.0, 0.0, 0.02), "rounding is a share of the size");
        assert!(guard.rose(-99.0, 5.0, 0.0) && !guard.rose(-99.0, 20.0, 0.0), "a tenth of what this one has on trust");
        guard.take(-110.0, 50.0);
        assert!(!guard.rose(-106.0, 0.0, 0.0) && guard.rose(-104.0, 0.0, 0.0), "a tenth of what the lowest has on trust");
        guard.take(-107.0, 0.0);
        assert!(!guard.rose(-106.0, 0.0, 0.0), "the lowest stays");
        guard.set(-100.0);
        assert!(!guard.rose(-101.0, 0.0, 0.0) && guard.rose(-99.0, 0.0, 0.0), "known anew");
    }
}

//! The pure core: events in, a model that can forget out. Knows no Kafka, no RocksDB, no HTTP, no clock and
//! no global randomness; time and seeds are arguments.

use serde::{Deserialize, Serialize};

pub mod afresh;
pub mod als;
pub mod anderson;
pub mod certificate;
#[cfg(test)]
mod dense;
pub mod dictionary;
pub mod digest;
pub mod escape;
pub mod event;
pub mod factors;
pub mod fence;
pub mod generation;
pub mod global;
mod guard;
mod intake;
mod job;
pub mod kernel;
pub mod lanczos;
pub mod local;
mod pairs;
pub mod play;
pub mod processor;
pub mod ratings;
mod reach;
pub mod receipt;
pub mod recommend;
mod schedule;
pub mod snapshot;
pub mod splitmix;
pub mod step;
mod subspace;
pub mod unlearn;
pub mod verdict;
mod young;

/// Milliseconds since 1970-01-01T00:00:00Z.
pub type Millis = i64;

/// What the factors minimise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Objective {
    /// `Σ_observed (a0 + α r)(1 − u·v)² + a0 Σ_unobserved (u·v)² + λ Σ_rows (n_row + a0 N)^ν ‖row‖²`, where `r` is the
    /// summed strength of a pair, `n_row` the number of observed counterparts of a row and `N` the number of rows on
    /// the other side.
    ///
    /// Source: Hu, Koren, Volinsky, *Collaborative Filtering for Implicit Feedback Datasets*, ICDM 2008; weights and
    /// exponent as in Rendle et al., *Revisiting the Performance of iALS on Item Recommendation Benchmarks*, RecSys 2022.
    Implicit,
    /// `Σ_observed (r − μ − u·v)² + λ Σ_rows n_row^ν ‖row‖²`, where `r` is the latest rating of a pair and `μ` the mean
    /// of all of them.
    ///
    /// Source: Zhou et al., *Large-Scale Parallel Collaborative Filtering for the Netflix Prize*, AAIM 2008.
    Explicit,
}

/// What a generation is certified by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Certify {
    /// The residual of every row's normal equations: a fixed point.
    #[default]
    Residual,
    /// A duality gap as well: the global optimum, see [`global`].
    Global,
}

/// The `[model]` table of the configuration, checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Params {
    pub objective: Objective,
    /// Length of a factor row, 1 to 1024.
    pub rank: usize,
    /// λ, > 0.
    pub regularization: f64,
    /// ν, 0 to 2.
    pub regularization_exp: f64,
    /// α, ≥ 0; implicit only.
    pub alpha: f64,
    /// a0, > 0; implicit only.
    pub unobserved_weight: f64,
    /// Largest relative normal-equation residual that a certified generation may have.
    pub tolerance: f64,
    #[serde(default)]
    pub certify: Certify,
    /// Sweeps after which a generation is published uncertified.
    pub max_sweeps: u32,
    pub seed: u64,
    /// Solver threads; 0 means all cores.
    pub threads: usize,
}

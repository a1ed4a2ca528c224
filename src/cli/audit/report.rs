//! What an audit found: the figures, and what they mean for each rung of the ladder of exactness. No natural identifier
//! but a request's own id is in it.

use jiff::Timestamp;
use serde::Serialize;

use super::compare::Agreement;
use super::inference::{Inference, Outcome};
use super::progress::Way;
use crate::model::Params;
use crate::model::receipt::Receipt;

/// Predictions closer than this many tolerances are the same to what the certificate can tell; with the default
/// tolerance the optimum was never further.
pub const TOLERANCES: f64 = 100.0;
/// Retrains may by chance lie a little closer to each other than to the model.
pub const SLACK: f64 = 1.25;
/// Overlap of lists that chance may take away.
pub const OVERLAP_SLACK: f64 = 0.01;

/// All of it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub version: &'static str,
    pub created: Timestamp,
    pub seconds: f64,
    /// Every rung that was claimed holds.
    pub holds: bool,
    pub state: StateFacts,
    pub model: Params,
    /// Settings in which the generation of the state differs from those that were audited.
    pub other_settings: Vec<String>,
    pub method: Method,
    pub cases: Vec<Case>,
}

/// The state that was read.
#[derive(Debug, Clone, Serialize)]
pub struct StateFacts {
    pub generation: Option<u64>,
    pub created: Option<Timestamp>,
    /// Digest of the rows on the factors topic.
    pub digest: Option<String>,
    /// Events that the generation does not know.
    pub behind: u64,
    pub users: u64,
    pub items: u64,
    pub pairs: u64,
    pub interactions: u64,
}

/// How it was looked at.
#[derive(Debug, Clone, Serialize)]
pub struct Method {
    pub seeds: usize,
    pub top: usize,
    /// Most users that are compared.
    pub users: usize,
    pub seed: u64,
}

/// One request, or one sample.
#[derive(Debug, Clone, Serialize)]
pub struct Case {
    pub subject: Subject,
    pub forgotten: Forgotten,
    pub data: Data,
    pub fixed_point: FixedPoint,
    pub retrain: Retrain,
    pub inference: Outcome,
    pub rungs: Vec<Rung>,
    /// Sweeps after the forgetting, and from scratch.
    pub warm: Path,
    pub cold: Path,
    /// The sweeps went on from the trained factors.
    pub went_on: bool,
}

/// The sweeps of a solve.
#[derive(Debug, Clone, Serialize)]
pub struct Path {
    /// Largest residual that each found.
    pub residual: Vec<f64>,
    /// Relative distance of each one's objective from the lowest that anybody reached on these data; at least [`ROUNDING`].
    pub gap: Vec<f64>,
}

/// A sum over all pairs in f64 is not known better than this.
const ROUNDING: f64 = 1e-14;

impl Path {
    /// `constant` is what the objectives of the way lack.
    pub fn of(way: &Way, constant: f64, optimum: f64) -> Path {
        let size = optimum.abs().max(f64::MIN_POSITIVE);
        let gap = |objective: &f64| {
            let gap = (objective + constant - optimum) / size;
            // A number that is none stays none: `max` would make the best of it.
            if gap < ROUNDING { ROUNDING } else { gap }
        };
        Path { residual: way.residuals.clone(), gap: way.objectives.iter().map(gap).collect() }
    }

    pub fn sweeps(&self) -> usize {
        self.residual.len()
    }
}

/// What was asked to be forgotten.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Subject {
    Request {
        receipt: Box<Receipt>,
        /// Newer events came in: audited is what the next generation would be.
        next: bool,
    },
    Sample {
        sample: String,
        noun: &'static str,
        how: &'static str,
        share: String,
    },
}

/// How much that was.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Forgotten {
    pub interactions: u64,
    /// (user, item) pairs; not known any more of a past request.
    pub pairs: Option<u64>,
    /// Users and items that disappeared with it.
    pub users: u64,
    pub items: u64,
}

/// E0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Data {
    /// Of the state after forgetting, and of one that was built from the remaining events alone.
    pub digest: String,
    pub rebuilt: String,
    /// Interactions in it.
    pub interactions: u64,
    /// Interactions that a fence covers although they are stored.
    pub fenced: u64,
    /// A request names event ids of which the state keeps hashes only.
    pub blind: bool,
}

impl Data {
    pub fn holds(&self) -> bool {
        self.digest == self.rebuilt && self.fenced == 0
    }
}

/// E1.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FixedPoint {
    pub residual: f64,
    pub tolerance: f64,
    pub objective: f64,
    /// How much lower or higher (relative) the lowest objective of the retrains is; above 0 a retrain found better.
    pub gap_to_retrains: f64,
    pub sigma: Option<f64>,
    pub effective_rank: Option<usize>,
    pub rank: usize,
    /// All directions are in use and more are wanted: two retrains may differ.
    pub rank_binds: bool,
    /// Certified relative distance of the objective from the global optimum, where the certificate has one.
    pub gap: Option<f64>,
    /// Why the global optimum is not certified, where that was asked for.
    pub refused: Option<String>,
    pub sweeps: u32,
}

impl FixedPoint {
    pub fn holds(&self) -> bool {
        self.residual <= self.tolerance
    }
}

/// E2.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Retrain {
    /// The model against each retrain.
    pub to_retrains: Vec<Agreement>,
    /// The retrains among each other.
    pub among_retrains: Vec<Agreement>,
    pub threshold: f64,
    pub users: usize,
    pub users_of: usize,
    /// Retrains that used up their sweeps above the tolerance.
    pub unconverged: usize,
    pub binds: bool,
}

impl Retrain {
    pub fn new(to_retrains: Vec<Agreement>, among_retrains: Vec<Agreement>, tolerance: f64) -> Retrain {
        let threshold = (SLACK * furthest(&among_retrains)).max(TOLERANCES * tolerance);
        Retrain { to_retrains, among_retrains, threshold, users: 0, users_of: 0, unconverged: 0, binds: false }
    }

    /// Largest distance to a retrain.
    pub fn furthest(&self) -> f64 {
        furthest(&self.to_retrains)
    }

    /// Largest distance between two retrains.
    pub fn spread(&self) -> f64 {
        furthest(&self.among_retrains)
    }

    pub fn holds(&self) -> bool {
        let least = |of: &[Agreement]| of.iter().map(|agreement| agreement.overlap).fold(1.0, f64::min);
        self.furthest() <= self.threshold && least(&self.to_retrains) >= least(&self.among_retrains) - OVERLAP_SLACK
    }
}

fn furthest(of: &[Agreement]) -> f64 {
    of.iter().map(|agreement| agreement.distance).fold(0.0, f64::max)
}

impl Inference {
    /// Unlearned is as good as retrained. Where the rank binds, two retrains differ too: then only a difference beyond
    /// chance counts.
    pub fn holds(&self, binds: bool) -> bool {
        let by_chance = self.apart.low <= 0.0 && self.apart.high >= 0.0;
        self.apart.value.abs() <= self.threshold || (binds && by_chance)
    }
}

/// What became of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Holds,
    Fails,
    NotClaimed,
}

/// A rung of the ladder with its verdict.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rung {
    pub rung: &'static str,
    pub claim: &'static str,
    pub verdict: Verdict,
    /// The number and its threshold, for people.
    pub measured: String,
    pub threshold: String,
    /// What that means.
    pub words: String,
}

/// All four rungs of a case. `unclaimed` names the reason why the model of a past request promises nothing yet.
pub fn rungs(data: &Data, fixed: &FixedPoint, retrain: &Retrain, inference: &Outcome, unclaimed: Option<&str>) -> Vec<Rung> {
    let mut rungs = vec![e0(data), e1(fixed), e2(retrain), e3(inference, fixed.rank_binds)];
    if let Some(reason) = unclaimed {
        for rung in rungs.iter_mut().skip(1).filter(|rung| rung.verdict != Verdict::Holds) {
            rung.verdict = Verdict::NotClaimed;
            rung.words = reason.to_owned();
        }
    }
    rungs
}

fn verdict(holds: bool) -> Verdict {
    if holds { Verdict::Holds } else { Verdict::Fails }
}

fn e0(data: &Data) -> Rung {
    let same = data.digest == data.rebuilt;
    let words = match (same, data.fenced) {
        (_, fenced) if fenced > 0 => format!("{fenced} stored interactions are ones that a request asked to forget."),
        (false, _) => "The stored data are not those of a store that never saw what was forgotten.".to_owned(),
        _ if data.blind => "The stored data equal, bit for bit, a store built from the remaining events alone. Requests by event id \
                            cannot be looked for in it: the state keeps hashes of event ids that say nothing about them."
            .to_owned(),
        _ => "The stored data equal, bit for bit, a store built from the remaining events alone.".to_owned(),
    };
    Rung {
        rung: "E0",
        claim: "The data are gone",
        verdict: verdict(data.holds()),
        measured: if same { "same digest".to_owned() } else { "other digest".to_owned() },
        threshold: "the same".to_owned(),
        words,
    }
}

fn e1(fixed: &FixedPoint) -> Rung {
    let words = match (fixed.holds(), fixed.sigma) {
        (false, _) => "The model is not an optimum of the remaining data: something in it comes from elsewhere, or training was cut short.",
        (true, Some(sigma)) if sigma > 1.0 + 1e-6 => {
            "No user and no item would be described differently by the remaining data; a better model of another shape exists, though."
        }
        _ => "No user and no item would be described differently by the remaining data.",
    };
    Rung {
        rung: "E1",
        claim: "The model follows from the remaining data alone",
        verdict: verdict(fixed.holds()),
        measured: format!("residual {:.2e}", fixed.residual),
        threshold: format!("{:e}", fixed.tolerance),
        words: words.to_owned(),
    }
}

fn e2(retrain: &Retrain) -> Rung {
    let spread = retrain.spread();
    let mut words = if retrain.holds() {
        format!("What it predicts is what models trained from scratch predict; those differ from each other by {spread:.1e}.")
    } else {
        format!("What it predicts is not what models trained from scratch predict; those differ from each other by {spread:.1e} only.")
    };
    if retrain.binds {
        words.push_str(&format!(
            " The rank binds: retraining has more than one outcome here, and two retrains differ by up to {spread:.1e} themselves. \
             A larger model.rank or model.regularization makes the outcome one."
        ));
    }
    if retrain.unconverged > 0 {
        words.push_str(&format!(" {} of the retrains did not reach the tolerance within model.max_sweeps.", retrain.unconverged));
    }
    Rung {
        rung: "E2",
        claim: "The model is what retraining gives",
        verdict: verdict(retrain.holds()),
        measured: format!("distance {:.2e}", retrain.furthest()),
        threshold: format!("{:.2e}", retrain.threshold),
        words,
    }
}

fn e3(inference: &Outcome, binds: bool) -> Rung {
    let claim = "The model does not give away who was forgotten";
    match inference {
        Outcome::NotMeasured(reason) => Rung {
            rung: "E3",
            claim,
            verdict: Verdict::NotClaimed,
            measured: "not measured".to_owned(),
            threshold: format!("{:.2}", super::inference::AREA_THRESHOLD),
            words: reason.clone(),
        },
        Outcome::Measured(found) => Rung {
            rung: "E3",
            claim,
            verdict: verdict(found.holds(binds)),
            measured: format!("AUC {:.3}, retrained {:.3}", found.unlearned.value, found.retrained.value),
            threshold: format!("{:.2} apart", found.threshold),
            words: if found.holds(binds) {
                "An attacker finds the forgotten no better in it than in a model that never saw them.".to_owned()
            } else {
                "An attacker tells the forgotten apart in it otherwise than in a model that never saw them.".to_owned()
            },
        },
    }
}

/// Why the holder of an old copy still knows.
pub const TWO_SNAPSHOTS: &str = "Not covered, by this or by any retraining: whoever keeps the factors of before and compares them with the \
     later ones sees what was forgotten. So old vectors must leave the factors topic: tombstones and replaced rows disappear with its \
     compaction (nepenthe topics --check looks at its settings, a receipt says purged when they are gone), and readers must delete \
     their own copies.";

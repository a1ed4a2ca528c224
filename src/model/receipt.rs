//! Requests, receipts and manifests: what is said about a forget and about a generation.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::event::Shape;
use super::fence::Subject;
use super::unlearn::Solution;
use super::{Certify, Millis, Params};

/// A time as readers get it: RFC 3339.
pub fn instant(millis: Millis) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// How far a request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Accepted,
    /// No interaction that it selects is in the store.
    Erased,
    /// A certified generation stands on the remaining data.
    Unlearned,
    /// That generation is readable on the factors topic.
    Published,
    /// What [`Receipt::purged_from`] names was looked at, and holds nothing of it any more.
    Purged,
    Rejected,
}

impl Status {
    pub const ALL: [Status; 6] = [Status::Accepted, Status::Erased, Status::Unlearned, Status::Published, Status::Purged, Status::Rejected];

    pub fn name(self) -> &'static str {
        match self {
            Status::Accepted => "accepted",
            Status::Erased => "erased",
            Status::Unlearned => "unlearned",
            Status::Published => "published",
            Status::Purged => "purged",
            Status::Rejected => "rejected",
        }
    }
}

/// When each stage was reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stages {
    pub accepted: Option<Timestamp>,
    pub erased: Option<Timestamp>,
    pub unlearned: Option<Timestamp>,
    pub published: Option<Timestamp>,
    pub purged: Option<Timestamp>,
}

/// What a request removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    pub interactions: u64,
    /// Users that disappeared because none of their interactions is left.
    pub users: u64,
    pub items: u64,
}

/// What proves a generation; see [`super::certificate`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    pub objective: f64,
    pub residual: f64,
    pub tolerance: f64,
    pub sweeps: u32,
    /// Wall-clock seconds of the solve.
    pub seconds: f64,
    pub effective_rank: Option<usize>,
    /// Largest singular value of the scaled negative gradient outside the model, from below: at most 1 at the global optimum.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigma: Option<f64>,
    /// All directions are in use and `sigma` is above 1: two retrains may differ.
    #[serde(default)]
    pub rank_binds: bool,
    /// What holds: the fixed point, or the global optimum as well; `None` above the tolerance.
    #[serde(default)]
    pub certified: Option<Certify>,
    /// The objective is at most this much above the least that any factors reach, of whatever rank. Asked for by
    /// `certify = "global"`, like the next two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<f64>,
    /// Upper bound of the largest singular value of the whole scaled gradient, from which the gap follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sigma_bound: Option<f64>,
    /// Why the global optimum is not certified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// What a reader must know before relying on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

/// Told wherever the rank binds.
const RANK_BINDS: &str = "the rank binds: two retrains may differ by more than the tolerance; raise model.rank or model.regularization";

impl Certificate {
    /// What a solve proved that took `seconds`.
    pub fn of(solution: &Solution, tolerance: f64, seconds: f64) -> Certificate {
        let Solution { measured, sweeps, effective_rank, sigma, rank_binds, verdict, .. } = solution;
        let global = verdict.as_ref().is_some_and(|verdict| verdict.refused.is_none());
        let bound = verdict.as_ref().and_then(|verdict| verdict.bound);
        Certificate {
            objective: measured.objective,
            residual: measured.residual,
            tolerance,
            sweeps: *sweeps,
            seconds,
            effective_rank: *effective_rank,
            sigma: *sigma,
            rank_binds: *rank_binds,
            certified: (measured.residual <= tolerance).then_some(if global { Certify::Global } else { Certify::Residual }),
            gap: bound.map(|bound| bound.gap),
            sigma_bound: bound.map(|bound| bound.sigma),
            refused: verdict.as_ref().and_then(|verdict| verdict.refused).map(|refused| refused.to_string()),
            warning: rank_binds.then(|| RANK_BINDS.to_owned()),
        }
    }

    /// Is the residual below the tolerance?
    pub fn holds(&self) -> bool {
        self.residual <= self.tolerance
    }
}

/// Backups that were taken of a state and may still be somewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backups {
    pub count: u64,
    pub newest: Timestamp,
}

/// What a requester gets to read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    pub request_id: String,
    pub status: Status,
    pub stages: Stages,
    pub selector: Shape,
    pub removed: Removed,
    pub generation: Option<u64>,
    pub certificate: Option<Certificate>,
    /// Rungs of the ladder that hold: `E0` the data is gone from the store, `E1` the certificate is below tolerance.
    pub exactness: Vec<String>,
    /// Once purged, of what that was proven: `disk` the state directory, `rows` the replaced and removed rows of the factors
    /// topic, `names` also the tombstones there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub purged_from: Vec<String>,
    /// Backups from before it was purged: they hold what it forgot until they are deleted, which nobody looks at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backups: Option<Backups>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Receipt {
    /// When its stage was reached; a rejection has no time.
    pub fn reached(&self) -> Option<Timestamp> {
        let Stages { accepted, erased, unlearned, published, purged } = self.stages;
        match self.status {
            Status::Accepted => accepted,
            Status::Erased => erased,
            Status::Unlearned => unlearned,
            Status::Published => published,
            Status::Purged => purged,
            Status::Rejected => None,
        }
    }
}

/// A request as the ledger keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Tells the same request from another one under its id.
    pub content: [u8; 32],
    pub receipt: Receipt,
    /// Surrogates of the rows that lost data by it; empty once it is unlearned.
    pub users: Vec<u32>,
    pub items: Vec<u32>,
}

/// A request's place in the ledger.
pub type RequestKey = Subject;

/// Counts of a generation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub users: u64,
    pub items: u64,
    pub interactions: u64,
    /// Rows published anew.
    pub changed: u64,
    /// Rows that disappeared.
    pub removed: u64,
}

/// `[model]` and the mean that goes with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Model {
    #[serde(flatten)]
    pub params: Params,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean: Option<f64>,
}

/// One consistent version of the model, as published.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub generation: u64,
    pub parent: Option<u64>,
    pub created: Timestamp,
    /// Next offset to read, by topic and partition: everything before is in.
    pub cut: BTreeMap<String, BTreeMap<i32, i64>>,
    /// End offsets on the factors topic, by partition: a reader who has applied all before holds this generation.
    pub upto: BTreeMap<i32, i64>,
    pub model: Model,
    pub counts: Counts,
    pub certificate: Certificate,
    /// Only what changed was solved, to be readable at once; the solve of everything is under way. Serves no request.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub interim: bool,
    pub digest: String,
    /// Requests that this generation serves.
    pub requests: Vec<String>,
    /// How many more there are than fit into the record.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub requests_omitted: u64,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Bytes of request ids that a manifest carries at most: brokers refuse records above 1 MiB.
const REQUEST_BYTES: usize = 256 << 10;

/// As many ids as fit, and how many do not.
pub fn fitting(ids: impl IntoIterator<Item = String>) -> (Vec<String>, u64) {
    let (mut kept, mut omitted, mut bytes) = (Vec::new(), 0, 0);
    for id in ids {
        bytes += id.len() + 4;
        if bytes <= REQUEST_BYTES {
            kept.push(id);
        } else {
            omitted += 1;
        }
    }
    (kept, omitted)
}

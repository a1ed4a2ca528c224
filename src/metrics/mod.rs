//! Every metric, declared once, and every fact that moves one: see [`Happening`].
//!
//! A fact's log line leaves from here too, so that the two cannot tell different stories. Neither carries an
//! identifier of a user, an item, an event or a request: what names a person must not outlive its forgetting.

mod declare;
mod process;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use prometheus::TextEncoder;
use tracing::{debug, error, info, warn};

use declare::Declared;

/// What came in: `empty` is a record without a value.
pub const EVENT_KINDS: [&str; 3] = ["interaction", "forget", "empty"];
/// What became of it.
pub const EVENT_OUTCOMES: [&str; 5] = ["accepted", "fenced", "duplicate_offset", "rejected", "ignored"];
/// The last stage that a forget reached.
pub const FORGET_STATUSES: [&str; 6] = ["accepted", "erased", "unlearned", "published", "purged", "rejected"];
/// The stages at which a forget waits for the next one.
pub const PENDING_STAGES: [&str; 4] = ["accepted", "erased", "unlearned", "published"];
/// The stages whose time since acceptance is measured.
pub const TIMED_STAGES: [&str; 4] = ["erased", "unlearned", "published", "purged"];
/// The phases of a generation, in order (design: freeze the cut, solve and sweep, commit, publish).
pub const PHASES: [&str; 4] = ["freeze", "solve", "commit", "publish"];

/// A fact that operators count, and read in the log when it is worth a line.
#[derive(Debug, Clone)]
pub enum Happening<'a> {
    /// Records were taken in; `kind` of [`EVENT_KINDS`], `outcome` of [`EVENT_OUTCOMES`]. No log line.
    Events { kind: &'static str, outcome: &'static str, count: u64 },
    /// One record went to the dead letters. Logged at the 1st, 2nd, 4th, 8th, … of each error: a producer gone wrong
    /// must not fill the disk, and the dead letter itself tells topic, partition and offset.
    DeadLetter { error: &'static str, topic: &'a str, partition: i32, offset: i64 },
    /// A forget reached `status` (of [`FORGET_STATUSES`]). `request_hash` is the keyed hash of its id.
    Forget { status: &'static str, seconds_since_accept: f64, request_hash: &'a str },
    /// How many forgets wait at each stage (one not named has none) and for how long the oldest has. No log line.
    Pending { stages: &'a [(&'static str, u64)], oldest_seconds: f64 },
    /// Records between what is stored and the end of a partition. No log line.
    Lag { topic: &'a str, partition: i32, records: u64 },
    /// The partitions that are read now: the lag of every other one is no longer told.
    Assigned { partitions: &'a [(String, i32)] },
    /// `count` events became visible in a published generation `seconds` after they were read. No log line.
    EventAge { seconds: f64, count: u64 },
    /// The oldest event that no published generation shows was read so long ago; 0 when there is none. No log line.
    EventOldest { seconds: f64 },
    /// Within what time a forget should reach `stage` (of [`TIMED_STAGES`]). No log line.
    Objective { stage: &'static str, seconds: f64 },
    /// A generation is in the store.
    GenerationCommitted(Committed<'a>),
    /// The generation that a start found in the store. No log line.
    GenerationFound(Committed<'a>),
    /// A phase of [`PHASES`] that ended after the commit. No log line.
    Phase { phase: &'static str, seconds: f64 },
    /// Records of a parcel were acknowledged by the broker.
    Published { topic: &'a str, count: u64 },
    /// Rules that keep out what was forgotten. No log line.
    Fences { rules: u64 },
    /// Backups that may still be somewhere, and when the newest was taken (0 without one). No log line.
    Backups { count: u64, newest_seconds: f64 },
    /// Rules that grew older than they are kept.
    FencesExpired { rules: u64 },
    /// Records that are committed and not yet acknowledged. No log line.
    Outbox { records: u64 },
    /// Live bytes of a column family. No log line.
    StoreBytes { family: &'static str, bytes: u64 },
    /// Size and free bytes of the file system that holds the state. No log line.
    Disk { bytes: u64, free: u64 },
    /// Whether /readyz says so. No log line.
    Ready { ready: bool },
    /// A generation could not be computed; `reason` names a row by its number only.
    SolverFailed { reason: &'a str },
    /// A parcel was not acknowledged and will be sent again.
    PublishFailed { reason: &'a str },
    /// The disk holds nothing more of what was forgotten: so many table files, of so many bytes, were written anew.
    Erased { files: u64, bytes: u64, seconds: f64 },
    /// The factors topic was looked at. No log line.
    TopicLooked { seconds: f64 },
    /// A purge was not done or not proven and will be tried again; `reason` names files, partitions and offsets only.
    PurgeFailed { reason: &'a str },
    /// For how long the oldest published forget waits to be purged; 0 when none does. No log line.
    Unpurged { oldest_seconds: f64 },
}

/// A generation, as numbers.
#[derive(Debug, Clone, Copy)]
pub struct Committed<'a> {
    pub number: u64,
    /// Seconds since 1970-01-01T00:00:00Z.
    pub created_seconds: f64,
    pub sweeps: u64,
    /// Largest relative normal-equation residual; dimensionless.
    pub residual: f64,
    pub tolerance: f64,
    pub objective: f64,
    /// Upper bound of the distance of the objective from its least value, when it was asked for.
    pub gap: Option<f64>,
    pub rank: u64,
    /// 0 when it is not known.
    pub effective_rank: u64,
    pub rank_binds: bool,
    /// Why the global optimum is not certified although that was asked for.
    pub refused: Option<&'a str>,
    /// What a reader must know before relying on it.
    pub warning: Option<&'a str>,
    pub users: u64,
    pub items: u64,
    pub interactions: u64,
    /// Seconds of each phase, of [`PHASES`].
    pub phases: &'a [(&'static str, f64)],
    /// The residual is at or below the tolerance.
    pub certified: bool,
    /// Published ahead of the solve of everything; counted apart, because that nothing is certified here is no trouble.
    pub interim: bool,
}

/// Why there are no metrics.
#[derive(Debug, thiserror::Error)]
#[error("cannot declare the metrics: {0}; this binary is broken, build it again")]
pub struct MetricsError(#[from] prometheus::Error);

/// All metrics of one process, in a registry of their own.
pub struct Metrics {
    declared: Declared,
    /// Partitions whose lag is told.
    lagging: Mutex<BTreeSet<(String, i32)>>,
}

impl Metrics {
    /// Declares everything, at 0 for each value of a closed set; `dead_letter_errors` are the values of `error`.
    ///
    /// # Errors
    /// Two metrics of one name, or a malformed name: a mistake in this module.
    pub fn new(dead_letter_errors: &[&'static str]) -> Result<Metrics, MetricsError> {
        let declared = Declared::new()?;
        for kind in EVENT_KINDS {
            for outcome in EVENT_OUTCOMES {
                declared.events.with_label_values(&[kind, outcome]);
            }
        }
        for error in dead_letter_errors {
            declared.dead_letters.with_label_values(&[error]);
        }
        for status in FORGET_STATUSES {
            declared.forgets.with_label_values(&[status]);
        }
        for stage in PENDING_STAGES {
            declared.forgets_pending.with_label_values(&[stage]);
        }
        for stage in TIMED_STAGES {
            declared.forget_duration.with_label_values(&[stage]);
        }
        for phase in PHASES {
            declared.generation_duration.with_label_values(&[phase]);
        }
        for phase in ["disk", "topic"] {
            declared.purge_duration.with_label_values(&[phase]);
        }
        for certified in ["true", "false", "interim"] {
            declared.generations.with_label_values(&[certified]);
        }
        Ok(Metrics { declared, lagging: Mutex::default() })
    }

    /// Shows at 0 what only the configuration and the store know: the topics written to and the column families.
    pub fn expect(&self, topics: &[&str], families: &[&str]) {
        for topic in topics {
            self.declared.published_records.with_label_values(&[topic]);
        }
        for family in families {
            self.declared.around.store_bytes.with_label_values(&[family]);
        }
    }

    /// Counts and logs one fact.
    pub fn observe(&self, happening: &Happening) {
        let to = &self.declared;
        match *happening {
            Happening::Events { kind, outcome, count } => to.events.with_label_values(&[kind, outcome]).inc_by(count),
            Happening::DeadLetter { error, topic, partition, offset } => self.dead_letter(error, topic, partition, offset),
            Happening::Forget { status, seconds_since_accept, request_hash } => self.forget(status, seconds_since_accept, request_hash),
            Happening::Pending { stages, oldest_seconds } => self.pending(stages, oldest_seconds),
            Happening::Lag { topic, partition, records } => self.lag(topic, partition, records),
            Happening::Assigned { partitions } => self.assigned(partitions),
            Happening::EventAge { seconds, count } => {
                // One lock for all of them: a generation may carry a hundred thousand events.
                let ages = to.event_age.local();
                (0..count).for_each(|_| ages.observe(seconds));
                ages.flush();
            }
            Happening::EventOldest { seconds } => to.event_oldest.set(seconds),
            Happening::Objective { stage, seconds } => to.around.forget_objective.with_label_values(&[stage]).set(seconds),
            Happening::GenerationCommitted(committed) => self.committed(committed),
            Happening::GenerationFound(found) => self.stands(&found),
            Happening::Phase { phase, seconds } => to.generation_duration.with_label_values(&[phase]).observe(seconds),
            Happening::Published { topic, count } => {
                to.published_records.with_label_values(&[topic]).inc_by(count);
                debug!(topic, count, "published");
            }
            Happening::Fences { rules } => to.fences.set(gauge(rules)),
            Happening::Backups { count, newest_seconds } => {
                to.backups.set(gauge(count));
                to.backup_newest.set(newest_seconds);
            }
            Happening::FencesExpired { rules } => {
                to.fences_expired.inc_by(rules);
                info!(rules, "fences ended by store.fence_retention");
            }
            Happening::Outbox { records } => to.outbox_records.set(gauge(records)),
            Happening::StoreBytes { family, bytes } => to.around.store_bytes.with_label_values(&[family]).set(gauge(bytes)),
            Happening::Disk { bytes, free } => {
                to.around.disk_bytes.set(gauge(bytes));
                to.around.disk_free.set(gauge(free));
            }
            Happening::Ready { ready } => to.around.ready.set(i64::from(ready)),
            Happening::SolverFailed { reason } => {
                to.solver_failures.inc();
                error!(reason, "no generation: the solver failed; the last published one stays");
            }
            Happening::PublishFailed { reason } => {
                to.publish_failures.inc();
                warn!(reason, "not published; it will be sent again");
            }
            Happening::Erased { files, bytes, seconds } => {
                to.purge_duration.with_label_values(&["disk"]).observe(seconds);
                to.purge_bytes.inc_by(bytes);
                info!(files, bytes, seconds, "purged from the disk");
            }
            Happening::TopicLooked { seconds } => to.purge_duration.with_label_values(&["topic"]).observe(seconds),
            Happening::PurgeFailed { reason } => {
                to.purge_failures.inc();
                warn!(reason, "not purged; it will be tried again");
            }
            Happening::Unpurged { oldest_seconds } => to.purge_oldest.set(oldest_seconds),
        }
    }

    /// All metrics in the text format of Prometheus, 0.0.4.
    pub fn render(&self) -> String {
        TextEncoder::new().encode_to_string(&self.declared.registry.gather()).unwrap_or_else(|error| {
            error!(%error, "the metrics cannot be written");
            String::new()
        })
    }

    fn dead_letter(&self, error: &'static str, topic: &str, partition: i32, offset: i64) {
        let counter = self.declared.dead_letters.with_label_values(&[error]);
        counter.inc();
        let so_far = counter.get();
        if so_far.is_power_of_two() {
            warn!(error, topic, partition, offset, so_far, "dead letter");
        }
    }

    fn forget(&self, status: &'static str, seconds: f64, request: &str) {
        self.declared.forgets.with_label_values(&[status]).inc();
        if TIMED_STAGES.contains(&status) {
            self.declared.forget_duration.with_label_values(&[status]).observe(seconds);
        }
        match status {
            "rejected" => warn!(status, request, "forget"),
            _ => info!(status, request, seconds, "forget"),
        }
    }

    fn pending(&self, stages: &[(&'static str, u64)], oldest_seconds: f64) {
        for stage in PENDING_STAGES {
            let count = stages.iter().filter(|(named, _)| *named == stage).map(|(_, count)| count).sum();
            self.declared.forgets_pending.with_label_values(&[stage]).set(gauge(count));
        }
        self.declared.forget_oldest.set(oldest_seconds);
    }

    fn lag(&self, topic: &str, partition: i32, records: u64) {
        let mut lagging = self.lagging.lock().unwrap_or_else(PoisonError::into_inner);
        self.declared.lag.with_label_values(&[topic, &partition.to_string()]).set(gauge(records));
        lagging.insert((topic.to_owned(), partition));
    }

    fn assigned(&self, partitions: &[(String, i32)]) {
        let mut lagging = self.lagging.lock().unwrap_or_else(PoisonError::into_inner);
        lagging.retain(|told| {
            let stays = partitions.contains(told);
            if !stays && let Err(error) = self.declared.lag.remove_label_values(&[&told.0, &told.1.to_string()]) {
                debug!(%error, "the lag of a partition was not told");
            }
            stays
        });
    }

    /// What the generation is that stands.
    fn stands(&self, generation: &Committed) {
        let to = &self.declared;
        to.generation.set(gauge(generation.number));
        to.generation_created.set(generation.created_seconds);
        to.residual.set(generation.residual);
        to.residual_tolerance.set(generation.tolerance);
        to.objective.set(generation.objective);
        to.duality_gap.set(generation.gap.unwrap_or(f64::NAN));
        to.rank.set(gauge(generation.rank));
        to.effective_rank.set(gauge(generation.effective_rank));
        to.rank_binds.set(i64::from(generation.rank_binds));
        to.users.set(gauge(generation.users));
        to.items.set(gauge(generation.items));
        to.interactions.set(gauge(generation.interactions));
    }

    fn committed(&self, generation: Committed) {
        self.stands(&generation);
        let to = &self.declared;
        let Committed { number, sweeps, residual, tolerance, objective, users, items, interactions, phases, certified, .. } = generation;
        let label = match (certified, generation.interim) {
            (true, _) => "true",
            (false, true) => "interim",
            (false, false) => "false",
        };
        to.generations.with_label_values(&[label]).inc();
        to.sweeps.inc_by(sweeps);
        for (phase, seconds) in phases {
            to.generation_duration.with_label_values(&[phase]).observe(*seconds);
        }
        let seconds: f64 = phases.iter().map(|(_, seconds)| seconds).sum();
        if certified {
            info!(number, sweeps, residual, objective, users, items, interactions, seconds, "generation committed");
        } else if generation.interim {
            info!(number, residual, users, items, interactions, seconds, "interim generation committed, the solve of everything follows");
        } else {
            warn!(number, sweeps, residual, tolerance, objective, users, items, interactions, seconds, "generation committed uncertified");
        }
        if let Some(warning) = generation.warning {
            warn!(number, rank = generation.rank, "{warning}");
        }
        if let Some(refused) = generation.refused {
            warn!(number, "{refused}");
        }
    }
}

/// Prometheus' integer gauges are signed.
fn gauge(value: u64) -> i64 {
    value.try_into().unwrap_or(i64::MAX)
}

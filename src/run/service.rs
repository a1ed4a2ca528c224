//! The loop: one owner of the state, one synchronous [`Service::turn`] over ports, so that a simulation with a fake
//! broker, a crashing store and a seeded clock runs the same code as production.

use std::sync::Arc;
use std::time::Instant;

use crate::config::{Generation, Keep, Purge, Topics};
use crate::kafka::{Positions, Sink, Source};
use crate::metrics::{Happening, Metrics};
use crate::model::factors::Side;
use crate::model::generation::Outcome;
use crate::model::processor::{FoldError, State};
use crate::model::receipt::Status;
use crate::model::{Millis, receipt};
use crate::run::allocator;
use crate::run::backoff::{Backoff, passed};
use crate::run::board::{Board, Phase};
use crate::run::keys::Signer;
use crate::run::purger::Purger;
use crate::run::purging::Purging;
use crate::run::restoring::{ForgetsLost, Restoring};
use crate::run::sending::Sending;
use crate::run::solver::{Solved, Solver};
use crate::run::taking::Untold;
use crate::run::telling::committed;
use crate::store::StoreError;
use crate::store::tables::Tables;

/// Outbox rows beyond which nothing new is taken in: the way out must keep up with the way in.
const OUTBOX_LIMIT: u64 = 50_000;
/// Bytes of dead letters beyond which nothing new is taken in, for the same reason: a producer decides how long they are.
const LETTER_LIMIT: u64 = 64 << 20;
/// What the loop talks to.
pub struct Ports<'p> {
    pub source: &'p mut dyn Source,
    pub sink: &'p mut dyn Sink,
    pub solver: &'p mut dyn Solver,
    pub purger: &'p mut dyn Purger,
}

/// Why the loop ends: its state and the store's may no longer agree. A restart goes on from the last commit.
#[derive(Debug, thiserror::Error)]
pub enum TurnError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Fold(#[from] FoldError<StoreError>),
    /// Another process goes on from a copy of this state, or of another one, on the same topics.
    #[error("{0}")]
    Superseded(String),
    #[error(transparent)]
    ForgetsLost(#[from] ForgetsLost),
}

/// Events taken in and when.
type Ages = Vec<(Millis, u64)>;

/// The solve that is under way.
struct Solving {
    since: Millis,
    /// When it may give way to a forget.
    gives_way: GivesWay,
    gave_way: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum GivesWay {
    Never,
    /// It serves forgets: to one that comes before this time, and joins them.
    Before(Millis),
    /// It serves nobody: once it has been under way for `generation.interim_after`, so that it gets somewhere.
    Late,
}

/// What a service is made of.
pub struct Parts {
    pub state: State,
    pub tables: Tables,
    pub topics: Topics,
    pub timing: Generation,
    pub purge: Purge,
    pub signer: Signer,
    pub metrics: Arc<Metrics>,
    pub board: Arc<Board>,
}

/// The service without its threads.
pub struct Service {
    pub(super) state: State,
    pub(super) tables: Tables,
    pub(super) topics: Topics,
    timing: Generation,
    pub(super) signer: Signer,
    pub(super) metrics: Arc<Metrics>,
    pub(super) board: Arc<Board>,
    /// The step that is being written.
    pub(super) untold: Option<Untold>,
    /// What the store holds for sure.
    pub(super) stored: Positions,
    pub(super) sending: Option<Sending>,
    /// Another process may be at work with our identity: the next parcel looks, and is sent even when it is empty.
    pub(super) contested: bool,
    solving: Option<Solving>,
    /// What a solve came to, and its seconds, until it can be adopted.
    outcome: Option<(Outcome, f64)>,
    /// Rows that wait in the outbox.
    pub(super) outbox: u64,
    /// Bytes of the dead letters among them.
    pub(super) letter_bytes: u64,
    /// A whole generation is among them. The next one is not adopted before it is out: the rows' values are those of the
    /// current one.
    pub(super) unpublished: bool,
    /// When the oldest change came that no generation knows.
    pub(super) first_change: Option<Millis>,
    pub(super) first_forget: Option<Millis>,
    /// The next generation is due whatever the delays: the current one is an interim, or a solve gave way.
    urgent: bool,
    /// A solve that served forgets gave way to more; the next one finishes.
    joined: bool,
    /// Seen since the last cut; in the generation that is solved; in the one that is on its way to readers.
    pub(super) ages: Ages,
    pub(super) ages_under_way: Ages,
    pub(super) ages_adopted: Ages,
    freeze_seconds: f64,
    pub(super) sink_pause: Backoff,
    solver_pause: Backoff,
    pub(super) purging: Purging,
    pub(super) keep: Keep,
    /// See [`super::restoring`].
    pub(super) restoring: Option<Restoring>,
}

impl Service {
    /// Goes on from what `state` and `tables` hold.
    ///
    /// # Errors
    /// [`StoreError`] when the outbox cannot be read.
    pub fn new(parts: Parts, now: Millis) -> Result<Service, StoreError> {
        let Parts { state, tables, topics, timing, purge, signer, metrics, board } = parts;
        let purging = Purging::new(purge, &tables, now)?;
        let backlog = tables.backlog()?;
        let restoring = tables.comeback()?.map(Restoring::new);
        let stored = state.positions().clone();
        let waits = state.waiting().values().any(|request| request.receipt.status == Status::Erased);
        let service = Service {
            first_change: state.is_behind().then_some(now),
            // How old they are is not in the store: at least this.
            ages: state.is_behind().then_some((now, 0)).into_iter().collect(),
            first_forget: waits.then_some(now),
            urgent: state.current().is_some_and(|current| current.manifest.interim),
            joined: false,
            state,
            tables,
            topics,
            timing,
            signer,
            metrics,
            board,
            untold: None,
            stored,
            sending: None,
            contested: false,
            solving: None,
            outcome: None,
            outbox: backlog.rows,
            letter_bytes: backlog.letter_bytes,
            unpublished: backlog.generation,
            ages_under_way: Ages::new(),
            ages_adopted: Ages::new(),
            freeze_seconds: 0.0,
            sink_pause: Backoff::default(),
            solver_pause: Backoff::default(),
            purging,
            keep: Keep::default(),
            restoring,
        };
        if let Some(restoring) = &service.restoring {
            tracing::warn!("this state came from a backup: nothing is served or published before it has caught up with the forgets");
            service.board.restoring(Some(restoring.reason()));
            return Ok(service);
        }
        service.show_model();
        if let Some(current) = service.state.current() {
            service.metrics.observe(&Happening::GenerationFound(committed(&current.manifest, &[])));
        }
        Ok(service)
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Everything that is stored is published, and nothing is under way.
    pub fn is_settled(&self) -> bool {
        self.solving.is_none() && self.outcome.is_none() && self.restoring.is_none() && self.is_drained() && !self.state.is_behind()
    }

    /// Nothing is left to write or to hand out.
    pub fn is_drained(&self) -> bool {
        self.untold.is_none() && self.sending.is_none() && self.outbox == 0
    }

    /// Does what can be done now; true when anything was. Never waits. `take_in` of false leaves the source alone.
    ///
    /// # Errors
    /// [`TurnError`] ends the process: memory may be ahead of the store.
    pub fn turn(&mut self, ports: &mut Ports<'_>, now: Millis, take_in: bool) -> Result<bool, TurnError> {
        self.contested |= ports.source.contested();
        self.expire_fences(now)?;
        let has_room = self.outbox < OUTBOX_LIMIT && self.letter_bytes < LETTER_LIMIT;
        let batch = if take_in && has_room { ports.source.poll() } else { None };
        let mut progress = match batch {
            Some(batch) => {
                self.take_in(&batch, ports.source, now)?;
                ports.source.spent(batch);
                true
            }
            // Nothing to decide while the last step is written.
            None => self.settle(ports.source)?,
        };
        if let Some(parceled) = ports.sink.poll() {
            self.parceled(parceled, now)?;
            progress = true;
        }
        if let Some(solved) = ports.solver.poll() {
            self.solved(solved, now);
            progress = true;
        }
        if self.sending.is_none() && (self.outbox > 0 || self.contested) && self.sink_pause.is_over(now) {
            progress |= self.send(ports.sink, now)?;
        }
        // The rows in the outbox have their values from the generation that stands: it stays until they are out. Receipts of
        // that one are on their way by now, and do not wait for the whole of this one.
        if let Some((outcome, seconds)) = self.outcome.take_if(|_| !self.unpublished) {
            self.adopt(outcome, seconds, now)?;
            progress = true;
        }
        if take_in && self.is_due(now) {
            self.freeze(ports.solver, now)?;
            progress = true;
        }
        self.give_way(ports.solver, now);
        progress |= match self.restoring {
            None => self.purge(ports.purger, now)?,
            Some(_) => self.restore(ports.purger, &ports.source.state(), now)?,
        };
        if !progress {
            // Nobody waits for it.
            progress = self.tables.tidy()?;
        }
        self.board.phase(self.phase());
        Ok(progress)
    }

    fn phase(&self) -> Phase {
        match (&self.sending, self.solving.is_some()) {
            // Also while the next one is solved: brokers that hang must show.
            (Some(Sending { generation: Some(_), .. }), _) => Phase::Publishing,
            (_, true) => Phase::Solving,
            _ => Phase::Idle,
        }
    }

    /// The next generation is due whatever the delays.
    pub(super) fn at_once(&mut self) {
        self.urgent = true;
    }

    /// One generation at a time is solved; the one before may still be on its way to readers, unless it waits for brokers:
    /// one that begins when they are back knows more.
    fn is_due(&self, now: Millis) -> bool {
        let waits = self.unpublished && (self.sink_pause.is_on() || self.restoring.is_some());
        if waits || self.restoring.as_ref().is_some_and(|restoring| !restoring.may_solve()) {
            return false;
        }
        let under_way = self.solving.is_some() || self.outcome.is_some();
        if under_way || !self.solver_pause.is_over(now) || !self.state.is_behind() {
            return false;
        }
        self.urgent
            || self.state.changed() >= self.timing.max_events
            || passed(self.first_change, self.timing.max_delay, now)
            || self.forget_is_due(now)
    }

    fn forget_is_due(&self, now: Millis) -> bool {
        passed(self.first_forget, self.timing.forget_delay, now)
    }

    /// Ends a solve for a forget that is due; what the solve has found is gone on from. One that serves nobody gives way
    /// when it is long: the forget must not wait for a model that still knows what it forgets. One that serves forgets is
    /// joined in its first half, once: a forget waits for half a solve and its own at the most, and requests that keep coming
    /// keep nobody from being served. One that is over and waits until the generation before is out is gone on from, too.
    fn give_way(&mut self, solver: &mut dyn Solver, now: Millis) {
        let due = self.forget_is_due(now);
        if let Some((outcome, _)) = self.outcome.take_if(|_| due && self.unpublished && !self.joined) {
            self.joined = outcome.serves();
            self.state.abandon(outcome);
            self.urgent = true;
        }
        let Some(solving) = self.solving.as_mut().filter(|solving| due && !solving.gave_way) else { return };
        let (gives_way, serves) = match solving.gives_way {
            GivesWay::Never => (false, false),
            // A clock that was set back must not bring the first half back.
            GivesWay::Before(end) => ((solving.since..end).contains(&now), true),
            GivesWay::Late => (passed(Some(solving.since), self.timing.interim_after, now), false),
        };
        if gives_way {
            tracing::debug!("the solve gives way to a forget");
            solving.gave_way = true;
            self.joined = serves;
            solver.cancel();
        }
    }

    #[allow(clippy::disallowed_methods, reason = "how long a phase takes is told, and decides nothing")]
    fn freeze(&mut self, solver: &mut dyn Solver, now: Millis) -> Result<(), TurnError> {
        let began = Instant::now();
        let read = self.state.changed();
        allocator::give_back_after(read);
        let job = self.state.freeze_for(&self.tables, self.timing.interim_after)?;
        tracing::debug!(generation = job.number(), interim = job.is_interim(), "solving");
        self.ages_under_way.append(&mut self.ages);
        (self.first_change, self.first_forget, self.urgent) = (None, None, false);
        let gives_way = match (job.is_interim(), job.serves()) {
            (false, false) => GivesWay::Late,
            (false, true) if !self.joined => GivesWay::Before(now + self.state.solve_time().as_millis() as Millis / 2),
            _ => GivesWay::Never,
        };
        self.solving = Some(Solving { since: now, gives_way, gave_way: false });
        self.freeze_seconds = began.elapsed().as_secs_f64();
        self.board.frozen(now);
        allocator::give_back_after(read);
        solver.start(job);
        Ok(())
    }

    fn solved(&mut self, solved: Solved, now: Millis) {
        let gave_way = self.solving.take().is_some_and(|solving| solving.gave_way);
        match solved.result {
            Ok(outcome) if gave_way && !outcome.is_certified() => {
                self.state.abandon(outcome);
                self.urgent = true;
            }
            Ok(outcome) => self.outcome = Some((outcome, solved.seconds)),
            Err(reason) => {
                self.metrics.observe(&Happening::SolverFailed { reason: &reason });
                self.state.failed();
                self.retry_later(now);
            }
        }
    }

    #[allow(clippy::disallowed_methods, reason = "how long a phase takes is told, and decides nothing")]
    fn adopt(&mut self, outcome: Outcome, seconds: f64, now: Millis) -> Result<(), TurnError> {
        self.joined = false;
        self.ages_adopted.append(&mut self.ages_under_way);
        let trace = outcome.solution.trace.clone();
        let began = Instant::now();
        let new = self.state.adopt(outcome, seconds, now);
        let Some(current) = self.state.current() else { return Ok(()) };
        // Before the commit, which needs the room of the generation before.
        self.board.serve(current, self.names());
        self.tables.commit_generation(&new, current)?;
        self.outbox += new.outbox.len() as u64;
        self.unpublished = true;
        let manifest = &current.manifest;
        let certified = manifest.certificate.holds();
        let phases = [("freeze", self.freeze_seconds), ("solve", seconds), ("commit", began.elapsed().as_secs_f64())];
        self.metrics.observe(&Happening::GenerationCommitted(committed(manifest, &phases)));
        new.requests.iter().for_each(|(_, request)| self.tell_receipt(&request.receipt, now));
        self.board.committed(manifest, trace);
        if certified {
            self.solver_pause.succeed();
        } else if manifest.interim {
            self.urgent = true;
        } else {
            self.retry_later(now);
        }
        Ok(())
    }

    /// The same work is due again, after a pause.
    fn retry_later(&mut self, now: Millis) {
        self.solver_pause.fail(now);
        self.first_change.get_or_insert(now);
        if self.state.waiting().values().any(|request| request.receipt.status == Status::Erased) {
            self.first_forget.get_or_insert(now);
        }
    }

    /// Hands the published model to the pages.
    pub(super) fn show_model(&self) {
        if let Some(current) = self.state.current() {
            self.board.published(current, self.names());
        }
    }

    fn names(&self) -> [Arc<Vec<Option<Arc<str>>>>; 2] {
        Side::BOTH.map(|side| self.state.dictionary().names(side).clone())
    }
}

/// The time of a receipt or manifest.
pub fn stamp(now: Millis) -> String {
    receipt::instant(now).to_string()
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "fences_tests.rs"]
mod fences_tests;

#[cfg(test)]
#[path = "interim_tests.rs"]
mod interim_tests;

#[cfg(test)]
#[path = "derived_tests.rs"]
mod derived_tests;

#[cfg(test)]
#[path = "upgrade_tests.rs"]
mod upgrade_tests;

//! The shell around the core: builds the ports, turns the loop, tells the pages. The only reader of the clock.

pub mod allocator;
mod backoff;
pub mod backup;
pub mod board;
mod course;
#[cfg(test)]
mod hostile_tests;
mod keeping;
pub mod keyring;
pub mod keys;
pub mod parcel;
pub mod purger;
pub mod purging;
pub mod restoring;
mod sending;
pub mod service;
#[cfg(test)]
mod simulation;
pub mod solver;
pub mod survey;
mod taking;
mod telling;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::config::Config;
use crate::http::guard::{Guard, TokenTooShort};
use crate::http::{HttpError, Server, Views};
use crate::kafka::Bell;
use crate::kafka::admin::Prover;
use crate::kafka::client::ClientSettings;
use crate::kafka::sink::KafkaSink;
use crate::kafka::source::{KafkaSource, SourceError, SourceLimits};
use crate::metrics::{Happening, Metrics, MetricsError};
use crate::model::Millis;
use crate::model::event::Refusal;
use crate::model::processor::{InputTopics, State};
use crate::store::rocks::RocksStore;
use crate::store::tables::Tables;
use crate::store::{Family, Store, StoreError};

use backup::Desk;
use board::Board;
use keyring::Keyring;
pub use keys::HASH_KEY_FILE;
use keys::{Missing, Signer};
use purger::{ThreadPurger, Worker};
use service::{Parts, Ports, Service, TurnError};
use solver::{Progress, ThreadSolver};

/// File of the signing key in the state directory, unless configured elsewhere.
pub const SIGNING_KEY_FILE: &str = "receipts.pem";
/// Longest sleep of the loop: time alone can make a generation due.
const LONGEST_SLEEP: Duration = Duration::from_millis(20);
/// Time between two looks at gauges.
const OBSERVE_EVERY: Millis = 500;
/// Time between two looks for what a backup that did not end well has left.
const TIDY_EVERY: Millis = 60_000;
/// Time that a stop waits for the outbox to drain.
const DRAIN: Millis = 10_000;

/// Why the service did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("http.token_file {}: {source}", path.display())]
    TokenFile { path: PathBuf, source: std::io::Error },
    #[error("http.token_file {}: {source}", path.display())]
    Token { path: PathBuf, source: TokenTooShort },
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    #[error("cannot start the solver's threads: {0}; lower model.threads")]
    Threads(#[from] rayon::ThreadPoolBuildError),
    #[error("cannot start a thread: {0}")]
    Spawn(std::io::Error),
    #[error(transparent)]
    Turn(#[from] TurnError),
    #[error("the loop ended without a reason; see the message above")]
    Lost,
}

/// Milliseconds since the epoch.
#[allow(clippy::disallowed_methods, reason = "run is the room that reads the clock")]
pub fn now() -> Millis {
    // A clock before 1970 counts as 1970.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as Millis)
}

/// The service on its own threads.
pub struct Running {
    board: Arc<Board>,
    server: Option<Server>,
    stop: Arc<AtomicBool>,
    bell: Bell,
    ended: Receiver<Result<(), TurnError>>,
    thread: Option<JoinHandle<()>>,
}

/// Starts everything: state, ports, loop, pages.
///
/// # Errors
/// [`RunError`]; nothing runs then.
pub fn start(config: Config) -> Result<Running, RunError> {
    let store: Arc<dyn Store> = Arc::new(RocksStore::open(&config.store.path)?);
    let desk = Desk::open(&config.store.path);
    let key = keys::hash_key(&*store, &config.store.path, Missing::Made)?;
    let signing_key = config.receipts.signing_key.clone().unwrap_or_else(|| config.store.path.join(SIGNING_KEY_FILE));
    let signer = Signer::open(&signing_key)?;
    let keyring = Keyring::kept(&config.store.path, &signer.public(), now())?;
    let tables = Tables::new(store.clone(), config.model.objective, &key)?;
    let inputs = InputTopics { interactions: config.topics.interactions.clone(), forgets: config.topics.forgets.clone() };
    let state = State::open(config.model.clone(), inputs, tables.restore(key.clone())?, &tables)?;
    if let Some((side, number)) = state.nameless() {
        return Err(StoreError::nameless(side, number).into());
    }

    let metrics = Arc::new(Metrics::new(Refusal::CODES)?);
    let topics = &config.topics;
    metrics.expect(&[&topics.factors, &topics.generations, &topics.receipts, &topics.dead_letters], &Family::ALL.map(Family::name));
    for (stage, within) in [("published", config.receipts.published_within), ("purged", config.receipts.purged_within)] {
        metrics.observe(&Happening::Objective { stage, seconds: within.as_secs_f64() });
    }
    let progress = Arc::new(Progress::default());
    let bell = Bell::default();
    let board = Arc::new(Board::new(store.clone(), key.clone(), metrics.clone(), progress.clone(), now()));
    board.signing(&keyring, signer.clone());
    let solver = ThreadSolver::new(config.model.threads, progress, bell.clone())?;
    let settings = ClientSettings {
        brokers: config.kafka.brokers.clone(),
        group: config.kafka.group.clone(),
        properties: config.kafka.properties.clone(),
    };
    let read = vec![config.topics.interactions.clone(), config.topics.forgets.clone()];
    // A static member takes its place in the group again at once after a crash, where a new member would wait for the
    // old one's session to run out; and of two processes with one identity the broker fences the older.
    let mut member = settings.clone();
    let installation = key.installation();
    member.properties.entry("group.instance.id".to_owned()).or_insert_with(|| format!("nepenthe-{installation}"));
    // A static member does not say goodbye: this is how long another state must wait to read under the same group.
    member.properties.entry("session.timeout.ms".to_owned()).or_insert_with(|| "10000".to_owned());
    let source = KafkaSource::start(member, read, state.positions().clone(), SourceLimits::default(), bell.clone())?;
    let transactional_id = config.kafka.transactions.then(|| format!("{}-{installation}", config.kafka.group));
    let worker = Worker::new(store, Prover::new(settings.clone(), config.topics.factors.clone()), key);
    let worker = worker.with_topics(settings.clone(), config.topics.clone());
    let purger = ThreadPurger::start(worker, bell.clone()).map_err(RunError::Spawn)?;
    let sink = KafkaSink::start(settings, transactional_id, bell.clone());
    let (topics, timing, purge) = (config.topics.clone(), config.generation.clone(), config.purge.clone());
    let mut service = Service::new(Parts { state, tables, topics, timing, purge, signer, metrics, board: board.clone() }, now())?;
    service.keep(config.keep.clone());
    let guard = guard(config.http.token_file.as_deref())?;
    let server = Server::start(config.http.listen, guard, board.clone())?;

    let stop = Arc::new(AtomicBool::new(false));
    let (sender, ended) = sync_channel(1);
    let looping = Loop { service, source, sink, solver, purger, desk, stop: stop.clone(), bell: bell.clone() };
    let told = board.clone();
    let thread = std::thread::Builder::new()
        .name("loop".into())
        .spawn(move || {
            let result = looping.run();
            if let Err(error) = &result {
                tracing::error!(%error, "the loop ended; a restart goes on from the last commit");
                told.ended(error.to_string());
            }
            // Nobody may be waiting any more.
            let _ = sender.send(result);
        })
        .map_err(RunError::Spawn)?;
    Ok(Running { board, server: Some(server), stop, bell, ended, thread: Some(thread) })
}

/// Who may read the pages.
fn guard(token_file: Option<&Path>) -> Result<Guard, RunError> {
    let Some(path) = token_file else { return Ok(Guard::open()) };
    let token = std::fs::read_to_string(path).map_err(|source| RunError::TokenFile { path: path.to_path_buf(), source })?;
    Guard::with_token(&token).map_err(|source| RunError::Token { path: path.to_path_buf(), source })
}

impl Running {
    /// What the pages show.
    pub fn views(&self) -> Arc<dyn Views> {
        self.board.clone()
    }

    /// Where the pages are.
    pub fn http_addr(&self) -> Option<SocketAddr> {
        self.server.as_ref().map(Server::local_addr)
    }

    /// Waits until the loop has ended by itself, at most `timeout`; `None` while it runs.
    pub fn ended(&self, timeout: Duration) -> Option<Result<(), RunError>> {
        match self.ended.recv_timeout(timeout) {
            Ok(result) => Some(result.map_err(RunError::from)),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Err(RunError::Lost)),
        }
    }

    /// Stops: takes nothing more in, lets the outbox drain for a while, leaves the group, closes the store.
    ///
    /// # Errors
    /// What ended the loop, if it ended before.
    pub fn stop(mut self) -> Result<(), RunError> {
        self.stop.store(true, Ordering::Relaxed);
        self.bell.ring();
        let result = self.ended.recv().map_err(|_| RunError::Lost)?;
        self.close();
        Ok(result?)
    }

    fn close(&mut self) {
        if let Some(thread) = self.thread.take() {
            // A panic in the loop was reported by the panic hook.
            let _ = thread.join();
        }
        if let Some(server) = self.server.take() {
            server.stop();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.bell.ring();
        self.close();
    }
}

struct Loop {
    service: Service,
    source: KafkaSource,
    sink: KafkaSink,
    solver: ThreadSolver,
    purger: ThreadPurger,
    desk: Desk,
    stop: Arc<AtomicBool>,
    bell: Bell,
}

impl Loop {
    fn run(self) -> Result<(), TurnError> {
        let Loop { mut service, mut source, mut sink, mut solver, mut purger, desk, stop, bell } = self;
        let mut observed = 0;
        let mut drain_until = None;
        loop {
            let at = now();
            let stopping = stop.load(Ordering::Relaxed);
            let mut ports = Ports { source: &mut source, sink: &mut sink, solver: &mut solver, purger: &mut purger };
            let progress = service.turn(&mut ports, at, !stopping)?;
            if at - observed >= OBSERVE_EVERY {
                service.observe(&source, at);
                desk.serve(|to| service.back_up(to, at));
                if at / TIDY_EVERY != observed / TIDY_EVERY {
                    desk.tidy();
                }
                observed = at;
            }
            if stopping && (service.is_drained() || at > *drain_until.get_or_insert(at + DRAIN)) {
                return Ok(());
            }
            if !progress {
                bell.wait(LONGEST_SLEEP);
            }
        }
    }
}

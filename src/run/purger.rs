//! Purges beside the loop: the disk through the store, the factors topic through a reader of its own. One order at a time,
//! on a thread of its own.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::time::{Duration, Instant};

use super::survey::{Survey, survey};
use crate::config::Topics;
use crate::kafka::Bell;
use crate::kafka::admin::{Finding, ProofError, Prover, Question};
use crate::kafka::client::ClientSettings;
use crate::model::Millis;
use crate::model::fence::{HashKey, Subject};
use crate::store::residue::GoneRow;
use crate::store::{Erased, KeyRange, Store, StoreError};

/// How long the end of the thread is waited for before it is left to itself: a broker that is away may hold it.
const FAREWELL: Duration = Duration::from_secs(10);

/// What is to be purged next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Make the bytes of deleted and replaced rows in these ranges disappear.
    Disk(Vec<KeyRange>),
    /// Make the segments of the factors topic roll, and look what is left there.
    Topic(TopicOrder),
    /// No purge: look what a state of a backup has missed since, and what readers have.
    Survey { since: Millis },
}

/// See [`Question`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicOrder {
    pub need: BTreeMap<i32, i64>,
    pub upto: BTreeMap<i32, i64>,
    pub names: bool,
    pub gone: Vec<GoneRow>,
}

/// What became of an order, and the wall-clock seconds that it took.
#[derive(Debug)]
pub enum Purged {
    Disk {
        result: Result<Erased, StoreError>,
        seconds: f64,
    },
    Topic {
        result: Result<Finding, String>,
        seconds: f64,
    },
    Survey(Result<Survey, String>),
    /// The thread is gone; in words for an operator.
    Lost(String),
}

/// Purges. One order is under way at a time.
pub trait Purger {
    fn start(&mut self, order: Order);
    /// What became of the order, once. Never blocks.
    fn poll(&mut self) -> Option<Purged>;
}

/// Does what orders say, on the calling thread.
pub struct Worker {
    store: Arc<dyn Store>,
    prover: Prover,
    surveyor: Option<(ClientSettings, Topics)>,
    key: HashKey,
    stop: Arc<AtomicBool>,
}

impl Worker {
    pub fn new(store: Arc<dyn Store>, prover: Prover, key: HashKey) -> Worker {
        Worker { store, prover, surveyor: None, key, stop: Arc::default() }
    }

    /// Lets it look at all topics.
    pub fn with_topics(self, settings: ClientSettings, topics: Topics) -> Worker {
        Worker { surveyor: Some((settings, topics)), ..self }
    }

    #[allow(clippy::disallowed_methods, reason = "run is the room that reads the clock")]
    fn work(&mut self, order: Order) -> Purged {
        let began = Instant::now();
        let seconds = || began.elapsed().as_secs_f64();
        match order {
            Order::Disk(ranges) => Purged::Disk { result: self.erase(&ranges), seconds: seconds() },
            Order::Survey { since } => Purged::Survey(self.survey(since)),
            Order::Topic(order) => Purged::Topic { result: self.look(&order).map_err(|e| e.to_string()), seconds: seconds() },
        }
    }

    fn survey(&self, since: Millis) -> Result<Survey, String> {
        let (settings, topics) = self.surveyor.as_ref().ok_or("nobody said which topics there are")?;
        survey(settings, topics, &self.key, since).map_err(|error| error.to_string())
    }

    /// # Errors
    /// [`StoreError`] when the store fails.
    pub fn erase(&self, ranges: &[KeyRange]) -> Result<Erased, StoreError> {
        self.store.erase(ranges, &|_| !self.stop.load(Ordering::Relaxed))
    }

    /// # Errors
    /// [`ProofError`] when the topic cannot be written or read.
    pub fn look(&mut self, order: &TopicOrder) -> Result<Finding, ProofError> {
        self.prover.beat()?;
        let must_be_gone = must_be_gone(&order.gone, &self.key);
        let go_on = &|| !self.stop.load(Ordering::Relaxed);
        self.prover.look(&Question { need: &order.need, upto: &order.upto, names: order.names, gone: &must_be_gone, go_on })
    }
}

/// The generation by which a record must be gone, if it must; see [`Question::gone`].
pub(super) fn must_be_gone<'k>(gone: &[GoneRow], key: &'k HashKey) -> impl Fn(&[u8], Option<u64>) -> Option<u64> + use<'k> {
    let gone: HashMap<Subject, u64> = gone.iter().map(|row| (row.key, row.generation)).collect();
    move |record, generation| {
        // Nobody's rows are hashed for nothing.
        let by = *(!gone.is_empty()).then(|| gone.get(&key.record(record))).flatten()?;
        // A later generation may have the row again.
        generation.is_none_or(|generation| generation <= by).then_some(by)
    }
}

/// The production purger.
pub struct ThreadPurger {
    orders: Option<Sender<Order>>,
    results: Receiver<Purged>,
    stop: Arc<AtomicBool>,
    waiting: bool,
}

impl ThreadPurger {
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(mut worker: Worker, bell: Bell) -> std::io::Result<ThreadPurger> {
        let (orders, todo) = channel();
        let (answers, results) = channel();
        let stop = worker.stop.clone();
        std::thread::Builder::new().name("purger".into()).spawn(move || {
            while let Ok(order) = todo.recv() {
                if answers.send(worker.work(order)).is_err() {
                    return;
                }
                bell.ring();
            }
        })?;
        Ok(ThreadPurger { orders: Some(orders), results, stop, waiting: false })
    }
}

impl Purger for ThreadPurger {
    fn start(&mut self, order: Order) {
        // A thread that is gone shows in `poll`.
        let _ = self.orders.as_ref().map(|orders| orders.send(order));
        self.waiting = true;
    }

    fn poll(&mut self) -> Option<Purged> {
        if !self.waiting {
            return None;
        }
        let result = match self.results.try_recv() {
            Ok(result) => result,
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => {
                Purged::Lost("the thread that purges has ended; see the message above and restart the process".to_owned())
            }
        };
        self.waiting = false;
        Some(result)
    }
}

impl Drop for ThreadPurger {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.orders = None;
        // The channel closes when the thread has given the store back; a last answer may still come before.
        loop {
            match self.results.recv_timeout(FAREWELL) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    tracing::warn!("the purge has not ended within {FAREWELL:?}; the next start takes it up");
                    return;
                }
            }
        }
    }
}

/// For tests of what does not purge.
#[cfg(test)]
pub(super) struct Idle;

#[cfg(test)]
impl Purger for Idle {
    fn start(&mut self, _: Order) {}

    fn poll(&mut self) -> Option<Purged> {
        None
    }
}

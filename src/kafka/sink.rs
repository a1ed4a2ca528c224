//! The way out on librdkafka: a thread that owns the producer and delivers one parcel after the other, whole or not at all.

mod courier;
mod tally;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::time::Duration;

use super::client::ClientSettings;
use super::{Bell, Parcel, Parceled, Sink};
use courier::Courier;
pub(super) use tally::{Ledger, wait};

/// How long the end of the thread is waited for before it is left to itself.
const FAREWELL: Duration = Duration::from_secs(10);

/// [`Sink`] over an idempotent producer, transactional where an id is given and the broker has transactions.
///
/// What a transaction gives is whole parcels for readers with `read_committed`. Correctness does not rest on it: a parcel
/// whose commit had no answer comes back as failed, and may be seen twice after it is handed in again.
pub struct KafkaSink {
    parcels: Option<Sender<Parcel>>,
    results: Receiver<Parceled>,
    /// A parcel that found no thread.
    lost: Option<String>,
    stop: Arc<AtomicBool>,
    waiting: bool,
}

impl KafkaSink {
    /// Starts the thread; the producer is made for the first parcel. The id must be of this state alone: a second process
    /// with the same id is locked out by the broker.
    pub fn start(settings: ClientSettings, transactional_id: Option<String>, bell: Bell) -> KafkaSink {
        let (parcels, orders) = channel::<Parcel>();
        let (answers, results) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let mut courier = Courier::new(settings, transactional_id, stop.clone());
        let work = move || {
            while let Ok(parcel) = orders.recv() {
                let result = courier.deliver(parcel);
                if answers.send(result).is_err() {
                    return;
                }
                bell.ring();
            }
        };
        let thread = std::thread::Builder::new().name("kafka-sink".into()).spawn(work);
        let lost = thread.err().map(|error| format!("cannot start the thread that writes to Kafka: {error}"));
        KafkaSink { parcels: Some(parcels), results, lost, stop, waiting: false }
    }
}

impl Sink for KafkaSink {
    fn send(&mut self, parcel: Parcel) {
        let sent = self.parcels.as_ref().is_some_and(|parcels| parcels.send(parcel).is_ok());
        if !sent && self.lost.is_none() {
            self.lost = Some("the thread that writes to Kafka has ended; restart the process".into());
        }
        self.waiting = true;
    }

    fn poll(&mut self) -> Option<Parceled> {
        if !self.waiting {
            return None;
        }
        let result = match self.results.try_recv() {
            Ok(result) => result,
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => {
                let reason = "the thread that writes to Kafka has ended; restart the process";
                Parceled::Failed(self.lost.clone().unwrap_or_else(|| reason.into()))
            }
        };
        self.waiting = false;
        Some(result)
    }
}

impl Drop for KafkaSink {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.parcels = None;
        // The channel closes when the thread has given its producer back; a last answer may still come before.
        loop {
            match self.results.recv_timeout(FAREWELL) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    tracing::warn!("the Kafka producer has not closed within {FAREWELL:?}; its transaction, if any, will time out");
                    return;
                }
            }
        }
    }
}

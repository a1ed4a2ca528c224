//! The way in on librdkafka: a thread that owns the consumer, serves rebalances, and hands batches over a short queue.

mod context;
mod health;
mod lane;
mod reader;
#[cfg(test)]
mod tests;
mod tray;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::client::{ClientError, ClientSettings};
use super::{Batch, Bell, Positions, Source, SourceState};
use health::Health;
use reader::{Out, Reader};

/// Batches that may wait for the loop. With the one that it has, the one that waits for a place, the one being filled and the
/// [`SPARE`] this bounds the memory: 9 × [`SourceLimits::bytes`] and what is noted of [`SourceLimits::records`].
const QUEUE: usize = 4;
/// Batches of which the room is kept for later ones: one is being used up while the next is filled.
const SPARE: usize = 2;
/// How long the end of the thread is waited for before it is left to itself.
const FAREWELL: Duration = Duration::from_secs(10);

/// When a batch is full.
#[derive(Debug, Clone, Copy)]
pub struct SourceLimits {
    /// Records.
    pub records: usize,
    /// Keys and payloads together.
    pub bytes: usize,
    /// Longest time that a batch is filled while records keep coming. A lone record waits for milliseconds only.
    pub linger: Duration,
}

impl Default for SourceLimits {
    fn default() -> Self {
        SourceLimits { records: 50_000, bytes: 8 << 20, linger: Duration::from_millis(50) }
    }
}

/// Why there is no way in.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("cannot read topic {0:?}: a name has 1 to 249 of the characters a-z, A-Z, 0-9, '.', '_' and '-'; correct [topics]")]
    Topic(String),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("cannot start the thread that reads from Kafka: {0}; check the limits on threads and memory")]
    Thread(#[source] std::io::Error),
}

/// What the thread and the loop both see.
struct Shared {
    topics: Arc<[String]>,
    brokers: String,
    bell: Bell,
    stop: AtomicBool,
    /// Somebody took our place in the group, and nobody has asked yet.
    contested: AtomicBool,
    stored: Mutex<Positions>,
    /// Counts calls of [`Source::stored`], so that nothing is committed twice.
    stored_version: AtomicU64,
    view: Mutex<View>,
}

/// What is known of the way in.
#[derive(Default)]
struct View {
    state: SourceState,
    health: Health,
}

impl Shared {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Changes the view and rings when the change can be seen from outside.
    fn update(&self, change: impl FnOnce(&mut View)) {
        let mut view = lock(&self.view);
        let before = view.state.clone();
        change(&mut view);
        view.state.trouble = view.health.trouble();
        let changed = view.state != before;
        if changed && view.state.trouble != before.trouble {
            match &view.state.trouble {
                Some(trouble) => tracing::warn!("reading is in trouble: {trouble}"),
                None => tracing::info!("reading is healthy again"),
            }
        }
        drop(view);
        if changed {
            self.bell.ring();
        }
    }
}

/// A thread that panicked while it held the lock leaves plain data behind: it is still the best we know.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// [`Source`] over a consumer group of one or more processes.
///
/// A partition starts where [`Source::stored`] last said, else at its beginning, whatever the group committed: the offsets
/// that count are those stored with the state. After a rebalance, records that were handed over but not stored come again;
/// the receiver drops what is below its position, unless [`super::Record::reset`] is set.
pub struct KafkaSource {
    shared: Arc<Shared>,
    batches: Receiver<Batch>,
    spare: SyncSender<Batch>,
    done: Receiver<()>,
}

impl KafkaSource {
    /// Starts to read `topics` from `positions` on. Returns at once; a broker that is away shows in [`Source::state`].
    ///
    /// # Errors
    /// [`SourceError`] for what waiting cannot cure: a name that no topic can have, refused or unknown properties.
    pub fn start(
        settings: ClientSettings,
        topics: Vec<String>,
        positions: Positions,
        limits: SourceLimits,
        bell: Bell,
    ) -> Result<KafkaSource, SourceError> {
        let topics = distinct(topics)?;
        let shared = Arc::new(Shared {
            topics: topics.into(),
            brokers: settings.brokers.clone(),
            bell,
            stop: AtomicBool::new(false),
            contested: AtomicBool::new(false),
            stored: Mutex::new(positions),
            stored_version: AtomicU64::new(0),
            view: Mutex::default(),
        });
        let (out, batches) = sync_channel(QUEUE);
        let (spare, spent) = sync_channel(SPARE);
        let (farewell, done) = sync_channel(1);
        let first = reader::connect(&settings, &shared)?;
        let reader = Reader::new(settings, limits, shared.clone(), Out { batches: out, spent });
        std::thread::Builder::new()
            .name("kafka-source".into())
            .spawn(move || {
                reader.run(first);
                // Nobody listens when the owner has given up waiting.
                let _ = farewell.send(());
            })
            .map_err(SourceError::Thread)?;
        Ok(KafkaSource { shared, batches, spare, done })
    }
}

/// The topics in their order, each once.
fn distinct(topics: Vec<String>) -> Result<Vec<String>, SourceError> {
    let mut kept: Vec<String> = Vec::with_capacity(topics.len());
    for topic in topics {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if topic.is_empty() || topic.len() > 249 || !topic.bytes().all(allowed) {
            return Err(SourceError::Topic(topic));
        }
        if !kept.contains(&topic) {
            kept.push(topic);
        }
    }
    Ok(kept)
}

impl Source for KafkaSource {
    fn poll(&mut self) -> Option<Batch> {
        self.batches.try_recv().ok()
    }

    fn spent(&mut self, batch: Batch) {
        // Where enough are spare, its room goes back to the system.
        let _ = self.spare.try_send(batch);
    }

    fn stored(&mut self, positions: &Positions) {
        lock(&self.shared.stored).clone_from(positions);
        self.shared.stored_version.fetch_add(1, Ordering::Relaxed);
    }

    fn state(&self) -> SourceState {
        lock(&self.shared.view).state.clone()
    }

    fn contested(&mut self) -> bool {
        self.shared.contested.swap(false, Ordering::Relaxed)
    }
}

impl Drop for KafkaSource {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if self.done.recv_timeout(FAREWELL) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            tracing::warn!("the Kafka consumer has not closed within {FAREWELL:?}; the group will notice by its session timeout");
        }
    }
}

//! The reading thread: fill, hand over, pause when the loop is behind, and go on polling whatever happens.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::super::Batch;
use super::super::client::{ClientError, ClientSettings, creation_error, now, source_config};
use super::context::{News, SourceContext};
use super::lane::{Lane, SLOTS, Taken};
use super::tray::Tray;
use super::{Shared, SourceLimits, lock};

/// How long an idle poll lasts: the delay of a stop, and of events while records are waited for.
const IDLE: Duration = Duration::from_millis(25);
/// How long a batch waits for one more record before it goes.
const GRACE: Duration = Duration::from_millis(2);
/// How long the loop may be behind before fetching is paused. A pause throws the prefetched records away, so not at once.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often a full queue is looked at.
const RETRY: Duration = Duration::from_millis(1);
/// How often positions are committed to the group.
const COMMIT_EVERY: Duration = Duration::from_secs(5);
/// First and longest wait before a consumer is built anew.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// After a resume the statistics still speak of what the pause threw away.
const STATISTICS_SETTLE: Duration = Duration::from_secs(3);

type SourceConsumer = BaseConsumer<SourceContext>;

pub(super) fn connect(settings: &ClientSettings, shared: &Arc<Shared>) -> Result<SourceConsumer, ClientError> {
    let config = source_config(settings)?;
    config.create_with_context(SourceContext::new(shared.clone())).map_err(|error| creation_error("consumer", settings, error))
}

/// Which of our partitions are paused.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    Running,
    /// Paused, and then a rebalance brought partitions that are not.
    Mixed,
    Paused,
}

/// The way to the loop.
pub(super) struct Out {
    pub batches: SyncSender<Batch>,
    /// Batches that the loop is done with.
    pub spent: Receiver<Batch>,
}

pub(super) struct Reader {
    settings: ClientSettings,
    limits: SourceLimits,
    shared: Arc<Shared>,
    out: Out,
    tray: Tray,
    /// A batch for which there is no place yet.
    ready: Option<Batch>,
    /// The queue is full since then.
    full: Option<Instant>,
    flow: Flow,
    /// Partitions are ours: records can come.
    reading: bool,
    resumed: Option<Instant>,
    /// When positions were last committed, and which.
    committed: (Instant, u64),
    broken: Option<String>,
}

impl Reader {
    pub(super) fn new(settings: ClientSettings, limits: SourceLimits, shared: Arc<Shared>, out: Out) -> Reader {
        let tray = Tray::new(shared.topics.clone());
        let committed = (now(), 0);
        Reader {
            settings,
            limits,
            shared,
            out,
            tray,
            ready: None,
            full: None,
            flow: Flow::Running,
            reading: false,
            resumed: None,
            committed,
            broken: None,
        }
    }

    /// Reads until it is told to stop; a consumer that fails is replaced after a pause that doubles.
    pub(super) fn run(mut self, first: SourceConsumer) {
        let mut consumer = Some(first);
        let mut backoff = BACKOFF.0;
        while !self.shared.stopped() {
            let started = now();
            let connected = consumer.take().map_or_else(|| connect(&self.settings, &self.shared), Ok);
            let failure = match connected {
                Ok(consumer) => {
                    let failure = self.session(&consumer);
                    if consumer.client().fatal_error().is_some() {
                        // After a fatal error librdkafka waits for ever when it is closed. Its threads are left to themselves: that
                        // happens when another process took our place, and costs less than reading that stands still.
                        std::mem::forget(consumer);
                    }
                    failure
                }
                Err(error) => Some(error.to_string()),
            };
            self.shared.update(|view| {
                view.state.assigned.clear();
                view.state.ends.clear();
                if let Some(failure) = &failure {
                    view.health.broken(failure);
                }
            });
            if failure.is_some() {
                backoff = if started.elapsed() > BACKOFF.1 { BACKOFF.0 } else { backoff };
                self.rest(backoff);
                backoff = (backoff * 2).min(BACKOFF.1);
            }
        }
    }

    /// Sleeps, but not through a stop.
    fn rest(&self, time: Duration) {
        let until = now() + time;
        while !self.shared.stopped() && now() < until {
            std::thread::sleep(IDLE);
        }
    }

    /// One consumer's life. Returns why it ended, `None` when it was told to.
    fn session(&mut self, consumer: &SourceConsumer) -> Option<String> {
        (self.flow, self.reading, self.broken) = (Flow::Running, false, None);
        let Some(mut lane) = Lane::beside(consumer, &consumer.context().lead) else {
            return Some("librdkafka has no memory for a queue".to_owned());
        };
        let topics: Vec<&str> = self.shared.topics.iter().map(String::as_str).collect();
        if let Err(error) = consumer.subscribe(&topics) {
            return Some(format!("cannot subscribe to {topics:?}: {error}"));
        }
        while !self.shared.stopped() {
            if self.full.is_some() {
                self.wait_for_room(consumer, &mut lane);
            } else {
                self.fill(consumer, &mut lane);
                self.hand_over();
            }
            self.commit(consumer, COMMIT_EVERY);
            if self.broken.is_some() {
                return self.broken.take();
            }
        }
        self.commit(consumer, Duration::ZERO);
        None
    }

    /// Polls until the batch is full, old enough, or nothing more is at hand.
    fn fill(&mut self, consumer: &SourceConsumer, lane: &mut Lane<'_>) {
        let started = now();
        let mut wait = IDLE;
        loop {
            let quiet = self.serve(consumer, lane, wait) == 0;
            let records = self.tray.records();
            if quiet && (records == 0 || wait == GRACE) || self.broken.is_some() {
                return;
            }
            if records >= self.limits.records || self.tray.bytes() >= self.limits.bytes || started.elapsed() >= self.limits.linger {
                return;
            }
            wait = if quiet { GRACE } else { Duration::ZERO };
        }
    }

    /// Serves what has happened, then takes records; returns how many. The news come first, for they may change what a
    /// record means.
    fn serve(&mut self, consumer: &SourceConsumer, lane: &mut Lane<'_>, wait: Duration) -> usize {
        let before = self.tray.records();
        let polled = consumer.poll(if self.reading && self.broken.is_none() { Duration::ZERO } else { wait });
        if let Some(news) = consumer.context().news() {
            news.into_iter().for_each(|news| self.apply(news));
        }
        match polled {
            Some(Ok(message)) => self.tray.push(&Taken::of(&message)),
            Some(Err(KafkaError::MessageConsumptionFatal(code))) => self.broken = Some(self.fatal(consumer, code)),
            Some(Err(KafkaError::MessageConsumption(code))) if is_unreadable(code) => self.shared.update(|view| view.health.unreadable()),
            // All others have come through the context's `error`, with more words.
            Some(Err(error)) => tracing::debug!("consumer: {error}"),
            None => {}
        }
        if self.reading && self.broken.is_none() {
            let mut fatal = None;
            let error = |code, reason: &str| match code {
                RDKafkaErrorCode::Fatal => fatal = Some(code),
                code if is_unreadable(code) => self.shared.update(|view| view.health.unreadable()),
                code => consumer.context().error(KafkaError::MessageConsumption(code), reason),
            };
            lane.take(self.room(wait), wait, |taken| self.tray.push(taken), error);
            if let Some(code) = fatal {
                self.broken = Some(self.fatal(consumer, code));
            }
        }
        self.tray.records() - before
    }

    /// How many records may be taken at once: no more than fit, as far as those at hand tell. A first one is not kept waiting
    /// for others.
    fn room(&self, wait: Duration) -> usize {
        let (records, bytes) = (self.tray.records(), self.tray.bytes());
        if records == 0 && !wait.is_zero() {
            return 1;
        }
        let average = bytes / records.max(1) + 1;
        (self.limits.bytes.saturating_sub(bytes) / average).min(self.limits.records.saturating_sub(records)).clamp(1, SLOTS)
    }

    /// Why the consumer is of no more use.
    fn fatal(&self, consumer: &SourceConsumer, code: RDKafkaErrorCode) -> String {
        let (code, reason) = consumer.client().fatal_error().unwrap_or_else(|| (code, code.to_string()));
        if code == RDKafkaErrorCode::FencedInstanceId {
            self.shared.contested.store(true, Ordering::Relaxed);
            self.shared.bell.ring();
        }
        reason
    }

    fn apply(&mut self, news: News) {
        match news {
            News::Assigned { starts, whole } => {
                starts.iter().for_each(|(topic, partition, position)| self.tray.start(topic, *partition, *position));
                tracing::info!("{} partitions assigned", starts.len());
                self.rebalanced(|assigned| {
                    if whole {
                        assigned.clear();
                    }
                    assigned.extend(starts.into_iter().map(|(topic, partition, _)| (topic, partition)));
                });
            }
            News::Revoked(lost) => {
                tracing::info!("{} partitions revoked", lost.as_ref().map_or("all".into(), |lost| lost.len().to_string()));
                self.rebalanced(|assigned| assigned.retain(|one| lost.as_ref().is_some_and(|lost| !lost.contains(one))));
            }
            News::Ends(ends) => {
                let settled = self.resumed.is_none_or(|at| at.elapsed() > STATISTICS_SETTLE);
                let mut ends = self.tray.ends(ends, settled && self.flow == Flow::Running);
                self.shared.update(|view| {
                    ends.retain(|partition, _| view.state.assigned.contains(partition));
                    view.state.ends = ends;
                });
            }
            News::Broken(reason) => self.broken = Some(reason),
        }
    }

    fn rebalanced(&mut self, change: impl FnOnce(&mut Vec<(String, i32)>)) {
        let reading = &mut self.reading;
        self.shared.update(|view| {
            let state = &mut view.state;
            change(&mut state.assigned);
            state.assigned.sort();
            state.assigned.dedup();
            *reading = !state.assigned.is_empty();
            state.ends.retain(|partition, _| state.assigned.binary_search(partition).is_ok());
            state.rebalances += 1;
            view.health.assigned(state.assigned.iter().map(|(topic, _)| topic.as_str()));
        });
        if self.flow == Flow::Paused {
            self.flow = Flow::Mixed;
        }
    }

    /// Hands the batch to the loop. False when there is no place for it: then it goes before any other.
    fn hand_over(&mut self) -> bool {
        let batch = match self.ready.take() {
            Some(batch) => batch,
            None if self.tray.records() == 0 => {
                // Nothing comes: what a burst took goes back.
                while self.out.spent.try_recv().is_ok() {}
                return true;
            }
            None => self.tray.take(self.out.spent.try_recv().unwrap_or_default()),
        };
        match self.out.batches.try_send(batch) {
            Ok(()) => {
                self.shared.bell.ring();
                self.full = None;
                true
            }
            Err(TrySendError::Full(batch)) => {
                self.ready = Some(batch);
                self.full.get_or_insert_with(now);
                false
            }
            // The owner is gone; the stop flag follows.
            Err(TrySendError::Disconnected(_)) => true,
        }
    }

    /// The loop is behind: wait, after a while paused, and keep the group alive by polling.
    fn wait_for_room(&mut self, consumer: &SourceConsumer, lane: &mut Lane<'_>) {
        if self.hand_over() {
            self.full = None;
            if self.flow != Flow::Running {
                self.resume(consumer);
            }
            return;
        }
        if self.full.is_none_or(|since| since.elapsed() < PATIENCE) {
            std::thread::sleep(RETRY);
            return;
        }
        if self.flow != Flow::Paused {
            self.pause(consumer);
        }
        // What was under way when the pause came is still taken.
        self.serve(consumer, lane, RETRY * 5);
    }

    fn pause(&mut self, consumer: &SourceConsumer) {
        match consumer.assignment().and_then(|all| consumer.pause(&all)) {
            Ok(()) => {
                self.flow = Flow::Paused;
                tracing::debug!("fetching is paused until the loop has caught up");
            }
            Err(error) => self.broken = Some(format!("pause: {error}")),
        }
    }

    fn resume(&mut self, consumer: &SourceConsumer) {
        self.flow = Flow::Running;
        self.resumed = Some(now());
        if let Err(error) = consumer.assignment().and_then(|all| consumer.resume(&all)) {
            self.broken = Some(format!("resume: {error}"));
        }
    }

    /// Tells the group, for lag tools only, what is stored.
    fn commit(&mut self, consumer: &SourceConsumer, every: Duration) {
        if self.committed.0.elapsed() < every {
            return;
        }
        let version = self.shared.stored_version.load(Ordering::Relaxed);
        let changed = version != self.committed.1;
        self.committed = (now(), version);
        let assigned = lock(&self.shared.view).state.assigned.clone();
        if !changed || assigned.is_empty() {
            return;
        }
        let mut list = TopicPartitionList::new();
        let stored = lock(&self.shared.stored).clone();
        for partition in assigned {
            if let Some(&next) = stored.get(&partition)
                && let Err(error) = list.add_partition_offset(&partition.0, partition.1, Offset::Offset(next))
            {
                tracing::debug!("{partition:?} at {next} cannot be committed to the group: {error}");
            }
        }
        if let Err(error) = consumer.commit(&list, CommitMode::Async) {
            tracing::debug!("positions were not committed to the group: {error}");
        }
    }
}

/// Said again at every attempt to read what does not change, so nowhere but in the view.
fn is_unreadable(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::{BadCompression, BadMessage, MessageSizeTooLarge};
    matches!(code, BadCompression | BadMessage | MessageSizeTooLarge)
}

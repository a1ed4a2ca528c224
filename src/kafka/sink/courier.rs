//! Delivers a parcel: begin, records, `then`, commit. A parcel that fails takes its producer with it, so that the next one
//! starts from a known place: `init_transactions` ends whatever the last producer left open.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, Producer, PurgeConfig};

use super::super::admin::{ReadError, read_topic};
use super::super::client::{ANSWER, ClientError, ClientSettings, Promise, creation_error, explain, now, producer_config};
use super::super::{Claim, OutRecord, Parcel, Parceled, Positions};
use super::tally::{Ledger, PAUSE, Tally, wait};

/// How long one transaction call waits before we look whether to stop.
const STEP: Duration = Duration::from_secs(5);
/// How long the brokers may take to make us a transactional producer before the parcel is given back.
const INIT: Duration = Duration::from_secs(60);
/// A commit that is given up may still happen, so it is given far more time than it needs.
const COMMIT: Duration = Duration::from_secs(600);
/// Records between two looks at the delivery reports.
const BETWEEN_POLLS: u64 = 1_000;

/// Why a parcel did not arrive.
#[derive(Debug, thiserror::Error)]
pub(super) enum DeliveryError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("cannot {what}: {reason}")]
    Step { what: &'static str, reason: String },
    #[error("{failed} of {sent} records were not acknowledged, the first of topic {topic}: {reason}")]
    Unacknowledged { failed: u64, sent: u64, topic: String, reason: String },
    #[error("cannot queue a record of {bytes} bytes for topic {topic}: {reason}")]
    Queue { topic: String, bytes: usize, reason: String },
    #[error("cannot look for other writers: {0}")]
    Claim(#[from] ReadError),
    #[error("{0}")]
    Superseded(String),
    #[error("the process is stopping")]
    Stopping,
}

pub(super) struct Courier {
    settings: ClientSettings,
    id: Option<String>,
    promise: Promise,
    producer: Option<BaseProducer<Ledger>>,
    in_transaction: bool,
    stop: Arc<AtomicBool>,
}

impl Courier {
    pub(super) fn new(settings: ClientSettings, id: Option<String>, stop: Arc<AtomicBool>) -> Courier {
        let promise = if id.is_some() { Promise::Transaction } else { Promise::Idempotence };
        Courier { settings, id, promise, producer: None, in_transaction: false, stop }
    }

    pub(super) fn deliver(&mut self, parcel: Parcel) -> Parceled {
        if parcel.doubt {
            self.discard();
        }
        match self.attempt(parcel) {
            Ok(delivered) => delivered,
            Err(DeliveryError::Superseded(reason)) => {
                self.discard();
                Parceled::Superseded(reason)
            }
            // A fatal error purges the queue: what the records say of it is not the cause.
            Err(error) => Parceled::Failed(self.discard().unwrap_or_else(|| error.to_string())),
        }
    }

    fn attempt(&mut self, parcel: Parcel) -> Result<Parceled, DeliveryError> {
        if self.prepare()?
            && let Some(claim) = &parcel.claim
        {
            self.check_claim(claim)?;
        }
        let Some(producer) = &self.producer else { return Err(DeliveryError::Stopping) };
        if self.promise == Promise::Transaction {
            producer.begin_transaction().map_err(|error| self.step("begin a transaction", error))?;
            self.in_transaction = true;
        }
        let first = self.publish(parcel.records)?;
        let ends = self.ends(&first)?;
        let mut sent = first.sent;
        if let Some(then) = parcel.then {
            add(&mut sent, self.publish(then(&ends).into_iter())?.sent);
        }
        self.commit()?;
        Ok(Parceled::Delivered { ends, sent })
    }

    /// Sees to it that there is a producer, stepping down where the brokers cannot keep the promise. True for a new one.
    fn prepare(&mut self) -> Result<bool, DeliveryError> {
        let fresh = self.producer.is_none();
        while self.producer.is_none() {
            let config = producer_config(&self.settings, self.promise, self.id.as_deref())?;
            let made = config.create_with_context::<_, BaseProducer<Ledger>>(Ledger::default());
            let producer = made.map_err(|error| creation_error("producer", &self.settings, error))?;
            if self.promise == Promise::Transaction
                && let Err(error) = self.init(&producer)
            {
                if !unsupported(error.rdkafka_error_code()) {
                    return Err(self.step("start a transactional producer", error));
                }
                self.step_down(&error.to_string());
                continue;
            }
            self.producer = Some(producer);
        }
        Ok(fresh)
    }

    /// With transactions nobody else with our identity can write any more when this looks; without, it is a look.
    fn check_claim(&self, claim: &Claim) -> Result<(), DeliveryError> {
        let mut foreign = None;
        read_topic(&self.settings, &claim.topic, None, |record| {
            foreign = record.payload.and_then(|value| (claim.holds)(value).err());
            if foreign.is_some() || self.stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        foreign.map_or(Ok(()), |reason| Err(DeliveryError::Superseded(reason)))
    }

    fn init(&self, producer: &BaseProducer<Ledger>) -> Result<(), KafkaError> {
        self.patiently(INIT, producer, || producer.init_transactions(STEP))
    }

    /// Repeats a transaction call while its error allows it: these calls take up where they were.
    fn patiently(
        &self,
        longest: Duration,
        producer: &BaseProducer<Ledger>,
        call: impl Fn() -> Result<(), KafkaError>,
    ) -> Result<(), KafkaError> {
        let started = now();
        loop {
            let result = call();
            producer.poll(Duration::ZERO);
            let retriable = matches!(&result, Err(KafkaError::Transaction(error)) if error.is_retriable());
            if !retriable || started.elapsed() > longest || self.stop.load(Ordering::Relaxed) {
                return result;
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn step_down(&mut self, reason: &str) {
        let (next, lost) = match self.promise {
            Promise::Transaction => (Promise::Idempotence, "a reader may see a generation while it is being published"),
            _ => (Promise::Acknowledged, "a retry may publish a record twice, which readers tell by its generation"),
        };
        tracing::warn!(
            "the brokers at {} lack what {:?} needs ({reason}); going on with less: {lost}",
            self.settings.brokers,
            self.promise
        );
        self.promise = next;
    }

    /// Sends the records and waits for every acknowledgement.
    fn publish(&self, records: impl Iterator<Item = OutRecord>) -> Result<Tally, DeliveryError> {
        let Some(producer) = &self.producer else { return Err(DeliveryError::Stopping) };
        producer.context().reset();
        let mut queued = 0;
        for record in records {
            self.queue(producer, &record, queued)?;
            if queued.is_multiple_of(BETWEEN_POLLS) {
                producer.poll(Duration::ZERO);
                self.check(producer, queued)?;
            }
            queued += 1;
        }
        while producer.context().settled() < queued {
            wait(producer);
            self.check(producer, queued)?;
        }
        Ok(producer.context().read().clone())
    }

    /// Stops at the first failure: the parcel is lost, and every further record would be for nothing.
    fn check(&self, producer: &BaseProducer<Ledger>, sent: u64) -> Result<(), DeliveryError> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(DeliveryError::Stopping);
        }
        let tally = producer.context().read();
        let Some((error, topic)) = &tally.failure else { return Ok(()) };
        let (topic, reason) = (topic.clone(), explain(&self.settings.brokers, error));
        Err(DeliveryError::Unacknowledged { failed: tally.failed, sent, topic, reason })
    }

    fn queue(&self, producer: &BaseProducer<Ledger>, record: &OutRecord, queued: u64) -> Result<(), DeliveryError> {
        while let Err(error) = super::super::client::produce(producer, record) {
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                let bytes = record.key.as_ref().map_or(0, Vec::len) + record.value.as_ref().map_or(0, Vec::len);
                let reason = explain(&self.settings.brokers, &error);
                return Err(DeliveryError::Queue { topic: record.topic.clone(), bytes, reason });
            }
            // Room comes with acknowledgements, or with the time-out of what is queued.
            wait(producer);
            self.check(producer, queued)?;
        }
        Ok(())
    }

    /// Where the records ended. A broker that knew a record from an earlier try does not tell its offset: the partition's end
    /// as of now, which is at or past it, stands in.
    fn ends(&self, tally: &Tally) -> Result<Positions, DeliveryError> {
        let mut ends = tally.ends();
        let Some(producer) = &self.producer else { return Ok(ends) };
        for (topic, partition) in &tally.unknown {
            let marks = producer.client().fetch_watermarks(topic, *partition, ANSWER);
            let (_, end) = marks.map_err(|error| self.step("ask for the end of a partition", error))?;
            ends.insert((topic.clone(), *partition), end);
        }
        Ok(ends)
    }

    fn commit(&mut self) -> Result<(), DeliveryError> {
        if !self.in_transaction {
            return Ok(());
        }
        let Some(producer) = &self.producer else { return Err(DeliveryError::Stopping) };
        self.patiently(COMMIT, producer, || producer.commit_transaction(STEP)).map_err(|error| self.step("commit a transaction", error))?;
        self.in_transaction = false;
        Ok(())
    }

    fn step(&self, what: &'static str, error: KafkaError) -> DeliveryError {
        DeliveryError::Step { what, reason: explain(&self.settings.brokers, &error) }
    }

    /// Ends the producer of a failed parcel, and its transaction if the brokers answer; else the next producer does.
    /// Returns why the producer was of no more use, where that is the cause.
    fn discard(&mut self) -> Option<String> {
        let producer = self.producer.take()?;
        producer.purge(PurgeConfig::default().queue().inflight());
        let started = now();
        while producer.in_flight_count() > 0 && started.elapsed() < STEP {
            wait(&producer);
        }
        let fatal = producer.client().fatal_error();
        if std::mem::take(&mut self.in_transaction)
            && fatal.is_none()
            && let Err(error) = producer.abort_transaction(STEP)
        {
            tracing::debug!("a failed transaction was not aborted ({error}); the next producer ends it");
        }
        let (code, reason) = fatal?;
        if unsupported(Some(code)) && self.promise != Promise::Acknowledged {
            self.step_down(&reason);
        }
        let brokers = &self.settings.brokers;
        Some(match code {
            RDKafkaErrorCode::Fenced => format!(
                "{brokers} locked this producer out for a newer one ({reason}); does another process use this transactional id, \
                 from a copy of this state?"
            ),
            _ => format!("{brokers}: {reason}"),
        })
    }
}

/// Brokers without the feature, as against brokers that refuse or fail.
fn unsupported(code: Option<RDKafkaErrorCode>) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(code, Some(Code::UnsupportedFeature | Code::UnsupportedVersion))
}

fn add(sent: &mut BTreeMap<String, u64>, more: BTreeMap<String, u64>) {
    for (topic, count) in more {
        *sent.entry(topic).or_default() += count;
    }
}

//! A blocking producer for commands: bounded memory, and no claim of delivery without the brokers' word.

use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, Producer};

use super::super::OutRecord;
use super::super::client::{ANSWER, ClientError, ClientSettings, Promise, creation_error, explain, now, produce, producer_config};
use super::super::sink::{Ledger, wait};

/// Records between two looks at the acknowledgements.
const BETWEEN_POLLS: u64 = 1_000;
/// Nothing acknowledged and nothing given up for so long cannot be: librdkafka gives a record up after `message.timeout.ms`.
const STALL: Duration = Duration::from_secs(600);

/// Why records were not delivered.
#[derive(Debug, thiserror::Error)]
pub enum OutletError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("cannot queue a record of {bytes} bytes for topic {topic}: {reason}")]
    Queue { topic: String, bytes: usize, reason: String },
    #[error("{failed} of {sent} records were not delivered, the first of topic {topic}: {reason}")]
    Undelivered { failed: u64, sent: u64, topic: String, reason: String },
    #[error("none of {sent} records was delivered: {reason}")]
    Refused { sent: u64, reason: String },
    #[error("the brokers at {brokers} have not acknowledged {open} records for {STALL:?}; are they up?")]
    Stalled { open: u64, brokers: String },
}

/// Sends records one by one; they leave in batches.
pub struct Outlet {
    producer: BaseProducer<Ledger>,
    brokers: String,
    sent: u64,
}

impl Outlet {
    /// # Errors
    /// [`OutletError::Client`] for refused or unknown properties. Brokers that are away show in [`Outlet::flush`].
    pub fn new(settings: &ClientSettings) -> Result<Outlet, OutletError> {
        let config = producer_config(settings, Promise::Idempotence, None)?;
        let producer = config.create_with_context(Ledger::default()).map_err(|error| creation_error("producer", settings, error))?;
        Ok(Outlet { producer, brokers: settings.brokers.clone(), sent: 0 })
    }

    /// Queues a record; waits for room when the brokers are slower than the caller.
    ///
    /// # Errors
    /// [`OutletError::Queue`] when it can never be sent (too large, …), [`OutletError::Undelivered`] once any record was lost.
    pub fn send(&mut self, record: &OutRecord) -> Result<(), OutletError> {
        while let Err(error) = produce(&self.producer, record) {
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                let bytes = record.key.as_ref().map_or(0, Vec::len) + record.value.as_ref().map_or(0, Vec::len);
                return Err(OutletError::Queue { topic: record.topic.clone(), bytes, reason: explain(&self.brokers, &error) });
            }
            wait(&self.producer);
            self.check()?;
        }
        self.sent += 1;
        if self.sent.is_multiple_of(BETWEEN_POLLS) {
            self.producer.poll(Duration::ZERO);
            self.check()?;
        }
        Ok(())
    }

    /// Records acknowledged so far, for a progress bar.
    pub fn acknowledged(&self) -> u64 {
        self.producer.context().read().acknowledged
    }

    /// Waits until every record is acknowledged. Returns how many were, since the start.
    ///
    /// # Errors
    /// [`OutletError::Undelivered`] with the first reason when any was given up (by default after a minute),
    /// [`OutletError::Refused`] when none went for a quarter of that because of credentials or certificates.
    pub fn flush(&mut self) -> Result<u64, OutletError> {
        let (mut settled, mut moved) = (0, now());
        loop {
            let reported = self.producer.context().settled();
            if reported == self.sent {
                self.check()?;
                return Ok(reported);
            }
            if reported != settled {
                (settled, moved) = (reported, now());
            }
            if reported == 0 && moved.elapsed() > ANSWER && self.producer.context().trouble.is_refusal() {
                let late = KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut);
                return Err(OutletError::Refused {
                    sent: self.sent,
                    reason: self.producer.context().trouble.explain(&self.brokers, &late),
                });
            }
            if moved.elapsed() > STALL {
                return Err(OutletError::Stalled { open: self.sent - reported, brokers: self.brokers.clone() });
            }
            wait(&self.producer);
        }
    }

    fn check(&self) -> Result<(), OutletError> {
        let tally = self.producer.context().read();
        match &tally.failure {
            None => Ok(()),
            Some((error, topic)) => Err(OutletError::Undelivered {
                failed: tally.failed,
                sent: self.sent,
                topic: topic.clone(),
                reason: self.producer.context().trouble.explain(&self.brokers, error),
            }),
        }
    }
}

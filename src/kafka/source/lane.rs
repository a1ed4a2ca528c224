//! All unsafe code of this room: records by the hundred out of a librdkafka queue of our own, for which `rdkafka` has no safe
//! form. One by one through its events they cost almost twice as much.
//!
//! Partitions are led to the queue as they are assigned, so records come out of it, and events (rebalances, statistics,
//! errors of the client) out of the consumer's own.

use std::ffi::{CStr, CString};
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Mutex;
use std::time::Duration;

use rdkafka::Message;
use rdkafka::bindings::{
    rd_kafka_consume_batch_queue, rd_kafka_message_destroy, rd_kafka_message_errstr, rd_kafka_message_t, rd_kafka_message_timestamp,
    rd_kafka_queue_destroy, rd_kafka_queue_forward, rd_kafka_queue_get_partition, rd_kafka_queue_new, rd_kafka_queue_t,
    rd_kafka_timestamp_type_t, rd_kafka_topic_name,
};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::types::RDKafkaRespErr;

use super::lock;

/// Records that are taken at once, at most.
pub(super) const SLOTS: usize = 1_000;

/// A record as librdkafka holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Taken<'m> {
    pub topic: &'m str,
    pub partition: i32,
    pub offset: i64,
    pub timestamp: Option<i64>,
    pub key: Option<&'m [u8]>,
    pub payload: Option<&'m [u8]>,
}

impl<'m> Taken<'m> {
    pub fn of(message: &'m impl Message) -> Taken<'m> {
        Taken {
            topic: message.topic(),
            partition: message.partition(),
            offset: message.offset(),
            timestamp: message.timestamp().to_millis(),
            key: message.key(),
            payload: message.payload(),
        }
    }
}

/// Where partitions are led to: the queue of a [`Lane`] while there is one.
#[derive(Default)]
pub(super) struct Lead(Mutex<Option<NonNull<rd_kafka_queue_t>>>);

// SAFETY: librdkafka's queues may be used from any thread, and the pointer is used under the lock only.
#[expect(unsafe_code, reason = "see above")]
unsafe impl Send for Lead {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "see above")]
unsafe impl Sync for Lead {}

impl Lead {
    /// From now on the partition's records come out of the lane. Called before it is assigned: what was fetched earlier stays
    /// in the consumer's own queue. False when they go on coming out of that.
    pub fn lead<C: ConsumerContext>(&self, consumer: &BaseConsumer<C>, topic: &str, partition: i32) -> bool {
        let Ok(topic) = CString::new(topic) else { return false };
        let lane = lock(&self.0);
        let Some(lane) = *lane else { return false };
        // SAFETY: the client lives as long as `consumer`, the string ends in NUL, and the lane's queue lives while it stands
        // in `self`, whose lock is held. Forwarding takes references of its own; ours to the partition's queue is given back.
        #[expect(unsafe_code, reason = "see above")]
        unsafe {
            let own = rd_kafka_queue_get_partition(consumer.client().native_ptr(), topic.as_ptr(), partition);
            if own.is_null() {
                return false;
            }
            rd_kafka_queue_forward(own, lane.as_ptr());
            rd_kafka_queue_destroy(own);
        }
        true
    }
}

/// A queue of records beside the consumer's own, for one thread. Gone before the consumer is.
pub(super) struct Lane<'c> {
    queue: NonNull<rd_kafka_queue_t>,
    lead: &'c Lead,
    slots: Vec<*mut rd_kafka_message_t>,
    consumer: PhantomData<&'c ()>,
}

impl<'c> Lane<'c> {
    /// A lane beside `consumer`, to which `lead` leads from now on. `None` when librdkafka has no memory for one.
    pub fn beside<C: ConsumerContext>(consumer: &'c BaseConsumer<C>, lead: &'c Lead) -> Option<Lane<'c>> {
        // SAFETY: the client lives for 'c, and so longer than the queue, which is destroyed when this is dropped.
        #[expect(unsafe_code, reason = "see above")]
        let queue = NonNull::new(unsafe { rd_kafka_queue_new(consumer.client().native_ptr()) })?;
        *lock(&lead.0) = Some(queue);
        Some(Lane { queue, lead, slots: vec![std::ptr::null_mut(); SLOTS], consumer: PhantomData })
    }

    /// Takes up to `most` records (at least 1, at most [`SLOTS`]); waits up to `wait` until there are so many. `record` is
    /// called with each in order, `error` with what librdkafka says in a record's place. Returns how many came.
    pub fn take(
        &mut self,
        most: usize,
        wait: Duration,
        mut record: impl FnMut(&Taken<'_>),
        mut error: impl FnMut(RDKafkaErrorCode, &str),
    ) -> usize {
        let most = most.clamp(1, self.slots.len());
        let wait = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the queue is ours and alive, and the array has room for `most` pointers, of which as many are set as is
        // returned; −1 is an error.
        #[expect(unsafe_code, reason = "see above")]
        let came = unsafe { rd_kafka_consume_batch_queue(self.queue.as_ptr(), wait, self.slots.as_mut_ptr(), most) };
        let came = usize::try_from(came).unwrap_or(0);
        for &message in &self.slots[..came] {
            // SAFETY: the message was just handed to us, is not null, and is ours alone until it is destroyed. What is borrowed
            // from it is handed to closures that cannot keep it. A closure that panics leaves the rest undestroyed: a leak, no
            // more.
            #[expect(unsafe_code, reason = "see above")]
            unsafe {
                match (*message).err {
                    RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => record(&taken(&*message)),
                    code => error(code.into(), text(rd_kafka_message_errstr(message))),
                }
                rd_kafka_message_destroy(message);
            }
        }
        came
    }
}

impl Drop for Lane<'_> {
    fn drop(&mut self) {
        *lock(&self.lead.0) = None;
        // SAFETY: the queue is ours, and nothing leads to it any more. Partitions that are still forwarded to it keep a
        // reference of their own to what is behind the handle.
        #[expect(unsafe_code, reason = "see above")]
        unsafe {
            rd_kafka_queue_destroy(self.queue.as_ptr());
        }
    }
}

/// # Safety
/// The message is one without error, as librdkafka hands them out.
#[expect(unsafe_code, reason = "see above")]
unsafe fn taken(message: &rd_kafka_message_t) -> Taken<'_> {
    let mut kind = rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
    // SAFETY: the message is valid, `kind` is ours; a message without error has a topic, which it keeps alive.
    let (timestamp, topic) = unsafe { (rd_kafka_message_timestamp(message, &mut kind), text(rd_kafka_topic_name(message.rkt))) };
    let known = kind != rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE && timestamp != -1;
    // SAFETY: librdkafka keeps `len` bytes behind each pointer that is not null until the message is destroyed.
    let bytes = |start: *mut std::ffi::c_void, len: usize| unsafe {
        NonNull::new(start.cast::<u8>()).map(|start| std::slice::from_raw_parts(start.as_ptr(), len))
    };
    Taken {
        topic,
        partition: message.partition,
        offset: message.offset,
        timestamp: known.then_some(timestamp),
        key: bytes(message.key, message.key_len),
        payload: bytes(message.payload, message.len),
    }
}

/// # Safety
/// Null, or a string that ends in NUL and lives as long as the caller looks at it.
#[expect(unsafe_code, reason = "see above")]
unsafe fn text<'t>(start: *const std::ffi::c_char) -> &'t str {
    // SAFETY: as the caller promised.
    if start.is_null() { "" } else { unsafe { CStr::from_ptr(start) }.to_str().unwrap_or_default() }
}

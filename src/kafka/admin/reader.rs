//! Reads a topic from its beginning, or follows it: for commands, which block and keep no state.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::message::Headers;
use rdkafka::metadata::Metadata;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::super::Positions;
use super::super::client::{ANSWER, ClientError, ClientSettings, Plain, Seen, creation_error, is_absence, now, reader_config};
use super::super::trouble::Trouble;

/// How long a topic may stand still before its end before that is an error.
const STALL: Duration = Duration::from_secs(30);
/// How long one poll lasts.
const POLL: Duration = Duration::from_millis(100);

/// One record as it is read; it lives as long as the call it is handed to.
#[derive(Debug, Clone)]
pub struct TopicRecord<'a> {
    pub partition: i32,
    pub offset: i64,
    /// Milliseconds since the epoch.
    pub timestamp: Option<i64>,
    pub key: Option<&'a [u8]>,
    /// `None` is a tombstone.
    pub payload: Option<&'a [u8]>,
    pub headers: Vec<(&'a str, &'a [u8])>,
}

impl TopicRecord<'_> {
    /// The first header of that name.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|(key, _)| *key == name).map(|(_, value)| *value)
    }
}

/// Why a topic was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("topic {topic} does not exist at {brokers}; create it with `nepenthe topics`")]
    Missing { topic: String, brokers: String },
    #[error("cannot {what} of topic {topic}: {reason}")]
    Broker { what: &'static str, topic: String, reason: String },
    #[error("topic {topic} at {brokers} has sent nothing for {STALL:?} before its end; still open: {open:?}; are its brokers up?")]
    Stalled { topic: String, brokers: String, open: Vec<i32> },
}

/// A consumer of one topic by hand-assigned partitions.
pub(super) struct Reader<'a> {
    settings: &'a ClientSettings,
    topic: &'a str,
    consumer: Arc<BaseConsumer<Plain>>,
}

/// Asks again and again where topics end, over one connection. Whom it gets no answer from, it should not be asked about again:
/// what its client has heard of a trouble stays with it.
pub struct Ends {
    settings: ClientSettings,
    consumer: Arc<BaseConsumer<Plain>>,
}

impl Ends {
    /// # Errors
    /// [`ReadError`] for settings of which no client can be made.
    pub fn open(settings: ClientSettings) -> Result<Ends, ReadError> {
        let consumer = Reader::open(&settings, "", Seen::Committed)?.consumer;
        Ok(Ends { settings, consumer })
    }

    /// As [`end_offsets`].
    ///
    /// # Errors
    /// As [`end_offsets`].
    pub fn of(&self, topic: &str) -> Result<Positions, ReadError> {
        // The client's log waits in a queue until somebody polls; nothing is assigned, so nothing else comes.
        while self.consumer.poll(Duration::ZERO).is_some() {}
        Reader { settings: &self.settings, topic, consumer: self.consumer.clone() }.ends()
    }
}

/// Where each partition of a topic ends: the next offset to be written.
///
/// # Errors
/// [`ReadError`] when the topic is missing or the brokers do not answer.
pub fn end_offsets(settings: &ClientSettings, topic: &str) -> Result<Positions, ReadError> {
    Reader::open(settings, topic, Seen::Committed)?.ends()
}

/// First and next offset, per topic and partition.
pub type Watermarks = BTreeMap<(String, i32), (i64, i64)>;

/// The first offset that each partition of a topic still has, and the next one to be written.
///
/// # Errors
/// [`ReadError`] when the topic is missing or the brokers do not answer.
pub fn watermarks(settings: &ClientSettings, topic: &str) -> Result<Watermarks, ReadError> {
    Reader::open(settings, topic, Seen::Committed)?.watermarks()
}

/// Hands over every committed record of the topic, in order within each partition, from the first to `upto` (exclusive), or
/// to the end as it was at the call; partitions that `upto` does not name are left out. Stops early on `Break`.
/// Returns where it stopped in each partition: the place for [`follow_topic`] to go on.
///
/// # Errors
/// [`ReadError`] when the topic is missing, the brokers refuse, or nothing comes for half a minute before the end.
pub fn read_topic(
    settings: &ClientSettings,
    topic: &str,
    upto: Option<&Positions>,
    each: impl FnMut(TopicRecord<'_>) -> ControlFlow<()>,
) -> Result<Positions, ReadError> {
    let reader = Reader::open(settings, topic, Seen::Committed)?;
    let mut ends = reader.ends()?;
    if let Some(upto) = upto {
        ends.retain(|place, end| upto.get(place).inspect(|&&to| *end = to).is_some());
    }
    let starts: Positions = ends.keys().map(|place| (place.clone(), 0)).collect();
    reader.assign(&starts)?;
    reader.read(starts, &ends, each)
}

/// Hands over records from `from` on as they come, until `Break` or until `patience` is over. A partition that `from` does
/// not name is read from its beginning. Returns where it stopped, and whether `Break` was the reason.
///
/// # Errors
/// [`ReadError`] when the topic is missing or the brokers refuse. Brokers that are away are waited for.
pub fn follow_topic(
    settings: &ClientSettings,
    topic: &str,
    from: &Positions,
    patience: Duration,
    mut each: impl FnMut(TopicRecord<'_>) -> ControlFlow<()>,
) -> Result<(Positions, bool), ReadError> {
    let until = now() + patience;
    let reader = Reader::open(settings, topic, Seen::Committed)?;
    let mut positions: Positions =
        reader.partitions()?.into_iter().map(|place| (place.clone(), from.get(&place).copied().unwrap_or(0))).collect();
    reader.assign(&positions)?;
    while now() < until {
        match reader.consumer.poll(POLL) {
            Some(Ok(message)) => {
                positions.insert((topic.to_owned(), message.partition()), message.offset() + 1);
                if each(record(&message)).is_break() {
                    return Ok((positions, true));
                }
            }
            Some(Err(error)) => reader.tolerate(error)?,
            None => {}
        }
    }
    Ok((positions, false))
}

/// How long one question lasts, and how long the log is listened to after it.
const STEP: Duration = Duration::from_secs(2);
const LISTEN: Duration = Duration::from_millis(200);

/// Hears what the client's log has to say: it waits in a queue until somebody polls.
fn listen(consumer: &BaseConsumer<Plain>) -> &Trouble {
    let until = now() + LISTEN;
    while now() < until {
        // Nothing is assigned yet, or what comes is of no use any more.
        let _ = consumer.poll(POLL);
    }
    &consumer.context().trouble
}

/// Does a broker say with this code that it does not know the partition, or does not lead it?
fn is_unheard_of(code: Code) -> bool {
    matches!(
        code,
        Code::UnknownPartition
            | Code::UnknownTopic
            | Code::UnknownTopicOrPartition
            | Code::LeaderNotAvailable
            | Code::NotLeaderForPartition
    )
}

/// What the brokers know of one topic, or of all. Gives up early where two looks in a row met nothing but refusals: one may be a
/// broker that restarts.
fn metadata(consumer: &BaseConsumer<Plain>, topic: Option<&str>) -> KafkaResult<Metadata> {
    let ask = |patience| consumer.fetch_metadata(topic, patience);
    let is_refused = |answer: &KafkaResult<Metadata>| {
        let absent = answer.as_ref().is_err_and(|error| error.rdkafka_error_code().is_some_and(is_absence));
        absent.then(|| listen(consumer).is_refusal())
    };
    let mut answer = ask(STEP);
    if let Some(refused) = is_refused(&answer) {
        answer = ask(STEP);
        match is_refused(&answer) {
            Some(again) if !(refused && again) => answer = ask(ANSWER),
            _ => {}
        }
    }
    if answer.is_ok() {
        consumer.context().trouble.is_over();
    } else {
        listen(consumer);
    }
    answer
}

/// The names of all topics that the brokers show us.
///
/// # Errors
/// [`ClientError`], or in words what keeps the brokers from answering.
pub(super) fn topic_names(settings: &ClientSettings) -> Result<Result<Vec<String>, String>, ClientError> {
    let config = reader_config(settings, Seen::Committed)?;
    let consumer: BaseConsumer<Plain> =
        config.create_with_context(Plain::default()).map_err(|error| creation_error("consumer", settings, error))?;
    let known = metadata(&consumer, None).map_err(|error| consumer.context().trouble.explain(&settings.brokers, &error));
    Ok(known.map(|known| known.topics().iter().map(|topic| topic.name().to_owned()).collect()))
}

impl<'a> Reader<'a> {
    pub(super) fn open(settings: &'a ClientSettings, topic: &'a str, seen: Seen) -> Result<Reader<'a>, ReadError> {
        let consumer = reader_config(settings, seen)?
            .create_with_context(Plain::default())
            .map_err(|error| creation_error("consumer", settings, error))?;
        Ok(Reader { settings, topic, consumer: Arc::new(consumer) })
    }

    fn error(&self, what: &'static str, error: KafkaError) -> ReadError {
        ReadError::Broker {
            what,
            topic: self.topic.to_owned(),
            reason: self.consumer.context().trouble.explain(&self.settings.brokers, &error),
        }
    }

    pub(super) fn partitions(&self) -> Result<Vec<(String, i32)>, ReadError> {
        // Metadata of the one topic; a consumer's question creates nothing.
        let known = metadata(&self.consumer, Some(self.topic)).map_err(|error| self.error("list the partitions", error))?;
        let partitions = known.topics().iter().filter(|one| one.name() == self.topic).flat_map(|one| one.partitions());
        let places: Vec<_> = partitions.map(|partition| (self.topic.to_owned(), partition.id())).collect();
        if places.is_empty() {
            return Err(ReadError::Missing { topic: self.topic.to_owned(), brokers: self.settings.brokers.clone() });
        }
        Ok(places)
    }

    fn ends(&self) -> Result<Positions, ReadError> {
        Ok(self.watermarks()?.into_iter().map(|(place, (_, end))| (place, end)).collect())
    }

    fn watermarks(&self) -> Result<Watermarks, ReadError> {
        let until = now() + ANSWER;
        let marks = |place: (String, i32)| loop {
            match self.consumer.fetch_watermarks(self.topic, place.1, ANSWER) {
                // Metadata has just told of it: of a new topic they know before the leaders do.
                Err(error) if now() < until && error.rdkafka_error_code().is_some_and(is_unheard_of) => {
                    listen(&self.consumer);
                }
                marks => return Ok((place, marks.map_err(|error| self.error("ask for the end of a partition", error))?)),
            }
        };
        self.partitions()?.into_iter().map(marks).collect()
    }

    pub(super) fn assign(&self, starts: &Positions) -> Result<(), ReadError> {
        let mut list = TopicPartitionList::new();
        let filled = starts.iter().try_for_each(|((topic, partition), &start)| {
            // The first offset may be past 0: the beginning is wherever the broker still has it.
            let offset = if start == 0 { Offset::Beginning } else { Offset::Offset(start) };
            list.add_partition_offset(topic, *partition, offset)
        });
        filled.and_then(|()| self.consumer.assign(&list)).map_err(|error| self.error("take the partitions", error))
    }

    pub(super) fn read(
        &self,
        mut positions: Positions,
        ends: &Positions,
        mut each: impl FnMut(TopicRecord<'_>) -> ControlFlow<()>,
    ) -> Result<Positions, ReadError> {
        let reached = |partition: i32, next: i64| ends.get(&(self.topic.to_owned(), partition)).is_some_and(|&end| next >= end);
        let mut open: BTreeSet<i32> = ends.keys().map(|(_, partition)| *partition).filter(|&partition| !reached(partition, 0)).collect();
        let mut moved = now();
        while !open.is_empty() {
            match self.consumer.poll(POLL) {
                Some(Ok(message)) => {
                    let (partition, offset) = (message.partition(), message.offset());
                    moved = now();
                    if !open.contains(&partition) {
                        continue;
                    }
                    // Compaction leaves holes: the first record past the end shows that the end is behind us.
                    if !reached(partition, offset) {
                        positions.insert((self.topic.to_owned(), partition), offset + 1);
                        if each(record(&message)).is_break() {
                            return Ok(positions);
                        }
                    }
                    if reached(partition, offset + 1) {
                        open.remove(&partition);
                    }
                }
                // All that can be read; what is left below the end are markers, or a transaction that is still open.
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    open.remove(&partition);
                    moved = now();
                }
                Some(Err(error)) => self.tolerate(error)?,
                None if moved.elapsed() > STALL => {
                    let (topic, brokers) = (self.topic.to_owned(), self.settings.brokers.clone());
                    return Err(ReadError::Stalled { topic, brokers, open: open.into_iter().collect() });
                }
                None => {}
            }
        }
        Ok(positions)
    }

    /// The offset of the first record at or after each of `places`; none where the partition ends before one.
    pub(super) fn first_after(&self, places: &Positions) -> Result<Positions, ReadError> {
        self.assign(places)?;
        let (mut found, mut ended) = (Positions::new(), BTreeSet::new());
        let mut moved = now();
        while places.keys().any(|place| !found.contains_key(place) && !ended.contains(&place.1)) {
            match self.consumer.poll(POLL) {
                Some(Ok(message)) => {
                    found.entry((self.topic.to_owned(), message.partition())).or_insert(message.offset());
                    moved = now();
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => drop(ended.insert(partition)),
                Some(Err(error)) => self.tolerate(error)?,
                None if moved.elapsed() > STALL => {
                    let open = places.keys().map(|place| place.1).collect();
                    return Err(ReadError::Stalled { topic: self.topic.to_owned(), brokers: self.settings.brokers.clone(), open });
                }
                None => {}
            }
        }
        Ok(found)
    }

    /// Brokers that come and go are librdkafka's to handle; refusals and fatal errors are not.
    fn tolerate(&self, error: KafkaError) -> Result<(), ReadError> {
        use super::super::client::is_refusal;
        let fatal = matches!(error, KafkaError::MessageConsumptionFatal(_));
        if fatal || error.rdkafka_error_code().is_some_and(is_refusal) {
            return Err(self.error("read the records", error));
        }
        Ok(())
    }
}

fn record<'a>(message: &'a rdkafka::message::BorrowedMessage<'a>) -> TopicRecord<'a> {
    let headers = message.headers().map(|headers| headers.iter().map(|header| (header.key, header.value.unwrap_or_default())).collect());
    TopicRecord {
        partition: message.partition(),
        offset: message.offset(),
        timestamp: message.timestamp().to_millis(),
        key: message.key(),
        payload: message.payload(),
        headers: headers.unwrap_or_default(),
    }
}

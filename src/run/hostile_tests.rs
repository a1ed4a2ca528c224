//! Hostile input through the loop: damaged records among good ones. Every record ends in one of the ways there are, the counts
//! add up, every bad record is a dead letter, and the good ones are all there.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::board::Board;
use super::keys::Signer;
use super::purger::Idle;
use super::service::{Parts, Ports, Service};
use super::simulation::{FORGETS, PLAYS, key, params, topics};
use super::solver::{Progress, Solved, Solver};
use crate::config::{Generation, Purge, TopicProof};
use crate::fuzz::mutate::{Dice, mangle};
use crate::kafka::{Batch, Parcel, Parceled, Positions, Record, Sink, Source, SourceState};
use crate::metrics::Metrics;
use crate::model::event::{Event, Kind, Origin, Refusal, decode};
use crate::model::factors::Side;
use crate::model::generation::Job;
use crate::model::play::Play;
use crate::model::processor::{InputTopics, State};
use crate::model::step::{History, Range};
use crate::model::unlearn::Unwatched;
use crate::model::{Objective, Params};
use crate::store::Store;
use crate::store::memory::MemoryStore;
use crate::store::tables::Tables;

/// Damaged records, unless `FUZZ_RECORDS` says otherwise; `make fuzz` says a million.
const RECORDS: u64 = 200_000;
/// As the production source hands them over at most.
const BATCH: usize = 20_000;
const PARTITIONS: usize = 3;
const GOOD_USERS: u64 = 700;

/// A record as it was offered.
#[derive(Clone)]
struct Offered {
    topic: usize,
    partition: usize,
    offset: i64,
    key: Option<Vec<u8>>,
    payload: Option<Vec<u8>>,
}

/// What the decoder says of everything that was offered once.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Counted {
    interactions: u64,
    forgets: u64,
    empty: u64,
    refused: BTreeMap<String, u64>,
    /// Sum of hashes over place and bytes of the refused.
    letters: u64,
}

struct Flood {
    dice: Dice,
    damaged: u64,
    good: u64,
    /// Next offset of each partition of both topics.
    next: [[i64; PARTITIONS]; 2],
    /// The end of the last batch, which a rebalance brings again.
    again: Vec<Offered>,
    repeated: u64,
    counted: Counted,
}

/// 64 bits over a record's place and the part of its bytes that a letter has room for.
fn mark(topic: &str, partition: i64, offset: i64, value: &[u8]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(topic.as_bytes()).update(&partition.to_le_bytes()).update(&offset.to_le_bytes()).update(value);
    let mut bytes = [0; 8];
    hasher.finalize_xof().fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

impl Flood {
    fn new(seed: u64) -> Flood {
        Flood {
            dice: Dice::new(seed),
            damaged: 0,
            good: 0,
            next: Default::default(),
            again: Vec::new(),
            repeated: 0,
            counted: Counted::default(),
        }
    }

    /// A valid event of people and things that are not among the good ones.
    fn valid(&mut self) -> String {
        let dice = &mut self.dice;
        let (user, item, event, time) = (dice.below(200), dice.below(60), dice.below(5_000), 1_000_000 + dice.below(1_000_000));
        match dice.below(16) {
            0 => format!(r#"{{"type":"forget","request_id":"r{event}","user":"h{user}","time":{time}}}"#),
            1 => format!(r#"{{"type":"forget","user":"h{user}","items":["x{item}","x{}"],"from":5,"to":{time},"time":{time}}}"#, item / 2),
            2 => format!(r#"{{"type":"forget","items":["x{item}"],"to":{},"time":{time}}}"#, time / 2),
            3 => format!(r#"{{"type":"forget","user":"h{user}","event_ids":["e{event}"],"time":"2001-01-01T00:00:00Z","note":"\u00e4"}}"#),
            4..8 => format!(
                r#"{{"type":"interaction","event_id":"e{event}","user":"h{user}","item":"x{item}","value":{item}.5,"time":{time}}}"#
            ),
            8..12 => format!(
                r#"{{"event_id":"e{event}","user":"h{user}","item":"x{item}","time":{time},"more":{{"a":[1,null,"\ud83d\ude00"]}}}}"#
            ),
            _ => format!(r#"{{"user":"h{user}","item":"x{item}","value":1e{}}}"#, item % 13),
        }
    }

    fn payload(&mut self) -> Option<Vec<u8>> {
        if self.dice.once_in(5) {
            let n = self.good;
            self.good += 1;
            let (user, item) = (n % GOOD_USERS, n * n % 401);
            return Some(
                format!(r#"{{"type":"interaction","event_id":"g{n}","user":"good/{user}","item":"fine/{item}","time":{n}}}"#).into_bytes(),
            );
        }
        self.damaged += 1;
        let (record, other) = (self.valid(), self.valid());
        match self.dice.below(100) {
            0 => None,
            1..10 => Some(record.into_bytes()),
            _ => Some(mangle(&mut self.dice, record.as_bytes(), other.as_bytes())),
        }
    }

    fn offer(&mut self) -> Offered {
        let payload = self.payload();
        let (topic, partition) = (self.dice.below(2), self.dice.below(PARTITIONS));
        let offset = self.next[topic][partition];
        self.next[topic][partition] += 1;
        let key = self.dice.once_in(3).then(|| vec![b'k'; self.dice.below(600)]);
        let name = [PLAYS, FORGETS][topic];
        let kind = [Kind::Interaction, Kind::Forget][topic];
        let origin =
            Origin { topic: name, partition: partition as i32, offset, timestamp: Some(1_500_000), kind, objective: Objective::Implicit };
        match payload.as_deref().map(|payload| (payload, decode(&origin, payload))) {
            None => self.counted.empty += 1,
            Some((_, Ok(Event::Interaction(_)))) => self.counted.interactions += 1,
            Some((_, Ok(Event::Forget(_)))) => self.counted.forgets += 1,
            Some((payload, Err(refusal))) => {
                *self.counted.refused.entry(refusal.code.to_owned()).or_default() += 1;
                self.counted.letters = self.counted.letters.wrapping_add(mark(name, partition as i64, offset, payload));
            }
        }
        Offered { topic, partition, offset, key, payload }
    }
}

impl Source for Flood {
    fn poll(&mut self) -> Option<Batch> {
        let mut offered = std::mem::take(&mut self.again);
        self.repeated += offered.len() as u64;
        offered.extend((0..BATCH).map(|_| self.offer()));
        let from = if self.dice.once_in(3) { offered.len() - self.dice.below(300) } else { offered.len() };
        let mut batch = Batch { topics: Arc::from([PLAYS.to_owned(), FORGETS.to_owned()]), ..Batch::default() };
        for Offered { topic, partition, offset, key, payload } in &offered {
            let record = Record {
                topic: *topic as u16,
                partition: *partition as i32,
                offset: *offset,
                timestamp: Some(1_500_000),
                key: None,
                payload: None,
                reset: false,
            };
            batch.push(record, key.as_deref(), payload.as_deref());
        }
        self.again = offered.split_off(from);
        Some(batch)
    }

    fn stored(&mut self, _: &Positions) {}

    fn state(&self) -> SourceState {
        SourceState::default()
    }
}

/// Nothing more comes.
struct Dry;

impl Source for Dry {
    fn poll(&mut self) -> Option<Batch> {
        None
    }

    fn stored(&mut self, _: &Positions) {}

    fn state(&self) -> SourceState {
        SourceState::default()
    }
}

/// Solves when it is asked for the result.
#[derive(Default)]
struct Solve(Option<Job>);

impl Solver for Solve {
    fn start(&mut self, job: Job) {
        self.0 = Some(job);
    }

    fn cancel(&mut self) {}

    fn poll(&mut self) -> Option<Solved> {
        let job = self.0.take()?;
        Some(Solved { result: job.run(&Unwatched).map_err(|error| error.to_string()), seconds: 0.0 })
    }
}

/// Takes everything and remembers what became of the bad records.
#[derive(Default)]
struct Out {
    parcel: Mutex<Option<Parcel>>,
    refused: BTreeMap<String, u64>,
    letters: u64,
    factors: i64,
}

impl Sink for Out {
    fn send(&mut self, parcel: Parcel) {
        *self.parcel.get_mut().unwrap() = Some(parcel);
    }

    fn poll(&mut self) -> Option<Parceled> {
        let parcel = self.parcel.get_mut().unwrap().take()?;
        let names = topics();
        for record in parcel.records {
            let header = |name: &str| {
                let value = record.headers.iter().find(|header| header.0 == name).map(|header| header.1.clone());
                String::from_utf8(value.expect("a header")).expect("text")
            };
            if record.topic == names.dead_letters {
                let number = |name: &str| header(name).parse::<i64>().expect("a number");
                *self.refused.entry(header("error")).or_default() += 1;
                let value = record.value.as_deref().expect("the bytes");
                self.letters = self.letters.wrapping_add(mark(&header("topic"), number("partition"), number("offset"), value));
                assert!(Refusal::CODES.contains(&&*header("error")) && (1..=512).contains(&header("detail").len()));
                assert!(record.key.as_ref().is_none_or(|key| key.len() <= 258));
            }
            self.factors += i64::from(record.topic == names.factors);
        }
        let ends = Positions::from([((names.factors, 0), self.factors)]);
        if let Some(then) = parcel.then {
            then(&ends);
        }
        Some(Parceled::Delivered { ends, sent: BTreeMap::new() })
    }
}

fn open(store: &Arc<MemoryStore>, params: &Params, metrics: &Arc<Metrics>) -> Service {
    let shared: Arc<dyn Store> = store.clone();
    let tables = Tables::new(shared.clone(), params.objective, &key()).unwrap();
    let inputs = InputTopics { interactions: PLAYS.to_owned(), forgets: FORGETS.to_owned() };
    let state = State::open(params.clone(), inputs, tables.restore(key()).unwrap(), &tables).unwrap();
    let board = Arc::new(Board::new(shared, key(), metrics.clone(), Arc::new(Progress::default()), 0));
    let hour = Duration::from_secs(3600);
    let timing = Generation { max_delay: hour, max_events: u64::MAX, forget_delay: hour, interim_after: hour };
    let purge = Purge { interval: hour, proof: TopicProof::Rows, heartbeat: hour };
    let dir = tempfile::tempdir().unwrap();
    let signer = Signer::open(&dir.path().join("key.pem")).unwrap();
    Service::new(Parts { state, tables, topics: topics(), timing, purge, signer, metrics: metrics.clone(), board }, 0).unwrap()
}

/// Value of every series of a counter by its labels, as `/metrics` shows it.
fn counter(metrics: &Metrics, name: &str) -> BTreeMap<String, u64> {
    let text = metrics.render();
    let series = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{')?.split_once("} "));
    series.map(|(labels, value)| (labels.to_owned(), value.parse().unwrap())).filter(|series| series.1 > 0).collect()
}

#[expect(clippy::disallowed_methods, reason = "how many records is told by whoever asks for more")]
fn wanted() -> u64 {
    std::env::var("FUZZ_RECORDS").ok().and_then(|text| text.parse().ok()).unwrap_or(RECORDS)
}

#[test]
fn damaged_records_end_where_they_belong_and_the_good_ones_pass() {
    let params = Params { rank: 4, tolerance: 1e-2, max_sweeps: 3, ..params(Objective::Implicit, 1) };
    let (store, metrics) = (Arc::new(MemoryStore::default()), Arc::new(Metrics::new(Refusal::CODES).unwrap()));
    let mut service = open(&store, &params, &metrics);
    let (mut flood, mut solver, mut out) = (Flood::new(7), Solve::default(), Out::default());
    let (mut now, mut take_in) = (2_000_000, true);
    while take_in || !service.is_drained() {
        now += 50;
        let mut ports = Ports { source: &mut flood, sink: &mut out, solver: &mut solver, purger: &mut Idle };
        service.turn(&mut ports, now, take_in).unwrap();
        // As the loop does when the way out is behind.
        take_in = service.is_drained() && flood.damaged < wanted();
    }
    let Flood { good, damaged, repeated, counted, .. } = &flood;

    // Nothing is lost and nothing is told twice.
    let (events, letters) = (counter(&metrics, "nepenthe_events_total"), counter(&metrics, "nepenthe_dead_letters_total"));
    let total = |kind: &str| events.iter().filter(|(labels, _)| labels.contains(kind)).map(|(_, count)| count).sum::<u64>();
    let seen = total("duplicate_offset");
    assert_eq!(seen, *repeated);
    assert_eq!(total("kind=\"interaction\"") - seen, counted.interactions);
    assert_eq!(total("kind=\"forget\""), counted.forgets);
    assert_eq!(total("kind=\"empty\""), counted.empty);
    let refused: u64 = letters.values().sum();
    assert_eq!(events.values().sum::<u64>() + refused, good + damaged + repeated);
    let labelled = |(code, count): (&String, &u64)| (format!("error=\"{code}\""), *count);
    assert_eq!(letters, counted.refused.iter().map(labelled).collect());
    assert_eq!((&out.refused, out.letters), (&counted.refused, counted.letters), "every bad record is a dead letter, byte for byte");
    // Something of everything happened, or this shows nothing.
    for outcome in ["accepted", "fenced", "duplicate_offset", "ignored", "rejected"] {
        assert!(events.keys().any(|labels| labels.contains(outcome)), "{outcome}: {events:?}");
    }
    let never = ["oversize", "invalid_id"];
    assert!(Refusal::CODES.iter().all(|code| counted.refused.contains_key(*code) || never.contains(code)), "{:?}", counted.refused);

    let mut stored = vec![0u64; GOOD_USERS as usize];
    let dictionary = service.state().dictionary();
    let count = &mut |play: Play, _: &str| {
        let name = dictionary.name(Side::User, play.user).expect("a play has names");
        if let Some(number) = name.strip_prefix("good/") {
            stored[number.parse::<usize>().unwrap()] += 1;
        }
    };
    service.tables().plays(Range::All, count).unwrap();
    let sent = |user: u64| good / GOOD_USERS + u64::from(user < good % GOOD_USERS);
    assert_eq!(stored, (0..GOOD_USERS).map(sent).collect::<Vec<_>>(), "every good event is stored, once");
    println!("damaged records: {damaged} among {good} good ones; {events:?}, {letters:?}");

    // What is stored can be read by a start, solved and published.
    drop(service);
    let mut service = open(&store, &params, &metrics);
    flood.again.clear();
    for round in 0..20 {
        now += 4_000_000;
        let mut ports = Ports { source: &mut Dry, sink: &mut out, solver: &mut solver, purger: &mut Idle };
        service.turn(&mut ports, now, true).unwrap();
        assert!(round < 19 || service.state().current().is_some_and(|current| current.manifest.counts.users >= GOOD_USERS));
    }
}

/// Lines of one topic, a batch at a time.
struct Script<'l> {
    topic: u16,
    lines: &'l [String],
    next: usize,
}

impl Source for Script<'_> {
    fn poll(&mut self) -> Option<Batch> {
        let mut batch = Batch { topics: Arc::from([PLAYS.to_owned(), FORGETS.to_owned()]), ..Batch::default() };
        for line in self.lines.iter().skip(self.next).take(BATCH) {
            let (offset, timestamp) = (self.next as i64, Some(1_500_000));
            let record = Record { topic: self.topic, partition: 0, offset, timestamp, key: None, payload: None, reset: false };
            batch.push(record, None, Some(line.as_bytes()));
            self.next += 1;
        }
        (!batch.records.is_empty()).then_some(batch)
    }

    fn stored(&mut self, _: &Positions) {}

    fn state(&self) -> SourceState {
        SourceState::default()
    }
}

/// Takes plays in, then forgets, and solves; answers what the store and the receipts say then.
fn story(plays: &[String], forgets: &[String]) -> (u64, BTreeMap<String, u64>, Vec<u64>) {
    let params = Params { rank: 4, tolerance: 1e-2, max_sweeps: 100, ..params(Objective::Implicit, 1) };
    let (store, metrics) = (Arc::new(MemoryStore::default()), Arc::new(Metrics::new(Refusal::CODES).unwrap()));
    let mut service = open(&store, &params, &metrics);
    let (mut solver, mut out, mut now) = (Solve::default(), Out::default(), 2_000_000);
    for (topic, lines) in [(0, plays), (1, forgets)] {
        let mut source = Script { topic, lines, next: 0 };
        while source.next < lines.len() || !service.is_drained() {
            let mut ports = Ports { source: &mut source, sink: &mut out, solver: &mut solver, purger: &mut Idle };
            service.turn(&mut ports, now, true).unwrap();
        }
    }
    for round in 0.. {
        if service.is_settled() {
            break;
        }
        assert!(round < 200, "not settled");
        now += 4_000_000;
        let mut ports = Ports { source: &mut Dry, sink: &mut out, solver: &mut solver, purger: &mut Idle };
        service.turn(&mut ports, now, true).unwrap();
    }
    let mut left = 0;
    service.tables().plays(Range::All, &mut |_, _| left += 1).unwrap();
    let mut removed = Vec::new();
    for at in 0..forgets.len() {
        let request = service.tables().request(&key().request(&format!("r{at}"))).unwrap().expect("it is in the ledger");
        assert_eq!(request.receipt.status.name(), "published");
        removed.push(request.receipt.removed.interactions);
    }
    (left, counter(&metrics, "nepenthe_events_total"), removed)
}

#[test]
fn a_hundred_thousand_forgets_at_once_are_all_served() {
    const MANY: usize = 100_000;
    let plays: Vec<String> =
        (0..MANY).map(|n| format!(r#"{{"user":"u{}","item":"i{}","event_id":"e{n}","time":{n}}}"#, n / 2, n % 997)).collect();
    // Of people, of pairs, of single events, of windows, of things for everybody, in turn and each on somebody else's data.
    let forget = |n: usize| {
        let user = n / 2;
        let what = match n % 5 {
            0 => format!(r#""user":"u{user}""#),
            1 => format!(r#""user":"u{user}","items":["i{}"]"#, n % 997),
            2 => format!(r#""user":"u{user}","event_ids":["e{n}"]"#),
            3 => format!(r#""user":"u{user}","from":{n},"to":{n}"#),
            _ => format!(r#""items":["i{}"],"from":{n},"to":{n}"#, n % 997),
        };
        format!(r#"{{"request_id":"r{n}",{what},"time":1000000}}"#)
    };
    let forgets: Vec<String> = (0..MANY).map(forget).collect();
    let (left, events, removed) = story(&plays, &forgets);
    assert_eq!((left, events[r#"kind="forget",outcome="accepted""#]), (0, MANY as u64));
    assert_eq!(removed.iter().sum::<u64>(), MANY as u64, "each interaction is on one receipt");
}

#[test]
fn a_person_with_a_million_plays_forgets_them_in_ten_thousand_requests() {
    const PLAYED: usize = 1_000_000;
    const ASKED: usize = 10_000;
    let play = |n: usize| format!(r#"{{"user":"u","item":"i{}","event_id":"e{n}","time":{n}}}"#, n % 5_000);
    let plays: Vec<String> = (0..PLAYED).map(play).chain([r#"{"user":"v","item":"i1"}"#.to_owned()]).collect();
    let window = PLAYED / ASKED;
    let forget = |n: usize| match n {
        0..ASKED => format!(r#"{{"request_id":"r{n}","user":"u","from":{},"to":{},"time":1000000}}"#, n * window, (n + 1) * window - 2),
        _ => format!(r#"{{"request_id":"r{n}","user":"u","time":1000000}}"#),
    };
    let forgets: Vec<String> = (0..=ASKED).map(forget).collect();
    let (left, _, removed) = story(&plays, &forgets);
    assert_eq!(left, 1);
    let mut expected = vec![window as u64 - 1; ASKED];
    expected.push(ASKED as u64);
    assert_eq!(removed, expected);
}

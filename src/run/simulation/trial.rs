//! One seed: a world in which it decides what happens, when it is read, and what fails; and the production loop in it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::kafka::{Batch, OutRecord};
use crate::model::Millis;
use crate::run::service::{Ports, Service};
use crate::store::Store;
use crate::store::disk::{Cut, Disk};

use super::beside::{Cleaner, Slow};
use super::broker::Broker;
use super::chance::Chance;
use super::events::{Happened, Wish, forget_json, play_json};
use super::invariants::{self, Check, Seen, Stored, Witness};
use super::reading::Reader;
use super::setup::{Lived, Setup, wish};
use super::ways::{Courier, Fetcher, Shared, Told, lock};
use super::{FORGETS, PLAYS, serve, topics};

/// Turns in which the world must come to rest once nothing fails any more.
const PATIENCE: usize = 4_000;

/// What a record of an input topic means.
#[derive(Debug, Clone)]
enum Fact {
    Play(Happened),
    Wish(usize, Wish),
    Refused,
    Empty,
}

/// What dies with the process.
struct Process {
    service: Service,
    source: Fetcher,
    sink: Courier,
    solver: Slow,
    purger: Cleaner,
}

/// A record on its way to a topic.
struct Produced {
    due: usize,
    topic: usize,
    partition: usize,
    value: Option<Vec<u8>>,
    timestamp: i64,
}

/// See the module.
pub(in crate::run) struct Trial {
    setup: Setup,
    chance: Chance,
    disk: Arc<Disk>,
    broker: Shared,
    process: Option<Process>,
    now: Millis,
    step: usize,
    /// What a record means, by its value and timestamp.
    facts: BTreeMap<(Option<Vec<u8>>, i64), Fact>,
    produced: Vec<Produced>,
    /// Everything that was produced, and what the loop has stored of it.
    all: Seen,
    seen: Seen,
    /// Batches that the loop decided on, in order, of which the store does not have all yet; and how many it has.
    handed: VecDeque<Batch>,
    steps: u64,
    witness: Witness,
    /// What was looked at last: writes, versions of the broker.
    looked: (u64, u64),
    lived: Lived,
    keys: tempfile::TempDir,
    calm: bool,
}

impl Trial {
    /// Lives through one seed.
    ///
    /// # Errors
    /// The invariant that is broken, with what was seen.
    pub fn run(seed: u64) -> Result<Lived, String> {
        let mut chance = Chance::new(seed);
        let setup = Setup::new(&mut chance);
        let mut broker = Broker::default();
        broker.create(PLAYS, 1 + chance.below(3));
        broker.create(FORGETS, 1 + chance.below(2));
        let out = topics();
        for topic in [&out.factors, &out.receipts, &out.dead_letters] {
            broker.create(topic, 1 + chance.below(2));
        }
        broker.create(&out.generations, 1);
        let mut trial = Trial {
            setup,
            chance,
            disk: Arc::default(),
            broker: Shared::new(broker.into()),
            process: None,
            now: 2_000_000,
            step: 0,
            facts: BTreeMap::new(),
            produced: Vec::new(),
            all: Seen::default(),
            seen: Seen::default(),
            handed: VecDeque::new(),
            steps: 0,
            witness: Witness::default(),
            looked: (u64::MAX, 0),
            lived: Lived::default(),
            keys: tempfile::tempdir().map_err(|error| error.to_string())?,
            calm: false,
        };
        trial.live().map_err(|broken| format!("step {}: {broken}", trial.step))?;
        Ok(trial.told())
    }

    fn live(&mut self) -> Check {
        for step in 0..self.setup.steps {
            self.step = step;
            self.happen();
            self.arrive();
            self.go_wrong()?;
            self.turn()?;
        }
        self.come_to_rest()
    }

    fn told(&self) -> Lived {
        let (cuts, full) = self.disk.faults();
        Lived { cuts, full, ..self.lived }
    }

    /// Somebody does something, and a producer writes it down: late, twice, in whatever partition.
    fn happen(&mut self) {
        let Setup { people, things, .. } = self.setup;
        // Much at first, then little: then there are interim generations.
        let busy = self.step * 4 < self.setup.steps;
        for _ in 0..self.chance.below(if busy { 5 } else { 2 }) {
            let chance = &mut self.chance;
            let (topic, value, timestamp, fact) = match chance.below(20) {
                0 => {
                    let (n, wish) = (self.all.wishes.len(), wish(chance, people, things));
                    (1, Some(forget_json(n, &wish)), 1_000, Fact::Wish(n, wish))
                }
                1 => (0, Some(format!(r#"{{"user":{}"#, "[".repeat(1 + chance.below(5)))), 1_000, Fact::Refused),
                2 => (0, None, 1_000, Fact::Empty),
                _ => {
                    let play = Happened {
                        user: chance.below(people) as u8,
                        item: chance.below(things) as u8,
                        event_id: chance.one_in(3).then(|| chance.below(12) as u8),
                        value: 1 + chance.below(4) as u8,
                        time: chance.between(0, 120),
                    };
                    (0, Some(play_json(&play, chance.one_in(2))), play.time, Fact::Play(play))
                }
            };
            self.produce(topic, value.map(String::into_bytes), timestamp, fact);
        }
        // A producer sends again what it sent before, or a backup is replayed.
        if self.chance.one_in(12) && !self.facts.is_empty() {
            let at = self.chance.below(self.facts.len());
            let (at, fact) = self.facts.iter().nth(at).map(|(at, fact)| (at.clone(), fact.clone())).expect("one of them");
            self.produce(usize::from(matches!(fact, Fact::Wish(..))), at.0, at.1, fact);
        }
    }

    fn produce(&mut self, topic: usize, value: Option<Vec<u8>>, timestamp: i64, fact: Fact) {
        take(&mut self.all, &fact, value.as_deref());
        self.facts.insert((value.clone(), timestamp), fact);
        let partitions = lock(&self.broker).logs([PLAYS, FORGETS][topic]).len();
        for _ in 0..if self.chance.one_in(8) { 2 } else { 1 } {
            let due = self.step + if self.chance.one_in(3) { self.chance.below(40) } else { 0 };
            let partition = self.chance.below(partitions);
            self.produced.push(Produced { due, topic, partition, value: value.clone(), timestamp });
        }
    }

    /// What is due is in its topic; a producer's transaction may take offsets that no record has.
    fn arrive(&mut self) {
        let (due, later) = std::mem::take(&mut self.produced).into_iter().partition(|produced| self.calm || produced.due <= self.step);
        self.produced = later;
        for Produced { topic, partition, value, timestamp, .. } in due {
            let topic = [PLAYS, FORGETS][topic];
            self.lived.events += 1;
            self.lived.forgets += u64::from(topic == FORGETS);
            let mut broker = lock(&self.broker);
            let log = broker.log(topic, partition);
            log.push(OutRecord { topic: topic.to_owned(), key: None, value, headers: Vec::new() }, timestamp, None);
            log.end += if self.chance.one_in(10) { self.chance.between(1, 3) } else { 0 };
        }
    }

    fn go_wrong(&mut self) -> Check {
        let chance = &mut self.chance;
        self.now += chance.between(0, 900);
        self.disk.hurry(chance.one_in(2));
        if chance.one_in(40) {
            self.now = (self.now + chance.between(-7_200_000, 3_600_000)).max(0);
        }
        if chance.one_in(16) {
            let cut = *chance.pick(&[Cut::Before, Cut::After]);
            self.disk.cut_at(chance.below(12) as u32, cut);
        }
        if chance.one_in(150) {
            self.disk.fill(*chance.pick(&[Cut::Before, Cut::After]));
        } else if chance.one_in(10) {
            self.disk.make_room();
        }
        if chance.one_in(8) {
            lock(&self.broker).clean(&topics().factors, chance, false);
        }
        if chance.one_in(60) {
            self.die()?;
        } else if let Some(process) = &mut self.process {
            if self.chance.one_in(10) {
                process.source.rebalance();
            }
            if self.chance.one_in(60) {
                let topic = *self.chance.pick(&[PLAYS, FORGETS]);
                let mut broker = lock(&self.broker);
                let partition = self.chance.below(broker.logs(topic).len());
                let place = (topic.to_owned(), partition as i32);
                // What is only decided could be lost with the process.
                let from = process.service.stored.get(&place).copied().unwrap_or(0);
                self.lived.made_anew += u64::from(broker.log(topic, partition).start_over(from));
            }
        }
        Ok(())
    }

    fn die(&mut self) -> Check {
        if let Some(process) = self.process.take() {
            self.lived.crashes += 1;
            self.lived.rebalances += process.source.rebalances;
            self.lived.failed_sends += process.sink.failures;
            self.lived.interims += process.solver.interims;
            process.sink.die();
        }
        self.disk.reboot(self.chance.one_in(2));
        self.take_in()?;
        // What the process had decided and not written goes with it.
        self.handed.clear();
        Ok(())
    }

    fn start(&mut self) -> Result<Process, String> {
        let Setup { params, manner, transactions, .. } = &self.setup;
        let store: Arc<dyn Store> = self.disk.clone();
        let path = self.keys.path().join("key.pem");
        let service = serve(store, params, manner.clone(), &path, self.now).map_err(|error| error.to_string())?;
        let (chance, broker) = (&mut self.chance, &self.broker);
        let source = Fetcher::new(broker.clone(), self.disk.clone(), chance.fork(), service.state().positions().clone());
        let sink = Courier::new(broker.clone(), chance.fork(), *transactions);
        let purger = Cleaner::new(broker.clone(), self.disk.clone(), topics().factors, chance.fork());
        Ok(Process { service, source, sink, solver: Slow::new(chance.fork()), purger })
    }

    /// One turn of the loop, or a start where there is none.
    fn turn(&mut self) -> Check {
        let Some(mut process) = self.process.take() else {
            match self.start() {
                Ok(process) => self.process = Some(process),
                Err(_) if self.disk.has_failed() => self.disk.reboot(false),
                Err(error) => return Err(format!("it starts again after whatever happened: {error}")),
            }
            return self.look(None);
        };
        self.lived.turns += 1;
        (process.source.polled, process.source.told, process.solver.started) = (None, None, None);
        let take_in = self.calm || !self.chance.one_in(30);
        let result = {
            let Process { service, source, sink, solver, purger } = &mut process;
            service.turn(&mut Ports { source, sink, solver, purger }, self.now, take_in)
        };
        self.handed.extend(process.source.polled.clone());
        self.take_in()?;
        if let Some(generation) = process.solver.started {
            self.witness.cuts.insert(generation, self.decided()?);
        }
        let (broken, told) = (process.solver.broken.take(), process.source.told.take());
        let failed = self.disk.has_failed();
        self.process = Some(process);
        match result {
            Ok(_) if failed => return Err("a store that failed ends the loop: it goes on".to_owned()),
            Err(error) if !failed => return Err(format!("only a store that failed ends the loop: {error}")),
            Ok(_) => (),
            Err(_) => self.die()?,
        }
        broken.map_or(Ok(()), Err)?;
        self.look(told)
    }

    /// Each batch is one write of the store: those that are there are taken in.
    fn take_in(&mut self) -> Check {
        while self.steps < self.disk.steps() {
            let batch = self.handed.pop_front().ok_or("a step of a batch that nobody handed over")?;
            known(&self.facts, &batch, &mut self.seen)?;
            self.steps += 1;
        }
        Ok(())
    }

    /// What the loop goes on from, stored or not.
    fn decided(&self) -> Result<Seen, String> {
        let mut decided = self.seen.clone();
        self.handed.iter().try_for_each(|batch| known(&self.facts, batch, &mut decided))?;
        Ok(decided)
    }

    /// Looks at everything that changed.
    fn look(&mut self, told: Option<Told>) -> Check {
        invariants::offsets_are_those_stored(told.as_ref())?;
        let at_rest = self.calm && self.is_at_rest();
        let broker = lock(&self.broker);
        let at = (self.disk.writes(), broker.version);
        if at == self.looked {
            return Ok(());
        }
        self.looked = at;
        let stored = Stored::read(self.disk.rows(), &self.seen)?;
        invariants::the_data_are_the_set_of_events(&stored, &self.seen)?;
        if let Some(process) = self.process.as_ref().filter(|_| !self.disk.is_in_doubt()) {
            let ahead = self.disk.ahead().map(|rows| Stored::read(rows, &self.seen)).transpose()?;
            invariants::memory_is_the_store(&process.service, ahead.as_ref().unwrap_or(&stored))?;
        }
        self.witness.the_store_only_advances(&stored)?;
        let reader = Reader::read(&broker, &topics());
        if self.setup.transactions {
            invariants::readers_see_whole_generations(&reader)?;
            self.witness.generations_are_those_of_their_cuts(&reader, &self.setup.params)?;
        }
        invariants::receipts_are_true(&stored, &reader)?;
        invariants::what_is_purged_is_gone(&stored, &self.seen, &self.disk, &broker, self.setup.manner.purge.proof)?;
        if at_rest {
            self.lived.generations = reader.generation();
            self.witness.generations_are_those_of_their_cuts(&reader, &self.setup.params)?;
            self.witness.the_newest_generation_is_up_to_date(&reader, &self.seen)?;
            invariants::everything_has_arrived(&stored, &self.all, &self.seen, &reader)?;
        }
        Ok(())
    }

    fn is_at_rest(&self) -> bool {
        self.process.as_ref().is_some_and(|process| {
            let Process { service, source, sink, .. } = process;
            self.produced.is_empty() && source.is_drained() && sink.is_idle() && service.is_settled() && service.purging.pending().0 == 0
        })
    }

    /// Nothing fails any more.
    fn come_to_rest(&mut self) -> Check {
        self.calm = true;
        self.disk.recover();
        if self.chance.one_in(2) {
            self.die()?;
        }
        for _ in 0..PATIENCE {
            self.step += 1;
            self.now += 400;
            self.arrive();
            if let Some(process) = &mut self.process {
                let Process { source, sink, solver, purger, .. } = process;
                source.calm_down();
                (sink.calm, solver.calm, purger.calm) = (true, true, true);
            }
            self.turn()?;
            if self.is_at_rest() {
                self.looked = (u64::MAX, 0);
                self.look(None)?;
                return self.die();
            }
        }
        let waiting = self.process.as_ref().map(|process| (process.service.state().waiting().len(), process.service.purging.shown()));
        Err(format!("it comes to rest: not within {PATIENCE} turns; {waiting:?}"))
    }
}

/// Adds what the records of a batch say.
fn known(facts: &BTreeMap<(Option<Vec<u8>>, i64), Fact>, batch: &Batch, seen: &mut Seen) -> Check {
    for record in &batch.records {
        let at = (batch.payload(record).map(<[u8]>::to_vec), record.timestamp.unwrap_or_default());
        let fact = facts.get(&at).ok_or("a record that nobody produced")?;
        take(seen, fact, at.0.as_deref());
    }
    Ok(())
}

/// Adds what a record says to a set of events.
fn take(seen: &mut Seen, fact: &Fact, value: Option<&[u8]>) {
    match fact {
        Fact::Play(play) => drop(seen.plays.insert(play.clone())),
        Fact::Wish(n, wish) => drop(seen.wishes.insert(*n, wish.clone())),
        Fact::Refused => drop(seen.refused.insert(value.unwrap_or_default().to_vec())),
        Fact::Empty => (),
    }
}

//! What works beside the loop: a solver and a purger that take their time, fail, and are interrupted.

use std::cell::Cell;
use std::sync::Arc;

use crate::kafka::admin::Finding;
use crate::model::generation::Job;
use crate::model::unlearn::Unwatched;
use crate::run::purger::{Order, Purged, Purger, TopicOrder, must_be_gone};
use crate::run::solver::{Solved, Solver};
use crate::store::disk::Disk;
use crate::store::{EraseStep, Erased, Store};

use super::chance::Chance;
use super::ways::{Shared, lock};
use super::{Impatient, bits, key};

/// A solver that is slow, fails, and gives way when it is told to.
pub(in crate::run) struct Slow {
    job: Option<Job>,
    chance: Chance,
    cancelled: bool,
    /// The generation of which the solve began in this turn.
    pub started: Option<u64>,
    pub interims: u64,
    /// What an invariant says of a solve.
    pub broken: Option<String>,
    pub calm: bool,
}

impl Slow {
    pub fn new(chance: Chance) -> Slow {
        Slow { job: None, chance, cancelled: false, started: None, interims: 0, broken: None, calm: false }
    }
}

impl Solver for Slow {
    fn start(&mut self, job: Job) {
        self.started = Some(job.number());
        (self.job, self.cancelled) = (Some(job), false);
    }

    fn cancel(&mut self) {
        self.cancelled = true;
    }

    fn poll(&mut self) -> Option<Solved> {
        let done = self.job.is_some() && (self.calm || self.cancelled || self.chance.one_in(3));
        let job = done.then(|| self.job.take()).flatten()?;
        // What decides whether an interim generation is worth its while.
        let seconds = self.chance.below(3) as f64;
        if !self.calm && self.chance.one_in(40) {
            return Some(Solved { result: Err("a row that cannot be solved".to_owned()), seconds });
        }
        let forgetful = job.is_interim().then(|| job.without_memory());
        let outcome = if self.cancelled { job.run(&Impatient::default()) } else { job.run(&Unwatched) };
        if let (Some(forgetful), Ok(outcome)) = (forgetful, &outcome) {
            self.interims += 1;
            let anew = forgetful.run(&Unwatched).map(|anew| bits(&anew.solution.factors));
            if anew.ok().as_ref() != Some(&bits(&outcome.solution.factors)) {
                self.broken = Some("nothing derived outlives its data: an interim differs from one made of the data alone".to_owned());
            }
        }
        Some(Solved { result: outcome.map_err(|error| error.to_string()), seconds })
    }
}

/// A purger that is slow and interrupted, over the simulated disk and broker.
pub(in crate::run) struct Cleaner {
    broker: Shared,
    disk: Arc<Disk>,
    factors: String,
    chance: Chance,
    order: Option<Order>,
    pub calm: bool,
}

impl Cleaner {
    pub fn new(broker: Shared, disk: Arc<Disk>, factors: String, chance: Chance) -> Cleaner {
        Cleaner { broker, disk, factors, chance, order: None, calm: false }
    }

    fn look(&mut self, order: &TopicOrder) -> Finding {
        let mut broker = lock(&self.broker);
        broker.beat(&self.factors);
        broker.clean(&self.factors, &mut self.chance, self.calm);
        let logs = broker.logs(&self.factors).iter().zip(0..);
        let below = |partition: i32, offset: i64| order.upto.get(&partition).is_some_and(|upto| offset < *upto);
        let of_log = |(log, partition): (_, i32)| {
            let log: &super::broker::Log = log;
            let entries = log.entries.iter().filter(move |entry| below(partition, entry.offset));
            entries.map(move |entry| (partition, entry.offset, &entry.record))
        };
        let key = key();
        Finding::of_partitions(&order.upto, logs.flat_map(of_log), &must_be_gone(&order.gone, &key))
    }
}

impl Purger for Cleaner {
    fn start(&mut self, order: Order) {
        if matches!(order, Order::Disk(_)) {
            self.disk.order_erasure();
        }
        assert!(self.order.replace(order).is_none(), "one order at a time");
    }

    fn poll(&mut self) -> Option<Purged> {
        let done = self.order.is_some() && (self.calm || self.chance.one_in(3));
        let order = done.then(|| self.order.take()).flatten()?;
        let fails = !self.calm && self.chance.one_in(6);
        Some(match order {
            Order::Disk(_) if fails && self.chance.one_in(2) => {
                let leftover = Some("a snapshot is open".to_owned());
                Purged::Disk { result: Ok(Erased { leftover, ..Erased::default() }), seconds: 0.1 }
            }
            Order::Disk(ranges) => {
                let steps = Cell::new(if fails { self.chance.below(EraseStep::ALL.len()) } else { usize::MAX });
                let go_on = |_| steps.replace(steps.get().saturating_sub(1)) > 0;
                Purged::Disk { result: self.disk.erase(&ranges, &go_on), seconds: 0.1 }
            }
            Order::Topic(_) if fails => Purged::Topic { result: Err("the broker went away".to_owned()), seconds: 0.1 },
            Order::Topic(order) => Purged::Topic { result: Ok(self.look(&order)), seconds: 0.1 },
            Order::Survey { .. } => Purged::Survey(Err("no state here comes from a backup".to_owned())),
        })
    }
}

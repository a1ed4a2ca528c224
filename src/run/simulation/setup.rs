//! What a seed says first: how its world is made; and what was lived through in it.

use std::time::Duration;

use crate::config::{Generation, Purge, TopicProof};
use crate::model::{Objective, Params};

use super::chance::Chance;
use super::events::Wish;
use super::{Manner, params};

/// What was lived through.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::run) struct Lived {
    pub events: u64,
    pub forgets: u64,
    pub turns: u64,
    pub crashes: u64,
    pub cuts: u64,
    pub full: u64,
    pub rebalances: u64,
    pub made_anew: u64,
    pub failed_sends: u64,
    pub generations: u64,
    pub interims: u64,
}

impl Lived {
    pub fn add(&mut self, more: &Lived) {
        let Lived { events, forgets, turns, crashes, cuts, full, rebalances, made_anew, failed_sends, generations, interims } = more;
        let mine = [
            (&mut self.events, events),
            (&mut self.forgets, forgets),
            (&mut self.turns, turns),
            (&mut self.crashes, crashes),
            (&mut self.cuts, cuts),
            (&mut self.full, full),
            (&mut self.rebalances, rebalances),
            (&mut self.made_anew, made_anew),
            (&mut self.failed_sends, failed_sends),
            (&mut self.generations, generations),
            (&mut self.interims, interims),
        ];
        mine.into_iter().for_each(|(mine, more)| *mine += more);
    }
}

/// How the world is made; a seed's first words.
#[derive(Debug, Clone)]
pub(in crate::run) struct Setup {
    pub params: Params,
    pub manner: Manner,
    pub transactions: bool,
    pub people: usize,
    pub things: usize,
    pub steps: usize,
}

impl Setup {
    pub fn new(chance: &mut Chance) -> Setup {
        let objective = *chance.pick(&[Objective::Implicit, Objective::Explicit]);
        let model = Params {
            rank: 2 + chance.below(4),
            regularization: 1.0,
            tolerance: 1e-7,
            max_sweeps: if chance.one_in(6) { 12 } else { 20_000 },
            ..params(objective, chance.below(5) as u64)
        };
        let millis = |chance: &mut Chance, most| Duration::from_millis(chance.between(0, most) as u64);
        let timing = Generation {
            max_delay: millis(chance, 8_000),
            max_events: 1 + chance.below(30) as u64,
            forget_delay: millis(chance, 1_500),
            interim_after: *chance.pick(&[Duration::ZERO, Duration::from_secs(1), Duration::MAX]),
        };
        let proof = *chance.pick(&[TopicProof::None, TopicProof::Rows, TopicProof::Names]);
        let purge = Purge { interval: millis(chance, 6_000), proof, heartbeat: millis(chance, 2_000) };
        Setup {
            params: model,
            manner: Manner { timing, purge },
            transactions: !chance.one_in(4),
            people: 3 + chance.below(6),
            things: 3 + chance.below(5),
            steps: 60 + chance.below(140),
        }
    }
}

/// The person, some things of theirs, a window, single events, or a thing for everybody.
pub(in crate::run) fn wish(chance: &mut Chance, people: usize, things: usize) -> Wish {
    let user = (!chance.one_in(5)).then(|| chance.below(people) as u8);
    let some = |chance: &mut Chance, of: usize| (0..1 + chance.below(3)).map(|_| chance.below(of) as u8).collect::<Vec<u8>>();
    let items = (user.is_none() || chance.one_in(3)).then(|| some(chance, things));
    let events = (user.is_some() && chance.one_in(4)).then(|| some(chance, 12));
    let (a, b) = (chance.between(0, 100), chance.between(0, 100));
    let (from, to) = *chance.pick(&[(0, 100), (0, a), (a.min(b), a.max(b))]);
    Wish { user, items, events, from, to }
}

//! What must hold at any time, whatever happened: each is a predicate with a name, and says what it saw when it is broken.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::config::TopicProof;
use crate::model::Params;
use crate::model::factors::Side;
use crate::model::play::ordered;
use crate::model::processor::Restored;
use crate::model::receipt::{Receipt, Request, Status};
use crate::model::step::History;
use crate::run::service::Service;
use crate::store::Store;
use crate::store::disk::Disk;
use crate::store::tables::Tables;

use super::broker::Broker;
use super::events::{self, Happened, Wish, forgotten};
use super::reading::{Reader, digest, steepest};
use super::ways::Told;
use super::{Named, bits, key, named, topics};

/// The gradient that f32 rows of a converged model may have.
const FLAT: f64 = 1e-4;

pub(in crate::run) type Check = Result<(), String>;

fn holds(condition: bool, name: &str, seen: impl FnOnce() -> String) -> Check {
    if condition { Ok(()) } else { Err(format!("{name}: {}", seen())) }
}

/// The events that the loop has taken in and stored, in no order.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::run) struct Seen {
    pub plays: BTreeSet<Happened>,
    pub wishes: BTreeMap<usize, Wish>,
    pub refused: BTreeSet<Vec<u8>>,
}

impl Seen {
    pub fn surviving(&self) -> impl Iterator<Item = &Happened> {
        self.plays.iter().filter(|play| !self.wishes.values().any(|wish| forgotten(play, wish)))
    }

    /// Wishes that a play matches.
    fn asked(&self, matches: impl Fn(&Happened) -> bool) -> impl Iterator<Item = usize> {
        let of_wish = move |(n, wish): (&usize, &Wish)| self.plays.iter().any(|play| matches(play) && forgotten(play, wish)).then_some(*n);
        self.wishes.iter().filter_map(of_wish)
    }
}

/// What is in the store, and the requests of the ledger.
pub(in crate::run) struct Stored {
    pub tables: Tables,
    pub restored: Restored,
    pub ledger: BTreeMap<usize, Request>,
}

impl Stored {
    pub fn read(rows: Arc<dyn Store>, seen: &Seen) -> Result<Stored, String> {
        let tables = Tables::reading(rows);
        let restored = tables.restore(key()).map_err(|error| error.to_string())?;
        let mut ledger = BTreeMap::new();
        for &n in seen.wishes.keys() {
            let found = tables.request(&key().request(&events::request(n))).map_err(|error| error.to_string())?;
            ledger.extend(found.map(|request| (n, request)));
        }
        Ok(Stored { tables, restored, ledger })
    }

    fn generation(&self) -> u64 {
        self.restored.current.as_ref().map_or(0, |current| current.manifest.generation)
    }

    fn status(&self, n: usize) -> Option<Status> {
        self.ledger.get(&n).map(|request| request.receipt.status)
    }
}

fn named_play(play: &Happened) -> Named {
    let ident = play.event_id.map(|id| key().event(&events::event(id)));
    (events::user(play.user), events::item(play.item), ident, play.time, ordered(f64::from(play.value)))
}

/// The plays in the store are those of the events taken in that nobody asked to forget: none is lost, none comes back.
pub(in crate::run) fn the_data_are_the_set_of_events(stored: &Stored, seen: &Seen) -> Check {
    let found = named(&stored.tables, &stored.restored.dictionary)?;
    let back: Vec<Named> = seen.plays.iter().map(named_play).filter(|play| found.contains(play)).collect();
    let expected: BTreeSet<Named> = seen.surviving().map(named_play).collect();
    let back: Vec<&Named> = back.iter().filter(|play| !expected.contains(*play)).collect();
    holds(back.is_empty(), "no forgotten event is in the interactions", || format!("{back:?}"))?;
    let (lost, more) = (expected.difference(&found).collect::<Vec<_>>(), found.difference(&expected).collect::<Vec<_>>());
    holds(lost.is_empty() && more.is_empty(), "the data are the set of events", || format!("lost {lost:?}, not asked for {more:?}"))?;
    let ledger: BTreeSet<&usize> = stored.ledger.keys().collect();
    holds(seen.wishes.keys().all(|n| ledger.contains(n)), "every request is in the ledger", || format!("{ledger:?}"))
}

/// What the group is told is what is stored at that moment.
pub(in crate::run) fn offsets_are_those_stored(told: Option<&Told>) -> Check {
    let Some(Told { positions, stored }) = told else { return Ok(()) };
    holds(positions == stored, "offsets never pass what is stored", || format!("{positions:?}, stored {stored:?}"))
}

/// Nothing of the state is in memory only: a restart would find every bit of it, with the batch that is still to be written.
pub(in crate::run) fn memory_is_the_store(service: &Service, stored: &Stored) -> Check {
    let (state, restored) = (service.state(), &stored.restored);
    let name = "memory is the store";
    holds(state.positions() == &restored.positions, name, || format!("offsets {:?}", state.positions()))?;
    for side in Side::BOTH {
        let names = |names: &[Option<Arc<str>>]| names.iter().cloned().zip(0..).filter(|(name, _)| name.is_some()).collect::<Vec<_>>();
        let (mine, theirs) = (names(state.dictionary().names(side)), names(restored.dictionary.names(side)));
        holds(mine == theirs, name, || format!("names {mine:?} {theirs:?}"))?;
        let (mine, theirs) = (state.dictionary().next(side), restored.dictionary.next(side));
        holds(mine == theirs, name, || format!("next numbers {mine} {theirs}"))?;
    }
    let factors =
        |current: Option<&crate::model::generation::Current>| current.map(|current| (current.manifest.clone(), bits(&current.factors)));
    let (mine, theirs) = (factors(state.current()), factors(restored.current.as_ref()));
    holds(mine == theirs, name, || format!("generations {mine:?} {theirs:?}"))?;
    holds(state.waiting() == &restored.waiting, name, || format!("waiting {:?} {:?}", state.waiting(), restored.waiting))
}

/// What was seen before, to be compared with what is seen next.
#[derive(Debug, Default)]
pub(in crate::run) struct Witness {
    generation: u64,
    ledger: BTreeMap<usize, Status>,
    /// What was taken in when the solve of a generation began.
    pub cuts: BTreeMap<u64, Seen>,
    /// Manifests that were looked at.
    looked: usize,
}

impl Witness {
    /// Generations of the store count up by one, and a request never goes back.
    pub fn the_store_only_advances(&mut self, stored: &Stored) -> Check {
        let (before, now) = (self.generation, stored.generation());
        holds(now == before || now == before + 1, "generations count up", || format!("{before}, then {now}"))?;
        self.generation = now;
        for (&n, request) in &stored.ledger {
            let status = request.receipt.status;
            let before = self.ledger.insert(n, status);
            holds(before.is_none_or(|before| before <= status), "receipts only advance", || format!("r{n}: {before:?}, then {status:?}"))?;
        }
        Ok(())
    }

    /// Each new generation that readers can see is that of its cut: these rows, these counts, and their optimum.
    pub fn generations_are_those_of_their_cuts(&mut self, reader: &Reader, params: &Params) -> Check {
        let name = "generations count up on the topic";
        for pair in reader.manifests.windows(2) {
            let again = pair[0].generation == pair[1].generation && pair[0].digest == pair[1].digest;
            let next = pair[0].generation + 1 == pair[1].generation && pair[1].parent == Some(pair[0].generation);
            holds(again || next, name, || format!("{} after {}", pair[1].generation, pair[0].generation))?;
        }
        let Some(manifest) = reader.manifests.last().filter(|_| reader.manifests.len() > self.looked) else { return Ok(()) };
        self.looked = reader.manifests.len();
        let cut = self.cuts.get(&manifest.generation).ok_or("a generation that nobody began")?;
        let (interactions, pairs) = events::pairs(cut.surviving(), params.objective);
        let sides = [pairs.keys().map(|pair| pair.0).collect::<BTreeSet<u8>>(), pairs.keys().map(|pair| pair.1).collect()];
        let users = sides[0].iter().map(|&n| Side::User.key(&events::user(n)));
        let keys: BTreeSet<Vec<u8>> =
            users.chain(sides[1].iter().map(|&n| Side::Item.key(&events::item(n)))).map(String::into_bytes).collect();
        let held: BTreeSet<Vec<u8>> = reader.upto.keys().cloned().collect();
        let text = |keys: &BTreeSet<Vec<u8>>| keys.iter().map(|key| String::from_utf8_lossy(key).into_owned()).collect::<Vec<_>>();
        let name = "every event is reflected";
        holds(keys == held, name, || format!("rows {:?} of {:?}", text(&held), text(&keys)))?;
        let counts = (manifest.counts.users, manifest.counts.items, manifest.counts.interactions);
        let expected = (sides[0].len() as u64, sides[1].len() as u64, interactions);
        holds(counts == expected, name, || format!("{counts:?} of {expected:?}"))?;
        let mean = pairs.values().sum::<f64>() / (pairs.len().max(1) as f64);
        let told = manifest.model.mean.unwrap_or(mean);
        holds((told - mean).abs() < 1e-9, name, || format!("mean {told} of {mean}"))?;
        if manifest.certificate.holds() {
            let steepest = steepest(&reader.upto, &pairs, params, mean)?;
            holds(steepest < FLAT, "a certified generation is a stationary point of the data", || format!("gradient {steepest:e}"))?;
        }
        Ok(())
    }
}

impl Witness {
    /// In the end: nothing was taken in since the newest generation that would change it.
    pub fn the_newest_generation_is_up_to_date(&self, reader: &Reader, seen: &Seen) -> Check {
        let known: Vec<&Happened> = self.cuts.get(&reader.generation()).map(|cut| cut.surviving().collect()).unwrap_or_default();
        let all: Vec<&Happened> = seen.surviving().collect();
        holds(known == all, "the newest generation is up to date", || format!("it knows {known:?} of {all:?}"))
    }
}

/// With transactions, a `read_committed` reader holds a whole generation at any time.
pub(in crate::run) fn readers_see_whole_generations(reader: &Reader) -> Check {
    let name = "readers only see whole generations";
    let Some(manifest) = reader.manifests.last() else {
        return holds(reader.rows.is_empty(), name, || "rows ahead of the first generation".to_owned());
    };
    let (all, upto) = (digest(&reader.rows), digest(&reader.upto));
    holds(all == manifest.digest, name, || format!("{} rows are not generation {}", reader.rows.len(), manifest.generation))?;
    holds(upto == manifest.digest, name, || format!("up to {:?} is not generation {}", manifest.upto, manifest.generation))
}

/// What a receipt claims is so, in the ledger and on the topic, where a reader sees it advance only.
pub(in crate::run) fn receipts_are_true(stored: &Stored, reader: &Reader) -> Check {
    let claims = |receipt: &Receipt| {
        let Receipt { request_id, status, generation, certificate, .. } = receipt;
        let name = "a receipt claims what is so";
        let certified = certificate.as_ref().is_some_and(|certificate| certificate.holds());
        let known = generation.is_some_and(|generation| generation <= stored.generation());
        holds(*status < Status::Unlearned || (certified && known), name, || format!("{request_id} is {status:?} by {generation:?}"))?;
        let readable = generation.is_some_and(|generation| generation <= reader.generation());
        let at = reader.generation();
        holds(*status < Status::Published || readable, name, || {
            format!("{request_id} is {status:?} by {generation:?}, readers are at {at}")
        })
    };
    stored.ledger.values().try_for_each(|request| claims(&request.receipt))?;
    for (id, receipts) in &reader.receipts {
        receipts.iter().try_for_each(claims)?;
        let statuses: Vec<Status> = receipts.iter().map(|receipt| receipt.status).collect();
        holds(statuses.is_sorted(), "receipts only advance on the topic", || format!("{id}: {statuses:?}"))?;
        let ledger = stored.tables.request(&key().request(id)).map_err(|error| error.to_string())?;
        let (ledger, told) = (ledger.map(|request| request.receipt.status), statuses.last().copied());
        // A rejected one is nowhere but on the topic.
        let known = told == Some(Status::Rejected) || ledger >= told;
        holds(known, "a receipt is of what is stored", || format!("{id} is {told:?}, stored {ledger:?}"))?;
    }
    Ok(())
}

/// Nothing is left of names that only purged requests selected: not in a row, not in what deleted rows left on the disk,
/// not on the factors topic.
pub(in crate::run) fn what_is_purged_is_gone(stored: &Stored, seen: &Seen, disk: &Disk, broker: &Broker, proof: TopicProof) -> Check {
    let purged = |matches: &dyn Fn(&Happened) -> bool| {
        let known = seen.plays.iter().any(matches) && !seen.surviving().any(matches);
        known && seen.asked(matches).all(|n| stored.status(n) == Some(Status::Purged))
    };
    let of_side = |side: Side, n: u8, name: String, texts: &mut Vec<String>, keys: &mut Vec<Vec<u8>>| {
        if purged(&|play| n == if side == Side::User { play.user } else { play.item }) {
            keys.push(side.key(&name).into_bytes());
            texts.push(name);
        }
    };
    let (mut texts, mut keys) = (Vec::new(), Vec::new());
    for n in seen.plays.iter().map(|play| play.user).collect::<BTreeSet<u8>>() {
        of_side(Side::User, n, events::user(n), &mut texts, &mut keys);
    }
    for n in seen.plays.iter().map(|play| play.item).collect::<BTreeSet<u8>>() {
        of_side(Side::Item, n, events::item(n), &mut texts, &mut keys);
    }
    let ids: BTreeSet<u8> = seen.plays.iter().filter_map(|play| play.event_id).collect();
    texts.extend(ids.into_iter().filter(|&n| purged(&|play| play.event_id == Some(n))).map(events::event));
    let name = "what is purged is gone";
    let left = disk.holds(&texts);
    holds(left.is_none(), name, || left.unwrap_or_default())?;
    if proof == TopicProof::None {
        return Ok(());
    }
    for entry in broker.logs(&topics().factors).iter().flat_map(|log| &log.entries) {
        let of_gone = entry.record.key.as_ref().is_some_and(|key| keys.contains(key));
        let there = of_gone && (entry.record.value.is_some() || proof == TopicProof::Names);
        let key = || String::from_utf8_lossy(entry.record.key.as_deref().unwrap_or_default()).into_owned();
        holds(!there, name, || format!("a record of {} at {}", key(), entry.offset))?;
    }
    Ok(())
}

/// In the end: everything produced was taken in, everything stored was handed out, every request is purged.
pub(in crate::run) fn everything_has_arrived(stored: &Stored, produced: &Seen, seen: &Seen, reader: &Reader) -> Check {
    holds(produced == seen, "every event is taken in", || format!("{produced:?}, taken in {seen:?}"))?;
    let waiting = stored.tables.backlog().map_err(|error| error.to_string())?.rows;
    holds(waiting == 0, "the outbox empties", || format!("{waiting} rows wait"))?;
    readers_see_whole_generations(reader)?;
    if let Some(current) = &stored.restored.current {
        let newest = reader.manifests.last().map(|manifest| (manifest.generation, &*manifest.digest));
        let mine = (current.manifest.generation, &*current.manifest.digest);
        holds(newest == Some(mine), "store and topic converge", || format!("{mine:?}, readers hold {newest:?}"))?;
        let held = current.manifest.certificate.holds() && !current.manifest.interim;
        holds(held, "the end is certified", || format!("{:?}", current.manifest.certificate))?;
    }
    for &n in seen.wishes.keys() {
        let status = stored.status(n);
        holds(status == Some(Status::Purged), "every request is purged", || format!("r{n} is {status:?}"))?;
        let last = reader.receipts.get(&events::request(n)).and_then(|receipts| receipts.last()).map(|receipt| receipt.status);
        holds(last == Some(Status::Purged), "readers learn what became of a request", || format!("of r{n} they know {last:?}"))?;
    }
    let letters: BTreeSet<&Vec<u8>> = reader.dead_letters.iter().collect();
    let missing = seen.refused.iter().find(|refused| !letters.contains(refused));
    holds(missing.is_none(), "what was refused is a dead letter", || format!("{missing:?}"))
}

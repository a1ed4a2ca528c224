//! What is sent while everything breaks, and what must be there in the end: plays and forgets whose outcome does not
//! depend on the order of their arrival.

#![allow(dead_code, reason = "tests and the program use their own part of it")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nepenthe::model::splitmix::SplitMix64;
use serde_json::json;

use super::kafka;

const USERS: usize = 60;
const ITEMS: usize = 40;
/// Milliseconds since the epoch of the first play; every play is 10 ms later than the one before.
const FIRST: i64 = 1_600_000_000_000;
/// Between two bursts.
const REST: Duration = Duration::from_millis(40);
/// Longest time that brokers may be away while records wait for them.
const PATIENCE: Duration = Duration::from_secs(600);

/// What is left to chance.
#[derive(Debug, Clone)]
pub struct Dice(SplitMix64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(SplitMix64::new(seed))
    }

    pub fn bits(&mut self) -> u64 {
        self.0.bits()
    }

    /// In 0..n.
    pub fn below(&mut self, n: usize) -> usize {
        self.0.below(n)
    }

    /// Between two numbers of milliseconds.
    pub fn millis(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(least + self.below((most - least) as usize + 1) as u64)
    }
}

/// One interaction as it counts in the end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Play {
    pub user: String,
    pub item: String,
    pub time: i64,
    pub value: u64,
}

#[derive(Debug, Clone)]
struct Sent {
    play: Play,
    event: Option<String>,
    line: String,
}

/// What a request covers; `None` is everything.
#[derive(Debug, Clone)]
struct Forget {
    user: Option<String>,
    item: Option<String>,
    event: Option<String>,
    from: i64,
    to: i64,
}

impl Forget {
    fn covers(&self, sent: &Sent) -> bool {
        let play = &sent.play;
        self.user.as_ref().is_none_or(|user| *user == play.user)
            && self.item.as_ref().is_none_or(|item| *item == play.item)
            && self.event.as_ref().is_none_or(|event| sent.event.as_ref() == Some(event))
            && (self.from..=self.to).contains(&play.time)
    }
}

/// All that was sent.
#[derive(Debug, Default)]
pub struct World {
    sent: Vec<Sent>,
    forgets: Vec<Forget>,
    requests: Vec<String>,
    late: BTreeSet<i64>,
    /// Plays that were sent again, and records that cannot be read.
    pub repeated: u64,
    pub junk: u64,
}

/// What must be there, and what must not.
pub struct Verdict {
    pub kept: BTreeSet<Play>,
    pub forgotten: BTreeSet<Play>,
}

impl World {
    pub fn requests(&self) -> &[String] {
        &self.requests
    }

    pub fn plays(&self) -> usize {
        self.sent.len()
    }

    pub fn verdict(&self) -> Verdict {
        let mut verdict = Verdict { kept: BTreeSet::new(), forgotten: BTreeSet::new() };
        // Forgets of one user are few; those of items, which concern everybody, fewer.
        let mut of: BTreeMap<Option<&str>, Vec<&Forget>> = BTreeMap::new();
        self.forgets.iter().for_each(|forget| of.entry(forget.user.as_deref()).or_default().push(forget));
        for sent in &self.sent {
            let covered = |user: Option<&str>| of.get(&user).is_some_and(|forgets| forgets.iter().any(|forget| forget.covers(sent)));
            let side = if covered(Some(&sent.play.user)) || covered(None) { &mut verdict.forgotten } else { &mut verdict.kept };
            side.insert(sent.play.clone());
        }
        verdict
    }

    /// The time of the next play; what comes now is not before it.
    fn time(&self) -> i64 {
        FIRST + 10 * self.sent.len() as i64
    }

    /// A play nobody has seen, now and then one that comes late: a fence may be waiting for it already.
    fn play(&mut self, dice: &mut Dice) -> String {
        // Two tastes, so that there is something to learn: most play what has the parity of their own number.
        let (who, what) = (dice.below(USERS), dice.below(ITEMS / 2) * 2);
        let what = if dice.below(5) == 0 { what + dice.below(2) } else { what + who % 2 };
        let (user, item) = (format!("u{who}"), format!("i{what}"));
        let (mut time, value) = (self.time(), 1 + dice.below(3) as u64);
        if dice.below(10) == 0 {
            // Late by up to a minute of this world. No two plays have one time: it tells them apart in the end.
            time -= 10 * dice.below(6_000) as i64 + 1 + dice.below(9) as i64;
            while !self.late.insert(time) {
                time -= 10;
            }
        }
        let event = (dice.below(2) == 0).then(|| format!("e{}", self.sent.len()));
        let mut line = json!({"user": user, "item": item, "value": value, "time": time});
        if let Some(event) = &event {
            line["event_id"] = json!(event);
        }
        let line = line.to_string();
        self.sent.push(Sent { play: Play { user, item, time, value }, event, line: line.clone() });
        line
    }

    fn again(&mut self, dice: &mut Dice) -> Option<String> {
        let sent = self.sent.get(dice.below(self.sent.len().max(1)))?;
        self.repeated += 1;
        Some(sent.line.clone())
    }

    fn forget(&mut self, dice: &mut Dice) -> Option<String> {
        let Sent { play, event, .. } = self.sent.get(dice.below(self.sent.len().max(1)))?.clone();
        let (now, id) = (self.time(), format!("r{}", self.forgets.len()));
        let mut forget = Forget { user: Some(play.user.clone()), item: None, event: None, from: 0, to: now };
        let mut line = json!({"type": "forget", "request_id": id, "time": now, "user": play.user});
        match dice.below(20) {
            0..7 => {
                line["items"] = json!([play.item]);
                forget.item = Some(play.item);
            }
            7..11 => {
                (forget.from, forget.to) = (play.time - 5_000, (play.time + 5_000).min(now));
                (line["from"], line["to"]) = (json!(forget.from), json!(forget.to));
            }
            11..16 if event.is_some() => {
                line["event_ids"] = json!([event]);
                forget.event = event;
            }
            16 => {
                line = json!({"type": "forget", "request_id": id, "time": now, "items": [play.item]});
                (forget.user, forget.item) = (None, Some(play.item));
            }
            _ => {}
        }
        self.forgets.push(forget);
        self.requests.push(id);
        Some(line.to_string())
    }
}

/// Sends without end, whatever happens to those who read.
pub struct Storm {
    world: Arc<Mutex<World>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Storm {
    /// `topics` are interactions and forgets.
    pub fn start(brokers: &str, topics: [String; 2], seed: u64) -> Storm {
        let (world, stop) = (Arc::new(Mutex::new(World::default())), Arc::new(AtomicBool::new(false)));
        let (brokers, shared, stopped) = (brokers.to_owned(), world.clone(), stop.clone());
        let send = move || {
            let mut dice = Dice::new(seed);
            let producer = kafka::producer(&brokers, PATIENCE);
            while !stopped.load(Ordering::Relaxed) {
                for (topic, line) in burst(&mut shared.lock().unwrap_or_else(PoisonError::into_inner), &mut dice) {
                    // No order is promised between plays and forgets, nor between plays: no key.
                    kafka::send(&producer, &topics[topic], None, Some(line.as_bytes()));
                }
                std::thread::sleep(REST);
            }
            kafka::delivered(&producer, PATIENCE);
        };
        Storm { world, stop, thread: Some(std::thread::spawn(send)) }
    }

    /// Stops sending, and waits until the brokers have all of it.
    ///
    /// # Panics
    /// When they do not take it.
    pub fn calm(mut self) -> World {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("one end").join().expect("the brokers have all that was sent");
        std::mem::take(&mut self.world.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Records by index of their topic.
fn burst(world: &mut World, dice: &mut Dice) -> Vec<(usize, String)> {
    let mut records = Vec::new();
    for _ in 0..1 + dice.below(10) {
        match dice.below(100) {
            0..80 => records.push((0, world.play(dice))),
            80..98 => records.extend(world.again(dice).map(|line| (0, line))),
            _ => {
                world.junk += 1;
                records.push((0, format!("{{\"user\":\"u1\",\"junk\":{}", world.junk)));
            }
        }
    }
    if dice.below(20) == 0 {
        records.extend(world.forget(dice).map(|line| (1, line)));
    }
    records
}

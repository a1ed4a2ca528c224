//! The story, act by act. Every sentence that states a fact is a claim that is checked.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::DemoError;
use super::broker::Broker;
use super::compare::Factors;
use super::patience::{Patience, now, time_of_day};
use super::reader::{Reader, Rows};
use super::service::{Service, TOLERANCE};
use super::stage::{Row, Stage, tight};
use super::titles::{GENRES, MUSICALS};
use super::world::{ASKED, DAY, EDITH, JONAS, MARA, Play, World};
use crate::cli::output;
use crate::model::receipt::{Manifest, Receipt, Stages, Status, instant};

/// Two converged models may differ by this: relative RMS of predictions.
const EQUAL: f64 = 1e-5;
/// Parts in which the plays are sent, so that a bar can grow.
const CHUNKS: usize = 40;
const EVENINGS_REQUEST: &str = "forget-our-evenings";
const PERSON_REQUEST: &str = "forget-all-of-me";

pub struct Story<'a> {
    pub stage: Stage,
    pub patience: Patience,
    pub seed: u64,
    pub world: &'a World,
    pub broker: &'a Broker,
    /// Learns and forgets.
    pub town: &'a Service,
    /// Never sees what is forgotten.
    pub twin: &'a Service,
    /// A consumer of the town's factors.
    pub reader: Reader,
    /// Interactions sent to the town so far.
    pub sent: u64,
}

impl Story<'_> {
    /// All acts; whether every claim held.
    ///
    /// # Errors
    /// [`DemoError`] when an act could not be played to its end.
    pub fn play(mut self) -> Result<bool, DemoError> {
        self.stage.open("nepenthe", "a recommender that learns, and forgets when asked")?;
        let learned = self.learn()?;
        let first = self.reader.follow(learned.generation)?.digest == self.reader.digest();
        let everything = self.reader.rows().clone();
        let before = self.before()?;
        let receipt = self.forget_evenings()?;
        let now = self.after(before)?;
        self.forget_person()?;
        let replayed = self.replay()?;
        let fresh = self.go_on(&replayed, &now)?;
        let last = self.town.generation_with(self.sent, |_| Ok(()))?;
        let checked = self.reader.follow(last.generation)?;
        self.compare(&everything, fresh)?;
        self.show_receipt(&receipt)?;
        self.verify((learned.generation, first), &checked)?;
        self.stage.close()
    }

    fn learn(&mut self) -> Result<Manifest, DemoError> {
        let plays = self.world.plays.len() as u64;
        let people = self.world.plays.iter().map(|play| &play.user).collect::<BTreeSet<_>>().len() as u64;
        self.stage.act("A town plays, a model learns")?;
        self.stage.say(&format!(
            "{} people, {} films, series and records, {} plays in four months, all generated from seed {}. The plays wait in Kafka, \
             embedded in this process; nepenthe reads them, keeps them in RocksDB, factorises and publishes.",
            count(people),
            self.world.titles.len(),
            count(plays),
            self.seed
        ))?;
        self.assignment()?;
        let mut learning = self.stage.learning(plays, TOLERANCE);
        for chunk in self.world.plays.chunks(self.world.plays.len().div_ceil(CHUNKS)) {
            self.broker.begin(&self.town.topics.interactions, chunk.iter().map(|play| self.world.record(play)))?;
            learning.look(&self.town.progress())?;
            self.patience.rest(self.stage.pause())?;
        }
        self.broker.finish()?;
        self.sent = plays;
        let sent = now();
        let manifest = self.town.generation_with(plays, |progress| learning.look(progress))?;
        let seconds = sent.elapsed().as_secs_f64();
        let (counts, certificate) = (manifest.counts, &manifest.certificate);
        learning.end(&self.town.residuals())?;
        let titles = self.world.titles.len() as u64;
        self.stage.claim(
            (counts.users, counts.items, counts.interactions) == (people, titles, plays),
            &format!(
                "generation {} of {} people, {} titles, {} plays: after {}",
                manifest.generation,
                count(counts.users),
                counts.items,
                count(counts.interactions),
                duration(seconds)
            ),
        )?;
        let tastes = match certificate.effective_rank {
            Some(rank) => format!("; rank {rank} of {}", manifest.model.params.rank),
            None => String::new(),
        };
        self.stage.claim(
            certificate.holds(),
            &format!("converged: residual {:.1e} after {}{tastes}", certificate.residual, plural(u64::from(certificate.sweeps), "sweep")),
        )?;
        Ok(manifest)
    }

    /// Waits until both services read their topics: a new consumer group takes its time, which is no part of what is timed.
    fn assignment(&self) -> Result<(), DemoError> {
        let waiting = self.stage.waiting("two services join their consumer groups");
        let ready = self.patience.until("both services to be ready", || {
            waiting.tick();
            Ok((self.town.ready().is_ok() && self.twin.ready().is_ok()).then_some(()))
        });
        waiting.finish_and_clear();
        ready
    }

    fn before(&mut self) -> Result<Vec<String>, DemoError> {
        self.stage.act("Mara and Jonas")?;
        self.stage.say(
            "They shared evenings, every sixth an old musical. On her own Mara is for northern crime and jazz, Jonas for space and \
             nature. What the model would recommend to them next:",
        )?;
        let (mara, jonas) = (self.list(MARA)?, self.list(JONAS)?);
        self.stage.lists(("Mara", &self.rows(&mara)), ("Jonas", &self.rows(&jonas)))?;
        let musicals = self.musicals(&mara);
        self.stage.claim(musicals > 5, &format!("{musicals} of Mara's ten are old musicals: the evenings speak"))?;
        Ok(mara)
    }

    fn forget_evenings(&mut self) -> Result<Receipt, DemoError> {
        self.stage.act("They part, and Mara asks to forget the evenings")?;
        let items: BTreeSet<&str> = self.world.evenings().map(|play| self.world.titles[play.title].id.as_str()).collect();
        let first = items.iter().next().copied().unwrap_or_default();
        self.stage.exhibit(&format!(
            "{{\"type\": \"forget\", \"request_id\": \"{EVENINGS_REQUEST}\", \"user\": \"{MARA}\",\n \
             \"items\": [\"{first}\", … {} more],\n \"time\": \"{}\"}}",
            items.len().saturating_sub(1),
            instant(ASKED)
        ))?;
        let request = json!({ "type": "forget", "request_id": EVENINGS_REQUEST, "user": MARA, "items": items, "time": ASKED });
        let (receipt, seconds) = self.forget(MARA, &request)?;
        let evenings = self.world.evenings().count() as u64;
        self.stage.claim(
            served(&receipt) && receipt.removed.interactions == evenings,
            &format!(
                "{} forgotten, from the request to the published model {}",
                plural(receipt.removed.interactions, "play"),
                duration(seconds)
            ),
        )?;
        Ok(receipt)
    }

    /// Sends a request and shows its receipt moving; the last receipt, and the seconds to publication.
    fn forget(&mut self, subject: &str, request: &Value) -> Result<(Receipt, f64), DemoError> {
        let id = request["request_id"].as_str().unwrap_or_default();
        let asked = time_of_day();
        self.broker.send(&self.town.topics.forgets, [(subject.to_owned(), request.to_string().into_bytes())])?;
        let mut told = 0;
        let mut seconds = 0.0;
        self.patience.until("a forget to be published", || {
            let Some(receipt) = self.town.receipt(id)? else { return Ok(None) };
            let stages = steps(&receipt.stages);
            while let Some((stage, Some(reached), meaning)) = stages.get(told) {
                seconds = reached.duration_since(asked).as_secs_f64();
                self.stage.reached(stage, seconds, meaning)?;
                told += 1;
            }
            let served = receipt.generation.filter(|_| receipt.status >= Status::Published);
            let visible = self.town.manifest()?.is_some_and(|manifest| served.is_some_and(|served| manifest.generation >= served));
            let over = receipt.status == Status::Rejected || told == stages.len() && visible;
            Ok(over.then_some((receipt, seconds)))
        })
    }

    fn after(&mut self, before: Vec<String>) -> Result<Vec<String>, DemoError> {
        self.stage.act("What the model recommends to Mara now")?;
        let (mara, jonas) = (self.list(MARA)?, self.list(JONAS)?);
        self.stage.lists(("before", &self.rows(&before)), ("now", &self.rows(&mara)))?;
        let musicals = self.musicals(&mara);
        self.stage
            .claim(musicals == 0 && mara.len() == 10, &format!("{musicals} of her ten are old musicals: the rest is her own taste"))?;
        let his = self.musicals(&jonas);
        self.stage.claim(his > 0, &format!("Jonas did not ask: {his} of his ten still are; his evenings are his"))?;
        Ok(mara)
    }

    fn forget_person(&mut self) -> Result<(), DemoError> {
        self.stage.act("Edith leaves town, and leaves nothing behind")?;
        self.stage.exhibit(&format!("{{\"type\": \"forget\", \"request_id\": \"{PERSON_REQUEST}\", \"user\": \"{EDITH}\"}}"))?;
        let request = json!({ "type": "forget", "request_id": PERSON_REQUEST, "user": EDITH, "time": ASKED });
        let (receipt, seconds) = self.forget(EDITH, &request)?;
        let gone = self.town.top_ten(EDITH)?.is_none();
        self.stage.claim(
            served(&receipt) && receipt.removed.users == 1 && gone,
            &format!(
                "{} and the person gone; the model does not know the name; {}",
                plural(receipt.removed.interactions, "play"),
                duration(seconds)
            ),
        )
    }

    /// The newest manifest after the replay.
    fn replay(&mut self) -> Result<Manifest, DemoError> {
        self.stage.act("Months later, a producer replays its backlog")?;
        let before = self.newest()?;
        let ((seen, fenced), again) = (self.town.seen(), self.world.forgotten().count() as u64);
        self.broker.send(&self.town.topics.interactions, self.world.forgotten().map(|play| self.world.record(play)))?;
        self.sent += again;
        let kept_out = self.patience.until("the replayed plays to be read", || {
            let (now_seen, now_fenced) = self.town.seen();
            Ok((now_seen >= seen + again).then_some(now_fenced - fenced))
        })?;
        let after = self.newest()?;
        self.stage.claim(
            kept_out == again && (after.generation, &after.digest) == (before.generation, &before.digest),
            &format!(
                "the same {}, byte for byte, came in again; fences kept out {kept_out}; still generation {}, digest {}…",
                plural(again, "play"),
                after.generation,
                after.digest.get(..16).unwrap_or_default()
            ),
        )?;
        let list = self.list(MARA)?;
        self.stage
            .claim(self.musicals(&list) == 0 && self.town.top_ten(EDITH)?.is_none(), "Mara's list is free of musicals, Edith is unknown")?;
        Ok(after)
    }

    /// A new play of Mara's, which the fence lets pass; answers with it.
    fn go_on(&mut self, before: &Manifest, list: &[String]) -> Result<Play, DemoError> {
        self.stage.act("Life goes on: Mara plays the first on her list")?;
        let title = list.first().and_then(|id| self.world.titles.iter().position(|title| title.id == *id)).unwrap_or_default();
        let fresh = Play { user: MARA.to_owned(), title, time: ASKED + DAY, evening: false };
        let started = now();
        self.broker.send(&self.town.topics.interactions, [self.world.record(&fresh)])?;
        self.sent += 1;
        let manifest = self.awaited(self.town, self.sent, "the next generation is due within two seconds")?;
        let seconds = started.elapsed().as_secs_f64();
        let offered = self.list(MARA)?.contains(&self.world.titles[title].id);
        self.stage.claim(
            manifest.counts.interactions == before.counts.interactions + 1 && !offered,
            &format!(
                "\"{}\" is in generation {}, {} later: one play more than before the replay, and none of the replayed",
                self.world.titles[title].name,
                manifest.generation,
                duration(seconds)
            ),
        )?;
        Ok(fresh)
    }

    fn compare(&mut self, everything: &Rows, fresh: Play) -> Result<(), DemoError> {
        self.stage.act("As if it had never been")?;
        let kept: Vec<&Play> = self.world.survivors().chain([&fresh]).collect();
        self.stage.say(&format!(
            "A second nepenthe, on topics of its own and from other random factors, is fed only the {} plays that nobody asked to forget.",
            count(kept.len() as u64)
        ))?;
        self.broker.send(&self.twin.topics.interactions, kept.iter().map(|play| self.world.record(play)))?;
        let manifest = self.awaited(self.twin, kept.len() as u64, "it learns")?;
        let mut reader = Reader::open(&self.broker.address(), &self.twin.topics, self.patience.clone())?;
        reader.follow(manifest.generation)?;
        let (before, now, never) = (Factors::new(everything), Factors::new(self.reader.rows()), Factors::new(reader.rows()));
        self.stage.say("Distance of predictions to that model, over all pairs (relative RMS):")?;
        let line = |when: &str, model: &Factors| {
            let (all, mara) = (model.distance(&never, None), model.distance(&never, Some(MARA)));
            (format!("{when:<26} everybody {all:.1e}   Mara {mara:.1e}"), all)
        };
        let ((before, was), (now_line, is)) = (line("before the forgets", &before), line("now", &now));
        self.stage.figures(&before)?;
        self.stage.figures(&now_line)?;
        self.stage.claim(now.same_rows(&never) && !now.has_user(EDITH), "both know the same people and titles, Edith not among them")?;
        self.stage
            .claim(is <= EQUAL && was > EQUAL, &format!("the model equals one that never saw what it forgot: {is:.1e} <= {EQUAL:.0e}"))?;
        let mut known: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for play in kept {
            known.entry(play.user.clone()).or_default().insert(self.world.titles[play.title].id.clone());
        }
        let (same, all) = (now.same_lists(&never, &known, 10), now.users());
        self.stage.claim(
            same * 1000 >= all * 999,
            &format!("the top ten is the same, in the same order, for {} of {} people", count(same as u64), count(all as u64)),
        )
    }

    fn show_receipt(&mut self, receipt: &Receipt) -> Result<(), DemoError> {
        self.stage.act("What Mara gets in writing")?;
        let text =
            serde_json::to_string_pretty(receipt).map_err(|error| DemoError::Reading { what: "the receipt", why: error.to_string() })?;
        self.stage.exhibit(&text)?;
        let names = self.world.evenings().map(|play| self.world.titles[play.title].id.as_str()).chain([MARA, JONAS]);
        let silent = names.into_iter().all(|name| !text.contains(name));
        self.stage.claim(silent, "the receipt names neither Mara nor what she saw")
    }

    fn verify(&mut self, first: (u64, bool), last: &Manifest) -> Result<(), DemoError> {
        self.stage.act("A reader checks its copy")?;
        self.stage.say("A consumer that sees only the topics has followed the factors, row by row, and hashed its own copy:")?;
        let mine = self.reader.digest();
        self.stage.exhibit(&format!("  its copy  {mine}\n  manifest  {}", last.digest))?;
        self.stage.claim(
            first.1 && mine == last.digest,
            &format!("the copy is exactly generation {}, as it was exactly generation {} in act 1", last.generation, first.0),
        )
    }

    /// The generation that holds the first `interactions` records, with something moving on the screen until it is there.
    fn awaited(&self, service: &Service, interactions: u64, what: &str) -> Result<Manifest, DemoError> {
        let waiting = self.stage.waiting(what);
        let manifest = service.generation_with(interactions, |_| {
            waiting.tick();
            Ok(())
        });
        waiting.finish_and_clear();
        manifest
    }

    fn newest(&self) -> Result<Manifest, DemoError> {
        self.patience.until("a published generation", || self.town.manifest())
    }

    fn list(&self, user: &str) -> Result<Vec<String>, DemoError> {
        Ok(self.town.top_ten(user)?.unwrap_or_default())
    }

    fn musicals(&self, ids: &[String]) -> usize {
        ids.iter().filter(|id| self.world.title(id).is_some_and(|title| title.genre == MUSICALS)).count()
    }

    fn rows(&self, ids: &[String]) -> Vec<Row> {
        let row = |id: &String| {
            let title = self.world.title(id)?;
            Some(Row { title: title.name.clone(), tag: GENRES[title.genre].tag, marked: title.genre == MUSICALS })
        };
        ids.iter().filter_map(row).collect()
    }
}

/// The stages up to publication, when each was reached, and what it means.
fn steps(stages: &Stages) -> [(&'static str, Option<jiff::Timestamp>, &'static str); 4] {
    [
        ("accepted", stages.accepted, "the request is written down"),
        ("erased", stages.erased, "its plays are out of the store"),
        ("unlearned", stages.unlearned, "a model of what remains has converged"),
        ("published", stages.published, "readers of the factors topic have it"),
    ]
}

/// Published, the data gone and the model at its fixed point.
fn served(receipt: &Receipt) -> bool {
    let rung = |rung: &str| receipt.exactness.iter().any(|held| held == rung);
    matches!(receipt.status, Status::Published | Status::Purged) && rung("E0") && rung("E1")
}

/// `3 003`, never broken at the end of a line.
fn count(n: u64) -> String {
    tight(&output::count(n))
}

/// `3 003 plays`, never broken at the end of a line.
fn plural(n: u64, noun: &str) -> String {
    tight(&output::plural(n, noun))
}

/// `1.5 s`, never broken at the end of a line.
fn duration(seconds: f64) -> String {
    tight(&format!("{seconds:.2} s"))
}

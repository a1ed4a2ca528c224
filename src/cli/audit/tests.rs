use std::collections::BTreeSet;
use std::sync::Arc;

use super::case::Candidate;
use super::inference::Outcome;
use super::report::Subject;
use super::sample::Selection;
use super::*;
use crate::cli::{Cli, Command, Exit};
use crate::config::Sources;
use crate::model::factors::Side;
use crate::model::fence::HashKey;
use crate::model::generation::NewGeneration;
use crate::model::processor::{InputTopics, State as Processor};
use crate::model::step::{Input, Outgoing, Step};
use crate::model::unlearn::Unwatched;
use crate::run::HASH_KEY_FILE;
use crate::store::Store;
use crate::store::memory::MemoryStore;
use crate::store::rocks::{RocksStore, secret};
use crate::store::tables::Tables;
use clap::Parser;

const NOW: i64 = 1_000_000;

fn params(objective: Objective) -> Params {
    Params {
        objective,
        rank: 16,
        regularization: if objective == Objective::Implicit { 0.3 } else { 0.4 },
        regularization_exp: 1.0,
        alpha: 1.0,
        unobserved_weight: 0.1,
        tolerance: 1e-8,
        certify: crate::model::Certify::Residual,
        max_sweeps: 5_000,
        seed: 1,
        threads: 0,
    }
}

/// Three circles of people with tastes of their own; nearly every value has all the digits that a number can have.
fn world(people: u32, things: u32) -> Vec<String> {
    let mut events = Vec::new();
    for person in 0..people {
        for thing in 0..things {
            let draw = sample::priority(9, person, thing);
            let popular = 1.5 - f64::from(thing) / f64::from(things);
            let share = popular * if person % 3 == thing % 3 { 0.45 } else { 0.08 };
            if (draw >> 11) as f64 / ((1u64 << 53) as f64) < share {
                let value = 1.0 + (draw & 0xffff) as f64 / 16_383.25;
                let event = serde_json::json!({
                    "user": format!("person-{person}"), "item": format!("thing-{thing}"), "value": value, "time": person + thing,
                    "event_id": (draw & 1 == 0).then(|| format!("event-{draw}")),
                });
                events.push(event.to_string());
            }
        }
    }
    events
}

/// A service without a broker: one store, one state.
struct Service {
    tables: Tables,
    state: Processor,
}

impl Service {
    fn open(store: Arc<dyn Store>, key: HashKey, params: &Params) -> Service {
        let tables = Tables::new(store, params.objective, &key).unwrap();
        let topics = InputTopics { interactions: "i".to_owned(), forgets: "f".to_owned() };
        let state = Processor::open(params.clone(), topics, tables.restore(key).unwrap(), &tables).unwrap();
        Service { tables, state }
    }

    fn take(&mut self, topic: u16, events: &[String]) -> Step {
        let topics = ["i".to_owned(), "f".to_owned()];
        let next = self.state.positions().get(&(topics[usize::from(topic)].clone(), 0)).copied().unwrap_or(0);
        let inputs = events.iter().enumerate().map(|(at, event)| Input {
            topic,
            partition: 0,
            offset: next + at as i64,
            timestamp: Some(NOW),
            reset: false,
            key: None,
            payload: Some(event.as_bytes()),
        });
        let step = self.state.fold(&topics, inputs, NOW, &self.tables).unwrap();
        self.tables.commit(&step, self.state.dictionary()).unwrap();
        step
    }

    fn generation(&mut self) {
        let outcome = self.state.freeze(&self.tables).unwrap().run(&Unwatched).unwrap();
        let new = self.state.adopt(outcome, 0.1, NOW);
        self.tables.commit_generation(&new, self.state.current().unwrap()).unwrap();
        let rows_of = |message: &Outgoing| if let Outgoing::Rows { rows, .. } = message { rows.clone() } else { Vec::new() };
        let rows: Vec<_> = new.outbox.iter().flat_map(rows_of).collect();
        let published = self.state.published(&Default::default(), &rows, NOW);
        let sent: Vec<u64> = self.tables.next_group().unwrap().into_iter().map(|(sequence, _)| sequence).collect();
        self.tables.commit_delivered(&sent, Some((&published, self.state.current().unwrap()))).unwrap();
    }

    /// As the audit reads it.
    fn read(self) -> State {
        let key = self.state.fences().key().clone();
        let store = self.tables.store().clone();
        let tables = Tables::reading(store.clone());
        let restored = tables.restore(key).unwrap();
        State { store, tables, restored }
    }
}

fn trained(params: &Params) -> Service {
    let mut service = Service::open(Arc::new(MemoryStore::default()), HashKey::new([7; 32]), params);
    service.take(0, &world(90, 45));
    service.generation();
    service
}

fn args(words: &str) -> AuditArgs {
    let line = ["nepenthe", "audit"].into_iter().chain(words.split_whitespace());
    match Cli::try_parse_from(line).unwrap().command {
        Command::Audit(args) => args,
        other => panic!("{other:?}"),
    }
}

fn verdicts(report: &Report) -> Vec<[Verdict; 4]> {
    report.cases.iter().map(|case| [0, 1, 2, 3].map(|at| case.rungs[at].verdict)).collect()
}

use Verdict::{Fails, Holds, NotClaimed};

#[test]
fn every_kind_of_sample_is_forgotten_as_claimed() {
    for objective in [Objective::Implicit, Objective::Explicit] {
        let params = params(objective);
        let report =
            audit(&params, &args("--sample pairs,random,heaviest,popular --share 10% --seeds 2"), &trained(&params).read()).unwrap();
        assert!(report.holds && report.other_settings.is_empty(), "{report:?}");
        assert_eq!(verdicts(&report), [[Holds; 4]; 4], "{objective:?}: {report:?}");
        for case in &report.cases {
            let Outcome::Measured(found) = &case.inference else { panic!("{case:?}") };
            assert!(case.went_on && case.warm.sweeps() > 0 && case.cold.sweeps() > 0 && case.forgotten.pairs > Some(20), "{case:?}");
            assert!(found.two_snapshots.unlearned.value > found.unlearned.value, "{objective:?}: {found:?}");
            for path in [&case.warm, &case.cold] {
                let (first, last) = (path.gap[0], path.gap[path.gap.len() - 1]);
                assert!(path.gap.len() == path.sweeps() && first < 10.0, "the constant of the data: {path:?}");
                assert!(last < 1e-10 && last < first / 10.0, "converged to the optimum: {path:?}");
            }
        }
    }
}

#[test]
fn one_is_enough_to_be_forgotten_but_not_to_be_attacked() {
    let params = params(Objective::Implicit);
    let report = audit(&params, &args("--sample pairs,rarest --share 1 --seeds 2"), &trained(&params).read()).unwrap();
    assert_eq!(verdicts(&report), [[Holds, Holds, Holds, NotClaimed]; 2], "{report:?}");
    assert!(report.holds);
    assert_eq!(report.cases[0].forgotten.pairs, Some(1));
}

#[test]
fn a_model_that_still_knows_does_not_pass() {
    let params = params(Objective::Implicit);
    let state = trained(&params).read();
    let method = Method { seeds: 2, top: 10, users: 40, seed: 1 };
    let steps = Steps::new(99);
    let bench = Bench { state: &state, params: &params, method: &method, steps: &steps, now: NOW };
    let copy = bench.copy().unwrap();
    let (ratings, names) = (copy.state.ratings().clone(), copy.state.dictionary());
    let forgotten = Selection::choose(Kind::Pairs, Share::Percent(10.0), &ratings, 1).unwrap();
    let remaining = Arc::new(copy::without(&ratings, |user, item| forgotten.contains(user, item)));
    let current = state.restored.current.clone().unwrap();
    let stale = Candidate::of(&current, super::progress::Way::default());
    let judged = bench.judge(&stale, names, &remaining, &BTreeSet::new()).unwrap();
    assert!(!judged.fixed_point.holds() && judged.fixed_point.residual > 1e-3, "{:?}", judged.fixed_point);
    assert!(!judged.retrain.holds() && judged.retrain.furthest() > 1e-3 && judged.retrain.users == 40, "{:?}", judged.retrain);
    assert!(judged.retrain.spread() < 1e-6, "{:?}", judged.retrain);
    // And the attack finds the forgotten in it.
    let target = inference::Target { params: &params, names, ratings: &ratings, before: &current.factors, forgotten: &forgotten, seed: 1 };
    let mut models = inference::train(&target, &steps).unwrap();
    let Outcome::Measured(found) = inference::outcome(&target, &models).unwrap() else { panic!("too few") };
    assert!(found.holds(false), "{found:?}");
    models.unlearned = models.before.clone();
    let Outcome::Measured(found) = inference::outcome(&target, &models).unwrap() else { panic!("too few") };
    assert!(!found.holds(false) && found.unlearned.value > found.retrained.value + 0.05, "{found:?}");
}

#[test]
fn a_rank_that_binds_is_said_so_with_the_distance_of_retrains() {
    let params = Params { rank: 2, regularization: 0.01, tolerance: 1e-6, ..params(Objective::Explicit) };
    let report = audit(&params, &args("--share 1 --seeds 3"), &trained(&params).read()).unwrap();
    let (case, rung) = (&report.cases[0], &report.cases[0].rungs[2]);
    assert!(case.fixed_point.rank_binds && rung.words.contains("The rank binds"), "{rung:?}");
    assert!(case.retrain.spread() > 1e-3, "{:?}", case.retrain);
}

#[test]
fn a_global_certificate_is_told_with_its_gap() {
    let params = Params { certify: crate::model::Certify::Global, ..params(Objective::Implicit) };
    let report = audit(&params, &args("--share 1 --seeds 2"), &trained(&params).read()).unwrap();
    let fixed = &report.cases[0].fixed_point;
    assert!(fixed.gap.is_some_and(|gap| (0.0..1e-6).contains(&gap)) && fixed.refused.is_none(), "{fixed:?}");
    assert!(page::page(&report).contains("Certified distance of the objective from the global optimum"));
}

const USER: &str = r#"{"request_id":"r-1","user":"person-4"}"#;
const ITEM: &str = r#"{"request_id":"r-2","items":["thing-3"]}"#;

fn request(service: Service, params: &Params, id: &str) -> Result<Report, CliError> {
    audit(params, &args(&format!("{id} --seeds 2")), &service.read())
}

#[test]
fn a_served_request_holds_and_newer_events_do_not_hide_it() {
    let params = params(Objective::Implicit);
    let mut service = trained(&params);
    service.take(1, &[USER.to_owned(), ITEM.to_owned()]);
    service.generation();
    service.take(0, &[r#"{"user":"person-1","item":"thing-9","time":1000001}"#.to_owned()]);
    let state = service.read();
    let report = audit(&params, &args("r-1 --seeds 2 --sample random --share 5%"), &state).unwrap();
    assert_eq!(verdicts(&report), [[Holds, Holds, Holds, NotClaimed], [Holds; 4]], "{report:?}");
    let Subject::Request { next, receipt } = &report.cases[0].subject else { panic!("{report:?}") };
    assert!(*next && receipt.request_id == "r-1" && report.state.behind == 1, "{report:?}");
    let unknown = audit(&params, &args("r-3"), &state).unwrap_err();
    assert!(unknown.exit == Exit::Failed && unknown.message.contains("r-3"), "{unknown}");
}

#[test]
fn a_request_that_is_not_served_yet_promises_its_data_only() {
    let params = params(Objective::Implicit);
    let mut service = trained(&params);
    service.take(1, &[USER.to_owned()]);
    // The generation that stands still knows, and says so itself: its cut is before the request.
    let report = request(service, &params, "r-1").unwrap();
    assert_eq!(verdicts(&report)[0][0], Holds, "{report:?}");
    assert!(report.holds && page::remark(&report.cases[0]).contains("erased"), "{report:?}");
}

#[test]
fn factors_that_were_left_as_they_were_are_found() {
    let params = params(Objective::Implicit);
    let mut service = trained(&params);
    let stale = service.state.current().unwrap().factors.clone();
    service.take(1, &[ITEM.to_owned()]);
    service.generation();
    // A generation that claims to have served the request, with the factors of before.
    let mut current = service.state.current().unwrap().clone();
    current.factors = stale;
    let rows = |side| current.factors.side(side).rows().map(move |row| (side, row as u32)).collect::<Vec<_>>();
    let stored = [rows(Side::User), rows(Side::Item)].concat();
    let stale = NewGeneration { stored, requests: Vec::new(), outbox: Vec::new(), afresh: false };
    service.tables.commit_generation(&stale, &current).unwrap();
    let report = request(service, &params, "r-2").unwrap();
    assert!(!report.holds, "{report:?}");
    assert_eq!(verdicts(&report), [[Holds, Fails, Fails, NotClaimed]], "{report:?}");
    assert!(failures(&report).contains("E1, E2"), "{}", failures(&report));
}

#[test]
fn data_that_came_back_are_found() {
    let params = params(Objective::Implicit);
    let mut service = trained(&params);
    let erased = service.take(1, &[ITEM.to_owned()]).erased;
    service.generation();
    // The name went with the generation; whoever put the data back did it under a number.
    let step = Step { plays: vec![(erased[0], Box::default())], ..Step::default() };
    service.tables.commit(&step, service.state.dictionary()).unwrap();
    let nameless = request(service, &params, "r-2").unwrap_err();
    assert!(nameless.exit == Exit::StateDamaged && nameless.message.contains("no name"), "{nameless}");

    let mut service = trained(&params);
    let item = world(90, 45).iter().find_map(|event| {
        let event: serde_json::Value = serde_json::from_str(event).unwrap();
        (event["user"] == "person-4").then(|| event["item"].clone())
    });
    let pair = serde_json::json!({"request_id": "r-5", "user": "person-4", "items": [item]});
    let erased = service.take(1, &[pair.to_string()]).erased;
    service.generation();
    let step = Step { plays: vec![(erased[0], Box::default())], ..Step::default() };
    service.tables.commit(&step, service.state.dictionary()).unwrap();
    let report = request(service, &params, "r-5").unwrap();
    assert_eq!((report.holds, verdicts(&report)[0][0], report.cases[0].data.fenced), (false, Fails, 1), "{report:?}");
}

/// The whole command on a state directory: exit codes, and files that name nobody.
#[test]
fn the_command_writes_a_page_that_stands_alone_and_names_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let set = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let of = |rank: &str| {
        let overrides = vec![
            set("store.path", path.to_str().unwrap()),
            set("model.rank", rank),
            set("model.regularization", "0.3"),
            set("model.tolerance", "1e-8"),
        ];
        Config::load(&Sources { overrides, ..Sources::default() }).unwrap()
    };
    let config = of("16");
    {
        let store = Arc::new(RocksStore::open(&path).unwrap());
        let key = HashKey::new(secret(&path.join(HASH_KEY_FILE), || Ok([7; 32])).unwrap());
        let mut service = Service::open(store, key, &config.model);
        service.take(0, &world(90, 45));
        service.generation();
        service.take(1, &[USER.to_owned()]);
        service.generation();
    }
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let words = format!("r-1 --sample pairs,random --share 10% --seeds 2 --html {} --json {}", file("page.html"), file("report.json"));
    run(&config, &args(&words)).unwrap();
    let (page, json) = (std::fs::read_to_string(file("page.html")).unwrap(), std::fs::read_to_string(file("report.json")).unwrap());
    for text in [&page, &json] {
        assert!(text.contains("r-1") && !text.contains("person-") && !text.contains("thing-") && !text.contains("event-"), "{text}");
    }
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&report["holds"], report["cases"].as_array().unwrap().len()), (&serde_json::json!(true), 3));
    assert!(["http:", "https:", "src=", "href=", "@import", "url(", "<script"].iter().all(|way_out| !page.contains(way_out)), "{page}");
    assert_eq!((page.matches("<svg").count(), page.matches("does not hold</span>").count()), (11, 0), "{page}");
    let other = run(&of("8"), &args("r-1")).unwrap_err();
    assert!(other.exit == Exit::Usage && other.message.contains("model.rank=16, here 8"), "{other}");
    for (words, exit, says) in [
        ("--html -".to_owned(), Exit::Usage, "name a file"),
        (format!("--html {}", file("none/page.html")), Exit::Usage, "no directory"),
        (format!("--json {}", folder.path().display()), Exit::Usage, "directory"),
        ("--sample heaviest --share 90".to_owned(), Exit::Usage, "a sample of 90 users"),
    ] {
        let refused = run(&config, &args(&words)).unwrap_err();
        assert!(refused.exit == exit && refused.message.contains(says), "{words}: {refused}");
    }
}

#[test]
fn what_is_audited_is_what_was_asked() {
    let one = Share::Percent(1.0);
    assert_eq!(tasks(&args("")), [Task::Sample(Kind::Pairs, one)]);
    assert_eq!(tasks(&args("r")), [Task::Request("r".to_owned())]);
    assert_eq!(tasks(&args("r --share 2")), [Task::Request("r".to_owned()), Task::Sample(Kind::Pairs, Share::Count(2))]);
    let both = [Task::Sample(Kind::Random, Share::Count(1)), Task::Sample(Kind::Random, one)];
    assert_eq!(tasks(&args("--sample random --share 1,1%")), both);
    for wrong in ["--share 0", "--share 0%", "--share 51%", "--share x", "--share nan%", "--seeds 1", "--sample best", "--users 0"] {
        assert!(Cli::try_parse_from(["nepenthe", "audit"].into_iter().chain(wrong.split(' '))).is_err(), "{wrong}");
    }
}

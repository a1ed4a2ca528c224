use std::collections::BTreeSet;
use std::path::Path;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::config::{Config, Sources};
use crate::kafka::admin::{Role, TopicPlan};
use crate::model::event::{Selector, Shape, decode};
use crate::model::receipt::{Backups, Certificate, Counts, Manifest, Model, Receipt, Removed, Stages, Status, instant};
use crate::model::{Certify, Params};

fn origin(kind: Kind, objective: Objective) -> Origin<'static> {
    Origin { topic: "t", partition: 3, offset: 9, timestamp: Some(1_000_000), kind, objective }
}

/// What producers may send, and what they should not, for any field.
fn values() -> Vec<Value> {
    let mut values = vec![
        json!(null),
        json!(true),
        json!(""),
        json!("x"),
        json!("x".repeat(128)),
        json!("x".repeat(129)),
        json!("x".repeat(256)),
        json!("x".repeat(257)),
        json!("é".repeat(70)),
        json!("é".repeat(200)),
        json!("interaction"),
        json!("forget"),
        json!("play"),
        json!({}),
        json!([]),
        json!(["a", 7]),
        json!([null]),
        json!([""]),
        json!(["x".repeat(257)]),
        json!([1.5]),
        json!(0),
        json!(7),
        json!(-4),
        json!(-0.0),
        json!(-0.5),
        json!(1.0),
        json!(2.5),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(u64::MAX as f64),
        json!(1e12),
        json!(1.1e12),
        json!(-1e12),
        json!(999_999),
        json!(7_258_118_399_999_u64),
        json!(7_258_118_399_999.5),
        json!(7_258_118_400_000_u64),
    ];
    let times = [
        "1970-01-01T00:00:00Z",
        "1970-01-01T00:00:00+01:00",
        "1969-12-31T23:59:59-01:00",
        "1970-01-01t00:00:01z",
        "1970-01-01 00:00:01.123456789Z",
        "2199-12-31T23:59:59.999Z",
        "2200-01-01T00:00:00Z",
        "2200-01-01T00:00:00+00:01",
        "2201-01-01T00:00:00Z",
        "2024-02-30T00:00:00Z",
        "2024-13-01T00:00:00Z",
        "2016-12-31T23:59:60Z",
        "2024-02-29T12:00:00",
        "2024-02-29",
        "2024-02-29T24:00:00Z",
        "1970-01-01T00:00:01.1234567891Z",
        "12:00",
        "1e3",
        "soon",
    ];
    values.extend(times.map(|time| json!(time)));
    values
}

const FIELDS: [&str; 11] = ["type", "event_id", "user", "item", "value", "time", "request_id", "items", "event_ids", "from", "to"];

fn agreed(kind: Kind, message: &Value) {
    for objective in [Objective::Implicit, Objective::Explicit] {
        let (origin, bytes) = (origin(kind, objective), serde_json::to_vec(message).unwrap());
        agree(&origin, &bytes, &decode(&origin, &bytes));
    }
}

/// Messages that differ in one field from one that is accepted.
fn messages() -> Vec<(Kind, Value)> {
    let bases = [
        (Kind::Interaction, json!({"user": "u", "item": "i"})),
        (Kind::Forget, json!({"user": "u", "time": 999_999})),
        (Kind::Forget, json!({"user": "u", "items": ["i"], "event_ids": ["e"]})),
    ];
    let mut messages: Vec<_> = values().into_iter().flat_map(|value| [(Kind::Interaction, value.clone()), (Kind::Forget, value)]).collect();
    for (kind, base) in bases {
        for field in FIELDS.into_iter().chain(["more"]) {
            let mut without = base.clone();
            without.as_object_mut().unwrap().remove(field);
            messages.push((kind, without));
            messages.extend(values().into_iter().map(|value| {
                let mut message = base.clone();
                message[field] = value;
                (kind, message)
            }));
        }
    }
    messages
}

#[test]
fn each_field_is_accepted_where_the_schema_says_so() {
    messages().iter().for_each(|(kind, message)| agreed(*kind, message));
}

/// What the schemas say here of all these messages, for others to say the same: see `scripts/check-deploy`.
#[expect(clippy::disallowed_methods, reason = "a test is told by its environment")]
#[test]
fn verdicts_are_written_when_told_to() {
    let Some(file) = std::env::var_os("NEPENTHE_WRITE_VERDICTS") else { return };
    let mut verdicts = String::new();
    let mut tell = |name: &str, schema: &Schema, value: &Value| {
        verdicts += &format!("{}\n", json!({"schema": name, "valid": schema.accepts(value), "value": value}));
    };
    for (kind, message) in messages() {
        let (name, schema) = of_event(kind, &message);
        tell(name, schema, &message);
    }
    for whole in [true, false] {
        tell("manifest", &MANIFEST, &manifest(whole));
        tell("receipt", &RECEIPT, &receipt(whole));
    }
    for (name, schema, value) in wrong() {
        tell(name, schema, &value);
    }
    std::fs::write(file, verdicts).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn decoder_and_schema_agree_on_any_mixture(
        forget in any::<bool>(),
        fields in prop::collection::btree_map(prop::sample::select(FIELDS.to_vec()), prop::sample::select(values()), 0..7),
    ) {
        let message = Value::Object(fields.into_iter().map(|(field, value)| (field.to_owned(), value)).collect());
        agreed(if forget { Kind::Forget } else { Kind::Interaction }, &message);
    }
}

#[test]
fn other_forms_of_time_are_read_and_not_promised() {
    for time in ["20240229T120000Z", "2024-02-29T12:00Z", "2024-02-29T12:00:00+01", "2024-02-29T12:00:00+01:00[Europe/Paris]"] {
        let message = json!({"user": "u", "item": "i", "time": time});
        assert!(!INTERACTION.accepts(&message), "{time}");
        let bytes = serde_json::to_vec(&message).unwrap();
        assert!(decode(&origin(Kind::Interaction, Objective::Implicit), &bytes).is_ok(), "{time}");
    }
}

#[test]
fn what_is_no_object_is_refused() {
    // Serde reads a list as the fields of a struct in their order; the contract does not.
    let list = br#"["interaction",null,"u","i"]"#;
    let origin = origin(Kind::Interaction, Objective::Implicit);
    let refused = decode(&origin, list);
    agree(&origin, list, &refused);
    assert_eq!(refused.unwrap_err().code, "invalid_field");
}

/// The example of a forget asks for something; of an interaction it plays.
#[test]
fn examples_of_events_are_events_of_their_kind() {
    for (schema, kind) in [(&INTERACTION, Kind::Interaction), (&FORGET, Kind::Forget)] {
        let examples = schema.value["examples"].as_array().unwrap();
        assert!(examples.len() >= 3);
        examples.iter().for_each(|example| decodes(kind, schema, example));
    }
    let shapes: Vec<Shape> = FORGET.value["examples"].as_array().unwrap().iter().map(|example| selector(example).shape()).collect();
    assert_eq!(shapes, [Shape::User, Shape::Pair, Shape::Window, Shape::Items, Shape::Events]);
}

fn decodes(kind: Kind, schema: &Schema, example: &Value) {
    schema.hold(example);
    let bytes = serde_json::to_vec(example).unwrap();
    let origin = Origin { timestamp: Some(1_790_000_000_000), ..origin(kind, Objective::Implicit) };
    let event = decode(&origin, &bytes).unwrap_or_else(|refusal| panic!("{refusal}: {example}"));
    assert_eq!(matches!(event, Event::Forget(_)), kind == Kind::Forget, "{example}");
}

fn selector(example: &Value) -> Selector {
    let bytes = serde_json::to_vec(example).unwrap();
    let origin = Origin { timestamp: Some(1_790_000_000_000), ..origin(Kind::Forget, Objective::Implicit) };
    match decode(&origin, &bytes).unwrap() {
        Event::Forget(forget) => forget.selector,
        other => panic!("{other:?}"),
    }
}

/// Blocks of the documents that begin with ```` ```json,KIND ````.
#[test]
fn examples_in_the_documents_are_valid() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let documents = std::fs::read_dir(top.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut seen = BTreeSet::new();
    for document in documents.filter(|path| path.extension().is_some_and(|extension| extension == "md")) {
        let text = std::fs::read_to_string(&document).unwrap();
        for block in text.split("```json").skip(1) {
            let (kind, rest) = block.split_once('\n').unwrap();
            let body = rest.split("```").next().unwrap();
            let value = || serde_json::from_str::<Value>(body).unwrap_or_else(|error| panic!("{}: {error}: {body}", document.display()));
            match kind.trim_start_matches(',') {
                // One event a line.
                "interaction" => lines(body, |line| decodes(Kind::Interaction, &INTERACTION, line)),
                "forget" => lines(body, |line| decodes(Kind::Forget, &FORGET, line)),
                "manifest" => MANIFEST.hold(&value()),
                "receipt" => RECEIPT.hold(&value()),
                "headers" => DEAD_LETTER_HEADERS.hold(&value()),
                other => panic!("{}: a block of JSON says of which kind it is, not {other:?}", document.display()),
            }
            seen.insert(kind.to_owned());
        }
    }
    assert!([",interaction", ",forget", ",manifest", ",receipt", ",headers"].iter().all(|kind| seen.contains(*kind)), "{seen:?}");
}

fn lines(body: &str, each: impl Fn(&Value)) {
    let body = body.lines().filter(|line| !line.trim().is_empty());
    body.for_each(|line| each(&serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))));
}

fn certificate(whole: bool) -> Certificate {
    Certificate {
        objective: 1.5,
        residual: 1e-8,
        tolerance: 1e-7,
        sweeps: 12,
        seconds: 0.25,
        effective_rank: whole.then_some(7),
        sigma: whole.then_some(0.9),
        rank_binds: whole,
        certified: whole.then_some(Certify::Global),
        gap: whole.then_some(1e-9),
        sigma_bound: whole.then_some(1.0),
        refused: whole.then(|| "no".to_owned()),
        warning: whole.then(|| "look".to_owned()),
    }
}

fn manifest(whole: bool) -> Value {
    let params: Params = Config::load(&Sources::default()).unwrap().model;
    let manifest = Manifest {
        generation: 2,
        parent: whole.then_some(1),
        created: instant(1_790_000_000_123),
        cut: [("in".to_owned(), [(0, 5)].into())].into(),
        upto: [(0, 9), (1, 0)].into(),
        model: Model { params, mean: whole.then_some(3.5) },
        counts: Counts::default(),
        certificate: certificate(whole),
        interim: whole,
        digest: crate::model::digest::LtHash::default().finish(),
        requests: vec!["r-1".to_owned()],
        requests_omitted: u64::from(whole),
    };
    serde_json::to_value(manifest).unwrap()
}

fn receipt(whole: bool) -> Value {
    let at = || Some(instant(1_790_000_000_123));
    let stages = if whole {
        Stages { accepted: at(), erased: at(), unlearned: at(), published: at(), purged: at() }
    } else {
        Stages { accepted: at(), ..Stages::default() }
    };
    let receipt = Receipt {
        request_id: "r-1".to_owned(),
        status: if whole { Status::Purged } else { Status::Accepted },
        stages,
        selector: Shape::Pair,
        removed: Removed::default(),
        generation: whole.then_some(2),
        certificate: whole.then(|| certificate(true)),
        exactness: vec!["E0".to_owned(), "E1".to_owned()],
        purged_from: if whole { vec!["disk".to_owned(), "rows".to_owned(), "names".to_owned()] } else { Vec::new() },
        backups: whole.then(|| Backups { count: 2, newest: instant(1_790_000_000_000) }),
        error: whole.then(|| "why".to_owned()),
    };
    serde_json::to_value(receipt).unwrap()
}

/// Each property of the schema is one that the code writes, and each that it requires is always written.
fn same_properties(schema: &Value, root: &Value, whole: &Value, least: Option<&Value>) {
    let schema = resolve(schema, root);
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
    let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(properties.keys().cloned().collect::<BTreeSet<_>>(), names(whole), "{}", schema["description"]);
    if let Some(least) = least.filter(|least| least.is_object()) {
        let required: BTreeSet<_> = schema["required"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect();
        assert_eq!(required, names(least), "{}", schema["description"]);
    }
    for (name, property) in properties {
        same_properties(property, root, &whole[name], least.and_then(|least| least.get(name)));
    }
}

fn resolve<'s>(schema: &'s Value, root: &'s Value) -> &'s Value {
    let schema = schema.get("anyOf").map_or(schema, |choices| &choices[0]);
    match schema.get("$ref").and_then(Value::as_str) {
        Some(reference) => root.pointer(reference.trim_start_matches('#')).unwrap(),
        None => schema,
    }
}

#[test]
fn manifests_and_receipts_have_the_properties_of_their_schemas() {
    for (schema, whole, least) in [(&MANIFEST, manifest(true), manifest(false)), (&RECEIPT, receipt(true), receipt(false))] {
        schema.hold(&whole);
        schema.hold(&least);
        same_properties(&schema.value, &schema.value, &whole, Some(&least));
    }
    assert_eq!(MANIFEST.value["$defs"]["certificate"], RECEIPT.value["$defs"]["certificate"]);
    same_properties(&MANIFEST.value["$defs"]["certificate"], &MANIFEST.value, &receipt(true)["certificate"], None);
}

/// What must not go out.
fn wrong() -> Vec<(&'static str, &'static Schema, Value)> {
    let changes = [
        (true, "/digest", json!("00")),
        (true, "/created", json!("yesterday")),
        (true, "/upto", json!({"factors": 3})),
        (true, "/cut/in/0", json!(-1)),
        (true, "/certificate/certified", json!("surely")),
        (true, "/interim", json!(false)),
        (false, "/stages/purged", json!(null)),
        (false, "/exactness", json!(["E9"])),
        (false, "/exactness", json!(["E0", "E0"])),
        (false, "/selector", json!("u7")),
        (false, "/status", json!("done")),
        (false, "/generation", json!(null)),
        (false, "/removed/users", json!(1.5)),
        (false, "/certificate/residual", json!(null)),
    ];
    let change = |(of_manifest, place, other): (bool, &str, Value)| {
        let (name, schema, mut value) =
            if of_manifest { ("manifest", &*MANIFEST, manifest(true)) } else { ("receipt", &*RECEIPT, receipt(true)) };
        *value.pointer_mut(place).unwrap() = other;
        (name, schema, value)
    };
    changes.into_iter().map(change).collect()
}

#[test]
fn a_schema_of_what_goes_out_refuses_what_is_not_true() {
    for (_, schema, value) in wrong() {
        assert!(!schema.accepts(&value), "{value}");
    }
    let mut more = receipt(false);
    more["user"] = json!("u7");
    assert!(!RECEIPT.accepts(&more), "the code writes nothing that is not described");
}

#[test]
fn closed_sets_are_those_of_the_code() {
    let named = |value: &Value| value.as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(named(&DEAD_LETTER_HEADERS.value["properties"]["error"]["enum"]), Refusal::CODES);
    assert_eq!(named(&RECEIPT.value["properties"]["status"]["enum"]), Status::ALL.map(Status::name));
    for shape in named(&RECEIPT.value["properties"]["selector"]["enum"]) {
        serde_json::from_value::<Shape>(json!(shape)).unwrap();
    }
}

#[test]
fn the_topics_of_asyncapi_are_those_of_the_code() {
    let document: Value = serde_json::from_str(include_str!("../schemas/asyncapi.json")).unwrap();
    let topics = Config::load(&Sources::default()).unwrap().topics;
    let channels = [
        ("interactions", &topics.interactions, Role::Events, "receive"),
        ("forgets", &topics.forgets, Role::Events, "receive"),
        ("factors", &topics.factors, Role::Factors, "send"),
        ("generations", &topics.generations, Role::Generations, "send"),
        ("receipts", &topics.receipts, Role::Receipts, "send"),
        ("deadLetters", &topics.dead_letters, Role::DeadLetters, "send"),
    ];
    assert_eq!(document["channels"].as_object().unwrap().len(), channels.len());
    assert_eq!(document["operations"].as_object().unwrap().len(), channels.len());
    for (name, topic, role, action) in channels {
        let channel = &document["channels"][name];
        assert_eq!(channel["address"], **topic, "{name}");
        let operation = document["operations"].as_object().unwrap().values();
        let operation = operation.into_iter().find(|operation| operation["channel"]["$ref"] == format!("#/channels/{name}")).unwrap();
        assert_eq!(operation["action"], action, "{name}");
        let planned = TopicPlan::new(topic.as_str(), role, 1, 1);
        // One without a value is held to a bound only: what it is is the producers' affair.
        let planned = planned.settings.iter().filter(|setting| !setting.value.is_empty());
        let settings: Map<String, Value> = planned.map(|it| (it.key.to_owned(), planned_value(it.key, it.value))).collect();
        let written = channel["x-nepenthe-topic-settings"].as_object().cloned().unwrap_or_default();
        assert_eq!(written, settings, "{name}");
        let binding = &channel["bindings"]["kafka"];
        assert_eq!(binding["topic"], **topic, "{name}");
        for (key, value) in binding["topicConfiguration"].as_object().into_iter().flatten() {
            assert_eq!(written[key], *value, "{name}: {key}");
        }
    }
}

fn planned_value(key: &str, value: &str) -> Value {
    match (key, value.parse::<f64>()) {
        ("cleanup.policy", _) | (_, Err(_)) => value.split(',').collect::<Vec<_>>().into(),
        (_, Ok(_)) => serde_json::from_str(value).unwrap(),
    }
}

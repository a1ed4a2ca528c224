//! The published schemas (`schemas/`) held against the code, in tests only: each record that a test decodes or sends passes
//! through here, so that neither can change alone. Knows as much of JSON Schema as the schemas use; that it reads them as
//! others do is checked by `scripts/check-deploy`, with a library of others on the same messages.

use std::collections::BTreeMap;
use std::sync::{LazyLock, Mutex};

use regex_lite::Regex;
use serde_json::{Map, Value};

use crate::kafka::OutRecord;
use crate::model::Objective;
use crate::model::event::{Event, Kind, Origin, Refusal};

/// A schema, and how the code is held to it.
pub(crate) struct Schema {
    pub value: Value,
    /// Of what goes out: nothing beyond the properties is accepted, although readers must accept it.
    closed: bool,
}

macro_rules! schema {
    ($name:ident, $file:literal, $closed:expr) => {
        pub(crate) static $name: LazyLock<Schema> = LazyLock::new(|| Schema {
            value: serde_json::from_str(include_str!(concat!("../schemas/", $file, ".schema.json"))).unwrap(),
            closed: $closed,
        });
    };
}

schema!(INTERACTION, "interaction", false);
schema!(FORGET, "forget", false);
schema!(MANIFEST, "manifest", true);
schema!(RECEIPT, "receipt", true);
schema!(DEAD_LETTER_HEADERS, "dead-letter-headers", true);

impl Schema {
    pub(crate) fn accepts(&self, value: &Value) -> bool {
        self.fault(&self.value, value, "").is_none()
    }

    /// Panics with what the schema has against `value`.
    #[track_caller]
    pub(crate) fn hold(&self, value: &Value) {
        let fault = self.fault(&self.value, value, "");
        assert!(fault.is_none(), "{}: {}\n{value:#}", self.value["title"], fault.unwrap_or_default());
    }

    /// As [`Schema::hold`], for a record's bytes.
    #[track_caller]
    pub(crate) fn hold_bytes(&self, bytes: &[u8]) {
        self.hold(&serde_json::from_slice(bytes).unwrap());
    }

    /// The first keyword of `schema` that `value` breaks, and where. Panics for a keyword that is not known here.
    fn fault(&self, schema: &Value, value: &Value, at: &str) -> Option<String> {
        let Value::Object(keywords) = schema else { return (schema == &Value::Bool(false)).then(|| format!("{at} is not allowed")) };
        let broken = keywords.iter().find_map(|(keyword, wanted)| self.broken(keywords, keyword, wanted, value, at));
        broken.or_else(|| self.undescribed(keywords, value, at))
    }

    fn broken(&self, schema: &Map<String, Value>, keyword: &str, wanted: &Value, value: &Value, at: &str) -> Option<String> {
        let list = || wanted.as_array().unwrap();
        let passes = |schema: &Value| self.fault(schema, value, at).is_none();
        let unless = |holds: bool| (!holds).then(|| format!("{keyword} {wanted} at {at:?}"));
        let number = |bound: fn(std::cmp::Ordering) -> bool| !value.is_number() || bound(compare(value, wanted));
        match keyword {
            "$schema" | "$id" | "$comment" | "$defs" | "title" | "description" | "default" | "examples" | "format" => None,
            "$ref" => self.fault(self.value.pointer(wanted.as_str().unwrap().trim_start_matches('#')).unwrap(), value, at),
            "type" => unless(wanted.as_array().map_or_else(|| is_a(value, wanted), |types| types.iter().any(|one| is_a(value, one)))),
            "enum" => unless(list().contains(value)),
            "const" => unless(value == wanted),
            "required" => {
                unless(value.as_object().is_none_or(|object| list().iter().all(|name| object.contains_key(name.as_str().unwrap()))))
            }
            "properties" => wanted.as_object().unwrap().iter().find_map(|(name, property)| {
                let inner = value.get(name)?;
                self.fault(property, inner, &format!("{at}/{name}"))
            }),
            "additionalProperties" => {
                assert!(!schema.contains_key("properties"), "only maps are described by additionalProperties");
                value.as_object()?.iter().find_map(|(name, inner)| self.fault(wanted, inner, &format!("{at}/{name}")))
            }
            "propertyNames" => {
                value.as_object()?.keys().find_map(|name| self.fault(wanted, &name.as_str().into(), &format!("{at}/{name}")))
            }
            "items" => value.as_array()?.iter().enumerate().find_map(|(place, inner)| self.fault(wanted, inner, &format!("{at}/{place}"))),
            "minItems" => unless(value.as_array().is_none_or(|items| items.len() as u64 >= wanted.as_u64().unwrap())),
            "uniqueItems" => {
                unless(value.as_array().is_none_or(|items| (1..items.len()).all(|place| !items[..place].contains(&items[place]))))
            }
            "anyOf" => unless(list().iter().any(passes)),
            "allOf" => list().iter().find_map(|one| self.fault(one, value, at)),
            "if" => {
                if passes(wanted) {
                    self.fault(schema.get("then")?, value, at)
                } else {
                    None
                }
            }
            "then" => None,
            "minimum" => unless(number(std::cmp::Ordering::is_ge)),
            "maximum" => unless(number(std::cmp::Ordering::is_le)),
            "exclusiveMinimum" => unless(number(std::cmp::Ordering::is_gt)),
            "exclusiveMaximum" => unless(number(std::cmp::Ordering::is_lt)),
            "minLength" => unless(value.as_str().is_none_or(|text| text.chars().count() as u64 >= wanted.as_u64().unwrap())),
            "maxLength" => unless(value.as_str().is_none_or(|text| text.chars().count() as u64 <= wanted.as_u64().unwrap())),
            "pattern" => unless(value.as_str().is_none_or(|text| matches(wanted.as_str().unwrap(), text))),
            _ => panic!("{keyword} at {at:?}: this keyword is not known here"),
        }
    }

    /// A property of `value` that a schema of what goes out does not describe.
    fn undescribed(&self, schema: &Map<String, Value>, value: &Value, at: &str) -> Option<String> {
        let (properties, object) = (schema.get("properties")?.as_object()?, value.as_object()?);
        // The schemas of conditions only add to one that has a type.
        let described = !self.closed || !schema.contains_key("type");
        (!described)
            .then(|| object.keys().find(|name| !properties.contains_key(*name)))?
            .map(|name| format!("{at}/{name} is not described"))
    }
}

fn is_a(value: &Value, kind: &Value) -> bool {
    match kind.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => whole(value).is_some(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("{other} is no type"),
    }
}

/// A number without fraction; 1.0 is one too.
fn whole(value: &Value) -> Option<i128> {
    let float = || value.as_f64().filter(|float| float.fract() == 0.0).map(|float| float as i128);
    value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from)).or_else(float)
}

fn compare(value: &Value, bound: &Value) -> std::cmp::Ordering {
    match (whole(value), whole(bound)) {
        (Some(value), Some(bound)) => value.cmp(&bound),
        _ => value.as_f64().unwrap().total_cmp(&bound.as_f64().unwrap()),
    }
}

fn matches(pattern: &str, text: &str) -> bool {
    static KNOWN: Mutex<BTreeMap<String, Regex>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    known.entry(pattern.to_owned()).or_insert_with(|| Regex::new(pattern).unwrap()).is_match(text)
}

/// The schema of an event, as the decoder tells the kinds apart.
pub(crate) fn of_event(kind: Kind, value: &Value) -> (&'static str, &'static Schema) {
    match (value.get("type").and_then(Value::as_str), kind) {
        (Some("forget"), _) => ("forget", &FORGET),
        (Some("interaction"), _) | (_, Kind::Interaction) => ("interaction", &INTERACTION),
        (_, Kind::Forget) => ("forget", &FORGET),
    }
}

/// Panics unless the decoder and the schema say the same of a record, or the difference is one that the schema's comment
/// names.
#[track_caller]
pub(crate) fn agree(origin: &Origin<'_>, payload: &[u8], decoded: &Result<Event<'_>, Refusal>) {
    // What is no JSON has no schema; a value of serde_json is also less deep than what the decoder skips.
    let Ok(value) = serde_json::from_slice::<Value>(payload) else { return };
    let text = || String::from_utf8_lossy(&payload[..payload.len().min(1000)]).into_owned();
    match (of_event(origin.kind, &value).1.accepts(&value), decoded) {
        (true, Ok(_)) | (false, Err(_)) => (),
        (true, Err(refusal)) => {
            assert!(is_beyond_schemas(origin, payload, refusal), "the schema accepts what the decoder refuses, {refusal}: {}", text());
        }
        (false, Ok(_)) => panic!("the schema refuses what the decoder accepts: {}", text()),
    }
}

/// The limits that the schemas' comments name.
fn is_beyond_schemas(origin: &Origin<'_>, payload: &[u8], refusal: &Refusal) -> bool {
    let says = |words: &str| refusal.detail.contains(words);
    let late_in_the_month = || ["-29T", "-30T", "-31T"].iter().any(|day| payload.windows(4).any(|four| four == day.as_bytes()));
    match refusal.code {
        "oversize" | "future_forget" => true,
        "invalid_field" => says("duplicate field") || says("pairs of") || says("floating point"),
        "invalid_id" => says("bytes; at most") && !payload.is_ascii(),
        "invalid_value" => says("is negative") && origin.objective == Objective::Implicit,
        "invalid_time" if says("neither RFC 3339") => late_in_the_month(),
        "invalid_time" => says("the window is empty") || says("outside 1970 to 2200") || says("neither `time` nor a record timestamp"),
        _ => false,
    }
}

/// Holds what a simulated sink took, by topic, against the schemas.
#[track_caller]
pub(crate) fn hold_outputs(outputs: &BTreeMap<String, Vec<OutRecord>>) {
    let sent = |topic: &str| outputs.get(topic).map_or(&[][..], Vec::as_slice);
    sent("generations").iter().for_each(|record| MANIFEST.hold_bytes(record.value.as_ref().unwrap()));
    sent("receipts").iter().for_each(|record| RECEIPT.hold_bytes(record.value.as_ref().unwrap()));
    sent("dead").iter().for_each(|record| DEAD_LETTER_HEADERS.hold(&headers(&record.headers)));
}

/// Headers as the JSON object that their schema describes.
fn headers(headers: &[(&str, Vec<u8>)]) -> Value {
    let text = |(name, value): &(&str, Vec<u8>)| ((*name).to_owned(), Value::from(String::from_utf8(value.clone()).unwrap()));
    Value::Object(headers.iter().map(text).collect::<Map<_, _>>())
}

#[cfg(test)]
#[path = "schemas_tests.rs"]
mod tests;

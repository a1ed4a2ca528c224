//! Events: bytes → what was written → what it means. Only [`Event`] goes further.

mod quick;
mod raw;

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use jiff::Timestamp;
use raw::{Given, Plain, RawEvent, Text, Time};
use serde::{Deserialize, Serialize};

use super::{Millis, Objective};

/// Largest record that is looked at, in bytes.
pub const MAX_RECORD: usize = 1 << 20;
/// Longest user or item id, in bytes.
pub const MAX_ID: usize = 256;
/// Longest event or request id, in bytes.
pub const MAX_EVENT_ID: usize = 128;
/// 2200-01-01T00:00:00Z: times at or after it are refused.
pub const END_OF_TIME: Millis = 7_258_118_400_000;
/// Largest magnitude of a value: the regularization must not be lost in the rounding of the normal equations beside it.
pub const MAX_VALUE: f64 = 1e12;
/// Longest explanation of a refusal, in bytes.
const MAX_DETAIL: usize = 512;
/// Most pairs of an item and an event id in one request: each leaves a fence behind.
const MAX_PRODUCT: usize = 10_000;

/// What happened: somebody played or rated something.
#[derive(Debug, Clone, PartialEq)]
pub struct Interaction<'a> {
    /// Identity of the event where the producer gives one, else (user, item, time) is.
    pub event_id: Option<Cow<'a, str>>,
    pub user: Cow<'a, str>,
    pub item: Cow<'a, str>,
    /// Implicit: strength ≥ 0. Explicit: rating.
    pub value: f64,
    pub time: Millis,
}

/// What is to be forgotten: the conjunction of what is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selector {
    pub user: Option<String>,
    /// Ascending, without repetition.
    pub items: Option<Vec<String>>,
    /// Ascending, without repetition; only with a user.
    pub event_ids: Option<Vec<String>>,
    /// First time covered.
    pub from: Millis,
    /// Last time covered; never after the forget's own time.
    pub to: Millis,
    /// The request named a window itself.
    pub window: bool,
}

/// The only thing of a selector that may leave the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    User,
    Pair,
    Items,
    Window,
    Events,
}

impl Selector {
    pub fn shape(&self) -> Shape {
        match (&self.user, &self.items, &self.event_ids, self.window) {
            (_, _, Some(_), _) => Shape::Events,
            (_, _, _, true) => Shape::Window,
            (Some(_), Some(_), _, _) => Shape::Pair,
            (Some(_), None, _, _) => Shape::User,
            (None, _, _, _) => Shape::Items,
        }
    }
}

/// A request to forget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forget {
    pub request_id: String,
    pub selector: Selector,
    pub time: Millis,
    /// BLAKE3 of what the producer wrote in the fields that carry meaning: tells a repeated request from another one
    /// under the same id.
    pub content: [u8; 32],
}

/// What a record means.
#[derive(Debug, Clone, PartialEq)]
pub enum Event<'a> {
    Interaction(Interaction<'a>),
    Forget(Forget),
}

/// What a record is when it does not say so itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Interaction,
    Forget,
}

/// Where a record came from, as far as its meaning depends on it.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub offset: i64,
    /// Milliseconds since the epoch, if the broker has it.
    pub timestamp: Option<Millis>,
    pub kind: Kind,
    pub objective: Objective,
}

/// Why a record goes to the dead letters: `code` is one of [`Refusal::CODES`], `detail` says what and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct Refusal {
    pub code: &'static str,
    pub detail: String,
}

impl Refusal {
    /// The closed set of reasons.
    pub const CODES: &'static [&'static str] = &[
        "oversize",
        "invalid_utf8",
        "invalid_json",
        "unknown_type",
        "missing_field",
        "invalid_field",
        "invalid_id",
        "invalid_value",
        "invalid_time",
        "no_selector",
        "future_forget",
    ];

    fn new(code: &'static str, detail: impl Into<String>) -> Refusal {
        debug_assert!(Refusal::CODES.contains(&code));
        Refusal { code, detail: detail.into() }
    }
}

/// Reads one record.
///
/// # Errors
/// [`Refusal`] for everything that the contract does not allow; the caller sends the record to the dead letters.
pub fn decode<'a>(origin: &Origin<'_>, payload: &'a [u8]) -> Result<Event<'a>, Refusal> {
    Decoder::default().decode(origin, payload)
}

/// Reads records one after the other: to the same as [`decode`], and faster where they are written alike.
#[derive(Default)]
pub struct Decoder<'a> {
    layout: Option<quick::Layout<'a>>,
}

impl<'a> Decoder<'a> {
    /// Reads one record.
    ///
    /// # Errors
    /// As [`decode`].
    pub fn decode(&mut self, origin: &Origin<'_>, payload: &'a [u8]) -> Result<Event<'a>, Refusal> {
        if payload.len() > MAX_RECORD {
            return Err(Refusal::new("oversize", format!("{} bytes; at most {MAX_RECORD} are read", payload.len())));
        }
        let text = std::str::from_utf8(payload)
            .map_err(|e| Refusal::new("invalid_utf8", format!("not UTF-8 after byte {}; send UTF-8 JSON", e.valid_up_to())))?;
        // The reader of structures would also take their fields one after the other from an array.
        if text.trim_ascii_start().starts_with('[') {
            return Err(Refusal::new("invalid_field", "an event is a JSON object, not an array"));
        }
        if let Some(plain) = quick::read(text, origin.kind, &mut self.layout) {
            return interaction(origin, plain).map(Event::Interaction);
        }
        let raw: RawEvent<'a> = serde_json::from_str(text).map_err(|e| match e.classify() {
            serde_json::error::Category::Data => Refusal::new("invalid_field", brief(&e)),
            _ => Refusal::new("invalid_json", brief(&e)),
        })?;
        interpret(origin, raw)
    }
}

/// What was written, checked.
fn interpret<'a>(origin: &Origin<'_>, raw: RawEvent<'a>) -> Result<Event<'a>, Refusal> {
    let kind = match raw.r#type.as_deref() {
        None => origin.kind,
        Some("interaction") => Kind::Interaction,
        Some("forget") => Kind::Forget,
        Some(_) => return Err(Refusal::new("unknown_type", "`type` must be \"interaction\" or \"forget\"")),
    };
    match kind {
        Kind::Interaction => interaction(origin, raw.into()).map(Event::Interaction),
        Kind::Forget => forget(origin, raw).map(Event::Forget),
    }
}

/// The first [`MAX_DETAIL`] bytes of what an error says, or a character less: it may quote a value of a megabyte.
fn brief(error: &impl fmt::Display) -> String {
    struct Brief(String);
    impl fmt::Write for Brief {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            let room = MAX_DETAIL - self.0.len();
            self.0.push_str(&text[..text.floor_char_boundary(room)]);
            if text.len() > room { Err(fmt::Error) } else { Ok(()) }
        }
    }
    let mut brief = Brief(String::new());
    // It fails when it is full.
    let _ = write!(brief, "{error}");
    brief.0
}

fn interaction<'a>(origin: &Origin<'_>, plain: Plain<'a>) -> Result<Interaction<'a>, Refusal> {
    let user = plain.user.ok_or_else(|| missing("user"))?;
    let item = plain.item.ok_or_else(|| missing("item"))?;
    let value = plain.value.unwrap_or(1.0);
    // JSON has no NaN and serde_json refuses 1e999; the check stays for other decoders to come.
    if !value.is_finite() || value.abs() > MAX_VALUE {
        return Err(Refusal::new("invalid_value", format!("`value` {value} is not within ±{MAX_VALUE:e}")));
    }
    if value < 0.0 && origin.objective == Objective::Implicit {
        return Err(Refusal::new("invalid_value", format!("`value` {value} is negative; with the implicit objective it is a strength")));
    }
    Ok(Interaction {
        event_id: plain.event_id.map(|id| identifier("event_id", id, MAX_EVENT_ID)).transpose()?,
        user: identifier("user", user, MAX_ID)?,
        item: identifier("item", item, MAX_ID)?,
        // −0 and 0 are one value and must be one key.
        value: if value == 0.0 { 0.0 } else { value },
        time: time_or_record(origin, plain.time)?,
    })
}

fn forget(origin: &Origin<'_>, raw: RawEvent<'_>) -> Result<Forget, Refusal> {
    let content = content(&raw);
    let user = raw.user.stated("user")?.map(|user| identifier("user", user, MAX_ID)).transpose()?.map(Cow::into_owned);
    let items = list("items", raw.items.stated("items")?, MAX_ID)?;
    let event_ids = list("event_ids", raw.event_ids.stated("event_ids")?, MAX_EVENT_ID)?;
    if user.is_none() && items.is_none() {
        return Err(Refusal::new("no_selector", "a forget needs `user`, `items` or both"));
    }
    if user.is_none() && event_ids.is_some() {
        return Err(Refusal::new("no_selector", "`event_ids` need the `user` that they belong to"));
    }
    let product = items.as_ref().map_or(0, Vec::len).saturating_mul(event_ids.as_ref().map_or(0, Vec::len));
    if product > MAX_PRODUCT {
        let detail =
            format!("{product} pairs of `items` and `event_ids`; at most {MAX_PRODUCT}, leave `items` out or send several requests");
        return Err(Refusal::new("invalid_field", detail));
    }
    let time = time_or_record(origin, raw.time)?;
    let window = raw.from.is_some() || raw.to.is_some();
    let from = raw.from.map(|t| millis("from", t)).transpose()?.unwrap_or(0);
    let to = raw.to.map(|t| millis("to", t)).transpose()?.unwrap_or(time);
    if to > time {
        return Err(Refusal::new("future_forget", format!("`to` {to} is after the forget's `time` {time}; nobody can forget the future")));
    }
    if from > to {
        return Err(Refusal::new("invalid_time", format!("`from` {from} is after `to` {to}; the window is empty")));
    }
    let request_id = match raw.request_id {
        Some(id) => identifier("request_id", id, MAX_EVENT_ID)?.into_owned(),
        None => format!("{}/{}/{}", origin.topic, origin.partition, origin.offset),
    };
    Ok(Forget { request_id, selector: Selector { user, items, event_ids, from, to, window }, time, content })
}

fn missing(field: &str) -> Refusal {
    Refusal::new("missing_field", format!("an interaction needs `{field}`"))
}

fn identifier<'a>(field: &str, text: Text<'a>, longest: usize) -> Result<Cow<'a, str>, Refusal> {
    match text.0.len() {
        0 => Err(Refusal::new("invalid_id", format!("`{field}` is empty"))),
        n if n > longest => Err(Refusal::new("invalid_id", format!("`{field}` has {n} bytes; at most {longest} are allowed"))),
        _ => Ok(text.0),
    }
}

fn list(field: &str, texts: Option<Vec<Text<'_>>>, longest: usize) -> Result<Option<Vec<String>>, Refusal> {
    let Some(texts) = texts else { return Ok(None) };
    if texts.is_empty() {
        return Err(Refusal::new("no_selector", format!("`{field}` is empty and would select nothing; leave it out to select all")));
    }
    let mut ids = texts.into_iter().map(|t| identifier(field, t, longest).map(Cow::into_owned)).collect::<Result<Vec<_>, _>>()?;
    ids.sort_unstable();
    ids.dedup();
    Ok(Some(ids))
}

fn time_or_record(origin: &Origin<'_>, time: Option<Time<'_>>) -> Result<Millis, Refusal> {
    match (time, origin.timestamp) {
        (Some(time), _) => millis("time", time),
        (None, Some(timestamp)) => millis("record timestamp", Time::Millis(timestamp as f64)),
        (None, None) => Err(Refusal::new("invalid_time", "neither `time` nor a record timestamp is there; send `time`")),
    }
}

fn millis(field: &str, time: Time<'_>) -> Result<Millis, Refusal> {
    let millis = match &time {
        Time::Millis(millis) if millis.is_finite() => millis.floor(),
        Time::Millis(_) => return Err(Refusal::new("invalid_time", format!("`{field}` is not finite"))),
        Time::Text(text) => text
            .parse::<Timestamp>()
            .map_err(|_| Refusal::new("invalid_time", format!("`{field}` is neither RFC 3339 nor milliseconds since 1970")))?
            .as_millisecond() as f64,
    };
    if !(0.0..END_OF_TIME as f64).contains(&millis) {
        return Err(Refusal::new(
            "invalid_time",
            format!("`{field}` {millis} is outside 1970 to 2200 (milliseconds; are these seconds or microseconds?)"),
        ));
    }
    Ok(millis as Millis)
}

/// Hashes what the producer wrote, not what defaults made of it: a retry of a request without `time` gets another
/// record timestamp and is still the same request.
fn content(raw: &RawEvent<'_>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    let mut part = |tag: u8, bytes: &[u8]| {
        hasher.update(&[tag]).update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    };
    let mut time = |tag: u8, time: &Option<Time<'_>>| match time {
        None => (),
        // The same instant written in two ways is the same content.
        Some(Time::Millis(millis)) => part(tag, &millis.to_le_bytes()),
        Some(Time::Text(text)) => match text.parse::<Timestamp>() {
            Ok(instant) => part(tag, &(instant.as_millisecond() as f64).to_le_bytes()),
            Err(_) => part(tag, text.as_bytes()),
        },
    };
    time(b't', &raw.time);
    time(b'f', &raw.from);
    time(b'o', &raw.to);
    if let Given::Value(user) = &raw.user {
        part(b'u', user.0.as_bytes());
    }
    for (tag, list) in [(b'i', &raw.items), (b'e', &raw.event_ids)] {
        if let Given::Value(list) = list {
            let mut ids: Vec<&str> = list.iter().map(|text| text.0.as_ref()).collect();
            ids.sort_unstable();
            ids.dedup();
            ids.iter().for_each(|id| part(tag, id.as_bytes()));
        }
    }
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
#[path = "event_tests.rs"]
mod tests;

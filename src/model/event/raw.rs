//! What was written, as the library for JSON reads it; nothing of it is checked yet.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

use super::Refusal;

/// A record as written: every field of both kinds, unknown ones ignored, repeated ones refused.
#[derive(Default, Deserialize)]
pub(super) struct RawEvent<'a> {
    #[serde(borrow, default)]
    pub r#type: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub event_id: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub user: Given<Text<'a>>,
    #[serde(borrow, default)]
    pub item: Option<Text<'a>>,
    #[serde(default)]
    pub value: Option<f64>,
    #[serde(borrow, default)]
    pub time: Option<Time<'a>>,
    #[serde(borrow, default)]
    pub request_id: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub items: Given<Vec<Text<'a>>>,
    #[serde(borrow, default)]
    pub event_ids: Given<Vec<Text<'a>>>,
    #[serde(borrow, default)]
    pub from: Option<Time<'a>>,
    #[serde(borrow, default)]
    pub to: Option<Time<'a>>,
}

/// What an interaction is made of, as written: a third of [`RawEvent`], for these are moved by the million.
#[derive(Default)]
pub(super) struct Plain<'a> {
    pub event_id: Option<Text<'a>>,
    pub user: Option<Text<'a>>,
    pub item: Option<Text<'a>>,
    pub value: Option<f64>,
    pub time: Option<Time<'a>>,
}

impl<'a> From<RawEvent<'a>> for Plain<'a> {
    fn from(raw: RawEvent<'a>) -> Plain<'a> {
        let RawEvent { event_id, user, item, value, time, .. } = raw;
        Plain { event_id, user: user.value(), item, value, time }
    }
}

/// Tells an absent field from an explicit null: a forget whose user is null by mistake must not become a forget of
/// the item for everybody.
#[derive(Default)]
pub(super) enum Given<T> {
    #[default]
    Absent,
    Null,
    Value(T),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Given<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Option::<T>::deserialize(deserializer)?.map_or(Given::Null, Given::Value))
    }
}

impl<T> Given<T> {
    pub fn value(self) -> Option<T> {
        match self {
            Given::Value(value) => Some(value),
            Given::Absent | Given::Null => None,
        }
    }

    /// For a forget: absent is fine, null is not.
    pub fn stated(self, field: &str) -> Result<Option<T>, Refusal> {
        match self {
            Given::Absent => Ok(None),
            Given::Value(value) => Ok(Some(value)),
            Given::Null => Err(Refusal::new("invalid_field", format!("`{field}` is null; leave it out or give it a value"))),
        }
    }
}

/// A string, or an integer taken as its decimal text.
pub(super) struct Text<'a>(pub Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a string or an integer")
            }
            fn visit_borrowed_str<E: de::Error>(self, v: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(v)))
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(v.to_owned())))
            }
            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(v.to_string())))
            }
            fn visit_i64<E: de::Error>(self, v: i64) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(v.to_string())))
            }
        }
        deserializer.deserialize_any(V)
    }
}

/// RFC 3339 or epoch milliseconds, not yet checked.
pub(super) enum Time<'a> {
    Millis(f64),
    Text(Cow<'a, str>),
}

impl<'de: 'a, 'a> Deserialize<'de> for Time<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Time<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("RFC 3339 text or milliseconds since 1970")
            }
            fn visit_borrowed_str<E: de::Error>(self, v: &'de str) -> Result<Time<'de>, E> {
                Ok(Time::Text(Cow::Borrowed(v)))
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Time<'de>, E> {
                Ok(Time::Text(Cow::Owned(v.to_owned())))
            }
            // Every millisecond up to 2200 is exact in an f64.
            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Time<'de>, E> {
                Ok(Time::Millis(v as f64))
            }
            fn visit_i64<E: de::Error>(self, v: i64) -> Result<Time<'de>, E> {
                Ok(Time::Millis(v as f64))
            }
            fn visit_f64<E: de::Error>(self, v: f64) -> Result<Time<'de>, E> {
                Ok(Time::Millis(v))
            }
        }
        deserializer.deserialize_any(V)
    }
}

//! What happens in the world, as the producers write it, and what it means: the specification of the state as a function
//! of the set of events.

use std::collections::BTreeMap;

use crate::model::Objective;

/// Somebody played or rated something.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::run) struct Happened {
    pub user: u8,
    pub item: u8,
    pub event_id: Option<u8>,
    pub value: u8,
    pub time: i64,
}

/// Somebody asks to forget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::run) struct Wish {
    pub user: Option<u8>,
    pub items: Option<Vec<u8>>,
    pub events: Option<Vec<u8>>,
    pub from: i64,
    pub to: i64,
}

/// Names that no other bytes of a store or a topic look like, so that they can be searched for.
pub(in crate::run) fn user(n: u8) -> String {
    format!("person-{n:02}-anna")
}

pub(in crate::run) fn item(n: u8) -> String {
    format!("thing-{n:02}-lamp")
}

pub(in crate::run) fn event(n: u8) -> String {
    format!("event-{n:02}-seen")
}

pub(in crate::run) fn request(n: usize) -> String {
    format!("r{n}")
}

/// As JSON; without `time` where the record's own timestamp says it.
pub(in crate::run) fn play_json(play: &Happened, timed: bool) -> String {
    let id = play.event_id.map_or(String::new(), |id| format!(r#""event_id":"{}","#, event(id)));
    let time = if timed { format!(r#","time":{}"#, play.time) } else { String::new() };
    format!(r#"{{{id}"user":"{}","item":"{}","value":{}{time}}}"#, user(play.user), item(play.item), play.value)
}

pub(in crate::run) fn forget_json(n: usize, wish: &Wish) -> String {
    let list = |field: &str, name: fn(u8) -> String, ids: &Option<Vec<u8>>| {
        ids.as_ref().map_or(String::new(), |ids| {
            let ids: Vec<String> = ids.iter().map(|&id| format!(r#""{}""#, name(id))).collect();
            format!(r#","{field}":[{}]"#, ids.join(","))
        })
    };
    let who = wish.user.map_or(String::new(), |n| format!(r#","user":"{}""#, user(n)));
    let (items, events) = (list("items", item, &wish.items), list("event_ids", event, &wish.events));
    format!(r#"{{"request_id":"{}"{who}{items}{events},"from":{},"to":{},"time":100}}"#, request(n), wish.from, wish.to)
}

/// The meaning of a selector, in one line a part.
pub(in crate::run) fn forgotten(play: &Happened, wish: &Wish) -> bool {
    wish.user.is_none_or(|user| user == play.user)
        && wish.items.as_ref().is_none_or(|items| items.contains(&play.item))
        && wish.events.as_ref().is_none_or(|events| play.event_id.is_some_and(|id| events.contains(&id)))
        && (wish.from..=wish.to).contains(&play.time)
}

/// User, item, and event id or time.
type Identity = (u8, u8, Option<u8>, i64);
/// When, by which event id, and which value.
type Told = (i64, Option<u8>, u8);

/// What a set of plays means: number of interactions, and the value of each pair that has one.
///
/// Of several plays with one identity the earliest counts, then the smallest value. Strengths are summed; of ratings the
/// latest counts, then the one with the greater event id, then the greater value.
pub(in crate::run) fn pairs<'p>(plays: impl Iterator<Item = &'p Happened>, objective: Objective) -> (u64, BTreeMap<(u8, u8), f64>) {
    let mut distinct: BTreeMap<Identity, (i64, u8)> = BTreeMap::new();
    for play in plays {
        let identity = (play.user, play.item, play.event_id, if play.event_id.is_some() { 0 } else { play.time });
        let told = (play.time, play.value);
        distinct.entry(identity).and_modify(|known| *known = told.min(*known)).or_insert(told);
    }
    let mut of_pair: BTreeMap<(u8, u8), Vec<Told>> = BTreeMap::new();
    for (&(user, item, event, _), &(time, value)) in &distinct {
        of_pair.entry((user, item)).or_default().push((time, event, value));
    }
    let meaning = |told: &Vec<Told>| match objective {
        Objective::Implicit => told.iter().map(|(_, _, value)| f64::from(*value)).sum(),
        Objective::Explicit => told.iter().max().map_or(0.0, |(_, _, value)| f64::from(*value)),
    };
    (distinct.len() as u64, of_pair.iter().map(|(pair, told)| (*pair, meaning(told))).collect())
}

//! Fences: what a forget holds against everything that arrives later. They know subjects by keyed hash only.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::Millis;
use super::event::{Interaction, Selector};

/// Key of every hash that stands for an identifier. Two installations have different keys, so hashes from one say
/// nothing at another.
#[derive(Clone)]
pub struct HashKey([u8; 32]);

impl std::fmt::Debug for HashKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HashKey(hidden)")
    }
}

/// A keyed hash of something that a selector names.
pub type Subject = [u8; 16];

/// What a [`Subject`] is the hash of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    User,
    Item,
    Pair,
    /// A user's event by its id. No longer raised: a stored play, which has only the hash of the id, cannot be held against it.
    Event,
    /// A user's event by the keyed hash of its id.
    Ident,
}

impl Scope {
    pub const ALL: [Scope; 5] = [Scope::User, Scope::Item, Scope::Pair, Scope::Event, Scope::Ident];
}

impl HashKey {
    pub fn new(bytes: [u8; 32]) -> HashKey {
        HashKey(bytes)
    }

    fn hash(&self, tag: u8, parts: &[&str]) -> blake3::Hash {
        // What fits into one block, as nearly all does, is laid together first: a hasher costs more than the hash.
        let mut block = [0u8; 64];
        let length = 1 + parts.iter().map(|part| 4 + part.len()).sum::<usize>();
        if length <= block.len() {
            block[0] = tag;
            let mut at = 1;
            for part in parts {
                let text = at + 4;
                block[at..text].copy_from_slice(&(part.len() as u32).to_le_bytes());
                at = text + part.len();
                block[text..at].copy_from_slice(part.as_bytes());
            }
            return blake3::keyed_hash(&self.0, &block[..length]);
        }
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(&[tag]);
        for part in parts {
            // Identifiers end at 256 bytes.
            hasher.update(&(part.len() as u32).to_le_bytes()).update(part.as_bytes());
        }
        hasher.finalize()
    }

    fn subject(&self, tag: u8, parts: &[&str]) -> Subject {
        let mut subject = Subject::default();
        subject.copy_from_slice(&self.hash(tag, parts).as_bytes()[..16]);
        subject
    }

    /// Names this installation to the broker: the same after every restart and every rotation of the signing key.
    pub fn installation(&self) -> String {
        self.hash(b'n', &[]).to_hex()[..16].to_owned()
    }

    /// Stands for a request in the ledger and in logs.
    pub fn request(&self, request_id: &str) -> Subject {
        self.subject(b'r', &[request_id])
    }

    /// Stands for what a request asks for: without the key, nobody can try out who it was.
    pub fn content(&self, content: &[u8; 32]) -> [u8; 32] {
        *blake3::keyed_hash(&self.0, content).as_bytes()
    }

    /// Stands for an event id within its user and item. Two ids of one pair meet with a chance of 2⁻⁶⁴.
    pub fn event(&self, event_id: &str) -> u64 {
        let hash = self.hash(b'e', &[event_id]);
        let mut bytes = [0u8; 8];
        bytes.copy_from_slice(&hash.as_bytes()[..8]);
        u64::from_le_bytes(bytes)
    }

    /// Stands for the key of a record on the factors topic once its name is gone.
    pub fn record(&self, key: &[u8]) -> Subject {
        let mut subject = Subject::default();
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        subject.copy_from_slice(&hasher.update(b"t").update(key).finalize().as_bytes()[..16]);
        subject
    }

    /// Tells another key from this one without giving it away.
    pub fn check(&self) -> Subject {
        self.subject(b'k', &[])
    }

    fn of(&self, scope: Scope, user: &str, item: &str, event_id: &str) -> Subject {
        match scope {
            Scope::User => self.subject(b'U', &[user]),
            Scope::Item => self.subject(b'I', &[item]),
            Scope::Pair => self.subject(b'P', &[user, item]),
            Scope::Event => self.subject(b'E', &[user, event_id]),
            Scope::Ident => self.ident(user, self.event(event_id)),
        }
    }

    fn ident(&self, user: &str, ident: u64) -> Subject {
        self.subject(b'D', &[user, &format!("{ident:016x}")])
    }
}

/// One closed interval of time in which a subject is forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    pub scope: Scope,
    pub subject: Subject,
    pub from: Millis,
    pub to: Millis,
    /// Restricts an event rule to these items ([`Scope::Item`] subjects, ascending).
    pub items: Option<Vec<Subject>>,
    /// When the forget was taken in; without it the rule never grows old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raised: Option<Millis>,
}

/// The rules that a selector taken in at `now` leaves behind.
pub fn rules(key: &HashKey, selector: &Selector, now: Millis) -> Vec<Rule> {
    let rule = |scope, subject, items| Rule { scope, subject, from: selector.from, to: selector.to, items, raised: Some(now) };
    match (&selector.user, &selector.items, &selector.event_ids) {
        (Some(user), items, Some(events)) => {
            let items = items.as_ref().map(|items| {
                let mut items: Vec<Subject> = items.iter().map(|item| key.of(Scope::Item, "", item, "")).collect();
                items.sort_unstable();
                items
            });
            events.iter().map(|event| rule(Scope::Ident, key.of(Scope::Ident, user, "", event), items.clone())).collect()
        }
        (Some(user), Some(items), None) => items.iter().map(|item| rule(Scope::Pair, key.of(Scope::Pair, user, item, ""), None)).collect(),
        (Some(user), None, None) => vec![rule(Scope::User, key.of(Scope::User, user, "", ""), None)],
        (None, items, _) => items.iter().flatten().map(|item| rule(Scope::Item, key.of(Scope::Item, "", item, ""), None)).collect(),
    }
}

/// What holds for one subject.
#[derive(Debug, Clone, Default)]
struct Spans {
    /// Closed intervals, ascending; they neither overlap nor touch.
    times: Vec<(Millis, Millis)>,
    /// Intervals that hold for these items only.
    limited: Vec<(Millis, Millis, Vec<Subject>)>,
}

impl Spans {
    /// Intervals that touch become one.
    fn insert(&mut self, rule: &Rule) {
        if let Some(items) = &rule.items {
            self.limited.push((rule.from, rule.to, items.clone()));
            return;
        }
        let first = self.times.partition_point(|&(_, to)| to < rule.from.saturating_sub(1));
        let last = self.times.partition_point(|&(from, _)| from <= rule.to.saturating_add(1));
        let joined = self.times[first..last.max(first)].iter().fold((rule.from, rule.to), |all, one| (all.0.min(one.0), all.1.max(one.1)));
        self.times.splice(first..last.max(first), [joined]);
    }

    fn hold(&self, time: Millis, item: impl FnOnce() -> Subject) -> bool {
        let next = self.times.partition_point(|&(_, to)| to < time);
        if self.times.get(next).is_some_and(|&(from, _)| from <= time) {
            return true;
        }
        let mut limited = self.limited.iter().filter(|(from, to, _)| (*from..=*to).contains(&time)).peekable();
        if limited.peek().is_none() {
            return false;
        }
        let item = item();
        limited.any(|(_, _, items)| items.binary_search(&item).is_ok())
    }
}

/// An interaction as a fence sees it.
#[derive(Debug, Clone, Copy)]
pub struct Suspect<'a> {
    pub user: &'a str,
    pub item: &'a str,
    /// Of a stored play only the hash is known.
    pub event_id: Option<&'a str>,
    pub ident: Option<u64>,
    pub time: Millis,
}

/// All fences. A look-up costs one keyed hash (about 80 ns) per scope that is in use, and a binary search among the
/// intervals of that one subject, whatever the number of fences.
#[derive(Debug, Clone)]
pub struct Fences {
    key: HashKey,
    spans: HashMap<Subject, Spans>,
    /// How many rules each scope has.
    scopes: [u64; Scope::ALL.len()],
    oldest: Option<Millis>,
}

impl Fences {
    pub fn new(key: HashKey) -> Fences {
        Fences { key, spans: HashMap::new(), scopes: [0; Scope::ALL.len()], oldest: None }
    }

    pub fn key(&self) -> &HashKey {
        &self.key
    }

    /// Number of rules taken in.
    pub fn len(&self) -> u64 {
        self.scopes.iter().sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of rules of one scope.
    pub fn of_scope(&self, scope: Scope) -> u64 {
        self.scopes[scope as usize]
    }

    /// When the oldest rule was raised that can grow old.
    pub fn oldest(&self) -> Option<Millis> {
        self.oldest
    }

    /// Raises a fence.
    pub fn insert(&mut self, rule: &Rule) {
        self.scopes[rule.scope as usize] += 1;
        self.oldest = self.oldest.min(rule.raised).or(self.oldest).or(rule.raised);
        self.spans.entry(rule.subject).or_default().insert(rule);
    }

    /// Is this interaction one that somebody asked to forget?
    pub fn cover(&self, event: &Interaction<'_>) -> bool {
        let event_id = event.event_id.as_deref();
        let ident = event_id.filter(|_| self.of_scope(Scope::Ident) > 0).map(|id| self.key.event(id));
        self.hold(Suspect { user: &event.user, item: &event.item, event_id, ident, time: event.time })
    }

    /// As [`Fences::cover`], for what is stored.
    pub fn hold(&self, suspect: Suspect<'_>) -> bool {
        let Suspect { user, item, event_id, ident, time } = suspect;
        Scope::ALL.into_iter().filter(|scope| self.of_scope(*scope) > 0).any(|scope| {
            let subject = match (scope, event_id, ident) {
                (Scope::Event, None, _) | (Scope::Ident, _, None) => return false,
                (Scope::Ident, _, Some(ident)) => self.key.ident(user, ident),
                _ => self.key.of(scope, user, item, event_id.unwrap_or_default()),
            };
            self.spans.get(&subject).is_some_and(|spans| spans.hold(time, || self.key.of(Scope::Item, "", item, "")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> HashKey {
        HashKey::new([7; 32])
    }

    fn selector(user: Option<&str>, items: &[&str], events: &[&str], from: i64, to: i64) -> Selector {
        let list = |ids: &[&str]| (!ids.is_empty()).then(|| ids.iter().map(|&id| id.to_owned()).collect());
        Selector { user: user.map(str::to_owned), items: list(items), event_ids: list(events), from, to, window: false }
    }

    fn play<'a>(user: &'a str, item: &'a str, event: Option<&'a str>, time: i64) -> Interaction<'a> {
        Interaction { event_id: event.map(Into::into), user: user.into(), item: item.into(), value: 1.0, time }
    }

    #[test]
    fn a_fence_covers_its_selector_and_no_more() {
        let cases: [(Selector, &[Interaction], &[Interaction]); 5] = [
            (selector(Some("u"), &[], &[], 0, 9), &[play("u", "i", None, 9)], &[play("u", "i", None, 10), play("v", "i", None, 9)]),
            (selector(Some("u"), &["i"], &[], 0, 9), &[play("u", "i", Some("e"), 0)], &[play("u", "j", None, 9), play("v", "i", None, 9)]),
            (selector(None, &["i", "j"], &[], 5, 9), &[play("v", "j", None, 5)], &[play("v", "j", None, 4), play("v", "k", None, 5)]),
            (
                selector(Some("u"), &[], &["e"], 0, 9),
                &[play("u", "i", Some("e"), 1)],
                &[play("u", "i", None, 1), play("v", "i", Some("e"), 1)],
            ),
            (selector(Some("u"), &["i"], &["e"], 0, 9), &[play("u", "i", Some("e"), 1)], &[play("u", "j", Some("e"), 1)]),
        ];
        for (selector, covered, free) in cases {
            let mut fences = Fences::new(key());
            rules(&key(), &selector, 1).iter().for_each(|rule| fences.insert(rule));
            assert!(covered.iter().all(|event| fences.cover(event)), "{selector:?}");
            assert!(!free.iter().any(|event| fences.cover(event)), "{selector:?}");
        }
    }

    #[test]
    fn a_thousand_forgets_of_one_person_are_one_span() {
        let mut fences = Fences::new(key());
        for to in 0..1000 {
            rules(&key(), &selector(Some("u"), &[], &[], 0, to), to).iter().for_each(|rule| fences.insert(rule));
        }
        assert_eq!((fences.len(), fences.spans.values().map(|spans| spans.times.len()).sum::<usize>()), (1000, 1));
        assert_eq!(fences.oldest(), Some(0));
        assert!(fences.cover(&play("u", "i", None, 999)) && !fences.cover(&play("u", "i", None, 1000)));
    }

    #[test]
    fn a_stored_play_is_held_against_by_the_hash_of_its_event_id() {
        let mut fences = Fences::new(key());
        rules(&key(), &selector(Some("u"), &["i"], &["e"], 0, 9), 1).iter().for_each(|rule| fences.insert(rule));
        let suspect = Suspect { user: "u", item: "i", event_id: None, ident: Some(key().event("e")), time: 9 };
        assert!(fences.hold(suspect));
        for other in [
            Suspect { user: "v", ..suspect },
            Suspect { item: "j", ..suspect },
            Suspect { ident: Some(key().event("f")), ..suspect },
            Suspect { ident: None, ..suspect },
            Suspect { time: 10, ..suspect },
        ] {
            assert!(!fences.hold(other), "{other:?}");
        }
    }

    #[test]
    fn a_rule_by_event_id_of_before_still_holds() {
        let old = Rule { scope: Scope::Event, subject: key().of(Scope::Event, "u", "", "e"), from: 0, to: 9, items: None, raised: None };
        let text = serde_json::to_string(&old).unwrap();
        assert!(!text.contains("raised"));
        let mut fences = Fences::new(key());
        fences.insert(&serde_json::from_str(&text).unwrap());
        assert!(fences.cover(&play("u", "i", Some("e"), 9)) && !fences.cover(&play("u", "i", Some("f"), 9)));
        assert_eq!((fences.oldest(), fences.of_scope(Scope::Event)), (None, 1));
    }

    proptest::proptest! {
        #[test]
        fn spans_hold_what_any_of_their_rules_does(
            rules in proptest::collection::vec((0i64..40, 0i64..12, proptest::option::of(0u8..3)), 0..12), time in 0i64..60, item in 0u8..3
        ) {
            let rules: Vec<Rule> = rules
                .into_iter()
                .map(|(from, length, item)| {
                    let items = item.map(|item| vec![[item; 16]]);
                    Rule { scope: Scope::User, subject: [0; 16], from, to: from + length, items, raised: None }
                })
                .collect();
            let mut spans = Spans::default();
            rules.iter().for_each(|rule| spans.insert(rule));
            let expected = rules.iter().any(|rule| {
                (rule.from..=rule.to).contains(&time) && rule.items.as_ref().is_none_or(|items| items.contains(&[item; 16]))
            });
            proptest::prop_assert_eq!(spans.hold(time, || [item; 16]), expected);
            proptest::prop_assert!(spans.times.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0), "disjoint, ascending: {:?}", spans.times);
        }
    }

    #[test]
    fn what_fits_into_a_block_is_hashed_as_what_does_not() {
        for length in 0..80 {
            let text = "x".repeat(length);
            let mut hasher = blake3::Hasher::new_keyed(&[7; 32]);
            hasher.update(b"P");
            for part in [text.as_str(), "i"] {
                hasher.update(&(part.len() as u32).to_le_bytes()).update(part.as_bytes());
            }
            assert_eq!(key().hash(b'P', &[&text, "i"]), hasher.finalize(), "{length}");
        }
    }

    #[test]
    fn the_parts_of_a_subject_do_not_run_together() {
        assert_ne!(key().of(Scope::Pair, "ab", "c", ""), key().of(Scope::Pair, "a", "bc", ""));
    }
}

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
    Event,
}

impl HashKey {
    pub fn new(bytes: [u8; 32]) -> HashKey {
        HashKey(bytes)
    }

    fn hash(&self, tag: u8, parts: &[&str]) -> blake3::Hash {
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
        }
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
}

/// The rules that a selector leaves behind.
pub fn rules(key: &HashKey, selector: &Selector) -> Vec<Rule> {
    let rule = |scope, subject, items| Rule { scope, subject, from: selector.from, to: selector.to, items };
    match (&selector.user, &selector.items, &selector.event_ids) {
        (Some(user), items, Some(events)) => {
            let items = items.as_ref().map(|items| {
                let mut items: Vec<Subject> = items.iter().map(|item| key.of(Scope::Item, "", item, "")).collect();
                items.sort_unstable();
                items
            });
            events.iter().map(|event| rule(Scope::Event, key.of(Scope::Event, user, "", event), items.clone())).collect()
        }
        (Some(user), Some(items), None) => items.iter().map(|item| rule(Scope::Pair, key.of(Scope::Pair, user, item, ""), None)).collect(),
        (Some(user), None, None) => vec![rule(Scope::User, key.of(Scope::User, user, "", ""), None)],
        (None, items, _) => items.iter().flatten().map(|item| rule(Scope::Item, key.of(Scope::Item, "", item, ""), None)).collect(),
    }
}

#[derive(Debug, Clone)]
struct Span {
    from: Millis,
    to: Millis,
    items: Option<Vec<Subject>>,
}

/// All fences. A look-up costs one keyed hash (about 80 ns) per scope that is in use, whatever the number of fences.
#[derive(Debug, Clone)]
pub struct Fences {
    key: HashKey,
    spans: HashMap<Subject, Vec<Span>>,
    /// How many rules each scope has.
    scopes: [u64; 4],
}

impl Fences {
    pub fn new(key: HashKey) -> Fences {
        Fences { key, spans: HashMap::new(), scopes: [0; 4] }
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

    /// Raises a fence. Spans of one subject that touch become one.
    pub fn insert(&mut self, rule: &Rule) {
        self.scopes[rule.scope as usize] += 1;
        let spans = self.spans.entry(rule.subject).or_default();
        let mut new = Span { from: rule.from, to: rule.to, items: rule.items.clone() };
        if new.items.is_none() {
            spans.retain(|old| {
                let joined = old.items.is_none() && old.from <= new.to.saturating_add(1) && new.from <= old.to.saturating_add(1);
                if joined {
                    (new.from, new.to) = (new.from.min(old.from), new.to.max(old.to));
                }
                !joined
            });
        }
        spans.push(new);
    }

    /// Is this interaction one that somebody asked to forget?
    pub fn cover(&self, event: &Interaction<'_>) -> bool {
        [Scope::User, Scope::Item, Scope::Pair, Scope::Event].into_iter().any(|scope| {
            if self.scopes[scope as usize] == 0 || (scope == Scope::Event && event.event_id.is_none()) {
                return false;
            }
            let subject = self.key.of(scope, &event.user, &event.item, event.event_id.as_deref().unwrap_or_default());
            self.spans.get(&subject).is_some_and(|spans| {
                spans.iter().any(|span| {
                    (span.from..=span.to).contains(&event.time)
                        && span
                            .items
                            .as_ref()
                            .is_none_or(|items| items.binary_search(&self.key.of(Scope::Item, "", &event.item, "")).is_ok())
                })
            })
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
            rules(&key(), &selector).iter().for_each(|rule| fences.insert(rule));
            assert!(covered.iter().all(|event| fences.cover(event)), "{selector:?}");
            assert!(!free.iter().any(|event| fences.cover(event)), "{selector:?}");
        }
    }

    #[test]
    fn a_thousand_forgets_of_one_person_are_one_span() {
        let mut fences = Fences::new(key());
        for to in 0..1000 {
            rules(&key(), &selector(Some("u"), &[], &[], 0, to)).iter().for_each(|rule| fences.insert(rule));
        }
        assert_eq!((fences.len(), fences.spans.values().map(Vec::len).sum::<usize>()), (1000, 1));
        assert!(fences.cover(&play("u", "i", None, 999)) && !fences.cover(&play("u", "i", None, 1000)));
    }

    #[test]
    fn the_parts_of_a_subject_do_not_run_together() {
        assert_ne!(key().of(Scope::Pair, "ab", "c", ""), key().of(Scope::Pair, "a", "bc", ""));
    }
}

//! Which settings each topic needs, so that what was forgotten is gone from the brokers too, and why.

use std::collections::{BTreeMap, BTreeSet};

use super::super::client::MAX_RECORD_BYTES;

/// What a topic is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Interactions and forgets: how long they are kept is the producers' decision, but not for ever.
    Events,
    Factors,
    Generations,
    Receipts,
    DeadLetters,
}

/// A topic as it should be.
#[derive(Debug, Clone)]
pub struct TopicPlan {
    pub name: String,
    pub partitions: i32,
    /// Replicas of each partition.
    pub replication: i32,
    pub settings: &'static [Setting],
    /// Somebody else may have made it, under rights of their own.
    pub is_producers: bool,
}

/// One setting of a topic.
#[derive(Debug)]
pub struct Setting {
    pub key: &'static str,
    /// What a new topic gets; empty for what the brokers' default is.
    pub value: &'static str,
    /// What is accepted of a topic that exists.
    pub need: Need,
    /// Why it matters for erasure.
    pub why: &'static str,
}

/// How a setting that is there compares with the planned one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The same words, in any order.
    Words,
    AtMost,
    /// -1 counts as no bound.
    AtLeast,
    /// At least the planned number, and at most this.
    Within(&'static str),
    /// The planned word is among them.
    Has,
    /// Any bound at all.
    Bounded,
}

/// A setting that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub setting: &'static str,
    /// What the broker says; empty when it does not know the setting.
    pub is: String,
    /// `at most 600000`, `at least 604800000`, `compact`.
    pub should: String,
    pub why: &'static str,
}

impl TopicPlan {
    /// `partitions` and `replication` are used only when the topic is created.
    pub fn new(name: impl Into<String>, role: Role, partitions: i32, replication: i32) -> TopicPlan {
        let settings: &'static [Setting] = match role {
            Role::Events => &EVENTS,
            Role::Factors => &FACTORS,
            Role::Generations => &GENERATIONS,
            Role::Receipts => &RECEIPTS,
            Role::DeadLetters => &DEAD_LETTERS,
        };
        TopicPlan { name: name.into(), partitions, replication, settings, is_producers: role == Role::Events }
    }

    /// What of `actual` (setting → value) is weaker than planned.
    pub fn differences(&self, actual: &BTreeMap<String, String>) -> Vec<Difference> {
        let is = |setting: &Setting| actual.get(setting.key).map_or("", String::as_str);
        self.settings.iter().filter_map(|setting| setting.difference(is(setting))).collect()
    }
}

impl Setting {
    /// The difference that a setting found to be `is` makes.
    pub(super) fn difference(&self, is: &str) -> Option<Difference> {
        let difference = || Difference { setting: self.key, is: is.to_owned(), should: self.should(), why: self.why };
        (!self.accepts(is)).then(difference)
    }

    fn accepts(&self, is: &str) -> bool {
        let words = |text: &str| text.split(',').map(|word| word.trim().to_owned()).collect::<BTreeSet<_>>();
        let number = |text: &str| text.parse::<f64>().ok();
        let numbers = || number(is).zip(number(self.value));
        match self.need {
            Need::Words => words(is) == words(self.value),
            Need::AtMost => numbers().is_some_and(|(is, planned)| is >= 0.0 && is <= planned),
            Need::AtLeast => numbers().is_some_and(|(is, planned)| is < 0.0 || is >= planned),
            Need::Within(most) => numbers().zip(number(most)).is_some_and(|((is, planned), most)| (planned..=most).contains(&is)),
            Need::Has => words(is).contains(self.value),
            Need::Bounded => number(is).is_some_and(|is| (0.0..ENDLESS).contains(&is)),
        }
    }

    fn should(&self) -> String {
        match self.need {
            Need::Words => self.value.to_owned(),
            Need::AtMost => format!("at most {}", self.value),
            Need::AtLeast => format!("at least {}", self.value),
            Need::Within(most) => format!("{} to {most}", self.value),
            Need::Has => format!("with {}", self.value),
            Need::Bounded => "bounded".to_owned(),
        }
    }
}

const fn setting(key: &'static str, value: &'static str, need: Need, why: &'static str) -> Setting {
    Setting { key, value, need, why }
}

const COMPACT: Setting =
    setting("cleanup.policy", "compact", Need::Words, "only compaction removes a forgotten row and keeps the others for ever");
const COMPACT_DELETE: Setting =
    setting("cleanup.policy", "compact,delete", Need::Words, "only the newest record of a key is needed, and not for ever");
const DIRTY_RATIO: Setting = setting(
    "min.cleanable.dirty.ratio",
    "0.01",
    Need::AtMost,
    "a broker cleans a log only when so much of it is stale: forgotten rows wait for it",
);
const COMPACTION_LAG: Setting =
    setting("max.compaction.lag.ms", "3600000", Need::AtMost, "the longest that a forgotten row stays uncleaned; unbounded by default");
const ROLL: Setting = setting(
    "segment.ms",
    "600000",
    Need::AtMost,
    "the open segment is never cleaned: it must close soon after a forgotten row's tombstone",
);
const TOMBSTONES: Setting = setting(
    "delete.retention.ms",
    "604800000",
    Need::Within("7776000000"),
    "a reader that is away for longer misses the tombstone and keeps the forgotten row; and so long the tombstone keeps the name",
);
const FILES: Setting =
    setting("file.delete.delay.ms", "60000", Need::AtMost, "so long the files stay on the broker's disk that cleaning has replaced");

/// Brokers' default is 0.
const NO_LAG: Setting =
    setting("min.compaction.lag.ms", "0", Need::AtMost, "so long a broker cleans nothing that is newer, a forgotten row neither");

static FACTORS: [Setting; 7] = [COMPACT, DIRTY_RATIO, NO_LAG, COMPACTION_LAG, ROLL, TOMBSTONES, FILES];

/// A thousand years in milliseconds: what is set to more is meant to be for ever.
const ENDLESS: f64 = 3.2e13;

static EVENTS: [Setting; 2] = [
    setting("cleanup.policy", "delete", Need::Has, "without it events are kept for ever, forgotten ones and the forgets themselves too"),
    setting("retention.ms", "", Need::Bounded, "without a bound events are kept for ever, forgotten ones and the forgets themselves too"),
];

/// Of a broker: what makes all of the above idle.
pub(super) const CLEANER: Setting =
    setting("log.cleaner.enable", "true", Need::Words, "this broker never compacts: nothing that was forgotten leaves it");

static GENERATIONS: [Setting; 4] = [
    COMPACT_DELETE,
    COMPACTION_LAG,
    ROLL,
    setting(
        "retention.ms",
        "7776000000",
        Need::AtLeast,
        "readers compare their rows with the newest manifest; 90 days outlast a long pause",
    ),
];

static RECEIPTS: [Setting; 4] = [
    COMPACT_DELETE,
    COMPACTION_LAG,
    ROLL,
    setting("retention.ms", "31536000000", Need::AtLeast, "a receipt is the proof that a request was served; asked for up to a year later"),
];

static DEAD_LETTERS: [Setting; 5] = [
    FILES,
    setting("cleanup.policy", "delete", Need::Words, "records here are undecodable, so a forget cannot find them: time must"),
    setting("retention.ms", "604800000", Need::AtMost, "records here may hold personal data that no forget reaches"),
    setting("segment.ms", "86400000", Need::AtMost, "retention deletes closed segments only"),
    setting("max.message.bytes", "4194304", Need::AtLeast, "an oversize event must fit, or its dead letter blocks publication"),
];

const _: () = assert!(MAX_RECORD_BYTES == 4_194_304, "the dead letters' max.message.bytes above is this number");

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(plan: &TopicPlan) -> BTreeMap<String, String> {
        let made = |setting: &Setting| if setting.value.is_empty() { "604800000" } else { setting.value };
        plan.settings.iter().map(|setting| (setting.key.to_owned(), made(setting).to_owned())).collect()
    }

    #[test]
    fn a_topic_made_by_the_plan_does_not_differ() {
        for role in [Role::Events, Role::Factors, Role::Generations, Role::Receipts, Role::DeadLetters] {
            let plan = TopicPlan::new("t", role, 1, 1);
            assert_eq!(plan.differences(&planned(&plan)), []);
        }
    }

    #[test]
    fn weaker_settings_differ_and_stronger_ones_do_not() {
        let plan = TopicPlan::new("t", Role::Factors, 1, 1);
        let with = |key: &str, value: &str| {
            let mut actual = planned(&plan);
            actual.insert(key.into(), value.into());
            plan.differences(&actual)
        };
        let differs = with("segment.ms", "604800000");
        assert_eq!((differs.len(), differs[0].is.as_str(), differs[0].should.as_str()), (1, "604800000", "at most 600000"));
        assert!(!differs[0].why.is_empty());
        assert_eq!(with("cleanup.policy", "compact,delete").len(), 1);
        assert_eq!(with("delete.retention.ms", "86400000").len(), 1);
        assert_eq!(with("max.compaction.lag.ms", "9223372036854775807").len(), 1);
        assert_eq!(with("min.compaction.lag.ms", "60000").len(), 1);
        assert_eq!(with("min.cleanable.dirty.ratio", "0.001"), []);
        assert_eq!(with("delete.retention.ms", "1209600000"), []);
        assert_eq!(with("delete.retention.ms", "9223372036854775807").len(), 1, "names would stay for ever");
        assert_eq!(with("file.delete.delay.ms", "3600000").len(), 1);
        assert_eq!(plan.differences(&BTreeMap::new()).len(), 7, "what the broker does not tell is not taken for granted");
    }

    #[test]
    fn order_of_policies_and_endless_retention_are_fine() {
        let plan = TopicPlan::new("t", Role::Receipts, 1, 1);
        let mut actual = planned(&plan);
        actual.insert("cleanup.policy".into(), "delete, compact".into());
        actual.insert("retention.ms".into(), "-1".into());
        assert_eq!(plan.differences(&actual), []);
        let letters = TopicPlan::new("t", Role::DeadLetters, 1, 1);
        let mut actual = planned(&letters);
        actual.insert("retention.ms".into(), "-1".into());
        assert_eq!(letters.differences(&actual).len(), 1, "endless retention of what may be personal is not");
    }

    #[test]
    fn events_may_be_kept_for_long_but_not_for_ever() {
        let plan = TopicPlan::new("t", Role::Events, 1, 1);
        let differing = |policy: &str, retention: &str| {
            let settings = [("cleanup.policy", policy), ("retention.ms", retention)].map(|(key, value)| (key.into(), value.into()));
            plan.differences(&BTreeMap::from(settings)).len()
        };
        assert_eq!((differing("delete", "604800000"), differing("compact,delete", "315360000000")), (0, 0));
        assert_eq!((differing("delete", "-1"), differing("delete", "9223372036854775807"), differing("compact", "604800000")), (1, 1, 1));
    }
}

//! Topics with the settings that erasure needs, and the blocking helpers of the commands: a reader and an outlet.

mod outlet;
mod plan;
mod proof;
mod reader;
#[cfg(test)]
mod tests;

pub use outlet::{Outlet, OutletError};
pub use plan::{Difference, Need, Role, Setting, TopicPlan};
pub use proof::{Finding, HEARTBEAT, ProofError, Prover, Question};
pub use reader::{Ends, ReadError, TopicRecord, Watermarks, end_offsets, follow_topic, read_topic, watermarks};

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::client::{ANSWER, ClientError, ClientSettings, Plain, admin_config, creation_error, explain};

/// What was found or done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicReport {
    pub topic: String,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Was not there; is now, as planned.
    Created,
    /// Is not there, and was only to be checked.
    Missing,
    Fine,
    /// Is there, but what was deleted may stay longer than promised.
    Differs(Vec<Difference>),
}

/// Why topics could not be made or looked at.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("cannot list the topics: {0}")]
    List(String),
    #[error("cannot create topic {topic}: {reason}")]
    Create { topic: String, reason: String },
    #[error("cannot read the settings of topic {topic}: {reason}")]
    Describe { topic: String, reason: String },
}

type Admin = AdminClient<Plain>;

/// Creates what is missing and compares the settings of what is there; `check_only` creates nothing. Never changes a topic
/// that exists: its settings may be somebody's decision. One report per plan, in their order.
///
/// # Errors
/// [`AdminError`] at the first topic that fails; those before it are done, and a second run goes on from there.
pub fn ensure_topics(settings: &ClientSettings, plan: &[TopicPlan], check_only: bool) -> Result<Vec<TopicReport>, AdminError> {
    let admin: Admin =
        admin_config(settings)?.create_with_context(Plain::default()).map_err(|error| creation_error("admin client", settings, error))?;
    // All topics at once: asking for one by name may create it. By a consumer: an admin client's log cannot be heard.
    let present = reader::topic_names(settings)?.map_err(AdminError::List)?;
    plan.iter()
        .map(|topic| {
            let outcome = if present.contains(&topic.name) {
                check(&admin, settings, topic)?
            } else if check_only {
                Outcome::Missing
            } else {
                create(&admin, settings, topic)?
            };
            Ok(TopicReport { topic: topic.name.clone(), outcome })
        })
        .collect()
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(ANSWER)).operation_timeout(Some(ANSWER))
}

fn create(admin: &Admin, settings: &ClientSettings, topic: &TopicPlan) -> Result<Outcome, AdminError> {
    let mut wanted = NewTopic::new(&topic.name, topic.partitions, TopicReplication::Fixed(topic.replication));
    for setting in topic.settings.iter().filter(|setting| !setting.value.is_empty()) {
        wanted = wanted.set(setting.key, setting.value);
    }
    let failed = |error| AdminError::Create { topic: topic.name.clone(), reason: explain(&settings.brokers, &error) };
    let results = block_on(admin.create_topics([&wanted], &options())).map_err(failed)?;
    match results.into_iter().find_map(Result::err) {
        None => Ok(Outcome::Created),
        // Somebody was faster.
        Some((_, RDKafkaErrorCode::TopicAlreadyExists)) => check(admin, settings, topic),
        Some((_, code)) => Err(failed(KafkaError::AdminOp(code))),
    }
}

fn check(admin: &Admin, settings: &ClientSettings, topic: &TopicPlan) -> Result<Outcome, AdminError> {
    match described(admin, settings, topic) {
        Ok(actual) => Ok(compare(admin, topic, &actual)),
        // The producers' topic need not be ours to look into.
        Err(_) if topic.is_producers => Ok(Outcome::Fine),
        Err(error) => Err(error),
    }
}

fn compare(admin: &Admin, topic: &TopicPlan, actual: &BTreeMap<String, String>) -> Outcome {
    let mut differences = topic.differences(actual);
    if !topic.is_producers && actual.get("cleanup.policy").is_some_and(|policy| policy.contains("compact")) {
        differences.extend(cleaners_off(admin));
    }
    if differences.is_empty() { Outcome::Fine } else { Outcome::Differs(differences) }
}

fn described(admin: &Admin, settings: &ClientSettings, topic: &TopicPlan) -> Result<BTreeMap<String, String>, AdminError> {
    let failed = |error| AdminError::Describe { topic: topic.name.clone(), reason: explain(&settings.brokers, &error) };
    let specifier = [ResourceSpecifier::Topic(&topic.name)];
    let described = block_on(admin.describe_configs(&specifier, &options())).map_err(failed)?;
    let resources = described.into_iter().collect::<Result<Vec<ConfigResource>, _>>();
    let resources = resources.map_err(|code| failed(KafkaError::AdminOp(code)))?;
    let entries = resources.into_iter().flat_map(|resource| resource.entries);
    Ok(entries.filter_map(|entry| Some((entry.name, entry.value?))).collect())
}

/// The first broker that never compacts. One that does not tell its settings is no finding: that takes rights over the
/// cluster, which whoever checks a topic need not have.
fn cleaners_off(admin: &Admin) -> Option<Difference> {
    let known = admin.inner().fetch_metadata(None, ANSWER).ok()?;
    let brokers: Vec<ResourceSpecifier> = known.brokers().iter().map(|broker| ResourceSpecifier::Broker(broker.id())).collect();
    // The protocol takes the settings of one broker at a time.
    let described = brokers.iter().filter_map(|broker| block_on(admin.describe_configs([broker], &options())).ok());
    let entries = described.flatten().filter_map(Result::ok).flat_map(|broker| broker.entries);
    let mut cleaners = entries.filter(|entry| entry.name == plan::CLEANER.key);
    cleaners.find_map(|entry| plan::CLEANER.difference(&entry.value?))
}

/// Waits on this thread for a future that another thread completes. The admin calls have no blocking form, and a runtime
/// for two calls of a command would be a runtime too many.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
        std::thread::park();
    }
}

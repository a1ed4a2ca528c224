//! Why a broker could not be talked to. librdkafka tells a caller only that time ran out; the cause, such as a wrong
//! password, stands in its log.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rdkafka::error::KafkaError;

use super::client::{explain, is_absence};

/// The newest cause that a client's log named.
#[derive(Debug, Default)]
pub(crate) struct Trouble(Mutex<Option<String>>);

impl Trouble {
    fn newest(&self) -> MutexGuard<'_, Option<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A line of the client's log.
    pub(crate) fn heard(&self, facility: &str, message: &str) {
        if facility == "FAIL" {
            // [thrd:NAME]: what it is about
            let cause = message.strip_prefix("[thrd:").and_then(|rest| rest.split_once("]: ")).map_or(message, |(_, cause)| cause);
            *self.newest() = Some(cause.to_owned());
        }
    }

    /// The brokers have answered: what was before explains nothing that comes.
    pub(crate) fn is_over(&self) {
        *self.newest() = None;
    }

    /// Did the brokers turn us away, or we them? Trying again will not help.
    pub(crate) fn is_refusal(&self) -> bool {
        self.newest().as_deref().is_some_and(is_refusal)
    }

    /// As [`explain`], with the cause where the error itself knows none.
    pub(crate) fn explain(&self, brokers: &str, error: &KafkaError) -> String {
        match &*self.newest() {
            Some(cause) if error.rdkafka_error_code().is_some_and(is_absence) => {
                let remedy = if is_refusal(cause) {
                    "check the credentials and certificates in kafka.properties"
                } else {
                    "are they up and is kafka.brokers right?"
                };
                format!("no answer from the brokers at {brokers} ({error}): {cause}; {remedy}")
            }
            _ => explain(brokers, error),
        }
    }
}

/// librdkafka has no code for it in its log, but these words in every such line.
fn is_refusal(cause: &str) -> bool {
    ["SASL ", "SSL ", "uthentication"].iter().any(|word| cause.contains(word))
}

#[cfg(test)]
mod tests {
    use rdkafka::error::RDKafkaErrorCode;

    use super::*;

    const LATE: KafkaError = KafkaError::MetadataFetch(RDKafkaErrorCode::OperationTimedOut);

    #[test]
    fn the_cause_that_the_log_named_is_told_with_its_remedy() {
        let trouble = Trouble::default();
        assert!(!trouble.is_refusal() && trouble.explain("b:1", &LATE).contains("are they up"));
        trouble.heard(
            "FAIL",
            "[thrd:sasl_ssl://b:1/bootstrap]: sasl_ssl://b:1/bootstrap: Connect to ipv4#1.2.3.4:1 failed: Connection refused",
        );
        assert!(!trouble.is_refusal(), "the name of a listener is no cause");
        let told = trouble.explain("b:1", &LATE);
        assert!(told.contains("Connection refused") && told.contains("are they up") && !told.contains("thrd"), "{told}");
        for cause in ["SASL authentication error: Authentication failed (after 3ms)", "SSL handshake failed: certificate verify failed"] {
            trouble.heard("FAIL", &format!("[thrd:sasl_ssl://b:1/bootstrap]: sasl_ssl://b:1/bootstrap: {cause}"));
            let told = trouble.explain("b:1", &LATE);
            assert!(trouble.is_refusal() && told.contains(cause) && told.contains("check the credentials and certificates"), "{told}");
        }
        trouble.heard("CONFWARN", "[thrd:app]: something else");
        assert!(trouble.is_refusal(), "other lines name no cause");
        trouble.is_over();
        assert!(!trouble.is_refusal() && !trouble.explain("b:1", &LATE).contains("certificate"));
        let other = KafkaError::MetadataFetch(RDKafkaErrorCode::TopicAuthorizationFailed);
        assert_eq!(trouble.explain("b:1", &other), explain("b:1", &other), "an error that knows its cause");
    }
}

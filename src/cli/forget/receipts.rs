//! Following the receipts of one request.

use std::fmt;
use std::ops::ControlFlow;
use std::time::Duration;

use clap::ValueEnum;
use serde_json::Value;

use crate::cli::CliError;
use crate::kafka::Positions;
use crate::kafka::admin::{end_offsets, follow_topic};
use crate::kafka::client::ClientSettings;

/// How far a request has come, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Stage {
    /// read and fenced
    Accepted,
    /// no longer among the interactions
    Erased,
    /// no longer in the model
    Unlearned,
    /// the factors topic shows it
    Published,
    /// no longer on the disk
    Purged,
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Stage::Accepted => "accepted",
            Stage::Erased => "erased",
            Stage::Unlearned => "unlearned",
            Stage::Published => "published",
            Stage::Purged => "purged",
        }
    }

    fn of(status: &str) -> Option<Stage> {
        Stage::value_variants().iter().copied().find(|stage| stage.name() == status)
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How the waiting ended, with the last receipt seen.
#[derive(Debug, Clone, PartialEq)]
pub enum Ended {
    /// At the stage or past it.
    Reached(Value),
    Rejected(Value),
    /// Out of patience.
    Late(Option<Value>),
}

/// The receipts topic from a moment on.
pub struct Trail<'a> {
    settings: &'a ClientSettings,
    topic: &'a str,
    from: Positions,
}

impl<'a> Trail<'a> {
    /// From the present end of the topic on.
    ///
    /// # Errors
    /// When the topic is missing or the broker does not answer.
    pub fn from_end(settings: &'a ClientSettings, topic: &'a str) -> Result<Trail<'a>, CliError> {
        let from = end_offsets(settings, topic).map_err(CliError::failed)?;
        Ok(Trail { settings, topic, from })
    }

    /// Waits until the request has reached `stage`, is rejected, or `patience` is over; `seen` hears of each status.
    ///
    /// # Errors
    /// When the broker refuses the reading.
    pub fn until(&self, request_id: &str, stage: Stage, patience: Duration, mut seen: impl FnMut(&str)) -> Result<Ended, CliError> {
        let mut last = None;
        let mut ended = None;
        let followed = follow_topic(self.settings, self.topic, &self.from, patience, |record| {
            let Some(receipt) = record.payload.and_then(|value| receipt_of(request_id, value)) else { return ControlFlow::Continue(()) };
            seen(status(&receipt));
            ended = judge(&receipt, stage);
            last = Some(receipt);
            if ended.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        followed.map_err(CliError::failed)?;
        Ok(ended.unwrap_or(Ended::Late(last)))
    }
}

/// The receipt, if it is one of that request.
fn receipt_of(request_id: &str, value: &[u8]) -> Option<Value> {
    let receipt: Value = serde_json::from_slice(value).ok()?;
    (receipt.get("request_id").and_then(Value::as_str) == Some(request_id)).then_some(receipt)
}

/// Its status; empty where it has none.
pub fn status(receipt: &Value) -> &str {
    receipt.get("status").and_then(Value::as_str).unwrap_or_default()
}

/// Whether the waiting for `stage` ends with this receipt.
fn judge(receipt: &Value, stage: Stage) -> Option<Ended> {
    match status(receipt) {
        "rejected" => Some(Ended::Rejected(receipt.clone())),
        status => (Stage::of(status)? >= stage).then(|| Ended::Reached(receipt.clone())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_stage_or_a_later_one_ends_the_waiting() {
        let judged = |status: &str| judge(&json!({ "request_id": "r", "status": status }), Stage::Unlearned);
        for status in ["accepted", "erased", "unheard of", ""] {
            assert_eq!(judged(status), None, "{status}");
        }
        for status in ["unlearned", "published", "purged"] {
            assert!(matches!(judged(status), Some(Ended::Reached(_))), "{status}");
        }
        assert!(matches!(judged("rejected"), Some(Ended::Rejected(_))));
        assert_eq!(judge(&json!({}), Stage::Accepted), None);
    }

    #[test]
    fn fuzz_receipts() {
        let seeds = [r#"{"request_id":"r","status":"published","stages":{}}"#, r#"{"request_id":"r","status":"rejected","error":"x"}"#];
        crate::fuzz::fuzz("receipts", &seeds, |bytes| {
            let Some(receipt) = receipt_of("r", bytes) else { return };
            match judge(&receipt, Stage::Published) {
                Some(Ended::Reached(_)) => assert!(["published", "purged"].contains(&status(&receipt))),
                Some(Ended::Rejected(_)) => assert_eq!(status(&receipt), "rejected"),
                _ => (),
            }
        });
    }

    #[test]
    fn only_receipts_of_the_request_count() {
        assert!(receipt_of("r", br#"{"request_id":"r","status":"accepted"}"#).is_some());
        assert!(receipt_of("r", br#"{"request_id":"r2","status":"accepted"}"#).is_none());
        assert!(receipt_of("r", b"nonsense").is_none());
    }
}

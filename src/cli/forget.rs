//! `nepenthe forget`: builds a forget, sends it, and follows its receipts.

mod receipts;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::json;

use self::receipts::{Ended, Stage, Trail, status};
use super::output;
use super::{CliError, client_settings};
use crate::config::Config;
use crate::kafka::OutRecord;
use crate::kafka::admin::{Outlet, end_offsets};
use crate::model::event::{self, Kind, Origin};
use crate::model::{Millis, Objective};

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  nepenthe forget --user u7 --wait published              the whole person
  nepenthe forget --user u7 --item i3 --item i4           what was between them
  nepenthe forget --user u7 --from 2026-03-01T00:00:00Z   everything since March
  nepenthe forget --user u7 --event-id e9                 this one event
  nepenthe forget --item i3 --everybody                   an item, for everybody

What is selected is everything that all given options agree on. Nothing brings it back: events that arrive later
with a time before the forget's are forgotten too.")]
pub struct ForgetArgs {
    /// Whose
    #[arg(long)]
    user: Option<String>,
    /// Which item; may be repeated
    #[arg(long = "item", value_name = "ITEM")]
    items: Vec<String>,
    /// Which event, by its id; may be repeated
    #[arg(long = "event-id", value_name = "ID", requires = "user")]
    event_ids: Vec<String>,
    /// From when on, inclusive: RFC 3339 or milliseconds since 1970
    #[arg(long, value_name = "TIME", value_parser = time, allow_negative_numbers = true)]
    from: Option<Millis>,
    /// Until when, inclusive; not in the future
    #[arg(long, value_name = "TIME", value_parser = time, allow_negative_numbers = true)]
    to: Option<Millis>,
    /// Items of every user, not of one
    #[arg(long, conflicts_with = "user")]
    everybody: bool,
    /// The request's own id; sent again with the same content it is the same request
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
    /// Follow the receipts until this stage
    #[arg(long, value_enum, value_name = "STAGE")]
    wait: Option<Stage>,
    /// Give up waiting after this time
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    timeout: Duration,
}

fn time(text: &str) -> Result<Millis, String> {
    let millis = text.parse::<Millis>().or_else(|_| text.parse::<Timestamp>().map(Timestamp::as_millisecond));
    millis.map_err(|_| "write RFC 3339, such as 2026-03-01T00:00:00Z, or milliseconds since 1970".to_owned())
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let parsed =
        text.parse::<SignedDuration>().map_err(|error| error.to_string()).and_then(|d| Duration::try_from(d).map_err(|e| e.to_string()));
    match parsed {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err("write a positive duration, such as 500ms, 60s or 1h".to_owned()),
    }
}

/// A forget that the service will accept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    pub request_id: String,
    /// The user, else the first item.
    pub key: Vec<u8>,
    pub payload: Vec<u8>,
}

/// A forget as it is written into the topic.
#[derive(Serialize)]
struct Written<'a> {
    r#type: &'static str,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    items: &'a [String],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    event_ids: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<Millis>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<Millis>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<Millis>,
}

/// What the options ask for at `now` (milliseconds since 1970); `unique` is different for every call.
///
/// A request with an id of its own carries no time and counts from its record's timestamp: so the same command, run
/// twice, is one request.
///
/// # Errors
/// Exit 2 when nothing is selected, or the service would refuse the request.
fn order(args: &ForgetArgs, now: Millis, unique: &[u8]) -> Result<Order, CliError> {
    if args.user.is_none() && args.items.is_empty() {
        return Err(CliError::usage("nothing is selected: give --user, --item or both"));
    }
    if args.user.is_none() && !args.everybody {
        return Err(CliError::usage("this would forget the items for everybody: add --everybody if that is meant, else --user"));
    }
    let made = || format!("f-{}", &blake3::hash(unique).to_hex()[..16]);
    let request_id = args.request_id.clone().unwrap_or_else(made);
    let written = Written {
        r#type: "forget",
        request_id: &request_id,
        user: args.user.as_deref(),
        items: &args.items,
        event_ids: &args.event_ids,
        from: args.from,
        to: args.to,
        time: args.request_id.is_none().then_some(now),
    };
    // Strings and whole numbers always have a JSON form; an empty payload would be refused right below.
    let payload = serde_json::to_vec(&written).unwrap_or_default();
    let origin = Origin { topic: "", partition: 0, offset: 0, timestamp: Some(now), kind: Kind::Forget, objective: Objective::Implicit };
    event::decode(&origin, &payload).map_err(|refusal| CliError::usage(format!("the service would refuse this forget: {refusal}")))?;
    let key = args.user.as_ref().or(args.items.first()).map(|key| key.as_bytes().to_vec()).unwrap_or_default();
    Ok(Order { request_id, key, payload })
}

/// Sends the forget and, with `--wait`, follows its receipts.
///
/// # Errors
/// Exit 2 for a request that the service would refuse; 1 when the broker does not take it, when it is rejected, and
/// when the stage is not reached in time.
pub fn run(config: &Config, args: &ForgetArgs) -> Result<(), CliError> {
    let now = since_1970();
    let unique = [now.as_nanos().to_le_bytes().as_slice(), &std::process::id().to_le_bytes()].concat();
    let order = order(args, Millis::try_from(now.as_millis()).unwrap_or(Millis::MAX), &unique)?;
    let settings = client_settings(config)?;
    let topic = &config.topics.forgets;
    // Taken before the request is sent: its first receipt may be there before the producer knows of the delivery.
    let trail = args.wait.map(|_| Trail::from_end(&settings, &config.topics.receipts)).transpose()?;
    // A broker may make the topic by itself when something is sent, with a retention that nobody chose.
    end_offsets(&settings, topic).map_err(CliError::failed)?;
    output::note(&format!("to {topic}: {}", String::from_utf8_lossy(&order.payload)));
    let mut outlet = Outlet::new(&settings).map_err(CliError::failed)?;
    let Order { request_id, key, payload } = order;
    let record = OutRecord { topic: topic.clone(), key: Some(key), value: Some(payload), headers: Vec::new() };
    outlet.send(&record).map_err(CliError::failed)?;
    outlet.flush().map_err(CliError::failed)?;
    match (trail, args.wait) {
        (Some(trail), Some(stage)) => follow(trail, &request_id, stage, args.timeout),
        _ => output::out_json(&json!({ "request_id": request_id, "topic": topic })),
    }
}

#[expect(clippy::disallowed_methods, reason = "a command is the rim: the time of a request is the time of asking")]
fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn follow(trail: Trail<'_>, request_id: &str, stage: Stage, timeout: Duration) -> Result<(), CliError> {
    let spinner = output::spinner();
    spinner.set_message(format!("{request_id}: sent, waiting for {stage}"));
    let ended =
        trail.until(request_id, stage, timeout, |status| spinner.set_message(format!("{request_id}: {status}, waiting for {stage}")));
    spinner.finish_and_clear();
    match ended? {
        Ended::Reached(receipt) => output::out_json(&receipt),
        Ended::Rejected(receipt) => {
            output::out_json(&receipt)?;
            let why = receipt.get("error").and_then(serde_json::Value::as_str).unwrap_or("no reason given");
            Err(CliError::failed(format!("{request_id} was rejected: {why}")))
        }
        Ended::Late(Some(receipt)) => {
            output::out_json(&receipt)?;
            let remedy = "it goes on by itself: see `nepenthe status`, or wait longer with --timeout";
            let reached = status(&receipt);
            Err(CliError::failed(format!("{request_id} has reached {reached} but not {stage} within {timeout:?}; {remedy}")))
        }
        Ended::Late(None) => {
            let remedy = "the request is in the topic and will be served: is `nepenthe run` up on these brokers and topics?";
            Err(CliError::failed(format!("no receipt for {request_id} within {timeout:?}; {remedy}")))
        }
    }
}

#[cfg(test)]
#[path = "forget_tests.rs"]
mod tests;

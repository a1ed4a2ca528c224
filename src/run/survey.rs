//! A look at the topics for a state that came from a backup: which forgets it may have missed, and what readers have.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use jiff::Timestamp;
use serde::Deserialize;

use crate::config::Topics;
use crate::kafka::Positions;
use crate::kafka::admin::{self, ReadError, Watermarks};
use crate::kafka::client::ClientSettings;
use crate::model::Millis;
use crate::model::afresh::OnTopics;
use crate::model::factors::Side;
use crate::model::fence::HashKey;
use crate::model::receipt::RequestKey;

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// First and next offset of each partition of the topics that are read.
    pub inputs: Watermarks,
    /// Requests with a receipt that were accepted since the backup, and where the receipt is.
    pub requests: Vec<(RequestKey, i32, i64)>,
    pub topics: OnTopics,
}

#[derive(Deserialize)]
struct Accepted {
    request_id: String,
    stages: Stages,
}

#[derive(Deserialize)]
struct Stages {
    accepted: Option<Timestamp>,
}

#[derive(Deserialize)]
struct Numbered {
    generation: u64,
}

impl Survey {
    /// Takes a record of the receipts topic.
    pub fn receipt(&mut self, key: &HashKey, since: Millis, partition: i32, offset: i64, value: &[u8]) {
        // What is no receipt of ours names no request of ours.
        let Ok(receipt) = serde_json::from_slice::<Accepted>(value) else { return };
        if receipt.stages.accepted.is_some_and(|at| at.as_millisecond() >= since) {
            self.requests.push((key.request(&receipt.request_id), partition, offset));
        }
    }

    /// Takes a record of the generations topic.
    pub fn manifest(&mut self, value: &[u8]) {
        if let Ok(manifest) = serde_json::from_slice::<Numbered>(value) {
            self.topics.generation = self.topics.generation.max(manifest.generation);
        }
    }
}

/// Rows of the factors topic as they come; keys of anything else are no rows.
#[derive(Debug, Default)]
pub struct Rows(BTreeSet<(Side, String)>);

impl Rows {
    pub fn take(&mut self, key: &[u8], live: bool) {
        let Some((side, name)) = std::str::from_utf8(key).ok().and_then(Side::of_key) else { return };
        if live {
            self.0.insert((side, name.to_owned()));
        } else {
            self.0.remove(&(side, name.to_owned()));
        }
    }

    pub fn left(self) -> Vec<(Side, String)> {
        self.0.into_iter().collect()
    }
}

/// Reads receipts, generations and factors from their first record to their end.
///
/// # Errors
/// [`ReadError`] when a topic is missing or cannot be read.
pub fn survey(settings: &ClientSettings, topics: &Topics, key: &HashKey, since: Millis) -> Result<Survey, ReadError> {
    let mut survey = Survey::default();
    for topic in [&topics.interactions, &topics.forgets] {
        survey.inputs.extend(admin::watermarks(settings, topic)?);
    }
    admin::read_topic(settings, &topics.receipts, None, |record| {
        survey.receipt(key, since, record.partition, record.offset, record.payload.unwrap_or_default());
        ControlFlow::Continue(())
    })?;
    admin::read_topic(settings, &topics.generations, None, |record| {
        survey.manifest(record.payload.unwrap_or_default());
        ControlFlow::Continue(())
    })?;
    let ends: Positions = admin::end_offsets(settings, &topics.factors)?;
    let mut rows = Rows::default();
    admin::read_topic(settings, &topics.factors, Some(&ends), |record| {
        rows.take(record.key.unwrap_or_default(), record.payload.is_some());
        let generation = record.header("generation").and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
        survey.topics.generation = survey.topics.generation.max(generation.unwrap_or(0));
        ControlFlow::Continue(())
    })?;
    survey.topics.rows = rows.left();
    survey.topics.upto = ends.into_iter().map(|((_, partition), end)| (partition, end)).collect();
    Ok(survey)
}

//! What the pages show: written by the loop, read by the HTTP server.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use crate::http::{Signed, Views};
use crate::kafka::SourceState;
use crate::metrics::Metrics;
use crate::model::Millis;
use crate::model::factors::{Factors, Side};
use crate::model::fence::HashKey;
use crate::model::generation::Current;
use crate::model::receipt::{Backups, Manifest};
use crate::model::recommend::{Measure, top};
use crate::run::keyring::Keyring;
use crate::run::keys::Signer;
use crate::run::service::stamp;
use crate::run::solver::Progress;
use crate::store::{Store, plays, tables};

/// Lag below which the service counts as caught up: what a busy topic gains between two looks.
const CAUGHT_UP: i64 = 10_000;

/// What the loop is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    #[default]
    Idle,
    Solving,
    Publishing,
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Phase::Idle => "idle",
            Phase::Solving => "solving",
            Phase::Publishing => "publishing",
        }
    }
}

/// Requests that have come to one stage and no further.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Waiting {
    pub stage: &'static str,
    pub count: u64,
    /// How long the one that stands there longest has.
    pub longest_seconds: f64,
}

/// What recommendations are made from.
struct Model {
    factors: Arc<Factors>,
    names: [Arc<Vec<Option<Arc<str>>>>; 2],
    /// Of the ratings, with the explicit objective.
    mean: f64,
}

#[derive(Default)]
struct Shown {
    phase: Phase,
    started: Millis,
    accepted: u64,
    source: SourceState,
    lag: Vec<(String, i32, i64, i64)>,
    stages: Vec<Waiting>,
    oldest_seconds: f64,
    outbox: u64,
    sizes: Vec<(&'static str, u64)>,
    fences: u64,
    sink_trouble: Option<String>,
    /// Why nothing is served: the state came from a backup.
    restoring: Option<String>,
    /// The loop ended and why.
    ended: Option<String>,
    frozen: Option<Millis>,
    /// Committed, perhaps not published yet.
    committed: Option<(Manifest, Vec<f64>)>,
    published: Option<Manifest>,
    /// The newest one: the generation before is let go as soon as there is another.
    model: Option<Arc<Model>>,
    observed: Option<Millis>,
    keys: Value,
    signer: Option<Signer>,
    /// See [`super::purging`].
    purging: Value,
    backups: Option<Backups>,
}

/// The shared board.
pub struct Board {
    shown: Mutex<Shown>,
    store: Arc<dyn Store>,
    key: HashKey,
    metrics: Arc<Metrics>,
    progress: Arc<Progress>,
}

impl Board {
    pub fn new(store: Arc<dyn Store>, key: HashKey, metrics: Arc<Metrics>, progress: Arc<Progress>, now: Millis) -> Board {
        let shown = Mutex::new(Shown { started: now, ..Shown::default() });
        Board { shown, store, key, metrics, progress }
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What receipts are signed with, and what they ever were.
    pub(super) fn signing(&self, keyring: &Keyring, signer: Signer) {
        let mut shown = self.shown();
        (shown.keys, shown.signer) = (keyring.to_json(), Some(signer));
    }

    pub(super) fn phase(&self, phase: Phase) {
        self.shown().phase = phase;
    }

    pub(super) fn accepted(&self, events: u64) {
        self.shown().accepted += events;
    }

    pub(super) fn frozen(&self, now: Millis) {
        self.shown().frozen = Some(now);
    }

    pub(super) fn committed(&self, manifest: &Manifest, trace: Vec<f64>) {
        self.shown().committed = Some((manifest.clone(), trace));
    }

    pub(super) fn published(&self, current: &Current, names: [Arc<Vec<Option<Arc<str>>>>; 2]) {
        let mut shown = self.shown();
        if shown.committed.as_ref().is_none_or(|(manifest, _)| manifest.generation != current.manifest.generation) {
            shown.committed = Some((current.manifest.clone(), Vec::new()));
        }
        shown.published = Some(current.manifest.clone());
        drop(shown);
        self.serve(current, names);
    }

    /// Makes recommendations from this generation, published or not.
    pub(super) fn serve(&self, current: &Current, names: [Arc<Vec<Option<Arc<str>>>>; 2]) {
        let mean = current.manifest.model.mean.unwrap_or(0.0);
        self.shown().model = Some(Arc::new(Model { factors: current.factors.clone(), names, mean }));
    }

    pub(super) fn sink_trouble(&self, reason: Option<String>) {
        self.shown().sink_trouble = reason;
    }

    pub(super) fn restoring(&self, reason: Option<String>) {
        self.shown().restoring = reason;
    }

    pub(super) fn ended(&self, reason: String) {
        self.shown().ended = Some(reason);
    }

    pub(super) fn backups(&self, backups: Option<Backups>) {
        self.shown().backups = backups;
    }

    pub(super) fn purging(&self, purging: Value) {
        self.shown().purging = purging;
    }

    #[allow(clippy::too_many_arguments, reason = "one look at everything, made in one place")]
    pub(super) fn observed(
        &self,
        source: &SourceState,
        lag: Vec<(String, i32, i64, i64)>,
        stages: Vec<Waiting>,
        oldest_seconds: f64,
        outbox: u64,
        sizes: Vec<(&'static str, u64)>,
        fences: u64,
        now: Millis,
    ) {
        let mut shown = self.shown();
        shown.source = source.clone();
        shown.lag = lag;
        shown.stages = stages;
        (shown.oldest_seconds, shown.outbox, shown.sizes, shown.fences) = (oldest_seconds, outbox, sizes, fences);
        shown.observed = Some(now);
    }
}

/// A JSON object with a member a stage.
fn by_stage(stages: &[Waiting], tell: impl Fn(&Waiting) -> Value) -> Value {
    stages.iter().map(|waiting| (waiting.stage.to_owned(), tell(waiting))).collect::<serde_json::Map<_, _>>().into()
}

/// Why the service is not ready, if it is not.
fn trouble(shown: &Shown) -> Option<String> {
    if let Some(ended) = &shown.ended {
        return Some(ended.clone());
    }
    if let Some(restoring) = &shown.restoring {
        return Some(restoring.clone());
    }
    if shown.observed.is_none() {
        return Some("starting".to_owned());
    }
    if let Some(trouble) = shown.source.trouble.as_ref().or(shown.sink_trouble.as_ref()) {
        return Some(trouble.clone());
    }
    if shown.source.assigned.is_empty() {
        return Some("no partition is assigned yet".to_owned());
    }
    if shown.lag.len() < shown.source.assigned.len() {
        return Some("the end of some partitions is not known yet".to_owned());
    }
    let behind: i64 = shown.lag.iter().map(|(_, _, next, end)| (end - next).max(0)).sum();
    (behind > CAUGHT_UP).then(|| format!("catching up: {behind} records behind"))
}

impl Views for Board {
    fn metrics(&self) -> String {
        self.metrics.render()
    }

    fn ready(&self) -> Result<(), String> {
        trouble(&self.shown()).map_or(Ok(()), Err)
    }

    fn status(&self) -> Value {
        let shown = self.shown();
        let reason = trouble(&shown);
        let (sweep, residual) = self.progress.read();
        let manifest = shown.published.as_ref();
        let certificate = manifest.map(|manifest| &manifest.certificate);
        let lag: Vec<Value> = shown
            .lag
            .iter()
            .map(|(topic, partition, next, end)| {
                json!({"topic": topic, "partition": partition, "next": next, "end": end, "records": (end - next).max(0)})
            })
            .collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "started": stamp(shown.started),
            "ready": reason.is_none(),
            "reason": reason,
            "phase": shown.phase.name(),
            "sweep": sweep,
            "residual": residual.is_finite().then_some(residual),
            "trace": shown.committed.as_ref().map(|(_, trace)| trace),
            "events_accepted": shown.accepted,
            "generation": manifest.map(|manifest| manifest.generation),
            "created": manifest.map(|manifest| manifest.created),
            "counts": manifest.map(|manifest| manifest.counts),
            "certificate": certificate,
            "objective": manifest.map(|manifest| manifest.model.params.objective),
            "rank": manifest.map(|manifest| manifest.model.params.rank),
            "rank_binds": certificate.map(|certificate| certificate.rank_binds),
            "digest": manifest.map(|manifest| &manifest.digest),
            "forgets": {
                "pending": by_stage(&shown.stages, |waiting| json!(waiting.count)),
                "oldest_seconds": shown.oldest_seconds,
                "longest_seconds": by_stage(&shown.stages, |waiting| json!(waiting.longest_seconds)),
            },
            "purge": shown.purging,
            "restoring": shown.restoring,
            "backups": shown.backups,
            "fences": shown.fences,
            "lag": lag,
            "rebalances": shown.source.rebalances,
            "outbox": shown.outbox,
            "store_bytes": shown.sizes.iter().copied().collect::<BTreeMap<_, _>>(),
        })
    }

    fn keys(&self) -> Value {
        self.shown().keys.clone()
    }

    fn latest_generation(&self) -> Option<Value> {
        let manifest = self.shown().published.clone()?;
        serde_json::to_value(&manifest).ok()
    }

    /// The same bytes and the same signature as on the topic: both are made from the ledger's receipt, and Ed25519 has no chance
    /// in it. Only after a rotation of the key the topic keeps the signature of the earlier one.
    fn receipt(&self, request_id: &str) -> Result<Option<Signed>, String> {
        let request = tables::request(&*self.store, &self.key.request(request_id)).map_err(|e| e.to_string())?;
        let Some(request) = request else { return Ok(None) };
        let value = serde_json::to_vec(&request.receipt).map_err(|e| e.to_string())?;
        let shown = self.shown();
        let signer = shown.signer.as_ref();
        let signature = signer.map(|signer| (signer.key_id().to_owned(), signer.sign(&value)));
        Ok(Some(Signed { value, signature }))
    }

    fn sweeps(&self) -> Value {
        self.progress.sweeps()
    }

    fn recommendations(&self, user: &str, n: usize) -> Result<Option<Vec<(String, f64)>>, String> {
        let (model, restoring) = {
            let shown = self.shown();
            (shown.model.clone(), shown.restoring.clone())
        };
        if let Some(reason) = restoring {
            return Err(reason);
        }
        let Some(model) = model else { return Ok(None) };
        let position = model.names[Side::User as usize].iter().position(|name| name.as_deref() == Some(user));
        let Some((number, row)) = position.and_then(|number| Some((number, model.factors.users.row(number)?))) else { return Ok(None) };
        let known = known_items(&*self.store, number as u32).map_err(|e| e.to_string())?;
        let best = top(&model.factors.items, row, Measure::Dot, n, |item| known.binary_search(&item).is_ok());
        let names = &model.names[Side::Item as usize];
        Ok(Some(
            best.into_iter()
                .filter_map(|(item, score)| Some((names.get(item as usize)?.as_deref()?.to_owned(), score + model.mean)))
                .collect(),
        ))
    }
}

/// Items of which the store holds a play of this user, ascending.
///
/// # Errors
/// [`crate::store::StoreError`] when the store cannot be read.
pub fn known_items(store: &dyn Store, user: u32) -> Result<Vec<u32>, crate::store::StoreError> {
    let mut items = Vec::new();
    plays::each(store, (user, user.checked_add(1)), &mut |play, _| {
        items.push(play.item);
        Ok(())
    })?;
    items.dedup();
    Ok(items)
}

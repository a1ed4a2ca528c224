//! nepenthe itself, started in this process, and what the show asks it.

use std::path::Path;
use std::sync::Arc;

use super::DemoError;
use super::patience::Patience;
use crate::config::{Config, Sources, Topics};
use crate::http::Views;
use crate::model::receipt::{Manifest, Receipt};
use crate::run::{self, Running};

/// Residual below which the show's models count as converged.
pub const TOLERANCE: f64 = 1e-7;

/// One running service and the topics it works on.
pub struct Service {
    running: Running,
    views: Arc<dyn Views>,
    patience: Patience,
    pub topics: Topics,
}

/// What the service says of itself while it works.
pub struct Progress {
    /// Interactions and forgets taken in.
    pub accepted: u64,
    pub sweep: u64,
    /// Largest relative normal-equation residual; `None` before the first sweep.
    pub residual: Option<f64>,
    pub solving: bool,
}

/// The configuration of one of the show's services. `name` tells the two apart, in topics, group and state directory;
/// `events` start a generation at once.
///
/// The rank is generous for this regularization: eight tastes, of 32 possible, survive it. So the optimum is one and
/// "equal to a retrain" is a fact and not luck.
///
/// # Errors
/// [`DemoError::Settings`] when the loader refuses them.
pub fn settings(name: &str, broker: &str, state: &Path, seed: u64, events: usize) -> Result<Config, DemoError> {
    let mut overrides = vec![
        ("kafka.brokers", broker.to_owned()),
        ("kafka.group", format!("nepenthe-{name}")),
        // The embedded broker shows aborted records: it would prove nothing.
        ("kafka.transactions", "false".to_owned()),
        // It also delays every empty answer by this.
        ("kafka.properties.fetch.wait.max.ms", "20".to_owned()),
        ("store.path", state.join(name).display().to_string()),
        ("http.listen", "127.0.0.1:0".to_owned()),
        ("model.objective", "implicit".to_owned()),
        ("model.rank", "32".to_owned()),
        ("model.regularization", "14".to_owned()),
        ("model.regularization_exp", "0".to_owned()),
        ("model.alpha", "1".to_owned()),
        ("model.unobserved_weight", "0.1".to_owned()),
        ("model.tolerance", format!("{TOLERANCE:e}")),
        ("model.max_sweeps", "2000".to_owned()),
        ("model.seed", seed.to_string()),
        ("generation.max_delay", "2s".to_owned()),
        ("generation.max_events", events.to_string()),
        ("generation.forget_delay", "0ms".to_owned()),
        // On a slow machine a generation that is still to converge would be compared with one that has.
        ("generation.interim_after", "168h".to_owned()),
    ];
    let topics = ["interactions", "forgets", "factors", "generations", "receipts", "dead_letters"];
    let names = topics.map(|topic| format!("topics.{topic}"));
    overrides.extend(names.iter().zip(topics).map(|(key, topic)| (key.as_str(), format!("{name}.{topic}"))));
    let overrides = overrides.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    Config::load(&Sources { file: None, env: Vec::new(), overrides }).map_err(|error| DemoError::Settings(error.to_string()))
}

impl Service {
    /// Starts it with its HTTP server and its threads.
    ///
    /// # Errors
    /// [`DemoError::Service`] when it does not come up.
    pub fn start(config: Config, patience: Patience) -> Result<Service, DemoError> {
        let topics = config.topics.clone();
        let running = run::start(config).map_err(|error| DemoError::Service { what: "start", why: error.to_string() })?;
        Ok(Service { views: running.views(), running, patience, topics })
    }

    /// Ends its threads and closes its store.
    ///
    /// # Errors
    /// [`DemoError::Service`] when something was amiss at the end.
    pub fn stop(self) -> Result<(), DemoError> {
        self.running.stop().map_err(|error| DemoError::Service { what: "stop", why: error.to_string() })
    }

    pub fn progress(&self) -> Progress {
        let status = self.views.status();
        Progress {
            accepted: status["events_accepted"].as_u64().unwrap_or(0),
            sweep: status["sweep"].as_u64().unwrap_or(0),
            residual: status["residual"].as_f64(),
            solving: status["phase"] == "solving",
        }
    }

    /// Largest residual after each sweep of the newest generation.
    pub fn residuals(&self) -> Vec<f64> {
        let status = self.views.status();
        status["trace"].as_array().into_iter().flatten().filter_map(serde_json::Value::as_f64).collect()
    }

    /// Records that were looked at so far, and how many of them a fence kept out.
    pub fn seen(&self) -> (u64, u64) {
        let metrics = self.views.metrics();
        let sum = |label: &str| {
            let series = metrics.lines().filter(|line| line.starts_with("nepenthe_events_total{") && line.contains(label));
            series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
        };
        (sum(""), sum("outcome=\"fenced\""))
    }

    /// Why it is not ready, if it is not.
    pub fn ready(&self) -> Result<(), String> {
        self.views.ready()
    }

    /// The newest published generation.
    pub fn manifest(&self) -> Result<Option<Manifest>, DemoError> {
        let read = self.views.latest_generation().map(serde_json::from_value).transpose();
        read.map_err(|error| DemoError::Reading { what: "the newest manifest", why: error.to_string() })
    }

    /// The newest receipt of a request.
    pub fn receipt(&self, request: &str) -> Result<Option<Receipt>, DemoError> {
        let unreadable = |why| DemoError::Reading { what: "a receipt", why };
        let shown = self.views.receipt(request).map_err(unreadable)?;
        shown.map(|signed| serde_json::from_slice(&signed.value)).transpose().map_err(|error| unreadable(error.to_string()))
    }

    /// A user's ten best items by id, best first; `None` for somebody unknown.
    pub fn top_ten(&self, user: &str) -> Result<Option<Vec<String>>, DemoError> {
        let list = self.views.recommendations(user, 10).map_err(|why| DemoError::Reading { what: "a top ten", why })?;
        Ok(list.map(|list| list.into_iter().map(|(item, _)| item).collect()))
    }

    /// Waits for a generation that holds the first `interactions` records of its interactions topic.
    ///
    /// # Errors
    /// [`DemoError::Late`], and whatever `meanwhile` fails with.
    pub fn generation_with(
        &self,
        interactions: u64,
        mut meanwhile: impl FnMut(&Progress) -> Result<(), DemoError>,
    ) -> Result<Manifest, DemoError> {
        self.patience.until("a generation that holds every event sent", || {
            meanwhile(&self.progress())?;
            Ok(self.manifest()?.filter(|manifest| {
                let cut = manifest.cut.get(&self.topics.interactions);
                // After an interim one comes one that has converged.
                !manifest.interim && cut.is_some_and(|partitions| partitions.values().sum::<i64>() as u64 >= interactions)
            }))
        })
    }
}

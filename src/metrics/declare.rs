//! Names, units and help of all metrics. Base units only: seconds, bytes, records; `_total` ends a counter.

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, Result, histogram_opts, opts,
    register_gauge_vec_with_registry, register_gauge_with_registry, register_histogram_vec_with_registry, register_histogram_with_registry,
    register_int_counter_vec_with_registry, register_int_counter_with_registry, register_int_gauge_vec_with_registry,
    register_int_gauge_with_registry,
};

/// Seconds from an event or a forget to its effect: 5 ms to 24 h.
const WAITS: [f64; 22] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 21600.0,
    43200.0, 86400.0,
];

/// Seconds that one phase of a generation works: 1 ms to 1 h.
const WORK: [f64; 15] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0];

/// One field per metric; series of label values appear as they are first touched.
pub(super) struct Declared {
    pub registry: Registry,
    pub events: IntCounterVec,
    pub dead_letters: IntCounterVec,
    pub lag: IntGaugeVec,
    pub event_age: Histogram,
    pub event_oldest: Gauge,
    pub forgets: IntCounterVec,
    pub forgets_pending: IntGaugeVec,
    pub forget_oldest: Gauge,
    pub forget_duration: HistogramVec,
    pub generations: IntCounterVec,
    pub generation: IntGauge,
    pub generation_created: Gauge,
    pub generation_duration: HistogramVec,
    pub sweeps: IntCounter,
    pub residual: Gauge,
    pub residual_tolerance: Gauge,
    pub objective: Gauge,
    pub duality_gap: Gauge,
    pub rank: IntGauge,
    pub effective_rank: IntGauge,
    pub rank_binds: IntGauge,
    pub users: IntGauge,
    pub items: IntGauge,
    pub interactions: IntGauge,
    pub solver_failures: IntCounter,
    pub published_records: IntCounterVec,
    pub publish_failures: IntCounter,
    pub purge_duration: HistogramVec,
    pub purge_bytes: IntCounter,
    pub purge_failures: IntCounter,
    pub purge_oldest: Gauge,
    pub fences: IntGauge,
    pub fences_expired: IntCounter,
    pub backups: IntGauge,
    pub backup_newest: Gauge,
    pub outbox_records: IntGauge,
    pub around: Around,
}

/// What the loop works with and is measured against.
pub(super) struct Around {
    pub forget_objective: GaugeVec,
    pub store_bytes: IntGaugeVec,
    pub disk_bytes: IntGauge,
    pub disk_free: IntGauge,
    pub ready: IntGauge,
}

impl Declared {
    /// # Errors
    /// Two metrics of one name, or a malformed name.
    pub fn new() -> Result<Declared> {
        let registry = Registry::new();
        let r = &registry;
        about_the_process(r)?;
        Ok(Declared {
            events: counters(r, "nepenthe_events_total", "Records read, by kind and by what became of them.", &["kind", "outcome"])?,
            dead_letters: counters(r, "nepenthe_dead_letters_total", "Records sent to the dead letters, by error.", &["error"])?,
            lag: gauges(
                r,
                "nepenthe_consumer_lag_records",
                "Records from what is stored to the partition's end.",
                &["topic", "partition"],
            )?,
            event_age: register_histogram_with_registry!(
                histogram_opts!(
                    "nepenthe_event_age_seconds",
                    "Time from an event being read to its being visible in a published generation.",
                    WAITS.to_vec()
                ),
                registry
            )?,
            event_oldest: gauge(r, "nepenthe_event_oldest_seconds", "Age of the oldest event that no reader sees yet, 0 without one.")?,
            forgets: counters(r, "nepenthe_forgets_total", "Forgets that reached a status.", &["status"])?,
            forgets_pending: gauges(r, "nepenthe_forgets_pending", "Forgets that wait at a stage for the next one.", &["stage"])?,
            forget_oldest: gauge(r, "nepenthe_forget_oldest_seconds", "Age of the oldest pending forget, 0 when none waits.")?,
            forget_duration: histograms(
                r,
                "nepenthe_forget_duration_seconds",
                "Time from a forget being accepted to its reaching a stage.",
                "stage",
                &WAITS,
            )?,
            generations: counters(r, "nepenthe_generations_total", "Generations committed, by whether certified.", &["certified"])?,
            generation: int_gauge(r, "nepenthe_generation", "Number of the newest committed generation, 0 before the first.")?,
            generation_created: gauge(
                r,
                "nepenthe_generation_created_timestamp_seconds",
                "Unix time at which the newest committed generation was made.",
            )?,
            generation_duration: histograms(r, "nepenthe_generation_duration_seconds", "Time spent in a phase.", "phase", &WORK)?,
            sweeps: counter(r, "nepenthe_sweeps_total", "Sweeps over the factors.")?,
            residual: gauge(r, "nepenthe_residual", "Largest relative normal-equation residual of the newest generation.")?,
            residual_tolerance: gauge(r, "nepenthe_residual_tolerance", "Residual at or below which a generation is certified.")?,
            objective: gauge(r, "nepenthe_objective", "Value of the objective at the newest generation.")?,
            duality_gap: gauge(
                r,
                "nepenthe_duality_gap",
                "Upper bound of the objective's distance from its global least value; NaN without model.certify = \"global\".",
            )?,
            rank: int_gauge(r, "nepenthe_rank", "Length of a factor row of the newest generation.")?,
            effective_rank: int_gauge(r, "nepenthe_effective_rank", "Directions that the newest generation uses.")?,
            rank_binds: int_gauge(r, "nepenthe_rank_binds", "1 when the newest generation wants more directions than its rank has.")?,
            users: int_gauge(r, "nepenthe_users", "Users in the newest generation.")?,
            items: int_gauge(r, "nepenthe_items", "Items in the newest generation.")?,
            interactions: int_gauge(r, "nepenthe_interactions", "Interactions that the newest generation was learnt from.")?,
            solver_failures: counter(r, "nepenthe_solver_failures_total", "Generations given up because the solver failed.")?,
            published_records: counters(r, "nepenthe_published_records_total", "Records acknowledged by the broker.", &["topic"])?,
            publish_failures: counter(r, "nepenthe_publish_failures_total", "Parcels that were not acknowledged.")?,
            purge_duration: histograms(
                r,
                "nepenthe_purge_duration_seconds",
                "Time of one erasure, or of one look at the topic.",
                "phase",
                &WORK,
            )?,
            purge_bytes: counter(r, "nepenthe_purge_rewritten_bytes_total", "Bytes of table files that erasures wrote anew.")?,
            purge_failures: counter(r, "nepenthe_purge_failures_total", "Purges that were not done or not proven, and are tried again.")?,
            purge_oldest: gauge(r, "nepenthe_purge_oldest_seconds", "Time since the oldest forget that is not purged was published.")?,
            fences: int_gauge(r, "nepenthe_fences", "Rules that keep out what was forgotten.")?,
            fences_expired: counter(r, "nepenthe_fences_expired_total", "Rules that store.fence_retention has ended.")?,
            backups: int_gauge(r, "nepenthe_backups", "Backups that were taken and are not older than store.backup_retention.")?,
            backup_newest: gauge(r, "nepenthe_backup_newest_timestamp_seconds", "Unix time of the newest backup, 0 without one.")?,
            outbox_records: int_gauge(r, "nepenthe_outbox_records", "Records committed and not yet acknowledged by the broker.")?,
            around: Around::new(r)?,
            registry,
        })
    }
}

impl Around {
    fn new(r: &Registry) -> Result<Around> {
        Ok(Around {
            forget_objective: register_gauge_vec_with_registry!(
                opts!("nepenthe_forget_objective_seconds", "Time within which a forget should reach a stage, as configured."),
                &["stage"],
                r
            )?,
            store_bytes: gauges(r, "nepenthe_store_bytes", "Live bytes of a column family.", &["family"])?,
            disk_bytes: int_gauge(r, "nepenthe_store_disk_bytes", "Size of the file system that holds the state.")?,
            disk_free: int_gauge(r, "nepenthe_store_disk_free_bytes", "Bytes that the service may still write there.")?,
            ready: int_gauge(r, "nepenthe_ready", "1 when /readyz says so: assigned, caught up, broker and store well; else 0.")?,
        })
    }
}

/// `nepenthe_build_info` and, where the system tells them, `process_*`.
fn about_the_process(registry: &Registry) -> Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    gauges(registry, "nepenthe_build_info", "Always 1; the label tells the version.", &["version"])?.with_label_values(&[version]).set(1);
    if cfg!(target_os = "linux") {
        registry.register(Box::new(super::process::ThisProcess::new()))?;
    }
    Ok(())
}

fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter> {
    register_int_counter_with_registry!(opts!(name, help), registry)
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec> {
    register_int_counter_vec_with_registry!(opts!(name, help), labels, registry)
}

fn gauge(registry: &Registry, name: &str, help: &str) -> Result<Gauge> {
    register_gauge_with_registry!(opts!(name, help), registry)
}

fn int_gauge(registry: &Registry, name: &str, help: &str) -> Result<IntGauge> {
    register_int_gauge_with_registry!(opts!(name, help), registry)
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec> {
    register_int_gauge_vec_with_registry!(opts!(name, help), labels, registry)
}

fn histograms(registry: &Registry, name: &str, help: &str, label: &str, buckets: &[f64]) -> Result<HistogramVec> {
    register_histogram_vec_with_registry!(histogram_opts!(name, help, buckets.to_vec()), &[label], registry)
}

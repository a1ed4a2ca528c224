use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

use super::*;

const ERRORS: [&str; 2] = ["not_json", "time_range"];

/// What dashboards and alerts of others build on.
const CONTRACT: [&str; 30] = [
    "nepenthe_events_total",
    "nepenthe_dead_letters_total",
    "nepenthe_consumer_lag_records",
    "nepenthe_event_age_seconds",
    "nepenthe_event_oldest_seconds",
    "nepenthe_forgets_total",
    "nepenthe_forgets_pending",
    "nepenthe_forget_oldest_seconds",
    "nepenthe_forget_duration_seconds",
    "nepenthe_forget_objective_seconds",
    "nepenthe_generation",
    "nepenthe_generation_created_timestamp_seconds",
    "nepenthe_generation_duration_seconds",
    "nepenthe_sweeps_total",
    "nepenthe_residual",
    "nepenthe_residual_tolerance",
    "nepenthe_objective",
    "nepenthe_duality_gap",
    "nepenthe_rank",
    "nepenthe_effective_rank",
    "nepenthe_rank_binds",
    "nepenthe_users",
    "nepenthe_items",
    "nepenthe_interactions",
    "nepenthe_published_records_total",
    "nepenthe_outbox_records",
    "nepenthe_store_bytes",
    "nepenthe_store_disk_bytes",
    "nepenthe_store_disk_free_bytes",
    "nepenthe_ready",
];

const COMMITTED: Committed<'static> = Committed {
    number: 7,
    created_seconds: 1.7e9,
    sweeps: 9,
    residual: 3e-7,
    tolerance: 1e-6,
    objective: 12.5,
    gap: Some(1e-6),
    rank: 64,
    effective_rank: 11,
    rank_binds: false,
    refused: None,
    warning: None,
    users: 3,
    items: 4,
    interactions: 5,
    phases: &[("solve", 0.25), ("commit", 0.01)],
    certified: true,
    interim: false,
};

/// One of everything that can happen.
fn eventful() -> Metrics {
    let metrics = Metrics::new(&ERRORS).unwrap();
    metrics.expect(&["factors", "receipts"], &["interactions"]);
    let all = [
        Happening::Events { kind: "interaction", outcome: "accepted", count: 41 },
        Happening::DeadLetter { error: "not_json", topic: "in", partition: 0, offset: 17 },
        Happening::Forget { status: "published", seconds_since_accept: 0.2, request_hash: "f00d" },
        Happening::Forget { status: "rejected", seconds_since_accept: 0.0, request_hash: "f00d" },
        Happening::Pending { stages: &[("accepted", 2), ("erased", 1)], oldest_seconds: 1.5 },
        Happening::Lag { topic: "in", partition: 0, records: 10 },
        Happening::Lag { topic: "in", partition: 1, records: 11 },
        Happening::EventAge { seconds: 0.3, count: 1000 },
        Happening::EventOldest { seconds: 2.5 },
        Happening::Objective { stage: "published", seconds: 300.0 },
        Happening::GenerationCommitted(COMMITTED),
        Happening::Published { topic: "factors", count: 6 },
        Happening::Outbox { records: 8 },
        Happening::StoreBytes { family: "interactions", bytes: 4096 },
        Happening::Disk { bytes: 1000, free: 250 },
        Happening::Ready { ready: true },
        Happening::SolverFailed { reason: "row 3" },
        Happening::PublishFailed { reason: "broker away" },
        Happening::Erased { files: 3, bytes: 700, seconds: 0.02 },
        Happening::TopicLooked { seconds: 0.2 },
        Happening::PurgeFailed { reason: "a snapshot is open" },
        Happening::Unpurged { oldest_seconds: 12.0 },
    ];
    all.iter().for_each(|happening| metrics.observe(happening));
    metrics
}

fn has(text: &str, line: &str) {
    assert!(text.lines().any(|known| known == line), "no line {line:?} in\n{text}");
}

#[test]
fn every_name_of_the_contract_is_there() {
    let text = eventful().render();
    for name in CONTRACT {
        assert!(text.contains(&format!("# TYPE {name} ")), "no {name}");
    }
    has(&text, &format!("nepenthe_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION")));
    if cfg!(target_os = "linux") {
        assert!(text.contains("process_resident_memory_bytes "));
    }
}

/// A rate over a few scrapes of whole seconds is nothing, or a peak that never was.
#[cfg(target_os = "linux")]
#[test]
fn processor_time_is_told_in_parts_of_a_second() {
    let metrics = eventful();
    let told = || {
        let text = metrics.render();
        let line = text.lines().find_map(|line| line.strip_prefix("process_cpu_seconds_total ")).unwrap();
        line.parse::<f64>().unwrap()
    };
    let (before, mut work) = (told(), 0u64);
    while told() - before < 0.01 {
        (0..1_000_000u64).for_each(|n| work = std::hint::black_box(work.wrapping_mul(31).wrapping_add(n)));
    }
    assert!(told().fract() > 0.0, "{before}");
}

#[cfg(target_os = "linux")]
#[test]
fn the_metrics_page_is_what_is_served() {
    crate::reference::hold("metrics.md", &crate::reference::metrics(&eventful().render()));
}

#[test]
fn closed_sets_begin_at_zero() {
    let metrics = Metrics::new(&ERRORS).unwrap();
    metrics.expect(&["receipts"], &["fences"]);
    let text = metrics.render();
    has(&text, "nepenthe_events_total{kind=\"empty\",outcome=\"ignored\"} 0");
    has(&text, "nepenthe_events_total{kind=\"forget\",outcome=\"duplicate_offset\"} 0");
    has(&text, "nepenthe_dead_letters_total{error=\"time_range\"} 0");
    has(&text, "nepenthe_forgets_total{status=\"purged\"} 0");
    has(&text, "nepenthe_forgets_pending{stage=\"unlearned\"} 0");
    has(&text, "nepenthe_forget_duration_seconds_count{stage=\"purged\"} 0");
    has(&text, "nepenthe_generation_duration_seconds_count{phase=\"publish\"} 0");
    has(&text, "nepenthe_published_records_total{topic=\"receipts\"} 0");
    has(&text, "nepenthe_store_bytes{family=\"fences\"} 0");
    has(&text, "nepenthe_purge_duration_seconds_count{phase=\"topic\"} 0");
    has(&text, "nepenthe_generation 0");
    has(&text, "nepenthe_ready 0");
    has(&text, "nepenthe_event_oldest_seconds 0");
}

#[test]
fn what_happens_is_counted() {
    let text = eventful().render();
    has(&text, "nepenthe_events_total{kind=\"interaction\",outcome=\"accepted\"} 41");
    has(&text, "nepenthe_dead_letters_total{error=\"not_json\"} 1");
    has(&text, "nepenthe_forgets_total{status=\"rejected\"} 1");
    has(&text, "nepenthe_purge_rewritten_bytes_total 700");
    has(&text, "nepenthe_purge_duration_seconds_count{phase=\"disk\"} 1");
    has(&text, "nepenthe_purge_failures_total 1");
    has(&text, "nepenthe_purge_oldest_seconds 12");
    has(&text, "nepenthe_forget_duration_seconds_bucket{stage=\"published\",le=\"0.1\"} 0");
    has(&text, "nepenthe_forget_duration_seconds_bucket{stage=\"published\",le=\"0.25\"} 1");
    has(&text, "nepenthe_forgets_pending{stage=\"accepted\"} 2");
    has(&text, "nepenthe_forget_oldest_seconds 1.5");
    has(&text, "nepenthe_consumer_lag_records{partition=\"1\",topic=\"in\"} 11");
    has(&text, "nepenthe_event_age_seconds_count 1000");
    has(&text, "nepenthe_event_age_seconds_bucket{le=\"86400\"} 1000");
    has(&text, "nepenthe_generations_total{certified=\"true\"} 1");
    has(&text, "nepenthe_generation 7");
    has(&text, "nepenthe_sweeps_total 9");
    has(&text, "nepenthe_residual 0.0000003");
    has(&text, "nepenthe_interactions 5");
    has(&text, "nepenthe_generation_duration_seconds_sum{phase=\"solve\"} 0.25");
    has(&text, "nepenthe_published_records_total{topic=\"factors\"} 6");
    has(&text, "nepenthe_outbox_records 8");
    has(&text, "nepenthe_store_bytes{family=\"interactions\"} 4096");
    has(&text, "nepenthe_event_oldest_seconds 2.5");
    has(&text, "nepenthe_forget_objective_seconds{stage=\"published\"} 300");
    has(&text, "nepenthe_store_disk_bytes 1000");
    has(&text, "nepenthe_store_disk_free_bytes 250");
    has(&text, "nepenthe_ready 1");
    has(&text, "nepenthe_solver_failures_total 1");
    has(&text, "nepenthe_publish_failures_total 1");
}

#[test]
fn a_stage_that_nobody_waits_at_goes_back_to_zero() {
    let metrics = eventful();
    metrics.observe(&Happening::Pending { stages: &[("published", 3)], oldest_seconds: 0.0 });
    let text = metrics.render();
    has(&text, "nepenthe_forgets_pending{stage=\"accepted\"} 0");
    has(&text, "nepenthe_forgets_pending{stage=\"published\"} 3");
}

#[test]
fn the_lag_of_a_partition_given_away_is_no_longer_told() {
    let metrics = eventful();
    let mine = [("in".to_owned(), 1)];
    metrics.observe(&Happening::Assigned { partitions: &mine });
    metrics.observe(&Happening::Assigned { partitions: &mine });
    let text = metrics.render();
    assert!(!text.contains("partition=\"0\""));
    has(&text, "nepenthe_consumer_lag_records{partition=\"1\",topic=\"in\"} 11");
}

/// Names of the labels of a sample line.
fn labels(line: &str) -> Vec<&str> {
    let Some((_, rest)) = line.split_once('{') else { return Vec::new() };
    rest.split(',').filter_map(|pair| pair.split_once('=')).map(|(name, _)| name).collect()
}

#[test]
fn names_units_and_labels_follow_the_rules() {
    let text = eventful().render();
    let mut typed = BTreeSet::new();
    for line in text.lines() {
        if let Some(declaration) = line.strip_prefix("# TYPE ") {
            let (name, kind) = declaration.split_once(' ').unwrap();
            assert!(typed.insert(name), "{name} is declared twice");
            let help =
                text.lines().find(|line| line.starts_with(&format!("# HELP {name} "))).unwrap_or_else(|| panic!("{name} has no help"));
            assert!(help.len() > name.len() + 12, "{name} says too little");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
            assert!(kind != "histogram" || name.ends_with("_seconds"), "{name} has no unit");
            assert!(
                !["_ms", "_millis", "_kb", "_minutes", "_percent"].iter().any(|unit| name.ends_with(unit)),
                "{name} is not in a base unit"
            );
        } else if !line.starts_with('#') && line.starts_with("nepenthe_") {
            let closed =
                ["kind", "outcome", "error", "topic", "partition", "status", "stage", "phase", "family", "version", "certified", "le"];
            assert!(labels(line).iter().all(|label| closed.contains(label)), "{line}");
            assert!(!line.contains("f00d") && !line.contains("\"17\""), "an identifier in {line}");
        }
    }
}

/// Prometheus' own linter: help, types, units, reserved names.
#[test]
fn a_scrape_passes_promtool() {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool, of the Debian package prometheus: run `make setup`");
    promtool.stdin.take().unwrap().write_all(eventful().render().as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let words = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && words.is_empty(), "{}", String::from_utf8_lossy(&words));
}

/// However many forgets, bad records and events there are, the series stay the same.
#[test]
fn what_comes_in_makes_no_series() {
    let metrics = eventful();
    let series = |text: &str| text.lines().filter(|line| !line.starts_with('#')).count();
    let before = series(&metrics.render());
    for n in 0..200 {
        let hash = format!("{n:016x}");
        metrics.observe(&Happening::Forget { status: "published", seconds_since_accept: f64::from(n), request_hash: &hash });
        metrics.observe(&Happening::DeadLetter { error: "not_json", topic: &hash, partition: n, offset: n.into() });
        metrics.observe(&Happening::GenerationCommitted(Committed { number: n as u64, ..COMMITTED }));
    }
    assert_eq!(series(&metrics.render()), before);
}

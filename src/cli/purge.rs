//! `nepenthe purge`: purges what is published while no service runs.

use std::sync::Arc;

use clap::Args;
use serde_json::json;

use super::output::{self, plural};
use super::reading::hash_key;
use super::{CliError, Exit, client_settings};
use crate::config::{Config, TopicProof};
use crate::kafka::admin::Prover;
use crate::model::fence::HashKey;
use crate::model::receipt::RequestKey;
use crate::run::now;
use crate::run::purger::{TopicOrder, Worker};
use crate::run::purging::{Cohort, purged_requests};
use crate::store::rocks::RocksStore;
use crate::store::tables::Tables;
use crate::store::{Erased, Store, StoreError};

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  nepenthe purge --state ./state
  nepenthe purge --set topics.purge_proof=none      the disk only

A running service purges by itself, every store.purge_interval; then this ends with exit code 3. Receipts of what was purged
here are sent when the service runs again.")]
pub struct PurgeArgs {
    /// JSON on stdout
    #[arg(long)]
    json: bool,
}

/// Makes the bytes of published forgets disappear and looks whether they did.
///
/// # Errors
/// Exit 1 when something is left, or the topic cannot be read; 3 when a service runs; 4 when the state is damaged.
pub fn run(config: &Config, args: &PurgeArgs) -> Result<(), CliError> {
    let (store, mut tables, key) = open(config)?;
    let keys: Vec<RequestKey> = tables.unpurged()?.into_iter().map(|(key, _)| key).collect();
    let cohort = Cohort::new(keys, tables.current()?.as_ref(), &tables)?;
    let mut worker = Worker::new(store, Prover::new(client_settings(config)?, config.topics.factors.clone()), key);
    let residue = tables.residue()?;
    let erased = output::patiently("writing the tables anew and looking at them", || worker.erase(&residue.ranges))?;
    if let Some(leftover) = &erased.leftover {
        return Err(CliError::failed(format!("{} is not clean: {leftover}; run it again", config.store.path.display())));
    }
    tables.commit_erased(residue.through)?;
    let names = config.purge.proof == TopicProof::Names;
    if config.purge.proof != TopicProof::None && !cohort.requests.is_empty() {
        let order = TopicOrder { need: cohort.target.clone(), upto: cohort.target.clone(), names, gone: tables.gone()? };
        let looked = output::patiently("reading the factors topic", || worker.look(&order));
        let left = looked.map_err(|e| e.to_string()).and_then(|found| found.covers(&cohort.target, cohort.generation, names));
        left.map_err(|left| {
            CliError::failed(format!(
                "the disk is clean, {} is not: {left}; {} not purged yet, try again later or let the service do it",
                config.topics.factors,
                plural(cohort.requests.len() as u64, "request")
            ))
        })?;
    }
    tables.commit_proven(cohort.generation)?;
    let requests = purged_requests(&tables, &cohort.requests, config.purge.proof, &config.keep, now())?;
    tables.commit_purged(&requests)?;
    report(&erased, requests.len() as u64, config.purge.proof, args.json)
}

fn open(config: &Config) -> Result<(Arc<dyn Store>, Tables, HashKey), CliError> {
    let path = &config.store.path;
    if !path.join("CURRENT").exists() {
        return Err(CliError::failed(format!("{} holds no state; name the service's [store] path", path.display())));
    }
    let store = RocksStore::open(path).map_err(|error| match error {
        StoreError::InUse { .. } => CliError::new(
            Exit::StateInUse,
            format!(
                "a service holds {}: it purges by itself every {:?} ([store] purge_interval); its status page tells what waits and why",
                path.display(),
                config.purge.interval
            ),
        ),
        error => error.into(),
    })?;
    let store: Arc<dyn Store> = Arc::new(store);
    let key = hash_key(&*store, config)?;
    Ok((store.clone(), Tables::new(store, config.model.objective, &key)?, key))
}

fn report(erased: &Erased, requests: u64, proof: TopicProof, json: bool) -> Result<(), CliError> {
    if json {
        let Erased { files, bytes, .. } = erased;
        return output::out_json(&json!({"purged": requests, "files": files, "bytes": bytes, "topic_proof": proof.name()}));
    }
    let topic = match proof {
        TopicProof::None => "the factors topic was not looked at",
        TopicProof::Rows => "the factors topic holds no replaced or removed row",
        TopicProof::Names => "the factors topic holds no replaced or removed row, and no tombstone",
    };
    let mib = erased.bytes as f64 / f64::from(1 << 20);
    output::out(&format!(
        "{} purged: {} of {mib:.1} MiB written anew; {topic}\n",
        plural(requests, "request"),
        plural(erased.files, "table file")
    ))
}

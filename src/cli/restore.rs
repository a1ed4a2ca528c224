//! `nepenthe restore`: a state directory from a backup, which forgets again what was forgotten since.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde_json::json;

use super::output::{self, plural};
use super::{CliError, Exit};
use crate::config::Config;
use crate::model::fence::HashKey;
use crate::run::backup::{DATA, Listing, MANIFEST_FILE, check, restore};
use crate::run::keys::{Missing, hash_key};
use crate::store::Store;
use crate::store::backups::Merged;
use crate::store::rocks::RocksStore;
use crate::store::tables::Tables;

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  nepenthe restore /backups/2026-11-25 --state ./state
  nepenthe restore /backups/2026-11-25 --check                          only compare every file with its hash
  nepenthe restore /backups/2026-11-25 --state ./new --ledger ./old     forgets that the topic no longer has, from the state
                                                                        that was, or from a later backup
Then start the service. It reads on from the offsets of the backup, and neither serves nor publishes before it has taken in every
forget that came since; /readyz says how far it is. If the forgets topic no longer has some of them it ends and says so. Its
first generation goes on above the numbers that were published, sends every row, and removes rows that only readers have.
Stages of requests since the backup are reached, and told, anew.")]
pub struct RestoreArgs {
    /// Directory of the backup
    backup: PathBuf,
    /// State directory or backup with a later ledger of the same installation: its forgets hold at once
    #[arg(long, value_name = "DIR", conflicts_with = "check")]
    ledger: Option<PathBuf>,
    /// Go on although forgets since the backup may be lost; what they forgot comes back
    #[arg(long, conflicts_with = "check")]
    without_later_forgets: bool,
    /// Change nothing
    #[arg(long)]
    check: bool,
    /// JSON on stdout
    #[arg(long)]
    json: bool,
}

/// Checks a backup, or makes the configuration's state directory from it.
///
/// # Errors
/// Exit 1 when something cannot be read or written, 2 for a state directory that is not empty and for another objective or
/// installation, 3 when it is in use, 4 for a damaged backup. The state directory is then as empty as it was.
pub fn run(config: &Config, args: &RestoreArgs) -> Result<(), CliError> {
    let bar = output::bytes_bar(0);
    let mut watch = |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    };
    if args.check {
        let listing = check(&args.backup, &mut watch);
        bar.finish_and_clear();
        return report_check(&listing?, args.json);
    }
    let (listing, merged) = restore(&args.backup, &config.store.path, &mut watch, |store| {
        bar.finish_and_clear();
        finish(config, args, store)
    })?;
    report(config, &listing, merged, args)
}

/// Makes what was copied a state that can be started.
fn finish(config: &Config, args: &RestoreArgs, store: Arc<dyn Store>) -> Result<Option<Merged>, CliError> {
    let key = hash_key(&*store, &config.store.path, Missing::Refused)?;
    let mut tables = Tables::new(store, config.model.objective, &key)?;
    tables.come_back(args.without_later_forgets)?;
    let Some(path) = &args.ledger else { return Ok(None) };
    let later = ledger(path, &key)?;
    let bar = output::spinner();
    let merged =
        tables.merge_ledger(&later, &key, |plays| bar.set_message(format!("{} held against the fences", plural(plays, "interaction"))));
    bar.finish_and_clear();
    Ok(Some(merged?))
}

/// The ledger of a state directory or of a backup.
///
/// # Errors
/// Exit 2 for one of another installation, or of a state that has not caught up itself.
fn ledger(path: &Path, key: &HashKey) -> Result<Tables, CliError> {
    let path = if path.join(MANIFEST_FILE).exists() { path.join(DATA) } else { path.to_owned() };
    let store: Arc<dyn Store> = Arc::new(RocksStore::read(&path)?);
    if hash_key(&*store, &path, Missing::Refused)?.check() != key.check() {
        return Err(CliError::usage(format!("{} is of another installation: its hash key differs", path.display())));
    }
    let tables = Tables::reading(store);
    if tables.comeback()?.is_some() {
        let text = format!("{} came from a backup itself and has not caught up: its ledger is not a later one", path.display());
        return Err(CliError::new(Exit::Usage, text));
    }
    Ok(tables)
}

fn report_check(listing: &Listing, json: bool) -> Result<(), CliError> {
    if json {
        let files = listing.files.len();
        return output::out_json(&json!({"ok": true, "taken": listing.taken, "files": files, "digest": listing.digest}));
    }
    let files = plural(listing.files.len() as u64, "file");
    output::out(&format!("the backup of {} is whole: {files}\ndigest {}\n", listing.taken, listing.digest))
}

fn report(config: &Config, listing: &Listing, merged: Option<Merged>, args: &RestoreArgs) -> Result<(), CliError> {
    let path = &config.store.path;
    if args.json {
        let merged = merged.map(|merged| json!({"requests": merged.requests, "rules": merged.rules, "interactions": merged.plays}));
        return output::out_json(&json!({
            "state": path, "taken": listing.taken, "generation": listing.generation, "ledger": merged,
            "without_later_forgets": args.without_later_forgets,
        }));
    }
    if let Some(Merged { requests, plays, .. }) = merged {
        let (requests, plays) = (plural(requests, "later request"), plural(plays, "interaction"));
        output::note(&format!("{requests} taken from the ledger, {plays} forgotten again"));
    }
    if args.without_later_forgets {
        output::warning("forgets that came after the backup and that no topic brings are not held against anything");
    }
    output::out(&format!("restored the backup of {} to {}; start the service and wait for /readyz\n", listing.taken, path.display()))
}

#[cfg(test)]
#[path = "restore_tests.rs"]
mod tests;

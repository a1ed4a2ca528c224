//! `nepenthe backup`: a copy of the state that a restore can start from.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::output::{self, plural};
use super::{CliError, Exit};
use crate::config::Config;
use crate::run::SIGNING_KEY_FILE;
use crate::run::backup::{BackupError, take};

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  nepenthe backup /backups/2026-11-25 --state ./state       whether or not the service runs
  nepenthe backup /backups/2026-11-25 --with-signing-key    a restored service then signs with the same key

The backup holds the files of the state as they were at one moment, the hash key without which they are of no use, and the public
keys of receipts. It is readable by its owner only; keep it so. It holds everything that was not forgotten by then: what is
forgotten later is in it until it is deleted, and receipts of purged requests say so.")]
pub struct BackupArgs {
    /// Directory of the backup; made, or empty
    to: PathBuf,
    /// Also the private key that signs receipts; else a restored service makes a new one
    #[arg(long)]
    with_signing_key: bool,
    /// JSON on stdout
    #[arg(long)]
    json: bool,
}

impl From<BackupError> for CliError {
    fn from(error: BackupError) -> CliError {
        match error {
            BackupError::Store(error) => error.into(),
            BackupError::NotEmpty(_) | BackupError::Within(_) => CliError::usage(error),
            BackupError::Damaged { .. } => CliError::new(Exit::StateDamaged, error),
            _ => CliError::failed(error),
        }
    }
}

/// Takes a backup of the configuration's state directory.
///
/// # Errors
/// Exit 1 when there is no state or it cannot be copied, 2 for a directory that is not empty, 4 for a damaged state.
pub fn run(config: &Config, args: &BackupArgs) -> Result<(), CliError> {
    let state = &config.store.path;
    let own = || config.receipts.signing_key.clone().unwrap_or_else(|| state.join(SIGNING_KEY_FILE));
    let signing_key = args.with_signing_key.then(own);
    let bar = output::bytes_bar(0);
    let taken = take(state, &args.to, signing_key.as_deref(), &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let listing = taken?;
    let bytes: u64 = listing.files.iter().map(|file| file.bytes).sum();
    if args.json {
        return output::out_json(&json!({
            "path": args.to, "taken": listing.taken, "generation": listing.generation, "files": listing.files.len(), "bytes": bytes,
            "digest": listing.digest,
        }));
    }
    let generation = listing.generation.map_or("before the first generation".to_owned(), |number| format!("at generation {number}"));
    let (files, mib) = (plural(listing.files.len() as u64, "file"), bytes as f64 / f64::from(1 << 20));
    output::out(&format!("backup of {} {generation}: {files}, {mib:.1} MiB\ndigest {}\n", listing.taken, listing.digest))
}

//! Backups: the files of a state as they are at one moment, its keys, and a list of both with their hashes.
//!
//! Without a service the state is opened under its lock. A running service is asked by a file in the state directory,
//! which only its owner can write: it answers with hard links to its files, made between two turns of the loop, and the
//! bytes are copied beside it. Whoever takes a backup holds a lock of its own; links without a living owner are removed.

mod desk;
mod files;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;

pub(super) use desk::Desk;
use desk::{ask, lock, sweep};
pub use files::{DATA, Entry, Listing, MANIFEST_FILE};
use files::{VERSION, absolute, digest, empty, file, listing, make, names, sync, transfer};

use super::keyring::KEYRING_FILE;
use super::keys::{HASH_KEY_FILE, random};
use super::{SIGNING_KEY_FILE, now};
use crate::model::Millis;
use crate::store::backups::{CHECKPOINT, note_backup};
use crate::store::rocks::{Held, LOCK_FILE, RocksStore, UNFINISHED, claim, hold, write_private};
use crate::store::rows::FORMAT;
use crate::store::tables::Tables;
use crate::store::{Store, StoreError};

/// Why there is no backup, or no state from one.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot {action} {}: {source}", path.display())]
    File { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{} is not empty; name a directory that is empty or not there yet", .0.display())]
    NotEmpty(PathBuf),
    #[error("{} is within the state directory; a backup belongs elsewhere", .0.display())]
    Within(PathBuf),
    #[error("another backup of this state is being taken; wait for it")]
    Busy,
    #[error("the service did not answer within two minutes; is it still starting, or of another version? Stop it, or try again")]
    NoAnswer,
    #[error("the service made no copy: {0}")]
    Refused(String),
    #[error("{} is no backup: {reason}", path.display())]
    NoBackup { path: PathBuf, reason: String },
    #[error("the backup is damaged: {file} {trouble}; use another one")]
    Damaged { file: String, trouble: &'static str },
}

/// Told how many bytes of how many are done.
pub type Watch<'w> = &'w mut dyn FnMut(u64, u64);

/// Takes a backup of `state` into `to`, with the key in `signing_key` if one is given. Answers the list of what it holds.
///
/// # Errors
/// [`BackupError`]; there is no backup in `to` then.
pub fn take(state: &Path, to: &Path, signing_key: Option<&Path>, watch: Watch<'_>) -> Result<Listing, BackupError> {
    empty(to, &[])?;
    if absolute(to)?.starts_with(absolute(state)?) {
        return Err(BackupError::Within(to.to_owned()));
    }
    if !state.join("CURRENT").exists() {
        // Says that there is no state, and makes none.
        hold(state)?;
    }
    let lock = lock(state)?.ok_or(BackupError::Busy)?;
    sweep(state)?;
    let copy = Copy::take(state)?;
    let made = copy.out(state, to, signing_key, watch);
    if made.is_err() {
        // What is half there would only be in the way.
        let _ = fs::remove_dir_all(to.join(DATA));
    }
    drop((copy, lock));
    made
}

/// Hard links to the files of a state as they were at one moment; removed when dropped.
struct Copy(PathBuf);

impl Copy {
    fn take(state: &Path) -> Result<Copy, BackupError> {
        let random = random().map_err(|source| file("read", Path::new("/dev/urandom"), source))?;
        let nonce: String = random[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        let copy = Copy(state.join(format!("{CHECKPOINT}{nonce}")));
        match hold(state) {
            Ok(held) => {
                let store: Arc<dyn Store> = Arc::new(RocksStore::open_held(state, held)?);
                back_up(&Tables::reading(store), &copy.0, now())?;
            }
            Err(StoreError::InUse { .. }) => ask(state, &nonce)?,
            Err(error) => return Err(error.into()),
        }
        Ok(copy)
    }

    /// Copies the bytes, hashes them, and lists them.
    fn out(&self, state: &Path, to: &Path, signing_key: Option<&Path>, watch: Watch<'_>) -> Result<Listing, BackupError> {
        let store: Arc<dyn Store> = Arc::new(RocksStore::read(&self.0)?);
        let tables = Tables::reading(store);
        let generation = tables.manifest()?.map(|manifest| manifest.generation);
        let taken = tables.backups(0)?.map_or(Timestamp::UNIX_EPOCH, |backups| backups.newest);
        drop(tables);
        let mut sources: Vec<(String, PathBuf)> = names(&self.0)?
            .into_iter()
            .filter(|name| !name.starts_with("LOG") && name != "LOCK")
            .map(|name| (name.clone(), self.0.join(name)))
            .collect();
        let keys = [HASH_KEY_FILE, KEYRING_FILE].map(|name| (name.to_owned(), state.join(name)));
        // A state that was never started signs nothing.
        sources.extend(keys.into_iter().filter(|(name, path)| name == HASH_KEY_FILE || path.exists()));
        sources.extend(signing_key.map(|path| (SIGNING_KEY_FILE.to_owned(), path.to_owned())));
        let size = |path: &Path| fs::metadata(path).map(|data| data.len()).map_err(|source| file("read", path, source));
        let total = sources.iter().map(|(_, path)| size(path)).sum::<Result<u64, _>>()?;
        make(to)?;
        make(&to.join(DATA))?;
        let (mut files, mut done) = (Vec::new(), 0);
        for (name, path) in sources {
            let entry = transfer(&path, Some(&to.join(DATA).join(&name)), name, &mut |bytes| watch(done + bytes, total))?;
            done += entry.bytes;
            files.push(entry);
        }
        files.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let (nepenthe, digest) = (env!("CARGO_PKG_VERSION").to_owned(), digest(&files));
        let listing = Listing { version: VERSION, nepenthe, state_format: FORMAT, taken, generation, files, digest };
        sync(&to.join(DATA))?;
        let list = to.join(MANIFEST_FILE);
        let text = serde_json::to_string_pretty(&listing).map_err(|error| file("write", &list, error.into()))?;
        write_private(&list, (text + "\n").as_bytes()).map_err(|source| file("write", &list, source))?;
        Ok(listing)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // The next backup, or the service, removes what is left.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Notes the backup in the state, and links its files into `to`.
///
/// # Errors
/// [`StoreError`], also for a state that came from a backup and has not caught up: it would be one without its forgets.
pub(super) fn back_up(tables: &Tables, to: &Path, now: Millis) -> Result<(), StoreError> {
    if tables.comeback()?.is_some() {
        let cause = "it came from a backup itself and has not caught up; let the service run first".to_owned();
        return Err(StoreError::Io { action: "back up", cause });
    }
    note_backup(&**tables.store(), now)?;
    tables.store().checkpoint(to)
}

/// Reads every file of a backup and compares it with the list.
///
/// # Errors
/// [`BackupError`] names the first file that differs, is missing, or does not belong there.
pub fn check(backup: &Path, watch: Watch<'_>) -> Result<Listing, BackupError> {
    let listing = listing(backup)?;
    compare(backup, &listing, None, watch)?;
    Ok(listing)
}

/// Makes the state directory `state` from a backup; `finish` makes the state in it one that can be started. Until that is
/// done the directory holds nothing that could be taken for a state.
///
/// # Errors
/// [`BackupError`], or what `finish` answers; `state` is empty then.
pub fn restore<T, E: From<BackupError>>(
    backup: &Path,
    state: &Path,
    watch: Watch<'_>,
    finish: impl FnOnce(Arc<dyn Store>) -> Result<T, E>,
) -> Result<(Listing, T), E> {
    let listing = listing(backup)?;
    empty(state, &[LOCK_FILE, "lost+found"])?;
    let held = claim(state).map_err(BackupError::from)?;
    let filled = fill(backup, state, &listing, held, watch).map_err(E::from).and_then(finish).and_then(|finished| {
        let mark = state.join(UNFINISHED);
        fs::remove_file(&mark).map_err(|source| file("remove", &mark, source))?;
        sync(state)?;
        Ok(finished)
    });
    if filled.is_err() {
        for name in names(state)?.into_iter().filter(|name| name != "lost+found") {
            let _ = fs::remove_file(state.join(name));
        }
    }
    filled.map(|finished| (listing, finished))
}

fn fill(backup: &Path, state: &Path, listing: &Listing, held: Held, watch: Watch<'_>) -> Result<Arc<dyn Store>, BackupError> {
    let mark = state.join(UNFINISHED);
    write_private(&mark, b"").map_err(|source| file("write", &mark, source))?;
    compare(backup, listing, Some(state), watch)?;
    sync(state)?;
    Ok(Arc::new(RocksStore::open_unfinished(state, held)?))
}

/// Reads all files, copies them if there is somewhere to, and compares them with the list.
fn compare(backup: &Path, listing: &Listing, to: Option<&Path>, watch: Watch<'_>) -> Result<(), BackupError> {
    let data = backup.join(DATA);
    let foreign = names(&data)?.into_iter().find(|name| !listing.files.iter().any(|entry| entry.name == *name));
    if let Some(file) = foreign {
        return Err(BackupError::Damaged { file, trouble: "is not in its list" });
    }
    let (mut done, total) = (0, listing.files.iter().map(|entry| entry.bytes).sum());
    for entry in &listing.files {
        let target = to.map(|to| to.join(&entry.name));
        let found = transfer(&data.join(&entry.name), target.as_deref(), entry.name.clone(), &mut |bytes| watch(done + bytes, total))?;
        if found != *entry {
            return Err(BackupError::Damaged { file: entry.name.clone(), trouble: "is not what its hash says" });
        }
        done += entry.bytes;
    }
    Ok(())
}

#[cfg(test)]
#[path = "backup_tests.rs"]
mod tests;

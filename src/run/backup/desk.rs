//! How a running service is asked for a copy: by a file in the state directory, which only its owner can write.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::BackupError;
use super::files::{file, names};
use crate::model::Millis;
use crate::run::now;
use crate::store::StoreError;
use crate::store::backups::CHECKPOINT;
use crate::store::rocks::write_private;

const REQUEST: &str = "backup-request";
const ANSWER: &str = "backup-answer";
/// Held by whoever takes a backup.
const LOCK: &str = "backup.lock";
/// How long a service may take to answer: it is asked between two turns.
const PATIENCE: Millis = 120_000;
const LOOK: Duration = Duration::from_millis(50);

#[derive(Serialize, Deserialize)]
struct Answer {
    nonce: String,
    refused: Option<String>,
}

/// Asks the running service for a copy, and waits for it.
pub(super) fn ask(state: &Path, nonce: &str) -> Result<(), BackupError> {
    let (request, answer) = (state.join(REQUEST), state.join(ANSWER));
    write_private(&request, nonce.as_bytes()).map_err(|source| file("write", &request, source))?;
    let began = now();
    while now() - began < PATIENCE {
        let text = fs::read_to_string(&answer).unwrap_or_default();
        match serde_json::from_str::<Answer>(&text).ok().filter(|answer| answer.nonce == nonce) {
            Some(Answer { refused: None, .. }) => return Ok(()),
            Some(Answer { refused: Some(reason), .. }) => return Err(BackupError::Refused(reason)),
            None => std::thread::sleep(LOOK),
        }
    }
    let _ = fs::remove_file(&request);
    Err(BackupError::NoAnswer)
}

/// Where a running service looks whether somebody wants a backup.
pub(in crate::run) struct Desk {
    state: PathBuf,
}

impl Desk {
    /// Removes what a backup left that did not end well.
    pub(in crate::run) fn open(state: &Path) -> Desk {
        let desk = Desk { state: state.to_owned() };
        desk.tidy();
        desk
    }

    /// Answers a request, if there is one; `copy` links the files.
    pub(in crate::run) fn serve(&self, copy: impl FnOnce(&Path) -> Result<(), StoreError>) {
        let request = self.state.join(REQUEST);
        let Ok(nonce) = fs::read_to_string(&request) else { return };
        let _ = fs::remove_file(&request);
        if nonce.len() != 16 || !nonce.bytes().all(|byte| byte.is_ascii_hexdigit()) || self.tidy() {
            tracing::warn!("a request for a backup has no owner any more");
            return;
        }
        let refused = copy(&self.state.join(format!("{CHECKPOINT}{nonce}"))).err().map(|error| error.to_string());
        match &refused {
            None => tracing::info!("a backup is being taken"),
            Some(reason) => tracing::warn!(reason, "no copy for a backup"),
        }
        let answer = serde_json::to_string(&Answer { nonce, refused }).unwrap_or_default();
        if let Err(error) = write_private(&self.state.join(ANSWER), answer.as_bytes()) {
            tracing::warn!(%error, "whoever takes the backup cannot be answered");
        }
    }

    /// Removes copies that nobody owns; true when nobody takes a backup.
    pub(in crate::run) fn tidy(&self) -> bool {
        match lock(&self.state) {
            Ok(Some(_lock)) => {
                if let Err(error) = sweep(&self.state) {
                    tracing::warn!(%error, "what a backup left cannot be removed");
                }
                true
            }
            _ => false,
        }
    }
}

/// The lock of whoever takes a backup; `None` when somebody has it.
pub(super) fn lock(state: &Path) -> Result<Option<File>, BackupError> {
    let path = state.join(LOCK);
    let open = File::options().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let lock = open.map_err(|source| file("lock", &path, source))?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(source)) => Err(file("lock", &path, source)),
    }
}

/// Removes copies that were left; whoever calls has the lock.
pub(super) fn sweep(state: &Path) -> Result<(), BackupError> {
    for name in names(state)?.into_iter().filter(|name| name.starts_with(CHECKPOINT)) {
        let path = state.join(name);
        fs::remove_dir_all(&path).map_err(|source| file("remove", &path, source))?;
    }
    Ok(())
}

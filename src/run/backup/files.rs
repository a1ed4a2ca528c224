//! The files of a backup and the list of them.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::BackupError;
use crate::store::rocks::{LOCK_FILE, UNFINISHED};

/// The list, written last: a directory without it is no backup.
pub const MANIFEST_FILE: &str = "backup.json";
/// The files of the state are in this directory of a backup.
pub const DATA: &str = "state";
pub(super) const VERSION: u32 = 1;

/// One file of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub name: String,
    pub bytes: u64,
    /// BLAKE3 of its bytes, hex.
    pub blake3: String,
}

/// What a backup holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    pub version: u32,
    /// Which version of nepenthe took it, and the format of the state in it.
    pub nepenthe: String,
    pub state_format: u8,
    pub taken: Timestamp,
    pub generation: Option<u64>,
    pub files: Vec<Entry>,
    /// BLAKE3 over names, sizes and hashes of all files: enough to compare two backups by.
    pub digest: String,
}

/// Reads the list of a backup.
///
/// # Errors
/// [`BackupError::NoBackup`] when there is none, or one of another version.
pub(super) fn listing(backup: &Path) -> Result<Listing, BackupError> {
    let refused = |reason: String| BackupError::NoBackup { path: backup.to_owned(), reason };
    let text = fs::read_to_string(backup.join(MANIFEST_FILE)).map_err(|error| match error.kind() {
        ErrorKind::NotFound => refused(format!("it has no {MANIFEST_FILE}; was it finished?")),
        _ => file("read", &backup.join(MANIFEST_FILE), error),
    })?;
    let listing: Listing = serde_json::from_str(&text).map_err(|error| refused(format!("{MANIFEST_FILE}: {error}")))?;
    if listing.version != VERSION {
        return Err(refused(format!("it has version {}, this version of nepenthe reads {VERSION}", listing.version)));
    }
    let plain = |entry: &&Entry| !entry.name.contains(['/', '\\']) && ![".", "..", "", LOCK_FILE, UNFINISHED].contains(&&*entry.name);
    if listing.files.iter().filter(plain).count() != listing.files.len() || digest(&listing.files) != listing.digest {
        return Err(BackupError::Damaged { file: MANIFEST_FILE.to_owned(), trouble: "is not what its digest says" });
    }
    Ok(listing)
}

/// Reads a file, writes it to `to` (mode 0600, synced) if there is one, and hashes it on the way.
pub(super) fn transfer(from: &Path, to: Option<&Path>, name: String, progress: &mut dyn FnMut(u64)) -> Result<Entry, BackupError> {
    let mut source = File::open(from).map_err(|source| file("read", from, source))?;
    let write = |path: &Path| {
        let made = File::options().write(true).create_new(true).mode(0o600).open(path);
        made.map_err(|source| file("write", path, source))
    };
    let mut target = to.map(write).transpose()?;
    let (mut hasher, mut bytes, mut buffer) = (blake3::Hasher::new(), 0, vec![0; 1 << 20]);
    loop {
        let n = source.read(&mut buffer).map_err(|source| file("read", from, source))?;
        if n == 0 {
            break;
        }
        hasher.update(&buffer[..n]);
        if let (Some(target), Some(path)) = (&mut target, to) {
            target.write_all(&buffer[..n]).map_err(|source| file("write", path, source))?;
        }
        bytes += n as u64;
        progress(bytes);
    }
    if let (Some(target), Some(path)) = (&target, to) {
        target.sync_all().map_err(|source| file("write", path, source))?;
    }
    Ok(Entry { name, bytes, blake3: hasher.finalize().to_hex().to_string() })
}

pub(super) fn digest(files: &[Entry]) -> String {
    let mut hasher = blake3::Hasher::new();
    for Entry { name, bytes, blake3 } in files {
        hasher.update(format!("{name}\n{bytes}\n{blake3}\n").as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

/// # Errors
/// [`BackupError::NotEmpty`] when there is more in it than what is allowed to be.
pub(super) fn empty(path: &Path, but: &[&str]) -> Result<(), BackupError> {
    if path.exists() && names(path)?.iter().any(|name| !but.contains(&name.as_str())) {
        return Err(BackupError::NotEmpty(path.to_owned()));
    }
    Ok(())
}

pub(super) fn names(path: &Path) -> Result<Vec<String>, BackupError> {
    let unread = |source| file("list", path, source);
    let entries = fs::read_dir(path).map_err(unread)?;
    let names = entries.map(|entry| Ok(entry.map_err(unread)?.file_name().to_string_lossy().into_owned()));
    let mut names = names.collect::<Result<Vec<String>, BackupError>>()?;
    names.sort_unstable();
    Ok(names)
}

pub(super) fn make(path: &Path) -> Result<(), BackupError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|source| file("make", path, source))
}

pub(super) fn sync(folder: &Path) -> Result<(), BackupError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|source| file("sync", folder, source))
}

/// Of the part that exists.
pub(super) fn absolute(path: &Path) -> Result<PathBuf, BackupError> {
    match path.canonicalize() {
        Ok(path) => Ok(path),
        Err(_) => std::path::absolute(path).map_err(|source| file("find", path, source)),
    }
}

pub(super) fn file(action: &'static str, path: &Path, source: std::io::Error) -> BackupError {
    BackupError::File { action, path: path.to_owned(), source }
}

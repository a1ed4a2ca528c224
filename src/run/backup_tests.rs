//! Backups on a real RocksDB: with and without somebody who holds the state, whole, torn, and brought back.

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::model::Objective;
use crate::run::keyring::Keyring;
use crate::run::keys::{Missing, Signer, hash_key};
use crate::store::{Batch, Family};

/// A state with its keys and some rows.
fn state(path: &Path) -> Arc<dyn Store> {
    let store: Arc<dyn Store> = Arc::new(RocksStore::open(path).unwrap());
    let key = hash_key(&*store, path, Missing::Made).unwrap();
    Tables::new(store.clone(), Objective::Implicit, &key).unwrap();
    let signer = Signer::open(&path.join(SIGNING_KEY_FILE)).unwrap();
    Keyring::kept(path, &signer.public(), 1).unwrap();
    let mut batch = Batch::default();
    (0u32..3_000).for_each(|n| batch.put(Family::Identities, &n.to_be_bytes(), format!("{n} is somebody").as_bytes()));
    store.write(&batch).unwrap();
    store
}

fn rows(store: &dyn Store) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut rows = Vec::new();
    store
        .scan(Family::Identities, b"", None, &mut |key, value| {
            rows.push((key.to_vec(), value.to_vec()));
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    rows
}

fn quiet() -> impl FnMut(u64, u64) {
    |done, total| assert!(done <= total)
}

fn brought_back(backup: &Path, to: &Path) -> Result<Arc<dyn Store>, BackupError> {
    restore(backup, to, &mut quiet(), Ok::<_, BackupError>).map(|(_, store)| store)
}

#[test]
fn a_backup_is_private_and_whole_and_comes_back_with_its_keys() {
    let dir = tempfile::tempdir().unwrap();
    let [from, to, back] = ["from", "to", "back"].map(|name| dir.path().join(name));
    let before = rows(&*state(&from));
    let own = from.join(SIGNING_KEY_FILE);
    let listing = take(&from, &to, Some(&own), &mut quiet()).unwrap();
    assert_eq!(check(&to, &mut quiet()).unwrap(), listing);
    assert!(listing.taken.as_millisecond() > 0 && listing.generation.is_none());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&to), mode(&to.join(DATA)), mode(&to.join(MANIFEST_FILE))), (0o700, 0o700, 0o600));
    for name in names(&to.join(DATA)).unwrap() {
        assert_eq!(mode(&to.join(DATA).join(&name)), 0o600, "{name}");
    }
    assert!(!names(&from).unwrap().iter().any(|name| name.starts_with(CHECKPOINT)), "nothing is left of the copy");
    let store = brought_back(&to, &back).unwrap();
    assert_eq!(rows(&*store), before);
    for name in [HASH_KEY_FILE, KEYRING_FILE, SIGNING_KEY_FILE] {
        assert_eq!(fs::read(back.join(name)).unwrap(), fs::read(from.join(name)).unwrap(), "{name}");
    }
    assert_eq!(mode(&back), 0o700);
    let known = |store: Arc<dyn Store>| Tables::reading(store).backups(0).unwrap().map(|backups| (backups.count, backups.newest));
    assert_eq!(known(store.clone()), Some((1, listing.taken)), "a backup knows of itself");
    assert!(matches!(brought_back(&to, &back), Err(BackupError::NotEmpty(_))));
    let without = take(&from, &dir.path().join("second"), None, &mut quiet()).unwrap();
    assert!(!without.files.iter().any(|file| file.name == SIGNING_KEY_FILE));
    assert_eq!(known(Arc::new(RocksStore::read(&from).unwrap())).unwrap().0, 2);
}

#[test]
fn a_running_service_is_asked_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let [from, to] = ["from", "to"].map(|name| dir.path().join(name));
    let store = state(&from);
    let stale = from.join(format!("{CHECKPOINT}0123456789abcdef"));
    fs::create_dir(&stale).unwrap();
    let desk = Desk::open(&from);
    assert!(!stale.exists(), "what a backup left that did not end well");
    fs::write(from.join("backup-request"), "0123456789abcdef").unwrap();
    desk.serve(|_| unreachable!("nobody waits for it any more"));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let service = scope.spawn(|| {
            let tables = Tables::reading(store.clone());
            let mut served = 0;
            while !done.load(Ordering::Relaxed) {
                desk.serve(|copy| {
                    served += 1;
                    back_up(&tables, copy, 1_000 + served)
                });
                std::thread::yield_now();
            }
            served
        });
        let listing = take(&from, &to, None, &mut quiet());
        // One that came from a backup and has not caught up is not backed up.
        let mut tables = Tables::new(store.clone(), Objective::Implicit, &hash_key(&*store, &from, Missing::Refused).unwrap()).unwrap();
        tables.come_back(false).unwrap();
        let refused = take(&from, &dir.path().join("refused"), None, &mut quiet());
        done.store(true, Ordering::Relaxed);
        assert_eq!(service.join().unwrap(), 2);
        assert_eq!(listing.unwrap().taken, crate::model::receipt::instant(1_001));
        assert!(refused.unwrap_err().to_string().contains("has not caught up"));
    });
    drop(store);
    assert_eq!(rows(&*brought_back(&to, &dir.path().join("back")).unwrap()).len(), 3_000);
}

#[test]
fn what_cannot_be_a_backup_is_refused_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let [from, to, back] = ["from", "to", "back"].map(|name| dir.path().join(name));
    assert!(matches!(take(&from, &to, None, &mut quiet()), Err(BackupError::Store(StoreError::Io { .. }))));
    assert!(!from.exists() && !to.exists());
    drop(state(&from));
    assert!(matches!(take(&from, &from.join("in"), None, &mut quiet()), Err(BackupError::Within(_))));
    fs::create_dir(&to).unwrap();
    fs::write(to.join("mine"), "").unwrap();
    assert!(matches!(take(&from, &to, None, &mut quiet()), Err(BackupError::NotEmpty(_))));
    assert!(matches!(brought_back(&to, &back), Err(BackupError::NoBackup { .. })));
    fs::remove_file(to.join("mine")).unwrap();
    let held = lock(&from).unwrap();
    assert!(matches!(take(&from, &to, None, &mut quiet()), Err(BackupError::Busy)));
    drop(held);
    take(&from, &to, None, &mut quiet()).unwrap();
}

#[test]
fn a_damaged_backup_leaves_the_target_empty() {
    let dir = tempfile::tempdir().unwrap();
    let [from, to, back] = ["from", "to", "back"].map(|name| dir.path().join(name));
    drop(state(&from));
    let listing = take(&from, &to, None, &mut quiet()).unwrap();
    let table = listing.files.iter().find(|file| file.name.ends_with(".sst")).unwrap().name.clone();
    let path = to.join(DATA).join(&table);
    let bytes = fs::read(&path).unwrap();
    let damaged = |file: &str| {
        for found in [check(&to, &mut quiet()).map(drop), brought_back(&to, &back).map(drop)] {
            let error = found.unwrap_err();
            assert!(matches!(&error, BackupError::Damaged { file: named, .. } if named == file), "{error}");
        }
        assert_eq!(names(&back).unwrap_or_default(), [""; 0]);
    };
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 1;
    fs::write(&path, flipped).unwrap();
    damaged(&table);
    fs::write(&path, &bytes[1..]).unwrap();
    damaged(&table);
    fs::write(&path, &bytes).unwrap();
    fs::write(to.join(DATA).join("000999.sst"), b"").unwrap();
    damaged("000999.sst");
    fs::remove_file(to.join(DATA).join("000999.sst")).unwrap();
    let list = fs::read_to_string(to.join(MANIFEST_FILE)).unwrap();
    fs::write(to.join(MANIFEST_FILE), list.replace(&table, "../evil")).unwrap();
    damaged(MANIFEST_FILE);
    fs::write(to.join(MANIFEST_FILE), list.replace("\"version\": 1", "\"version\": 2")).unwrap();
    assert!(matches!(check(&to, &mut quiet()), Err(BackupError::NoBackup { .. })));
    fs::write(to.join(MANIFEST_FILE), list).unwrap();
    assert!(brought_back(&to, &back).is_ok());
}

#[test]
fn a_restore_that_was_cut_short_is_no_state() {
    let dir = tempfile::tempdir().unwrap();
    let [from, to, back] = ["from", "to", "back"].map(|name| dir.path().join(name));
    drop(state(&from));
    take(&from, &to, None, &mut quiet()).unwrap();
    // A copy of the directory as it is before the last step.
    let half = dir.path().join("half");
    restore(&to, &back, &mut quiet(), |store| {
        fs::create_dir(&half).unwrap();
        for name in names(&back).unwrap() {
            let _ = fs::copy(back.join(&name), half.join(&name));
        }
        drop(store);
        Ok::<_, BackupError>(())
    })
    .unwrap();
    for error in [RocksStore::open(&half).err().unwrap(), RocksStore::read(&half).err().unwrap()] {
        assert!(matches!(&error, StoreError::Damaged { detail, .. } if detail.contains("not finished")), "{error}");
    }
    assert!(RocksStore::open(&back).is_ok());
}

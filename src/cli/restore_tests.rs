//! `nepenthe backup` and `restore` on a state with a published generation.

use clap::Parser;

use super::*;
use crate::cli::backup::{self, BackupArgs};
use crate::cli::state_tests::{Written, config, published};
use crate::cli::{Cli, Command, reading};
use crate::model::factors::Side;
use crate::store::rocks::secret;

fn args(words: &str) -> RestoreArgs {
    match Cli::try_parse_from(["nepenthe", "restore"].into_iter().chain(words.split_whitespace())).unwrap().command {
        Command::Restore(args) => args,
        other => unreachable!("{other:?}"),
    }
}

fn backup_to(path: &Path) -> BackupArgs {
    match Cli::try_parse_from(["nepenthe", "backup", path.to_str().unwrap()]).unwrap().command {
        Command::Backup(args) => args,
        other => unreachable!("{other:?}"),
    }
}

#[test]
fn a_restored_state_shows_its_model_to_nobody_until_it_has_caught_up() {
    let dir = tempfile::tempdir().unwrap();
    let [old, new, to] = ["old", "new", "to"].map(|name| dir.path().join(name));
    let (before, after) = (config(&old, &[]), config(&new, &[]));
    published(&before, 20);
    backup::run(&before, &backup_to(&to)).unwrap();
    run(&after, &args(&format!("{} --check", to.display()))).unwrap();
    assert!(!new.exists(), "a check makes nothing");
    run(&after, &args(&to.display().to_string())).unwrap();
    assert!(reading::serving(&before).is_ok());
    let error = reading::serving(&after).err().unwrap();
    assert!(error.exit == Exit::Failed && error.message.contains("not caught up"), "{error}");
    assert!(reading::state(&after).unwrap().tables.comeback().unwrap().is_some());
    let again = run(&after, &args(&to.display().to_string())).unwrap_err();
    assert_eq!(again.exit, Exit::Usage, "not empty: {again}");
    let error = backup::run(&after, &backup_to(&dir.path().join("of a backup"))).unwrap_err();
    assert!(error.message.contains("has not caught up"), "{error}");
}

#[test]
fn a_later_ledger_forgets_at_once_and_only_that_of_the_same_installation() {
    let dir = tempfile::tempdir().unwrap();
    let [old, new, to, foreign] = ["old", "new", "to", "foreign"].map(|name| dir.path().join(name));
    let before = config(&old, &[]);
    published(&before, 20);
    backup::run(&before, &backup_to(&to)).unwrap();
    let mut written = Written::open(&before);
    written.take(&before.topics.forgets, &[r#"{"request_id":"r","user":"u7","time":900000}"#.to_owned()]);
    drop(written);
    let people = |config: &Config| {
        let written = Written::open(config);
        let number = |user| written.state.dictionary().get(Side::User, user);
        ["u7", "u8"].map(|user| number(user).is_some_and(|number| written.state.ratings().users.degree(number as usize) > 0))
    };
    // Another installation has another key, and nothing is left of what was begun.
    std::fs::create_dir(&foreign).unwrap();
    secret(&foreign.join("hash.key"), || Ok([1; 32])).unwrap();
    let elsewhere = config(&foreign, &[]);
    published(&elsewhere, 3);
    let words = |ledger: &Path| args(&format!("{} --ledger {}", to.display(), ledger.display()));
    let error = run(&config(&new, &[]), &words(&foreign)).unwrap_err();
    assert!(error.exit == Exit::Usage && error.message.contains("another installation"), "{error}");
    assert_eq!(std::fs::read_dir(&new).unwrap().count(), 0);
    run(&config(&new, &[]), &words(&old)).unwrap();
    assert_eq!(people(&config(&new, &[])), [false, true]);
    let plain = config(&dir.path().join("plain"), &[]);
    run(&plain, &args(&to.display().to_string())).unwrap();
    assert_eq!(people(&plain), [true, true], "the backup itself knows nothing of it");
}

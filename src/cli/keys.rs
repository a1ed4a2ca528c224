//! `nepenthe keys`: the public keys of an installation, and a new signing key.

use clap::{Args, Subcommand};

use super::CliError;
use super::output::{self, Stream, Table, Tone, colour};
use super::reading;
use crate::config::Config;
use crate::run::keyring::{Keyring, PublicKey};
use crate::run::keys::Signer;
use crate::run::{SIGNING_KEY_FILE, now};
use crate::store::rocks::RocksStore;

#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "\
Examples:
  nepenthe keys                                  a table
  nepenthe keys --json > keys.json               the same as /v1/keys, for `nepenthe receipt verify --keys`
  nepenthe keys --pem 0123456789abcdef           one key as openssl reads it
  nepenthe keys rotate                           a new signing key; stop the service first")]
pub struct KeysArgs {
    /// JSON on stdout
    #[arg(long)]
    json: bool,
    /// Only this key, as a PEM public key
    #[arg(long, value_name = "KEY_ID", conflicts_with = "json")]
    pem: Option<String>,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Clone, Subcommand)]
enum Action {
    /// Put a new signing key in the place of the present one; receipts signed so far stay verifiable
    #[command(after_help = "\
Examples:
  nepenthe keys rotate --state ./state
  nepenthe keys rotate --json

The service must not run; with exit code 3 it does.")]
    Rotate {
        /// The keys as JSON on stdout
        #[arg(long)]
        json: bool,
    },
}

/// Lists the keys of the state directory, or rotates them.
///
/// # Errors
/// Exit 1 without a state or for a key that is not listed, 3 for a rotation while the service runs, 4 for a damaged list.
pub fn run(config: &Config, args: &KeysArgs) -> Result<(), CliError> {
    if let Some(Action::Rotate { json }) = args.action {
        return rotate(config, json);
    }
    let keyring = known(config)?;
    if let Some(key_id) = &args.pem {
        let unknown = || CliError::failed(format!("there is no key {key_id}; `nepenthe keys` lists those that are"));
        return output::out(&keyring.find(key_id).and_then(PublicKey::to_pem).ok_or_else(unknown)?);
    }
    print(&keyring, args.json)
}

/// The keyring of the state directory.
///
/// # Errors
/// Exit 1 when the service has never been started on it.
pub fn known(config: &Config) -> Result<Keyring, CliError> {
    let keyring = Keyring::read(&config.store.path)?;
    if keyring.keys.is_empty() {
        // Says more than "no keys" where there is no state at all.
        reading::state(config)?;
        return Err(CliError::failed("the state has no keys yet: they are listed at the first start of this version"));
    }
    Ok(keyring)
}

/// The lock of the store keeps a running service from signing with a key that is no longer listed as the present one.
fn rotate(config: &Config, json: bool) -> Result<(), CliError> {
    let state = &config.store.path;
    let store = RocksStore::open(state)?;
    let path = config.receipts.signing_key.clone().unwrap_or_else(|| state.join(SIGNING_KEY_FILE));
    // The old one is listed before it goes, else its receipts could not be verified any more.
    let old = Signer::open(&path)?;
    Keyring::kept(state, &old.public(), now())?;
    let new = Signer::renew(&path)?;
    let keyring = Keyring::kept(state, &new.public(), now())?;
    drop(store);
    output::note(&format!("{} signs from the next start on; {} stays listed for what it signed", new.key_id(), old.key_id()));
    print(&keyring, json)
}

fn print(keyring: &Keyring, json: bool) -> Result<(), CliError> {
    if json { output::out_json(&keyring.to_json()) } else { output::out(&screen(keyring)) }
}

fn screen(keyring: &Keyring) -> String {
    let mut table = Table::new(&["key", "signs from", "until", "public key (Ed25519, base64)"]);
    for key in &keyring.keys {
        let until = key.until.map_or("now".to_owned(), |until| until.to_string());
        let tone = if key.until.is_none() { Tone::Good } else { Tone::Faint };
        table.row([
            (key.key_id.clone(), Tone::Strong),
            (key.from.to_string(), Tone::Plain),
            (until, tone),
            (key.public_key.clone(), Tone::Plain),
        ]);
    }
    table.render(colour(Stream::Out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Exit;
    use crate::config::Sources;

    fn config(state: &std::path::Path) -> Config {
        let overrides = vec![("store.path".to_owned(), state.display().to_string())];
        Config::load(&Sources { overrides, ..Sources::default() }).unwrap()
    }

    #[test]
    fn a_rotation_keeps_the_old_key_and_waits_for_the_service_to_stop() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(&dir.path().join("state"));
        assert_eq!(known(&config).unwrap_err().exit, Exit::Failed, "no state");
        let store = RocksStore::open(&config.store.path).unwrap();
        let old = Signer::open(&config.store.path.join(SIGNING_KEY_FILE)).unwrap();
        let signature = old.sign(b"receipt");
        assert_eq!(rotate(&config, false).unwrap_err().exit, Exit::StateInUse);
        drop(store);
        rotate(&config, true).unwrap();
        let keyring = known(&config).unwrap();
        let new = Signer::open(&config.store.path.join(SIGNING_KEY_FILE)).unwrap();
        let ids: Vec<&str> = keyring.keys.iter().map(|key| &*key.key_id).collect();
        assert_eq!(ids, [old.key_id(), new.key_id()]);
        assert_ne!(old.key_id(), new.key_id());
        assert_eq!(keyring.verify(old.key_id(), b"receipt", signature.as_bytes()), Ok(()));
        let shown = screen(&keyring);
        assert!(ids.iter().all(|id| shown.contains(id)), "{shown}");
    }
}

//! Keys of an installation: the hash key beside the state, in a file of its own, and the key that signs receipts.

use std::io::Read;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer as _, SigningKey};

use crate::model::fence::HashKey;
use crate::run::keyring::key_id;
use crate::store::rocks::{secret, write_private};
use crate::store::tables::key_check;
use crate::store::{Store, StoreError};

/// File of the hash key in the state directory.
pub const HASH_KEY_FILE: &str = "hash.key";

/// What to do about a state directory without a hash key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// A new state gets one.
    Made,
    Refused,
}

/// The key of all keyed hashes in a state: fences, event ids, requests. A state that was made with a key opens with no other,
/// and never gets a new one.
///
/// # Errors
/// [`StoreError::HashKey`] when it is missing or another, [`StoreError::Damaged`] when the file holds no key; nothing is
/// written then.
pub fn hash_key(store: &dyn Store, state: &Path, missing: Missing) -> Result<HashKey, StoreError> {
    let path = state.join(HASH_KEY_FILE);
    let refused = |trouble| StoreError::HashKey { path: path.display().to_string(), trouble };
    let check = key_check(store)?;
    if !path.exists() && (check.is_some() || missing == Missing::Refused) {
        return Err(refused("missing"));
    }
    let key = HashKey::new(secret(&path, random)?);
    if check.is_some_and(|check| check != key.check()) {
        return Err(refused("not the one that the state was made with"));
    }
    Ok(key)
}

/// DER of an Ed25519 private key (RFC 8410) up to its 32 bytes.
const PKCS8: [u8; 16] = [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// PEM label of a key in PKCS#8.
const LABEL: &str = "PRIVATE KEY";

/// Signs receipts with Ed25519.
#[derive(Clone)]
pub struct Signer {
    key: SigningKey,
    key_id: String,
}

impl Signer {
    /// Reads the key from a PKCS#8 PEM file, or makes it there (mode 0600).
    ///
    /// # Errors
    /// [`StoreError`] when the file cannot be read or made, or holds something else.
    pub fn open(path: &Path) -> Result<Signer, StoreError> {
        let seed = if path.exists() { read(path)? } else { make(path)? };
        let key = SigningKey::from_bytes(&seed);
        let key_id = key_id(key.verifying_key().as_bytes());
        Ok(Signer { key, key_id })
    }

    /// Puts a new key in the place of the one in `path`. Receipts that the old one signed stay verifiable with its public
    /// part; nothing more is ever signed with it.
    ///
    /// # Errors
    /// [`StoreError`] when the file cannot be made; the old key is then still there.
    pub fn renew(path: &Path) -> Result<Signer, StoreError> {
        make(path)?;
        Signer::open(path)
    }

    /// Base64 of the signature over `value`.
    pub fn sign(&self, value: &[u8]) -> String {
        STANDARD.encode(self.key.sign(value).to_bytes())
    }

    /// First 16 hex digits of BLAKE3 of the public key.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The public key, 32 bytes.
    pub fn public(&self) -> [u8; 32] {
        self.key.verifying_key().to_bytes()
    }
}

/// 32 bytes from the kernel.
///
/// # Errors
/// Whatever reading `/dev/urandom` answers.
pub fn random() -> std::io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn make(path: &Path) -> Result<[u8; 32], StoreError> {
    let failed = |e: std::io::Error| StoreError::Io { action: "make the signing key of", cause: format!("{}: {e}", path.display()) };
    let seed = random().map_err(failed)?;
    let body = STANDARD.encode([&PKCS8[..], &seed].concat());
    let text = format!("-----BEGIN {LABEL}-----\n{body}\n-----END {LABEL}-----\n");
    write_private(path, text.as_bytes()).map_err(failed)?;
    Ok(seed)
}

fn read(path: &Path) -> Result<[u8; 32], StoreError> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| StoreError::Io { action: "read the signing key of", cause: format!("{}: {e}", path.display()) })?;
    let body: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
    let der = STANDARD.decode(body.trim()).ok();
    der.and_then(|der| der.strip_prefix(&PKCS8[..])?.try_into().ok()).ok_or_else(|| StoreError::Damaged {
        family: "signing key",
        key: path.display().to_string(),
        detail: "not an Ed25519 key in PKCS#8 PEM; `openssl genpkey -algorithm ed25519` makes one".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ed25519_dalek::{Signature, Verifier, VerifyingKey};

    use super::*;
    use crate::model::Objective;
    use crate::store::rocks::RocksStore;
    use crate::store::tables::Tables;

    fn state(dir: &Path, key: &HashKey) -> Arc<dyn Store> {
        let store: Arc<dyn Store> = Arc::new(RocksStore::open(dir).unwrap());
        Tables::new(store.clone(), Objective::Implicit, key).unwrap();
        store
    }

    #[test]
    fn a_state_opens_with_its_own_hash_key_only_and_never_gets_another() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = dir.path().join(HASH_KEY_FILE);
        let store: Arc<dyn Store> = Arc::new(RocksStore::open(dir.path()).unwrap());
        assert!(matches!(hash_key(&*store, dir.path(), Missing::Refused), Err(StoreError::HashKey { .. })));
        assert!(!path.exists());
        let key = hash_key(&*store, dir.path(), Missing::Made).unwrap();
        drop(store);
        let store = state(dir.path(), &key);
        assert_eq!(hash_key(&*store, dir.path(), Missing::Refused).unwrap().check(), key.check());
        std::fs::rename(&path, other.path().join("kept")).unwrap();
        for missing in [Missing::Made, Missing::Refused] {
            let error = hash_key(&*store, dir.path(), missing).unwrap_err();
            assert!(matches!(error, StoreError::HashKey { .. }) && error.to_string().contains("is missing"), "{error}");
            assert!(!path.exists(), "no new key in the place of a lost one");
        }
        secret(&path, || Ok([3; 32])).unwrap();
        let error = hash_key(&*store, dir.path(), Missing::Made).unwrap_err();
        assert!(matches!(error, StoreError::HashKey { .. }) && error.to_string().contains("not the one"), "{error}");
        let foreign = Tables::new(store, Objective::Implicit, &HashKey::new([3; 32]));
        assert!(matches!(foreign.err().unwrap(), StoreError::HashKey { .. }));
    }

    #[test]
    fn a_key_is_made_once_and_its_signatures_verify() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("receipts.pem");
        let (one, two) = (Signer::open(&path).unwrap(), Signer::open(&path).unwrap());
        assert_eq!((one.public(), one.key_id()), (two.public(), two.key_id()));
        let signature = STANDARD.decode(one.sign(b"receipt")).unwrap();
        let signature = Signature::from_slice(&signature).unwrap();
        let key = VerifyingKey::from_bytes(&two.public()).unwrap();
        assert!(key.verify(b"receipt", &signature).is_ok() && key.verify(b"another", &signature).is_err());
        std::fs::write(&path, "nonsense").unwrap();
        assert!(matches!(Signer::open(&path), Err(StoreError::Damaged { .. })));
    }
}

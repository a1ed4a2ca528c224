//! The public keys of an installation: what its receipts are, and ever were, signed with.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, VerifyingKey};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::Millis;
use crate::model::receipt::instant;
use crate::store::StoreError;
use crate::store::rocks::write_private;

/// File of the keyring in the state directory.
pub const KEYRING_FILE: &str = "receipts.keys.json";
const VERSION: u32 = 1;
/// DER of an Ed25519 public key (RFC 8410) up to its 32 bytes.
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
const LABEL: &str = "PUBLIC KEY";

/// First 16 hex digits of BLAKE3 of a public key: how receipts name the key that signed them.
pub fn key_id(public: &[u8; 32]) -> String {
    blake3::hash(public).to_hex()[..16].to_owned()
}

/// One key as others may have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicKey {
    pub key_id: String,
    /// Always `Ed25519`.
    pub algorithm: String,
    /// Base64 of the 32 bytes.
    pub public_key: String,
    /// First start with this key.
    pub from: Timestamp,
    /// First start with the next one.
    pub until: Option<Timestamp>,
}

impl PublicKey {
    fn new(public: &[u8; 32], now: Millis) -> PublicKey {
        let (algorithm, public_key) = ("Ed25519".to_owned(), STANDARD.encode(public));
        PublicKey { key_id: key_id(public), algorithm, public_key, from: instant(now), until: None }
    }

    /// The 32 bytes; `None` for anything that is no Ed25519 key of this id.
    pub fn bytes(&self) -> Option<[u8; 32]> {
        let bytes: [u8; 32] = STANDARD.decode(&self.public_key).ok()?.try_into().ok()?;
        (key_id(&bytes) == self.key_id && self.algorithm == "Ed25519").then_some(bytes)
    }

    /// As openssl reads it: SubjectPublicKeyInfo in PEM.
    pub fn to_pem(&self) -> Option<String> {
        let body = STANDARD.encode([&SPKI[..], &self.bytes()?].concat());
        Some(format!("-----BEGIN {LABEL}-----\n{body}\n-----END {LABEL}-----\n"))
    }
}

/// All keys, oldest first; the last one signs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keyring {
    pub version: u32,
    pub keys: Vec<PublicKey>,
}

/// Why a text is no keyring.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyringError {
    #[error("neither the JSON of /v1/keys nor an Ed25519 public key in PEM: {0}")]
    Unreadable(String),
    #[error("version {0}, this version of nepenthe reads {VERSION}")]
    Version(u32),
    #[error("key {0} is no Ed25519 key or not the one that its id names")]
    Key(String),
}

/// Why a signature does not count.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SignatureRefused {
    #[error("it is signed with key {0}, which is not among the keys given: fetch /v1/keys of the service that signed it")]
    UnknownKey(String),
    #[error("the signature is not 64 bytes, in base64 or as they are")]
    Malformed,
    #[error("the signature is not that of key {0} over this value: the receipt was changed, or is not from this service")]
    Wrong(String),
}

impl Default for Keyring {
    fn default() -> Keyring {
        Keyring { version: VERSION, keys: Vec::new() }
    }
}

impl Keyring {
    /// Reads a keyring from its JSON or from one public key in PEM.
    ///
    /// # Errors
    /// [`KeyringError`] for what is neither, of another version, or holds a key that does not fit its id.
    pub fn parse(text: &str) -> Result<Keyring, KeyringError> {
        if text.trim_start().starts_with("-----BEGIN") {
            return from_pem(text).ok_or_else(|| KeyringError::Unreadable("the PEM holds something else".to_owned()));
        }
        let keyring: Keyring = serde_json::from_str(text).map_err(|error| KeyringError::Unreadable(error.to_string()))?;
        if keyring.version != VERSION {
            return Err(KeyringError::Version(keyring.version));
        }
        match keyring.keys.iter().find(|key| key.bytes().is_none()) {
            Some(key) => Err(KeyringError::Key(key.key_id.clone())),
            None => Ok(keyring),
        }
    }

    /// The keyring of a state directory; empty before the first start.
    ///
    /// # Errors
    /// [`StoreError`] when the file cannot be read, or is not one of ours.
    pub fn read(state: &Path) -> Result<Keyring, StoreError> {
        let path = state.join(KEYRING_FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Keyring::default()),
            Err(error) => return Err(StoreError::Io { action: "read the public keys of", cause: format!("{}: {error}", path.display()) }),
        };
        Keyring::parse(&text).map_err(|error| StoreError::Damaged {
            family: "public keys",
            key: path.display().to_string(),
            detail: error.to_string(),
        })
    }

    /// The keyring of a state directory with `public` as the key that signs from now on; written if that is new.
    ///
    /// # Errors
    /// As [`Keyring::read`], and when the file cannot be written.
    pub fn kept(state: &Path, public: &[u8; 32], now: Millis) -> Result<Keyring, StoreError> {
        let mut keyring = Keyring::read(state)?;
        if keyring.take(public, now) {
            let path = state.join(KEYRING_FILE);
            let text = format!("{:#}\n", keyring.to_json());
            write_private(&path, text.as_bytes())
                .map_err(|error| StoreError::Io { action: "write the public keys of", cause: format!("{}: {error}", path.display()) })?;
        }
        Ok(keyring)
    }

    /// Makes `public` the key that signs; true when it was not.
    fn take(&mut self, public: &[u8; 32], now: Millis) -> bool {
        if self.keys.last().is_some_and(|last| last.key_id == key_id(public)) {
            return false;
        }
        if let Some(last) = self.keys.last_mut() {
            last.until = Some(instant(now));
        }
        // A key that comes back counts from now; signatures of its first time stay valid, since it is the same key.
        self.keys.retain(|key| key.key_id != key_id(public));
        self.keys.push(PublicKey::new(public, now));
        true
    }

    pub fn find(&self, key_id: &str) -> Option<&PublicKey> {
        self.keys.iter().find(|key| key.key_id == key_id)
    }

    /// Checks a signature over `value`; base64, or the 64 bytes as they are.
    ///
    /// # Errors
    /// [`SignatureRefused`] when it does not count, and why.
    pub fn verify(&self, key_id: &str, value: &[u8], signature: &[u8]) -> Result<(), SignatureRefused> {
        let unknown = || SignatureRefused::UnknownKey(key_id.to_owned());
        let bytes = self.find(key_id).and_then(PublicKey::bytes).ok_or_else(unknown)?;
        let raw = if signature.len() == Signature::BYTE_SIZE {
            signature.to_vec()
        } else {
            STANDARD.decode(signature.trim_ascii()).map_err(|_| SignatureRefused::Malformed)?
        };
        let signature = Signature::from_slice(&raw).map_err(|_| SignatureRefused::Malformed)?;
        let wrong = |_| SignatureRefused::Wrong(key_id.to_owned());
        VerifyingKey::from_bytes(&bytes).map_err(wrong)?.verify_strict(value, &signature).map_err(wrong)
    }

    /// As the file and `/v1/keys` have it.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({ "version": self.version, "keys": self.keys })
    }
}

fn from_pem(text: &str) -> Option<Keyring> {
    let body: String = text.lines().filter(|line| !line.starts_with("-----")).map(str::trim).collect();
    let public: [u8; 32] = STANDARD.decode(body).ok()?.strip_prefix(&SPKI[..])?.try_into().ok()?;
    let mut keyring = Keyring::default();
    keyring.take(&public, 0);
    Some(keyring)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::keys::Signer;

    fn signer(dir: &Path, name: &str) -> Signer {
        Signer::open(&dir.join(name)).unwrap()
    }

    #[test]
    fn receipts_of_an_earlier_key_verify_after_a_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (signer(dir.path(), "old.pem"), signer(dir.path(), "new.pem"));
        assert_eq!(Keyring::read(dir.path()).unwrap(), Keyring::default());
        let first = Keyring::kept(dir.path(), &old.public(), 1_000).unwrap();
        assert_eq!(Keyring::kept(dir.path(), &old.public(), 2_000).unwrap(), first, "a restart changes nothing");
        let both = Keyring::kept(dir.path(), &new.public(), 3_000).unwrap();
        assert_eq!(Keyring::read(dir.path()).unwrap(), both);
        assert_eq!(both.keys[0].until, Some(instant(3_000)));
        assert_eq!((both.keys.len(), both.keys[1].until), (2, None));
        for signer in [&old, &new] {
            let signature = signer.sign(b"receipt");
            assert_eq!(both.verify(signer.key_id(), b"receipt", signature.as_bytes()), Ok(()));
            let wrong = Err(SignatureRefused::Wrong(signer.key_id().to_owned()));
            assert_eq!(both.verify(signer.key_id(), b"Receipt", signature.as_bytes()), wrong);
        }
        let foreign = new.sign(b"receipt");
        assert!(matches!(both.verify(old.key_id(), b"receipt", foreign.as_bytes()), Err(SignatureRefused::Wrong(_))));
        assert!(matches!(first.verify(new.key_id(), b"receipt", foreign.as_bytes()), Err(SignatureRefused::UnknownKey(_))));
        assert_eq!(both.verify(old.key_id(), b"receipt", b"no base64"), Err(SignatureRefused::Malformed));
    }

    #[test]
    fn fuzz_keyrings() {
        let dir = tempfile::tempdir().unwrap();
        let signer = signer(dir.path(), "1.pem");
        let keyring = Keyring::kept(dir.path(), &signer.public(), 1).unwrap();
        let signature = signer.sign(b"receipt");
        let seeds = [keyring.to_json().to_string(), keyring.keys[0].to_pem().unwrap(), signature.clone()];
        crate::fuzz::fuzz("keyrings", &seeds, |bytes| {
            if let Some(read) = std::str::from_utf8(bytes).ok().and_then(|text| Keyring::parse(text).ok()) {
                assert!(read.keys.iter().all(|key| key.bytes().is_some_and(|public| key_id(&public) == key.key_id)));
            }
            // Of all signatures the one that was made counts, in base64 or as it is.
            if keyring.verify(signer.key_id(), b"receipt", bytes).is_ok() {
                let raw = STANDARD.decode(&signature).unwrap();
                assert!(bytes == raw || bytes.trim_ascii() == signature.as_bytes(), "{bytes:x?}");
            }
        });
    }

    #[test]
    fn a_key_that_comes_back_is_listed_once() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (signer(dir.path(), "1.pem"), signer(dir.path(), "2.pem"));
        let mut keyring = Keyring::default();
        assert!(keyring.take(&one.public(), 1) && keyring.take(&two.public(), 2) && keyring.take(&one.public(), 3));
        let ids: Vec<&str> = keyring.keys.iter().map(|key| &*key.key_id).collect();
        assert_eq!(ids, [two.key_id(), one.key_id()]);
    }

    #[test]
    fn a_keyring_travels_as_json_and_a_key_as_pem() {
        let dir = tempfile::tempdir().unwrap();
        let one = signer(dir.path(), "1.pem");
        let keyring = Keyring::kept(dir.path(), &one.public(), 1).unwrap();
        assert_eq!(Keyring::parse(&keyring.to_json().to_string()), Ok(keyring.clone()));
        let pem = keyring.keys[0].to_pem().unwrap();
        assert_eq!(Keyring::parse(&pem).unwrap().keys[0].bytes(), Some(one.public()));
        assert!(matches!(Keyring::parse("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"), Err(KeyringError::Unreadable(_))));
        assert!(matches!(Keyring::parse("{}"), Err(KeyringError::Unreadable(_))));
        assert_eq!(Keyring::parse(r#"{"version":2,"keys":[]}"#), Err(KeyringError::Version(2)));
        let swapped = keyring.to_json().to_string().replace(one.key_id(), "0123456789abcdef");
        assert_eq!(Keyring::parse(&swapped), Err(KeyringError::Key("0123456789abcdef".to_owned())));
        std::fs::write(dir.path().join(KEYRING_FILE), "{").unwrap();
        assert!(matches!(Keyring::read(dir.path()), Err(StoreError::Damaged { .. })));
    }
}

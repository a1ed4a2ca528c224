//! Keys of an installation: the hash key beside the state, and the key that signs receipts.

use std::io::Read;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer as _, SigningKey};

use crate::run::keyring::key_id;
use crate::store::StoreError;
use crate::store::rocks::write_private;

/// DER of an Ed25519 private key (RFC 8410) up to its 32 bytes.
const PKCS8: [u8; 16] = [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// PEM label of a key in PKCS#8.
const LABEL: &str = "PRIVATE KEY";

/// Signs receipts with Ed25519.
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
    use ed25519_dalek::{Signature, Verifier, VerifyingKey};

    use super::*;

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

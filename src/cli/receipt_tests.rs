use std::process::Command;

use super::*;
use crate::config::Sources;
use crate::run::keys::Signer;

const RECEIPT: &[u8] = br#"{"request_id":"r1","status":"published"}"#;

/// A keyring of one key, and a receipt signed with it, in a directory.
fn signed(dir: &Path) -> (Keyring, Signed) {
    let signer = Signer::open(&dir.join("receipts.pem")).unwrap();
    let keyring = Keyring::kept(dir, &signer.public(), 1).unwrap();
    let signed = Signed { value: RECEIPT.to_vec(), signature: signer.sign(RECEIPT).into_bytes(), key_id: signer.key_id().to_owned() };
    (keyring, signed)
}

fn openssl(dir: &Path) -> bool {
    let at = |name: &str| dir.join(name);
    let mut command = Command::new("openssl");
    command.args(["pkeyutl", "-verify", "-pubin", "-rawin", "-inkey"]).arg(at("key.pem"));
    command.arg("-in").arg(at("receipt.json")).arg("-sigfile").arg(at("receipt.sig"));
    command.output().expect("openssl runs: scripts/setup installs it").status.success()
}

#[test]
fn openssl_agrees_with_us_on_a_saved_receipt() {
    let dir = tempfile::tempdir().unwrap();
    let (keyring, signed) = signed(dir.path());
    let to = dir.path().join("new/proof");
    write(&keyring, &signed, &to).unwrap();
    assert!(openssl(&to));
    std::fs::write(to.join("receipt.json"), br#"{"request_id":"r1","status":"purged"}"#).unwrap();
    assert!(!openssl(&to), "a changed receipt");
}

#[test]
fn saved_files_are_verified_and_a_changed_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (keyring, signed) = signed(dir.path());
    write(&keyring, &signed, dir.path()).unwrap();
    let config = Config::load(&Sources::default()).unwrap();
    let check = |file: &str| {
        let args = VerifyArgs {
            request_id: None,
            file: Some(dir.path().join(file)),
            signature: Some(dir.path().join("receipt.sig")),
            keys: Some(dir.path().join("key.pem")),
            json: true,
        };
        verify(&config, &args)
    };
    assert_eq!(check("receipt.json"), Ok(()));
    std::fs::write(dir.path().join("changed.json"), b"{}").unwrap();
    let refused = check("changed.json").unwrap_err();
    assert!(refused.message.contains("the receipt was changed"), "{refused}");
    assert!(check("absent.json").unwrap_err().message.contains("cannot read"));
}

#[test]
fn findings_are_shown_with_their_verdict() {
    let dir = tempfile::tempdir().unwrap();
    let (_, signed) = signed(dir.path());
    let findings = [(signed.clone(), Ok(())), (Signed { value: b"nonsense".to_vec(), ..signed }, Err("no".to_owned()))];
    let shown = screen(&findings);
    assert!(shown.contains("published") && shown.contains("right") && shown.contains("WRONG"), "{shown}");
    let wrong = as_json(&findings[1].0, &findings[1].1);
    assert_eq!((&wrong["valid"], &wrong["receipt"]), (&json!(false), &Value::Null));
}

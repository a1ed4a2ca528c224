//! `nepenthe receipt`: whether receipts are what the service signed.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::output::{self, Stream, Table, Tone, colour};
use super::{CliError, client_settings, keys};
use crate::config::Config;
use crate::kafka::admin;
use crate::run::keyring::{Keyring, PublicKey};

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  nepenthe receipt verify 7f3a…
  nepenthe receipt save 7f3a… --to proof")]
pub struct ReceiptArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Clone, Subcommand)]
enum Action {
    /// Check signatures: of a request's receipts on the topic, or of a saved one
    #[command(after_help = "\
Examples:
  nepenthe receipt verify 7f3a…                              those on the topic, with the keys of the state directory
  nepenthe receipt verify 7f3a… --keys keys.json             with keys that you fetched earlier from /v1/keys
  nepenthe receipt verify --file receipt.json --signature receipt.sig --keys key.pem

Exit code 0 when every signature is right and of that request, 1 when one is not or there is no receipt.")]
    Verify(VerifyArgs),
    /// Save the newest receipt of a request, its signature and the key, for openssl or whoever does not trust us
    #[command(after_help = "\
Example:
  nepenthe receipt save 7f3a… --to proof
  openssl pkeyutl -verify -pubin -inkey proof/key.pem -rawin -in proof/receipt.json -sigfile proof/receipt.sig")]
    Save(SaveArgs),
}

#[derive(Debug, Clone, Args)]
struct VerifyArgs {
    /// Whose receipts on the topic
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    request_id: Option<String>,
    /// A saved receipt, byte for byte as it was on the topic
    #[arg(long, value_name = "FILE", requires = "signature")]
    file: Option<PathBuf>,
    /// Its signature: base64, or the 64 bytes
    #[arg(long, value_name = "FILE", requires = "file")]
    signature: Option<PathBuf>,
    /// What /v1/keys answered, or one PEM public key [default: the keys in the state directory]
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
    /// JSON on stdout
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Args)]
struct SaveArgs {
    /// Whose receipt
    request_id: String,
    /// Directory for receipt.json, receipt.sig and key.pem; made when missing
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// What /v1/keys answered, or one PEM public key [default: the keys in the state directory]
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
    /// JSON on stdout
    #[arg(long)]
    json: bool,
}

/// A receipt as it came from the topic.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Signed {
    value: Vec<u8>,
    signature: Vec<u8>,
    key_id: String,
}

/// Checks or saves.
///
/// # Errors
/// Exit 1 for a wrong signature, a missing receipt, and what cannot be read or written.
pub fn run(config: &Config, args: &ReceiptArgs) -> Result<(), CliError> {
    match &args.action {
        Action::Verify(args) => verify(config, args),
        Action::Save(args) => save(config, args),
    }
}

fn verify(config: &Config, args: &VerifyArgs) -> Result<(), CliError> {
    let keyring = keyring(config, args.keys.as_deref())?;
    let receipts = match (&args.file, &args.signature) {
        (Some(file), Some(signature)) => vec![from_files(&keyring, file, signature)?],
        _ => on_topic(config, args.request_id.as_deref().unwrap_or_default())?,
    };
    let findings: Vec<(Signed, Result<(), String>)> = receipts
        .into_iter()
        .map(|signed| {
            let found = judge(&keyring, &signed, args.request_id.as_deref());
            (signed, found)
        })
        .collect();
    if args.json {
        output::out_json(&Value::Array(findings.iter().map(|(signed, found)| as_json(signed, found)).collect()))?;
    } else {
        output::out(&screen(&findings))?;
    }
    match findings.iter().find_map(|(_, found)| found.as_ref().err()) {
        Some(refused) => Err(CliError::failed(refused)),
        None => Ok(()),
    }
}

/// Whether it is signed, and of the request that was asked for: the key of a record is not.
fn judge(keyring: &Keyring, signed: &Signed, asked: Option<&str>) -> Result<(), String> {
    keyring.verify(&signed.key_id, &signed.value, &signed.signature).map_err(|refused| refused.to_string())?;
    let Some(asked) = asked else { return Ok(()) };
    let receipt: Value = serde_json::from_slice(&signed.value).unwrap_or_default();
    match receipt.get("request_id").and_then(Value::as_str) {
        Some(named) if named == asked => Ok(()),
        Some(other) => Err(format!("it is a receipt of another request: {other:?}")),
        None => Err("it is a receipt of no request".to_owned()),
    }
}

/// A saved receipt does not say which key signed it: the one that fits, else the newest.
fn from_files(keyring: &Keyring, file: &Path, signature: &Path) -> Result<Signed, CliError> {
    let (value, signature) = (bytes(file)?, bytes(signature)?);
    let fits = keyring.keys.iter().find(|key| keyring.verify(&key.key_id, &value, &signature).is_ok());
    let key_id = fits.or(keyring.keys.last()).map(|key| key.key_id.clone()).unwrap_or_default();
    Ok(Signed { value, signature, key_id })
}

fn save(config: &Config, args: &SaveArgs) -> Result<(), CliError> {
    let keyring = keyring(config, args.keys.as_deref())?;
    let newest = on_topic(config, &args.request_id)?.pop();
    let signed = newest.ok_or_else(|| CliError::failed("the topic holds no such receipt"))?;
    judge(&keyring, &signed, Some(&args.request_id)).map_err(CliError::failed)?;
    write(&keyring, &signed, &args.to)?;
    let at = args.to.display();
    if args.json {
        return output::out_json(&json!({ "to": args.to, "key_id": signed.key_id, "files": ["receipt.json", "receipt.sig", "key.pem"] }));
    }
    output::note(&format!("saved in {at}; anybody can check it without us:"));
    output::out(&format!("openssl pkeyutl -verify -pubin -inkey {at}/key.pem -rawin -in {at}/receipt.json -sigfile {at}/receipt.sig\n"))
}

fn write(keyring: &Keyring, signed: &Signed, to: &Path) -> Result<(), CliError> {
    let failed = |path: &Path, error: std::io::Error| CliError::failed(format!("cannot write {}: {error}", path.display()));
    std::fs::create_dir_all(to).map_err(|error| failed(to, error))?;
    let pem = keyring.find(&signed.key_id).and_then(PublicKey::to_pem).unwrap_or_default();
    let raw = STANDARD.decode(signed.signature.trim_ascii()).map_err(|_| CliError::failed("the signature on the topic is not base64"))?;
    for (name, content) in [("receipt.json", &signed.value[..]), ("receipt.sig", &raw), ("key.pem", pem.as_bytes())] {
        let path = to.join(name);
        std::fs::write(&path, content).map_err(|error| failed(&path, error))?;
    }
    Ok(())
}

fn bytes(path: &Path) -> Result<Vec<u8>, CliError> {
    std::fs::read(path).map_err(|error| CliError::failed(format!("cannot read {}: {error}", path.display())))
}

fn keyring(config: &Config, file: Option<&Path>) -> Result<Keyring, CliError> {
    let Some(file) = file else {
        return keys::known(config).map_err(|error| CliError { message: format!("{error}; or give --keys FILE"), ..error });
    };
    let text = String::from_utf8_lossy(&bytes(file)?).into_owned();
    Keyring::parse(&text).map_err(|error| CliError::failed(format!("{}: {error}", file.display())))
}

/// The receipts of a request that the topic still holds, oldest first.
fn on_topic(config: &Config, request_id: &str) -> Result<Vec<Signed>, CliError> {
    let topic = &config.topics.receipts;
    let mut found = Vec::new();
    let settings = client_settings(config)?;
    let take = |record: admin::TopicRecord<'_>| {
        if let (Some(key), Some(value)) = (record.key, record.payload)
            && key == request_id.as_bytes()
        {
            let header = |name| record.header(name).unwrap_or_default();
            let key_id = String::from_utf8_lossy(header("key_id")).into_owned();
            found.push(Signed { value: value.to_vec(), signature: header("signature").to_vec(), key_id });
        }
        ControlFlow::Continue(())
    };
    output::patiently("reading the receipts topic", || admin::read_topic(&settings, topic, None, take)).map_err(CliError::failed)?;
    if found.is_empty() {
        return Err(CliError::failed(format!("topic {topic} holds no receipt of request {request_id:?}: wrong id, or not read yet")));
    }
    Ok(found)
}

fn field<'v>(receipt: &'v Value, name: &str) -> &'v str {
    receipt.get(name).and_then(Value::as_str).unwrap_or("?")
}

fn as_json(signed: &Signed, found: &Result<(), String>) -> Value {
    let receipt: Option<Value> = serde_json::from_slice(&signed.value).ok();
    json!({ "receipt": receipt, "key_id": signed.key_id, "valid": found.is_ok(), "error": found.as_ref().err() })
}

fn screen(findings: &[(Signed, Result<(), String>)]) -> String {
    let mut table = Table::new(&["request", "status", "key", "signature"]);
    for (signed, found) in findings {
        let receipt: Value = serde_json::from_slice(&signed.value).unwrap_or_default();
        let verdict = if found.is_ok() { ("right".to_owned(), Tone::Good) } else { ("WRONG".to_owned(), Tone::Bad) };
        let text = |name| (field(&receipt, name).to_owned(), Tone::Plain);
        table.row([text("request_id"), text("status"), (signed.key_id.clone(), Tone::Faint), verdict]);
    }
    table.render(colour(Stream::Out))
}

#[cfg(test)]
#[path = "receipt_tests.rs"]
mod tests;

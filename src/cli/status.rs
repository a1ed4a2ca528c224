//! `nepenthe status`: one screen about a state directory, whether or not a service runs on it.

use std::collections::BTreeMap;
use std::io::IsTerminal;

use serde_json::{Value, json};

use super::output::{self, Stream, Table, Tone, colour, count};
use super::reading::{self, State};
use super::watch::{Look, watch};
use super::{CliError, StatusArgs, client_settings};
use crate::config::Config;
use crate::kafka::admin;
use crate::model::Certify;
use crate::model::factors::Side;
use crate::model::receipt::{Certificate, Manifest, Status};
use crate::model::snapshot::data_digest;
use crate::run::now;
use crate::run::service::stamp;

/// Prints generation, certificate, pending forgets, lag and sizes, once or again and again.
///
/// # Errors
/// Exit 1 when there is no state, 4 when it is damaged. A broker that is away only leaves the lag out.
pub fn run(config: &Config, args: &StatusArgs) -> Result<(), CliError> {
    if args.watch {
        let in_place = !args.json && std::io::stdout().is_terminal();
        let (config, json) = (config.clone(), args.json);
        return watch(args.every, in_place, move || look(&config, json));
    }
    let seen = Seen::now(config, args.data_digest)?;
    if args.json { output::out_json(&seen.status) } else { output::out(&screen(&seen)) }
}

/// One look at everything.
struct Seen {
    state: State,
    lag: BTreeMap<String, Option<i64>>,
    status: Value,
}

impl Seen {
    fn now(config: &Config, with_digest: bool) -> Result<Seen, CliError> {
        let state = reading::state(config)?;
        let digest = || data_digest(&state.restored.dictionary, &state.tables);
        let digest = with_digest.then(|| output::patiently("hashing the interactions", digest)).transpose()?;
        let lag = output::patiently("asking the broker", || lag(config, &state));
        let status = summary(&state, &lag, digest)?;
        Ok(Seen { state, lag, status })
    }
}

fn look(config: &Config, json: bool) -> Result<Look, CliError> {
    let mut seen = Seen::now(config, false)?;
    // To the second: nobody reads more, and the lines are equally long.
    let at = stamp(now() / 1000 * 1000);
    if json {
        seen.status["time"] = json!(at);
        return Ok(Look { screen: String::new(), line: seen.status.to_string() });
    }
    let ends = output::paint(&format!("{at}, Ctrl-C ends it"), Tone::Faint, colour(Stream::Out));
    Ok(Look { screen: format!("{}\n{ends}\n", screen(&seen)), line: line(&seen, &at) })
}

/// What changes, in one line.
fn line(Seen { state, lag, status }: &Seen, at: &str) -> String {
    let model = state.restored.current.as_ref().map(|current| &current.manifest);
    let model = model.map_or("no generation yet".to_owned(), |manifest| {
        let Certificate { residual, .. } = manifest.certificate;
        let judged = if manifest.certificate.holds() { "certified" } else { "above the tolerance" };
        format!("generation {} {judged} at {residual:.1e}", manifest.generation)
    });
    let waiting = count(state.restored.waiting.len() as u64);
    let unpurged = count(status["forgets"]["pending"]["published"].as_u64().unwrap_or(0));
    let behind = lag.values().copied().sum::<Option<i64>>().map_or("unknown".to_owned(), |behind| count(behind.unsigned_abs()));
    format!("{at}  {model}, forgets {waiting} pending, {unpurged} to purge, lag {behind}, outbox {}", status["outbox"])
}

/// Records that are not stored yet, per topic; `None` where the broker did not answer.
fn lag(config: &Config, state: &State) -> BTreeMap<String, Option<i64>> {
    let mut lag = BTreeMap::new();
    for topic in [&config.topics.interactions, &config.topics.forgets] {
        let ends = client_settings(config).ok().and_then(|settings| admin::end_offsets(&settings, topic).ok());
        let behind = ends.map(|ends| {
            let stored = |at| state.restored.positions.get(at).copied().unwrap_or(0);
            ends.iter().map(|(at, end)| (end - stored(at)).max(0)).sum()
        });
        lag.insert(topic.clone(), behind);
    }
    lag
}

fn summary(state: &State, lag: &BTreeMap<String, Option<i64>>, digest: Option<String>) -> Result<Value, CliError> {
    let restored = &state.restored;
    let manifest = restored.current.as_ref().map(|current| &current.manifest);
    let mut pending: BTreeMap<&str, u64> = BTreeMap::new();
    for request in restored.waiting.values() {
        *pending.entry(request.receipt.status.name()).or_default() += 1;
    }
    pending.insert(Status::Published.name(), state.tables.unpurged()?.len() as u64);
    let named = |side| restored.dictionary.names(side).iter().flatten().count();
    let sizes: BTreeMap<&str, u64> = state.store.sizes().into_iter().map(|(family, bytes)| (family.name(), bytes)).collect();
    let mut status = json!({
        "generation": manifest.map(|manifest| manifest.generation),
        "manifest": manifest,
        "stored": {"users": named(Side::User), "items": named(Side::Item)},
        "forgets": {"pending": pending},
        "fences": restored.fences.len(),
        "backups": state.tables.backups(0)?,
        "restoring": state.tables.comeback()?.is_some(),
        "lag": lag,
        "outbox": state.tables.backlog()?.rows,
        "store_bytes": sizes,
    });
    if let Some(digest) = digest {
        status["data_digest"] = json!(digest);
    }
    Ok(status)
}

fn screen(Seen { state, lag, status }: &Seen) -> String {
    let mut table = Table::new(&["", ""]);
    let mut row = |name: &str, value: String, tone| table.row([(name.to_owned(), Tone::Faint), (value, tone)]);
    match state.restored.current.as_ref().map(|current| &current.manifest) {
        None => row("generation", "none yet".to_owned(), Tone::Strong),
        Some(manifest) => model_rows(manifest, &mut row),
    }
    let waiting = state.restored.waiting.len() as u64;
    row("forgets pending", count(waiting), if waiting > 0 { Tone::Strong } else { Tone::Good });
    let unpurged = status["forgets"]["pending"]["published"].as_u64().unwrap_or(0);
    row("forgets to purge", count(unpurged), if unpurged > 0 { Tone::Plain } else { Tone::Good });
    row("fences", count(state.restored.fences.len()), Tone::Plain);
    if status["restoring"] == true {
        row("restored", "not caught up with later forgets: nothing is served".to_owned(), Tone::Bad);
    }
    let backups = status["backups"]["count"].as_u64().unwrap_or(0);
    if let Some(newest) = status["backups"]["newest"].as_str() {
        row("backups", format!("{}, newest of {newest}", count(backups)), Tone::Plain);
    }
    for (topic, behind) in lag {
        let value = behind.map_or("the broker does not answer".to_owned(), |behind| count(behind.unsigned_abs()));
        row(&format!("lag {topic}"), value, if behind.is_none() { Tone::Strong } else { Tone::Plain });
    }
    row("outbox", status["outbox"].to_string(), Tone::Plain);
    let bytes: u64 = state.store.sizes().iter().map(|(_, bytes)| bytes).sum();
    row("store", format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)), Tone::Plain);
    if let Some(digest) = status["data_digest"].as_str() {
        row("data digest", digest.to_owned(), Tone::Plain);
    }
    table.render(colour(Stream::Out))
}

fn model_rows(manifest: &Manifest, row: &mut impl FnMut(&str, String, Tone)) {
    let certificate = &manifest.certificate;
    let counts = &manifest.counts;
    row("generation", format!("{} of {}", manifest.generation, manifest.created), Tone::Plain);
    row("users, items", format!("{}, {}", count(counts.users), count(counts.items)), Tone::Plain);
    row("interactions", count(counts.interactions), Tone::Plain);
    let tone = if certificate.holds() { Tone::Good } else { Tone::Bad };
    row("residual", format!("{:.1e} (tolerance {:.1e})", certificate.residual, certificate.tolerance), tone);
    if let (Some(gap), Some(sigma)) = (certificate.gap, certificate.sigma_bound) {
        let tone = if certificate.certified == Some(Certify::Global) { Tone::Good } else { Tone::Bad };
        row("duality gap", format!("{:.1e} of the objective (σ ≤ {sigma:.7})", gap / certificate.objective.abs()), tone);
    }
    if let Some(refused) = &certificate.refused {
        row("global optimum", refused.clone(), Tone::Strong);
    }
    let used = certificate.effective_rank.map_or("unknown".to_owned(), |used| used.to_string());
    let remark = if certificate.rank_binds { ": it binds, two retrains may differ" } else { "" };
    let tone = if certificate.rank_binds { Tone::Strong } else { Tone::Plain };
    row("effective rank", format!("{used} of {}{remark}", manifest.model.params.rank), tone);
    row("sweeps", format!("{} in {:.2} s", certificate.sweeps, certificate.seconds), Tone::Plain);
    row("digest", manifest.digest.clone(), Tone::Plain);
}

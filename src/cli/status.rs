//! `nepenthe status`: one screen about a state directory, whether or not a service runs on it.

use std::collections::BTreeMap;
use std::io::IsTerminal;

use serde_json::{Value, json};

use super::output::{self, Stream, Table, Tone, colour, count};
use super::reading;
use super::watch::{Look, watch};
use super::{CliError, StatusArgs, client_settings};
use crate::config::Config;
use crate::kafka::Positions;
use crate::kafka::admin::Ends;
use crate::model::Certify;
use crate::model::receipt::{Certificate, Manifest, Status};
use crate::model::snapshot::data_digest;
use crate::run::now;
use crate::run::service::stamp;
use crate::store::glance::Glance;
use crate::store::tables::Tables;

/// Prints generation, certificate, pending forgets, lag and sizes, once or again and again.
///
/// # Errors
/// Exit 1 when there is no state, 4 when it is damaged. A broker that is away only leaves the lag out.
pub fn run(config: &Config, args: &StatusArgs) -> Result<(), CliError> {
    let mut brokers = Brokers::default();
    if args.watch {
        let in_place = !args.json && std::io::stdout().is_terminal();
        let (config, json) = (config.clone(), args.json);
        return watch(args.every, in_place, move || look(&config, &mut brokers, json));
    }
    let mut seen = Seen::now(config, &mut brokers)?;
    if args.data_digest {
        let hashed = || Ok::<_, CliError>(data_digest(&seen.tables.dictionary()?, &seen.tables)?);
        seen.status["data_digest"] = json!(output::patiently("hashing the interactions", hashed)?);
    }
    if args.json { output::out_json(&seen.with_names()?) } else { output::out(&screen(&seen)) }
}

/// One look at everything but the model.
struct Seen {
    tables: Tables,
    glance: Glance,
    lag: BTreeMap<String, Option<i64>>,
    status: Value,
}

impl Seen {
    fn now(config: &Config, brokers: &mut Brokers) -> Result<Seen, CliError> {
        let (tables, _) = reading::tables(config)?;
        let glance = output::patiently("reading the state", || tables.glance())?;
        let lag = output::patiently("asking the broker", || brokers.lag(config, &glance.positions));
        let status = summary(&tables, &glance, &lag)?;
        Ok(Seen { tables, glance, lag, status })
    }

    /// For programs, who also get what costs a scan of all names.
    fn with_names(mut self) -> Result<Value, CliError> {
        let [users, items] = output::patiently("counting names", || self.tables.named())?;
        self.status["stored"] = json!({"users": users, "items": items});
        Ok(self.status)
    }
}

fn look(config: &Config, brokers: &mut Brokers, json: bool) -> Result<Look, CliError> {
    let mut seen = Seen::now(config, brokers)?;
    // To the second: nobody reads more, and the lines are equally long.
    let at = stamp(now() / 1000 * 1000);
    if json {
        seen.status["time"] = json!(at);
        return Ok(Look { screen: String::new(), line: seen.with_names()?.to_string() });
    }
    let ends = output::paint(&format!("{at}, Ctrl-C ends it"), Tone::Faint, colour(Stream::Out));
    Ok(Look { screen: format!("{}\n{ends}\n", screen(&seen)), line: line(&seen, &at) })
}

/// What changes, in one line.
fn line(Seen { glance, lag, .. }: &Seen, at: &str) -> String {
    let model = glance.manifest.as_ref().map_or("no generation yet".to_owned(), |manifest| {
        let Certificate { residual, .. } = manifest.certificate;
        let judged = if manifest.certificate.holds() { "certified" } else { "above the tolerance" };
        format!("generation {} {judged} at {residual:.1e}", manifest.generation)
    });
    let (waiting, unpurged) = (count(glance.waiting()), count(glance.unpurged()));
    let behind = lag.values().copied().sum::<Option<i64>>().map_or("unknown".to_owned(), |behind| count(behind.unsigned_abs()));
    format!("{at}  {model}, forgets {waiting} pending, {unpurged} to purge, lag {behind}, outbox {}", glance.outbox)
}

/// Asked again over the same connection for as long as they answer.
#[derive(Default)]
struct Brokers(Option<Ends>);

impl Brokers {
    /// Records that are not stored yet, per topic; `None` where the broker did not answer.
    fn lag(&mut self, config: &Config, stored: &Positions) -> BTreeMap<String, Option<i64>> {
        let mut lag = BTreeMap::new();
        for topic in [&config.topics.interactions, &config.topics.forgets] {
            let behind = self.ends(config, topic).map(|ends| {
                let stored = |at| stored.get(at).copied().unwrap_or(0);
                ends.iter().map(|(at, end)| (end - stored(at)).max(0)).sum()
            });
            lag.insert(topic.clone(), behind);
        }
        lag
    }

    fn ends(&mut self, config: &Config, topic: &str) -> Option<Positions> {
        let asked = match self.0.take() {
            Some(asked) => asked,
            None => Ends::open(client_settings(config).ok()?).ok()?,
        };
        let ends = asked.of(topic).ok()?;
        self.0 = Some(asked);
        Some(ends)
    }
}

fn summary(tables: &Tables, glance: &Glance, lag: &BTreeMap<String, Option<i64>>) -> Result<Value, CliError> {
    let pending = glance.requests.iter().filter(|(status, _)| **status < Status::Published);
    let mut pending: BTreeMap<&str, u64> = pending.map(|(status, count)| (status.name(), *count)).collect();
    pending.insert(Status::Published.name(), glance.unpurged());
    let sizes: BTreeMap<&str, u64> = tables.store().sizes().into_iter().map(|(family, bytes)| (family.name(), bytes)).collect();
    Ok(json!({
        "generation": glance.manifest.as_ref().map(|manifest| manifest.generation),
        "manifest": glance.manifest,
        "forgets": {"pending": pending},
        "fences": glance.fences,
        "backups": tables.backups(0)?,
        "restoring": tables.comeback()?.is_some(),
        "lag": lag,
        "outbox": glance.outbox,
        "store_bytes": sizes,
    }))
}

fn screen(Seen { tables, glance, lag, status }: &Seen) -> String {
    let mut table = Table::new(&["", ""]);
    let mut row = |name: &str, value: String, tone| table.row([(name.to_owned(), Tone::Faint), (value, tone)]);
    match &glance.manifest {
        None => row("generation", "none yet".to_owned(), Tone::Strong),
        Some(manifest) => model_rows(manifest, &mut row),
    }
    let waiting = glance.waiting();
    row("forgets pending", count(waiting), if waiting > 0 { Tone::Strong } else { Tone::Good });
    let unpurged = glance.unpurged();
    row("forgets to purge", count(unpurged), if unpurged > 0 { Tone::Plain } else { Tone::Good });
    row("fences", count(glance.fences), Tone::Plain);
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
    row("outbox", glance.outbox.to_string(), Tone::Plain);
    let bytes: u64 = tables.store().sizes().iter().map(|(_, bytes)| bytes).sum();
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

//! `nepenthe verify`: reads the newest generation from the broker as any reader would, and checks its digest.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;

use clap::Args;
use serde::Deserialize;
use serde_json::json;

use super::output::{self, Stream, Table, Tone, colour, count, plural};
use super::{CliError, client_settings};
use crate::config::Config;
use crate::kafka::Positions;
use crate::kafka::admin;
use crate::kafka::client::ClientSettings;
use crate::model::digest::LtHash;

/// Readings after which a difference counts although newer generations keep coming.
const READINGS: u32 = 3;

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  nepenthe verify
  nepenthe verify --json | jq .digest

Exit code 0 when the rows on the factors topic are exactly those of the newest manifest, 1 when they are not.")]
pub struct VerifyArgs {
    /// JSON on stdout
    #[arg(long)]
    json: bool,
}

/// What a reader needs of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Manifest {
    generation: u64,
    /// End offsets on the factors topic, by partition.
    upto: BTreeMap<i32, i64>,
    counts: Rows,
    digest: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
struct Rows {
    users: u64,
    items: u64,
}

/// A manifest beside what the topic holds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    manifest: Manifest,
    rows: Rows,
    /// Of the rows read.
    digest: String,
    /// Offsets on the factors topic at or after `upto`: a newer generation on its way, and the broker's own marks.
    beyond: u64,
}

impl Finding {
    fn holds(&self) -> bool {
        self.digest == self.manifest.digest && self.rows == self.manifest.counts
    }
}

/// Recomputes the digest of the newest generation.
///
/// # Errors
/// Exit 1 when it differs from the manifest's, when no generation has been published, and when the broker cannot be read.
pub fn run(config: &Config, args: &VerifyArgs) -> Result<(), CliError> {
    let settings = client_settings(config)?;
    let mut finding = read(config, &settings)?;
    for _ in 1..READINGS {
        // Compaction may have taken rows of this generation because a newer one replaced them while we read.
        if finding.holds() || newest(&settings, &config.topics.generations)?.generation == finding.manifest.generation {
            break;
        }
        output::note("a newer generation was published meanwhile: reading again");
        finding = read(config, &settings)?;
    }
    report(&finding, args.json)?;
    if finding.holds() { Ok(()) } else { Err(CliError::failed(diagnosis(&finding, &config.topics.factors))) }
}

fn read(config: &Config, settings: &ClientSettings) -> Result<Finding, CliError> {
    let manifest = newest(settings, &config.topics.generations)?;
    let topic = &config.topics.factors;
    let ends = admin::end_offsets(settings, topic).map_err(CliError::failed)?;
    let upto: Positions = manifest.upto.iter().map(|(partition, end)| ((topic.clone(), *partition), *end)).collect();
    let beyond = beyond(&ends, &manifest, topic)?;
    // None is beyond the end of its partition.
    let bar = output::offsets_bar(upto.values().map(|end| u64::try_from(*end).unwrap_or(0)).sum());
    let mut live: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
    let mut reached: BTreeMap<i32, u64> = BTreeMap::new();
    let read = admin::read_topic(settings, topic, Some(&upto), |record| {
        // Compaction leaves holes: progress is in offsets, not in records.
        let next = (record.offset + 1).unsigned_abs();
        let before = reached.insert(record.partition, next).unwrap_or(0);
        bar.inc(next - before);
        let key = record.key.unwrap_or_default();
        match record.payload {
            Some(value) => drop(live.insert(key.to_vec(), value.to_vec())),
            None => drop(live.remove(key)),
        }
        ControlFlow::Continue(())
    });
    bar.finish_and_clear();
    read.map_err(CliError::failed)?;
    Ok(sum_up(manifest, &live, beyond))
}

/// The manifest with the highest number: a topic that is not compacted yet still holds older ones.
fn newest(settings: &ClientSettings, topic: &str) -> Result<Manifest, CliError> {
    let mut newest: Option<Manifest> = None;
    let mut unreadable = None;
    admin::read_topic(settings, topic, None, |record| {
        let Some(value) = record.payload else { return ControlFlow::Continue(()) };
        match serde_json::from_slice::<Manifest>(value) {
            Ok(manifest) if newest.as_ref().is_none_or(|known| known.generation <= manifest.generation) => newest = Some(manifest),
            Ok(_) => (),
            Err(error) => unreadable = Some(format!("partition {} offset {}: {error}", record.partition, record.offset)),
        }
        ControlFlow::Continue(())
    })
    .map_err(CliError::failed)?;
    newest.ok_or_else(|| match unreadable {
        Some(error) => CliError::failed(format!("{topic} holds no manifest that can be read ({error}); is it the generations topic?")),
        None => CliError::failed(format!("{topic} is empty: no generation has been published yet; is `nepenthe run` up? Try again later")),
    })
}

/// Offsets at or after `upto`.
///
/// # Errors
/// When the topic ends before `upto`: it is not the topic that the manifest speaks of, or it has lost its end.
fn beyond(ends: &Positions, manifest: &Manifest, topic: &str) -> Result<u64, CliError> {
    let mut beyond = 0;
    for ((_, partition), end) in ends {
        let upto = manifest.upto.get(partition).copied().unwrap_or(0);
        beyond += u64::try_from(end.saturating_sub(upto)).unwrap_or(0);
    }
    for (partition, upto) in &manifest.upto {
        let end = ends.get(&(topic.to_owned(), *partition)).copied().unwrap_or(0);
        if end < *upto {
            let generation = manifest.generation;
            return Err(CliError::failed(format!(
                "{topic} partition {partition} ends at {end}, but generation {generation} reaches up to {upto}: \
                 the topic was made anew or lost records; let the service publish everything again, or check topics.factors"
            )));
        }
    }
    Ok(beyond)
}

fn sum_up(manifest: Manifest, live: &HashMap<Vec<u8>, Vec<u8>>, beyond: u64) -> Finding {
    let mut sum = LtHash::default();
    let mut rows = Rows::default();
    for (key, value) in live {
        sum.add(key, value);
        match key.get(..2) {
            Some(b"u/") => rows.users += 1,
            Some(b"i/") => rows.items += 1,
            _ => (),
        }
    }
    Finding { manifest, rows, digest: sum.finish(), beyond }
}

fn report(finding: &Finding, json: bool) -> Result<(), CliError> {
    let Finding { manifest, rows, digest, beyond } = finding;
    if json {
        return output::out_json(&json!({
            "ok": finding.holds(), "generation": manifest.generation, "users": rows.users, "items": rows.items,
            "digest": digest, "expected": {"users": manifest.counts.users, "items": manifest.counts.items, "digest": manifest.digest},
            "offsets_beyond": beyond,
        }));
    }
    let verdict = |same: bool| if same { ("ok".to_owned(), Tone::Good) } else { ("differs".to_owned(), Tone::Bad) };
    let mut table = Table::new(&["", "manifest", "topic", ""]);
    let mut line = |what: &str, theirs: String, ours: String| {
        let same = theirs == ours;
        table.row([(what.to_owned(), Tone::Plain), (theirs, Tone::Plain), (ours, Tone::Plain), verdict(same)]);
    };
    line("users", count(manifest.counts.users), count(rows.users));
    line("items", count(manifest.counts.items), count(rows.items));
    line("digest", short(&manifest.digest), short(digest));
    let state = if finding.holds() { "is what its digest says" } else { "is not what its digest says" };
    output::out(&format!("generation {} {state}\n\n{}\n", manifest.generation, table.render(colour(Stream::Out))))?;
    output::out(&format!("digest {digest}\n"))
}

/// Enough of a digest to see a difference; the whole one follows the table.
fn short(digest: &str) -> String {
    digest.get(..16).map_or_else(|| digest.to_owned(), |start| format!("{start}…"))
}

/// What may be wrong, and what to do.
fn diagnosis(finding: &Finding, topic: &str) -> String {
    let generation = finding.manifest.generation;
    // A commit leaves one mark of the broker's own behind the generation in each partition.
    let marks = finding.manifest.upto.len() as u64;
    let cause = if finding.beyond > marks {
        let offsets = plural(finding.beyond, "offset");
        format!("{offsets} follow it: a newer generation may be on its way, and compaction may have taken older rows; try again soon")
    } else {
        "no newer generation follows it: rows are missing or foreign; look at the settings with `nepenthe topics --check`, \
         and at who else writes to the topic"
            .to_owned()
    };
    format!("the rows on {topic} are not generation {generation}: {cause}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(rows: &[(&str, &str)]) -> Manifest {
        let mut sum = LtHash::default();
        rows.iter().for_each(|(key, value)| sum.add(key.as_bytes(), value.as_bytes()));
        let count = |side: &str| rows.iter().filter(|(key, _)| key.starts_with(side)).count() as u64;
        let counts = Rows { users: count("u/"), items: count("i/") };
        Manifest { generation: 4, upto: BTreeMap::from([(0, 10), (1, 5)]), counts, digest: sum.finish() }
    }

    fn live(rows: &[(&str, &str)]) -> HashMap<Vec<u8>, Vec<u8>> {
        rows.iter().map(|(key, value)| (key.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
    }

    const ROWS: [(&str, &str); 3] = [("u/a", "1234"), ("u/b", "5678"), ("i/x", "9abc")];

    #[test]
    fn the_same_rows_hold_and_others_do_not() {
        assert!(sum_up(manifest(&ROWS), &live(&ROWS), 0).holds());
        for other in [&ROWS[1..], &[ROWS[0], ROWS[1], ("i/x", "9abd")], &[ROWS[0], ROWS[1], ROWS[2], ("i/y", "")]] {
            assert!(!sum_up(manifest(&ROWS), &live(other), 0).holds());
        }
    }

    #[test]
    fn offsets_beyond_and_before_the_end() {
        let ends =
            |zero: i64, one: i64| Positions::from([(("t".to_owned(), 0), zero), (("t".to_owned(), 1), one), (("t".to_owned(), 2), 1)]);
        assert_eq!(beyond(&ends(12, 5), &manifest(&ROWS), "t"), Ok(3));
        let error = beyond(&ends(10, 4), &manifest(&ROWS), "t").unwrap_err();
        assert!(error.message.contains("partition 1 ends at 4") && error.message.contains("up to 5"), "{}", error.message);
    }

    #[test]
    fn a_manifest_is_read_with_what_it_may_hold_besides() {
        let text = r#"{"generation":4,"parent":3,"upto":{"0":10,"1":5},"counts":{"users":2,"items":1,"changed":9},"digest":"ab","new":1}"#;
        let read: Manifest = serde_json::from_str(text).unwrap();
        assert_eq!((read.upto, read.counts), (BTreeMap::from([(0, 10), (1, 5)]), Rows { users: 2, items: 1 }));
    }

    #[test]
    fn fuzz_manifests() {
        let seeds = [
            r#"{"generation":4,"parent":3,"upto":{"0":10,"1":5},"counts":{"users":2,"items":1,"changed":9},"digest":"ab","new":1}"#,
            r#"{"generation":0,"upto":{"-1":-9223372036854775808},"counts":{"users":0,"items":0},"digest":""}"#,
        ];
        let ends = Positions::from([(("t".to_owned(), 0), 12), (("t".to_owned(), -1), 12), (("t".to_owned(), 1), i64::MAX / 2)]);
        crate::fuzz::fuzz("manifests", &seeds, |bytes| {
            let Ok(manifest) = serde_json::from_slice::<Manifest>(bytes) else { return };
            if let Ok(beyond) = beyond(&ends, &manifest, "t") {
                assert!(
                    manifest.upto.iter().all(|(partition, upto)| *upto <= ends.get(&("t".to_owned(), *partition)).copied().unwrap_or(0))
                );
                let finding = sum_up(manifest, &live(&ROWS), beyond);
                assert!(
                    !diagnosis(&finding, "t").is_empty() && short(&finding.manifest.digest).len() <= finding.manifest.digest.len().max(19)
                );
            }
        });
    }

    #[test]
    fn the_diagnosis_tells_a_newer_generation_from_a_loss() {
        let found = |beyond: u64| diagnosis(&sum_up(manifest(&ROWS), &live(&ROWS[1..]), beyond), "t");
        assert!(found(7).contains("newer generation"));
        assert!(found(0).contains("missing or foreign"));
    }
}

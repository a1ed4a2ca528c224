//! `nepenthe recommend`: top items for a user.

use serde_json::json;

use super::output::{self, Stream, Table, Tone, colour};
use super::reading::{self, Copy};
use super::{CliError, RecommendArgs};
use crate::config::Config;
use crate::model::factors::Side;
use crate::model::recommend::{Measure, top};
use crate::run::board::known_items;

/// Prints the top items with their scores, what the user already has left out.
///
/// # Errors
/// Exit 1 for an unknown user or a model that cannot be read, 4 for a damaged state.
pub fn run(config: &Config, args: RecommendArgs) -> Result<(), CliError> {
    let (copy, store) = if args.from_topic {
        output::note("the topic does not say what the user already has: nothing is left out");
        (Copy::of_topic(config)?, None)
    } else {
        let state = reading::serving(config)?;
        (Copy::of_state(state.restored)?, Some(state.store))
    };
    let (user, row) = copy.row(Side::User, &args.user)?;
    let known = store.map_or(Ok(Vec::new()), |store| known_items(&*store, user))?;
    let best = top(copy.items(), row, Measure::Dot, args.n, |item| known.binary_search(&item).is_ok());
    let best: Vec<_> = best.into_iter().map(|(item, score)| (item, score + copy.mean)).collect();
    print(&copy.named(Side::Item, best), "item", args.json)
}

/// A ranked list, for people or machines.
///
/// # Errors
/// Exit 1 when stdout cannot be written.
pub fn print(best: &[(String, f64)], what: &str, json: bool) -> Result<(), CliError> {
    if json {
        let rows: Vec<_> = best.iter().map(|(name, score)| json!({ what: name, "score": score })).collect();
        return output::out_json(&serde_json::Value::Array(rows));
    }
    let mut table = Table::new(&["", "item", "score"]);
    for (at, (name, score)) in best.iter().enumerate() {
        table.row([(format!("{}", at + 1), Tone::Faint), (name.clone(), Tone::Plain), (format!("{score:.4}"), Tone::Plain)]);
    }
    output::out(&table.render(colour(Stream::Out)))
}

//! `nepenthe similar`: items most like an item.

use super::reading::{self, Copy};
use super::recommend::print;
use super::{CliError, SimilarArgs};
use crate::config::Config;
use crate::model::factors::Side;
use crate::model::recommend::{Measure, top};

/// Prints the items whose factors point the same way, by cosine.
///
/// # Errors
/// Exit 1 for an unknown item or a model that cannot be read, 4 for a damaged state.
pub fn run(config: &Config, args: SimilarArgs) -> Result<(), CliError> {
    let copy = if args.from_topic { Copy::of_topic(config)? } else { Copy::of_state(reading::serving(config)?.restored)? };
    let (item, row) = copy.row(Side::Item, &args.item)?;
    let best = top(copy.items(), row, Measure::Cosine, args.n, |other| other == item);
    print(&copy.named(Side::Item, best), "item", args.json)
}

//! `nepenthe import-model`: factors that were trained elsewhere as the start of the next generation.
//!
//! The state is read under its lock and written once, by the commit of a solved generation: whatever goes wrong before
//! leaves it as it was.

mod ids;
mod report;
mod rows;
mod stand;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;

use self::report::{Matched, Report};
use self::rows::{FileError, RowsError, Source};
use self::stand::Stand;
use super::npy::MAGIC;
use super::output;
use super::{CliError, Exit};
use crate::config::Config;
use crate::model::factors::{Factors, Side};
use crate::store::rocks::hold;

/// First bytes of an archive that has a member.
const ARCHIVE: &[u8] = b"PK\x03\x04";

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  nepenthe import-model --state ./state --model model.npz --user-ids users.txt --item-ids items.txt
                                                   as `implicit` saves it; row n belongs to line n of the ids
  nepenthe import-model --users U.npy --user-ids users.txt --items V.npy --item-ids items.txt
  nepenthe import-model --items items.csv          id,f1,f2,… in each line; users are solved from the items
  nepenthe import-model --model model.npz --item-ids catalogue.csv --item-id-column sku --dry-run

The service must not run on the state meanwhile. What the state has no interactions of is ignored, what the files do not
have starts afresh. How the model was trained does not matter: the solver goes on from it until the certificate of the
state's own data holds. The result is the next generation, and `nepenthe run` publishes it.")]
pub struct ImportModelArgs {
    /// Item factors, one row for each id: .npy (float32 or float64), or CSV or TSV of id,f1,f2,…
    #[arg(long, value_name = "FILE", required_unless_present = "model", conflicts_with = "model", help_heading = "Model")]
    items: Option<PathBuf>,
    /// User factors in the same form; without them users are solved from the items
    #[arg(long, value_name = "FILE", conflicts_with = "model", help_heading = "Model")]
    users: Option<PathBuf>,
    /// Both sides in one .npz with the arrays user_factors and item_factors, as `implicit` saves it
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    model: Option<PathBuf>,
    /// Ids of the item rows: one to a line; or an .npy list; or a .csv or .tsv with a header
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    item_ids: Option<PathBuf>,
    /// Ids of the user rows in the same form
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    user_ids: Option<PathBuf>,
    /// Column of a .csv or .tsv that holds the item ids [default: id, item, item_id or itemid]
    #[arg(long, value_name = "NAME", requires = "item_ids", help_heading = "Model")]
    item_id_column: Option<String>,
    /// Column of a .csv or .tsv that holds the user ids [default: id, user, user_id or userid]
    #[arg(long, value_name = "NAME", requires = "user_ids", help_heading = "Model")]
    user_id_column: Option<String>,
    /// Only say what fits and how far it is from the certificate; a service may run meanwhile
    #[arg(long)]
    dry_run: bool,
    /// Do not solve from a cold start for comparison
    #[arg(long, conflicts_with = "dry_run")]
    no_compare: bool,
    /// JSON on stdout
    #[arg(long)]
    json: bool,
}

/// Which files hold what.
#[derive(Debug, PartialEq, Eq)]
struct Sources {
    items: Source,
    users: Option<Source>,
}

impl ImportModelArgs {
    /// # Errors
    /// Exit 2 for files that are not there or not of a known form, and for ids that are missing or too many.
    fn sources(&self) -> Result<Sources, CliError> {
        let ids = |side| match side {
            Side::User => (&self.user_ids, &self.user_id_column, "--user-ids"),
            Side::Item => (&self.item_ids, &self.item_id_column, "--item-ids"),
        };
        let own = |side: Side, rows: &PathBuf| {
            let (ids, column, option) = ids(side);
            match (shape(rows)?, ids) {
                (Shape::Npy, Some(ids)) => Ok(Source::Npy { rows: rows.clone(), ids: ids.clone(), column: column.clone() }),
                (Shape::Npy, None) => Err(CliError::usage(format!("{} has rows without ids; give them with {option}", rows.display()))),
                (Shape::Table(delimiter), None) => Ok(Source::Table { rows: rows.clone(), delimiter }),
                (Shape::Table(_), Some(_)) => {
                    Err(CliError::usage(format!("{} has its ids in the first column; leave out {option}", rows.display())))
                }
                (Shape::Npz, _) => Err(CliError::usage(format!("{} is an archive of arrays; say --model", rows.display()))),
            }
        };
        let Some(archive) = &self.model else {
            let Some(items) = &self.items else { return Err(CliError::usage("give the item factors with --items, or --model")) };
            if let (None, Some(ids)) = (&self.users, &self.user_ids) {
                return Err(CliError::usage(format!("{} belongs to no rows; give them with --users", ids.display())));
            }
            return Ok(Sources {
                items: own(Side::Item, items)?,
                users: self.users.as_ref().map(|rows| own(Side::User, rows)).transpose()?,
            });
        };
        if shape(archive)? != Shape::Npz {
            return Err(CliError::usage(format!(
                "{} is no .npz archive; give arrays of their own with --users and --items",
                archive.display()
            )));
        }
        let member = |side, member| {
            let (ids, column, _) = ids(side);
            let ids = ids.clone()?;
            Some(Source::Npz { archive: archive.clone(), member, ids, column: column.clone() })
        };
        let items = member(Side::Item, "item_factors")
            .ok_or_else(|| CliError::usage(format!("{} has rows without ids; give them with --item-ids", archive.display())))?;
        Ok(Sources { items, users: member(Side::User, "user_factors") })
    }
}

/// What a file of rows looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Npy,
    Npz,
    Table(u8),
}

fn shape(path: &Path) -> Result<Shape, CliError> {
    let mut start = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAGIC.len() as u64).read_to_end(&mut start));
    read.map_err(|error| CliError::usage(format!("cannot read {}: {error}; check the path and your rights", path.display())))?;
    if start.starts_with(MAGIC) {
        return Ok(Shape::Npy);
    }
    if start.starts_with(ARCHIVE) {
        return Ok(Shape::Npz);
    }
    let forms = "write .npy with numpy.save, .npz with numpy.savez, or a .csv or .tsv of id,f1,f2,…";
    match ids::delimiter(path) {
        _ if start.is_empty() => Err(CliError::failed(format!("{} is empty; {forms}", path.display()))),
        Some(delimiter) => Ok(Shape::Table(delimiter)),
        None => Err(CliError::usage(format!("{} is neither .npy nor .npz nor called .csv or .tsv; {forms}", path.display()))),
    }
}

impl From<FileError> for CliError {
    fn from(error: FileError) -> CliError {
        let exit = match &error.source {
            RowsError::Rank { .. } => Exit::Usage,
            _ => Exit::Failed,
        };
        CliError::new(exit, error)
    }
}

/// Reads the files, solves from what they hold, and commits the result.
///
/// # Errors
/// Exit 1 for files that are damaged or do not belong to the state, 2 for options and another rank, 3 when the state is
/// in use, 4 when it is damaged. The state is then what it was.
pub fn run(config: &Config, args: &ImportModelArgs) -> Result<(), CliError> {
    import(config, args)?.print(args.json)
}

fn import(config: &Config, args: &ImportModelArgs) -> Result<Report, CliError> {
    let sources = args.sources()?;
    let held = (!args.dry_run).then(|| hold(&config.store.path)).transpose()?;
    let stand = Stand::open(config)?;
    if held.is_some() {
        stand.check_free()?;
    }
    let (factors, items, users) = read(&sources, &stand, config.model.rank)?;
    let start = stand.look(&factors, sources.users.is_some())?;
    let mut report = Report { rank: config.model.rank, items, users, start, solved: None, cold: None };
    if let Some(held) = held {
        let made = stand.go_on_from(&factors, held)?;
        report.solved = made.current().map(|current| current.manifest.clone());
        // The state is free again: the service may start while this goes on.
        report.cold = (!args.no_compare).then(|| made.cold()).transpose()?;
    }
    Ok(report)
}

/// The factors under the numbers of the state, and how they match it.
fn read(sources: &Sources, stand: &Stand, rank: usize) -> Result<(Factors, Matched, Matched), CliError> {
    let mut factors = Factors::new(rank);
    let mut matched = [Matched::default(); 2];
    for (side, source) in [(Side::Item, Some(&sources.items)), (Side::User, sources.users.as_ref())] {
        let known = stand.known(side);
        let there = known.numbers().count() as u64;
        let Some(source) = source else {
            matched[side as usize] = Matched { given: 0, matched: 0, known: there };
            continue;
        };
        let taken = source.read(rank, known)?;
        let found = Matched { given: taken.given, matched: taken.table.count() as u64, known: there };
        if found.matched == 0 {
            return Err(CliError::failed(format!(
                "{}: the state has interactions of none of its {}; ids are written as in the events: not as row numbers, and 7 is not 7.0",
                source.file().display(),
                output::plural(found.given, known.noun())
            )));
        }
        matched[side as usize] = found;
        *factors.side_mut(side) = taken.table;
    }
    let [users, items] = matched;
    Ok((factors, items, users))
}

#[cfg(test)]
#[path = "import_model_tests.rs"]
mod tests;

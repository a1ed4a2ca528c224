//! `nepenthe export-model`: the factors as files that NumPy, the library `implicit` and tables read, and that
//! `import-model` takes back.

mod drafts;

use std::fs::File;
use std::io::{BufWriter, Seek, Write};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::json;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use self::drafts::Drafts;
use super::CliError;
use super::npy::write_header;
use super::output::{self, plural};
use super::reading::{self, Copy};
use crate::config::Config;
use crate::model::factors::{Side, Table};
use crate::model::receipt::Manifest;
use crate::model::{Objective, Params};

/// Archives from this size on need wider fields; far below the real limit, which counts headers too.
const LARGE: usize = 1 << 31;

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  nepenthe export-model ./model --state ./state    users.npy, items.npy, user_ids.txt, item_ids.txt
  nepenthe export-model ./model --format npz       model.npz: implicit.cpu.als.AlternatingLeastSquares.load reads it
  nepenthe export-model ./model --format csv       users.csv and items.csv: id,f1,f2,…
  nepenthe export-model ./model --from-topic       what readers of the factors topic have

Row n belongs to line n of the ids; rows are in the order of the ids. Only the owner may read the files: they hold
personal data, and nothing that is forgotten later disappears from them.")]
pub struct ExportModelArgs {
    /// Directory for the files; made when missing
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// How the factors are written
    #[arg(long, value_enum, default_value_t = Format::Npy)]
    format: Format,
    /// 64-bit floats instead of 32-bit ones
    #[arg(long)]
    float64: bool,
    /// Read the factors topic instead of the state directory
    #[arg(long)]
    from_topic: bool,
    /// Replace files that are there
    #[arg(long)]
    force: bool,
    /// Summary as JSON on stdout
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// NumPy arrays and lists of ids
    Npy,
    /// one archive as `implicit` saves it, and lists of ids
    Npz,
    /// id,f1,f2,… in each line
    Csv,
}

impl Format {
    fn files(self) -> &'static [&'static str] {
        match self {
            Format::Npy => &["users.npy", "items.npy", "user_ids.txt", "item_ids.txt"],
            Format::Npz => &["model.npz", "user_ids.txt", "item_ids.txt"],
            Format::Csv => &["users.csv", "items.csv"],
        }
    }
}

/// The rows of one side in the order of their ids.
struct Sorted<'c> {
    table: &'c Table,
    rows: Vec<(&'c str, usize)>,
}

impl<'c> Sorted<'c> {
    fn of(copy: &'c Copy, side: Side) -> Sorted<'c> {
        let table = copy.factors.side(side);
        let named = |row: usize| Some((&**copy.names.name(side, row as u32)?, row));
        let mut rows: Vec<(&str, usize)> = table.rows().filter_map(named).collect();
        rows.sort_unstable();
        Sorted { table, rows }
    }
}

/// Writes the model that stands.
///
/// # Errors
/// Exit 1 when there is no model, a file is there already or cannot be written, 4 for a damaged state. Files that are
/// there are then what they were.
pub fn run(config: &Config, args: &ExportModelArgs) -> Result<(), CliError> {
    let (copy, manifest) = if args.from_topic {
        (Copy::of_topic(config)?, None)
    } else {
        let restored = reading::serving(config)?.restored;
        let manifest = restored.current.as_ref().map(|current| current.manifest.clone());
        (Copy::of_state(restored)?, manifest)
    };
    export(&copy, manifest.as_ref(), args)?;
    let (users, items) = (copy.factors.users.count() as u64, copy.factors.items.count() as u64);
    let generation = manifest.as_ref().map(|manifest| manifest.generation);
    let mean = manifest.as_ref().and_then(|manifest| manifest.model.mean);
    output::note(&format!(
        "wrote {} and {} of rank {} to {}",
        plural(users, "user"),
        plural(items, "item"),
        copy.factors.users.rank(),
        args.folder.display()
    ));
    if let Some(mean) = mean {
        output::note(&format!("a predicted rating is {mean} and the product of the two rows"));
    }
    if args.json {
        let files: Vec<String> = args.format.files().iter().map(|name| args.folder.join(name).display().to_string()).collect();
        output::out_json(&json!({
            "generation": generation, "rank": copy.factors.users.rank(), "users": users, "items": items, "mean": mean,
            "float": if args.float64 { 64 } else { 32 }, "files": files,
        }))?;
    }
    Ok(())
}

fn export(copy: &Copy, manifest: Option<&Manifest>, args: &ExportModelArgs) -> Result<(), CliError> {
    let mut drafts = Drafts::new(&args.folder, args.format.files(), args.force).map_err(CliError::failed)?;
    let sides = [Sorted::of(copy, Side::User), Sorted::of(copy, Side::Item)];
    let wide = args.float64;
    let params = manifest.map(|manifest| &manifest.model.params);
    if args.format != Format::Csv {
        sides.iter().try_for_each(check_lines)?;
        for (side, name) in sides.iter().zip(["user_ids.txt", "item_ids.txt"]) {
            write(&mut drafts, name, |file| side.rows.iter().try_for_each(|(id, _)| writeln!(file, "{id}")))?;
        }
    }
    match args.format {
        Format::Npy => {
            for (side, name) in sides.iter().zip(["users.npy", "items.npy"]) {
                write(&mut drafts, name, |file| put_matrix(file, side, wide))?;
            }
        }
        Format::Npz => write(&mut drafts, "model.npz", |file| put_archive(file, &sides, wide, params))?,
        Format::Csv => {
            for (side, name) in sides.iter().zip(["users.csv", "items.csv"]) {
                write(&mut drafts, name, |file| put_table(file, side, wide))?;
            }
        }
    }
    drafts.publish().map_err(CliError::failed)
}

fn write(
    drafts: &mut Drafts,
    name: &'static str,
    content: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>,
) -> Result<(), CliError> {
    drafts.write(name, content).map_err(CliError::failed)
}

/// An id with a line break would become two.
fn check_lines(side: &Sorted<'_>) -> Result<(), CliError> {
    match side.rows.iter().find(|(id, _)| id.contains(['\n', '\r'])) {
        Some((id, _)) => Err(CliError::failed(format!("the id {id:?} holds a line break and does not fit a line; say --format csv"))),
        None => Ok(()),
    }
}

fn put_matrix(output: &mut dyn Write, side: &Sorted<'_>, wide: bool) -> std::io::Result<()> {
    write_header(output, if wide { "<f8" } else { "<f4" }, &[side.rows.len(), side.table.rank()])?;
    for &(_, row) in &side.rows {
        for &value in side.table.raw(row) {
            if wide {
                output.write_all(&value.to_le_bytes())?;
            } else {
                output.write_all(&(value as f32).to_le_bytes())?;
            }
        }
    }
    Ok(())
}

/// An archive as `implicit` 0.5 to 0.7 saves and loads it. Its regularization is told only where it means the same thing.
fn put_archive(output: impl Write + Seek, sides: &[Sorted<'_>; 2], wide: bool, params: Option<&Params>) -> std::io::Result<()> {
    let mut archive = ZipWriter::new(output);
    let plain = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (side, name) in sides.iter().zip(["user_factors.npy", "item_factors.npy"]) {
        let bytes = side.rows.len() * side.table.rank() * if wide { 8 } else { 4 };
        archive.start_file(name, plain.large_file(bytes >= LARGE))?;
        put_matrix(&mut archive, side, wide)?;
    }
    archive.start_file("factors.npy", plain)?;
    write_header(&mut archive, "<i8", &[])?;
    archive.write_all(&(sides[0].table.rank() as i64).to_le_bytes())?;
    let dtype = if wide { "float64" } else { "float32" };
    archive.start_file("dtype.npy", plain)?;
    write_header(&mut archive, &format!("<U{}", dtype.len()), &[])?;
    for letter in dtype.chars() {
        archive.write_all(&u32::from(letter).to_le_bytes())?;
    }
    // There, unobserved pairs have weight 1 and λ does not grow with a row's length.
    if let Some(params) = params.filter(|params| params.objective == Objective::Implicit && params.regularization_exp == 0.0) {
        archive.start_file("regularization.npy", plain)?;
        write_header(&mut archive, "<f8", &[])?;
        archive.write_all(&(params.regularization / params.unobserved_weight).to_le_bytes())?;
    }
    archive.finish()?.flush()
}

fn put_table(output: &mut dyn Write, side: &Sorted<'_>, wide: bool) -> std::io::Result<()> {
    let mut table = csv::Writer::from_writer(output);
    let names = (1..=side.table.rank()).map(|at| format!("f{at}"));
    table.write_record(std::iter::once("id".to_owned()).chain(names))?;
    for &(id, row) in &side.rows {
        // The shortest digits that read back as the same number.
        let value = |&value: &f64| if wide { value.to_string() } else { (value as f32).to_string() };
        table.write_field(id)?;
        side.table.raw(row).iter().try_for_each(|x| table.write_field(value(x)))?;
        table.write_record(None::<&[u8]>)?;
    }
    table.flush()
}

#[cfg(test)]
#[path = "export_model_tests.rs"]
mod tests;

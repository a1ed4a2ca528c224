//! A byte of a table file that is not what was written: the service must name the file and not start, or not be touched
//! by it at all.

#![allow(dead_code, reason = "tests and the program use their own part of it")]

use std::fs;
use std::path::PathBuf;

use super::arena::{Arena, Result};
use super::blows::copy;
use super::oracle::Model;

/// What became of the flips.
#[derive(Debug, Default)]
pub struct Flips {
    /// Exit code 4, and the file named, or the list that it is on and that it may be one of those.
    pub named: usize,
    /// The byte means nothing: the data are what they were.
    pub harmless: usize,
    /// Everything else, in words.
    pub faults: Vec<String>,
}

/// Flips a byte at a time in copies of the state; the service must be stopped. Of the first flips one goes into the data
/// of each table file, the others anywhere.
///
/// # Errors
/// What could not be tried.
pub fn flip(arena: &mut Arena, count: usize) -> Result<Flips> {
    let tables = tables(arena)?;
    let before = Model::of_state(&arena.service.state)?.data;
    let mut flips = Flips::default();
    for round in 0..count {
        let table = &tables[if round < tables.len() { round } else { arena.dice.below(tables.len()) }];
        let state = arena.another_state();
        copy(&arena.service.state, &state)?;
        let name = table.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut bytes = fs::read(table).map_err(|e| e.to_string())?;
        // A table begins with its data.
        let at = arena.dice.below(if round < tables.len() { 16 } else { bytes.len() });
        bytes[at] ^= 1 << arena.dice.below(8);
        fs::write(state.join(&name), &bytes).map_err(|e| e.to_string())?;
        // Nobody is there to read from: what is seen is what the start makes of the state.
        let mut service = arena.service.twin(state.clone(), &["kafka.brokers=127.0.0.1:1".to_owned()])?;
        service.start_heard()?;
        // Either it serves its page, or it has ended.
        let serves = service.until("page", |status| status.is_object()).is_ok();
        if serves {
            service.kill();
            if Model::of_state(&state)?.data == before {
                flips.harmless += 1;
            } else {
                flips.faults.push(format!("byte {at} of {} in {name}: the data are others, and nobody says so", bytes.len()));
            }
        } else {
            let (code, words) = (service.ended()?, service.words());
            // What is wrong with a table's data is told of the table; with its own description, perhaps of the list it is on.
            let listed = round >= tables.len() && words.contains("a table file (.sst) that it lists");
            if code == 4 && (words.contains(&name) || listed) {
                flips.named += 1;
            } else {
                flips.faults.push(format!("byte {at} of {} in {name}: exit code {code}: {words}", bytes.len()));
            }
        }
        fs::remove_dir_all(&state).map_err(|e| e.to_string())?;
    }
    if flips.named == 0 {
        flips.faults.push(format!("none of {count} flips was noticed"));
    }
    Ok(flips)
}

/// The table files; a start writes what only the log has into tables.
fn tables(arena: &mut Arena) -> Result<Vec<PathBuf>> {
    for _ in 0..2 {
        let files = fs::read_dir(&arena.service.state).map_err(|e| e.to_string())?;
        let mut tables: Vec<PathBuf> = files.filter_map(|file| Some(file.ok()?.path())).collect();
        tables.retain(|path| path.extension().is_some_and(|extension| extension == "sst"));
        tables.sort();
        if !tables.is_empty() {
            return Ok(tables);
        }
        arena.service.start_heard()?;
        arena.service.until("page", |status| status.is_object())?;
        arena.service.stop()?;
    }
    Err("the state has no table files".to_owned())
}

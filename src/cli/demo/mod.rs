//! `nepenthe demo`: the whole way on an embedded broker, with a story generated from a seed.
//!
//! Two services run in this process. One learns, forgets and is shown. The other, on topics of its own, is fed only what
//! nobody asked to forget: it is what the first must equal.

mod broker;
mod compare;
mod patience;
mod reader;
pub mod rng;
mod service;
mod stage;
mod story;
mod titles;
mod world;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rdkafka::error::KafkaError;

use self::broker::Broker;
use self::patience::Patience;
use self::reader::Reader;
use self::service::{Service, settings};
use self::stage::Stage;
use self::story::Story;
use self::world::World;
use super::CliError;

/// People in town beside those the story is about.
const PEOPLE: usize = 3000;

#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  nepenthe demo\n  nepenthe demo --seed 3 | less")]
pub struct DemoArgs {
    /// Another seed, another town
    #[arg(long, default_value_t = 7)]
    pub seed: u64,
}

/// Why the show could not go on.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    #[error("cannot {what}: {source}; the loopback interface must allow connections")]
    Broker { what: &'static str, source: KafkaError },
    #[error("the demo's own settings are refused: {0}; please report it")]
    Settings(String),
    #[error("cannot {what} the service: {why}")]
    Service { what: &'static str, why: String },
    #[error("cannot read {what}: {why}; please report it")]
    Reading { what: &'static str, why: String },
    #[error("waited {seconds} s for {what}; is the machine very busy? try again")]
    Late { what: String, seconds: u64 },
    #[error("cannot make the temporary directory {}: {source}; set TMPDIR to a directory that can be written to", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("cannot listen for signals: {0}")]
    Signals(io::Error),
    #[error("interrupted; nothing is left behind")]
    Interrupted,
    #[error(transparent)]
    Screen(#[from] CliError),
}

impl DemoError {
    /// For `map_err`: what was tried with the broker.
    fn broker(what: &'static str) -> impl FnOnce(KafkaError) -> DemoError {
        move |source| DemoError::Broker { what, source }
    }
}

/// Plays the story; leaves nothing behind.
///
/// # Errors
/// [`CliError`] with exit 1 when the story could not be played to its end or a claim that it printed did not hold.
pub fn run(args: DemoArgs) -> Result<(), CliError> {
    match show(args.seed) {
        Ok(true) => Ok(()),
        Ok(false) => Err(CliError::failed("not every claim of the demo held; the lines marked FAILED say which")),
        Err(DemoError::Screen(error)) => Err(error),
        Err(error) => Err(CliError::failed(error)),
    }
}

/// Whether every claim held.
fn show(seed: u64) -> Result<bool, DemoError> {
    let patience = Patience::new()?;
    // Dropped last, when both services have closed their stores.
    let directory = Directory::create()?;
    let world = World::generate(seed, PEOPLE);
    let broker = Broker::start()?;
    let address = broker.address();
    let start = |name: &str, seed: u64, events: usize| {
        let config = settings(name, &address, directory.path(), seed, events)?;
        broker.create(&config.topics)?;
        Service::start(config, patience.clone())
    };
    let town = start("town", seed, world.plays.len())?;
    // Another seed: it starts from other random factors and must arrive at the same place.
    let twin = match start("never", seed.wrapping_add(1), world.survivors().count()) {
        Ok(twin) => twin,
        Err(error) => return town.stop().and(Err(error)),
    };
    let played = Reader::open(&address, &town.topics, patience.clone()).and_then(|reader| {
        let (town, twin, stage) = (&town, &twin, Stage::new());
        Story { stage, patience, seed, world: &world, broker: &broker, town, twin, reader, sent: 0 }.play()
    });
    let (town, twin) = (town.stop(), twin.stop());
    let held = played?;
    town?;
    twin?;
    Ok(held)
}

/// A directory of its own, removed with everything in it.
struct Directory(PathBuf);

impl Directory {
    fn create() -> Result<Directory, DemoError> {
        // The time too: a killed process leaves its directory, and its number comes again.
        let name = format!("nepenthe-demo-{}-{}", std::process::id(), patience::time_of_day().as_millisecond());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).map_err(|source| DemoError::Directory { path: path.clone(), source })?;
        Ok(Directory(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What cannot be removed is in a directory for temporary files, and the show is over.
        let _ = fs::remove_dir_all(&self.0);
    }
}

//! A state directory with a published generation, for tests of commands that work on one.

use std::path::Path;
use std::sync::Arc;

use crate::config::{Config, Sources};
use crate::model::factors::Side;
use crate::model::generation::Current;
use crate::model::processor::{InputTopics, State};
use crate::model::step::{Input, Outgoing};
use crate::model::unlearn::Unwatched;
use crate::run::HASH_KEY_FILE;
use crate::store::Store;
use crate::store::rocks::{RocksStore, secret};
use crate::store::tables::Tables;

use super::reading::hash_key;

/// Settings under which retrains of the small world agree.
pub fn config(path: &Path, more: &[(&str, &str)]) -> Config {
    let usual = [("model.rank", "16"), ("model.tolerance", "1e-8"), ("model.max_sweeps", "5000"), ("model.threads", "2")];
    let mut overrides: Vec<(String, String)> = usual.iter().chain(more).map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
    overrides.insert(0, ("store.path".to_owned(), path.display().to_string()));
    Config::load(&Sources { overrides, ..Sources::default() }).unwrap()
}

/// Two tastes, `users` people, forty things.
pub fn events(users: u32) -> Vec<String> {
    let draw = |u: u32, i: u32| u32::from(blake3::hash(&[u.to_le_bytes(), i.to_le_bytes()].concat()).as_bytes()[0]) % 100;
    let pairs = (0..users).flat_map(|u| (0..40u32).map(move |i| (u, i)));
    let likes = pairs.filter(|&(u, i)| draw(u, i) < if u % 2 == i % 2 { 50 } else { 10 });
    likes.map(|(u, i)| format!(r#"{{"user":"u{u}","item":"i{i}","value":{},"time":{}}}"#, 1 + draw(u, i) % 5, 1000 + u * 40 + i)).collect()
}

/// A state under its writer, as the service has it.
pub struct Written {
    pub state: State,
    pub tables: Tables,
    next: i64,
}

impl Written {
    /// Opens the state of the configuration, or makes it.
    pub fn open(config: &Config) -> Written {
        let store: Arc<dyn Store> = Arc::new(RocksStore::open(&config.store.path).unwrap());
        secret(&config.store.path.join(HASH_KEY_FILE), || Ok([7; 32])).unwrap();
        let key = hash_key(&*store, config).unwrap();
        let tables = Tables::new(store, config.model.objective, &key).unwrap();
        let topics = InputTopics { interactions: config.topics.interactions.clone(), forgets: config.topics.forgets.clone() };
        let state = State::open(config.model.clone(), topics, tables.restore(key).unwrap(), &tables).unwrap();
        let next = state.positions().values().copied().max().unwrap_or(0);
        Written { state, tables, next }
    }

    /// Takes in records of a topic.
    pub fn take(&mut self, topic: &str, lines: &[String]) {
        let topics = [topic.to_owned()];
        let inputs = lines.iter().zip(self.next..).map(|(line, offset)| Input {
            topic: 0,
            partition: 0,
            offset,
            timestamp: Some(1_000_000),
            reset: false,
            key: None,
            payload: Some(line.as_bytes()),
        });
        let step = self.state.fold(&topics, inputs, 2_000_000, &self.tables).unwrap();
        self.tables.commit(&step, self.state.dictionary()).unwrap();
        self.next += lines.len() as i64;
    }

    /// Solves what is stored and commits the generation.
    pub fn solve(&mut self) -> &Current {
        let job = self.state.freeze(&self.tables).unwrap();
        let new = self.state.adopt(job.run(&Unwatched).unwrap(), 0.0, 3_000_000);
        let current = self.state.current().unwrap();
        self.tables.commit_generation(&new, current).unwrap();
        current
    }

    /// Empties the outbox as if a broker had taken it; answers how many generations were in it.
    pub fn publish(&mut self) -> usize {
        let mut generations = 0;
        loop {
            let group = self.tables.next_group().unwrap();
            if group.is_empty() {
                return generations;
            }
            let sequences: Vec<u64> = group.iter().map(|(sequence, _)| *sequence).collect();
            let mut rows = Vec::new();
            let mut ends = false;
            for (_, message) in group {
                match message {
                    Outgoing::Rows { rows: more, .. } => rows.extend(more),
                    Outgoing::Manifest { .. } => ends = true,
                    _ => (),
                }
            }
            if !ends {
                self.tables.commit_delivered(&sequences, None).unwrap();
                continue;
            }
            generations += 1;
            let published = self.state.published(&Default::default(), &rows, 4_000_000);
            self.tables.commit_delivered(&sequences, Some((&published, self.state.current().unwrap()))).unwrap();
        }
    }

    /// A row of the current generation under its name.
    pub fn row(&self, side: Side, name: &str) -> Vec<f64> {
        let number = self.state.dictionary().get(side, name).unwrap();
        self.state.current().unwrap().factors.side(side).row(number as usize).unwrap().to_vec()
    }
}

/// Makes a state with one published generation of [`events`].
pub fn published(config: &Config, users: u32) {
    let mut written = Written::open(config);
    written.take(&config.topics.interactions, &events(users));
    written.solve();
    assert_eq!(written.publish(), 1);
}

/// Every file of a directory with its bytes.
pub fn bytes_of(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.map(|path| (path.display().to_string(), std::fs::read(&path).unwrap())).collect();
    files.sort();
    files
}

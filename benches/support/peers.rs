//! The Python process in which other libraries sweep over the same matrix: `peers.py`.

use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use nepenthe::model::ratings::Ratings;
use serde_json::Value;
use tempfile::TempDir;

/// The running process; it ends when this is dropped.
pub struct Peers {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// Names and versions of the libraries, in words.
    pub versions: String,
    _dir: TempDir,
}

/// One iteration of a peer.
pub struct Iteration {
    pub seconds: f64,
    /// Largest relative residual of the normal equations of the rows that it solved last, of a sample.
    pub residual: f64,
}

impl Peers {
    /// Hands the matrix over and waits until the libraries are loaded.
    pub fn start(python: &Path, ratings: &Ratings, rank: usize, regularization: f64, threads: usize) -> Result<Peers, String> {
        let dir = TempDir::with_prefix("nepenthe-peers-").map_err(|e| format!("a directory for the matrix: {e}"))?;
        write(dir.path(), ratings).map_err(|e| format!("the matrix in {}: {e}", dir.path().display()))?;
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/support/peers.py");
        let mut child = Command::new(python)
            .arg(script)
            .arg(dir.path())
            .args([rank.to_string(), regularization.to_string(), threads.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("{}: {e}; scripts/bench makes the environment, --no-peers leaves the peers out", python.display()))?;
        let (Some(requests), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("the peers have no input or output".to_owned());
        };
        let mut peers = Peers { child, requests, answers: BufReader::new(answers), versions: String::new(), _dir: dir };
        let versions = peers.answer()?;
        let named = |(name, version): (&String, &Value)| format!("{name} {}", version.as_str().unwrap_or("?"));
        peers.versions = versions["versions"].as_object().into_iter().flatten().map(named).collect::<Vec<_>>().join(", ");
        Ok(peers)
    }

    /// One iteration of `peer`: `implicit-cholesky`, `implicit-cg` or `lenskit-cholesky`.
    pub fn iterate(&mut self, peer: &str) -> Result<Iteration, String> {
        writeln!(self.requests, "{peer}").and_then(|()| self.requests.flush()).map_err(|e| format!("asking {peer}: {e}"))?;
        let answer = self.answer()?;
        match (answer["seconds"].as_f64(), answer["residual"].as_f64()) {
            (Some(seconds), Some(residual)) => Ok(Iteration { seconds, residual }),
            _ => Err(format!("{peer} answered {answer}")),
        }
    }

    fn answer(&mut self) -> Result<Value, String> {
        let mut line = String::new();
        self.answers.read_line(&mut line).map_err(|e| format!("reading from the peers: {e}"))?;
        if line.is_empty() {
            return Err("the peers ended early: see their words above; --no-peers leaves them out".to_owned());
        }
        serde_json::from_str(&line).map_err(|e| format!("the peers said {line:?}: {e}"))
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        // It keeps nothing; when it has ended already there is nothing to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Compressed rows of the users, each array in a file of its own, little endian.
fn write(dir: &Path, ratings: &Ratings) -> std::io::Result<()> {
    let file = |name: &str| std::fs::File::create(dir.join(name)).map(BufWriter::new);
    let (mut starts, mut columns, mut values) = (file("indptr")?, file("indices")?, file("strengths")?);
    let mut end = 0i64;
    starts.write_all(&end.to_le_bytes())?;
    for row in 0..ratings.users.len() {
        let (items, strengths) = ratings.users.row(row);
        end += items.len() as i64;
        starts.write_all(&end.to_le_bytes())?;
        items.iter().try_for_each(|item| columns.write_all(&item.to_le_bytes()))?;
        strengths.into_iter().try_for_each(|value| values.write_all(&value.to_le_bytes()))?;
    }
    let mut shape = file("shape")?;
    shape.write_all(&(ratings.users.len() as i64).to_le_bytes())?;
    shape.write_all(&(ratings.items.len() as i64).to_le_bytes())?;
    [starts, columns, values, shape].iter_mut().try_for_each(Write::flush)
}

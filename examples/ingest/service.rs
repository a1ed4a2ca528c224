//! `nepenthe run` as a child, seen only from outside: its command line, its `/metrics` and its exit code.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::process::{answer, binary, free_address, get, peak_bytes};

const POLL: Duration = Duration::from_millis(10);
/// Between two looks at what is stored, while nothing is or nearly everything: each costs the service what a scrape does.
const LOOK: Duration = Duration::from_millis(10);
/// The same in between, at most.
const REST: Duration = Duration::from_secs(1);
const STOP: Duration = Duration::from_secs(60);
const ACCEPTED: &str = r#"nepenthe_events_total{kind="interaction",outcome="accepted"}"#;
const CPU_SECONDS: &str = "process_cpu_seconds_total";

/// What went wrong with the child.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    #[error("{what}: {error}")]
    Io { what: String, error: std::io::Error },
    #[error("`nepenthe {command}` ended early: {status}")]
    Ended { command: String, status: ExitStatus },
    #[error("{stored} of {wanted} events stored and no more for {waited:?}")]
    Stuck { stored: u64, wanted: u64, waited: Duration },
    #[error("{stored} events stored where {wanted} were sent")]
    TooMany { stored: u64, wanted: u64 },
    #[error("not ready after {0:?}")]
    NotReady(Duration),
    #[error("/metrics has no `{0}`")]
    NoMetric(&'static str),
}

impl ServiceError {
    fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> ServiceError {
        let what = what.into();
        move |error| ServiceError::Io { what, error }
    }
}

/// The measured run.
pub struct Ingest {
    /// From the last look at which nothing was stored to the first at which everything was.
    pub time: Duration,
    /// From the start of the process to the first stored event.
    pub start: Duration,
    /// Processor time by wall time, while it ingested.
    pub cores: f64,
    /// Size of the state directory at the end.
    pub state_bytes: u64,
    /// Largest resident memory of the process.
    pub peak_bytes: u64,
}

/// What starting again on the same state took.
pub struct Restart {
    /// From the start of the process to the first 200 of `/readyz`.
    pub ready: Duration,
    /// Largest resident memory of the process until then.
    pub peak_bytes: u64,
}

/// The running child with its state directory; both are gone when it is dropped.
pub struct Service {
    child: Child,
    way: Way,
    started: Instant,
    dir: TempDir,
}

/// How the binary is called.
struct Way {
    binary: PathBuf,
    brokers: String,
    topic: String,
    state: PathBuf,
    address: SocketAddr,
    model: Model,
}

/// What the model does meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Model {
    /// No generation is due for a day and a billion events.
    Idle,
    /// The next generation is due when one is out.
    Solved,
}

impl Way {
    fn command(&self, name: &str) -> Command {
        let Way { binary, brokers, topic, state, address, model } = self;
        let mut command = Command::new(binary);
        command.arg(name).arg("--brokers").arg(brokers).arg("--state").arg(state);
        command.arg("--set").arg(format!("topics.interactions={topic}")).arg("--set").arg(format!("http.listen={address}"));
        // A group of its own: the member of an earlier run, on another state, would hold this one up.
        command.arg("--set").arg(format!("kafka.group=ingest-{}", address.port()));
        // And topics of its own: a model of an earlier run would be another copy of this state.
        for name in ["factors", "generations"] {
            command.arg("--set").arg(format!("topics.{name}=ingest-{}.{name}", address.port()));
        }
        let max_delay = if *model == Model::Idle { "24h" } else { "1ms" };
        command.arg("--set").arg(format!("generation.max_delay={max_delay}")).args(["--set", "generation.max_events=1000000000"]);
        command.args(["--set", "log.level=warn"]);
        command
    }
}

impl Service {
    /// Makes the other topics, then starts the service on an empty state directory. What is measured is the way from the topic
    /// into the store.
    pub fn start(brokers: &str, topic: &str, model: Model) -> Result<Service, ServiceError> {
        let binary = binary().map_err(ServiceError::io("the binary"))?;
        let dir = TempDir::with_prefix("nepenthe-ingest-").map_err(ServiceError::io("state directory"))?;
        let address = free_address().map_err(ServiceError::io("a free port"))?;
        let state = dir.path().join("state");
        let way = Way { binary, brokers: brokers.to_owned(), topic: topic.to_owned(), state, address, model };
        let status = way.command("topics").stdout(std::process::Stdio::null()).status().map_err(ServiceError::io("nepenthe topics"))?;
        if !status.success() {
            return Err(ServiceError::Ended { command: "topics".to_owned(), status });
        }
        let started = Instant::now();
        let child = way.command("run").spawn().map_err(ServiceError::io("nepenthe run"))?;
        Ok(Service { child, way, started, dir })
    }

    /// Starts it again, once it has ended, and ends it when it is ready.
    pub fn restart(&mut self, patience: Duration) -> Result<Restart, ServiceError> {
        self.started = Instant::now();
        self.child = self.way.command("run").spawn().map_err(ServiceError::io("nepenthe run"))?;
        while !answer(self.way.address, "/readyz").is_ok_and(|(status, _)| status == "200") {
            if let Some(status) = self.child.try_wait().map_err(ServiceError::io("nepenthe run"))? {
                return Err(ServiceError::Ended { command: "run".to_owned(), status });
            }
            if self.started.elapsed() > patience {
                return Err(ServiceError::NotReady(patience));
            }
            std::thread::sleep(POLL);
        }
        let (ready, peak_bytes) = (self.started.elapsed(), peak_bytes(self.child.id()).unwrap_or(0));
        self.stop()?;
        Ok(Restart { ready, peak_bytes })
    }

    /// Waits until `wanted` events are stored, then ends the service in order.
    pub fn ingest(&mut self, wanted: u64, patience: Duration) -> Result<Ingest, ServiceError> {
        let mut begin = self.started;
        let mut cpu_at_begin = 0.0;
        let (mut stored, mut changed) = (0, Instant::now());
        loop {
            if let Some(status) = self.child.try_wait().map_err(ServiceError::io("nepenthe run"))? {
                return Err(ServiceError::Ended { command: "run".to_owned(), status });
            }
            let asked = Instant::now();
            // Not yet listening at first; a service that stays silent runs into `patience`.
            let page = get(self.way.address, "/metrics").unwrap_or_default();
            let now = if page.is_empty() { 0 } else { sample(&page, ACCEPTED)? as u64 };
            if now == 0 {
                begin = asked;
                cpu_at_begin = sample(&page, CPU_SECONDS).unwrap_or(0.0);
            }
            if now != stored {
                (stored, changed) = (now, Instant::now());
            }
            if stored > wanted {
                return Err(ServiceError::TooMany { stored, wanted });
            }
            if stored == wanted {
                let time = changed - begin;
                let cpu = sample(&page, CPU_SECONDS)? - cpu_at_begin;
                let start = begin - self.started;
                let peak_bytes = peak_bytes(self.child.id()).unwrap_or(0);
                self.stop()?;
                return Ok(Ingest { time, start, cores: cpu / time.as_secs_f64(), state_bytes: size_of(self.dir.path()), peak_bytes });
            }
            if changed.elapsed() > patience {
                return Err(ServiceError::Stuck { stored, wanted, waited: patience });
            }
            // Half of the way that is left at this pace, so that the end is not missed; early on the pace is not known.
            let pace = begin.elapsed().as_secs_f64() / stored.max(1) as f64;
            let left = Duration::from_secs_f64(pace * (wanted - stored) as f64 / 2.0);
            std::thread::sleep(if stored < wanted / 10 { LOOK } else { left.clamp(LOOK, REST) });
        }
    }

    /// Asks the child to end as an operator does, and expects a clean exit.
    fn stop(&mut self) -> Result<(), ServiceError> {
        Command::new("kill").arg(self.child.id().to_string()).status().map_err(ServiceError::io("kill"))?;
        let deadline = Instant::now() + STOP;
        while Instant::now() < deadline {
            match self.child.try_wait().map_err(ServiceError::io("nepenthe run"))? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(ServiceError::Ended { command: "run".to_owned(), status }),
                None => std::thread::sleep(POLL),
            }
        }
        Err(ServiceError::io("nepenthe run after SIGTERM")(std::io::ErrorKind::TimedOut.into()))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Nothing to end when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The value of one series.
fn sample(page: &str, series: &'static str) -> Result<f64, ServiceError> {
    let line = page.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok());
    line.ok_or(ServiceError::NoMetric(series))
}

fn size_of(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let sizes = entries.filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)));
    sizes.map(|(path, metadata)| if metadata.is_dir() { size_of(&path) } else { metadata.len() }).sum()
}

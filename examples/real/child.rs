//! `nepenthe` from outside: its commands, its pages, its exit codes.

#![allow(dead_code, clippy::disallowed_methods, reason = "tests and measurements use their own part of it, and read the clock")]

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nepenthe::model::Params;
use serde_json::Value;

use super::process;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(300);

type Result<T> = std::result::Result<T, String>;

/// The parameters of a model as settings.
pub fn model_settings(params: &Params) -> Vec<String> {
    let table = serde_json::to_value(params).unwrap_or_default();
    let table = table.as_object().into_iter().flatten();
    table.map(|(key, value)| format!("model.{key}={value}").replace('"', "")).collect()
}

/// An installation: a state directory, topics of its own, perhaps a running service.
pub struct Installation {
    name: String,
    binary: PathBuf,
    settings: Vec<String>,
    pub state: PathBuf,
    address: SocketAddr,
    child: Option<Child>,
    /// What the service said on stderr, where somebody listens.
    words: Arc<Mutex<String>>,
}

impl Installation {
    /// Makes the topics. `model` are further settings, `key=value`.
    pub fn make(brokers: &str, name: &str, dir: &Path, model: &[String]) -> Result<Installation> {
        let installation = Installation::plan(brokers, name, dir, model)?;
        installation.done(&["topics"])?;
        Ok(installation)
    }

    /// As [`Installation::make`], without topics.
    pub fn plan(brokers: &str, name: &str, dir: &Path, model: &[String]) -> Result<Installation> {
        let address = process::free_address().map_err(|e| e.to_string())?;
        let state = dir.join(name);
        let mut settings = vec![format!("kafka.brokers={brokers}"), format!("kafka.group={name}"), format!("http.listen={address}")];
        for topic in ["interactions", "forgets", "factors", "generations", "receipts", "dead_letters"] {
            settings.push(format!("topics.{topic}={name}.{topic}"));
        }
        settings.push(format!("store.path={}", state.display()));
        settings.push("log.level=warn".to_owned());
        settings.extend_from_slice(model);
        let binary = process::binary().map_err(|e| e.to_string())?;
        Ok(Installation { name: name.to_owned(), binary, settings, state, address, child: None, words: Arc::default() })
    }

    /// The same installation on another state directory and address; further settings overrule its own.
    pub fn twin(&self, state: PathBuf, more: &[String]) -> Result<Installation> {
        let address = process::free_address().map_err(|e| e.to_string())?;
        let mut settings = self.settings.clone();
        settings.extend([format!("store.path={}", state.display()), format!("http.listen={address}")]);
        settings.extend_from_slice(more);
        let (name, binary) = (self.name.clone(), self.binary.clone());
        Ok(Installation { name, binary, settings, state, address, child: None, words: Arc::default() })
    }

    /// A command with the settings of this installation.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(arguments);
        for setting in &self.settings {
            command.args(["--set", setting]);
        }
        command
    }

    /// Runs a command to its end; its stdout, if it ended well.
    pub fn done(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command(arguments).output().map_err(|e| format!("{arguments:?}: {e}"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        match output.status.success() {
            true => Ok(text),
            false => Err(format!("nepenthe {arguments:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr))),
        }
    }

    /// The exit code of a command.
    pub fn code(&self, arguments: &[&str]) -> Result<i32> {
        // Further arguments come last: the later of two settings holds.
        let (name, more) = arguments.split_first().ok_or("no command")?;
        let mut command = self.command(&[name]);
        let output = command.args(more).output().map_err(|e| e.to_string())?;
        output.status.code().ok_or(format!("nepenthe {arguments:?}: {}", output.status))
    }

    /// Its name, which is that of its group.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name of one of its topics.
    pub fn topic(&self, role: &str) -> String {
        format!("{}.{role}", self.name)
    }

    /// Runs a command that prints JSON.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.done(arguments)?;
        serde_json::from_str(&text).map_err(|e| format!("nepenthe {arguments:?} printed no JSON: {e}: {text}"))
    }

    /// Sends text to a command's stdin.
    pub fn feed(&self, arguments: &[&str], text: &str) -> Result<()> {
        let mut command = self.command(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(|e| e.to_string())?;
        let mut stdin = child.stdin.take().ok_or("no stdin")?;
        stdin.write_all(text.as_bytes()).map_err(|e| e.to_string())?;
        drop(stdin);
        let mut words = String::new();
        child.stderr.take().ok_or("no stderr")?.read_to_string(&mut words).map_err(|e| e.to_string())?;
        let status = child.wait().map_err(|e| e.to_string())?;
        if status.success() { Ok(()) } else { Err(format!("nepenthe {arguments:?}: {status}: {words}")) }
    }

    /// Starts the service.
    pub fn start(&mut self) -> Result<()> {
        self.child = Some(self.command(&["run"]).spawn().map_err(|e| e.to_string())?);
        Ok(())
    }

    /// As [`Installation::start`], and keeps what it says.
    pub fn start_heard(&mut self) -> Result<()> {
        let mut child = self.command(&["run"]).stderr(Stdio::piped()).spawn().map_err(|e| e.to_string())?;
        let mut stderr = child.stderr.take().ok_or("no stderr")?;
        self.child = Some(child);
        let words = Arc::new(Mutex::new(String::new()));
        self.words = words.clone();
        // Ends when the service does.
        std::thread::spawn(move || {
            let mut part = [0; 4096];
            while let Ok(length @ 1..) = stderr.read(&mut part) {
                words.lock().unwrap_or_else(PoisonError::into_inner).push_str(&String::from_utf8_lossy(&part[..length]));
            }
        });
        Ok(())
    }

    /// What the service has said since [`Installation::start_heard`].
    pub fn words(&self) -> String {
        self.words.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends a signal to the service, `STOP` or `CONT`.
    pub fn signal(&self, name: &str) -> Result<()> {
        let pid = self.pid().ok_or("no service runs")?.to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status().map_err(|e| e.to_string())?;
        if status.success() { Ok(()) } else { Err(format!("kill -s {name} {pid}: {status}")) }
    }

    /// Waits until the service ends by itself; its exit code.
    pub fn ended(&mut self) -> Result<i32> {
        let began = Instant::now();
        let child = self.child.as_mut().ok_or("no service runs")?;
        while began.elapsed() < PATIENCE {
            if let Some(status) = child.try_wait().map_err(|e| e.to_string())? {
                self.child = None;
                return status.code().ok_or(format!("the service ended with {status}: {}", self.words()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(format!("the service goes on after {PATIENCE:?}: {}", self.words()))
    }

    /// `kill -9`, as a power cut does it to the process.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Gone already is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Where its pages are.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Process number of the running service.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// SIGTERM, and a clean exit.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        Command::new("kill").arg(child.id().to_string()).status().map_err(|e| e.to_string())?;
        let status = child.wait().map_err(|e| e.to_string())?;
        if status.success() { Ok(()) } else { Err(format!("nepenthe run ended with {status}: {}", self.words())) }
    }

    /// The running service's own view; null while it does not answer.
    pub fn status(&self) -> Value {
        let page = process::get(self.address, "/v1/status").unwrap_or_default();
        serde_json::from_str(&page).unwrap_or_default()
    }

    /// Waits until the service says so; the time that it took.
    pub fn until(&mut self, what: &str, holds: impl Fn(&Value) -> bool) -> Result<Duration> {
        let began = Instant::now();
        loop {
            let status = self.status();
            if holds(&status) {
                return Ok(began.elapsed());
            }
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
                return Err(format!("the service ended while waiting for {what}: {status}: {}", self.words()));
            }
            if began.elapsed() > PATIENCE {
                return Err(format!("no {what} within {PATIENCE:?}: {status}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        self.kill();
    }
}

//! What a service manager sees of the process: it says that it is ready, takes a new level of the log, and ends in order.

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Of a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);

struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Service {
    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.0.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }
}

fn told(manager: &UnixDatagram) -> String {
    let mut bytes = [0; 256];
    let length = manager.recv(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

#[test]
fn a_manager_is_told_and_the_level_of_the_log_is_read_anew() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let manager = UnixDatagram::bind(at("notify")).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let configure = |line: &str| std::fs::write(at("nepenthe.toml"), format!("[log]\n{line}\n")).unwrap();
    configure("level = \"error\"");

    // No broker is needed to be up: nobody listens on port 1.
    let child = Command::new(env!("CARGO_BIN_EXE_nepenthe"))
        .args(["run", "--brokers", "127.0.0.1:1", "--set", "http.listen=127.0.0.1:0", "--config"])
        .arg(at("nepenthe.toml"))
        .arg("--state")
        .arg(at("state"))
        .env("NOTIFY_SOCKET", at("notify"))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut service = Service(child);
    let mut lines = BufReader::new(service.0.stderr.take().unwrap()).lines();
    let mut line_with = |words: &str| lines.by_ref().map(Result::unwrap).find(|line| line.contains(words)).expect(words);
    assert_eq!(told(&manager), "READY=1");

    configure("level = \"info\"");
    service.signal("HUP");
    assert!(line_with("read anew").contains("info"));
    configure("levle = \"debug\"");
    service.signal("HUP");
    line_with("stays as it was");

    service.signal("TERM");
    assert_eq!(told(&manager), "STOPPING=1");
    assert!(service.0.wait().unwrap().success());
}

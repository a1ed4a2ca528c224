//! Tells the service manager how far the service is, where it asked for it: systemd with `Type=notify`.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Where the manager listens; without one nothing is told.
pub struct Manager(Option<(UnixDatagram, SocketAddr)>);

impl Manager {
    /// `socket` is what the manager put into NOTIFY_SOCKET: a path, or after `@` a name in the abstract namespace.
    ///
    /// # Errors
    /// An address that is none, or no socket left.
    pub fn at(socket: Option<&OsStr>) -> io::Result<Manager> {
        let Some(socket) = socket else { return Ok(Manager(None)) };
        let address = match socket.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(socket)?,
        };
        Ok(Manager(Some((UnixDatagram::unbound()?, address))))
    }

    /// Says for example `READY=1`. The service goes on whether or not anybody listens.
    pub fn tell(&self, state: &str) {
        if let Manager(Some((socket, address))) = self
            && let Err(error) = socket.send_to_addr(state.as_bytes(), address)
        {
            tracing::warn!(%error, state, "the service manager cannot be told");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(listener: &UnixDatagram) -> String {
        let mut bytes = [0; 64];
        let length = listener.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    #[test]
    fn a_path_and_an_abstract_name_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let listener = UnixDatagram::bind(&path).unwrap();
        Manager::at(Some(path.as_os_str())).unwrap().tell("READY=1");
        assert_eq!(heard(&listener), "READY=1");

        let name = format!("nepenthe-test-{}", std::process::id());
        let listener = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name.as_bytes()).unwrap()).unwrap();
        Manager::at(Some(OsStr::new(&format!("@{name}")))).unwrap().tell("STOPPING=1");
        assert_eq!(heard(&listener), "STOPPING=1");
    }

    #[test]
    fn nobody_to_tell_is_fine() {
        Manager::at(None).unwrap().tell("READY=1");
        Manager::at(Some(OsStr::new("nowhere/notify"))).unwrap().tell("READY=1");
        assert!(Manager::at(Some(OsStr::new(&"x".repeat(500)))).is_err());
    }
}

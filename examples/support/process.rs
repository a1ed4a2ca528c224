//! What the examples need to run `nepenthe` as a child: its binary, a free port, a page of its HTTP server.

#![allow(dead_code, reason = "each example includes this file and uses its own part of it")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The service's binary: cargo puts it one directory above the examples.
pub fn binary() -> std::io::Result<PathBuf> {
    let this = std::env::current_exe()?;
    let binary = this.parent().and_then(Path::parent).unwrap_or(Path::new(".")).join("nepenthe");
    if binary.exists() {
        Ok(binary)
    } else {
        Err(std::io::Error::other(format!("{} is not there: run `cargo build --locked` first", binary.display())))
    }
}

/// An address on the loopback interface that nobody uses at the moment.
pub fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// The body of a page, whatever its status.
pub fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    answer(address, path).map(|(_, body)| body)
}

/// Status and body of a page; HTTP/1.0, so that the server closes behind it.
pub fn answer(address: SocketAddr, path: &str) -> std::io::Result<(String, String)> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    Ok((head.split(' ').nth(1).unwrap_or_default().to_owned(), body.to_owned()))
}

/// The largest resident memory that a process has had; `None` where the kernel does not tell.
pub fn peak_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kilobytes: u64 = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kilobytes * 1024)
}

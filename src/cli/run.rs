//! `nepenthe run`: the service, until it is told to stop.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::output::{Stream, colour};
use super::{CliError, Exit};
use crate::config::{Config, LogFormat};
use crate::kafka::client::check_properties;
use crate::run::service::TurnError;
use crate::run::{RunError, allocator, start};
use crate::store::StoreError;

impl From<RunError> for CliError {
    fn from(error: RunError) -> CliError {
        match error {
            RunError::Store(error) => error.into(),
            RunError::Turn(TurnError::Store(error @ (StoreError::Damaged { .. } | StoreError::UnknownVersion { .. }))) => error.into(),
            RunError::Source(_) | RunError::TokenFile { .. } | RunError::Token { .. } => CliError::new(Exit::Usage, error),
            _ => CliError::failed(error),
        }
    }
}

/// Runs until SIGTERM or SIGINT, then stops in order: nothing more is taken in, what is stored is handed out.
///
/// # Errors
/// Exit 1 when the loop ended by itself, 2 for refused properties, 3 and 4 for the state directory.
pub fn run(config: Config) -> Result<(), CliError> {
    allocator::keep_little();
    log(&config);
    check_properties(&config.kafka.properties).map_err(CliError::usage)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CliError::failed)?;
    // Before the start, so that an early signal is not lost.
    let (mut terminate, mut interrupt, _growing) = {
        let _guard = runtime.enter();
        let listen = |kind| signal(kind).map_err(|e| CliError::failed(format!("cannot listen for signals: {e}")));
        // A file that may not grow any more is an error of the write, like a full disk, and not the silent end that it would be
        // if nobody listened.
        (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?, listen(SignalKind::from_raw(libc::SIGXFSZ))?)
    };
    let running = start(config)?;
    if let Some(address) = running.http_addr() {
        tracing::info!(%address, "serving status and metrics");
    }
    loop {
        let signalled = runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => true,
                _ = interrupt.recv() => true,
                () = tokio::time::sleep(Duration::from_millis(250)) => false,
            }
        });
        if signalled {
            tracing::info!("stopping");
            return Ok(running.stop()?);
        }
        if let Some(ended) = running.ended(Duration::ZERO) {
            return Ok(ended?);
        }
    }
}

fn log(config: &Config) {
    let builder = tracing_subscriber::fmt().with_env_filter(EnvFilter::new(&config.log.level)).with_writer(std::io::stderr);
    // Refused only where a log is set up already, as in a test.
    let _ = match config.log.format {
        LogFormat::Text => builder.with_ansi(colour(Stream::Err)).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}

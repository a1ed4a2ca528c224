//! `nepenthe run`: the service, until it is told to stop.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::notify::Manager;
use super::output::{Stream, colour};
use super::{CliError, Exit};
use crate::config::{Config, LogFormat, Sources, notify_socket};
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

/// Changes what is logged; false where it cannot be changed.
type Relevel = Box<dyn Fn(&str) -> bool>;

/// Runs until SIGTERM or SIGINT, then stops in order: nothing more is taken in, what is stored is handed out. At SIGHUP
/// the level of the log is read anew from `sources`.
///
/// # Errors
/// Exit 1 when the loop ended by itself, 2 for refused properties, 3 and 4 for the state directory.
pub fn run(config: Config, sources: &Sources) -> Result<(), CliError> {
    allocator::keep_little();
    let relevel = log(&config);
    check_properties(&config.kafka.properties).map_err(CliError::usage)?;
    let manager = Manager::at(notify_socket().as_deref()).map_err(|e| CliError::usage(format!("NOTIFY_SOCKET: {e}")))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CliError::failed)?;
    // Before the start, so that an early signal is not lost.
    let (mut terminate, mut interrupt, mut hangup, _growing) = {
        let _guard = runtime.enter();
        let listen = |kind| signal(kind).map_err(|e| CliError::failed(format!("cannot listen for signals: {e}")));
        // A file that may not grow any more is an error of the write, like a full disk, and not the silent end that it would be
        // if nobody listened.
        let growing = listen(SignalKind::from_raw(libc::SIGXFSZ))?;
        (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?, listen(SignalKind::hangup())?, growing)
    };
    let running = start(config)?;
    if let Some(address) = running.http_addr() {
        tracing::info!(%address, "serving status and metrics");
    }
    manager.tell("READY=1");
    loop {
        let signalled = runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => Some(true),
                _ = interrupt.recv() => Some(true),
                _ = hangup.recv() => Some(false),
                () = tokio::time::sleep(Duration::from_millis(250)) => None,
            }
        });
        match signalled {
            Some(true) => {
                tracing::info!("stopping");
                manager.tell("STOPPING=1");
                return Ok(running.stop()?);
            }
            Some(false) => reload(sources, &relevel),
            None => (),
        }
        if let Some(ended) = running.ended(Duration::ZERO) {
            return Ok(ended?);
        }
    }
}

/// A configuration that is refused changes nothing.
fn reload(sources: &Sources, relevel: &Relevel) {
    match Config::load(sources) {
        Ok(config) if relevel(&config.log.level) => tracing::info!(level = config.log.level, "the level of the log was read anew"),
        Ok(_) => tracing::warn!("the level of the log cannot be changed"),
        Err(error) => tracing::warn!(%error, "the level of the log stays as it was: the configuration is refused"),
    }
}

fn log(config: &Config) -> Relevel {
    let builder = tracing_subscriber::fmt().with_env_filter(EnvFilter::new(&config.log.level)).with_writer(std::io::stderr);
    // Refused only where a log is set up already, as in a test.
    match config.log.format {
        LogFormat::Text => {
            let builder = builder.with_ansi(colour(Stream::Err)).with_filter_reloading();
            let handle = builder.reload_handle();
            let _ = builder.try_init();
            Box::new(move |level| handle.reload(EnvFilter::new(level)).is_ok())
        }
        LogFormat::Json => {
            let builder = builder.json().with_filter_reloading();
            let handle = builder.reload_handle();
            let _ = builder.try_init();
            Box::new(move |level| handle.reload(EnvFilter::new(level)).is_ok())
        }
    }
}

//! Waiting with an end: for what is to come, at most so long, and not after Ctrl-C.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::signal::unix::{SignalKind, signal};

use super::DemoError;

/// Longer than any wait of the show on a slow machine.
const LIMIT: Duration = Duration::from_secs(60);
/// Between two looks: short against everything that is timed.
const GLANCE: Duration = Duration::from_millis(5);

/// Shared by all that wait. Whoever waits when SIGINT, SIGTERM or SIGHUP comes gets an error, so that the way out is the ordinary
/// one: services stopped, directory removed.
#[derive(Clone)]
pub struct Patience {
    interrupted: Arc<AtomicBool>,
}

impl Patience {
    /// Begins to listen for signals, on a thread of its own.
    ///
    /// # Errors
    /// [`DemoError::Signals`] when the system does not let it.
    pub fn new() -> Result<Patience, DemoError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(DemoError::Signals)?;
        let (mut interrupt, mut terminate, mut hangup) = {
            let _guard = runtime.enter();
            let listen = |kind| signal(kind).map_err(DemoError::Signals);
            (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?, listen(SignalKind::hangup())?)
        };
        let interrupted = Arc::new(AtomicBool::new(false));
        let flag = interrupted.clone();
        let wait = move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => (),
                    _ = terminate.recv() => (),
                    _ = hangup.recv() => (),
                }
            });
            flag.store(true, Ordering::Relaxed);
        };
        // Never joined: it waits for a signal that usually does not come.
        std::thread::Builder::new().name("signals".into()).spawn(wait).map_err(DemoError::Signals)?;
        Ok(Patience { interrupted })
    }

    /// Looks again and again until there is an answer.
    ///
    /// # Errors
    /// [`DemoError::Late`] after a minute, [`DemoError::Interrupted`] after a signal, and whatever `look` fails with.
    pub fn until<T>(&self, what: &str, mut look: impl FnMut() -> Result<Option<T>, DemoError>) -> Result<T, DemoError> {
        let started = now();
        loop {
            if let Some(answer) = look()? {
                return Ok(answer);
            }
            if started.elapsed() > LIMIT {
                return Err(DemoError::Late { what: what.to_owned(), seconds: LIMIT.as_secs() });
            }
            self.rest(GLANCE)?;
        }
    }

    /// Sleeps.
    ///
    /// # Errors
    /// [`DemoError::Interrupted`] after a signal.
    pub fn rest(&self, time: Duration) -> Result<(), DemoError> {
        if self.interrupted.load(Ordering::Relaxed) {
            return Err(DemoError::Interrupted);
        }
        std::thread::sleep(time);
        Ok(())
    }
}

#[expect(clippy::disallowed_methods, reason = "a command may read the clock: the show prints seconds and must end")]
pub fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "a command may read the clock: receipts carry times of day")]
pub fn time_of_day() -> Timestamp {
    Timestamp::now()
}

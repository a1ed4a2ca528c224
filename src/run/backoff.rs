//! Pauses and delays on a clock that is handed in.

use std::time::Duration;

use crate::model::Millis;

/// First pause after a failed publication or solve; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Millis = 500;
const LONGEST_PAUSE: Millis = 30_000;

/// A pause that grows while something keeps failing.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    until: Millis,
    pause: Millis,
}

impl Backoff {
    pub(super) fn fail(&mut self, now: Millis) {
        self.pause = (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        self.until = now + self.pause;
    }

    pub(super) fn succeed(&mut self) {
        *self = Backoff::default();
    }

    /// Has it failed, and not succeeded since?
    pub(super) fn is_on(&self) -> bool {
        self.pause > 0
    }

    /// A clock that was set back must not make the pause longer than it ever is.
    pub(super) fn is_over(&self, now: Millis) -> bool {
        now >= self.until || self.until - now > LONGEST_PAUSE
    }
}

/// Is the delay over? So it is when the clock was set back.
pub(super) fn passed(since: Option<Millis>, delay: Duration, now: Millis) -> bool {
    since.is_some_and(|since| now < since || now - since >= Millis::try_from(delay.as_millis()).unwrap_or(Millis::MAX))
}

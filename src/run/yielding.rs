//! While the disk is purged, reading makes room for it: flushes and compactions of an erasure wait for those that writing
//! calls for, and at full ingest they would take ten times as long.

use crate::model::Millis;

/// Events a second that are taken in while reading makes room. Where no more come, nobody notices.
const RATE: i64 = 20_000;
/// An erasure that takes longer has this long only.
const LONGEST: Millis = 3_000;
/// Reading goes at its own pace for this many times as long as it has made room: a twentieth of it is lost at the most.
const THEN: i64 = 19;

/// When reading makes room, and what it still takes in.
#[derive(Debug, Default)]
pub(super) struct Yielding {
    /// Since when it does, and events taken in since then.
    under_way: Option<(Millis, i64)>,
    /// When it may again, and the pause that this is the end of.
    next: Option<(Millis, Millis)>,
}

impl Yielding {
    /// An erasure begins.
    pub fn begin(&mut self, now: Millis) {
        // A clock that was set back must not make the pause longer than it is meant to be.
        if self.next.is_none_or(|(next, pause)| now >= next || next - now > pause) {
            self.under_way = Some((now, 0));
        }
    }

    /// It is over, or has had its time.
    pub fn end(&mut self, now: Millis) {
        if let Some((since, _)) = self.under_way.take() {
            let pause = (now - since).clamp(0, LONGEST) * THEN;
            self.next = Some((now + pause, pause));
        }
    }

    /// May a batch be taken in now?
    pub fn may_take(&mut self, now: Millis) -> bool {
        let Some((since, taken)) = self.under_way else { return true };
        if !(0..LONGEST).contains(&(now - since)) {
            self.end(now);
            return true;
        }
        taken * 1_000 <= (now - since) * RATE
    }

    /// So many events were taken in.
    pub fn took(&mut self, events: usize) {
        if let Some((_, taken)) = &mut self.under_way {
            *taken += events as i64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Events of a source that is never empty, in batches of `batch`, until `end`; a millisecond a turn.
    fn taken(yielding: &mut Yielding, from: Millis, end: Millis, batch: usize) -> usize {
        let may = (from..end).filter(|&now| {
            let may = yielding.may_take(now);
            if may {
                yielding.took(batch);
            }
            may
        });
        may.count() * batch
    }

    #[test]
    fn a_trickle_is_not_held_back_and_a_flood_is() {
        let mut yielding = Yielding::default();
        assert_eq!(taken(&mut yielding, 0, 100, 10_000), 1_000_000, "nothing is purged");
        yielding.begin(100);
        assert_eq!(taken(&mut yielding, 100, 1_100, 19), 19_000, "a trickle");
        yielding.end(1_100);
        yielding.begin(50_000);
        // The first batch is free, and what is taken at once is made up for.
        let flood = taken(&mut yielding, 50_000, 51_000, 10_000);
        assert!((20_000..=30_000).contains(&flood), "{flood}");
    }

    #[test]
    fn it_lasts_three_seconds_at_most_and_a_twentieth_of_the_time() {
        let mut yielding = Yielding::default();
        yielding.begin(0);
        assert!(yielding.may_take(0));
        yielding.took(1_000_000);
        assert!(!yielding.may_take(2_999));
        assert!(yielding.may_take(3_000), "an erasure that does not end holds up nobody for ever");
        yielding.begin(59_999);
        yielding.took(1_000_000);
        assert!(yielding.may_take(59_999), "too early for the next");
        yielding.begin(60_000);
        yielding.took(1_000_000);
        assert!(!yielding.may_take(60_001));
    }

    #[test]
    fn a_clock_that_is_set_back_holds_up_nobody() {
        let mut yielding = Yielding::default();
        yielding.begin(1_000_000);
        yielding.took(1_000_000);
        assert!(yielding.may_take(0));
        yielding.begin(1_000_000);
        yielding.took(1_000_000);
        assert!(!yielding.may_take(1_000_001));
        yielding.end(1_000_002);
        yielding.begin(500);
        yielding.took(1_000_000);
        assert!(!yielding.may_take(501), "a pause of the old clock does not count");
    }
}

//! Generated interactions: every event id once, users and items by a power law, the same for the same seed.

#![allow(dead_code, reason = "each example includes this file and uses its own part of it")]

use std::io::Write as _;

/// 2024-01-01T00:00:00Z in milliseconds.
const FIRST_TIME: u64 = 1_704_067_200_000;

/// An endless row of events, written into one buffer.
pub struct Events {
    state: u64,
    users: u64,
    items: u64,
    number: u64,
    text: Vec<u8>,
}

impl Events {
    pub fn new(seed: u64, users: u64, items: u64) -> Events {
        Events { state: seed, users, items, number: 0, text: Vec::with_capacity(256) }
    }

    /// The user's number and the event as JSON, about 124 bytes.
    pub fn next(&mut self) -> (u64, &[u8]) {
        let (user, item) = (self.rank(self.users), self.rank(self.items));
        let time = FIRST_TIME + self.number * 7;
        self.text.clear();
        // Writing to a vector cannot fail.
        let _ = write!(
            self.text,
            r#"{{"type":"interaction","event_id":"evt-{:012}","user":"user-{user:06}","item":"item-{item:05}","value":1,"time":{time}}}"#,
            self.number
        );
        self.number += 1;
        (user, &self.text)
    }

    /// How many events there were.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// A record that is no event, of a kind that comes round: cut off, no UTF-8, a number beyond all bounds, a thousand brackets,
    /// a field missing, of another type, or an id of a kilobyte.
    pub fn damaged(&mut self) -> &[u8] {
        const BRACKETS: &str = "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[";
        let (kind, n) = (self.random() % 8, self.number);
        self.text.clear();
        let _ = match kind {
            0 => write!(self.text, r#"{{"type":"interaction","event_id":"evt-{n:012}","user":"user-"#),
            1 => self.text.write_all(b"{\"user\":\"\xed\xa0\x80\",\"item\":\"item-00001\"}"),
            2 => write!(self.text, r#"{{"user":"user-1","item":"item-1","value":1e999,"event_id":"{n}"}}"#),
            3 => (0..16).try_for_each(|_| write!(self.text, "{BRACKETS}")),
            4 => write!(self.text, r#"{{"user":"user-1","event_id":"evt-{n:012}","value":1}}"#),
            5 => write!(self.text, r#"{{"user":"user-1","item":["item-1"],"event_id":"evt-{n:012}"}}"#),
            6 => write!(self.text, r#"{{"user":"{n:01000}","item":"item-1"}}"#),
            _ => write!(self.text, r#"{{"type":"forget","user":null,"items":["item-1"],"event_id":"{n}"}}"#),
        };
        &self.text
    }

    /// Once in a hundred times `percent`.
    pub fn chance(&mut self, percent: f64) -> bool {
        (self.random() >> 11) as f64 / ((1u64 << 53) as f64) < percent / 100.0
    }

    /// A number below `n` whose density falls as the square root of its place. At 5 M events the first of 138,493 users
    /// has some 13,000 and the first of 26,744 items some 31,000, about as in MovieLens-20M.
    fn rank(&mut self, n: u64) -> u64 {
        let uniform = (self.random() >> 11) as f64 / (1u64 << 53) as f64;
        ((n as f64 * uniform * uniform) as u64).min(n - 1)
    }

    /// SplitMix64 (Steele, Lea, Flood, *Fast Splittable Pseudorandom Number Generators*, OOPSLA 2014).
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

//! Everything that a simulation leaves to chance, from one seed.

use crate::model::splitmix::SplitMix64;

/// What a world asks of chance.
#[derive(Debug, Clone)]
pub(in crate::run) struct Chance(SplitMix64);

impl Chance {
    pub fn new(seed: u64) -> Chance {
        Chance(SplitMix64::new(seed))
    }

    /// Another source of chance: what it is asked does not change what this one answers.
    pub fn fork(&mut self) -> Chance {
        Chance::new(self.0.bits())
    }

    /// Uniform in 0..n.
    pub fn below(&mut self, n: usize) -> usize {
        self.0.below(n)
    }

    /// Uniform, both ends included.
    pub fn between(&mut self, least: i64, most: i64) -> i64 {
        least + self.below((most - least) as usize + 1) as i64
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

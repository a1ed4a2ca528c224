//! Fuzzing with the stable compiler, as tests beside the decoders: `fuzz_*`. Inputs are mutations of what a decoder should
//! read, drawn from a seed; whatever it answers is fine, a panic is not, and prints the input.
//!
//! In `cargo test` a fixed number of cases, not guided by anything. Under `make fuzz` this crate (not its dependencies) is compiled
//! with LLVM's coverage counters: an input that reaches an edge, or reaches one more often, is kept and mutated further,
//! as libFuzzer does it.

#[cfg(test)]
pub(crate) mod mutate;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use mutate::{Dice, mutate};

/// Cases of one target, unless `FUZZ_CASES` or `FUZZ_SECONDS` say otherwise.
const CASES: u64 = 20_000;
/// Longest input that is made, in bytes.
const LONGEST: usize = 1 << 15;

/// Calls `target` with mutations of `seeds`, after the seeds themselves.
pub(crate) fn fuzz<S: AsRef<[u8]>>(name: &str, seeds: &[S], target: impl Fn(&[u8])) {
    go(name, &Plan::of_process(CASES), seeds, target);
}

/// [`fuzz`] for a target of which a case costs ten times as much: a file is written, say.
pub(crate) fn fuzz_costly<S: AsRef<[u8]>>(name: &str, seeds: &[S], target: impl Fn(&[u8])) {
    go(name, &Plan::of_process(CASES / 10), seeds, target);
}

fn go<S: AsRef<[u8]>>(name: &str, plan: &Plan, seeds: &[S], target: impl Fn(&[u8])) {
    let mut dice = Dice::new(plan.seed);
    let mut coverage = Coverage::new();
    let mut corpus: Vec<Vec<u8>> = seeds.iter().map(|seed| seed.as_ref().to_vec()).collect();
    for seed in corpus.clone() {
        run(name, plan, 0, &seed, &target);
        coverage.is_new();
    }
    let (mut cases, began) = (0, now());
    while plan.goes_on(cases, began) {
        cases += 1;
        let mut input = corpus[dice.below(corpus.len())].clone();
        let other = &corpus[dice.below(corpus.len())];
        mutate(&mut dice, &mut input, other);
        input.truncate(LONGEST);
        run(name, plan, cases, &input, &target);
        if coverage.is_new() {
            corpus.push(input);
        }
    }
    let (kind, seconds) = (if coverage.guides() { "coverage-guided" } else { "not guided" }, began.elapsed().as_secs_f64());
    println!(
        "fuzz {name}: {cases} cases in {seconds:.1} s, {kind}, {} inputs kept, {} edges",
        corpus.len() - seeds.len(),
        coverage.edges()
    );
}

fn run(name: &str, plan: &Plan, case: u64, input: &[u8], target: &impl Fn(&[u8])) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(input))) {
        eprintln!("fuzz {name}: case {case} of seed {} fails, with this input:\n{}", plan.seed, input.escape_ascii());
        resume_unwind(panic);
    }
}

/// How long, and from which seed.
struct Plan {
    seed: u64,
    cases: u64,
    time: Option<Duration>,
}

impl Plan {
    #[expect(clippy::disallowed_methods, reason = "how long to fuzz is told by whoever starts it")]
    fn of_process(cases: u64) -> Plan {
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let seconds = number("FUZZ_SECONDS");
        Plan {
            seed: number("FUZZ_SEED").unwrap_or(1),
            cases: number("FUZZ_CASES").unwrap_or(cases),
            time: seconds.map(Duration::from_secs),
        }
    }

    fn goes_on(&self, cases: u64, began: Instant) -> bool {
        match self.time {
            // Not at every case: the clock costs as much as a small one.
            Some(time) => !cases.is_multiple_of(256) || began.elapsed() < time,
            None => cases < self.cases,
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a long run ends by the clock")]
fn now() -> Instant {
    Instant::now()
}

/// Counters of the edges of this crate, one byte each; there are none unless it was compiled with them.
static COUNTERS: OnceLock<&'static [AtomicU8]> = OnceLock::new();

/// Called before `main` by code that LLVM puts into an instrumented crate.
#[expect(unsafe_code, reason = "the two ends of an array that lives as long as the program, from the linker")]
#[unsafe(no_mangle)]
unsafe extern "C" fn __sanitizer_cov_8bit_counters_init(start: *const AtomicU8, stop: *const AtomicU8) {
    // SAFETY: LLVM calls it with the first and one past the last of the counters, which are bytes and never move.
    let counters = unsafe { std::slice::from_raw_parts(start, stop.offset_from_unsigned(start)) };
    // The first is of this crate: only it is instrumented.
    let _ = COUNTERS.set(counters);
}

/// What was ever reached.
struct Coverage {
    counters: &'static [AtomicU8],
    /// Of each edge the numbers of visits seen, by their power of two.
    seen: Vec<u8>,
}

impl Coverage {
    fn new() -> Coverage {
        let counters = COUNTERS.get().copied().unwrap_or_default();
        counters.iter().for_each(|counter| counter.store(0, Ordering::Relaxed));
        Coverage { counters, seen: vec![0; counters.len()] }
    }

    fn guides(&self) -> bool {
        !self.counters.is_empty()
    }

    fn edges(&self) -> usize {
        self.seen.iter().filter(|seen| **seen > 0).count()
    }

    /// Whether the last case reached something new; counts anew from here.
    fn is_new(&mut self) -> bool {
        let mut new = false;
        for (counter, seen) in self.counters.iter().zip(&mut self.seen) {
            let count = counter.load(Ordering::Relaxed);
            if count > 0 {
                counter.store(0, Ordering::Relaxed);
                let visits = 1u8 << count.ilog2();
                new |= *seen & visits == 0;
                *seen |= visits;
            }
        }
        new
    }
}

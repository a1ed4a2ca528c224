//! A generation on its way: everything it is made from, solved beside the loop.

use std::sync::Arc;

use pulp::Arch;
use rayon::prelude::*;

use super::als::{RowFailed, Weights};
use super::certificate::measure;
use super::digest::LtHash;
use super::factors::{Factors, Side, Table};
use super::local::{self, Base, Local, Step};
use super::ratings::Change;
use super::receipt::RequestKey;
use super::step::{Marks, Positions, RowChange};
use super::unlearn::{self, Problem, Solution, Watch};

/// All that a generation is made from; independent of the state from here on.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub struct Job {
    pub problem: Problem,
    pub(super) number: u64,
    pub(super) parent: Option<u64>,
    pub(super) cut: Positions,
    pub(super) names: [Arc<Vec<Option<Arc<str>>>>; 2],
    /// What readers and the store have.
    pub(super) published: Option<Arc<Factors>>,
    pub(super) digest: LtHash,
    /// Rows that lost their data before they were ever published.
    pub(super) dropped: Vec<(Side, u32)>,
    pub(super) requests: Vec<RequestKey>,
    /// What readers have is not `published`: only the numbers of their rows are known, and all rows go out anew.
    pub(super) afresh: Option<[Marks; 2]>,
    /// Only what changed is to be solved, for an interim generation.
    pub(super) quick: Option<Quick>,
}

/// What an interim generation is made from besides.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Quick {
    /// Pairs in which the data differ from those of the certified generation that the problem goes on from.
    pub changes: Vec<Change>,
    /// What that generation keeps, if it was solved in this process; and the mean of its ratings.
    pub base: Option<Arc<Base>>,
    pub mean: f64,
    /// Whether its rank binds: nobody looks again before the solve of everything.
    pub rank_binds: bool,
}

/// A solved generation.
#[derive(Debug)]
pub struct Outcome {
    pub(super) job: Job,
    pub solution: Solution,
    /// Only what changed was solved.
    pub(super) interim: bool,
    /// For a step after this generation, if it is certified.
    pub(super) base: Option<Arc<Base>>,
    pub(super) rows: Vec<(Side, u32, RowChange)>,
    pub(super) stored: Vec<(Side, u32)>,
    pub(super) digest: LtHash,
}

impl Outcome {
    /// Is the residual below the tolerance?
    pub fn is_certified(&self) -> bool {
        self.solution.measured.residual <= self.job.problem.params.tolerance
    }

    /// Did a forget wait for it?
    pub fn serves(&self) -> bool {
        self.job.serves()
    }
}

impl Job {
    /// The number that the generation will have.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Will it be an interim generation?
    pub fn is_interim(&self) -> bool {
        self.quick.is_some()
    }

    /// Does a forget wait for it?
    pub fn serves(&self) -> bool {
        !self.requests.is_empty()
    }

    /// How many forgets wait for it.
    #[cfg(test)]
    pub fn requests(&self) -> usize {
        self.requests.len()
    }

    /// The same job in a process that kept nothing of earlier generations.
    #[cfg(test)]
    pub fn without_memory(&self) -> Job {
        let quick = self.quick.clone().map(|quick| Quick { base: None, ..quick });
        Job { quick, ..self.clone() }
    }

    /// Solves the frozen problem and works out what its readers must be told.
    ///
    /// # Errors
    /// [`RowFailed`] names a row that cannot be solved.
    pub fn run(mut self, watch: &dyn Watch) -> Result<Outcome, RowFailed> {
        let arch = Arch::new();
        let mut touched = None;
        if let Some(quick) = self.quick.take() {
            let (solution, local) = self.step(arch, &quick)?;
            if solution.measured.residual > self.problem.params.tolerance {
                touched = Some((solution, local));
            } else {
                // That is the optimum, or a saddle: a solve from here takes no sweep to tell.
                self.problem.previous = Some(Arc::new(solution.factors));
            }
        }
        let (solution, local) = match touched {
            Some((solution, local)) => (solution, Some(local)),
            None => (unlearn::solve(arch, &self.problem, watch)?, None),
        };
        let certified = solution.measured.residual <= self.problem.params.tolerance;
        let base = (local.is_none() && certified).then(|| Arc::new(Base::of(arch, &solution.factors, solution.mean)));
        let mut told =
            Difference { rows: self.dropped.iter().map(|&(side, row)| (side, row, RowChange::Drop)).collect(), ..Difference::default() };
        for side in Side::BOTH {
            let (old, new) = (self.published.as_ref().map(|factors| factors.side(side)), solution.factors.side(side));
            let there = self.afresh.as_ref().map(|rows| &rows[side as usize]);
            let named = self.names[side as usize].len();
            let all = || (0..new.len().max(old.map_or(0, Table::len)).max(named) as u32).collect();
            let rows: Vec<u32> = local.as_ref().map_or_else(all, |local| local.rows(side));
            told.append(difference(side, old, new, there, &rows, &self.names[side as usize]));
        }
        let mut digest = self.digest.clone();
        digest.merge(&told.digest);
        Ok(Outcome { interim: local.is_some(), job: self, solution, base, rows: told.rows, stored: told.stored, digest })
    }

    /// Solves what changed, and measures how far from the optimum that is.
    fn step(&self, arch: Arch, quick: &Quick) -> Result<(Solution, Local), RowFailed> {
        let Problem { params, ratings, previous, initial } = &self.problem;
        let none = Arc::new(Factors::new(params.rank));
        let before = previous.as_ref().unwrap_or(&none);
        let base = quick.base.clone().unwrap_or_else(|| Arc::new(Base::of(arch, before, quick.mean)));
        let local = local::step(Step { params, ratings, before, base: &base, changes: &quick.changes, initial })?;
        let mut factors = Factors::clone(before);
        local.apply(&mut factors);
        let measured = measure(arch, ratings, &factors, &Weights::new(params, local.mean));
        let solution = Solution {
            factors,
            mean: local.mean,
            measured,
            sweeps: 0,
            effective_rank: None,
            sigma: None,
            rank_binds: quick.rank_binds,
            verdict: None,
            trace: Vec::new(),
        };
        Ok((solution, local))
    }
}

/// What differs between two versions of the factors.
#[derive(Default)]
struct Difference {
    /// What readers see differently, and what that does to the digest.
    rows: Vec<(Side, u32, RowChange)>,
    digest: LtHash,
    /// What the store has differently: readers see f32 only.
    stored: Vec<(Side, u32)>,
}

impl Difference {
    fn append(&mut self, more: Difference) {
        self.rows.extend(more.rows);
        self.stored.extend(more.stored);
        self.digest.merge(&more.digest);
    }
}

/// What differs in these rows; with `there`, readers have those rows and nothing is known of their values.
fn difference(side: Side, old: Option<&Table>, new: &Table, there: Option<&Marks>, rows: &[u32], names: &[Option<Arc<str>>]) -> Difference {
    let parts: Vec<Difference> = rows
        .par_chunks(512)
        .map(|rows| {
            let mut found = Difference::default();
            for &row in rows {
                let at = row as usize;
                let same = match (old.and_then(|old| old.row(at)), new.row(at)) {
                    (None, None) => true,
                    (Some(old), Some(new)) => old.len() == new.len() && old.iter().zip(new).all(|(a, b)| a.to_bits() == b.to_bits()),
                    _ => false,
                };
                if !same {
                    found.stored.push((side, row));
                }
                let (before, after) = match there {
                    Some(there) if new.is_live(at) || there.contains(row) => (None, new.published(at)),
                    None if !same => (old.and_then(|old| old.published(at)), new.published(at)),
                    _ => continue,
                };
                if before == after && there.is_none() {
                    continue;
                }
                // A row that exists has a name: names go only once their tombstone is out.
                let Some(name) = names.get(at).and_then(Option::as_deref) else { continue };
                let key = side.key(name);
                if let Some(before) = &before {
                    found.digest.remove(key.as_bytes(), before);
                }
                if let Some(after) = &after {
                    found.digest.add(key.as_bytes(), after);
                }
                found.rows.push((side, row, if after.is_some() { RowChange::Put } else { RowChange::Tombstone }));
            }
            found
        })
        .collect();
    parts.into_iter().fold(Difference::default(), |mut all, part| {
        all.append(part);
        all
    })
}

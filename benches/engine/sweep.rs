//! Exact sweeps against a large matrix product in the same process, against other libraries, and the certificate's pass.

use std::sync::Arc;

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, Par};
use nepenthe::model::als::{Half, Kept, Precision, Weights, half_sweep, half_sweep_on};
use nepenthe::model::certificate::measure;
use nepenthe::model::factors::{Factors, Side, Table, initial_row};
use nepenthe::model::ratings::Ratings;
use nepenthe::model::{Certify, Objective, Params};
use pulp::Arch;
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::Plan;
use crate::support::peers::Peers;
use crate::support::report::{Report, median, timed};

/// The sum that all peers minimise: weights 1 + r of observed pairs, 1 of others, λ alike for all rows.
fn params(rank: usize) -> Params {
    Params {
        objective: Objective::Implicit,
        rank,
        regularization: 10.0,
        regularization_exp: 0.0,
        alpha: 1.0,
        unobserved_weight: 1.0,
        tolerance: 1e-7,
        certify: Certify::Residual,
        max_sweeps: 1,
        seed: 1,
        threads: 0,
    }
}

/// Factors on their way, swept over and over.
struct Sweeper {
    arch: Arch,
    ratings: Arc<Ratings>,
    weights: Weights,
    factors: Factors,
}

impl Sweeper {
    /// Every row exists; items start at random.
    fn new(ratings: &Arc<Ratings>, rank: usize) -> Sweeper {
        let mut factors = Factors::new(rank);
        for item in 0..ratings.items.len() {
            factors.items.set(item, &initial_row(1, Side::Item, &item.to_string(), rank));
        }
        let zeros = vec![0.0; rank];
        (0..ratings.users.len()).for_each(|user| factors.users.set(user, &zeros));
        Sweeper { arch: Arch::new(), ratings: ratings.clone(), weights: Weights::new(&params(rank), 0.0), factors }
    }

    /// Both sides once, in f32 as the peers.
    fn sweep(&mut self) -> Result<(), String> {
        self.sweep_in(Precision::Single)
    }

    fn sweep_in(&mut self, precision: Precision) -> Result<(), String> {
        self.sweep_with(precision, [None, None])
    }

    fn sweep_with(&mut self, precision: Precision, [of_users, of_items]: [Option<&mut Kept>; 2]) -> Result<(), String> {
        let (way, users, items) = ((self.arch, precision), self.factors.users.count(), self.factors.items.count());
        let half = Half { side: Side::User, rows: &self.ratings.users, fixed: &self.factors.items, weights: &self.weights };
        solved(way, half, of_users, &mut self.factors.users, items)?;
        let half = Half { side: Side::Item, rows: &self.ratings.items, fixed: &self.factors.users, weights: &self.weights };
        solved(way, half, of_items, &mut self.factors.items, users)?;
        Ok(())
    }

    fn measure(&self) -> f64 {
        measure(self.arch, &self.ratings, &self.factors, &self.weights).residual
    }

    /// Of a sweep: the triangle of the normal equations of every pair on both sides, and a Cholesky factorisation a row.
    fn flops(&self) -> f64 {
        let k = self.factors.users.rank() as f64;
        let (pairs, rows) = (self.ratings.pairs() as f64, (self.ratings.users.len() + self.ratings.items.len()) as f64);
        2.0 * pairs * k * (k + 1.0) + rows * k.powi(3) / 3.0
    }
}

fn solved(
    (arch, precision): (Arch, Precision),
    half: Half<'_>,
    kept: Option<&mut Kept>,
    target: &mut Table,
    others: usize,
) -> Result<(), String> {
    let swept = match kept {
        Some(kept) => half_sweep_on(arch, half, precision, kept, target, others),
        None => half_sweep(arch, half, precision, target, others),
    };
    swept.map(|_| ()).map_err(|e| e.to_string())
}

pub fn pool(threads: usize) -> Result<ThreadPool, String> {
    ThreadPoolBuilder::new().num_threads(threads).build().map_err(|e| format!("{threads} threads: {e}"))
}

/// GFLOP/s of faer's product of two single-precision matrices; each of two threads makes one half of the columns.
struct Sgemm {
    n: usize,
    left: Mat<f32>,
    right: Mat<f32>,
    product: Mat<f32>,
}

impl Sgemm {
    fn new(n: usize) -> Sgemm {
        let filled = |shift: usize| Mat::from_fn(n, n, |i, j| ((i * 31 + j * 17 + shift) % 64) as f32 / 64.0 - 0.5);
        Sgemm { n, left: filled(0), right: filled(5), product: Mat::zeros(n, n) }
    }

    fn run(&mut self, pool: &ThreadPool) -> f64 {
        let (n, left) = (self.n, self.left.as_ref());
        let (first, second) = self.right.as_ref().split_at_col(n / 2);
        let (one, two) = self.product.as_mut().split_at_col_mut(n / 2);
        let ((), seconds) = timed(|| {
            pool.install(|| {
                rayon::join(
                    || matmul(one, Accum::Replace, left, first, 1.0, Par::Seq),
                    || matmul(two, Accum::Replace, left, second, 1.0, Par::Seq),
                )
            });
        });
        std::hint::black_box(self.product[(n - 1, n - 1)]);
        2.0 * (n as f64).powi(3) / seconds / 1e9
    }
}

/// Sweeps at one and two threads against sgemm, for each rank; the certificate's pass against a sweep.
pub fn run(report: &mut Report, plan: &Plan, ratings: &Arc<Ratings>) -> Result<(), String> {
    let (one, two) = (pool(1)?, pool(2)?);
    let mut sgemm = Sgemm::new(if plan.quick { 1024 } else { 2048 });
    for rank in [32, 64, 128] {
        let mut sweeper = Sweeper::new(ratings, rank);
        two.install(|| sweeper.sweep())?;
        let start = sweeper.factors.clone();
        let (done, seconds) = timed(|| one.install(|| sweeper.sweep()));
        done?;
        let single = std::mem::replace(&mut sweeper.factors, start);
        let (mut sweeps, mut rates, mut passes) = (Vec::new(), Vec::new(), Vec::new());
        let mut same = false;
        for round in 0..plan.rounds() {
            rates.push(sgemm.run(&two));
            let (done, seconds) = timed(|| two.install(|| sweeper.sweep()));
            done?;
            sweeps.push(seconds);
            rates.push(sgemm.run(&two));
            passes.push(timed(|| two.install(|| sweeper.measure())).1);
            same |= round == 0 && bits(&sweeper.factors) == bits(&single);
        }
        let (sweep, rate) = (median(&sweeps), median(&rates));
        let gflops = sweeper.flops() / sweep / 1e9;
        report.say(format!("k = {rank}: sgemm, 2 threads"), format!("{rate:.0} GFLOP/s"));
        report.say(format!("k = {rank}: exact sweep, both sides, 2 threads"), format!("{sweep:.2} s, {gflops:.0} GFLOP/s"));
        let share = 100.0 * gflops / rate;
        let least = if rank == 128 { 75.0 } else { 65.0 };
        report.hold_if(
            !plan.quick && rank >= 64,
            format!("k = {rank}: sweep of sgemm"),
            format!("{share:.0} %"),
            format!("≥ {least} %"),
            share >= least,
        );
        let mut mixed = Vec::new();
        for _ in 0..plan.rounds() {
            let (done, seconds) = timed(|| two.install(|| sweeper.sweep_in(Precision::Mixed)));
            done?;
            mixed.push(seconds);
        }
        let mixed = median(&mixed);
        report
            .say(format!("k = {rank}: sweep with residuals in f64, 2 threads"), format!("{mixed:.2} s, {:.2} × f32 alone", mixed / sweep));
        let (ratings, factors) = (sweeper.ratings.clone(), &sweeper.factors);
        let [mut users, mut items] = [Kept::new(&ratings.users, &factors.users), Kept::new(&ratings.items, &factors.items)];
        let mut gone_on = Vec::new();
        for round in 0..=plan.rounds() {
            let sweep = || sweeper.sweep_with(Precision::Mixed, [Some(&mut users), Some(&mut items)]);
            let (done, seconds) = timed(|| two.install(sweep));
            done?;
            // The first one makes what the others go on with.
            gone_on.extend((round > 0).then_some(seconds));
        }
        let gone_on = median(&gone_on);
        report.say(
            format!("k = {rank}: sweep that goes on with kept factorisations, 2 threads"),
            format!("{gone_on:.2} s, {:.2} × one that makes them", gone_on / mixed),
        );
        report.say(format!("k = {rank}: 1 thread"), format!("{seconds:.2} s, {:.2} × 2 threads", seconds / sweep));
        report.hold(format!("k = {rank}: bits of 1 and 2 threads"), if same { "equal" } else { "differ" }, "equal", same);
        let pass = 100.0 * median(&passes) / sweep;
        report.hold_if(
            !plan.quick && rank >= 64,
            format!("k = {rank}: f64 certificate pass of a sweep"),
            format!("{pass:.0} %"),
            "≤ 30 %",
            pass <= 30.0,
        );
        let of_mixed = 100.0 * median(&passes) / mixed;
        report.say(format!("k = {rank}: f64 certificate pass of a sweep with residuals in f64"), format!("{of_mixed:.0} %"));
    }
    Ok(())
}

fn bits(factors: &Factors) -> u64 {
    let values = factors.users.values().iter().chain(factors.items.values());
    values.fold(0xcbf2_9ce4_8422_2325, |hash, value| (hash ^ value.to_bits()).wrapping_mul(0x0100_0000_01b3).rotate_left(23))
}

/// A peer, and how many times faster a sweep here must be.
const PEERS: [(&str, &str, f64); 3] = [
    ("lenskit-cholesky", "LensKit, Cholesky", 4.0),
    ("implicit-cholesky", "implicit, Cholesky", 8.0),
    ("implicit-cg", "implicit, CG of 3 steps (inexact)", 2.0),
];

/// Sweeps of other libraries and of this one in turn, on the same matrix.
pub fn peers(report: &mut Report, plan: &Plan, ratings: &Arc<Ratings>) -> Result<(), String> {
    let Some(python) = &plan.python else { return Ok(()) };
    let rank = 64;
    let two = pool(2)?;
    let mut sweeper = Sweeper::new(ratings, rank);
    let mut others = Peers::start(python, ratings, rank, params(rank).regularization, 2)?;
    report.say("versions", others.versions.clone());
    two.install(|| sweeper.sweep())?;
    let mut ours = Vec::new();
    let mut theirs = [const { (Vec::new(), 0.0) }; 3];
    for _ in 0..plan.rounds() {
        for (at, (name, _, _)) in PEERS.iter().enumerate() {
            let (done, seconds) = timed(|| two.install(|| sweeper.sweep()));
            done?;
            ours.push(seconds);
            let iteration = others.iterate(name)?;
            theirs[at].0.push(iteration.seconds);
            theirs[at].1 = iteration.residual;
        }
    }
    let mine = median(&ours);
    report.say("nepenthe, exact sweep, 2 threads", format!("{mine:.2} s"));
    for ((_, name, least), (seconds, residual)) in PEERS.iter().zip(&theirs) {
        let seconds = median(seconds);
        report.say(format!("{name}, 2 threads"), format!("{seconds:.2} s, residual after it {residual:.0e}"));
        let ratio = seconds / mine;
        report.hold_if(!plan.quick, format!("times faster than {name}"), format!("{ratio:.1}"), format!("≥ {least}"), ratio >= *least);
    }
    Ok(())
}

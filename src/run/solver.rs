//! The solver beside the loop: one job at a time, on its own thread with its own pool.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use serde_json::{Value, json};

use super::course::Course;
use crate::kafka::Bell;
use crate::model::generation::{Job, Outcome};
use crate::model::unlearn::Watch;

/// A job that came back.
pub struct Solved {
    /// Or why there is none, in words for an operator.
    pub result: Result<Outcome, String>,
    /// Wall-clock seconds.
    pub seconds: f64,
}

/// Solves generations. One job is under way at a time.
pub trait Solver {
    fn start(&mut self, job: Job);
    /// Ends the running job at its next sweep; it comes back with what it has.
    fn cancel(&mut self);
    /// The finished job, once. Never blocks.
    fn poll(&mut self) -> Option<Solved>;
}

/// How far the running solve is; shared with the status page.
#[derive(Debug, Default)]
pub struct Progress {
    sweep: AtomicU32,
    residual: AtomicU64,
    cancelled: AtomicBool,
    courses: Mutex<Courses>,
}

/// Of the solve under way, and of the last one that swept at all.
#[derive(Debug, Default)]
struct Courses {
    running: Option<Course>,
    last: Option<Course>,
}

impl Progress {
    fn courses(&self) -> MutexGuard<'_, Courses> {
        self.courses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A solve of this generation begins.
    fn begin(&self, generation: u64, tolerance: f64) {
        self.swept(0, f64::NAN);
        self.cancelled.store(false, Ordering::Relaxed);
        self.courses().running = Some(Course::new(generation, tolerance));
    }

    /// It is over. One without a sweep, as that of an interim generation, does not take the place of the one before.
    fn end(&self) {
        let mut courses = self.courses();
        if let Some(course) = courses.running.take().filter(|course| !course.is_empty()) {
            courses.last = Some(course);
        }
    }

    /// As `/v1/sweeps` has it.
    pub fn sweeps(&self) -> Value {
        let courses = self.courses();
        let told = |course: &Option<Course>| course.as_ref().map(Course::to_json);
        json!({ "running": told(&courses.running), "last": told(&courses.last) })
    }

    /// Sweeps done and the residual that the last one found.
    pub fn read(&self) -> (u32, f64) {
        (self.sweep.load(Ordering::Relaxed), f64::from_bits(self.residual.load(Ordering::Relaxed)))
    }

    /// Ends the running solve at its next sweep.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}

impl Watch for Progress {
    fn swept(&self, sweep: u32, residual: f64) {
        self.sweep.store(sweep, Ordering::Relaxed);
        self.residual.store(residual.to_bits(), Ordering::Relaxed);
        if let Some(course) = &mut self.courses().running {
            course.take(sweep, residual);
        }
        tracing::debug!(sweep, residual, "sweep");
    }

    fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// The production solver.
pub struct ThreadSolver {
    pool: Arc<rayon::ThreadPool>,
    progress: Arc<Progress>,
    bell: Bell,
    running: Option<(Receiver<Solved>, JoinHandle<()>)>,
}

impl ThreadSolver {
    /// `threads` of 0 takes all cores.
    ///
    /// # Errors
    /// When the threads cannot be started.
    pub fn new(threads: usize, progress: Arc<Progress>, bell: Bell) -> Result<ThreadSolver, rayon::ThreadPoolBuildError> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|at| format!("solver-{at}")).build()?;
        Ok(ThreadSolver { pool: Arc::new(pool), progress, bell, running: None })
    }
}

impl Solver for ThreadSolver {
    #[allow(clippy::disallowed_methods, reason = "run is the room that reads the clock")]
    fn start(&mut self, job: Job) {
        let (sender, receiver) = channel();
        let (pool, progress, bell) = (self.pool.clone(), self.progress.clone(), self.bell.clone());
        progress.begin(job.number(), job.problem.params.tolerance);
        let handle = std::thread::spawn(move || {
            let began = Instant::now();
            let result = pool.install(|| job.run(&*progress)).map_err(|e| e.to_string());
            progress.end();
            // The loop may be gone already; then nobody waits for this.
            let _ = sender.send(Solved { result, seconds: began.elapsed().as_secs_f64() });
            bell.ring();
        });
        self.running = Some((receiver, handle));
    }

    fn cancel(&mut self) {
        self.progress.cancel();
    }

    fn poll(&mut self) -> Option<Solved> {
        let (receiver, _) = self.running.as_ref()?;
        let solved = match receiver.try_recv() {
            Ok(solved) => solved,
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => {
                Solved { result: Err("the solver thread ended without a result; see the message above".to_owned()), seconds: 0.0 }
            }
        };
        self.running = None;
        Some(solved)
    }
}

impl Drop for ThreadSolver {
    fn drop(&mut self) {
        self.progress.cancel();
        if let Some((_, handle)) = self.running.take() {
            // A panic in there was already reported by the panic hook.
            let _ = handle.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_course_stays_until_another_solve_has_swept() {
        let progress = Progress::default();
        assert_eq!(progress.sweeps(), json!({ "running": null, "last": null }));
        progress.begin(1, 1e-7);
        progress.swept(1, 0.5);
        let first = json!({ "generation": 1, "tolerance": 1e-7, "points": [[1, 0.5]] });
        assert_eq!(progress.sweeps(), json!({ "running": first, "last": null }));
        progress.end();
        progress.begin(2, 1e-7);
        progress.end();
        assert_eq!(progress.sweeps(), json!({ "running": null, "last": first }));
        progress.begin(3, 1e-7);
        progress.swept(1, 0.25);
        progress.end();
        assert_eq!(progress.sweeps()["last"]["generation"], 3);
    }
}

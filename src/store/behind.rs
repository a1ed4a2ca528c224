//! One batch at a time is written beside the caller, who prepares the next one meanwhile.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::{Batch, StoreError};

/// Batches are counted, so that a reader waits for what was handed over before it asked and for nothing later.
#[derive(Default)]
struct Progress {
    handed: u64,
    done: u64,
    /// Sticks: after a write that failed nothing may be built on the store.
    failed: Option<StoreError>,
}

#[derive(Default)]
struct Shared {
    progress: Mutex<Progress>,
    changed: Condvar,
}

impl Shared {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self, progress: MutexGuard<'_, Progress>) -> Result<(), StoreError> {
        let handed = progress.handed;
        let waits = |progress: &mut Progress| progress.done < handed && progress.failed.is_none();
        let progress = self.changed.wait_while(progress, waits).unwrap_or_else(PoisonError::into_inner);
        progress.failed.clone().map_or(Ok(()), Err)
    }
}

/// Whoever waits is told when the thread ends, however it ends.
struct Farewell(Arc<Shared>);

impl Drop for Farewell {
    fn drop(&mut self) {
        let gone = || StoreError::Io { action: "write", cause: "the thread that writes has ended; see the message above".to_owned() };
        self.0.progress().failed.get_or_insert_with(gone);
        self.0.changed.notify_all();
    }
}

/// A thread that writes. Dropping it waits for the last batch.
pub(super) struct Behind {
    shared: Arc<Shared>,
    batches: Option<Sender<Batch>>,
    thread: Option<JoinHandle<()>>,
}

impl Behind {
    /// # Errors
    /// [`StoreError::Io`] when there is no thread to be had.
    pub fn start(write: impl Fn(&Batch) -> Result<(), StoreError> + Send + 'static) -> Result<Behind, StoreError> {
        let shared = Arc::new(Shared::default());
        let (batches, todo) = channel::<Batch>();
        let farewell = Farewell(shared.clone());
        let work = move || {
            for batch in todo {
                let result = write(&batch);
                let mut progress = farewell.0.progress();
                progress.done += 1;
                let failed = result.is_err();
                progress.failed = result.err();
                drop(progress);
                farewell.0.changed.notify_all();
                if failed {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("store".into()).spawn(work);
        let thread = thread.map_err(|e| StoreError::Io { action: "start a thread for", cause: e.to_string() })?;
        Ok(Behind { shared, batches: Some(batches), thread: Some(thread) })
    }

    /// Hands a batch over once the one before is durable.
    ///
    /// # Errors
    /// That of the batch before.
    pub fn write(&self, batch: Batch) -> Result<(), StoreError> {
        self.settle()?;
        self.shared.progress().handed += 1;
        // A thread that is gone has left word.
        let _ = self.batches.as_ref().map(|batches| batches.send(batch));
        Ok(())
    }

    /// Waits until what was handed over is durable.
    ///
    /// # Errors
    /// That of the write.
    pub fn settle(&self) -> Result<(), StoreError> {
        self.shared.wait(self.shared.progress())
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            // A panic was reported by the panic hook.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{RecvTimeoutError, sync_channel};
    use std::time::Duration;

    use super::*;

    fn failure() -> StoreError {
        StoreError::Io { action: "write", cause: "no space left".to_owned() }
    }

    #[test]
    fn a_batch_is_written_beside_and_waited_for() {
        let (begin, began) = channel();
        let (go, may) = channel::<()>();
        let may = Mutex::new(may);
        let behind = Behind::start(move |_| {
            let _ = begin.send(());
            may.lock().unwrap().recv().map_err(|_| failure())
        })
        .unwrap();
        behind.settle().unwrap();
        behind.write(Batch::default()).unwrap();
        began.recv().unwrap();
        let (settled, told) = sync_channel(1);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                behind.settle().unwrap();
                settled.send(()).unwrap();
            });
            assert_eq!(told.recv_timeout(Duration::from_millis(20)), Err(RecvTimeoutError::Timeout), "not durable yet");
            go.send(()).unwrap();
            told.recv().unwrap();
        });
    }

    #[test]
    fn a_failure_sticks_and_nothing_is_written_after_it() {
        let written = Arc::new(Mutex::new(0));
        let count = written.clone();
        let behind = Behind::start(move |_| {
            *count.lock().unwrap() += 1;
            Err(failure())
        })
        .unwrap();
        behind.write(Batch::default()).unwrap();
        for _ in 0..2 {
            assert!(behind.write(Batch::default()).unwrap_err().to_string().contains("no space left"));
            assert!(behind.settle().is_err());
        }
        drop(behind);
        assert_eq!(*written.lock().unwrap(), 1);
    }

    #[test]
    fn nobody_waits_for_a_thread_that_is_gone() {
        let behind = Behind::start(|_| std::panic::resume_unwind(Box::new(()))).unwrap();
        behind.write(Batch::default()).unwrap();
        assert!(behind.settle().unwrap_err().to_string().contains("has ended"));
    }
}

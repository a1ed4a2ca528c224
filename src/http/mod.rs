//! /metrics, /livez, /readyz, the status page and the JSON views. Knows nothing of how the answers are made: see [`Views`].

pub mod guard;
mod problem;
mod routes;

#[cfg(test)]
mod tests;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use guard::Guard;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// What the pages show. Answered from other threads than the loop's; must not block for long.
pub trait Views: Send + Sync + 'static {
    /// Prometheus text.
    fn metrics(&self) -> String;
    /// Assigned, caught up, store healthy; else why not.
    fn ready(&self) -> Result<(), String>;
    /// One JSON object: everything `nepenthe status` prints. The status page shows of it, each member optional: `version`,
    /// `ready`, `reason`, `phase`, `sweep`, `residual` (of a solve under way), `generation`, `created`,
    /// `certificate {residual, tolerance, objective, sweeps}`, `counts {users, items, interactions}`,
    /// `forgets {pending {<stage>: count}, oldest_seconds, longest_seconds {<stage>: seconds}}`, `purge {reason}`,
    /// `lag [{topic, partition, records}]`, `outbox` (records), `store_bytes {<family>: bytes}`, `started`, `objective`, `rank`,
    /// `events_accepted`, `fences`, `backups {count, newest}`.
    fn status(&self) -> Value;
    /// The manifest of the newest published generation.
    fn latest_generation(&self) -> Option<Value>;
    /// The newest receipt of a request.
    fn receipt(&self, request_id: &str) -> Result<Option<Signed>, String>;
    /// How the residual fell: `running` and `last`, each null or `{generation, tolerance, points [[sweep, residual]]}`.
    fn sweeps(&self) -> Value;
    /// The public keys that receipts were and are signed with.
    fn keys(&self) -> Value;
    /// Top `n` items with scores for a user, what the user already has left out; `None` for an unknown user.
    fn recommendations(&self, user: &str, n: usize) -> Result<Option<Vec<(String, f64)>>, String>;
}

/// A receipt as the receipts topic has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// The bytes that are signed: JSON.
    pub value: Vec<u8>,
    /// Id of the key and base64 of the signature.
    pub signature: Option<(String, String)>,
}

/// Why the server does not run.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("cannot listen on {address}: {source}; end what listens there or set http.listen to another address (port 0: any free one)")]
    Bind { address: SocketAddr, source: std::io::Error },
    #[error("cannot start the HTTP server on {address}: {source}; look at the limits of threads and open files")]
    Start { address: SocketAddr, source: std::io::Error },
}

/// How long [`Server::stop`] waits for answers that are under way.
const GRACE: Duration = Duration::from_secs(2);

/// The views' own threads, so that a slow answer cannot hold up the whole process.
const VIEW_THREADS: usize = 8;

/// A running server. Dropped, it ends at once; [`Server::stop`] lets it finish what it has begun.
pub struct Server {
    address: SocketAddr,
    running: Option<Running>,
}

struct Running {
    runtime: Runtime,
    stop: oneshot::Sender<()>,
    done: JoinHandle<()>,
}

impl Server {
    /// Listens on `listen` and answers whom `guard` lets in from `views`, on threads of its own, until it is stopped. Not
    /// to be called from asynchronous code.
    ///
    /// # Errors
    /// [`HttpError::Bind`] for an address that is taken or not ours, [`HttpError::Start`] when the system refuses threads.
    pub fn start(listen: SocketAddr, guard: Guard, views: Arc<dyn Views>) -> Result<Server, HttpError> {
        let bind = |source| HttpError::Bind { address: listen, source };
        let begin = |source| HttpError::Start { address: listen, source };
        let listener = TcpListener::bind(listen).map_err(bind)?;
        listener.set_nonblocking(true).map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(1).max_blocking_threads(VIEW_THREADS).thread_name("http").enable_all();
        let runtime = builder.build().map_err(begin)?;
        let (stop, stopped) = oneshot::channel();
        let listener = {
            let _context = runtime.enter();
            tokio::net::TcpListener::from_std(listener).map_err(begin)?
        };
        let done = runtime.spawn(async move {
            let until = async {
                // Either way it is time to end: told to, or the server is gone.
                let _ = stopped.await;
            };
            if let Err(error) = axum::serve(listener, routes::router(views, guard)).with_graceful_shutdown(until).await {
                tracing::error!(%error, "the HTTP server ended");
            }
        });
        Ok(Server { address, running: Some(Running { runtime, stop, done }) })
    }

    /// Where it listens; tells the port when port 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more requests, finishes those under way (2 seconds at most) and ends.
    pub fn stop(mut self) {
        if let Some(Running { runtime, stop, done }) = self.running.take() {
            let told = stop.send(()).is_ok();
            let finished = runtime.block_on(async { tokio::time::timeout(GRACE, done).await.is_ok() });
            tracing::debug!(told, finished, "the HTTP server has stopped");
            runtime.shutdown_background();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A runtime's own drop would wait for a view that hangs.
        if let Some(running) = self.running.take() {
            running.runtime.shutdown_background();
        }
    }
}

//! The thread that consensus runs on: QUIC, Raft, the log and the state machine, one task after the other.
//!
//! A message passes from the socket to the log and back without waking another thread, and no amount of work for
//! clients keeps a heartbeat waiting for a place on a processor queue of this process.

use std::future::Future;
use std::io;
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// Ends with its tasks when it is dropped.
pub(crate) struct Consensus {
    tasks: Handle,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Consensus {
    pub(crate) fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let tasks = runtime.handle().clone();
        let (end, ended) = oneshot::channel();
        let body = move || drop(runtime.block_on(ended));
        let thread = std::thread::Builder::new().name("consensus".into()).spawn(body)?;
        Ok(Self { tasks, end: Some(end), thread: Some(thread) })
    }

    /// Runs something there, and whatever tasks it starts.
    pub(crate) async fn run<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> io::Result<T> {
        self.tasks.spawn(future).await.map_err(io::Error::other)
    }

    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(future);
    }
}

impl Drop for Consensus {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

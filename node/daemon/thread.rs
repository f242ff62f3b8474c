//! A thread with a runtime of its own, for tasks that follow one another and must not wait for anybody else's.
//!
//! A node has two: `consensus` (Raft, the log, the state machine) and `quic` (everything between nodes). An entry meets
//! few other threads on its way, no amount of work for clients keeps a heartbeat waiting, and a disk that stands still
//! does not make the node look dead.

use std::future::Future;
use std::io;
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// Ends with its tasks when it is dropped.
pub(crate) struct Thread {
    pub(crate) tasks: Handle,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Thread {
    pub(crate) fn start(name: &str) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let tasks = runtime.handle().clone();
        let (end, ended) = oneshot::channel();
        let body = move || drop(runtime.block_on(ended));
        let thread = std::thread::Builder::new().name(name.into()).spawn(body)?;
        Ok(Self { tasks, end: Some(end), thread: Some(thread) })
    }

    /// Runs something there, and whatever tasks it starts.
    pub(crate) async fn run<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> io::Result<T> {
        self.tasks.spawn(future).await.map_err(io::Error::other)
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

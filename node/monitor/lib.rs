//! The Pod's monitor: a small process for each Pod, the parent of its containers.
//!
//! It holds the Pod's namespaces, the containers' output and their exit codes, so that the runtime and the daemon may
//! be stopped, replaced or killed while containers run on. When the monitor itself dies, its containers die with it:
//! nothing runs that nobody watches.
//!
//! ```text
//!   skein runtime (threads, tokio)                 one process, one thread each
//!        │  socketpair                                      monitor (Pod's net, ipc, uts)
//!        └──────────────▶ zygote ── fork, for each Pod ──▶    │ clone: pid, mount, cgroup
//!        │                                                    ├─▶ container
//!        └── <Pod's directory>/monitor.sock: Request, Answer ─┴─▶ container, exec
//! ```
//!
//! Forking is sound only in a process with one thread. Hence the zygote, forked before the runtime starts any thread,
//! and hence a crate of its own: its manifest cannot name tokio.
//!
//! - **Invariant:** a container's exit code is on disk before anybody is told of it.
//! - **Invariant:** what is shown to be a container's end has been seen by `wait`; a pid is never taken for a process.

mod cgroup;
mod init;
mod lease;
mod log;
mod mounts;
mod privileges;
mod serve;
mod spawn;
mod spec;
mod users;
mod wire;
mod zygote;

pub use cgroup::{Hierarchies, Usage, monitor_cgroup};
pub use spawn::resize;
pub use spec::{Bind, Exit, Mapping, Pod, Process, Propagation, Resources, Spec, Started, User, exit_of, started_of};
pub use wire::{Answer, Event, Failure, Request, SOCKET, receive, send};
pub use zygote::Zygote;

/// What the monitor could not do, in words for the Pod's status.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what}: {source}")]
    System { what: String, source: std::io::Error },
    /// The container's own doing: its program, user or directory is not there.
    #[error("{0}")]
    Process(String),
    /// The node's doing, as the new process told it.
    #[error("{0}")]
    Child(String),
}

// === impl Error ===

impl Error {
    pub(crate) fn system<E: Into<std::io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |source| Self::System { what, source: source.into() }
    }
}

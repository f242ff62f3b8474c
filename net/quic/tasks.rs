//! Where an endpoint's tasks run: on the runtime that it was started on, whoever opens a stream.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime};
use tokio::runtime::Handle;

/// quinn would start a connection's task on the runtime of whoever connects, and a packet would pass from thread to
/// thread on its way.
pub(crate) struct Tasks(Handle);

impl Tasks {
    /// On the runtime of the caller.
    pub(crate) fn here() -> Self {
        Self(Handle::current())
    }
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tasks")
    }
}

impl Runtime for Tasks {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        let _runtime = self.0.enter();
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.0.spawn(future);
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let _runtime = self.0.enter();
        TokioRuntime.wrap_udp_socket(socket)
    }
}

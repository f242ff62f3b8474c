//! What the runtime and a monitor say to each other: one JSON value a line over the monitor's socket, file descriptors
//! beside it.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::{Deserialize, Serialize};

use crate::spec::{Exit, Process, Spec, Started};

/// The socket's name in the Pod's directory.
pub const SOCKET: &str = "monitor.sock";

/// A request may bring standard input, output and error.
const FDS_MAX: usize = 3;

/// Each is answered once, in order; `Exec` a second time when the process has ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    Start(Box<Spec>),
    /// To a container's first process, or to all of its processes.
    Signal {
        container: String,
        signal: i32,
        all: bool,
    },
    /// Runs a process in a container. Brings three descriptors; with a terminal, the answer brings its master.
    Exec {
        container: String,
        process: Box<Process>,
    },
    /// Brings two descriptors: where input comes from and where output goes, besides the log. With a terminal, the
    /// answer brings its master.
    Attach {
        container: String,
    },
    ReopenLog {
        container: String,
    },
    /// From now on this connection carries events.
    Subscribe,
    /// Kills all containers and ends.
    Quit,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Answer {
    Done,
    Started(Started),
    /// The process that `Exec` began has ended.
    Exited(i32),
    Failed(Failure),
    Event(Event),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Event {
    Exited { container: String, exit: Exit },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    pub message: String,
    /// The container's own doing, as opposed to the node's.
    pub by_container: bool,
}

/// Sends what fits; returns how much of `bytes` went.
pub fn send(socket: RawFd, bytes: &[u8], fds: &[RawFd]) -> nix::Result<usize> {
    let rights = [ControlMessage::ScmRights(fds)];
    let control: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
    sendmsg::<()>(socket, &[IoSlice::new(bytes)], control, MsgFlags::MSG_NOSIGNAL, None)
}

/// Receives what is there; 0 is the end.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> nix::Result<usize> {
    let mut space = nix::cmsg_space!([RawFd; FDS_MAX]);
    let mut parts = [IoSliceMut::new(buffer)];
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = control {
            // SAFETY: the kernel has just made these descriptors for this process, and nobody else knows them.
            fds.extend(received.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok(message.bytes)
}

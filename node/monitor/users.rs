//! A Pod's own numbers for users and groups (`hostUsers: false`, KEP-127): its root is nobody on the node.
//!
//! The Pod's network, IPC and host name belong to its user namespace. Its containers' mounts are made outside of it, where
//! they may be, and a process enters it last, as its root, before it becomes who it is to be.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::sys::wait::waitpid;
use nix::unistd::{Gid, Pid, Uid, setgroups, setresgid, setresuid};

use crate::spawn::{self, Parent};
use crate::spec::Mapping;
use crate::{Error, wire};

/// A user namespace, held by this process.
pub(crate) struct Users {
    pub(crate) mapping: Mapping,
    pub(crate) namespace: OwnedFd,
}

// === impl Users ===

impl Users {
    /// Makes a user namespace, and others that belong to it, which the calling process enters.
    pub(crate) fn isolate(mapping: Mapping, others: CloneFlags) -> Result<Self, Error> {
        let failed = || Error::system("cannot make the Pod's user namespace");
        let (ours, theirs) = spawn::pair()?;
        let Some(holder) = spawn::clone(CloneFlags::CLONE_NEWUSER, Parent::Caller, None)? else {
            drop(ours);
            hold(others, &theirs);
        };
        drop(theirs);
        let made = Self::take(mapping, others, holder, &ours);
        let _ = kill(holder, Signal::SIGKILL);
        let _ = waitpid(holder, None);
        made.map_err(failed())
    }

    /// Maps the numbers of the holder's namespace, lets it make the others, and takes all of them from it.
    fn take(mapping: Mapping, others: CloneFlags, holder: Pid, socket: &OwnedFd) -> std::io::Result<Self> {
        let map = format!("0 {} {}\n", mapping.first, mapping.length);
        for file in ["uid_map", "gid_map"] {
            std::fs::write(format!("/proc/{holder}/{file}"), &map)?;
        }
        wire::send(socket.as_raw_fd(), b".", &[])?;
        let mut answer = [0; 16];
        let length = wire::receive(std::os::fd::AsFd::as_fd(socket), &mut answer, &mut Vec::new())?;
        let refused: i32 = String::from_utf8_lossy(&answer[..length]).parse().unwrap_or(libc::EIO);
        if refused != 0 {
            return Err(std::io::Error::from_raw_os_error(refused));
        }
        let namespace = |name: &str| open(format!("/proc/{holder}/ns/{name}").as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty());
        for (flag, name) in [(CloneFlags::CLONE_NEWNET, "net"), (CloneFlags::CLONE_NEWUTS, "uts"), (CloneFlags::CLONE_NEWIPC, "ipc")] {
            if others.contains(flag) {
                setns(namespace(name)?, flag)?;
            }
        }
        Ok(Self { mapping, namespace: namespace("user")? })
    }

    /// The calling process becomes root in the namespace.
    pub(crate) fn enter(&self) -> Result<(), Error> {
        let failed = || Error::system("cannot enter the Pod's user namespace");
        setns(&self.namespace, CloneFlags::CLONE_NEWUSER).map_err(failed())?;
        setgroups(&[]).map_err(failed())?;
        let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
        setresgid(gid, gid, gid).map_err(failed())?;
        setresuid(uid, uid, uid).map_err(failed())
    }
}

/// The first process of the namespace, which ends once the monitor holds it.
fn hold(others: CloneFlags, socket: &OwnedFd) -> ! {
    let mut mapped = [0; 1];
    let _ = wire::receive(std::os::fd::AsFd::as_fd(socket), &mut mapped, &mut Vec::new());
    let refused = unshare(others).err().unwrap_or(Errno::UnknownErrno) as i32;
    let _ = wire::send(socket.as_raw_fd(), refused.to_string().as_bytes(), &[]);
    loop {
        nix::unistd::pause();
    }
}

// === impl Mapping ===

impl Mapping {
    /// What a number of the Pod is on the node.
    pub(crate) fn on_node(self, id: u32) -> u32 {
        if id < self.length { self.first + id } else { u32::from(u16::MAX) - 1 }
    }
}

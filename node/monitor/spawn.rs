//! From a container's description to its first process, from the monitor's side.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, pipe2};

use crate::cgroup::Hierarchies;
use crate::init::{self, Stdio};
use crate::spec::{Process, Spec};
use crate::users::Users;
use crate::{Error, wire};

/// Tells a terminal its size, and whoever runs on it that it has changed.
pub fn resize(terminal: &OwnedFd, columns: u16, rows: u16) {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the structure lives through the call; a descriptor that is no terminal refuses.
    unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
}

/// A process that has reached exec.
pub(crate) struct Child {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
    pub(crate) terminal: Option<OwnedFd>,
}

/// The monitor's ends of a container's pipes.
#[derive(Default)]
pub(crate) struct Pipes {
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
}

/// Starts a container's first process. `among`: in the process namespace of this process, rather than in a new one.
pub(crate) fn container(
    spec: &Spec,
    hierarchies: &Hierarchies,
    among: Option<&OwnedFd>,
    users: Option<&Users>,
) -> Result<(Child, Pipes), Error> {
    hierarchies.create(&spec.cgroup, &spec.resources).map_err(Error::system("cannot make the cgroup"))?;
    let (pipes, stdio) = if spec.process.terminal { (Pipes::default(), None) } else { pipes(spec.stdin).map(|(p, s)| (p, Some(s)))? };
    let mut flags = CloneFlags::CLONE_NEWNS;
    if among.is_none() && !spec.host_pid {
        flags |= CloneFlags::CLONE_NEWPID;
    }
    let (ours, theirs) = pair()?;
    let cgroup = hierarchies.birthplace(&spec.cgroup).map_err(Error::system("cannot open the cgroup"))?;
    let Some(child) = clone(flags, Parent::Caller, cgroup.as_ref())? else {
        drop((ours, pipes));
        let entered = match among {
            // The namespace is entered by the children of the one that asks; this process ends and they remain.
            Some(pidfd) => entered(pidfd, CloneFlags::CLONE_NEWPID, &theirs),
            None => Ok(()),
        };
        let failed = entered.and_then(|()| init::container(spec, hierarchies, (stdio, users), &theirs));
        init::fail(theirs.as_raw_fd(), &failed.err().unwrap_or_else(|| Error::Process("exec returned".into())));
    };
    drop((theirs, stdio));
    Ok((wait_for_exec(child, among.is_some(), &ours)?, pipes))
}

/// Starts a further process in the namespaces and the cgroup of a container.
pub(crate) fn further(
    process: &Process,
    (cgroup, hierarchies): (&str, &Hierarchies),
    container: &OwnedFd,
    stdio: Option<Stdio>,
    users: Option<&Users>,
) -> Result<Child, Error> {
    let (ours, theirs) = pair()?;
    let birthplace = hierarchies.birthplace(cgroup).map_err(Error::system("cannot open the cgroup"))?;
    let Some(child) = clone(CloneFlags::empty(), Parent::Caller, birthplace.as_ref())? else {
        drop(ours);
        let namespaces = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWCGROUP;
        let joined = hierarchies.join(cgroup).map_err(Error::system("cannot enter the cgroup"));
        let entered = joined.and_then(|()| entered(container, namespaces, &theirs));
        let failed = entered.and_then(|()| init::further(process, (stdio, users), &theirs));
        init::fail(theirs.as_raw_fd(), &failed.err().unwrap_or_else(|| Error::Process("exec returned".into())));
    };
    drop((theirs, stdio));
    wait_for_exec(child, true, &ours)
}

/// A process that does nothing but hold a process namespace and wait for orphans there.
pub(crate) fn pause(users: Option<&Users>) -> Result<(Pid, OwnedFd), Error> {
    match clone(CloneFlags::CLONE_NEWPID, Parent::Caller, None)? {
        Some(pid) => Ok((pid, pidfd(pid)?)),
        None => {
            let _ = nix::sys::prctl::set_name(c"pause");
            let _ = users.map_or(Ok(()), Users::enter);
            let _ = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
            // SAFETY: the disposition needs no handler; with it the kernel removes orphans that end.
            unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
            loop {
                nix::unistd::pause();
            }
        }
    }
}

/// Enters another process's namespaces, by way of a child where the process namespace is among them; the caller goes
/// on as that child.
fn entered(pidfd: &OwnedFd, namespaces: CloneFlags, tell: &OwnedFd) -> Result<(), Error> {
    setns(pidfd, namespaces).map_err(Error::system("cannot enter the container"))?;
    match clone(CloneFlags::empty(), Parent::Callers, None)? {
        None => Ok(()),
        Some(pid) => {
            let _ = wire::send(tell.as_raw_fd(), format!("I{pid}").as_bytes(), &[]);
            // SAFETY: ends this process without running anything of the monitor's that it has a copy of.
            unsafe { libc::_exit(0) }
        }
    }
}

/// Until the socket is closed by exec, or a message says why there is none.
fn wait_for_exec(first: Pid, by_way_of: bool, socket: &OwnedFd) -> Result<Child, Error> {
    let mut pid = first;
    let (mut terminal, mut failure) = (None, None);
    let mut buffer = vec![0; 4096];
    loop {
        let mut fds = Vec::new();
        let length = match wire::receive(socket.as_fd(), &mut buffer, &mut fds) {
            Ok(0) => break,
            Ok(length) => length,
            Err(Errno::EINTR) => continue,
            Err(why) => {
                failure = Some(Error::system("cannot hear of the new process")(why));
                break;
            }
        };
        let text = String::from_utf8_lossy(&buffer[1..length]).into_owned();
        match buffer[0] {
            b'I' => pid = text.parse().map_or(pid, Pid::from_raw),
            b'T' => terminal = fds.pop(),
            b'P' => failure = Some(Error::Process(text)),
            _ => failure = Some(Error::Child(text)),
        }
    }
    if by_way_of {
        let _ = nix::sys::wait::waitpid(first, None);
    }
    if let Some(why) = failure {
        if !(by_way_of && pid == first) {
            let _ = nix::sys::wait::waitpid(pid, None);
        }
        return Err(why);
    }
    Ok(Child { pid, pidfd: pidfd(pid)?, terminal })
}

fn pidfd(pid: Pid) -> Result<OwnedFd, Error> {
    // SAFETY: the arguments are numbers; a child that has not been waited for still has its pid.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let fd = Errno::result(fd).map_err(Error::system("cannot hold the process"))?;
    // SAFETY: the kernel has just made this descriptor for us; it fits an int as all descriptors do.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Linux 5.7.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

pub(crate) enum Parent {
    /// As after fork.
    Caller,
    /// The caller's own parent becomes that of the child: a sibling.
    Callers,
}

/// Fork with flags, into a cgroup of v2 where one is given. Returns the child's pid, or nothing in the child.
pub(crate) fn clone(flags: CloneFlags, parent: Parent, cgroup: Option<&OwnedFd>) -> Result<Option<Pid>, Error> {
    let (parent, exit_signal) = match parent {
        Parent::Caller => (0, libc::SIGCHLD),
        // Its parent hears of its end as it would of the caller's.
        Parent::Callers => (libc::CLONE_PARENT, 0),
    };
    let (into, cgroup) = cgroup.map_or((0, 0), |group| (CLONE_INTO_CGROUP, group.as_raw_fd() as u64));
    // SAFETY: they are numbers; nought stands for what is not asked for.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = (flags.bits() | parent) as u64 | into;
    arguments.exit_signal = exit_signal as u64;
    arguments.cgroup = cgroup;
    // SAFETY: the arguments live through the call. Without a stack of its own the child goes on with a copy of this one,
    // as after fork; this process has one thread, so nothing is left locked in the child.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>()) };
    let pid = Errno::result(result).map_err(Error::system("cannot make a process"))?;
    Ok((pid != 0).then(|| Pid::from_raw(pid as i32)))
}

/// Messages keep their bounds, and the end is seen when the last copy is closed.
pub(crate) fn pair() -> Result<(OwnedFd, OwnedFd), Error> {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).map_err(Error::system("cannot make a socket pair"))
}

fn pipes(stdin: bool) -> Result<(Pipes, Stdio), Error> {
    let failed = || Error::system("cannot make a pipe");
    let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(failed());
    let (stdout, their_stdout) = pipe()?;
    let (stderr, their_stderr) = pipe()?;
    let (their_stdin, stdin) = if stdin {
        let (theirs, ours) = pipe()?;
        (theirs, Some(ours))
    } else {
        (open("/dev/null", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).map_err(failed())?, None)
    };
    let pipes = Pipes { stdin, stdout: Some(stdout), stderr: Some(stderr) };
    Ok((pipes, Stdio { stdin: their_stdin, stdout: their_stdout, stderr: their_stderr }))
}

//! The last steps of a process on its way into a container: from clone to exec, in the child.

use std::convert::Infallible;
use std::ffi::CString;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::stat::Mode;
use nix::unistd::{AccessFlags, Uid, access, chdir, dup2_stderr, dup2_stdin, dup2_stdout, execve, setsid};

use crate::cgroup::Hierarchies;
use crate::spec::{Process, Spec};
use crate::users::Users;
use crate::{Error, mounts, privileges, wire};

/// Standard input, output and error of the new process; with a terminal they are made in the container.
pub(crate) struct Stdio {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// The first process of a container. Returns only why it could not be.
pub(crate) fn container(
    spec: &Spec,
    hierarchies: &Hierarchies,
    (stdio, users): (Option<Stdio>, Option<&Users>),
    tell: &OwnedFd,
) -> Result<Infallible, Error> {
    prepare()?;
    hierarchies.join(&spec.cgroup).map_err(Error::system("cannot enter the cgroup"))?;
    unshare(CloneFlags::CLONE_NEWCGROUP).map_err(Error::system("cannot make a cgroup namespace"))?;
    mounts::enter(spec, hierarchies, users)?;
    become_process(&spec.process, stdio, users, tell)
}

/// A further process of a container, in whose namespaces and cgroup the caller already is.
pub(crate) fn further(process: &Process, (stdio, users): (Option<Stdio>, Option<&Users>), tell: &OwnedFd) -> Result<Infallible, Error> {
    prepare()?;
    become_process(process, stdio, users, tell)
}

/// A session of its own, no signal blocked or ignored, and no life without the monitor.
fn prepare() -> Result<(), Error> {
    setsid().map_err(Error::system("cannot start a session"))?;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None).map_err(Error::system("cannot unblock signals"))?;
    for signal in [Signal::SIGPIPE, Signal::SIGCHLD] {
        // SAFETY: the default action needs no handler.
        unsafe { nix::sys::signal::signal(signal, nix::sys::signal::SigHandler::SigDfl) }.map_err(Error::system("cannot reset signals"))?;
    }
    Ok(())
}

fn become_process(process: &Process, stdio: Option<Stdio>, users: Option<&Users>, tell: &OwnedFd) -> Result<Infallible, Error> {
    match stdio {
        Some(stdio) => {
            let failed = || Error::system("cannot set standard input and output");
            dup2_stdin(&stdio.stdin).map_err(failed())?;
            dup2_stdout(&stdio.stdout).map_err(failed())?;
            dup2_stderr(&stdio.stderr).map_err(failed())?;
        }
        None => terminal(tell)?,
    }
    // Lowering the score takes a privilege that a machine may not give; the container is better than none.
    let _ = std::fs::File::options().write(true).open("/proc/self/oom_score_adj").and_then(|mut f| write!(f, "{}", process.oom_score_adj));
    let identity = privileges::identify(&process.user)?;
    own_stdio(users.map_or(identity.uid, |users| users.mapping.on_node(identity.uid)));
    if let Some(users) = users {
        users.enter()?;
    }
    let cwd = if process.cwd.is_empty() { "/" } else { &process.cwd };
    if !Path::new(cwd).exists() {
        let made = std::fs::create_dir_all(cwd).and_then(|()| std::os::unix::fs::chown(cwd, Some(identity.uid), Some(identity.gid)));
        made.map_err(|why| Error::Process(format!("cannot make the working directory {cwd}: {why}")))?;
    }
    let mut env = process.env.clone();
    if !env.iter().any(|e| e.starts_with("HOME=")) {
        env.push(format!("HOME={}", identity.home));
    }
    if process.terminal && !env.iter().any(|e| e.starts_with("TERM=")) {
        env.push("TERM=xterm".into());
    }
    privileges::drop_to(process, &identity)?;
    chdir(cwd).map_err(|why| Error::Process(format!("cannot enter the working directory {cwd}: {why}")))?;
    // Set last: a change of credentials clears it.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(Error::system("cannot tie the process to its monitor"))?;
    execute(&process.args, &env)
}

/// Who is not root could not open `/dev/stdout` otherwise, which is a link to a pipe that the monitor has made.
fn own_stdio(uid: u32) {
    let null = nix::sys::stat::stat("/dev/null").map(|null| null.st_rdev).unwrap_or_default();
    for fd in [std::io::stdin().as_fd(), std::io::stdout().as_fd(), std::io::stderr().as_fd()] {
        let is_others = nix::sys::stat::fstat(fd).is_ok_and(|found| found.st_rdev != null && found.st_uid != uid);
        if is_others {
            // What cannot be given away (a socket, a file system that is read-only) can be used as it is.
            let _ = nix::unistd::fchown(fd, Some(Uid::from_raw(uid)), None);
        }
    }
}

/// Makes the container's own terminal, keeps one end, sends the other to the monitor.
fn terminal(tell: &OwnedFd) -> Result<(), Error> {
    let failed = || Error::system("cannot make a terminal");
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = open("/dev/ptmx", flags, Mode::empty()).map_err(failed())?;
    let (mut number, unlock): (libc::c_int, libc::c_int) = (0, 0);
    // SAFETY: both requests read or write one int, which lives through the calls.
    let result = unsafe {
        libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock)
            | libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN, &raw mut number)
    };
    Errno::result(result).map_err(failed())?;
    let slave = open(&PathBuf::from(format!("/dev/pts/{number}")), flags, Mode::empty()).map_err(failed())?;
    dup2_stdin(&slave).map_err(failed())?;
    dup2_stdout(&slave).map_err(failed())?;
    dup2_stderr(&slave).map_err(failed())?;
    // SAFETY: the descriptor is the terminal that has just been opened; the argument is a number.
    Errno::result(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) }).map_err(failed())?;
    wire::send(tell.as_raw_fd(), b"T", &[master.as_raw_fd()]).map(drop).map_err(failed())
}

/// Replaces this process by the program, found by the PATH that it is given.
fn execute(args: &[String], env: &[String]) -> Result<Infallible, Error> {
    let name = args.first().map(String::as_str).unwrap_or_default();
    if name.is_empty() {
        return Err(Error::Process("no command specified".into()));
    }
    let c = |text: &String| CString::new(text.as_str()).map_err(|_| Error::Process(format!("{text:?} holds a NUL byte")));
    let argv = args.iter().map(c).collect::<Result<Vec<_>, _>>()?;
    let envp = env.iter().map(c).collect::<Result<Vec<_>, _>>()?;
    let path = find(name, env)?;
    let program =
        CString::new(path.as_os_str().as_encoded_bytes()).map_err(|_| Error::Process("the program's path holds a NUL byte".into()))?;
    execve(&program, &argv, &envp).map_err(|why| Error::Process(format!("exec: {name:?}: {}", reason(why))))
}

fn find(name: &str, env: &[String]) -> Result<PathBuf, Error> {
    if name.contains('/') {
        return access(name, AccessFlags::X_OK)
            .map(|()| name.into())
            .map_err(|why| Error::Process(format!("exec: {name:?}: {}", reason(why))));
    }
    let default = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let path = env.iter().find_map(|e| e.strip_prefix("PATH=")).unwrap_or(default);
    let candidates = path.split(':').map(|directory| Path::new(if directory.is_empty() { "." } else { directory }).join(name));
    candidates
        .into_iter()
        .find(|candidate| candidate.is_file() && access(candidate, AccessFlags::X_OK).is_ok())
        .ok_or_else(|| Error::Process(format!("exec: {name:?}: executable file not found in $PATH")))
}

fn reason(why: Errno) -> String {
    match why {
        Errno::ENOENT => "no such file or directory".into(),
        Errno::EACCES => "permission denied".into(),
        Errno::ENOEXEC => "exec format error".into(),
        other => other.desc().to_lowercase(),
    }
}

/// Tells the monitor why and ends; what the container's parent sees is this message, not the exit code.
pub(crate) fn fail(tell: RawFd, why: &Error) -> ! {
    let kind = if matches!(why, Error::Process(_)) { "P" } else { "S" };
    let _ = wire::send(tell, format!("{kind}{why}").as_bytes(), &[]);
    // SAFETY: ends this process without running anything of the monitor's that it has a copy of.
    unsafe { libc::_exit(128) }
}

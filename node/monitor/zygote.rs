//! The zygote: a process with one thread that forks a monitor for each Pod.
//!
//! Started by exec, a monitor would pay for loading and relocating the whole program; forked from here it shares all of
//! that, and costs the pages that it writes to.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use nix::unistd::{ForkResult, fork};

use crate::cgroup::Hierarchies;
use crate::spec::Pod;
use crate::{Error, serve, spawn, wire};

/// The most that the description of a Pod may take.
const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// The runtime's end of the line to its zygote.
#[derive(Debug)]
pub struct Zygote {
    socket: std::sync::Mutex<OwnedFd>,
    pid: nix::unistd::Pid,
}

// === impl Zygote ===

impl Zygote {
    /// Forks the zygote. Call it before any thread is started; it ends when the returned value is dropped, and its
    /// monitors live on.
    pub fn start() -> Result<Self, Error> {
        let (ours, theirs) = spawn::pair()?;
        // SAFETY: the caller has started no thread yet, so the child may do whatever this process may.
        match unsafe { fork() }.map_err(Error::system("cannot fork the zygote"))? {
            ForkResult::Parent { child } => Ok(Self { socket: ours.into(), pid: child }),
            ForkResult::Child => {
                drop(ours);
                run(&theirs);
                leave();
            }
        }
    }

    /// Blocks until the zygote has ended: no more Pods can be made then.
    pub fn wait(&self) {
        while nix::sys::wait::waitpid(self.pid, None) == Err(nix::errno::Errno::EINTR) {}
    }

    /// Starts a Pod's monitor; returns its pid once its namespaces and its socket are there. Blocks for about a
    /// millisecond.
    pub fn monitor(&self, pod: &Pod) -> Result<i32, Error> {
        let what = "cannot reach the zygote";
        let socket = self.socket.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let request = serde_json::to_vec(pod).map_err(Error::system(what))?;
        wire::send(socket.as_raw_fd(), &request, &[]).map_err(Error::system(what))?;
        let mut buffer = vec![0; REQUEST_BYTES_MAX];
        let length = wire::receive(socket.as_fd(), &mut buffer, &mut Vec::new()).map_err(Error::system(what))?;
        let answer: Result<i32, String> = serde_json::from_slice(&buffer[..length]).map_err(Error::system(what))?;
        answer.map_err(Error::Process)
    }
}

/// Forks until the runtime is gone.
fn run(socket: &OwnedFd) {
    // Children are not waited for: the kernel removes them by itself.
    // SAFETY: no handler is installed, the disposition is set to ignore.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    let _ = nix::sys::prctl::set_name(c"skein-zygote");
    let hierarchies = Hierarchies::read();
    let mut buffer = vec![0; REQUEST_BYTES_MAX];
    loop {
        let length = match wire::receive(socket.as_fd(), &mut buffer, &mut Vec::new()) {
            Ok(0) => return,
            Ok(length) => length,
            Err(nix::errno::Errno::EINTR) => continue,
            Err(_) => return,
        };
        let pod = serde_json::from_slice::<Pod>(&buffer[..length]).map_err(|e| e.to_string());
        let answer = pod.and_then(|pod| begin(pod, &hierarchies, socket));
        let bytes = serde_json::to_vec(&answer).unwrap_or_default();
        if wire::send(socket.as_raw_fd(), &bytes, &[]).is_err() {
            return;
        }
    }
}

/// Forks a monitor and waits until it says that it is ready, or why it is not.
fn begin(pod: Pod, hierarchies: &Hierarchies, line: &OwnedFd) -> Result<i32, String> {
    let (ours, theirs) = spawn::pair().map_err(|e| e.to_string())?;
    match serve::fork(&pod, hierarchies).map_err(|e| e.to_string())? {
        None => {
            drop(ours);
            // The line to the runtime is the zygote's alone.
            let _ = nix::unistd::close(line.as_raw_fd());
            serve::main(pod, hierarchies.clone(), theirs);
            leave();
        }
        Some(child) => {
            drop(theirs);
            let mut buffer = [0; 4096];
            match wire::receive(ours.as_fd(), &mut buffer, &mut Vec::new()) {
                Ok(0) | Err(_) => Err("the Pod's monitor died while it started".into()),
                Ok(1) => Ok(child.as_raw()),
                Ok(length) => Err(String::from_utf8_lossy(&buffer[..length]).into_owned()),
            }
        }
    }
}

/// Ends a forked process: it must not return into the code of the one that it was forked from.
#[expect(clippy::disallowed_methods, reason = "the destructors are those of the parent, which still needs what they free")]
fn leave() -> ! {
    std::process::exit(0)
}

/// A path of any length as one that a socket's address has room for: by the directory's descriptor.
pub(crate) fn socket_path(directory: &OwnedFd, name: &str) -> std::path::PathBuf {
    Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name)
}

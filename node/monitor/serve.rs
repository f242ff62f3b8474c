//! The monitor itself: one thread that waits for its containers, their output and the runtime's requests.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};

use jiff::Timestamp;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, read, setsid};

use crate::cgroup::{Hierarchies, monitor_cgroup};
use crate::init::Stdio;
use crate::lease::Lease;
use crate::log::{Lines, Log};
use crate::spawn::Parent;
use crate::spec::{Exit, Pod, Process, Resources, Spec, Started};
use crate::users::Users;
use crate::wire::{Answer, Event, Failure, Request, SOCKET};
use crate::zygote::socket_path;
use crate::{Error, mounts, spawn, wire};

/// What is said of a container that ended with the node's lease.
const FENCED: &str = "The node's lease ran out: no leader with a majority heard of it, and the Pod must not run twice.";

/// A larger request is refused: the connection is closed.
const REQUEST_BYTES_MAX: usize = 4 * 1024 * 1024;
const READ_BYTES: usize = 32 * 1024;
/// What may be written to a pipe that says that it can be written to, without waiting (POSIX's PIPE_BUF).
const PIPE_BYTES: usize = 4096;

/// Forks a Pod's monitor into its cgroup; nothing in the child, which is to become [`main`].
pub(crate) fn fork(pod: &Pod, hierarchies: &Hierarchies) -> Result<Option<Pid>, Error> {
    let own = monitor_cgroup(&pod.cgroup);
    hierarchies.create(&pod.cgroup, &Resources::default()).map_err(Error::system("cannot make the Pod's cgroup"))?;
    hierarchies.create(&own, &Resources::default()).map_err(Error::system("cannot make the monitor's cgroup"))?;
    let cgroup = hierarchies.birthplace(&own).map_err(Error::system("cannot open the monitor's cgroup"))?;
    spawn::clone(CloneFlags::empty(), Parent::Caller, cgroup.as_ref())
}

/// The whole life of a monitor. `ready` hears one byte when it serves, or why it does not.
pub(crate) fn main(pod: Pod, hierarchies: Hierarchies, ready: OwnedFd) {
    match Monitor::new(pod, hierarchies) {
        Ok(mut monitor) => {
            let _ = wire::send(ready.as_raw_fd(), b".", &[]);
            drop(ready);
            while !monitor.quit {
                monitor.turn();
            }
            monitor.end();
        }
        Err(why) => drop(wire::send(ready.as_raw_fd(), why.to_string().as_bytes(), &[])),
    }
}

struct Monitor {
    pod: Pod,
    /// The Pod's user namespace, where it has one.
    users: Option<Users>,
    hierarchies: Hierarchies,
    signals: SignalFd,
    listener: UnixListener,
    /// The first process of a namespace that all containers share.
    pause: Option<OwnedFd>,
    /// What the Pod ends with, if it must not run twice.
    lease: Option<Lease>,
    containers: BTreeMap<String, Container>,
    clients: HashMap<RawFd, Client>,
    /// Processes that `Exec` began, and who waits for them.
    execs: HashMap<Pid, RawFd>,
    buffer: Vec<u8>,
    quit: bool,
}

struct Container {
    pid: Option<Pid>,
    pidfd: OwnedFd,
    cgroup: String,
    log: Option<Log>,
    stdout: Option<(OwnedFd, Lines)>,
    stderr: Option<(OwnedFd, Lines)>,
    stdin: Option<OwnedFd>,
    stdin_once: bool,
    terminal: Option<OwnedFd>,
    attached: Vec<Attached>,
    directory: std::path::PathBuf,
    /// The node's lease has run out, and it was killed.
    fenced: bool,
}

/// One who looks on: what he types goes in, what comes out goes to him.
struct Attached {
    input: Option<OwnedFd>,
    output: OwnedFd,
    errors: OwnedFd,
}

struct Client {
    stream: UnixStream,
    rest: Vec<u8>,
    fds: Vec<OwnedFd>,
    subscribed: bool,
}

/// What a descriptor that is ready belongs to.
#[derive(Clone)]
enum Source {
    Signals,
    Listener,
    Lease,
    Client(RawFd),
    Stdout(String),
    Stderr(String),
    Input(String, usize),
}

// === impl Monitor ===

impl Monitor {
    fn new(pod: Pod, hierarchies: Hierarchies) -> Result<Self, Error> {
        let _ = nix::sys::prctl::set_name(c"skein-monitor");
        setsid().map_err(Error::system("cannot start a session"))?;
        let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()).map_err(Error::system("cannot open /dev/null"))?;
        nix::unistd::dup2_stdin(&null).map_err(Error::system("cannot close standard input"))?;
        nix::unistd::dup2_stdout(&null).map_err(Error::system("cannot close standard output"))?;
        // SAFETY: the default action needs no handler. The zygote ignores its children; a monitor waits for them.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.thread_block().map_err(Error::system("cannot block SIGCHLD"))?;
        let signals =
            SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map_err(Error::system("cannot receive signals"))?;
        hierarchies.join(&monitor_cgroup(&pod.cgroup)).map_err(Error::system("cannot enter the monitor's cgroup"))?;
        let users = isolate(&pod)?;
        if pod.own_ipc {
            mounts::pod_shm(&pod.directory.join("shm"))?;
        }
        let directory = open(&pod.directory, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(Error::system("cannot open the Pod's directory"))?;
        let _ = std::fs::remove_file(pod.directory.join(SOCKET));
        let listener = UnixListener::bind(socket_path(&directory, SOCKET)).map_err(Error::system("cannot make the monitor's socket"))?;
        listener.set_nonblocking(true).map_err(Error::system("cannot serve"))?;
        let lease = pod.lease.as_deref().map(Lease::open).transpose()?;
        let pause = if pod.shared_pid { Some(spawn::pause(users.as_ref())?.1) } else { None };
        Ok(Self {
            pod,
            users,
            hierarchies,
            signals,
            listener,
            pause,
            lease,
            containers: BTreeMap::new(),
            clients: HashMap::new(),
            execs: HashMap::new(),
            buffer: vec![0; READ_BYTES],
            quit: false,
        })
    }

    /// Waits for something to happen, and deals with all that has.
    fn turn(&mut self) {
        for source in self.wait() {
            match source {
                Source::Signals => self.reap(),
                Source::Listener => self.accept(),
                Source::Lease => self.fence(),
                Source::Client(fd) => self.hear(fd),
                Source::Stdout(id) => self.output(&id, true),
                Source::Stderr(id) => self.output(&id, false),
                Source::Input(id, index) => self.input(&id, index),
            }
        }
    }

    fn wait(&self) -> Vec<Source> {
        let mut sources = vec![Source::Signals, Source::Listener];
        let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN), PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
        if let Some(lease) = &self.lease {
            sources.push(Source::Lease);
            fds.push(PollFd::new(lease.as_fd(), PollFlags::POLLIN));
        }
        for (fd, client) in &self.clients {
            sources.push(Source::Client(*fd));
            fds.push(PollFd::new(client.stream.as_fd(), PollFlags::POLLIN));
        }
        for (id, container) in &self.containers {
            if let Some((fd, _)) = &container.stdout {
                sources.push(Source::Stdout(id.clone()));
                fds.push(PollFd::new(fd.as_fd(), PollFlags::POLLIN));
            }
            if let Some((fd, _)) = &container.stderr {
                sources.push(Source::Stderr(id.clone()));
                fds.push(PollFd::new(fd.as_fd(), PollFlags::POLLIN));
            }
            for (index, attached) in container.attached.iter().enumerate() {
                let Some(input) = &attached.input else { continue };
                sources.push(Source::Input(id.clone(), index));
                // While the container does not read, its input is waited for rather than that of the one who types.
                let (fd, flags) = match container.input().filter(|fd| !writable(*fd)) {
                    Some(full) => (full, PollFlags::POLLOUT),
                    None => (input.as_fd(), PollFlags::POLLIN),
                };
                fds.push(PollFd::new(fd, flags));
            }
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => sources.into_iter().zip(&fds).filter(|(_, fd)| fd.any().unwrap_or(false)).map(|(source, _)| source).collect(),
            Err(_) => Vec::new(),
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            let fd = stream.as_raw_fd();
            self.clients.insert(fd, Client { stream, rest: Vec::new(), fds: Vec::new(), subscribed: false });
        }
    }

    fn hear(&mut self, fd: RawFd) {
        let Some(client) = self.clients.get_mut(&fd) else { return };
        let mut received = Vec::new();
        match wire::receive(client.stream.as_fd(), &mut self.buffer, &mut received) {
            Ok(0) => drop(self.clients.remove(&fd)),
            Ok(length) => {
                client.rest.extend_from_slice(&self.buffer[..length]);
                client.fds.append(&mut received);
                if client.rest.len() > REQUEST_BYTES_MAX {
                    self.clients.remove(&fd);
                }
            }
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(_) => drop(self.clients.remove(&fd)),
        }
        while let Some(client) = self.clients.get_mut(&fd) {
            let Some(end) = client.rest.iter().position(|b| *b == b'\n') else { return };
            let line: Vec<u8> = client.rest.drain(..=end).collect();
            let fds = std::mem::take(&mut client.fds);
            match serde_json::from_slice(&line) {
                Ok(request) => self.serve(fd, request, fds),
                Err(why) => self.answer(fd, &failed(&Error::Process(format!("not a request: {why}"))), None),
            }
        }
    }

    fn serve(&mut self, client: RawFd, request: Request, fds: Vec<OwnedFd>) {
        let result = match request {
            Request::Start(spec) => self.start(&spec).map(|started| (Answer::Started(started), None)),
            Request::Signal { container, signal, all } => self.signal(&container, signal, all).map(|()| (Answer::Done, None)),
            Request::Exec { container, process } => self.exec(client, &container, &process, fds),
            Request::Attach { container } => self.attach(&container, fds),
            Request::ReopenLog { container } => self.reopen_log(&container).map(|()| (Answer::Done, None)),
            Request::Subscribe => {
                if let Some(client) = self.clients.get_mut(&client) {
                    client.subscribed = true;
                }
                Ok((Answer::Done, None))
            }
            Request::Quit => {
                self.quit = true;
                Ok((Answer::Done, None))
            }
        };
        match result {
            Ok((answer, fd)) => self.answer(client, &answer, fd),
            Err(why) => self.answer(client, &failed(&why), None),
        }
    }

    fn answer(&mut self, client: RawFd, answer: &Answer, fd: Option<OwnedFd>) {
        let mut line = serde_json::to_vec(answer).unwrap_or_default();
        line.push(b'\n');
        let fds: Vec<RawFd> = fd.iter().map(AsRawFd::as_raw_fd).collect();
        // Answers are far smaller than a socket's buffer; one who does not read them is dropped.
        if wire::send(client, &line, &fds).ok() != Some(line.len()) {
            self.clients.remove(&client);
        }
    }

    /// The lease has come to its end: unless it has been prolonged, nothing of the Pod runs on.
    fn fence(&mut self) {
        if self.lease.as_ref().is_none_or(Lease::holds) {
            return;
        }
        for container in self.containers.values_mut() {
            container.fenced = container.pid.is_some();
        }
        self.kill_all();
    }

    fn kill_all(&self) {
        for container in self.containers.values() {
            if let Some(pid) = container.pid {
                self.kill_group(&container.cgroup, Signal::SIGKILL);
                let _ = kill(pid, Signal::SIGKILL);
            }
        }
    }

    fn start(&mut self, spec: &Spec) -> Result<Started, Error> {
        if let Some(lease) = &self.lease {
            lease.begin(spec.lease_term)?;
        }
        let log = spec.log.as_ref().map(|path| Log::open(path).map_err(Error::system("cannot open the log"))).transpose()?;
        let target = spec.target.as_ref().and_then(|id| self.containers.get(id)).map(|c| &c.pidfd);
        let among = target.or(self.pause.as_ref()).filter(|_| !spec.host_pid);
        let (child, pipes) =
            spawn::container(spec, &self.hierarchies, among, self.users.as_ref()).inspect_err(|_| self.hierarchies.remove(&spec.cgroup))?;
        let started = Started { pid: child.pid.as_raw(), started_at_ns: now_ns() };
        for fd in pipes.stdout.iter().chain(&pipes.stderr).chain(&pipes.stdin).chain(&child.terminal) {
            let _ = fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
        }
        let output = child.terminal.as_ref().and_then(|t| t.try_clone().ok()).or(pipes.stdout);
        let container = Container {
            pid: Some(child.pid),
            pidfd: child.pidfd,
            cgroup: spec.cgroup.clone(),
            log,
            stdout: output.map(|fd| (fd, Lines::default())),
            stderr: pipes.stderr.map(|fd| (fd, Lines::default())),
            stdin: pipes.stdin,
            stdin_once: spec.stdin_once,
            terminal: child.terminal,
            attached: Vec::new(),
            directory: spec.directory.clone(),
            fenced: false,
        };
        // A container that nobody can find again must not run.
        if let Err(why) = started.save(&spec.directory) {
            let _ = kill(child.pid, Signal::SIGKILL);
            let _ = waitpid(child.pid, None);
            self.hierarchies.remove(&spec.cgroup);
            return Err(Error::system("cannot record the container's start")(why));
        }
        self.containers.insert(spec.id.clone(), container);
        Ok(started)
    }

    fn find(&self, id: &str) -> Result<&Container, Error> {
        let found = self.containers.get(id).filter(|c| c.pid.is_some());
        found.ok_or_else(|| Error::Process(format!("container {id} is not running")))
    }

    fn signal(&self, id: &str, signal: i32, all: bool) -> Result<(), Error> {
        let container = self.find(id)?;
        let signal = Signal::try_from(signal).map_err(Error::system("not a signal"))?;
        if all {
            self.kill_group(&container.cgroup, signal);
        }
        let pid = container.pid.unwrap_or(Pid::this());
        match kill(pid, signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(why) => Err(Error::system("cannot signal the container")(why)),
        }
    }

    fn kill_group(&self, cgroup: &str, signal: Signal) {
        for pid in self.hierarchies.members(cgroup) {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    fn exec(&mut self, client: RawFd, id: &str, process: &Process, mut fds: Vec<OwnedFd>) -> Result<(Answer, Option<OwnedFd>), Error> {
        let container = self.find(id)?;
        let stdio = match (process.terminal, fds.len()) {
            (true, _) => None,
            (false, 3) => fds.pop().zip(fds.pop()).zip(fds.pop()).map(|((stderr, stdout), stdin)| Stdio { stdin, stdout, stderr }),
            _ => return Err(Error::Process("exec without its three descriptors".into())),
        };
        let child = spawn::further(process, (&container.cgroup, &self.hierarchies), &container.pidfd, stdio, self.users.as_ref())?;
        self.execs.insert(child.pid, client);
        Ok((Answer::Started(Started { pid: child.pid.as_raw(), started_at_ns: now_ns() }), child.terminal))
    }

    fn attach(&mut self, id: &str, mut fds: Vec<OwnedFd>) -> Result<(Answer, Option<OwnedFd>), Error> {
        self.find(id)?;
        let container = self.containers.get_mut(id).ok_or_else(|| Error::Process("not running".into()))?;
        let (Some(errors), Some(output), Some(input)) = (fds.pop(), fds.pop(), fds.pop()) else {
            return Err(Error::Process("attach without its three descriptors".into()));
        };
        for fd in [&output, &errors] {
            let _ = fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
        }
        container.attached.push(Attached { input: Some(input), output, errors });
        Ok((Answer::Done, container.terminal.as_ref().and_then(|t| t.try_clone().ok())))
    }

    fn reopen_log(&mut self, id: &str) -> Result<(), Error> {
        let container = self.containers.get_mut(id).ok_or_else(|| Error::Process(format!("container {id} is not running")))?;
        container.log.as_mut().map_or(Ok(()), Log::reopen).map_err(Error::system("cannot reopen the log"))
    }

    /// Takes what a container has written: to the log, and to those who are attached.
    fn output(&mut self, id: &str, stdout: bool) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let (slot, stream) = if stdout { (&mut container.stdout, "stdout") } else { (&mut container.stderr, "stderr") };
        let Some((fd, lines)) = slot else { return };
        let now = Timestamp::now().to_string();
        let entries = match read(&*fd, &mut self.buffer) {
            Ok(length @ 1..) => {
                let bytes = &self.buffer[..length];
                container.attached.retain_mut(|a| {
                    let to = if stdout { &a.output } else { &a.errors };
                    // Who does not keep up is let go: a container must not wait for him.
                    nix::unistd::write(to, bytes).is_ok_and(|written| written == bytes.len())
                });
                lines.push(stream, &now, bytes)
            }
            Err(Errno::EAGAIN | Errno::EINTR) => return,
            // The end; a terminal says EIO.
            _ => {
                let rest = lines.finish(stream, &now);
                *slot = None;
                rest
            }
        };
        if let Some(log) = &mut container.log {
            log.write(&entries);
        }
        self.forget(id);
    }

    fn input(&mut self, id: &str, index: usize) {
        let Some(container) = self.containers.get_mut(id) else { return };
        if container.input().is_some_and(|fd| !writable(fd)) {
            return;
        }
        let Some(attached) = container.attached.get_mut(index) else { return };
        let Some(input) = &attached.input else { return };
        match read(input, &mut self.buffer[..PIPE_BYTES]) {
            Ok(length @ 1..) => {
                if let Some(fd) = container.terminal.as_ref().or(container.stdin.as_ref()) {
                    let _ = nix::unistd::write(fd, &self.buffer[..length]);
                }
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            _ => {
                attached.input = None;
                if container.stdin_once {
                    container.stdin = None;
                }
            }
        }
    }

    /// Waits for every process that has ended.
    fn reap(&mut self) {
        while let Ok(Some(_)) = self.signals.read_signal() {}
        loop {
            let (pid, code) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, code),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as i32),
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => continue,
            };
            if let Some(client) = self.execs.remove(&pid) {
                self.answer(client, &Answer::Exited(code), None);
                continue;
            }
            let ended = self.containers.iter().find(|(_, c)| c.pid == Some(pid)).map(|(id, _)| id.clone());
            if let Some(id) = ended {
                self.ended(&id, code);
            }
        }
    }

    fn ended(&mut self, id: &str, code: i32) {
        // What it wrote before it ended is in the log before anybody hears of the end.
        for stdout in [true, false] {
            while self.containers.get(id).is_some_and(|c| readable(if stdout { &c.stdout } else { &c.stderr })) {
                self.output(id, stdout);
            }
        }
        let Some(container) = self.containers.get_mut(id) else { return };
        container.pid = None;
        let (cgroup, directory, fenced) = (container.cgroup.clone(), container.directory.clone(), container.fenced);
        self.kill_group(&cgroup, Signal::SIGKILL);
        let killed_for_memory = code == 137 && self.hierarchies.oom_kills(&cgroup) > 0;
        let reason = if killed_for_memory {
            "OOMKilled"
        } else if code == 0 {
            "Completed"
        } else {
            "Error"
        };
        let message = if fenced { FENCED.into() } else { String::new() };
        let exit = Exit { code, finished_at_ns: now_ns(), reason: reason.into(), message };
        if let Err(why) = exit.save(&directory) {
            let _ = writeln!(std::io::stderr(), "skein-monitor: cannot record the end of container {id}: {why}");
        }
        self.hierarchies.remove(&cgroup);
        let event = Answer::Event(Event::Exited { container: id.into(), exit });
        let listening: Vec<RawFd> = self.clients.iter().filter(|(_, c)| c.subscribed).map(|(fd, _)| *fd).collect();
        for client in listening {
            self.answer(client, &event, None);
        }
        self.forget(id);
    }

    /// A container is kept until it has ended and all of its output is taken.
    fn forget(&mut self, id: &str) {
        if self.containers.get(id).is_some_and(|c| c.pid.is_none() && c.stdout.is_none() && c.stderr.is_none()) {
            self.containers.remove(id);
        }
    }

    /// Nothing of the Pod runs on. The runtime removes the cgroup that this process is in.
    fn end(&mut self) {
        self.kill_all();
        while self.containers.values().any(|c| c.pid.is_some()) {
            let mut fds = [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut fds, PollTimeout::NONE);
            self.reap();
        }
        if self.pod.own_ipc {
            mounts::release_pod_shm(&self.pod.directory.join("shm"));
        }
        let _ = std::fs::remove_file(self.pod.directory.join(SOCKET));
    }
}

// === impl Container ===

impl Container {
    /// Where what is typed goes.
    fn input(&self) -> Option<BorrowedFd<'_>> {
        self.terminal.as_ref().or(self.stdin.as_ref()).map(AsFd::as_fd)
    }
}

/// Gives the calling process, and with it the Pod, namespaces of its own.
fn isolate(pod: &Pod) -> Result<Option<Users>, Error> {
    let mut flags = CloneFlags::empty();
    if pod.own_network {
        flags |= CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS;
    }
    if pod.own_ipc {
        flags |= CloneFlags::CLONE_NEWIPC;
    }
    let users = match pod.users {
        Some(mapping) => Some(Users::isolate(mapping, flags)?),
        None => unshare(flags).map(|()| None).map_err(Error::system("cannot make the Pod's namespaces"))?,
    };
    if pod.own_network {
        if !pod.hostname.is_empty() {
            nix::unistd::sethostname(&pod.hostname).map_err(Error::system("cannot set the host name"))?;
        }
        loopback_up().map_err(Error::system("cannot bring up the loopback interface"))?;
    }
    for (name, value) in &pod.sysctls {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        std::fs::write(&path, value).map_err(Error::system(format!("cannot set sysctl {name}")))?;
    }
    Ok(users)
}

/// The one interface that a network namespace is born with is down.
fn loopback_up() -> nix::Result<()> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: a C structure for which all zeroes are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the structure lives through the call, and its name ends with a zero.
    Errno::result(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) }).map(drop)
}

fn ready(fd: BorrowedFd<'_>, flags: PollFlags) -> bool {
    let mut fds = [PollFd::new(fd, flags)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|count| count > 0)
}

fn writable(fd: BorrowedFd<'_>) -> bool {
    ready(fd, PollFlags::POLLOUT)
}

fn readable(stream: &Option<(OwnedFd, Lines)>) -> bool {
    stream.as_ref().is_some_and(|(fd, _)| ready(fd.as_fd(), PollFlags::POLLIN))
}

fn now_ns() -> i64 {
    i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

fn failed(why: &Error) -> Answer {
    Answer::Failed(Failure { message: why.to_string(), by_container: matches!(why, Error::Process(_)) })
}

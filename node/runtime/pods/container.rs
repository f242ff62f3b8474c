//! The life of a container, and of processes in it.

use std::fs;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use skein_cri as v1;
use skein_monitor::{Answer, Process, Request};
use tokio::sync::watch;

use super::{Container, ContainerRecord, Pods, SandboxState, State, create, new_id, now_ns, write};
use crate::monitor::Line;
use crate::{Error, io, spec};

const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;
/// How long a container that was killed may take to end: its processes may hang in the kernel.
const KILL_TIMEOUT: Duration = Duration::from_secs(30);

/// A process that runs in a container besides its first.
pub(crate) struct Running {
    line: Line,
    /// The other end of its terminal, if it has one.
    pub(crate) terminal: Option<OwnedFd>,
    pub(crate) pid: i32,
}

// === impl Pods ===

impl Pods {
    pub(crate) fn create_container(&self, sandbox_id: &str, config: v1::ContainerConfig) -> Result<String, Error> {
        let sandbox = self.sandbox(sandbox_id)?;
        if sandbox.record.borrow().state != SandboxState::Ready {
            return Err(Error::NotRunning(format!("sandbox {sandbox_id:?} is not running")));
        }
        let name = config.image.as_ref().map(|i| i.image.clone()).unwrap_or_default();
        let image = self.images.find(&name).ok_or_else(|| Error::NotFound { kind: "image", id: name })?;
        let mounted = config.mounts.iter().filter_map(|mount| Some(mount.image.as_ref()?.image.clone()));
        let images = mounted.filter_map(|name| Some((name.clone(), self.images.find(&name)?))).collect();
        let id = new_id();
        let directory = self.place("containers").join(&id);
        let places = spec::Places {
            id: &id,
            container: &directory,
            pod: &sandbox.directory,
            layers: &self.images.layers_directory(),
            images: &images,
            cgroup_parent: &sandbox.cgroup(),
            log_directory: &sandbox.config.log_directory,
        };
        let spec = spec::container(&config, &image, &places)?;
        for bind in spec.binds.iter().filter(|b| b.layers.is_empty() && !b.source.exists()) {
            // As containerd does for a hostPath volume whose directory is not there.
            fs::create_dir_all(&bind.source).map_err(io(format!("cannot make {}", bind.source.display())))?;
        }
        let stated = Some(config.stop_signal())
            .filter(|s| *s != v1::Signal::RuntimeDefault)
            .map(|s| s.as_str_name().trim_start_matches("SIGNAL_").to_string());
        let signal = stated.or_else(|| image.config.config.as_ref().and_then(|c| c.stop_signal.clone()));
        let record = ContainerRecord {
            sandbox: sandbox.id.clone(),
            created_at_ns: now_ns(),
            image_id: image.id.clone(),
            image_ref: image.reference(),
            stop_signal: signal.as_deref().and_then(spec::signal).unwrap_or(SIGTERM),
            spec,
        };
        create(&directory, &config, &record)?;
        let container = Container {
            id: id.clone(),
            directory,
            config,
            record,
            state: watch::Sender::new(State::Created),
            starting: tokio::sync::Mutex::default(),
        };
        write(&self.containers).insert(id.clone(), Arc::new(container));
        self.tell(v1::ContainerEventType::ContainerCreatedEvent, &id);
        Ok(id)
    }

    pub(crate) async fn start_container(&self, id: &str) -> Result<(), Error> {
        let container = self.container(id)?;
        let _one = container.starting.lock().await;
        if *container.state.borrow() != State::Created {
            return Err(Error::NotRunning(format!("container {id:?} has been started before")));
        }
        let mut line = self.line(&container).await?;
        let answer = line.ask(&Request::Start(Box::new(container.record.spec.clone())), &[]).await;
        let started = match answer {
            Ok((Answer::Started(started), _)) => started,
            Ok((other, _)) => return Err(Error::Invalid(format!("the Pod's monitor answers {other:?}"))),
            Err(why) => {
                self.never_ran(&container, &why);
                return Err(Error::Container(format!("failed to start container {:?}: {why}", container.name())));
            }
        };
        // A container may end before its start is told here.
        container.state.send_if_modified(|state| {
            match state {
                State::Created => *state = State::Running(started),
                State::Exited(begun, _) => *begun = Some(started),
                State::Running(_) => return false,
            }
            true
        });
        self.tell(v1::ContainerEventType::ContainerStartedEvent, id);
        Ok(())
    }

    /// As Kubernetes shows it: code 128, reason StartError.
    fn never_ran(&self, container: &Container, why: &Error) {
        let exit = skein_monitor::Exit { code: 128, finished_at_ns: now_ns(), reason: "StartError".into(), message: why.to_string() };
        let _ = exit.save(&container.directory);
        self.ended(container, exit);
    }

    /// The stop signal, then, after the grace period, the end of everything in the container.
    pub(crate) async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), Error> {
        let container = self.container(id)?;
        if !container.runs() {
            return Ok(());
        }
        if !grace.is_zero() {
            self.signal(&container, container.record.stop_signal, false).await?;
            if container.ended_within(grace).await {
                return Ok(());
            }
        }
        self.signal(&container, SIGKILL, true).await?;
        if container.ended_within(KILL_TIMEOUT).await {
            return Ok(());
        }
        Err(Error::NotRunning(format!("container {id:?} does not end, though it was killed {} s ago", KILL_TIMEOUT.as_secs())))
    }

    async fn signal(&self, container: &Container, signal: i32, all: bool) -> Result<(), Error> {
        if !container.runs() {
            return Ok(());
        }
        let asked = async {
            let request = Request::Signal { container: container.id.clone(), signal, all };
            self.line(container).await?.ask(&request, &[]).await
        };
        match asked.await {
            Ok(_) => Ok(()),
            // It has ended meanwhile, or will be seen to have.
            Err(_) if !container.runs() => Ok(()),
            Err(Error::Container(_)) => Ok(()),
            Err(why) => Err(why),
        }
    }

    pub(crate) async fn remove_container(&self, id: &str) -> Result<(), Error> {
        let Ok(container) = self.container(id) else { return Ok(()) };
        self.stop_container(&container.id, Duration::ZERO).await?;
        self.hierarchies.remove(&container.record.spec.cgroup);
        // The record goes first: without it the rest is nobody's, and is removed at the next start.
        let _ = fs::remove_file(container.directory.join(super::RECORD));
        fs::remove_dir_all(&container.directory).map_err(io(format!("cannot remove {}", container.directory.display())))?;
        write(&self.containers).remove(&container.id);
        self.tell(v1::ContainerEventType::ContainerDeletedEvent, &container.id);
        Ok(())
    }

    /// Runs a command in a container: as its first process, but for the arguments.
    pub(crate) async fn exec(&self, id: &str, args: Vec<String>, terminal: bool, stdio: [OwnedFd; 3]) -> Result<Running, Error> {
        let container = self.container(id)?;
        if !container.runs() {
            return Err(Error::NotRunning(format!("container {id:?} is not running")));
        }
        let process = Process { args, terminal, ..container.record.spec.process.clone() };
        let mut line = self.line(&container).await?;
        let request = Request::Exec { container: container.id.clone(), process: Box::new(process) };
        let fds = if terminal { Vec::new() } else { stdio.into() };
        match line.ask(&request, &fds).await? {
            (Answer::Started(started), mut fds) => Ok(Running { line, terminal: fds.pop(), pid: started.pid }),
            (other, _) => Err(Error::Invalid(format!("the Pod's monitor answers {other:?}"))),
        }
    }

    /// Looks on: input, output and errors of the container's first process, or its terminal.
    pub(crate) async fn attach(&self, id: &str, stdio: [OwnedFd; 3]) -> Result<Option<OwnedFd>, Error> {
        let container = self.container(id)?;
        if !container.runs() {
            return Err(Error::NotRunning(format!("container {id:?} is not running")));
        }
        let request = Request::Attach { container: container.id.clone() };
        let (_, mut fds) = self.line(&container).await?.ask(&request, &stdio).await?;
        Ok(fds.pop())
    }

    pub(crate) async fn reopen_log(&self, id: &str) -> Result<(), Error> {
        let container = self.container(id)?;
        let request = Request::ReopenLog { container: container.id.clone() };
        self.line(&container).await?.ask(&request, &[]).await.map(drop)
    }

    async fn line(&self, container: &Container) -> Result<Line, Error> {
        Line::open(&self.sandbox(&container.record.sandbox)?.directory).await
    }
}

// === impl Container ===

impl Container {
    pub(crate) fn runs(&self) -> bool {
        matches!(*self.state.borrow(), State::Running(_))
    }

    pub(crate) fn name(&self) -> String {
        self.config.metadata.as_ref().map(|m| m.name.clone()).unwrap_or_default()
    }

    pub(crate) async fn ended_within(&self, limit: Duration) -> bool {
        let mut state = self.state.subscribe();
        let ended = state.wait_for(|state| matches!(state, State::Exited(..)));
        tokio::time::timeout(limit, ended).await.is_ok()
    }
}

// === impl Running ===

impl Running {
    /// The exit code.
    pub(crate) async fn wait(&mut self) -> Result<i32, Error> {
        match self.line.next().await? {
            Answer::Exited(code) => Ok(code),
            other => Err(Error::Invalid(format!("the Pod's monitor answers {other:?}"))),
        }
    }
}

//! Pods and containers as the runtime knows them: a directory for each, read again at start.
//!
//! ```text
//!   pods/ID/         config.bin  record.json  monitor.sock  hostname  resolv.conf  shm/
//!   containers/ID/   config.bin  record.json  started.json  exit.json  upper/ work/ rootfs/
//! ```

mod container;
mod sandbox;

pub(crate) use container::Running;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use prost::Message;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use skein_cri as v1;
use skein_monitor::{Answer, Event, Exit, Hierarchies, Request, Spec, Started, Zygote, exit_of, started_of};
use tokio::sync::{broadcast, watch};
use tracing::{info, warn};

use crate::monitor::Line;
use crate::{Error, Options, images, io};

/// Events that one who listens may be behind by; after that he is told to list again.
const EVENTS: usize = 4096;
/// How long processes that were killed may take to go.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) struct Pods {
    pub(crate) options: Options,
    zygote: Arc<Zygote>,
    pub(crate) images: Arc<images::Store>,
    pub(crate) hierarchies: Hierarchies,
    sandboxes: RwLock<BTreeMap<String, Arc<Sandbox>>>,
    containers: RwLock<BTreeMap<String, Arc<Container>>>,
    pub(crate) events: broadcast::Sender<(v1::ContainerEventType, String)>,
}

pub(crate) struct Sandbox {
    pub(crate) id: String,
    pub(crate) directory: PathBuf,
    pub(crate) config: v1::PodSandboxConfig,
    pub(crate) record: watch::Sender<SandboxRecord>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SandboxRecord {
    pub(crate) created_at_ns: i64,
    pub(crate) handler: String,
    pub(crate) state: SandboxState,
    pub(crate) monitor: i32,
    pub(crate) addresses: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum SandboxState {
    /// Half made; found at start it is removed.
    Creating,
    Ready,
    NotReady,
}

pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) directory: PathBuf,
    pub(crate) config: v1::ContainerConfig,
    pub(crate) record: ContainerRecord,
    pub(crate) state: watch::Sender<State>,
    /// One start at a time.
    starting: tokio::sync::Mutex<()>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) sandbox: String,
    pub(crate) created_at_ns: i64,
    pub(crate) image_id: String,
    pub(crate) image_ref: String,
    pub(crate) stop_signal: i32,
    pub(crate) spec: Spec,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Created,
    Running(Started),
    Exited(Option<Started>, Exit),
}

// === impl Pods ===

impl Pods {
    /// Finds what an earlier runtime left: adopts what runs, removes what was half made.
    pub(crate) async fn open(options: Options, zygote: Arc<Zygote>, images: Arc<images::Store>) -> Result<Arc<Self>, Error> {
        let pods = Arc::new(Self {
            options,
            zygote,
            images,
            hierarchies: Hierarchies::read(),
            sandboxes: RwLock::default(),
            containers: RwLock::default(),
            events: broadcast::channel(EVENTS).0,
        });
        for directory in directories(&pods.place("containers"))? {
            match Container::read(&directory) {
                Some(container) => drop(write(&pods.containers).insert(container.id.clone(), Arc::new(container))),
                None => drop(fs::remove_dir_all(&directory)),
            }
        }
        for directory in directories(&pods.place("pods"))? {
            let Some(sandbox) = Sandbox::read(&directory).map(Arc::new) else {
                let _ = fs::remove_dir_all(&directory);
                continue;
            };
            write(&pods.sandboxes).insert(sandbox.id.clone(), Arc::clone(&sandbox));
            match sandbox.record.borrow().state {
                SandboxState::NotReady => continue,
                SandboxState::Ready | SandboxState::Creating => {}
            }
            pods.adopt(&sandbox).await;
        }
        info!(pods = read(&pods.sandboxes).len(), containers = read(&pods.containers).len(), "found");
        Ok(pods)
    }

    async fn adopt(self: &Arc<Self>, sandbox: &Arc<Sandbox>) {
        let creating = sandbox.record.borrow().state == SandboxState::Creating;
        match Line::open(&sandbox.directory).await {
            Ok(line) if !creating => self.listen(sandbox, line),
            _ if creating => {
                if let Err(why) = self.remove_sandbox(&sandbox.id).await {
                    warn!(pod = %sandbox.id, %why, "a Pod that was half made cannot be removed");
                }
            }
            _ => self.lost(sandbox),
        }
    }

    /// Hears from the monitor until it ends.
    fn listen(self: &Arc<Self>, sandbox: &Arc<Sandbox>, mut line: Line) {
        let (pods, sandbox) = (Arc::clone(self), Arc::clone(sandbox));
        tokio::spawn(async move {
            if line.ask(&Request::Subscribe, &[]).await.is_ok() {
                // What ended before this line was open is on disk.
                for container in pods.containers_of(&sandbox.id) {
                    if let Some(exit) = exit_of(&container.directory) {
                        pods.ended(&container, exit);
                    }
                }
                while let Ok(answer) = line.next().await {
                    if let Answer::Event(Event::Exited { container, exit }) = answer
                        && let Some(container) = read(&pods.containers).get(&container).cloned()
                    {
                        pods.ended(&container, exit);
                    }
                }
            }
            pods.lost(&sandbox);
        });
    }

    fn ended(&self, container: &Container, exit: Exit) {
        let changed = container.state.send_if_modified(|state| {
            let started = match state {
                State::Exited(..) => return false,
                State::Running(started) => Some(*started),
                State::Created => None,
            };
            *state = State::Exited(started, exit);
            true
        });
        if changed {
            self.tell(v1::ContainerEventType::ContainerStoppedEvent, &container.id);
        }
    }

    /// A Pod whose monitor is gone: nothing of it may run on.
    fn lost(&self, sandbox: &Sandbox) {
        for container in self.containers_of(&sandbox.id) {
            let State::Running(_) = *container.state.borrow() else { continue };
            let exit = exit_of(&container.directory).unwrap_or_else(|| {
                self.kill_all(&container.record.spec.cgroup);
                let exit =
                    Exit { code: 137, finished_at_ns: now_ns(), reason: "Error".into(), message: "the Pod's monitor was lost".into() };
                let _ = exit.save(&container.directory);
                exit
            });
            self.hierarchies.remove(&container.record.spec.cgroup);
            self.ended(&container, exit);
        }
        let _ = sandbox.change(|record| record.state = SandboxState::NotReady);
        self.tell(v1::ContainerEventType::ContainerStoppedEvent, &sandbox.id);
    }

    /// Kills what is in a cgroup; what forks meanwhile is found in the next round.
    fn kill_all(&self, cgroup: &str) {
        let begin = std::time::Instant::now();
        loop {
            let members = self.hierarchies.members(cgroup);
            if members.is_empty() || begin.elapsed() > KILL_TIMEOUT {
                return;
            }
            for pid in members {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub(crate) fn tell(&self, kind: v1::ContainerEventType, id: &str) {
        // Nobody need be listening.
        let _ = self.events.send((kind, id.into()));
    }

    pub(crate) fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>, Error> {
        find(&self.sandboxes, id).ok_or_else(|| Error::NotFound { kind: "sandbox", id: id.into() })
    }

    pub(crate) fn container(&self, id: &str) -> Result<Arc<Container>, Error> {
        find(&self.containers, id).ok_or_else(|| Error::NotFound { kind: "container", id: id.into() })
    }

    pub(crate) fn sandboxes(&self) -> Vec<Arc<Sandbox>> {
        let made = |s: &&Arc<Sandbox>| s.record.borrow().state != SandboxState::Creating;
        read(&self.sandboxes).values().filter(made).cloned().collect()
    }

    pub(crate) fn containers(&self) -> Vec<Arc<Container>> {
        read(&self.containers).values().cloned().collect()
    }

    pub(crate) fn containers_of(&self, sandbox: &str) -> Vec<Arc<Container>> {
        read(&self.containers).values().filter(|c| c.record.sandbox == sandbox).cloned().collect()
    }

    fn place(&self, kind: &str) -> PathBuf {
        self.options.directory.join(kind)
    }
}

// === impl Sandbox ===

impl Sandbox {
    fn read(directory: &Path) -> Option<Self> {
        let record: SandboxRecord = load(directory)?;
        let config = v1::PodSandboxConfig::decode(&fs::read(directory.join("config.bin")).ok()?[..]).ok()?;
        let id = directory.file_name()?.to_str()?.to_string();
        Some(Self { id, directory: directory.into(), config, record: watch::Sender::new(record) })
    }

    /// Changes the record, on disk first.
    pub(crate) fn change(&self, change: impl FnOnce(&mut SandboxRecord)) -> Result<(), Error> {
        let mut record = self.record.borrow().clone();
        change(&mut record);
        save(&self.directory, &record)?;
        self.record.send_replace(record);
        Ok(())
    }

    pub(crate) fn cgroup(&self) -> String {
        let parent = self.config.linux.as_ref().map(|l| l.cgroup_parent.trim_end_matches('/').to_string()).filter(|p| !p.is_empty());
        parent.unwrap_or_else(|| format!("/skein/{}", self.id))
    }

    pub(crate) fn namespaces(&self) -> v1::NamespaceOption {
        let security = self.config.linux.as_ref().and_then(|l| l.security_context.as_ref());
        security.and_then(|s| s.namespace_options.clone()).unwrap_or_default()
    }
}

// === impl Container ===

impl Container {
    fn read(directory: &Path) -> Option<Self> {
        let record: ContainerRecord = load(directory)?;
        let config = v1::ContainerConfig::decode(&fs::read(directory.join("config.bin")).ok()?[..]).ok()?;
        let id = directory.file_name()?.to_str()?.to_string();
        let state = match (started_of(directory), exit_of(directory)) {
            (started, Some(exit)) => State::Exited(started, exit),
            (Some(started), None) => State::Running(started),
            (None, None) => State::Created,
        };
        Some(Self {
            id,
            directory: directory.into(),
            config,
            record,
            state: watch::Sender::new(state),
            starting: tokio::sync::Mutex::default(),
        })
    }
}

const RECORD: &str = "record.json";

/// Writes what makes a directory a Pod's or a container's; without the record, which comes last, it is nothing.
fn create<R: Serialize>(directory: &Path, config: &impl Message, record: &R) -> Result<(), Error> {
    fs::create_dir_all(directory).map_err(io(format!("cannot make {}", directory.display())))?;
    fs::write(directory.join("config.bin"), config.encode_to_vec()).map_err(io(format!("cannot write to {}", directory.display())))?;
    save(directory, record)
}

fn save<R: Serialize>(directory: &Path, record: &R) -> Result<(), Error> {
    let failed = || io(format!("cannot write to {}", directory.display()));
    let bytes = serde_json::to_vec(record).map_err(|why| failed()(why.into()))?;
    let temporary = directory.join("record.new");
    fs::write(&temporary, bytes).map_err(failed())?;
    fs::rename(temporary, directory.join(RECORD)).map_err(failed())
}

fn load<R: DeserializeOwned>(directory: &Path) -> Option<R> {
    serde_json::from_slice(&fs::read(directory.join(RECORD)).ok()?).ok()
}

fn directories(parent: &Path) -> Result<Vec<PathBuf>, Error> {
    fs::create_dir_all(parent).map_err(io(format!("cannot make {}", parent.display())))?;
    let entries = fs::read_dir(parent).map_err(io(format!("cannot read {}", parent.display())))?;
    Ok(entries.flatten().map(|e| e.path()).filter(|p| p.is_dir()).collect())
}

/// By the whole id, or by a beginning that only one has.
fn find<T>(all: &RwLock<BTreeMap<String, Arc<T>>>, id: &str) -> Option<Arc<T>> {
    let all = read(all);
    if let Some(found) = all.get(id) {
        return Some(Arc::clone(found));
    }
    let mut matching = all.iter().filter(|(known, _)| id.len() >= 8 && known.starts_with(id));
    matching.next().filter(|_| matching.next().is_none()).map(|(_, found)| Arc::clone(found))
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn new_id() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

pub(crate) fn now_ns() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

//! What a Pod and a container are to their monitor: plain data, decided by the runtime, and what is kept on disk of
//! how a container began and ended.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What a monitor starts with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pod {
    pub id: String,
    /// The Pod's own directory, which holds the monitor's socket.
    pub directory: PathBuf,
    pub hostname: String,
    /// Namespaces that are the Pod's own, rather than the node's.
    pub own_network: bool,
    pub own_ipc: bool,
    /// One process namespace for all containers, with the monitor's pause process as its first.
    pub shared_pid: bool,
    pub sysctls: BTreeMap<String, String>,
    /// The Pod's cgroup, the same path in every hierarchy.
    pub cgroup: String,
    /// The Pod has users and groups of its own.
    #[serde(default)]
    pub users: Option<Mapping>,
    /// The file of the node's lease, for a Pod that ends with it.
    #[serde(default)]
    pub lease: Option<PathBuf>,
}

/// Which users and groups of the node a Pod's are, from its number 0 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapping {
    pub first: u32,
    pub length: u32,
}

/// All that it takes to start a container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    pub id: String,
    /// The container's own directory: the upper layer of its root, and the records of its start and end.
    pub directory: PathBuf,
    /// The image's layers, the lowest first, as directories below `layers_directory`.
    pub layers: Vec<String>,
    pub layers_directory: PathBuf,
    pub readonly_root: bool,
    pub privileged: bool,
    pub binds: Vec<Bind>,
    pub masked_paths: Vec<PathBuf>,
    pub readonly_paths: Vec<PathBuf>,
    pub shm: Option<PathBuf>,
    /// Runs among the node's processes.
    pub host_pid: bool,
    /// Runs among the processes of this other container of the Pod.
    pub target: Option<String>,
    pub process: Process,
    pub cgroup: String,
    pub resources: Resources,
    /// The log file in CRI format; none: output is dropped.
    pub log: Option<PathBuf>,
    /// Standard input stays open for those who attach.
    pub stdin: bool,
    pub stdin_once: bool,
    /// The term of the node's lease that it was to start under.
    #[serde(default)]
    pub lease_term: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    pub source: PathBuf,
    pub destination: PathBuf,
    pub readonly: bool,
    pub recursive_readonly: bool,
    pub propagation: Propagation,
    /// Device nodes work below it.
    pub devices: bool,
    /// Programs in it cannot be executed.
    #[serde(default)]
    pub noexec: bool,
    /// Layers of an image, the lowest first, which are the source; `source` is a path within them.
    #[serde(default)]
    pub layers: Vec<String>,
    /// Its files belong to the Pod's own users as they do to the node's of the same numbers.
    #[serde(default)]
    pub mapped: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    Private,
    HostToContainer,
    Bidirectional,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Process {
    pub args: Vec<String>,
    pub env: Vec<String>,
    pub cwd: String,
    pub user: User,
    /// Names like `CAP_CHOWN`; what this machine does not have is left out.
    pub capabilities: Vec<String>,
    pub no_new_privileges: bool,
    /// Seccomp filters, loaded in this order: classic BPF instructions, each as `struct sock_filter` in 8 bytes.
    pub seccomp: Vec<Vec<u64>>,
    pub oom_score_adj: i64,
    pub terminal: bool,
}

/// As whom a process runs. Names are looked up in the container's own files.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct User {
    /// `name`, `uid`, `name:group` or `uid:gid`, as images say it.
    pub name: String,
    pub group: Option<u32>,
    pub additional_groups: Vec<u32>,
    /// Only the groups named here, none from the container's `/etc/group`.
    pub strict_groups: bool,
}

/// Limits, in the units of CRI; 0 is none.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Resources {
    pub cpu_shares: i64,
    pub cpu_quota_us: i64,
    pub cpu_period_us: i64,
    pub memory_bytes_max: i64,
    pub cpuset_cpus: String,
    pub cpuset_mems: String,
    pub unified: BTreeMap<String, String>,
}

/// That a container was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    pub pid: i32,
    pub started_at_ns: i64,
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    pub code: i32,
    pub finished_at_ns: i64,
    pub reason: String,
    pub message: String,
}

const STARTED: &str = "started.json";
const EXIT: &str = "exit.json";

/// What is known of a container's start, from its directory.
pub fn started_of(directory: &Path) -> Option<Started> {
    serde_json::from_slice(&std::fs::read(directory.join(STARTED)).ok()?).ok()
}

/// What is known of a container's end, from its directory.
pub fn exit_of(directory: &Path) -> Option<Exit> {
    serde_json::from_slice(&std::fs::read(directory.join(EXIT)).ok()?).ok()
}

// === impl Bind ===

impl Bind {
    /// Writable, private, and without devices.
    pub fn new(source: impl Into<PathBuf>, destination: impl Into<PathBuf>) -> Self {
        Self {
            source: source.into(),
            destination: destination.into(),
            readonly: false,
            recursive_readonly: false,
            propagation: Propagation::Private,
            devices: false,
            noexec: false,
            layers: Vec::new(),
            mapped: false,
        }
    }
}

// === impl Started ===

impl Started {
    pub(crate) fn save(&self, directory: &Path) -> std::io::Result<()> {
        replace(&directory.join(STARTED), &serde_json::to_vec(self)?)
    }
}

// === impl Exit ===

impl Exit {
    pub fn save(&self, directory: &Path) -> std::io::Result<()> {
        replace(&directory.join(EXIT), &serde_json::to_vec(self)?)
    }
}

/// A reader sees the old file or the new one. Not synced: no container outlives the machine's power.
fn replace(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let temporary = path.with_extension("new");
    std::fs::File::create(&temporary)?.write_all(content)?;
    std::fs::rename(temporary, path)
}

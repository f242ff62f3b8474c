//! Watches what the node has left and what its Pods use, and drives away Pods as [`crate::eviction`] decides.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use nix::sys::statvfs::{Statvfs, statvfs};
use skein_cri as v1;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::cri::{CONTAINER_NAME, POD_UID, value};
use crate::eviction::{
    ContainerUse, Course, EVICTED, Evicted, IMMEDIATE_GRACE_SECONDS, Observed, Signal, Use, message, over_limit, victim,
};
use crate::machine::memory_bytes;
use crate::worker::Shared;
use crate::{image_gc, logs, pod, volumes};

/// Kubelet's `monitoringInterval`.
const INTERVAL: Duration = Duration::from_secs(10);

/// How the node fares. A cheap clone.
#[derive(Clone, Debug, Default)]
pub struct Pressure(Arc<Mutex<Standing>>);

#[derive(Debug, Default)]
struct Standing {
    /// The Node's conditions that hold, each until when.
    conditions: BTreeMap<&'static str, Instant>,
    /// The machine goes down.
    is_going_down: bool,
    /// Pods that must go, by uid, and what is said to them.
    evicted: BTreeMap<String, Evicted>,
}

// === impl Pressure ===

impl Pressure {
    fn look<T>(&self, look: impl FnOnce(&mut Standing) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether one of `MemoryPressure`, `DiskPressure` and `PIDPressure` holds.
    pub(crate) fn holds(&self, condition: &str) -> bool {
        self.look(|standing| standing.conditions.get(condition).is_some_and(|until| Instant::now() < *until))
    }

    pub(crate) fn shut_down(&self, begins: bool) {
        self.look(|standing| standing.is_going_down = begins);
    }

    pub(crate) fn is_going_down(&self) -> bool {
        self.look(|standing| standing.is_going_down)
    }

    /// Says to a Pod that it must go.
    pub(crate) fn drive_away(&self, uid: &str, evicted: Evicted) {
        self.look(|standing| standing.evicted.insert(uid.into(), evicted));
    }

    /// What is said to a Pod that must go.
    pub(crate) fn evicted(&self, uid: &str) -> Option<Evicted> {
        self.look(|standing| standing.evicted.get(uid).cloned())
    }

    pub(crate) fn forget(&self, uid: &str) {
        self.look(|standing| standing.evicted.remove(uid));
    }
}

/// Looks for as long as the daemon runs; `told` wakes the worker of a Pod that must go.
pub(crate) async fn run(shared: Arc<Shared>, told: mpsc::Sender<String>) {
    let images = shared.runtime.image_directory().await.unwrap_or_else(|| shared.options.directory.clone());
    let (begin, mut course) = (Instant::now(), Course::default());
    loop {
        tokio::time::sleep(INTERVAL).await;
        for (uid, evicted) in look(&shared, &images, &mut course, begin.elapsed()).await {
            warn!(pod = uid, why = evicted.why, "evicted");
            shared.options.pressure.drive_away(&uid, evicted);
            if told.send(uid).await.is_err() {
                return;
            }
        }
    }
}

/// Who must go now, and why.
async fn look(shared: &Arc<Shared>, images: &Path, course: &mut Course, now: Duration) -> Vec<(String, Evicted)> {
    let options = &shared.options;
    let eviction = &options.eviction;
    let short = course.observe(eviction, &observe(&options.directory, images), now);
    let until = Instant::now() + eviction.condition_lasts;
    let conditions = short.iter().map(|met| (met.threshold.signal.condition(), until));
    options.pressure.look(|standing| standing.conditions.extend(conditions));
    let pods = active(shared);
    let measured = match measure(shared, &pods).await {
        Ok(measured) => measured,
        Err(why) => {
            warn!(%why, "cannot measure what Pods use");
            return Vec::new();
        }
    };
    let uid = |used: &Use<'_>| used.pod.metadata.uid.clone().unwrap_or_default();
    let at_once = |why: String| Evicted { reason: EVICTED, why, grace_seconds_max: IMMEDIATE_GRACE_SECONDS };
    let over: Vec<_> = measured.iter().filter_map(|used| Some((uid(used), at_once(over_limit(used)?)))).collect();
    let Some(met) = short.iter().find(|met| met.is_due).filter(|_| over.is_empty()) else { return over };
    if met.threshold.signal.condition() == "DiskPressure" {
        info!(resource = met.threshold.signal.resource(), "images that nobody uses are removed");
        image_gc::remove_unused(shared).await;
    }
    // What has been given back may be enough.
    let short = course.observe(eviction, &observe(&options.directory, images), now);
    let Some(met) = short.iter().find(|met| met.is_due) else { return Vec::new() };
    let grace_seconds_max = eviction.grace_seconds(&met.threshold);
    let chosen = victim(met.threshold.signal, &measured);
    chosen.map(|used| (uid(used), Evicted { reason: EVICTED, why: message(met, used), grace_seconds_max })).into_iter().collect()
}

/// The Pods here that have not ended.
pub(crate) fn active(shared: &Shared) -> Vec<Pod> {
    let state = shared.store.local().state;
    let pods = state.range("pods/", None).filter_map(|(_, entry)| {
        // Most are other nodes': their specification is enough to know that.
        let spec = entry.record.field("spec")?;
        if spec["nodeName"] != shared.options.name.as_str() {
            return None;
        }
        entry.record.typed::<Pod>(entry.revision)
    });
    pods.filter(|pod| !pod::phase_is_final(pod) && pod.metadata.deletion_timestamp.is_none()).collect()
}

/// What there is of the disk that a path is on.
pub(crate) fn disk(path: &Path) -> Option<Observed> {
    statvfs(path).ok().map(|found| bytes_of(&found))
}

fn bytes_of(found: &Statvfs) -> Observed {
    let size = found.fragment_size();
    Observed { available: found.blocks_available() * size, capacity: found.blocks() * size }
}

fn observe(kubelet: &Path, images: &Path) -> BTreeMap<Signal, Observed> {
    let mut observed = BTreeMap::new();
    if let (Some(available), Some(capacity)) = (memory_bytes("MemAvailable"), memory_bytes("MemTotal")) {
        observed.insert(Signal::MemoryAvailable, Observed { available, capacity });
    }
    let disks =
        [(kubelet, Signal::NodefsAvailable, Signal::NodefsInodesFree), (images, Signal::ImagefsAvailable, Signal::ImagefsInodesFree)];
    for (path, bytes, inodes) in disks {
        let Ok(found) = statvfs(path) else { continue };
        observed.insert(bytes, bytes_of(&found));
        // Some file systems make inodes as they need them.
        if found.files() > 0 {
            observed.insert(inodes, Observed { available: found.files_free(), capacity: found.files() });
        }
    }
    let number = |path: &str| std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u64>().ok());
    let running = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let running = running.split(' ').nth(3).and_then(|counts| counts.split('/').nth(1)?.parse::<u64>().ok());
    if let (Some(capacity), Some(running)) = (number("/proc/sys/kernel/pid_max"), running) {
        observed.insert(Signal::PidAvailable, Observed { available: capacity.saturating_sub(running), capacity });
    }
    observed
}

/// What each Pod uses.
async fn measure<'a>(shared: &Shared, pods: &'a [Pod]) -> Result<Vec<Use<'a>>, crate::Error> {
    let look = shared.options.stats.look().unwrap_or_default();
    let root = shared.options.directory.clone();
    let places: Vec<Places> = pods.iter().map(|pod| Places::of(&root, pod)).collect();
    let found = tokio::task::spawn_blocking(move || places.into_iter().map(Places::measure).collect::<Vec<_>>()).await;
    let found = found.map_err(|why| crate::Error::Runtime(why.to_string()))?;
    Ok(pods.iter().zip(found).map(|(pod, disk)| together(pod, disk, &look.stats)).collect())
}

fn together<'a>(pod: &'a Pod, disk: OnDisk, stats: &[v1::ContainerStats]) -> Use<'a> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let mut inodes = disk.inodes;
    let mut containers = Vec::new();
    for one in stats {
        let Some(about) = one.attributes.as_ref().filter(|about| about.labels.get(POD_UID).is_some_and(|found| found == uid)) else {
            continue;
        };
        let name = about.labels.get(CONTAINER_NAME).cloned().unwrap_or_default();
        let layer = one.writable_layer.as_ref();
        inodes += value(layer.and_then(|layer| layer.inodes_used.as_ref()));
        containers.push(ContainerUse {
            memory_bytes: value(one.memory.as_ref().and_then(|memory| memory.working_set_bytes.as_ref())),
            disk_bytes: value(layer.and_then(|layer| layer.used_bytes.as_ref())) + disk.logs.get(&name).copied().unwrap_or(0),
            name,
        });
    }
    Use { pod, containers, empty_dirs: disk.empty_dirs, inodes }
}

/// Where a Pod writes on this node's disk.
struct Places {
    empty_dirs: Vec<(String, PathBuf)>,
    logs: PathBuf,
}

#[derive(Default)]
struct OnDisk {
    empty_dirs: BTreeMap<String, u64>,
    logs: BTreeMap<String, u64>,
    inodes: u64,
}

// === impl Places ===

impl Places {
    fn of(root: &Path, pod: &Pod) -> Self {
        let directory = volumes::pod_directory(root, pod).join("volumes");
        let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        let on_disk = volumes.filter(|v| v.empty_dir.as_ref().is_some_and(|stated| stated.medium.as_deref() != Some("Memory")));
        let empty_dirs = on_disk.map(|volume| (volume.name.clone(), directory.join(&volume.name))).collect();
        Self { empty_dirs, logs: logs::directory(root, pod) }
    }

    fn measure(self) -> OnDisk {
        let mut found = OnDisk::default();
        for (name, path) in self.empty_dirs {
            let (bytes, inodes) = size_of(&path);
            found.empty_dirs.insert(name, bytes);
            found.inodes += inodes;
        }
        for entry in std::fs::read_dir(&self.logs).into_iter().flatten().flatten() {
            found.logs.insert(entry.file_name().to_string_lossy().into_owned(), size_of(&entry.path()).0);
        }
        found
    }
}

/// Bytes and inodes at and below a path, of its own file system.
fn size_of(path: &Path) -> (u64, u64) {
    let Ok(root) = std::fs::symlink_metadata(path) else { return (0, 0) };
    let (mut bytes, mut inodes) = (0, 0);
    let mut open = vec![(path.to_path_buf(), root.clone())];
    while let Some((path, metadata)) = open.pop() {
        // 512 whatever the file system's blocks are.
        bytes += metadata.blocks() * 512;
        inodes += 1;
        if metadata.is_dir() {
            let entries = std::fs::read_dir(&path).into_iter().flatten().flatten();
            open.extend(entries.filter_map(|entry| Some((entry.path(), entry.metadata().ok().filter(|m| m.dev() == root.dev())?))));
        }
    }
    (bytes, inodes)
}

//! Volumes of CSI drivers: who is registered on this node, and the way from a Pod's volume to a directory.
//!
//! ```text
//!   plugins_registry/*.sock ─▶ registration ─▶ Drivers ─▶ CSINode, the Node's labels
//!   Pod, claim, volume ─▶ volume (pure) ─▶ mounting: said to be in use ─▶ attached ─▶ staged ─▶ published
//!   the Pod's end ─▶ mounting: unpublished ─▶ unstaged, if no other Pod here has it ─▶ not in use, so it may be detached
//! ```
//!
//! Sources: the CSI specification, and kubelet's `pkg/volume/csi`, whose paths and names are used.
//!
//! - **Invariant:** what is published or staged is on disk (`vol_data.json`) before the driver is asked, and goes after
//!   it has undone it; so a crash at any moment leaves nothing mounted that nobody knows of.
//! - **Invariant:** a volume that must be attached is reported as in use before it is staged, and until it is unstaged;
//!   the attach controller detaches none that is in use.

mod driver;
mod mounting;
mod registration;
mod volume;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use nix::mount::{MsFlags, mount};
use skein_object::Key;
use skein_object::volume::{ATTACHMENTS, unique_name};
use skein_state::State;
use tokio::sync::{Notify, OwnedMutexGuard};
use tracing::warn;

pub(crate) use driver::Driver;
pub(crate) use mounting::{Mounted, has_volumes};
pub(crate) use registration::run;
pub(crate) use volume::{Volume, volume_of};

use crate::Error;
use crate::volumes::mounts;

/// The drivers of this node and what is in use of them. A cheap clone.
#[derive(Clone, Debug)]
pub struct Csi {
    /// Kubelet's directory, as drivers see it.
    root: PathBuf,
    shared: Arc<Mutex<Shared>>,
    /// What is in use has changed.
    pub(crate) changed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Shared {
    drivers: BTreeMap<String, Driver>,
    in_use: BTreeSet<String>,
    /// One change at a time of what is mounted of a volume.
    locks: BTreeMap<String, Arc<tokio::sync::Mutex<()>>>,
}

// === impl Csi ===

impl Csi {
    /// What an earlier daemon has left mounted is in use.
    pub fn new(root: &Path) -> Self {
        let shared = Shared { in_use: mounting::found_in_use(root), ..Shared::default() };
        Self { root: root.into(), shared: Arc::new(Mutex::new(shared)), changed: Arc::default() }
    }

    fn shared<T>(&self, look: impl FnOnce(&mut Shared) -> T) -> T {
        look(&mut self.shared.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn driver(&self, name: &str) -> Result<Driver, Error> {
        let missing = || Error::Config(format!("driver name {name} not found in the list of registered CSI drivers"));
        self.shared(|shared| shared.drivers.get(name).cloned()).ok_or_else(missing)
    }

    fn drivers(&self) -> BTreeMap<String, Driver> {
        self.shared(|shared| shared.drivers.clone())
    }

    /// Volumes that must not be detached from this node, for `status.volumesInUse`.
    pub(crate) fn in_use(&self) -> BTreeSet<String> {
        self.shared(|shared| shared.in_use.clone())
    }

    async fn lock(&self, volume: &str) -> OwnedMutexGuard<()> {
        let lock = self.shared(|shared| {
            shared.locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(shared.locks.entry(volume.into()).or_default())
        });
        lock.lock_owned().await
    }
}

/// Makes kubelet's directory shared, where the machine does not share all of its mounts: what a driver mounts there from
/// within its container is to appear on the node.
pub(crate) fn share(root: &Path) {
    let shared = mounts().into_iter().filter(|(path, _)| root.starts_with(path)).max_by_key(|(path, _)| path.as_os_str().len());
    if shared.is_some_and(|(_, is_shared)| is_shared) {
        return;
    }
    let none: Option<&str> = None;
    let _ = std::fs::create_dir_all(root);
    let bound = mount(Some(root), root, none, MsFlags::MS_BIND | MsFlags::MS_REC, none);
    if let Err(why) = bound.and_then(|()| mount(none, root, none, MsFlags::MS_SHARED | MsFlags::MS_REC, none)) {
        warn!(path = %root.display(), %why, "cannot be shared: CSI drivers in containers will not work");
    }
}

/// What is attached to a node, for `status.volumesAttached`: the unique names.
pub(crate) fn attached(state: &State, node: &str) -> BTreeSet<String> {
    let text = |value: &serde_json::Value, pointer: &str| value.pointer(pointer).and_then(|v| v.as_str()).unwrap_or_default().to_string();
    let mut names = BTreeSet::new();
    for (_, entry) in state.range(&Key::prefix(ATTACHMENTS, ""), None) {
        let (Some(spec), Some(status)) = (entry.record.field("spec"), entry.record.field("status")) else { continue };
        if status["attached"] != true || text(&spec, "/nodeName") != node {
            continue;
        }
        let volume = state.get(&Key::new("persistentvolumes", "", &text(&spec, "/source/persistentVolumeName")));
        let Some(volume) = volume.and_then(|entry| entry.record.field("spec")) else { continue };
        names.insert(unique_name(&text(&spec, "/attacher"), &text(&volume, "/csi/volumeHandle")));
    }
    names
}

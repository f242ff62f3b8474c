//! Brings a volume to a Pod and takes it away again.
//!
//! What is on disk, as kubelet has it, with a `vol_data.json` beside each:
//!
//! ```text
//!   pods/UID/volumes/kubernetes.io~csi/NAME/mount                  published for one Pod
//!   plugins/kubernetes.io/csi/DRIVER/SHA256(HANDLE)/globalmount    staged for the node
//! ```
//!
//! Of a device (`volumeMode: Block`) the notes lie in `pods/UID/volumeDevices`, and the volume itself is in
//!
//! ```text
//!   plugins/kubernetes.io/csi/volumeDevices/publish/NAME/UID
//!   plugins/kubernetes.io/csi/volumeDevices/staging/NAME
//! ```

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::json;
use skein_object::Key;
use skein_object::quantity::Quantity;
use skein_object::volume::{digest, unique_name};
use skein_store::Handle as Store;
use tracing::{info, warn};

use super::driver::{Call, Capability, Driver};
use super::{Csi, Volume};
use crate::env::Source;
use crate::volumes::{Owner, VolumeMode, failed, mounts_below};
use crate::{Error, secrets, service_account, write};

const NOTES: &str = "vol_data.json";

/// A volume that is there for a Pod.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Mounted {
    pub(crate) path: PathBuf,
    pub(crate) readonly: bool,
    pub(crate) mode: VolumeMode,
}

/// What is written down beside a mount: enough to undo it.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Notes {
    driver_name: String,
    volume_handle: String,
    /// Whether the node's status names it while it is mounted: `true` or `false`.
    #[serde(default)]
    attachable: String,
    /// The PersistentVolume's name.
    #[serde(default, rename = "specVolID")]
    name: String,
    #[serde(default)]
    volume_mode: String,
}

impl Notes {
    fn unique_name(&self) -> String {
        unique_name(&self.driver_name, &self.volume_handle)
    }

    fn is_attachable(&self) -> bool {
        self.attachable == "true"
    }

    fn mode(&self) -> VolumeMode {
        VolumeMode::named(&self.volume_mode)
    }

    /// Where the driver puts it for one Pod, whose notes are in `directory`.
    fn published(&self, root: &Path, pod: &Path, directory: &Path) -> PathBuf {
        match self.mode() {
            VolumeMode::Filesystem => directory.join("mount"),
            VolumeMode::Block => devices(root).join("publish").join(&self.name).join(pod.file_name().unwrap_or_default()),
        }
    }

    /// Where the driver puts it for the node.
    fn staged(&self, root: &Path, directory: &Path) -> PathBuf {
        match self.mode() {
            VolumeMode::Filesystem => directory.join("globalmount"),
            VolumeMode::Block => devices(root).join("staging").join(&self.name),
        }
    }

    /// Whether the volume is in its place.
    fn is_at(&self, target: &Path) -> bool {
        match self.mode() {
            VolumeMode::Filesystem => !mounts_below(target).is_empty(),
            VolumeMode::Block => fs::metadata(target).is_ok_and(|found| found.file_type().is_block_device()),
        }
    }

    fn of(directory: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(directory.join(NOTES)).ok()?).ok()
    }

    /// What was there is gone: so are its notes, last. Nothing is removed from within a volume that is still there.
    fn forget(&self, directory: &Path, target: &Path) -> Result<(), Error> {
        if self.is_at(target) {
            return Err(Error::Config(format!("{} is still mounted", target.display())));
        }
        let left = if target.is_dir() { fs::remove_dir(target) } else { fs::remove_file(target) };
        match left {
            Err(why) if why.kind() != std::io::ErrorKind::NotFound => return Err(failed(target)(why)),
            _ => {}
        }
        if self.mode() == VolumeMode::Block {
            // It goes with its last Pod.
            let _ = target.parent().map(fs::remove_dir);
        }
        fs::remove_file(directory.join(NOTES)).map_err(failed(directory))?;
        fs::remove_dir(directory).map_err(failed(directory))
    }

    fn write(&self, directory: &Path) -> Result<(), Error> {
        let write = || {
            fs::create_dir_all(directory)?;
            let new = directory.join(".vol_data.json");
            let file = fs::File::create(&new)?;
            serde_json::to_writer(&file, self)?;
            file.sync_all()?;
            fs::rename(&new, directory.join(NOTES))
        };
        write().map_err(failed(directory))
    }
}

/// Where the notes of a Pod's volumes are.
fn published(pod: &Path, mode: VolumeMode) -> PathBuf {
    let kind = match mode {
        VolumeMode::Filesystem => "volumes",
        VolumeMode::Block => "volumeDevices",
    };
    pod.join(kind).join("kubernetes.io~csi")
}

fn published_all(pod: &Path) -> Vec<PathBuf> {
    [VolumeMode::Filesystem, VolumeMode::Block].into_iter().flat_map(|mode| children(&published(pod, mode))).collect()
}

fn devices(root: &Path) -> PathBuf {
    root.join("plugins/kubernetes.io/csi/volumeDevices")
}

fn staged(root: &Path, driver: &str, handle: &str) -> PathBuf {
    root.join("plugins/kubernetes.io/csi").join(driver).join(digest(&[handle]))
}

fn children(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// What is staged on the node.
fn all_staged(root: &Path) -> impl Iterator<Item = (PathBuf, Notes)> {
    let drivers = children(&root.join("plugins/kubernetes.io/csi"));
    drivers.into_iter().flat_map(|driver| children(&driver)).filter_map(|directory| Notes::of(&directory).map(|notes| (directory, notes)))
}

/// What is published for any Pod.
fn all_published(root: &Path) -> impl Iterator<Item = Notes> {
    let pods = children(&root.join("pods"));
    pods.into_iter().flat_map(|pod| published_all(&pod)).filter_map(|directory| Notes::of(&directory))
}

/// Whether a Pod's directory has volumes of drivers.
pub(crate) fn has_volumes(pod: &Path) -> bool {
    [VolumeMode::Filesystem, VolumeMode::Block].into_iter().any(|mode| published(pod, mode).exists())
}

/// Volumes that are mounted, as far as they were attached.
pub(super) fn found_in_use(root: &Path) -> BTreeSet<String> {
    let all = all_staged(root).map(|(_, notes)| notes).chain(all_published(root));
    all.filter(Notes::is_attachable).map(|notes| notes.unique_name()).collect()
}

// === impl Csi ===

impl Csi {
    /// Stages and publishes a volume for a Pod; what is there already is left as it is. `None` while the volume is not
    /// attached yet.
    pub(crate) async fn mount(&self, source: &Source<'_>, pod: &Path, volume: &Volume) -> Result<Option<Mounted>, Error> {
        let driver = self.driver(&volume.driver)?;
        let _lock = self.lock(&volume.unique_name()).await;
        if volume.is_attachable() && !self.is_known_in_use(source, &volume.unique_name()) {
            return Ok(None);
        }
        let Some(context) = volume.attachment(source)? else { return Ok(None) };
        let owner = Owner::of(source.pod);
        let mut call = volume.call(&driver, context, &owner);
        let notes = Notes {
            driver_name: volume.driver.clone(),
            volume_handle: volume.handle.clone(),
            attachable: volume.is_attachable().to_string(),
            name: volume.name.clone(),
            volume_mode: volume.mode.name().into(),
        };
        let directory = published(pod, volume.mode).join(&volume.name);
        notes.write(&directory)?;
        let target = notes.published(&self.root, pod, &directory);
        let is_there = notes.is_at(&target);
        let staging = self.stage(source, &driver, (&call, volume), (&notes, is_there)).await?;
        if !is_there || volume.stated.requires_republish == Some(true) {
            make_parent(&target)?;
            let mut secret = opened(source, volume.publish_secret.as_ref())?;
            call.attributes.extend(volume.pod_info(source));
            if let Some(tokens) = tokens(source, volume)? {
                let place = if volume.stated.service_account_token_in_secrets == Some(true) { &mut secret } else { &mut call.attributes };
                place.insert("csi.storage.k8s.io/serviceAccount.tokens".into(), tokens);
            }
            driver.publish(&call, (staging.as_deref(), &target, volume.readonly), secret).await?;
            if volume.takes_owner(&driver) {
                owner.give_all(&target)?;
            }
        }
        Ok(Some(Mounted { path: target, readonly: volume.readonly, mode: volume.mode }))
    }

    /// Says that an attachable volume is in use; whether the cluster knows already.
    fn is_known_in_use(&self, source: &Source<'_>, unique: &str) -> bool {
        if self.shared(|shared| shared.in_use.insert(unique.into())) {
            self.changed.notify_one();
        }
        let status = source.state.get(&Key::new("nodes", "", source.node)).and_then(|entry| entry.record.field("status"));
        status.is_some_and(|status| status["volumesInUse"].as_array().is_some_and(|list| list.iter().any(|v| *v == unique)))
    }

    /// Where the volume is staged; `None` where the driver does not stage.
    async fn stage(
        &self,
        source: &Source<'_>,
        driver: &Driver,
        (call, volume): (&Call, &Volume),
        (notes, is_published): (&Notes, bool),
    ) -> Result<Option<PathBuf>, Error> {
        let Some(directory) = self.staging(driver, volume) else { return Ok(None) };
        let target = notes.staged(&self.root, &directory);
        notes.write(&directory)?;
        fs::create_dir_all(&target).map_err(failed(&target))?;
        // A driver need not leave anything at the place of a staged device.
        let is_staged = notes.is_at(&target) || notes.mode() == VolumeMode::Block && is_published;
        if !is_staged {
            driver.stage(call, &target, opened(source, volume.stage_secret.as_ref())?).await?;
        }
        Ok(Some(target))
    }

    fn staging(&self, driver: &Driver, volume: &Volume) -> Option<PathBuf> {
        (driver.can(Capability::StageUnstageVolume) && !volume.is_ephemeral).then(|| staged(&self.root, &volume.driver, &volume.handle))
    }

    /// Takes a Pod's volumes away; `Err` while one is still there.
    pub(crate) async fn release(&self, pod: &Path) -> Result<(), Error> {
        for directory in published_all(pod) {
            let Some(notes) = Notes::of(&directory) else {
                // Nothing was asked of the driver yet.
                fs::remove_dir(&directory).map_err(failed(&directory))?;
                continue;
            };
            let _lock = self.lock(&notes.unique_name()).await;
            let target = notes.published(&self.root, pod, &directory);
            self.driver(&notes.driver_name)?.unpublish(&notes.volume_handle, &target).await?;
            notes.forget(&directory, &target)?;
            self.unstage_unused(&notes).await?;
        }
        Ok(())
    }

    /// Unstages what no Pod has any more: what a crash has left.
    pub(crate) async fn sweep(self) {
        for (_, notes) in all_staged(&self.root) {
            let _lock = self.lock(&notes.unique_name()).await;
            if let Err(why) = self.unstage_unused(&notes).await {
                warn!(volume = notes.volume_handle, driver = notes.driver_name, %why, "a volume cannot be unstaged");
            }
        }
    }

    /// Under the volume's lock.
    async fn unstage_unused(&self, notes: &Notes) -> Result<(), Error> {
        if all_published(&self.root).any(|other| other.unique_name() == notes.unique_name()) {
            return Ok(());
        }
        let directory = staged(&self.root, &notes.driver_name, &notes.volume_handle);
        if directory.join(NOTES).exists() {
            let target = notes.staged(&self.root, &directory);
            self.driver(&notes.driver_name)?.unstage(&notes.volume_handle, &target).await?;
            notes.forget(&directory, &target)?;
            info!(volume = notes.volume_handle, driver = notes.driver_name, "unstaged");
        }
        if self.shared(|shared| shared.in_use.remove(&notes.unique_name())) {
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Lets what is on a volume grow after the volume, and says so in the claim.
    pub(crate) async fn expand(&self, source: &Source<'_>, store: &Store, pod: &Path, volume: &Volume) -> Result<(), Error> {
        let Some((claim, size)) = &volume.growth else { return Ok(()) };
        let driver = self.driver(&volume.driver)?;
        if !driver.can(Capability::ExpandVolume) {
            return Ok(());
        }
        let _lock = self.lock(&volume.unique_name()).await;
        let Some(context) = volume.attachment(source)? else { return Ok(()) };
        let call = volume.call(&driver, context, &Owner::of(source.pod));
        let directory = published(pod, volume.mode).join(&volume.name);
        let Some(notes) = Notes::of(&directory) else { return Ok(()) };
        let staging = self.staging(&driver, volume).map(|directory| notes.staged(&self.root, &directory));
        let target = notes.published(&self.root, pod, &directory);
        let bytes = size.parse::<Quantity>().map_or(0, |quantity| i64::try_from(quantity.units()).unwrap_or(i64::MAX));
        let secret = opened(source, volume.expand_secret.as_ref())?;
        driver.expand(&call, (staging.as_deref(), &target), bytes, secret).await?;
        let Some(entry) = source.state.get(claim) else { return Ok(()) };
        let mut object = entry.record.to_value("v1", "PersistentVolumeClaim", entry.revision);
        grown(&mut object["status"], size);
        store.propose(write::update(claim, entry, &object).into()).await.map(drop)?;
        info!(claim = %claim, size, "a volume has grown");
        Ok(())
    }
}

/// A claim's status after its volume has grown.
fn grown(status: &mut serde_json::Value, size: &str) {
    status["capacity"]["storage"] = size.into();
    let Some(status) = status.as_object_mut() else { return };
    if let Some(conditions) = status.get_mut("conditions").and_then(|c| c.as_array_mut()) {
        conditions.retain(|c| {
            !["FileSystemResizePending", "Resizing", "NodeResizeError", "ControllerResizeError"].map(|k| json!(k)).contains(&c["type"])
        });
        if conditions.is_empty() {
            status.shift_remove("conditions");
        }
    }
    if let Some(statuses) = status.get_mut("allocatedResourceStatuses").and_then(|s| s.as_object_mut()) {
        statuses.shift_remove("storage");
        if statuses.is_empty() {
            status.shift_remove("allocatedResourceStatuses");
        }
    }
}

/// A driver may expect that only the last part of its path is missing.
fn make_parent(target: &Path) -> Result<(), Error> {
    let parent = target.parent().unwrap_or(target);
    fs::create_dir_all(parent).map_err(failed(parent))
}

/// A Secret's data, as drivers take it.
fn opened(source: &Source<'_>, name: Option<&(String, String)>) -> Result<HashMap<String, String>, Error> {
    let Some((namespace, name)) = name else { return Ok(HashMap::new()) };
    let found = secrets::secret(source.state, source.keyring, namespace, name)?;
    let data = found.ok_or_else(|| Error::Config(format!("secrets \"{name}\" not found")))?.data.unwrap_or_default();
    Ok(data.into_iter().map(|(key, value)| (key, String::from_utf8_lossy(&value.0).into_owned())).collect())
}

/// The tokens that a driver asks for, by audience, as text (`tokenRequests`).
fn tokens(source: &Source<'_>, volume: &Volume) -> Result<Option<String>, Error> {
    let mut tokens = serde_json::Map::new();
    for wanted in volume.stated.token_requests.iter().flatten() {
        let (token, expires) = service_account::issue(source, &wanted.audience, wanted.expiration_seconds)?;
        tokens.insert(wanted.audience.clone(), json!({"token": token, "expirationTimestamp": skein_object::meta::time(expires)}));
    }
    Ok((!tokens.is_empty()).then(|| serde_json::Value::Object(tokens).to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_that_has_grown_forgets_that_it_was_to_grow() {
        let mut status = json!({"phase": "Bound", "capacity": {"storage": "1Gi"}, "allocatedResources": {"storage": "2Gi"},
            "allocatedResourceStatuses": {"storage": "NodeResizePending"}, "conditions": [{"type": "FileSystemResizePending", "status": "True"}]});
        grown(&mut status, "2Gi");
        assert_eq!(status, json!({"phase": "Bound", "capacity": {"storage": "2Gi"}, "allocatedResources": {"storage": "2Gi"}}));
    }

    #[test]
    fn what_an_earlier_daemon_mounted_is_in_use() {
        let root = std::env::temp_dir().join(format!("skein-csi-test-{}", std::process::id()));
        let notes = |attachable: bool, handle: &str| Notes {
            driver_name: "d".into(),
            volume_handle: handle.into(),
            attachable: attachable.to_string(),
            name: handle.into(),
            volume_mode: String::new(),
        };
        notes(true, "a").write(&staged(&root, "d", "a")).expect("written");
        notes(true, "b").write(&published(&root.join("pods/u"), VolumeMode::Filesystem).join("v")).expect("written");
        notes(false, "c").write(&published(&root.join("pods/u"), VolumeMode::Block).join("w")).expect("written");
        assert_eq!(found_in_use(&root), BTreeSet::from([unique_name("d", "a"), unique_name("d", "b")]));
        let _ = fs::remove_dir_all(root);
    }
}

//! Brings a volume to a Pod and takes it away again.
//!
//! What is on disk, as kubelet has it, with a `vol_data.json` beside each:
//!
//! ```text
//!   pods/UID/volumes/kubernetes.io~csi/NAME/mount                  published for one Pod
//!   plugins/kubernetes.io/csi/DRIVER/SHA256(HANDLE)/globalmount    staged for the node
//! ```

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::json;
use skein_command::Write;
use skein_object::quantity::Quantity;
use skein_object::volume::{digest, unique_name};
use skein_object::{Key, Record};
use skein_store::Handle as Store;
use tracing::{info, warn};

use super::driver::{Call, Capability, Driver};
use super::{Csi, Volume};
use crate::env::Source;
use crate::volumes::{Owner, failed, mounts_below};
use crate::{Error, secrets, service_account};

const NOTES: &str = "vol_data.json";

/// A volume that is there for a Pod.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Mounted {
    pub(crate) path: PathBuf,
    pub(crate) readonly: bool,
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
}

impl Notes {
    fn unique_name(&self) -> String {
        unique_name(&self.driver_name, &self.volume_handle)
    }

    fn is_attachable(&self) -> bool {
        self.attachable == "true"
    }

    fn of(directory: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(directory.join(NOTES)).ok()?).ok()
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

fn published(pod: &Path) -> PathBuf {
    pod.join("volumes/kubernetes.io~csi")
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
    pods.into_iter().flat_map(|pod| children(&published(&pod))).filter_map(|directory| Notes::of(&directory))
}

/// Whether a Pod's directory has volumes of drivers.
pub(crate) fn has_volumes(pod: &Path) -> bool {
    published(pod).exists()
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
        };
        let directory = published(pod).join(&volume.name);
        notes.write(&directory)?;
        let staging = self.stage(source, &driver, (&call, volume), &notes).await?;
        let target = directory.join("mount");
        if mounts_below(&target).is_empty() || volume.stated.requires_republish == Some(true) {
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
        Ok(Some(Mounted { path: target, readonly: volume.readonly }))
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
        notes: &Notes,
    ) -> Result<Option<PathBuf>, Error> {
        let Some(directory) = self.staging(driver, volume) else { return Ok(None) };
        let target = directory.join("globalmount");
        notes.write(&directory)?;
        fs::create_dir_all(&target).map_err(failed(&target))?;
        if mounts_below(&target).is_empty() {
            driver.stage(call, &target, opened(source, volume.stage_secret.as_ref())?).await?;
        }
        Ok(Some(target))
    }

    fn staging(&self, driver: &Driver, volume: &Volume) -> Option<PathBuf> {
        (driver.can(Capability::StageUnstageVolume) && !volume.is_ephemeral).then(|| staged(&self.root, &volume.driver, &volume.handle))
    }

    /// Takes a Pod's volumes away; `Err` while one is still there.
    pub(crate) async fn release(&self, pod: &Path) -> Result<(), Error> {
        for directory in children(&published(pod)) {
            let Some(notes) = Notes::of(&directory) else {
                // Nothing was asked of the driver yet.
                fs::remove_dir(&directory).map_err(failed(&directory))?;
                continue;
            };
            let _lock = self.lock(&notes.unique_name()).await;
            let target = directory.join("mount");
            self.driver(&notes.driver_name)?.unpublish(&notes.volume_handle, &target).await?;
            forget(&directory, &target)?;
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
            let target = directory.join("globalmount");
            self.driver(&notes.driver_name)?.unstage(&notes.volume_handle, &target).await?;
            forget(&directory, &target)?;
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
        let staging = self.staging(&driver, volume).map(|directory| directory.join("globalmount"));
        let target = published(pod).join(&volume.name).join("mount");
        let bytes = size.parse::<Quantity>().map_or(0, |quantity| i64::try_from(quantity.units()).unwrap_or(i64::MAX));
        let secret = opened(source, volume.expand_secret.as_ref())?;
        driver.expand(&call, (staging.as_deref(), &target), bytes, secret).await?;
        let Some(entry) = source.state.get(claim) else { return Ok(()) };
        let mut object = entry.record.to_value("v1", "PersistentVolumeClaim", entry.revision);
        grown(&mut object["status"], size);
        let written = Write::update(claim, entry.revision, &entry.record, &Record::from_value(&object).marked_like(&entry.record));
        store.propose(written.into()).await.map(drop)?;
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

/// What was mounted is gone: so are its notes, last. Nothing is removed from within a volume that is still there.
fn forget(directory: &Path, target: &Path) -> Result<(), Error> {
    if !mounts_below(target).is_empty() {
        return Err(Error::Config(format!("{} is still mounted", target.display())));
    }
    match fs::remove_dir(target) {
        Err(why) if why.kind() != std::io::ErrorKind::NotFound => return Err(failed(target)(why)),
        _ => {}
    }
    fs::remove_file(directory.join(NOTES)).map_err(failed(directory))?;
    fs::remove_dir(directory).map_err(failed(directory))
}

/// A Secret's data, as drivers take it.
fn opened(source: &Source<'_>, name: Option<&(String, String)>) -> Result<HashMap<String, String>, Error> {
    let Some((namespace, name)) = name else { return Ok(HashMap::new()) };
    let found = secrets::secret(source.state, source.cipher, namespace, name)?;
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
        };
        notes(true, "a").write(&staged(&root, "d", "a")).expect("written");
        notes(true, "b").write(&published(&root.join("pods/u")).join("v")).expect("written");
        notes(false, "c").write(&published(&root.join("pods/u")).join("w")).expect("written");
        assert_eq!(found_in_use(&root), BTreeSet::from([unique_name("d", "a"), unique_name("d", "b")]));
        let _ = fs::remove_dir_all(root);
    }
}

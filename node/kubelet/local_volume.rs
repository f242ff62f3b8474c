//! Volumes behind claims: directories on this node, of the built-in provisioner or named by the volume.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use skein_command::Write;
use skein_object::volume::{DIRECTORY, LOCAL, NODE};
use skein_object::{deletion, registry};
use skein_store::Handle as Store;
use tracing::{info, warn};

use crate::volumes::{Claimed, VolumeMode};
use crate::{Error, Options};

/// Where a claim's data is.
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    /// Whether the files are given to the Pod's group.
    pub(crate) takes_owner: bool,
}

/// Where a claim's data is, made where it is this node's to make.
pub(crate) fn path(root: &Path, claimed: Claimed) -> Result<Found, Error> {
    let mode = claimed.mode();
    let Claimed { volume: name, spec: volume, .. } = claimed;
    if let Some(csi) = volume.csi.filter(|csi| csi.driver == LOCAL) {
        let path = directory(root, &csi.volume_handle)?;
        make(&path).map_err(|e| Error::Io { what: path.display().to_string(), source: e })?;
        return Ok(Found { path, takes_owner: true });
    }
    let takes_owner = volume.local.is_some();
    let stated = volume.local.map(|l| l.path).or(volume.host_path.map(|h| h.path));
    let stated =
        stated.map(PathBuf::from).ok_or_else(|| Error::Config(format!("the type of persistentvolume \"{name}\" is not supported yet")))?;
    match std::fs::metadata(&stated) {
        Err(_) => Err(Error::Config(format!("path {} does not exist", stated.display()))),
        Ok(found) if mode == VolumeMode::Block && !found.file_type().is_block_device() => {
            Err(Error::Config(format!("path {} is not a block device", stated.display())))
        }
        Ok(_) => Ok(Found { path: stated, takes_owner }),
    }
}

/// A volume's directory, which anybody may write to when it is new.
fn make(path: &Path) -> std::io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    let new = path.with_file_name(format!(".{}", path.file_name().unwrap_or_default().display()));
    std::fs::create_dir_all(&new)?;
    std::fs::set_permissions(&new, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
    std::fs::rename(new, path)
}

/// The directory of a volume; its handle is one name, not a path.
fn directory(root: &Path, handle: &str) -> Result<PathBuf, Error> {
    if handle.is_empty() || handle.contains('/') || handle.starts_with('.') {
        return Err(Error::Config(format!("volume handle {handle:?} is not a name")));
    }
    Ok(root.join(handle))
}

/// Where this node's volumes are.
pub(crate) fn root(options: &Options) -> PathBuf {
    options.directory.join("local-volumes")
}

/// Removes the directories of volumes that are being deleted, and then lets the volumes go.
pub(crate) async fn remove_deleted(options: &Options, store: &Store) {
    let state = store.local().state;
    let resource = registry::by_key("persistentvolumes").expect("the registry has volumes");
    for (key, entry) in state.range("persistentvolumes/", None) {
        let mut volume = resource.show(&entry.record, entry.revision);
        let is_here = volume.pointer("/metadata/annotations").and_then(|a| a.get(NODE)).and_then(Value::as_str) == Some(&options.name);
        let finalizers = volume.pointer_mut("/metadata/finalizers").and_then(Value::as_array_mut);
        // Whoever still holds it comes first: the directory is the last thing to go.
        let (Some(finalizers), true) = (finalizers.filter(|f| f.len() == 1 && f[0] == DIRECTORY), is_here) else { continue };
        finalizers.clear();
        if !deletion::ends_with(resource, &volume) {
            continue;
        }
        let handle = volume.pointer("/spec/csi/volumeHandle").and_then(Value::as_str).unwrap_or_default();
        let Ok(path) = directory(&root(options), handle) else { continue };
        if let Err(why) = std::fs::remove_dir_all(&path)
            && why.kind() != std::io::ErrorKind::NotFound
        {
            warn!(path = %path.display(), %why, "a volume's directory cannot be removed");
            continue;
        }
        info!(volume = key.name(), "removed a volume's directory");
        // Written only if nothing has changed meanwhile; else the next round tries again.
        let _ = store.propose(Write::delete(key, entry.revision).into()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_stays_inside() {
        let root = Path::new("/r");
        assert_eq!(directory(root, "pvc-1").ok(), Some(PathBuf::from("/r/pvc-1")));
        assert!(directory(root, "../x").is_err() && directory(root, "a/b").is_err() && directory(root, "").is_err());
    }
}

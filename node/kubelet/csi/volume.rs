//! What a CSI driver is to be told of a Pod's volume: from the Pod, the claim, the volume and the CSIDriver. Pure.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{self, PersistentVolumeSpec, SecretReference};
use k8s_openapi::api::storage::v1::{CSIDriver, CSIDriverSpec, VolumeAttachment};
use skein_csi as csi;
use skein_csi::volume_capability::access_mode::Mode;
use skein_csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use skein_object::Key;
use skein_object::quantity::Quantity;
use skein_object::volume::{ATTACHMENTS, DRIVERS, attachment_name, unique_name};

use super::Driver;
use super::driver::{Call, Capability};
use crate::Error;
use crate::env::Source;
use crate::volumes::{Claimed, Owner, VolumeMode, claimed};

/// A Secret by namespace and name.
type SecretName = (String, String);

#[derive(Debug)]
pub(crate) struct Volume {
    pub(crate) driver: String,
    pub(crate) handle: String,
    /// The PersistentVolume's name; of an ephemeral volume the one that it has in the Pod.
    pub(crate) name: String,
    pub(crate) readonly: bool,
    pub(crate) mode: VolumeMode,
    pub(crate) stage_secret: Option<SecretName>,
    pub(crate) publish_secret: Option<SecretName>,
    pub(crate) expand_secret: Option<SecretName>,
    /// How large the volume has become, and the claim that does not say so yet.
    pub(crate) growth: Option<(Key, String)>,
    /// What is known of the driver; nothing where there is no CSIDriver.
    pub(crate) stated: CSIDriverSpec,
    /// Of the Pod's own: nothing is attached or staged.
    pub(crate) is_ephemeral: bool,
    attributes: HashMap<String, String>,
    access_modes: Vec<String>,
    file_system: String,
    mount_options: Vec<String>,
}

/// `None` where the volume is not a CSI driver's.
pub(crate) fn volume_of(source: &Source<'_>, volume: &v1::Volume) -> Result<Option<Volume>, Error> {
    if let Some(stated) = &volume.csi {
        return ephemeral(source, &volume.name, stated).map(Some);
    }
    let Some(claimed) = claimed(source, volume)? else { return Ok(None) };
    if claimed.is_of_driver() { persistent(source, claimed).map(Some) } else { Ok(None) }
}

fn ephemeral(source: &Source<'_>, name: &str, stated: &v1::CSIVolumeSource) -> Result<Volume, Error> {
    let driver = driver(source, &stated.driver);
    if !driver.volume_lifecycle_modes.as_ref().is_some_and(|modes| modes.iter().any(|mode| mode == "Ephemeral")) {
        return Err(Error::Config(format!("volume mode \"Ephemeral\" not supported by driver {}", stated.driver)));
    }
    let uid = source.pod.metadata.uid.as_deref().unwrap_or_default();
    let digest = skein_object::volume::digest(&[uid, name]);
    let secret = stated.node_publish_secret_ref.as_ref().map(|secret| (source.namespace().to_string(), secret.name.clone()));
    Ok(Volume {
        driver: stated.driver.clone(),
        handle: format!("csi-{digest}"),
        name: name.into(),
        readonly: stated.read_only == Some(true),
        mode: VolumeMode::Filesystem,
        stage_secret: None,
        publish_secret: secret,
        expand_secret: None,
        growth: None,
        stated: driver,
        is_ephemeral: true,
        attributes: stated.volume_attributes.clone().unwrap_or_default().into_iter().collect(),
        access_modes: vec!["ReadWriteOnce".into()],
        file_system: stated.fs_type.clone().unwrap_or_default(),
        mount_options: Vec::new(),
    })
}

fn persistent(source: &Source<'_>, claimed: Claimed) -> Result<Volume, Error> {
    let (growth, mode) = (growth(&claimed), claimed.mode());
    let Claimed { volume: name, spec, readonly, .. } = claimed;
    let PersistentVolumeSpec { csi, access_modes, mount_options, .. } = spec;
    let csi = csi.ok_or_else(|| Error::Config(format!("persistentvolume \"{name}\" is no CSI volume")))?;
    let secret = |reference: Option<SecretReference>| reference.map(|r| (r.namespace.unwrap_or_default(), r.name.unwrap_or_default()));
    Ok(Volume {
        stated: driver(source, &csi.driver),
        driver: csi.driver,
        handle: csi.volume_handle,
        name,
        readonly: readonly || csi.read_only == Some(true),
        mode,
        stage_secret: secret(csi.node_stage_secret_ref),
        publish_secret: secret(csi.node_publish_secret_ref),
        expand_secret: secret(csi.node_expand_secret_ref),
        growth,
        is_ephemeral: false,
        attributes: csi.volume_attributes.unwrap_or_default().into_iter().collect(),
        access_modes: access_modes.unwrap_or_default(),
        file_system: csi.fs_type.unwrap_or_default(),
        mount_options: mount_options.unwrap_or_default(),
    })
}

/// The volume's size, where the claim does not have it yet.
fn growth(claimed: &Claimed) -> Option<(Key, String)> {
    let size = claimed.spec.capacity.as_ref()?.get("storage")?.0.clone();
    let has: Quantity = claimed.capacity.as_ref()?.parse().ok()?;
    (size.parse::<Quantity>().ok()? > has).then(|| (claimed.claim.clone(), size))
}

fn driver(source: &Source<'_>, name: &str) -> CSIDriverSpec {
    let entry = source.state.get(&Key::new(DRIVERS, "", name));
    entry.and_then(|e| e.record.typed::<CSIDriver>(e.revision)).map(|driver| driver.spec).unwrap_or_default()
}

// === impl Volume ===

impl Volume {
    pub(crate) fn unique_name(&self) -> String {
        unique_name(&self.driver, &self.handle)
    }

    /// Whether it must be attached to the node first; so it is where nothing is known of the driver.
    pub(crate) fn is_attachable(&self) -> bool {
        !self.is_ephemeral && self.stated.attach_required != Some(false)
    }

    /// What attaching it has answered; `None` while it is not attached.
    pub(crate) fn attachment(&self, source: &Source<'_>) -> Result<Option<HashMap<String, String>>, Error> {
        if !self.is_attachable() {
            return Ok(Some(HashMap::new()));
        }
        let name = attachment_name(&self.handle, &self.driver, source.node);
        let entry = source.state.get(&Key::new(ATTACHMENTS, "", &name));
        let status = entry.and_then(|e| e.record.typed::<VolumeAttachment>(e.revision)).and_then(|attachment| attachment.status);
        let Some(status) = status else { return Ok(None) };
        if status.attached {
            return Ok(Some(status.attachment_metadata.unwrap_or_default().into_iter().collect()));
        }
        let why = status.attach_error.and_then(|error| error.message);
        why.map_or(Ok(None), |why| Err(Error::Config(format!("AttachVolume.Attach failed for volume {:?} : {why}", self.name))))
    }

    /// What is said of it in every call; the Pod's fields are only told at publishing.
    pub(crate) fn call(&self, driver: &Driver, publish_context: HashMap<String, String>, owner: &Owner) -> Call {
        let group = owner.group.filter(|_| driver.can(Capability::VolumeMountGroup)).map(|group| group.to_string());
        let mount = MountVolume {
            fs_type: self.file_system.clone(),
            mount_flags: self.mount_options.clone(),
            volume_mount_group: group.unwrap_or_default(),
        };
        let access_type = match self.mode {
            VolumeMode::Filesystem => AccessType::Mount(mount),
            VolumeMode::Block => AccessType::Block(BlockVolume {}),
        };
        let mode = access_mode(&self.access_modes, driver.can(Capability::SingleNodeMultiWriter));
        Call {
            handle: self.handle.clone(),
            capability: csi::VolumeCapability { access_mode: Some(AccessMode { mode: mode.into() }), access_type: Some(access_type) },
            attributes: self.attributes.clone(),
            publish_context,
        }
    }

    /// What the driver hears of the Pod, where it wants to.
    pub(crate) fn pod_info(&self, source: &Source<'_>) -> Vec<(String, String)> {
        if self.stated.pod_info_on_mount != Some(true) {
            return Vec::new();
        }
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let metadata = &source.pod.metadata;
        let account = source.pod.spec.as_ref().map(|spec| text(&spec.service_account_name)).unwrap_or_default();
        let said = [
            ("pod.name", text(&metadata.name)),
            ("pod.namespace", text(&metadata.namespace)),
            ("pod.uid", text(&metadata.uid)),
            ("serviceAccount.name", account),
            ("ephemeral", self.is_ephemeral.to_string()),
        ];
        said.into_iter().map(|(name, value)| (format!("csi.storage.k8s.io/{name}"), value)).collect()
    }

    /// Whether the files are given to the Pod's group here and not by the driver (`fsGroupPolicy`).
    pub(crate) fn takes_owner(&self, driver: &Driver) -> bool {
        let policy = self.stated.fs_group_policy.as_deref().unwrap_or("ReadWriteOnceWithFSType");
        let alone = |mode: &String| mode == "ReadWriteOnce" || mode == "ReadWriteOncePod";
        let wanted = match policy {
            "File" => true,
            "None" => false,
            _ => !self.file_system.is_empty() && self.access_modes.iter().any(alone),
        };
        wanted && self.mode == VolumeMode::Filesystem && !self.readonly && !driver.can(Capability::VolumeMountGroup)
    }
}

/// The mode of a volume in CSI's words; of several the first counts (`pkg/volume/csi`, `csi_mounter.go`).
fn access_mode(modes: &[String], tells_writers_apart: bool) -> Mode {
    match (modes.first().map_or("ReadWriteOnce", String::as_str), tells_writers_apart) {
        ("ReadWriteMany", _) => Mode::MultiNodeMultiWriter,
        ("ReadOnlyMany", _) => Mode::MultiNodeReaderOnly,
        ("ReadWriteOncePod", true) => Mode::SingleNodeSingleWriter,
        (_, true) => Mode::SingleNodeMultiWriter,
        (_, false) => Mode::SingleNodeWriter,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_told_in_the_words_that_the_driver_knows() {
        let check = |modes: &[&str], tells_apart: bool, expected: Mode| {
            let modes: Vec<String> = modes.iter().map(|mode| (*mode).into()).collect();
            assert_eq!(access_mode(&modes, tells_apart), expected, "{modes:?}");
        };
        check(&["ReadWriteOnce"], false, Mode::SingleNodeWriter);
        check(&["ReadWriteOnce"], true, Mode::SingleNodeMultiWriter);
        check(&["ReadWriteOncePod"], false, Mode::SingleNodeWriter);
        check(&["ReadWriteOncePod"], true, Mode::SingleNodeSingleWriter);
        check(&["ReadOnlyMany"], false, Mode::MultiNodeReaderOnly);
        check(&["ReadWriteMany", "ReadWriteOnce"], true, Mode::MultiNodeMultiWriter);
    }
}

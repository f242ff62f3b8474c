//! The volume behind a claim of a Pod.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec, Volume};
use skein_object::Key;
use skein_object::volume::LOCAL;

use crate::Error;
use crate::env::Source;

/// How a volume comes to a container: as files, or as a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum VolumeMode {
    #[default]
    Filesystem,
    Block,
}

/// A claim that is bound, and its volume.
pub(crate) struct Claimed {
    pub(crate) claim: Key,
    /// What of the volume the claim has so far, as it says.
    pub(crate) capacity: Option<String>,
    /// The PersistentVolume's name.
    pub(crate) volume: String,
    pub(crate) spec: PersistentVolumeSpec,
    pub(crate) readonly: bool,
}

// === impl VolumeMode ===

impl VolumeMode {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Filesystem => "Filesystem",
            Self::Block => "Block",
        }
    }

    pub(crate) fn named(name: &str) -> Self {
        if name == Self::Block.name() { Self::Block } else { Self::Filesystem }
    }
}

// === impl Claimed ===

impl Claimed {
    /// Whether a CSI driver mounts it; the built-in provisioner's are directories.
    pub(crate) fn is_of_driver(&self) -> bool {
        self.spec.csi.as_ref().is_some_and(|csi| csi.driver != LOCAL)
    }

    pub(crate) fn mode(&self) -> VolumeMode {
        VolumeMode::named(self.spec.volume_mode.as_deref().unwrap_or_default())
    }
}

/// `None` where the volume is not of a claim.
pub(crate) fn claimed(source: &Source<'_>, volume: &Volume) -> Result<Option<Claimed>, Error> {
    let pod = source.pod.metadata.name.as_deref().unwrap_or_default();
    let stated = volume.persistent_volume_claim.as_ref().map(|claim| (claim.claim_name.clone(), claim.read_only == Some(true)));
    let own = volume.ephemeral.as_ref().map(|_| (format!("{pod}-{}", volume.name), false));
    let Some((claim, readonly)) = stated.or(own) else { return Ok(None) };
    let key = Key::new("persistentvolumeclaims", source.namespace(), &claim);
    let found = source.state.get(&key).and_then(|e| e.record.typed::<PersistentVolumeClaim>(e.revision));
    let found = found.ok_or_else(|| Error::Config(format!("persistentvolumeclaim \"{claim}\" not found")))?;
    let bound = found.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
    let name = found.spec.and_then(|s| s.volume_name).filter(|_| bound);
    let name = name.ok_or_else(|| Error::Config(format!("persistentvolumeclaim \"{claim}\" is not bound yet")))?;
    let entry = source.state.get(&Key::new("persistentvolumes", "", &name));
    let spec = entry.and_then(|e| e.record.typed::<PersistentVolume>(e.revision)).and_then(|v| v.spec);
    let spec = spec.ok_or_else(|| Error::Config(format!("persistentvolume \"{name}\" not found")))?;
    let capacity = found.status.and_then(|s| s.capacity).and_then(|c| c.get("storage").map(|quantity| quantity.0.clone()));
    Ok(Some(Claimed { claim: key, capacity, volume: name, spec, readonly }))
}

//! Names around volumes. Those of the built-in provisioner are directories on one node.

/// Provisioner and driver.
pub const LOCAL: &str = "local.skein.dev";

/// The node that has a volume's directory: an annotation of the volume.
pub const NODE: &str = "local.skein.dev/node";

/// Holds a volume until its directory is gone.
pub const DIRECTORY: &str = "local.skein.dev/directory";

/// Holds a claim while a Pod uses it, and a volume while a claim has it.
pub const CLAIM_PROTECTION: &str = "kubernetes.io/pvc-protection";
pub const VOLUME_PROTECTION: &str = "kubernetes.io/pv-protection";

/// What the state calls the objects that CSI knows of.
pub const DRIVERS: &str = "csidrivers.storage.k8s.io";
pub const NODES: &str = "csinodes.storage.k8s.io";
pub const ATTACHMENTS: &str = "volumeattachments.storage.k8s.io";
pub const CAPACITIES: &str = "csistoragecapacities.storage.k8s.io";

/// What an object that ties a volume to a node is called (`pkg/volume/csi`).
pub fn attachment_name(handle: &str, driver: &str, node: &str) -> String {
    format!("csi-{}", digest(&[handle, driver, node]))
}

/// The SHA-256 of texts one after the other, in hexadecimal digits.
pub fn digest(texts: &[&str]) -> String {
    let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
    texts.iter().for_each(|text| hash.update(text.as_bytes()));
    hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What Node statuses call a volume.
pub fn unique_name(driver: &str, handle: &str) -> String {
    format!("kubernetes.io/csi/{driver}^{handle}")
}

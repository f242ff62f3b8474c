//! The built-in provisioner's names: its volumes are directories on one node.

/// Provisioner and driver.
pub const LOCAL: &str = "local.skein.dev";

/// The node that has a volume's directory: an annotation of the volume.
pub const NODE: &str = "local.skein.dev/node";

/// Holds a volume until its directory is gone.
pub const DIRECTORY: &str = "local.skein.dev/directory";

/// Holds a claim while a Pod uses it, and a volume while a claim has it.
pub const CLAIM_PROTECTION: &str = "kubernetes.io/pvc-protection";
pub const VOLUME_PROTECTION: &str = "kubernetes.io/pv-protection";

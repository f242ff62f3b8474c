//! Compiles Kubernetes' own `.proto` files into one descriptor set.

use prost::Message;

/// The groups whose messages are in `k8s.io/api`, with the version of each.
const GROUPS: &[&str] = &[
    "admissionregistration/v1",
    "apps/v1",
    "authentication/v1",
    "authorization/v1",
    "autoscaling/v1",
    "autoscaling/v2",
    "batch/v1",
    "certificates/v1",
    "coordination/v1",
    "core/v1",
    "discovery/v1",
    "events/v1",
    "flowcontrol/v1",
    "networking/v1",
    "node/v1",
    "policy/v1",
    "rbac/v1",
    "resource/v1",
    "scheduling/v1",
    "storage/v1",
    "storagemigration/v1",
];

/// Those that have a module of their own.
const APART: &[&str] = &[
    "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1/generated.proto",
    "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/generated.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=schema");
    let files = GROUPS.iter().map(|group| format!("k8s.io/api/{group}/generated.proto")).chain(APART.iter().map(|file| (*file).into()));
    let descriptors = protox::compile(files, ["schema"])?;
    let out = std::path::Path::new(&std::env::var("OUT_DIR")?).join("kubernetes.bin");
    std::fs::write(out, descriptors.encode_to_vec())?;
    Ok(())
}

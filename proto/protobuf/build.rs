//! Compiles Kubernetes' own `.proto` files into one descriptor set.

use prost::Message;

const GROUPS: &[&str] = &["apps", "authorization", "autoscaling", "batch", "coordination", "core", "discovery", "policy"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=schema");
    let files = GROUPS.iter().map(|group| format!("k8s.io/api/{group}/v1/generated.proto"));
    let descriptors = protox::compile(files, ["schema"])?;
    let out = std::path::Path::new(&std::env::var("OUT_DIR")?).join("kubernetes.bin");
    std::fs::write(out, descriptors.encode_to_vec())?;
    Ok(())
}

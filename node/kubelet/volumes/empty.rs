//! Empty directories, on the node's disk or in memory.
//!
//! - **Invariant:** a directory appears with the mode and the owner that it should have; what containers make of it
//!   later is theirs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use k8s_openapi::api::core::v1::EmptyDirVolumeSource;
use skein_object::quantity::Quantity;

use super::owner::{Mode, Owner};
use super::{failed, memory};
use crate::Error;

pub(super) fn prepare(path: &Path, stated: &EmptyDirVolumeSource, owner: &Owner) -> Result<(), Error> {
    if stated.medium.as_deref() == Some("Memory") { in_memory(path, stated, owner) } else { on_disk(path, owner) }
}

fn on_disk(path: &Path, owner: &Owner) -> Result<(), Error> {
    if path.exists() {
        return Ok(());
    }
    let new = path.with_file_name(format!(".{}", path.file_name().unwrap_or_default().display()));
    fs::create_dir_all(&new).map_err(failed(&new))?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o777)).map_err(failed(&new))?;
    owner.give(&new, Mode::ReadWrite)?;
    fs::rename(&new, path).map_err(failed(path))
}

fn in_memory(path: &Path, stated: &EmptyDirVolumeSource, owner: &Owner) -> Result<(), Error> {
    let mut options = owner.group.map_or_else(|| "mode=777".into(), |group| format!("mode=2777,gid={group}"));
    if let Some(size) = stated.size_limit.as_ref().and_then(|q| q.0.parse::<Quantity>().ok()) {
        options.push_str(&format!(",size={}", size.units()));
    }
    memory::prepare(path, &options)
}

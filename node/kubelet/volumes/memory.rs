//! Volumes in memory: emptyDirs that ask for it, and whatever has Secrets or tokens in it, which no disk is to see.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::mount::{MsFlags, mount};

use super::failed;
use crate::Error;

/// Mounts a tmpfs with these options, unless one is there already.
pub(super) fn prepare(path: &Path, options: &str) -> Result<(), Error> {
    let device = |path: &Path| fs::metadata(path).map(|found| found.dev()).ok();
    if device(path).is_some_and(|own| path.parent().and_then(device) != Some(own)) {
        return Ok(());
    }
    fs::create_dir_all(path).map_err(failed(path))?;
    mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some(options))
        .map_err(|why| Error::Io { what: path.display().to_string(), source: why.into() })
}

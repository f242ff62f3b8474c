//! Writes files as Kubernetes' atomic writer does: into a new directory that a symbolic link is turned to, so that a
//! reader sees the old files or the new ones.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use super::failed;
use super::owner::{Mode, Owner};
use crate::Error;

/// By their paths in the volume.
pub(super) type Files = BTreeMap<String, File>;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct File {
    pub(super) content: Vec<u8>,
    pub(super) mode: u32,
    /// Whom it belongs to, if not to root.
    pub(super) user: Option<u32>,
}

/// The link to the directory that holds the files.
pub(super) const DATA: &str = "..data";

/// Writes the files into a new directory and turns the link `..data` to it, when anything has changed.
pub(super) fn write(directory: &Path, files: &Files, owner: &Owner) -> Result<(), Error> {
    let data = directory.join(DATA);
    let unchanged = |(name, file): (&String, &File)| fs::read(data.join(name)).is_ok_and(|found| found == file.content);
    let known = |path: &Path| fs::read_dir(path).map_or(0, |entries| entries.flatten().count());
    let top: BTreeSet<&str> = files.keys().filter_map(|name| name.split('/').next()).collect();
    if data.exists() && files.iter().all(unchanged) && known(&data) == top.len() {
        return Ok(());
    }
    let old = fs::read_link(&data).ok();
    let version = format!("..{}", jiff::Timestamp::now().as_nanosecond());
    let target = directory.join(&version);
    fs::create_dir_all(&target).map_err(failed(&target))?;
    for (name, file) in files {
        if name.split('/').any(|part| part == "..") || name.starts_with('/') {
            return Err(Error::Config(format!("path {name:?} must stay inside the volume")));
        }
        let path = target.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed(parent))?;
        }
        fs::write(&path, &file.content).map_err(failed(&path))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(file.mode)).map_err(failed(&path))?;
        chown(&path, file.user, None).map_err(failed(&path))?;
    }
    owner.give(directory, Mode::Read)?;
    let link = directory.join("..data_tmp");
    let _ = fs::remove_file(&link);
    symlink(&version, &link).map_err(failed(&link))?;
    fs::rename(&link, &data).map_err(failed(&data))?;
    for name in &top {
        let visible = directory.join(name);
        if fs::symlink_metadata(&visible).is_err() {
            symlink(Path::new(DATA).join(name), &visible).map_err(failed(&visible))?;
        }
    }
    for entry in fs::read_dir(directory).map_err(failed(directory))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !top.contains(name.as_str()) {
            let _ = fs::remove_file(entry.path());
        }
    }
    if let Some(old) = old {
        let _ = fs::remove_dir_all(directory.join(old));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_change_together() {
        let directory = std::env::temp_dir().join(format!("skein-volume-test-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("a temporary directory");
        let files = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(n, c)| ((*n).to_string(), File { content: c.as_bytes().to_vec(), mode: 0o644, user: None }))
                .collect::<Files>()
        };
        let write = |directory: &Path, files: &Files| write(directory, files, &Owner::of(&Default::default()));
        let read = |name: &str| fs::read_to_string(directory.join(name)).ok();
        write(&directory, &files(&[("a", "1"), ("b/c", "2")])).expect("written");
        assert_eq!((read("a"), read("b/c")), (Some("1".into()), Some("2".into())));
        let before = fs::read_link(directory.join(DATA)).ok();
        write(&directory, &files(&[("a", "1"), ("b/c", "2")])).expect("written");
        assert_eq!(fs::read_link(directory.join(DATA)).ok(), before);
        write(&directory, &files(&[("a", "3")])).expect("written");
        assert_eq!((read("a"), read("b/c")), (Some("3".into()), None));
        assert!(write(&directory, &files(&[("../x", "3")])).is_err());
        let _ = fs::remove_dir_all(directory);
    }
}

//! Volumes: directories of the node that containers see. emptyDir, ConfigMap, Secret, projected, downward API, hostPath,
//! claims.
//!
//! Content from the API is written as Kubernetes' atomic writer does: into a new directory that a symbolic link is
//! turned to, so that a reader sees the old files or the new ones.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{KeyToPath, Pod, Volume};

use crate::Error;
use crate::env::{Source, resource_value};
use crate::{local_volume, service_account};

type Files = BTreeMap<String, (Vec<u8>, u32)>;

const DATA: &str = "..data";

/// Makes or refreshes every volume of a Pod; returns where each is.
pub(crate) fn prepare(source: &Source<'_>, directory: &Path) -> Result<BTreeMap<String, PathBuf>, Error> {
    let mut paths = BTreeMap::new();
    let volumes = source.pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    for volume in volumes {
        paths.insert(volume.name.clone(), prepare_one(source, volume, directory)?);
    }
    Ok(paths)
}

/// Unmounts and removes everything.
pub(crate) fn remove(directory: &Path) {
    for entry in fs::read_dir(directory.join("volumes")).into_iter().flatten().flatten() {
        let _ = nix::mount::umount2(&entry.path(), nix::mount::MntFlags::MNT_DETACH);
    }
    let _ = fs::remove_dir_all(directory);
}

fn prepare_one(source: &Source<'_>, volume: &Volume, directory: &Path) -> Result<PathBuf, Error> {
    if let Some(host) = &volume.host_path {
        let path = PathBuf::from(&host.path);
        if host.type_.as_deref() == Some("DirectoryOrCreate") {
            fs::create_dir_all(&path).map_err(failed(&path))?;
        } else if !path.exists() {
            return Err(Error::Config(format!("hostPath {} does not exist", host.path)));
        }
        return Ok(path);
    }
    if let Some(claim) = &volume.persistent_volume_claim {
        return local_volume::path(source, &claim.claim_name);
    }
    let path = directory.join("volumes").join(&volume.name);
    fs::create_dir_all(&path).map_err(failed(&path))?;
    if let Some(empty) = &volume.empty_dir {
        let is_mounted = || fs::read_to_string("/proc/self/mounts").is_ok_and(|m| m.contains(&format!(" {} ", path.display())));
        if empty.medium.as_deref() == Some("Memory") && !is_mounted() {
            let size = empty
                .size_limit
                .as_ref()
                .and_then(|q| q.0.parse::<skein_object::quantity::Quantity>().ok())
                .map(|q| format!("size={}", q.units()));
            nix::mount::mount(Some("tmpfs"), &path, Some("tmpfs"), nix::mount::MsFlags::empty(), size.as_deref())
                .map_err(|e| Error::Io { what: path.display().to_string(), source: e.into() })?;
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).map_err(failed(&path))?;
        return Ok(path);
    }
    write_files(&path, &files_of(source, volume, &path.join(DATA))?)?;
    Ok(path)
}

/// The files of a volume; `current` is where those that it has now are.
fn files_of(source: &Source<'_>, volume: &Volume, current: &Path) -> Result<Files, Error> {
    let mut files = Files::new();
    if let Some(map) = &volume.config_map {
        let found = needed(source.config_map(&map.name), map.optional, || format!("configmap \"{}\" not found", map.name))?;
        project(&mut files, found, map.items.as_deref(), map.default_mode)?;
    } else if let Some(secret) = &volume.secret {
        let name = secret.secret_name.as_deref().unwrap_or_default();
        let found = needed(source.secret(name), secret.optional, || format!("secret \"{name}\" not found"))?;
        project(&mut files, found, secret.items.as_deref(), secret.default_mode)?;
    } else if let Some(downward) = &volume.downward_api {
        for item in downward.items.iter().flatten() {
            downward_file(source, &mut files, item, downward.default_mode)?;
        }
    } else if let Some(projected) = &volume.projected {
        for part in projected.sources.iter().flatten() {
            if let Some(map) = &part.config_map {
                let found = needed(source.config_map(&map.name), map.optional, || format!("configmap \"{}\" not found", map.name))?;
                project(&mut files, found, map.items.as_deref(), projected.default_mode)?;
            } else if let Some(secret) = &part.secret {
                let found = needed(source.secret(&secret.name), secret.optional, || format!("secret \"{}\" not found", secret.name))?;
                project(&mut files, found, secret.items.as_deref(), projected.default_mode)?;
            } else if let Some(downward) = &part.downward_api {
                for item in downward.items.iter().flatten() {
                    downward_file(source, &mut files, item, projected.default_mode)?;
                }
            } else if let Some(token) = &part.service_account_token {
                let content = service_account::token(source, token, &current.join(&token.path))?;
                let mode = u32::try_from(projected.default_mode.unwrap_or(0o644)).unwrap_or(0o644);
                files.insert(token.path.clone(), (content, mode));
            } else {
                return Err(Error::Config("this source of a projected volume is not supported yet".into()));
            }
        }
    } else {
        return Err(Error::Config(format!("the type of volume {:?} is not supported yet", volume.name)));
    }
    Ok(files)
}

fn needed(
    found: Option<BTreeMap<String, Vec<u8>>>,
    optional: Option<bool>,
    missing: impl Fn() -> String,
) -> Result<BTreeMap<String, Vec<u8>>, Error> {
    match found {
        Some(data) => Ok(data),
        None if optional == Some(true) => Ok(BTreeMap::new()),
        None => Err(Error::Config(missing())),
    }
}

fn project(files: &mut Files, data: BTreeMap<String, Vec<u8>>, items: Option<&[KeyToPath]>, mode: Option<i32>) -> Result<(), Error> {
    let mode_of = |own: Option<i32>| u32::try_from(own.or(mode).unwrap_or(0o644)).unwrap_or(0o644);
    match items {
        None => files.extend(data.into_iter().map(|(key, content)| (key, (content, mode_of(None))))),
        Some(items) => {
            for item in items {
                let content =
                    data.get(&item.key).ok_or_else(|| Error::Config(format!("references non-existent config key: {}", item.key)))?;
                files.insert(item.path.clone(), (content.clone(), mode_of(item.mode)));
            }
        }
    }
    Ok(())
}

fn downward_file(
    source: &Source<'_>,
    files: &mut Files,
    item: &k8s_openapi::api::core::v1::DownwardAPIVolumeFile,
    mode: Option<i32>,
) -> Result<(), Error> {
    let content = match (&item.field_ref, &item.resource_field_ref) {
        (Some(field), _) => source.field(&field.field_path)?,
        (_, Some(resource)) => {
            let containers = source.pod.spec.iter().flat_map(|s| &s.containers);
            let named = containers.into_iter().find(|c| Some(&c.name) == resource.container_name.as_ref());
            named.map(|c| resource_value(c, &resource.resource)).unwrap_or_default()
        }
        (None, None) => String::new(),
    };
    let mode = u32::try_from(item.mode.or(mode).unwrap_or(0o644)).unwrap_or(0o644);
    files.insert(item.path.clone(), (content.into_bytes(), mode));
    Ok(())
}

/// Writes the files into a new directory and turns the link `..data` to it, when anything has changed.
fn write_files(directory: &Path, files: &Files) -> Result<(), Error> {
    let data = directory.join(DATA);
    let unchanged = |(name, (content, _)): (&String, &(Vec<u8>, u32))| fs::read(data.join(name)).is_ok_and(|found| found == *content);
    let known = |path: &Path| fs::read_dir(path).map_or(0, |entries| entries.flatten().count());
    let top: std::collections::BTreeSet<&str> = files.keys().filter_map(|name| name.split('/').next()).collect();
    if data.exists() && files.iter().all(unchanged) && known(&data) == top.len() {
        return Ok(());
    }
    let old = fs::read_link(&data).ok();
    let version = format!("..{}", jiff::Timestamp::now().as_nanosecond());
    let target = directory.join(&version);
    fs::create_dir_all(&target).map_err(failed(&target))?;
    for (name, (content, mode)) in files {
        if name.split('/').any(|part| part == "..") || name.starts_with('/') {
            return Err(Error::Config(format!("path {name:?} must stay inside the volume")));
        }
        let path = target.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed(parent))?;
        }
        fs::write(&path, content).map_err(failed(&path))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).map_err(failed(&path))?;
    }
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

/// The directory of a Pod on this node.
pub(crate) fn pod_directory(root: &Path, pod: &Pod) -> PathBuf {
    root.join("pods").join(pod.metadata.uid.as_deref().unwrap_or_default())
}

fn failed(path: &Path) -> impl FnOnce(std::io::Error) -> Error + use<> {
    let what = path.display().to_string();
    move |source| Error::Io { what, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_change_together() {
        let directory = std::env::temp_dir().join(format!("skein-volume-test-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("a temporary directory");
        let files =
            |pairs: &[(&str, &str)]| pairs.iter().map(|(n, c)| ((*n).to_string(), (c.as_bytes().to_vec(), 0o644))).collect::<Files>();
        let read = |name: &str| fs::read_to_string(directory.join(name)).ok();
        write_files(&directory, &files(&[("a", "1"), ("b/c", "2")])).expect("written");
        assert_eq!((read("a"), read("b/c")), (Some("1".into()), Some("2".into())));
        let before = fs::read_link(directory.join(DATA)).ok();
        write_files(&directory, &files(&[("a", "1"), ("b/c", "2")])).expect("written");
        assert_eq!(fs::read_link(directory.join(DATA)).ok(), before);
        write_files(&directory, &files(&[("a", "3")])).expect("written");
        assert_eq!((read("a"), read("b/c")), (Some("3".into()), None));
        assert!(write_files(&directory, &files(&[("../x", "3")])).is_err());
        let _ = fs::remove_dir_all(directory);
    }
}

//! Volumes: directories of the node that containers see. emptyDir, ConfigMap, Secret, projected, downward API, hostPath,
//! claims.

mod claimed;
mod content;
mod empty;
mod host;
mod memory;
mod owner;
mod subpath;
mod writer;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, Volume, VolumeDevice, VolumeMount};
use skein_cri as v1;

use crate::csi::Mounted;
use crate::env::{Source, expand_strictly};
use crate::{Error, local_volume};

pub(crate) use claimed::{Claimed, VolumeMode, claimed};
pub(crate) use owner::Owner;

/// Where a Pod's volumes are, by name.
#[derive(Debug, Default)]
pub(crate) struct Volumes {
    places: BTreeMap<String, Place>,
}

#[derive(Clone, Debug, PartialEq)]
enum Place {
    Directory {
        path: PathBuf,
        readonly: bool,
    },
    Device {
        path: PathBuf,
        readonly: bool,
    },
    /// The files of an image, as the runtime names it.
    Image(String),
}

/// What had to be brought from elsewhere before a container could start.
#[derive(Clone, Debug)]
pub(crate) enum Brought {
    /// An image, as the runtime names it.
    Image(String),
    /// What a CSI driver has mounted.
    Mount(Mounted),
}

/// Makes or refreshes every volume of a Pod. `brought` has those that come from elsewhere, by the volume's name.
pub(crate) fn prepare(source: &Source<'_>, directory: &Path, brought: &BTreeMap<String, Brought>) -> Result<Volumes, Error> {
    let mut places = BTreeMap::new();
    let volumes = source.pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    for volume in volumes {
        let place = match brought.get(&volume.name) {
            Some(Brought::Image(image)) => Place::Image(image.clone()),
            Some(Brought::Mount(mounted)) => Place::of(mounted.mode, mounted.path.clone(), mounted.readonly),
            None => match prepare_one(source, volume, directory)? {
                Some(place) => place,
                // A container that does not mount it does not wait for it.
                None => continue,
            },
        };
        places.insert(volume.name.clone(), place);
    }
    Ok(Volumes { places })
}

/// Unmounts and removes everything. What cannot be unmounted stays, with all that is in it.
pub(crate) fn remove(directory: &Path) {
    subpath::release(directory);
    let mounts = mounts_below(directory);
    for mount in mounts.iter().rev() {
        let _ = nix::mount::umount2(mount, nix::mount::MntFlags::MNT_DETACH);
    }
    if mounts.is_empty() || mounts_below(directory).is_empty() {
        let _ = fs::remove_dir_all(directory);
    }
}

/// Where something is mounted at or below a directory, what lies deeper later.
pub(crate) fn mounts_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = mounts();
    found.retain(|(path, _)| path.starts_with(directory));
    found.into_iter().map(|(path, _)| path).collect()
}

/// All mounts, each with whether it is shared.
pub(crate) fn mounts() -> Vec<(PathBuf, bool)> {
    // Spaces and the like are written as octal numbers.
    const WRITTEN: [(&str, &str); 4] = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    let plain = |field: &str| WRITTEN.iter().fold(field.to_string(), |text, (from, to)| text.replace(from, to));
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mount = |line: &str| {
        let mut fields = line.split_once(" - ")?.0.split(' ').skip(4);
        Some((PathBuf::from(plain(fields.next()?)), fields.skip(1).any(|field| field.starts_with("shared:"))))
    };
    table.lines().filter_map(mount).collect()
}

/// `None` for what must be brought from elsewhere.
fn prepare_one(source: &Source<'_>, volume: &Volume, directory: &Path) -> Result<Option<Place>, Error> {
    if volume.image.is_some() || volume.csi.is_some() {
        return Ok(None);
    }
    let writable = |path| Some(Place::Directory { path, readonly: false });
    if let Some(host) = &volume.host_path {
        return host::prepare(host).map(writable);
    }
    let owner = Owner::of(source.pod);
    if let Some(claimed) = claimed(source, volume)? {
        if claimed.is_of_driver() {
            return Ok(None);
        }
        let (readonly, mode) = (claimed.readonly, claimed.mode());
        let found = local_volume::path(source.volumes, claimed)?;
        if found.takes_owner && !readonly && mode == VolumeMode::Filesystem {
            owner.give(&found.path, owner::Mode::ReadWrite)?;
        }
        return Ok(Some(Place::of(mode, found.path, readonly)));
    }
    let path = directory.join("volumes").join(&volume.name);
    if let Some(stated) = &volume.empty_dir {
        fs::create_dir_all(directory.join("volumes")).map_err(failed(directory))?;
        empty::prepare(&path, stated, &owner)?;
        return Ok(writable(path));
    }
    if volume.config_map.is_some() {
        fs::create_dir_all(&path).map_err(failed(&path))?;
    } else {
        memory::prepare(&path, "mode=755")?;
    }
    writer::write(&path, &content::files(source, volume, &path.join(writer::DATA))?, &owner)?;
    Ok(Some(Place::Directory { path, readonly: true }))
}

// === impl Place ===

impl Place {
    fn of(mode: VolumeMode, path: PathBuf, readonly: bool) -> Self {
        match mode {
            VolumeMode::Filesystem => Self::Directory { path, readonly },
            VolumeMode::Block => Self::Device { path, readonly },
        }
    }
}

// === impl Volumes ===

impl Volumes {
    /// A file of a volume, for the environment of a container.
    pub(crate) fn read(&self, volume: &str, path: &str) -> Result<String, Error> {
        match self.places.get(volume) {
            Some(Place::Directory { path: root, .. }) => subpath::read(root, path).map_err(failed(Path::new(path))),
            _ => Err(Error::Config(format!("cannot find the volume {volume:?} referenced by FileKeyRef"))),
        }
    }

    /// The mounts of one container, whose variables the paths within volumes may name.
    pub(crate) fn mounts(
        &self,
        pod: &Path,
        (container, wanted): (&str, &[VolumeMount]),
        variables: &[(String, String)],
    ) -> Result<Vec<v1::Mount>, Error> {
        let mount = |(index, one): (usize, &VolumeMount)| {
            let missing = || Error::Config(format!("cannot find volume {:?} to mount into container {container:?}", one.name));
            let place = self.places.get(&one.name).ok_or_else(missing)?;
            let within = path_within(one, variables)?;
            let mut mount = v1::Mount {
                container_path: absolute(&one.mount_path),
                readonly: one.read_only == Some(true),
                recursive_read_only: one.read_only == Some(true)
                    && matches!(one.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible")),
                ..Default::default()
            };
            mount.set_propagation(match one.mount_propagation.as_deref() {
                Some("HostToContainer") => v1::MountPropagation::PropagationHostToContainer,
                Some("Bidirectional") => v1::MountPropagation::PropagationBidirectional,
                _ => v1::MountPropagation::PropagationPrivate,
            });
            match place {
                Place::Image(image) => {
                    mount.image = Some(v1::ImageSpec { image: image.clone(), ..Default::default() });
                    mount.image_sub_path = within.unwrap_or_default();
                    mount.readonly = true;
                }
                Place::Device { .. } => {
                    return Err(Error::Config(format!("volume {} has volumeMode Block, but is specified in volumeMounts", one.name)));
                }
                Place::Directory { path, readonly } => {
                    mount.readonly |= readonly;
                    let path = match within {
                        Some(within) => subpath::pin(
                            path,
                            &within,
                            &pod.join("volume-subpaths").join(&one.name).join(container).join(index.to_string()),
                        )
                        .map_err(|_| {
                            // The reason could tell of the node's file system.
                            Error::Config(format!("failed to prepare subPath for volumeMount {:?} of container {container:?}", one.name))
                        })?,
                        None => path.clone(),
                    };
                    mount.host_path = path.display().to_string();
                }
            }
            Ok(mount)
        };
        wanted.iter().enumerate().map(mount).collect()
    }

    /// The devices of one container.
    pub(crate) fn devices(&self, container: &Container) -> Result<Vec<v1::Device>, Error> {
        let device = |wanted: &VolumeDevice| match self.places.get(&wanted.name) {
            Some(Place::Device { path, readonly }) => Ok(v1::Device {
                container_path: wanted.device_path.clone(),
                host_path: path.display().to_string(),
                permissions: if *readonly { "rm".into() } else { "rwm".into() },
            }),
            Some(_) => Err(Error::Config(format!("volume {} has volumeMode Filesystem, but is specified in volumeDevices", wanted.name))),
            None => Err(Error::Config(format!("cannot find volume {:?} to pass into container {:?}", wanted.name, container.name))),
        };
        container.volume_devices.iter().flatten().map(device).collect()
    }
}

/// A mount's `subPath` or `subPathExpr`, if it has one.
fn path_within(mount: &VolumeMount, variables: &[(String, String)]) -> Result<Option<String>, Error> {
    let path = match mount.sub_path_expr.as_deref().filter(|text| !text.is_empty()) {
        Some(text) => expand_strictly(text, variables)?,
        None => mount.sub_path.clone().unwrap_or_default(),
    };
    if path.starts_with('/') {
        return Err(Error::Config(format!("error SubPath `{path}` must not be an absolute path")));
    }
    if path.split('/').any(|part| part == "..") {
        return Err(Error::Config(format!("unable to provision SubPath `{path}`: must not contain '..'")));
    }
    Ok(Some(path).filter(|path| !path.is_empty()))
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.into() } else { format!("/{path}") }
}

/// The directory of a Pod on this node.
pub(crate) fn pod_directory(root: &Path, pod: &Pod) -> PathBuf {
    root.join("pods").join(pod.metadata.uid.as_deref().unwrap_or_default())
}

pub(crate) fn failed(path: &Path) -> impl FnOnce(std::io::Error) -> Error + use<> {
    let what = path.display().to_string();
    move |source| Error::Io { what, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_path_within_a_volume_stays_there() {
        let variables = [("POD".to_string(), "p".to_string())];
        let check = |mount: Value, expected: Result<Option<&str>, &str>| {
            let mut stated = json!({"name": "v", "mountPath": "/m"});
            stated.as_object_mut().expect("an object").extend(mount.as_object().cloned().unwrap_or_default());
            let mount: VolumeMount = serde_json::from_value(stated).expect("a mount");
            let found = path_within(&mount, &variables).map_err(|why| why.to_string());
            assert_eq!(found.as_ref().map(Option::as_deref).map_err(String::as_str), expected);
        };
        check(json!({}), Ok(None));
        check(json!({"subPath": "a/b"}), Ok(Some("a/b")));
        check(json!({"subPathExpr": "$(POD)/x"}), Ok(Some("p/x")));
        check(json!({"subPathExpr": "$(NONE)/x"}), Err("missing value for \"NONE\""));
        check(json!({"subPath": "/a"}), Err("error SubPath `/a` must not be an absolute path"));
        check(json!({"subPath": "a/../b"}), Err("unable to provision SubPath `a/../b`: must not contain '..'"));
    }
}

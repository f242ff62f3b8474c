//! Images: pulled from a registry or loaded from an archive, kept as unpacked layers.
//!
//! ```text
//!   images/lock              names change under it, one process at a time
//!   images/index/ID.json     an image: its names, its configuration, its layers
//!   images/layers/HEX/       a layer's files; HEX is the first half of its digest, so that many fit a mount's options
//!   images/partial/…         what is being unpacked; removed at start
//! ```
//!
//! Files are the truth and are replaced by renaming, so that `skein image load` and a running runtime may work at the
//! same time.

pub mod archive;
mod registry;
mod unpack;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use nix::fcntl::{Flock, FlockArg};
use oci_client::Reference;
use serde::{Deserialize, Serialize};

pub(crate) use registry::{Credentials, pull};
pub(crate) use unpack::size_of;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    #[error("invalid reference format: {reference:?}: {why}")]
    Reference { reference: String, why: String },
    #[error("failed to pull image {image:?}: {why}")]
    Pull { image: String, why: String },
    #[error("{path} is not an image archive: {why}")]
    Archive { path: PathBuf, why: String },
    #[error("layer {digest}: {why}")]
    Layer { digest: String, why: String },
}

/// An image that is here in full.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Image {
    /// The digest of its configuration: `sha256:…`.
    pub id: String,
    pub tags: Vec<String>,
    pub digests: Vec<String>,
    pub size: u64,
    /// Directories below `layers`, the lowest first.
    pub layers: Vec<String>,
    pub config: Configuration,
}

/// What of an image's configuration matters here (OCI image-spec, config.md).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Configuration {
    #[serde(default)]
    pub(crate) config: Option<Execution>,
    #[serde(default)]
    pub(crate) rootfs: RootFs,
}

/// How a container of the image runs unless told otherwise.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Execution {
    pub(crate) user: Option<String>,
    pub(crate) env: Option<Vec<String>>,
    pub(crate) entrypoint: Option<Vec<String>>,
    pub(crate) cmd: Option<Vec<String>>,
    pub(crate) working_dir: Option<String>,
    pub(crate) stop_signal: Option<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct RootFs {
    pub(crate) diff_ids: Vec<String>,
}

/// Cheap to clone and to read from: the index is read again only when it has changed.
#[derive(Clone)]
pub struct Store {
    root: PathBuf,
    cache: Arc<Mutex<Index>>,
}

type Index = (Option<SystemTime>, Arc<Vec<Image>>);

// === impl Image ===

impl Image {
    /// How a container's status names it: by a digest that a registry knows, or by its id.
    pub(crate) fn reference(&self) -> String {
        self.digests.first().cloned().unwrap_or_else(|| self.id.clone())
    }
}

// === impl Store ===

impl Store {
    pub fn open(root: &Path) -> Result<Self, Error> {
        for directory in ["index", "layers"] {
            let path = root.join(directory);
            fs::create_dir_all(&path).map_err(io(format!("cannot make {}", path.display())))?;
        }
        let store = Self { root: root.into(), cache: Arc::default() };
        // What another process is unpacking right now holds the lock shared.
        if let Ok(_lock) = store.lock(FlockArg::LockExclusiveNonblock) {
            let _ = fs::remove_dir_all(root.join("partial"));
        }
        Ok(store)
    }

    pub(crate) fn layers_directory(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub fn directory(&self) -> &Path {
        &self.root
    }

    /// All images, as they are now.
    pub fn list(&self) -> Arc<Vec<Image>> {
        let index = self.root.join("index");
        let changed = fs::metadata(&index).and_then(|m| m.modified()).ok();
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        // A change within the clock's tick of the last reading would not show in the time.
        let settled = cache.0.is_some_and(|at| at.elapsed().is_ok_and(|age| age.as_millis() > 50));
        if !settled || cache.0 != changed {
            let entries = fs::read_dir(&index).into_iter().flatten().flatten();
            let images = entries.filter(|e| e.path().extension().is_some_and(|x| x == "json"));
            let images = images.filter_map(|e| serde_json::from_slice(&fs::read(e.path()).ok()?).ok());
            *cache = (changed, Arc::new(images.collect()));
        }
        Arc::clone(&cache.1)
    }

    /// Finds an image by tag, digest, or (the beginning of) its id.
    pub fn find(&self, name: &str) -> Option<Image> {
        let images = self.list();
        let bare = name.strip_prefix("sha256:").unwrap_or(name);
        let is_id = bare.len() >= 12 && bare.bytes().all(|b| b.is_ascii_hexdigit());
        if is_id && let Some(found) = images.iter().find(|i| i.id.trim_start_matches("sha256:").starts_with(bare)) {
            return Some(found.clone());
        }
        let whole = parse(name).ok()?.whole();
        images.iter().find(|i| i.tags.contains(&whole) || i.digests.contains(&whole)).cloned()
    }

    /// Held shared while layers come in, exclusively while names change and layers go.
    fn lock(&self, kind: FlockArg) -> Result<Flock<fs::File>, Error> {
        let path = self.root.join("lock");
        let file = fs::File::options().create(true).append(true).open(&path).map_err(io(format!("cannot open {}", path.display())))?;
        Flock::lock(file, kind).map_err(|(_, why)| Error::Io { what: format!("cannot lock {}", path.display()), source: why.into() })
    }

    /// Layers that are coming in are safe from `remove` while this is held.
    pub(crate) fn incoming(&self) -> Result<impl Drop + use<>, Error> {
        self.lock(FlockArg::LockShared)
    }

    /// Enters an image whose layers are here; its names leave other images.
    pub(crate) fn enter(&self, mut image: Image) -> Result<Image, Error> {
        let _lock = self.lock(FlockArg::LockExclusive)?;
        for other in self.read_all() {
            if other.id == image.id {
                image.tags.extend(other.tags);
                image.digests.extend(other.digests);
                continue;
            }
            let kept: Vec<String> = other.tags.iter().filter(|t| !image.tags.contains(t)).cloned().collect();
            if kept.len() != other.tags.len() {
                self.write(&Image { tags: kept, ..other })?;
            }
        }
        for names in [&mut image.tags, &mut image.digests] {
            let unique: BTreeSet<String> = names.drain(..).collect();
            names.extend(unique);
        }
        self.write(&image)?;
        Ok(image)
    }

    /// Removes an image, and the layers that neither another image nor a container uses.
    pub(crate) fn remove(&self, name: &str, in_use: &BTreeSet<String>) -> Result<(), Error> {
        let Some(image) = self.find(name) else { return Ok(()) };
        let _lock = self.lock(FlockArg::LockExclusive)?;
        let path = self.file(&image.id);
        fs::remove_file(&path).map_err(io(format!("cannot remove {}", path.display())))?;
        let used: BTreeSet<String> = self.read_all().into_iter().flat_map(|i| i.layers).chain(in_use.iter().cloned()).collect();
        for layer in image.layers.iter().filter(|l| !used.contains(*l)) {
            let _ = fs::remove_dir_all(self.layers_directory().join(layer));
        }
        Ok(())
    }

    fn read_all(&self) -> Vec<Image> {
        *self.cache.lock().unwrap_or_else(PoisonError::into_inner) = (None, Arc::default());
        self.list().to_vec()
    }

    fn write(&self, image: &Image) -> Result<(), Error> {
        let path = self.file(&image.id);
        let temporary = path.with_extension("new");
        let write = || -> std::io::Result<()> {
            let mut file = fs::File::create(&temporary)?;
            std::io::Write::write_all(&mut file, &serde_json::to_vec(image)?)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            fs::File::open(self.root.join("index"))?.sync_all()
        };
        write().map_err(io(format!("cannot write {}", path.display())))
    }

    fn file(&self, id: &str) -> PathBuf {
        self.root.join("index").join(format!("{}.json", id.trim_start_matches("sha256:")))
    }
}

/// A reference in full: `nginx` is `docker.io/library/nginx:latest`.
pub(crate) fn parse(name: &str) -> Result<Reference, Error> {
    Reference::from_str(name).map_err(|why| Error::Reference { reference: name.into(), why: why.to_string() })
}

pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
    let what = what.into();
    move |source| Error::Io { what, source }
}

/// The directory of a layer, by the digest of its uncompressed archive (its diff id).
pub(crate) fn layer_directory(diff_id: &str) -> String {
    diff_id.trim_start_matches("sha256:").chars().take(32).collect()
}

/// An error with its causes: what matters of a failed connection stands in the last one.
pub(crate) fn chain(why: &dyn std::error::Error) -> String {
    let mut text = why.to_string();
    let mut cause = why.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}

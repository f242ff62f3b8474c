//! Image archives: an OCI image layout or what `docker save` writes, as a tar file, gzipped or not.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::unpack::{hex, unpack};
use super::{Configuration, Error, Image, Store, io, layer_directory, parse};

/// A file that describes an image is small; a larger one is none.
const DESCRIPTION_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Where an OCI layout keeps the name that an image was saved under (OCI image-spec, annotations).
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// Loads all images of an archive; returns them.
pub fn load(store: &Store, path: &Path) -> Result<Vec<Image>, Error> {
    let archive = Archive::open(store, path)?;
    let _incoming = store.incoming()?;
    let wanted = if archive.files.contains_key("manifest.json") { archive.docker()? } else { archive.oci()? };
    if wanted.is_empty() {
        return Err(archive.broken("it names no image"));
    }
    let loaded: Result<Vec<Image>, Error> = wanted.iter().map(|image| archive.load(store, image)).collect();
    drop(_incoming);
    loaded?.into_iter().map(|image| store.enter(image)).collect()
}

struct Archive {
    path: PathBuf,
    /// The tar file, uncompressed.
    file: File,
    files: HashMap<String, (u64, u64)>,
}

/// One image of an archive, by the names of its files there.
struct Wanted {
    config: String,
    layers: Vec<String>,
    names: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    #[serde(default)]
    annotations: HashMap<String, String>,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

// === impl Archive ===

impl Archive {
    fn open(store: &Store, path: &Path) -> Result<Self, Error> {
        let opened = || io(format!("cannot read {}", path.display()));
        let mut file = File::open(path).map_err(opened())?;
        let mut magic = [0; 2];
        let length = file.read(&mut magic).map_err(opened())?;
        file.rewind().map_err(opened())?;
        if length == 2 && magic == [0x1f, 0x8b] {
            file = decompress(store, file)
                .map_err(|why| Error::Archive { path: path.into(), why: format!("it cannot be decompressed: {why}") })?;
        }
        let mut archive = Self { path: path.into(), file, files: HashMap::new() };
        archive.read_index()?;
        Ok(archive)
    }

    fn read_index(&mut self) -> Result<(), Error> {
        let size = self.file.metadata().map_err(io("cannot read the archive"))?.len();
        let mut links = Vec::new();
        let mut reader = tar::Archive::new(self.file.try_clone().map_err(io("cannot read the archive"))?);
        let broken = |why: String| Error::Archive { path: self.path.clone(), why };
        for entry in reader.entries_with_seek().map_err(|e| broken(e.to_string()))? {
            let entry = entry.map_err(|e| broken(format!("it is no tar file, or is cut off: {e}")))?;
            let name = entry.path().map_err(|e| broken(e.to_string()))?.display().to_string();
            let name = name.trim_start_matches("./").to_string();
            if let Some(target) = entry.link_name().ok().flatten() {
                let parent = Path::new(&name).parent().unwrap_or(Path::new("")).to_path_buf();
                links.push((name, parent.join(target)));
                continue;
            }
            let end = entry.raw_file_position() + entry.size();
            if end > size {
                return Err(broken(format!("it is cut off: {name} ends at byte {end} of {size}")));
            }
            self.files.insert(name, (entry.raw_file_position(), entry.size()));
        }
        // `docker save` of old writes a layer that occurs twice as a link.
        for (name, target) in links {
            if let Some(found) = self.files.get(&normal(&target)).copied() {
                self.files.insert(name, found);
            }
        }
        Ok(())
    }

    fn broken(&self, why: impl Into<String>) -> Error {
        Error::Archive { path: self.path.clone(), why: why.into() }
    }

    fn part(&self, name: &str) -> Result<impl Read + use<>, Error> {
        let (start, size) = *self.files.get(name).ok_or_else(|| self.broken(format!("{name} is missing; the archive may be cut off")))?;
        let mut file =
            File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&self.file))).map_err(io("cannot read the archive"))?;
        file.seek(SeekFrom::Start(start)).map_err(io("cannot read the archive"))?;
        Ok(file.take(size))
    }

    fn bytes(&self, name: &str) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        self.part(name)?.take(DESCRIPTION_BYTES_MAX).read_to_end(&mut bytes).map_err(io("cannot read the archive"))?;
        Ok(bytes)
    }

    fn json<T: DeserializeOwned>(&self, name: &str) -> Result<T, Error> {
        serde_json::from_slice(&self.bytes(name)?).map_err(|why| self.broken(format!("{name}: {why}")))
    }

    fn docker(&self) -> Result<Vec<Wanted>, Error> {
        let saved: Vec<Saved> = self.json("manifest.json")?;
        Ok(saved.into_iter().map(|s| Wanted { config: s.config, layers: s.layers, names: s.repo_tags.unwrap_or_default() }).collect())
    }

    fn oci(&self) -> Result<Vec<Wanted>, Error> {
        if !self.files.contains_key("index.json") {
            return Err(self.broken("it has neither manifest.json (docker save) nor index.json (OCI layout)"));
        }
        let index: Index = self.json("index.json")?;
        let mut wanted = Vec::new();
        for descriptor in index.manifests {
            let name = [CONTAINERD_NAME, REF_NAME].iter().find_map(|key| descriptor.annotations.get(*key)).cloned();
            let digest = self.for_this_machine(descriptor)?;
            let manifest: Manifest = self.json(&blob(&digest))?;
            let layers = manifest.layers.iter().map(|l| blob(&l.digest)).collect();
            wanted.push(Wanted { config: blob(&manifest.config.digest), layers, names: name.into_iter().collect() });
        }
        Ok(wanted)
    }

    /// Follows an index of several platforms to the manifest of this one.
    fn for_this_machine(&self, descriptor: Descriptor) -> Result<String, Error> {
        if !descriptor.media_type.contains("index") && !descriptor.media_type.contains("manifest.list") {
            return Ok(descriptor.digest);
        }
        let index: Index = self.json(&blob(&descriptor.digest))?;
        let architecture = if std::env::consts::ARCH == "aarch64" { "arm64" } else { "amd64" };
        let fits = |d: &Descriptor| d.platform.as_ref().is_none_or(|p| p.os == "linux" && p.architecture == architecture);
        let found = index.manifests.into_iter().find(fits);
        found.map(|d| d.digest).ok_or_else(|| self.broken(format!("it holds no image for linux/{architecture}")))
    }

    fn load(&self, store: &Store, wanted: &Wanted) -> Result<Image, Error> {
        let config_bytes = self.bytes(&wanted.config)?;
        let id = format!("sha256:{}", hex(&Sha256::digest(&config_bytes)));
        let config: Configuration = serde_json::from_slice(&config_bytes).map_err(|e| self.broken(format!("{}: {e}", wanted.config)))?;
        if config.rootfs.diff_ids.len() != wanted.layers.len() {
            return Err(self.broken(format!(
                "{} layers, but its configuration names {}",
                wanted.layers.len(),
                config.rootfs.diff_ids.len()
            )));
        }
        let mut size = config_bytes.len() as u64;
        let mut layers = Vec::new();
        for (name, diff_id) in wanted.layers.iter().zip(&config.rootfs.diff_ids) {
            size += self.files.get(name).map_or(0, |(_, size)| *size);
            let directory = layer_directory(diff_id);
            if !store.layers_directory().join(&directory).exists() {
                let unpacked = unpack(store, self.part(name)?)?;
                if unpacked.diff_id != *diff_id {
                    let found = unpacked.diff_id.clone();
                    unpacked.discard();
                    return Err(Error::Layer { digest: diff_id.clone(), why: format!("its content has digest {found}") });
                }
                unpacked.keep(store)?;
            }
            layers.push(directory);
        }
        let tags = wanted.names.iter().map(|name| Ok(parse(name)?.whole())).collect::<Result<Vec<_>, Error>>()?;
        Ok(Image { id, tags, digests: Vec::new(), size, layers, config })
    }
}

fn blob(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

/// `a/../b` as `b`.
fn normal(path: &Path) -> String {
    let mut parts: Vec<String> = Vec::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => drop(parts.pop()),
            std::path::Component::Normal(name) => parts.push(name.to_string_lossy().into_owned()),
            _ => {}
        }
    }
    parts.join("/")
}

/// Into a file that has no name.
fn decompress(store: &Store, file: File) -> std::io::Result<File> {
    let path = store.directory().join(format!("archive-{}", uuid::Uuid::new_v4()));
    let mut out = File::options().create_new(true).read(true).write(true).open(&path)?;
    std::fs::remove_file(&path)?;
    std::io::copy(&mut flate2::read::MultiGzDecoder::new(file), &mut out)?;
    out.rewind()?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tar(files: &[(String, Vec<u8>)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, &content[..]).expect("memory takes everything");
        }
        builder.into_inner().expect("memory takes everything")
    }

    /// The files of an OCI layout with one image for this machine, behind an index of platforms.
    fn layout() -> Vec<(String, Vec<u8>)> {
        let mut files = Vec::new();
        let mut put = |bytes: Vec<u8>| {
            let digest = format!("sha256:{}", hex(&Sha256::digest(&bytes)));
            files.push((blob(&digest), bytes));
            digest
        };
        let layer = tar(&[("etc/release".into(), b"one".to_vec())]);
        let diff_id = format!("sha256:{}", hex(&Sha256::digest(&layer)));
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut gzip, &layer).expect("memory takes everything");
        let layer = put(gzip.finish().expect("memory takes everything"));
        let config = put(json!({"config": {"Cmd": ["/bin/x"]}, "rootfs": {"diff_ids": [diff_id]}}).to_string().into_bytes());
        let manifest = put(json!({"config": {"digest": config}, "layers": [{"digest": layer}]}).to_string().into_bytes());
        let architecture = if std::env::consts::ARCH == "aarch64" { "arm64" } else { "amd64" };
        let platforms = json!({"manifests": [
            {"digest": "sha256:other", "platform": {"os": "linux", "architecture": "s390x"}},
            {"digest": manifest, "platform": {"os": "linux", "architecture": architecture}},
        ]});
        let platforms = put(platforms.to_string().into_bytes());
        let index = json!({"manifests": [{"mediaType": "application/vnd.oci.image.index.v1+json", "digest": platforms,
            "annotations": {CONTAINERD_NAME: "reg.example/app:2"}}]});
        files.push(("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()));
        files.push(("index.json".into(), index.to_string().into_bytes()));
        files
    }

    #[test]
    fn loads_an_oci_layout_for_this_machine_and_refuses_a_damaged_one() {
        let root = std::env::temp_dir().join(format!("skein-archive-{}", std::process::id()));
        let store = Store::open(&root).expect("a store");
        let path = root.join("image.tar");
        std::fs::write(&path, tar(&layout())).expect("a file");
        let loaded = load(&store, &path).expect("loads");
        assert_eq!(loaded[0].tags, ["reg.example/app:2"]);
        let found = store.find("reg.example/app:2").expect("found by its name");
        assert_eq!(std::fs::read(store.layers_directory().join(&found.layers[0]).join("etc/release")).ok(), Some(b"one".to_vec()));
        assert!(store.find(&found.id[7..20]).is_some(), "found by its id");
        store.remove("reg.example/app:2", &std::collections::BTreeSet::new()).expect("removed");
        assert!(store.list().is_empty() && !store.layers_directory().join(&found.layers[0]).exists());
        // Another layer under the same name: what its configuration says of it does not hold.
        let mut damaged = layout();
        let other = tar(&[("etc/release".into(), b"two".to_vec())]);
        damaged[0].1 = other;
        std::fs::write(&path, tar(&damaged)).expect("a file");
        let refused = load(&store, &path).map(|_| ()).map_err(|why| why.to_string());
        assert!(refused.clone().is_err_and(|why| why.contains("digest")), "{refused:?}");
        assert!(store.list().is_empty());
        let whole = tar(&layout());
        std::fs::write(&path, &whole[..whole.len() / 3]).expect("a file");
        let refused = load(&store, &path).map(|_| ()).map_err(|why| why.to_string());
        assert!(refused.clone().is_err_and(|why| why.contains("cut off") || why.contains("missing")), "{refused:?}");
        let _ = std::fs::remove_dir_all(root);
    }
}

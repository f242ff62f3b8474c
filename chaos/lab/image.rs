//! Image archives (`docker save`, one layer) from plain files, for machines without a registry.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// A file of this machine and where it goes in the image.
#[derive(Clone, Debug)]
pub struct File {
    pub source: PathBuf,
    pub path: String,
}

pub struct Image<'a> {
    pub name: &'a str,
    pub entrypoint: &'a [&'a str],
    pub files: &'a [File],
    /// Symbolic links: path, target.
    pub links: &'a [(&'a str, &'a str)],
}

/// Writes the archive. The same files give the same bytes.
pub fn write(archive: &Path, image: &Image<'_>) -> Result<()> {
    let layer = layer(image)?;
    let diff_id = digest(&layer);
    let config = configuration(image, &diff_id);
    let config_name = format!("{}.json", digest(config.as_bytes()));
    let layer_name = format!("{diff_id}/layer.tar");
    let manifest = json!([{"Config": config_name, "RepoTags": [image.name], "Layers": [layer_name]}]).to_string();
    let temporary = archive.with_extension("new");
    let mut out = Builder::new(std::fs::File::create(&temporary)?);
    for (name, content) in [(config_name.as_str(), config.as_bytes()), (&layer_name, &layer), ("manifest.json", manifest.as_bytes())] {
        append(&mut out, name, content, 0o644)?;
    }
    out.finish()?;
    std::fs::rename(&temporary, archive)?;
    Ok(())
}

/// The image's configuration, of one layer.
pub fn configuration(image: &Image<'_>, diff_id: &str) -> String {
    json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Entrypoint": image.entrypoint, "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{diff_id}")]},
    })
    .to_string()
}

/// The image's one layer, as an archive.
pub fn layer(image: &Image<'_>) -> Result<Vec<u8>> {
    let mut out = Builder::new(Vec::new());
    let mut directories = std::collections::BTreeSet::from(["tmp".to_string(), "etc".into(), "var".into(), "run".into()]);
    let paths = image.files.iter().map(|f| f.path.as_str()).chain(image.links.iter().map(|(path, _)| *path));
    for path in paths {
        directories.extend(Path::new(path).ancestors().skip(1).map(|p| p.display().to_string()).filter(|p| !p.is_empty()));
    }
    for directory in &directories {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Directory);
        header.set_mode(if directory == "tmp" { 0o1777 } else { 0o755 });
        owned_by_root(&mut header);
        out.append_data(&mut header, format!("{directory}/"), std::io::empty())?;
    }
    for file in image.files {
        let content = std::fs::read(&file.source).with_context(|| format!("cannot read {}", file.source.display()))?;
        append(&mut out, &file.path, &content, 0o755)?;
    }
    for (path, target) in image.links {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Symlink);
        header.set_mode(0o777);
        owned_by_root(&mut header);
        out.append_link(&mut header, path, target)?;
    }
    Ok(out.into_inner()?)
}

fn append<W: std::io::Write>(out: &mut Builder<W>, name: &str, content: &[u8], mode: u32) -> Result<()> {
    let mut header = Header::new_gnu();
    owned_by_root(&mut header);
    header.set_size(content.len() as u64);
    header.set_mode(mode);
    Ok(out.append_data(&mut header, name, content)?)
}

fn owned_by_root(header: &mut Header) {
    header.set_size(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
}

/// SHA-256 in hexadecimal.
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

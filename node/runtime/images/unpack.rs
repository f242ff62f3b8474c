//! A layer's archive as a directory that overlayfs takes: whiteouts become what overlayfs calls by that name.
//!
//! One pass over the stream: digests of what came and of what was inside, and the files.

use std::fs;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use sha2::{Digest, Sha256};
use tar::{Archive, Entry, EntryType};

use super::{Error, Store, chain, io as failed, layer_directory};

/// What a layer turned out to be.
pub(crate) struct Unpacked {
    /// Of the bytes as they came, compressed or not.
    pub(crate) digest: String,
    /// Of the archive inside: the layer's name in the image's configuration.
    pub(crate) diff_id: String,
    /// Where the files are, until `keep` gives them their place.
    temporary: PathBuf,
}

/// Unpacks a layer beside the others. Nothing is kept unless `keep` is called.
pub(crate) fn unpack(store: &Store, source: impl Read) -> Result<Unpacked, Error> {
    let temporary = store.root.join("partial").join(uuid::Uuid::new_v4().to_string());
    fs::create_dir_all(&temporary).map_err(failed(format!("cannot make {}", temporary.display())))?;
    let result = read_layer(source, &temporary);
    result.map(|(digest, diff_id)| Unpacked { digest, diff_id, temporary: temporary.clone() }).map_err(|why| {
        let _ = fs::remove_dir_all(&temporary);
        Error::Layer { digest: "cannot be unpacked".into(), why: explain(&why) }
    })
}

// === impl Unpacked ===

impl Unpacked {
    /// Gives the layer its place, once it is known to be the right one and is on the disk.
    pub(crate) fn keep(self, store: &Store) -> Result<String, Error> {
        let name = layer_directory(&self.diff_id);
        let place = store.layers_directory().join(&name);
        let sync = || -> io::Result<()> {
            nix::unistd::syncfs(fs::File::open(&self.temporary)?)?;
            match fs::rename(&self.temporary, &place) {
                // Somebody else has just brought the same layer.
                Err(_) if place.exists() => fs::remove_dir_all(&self.temporary),
                renamed => renamed,
            }
        };
        sync().map_err(failed(format!("cannot keep layer {}", self.diff_id)))?;
        Ok(name)
    }

    pub(crate) fn discard(self) {
        let _ = fs::remove_dir_all(self.temporary);
    }
}

/// Digests what passes through.
struct Digesting<R> {
    inner: R,
    digest: Sha256,
}

// === impl Digesting ===

impl<R: Read> Digesting<R> {
    fn new(inner: R) -> Self {
        Self { inner, digest: Sha256::new() }
    }

    fn finish(self) -> String {
        format!("sha256:{}", hex(&self.digest.finalize()))
    }
}

impl<R: Read> Read for Digesting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.digest.update(&buffer[..length]);
        Ok(length)
    }
}

fn read_layer(source: impl Read, directory: &Path) -> io::Result<(String, String)> {
    let mut outer = Digesting::new(source);
    let diff_id = {
        let mut peeked = BufReader::with_capacity(64 * 1024, &mut outer);
        let magic = io::BufRead::fill_buf(&mut peeked)?.iter().take(4).copied().collect::<Vec<u8>>();
        match magic[..] {
            [0x1f, 0x8b, ..] => files(MultiGzDecoder::new(peeked), directory)?,
            [0x28, 0xb5, 0x2f, 0xfd] => {
                let decoder = ruzstd::decoding::StreamingDecoder::new(peeked).map_err(|e| io::Error::other(e.to_string()))?;
                files(decoder, directory)?
            }
            _ => files(peeked, directory)?,
        }
    };
    io::copy(&mut outer, &mut io::sink())?;
    Ok((outer.finish(), diff_id))
}

/// Unpacks the files; returns the archive's digest.
fn files(source: impl Read, directory: &Path) -> io::Result<String> {
    let mut inner = Digesting::new(source);
    let mut archive = Archive::new(&mut inner);
    archive.set_preserve_permissions(true);
    archive.set_overwrite(true);
    for entry in archive.entries()? {
        place(&mut entry?, directory)?;
    }
    // Archives end with padding, which the digest covers.
    io::copy(&mut inner, &mut io::sink())?;
    Ok(inner.finish())
}

fn place(entry: &mut Entry<'_, impl Read>, directory: &Path) -> io::Result<()> {
    let path = entry.path()?.into_owned();
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    if let Some(hidden) = name.strip_prefix(".wh.") {
        let parent = inside(directory, path.parent().unwrap_or(Path::new("")))?;
        return if hidden == ".wh..opq" {
            xattr::set(&parent, "trusted.overlay.opaque", b"y")
        } else {
            Ok(mknod(&parent.join(hidden), SFlag::S_IFCHR, Mode::empty(), 0)?)
        };
    }
    match entry.header().entry_type() {
        EntryType::Char | EntryType::Block | EntryType::Fifo => special(entry, directory, &path),
        _ => {
            let attributes = attributes(entry);
            if !entry.unpack_in(directory)? {
                return Err(io::Error::other(format!("{} leads out of the layer", path.display())));
            }
            own(entry, &directory.join(&path))?;
            for (name, value) in attributes {
                xattr::set(directory.join(&path), name, &value)?;
            }
            Ok(())
        }
    }
}

/// Archives made by simple programs leave the owner empty, which is root. A change of owner takes the set-user bits
/// away, so they are set again.
fn own(entry: &Entry<'_, impl Read>, path: &Path) -> io::Result<()> {
    let header = entry.header();
    let number = |value: io::Result<u64>| value.ok().and_then(|v| u32::try_from(v).ok()).unwrap_or(0);
    let (uid, gid) = (number(header.uid()), number(header.gid()));
    if (uid, gid) == (0, 0) || header.entry_type() == EntryType::Link {
        return Ok(());
    }
    std::os::unix::fs::lchown(path, Some(uid), Some(gid))?;
    let mode = header.mode()?;
    if mode & 0o6000 != 0 && header.entry_type() != EntryType::Symlink {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode & 0o7777))?;
    }
    Ok(())
}

/// Only attributes that a program could have set in its container: overlayfs' own would change what the image shows.
fn attributes(entry: &mut Entry<'_, impl Read>) -> Vec<(String, Vec<u8>)> {
    let Ok(Some(extensions)) = entry.pax_extensions() else { return Vec::new() };
    let pairs =
        extensions.flatten().filter_map(|e| Some((e.key().ok()?.strip_prefix("SCHILY.xattr.")?.to_string(), e.value_bytes().to_vec())));
    pairs.filter(|(name, _)| name == "security.capability" || name.starts_with("user.")).collect()
}

fn special(entry: &Entry<'_, impl Read>, directory: &Path, path: &Path) -> io::Result<()> {
    let header = entry.header();
    let target = inside(directory, path.parent().unwrap_or(Path::new("")))?.join(path.file_name().unwrap_or_default());
    let kind = match header.entry_type() {
        EntryType::Char => SFlag::S_IFCHR,
        EntryType::Block => SFlag::S_IFBLK,
        _ => SFlag::S_IFIFO,
    };
    let device = makedev(header.device_major()?.unwrap_or(0).into(), header.device_minor()?.unwrap_or(0).into());
    let _ = fs::remove_file(&target);
    mknod(&target, kind, Mode::from_bits_truncate(header.mode()?), device)?;
    std::os::unix::fs::lchown(&target, Some(u32::try_from(header.uid()?).unwrap_or(0)), Some(u32::try_from(header.gid()?).unwrap_or(0)))
}

/// A directory of the layer, made if it is missing; no link leads out of it.
fn inside(root: &Path, path: &Path) -> io::Result<PathBuf> {
    let path = root.join(path.strip_prefix("/").unwrap_or(path));
    if path.components().any(|c| c == std::path::Component::ParentDir) {
        return Err(io::Error::other(format!("{} leads out of the layer", path.display())));
    }
    fs::create_dir_all(&path)?;
    let (real, root) = (path.canonicalize()?, root.canonicalize()?);
    if !real.starts_with(&root) {
        return Err(io::Error::other(format!("{} leads out of the layer", path.display())));
    }
    Ok(real)
}

fn explain(why: &io::Error) -> String {
    match why.kind() {
        io::ErrorKind::UnexpectedEof => "it is cut off: the archive or the download is incomplete".into(),
        io::ErrorKind::StorageFull => "no space left on device".into(),
        _ => chain(why),
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// How much room a directory's files take.
pub(crate) fn size_of(directory: &Path) -> (u64, u64) {
    let mut total = (0, 0);
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        total.0 += metadata.blocks() * 512;
        total.1 += 1;
        if metadata.is_dir() {
            let (bytes, inodes) = size_of(&entry.path());
            total = (total.0 + bytes, total.1 + inodes);
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        build(&mut builder);
        builder.into_inner().unwrap_or_default()
    }

    fn file(builder: &mut tar::Builder<Vec<u8>>, path: &str, content: &[u8]) {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        // Written raw: the builder itself refuses paths that lead out.
        let name = &mut header.as_old_mut().name;
        name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        builder.append(&header, content).expect("memory takes everything");
    }

    #[test]
    fn unpacks_gzip_and_plain_alike_and_refuses_what_leads_out_or_is_cut() {
        let root = std::env::temp_dir().join(format!("skein-unpack-{}", std::process::id()));
        let store = Store::open(&root).expect("a store");
        let plain = layer(|b| file(b, "etc/a", b"hello"));
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut gzip, &plain).expect("memory takes everything");
        let gzip = gzip.finish().expect("memory takes everything");
        let one = unpack(&store, &plain[..]).expect("a layer");
        let two = unpack(&store, &gzip[..]).expect("a layer");
        assert_eq!(one.diff_id, two.diff_id);
        assert_eq!(one.digest, one.diff_id);
        let name = one.keep(&store).expect("kept");
        two.discard();
        assert_eq!(fs::read(store.layers_directory().join(&name).join("etc/a")).ok(), Some(b"hello".to_vec()));
        let cut = unpack(&store, &gzip[..gzip.len() / 2]).map(|u| u.diff_id).map_err(|e| e.to_string());
        assert!(cut.clone().is_err_and(|e| e.contains("cut off")), "{cut:?}");
        for bad in ["../../escape", ".wh.../x/../../y"] {
            let archive = layer(|b| file(b, bad, b"x"));
            let result = unpack(&store, &archive[..]).map(|u| u.diff_id);
            assert!(result.is_err() || !root.join("escape").exists(), "{bad}");
        }
        assert_eq!(fs::read_dir(root.join("partial")).map(Iterator::count).unwrap_or(0), 0, "nothing half done is left");
        let _ = fs::remove_dir_all(root);
    }
}

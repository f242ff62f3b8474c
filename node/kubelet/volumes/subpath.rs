//! A part of a volume, held fast: what is opened within the volume is bound to a place that no container can reach, so
//! that no link that is made meanwhile leads the mount elsewhere (CVE-2017-1002101; `pkg/volume/util/subpath`).

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, mkdirat};

const READ_BYTES_MAX: u64 = 1 << 20;

/// Binds `within` of a volume, made as a directory where nothing is, to `place`.
pub(super) fn pin(volume: &Path, within: &str, place: &Path) -> io::Result<PathBuf> {
    let root = open(volume, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let mode = fs::metadata(volume)?.permissions().mode() & 0o7777;
    let found = open_or_make(&root, Path::new(within), mode)?;
    let source = PathBuf::from(format!("/proc/self/fd/{}", found.as_raw_fd()));
    let _ = umount2(place, MntFlags::MNT_DETACH);
    if fs::metadata(&source)?.is_dir() {
        fs::create_dir_all(place)?;
    } else {
        fs::create_dir_all(place.parent().unwrap_or(place))?;
        fs::write(place, "")?;
    }
    let none: Option<&str> = None;
    mount(Some(&source), place, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?;
    Ok(place.into())
}

/// What is in a file of a volume, at most a mebibyte.
pub(super) fn read(volume: &Path, within: &str) -> io::Result<String> {
    let root = open(volume, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let how = OpenHow::new().flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_IN_ROOT);
    let file = fs::File::from(openat2(root.as_fd(), within, how)?);
    let mut text = String::new();
    file.take(READ_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// Gives back all that a Pod had.
pub(super) fn release(pod: &Path) {
    let below = |path: PathBuf| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    for place in below(pod.join("volume-subpaths")).flat_map(below).flat_map(below) {
        let _ = umount2(&place, MntFlags::MNT_DETACH);
    }
}

fn open_or_make(root: &OwnedFd, path: &Path, mode: u32) -> io::Result<OwnedFd> {
    let beneath = |path: &Path| {
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        openat2(root.as_fd(), path, how)
    };
    match beneath(path) {
        Err(Errno::ENOENT) => {}
        other => return Ok(other?),
    }
    let mut walked = PathBuf::new();
    let mut at = root.try_clone()?;
    for part in path {
        walked.push(part);
        at = match beneath(&walked) {
            Err(Errno::ENOENT) => {
                mkdirat(&at, Path::new(part), Mode::from_bits_truncate(mode))?;
                let made = beneath(&walked)?;
                // What the process's mask took away.
                fs::set_permissions(format!("/proc/self/fd/{}", made.as_raw_fd()), fs::Permissions::from_mode(mode))?;
                made
            }
            other => other?,
        };
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_out_of_the_volume_is_not_followed() {
        let volume = std::env::temp_dir().join(format!("skein-subpath-test-{}", std::process::id()));
        fs::create_dir_all(&volume).expect("a directory");
        std::os::unix::fs::symlink("/etc", volume.join("out")).expect("a link");
        std::os::unix::fs::symlink("made", volume.join("in")).expect("a link");
        let root = open(&volume, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty()).expect("opened");
        let check = |path: &str, expected: bool| assert_eq!(open_or_make(&root, Path::new(path), 0o777).is_ok(), expected, "{path}");
        check("made/deeper", true);
        check("in/deeper", true);
        check("out/passwd", false);
        check("out", false);
        assert!(volume.join("made/deeper").is_dir());
        let _ = fs::remove_dir_all(volume);
    }
}

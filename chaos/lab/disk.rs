//! Disks that are slow or full, for a daemon alone: without device-mapper, which many kernels lack.
//!
//! A disk is made slow by the io controller of cgroups, which counts what a process writes and syncs. The daemon is moved
//! to a cgroup of its own for that (v1), or its own is limited (v2); containers are in others.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::{process, run};

/// What a full disk has in a file of this name.
const BALLAST: &str = "ballast";
const PIECE_BYTES: usize = 1 << 20;

/// A limit on how often a daemon may write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slow {
    /// Where the limit is written, and with which words it is put and lifted.
    file: PathBuf,
    put: String,
    lift: String,
    /// On v1: the cgroup that is made, and the one that its processes came from.
    moved: Option<(PathBuf, PathBuf)>,
    pid: i32,
}

/// A file that takes all room there is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Full {
    ballast: PathBuf,
}

// === impl Slow ===

impl Slow {
    /// What is to be done to a daemon with its data here; nothing is done yet.
    pub(crate) fn plan(pid: i32, data: &Path, writes_per_second: u64) -> Result<Self> {
        ensure!(writes_per_second > 0, "a disk writes at least once a second");
        let disk = disk_below(data)?;
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).context("the daemon does not run")?;
        if let Some((mount, path)) = controller_v1(&groups)? {
            let from = mount.join(path.trim_start_matches('/'));
            let made = mount.join(format!("skein-slow-{pid}"));
            return Ok(Self {
                file: made.join("blkio.throttle.write_iops_device"),
                put: format!("{disk} {writes_per_second}"),
                lift: format!("{disk} 0"),
                moved: Some((made, from)),
                pid,
            });
        }
        let path = groups.lines().find_map(|line| line.strip_prefix("0::")).context("the daemon is in no cgroup")?;
        let file = Path::new("/sys/fs/cgroup").join(path.trim_start_matches('/')).join("io.max");
        ensure!(file.exists(), "{} is not there: the io controller is not enabled for the daemon's cgroup", file.display());
        let (put, lift) = (format!("{disk} wiops={writes_per_second}"), format!("{disk} wiops=max"));
        Ok(Self { file, put, lift, moved: None, pid })
    }

    pub(crate) fn begin(&self) -> Result<()> {
        if let Some((made, _)) = &self.moved {
            std::fs::create_dir_all(made).with_context(|| format!("cannot make the cgroup {}", made.display()))?;
        }
        write(&self.file, &self.put)?;
        match &self.moved {
            Some((made, _)) => write(&made.join("cgroup.procs"), &self.pid.to_string()),
            None => Ok(()),
        }
    }

    /// What the daemon has started meanwhile goes back with it.
    pub(crate) fn end(&self) -> Result<()> {
        let Some((made, from)) = &self.moved else {
            return if self.file.exists() { write(&self.file, &self.lift) } else { Ok(()) };
        };
        for pid in std::fs::read_to_string(made.join("cgroup.procs")).unwrap_or_default().lines() {
            // It may just have ended.
            let _ = write(&from.join("cgroup.procs"), pid);
        }
        match std::fs::remove_dir(made) {
            Err(why) if why.kind() != ErrorKind::NotFound => Err(why).with_context(|| format!("cannot remove {}", made.display())),
            _ => Ok(()),
        }
    }
}

// === impl Full ===

impl Full {
    pub(crate) fn plan(data: &Path) -> Self {
        Self { ballast: data.join(BALLAST) }
    }

    /// Writes until nothing fits any more.
    pub(crate) fn begin(&self) -> Result<()> {
        let file = File::create(&self.ballast).with_context(|| format!("cannot write {}", self.ballast.display()))?;
        let piece = vec![0; PIECE_BYTES];
        let (mut at, mut size) = (0, PIECE_BYTES);
        while size > 0 {
            match file.write_at(&piece[..size], at) {
                Ok(written) => at += written as u64,
                Err(why) if why.kind() == ErrorKind::StorageFull => size /= 2,
                Err(why) => return Err(why).context("cannot fill the disk"),
            }
        }
        Ok(())
    }

    pub(crate) fn end(&self) -> Result<()> {
        match std::fs::remove_file(&self.ballast) {
            Err(why) if why.kind() != ErrorKind::NotFound => Err(why).context("cannot empty the disk"),
            _ => Ok(()),
        }
    }
}

/// Makes a disk of a file, and mounts it; one that is there already is mounted again.
pub(crate) fn ensure(image: &Path, mib: u64, point: &Path) -> Result<()> {
    if is_mounted(point)? {
        return Ok(());
    }
    if !image.exists() {
        let new = image.with_extension("new");
        File::create(&new)?.set_len(mib << 20).context("cannot make room for a disk")?;
        run("mkfs.ext4", &["-q", &new.display().to_string()])?;
        std::fs::rename(&new, image)?;
    }
    run("mount", &["-o", "loop", &image.display().to_string(), &point.display().to_string()])
}

/// Whether a directory is on another disk than the one that has it.
pub(crate) fn is_mounted(directory: &Path) -> Result<bool> {
    let device = |path: &Path| std::fs::metadata(path).with_context(|| format!("cannot look at {}", path.display())).map(|file| file.dev());
    Ok(device(directory)? != device(&directory.join(".."))?)
}

/// `MAJOR:MINOR` of the disk that a directory is on: of the whole of it, for limits are not of partitions.
fn disk_below(directory: &Path) -> Result<String> {
    let device = std::fs::metadata(directory).with_context(|| format!("cannot look at {}", directory.display()))?.dev();
    let number = format!("{}:{}", nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let known = Path::new("/sys/dev/block").join(&number);
    ensure!(known.exists(), "{} is on no disk of its own", directory.display());
    if !known.join("partition").exists() {
        return Ok(number);
    }
    let whole = std::fs::read_to_string(known.join("../dev")).context("a partition without a disk")?;
    Ok(whole.trim().to_string())
}

/// Where the io controller of v1 is mounted, and the cgroup of it.
fn controller_v1(groups: &str) -> Result<Option<(PathBuf, String)>> {
    let Some(path) = groups.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let is_of_it = parts.next()?.split(',').any(|name| name == "blkio");
        is_of_it.then(|| parts.next().map(String::from))?
    }) else {
        return Ok(None);
    };
    let mount = process::mount_of(Some("blkio")).context("the io controller of cgroups is mounted nowhere")?;
    Ok(Some((mount, path)))
}

fn write(file: &Path, text: &str) -> Result<()> {
    std::fs::write(file, text).with_context(|| format!("cannot write {text:?} to {}", file.display()))
}

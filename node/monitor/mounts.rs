//! A container's root: its image's layers under an upper directory of its own, the kernel's file systems, its volumes.
//!
//! All of it is mounted in the container's own mount namespace and goes away with it; nothing is left to clean up.
//!
//! - **Invariant:** a destination is resolved within the root (`openat2`, `RESOLVE_IN_ROOT`), so that no link in an
//!   image leads a mount out of it.
//! - **Invariant:** in a container that is not privileged, all that can be written to is mounted `nodev`.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, mkdirat, mknod};
use nix::unistd::{chdir, pivot_root, symlinkat};

use crate::Error;
use crate::cgroup::Hierarchies;
use crate::spec::{Bind, Propagation, Spec};
use crate::users::Users;

/// The group of terminals, `tty` in Debian and elsewhere.
const TERMINALS: u32 = 5;

/// Device nodes that every container has.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Makes the container's root the root of the calling process, which is alone in its mount namespace.
pub(crate) fn enter(spec: &Spec, hierarchies: &Hierarchies, users: Option<&Users>) -> Result<(), Error> {
    let none: Option<&str> = None;
    // Volumes whose mounts go both ways are taken while they still belong to the node's peer groups.
    let mut shared: Vec<Option<OwnedFd>> = Vec::with_capacity(spec.binds.len());
    for bind in &spec.binds {
        shared.push(if bind.propagation == Propagation::Bidirectional { Some(clone_shared(bind)?) } else { None });
    }
    // Mounts of the node are followed, so that volumes may say so; none of ours goes back, unless a volume shares it.
    mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none).map_err(Error::system("cannot separate mounts"))?;
    let root = spec.directory.join("rootfs");
    let layers = layers(spec, users)?;
    overlay(spec, &root, (&layers, users))?;
    let nodev = if spec.privileged { MsFlags::empty() } else { MsFlags::MS_NODEV };
    let target =
        open(&root, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).map_err(Error::system("cannot open the root"))?;
    kernel(spec, &target, hierarchies, (nodev, users))?;
    // Outer volumes first, so that one may be mounted within another.
    let mut binds: Vec<(&Bind, Option<OwnedFd>)> = spec.binds.iter().zip(shared).collect();
    binds.sort_by_key(|(bind, _)| bind.destination.components().count());
    for (index, (one, shared)) in binds.into_iter().enumerate() {
        if one.layers.is_empty() {
            match shared {
                Some(tree) => attach(&target, one, &tree, users)?,
                None => attach(&target, one, &clone_tree(one)?, users)?,
            }
        } else {
            image((spec, &layers), &target, one, index)?;
        }
    }
    pivot(&root)?;
    for path in &spec.masked_paths {
        mask(path)?;
    }
    for path in &spec.readonly_paths {
        make_readonly(path)?;
    }
    if spec.readonly_root {
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | nodev;
        mount(none, "/", none, flags, none).map_err(Error::system("cannot make the root read-only"))?;
    }
    Ok(())
}

/// Where the image's layers are; those of a Pod with its own users belong to these there.
fn layers(spec: &Spec, users: Option<&Users>) -> Result<PathBuf, Error> {
    let Some(users) = users else { return Ok(spec.layers_directory.clone()) };
    let place = spec.directory.join("layers");
    std::fs::create_dir_all(&place).map_err(Error::system(format!("cannot make {}", place.display())))?;
    let bind = Bind { mapped: true, ..Bind::new(&spec.layers_directory, &place) };
    let tree = clone_tree(&bind)?;
    map_users(&tree, users, &bind)?;
    let target = open(&place, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(Error::system(format!("cannot open {}", place.display())))?;
    move_to(&tree, &target).map_err(Error::system(cannot_mount(&bind)))?;
    Ok(place)
}

/// The layers by short relative names: all options of a mount share one page.
fn overlay(spec: &Spec, root: &Path, (layers, users): (&Path, Option<&Users>)) -> Result<(), Error> {
    let make = |name: &str| {
        let path = spec.directory.join(name);
        std::fs::create_dir_all(&path).map_err(Error::system(format!("cannot make {}", path.display()))).map(|()| path)
    };
    let (upper, work) = (make("upper")?, make("work")?);
    make("rootfs")?;
    if let Some(own) = users.map(|users| users.mapping.on_node(0)) {
        std::os::unix::fs::chown(&upper, Some(own), Some(own)).map_err(Error::system("cannot give the root to the Pod's users"))?;
    }
    chdir(layers).map_err(Error::system("cannot enter the image store"))?;
    // Overlay wants at least one lower directory; an image may have none.
    let lower: Vec<&str> = spec.layers.iter().rev().map(String::as_str).collect();
    let lower = if lower.is_empty() { make("empty")?.display().to_string() } else { lower.join(":") };
    // Volatile: nobody needs the root of a container after a loss of power, so its writes need not be synced.
    let options = format!("lowerdir={lower},upperdir={},workdir={},volatile", upper.display(), work.display());
    let flags = if spec.privileged { MsFlags::empty() } else { MsFlags::MS_NODEV };
    mount(Some("overlay"), root, Some("overlay"), flags, Some(options.as_str()))
        .map_err(Error::system("cannot mount the image's layers"))?;
    chdir("/").map_err(Error::system("cannot leave the image store"))
}

/// Binds an image's files, which are mounted beside the root for that.
fn image((spec, layers): (&Spec, &Path), root: &OwnedFd, one: &Bind, index: usize) -> Result<(), Error> {
    let make =
        |path: PathBuf| std::fs::create_dir_all(&path).map_err(Error::system(format!("cannot make {}", path.display()))).map(|()| path);
    // Overlay wants two lower directories where there is no upper one.
    let (empty, place) = (make(spec.directory.join("empty"))?, make(spec.directory.join("images").join(index.to_string()))?);
    chdir(layers).map_err(Error::system("cannot enter the image store"))?;
    let lower: Vec<&str> = one.layers.iter().rev().map(String::as_str).collect();
    let options = format!("lowerdir={}:{}", lower.join(":"), empty.display());
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
    mount(Some("overlay"), &place, Some("overlay"), flags, Some(options.as_str()))
        .map_err(Error::system(format!("cannot mount the image at {}", one.destination.display())))?;
    chdir("/").map_err(Error::system("cannot leave the image store"))?;
    let files = open(&place, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(Error::system(format!("cannot open {}", place.display())))?;
    let part = within(&files, &one.source)?;
    bind(root, &Bind { source: by_fd(&part), layers: Vec::new(), ..one.clone() })
}

/// `/proc`, `/dev`, `/sys` and what belongs into them.
fn kernel(spec: &Spec, root: &OwnedFd, hierarchies: &Hierarchies, (nodev, users): (MsFlags, Option<&Users>)) -> Result<(), Error> {
    let on_node = |id: u32| users.map_or(id, |users| users.mapping.on_node(id));
    let (own, terminals) = (on_node(0), on_node(TERMINALS));
    let strict = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV;
    fresh(root, "/proc", "proc", strict, "")?;
    fresh(root, "/dev", "tmpfs", MsFlags::MS_NOSUID | nodev, &format!("mode=755,size=65536k,uid={own},gid={own}"))?;
    let pts = format!("newinstance,ptmxmode=0666,mode=0620,gid={terminals}");
    fresh(root, "/dev/pts", "devpts", MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC, &pts)?;
    fresh(root, "/dev/mqueue", "mqueue", strict, "")?;
    match &spec.shm {
        Some(source) => bind(root, &Bind::new(source, "/dev/shm"))?,
        None => fresh(root, "/dev/shm", "tmpfs", strict, "mode=1777,size=65536k")?,
    }
    for name in DEVICES {
        let path = PathBuf::from("/dev").join(name);
        if path.exists() {
            bind(root, &Bind { devices: true, ..Bind::new(&path, &path) })?;
        }
    }
    let dev = within(root, Path::new("/dev"))?;
    for (name, target) in [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        symlinkat(target, &dev, name).map_err(Error::system(format!("cannot make /dev/{name}")))?;
    }
    if spec.privileged {
        all_devices(&dev, Path::new("/dev"));
    }
    let readonly = if spec.privileged { MsFlags::empty() } else { MsFlags::MS_RDONLY };
    fresh(root, "/sys", "sysfs", strict | readonly, "")?;
    cgroups(spec, root, hierarchies)
}

fn cgroups(spec: &Spec, root: &OwnedFd, hierarchies: &Hierarchies) -> Result<(), Error> {
    let strict = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV;
    let readonly = if spec.privileged { MsFlags::empty() } else { MsFlags::MS_RDONLY };
    if hierarchies.only_v2() {
        return fresh(root, "/sys/fs/cgroup", "cgroup2", strict | readonly, "");
    }
    fresh(root, "/sys/fs/cgroup", "tmpfs", strict, "mode=755")?;
    for mount in hierarchies.v1_roots() {
        let source = mount.join(spec.cgroup.trim_start_matches('/'));
        let name = mount.file_name().unwrap_or_default();
        bind(root, &Bind { readonly: !spec.privileged, ..Bind::new(&source, Path::new("/sys/fs/cgroup").join(name)) })?;
    }
    Ok(())
}

/// Mounts a file system of the kernel.
fn fresh(root: &OwnedFd, path: &str, kind: &str, flags: MsFlags, options: &str) -> Result<(), Error> {
    let target = place(root, Path::new(path), Kind::Directory)?;
    let options = (!options.is_empty()).then_some(options);
    mount(Some(kind), &by_fd(&target), Some(kind), flags, options).map_err(Error::system(format!("cannot mount {kind} at {path}")))
}

/// Binds a volume, file or device.
fn bind(root: &OwnedFd, bind: &Bind) -> Result<(), Error> {
    attach(root, bind, &clone_tree(bind)?, None)
}

fn cannot_mount(bind: &Bind) -> String {
    format!("cannot mount {} at {}", bind.source.display(), bind.destination.display())
}

/// A volume, file or device as a tree that nobody sees yet.
fn clone_tree(bind: &Bind) -> Result<OwnedFd, Error> {
    let source = CString::new(bind.source.as_os_str().as_bytes())
        .map_err(|_| Error::Process(format!("{}: a path with a NUL", cannot_mount(bind))))?;
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_RECURSIVE as libc::c_uint;
    // SAFETY: the path is a valid C string; the result is checked before it is used.
    let tree = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, source.as_ptr(), flags) };
    let tree = Errno::result(tree).map_err(Error::system(cannot_mount(bind)))?;
    // SAFETY: the kernel has just made this descriptor for us; it fits an int as all descriptors do.
    Ok(unsafe { OwnedFd::from_raw_fd(tree as i32) })
}

/// A clone of a mount that the node shares: what is mounted below either of the two appears below the other.
fn clone_shared(bind: &Bind) -> Result<OwnedFd, Error> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let (point, is_shared) = mount_of(&table, &bind.source);
    if !is_shared {
        let path = bind.source.display();
        return Err(Error::Process(format!("path {path:?} is mounted on {point:?} but it is not a shared mount")));
    }
    clone_tree(bind)
}

/// The mount that a path is on, and whether it is shared, from `/proc/self/mountinfo`.
fn mount_of<'a>(table: &'a str, path: &Path) -> (&'a str, bool) {
    let mounts = table.lines().filter_map(|line| {
        let (mount, _) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(4);
        let point = fields.next()?;
        path.starts_with(point).then(|| (point, fields.skip(1).any(|field| field.starts_with("shared:"))))
    });
    // Of mounts on the same point, the last one counts.
    mounts.max_by_key(|(point, _)| point.len()).unwrap_or(("/", false))
}

/// Puts a tree where the container sees it, given its attributes before. A moment in which it could be written to
/// although it is read-only does not exist.
fn attach(root: &OwnedFd, bind: &Bind, tree: &OwnedFd, users: Option<&Users>) -> Result<(), Error> {
    let what = || cannot_mount(bind);
    let kind = match std::fs::metadata(&bind.source) {
        Ok(metadata) if metadata.is_dir() => Kind::Directory,
        Ok(_) => Kind::File,
        Err(why) => return Err(Error::system(what())(why)),
    };
    let target = place(root, &bind.destination, kind)?;
    let nodev = if bind.devices { 0 } else { libc::MOUNT_ATTR_NODEV };
    let readonly = if bind.readonly { libc::MOUNT_ATTR_RDONLY } else { 0 };
    let noexec = if bind.noexec { libc::MOUNT_ATTR_NOEXEC } else { 0 };
    let below = if bind.recursive_readonly { readonly } else { 0 };
    set_attributes(tree, nodev | noexec | below, propagation(bind.propagation), true).map_err(Error::system(what()))?;
    set_attributes(tree, readonly, 0, false).map_err(Error::system(what()))?;
    if let Some(users) = users.filter(|_| bind.mapped) {
        map_users(tree, users, bind)?;
    }
    move_to(tree, &target).map_err(Error::system(what()))
}

fn move_to(tree: &OwnedFd, target: &OwnedFd) -> nix::Result<()> {
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: both paths are empty C strings; the descriptors are open.
    let moved = unsafe { libc::syscall(libc::SYS_move_mount, tree.as_raw_fd(), c"".as_ptr(), target.as_raw_fd(), c"".as_ptr(), flags) };
    Errno::result(moved).map(drop)
}

/// Shows the files of a mount as the Pod's own users', by their numbers.
fn map_users(tree: &OwnedFd, users: &Users, bind: &Bind) -> Result<(), Error> {
    let namespace = u64::try_from(users.namespace.as_raw_fd()).unwrap_or_default();
    let attributes = libc::mount_attr { attr_set: libc::MOUNT_ATTR_IDMAP, attr_clr: 0, propagation: 0, userns_fd: namespace };
    change_attributes(tree, &attributes, false).map_err(|why| {
        let what = format!("failed to set MOUNT_ATTR_IDMAP on {} (its file system may not support idmap mounts)", bind.source.display());
        Error::system(what)(why)
    })
}

fn propagation(kind: Propagation) -> u64 {
    match kind {
        Propagation::Private => libc::MS_PRIVATE,
        Propagation::HostToContainer => libc::MS_SLAVE,
        Propagation::Bidirectional => libc::MS_SHARED,
    }
}

fn set_attributes(tree: &OwnedFd, set: u64, propagation: u64, recursive: bool) -> nix::Result<()> {
    if set == 0 && propagation == 0 {
        return Ok(());
    }
    change_attributes(tree, &libc::mount_attr { attr_set: set, attr_clr: 0, propagation, userns_fd: 0 }, recursive)
}

fn change_attributes(tree: &OwnedFd, attributes: &libc::mount_attr, recursive: bool) -> nix::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the structure lives through the call and its size is the one given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of::<libc::mount_attr>(),
        )
    };
    Errno::result(result).map(drop)
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Directory,
    File,
}

/// Where to mount: a directory or file in the root, made where it is missing, and never outside.
fn place(root: &OwnedFd, path: &Path, kind: Kind) -> Result<OwnedFd, Error> {
    let failed = || Error::system(format!("cannot make the mount point {}", path.display()));
    let mut parts: Vec<&std::ffi::OsStr> =
        path.components().filter_map(|c| if let Component::Normal(p) = c { Some(p) } else { None }).collect();
    let last = if kind == Kind::File { parts.pop() } else { None };
    let mut walked = PathBuf::from("/");
    let mut at = within(root, &walked)?;
    for part in parts {
        walked.push(part);
        at = match within(root, &walked) {
            Ok(found) => found,
            Err(Error::System { source, .. }) if source.raw_os_error() == Some(libc::ENOENT) => {
                mkdirat(&at, part, Mode::from_bits_truncate(0o755)).map_err(failed())?;
                within(root, &walked)?
            }
            Err(other) => return Err(other),
        };
    }
    let Some(last) = last else { return Ok(at) };
    walked.push(last);
    match within(root, &walked) {
        Ok(found) => Ok(found),
        Err(_) => {
            let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
            nix::fcntl::openat(&at, last, flags, Mode::from_bits_truncate(0o644)).map_err(failed())?;
            within(root, &walked)
        }
    }
}

/// Opens a path as the container would see it.
fn within(root: &OwnedFd, path: &Path) -> Result<OwnedFd, Error> {
    let how =
        OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(root.as_fd(), path, how).map_err(Error::system(format!("cannot open {} in the container", path.display())))
}

fn by_fd(fd: &OwnedFd) -> PathBuf {
    Path::new("/proc/self/fd").join(fd.as_raw_fd().to_string())
}

/// A privileged container has all of the node's devices.
fn all_devices(dev: &OwnedFd, directory: &Path) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let (Ok(metadata), path) = (entry.metadata(), entry.path()) else { continue };
        let kind = metadata.file_type();
        let inside = by_fd(dev).join(path.strip_prefix("/dev").unwrap_or(&path));
        if kind.is_dir() && !["pts", "shm", "mqueue"].iter().any(|own| path.ends_with(own)) {
            let _ = std::fs::create_dir(&inside);
            all_devices(dev, &path);
        } else if kind.is_char_device() || kind.is_block_device() {
            let kind = if kind.is_char_device() { SFlag::S_IFCHR } else { SFlag::S_IFBLK };
            let _ = mknod(&inside, kind, Mode::from_bits_truncate(metadata.mode() & 0o777), metadata.rdev());
        }
    }
}

fn pivot(root: &Path) -> Result<(), Error> {
    chdir(root).map_err(Error::system("cannot enter the root"))?;
    // The old root is stacked below the new one and taken off (pivot_root(2), NOTES).
    pivot_root(".", ".").map_err(Error::system("cannot change the root"))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(Error::system("cannot detach the old root"))?;
    chdir("/").map_err(Error::system("cannot enter the new root"))
}

/// Hides a file behind /dev/null, a directory behind an empty one.
fn mask(path: &Path) -> Result<(), Error> {
    let none: Option<&str> = None;
    let hidden = match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::MS_RDONLY, Some("size=0k")),
        Ok(_) => mount(Some("/dev/null"), path, none, MsFlags::MS_BIND, none),
        Err(_) => return Ok(()),
    };
    hidden.map_err(Error::system(format!("cannot hide {}", path.display())))
}

fn make_readonly(path: &Path) -> Result<(), Error> {
    let none: Option<&str> = None;
    if !path.exists() {
        return Ok(());
    }
    let failed = || Error::system(format!("cannot make {} read-only", path.display()));
    mount(Some(path), path, none, MsFlags::MS_BIND | MsFlags::MS_REC, none).map_err(failed())?;
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(none, path, none, flags, none).map_err(failed())
}

/// The shared memory of a Pod's containers.
pub(crate) fn pod_shm(path: &Path) -> Result<(), Error> {
    let what = "cannot make the Pod's shared memory";
    std::fs::create_dir_all(path).map_err(Error::system(what))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV;
    mount(Some("shm"), path, Some("tmpfs"), flags, Some("mode=1777,size=65536k")).map_err(Error::system(what))
}

pub(crate) fn release_pod_shm(path: &Path) {
    let _ = umount2(path, MntFlags::MNT_DETACH);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_goes_both_ways_only_where_the_node_shares_it() {
        let table = "22 1 0:1 / / rw - ext4 /dev/a rw\n23 22 0:2 / /var/lib rw,relatime shared:7 master:2 - ext4 /dev/b rw\n\
            24 23 0:3 / /var/lib/x rw - tmpfs t rw\n";
        let check = |path: &str, expected: (&str, bool)| assert_eq!(mount_of(table, Path::new(path)), expected, "{path}");
        check("/etc", ("/", false));
        check("/var/lib/y", ("/var/lib", true));
        check("/var/lib/x/z", ("/var/lib/x", false));
        check("/var/library", ("/", false));
    }
}

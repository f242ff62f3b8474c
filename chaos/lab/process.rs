//! The nodes' processes. Each node has a cgroup, so that all of it is found, whatever became of its parents.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::Node;

const ROOT: &str = "skein-lab";
const KILL_TIMEOUT: Duration = Duration::from_secs(20);

/// Where a hierarchy of cgroups is mounted: of v2, or of v1 the one with this controller.
pub(crate) fn mount_of(controller: Option<&str>) -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let is_wanted = |fields: &Vec<&str>| match controller {
        None => fields[2] == "cgroup2",
        Some(name) => fields[2] == "cgroup" && fields[3].split(',').any(|option| option == name),
    };
    let mut all = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).filter(|fields| fields.len() > 3);
    all.find(is_wanted).map(|fields| fields[1].into())
}

/// The hierarchy that holds processes for certain: cgroup v2 where it is mounted (also beside v1), else v1's `pids`.
fn hierarchy() -> PathBuf {
    mount_of(None).or_else(|| mount_of(Some("pids"))).unwrap_or_else(|| "/sys/fs/cgroup".into())
}

fn cgroup(node: &Node) -> PathBuf {
    hierarchy().join(ROOT).join(&node.name)
}

/// Under which the node's Pods get their cgroups, in every hierarchy.
pub(crate) fn pods_cgroup(node: &Node) -> String {
    format!("/{ROOT}/{}/pods", node.name)
}

/// Starts a process of the node, in its cgroup and network namespace, detached from this one.
pub(crate) fn spawn(node: &Node, directory: &Path, name: &str, start: Start<'_>) -> Result<()> {
    let net = format!("/run/netns/{}", node.namespace());
    launch(&cgroup(node).join("daemon"), &net, directory, name, start)
}

/// Starts a process of the laboratory itself, in this process' network namespace.
pub(crate) fn spawn_own(directory: &Path, name: &str, program: &Path, arguments: &[String]) -> Result<()> {
    launch(&hierarchy().join(ROOT).join(name), "/proc/self/ns/net", directory, name, (program, arguments, &[]))
}

pub(crate) fn kill_own(directory: &Path, name: &str) {
    if let Some(pid) = running(directory, name) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// A program, its arguments, and what else is in its environment.
pub(crate) type Start<'a> = (&'a Path, &'a [String], &'a [(String, String)]);

fn launch(leaf: &Path, net: &str, directory: &Path, name: &str, (program, arguments, environment): Start<'_>) -> Result<()> {
    std::fs::create_dir_all(leaf).with_context(|| format!("cannot make the cgroup {}", leaf.display()))?;
    let log = std::fs::File::options().create(true).append(true).open(directory.join(format!("{name}.log")))?;
    // The shell enters the cgroup and becomes setsid, nsenter and the program in turn: one process, one pid.
    let script = r#"echo $$ >"$1/cgroup.procs"; net=$2; shift 2; exec setsid nsenter --net="$net" -- "$@""#;
    let child = Command::new("bash")
        .args(["-c", script, "node"])
        .arg(leaf)
        .arg(net)
        .arg(program)
        .args(arguments)
        .envs(environment.iter().cloned())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot start the node's process")?;
    let mut file = std::fs::File::create(directory.join(format!("{name}.pid")))?;
    writeln!(file, "{}", child.id())?;
    Ok(())
}

/// The pid of a process of the node, while it runs.
pub(crate) fn running(directory: &Path, name: &str) -> Option<i32> {
    let pid: i32 = std::fs::read_to_string(directory.join(format!("{name}.pid"))).ok()?.trim().parse().ok()?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // A pid may have been given to somebody else since: the node's processes are in the node's cgroup.
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let dead = status.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'));
    (groups.contains(ROOT) && !dead).then_some(pid)
}

/// The one that was started here, or another that has taken its place since: a daemon says itself who it is.
pub(crate) fn daemon(directory: &Path) -> Option<i32> {
    running(directory, "daemon").or_else(|| running(&directory.join("data"), "daemon"))
}

pub(crate) fn kill_daemon(directory: &Path) -> Result<()> {
    signal_daemon(directory, Signal::SIGKILL)?;
    let begin = Instant::now();
    while daemon(directory).is_some() {
        if begin.elapsed() > KILL_TIMEOUT {
            bail!("the daemon does not die");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

pub(crate) fn signal_daemon(directory: &Path, signal: Signal) -> Result<()> {
    let pid = daemon(directory).context("the node's daemon does not run")?;
    kill(Pid::from_raw(pid), signal).context("cannot signal the daemon")
}

pub(crate) fn signal_machine(node: &Node, signal: Signal) -> Result<()> {
    for pid in members(&cgroup(node)) {
        let _ = kill(Pid::from_raw(pid), signal);
    }
    Ok(())
}

/// Kills until nothing is left: what forks while it is looked at is found in the next round.
pub(crate) fn kill_machine(node: &Node) -> Result<()> {
    let begin = Instant::now();
    loop {
        let pids = members(&cgroup(node));
        if pids.is_empty() {
            return Ok(());
        }
        for pid in pids {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        if begin.elapsed() > KILL_TIMEOUT {
            bail!("{}: processes that do not die are left in {}", node.name, cgroup(node).display());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn members(group: &Path) -> Vec<i32> {
    let own = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    let mut pids: Vec<i32> = own.lines().filter_map(|line| line.parse().ok()).filter(|pid| !is_zombie(*pid)).collect();
    for entry in std::fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            pids.extend(members(&entry.path()));
        }
    }
    pids
}

fn is_zombie(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
}

/// Removes the node's cgroups from every hierarchy.
pub(crate) fn remove_cgroups(node: &Node) {
    for mount in cgroup_mounts() {
        remove_tree(&mount.join(ROOT).join(&node.name));
    }
}

pub(crate) fn remove_cgroup_root() {
    for mount in cgroup_mounts() {
        remove_tree(&mount.join(ROOT));
    }
}

fn cgroup_mounts() -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .filter(|f| f.len() > 2 && f[2].starts_with("cgroup"))
        .map(|f| f[1].into())
        .collect()
}

/// Cgroups are removed leaf by leaf; their files go with them.
fn remove_tree(group: &Path) {
    for entry in std::fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    let _ = std::fs::remove_dir(group);
}

/// Unmounts what is mounted there, if anything is.
pub(crate) fn unmount(point: &Path) {
    let _ = nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH);
}

/// Unmounts everything below a directory, the deepest first.
pub(crate) fn unmount_below(directory: &Path) -> Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let prefix = format!("{}/", directory.display());
    let mut points: Vec<&str> = mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|p| p.starts_with(&prefix)).collect();
    points.sort_unstable();
    for point in points.into_iter().rev() {
        let _ = nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH);
    }
    Ok(())
}

/// Whether a unix socket takes connections.
pub(crate) fn answers(socket: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(socket).is_ok()
}

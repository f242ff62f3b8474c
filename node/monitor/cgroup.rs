//! Cgroups, by their files: v1, v2, and both side by side (hybrid).
//!
//! A Pod's and a container's cgroup has the same path in every hierarchy. A limit goes to whichever hierarchy has its
//! controller. Device nodes are not limited here: everything that a container can write to is mounted `nodev`
//! (`mounts.rs`), which needs neither the v1 controller nor a BPF program.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::spec::Resources;

/// Where the machine's cgroups are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hierarchies {
    /// v1: a mount and its controllers.
    v1: Vec<(PathBuf, Vec<String>)>,
    /// v2: its mount and the controllers that it has to give.
    v2: Option<(PathBuf, Vec<String>)>,
}

/// What a cgroup uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub cpu_ns: u64,
    pub memory_bytes: u64,
    /// Without the page cache that could be dropped.
    pub working_set_bytes: u64,
    pub rss_bytes: u64,
    pub page_faults: u64,
    pub major_page_faults: u64,
}

const V2_CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "memory", "pids", "io"];

/// The monitor's own cgroup, below its Pod's.
pub fn monitor_cgroup(pod: &str) -> String {
    format!("{pod}/monitor")
}

// === impl Hierarchies ===

impl Hierarchies {
    pub fn read() -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        Self::parse(&mounts, |root| fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default())
    }

    fn parse(mounts: &str, controllers_of: impl Fn(&Path) -> String) -> Self {
        let mut found = Self::default();
        for line in mounts.lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            let [_, point, kind, options, ..] = fields[..] else { continue };
            match kind {
                "cgroup" => {
                    let is_controller =
                        |o: &&str| !matches!(*o, "rw" | "ro" | "nosuid" | "nodev" | "noexec" | "relatime" | "noatime" | "xattr");
                    let controllers = options.split(',').filter(is_controller).map(String::from).collect();
                    found.v1.push((point.into(), controllers));
                }
                "cgroup2" if found.v2.is_none() => {
                    let root = PathBuf::from(point);
                    let controllers = controllers_of(&root).split_whitespace().map(String::from).collect();
                    found.v2 = Some((root, controllers));
                }
                _ => {}
            }
        }
        found
    }

    /// Where each hierarchy is mounted.
    pub(crate) fn roots(&self) -> impl Iterator<Item = &Path> {
        self.v1_roots().chain(self.v2.iter().map(|(root, _)| root.as_path()))
    }

    /// What a container sees of a machine that is not v2 alone, with every runtime: it would take a v2 hierarchy for the
    /// one that has its limits.
    pub(crate) fn v1_roots(&self) -> impl Iterator<Item = &Path> {
        self.v1.iter().map(|(root, _)| root.as_path())
    }

    pub(crate) fn only_v2(&self) -> bool {
        self.v1.is_empty()
    }

    fn v1(&self, controller: &str) -> Option<&Path> {
        self.v1.iter().find(|(_, has)| has.iter().any(|c| c == controller)).map(|(root, _)| root.as_path())
    }

    /// Makes the cgroup in every hierarchy and sets its limits.
    pub fn create(&self, path: &str, resources: &Resources) -> io::Result<()> {
        let path = path.trim_start_matches('/');
        for (root, controllers) in &self.v1 {
            let group = root.join(path);
            fs::create_dir_all(&group).map_err(named(&group))?;
            if controllers.iter().any(|c| c == "cpuset") {
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    inherit(root, &group, file)?;
                }
            }
        }
        if let Some((root, controllers)) = &self.v2 {
            fs::create_dir_all(root.join(path)).map_err(named(&root.join(path)))?;
            delegate(root, path, controllers);
        }
        self.limit(path, resources)
    }

    /// Sets limits on a cgroup that is there.
    pub fn limit(&self, path: &str, resources: &Resources) -> io::Result<()> {
        let path = path.trim_start_matches('/');
        for (controller, v1_file, v2_file, v1_value, v2_value) in settings(resources) {
            let (file, value) = match (self.v1(controller), &self.v2) {
                (Some(root), _) => (root.join(path).join(v1_file), v1_value),
                (None, Some((root, has))) if has.iter().any(|c| c == controller) => (root.join(path).join(v2_file), v2_value),
                _ => continue,
            };
            // A limit below what is used already is refused as busy; the caller is told, and the old limit stays.
            fs::write(&file, value).map_err(named(&file))?;
        }
        if let Some((root, _)) = &self.v2 {
            for (file, value) in &resources.unified {
                let file = root.join(path).join(file);
                fs::write(&file, value).map_err(named(&file))?;
            }
        }
        Ok(())
    }

    /// The cgroup in v2, for a process to be born in. Moving one that is there already makes the kernel wait until all
    /// CPUs have passed a quiescent state, ten milliseconds or more, with a lock that every fork takes.
    pub(crate) fn birthplace(&self, path: &str) -> io::Result<Option<OwnedFd>> {
        let Some((root, _)) = &self.v2 else { return Ok(None) };
        let group = root.join(path.trim_start_matches('/'));
        fs::File::open(&group).map(|group| Some(group.into())).map_err(named(&group))
    }

    /// Moves the calling process, which has one thread, into the cgroup in v1. Said of a thread rather than of a process,
    /// and of the caller itself, that does without the lock (Linux 5.18).
    pub(crate) fn join(&self, path: &str) -> io::Result<()> {
        for root in self.v1_roots() {
            let file = root.join(path.trim_start_matches('/')).join("tasks");
            fs::OpenOptions::new().write(true).open(&file).and_then(|mut f| f.write_all(b"0")).map_err(named(&file))?;
        }
        Ok(())
    }

    /// The processes in the cgroup, by pid.
    pub fn members(&self, path: &str) -> Vec<i32> {
        let Some(root) = self.v2.as_ref().map(|(root, _)| root.as_path()).or_else(|| self.v1.first().map(|(r, _)| r.as_path())) else {
            return Vec::new();
        };
        let text = fs::read_to_string(root.join(path.trim_start_matches('/')).join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Removes the cgroup and what is below it. One that still has processes stays.
    pub fn remove(&self, path: &str) {
        for root in self.roots() {
            remove_tree(&root.join(path.trim_start_matches('/')));
        }
    }

    /// How many processes of the cgroup the kernel has killed for want of memory.
    pub(crate) fn oom_kills(&self, path: &str) -> u64 {
        let path = path.trim_start_matches('/');
        let file = match (self.v1("memory"), &self.v2) {
            (Some(root), _) => root.join(path).join("memory.oom_control"),
            (None, Some((root, _))) => root.join(path).join("memory.events"),
            _ => return 0,
        };
        keyed(&file).get("oom_kill").copied().unwrap_or(0)
    }

    pub fn usage(&self, path: &str) -> Usage {
        let path = path.trim_start_matches('/');
        let number = |file: PathBuf| fs::read_to_string(file).ok().and_then(|t| t.trim().parse::<u64>().ok()).unwrap_or(0);
        let mut usage = Usage::default();
        let v2 = self.v2.as_ref().map(|(root, _)| root.join(path));
        usage.cpu_ns = match (self.v1("cpuacct"), &v2) {
            (Some(root), _) => number(root.join(path).join("cpuacct.usage")),
            (None, Some(group)) => keyed(&group.join("cpu.stat")).get("usage_usec").map_or(0, |us| us * 1000),
            _ => 0,
        };
        let (stat, inactive, rss, faults) = match (self.v1("memory"), &v2) {
            (Some(root), _) => {
                usage.memory_bytes = number(root.join(path).join("memory.usage_in_bytes"));
                (keyed(&root.join(path).join("memory.stat")), "total_inactive_file", "total_rss", ("total_pgfault", "total_pgmajfault"))
            }
            (None, Some(group)) => {
                usage.memory_bytes = number(group.join("memory.current"));
                (keyed(&group.join("memory.stat")), "inactive_file", "anon", ("pgfault", "pgmajfault"))
            }
            _ => return usage,
        };
        let of = |name: &str| stat.get(name).copied().unwrap_or(0);
        usage.working_set_bytes = usage.memory_bytes.saturating_sub(of(inactive));
        usage.rss_bytes = of(rss);
        usage.page_faults = of(faults.0);
        usage.major_page_faults = of(faults.1);
        usage
    }
}

/// Controller, file and value in v1, file and value in v2.
fn settings(resources: &Resources) -> Vec<(&'static str, &'static str, &'static str, String, String)> {
    let mut all = Vec::new();
    if resources.cpu_shares > 0 {
        // 2 to 262 144 shares are 1 to 10 000 weight (KEP-2254).
        let weight = 1 + (resources.cpu_shares.clamp(2, 262_144) - 2) * 9_999 / 262_142;
        all.push(("cpu", "cpu.shares", "cpu.weight", resources.cpu_shares.to_string(), weight.to_string()));
    }
    let period = if resources.cpu_period_us > 0 { resources.cpu_period_us } else { 100_000 };
    if resources.cpu_quota_us != 0 {
        let quota = if resources.cpu_quota_us < 0 { "max".to_string() } else { resources.cpu_quota_us.to_string() };
        all.push(("cpu", "cpu.cfs_period_us", "cpu.max", period.to_string(), format!("{quota} {period}")));
        all.push(("cpu", "cpu.cfs_quota_us", "cpu.max", resources.cpu_quota_us.to_string(), format!("{quota} {period}")));
    }
    if resources.memory_bytes_max != 0 {
        let v2 = if resources.memory_bytes_max < 0 { "max".into() } else { resources.memory_bytes_max.to_string() };
        all.push(("memory", "memory.limit_in_bytes", "memory.max", resources.memory_bytes_max.to_string(), v2));
    }
    for (value, file) in [(&resources.cpuset_cpus, "cpuset.cpus"), (&resources.cpuset_mems, "cpuset.mems")] {
        if !value.is_empty() {
            all.push(("cpuset", file, file, value.clone(), value.clone()));
        }
    }
    all
}

/// In v1 a new cpuset has no CPUs, and takes no process, until it is given some: those of its parent.
fn inherit(root: &Path, group: &Path, file: &str) -> io::Result<String> {
    let path = group.join(file);
    let own = fs::read_to_string(&path).map_err(named(&path))?;
    match group.parent().filter(|_| own.trim().is_empty() && group != root) {
        None => Ok(own),
        Some(parent) => {
            let value = inherit(root, parent, file)?;
            fs::write(&path, value.trim()).map_err(named(&path))?;
            Ok(value)
        }
    }
}

/// In v2 a parent must give its children each controller. One that cannot be given is missed when a limit needs it.
fn delegate(root: &Path, path: &str, controllers: &[String]) {
    let wanted: Vec<&str> = V2_CONTROLLERS.into_iter().filter(|c| controllers.iter().any(|has| has == c)).collect();
    let mut group = root.to_path_buf();
    for part in Path::new(path) {
        for controller in &wanted {
            let _ = fs::write(group.join("cgroup.subtree_control"), format!("+{controller}"));
        }
        group.push(part);
    }
}

/// Cgroups are removed leaf by leaf; their files go with them.
fn remove_tree(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}

/// A file of lines `name number`.
fn keyed(file: &Path) -> BTreeMap<String, u64> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().filter_map(|line| line.split_once(' ')).filter_map(|(k, v)| Some((k.to_string(), v.trim().parse().ok()?))).collect()
}

fn named(path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    let path = path.display().to_string();
    move |why| io::Error::new(why.kind(), format!("{path}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_v1_v2_and_hybrid() {
        let check = |mounts: &str, v1: usize, v2: bool| {
            let found = Hierarchies::parse(mounts, |_| "cpu memory pids".into());
            assert_eq!((found.v1.len(), found.v2.is_some()), (v1, v2), "{mounts}");
            found
        };
        check("cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n", 0, true);
        let hybrid = check(
            "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,nosuid,cpu,cpuacct 0 0\n\
             cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n",
            2,
            true,
        );
        assert_eq!(hybrid.v1("cpuacct"), Some(Path::new("/sys/fs/cgroup/cpu,cpuacct")));
        assert_eq!(hybrid.v1("pids"), None);
    }

    #[test]
    fn turns_shares_into_weights_and_quotas_into_max() {
        let resources = Resources { cpu_shares: 1024, cpu_quota_us: 50_000, ..Default::default() };
        let v2: Vec<_> = settings(&resources).into_iter().map(|s| (s.2, s.4)).collect();
        assert_eq!(v2, [("cpu.weight", "39".to_string()), ("cpu.max", "50000 100000".into()), ("cpu.max", "50000 100000".into())]);
        let least = Resources { cpu_shares: 2, memory_bytes_max: -1, ..Default::default() };
        let v2: Vec<_> = settings(&least).into_iter().map(|s| (s.2, s.4)).collect();
        assert_eq!(v2, [("cpu.weight", "1".to_string()), ("memory.max", "max".into())]);
    }
}

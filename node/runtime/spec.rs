//! From what the kubelet asks for (CRI) and what the image says to what a monitor runs. Pure, but for profiles that are
//! read from files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use skein_cri as v1;
use skein_monitor::{Bind, Process, Propagation, Resources, Spec, User};

use crate::images::{Execution, Image};
use crate::{Error, seccomp};

/// What Docker and containerd leave a container's root with.
const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// Hidden, and read-only, unless the kubelet says otherwise (as in the OCI runtimes' defaults).
const MASKED: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where things are on this node.
pub(crate) struct Places<'a> {
    pub(crate) id: &'a str,
    pub(crate) container: &'a Path,
    pub(crate) pod: &'a Path,
    pub(crate) layers: &'a Path,
    /// The images that are mounted as volumes, by the name in the mount.
    pub(crate) images: &'a BTreeMap<String, Image>,
    pub(crate) cgroup_parent: &'a str,
    pub(crate) log_directory: &'a str,
}

pub(crate) fn container(config: &v1::ContainerConfig, image: &Image, places: &Places<'_>) -> Result<Spec, Error> {
    let linux = config.linux.clone().unwrap_or_default();
    let security = linux.security_context.clone().unwrap_or_default();
    let namespaces = security.namespace_options.clone().unwrap_or_default();
    let execution = image.config.config.clone().unwrap_or_default();
    let paths = |given: &[String], default: &[&str]| -> Vec<PathBuf> {
        match (security.privileged, given.is_empty()) {
            (true, _) => Vec::new(),
            (false, true) => default.iter().map(PathBuf::from).collect(),
            (false, false) => given.iter().map(PathBuf::from).collect(),
        }
    };
    let own_ipc = namespaces.ipc() != v1::NamespaceMode::Node;
    let shm = if own_ipc { places.pod.join("shm") } else { "/dev/shm".into() };
    let log =
        (!config.log_path.is_empty() && !places.log_directory.is_empty()).then(|| Path::new(places.log_directory).join(&config.log_path));
    Ok(Spec {
        id: places.id.into(),
        directory: places.container.into(),
        layers: image.layers.clone(),
        layers_directory: places.layers.into(),
        readonly_root: security.readonly_rootfs,
        privileged: security.privileged,
        binds: binds(config, places)?,
        masked_paths: paths(&security.masked_paths, &MASKED),
        readonly_paths: paths(&security.readonly_paths, &READONLY),
        shm: Some(shm),
        host_pid: namespaces.pid() == v1::NamespaceMode::Node,
        target: (namespaces.pid() == v1::NamespaceMode::Target).then(|| namespaces.target_id.clone()),
        process: process(config, &security, &execution, &linux)?,
        cgroup: format!("{}/{}", places.cgroup_parent.trim_end_matches('/'), places.id),
        resources: linux.resources.as_ref().map(resources).unwrap_or_default(),
        log,
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        lease_term: config.annotations.get(skein_cri::LEASE_TERM).and_then(|term| term.parse().ok()).unwrap_or(0),
    })
}

pub(crate) fn resources(wanted: &v1::LinuxContainerResources) -> Resources {
    Resources {
        cpu_shares: wanted.cpu_shares,
        cpu_quota_us: wanted.cpu_quota,
        cpu_period_us: wanted.cpu_period,
        memory_bytes_max: wanted.memory_limit_in_bytes,
        cpuset_cpus: wanted.cpuset_cpus.clone(),
        cpuset_mems: wanted.cpuset_mems.clone(),
        unified: wanted.unified.clone().into_iter().collect(),
    }
}

fn process(
    config: &v1::ContainerConfig,
    security: &v1::LinuxContainerSecurityContext,
    image: &Execution,
    linux: &v1::LinuxContainerConfig,
) -> Result<Process, Error> {
    let capabilities = capabilities(security);
    let profile = security.seccomp.clone().unwrap_or(v1::SecurityProfile {
        profile_type: v1::security_profile::ProfileType::Unconfined.into(),
        localhost_ref: String::new(),
    });
    let seccomp = match profile.profile_type() {
        _ if security.privileged => Vec::new(),
        v1::security_profile::ProfileType::Unconfined => Vec::new(),
        v1::security_profile::ProfileType::RuntimeDefault => seccomp::default_profile(&capabilities)?,
        v1::security_profile::ProfileType::Localhost => {
            seccomp::from_file(Path::new(profile.localhost_ref.trim_start_matches("localhost/")))?
        }
    };
    let args = arguments(config, image);
    if args.is_empty() {
        return Err(Error::Container("no command specified".into()));
    }
    let cwd = if config.working_dir.is_empty() { image.working_dir.clone().unwrap_or_default() } else { config.working_dir.clone() };
    Ok(Process {
        args,
        env: environment(config, image),
        cwd: if cwd.is_empty() { "/".into() } else { cwd },
        user: user(security, image),
        capabilities,
        no_new_privileges: security.no_new_privs,
        seccomp,
        oom_score_adj: linux.resources.as_ref().map_or(0, |r| r.oom_score_adj),
        terminal: config.tty,
    })
}

/// The image's entry point and arguments; a command of the Pod's replaces both.
fn arguments(config: &v1::ContainerConfig, image: &Execution) -> Vec<String> {
    let (mut command, mut args) = (config.command.clone(), config.args.clone());
    if command.is_empty() {
        if args.is_empty() {
            args = image.cmd.clone().unwrap_or_default();
        }
        command = image.entrypoint.clone().unwrap_or_default();
    }
    command.extend(args);
    command
}

fn environment(config: &v1::ContainerConfig, image: &Execution) -> Vec<String> {
    let mut all = image.env.clone().unwrap_or_default();
    if !all.iter().any(|e| e.starts_with("PATH=")) {
        all.push(PATH.into());
    }
    for pair in &config.envs {
        let prefix = format!("{}=", pair.key);
        all.retain(|e| !e.starts_with(&prefix));
        all.push(format!("{prefix}{}", String::from_utf8_lossy(&pair.value)));
    }
    all
}

fn user(security: &v1::LinuxContainerSecurityContext, image: &Execution) -> User {
    let stated = security.run_as_user.as_ref().map(|u| u.value.to_string());
    let named = Some(security.run_as_username.clone()).filter(|n| !n.is_empty());
    let number = |value: i64| u32::try_from(value).unwrap_or(u32::MAX);
    User {
        name: stated.or(named).or(image.user.clone()).unwrap_or_default(),
        group: security.run_as_group.as_ref().map(|g| number(g.value)),
        additional_groups: security.supplemental_groups.iter().map(|g| number(*g)).collect(),
        strict_groups: security.supplemental_groups_policy() == v1::SupplementalGroupsPolicy::Strict,
    }
}

fn capabilities(security: &v1::LinuxContainerSecurityContext) -> Vec<String> {
    let everything = || (0..=40).filter_map(capability_name).map(|name| format!("CAP_{name}")).collect::<BTreeSet<String>>();
    if security.privileged {
        return everything().into_iter().collect();
    }
    let wanted = security.capabilities.clone().unwrap_or_default();
    let full = |name: &String| {
        let upper = name.to_uppercase();
        if upper.starts_with("CAP_") || upper == "ALL" { upper } else { format!("CAP_{upper}") }
    };
    let (add, drop): (Vec<_>, Vec<_>) =
        (wanted.add_capabilities.iter().map(full).collect(), wanted.drop_capabilities.iter().map(full).collect());
    let mut kept: BTreeSet<String> = CAPABILITIES.iter().map(|c| (*c).to_string()).collect();
    if add.iter().any(|c| c == "ALL") {
        kept = everything();
    }
    if drop.iter().any(|c| c == "ALL") {
        kept.clear();
    }
    kept.extend(add.into_iter().filter(|c| c != "ALL"));
    kept.retain(|c| !drop.contains(c));
    kept.into_iter().collect()
}

/// In the kernel's order (capability.h).
fn capability_name(number: usize) -> Option<&'static str> {
    const NAMES: &str = "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE \
        NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE \
        SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL \
        SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE";
    NAMES.split_whitespace().nth(number)
}

fn binds(config: &v1::ContainerConfig, places: &Places<'_>) -> Result<Vec<Bind>, Error> {
    let privileged = config.linux.as_ref().and_then(|l| l.security_context.as_ref()).is_some_and(|s| s.privileged);
    let mut binds: Vec<Bind> = config.mounts.iter().map(|m| bind(m, privileged, places.images)).collect::<Result<_, _>>()?;
    for device in &config.devices {
        binds.push(Bind {
            devices: true,
            readonly: !device.permissions.contains('w'),
            ..Bind::new(Path::new(&device.host_path), &device.container_path)
        });
    }
    // The Pod's own files, where the kubelet brings none.
    for name in ["hosts", "hostname", "resolv.conf"] {
        let (source, destination) = (places.pod.join(name), format!("/etc/{name}"));
        if source.exists() && !binds.iter().any(|b| b.destination == Path::new(&destination)) {
            binds.push(Bind { mapped: true, ..Bind::new(&source, &destination) });
        }
    }
    Ok(binds)
}

fn bind(mount: &v1::Mount, privileged: bool, images: &BTreeMap<String, Image>) -> Result<Bind, Error> {
    if mount.container_path.is_empty() {
        return Err(Error::Invalid("a mount needs a path in the container".into()));
    }
    if let Some(name) = mount.image.as_ref().map(|image| &image.image).filter(|name| !name.is_empty()) {
        let image = images.get(name).ok_or_else(|| Error::NotFound { kind: "image", id: name.clone() })?;
        return Ok(Bind {
            readonly: true,
            noexec: true,
            layers: image.layers.clone(),
            ..Bind::new(Path::new("/").join(&mount.image_sub_path), &mount.container_path)
        });
    }
    let propagation = match mount.propagation() {
        v1::MountPropagation::PropagationPrivate => Propagation::Private,
        v1::MountPropagation::PropagationHostToContainer => Propagation::HostToContainer,
        v1::MountPropagation::PropagationBidirectional => Propagation::Bidirectional,
    };
    Ok(Bind {
        readonly: mount.readonly,
        recursive_readonly: mount.recursive_read_only,
        mapped: !mount.uid_mappings.is_empty(),
        propagation,
        devices: privileged,
        ..Bind::new(Path::new(&mount.host_path), &mount.container_path)
    })
}

/// A signal by the name or number that images use.
pub(crate) fn signal(name: &str) -> Option<i32> {
    let upper = name.trim().to_uppercase();
    let by_number = upper.parse::<i32>().ok().filter(|n| (1..=64).contains(n));
    by_number.or_else(|| {
        let full = if upper.starts_with("SIG") { upper.clone() } else { format!("SIG{upper}") };
        full.parse::<nix::sys::signal::Signal>().ok().map(|s| s as i32)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_replaces_the_images_whole_command_line_and_arguments_only_its_arguments() {
        let words = |text: &str| text.split_whitespace().map(String::from).collect::<Vec<_>>();
        let image = Execution { entrypoint: Some(words("entry")), cmd: Some(words("cmd x")), ..Default::default() };
        let check = |command: &str, args: &str, expected: &str| {
            let config = v1::ContainerConfig { command: words(command), args: words(args), ..Default::default() };
            assert_eq!(arguments(&config, &image), words(expected));
        };
        check("", "", "entry cmd x");
        check("", "a", "entry a");
        check("c", "", "c");
        check("c", "a", "c a");
    }

    #[test]
    fn adds_and_drops_capabilities_as_kubernetes_names_them() {
        let check = |add: &[&str], drop: &[&str], expected: &[&str]| {
            let list = |names: &[&str]| names.iter().map(|n| (*n).to_string()).collect();
            let capabilities = v1::Capability { add_capabilities: list(add), drop_capabilities: list(drop), ..Default::default() };
            let security = v1::LinuxContainerSecurityContext { capabilities: Some(capabilities), ..Default::default() };
            assert_eq!(super::capabilities(&security), expected);
        };
        check(&["NET_ADMIN", "CAP_SYS_TIME"], &["ALL"], &["CAP_NET_ADMIN", "CAP_SYS_TIME"]);
        check(&[], &["ALL"], &[]);
        let all = v1::LinuxContainerSecurityContext { privileged: true, ..Default::default() };
        assert_eq!(super::capabilities(&all).len(), 41);
    }

    #[test]
    fn reads_signals_by_name_and_number() {
        for (name, expected) in [("SIGQUIT", Some(3)), ("term", Some(15)), ("9", Some(9)), ("SIGNONE", None)] {
            assert_eq!(signal(name), expected, "{name}");
        }
    }
}

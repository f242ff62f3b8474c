//! What Pods and containers use, from their cgroups and directories.

use skein_cri as v1;
use skein_monitor::Usage;

use crate::pods::{Container, Pods, Sandbox, now_ns};

pub(super) fn container(pods: &Pods, container: &Container) -> v1::ContainerStats {
    let usage = pods.hierarchies.usage(&container.record.spec.cgroup);
    let (cpu, memory) = measures(&usage);
    v1::ContainerStats {
        attributes: Some(v1::ContainerAttributes {
            id: container.id.clone(),
            metadata: container.config.metadata.clone(),
            labels: container.config.labels.clone(),
            annotations: container.config.annotations.clone(),
        }),
        cpu: Some(cpu),
        memory: Some(memory),
        writable_layer: Some(filesystem(&container.record.spec.directory.join("upper"))),
        ..Default::default()
    }
}

pub(super) fn sandbox(pods: &Pods, sandbox: &Sandbox) -> v1::PodSandboxStats {
    let (cpu, memory) = measures(&pods.hierarchies.usage(&sandbox.cgroup()));
    let running = pods.containers_of(&sandbox.id).into_iter().filter(|c| c.runs());
    v1::PodSandboxStats {
        attributes: Some(v1::PodSandboxAttributes {
            id: sandbox.id.clone(),
            metadata: sandbox.config.metadata.clone(),
            labels: sandbox.config.labels.clone(),
            annotations: sandbox.config.annotations.clone(),
        }),
        linux: Some(v1::LinuxPodSandboxStats {
            cpu: Some(cpu),
            memory: Some(memory),
            network: network(sandbox),
            containers: running.map(|c| container(pods, &c)).collect(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// What went through a Pod's own interfaces, of which `eth0` is the way out.
fn network(sandbox: &Sandbox) -> Option<v1::NetworkUsage> {
    if sandbox.namespaces().network() == v1::NamespaceMode::Node {
        return None;
    }
    let monitor = sandbox.record.borrow().monitor;
    let table = std::fs::read_to_string(format!("/proc/{monitor}/net/dev")).ok()?;
    let (mut default_interface, mut interfaces) = (None, Vec::new());
    for interface in table.lines().filter_map(interface).filter(|found| found.name != "lo") {
        match interface.name.as_str() {
            "eth0" => default_interface = Some(interface),
            _ => interfaces.push(interface),
        }
    }
    Some(v1::NetworkUsage { timestamp: now_ns(), default_interface, interfaces })
}

/// A line of `/proc/net/dev`: bytes and errors are columns 1 and 3 of those received, 9 and 11 of those sent.
fn interface(line: &str) -> Option<v1::NetworkInterfaceUsage> {
    let (name, counts) = line.split_once(':')?;
    let counts: Vec<u64> = counts.split_whitespace().map(|count| count.parse().unwrap_or(0)).collect();
    let value = |at: usize| counts.get(at).map(|value| v1::UInt64Value { value: *value });
    Some(v1::NetworkInterfaceUsage {
        name: name.trim().into(),
        rx_bytes: value(0),
        rx_errors: value(2),
        tx_bytes: value(8),
        tx_errors: value(10),
    })
}

fn measures(usage: &Usage) -> (v1::CpuUsage, v1::MemoryUsage) {
    let value = |value: u64| Some(v1::UInt64Value { value });
    let timestamp = now_ns();
    let cpu = v1::CpuUsage { timestamp, usage_core_nano_seconds: value(usage.cpu_ns), ..Default::default() };
    let memory = v1::MemoryUsage {
        timestamp,
        working_set_bytes: value(usage.working_set_bytes),
        usage_bytes: value(usage.memory_bytes),
        rss_bytes: value(usage.rss_bytes),
        page_faults: value(usage.page_faults),
        major_page_faults: value(usage.major_page_faults),
        ..Default::default()
    };
    (cpu, memory)
}

/// What a directory takes of its file system; it looks at every file.
pub(super) fn filesystem(directory: &std::path::Path) -> v1::FilesystemUsage {
    let (bytes, inodes) = crate::images::size_of(directory);
    v1::FilesystemUsage {
        timestamp: now_ns(),
        fs_id: Some(v1::FilesystemIdentifier { mountpoint: directory.display().to_string() }),
        used_bytes: Some(v1::UInt64Value { value: bytes }),
        inodes_used: Some(v1::UInt64Value { value: inodes }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_an_interface_are_read_by_their_columns() {
        let line =
            "  eth0:  1500      10    1    0    0     0          0         0     2500      20    2    0    0     0       0          0";
        let found = interface(line).expect("an interface");
        let number = |value: &Option<v1::UInt64Value>| value.as_ref().map(|v| v.value);
        assert_eq!((found.name.as_str(), number(&found.rx_bytes), number(&found.tx_bytes)), ("eth0", Some(1500), Some(2500)));
        assert_eq!((number(&found.rx_errors), number(&found.tx_errors)), (Some(1), Some(2)));
        assert_eq!(interface("Inter-|   Receive"), None);
    }
}

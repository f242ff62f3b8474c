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
            containers: running.map(|c| container(pods, &c)).collect(),
            ..Default::default()
        }),
        ..Default::default()
    }
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

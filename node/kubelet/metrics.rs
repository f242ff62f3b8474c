//! What is scraped from a kubelet: `/metrics/resource` (KEP-1206, what metrics-server reads), `/metrics/cadvisor`, and
//! `/metrics` of the kubelet itself. Pure.

use skein_cri as v1;

use crate::cri::{CONTAINER_NAME, POD_NAME, POD_NAMESPACE, POD_UID, value};
use crate::exposition::Page;
use crate::stats::Look;
use crate::summary::VolumeUsage;

fn label<'a>(labels: &'a std::collections::HashMap<String, String>, name: &str) -> &'a str {
    labels.get(name).map_or("", String::as_str)
}

#[expect(clippy::cast_precision_loss, reason = "a counter in seconds is a double in this format")]
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

fn cpu_ns(cpu: Option<&v1::CpuUsage>) -> u64 {
    value(cpu.and_then(|cpu| cpu.usage_core_nano_seconds.as_ref()))
}

fn working_set(memory: Option<&v1::MemoryUsage>) -> u64 {
    value(memory.and_then(|memory| memory.working_set_bytes.as_ref()))
}

/// One family over all running containers.
fn of_containers<'a>(look: &'a Look, page: &mut Page, count: impl Fn(&'a v1::Container, &'a v1::ContainerStats) -> f64) {
    for (container, stats) in look.measured() {
        let labels = &container.labels;
        let named =
            [("container", label(labels, CONTAINER_NAME)), ("namespace", label(labels, POD_NAMESPACE)), ("pod", label(labels, POD_NAME))];
        page.sample(&named, count(container, stats), Some(look.at_ms));
    }
}

fn of_pods<'a>(look: &'a Look, page: &mut Page, count: impl Fn(&'a v1::LinuxPodSandboxStats) -> f64) {
    for sandbox in &look.sandboxes {
        let (Some(about), Some(linux)) = (&sandbox.attributes, &sandbox.linux) else { continue };
        let named = [("namespace", label(&about.labels, POD_NAMESPACE)), ("pod", label(&about.labels, POD_NAME))];
        page.sample(&named, count(linux), Some(look.at_ms));
    }
}

#[expect(clippy::cast_precision_loss, reason = "a number of bytes is a double in this format")]
fn number(bytes: u64) -> f64 {
    bytes as f64
}

/// `/metrics/resource`
pub(crate) fn resource(look: &Look) -> String {
    let mut page = Page::default();
    page.family("container_cpu_usage_seconds_total", "counter", "[STABLE] Cumulative cpu time consumed by the container in core-seconds");
    of_containers(look, &mut page, |_, stats| seconds(cpu_ns(stats.cpu.as_ref())));
    page.family("container_memory_working_set_bytes", "gauge", "[STABLE] Current working set of the container in bytes");
    of_containers(look, &mut page, |_, stats| number(working_set(stats.memory.as_ref())));
    page.family("container_start_time_seconds", "gauge", "[STABLE] Start time of the container since unix epoch in seconds");
    of_containers(look, &mut page, |container, _| seconds(container.created_at.unsigned_abs()));
    page.family("node_cpu_usage_seconds_total", "counter", "[STABLE] Cumulative cpu time consumed by the node in core-seconds");
    page.sample(&[], seconds(look.node_cpu_ns), Some(look.at_ms));
    page.family("node_memory_working_set_bytes", "gauge", "[STABLE] Current working set of the node in bytes");
    page.sample(&[], look.node_memory_bytes, Some(look.at_ms));
    page.family("pod_cpu_usage_seconds_total", "counter", "[STABLE] Cumulative cpu time consumed by the pod in core-seconds");
    of_pods(look, &mut page, |linux| seconds(cpu_ns(linux.cpu.as_ref())));
    page.family("pod_memory_working_set_bytes", "gauge", "[STABLE] Current working set of the pod in bytes");
    of_pods(look, &mut page, |linux| number(working_set(linux.memory.as_ref())));
    page.family("resource_scrape_error", "gauge", "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise");
    page.sample(&[], 0, None);
    page.into_text()
}

/// What cAdvisor tells of one container.
struct Labels {
    container: String,
    id: String,
    image: String,
    name: String,
    namespace: String,
    pod: String,
}

impl Labels {
    fn of(cgroup_root: &str, container: &v1::Container) -> Self {
        let labels = &container.labels;
        let image = container.image.as_ref().map(|image| image.user_specified_image.clone()).unwrap_or_default();
        let own = |name: &str| label(labels, name).to_string();
        Self {
            container: own(CONTAINER_NAME),
            id: format!("{}/pod{}/{}", cgroup_root.trim_end_matches('/'), own(POD_UID), container.id),
            image: if image.is_empty() { container.image_ref.clone() } else { image },
            name: container.id.clone(),
            namespace: own(POD_NAMESPACE),
            pod: own(POD_NAME),
        }
    }

    fn with<'a>(&'a self, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let own = [
            ("container", self.container.as_str()),
            ("id", &self.id),
            ("image", &self.image),
            ("name", &self.name),
            ("namespace", &self.namespace),
            ("pod", &self.pod),
        ];
        more.iter().copied().chain(own).collect()
    }
}

/// `/metrics/cadvisor`, as far as the runtime tells (KEP-2371).
pub(crate) fn cadvisor(look: &Look, cgroup_root: &str, machine: (usize, u64)) -> String {
    type Count = fn(&v1::Container, &v1::ContainerStats) -> f64;
    const FAMILIES: [(&str, &str, &str, Count); 8] = [
        (
            "container_memory_usage_bytes",
            "gauge",
            "Current memory usage in bytes, including all memory regardless of when it was accessed",
            |_, stats| number(value(stats.memory.as_ref().and_then(|m| m.usage_bytes.as_ref()))),
        ),
        ("container_memory_working_set_bytes", "gauge", "Current working set in bytes.", |_, stats| {
            number(working_set(stats.memory.as_ref()))
        }),
        ("container_memory_rss", "gauge", "Size of RSS in bytes.", |_, stats| {
            number(value(stats.memory.as_ref().and_then(|m| m.rss_bytes.as_ref())))
        }),
        ("container_memory_cache", "gauge", "Number of bytes of page cache memory.", |_, stats| {
            let of = |pick: fn(&v1::MemoryUsage) -> Option<&v1::UInt64Value>| value(stats.memory.as_ref().and_then(pick));
            number(of(|m| m.usage_bytes.as_ref()).saturating_sub(of(|m| m.rss_bytes.as_ref())))
        }),
        ("container_fs_usage_bytes", "gauge", "Number of bytes that are consumed by the container on this filesystem.", |_, stats| {
            number(value(stats.writable_layer.as_ref().and_then(|layer| layer.used_bytes.as_ref())))
        }),
        ("container_fs_inodes_total", "gauge", "Number of Inodes", |_, stats| {
            number(value(stats.writable_layer.as_ref().and_then(|layer| layer.inodes_used.as_ref())))
        }),
        ("container_start_time_seconds", "gauge", "Start time of the container since unix epoch in seconds.", |container, _| {
            seconds(container.created_at.unsigned_abs())
        }),
        ("container_last_seen", "gauge", "Last time a container was seen by the exporter", |_, stats| {
            seconds(stats.cpu.as_ref().map_or(0, |cpu| cpu.timestamp.unsigned_abs()))
        }),
    ];
    let mut page = Page::default();
    let all: Vec<(Labels, &v1::Container, &v1::ContainerStats)> =
        look.measured().map(|(container, stats)| (Labels::of(cgroup_root, container), container, stats)).collect();
    page.family("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds.");
    for (labels, _, stats) in &all {
        page.sample(&labels.with(&[("cpu", "total")]), seconds(cpu_ns(stats.cpu.as_ref())), Some(look.at_ms));
    }
    for (name, kind, help, count) in FAMILIES {
        page.family(name, kind, help);
        for (labels, container, stats) in &all {
            page.sample(&labels.with(&[]), count(container, stats), Some(look.at_ms));
        }
    }
    network(look, cgroup_root, &mut page);
    page.family("machine_cpu_cores", "gauge", "Number of logical CPU cores.");
    page.sample(&[], machine.0, None);
    page.family("machine_memory_bytes", "gauge", "Amount of memory installed on the machine.");
    page.sample(&[], machine.1, None);
    page.into_text()
}

fn network(look: &Look, cgroup_root: &str, page: &mut Page) {
    type Count = fn(&v1::NetworkInterfaceUsage) -> Option<&v1::UInt64Value>;
    const FAMILIES: [(&str, &str, Count); 4] = [
        ("container_network_receive_bytes_total", "Cumulative count of bytes received", |i| i.rx_bytes.as_ref()),
        ("container_network_receive_errors_total", "Cumulative count of errors encountered while receiving", |i| i.rx_errors.as_ref()),
        ("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", |i| i.tx_bytes.as_ref()),
        ("container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting", |i| i.tx_errors.as_ref()),
    ];
    for (family, help, count) in FAMILIES {
        page.family(family, "counter", help);
        for sandbox in &look.sandboxes {
            let network = sandbox.linux.as_ref().and_then(|linux| linux.network.as_ref());
            let (Some(about), Some(network)) = (&sandbox.attributes, network) else { continue };
            let own = |name: &str| label(&about.labels, name);
            let id = format!("{}/pod{}", cgroup_root.trim_end_matches('/'), own(POD_UID));
            for interface in network.default_interface.iter().chain(&network.interfaces) {
                let labels = [
                    ("id", id.as_str()),
                    ("interface", &interface.name),
                    ("name", &about.id),
                    ("namespace", own(POD_NAMESPACE)),
                    ("pod", own(POD_NAME)),
                ];
                page.sample(&labels, value(count(interface)), Some(look.at_ms));
            }
        }
    }
}

/// `/metrics`
pub(crate) fn own(look: &Look, node: &str, volumes: &[VolumeUsage]) -> String {
    type Count = fn(&VolumeUsage) -> u64;
    const VOLUMES: [(&str, &str, Count); 6] = [
        ("kubelet_volume_stats_available_bytes", "[ALPHA] Number of available bytes in the volume", |v| v.disk.available_bytes),
        ("kubelet_volume_stats_capacity_bytes", "[ALPHA] Capacity in bytes of the volume", |v| v.disk.capacity_bytes),
        ("kubelet_volume_stats_used_bytes", "[ALPHA] Number of used bytes in the volume", |v| v.disk.used_bytes()),
        ("kubelet_volume_stats_inodes", "[ALPHA] Maximum number of inodes in the volume", |v| v.disk.inodes),
        ("kubelet_volume_stats_inodes_free", "[ALPHA] Number of free inodes in the volume", |v| v.disk.inodes_free),
        ("kubelet_volume_stats_inodes_used", "[ALPHA] Number of used inodes in the volume", |v| v.disk.inodes_used()),
    ];
    let mut page = Page::default();
    page.family("kubelet_node_name", "gauge", "[ALPHA] The node's name. The count is always 1.");
    page.sample(&[("node", node)], 1, None);
    page.family("kubelet_running_pods", "gauge", "[ALPHA] Number of pods that have a running pod sandbox");
    page.sample(&[], look.sandboxes.len(), None);
    page.family("kubelet_running_containers", "gauge", "[ALPHA] Number of containers currently running");
    for (state, name) in [
        (v1::ContainerState::ContainerCreated, "created"),
        (v1::ContainerState::ContainerExited, "exited"),
        (v1::ContainerState::ContainerRunning, "running"),
    ] {
        let count = look.containers.iter().filter(|container| container.state == i32::from(state)).count();
        page.sample(&[("container_state", name)], count, None);
    }
    for (name, help, count) in VOLUMES {
        page.family(name, "gauge", help);
        for volume in volumes {
            page.sample(&[("namespace", &volume.namespace), ("persistentvolumeclaim", &volume.claim)], count(volume), None);
        }
    }
    page.into_text()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::Disk;

    fn look() -> Look {
        let number = |value: u64| Some(v1::UInt64Value { value });
        let labels: std::collections::HashMap<String, String> =
            [(POD_NAME, "p"), (POD_NAMESPACE, "n"), (POD_UID, "u"), (CONTAINER_NAME, "c")].map(|(k, v)| (k.into(), v.into())).into();
        let cpu = v1::CpuUsage { usage_core_nano_seconds: number(1_500_000_000), ..Default::default() };
        let memory =
            v1::MemoryUsage { working_set_bytes: number(4096), usage_bytes: number(9000), rss_bytes: number(4000), ..Default::default() };
        let stats = v1::ContainerStats {
            attributes: Some(v1::ContainerAttributes { id: "id".into(), labels: labels.clone(), ..Default::default() }),
            cpu: Some(cpu),
            memory: Some(memory),
            ..Default::default()
        };
        let eth0 = v1::NetworkInterfaceUsage { name: "eth0".into(), rx_bytes: number(7), ..Default::default() };
        let linux = v1::LinuxPodSandboxStats {
            cpu: Some(cpu),
            network: Some(v1::NetworkUsage { default_interface: Some(eth0), ..Default::default() }),
            ..Default::default()
        };
        Look {
            at_ms: 1000,
            node_cpu_ns: 2_000_000_000,
            node_memory_bytes: 5,
            stats: vec![stats],
            sandboxes: vec![v1::PodSandboxStats {
                attributes: Some(v1::PodSandboxAttributes { id: "pod".into(), labels: labels.clone(), ..Default::default() }),
                linux: Some(linux),
                ..Default::default()
            }],
            containers: vec![v1::Container {
                id: "id".into(),
                labels,
                state: v1::ContainerState::ContainerRunning.into(),
                created_at: 3_000_000_000,
                image_ref: "image".into(),
                ..Default::default()
            }],
        }
    }

    #[test]
    fn what_metrics_server_reads_is_there() {
        let text = resource(&look());
        for line in [
            "container_cpu_usage_seconds_total{container=\"c\",namespace=\"n\",pod=\"p\"} 1.5 1000",
            "container_memory_working_set_bytes{container=\"c\",namespace=\"n\",pod=\"p\"} 4096 1000",
            "container_start_time_seconds{container=\"c\",namespace=\"n\",pod=\"p\"} 3 1000",
            "node_cpu_usage_seconds_total 2 1000",
            "node_memory_working_set_bytes 5 1000",
            "pod_cpu_usage_seconds_total{namespace=\"n\",pod=\"p\"} 1.5 1000",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn containers_are_named_as_cadvisor_names_them() {
        let text = cadvisor(&look(), "/kubepods/", (2, 9));
        for line in [
            "container_cpu_usage_seconds_total{cpu=\"total\",container=\"c\",id=\"/kubepods/podu/id\",image=\"image\",name=\"id\",namespace=\"n\",pod=\"p\"} 1.5 1000",
            "container_memory_cache{container=\"c\",id=\"/kubepods/podu/id\",image=\"image\",name=\"id\",namespace=\"n\",pod=\"p\"} 5000 1000",
            "container_network_receive_bytes_total{id=\"/kubepods/podu\",interface=\"eth0\",name=\"pod\",namespace=\"n\",pod=\"p\"} 7 1000",
            "machine_cpu_cores 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn claims_are_told_with_what_is_left() {
        let volume = VolumeUsage {
            namespace: "n".into(),
            claim: "data".into(),
            disk: Disk { available_bytes: 3, ..Disk::default() },
            ..VolumeUsage::default()
        };
        let text = own(&look(), "node", &[volume]);
        assert!(text.contains("kubelet_volume_stats_available_bytes{namespace=\"n\",persistentvolumeclaim=\"data\"} 3\n"), "{text}");
        assert!(text.contains("kubelet_running_containers{container_state=\"running\"} 1\n"), "{text}");
    }
}

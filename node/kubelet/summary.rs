//! `/stats/summary`: what the node, its Pods and their claims' volumes use (`k8s.io/kubelet/pkg/apis/stats/v1alpha1`).

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use serde_json::{Value, json};
use skein_cri as v1;
use skein_object::volume::LOCAL;
use skein_object::{Key, meta};
use skein_state::State;

use crate::cri::{CONTAINER_NAME, POD_UID, value};
use crate::machine::memory_bytes;
use crate::stats::Look;
use crate::{Options, local_volume, pod, volumes};

/// What a file system has.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Disk {
    pub(crate) available_bytes: u64,
    pub(crate) capacity_bytes: u64,
    pub(crate) inodes: u64,
    pub(crate) inodes_free: u64,
}

/// The volume of a claim that a Pod here uses.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct VolumeUsage {
    pub(crate) namespace: String,
    pub(crate) pod: String,
    /// As the Pod names it.
    pub(crate) volume: String,
    pub(crate) claim: String,
    pub(crate) disk: Disk,
}

impl Disk {
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let found = nix::sys::statvfs::statvfs(path).ok()?;
        let size = found.fragment_size();
        Some(Self {
            available_bytes: found.blocks_available() * size,
            capacity_bytes: found.blocks() * size,
            inodes: found.files(),
            inodes_free: found.files_free(),
        })
    }

    pub(crate) fn used_bytes(&self) -> u64 {
        self.capacity_bytes.saturating_sub(self.available_bytes)
    }

    pub(crate) fn inodes_used(&self) -> u64 {
        self.inodes.saturating_sub(self.inodes_free)
    }

    fn told(&self, time: &str) -> Value {
        json!({
            "time": time, "availableBytes": self.available_bytes, "capacityBytes": self.capacity_bytes, "usedBytes": self.used_bytes(),
            "inodes": self.inodes, "inodesFree": self.inodes_free, "inodesUsed": self.inodes_used(),
        })
    }
}

/// The Pods that are bound here.
fn pods_here(state: &State, node: &str) -> Vec<Pod> {
    let here = state.range("pods/", None).filter(|(_, entry)| entry.record.field("spec").is_some_and(|spec| spec["nodeName"] == node));
    here.filter_map(|(_, entry)| entry.record.typed::<Pod>(entry.revision)).filter(|pod| !pod::phase_is_final(pod)).collect()
}

/// A claim's volume that is mounted here: where it is, and whose it is to tell how full it is.
struct Place {
    usage: VolumeUsage,
    path: PathBuf,
    /// The driver and its name for the volume.
    driver: Option<(String, String)>,
}

/// What is mounted of claims; drivers are asked about theirs, where they can tell.
pub(crate) async fn volumes(options: &Options, state: &State) -> Vec<VolumeUsage> {
    let mut found = Vec::new();
    for Place { usage, path, driver } in places(options, state) {
        let measured = match driver {
            Some((driver, handle)) => match options.csi.driver(&driver) {
                Ok(driver) => driver.volume_stats(&handle, &path).await,
                Err(_) => None,
            },
            None => tokio::task::spawn_blocking(move || Disk::of(&path)).await.ok().flatten(),
        };
        found.extend(measured.map(|disk| VolumeUsage { disk, ..usage }));
    }
    found
}

fn places(options: &Options, state: &State) -> Vec<Place> {
    let mut places = Vec::new();
    for pod in pods_here(state, &options.name) {
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let name = pod.metadata.name.clone().unwrap_or_default();
        for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            let own = volume.ephemeral.as_ref().map(|_| format!("{name}-{}", volume.name));
            let Some(claim) = volume.persistent_volume_claim.as_ref().map(|claim| claim.claim_name.clone()).or(own) else { continue };
            let bound = state.get(&Key::new("persistentvolumeclaims", &namespace, &claim));
            let bound = bound.and_then(|e| e.record.typed::<PersistentVolumeClaim>(e.revision)).and_then(|claim| claim.spec?.volume_name);
            let Some(bound) = bound.and_then(|name| state.get(&Key::new("persistentvolumes", "", &name))) else { continue };
            let usage = VolumeUsage {
                namespace: namespace.clone(),
                pod: name.clone(),
                volume: volume.name.clone(),
                claim,
                ..VolumeUsage::default()
            };
            places.extend(bound.record.typed::<PersistentVolume>(bound.revision).and_then(|bound| place(options, &pod, usage, bound)));
        }
    }
    places
}

fn place(options: &Options, pod: &Pod, usage: VolumeUsage, volume: PersistentVolume) -> Option<Place> {
    let (name, spec) = (volume.metadata.name?, volume.spec?);
    if spec.volume_mode.as_deref() == Some("Block") {
        return None;
    }
    match spec.csi {
        Some(csi) if csi.driver == LOCAL => Some(Place { usage, path: local_volume::root(options).join(csi.volume_handle), driver: None }),
        Some(csi) => {
            let path = volumes::pod_directory(&options.directory, pod).join("volumes/kubernetes.io~csi").join(name).join("mount");
            path.exists().then_some(Place { usage, path, driver: Some((csi.driver, csi.volume_handle)) })
        }
        None => {
            let path = spec.local.map(|local| local.path).or(spec.host_path.map(|host| host.path))?;
            Some(Place { usage, path: path.into(), driver: None })
        }
    }
}

fn cpu(cpu: Option<&v1::CpuUsage>, time: &str) -> Value {
    json!({"time": time, "usageCoreNanoSeconds": value(cpu.and_then(|cpu| cpu.usage_core_nano_seconds.as_ref()))})
}

fn memory(memory: Option<&v1::MemoryUsage>, time: &str) -> Value {
    let of = |pick: fn(&v1::MemoryUsage) -> Option<&v1::UInt64Value>| value(memory.and_then(pick));
    json!({
        "time": time, "usageBytes": of(|m| m.usage_bytes.as_ref()), "workingSetBytes": of(|m| m.working_set_bytes.as_ref()),
        "rssBytes": of(|m| m.rss_bytes.as_ref()), "pageFaults": of(|m| m.page_faults.as_ref()),
        "majorPageFaults": of(|m| m.major_page_faults.as_ref()),
    })
}

/// The whole page.
pub(crate) fn summary(options: &Options, state: &State, look: &Look, volumes: &[VolumeUsage]) -> Value {
    let time = meta::time(jiff::Timestamp::from_millisecond(look.at_ms).unwrap_or_default());
    let usage = options.stats.newest();
    let total = usage.as_ref().and_then(|usage| usage.total).unwrap_or_default();
    let disk = Disk::of(&options.directory).unwrap_or_default().told(&time);
    let pods = pods_here(state, &options.name);
    json!({
        "node": {
            "nodeName": options.name, "startTime": started(),
            "cpu": {"time": time, "usageNanoCores": total.cpu_nano, "usageCoreNanoSeconds": look.node_cpu_ns},
            "memory": {
                "time": time, "workingSetBytes": look.node_memory_bytes, "usageBytes": look.node_memory_bytes,
                "availableBytes": memory_bytes("MemAvailable").unwrap_or(0),
            },
            "fs": disk, "runtime": {"imageFs": disk},
        },
        "pods": pods.iter().map(|pod| of_pod(pod, look, volumes, &time)).collect::<Vec<_>>(),
    })
}

fn of_pod(pod: &Pod, look: &Look, volumes: &[VolumeUsage], time: &str) -> Value {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let (name, namespace, uid) = (text(&pod.metadata.name), text(&pod.metadata.namespace), text(&pod.metadata.uid));
    let is_own = |labels: &std::collections::HashMap<String, String>| labels.get(POD_UID).is_some_and(|found| *found == uid);
    let containers = look.measured().filter(|(container, _)| is_own(&container.labels)).map(|(container, stats)| {
        let layer = stats.writable_layer.as_ref();
        json!({
            "name": container.labels.get(CONTAINER_NAME), "startTime": of_ns(container.created_at),
            "cpu": cpu(stats.cpu.as_ref(), time), "memory": memory(stats.memory.as_ref(), time),
            "rootfs": {
                "time": time, "usedBytes": value(layer.and_then(|l| l.used_bytes.as_ref())),
                "inodesUsed": value(layer.and_then(|l| l.inodes_used.as_ref())),
            },
        })
    });
    let mut told = json!({
        "podRef": {"name": name, "namespace": namespace, "uid": uid},
        "startTime": pod.status.as_ref().and_then(|status| status.start_time.as_ref()),
        "containers": containers.collect::<Vec<_>>(),
    });
    let sandbox = look.sandboxes.iter().find(|sandbox| sandbox.attributes.as_ref().is_some_and(|about| is_own(&about.labels)));
    if let Some(linux) = sandbox.and_then(|sandbox| sandbox.linux.as_ref()) {
        told["cpu"] = cpu(linux.cpu.as_ref(), time);
        told["memory"] = memory(linux.memory.as_ref(), time);
        if let Some(network) = &linux.network {
            let interface = |one: &v1::NetworkInterfaceUsage| {
                json!({
                    "name": one.name, "rxBytes": value(one.rx_bytes.as_ref()), "rxErrors": value(one.rx_errors.as_ref()),
                    "txBytes": value(one.tx_bytes.as_ref()), "txErrors": value(one.tx_errors.as_ref()),
                })
            };
            let all: Vec<Value> = network.default_interface.iter().chain(&network.interfaces).map(interface).collect();
            told["network"] = network.default_interface.as_ref().map(interface).unwrap_or_else(|| json!({}));
            told["network"]["time"] = time.into();
            told["network"]["interfaces"] = all.into();
        }
    }
    let own: Vec<Value> =
        volumes.iter().filter(|volume| volume.namespace == namespace && volume.pod == name).map(|v| of_volume(v, time)).collect();
    if !own.is_empty() {
        told["volume"] = own.into();
    }
    told
}

fn of_volume(volume: &VolumeUsage, time: &str) -> Value {
    let mut told = volume.disk.told(time);
    told["name"] = volume.volume.as_str().into();
    told["pvcRef"] = json!({"name": volume.claim, "namespace": volume.namespace});
    told
}

fn of_ns(ns: i64) -> String {
    meta::time(jiff::Timestamp::from_nanosecond(ns.into()).unwrap_or_default())
}

/// When this machine was started.
fn started() -> String {
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds: i64 = uptime.split('.').next().and_then(|text| text.parse().ok()).unwrap_or(0);
    meta::time(jiff::Timestamp::from_second(jiff::Timestamp::now().as_second() - seconds).unwrap_or_default())
}

//! This machine as a Node object: registered once, its status kept true, its network configured.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use skein_command::Write;
use skein_cri as v1;
use skein_object::{Key, meta, registry};
use skein_store::Handle as Store;
use tracing::{info, warn};

use crate::allocatable::allocatable;
use crate::cri::Runtime;
use crate::summary::Disk;
use crate::{Error, Options, csi, machine, write};

const INTERVAL: Duration = Duration::from_millis(500);
/// How often a node says that its conditions hold where nothing is new: kubelet's five minutes, and a little less.
const HEARTBEAT: SignedDuration = SignedDuration::from_secs(240);
/// Pods that a node takes at most: kubelet's default.
const PODS_MAX: u32 = 110;
/// As kubelet shows them (`nodeStatusMaxImages`, `MaxNamesPerImageInNodeStatus`).
const IMAGES_MAX: usize = 50;
const IMAGE_NAMES_MAX: usize = 5;
const IMAGES_INTERVAL: Duration = Duration::from_secs(10);

pub(crate) async fn run(options: Options, store: Store, runtime: Runtime) {
    let mut configured = String::new();
    let mut offer = Offer::default();
    loop {
        if let Err(why) = keep(&options, &store, &runtime, &mut offer).await {
            tracing::debug!(%why, "the Node object waits");
        }
        configure_network(&options, &store, &mut configured);
        tokio::select! {
            () = options.csi.changed.notified() => {}
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

/// What the runtime offers.
#[derive(Default)]
struct Offer {
    version: String,
    is_ready: bool,
    /// `status.runtimeHandlers` and `status.features`.
    handlers: Value,
    features: Value,
    /// `status.images`, and when they were looked at.
    images: Value,
    images_at: Option<Instant>,
}

// === impl Offer ===

impl Offer {
    async fn refresh(&mut self, runtime: &Runtime) {
        if self.version.is_empty() {
            self.version = runtime.version().await.unwrap_or_default();
        }
        let said = runtime.status().await.unwrap_or_default();
        let holds = |kind: &str| said.status.iter().flat_map(|status| &status.conditions).any(|c| c.r#type == kind && c.status);
        self.is_ready = holds("RuntimeReady") && holds("NetworkReady");
        let handler = |handler: &v1::RuntimeHandler| {
            let features = handler.features.unwrap_or_default();
            json!({"name": handler.name, "features": {
                "recursiveReadOnlyMounts": features.recursive_read_only_mounts, "userNamespaces": features.user_namespaces,
            }})
        };
        self.handlers = said.runtime_handlers.iter().map(handler).collect();
        self.features = said.features.map_or(Value::Null, |f| json!({"supplementalGroupsPolicy": f.supplemental_groups_policy}));
        if self.images_at.is_none_or(|at| at.elapsed() >= IMAGES_INTERVAL)
            && let Ok(images) = runtime.images().await
        {
            self.images = images_status(images);
            self.images_at = Some(Instant::now());
        }
    }
}

/// The largest images, each with its names (`nodestatus.Images`).
fn images_status(mut images: Vec<v1::Image>) -> Value {
    images.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    let shown = images.into_iter().take(IMAGES_MAX).map(|image| {
        let names: Vec<String> = image.repo_digests.into_iter().chain(image.repo_tags).take(IMAGE_NAMES_MAX).collect();
        json!({"names": names, "sizeBytes": image.size})
    });
    shown.collect()
}

/// Registers the node where it is missing, and writes its status when it is not what is observed.
async fn keep(options: &Options, store: &Store, runtime: &Runtime, offer: &mut Offer) -> Result<(), Error> {
    let key = Key::new("nodes", "", &options.name);
    offer.refresh(runtime).await;
    let view = store.local();
    let Some(entry) = view.state.get(&key) else {
        // The replica may lag: only who has all may say that the node is new.
        if store.read().await?.state.get(&key).is_none() {
            store.propose(new_node(options).into()).await?;
            info!(node = %options.name, "registered");
        }
        return Ok(());
    };
    let old = entry.record.to_value("v1", "Node", entry.revision);
    let has_range = old.pointer("/spec/podCIDR").is_some();
    let mut new = old.clone();
    let is_ready = has_range && offer.is_ready && !options.pressure.is_going_down();
    new["status"] = status(options, &old, is_ready, &offer.version);
    for (field, value) in [("runtimeHandlers", &offer.handlers), ("features", &offer.features), ("images", &offer.images)] {
        if value.is_object() || value.as_array().is_some_and(|list| !list.is_empty()) {
            new["status"][field] = value.clone();
        }
    }
    if let Some(port) = options.port {
        new["status"]["daemonEndpoints"] = json!({"kubeletEndpoint": {"Port": port}});
    }
    let used = options.csi.in_use();
    if !used.is_empty() {
        new["status"]["volumesInUse"] = json!(used);
    }
    let attached = csi::attached(&view.state, &options.name);
    if !attached.is_empty() {
        new["status"]["volumesAttached"] = attached.iter().map(|name| json!({"name": name, "devicePath": ""})).collect();
    }
    if new != old {
        store.propose(write::update(&key, entry, &new).into()).await?;
    }
    Ok(())
}

fn new_node(options: &Options) -> Write {
    let resource = registry::find("", "v1", "nodes").expect("the registry has nodes");
    let mut labels = BTreeMap::from([
        ("kubernetes.io/hostname".to_string(), options.name.clone()),
        ("kubernetes.io/os".to_string(), "linux".to_string()),
        ("kubernetes.io/arch".to_string(), architecture().to_string()),
    ]);
    labels.extend(options.labels.iter().cloned());
    let mut node = json!({"metadata": {"name": options.name, "labels": labels}, "spec": {}, "status": {}});
    let now = meta::time(Timestamp::now());
    meta::at_creation(&mut node, resource, "", &meta::Birth { uid: &uuid::Uuid::new_v4().to_string(), now: &now, suffix: "" });
    write::create(resource, "", node)
}

fn status(options: &Options, old: &Value, ready: bool, version: &str) -> Value {
    let at = Timestamp::now();
    let now = meta::time(at);
    let known = old.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let said = known.iter().filter_map(|c| c["lastHeartbeatTime"].as_str()?.parse::<Timestamp>().ok()).max();
    let is_due = said.is_some_and(|said| at.duration_since(said) >= HEARTBEAT);
    let condition = |kind: &str, holds: bool, reason: &str, message: &str| {
        let status = if holds { "True" } else { "False" };
        let before = known.iter().find(|c| c["type"] == kind && c["status"] == status);
        let time = |field: &str| before.map_or_else(|| now.clone().into(), |c| c[field].clone());
        let heartbeat = if is_due { now.clone().into() } else { time("lastHeartbeatTime") };
        json!({"type": kind, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": heartbeat, "lastTransitionTime": time("lastTransitionTime")})
    };
    let pressed = |kind: &str, short: [&str; 2], enough: [&str; 2]| {
        let holds = options.pressure.holds(kind);
        let [why, what] = if holds { short } else { enough };
        condition(kind, holds, why, what)
    };
    let (why, what) = match (ready, options.pressure.is_going_down()) {
        (_, true) => ("KubeletNotReady", "node is shutting down"),
        (true, false) => ("KubeletReady", "kubelet is posting ready status"),
        (false, false) => ("KubeletNotReady", "container runtime network not ready"),
    };
    let (cpus, memory) = machine::size();
    let mut capacity = json!({"cpu": cpus.to_string(), "memory": format!("{}Ki", memory >> 10), "pods": PODS_MAX.to_string(),
        "ephemeral-storage": format!("{}Ki", disk_kib(&options.directory))});
    // What others have written there stays: extended resources are told to the API by whoever has them.
    for (name, amount) in old.pointer("/status/capacity").and_then(Value::as_object).into_iter().flatten() {
        if skein_object::amounts::is_extended(name) {
            capacity[name] = amount.clone();
        }
    }
    json!({
        "capacity": capacity, "allocatable": allocatable(&capacity, &options.reserved, &options.eviction),
        "conditions": [
            pressed("MemoryPressure", ["KubeletHasInsufficientMemory", "kubelet has insufficient memory available"],
                ["KubeletHasSufficientMemory", "kubelet has sufficient memory available"]),
            pressed("DiskPressure", ["KubeletHasDiskPressure", "kubelet has disk pressure"],
                ["KubeletHasNoDiskPressure", "kubelet has no disk pressure"]),
            pressed("PIDPressure", ["KubeletHasInsufficientPID", "kubelet has insufficient PID available"],
                ["KubeletHasSufficientPID", "kubelet has sufficient PID available"]),
            condition("Ready", ready, why, what),
        ],
        "addresses": [{"type": "InternalIP", "address": options.address.to_string()}, {"type": "Hostname", "address": options.name}],
        "nodeInfo": {
            "machineID": file("/etc/machine-id"), "systemUUID": "", "bootID": file("/proc/sys/kernel/random/boot_id"),
            "kernelVersion": file("/proc/sys/kernel/osrelease"), "osImage": os_image(), "containerRuntimeVersion": version,
            "kubeletVersion": "v1.37.2+skein", "kubeProxyVersion": "", "operatingSystem": "linux", "architecture": architecture(),
        },
    })
}

/// Writes the CNI configuration as soon as the cluster has given the node a range.
fn configure_network(options: &Options, store: &Store, configured: &mut String) {
    let view = store.local();
    let own = view.state.get(&Key::new("nodes", "", &options.name));
    let range = own.and_then(|e| e.record.field("spec")).and_then(|s| s["podCIDR"].as_str().map(String::from));
    let Some(range) = range.filter(|range| range != configured) else { return };
    let list = skein_pod::cni::configuration_list(&range, &options.directory.join("addresses"));
    let path = options.cni_directory.join("10-skein.conflist");
    let write = || {
        std::fs::create_dir_all(&options.cni_directory)?;
        let temporary = path.with_extension("new");
        std::fs::write(&temporary, &list)?;
        std::fs::rename(&temporary, &path)
    };
    match write() {
        Ok(()) => *configured = range,
        Err(why) => warn!(%why, path = %path.display(), "cannot write the CNI configuration"),
    }
}

fn file(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_string()
}

/// The size of the file system that holds volumes and logs.
fn disk_kib(directory: &std::path::Path) -> u64 {
    Disk::of(directory).map_or(0, |disk| disk.capacity_bytes / 1024)
}

fn os_image() -> String {
    let release = file("/etc/os-release");
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map(|n| n.trim_matches('"').to_string()).unwrap_or_default()
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

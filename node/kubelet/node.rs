//! This machine as a Node object: registered once, its status kept true, its network configured.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};
use skein_command::Write;
use skein_object::{Key, Record, meta, registry};
use skein_pod::routes::{self, Routes};
use skein_store::Handle as Store;
use tracing::{info, warn};

use crate::cri::Runtime;
use crate::machine::memory_bytes;
use crate::{Error, Options, csi};

const INTERVAL: Duration = Duration::from_millis(500);
/// Pods that a node takes at most: kubelet's default.
const PODS_MAX: u32 = 110;

pub(crate) async fn run(options: Options, store: Store, runtime: Runtime) {
    let mut routes = Routes::new();
    let mut configured = String::new();
    let mut version = String::new();
    loop {
        if let Err(why) = keep(&options, &store, &runtime, &mut version).await {
            tracing::debug!(%why, "the Node object waits");
        }
        configure_network(&options, &store, &mut configured);
        update_routes(&options, &store, &mut routes);
        tokio::select! {
            () = options.csi.changed.notified() => {}
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

/// Registers the node where it is missing, and writes its status when it is not what is observed.
async fn keep(options: &Options, store: &Store, runtime: &Runtime, version: &mut String) -> Result<(), Error> {
    let key = Key::new("nodes", "", &options.name);
    if version.is_empty() {
        *version = runtime.version().await.unwrap_or_default();
    }
    let view = store.local();
    let Some(entry) = view.state.get(&key) else {
        // The replica may lag: only who has all may say that the node is new.
        if store.read().await?.state.get(&key).is_none() {
            store.propose(Write::create(&key, Record::from_value(&new_node(options))).into()).await?;
            info!(node = %options.name, "registered");
        }
        return Ok(());
    };
    let old = entry.record.to_value("v1", "Node", entry.revision);
    let has_range = old.pointer("/spec/podCIDR").is_some();
    let ready = has_range && runtime.network_ready().await.unwrap_or(false);
    let mut new = old.clone();
    new["status"] = status(options, &old, ready, version);
    let used = options.csi.in_use();
    if !used.is_empty() {
        new["status"]["volumesInUse"] = json!(used);
    }
    let attached = csi::attached(&view.state, &options.name);
    if !attached.is_empty() {
        new["status"]["volumesAttached"] = attached.iter().map(|name| json!({"name": name, "devicePath": ""})).collect();
    }
    if new != old {
        store.propose(Write::update(&key, entry.revision, &entry.record, &Record::from_value(&new)).into()).await?;
    }
    Ok(())
}

fn new_node(options: &Options) -> Value {
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
    node
}

fn status(options: &Options, old: &Value, ready: bool, version: &str) -> Value {
    let now = meta::time(Timestamp::now());
    let known = old.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let condition = |kind: &str, holds: bool, reason: &str, message: &str| {
        let status = if holds { "True" } else { "False" };
        let before = known.iter().find(|c| c["type"] == kind && c["status"] == status);
        let time = |field: &str| before.map_or_else(|| now.clone().into(), |c| c[field].clone());
        json!({"type": kind, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": time("lastHeartbeatTime"), "lastTransitionTime": time("lastTransitionTime")})
    };
    let pressed = |kind: &str, short: [&str; 2], enough: [&str; 2]| {
        let holds = options.pressure.holds(kind);
        let [why, what] = if holds { short } else { enough };
        condition(kind, holds, why, what)
    };
    let (why, what) = if ready {
        ("KubeletReady", "kubelet is posting ready status")
    } else {
        ("KubeletNotReady", "container runtime network not ready")
    };
    let capacity = json!({"cpu": cpus().to_string(), "memory": format!("{}Ki", memory_bytes("MemTotal").unwrap_or(0) >> 10), "pods": PODS_MAX.to_string(),
        "ephemeral-storage": format!("{}Ki", disk_kib(&options.directory))});
    json!({
        "capacity": capacity, "allocatable": capacity,
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

fn update_routes(options: &Options, store: &Store, current: &mut Routes) {
    let view = store.local();
    let mut wanted = Routes::new();
    for (key, entry) in view.state.range("nodes/", None) {
        let Some(node) = entry.record.typed::<Node>(entry.revision).filter(|_| key.name() != options.name) else { continue };
        let addresses = node.status.and_then(|s| s.addresses).unwrap_or_default();
        let address = addresses.into_iter().find(|a| a.type_ == "InternalIP").map(|a| a.address);
        if let Some((range, address)) = node.spec.and_then(|s| s.pod_cidr).zip(address) {
            wanted.insert(range, address);
        }
    }
    if wanted != *current {
        match routes::update(current, &wanted) {
            Ok(()) => *current = wanted,
            Err(why) => warn!(%why, "cannot set the routes to other nodes' Pods"),
        }
    }
}

fn file(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_string()
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The size of the file system that holds volumes and logs.
fn disk_kib(directory: &std::path::Path) -> u64 {
    nix::sys::statvfs::statvfs(directory).map_or(0, |found| found.blocks() * found.fragment_size() / 1024)
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

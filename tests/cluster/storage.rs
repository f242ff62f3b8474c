//! Storage drivers: a CSI driver in containers, with Kubernetes' own external-provisioner, external-attacher and
//! external-resizer beside it, unmodified.

use std::path::{Path, PathBuf};
use std::process::Command;

use skein_cluster_tests::{BUSYBOX, Cluster, busybox};
use skein_lab::Scope;
use skein_lab::image::{File, Image};

const DRIVER: &str = "csi.test.skein.dev";
const IMAGE: &str = "skein.test/csi:1";

/// The programs, built once.
fn programs() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../csi/build.sh");
    let built = Command::new(script).output().expect("the script can be run");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    String::from_utf8_lossy(&built.stdout).trim().into()
}

fn load_driver(cluster: &Cluster) {
    let programs = programs();
    let names = ["driver", "csi-provisioner", "csi-attacher", "csi-resizer"];
    let files: Vec<File> = names.iter().map(|name| File { source: programs.join(name), path: format!("bin/{name}") }).collect();
    let archive = cluster.directory().join("csi.tar");
    busybox(|base| {
        let files: Vec<File> = base.files.iter().cloned().chain(files).collect();
        skein_lab::image::write(&archive, &Image { name: IMAGE, entrypoint: &["/bin/sh"], files: &files, links: base.links })
    })
    .expect("the image can be written");
    cluster.lab.load(&archive).expect("the image can be loaded");
}

/// What a driver's manifests have: the CSIDriver, its controller with the sidecars, and a class. Each node's part is a set
/// of its own here, since each node of the laboratory has its kubelet's directory elsewhere.
fn driver(cluster: &Cluster) -> String {
    let data = cluster.directory().join("csi-data").display().to_string();
    let sidecar = |name: &str| {
        format!(
            "      - name: {name}\n        image: {IMAGE}\n        command: [/bin/csi-{name}, --csi-address=/csi/csi.sock, --v=2]\n        volumeMounts: [{{name: socket, mountPath: /csi}}]\n"
        )
    };
    let sidecars: String = ["provisioner", "attacher", "resizer"].map(sidecar).concat();
    let mut manifest = format!(
        "apiVersion: storage.k8s.io/v1\nkind: CSIDriver\nmetadata: {{name: {DRIVER}}}\nspec:\n  podInfoOnMount: true\n  fsGroupPolicy: File\n  volumeLifecycleModes: [Persistent, Ephemeral]\n---\n\
         apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {{name: test}}\nprovisioner: {DRIVER}\nvolumeBindingMode: WaitForFirstConsumer\nallowVolumeExpansion: true\n---\n\
         apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: csi, namespace: kube-system}}\n---\n\
         apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {{name: csi}}\nroleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}}\nsubjects: [{{kind: ServiceAccount, name: csi, namespace: kube-system}}]\n---\n\
         apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: csi-controller, namespace: kube-system}}\nspec:\n  selector: {{matchLabels: {{app: csi-controller}}}}\n  template:\n    metadata: {{labels: {{app: csi-controller}}}}\n    spec:\n      serviceAccountName: csi\n      volumes:\n      - {{name: socket, emptyDir: {{}}}}\n      - {{name: data, hostPath: {{path: {data}, type: DirectoryOrCreate}}}}\n      containers:\n      - name: driver\n        image: {IMAGE}\n        command: [/bin/driver, --endpoint=/csi/csi.sock, --data={data}]\n        volumeMounts: [{{name: socket, mountPath: /csi}}, {{name: data, mountPath: {data}}}]\n{sidecars}"
    );
    for node in ["node-1", "node-2", "node-3"] {
        let kubelet = format!("/var/lib/skein-lab/nodes/{node}/data/kubelet");
        manifest += &format!(
            "---\napiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{name: csi-{node}, namespace: kube-system}}\nspec:\n  selector: {{matchLabels: {{app: csi-{node}}}}}\n  template:\n    metadata: {{labels: {{app: csi-{node}}}}}\n    spec:\n      nodeSelector: {{kubernetes.io/hostname: {node}}}\n      volumes:\n      - {{name: kubelet, hostPath: {{path: {kubelet}, type: Directory}}}}\n      - {{name: data, hostPath: {{path: {data}, type: DirectoryOrCreate}}}}\n      containers:\n      - name: driver\n        image: {IMAGE}\n        securityContext: {{privileged: true}}\n        command: [/bin/driver, --endpoint={kubelet}/plugins/{DRIVER}/csi.sock, --register={kubelet}/plugins_registry/{DRIVER}-reg.sock, --node={node}, --data={data}]\n        volumeMounts:\n        - {{name: kubelet, mountPath: {kubelet}, mountPropagation: Bidirectional}}\n        - {{name: data, mountPath: {data}}}\n"
        );
    }
    manifest
}

fn claim(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: {name}}}\nspec:\n  accessModes: [ReadWriteOnce]\n  storageClassName: test\n  resources: {{requests: {{storage: 4Mi}}}}\n"
    )
}

fn pod(name: &str, node: &str, volume: &str, command: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  nodeSelector: {{kubernetes.io/hostname: {node}}}\n  terminationGracePeriodSeconds: 1\n  securityContext: {{fsGroup: 2000}}\n  volumes:\n  - {{name: kept, {volume}}}\n  containers:\n  - name: main\n    image: {BUSYBOX}\n    command: [sh, -c, '{command}; sleep 3600']\n    securityContext: {{runAsUser: 1000}}\n    volumeMounts: [{{name: kept, mountPath: /kept}}]\n"
    )
}

fn wait_ready(cluster: &Cluster, node: &str, pod: &str) {
    cluster.kubectl(node, &["wait", &format!("pod/{pod}"), "--for=condition=Ready", "--timeout=60s"]);
}

/// The nodes that volumes are attached to, as their objects say.
fn attached(cluster: &Cluster, node: &str) -> Vec<String> {
    let list = cluster.kubectl_json(node, &["get", "volumeattachments"]);
    let items = list["items"].as_array().cloned().unwrap_or_default();
    items
        .iter()
        .filter(|item| item["status"]["attached"] == true)
        .map(|item| item["spec"]["nodeName"].as_str().unwrap_or_default().into())
        .collect()
}

/// What is mounted below a node's kubelet for the driver's volumes.
fn mounts(node: &str) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("it can be read");
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    points.filter(|path| path.contains(&format!("/{node}/")) && path.contains("/kubernetes.io")).map(String::from).collect()
}

#[test]
fn a_drivers_volumes_follow_pods_from_node_to_node() {
    let cluster = Cluster::start();
    cluster.load_busybox();
    load_driver(&cluster);
    cluster.apply("node-1", &driver(&cluster));
    for node in ["node-1", "node-2", "node-3"] {
        cluster.until("the driver is registered", || {
            let found = cluster.kubectl_json("node-2", &["get", "csinode", node]);
            (found["spec"]["drivers"][0]["nodeID"] == node && found["spec"]["drivers"][0]["allocatable"]["count"] == 3).then_some(())
        });
    }
    cluster.kubectl("node-3", &["rollout", "status", "deployment/csi-controller", "-n", "kube-system", "--timeout=60s"]);

    // A claim waits for its Pod, and its volume is made for the node that the Pod goes to.
    cluster.apply("node-2", &claim("data"));
    assert_eq!(cluster.kubectl_json("node-2", &["get", "pvc", "data"])["status"]["phase"], "Pending");
    cluster.until("the claim says what it waits for", || {
        let told = cluster.kubectl("node-1", &["get", "events", "--field-selector=involvedObject.name=data", "-o", "jsonpath={..message}"]);
        (told == "waiting for first consumer to be created before binding").then_some(())
    });
    let data = "persistentVolumeClaim: {claimName: data}";
    cluster.apply("node-3", &pod("writer", "node-2", data, "echo from the writer > /kept/said; stat -c %g /kept/said"));
    wait_ready(&cluster, "node-1", "writer");
    assert_eq!(cluster.kubectl("node-1", &["logs", "writer"]).trim(), "2000");
    let bound = cluster.kubectl_json("node-1", &["get", "pvc", "data"]);
    assert_eq!(bound["metadata"]["annotations"]["volume.kubernetes.io/selected-node"], "node-2");
    let volume = bound["spec"]["volumeName"].as_str().expect("it has a volume").to_string();
    let node = cluster.kubectl_json("node-3", &["get", "node", "node-2"]);
    let unique = format!("kubernetes.io/csi/{DRIVER}^{volume}");
    assert_eq!(node["status"]["volumesAttached"][0]["name"], unique.as_str());
    assert_eq!(node["status"]["volumesInUse"][0], unique.as_str());
    assert_eq!(attached(&cluster, "node-1"), ["node-2"]);

    // It grows while it is used.
    cluster.kubectl("node-1", &["patch", "pvc", "data", "-p", r#"{"spec": {"resources": {"requests": {"storage": "8Mi"}}}}"#]);
    cluster.until("the claim has what it asked for", || {
        let claim = cluster.kubectl_json("node-2", &["get", "pvc", "data"]);
        (claim["status"]["capacity"]["storage"] == "8Mi" && claim["status"]["conditions"].is_null()).then_some(())
    });
    assert_eq!(cluster.kubectl("node-1", &["exec", "writer", "--", "cat", "/kept/.size"]).trim(), "8388608");

    // One node at a time: the second Pod hears why it waits, and goes on once the first has gone.
    cluster.apply("node-1", &pod("reader", "node-3", data, "cat /kept/said"));
    cluster.until("the second Pod is told", || {
        let events = cluster.kubectl("node-1", &["get", "events", "--field-selector=involvedObject.name=reader,reason=FailedAttachVolume"]);
        events.contains(&format!("Waiting for detach for volume {volume:?} Volume is already used by pod(s) writer")).then_some(())
    });
    cluster.kubectl("node-2", &["delete", "pod", "writer", "--wait=false"]);
    wait_ready(&cluster, "node-2", "reader");
    assert_eq!(cluster.kubectl("node-1", &["logs", "reader"]).trim(), "from the writer");
    assert_eq!(attached(&cluster, "node-2"), ["node-3"]);
    assert_eq!(mounts("node-2"), Vec::<String>::new());

    // A daemon that is killed finds again what is mounted, and takes it away when the Pod has gone meanwhile.
    assert_eq!(mounts("node-3").len(), 2);
    cluster.lab.kill("node-3", Scope::Daemon).expect("the daemon can be killed");
    cluster.kubectl("node-1", &["delete", "pod", "reader", "--force", "--grace-period=0", "--wait=false"]);
    cluster.lab.start("node-3").expect("the daemon can be started");
    cluster.until("nothing is mounted and attached any more", || {
        (mounts("node-3").is_empty() && attached(&cluster, "node-1").is_empty()).then_some(())
    });

    // The volume goes with its claim, and what it held with it.
    let content = cluster.directory().join("csi-data").join(&volume);
    assert!(content.join("said").exists());
    cluster.kubectl("node-2", &["delete", "pvc", "data", "--timeout=60s"]);
    cluster.until("the volume has gone", || cluster.try_kubectl("node-1", &["get", "pv", &volume]).err());
    assert!(!content.exists());

    // Volumes that live as long as a Pod: the driver's own, and a claim made for it.
    cluster.kubectl("node-1", &["create", "secret", "generic", "key", "--from-literal=key=opened"]);
    let inline = format!("csi: {{driver: {DRIVER}, volumeAttributes: {{said: words}}, nodePublishSecretRef: {{name: key}}}}");
    cluster.apply("node-2", &pod("inline", "node-1", &inline, "cat /kept/told"));
    let template = "ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce], storageClassName: test, resources: {requests: {storage: 1Mi}}}}}";
    cluster.apply("node-2", &pod("scratch", "node-2", template, "echo x > /kept/x"));
    wait_ready(&cluster, "node-3", "inline");
    wait_ready(&cluster, "node-3", "scratch");
    assert_eq!(cluster.kubectl("node-3", &["logs", "inline"]).trim(), "inline words opened");
    assert_eq!(cluster.kubectl_json("node-1", &["get", "pvc", "scratch-kept"])["status"]["phase"], "Bound");
    cluster.kubectl("node-1", &["delete", "pod", "inline", "scratch", "--timeout=60s"]);
    cluster.until("claim and volume have gone", || {
        let left = cluster.kubectl("node-1", &["get", "pvc,pv", "-o", "name"]);
        left.is_empty().then_some(())
    });
    let nodes = ["node-1", "node-2", "node-3"];
    assert!(nodes.iter().all(|node| mounts(node).is_empty()));
    a_volume_is_a_device(&cluster);
    no_more_volumes_than_a_driver_takes(&cluster);
}

fn device_pod(name: &str, node: &str, command: &str) -> String {
    let mounted = pod(name, node, "persistentVolumeClaim: {claimName: raw}", command);
    let as_device =
        mounted.replace("volumeMounts: [{name: kept, mountPath: /kept}]", "volumeDevices: [{name: kept, devicePath: /dev/kept}]");
    as_device.replace("    securityContext: {runAsUser: 1000}\n", "")
}

/// A volume of mode Block is a device in its container: what is written there is there on the next node, too.
fn a_volume_is_a_device(cluster: &Cluster) {
    cluster.apply("node-1", &format!("{}  volumeMode: Block\n", claim("raw")));
    cluster
        .apply("node-1", &device_pod("raw", "node-1", "printf words | dd of=/dev/kept conv=fsync; busybox blockdev --getsize64 /dev/kept"));
    wait_ready(cluster, "node-2", "raw");
    assert!(cluster.kubectl("node-2", &["logs", "raw"]).ends_with("4194304\n"));
    cluster.kubectl("node-1", &["patch", "pvc", "raw", "-p", r#"{"spec": {"resources": {"requests": {"storage": "8Mi"}}}}"#]);
    cluster.until("the device has grown", || {
        let size = cluster.kubectl("node-3", &["exec", "raw", "--", "busybox", "blockdev", "--getsize64", "/dev/kept"]);
        (size.trim() == "8388608").then_some(())
    });
    let wrong = pod("wrong", "node-1", "persistentVolumeClaim: {claimName: raw}", "true");
    cluster.apply("node-1", &wrong);
    cluster.until("a Pod that takes it for files is told", || {
        let state = cluster.kubectl_json("node-2", &["get", "pod", "wrong"])["status"]["containerStatuses"][0]["state"]["waiting"].clone();
        (state["message"] == "volume kept has volumeMode Block, but is specified in volumeMounts").then_some(())
    });
    cluster.kubectl("node-1", &["delete", "pod", "raw", "wrong", "--timeout=60s"]);
    cluster.apply("node-1", &device_pod("raw-again", "node-2", "dd if=/dev/kept bs=5 count=1 2>/dev/null; echo"));
    wait_ready(cluster, "node-3", "raw-again");
    assert_eq!(cluster.kubectl("node-3", &["logs", "raw-again"]).trim(), "words");
    cluster.kubectl("node-1", &["delete", "pod", "raw-again", "--timeout=60s"]);
    cluster.kubectl("node-1", &["delete", "pvc", "raw", "--timeout=60s"]);
    cluster.until("the volume has gone", || cluster.kubectl("node-1", &["get", "pv", "-o", "name"]).is_empty().then_some(()));
    for node in ["node-1", "node-2"] {
        let left = Path::new("/var/lib/skein-lab/nodes").join(node).join("data/kubelet/plugins/kubernetes.io/csi/volumeDevices/publish");
        let left: Vec<_> = std::fs::read_dir(left).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// Each node's driver takes three volumes.
fn no_more_volumes_than_a_driver_takes(cluster: &Cluster) {
    let template = "ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce], storageClassName: test, resources: {requests: {storage: 1Mi}}}}}";
    let more: String = (0..3).map(|i| format!("  - {{name: more-{i}, {template}}}\n")).collect();
    let many = pod("many", "node-1", template, "true").replace("  containers:\n", &format!("{more}  containers:\n"));
    cluster.apply("node-1", &many);
    cluster.until("the Pod is told", || {
        let conditions = cluster.kubectl_json("node-2", &["get", "pod", "many"])["status"]["conditions"].clone();
        let message = conditions[0]["message"].as_str().unwrap_or_default().to_string();
        message.contains("1 node(s) exceed max volume count").then_some(())
    });
    cluster.kubectl("node-1", &["delete", "pod", "many", "--timeout=60s"]);
}

/// The driver that is used here keeps to the specification.
#[test]
fn the_tests_own_driver_is_sane() {
    let programs = programs();
    let directory = std::env::temp_dir().join(format!("skein-csi-sanity-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a temporary directory");
    // In mounts of its own, which end with it.
    let script = r#"cd "$1"; "$0/driver" --endpoint "$1/csi.sock" --node here --data "$1/data" >driver.log 2>&1 & trap 'kill %1' EXIT
        for _ in $(seq 100); do [ -S "$1/csi.sock" ] && break; sleep 0.1; done
        timeout 120 "$0/csi-sanity" --csi.endpoint "$1/csi.sock" --csi.mountdir "$1/mount" --csi.stagingdir "$1/stage""#;
    let ran =
        Command::new("unshare").args(["-m", "bash", "-c", script]).arg(programs).arg(&directory).output().expect("unshare can be run");
    let _ = std::fs::remove_dir_all(&directory);
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{}", said.lines().rev().take(60).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n"));
}

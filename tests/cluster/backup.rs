//! Backups: taken while there is writing, checked, and restored into a cluster of other nodes.

use std::path::Path;
use std::process::{Command, Output};

use skein_cluster_tests::storage_server::{self, StorageServer};
use skein_cluster_tests::{BUSYBOX, Cluster, program};
use skein_lab::Plan;

const OBJECT: &str = "s3://backups/nightly/the cluster";
const PASSPHRASE: &str = "a passphrase of this test";

fn skein(arguments: &[&str], passphrase: &str) -> Output {
    Command::new(program()).args(arguments).env("SKEIN_PASSPHRASE", passphrase).output().expect("skein can be run")
}

/// The same, by somebody who has a key for the storage.
fn skein_with(storage: &StorageServer, secret: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program());
    command.args(arguments).env("SKEIN_PASSPHRASE", PASSPHRASE).env("AWS_ENDPOINT_URL", &storage.url);
    command.env("AWS_REGION", storage_server::REGION).env("AWS_ACCESS_KEY_ID", storage_server::KEY);
    command.env("AWS_SECRET_ACCESS_KEY", secret).output().expect("skein can be run")
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_backup_becomes_another_cluster() {
    let directory = std::env::temp_dir().join(format!("skein-backup-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let file = directory.join("cluster.backup");
    let path = file.display().to_string();
    let storage = StorageServer::start();
    let (revision, expected) = back_up(&path, &storage);

    // A damaged file and a wrong passphrase are told from a whole one.
    let verified = skein(&["backup", "verify", &path], PASSPHRASE);
    assert!(verified.status.success(), "{}", text(&verified));
    let wrong = skein(&["backup", "verify", &path], "another");
    assert!(!wrong.status.success() && text(&wrong).contains("the passphrase is wrong, or the file is damaged"), "{}", text(&wrong));
    let mut bytes = std::fs::read(&file).expect("it can be read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let damaged = directory.join("damaged.backup");
    std::fs::write(&damaged, bytes).expect("it can be written");
    let found = skein(&["backup", "verify", &damaged.display().to_string()], PASSPHRASE);
    assert!(!found.status.success() && text(&found).contains("damaged"), "{}", text(&found));

    // The first of the new nodes begins with it, the others join.
    let cluster = Cluster::build_after(&Plan::new(3), || restore(&storage, Path::new("/var/lib/skein-lab/nodes/node-1/data")));
    cluster.load_busybox();
    for node in ["node-1", "node-2", "node-3"] {
        let secret = cluster.kubectl(node, &["get", "secret", "kept", "-o", "jsonpath={.data.key}"]);
        assert_eq!(secret, expected);
    }
    cluster.kubectl("node-3", &["rollout", "status", "deployment/web", "--timeout=60s"]);
    cluster.until("every Pod is on a node that there is", || {
        let pods = cluster.kubectl_json("node-2", &["get", "pods", "-l", "app=web"]);
        let pods = pods["items"].as_array().cloned().unwrap_or_default();
        (pods.len() == 3 && pods.iter().all(|p| p["status"]["phase"] == "Running")).then_some(())
    });
    // Nobody takes an old version for a new one.
    let secret = cluster.kubectl_json("node-1", &["get", "configmaps", "--show-managed-fields=false"]);
    let now: u64 = secret["metadata"]["resourceVersion"].as_str().and_then(|v| v.parse().ok()).unwrap_or(0);
    cluster.apply("node-2", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: after}\ndata: {a: b}\n");
    let after = cluster.kubectl_json("node-3", &["get", "configmap", "after"]);
    let version: u64 = after["metadata"]["resourceVersion"].as_str().and_then(|v| v.parse().ok()).unwrap_or(0);
    assert!(version > revision + (1 << 40), "{version} of {now}");
    // And a directory that has a cluster is not overwritten.
    let again = skein(
        &["restore", &path, "--address", "198.18.0.11", "--name", "node-1", "--data-dir", "/var/lib/skein-lab/nodes/node-1/data"],
        PASSPHRASE,
    );
    assert!(!again.status.success(), "{}", text(&again));
    drop(cluster);
    let _ = std::fs::remove_dir_all(directory);
}

/// A cluster that is written to while it is backed up; the backup's revision, and a Secret that is in it.
fn back_up(path: &str, storage: &StorageServer) -> (u64, String) {
    let cluster = Cluster::start();
    cluster.load_busybox();
    cluster.kubectl("node-1", &["create", "secret", "generic", "kept", "--from-literal=key=hidden"]);
    cluster.kubectl("node-2", &["create", "deployment", "web", "--image", BUSYBOX, "--replicas=3", "--", "sleep", "3600"]);
    cluster.kubectl("node-2", &["rollout", "status", "deployment/web", "--timeout=60s"]);
    // More than is sent to storage at once.
    let value = "x".repeat(100_000);
    for number in 0..110 {
        let body = format!(r#"{{"metadata": {{"name": "large-{number}"}}, "data": {{"value": "{value}"}}}}"#);
        assert_eq!(cluster.request(1, "POST", "/api/v1/namespaces/default/configmaps", Some(&body)).0, 201);
    }
    let kubeconfig = cluster.lab.kubeconfig(None).expect("a kubeconfig").display().to_string();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let made = std::thread::scope(|scope| {
        scope.spawn(|| {
            for i in 0.. {
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                let _ = cluster.request(
                    1 + i % 3,
                    "POST",
                    "/api/v1/namespaces/default/configmaps",
                    Some(&format!(r#"{{"metadata": {{"name": "c{i}"}}}}"#)),
                );
            }
        });
        let made = skein(&["backup", "create", path, "--kubeconfig", &kubeconfig], PASSPHRASE);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        made
    });
    assert!(made.status.success(), "{}", text(&made));
    let said = text(&made);
    let revision = said.trim().rsplit(' ').next().and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{said}"));
    let without = skein(&["backup", "create", path, "--kubeconfig", &kubeconfig], "");
    assert!(text(&without).contains("give --passphrase-file FILE or set SKEIN_PASSPHRASE"), "{}", text(&without));
    // The same into storage, and not by who may not write there.
    let create = ["backup", "create", OBJECT, "--kubeconfig", &kubeconfig];
    let refused = skein_with(storage, "another secret", &create);
    assert!(text(&refused).contains("403 Forbidden: SignatureDoesNotMatch: The request signature"), "{}", text(&refused));
    let nobody = skein(&create, PASSPHRASE);
    assert!(text(&nobody).contains("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"), "{}", text(&nobody));
    let missing = skein_with(storage, storage_server::SECRET, &["backup", "verify", OBJECT]);
    assert!(text(&missing).contains("404 Not Found: NoSuchKey"), "{}", text(&missing));
    let kept = skein_with(storage, storage_server::SECRET, &create);
    assert!(kept.status.success() && text(&kept).starts_with(OBJECT), "{}", text(&kept));
    let object = storage.object("/backups/nightly/the%20cluster").expect("the object is there");
    assert!(object.len() > 10 << 20 && storage.parts() == 0, "{} bytes, sent in parts", object.len());
    assert!(object.starts_with(b"SKEIN-BACKUP 1\n") && !object.windows(6).any(|bytes| bytes == b"hidden"), "it is sealed");
    (revision, cluster.kubectl("node-3", &["get", "secret", "kept", "-o", "jsonpath={.data.key}"]))
}

fn restore(storage: &StorageServer, directory: &Path) {
    let directory = directory.display().to_string();
    let arguments = ["restore", OBJECT, "--address", "198.18.0.11", "--name", "node-1", "--data-dir", &directory];
    let done = skein_with(storage, storage_server::SECRET, &arguments);
    assert!(done.status.success(), "{}", text(&done));
}

//! Secrets: open to whom they are for, on every node, and to nobody who reads a disk.

use std::path::Path;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use skein_cluster_tests::{BUSYBOX, Cluster};
use skein_lab::Scope;

const NODES: &str = "/var/lib/skein-lab/nodes";
const SECRET: &str = "/api/v1/namespaces/default/secrets/kept";

/// Files on the nodes' disks in which a text is found, as it is or in base64.
fn files_with(text: &str) -> Vec<String> {
    let encoded = STANDARD.encode(text);
    // The last character of base64 depends on what follows.
    let encoded = &encoded.trim_end_matches('=')[..text.len()];
    let search = format!("find {NODES} -xdev -type f -print0 | xargs -0 grep -laF -e {text} -e {encoded}");
    let found = Command::new("sh").args(["-c", &search]).output().expect("sh can be run");
    String::from_utf8_lossy(&found.stdout).lines().map(String::from).collect()
}

#[test]
fn secrets_rest_sealed_and_are_open_on_every_node() {
    let cluster = Cluster::with_nodes(4);
    cluster.load_busybox();
    let replica = cluster.until("three vote and one does not", || {
        let status = cluster.status("node-1");
        let nodes = status["nodes"].as_array()?.clone();
        let others: Vec<_> = nodes.iter().filter(|node| !["leader", "voter"].iter().any(|role| node["role"] == *role)).collect();
        let voting = nodes.len() - others.len();
        (nodes.len() == 4 && voting == 3).then(|| others[0]["name"].as_str().unwrap_or_default().to_string())
    });
    let (hidden, plain) = ("what-nobody-reads-on-a-disk", "what-everybody-may-read-there");
    cluster.kubectl(&replica, &["create", "secret", "generic", "kept", &format!("--from-literal=key={hidden}")]);
    cluster.kubectl("node-2", &["create", "configmap", "open", &format!("--from-literal=key={plain}")]);
    let read = |node: &str| cluster.kubectl(node, &["get", "secret", "kept", "-o", "go-template={{.data.key | base64decode}}"]);
    for node in ["node-1", "node-2", "node-3", "node-4"] {
        assert_eq!(read(node), hidden);
        let listed = cluster.kubectl(node, &["get", "secrets"]);
        assert!(listed.lines().any(|line| line.split_whitespace().take(3).eq(["kept", "Opaque", "1"])), "{listed}");
    }
    // Changes of other fields, of the content, and watches see it whole.
    cluster.kubectl("node-1", &["label", "secret", "kept", "a=b"]);
    cluster.kubectl(&replica, &["patch", "secret", "kept", "-p", r#"{"stringData": {"more": "x"}}"#]);
    let seen = cluster.watch(1, "/api/v1/namespaces/default/secrets?watch=1&timeoutSeconds=2&fieldSelector=metadata.name%3Dkept");
    let seen = seen.join().expect("the watch ends");
    assert_eq!(seen[0]["object"]["data"]["key"], STANDARD.encode(hidden), "{seen:?}");
    assert_eq!(seen[0]["object"]["data"]["more"], STANDARD.encode("x"), "{seen:?}");

    // A Pod beside no voter reads it from memory.
    cluster.apply("node-1", &format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: reader}}\nspec:\n  nodeName: {replica}\n  volumes:\n  - {{name: kept, secret: {{secretName: kept}}}}\n  containers:\n  - name: main\n    image: {BUSYBOX}\n    command: [sh, -c, 'sha256sum < /kept/key; grep \" /kept \" /proc/mounts; sleep 3600']\n    volumeMounts: [{{name: kept, mountPath: /kept}}]\n"
    ));
    cluster.kubectl("node-2", &["wait", "pod/reader", "--for=condition=Ready", "--timeout=60s"]);
    let sum = Command::new("sh").args(["-c", &format!("printf %s {hidden} | sha256sum")]).output().expect("sha256sum can be run");
    let logs = cluster.until("it has read it", || {
        let logs = cluster.kubectl("node-3", &["logs", "reader"]);
        (logs.lines().count() == 2).then_some(logs)
    });
    assert_eq!(logs.lines().next(), String::from_utf8_lossy(&sum.stdout).lines().next());
    assert!(logs.contains("tmpfs /kept"), "{logs}");

    // Everything is in the logs of all nodes, and nothing of it can be read there.
    for node in ["node-1", "node-2", "node-3", "node-4"] {
        let found = cluster.until("the log has what is no secret", || {
            let found = files_with(plain);
            found.iter().any(|file| file.starts_with(&format!("{NODES}/{node}/data/log"))).then_some(found)
        });
        assert!(!found.is_empty());
    }
    assert_eq!(files_with(hidden), Vec::<String>::new());

    // Without a key at rest it is given one again, and one that has become a voter has its own.
    let own_key = format!("{NODES}/{replica}/data/pki/ca.key");
    cluster.lab.kill(&replica, Scope::Daemon).expect("the daemon can be killed");
    // It may have been given one for a vote that another got.
    let _ = std::fs::remove_file(&own_key);
    cluster.lab.start(&replica).expect("the daemon can be started");
    let index = replica.rsplit('-').next().and_then(|n| n.parse().ok()).expect("a number");
    cluster.until("it opens Secrets again", || (cluster.request(index, "GET", SECRET, None).0 == 200).then_some(()));
    assert_eq!(read(&replica), hidden);
    let lost = cluster.leader(&replica);
    cluster.lab.kill(&lost, Scope::Machine).expect("the machine can be killed");
    cluster.until("it votes", || Path::new(&own_key).exists().then_some(()));
    cluster.until("it still opens them", || (cluster.request(index, "GET", SECRET, None).0 == 200).then_some(()));
}

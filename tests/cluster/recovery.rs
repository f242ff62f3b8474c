//! A majority of the voters is gone for good, and the cluster goes on from one that is left.

use std::process::Command;
use std::time::Duration;

use skein_cluster_tests::{BUSYBOX, Cluster, program, until};
use skein_lab::Scope;

fn data(node: &str) -> String {
    format!("/var/lib/skein-lab/nodes/{node}/data")
}

/// `skein recover` on the first node's machine: whether it succeeded, and what it said.
fn recover(arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", "skein-node-1"]).arg(program()).args(["recover", "--data-dir", &data("node-1")]).args(arguments);
    let output = command.output().expect("skein can be run");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success(), text)
}

#[test]
fn a_quorum_is_forced_once_and_those_who_come_back_are_told() {
    let cluster = Cluster::start();
    cluster.load_busybox();
    cluster.kubectl("node-2", &["create", "configmap", "before", "--from-literal=a=b"]);
    cluster.apply(
        "node-3",
        &format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: stays}}\nspec:\n  nodeName: node-1\n  containers: [{{name: c, image: \"{BUSYBOX}\", command: [sleep, \"3600\"]}}]\n"
        ),
    );
    let started = |node: &str| {
        let pod =
            cluster.try_kubectl(node, &["get", "pod", "stays", "-o", "jsonpath={.status.containerStatuses[0].state.running.startedAt}"]);
        pod.ok().filter(|time| !time.is_empty())
    };
    let since = cluster.until("the Pod runs", || started("node-1"));
    let version = |node: &str| -> Option<u64> {
        let text = cluster.try_kubectl(node, &["get", "--raw", "/api/v1/namespaces/default/configmaps"]).ok()?;
        serde_json::from_str::<serde_json::Value>(&text).ok()?["metadata"]["resourceVersion"].as_str()?.parse().ok()
    };
    let before = version("node-1").expect("a version");

    let (done, said) = recover(&["--force-quorum"]);
    assert!(!done && said.contains("is its daemon still running? Stop it first"), "{said}");
    for (node, scope) in [("node-2", Scope::Daemon), ("node-3", Scope::Machine), ("node-1", Scope::Daemon)] {
        cluster.lab.kill(node, scope).expect("it can be killed");
    }
    // A majority that is there is not overruled.
    cluster.lab.start("node-2").expect("it can be started");
    let (done, said) = until("the second node answers", Duration::from_secs(30), || {
        Some(recover(&["--force-quorum"])).filter(|(_, said)| said.contains("reachable"))
    });
    assert!(!done && said.contains("a majority of the voters is there"), "{said}");
    cluster.lab.kill("node-2", Scope::Daemon).expect("it can be killed");
    let (done, said) = recover(&[]);
    assert!(!done && said.contains("A majority cannot be reached") && said.matches("cannot be reached").count() == 3, "{said}");

    let (done, said) = recover(&["--force-quorum"]);
    assert!(done && said.contains("epoch 1 begins with node node-1"), "{said}");
    cluster.lab.start("node-1").expect("it can be started");
    cluster
        .until("the cluster takes writes", || cluster.try_kubectl("node-1", &["create", "configmap", "after", "--from-literal=a=b"]).ok());
    assert_eq!(cluster.kubectl("node-1", &["get", "configmap", "before", "-o", "jsonpath={.data.a}"]), "b");
    assert!(version("node-1") > Some(before + (1 << 40)), "no client takes an old version for a new one");
    assert_eq!(cluster.until("the Pod is seen", || started("node-1")), since, "the Pod has run on");

    // Together the other two are a majority of the old voters; but they meet the first, and stop.
    for node in ["node-2", "node-3"] {
        cluster.lab.start(node).expect("it can be started");
    }
    for node in ["node-2", "node-3"] {
        let log = format!("/var/lib/skein-lab/nodes/{node}/daemon.log");
        cluster.until("it says why it stops", || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            text.contains("this cluster was recovered without this node and is in epoch 1 now").then_some(())
        });
        cluster.until("it has stopped", || Cluster::processes(node, &["skein up"]).is_empty().then_some(()));
    }
    cluster.kubectl("node-1", &["create", "configmap", "alone", "--from-literal=a=b"]);

    // With an empty directory they are welcome, under their old names.
    for node in ["node-2", "node-3"] {
        std::fs::rename(data(node), format!("{}.old", data(node))).expect("it can be moved");
        cluster.lab.start(node).expect("it can be started");
    }
    cluster.until("three vote again", || {
        let status = cluster.status("node-1");
        let nodes = status["nodes"].as_array()?.clone();
        (nodes.len() == 3 && nodes.iter().all(|n| n["ready"] == true && n["role"] != "standby")).then_some(())
    });
    assert_eq!(cluster.kubectl("node-3", &["get", "configmap", "before", "-o", "jsonpath={.data.a}"]), "b");
    cluster.lab.kill("node-1", Scope::Machine).expect("it can be killed");
    cluster
        .until("the new voters can write", || cluster.try_kubectl("node-2", &["create", "configmap", "last", "--from-literal=a=b"]).ok());
}

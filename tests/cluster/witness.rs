//! Two nodes and a witness, which votes and keeps no state: any one of the three may be lost.

use std::path::Path;
use std::process::Command;

use skein_cluster_tests::{Cluster, program};
use skein_lab::{Plan, Scope};

const WITNESS: &str = "node-3";

fn data(node: &str) -> String {
    format!("/var/lib/skein-lab/nodes/{node}/data")
}

fn role(cluster: &Cluster, asked: &str, node: &str) -> Option<String> {
    let status = cluster.status(asked);
    let found = status["nodes"].as_array()?.iter().find(|known| known["name"] == node)?.clone();
    found["role"].as_str().map(String::from)
}

fn write(cluster: &Cluster, node: &str, name: &str) {
    cluster.until(&format!("{node} takes {name}"), || {
        let found = cluster.try_kubectl(node, &["get", "configmap", name, "-o", "name"]);
        found.or_else(|_| cluster.try_kubectl(node, &["create", "configmap", name])).ok()
    });
}

#[test]
fn any_one_of_two_nodes_and_a_witness_may_be_lost() {
    let cluster = Cluster::build(&Plan { witness: true, ..Plan::new(3) });
    assert_eq!(cluster.kubectl("node-1", &["get", "nodes", "-o", "name"]).lines().count(), 2, "a witness is no Node");
    assert_eq!(role(&cluster, "node-2", WITNESS).as_deref(), Some("witness"));
    assert!(!Path::new(&data(WITNESS)).join("pki/ca.key").exists(), "it votes without the cluster's keys");

    // The witness, and each of the others in turn.
    write(&cluster, "node-2", "all");
    for lost in [WITNESS, "node-1", "node-2"] {
        cluster.lab.kill(lost, Scope::Machine).expect("it can be killed");
        let left: Vec<&str> = ["node-1", "node-2"].into_iter().filter(|node| *node != lost).collect();
        left.iter().for_each(|node| write(&cluster, node, &format!("without-{lost}")));
        cluster.lab.start(lost).expect("it can be started");
        cluster.until("it has caught up", || {
            let status = cluster.status(left[0]);
            let leader = status["leader"].as_str()?.to_string();
            let status = cluster.status(&leader);
            status["nodes"].as_array()?.iter().all(|node| node["lag"] == 0).then_some(())
        });
    }

    // What only the leader and the witness have is not lost with the leader.
    let leader = cluster.leader("node-1");
    let follower = if leader == "node-1" { "node-2" } else { "node-1" };
    cluster.lab.pause(follower, Scope::Daemon).expect("it can be paused");
    write(&cluster, &leader, "known-to-two");
    cluster.lab.kill(&leader, Scope::Machine).expect("it can be killed");
    cluster.lab.resume(follower, Scope::Daemon).expect("it can go on");
    let found =
        cluster.until("the follower answers", || cluster.try_kubectl(follower, &["get", "configmap", "known-to-two", "-o", "name"]).ok());
    assert_eq!(found.trim(), "configmap/known-to-two");
    assert_eq!(cluster.leader(follower), follower, "a witness does not go on leading");
    cluster.lab.start(&leader).expect("it can be started");

    // It follows a change of the cluster's CA, which waits for it as for every live node.
    let step = |step: &str| {
        let output =
            Command::new(program()).args(["ca", step, "--kubeconfig"]).arg(cluster.kubeconfig()).output().expect("skein can be run");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let trusted = || std::fs::read_to_string(Path::new(&data(WITNESS)).join("pki/ca.crt")).unwrap_or_default().matches("BEGIN").count();
    cluster.until("all are well", || {
        let status = cluster.status(follower);
        status["nodes"].as_array()?.iter().all(|node| node["ready"] != false && node["lag"] == 0).then_some(())
    });
    step("rotate");
    assert_eq!(trusted(), 2);
    cluster.lab.write_kubeconfigs().expect("nodes that vote have the administrator's");
    step("retire");
    cluster.until("the witness trusts the new one alone", || (trusted() == 1).then_some(()));
    cluster.lab.kill(WITNESS, Scope::Daemon).expect("it can be killed");
    cluster.lab.start(WITNESS).expect("it can be started");
    cluster.lab.kill("node-2", Scope::Machine).expect("it can be killed");
    write(&cluster, "node-1", "after");

    // It has nothing that a cluster could be recovered from, and stays what it is.
    cluster.lab.kill(WITNESS, Scope::Daemon).expect("it can be killed");
    let refused = |arguments: &[&str]| {
        let output = Command::new(program()).args(arguments).args(["--data-dir", &data(WITNESS)]).output().expect("skein can be run");
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = refused(&["recover", "--force-quorum"]);
    assert!(said.contains("this node is a witness, which keeps no state: recover from one of the others"), "{said}");
    let said = refused(&["up", "--name", WITNESS, "--address", "198.18.0.13"]);
    assert!(said.contains("belongs to a witness: start it with --witness"), "{said}");
}

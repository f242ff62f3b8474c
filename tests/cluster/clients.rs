//! Other clients than kubectl, and operators, each through every node: `tests/clients`.

use std::path::Path;
use std::process::Command;

use skein_cluster_tests::{BUSYBOX, Cluster};

/// A client's name, and how it is run. They are built where they are missing.
fn clients() -> Vec<(String, Vec<String>)> {
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("../clients/build.sh");
    let output = Command::new(build).output().expect("the script can be run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let words = text.lines().map(|line| line.split(' ').map(String::from));
    words.map(|mut words| (words.next().expect("a name"), words.collect())).collect()
}

fn run(cluster: &Cluster, name: &str, command: &[String], node: &str) {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conformance/objects.json");
    let output = Command::new("timeout")
        .arg("120")
        .args(command)
        .arg(cluster.kubeconfig())
        .args([node, BUSYBOX])
        .arg(&samples)
        .output()
        .expect("it can be run");
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success(), "{name}, {node}: {}{}", said[0], said[1]);
    cluster.kubectl(node, &["delete", "namespace", &format!("{name}-client")]);
}

/// Three rounds, all clients at once in each, and each through another node than in the round before.
#[test]
fn clients_of_all_kinds_find_nothing_missing_at_any_node() {
    let clients = clients();
    assert_eq!(clients.len(), 7);
    let cluster = &Cluster::start();
    cluster.load_busybox();
    for round in 0..3 {
        std::thread::scope(|scope| {
            for (index, (name, command)) in clients.iter().enumerate() {
                scope.spawn(move || run(cluster, name, command, &format!("node-{}", 1 + (index + round) % 3)));
            }
        });
    }
}

//! Other clients than kubectl, each through every node: `tests/clients`.

use std::path::Path;
use std::process::Command;

use skein_cluster_tests::{BUSYBOX, Cluster};

/// The programs, which are built where they are missing.
fn programs() -> (String, String) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../clients");
    let output = Command::new(folder.join("build.sh")).output().expect("the script can be run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut lines = text.lines().map(String::from);
    (lines.next().expect("a path"), lines.next().expect("a second path"))
}

fn runs(command: &mut Command) {
    let output = command.output().expect("it can be run");
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success(), "{}{}", said[0], said[1]);
}

#[test]
fn typed_clients_speak_protobuf() {
    let (program, _) = programs();
    let cluster = Cluster::start();
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conformance/objects.json");
    for node in ["node-1", "node-2", "node-3"] {
        runs(Command::new(&program).arg(cluster.kubeconfig()).arg(node).arg(&samples));
        cluster.kubectl(node, &["delete", "namespace", "conformance"]);
    }
}

#[test]
fn the_python_client_finds_nothing_missing() {
    let (_, python) = programs();
    let cluster = Cluster::start();
    cluster.load_busybox();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../clients/python/client.py");
    for node in ["node-1", "node-2", "node-3"] {
        runs(Command::new(&python).arg(&script).arg(cluster.kubeconfig()).args([node, BUSYBOX]));
        cluster.kubectl(node, &["delete", "namespace", "python-client"]);
    }
}

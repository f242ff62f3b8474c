//! Other clients than kubectl, each through every node: `tests/clients`.

use std::path::Path;
use std::process::Command;

use skein_cluster_tests::{BUSYBOX, Cluster};

/// A language, and how the client in it is run. They are built where they are missing.
fn clients() -> Vec<(String, Vec<String>)> {
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("../clients/build.sh");
    let output = Command::new(build).output().expect("the script can be run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let words = text.lines().map(|line| line.split(' ').map(String::from));
    words.map(|mut words| (words.next().expect("a language"), words.collect())).collect()
}

#[test]
fn clients_in_other_languages_find_nothing_missing() {
    let clients = clients();
    assert_eq!(clients.len(), 4);
    let cluster = Cluster::start();
    cluster.load_busybox();
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conformance/objects.json");
    for (language, command) in clients {
        for node in ["node-1", "node-2", "node-3"] {
            let output = Command::new("timeout")
                .arg("120")
                .args(&command)
                .arg(cluster.kubeconfig())
                .args([node, BUSYBOX])
                .arg(&samples)
                .output()
                .expect("it can be run");
            let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
            assert!(output.status.success(), "{language}, {node}: {}{}", said[0], said[1]);
            cluster.kubectl(node, &["delete", "namespace", &format!("{language}-client")]);
        }
    }
}

//! Nodes that share no link: Pods reach each other through tunnels, and the world outside under their node's address.

use std::io::{Read, Write};
use std::net::TcpListener;

use skein_cluster_tests::{BUSYBOX, Cluster};
use skein_lab::Plan;

/// More than one packet takes, whatever carries it.
const LARGE_BYTES: usize = 200_000;

fn web() -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: web}}
spec:
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: {BUSYBOX}
        command: [sh, -c, "mkdir /www; hostname > /www/index.html; head -c {LARGE_BYTES} /dev/zero > /www/large; exec httpd -f -v -p 8080 -h /www"]
        readinessProbe: {{httpGet: {{path: /, port: 8080}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{type: NodePort, selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080, nodePort: 30080}}]}}
"#
    )
}

/// Tells each client, one after the other, the address that it comes from.
fn mirror() -> String {
    let listener = TcpListener::bind("198.18.0.1:0").expect("the laboratory's bridge has this address");
    let address = listener.local_addr().expect("it is bound").to_string();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let from = client.peer_addr().map(|peer| peer.ip().to_string()).unwrap_or_default();
            let _ = client.read(&mut [0; 1024]);
            let _ = write!(client, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{from}", from.len());
        }
    });
    address
}

/// A Pod on each node: its name and its address.
fn pods(cluster: &Cluster) -> Vec<(String, String)> {
    let of = |node: usize| {
        let select = format!("spec.nodeName=node-{node}");
        let path = "jsonpath={.items[0].metadata.name} {.items[0].status.podIP}";
        let found = cluster.kubectl("node-1", &["get", "pods", "-l", "app=web", "--field-selector", &select, "-o", path]);
        found.split_once(' ').map(|(name, address)| (name.to_string(), address.to_string())).expect("each node has one")
    };
    (1..=3).map(of).collect()
}

#[test]
fn pods_reach_each_other_and_the_world_where_nodes_share_no_link() {
    let cluster = Cluster::build(&Plan { routed: true, ..Plan::new(3) });
    cluster.load_busybox();
    cluster.apply("node-1", &web());
    cluster.kubectl("node-2", &["rollout", "status", "daemonset/web", "--timeout=60s"]);
    let pods = pods(&cluster);
    let get = |from: &str, url: &str| {
        cluster.until(url, || cluster.try_kubectl("node-3", &["exec", from, "--", "busybox", "timeout", "3", "wget", "-qO-", url]).ok())
    };

    // From each to each, in packets of any size, under their own addresses.
    for (from, source) in &pods {
        for (to, address) in &pods {
            assert_eq!(get(from, &format!("http://{address}:8080/")).trim(), to);
            assert_eq!(get(from, &format!("http://{address}:8080/large")).len(), LARGE_BYTES);
            let log = cluster.kubectl("node-2", &["logs", to]);
            assert!(log.contains(source.as_str()), "{to} has seen {source}: {log}");
        }
        let named = get(from, "http://web.default.svc.cluster.local/");
        assert!(pods.iter().any(|(name, _)| name == named.trim()), "{named}");
    }
    // Nodes reach Pods of other nodes: every node's port leads to all of them.
    for node in 1..=3 {
        let url = format!("http://{}:30080/", Cluster::address(node));
        let answers = (0..12).map(|_| {
            let output = std::process::Command::new("curl").args(["-sS", "--max-time", "5", &url]).output().expect("curl can be run");
            String::from_utf8_lossy(&output.stdout).trim().to_string()
        });
        let answers: std::collections::BTreeSet<String> = answers.collect();
        assert_eq!(answers.len(), 3, "node-{node} leads to {answers:?}");
    }
    // Nobody outside knows a Pod's address.
    let outside = mirror();
    for (at, (from, _)) in pods.iter().enumerate() {
        assert_eq!(get(from, &format!("http://{outside}/")), Cluster::address(at + 1));
    }
    // Without a link there is none to be cut, but a way.
    cluster.lab.partition("node-1/node-2,node-3").expect("it can be cut");
    let lost = |from: usize, to: usize| {
        let url = format!("http://{}:8080/", pods[to].1);
        cluster.try_kubectl("node-3", &["exec", &pods[from].0, "--", "busybox", "timeout", "1", "wget", "-qO-", &url]).is_err()
    };
    assert!(lost(1, 0) && !lost(1, 2));
    cluster.lab.heal().expect("it can be healed");
    get(&pods[1].0, &format!("http://{}:8080/", pods[0].1));
}

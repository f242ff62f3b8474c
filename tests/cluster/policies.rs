//! NetworkPolicies: who reaches whom, between Pods on different nodes.

use skein_cluster_tests::{BUSYBOX, Cluster};
use skein_lab::Runtime;

skein_cluster_tests::on_both_runtimes!(policies_say_who_reaches_whom);

fn pod(name: &str, role: &str, node: &str, command: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{role: {role}}}}}
spec:
  terminationGracePeriodSeconds: 1
  restartPolicy: Never
  nodeSelector: {{kubernetes.io/hostname: {node}}}
  containers:
  - name: c
    image: "{BUSYBOX}"
    command: [sh, -c, "{command}"]
    ports: [{{name: http, containerPort: 80}}]
---
"#
    )
}

fn policies_say_who_reaches_whom(runtime: Runtime) {
    let cluster = Cluster::with_runtime(runtime, &[]);
    cluster.load_busybox();
    let serve = "mkdir -p /www; echo hello > /www/index.html; exec httpd -f -p 80 -h /www";
    let pods = [
        pod("web", "web", "node-2", serve),
        pod("friend", "friend", "node-1", "sleep 3600"),
        pod("stranger", "stranger", "node-3", "sleep 3600"),
    ];
    cluster.apply("node-1", &pods.concat());
    cluster.apply(
        "node-1",
        r#"
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {role: web}, ports: [{port: 8080, targetPort: http}]}
"#,
    );
    cluster.kubectl("node-2", &["wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s"]);
    let address = cluster.kubectl("node-3", &["get", "pod", "web", "-o", "jsonpath={.status.podIP}"]);
    let reaches = |from: &str, url: &str| {
        cluster.try_kubectl("node-1", &["exec", from, "--", "busybox", "timeout", "1", "wget", "-qO-", url]).is_ok()
    };
    let direct = format!("http://{address}/");
    let both = |expected: (bool, bool), what: &str| {
        cluster.until(what, || {
            let found = (reaches("friend", &direct), reaches("stranger", &direct));
            (found == expected).then_some(())
        });
    };
    both((true, true), "nothing is confined");

    cluster.apply(
        "node-3",
        r#"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny}
spec: {podSelector: {}, policyTypes: [Ingress]}
"#,
    );
    both((false, false), "everything is denied");

    cluster.apply(
        "node-1",
        r#"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: friends}
spec:
  podSelector: {matchLabels: {role: web}}
  ingress:
  - from: [{podSelector: {matchLabels: {role: friend}}}]
    ports: [{port: http}]
"#,
    );
    both((true, false), "friends are let in");
    assert!(reaches("friend", "http://web:8080/"), "through the Service as well");
    assert!(!reaches("stranger", "http://web:8080/"));
    // The kubelet's own way in stays open.
    assert_eq!(cluster.kubectl("node-3", &["exec", "web", "--", "cat", "/www/index.html"]).trim(), "hello");
    // Who becomes a friend is one.
    cluster.kubectl("node-2", &["label", "pod", "stranger", "role=friend", "--overwrite"]);
    both((true, true), "a stranger became a friend");

    // A Pod that may not go out does not, from its first packet on.
    cluster.apply(
        "node-2",
        r#"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: locked}
spec:
  podSelector: {matchLabels: {locked: "yes"}}
  policyTypes: [Egress]
  egress: [{to: [{ipBlock: {cidr: 203.0.113.0/24}}]}]
"#,
    );
    let knock = format!("for i in 1 2 3; do busybox timeout 1 wget -qO- {direct} && echo reached; done; echo tried");
    let locked = pod("locked", "friend", "node-1", &knock).replace("{role: friend}", "{role: friend, locked: \\\"yes\\\"}");
    cluster.apply("node-3", &locked.replace("\\\"", "\""));
    let free = pod("free", "friend", "node-3", &knock);
    cluster.apply("node-3", &free);
    let said = |name: &str| {
        cluster.until("it has tried", || {
            let log = cluster.try_kubectl("node-2", &["logs", name]).unwrap_or_default();
            log.contains("tried").then_some(log)
        })
    };
    assert!(!said("locked").contains("reached"), "{}", said("locked"));
    assert!(said("free").contains("reached"), "{}", said("free"));

    cluster.kubectl("node-1", &["delete", "networkpolicy", "--all"]);
    cluster.kubectl("node-2", &["label", "pod", "stranger", "role=stranger", "--overwrite"]);
    both((true, true), "nothing is confined any more");
}

//! Where Pods go, what they may take, and how many there are: the scheduler, quotas and autoscalers on a real cluster.

use std::process::{Command, Stdio};

use skein_cluster_tests::{BUSYBOX, Cluster};

/// A Pod that nothing can run: it only takes of quotas.
fn idle(namespace: &str, name: &str) -> String {
    format!(
        r#"{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "{name}", "namespace": "{namespace}"}},
            "spec": {{"nodeSelector": {{"no": "where"}}, "containers": [{{"name": "c", "image": "{BUSYBOX}"}}]}}}}"#
    )
}

fn used(cluster: &Cluster, namespace: &str, amount: &str) {
    cluster.until("the quota is counted", || {
        let quota = cluster.kubectl_json("node-2", &["get", "quota", "q", "-n", namespace]);
        (quota.pointer("/status/used/pods").and_then(|used| used.as_str()) == Some(amount)).then_some(())
    });
}

#[test]
fn a_quota_holds_whichever_node_is_asked() {
    let cluster = Cluster::start();
    cluster.kubectl("node-1", &["create", "namespace", "n"]);
    cluster.kubectl("node-1", &["create", "quota", "q", "-n", "n", "--hard=pods=5"]);
    used(&cluster, "n", "0");
    let [ca, certificate, key] = cluster.credentials();
    let creations: Vec<_> = (0..30)
        .map(|i| {
            let url = format!("https://{}:6443/api/v1/namespaces/n/pods", Cluster::address(1 + i % 3));
            Command::new("curl")
                .args(["-sS", "--max-time", "20", "-w", "\n%{http_code}", "--cacert"])
                .arg(&ca)
                .arg("--cert")
                .arg(&certificate)
                .arg("--key")
                .arg(&key)
                .args(["-H", "Content-Type: application/json", "--data-binary", &idle("n", &format!("p{i}")), &url])
                .stdout(Stdio::piped())
                .spawn()
                .expect("curl can be run")
        })
        .collect();
    let answers: Vec<String> =
        creations.into_iter().map(|c| String::from_utf8_lossy(&c.wait_with_output().expect("curl ends").stdout).into_owned()).collect();
    let codes = |code: &str| answers.iter().filter(|a| a.ends_with(code)).count();
    assert_eq!((codes("\n201"), codes("\n403")), (5, 25), "{answers:?}");
    let why = "exceeded quota: q, requested: pods=1, used: pods=5, limited: pods=5";
    assert!(answers.iter().filter(|a| a.ends_with("\n403")).all(|a| a.contains(why)), "{answers:?}");
    // What is given back can be taken again.
    let pods = cluster.kubectl("node-3", &["get", "pods", "-n", "n", "-o", "name"]);
    cluster.kubectl("node-3", &["delete", "-n", "n", "--force", pods.lines().next().unwrap_or_default()]);
    used(&cluster, "n", "4");
    cluster.apply("node-1", &idle("n", "again"));
    used(&cluster, "n", "5");

    // A controller gets no more either, and says why.
    cluster.kubectl("node-1", &["create", "namespace", "m"]);
    cluster.kubectl("node-1", &["create", "quota", "q", "-n", "m", "--hard=pods=3"]);
    used(&cluster, "m", "0");
    cluster.kubectl("node-2", &["create", "deployment", "web", "-n", "m", "--image", BUSYBOX, "--replicas=8"]);
    used(&cluster, "m", "3");
    cluster.until("the ReplicaSet says what it lacks", || {
        let sets = cluster.kubectl_json("node-3", &["get", "rs", "-n", "m"]);
        let conditions = sets.pointer("/items/0/status/conditions").and_then(|c| c.as_array()).cloned().unwrap_or_default();
        let failure = conditions.iter().find(|c| c["type"] == "ReplicaFailure")?;
        failure["message"].as_str()?.contains("exceeded quota: q").then_some(())
    });
    assert_eq!(cluster.kubectl("node-1", &["get", "pods", "-n", "m", "-o", "name"]).lines().count(), 3);
    let events = cluster.kubectl("node-1", &["get", "events", "-n", "m", "--field-selector", "reason=FailedCreate"]);
    assert!(events.contains("exceeded quota"), "{events}");
}

fn sleeper(name: &str, spec: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  terminationGracePeriodSeconds: 1
  {spec}
"#
    )
}

#[test]
fn pods_keep_apart_wait_at_gates_and_make_room() {
    let cluster = Cluster::start();
    cluster.load_busybox();
    cluster.apply(
        "node-1",
        &format!(
            r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: apart}}
spec:
  replicas: 4
  selector: {{matchLabels: {{app: apart}}}}
  template:
    metadata: {{labels: {{app: apart}}}}
    spec:
      terminationGracePeriodSeconds: 1
      affinity:
        podAntiAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
          - {{topologyKey: kubernetes.io/hostname, labelSelector: {{matchLabels: {{app: apart}}}}}}
      containers: [{{name: c, image: "{BUSYBOX}", command: [sleep, "3600"]}}]
"#
        ),
    );
    let why = "0/3 nodes are available: 3 node(s) didn't match pod anti-affinity rules. preemption: 0/3 nodes are available: \
        3 No preemption victims found for incoming pod.";
    cluster.until("three run apart and the fourth says why it does not", || {
        let pods = cluster.kubectl_json("node-2", &["get", "pods", "-l", "app=apart"]);
        let pods = pods["items"].as_array().cloned().unwrap_or_default();
        let mut nodes: Vec<&str> = pods.iter().filter_map(|p| p.pointer("/spec/nodeName")?.as_str()).collect();
        nodes.sort_unstable();
        let told = pods.iter().filter_map(|p| p.pointer("/status/conditions")?.as_array()).flatten().any(|c| c["message"] == why);
        (nodes == ["node-1", "node-2", "node-3"] && told).then_some(())
    });
    cluster.kubectl("node-1", &["delete", "deployment", "apart"]);

    let container = |resources: &str| format!("containers: [{{name: c, image: \"{BUSYBOX}\", command: [sleep, \"3600\"]{resources}}}]");
    cluster.apply("node-2", &sleeper("gated", &format!("schedulingGates: [{{name: example.com/wait}}]\n  {}", container(""))));
    assert!(cluster.kubectl("node-3", &["get", "pod", "gated"]).contains("SchedulingGated"));
    cluster.kubectl("node-1", &["patch", "pod", "gated", "--type=json", "-p", r#"[{"op": "remove", "path": "/spec/schedulingGates"}]"#]);
    cluster.kubectl("node-1", &["wait", "--for=condition=Ready", "pod/gated", "--timeout=60s"]);

    // Every node is nearly full; who matters more gets the place of one who matters less.
    let nodes = cluster.kubectl_json("node-1", &["get", "nodes"]);
    let cpus: u64 = nodes.pointer("/items/0/status/allocatable/cpu").and_then(|c| c.as_str()).and_then(|c| c.parse().ok()).expect("cpus");
    let most = format!(", resources: {{requests: {{cpu: {}m}}}}", cpus * 1000 - 400);
    for i in 0..3 {
        cluster.apply("node-2", &sleeper(&format!("meek-{i}"), &container(&most)));
        cluster.kubectl("node-2", &["wait", "--for=condition=Ready", &format!("pod/meek-{i}"), "--timeout=60s"]);
    }
    cluster.kubectl("node-3", &["create", "priorityclass", "urgent", "--value=1000"]);
    cluster.apply("node-1", &sleeper("urgent", &format!("priorityClassName: urgent\n  {}", container(&most))));
    cluster.kubectl("node-1", &["wait", "--for=condition=Ready", "pod/urgent", "--timeout=60s"]);
    let left = cluster.kubectl("node-2", &["get", "pods", "-o", "name"]);
    assert_eq!(left.lines().filter(|name| name.contains("meek")).count(), 2, "{left}");
    let events = cluster.kubectl("node-3", &["get", "events", "--field-selector", "reason=Preempted"]);
    assert_eq!(events.matches("Preempted by pod").count(), 1, "{events}");
}

#[test]
fn an_autoscaler_follows_the_load() {
    let cluster = Cluster::start();
    cluster.load_busybox();
    cluster.apply(
        "node-1",
        &format!(
            r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: busy}}
spec:
  selector: {{matchLabels: {{app: busy}}}}
  template:
    metadata: {{labels: {{app: busy}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: "{BUSYBOX}"
        command: [sh, -c, "yes > /dev/null"]
        resources: {{requests: {{cpu: 100m, memory: 8Mi}}, limits: {{cpu: 200m}}}}
"#
        ),
    );
    cluster.apply(
        "node-2",
        r#"
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: busy}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: busy}
  maxReplicas: 3
  metrics:
  - {type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}
"#,
    );
    // Two looks of the kubelet and one of the autoscaler, on a machine under load.
    skein_cluster_tests::until("the Deployment has grown", std::time::Duration::from_secs(150), || {
        let deployment = cluster.kubectl_json("node-3", &["get", "deployment", "busy"]);
        (deployment.pointer("/spec/replicas").and_then(|n| n.as_i64()) == Some(3)).then_some(())
    });
    let autoscaler = cluster.kubectl_json("node-1", &["get", "hpa", "busy"]);
    let condition = |kind: &str| {
        let conditions = autoscaler.pointer("/status/conditions").and_then(|c| c.as_array()).cloned().unwrap_or_default();
        conditions.into_iter().find(|c| c["type"] == kind).unwrap_or_default()["reason"].clone()
    };
    assert_eq!((condition("ScalingActive"), condition("ScalingLimited")), ("ValidMetricFound".into(), "TooManyReplicas".into()));
    let events = cluster.kubectl("node-2", &["get", "events", "--field-selector", "reason=SuccessfulRescale"]);
    assert!(events.contains("New size: 3; reason: cpu resource utilization (percentage of request) above target"), "{events}");

    cluster.until("every node tells what its Pods use", || {
        let told = |node: &str| cluster.try_kubectl(node, &["top", "pods", "-l", "app=busy", "--no-headers"]).unwrap_or_default();
        let lines: Vec<usize> = ["node-1", "node-2", "node-3"].iter().map(|node| told(node).lines().count()).collect();
        (lines == [3, 3, 3]).then_some(())
    });
    assert_eq!(cluster.kubectl("node-3", &["top", "nodes", "--no-headers"]).lines().count(), 3);
    let top = cluster.kubectl("node-2", &["top", "pods", "--containers", "--no-headers"]);
    let millis: Vec<i64> = top.lines().filter_map(|l| l.split_whitespace().nth(2)?.trim_end_matches('m').parse().ok()).collect();
    assert!(millis.iter().all(|m| (1..=260).contains(m)), "a limit of 200m holds: {top}");
}

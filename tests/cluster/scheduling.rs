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

const PROFILES: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: kube-scheduler, namespace: kube-system}
data:
  config.yaml: |
    apiVersion: kubescheduler.config.k8s.io/v1
    kind: KubeSchedulerConfiguration
    profiles:
    - {schedulerName: default-scheduler}
    - schedulerName: packer
      plugins: {score: {disabled: [{name: "*"}], enabled: [{name: NodeResourcesFit, weight: 1}]}}
      pluginConfig:
      - name: NodeResourcesFit
        args: {scoringStrategy: {type: MostAllocated}}
"#;

#[test]
fn profiles_place_pods_each_in_its_way_and_devices_are_counted() {
    let cluster = Cluster::start();
    cluster.load_busybox();
    let pod = |name: &str, scheduler: &str, requests: &str| {
        let resources = format!("{{requests: {{{requests}}}, limits: {{{requests}}}}}");
        let container = format!("{{name: c, image: \"{BUSYBOX}\", command: [sleep, \"3600\"], resources: {resources}}}");
        sleeper(name, &format!("schedulerName: {scheduler}\n  containers: [{container}]"))
    };
    let node_of = |name: &str| {
        cluster.until(&format!("{name} is placed"), || {
            let pod = cluster.kubectl_json("node-2", &["get", "pod", name]);
            pod.pointer("/spec/nodeName").and_then(|node| node.as_str()).map(String::from)
        })
    };
    cluster.apply("node-1", &pod("early", "packer", "cpu: 10m"));
    cluster.apply("node-1", PROFILES);
    let first = node_of("early");
    for name in ["p1", "p2", "p3"] {
        cluster.apply("node-3", &pod(name, "packer", "cpu: 10m"));
        assert_eq!(node_of(name), first, "packed beside the first");
    }
    let events = cluster.kubectl_json("node-1", &["get", "events", "--field-selector=involvedObject.name=p1,reason=Scheduled"]);
    assert_eq!(events.pointer("/items/0/source/component").and_then(|name| name.as_str()), Some("packer"));

    // What is wrong with it is said, and the default goes on alone.
    cluster.apply("node-2", &PROFILES.replace("MostAllocated", "Best"));
    cluster.until("an Event tells", || {
        let events = cluster.kubectl("node-3", &["get", "events", "-n", "kube-system", "--field-selector=reason=InvalidConfiguration"]);
        events.contains("profiles[1].pluginConfig[0].args.scoringStrategy.type: Unsupported value: \"Best\"").then_some(())
    });
    cluster.apply("node-1", &pod("waits", "packer", "cpu: 10m"));
    cluster.apply("node-1", &pod("plain", "default-scheduler", "cpu: 10m"));
    node_of("plain");
    let waits = cluster.kubectl_json("node-1", &["get", "pod", "waits"]);
    assert!(waits.pointer("/spec/nodeName").is_none() && waits.pointer("/status/conditions").is_none(), "{waits}");

    // A node has what somebody says that it has, and its kubelet leaves that there.
    let patch = r#"[{"op": "add", "path": "/status/capacity/example.com~1dongle", "value": "1"}]"#;
    cluster.kubectl("node-2", &["patch", "node", "node-3", "--subresource=status", "--type=json", "-p", patch]);
    cluster.until("it can be had", || {
        let node = cluster.kubectl_json("node-1", &["get", "node", "node-3"]);
        (node.pointer("/status/allocatable/example.com~1dongle").and_then(|n| n.as_str()) == Some("1")).then_some(())
    });
    cluster.apply("node-1", &pod("has-it", "default-scheduler", "example.com/dongle: 1"));
    assert_eq!(node_of("has-it"), "node-3");
    cluster.apply("node-1", &pod("has-none", "default-scheduler", "example.com/dongle: 1"));
    cluster.until("the other is told why not", || {
        let pod = cluster.kubectl_json("node-2", &["get", "pod", "has-none"]);
        let said = pod.pointer("/status/conditions/0/message")?.as_str()?.to_string();
        said.contains("3 Insufficient example.com/dongle").then_some(())
    });
}

#[test]
fn pods_leave_nodes_that_they_do_not_tolerate() {
    let cluster = Cluster::start();
    cluster.load_busybox();
    let container = format!("containers: [{{name: c, image: \"{BUSYBOX}\", command: [sleep, \"3600\"]}}]");
    let on_node = "nodeSelector: {kubernetes.io/hostname: node-2}";
    let tolerating = |rest: &str| format!("{on_node}\n  tolerations: [{{key: closed, operator: Exists{rest}}}]\n  {container}");
    for (name, spec) in [
        ("leaves", format!("{on_node}\n  {container}")),
        ("lingers", tolerating(", effect: NoExecute, tolerationSeconds: 4")),
        ("stays", tolerating("")),
    ] {
        cluster.apply("node-1", &sleeper(name, &spec));
    }
    cluster.kubectl("node-1", &["wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s"]);
    cluster.kubectl("node-3", &["taint", "node", "node-2", "closed=now:NoExecute"]);
    let left = || cluster.kubectl("node-1", &["get", "pods", "-o", "name"]);
    cluster.until("one leaves", || (!left().contains("pod/leaves")).then_some(()));
    assert!(left().contains("pod/lingers"), "it has some seconds");
    cluster.until("another does after its time", || (left().trim() == "pod/stays").then_some(()));
    let events = cluster.kubectl("node-3", &["get", "events", "--field-selector", "reason=TaintManagerEviction"]);
    assert!(events.contains("Marking for deletion Pod default/leaves"), "{events}");
}

/// Local volumes as Kubernetes' documentation has them: nobody makes them, and which one is bound follows from the node.
#[test]
fn a_volume_that_is_there_is_chosen_with_the_node() {
    let cluster = Cluster::start();
    cluster.load_busybox();
    let place = cluster.directory().join("local").display().to_string();
    std::fs::create_dir_all(&place).expect("a directory");
    let mut manifest = "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: disks}\nprovisioner: kubernetes.io/no-provisioner\nvolumeBindingMode: WaitForFirstConsumer\n".to_string();
    for (node, size) in [("node-1", "1Gi"), ("node-3", "2Gi")] {
        manifest += &format!(
            "---\napiVersion: v1\nkind: PersistentVolume\nmetadata: {{name: on-{node}}}\nspec:\n  capacity: {{storage: {size}}}\n  accessModes: [ReadWriteOnce]\n  persistentVolumeReclaimPolicy: Retain\n  storageClassName: disks\n  local: {{path: {place}}}\n  nodeAffinity: {{required: {{nodeSelectorTerms: [{{matchExpressions: [{{key: kubernetes.io/hostname, operator: In, values: [{node}]}}]}}]}}}}\n"
        );
    }
    cluster.apply("node-1", &manifest);
    let claim = |name: &str| {
        format!(
            "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: {name}}}\nspec:\n  accessModes: [ReadWriteOnce]\n  storageClassName: disks\n  resources: {{requests: {{storage: 1Gi}}}}\n"
        )
    };
    cluster.apply("node-2", &claim("data"));
    let user = |claim: &str, more: &str| {
        format!(
            "volumes: [{{name: data, persistentVolumeClaim: {{claimName: {claim}}}}}]\n  {more}containers: [{{name: c, image: \"{BUSYBOX}\", command: [sleep, \"3600\"], volumeMounts: [{{name: data, mountPath: /data}}]}}]"
        )
    };
    // The smaller one would do, but not where the Pod must be.
    let closed = "affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: NotIn, values: [node-1]}]}]}}}\n  ";
    cluster.apply("node-2", &sleeper("user", &user("data", closed)));
    cluster.kubectl("node-2", &["wait", "--for=condition=Ready", "pod/user", "--timeout=60s"]);
    assert_eq!(cluster.kubectl_json("node-1", &["get", "pod", "user"])["spec"]["nodeName"], "node-3");
    assert_eq!(cluster.kubectl_json("node-1", &["get", "pvc", "data"])["spec"]["volumeName"], "on-node-3");
    assert_eq!(cluster.kubectl_json("node-1", &["get", "pv", "on-node-1"])["status"]["phase"], "Available");
    // Where none is left, the Pod says so.
    for name in ["more", "most"] {
        cluster.apply("node-3", &claim(name));
        cluster.apply("node-3", &sleeper(name, &user(name, "")));
    }
    cluster.until("one of two has the last volume", || {
        let told = |name: &str| {
            cluster.kubectl("node-1", &["get", "pod", name, "-o", "jsonpath={.spec.nodeName} {.status.conditions[*].message}"])
        };
        let mut both = [told("more"), told("most")];
        both.sort();
        let why = " 0/3 nodes are available: 3 node(s) didn't find available persistent volumes to bind.";
        (both[0].starts_with(why) && both[1].trim() == "node-1").then_some(())
    });
}

#[test]
fn an_autoscaler_follows_the_load() {
    let cluster = Cluster::start();
    cluster.load_busybox();
    let applied = |replicas: &str| {
        let deployment = format!(
            r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: busy}}
spec:
  {replicas}
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
        );
        let file = cluster.directory().join("busy.yaml");
        std::fs::write(&file, deployment).expect("a file can be written");
        cluster.try_kubectl("node-1", &["apply", "--server-side", "-f", &file.display().to_string()])
    };
    applied("replicas: 1").expect("nobody else has it");
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
    // The autoscaler has taken the field over: who states another value is told so, who states none leaves it alone.
    let told = applied("replicas: 1").expect_err("the autoscaler has it");
    assert!(told.contains(r#"conflict with "kube-controller-manager" with subresource "scale" using apps/v1"#), "{told}");
    applied("").expect("nothing stands against it");
    assert_eq!(cluster.kubectl("node-3", &["get", "deployment", "busy", "-o", "jsonpath={.spec.replicas}"]), "3");

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

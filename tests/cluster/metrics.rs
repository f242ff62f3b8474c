//! What is scraped from kubelets, as metrics-server and Prometheus do it: at their own ports, by whom roles let.

use skein_cluster_tests::{BUSYBOX, Cluster};

const SCRAPER: &str = "
apiVersion: v1
kind: ServiceAccount
metadata: {name: scraper}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: scraper}
rules: [{apiGroups: [''], resources: ['nodes/metrics', 'nodes/stats'], verbs: ['get']}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: scraper}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: scraper}
subjects: [{kind: ServiceAccount, name: scraper, namespace: default}]
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: measured}
spec:
  nodeSelector: {kubernetes.io/hostname: node-2}
  volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
  containers:
  - name: main
    image: IMAGE
    command: [sh, -c, 'while true; do echo x > /data/x; sleep 0.1; done']
    volumeMounts: [{name: data, mountPath: /data}]
";

#[test]
fn kubelets_are_scraped_at_their_own_ports() {
    let cluster = Cluster::start();
    cluster.load_busybox();
    cluster.apply("node-1", &SCRAPER.replace("IMAGE", BUSYBOX));
    cluster.kubectl("node-3", &["wait", "pod/measured", "--for=condition=Ready", "--timeout=60s"]);
    let node = cluster.kubectl_json("node-1", &["get", "node", "node-2"]);
    assert_eq!(node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"], 10250);
    let token = cluster.kubectl("node-1", &["create", "token", "scraper"]).trim().to_string();
    let page = |path: &str| cluster.kubelet(2, Some(&token), path);
    assert_eq!(cluster.kubelet(2, None, "/metrics").0, 401);
    let (code, why) = page("/pods");
    assert_eq!(code, 403);
    let told = "Forbidden (user=system:serviceaccount:default:scraper, verb=get, resource=nodes, subresource(s)=[pods proxy])";
    assert!(why.contains(told), "{why}");

    let line = |path: &str, begin: &str| {
        cluster.until(&format!("{path} has {begin}"), || {
            let (code, text) = page(path);
            text.lines().find(|line| code == 200 && line.starts_with(begin)).map(String::from)
        })
    };
    let labels = "{container=\"main\",namespace=\"default\",pod=\"measured\"}";
    let used = |text: String| text.split(' ').nth(1).and_then(|value| value.parse::<f64>().ok()).expect("a number");
    assert!(used(line("/metrics/resource", &format!("container_cpu_usage_seconds_total{labels}"))) > 0.0);
    assert!(used(line("/metrics/resource", &format!("container_memory_working_set_bytes{labels}"))) > 0.0);
    line("/metrics/resource", "node_cpu_usage_seconds_total ");
    line("/metrics/cadvisor", "container_cpu_usage_seconds_total{cpu=\"total\",container=\"main\",id=\"/skein");
    let network = page("/metrics/cadvisor").1;
    let sent = network.lines().find(|line| line.starts_with("container_network_transmit_bytes_total") && line.contains("pod=\"measured\""));
    assert!(sent.is_some_and(|line| line.contains("interface=\"eth0\"")), "{network}");
    let left = line("/metrics", "kubelet_volume_stats_available_bytes{namespace=\"default\",persistentvolumeclaim=\"data\"}");
    assert!(used(left) > 0.0);

    // The same through any node's API, and what a node's Pods use as JSON.
    let summary = cluster.kubectl("node-3", &["get", "--raw", "/api/v1/nodes/node-2/proxy/stats/summary"]);
    let summary: serde_json::Value = serde_json::from_str(&summary).expect("it is JSON");
    let pods = summary["pods"].as_array().expect("Pods");
    let pod = pods.iter().find(|pod| pod["podRef"]["name"] == "measured").expect("the Pod");
    assert!(pod["containers"][0]["cpu"]["usageCoreNanoSeconds"].as_u64().is_some_and(|ns| ns > 0), "{pod}");
    assert_eq!(pod["volume"][0]["pvcRef"]["name"], "data");
    assert!(summary["node"]["fs"]["capacityBytes"].as_u64().is_some_and(|bytes| bytes > 0));
    let list = cluster.kubectl("node-1", &["get", "--raw", "/api/v1/nodes/node-2/proxy/pods"]);
    assert!(list.contains("\"kind\":\"PodList\"") && list.contains("\"measured\""));
}

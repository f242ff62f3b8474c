//! Pods that use more of a node's disk than they may, and nodes that run short of something.

use serde_json::Value;
use skein_cluster_tests::{BUSYBOX, Cluster};
use skein_lab::Plan;

fn pod(name: &str, spec: &str, container: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  restartPolicy: Always\n{spec}  containers:\n  - name: main\n    image: {BUSYBOX}\n{container}"
    )
}

fn evicted(cluster: &Cluster, name: &str) -> Value {
    cluster.until("the Pod has been driven away", || {
        let status = cluster.kubectl_json("node-1", &["get", "pod", name])["status"].clone();
        (status["phase"] == "Failed" && status["reason"] == "Evicted").then_some(status)
    })
}

#[test]
fn a_pod_that_writes_more_than_it_may_has_to_go() {
    let cluster = Cluster::start();
    cluster.load_busybox();
    let write = |path: &str| format!("    command: [sh, -c, 'yes | head -c 3000000 > {path}; sleep 3600']\n");
    let volume = "  volumes: [{name: scratch, emptyDir: {sizeLimit: 1Mi}}]\n";
    let mount = "    volumeMounts: [{name: scratch, mountPath: /scratch}]\n";
    cluster.apply("node-1", &pod("hoarder", volume, &(write("/scratch/x") + mount)));
    let limits = "    resources: {limits: {ephemeral-storage: 2Mi}}\n";
    cluster.apply("node-2", &pod("writer", "", &(write("/x") + limits)));
    cluster.apply("node-3", &pod("modest", volume, &format!("    command: [sleep, '3600']\n{mount}{limits}")));
    let status = evicted(&cluster, "hoarder");
    assert_eq!(status["message"], "Usage of EmptyDir volume \"scratch\" exceeds the limit \"1Mi\". ");
    let target =
        status["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == "DisruptionTarget").cloned().unwrap_or_default();
    assert_eq!((&target["status"], &target["reason"]), (&"True".into(), &"TerminationByKubelet".into()));
    let status = evicted(&cluster, "writer");
    assert_eq!(status["message"], "Pod ephemeral local storage usage exceeds the total limit of containers 2Mi. ");
    let events = cluster.kubectl("node-2", &["get", "events", "--field-selector", "reason=Evicted"]);
    assert_eq!(events.matches("pod/").count(), 2, "{events}");
    assert_eq!(cluster.kubectl_json("node-1", &["get", "pod", "modest"])["status"]["phase"], "Running");
}

#[test]
fn a_node_that_is_short_of_something_takes_only_what_it_needs() {
    // No machine has all of its process ids free.
    let cluster = Cluster::build(&Plan { arguments: vec!["--eviction-hard=pid.available<100%".into()], ..Plan::new(1) });
    cluster.load_busybox();
    cluster.until("the node says so", || {
        let node = cluster.kubectl_json("node-1", &["get", "node", "node-1"]);
        let conditions = node["status"]["conditions"].as_array()?;
        let condition = conditions.iter().find(|c| c["type"] == "PIDPressure")?;
        (condition["status"] == "True" && condition["reason"] == "KubeletHasInsufficientPID").then_some(())
    });
    let sleep = "    command: [sleep, '3600']\n";
    cluster.apply("node-1", &pod("plain", "", sleep));
    cluster.until("the scheduler keeps away", || {
        let pod = cluster.kubectl_json("node-1", &["get", "pod", "plain"]);
        (pod["status"]["conditions"][0]["message"].as_str()?.contains("1 node(s) had untolerated taint(s)")).then_some(())
    });
    cluster.apply("node-1", &pod("bound", "  nodeName: node-1\n", sleep));
    let status = evicted(&cluster, "bound");
    assert_eq!(status["message"], "Pod was rejected: The node had condition: [PIDPressure]. ");
    let critical = "  priorityClassName: system-node-critical\n  tolerations: [{operator: Exists}]\n";
    cluster.apply("node-1", &pod("critical", critical, sleep));
    cluster.kubectl("node-1", &["wait", "--for=condition=Ready", "pod/critical", "--timeout=60s"]);
}

#[test]
fn a_soft_threshold_waits_its_time_and_gives_a_pod_some() {
    // No machine has all of its memory free, and a node that is short of it takes whoever says what he needs.
    let arguments = [
        "--eviction-hard=",
        "--eviction-soft=memory.available<100%",
        "--eviction-soft-grace-period=memory.available=25s",
        "--eviction-max-pod-grace-period=5",
        "--eviction-pressure-transition-period=10s",
        "--image-maximum-gc-age=40s",
    ];
    let cluster = Cluster::build(&Plan { arguments: arguments.map(String::from).into(), ..Plan::new(1) });
    cluster.load_busybox();
    let images = || {
        let node = cluster.kubectl_json("node-1", &["get", "node", "node-1"]);
        node["status"]["images"].as_array().map_or(0, Vec::len)
    };
    let command = "    command: [sh, -c, 'trap \"sleep 2; echo told; exit 7\" TERM; while true; do sleep 0.1; done']\n    resources: {requests: {memory: 1Mi}}\n";
    cluster
        .apply("node-1", &pod("polite", "  tolerations: [{operator: Exists}]\n", command).replace("PeriodSeconds: 1", "PeriodSeconds: 60"));
    cluster.kubectl("node-1", &["wait", "--for=condition=Ready", "pod/polite", "--timeout=60s"]);
    cluster.until("the node says that it is short", || {
        let node = cluster.kubectl_json("node-1", &["get", "node", "node-1"]);
        let conditions = node["status"]["conditions"].as_array()?.clone();
        conditions.iter().any(|c| c["type"] == "MemoryPressure" && c["status"] == "True").then_some(())
    });
    assert_eq!(cluster.kubectl_json("node-1", &["get", "pod", "polite"])["status"]["phase"], "Running");
    let status = evicted(&cluster, "polite");
    let message = status["message"].as_str().unwrap_or_default();
    assert!(message.starts_with("The node was low on resource: memory. Threshold quantity: "), "{message}");
    // It had more than the second that a hard threshold leaves.
    assert_eq!(status["containerStatuses"][0]["state"]["terminated"]["exitCode"], 7, "{status}");

    // Images of Pods that are there stay; what nobody has used for its time goes.
    cluster.until("the node tells of its image", || (images() == 1).then_some(()));
    cluster.kubectl("node-1", &["delete", "pod", "polite", "--now"]);
    skein_cluster_tests::until("its image has gone", std::time::Duration::from_secs(180), || (images() == 0).then_some(()));
}

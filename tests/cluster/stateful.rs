//! StatefulSets and their claims: names, order, data.

use skein_cluster_tests::{BUSYBOX, Cluster, on_both_runtimes};
use skein_lab::Scope;

on_both_runtimes!(a_set_keeps_its_names_order_and_data);

fn manifest(replicas: usize) -> String {
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: db}}
spec: {{clusterIP: None, selector: {{app: db}}, ports: [{{port: 80}}]}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: db}}
spec:
  serviceName: db
  replicas: {replicas}
  selector: {{matchLabels: {{app: db}}}}
  template:
    metadata: {{labels: {{app: db}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: db
        image: {BUSYBOX}
        command: [sh, -c, 'test -e /data/who || echo $(hostname) $RANDOM > /data/who; sleep 3600']
        volumeMounts: [{{name: data, mountPath: /data}}]
  volumeClaimTemplates:
  - metadata: {{name: data}}
    spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 10Mi}}}}}}
"
    )
}

fn a_set_keeps_its_names_order_and_data(runtime: skein_lab::Runtime) {
    let cluster = Cluster::with_runtime(runtime, &[]);
    cluster.load_busybox();
    cluster.apply("node-1", &manifest(3));
    let ready = |count: u64| {
        cluster.until("the Pods are ready", || {
            let set = cluster.kubectl_json("node-2", &["get", "statefulset", "db"]);
            let status = &set["status"];
            (status["readyReplicas"] == count && status["replicas"] == count && status["updatedReplicas"] == count).then_some(())
        });
    };
    ready(3);
    let pod = |number: usize| cluster.kubectl_json("node-3", &["get", "pod", &format!("db-{number}")]);
    let begun = |number: usize| pod(number)["metadata"]["creationTimestamp"].as_str().unwrap_or_default().to_string();
    assert!(begun(0) <= begun(1) && begun(1) <= begun(2), "each waits for the one before");
    let who = |number: usize| cluster.kubectl("node-1", &["exec", &format!("db-{number}"), "--", "cat", "/data/who"]);
    let written: Vec<String> = (0..3).map(who).collect();
    assert!(written[2].starts_with("db-2 "), "{written:?}");
    for number in 0..3 {
        let claim = cluster.kubectl_json("node-2", &["get", "pvc", &format!("data-db-{number}")]);
        assert_eq!((&claim["status"]["phase"], &claim["status"]["capacity"]["storage"]), (&"Bound".into(), &"10Mi".into()));
    }
    // Each is found by its name.
    let address = pod(1)["status"]["podIP"].as_str().unwrap_or_default().to_string();
    let found = cluster.kubectl("node-2", &["exec", "db-0", "--", "nslookup", "db-1.db.default.svc.cluster.local"]);
    assert!(found.contains(&address), "{found} has no {address}");

    // One that goes comes back under its name, where its data is.
    let node = pod(1)["spec"]["nodeName"].clone();
    cluster.kubectl("node-3", &["delete", "pod", "db-1"]);
    ready(3);
    assert_eq!((pod(1)["spec"]["nodeName"].clone(), who(1)), (node, written[1].clone()));

    // An update goes from the highest number down; fewer replicas leave the claims alone.
    cluster.kubectl("node-1", &["set", "env", "statefulset/db", "ROUND=2"]);
    cluster.kubectl("node-2", &["rollout", "status", "statefulset/db", "--timeout=60s"]);
    assert!(begun(2) <= begun(1) && begun(1) <= begun(0), "the highest number is first");
    assert_eq!((0..3).map(who).collect::<Vec<_>>(), written);
    cluster.kubectl("node-3", &["rollout", "undo", "statefulset/db"]);
    cluster.kubectl("node-2", &["rollout", "status", "statefulset/db", "--timeout=60s"]);
    assert!(pod(0)["spec"]["containers"][0]["env"].is_null());
    cluster.kubectl("node-1", &["scale", "statefulset/db", "--replicas=1"]);
    ready(1);
    assert_eq!(cluster.kubectl("node-2", &["get", "pvc", "-o", "name"]).lines().count(), 3);
    cluster.kubectl("node-1", &["scale", "statefulset/db", "--replicas=3"]);
    ready(3);
    assert_eq!((0..3).map(who).collect::<Vec<_>>(), written);

    // A claim grows where its class lets it, and its volume with it; it does not shrink.
    let wish = |size: &str| {
        let patch = format!(r#"{{"spec":{{"resources":{{"requests":{{"storage":"{size}"}}}}}}}}"#);
        cluster.try_kubectl("node-3", &["patch", "pvc", "data-db-1", "-p", &patch])
    };
    wish("20Mi").expect("the class allows it");
    cluster.until("it has grown", || {
        let claim = cluster.kubectl_json("node-1", &["get", "pvc", "data-db-1"]);
        (claim["status"]["capacity"]["storage"] == "20Mi").then_some(())
    });
    assert!(wish("5Mi").is_err_and(|why| why.contains("field can not be less than status.capacity")));
    cluster.kubectl("node-2", &["patch", "storageclass", "local", "-p", r#"{"allowVolumeExpansion":false}"#]);
    assert!(wish("30Mi").is_err_and(|why| why.contains("the storageclass that provisions the pvc must support resize")));

    // A claim in use waits for its Pod; then volumes and directories go.
    cluster.kubectl("node-2", &["delete", "pvc", "data-db-0", "--wait=false"]);
    let claim = cluster.kubectl_json("node-3", &["get", "pvc", "data-db-0"]);
    assert!(claim["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(who(0), written[0]);
    cluster.kubectl("node-1", &["delete", "statefulset", "db"]);
    cluster.kubectl("node-2", &["delete", "pvc", "--all", "--timeout=60s"]);
    cluster.until("the volumes are gone", || cluster.kubectl("node-3", &["get", "pv", "-o", "name"]).trim().is_empty().then_some(()));
    for node in 1..=3 {
        let place = format!("/var/lib/skein-lab/nodes/node-{node}/data/kubelet/local-volumes");
        let left = std::fs::read_dir(&place).map(|entries| entries.count()).unwrap_or(0);
        assert_eq!(left, 0, "{place}");
    }
}

#[test]
fn a_lost_node_keeps_its_identities_and_the_others_go_on() {
    let cluster = Cluster::start();
    cluster.load_busybox();
    cluster.apply("node-1", &manifest(3));
    let pod = |asked: &str, number: usize| cluster.kubectl_json(asked, &["get", "pod", &format!("db-{number}")]);
    let status = |asked: &str| cluster.kubectl_json(asked, &["get", "statefulset", "db"])["status"].clone();
    cluster.until("the Pods are ready", || (status("node-1")["readyReplicas"] == 3).then_some(()));
    let leader = cluster.leader("node-1");
    let asked = ["node-1", "node-2"].into_iter().find(|node| *node != leader).expect("one of two does not lead");
    let lost = (0..3).find(|number| pod(asked, *number)["spec"]["nodeName"] == leader.as_str());
    let lost = lost.expect("three Pods are spread over three nodes");
    let before: Vec<_> = (0..3).map(|number| pod(asked, number)["metadata"]["uid"].clone()).collect();

    // In the middle of a rollout the leader's machine goes, and a Pod with it: nobody takes that Pod's name.
    cluster.kubectl(asked, &["set", "env", "statefulset/db", "ROUND=2"]);
    cluster.lab.kill(&leader, Scope::Machine).expect("the leader can be killed");
    cluster.until("the node is known to be lost", || {
        let (code, node) = cluster.request(asked[5..].parse().expect("a number"), "GET", &format!("/api/v1/nodes/{leader}"), None);
        let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        (code == 200 && conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "Unknown")).then_some(())
    });
    std::thread::sleep(std::time::Duration::from_secs(5));
    let there = pod(asked, lost);
    assert!(before.contains(&there["metadata"]["uid"]) || there["spec"]["nodeName"] != leader.as_str(), "{there}");
    assert_ne!(there["status"]["phase"], "Pending");
    assert_eq!(cluster.kubectl_json(asked, &["get", "pods"])["items"].as_array().map(Vec::len).filter(|n| *n > 3), None);

    cluster.lab.start(&leader).expect("the node can be started");
    cluster.until("all are there again, of the new revision", || {
        let status = status(asked);
        (status["readyReplicas"] == 3 && status["updatedReplicas"] == 3).then_some(())
    });
    for number in 0..3 {
        let who = cluster.kubectl(asked, &["exec", &format!("db-{number}"), "--", "cat", "/data/who"]);
        assert!(who.starts_with(&format!("db-{number} ")), "{who}");
    }
}

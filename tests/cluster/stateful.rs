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

/// Each instance of the set's one Pod writes who it is, where, and when, until it ends.
fn journalled(journal: &str) -> String {
    format!(
        "
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: one}}
spec:
  serviceName: one
  selector: {{matchLabels: {{app: one}}}}
  template:
    metadata: {{labels: {{app: one}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: one
        image: {BUSYBOX}
        env: [{{name: NODE, valueFrom: {{fieldRef: {{fieldPath: spec.nodeName}}}}}}]
        command: [sh, -c, 'read me < /proc/sys/kernel/random/uuid; while read now rest < /proc/uptime; do echo $now $NODE $me >> /journal/log; sleep 0.1; done']
        volumeMounts: [{{name: journal, mountPath: /journal}}]
      volumes:
      - name: journal
        hostPath: {{path: {journal}}}
"
    )
}

/// From when to when each instance ran, and on which node, in the order of their beginnings.
fn instances(journal: &std::path::Path) -> Vec<(f64, f64, String)> {
    let mut instances = std::collections::BTreeMap::<String, (f64, f64, String)>::new();
    for line in std::fs::read_to_string(journal.join("log")).unwrap_or_default().lines() {
        let [now, node, me] = line.split_whitespace().collect::<Vec<_>>()[..] else { continue };
        let now: f64 = now.parse().expect("a time");
        let known = instances.entry(me.into()).or_insert((now, now, node.into()));
        known.1 = now;
    }
    let mut instances: Vec<_> = instances.into_values().collect();
    instances.sort_by(|a, b| a.0.total_cmp(&b.0));
    instances
}

#[test]
fn an_identity_moves_when_its_node_is_lost_and_never_runs_twice() {
    let cluster = Cluster::start();
    cluster.load_busybox();
    let journal = cluster.directory().join("journal");
    std::fs::create_dir_all(&journal).expect("a directory can be made");
    cluster.apply("node-1", &journalled(&journal.display().to_string()));
    let runs = |but: &str| {
        cluster.until(&format!("it runs elsewhere than on {but:?}"), || {
            let (.., node) = instances(&journal).pop()?;
            (node != but).then_some(node)
        })
    };
    let first = runs("");
    let asked = |but: &str| ["node-1", "node-2", "node-3"].into_iter().find(|node| *node != but).expect("another");
    cluster.until("its node says that it ends with the lease", || {
        let pod = cluster.kubectl_json("node-1", &["get", "pod", "one-0"]);
        pod["status"]["conditions"].as_array()?.iter().any(|c| c["type"] == "skein.dev/Fenced" && c["status"] == "True").then_some(())
    });

    // The daemon alone stands still: nobody could end the Pod but its monitor.
    cluster.lab.pause(&first, Scope::Daemon).expect("it can be paused");
    let second = runs(&first);
    cluster.lab.resume(&first, Scope::Daemon).expect("it goes on");
    let is_ready = |node: &str| {
        cluster.until("the node is ready again", || {
            let status = cluster.status(asked(node));
            status["nodes"].as_array()?.iter().any(|n| n["name"] == node && n["ready"] == true).then_some(())
        });
    };
    is_ready(&first);

    // A node that is cut off: its daemon lives, and does not begin the Pod again.
    let others: Vec<&str> = ["node-1", "node-2", "node-3"].into_iter().filter(|node| *node != second).collect();
    cluster.lab.partition(&format!("{second}/{}", others.join(","))).expect("it can be cut off");
    let third = runs(&second);
    cluster.lab.heal().expect("it can be healed");
    is_ready(&second);

    // The monitor dies, and its container with it; the next one begins after that.
    let before = instances(&journal).len();
    let is_monitor = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "skein-monitor");
    for pid in Cluster::processes(&third, &[]).into_iter().filter(is_monitor) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).expect("it can be killed");
    }
    cluster.until("it runs again", || (instances(&journal).len() > before).then_some(()));

    let instances = instances(&journal);
    for pair in instances.windows(2) {
        assert!(pair[0].1 < pair[1].0, "two at once: {instances:?}");
    }
}

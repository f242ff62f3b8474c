//! Faults on real processes: the leader dies, a node is lost, a node is cut off, everything dies at once.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use skein_cluster_tests::{BUSYBOX, Cluster, until};
use skein_lab::Scope;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn index_of(node: &str) -> usize {
    node.trim_start_matches("node-").parse().expect("a node's number")
}

/// A Deployment of sleepers that say when they started.
fn sleepers(replicas: usize) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: sleepers}}\nspec:\n  replicas: {replicas}\n  selector: {{matchLabels: {{app: sleeper}}}}\n  template:\n    metadata: {{labels: {{app: sleeper}}}}\n    spec:\n      terminationGracePeriodSeconds: 1\n      containers: [{{name: c, image: \"{BUSYBOX}\", command: [sleep, \"100000\"]}}]\n"
    )
}

/// Start time and restarts of each running container, by Pod.
fn running(cluster: &Cluster, node: &str) -> BTreeMap<String, String> {
    let pods = cluster.kubectl_json(node, &["get", "pods"]);
    let pods = pods["items"].as_array().cloned().unwrap_or_default();
    let started = |pod: &Value| pod.pointer("/status/containerStatuses/0/state/running/startedAt").map(Value::to_string);
    pods.iter().filter_map(|pod| Some((pod["metadata"]["name"].as_str()?.to_string(), started(pod)?))).collect()
}

#[test]
fn losing_the_leader_loses_no_acknowledged_write() {
    let cluster = Cluster::start();
    let leader = cluster.leader("node-1");
    let survivors: Vec<usize> = (1..=3).filter(|n| *n != index_of(&leader)).collect();
    let acknowledged = Mutex::new(Vec::new());
    let stop = AtomicBool::new(false);
    let gap = Mutex::new(Duration::ZERO);
    // Watches on both survivors, from before the first write until after the last.
    let revision =
        cluster.request(survivors[0], "GET", MAPS, None).1["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_string();
    let watches: Vec<_> =
        survivors.iter().map(|node| cluster.watch(*node, &format!("{MAPS}?watch=1&timeoutSeconds=9&resourceVersion={revision}"))).collect();
    std::thread::scope(|scope| {
        for (writer, node) in survivors.iter().cycle().take(4).enumerate() {
            let (cluster, stop, acknowledged, gap) = (&cluster, &stop, &acknowledged, &gap);
            scope.spawn(move || {
                let mut last = Instant::now();
                for sequence in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let name = format!("w{writer}-{sequence}");
                    let body = json!({"metadata": {"name": name}}).to_string();
                    if cluster.request(*node, "POST", MAPS, Some(&body)).0 == 201 {
                        let waited = last.elapsed();
                        last = Instant::now();
                        let mut longest = gap.lock().expect("no writer panics");
                        *longest = waited.max(*longest);
                        acknowledged.lock().expect("no writer panics").push(name);
                    }
                }
            });
        }
        std::thread::sleep(Duration::from_secs(2));
        cluster.lab.kill(&leader, Scope::Machine).expect("the leader can be killed");
        std::thread::sleep(Duration::from_secs(4));
        stop.store(true, Ordering::Relaxed);
    });
    let acknowledged = acknowledged.into_inner().expect("no writer panics");
    let (_, list) = cluster.request(survivors[0], "GET", MAPS, None);
    let found: Vec<String> =
        list["items"].as_array().into_iter().flatten().filter_map(|i| i["metadata"]["name"].as_str().map(String::from)).collect();
    let lost: Vec<&String> = acknowledged.iter().filter(|name| !found.contains(name)).collect();
    println!("{} acknowledged, longest pause {:?}", acknowledged.len(), gap.into_inner().expect("no writer panics"));
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    for watch in watches {
        let events = watch.join().expect("a watch ends");
        let revisions: Vec<u64> = events.iter().filter_map(|e| e["object"]["metadata"]["resourceVersion"].as_str()?.parse().ok()).collect();
        assert!(revisions.windows(2).all(|pair| pair[0] < pair[1]), "events come once and in order");
        let seen: std::collections::BTreeSet<&str> = events.iter().filter_map(|e| e["object"]["metadata"]["name"].as_str()).collect();
        let missed: Vec<&String> = acknowledged.iter().filter(|name| !seen.contains(name.as_str())).collect();
        assert!(missed.is_empty(), "acknowledged and not seen by a watch: {missed:?}");
        assert!(events.iter().all(|e| e["type"] == "ADDED"));
    }
    assert!(acknowledged.len() > 50, "writes went on: {}", acknowledged.len());
    let after = cluster.leader(&format!("node-{}", survivors[0]));
    assert_ne!(after, leader);
}

#[test]
fn a_lost_node_has_its_pods_replaced_and_a_paused_one_keeps_them() {
    let cluster = Cluster::start();
    cluster.load_busybox();
    cluster.apply("node-1", &sleepers(6));
    cluster.kubectl("node-1", &["rollout", "status", "deployment/sleepers", "--timeout=60s"]);
    let before = running(&cluster, "node-1");

    // A stall of 200 ms may move the leader; it evicts nobody.
    for node in ["node-1", "node-2", "node-3"] {
        cluster.lab.pause(node, Scope::Machine).expect("a node can be paused");
        std::thread::sleep(Duration::from_millis(200));
        cluster.lab.resume(node, Scope::Machine).expect("a node can be resumed");
    }
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(running(&cluster, "node-1"), before);

    cluster.lab.kill("node-3", Scope::Machine).expect("a node can be killed");
    let killed = Instant::now();
    cluster.until("the Pods run on the other nodes", || {
        let pods = cluster.kubectl_json("node-1", &["get", "pods"]);
        let pods = pods["items"].as_array().cloned().unwrap_or_default();
        let here = |pod: &&Value| {
            pod["metadata"]["deletionTimestamp"].is_null() && pod["spec"]["nodeName"] != "node-3" && pod["status"]["phase"] == "Running"
        };
        (pods.iter().filter(here).count() == 6).then_some(())
    });
    println!("node lost -> Pods running elsewhere: {:?}", killed.elapsed());
    assert!(killed.elapsed() < Duration::from_secs(20));
    let node = cluster.kubectl_json("node-1", &["get", "node", "node-3"]);
    assert!(node["spec"]["taints"].to_string().contains("node.kubernetes.io/unreachable"));

    // The machine comes back: what it ran is given up, and it is ready again.
    cluster.lab.start("node-3").expect("the node can be started");
    cluster.until("node-3 is ready", || {
        let shown = cluster.kubectl("node-1", &["get", "node", "node-3"]);
        (shown.contains(" Ready ") && cluster.kubectl_json("node-1", &["get", "pods"])["items"].as_array().map(Vec::len) == Some(6))
            .then_some(())
    });
}

#[test]
fn a_node_cut_off_keeps_its_work_and_says_so() {
    let cluster = Cluster::start();
    cluster.load_busybox();
    cluster.apply("node-1", &sleepers(3));
    cluster.kubectl("node-1", &["rollout", "status", "deployment/sleepers", "--timeout=60s"]);
    let stays = "apiVersion: v1\nkind: Pod\nmetadata: {name: stays}\nspec:\n  nodeName: node-3\n  tolerations: [{operator: Exists}]\n  containers: [{name: c, image: \"skein.test/busybox:1\", command: [sleep, \"100000\"]}]\n";
    cluster.apply("node-2", stays);
    cluster.apply("node-2", &stays.replace("stays", "crashes").replace("100000", "100077"));
    let start = |node: &str| running(&cluster, node).get("stays").cloned();
    let before = cluster.until("the Pod runs", || start("node-2"));
    cluster.until("the other one runs, too", || running(&cluster, "node-2").get("crashes").cloned());
    // A watch that is open when the node is cut off stays open.
    let (_, list) = cluster.request(3, "GET", MAPS, None);
    let revision = list["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    let watch = cluster.watch(3, &format!("{MAPS}?watch=1&timeoutSeconds=30&resourceVersion={revision}"));

    cluster.lab.partition("node-1,node-2/node-3").expect("the network can be cut");
    // Writes and plain reads get a 504 within 3 s that names the way out; the replica is served.
    until("the cut is noticed", Duration::from_secs(20), || {
        let begin = Instant::now();
        let (code, status) = cluster.request(3, "GET", MAPS, None);
        (code == 504 && begin.elapsed() < Duration::from_secs(4) && status["message"].as_str().is_some_and(|m| m.contains("\"stale\"")))
            .then_some(())
    });
    assert_eq!(cluster.request(3, "POST", MAPS, Some(r#"{"metadata":{"name":"a"}}"#)).0, 504);
    assert_eq!(cluster.request(3, "GET", &format!("{MAPS}?resourceVersion=0"), None).0, 200);
    assert_eq!(cluster.request(3, "GET", &format!("/stale{MAPS}"), None).0, 200);
    assert_eq!(cluster.status("node-3")["quorum"], false);
    // The others go on.
    assert_eq!(cluster.request(1, "POST", MAPS, Some(r#"{"metadata":{"name":"b"}}"#)).0, 201);
    // A container that crashes meanwhile is started again.
    let crashed = sleeping("100077").expect("the container runs");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(crashed), nix::sys::signal::Signal::SIGKILL).expect("the process is there");
    cluster.until("it runs again, without a quorum", || sleeping("100077").filter(|pid| *pid != crashed));

    cluster.lab.heal().expect("the network can be healed");
    cluster.until("the node catches up", || (cluster.request(3, "GET", &format!("{MAPS}/b"), None).0 == 200).then_some(()));
    assert_eq!(cluster.until("the Pod is reported again", || start("node-3")), before);
    let seen = watch.join().expect("the watch ends");
    assert!(seen.iter().any(|e| e["type"] == "ADDED" && e["object"]["metadata"]["name"] == "b"), "{seen:?}");
}

/// The process `sleep SECONDS`.
fn sleeping(seconds: &str) -> Option<i32> {
    let line = format!("sleep\0{seconds}\0");
    let entries = std::fs::read_dir("/proc").ok()?.flatten();
    let found = entries.filter(|e| std::fs::read(e.path().join("cmdline")).is_ok_and(|c| c == line.as_bytes()));
    { found }.find_map(|e| e.file_name().to_str()?.parse().ok())
}

#[test]
fn all_daemons_killed_at_once_come_back_to_the_same_state() {
    let cluster = Cluster::start();
    cluster.load_busybox();
    cluster.apply("node-1", &sleepers(3));
    cluster.kubectl("node-1", &["rollout", "status", "deployment/sleepers", "--timeout=60s"]);
    for index in 0..20 {
        let body = json!({"metadata": {"name": format!("k{index}")}, "data": {"v": index.to_string()}}).to_string();
        assert_eq!(cluster.request(1 + index % 3, "POST", MAPS, Some(&body)).0, 201);
    }
    let before = running(&cluster, "node-1");
    let (_, maps) = cluster.request(1, "GET", MAPS, None);
    assert_eq!(before.len(), 3);

    for node in ["node-1", "node-2", "node-3"] {
        cluster.lab.kill(node, Scope::Daemon).expect("a daemon can be killed");
    }
    for node in ["node-1", "node-2", "node-3"] {
        cluster.lab.start(node).expect("a daemon can be started");
    }
    let after = cluster.until("the cluster answers", || {
        let (code, list) = cluster.request(2, "GET", MAPS, None);
        (code == 200).then_some(list)
    });
    assert_eq!(after["items"], maps["items"]);
    // Containers were never touched.
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(running(&cluster, "node-3"), before);
    // A watch from before gets events or 410, never silence.
    let revision = maps["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_string();
    let (_, event) = cluster.request(1, "GET", &format!("{MAPS}?watch=1&timeoutSeconds=1&resourceVersion={revision}"), None);
    assert!(event.is_null() || event["object"]["code"] == 410, "{event}");
}

#[test]
fn a_survivor_of_three_says_so_and_recovers() {
    let cluster = Cluster::start();
    cluster.lab.kill("node-2", Scope::Machine).expect("a node can be killed");
    cluster.lab.kill("node-3", Scope::Machine).expect("a node can be killed");
    cluster.until("the survivor knows", || (cluster.status("node-1")["quorum"] == false).then_some(()));
    let (code, status) = cluster.request(1, "POST", MAPS, Some(r#"{"metadata":{"name":"a"}}"#));
    assert_eq!(code, 504);
    assert!(status["message"].as_str().is_some_and(|m| m.contains("no quorum")), "{status}");
    cluster.lab.start("node-2").expect("a node can be started");
    cluster
        .until("the cluster recovers", || (cluster.request(1, "POST", MAPS, Some(r#"{"metadata":{"name":"b"}}"#)).0 == 201).then_some(()));
}

#[test]
fn ten_seconds_of_standstill_lose_no_write_and_no_pod() {
    let cluster = Cluster::start();
    cluster.load_busybox();
    cluster.apply("node-1", &sleepers(6));
    cluster.until("six run", || (running(&cluster, "node-1").len() == 6).then_some(()));
    let leader = cluster.leader("node-1");
    let survivor = (1..=3).find(|n| *n != index_of(&leader)).expect("another node");
    let other = format!("node-{survivor}");
    let mut acknowledged = Vec::new();
    cluster.lab.pause(&leader, Scope::Machine).expect("a node can be paused");
    let begin = Instant::now();
    for sequence in 0.. {
        let name = format!("p{sequence}");
        if cluster.request(survivor, "POST", MAPS, Some(&json!({"metadata": {"name": name}}).to_string())).0 == 201 {
            acknowledged.push(name);
        }
        if begin.elapsed() > Duration::from_secs(10) {
            break;
        }
    }
    assert!(acknowledged.len() > 20, "writes went on: {}", acknowledged.len());
    assert_ne!(cluster.leader(&other), leader);
    cluster.lab.resume(&leader, Scope::Machine).expect("a node can be resumed");
    // The one that stood still learns what it missed, and its Pods, replaced meanwhile, go.
    let stale = format!("{MAPS}?resourceVersion=0");
    cluster.until("it has caught up", || {
        let (_, list) = cluster.request(index_of(&leader), "GET", &stale, None);
        let names: Vec<&str> = list["items"].as_array()?.iter().filter_map(|i| i["metadata"]["name"].as_str()).collect();
        acknowledged.iter().all(|name| names.contains(&name.as_str())).then_some(())
    });
    cluster.until("exactly six run", || {
        let pods = cluster.kubectl_json(&other, &["get", "pods"]);
        let phases: Vec<&str> = pods["items"].as_array()?.iter().filter_map(|p| p["status"]["phase"].as_str()).collect();
        (phases.len() == 6 && phases.iter().all(|p| *p == "Running")).then_some(())
    });
    cluster.until("exactly six containers are left", || {
        let sleeping = std::fs::read_dir("/proc").ok()?.flatten().filter_map(|e| std::fs::read(e.path().join("cmdline")).ok());
        (sleeping.filter(|line| line == b"sleep\x00100000\x00").count() == 6).then_some(())
    });
}

#[test]
fn a_full_disk_stops_one_nodes_store_and_nothing_else() {
    let data = "/var/lib/skein-lab/nodes/node-3/data";
    // A disk of its own for one node, small enough to fill.
    let cluster = Cluster::build_after(&skein_lab::Plan::new(3), || {
        std::fs::create_dir_all(data).expect("a directory can be made");
        let mounted = std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=400m", "none", data]).status();
        assert!(mounted.is_ok_and(|s| s.success()), "tmpfs can be mounted");
    });
    cluster.load_busybox();
    cluster.apply("node-1", &sleepers(3));
    cluster.until("three run", || (running(&cluster, "node-1").len() == 3).then_some(()));
    let before = running(&cluster, "node-1");
    let daemon = || std::fs::read_to_string("/var/lib/skein-lab/nodes/node-3/daemon.pid").map(|t| t.trim().to_string()).unwrap_or_default();
    let pid = daemon();
    let filler = format!("{data}/filler");
    let filled = std::process::Command::new("dd").args(["if=/dev/zero", &format!("of={filler}"), "bs=1M"]).output().expect("dd runs");
    assert!(!filled.status.success(), "the disk is full");
    // Writes through the others go on; what node 3 cannot keep it does not acknowledge.
    let value = "x".repeat(100_000);
    let mut written = 0;
    let failed = cluster.until("node 3's store says that it has stopped", || {
        let body = json!({"metadata": {"generateName": "fill-"}, "data": {"v": value}}).to_string();
        written += usize::from(cluster.request(1, "POST", MAPS, Some(&body)).0 == 201);
        cluster.status("node-3")["failure"].as_str().map(String::from)
    });
    assert!(written > 0 && failed.to_lowercase().contains("no space"), "{written} written, {failed}");
    let (code, status) = cluster.request(3, "POST", MAPS, Some(r#"{"metadata": {"name": "refused"}}"#));
    assert!(
        code >= 500 && status["kind"] == "Status" && status["message"].as_str().is_some_and(|m| m.contains("use another node")),
        "{code} {status}"
    );
    assert_eq!(cluster.request(3, "GET", &format!("{MAPS}?resourceVersion=0"), None).0, 200, "its replica can still be read");
    assert_eq!(cluster.request(1, "POST", MAPS, Some(r#"{"metadata": {"name": "taken"}}"#)).0, 201);
    // Room again: the store comes back by itself, in the same process, with all that was written meanwhile.
    std::fs::remove_file(&filler).expect("the filler can be removed");
    cluster.until("node 3 has what was written without it", || {
        (cluster.request(3, "GET", &format!("{MAPS}/taken"), None).0 == 200).then_some(())
    });
    assert_eq!(daemon(), pid, "the daemon has not died");
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
    assert_eq!(running(&cluster, "node-1"), before, "no container was touched");
}

#[test]
fn a_lost_voter_is_replaced_before_the_next_is_lost() {
    let cluster = Cluster::with_nodes(4);
    let roles = |asked: &str| -> BTreeMap<String, String> {
        let status = cluster.status(asked);
        let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
        let text = |node: &Value, field: &str| node[field].as_str().unwrap_or_default().to_string();
        nodes.iter().map(|node| (text(node, "name"), text(node, "role"))).collect()
    };
    let of = |roles: &BTreeMap<String, String>, role: &str| -> Vec<String> {
        roles.iter().filter(|(_, found)| *found == role).map(|(name, _)| name.clone()).collect()
    };
    let (leader, voters, standby) = cluster.until("there are three voters and a standby", || {
        let leader = cluster.status("node-1")["leader"].as_str()?.to_string();
        let roles = roles(&leader);
        let (voters, standbys) = (of(&roles, "voter"), of(&roles, "standby"));
        (voters.len() == 2 && standbys.len() == 1).then(|| (leader, voters, standbys[0].clone()))
    });
    cluster.lab.kill(&voters[0], Scope::Machine).expect("the machine can be killed");
    cluster.until("the standby votes instead", || (roles(&leader).get(&standby)? == "voter").then_some(()));
    cluster.until("an Event says why", || {
        let events = cluster.try_kubectl(&leader, &["get", "events", "--field-selector", "reason=VoterPromoted"]).ok()?;
        events.contains(&format!("{} is silent, {standby} votes instead", voters[0])).then_some(())
    });
    // Two of the first three are gone now, and two of the three that vote are there.
    cluster.lab.kill(&voters[1], Scope::Machine).expect("the machine can be killed");
    cluster.until("the others go on", || {
        let map = r#"{"metadata": {"name": "after"}}"#;
        (cluster.request(index_of(&leader), "POST", MAPS, Some(map)).0 == 201).then_some(())
    });
    assert_eq!(cluster.request(index_of(&standby), "GET", &format!("{MAPS}/after"), None).0, 200);
}

#[test]
fn a_leader_that_is_stopped_in_order_lets_another_lead_first() {
    let cluster = Cluster::start();
    let voters = |status: &Value| {
        let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
        nodes.iter().filter(|node| ["voter", "leader"].iter().any(|role| node["role"] == *role)).count()
    };
    let leader = cluster.until("three vote", || {
        let status = cluster.status("node-1");
        (voters(&status) == 3).then(|| status["leader"].as_str().map(String::from)).flatten()
    });
    let pid_of_leader = || {
        let status = cluster.lab.status().expect("the laboratory has a status");
        let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
        nodes.iter().find(|node| node["name"] == leader.as_str()).and_then(|node| node["pid"].as_i64())
    };
    let pid = i32::try_from(pid_of_leader().expect("the daemon runs")).expect("a process id");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM).expect("the daemon can be told to stop");
    cluster.until("the daemon has ended", || pid_of_leader().is_none().then_some(()));
    // It has not left before somebody else led: nobody has to wait for an election now.
    let survivor = (1..=3).find(|node| *node != index_of(&leader)).expect("two are left");
    let after = cluster.status(&format!("node-{survivor}"));
    assert!(after["leader"].as_str().is_some_and(|now| now != leader) && after["quorum"] == true, "{after}");
    assert_eq!(cluster.request(survivor, "POST", MAPS, Some(r#"{"metadata": {"name": "at-once"}}"#)).0, 201);
    let log = std::fs::read_to_string(format!("/var/lib/skein-lab/nodes/{leader}/daemon.log")).expect("the daemon has a log");
    assert!(log.contains("another leads"), "{log}");
}

/// Whoever has slept through it cannot know whether another took its place: that needs a quorum, the rest does not.
#[test]
fn a_reboot_without_a_quorum_begins_all_but_what_must_run_once() {
    let cluster = Cluster::start();
    cluster.load_busybox();
    let on_first = |kind: &str, seconds: &str| {
        format!(
            "apiVersion: apps/v1\nkind: {kind}\nmetadata: {{name: s{seconds}}}\nspec:\n  selector: {{matchLabels: {{app: s{seconds}}}}}\n  template:\n    metadata: {{labels: {{app: s{seconds}}}}}\n    spec:\n      terminationGracePeriodSeconds: 1\n      nodeName: node-1\n      containers: [{{name: c, image: \"{BUSYBOX}\", command: [sleep, \"{seconds}\"]}}]\n"
        )
    };
    cluster.apply("node-1", &on_first("Deployment", "100088"));
    cluster.apply("node-1", &on_first("StatefulSet", "100099"));
    cluster.until("both run", || (running(&cluster, "node-1").len() == 2).then_some(()));
    for node in ["node-2", "node-3", "node-1"] {
        cluster.lab.kill(node, Scope::Machine).expect("a machine can be killed");
    }
    assert_eq!((sleeping("100088"), sleeping("100099")), (None, None), "containers end with their machine");
    cluster.lab.start("node-1").expect("the machine can be started");
    cluster.until("the Deployment's container runs, without a quorum", || sleeping("100088"));
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(sleeping("100099"), None, "nobody has said yet that the StatefulSet's Pod is still this node's");
    cluster.lab.start("node-2").expect("the machine can be started");
    cluster.until("with a quorum it runs, too", || sleeping("100099"));
}

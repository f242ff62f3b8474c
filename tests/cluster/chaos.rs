//! Experiments on three real nodes: what holds is said to hold, what does not is named, and everything is undone.

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use skein_cluster_tests::{BUSYBOX, Cluster, program};
use skein_lab::{Ailment, Plan, Scope, Shape};

fn experiment(cluster: &Cluster, spec: &str) -> String {
    let path = cluster.directory().join("experiment.yaml");
    let text = format!("apiVersion: chaos.skein.dev/v1alpha1\nkind: ChaosExperiment\nmetadata: {{name: test}}\nspec:\n{spec}");
    std::fs::write(&path, text).expect("a file can be written");
    path.display().to_string()
}

fn command(file: &str) -> Command {
    let mut command = Command::new(program());
    command.args(["chaos", "run", file, "--output", "json"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn experiments_say_what_held_and_undo_what_they_did() {
    let cluster = Cluster::build(&Plan { disk_mib: Some(1024), ..Plan::new(3) });
    cluster.load_busybox();
    cluster.apply(
        "node-1",
        &format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web}}\nspec:\n  replicas: 3\n  selector: {{matchLabels: {{app: web}}}}\n  template:\n    metadata: {{labels: {{app: web}}}}\n    spec:\n      tolerations: [{{key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 300}}]\n      containers: [{{name: c, image: \"{BUSYBOX}\", command: [sleep, \"3600\"]}}]\n"
        ),
    );
    cluster.kubectl("node-2", &["rollout", "status", "deployment/web", "--timeout=60s"]);
    let spec = "
  seed: 31
  duration: 30s
  faults:
  - {type: killDaemon, every: 8s, duration: 1s}
  - {type: pauseDaemon, every: 9s, duration: 1s}
  - {type: partition, every: 10s, duration: 1s}
  - {type: deafen, every: 11s, duration: 1s}
  - {type: links, every: 9s, duration: 2s, delay: 50ms, lostPermille: 20}
  - {type: slowDisk, every: 9s, duration: 2s, writesPerSecond: 20}
  - {type: fillDisk, every: 12s, duration: 1s}
  - {type: shiftClock, every: 8s, duration: 2s, timeOffset: -5m}
  steadyState:
  - {type: linearizability, clients: 6, keys: 3}
  - {type: available, within: 10s}
  - {type: podsRunOn, selector: app=web}
  - {type: api, path: /readyz, failures: 5}
  abortAfter: 25s
";
    let output = command(&experiment(&cluster, spec)).output().expect("skein can be run");
    let found = report(&output);
    assert!(output.status.success() && found["verdict"] == "Passed", "{found:#}");
    assert!(found["load"]["acknowledged"].as_u64().is_some_and(|count| count > 200), "{found:#}");
    let timeline = found["timeline"].to_string();
    let happened = ["killDaemon", "pauseDaemon", "partition", "deafen", "links", "slowDisk", "fillDisk", "shiftClock"]
        .iter()
        .filter(|fault| timeline.contains(&format!("{fault} hits")))
        .count();
    assert!(happened >= 5, "{found:#}");

    // What does not hold is named.
    let spec = "
  duration: 4s
  faults: [{type: pauseDaemon, every: 3s, duration: 1s}]
  steadyState: [{type: api, path: /api/v1/namespaces/default/configmaps/none}]
";
    let output = command(&experiment(&cluster, spec)).output().expect("skein can be run");
    let found = report(&output);
    assert!(output.status.code() == Some(1) && found["failures"][0].as_str().is_some_and(|f| f.contains("configmaps/none")), "{found:#}");

    // One that is broken off undoes what it did.
    let spec = "
  duration: 1m
  target: {node: node-3}
  faults: [{type: killMachine, every: 40s, duration: 39s}]
";
    let child = command(&experiment(&cluster, spec)).spawn().expect("skein can be run");
    cluster.until("the machine is killed", || Cluster::processes("node-3", &["skein up"]).is_empty().then_some(()));
    kill(Pid::from_raw(i32::try_from(child.id()).expect("a pid")), Signal::SIGINT).expect("it can be told to stop");
    let found = report(&child.wait_with_output().expect("it ends"));
    assert!(found["failures"].to_string().contains("broken off") && found["healedMs"].is_u64(), "{found:#}");

    // One that could not undo anything is undone by another command.
    cluster.lab.deafen("node-2", &["node-1".into(), "node-3".into()]).expect("it can be cut off");
    cluster.lab.shape("node-1/node-3", Shape { delay_ms: 2000, ..Shape::default() }).expect("links can be long");
    cluster.lab.pause("node-1", Scope::Machine).expect("it can be paused");
    let healed = Command::new(program()).args(["chaos", "heal"]).status().expect("skein can be run");
    assert!(healed.success());
    skein_cluster_tests::until("all is well", Duration::from_secs(60), || {
        let status = cluster.status("node-2");
        let nodes = status["nodes"].as_array()?;
        (status["quorum"] == true && nodes.iter().all(|node| node["ready"] == true)).then_some(())
    });
}

/// The same through the API, made by the nodes' own agents.
#[test]
fn experiments_are_objects_and_faults_end_without_who_asked_for_them() {
    let cluster = Cluster::build(&Plan { arguments: vec!["--chaos".into()], ..Plan::new(3) });
    let agent = |node: &str| Cluster::processes(node, &["chaos", "agent"]);
    cluster.until("every node has an agent", || ["node-1", "node-2", "node-3"].iter().all(|node| agent(node).len() == 1).then_some(()));
    cluster.until("experiments can be made", || cluster.try_kubectl("node-3", &["get", "chaosexperiments"]).ok());

    let apply = |name: &str, spec: &str| {
        let text = format!("apiVersion: chaos.skein.dev/v1alpha1\nkind: ChaosExperiment\nmetadata: {{name: {name}}}\nspec:\n{spec}");
        cluster.kubectl_with_input("node-2", &["apply", "-f", "-"], &text)
    };
    let spec = "
  seed: 4
  duration: 25s
  faults:
  - {type: killDaemon, every: 9s, duration: 1s}
  - {type: pauseDaemon, every: 8s, duration: 1s}
  - {type: partition, every: 9s, duration: 2s}
  - {type: deafen, every: 10s, duration: 1s}
  - {type: links, every: 8s, duration: 2s, lostPermille: 50}
  - {type: slowDisk, every: 9s, duration: 2s, writesPerSecond: 20}
  - {type: shiftClock, every: 9s, duration: 2s, timeOffset: 1h}
  steadyState:
  - {type: linearizability, clients: 4, keys: 3}
  - {type: available, within: 10s}
  - {type: api, path: /readyz, failures: 8}
";
    let told = apply("storm", spec);
    assert!(told.contains("created"), "{told}");
    let finished = |name: &str| {
        let text = cluster.try_kubectl("node-1", &["get", "chaosexperiment", name, "-o", "json"]).ok()?;
        let found: Value = serde_json::from_str(&text).ok()?;
        (found["status"]["phase"] == "Finished").then_some(found["status"].clone())
    };
    let status = skein_cluster_tests::until("the verdict", Duration::from_secs(150), || finished("storm"));
    assert_eq!(status["verdict"], "Passed", "{status:#}");
    assert!(status["load"]["acknowledged"].as_u64().is_some_and(|count| count > 100), "{status:#}");
    let timeline = status["timeline"].to_string();
    let kinds = ["killDaemon", "pauseDaemon", "partition", "deafen", "links"];
    assert!(kinds.iter().filter(|kind| timeline.contains(&format!("{kind} hits"))).count() >= 3, "{status:#}");
    assert!(!timeline.contains("could not be undone"), "{status:#}");

    // What is wrong is refused by the API, and what is left of an experiment goes with it.
    let told = cluster.try_kubectl("node-1", &["patch", "chaosexperiment", "storm", "--type=merge", "-p", r#"{"spec":{"seed":5}}"#]);
    assert!(told.as_ref().is_err_and(|why| why.contains("field is immutable")), "{told:?}");
    let told = apply("wrong", "\n  duration: 5s\n  faults: [{type: killDaemon, every: 1s, duration: 2s}]\n");
    assert!(!told.contains("created"), "{told}");
    let none = "\n  duration: 3s\n  faults: [{type: pauseDaemon, every: 2s, duration: 100ms}]\n  steadyState: [{type: api, path: /api/v1/namespaces/default/configmaps/none}]\n";
    assert!(apply("fails", none).contains("created"));
    let status = skein_cluster_tests::until("the verdict", Duration::from_secs(60), || finished("fails"));
    assert!(status["verdict"] == "Failed" && status["failures"].to_string().contains("configmaps/none"), "{status:#}");
    cluster.kubectl("node-3", &["delete", "chaosexperiments", "--all"]);
    cluster.until("no fault is left", || cluster.kubectl("node-1", &["get", "chaosfaults", "-o", "name"]).is_empty().then_some(()));

    // A fault that nobody ends, ordered by hand.
    let order = |name: &str, spec: &str| {
        let text = format!("apiVersion: chaos.skein.dev/v1alpha1\nkind: ChaosFault\nmetadata: {{name: {name}}}\nspec: {spec}\n");
        cluster.kubectl_with_input("node-1", &["apply", "-f", "-"], &text);
        cluster.until("it is made", || {
            let phase = cluster.kubectl("node-1", &["get", "chaosfault", name, "-o", "jsonpath={.status.phase}"]);
            (!phase.is_empty()).then_some(())
        });
    };
    let is_cut = |cut: bool| {
        let tables = Command::new("ip").args(["netns", "exec", "skein-node-3", "nft", "list", "tables"]).output().expect("nft can be run");
        (String::from_utf8_lossy(&tables.stdout).contains("skein-chaos") == cut).then_some(())
    };
    let cut_off = r#"{node: node-3, type: partition, durationMs: 300000, apartFrom: ["198.18.0.11", "198.18.0.12"]}"#;
    order("by-process", cut_off);
    cluster.until("it is cut off", || is_cut(true));
    // The fault's own process is killed: the agent undoes it.
    let ends = |word: &str| {
        for pid in Cluster::processes("node-3", &["chaos", word]) {
            // One that has just ended by itself is what is wanted.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    };
    ends("fault");
    cluster.until("the agent has undone it", || is_cut(false));
    order("by-agent", cut_off);
    cluster.until("it is cut off", || is_cut(true));
    // The agent, too: the next one does, which the daemon starts.
    ends("agent");
    ends("fault");
    cluster.until("the next agent has undone it", || is_cut(false));
    order("deleted", "{node: node-3, type: pauseDaemon, durationMs: 300000}");
    let daemon_is = |states: &str| {
        let pid = *Cluster::processes("node-3", &["up", "--name"]).first()?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit(')').next()?.trim_start().starts_with(|state: char| states.contains(state)).then_some(())
    };
    cluster.until("the daemon stands still", || daemon_is("T"));
    cluster.kubectl("node-1", &["delete", "chaosfault", "deleted"]);
    cluster.until("the daemon goes on", || daemon_is("SRD"));
    cluster.until("all is well", || {
        let status = cluster.status("node-2");
        let nodes = status["nodes"].as_array()?;
        (status["quorum"] == true && nodes.iter().all(|node| node["ready"] == true)).then_some(())
    });
}

#[test]
fn disks_get_slow_and_full_and_clocks_leap_for_one_node_alone() {
    let cluster = Cluster::build(&Plan { disk_mib: Some(1024), ..Plan::new(3) });
    let seconds = |arguments: &[&str]| -> i64 {
        let output = Command::new("date").arg("+%s").args(arguments).output().expect("date can be run");
        String::from_utf8_lossy(&output.stdout).trim().parse().expect("seconds")
    };
    let made_at = |node: usize, name: &str| {
        let body = serde_json::json!({"metadata": {"name": name}}).to_string();
        let (_, made) = cluster.request(node, "POST", "/api/v1/namespaces/default/configmaps", Some(&body));
        let made = made["metadata"]["creationTimestamp"].as_str().unwrap_or_else(|| panic!("{made}"));
        seconds(&["--date", made])
    };
    let now = || seconds(&[]);
    let lab = &cluster.lab;
    for minutes in [120, -5] {
        lab.afflict("node-2", Ailment::Clock { seconds: minutes * 60 }).expect("a clock can leap");
        let is_off_by = |node: usize, name: &str, minutes: i64| {
            let (before, made) = (now(), made_at(node, name));
            let off = made - before - minutes * 60;
            assert!((-1..10).contains(&off), "{name}: {off} seconds");
        };
        is_off_by(2, &format!("shifted{minutes}"), minutes);
        is_off_by(1, &format!("beside{minutes}"), 0);
        lab.cure("node-2").expect("a clock can be set");
        is_off_by(2, &format!("after{minutes}"), 0);
    }

    // A founder's first certificate is short: its next one is of a clock that is ahead, so nobody else believes it when that
    // is right again, and it gets another.
    let certificate = || std::fs::read("/var/lib/skein-lab/nodes/node-1/data/pki/node.pem").expect("a node has a certificate");
    let first = certificate();
    lab.afflict("node-1", Ailment::Clock { seconds: 3600 }).expect("a clock can leap");
    let second = cluster.until("it has another certificate", || Some(certificate()).filter(|now| *now != first));
    lab.cure("node-1").expect("a clock can be set");
    cluster.until("it has a third one", || (certificate() != second).then_some(()));
    cluster.until("that is believed", || cluster.try_kubectl("node-1", &["get", "nodes"]).ok());

    // A leader whose disk is slow lets another lead.
    let leader = cluster.leader("node-1");
    lab.afflict(&leader, Ailment::SlowDisk { writes_per_second: 1 }).expect("a disk can be slow");
    let asked = if leader == "node-1" { 2 } else { 1 };
    let mut written = 0;
    cluster.until("another leads", || {
        written += 1;
        made_at(asked, &format!("slow-{written}"));
        (cluster.status(&format!("node-{asked}"))["leader"].as_str()? != leader).then_some(())
    });
    lab.cure(&leader).expect("a disk can be fast again");

    lab.afflict("node-3", Ailment::FullDisk).expect("a disk can be filled");
    // RocksDB has made room for its log beforehand, for so much at the most.
    let value = "x".repeat(100_000);
    cluster.until("node 3's store says that it has stopped", || {
        let body = serde_json::json!({"metadata": {"name": format!("filled-{written}")}, "data": {"v": value}}).to_string();
        assert_eq!(cluster.request(1, "POST", "/api/v1/namespaces/default/configmaps", Some(&body)).0, 201);
        written += 1;
        cluster.status("node-3")["failure"].as_str().map(|why| assert!(why.to_lowercase().contains("no space"), "{why}"))
    });
    lab.cure("node-3").expect("a disk can be emptied");
    cluster.until("node 3 has it all", || {
        let last = format!("/api/v1/namespaces/default/configmaps/filled-{}", written - 1);
        (cluster.request(3, "GET", &last, None).0 == 200).then_some(())
    });
}

/// A round trip of 200 ms is that from Europe to Australia, and twice what Raft's time-outs are on a fast network.
#[test]
fn one_binary_serves_a_rack_and_three_continents() {
    let cluster = Cluster::start();
    let far = Shape { delay_ms: 100, jitter_ms: 10, lost_permille: 2 };
    cluster.lab.shape("node-1/node-2/node-3", far).expect("links can be long");
    let minute = Duration::from_secs(60);
    let settled = |node: &str| {
        let status = cluster.status(node);
        (status["quorum"] == true && status["pace"].as_u64() > Some(2)).then(|| status["term"].as_u64())
    };
    let term = skein_cluster_tests::until("the cluster has taken to its links", minute, || settled("node-1"));
    let write = |node: &str, name: &str| {
        skein_cluster_tests::until(&format!("a write through {node}"), minute, || {
            // A write that was not answered in time may have happened.
            let written = cluster.try_kubectl(node, &["create", "configmap", name]);
            written.or_else(|_| cluster.try_kubectl(node, &["get", "configmap", name])).ok()
        })
    };
    for node in ["node-1", "node-2", "node-3"] {
        write(node, &format!("from-{node}"));
    }
    assert_eq!(settled("node-1"), Some(term), "nobody stands for election while all is as it was");

    let leader = cluster.leader("node-1");
    cluster.lab.kill(&leader, Scope::Daemon).expect("it can be killed");
    let other = ["node-1", "node-2"].into_iter().find(|node| *node != leader).unwrap_or_default();
    write(other, "without-its-leader");
    cluster.lab.start(&leader).expect("it can be started");

    cluster.lab.smooth().expect("links can be short again");
    skein_cluster_tests::until("the cluster is as fast as its links", minute, || {
        let status = cluster.status(other);
        (status["quorum"] == true && status["pace"] == 1).then_some(())
    });
}

#[test]
fn the_region_leads_that_most_writes_come_from() {
    let cluster = Cluster::build(&Plan { regions: 3, ..Plan::new(3) });
    cluster.until("every region votes", || {
        let status = cluster.status("node-1");
        let roles = status["nodes"].as_array()?.iter().filter_map(|node| node["role"].as_str());
        (roles.filter(|role| matches!(*role, "leader" | "voter")).count() == 3).then_some(())
    });
    let leader = cluster.leader("node-1");
    let writer = if leader == "node-3" { 2 } else { 3 };
    let name = format!("node-{writer}");
    let mut count = 0;
    skein_cluster_tests::until("the writers' region leads", Duration::from_secs(90), || {
        count += 1;
        let body = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("write-{count}")}});
        cluster.request(writer, "POST", "/api/v1/namespaces/default/configmaps", Some(&body.to_string()));
        (cluster.leader("node-1") == name).then_some(())
    });
    let events = cluster.kubectl("node-1", &["get", "events", "--field-selector", "reason=LeaderMoved"]);
    assert!(events.contains("came from region") && events.contains(&format!("{name} leads instead of {leader}")), "{events}");
}

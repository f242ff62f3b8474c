//! Jobs, CronJobs and DaemonSets, and a leader that dies in the middle of one.

use serde_json::Value;
use skein_cluster_tests::{BUSYBOX, Cluster};
use skein_lab::Scope;

fn field(cluster: &Cluster, node: &str, what: &str, path: &str) -> String {
    cluster.try_kubectl(node, &["get", what, "-o", &format!("jsonpath={{{path}}}")]).unwrap_or_default()
}

#[test]
fn jobs_run_to_completion_and_fail_as_kubernetes_says() {
    let cluster = Cluster::start();
    cluster.load_busybox();
    let job = |name: &str, spec: &str, command: &str| {
        format!(
            "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: {name}}}\nspec:\n{spec}  template:\n    spec:\n      restartPolicy: Never\n      terminationGracePeriodSeconds: 0\n      containers: [{{name: c, image: \"{BUSYBOX}\", command: [sh, -c, {command:?}]}}]\n---\n"
        )
    };
    let manifest = [
        job("many", "  completions: 5\n  parallelism: 2\n", "true"),
        job(
            "indexed",
            "  completions: 3\n  parallelism: 3\n  completionMode: Indexed\n",
            "echo index $JOB_COMPLETION_INDEX on $(hostname)",
        ),
        job("bad", "  backoffLimit: 0\n", "exit 3"),
        job("slow", "  activeDeadlineSeconds: 2\n", "sleep 1000"),
        job("short", "  ttlSecondsAfterFinished: 1\n", "true"),
        job("held", "  suspend: true\n", "true"),
        job(
            "picky",
            "  backoffLimit: 5\n  podFailurePolicy: {rules: [{action: FailJob, onExitCodes: {operator: In, values: [42]}}]}\n",
            "exit 42",
        ),
        job(
            "each",
            "  completions: 3\n  parallelism: 3\n  completionMode: Indexed\n  backoffLimitPerIndex: 0\n",
            "test $JOB_COMPLETION_INDEX != 1",
        ),
        job(
            "enough",
            "  completions: 3\n  parallelism: 3\n  completionMode: Indexed\n  successPolicy: {rules: [{succeededIndexes: \"0\"}]}\n",
            "test $JOB_COMPLETION_INDEX = 0 || sleep 1000",
        ),
    ];
    cluster.apply("node-2", &manifest.concat());
    let condition = |name: &str, kind: &str| {
        field(&cluster, "node-1", &format!("job/{name}"), &format!(".status.conditions[?(@.type==\"{kind}\")].reason"))
    };
    cluster.until("five have succeeded", || (condition("many", "Complete") == "CompletionsReached").then_some(()));
    assert_eq!(field(&cluster, "node-3", "job/many", ".status.succeeded"), "5");
    let pods = cluster.kubectl("node-1", &["get", "pods", "-l", "job-name=many", "-o", "name"]);
    assert_eq!(pods.lines().count(), 5, "no Pod more than were asked for: {pods}");
    cluster.until("all indexes have", || (field(&cluster, "node-2", "job/indexed", ".status.completedIndexes") == "0-2").then_some(()));
    let logs = cluster.kubectl("node-1", &["logs", "-l", "batch.kubernetes.io/job-completion-index=1,job-name=indexed"]);
    assert_eq!(logs.trim(), "index 1 on indexed-1");
    cluster.until("an exit code fails its Job", || (condition("picky", "Failed") == "PodFailurePolicy").then_some(()));
    assert_eq!(field(&cluster, "node-3", "job/picky", ".status.failed"), "1");
    cluster.until("an index fails alone", || (condition("each", "Failed") == "FailedIndexes").then_some(()));
    let indexes = |which: &str| field(&cluster, "node-2", "job/each", &format!(".status.{which}Indexes"));
    assert_eq!((indexes("failed"), indexes("completed")), ("1".into(), "0,2".into()));
    cluster.until("one index is enough", || (condition("enough", "Complete") == "SuccessPolicy").then_some(()));
    cluster.until("the bad one has failed", || (condition("bad", "Failed") == "BackoffLimitExceeded").then_some(()));
    cluster.until("the slow one has, too", || (condition("slow", "Failed") == "DeadlineExceeded").then_some(()));
    cluster.until("its Pod is gone", || {
        cluster.kubectl("node-1", &["get", "pods", "-l", "job-name=slow", "-o", "name"]).is_empty().then_some(())
    });
    cluster.until("the short-lived one is gone", || cluster.try_kubectl("node-1", &["get", "job", "short"]).is_err().then_some(()));
    assert_eq!(condition("held", "Suspended"), "JobSuspended");
    assert!(cluster.kubectl("node-1", &["get", "pods", "-l", "job-name=held", "-o", "name"]).is_empty());
    cluster.kubectl("node-3", &["patch", "job", "held", "-p", "{\"spec\":{\"suspend\":false}}"]);
    cluster.until("the one that was held has run", || (condition("held", "Complete") == "CompletionsReached").then_some(()));
    let refused =
        cluster.try_kubectl("node-1", &["create", "job", "x", "--image=x", "--dry-run=server", "-o", "yaml"]).unwrap_or_else(|why| why);
    assert!(refused.contains("kind: Job"), "{refused}");
    let table = cluster.kubectl("node-1", &["get", "jobs"]);
    assert!(table.contains("5/5") && table.contains("COMPLETIONS"), "{table}");
}

#[test]
fn a_job_is_neither_done_twice_nor_forgotten_when_the_leader_dies() {
    let cluster = Cluster::start();
    cluster.load_busybox();
    // The daemon comes back: that is no lost node, whose Pods would go.
    let patient = "tolerations: [{key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 60}]";
    let job = format!(
        "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: long}}\nspec:\n  completions: 20\n  parallelism: 4\n  template:\n    spec:\n      {patient}\n      restartPolicy: Never\n      containers: [{{name: c, image: \"{BUSYBOX}\", command: [sleep, \"0.5\"]}}]\n"
    );
    cluster.apply("node-1", &job);
    cluster.until("some have succeeded", || {
        field(&cluster, "node-1", "job/long", ".status.succeeded").parse::<u32>().is_ok_and(|n| n >= 4).then_some(())
    });
    let leader = cluster.leader("node-1");
    cluster.lab.kill(&leader, Scope::Daemon).expect("the leader's daemon can be killed");
    let other = ["node-1", "node-2", "node-3"].into_iter().find(|n| *n != leader).expect("another node");
    cluster.until("another leads", || cluster.status(other)["leader"].as_str().filter(|now| *now != leader).map(String::from));
    cluster.lab.start(&leader).expect("the daemon can be started");
    cluster.until("all have succeeded", || (field(&cluster, other, "job/long", ".status.succeeded") == "20").then_some(()));
    let pods = cluster.kubectl_json(other, &["get", "pods", "-l", "job-name=long"]);
    let phase = |wanted: &str| pods["items"].as_array().into_iter().flatten().filter(|p| p["status"]["phase"] == wanted).count();
    assert_eq!(phase("Succeeded"), 20, "each completion is one Pod");
}

#[test]
fn cron_jobs_come_at_their_time_and_daemon_sets_are_on_every_node() {
    let cluster = Cluster::start();
    cluster.load_busybox();
    let manifest = format!(
        r#"
apiVersion: batch/v1
kind: CronJob
metadata: {{name: minutely}}
spec:
  schedule: "* * * * *"
  jobTemplate: {{spec: {{template: {{spec: {{restartPolicy: Never, containers: [{{name: c, image: "{BUSYBOX}", command: [echo, tick]}}]}}}}}}}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: everywhere}}
spec:
  selector: {{matchLabels: {{app: everywhere}}}}
  template:
    metadata: {{labels: {{app: everywhere}}}}
    spec: {{terminationGracePeriodSeconds: 0, containers: [{{name: c, image: "{BUSYBOX}", command: [sleep, "100000"]}}]}}
"#
    );
    cluster.apply("node-1", &manifest);
    let nodes = || -> Vec<String> {
        let pods = cluster.kubectl_json("node-2", &["get", "pods", "-l", "app=everywhere"]);
        let running = pods["items"].as_array().cloned().unwrap_or_default().into_iter();
        let live = running.filter(|p| p["status"]["phase"] == "Running" && p["metadata"]["deletionTimestamp"].is_null());
        let mut names: Vec<String> = live.filter_map(|p| p["spec"]["nodeName"].as_str().map(String::from)).collect();
        names.sort();
        names
    };
    cluster.until("one runs on each node", || (nodes() == ["node-1", "node-2", "node-3"]).then_some(()));
    cluster.kubectl("node-3", &["rollout", "status", "daemonset/everywhere", "--timeout=30s"]);
    // A taint that it does not tolerate takes it off a node; without it, it is back.
    cluster.kubectl("node-1", &["taint", "nodes", "node-3", "k=v:NoSchedule"]);
    cluster.until("the tainted node has none", || (nodes() == ["node-1", "node-2"]).then_some(()));
    cluster.kubectl("node-1", &["taint", "nodes", "node-3", "k-"]);
    cluster.until("it has one again", || (nodes() == ["node-1", "node-2", "node-3"]).then_some(()));
    // A cordon does not keep it away.
    cluster.kubectl("node-1", &["cordon", "node-2"]);
    cluster.kubectl("node-1", &["set", "env", "daemonset/everywhere", "NEW=1"]);
    cluster.kubectl("node-2", &["rollout", "status", "daemonset/everywhere", "--timeout=60s"]);
    let pods = cluster.kubectl_json("node-1", &["get", "pods", "-l", "app=everywhere"]);
    let live = |p: &&Value| p["metadata"]["deletionTimestamp"].is_null();
    let new = pods["items"].as_array().into_iter().flatten().filter(live).filter(|p| p.to_string().contains("\"NEW\"")).count();
    assert_eq!(new, 3);
    // Back to what it was, by its history; and a new Pod beside each old one, where that is asked for.
    assert_eq!(
        cluster.kubectl("node-3", &["rollout", "history", "daemonset/everywhere"]).lines().filter(|l| l.starts_with(['1', '2'])).count(),
        2
    );
    let versions = |wanted: &str| {
        let pods = cluster.kubectl_json("node-1", &["get", "pods", "-l", "app=everywhere"]);
        let pods = pods["items"].as_array().cloned().unwrap_or_default();
        let live: Vec<_> = pods.iter().filter(|p| p["metadata"]["deletionTimestamp"].is_null()).collect();
        (live.len() == 3 && live.iter().all(|p| p.to_string().contains("\"NEW\"") == (wanted == "new"))).then_some(())
    };
    cluster.kubectl("node-2", &["rollout", "undo", "daemonset/everywhere"]);
    cluster.until("all are of the old template", || versions("old"));
    let strategy = r#"{"spec": {"updateStrategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}}}"#;
    cluster.kubectl("node-2", &["patch", "daemonset", "everywhere", "-p", strategy]);
    cluster.kubectl("node-1", &["set", "env", "daemonset/everywhere", "NEW=2"]);
    cluster.kubectl("node-3", &["rollout", "status", "daemonset/everywhere", "--timeout=60s"]);
    cluster.until("all are of the new template", || versions("new"));
    // The next full minute is at most a minute away.
    let ticked = || {
        let jobs = cluster.kubectl(
            "node-3",
            &["get", "jobs", "-o", "jsonpath={.items[0].metadata.ownerReferences[0].name} {.items[0].status.succeeded}"],
        );
        (jobs == "minutely 1").then_some(())
    };
    skein_cluster_tests::until("the schedule's minute has come", std::time::Duration::from_secs(90), || {
        cluster.try_kubectl("node-3", &["get", "jobs", "-o", "name"]).ok().filter(|names| !names.is_empty()).and_then(|_| ticked())
    });
}

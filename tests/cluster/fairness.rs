//! One greedy client does not take a node from the others: priority levels and their flows.

use std::process::{Command, Stdio};

use skein_cluster_tests::Cluster;

const LEVEL: &str = "
apiVersion: v1
kind: ServiceAccount
metadata: {name: greedy}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: modest}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: accounts-look}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}
subjects: [{kind: Group, name: 'system:serviceaccounts', apiGroup: rbac.authorization.k8s.io}]
---
apiVersion: flowcontrol.apiserver.k8s.io/v1
kind: FlowSchema
metadata: {name: greedy}
spec:
  priorityLevelConfiguration: {name: narrow}
  matchingPrecedence: 500
  distinguisherMethod: {type: ByUser}
  rules:
  - subjects: [{kind: ServiceAccount, serviceAccount: {name: greedy, namespace: default}}]
    resourceRules: [{verbs: ['*'], apiGroups: ['*'], resources: ['*'], namespaces: ['*'], clusterScope: true}]
";

const NARROW: &str = "
apiVersion: flowcontrol.apiserver.k8s.io/v1
kind: PriorityLevelConfiguration
metadata: {name: narrow}
spec:
  type: Limited
  limited: {nominalConcurrencyShares: 1, borrowingLimitPercent: 0, limitResponse: {type: Reject}}
";

/// Asks a node the same many times at once; the answers' codes, each with the headers that say why.
fn flood(cluster: &Cluster, token: &str) -> Command {
    let [ca, ..] = cluster.credentials();
    let mut command = Command::new("curl");
    command.args([
        "-sS",
        "-Z",
        "--no-progress-meter",
        "--parallel-immediate",
        "--parallel-max",
        "60",
        "--max-time",
        "20",
        "-o",
        "/dev/null",
    ]);
    command.args(["-w", "%{http_code} %header{retry-after} %header{x-kubernetes-pf-flowschema-uid}\\n", "--cacert"]).arg(ca);
    command.args(["-H", &format!("Authorization: Bearer {token}")]);
    command.arg(format!("https://{}:6443/api/v1/namespaces/default/pods?limit=[1-600]", Cluster::address(1)));
    command
}

#[test]
fn a_greedy_client_is_told_to_come_back_and_others_are_served() {
    let cluster = Cluster::start();
    cluster.apply("node-2", LEVEL);
    let dangling = |node: &str| {
        let condition = "jsonpath={.status.conditions[?(@.type=='Dangling')].status}";
        cluster.kubectl(node, &["get", "flowschema", "greedy", "-o", condition])
    };
    cluster.until("a schema without its level is said to dangle", || (dangling("node-1") == "True").then_some(()));
    cluster.apply("node-2", NARROW);
    cluster.until("its level is there", || (dangling("node-3") == "False").then_some(()));
    let schema = cluster.kubectl("node-1", &["get", "flowschema", "greedy", "-o", "jsonpath={.metadata.uid}"]);

    let token = |account: &str| cluster.kubectl("node-1", &["create", "token", account]).trim().to_string();
    let (greedy, modest) = (token("greedy"), token("modest"));
    let begun = flood(&cluster, &greedy).stdout(Stdio::piped()).spawn().expect("curl can be run");
    for _ in 0..20 {
        assert_eq!(cluster.request_as(1, Some(&modest), "/api/v1/namespaces/default/pods").0, 200);
    }
    let answers = String::from_utf8_lossy(&begun.wait_with_output().expect("curl ends").stdout).into_owned();
    let count = |prefix: &str| answers.lines().filter(|line| line.starts_with(prefix)).count();
    assert!(count("200 ") > 0 && count("429 1") > 0 && count("200 ") + count("429 1") == 600, "{answers}");
    let served = answers.lines().find(|line| line.starts_with("200")).unwrap_or_default();
    assert!(served.ends_with(&schema), "{served} is not by {schema}");

    let metrics = cluster.kubectl("node-1", &["get", "--raw", "/metrics"]);
    let refused = r#"apiserver_flowcontrol_rejected_requests_total{priority_level="narrow",reason="queue-full"}"#;
    assert!(metrics.lines().any(|line| line.starts_with(refused)), "{metrics}");

    // In a queue they wait for each other, and nobody is refused.
    let queue = r#"{"spec":{"limited":{"limitResponse":{"type":"Queue","queuing":{"queues":8,"handSize":4,"queueLengthLimit":100}}}}}"#;
    cluster.kubectl("node-1", &["patch", "prioritylevelconfiguration", "narrow", "--type=merge", "-p", queue]);
    let waited = flood(&cluster, &greedy).output().expect("curl can be run");
    let waited = String::from_utf8_lossy(&waited.stdout).into_owned();
    assert!(waited.lines().all(|line| line.starts_with("200 ")) && waited.lines().count() == 600, "{waited}");
}

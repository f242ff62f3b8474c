//! Who somebody is and what he may: tokens of ServiceAccounts, roles and bindings, impersonation; and that it is written down.

use skein_cluster_tests::{BUSYBOX, Cluster};

const ROBOT: &str = "
apiVersion: v1
kind: ServiceAccount
metadata: {name: robot}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader}
rules: [{apiGroups: ['apps'], resources: ['deployments', 'deployments/scale'], verbs: ['get', 'list']}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: robot-reads}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects: [{kind: ServiceAccount, name: robot, namespace: default}]
";

#[test]
fn a_pod_is_its_account_to_every_node() {
    let cluster = Cluster::start();
    cluster.load_busybox();
    cluster.apply("node-1", ROBOT);
    let overrides = r#"{"spec":{"serviceAccountName":"robot"}}"#;
    let run = ["run", "caller", "--image", BUSYBOX, "--restart=Never", "--overrides", overrides, "--command", "--", "sleep", "600"];
    cluster.kubectl("node-2", &run);
    cluster.kubectl("node-3", &["wait", "pod/caller", "--for=condition=Ready", "--timeout=60s"]);
    let read = |file: &str| {
        let path = format!("/var/run/secrets/kubernetes.io/serviceaccount/{file}");
        cluster.kubectl("node-1", &["exec", "caller", "--", "cat", &path])
    };
    assert_eq!(read("namespace"), "default");
    assert!(read("ca.crt").starts_with("-----BEGIN CERTIFICATE-----"));
    let token = read("token");

    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    for node in 1..=3 {
        cluster.until("every node knows the key", || (cluster.request_as(node, Some(&token), deployments).0 == 200).then_some(()));
        let (code, status) = cluster.request_as(node, Some(&token), "/api/v1/namespaces/default/secrets");
        assert_eq!(code, 403);
        assert_eq!(
            status["message"],
            "secrets is forbidden: User \"system:serviceaccount:default:robot\" cannot list resource \"secrets\" in API group \"\" in the namespace \"default\""
        );
    }
    assert_eq!(cluster.request_as(1, Some(&token), "/apis/apps/v1/namespaces/kube-system/deployments").0, 403);

    // A binding that goes takes its grants along, at once; a token ends with its Pod.
    cluster.kubectl("node-2", &["delete", "rolebinding", "robot-reads"]);
    cluster.until("the grant is gone", || (cluster.request_as(3, Some(&token), deployments).0 == 403).then_some(()));
    cluster.kubectl("node-1", &["delete", "pod", "caller", "--now"]);
    cluster.until("the token has ended", || (cluster.request_as(2, Some(&token), deployments).0 == 401).then_some(()));
}

#[test]
fn strangers_see_health_and_nothing_else() {
    let cluster = Cluster::with_nodes(1);
    let code = |token: Option<&str>, path: &str| cluster.request_as(1, token, path).0;
    assert_eq!([code(None, "/version"), code(None, "/livez")], [200, 200]);
    assert_eq!([code(None, "/api"), code(None, "/api/v1/pods")], [403, 403]);
    assert_eq!(code(Some("nonsense"), "/api/v1/pods"), 401);

    // The default roles are there, those that are made of others included.
    cluster.apply("node-1", ROBOT);
    cluster.kubectl("node-1", &["create", "rolebinding", "v", "--clusterrole=view", "--serviceaccount=default:robot"]);
    let token = cluster.kubectl("node-1", &["create", "token", "robot", "--duration=10m"]);
    cluster.until("the view role has its rules", || (code(Some(token.trim()), "/api/v1/namespaces/default/pods") == 200).then_some(()));
    assert_eq!(code(Some(token.trim()), "/api/v1/namespaces/default/secrets"), 403);
    assert_eq!(code(Some(token.trim()), "/apis"), 200);

    let can_i = |user: &str, what: [&str; 2]| {
        let asked = cluster.try_kubectl("node-1", &["auth", "can-i", what[0], what[1], "--as", user]);
        asked.is_ok_and(|answer| answer.trim() == "yes")
    };
    let robot = "system:serviceaccount:default:robot";
    assert!(can_i(robot, ["get", "pods"]) && !can_i(robot, ["delete", "pods"]) && !can_i("bob", ["get", "pods"]));
    let refused = cluster.try_kubectl("node-1", &["get", "nodes", "--as", "bob"]).expect_err("bob may nothing");
    assert!(refused.contains("User \"bob\" cannot list resource \"nodes\" in API group \"\" at the cluster scope"), "{refused}");
    let who = cluster.kubectl_json("node-1", &["auth", "whoami", "--as", "bob", "--as-group", "crew"]);
    assert_eq!(who["status"]["userInfo"]["groups"], serde_json::json!(["crew", "system:authenticated"]));
}

const AUDIT_POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: RequestResponse, resources: [{group: '', resources: [configmaps]}], namespaces: [default]}
- {level: Metadata, resources: [{group: '', resources: [secrets]}], namespaces: [default]}
";

/// Every event of the log, oldest first.
fn audited(path: &std::path::Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("each line is an event")).collect()
}

#[test]
fn who_asked_what_is_written_down() {
    let directory = std::env::temp_dir().join(format!("skein-audit-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let (log, policy) = (directory.join("audit.log"), directory.join("policy.yaml"));
    std::fs::write(&policy, AUDIT_POLICY).expect("the policy is written");
    let arguments = vec![format!("--audit-log-path={}", log.display()), format!("--audit-policy-file={}", policy.display())];
    let cluster = Cluster::build(&skein_lab::Plan { arguments, ..skein_lab::Plan::new(1) });

    cluster.kubectl("node-1", &["create", "configmap", "seen", "--from-literal=color=red"]);
    cluster.kubectl("node-1", &["create", "secret", "generic", "hidden", "--from-literal=color=red"]);
    cluster.kubectl("node-1", &["get", "configmap", "seen", "--as=ada", "--as-group=system:masters"]);
    cluster.kubectl("node-1", &["patch", "configmap", "seen", "--type=json", "-p", r#"[{"op":"remove","path":"/data/color"}]"#]);
    assert_eq!(cluster.request_as(1, Some("nonsense"), "/api/v1/namespaces/default/configmaps/seen").0, 401);
    let watched = cluster.watch(1, "/api/v1/namespaces/default/configmaps?watch=1&timeoutSeconds=1").join().expect("the watch ends");
    assert!(!watched.is_empty());

    let told = |verb: &str, resource: &str, code: u64, stage: &str| {
        cluster.until("the log tells", || {
            audited(&log).into_iter().find(|event| {
                let of = &event["objectRef"]["resource"];
                event["verb"] == verb && of == resource && event["responseStatus"]["code"] == code && event["stage"] == stage
            })
        })
    };
    let created = told("create", "configmaps", 201, "ResponseComplete");
    assert_eq!(created["requestObject"]["data"]["color"], "red");
    assert_eq!(told("patch", "configmaps", 200, "ResponseComplete")["requestObject"][0]["op"], "remove");
    assert_eq!(created["responseObject"]["metadata"]["name"], "seen");
    assert!(created["user"]["groups"].to_string().contains("system:masters"), "{created}");
    let secret = told("create", "secrets", 201, "ResponseComplete");
    assert_eq!((&secret["level"], secret.get("requestObject"), secret.get("responseObject")), (&"Metadata".into(), None, None));
    assert_eq!(told("get", "configmaps", 200, "ResponseComplete")["impersonatedUser"]["username"], "ada");
    assert_eq!(told("get", "configmaps", 401, "ResponseComplete")["user"]["username"], "");
    let (began, ended) = (told("watch", "configmaps", 200, "ResponseStarted"), told("watch", "configmaps", 200, "ResponseComplete"));
    assert!(began["stageTimestamp"].as_str() < ended["stageTimestamp"].as_str(), "{began} {ended}");
    assert!(audited(&log).iter().all(|event| event["objectRef"]["namespace"] == "default"), "nothing else is kept");
    std::fs::remove_dir_all(directory).expect("it can be removed");
}

#[test]
fn a_node_sees_and_writes_what_is_its_own() {
    let cluster = Cluster::start();
    cluster.load_busybox();
    let ask = |method: &str, path: &str, body: &str| -> (String, String) {
        let pki = "/var/lib/skein-lab/nodes/node-2/data/pki";
        let mut command = std::process::Command::new("curl");
        command.args(["-sS", "--max-time", "8", "-X", method, "-w", "\n%{http_code}", "--cacert", &format!("{pki}/ca.crt")]);
        command.args(["--cert", &format!("{pki}/node.pem"), "-H", "Content-Type: application/merge-patch+json"]);
        if !body.is_empty() {
            command.args(["--data-binary", body]);
        }
        let output = command.arg(format!("https://{}:6443{path}", Cluster::address(1))).output().expect("curl can be run");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, code) = text.rsplit_once('\n').expect("a code");
        (code.to_string(), body.to_string())
    };
    let code = |method: &str, path: &str, body: &str| ask(method, path, body).0;
    for secret in ["own", "other"] {
        cluster.kubectl("node-1", &["create", "secret", "generic", secret, "--from-literal=k=v"]);
    }
    for (pod, node, secret) in [("here", "node-2", "own"), ("there", "node-3", "other")] {
        let overrides = format!(
            r#"{{"spec":{{"nodeName":"{node}","terminationGracePeriodSeconds":0,"volumes":[{{"name":"v","secret":{{"secretName":"{secret}"}}}}]}}}}"#
        );
        let run = ["run", pod, "--image", BUSYBOX, "--restart=Never", "--overrides", &overrides, "--command", "--", "sleep", "600"];
        cluster.kubectl("node-1", &run);
    }
    let secrets = "/api/v1/namespaces/default/secrets";
    assert_eq!(code("GET", &format!("{secrets}/own"), ""), "200");
    assert_eq!(code("GET", &format!("{secrets}?fieldSelector=metadata.name%3Down"), ""), "200");
    for denied in ["/other", "", "?fieldSelector=metadata.name%3Dother"] {
        assert_eq!(code("GET", &format!("{secrets}{denied}"), ""), "403", "{denied}");
    }
    let pods = "/api/v1/pods";
    assert_eq!(code("GET", &format!("{pods}?fieldSelector=spec.nodeName%3Dnode-2"), ""), "200");
    assert_eq!((code("GET", pods, ""), code("GET", "/api/v1/namespaces/default/pods/there", "")), ("403".into(), "403".into()));
    assert_eq!((code("GET", "/api/v1/nodes/node-2", ""), code("GET", "/api/v1/nodes/node-3", "")), ("200".into(), "403".into()));
    assert_eq!(code("GET", "/api/v1/services", ""), "200");

    let label = |node: &str, label: &str| {
        ask("PATCH", &format!("/api/v1/nodes/{node}"), &format!(r#"{{"metadata":{{"labels":{{"{label}":"x"}}}}}}"#))
    };
    assert_eq!(label("node-2", "example.com/a").0, "200");
    let (refused, told) = label("node-2", "node-restriction.kubernetes.io/a");
    assert!(refused == "403" && told.contains("is not allowed to modify labels: node-restriction.kubernetes.io/a"), "{told}");
    let (refused, told) = label("node-3", "example.com/a");
    let why = r#"node \"node-2\" is not allowed to modify node \"node-3\""#;
    assert!(refused == "403" && told.contains(why), "{told}");
    let phase = |pod: &str| code("PATCH", &format!("/api/v1/namespaces/default/pods/{pod}/status"), r#"{"status":{"message":"m"}}"#);
    assert_eq!((phase("here"), phase("there")), ("200".into(), "403".into()));
    let delete = |pod: &str| code("DELETE", &format!("/api/v1/namespaces/default/pods/{pod}"), "");
    assert_eq!((delete("there"), delete("here")), ("403".into(), "200".into()));
}

//! What a Pod says and what its containers find: variables, files and their owners, names, last words, probes over TLS.
//! Each container tells by its log or its end; the answers are Kubernetes'.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use skein_cluster_tests::{BUSYBOX, Cluster, on_both_runtimes};
use skein_lab::{Plan, Runtime, Scope};

on_both_runtimes!(containers_find_what_their_pod_says, containers_start_again_by_their_own_rules);

const MANIFEST: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: my-db}
spec: {selector: {app: none}, ports: [{name: sql, port: 5432}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {a.txt: "one", b.txt: "two"}
---
apiVersion: v1
kind: Pod
metadata: {name: tells, labels: {app: tells}}
spec:
  restartPolicy: Never
  hostname: host
  subdomain: sub
  securityContext: {runAsUser: 1000, fsGroup: 3000, sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: "80"}]}
  volumes:
  - {name: work, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory}}
  - {name: settings, configMap: {name: settings, defaultMode: 0400}}
  containers:
  - name: c
    image: IMAGE
    env:
    - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: DATABASE, value: "$(MY_DB_SERVICE_HOST):$(MY_DB_SERVICE_PORT_SQL)"}
    - {name: CORES, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}
    - {name: MEBIBYTES, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}
    resources: {limits: {cpu: 1500m, memory: 64Mi}}
    volumeMounts:
    - {name: work, mountPath: /work}
    - {name: work, mountPath: /own, subPathExpr: $(POD)/deep}
    - {name: memory, mountPath: /memory}
    - {name: settings, mountPath: /settings}
    - {name: settings, mountPath: /a.txt, subPath: a.txt}
    command: [sh, -c]
    args:
    - |
      touch /own/mine /memory/mine
      echo "api=$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT"
      echo "database=$([ "$DATABASE" = "$MY_DB_SERVICE_HOST:5432" ] && echo found)"
      echo "cores=$CORES mebibytes=$MEBIBYTES"
      echo "own=$(ls /work/tells/deep)"
      echo "group=$(stat -c %g:%a /work) $(stat -c %g /own/mine) $(stat -c %g /memory/mine)"
      echo "settings=$(cat /settings/b.txt) $(stat -L -c %g:%a /settings/b.txt) $(cat /a.txt)"
      echo "names=$(hostname) $(grep -c host.sub.default.svc.cluster.local /etc/hosts)"
      echo "sysctl=$(cat /proc/sys/net/ipv4/ip_unprivileged_port_start)"
      echo "token=$(stat -L -c %u:%g:%a /var/run/secrets/kubernetes.io/serviceaccount/token)"
      printf 'last words' > /dev/termination-log
      exit 3
---
apiVersion: v1
kind: Pod
metadata: {name: says-nothing}
spec:
  restartPolicy: Never
  containers:
  - {name: c, image: IMAGE, command: [sh, -c, "echo from the log; exit 1"], terminationMessagePolicy: FallbackToLogsOnError}
---
apiVersion: v1
kind: Pod
metadata: {name: leads-out}
spec:
  restartPolicy: Never
  volumes: [{name: work, emptyDir: {}}]
  containers:
  - {name: c, image: IMAGE, command: [sh, -c, "true"], env: [{name: UP, value: ../..}], volumeMounts: [{name: work, mountPath: /x, subPathExpr: $(UP)}]}
---
apiVersion: v1
kind: Pod
metadata: {name: gated}
spec:
  readinessGates: [{conditionType: example.com/gate}]
  containers: [{name: c, image: IMAGE, command: [sleep, "100000"]}]
"#;

fn field(cluster: &Cluster, name: &str, path: &str) -> String {
    cluster.kubectl("node-2", &["get", "pod", name, "-o", &format!("jsonpath={{{path}}}")])
}

fn containers_find_what_their_pod_says(runtime: Runtime) {
    let cluster = Cluster::with_runtime(runtime, &[]);
    cluster.load_busybox();
    cluster.apply("node-1", &MANIFEST.replace("IMAGE", BUSYBOX));
    cluster.until("the Pod has told", || (field(&cluster, "tells", ".status.phase") == "Failed").then_some(()));
    let told = cluster.kubectl("node-3", &["logs", "tells"]);
    let expected = [
        "api=10.96.0.1:443",
        "database=found",
        "cores=2 mebibytes=64",
        "own=mine",
        "group=3000:2777 3000 3000",
        "settings=two 3000:440 one",
        "names=host 1",
        "sysctl=80",
        "token=1000:3000:640",
    ];
    assert_eq!(told.lines().collect::<Vec<_>>(), expected);
    let ended = ".status.containerStatuses[0].state.terminated";
    assert_eq!(field(&cluster, "tells", &format!("{ended}.message")), "last words");
    cluster.until("the other has ended", || (field(&cluster, "says-nothing", ".status.phase") == "Failed").then_some(()));
    let said = cluster.websocket(2, "/api/v1/namespaces/default/pods/says-nothing/log", "base64.binary.k8s.io");
    for part in ["101 Switching Protocols", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "base64.binary.k8s.io", "ZnJvbSB0aGUgbG9nCg=="] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let path = "/api/v1/namespaces/default/pods?watch=1&fieldSelector=metadata.name%3Dsays-nothing&timeoutSeconds=1";
    let seen = cluster.websocket(3, path, "any");
    assert!(seen.contains("101 Switching Protocols") && seen.contains(r#"{"type":"ADDED","object":{"#), "{seen}");
    let seen = cluster.websocket(3, path, "any\r\nAccept: application/vnd.kubernetes.protobuf;stream=watch");
    assert!(seen.contains("ADDED") && seen.contains("k8s\0") && !seen.contains("\"type\""), "{seen}");
    cluster.kubectl("node-1", &["create", "rolebinding", "looks", "--clusterrole=view", "--serviceaccount=default:default"]);
    let token = URL_SAFE_NO_PAD.encode(cluster.kubectl("node-2", &["create", "token", "default"]).trim());
    let bearer = format!("base64url.bearer.authorization.k8s.io.{token}");
    cluster.until("a token among the protocols is believed", || {
        let seen = cluster.websocket(3, path, &format!("{bearer}, any"));
        (seen.contains("Sec-WebSocket-Protocol: any") || seen.contains("sec-websocket-protocol: any")).then_some(())
    });
    let wrong = cluster.websocket(3, path, "base64url.bearer.authorization.k8s.io.bm9uZQ, any");
    assert!(wrong.contains("401 Unauthorized"), "{wrong}");
    assert_eq!(field(&cluster, "says-nothing", &format!("{ended}.message")), "from the log\n");
    // A path that leads out of its volume starts nothing.
    let waiting = ".status.containerStatuses[0].state.waiting";
    cluster.until("the wrong path is told", || {
        (field(&cluster, "leads-out", &format!("{waiting}.reason")) == "CreateContainerConfigError").then_some(())
    });
    let why = field(&cluster, "leads-out", &format!("{waiting}.message"));
    assert!(why.contains("must not contain '..'"), "{why}");
    // Ready when its container is and its gate is open; what the kubelet writes later leaves the gate alone.
    let condition = |kind: &str| field(&cluster, "gated", &format!(".status.conditions[?(@.type==\"{kind}\")].status"));
    cluster.until("the container is ready", || (condition("ContainersReady") == "True").then_some(()));
    assert_eq!(condition("Ready"), "False");
    let open = r#"{"status":{"conditions":[{"type":"example.com/gate","status":"True"}]}}"#;
    cluster.kubectl("node-2", &["patch", "pod", "gated", "--subresource=status", "--type=strategic", "-p", open]);
    cluster.until("the gate is open", || (condition("Ready") == "True" && condition("example.com/gate") == "True").then_some(()));
}

fn containers_start_again_by_their_own_rules(runtime: Runtime) {
    let cluster = Cluster::with_runtime(runtime, &[]);
    cluster.load_busybox();
    let rule = |action: &str, code: i32| {
        format!("restartPolicy: Never, restartPolicyRules: [{{action: {action}, exitCodes: {{operator: In, values: [{code}]}}}}]")
    };
    let pod = |name: &str, rest: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n  terminationGracePeriodSeconds: 1\n  volumes: [{{name: s, emptyDir: {{}}}}]\n{rest}"
        )
    };
    let container = |name: &str, script: &str, more: &str| {
        format!(
            "  - {{name: {name}, image: \"{BUSYBOX}\", command: [sh, -c, \"{script}\"], volumeMounts: [{{name: s, mountPath: /s}}]{more}}}\n"
        )
    };
    // One container of a Pod that restarts nothing is started again for one code, and then ends with another.
    let again =
        container("main", "echo x >> /s/runs; test $(wc -l < /s/runs) = 2 && exit 3; exit 42", &format!(", {}", rule("Restart", 42)));
    cluster.apply("node-1", &pod("one", &format!("  containers:\n{again}")));
    let status = cluster.until("it has ended", || {
        let status = cluster.kubectl_json("node-2", &["get", "pod", "one"])["status"].clone();
        (status["phase"] == "Failed").then_some(status)
    });
    assert_eq!(status["containerStatuses"][0]["restartCount"], 1);
    assert_eq!(status["containerStatuses"][0]["state"]["terminated"]["exitCode"], 3);

    // Another's end lets the whole Pod begin anew, with what comes before its containers.
    let before = container("before", "echo x >> /s/inits", "");
    let watcher = container(
        "watcher",
        "test -e /s/seen && exec sleep 3600; touch /s/seen; sleep 1; exit 88",
        &format!(", {}", rule("RestartAllContainers", 88)),
    );
    let worker = container("worker", "echo x >> /s/works; exec sleep 3600", "");
    cluster.apply("node-3", &pod("all", &format!("  initContainers:\n{before}  containers:\n{watcher}{worker}")));
    cluster.until("all run again", || {
        let status = cluster.kubectl_json("node-1", &["get", "pod", "all"])["status"].clone();
        let all = [&status["initContainerStatuses"][0], &status["containerStatuses"][0], &status["containerStatuses"][1]];
        let again = all.iter().all(|one| one["restartCount"] == 1);
        (again && all[1]["ready"] == true && all[2]["ready"] == true).then_some(())
    });
    assert_eq!(cluster.kubectl("node-2", &["exec", "all", "-c", "worker", "--", "cat", "/s/inits", "/s/works"]).lines().count(), 4);
    let condition = "jsonpath={.status.conditions[?(@.type=='AllContainersRestarting')].status}";
    cluster.until("and it says that it is over", || {
        (cluster.kubectl("node-1", &["get", "pod", "all", "-o", condition]) == "False").then_some(())
    });
}

#[test]
fn a_node_runs_what_its_own_manifests_say() {
    let place = std::env::temp_dir().join(format!("skein-manifests-{}", std::process::id()));
    std::fs::create_dir_all(&place).expect("a directory");
    let write = |name: &str, script: &str| {
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers: [{{name: main, image: \"{BUSYBOX}\", command: [sh, -c, \"{script}\"]}}]\n"
        );
        std::fs::write(place.join(format!("{name}.yaml")), text).expect("a manifest");
    };
    write("own", "echo first; exec sleep 3600");
    let arguments = vec![format!("--pod-manifest-path={}", place.display())];
    let cluster = Cluster::build(&Plan { arguments, ..Plan::new(3) });
    cluster.load_busybox();
    let names = ["own-node-1", "own-node-2", "own-node-3"];
    for name in names {
        cluster.until("the API shows it", || cluster.try_kubectl("node-1", &["get", "pod", name]).ok());
        cluster.kubectl("node-2", &["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=60s"]);
        assert_eq!(cluster.kubectl("node-3", &["logs", name]).trim(), "first");
    }
    // Whoever deletes what the API shows stops nothing.
    let container =
        || cluster.try_kubectl("node-1", &["get", "pod", "own-node-2", "-o", "jsonpath={.status.containerStatuses[0].containerID}"]).ok();
    let before = container().expect("it is shown");
    cluster.kubectl("node-1", &["delete", "pod", "own-node-2", "--wait=false"]);
    let deleted = || cluster.try_kubectl("node-1", &["get", "pod", "own-node-2", "-o", "jsonpath={.metadata.deletionTimestamp}"]);
    cluster.until("it is shown again", || (deleted() == Ok(String::new()) && container().as_deref() == Some(&before)).then_some(()));
    // Another file is another Pod.
    write("own", "echo second; exec sleep 3600");
    cluster.until("all run the new one", || {
        let all = names.iter().all(|name| cluster.try_kubectl("node-1", &["logs", name]).is_ok_and(|log| log.trim() == "second"));
        all.then_some(())
    });
    // Where nobody answers, a node still runs what its files say, and no more of what they do not.
    for node in ["node-2", "node-3"] {
        cluster.lab.kill(node, Scope::Machine).expect("the machine can be killed");
    }
    write("alone", "exec sleep 12345");
    let processes = || {
        let entries = std::fs::read_dir("/proc").expect("there is /proc").flatten();
        entries.filter(|e| std::fs::read(e.path().join("cmdline")).is_ok_and(|line| line.starts_with(b"sleep\x0012345\0"))).count()
    };
    cluster.until("it runs without a quorum", || (processes() == 1).then_some(()));
    std::fs::remove_file(place.join("alone.yaml")).expect("the manifest can be removed");
    cluster.until("it has ended", || (processes() == 0).then_some(()));
    // A node that comes back forgets what has gone meanwhile.
    std::fs::remove_file(place.join("own.yaml")).expect("the manifest can be removed");
    for node in ["node-2", "node-3"] {
        cluster.lab.start(node).expect("the node can be started");
    }
    cluster.until("nothing is left", || {
        cluster.try_kubectl("node-2", &["get", "pods", "-o", "name"]).is_ok_and(|left| left.is_empty()).then_some(())
    });
    let _ = std::fs::remove_dir_all(place);
}

//! Ordinary manifests under an unmodified kubectl: real containers on three nodes.

use skein_cluster_tests::{BUSYBOX, Cluster};
use skein_lab::{Plan, Runtime};

skein_cluster_tests::on_both_runtimes!(
    a_deployment_runs_on_three_nodes_and_rolls,
    containers_restart_fail_and_end_as_kubernetes_says,
    nginx_and_a_replication_controller_serve,
    commands_run_in_containers,
    ports_are_forwarded,
    running_containers_are_resized,
    pods_are_looked_into_from_outside_and_inside,
    sidecars_surround_the_main_containers
);

fn web(replicas: usize, page: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: ConfigMap
metadata: {{name: page}}
data: {{index.html: "{page}"}}
---
apiVersion: v1
kind: Secret
metadata: {{name: token}}
stringData: {{key: hidden}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 1
      initContainers:
      - {{name: first, image: "{BUSYBOX}", command: [sh, -c, "echo prepared > /shared/state"], volumeMounts: [{{name: shared, mountPath: /shared}}]}}
      containers:
      - name: server
        image: {BUSYBOX}
        command: [sh, -c, "cat /shared/state; echo $KEY on $NODE; exec httpd -f -v -p 80 -h /www"]
        env:
        - {{name: KEY, valueFrom: {{secretKeyRef: {{name: token, key: key}}}}}}
        - {{name: NODE, valueFrom: {{fieldRef: {{fieldPath: spec.nodeName}}}}}}
        ports: [{{containerPort: 80}}]
        readinessProbe: {{httpGet: {{path: /index.html, port: 80}}}}
        resources: {{limits: {{memory: 32Mi, cpu: 200m}}}}
        volumeMounts: [{{name: www, mountPath: /www}}, {{name: shared, mountPath: /shared}}]
      volumes:
      - {{name: www, configMap: {{name: page}}}}
      - {{name: shared, emptyDir: {{}}}}
"#
    )
}

fn a_deployment_runs_on_three_nodes_and_rolls(runtime: Runtime) {
    let cluster = Cluster::with_runtime(runtime, &[]);
    cluster.load_busybox();
    cluster.apply("node-2", &web(6, "hello"));
    cluster.kubectl("node-3", &["rollout", "status", "deployment/web", "--timeout=90s"]);

    let pods = cluster.kubectl_json("node-1", &["get", "pods", "-l", "app=web"]);
    let pods = pods["items"].as_array().cloned().unwrap_or_default();
    let mut nodes: Vec<&str> = pods.iter().filter_map(|p| p["spec"]["nodeName"].as_str()).collect();
    nodes.sort_unstable();
    assert_eq!(nodes, ["node-1", "node-1", "node-2", "node-2", "node-3", "node-3"]);

    // From a Pod to one on another node, by its address, and without translation on the way.
    let pick = |node: &str| pods.iter().find(|p| p["spec"]["nodeName"] == node).cloned().unwrap_or_default();
    let (from, to) = (pick("node-1"), pick("node-2"));
    let text = |pod: &serde_json::Value, path: &str| pod.pointer(path).and_then(serde_json::Value::as_str).unwrap_or_default().to_string();
    let page = format!("http://{}/index.html", text(&to, "/status/podIP"));
    assert_eq!(cluster.kubectl("node-3", &["exec", &text(&from, "/metadata/name"), "--", "wget", "-qO-", &page]), "hello");
    let seen = cluster.kubectl("node-3", &["logs", &text(&to, "/metadata/name")]);
    assert!(seen.contains(&text(&from, "/status/podIP")), "the server saw another address: {seen}");

    // Every Pod is reached from every node, by its own address.
    for pod in &pods {
        let url = format!("http://{}/index.html", pod["status"]["podIP"].as_str().unwrap_or_default());
        for node in ["node-1", "node-2", "node-3"] {
            let command: Vec<String> = ["curl", "-sS", "--fail", "--max-time", "5", "-o", "/dev/null", &url].map(String::from).into();
            assert_eq!(cluster.lab.exec(node, &command).ok(), Some(0), "{node} does not reach {url}");
        }
    }

    // Logs of any Pod through any node: init container's work, Secret, downward API.
    let name = pods[0]["metadata"]["name"].as_str().unwrap_or_default();
    let place = pods[0]["spec"]["nodeName"].as_str().unwrap_or_default();
    for node in ["node-1", "node-2", "node-3"] {
        let log = cluster.kubectl(node, &["logs", name, "-c", "server"]);
        assert!(log.starts_with(&format!("prepared\nhidden on {place}\n")), "{log}");
    }
    assert_eq!(cluster.kubectl("node-1", &["logs", name, "-c", "server", "--tail=1"]).lines().count(), 1);

    cluster.kubectl("node-2", &["scale", "deployment/web", "--replicas=2"]);
    cluster.until("two Pods are left", || {
        let left = cluster.kubectl_json("node-3", &["get", "pods", "-l", "app=web"]);
        (left["items"].as_array().map(Vec::len) == Some(2)).then_some(())
    });

    // A new template rolls out, is in the history, and is undone.
    cluster.kubectl("node-1", &["set", "env", "deployment/web", "EXTRA=1"]);
    cluster.kubectl("node-1", &["rollout", "status", "deployment/web", "--timeout=60s"]);
    let history = cluster.kubectl("node-2", &["rollout", "history", "deployment/web"]);
    assert!(history.contains('1') && history.contains('2'), "{history}");
    cluster.kubectl("node-2", &["rollout", "undo", "deployment/web"]);
    cluster.kubectl("node-3", &["rollout", "status", "deployment/web", "--timeout=60s"]);
    let deployment = cluster.kubectl_json("node-3", &["get", "deployment", "web"]);
    assert_eq!(deployment["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "3");
    assert!(!deployment.to_string().contains("EXTRA"));

    // While it is paused a new template waits.
    cluster.kubectl("node-1", &["rollout", "pause", "deployment/web"]);
    cluster.kubectl("node-2", &["set", "env", "deployment/web", "PAUSED=1"]);
    cluster.until("the new template is observed", || {
        let seen = cluster.kubectl_json("node-3", &["get", "deployment", "web"]);
        (seen["status"]["observedGeneration"] == seen["metadata"]["generation"]).then_some(())
    });
    let sets =
        || cluster.kubectl("node-1", &["get", "replicasets", "-o", "jsonpath={.items[*].spec.template.spec.containers[0].env[*].name}"]);
    assert!(!sets().contains("PAUSED"));
    cluster.kubectl("node-3", &["rollout", "resume", "deployment/web"]);
    cluster.kubectl("node-1", &["rollout", "status", "deployment/web", "--timeout=60s"]);
    assert!(sets().contains("PAUSED"));

    // Deleting the Deployment takes its sets and Pods with it.
    cluster.kubectl("node-1", &["delete", "deployment", "web"]);
    cluster.until("everything is gone", || {
        let left = cluster.kubectl("node-2", &["get", "pods,replicasets", "-o", "name"]);
        left.trim().is_empty().then_some(())
    });
}

fn containers_restart_fail_and_end_as_kubernetes_says(runtime: Runtime) {
    let cluster = Cluster::build(&Plan { runtime, ..Plan::new(1) });
    cluster.load_busybox();
    let pod = |name: &str, policy: &str, script: &str, extra: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  restartPolicy: {policy}\n  containers:\n  - name: c\n    image: {BUSYBOX}\n    command: [sh, -c, \"{script}\"]\n{extra}"
        )
    };
    let manifest = [
        pod("done", "Never", "echo one; exit 0", ""),
        pod("failed", "Never", "exit 3", ""),
        pod("crashing", "Always", "echo attempt; exit 1", ""),
        pod(
            "sick",
            "Always",
            "sleep 1000",
            "    livenessProbe: {exec: {command: [cat, /nothing]}, periodSeconds: 1, failureThreshold: 1}\n",
        ),
        pod("absent", "Always", "sleep 1", "").replace(BUSYBOX, "skein.test/absent:1"),
        pod("unset", "Always", "sleep 1", "    env: [{name: A, valueFrom: {configMapKeyRef: {name: nothing, key: k}}}]\n"),
    ];
    cluster.apply("node-1", &manifest.concat());
    cluster.kubectl("node-1", &["create", "configmap", "typed", "--from-literal=a=b"]);
    let field = |name: &str, path: &str| cluster.kubectl("node-1", &["get", "pod", name, "-o", &format!("jsonpath={{{path}}}")]);
    let becomes = |name: &str, path: &str, wanted: &str| {
        cluster.until(&format!("{name}{path} is {wanted}"), || (field(name, path) == wanted).then_some(()));
    };
    becomes("done", ".status.phase", "Succeeded");
    assert_eq!(cluster.kubectl("node-1", &["logs", "done"]), "one\n");
    becomes("failed", ".status.phase", "Failed");
    becomes("failed", ".status.containerStatuses[0].state.terminated.exitCode", "3");
    becomes("crashing", ".status.containerStatuses[0].state.waiting.reason", "CrashLoopBackOff");
    assert_eq!(cluster.kubectl("node-1", &["logs", "crashing", "--previous"]), "attempt\n");
    cluster.until("the liveness probe restarts its container", || {
        field("sick", ".status.containerStatuses[0].restartCount").parse::<u32>().is_ok_and(|n| n > 0).then_some(())
    });
    cluster.until("the image cannot be pulled", || {
        field("absent", ".status.containerStatuses[0].state.waiting.reason").contains("Pull").then_some(())
    });
    becomes("unset", ".status.containerStatuses[0].state.waiting.reason", "CreateContainerConfigError");
    let events = cluster.kubectl("node-1", &["get", "events"]);
    assert!(events.contains("Unhealthy") && events.contains("Liveness probe failed"), "{events}");
}

/// nginx as Debian packages it: the program, the libraries it is linked to, a configuration.
fn nginx_archive(cluster: &Cluster) -> std::path::PathBuf {
    use skein_lab::image::{File, Image, write};
    let conf = cluster.directory().join("nginx.conf");
    let text = "daemon off; error_log stderr; pid /tmp/nginx.pid; events {} http { access_log off; client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f; uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s; server { listen 80; location / { return 200 \"served\\n\"; } } }\n";
    std::fs::write(&conf, text).expect("a file can be written");
    let passwd = cluster.directory().join("passwd");
    std::fs::write(&passwd, "root:x:0:0::/:\nnobody:x:65534:65534::/:\n").expect("a file can be written");
    let group = cluster.directory().join("group");
    std::fs::write(&group, "root:x:0:\nnogroup:x:65534:\n").expect("a file can be written");
    let linked = std::process::Command::new("ldd").arg("/usr/sbin/nginx").output().expect("ldd runs");
    let text = String::from_utf8_lossy(&linked.stdout).into_owned();
    let libraries = text.split_whitespace().filter(|word| word.starts_with('/'));
    let mut files: Vec<File> = libraries.map(|path| File { source: path.into(), path: path.trim_start_matches('/').into() }).collect();
    for (source, path) in
        [("/usr/sbin/nginx".into(), "usr/sbin/nginx"), (conf, "etc/nginx/nginx.conf"), (passwd, "etc/passwd"), (group, "etc/group")]
    {
        files.push(File { source, path: path.into() });
    }
    let archive = cluster.directory().join("nginx.tar");
    let links = [("var/log/nginx/keep", "/dev/null"), ("var/lib/nginx/keep", "/dev/null")];
    let image = Image {
        name: "skein.test/nginx:1.22",
        entrypoint: &["/usr/sbin/nginx", "-c", "/etc/nginx/nginx.conf"],
        files: &files,
        links: &links,
    };
    write(&archive, &image).expect("the image can be written");
    archive
}

fn nginx_and_a_replication_controller_serve(runtime: Runtime) {
    let cluster = Cluster::with_runtime(runtime, &[]);
    cluster.lab.load(&nginx_archive(&cluster)).expect("the image can be loaded");
    let controller = "apiVersion: v1\nkind: ReplicationController\nmetadata: {name: old}\nspec:\n  replicas: 3\n  template:\n    metadata: {labels: {app: old}}\n    spec: {terminationGracePeriodSeconds: 1, containers: [{name: nginx, image: \"skein.test/nginx:1.22\", ports: [{containerPort: 80}], livenessProbe: {tcpSocket: {port: 80}}}]}\n";
    cluster.apply("node-3", controller);
    let addresses = cluster.until("three Pods run", || {
        let pods = cluster.kubectl_json("node-1", &["get", "pods", "-l", "app=old"]);
        let ready = pods["items"]
            .as_array()?
            .iter()
            .filter(|p| p["status"]["phase"] == "Running")
            .filter_map(|p| p["status"]["podIP"].as_str().map(String::from));
        Some(ready.collect::<Vec<_>>()).filter(|found| found.len() == 3)
    });
    for address in &addresses {
        let command: Vec<String> = [
            "curl",
            "-sS",
            "--fail",
            "--retry",
            "5",
            "--retry-connrefused",
            "--max-time",
            "5",
            "-o",
            "/dev/null",
            &format!("http://{address}/"),
        ]
        .map(String::from)
        .into();
        assert_eq!(cluster.lab.exec("node-2", &command).ok(), Some(0), "{address} does not answer");
    }
    assert!(cluster.kubectl("node-2", &["get", "rc", "old"]).contains("3         3         3"));
    assert!(cluster.kubectl("node-1", &["describe", "rc", "old"]).contains("SuccessfulCreate"));
    // A container that dies is started again in place.
    let name = cluster.kubectl("node-1", &["get", "pods", "-l", "app=old", "-o", "jsonpath={.items[0].metadata.name}"]);
    cluster.kubectl("node-1", &["delete", "pod", &name, "--wait=false"]);
    cluster.until("a replacement is made", || {
        let pods = cluster.kubectl("node-2", &["get", "pods", "-l", "app=old", "-o", "name"]);
        (pods.lines().count() == 3 && !pods.contains(&name)).then_some(())
    });
    // A namespace takes its content with it.
    cluster.kubectl("node-1", &["create", "namespace", "short"]);
    cluster.kubectl("node-2", &["create", "configmap", "inside", "--namespace", "short"]);
    cluster.kubectl("node-3", &["delete", "namespace", "short"]);
    assert!(cluster.try_kubectl("node-1", &["get", "namespace", "short"]).is_err());
}

fn commands_run_in_containers(runtime: Runtime) {
    let mut cluster = Cluster::with_runtime(runtime, &[]);
    cluster.load_busybox();
    let manifest = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: box}}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers: [{{name: c, image: \"{BUSYBOX}\", stdin: true, command: [sh, -c, \"while read line; do echo heard $line; done; sleep 100000\"]}}]\n"
    );
    cluster.apply("node-1", &manifest);
    cluster.until("it runs", || {
        (cluster.kubectl("node-1", &["get", "pod", "box", "-o", "jsonpath={.status.phase}"]) == "Running").then_some(())
    });
    // As kubectl does it today, and over SPDY, as older clients do.
    for (websocket, word) in [("true", "first"), ("false", "second")] {
        cluster.environment = vec![("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websocket)];
        commands_run(&cluster, word);
    }
}

fn running_containers_are_resized(runtime: Runtime) {
    let cluster = Cluster::with_runtime(runtime, &[]);
    cluster.load_busybox();
    let container = |name: &str, policy: &str| {
        format!(
            "  - {{name: {name}, image: \"{BUSYBOX}\", command: [sleep, \"3600\"], resources: {{requests: {{cpu: 50m, memory: 16Mi}}, limits: {{memory: 64Mi}}}}{policy}}}\n"
        )
    };
    let manifest = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: box}}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n{}{}",
        container("a", ""),
        container("b", ", resizePolicy: [{resourceName: memory, restartPolicy: RestartContainer}]")
    );
    cluster.apply("node-1", &manifest);
    let status = |name: &str| {
        let pod = cluster.kubectl_json("node-2", &["get", "pod", "box"]);
        let statuses = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
        let found = statuses.into_iter().find(|s| s["name"] == name && s["state"]["running"].is_object())?;
        Some((found["resources"].clone(), found["restartCount"].as_u64()?, found["containerID"].clone()))
    };
    let (_, _, id) = cluster.until("both run", || status("b").and_then(|_| status("a")));
    let resize = |node: &str, name: &str, resources: &str| {
        let patch = format!(r#"{{"spec":{{"containers":[{{"name":"{name}","resources":{resources}}}]}}}}"#);
        cluster.try_kubectl(node, &["patch", "pod", "box", "--subresource", "resize", "-p", &patch])
    };
    resize("node-3", "a", r#"{"requests":{"cpu":"70m"},"limits":{"memory":"96Mi"}}"#).expect("it can be asked for");
    cluster.until("the container has it", || {
        status("a").filter(|(has, ..)| has["limits"]["memory"] == "96Mi" && has["requests"]["cpu"] == "70m")
    });
    assert_eq!(status("a").map(|(_, restarts, now)| (restarts, now)), Some((0, id)), "it has run on");
    let uid = cluster.kubectl("node-1", &["get", "pod", "box", "-o", "jsonpath={.metadata.uid}"]);
    let limited = std::process::Command::new("grep")
        .args(["-rlsx", &(96 << 20).to_string(), "/sys/fs/cgroup", "--include=memory.limit_in_bytes", "--include=memory.max"])
        .output()
        .expect("grep can be run");
    assert!(String::from_utf8_lossy(&limited.stdout).contains(&uid), "the kernel knows of it");

    // Another takes more memory only when it starts.
    resize("node-1", "b", r#"{"limits":{"memory":"80Mi"}}"#).expect("it can be asked for");
    cluster.until("it was restarted", || status("b").filter(|(has, restarts, _)| has["limits"]["memory"] == "80Mi" && *restarts == 1));

    // What the node does not have is never given, and what is not to be asked for is refused.
    resize("node-2", "a", r#"{"requests":{"cpu":"1000"}}"#).expect("it can be asked for");
    cluster.until("the Pod says that it cannot be", || {
        let pod = cluster.kubectl_json("node-1", &["get", "pod", "box"]);
        let conditions = pod["status"]["conditions"].as_array().cloned()?;
        let pending = conditions.into_iter().find(|c| c["type"] == "PodResizePending")?;
        (pending["reason"] == "Infeasible" && pending["message"].as_str()?.starts_with("Node didn't have enough capacity: cpu"))
            .then_some(())
    });
    assert!(status("a").is_some_and(|(has, ..)| has["requests"]["cpu"] == "70m"), "it has what it had");
    let refused = resize("node-3", "a", r#"{"requests":{"cpu":"70m"},"limits":{"memory":null}}"#).expect_err("limits stay");
    assert!(refused.contains("resource limits cannot be removed"), "{refused}");
    resize("node-3", "a", r#"{"requests":{"cpu":"60m"}}"#).expect("it can be asked for");
    cluster.until("the condition has gone", || {
        let pod = cluster.kubectl_json("node-1", &["get", "pod", "box"]);
        let conditions = pod["status"]["conditions"].as_array().cloned()?;
        conditions.iter().all(|c| c["type"] != "PodResizePending").then_some(())
    });
}

fn commands_run(cluster: &Cluster, word: &str) {
    // Through any node, whichever runs the Pod.
    for node in ["node-1", "node-2", "node-3"] {
        assert_eq!(cluster.kubectl(node, &["exec", "box", "--", "echo", "said"]), "said\n");
    }
    let failed = cluster.try_kubectl("node-2", &["exec", "box", "--", "sh", "-c", "echo to stderr >&2; exit 3"]).expect_err("it failed");
    assert!(failed.contains("to stderr") && failed.contains("command terminated with exit code 3"), "{failed}");
    let missing = cluster.try_kubectl("node-3", &["exec", "box", "--", "/no/such/program"]).expect_err("there is no such program");
    assert!(missing.contains("no such file or directory"), "{missing}");
    // More than any buffer holds, there and back.
    let text: String = (0..200_000).map(|n| format!("{n}\n")).collect();
    assert_eq!(cluster.kubectl_with_input("node-1", &["exec", "-i", "box", "--", "cat"], &text), text);
    cluster.kubectl_with_input("node-2", &["attach", "-i", "box"], &format!("the {word} word\n"));
    assert!(cluster.kubectl_with_input("node-3", &["get", "pods", "-w"], "").contains("box"));
    let heard = format!("heard the {word} word");
    cluster.until("it heard", || cluster.kubectl("node-3", &["logs", "box"]).contains(&heard).then_some(()));
}

#[test]
fn evictions_stay_within_the_budget() {
    let cluster = Cluster::start();
    cluster.load_busybox();
    cluster.apply(
        "node-1",
        &format!(
            "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 3
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec: {{terminationGracePeriodSeconds: 1, containers: [{{name: c, image: {BUSYBOX}, command: [sleep, '3600']}}]}}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {{name: web}}
spec: {{minAvailable: 3, selector: {{matchLabels: {{app: web}}}}}}
"
        ),
    );
    let allowed = |count: u64| {
        cluster.until("the budget is counted", || {
            let status = cluster.kubectl_json("node-2", &["get", "pdb", "web"])["status"].clone();
            (status["currentHealthy"] == 3 && status["disruptionsAllowed"] == count).then_some(())
        });
    };
    let pods = || -> Vec<String> {
        let list = cluster.kubectl("node-3", &["get", "pods", "-o", "name"]);
        list.lines().map(|line| line.trim_start_matches("pod/").to_string()).collect()
    };
    let evict = |node: usize, pod: &str| {
        let body = format!(r#"{{"apiVersion":"policy/v1","kind":"Eviction","metadata":{{"name":"{pod}"}}}}"#);
        cluster.request(node, "POST", &format!("/api/v1/namespaces/default/pods/{pod}/eviction"), Some(&body))
    };
    allowed(0);
    let (code, status) = evict(1, &pods()[0]);
    assert_eq!((code, status["message"].as_str()), (429, Some("Cannot evict pod as it would violate the pod's disruption budget.")));
    assert_eq!(status["details"]["causes"][0]["message"], "The disruption budget web needs 3 healthy pods and has 3 currently");
    // One may go; of two that are asked for through different nodes, only one goes.
    cluster.kubectl("node-1", &["patch", "pdb", "web", "--type=merge", "-p", r#"{"spec":{"minAvailable":2}}"#]);
    allowed(1);
    let names = pods();
    let codes = [evict(2, &names[0]).0, evict(3, &names[1]).0];
    assert_eq!(codes, [201, 429]);
    allowed(1);
    cluster.kubectl("node-2", &["drain", "node-3", "--timeout=60s"]);
    let on_it = cluster.kubectl("node-1", &["get", "pods", "--field-selector=spec.nodeName=node-3", "-o", "name"]);
    assert_eq!(on_it.trim(), "");
}

/// The sidecar is up (its startup probe says so) before the next init container, serves the main one, and ends after it.
const SIDECAR: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: escorted}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 5
  volumes: [{name: shared, emptyDir: {}}]
  initContainers:
  - name: escort
    image: BUSYBOX
    restartPolicy: Always
    command: [sh, -c, "trap 'echo bye; exit 3' TERM; sleep 1; touch /shared/up; while :; do sleep 0.1; done"]
    startupProbe: {exec: {command: [test, -f, /shared/up]}, periodSeconds: 1}
    volumeMounts: [{name: shared, mountPath: /shared}]
  - name: first
    image: BUSYBOX
    command: [test, -f, /shared/up]
    volumeMounts: [{name: shared, mountPath: /shared}]
  containers:
  - name: main
    image: BUSYBOX
    command: [sh, -c, "until test -f /shared/go; do sleep 0.1; done; echo done"]
    volumeMounts: [{name: shared, mountPath: /shared}]
---
apiVersion: v1
kind: Pod
metadata: {name: late}
spec:
  activeDeadlineSeconds: 3
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: BUSYBOX, command: [sleep, "1000"]}]
"#;

fn sidecars_surround_the_main_containers(runtime: Runtime) {
    let cluster = Cluster::with_runtime(runtime, &[]);
    cluster.load_busybox();
    cluster.apply("node-2", &SIDECAR.replace("BUSYBOX", BUSYBOX));
    cluster.kubectl("node-1", &["wait", "--for=condition=Ready", "pod/escorted", "--timeout=60s"]);
    assert!(cluster.kubectl("node-3", &["get", "pod", "escorted"]).contains("2/2"));
    let pod = cluster.kubectl_json("node-3", &["get", "pod", "escorted"]);
    let inits = &pod["status"]["initContainerStatuses"];
    assert_eq!((&inits[0]["started"], &inits[0]["ready"]), (&true.into(), &true.into()), "{inits}");
    assert_eq!(inits[1]["state"]["terminated"]["exitCode"], 0, "{inits}");

    // A sidecar that ends comes back, although the Pod never restarts anything.
    cluster.kubectl("node-1", &["exec", "escorted", "-c", "escort", "--", "kill", "1"]);
    cluster.until("the sidecar is back", || {
        let pod = cluster.kubectl_json("node-2", &["get", "pod", "escorted"]);
        let escort = &pod["status"]["initContainerStatuses"][0];
        (escort["restartCount"] == 1 && escort["started"] == true && pod["status"]["phase"] == "Running").then_some(())
    });

    cluster.kubectl("node-1", &["exec", "escorted", "-c", "main", "--", "touch", "/shared/go"]);
    cluster.kubectl("node-1", &["wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/escorted", "--timeout=30s"]);
    let pod = cluster.kubectl_json("node-3", &["get", "pod", "escorted"]);
    let (main, escort) = (&pod["status"]["containerStatuses"][0], &pod["status"]["initContainerStatuses"][0]);
    let ended = |status: &serde_json::Value| status["state"]["terminated"]["finishedAt"].as_str().unwrap_or_default().to_string();
    assert!(!ended(main).is_empty() && ended(main) <= ended(escort), "main {main}, sidecar {escort}");
    assert_eq!(escort["state"]["terminated"]["exitCode"], 3, "{escort}");
    assert_eq!(cluster.kubectl("node-2", &["logs", "escorted", "-c", "escort"]), "bye\n");

    let late = cluster.until("the deadline ends a Pod", || {
        let pod = cluster.kubectl_json("node-2", &["get", "pod", "late"]);
        (pod["status"]["phase"] == "Failed").then_some(pod)
    });
    assert_eq!(late["status"]["reason"], "DeadlineExceeded");
    assert_eq!(late["status"]["message"], "Pod was active on the node longer than the specified deadline");
}

fn ports_are_forwarded(runtime: Runtime) {
    let cluster = Cluster::with_runtime(runtime, &[]);
    cluster.load_busybox();
    let serve = "mkdir -p /www; seq 1 200000 > /www/index.html; exec httpd -f -p 127.0.0.1:80 -h /www";
    cluster.apply(
        "node-1",
        &format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - {{name: c, image: \"{BUSYBOX}\", command: [sh, -c, \"{serve}\"]}}\n"
        ),
    );
    cluster.kubectl("node-2", &["wait", "--for=condition=Ready", "pod/web", "--timeout=60s"]);
    let fetch = |port: &str| {
        let output = std::process::Command::new("curl").args(["-sS", "--max-time", "10", &format!("http://127.0.0.1:{port}/")]).output();
        String::from_utf8_lossy(&output.expect("curl can be run").stdout).into_owned()
    };
    let whole: String = (1..=200_000).map(|n| format!("{n}\n")).collect();
    // As kubectl does it today, SPDY inside a websocket, and as it did before.
    for (port, websocket) in [("18081", "true"), ("18082", "false")] {
        let mut forward = cluster.spawn_kubectl(
            "node-3",
            &["port-forward", "pod/web", &format!("{port}:80")],
            &[("KUBECTL_PORT_FORWARD_WEBSOCKETS", websocket)],
        );
        cluster.until("the port is forwarded", || (fetch(port) == whole).then_some(()));
        // Several connections, one after the other and at once.
        let again: Vec<_> = std::thread::scope(|scope| {
            (0..4).map(|_| scope.spawn(|| fetch(port))).collect::<Vec<_>>().into_iter().map(|t| t.join()).collect()
        });
        assert!(again.into_iter().all(|page| page.is_ok_and(|page| page == whole)));
        let _ = forward.kill();
        let _ = forward.wait();
    }
    let mut nowhere = cluster.spawn_kubectl("node-1", &["port-forward", "pod/web", "18083:81"], &[]);
    cluster.until("kubectl listens", || std::net::TcpStream::connect("127.0.0.1:18083").ok());
    assert_eq!(fetch("18083"), "");
    let _ = nowhere.kill();
    let _ = nowhere.wait();
}

fn pods_are_looked_into_from_outside_and_inside(runtime: Runtime) {
    let cluster = Cluster::with_runtime(runtime, &[]);
    cluster.load_busybox();
    cluster.apply(
        "node-1",
        &format!(
            r#"
apiVersion: v1
kind: Pod
metadata: {{name: web, labels: {{app: web}}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: "{BUSYBOX}"
    command: [sh, -c, "mkdir -p /www/deep; echo outer > /www/index.html; echo inner > /www/deep/index.html; echo '<a href=\"/deep\">' > /www/page.html; exec httpd -f -p 8080 -h /www"]
    ports: [{{name: http, containerPort: 8080}}]
    readinessProbe: {{httpGet: {{path: /, port: http}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{selector: {{app: web}}, ports: [{{name: web, port: 80, targetPort: http}}]}}
"#
        ),
    );
    cluster.kubectl("node-2", &["wait", "--for=condition=Ready", "pod/web", "--timeout=60s"]);
    for node in ["node-1", "node-2", "node-3"] {
        let get = |path: &str| cluster.try_kubectl(node, &["get", "--raw", &format!("/api/v1/namespaces/default/{path}")]);
        assert_eq!(get("pods/web/proxy/").as_deref(), Ok("outer\n"));
        assert_eq!(get("pods/web:8080/proxy/deep/").as_deref(), Ok("inner\n"));
        assert_eq!(get("pods/web/proxy").as_deref(), Ok("outer\n"), "a reader is led to the path that ends with a slash");
        cluster.until("the Service has an endpoint", || {
            (get("services/web:web/proxy/deep/index.html").as_deref() == Ok("inner\n")).then_some(())
        });
        let page = "<a href=\"/api/v1/namespaces/default/pods/web/proxy/deep\">\n";
        assert_eq!(get("pods/web/proxy/page.html").as_deref(), Ok(page), "links lead through the proxy");
        assert_eq!(get("pods/web/proxy/deep").as_deref(), Ok("inner\n"), "and so does where it redirects to");
        assert!(get("pods/web/proxy/nothing").is_err_and(|why| why.contains("could not find")), "the answer's code is passed on");
        let (code, _) = cluster.request(1, "OPTIONS", "/api/v1/namespaces/default/pods/web/proxy/", None);
        assert_eq!(code, 501, "busybox does not know the method");
        assert!(get("pods/gone/proxy").is_err_and(|why| why.contains("not found")), "and not where there is none");
        assert!(get("services/gone/proxy/").is_err_and(|why| why.contains("not found")));
    }

    // A container that looks at another's processes, added while the Pod runs.
    let arguments =
        ["debug", "web", "--image", BUSYBOX, "--target=c", "--container=look", "--profile=general", "--", "sh", "-c", "ps; echo looked"];
    cluster.kubectl("node-3", &arguments);
    let log = cluster.until("it has looked", || {
        let log = cluster.try_kubectl("node-1", &["logs", "web", "-c", "look"]).ok()?;
        log.contains("looked").then_some(log)
    });
    assert!(log.contains("httpd -f -p 8080"), "{log}");
    cluster.until("its end is told", || {
        let pod = cluster.kubectl_json("node-2", &["get", "pod", "web"]);
        let status = pod.pointer("/status/ephemeralContainerStatuses/0").cloned()?;
        (status["name"] == "look" && status.pointer("/state/terminated/exitCode") == Some(&0.into())).then_some(())
    });
    let pod = cluster.kubectl_json("node-2", &["get", "pod", "web"]);
    assert_eq!((&pod["status"]["phase"], &pod["status"]["containerStatuses"][0]["restartCount"]), (&"Running".into(), &0.into()));
}

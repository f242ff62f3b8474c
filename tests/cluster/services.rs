//! Services from Pods, from nodes and from outside, and their names.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use skein_cluster_tests::{BUSYBOX, Cluster, until};
use skein_lab::{Runtime, Scope};

skein_cluster_tests::on_both_runtimes!(
    services_balance_refuse_and_follow_their_pods,
    names_are_those_of_the_specification,
    ports_of_a_node_lead_to_the_pods_that_ask_for_them,
    a_rolling_update_under_load_loses_no_request
);

fn web() -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 3
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: {BUSYBOX}
        command: [sh, -c, "mkdir /www; hostname > /www/index.html; exec httpd -f -v -p 8080 -h /www"]
        ports: [{{name: http, containerPort: 8080}}]
        readinessProbe: {{httpGet: {{path: /, port: http}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{type: NodePort, selector: {{app: web}}, ports: [{{name: http, port: 80, targetPort: http, nodePort: 30080}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: head}}
spec: {{clusterIP: None, selector: {{app: web}}, ports: [{{name: http, port: 80, targetPort: http}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: nobody}}
spec: {{selector: {{app: nobody}}, ports: [{{port: 80}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: alias}}
spec: {{type: ExternalName, externalName: web.default.svc.cluster.local}}
"#
    )
}

struct Web {
    cluster: Cluster,
    pods: Vec<String>,
}

fn start(runtime: Runtime) -> Web {
    let cluster = Cluster::with_runtime(runtime, &[]);
    cluster.load_busybox();
    cluster.apply("node-2", &web());
    cluster.kubectl("node-3", &["rollout", "status", "deployment/web", "--timeout=60s"]);
    let names = cluster.kubectl("node-1", &["get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].metadata.name}"]);
    Web { cluster, pods: names.split_whitespace().map(String::from).collect() }
}

/// Pods of one node that answer with their names: two share a port's number by different addresses, a third comes too late
/// for it, and a Service without a selector leads to the first one's port.
fn host_ports() -> String {
    let pod = |name: &str, address: &str| {
        format!(
            r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  nodeName: node-2
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: {BUSYBOX}
    command: [sh, -c, "mkdir /www; hostname > /www/index.html; exec httpd -f -p 8080 -h /www"]
    ports: [{{containerPort: 8080, hostPort: 18080, hostIP: {address}}}]
---"#
        )
    };
    let endpoints = r"
apiVersion: v1
kind: Service
metadata: {name: kept-by-hand}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Endpoints
metadata: {name: kept-by-hand}
subsets: [{addresses: [{ip: 198.18.0.12}], ports: [{port: 18080}]}]
";
    [pod("outer", "198.18.0.12"), pod("inner", "127.0.0.1"), endpoints.to_string()].concat()
}

fn ports_of_a_node_lead_to_the_pods_that_ask_for_them(runtime: Runtime) {
    let web = Web { cluster: Cluster::with_runtime(runtime, &[]), pods: Vec::new() };
    web.cluster.load_busybox();
    web.cluster.apply("node-1", &host_ports());
    let is = |node: &'static str, url: &'static str, name: &'static str| {
        web.cluster.until(&format!("{url} leads {node} to {name}"), || web.asked_by_node(node, url).filter(|answer| answer == name));
    };
    is("node-1", "http://198.18.0.12:18080/", "outer");
    is("node-2", "http://198.18.0.12:18080/", "outer");
    is("node-2", "http://127.0.0.1:18080/", "inner");
    assert_eq!(web.asked_by_node("node-1", "http://127.0.0.1:18080/"), None, "a loopback address is the node's own");
    let service = format!("http://{}/", web.address("kept-by-hand"));
    web.cluster.until("the Service leads to the Endpoints kept for it", || web.asked_by_node("node-3", &service).filter(|a| a == "outer"));
    // A third one asks for the port on all addresses, where two are taken.
    web.cluster.apply("node-3", &host_ports().replace("name: outer", "name: late").replace("hostIP: 198.18.0.12", "hostIP: 0.0.0.0"));
    web.cluster.until("the node refuses a Pod whose port is taken", || {
        let status = web.cluster.kubectl("node-1", &["get", "pod", "late", "-o", "jsonpath={.status.phase} {.status.reason}"]);
        (status == "Failed NodePorts").then_some(())
    });
    web.cluster.kubectl("node-1", &["delete", "pod", "outer", "late"]);
    web.cluster.until("the port is closed", || web.asked_by_node("node-1", "http://198.18.0.12:18080/").is_none().then_some(()));
}

// === impl Web ===

impl Web {
    fn address(&self, service: &str) -> String {
        self.cluster.kubectl("node-1", &["get", "service", service, "-o", "jsonpath={.spec.clusterIP}"])
    }

    /// Who answers a node's request.
    fn asked_by_node(&self, node: &str, url: &str) -> Option<String> {
        let out = std::process::Command::new("ip")
            .args(["netns", "exec", &format!("skein-{node}"), "curl", "-sS", "--fail", "--max-time", "3", url])
            .output()
            .expect("curl runs");
        out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_string())
    }

    /// A command in a Pod: what it said, whether it failed or not.
    fn in_pod(&self, pod: &str, command: &[&str]) -> String {
        let arguments = [&["exec", pod, "--"], command].concat();
        self.cluster.try_kubectl("node-1", &arguments).unwrap_or_else(|why| why)
    }
}

fn services_balance_refuse_and_follow_their_pods(runtime: Runtime) {
    let web = start(runtime);
    let all: BTreeSet<String> = web.pods.iter().cloned().collect();
    let url = format!("http://{}/", web.address("web"));
    // The rules reach a node soon after the endpoints; then every node and every Pod reaches every endpoint.
    for node in ["node-1", "node-2", "node-3"] {
        web.cluster.until(&format!("{node} has the rules"), || web.asked_by_node(node, &url));
        let answered: BTreeSet<String> = (0..40).filter_map(|_| web.asked_by_node(node, &url)).collect();
        assert_eq!(answered, all, "from {node}");
    }
    for pod in &web.pods {
        let answered: BTreeSet<String> = (0..12).map(|_| web.in_pod(pod, &["wget", "-qO-", &url]).trim().to_string()).collect();
        assert!(answered.is_subset(&all) && answered.len() > 1, "{answered:?}");
    }
    // A client that sticks stays with one, and is free again.
    let stick = |affinity: &str| {
        let patch = format!(r#"{{"spec":{{"sessionAffinity":"{affinity}"}}}}"#);
        web.cluster.kubectl("node-1", &["patch", "service", "web", "-p", &patch]);
    };
    let several = |count: usize| -> BTreeSet<String> { (0..count).filter_map(|_| web.asked_by_node("node-2", &url)).collect() };
    stick("ClientIP");
    web.cluster.until("it sticks", || (several(12).len() == 1).then_some(()));
    stick("None");
    web.cluster.until("it does not", || (several(12).len() > 1).then_some(()));
    // From outside by any node's address and the node port.
    for node in 1..=3 {
        let out = std::process::Command::new("curl")
            .args(["-sS", "--fail", "--max-time", "3", &format!("http://{}:30080/", Cluster::address(node))])
            .output()
            .expect("curl runs");
        assert!(all.contains(String::from_utf8_lossy(&out.stdout).trim()), "{}", String::from_utf8_lossy(&out.stderr));
    }
    // Where nobody serves, the client hears it at once.
    let refused = web.in_pod(&web.pods[0], &["wget", "-qO-", &format!("http://{}/", web.address("nobody"))]);
    assert!(refused.contains("refused"), "{refused}");
    // The API itself, from a Pod.
    let api = web.in_pod(&web.pods[0], &["sh", "-c", "nc -w 3 10.96.0.1 443 < /dev/null && echo reached"]);
    assert!(api.contains("reached"), "{api}");
    // A lost node's endpoints leave every other node's rules.
    let endpoints = web.cluster.kubectl("node-1", &["get", "endpointslices", "-l", "kubernetes.io/service-name=web", "-o", "json"]);
    assert!(endpoints.contains("\"serving\": true"), "{endpoints}");
    let leader = web.cluster.leader("node-1");
    let lost = ["node-1", "node-2", "node-3"].into_iter().find(|n| *n != leader && *n != "node-1").unwrap_or("node-3");
    let asked = if lost == "node-2" { "node-3" } else { "node-2" };
    web.cluster.lab.kill(lost, Scope::Machine).expect("a node can be killed");
    until("the lost node's Pods are replaced and only live ones answer", Duration::from_secs(40), || {
        let mut answers = (0..12).map(|_| web.asked_by_node(asked, &url));
        answers.all(|answer| answer.is_some()).then_some(())
    });
}

fn names_are_those_of_the_specification(runtime: Runtime) {
    let web = start(runtime);
    let pod = &web.pods[0];
    let conf = web.in_pod(pod, &["cat", "/etc/resolv.conf"]);
    assert!(
        conf.contains("nameserver 10.96.0.10") && conf.contains("search default.svc.cluster.local svc.cluster.local cluster.local"),
        "{conf}"
    );
    assert!(conf.contains("ndots:5"), "{conf}");
    // busybox tries every name of the search path, and fails when one of them is not there.
    let look_up = |name: &str| web.in_pod(pod, &["sh", "-c", &format!("nslookup {name} 2>&1; true")]);
    let address = web.address("web");
    web.cluster.until("the node's DNS knows the Service", || look_up("web.default.svc.cluster.local").contains(&address).then_some(()));
    assert!(look_up("web").contains(&address), "by the search path");
    let head = look_up("head.default.svc.cluster.local");
    let pods = web.cluster.kubectl("node-1", &["get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].status.podIP}"]);
    assert!(pods.split_whitespace().all(|ip| head.contains(ip)), "{head}");
    let alias = look_up("alias.default.svc.cluster.local");
    assert!(alias.contains("canonical name") && alias.contains(&address), "{alias}");
    assert!(look_up("kubernetes.default.svc.cluster.local").contains("10.96.0.1"));
    assert!(look_up("absent.default.svc.cluster.local").contains("NXDOMAIN"));
    let reverse = web.in_pod(pod, &["nslookup", &address]);
    assert!(reverse.contains("web.default.svc.cluster.local"), "{reverse}");
    assert!(web.pods.contains(&web.in_pod(pod, &["wget", "-qO-", "http://web/"]).trim().to_string()));
    // Names are answered where the Pod runs, also by a node that is cut off from all others.
    let node = web.cluster.kubectl("node-1", &["get", "pod", pod, "-o", "jsonpath={.spec.nodeName}"]);
    let others: Vec<&str> = ["node-1", "node-2", "node-3"].into_iter().filter(|n| *n != node).collect();
    web.cluster.lab.partition(&format!("{node}/{}", others.join(","))).expect("the network can be cut");
    let out = std::process::Command::new("ip")
        .args(["netns", "exec", &format!("skein-{node}"), "busybox", "nslookup", "web.default.svc.cluster.local", "10.96.0.10"])
        .output()
        .expect("busybox runs");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    web.cluster.lab.heal().expect("the network can be healed");
    assert!(text.contains(&address), "{text}");
}

/// Whoever is ready is asked, and whoever ends is asked no more before it hears of its end: Pods that wait a moment in their
/// preStop hooks are replaced unnoticed.
fn a_rolling_update_under_load_loses_no_request(runtime: Runtime) {
    let cluster = start(runtime).cluster;
    let waits = r#"{"spec": {"strategy": {"rollingUpdate": {"maxUnavailable": 0}}, "template": {"spec": {"terminationGracePeriodSeconds": 5,
        "containers": [{"name": "c", "lifecycle": {"preStop": {"sleep": {"seconds": 1}}}}]}}}}"#;
    cluster.kubectl("node-1", &["patch", "deployment", "web", "-p", waits]);
    let rolled = |node: &str| cluster.kubectl(node, &["rollout", "status", "deployment/web", "--timeout=60s"]);
    rolled("node-2");
    let (stop, failures, answers) = (AtomicBool::new(false), Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for node in (1..=3).cycle().take(6) {
            let (stop, failures, answers) = (&stop, &failures, &answers);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    match page(node) {
                        Ok(page) => answers.lock().expect("no client panics").push(page),
                        Err(why) => failures.lock().expect("no client panics").push(format!("node {node}: {why}")),
                    }
                }
            });
        }
        for round in 0..2 {
            cluster.kubectl("node-3", &["set", "env", "deployment/web", &format!("ROUND={round}")]);
            rolled("node-1");
        }
        stop.store(true, Ordering::Relaxed);
    });
    let (failures, answers) = (failures.into_inner().expect("no client panics"), answers.into_inner().expect("no client panics"));
    let pods: BTreeSet<&String> = answers.iter().collect();
    assert!(failures.is_empty(), "{} of {}: {:?}", failures.len(), answers.len(), &failures[..failures.len().min(5)]);
    // Three Pods three times, and perhaps one that was about to end.
    assert!(answers.len() > 100 && pods.len() >= 9, "{} answers by {pods:?}", answers.len());
}

/// What a new connection to a node's port is answered.
fn page(node: u8) -> Result<String, String> {
    let address = SocketAddr::from(([198, 18, 0, 10 + node], 30080));
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    let text = ask().map_err(|why| why.to_string())?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| format!("{text:?}"))?;
    if head.contains(" 200 ") { Ok(body.trim().to_string()) } else { Err(head.to_string()) }
}

/// From this machine, which is a neighbour of the nodes and knows the address by ARP only.
fn asked_from_outside(url: &str) -> Option<String> {
    let out = std::process::Command::new("curl").args(["-sS", "--fail", "--max-time", "2", url]).output().expect("curl runs");
    out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_string())
}

#[test]
fn balanced_services_have_an_address_that_moves_with_its_node() {
    let web = start(Runtime::Skein);
    let cluster = &web.cluster;
    let address = |service: &str| {
        let found = cluster.kubectl("node-2", &["get", "service", service, "-o", "jsonpath={.status.loadBalancer.ingress[0].ip}"]);
        Some(found).filter(|found| !found.is_empty())
    };
    let balance = |name: &str, more: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{type: LoadBalancer, selector: {{app: web}}, ports: [{{name: http, port: 80, targetPort: http}}]{more}}}\n"
        )
    };
    cluster.apply("node-1", &balance("out", ""));
    assert!(cluster.kubectl("node-1", &["get", "service", "out"]).contains("<pending>"), "there is no pool yet");
    cluster.kubectl(
        "node-3",
        &["create", "configmap", "load-balancer", "-n", "kube-system", "--from-literal=addresses=198.18.9.1-198.18.9.2"],
    );
    let ip = cluster.until("it has an address", || address("out"));
    assert_eq!(ip, "198.18.9.1");
    let url = format!("http://{ip}/");
    let all: BTreeSet<String> = web.pods.iter().cloned().collect();
    cluster.until("it answers", || asked_from_outside(&url));
    let answered: BTreeSet<String> = (0..30).filter_map(|_| asked_from_outside(&url)).collect();
    assert_eq!(answered, all);

    // One that lets in nobody from here, and a third for which nothing is left.
    cluster.apply("node-2", &balance("closed", ", loadBalancerSourceRanges: [10.0.0.0/8]"));
    let closed = cluster.until("it has an address", || address("closed"));
    assert_eq!(asked_from_outside(&format!("http://{closed}/")), None);
    cluster.apply("node-2", &balance("late", ""));
    cluster.until("it is said that no address is free", || {
        let events = cluster.kubectl("node-1", &["get", "events"]);
        events.contains("Error syncing load balancer: no address of the pool is free").then_some(())
    });
    cluster.kubectl("node-3", &["delete", "service", "closed"]);
    cluster.kubectl("node-1", &["annotate", "service", "late", "again=1"]);
    assert_eq!(cluster.until("what was freed is given again", || address("late")), closed);

    // The node that announces it is lost; another does, under the same address.
    let announces = |node: &str| {
        let out = std::process::Command::new("ip").args(["netns", "exec", &format!("skein-{node}"), "ip", "-o", "addr"]).output();
        String::from_utf8_lossy(&out.expect("ip runs").stdout).contains(&format!("{ip}/32"))
    };
    let holders: Vec<&str> = ["node-1", "node-2", "node-3"].into_iter().filter(|node| announces(node)).collect();
    let [holder] = holders[..] else { panic!("announced by {holders:?}") };
    cluster.lab.kill(holder, Scope::Machine).expect("a node can be killed");
    let others: Vec<&str> = ["node-1", "node-2", "node-3"].into_iter().filter(|node| *node != holder).collect();
    cluster.until("another announces it", || others.iter().find(|node| announces(node)));
    until("it answers", Duration::from_secs(30), || asked_from_outside(&url));
    cluster.lab.start(holder).expect("it can be started");
    cluster.until("the node that came back does not", || (!announces(holder)).then_some(()));
    cluster.until("it still answers", || asked_from_outside(&url));
}

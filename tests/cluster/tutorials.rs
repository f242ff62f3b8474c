//! Manifests after the tasks and tutorials of Kubernetes' documentation, in `tutorials/`. What these promise holds; and
//! when everything is rolled anew while the leader dies, a node is lost or cut off, all ends as it does without.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use skein_cluster_tests::{Cluster, on_both_runtimes, until};
use skein_lab::{Runtime, Scope};

on_both_runtimes!(what_the_documentation_promises_holds_whatever_fails);

/// A namespace, a manifest, and what the documentation says must come of it.
struct Tutorial {
    name: &'static str,
    promises: fn(&Visitor<'_>) -> Result<(), String>,
    /// Something of it cannot leave its node: a volume, or a Pod of no set.
    stays: bool,
}

const TUTORIALS: [Tutorial; 10] = [
    Tutorial { name: "guestbook", promises: guestbook, stays: false },
    Tutorial { name: "zookeeper", promises: zookeeper, stays: true },
    Tutorial { name: "wordpress", promises: wordpress, stays: true },
    Tutorial { name: "cronjob", promises: cronjob, stays: false },
    Tutorial { name: "autoscaling", promises: autoscaling, stays: false },
    Tutorial { name: "logging", promises: logging, stays: false },
    Tutorial { name: "dns", promises: dns, stays: true },
    Tutorial { name: "policy", promises: policy, stays: false },
    Tutorial { name: "security", promises: security, stays: false },
    Tutorial { name: "quota", promises: quota, stays: false },
];

fn what_the_documentation_promises_holds_whatever_fails(runtime: Runtime) {
    let cluster = Cluster::with_runtime(runtime, &[]);
    cluster.load_busybox();
    let mut visitor = Visitor::new(&cluster);
    for tutorial in &TUTORIALS {
        visitor.kubectl(&["create", "namespace", tutorial.name]).expect("a namespace can be made");
        visitor.kubectl(&["apply", "-n", tutorial.name, tutorial.how(), &tutorial.manifest()]).expect("a manifest can be applied");
    }
    visitor.sees("what was applied", |_| true);
    let calm = census(&visitor).expect("it was just asked for");
    for fault in [Fault::None, Fault::LeaderKilled, Fault::NodeLost, Fault::NodeCutOff] {
        roll(&visitor, fault);
        let node = fault.begin(&visitor);
        visitor.nodes.retain(|known| Some(*known) != node);
        visitor.sees(&format!("{fault:?}, while it lasts"), |tutorial| !tutorial.stays);
        fault.end(&visitor, node);
        visitor.nodes = NODES.to_vec();
        visitor.sees(&format!("{fault:?}, when it is over"), |_| true);
        let mut last = BTreeMap::new();
        let begin = Instant::now();
        while last != calm {
            assert!(begin.elapsed() < PATIENCE, "{fault:?} leaves\n{last:#?}\ninstead of\n{calm:#?}");
            last = census(&visitor).unwrap_or_default();
        }
    }
}

// === impl Tutorial ===

impl Tutorial {
    fn folder(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tutorials").join(self.name)
    }

    /// A folder is for kustomize.
    fn how(&self) -> &'static str {
        if self.folder().is_dir() { "-k" } else { "-f" }
    }

    fn manifest(&self) -> String {
        let folder = self.folder();
        if folder.is_dir() { folder.display().to_string() } else { folder.with_extension("yaml").display().to_string() }
    }
}

const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];
const PATIENCE: Duration = Duration::from_secs(90);

/// Asks one node after another.
struct Visitor<'a> {
    cluster: &'a Cluster,
    nodes: Vec<&'static str>,
    asked: Cell<usize>,
    /// What must never be another once it was there.
    remembered: RefCell<BTreeMap<String, String>>,
}

// === impl Visitor ===

impl<'a> Visitor<'a> {
    fn new(cluster: &'a Cluster) -> Self {
        Self { cluster, nodes: NODES.to_vec(), asked: Cell::new(0), remembered: RefCell::default() }
    }

    /// A number that no earlier call got.
    fn next(&self) -> usize {
        self.asked.set(self.asked.get() + 1);
        self.asked.get()
    }

    fn node(&self) -> &'static str {
        self.nodes[self.next() % self.nodes.len()]
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        self.cluster.try_kubectl(self.node(), &[&["--request-timeout=10s"], arguments].concat())
    }

    fn json(&self, arguments: &[&str]) -> Result<Value, String> {
        let text = self.kubectl(&[arguments, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).map_err(|why| why.to_string())
    }

    fn exec(&self, namespace: &str, pod: &str, command: &[&str]) -> Result<String, String> {
        self.kubectl(&[&["exec", "-n", namespace, pod, "--"], command].concat())
    }

    fn logs(&self, namespace: &str, of: &str, more: &[&str]) -> Result<String, String> {
        self.kubectl(&[&["logs", "-n", namespace, of], more].concat())
    }

    /// A page at a node port, from outside, by any node.
    fn page(&self, port: u16, path: &str) -> Result<String, String> {
        let address = Cluster::address(self.node().trim_start_matches("node-").parse().expect("a number"));
        let output = Command::new("curl").args(["-sS", "--max-time", "4", &format!("http://{address}:{port}{path}")]).output();
        let output = output.expect("curl can be run");
        let said = String::from_utf8_lossy(if output.status.success() { &output.stdout } else { &output.stderr }).into_owned();
        if output.status.success() { Ok(said) } else { Err(said) }
    }

    /// Refused, with these words.
    fn refused(&self, namespace: &str, manifest: &str, words: &str) -> Result<(), String> {
        let file = self.cluster.manifest(manifest);
        match self.kubectl(&["create", "-n", namespace, "-f", &file]) {
            Ok(made) => {
                self.kubectl(&["delete", "-n", namespace, "--wait=false", "-f", &file])?;
                Err(format!("{made} is made"))
            }
            Err(why) => holds(why.contains(words), &why),
        }
    }

    fn is_as_before(&self, what: &str, found: String) -> Result<(), String> {
        let mut remembered = self.remembered.borrow_mut();
        let before = remembered.entry(what.to_string()).or_insert_with(|| found.clone());
        assert_eq!(*before, found, "{what} is another");
        Ok(())
    }

    /// Waits for what all these tutorials promise.
    fn sees(&self, when: &str, which: impl Fn(&Tutorial) -> bool) {
        let begin = Instant::now();
        for tutorial in TUTORIALS.iter().filter(|tutorial| which(tutorial)) {
            while let Err(why) = (tutorial.promises)(self) {
                assert!(begin.elapsed() < PATIENCE, "{}: {when}: {why}", tutorial.name);
                std::thread::sleep(Duration::from_millis(200));
            }
        }
        println!("{when}: {:?}", begin.elapsed());
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    LeaderKilled,
    NodeLost,
    NodeCutOff,
}

// === impl Fault ===

impl Fault {
    /// The node that is not to be asked while it lasts.
    fn begin(self, visitor: &Visitor<'_>) -> Option<&'static str> {
        let (cluster, lab) = (visitor.cluster, &visitor.cluster.lab);
        let node = match self {
            Self::None => return None,
            Self::LeaderKilled => cluster.leader("node-1"),
            // One on which something is lost.
            Self::NodeLost | Self::NodeCutOff => until("the guestbook's store is somewhere", PATIENCE, || {
                let pods = visitor.json(&["get", "pods", "-n", "guestbook", "-l", "role=leader"]).ok()?;
                pods["items"][0]["spec"]["nodeName"].as_str().map(String::from)
            }),
        };
        let node = NODES.into_iter().find(|known| *known == node).expect("one of three");
        let others: Vec<&str> = NODES.into_iter().filter(|other| *other != node).collect();
        match self {
            Self::None => {}
            Self::LeaderKilled => lab.kill(node, Scope::Daemon).expect("a daemon can be killed"),
            Self::NodeLost => lab.kill(node, Scope::Machine).expect("a node can be killed"),
            Self::NodeCutOff => lab.partition(&format!("{node}/{}", others.join(","))).expect("a node can be cut off"),
        }
        Some(node)
    }

    fn end(self, visitor: &Visitor<'_>, node: Option<&str>) {
        let lab = &visitor.cluster.lab;
        match (self, node) {
            (Self::LeaderKilled | Self::NodeLost, Some(node)) => lab.start(node).expect("a node can be started"),
            _ => lab.heal().expect("links can be mended"),
        }
    }
}

/// Rolls all workloads anew.
fn roll(visitor: &Visitor<'_>, fault: Fault) {
    for tutorial in &TUTORIALS {
        for kind in ["deployments", "statefulsets"] {
            let _ = visitor.kubectl(&["set", "env", "-n", tutorial.name, kind, "--all", &format!("ROLLED={fault:?}")]);
        }
    }
}

/// How everything stands, without what chance has chosen; nothing while a set has not got there.
fn census(visitor: &Visitor<'_>) -> Option<BTreeMap<String, usize>> {
    let mut found = BTreeMap::new();
    for kind in ["deployments", "statefulsets", "pods", "persistentvolumeclaims"] {
        let list = visitor.json(&["get", kind, "--all-namespaces"]).ok()?;
        for item in list["items"].as_array()? {
            let (metadata, status) = (&item["metadata"], &item["status"]);
            let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
            let namespace = text(&metadata["namespace"]);
            // One of its Jobs begins each minute.
            if namespace == "cronjob" {
                continue;
            }
            let stands = match kind {
                "pods" => {
                    let owner = text(&metadata["ownerReferences"][0]["name"]);
                    let set = owner.rsplit_once('-').map_or(owner.as_str(), |(name, _)| name);
                    let is_ready = status["containerStatuses"].as_array()?.iter().all(|container| container["ready"] == true);
                    format!("{set}: {}, ready: {is_ready}, deleted: {}", status["phase"], !metadata["deletionTimestamp"].is_null())
                }
                "persistentvolumeclaims" => format!("{}: {}", metadata["name"], status["phase"]),
                _ => {
                    let counts = ["replicas", "readyReplicas", "updatedReplicas"].map(|count| status[count].as_u64().unwrap_or_default());
                    let is_observed = status["observedGeneration"] == metadata["generation"];
                    format!("{}: {counts:?}, observed: {is_observed}", metadata["name"])
                }
            };
            *found.entry(format!("{kind} {namespace}/{stands}")).or_default() += 1;
        }
    }
    Some(found)
}

fn holds(is_so: bool, otherwise: &str) -> Result<(), String> {
    if is_so { Ok(()) } else { Err(otherwise.to_string()) }
}

fn guestbook(visitor: &Visitor<'_>) -> Result<(), String> {
    let entry = format!("entry-{}", visitor.next());
    let said = visitor.page(30080, &format!("/cgi-bin/push?{entry}"))?;
    holds(said == "pushed\n", &said)?;
    let begin = Instant::now();
    loop {
        let list = visitor.page(30080, "/cgi-bin/list")?;
        if list.contains(&entry) {
            return Ok(());
        }
        holds(begin.elapsed() < Duration::from_secs(3), &format!("{entry} is not in {list:?}"))?;
    }
}

fn zookeeper(visitor: &Visitor<'_>) -> Result<(), String> {
    for number in 0..3 {
        let pod = format!("zk-{number}");
        let name = format!("{pod}.zk-hs.zookeeper.svc.cluster.local");
        let found = visitor.exec("zookeeper", &pod, &["sh", "-c", "hostname -f; cat /data/myid"])?;
        holds(found == format!("{name}\n{}\n", number + 1), &found)?;
        visitor.is_as_before(&pod, visitor.exec("zookeeper", &pod, &["stat", "-c", "%i %Y", "/data/myid"])?)?;
        let address = visitor.json(&["get", "pod", "-n", "zookeeper", &pod])?["status"]["podIP"].as_str().unwrap_or_default().to_string();
        let found = visitor.exec("zookeeper", "zk-0", &["nslookup", &name])?;
        holds(!address.is_empty() && found.contains(&address), &found)?;
    }
    Ok(())
}

fn wordpress(visitor: &Visitor<'_>) -> Result<(), String> {
    let page = visitor.page(30081, "/cgi-bin/index")?;
    holds(page.starts_with("blog "), &page)?;
    visitor.is_as_before("the blog", page)
}

fn cronjob(visitor: &Visitor<'_>) -> Result<(), String> {
    let name = format!("manual-{}", visitor.next());
    visitor.kubectl(&["create", "job", "-n", "cronjob", &name, "--from=cronjob/hello"])?;
    visitor.kubectl(&["wait", "-n", "cronjob", "--for=condition=complete", "--timeout=8s", &format!("job/{name}")])?;
    let said = visitor.logs("cronjob", &format!("job/{name}"), &[])?;
    holds(said.ends_with("Hello from the Kubernetes cluster\n"), &said)
}

fn autoscaling(visitor: &Visitor<'_>) -> Result<(), String> {
    let status = visitor.json(&["get", "hpa.v2.autoscaling", "-n", "autoscaling", "php-apache"])?["status"].take();
    holds(status["currentReplicas"] == 2 && status["desiredReplicas"] == 2, &status.to_string())
}

fn logging(visitor: &Visitor<'_>) -> Result<(), String> {
    // What is not there yet when it is asked for is said, too.
    let first = visitor.logs("logging", "deployment/counter", &["-c", "count-log-1", "--limit-bytes=400"])?;
    let second = visitor.logs("logging", "deployment/counter", &["-c", "count-log-2", "--limit-bytes=400"])?;
    let is_first = first.lines().any(|line| line.starts_with("0: "));
    holds(is_first && second.contains(" INFO 0\n"), &format!("{first:?}, {second:?}"))
}

fn dns(visitor: &Visitor<'_>) -> Result<(), String> {
    let found = visitor.exec("dns", "dnsutils", &["cat", "/etc/resolv.conf"])?;
    holds(found.contains("search dns.svc.cluster.local svc.cluster.local cluster.local") && found.contains("ndots:5"), &found)?;
    let found = visitor.exec("dns", "dnsutils", &["nslookup", "kubernetes.default.svc.cluster.local"])?;
    holds(found.contains("10.96.0.1"), &found)
}

fn policy(visitor: &Visitor<'_>) -> Result<(), String> {
    let ask = |deployment| visitor.exec("policy", deployment, &["busybox", "timeout", "2", "wget", "-qO-", "http://nginx"]);
    let granted = ask("deployment/granted")?;
    holds(granted == "Welcome\n", &granted)?;
    let denied = ask("deployment/denied");
    assert!(denied.is_err(), "who is denied gets {denied:?}");
    Ok(())
}

fn security(visitor: &Visitor<'_>) -> Result<(), String> {
    let privileged = "{apiVersion: v1, kind: Pod, metadata: {name: privileged}, spec: {containers: [\
        {name: nginx, image: 'skein.test/busybox:1', securityContext: {privileged: true}}]}}";
    let words = "pods \"privileged\" is forbidden: violates PodSecurity \"baseline:latest\": privileged \
        (container \"nginx\" must not set securityContext.privileged=true)";
    visitor.refused("security", privileged, words)?;
    ready(visitor, "security", "nginx")
}

fn quota(visitor: &Visitor<'_>) -> Result<(), String> {
    ready(visitor, "quota", "quota-mem-cpu-demo")?;
    let second = "{apiVersion: v1, kind: Pod, metadata: {name: quota-mem-cpu-demo-2}, spec: {containers: [{name: second, \
        image: 'skein.test/busybox:1', resources: {limits: {memory: 1Gi, cpu: 800m}, requests: {memory: 700Mi, cpu: 400m}}}]}}";
    let words = "pods \"quota-mem-cpu-demo-2\" is forbidden: exceeded quota: mem-cpu-demo, requested: requests.memory=700Mi, \
        used: requests.memory=600Mi, limited: requests.memory=1Gi";
    visitor.refused("quota", second, words)
}

fn ready(visitor: &Visitor<'_>, namespace: &str, deployment: &str) -> Result<(), String> {
    let found = visitor.json(&["get", "deployment", "-n", namespace, deployment])?;
    let (status, is_observed) = (&found["status"], found["status"]["observedGeneration"] == found["metadata"]["generation"]);
    let is_there = ["replicas", "readyReplicas", "updatedReplicas"].iter().all(|count| status[count] == 1);
    holds(is_observed && is_there, &status.to_string())
}

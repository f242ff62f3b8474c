//! The laboratory: a cluster on one machine, each node in a network namespace with an address of its own, and faults on
//! it. It is the quick start, the test bed and the demonstration.
//!
//! ```text
//!   host ── skein0 (198.18.0.1/16) ──┬── node-1: namespace skein-node-1, 198.18.0.11
//!                                    ├── node-2: namespace skein-node-2, 198.18.0.12
//!                                    └── …
//! ```
//!
//! What the bridge does not carry is cut, or carried by the relay (`relay.rs`): links that are long or lossy.
//!
//! Everything it makes is found again by name, so that each verb works after a crash of any other, and `down` leaves
//! nothing behind. Addresses are from RFC 2544's range for benchmarks, which nobody routes.

mod ailment;
mod clock;
mod containerd;
mod disk;
pub mod image;
mod links;
mod network;
mod process;
mod relay;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use ailment::cure;
pub use ailment::{Ailment, Course};
use links::Links;
pub use links::Shape;

/// Where the laboratory lives.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Nodes' directories and kubeconfigs.
    pub directory: PathBuf,
    /// The program that is each node's daemon.
    pub program: PathBuf,
}

/// What `up` builds. Kept, so that a node that is started again is the same.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    pub nodes: usize,
    pub regions: usize,
    pub runtime: Runtime,
    /// Registries that the nodes ask over plain HTTP.
    pub insecure_registries: Vec<String>,
    /// Further arguments of each node's `skein up`.
    pub arguments: Vec<String>,
    /// What else is in its environment.
    #[serde(default)]
    pub environment: Vec<(String, String)>,
    /// The last node is a witness: it votes, and does nothing else.
    #[serde(default)]
    pub witness: bool,
    /// No node shares a link with another: what is between them is a router, which knows nothing of Pods.
    #[serde(default)]
    pub routed: bool,
    /// Each node has a disk of its own, of so many MiB.
    #[serde(default)]
    pub disk_mib: Option<u64>,
}

/// Which container runtime the nodes have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Runtime {
    Skein,
    Containerd,
}

/// What a fault hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Daemon, runtime and containers.
    Machine,
    Daemon,
}

pub struct Lab {
    layout: Layout,
}

/// The most nodes that one machine's address plan has room for.
const NODES_MAX: usize = 200;

const PLAN: &str = "plan.json";
const LINKS: &str = "links.json";
/// The process that carries what is shaped, and the argument that makes the program one.
const RELAY: &str = "relay";
/// Where daemons keep their leases.
const LEASES: &str = "/run/skein";

/// How long a cluster may take to come up, and a node to get ready.
const UP_TIMEOUT: Duration = Duration::from_secs(90);

/// One node of the laboratory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) index: usize,
    pub(crate) name: String,
}

impl Default for Layout {
    fn default() -> Self {
        let program = std::env::current_exe().unwrap_or_else(|_| "skein".into());
        Self { directory: "/var/lib/skein-lab".into(), program }
    }
}

// === impl Plan ===

impl Plan {
    pub fn new(nodes: usize) -> Self {
        Self {
            nodes,
            regions: 1,
            runtime: Runtime::Skein,
            insecure_registries: Vec::new(),
            arguments: Vec::new(),
            environment: Vec::new(),
            witness: false,
            routed: false,
            disk_mib: None,
        }
    }

    fn is_witness(&self, node: &Node) -> bool {
        self.witness && node.index == self.nodes
    }
}

// === impl Node ===

impl Node {
    fn new(index: usize) -> Self {
        Self { index, name: format!("node-{index}") }
    }

    pub(crate) fn namespace(&self) -> String {
        format!("skein-{}", self.name)
    }

    pub(crate) fn address(&self) -> String {
        format!("198.18.0.{}", 10 + self.index)
    }
}

// === impl Lab ===

impl Lab {
    pub fn open(layout: Layout) -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "the laboratory needs root: it makes network namespaces and cgroups");
        Ok(Self { layout })
    }

    /// Builds what is missing, starts what does not run, waits until every node is ready.
    pub fn up(&self, plan: &Plan) -> Result<()> {
        let count = plan.nodes;
        ensure!((1..=NODES_MAX).contains(&count), "--nodes must be between 1 and {NODES_MAX}");
        ensure!(!plan.witness || count > 1, "a witness cannot be alone: --nodes must be at least 2");
        let known = self.nodes()?.len();
        let built_with = self.plan().is_some_and(|built| built.witness);
        ensure!(
            known == 0 || (known == count && built_with == plan.witness) || !(plan.witness || built_with),
            "this laboratory was built with another witness or without one: take it down first"
        );
        std::fs::create_dir_all(self.layout.directory.join("nodes")).context("cannot make the laboratory's directory")?;
        if let Some(built) = self.plan().filter(|built| built.runtime != plan.runtime) {
            bail!("this laboratory runs containers by {:?}: take it down first", built.runtime);
        }
        ensure!(self.plan().is_none_or(|built| built.routed == plan.routed), "this laboratory has another network: take it down first");
        std::fs::write(self.layout.directory.join(PLAN), serde_json::to_vec(plan)?).context("cannot write the laboratory's plan")?;
        network::ensure_bridge()?;
        if plan.routed {
            network::ensure_router()?;
        }
        for index in 1..=count.max(known) {
            let node = Node::new(index);
            self.ensure_directory(&node, plan)?;
            network::ensure_node(&node, plan.routed)?;
            self.start_node(&node, plan)?;
            if index == 1 {
                self.wait("the first node", || self.cluster_status().is_ok_and(|s| s["leader"].is_string()))?;
            }
        }
        self.write_kubeconfigs()?;
        let total = count.max(known);
        self.wait(&format!("{total} nodes to be ready"), || {
            let status = self.cluster_status().unwrap_or_default();
            let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
            nodes.len() == total && nodes.iter().all(|n| n["ready"] == true || n["role"] == "witness")
        })
    }

    /// Stops everything and leaves nothing behind.
    pub fn down(&self) -> Result<()> {
        for node in self.nodes()? {
            self.cure(&node.name)?;
            self.stop_machine(&node)?;
            process::unmount(&self.node_directory(&node));
            process::remove_cgroups(&node);
            network::remove_node(&node);
            // Leases outlive their daemon, for the monitors.
            let _ = std::fs::remove_file(Path::new(LEASES).join(format!("lease-{}", node.name)));
        }
        let _ = std::fs::remove_dir(LEASES);
        process::kill_own(&self.layout.directory, RELAY);
        process::remove_cgroup_root();
        network::remove_all();
        if self.layout.directory.exists() {
            std::fs::remove_dir_all(&self.layout.directory).context("cannot remove the laboratory's directory")?;
        }
        Ok(())
    }

    pub fn status(&self) -> Result<Value> {
        let describe = |node: &Node| {
            let pid = process::daemon(&self.node_directory(node));
            json!({"name": node.name, "address": node.address(), "daemon": if pid.is_some() { "running" } else { "stopped" }, "pid": pid})
        };
        Ok(json!({"nodes": self.nodes()?.iter().map(describe).collect::<Vec<_>>()}))
    }

    pub fn kill(&self, name: &str, scope: Scope) -> Result<()> {
        let node = self.node(name)?;
        match scope {
            Scope::Machine => self.stop_machine(&node),
            Scope::Daemon => process::kill_daemon(&self.node_directory(&node)),
        }
    }

    pub fn start(&self, name: &str) -> Result<()> {
        let node = self.node(name)?;
        let plan = self.plan().unwrap_or_else(|| Plan::new(node.index));
        self.ensure_directory(&node, &plan)?;
        network::ensure_node(&node, plan.routed)?;
        self.start_node(&node, &plan)
    }

    /// Where the node keeps everything: on a disk of its own, if it is to have one.
    fn ensure_directory(&self, node: &Node, plan: &Plan) -> Result<()> {
        let directory = self.node_directory(node);
        std::fs::create_dir_all(&directory)?;
        match plan.disk_mib {
            Some(mib) => disk::ensure(&self.layout.directory.join(format!("{}.disk", node.name)), mib, &directory),
            None => Ok(()),
        }
    }

    /// Lets a node's daemon suffer, until it is cured.
    pub fn afflict(&self, name: &str, ailment: Ailment) -> Result<()> {
        let node = self.node(name)?;
        let directory = self.node_directory(&node);
        let is_own = disk::is_mounted(&directory)?;
        ensure!(is_own || ailment != Ailment::FullDisk, "{name} has no disk of its own to fill: skein lab up --disk-mib");
        let pid = process::daemon(&directory).context("the node's daemon does not run")?;
        let course = Course::plan(ailment, pid, &directory.join("data"))?;
        let path = self.course(name, ailment.name());
        cure(&path)?;
        // How it is cured is known before it is ill.
        std::fs::write(&path, serde_json::to_vec(&course)?).context("cannot write down how it is cured")?;
        course.begin()
    }

    /// Ends whatever a node's daemon suffers from.
    pub fn cure(&self, name: &str) -> Result<()> {
        Ailment::NAMES.into_iter().try_for_each(|ailment| cure(&self.course(name, ailment)))
    }

    /// Beside the nodes' disks, which may be full.
    fn course(&self, name: &str, ailment: &str) -> PathBuf {
        self.layout.directory.join(format!("{name}.{ailment}"))
    }

    pub fn pause(&self, name: &str, scope: Scope) -> Result<()> {
        self.signal(name, scope, nix::sys::signal::Signal::SIGSTOP)
    }

    pub fn resume(&self, name: &str, scope: Scope) -> Result<()> {
        self.signal(name, scope, nix::sys::signal::Signal::SIGCONT)
    }

    /// Cuts the links between groups: `a,b/c` lets a and b talk, and neither to c.
    pub fn partition(&self, groups: &str) -> Result<()> {
        let groups = self.groups(groups)?;
        self.change_links(|links| links.partition(&groups))
    }

    /// Makes the links between groups long or lossy, in both directions; a shape of nothing makes them whole.
    pub fn shape(&self, groups: &str, shape: Shape) -> Result<()> {
        ensure!(shape.lost_permille <= 1000, "no more than all can be lost");
        let groups = self.groups(groups)?;
        self.change_links(|links| links.shape(&groups, shape))
    }

    /// Makes all links short and without loss; what is cut stays so.
    pub fn smooth(&self) -> Result<()> {
        self.change_links(|links| links.shaped.clear())
    }

    fn groups(&self, groups: &str) -> Result<Vec<Vec<Node>>> {
        let parse = |group: &str| group.split(',').map(|name| self.node(name.trim())).collect::<Result<Vec<_>>>();
        let groups = groups.split('/').map(parse).collect::<Result<Vec<_>>>()?;
        ensure!(groups.len() > 1, "there must be at least two groups, as in node-1,node-2/node-3");
        Ok(groups)
    }

    fn change_links(&self, change: impl FnOnce(&mut Links)) -> Result<()> {
        let (directory, file) = (&self.layout.directory, self.layout.directory.join(LINKS));
        let mut links = Links::read(&file)?;
        change(&mut links);
        links.write(&file)?;
        if links.shaped.is_empty() {
            process::kill_own(directory, RELAY);
        } else if process::running(directory, RELAY).is_none() {
            let arguments = ["lab".into(), RELAY.into(), directory.display().to_string()];
            process::spawn_own(directory, RELAY, &self.layout.program, &arguments)?;
        }
        network::carry_all_but(&links.taken())
    }

    /// Carries what is shaped, until it is killed: the process that [`Self::shape`] starts.
    pub fn relay(&self) -> Result<()> {
        relay::run(&self.nodes()?, &self.layout.directory.join(LINKS))
    }

    /// Cuts the links to a node one way: it is heard by these, and hears none of them.
    pub fn deafen(&self, name: &str, others: &[String]) -> Result<()> {
        let node = self.node(name)?;
        let others = others.iter().map(|other| self.node(other)).collect::<Result<Vec<_>>>()?;
        self.change_links(|links| links.deafen(&node, &others))
    }

    /// Mends what is cut; links that are shaped stay so.
    pub fn heal(&self) -> Result<()> {
        self.change_links(Links::mend)
    }

    /// Runs a command in the node's network namespace; returns its exit code.
    pub fn exec(&self, name: &str, command: &[String]) -> Result<i32> {
        let node = self.node(name)?;
        let status = network::inside(&node).args(command).status().context("cannot run the command")?;
        Ok(status.code().unwrap_or(128))
    }

    /// The kubeconfig of one node, or the one of all.
    pub fn kubeconfig(&self, name: Option<&str>) -> Result<PathBuf> {
        let path = match name {
            Some(name) => self.node_directory(&self.node(name)?).join("kubeconfig"),
            None => self.layout.directory.join("kubeconfig"),
        };
        ensure!(path.exists(), "{} is not there: has the laboratory been started?", path.display());
        Ok(path)
    }

    /// Loads an image archive onto every node.
    pub fn load(&self, image: &Path) -> Result<()> {
        ensure!(image.exists(), "{} does not exist", image.display());
        for node in self.full_nodes()? {
            let directory = self.node_directory(&node);
            let loaded = match self.plan().map(|p| p.runtime) {
                Some(Runtime::Containerd) => containerd::load(&directory, image),
                _ => self.load_into_own(&directory, image),
            };
            loaded.with_context(|| format!("{}: cannot load {}", node.name, image.display()))?;
        }
        Ok(())
    }

    fn load_into_own(&self, directory: &Path, image: &Path) -> Result<()> {
        let runtime = directory.join("data/runtime");
        let output = Command::new(&self.layout.program).args(["image", "load"]).arg(image).arg("--directory").arg(runtime).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(())
    }

    /// All but the witness.
    fn full_nodes(&self) -> Result<Vec<Node>> {
        let plan = self.plan();
        let is_full = |node: &Node| !plan.as_ref().is_some_and(|plan| plan.is_witness(node));
        Ok(self.nodes()?.into_iter().filter(is_full).collect())
    }

    fn plan(&self) -> Option<Plan> {
        serde_json::from_slice(&std::fs::read(self.layout.directory.join(PLAN)).ok()?).ok()
    }

    fn start_node(&self, node: &Node, plan: &Plan) -> Result<()> {
        let directory = self.node_directory(node);
        if plan.runtime == Runtime::Containerd {
            containerd::ensure(node, &directory, &self.layout.program, &plan.insecure_registries)?;
        }
        if process::daemon(&directory).is_some() {
            return Ok(());
        }
        let mut arguments: Vec<String> = ["up", "--name", &node.name, "--address", &node.address(), "--data-dir"].map(String::from).into();
        arguments.push(directory.join("data").display().to_string());
        if plan.runtime == Runtime::Containerd {
            arguments.extend(["--container-runtime-endpoint".into(), containerd::socket(&directory).display().to_string()]);
        }
        arguments.extend(plan.insecure_registries.iter().flat_map(|registry| ["--insecure-registry".into(), registry.clone()]));
        arguments.extend(["--cni-conf-dir".into(), directory.join("cni").display().to_string()]);
        arguments.extend(["--cgroup-root".into(), process::pods_cgroup(node)]);
        // What the machine lacks is no fault of one node's Pods.
        arguments.extend(["--eviction-hard=".into(), "--image-gc-high-threshold=100".into()]);
        arguments.extend(plan.arguments.iter().cloned());
        arguments.extend(plan.is_witness(node).then(|| "--witness".into()));
        let region = (node.index - 1) % plan.regions.max(1) + 1;
        arguments.extend(["--region".into(), format!("region-{region}")]);
        if node.index > 1 && !directory.join("data/node.json").exists() {
            arguments.extend(["--join".into(), self.token()?]);
        }
        process::spawn(node, &directory, "daemon", (&self.layout.program, &arguments, &plan.environment))
    }

    fn stop_machine(&self, node: &Node) -> Result<()> {
        let directory = self.node_directory(node);
        process::kill_machine(node)?;
        process::unmount_below(&directory)?;
        network::remove_pod_links(node);
        containerd::forget(&directory);
        Ok(())
    }

    fn signal(&self, name: &str, scope: Scope, signal: nix::sys::signal::Signal) -> Result<()> {
        let node = self.node(name)?;
        match scope {
            Scope::Machine => process::signal_machine(&node, signal),
            Scope::Daemon => process::signal_daemon(&self.node_directory(&node), signal),
        }
    }

    fn token(&self) -> Result<String> {
        let output = self.skein(&["token", "create"])?;
        Ok(output.trim().to_string())
    }

    fn cluster_status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.skein(&["status", "--output", "json"])?)?)
    }

    /// Runs the program itself against the cluster, with the founder's kubeconfig.
    fn skein(&self, arguments: &[&str]) -> Result<String> {
        let all = self.layout.directory.join("kubeconfig");
        let founder = self.node_directory(&Node::new(1)).join("data/admin.kubeconfig");
        let kubeconfig = if all.exists() { all } else { founder };
        let output = Command::new(&self.layout.program).args(arguments).arg("--kubeconfig").arg(&kubeconfig).output()?;
        if !output.status.success() {
            bail!("skein {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// One kubeconfig for each node with that node's server, and one that names them all, with what the
    /// administrator has by now.
    pub fn write_kubeconfigs(&self) -> Result<()> {
        let nodes = self.full_nodes()?;
        let written = |node: &Node| {
            let path = self.node_directory(node).join("data/admin.kubeconfig");
            Some((std::fs::metadata(&path).and_then(|file| file.modified()).ok()?, path))
        };
        let (_, newest) = nodes.iter().filter_map(written).max().context("no node has an administrator's kubeconfig")?;
        let template: Value = serde_json::from_str(&std::fs::read_to_string(newest)?)?;
        let authority = &template["clusters"][0]["cluster"]["certificate-authority-data"];
        let config = |nodes: &[Node]| {
            let mut clusters = Vec::new();
            let mut contexts = Vec::new();
            for (index, node) in nodes.iter().enumerate() {
                let url = format!("https://{}:6443", node.address());
                let stale = if index == 0 { "stale".to_string() } else { format!("stale-{}", node.name) };
                for (name, url) in [(node.name.clone(), url.clone()), (stale, format!("{url}/stale"))] {
                    clusters.push(json!({"name": name, "cluster": {"server": url, "certificate-authority-data": authority}}));
                    contexts.push(json!({"name": name, "context": {"cluster": name, "user": "admin"}}));
                }
            }
            json!({"apiVersion": "v1", "kind": "Config", "clusters": clusters, "contexts": contexts, "users": template["users"],
                "current-context": nodes.first().map(|n| n.name.clone())})
        };
        for node in &nodes {
            std::fs::write(self.node_directory(node).join("kubeconfig"), format!("{:#}", config(std::slice::from_ref(node))))?;
        }
        std::fs::write(self.layout.directory.join("kubeconfig"), format!("{:#}", config(&nodes)))?;
        Ok(())
    }

    fn wait(&self, what: &str, done: impl Fn() -> bool) -> Result<()> {
        let begin = Instant::now();
        let mut told = 0;
        while !done() {
            let waited = begin.elapsed();
            if waited > UP_TIMEOUT {
                bail!("waited {} s for {what}; look at {}/nodes/*/daemon.log", UP_TIMEOUT.as_secs(), self.layout.directory.display());
            }
            if waited.as_secs() >= told + 2 {
                told = waited.as_secs();
                eprintln!("waiting for {what} ({told} s)");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn nodes(&self) -> Result<Vec<Node>> {
        let mut nodes = Vec::new();
        let Ok(entries) = std::fs::read_dir(self.layout.directory.join("nodes")) else { return Ok(nodes) };
        for entry in entries {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let index = name.strip_prefix("node-").and_then(|n| n.parse().ok());
            nodes.extend(index.map(Node::new));
        }
        nodes.sort_by_key(|node| node.index);
        Ok(nodes)
    }

    fn node(&self, name: &str) -> Result<Node> {
        let nodes = self.nodes()?;
        let names: Vec<&str> = nodes.iter().map(|n| n.name.as_str()).collect();
        let found = nodes.iter().find(|n| n.name == name).cloned();
        found.with_context(|| format!("there is no node {name:?}; there are: {}", names.join(", ")))
    }

    fn node_directory(&self, node: &Node) -> PathBuf {
        self.layout.directory.join("nodes").join(&node.name)
    }
}

/// Runs a command that must succeed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program).args(arguments).output().with_context(|| format!("cannot run {program}: is it installed?"))?;
    if !output.status.success() {
        bail!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Runs a command whose failure means that there was nothing to do.
pub(crate) fn attempt(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
}

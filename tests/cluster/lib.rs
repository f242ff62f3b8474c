//! A real cluster for a test: three daemons in namespaces of their own, containerd, an unmodified kubectl.
//!
//! The laboratory has one place on a machine, so tests take turns (`--test-threads=1`), and each cleans up, also when
//! it fails.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use skein_lab::image::{File, Image};
use skein_lab::{Lab, Layout, Plan};

/// The image that most tests run: Debian's static busybox under the names of its applets.
pub const BUSYBOX: &str = "skein.test/busybox:1";

/// For everything that should take a second: ten times that and more, for machines under load.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Cluster {
    pub lab: Lab,
    kubectl: PathBuf,
    directory: PathBuf,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.explain();
        }
        if let Err(why) = self.lab.down() {
            eprintln!("the laboratory could not be taken down: {why:#}");
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

// === impl Cluster ===

impl Cluster {
    /// Three ready nodes.
    pub fn start() -> Self {
        Self::with_nodes(3)
    }

    pub fn with_nodes(count: usize) -> Self {
        let lab = Lab::open(Layout { program: program(), ..Layout::default() }).expect("tests of clusters run as root");
        lab.down().expect("what an earlier test left can be removed");
        let directory = std::env::temp_dir().join(format!("skein-test-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a temporary directory");
        let kubectl = std::env::var_os("KUBECTL").map_or_else(|| "kubectl".into(), PathBuf::from);
        let cluster = Self { lab, kubectl, directory };
        cluster.lab.up(&Plan::new(count)).expect("the cluster comes up");
        cluster
    }

    /// Loads the busybox image onto every node.
    pub fn load_busybox(&self) {
        let files = [File { source: "/bin/busybox".into(), path: "bin/busybox".into() }];
        let applets = ["sh", "httpd", "sleep", "cat", "wget", "echo", "date", "kill", "touch", "ls", "id"];
        let links: Vec<(String, &str)> = applets.iter().map(|a| (format!("bin/{a}"), "busybox")).collect();
        let links: Vec<(&str, &str)> = links.iter().map(|(path, target)| (path.as_str(), *target)).collect();
        let archive = self.directory.join("busybox.tar");
        let image = Image { name: BUSYBOX, entrypoint: &["/bin/sh"], files: &files, links: &links };
        skein_lab::image::write(&archive, &image).expect("the image can be written");
        self.lab.load(&archive).expect("the image can be loaded");
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn address(node: usize) -> String {
        format!("198.18.0.{}", 10 + node)
    }

    /// kubectl through one node; its standard output, or its standard error where it fails.
    pub fn try_kubectl(&self, node: &str, arguments: &[&str]) -> Result<String, String> {
        let kubeconfig = self.lab.kubeconfig(None).expect("the laboratory has a kubeconfig");
        let output = Command::new(&self.kubectl)
            .env("KUBECONFIG", kubeconfig)
            .env("HOME", &self.directory)
            .args(["--context", node])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("kubectl can be run");
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    pub fn kubectl(&self, node: &str, arguments: &[&str]) -> String {
        self.try_kubectl(node, arguments).unwrap_or_else(|why| panic!("kubectl {}: {why}", arguments.join(" ")))
    }

    pub fn kubectl_json(&self, node: &str, arguments: &[&str]) -> Value {
        let text = self.kubectl(node, &[arguments, &["-o", "json"]].concat());
        serde_json::from_str(&text).expect("kubectl prints JSON")
    }

    pub fn apply(&self, node: &str, manifest: &str) -> String {
        let path = self.directory.join("manifest.yaml");
        std::fs::write(&path, manifest).expect("a file can be written");
        self.kubectl(node, &["apply", "-f", &path.display().to_string()])
    }

    /// `skein status` as this node answers it.
    pub fn status(&self, node: &str) -> Value {
        let kubeconfig = self.lab.kubeconfig(Some(node)).expect("the node has a kubeconfig");
        let output = Command::new(program()).args(["status", "--output", "json", "--kubeconfig"]).arg(kubeconfig).output();
        serde_json::from_slice(&output.expect("skein can be run").stdout).unwrap_or_default()
    }

    pub fn leader(&self, asked: &str) -> String {
        self.until("somebody leads", || self.status(asked)["leader"].as_str().map(String::from))
    }

    /// A plain HTTPS request with the administrator's certificate, by curl: status code and body.
    pub fn request(&self, node: usize, method: &str, path: &str, body: Option<&str>) -> (u16, Value) {
        let [ca, certificate, key] = self.credentials();
        let mut command = Command::new("curl");
        command
            .args(["-sS", "--max-time", "8", "-X", method, "-w", "\n%{http_code}", "--cacert"])
            .arg(ca)
            .arg("--cert")
            .arg(certificate)
            .arg("--key")
            .arg(key);
        if let Some(body) = body {
            let content_type = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
            command.args(["-H", &format!("Content-Type: {content_type}"), "--data-binary", body]);
        }
        let output = command.arg(format!("https://{}:6443{path}", Self::address(node))).output().expect("curl can be run");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (content, code) = text.rsplit_once('\n').unwrap_or((&text, "0"));
        (code.trim().parse().unwrap_or(0), serde_json::from_str(content).unwrap_or_default())
    }

    /// A watch through one node, collected in a thread of its own until the server ends it.
    pub fn watch(&self, node: usize, path: &str) -> std::thread::JoinHandle<Vec<Value>> {
        let [ca, certificate, key] = self.credentials();
        let mut command = Command::new("curl");
        command.args(["-sSN", "--max-time", "60", "--cacert"]).arg(ca).arg("--cert").arg(certificate).arg("--key").arg(key);
        let child =
            command.arg(format!("https://{}:6443{path}", Self::address(node))).stdout(Stdio::piped()).spawn().expect("curl can be run");
        std::thread::spawn(move || {
            let output = child.wait_with_output().expect("curl ends");
            String::from_utf8_lossy(&output.stdout).lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
        })
    }

    /// Files with the CA, certificate and key of the administrator.
    pub fn credentials(&self) -> [PathBuf; 3] {
        let names = ["ca.crt", "admin.crt", "admin.key"].map(|name| self.directory.join(name));
        if !names[2].exists() {
            let text = std::fs::read_to_string(self.lab.kubeconfig(None).expect("a kubeconfig")).expect("it can be read");
            let config: Value = serde_json::from_str(&text).expect("it is JSON");
            let parts = [
                &config["clusters"][0]["cluster"]["certificate-authority-data"],
                &config["users"][0]["user"]["client-certificate-data"],
                &config["users"][0]["user"]["client-key-data"],
            ];
            for (name, part) in names.iter().zip(parts) {
                let bytes = STANDARD.decode(part.as_str().unwrap_or_default()).expect("base64");
                std::fs::write(name, bytes).expect("a file can be written");
            }
        }
        names
    }

    /// Waits until `probe` finds something; panics with `what` when it takes longer than [`PATIENCE`].
    pub fn until<T>(&self, what: &str, probe: impl FnMut() -> Option<T>) -> T {
        until(what, PATIENCE, probe)
    }

    fn explain(&self) {
        for arguments in [&["get", "pods,nodes", "-A", "-o", "wide"][..], &["get", "events", "-A"]] {
            let shown = self.try_kubectl("node-1", arguments).or_else(|_| self.try_kubectl("node-2", arguments));
            let shown = shown.unwrap_or_else(|why| why);
            eprintln!("{}", shown.lines().rev().take(40).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
        for node in 1..=3 {
            let log = std::fs::read_to_string(format!("/var/lib/skein-lab/nodes/node-{node}/daemon.log")).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(15).collect();
            eprintln!("--- node-{node}\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
    }
}

/// Polls a predicate until a deadline.
pub fn until<T>(what: &str, patience: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(begin.elapsed() < patience, "waited {patience:?} until {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The daemon that was built beside this test.
fn program() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows where it is");
    let program = test.ancestors().nth(2).expect("the target directory").join("skein");
    assert!(program.exists(), "{} is missing: run `make build`", program.display());
    program
}

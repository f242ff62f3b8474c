//! A real cluster for a test: three daemons in namespaces of their own, containerd, an unmodified kubectl.
//!
//! The laboratory has one place on a machine, so tests take turns (`--test-threads=1`), and each cleans up, also when
//! it fails.

pub mod registry;
pub mod server;
pub mod storage_server;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use skein_lab::image::{File, Image};
use skein_lab::{Lab, Layout, Plan, Runtime};

/// The image that most tests run: Debian's static busybox under the names of its applets.
pub const BUSYBOX: &str = "skein.test/busybox:1";

/// For everything that should take a second: ten times that and more, for machines under load.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Cluster {
    pub lab: Lab,
    /// What kubectl finds in its environment.
    pub environment: Vec<(&'static str, &'static str)>,
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
        Self::build(&Plan::new(count))
    }

    /// Three nodes with this runtime; they ask these registries over plain HTTP.
    pub fn with_runtime(runtime: Runtime, registries: &[String]) -> Self {
        Self::build(&Plan { runtime, insecure_registries: registries.to_vec(), ..Plan::new(3) })
    }

    pub fn build(plan: &Plan) -> Self {
        Self::build_after(plan, || {})
    }

    /// `prepare` runs when what was there before is gone and nothing is there yet.
    pub fn build_after(plan: &Plan, prepare: impl FnOnce()) -> Self {
        let lab = Lab::open(Layout { program: program(), ..Layout::default() }).expect("tests of clusters run as root");
        lab.down().expect("what an earlier test left can be removed");
        let directory = std::env::temp_dir().join(format!("skein-test-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a temporary directory");
        let kubectl = std::env::var_os("KUBECTL").map_or_else(|| "kubectl".into(), PathBuf::from);
        let cluster = Self { lab, environment: Vec::new(), kubectl, directory };
        prepare();
        cluster.lab.up(plan).expect("the cluster comes up");
        cluster
    }

    /// Loads the busybox image onto every node.
    pub fn load_busybox(&self) {
        self.lab.load(&self.busybox_archive()).expect("the image can be loaded");
    }

    pub fn busybox_archive(&self) -> PathBuf {
        let archive = self.directory.join("busybox.tar");
        busybox(|image| skein_lab::image::write(&archive, image)).expect("the image can be written");
        archive
    }

    /// Processes of a node whose command line holds all of these words.
    pub fn processes(node: &str, words: &[&str]) -> Vec<i32> {
        let place = format!("/var/lib/skein-lab/nodes/{node}/");
        let entries = std::fs::read_dir("/proc").expect("there is /proc").flatten();
        let pids = entries.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            line.contains(&place) && words.iter().all(|word| line.contains(word))
        })
        .collect()
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn address(node: usize) -> String {
        format!("198.18.0.{}", 10 + node)
    }

    /// The file with a context for each node.
    pub fn kubeconfig(&self) -> PathBuf {
        self.lab.kubeconfig(None).expect("the laboratory has a kubeconfig")
    }

    /// kubectl through one node; its standard output, or its standard error where it fails.
    pub fn try_kubectl(&self, node: &str, arguments: &[&str]) -> Result<String, String> {
        let kubeconfig = self.kubeconfig();
        let output = Command::new(&self.kubectl)
            .env("KUBECONFIG", kubeconfig)
            .env("HOME", &self.directory)
            .envs(self.environment.iter().copied())
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

    /// kubectl with something to read; its standard output, whether it fails or not.
    pub fn kubectl_with_input(&self, node: &str, arguments: &[&str], input: &str) -> String {
        let kubeconfig = self.kubeconfig();
        let mut child = Command::new(&self.kubectl)
            .env("KUBECONFIG", kubeconfig)
            .env("HOME", &self.directory)
            .envs(self.environment.iter().copied())
            .args(["--context", node, "--request-timeout=20s"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("kubectl can be run");
        let mut stdin = child.stdin.take().expect("its input is a pipe");
        let input = input.to_string();
        let writer = std::thread::spawn(move || std::io::Write::write_all(&mut stdin, input.as_bytes()));
        let ended = Instant::now() + Duration::from_secs(5);
        if arguments.first() == Some(&"attach") || arguments.contains(&"-w") {
            // It looks on until it is told to stop.
            while Instant::now() < ended && child.try_wait().is_ok_and(|s| s.is_none()) {
                std::thread::sleep(Duration::from_millis(50));
            }
            let _ = child.kill();
        }
        let output = child.wait_with_output().expect("kubectl ends");
        let _ = writer.join();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// kubectl in the background; the caller ends it.
    pub fn spawn_kubectl(&self, node: &str, arguments: &[&str], environment: &[(&str, &str)]) -> std::process::Child {
        let kubeconfig = self.kubeconfig();
        Command::new(&self.kubectl)
            .env("KUBECONFIG", kubeconfig)
            .env("HOME", &self.directory)
            .envs(self.environment.iter().copied())
            .envs(environment.iter().copied())
            .args(["--context", node])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("kubectl can be run")
    }

    pub fn kubectl(&self, node: &str, arguments: &[&str]) -> String {
        self.try_kubectl(node, arguments).unwrap_or_else(|why| panic!("kubectl {}: {why}", arguments.join(" ")))
    }

    pub fn kubectl_json(&self, node: &str, arguments: &[&str]) -> Value {
        let text = self.kubectl(node, &[arguments, &["-o", "json"]].concat());
        serde_json::from_str(&text).expect("kubectl prints JSON")
    }

    pub fn apply(&self, node: &str, manifest: &str) -> String {
        self.kubectl(node, &["apply", "-f", &self.manifest(manifest)])
    }

    /// A file with a manifest. It begins as YAML does: older kubectl take a brace for JSON.
    pub fn manifest(&self, manifest: &str) -> String {
        let path = self.directory.join("manifest.yaml");
        std::fs::write(&path, format!("---\n{manifest}")).expect("a file can be written");
        path.display().to_string()
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
        answer(command.arg(format!("https://{}:6443{path}", Self::address(node))))
    }

    /// A GET without a certificate: as the bearer of a token, or as nobody.
    pub fn request_as(&self, node: usize, token: Option<&str>, path: &str) -> (u16, Value) {
        let [ca, ..] = self.credentials();
        let mut command = Command::new("curl");
        command.args(["-sS", "--max-time", "8", "-w", "\n%{http_code}", "--cacert"]).arg(ca);
        if let Some(token) = token {
            command.args(["-H", &format!("Authorization: Bearer {token}")]);
        }
        answer(command.arg(format!("https://{}:6443{path}", Self::address(node))))
    }

    /// A GET at the port of a node's kubelet, and the page as it came.
    pub fn kubelet(&self, node: usize, token: Option<&str>, path: &str) -> (u16, String) {
        let [ca, ..] = self.credentials();
        let mut command = Command::new("curl");
        command.args(["-sS", "--max-time", "8", "-w", "\n%{http_code}", "--cacert"]).arg(ca);
        if let Some(token) = token {
            command.args(["-H", &format!("Authorization: Bearer {token}")]);
        }
        let output = command.arg(format!("https://{}:10250{path}", Self::address(node))).output().expect("curl can be run");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (page, code) = text.rsplit_once('\n').unwrap_or((&text, "0"));
        (code.trim().parse().unwrap_or(0), page.to_string())
    }

    /// All that a node sends to a client that asks for a websocket, by openssl: the answer's head, and messages as they came.
    /// Whoever brings a token among the protocols shows no certificate.
    pub fn websocket(&self, node: usize, path: &str, protocol: &str) -> String {
        let [ca, certificate, key] = self.credentials();
        let mut command = Command::new("timeout");
        command.args(["20", "openssl", "s_client", "-quiet", "-connect", &format!("{}:6443", Self::address(node)), "-CAfile"]);
        command.arg(ca);
        if !protocol.contains("bearer") {
            command.arg("-cert").arg(certificate).arg("-key").arg(key);
        }
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = piped.spawn().expect("openssl can be run");
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: skein\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n"
        );
        child.stdin.as_mut().expect("it is piped").write_all(request.as_bytes()).expect("openssl reads");
        String::from_utf8_lossy(&child.wait_with_output().expect("openssl ends").stdout).into_owned()
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
            let text = std::fs::read_to_string(self.kubeconfig()).expect("it can be read");
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

/// Runs curl, which writes the status code behind the body.
fn answer(curl: &mut Command) -> (u16, Value) {
    let output = curl.output().expect("curl can be run");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (content, code) = text.rsplit_once('\n').unwrap_or((&text, "0"));
    (code.trim().parse().unwrap_or(0), serde_json::from_str(content).unwrap_or_default())
}

/// Debian's static busybox as an image.
pub fn busybox<T>(use_it: impl FnOnce(&Image<'_>) -> T) -> T {
    let files = [File { source: "/bin/busybox".into(), path: "bin/busybox".into() }];
    let applets = [
        "sh", "httpd", "sleep", "cat", "wget", "echo", "date", "kill", "touch", "ls", "id", "grep", "head", "hostname", "mkdir", "mknod",
        "mount", "nc", "nslookup", "ps", "seq", "stat", "tail", "test", "tr", "true", "wc", "yes",
    ];
    let links: Vec<(String, &str)> = applets.iter().map(|a| (format!("bin/{a}"), "busybox")).collect();
    let links: Vec<(&str, &str)> = links.iter().map(|(path, target)| (path.as_str(), *target)).collect();
    use_it(&Image { name: BUSYBOX, entrypoint: &["/bin/sh"], files: &files, links: &links })
}

/// Makes a test of each function, on Skein's own runtime and on containerd: the same names, the same number.
#[macro_export]
macro_rules! on_both_runtimes {
    ($($name:ident),* $(,)?) => {
        mod skein {
            $(#[test] fn $name() { super::$name(skein_lab::Runtime::Skein) })*
        }
        mod containerd {
            $(#[test] fn $name() { super::$name(skein_lab::Runtime::Containerd) })*
        }
    };
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
pub fn program() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows where it is");
    let program = test.ancestors().nth(2).expect("the target directory").join("skein");
    assert!(program.exists(), "{} is missing: run `make build`", program.display());
    program
}

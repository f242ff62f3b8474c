//! What is measured, one function each.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use skein_lab::{Lab, Scope};
use tokio::sync::Notify;

use crate::client::{Client, Credentials, Multiplexed};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
/// Clients share connections, as those of one program do.
pub(crate) const CONNECTIONS_MAX: usize = 96;
/// Pods in a list, and who reads it.
pub(crate) const LISTED: usize = 10_000;
const LISTERS: usize = 6;
/// Who makes many objects at once.
const MAKERS: usize = 48;
/// A cluster may take this long to be itself again after a fault.
const RECOVERY: Duration = Duration::from_secs(60);
/// For so long after a leader was stopped it is seen whether writes go on.
const HANDOVER: Duration = Duration::from_secs(2);

/// What is written at once, and what etcd is measured with.
pub(crate) const VALUE_BYTES: usize = 1024;

#[derive(Default)]
pub(crate) struct Load {
    pub(crate) per_second: f64,
    pub(crate) latencies: Vec<Duration>,
    /// What the servers used of the processor for one, in microseconds.
    pub(crate) cpu_micros: f64,
    /// How often all servers together synced their logs for one.
    pub(crate) syncs: f64,
    /// How often they encoded an object for one, instead of copying its bytes.
    pub(crate) encoded: f64,
    /// What of the processor's time that took, in hundredths.
    pub(crate) encoding_percent: f64,
}

/// What servers have used so far.
#[derive(Clone, Copy, Default)]
pub(crate) struct Used {
    /// Of the processor, in hundredths of a second, as Linux counts it.
    pub(crate) ticks: u64,
    pub(crate) syncs: u64,
    pub(crate) encoded: u64,
    pub(crate) encoding_seconds: f64,
}

/// Events on their way from a write to many watchers. A cheap clone.
#[derive(Clone)]
pub(crate) struct Arrivals(Arc<Inner>);

struct Inner {
    expected: usize,
    begun: Mutex<Vec<Instant>>,
    latencies: Mutex<Vec<Duration>>,
    complete: Notify,
}

/// One of the watchers; its events come in the order of the writes.
pub(crate) struct Watcher {
    arrivals: Arrivals,
    seen: usize,
}

pub(crate) struct Idle {
    pub(crate) mebibytes: f64,
    pub(crate) percent: f64,
}

// === impl Load ===

impl Load {
    /// With what the servers used for it.
    pub(crate) fn with(self, before: Used, after: Used) -> Self {
        let operations = self.latencies.len().max(1) as f64;
        let each = |before: u64, after: u64| (after - before) as f64 / operations;
        let cpu_micros = each(before.ticks, after.ticks) * 10_000.0;
        let encoding_percent = (after.encoding_seconds - before.encoding_seconds) * 1e8 / (cpu_micros * operations).max(1.0);
        Self { cpu_micros, syncs: each(before.syncs, after.syncs), encoded: each(before.encoded, after.encoded), encoding_percent, ..self }
    }
}

// === impl Arrivals ===

impl Arrivals {
    pub(crate) fn new(watchers: usize, writes: usize) -> Self {
        let expected = watchers * writes;
        Self(Arc::new(Inner { expected, begun: Mutex::default(), latencies: Mutex::default(), complete: Notify::new() }))
    }

    pub(crate) fn watcher(&self) -> Watcher {
        Watcher { arrivals: self.clone(), seen: 0 }
    }

    /// The next write begins.
    pub(crate) fn written(&self) {
        lock(&self.0.begun).push(Instant::now());
    }

    /// Waits until everybody has seen everything.
    pub(crate) async fn all(&self) -> Result<Load> {
        let complete = tokio::time::timeout(RECOVERY, self.0.complete.notified()).await;
        ensure!(complete.is_ok(), "only {} of {} events have arrived", lock(&self.0.latencies).len(), self.0.expected);
        let latencies = std::mem::take(&mut *lock(&self.0.latencies));
        let took = lock(&self.0.begun).first().map_or(Duration::ZERO, Instant::elapsed);
        Ok(Load { per_second: latencies.len() as f64 / took.as_secs_f64(), latencies, ..Load::default() })
    }
}

// === impl Watcher ===

impl Watcher {
    pub(crate) fn saw(&mut self, events: usize) {
        let (now, inner) = (Instant::now(), &self.arrivals.0);
        let begun = lock(&inner.begun)[self.seen..self.seen + events].to_vec();
        self.seen += events;
        let mut latencies = lock(&inner.latencies);
        latencies.extend(begun.into_iter().map(|begin| now - begin));
        if latencies.len() == inner.expected {
            inner.complete.notify_one();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Clients that each do one thing after the other, with what `start` gave them.
pub(crate) async fn gather<S, F>(
    clients: usize,
    duration: Duration,
    start: impl Fn(usize) -> S,
    once: impl Fn(S) -> F + Clone + Send + 'static,
) -> Result<Load>
where
    S: Send + 'static,
    F: Future<Output = Result<S>> + Send,
{
    let begin = Instant::now();
    let tasks: Vec<_> = (0..clients)
        .map(|index| {
            let (mut own, once) = (start(index), once.clone());
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                while begin.elapsed() < duration {
                    let sent = Instant::now();
                    own = once(own).await?;
                    latencies.push(sent.elapsed());
                }
                Ok::<_, anyhow::Error>(latencies)
            })
        })
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await??);
    }
    Ok(Load { per_second: latencies.len() as f64 / begin.elapsed().as_secs_f64(), latencies, ..Load::default() })
}

/// The connections that so many clients share, to all nodes: as many as etcd is asked by.
async fn shared(credentials: &Credentials, clients: usize) -> Result<Vec<Multiplexed>> {
    let connections = (0..clients.min(CONNECTIONS_MAX)).map(|index| async move { credentials.client(index % 3 + 1).multiplexed().await });
    futures::future::try_join_all(connections).await
}

/// Clients that create objects, spread over the nodes.
pub(crate) async fn creations(lab: &Lab, credentials: &Credentials, clients: usize, duration: Duration) -> Result<Load> {
    static SEQUENCE: AtomicU64 = AtomicU64::new(0);
    let value = Arc::new("x".repeat(VALUE_BYTES));
    let before = used(lab, credentials).await?;
    let shared = shared(credentials, clients).await?;
    let create = move |mut client: Multiplexed| {
        let name = format!("bench-{}-{}", std::process::id(), SEQUENCE.fetch_add(1, Ordering::Relaxed));
        let body = json!({"metadata": {"name": name}, "data": {"value": *value}}).to_string();
        async move {
            let (code, _) = client.send("POST", MAPS, body).await?;
            ensure!(code == 201, "creating {name}: {code}");
            Ok(client)
        }
    };
    let load = gather(clients, duration, |index| shared[index % shared.len()].clone(), create).await?;
    Ok(load.with(before, used(lab, credentials).await?))
}

/// Clients that read one object, linearizably.
pub(crate) async fn reads(lab: &Lab, credentials: &Credentials, clients: usize, duration: Duration) -> Result<Load> {
    let body = json!({"metadata": {"name": "read"}, "data": {"value": "x".repeat(VALUE_BYTES)}}).to_string();
    credentials.client(1).send("POST", MAPS, &body).await?;
    let before = used(lab, credentials).await?;
    let shared = shared(credentials, clients).await?;
    let read = |mut client: Multiplexed| async move {
        let (code, _) = client.send("GET", &format!("{MAPS}/read"), String::new()).await?;
        ensure!(code == 200, "reading: {code}");
        Ok(client)
    };
    let load = gather(clients, duration, |index| shared[index % shared.len()].clone(), read).await?;
    Ok(load.with(before, used(lab, credentials).await?))
}

/// Clients that list so many Pods, from the replicas, again and again.
pub(crate) async fn lists(lab: &Lab, credentials: &Credentials, accept: &'static str, duration: Duration) -> Result<Load> {
    let before = used(lab, credentials).await?;
    let shared = shared(credentials, LISTERS).await?;
    let list = move |mut client: Multiplexed| async move {
        let bytes = client.read("/api/v1/namespaces/listed/pods?resourceVersion=0", accept).await?;
        ensure!(bytes.len() > LISTED * 100, "a list of {} bytes", bytes.len());
        Ok(client)
    };
    let load = gather(LISTERS, duration, |index| shared[index].clone(), list).await?;
    Ok(load.with(before, used(lab, credentials).await?))
}

/// Makes the Pods that are listed: none is ever placed.
pub(crate) async fn fill_lists(credentials: &Credentials) -> Result<()> {
    make_namespace(credentials, "listed").await?;
    let pod = |number: usize| {
        let labels = json!({"app": "listed", "pod-template-hash": "5d4f8c7b9"});
        let container = json!({"name": "c", "image": "registry.example.com/app:1", "resources": {"requests": {"cpu": "100m"}}});
        json!({"metadata": {"name": format!("listed-{number}"), "labels": labels},
            "spec": {"schedulingGates": [{"name": "example.com/never"}], "containers": [container]}})
    };
    make_many(credentials, "/api/v1/namespaces/listed/pods", LISTED, pod).await
}

async fn make_namespace(credentials: &Credentials, name: &str) -> Result<()> {
    let namespace = json!({"metadata": {"name": name}}).to_string();
    credentials.client(1).send("POST", "/api/v1/namespaces", &namespace).await?;
    // The CA's copy and the ServiceAccount come into the namespace by themselves.
    tokio::time::sleep(Duration::from_secs(1)).await;
    Ok(())
}

/// Makes so many objects, through all nodes.
pub(crate) async fn make_many(credentials: &Credentials, path: &'static str, count: usize, object: impl Fn(usize) -> Value) -> Result<()> {
    let mut left: Vec<String> = (0..count).map(|number| object(number).to_string()).collect();
    let shared = shared(credentials, MAKERS).await?;
    let share = left.len().div_ceil(MAKERS);
    let mut tasks = Vec::new();
    for mut client in shared {
        let own = left.split_off(left.len().saturating_sub(share));
        tasks.push(tokio::spawn(async move {
            for body in own {
                let (code, answer) = client.send("POST", path, body).await?;
                ensure!(code == 201, "{}", String::from_utf8_lossy(&answer));
            }
            Ok(())
        }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(())
}

/// Kills the leader's daemon where there are so many Deployments; the time until the next one has looked at them all, so that
/// it makes a ReplicaSet of a new one, too.
pub(crate) async fn reconciles(lab: &Lab, credentials: &Credentials, deployments: usize, rounds: usize) -> Result<Vec<Duration>> {
    make_namespace(credentials, "reconciled").await?;
    let path = "/apis/apps/v1/namespaces/reconciled/deployments";
    let deployment = |name: &str| {
        let template = json!({"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "none"}]}});
        json!({"metadata": {"name": name}, "spec": {"replicas": 0, "selector": {"matchLabels": {"app": name}}, "template": template}})
    };
    make_many(credentials, path, deployments, |number| deployment(&format!("many-{number}"))).await?;
    let mut times = Vec::new();
    for round in 0..=rounds {
        let leader = leader(credentials).await?;
        let survivor = (1..=3).find(|node| format!("node-{node}") != leader).unwrap_or(1);
        let mut client = credentials.client(survivor);
        let begin = Instant::now();
        // The first time they are only waited for.
        if round > 0 {
            lab.kill(&leader, Scope::Daemon)?;
        }
        let name = format!("after-{round}");
        let body = deployment(&name).to_string();
        while !matches!(client.send("POST", path, &body).await, Ok((201 | 409, _))) {}
        while get(&mut client, &format!("{path}/{name}?resourceVersion=0")).await?["status"]["observedGeneration"] != 1 {
            ensure!(begin.elapsed() < RECOVERY, "the Deployment of round {round} is not looked at");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        if round > 0 {
            times.push(begin.elapsed());
            lab.start(&leader)?;
            all_ready(credentials, survivor).await?;
        }
    }
    Ok(times)
}

/// So many writes, each seen by so many watchers of all nodes.
pub(crate) async fn fan_out(lab: &Lab, credentials: &Credentials, watchers: usize, writes: usize) -> Result<Load> {
    let mut client = credentials.client(1);
    make_namespace(credentials, "watched").await?;
    let maps = "/api/v1/namespaces/watched/configmaps";
    let version = get(&mut client, maps).await?["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_string();
    let path = format!("{maps}?watch=1&resourceVersion={version}");
    let arrivals = Arrivals::new(watchers, writes);
    let shared = shared(credentials, watchers).await?;
    for index in 0..watchers {
        let mut watch = shared[index % shared.len()].watch(&path).await?;
        let mut watcher = arrivals.watcher();
        tokio::spawn(async move {
            while let Some(Ok(frame)) = watch.frame().await {
                let lines = frame.data_ref().map_or(0, |data| data.iter().filter(|byte| **byte == b'\n').count());
                watcher.saw(lines);
            }
        });
    }
    let before = used(lab, credentials).await?;
    for write in 0..writes {
        let body = json!({"metadata": {"name": format!("watched-{write}")}, "data": {"value": "x".repeat(VALUE_BYTES)}}).to_string();
        arrivals.written();
        let (code, _) = client.send("POST", maps, &body).await?;
        ensure!(code == 201, "writing: {code}");
    }
    let load = arrivals.all().await?;
    Ok(load.with(before, used(lab, credentials).await?))
}

/// Pods created one at a time, each timed until the API says that it runs.
pub(crate) async fn pod_starts(credentials: &Credentials, image: &str, count: usize) -> Result<Vec<Duration>> {
    let mut client = credentials.client(1);
    let mut latencies = Vec::new();
    for index in 0..count {
        let name = format!("start-{index}");
        let begin = Instant::now();
        create_pod(&mut client, &name, image).await?;
        wait_running(&mut client, &name).await?;
        latencies.push(begin.elapsed());
        client.send("DELETE", &format!("{PODS}/{name}?gracePeriodSeconds=0"), "").await?;
    }
    Ok(latencies)
}

/// Kills the leader's machine; the time until a survivor has acknowledged another write.
pub(crate) async fn leader_losses(lab: &Lab, credentials: &Credentials, rounds: usize) -> Result<Vec<Duration>> {
    let mut gaps = Vec::new();
    for round in 0..rounds {
        let leader = leader(credentials).await?;
        let survivor = (1..=3).find(|node| format!("node-{node}") != leader).unwrap_or(1);
        let mut client = credentials.client(survivor);
        write(&mut client, &format!("before-{round}")).await?;
        lab.kill(&leader, Scope::Machine)?;
        let begin = Instant::now();
        while write(&mut client, &format!("after-{round}")).await.is_err() {}
        gaps.push(begin.elapsed());
        lab.start(&leader)?;
        all_ready(credentials, survivor).await?;
    }
    Ok(gaps)
}

/// Stops the leader's daemon in order while a client writes through another node; the longest time without a write.
pub(crate) async fn handovers(lab: &Lab, credentials: &Credentials, rounds: usize) -> Result<Vec<Duration>> {
    let mut gaps = Vec::new();
    for round in 0..rounds {
        let leader = leader(credentials).await?;
        let survivor = (1..=3).find(|node| format!("node-{node}") != leader).unwrap_or(1);
        let mut client = credentials.client(survivor);
        write(&mut client, &format!("led-{round}")).await?;
        let status = lab.status()?;
        let node = status["nodes"].as_array().into_iter().flatten().find(|node| node["name"] == leader.as_str());
        let pid = node.and_then(|node| node["pid"].as_i64()).context("the leader has no daemon")?;
        ensure!(std::process::Command::new("kill").args(["-TERM", &pid.to_string()]).status()?.success(), "it cannot be stopped");
        let (begin, mut last, mut longest, mut count) = (Instant::now(), Instant::now(), Duration::ZERO, 0);
        while begin.elapsed() < HANDOVER {
            if write(&mut client, &format!("handed-over-{round}-{count}")).await.is_ok() {
                longest = longest.max(last.elapsed());
                last = Instant::now();
            }
            count += 1;
        }
        gaps.push(longest.max(last.elapsed()));
        lab.start(&leader)?;
        all_ready(credentials, survivor).await?;
    }
    Ok(gaps)
}

/// Kills a machine that runs a Pod of a ReplicaSet; the time until its replacement runs on another node.
pub(crate) async fn node_losses(lab: &Lab, credentials: &Credentials, image: &str, rounds: usize) -> Result<Vec<Duration>> {
    let mut client = credentials.client(1);
    let set = json!({"metadata": {"name": "kept"}, "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "kept"}}, "template": {
        "metadata": {"labels": {"app": "kept"}}, "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": image}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["node-2", "node-3"]}]}]}}}}}}});
    let (code, answer) = client.send("POST", "/apis/apps/v1/namespaces/default/replicasets", &set.to_string()).await?;
    ensure!(code == 201, "{}", String::from_utf8_lossy(&answer));
    let mut times = Vec::new();
    for _ in 0..rounds {
        let from = wait_kept(&mut client, "").await?;
        lab.kill(&from, Scope::Machine)?;
        let begin = Instant::now();
        wait_kept(&mut client, &from).await?;
        times.push(begin.elapsed());
        lab.start(&from)?;
        all_ready(credentials, 1).await?;
    }
    Ok(times)
}

/// What a Pod's monitor holds for itself alone, in KiB: the mean over so many Pods.
pub(crate) async fn monitor_memory(credentials: &Credentials, image: &str, pods: usize) -> Result<f64> {
    let mut client = credentials.client(1);
    for number in 0..pods {
        create_pod(&mut client, &format!("memory-{number}"), image).await?;
    }
    for number in 0..pods {
        wait_running(&mut client, &format!("memory-{number}")).await?;
    }
    let processes = std::fs::read_dir("/proc")?.flatten().map(|e| e.path());
    let monitors: Vec<_> =
        processes.filter(|p| std::fs::read_to_string(p.join("comm")).is_ok_and(|c| c.trim() == "skein-monitor")).collect();
    ensure!(!monitors.is_empty(), "no monitor runs");
    let private = |path: &std::path::PathBuf| -> u64 {
        let rollup = std::fs::read_to_string(path.join("smaps_rollup")).unwrap_or_default();
        let lines = rollup.lines().filter(|line| line.starts_with("Private_"));
        lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum()
    };
    let total: u64 = monitors.iter().map(private).sum();
    for number in 0..pods {
        client.send("DELETE", &format!("{PODS}/memory-{number}?gracePeriodSeconds=0"), "").await?;
    }
    Ok(total as f64 / monitors.len() as f64)
}

/// Resident memory and CPU of the daemons while nothing happens.
pub(crate) fn idle(lab: &Lab, duration: Duration) -> Result<Idle> {
    let pids = pids(lab)?;
    let before = ticks(lab)?;
    std::thread::sleep(duration);
    // Linux counts CPU time in hundredths of a second.
    let percent = (ticks(lab)? - before) as f64 / duration.as_secs_f64() / pids.len() as f64;
    let kibibytes: u64 = pids.iter().map(|pid| resident_kib(*pid)).sum();
    Ok(Idle { mebibytes: kibibytes as f64 / 1024.0 / pids.len() as f64, percent })
}

fn pids(lab: &Lab) -> Result<Vec<i64>> {
    Ok(lab.status()?["nodes"].as_array().into_iter().flatten().filter_map(|node| node["pid"].as_i64()).collect())
}

async fn used(lab: &Lab, credentials: &Credentials) -> Result<Used> {
    let (mut syncs, mut encoded, mut encoding_seconds) = (0, 0, 0.0);
    for node in 1..=3 {
        let (_, text) = credentials.client(node).send("GET", "/metrics", "").await?;
        let text = String::from_utf8_lossy(&text);
        syncs += metric(&text, "skein_log_syncs_total");
        for encoding in ["json", "protobuf"] {
            let of = |name: &str| format!("skein_api_{name}_total{{encoding=\"{encoding}\"}}");
            encoded += metric(&text, &of("encoded_objects"));
            encoding_seconds += number(&text, &of("encoding_seconds"));
        }
    }
    Ok(Used { ticks: ticks(lab)?, syncs, encoded, encoding_seconds })
}

/// A number in Prometheus' text format, 0 where it is not there.
pub(crate) fn metric(text: &str, name: &str) -> u64 {
    number(text, name) as u64
}

fn number(text: &str, name: &str) -> f64 {
    text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse::<f64>().ok()).sum()
}

/// What the daemons have used of the processor, in hundredths of a second.
fn ticks(lab: &Lab) -> Result<u64> {
    Ok(pids(lab)?.into_iter().map(cpu_ticks).sum())
}

pub(crate) fn cpu_ticks(pid: i64) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    [11, 12].iter().filter_map(|i| fields.get(*i)?.parse::<u64>().ok()).sum()
}

pub(crate) fn resident_kib(pid: i64) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|text| text.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

async fn write(client: &mut Client, name: &str) -> Result<()> {
    let body = json!({"metadata": {"name": name}}).to_string();
    let sent = tokio::time::timeout(Duration::from_secs(5), client.send("POST", MAPS, &body)).await??;
    // A write that was acknowledged to nobody may be there all the same.
    ensure!(matches!(sent.0, 201 | 409), "{}", sent.0);
    Ok(())
}

async fn create_pod(client: &mut Client, name: &str, image: &str) -> Result<()> {
    let pod = json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": image}]}}).to_string();
    let (code, answer) = client.send("POST", PODS, &pod).await?;
    ensure!(code == 201, "{}", String::from_utf8_lossy(&answer));
    Ok(())
}

async fn wait_running(client: &mut Client, name: &str) -> Result<()> {
    let begin = Instant::now();
    loop {
        let pod = get(client, &format!("{PODS}/{name}?resourceVersion=0")).await?;
        if pod["status"]["phase"] == "Running" {
            return Ok(());
        }
        ensure!(begin.elapsed() < RECOVERY, "{name} does not run: {}", pod["status"]);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The node where the kept Pod runs, once that is another than `not`.
async fn wait_kept(client: &mut Client, not: &str) -> Result<String> {
    let begin = Instant::now();
    loop {
        let pods = get(client, &format!("{PODS}?labelSelector=app%3Dkept&resourceVersion=0")).await?;
        let runs = |pod: &&Value| {
            pod["metadata"]["deletionTimestamp"].is_null() && pod["status"]["phase"] == "Running" && pod["spec"]["nodeName"] != not
        };
        if let Some(pod) = pods["items"].as_array().into_iter().flatten().find(runs) {
            return Ok(pod["spec"]["nodeName"].as_str().context("a bound Pod")?.to_string());
        }
        ensure!(begin.elapsed() < RECOVERY, "no replacement runs");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn leader(credentials: &Credentials) -> Result<String> {
    let begin = Instant::now();
    loop {
        for node in 1..=3 {
            let status = get(&mut credentials.client(node), "/skein/v1/status").await.unwrap_or_default();
            if let (Some(leader), true) = (status["leader"].as_str(), status["quorum"] == true) {
                return Ok(leader.to_string());
            }
        }
        ensure!(begin.elapsed() < RECOVERY, "nobody leads");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until every node is ready and has the whole log.
async fn all_ready(credentials: &Credentials, asked: usize) -> Result<()> {
    let begin = Instant::now();
    loop {
        let status = get(&mut credentials.client(asked), "/skein/v1/status").await.unwrap_or_default();
        let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
        if nodes.len() == 3 && nodes.iter().all(|n| n["ready"] == true) {
            tokio::time::sleep(Duration::from_secs(1)).await;
            return Ok(());
        }
        ensure!(begin.elapsed() < RECOVERY, "not all nodes are ready: {status}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn get(client: &mut Client, path: &str) -> Result<Value> {
    let (_, body) = tokio::time::timeout(Duration::from_secs(5), client.send("GET", path, "")).await??;
    Ok(serde_json::from_slice(&body)?)
}

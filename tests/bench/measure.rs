//! What is measured of a cluster to which nothing happens, one function each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use futures::FutureExt;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use skein_lab::Lab;

use crate::client::{Client, Credentials, Multiplexed};
use crate::daemons::{monitor_kib, used};
use crate::load::{Arrivals, Load, gather};

pub(crate) const MAPS: &str = "/api/v1/namespaces/default/configmaps";
pub(crate) const PODS: &str = "/api/v1/namespaces/default/pods";
/// Clients share connections, as those of one program do.
pub(crate) const CONNECTIONS_MAX: usize = 96;
/// Pods in a list, and who reads it.
pub(crate) const LISTED: usize = 10_000;
const LISTERS: usize = 6;
/// Who makes many objects at once.
const MAKERS: usize = 48;
/// A cluster may take this long to be itself again after a fault.
pub(crate) const RECOVERY: Duration = Duration::from_secs(60);

/// What is written at once, and what etcd is measured with.
pub(crate) const VALUE_BYTES: usize = 1024;

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

pub(crate) async fn make_namespace(credentials: &Credentials, name: &str) -> Result<()> {
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

/// So many Pods created at once on one node, each timed from the first request until the API says that it runs.
pub(crate) async fn pod_burst(credentials: &Credentials, image: &str, count: usize) -> Result<Vec<Duration>> {
    let mut client = credentials.client(1);
    let version = get(&mut client, PODS).await?["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_string();
    let mut watch = client.multiplexed().await?.watch(&format!("{PODS}?watch=1&resourceVersion={version}")).await?;
    let begin = Instant::now();
    let running = async {
        let (mut seen, mut rest) = (BTreeMap::new(), Vec::new());
        while seen.len() < count {
            let frame = watch.frame().await.ok_or_else(|| anyhow!("the watch ended"))??;
            rest.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                let pod = serde_json::from_slice::<Value>(&line)?["object"].take();
                if pod["status"]["phase"] == "Running" {
                    seen.entry(pod["metadata"]["name"].to_string()).or_insert_with(|| begin.elapsed());
                }
            }
        }
        Ok(seen.into_values().collect())
    };
    let pod = |number: usize| {
        let containers = json!([{"name": "c", "image": image}]);
        let spec = json!({"containers": containers, "nodeSelector": {"kubernetes.io/hostname": "node-2"}});
        json!({"metadata": {"name": format!("burst-{number}"), "labels": {"app": "burst"}}, "spec": spec})
    };
    let (_, latencies) =
        tokio::try_join!(make_many(credentials, PODS, count, pod), tokio::time::timeout(RECOVERY, running).map(|done| done?))?;
    client.send("DELETE", &format!("{PODS}?labelSelector=app%3Dburst&gracePeriodSeconds=0"), "").await?;
    while get(&mut client, &format!("{PODS}?labelSelector=app%3Dburst")).await?["items"].as_array().is_some_and(|left| !left.is_empty()) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(latencies)
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
    let kibibytes = monitor_kib()?;
    for number in 0..pods {
        client.send("DELETE", &format!("{PODS}/memory-{number}?gracePeriodSeconds=0"), "").await?;
    }
    Ok(kibibytes)
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

pub(crate) async fn get(client: &mut Client, path: &str) -> Result<Value> {
    let (_, body) = tokio::time::timeout(Duration::from_secs(5), client.send("GET", path, "")).await??;
    Ok(serde_json::from_slice(&body)?)
}

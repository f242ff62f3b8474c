//! How long a cluster takes that loses its leader, or a node.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use skein_lab::{Lab, Scope};

use crate::client::{Client, Credentials};
use crate::measure::{MAPS, PODS, RECOVERY, get, make_many, make_namespace};

/// For so long after a leader was stopped it is seen whether writes go on.
const HANDOVER: Duration = Duration::from_secs(2);

/// Kills the leader's machine; the time until a survivor has acknowledged another write.
pub(crate) async fn leader_losses(lab: &Lab, credentials: &Credentials, rounds: usize) -> Result<Vec<Duration>> {
    let mut gaps = Vec::new();
    for round in 0..rounds {
        let (leader, survivor) = leader_and_survivor(credentials).await?;
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
        let (leader, survivor) = leader_and_survivor(credentials).await?;
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
        let (leader, survivor) = leader_and_survivor(credentials).await?;
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

async fn write(client: &mut Client, name: &str) -> Result<()> {
    let body = json!({"metadata": {"name": name}}).to_string();
    let sent = tokio::time::timeout(Duration::from_secs(5), client.send("POST", MAPS, &body)).await??;
    // A write that was acknowledged to nobody may be there all the same.
    ensure!(matches!(sent.0, 201 | 409), "{}", sent.0);
    Ok(())
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

/// Who leads, and a node that does not, by its number.
async fn leader_and_survivor(credentials: &Credentials) -> Result<(String, usize)> {
    let leader = leader(credentials).await?;
    let survivor = (1..=3).find(|node| format!("node-{node}") != leader).unwrap_or(1);
    Ok((leader, survivor))
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

//! People who run Deployments and StatefulSets: they make them, scale them, roll them out, and delete Pods.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use rand::rngs::SmallRng;
use rand::{Rng, RngExt};
use serde_json::{Value, json};
use skein_command::{Transaction, Write};
use skein_object::deletion::{Plan, Wish, plan};
use skein_object::{Key, Record, Resource, meta, registry};
use skein_state::{Entry, State};
use tokio::time::sleep;

use crate::cluster::Cluster;
use crate::kubelet::{NODE_MILLI_CPU, POD_MILLI_CPU, Seen, pods};

const NAMESPACE: &str = "default";
/// Kinds with their names; all their Pods together fit, and leave little room.
const WORKLOADS: [(&str, &str); 4] =
    [("deployments", "front"), ("deployments", "back"), ("statefulsets", "store"), ("statefulsets", "queue")];
const REPLICAS_MAX: u64 = 3;
const THINK_MS_MAX: u64 = 4000;
const RETRY: Duration = Duration::from_millis(300);

/// Works until it is dropped.
pub(crate) async fn work(cluster: Cluster, mut random: SmallRng) {
    let room = cluster.full_ids().count() as u64 * (NODE_MILLI_CPU / POD_MILLI_CPU);
    let replicas_max = (room / WORKLOADS.len() as u64).clamp(1, REPLICAS_MAX);
    let namespace = json!({"metadata": {"name": NAMESPACE}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}});
    create(&cluster, ("", "namespaces"), namespace, &mut random).await;
    for (resource, name) in WORKLOADS {
        create(&cluster, ("apps", resource), workload(name, random.random_range(1..=replicas_max)), &mut random).await;
    }
    loop {
        sleep(Duration::from_millis(random.random_range(1..THINK_MS_MAX))).await;
        let Some(state) = cluster.pick(&mut random).map(|running| running.store.local().state) else { continue };
        let (resource, name) = WORKLOADS[random.random_range(0..WORKLOADS.len())];
        let key = Key::new(find("apps", resource).stored(), NAMESPACE, name);
        let Some(entry) = state.get(&key) else { continue };
        let change = match random.random_range(0..5) {
            0..2 => edited(&key, entry, |set| set["spec"]["replicas"] = random.random_range(0..=replicas_max).into()),
            2..4 => {
                edited(&key, entry, |set| set["spec"]["template"]["metadata"]["annotations"]["of"] = random.next_u64().to_string().into())
            }
            _ => match deleted(&state, cluster.now(), &mut random) {
                Some(deleted) => deleted,
                None => continue,
            },
        };
        // Whoever asks at a bad time is told so, and has other things to do.
        if let Some(running) = cluster.pick(&mut random) {
            let _ = running.store.propose(change).await;
        }
    }
}

/// What is not yet as everybody wants it, where that can be seen in the state; `running` is what all nodes run.
pub(crate) fn unsettled(state: &State, running: &BTreeSet<String>) -> Option<String> {
    let sets = WORKLOADS.iter().filter_map(|(resource, name)| {
        let key = Key::new(find("apps", resource).stored(), NAMESPACE, name);
        let set = state.get(&key).map(|entry| entry.record.to_value("apps/v1", "", entry.revision))?;
        let spec = &set["spec"]["replicas"];
        let counts = ["replicas", "readyReplicas", "updatedReplicas", "availableReplicas"];
        let is_done = counts.iter().all(|count| set["status"][count].as_i64().unwrap_or(0) == spec.as_i64().unwrap_or(0));
        let is_seen = set["status"]["observedGeneration"] == set["metadata"]["generation"];
        (!is_done || !is_seen).then(|| format!("{key} wants {spec} and has {}", set["status"]))
    });
    let all: Vec<(&Key, Seen)> = pods(state).collect();
    let waiting = all.iter().find(|(_, pod)| !pod.is_ready || pod.is_ending).map(|(key, _)| format!("{key} is not ready, or not gone"));
    let known: BTreeSet<String> = all.iter().map(|(_, pod)| pod.uid.clone()).collect();
    let astray = running.symmetric_difference(&known).next().map(|uid| format!("{uid} runs and is no Pod, or is one and does not run"));
    sets.into_iter().next().or(waiting).or(astray)
}

fn find(group: &str, resource: &str) -> &'static Resource {
    registry::find(group, "v1", resource).expect("the registry has it")
}

fn workload(name: &str, replicas: u64) -> Value {
    let container = json!({
        "name": "main", "image": "busybox",
        "resources": {"requests": {"cpu": format!("{POD_MILLI_CPU}m")}},
    });
    json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "serviceName": name,
            "template": {"metadata": {"labels": {"app": name}, "annotations": {"of": "0"}}, "spec": {"containers": [container]}},
        },
    })
}

async fn create(cluster: &Cluster, (group, resource): (&str, &str), mut object: Value, random: &mut SmallRng) {
    let resource = find(group, resource);
    let namespace = if group.is_empty() { "" } else { NAMESPACE };
    let now = Timestamp::UNIX_EPOCH;
    let birth = meta::Birth { uid: &format!("{:032x}", random.next_u64()), now: &meta::time(now), suffix: "" };
    meta::at_creation(&mut object, resource, namespace, &birth);
    resource.fill_defaults(&mut object);
    let key = Key::new(resource.stored(), namespace, meta::name(&object));
    loop {
        if let Some(running) = cluster.pick(random)
            && running.store.propose(Write::create(&key, Record::from_value(&object)).into()).await.is_ok()
        {
            return;
        }
        sleep(RETRY).await;
    }
}

fn edited(key: &Key, entry: &Entry, change: impl FnOnce(&mut Value)) -> Transaction {
    let resource = registry::by_key(key.resource()).expect("the registry has it");
    let old = entry.record.to_value(&resource.api_version(), resource.kind, entry.revision);
    let mut new = old.clone();
    change(&mut new);
    meta::at_update(&mut new, &old, resource);
    Write::update(key, entry.revision, &entry.record, &Record::from_value(&new)).into()
}

/// One of the Pods, as `kubectl delete` does it.
fn deleted(state: &State, now: Timestamp, random: &mut SmallRng) -> Option<Transaction> {
    let all: Vec<(&Key, &Entry)> = state.range("pods/", None).collect();
    let (key, entry) = *all.get(random.random_range(0..all.len().max(1)))?;
    let resource = find("", "pods");
    let old = entry.record.to_value("v1", "Pod", entry.revision);
    match plan(resource, &old, &Wish::default(), now) {
        Plan::Nothing => None,
        Plan::Remove => Some(Write::delete(key, entry.revision).into()),
        Plan::Mark(marked) => Some(Write::update(key, entry.revision, &entry.record, &Record::from_value(&marked)).into()),
    }
}

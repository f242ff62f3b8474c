//! Faults off: the cluster must heal by itself, within a bound.

use std::time::Duration;

use skein_command::Write;
use skein_invariant::Observation;
use skein_object::{Key, Record};
use tokio::time::{Instant, sleep, timeout_at};

use crate::cluster::{Cluster, digest_of};
use crate::recorder::digest;
use crate::users;

const INTERVAL: Duration = Duration::from_millis(50);
/// How long controllers, scheduler and kubelets may take beyond that: a Pod that fitted nowhere is tried again after 30 s.
const SETTLE_MAX: Duration = Duration::from_secs(40);

/// A write through every node succeeds, and every node arrives at the last revision.
pub(crate) async fn heal(cluster: &Cluster, within: Duration) {
    let deadline = Instant::now() + within;
    for id in cluster.ids() {
        if timeout_at(deadline, write_through(cluster, id)).await.is_err() {
            return cluster.recorder.fail(format!("node {id} takes no writes {within:?} after the last fault"));
        }
    }
    if timeout_at(deadline + SETTLE_MAX, settled(cluster)).await.is_err() {
        let why = unsettled(cluster).unwrap_or_default();
        return cluster
            .recorder
            .fail(format!("workloads are not as they should be {within:?} and {SETTLE_MAX:?} after the last fault: {why}"));
    }
    if timeout_at(deadline + SETTLE_MAX, level(cluster)).await.is_err() {
        let at = cluster.full_ids().map(|id| (id, cluster.at(id).map(|running| running.store.local().state.revision())));
        return cluster.recorder.fail(format!("nodes lag {within:?} after the last fault: {:?}", at.collect::<Vec<_>>()));
    }
    for id in cluster.full_ids() {
        let Some(running) = cluster.at(id) else { continue };
        let state = running.store.local().state;
        let objects: Vec<_> =
            state.range("", None).map(|(key, entry)| (key.to_string(), entry.revision, digest_of(&entry.record))).collect();
        cluster.recorder.observe(&Observation::Rested { node: id, revision: state.revision(), digest: digest(&objects) });
    }
}

async fn write_through(cluster: &Cluster, id: u64) {
    loop {
        if let Some(running) = cluster.at(id) {
            let key = Key::new("rests.sim", "", &format!("node-{id}"));
            let record = Record::from_value(&serde_json::json!({"spec": {"node": id}}));
            if running.store.propose(Write::create(&key, record).into()).await.is_ok() {
                return;
            }
        }
        sleep(INTERVAL).await;
    }
}

async fn settled(cluster: &Cluster) {
    while unsettled(cluster).is_some() {
        sleep(INTERVAL).await;
    }
}

/// What anybody who looks at the leader's state would miss.
fn unsettled(cluster: &Cluster) -> Option<String> {
    match cluster.leader() {
        Some(leader) => users::unsettled(&leader.store.local().state, &cluster.running()),
        None => Some("nobody leads".into()),
    }
}

async fn level(cluster: &Cluster) {
    loop {
        let revisions = cluster.full_ids().map(|id| cluster.at(id).map(|running| running.store.local().state.revision()));
        let revisions: std::collections::BTreeSet<_> = revisions.collect();
        if revisions.len() == 1 && !revisions.contains(&None) {
            return;
        }
        sleep(INTERVAL).await;
    }
}

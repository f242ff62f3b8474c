//! Faults off: the cluster must heal by itself, within a bound.

use std::time::Duration;

use skein_command::Write;
use skein_invariant::Observation;
use skein_object::{Key, Record};
use tokio::time::{Instant, sleep, timeout_at};

use crate::cluster::{Cluster, digest_of};
use crate::recorder::digest;

const INTERVAL: Duration = Duration::from_millis(50);

/// A write through every node succeeds, and every node arrives at the last revision.
pub(crate) async fn heal(cluster: &Cluster, within: Duration) {
    let deadline = Instant::now() + within;
    for id in cluster.ids() {
        if timeout_at(deadline, write_through(cluster, id)).await.is_err() {
            return cluster.recorder.fail(format!("node {id} takes no writes {within:?} after the last fault"));
        }
    }
    if timeout_at(deadline, level(cluster)).await.is_err() {
        let at = cluster.ids().map(|id| (id, cluster.at(id).map(|(_, handle)| handle.local().state.revision())));
        return cluster.recorder.fail(format!("nodes lag {within:?} after the last fault: {:?}", at.collect::<Vec<_>>()));
    }
    for id in cluster.ids() {
        let Some((_, handle)) = cluster.at(id) else { continue };
        let state = handle.local().state;
        let objects: Vec<_> =
            state.range("", None).map(|(key, entry)| (key.to_string(), entry.revision, digest_of(&entry.record))).collect();
        cluster.recorder.observe(&Observation::Rested { node: id, revision: state.revision(), digest: digest(&objects) });
    }
}

async fn write_through(cluster: &Cluster, id: u64) {
    loop {
        if let Some((_, handle)) = cluster.at(id) {
            let key = Key::new("rests.sim", "", &format!("node-{id}"));
            let record = Record::from_value(&serde_json::json!({"spec": {"node": id}}));
            if handle.propose(Write::create(&key, record).into()).await.is_ok() {
                return;
            }
        }
        sleep(INTERVAL).await;
    }
}

async fn level(cluster: &Cluster) {
    loop {
        let revisions = cluster.ids().map(|id| cluster.at(id).map(|(_, handle)| handle.local().state.revision()));
        let revisions: std::collections::BTreeSet<_> = revisions.collect();
        if revisions.len() == 1 && !revisions.contains(&None) {
            return;
        }
        sleep(INTERVAL).await;
    }
}

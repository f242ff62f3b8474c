//! ReplicaSets: so many Pods of one template.

use serde_json::{Value, json};
use skein_object::Key;
use skein_object::selector::Selector;

use crate::pods_of::{Set, manage, set_failure};
use crate::snapshot::Snapshot;
use crate::write::edit;
use crate::{Mint, Outcome};

pub(crate) fn reconcile(snapshot: &Snapshot, key: &Key, mint: &mut Mint) -> Outcome {
    let Some(stored) = snapshot.replica_sets.get(key) else { return Outcome::default() };
    let spec = &stored.object.spec;
    let set = Set {
        key,
        api_version: "apps/v1",
        kind: "ReplicaSet",
        metadata: &stored.object.metadata,
        selector: Selector::from_label_selector(&spec.selector),
        replicas: usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0),
        min_ready_seconds: spec.min_ready_seconds.unwrap_or(0).into(),
        template: stored.record.field("spec").and_then(|s| s.get("template").cloned()).unwrap_or(Value::Null),
        component: "replicaset-controller",
    };
    let (mut outcome, counts) = manage(snapshot, &set, mint);
    let generation = stored.object.metadata.generation.unwrap_or(0);
    let status = edit(stored, |object| {
        let kept = object["status"].get("conditions").cloned();
        object["status"] = json!({
            "replicas": counts.replicas, "fullyLabeledReplicas": counts.fully_labeled, "readyReplicas": counts.ready,
            "availableReplicas": counts.available, "terminatingReplicas": counts.terminating, "observedGeneration": generation,
        });
        if let Some(conditions) = kept {
            object["status"]["conditions"] = conditions;
        }
        set_failure(object, counts.failure.as_ref(), mint);
    });
    outcome.transactions.extend(status);
    outcome
}

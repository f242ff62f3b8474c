//! ReplicationControllers: the elder form of ReplicaSets, with a plain map as selector.

use serde_json::{Value, json};
use skein_object::Key;
use skein_object::selector::Selector;

use crate::pods_of::{Set, manage, set_failure};
use crate::snapshot::Snapshot;
use crate::write::edit;
use crate::{Mint, Outcome};

pub(crate) fn reconcile(snapshot: &Snapshot, key: &Key, mint: &mut Mint) -> Outcome {
    let Some(stored) = snapshot.replication_controllers.get(key) else { return Outcome::default() };
    let Some(spec) = stored.object.spec.as_ref() else { return Outcome::default() };
    let set = Set {
        key,
        api_version: "v1",
        kind: "ReplicationController",
        metadata: &stored.object.metadata,
        selector: spec.selector.as_ref().filter(|s| !s.is_empty()).map_or_else(Selector::nothing, Selector::from_map),
        replicas: usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0),
        min_ready_seconds: spec.min_ready_seconds.unwrap_or(0).into(),
        template: stored.record.field("spec").and_then(|s| s.get("template").cloned()).unwrap_or(Value::Null),
        component: "replication-controller",
    };
    let (mut outcome, counts) = manage(snapshot, &set, mint);
    let generation = stored.object.metadata.generation.unwrap_or(0);
    let status = edit(stored, |object| {
        let kept = object["status"].get("conditions").cloned();
        object["status"] = json!({
            "replicas": counts.replicas, "fullyLabeledReplicas": counts.fully_labeled, "readyReplicas": counts.ready,
            "availableReplicas": counts.available, "observedGeneration": generation,
        });
        if let Some(conditions) = kept {
            object["status"]["conditions"] = conditions;
        }
        set_failure(object, counts.failure.as_ref(), mint);
    });
    outcome.transactions.extend(status);
    outcome
}

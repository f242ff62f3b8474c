//! What the scheduler's preemption reads and writes: the budgets of disruptions, and Pods that must make room.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::json;
use skein_command::{Transaction, Write};
use skein_object::deletion::{Plan, Wish, plan};
use skein_object::meta::set_condition;
use skein_object::selector::Selector;
use skein_object::{Key, Record, registry};
use skein_place::{Budget, scheduler};

use crate::disruption::BUDGETS;
use crate::snapshot::{Snapshot, Stored};
use crate::{Mint, Note, event};

/// How many Pods each disruption budget allows to go now.
pub fn budgets(snapshot: &Snapshot) -> Vec<Budget> {
    let prefix = Key::prefix(BUDGETS, "");
    let budget = |(key, entry): (&Key, &skein_state::Entry)| {
        let budget = entry.record.typed::<PodDisruptionBudget>(entry.revision)?;
        let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        Some(Budget {
            namespace: key.namespace().into(),
            selector: selector.map_or_else(Selector::nothing, Selector::from_label_selector),
            allowed: budget.status.and_then(|status| status.disruptions_allowed).unwrap_or(0).into(),
        })
    };
    snapshot.state.range(&prefix, None).filter_map(budget).collect()
}

/// Whether a Pod says that it is not to be placed yet (KEP-3521).
pub fn is_gated(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.scheduling_gates.as_ref()).is_some_and(|gates| !gates.is_empty())
}

/// Begins the end of a Pod in whose place a more important one goes; nothing when it is going already.
pub fn preempted(victim: &Stored<Pod>, by: &Pod, node: &str, mint: &mut Mint) -> Option<Transaction> {
    if victim.object.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let resource = registry::by_key("pods")?;
    let mut changed = resource.show(&victim.record, victim.revision);
    let message = format!("{}: preempting to accommodate a higher priority pod", scheduler(by));
    set_condition(
        &mut changed,
        json!({"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": message,
            "lastProbeTime": null, "lastTransitionTime": mint.time()}),
    );
    let write = match plan(resource, &changed, &Wish::default(), mint.now) {
        Plan::Nothing => return None,
        Plan::Remove => Write::delete(&victim.key, victim.revision),
        Plan::Mark(marked) => Write::update(&victim.key, victim.revision, &victim.record, &Record::from_value(&marked)),
    };
    let message = format!("Preempted by pod {} on node {node}", by.metadata.uid.as_deref().unwrap_or_default());
    let uid = victim.object.metadata.uid.clone().unwrap_or_default();
    let note = Note { regarding: &victim.key, uid: &uid, reason: "Preempted", message, component: scheduler(by), warning: false };
    let mut transaction = Transaction::from(write);
    transaction.writes.extend(event(&note, mint).writes);
    Some(transaction)
}

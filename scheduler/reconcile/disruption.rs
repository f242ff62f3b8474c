//! PodDisruptionBudgets: how many of the selected Pods may be taken away now (`pkg/controller/disruption`).
//!
//! The count is written here; whoever evicts a Pod takes one off in the same transaction, so two cannot take the last.

use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::json;
use skein_command::Transaction;
use skein_object::meta::set_condition;
use skein_object::selector::Selector;
use skein_object::{Key, registry};
use skein_state::Event;

use crate::pods_of::{controller_of, is_active, is_ready};
use crate::snapshot::Snapshot;
use crate::write::edit_entry;
use crate::{Controller, Mint};

pub(crate) const BUDGETS: &str = "poddisruptionbudgets.policy";

pub(crate) fn reconcile(snapshot: &Snapshot, key: &Key, mint: &mut Mint) -> Vec<Transaction> {
    let Some(entry) = snapshot.state.get(key) else { return Vec::new() };
    let Some(budget) = entry.record.typed::<PodDisruptionBudget>(entry.revision) else { return Vec::new() };
    let spec = budget.spec.clone().unwrap_or_default();
    let selector = spec.selector.as_ref().map_or_else(Selector::nothing, Selector::from_label_selector);
    let selected: Vec<_> = snapshot
        .pods_in(key.namespace())
        .filter(|pod| is_active(&pod.object) && selector.matches_optional(pod.object.metadata.labels.as_ref()))
        .collect();
    let healthy = selected.iter().filter(|pod| is_ready(&pod.object)).count();
    let expected = expected(snapshot, &spec, &selected.iter().map(|pod| &*pod.object).collect::<Vec<_>>());
    let desired = match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => expected - scaled(most, expected).min(expected),
        (None, Some(least)) => scaled(least, expected),
        (None, None) => 0,
    };
    let allowed = healthy.saturating_sub(desired).min(if expected == 0 { 0 } else { usize::MAX });
    let now = mint.time();
    let resource = registry::by_key(BUDGETS).expect("the registry has budgets");
    let (state, reason) = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let generation = budget.metadata.generation;
    let changed = edit_entry(resource, key, entry, |object| {
        let status = &mut object["status"];
        if !status.is_object() {
            *status = json!({});
        }
        for (field, count) in
            [("currentHealthy", healthy), ("desiredHealthy", desired), ("expectedPods", expected), ("disruptionsAllowed", allowed)]
        {
            status[field] = count.into();
        }
        status["observedGeneration"] = generation.into();
        set_condition(
            object,
            json!({"type": "DisruptionAllowed", "status": state, "reason": reason, "message": "", "lastTransitionTime": now,
                "observedGeneration": generation}),
        );
    });
    changed.into_iter().collect()
}

/// The Pods that there should be: what their controllers ask for, or those that there are where only they are counted.
fn expected(
    snapshot: &Snapshot,
    spec: &k8s_openapi::api::policy::v1::PodDisruptionBudgetSpec,
    selected: &[&k8s_openapi::api::core::v1::Pod],
) -> usize {
    if spec.max_unavailable.is_none() && matches!(spec.min_available, Some(IntOrString::Int(_))) {
        return selected.len();
    }
    let mut controllers: Vec<&str> = selected.iter().filter_map(|pod| controller_of(pod)).collect();
    controllers.sort_unstable();
    controllers.dedup();
    let wanted = |uid: &&str| -> Option<usize> {
        let entry = snapshot.state.get(snapshot.by_uid(uid)?)?;
        let replicas = entry.record.field("spec")?.get("replicas")?.as_u64()?;
        usize::try_from(replicas).ok()
    };
    let asked: Option<Vec<usize>> = controllers.iter().map(wanted).collect();
    asked.filter(|counts| !counts.is_empty()).map_or(selected.len(), |counts| counts.iter().sum())
}

/// A number, or a share of a number, rounded up.
pub(crate) fn scaled(value: &IntOrString, of: usize) -> usize {
    match value {
        IntOrString::Int(number) => usize::try_from(*number).unwrap_or(0),
        IntOrString::String(text) => (of * text.trim_end_matches('%').parse::<usize>().unwrap_or(0)).div_ceil(100),
    }
}

/// The budgets that a Pod counts for, before or after an event.
pub(crate) fn of_pod(snapshot: &Snapshot, event: &Event) -> Vec<(Controller, Key)> {
    let prefix = Key::prefix(BUDGETS, event.key.namespace());
    snapshot.state.range(&prefix, None).map(|(key, _)| (Controller::Disruption, key.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_rounded_up() {
        assert_eq!(scaled(&IntOrString::String("50%".into()), 3), 2);
        assert_eq!(scaled(&IntOrString::Int(2), 3), 2);
    }
}

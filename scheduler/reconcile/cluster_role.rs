//! ClusterRoles that are made of others: their rules are the rules of all that their selectors find.

use serde_json::{Value, json};
use skein_command::Transaction;
use skein_object::selector::Selector;
use skein_object::{Key, meta, registry};

use crate::snapshot::Snapshot;
use crate::write::edit_entry;

pub(crate) const CLUSTER_ROLES: &str = "clusterroles.rbac.authorization.k8s.io";

pub(crate) fn reconcile(snapshot: &Snapshot, key: &Key) -> Vec<Transaction> {
    let (Some(entry), Some(resource)) = (snapshot.state.get(key), registry::by_key(CLUSTER_ROLES)) else { return Vec::new() };
    let Some(aggregation) = entry.record.field("aggregationRule") else { return Vec::new() };
    let selectors: Vec<Selector> = aggregation["clusterRoleSelectors"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|s| serde_json::from_value(s.clone()).ok())
        .map(|selector| Selector::from_label_selector(&selector))
        .collect();
    let mut rules: Vec<Value> = Vec::new();
    let prefix = Key::prefix(CLUSTER_ROLES, "");
    for (other, found) in snapshot.state.range(&prefix, None).filter(|(other, _)| *other != key) {
        let role = found.record.to_value("", "", 0);
        let labels = meta::labels(&role);
        if !selectors.iter().any(|selector| selector.matches(&labels)) || other == key {
            continue;
        }
        for rule in role["rules"].as_array().into_iter().flatten() {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    edit_entry(resource, key, entry, |role| role["rules"] = json!(rules)).into_iter().collect()
}

/// The roles that are made of others.
pub(crate) fn aggregated(snapshot: &Snapshot) -> Vec<Key> {
    let prefix = Key::prefix(CLUSTER_ROLES, "");
    let all = snapshot.state.range(&prefix, None);
    all.filter(|(_, entry)| entry.record.segment("aggregationRule").is_some()).map(|(key, _)| key.clone()).collect()
}

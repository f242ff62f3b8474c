//! APIServices of the groups that are served here: those built in, and those that definitions of custom resources bring
//! (`kube-aggregator`'s autoregister, `crdregistration`). Others belong to whoever made them.

use serde_json::json;
use skein_command::Transaction;
use skein_object::deletion::Wish;
use skein_object::{Key, registry};
use skein_state::Event;

use crate::Mint;
use crate::snapshot::Snapshot;
use crate::write::{create, delete};

pub(crate) const SERVICES: &str = "apiservices.apiregistration.k8s.io";
const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";

/// Group, version, `groupPriorityMinimum`, `versionPriority` (`apiVersionPriorities`).
const BUILT_IN: [(&str, &str, i32, i32); 22] = [
    ("", "v1", 18_000, 1),
    ("apps", "v1", 17_800, 15),
    ("events.k8s.io", "v1", 17_750, 15),
    ("authentication.k8s.io", "v1", 17_700, 15),
    ("authorization.k8s.io", "v1", 17_600, 15),
    ("autoscaling", "v1", 17_500, 15),
    ("autoscaling", "v2", 17_500, 30),
    ("batch", "v1", 17_400, 15),
    ("certificates.k8s.io", "v1", 17_300, 15),
    ("networking.k8s.io", "v1", 17_200, 15),
    ("policy", "v1", 17_100, 15),
    ("rbac.authorization.k8s.io", "v1", 17_000, 15),
    ("storage.k8s.io", "v1", 16_800, 15),
    ("apiextensions.k8s.io", "v1", 16_700, 15),
    ("admissionregistration.k8s.io", "v1", 16_700, 15),
    ("scheduling.k8s.io", "v1", 16_600, 15),
    ("coordination.k8s.io", "v1", 16_500, 15),
    ("node.k8s.io", "v1", 16_300, 15),
    ("discovery.k8s.io", "v1", 16_200, 15),
    ("resource.k8s.io", "v1", 16_200, 21),
    ("flowcontrol.apiserver.k8s.io", "v1", 16_100, 21),
    ("storagemigration.k8s.io", "v1", 15_800, 15),
];

/// Of custom resources.
const CUSTOM: (i32, i32) = (1000, 100);

pub(crate) fn reconcile(snapshot: &Snapshot, key: &Key, mint: &mut Mint) -> Vec<Transaction> {
    let Some(resource) = registry::by_key(SERVICES) else { return Vec::new() };
    let Some((version, group)) = key.name().split_once('.') else { return Vec::new() };
    let built_in = BUILT_IN.iter().find(|entry| (entry.0, entry.1) == (group, version)).map(|entry| (entry.2, entry.3));
    let is_custom = || snapshot.definitions().iter().any(|definition| is_served(snapshot, definition, (group, version)));
    let (wanted, managed) = match built_in {
        Some(priorities) => (Some(priorities), "onstart"),
        None => (is_custom().then_some(CUSTOM), "true"),
    };
    let found = snapshot.state.get(key);
    match (wanted, found) {
        (Some((group_priority, version_priority)), None) => {
            let object = json!({
                "metadata": {"name": key.name(), "labels": {MANAGED: managed}},
                "spec": {"group": group, "version": version, "groupPriorityMinimum": group_priority, "versionPriority": version_priority},
            });
            vec![create(resource, "", object, mint)]
        }
        (None, Some(entry)) if entry.record.field("metadata").is_some_and(|metadata| metadata["labels"][MANAGED] == "true") => {
            delete(resource, key, entry, &Wish::default(), mint).into_iter().collect()
        }
        _ => Vec::new(),
    }
}

fn is_served(snapshot: &Snapshot, definition: &Key, (group, version): (&str, &str)) -> bool {
    let spec = snapshot.state.get(definition).and_then(|entry| entry.record.field("spec")).unwrap_or_default();
    let mut versions = spec["versions"].as_array().into_iter().flatten();
    spec["group"] == group && versions.any(|own| own["name"] == version && own["served"] == true)
}

/// Those that every cluster has.
pub(crate) fn built_in() -> impl Iterator<Item = Key> {
    BUILT_IN.iter().map(|(group, version, ..)| key(group, version))
}

/// Those that a definition brings, or brought.
pub(crate) fn of_definition(event: &Event) -> Vec<Key> {
    let mut keys = Vec::new();
    for entry in event.before.iter().chain(&event.after) {
        let spec = entry.record.field("spec").unwrap_or_default();
        let group = spec["group"].as_str().unwrap_or_default();
        let versions = spec["versions"].as_array().into_iter().flatten().filter_map(|version| version["name"].as_str());
        keys.extend(versions.map(|version| key(group, version)));
    }
    keys.sort();
    keys.dedup();
    keys
}

fn key(group: &str, version: &str) -> Key {
    Key::new(SERVICES, "", &format!("{version}.{group}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_group_has_its_place() {
        let stored = registry::all().iter().filter(|r| r.serving != registry::Serving::Measured);
        let missing: Vec<_> =
            stored.filter(|r| !BUILT_IN.iter().any(|b| (b.0, b.1) == (r.group, r.version))).map(|r| r.api_version()).collect();
        // What has no priority in Kubernetes is not listed there either.
        assert!(missing.iter().all(|version| version == "apiregistration.k8s.io/v1"), "{missing:?}");
    }
}

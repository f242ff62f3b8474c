//! What a node's credentials may read and write (`plugin/pkg/auth/authorizer/node`): what the ClusterRole `system:node`
//! says, and of that only what has to do with the node: itself, its Pods, what these refer to.

use serde_json::Value;
use skein_object::Key;
use skein_object::selector::FieldSelector;
use skein_state::State;

use super::rbac::Rule;
use crate::authenticate::User;
use crate::route::Attributes;

const ROLE: &str = "system:node";

/// The node whose credentials these are; empty where they are a node's but do not say which.
pub(crate) fn name_of(user: &User) -> Option<&str> {
    user.is_in("system:nodes").then(|| user.name.strip_prefix("system:node:").unwrap_or_default())
}

pub(super) fn allows(state: &State, node: &str, attributes: &Attributes<'_>) -> bool {
    let Attributes::Resource { verb, group, resource, namespace, name, subresource, fields } = *attributes else { return false };
    if node.is_empty() {
        return false;
    }
    let rules = state.get(&Key::new(super::rbac::CLUSTER_ROLES, "", ROLE)).and_then(|entry| entry.record.field("rules"));
    let rules: Vec<Rule> = rules.and_then(|rules| serde_json::from_value(rules).ok()).unwrap_or_default();
    if !rules.iter().any(|rule| rule.allows(attributes)) {
        return false;
    }
    let selects_itself = |field: &str| FieldSelector::parse(fields).is_ok_and(|selector| selector.value(field) == Some(node));
    let is_read = matches!(verb, "get" | "list" | "watch");
    match (group, resource, subresource) {
        ("", "secrets" | "configmaps", "") => is_read && !name.is_empty() && is_used(state, node, resource, namespace, name),
        ("", "persistentvolumeclaims", _) => !name.is_empty() && is_used(state, node, resource, namespace, name),
        ("", "persistentvolumes", "") => verb == "get" && is_mounted(state, node, name),
        ("", "serviceaccounts", "token") => verb == "create" && pods_on(state, node, namespace).any(|pod| account(&pod) == name),
        ("", "serviceaccounts", _) => verb == "get" && pods_on(state, node, namespace).any(|pod| account(&pod) == name),
        ("coordination.k8s.io", "leases", _) => namespace == "kube-node-lease" && (verb == "create" || name == node),
        ("storage.k8s.io", "csinodes", _) => verb == "create" || name == node,
        ("storage.k8s.io", "volumeattachments", _) => {
            let attached = state.show(&Key::new("volumeattachments.storage.k8s.io", "", name)).unwrap_or_default();
            verb == "get" && attached["spec"]["nodeName"] == node
        }
        ("resource.k8s.io", "resourceslices", _) if matches!(verb, "list" | "watch" | "deletecollection") => {
            selects_itself("spec.nodeName")
        }
        ("", "nodes", "") if is_read => name == node,
        ("", "pods", "") if verb == "get" => is_on(state, node, namespace, name),
        ("", "pods", "") if is_read => selects_itself("spec.nodeName") || (!name.is_empty() && is_on(state, node, namespace, name)),
        // What else the role allows is looked at when the object is known (NodeRestriction).
        _ => true,
    }
}

fn is_on(state: &State, node: &str, namespace: &str, name: &str) -> bool {
    state.show(&Key::new("pods", namespace, name)).is_some_and(|pod| pod["spec"]["nodeName"] == node)
}

fn pods_on<'a>(state: &'a State, node: &'a str, namespace: &str) -> impl Iterator<Item = Value> + 'a {
    let prefix = Key::prefix("pods", namespace);
    let keys: Vec<Key> = state.range(&prefix, None).map(|(key, _)| key.clone()).collect();
    keys.into_iter().filter_map(|key| state.show(&key)).filter(move |pod| pod["spec"]["nodeName"] == node)
}

fn account(pod: &Value) -> &str {
    pod["spec"]["serviceAccountName"].as_str().unwrap_or("default")
}

/// Whether a Pod on the node refers to it. The CA's ConfigMap is for all.
fn is_used(state: &State, node: &str, resource: &str, namespace: &str, name: &str) -> bool {
    let fields: &[(&str, &str)] = match resource {
        "secrets" => &[("secret", "secretName"), ("secret", "name"), ("secretRef", "name"), ("secretKeyRef", "name")],
        "configmaps" => &[("configMap", "name"), ("configMapRef", "name"), ("configMapKeyRef", "name")],
        _ => &[("persistentVolumeClaim", "claimName")],
    };
    pods_on(state, node, namespace).any(|pod| {
        let pulls = pod["spec"]["imagePullSecrets"].as_array().into_iter().flatten().any(|secret| secret["name"] == name);
        let ephemeral = pod["spec"]["volumes"].as_array().into_iter().flatten().any(|volume| {
            let own = format!("{}-{}", skein_object::meta::name(&pod), volume["name"].as_str().unwrap_or_default());
            volume["ephemeral"].is_object() && own == name
        });
        (resource == "secrets" && pulls) || (resource == "persistentvolumeclaims" && ephemeral) || refers(&pod["spec"], fields, name)
    })
}

/// Whether one of these fields, wherever it is, names the object.
fn refers(value: &Value, fields: &[(&str, &str)], name: &str) -> bool {
    match value {
        Value::Object(map) => map
            .iter()
            .any(|(key, inner)| fields.iter().any(|(field, part)| field == key && inner[part] == name) || refers(inner, fields, name)),
        Value::Array(list) => list.iter().any(|inner| refers(inner, fields, name)),
        _ => false,
    }
}

/// Whether a Pod on the node has the claim that the volume is bound to.
fn is_mounted(state: &State, node: &str, volume: &str) -> bool {
    let volume = state.show(&Key::new("persistentvolumes", "", volume)).unwrap_or_default();
    let part = |field: &str| volume["spec"]["claimRef"][field].as_str().unwrap_or_default();
    !part("name").is_empty() && is_used(state, node, "persistentvolumeclaims", part("namespace"), part("name"))
}

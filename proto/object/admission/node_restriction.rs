//! What a node's credentials may write: its own Node, the Pods that run there, its leases
//! (`plugin/pkg/admission/noderestriction`).

use serde_json::Value;

use crate::meta;

/// Labels of Kubernetes' own that a node may give itself (`kubelet/pkg/apis/well_known_labels.go`).
const OWN_LABELS: [&str; 12] = [
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "kubernetes.io/os.version",
];
const OWN_LABEL_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];
const RESTRICTED_DOMAIN: &str = "node-restriction.kubernetes.io";

/// What a node wants to do. Objects are null where there is none; of an eviction or a token, `old` is the Pod.
pub struct Attempt<'a> {
    pub node: &'a str,
    /// The Node as it is registered; null where it is not.
    pub registered: &'a Value,
    pub operation: &'a str,
    /// As keys name it: `pods`, `leases.coordination.k8s.io`.
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    pub new: &'a Value,
    pub old: &'a Value,
}

/// `Err` says why it may not, after "is forbidden: ".
pub fn check(attempt: &Attempt<'_>) -> Result<(), String> {
    let Attempt { node, operation, name, new, .. } = *attempt;
    match (attempt.resource, attempt.subresource) {
        ("pods", "") => pod(attempt),
        ("pods", "status") => pod_status(attempt),
        ("pods", "eviction") if is_on(attempt.old, node) => Ok(()),
        ("pods", "eviction") => Err(format!("node {node} can only evict pods with spec.nodeName set to itself")),
        ("pods", other) => Err(format!("unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed")),
        ("nodes", _) => own_node(attempt),
        ("persistentvolumeclaims", "status") => Ok(()),
        ("persistentvolumeclaims", _) => Err("may only update PVC status".into()),
        ("serviceaccounts", "token") => token(attempt),
        ("leases.coordination.k8s.io", _) if attempt.namespace != "kube-node-lease" => {
            Err("can only access leases in the \"kube-node-lease\" system namespace".into())
        }
        ("leases.coordination.k8s.io", _) if name != node => {
            Err("can only access node lease with the same name as the requesting node".into())
        }
        ("csinodes.storage.k8s.io", _) if name != node => Err("can only access CSINode with the same name as the requesting node".into()),
        ("resourceslices.resource.k8s.io", _) if operation == "CREATE" && new["spec"]["nodeName"] != node => {
            Err("can only create ResourceSlice with the same NodeName as the requesting node".into())
        }
        ("resourceslices.resource.k8s.io", _) if operation == "DELETE" && attempt.old["spec"]["nodeName"] != node => {
            Err("can only delete ResourceSlice with the same NodeName as the requesting node".into())
        }
        _ => Ok(()),
    }
}

fn is_on(pod: &Value, node: &str) -> bool {
    pod["spec"]["nodeName"] == node
}

fn pod(attempt: &Attempt<'_>) -> Result<(), String> {
    let Attempt { node, operation, new, old, registered, .. } = *attempt;
    match operation {
        "DELETE" if is_on(old, node) => Ok(()),
        "DELETE" => Err(format!("node {node:?} can only delete pods with spec.nodeName set to itself")),
        "CREATE" => {
            if new["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_null() {
                let why = "pod does not have \"kubernetes.io/config.mirror\" annotation";
                return Err(format!("{why}, node {node:?} can only create mirror pods"));
            }
            if !is_on(new, node) {
                return Err(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
            }
            let owners = new["metadata"]["ownerReferences"].as_array().map(Vec::as_slice).unwrap_or_default();
            let [owner] = owners else {
                let what = if owners.is_empty() { "an owner reference" } else { "a single owner reference" };
                return Err(format!("node {node:?} can only create pods with {what} set to itself"));
            };
            if owner["apiVersion"] != "v1" || owner["kind"] != "Node" || owner["name"] != node {
                return Err(format!("node {node:?} can only create pods with an owner reference set to itself"));
            }
            if owner["controller"] != true {
                return Err(format!("node {node:?} can only create pods with a controller owner reference set to itself"));
            }
            if owner["blockOwnerDeletion"] == true {
                return Err(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
            }
            if owner["uid"] != meta::text(registered, "uid") {
                let (expected, got) = (owner["uid"].as_str().unwrap_or_default(), meta::text(registered, "uid"));
                return Err(format!("node {node} UID mismatch: expected {expected} got {got}"));
            }
            match references(new) {
                Some(what) => Err(format!("node {node:?} can not create pods that reference {what}")),
                None => Ok(()),
            }
        }
        other => Err(format!("unexpected operation {other:?}, node {node:?} can only create and delete mirror pods")),
    }
}

/// The kind of API object that a Pod would pull in, so that a node could read it (`HasAPIObjectReference`).
fn references(pod: &Value) -> Option<&'static str> {
    let spec = &pod["spec"];
    if spec["serviceAccountName"].as_str().is_some_and(|name| !name.is_empty()) {
        return Some("serviceaccounts");
    }
    let text = spec.to_string();
    let is_named = |fields: &[&str]| fields.iter().any(|field| text.contains(&format!("\"{field}\":")));
    if is_named(&["secretRef", "secretKeyRef", "imagePullSecrets", "secret"]) {
        return Some("secrets");
    }
    if is_named(&["configMapRef", "configMapKeyRef", "configMap"]) {
        return Some("configmaps");
    }
    if is_named(&["persistentVolumeClaim", "ephemeral"]) {
        return Some("persistentvolumeclaims");
    }
    is_named(&["resourceClaims"]).then_some("resourceclaims")
}

fn pod_status(attempt: &Attempt<'_>) -> Result<(), String> {
    let Attempt { node, new, old, .. } = *attempt;
    if !is_on(old, node) {
        return Err(format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself"));
    }
    if meta::labels(new) != meta::labels(old) {
        return Err(format!("node {node:?} cannot update labels through pod status"));
    }
    if new["status"]["resourceClaimStatuses"] != old["status"]["resourceClaimStatuses"] {
        return Err(format!("node {node:?} cannot update resource claim statues"));
    }
    Ok(())
}

fn own_node(attempt: &Attempt<'_>) -> Result<(), String> {
    let Attempt { node, operation, name, new, old, .. } = *attempt;
    if name != node {
        return Err(format!("node {node:?} is not allowed to modify node {name:?}"));
    }
    if operation == "DELETE" {
        return Ok(());
    }
    if operation == "UPDATE" {
        if new["spec"]["taints"] != old["spec"]["taints"] {
            return Err(format!("node {node:?} is not allowed to modify taints"));
        }
        if new["metadata"]["ownerReferences"] != old["metadata"]["ownerReferences"] {
            return Err(format!("node {node:?} is not allowed to modify ownerReferences"));
        }
    }
    let (now, before) = (meta::labels(new), meta::labels(old));
    let mut forbidden: Vec<&str> = now.keys().chain(before.keys()).map(String::as_str).collect();
    forbidden.retain(|label| now.get(*label) != before.get(*label) && !may_label(label));
    forbidden.sort_unstable();
    forbidden.dedup();
    match (forbidden.as_slice(), operation) {
        ([], _) => Ok(()),
        (labels, "CREATE") => Err(format!("node {node:?} is not allowed to set the following labels: {}", labels.join(", "))),
        (labels, _) => Err(format!("is not allowed to modify labels: {}", labels.join(", "))),
    }
}

fn may_label(label: &str) -> bool {
    let Some((domain, _)) = label.split_once('/') else { return true };
    let is_in = |parent: &str| domain == parent || domain.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'));
    if is_in(RESTRICTED_DOMAIN) {
        return false;
    }
    !(is_in("kubernetes.io") || is_in("k8s.io")) || OWN_LABELS.contains(&label) || OWN_LABEL_DOMAINS.iter().any(|own| is_in(own))
}

/// A node may ask for tokens of its Pods only.
fn token(attempt: &Attempt<'_>) -> Result<(), String> {
    let reference = &attempt.new["spec"]["boundObjectRef"];
    let text = |field: &str| reference[field].as_str().unwrap_or_default();
    if (text("apiVersion"), text("kind")) != ("v1", "Pod") || text("name").is_empty() {
        return Err("node requested token not bound to a pod".into());
    }
    if text("uid").is_empty() {
        return Err("node requested token with a pod binding without a uid".into());
    }
    if !is_on(attempt.old, attempt.node) {
        return Err("node requested token bound to a pod scheduled on a different node".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_writes_what_is_its_own() {
        let registered = json!({"metadata": {"name": "n", "uid": "u"}});
        let check = |resource: &str, subresource: &str, operation: &str, name: &str, new: Value, old: Value| {
            let (node, namespace) = ("n", "kube-node-lease");
            let attempt =
                Attempt { node, registered: &registered, operation, resource, subresource, namespace, name, new: &new, old: &old };
            check(&attempt).err()
        };
        let on = |node: &str| json!({"metadata": {"name": "p"}, "spec": {"nodeName": node}});
        let refused = |why: &str| Some(why.to_string());
        assert_eq!(check("pods", "", "DELETE", "p", Value::Null, on("n")), None);
        let others = refused("node \"n\" can only delete pods with spec.nodeName set to itself");
        assert_eq!(check("pods", "", "DELETE", "p", Value::Null, on("m")), others);
        assert_eq!(check("pods", "status", "UPDATE", "p", on("n"), on("n")), None);
        assert!(check("pods", "status", "UPDATE", "p", on("m"), on("m")).is_some());
        assert!(check("pods", "", "UPDATE", "p", on("n"), on("n")).is_some(), "its specification is not the node's");
        assert!(check("pods", "", "CREATE", "p", on("n"), Value::Null).is_some(), "not a mirror");
        let mirror = |owner: Value| json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}, "ownerReferences": [owner]}, "spec": {"nodeName": "n"}});
        let own = json!({"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u", "controller": true});
        assert_eq!(check("pods", "", "CREATE", "p", mirror(own.clone()), Value::Null), None);
        let mut reading = mirror(own.clone());
        reading["spec"]["volumes"] = json!([{"name": "v", "secret": {"secretName": "s"}}]);
        let why = refused("node \"n\" can not create pods that reference secrets");
        assert_eq!(check("pods", "", "CREATE", "p", reading, Value::Null), why);
        let mut foreign = own;
        foreign["uid"] = "other".into();
        assert!(check("pods", "", "CREATE", "p", mirror(foreign), Value::Null).is_some());

        let labelled = |label: &str| json!({"metadata": {"name": "n", "labels": {label: "x"}}});
        let bare = json!({"metadata": {"name": "n"}});
        for label in ["example.com/a", "kubernetes.io/arch", "node.kubernetes.io/a", "x.kubelet.kubernetes.io/a", "plain"] {
            assert_eq!(check("nodes", "", "UPDATE", "n", labelled(label), bare.clone()), None, "{label}");
        }
        for label in ["node-restriction.kubernetes.io/a", "x.node-restriction.kubernetes.io/a", "node-role.kubernetes.io/control-plane"] {
            let why = refused(&format!("is not allowed to modify labels: {label}"));
            assert_eq!(check("nodes", "", "UPDATE", "n", labelled(label), bare.clone()), why);
        }
        assert_eq!(
            check("nodes", "", "UPDATE", "m", bare.clone(), bare.clone()),
            refused("node \"n\" is not allowed to modify node \"m\"")
        );
        let tainted = json!({"metadata": {"name": "n"}, "spec": {"taints": [{"key": "a"}]}});
        assert_eq!(check("nodes", "", "UPDATE", "n", bare.clone(), tainted), refused("node \"n\" is not allowed to modify taints"));

        assert_eq!(check("leases.coordination.k8s.io", "", "UPDATE", "n", bare.clone(), bare.clone()), None);
        assert!(check("leases.coordination.k8s.io", "", "UPDATE", "m", bare.clone(), bare.clone()).is_some());
        let bound = json!({"spec": {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}}});
        assert_eq!(check("serviceaccounts", "token", "CREATE", "a", bound.clone(), on("n")), None);
        assert!(check("serviceaccounts", "token", "CREATE", "a", bound, on("m")).is_some());
        assert!(check("serviceaccounts", "token", "CREATE", "a", json!({}), on("n")).is_some());
        assert_eq!(check("configmaps", "", "UPDATE", "c", bare.clone(), bare), None, "the authorizer does not let it come this far");
    }
}

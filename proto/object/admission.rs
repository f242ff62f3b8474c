//! What Kubernetes' admission plugins add to new objects, and what they refuse: LimitRanger, ServiceAccount, Priority,
//! RuntimeClass and PodSecurity for Pods, the default class and protection for claims.
//!
//! The API and the controllers make objects through these functions; what they must know of others they ask for.

pub mod dynamic;
mod limits;
pub mod mutation;
pub mod node_restriction;
pub mod pod_security;
pub mod policy;
mod runtime_class;
pub mod webhook;

use serde_json::{Value, json};

use crate::quantity::Quantity;
use crate::volume::{CLAIM_PROTECTION, VOLUME_PROTECTION};
use crate::{Key, meta};

/// Where a Pod finds its account's token.
const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Lifetime of a token in a Pod: one hour and a bit, as the plugin asks for.
const TOKEN_SECONDS: i64 = 3607;

/// Looks at the objects around a new Pod.
pub struct Surroundings<'a> {
    pub get: &'a dyn Fn(&Key) -> Option<Value>,
    pub list: &'a dyn Fn(&str) -> Vec<Value>,
    /// Five characters for the name of the token's volume.
    pub suffix: &'a str,
}

/// Completes a Pod; `Err` says why it may not be, after "is forbidden: ".
pub fn pod(pod: &mut Value, namespace: &str, around: &Surroundings<'_>) -> Result<(), String> {
    if pod.get("spec").is_none_or(|spec| !spec.is_object()) {
        return Ok(());
    }
    limits::pod(pod, &ranges(namespace, around.list))?;
    runtime_class::complete(pod, around.get)?;
    prioritise(pod, around)?;
    account(pod, namespace, around)
}

/// Why a Pod that is complete and valid may not be.
pub fn judge_pod(pod: &Value, namespace: &str, get: &dyn Fn(&Key) -> Option<Value>) -> Result<(), String> {
    if pod.get("spec").is_none_or(|spec| !spec.is_object()) {
        return Ok(());
    }
    runtime_class::judge(pod, get)?;
    let home = get(&Key::new("namespaces", "", namespace)).unwrap_or_default();
    pod_security::violation(pod_security::Mode::Enforce, &home, pod).map_or(Ok(()), Err)
}

/// The LimitRanges of a namespace.
fn ranges(namespace: &str, list: &dyn Fn(&str) -> Vec<Value>) -> Vec<Value> {
    list("limitranges").into_iter().filter(|range| meta::text(range, "namespace") == namespace).collect()
}

/// Completes a claim: the default class where it names none, and protection while it is used. `Err` as for Pods.
pub fn claim(claim: &mut Value, namespace: &str, list: &dyn Fn(&str) -> Vec<Value>) -> Result<(), String> {
    protect(claim, CLAIM_PROTECTION);
    limits::claim(claim, &ranges(namespace, list))?;
    if claim.pointer("/spec/storageClassName").is_some_and(|class| !class.is_null()) || !claim["spec"].is_object() {
        return Ok(());
    }
    let is_default = |class: &Value| {
        let marked = meta::get(class, "annotations").and_then(|a| a.get("storageclass.kubernetes.io/is-default-class"));
        marked.and_then(Value::as_str) == Some("true")
    };
    // Of several defaults the newest is meant.
    let classes = list("storageclasses.storage.k8s.io").into_iter().filter(is_default);
    if let Some(class) = classes.max_by_key(|class| meta::text(class, "creationTimestamp").to_string()) {
        claim["spec"]["storageClassName"] = meta::name(&class).into();
    }
    Ok(())
}

/// Protects a volume and says since when it is pending (KEP-3762).
/// A node that says nothing of itself yet gets no Pods (TaintNodesByCondition).
pub fn node(node: &mut Value) {
    const NOT_READY: &str = "node.kubernetes.io/not-ready";
    let taints = &mut node["spec"]["taints"];
    if !taints.is_array() {
        *taints = json!([]);
    }
    if let Some(taints) = taints.as_array_mut().filter(|taints| taints.iter().all(|taint| taint["key"] != NOT_READY)) {
        taints.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
    }
}

pub fn volume(volume: &mut Value, now: &str) {
    protect(volume, VOLUME_PROTECTION);
    if volume["status"]["phase"] == "Pending" {
        volume["status"]["lastPhaseTransitionTime"] = now.into();
    }
}

pub fn attributes_class(class: &mut Value) {
    protect(class, "kubernetes.io/vac-protection");
}

fn protect(object: &mut Value, finalizer: &str) {
    let finalizers = meta::edit(object).entry("finalizers").or_insert_with(|| json!([]));
    if let Some(list) = finalizers.as_array_mut()
        && !list.iter().any(|f| f == finalizer)
    {
        list.push(finalizer.into());
    }
}

/// Only a claim that is bound grows, and only where its class lets it (`PersistentVolumeClaimResize`).
pub fn expansion(claim: &Value, old: &Value, get: &dyn Fn(&Key) -> Option<Value>) -> Result<(), String> {
    let wish = |claim: &Value| -> Quantity {
        let text = claim["spec"]["resources"]["requests"]["storage"].as_str();
        text.and_then(|text| text.parse().ok()).unwrap_or_default()
    };
    if wish(claim) <= wish(old) {
        return Ok(());
    }
    if old["status"]["phase"] != "Bound" {
        return Err("Only bound persistent volume claims can be expanded".into());
    }
    let class = claim["spec"]["storageClassName"].as_str().filter(|class| !class.is_empty() && *class == old["spec"]["storageClassName"]);
    let class = class.and_then(|class| get(&Key::new("storageclasses.storage.k8s.io", "", class)));
    match class {
        Some(class) if class["allowVolumeExpansion"] == true => Ok(()),
        _ => Err("only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize".into()),
    }
}

fn prioritise(pod: &mut Value, around: &Surroundings<'_>) -> Result<(), String> {
    let wanted = pod["spec"]["priorityClassName"].as_str().unwrap_or_default().to_string();
    let classes = (around.list)("priorityclasses.scheduling.k8s.io");
    let class = if wanted.is_empty() {
        classes.iter().find(|class| class["globalDefault"] == true)
    } else {
        let found = classes.iter().find(|class| meta::name(class) == wanted);
        Some(found.ok_or_else(|| format!("no PriorityClass with name {wanted} was found"))?)
    };
    let spec = &mut pod["spec"];
    let value = class.map_or(json!(0), |class| class["value"].clone());
    if let Some(stated) = spec.get("priority").filter(|p| !p.is_null())
        && *stated != value
    {
        return Err(format!(
            "the integer value of priority ({stated}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
        ));
    }
    if let Some(class) = class {
        spec["priorityClassName"] = meta::name(class).into();
    }
    spec["priority"] = value;
    let policy = class.and_then(|c| c.get("preemptionPolicy").cloned()).unwrap_or(json!("PreemptLowerPriority"));
    if let Some(stated) = spec.get("preemptionPolicy").and_then(Value::as_str).filter(|stated| policy != *stated) {
        let computed = policy.as_str().unwrap_or_default();
        return Err(format!(
            "the string value of PreemptionPolicy ({stated}) must not be provided in pod spec; priority admission controller computed {computed} from the given PriorityClass name"
        ));
    }
    spec["preemptionPolicy"] = policy;
    Ok(())
}

fn account(pod: &mut Value, namespace: &str, around: &Surroundings<'_>) -> Result<(), String> {
    // A kubelet's image of a Pod that it runs by itself stays as it is.
    if !pod["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_null() {
        let names_account = pod["spec"]["serviceAccountName"].as_str().is_some_and(|name| !name.is_empty());
        return if names_account { Err("a mirror pod may not reference service accounts".into()) } else { Ok(()) };
    }
    let spec = &mut pod["spec"];
    if spec.get("serviceAccountName").and_then(Value::as_str).unwrap_or_default().is_empty() {
        spec["serviceAccountName"] = "default".into();
    }
    let name = spec["serviceAccountName"].as_str().unwrap_or_default().to_string();
    spec["serviceAccount"] = name.clone().into();
    let account = (around.get)(&Key::new("serviceaccounts", namespace, &name))
        .ok_or_else(|| format!("error looking up service account {namespace}/{name}: serviceaccount \"{name}\" not found"))?;
    let secrets = account.get("imagePullSecrets").filter(|s| s.as_array().is_some_and(|s| !s.is_empty()));
    if let Some(secrets) = secrets
        && spec.get("imagePullSecrets").and_then(Value::as_array).is_none_or(Vec::is_empty)
    {
        spec["imagePullSecrets"] = secrets.clone();
    }
    let mounts = |object: &Value| object.get("automountServiceAccountToken").and_then(Value::as_bool);
    if mounts(spec).or_else(|| mounts(&account)).unwrap_or(true) {
        mount_token(spec, around.suffix);
    }
    Ok(())
}

/// A volume with token, CA and namespace, and a mount of it in every container that has nothing there.
fn mount_token(spec: &mut Value, suffix: &str) {
    let volumes = spec.get("volumes").and_then(Value::as_array).cloned().unwrap_or_default();
    let known = volumes.iter().filter_map(|v| v["name"].as_str()).find(|name| name.starts_with("kube-api-access-"));
    let name = known.map_or_else(|| format!("kube-api-access-{suffix}"), String::from);
    let mut mounted = false;
    for list in ["initContainers", "containers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let taken = container["volumeMounts"].as_array().into_iter().flatten().any(|m| m["mountPath"] == TOKEN_PATH);
            if taken {
                continue;
            }
            mounted = true;
            let mount = json!({"name": name, "readOnly": true, "mountPath": TOKEN_PATH});
            match container.get_mut("volumeMounts").and_then(Value::as_array_mut) {
                Some(mounts) => mounts.push(mount),
                None => container["volumeMounts"] = json!([mount]),
            }
        }
    }
    if !mounted || known.is_some() {
        return;
    }
    let namespace = json!({"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}});
    let volume = json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [namespace]}},
    ]}});
    match spec.get_mut("volumes").and_then(Value::as_array_mut) {
        Some(volumes) => volumes.push(volume),
        None => spec["volumes"] = json!([volume]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(mut object: Value, account: Option<Value>) -> Result<Value, String> {
        let get = |_: &Key| account.clone();
        let class = json!({"metadata": {"name": "high"}, "value": 7});
        let list = |resource: &str| if resource.starts_with("priority") { vec![class.clone()] } else { Vec::new() };
        let around = Surroundings { get: &get, list: &list, suffix: "abcde" };
        pod(&mut object, "n", &around).map(|()| object)
    }

    #[test]
    fn mounts_the_accounts_token() {
        let object = json!({"spec": {"containers": [{"name": "c"}]}});
        let done = admitted(object.clone(), Some(json!({}))).expect("admitted");
        assert_eq!(done.pointer("/spec/volumes/0/name"), Some(&json!("kube-api-access-abcde")));
        assert_eq!(done.pointer("/spec/containers/0/volumeMounts/0/mountPath"), Some(&json!(TOKEN_PATH)));
        let without = admitted(object.clone(), Some(json!({"automountServiceAccountToken": false}))).expect("admitted");
        assert_eq!(without.pointer("/spec/volumes"), None);
        assert!(admitted(object, None).is_err_and(|why| why.contains("serviceaccount \"default\" not found")));
    }

    #[test]
    fn resolves_the_priority() {
        let object = |class: &str| json!({"spec": {"containers": [], "priorityClassName": class}});
        assert_eq!(admitted(object("high"), Some(json!({}))).expect("admitted").pointer("/spec/priority"), Some(&json!(7)));
        assert_eq!(admitted(object("low"), Some(json!({}))), Err("no PriorityClass with name low was found".into()));
    }

    #[test]
    fn claims_grow_where_their_class_lets_them() {
        let claim = |size: &str, phase: &str| json!({"spec": {"storageClassName": "c", "resources": {"requests": {"storage": size}}}, "status": {"phase": phase}});
        let check = |allows: Value, size: &str, phase: &str| {
            expansion(&claim(size, phase), &claim("1Gi", phase), &|_| Some(json!({"allowVolumeExpansion": allows})))
        };
        assert_eq!(check(json!(true), "2Gi", "Bound"), Ok(()));
        assert_eq!(check(json!(false), "1Gi", "Pending"), Ok(()), "it stays as it is");
        assert_eq!(check(json!(true), "2Gi", "Pending"), Err("Only bound persistent volume claims can be expanded".into()));
        assert!(check(json!(false), "2Gi", "Bound").is_err() && check(Value::Null, "2Gi", "Bound").is_err());
    }
}

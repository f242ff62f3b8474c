//! ResourceQuotas: what an object takes of them, whether that is there, and how they stand
//! (`pkg/quota/v1/evaluator/core`, `apiserver/pkg/admission/plugin/resourcequota`).
//!
//! ```text
//!   a new object ── charges ──▶ [Charge] ──▶ in the same transaction ── charged ──▶ the quota's new status, or refused
//!   an object that went, a changed quota ── status ──▶ everything counted anew
//! ```
//!
//! A quota is a bounded counter: `apply` adds to it, so that creations on different nodes neither overdraw it nor make
//! each other try again.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::amounts::{Amounts, add, of_container, of_pod, quantities};
use crate::quantity::{self, Quantity};
use crate::record::Record;
use crate::{Resource, defaults, meta};

pub const QUOTAS: &str = "resourcequotas";

/// Resources of which each object counts under its plain name too.
const COUNTED: &[&str] =
    &["configmaps", "persistentvolumeclaims", "pods", "replicationcontrollers", "resourcequotas", "secrets", "services"];

/// What every container must state where a quota counts it (`validationSet`).
const STATED: &[&str] = &["cpu", "limits.cpu", "limits.memory", "memory", "requests.cpu", "requests.memory"];

/// What is to be added to the usage of one quota.
#[derive(Clone, Debug, PartialEq)]
pub struct Charge {
    pub quota: String,
    pub amounts: Amounts,
}

/// What an object adds to each of the namespace's quotas; `old` is what an update starts from. `Err` says why it may
/// not be, after "is forbidden: ".
pub fn charges(quotas: &[Value], resource: &Resource, object: &Value, old: Option<&Value>) -> Result<Vec<Charge>, String> {
    if resource.stored() == "events" {
        return Ok(Vec::new());
    }
    let mut charges = Vec::new();
    for quota in quotas {
        let name = meta::name(quota);
        let hard = quantities(&quota["status"]["hard"]);
        let counts = |object: &Value| if in_scope(quota, resource, object) { usage(resource, object) } else { Amounts::new() };
        let mut amounts = counts(object);
        amounts.retain(|name, _| hard.contains_key(name));
        if old.is_none() && resource.stored() == "pods" && in_scope(quota, resource, object) {
            let wanted: Vec<&str> = hard.keys().map(String::as_str).filter(|name| STATED.contains(name)).collect();
            states_all(object, &wanted).map_err(|why| format!("failed quota: {name}: {why}"))?;
        }
        for (name, amount) in old.map(counts).unwrap_or_default() {
            if hard.contains_key(&name) {
                let known = amounts.entry(name).or_insert(Quantity::ZERO);
                *known = *known - amount;
            }
        }
        amounts.retain(|_, amount| *amount != Quantity::ZERO);
        let used = quantities(&quota["status"]["used"]);
        if let Some(unknown) = missing(&amounts, &used) {
            return Err(format!("status unknown for quota: {name}, resources: {unknown}"));
        }
        if !amounts.is_empty() {
            charges.push(Charge { quota: name.into(), amounts });
        }
    }
    Ok(charges)
}

fn missing(amounts: &Amounts, used: &Amounts) -> Option<String> {
    let unknown: Vec<&str> = amounts.keys().filter(|name| !used.contains_key(*name)).map(String::as_str).collect();
    (!unknown.is_empty()).then(|| unknown.join(","))
}

/// The quota after a charge; `None` where it would be overdrawn. What only gives back is always allowed.
pub fn charged(quota: &Record, amounts: &Amounts) -> Option<Record> {
    let mut status = quota.field("status")?;
    if overdrawn(&status, amounts).next().is_some() {
        return None;
    }
    let used = quantities(&status["used"]);
    for (name, amount) in amounts {
        let sum = used.get(name).copied().unwrap_or_default() + *amount;
        status["used"][name] = like(sum, status["hard"][name].as_str().unwrap_or_default()).into();
    }
    let segment = crate::record::Segment { field: "status".into(), json: status.to_string().into() };
    Some(quota.with_changes(&[segment]))
}

fn overdrawn<'a>(status: &Value, amounts: &'a Amounts) -> impl Iterator<Item = (&'a String, Quantity)> {
    let (hard, used) = (quantities(&status["hard"]), quantities(&status["used"]));
    amounts.iter().filter(|(_, amount)| **amount > Quantity::ZERO).filter_map(move |(name, amount)| {
        let (limit, used) = (hard.get(name).copied()?, used.get(name).copied().unwrap_or_default());
        (used + *amount > limit).then_some((name, *amount))
    })
}

/// Why a charge was refused: `exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2`.
pub fn exceeded(quota: &Value, amounts: &Amounts) -> Option<String> {
    let status = &quota["status"];
    let over: Vec<(&String, Quantity)> = overdrawn(status, amounts).collect();
    let shown = |of: &dyn Fn(&str, Quantity) -> String| {
        over.iter().map(|(name, amount)| format!("{name}={}", of(name, *amount))).collect::<Vec<_>>().join(",")
    };
    let text = |list: &str, name: &str| status[list][name].as_str().unwrap_or("0").to_string();
    let requested = shown(&|name, amount| like(amount, &text("hard", name)));
    let (used, limited) = (shown(&|name, _| text("used", name)), shown(&|name, _| text("hard", name)));
    (!over.is_empty()).then(|| format!("exceeded quota: {}, requested: {requested}, used: {used}, limited: {limited}", meta::name(quota)))
}

/// How a quota stands: `objects` are those of its namespace.
pub fn status<'a>(quota: &Value, objects: impl Iterator<Item = (&'a Resource, Value)>) -> Value {
    let hard = quota["spec"]["hard"].as_object().cloned().unwrap_or_default();
    let mut used = Amounts::new();
    for (resource, object) in objects {
        if in_scope(quota, resource, &object) {
            add(&mut used, usage(resource, &object));
        }
    }
    let shown: Map<String, Value> = hard
        .iter()
        .map(|(name, limit)| {
            let amount = used.get(name).copied().unwrap_or_default();
            (name.clone(), like(amount, limit.as_str().unwrap_or_default()).into())
        })
        .collect();
    json!({"hard": hard, "used": shown})
}

/// Whether a quota may count objects of a resource at all, so that its status depends on them.
pub fn concerns(quota: &Value, resource: &Resource) -> bool {
    let hard = quota["spec"]["hard"].as_object();
    hard.into_iter().flatten().any(|(name, _)| match resource.stored() {
        "pods" => !name.starts_with("count/") || name == "count/pods",
        "persistentvolumeclaims" => name.contains("storage") || name.ends_with("persistentvolumeclaims"),
        "services" => name.starts_with("services") || name == "count/services",
        _ => *name == object_count(resource) || name == resource.plural,
    })
}

/// What one object takes.
fn usage(resource: &Resource, object: &Value) -> Amounts {
    let one = Quantity::from_units(1);
    let mut used = Amounts::from([(object_count(resource), one)]);
    if resource.group.is_empty() && COUNTED.contains(&resource.plural) {
        used.insert(resource.plural.into(), one);
    }
    match resource.stored() {
        "pods" => of_live_pod(object, &mut used),
        "services" => of_service(object, &mut used),
        "persistentvolumeclaims" => of_claim(object, &mut used),
        _ => {}
    }
    used
}

/// `count/deployments.apps`
fn object_count(resource: &Resource) -> String {
    format!("count/{}", resource.qualified())
}

/// A Pod that has ended takes nothing but its place in storage.
fn of_live_pod(pod: &Value, used: &mut Amounts) {
    if matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
        used.remove("pods");
        return;
    }
    for (name, amount) in of_pod(pod, "requests") {
        used.insert(format!("requests.{name}"), amount);
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-") {
            used.insert(name, amount);
        }
    }
    for (name, amount) in of_pod(pod, "limits") {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            used.insert(format!("limits.{name}"), amount);
        }
    }
}

fn of_service(service: &Value, used: &mut Amounts) {
    let spec = &service["spec"];
    let ports = spec["ports"].as_array().map_or(0, Vec::len);
    let stated = spec["ports"].as_array().into_iter().flatten().filter(|port| port["nodePort"].as_i64().is_some_and(|n| n > 0)).count();
    let (balancers, node_ports) = match spec["type"].as_str() {
        Some("NodePort") => (0, ports),
        Some("LoadBalancer") if spec["allocateLoadBalancerNodePorts"] == false => (1, stated),
        Some("LoadBalancer") => (1, ports),
        _ => (0, 0),
    };
    used.insert("services.loadbalancers".into(), Quantity::from_units(balancers));
    used.insert("services.nodeports".into(), Quantity::from_units(i128::try_from(node_ports).unwrap_or(0)));
}

fn of_claim(claim: &Value, used: &mut Amounts) {
    let storage = of_container(&claim["spec"], "requests").get("storage").copied().unwrap_or_default();
    used.insert("requests.storage".into(), storage);
    if let Some(class) = claim["spec"]["storageClassName"].as_str().filter(|class| !class.is_empty()) {
        used.insert(format!("{class}.storageclass.storage.k8s.io/requests.storage"), storage);
        used.insert(format!("{class}.storageclass.storage.k8s.io/persistentvolumeclaims"), Quantity::from_units(1));
    }
}

/// Whether an object counts for a quota: the scopes that it names concern Pods, and all must hold.
fn in_scope(quota: &Value, resource: &Resource, object: &Value) -> bool {
    let scopes = quota["spec"]["scopes"].as_array().into_iter().flatten().map(|scope| json!({"scopeName": scope, "operator": "Exists"}));
    let selected = quota.pointer("/spec/scopeSelector/matchExpressions").and_then(Value::as_array).into_iter().flatten().cloned();
    let mut all = scopes.chain(selected).peekable();
    if all.peek().is_some() && resource.stored() != "pods" {
        return false;
    }
    all.all(|scope| holds(&scope, object))
}

fn holds(scope: &Value, pod: &Value) -> bool {
    let spec = &pod["spec"];
    let is_terminating = spec["activeDeadlineSeconds"].as_i64().is_some_and(|seconds| seconds >= 0);
    let is_best_effort = || defaults::pod::qos_class(spec) == "BestEffort";
    match scope["scopeName"].as_str().unwrap_or_default() {
        "Terminating" => is_terminating,
        "NotTerminating" => !is_terminating,
        "BestEffort" => is_best_effort(),
        "NotBestEffort" => !is_best_effort(),
        "PriorityClass" => {
            let class = spec["priorityClassName"].as_str().unwrap_or_default();
            let named = scope["values"].as_array().into_iter().flatten().any(|value| value == class);
            match scope["operator"].as_str().unwrap_or_default() {
                "In" => named,
                "NotIn" => !named,
                "DoesNotExist" => class.is_empty(),
                _ => !class.is_empty(),
            }
        }
        "CrossNamespacePodAffinity" => crosses_namespaces(&spec["affinity"]),
        _ => false,
    }
}

fn crosses_namespaces(affinity: &Value) -> bool {
    let kinds = ["podAffinity", "podAntiAffinity"].into_iter().map(|kind| &affinity[kind]);
    let terms = |kind: &Value| -> Vec<Value> {
        let required = kind["requiredDuringSchedulingIgnoredDuringExecution"].as_array().cloned().unwrap_or_default();
        let preferred = kind["preferredDuringSchedulingIgnoredDuringExecution"].as_array().cloned().unwrap_or_default();
        required.into_iter().chain(preferred.into_iter().map(|mut wish| wish["podAffinityTerm"].take())).collect()
    };
    kinds.flat_map(terms).any(|term| {
        let has_names = term["namespaces"].as_array().is_some_and(|names| !names.is_empty());
        has_names || term["namespaceSelector"].is_object()
    })
}

/// Where a quota counts CPU or memory, every container must say what it takes; `Err` has Kubernetes' words.
fn states_all(pod: &Value, wanted: &[&str]) -> Result<(), String> {
    if pod["spec"]["resources"].is_object() {
        return Ok(());
    }
    let mut missing: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for container in ["containers", "initContainers"].iter().flat_map(|list| pod["spec"][*list].as_array()).flatten() {
        for name in wanted {
            let (field, plain) = match name.split_once('.') {
                Some((field, plain)) => (field, plain),
                None => ("requests", *name),
            };
            if !of_container(container, field).contains_key(plain) {
                missing.entry(name).or_default().push(container["name"].as_str().unwrap_or_default());
            }
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let parts: Vec<String> = missing
        .into_iter()
        .map(|(name, mut containers)| {
            containers.sort_unstable();
            containers.dedup();
            format!("{name} for: {}", containers.join(","))
        })
        .collect();
    Err(format!("must specify {}", parts.join("; ")))
}

/// A quantity written in the manner of another: with binary suffixes, or with decimal ones.
fn like(amount: Quantity, model: &str) -> String {
    let milli = amount.milli();
    let text = if model.ends_with('i') && milli % (1000 << 10) == 0 && milli != 0 {
        format!("{}Ki", milli / (1000 << 10))
    } else {
        format!("{milli}m")
    };
    quantity::canonical(&text).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry;

    fn resource(plural: &str) -> &'static Resource {
        registry::find("", "v1", plural).expect("a resource")
    }

    fn quota(hard: Value, used: Value) -> Value {
        json!({"metadata": {"name": "q"}, "spec": {"hard": hard}, "status": {"hard": hard, "used": used}})
    }

    fn pod(resources: Value) -> Value {
        json!({"spec": {"containers": [{"name": "c", "resources": resources}]}})
    }

    #[test]
    fn a_pod_is_charged_for_what_the_quota_counts() {
        let quotas = [quota(
            json!({"pods": "2", "requests.cpu": "1", "limits.memory": "2Gi"}),
            json!({"pods": "1", "requests.cpu": "0", "limits.memory": "0"}),
        )];
        let asks = json!({"requests": {"cpu": "250m"}, "limits": {"memory": "1Gi"}});
        let charges = charges(&quotas, resource("pods"), &pod(asks), None).expect("it fits");
        let record = Record::from_value(&quotas[0]);
        let after = charged(&record, &charges[0].amounts).expect("it fits").field("status").expect("a status");
        assert_eq!(after["used"], json!({"pods": "2", "requests.cpu": "250m", "limits.memory": "1Gi"}));
        let full = json!({"metadata": {"name": "q"}, "status": after});
        assert_eq!(charged(&Record::from_value(&full), &charges[0].amounts), None);
        let why = "exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2";
        assert_eq!(exceeded(&full, &charges[0].amounts).as_deref(), Some(why));
    }

    #[test]
    fn what_is_counted_must_be_stated() {
        let quotas = [quota(json!({"cpu": "1", "limits.memory": "1Gi"}), json!({"cpu": "0", "limits.memory": "0"}))];
        let why = "failed quota: q: must specify cpu for: c; limits.memory for: c";
        assert_eq!(charges(&quotas, resource("pods"), &pod(json!({})), None), Err(why.into()));
        let unknown = [json!({"metadata": {"name": "q"}, "status": {"hard": {"pods": "1"}}})];
        let why = "status unknown for quota: q, resources: pods";
        assert_eq!(charges(&unknown, resource("pods"), &pod(json!({})), None), Err(why.into()));
    }

    #[test]
    fn an_update_is_charged_for_the_difference() {
        let quotas = [quota(json!({"services": "1", "services.nodeports": "1"}), json!({"services": "1", "services.nodeports": "0"}))];
        let service = |kind: &str| json!({"spec": {"type": kind, "ports": [{"port": 80}]}});
        let difference = charges(&quotas, resource("services"), &service("NodePort"), Some(&service("ClusterIP"))).expect("no failure");
        let expected = Charge { quota: "q".into(), amounts: [("services.nodeports".to_string(), Quantity::from_units(1))].into() };
        assert_eq!(difference, [expected]);
    }

    #[test]
    fn counts_what_is_in_scope() {
        let mut scoped = quota(json!({"pods": "5", "count/pods": "9"}), json!({}));
        scoped["spec"]["scopes"] = json!(["NotBestEffort"]);
        let mut ended = pod(json!({"requests": {"cpu": "1"}}));
        ended["status"] = json!({"phase": "Succeeded"});
        let objects = [pod(json!({})), pod(json!({"requests": {"cpu": "1"}})), ended];
        let counted = status(&scoped, objects.into_iter().map(|object| (resource("pods"), object)));
        assert_eq!(counted["used"], json!({"pods": "1", "count/pods": "2"}));
    }
}

//! What a status must be like that somebody writes through the API (`Validate*StatusUpdate` in `pkg/apis/*/validation`).

use std::net::IpAddr;

use serde_json::{Value, json};

use super::at::{At, ip};
use super::text;
use crate::field::{Errors, Path, Problem};
use crate::names;

const REASON_LENGTH_MAX: usize = 1024;
const MESSAGE_LENGTH_MAX: usize = 32_768;

const OVER_REPLICAS: &str = "cannot be greater than status.replicas";

fn of<'a>(object: &'a Value) -> At<'a> {
    At::new(object.get("status").unwrap_or(&Value::Null), &Path::new("status"))
}

pub fn deployment(new: &Value, old: &Value, errors: &mut Errors) {
    let status = of(new);
    let counts = ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas", "unavailableReplicas"];
    status.non_negative(&["observedGeneration"], errors);
    status.non_negative(&counts, errors);
    status.non_negative(&["terminatingReplicas", "collisionCount"], errors);
    within(&status, &["updatedReplicas", "readyReplicas", "availableReplicas"], "cannot be greater than readyReplicas", errors);
    never_fewer_collisions(&status, old, errors);
}

/// And of a ReplicationController.
pub fn replica_set(new: &Value, _old: &Value, errors: &mut Errors) {
    let status = of(new);
    let fields = ["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration", "terminatingReplicas"];
    status.non_negative(&fields, errors);
    within(&status, &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"], "cannot be greater than readyReplicas", errors);
}

pub fn stateful_set(new: &Value, old: &Value, errors: &mut Errors) {
    let status = of(new);
    let counts = ["replicas", "readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"];
    status.non_negative(&counts, errors);
    status.non_negative(&["observedGeneration", "collisionCount"], errors);
    within(&status, &counts[1..], "cannot be greater than status.readyReplicas", errors);
    never_fewer_collisions(&status, old, errors);
}

pub fn daemon_set(new: &Value, old: &Value, errors: &mut Errors) {
    let status = of(new);
    let fields = [
        "currentNumberScheduled",
        "numberMisscheduled",
        "desiredNumberScheduled",
        "numberReady",
        "observedGeneration",
        "updatedNumberScheduled",
        "numberAvailable",
        "numberUnavailable",
        "collisionCount",
    ];
    status.non_negative(&fields, errors);
    never_fewer_collisions(&status, old, errors);
}

/// Parts of `replicas` are no more than those; what is available is ready.
fn within(status: &At<'_>, parts: &[&str], over_ready: &str, errors: &mut Errors) {
    for part in parts.iter().filter(|part| status.int(part) > status.int("replicas")) {
        errors.invalid(&status.child(part), status.int(part), OVER_REPLICAS);
    }
    if status.int("availableReplicas") > status.int("readyReplicas") {
        errors.invalid(&status.child("availableReplicas"), status.int("availableReplicas"), over_ready);
    }
}

fn never_fewer_collisions(status: &At<'_>, old: &Value, errors: &mut Errors) {
    let count = status.int("collisionCount");
    if count < of(old).int("collisionCount") {
        errors.invalid(&status.child("collisionCount"), count, "cannot be decremented");
    }
}

pub fn disruption_budget(new: &Value, _old: &Value, errors: &mut Errors) {
    let status = of(new);
    conditions(&status, errors);
    status.non_negative(&["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"], errors);
}

pub fn autoscaler(new: &Value, _old: &Value, errors: &mut Errors) {
    let status = of(new);
    for condition in status.each("conditions") {
        condition.non_negative(&["observedGeneration"], errors);
    }
    status.non_negative(&["currentReplicas", "desiredReplicas"], errors);
}

pub fn service(new: &Value, _old: &Value, errors: &mut Errors) {
    const MODES: [&str; 2] = ["Proxy", "VIP"];
    let Some(balancer) = of(new).given("loadBalancer") else { return };
    if new.pointer("/spec/type").is_none_or(|kind| kind != "LoadBalancer") && balancer.count("ingress") > 0 {
        return errors.forbidden(&balancer.child("ingress"), "may only be used when `spec.type` is 'LoadBalancer'");
    }
    for ingress in balancer.each("ingress") {
        address(&ingress, errors);
        match (ingress.given("ipMode"), ingress.str("ip").is_empty()) {
            (None, false) => errors.required(&ingress.child("ipMode"), "must be specified when `ip` is set"),
            (Some(mode), true) => errors.forbidden(&mode.path, "may not be specified when `ip` is not set"),
            (Some(_), false) => ingress.supported("ipMode", &MODES, errors),
            (None, true) => {}
        }
        host_name(&ingress, errors);
    }
}

pub fn ingress(new: &Value, _old: &Value, errors: &mut Errors) {
    for ingress in of(new).given("loadBalancer").iter().flat_map(|balancer| balancer.each("ingress")) {
        address(&ingress, errors);
        host_name(&ingress, errors);
    }
}

fn address(ingress: &At<'_>, errors: &mut Errors) {
    if !ingress.str("ip").is_empty() {
        ip(ingress.str("ip"), &ingress.child("ip"), errors);
    }
}

fn host_name(ingress: &At<'_>, errors: &mut Errors) {
    ingress.named("hostname", names::subdomain, errors);
    if ingress.str("hostname").parse::<IpAddr>().is_ok() {
        errors.invalid(&ingress.child("hostname"), ingress.str("hostname"), "must be a DNS name, not an IP address");
    }
}

pub fn namespace(new: &Value, _old: &Value, errors: &mut Errors) {
    // Kubernetes names the field as Go does.
    let (status, path) = (of(new), Path::new("status").child("Phase"));
    let is_deleted = crate::meta::get(new, "deletionTimestamp").is_some();
    let (wanted, when) = if is_deleted { ("Terminating", "not empty") } else { ("Active", "empty") };
    if status.str("phase") != wanted {
        errors.invalid(&path, status.str("phase"), &format!("may only be '{wanted}' if `deletionTimestamp` is {when}"));
    }
}

pub fn pod(new: &Value, old: &Value, errors: &mut Errors) {
    let (status, before) = (of(new), of(old));
    for condition in status.each("conditions") {
        if condition.int("observedGeneration") < 0 {
            errors.invalid(&condition.child("observedGeneration"), condition.int("observedGeneration"), "must be a non-negative integer");
        }
        let kind = condition.str("type");
        if !matches!(kind, "PodScheduled" | "Ready" | "Initialized") {
            errors.judge(&condition.child("Type"), kind, names::qualified_name(kind));
        }
    }
    let nominated = status.str("nominatedNodeName");
    if nominated != before.str("nominatedNodeName") && !nominated.is_empty() {
        errors.judge(&status.child("nominatedNodeName"), nominated, names::subdomain(nominated));
        if !text(old.get("spec").unwrap_or(&Value::Null), "nodeName").is_empty() {
            errors.forbidden(&status.child("nominatedNodeName"), "may not be set on pods that are already bound to a node");
        }
    }
    if status.int("observedGeneration") < 0 {
        errors.invalid(&status.child("observedGeneration"), status.int("observedGeneration"), "must be a non-negative integer");
    }
    let class = status.str("qosClass");
    if !class.is_empty() && class != before.str("qosClass") {
        errors.invalid(&status.child("qosClass"), class, "field is immutable");
    }
    pod_addresses(&status, errors);
}

/// One address of each family, the first of them also alone.
fn pod_addresses(status: &At<'_>, errors: &mut Errors) {
    for (one, all) in [("podIP", "podIPs"), ("hostIP", "hostIPs")] {
        let texts: Vec<&str> = status.each(all).map(|at| text(at.value, "ip")).collect();
        let path = status.child(all);
        if let Some(first) = texts.first().filter(|first| **first != status.str(one)) {
            errors.invalid(&path.index(0).child("ip"), *first, &format!("must be equal to `{one}`"));
        }
        for (index, text) in texts.iter().enumerate() {
            ip(text, &path.index(index), errors);
        }
        let families: Vec<bool> = texts.iter().filter_map(|text| text.parse().ok()).map(|ip: IpAddr| ip.is_ipv6()).collect();
        if texts.len() > 2 || matches!(families.as_slice(), [first, second] if first == second) {
            errors.invalid(&path, json!(texts), "may specify no more than one IP for each IP family");
        }
    }
}

/// `ValidateConditions` of `metav1`.
pub(super) fn conditions(status: &At<'_>, errors: &mut Errors) {
    const STATUSES: [&str; 3] = ["False", "True", "Unknown"];
    let mut seen: Vec<&str> = Vec::new();
    for condition in status.each("conditions") {
        let kind = condition.str("type");
        if seen.contains(&kind) {
            errors.duplicate(&condition.path, kind);
        }
        seen.push(kind);
        if kind.is_empty() {
            errors.required(&condition.child("type"), "is required");
        }
        condition.named("type", names::qualified_name, errors);
        condition.one_of("status", &STATUSES, errors);
        if condition.int("observedGeneration") < 0 {
            let why = "must be greater than or equal to zero";
            errors.invalid(&condition.child("observedGeneration"), condition.int("observedGeneration"), why);
        }
        condition.require(&["lastTransitionTime", "reason"], errors);
        reason(&condition, errors);
        if condition.str("message").len() > MESSAGE_LENGTH_MAX {
            errors.add(&condition.child("message"), Problem::TooLong(MESSAGE_LENGTH_MAX));
        }
    }
}

fn reason(condition: &At<'_>, errors: &mut Errors) {
    let (reason, path) = (condition.str("reason"), condition.child("reason"));
    let is_plain = reason.chars().all(|c| c.is_ascii_alphanumeric() || "_,:".contains(c))
        && reason.starts_with(|c: char| c.is_ascii_alphabetic())
        && !reason.ends_with([',', ':']);
    if !reason.is_empty() && !is_plain {
        let why = "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters \
                   or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or \
                   'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')";
        errors.invalid(&path, reason, why);
    }
    if reason.len() > REASON_LENGTH_MAX {
        errors.add(&path, Problem::TooLong(REASON_LENGTH_MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rule: fn(&Value, &Value, &mut Errors), new: Value, old: Value, expected: &str) {
        let mut errors = Errors::default();
        rule(&new, &old, &mut errors);
        assert_eq!(errors.causes().iter().map(|c| format!("{}: {}", c.field, c.message)).collect::<Vec<_>>().join("\n"), expected);
    }

    #[test]
    fn counts_agree_with_each_other() {
        let status = |status: Value| json!({"status": status});
        check(deployment, status(json!({"replicas": 2, "readyReplicas": 2, "availableReplicas": 1})), json!({}), "");
        check(
            deployment,
            status(json!({"replicas": 1, "readyReplicas": 2, "availableReplicas": 1, "unavailableReplicas": -1})),
            status(json!({"collisionCount": 1})),
            "status.unavailableReplicas: Invalid value: -1: must be greater than or equal to 0\n\
             status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas\n\
             status.collisionCount: Invalid value: 0: cannot be decremented",
        );
        check(
            stateful_set,
            status(json!({"replicas": 1, "availableReplicas": 1})),
            json!({}),
            "status.availableReplicas: Invalid value: 1: cannot be greater than status.readyReplicas",
        );
    }

    #[test]
    fn only_balanced_services_have_a_balancer() {
        let with = |kind: &str, ingress: Value| json!({"spec": {"type": kind}, "status": {"loadBalancer": {"ingress": [ingress]}}});
        check(service, with("LoadBalancer", json!({"ip": "192.0.2.1", "ipMode": "VIP"})), json!({}), "");
        check(
            service,
            with("ClusterIP", json!({"ip": "192.0.2.1"})),
            json!({}),
            "status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is 'LoadBalancer'",
        );
        check(
            service,
            with("LoadBalancer", json!({"hostname": "192.0.2.1", "ipMode": "VIP"})),
            json!({}),
            "status.loadBalancer.ingress[0].ipMode: Forbidden: may not be specified when `ip` is not set\n\
             status.loadBalancer.ingress[0].hostname: Invalid value: \"192.0.2.1\": must be a DNS name, not an IP address",
        );
    }

    #[test]
    fn a_bound_pod_is_not_nominated() {
        let with = |status: Value| json!({"spec": {"nodeName": "a"}, "status": status});
        check(pod, with(json!({"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]})), with(json!({})), "");
        check(
            pod,
            with(json!({"nominatedNodeName": "b", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.2"}]})),
            with(json!({})),
            "status.nominatedNodeName: Forbidden: may not be set on pods that are already bound to a node\n\
             status.podIPs[0].ip: Invalid value: \"10.0.0.2\": must be equal to `podIP`",
        );
    }

    #[test]
    fn conditions_are_whole() {
        let condition = json!({"type": "A", "status": "Maybe", "reason": "a b", "lastTransitionTime": null});
        check(
            disruption_budget,
            json!({"status": {"conditions": [condition]}}),
            json!({}),
            &format!(
                "status.conditions[0].status: Unsupported value: \"Maybe\": supported values: \"False\", \"True\", \"Unknown\"\n\
                 status.conditions[0].lastTransitionTime: Required value\n\
                 status.conditions[0].reason: Invalid value: \"a b\": {}",
                "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or \
                 '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or \
                 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')"
            ),
        );
    }
}

//! Whether a container that has ended is started again (KEP-5307): by its own rules, its own policy, or the Pod's. Pure.

use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, Pod};

use crate::pod::{Observation, Observed, State, containers};

/// What a rule asks for that lets the whole Pod begin anew (KEP-5532).
const ALL: &str = "RestartAllContainers";

/// Whether a container that ended with this code is started again; `policy` is the Pod's.
pub(crate) fn restarts(container: &Container, policy: &str, code: i32) -> bool {
    match &container.restart_policy {
        // Every action of a rule starts it again.
        Some(own) => matching(container, code).is_some() || by_policy(own, code),
        None => by_policy(policy, code),
    }
}

fn by_policy(policy: &str, code: i32) -> bool {
    match policy {
        "Never" => false,
        "OnFailure" => code != 0,
        _ => true,
    }
}

fn matching(container: &Container, code: i32) -> Option<&ContainerRestartRule> {
    container.restart_policy_rules.iter().flatten().find(|rule| {
        rule.exit_codes.as_ref().is_some_and(|codes| {
            let is_named = codes.values.iter().flatten().any(|value| *value == code);
            is_named == (codes.operator == "In")
        })
    })
}

/// The container whose end lets the whole Pod begin anew.
pub(crate) fn of_all<'a>(pod: &Pod, observed: &'a Observation) -> Option<&'a Observed> {
    containers(pod).find_map(|container| {
        let found = observed.containers.get(&container.name)?;
        let State::Exited { code, .. } = &found.state else { return None };
        matching(container, *code).is_some_and(|rule| rule.action == ALL).then_some(found)
    })
}

/// The number of a container's next start, where the runtime has none of it: what was told goes on.
pub(crate) fn next_attempt(pod: &Pod, name: &str) -> u32 {
    let status = pod.status.as_ref();
    let mut told = status.iter().flat_map(|s| s.container_statuses.iter().chain(&s.init_container_statuses)).flatten();
    let Some(told) = told.find(|told| told.name == name) else { return 0 };
    let has_run = told.container_id.as_ref().is_some_and(|id| !id.is_empty())
        || told.last_state.as_ref().is_some_and(|state| state.terminated.is_some());
    if has_run { u32::try_from(told.restart_count).unwrap_or(0) + 1 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_container_may_have_rules_of_its_own() {
        let check = |own: Value, policy: &str, code: i32, expected: bool| {
            let mut container = json!({"name": "c"});
            container.as_object_mut().expect("an object").extend(own.as_object().cloned().unwrap_or_default());
            let container: Container = serde_json::from_value(container).expect("a container");
            assert_eq!(restarts(&container, policy, code), expected, "{container:?} {policy} {code}");
        };
        check(json!({}), "Always", 0, true);
        check(json!({}), "OnFailure", 0, false);
        check(json!({}), "OnFailure", 1, true);
        check(json!({}), "Never", 1, false);
        check(json!({"restartPolicy": "Never"}), "Always", 1, false);
        check(json!({"restartPolicy": "Always"}), "Never", 0, true);
        let rule = |operator: &str| json!({"restartPolicy": "Never", "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": operator, "values": [42]}}]});
        check(rule("In"), "Never", 42, true);
        check(rule("In"), "Never", 1, false);
        check(rule("NotIn"), "Never", 42, false);
        check(rule("NotIn"), "Never", 1, true);
    }

    #[test]
    fn starts_are_counted_on_where_the_runtime_has_forgotten() {
        let check = |status: Value, expected: u32| {
            let pod = serde_json::from_value(json!({"status": {"containerStatuses": [status]}})).expect("a Pod");
            assert_eq!(next_attempt(&pod, "c"), expected);
        };
        let status = |more: Value| {
            let mut status = json!({"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 2});
            status.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
            status
        };
        check(status(json!({})), 0);
        check(status(json!({"containerID": "x://1"})), 3);
        check(status(json!({"lastState": {"terminated": {"exitCode": 1}}})), 3);
    }
}

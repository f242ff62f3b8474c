//! What a failed Pod means for its Job (KEP-3329, KEP-3850), and which successes are enough (KEP-3998).

use std::collections::BTreeSet;

use k8s_openapi::api::batch::v1::{JobSpec, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};

use super::parse_indexes;

/// What becomes of a failure.
#[derive(Debug, PartialEq)]
pub(super) enum Failure {
    /// It counts towards the limits.
    Counts,
    Ignored,
    /// Its index is not tried again.
    FailsIndex,
    FailsJob(String),
}

/// The first rule that matches a failed Pod decides.
pub(super) fn judge(spec: &JobSpec, pod: &Pod) -> Failure {
    let rules = spec.pod_failure_policy.iter().flat_map(|policy| &policy.rules);
    let (namespace, name) = (pod.metadata.namespace.as_deref().unwrap_or_default(), pod.metadata.name.as_deref().unwrap_or_default());
    let none = PodStatus::default();
    let status = pod.status.as_ref().unwrap_or(&none);
    for (index, rule) in rules.enumerate() {
        let matched = match (&rule.on_exit_codes, &rule.on_pod_conditions) {
            (Some(codes), _) => by_exit_code(status, codes).map(|(container, code)| {
                format!(
                    "Container {container} for pod {namespace}/{name} failed with exit code {code} matching {} rule at index {index}",
                    rule.action
                )
            }),
            (None, Some(patterns)) => by_condition(status, patterns).map(|condition| {
                format!("Pod {namespace}/{name} has condition {condition} matching {} rule at index {index}", rule.action)
            }),
            (None, None) => None,
        };
        match (matched, rule.action.as_str()) {
            (None, _) => {}
            (Some(message), "FailJob") => return Failure::FailsJob(message),
            (Some(_), "Ignore") => return Failure::Ignored,
            (Some(_), "FailIndex") => return Failure::FailsIndex,
            (Some(_), _) => return Failure::Counts,
        }
    }
    Failure::Counts
}

fn by_exit_code<'a>(status: &'a PodStatus, wanted: &PodFailurePolicyOnExitCodesRequirement) -> Option<(&'a str, i32)> {
    let statuses = status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    let code = |status: &ContainerStatus| status.state.as_ref()?.terminated.as_ref().map(|ended| ended.exit_code);
    let named = |status: &&ContainerStatus| wanted.container_name.as_ref().is_none_or(|name| *name == status.name);
    { statuses }.filter(named).find_map(|status| {
        let code = code(status).filter(|code| *code != 0)?;
        let is_listed = wanted.values.contains(&code);
        (is_listed == (wanted.operator == "In")).then_some((status.name.as_str(), code))
    })
}

fn by_condition<'a>(status: &'a PodStatus, patterns: &[PodFailurePolicyOnPodConditionsPattern]) -> Option<&'a str> {
    let conditions = status.conditions.iter().flatten();
    let holds = |kind: &str, state: &str| patterns.iter().any(|p| p.type_ == kind && p.status.as_deref().unwrap_or("True") == state);
    { conditions }.find(|c| holds(&c.type_, &c.status)).map(|c| c.type_.as_str())
}

/// The rule of the success policy that the indexes which have succeeded fulfil.
pub(super) fn is_enough(spec: &JobSpec, done: &BTreeSet<i64>) -> Option<String> {
    let rules = spec.success_policy.iter().flat_map(|policy| &policy.rules);
    let count = |wanted: i32, found: usize| i64::try_from(found).unwrap_or(i64::MAX) >= i64::from(wanted);
    let holds = |(indexes, least): (Option<&String>, Option<i32>)| match indexes {
        Some(text) => {
            let wanted = parse_indexes(text);
            let found = wanted.intersection(done).count();
            !wanted.is_empty() && (found == wanted.len() || least.is_some_and(|least| count(least, found)))
        }
        None => least.is_some_and(|least| count(least, done.len())),
    };
    let at = { rules }.position(|rule| holds((rule.succeeded_indexes.as_ref(), rule.succeeded_count)))?;
    (!done.is_empty()).then(|| format!("Matched rules at index {at}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(fields: Value) -> JobSpec {
        let mut spec = json!({"template": {}});
        fields.as_object().into_iter().flatten().for_each(|(field, value)| spec[field] = value.clone());
        serde_json::from_value(spec).expect("a specification")
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let policy = spec(json!({"podFailurePolicy": {"rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
            {"action": "FailJob", "onExitCodes": {"containerName": "main", "operator": "In", "values": [42]}},
            {"action": "FailIndex", "onExitCodes": {"operator": "NotIn", "values": [1, 2]}}]}}));
        let check = |status: Value, expected: Failure| {
            let pod = serde_json::from_value(json!({"metadata": {"namespace": "n", "name": "p"}, "status": status})).expect("a Pod");
            assert_eq!(judge(&policy, &pod), expected);
        };
        let ended = |name: &str, code: i32| {
            json!({"containerStatuses": [{"name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": {"exitCode": code}}}]})
        };
        check(json!({"conditions": [{"type": "DisruptionTarget", "status": "True"}]}), Failure::Ignored);
        let why = "Container main for pod n/p failed with exit code 42 matching FailJob rule at index 1";
        check(ended("main", 42), Failure::FailsJob(why.into()));
        check(ended("other", 42), Failure::FailsIndex);
        check(ended("main", 1), Failure::Counts);
        check(json!({}), Failure::Counts);
    }

    #[test]
    fn some_successes_are_enough() {
        let policy = spec(json!({"successPolicy": {"rules": [{"succeededIndexes": "0,2-3", "succeededCount": 2}, {"succeededCount": 4}]}}));
        let check = |done: &[i64], expected: Option<&str>| {
            assert_eq!(is_enough(&policy, &done.iter().copied().collect()).as_deref(), expected, "{done:?}");
        };
        check(&[], None);
        check(&[0, 1], None);
        check(&[0, 3], Some("Matched rules at index 0"));
        check(&[1, 4, 5, 6], Some("Matched rules at index 1"));
        assert_eq!(is_enough(&spec(json!({})), &[1].into()), None);
    }
}

//! Deployments, ReplicaSets and ReplicationControllers.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::Value;

use super::{immutable, non_negative, one_of, text};
use crate::field::{Errors, Path};
use crate::selector::Selector;

pub fn deployment(deployment: &Value, old: Option<&Value>, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = deployment.get("spec").unwrap_or(&Value::Null);
    needs_selector(spec, &path, errors);
    selected_template(spec, &path, errors);
    if let Some(old) = old {
        immutable(deployment, old, "/spec/selector", &path.child("selector"), errors);
    }
    for field in ["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"] {
        non_negative(spec, field, &path, errors);
    }
    let strategy = spec.get("strategy").unwrap_or(&Value::Null);
    let path = path.child("strategy");
    one_of(strategy, "type", &["Recreate", "RollingUpdate"], &path, errors);
    let Some(rolling) = strategy.get("rollingUpdate").filter(|r| r.is_object()) else { return };
    let path = path.child("rollingUpdate");
    if text(strategy, "type") == "Recreate" {
        errors.forbidden(&path, "may not be specified when strategy `type` is 'Recreate'");
        return;
    }
    let zero = |field: &str| matches!(rolling.get(field), Some(v) if v == 0 || v == "0" || v == "0%");
    for field in ["maxUnavailable", "maxSurge"] {
        percent_or_number(rolling.get(field).unwrap_or(&Value::Null), &path.child(field), errors);
    }
    if zero("maxUnavailable") && zero("maxSurge") {
        errors.invalid(&path.child("maxUnavailable"), rolling["maxUnavailable"].clone(), "may not be 0 when `maxSurge` is 0");
    }
}

pub fn replica_set(set: &Value, old: Option<&Value>, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = set.get("spec").unwrap_or(&Value::Null);
    needs_selector(spec, &path, errors);
    selected_template(spec, &path, errors);
    if let Some(old) = old {
        immutable(set, old, "/spec/selector", &path.child("selector"), errors);
    }
}

pub fn daemon_set(set: &Value, old: Option<&Value>, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = set.get("spec").unwrap_or(&Value::Null);
    selected_template(spec, &path, errors);
    if let Some(old) = old {
        immutable(set, old, "/spec/selector", &path.child("selector"), errors);
    }
    for field in ["minReadySeconds", "revisionHistoryLimit"] {
        non_negative(spec, field, &path, errors);
    }
    let strategy = spec.get("updateStrategy").unwrap_or(&Value::Null);
    let path = path.child("updateStrategy");
    one_of(strategy, "type", &["RollingUpdate", "OnDelete"], &path, errors);
    let Some(rolling) = strategy.get("rollingUpdate").filter(|r| r.is_object()) else { return };
    for field in ["maxUnavailable", "maxSurge"] {
        percent_or_number(rolling.get(field).unwrap_or(&Value::Null), &path.child("rollingUpdate").child(field), errors);
    }
}

pub fn stateful_set(set: &Value, old: Option<&Value>, errors: &mut Errors) {
    let spec = set.get("spec").cloned().unwrap_or_default();
    let path = Path::new("spec");
    non_negative(&spec, "replicas", &path, errors);
    needs_selector(&spec, &path, errors);
    selected_template(&with_claims(&spec), &path, errors);
    one_of(&spec, "podManagementPolicy", &["OrderedReady", "Parallel"], &path, errors);
    let Some(old) = old else { return };
    let fixed = |set: &Value| {
        let mut spec = set.get("spec").cloned().unwrap_or_default();
        if let Some(spec) = spec.as_object_mut() {
            for free in FREE_IN_STATEFUL_SET {
                spec.shift_remove(*free);
            }
        }
        spec
    };
    if fixed(set) != fixed(old) {
        let why = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
        errors.forbidden(&path, why);
    }
}

/// The specification with a volume for each claim template: containers mount them by name.
fn with_claims(spec: &Value) -> Value {
    let mut spec = spec.clone();
    let claims = spec.get("volumeClaimTemplates").and_then(Value::as_array).cloned().unwrap_or_default();
    if let Some(pod) = spec.pointer_mut("/template/spec").filter(|pod| pod.is_object()) {
        let mut volumes = pod.get("volumes").and_then(Value::as_array).cloned().unwrap_or_default();
        for name in claims.iter().map(crate::meta::name) {
            volumes.retain(|volume| volume["name"] != name);
            volumes.push(serde_json::json!({"name": name, "emptyDir": {}}));
        }
        pod["volumes"] = volumes.into();
    }
    spec
}

/// What may change of a StatefulSet's specification.
const FREE_IN_STATEFUL_SET: &[&str] = &[
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

pub fn replication_controller(controller: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = controller.get("spec").unwrap_or(&Value::Null);
    non_negative(spec, "replicas", &path, errors);
    let selector = spec.get("selector").and_then(Value::as_object);
    if selector.is_none_or(serde_json::Map::is_empty) {
        errors.required(&path.child("selector"), "");
    }
    let Some(template) = spec.get("template").filter(|t| t.is_object()) else {
        errors.required(&path.child("template"), "");
        return;
    };
    let labels = template.pointer("/metadata/labels").cloned().unwrap_or_default();
    if selector.into_iter().flatten().any(|(k, v)| labels.get(k) != Some(v)) {
        errors.invalid(&path.child("template").child("metadata").child("labels"), labels, "`selector` does not match template `labels`");
    }
    pod_template(template, &path.child("template"), errors);
}

fn selected_template(spec: &Value, path: &Path, errors: &mut Errors) {
    non_negative(spec, "replicas", path, errors);
    let selector = spec.get("selector").filter(|s| s.is_object());
    let parsed = selector.and_then(|s| serde_json::from_value::<LabelSelector>(s.clone()).ok());
    if let (Some(value), Some(parsed)) = (&selector, &parsed)
        && Selector::from_label_selector(parsed).is_everything()
    {
        errors.invalid(&path.child("selector"), (*value).clone(), "empty selector is invalid for deployment");
    }
    for (index, expression) in parsed.iter().flat_map(|p| p.match_expressions.iter().flatten()).enumerate() {
        if !["In", "NotIn", "Exists", "DoesNotExist"].contains(&expression.operator.as_str()) {
            let path = path.child("selector").child("matchExpressions").index(index).child("operator");
            errors.invalid(&path, expression.operator.as_str(), "not a valid selector operator");
        }
    }
    let Some(template) = spec.get("template").filter(|t| t.is_object()) else {
        errors.required(&path.child("template"), "");
        return;
    };
    let labels = crate::meta::labels(template);
    // No selector selects nothing.
    if parsed.is_none_or(|p| !Selector::from_label_selector(&p).matches(&labels)) {
        let found = template.pointer("/metadata/labels").cloned().unwrap_or_default();
        errors.invalid(&path.child("template").child("metadata").child("labels"), found, "`selector` does not match template `labels`");
    }
    pod_template(template, &path.child("template"), errors);
}

fn needs_selector(spec: &Value, path: &Path, errors: &mut Errors) {
    if spec.get("selector").is_none_or(|selector| !selector.is_object()) {
        errors.required(&path.child("selector"), "");
    }
}

/// A template of Pods that may end.
pub(crate) fn any_pod_template(template: &Value, path: &Path, errors: &mut Errors) {
    crate::meta::validate_labels(template.pointer("/metadata/labels"), &path.child("labels"), errors);
    super::pod::pod_spec(template.get("spec").unwrap_or(&Value::Null), &path.child("spec"), errors);
}

fn pod_template(template: &Value, path: &Path, errors: &mut Errors) {
    any_pod_template(template, path, errors);
    let path = path.child("spec");
    let policy = text(template.get("spec").unwrap_or(&Value::Null), "restartPolicy");
    if matches!(policy, "OnFailure" | "Never") {
        errors.unsupported(&path.child("restartPolicy"), policy, &["Always"]);
    }
}

fn percent_or_number(value: &Value, path: &Path, errors: &mut Errors) {
    match value {
        Value::Number(number) if number.as_i64().is_some_and(|n| n < 0) => {
            errors.invalid(path, value.clone(), "must be greater than or equal to 0");
        }
        Value::String(text) if text.strip_suffix('%').is_none_or(|n| n.parse::<u32>().is_err()) => {
            errors.invalid(path, value.clone(), "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(selector: &str, labels: Value, expected: &str) {
        let mut object = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"app": selector}},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "x"}]}}}});
        crate::defaults::workload::deployment(&mut object);
        let mut errors = Errors::default();
        deployment(&object, None, &mut errors);
        assert_eq!(errors.causes().first().map(|c| format!("{}: {}", c.field, c.message)).unwrap_or_default(), expected);
    }

    #[test]
    fn wants_a_selector_that_matches_its_template() {
        check("a", json!({"app": "a"}), "");
        check(
            "a",
            json!({"app": "b"}),
            "spec.template.metadata.labels: Invalid value: {\"app\":\"b\"}: `selector` does not match template `labels`",
        );
    }
}

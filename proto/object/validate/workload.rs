//! Deployments, ReplicaSets, ReplicationControllers, DaemonSets and StatefulSets.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::{Value, json};

use super::at::At;
use super::{immutable, non_negative, text};
use crate::field::{Errors, Path};
use crate::names;
use crate::selector::Selector;

/// What a selector's set is called in errors, and what is said of one that cannot be read.
#[derive(Clone, Copy)]
struct Words {
    set: &'static str,
    /// Nothing is said where it is absent.
    malformed: Option<&'static str>,
    deadline: &'static str,
}

const DEPLOYMENT: Words = Words { set: "deployment", malformed: Some("invalid label selector"), deadline: "ReplicaSet" };
const DAEMON_SET: Words = Words { set: "daemonset", malformed: None, deadline: "DaemonSet" };
const STATEFUL_SET: Words = Words { set: "statefulset", malformed: Some(""), deadline: "StatefulSet" };

pub fn deployment(deployment: &Value, old: Option<&Value>, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = deployment.get("spec").unwrap_or(&Value::Null);
    needs_selector(spec, &path, errors);
    selected_template(spec, &path, DEPLOYMENT, errors);
    if let Some(old) = old {
        immutable(deployment, old, "/spec/selector", &path.child("selector"), errors);
    }
    let at = At::new(spec, &path);
    at.non_negative(&["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"], errors);
    if at.given("progressDeadlineSeconds").is_some() && at.int("progressDeadlineSeconds") <= at.int("minReadySeconds") {
        let why = "must be greater than minReadySeconds";
        errors.invalid(&at.child("progressDeadlineSeconds"), at.int("progressDeadlineSeconds"), why);
    }
    let strategy = at.given("strategy").unwrap_or(At { value: &Value::Null, path: at.child("strategy") });
    strategy_type(&strategy, &["Recreate", "RollingUpdate"], errors);
    let Some(rolling) = strategy.given("rollingUpdate") else { return };
    if strategy.str("type") == "Recreate" {
        return errors.forbidden(&rolling.path, "may not be specified when strategy `type` is 'Recreate'");
    }
    for field in ["maxUnavailable", "maxSurge"] {
        percent_or_number(&rolling, field, errors);
    }
    if amount(&rolling, "maxUnavailable") == 0 && amount(&rolling, "maxSurge") == 0 {
        errors.invalid(&rolling.child("maxUnavailable"), rolling.value["maxUnavailable"].clone(), "may not be 0 when `maxSurge` is 0");
    }
}

/// Of the type of a strategy Kubernetes tells as of the whole of it.
fn strategy_type(at: &At<'_>, supported: &[&str], errors: &mut Errors) {
    let kind = at.str("type");
    if kind.is_empty() {
        errors.required(&at.path, "");
    } else if !supported.contains(&kind) {
        errors.unsupported(&at.path, in_go(at), supported);
    }
}

/// A strategy as Go prints its internal type.
fn in_go(strategy: &At<'_>) -> Value {
    json!({"Type": strategy.str("type"), "RollingUpdate": strategy.value.get("rollingUpdate").cloned().unwrap_or_default()})
}

pub fn replica_set(set: &Value, old: Option<&Value>, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = set.get("spec").unwrap_or(&Value::Null);
    non_negative(spec, "minReadySeconds", &path, errors);
    needs_selector(spec, &path, errors);
    selected_template(spec, &path, DEPLOYMENT, errors);
    if let Some(old) = old {
        immutable(set, old, "/spec/selector", &path.child("selector"), errors);
    }
}

pub fn daemon_set(set: &Value, old: Option<&Value>, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = set.get("spec").unwrap_or(&Value::Null);
    selected_template(spec, &path, DAEMON_SET, errors);
    if let Some(old) = old {
        immutable(set, old, "/spec/selector", &path.child("selector"), errors);
    }
    let at = At::new(spec, &path);
    at.non_negative(&["minReadySeconds", "revisionHistoryLimit"], errors);
    let strategy = at.given("updateStrategy").unwrap_or(At { value: &Value::Null, path: at.child("updateStrategy") });
    strategy_type(&strategy, &["RollingUpdate", "OnDelete"], errors);
    let Some(rolling) = strategy.given("rollingUpdate").filter(|_| strategy.str("type") == "RollingUpdate") else { return };
    for field in ["maxUnavailable", "maxSurge"] {
        percent_or_number(&rolling, field, errors);
    }
    match (amount(&rolling, "maxUnavailable"), amount(&rolling, "maxSurge")) {
        (0, 0) => errors.required(&rolling.child("maxUnavailable"), "cannot be 0 when maxSurge is 0"),
        (0, _) | (_, 0) => {}
        _ => {
            errors.invalid(&rolling.child("maxSurge"), rolling.value["maxSurge"].clone(), "may not be set when maxUnavailable is non-zero")
        }
    }
}

pub fn stateful_set(set: &Value, old: Option<&Value>, errors: &mut Errors) {
    let spec = set.get("spec").cloned().unwrap_or_default();
    let path = Path::new("spec");
    needs_selector(&spec, &path, errors);
    selected_template(&with_claims(&spec), &path, STATEFUL_SET, errors);
    let at = At::new(&spec, &path);
    match at.str("podManagementPolicy") {
        "" => errors.required(&at.child("podManagementPolicy"), ""),
        "OrderedReady" | "Parallel" => {}
        other => errors.invalid(&at.child("podManagementPolicy"), other, "must be 'OrderedReady' or 'Parallel'"),
    }
    at.non_negative(&["minReadySeconds"], errors);
    at.given("ordinals").into_iter().for_each(|ordinals| ordinals.non_negative(&["start"], errors));
    at.named("serviceName", names::dns1123_label, errors);
    if let Some(retention) = at.given("persistentVolumeClaimRetentionPolicy") {
        for field in ["whenDeleted", "whenScaled"] {
            retention.supported(field, &["Retain", "Delete"], errors);
        }
    }
    for claim in at.each("volumeClaimTemplates") {
        super::storage::claim_spec(&claim.given("spec").unwrap_or(At { value: &Value::Null, path: claim.child("spec") }), errors);
    }
    let strategy = at.given("updateStrategy").unwrap_or(At { value: &Value::Null, path: at.child("updateStrategy") });
    let rolling = strategy.given("rollingUpdate");
    match (strategy.str("type"), rolling) {
        ("", _) => errors.required(&strategy.path, ""),
        ("OnDelete", Some(rolling)) => {
            errors.invalid(&rolling.path, rolling.value.clone(), "only allowed for updateStrategy 'RollingUpdate'");
        }
        ("OnDelete", None) => {}
        ("RollingUpdate", rolling) => {
            if let Some(rolling) = rolling {
                rolling.non_negative(&["partition"], errors);
                percent_or_number(&rolling, "maxUnavailable", errors);
                if rolling.given("maxUnavailable").is_some() && amount(&rolling, "maxUnavailable") == 0 {
                    errors.invalid(&rolling.child("maxUnavailable"), rolling.value["maxUnavailable"].clone(), "cannot be 0");
                }
            }
        }
        _ => errors.invalid(&strategy.path, in_go(&strategy), "must be 'RollingUpdate' or 'OnDelete'"),
    }
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
            volumes.push(json!({"name": name, "persistentVolumeClaim": {"claimName": name}}));
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

pub fn controller_revision(revision: &Value, old: Option<&Value>, errors: &mut Errors) {
    match revision.get("data") {
        None | Some(Value::Null) => errors.required(&Path::new("data"), "data is mandatory"),
        Some(Value::Object(_)) => {}
        Some(_) => errors.required(&Path::new("data"), "data must be a valid JSON object"),
    }
    non_negative(revision, "revision", &Path::new(""), errors);
    if let Some(old) = old {
        immutable(revision, old, "/data", &Path::new("data"), errors);
    }
}

pub fn replication_controller(controller: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = controller.get("spec").unwrap_or(&Value::Null);
    At::new(spec, &path).non_negative(&["replicas", "minReadySeconds"], errors);
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
    lasting_template(template, &path.child("template"), "ReplicationController", errors);
}

fn selected_template(spec: &Value, path: &Path, words: Words, errors: &mut Errors) {
    non_negative(spec, "replicas", path, errors);
    let selector = spec.get("selector").filter(|s| s.is_object());
    let mut malformed = Errors::default();
    if let Some(selector) = selector {
        super::label_selector(selector, &path.child("selector"), &mut malformed);
    }
    let is_malformed = !malformed.is_empty();
    errors.extend(malformed);
    let parsed = selector.and_then(|s| serde_json::from_value::<LabelSelector>(s.clone()).ok());
    let is_everything = parsed.as_ref().is_some_and(|parsed| Selector::from_label_selector(parsed).is_everything());
    if let Some(selector) = selector.filter(|_| is_everything) {
        errors.invalid(&path.child("selector"), selector.clone(), &format!("empty selector is invalid for {}", words.set));
    }
    if let (true, Some(selector), Some(why)) = (is_malformed, selector, words.malformed) {
        return errors.invalid(&path.child("selector"), selector.clone(), why);
    }
    let Some(template) = spec.get("template").filter(|t| t.is_object()) else {
        errors.required(&path.child("template"), "");
        return;
    };
    let labels = crate::meta::labels(template);
    // No selector selects nothing.
    if !is_malformed && parsed.is_none_or(|p| !Selector::from_label_selector(&p).matches(&labels)) {
        let found = super::shown_labels(Some(template));
        errors.invalid(&path.child("template").child("metadata").child("labels"), found, "`selector` does not match template `labels`");
    }
    lasting_template(template, &path.child("template"), words.deadline, errors);
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

/// A template of Pods that are replaced when they end.
fn lasting_template(template: &Value, path: &Path, of: &str, errors: &mut Errors) {
    any_pod_template(template, path, errors);
    let path = path.child("spec");
    let spec = template.get("spec").unwrap_or(&Value::Null);
    let policy = text(spec, "restartPolicy");
    if matches!(policy, "OnFailure" | "Never") {
        errors.unsupported(&path.child("restartPolicy"), policy, &["Always"]);
    }
    if spec.get("activeDeadlineSeconds").is_some_and(|seconds| !seconds.is_null()) {
        errors.forbidden(&path.child("activeDeadlineSeconds"), &format!("activeDeadlineSeconds in {of} is not Supported"));
    }
}

fn percent_or_number(at: &At<'_>, field: &str, errors: &mut Errors) {
    let Some(value) = at.given(field) else { return };
    match value.value {
        Value::Number(number) if number.as_i64().is_some_and(|n| n < 0) => {
            errors.invalid(&value.path, value.value.clone(), "must be greater than or equal to 0");
        }
        Value::String(text) => match text.strip_suffix('%').and_then(|n| n.parse::<u32>().ok()) {
            None => errors.invalid(&value.path, value.value.clone(), "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')"),
            Some(percent) if percent > 100 => errors.invalid(&value.path, value.value.clone(), "must not be greater than 100%"),
            Some(_) => {}
        },
        _ => {}
    }
}

/// The number, or the percentage; 0 is what is not said, and what is neither.
fn amount(at: &At<'_>, field: &str) -> i64 {
    match at.value.get(field) {
        Some(Value::String(text)) => text.strip_suffix('%').and_then(|n| n.parse::<u32>().ok()).map_or(0, i64::from),
        _ => at.int(field),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

//! Pods and Pod templates.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{list, non_negative, one_of, port_number, sysctl, text};
use crate::field::{Errors, Path};
use crate::names;
use crate::quantity::Quantity;

pub fn pod(pod: &Value, old: Option<&Value>, errors: &mut Errors) {
    let path = Path::new("spec");
    let Some(spec) = pod.get("spec") else {
        errors.required(&path.child("containers"), "");
        return;
    };
    match old {
        None => pod_spec(spec, &path, errors),
        Some(old) => update(spec, old.get("spec").unwrap_or(&Value::Null), errors),
    }
}

/// A Pod's specification is fixed but for a few fields (ValidatePodUpdate).
fn update(spec: &Value, old: &Value, errors: &mut Errors) {
    for (index, gate) in list(spec, "schedulingGates").iter().enumerate() {
        if !list(old, "schedulingGates").iter().any(|known| known["name"] == gate["name"]) {
            let path = Path::new("spec").child("schedulingGates").index(index).child("name");
            errors.forbidden(&path, &format!("only deletion is allowed, but found new scheduling gate '{}'", text(gate, "name")));
        }
    }
    let mut expected = old.clone();
    if let (Some(expected), Some(spec)) = (expected.as_object_mut(), spec.as_object()) {
        for field in ["activeDeadlineSeconds", "terminationGracePeriodSeconds", "tolerations", "schedulingGates"] {
            match spec.get(field) {
                Some(value) => expected.insert(field.into(), value.clone()),
                None => expected.shift_remove(field),
            };
        }
        for containers in ["containers", "initContainers"] {
            let images = spec.get(containers).and_then(Value::as_array).into_iter().flatten().map(|c| c.get("image").cloned());
            let targets = expected.get_mut(containers).and_then(Value::as_array_mut).into_iter().flatten();
            for (target, image) in targets.zip(images) {
                target["image"] = image.unwrap_or_default();
            }
        }
    }
    if list(spec, "containers").len() != list(old, "containers").len() {
        errors.forbidden(&Path::new("spec").child("containers"), "pod updates may not add or remove containers");
    } else if *spec != expected {
        errors.forbidden(
            &Path::new("spec"),
            "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
        );
    }
}

/// Ephemeral containers are only ever added (KEP-277), with a name and an image, for a container that is there.
pub fn ephemeral(pod: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::new("spec").child("ephemeralContainers");
    let (spec, known) = (&pod["spec"], list(&old["spec"], "ephemeralContainers"));
    for before in known {
        let name = text(before, "name");
        match list(spec, "ephemeralContainers").iter().find(|now| now["name"] == before["name"]) {
            None => errors.forbidden(&path, &format!("existing ephemeral containers \"{name}\" may not be removed\n")),
            Some(now) if now != before => {
                errors.forbidden(&path, &format!("existing ephemeral containers \"{name}\" may not be changed\n"))
            }
            Some(_) => {}
        }
    }
    let others: Vec<&str> = ["containers", "initContainers"].iter().flat_map(|field| list(spec, field)).map(|c| text(c, "name")).collect();
    let mut seen = BTreeSet::new();
    for (index, one) in list(spec, "ephemeralContainers").iter().enumerate() {
        let path = path.index(index);
        let name = text(one, "name");
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        } else if !seen.insert(name) || others.contains(&name) {
            errors.duplicate(&path.child("name"), name);
        }
        if text(one, "image").is_empty() {
            errors.required(&path.child("image"), "");
        }
        let target = text(one, "targetContainerName");
        if !target.is_empty() && !others.contains(&target) {
            errors.not_found(&path.child("targetContainerName"), target);
        }
        for field in ["ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "resizePolicy"] {
            let is_said = one.get(field).is_some_and(|value| value.as_array().map_or(!value.is_null(), |list| !list.is_empty()));
            if is_said {
                errors.forbidden(&path.child(field), "cannot be set for an Ephemeral Container");
            }
        }
    }
}

pub(crate) fn pod_spec(spec: &Value, path: &Path, errors: &mut Errors) {
    let volumes = volumes(spec, &path.child("volumes"), errors);
    let mut seen = BTreeSet::new();
    if list(spec, "containers").is_empty() {
        errors.required(&path.child("containers"), "");
    }
    for field in ["containers", "initContainers"] {
        for (index, one) in list(spec, field).iter().enumerate() {
            let path = path.child(field).index(index);
            if !seen.insert(text(one, "name")) && !text(one, "name").is_empty() {
                errors.duplicate(&path.child("name"), text(one, "name"));
            }
            container(one, &volumes, &path, errors);
            if field == "initContainers" && text(one, "restartPolicy") != "Always" {
                for lasting in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                    if one.get(lasting).is_some_and(Value::is_object) {
                        errors.forbidden(&path.child(lasting), "may not be set for init containers without restartPolicy=Always");
                    }
                }
            }
        }
    }
    one_of(spec, "restartPolicy", &["Always", "OnFailure", "Never"], path, errors);
    one_of(spec, "dnsPolicy", &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"], path, errors);
    non_negative(spec, "terminationGracePeriodSeconds", path, errors);
    if let Some(seconds) = spec.get("activeDeadlineSeconds").and_then(Value::as_i64)
        && seconds < 1
    {
        errors.invalid(&path.child("activeDeadlineSeconds"), seconds, "must be between 1 and 2147483647, inclusive");
    }
    let selector = spec.get("nodeSelector");
    crate::meta::validate_labels(selector, &path.child("nodeSelector"), errors);
    sysctl::check(spec, path, errors);
    for (index, toleration) in list(spec, "tolerations").iter().enumerate() {
        tolerate(toleration, &path.child("tolerations").index(index), errors);
    }
    let node = text(spec, "nodeName");
    if !node.is_empty()
        && let Err(why) = names::subdomain(node)
    {
        errors.invalid(&path.child("nodeName"), node, &why);
    }
    let account = text(spec, "serviceAccountName");
    if !account.is_empty()
        && let Err(why) = names::subdomain(account)
    {
        errors.invalid(&path.child("serviceAccountName"), account, &why);
    }
    for (field, label) in [("hostname", names::dns1123_label as fn(&str) -> names::Verdict), ("subdomain", names::dns1123_label)] {
        let value = text(spec, field);
        if !value.is_empty()
            && let Err(why) = label(value)
        {
            errors.invalid(&path.child(field), value, &why);
        }
    }
}

fn volumes<'a>(spec: &'a Value, path: &Path, errors: &mut Errors) -> BTreeSet<&'a str> {
    let mut names_seen = BTreeSet::new();
    for (index, volume) in list(spec, "volumes").iter().enumerate() {
        let path = path.index(index);
        let name = text(volume, "name");
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        } else if let Err(why) = names::dns1123_label(name) {
            errors.invalid(&path.child("name"), name, &why);
        } else if !names_seen.insert(name) {
            errors.duplicate(&path.child("name"), name);
        }
        let sources = volume.as_object().map_or(0, |m| m.keys().filter(|k| *k != "name").count());
        if sources > 1 {
            errors.forbidden(&path, "may not specify more than 1 volume type");
        }
        if volume.get("secret").is_some_and(|s| text(s, "secretName").is_empty()) {
            errors.required(&path.child("secret").child("secretName"), "");
        }
        if volume.get("configMap").is_some_and(|s| text(s, "name").is_empty()) {
            errors.required(&path.child("configMap").child("name"), "");
        }
        if volume.get("hostPath").is_some_and(|s| text(s, "path").is_empty()) {
            errors.required(&path.child("hostPath").child("path"), "");
        }
    }
    names_seen
}

fn container(container: &Value, volumes: &BTreeSet<&str>, path: &Path, errors: &mut Errors) {
    let name = text(container, "name");
    if name.is_empty() {
        errors.required(&path.child("name"), "");
    } else if let Err(why) = names::dns1123_label(name) {
        errors.invalid(&path.child("name"), name, &why);
    }
    let image = text(container, "image");
    if image.is_empty() {
        errors.required(&path.child("image"), "");
    } else if image.trim() != image {
        errors.invalid(&path.child("image"), image, "must not have leading or trailing whitespace");
    }
    one_of(container, "imagePullPolicy", &["Always", "IfNotPresent", "Never"], path, errors);
    one_of(container, "terminationMessagePolicy", &["File", "FallbackToLogsOnError"], path, errors);
    ports(container, &path.child("ports"), errors);
    env(container, path, errors);
    for (index, mount) in list(container, "volumeMounts").iter().enumerate() {
        let path = path.child("volumeMounts").index(index);
        let name = text(mount, "name");
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        } else if !volumes.contains(name) {
            errors.not_found(&path.child("name"), name);
        }
        if text(mount, "mountPath").is_empty() {
            errors.required(&path.child("mountPath"), "");
        }
    }
    resources(container.get("resources").unwrap_or(&Value::Null), &path.child("resources"), errors);
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(found) = container.get(probe).filter(|p| p.is_object()) {
            self::probe(found, probe, &path.child(probe), errors);
        }
    }
}

fn ports(container: &Value, path: &Path, errors: &mut Errors) {
    let mut names_seen = BTreeSet::new();
    for (index, port) in list(container, "ports").iter().enumerate() {
        let path = path.index(index);
        let name = text(port, "name");
        if !name.is_empty() {
            if name.len() > 15 {
                errors.invalid(&path.child("name"), name, "must be no more than 15 characters");
            } else if !names_seen.insert(name) {
                errors.duplicate(&path.child("name"), name);
            }
        }
        match port.get("containerPort") {
            None | Some(Value::Null) => errors.required(&path.child("containerPort"), ""),
            Some(number) => port_number(number, &path.child("containerPort"), errors),
        }
        one_of(port, "protocol", &["TCP", "UDP", "SCTP"], &path, errors);
    }
}

fn env(container: &Value, path: &Path, errors: &mut Errors) {
    for (index, env) in list(container, "env").iter().enumerate() {
        let path = path.child("env").index(index);
        let name = text(env, "name");
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        } else if name.contains('=') || !name.chars().all(|c| c.is_ascii_graphic() || c == ' ') {
            errors.invalid(
                &path.child("name"),
                name,
                "a valid environment variable name must consist only of printable ASCII characters other than '='",
            );
        }
        let Some(from) = env.get("valueFrom").filter(|v| v.is_object()) else { continue };
        let path = path.child("valueFrom");
        if !text(env, "value").is_empty() {
            errors.invalid(&path, "", "may not be specified when `value` is not empty");
        }
        if from.as_object().is_none_or(|m| m.len() != 1) {
            errors.invalid(
                &path,
                "",
                "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
            );
        }
        for source in ["configMapKeyRef", "secretKeyRef"] {
            if from.get(source).is_some_and(|s| text(s, "key").is_empty()) {
                errors.required(&path.child(source).child("key"), "");
            }
        }
    }
}

fn resources(resources: &Value, path: &Path, errors: &mut Errors) {
    let amount = |kind: &str, name: &str| -> Option<Quantity> { resources.get(kind)?.get(name)?.as_str()?.parse().ok() };
    for kind in ["limits", "requests"] {
        for (name, value) in resources.get(kind).and_then(Value::as_object).into_iter().flatten() {
            if amount(kind, name).is_some_and(|q| q < Quantity::ZERO) {
                errors.invalid(&path.child(kind).key(name), value.clone(), "must be greater than or equal to 0");
            }
        }
    }
    for (name, value) in resources.get("requests").and_then(Value::as_object).into_iter().flatten() {
        if let (Some(request), Some(limit)) = (amount("requests", name), amount("limits", name))
            && request > limit
        {
            let limit = resources["limits"][name].as_str().unwrap_or_default();
            errors.invalid(&path.child("requests"), value.clone(), &format!("must be less than or equal to {name} limit of {limit}"));
        }
    }
}

fn probe(probe: &Value, which: &str, path: &Path, errors: &mut Errors) {
    let handlers: Vec<&str> =
        ["exec", "httpGet", "tcpSocket", "grpc"].into_iter().filter(|h| probe.get(h).is_some_and(Value::is_object)).collect();
    match handlers.as_slice() {
        [] => errors.required(path, "must specify a handler type"),
        [_] => {}
        [_, more @ ..] => more.iter().for_each(|h| errors.forbidden(&path.child(h), "may not specify more than 1 handler type")),
    }
    if probe.get("exec").is_some_and(|e| list(e, "command").is_empty()) {
        errors.required(&path.child("exec").child("command"), "");
    }
    for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        non_negative(probe, field, path, errors);
    }
    if which != "readinessProbe" && probe.get("successThreshold").and_then(Value::as_i64).is_some_and(|n| n > 1) {
        errors.invalid(&path.child("successThreshold"), probe["successThreshold"].clone(), "must be 1");
    }
}

fn tolerate(toleration: &Value, path: &Path, errors: &mut Errors) {
    let operator = match text(toleration, "operator") {
        "" => "Equal",
        other => other,
    };
    let key = text(toleration, "key");
    if key.is_empty() && operator != "Exists" {
        errors.invalid(
            &path.child("operator"),
            operator,
            "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
        );
    }
    if !["Equal", "Exists"].contains(&operator) {
        errors.unsupported(&path.child("operator"), operator, &["Equal", "Exists"]);
    }
    let effect = text(toleration, "effect");
    if !["", "NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
        errors.unsupported(&path.child("effect"), effect, &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(mut object: Value, expected: &str) {
        crate::defaults::pod::pod(&mut object);
        let mut errors = Errors::default();
        pod(&object, None, &mut errors);
        assert_eq!(errors.to_string(), expected);
    }

    #[test]
    fn explains_what_is_wrong() {
        check(json!({"spec": {"containers": []}}), "spec.containers: Required value");
        check(json!({"spec": {"containers": [{"name": "a"}]}}), "spec.containers[0].image: Required value");
        check(
            json!({"spec": {"containers": [{"name": "A", "image": "x", "imagePullPolicy": "Sometimes"}]}}).clone(),
            "[spec.containers[0].name: Invalid value: \"A\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?'), spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"IfNotPresent\", \"Never\"]",
        );
        check(
            json!({"spec": {"containers": [{"name": "a", "image": "x"}], "initContainers": [
                {"name": "i", "image": "x", "livenessProbe": {"exec": {"command": ["x"]}}},
                {"name": "s", "image": "x", "restartPolicy": "Always", "livenessProbe": {"exec": {"command": ["x"]}}}]}}),
            "spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
        );
        check(
            json!({"spec": {"containers": [{"name": "a", "image": "x", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}}),
            "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
        );
        check(
            json!({"spec": {"containers": [{"name": "a", "image": "x", "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}]}}),
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        );
    }
}

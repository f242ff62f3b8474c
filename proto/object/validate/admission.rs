//! Rules of webhook configurations, admission policies and their bindings (`apis/admissionregistration/validation`).

use serde_json::Value;

use super::{label_selector, list, text};
use crate::expression;
use crate::field::{Errors, Path, Problem};
use crate::names;

const FAILURE_POLICIES: &[&str] = &["Fail", "Ignore"];
const MATCH_POLICIES: &[&str] = &["Equivalent", "Exact"];
const SIDE_EFFECTS: &[&str] = &["None", "NoneOnDryRun"];
const REINVOCATION_POLICIES: &[&str] = &["IfNeeded", "Never"];
const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
/// What is deleted cannot be changed.
const MUTATING_OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "UPDATE"];
const SCOPES: &[&str] = &["*", "Cluster", "Namespaced"];
const REVIEW_VERSIONS: &[&str] = &["v1", "v1beta1"];
const REASONS: &[&str] = &["Forbidden", "Invalid", "RequestEntityTooLarge"];
const ACTIONS: &[&str] = &["Audit", "Deny", "Warn"];
const MATCH_CONDITIONS_MAX: usize = 64;

/// What an expression of a webhook may speak of, and one of a policy.
const WEBHOOK: &[&str] = &["object", "oldObject", "request", "authorizer"];
const POLICY: &[&str] = &["object", "oldObject", "request", "params", "namespaceObject", "authorizer", "variables"];
const AUDIT_ANNOTATIONS_MAX: usize = 20;

// === Webhooks ===

pub fn webhooks(configuration: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let webhooks = list(configuration, "webhooks");
    for (index, webhook) in webhooks.iter().enumerate() {
        let path = Path::new("webhooks").index(index);
        check_webhook(webhook, &path, errors);
        review_versions(webhook, &path.child("admissionReviewVersions"), errors);
        let name = text(webhook, "name");
        if !name.is_empty() && webhooks[..index].iter().any(|other| text(other, "name") == name) {
            errors.duplicate(&path.child("name"), name);
        }
    }
}

fn check_webhook(webhook: &Value, path: &Path, errors: &mut Errors) {
    let name = text(webhook, "name");
    if name.is_empty() {
        errors.required(&path.child("name"), "");
    } else if names::subdomain(name).is_err() {
        errors.judge(&path.child("name"), name, names::subdomain(name));
    } else if name.split('.').count() < 3 {
        errors.invalid(&path.child("name"), name, "should be a domain with at least three segments separated by dots");
    }
    for (index, rule) in list(webhook, "rules").iter().enumerate() {
        rule_with_operations(rule, &path.child("rules").index(index), errors);
    }
    if_said(webhook, "failurePolicy", FAILURE_POLICIES, path, errors);
    if_said(webhook, "matchPolicy", MATCH_POLICIES, path, errors);
    if webhook["sideEffects"].is_null() {
        errors.required(&path.child("sideEffects"), &format!("must specify one of {}", SIDE_EFFECTS.join(", ")));
    }
    if_said(webhook, "sideEffects", SIDE_EFFECTS, path, errors);
    if let Some(seconds) = webhook["timeoutSeconds"].as_i64().filter(|seconds| !(1..=30).contains(seconds)) {
        errors.invalid(&path.child("timeoutSeconds"), seconds, "the timeout value must be between 1 and 30 seconds");
    }
    for field in ["namespaceSelector", "objectSelector"] {
        label_selector(&webhook[field], &path.child(field), errors);
    }
    if_said(webhook, "reinvocationPolicy", REINVOCATION_POLICIES, path, errors);
    client(&webhook["clientConfig"], &path.child("clientConfig"), errors);
    match_conditions(webhook, WEBHOOK, path, errors);
}

fn client(client: &Value, path: &Path, errors: &mut Errors) {
    match (client["url"].as_str(), client["service"].is_object()) {
        (Some(url), false) => webhook_url(url, &path.child("url"), errors),
        (None, true) => webhook_service(&client["service"], &path.child("service"), errors),
        _ => errors.required(path, "exactly one of url or service is required"),
    }
}

fn webhook_url(url: &str, path: &Path, errors: &mut Errors) {
    const FORM: &str = "; desired format: https://host[/path]";
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    if scheme != "https" {
        errors.invalid(path, scheme, &format!("'https' is the only allowed URL scheme{FORM}"));
    }
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = if scheme.is_empty() { "" } else { rest.split('/').next().unwrap_or_default() };
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if host.is_empty() {
        errors.invalid(path, host, &format!("host must be specified{FORM}"));
    }
    if !user.is_empty() {
        errors.invalid(path, user, "user information is not permitted in the URL");
    }
    if !fragment.is_empty() {
        errors.invalid(path, fragment, "fragments are not permitted in the URL");
    }
    if !query.is_empty() {
        errors.invalid(path, query, "query parameters are not permitted in the URL");
    }
}

fn webhook_service(service: &Value, path: &Path, errors: &mut Errors) {
    for field in ["name", "namespace"] {
        if text(service, field).is_empty() {
            errors.required(&path.child(field), "");
        }
    }
    if let Some(port) = service["port"].as_i64().filter(|port| !(1..=65535).contains(port)) {
        errors.invalid(&path.child("port"), port, "port is not valid: must be between 1 and 65535, inclusive");
    }
    let way = text(service, "path");
    if way.is_empty() || way == "/" {
        return;
    }
    let path = path.child("path");
    if way == "//" {
        return errors.invalid(&path, way, "segment[0] may not be empty");
    }
    if !way.starts_with('/') {
        errors.invalid(&path, way, "must start with a '/'");
    }
    let inner: String = way.chars().skip(1).collect();
    for (index, step) in inner.strip_suffix('/').unwrap_or(&inner).split('/').enumerate() {
        if step.is_empty() {
            errors.invalid(&path, way, &format!("segment[{index}] may not be empty"));
        } else if let Err(why) = names::subdomain(step) {
            errors.invalid(&path, way, &format!("segment[{index}]: {why}"));
        }
    }
}

fn review_versions(webhook: &Value, path: &Path, errors: &mut Errors) {
    let versions: Vec<&str> = list(webhook, "admissionReviewVersions").iter().filter_map(Value::as_str).collect();
    if versions.is_empty() {
        return errors.required(path, &format!("must specify one of {}", REVIEW_VERSIONS.join(", ")));
    }
    for (index, version) in versions.iter().enumerate() {
        if versions[..index].contains(version) {
            errors.invalid(&path.index(index), *version, "duplicate version");
        } else {
            errors.judge(&path.index(index), *version, names::dns1035_label(version));
        }
    }
    if !versions.iter().any(|version| REVIEW_VERSIONS.contains(version)) {
        errors.invalid(path, Value::from(versions), &format!("must include at least one of {}", REVIEW_VERSIONS.join(", ")));
    }
}

// === Policies ===

pub fn validating_policy(policy: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let (spec, path) = (&policy["spec"], Path::new("spec"));
    check_policy(spec, &path, errors);
    let (validations, annotations) = (list(spec, "validations"), list(spec, "auditAnnotations"));
    if validations.is_empty() && annotations.is_empty() {
        for field in ["validations", "auditAnnotations"] {
            errors.required(&path.child(field), "validations or auditAnnotations must contain at least one item");
        }
    }
    for (index, validation) in validations.iter().enumerate() {
        check_validation(validation, &path.child("validations").index(index), errors);
    }
    audit_annotations(policy, annotations, &path.child("auditAnnotations"), errors);
}

pub fn mutating_policy(policy: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let (spec, path) = (&policy["spec"], Path::new("spec"));
    check_policy(spec, &path, errors);
    mutating_operations(&spec["matchConstraints"], &path.child("matchConstraints"), errors);
    if list(spec, "mutations").is_empty() {
        errors.required(&path.child("mutations"), "mutations must contain at least one item");
    }
    for (index, mutation) in list(spec, "mutations").iter().enumerate() {
        check_mutation(mutation, &path.child("mutations").index(index), errors);
    }
    super::one_of(spec, "reinvocationPolicy", REINVOCATION_POLICIES, &path, errors);
}

/// What both kinds of policies have.
fn check_policy(spec: &Value, path: &Path, errors: &mut Errors) {
    super::one_of(spec, "failurePolicy", FAILURE_POLICIES, path, errors);
    if spec["paramKind"].is_object() {
        param_kind(&spec["paramKind"], &path.child("paramKind"), errors);
    }
    let constraints = path.child("matchConstraints");
    if spec["matchConstraints"].is_object() {
        match_resources(&spec["matchConstraints"], &constraints, errors);
        if list(&spec["matchConstraints"], "resourceRules").is_empty() {
            errors.required(&constraints.child("resourceRules"), "");
        }
    } else {
        errors.required(&constraints, "");
    }
    match_conditions(spec, POLICY, path, errors);
    for (index, variable) in list(spec, "variables").iter().enumerate() {
        let path = path.child("variables").index(index);
        match text(variable, "name") {
            name if name.trim().is_empty() => errors.required(&path.child("name"), "name is not specified"),
            name if !expression::is_identifier(name) => errors.invalid(&path.child("name"), name, "must be a valid CEL identifier"),
            _ => {}
        }
        cel(variable, POLICY, "expression", "expression is not specified", &path, errors);
    }
}

fn check_validation(validation: &Value, path: &Path, errors: &mut Errors) {
    cel(validation, POLICY, "expression", "expression is not specified", path, errors);
    let has = |field: &str| !text(validation, field).is_empty();
    if has("messageExpression") {
        if text(validation, "messageExpression").trim().is_empty() {
            errors.invalid(&path.child("messageExpression"), text(validation, "messageExpression"), "must be non-empty if specified");
        } else {
            cel(validation, POLICY, "messageExpression", "", path, errors);
        }
    }
    let message = text(validation, "message");
    if has("message") && message.trim().is_empty() {
        errors.invalid(&path.child("message"), message, "must be non-empty if specified");
    } else if message.trim().contains(['\n', '\r']) {
        errors.invalid(&path.child("message"), message, "must not contain line breaks");
    }
    if_said(validation, "reason", REASONS, path, errors);
}

fn audit_annotations(policy: &Value, annotations: &[Value], path: &Path, errors: &mut Errors) {
    if annotations.len() > AUDIT_ANNOTATIONS_MAX {
        errors.invalid(path, annotations.to_vec(), &format!("must not have more than {AUDIT_ANNOTATIONS_MAX} auditAnnotations"));
    }
    for (index, annotation) in annotations.iter().enumerate() {
        let path = path.index(index);
        let (key, name) = (text(annotation, "key"), crate::meta::name(policy));
        if name.is_empty() {
            errors.invalid(&path.child("key"), key, "requires metadata.name be non-empty");
        } else {
            errors.judge(&path.child("key"), format!("{name}/{key}"), names::qualified_name(&format!("{name}/{key}")));
        }
        cel(annotation, POLICY, "valueExpression", "valueExpression is not specified", &path, errors);
        if annotations[..index].iter().any(|other| text(other, "key") == key) {
            errors.duplicate(&path.child("key"), key);
        }
    }
}

fn check_mutation(mutation: &Value, path: &Path, errors: &mut Errors) {
    let (wanted, other) = match text(mutation, "patchType") {
        "" => return errors.required(&path.child("patchType"), ""),
        "JSONPatch" => ("jsonPatch", "applyConfiguration"),
        "ApplyConfiguration" => ("applyConfiguration", "jsonPatch"),
        unknown => return errors.unsupported(&path.child("patchType"), unknown, &["ApplyConfiguration", "JSONPatch"]),
    };
    let kind = text(mutation, "patchType");
    if mutation[wanted].is_object() {
        cel(&mutation[wanted], POLICY, "expression", "", &path.child(wanted), errors);
    } else {
        errors.required(&path.child(wanted), &format!("must be specified when patchType is {kind}"));
    }
    if mutation[other].is_object() {
        errors.invalid(&path.child(other), format!("{{{other}}}"), &format!("must not be specified when patchType is {kind}"));
    }
}

fn param_kind(kind: &Value, path: &Path, errors: &mut Errors) {
    let stated = text(kind, "apiVersion");
    let at = path.child("apiVersion");
    let (group, version) = stated.split_once('/').unwrap_or(("", stated));
    if stated.is_empty() {
        errors.required(&at, "");
    } else if version.contains('/') {
        errors.invalid(&at, stated, &format!("unexpected GroupVersion string: {stated}"));
    } else {
        if !group.is_empty() {
            errors.judge(&at, group, names::subdomain(group));
        }
        if version.is_empty() {
            errors.invalid(&at, stated, "version must be specified");
        } else {
            errors.judge(&at, version, names::dns1035_label(version));
        }
    }
    let name = text(kind, "kind");
    if name.is_empty() {
        errors.required(&path.child("kind"), "");
    } else if let Err(why) = names::dns1035_label(&name.to_lowercase()) {
        errors.invalid(&path.child("kind"), name, &format!("may have mixed case, but should otherwise match: {why}"));
    }
}

// === Bindings ===

pub fn validating_binding(binding: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let (spec, path) = (&binding["spec"], Path::new("spec"));
    check_binding(spec, &path, errors);
    let (actions, path) = (list(spec, "validationActions"), path.child("validationActions"));
    for (index, action) in actions.iter().enumerate() {
        if !ACTIONS.iter().any(|known| action == known) {
            errors.unsupported(&path.index(index), action.clone(), ACTIONS);
        }
        if actions[..index].contains(action) {
            errors.duplicate(&path.index(index), action.clone());
        }
    }
    let says = |wanted: &str| actions.iter().any(|action| action == wanted);
    if says("Deny") && says("Warn") {
        let why = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers \
                   serves no purpose)";
        errors.invalid(&path, actions.to_vec(), why);
    }
    if actions.is_empty() {
        errors.required(&path, "");
    }
}

pub fn mutating_binding(binding: &Value, _old: Option<&Value>, errors: &mut Errors) {
    let (spec, path) = (&binding["spec"], Path::new("spec"));
    check_binding(spec, &path, errors);
    mutating_operations(&spec["matchResources"], &path.child("matchResources"), errors);
}

fn check_binding(spec: &Value, path: &Path, errors: &mut Errors) {
    let name = text(spec, "policyName");
    if name.is_empty() {
        errors.required(&path.child("policyName"), "");
    } else {
        errors.judge(&path.child("policyName"), name, names::subdomain(name));
    }
    if spec["paramRef"].is_object() {
        param_reference(&spec["paramRef"], &path.child("paramRef"), errors);
    }
    if spec["matchResources"].is_object() {
        match_resources(&spec["matchResources"], &path.child("matchResources"), errors);
    }
}

fn param_reference(reference: &Value, path: &Path, errors: &mut Errors) {
    match (text(reference, "name").is_empty(), reference["selector"].is_object()) {
        (true, false) => errors.required(path, "one of name or selector must be specified"),
        (false, true) => {
            errors.forbidden(&path.child("name"), "name and selector are mutually exclusive");
            errors.forbidden(&path.child("selector"), "name and selector are mutually exclusive");
        }
        _ => {}
    }
    label_selector(&reference["selector"], &path.child("selector"), errors);
    super::one_of(reference, "parameterNotFoundAction", &["Deny", "Allow"], path, errors);
}

// === What they have in common ===

fn match_resources(resources: &Value, path: &Path, errors: &mut Errors) {
    super::one_of(resources, "matchPolicy", MATCH_POLICIES, path, errors);
    for field in ["namespaceSelector", "objectSelector"] {
        if resources[field].is_object() {
            label_selector(&resources[field], &path.child(field), errors);
        } else {
            errors.required(&path.child(field), "");
        }
    }
    for field in ["resourceRules", "excludeResourceRules"] {
        for (index, rule) in list(resources, field).iter().enumerate() {
            let path = path.child(field).index(index);
            let names = list(rule, "resourceNames");
            for (at, name) in names.iter().enumerate().filter(|(at, name)| names[..*at].contains(name)) {
                errors.duplicate(&path.child("resourceNames").index(at), name.clone());
            }
            rule_with_operations(rule, &path, errors);
        }
    }
}

fn mutating_operations(resources: &Value, path: &Path, errors: &mut Errors) {
    let operations = list(resources, "resourceRules").iter().flat_map(|rule| list(rule, "operations"));
    for operation in operations.filter(|operation| !MUTATING_OPERATIONS.iter().any(|known| operation == known)) {
        errors.unsupported(&path.child("resourceRules").child("operations"), operation.clone(), MUTATING_OPERATIONS);
    }
}

fn match_conditions(holder: &Value, declared: &[&str], path: &Path, errors: &mut Errors) {
    let (conditions, path) = (list(holder, "matchConditions"), path.child("matchConditions"));
    if conditions.len() > MATCH_CONDITIONS_MAX {
        errors.add(&path, Problem::TooMany { found: conditions.len(), most: MATCH_CONDITIONS_MAX });
    }
    for (index, condition) in conditions.iter().enumerate() {
        let path = path.index(index);
        cel(condition, declared, "expression", "", &path, errors);
        let name = text(condition, "name");
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        } else {
            errors.judge(&path.child("name"), name, names::qualified_name(name));
        }
        if !name.is_empty() && conditions[..index].iter().any(|other| text(other, "name") == name) {
            errors.duplicate(&path.child("name"), name);
        }
    }
}

/// An expression that must be there and can be compiled.
fn cel(holder: &Value, declared: &[&str], field: &str, missing: &str, path: &Path, errors: &mut Errors) {
    let source = text(holder, field);
    if source.trim().is_empty() {
        errors.required(&path.child(field), missing);
    } else if let Some(why) = expression::compile(source).err().or_else(|| expression::undeclared(source, declared)) {
        errors.invalid(&path.child(field), source, &format!("compilation failed: {why}"));
    }
}

fn rule_with_operations(rule: &Value, path: &Path, errors: &mut Errors) {
    let operations = list(rule, "operations");
    wildcard_alone(rule, "operations", "operations", path, errors);
    for (index, operation) in operations.iter().enumerate() {
        if !OPERATIONS.iter().any(|known| operation == known) {
            errors.unsupported(&path.child("operations").index(index), operation.clone(), OPERATIONS);
        }
    }
    wildcard_alone(rule, "apiGroups", "API groups", path, errors);
    wildcard_alone(rule, "apiVersions", "API versions", path, errors);
    for (index, _) in list(rule, "apiVersions").iter().enumerate().filter(|(_, version)| *version == "") {
        errors.required(&path.child("apiVersions").index(index), "");
    }
    resources(list(rule, "resources"), &path.child("resources"), errors);
    if_said(rule, "scope", SCOPES, path, errors);
}

fn wildcard_alone(rule: &Value, field: &str, what: &str, path: &Path, errors: &mut Errors) {
    let values = list(rule, field);
    if values.is_empty() {
        errors.required(&path.child(field), "");
    } else if values.len() > 1 && values.iter().any(|value| value == "*") {
        errors.invalid(&path.child(field), values.to_vec(), &format!("if '*' is present, must not specify other {what}"));
    }
}

/// Resources with subresources: `pods`, `pods/log`, `pods/*`, `*/status`, `*`, `*/*`.
fn resources(resources: &[Value], path: &Path, errors: &mut Errors) {
    if resources.is_empty() {
        errors.required(path, "");
    }
    let (mut all_of, mut for_all): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    let mut plain = false;
    for (index, stated) in resources.iter().enumerate() {
        let stated = stated.as_str().unwrap_or_default();
        if stated.is_empty() {
            errors.required(&path.index(index), "");
            continue;
        }
        let Some((resource, sub)) = stated.split_once('/') else {
            plain = stated != "*";
            continue;
        };
        if all_of.contains(&resource) {
            errors.invalid(&path.index(index), stated, &format!("if '{resource}/*' is present, must not specify {stated}"));
        }
        if for_all.contains(&sub) {
            errors.invalid(&path.index(index), stated, &format!("if '*/{sub}' is present, must not specify {stated}"));
        }
        if sub == "*" {
            all_of.push(resource);
        }
        if resource == "*" {
            for_all.push(sub);
        }
    }
    let says = |wanted: &str| resources.iter().any(|resource| resource == wanted);
    if resources.len() > 1 && says("*/*") {
        errors.invalid(path, resources.to_vec(), "if '*/*' is present, must not specify other resources");
    }
    if says("*") && plain {
        errors.invalid(path, resources.to_vec(), "if '*' is present, must not specify other resources without subresources");
    }
}

/// One of a closed set, or nothing.
fn if_said(value: &Value, field: &str, supported: &[&str], path: &Path, errors: &mut Errors) {
    if let Some(found) = value[field].as_str().filter(|found| !supported.contains(found)) {
        errors.unsupported(&path.child(field), found, supported);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(check: fn(&Value, Option<&Value>, &mut Errors), object: Value) -> String {
        let mut errors = Errors::default();
        check(&object, None, &mut errors);
        errors.to_string()
    }

    fn webhook(change: impl FnOnce(&mut Value)) -> Value {
        let mut hook = json!({
            "name": "a.b.c", "sideEffects": "None", "admissionReviewVersions": ["v1"], "clientConfig": {"url": "https://h/x"},
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "scope": "*"}],
        });
        change(&mut hook);
        json!({"webhooks": [hook]})
    }

    #[test]
    fn webhooks_are_told_what_is_wrong_with_them() {
        let cases: [(&str, Value, &str); 11] = [
            (
                "name",
                json!("b.c"),
                r#"webhooks[0].name: Invalid value: "b.c": should be a domain with at least three segments separated by dots"#,
            ),
            ("sideEffects", json!(null), "webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun"),
            (
                "sideEffects",
                json!("Some"),
                r#"webhooks[0].sideEffects: Unsupported value: "Some": supported values: "None", "NoneOnDryRun""#,
            ),
            (
                "timeoutSeconds",
                json!(31),
                "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
            ),
            ("clientConfig", json!({}), "webhooks[0].clientConfig: Required value: exactly one of url or service is required"),
            (
                "clientConfig",
                json!({"url": "http://h"}),
                r#"webhooks[0].clientConfig.url: Invalid value: "http": 'https' is the only allowed URL scheme; desired format: https://host[/path]"#,
            ),
            (
                "clientConfig",
                json!({"service": {"name": "s", "namespace": "n", "port": 443, "path": "/a//b"}}),
                r#"webhooks[0].clientConfig.service.path: Invalid value: "/a//b": segment[1] may not be empty"#,
            ),
            ("admissionReviewVersions", json!([]), "webhooks[0].admissionReviewVersions: Required value: must specify one of v1, v1beta1"),
            (
                "rules",
                json!([{"operations": ["*", "CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["*/*", "pods"]}]),
                concat!(
                    r#"[webhooks[0].rules[0].operations: Invalid value: ["*","CREATE"]: if '*' is present, must not specify other operations, "#,
                    r#"webhooks[0].rules[0].resources: Invalid value: ["*/*","pods"]: if '*/*' is present, must not specify other resources]"#
                ),
            ),
            (
                "objectSelector",
                json!({"matchExpressions": [{"key": "a", "operator": "In"}]}),
                "webhooks[0].objectSelector.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
            ),
            ("matchConditions", json!([{"name": "c", "expression": ""}]), "webhooks[0].matchConditions[0].expression: Required value"),
        ];
        assert_eq!(said(webhooks, webhook(|_| {})), "[]");
        for (field, value, expected) in cases {
            assert_eq!(said(webhooks, webhook(|hook| hook[field] = value)), expected);
        }
        let bad = webhook(|hook| hook["matchConditions"] = json!([{"name": "c", "expression": "... [] bad expression"}]));
        assert!(
            said(webhooks, bad).contains("matchConditions[0].expression: Invalid value: \"... [] bad expression\": compilation failed")
        );
    }

    #[test]
    fn policies_and_bindings_are_told_what_is_wrong_with_them() {
        let constraints = json!({"matchPolicy": "Exact", "namespaceSelector": {}, "objectSelector": {}, "resourceRules": [
            {"operations": ["DELETE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]});
        let policy = json!({"spec": {"failurePolicy": "Fail", "matchConstraints": constraints, "reinvocationPolicy": "Never",
            "variables": [{"name": "in", "expression": "1"}], "mutations": [{"patchType": "JSONPatch", "applyConfiguration": {}}]}});
        let expected = concat!(
            r#"[spec.variables[0].name: Invalid value: "in": must be a valid CEL identifier, "#,
            r#"spec.matchConstraints.resourceRules.operations: Unsupported value: "DELETE": supported values: "*", "CONNECT", "CREATE", "UPDATE", "#,
            "spec.mutations[0].jsonPatch: Required value: must be specified when patchType is JSONPatch, ",
            r#"spec.mutations[0].applyConfiguration: Invalid value: "{applyConfiguration}": must not be specified when patchType is JSONPatch]"#
        );
        assert_eq!(said(mutating_policy, policy), expected);
        let binding =
            json!({"spec": {"policyName": "p", "validationActions": ["Deny", "Deny"], "paramRef": {"parameterNotFoundAction": "Deny"}}});
        let expected = concat!(
            "[spec.paramRef: Required value: one of name or selector must be specified, ",
            r#"spec.validationActions[1]: Duplicate value: "Deny"]"#
        );
        assert_eq!(said(validating_binding, binding), expected);
    }
}

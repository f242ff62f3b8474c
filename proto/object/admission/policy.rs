//! ValidatingAdmissionPolicies: rules in CEL about requests, in force through bindings (KEP-3488).

use serde_json::{Value, json};

use super::dynamic::{Attributes, Objects, conditions_hold, holds};
use crate::expression::{self, Cel, VISITS_MAX, cost, to_cel};
use crate::{Resource, meta};

/// A rule that a request breaks, or that cannot be told of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Violation {
    pub policy: String,
    pub binding: String,
    pub message: String,
    pub reason: String,
    /// Deny, Warn, Audit.
    pub actions: Vec<String>,
}

/// Everything that is in force, and where parameters are found: by kind (`apiVersion`, `kind`), namespace (empty for all
/// of the cluster's) and name (empty for all).
pub struct InForce<'a> {
    pub policies: &'a [Value],
    pub bindings: &'a [Value],
    pub parameters: &'a dyn Fn(&str, &str, &str) -> Vec<Value>,
}

/// What all policies say of a request.
pub fn violations(in_force: &InForce<'_>, attributes: &Attributes<'_>, objects: Objects<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    if attributes.resource.group == "admissionregistration.k8s.io" {
        return found;
    }
    for policy in in_force.policies {
        let spec = &policy["spec"];
        if !is_meant(&spec["matchConstraints"], attributes, objects) {
            continue;
        }
        let bound = |binding: &&Value| binding["spec"]["policyName"] == meta::name(policy);
        for binding in in_force.bindings.iter().filter(bound) {
            let resources = &binding["spec"]["matchResources"];
            if resources.is_object() && !is_meant(resources, attributes, objects) {
                continue;
            }
            let judge = Judge { policy, binding, attributes, objects };
            match judge.parameters(in_force.parameters) {
                Ok(all) => all.iter().for_each(|parameters| judge.check(parameters, &mut found)),
                Err(why) => judge.fail(&why, &mut found),
            }
        }
    }
    found
}

/// The version in which a policy sees the objects of a request that it is about.
pub fn seen_by<'a>(policy: &Value, attributes: &Attributes<'a>) -> Option<&'a Resource> {
    let constraints = &policy["spec"]["matchConstraints"];
    let rules = &constraints["resourceRules"];
    if rules.as_array().is_none_or(Vec::is_empty) {
        return Some(attributes.resource);
    }
    attributes.version_in(rules, &constraints["matchPolicy"])
}

/// `matchConstraints` or `matchResources`: without rules all resources are meant.
pub(super) fn is_meant(constraints: &Value, attributes: &Attributes<'_>, objects: Objects<'_>) -> bool {
    let rules = &constraints["resourceRules"];
    let is_in = |rules: &Value| attributes.version_in(rules, &constraints["matchPolicy"]).is_some();
    (rules.as_array().is_none_or(Vec::is_empty) || is_in(rules))
        && !is_in(&constraints["excludeResourceRules"])
        && attributes.is_selected(constraints, objects)
}

/// A policy in force through one binding, and what it is about.
pub(super) struct Judge<'a> {
    pub(super) policy: &'a Value,
    pub(super) binding: &'a Value,
    pub(super) attributes: &'a Attributes<'a>,
    pub(super) objects: Objects<'a>,
}

// === impl Judge ===

impl Judge<'_> {
    /// The parameters that the binding names, one or several; null for a policy that has none.
    pub(super) fn parameters(&self, find: &dyn Fn(&str, &str, &str) -> Vec<Value>) -> Result<Vec<Value>, String> {
        let kind = &self.policy["spec"]["paramKind"];
        if !kind.is_object() {
            return Ok(vec![Value::Null]);
        }
        let reference = &self.binding["spec"]["paramRef"];
        if !reference.is_object() {
            return Ok(vec![Value::Null]);
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
        let namespace = Some(text(&reference["namespace"])).filter(|n| !n.is_empty()).unwrap_or_else(|| self.attributes.namespace.into());
        let named = format!("{}/{}", text(&kind["apiVersion"]), text(&kind["kind"]));
        let mut found = find(&named, &namespace, &text(&reference["name"]));
        if let Ok(selector) = serde_json::from_value(reference["selector"].clone()) {
            let selector = crate::selector::Selector::from_label_selector(&selector);
            found.retain(|object| !reference["selector"].is_object() || selector.matches(&meta::labels(object)));
        }
        match (found.is_empty(), reference["parameterNotFoundAction"].as_str()) {
            (true, Some("Allow")) => Ok(Vec::new()),
            (true, _) => Err("failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction".into()),
            (false, _) => Ok(found),
        }
    }

    fn check(&self, parameters: &Value, found: &mut Vec<Violation>) {
        let mut variables = self.attributes.variables(self.objects);
        variables.push(("params", to_cel(&Value::Null, parameters)));
        match conditions_hold(&self.policy["spec"]["matchConditions"], &variables) {
            Ok(true) => {}
            Ok(false) => return,
            Err(why) => return self.fail(&why, found),
        }
        variables.push(("variables", self.composed(&variables)));
        for validation in self.policy["spec"]["validations"].as_array().into_iter().flatten() {
            let source = validation["expression"].as_str().unwrap_or_default();
            if cost(source, self.objects.new) > VISITS_MAX {
                self.fail(&format!("expression '{source}' resulted in error: actual cost limit exceeded"), found);
                continue;
            }
            match holds(source, &variables) {
                Ok(true) => {}
                Ok(false) => found.push(self.violation(message(validation, &variables), validation["reason"].as_str())),
                Err(why) => self.fail(&format!("expression '{source}' resulted in error: {why}"), found),
            }
        }
    }

    /// `variables.NAME`: each may use those before it; one that fails is not there.
    pub(super) fn composed(&self, variables: &[(&'static str, Cel)]) -> Cel {
        let mut composed = json!({});
        for variable in self.policy["spec"]["variables"].as_array().into_iter().flatten() {
            let (Some(name), Some(source)) = (variable["name"].as_str(), variable["expression"].as_str()) else { continue };
            let mut known = variables.to_vec();
            known.push(("variables", to_cel(&Value::Null, &composed)));
            let value = expression::compile(source).ok().and_then(|program| expression::evaluate(&program, &known).ok());
            if let Some(value) = value.as_ref().and_then(expression::to_json) {
                composed[name] = value;
            }
        }
        to_cel(&Value::Null, &composed)
    }

    /// What cannot be told is a violation, unless the policy ignores failures.
    fn fail(&self, why: &str, found: &mut Vec<Violation>) {
        if self.policy["spec"]["failurePolicy"] != "Ignore" {
            found.push(self.violation(why.into(), None));
        }
    }

    fn violation(&self, message: String, reason: Option<&str>) -> Violation {
        let actions = self.binding["spec"]["validationActions"].as_array();
        Violation {
            policy: meta::name(self.policy).into(),
            binding: meta::name(self.binding).into(),
            message,
            reason: reason.unwrap_or("Invalid").into(),
            actions: actions.into_iter().flatten().filter_map(|action| action.as_str().map(String::from)).collect(),
        }
    }
}

fn message(validation: &Value, variables: &[(&str, Cel)]) -> String {
    let text = |field: &str| validation[field].as_str().map(str::trim).filter(|text| !text.is_empty());
    let computed = text("messageExpression").and_then(|source| expression::compile(source).ok());
    let computed = computed.and_then(|program| match expression::evaluate(&program, variables) {
        Ok(Cel::String(text)) if !text.trim().is_empty() && !text.contains('\n') => Some(text.trim().to_string()),
        _ => None,
    });
    computed
        .or_else(|| text("message").map(String::from))
        .unwrap_or_else(|| format!("failed expression: {}", text("expression").unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::super::dynamic::tests::creation;
    use super::*;

    fn check(policy: Value, binding: Value, expected: &[&str]) {
        let rules = json!([{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]);
        let mut full = json!({"metadata": {"name": "p"}, "spec": {"matchConstraints": {"resourceRules": rules}}});
        policy.as_object().into_iter().flatten().for_each(|(field, value)| full["spec"][field] = value.clone());
        let mut bound = json!({"metadata": {"name": "b"}, "spec": {"policyName": "p", "validationActions": ["Deny"]}});
        binding.as_object().into_iter().flatten().for_each(|(field, value)| bound["spec"][field] = value.clone());
        let parameters = |kind: &str, namespace: &str, name: &str| {
            if (kind, namespace, name) == ("v1/ConfigMap", "n", "limits") { vec![json!({"data": {"most": "2"}})] } else { Vec::new() }
        };
        let object = json!({"metadata": {"name": "x"}, "spec": {"containers": [{"image": "a"}, {"image": "b"}, {"image": "c"}]}});
        let in_force = InForce { policies: &[full], bindings: &[bound], parameters: &parameters };
        let found = violations(&in_force, &creation("pods"), Objects { new: &object, old: &Value::Null });
        assert_eq!(found.iter().map(|v| v.message.as_str()).collect::<Vec<_>>(), expected);
    }

    fn rule(expression: &str) -> Value {
        json!({"validations": [{"expression": expression}]})
    }

    #[test]
    fn says_which_rules_are_broken() {
        check(rule("size(object.spec.containers) < 5"), json!({}), &[]);
        check(rule("size(object.spec.containers) < 2"), json!({}), &["failed expression: size(object.spec.containers) < 2"]);
        let told = json!({"variables": [{"name": "count", "expression": "size(object.spec.containers)"}],
            "validations": [{"expression": "variables.count < 2", "messageExpression": "'there are ' + string(variables.count)"}]});
        check(told, json!({}), &["there are 3"]);
        check(rule("object.spec.nothing"), json!({}), &["expression 'object.spec.nothing' resulted in error: no such key: nothing"]);
        let mut ignored = rule("object.spec.nothing");
        ignored["failurePolicy"] = "Ignore".into();
        check(ignored, json!({}), &[]);
    }

    #[test]
    fn bindings_narrow_and_bring_parameters() {
        check(rule("false"), json!({"matchResources": {"namespaceSelector": {"matchLabels": {"team": "b"}}}}), &[]);
        check(rule("false"), json!({"policyName": "another"}), &[]);
        let mut with = rule("size(object.spec.containers) <= int(params.data.most)");
        with["paramKind"] = json!({"apiVersion": "v1", "kind": "ConfigMap"});
        let why = "failed expression: size(object.spec.containers) <= int(params.data.most)";
        check(with.clone(), json!({"paramRef": {"name": "limits", "parameterNotFoundAction": "Deny"}}), &[why]);
        check(with.clone(), json!({"paramRef": {"name": "gone", "parameterNotFoundAction": "Allow"}}), &[]);
        let why = "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction";
        check(with, json!({"paramRef": {"name": "gone", "parameterNotFoundAction": "Deny"}}), &[why]);
    }
}

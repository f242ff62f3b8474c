//! MutatingAdmissionPolicies: changes of objects in CEL, in force through bindings (KEP-3962).
//!
//! An expression makes an `Object{…}`, which is merged into the object as server-side apply merges, or a list of
//! `JSONPatch{…}`. Such literals are maps here: their fields are not checked against a schema before they are merged.

use serde_json::Value;

use super::dynamic::{Attributes, Objects, conditions_hold};
use super::policy::{InForce, Judge, is_meant};
use crate::expression::{self, Failure, VISITS_MAX, cost, to_cel};
use crate::{managed, meta, patch};

/// Why a request is refused: a policy could not be carried out.
#[derive(Clone, Debug, PartialEq)]
pub struct Failed {
    pub policy: String,
    pub binding: String,
    pub why: String,
}

/// Lets policies change the object; with `again`, only those that want to see what others made of it since.
pub fn mutate(in_force: &InForce<'_>, attributes: &Attributes<'_>, object: &mut Value, old: &Value, again: bool) -> Result<(), Failed> {
    if attributes.resource.group == "admissionregistration.k8s.io" || object.is_null() {
        return Ok(());
    }
    for policy in in_force.policies {
        let spec = &policy["spec"];
        let is_due = !again || spec["reinvocationPolicy"] == "IfNeeded";
        if !is_due || !is_meant(&spec["matchConstraints"], attributes, Objects { new: object, old }) {
            continue;
        }
        for binding in in_force.bindings.iter().filter(|binding| binding["spec"]["policyName"] == meta::name(policy)) {
            let resources = &binding["spec"]["matchResources"];
            if resources.is_object() && !is_meant(resources, attributes, Objects { new: object, old }) {
                continue;
            }
            let changed = changed(policy, binding, in_force, attributes, object, old);
            match changed {
                Ok(new) => *object = new,
                Err(_) if spec["failurePolicy"] == "Ignore" => {}
                Err(why) => return Err(Failed { policy: meta::name(policy).into(), binding: meta::name(binding).into(), why }),
            }
        }
    }
    Ok(())
}

/// What one policy makes of the object through one binding, with each of its parameters in turn.
fn changed(
    policy: &Value,
    binding: &Value,
    in_force: &InForce<'_>,
    attributes: &Attributes<'_>,
    object: &Value,
    old: &Value,
) -> Result<Value, String> {
    let mut current = object.clone();
    let judge = Judge { policy, binding, attributes, objects: Objects { new: object, old } };
    for parameters in judge.parameters(in_force.parameters)? {
        for mutation in policy["spec"]["mutations"].as_array().into_iter().flatten() {
            let objects = Objects { new: &current, old };
            let judge = Judge { policy, binding, attributes, objects };
            let mut variables = attributes.variables(objects);
            variables.push(("params", to_cel(&Value::Null, &parameters)));
            if !conditions_hold(&policy["spec"]["matchConditions"], &variables)? {
                break;
            }
            variables.push(("variables", judge.composed(&variables)));
            let kind = mutation["patchType"].as_str().unwrap_or_default();
            let source = mutation[if kind == "JSONPatch" { "jsonPatch" } else { "applyConfiguration" }]["expression"].as_str();
            let source = source.ok_or("the mutation has no expression")?;
            let made = evaluate(source, &variables, &current)?;
            current = if kind == "JSONPatch" { patched(&current, &made, attributes)? } else { applied(&current, &made, attributes)? };
        }
    }
    Ok(current)
}

fn evaluate(source: &str, variables: &[(&'static str, expression::Cel)], object: &Value) -> Result<Value, String> {
    let failed = |why: &str| format!("expression '{source}' resulted in error: {why}");
    if cost(source, object) > VISITS_MAX {
        return Err(failed("actual cost limit exceeded"));
    }
    let program = expression::compile(&literals_as_maps(source)).map_err(|why| failed(&why))?;
    let value = expression::evaluate(&program, variables).map_err(|why| match why {
        Failure::Unsupported => failed("it calls a function that is not there"),
        Failure::Failed(why) => failed(&why),
    })?;
    expression::to_json(&value).ok_or_else(|| failed("it makes something that is no JSON"))
}

fn applied(object: &Value, config: &Value, attributes: &Attributes<'_>) -> Result<Value, String> {
    if !config.is_object() {
        return Err("an ApplyConfiguration must make an Object".into());
    }
    for fixed in ["apiVersion", "kind"] {
        if config.get(fixed).is_some_and(|stated| *stated != object[fixed]) {
            return Err(format!("an ApplyConfiguration may not change {fixed}"));
        }
    }
    Ok(managed::merged(object, config, attributes.resource.shape()))
}

fn patched(object: &Value, operations: &Value, attributes: &Attributes<'_>) -> Result<Value, String> {
    let is_patch = |operation: &Value| operation["op"].is_string() && operation["path"].is_string();
    if !operations.as_array().is_some_and(|list| list.iter().all(is_patch)) {
        return Err("a JSONPatch expression must make a list of JSONPatch".into());
    }
    patch::apply(patch::Kind::Json, object, operations, attributes.resource.shape()).map_err(|why| why.to_string())
}

/// `Object.spec{replicas: 1}` and `JSONPatch{op: "add"}` as the maps that they are: `{"replicas": 1}`.
fn literals_as_maps(source: &str) -> String {
    let characters: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len() + 32);
    // For each bracket that is open, whether it is that of such a literal.
    let mut open: Vec<bool> = Vec::new();
    let mut at = 0;
    // Whether a field's name may come: after the brace, and after a comma in it.
    let mut expects_field = false;
    while at < characters.len() {
        let c = characters[at];
        if c == '"' || c == '\'' {
            let end = end_of_text(&characters, at);
            out.extend(&characters[at..end]);
            (at, expects_field) = (end, false);
        } else if c.is_alphabetic() || c == '_' {
            let end = (at..characters.len()).find(|i| !is_part_of_name(characters[*i])).unwrap_or(characters.len());
            let name: String = characters[at..end].iter().collect();
            let next = (end..characters.len()).find(|i| !characters[*i].is_whitespace());
            let next_is = |wanted: char| next.is_some_and(|i| characters[i] == wanted);
            let is_literal = name == "JSONPatch" || name == "Object" || name.starts_with("Object.");
            if is_literal && next_is('{') {
                out.push('{');
                open.push(true);
                (at, expects_field) = (next.unwrap_or(end) + 1, true);
                continue;
            }
            if expects_field && next_is(':') {
                out.push_str(&format!("\"{name}\""));
            } else {
                out.push_str(&name);
            }
            (at, expects_field) = (end, false);
        } else {
            match c {
                '(' | '[' | '{' => open.push(false),
                ')' | ']' | '}' => drop(open.pop()),
                _ => {}
            }
            out.push(c);
            expects_field = if c.is_whitespace() { expects_field } else { c == ',' && open.last() == Some(&true) };
            at += 1;
        }
    }
    out
}

fn is_part_of_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '.'
}

/// Behind the closing quote.
fn end_of_text(characters: &[char], begin: usize) -> usize {
    let quote = characters[begin];
    let mut at = begin + 1;
    while at < characters.len() && characters[at] != quote {
        at += if characters[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(characters.len())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::dynamic::tests::creation;
    use super::*;

    #[test]
    fn literals_become_maps() {
        let check = |source: &str, expected: &str| assert_eq!(literals_as_maps(source), expected);
        check("Object{spec: Object.spec{replicas: 1}}", "{\"spec\": {\"replicas\": 1}}");
        check(
            "[JSONPatch{op: 'add', path: \"/a{b:\", value: has(object.x) ? object.x : 1}]",
            "[{\"op\": 'add', \"path\": \"/a{b:\", \"value\": has(object.x) ? object.x : 1}]",
        );
        check("Object{metadata: Object.metadata {labels: {'a': b, c: d}}}", "{\"metadata\": {\"labels\": {'a': b, c: d}}}");
        check("object.spec.x", "object.spec.x");
        check("'it\\'s', Object{}", "'it\\'s', {}");
    }

    fn check(mutations: Value, expected: Result<Value, &str>) {
        let rules = json!([{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]);
        let policy = json!({"metadata": {"name": "p"}, "spec": {"matchConstraints": {"resourceRules": rules}, "failurePolicy": "Fail",
            "variables": [{"name": "team", "expression": "'team-' + object.metadata.name"}], "mutations": mutations}});
        let binding = json!({"metadata": {"name": "b"}, "spec": {"policyName": "p"}});
        let in_force = InForce { policies: &[policy], bindings: &[binding], parameters: &|_, _, _| Vec::new() };
        let mut object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}});
        let done = mutate(&in_force, &creation("pods"), &mut object, &Value::Null, false);
        match (done, expected) {
            (Ok(()), Ok(expected)) => assert_eq!(object, expected),
            (Err(failed), Err(why)) => assert!(failed.why.contains(why), "{}", failed.why),
            (done, expected) => panic!("{done:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn objects_are_merged_and_patches_applied() {
        let with = |labels: Value, containers: Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "labels": labels}, "spec": {"containers": containers}});
        let apply = |source: &str| json!([{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": source}}]);
        let patch = |source: &str| json!([{"patchType": "JSONPatch", "jsonPatch": {"expression": source}}]);
        let one = json!({"name": "c", "image": "i"});
        check(
            apply("Object{metadata: Object.metadata{labels: {'team': variables.team}}}"),
            Ok(with(json!({"a": "b", "team": "team-x"}), json!([one]))),
        );
        // Lists are merged by their keys.
        check(
            apply(
                "Object{spec: Object.spec{containers: [Object.spec.containers{name: 'side', image: 's'}, Object.spec.containers{name: 'c', stdin: true}]}}",
            ),
            Ok(with(json!({"a": "b"}), json!([{"name": "side", "image": "s"}, {"name": "c", "image": "i", "stdin": true}]))),
        );
        check(patch("[JSONPatch{op: 'replace', path: '/metadata/labels/a', value: 'z'}]"), Ok(with(json!({"a": "z"}), json!([one]))));
        check(patch("[JSONPatch{op: 'remove', path: '/metadata/labels/none'}]"), Err("none"));
        check(apply("object.nothing"), Err("no such key: nothing"));
        check(apply("Object{kind: 'Node'}"), Err("may not change kind"));
        check(patch("'nonsense'"), Err("must make a list of JSONPatch"));
    }
}

//! What webhooks and policies for admission have in common: which requests they are about, and what they see of one.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::expression::{self, AskedResource, Authorize, Authorizer, Cel, Failure, to_cel};
use crate::selector::Selector;
use crate::{Resource, meta};

/// A request as admission sees it (`admission.k8s.io/v1`, AdmissionRequest, without the objects).
#[derive(Clone)]
pub struct Attributes<'a> {
    /// CREATE, UPDATE, DELETE or CONNECT.
    pub operation: &'static str,
    /// As the objects are shown.
    pub resource: &'a Resource,
    /// As the client named it: in another version, where somebody asks to see the objects in his own.
    pub requested: &'a Resource,
    /// All versions in which the same objects are served.
    pub versions: &'a [Arc<Resource>],
    /// Of the object, where it is not the resource's: a Scale, a Binding, the options of a connection.
    pub kind: Option<Kind>,
    /// Empty for the object itself.
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    /// The labels of the namespace, as an object; null for what is in none.
    pub namespace_object: &'a Value,
    /// `authentication/v1` UserInfo.
    pub user: &'a Value,
    /// Knows what the user may, for expressions that ask.
    pub authorize: &'a Arc<dyn Authorize>,
    pub dry_run: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
}

/// The object as it is to be and as it was; null where there is none.
#[derive(Clone, Copy)]
pub struct Objects<'a> {
    pub new: &'a Value,
    pub old: &'a Value,
}

impl<'a> Attributes<'a> {
    /// The same request as it is in another version.
    #[must_use]
    pub fn seen_as(&self, resource: &'a Resource) -> Self {
        Self { resource, ..self.clone() }
    }

    /// The version in which rules are about the request: its own where they name it, else another, unless the policy is
    /// that they match exactly (`matchPolicy`).
    pub fn version_in(&self, rules: &Value, match_policy: &Value) -> Option<&'a Resource> {
        if self.is_in(rules) {
            return Some(self.resource);
        }
        let others = || self.versions.iter().map(|version| &**version).filter(|_| match_policy != "Exact");
        rules.as_array()?.iter().find_map(|rule| others().find(|version| self.is_in_rule(rule, version)))
    }

    /// The request without its objects.
    pub fn request(&self, uid: &str) -> Value {
        let kind = |resource: &Resource| {
            let own = Kind { group: resource.group, version: resource.version, kind: resource.kind };
            let Kind { group, version, kind } = self.kind.unwrap_or(own);
            json!({"group": group, "version": version, "kind": kind})
        };
        let plural = |resource: &Resource| json!({"group": resource.group, "version": resource.version, "resource": resource.plural});
        let options = match self.operation {
            "CREATE" => "CreateOptions",
            "UPDATE" => "UpdateOptions",
            "CONNECT" => "",
            _ => "DeleteOptions",
        };
        let mut request = json!({
            "uid": uid, "kind": kind(self.resource), "resource": plural(self.resource), "requestKind": kind(self.requested),
            "requestResource": plural(self.requested), "name": self.name, "operation": self.operation, "userInfo": self.user, "dryRun": self.dry_run,
        });
        if !options.is_empty() {
            request["options"] = json!({"kind": options, "apiVersion": "meta.k8s.io/v1"});
        }
        if !self.subresource.is_empty() {
            request["subResource"] = self.subresource.into();
            request["requestSubResource"] = self.subresource.into();
        }
        if !self.namespace.is_empty() {
            request["namespace"] = self.namespace.into();
        }
        request
    }

    /// Whether one of these rules (`RuleWithOperations`) is about the request.
    pub fn is_in(&self, rules: &Value) -> bool {
        rules.as_array().into_iter().flatten().any(|rule| self.is_in_rule(rule, self.resource))
    }

    fn is_in_rule(&self, rule: &Value, seen: &Resource) -> bool {
        let names = |field: &str, found: &str| rule[field].as_array().into_iter().flatten().any(|name| name == "*" || name == found);
        let scope = match rule["scope"].as_str() {
            Some("Cluster") => self.namespace.is_empty() || self.resource.stored() == "namespaces",
            Some("Namespaced") => !self.namespace.is_empty() && self.resource.stored() != "namespaces",
            _ => true,
        };
        let of_resource = |pattern: &str| {
            let (resource, subresource) = pattern.split_once('/').unwrap_or((pattern, ""));
            (resource == "*" || resource == seen.plural)
                && (subresource == self.subresource
                    || subresource == "*" && (pattern == "*/*" || !self.subresource.is_empty() || resource != "*"))
        };
        let named = rule["resourceNames"].as_array().is_none_or(|list| list.is_empty() || list.iter().any(|name| name == self.name));
        scope
            && named
            && names("operations", self.operation)
            && names("apiGroups", seen.group)
            && names("apiVersions", seen.version)
            && rule["resources"].as_array().into_iter().flatten().filter_map(Value::as_str).any(of_resource)
    }

    /// Whether the selectors of namespaces and objects let the request through.
    pub fn is_selected(&self, by: &Value, objects: Objects<'_>) -> bool {
        let selector = |field: &str| {
            let stated = by.get(field).filter(|s| s.is_object())?;
            serde_json::from_value(stated.clone()).ok().map(|s| Selector::from_label_selector(&s))
        };
        let in_namespace = selector("namespaceSelector").is_none_or(|selector| {
            let labels = if self.resource.stored() == "namespaces" {
                let subject = if objects.new.is_null() { objects.old } else { objects.new };
                meta::labels(subject)
            } else {
                meta::labels(self.namespace_object)
            };
            (self.namespace.is_empty() && self.resource.stored() != "namespaces") || selector.matches(&labels)
        });
        let matches = |selector: &Selector, object: &Value| !object.is_null() && selector.matches(&meta::labels(object));
        in_namespace && selector("objectSelector").is_none_or(|s| matches(&s, objects.new) || matches(&s, objects.old))
    }

    /// The variables that every expression may use.
    pub fn variables(&self, objects: Objects<'_>) -> Vec<(&'static str, Cel)> {
        let dynamic = |value: &Value| to_cel(&Value::Null, value);
        let about = AskedResource {
            group: self.resource.group.into(),
            resource: self.resource.plural.into(),
            subresource: self.subresource.into(),
            namespace: self.namespace.into(),
            name: self.name.into(),
            ..AskedResource::default()
        };
        let mut variables = vec![
            ("object", dynamic(objects.new)),
            ("oldObject", dynamic(objects.old)),
            ("request", dynamic(&self.request(""))),
            ("namespaceObject", dynamic(self.namespace_object)),
        ];
        variables.extend(Authorizer::new(Arc::clone(self.authorize), self.user).variables(about));
        variables
    }
}

/// Whether all conditions hold; `Err` names the first that cannot be told.
pub fn conditions_hold(conditions: &Value, variables: &[(&str, Cel)]) -> Result<bool, String> {
    let mut failed = None;
    for condition in conditions.as_array().into_iter().flatten() {
        let source = condition["expression"].as_str().unwrap_or_default();
        match holds(source, variables) {
            Ok(true) => {}
            // One that does not hold decides, whatever another came to.
            Ok(false) => return Ok(false),
            Err(why) => drop(failed.get_or_insert(format!("{}: {why}", condition["name"].as_str().unwrap_or_default()))),
        }
    }
    failed.map_or(Ok(true), Err)
}

/// Evaluates an expression that must be true or false.
pub(crate) fn holds(source: &str, variables: &[(&str, Cel)]) -> Result<bool, String> {
    let program = expression::compile(source)?;
    match expression::evaluate(&program, variables) {
        Ok(Cel::Bool(holds)) => Ok(holds),
        Ok(_) => Err("must evaluate to bool".into()),
        Err(Failure::Unsupported) => Err("undeclared reference".into()),
        Err(Failure::Failed(why)) => Err(why),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::expression::Asked;
    use crate::registry;

    /// Everybody may get Pods in the namespace n and the path /healthz; accounts of the namespace a may create them.
    struct Readers;

    impl Authorize for Readers {
        fn allows(&self, user: &Value, asked: &Asked) -> bool {
            match asked {
                Asked::Path { verb, path } => verb == "get" && path == "/healthz",
                Asked::Resource(asked) if asked.verb == "create" => {
                    user["username"].as_str().is_some_and(|u| u.starts_with("system:serviceaccount:a:"))
                }
                Asked::Resource(asked) => (asked.verb.as_str(), asked.resource.as_str(), asked.namespace.as_str()) == ("get", "pods", "n"),
            }
        }
    }

    #[test]
    fn an_expression_may_ask_who_may() {
        let attributes = creation("pods");
        let found = |source: &str| holds(source, &attributes.variables(Objects { new: &Value::Null, old: &Value::Null }));
        let check = |source: &str, expected: bool| assert_eq!(found(source), Ok(expected), "{source}");
        let ask = |rest: &str| format!("authorizer.{rest}.allowed()");
        check(&ask("path('/healthz').check('get')"), true);
        check(&ask("path('/metrics').check('get')"), false);
        check(&ask("group('').resource('pods').namespace('n').name('x').check('get')"), true);
        check(&ask("group('').resource('pods').namespace('m').check('get')"), false);
        check(&ask("group('').resource('pods').subresource('status').namespace('n').check('get')"), true);
        check(&ask("requestResource.check('get')"), true);
        check(&ask("requestResource.check('create')"), false);
        check(&ask("serviceAccount('a', 'robot').group('').resource('pods').check('create')"), true);
        check(&ask("serviceAccount('b', 'robot').group('').resource('pods').check('create')"), false);
        check("authorizer.requestResource.check('get').reason() == '' && !authorizer.requestResource.check('get').errored()", true);
        let many = vec!["authorizer.requestResource.check('get').allowed()"; 20].join(" && ");
        assert!(found(&many).is_err_and(|why| why.contains("cost limit exceeded")));
        for wrong in
            ["serviceAccount('a', 'robot').requestResource.check('get')", "group('').check('get')", "check('get')", "path('').check('get')"]
        {
            assert!(found(&ask(wrong)).is_err(), "{wrong}");
        }
    }

    pub(crate) fn creation(plural: &str) -> Attributes<'static> {
        Attributes {
            operation: "CREATE",
            resource: registry::find("", "v1", plural).expect("a resource"),
            requested: registry::find("", "v1", plural).expect("a resource"),
            versions: &[],
            kind: None,
            subresource: "",
            namespace: "n",
            name: "x",
            namespace_object: Box::leak(Box::new(json!({"metadata": {"name": "n", "labels": {"team": "a"}}}))),
            user: Box::leak(Box::new(json!({"username": "u"}))),
            authorize: Box::leak(Box::<Arc<dyn Authorize>>::new(Arc::new(Readers))),
            dry_run: false,
        }
    }

    #[test]
    fn rules_choose_requests() {
        let check = |rule: Value, expected: bool| {
            let mut full = json!({"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]});
            rule.as_object().into_iter().flatten().for_each(|(field, value)| full[field] = value.clone());
            assert_eq!(creation("pods").is_in(&json!([full])), expected, "{rule}");
        };
        check(json!({}), true);
        check(json!({"operations": ["UPDATE", "DELETE"]}), false);
        check(json!({"apiGroups": ["apps"]}), false);
        check(json!({"resources": ["*"]}), true);
        check(json!({"resources": ["*/*"]}), true);
        check(json!({"resources": ["pods/*"]}), true);
        check(json!({"resources": ["pods/status"]}), false);
        check(json!({"scope": "Cluster"}), false);
        check(json!({"scope": "Namespaced"}), true);
    }

    #[test]
    fn rules_for_another_version_choose_too_unless_they_match_exactly() {
        let versions: Vec<Arc<Resource>> = registry::all().iter().filter(|r| r.plural == "horizontalpodautoscalers").cloned().collect();
        let of = |version: &str| registry::find("autoscaling", version, "horizontalpodautoscalers").expect("a resource");
        let request = Attributes { resource: of("v1"), requested: of("v1"), versions: &versions, ..creation("pods") };
        let check = |version: &str, policy: &str, expected: Option<&str>| {
            let rules = json!([{"operations": ["CREATE"], "apiGroups": ["autoscaling"], "apiVersions": [version],
                "resources": ["horizontalpodautoscalers"]}]);
            assert_eq!(request.version_in(&rules, &json!(policy)).map(|found| found.version), expected, "{version} {policy}");
        };
        check("v1", "Equivalent", Some("v1"));
        check("*", "Equivalent", Some("v1"));
        check("v2", "Equivalent", Some("v2"));
        check("v2", "Exact", None);
        check("v3", "Equivalent", None);
        let told = request.seen_as(of("v2")).request("u");
        assert_eq!((&told["kind"]["version"], &told["resource"]["version"]), (&json!("v2"), &json!("v2")));
        assert_eq!((&told["requestKind"]["version"], &told["requestResource"]["version"]), (&json!("v1"), &json!("v1")));
    }

    #[test]
    fn selectors_look_at_namespace_and_object() {
        let object = json!({"metadata": {"labels": {"app": "web"}}});
        let check = |by: Value, expected: bool| {
            let objects = Objects { new: &object, old: &Value::Null };
            assert_eq!(creation("pods").is_selected(&by, objects), expected, "{by}");
        };
        check(json!({}), true);
        check(json!({"namespaceSelector": {"matchLabels": {"team": "a"}}, "objectSelector": {"matchLabels": {"app": "web"}}}), true);
        check(json!({"namespaceSelector": {"matchLabels": {"team": "b"}}}), false);
        check(json!({"objectSelector": {"matchLabels": {"app": "db"}}}), false);
    }
}

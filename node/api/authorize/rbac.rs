//! Role-based access control: what the bindings in the state grant to whom (`plugin/pkg/auth/authorizer/rbac`).
//!
//! The bindings are turned into an index by subject, which lives until a role or a binding changes. Every node answers
//! from its own replica.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use skein_object::Key;
use skein_state::State;
use skein_store::Handle;

use crate::authenticate::User;
use crate::derived::Derived;
use crate::route::Attributes;

/// The resources that grants are made of, as keys name them.
const ROLES: &str = "roles.rbac.authorization.k8s.io";
pub(super) const CLUSTER_ROLES: &str = "clusterroles.rbac.authorization.k8s.io";
const ROLE_BINDINGS: &str = "rolebindings.rbac.authorization.k8s.io";
const CLUSTER_ROLE_BINDINGS: &str = "clusterrolebindings.rbac.authorization.k8s.io";

/// `rbac/v1` PolicyRule.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Rule {
    pub(crate) verbs: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) api_groups: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) resources: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) resource_names: Vec<String>,
    #[serde(rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty")]
    pub(crate) non_resource_urls: Vec<String>,
}

/// Rules that hold in one namespace, or everywhere.
struct Grant {
    namespace: Option<String>,
    rules: Arc<Vec<Rule>>,
}

#[derive(Default)]
struct Index {
    by_subject: HashMap<String, Vec<Grant>>,
}

/// Keeps the index of the newest bindings.
pub(crate) struct Grants(Derived<Index>);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Subject {
    kind: String,
    name: String,
    #[serde(default)]
    namespace: String,
}

#[derive(Deserialize)]
struct RoleReference {
    kind: String,
    name: String,
}

// === impl Grants ===

impl Default for Grants {
    fn default() -> Self {
        Self(Derived::of(&[ROLES, CLUSTER_ROLES, ROLE_BINDINGS, CLUSTER_ROLE_BINDINGS]))
    }
}

impl Grants {
    pub(crate) fn allow(&self, store: &Handle, user: &User, attributes: &Attributes<'_>) -> bool {
        self.current(store).allows(user, attributes)
    }

    /// The rules that a user has in a namespace.
    pub(crate) fn rules(&self, store: &Handle, user: &User, namespace: &str) -> Vec<Rule> {
        let index = self.current(store);
        index.grants(user).filter(|grant| grant.holds_in(namespace)).flat_map(|grant| grant.rules.iter().cloned()).collect()
    }

    fn current(&self, store: &Handle) -> Arc<Index> {
        self.0.current(store, Index::of)
    }
}

// === impl Grant ===

impl Grant {
    fn holds_in(&self, namespace: &str) -> bool {
        self.namespace.as_deref().is_none_or(|own| own == namespace)
    }
}

// === impl Index ===

impl Index {
    fn of(state: &State) -> Self {
        let mut index = Self::default();
        let mut roles: BTreeMap<Key, Arc<Vec<Rule>>> = BTreeMap::new();
        for bindings in [CLUSTER_ROLE_BINDINGS, ROLE_BINDINGS] {
            let prefix = Key::prefix(bindings, "");
            for (key, entry) in state.range(&prefix, None) {
                let reference = entry.record.field("roleRef").and_then(|r| serde_json::from_value::<RoleReference>(r).ok());
                let Some(reference) = reference else { continue };
                let role = match reference.kind.as_str() {
                    "Role" => Key::new(ROLES, key.namespace(), &reference.name),
                    _ => Key::new(CLUSTER_ROLES, "", &reference.name),
                };
                let rules = Arc::clone(roles.entry(role.clone()).or_insert_with(|| Arc::new(rules_of(state, &role))));
                let namespace = (bindings == ROLE_BINDINGS).then(|| key.namespace().to_string());
                let subjects = entry.record.field("subjects").and_then(|s| serde_json::from_value::<Vec<Subject>>(s).ok());
                for subject in subjects.into_iter().flatten() {
                    let home = if subject.namespace.is_empty() { key.namespace() } else { &subject.namespace };
                    let name = match subject.kind.as_str() {
                        "User" => user_key(&subject.name),
                        "Group" => group_key(&subject.name),
                        _ => user_key(&format!("system:serviceaccount:{home}:{}", subject.name)),
                    };
                    let grant = Grant { namespace: namespace.clone(), rules: Arc::clone(&rules) };
                    index.by_subject.entry(name).or_default().push(grant);
                }
            }
        }
        index
    }

    fn grants<'a>(&'a self, user: &'a User) -> impl Iterator<Item = &'a Grant> {
        let names = std::iter::once(user_key(&user.name)).chain(user.groups.iter().map(|g| group_key(g)));
        names.filter_map(|name| self.by_subject.get(&name)).flatten()
    }

    fn allows(&self, user: &User, attributes: &Attributes<'_>) -> bool {
        self.grants(user).any(|grant| match attributes {
            Attributes::Resource { namespace, .. } => grant.holds_in(namespace) && grant.rules.iter().any(|rule| rule.allows(attributes)),
            Attributes::Path { .. } => grant.namespace.is_none() && grant.rules.iter().any(|rule| rule.allows(attributes)),
        })
    }
}

fn user_key(name: &str) -> String {
    format!("u:{name}")
}

fn group_key(name: &str) -> String {
    format!("g:{name}")
}

fn rules_of(state: &State, role: &Key) -> Vec<Rule> {
    let rules = state.get(role).and_then(|entry| entry.record.field("rules"));
    rules.and_then(|rules| serde_json::from_value(rules).ok()).unwrap_or_default()
}

// === impl Rule ===

impl Rule {
    pub(crate) fn allows(&self, attributes: &Attributes<'_>) -> bool {
        let any = |list: &[String], wanted: &str| list.iter().any(|item| item == "*" || item == wanted);
        match attributes {
            Attributes::Path { verb, path } => any(&self.verbs, verb) && self.non_resource_urls.iter().any(|url| url_covers(url, path)),
            Attributes::Resource { verb, group, resource, name, subresource, .. } => {
                any(&self.verbs, verb)
                    && any(&self.api_groups, group)
                    && self.resources.iter().any(|own| resource_covers(own, resource, subresource))
                    && (self.resource_names.is_empty() || self.resource_names.iter().any(|own| own == name))
            }
        }
    }
}

fn url_covers(own: &str, path: &str) -> bool {
    own == "*" || own == path || own.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
}

/// `pods`, `pods/log`, `*/scale`, `*`.
fn resource_covers(own: &str, resource: &str, subresource: &str) -> bool {
    if own == "*" {
        return true;
    }
    match own.split_once('/') {
        None => subresource.is_empty() && own == resource,
        Some((base, sub)) => sub == subresource && (base == "*" || base == resource),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verbs: &[&str], groups: &[&str], resources: &[&str], names: &[&str]) -> Rule {
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_string()).collect();
        Rule { verbs: own(verbs), api_groups: own(groups), resources: own(resources), resource_names: own(names), ..Rule::default() }
    }

    #[test]
    fn rules_allow_what_they_name() {
        let check = |rule: &Rule, verb: &str, group: &str, resource: &str, subresource: &str, name: &str, expected: bool| {
            let attributes = Attributes::Resource { verb, group, resource, namespace: "n", name, subresource, fields: "" };
            assert_eq!(rule.allows(&attributes), expected, "{rule:?} {verb} {group} {resource}/{subresource} {name}");
        };
        let pods = rule(&["get", "list"], &[""], &["pods"], &[]);
        check(&pods, "get", "", "pods", "", "a", true);
        check(&pods, "delete", "", "pods", "", "a", false);
        check(&pods, "get", "apps", "pods", "", "a", false);
        check(&pods, "get", "", "pods", "log", "a", false);
        check(&rule(&["*"], &["*"], &["*/scale"], &[]), "update", "apps", "deployments", "scale", "a", true);
        check(&rule(&["*"], &["*"], &["*"], &[]), "get", "", "pods", "log", "a", true);
        check(&rule(&["get"], &[""], &["secrets"], &["a"]), "get", "", "secrets", "", "a", true);
        check(&rule(&["get"], &[""], &["secrets"], &["a"]), "get", "", "secrets", "", "b", false);
        check(&rule(&["list"], &[""], &["secrets"], &["a"]), "list", "", "secrets", "", "", false);
    }

    #[test]
    fn urls_end_in_stars() {
        assert!(url_covers("/healthz/*", "/healthz/x") && url_covers("*", "/x") && url_covers("/version", "/version"));
        assert!(!url_covers("/healthz", "/healthz/x"));
    }
}

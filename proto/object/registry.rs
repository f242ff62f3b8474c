//! The one table of built-in resources. Routing, discovery, OpenAPI, Table output, defaulting, validation and storage
//! are derived from it; adding a resource is adding an entry.

mod apps;
mod batch;
mod core;
mod other;

use std::sync::OnceLock;

use schemars::{Schema, SchemaGenerator};
use serde_json::Value;

use crate::field::Errors;
use crate::names::NameRule;
use crate::table::Column;

/// A validation rule: the object, its predecessor on update, and where to report.
pub type Validate = fn(&Value, Option<&Value>, &mut Errors);

/// One built-in resource in the version that it is stored and served in.
pub struct Resource {
    /// Empty for the core group.
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub namespaced: bool,
    pub subresources: &'static [Subresource],
    pub name_rule: NameRule,
    /// Whether `metadata.generation` counts changes of the specification.
    pub has_generation: bool,
    /// Whether the resource is only asked, never stored (SelfSubjectAccessReview).
    pub is_virtual: bool,
    /// The name of the schema, as in `io.k8s.api.core.v1.Pod`.
    pub definition: &'static str,
    pub schema: fn(&mut SchemaGenerator) -> Schema,
    pub default: fn(&mut Value),
    pub validate: Validate,
    /// Fields that a `fieldSelector` may name, besides metadata.name and metadata.namespace.
    pub selectable: &'static [&'static str],
    pub columns: fn() -> Vec<Column>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subresource {
    Status,
    Scale,
    Log,
    Exec,
    Attach,
    PortForward,
    Binding,
    Eviction,
    Finalize,
}

impl Subresource {
    pub fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Scale => "scale",
            Self::Log => "log",
            Self::Exec => "exec",
            Self::Attach => "attach",
            Self::PortForward => "portforward",
            Self::Binding => "binding",
            Self::Eviction => "eviction",
            Self::Finalize => "finalize",
        }
    }
}

// === impl Resource ===

impl Resource {
    /// `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.into() } else { format!("{}/{}", self.group, self.version) }
    }

    /// `pods`, `deployments.apps`: the name in keys and in messages.
    pub fn qualified(&self) -> &'static str {
        self.key_prefix()
    }

    /// `Pod`, `Deployment.apps`.
    pub fn group_kind(&self) -> String {
        if self.group.is_empty() { self.kind.into() } else { format!("{}.{}", self.kind, self.group) }
    }

    pub fn verbs(&self) -> &'static [&'static str] {
        if self.is_virtual {
            return &["create"];
        }
        &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
    }

    pub fn subresource(&self, name: &str) -> Option<Subresource> {
        self.subresources.iter().copied().find(|s| s.name() == name)
    }

    pub fn has(&self, subresource: Subresource) -> bool {
        self.subresources.contains(&subresource)
    }

    fn key_prefix(&self) -> &'static str {
        static NAMES: OnceLock<std::collections::BTreeMap<(&str, &str), String>> = OnceLock::new();
        let names = NAMES.get_or_init(|| {
            let name = |r: &Self| if r.group.is_empty() { r.plural.to_string() } else { format!("{}.{}", r.plural, r.group) };
            all().iter().map(|r| ((r.group, r.plural), name(r))).collect()
        });
        names.get(&(self.group, self.plural)).map_or(self.plural, String::as_str)
    }
}

/// Every built-in resource, in the order of discovery.
pub fn all() -> &'static [Resource] {
    static ALL: OnceLock<Vec<Resource>> = OnceLock::new();
    ALL.get_or_init(|| core::resources().into_iter().chain(apps::resources()).chain(batch::resources()).chain(other::resources()).collect())
}

pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    all().iter().find(|r| r.group == group && r.version == version && r.plural == plural)
}

/// The resource whose keys start with this name: `deployments.apps`.
pub fn by_key(qualified: &str) -> Option<&'static Resource> {
    all().iter().find(|r| r.qualified() == qualified)
}

pub fn by_kind(api_version: &str, kind: &str) -> Option<&'static Resource> {
    all().iter().find(|r| r.kind == kind && r.api_version() == api_version)
}

/// An entry with the usual values; what is special is stated where the entry stands.
fn entry<T>(plural: &'static str, singular: &'static str, definition: &'static str) -> Resource
where
    T: k8s_openapi::Resource + schemars::JsonSchema,
{
    Resource {
        group: T::GROUP,
        version: T::VERSION,
        kind: T::KIND,
        plural,
        singular,
        short_names: &[],
        categories: &[],
        namespaced: true,
        subresources: &[],
        name_rule: NameRule::Subdomain,
        has_generation: false,
        is_virtual: false,
        definition,
        schema: |generator| generator.subschema_for::<T>(),
        default: |_| {},
        validate: |_, _, _| {},
        selectable: &[],
        columns: crate::table::name_and_age,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_resource_has_its_schema_and_a_unique_name() {
        let definitions = crate::schema::definitions();
        let mut names: Vec<_> = all().iter().map(Resource::qualified).collect();
        for resource in all() {
            assert!(definitions.contains_key(resource.definition), "{}", resource.definition);
        }
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}

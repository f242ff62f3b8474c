//! Custom resources: what a CustomResourceDefinition says becomes a [`Resource`] like any other, with a schema that is
//! read at run time.

mod column;
pub mod conversion;
mod defaulting;
mod ratchet;
mod rules;
mod validation;

pub(crate) use validation::fits;

use serde_json::{Map, Value, json};

use self::conversion::Conversion;
use self::ratchet::Change;
use crate::field::{Errors, Path};
use crate::names::NameRule;
use crate::registry::{Resource, Subresource, intern};
use crate::schema::{Shape, Site};
use crate::table::{self, Column};

/// Where definitions are, as keys name it.
pub const DEFINITIONS: &str = "customresourcedefinitions.apiextensions.k8s.io";

const OBJECT_META: &str = "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// What a version of a custom resource has beyond a built-in one.
pub struct Custom {
    /// `openAPIV3Schema`, with the fields that every object has.
    pub schema: Value,
    /// The same, read.
    site: Site,
    /// Whether the schema has defaults, so that what is read must be looked at.
    pub(crate) has_defaults: bool,
    pub(crate) list_kind: String,
    /// `additionalPrinterColumns`, as written.
    columns: Vec<Value>,
    /// `subresources.scale`: where replicas and selector are.
    pub scale: Option<Scale>,
    /// Who converts between versions; nobody, where they differ in nothing but their names.
    pub(crate) conversion: Option<Conversion>,
    /// The version that objects are stored in, as `example.com/v1`.
    pub(crate) storage_version: String,
    /// The definition that it comes from, and that one's uid: another definition of the same name is another resource.
    pub definition: String,
}

/// JSON paths of the scale subresource, as `.spec.replicas`.
#[derive(Clone, Debug, PartialEq)]
pub struct Scale {
    pub spec_replicas: String,
    pub status_replicas: String,
    pub label_selector: Option<String>,
}

/// The resources that a definition serves, the stored version first.
pub fn resources(definition: &Value) -> Vec<Resource> {
    let spec = definition.get("spec").cloned().unwrap_or_default();
    let accepted = definition.pointer("/status/acceptedNames").filter(|n| n.get("plural").is_some());
    let names = accepted.or(spec.get("names")).cloned().unwrap_or_default();
    let mut versions: Vec<&Value> = spec["versions"].as_array().into_iter().flatten().filter(|v| v["served"] == true).collect();
    versions.sort_by_key(|v| v["storage"] != true);
    versions.into_iter().map(|version| resource(definition, &spec, &names, version)).collect()
}

/// Whether its names are accepted and it may be served (`Established`).
pub fn is_established(definition: &Value) -> bool {
    let conditions = definition.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|c| c["type"] == "Established" && c["status"] == "True")
}

fn resource(definition: &Value, spec: &Value, names: &Value, version: &Value) -> Resource {
    let text = |value: &Value, field: &str| intern(value.get(field).and_then(Value::as_str).unwrap_or_default());
    let texts = |field: &str| -> Vec<&'static str> {
        names.get(field).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(intern).collect()
    };
    let mut subresources = Vec::new();
    let wanted = version.get("subresources");
    if wanted.is_some_and(|s| s.get("status").is_some_and(|s| !s.is_null())) {
        subresources.push(Subresource::Status);
    }
    let scale = wanted.and_then(|s| s.get("scale")).filter(|s| s.is_object()).map(|scale| {
        let path = |field: &str| scale.get(field).and_then(Value::as_str).map(String::from);
        Scale {
            spec_replicas: path("specReplicasPath").unwrap_or_default(),
            status_replicas: path("statusReplicasPath").unwrap_or_default(),
            label_selector: path("labelSelectorPath"),
        }
    });
    if scale.is_some() {
        subresources.push(Subresource::Scale);
    }
    let selectable = version.get("selectableFields").and_then(Value::as_array).into_iter().flatten();
    let stated = version.pointer("/schema/openAPIV3Schema").unwrap_or(&Value::Null);
    let schema = whole(stated);
    let custom = Custom {
        has_defaults: defaulting::has_defaults(stated),
        site: Site::read(&schema),
        schema,
        list_kind: text(names, "listKind").into(),
        columns: version.get("additionalPrinterColumns").and_then(Value::as_array).cloned().unwrap_or_default(),
        scale,
        conversion: Conversion::of(spec),
        storage_version: storage_version(spec),
        definition: crate::meta::name(definition).into(),
    };
    Resource {
        short_names: texts("shortNames").into(),
        categories: texts("categories").into(),
        namespaced: spec["scope"] == "Namespaced",
        subresources: subresources.into(),
        name_rule: NameRule::Subdomain,
        has_generation: true,
        selectable: selectable
            .filter_map(|f| f.get("jsonPath").and_then(Value::as_str))
            .map(|path| intern(path.trim_start_matches('.')))
            .collect::<Vec<_>>()
            .into(),
        custom: Some(custom),
        ..crate::registry::entry(text(spec, "group"), text(version, "name"), text(names, "kind"), text(names, "plural"))
    }
}

fn storage_version(spec: &Value) -> String {
    let stored = spec["versions"].as_array().into_iter().flatten().find(|version| version["storage"] == true);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    format!("{}/{}", text(&spec["group"]), stored.map(|version| text(&version["name"])).unwrap_or_default())
}

/// A schema with what all objects have: `apiVersion`, `kind`, `metadata`.
fn whole(schema: &Value) -> Value {
    let mut schema = if schema.is_object() { schema.clone() } else { json!({"type": "object"}) };
    let properties = schema.as_object_mut().map(|s| s.entry("properties").or_insert_with(|| json!({})));
    if let Some(Value::Object(properties)) = properties {
        properties.insert("apiVersion".into(), json!({"type": "string"}));
        properties.insert("kind".into(), json!({"type": "string"}));
        properties.insert("metadata".into(), json!({"$ref": OBJECT_META, "default": {}}));
    }
    schema
}

// === impl Custom ===

impl Custom {
    pub fn shape(&self) -> Shape<'_> {
        self.site.shape()
    }

    pub(crate) fn default(&self, object: &mut Value) {
        defaulting::fill(&self.schema, object);
    }

    /// The schema first; its rules where the object fits it.
    pub(crate) fn validate(&self, object: &Value, old: Option<&Value>, errors: &mut Errors) {
        let mut found = Errors::default();
        let change = Change::new(object, old);
        validation::validate(&self.schema, change, &mut found);
        if found.is_empty() {
            rules::check(&self.schema, change, &Path::default(), &mut found);
        }
        errors.extend(found);
    }

    pub(crate) fn columns(&self) -> Vec<Column> {
        if self.columns.is_empty() {
            return table::name_and_age();
        }
        std::iter::once(table::name()).chain(self.columns.iter().map(column::column)).collect()
    }
}

/// Reads a value at a path like `.spec.replicas`.
pub fn at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').filter(|part| !part.is_empty()).try_fold(object, |value, part| value.get(part))
}

/// Writes a value at a path like `.spec.replicas`, making what is missing on the way.
pub fn put(object: &mut Value, path: &str, value: Value) {
    let mut place = object;
    for part in path.split('.').filter(|part| !part.is_empty()) {
        if !place.is_object() {
            *place = Value::Object(Map::new());
        }
        place = &mut place[part];
    }
    *place = value;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn widget(schema: Value) -> Resource {
        let definition = json!({"metadata": {"name": "widgets.example.com"}, "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"]},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
                "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.n", "statusReplicasPath": ".status.n"}},
                "additionalPrinterColumns": [{"name": "N", "type": "integer", "jsonPath": ".spec.n"},
                    {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"}]}],
        }});
        resources(&definition).remove(0)
    }

    fn schema() -> Value {
        json!({"type": "object", "properties": {"spec": {"type": "object", "required": ["n"], "properties": {
            "n": {"type": "integer", "minimum": 1}, "mode": {"type": "string", "enum": ["a", "b"], "default": "a"},
            "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}})
    }

    #[test]
    fn is_a_resource_like_any_other() {
        let resource = widget(schema());
        assert_eq!((resource.api_version().as_str(), resource.qualified().as_str()), ("example.com/v1", "widgets.example.com"));
        assert!(resource.has(Subresource::Status) && resource.has(Subresource::Scale) && resource.has_generation);
    }

    #[test]
    fn prunes_defaults_and_validates() {
        let resource = widget(schema());
        let mut object = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "a"},
            "spec": {"n": 0, "x": 1, "any": {"y": 2}}});
        let findings = resource.conform(&mut object);
        assert_eq!((findings.unknown, findings.mismatched.len()), (vec!["spec.x".to_string()], 0));
        resource.fill_defaults(&mut object);
        assert_eq!(object["spec"], json!({"n": 0, "any": {"y": 2}, "mode": "a"}));
        let mut errors = Errors::default();
        resource.check(&object, None, &mut errors);
        assert_eq!(errors.to_string(), "spec.n: Invalid value: 0: spec.n in body should be greater than or equal to 1");
    }

    #[test]
    fn prints_what_the_paths_lead_to() {
        let object = json!({"metadata": {"name": "a"}, "spec": {"n": 3}, "status": {"conditions": [
            {"type": "Other", "status": "False"}, {"type": "Ready", "status": "True"}]}});
        let row = table::row(&widget(schema()).columns(), object, table::Include::None, jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(row["cells"], json!(["a", 3, "True"]));
    }
}

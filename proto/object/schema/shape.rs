//! A place in a schema, with references followed: what a value there may contain and how two of them merge.

use serde_json::Value;

use super::definitions;

/// A schema, or the part of one that describes a field or an element.
#[derive(Clone, Copy)]
pub struct Shape<'a> {
    /// As it stands where it is used: default and list type are said there.
    site: &'a Value,
    /// What it refers to, or itself.
    schema: &'a Value,
    /// The definition's name, if it is one.
    name: Option<&'a str>,
}

/// `x-kubernetes-list-type`: how the elements of a list are told apart.
#[derive(Clone, Debug, PartialEq)]
pub enum ListType<'a> {
    /// Not at all: the list is replaced as a whole.
    Atomic,
    /// By their value.
    Set,
    /// By these fields.
    Map(Vec<&'a str>),
}

/// `x-kubernetes-patch-strategy`: what a strategic merge patch does with a field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PatchStrategy<'a> {
    Replace,
    Merge {
        /// Elements are objects with this identity; without one they are plain values.
        key: Option<&'a str>,
    },
}

impl<'a> Shape<'a> {
    pub fn new(site: &'a Value) -> Self {
        let name = reference(site);
        Self { site, schema: name.and_then(|name| definitions().get(name)).unwrap_or(site), name }
    }

    /// A definition by its name: `io.k8s.api.core.v1.Pod`.
    pub fn named(name: &str) -> Option<Shape<'static>> {
        let (name, schema) = definitions().get_key_value(name)?;
        Some(Shape { site: schema, schema, name: Some(name) })
    }

    /// The name of the definition that stands here.
    pub fn reference(self) -> Option<&'a str> {
        self.name
    }

    pub fn schema(self) -> &'a Value {
        self.schema
    }

    pub fn kind(self) -> &'a str {
        self.schema.get("type").and_then(Value::as_str).unwrap_or_default()
    }

    pub fn format(self) -> &'a str {
        self.schema.get("format").and_then(Value::as_str).unwrap_or_default()
    }

    /// A field of a struct, or an entry of a map.
    pub fn field(self, name: &str) -> Option<Self> {
        let declared = self.schema.get("properties").and_then(|p| p.get(name));
        declared.or_else(|| self.schema.get("additionalProperties").filter(|s| s.is_object())).map(Self::new)
    }

    /// Whether a field is one of a struct, not an entry of a map.
    pub fn declares(self, name: &str) -> bool {
        self.schema.get("properties").is_some_and(|p| p.get(name).is_some())
    }

    /// Whether a field is always written.
    pub fn requires(self, name: &str) -> bool {
        self.schema.get("required").and_then(Value::as_array).is_some_and(|fields| fields.iter().any(|f| f == name))
    }

    /// Whether Go writes a field, as null, though nothing was said of it.
    pub fn writes_null(self, name: &str) -> bool {
        self.field(name).is_some_and(|below| super::go::zero(self, name, below) == Some(Value::Null))
    }

    /// An element of a list.
    pub fn item(self) -> Option<Self> {
        self.schema.get("items").map(Self::new)
    }

    pub fn default(self) -> Option<&'a Value> {
        self.site.get("default")
    }

    /// Whether Go holds the struct by value, so that it is there, if empty, wherever its parent is.
    pub fn is_by_value(self) -> bool {
        self.kind() == "object" && self.default().and_then(Value::as_object).is_some_and(serde_json::Map::is_empty)
    }

    pub fn is_atomic_map(self) -> bool {
        self.mark("x-kubernetes-map-type") == Some("atomic") || self.is_scalar() || self.is_raw()
    }

    /// Whether anything may stand here.
    pub fn is_raw(self) -> bool {
        self.name.is_some_and(|name| name.ends_with("pkg.runtime.RawExtension") || name.ends_with("apiextensions.v1.JSON"))
    }

    /// Whether fields that the schema does not name are kept.
    pub fn keeps_unknown(self) -> bool {
        let flagged = |name: &str| self.schema.get(name) == Some(&Value::Bool(true));
        flagged("x-kubernetes-preserve-unknown-fields") || self.schema.get("additionalProperties").is_some_and(|a| a != &Value::Bool(false))
    }

    /// Whether a whole object, with its kind and metadata, stands here.
    pub fn is_embedded(self) -> bool {
        self.schema.get("x-kubernetes-embedded-resource") == Some(&Value::Bool(true))
    }

    pub fn list_type(self) -> ListType<'a> {
        match self.mark("x-kubernetes-list-type") {
            Some("set") => ListType::Set,
            Some("map") => {
                let keys = self.extension("x-kubernetes-list-map-keys").and_then(Value::as_array);
                ListType::Map(keys.into_iter().flatten().filter_map(Value::as_str).collect())
            }
            _ => ListType::Atomic,
        }
    }

    pub fn patch_strategy(self) -> PatchStrategy<'a> {
        match self.mark("x-kubernetes-patch-strategy") {
            Some(strategies) if strategies.split(',').any(|s| s == "merge") => {
                PatchStrategy::Merge { key: self.mark("x-kubernetes-patch-merge-key") }
            }
            _ => PatchStrategy::Replace,
        }
    }

    fn is_scalar(self) -> bool {
        self.schema.get("oneOf").is_some() || matches!(self.kind(), "string" | "integer" | "number" | "boolean")
    }

    fn mark(self, name: &str) -> Option<&'a str> {
        self.extension(name).and_then(Value::as_str)
    }

    fn extension(self, name: &str) -> Option<&'a Value> {
        self.site.get(name).or_else(|| self.schema.get(name))
    }
}

fn reference(schema: &Value) -> Option<&str> {
    let pointer = schema.get("$ref").or_else(|| schema.get("allOf")?.get(0)?.get("$ref"))?.as_str()?;
    pointer.rsplit('/').next()
}

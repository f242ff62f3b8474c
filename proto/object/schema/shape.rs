//! A place in a schema, with references followed: what a value there may contain and how two of them merge.
//!
//! Schemas are JSON; here they are read once, for they are asked at every write. What a definition says is read when
//! somebody first comes to it.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde_json::Value;

use super::definitions;
use super::go::{self, Declared};

/// A schema, or the part of one that describes a field or an element.
#[derive(Clone, Copy)]
pub struct Shape<'a> {
    site: &'a Site,
    /// What stands there, or what it refers to.
    structure: &'a Structure,
}

/// A schema as it stands where it is used: default and marks may be said there beside a reference.
#[derive(Clone, Debug)]
pub struct Site {
    default: Option<Value>,
    marks: Marks,
    target: Target,
}

#[derive(Clone, Debug)]
enum Target {
    Here(Box<Structure>),
    Definition(&'static Definition),
}

/// A definition that is published, by its name.
#[derive(Debug)]
struct Definition {
    name: &'static str,
    schema: &'static Value,
    structure: OnceLock<Structure>,
    /// The definition itself as a place.
    site: OnceLock<Site>,
}

/// What a schema says of the values that fit it.
#[derive(Clone, Debug)]
struct Structure {
    kind: String,
    format: String,
    marks: Marks,
    /// The fields of a struct.
    fields: Option<BTreeMap<String, Field>>,
    /// What Go writes for fields of which nothing was said.
    zeros: Vec<(String, Value)>,
    /// `additionalProperties`: the entries of a map.
    entries: Option<Site>,
    has_entries: bool,
    items: Option<Site>,
    keeps_unknown: bool,
    is_embedded: bool,
    is_scalar: bool,
}

/// A field of a struct.
#[derive(Clone, Debug)]
pub(super) struct Field {
    site: Site,
    pub(super) declared: Declared,
    is_required: bool,
    /// Whether it is written though it is zero.
    pub(super) is_always_written: bool,
}

/// What Kubernetes' extensions say.
#[derive(Clone, Debug, Default)]
struct Marks {
    list_type: Option<String>,
    list_map_keys: Option<Vec<String>>,
    map_type: Option<String>,
    patch_strategy: Option<String>,
    patch_merge_key: Option<String>,
}

/// `x-kubernetes-list-type`: how the elements of a list are told apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ListType<'a> {
    /// Not at all: the list is replaced as a whole.
    Atomic,
    /// By their value.
    Set,
    /// By these fields.
    Map(&'a [String]),
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

// === impl Site ===

impl Site {
    pub fn read(schema: &Value) -> Self {
        let target = reference(schema).and_then(Definition::named).map(Target::Definition);
        Self {
            default: schema.get("default").cloned(),
            marks: Marks::read(schema),
            target: target.unwrap_or_else(|| Target::Here(Box::new(Structure::read(schema, "")))),
        }
    }

    pub fn shape(&self) -> Shape<'_> {
        let structure = match &self.target {
            Target::Here(structure) => structure,
            Target::Definition(definition) => definition.structure(),
        };
        Shape { site: self, structure }
    }
}

// === impl Definition ===

impl Definition {
    fn named(name: &str) -> Option<&'static Self> {
        static ALL: OnceLock<BTreeMap<&str, Definition>> = OnceLock::new();
        let definition = |(name, schema): (&'static String, &'static Value)| {
            (name.as_str(), Self { name, schema, structure: OnceLock::new(), site: OnceLock::new() })
        };
        ALL.get_or_init(|| definitions().iter().map(definition).collect()).get(name)
    }

    fn structure(&self) -> &Structure {
        self.structure.get_or_init(|| Structure::read(self.schema, self.name))
    }

    fn shape(&'static self) -> Shape<'static> {
        let read = || Site { default: None, marks: Marks::default(), target: Target::Definition(self) };
        Shape { site: self.site.get_or_init(read), structure: self.structure() }
    }
}

// === impl Structure ===

impl Structure {
    /// Of the definition that has this name, if it is one.
    fn read(schema: &Value, definition: &str) -> Self {
        let text = |name: &str| schema.get(name).and_then(Value::as_str).unwrap_or_default().to_string();
        let is_set = |name: &str| schema.get(name) == Some(&Value::Bool(true));
        let kind = text("type");
        let entries = schema.get("additionalProperties");
        let properties = schema.get("properties").and_then(Value::as_object);
        let mut zeros = Vec::new();
        let mut field = |name: &String, below: &Value| {
            let declared = go::declared(schema, definition, name);
            let is_required = schema.get("required").and_then(Value::as_array).is_some_and(|fields| fields.iter().any(|f| f == name));
            let is_always_written = declared.is_always_written.unwrap_or(is_required);
            let field = Field { site: Site::read(below), declared, is_required, is_always_written };
            let target = reference(below).and_then(|name| definitions().get(name)).unwrap_or(below);
            zeros.extend(go::zero(&field, field.site.default.as_ref(), target).map(|zero| (name.clone(), zero)));
            (name.clone(), field)
        };
        let fields = properties.map(|all| all.iter().map(|(name, below)| field(name, below)).collect());
        Self {
            marks: Marks::read(schema),
            fields,
            zeros,
            has_entries: entries.is_some(),
            items: schema.get("items").map(Site::read),
            keeps_unknown: is_set("x-kubernetes-preserve-unknown-fields") || entries.is_some_and(|entries| entries != &Value::Bool(false)),
            entries: entries.filter(|entries| entries.is_object()).map(Site::read),
            is_embedded: is_set("x-kubernetes-embedded-resource"),
            is_scalar: schema.get("oneOf").is_some() || matches!(kind.as_str(), "string" | "integer" | "number" | "boolean"),
            format: text("format"),
            kind,
        }
    }
}

// === impl Field ===

impl Field {
    pub(super) fn shape(&self) -> Shape<'_> {
        self.site.shape()
    }
}

// === impl Marks ===

impl Marks {
    fn read(schema: &Value) -> Self {
        let text = |name: &str| schema.get(name).and_then(Value::as_str).map(str::to_owned);
        let keys = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
        Self {
            list_type: text("x-kubernetes-list-type"),
            list_map_keys: keys.map(|keys| keys.iter().filter_map(Value::as_str).map(str::to_owned).collect()),
            map_type: text("x-kubernetes-map-type"),
            patch_strategy: text("x-kubernetes-patch-strategy"),
            patch_merge_key: text("x-kubernetes-patch-merge-key"),
        }
    }
}

// === impl Shape ===

impl Shape<'static> {
    /// A definition by its name: `io.k8s.api.core.v1.Pod`.
    pub fn named(name: &str) -> Option<Self> {
        Definition::named(name).map(Definition::shape)
    }
}

impl<'a> Shape<'a> {
    /// The name of the definition that stands here.
    pub fn reference(self) -> Option<&'a str> {
        match &self.site.target {
            Target::Here(_) => None,
            Target::Definition(definition) => Some(definition.name),
        }
    }

    pub fn kind(self) -> &'a str {
        &self.structure.kind
    }

    pub fn format(self) -> &'a str {
        &self.structure.format
    }

    /// Whether fields are named here.
    pub fn is_struct(self) -> bool {
        self.structure.fields.is_some()
    }

    pub(super) fn is_map(self) -> bool {
        self.structure.has_entries
    }

    /// A field of a struct, or an entry of a map.
    pub fn field(self, name: &str) -> Option<Self> {
        self.declared(name).map(Field::shape).or_else(|| self.structure.entries.as_ref().map(Site::shape))
    }

    /// A field of a struct.
    pub(super) fn declared(self, name: &str) -> Option<&'a Field> {
        self.structure.fields.as_ref()?.get(name)
    }

    /// Whether a field is one of a struct, not an entry of a map.
    pub fn declares(self, name: &str) -> bool {
        self.declared(name).is_some()
    }

    /// The fields of a struct, by name.
    pub fn fields(self) -> impl Iterator<Item = (&'a str, Self)> {
        self.structure.fields.iter().flatten().map(|(name, field)| (name.as_str(), field.shape()))
    }

    /// Whether a struct must have a field.
    pub fn requires(self, name: &str) -> bool {
        self.declared(name).is_some_and(|field| field.is_required)
    }

    /// What Go writes for fields of which nothing was said.
    pub(super) fn zeros(self) -> &'a [(String, Value)] {
        &self.structure.zeros
    }

    /// Whether Go writes a field, as null, though nothing was said of it.
    pub fn writes_null(self, name: &str) -> bool {
        self.zeros().iter().any(|(field, zero)| field == name && zero.is_null())
    }

    /// An element of a list.
    pub fn item(self) -> Option<Self> {
        self.structure.items.as_ref().map(Site::shape)
    }

    pub fn default(self) -> Option<&'a Value> {
        self.site.default.as_ref()
    }

    /// Whether Go holds the struct by value, so that it is there, if empty, wherever its parent is.
    pub fn is_by_value(self) -> bool {
        self.kind() == "object" && self.default().and_then(Value::as_object).is_some_and(serde_json::Map::is_empty)
    }

    pub fn is_atomic_map(self) -> bool {
        self.mark(|marks| marks.map_type.as_ref()).is_some_and(|kind| kind == "atomic") || self.structure.is_scalar || self.is_raw()
    }

    /// Whether anything may stand here.
    pub fn is_raw(self) -> bool {
        self.reference().is_some_and(|name| name.ends_with("pkg.runtime.RawExtension") || name.ends_with("apiextensions.v1.JSON"))
    }

    /// Whether fields that the schema does not name are kept.
    pub fn keeps_unknown(self) -> bool {
        self.structure.keeps_unknown
    }

    /// Whether a whole object, with its kind and metadata, stands here.
    pub fn is_embedded(self) -> bool {
        self.structure.is_embedded
    }

    pub fn list_type(self) -> ListType<'a> {
        match self.mark(|marks| marks.list_type.as_ref()).map(String::as_str) {
            Some("set") => ListType::Set,
            Some("map") => ListType::Map(self.mark(|marks| marks.list_map_keys.as_ref()).map_or(&[], Vec::as_slice)),
            _ => ListType::Atomic,
        }
    }

    pub fn patch_strategy(self) -> PatchStrategy<'a> {
        match self.mark(|marks| marks.patch_strategy.as_ref()) {
            Some(strategies) if strategies.split(',').any(|s| s == "merge") => {
                PatchStrategy::Merge { key: self.mark(|marks| marks.patch_merge_key.as_ref()).map(String::as_str) }
            }
            _ => PatchStrategy::Replace,
        }
    }

    fn mark<T>(self, of: impl Fn(&'a Marks) -> Option<&'a T>) -> Option<&'a T> {
        of(&self.site.marks).or_else(|| of(&self.structure.marks))
    }
}

fn reference(schema: &Value) -> Option<&str> {
    let pointer = schema.get("$ref").or_else(|| schema.get("allOf")?.get(0)?.get("$ref"))?.as_str()?;
    pointer.rsplit('/').next()
}

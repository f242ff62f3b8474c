//! What only Go's types know of a field: the name of its type, which structs it is embedded in, and whether zero is the
//! same as nothing. Errors of Go's decoder tell the first two, and its encoder leaves out what says nothing.

use std::collections::HashMap;
use std::sync::OnceLock;

use serde_json::Value;

use super::Shape;
use super::shape::Field;

/// What does not follow from the definitions.
const FACTS: &str = include_str!("go.txt");

/// How Go declares a field.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Declared {
    /// The embedded structs that hold it: `RuleWithOperations.Rule.`
    pub(super) embedded: &'static str,
    /// Its type, where a definition does not tell: `v1.PullPolicy`.
    kind: Option<&'static str>,
    is_pointer: bool,
    /// Whether it is written though it is zero, where that is not what the definition's `required` says.
    pub(super) is_always_written: Option<bool>,
}

/// A field of a struct, which has this schema and is the definition of this name.
pub(super) fn declared(schema: &Value, definition: &str, field: &str) -> Declared {
    static DECLARED: OnceLock<HashMap<&str, Vec<(&str, Declared)>>> = OnceLock::new();
    if matches!(field, "apiVersion" | "kind") && schema.get("x-kubernetes-group-version-kind").is_some() {
        return Declared { embedded: "TypeMeta.", ..Declared::default() };
    }
    let all = DECLARED.get_or_init(|| FACTS.lines().filter(|line| !line.starts_with('#')).map(of_line).collect());
    let fields = all.get(definition.strip_prefix("io.k8s.").unwrap_or(definition)).into_iter().flatten();
    fields.into_iter().find(|(name, _)| *name == field).map(|(_, declared)| *declared).unwrap_or_default()
}

/// Lists that say something when they are empty, for validation to find: within what, in which definition, which field.
const JUDGED_WHEN_EMPTY: [(&str, &str, &str); 6] = [
    ("", "api.autoscaling.v2.HPAScalingRules", "policies"),
    ("", "api.batch.v1.PodFailurePolicyOnExitCodesRequirement", "values"),
    ("", "api.batch.v1.SuccessPolicy", "rules"),
    ("", "api.networking.v1.IngressSpec", "rules"),
    ("api.core.v1.PodSpec", "api.core.v1.ResourceRequirements", "claims"),
    ("", "apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinitionSpec", "versions"),
];

/// Whether an empty list is to be kept until it is judged.
pub(super) fn is_judged_when_empty(around: Option<Shape<'_>>, shape: Shape<'_>, field: &str) -> bool {
    let name = |shape: Shape<'_>| shape.reference().map(|name| name.strip_prefix("io.k8s.").unwrap_or(name).to_string());
    JUDGED_WHEN_EMPTY.iter().any(|(within, of, named)| {
        *named == field
            && name(shape).is_some_and(|name| name == *of)
            && (within.is_empty() || around.and_then(name).is_some_and(|name| name == *within))
    })
}

/// Whether a value of a field is like none: zero or empty, and Go's type cannot tell it from nothing.
pub(super) fn says_nothing(shape: Shape<'_>, field: &str, value: &Value) -> bool {
    let Some(below) = shape.field(field) else { return false };
    let is_zero = match value {
        Value::Null => return !below.is_raw(),
        Value::Bool(is_set) => !is_set,
        Value::Number(number) => number.as_f64() == Some(0.0) && below.format() != "int-or-string",
        // Quantities and times are structs.
        Value::String(text) => text.is_empty() && below.kind() == "string" && below.reference().is_none(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty() && below.is_map(),
    };
    let is_told = shape.declared(field).is_some_and(|field| field.declared.is_pointer || field.is_always_written);
    is_zero && !below.is_raw() && !is_told
}

/// What Go writes for a field of which nothing was said, if anything: by its default, and the schema of what it holds.
pub(super) fn zero(field: &Field, default: Option<&Value>, below: &Value) -> Option<Value> {
    let Field { declared, is_always_written, .. } = field;
    let is_zero = |value: &Value| *value == "" || *value == 0 || *value == false;
    match default.filter(|default| !default.is_null()) {
        Some(default) if !is_zero(default) => Some(default.clone()),
        Some(default) => (*is_always_written && !declared.is_pointer).then(|| default.clone()),
        None => {
            let is = |key: &str, text: &str| below.get(key).is_some_and(|value| value == text);
            let may_be_null = is("type", "array") || is("format", "date-time") || declared.is_pointer;
            (may_be_null && *is_always_written).then_some(Value::Null)
        }
    }
}

/// `api.core.v1.Container imagePullPolicy:v1.PullPolicy …`
fn of_line(line: &'static str) -> (&'static str, Vec<(&'static str, Declared)>) {
    let mut words = line.split(' ');
    let definition = words.next().unwrap_or_default();
    (definition, words.filter_map(|word| word.split_once(':')).map(|(field, fact)| (field, of_fact(fact))).collect())
}

fn of_fact(fact: &'static str) -> Declared {
    let rest = fact.trim_start_matches(['*', '!', '?']);
    let flags = &fact[..fact.len() - rest.len()];
    // Embedded structs begin with a capital; packages, brackets and built-in types do not.
    let mut end = 0;
    while rest[end..].starts_with(|c: char| c.is_ascii_uppercase())
        && let Some(dot) = rest[end..].find('.')
    {
        end += dot + 1;
    }
    let (embedded, kind) = rest.split_at(end);
    let is_always_written = if flags.contains('!') { Some(true) } else { flags.contains('?').then_some(false) };
    Declared { embedded, kind: Some(kind).filter(|kind| !kind.is_empty()), is_pointer: flags.contains('*'), is_always_written }
}

/// The type of a value, as far as it is declared or follows from its shape.
#[derive(Clone, Copy, Default)]
pub(super) struct Kind(Option<&'static str>);

impl From<Declared> for Kind {
    fn from(declared: Declared) -> Self {
        Self(declared.kind)
    }
}

impl Kind {
    /// Of an element of a list, or of an entry of a map, of this type.
    pub(super) fn element(self) -> Self {
        let element = |kind: &'static str| kind.strip_prefix("[]").or_else(|| kind.strip_prefix("map[")?.split_once(']').map(|(_, v)| v));
        Self(self.0.and_then(element))
    }

    pub(super) fn name(self, shape: Shape<'_>) -> String {
        self.0.map_or_else(|| derived(shape), str::to_owned)
    }
}

fn derived(shape: Shape<'_>) -> String {
    if let Some(name) = shape.reference() {
        let mut parts = name.rsplit('.');
        let (short, package) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        return format!("{package}.{short}");
    }
    match shape.kind() {
        "array" => format!("[]{}", shape.item().map_or_else(|| "string".into(), derived)),
        "object" => format!("map[string]{}", shape.field("").map_or_else(|| "string".into(), derived)),
        "integer" if shape.format().is_empty() => "int64".into(),
        "integer" => shape.format().into(),
        "number" => "float64".into(),
        "boolean" => "bool".into(),
        other => other.into(),
    }
}

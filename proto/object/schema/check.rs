//! The check of a value against a shape: types in the words of Go's JSON decoder, unknown fields, canonical quantities
//! and times.

use serde_json::Value;

use super::{Findings, Shape, format, go};
use crate::quantity::canonical;

/// The deepest nesting that a body may have. Kubernetes bounds it through its decoder.
const DEPTH_MAX: usize = 100;

#[derive(Default)]
pub(super) struct Checker {
    findings: Findings,
    /// Structural schemas say everything: an object without properties has no fields.
    is_custom: bool,
}

/// Where the check is. Names are put together only when something is wrong.
struct Place<'a> {
    above: Option<&'a Self>,
    step: Step<'a>,
    shape: Shape<'a>,
    depth: usize,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    Field(&'a str),
    /// Of a map.
    Entry(&'a str),
    Index(usize),
}

/// A place as Go's decoder names it.
#[derive(Default)]
struct Named {
    /// The type that has the field: `Container`.
    owner: String,
    /// With embedded structs, without indexes and keys of maps: `spec.containers.name`.
    fields: String,
    kind: go::Kind,
}

impl<'a> Place<'a> {
    fn below(&'a self, step: Step<'a>, shape: Shape<'a>) -> Self {
        Place { above: Some(self), step, shape, depth: self.depth + 1 }
    }

    /// `spec.containers[0].name`
    fn path(&self) -> String {
        let above = self.above.map(Place::path).unwrap_or_default();
        match self.step {
            Step::Root => above,
            Step::Field(name) | Step::Entry(name) => join(&above, name),
            Step::Index(index) => format!("{above}[{index}]"),
        }
    }

    fn named(&self) -> Named {
        let Some(above) = self.above else { return Named::default() };
        let Named { owner, fields, kind } = above.named();
        match self.step {
            Step::Field(name) => {
                let declared = above.shape.declared(name).map(|field| field.declared).unwrap_or_default();
                let short = above.shape.reference().and_then(|definition| definition.rsplit('.').next());
                let fields = join(&fields, &format!("{}{name}", declared.embedded));
                Named { owner: short.map_or(owner, str::to_owned), fields, kind: declared.into() }
            }
            Step::Root | Step::Entry(_) | Step::Index(_) => Named { owner, fields, kind: kind.element() },
        }
    }

    fn is_in_metadata(&self) -> bool {
        match (self.above, self.step) {
            (Some(above), _) if above.above.is_some() => above.is_in_metadata(),
            (_, step) => matches!(step, Step::Field("metadata")),
        }
    }
}

impl Checker {
    pub(super) fn run(shape: Shape<'_>, value: &mut Value, is_custom: bool) -> Findings {
        let mut checker = Self { is_custom, ..Self::default() };
        checker.visit(value, &Place { above: None, step: Step::Root, shape, depth: 0 });
        checker.findings
    }

    fn visit(&mut self, value: &mut Value, at: &Place<'_>) {
        if at.depth > DEPTH_MAX {
            self.findings.mismatched.push(format!("{}: exceeded max depth", at.path()));
            return;
        }
        if value.is_null() {
            return;
        }
        let shape = at.shape;
        match shape.reference().and_then(|name| name.rsplit('.').next()) {
            Some("Quantity") => return self.quantity(value, at),
            _ if shape.is_raw() => return,
            // Go reads nothing where neither stands.
            Some("JSONSchemaPropsOrArray") if !value.is_object() && !value.is_array() => {
                *value = Value::Null;
                return;
            }
            Some("JSONSchemaPropsOrBool") if !value.is_object() && !value.is_boolean() => {
                return self.findings.mismatched.push("boolean or JSON schema expected".into());
            }
            Some("Time") if !self.is_custom => return self.text(value, at, format::time),
            Some("MicroTime") if !self.is_custom => return self.text(value, at, format::micro_time),
            _ => {}
        }
        let fits = match (shape.kind(), shape.format()) {
            (_, "int-or-string") if value.is_string() || value.is_i64() => true,
            (_, "int-or-string") => return self.mismatch(value, at, Some("int32")),
            ("object", _) => return self.object(value, at),
            ("array", _) => return self.array(value, at),
            ("string", "byte") if value.is_string() && !self.is_custom => return self.text(value, at, format::bytes),
            ("string", _) => value.is_string(),
            ("integer", _) => value.is_i64() || value.is_u64(),
            ("number", _) => value.is_number(),
            ("boolean", _) => value.is_boolean(),
            _ => true,
        };
        if !fits {
            self.mismatch(value, at, None);
        }
    }

    fn object(&mut self, value: &mut Value, at: &Place<'_>) {
        let shape = at.shape;
        let Some(map) = value.as_object_mut() else { return self.mismatch(value, at, None) };
        let is_struct = shape.is_struct();
        // Metadata, inside a custom object, is a built-in type.
        let is_custom = self.is_custom && shape.reference().is_none();
        if is_struct && !is_custom || is_custom && !shape.keeps_unknown() {
            let is_known = |key: &str| {
                let of_any_object = matches!(key, "apiVersion" | "kind" | "metadata") && shape.is_embedded();
                shape.declares(key) || shape.field(key).is_some() || of_any_object
            };
            let unknown: Vec<String> = map.keys().filter(|k| !is_known(k)).cloned().collect();
            for key in unknown {
                map.shift_remove(&key);
                self.findings.unknown.push(join(&at.path(), &key));
            }
        }
        for (key, child) in map.iter_mut() {
            if let Some(below) = shape.field(key) {
                let step = if shape.declares(key) { Step::Field(key) } else { Step::Entry(key) };
                self.visit(child, &at.below(step, below));
            }
        }
        if is_struct && !is_custom {
            let around = at.above.map(|above| above.shape);
            let is_judged =
                |key: &str, child: &Value| child.as_array().is_some_and(Vec::is_empty) && go::is_judged_when_empty(around, shape, key);
            map.retain(|key, child| !go::says_nothing(shape, key, child) || is_judged(key, child));
        }
    }

    fn array(&mut self, value: &mut Value, at: &Place<'_>) {
        let Some(list) = value.as_array_mut() else { return self.mismatch(value, at, None) };
        if let Some(item) = at.shape.item() {
            for (index, child) in list.iter_mut().enumerate() {
                self.visit(child, &at.below(Step::Index(index), item));
            }
        }
    }

    fn quantity(&mut self, value: &mut Value, at: &Place<'_>) {
        let text = match &*value {
            Value::Number(number) => number.to_string(),
            Value::String(text) => text.clone(),
            _ => return self.mismatch(value, at, None),
        };
        match canonical(&text) {
            Ok(canonical) => *value = canonical.into(),
            Err(why) => self.findings.mismatched.push(why.to_string()),
        }
    }

    /// A string of a certain form; what is written another way is written as Go writes it.
    fn text(&mut self, value: &mut Value, at: &Place<'_>, canonical: fn(&str) -> Result<Option<String>, String>) {
        match value.as_str().map(canonical) {
            None => self.mismatch(value, at, Some("string")),
            Some(Ok(None)) => {}
            Some(Ok(Some(written))) => *value = written.into(),
            Some(Err(why)) => self.findings.mismatched.push(why),
        }
    }

    /// `wanted` is said where Go's type is not the declared one.
    fn mismatch(&mut self, value: &Value, at: &Place<'_>, wanted: Option<&str>) {
        if self.is_custom && !at.is_in_metadata() {
            return;
        }
        let got = match value {
            Value::Null => "null".into(),
            Value::Bool(_) => "bool".into(),
            Value::Number(number) if number.is_f64() => format!("number {number}"),
            Value::Number(_) => "number".into(),
            Value::String(_) => "string".into(),
            Value::Array(_) => "array".into(),
            Value::Object(_) => "object".to_string(),
        };
        let Named { owner, fields, kind } = at.named();
        let wanted = wanted.map_or_else(|| kind.name(at.shape), str::to_owned);
        self.findings.mismatched.push(format!("json: cannot unmarshal {got} into Go struct field {owner}.{fields} of type {wanted}"));
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.into() } else { format!("{path}.{key}") }
}

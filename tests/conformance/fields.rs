//! For every field that a client may write, requests in which it has an ordinary value, one that is out of range, and
//! one of another type.

use serde_json::{Value, json};
use skein_object::schema::Shape;

/// Deeper than this only kinds go that contain themselves.
const DEPTH_MAX: usize = 10;

/// One field with one value in an otherwise ordinary object.
pub(crate) struct Variant {
    /// `.spec.containers[0].image = "one"`
    pub(crate) name: String,
    pub(crate) object: Value,
}

/// All variants of a sample of a kind.
pub(crate) fn variants(definition: &str, sample: &Value) -> Vec<Variant> {
    let mut walk = Walk { sample, definition, steps: Vec::new(), within: Vec::new(), found: Vec::new() };
    if let Some(shape) = Shape::named(definition) {
        for (name, field) in shape.fields() {
            // What metadata may contain is asked of every kind; what a client says of status is not kept.
            if !matches!(name, "apiVersion" | "kind" | "metadata" | "status") {
                walk.visit(Step::Field(name), field);
            }
        }
    }
    walk.found
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Field(&'a str),
    /// The first element of a list.
    Item,
}

struct Walk<'a> {
    sample: &'a Value,
    definition: &'a str,
    /// The way to the field, and the shape of each place on it.
    steps: Vec<(Step<'a>, Shape<'a>)>,
    /// Definitions on the way.
    within: Vec<&'a str>,
    found: Vec<Variant>,
}

impl<'a> Walk<'a> {
    fn visit(&mut self, step: Step<'a>, shape: Shape<'a>) {
        self.steps.push((step, shape));
        for value in values(shape) {
            self.found.push(self.variant(value));
        }
        let name = shape.reference().unwrap_or_default();
        // A template's Pod is like any Pod, and of its lists of containers one is enough.
        let is_told_elsewhere =
            [".Pod", ".PersistentVolume"].iter().any(|kind| name.ends_with(&format!("{kind}Spec")) && !self.definition.ends_with(kind))
                || name.ends_with("ObjectMeta")
                || matches!(step, Step::Field("initContainers" | "ephemeralContainers"));
        if !is_told_elsewhere && !self.within.contains(&name) && self.steps.len() < DEPTH_MAX {
            self.within.extend(Some(name).filter(|name| !name.is_empty()));
            for (field, below) in shape.fields() {
                self.visit(Step::Field(field), below);
            }
            if let Some(item) = shape.item().filter(|item| item.fields().next().is_some()) {
                self.visit(Step::Item, item);
            }
            if !name.is_empty() {
                self.within.pop();
            }
        }
        self.steps.pop();
    }

    fn variant(&self, value: Value) -> Variant {
        let mut name = String::new();
        for (step, _) in &self.steps {
            match step {
                Step::Field(field) => name.extend([".", field]),
                Step::Item => name.push_str("[0]"),
            }
        }
        let name = format!("{name} = {value}");
        let mut object = self.sample.clone();
        // A volume comes from one place.
        let is_source =
            matches!(self.steps.get(1), Some((_, shape)) if shape.reference().is_some_and(|name| name.ends_with("VolumeSource")));
        if is_source && self.definition.ends_with(".PersistentVolume") {
            object["spec"].as_object_mut().expect("a volume has a specification").shift_remove("hostPath");
        }
        let mut place = &mut object;
        for (step, shape) in &self.steps {
            place = match step {
                Step::Field(field) => &mut place[*field],
                Step::Item => {
                    if place.as_array().is_none_or(Vec::is_empty) {
                        *place = json!([skeleton(*shape)]);
                    }
                    &mut place[0]
                }
            };
            if place.is_null() {
                *place = skeleton(*shape);
            }
        }
        *place = value;
        Variant { name, object }
    }
}

/// The least that can stand in a place on the way: what is required below it.
fn skeleton(shape: Shape<'_>) -> Value {
    match shape.kind() {
        "array" => json!([]),
        "object" => {
            let required = shape.fields().filter(|(name, _)| shape.requires(name));
            required.map(|(name, field)| (name.to_owned(), values(field).into_iter().next().unwrap_or_default())).collect()
        }
        _ => values(shape).into_iter().next().unwrap_or_default(),
    }
}

/// An ordinary value, one that is out of range, one of another type.
fn values(shape: Shape<'_>) -> Vec<Value> {
    let name = shape.reference().unwrap_or_default();
    match (shape.kind(), shape.format()) {
        _ if name.ends_with("Quantity") => vec![json!("1"), json!("-1"), json!("x")],
        (_, "int-or-string") => vec![json!(1), json!("-1%"), json!(-1)],
        (_, "date-time") if name.ends_with("MicroTime") => vec![json!("2026-01-02T03:04:05.000000Z"), json!("x"), json!(1)],
        (_, "date-time") => vec![json!("2026-01-02T03:04:05Z"), json!("x"), json!(1)],
        ("string", _) => vec![json!("one"), json!("Bad Value!"), json!(1)],
        ("integer" | "number", _) => vec![json!(1), json!(-1), json!("x")],
        ("boolean", _) => vec![json!(true), json!(false), json!("x")],
        ("array", _) => {
            let items = shape.item().map(|item| if item.fields().next().is_none() { values(item) } else { vec![json!({})] });
            items.into_iter().flatten().map(|item| json!([item])).chain([json!([]), json!("x")]).collect()
        }
        ("object", _) => match shape.field("a").filter(|_| !shape.declares("a")) {
            Some(entry) if shape.fields().next().is_none() => {
                let mut entries: Vec<Value> = values(entry).into_iter().map(|value| json!({"a": value})).collect();
                entries.push(json!({"Bad Key!": values(entry).into_iter().next().unwrap_or_default()}));
                entries.push(json!("x"));
                entries
            }
            _ => vec![json!({}), json!("x")],
        },
        _ => vec![json!({}), json!("x")],
    }
}

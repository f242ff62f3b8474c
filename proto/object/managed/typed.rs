//! What can be done with two versions of an object when its shape is known: the fields of one, the differences of two,
//! one merged into the other, fields taken out (structured-merge-diff, package `typed`).

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::set::{FieldSet, readable};
use crate::schema::{ListType, Shape};

/// The paths in which two versions of an object differ.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Comparison {
    pub(super) added: FieldSet,
    pub(super) modified: FieldSet,
    pub(super) removed: FieldSet,
}

/// How a value takes part in a merge.
enum Nature<'v, 'a> {
    /// As a whole: scalars, atomic lists and maps.
    Leaf,
    Map(&'v Map<String, Value>),
    List(&'v [Value], &'a [String]),
    Set(&'v [Value]),
}

fn nature<'v, 'a>(value: &'v Value, shape: Option<Shape<'a>>) -> Nature<'v, 'a> {
    match (value, shape) {
        (Value::Object(map), None) => Nature::Map(map),
        (Value::Object(map), Some(shape)) if !shape.is_atomic_map() => Nature::Map(map),
        (Value::Array(list), Some(shape)) => match shape.list_type() {
            ListType::Atomic => Nature::Leaf,
            ListType::Set => Nature::Set(list),
            ListType::Map(keys) => Nature::List(list, keys),
        },
        _ => Nature::Leaf,
    }
}

/// The steps to the elements of a list, in its order. `None` where an element has no such step.
fn steps(list: &[Value], keys: Option<&[String]>, shape: Option<Shape<'_>>) -> Option<Vec<String>> {
    let step = |element: &Value| match keys {
        None if element.is_object() || element.is_array() => None,
        None => Some(format!("v:{element}")),
        Some(keys) => {
            let element = element.as_object()?;
            let mut identity = BTreeMap::new();
            for key in keys {
                let default = || shape?.field(key)?.default();
                if let Some(value) = element.get(key).filter(|v| !v.is_null()).or_else(default) {
                    identity.insert(key, value);
                }
            }
            (!identity.is_empty()).then(|| format!("k:{}", serde_json::to_string(&identity).unwrap_or_default()))
        }
    };
    list.iter().map(step).collect()
}

/// The elements of a value that is merged by parts, with the step and the shape of each; `None` for a leaf.
fn parts<'v, 'a>(value: &'v Value, shape: Option<Shape<'a>>) -> Option<Vec<(String, &'v Value, Option<Shape<'a>>)>> {
    let item = shape.and_then(Shape::item);
    let (list, keys) = match nature(value, shape) {
        Nature::Leaf => return None,
        Nature::Map(map) => {
            let field = |(name, child): (&String, &'v Value)| (format!("f:{name}"), child, shape.and_then(|s| s.field(name)));
            return Some(map.iter().map(field).collect());
        }
        Nature::List(list, keys) => (list, Some(keys)),
        Nature::Set(list) => (list, None),
    };
    let steps = steps(list, keys, item)?;
    Some(steps.into_iter().zip(list).map(|(step, element)| (step, element, item)).collect())
}

/// Whether all elements of lists that are merged by keys have one.
pub(super) fn is_keyed(value: &Value, shape: Option<Shape<'_>>) -> bool {
    let item = shape.and_then(Shape::item);
    match nature(value, shape) {
        Nature::Leaf => true,
        Nature::Map(map) => map.iter().all(|(name, child)| is_keyed(child, shape.and_then(|shape| shape.field(name)))),
        Nature::List(list, keys) => steps(list, Some(keys), item).is_some() && list.iter().all(|element| is_keyed(element, item)),
        Nature::Set(_) => true,
    }
}

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// Fields that an object's schema does not have, each with its path; those of custom objects only where they would be
/// pruned.
pub(super) fn undeclared(value: &Value, shape: Shape<'_>, is_custom: bool) -> Vec<String> {
    let mut found = Vec::new();
    search(value, shape, is_custom, "", &mut found);
    found
}

fn search(value: &Value, shape: Shape<'_>, is_custom: bool, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            // Metadata, inside a custom object, is a built-in type.
            let is_custom = is_custom && shape.reference().is_none();
            let is_struct = shape.is_struct();
            let is_closed = if is_custom { !shape.keeps_unknown() } else { is_struct };
            for (name, child) in map {
                let embedded = match name.as_str() {
                    "metadata" if shape.is_embedded() => Shape::named(OBJECT_META),
                    _ => None,
                };
                let of_any_object = shape.is_embedded() && matches!(name.as_str(), "apiVersion" | "kind");
                match shape.field(name).or(embedded) {
                    Some(below) => search(child, below, is_custom, &format!("{path}.{name}"), found),
                    None if is_closed && !of_any_object => found.push(format!("{path}.{name}")),
                    None => {}
                }
            }
        }
        Value::Array(list) => {
            let Some(item) = shape.item() else { return };
            let named = match shape.list_type() {
                ListType::Atomic => None,
                ListType::Set => steps(list, None, Some(item)),
                ListType::Map(keys) => steps(list, Some(keys), Some(item)),
            };
            for (index, child) in list.iter().enumerate() {
                let step = named.as_ref().map_or_else(|| format!("[{index}]"), |steps| readable(&steps[index]));
                search(child, item, is_custom, &format!("{path}{step}"), found);
            }
        }
        _ => {}
    }
}

/// The fields that a configuration states, which its applier will own.
pub(super) fn field_set(value: &Value, shape: Option<Shape<'_>>) -> FieldSet {
    let mut set = FieldSet::default();
    state(value, shape, &mut Vec::new(), &mut set);
    set
}

fn state(value: &Value, shape: Option<Shape<'_>>, path: &mut Vec<String>, set: &mut FieldSet) {
    let Some(parts) = parts(value, shape) else {
        set.insert(path);
        return;
    };
    for (step, child, below) in parts {
        let own = match step.strip_prefix("f:") {
            // A field of a struct is owned by what is in it; an entry of a map is owned as such.
            Some(name) => child.is_null() || is_empty_object(child) || !shape.is_some_and(|s| s.declares(name)),
            None => true,
        };
        path.push(step);
        if own {
            set.insert(path);
        }
        if !child.is_null() {
            state_below(child, below, path, set);
        }
        path.pop();
    }
}

fn state_below(value: &Value, shape: Option<Shape<'_>>, path: &mut Vec<String>, set: &mut FieldSet) {
    if matches!(nature(value, shape), Nature::Leaf) {
        set.insert(path);
    } else {
        state(value, shape, path, set);
    }
}

fn is_empty_object(value: &Value) -> bool {
    value.as_object().is_some_and(Map::is_empty)
}

/// Whether a default is what Go has where nothing is said.
fn is_zero(default: &Value) -> bool {
    *default == "" || *default == 0 || *default == false || is_empty_object(default)
}

/// What differs between `old` and `new`.
pub(super) fn compare(old: &Value, new: &Value, shape: Option<Shape<'_>>) -> Comparison {
    let mut comparison = Comparison::default();
    differ(Some(old), Some(new), shape, &mut Vec::new(), &mut comparison);
    comparison
}

fn differ(old: Option<&Value>, new: Option<&Value>, shape: Option<Shape<'_>>, path: &mut Vec<String>, found: &mut Comparison) {
    let (old, new) = (old.filter(|v| !v.is_null()), new.filter(|v| !v.is_null()));
    let (old_parts, new_parts) = (old.and_then(|v| parts(v, shape)), new.and_then(|v| parts(v, shape)));
    let is_leaf = |value: Option<&Value>, parts: &Option<Vec<_>>| value.is_some() && parts.is_none();
    let nothing_inside = [&old_parts, &new_parts].iter().all(|p| p.as_ref().is_none_or(Vec::is_empty));
    if is_leaf(old, &old_parts) || is_leaf(new, &new_parts) || nothing_inside {
        match (old, new) {
            (None, Some(_)) => found.added.insert(path),
            (Some(_), None) => found.removed.insert(path),
            (Some(old), Some(new)) if old != new => found.modified.insert(path),
            _ => {}
        }
        return;
    }
    let is_map = old.or(new).is_some_and(Value::is_object);
    let (before, after): (BTreeMap<_, _>, BTreeMap<_, _>) = (
        old_parts.iter().flatten().map(|(step, child, below)| (step, (*child, *below))).collect(),
        new_parts.iter().flatten().map(|(step, child, below)| (step, (*child, *below))).collect(),
    );
    let mut steps: Vec<&String> = before.keys().chain(after.keys()).copied().collect();
    steps.sort();
    steps.dedup();
    for step in steps {
        let below = before.get(step).or(after.get(step)).and_then(|(_, below)| *below);
        // What Go holds by value, or writes even if it is empty, is there wherever its parent is.
        let empty = match below {
            Some(below) if is_map && below.default().is_some_and(is_zero) => below.default().cloned(),
            // A set is left out when it is empty, required or not.
            Some(below) if is_map && below.list_type() != ListType::Set && shape.is_some_and(|s| s.writes_null(&step[2..])) => {
                Some(Value::Array(Vec::new()))
            }
            _ => None,
        };
        // Go's zero is null there, so an empty list that is said is a change.
        let is_said = !before.contains_key(step) && after.get(step).is_some_and(|(child, _)| child.as_array().is_some_and(Vec::is_empty));
        let empty = empty.filter(|empty| !(is_said && empty.is_array()));
        let (was, is) = (before.get(step).map(|(child, _)| *child), after.get(step).map(|(child, _)| *child));
        let (was, is) = (was.filter(|v| !v.is_null()), is.filter(|v| !v.is_null()));
        let (was, is) = (was.or(empty.as_ref().filter(|_| old.is_some())), is.or(empty.as_ref().filter(|_| new.is_some())));
        path.push(step.clone());
        differ(was, is, below, path, found);
        path.pop();
    }
    match (old, new) {
        (None, Some(_)) => found.added.insert(path),
        (Some(_), None) => found.removed.insert(path),
        _ => {}
    }
}

/// `live` with all that `config` states.
pub(super) fn merge(live: &Value, config: &Value, shape: Option<Shape<'_>>) -> Value {
    match (nature(live, shape), nature(config, shape)) {
        (Nature::Map(live), Nature::Map(config)) => {
            let mut merged = live.clone();
            for (name, wanted) in config {
                let below = shape.and_then(|s| s.field(name));
                match live.get(name) {
                    _ if wanted.is_null() => drop(merged.shift_remove(name)),
                    Some(current) if !current.is_null() => drop(merged.insert(name.clone(), merge(current, wanted, below))),
                    _ => drop(merged.insert(name.clone(), wanted.clone())),
                }
            }
            Value::Object(merged)
        }
        (Nature::List(old, keys), Nature::List(new, _)) => merge_lists(old, new, Some(keys), shape).unwrap_or_else(|| config.clone()),
        (Nature::Set(old), Nature::Set(new)) => merge_lists(old, new, None, shape).unwrap_or_else(|| config.clone()),
        _ => config.clone(),
    }
}

/// Elements of both lists: those of `new` in its order, those that only `old` has where they stood before them.
fn merge_lists(old: &[Value], new: &[Value], keys: Option<&[String]>, shape: Option<Shape<'_>>) -> Option<Value> {
    let item = shape.and_then(Shape::item);
    let (old_steps, new_steps) = (steps(old, keys, item)?, steps(new, keys, item)?);
    let mut shared = new_steps.iter().filter(|step| old_steps.contains(step)).peekable();
    let mut merged = Vec::with_capacity(old.len().max(new.len()));
    let (mut left, mut right) = (0, 0);
    loop {
        match (old_steps.get(left), new_steps.get(right)) {
            (None, None) => return Some(Value::Array(merged)),
            (Some(step), _) if !new_steps.contains(step) => {
                merged.push(old[left].clone());
                left += 1;
            }
            // It is taken, or was, where the new list has it.
            (Some(step), other) if new_steps[..right].contains(step) || other != Some(step) && shared.peek() != Some(&step) => left += 1,
            (_, Some(step)) => {
                let before = old_steps.iter().position(|s| s == step);
                merged.push(before.map_or_else(|| new[right].clone(), |at| merge(&old[at], &new[right], item)));
                if shared.peek() == Some(&step) {
                    shared.next();
                }
                right += 1;
            }
            (Some(_), None) => left += 1,
        }
    }
}

/// `value` without the fields and elements in `set`; `None` when nothing is left of it.
pub(super) fn remove(value: &Value, set: &FieldSet, shape: Option<Shape<'_>>) -> Option<Value> {
    let Some(parts) = parts(value, shape) else { return Some(value.clone()) };
    let kept = parts.into_iter().filter(|(step, ..)| !set.has(step)).filter_map(|(step, child, below)| match set.below(&step) {
        Some(below_set) => remove(child, below_set, below).map(|child| (step, child)),
        None => Some((step, child.clone())),
    });
    match value {
        Value::Object(_) => {
            let map: Map<String, Value> = kept.map(|(step, child)| (step[2..].to_string(), child)).collect();
            (!map.is_empty()).then_some(Value::Object(map))
        }
        _ => {
            let list: Vec<Value> = kept.map(|(_, child)| child).collect();
            (!list.is_empty()).then_some(Value::Array(list))
        }
    }
}

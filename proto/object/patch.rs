//! The patches of Kubernetes: JSON patch (RFC 6902), JSON merge patch (RFC 7386) and strategic merge patch.
//!
//! Strategic merge knows which lists are sets of objects with a key; the schema says so (`x-kubernetes-patch-strategy`).

mod json;

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::schema::{PatchStrategy, Shape};

#[derive(Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// The patch itself is malformed: 400.
    #[error("{0}")]
    Malformed(String),
    /// The patch is fine and does not fit the object, as when a `test` operation fails: 422.
    #[error("the server rejected our request due to an error in our request: {0}")]
    Unprocessable(String),
    /// A directive that nobody knows, which Kubernetes takes for a fault of its own: 500.
    #[error("{0}")]
    Unknown(String),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Json,
    Merge,
    Strategic,
}

/// The object after the patch. A strategic merge needs the object's shape.
pub fn apply(kind: Kind, object: &Value, patch: &Value, shape: Option<Shape<'_>>) -> Result<Value, Error> {
    let mut result = object.clone();
    match kind {
        Kind::Json => json::apply(&mut result, json::decode(patch)?)?,
        Kind::Merge if patch.is_null() => return Err(Error::Malformed("Invalid JSON Patch".into())),
        Kind::Merge => json_patch::merge(&mut result, object_of(patch, "error decoding patch: ")?),
        Kind::Strategic => strategic(&mut result, object_of(patch, "")?, shape)?,
    }
    Ok(result)
}

fn object_of<'a>(patch: &'a Value, doing: &str) -> Result<&'a Value, Error> {
    if patch.is_object() {
        return Ok(patch);
    }
    Err(Error::Malformed(format!("{doing}json: cannot unmarshal {} into Go value of type map[string]interface {{}}", kind_of(patch))))
}

/// What Go's decoder calls a value that it did not expect.
fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// A value as Go's `%v` shows it.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        Value::String(text) => text.clone(),
        Value::Array(list) => format!("[{}]", list.iter().map(shown).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let sorted: BTreeMap<&String, &Value> = map.iter().collect();
            let entries: Vec<String> = sorted.iter().map(|(key, value)| format!("{key}:{}", shown(value))).collect();
            format!("map[{}]", entries.join(" "))
        }
        other => other.to_string(),
    }
}

/// What becomes of the list in a field.
fn strategy<'a>(shape: Option<Shape<'a>>, field: &str) -> PatchStrategy<'a> {
    shape.and_then(|s| s.field(field)).map_or(PatchStrategy::Replace, Shape::patch_strategy)
}

fn strategic(target: &mut Value, patch: &Value, shape: Option<Shape<'_>>) -> Result<(), Error> {
    let Some(changes) = patch.as_object() else {
        *target = patch.clone();
        return Ok(());
    };
    match changes.get("$patch").and_then(Value::as_str) {
        Some("replace") => {
            *target = Value::Object(plain(changes));
            return Ok(());
        }
        Some("delete") => {
            *target = Value::Object(Map::new());
            return Ok(());
        }
        Some("merge") | None => {}
        Some(other) => return Err(Error::Unknown(format!("unknown patch type: {other} in map: {}", shown(patch)))),
    }
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(map) = target.as_object_mut() else { return Ok(()) };
    if let Some(keep) = changes.get("$retainKeys").and_then(Value::as_array) {
        map.retain(|key, _| keep.iter().any(|k| k == key.as_str()));
    }
    for (field, change) in changes {
        if let Some(list) = field.strip_prefix("$deleteFromPrimitiveList/") {
            delete_from_primitive_list(map, list, change);
        } else if field.starts_with('$') {
            continue;
        } else if change.is_null() {
            map.shift_remove(field);
        } else {
            match (map.get_mut(field), change) {
                (Some(current @ Value::Array(_)), Value::Array(elements)) => merge_list(current, elements, shape, field)?,
                (Some(current @ Value::Object(_)), Value::Object(_)) => strategic(current, change, shape.and_then(|s| s.field(field)))?,
                // There is nothing to merge it with.
                _ => match without_directives(change) {
                    Some(new) => drop(map.insert(field.clone(), new)),
                    None => drop(map.shift_remove(field)),
                },
            }
        }
    }
    for (field, order) in changes {
        if let Some(list) = field.strip_prefix("$setElementOrder/") {
            set_element_order(map, list, order, shape);
        }
    }
    Ok(())
}

fn merge_list(current: &mut Value, elements: &[Value], shape: Option<Shape<'_>>, field: &str) -> Result<(), Error> {
    let item = shape.and_then(|s| s.field(field)).and_then(Shape::item);
    let strategy = strategy(shape, field);
    if strategy == (PatchStrategy::Merge { key: None }) {
        if !current.is_array() {
            *current = Value::Array(Vec::new());
        }
        let Some(list) = current.as_array_mut() else { return Ok(()) };
        for element in elements {
            if !list.contains(element) {
                list.push(element.clone());
            }
        }
        return Ok(());
    }
    let replace = elements.iter().any(|e| e.get("$patch").and_then(Value::as_str) == Some("replace"));
    let key = match strategy {
        PatchStrategy::Merge { key } => key.filter(|_| !replace && elements.iter().all(Value::is_object)),
        PatchStrategy::Replace => None,
    };
    let (Some(key), Some(list)) = (key, current.as_array_mut()) else {
        *current = elements.iter().filter_map(without_directives).collect();
        return Ok(());
    };
    let before = list.clone();
    for element in elements {
        let Some(identity) = element.get(key) else {
            return Err(Error::Malformed(format!("map: {element} does not contain declared merge key: {key}")));
        };
        let found = list.iter().position(|e| e.get(key) == Some(identity) && same_protocol(e, element, key));
        match (element.get("$patch").and_then(Value::as_str), found) {
            (Some("delete"), _) => list.retain(|e| e.get(key) != Some(identity)),
            (_, Some(at)) => strategic(&mut list[at], element, item)?,
            (_, None) => list.extend(without_directives(element)),
        }
    }
    let same = |a: &Value, b: &Value| a.get(key) == b.get(key) && same_protocol(a, b, key);
    order(list, elements, &before, same);
    Ok(())
}

/// What the patch names comes in the patch's order, the rest in its own; where the two meet, an element of the server's
/// goes first only if it was before the other one before (`normalizeElementOrder`).
fn order(list: &mut Vec<Value>, patch: &[Value], before: &[Value], same: impl Fn(&Value, &Value) -> bool) {
    let at = |order: &[Value], one: &Value| order.iter().position(|known| same(known, one));
    let (mut named, kept): (Vec<Value>, Vec<Value>) = std::mem::take(list).into_iter().partition(|one| at(patch, one).is_some());
    named.sort_by_key(|one| at(patch, one));
    let (mut named, mut kept) = (named.into_iter().peekable(), kept.into_iter().peekable());
    loop {
        let server_first = match (kept.peek(), named.peek()) {
            (None, None) => return,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(left), Some(right)) => at(before, left).zip(at(before, right)).is_some_and(|(left, right)| left < right),
        };
        list.extend(if server_first { kept.next() } else { named.next() });
    }
}

/// Ports are a set by number; the same number may be there once for each protocol.
fn same_protocol(a: &Value, b: &Value, key: &str) -> bool {
    let protocol = |v: &Value| v.get("protocol").and_then(Value::as_str).unwrap_or("TCP").to_string();
    !matches!(key, "port" | "containerPort") || protocol(a) == protocol(b)
}

fn delete_from_primitive_list(map: &mut Map<String, Value>, list: &str, gone: &Value) {
    let gone = gone.as_array().map(Vec::as_slice).unwrap_or_default();
    if let Some(current) = map.get_mut(list).and_then(Value::as_array_mut) {
        current.retain(|e| !gone.contains(e));
    }
}

/// Sorts a list into the order that the patch names; elements it does not name keep their relative place at the end.
fn set_element_order(map: &mut Map<String, Value>, list: &str, order: &Value, shape: Option<Shape<'_>>) {
    let (Some(current), Some(order)) = (map.get_mut(list).and_then(Value::as_array_mut), order.as_array()) else { return };
    let key = match strategy(shape, list) {
        PatchStrategy::Merge { key } => key,
        PatchStrategy::Replace => None,
    };
    let identity = |e: &Value| key.and_then(|k| e.get(k).cloned()).unwrap_or_else(|| e.clone());
    let wanted: Vec<Value> = order.iter().map(identity).collect();
    current.sort_by_key(|e| wanted.iter().position(|w| *w == identity(e)).unwrap_or(usize::MAX));
}

/// What a patch says where nothing is to be merged with it: what has a directive itself goes (`removeDirectives`).
fn without_directives(value: &Value) -> Option<Value> {
    Some(match value {
        Value::Object(map) if map.contains_key("$patch") => return None,
        Value::Object(map) => Value::Object(plain(map)),
        Value::Array(list) => list.iter().filter_map(without_directives).collect(),
        other => other.clone(),
    })
}

fn plain(map: &Map<String, Value>) -> Map<String, Value> {
    let said = map.iter().filter(|(name, value)| !name.starts_with('$') && !value.is_null());
    said.filter_map(|(name, value)| Some((name.clone(), without_directives(value)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(kind: Kind, object: Value, patch: Value, expected: Result<Value, ()>) {
        check_as("io.k8s.api.core.v1.Pod", kind, object, patch, expected);
    }

    fn check_as(definition: &str, kind: Kind, object: Value, patch: Value, expected: Result<Value, ()>) {
        assert_eq!(apply(kind, &object, &patch, Shape::named(definition)).map_err(|_| ()), expected);
    }

    #[test]
    fn a_new_element_comes_before_those_that_the_patch_does_not_name() {
        let object = json!({"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]}});
        let patch = json!({"spec": {"containers": [{"name": "c", "image": "2"}, {"name": "b", "image": "2"}]}});
        let names = ["c", "a", "b"].map(|name| json!({"name": name, "image": if name == "a" { "1" } else { "2" }}));
        check(Kind::Strategic, object, patch, Ok(json!({"spec": {"containers": names}})));
    }

    #[test]
    fn merges_containers_by_name() {
        let object = json!({"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]}});
        let patch =
            json!({"spec": {"containers": [{"name": "b", "image": "2"}], "$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}});
        check(
            Kind::Strategic,
            object,
            patch,
            Ok(json!({"spec": {"containers": [{"name": "b", "image": "2"}, {"name": "a", "image": "1"}]}})),
        );
    }

    #[test]
    fn follows_directives() {
        let object = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}], "x": {"type": "x", "rollingUpdate": {}}}});
        let delete =
            json!({"spec": {"containers": [{"name": "a", "$patch": "delete"}], "x": {"$retainKeys": ["type"], "type": "Recreate"}}});
        check(Kind::Strategic, object, delete, Ok(json!({"spec": {"containers": [{"name": "b"}], "x": {"type": "Recreate"}}})));
        let finalizers = json!({"metadata": {"finalizers": ["a", "b"]}});
        check(
            Kind::Strategic,
            finalizers,
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}}),
            Ok(json!({"metadata": {"finalizers": ["b"]}})),
        );
    }

    #[test]
    fn keeps_a_port_for_each_protocol() {
        let object = json!({"spec": {"ports": [{"port": 53, "protocol": "UDP"}]}});
        let patch = json!({"spec": {"ports": [{"port": 53, "protocol": "TCP"}]}});
        check_as(
            "io.k8s.api.core.v1.Service",
            Kind::Strategic,
            object,
            patch,
            // What is new comes first, as Kubernetes orders it.
            Ok(json!({"spec": {"ports": [{"port": 53, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}})),
        );
    }

    #[test]
    fn deletes_with_null_and_replaces_plain_lists() {
        let object = json!({"spec": {"args": ["a"], "x": 1}});
        check(Kind::Strategic, object.clone(), json!({"spec": {"args": ["b"], "x": null}}), Ok(json!({"spec": {"args": ["b"]}})));
        check(Kind::Merge, object.clone(), json!({"spec": {"args": ["b"], "x": null}}), Ok(json!({"spec": {"args": ["b"]}})));
        check(Kind::Json, object.clone(), json!([{"op": "test", "path": "/spec/x", "value": 2}]), Err(()));
        check(Kind::Merge, object, json!([1]), Err(()));
    }
}

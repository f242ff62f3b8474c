//! JSON patch as Kubernetes' library reads RFC 6902: what a map lacks is null to `test`, `replace` and `copy`, and a
//! negative index counts from the end of a list. Clients rely on it: they `test` that there are no finalizers yet.

use json_patch::jsonptr::{Pointer, PointerBuf};
use json_patch::{AddOperation, PatchOperation};
use serde_json::Value;

use super::{Error, kind_of};

/// The operations of a patch. What is no operation does not fit any object.
pub(super) fn decode(patch: &Value) -> Result<Vec<PatchOperation>, Error> {
    let mismatch = |value: &Value, wanted: &str| {
        Error::Malformed(format!("error decoding patch: json: cannot unmarshal {} into Go value of type {wanted}", kind_of(value)))
    };
    let operations = patch.as_array().ok_or_else(|| mismatch(patch, "[]handlers.jsonPatchOp"))?;
    let decoded = operations.iter().map(|operation| {
        let mut operation = operation.as_object().ok_or_else(|| mismatch(operation, "handlers.jsonPatchOp"))?.clone();
        operation.entry("value").or_insert(Value::Null);
        serde_json::from_value(operation.into()).map_err(|e| Error::Unprocessable(e.to_string()))
    });
    decoded.collect()
}

pub(super) fn apply(target: &mut Value, operations: Vec<PatchOperation>) -> Result<(), Error> {
    for operation in operations {
        if let Some(operation) = as_in_the_rfc(operation, target) {
            json_patch::patch(target, &[operation]).map_err(|e| Error::Unprocessable(e.to_string()))?;
        }
    }
    if target.is_object() { Ok(()) } else { Err(Error::Unprocessable("what is left is no object".into())) }
}

/// The same in the words of the RFC; none where it is true that something is not there.
fn as_in_the_rfc(mut operation: PatchOperation, target: &Value) -> Option<PatchOperation> {
    use PatchOperation::{Add, Copy, Move, Remove, Replace, Test};
    match &mut operation {
        Add(add) => add.path = counted(&add.path, target, 1),
        Remove(remove) => remove.path = counted(&remove.path, target, 0),
        Replace(replace) => replace.path = counted(&replace.path, target, 0),
        Test(test) => test.path = counted(&test.path, target, 0),
        Move(moved) => (moved.from, moved.path) = (counted(&moved.from, target, 0), counted(&moved.path, target, 1)),
        Copy(copy) => (copy.from, copy.path) = (counted(&copy.from, target, 0), counted(&copy.path, target, 1)),
    }
    match operation {
        Test(test) if test.value.is_null() && is_missing(&test.path, target) => None,
        Replace(replace) if is_missing(&replace.path, target) => Some(Add(AddOperation { path: replace.path, value: replace.value })),
        Copy(copy) if is_missing(&copy.from, target) => Some(Add(AddOperation { path: copy.path, value: Value::Null })),
        other => Some(other),
    }
}

/// A path whose negative indices are counted from the ends of their lists; `beyond` is 1 for what is added, whose last
/// index may lie behind the end.
fn counted(path: &Pointer, target: &Value, beyond: usize) -> PointerBuf {
    let mut counted = PointerBuf::new();
    let mut rest = path.tokens().peekable();
    while let Some(token) = rest.next() {
        let text = token.decoded();
        let beyond = if rest.peek().is_none() { beyond } else { 0 };
        let list = counted.resolve(target).ok().and_then(Value::as_array);
        let index = list.zip(text.strip_prefix('-').and_then(|number| number.parse::<usize>().ok()));
        match index.and_then(|(list, back)| (list.len() + beyond).checked_sub(back)) {
            Some(index) => counted.push_back(index),
            None => counted.push_back(token),
        }
    }
    counted
}

/// Whether there is a map at the path's parent, without this key.
fn is_missing(path: &Pointer, target: &Value) -> bool {
    path.split_back().is_some_and(|(parent, key)| {
        let map = parent.resolve(target).ok().and_then(Value::as_object);
        map.is_some_and(|map| !map.contains_key(&*key.decoded()))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What becomes of an object with a list of three; none where the patch does not fit.
    fn check(operations: Value, expected: Option<Value>) {
        let mut target = json!({"a": [1, 2, 3], "n": null});
        let operations: Vec<PatchOperation> = serde_json::from_value(operations).expect("operations");
        let shown = format!("{operations:?}");
        assert_eq!(apply(&mut target, operations).ok().map(|()| target), expected, "{shown}");
    }

    #[test]
    fn what_a_map_lacks_is_null() {
        let same = json!({"a": [1, 2, 3], "n": null});
        check(json!([{"op": "test", "path": "/b", "value": null}, {"op": "test", "path": "/n", "value": null}]), Some(same));
        check(json!([{"op": "test", "path": "/a", "value": null}]), None);
        check(json!([{"op": "test", "path": "/b/c", "value": null}]), None);
        check(json!([{"op": "test", "path": "/b", "value": 1}]), None);
        check(json!([{"op": "test", "path": "/a/3", "value": null}]), None);
        check(json!([{"op": "replace", "path": "/b", "value": 1}]), Some(json!({"a": [1, 2, 3], "n": null, "b": 1})));
        check(json!([{"op": "replace", "path": "/b/c", "value": 1}]), None);
        check(json!([{"op": "copy", "from": "/b", "path": "/a"}]), Some(json!({"a": null, "n": null})));
        check(json!([{"op": "move", "from": "/b", "path": "/a"}]), None);
        check(json!([{"op": "remove", "path": "/b"}]), None);
    }

    #[test]
    fn negative_indices_count_from_the_end() {
        check(json!([{"op": "remove", "path": "/a/-1"}]), Some(json!({"a": [1, 2], "n": null})));
        check(json!([{"op": "replace", "path": "/a/-3", "value": 0}]), Some(json!({"a": [0, 2, 3], "n": null})));
        check(json!([{"op": "add", "path": "/a/-1", "value": 4}]), Some(json!({"a": [1, 2, 3, 4], "n": null})));
        check(json!([{"op": "add", "path": "/a/-", "value": 4}]), Some(json!({"a": [1, 2, 3, 4], "n": null})));
        check(json!([{"op": "test", "path": "/a/-2", "value": 2}]), Some(json!({"a": [1, 2, 3], "n": null})));
        check(json!([{"op": "remove", "path": "/a/-4"}]), None);
    }
}

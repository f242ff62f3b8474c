//! Sets of fields: paths into an object, as `FieldsV1` writes them (KEP-555, structured-merge-diff).
//!
//! A step of a path is kept in its written form, which is canonical: `f:name` for a field, `k:{"name":"web"}` for the
//! element of a list with keys, `v:"x"` for the element of a set, `i:0` for a position.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::schema::Shape;

/// Paths that belong together. A path may be a member and have members below it: an element of a list is owned apart
/// from its fields.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FieldSet {
    members: BTreeSet<String>,
    children: BTreeMap<String, Self>,
}

impl FieldSet {
    pub fn is_empty(&self) -> bool {
        self.members.is_empty() && self.children.values().all(Self::is_empty)
    }

    pub fn insert(&mut self, path: &[String]) {
        match path {
            [] => {}
            [last] => drop(self.members.insert(last.clone())),
            [first, rest @ ..] => self.children.entry(first.clone()).or_default().insert(rest),
        }
    }

    pub fn has(&self, step: &str) -> bool {
        self.members.contains(step)
    }

    /// The set below one step.
    pub fn below(&self, step: &str) -> Option<&Self> {
        self.children.get(step).filter(|child| !child.is_empty())
    }

    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut result = self.clone();
        result.members.extend(other.members.iter().cloned());
        for (step, child) in &other.children {
            let merged = result.children.get(step).map_or_else(|| child.clone(), |own| own.union(child));
            result.children.insert(step.clone(), merged);
        }
        result
    }

    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        self.combine(
            other,
            |members, others| members.difference(others).cloned().collect(),
            |child, theirs| match theirs {
                Some(theirs) => child.difference(theirs),
                None => child.clone(),
            },
        )
    }

    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.combine(
            other,
            |members, others| members.intersection(others).cloned().collect(),
            |child, theirs| match theirs {
                Some(theirs) => child.intersection(theirs),
                None => Self::default(),
            },
        )
    }

    /// The fields of structs that have members below them become members too: `spec`, if `spec.replicas` is one.
    #[must_use]
    pub fn with_named_fields(&self, shape: Option<Shape<'_>>) -> Self {
        let mut members = self.members.clone();
        let mut children = BTreeMap::new();
        for (step, child) in &self.children {
            if step.strip_prefix("f:").is_some_and(|name| shape.is_some_and(|s| s.declares(name))) {
                members.insert(step.clone());
            }
            children.insert(step.clone(), child.with_named_fields(shape_below(shape, step)));
        }
        Self { members, children }
    }

    /// Removes the paths, each with all that is below it.
    pub fn remove_below(&mut self, path: &[&str]) {
        match path {
            [] => {}
            [last] => {
                self.members.remove(*last);
                self.children.remove(*last);
            }
            [first, rest @ ..] => {
                if let Some(child) = self.children.get_mut(*first) {
                    child.remove_below(rest);
                }
            }
        }
        self.children.retain(|_, child| !child.is_empty());
    }

    /// Keeps only what is below these first steps.
    pub fn retain_first(&mut self, keep: impl Fn(&str) -> bool) {
        self.members.retain(|step| keep(step));
        self.children.retain(|step, _| keep(step));
    }

    /// Every member as a person reads it: `.spec.containers[name="web"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect("", &mut paths);
        paths
    }

    pub fn to_json(&self) -> Value {
        let mut map = Map::new();
        let steps: BTreeSet<&String> = self.members.iter().chain(self.children.keys()).collect();
        for step in steps {
            let mut content = Map::new();
            if let Some(child) = self.below(step) {
                if self.members.contains(step) {
                    content.insert(".".into(), Value::Object(Map::new()));
                }
                if let Value::Object(below) = child.to_json() {
                    content.extend(below);
                }
            } else if !self.members.contains(step) {
                continue;
            }
            map.insert(step.clone(), Value::Object(content));
        }
        Value::Object(map)
    }

    /// `None` where the JSON is not `FieldsV1`.
    pub fn from_json(json: &Value) -> Option<Self> {
        let mut set = Self::default();
        for (step, content) in json.as_object()? {
            let content = content.as_object()?;
            if step == "." {
                continue;
            }
            if !matches!(step.get(..2), Some("f:" | "k:" | "v:" | "i:")) {
                return None;
            }
            if content.is_empty() || content.contains_key(".") {
                set.members.insert(step.clone());
            }
            if content.keys().any(|k| k != ".") {
                set.children.insert(step.clone(), Self::from_json(&Value::Object(content.clone()))?);
            }
        }
        Some(set)
    }

    fn combine(
        &self,
        other: &Self,
        members: impl Fn(&BTreeSet<String>, &BTreeSet<String>) -> BTreeSet<String>,
        below: impl Fn(&Self, Option<&Self>) -> Self,
    ) -> Self {
        let children = self.children.iter().map(|(step, child)| (step.clone(), below(child, other.children.get(step))));
        Self { members: members(&self.members, &other.members), children: children.filter(|(_, child)| !child.is_empty()).collect() }
    }

    fn collect(&self, prefix: &str, paths: &mut Vec<String>) {
        paths.extend(self.members.iter().map(|step| format!("{prefix}{}", readable(step))));
        for (step, child) in &self.children {
            child.collect(&format!("{prefix}{}", readable(step)), paths);
        }
    }
}

/// The shape of what a step leads to.
pub(super) fn shape_below<'a>(shape: Option<Shape<'a>>, step: &str) -> Option<Shape<'a>> {
    match step.strip_prefix("f:") {
        Some(name) => shape?.field(name),
        None => shape?.item(),
    }
}

/// A step as messages show it: `.spec`, `[name="a"]`.
pub(super) fn readable(step: &str) -> String {
    let (kind, text) = step.split_at(2.min(step.len()));
    match kind {
        "f:" => format!(".{text}"),
        "k:" => {
            let keys: Map<String, Value> = serde_json::from_str(text).unwrap_or_default();
            let pairs: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
            format!("[{}]", pairs.join(","))
        }
        "v:" => format!("[={text}]"),
        _ => format!("[{text}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(json: Value) -> FieldSet {
        FieldSet::from_json(&json).expect("FieldsV1")
    }

    #[test]
    fn is_written_and_read_alike() {
        let json = json!({"f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {".": {}, "f:image": {}}}, "f:replicas": {}}});
        assert_eq!(set(json.clone()).to_json(), json);
        assert_eq!(FieldSet::from_json(&json!({"spec": {}})), None);
    }

    #[test]
    fn members_and_what_is_below_them_are_apart() {
        let (a, b) = (set(json!({"f:a": {".": {}, "f:b": {}}, "f:c": {}})), set(json!({"f:a": {"f:b": {}}})));
        assert_eq!(a.difference(&b).to_json(), json!({"f:a": {}, "f:c": {}}));
        assert_eq!(a.intersection(&b).to_json(), json!({"f:a": {"f:b": {}}}));
        assert_eq!(b.union(&set(json!({"f:a": {}}))).to_json(), json!({"f:a": {".": {}, "f:b": {}}}));
    }

    #[test]
    fn paths_are_readable() {
        let fields = set(json!({"f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {"f:image": {}}}, "f:finalizers": {"v:\"x\"": {}}}}));
        assert_eq!(fields.paths(), [".spec.containers[name=\"a\"].image", ".spec.finalizers[=\"x\"]"]);
    }
}

//! Who set which field: `metadata.managedFields`, and server-side apply, which is built on it (KEP-555).
//!
//! ```text
//!   update:  live, new     ──compare──▶ what changed goes from its managers to the writer
//!   apply:   live, config  ──merge────▶ new; what the applier no longer states is removed, unless others own it
//! ```
//!
//! Every applier states its whole intent each time; the fields that it states are its own. A field that another
//! manager set to something else is a conflict, which the applier may force.

mod entries;
mod set;
mod signed;
mod typed;

use serde_json::Value;

pub use entries::{Entries, Entry, Manager, Operation};
pub use set::FieldSet;
pub use signed::signed;

use crate::meta;
use crate::schema::Shape;

/// Updates of objects that had no managers before their first apply are this one's.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// Fields of metadata that belong to the server, whoever sends them (`stripMeta`).
const SERVER_SIDE: &[&[&str]] = &[
    &["f:apiVersion"],
    &["f:kind"],
    &["f:metadata", "f:name"],
    &["f:metadata", "f:namespace"],
    &["f:metadata", "f:creationTimestamp"],
    &["f:metadata", "f:selfLink"],
    &["f:metadata", "f:uid"],
    &["f:metadata", "f:clusterName"],
    &["f:metadata", "f:generation"],
    &["f:metadata", "f:managedFields"],
    &["f:metadata", "f:resourceVersion"],
    &["f:metadata", "f:deletionTimestamp"],
    &["f:metadata", "f:deletionGracePeriodSeconds"],
];

/// Who writes, through which door, and when.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    pub manager: &'a str,
    pub api_version: &'a str,
    /// Empty for the object itself.
    pub subresource: &'a str,
    /// RFC 3339, whole seconds.
    pub now: &'a str,
    /// Whether a write to the object leaves its status alone, because that has a door of its own.
    pub status_apart: bool,
}

/// The fields on which an applier and other managers disagree.
#[derive(Clone, Debug, PartialEq)]
pub struct Conflict {
    /// As messages name the other manager.
    pub manager: String,
    pub path: String,
}

// === impl Writer ===

impl Writer<'_> {
    fn as_manager(&self, operation: Operation) -> Manager {
        Manager { operation, name: self.manager.into(), api_version: self.api_version.into(), subresource: self.subresource.into() }
    }

    /// What this writer can own: not what is the server's, nor what his door does not let through.
    fn own(&self, mut fields: FieldSet) -> FieldSet {
        SERVER_SIDE.iter().for_each(|path| fields.remove_below(path));
        match self.subresource {
            "status" => fields.retain_first(|step| matches!(step, "f:status" | "f:metadata")),
            "" if self.status_apart => fields.retain_first(|step| step != "f:status"),
            _ => {}
        }
        if fields.below("f:metadata").is_none() {
            fields.remove_below(&["f:metadata"]);
        }
        fields
    }
}

/// Records a create or an update in `new`: what it changed is the writer's now. `old` is `None` for a creation.
pub fn update(old: Option<&Value>, new: &mut Value, shape: Option<Shape<'_>>, writer: &Writer<'_>) {
    if Entries::are_reset(new) {
        meta::edit(new).shift_remove("managedFields");
        return;
    }
    // A client may send the entries back as it got them, or edited; what cannot be read is ignored.
    let stated = Entries::of(new).filter(|entries| !entries.0.is_empty());
    let mut entries = stated.or_else(|| old.and_then(Entries::of)).unwrap_or_default();
    if entries.0.is_empty() && old.is_some() {
        // Nobody has tracked this object so far; the first apply begins.
        meta::edit(new).shift_remove("managedFields");
        return;
    }
    if !typed::is_keyed(new, shape) {
        // What cannot be told apart is nobody's: the entries stay as they were.
        entries.write_to(new);
        return;
    }
    let empty = Value::Object(serde_json::Map::new());
    let changed = typed::compare(old.unwrap_or(&empty), new, shape);
    let taken = changed.added.union(&changed.modified);
    let own = writer.as_manager(Operation::Update);
    release(&mut entries, &own, &taken, &changed.removed);
    let taken = writer.own(taken);
    let removed = &changed.removed;
    if let Some(entry) = entries.0.get_mut(&own) {
        entry.fields = entry.fields.difference(removed);
    }
    if !taken.is_empty() {
        let entry = entries.0.entry(own).or_default();
        entry.fields = entry.fields.union(&taken);
        entry.time = Some(writer.now.into());
    }
    entries.cap();
    entries.write_to(new);
}

/// Others lose what was changed or removed.
fn release(entries: &mut Entries, but: &Manager, taken: &FieldSet, removed: &FieldSet) {
    for (manager, entry) in &mut entries.0 {
        if manager != but {
            entry.fields = entry.fields.difference(taken).difference(removed);
        }
    }
    entries.0.retain(|_, entry| !entry.fields.is_empty());
}

/// The object after `config` is applied to `live`, or the conflicts that stand against it.
pub fn apply(
    live: Option<&Value>,
    config: &Value,
    shape: Option<Shape<'_>>,
    writer: &Writer<'_>,
    force: bool,
) -> Result<Value, Vec<Conflict>> {
    let empty = serde_json::json!({});
    let base = live.unwrap_or(&empty);
    let mut entries = Entries::of(base).unwrap_or_default();
    if entries.0.is_empty() && live.is_some() {
        let everything = Writer { manager: BEFORE_FIRST_APPLY, subresource: "", ..*writer };
        let fields = everything.own(typed::compare(&empty, base, shape).added);
        entries.0.insert(everything.as_manager(Operation::Update), Entry { fields, time: Some(writer.now.into()) });
    }
    let own = writer.as_manager(Operation::Apply);
    let before = entries.clone();
    let last = entries.0.get(&own).map(|entry| entry.fields.clone()).unwrap_or_default();
    let stated = writer.own(typed::field_set(config, shape));
    let mut merged = typed::merge(base, config, shape);
    entries.0.insert(own.clone(), Entry { fields: stated, time: None });
    if !last.is_empty() {
        merged = prune(&merged, &entries, &last, shape);
    }
    let changed = typed::compare(base, &merged, shape);
    let taken = changed.added.union(&changed.modified);
    let conflicts = conflicts(&entries, &own, &taken);
    if !force && !conflicts.is_empty() {
        return Err(conflicts);
    }
    release(&mut entries, &own, &taken, &changed.removed);
    let previous = before.0.get(&own);
    let is_same = changed == typed::Comparison::default() && previous.map(|e| &e.fields) == entries.0.get(&own).map(|e| &e.fields);
    if let Some(entry) = entries.0.get_mut(&own) {
        entry.time = if is_same { previous.and_then(|e| e.time.clone()) } else { Some(writer.now.into()) };
    }
    if is_same && live.is_some() && !Entries::of(base).unwrap_or_default().0.is_empty() {
        return Ok(base.clone());
    }
    entries.write_to(&mut merged);
    Ok(merged)
}

/// What is wrong with a configuration that states fields which its schema does not have (structured-merge-diff's
/// `ValidationErrors`).
pub fn undeclared(config: &Value, shape: Shape<'_>, is_custom: bool) -> Option<String> {
    let lines: Vec<String> =
        typed::undeclared(config, shape, is_custom).iter().map(|path| format!("{path}: field not declared in schema")).collect();
    match lines.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        several => Some(format!("errors:\n{}", several.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n"))),
    }
}

fn conflicts(entries: &Entries, own: &Manager, taken: &FieldSet) -> Vec<Conflict> {
    let others = entries.0.iter().filter(|(manager, _)| *manager != own);
    let of = |(manager, entry): (&Manager, &Entry)| {
        let name = manager.describe(Some(entry));
        let paths = entry.fields.intersection(taken).paths();
        paths.into_iter().map(move |path| Conflict { manager: name.clone(), path }).collect::<Vec<_>>()
    };
    others.flat_map(of).collect()
}

/// An object with all that a configuration states, whoever owns what.
pub fn merged(object: &Value, config: &Value, shape: Option<Shape<'_>>) -> Value {
    typed::merge(object, config, shape)
}

/// Removes what the applier stated last time and states no more, unless another manager owns it.
fn prune(merged: &Value, entries: &Entries, last: &FieldSet, shape: Option<Shape<'_>>) -> Value {
    let named = |set: &FieldSet| set.with_named_fields(shape);
    let nothing = || Value::Object(serde_json::Map::new());
    let taken_out = typed::remove(merged, &named(last), shape).unwrap_or_else(nothing);
    // Put back what anybody owns, and then whatever was not the applier's alone.
    let owned = entries.0.values().fold(FieldSet::default(), |all, entry| all.union(&entry.fields));
    let all = named(&typed::field_set(merged, shape));
    let kept = named(&typed::field_set(&taken_out, shape)).union(&named(&owned));
    let with_owned = typed::remove(merged, &all.difference(&kept), shape).unwrap_or_else(nothing);
    let kept = named(&typed::field_set(&with_owned, shape));
    typed::remove(merged, &all.difference(&kept).intersection(&named(last)), shape).unwrap_or_else(nothing)
}

/// The words of a 409 (`getConflictMessage`).
pub fn conflict_message(conflicts: &[Conflict]) -> String {
    if let [only] = conflicts {
        return format!("Apply failed with 1 conflict: conflict with {}: {}", only.manager, only.path);
    }
    let mut managers: Vec<&str> = conflicts.iter().map(|c| c.manager.as_str()).collect();
    managers.sort_unstable();
    managers.dedup();
    let mut lines = Vec::new();
    for manager in managers {
        lines.push(format!("conflicts with {manager}:"));
        lines.extend(conflicts.iter().filter(|c| c.manager == manager).map(|c| format!("- {}", c.path)));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_no_schema_has_are_named() {
        let pod = Shape::named("io.k8s.api.core.v1.Pod").expect("Pods have a schema");
        let config = serde_json::json!({"kind": "Pod", "spec": {"containers": [{"name": "a", "imago": "x"}], "hosts": 1}});
        let expected =
            "errors:\n  .spec.containers[name=\"a\"].imago: field not declared in schema\n  .spec.hosts: field not declared in schema";
        assert_eq!(undeclared(&config, pod, false).as_deref(), Some(expected));
        let schema = serde_json::json!({"type": "object", "properties": {
            "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "inner": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {"spec": {"type": "object"}}}}});
        let config = serde_json::json!({"open": {"any": 1}, "inner": {"kind": "X", "metadata": {"name": "a", "naem": "b"}}});
        let expected = ".inner.metadata.naem: field not declared in schema";
        assert_eq!(undeclared(&config, Site::read(&schema).shape(), true).as_deref(), Some(expected));
    }
    use crate::schema::Site;
    use serde_json::json;

    fn deployment() -> Option<Shape<'static>> {
        Shape::named("io.k8s.api.apps.v1.Deployment")
    }

    fn writer(manager: &str) -> Writer<'_> {
        Writer { manager, api_version: "apps/v1", subresource: "", now: "2026-01-01T00:00:00Z", status_apart: true }
    }

    fn config(replicas: Value, image: &str) -> Value {
        let mut config = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "labels": {"a": "b"}},
            "spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}});
        if !replicas.is_null() {
            config["spec"]["replicas"] = replicas;
        }
        config
    }

    fn fields(object: &Value, manager: &str) -> Value {
        let entries = object.pointer("/metadata/managedFields").and_then(Value::as_array).cloned().unwrap_or_default();
        entries.iter().find(|e| e["manager"] == manager).map(|e| e["fieldsV1"].clone()).unwrap_or_default()
    }

    #[test]
    fn an_applier_owns_what_it_states() {
        let applied = apply(None, &config(json!(3), "x"), deployment(), &writer("a"), false).expect("no conflict");
        assert_eq!(
            fields(&applied, "a"),
            json!({"f:metadata": {"f:labels": {"f:a": {}}}, "f:spec": {"f:replicas": {}, "f:template": {"f:spec": {
                "f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}, "f:name": {}}}}}}})
        );
    }

    #[test]
    fn a_creation_owns_pointers_and_maps_as_such() {
        let mut created = config(json!(1), "x");
        created["spec"]["strategy"] = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}});
        update(None, &mut created, deployment(), &writer("kubectl-create"));
        let fields = fields(&created, "kubectl-create");
        assert_eq!(fields.pointer("/f:metadata/f:labels"), Some(&json!({".": {}, "f:a": {}})));
        assert_eq!(fields.pointer("/f:spec/f:strategy"), Some(&json!({"f:rollingUpdate": {".": {}, "f:maxSurge": {}}, "f:type": {}})));
        assert_eq!(fields.pointer("/f:spec/f:template/f:spec/f:containers/k:{\"name\":\"c\"}/."), Some(&json!({})));
    }

    #[test]
    fn another_value_is_a_conflict_that_may_be_forced() {
        let live = apply(None, &config(json!(3), "x"), deployment(), &writer("a"), false).expect("no conflict");
        let conflicts = apply(Some(&live), &config(json!(4), "x"), deployment(), &writer("b"), false).expect_err("a conflict");
        assert_eq!(conflict_message(&conflicts), "Apply failed with 1 conflict: conflict with \"a\": .spec.replicas");
        let forced = apply(Some(&live), &config(json!(4), "x"), deployment(), &writer("b"), true).expect("forced");
        assert_eq!(forced.pointer("/spec/replicas"), Some(&json!(4)));
        assert_eq!(fields(&forced, "a").pointer("/f:spec/f:replicas"), None);
    }

    #[test]
    fn what_is_no_longer_stated_goes_unless_others_own_it() {
        let live = apply(None, &config(json!(3), "x"), deployment(), &writer("a"), false).expect("no conflict");
        let alone = apply(Some(&live), &config(Value::Null, "x"), deployment(), &writer("a"), false).expect("no conflict");
        assert_eq!(alone.pointer("/spec/replicas"), None);
        let shared = apply(Some(&live), &config(json!(3), "x"), deployment(), &writer("b"), false).expect("same value");
        let kept = apply(Some(&shared), &config(Value::Null, "x"), deployment(), &writer("a"), false).expect("no conflict");
        assert_eq!(kept.pointer("/spec/replicas"), Some(&json!(3)));
    }

    #[test]
    fn applying_twice_changes_nothing() {
        let live = apply(None, &config(json!(3), "x"), deployment(), &writer("a"), false).expect("no conflict");
        let later = Writer { now: "2027-01-01T00:00:00Z", ..writer("a") };
        assert_eq!(apply(Some(&live), &config(json!(3), "x"), deployment(), &later, false).as_ref(), Ok(&live));
    }

    #[test]
    fn elements_of_a_list_are_merged_by_their_keys() {
        let live = apply(None, &config(json!(3), "x"), deployment(), &writer("a"), false).expect("no conflict");
        let sidecar = json!({"spec": {"template": {"spec": {"containers": [{"name": "s", "image": "y"}]}}}});
        let both = apply(Some(&live), &sidecar, deployment(), &writer("b"), false).expect("no conflict");
        let names = |o: &Value| -> Vec<String> {
            let list = o.pointer("/spec/template/spec/containers").and_then(Value::as_array).cloned().unwrap_or_default();
            list.iter().map(|c| c["name"].as_str().unwrap_or_default().to_string()).collect()
        };
        assert_eq!(names(&both), ["c", "s"]);
        let gone = apply(Some(&both), &json!({"spec": {}}), deployment(), &writer("b"), false).expect("no conflict");
        assert_eq!(names(&gone), ["c"]);
    }
}

//! Who wrote which field, for those that write records and no requests: controllers, the scheduler, kubelets.

use serde_json::{Map, Value};

use super::{Writer, update};
use crate::record::Record;
use crate::registry::{Resource, Subresource};

const METADATA: &str = "metadata";
const STATUS: &str = "status";

/// A new version of a record, with who changed what since the old one. What the writer changes of the status goes through
/// the door of that, the rest through the one that he says. Only segments that differ are looked at, and objects that
/// nobody has tracked so far are left so.
#[must_use]
pub fn signed(resource: &Resource, old: &Record, new: Record, writer: &Writer<'_>) -> Record {
    let is_tracked = |json: &[u8]| json.windows(b"\"managedFields\"".len()).any(|window| window == b"\"managedFields\"");
    if !old.segment(METADATA).is_some_and(|json| is_tracked(json)) {
        return new;
    }
    let changed: Vec<String> = new.changes_from(old).into_iter().map(|segment| segment.field).collect();
    let part = |record: &Record, wanted: &dyn Fn(&str) -> bool| -> Map<String, Value> {
        let fields = changed.iter().map(String::as_str).filter(|field| *field != METADATA && wanted(field));
        fields.filter_map(|field| Some((field.to_string(), record.field(field)?))).collect()
    };
    let has_door = |field: &str| field == STATUS && resource.has(Subresource::Status);
    let mut metadata = new.field(METADATA).unwrap_or_default();
    let mut before = old.field(METADATA).unwrap_or_default();
    let touches = |is_here: &dyn Fn(&str) -> bool| changed.iter().any(|field| field != METADATA && is_here(field));
    let is_own = |field: &str| !has_door(field);
    // Metadata goes with the object itself, unless only a status has changed.
    let own = touches(&is_own) || !touches(&has_door);
    let mut sign = |subresource: &str, is_here: &dyn Fn(&str) -> bool| {
        let (mut was, mut is) = (part(old, is_here), part(&new, is_here));
        was.insert(METADATA.into(), before.clone());
        is.insert(METADATA.into(), metadata.clone());
        let (was, mut is) = (Value::Object(was), Value::Object(is));
        update(Some(&was), &mut is, resource.shape(), &Writer { subresource, ..*writer });
        metadata = is[METADATA].take();
        before.clone_from(&metadata);
    };
    if own {
        sign(writer.subresource, &is_own);
    }
    if touches(&has_door) {
        sign(STATUS, &has_door);
    }
    let version = new.version();
    let mut segments = Record::from_value(&Value::Object(Map::from_iter([(METADATA.to_string(), metadata)]))).segments;
    segments.extend(new.segments.into_iter().filter(|segment| segment.field != METADATA));
    let signed = Record { format: new.format, segments };
    match version {
        Some(version) => signed.in_version(&version),
        None => signed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::managed::{Entries, Operation};
    use crate::registry;
    use serde_json::json;

    fn writer<'a>(manager: &'a str, subresource: &'a str) -> Writer<'a> {
        Writer { manager, api_version: "apps/v1", subresource, now: "2026-01-02T00:00:00Z", status_apart: true }
    }

    /// Who manages which fields after a change, as `manager/subresource: paths`.
    fn check(door: &str, change: impl FnOnce(&mut Value), expected: &[&str]) {
        let resource = registry::find("apps", "v1", "deployments").expect("the registry has it");
        let mut object =
            json!({"metadata": {"name": "a", "labels": {"l": "1"}}, "spec": {"replicas": 1, "paused": false}, "status": {"replicas": 1}});
        update(None, &mut object, resource.shape(), &writer("kubectl", ""));
        let old = Record::from_value(&object);
        change(&mut object);
        let signed = signed(resource, &old, Record::from_value(&object), &writer("manager", door));
        let value = signed.to_value("apps/v1", "Deployment", 1);
        let entries = Entries::of(&value).expect("they are there");
        let mut found: Vec<String> = entries
            .0
            .iter()
            .map(|(manager, entry)| {
                assert_eq!(manager.operation, Operation::Update);
                format!("{}/{}: {}", manager.name, manager.subresource, entry.fields.paths().join(" "))
            })
            .collect();
        found.sort();
        assert_eq!(found, expected);
        object["metadata"].as_object_mut().expect("an object").shift_remove("managedFields");
        let mut without = value;
        without["metadata"].as_object_mut().expect("an object").shift_remove("managedFields");
        assert_eq!((&without["spec"], &without["status"]), (&object["spec"], &object["status"]));
    }

    #[test]
    fn a_change_goes_through_the_door_of_what_it_changes() {
        let kubectl = "kubectl/: .metadata.labels .metadata.labels.l .spec.paused .spec.replicas";
        check("", |_| {}, &[kubectl]);
        check("", |object| object["status"]["replicas"] = 2.into(), &[kubectl, "manager/status: .status.replicas"]);
        let fewer = "kubectl/: .metadata.labels .metadata.labels.l .spec.paused";
        check("scale", |object| object["spec"]["replicas"] = 2.into(), &[fewer, "manager/scale: .spec.replicas"]);
        let both = |object: &mut Value| {
            object["spec"]["replicas"] = 2.into();
            object["status"]["replicas"] = 2.into();
            object["metadata"]["labels"]["m"] = "2".into();
        };
        check("", both, &[fewer, "manager/: .metadata.labels.m .spec.replicas", "manager/status: .status.replicas"]);
        check(
            "",
            |object| object["metadata"]["annotations"] = json!({"a": "1"}),
            &[kubectl, "manager/: .metadata.annotations .metadata.annotations.a"],
        );
    }

    #[test]
    fn what_nobody_tracked_is_left_so() {
        let resource = registry::find("apps", "v1", "deployments").expect("the registry has it");
        let old = Record::from_value(&json!({"metadata": {"name": "a"}, "spec": {"replicas": 1}}));
        let new = Record::from_value(&json!({"metadata": {"name": "a"}, "spec": {"replicas": 2}}));
        assert_eq!(signed(resource, &old, new.clone(), &writer("manager", "")), new);
    }
}

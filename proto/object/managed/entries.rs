//! `metadata.managedFields`: who set which fields, when and how.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::set::FieldSet;
use crate::meta;

/// Update managers beyond this are folded into one (KEP-555, `capManagersManager`).
const UPDATERS_MAX: usize = 10;

const ANCIENT: &str = "ancient-changes";

/// Sorted as Kubernetes sorts: appliers first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Apply,
    Update,
}

/// Who manages fields: one entry of `managedFields`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Manager {
    pub operation: Operation,
    pub name: String,
    pub api_version: String,
    pub subresource: String,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entry {
    pub fields: FieldSet,
    pub time: Option<String>,
}

/// All managers of one object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entries(pub BTreeMap<Manager, Entry>);

// === impl Manager ===

impl Manager {
    /// As a conflict names it.
    pub(super) fn describe(&self, entry: Option<&Entry>) -> String {
        let mut text = format!("{:?}", self.name);
        if !self.subresource.is_empty() {
            text = format!("{text} with subresource {:?}", self.subresource);
        }
        match (self.operation, entry.and_then(|e| e.time.as_deref())) {
            (Operation::Apply, _) => text,
            (Operation::Update, None) => format!("{text} using {}", self.api_version),
            (Operation::Update, Some(time)) => format!("{text} using {} at {time}", self.api_version),
        }
    }
}

// === impl Entries ===

impl Entries {
    /// What an object says; `None` where that cannot be read.
    pub fn of(object: &Value) -> Option<Self> {
        let mut entries = BTreeMap::new();
        for entry in meta::get(object, "managedFields").and_then(Value::as_array).into_iter().flatten() {
            let text = |field: &str| entry.get(field).and_then(Value::as_str).unwrap_or_default().to_string();
            let operation = match text("operation").as_str() {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                _ => return None,
            };
            if entry.get("fieldsType").and_then(Value::as_str) != Some("FieldsV1") {
                return None;
            }
            let fields = FieldSet::from_json(entry.get("fieldsV1").unwrap_or(&json!({})))?;
            let manager = Manager { operation, name: text("manager"), api_version: text("apiVersion"), subresource: text("subresource") };
            entries.insert(manager, Entry { fields, time: Some(text("time")).filter(|t| !t.is_empty()) });
        }
        Some(Self(entries))
    }

    /// Whether an object asks for its entries to be forgotten: an empty list, or one empty entry.
    pub fn are_reset(object: &Value) -> bool {
        match meta::get(object, "managedFields").and_then(Value::as_array).map(Vec::as_slice) {
            Some([]) => true,
            Some([one]) => one.as_object().is_some_and(serde_json::Map::is_empty),
            _ => false,
        }
    }

    pub fn write_to(&self, object: &mut Value) {
        let metadata = meta::edit(object);
        let mut entries: Vec<(&Manager, &Entry)> = self.0.iter().filter(|(_, entry)| !entry.fields.is_empty()).collect();
        if entries.is_empty() {
            metadata.shift_remove("managedFields");
            return;
        }
        entries.sort_by(|(a, x), (b, y)| (a.operation, &x.time, a).cmp(&(b.operation, &y.time, b)));
        let json = |(manager, entry): (&Manager, &Entry)| {
            let mut json = json!({"manager": manager.name, "operation": if manager.operation == Operation::Apply { "Apply" } else { "Update" },
                "apiVersion": manager.api_version});
            if let Some(time) = &entry.time {
                json["time"] = time.clone().into();
            }
            json["fieldsType"] = "FieldsV1".into();
            json["fieldsV1"] = entry.fields.to_json();
            if !manager.subresource.is_empty() {
                json["subresource"] = manager.subresource.clone().into();
            }
            json
        };
        metadata.insert("managedFields".into(), entries.into_iter().map(json).collect());
    }

    /// Folds the oldest update managers into one when they are too many.
    pub(super) fn cap(&mut self) {
        let mut updaters: Vec<(Option<String>, Manager)> = self
            .0
            .iter()
            .filter(|(manager, _)| manager.operation == Operation::Update && manager.subresource.is_empty())
            .map(|(manager, entry)| (entry.time.clone(), manager.clone()))
            .collect();
        updaters.sort();
        let excess = updaters.len().saturating_sub(UPDATERS_MAX);
        if excess == 0 {
            return;
        }
        for (_, manager) in updaters.into_iter().take(excess + 1) {
            let Some(entry) = self.0.remove(&manager) else { continue };
            let ancient = self.0.entry(Manager { name: ANCIENT.into(), ..manager }).or_default();
            ancient.fields = ancient.fields.union(&entry.fields);
            ancient.time = ancient.time.clone().max(entry.time);
        }
    }
}

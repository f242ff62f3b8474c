//! What an update leaves as it was is not judged again (KEP-4008): a schema may become stricter than objects that are
//! there, and their owners can still change the rest of them.

use serde_json::Value;

/// A value, and what it was before the update, where that can be told: elements of lists only by their keys.
#[derive(Clone, Copy)]
pub(super) struct Change<'a> {
    pub(super) new: &'a Value,
    pub(super) old: Option<&'a Value>,
    /// Whether the closest thing around it that can be told is as it was.
    is_around_unchanged: bool,
}

// === impl Change ===

impl<'a> Change<'a> {
    pub(super) fn new(new: &'a Value, old: Option<&'a Value>) -> Self {
        Self { new, old, is_around_unchanged: false }
    }

    /// The same value as if it had not been there.
    pub(super) fn anew(self) -> Self {
        Self::new(self.new, None)
    }

    pub(super) fn field(self, name: &str, new: &'a Value) -> Self {
        self.below(new, self.old.and_then(|old| old.get(name)))
    }

    pub(super) fn item(self, schema: &Value, new: &'a Value) -> Self {
        if schema.get("x-kubernetes-list-type").is_none_or(|kind| kind != "map") {
            return self.below(new, None);
        }
        let keys = || schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        let same = |other: &&Value| keys().all(|key| other.get(key) == new.get(key));
        self.below(new, self.old.and_then(Value::as_array).and_then(|old| old.iter().find(same)))
    }

    fn below(self, new: &'a Value, old: Option<&'a Value>) -> Self {
        let is_around_unchanged = if self.old.is_some() { self.is_unchanged() } else { self.is_around_unchanged };
        Self { new, old, is_around_unchanged }
    }

    pub(super) fn is_unchanged(self) -> bool {
        self.old == Some(self.new)
    }

    /// The same, or part of something that is: rules judge also what cannot be told apart.
    pub(super) fn is_settled(self) -> bool {
        if self.old.is_some() { self.is_unchanged() } else { self.is_around_unchanged }
    }
}

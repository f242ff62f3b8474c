//! Second faces of stored objects: fields under other names, from one version to another and back.

pub(crate) mod autoscaler;
pub(crate) mod event;

use serde_json::{Map, Value};

/// Moves a field to another name; absent stays absent.
fn rename(map: &mut Map<String, Value>, from: &str, to: &str) {
    if let Some(value) = map.shift_remove(from) {
        map.insert(to.into(), value);
    }
}

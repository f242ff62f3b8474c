//! Events of `events.k8s.io/v1` are the core group's, with other names for some fields (KEP-383).

use serde_json::Value;

use super::rename;

const NAMES: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

pub(crate) fn show(event: &mut Value) {
    let Some(map) = event.as_object_mut() else { return };
    NAMES.iter().for_each(|(stored, shown)| rename(map, stored, shown));
}

pub(crate) fn store(event: &mut Value) {
    let Some(map) = event.as_object_mut() else { return };
    NAMES.iter().for_each(|(stored, shown)| rename(map, shown, stored));
}

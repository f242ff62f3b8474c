//! The replicas of a workload: what `scale` shows and changes, and what autoscalers work on.

use serde_json::{Value, json};

use crate::custom::{self, Scale as Paths};
use crate::{Resource, table};

/// What a workload says of its replicas.
#[derive(Clone, Debug, PartialEq)]
pub struct Scale {
    pub wanted: i64,
    pub found: i64,
    /// The selector of its Pods, as text.
    pub selector: String,
}

/// Reads the replicas of an object whose resource has the subresource `scale`.
pub fn of(resource: &Resource, object: &Value) -> Scale {
    let number = |value: Option<&Value>| value.and_then(Value::as_i64).unwrap_or(0);
    match paths(resource) {
        Some(paths) => Scale {
            wanted: number(custom::at(object, &paths.spec_replicas)),
            found: number(custom::at(object, &paths.status_replicas)),
            selector: paths.label_selector.as_deref().and_then(|path| custom::at(object, path)?.as_str()).unwrap_or_default().into(),
        },
        None => Scale {
            wanted: number(object.pointer("/spec/replicas")),
            found: number(object.pointer("/status/replicas")),
            selector: table::selector_text(object),
        },
    }
}

pub fn set(resource: &Resource, object: &mut Value, replicas: i64) {
    match paths(resource) {
        Some(paths) => custom::put(object, &paths.spec_replicas, json!(replicas)),
        None => object["spec"]["replicas"] = replicas.into(),
    }
}

/// Where a custom resource has what is scaled.
fn paths(resource: &Resource) -> Option<&Paths> {
    resource.custom.as_ref()?.scale.as_ref()
}

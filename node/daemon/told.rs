//! Events about nodes, so that what the cluster does by itself is explained.

use jiff::Timestamp;
use serde_json::json;
use skein_object::{meta, registry};
use skein_store::Handle;
use tracing::warn;

use crate::found;

pub(crate) async fn about_node(store: &Handle, node: &str, reason: &str, message: &str) {
    let resource = registry::find("", "v1", "events").expect("the registry has events");
    let now = Timestamp::now();
    let time = meta::time(now);
    let object = json!({
        "metadata": {"name": format!("{node}.{:x}", now.as_nanosecond())},
        "involvedObject": {"kind": "Node", "apiVersion": "v1", "name": node},
        "reason": reason, "message": message, "type": "Normal",
        "source": {"component": "skein"}, "reportingComponent": "skein", "reportingInstance": "",
        "firstTimestamp": time, "lastTimestamp": time, "count": 1, "eventTime": null,
    });
    if let Err(why) = store.propose(found::creation(resource, "default", object).into()).await {
        warn!(%why, reason, message, "an event is told here only");
    }
}

/// Tells of this node's state when it was wrong and has been replaced.
pub(crate) async fn of_replacements(store: Handle, node: String) {
    let mut replaced = store.watch_replaced();
    while replaced.changed().await.is_ok() {
        let what = replaced.borrow_and_update().clone();
        if let Some(what) = what {
            about_node(&store, &node, "StateReplaced", &what).await;
        }
    }
}

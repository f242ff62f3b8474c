//! What the kubelet writes to the cluster. Nothing here waits for a quorum in a worker's way: a status waits in its
//! writer, the newest replacing what has not been written yet.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use skein_command::{Cause, Write};
use skein_object::managed::{self, Writer};
use skein_object::registry::Subresource;
use skein_object::{Key, Record, Resource, meta, registry};
use skein_state::Entry;
use skein_store::Handle as Store;
use tokio::sync::watch;
use tracing::debug;

const RETRY: Duration = Duration::from_millis(300);
const CATCH_UP: Duration = Duration::from_secs(2);

/// What a Pod's writer is asked to bring about.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Wish {
    #[default]
    Nothing,
    Status(Value),
    /// Nothing of the Pod is left on this node: remove its object.
    Gone,
}

/// Writes the newest wish of one Pod until it is so, or the Pod is not ours any more.
pub(crate) async fn pod_writer(store: Store, key: Key, uid: String, mut wishes: watch::Receiver<Wish>) {
    while wishes.changed().await.is_ok() {
        loop {
            let wish = wishes.borrow_and_update().clone();
            match write_wish(&store, &key, &uid, &wish).await {
                Ok(()) => break,
                Err(why) => {
                    debug!(%key, %why, "a Pod's status waits");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

async fn write_wish(store: &Store, key: &Key, uid: &str, wish: &Wish) -> Result<(), crate::Error> {
    let view = store.local();
    let Some(entry) = view.state.get(key) else { return Ok(()) };
    let old = entry.record.to_value("v1", "Pod", entry.revision);
    if meta::text(&old, "uid") != uid {
        return Ok(());
    }
    let write = match wish {
        Wish::Nothing => return Ok(()),
        Wish::Gone if meta::finalizers(&old).is_empty() => Write::delete(key, entry.revision),
        Wish::Gone => return Ok(()),
        Wish::Status(status) => {
            let mut new = old.clone();
            new["status"] = status.clone();
            if new == old {
                return Ok(());
            }
            update(key, entry, &new)
        }
    };
    let outcome = store.propose(write.into()).await?;
    match outcome.result() {
        Ok(_) => Ok(()),
        Err(refusal) => {
            if refusal.cause() == Cause::Conflict {
                store.wait_revision(refusal.found, CATCH_UP).await;
            }
            Err(crate::Error::Conflict)
        }
    }
}

/// An update of a built-in object by the kubelet, recorded as its own.
pub(crate) fn update(key: &Key, entry: &Entry, new: &Value) -> Write {
    let mut record = Record::from_value(new).marked_like(&entry.record);
    if let Some(resource) = registry::by_key(key.resource()) {
        let (api_version, now) = (resource.api_version(), meta::time(Timestamp::now()));
        record = managed::signed(resource, &entry.record, record, &writer(resource, &api_version, &now));
    }
    Write::update(key, entry.revision, &entry.record, &record)
}

/// A new object that the kubelet makes, recorded as its own.
pub(crate) fn create(resource: &Resource, namespace: &str, mut object: Value) -> Write {
    let (api_version, now) = (resource.api_version(), meta::time(Timestamp::now()));
    managed::update(None, &mut object, resource.shape(), &writer(resource, &api_version, &now));
    let key = Key::new(resource.stored(), namespace, meta::name(&object));
    Write::create(&key, Record::from_value(&object))
}

fn writer<'a>(resource: &Resource, api_version: &'a str, now: &'a str) -> Writer<'a> {
    Writer { manager: "kubelet", api_version, subresource: "", now, status_apart: resource.has(Subresource::Status) }
}

/// An Event about a Pod, told once and not insisted on.
#[derive(Clone, Debug)]
pub(crate) struct Note {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) warning: bool,
    /// `spec.containers{NAME}`; empty for the Pod as a whole.
    pub(crate) field_path: String,
}

/// Tells of a Pod, or of the node itself.
pub(crate) fn tell(store: &Store, node: &str, about: &Key, uid: &str, note: Note) {
    let resource = registry::find("", "v1", "events").expect("the registry has events");
    let now = Timestamp::now();
    let time = meta::time(now);
    // What is in no namespace is told of in the default one.
    let (kind, namespace) = if about.namespace().is_empty() { ("Node", "default") } else { ("Pod", about.namespace()) };
    let mut object = json!({
        "metadata": {"name": format!("{}.{:x}", about.name(), now.as_nanosecond())},
        "involvedObject": {"kind": kind, "apiVersion": "v1", "namespace": about.namespace(), "name": about.name(), "uid": uid},
        "reason": note.reason, "message": note.message, "type": if note.warning { "Warning" } else { "Normal" },
        "source": {"component": "kubelet", "host": node}, "reportingComponent": "kubelet", "reportingInstance": node,
        "firstTimestamp": time, "lastTimestamp": time, "count": 1, "eventTime": null,
    });
    if !note.field_path.is_empty() {
        object["involvedObject"]["fieldPath"] = note.field_path.into();
    }
    let birth = meta::Birth { uid: &uuid::Uuid::new_v4().to_string(), now: &time, suffix: "" };
    meta::at_creation(&mut object, resource, namespace, &birth);
    let key = Key::new("events", namespace, meta::name(&object));
    let write = Write::create(&key, Record::from_value(&object));
    let store = store.clone();
    tokio::spawn(async move { store.propose(write.into()).await.map(drop) });
}

//! How Pods are placed, where somebody wants it otherwise: the ConfigMap `kube-system/kube-scheduler`, whose `config.yaml`
//! is a KubeSchedulerConfiguration. One that is not right counts as none, on every leader alike, and an Event says why.

use skein_command::Transaction;
use skein_object::Key;
use skein_place::Profile;
use skein_state::{Entry, Event, State};

use crate::Mint;
use crate::snapshot::{Snapshot, ties};
use crate::write::{Note, event_once};

const PLACE: (&str, &str) = ("kube-system", "kube-scheduler");
const FIELD: &str = "config.yaml";
const COMPONENT: &str = "default-scheduler";

/// Whether an event is about the configuration.
pub fn concerns_profiles(event: &Event) -> bool {
    let key = &event.key;
    key.resource() == "configmaps" && (key.namespace(), key.name()) == PLACE
}

/// The profiles that hold.
pub fn profiles(state: &State) -> Vec<Profile> {
    let entry = state.get(&Key::new("configmaps", PLACE.0, PLACE.1));
    entry.and_then(|entry| read(entry)?.ok()).unwrap_or_else(|| vec![Profile::default()])
}

fn read(entry: &Entry) -> Option<Result<Vec<Profile>, String>> {
    let data = entry.record.field("data")?;
    Some(Profile::read(data[FIELD].as_str()?))
}

pub(crate) fn reconcile(snapshot: &Snapshot, key: &Key, mint: &mut Mint) -> Vec<Transaction> {
    let Some((entry, Err(why))) = snapshot.state.get(key).and_then(|entry| Some((entry, read(entry)?))) else { return Vec::new() };
    let uid = ties(&entry.record).uid;
    let message = format!("Pods are placed as if this were not here: {why}");
    let note = Note { regarding: key, uid: &uid, reason: "InvalidConfiguration", message, component: COMPONENT, warning: true };
    event_once(snapshot, &note, mint).into_iter().collect()
}

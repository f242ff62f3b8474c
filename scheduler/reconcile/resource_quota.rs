//! ResourceQuotas: what is used of them, counted anew when something went or the quota changed.
//!
//! Creations are charged in their own transactions, so a count that was overtaken by one is refused by the quota's
//! revision, and is made again.

use skein_command::{Transaction, Write};
use skein_object::quota::{self, QUOTAS};
use skein_object::{Key, Resource, registry};
use skein_state::Event;

use crate::Controller;
use crate::snapshot::Snapshot;
use crate::write::edit_entry;

pub(crate) fn reconcile(snapshot: &Snapshot, key: &Key) -> Vec<Transaction> {
    let (Some(entry), Some(resource)) = (snapshot.state.get(key), registry::by_key(QUOTAS)) else { return Vec::new() };
    let quota = resource.show(&entry.record, entry.revision);
    let custom = snapshot.custom_resources();
    let counted = registry::all().iter().chain(custom).filter(|r| r.namespaced && r.is_stored() && quota::concerns(&quota, r));
    let mut objects: Vec<(&Resource, serde_json::Value)> = Vec::new();
    for resource in counted {
        let prefix = Key::prefix(resource.stored(), key.namespace());
        objects.extend(snapshot.state.range(&prefix, None).map(|(_, entry)| (&**resource, resource.show(&entry.record, entry.revision))));
    }
    let status = quota::status(&quota, objects.into_iter());
    edit_entry(resource, key, entry, |object| object["status"] = status).into_iter().collect()
}

/// What a new object takes of its namespace's quotas; `Err` says why it may not be.
pub(crate) fn charges(snapshot: &Snapshot, resource: &Resource, namespace: &str, object: &serde_json::Value) -> Result<Vec<Write>, String> {
    let quotas: Vec<_> = of_namespace(snapshot, namespace).filter_map(|key| snapshot.state.show(&key)).collect();
    let charges = quota::charges(&quotas, resource, object, None)?;
    for charge in &charges {
        let quota = quotas.iter().find(|quota| skein_object::meta::name(quota) == charge.quota);
        if let Some(why) = quota.and_then(|quota| quota::exceeded(quota, &charge.amounts)) {
            return Err(why);
        }
    }
    Ok(charges.iter().map(|charge| Write::charge(namespace, charge)).collect())
}

/// The quotas that must be counted anew because of an event: an object went, or ended, or is counted only here.
pub(crate) fn of_object(snapshot: &Snapshot, event: &Event) -> Vec<(Controller, Key)> {
    let mut quotas = of_namespace(snapshot, event.key.namespace()).peekable();
    if quotas.peek().is_none() {
        return Vec::new();
    }
    let Some(resource) = snapshot.resource(&event.key).filter(|r| r.namespaced && r.stored() != QUOTAS) else { return Vec::new() };
    let concerned = quotas.filter(|key| {
        let spec = snapshot.state.get(key).and_then(|entry| entry.record.field("spec")).unwrap_or_default();
        quota::concerns(&serde_json::json!({"spec": spec}), &resource)
    });
    concerned.map(|key| (Controller::ResourceQuota, key)).collect()
}

fn of_namespace<'a>(snapshot: &'a Snapshot, namespace: &str) -> impl Iterator<Item = Key> + use<'a> {
    let prefix = Key::prefix(QUOTAS, namespace);
    let keys: Vec<Key> = snapshot.state.range(&prefix, None).map(|(key, _)| key.clone()).collect();
    keys.into_iter()
}

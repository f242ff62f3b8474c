//! What controllers see: the state, and the kinds they work on decoded once for each change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Node, Pod, ReplicationController, Service};
use serde::Deserialize;
use skein_object::custom::{self, DEFINITIONS};
use skein_object::{Key, Record, Resource, registry};
use skein_state::{Entry, Event, State};

/// A decoded object and the bytes it came from.
#[derive(Clone, Debug)]
pub struct Stored<T> {
    pub key: Key,
    pub revision: u64,
    pub record: Arc<Record>,
    pub object: Arc<T>,
}

const SLICES: &str = "endpointslices.discovery.k8s.io";

/// Kept up to date by [`Snapshot::observe`], event by event.
#[derive(Clone, Default)]
pub struct Snapshot {
    pub state: State,
    pub pods: BTreeMap<Key, Stored<Pod>>,
    pub nodes: BTreeMap<Key, Stored<Node>>,
    pub deployments: BTreeMap<Key, Stored<Deployment>>,
    pub replica_sets: BTreeMap<Key, Stored<ReplicaSet>>,
    pub replication_controllers: BTreeMap<Key, Stored<ReplicationController>>,
    pub services: BTreeMap<Key, Stored<Service>>,
    pub daemon_sets: BTreeMap<Key, Stored<DaemonSet>>,
    pub jobs: BTreeMap<Key, Stored<Job>>,
    pub stateful_sets: BTreeMap<Key, Stored<StatefulSet>>,
    pub cron_jobs: BTreeMap<Key, Stored<CronJob>>,
    /// The stored version of each custom resource, by the name of its definition, which keys start with.
    custom: BTreeMap<String, Arc<Resource>>,
    /// Those whose definitions have gone: what their objects owned is to go too.
    former: BTreeMap<String, Arc<Resource>>,
    /// Where the object with a uid is.
    by_uid: BTreeMap<String, Key>,
    /// Who names a uid as its owner.
    dependents: BTreeMap<String, BTreeSet<Key>>,
    /// The EndpointSlices of a Service, by its key.
    slices: BTreeMap<Key, BTreeSet<Key>>,
}

/// The part of metadata that ties objects together.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Ties {
    pub(crate) uid: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) owner_references: Vec<Owner>,
    pub(crate) finalizers: Vec<String>,
    pub(crate) deletion_timestamp: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Owner {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) block_owner_deletion: bool,
}

// === impl Stored ===

impl<T> Stored<T> {
    /// The object as the state holds it.
    pub(crate) fn entry(&self) -> Entry {
        Entry { revision: self.revision, record: Arc::clone(&self.record) }
    }
}

// === impl Snapshot ===

impl Snapshot {
    /// Everything anew, from a state.
    pub fn of(state: &State) -> Self {
        let mut snapshot = Self { state: state.clone(), ..Self::default() };
        for (key, entry) in state.range("", None) {
            snapshot.put(key, entry);
        }
        snapshot
    }

    /// Moves on by one event. `state` must be the state after it.
    pub fn observe(&mut self, event: &Event) {
        if let Some(before) = &event.before {
            self.remove(&event.key, before);
        }
        if let Some(after) = &event.after {
            self.put(&event.key, after);
        }
    }

    pub(crate) fn pods_in<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Stored<Pod>> {
        let pods = self.pods.range(Key::new("pods", namespace, "")..);
        pods.take_while(move |(key, _)| key.namespace() == namespace).map(|(_, pod)| pod)
    }

    /// The resource that an object is of.
    pub(crate) fn resource(&self, key: &Key) -> Option<Arc<Resource>> {
        registry::by_key(key.resource()).or_else(|| self.custom.get(key.resource())).cloned()
    }

    /// The resource with this kind in this version.
    pub(crate) fn resource_of_kind(&self, api_version: &str, kind: &str) -> Option<Arc<Resource>> {
        registry::by_kind(api_version, kind).or_else(|| of_kind(&self.custom, api_version, kind)).cloned()
    }

    /// Whether there are or were objects of this kind in the state.
    pub(crate) fn knows_kind(&self, api_version: &str, kind: &str) -> bool {
        self.resource_of_kind(api_version, kind).is_some() || of_kind(&self.former, api_version, kind).is_some()
    }

    pub(crate) fn custom_resources(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.custom.values()
    }

    pub(crate) fn is_custom(&self, key: &Key) -> bool {
        self.custom.contains_key(key.resource())
    }

    /// The keys of all custom resource definitions.
    pub(crate) fn definitions(&self) -> Vec<Key> {
        let prefix = Key::prefix(DEFINITIONS, "");
        self.state.range(&prefix, None).map(|(key, _)| key.clone()).collect()
    }

    pub(crate) fn by_uid(&self, uid: &str) -> Option<&Key> {
        self.by_uid.get(uid)
    }

    /// The EndpointSlices that say that they are of a Service.
    pub(crate) fn slices_of<'a>(&'a self, service: &Key) -> impl Iterator<Item = (&'a Key, &'a Entry)> {
        self.slices.get(service).into_iter().flatten().filter_map(|key| Some((key, self.state.get(key)?)))
    }

    pub(crate) fn dependents(&self, uid: &str) -> impl Iterator<Item = &Key> {
        self.dependents.get(uid).into_iter().flatten()
    }

    /// Owners that wait for their dependents to go, or dependents that must be looked at because their owner went.
    pub(crate) fn waiting_owners(&self, event: &Event) -> Vec<Key> {
        let Some(subject) = event.subject() else { return Vec::new() };
        let ties = ties(&subject.record);
        if event.after.is_none() {
            let owners = ties.owner_references.iter().filter_map(|owner| self.by_uid(&owner.uid));
            return owners.chain(self.dependents(&ties.uid)).cloned().collect();
        }
        if ties.deletion_timestamp.is_some() && ties.finalizers.iter().any(|f| f == "foregroundDeletion") {
            return self.dependents(&ties.uid).cloned().collect();
        }
        // An owner that has set its dependents free, and waits for nothing else.
        let before = event.before.as_ref().map(|entry| self::ties(&entry.record).owner_references).unwrap_or_default();
        let freed = before.iter().filter(|owner| {
            let still = |kept: &Owner| kept.uid == owner.uid && (kept.block_owner_deletion || !owner.block_owner_deletion);
            !ties.owner_references.iter().any(still)
        });
        freed.filter_map(|owner| self.by_uid(&owner.uid)).cloned().collect()
    }

    fn put(&mut self, key: &Key, entry: &Entry) {
        let ties = ties(&entry.record);
        for owner in &ties.owner_references {
            self.dependents.entry(owner.uid.clone()).or_default().insert(key.clone());
        }
        self.by_uid.insert(ties.uid, key.clone());
        match key.resource() {
            SLICES => drop(service_of(key, &ties.labels).map(|service| self.slices.entry(service).or_default().insert(key.clone()))),
            "pods" => put(&mut self.pods, key, entry),
            "nodes" => put(&mut self.nodes, key, entry),
            "deployments.apps" => put(&mut self.deployments, key, entry),
            "replicasets.apps" => put(&mut self.replica_sets, key, entry),
            "replicationcontrollers" => put(&mut self.replication_controllers, key, entry),
            "services" => put(&mut self.services, key, entry),
            "daemonsets.apps" => put(&mut self.daemon_sets, key, entry),
            "jobs.batch" => put(&mut self.jobs, key, entry),
            "statefulsets.apps" => put(&mut self.stateful_sets, key, entry),
            "cronjobs.batch" => put(&mut self.cron_jobs, key, entry),
            DEFINITIONS => {
                let definition = entry.record.to_value("apiextensions.k8s.io/v1", "CustomResourceDefinition", entry.revision);
                if let Some(stored) = custom::resources(&definition).into_iter().next() {
                    self.custom.insert(key.name().into(), Arc::new(stored));
                }
            }
            _ => {}
        }
    }

    fn remove(&mut self, key: &Key, before: &Entry) {
        let ties = ties(&before.record);
        for owner in &ties.owner_references {
            if let Some(set) = self.dependents.get_mut(&owner.uid) {
                set.remove(key);
                if set.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
        self.by_uid.remove(&ties.uid);
        match key.resource() {
            SLICES => {
                if let Some((service, mut slices)) = service_of(key, &ties.labels).and_then(|service| self.slices.remove_entry(&service)) {
                    slices.remove(key);
                    if !slices.is_empty() {
                        self.slices.insert(service, slices);
                    }
                }
            }
            "pods" => drop(self.pods.remove(key)),
            "nodes" => drop(self.nodes.remove(key)),
            "deployments.apps" => drop(self.deployments.remove(key)),
            "replicasets.apps" => drop(self.replica_sets.remove(key)),
            "replicationcontrollers" => drop(self.replication_controllers.remove(key)),
            "services" => drop(self.services.remove(key)),
            "daemonsets.apps" => drop(self.daemon_sets.remove(key)),
            "jobs.batch" => drop(self.jobs.remove(key)),
            "statefulsets.apps" => drop(self.stateful_sets.remove(key)),
            "cronjobs.batch" => drop(self.cron_jobs.remove(key)),
            DEFINITIONS => self.former.extend(self.custom.remove_entry(key.name())),
            _ => {}
        }
    }
}

/// The Service that a slice says that it is of.
fn service_of(slice: &Key, labels: &BTreeMap<String, String>) -> Option<Key> {
    Some(Key::new("services", slice.namespace(), labels.get("kubernetes.io/service-name")?))
}

fn put<T>(map: &mut BTreeMap<Key, Stored<T>>, key: &Key, entry: &Entry)
where
    T: k8s_openapi::Resource + serde::de::DeserializeOwned,
{
    if let Some(object) = entry.record.typed::<T>(entry.revision) {
        let stored = Stored { key: key.clone(), revision: entry.revision, record: Arc::clone(&entry.record), object: Arc::new(object) };
        map.insert(key.clone(), stored);
    }
}

pub(crate) fn ties(record: &Record) -> Ties {
    record.segment("metadata").and_then(|json| serde_json::from_slice(json).ok()).unwrap_or_default()
}

fn of_kind<'a>(resources: &'a BTreeMap<String, Arc<Resource>>, api_version: &str, kind: &str) -> Option<&'a Arc<Resource>> {
    let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
    resources.values().find(|resource| resource.kind == kind && resource.group == group)
}

/// An object's labels.
pub fn labels_of(entry: &Entry) -> BTreeMap<String, String> {
    ties(&entry.record).labels
}

/// The keys of an object's owners, before and after an event.
pub(crate) fn owners(event: &Event) -> Vec<Key> {
    let entries = event.before.iter().chain(&event.after);
    let mut keys: Vec<Key> = entries.flat_map(|entry| owner_keys(&ties(&entry.record), event.key.namespace())).collect();
    keys.sort();
    keys.dedup();
    keys
}

fn owner_keys(ties: &Ties, namespace: &str) -> Vec<Key> {
    let key = |owner: &Owner| {
        let resource = registry::by_kind(&owner.api_version, &owner.kind)?;
        Some(Key::new(resource.stored(), if resource.namespaced { namespace } else { "" }, &owner.name))
    };
    ties.owner_references.iter().filter_map(key).collect()
}

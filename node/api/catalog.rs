//! Every resource that is served: the built-in ones and those that CustomResourceDefinitions describe.
//!
//! Definitions are objects like any other, so what is served follows from the state that a request sees: nothing has to
//! be told, and every node serves the same. What is made of a definition is kept until it changes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use skein_object::custom::{self, DEFINITIONS};
use skein_object::{Key, Resource, registry};
use skein_state::{Entry, State};

/// What was made of each definition, by its name, with the revision that it was made from.
#[derive(Default)]
pub(crate) struct Catalog(Mutex<BTreeMap<String, Made>>);

struct Made {
    revision: u64,
    resources: Vec<Arc<Resource>>,
}

// === impl Catalog ===

impl Catalog {
    pub(crate) fn find(&self, state: &State, group: &str, version: &str, plural: &str) -> Option<Arc<Resource>> {
        if let Some(built_in) = registry::find(group, version, plural) {
            return Some(Arc::clone(built_in));
        }
        let entry = state.get(&Key::new(DEFINITIONS, "", &format!("{plural}.{group}")))?;
        self.of_definition(&format!("{plural}.{group}"), entry).into_iter().find(|r| r.version == version && r.group == group)
    }

    /// A resource in the version that is stored, by the name that its objects are stored under.
    pub(crate) fn stored(&self, state: &State, name: &str) -> Option<Arc<Resource>> {
        let of_definition = || {
            let resources = self.of_definition(name, state.get(&Key::new(DEFINITIONS, "", name))?);
            resources.into_iter().find(|resource| resource.api_version() == resource.storage_version())
        };
        registry::by_key(name).cloned().or_else(of_definition)
    }

    /// All that is served, in the order of discovery.
    pub(crate) fn all(&self, state: &State) -> Vec<Arc<Resource>> {
        let mut all: Vec<Arc<Resource>> = registry::all().to_vec();
        for (key, entry) in state.range(&Key::prefix(DEFINITIONS, ""), None) {
            all.extend(self.of_definition(key.name(), entry));
        }
        all
    }

    fn of_definition(&self, name: &str, entry: &Entry) -> Vec<Arc<Resource>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = kept.get(name).filter(|made| made.revision == entry.revision) {
            return made.resources.clone();
        }
        let definition = entry.record.to_value("apiextensions.k8s.io/v1", "CustomResourceDefinition", entry.revision);
        let served = if custom::is_established(&definition) { custom::resources(&definition) } else { Vec::new() };
        let resources: Vec<Arc<Resource>> = served.into_iter().map(Arc::new).collect();
        kept.insert(name.into(), Made { revision: entry.revision, resources: resources.clone() });
        resources
    }
}

//! The name of one object: resource, namespace and name, in one ordered string.
//!
//! The form is that of Kubernetes' keys in etcd below `/registry`, so that lists come in the order users know:
//! `pods/default/web-1`, `deployments.apps/default/web`, `nodes/a`.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The key of an object in the replicated state. Cluster-scoped objects have an empty namespace.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key(Arc<str>);

impl Key {
    /// `resource` is the plural with its group, as in `deployments.apps`; an empty `namespace` means cluster scope.
    pub fn new(resource: &str, namespace: &str, name: &str) -> Self {
        if namespace.is_empty() { Self(format!("{resource}/{name}").into()) } else { Self(format!("{resource}/{namespace}/{name}").into()) }
    }

    /// Reads a key back from its stored form.
    pub fn parse(text: &str) -> Option<Self> {
        (2..=3).contains(&text.split('/').count()).then(|| Self(text.into()))
    }

    /// The prefix that all keys of a resource share, or of a resource in one namespace.
    pub fn prefix(resource: &str, namespace: &str) -> String {
        if namespace.is_empty() { format!("{resource}/") } else { format!("{resource}/{namespace}/") }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn resource(&self) -> &str {
        self.0.split('/').next().unwrap_or_default()
    }

    pub fn namespace(&self) -> &str {
        let mut parts = self.0.split('/');
        match (parts.next(), parts.next(), parts.next()) {
            (_, Some(namespace), Some(_)) => namespace,
            _ => "",
        }
    }

    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }
}

impl std::borrow::Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_into_its_parts() {
        let check = |key: Key, parts: [&str; 3]| assert_eq!([key.resource(), key.namespace(), key.name()], parts);
        check(Key::new("pods", "default", "web"), ["pods", "default", "web"]);
        check(Key::new("nodes", "", "a"), ["nodes", "", "a"]);
    }

    #[test]
    fn orders_as_etcd_orders() {
        assert!(Key::new("pods", "a-b", "x") < Key::new("pods", "a", "x"));
    }
}

//! The addresses of the Pods on this node, as the runtime gave them: known here before anybody else knows.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use skein_object::Key;
use tokio::sync::watch;

/// By Pod, its uid and address.
pub type Known = BTreeMap<Key, (String, Ipv4Addr)>;

/// A cheap clone.
#[derive(Clone, Debug, Default)]
pub struct Addresses(Arc<watch::Sender<Known>>);

impl Addresses {
    pub fn watch(&self) -> watch::Receiver<Known> {
        self.0.subscribe()
    }

    pub(crate) fn set(&self, pod: &Key, uid: &str, address: Ipv4Addr) {
        let new = (uid.to_string(), address);
        self.0.send_if_modified(|known| known.insert(pod.clone(), new.clone()) != Some(new));
    }

    /// The Pod has no address any more; another one of its name may have one by now.
    pub(crate) fn forget(&self, pod: &Key, uid: &str) {
        self.0.send_if_modified(|known| known.get(pod).is_some_and(|(known, _)| known == uid) && known.remove(pod).is_some());
    }
}

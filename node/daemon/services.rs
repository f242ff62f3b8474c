//! Keeps this node's Service rules true, and answers for their names: from the local replica, also without a quorum.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use skein_nft::{Parts, Rules};
use skein_object::Key;
use skein_service::plan::{Node, plan};
use skein_service::zone::Source;
use skein_service::{dns, table};
use skein_store::Handle;
use tracing::warn;

use crate::kept::Kept;
use crate::rules;

const SERVICES: &str = "services";
const SLICES: &str = "endpointslices.discovery.k8s.io";

/// After nft has refused; what is wrong is told once a while.
const RETRY: Duration = Duration::from_secs(5);

/// What names and rules are made of, shared with the DNS server.
struct Objects {
    services: Kept<Service>,
    slices: Kept<EndpointSlice>,
    /// The slices of each Service, by its key.
    slices_of: BTreeMap<Key, BTreeSet<Key>>,
    store: Handle,
}

// === impl Objects ===

impl Objects {
    fn new(store: Handle) -> Self {
        let view = store.local();
        let (services, slices) = (Kept::new(SERVICES, &view), Kept::<EndpointSlice>::new(SLICES, &view));
        let mut slices_of: BTreeMap<Key, BTreeSet<Key>> = BTreeMap::new();
        for (key, slice) in &slices.objects {
            slices_of.entry(service_of(slice)).or_default().insert(key.clone());
        }
        Self { services, slices, slices_of, store }
    }

    /// The Services that have changed, or whose slices have.
    fn observe(&mut self) -> BTreeSet<Key> {
        let mut changed: BTreeSet<Key> = self.services.observe(&self.store).into_iter().map(|(key, _)| key).collect();
        for (key, former) in self.slices.observe(&self.store) {
            if let Some(service) = former.as_ref().map(service_of) {
                if let Some(slices) = self.slices_of.get_mut(&service) {
                    slices.remove(&key);
                }
                changed.insert(service);
            }
            if let Some(service) = self.slices.objects.get(&key).map(service_of) {
                self.slices_of.entry(service.clone()).or_default().insert(key);
                changed.insert(service);
            }
        }
        for service in &changed {
            if self.slices_of.get(service).is_some_and(BTreeSet::is_empty) {
                self.slices_of.remove(service);
            }
        }
        changed
    }

    fn slices_of<'a>(&'a self, service: &Key) -> impl Iterator<Item = &'a EndpointSlice> + use<'a> {
        self.slices_of.get(service).into_iter().flatten().filter_map(|key| self.slices.objects.get(key))
    }

    /// The part of the table that is this Service's.
    fn rules(&self, node: &str, service: &Key) -> Rules {
        let slices: Vec<&EndpointSlice> = self.slices_of(service).collect();
        self.services.objects.get(service).map(|service| plan(&Node { name: node }, service, &slices)).unwrap_or_default()
    }
}

impl Source for Objects {
    fn service(&self, namespace: &str, name: &str) -> Option<&Service> {
        self.services.objects.get(&Key::new(SERVICES, namespace, name))
    }

    fn slices<'a>(&'a self, namespace: &'a str, service: &'a str) -> Box<dyn Iterator<Item = &'a EndpointSlice> + 'a> {
        Box::new(self.slices_of(&Key::new(SERVICES, namespace, service)))
    }

    fn has_namespace(&self, namespace: &str) -> bool {
        self.store.local().state.get(&Key::new("namespaces", "", namespace)).is_some()
    }

    fn services(&self) -> Box<dyn Iterator<Item = &Service> + '_> {
        Box::new(self.services.objects.values())
    }
}

/// The Service that a slice says it is of.
fn service_of(slice: &EndpointSlice) -> Key {
    let labels = slice.metadata.labels.as_ref();
    let name = labels.and_then(|labels| labels.get("kubernetes.io/service-name")).map_or("", String::as_str);
    Key::new(SERVICES, slice.metadata.namespace.as_deref().unwrap_or_default(), name)
}

async fn answer_names(bind: SocketAddr, objects: Arc<RwLock<Objects>>) {
    let names: dns::Names = Arc::new(move |ask| ask(&*objects.read().unwrap_or_else(PoisonError::into_inner)));
    loop {
        let served = dns::serve(dns::Options { bind, upstream: upstream(), names: Arc::clone(&names) }).await;
        if let Err(why) = served {
            warn!(%bind, %why, "DNS cannot be served on this node");
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// The node's own resolvers.
fn upstream() -> Vec<SocketAddr> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let servers = text.lines().filter_map(|line| line.strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok());
    servers.map(|ip| SocketAddr::new(ip, 53)).collect()
}

pub(crate) async fn run(store: Handle, node: String, dns: SocketAddr) {
    // Pods' packets pass through the node.
    if let Err(why) = std::fs::write("/proc/sys/net/ipv4/ip_forward", "1") {
        warn!(%why, "cannot switch on forwarding (net.ipv4.ip_forward): Pods reach only their own node");
    }
    let mut changes = store.subscribe(&[SERVICES, SLICES]);
    let objects = Objects::new(store);
    let mut stale: BTreeSet<Key> = objects.services.objects.keys().cloned().collect();
    let objects = Arc::new(RwLock::new(objects));
    tokio::spawn(answer_names(dns, Arc::clone(&objects)));
    let mut table = table();
    let mut holds = false;
    loop {
        stale.extend(objects.write().unwrap_or_else(PoisonError::into_inner).observe());
        if !stale.is_empty() || !holds {
            let parts: Parts = {
                let objects = objects.read().unwrap_or_else(PoisonError::into_inner);
                std::mem::take(&mut stale).into_iter().map(|service| (service.to_string(), objects.rules(&node, &service))).collect()
            };
            let Some(applied) = rules::apply(table, parts, "Services do not work on this node").await else { return };
            (table, holds) = applied;
            if !holds {
                continue;
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

//! Keeps this node's Service rules true, and answers for their names: from the local replica, also without a quorum.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
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

/// What names are made of, shared with the DNS server.
struct Objects {
    services: Kept<Service>,
    slices: Kept<EndpointSlice>,
    store: Handle,
}

// === impl Objects ===

impl Source for Objects {
    fn service(&self, namespace: &str, name: &str) -> Option<&Service> {
        self.services.objects.get(&Key::new(SERVICES, namespace, name))
    }

    fn slices<'a>(&'a self, namespace: &'a str, service: &'a str) -> Box<dyn Iterator<Item = &'a EndpointSlice> + 'a> {
        let of_namespace =
            self.slices.objects.range(Key::new(SLICES, namespace, "")..).take_while(move |(key, _)| key.namespace() == namespace);
        let of_service = move |slice: &&EndpointSlice| {
            let labels = slice.metadata.labels.as_ref();
            labels.and_then(|l| l.get("kubernetes.io/service-name")).is_some_and(|name| name == service)
        };
        Box::new(of_namespace.map(|(_, slice)| slice).filter(of_service))
    }

    fn has_namespace(&self, namespace: &str) -> bool {
        self.store.local().state.get(&Key::new("namespaces", "", namespace)).is_some()
    }

    fn services(&self) -> Box<dyn Iterator<Item = &Service> + '_> {
        Box::new(self.services.objects.values())
    }
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
    let view = store.local();
    let objects = Objects { services: Kept::new(SERVICES, &view), slices: Kept::new(SLICES, &view), store: store.clone() };
    let objects = Arc::new(RwLock::new(objects));
    tokio::spawn(answer_names(dns, Arc::clone(&objects)));
    let mut table = table();
    let mut changes = store.subscribe(&[SERVICES, SLICES]);
    let mut stale = true;
    loop {
        stale |= {
            let mut objects = objects.write().unwrap_or_else(PoisonError::into_inner);
            objects.services.observe(&store) | objects.slices.observe(&store)
        };
        if stale {
            let rules = {
                let objects = objects.read().unwrap_or_else(PoisonError::into_inner);
                plan(&Node { name: &node }, objects.services.objects.values(), objects.slices.objects.values())
            };
            let Some((back, holds)) = rules::apply(table, rules, "Services do not work on this node").await else { return };
            table = back;
            stale = !holds;
            if stale {
                continue;
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}
